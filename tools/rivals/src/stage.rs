//! How a run goes: open, warm up, measure, stop. The same for all engines that run in this process.
//!
//! The engine's own threads do the work and look at the [`Stage`]; this one sleeps, reads the
//! counters of the process at both ends, and puts together what they tallied.

use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use crate::meter::{Reading, disk_len};
use crate::report::Figures;
use crate::workload::{Kind, ROW_LEN, Run};

// What comes before is opening.
const READY: u8 = 1;
const MEASURED: u8 = 2;
const STOPPED: u8 = 3;

/// How long the disk must have been left alone for an engine to be settled (Stave looks every ten
/// seconds whether something is left to be merged while nothing is flushed), and how long at most
/// is waited for that.
const QUIET: Duration = Duration::from_secs(12);
const SETTLE_MAX: Duration = Duration::from_secs(300);

/// Where a run is.
#[derive(Default)]
pub struct Stage(AtomicU8);

impl Stage {
    /// The engine is open.
    pub fn ready(&self) {
        self.0.store(READY, Ordering::Release);
    }

    /// What is done now counts.
    pub fn is_measured(&self) -> bool {
        self.0.load(Ordering::Acquire) == MEASURED
    }

    /// Nothing new is begun.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire) == STOPPED
    }

    /// Nothing new is to be begun.
    pub fn stop(&self) {
        self.0.store(STOPPED, Ordering::Release);
    }

    fn wait(&self, stage: u8) {
        while self.0.load(Ordering::Acquire) < stage {
            sleep(Duration::from_micros(200));
        }
    }

    /// Takes the engine through its run and returns the counters at both ends of what counts.
    pub fn lead(&self, run: &Run) -> (Reading, Reading) {
        self.wait(READY);
        let is_still = matches!(run.workload.kind, Kind::Settle | Kind::Open);
        let is_timed = run.count().is_none() && !is_still;
        if is_timed {
            sleep(run.span);
        }
        let begin = Reading::own();
        let _ = self.0.compare_exchange(READY, MEASURED, Ordering::AcqRel, Ordering::Acquire);
        match run.workload.kind {
            Kind::Settle => settle(begin),
            _ if is_timed => sleep(run.span),
            _ => self.wait(STOPPED),
        }
        let end = Reading::own();
        self.stop();
        (begin, end)
    }
}

/// Waits until this process has left the disk alone for a while.
fn settle(begin: Reading) {
    let (mut last, mut since) = (begin.written, Instant::now());
    while since.elapsed() < QUIET && begin.at.elapsed() < SETTLE_MAX {
        sleep(Duration::from_millis(100));
        let written = Reading::own().written;
        if written != last {
            (last, since) = (written, Instant::now());
        }
    }
}

/// What the clients of an engine saw.
pub struct Tally {
    /// Nanoseconds.
    latencies: Histogram<u64>,
    /// Reads that found nothing: there should be none.
    pub missing: u64,
    /// From the call that opens to the first read that was answered.
    pub open: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        Self::opened(Duration::ZERO)
    }
}

impl Tally {
    /// Of an engine that took so long to open.
    pub fn opened(open: Duration) -> Self {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        let latencies = latencies.expect("bounds that the histogram allows");
        Self { latencies, missing: 0, open }
    }

    /// An operation ended.
    pub fn note(&mut self, took: Duration) {
        self.latencies.saturating_record(took.as_nanos() as u64);
    }

    /// Adds what another client saw.
    pub fn add(&mut self, other: &Self) {
        self.latencies += &other.latencies;
        self.missing += other.missing;
        self.open = self.open.max(other.open);
    }

    /// The figures of a run between two readings.
    ///
    /// # Errors
    /// A key was not found: the figures are worth nothing.
    pub fn figures(&self, run: &Run, (begin, end): (Reading, Reading)) -> Result<Figures> {
        ensure!(self.missing == 0, "{} keys were not found", self.missing);
        let quantile = |q| self.latencies.value_at_quantile(q) as f64 / 1000.0;
        let (ops, is_settle) = (self.latencies.len(), run.workload.kind == Kind::Settle);
        let writes = matches!(run.workload.kind, Kind::Fill | Kind::Overwrite { .. });
        Ok(Figures {
            ops,
            seconds: (end.at - begin.at).as_secs_f64(),
            cpu_s: end.cpu_s - begin.cpu_s,
            latency_us: (ops > 0).then(|| [0.5, 0.99, 0.999].map(quantile)),
            // What opening wrote belongs to settling.
            written: end.written - if is_settle { 0 } else { begin.written },
            read: end.read - begin.read,
            user_bytes: if writes { ops * ROW_LEN } else { 0 },
            disk_bytes: disk_len(&run.dir),
            open_ms: (!self.open.is_zero()).then_some(self.open.as_secs_f64() * 1000.0),
            rss: end.rss,
            others: end.others_since(&begin),
        })
    }
}
