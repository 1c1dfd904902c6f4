//! RocksDB: Debian's `db_bench`, a process per run, whose report is read.
//!
//! A timed benchmark is run twice in that process, the first time to warm up. When the report of
//! the first comes, the counters of the process are read, and again when that of the second does.
//! What it keeps of indexes and filters comes on top of the memory that it was given.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::meter::{Reading, disk_len};
use crate::report::Figures;
use crate::workload::{
    KEY_LEN, Kind, MIXED_RATE, ROW_LEN, Run, Skew, VALUE_LEN, cache_len, write_buffer_len,
    zipf_range,
};

/// More operations than can be done in the time.
const ENDLESS: u64 = 1 << 40;

/// Runs a workload on it.
///
/// # Errors
/// `db_bench` is missing, failed, or said something else.
pub fn run(run: &Run) -> Result<Figures> {
    let mut child = Command::new("db_bench")
        .args(flags(run))
        .args(benchmark(run))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("db_bench: install the package rocksdb-tools")?;
    let spoken = child.stdout.take().expect("it was asked for");
    let report = match run.workload.kind {
        Kind::Settle | Kind::Open => watch(&mut child, spoken)?,
        kind => listen(&child, spoken, if kind == Kind::Fill { 1 } else { 2 })?,
    };
    let ended = child.wait()?;
    ensure!(ended.success(), "db_bench: {ended}");
    figures(run, &report)
}

fn flags(run: &Run) -> Vec<String> {
    vec![
        format!("-db={}", run.dir.display()),
        format!("-num={}", run.keys),
        format!("-key_size={KEY_LEN}"),
        format!("-value_size={VALUE_LEN}"),
        format!("-seed={}", run.seed % 1_000_000_007),
        format!("-cache_size={}", cache_len(run.memory)),
        format!("-write_buffer_size={}", write_buffer_len(run.memory)),
        "-compression_ratio=1".into(),
        "-compression_type=none".into(),
        "-bloom_bits=10".into(),
        "-use_direct_reads=true".into(),
        "-use_direct_io_for_flush_and_compaction=true".into(),
        "-histogram=true".into(),
        "-report_open_timing=true".into(),
        "-ops_between_duration_checks=20".into(),
        format!("-use_existing_db={}", run.workload.kind != Kind::Fill),
        format!("-sync={}", run.workload.is_synced()),
        format!("-threads={}", run.workload.clients),
    ]
}

fn benchmark(run: &Run) -> Vec<String> {
    let twice = |name: &str, more: Vec<String>| {
        let mut flags = vec![
            format!("-benchmarks={name},{name}"),
            format!("-duration={}", run.span.as_secs().max(1)),
            format!("-reads={ENDLESS}"),
            format!("-writes={ENDLESS}"),
        ];
        flags.extend(more);
        flags
    };
    match run.workload.kind {
        Kind::Fill => vec!["-benchmarks=filluniquerandom".into()],
        Kind::Settle | Kind::Open => vec!["-benchmarks=waitforcompaction".into()],
        Kind::Overwrite { sync: true } => twice("overwrite", vec![]),
        // The read is there to tell when the database is open.
        Kind::Overwrite { sync: false } => vec![
            "-benchmarks=readrandom,overwrite".into(),
            "-reads=1".into(),
            format!("-writes={}", run.count().unwrap_or(0)),
        ],
        Kind::Read(Skew::Uniform) => twice("readrandom", vec![]),
        Kind::Read(Skew::Zipf) => {
            let range = format!("-read_random_exp_range={}", zipf_range(run.keys));
            twice("readrandom", vec![range])
        }
        Kind::Mixed => {
            let rate = format!("-benchmark_write_rate_limit={}", MIXED_RATE * ROW_LEN);
            twice("readwhilewriting", vec![rate])
        }
    }
}

/// What `db_bench` said last, and the counters before and after.
struct Report {
    ops: u64,
    seconds: f64,
    latency_us: Option<[f64; 3]>,
    open_ms: Option<f64>,
    is_whole: bool,
    readings: Vec<Reading>,
}

impl Report {
    fn new(child: &Child) -> Self {
        Self {
            ops: 0,
            seconds: 0.0,
            latency_us: None,
            open_ms: None,
            is_whole: true,
            readings: vec![Reading::of(child.id())],
        }
    }

    /// `overwrite : 8.1 micros/op 123 ops/sec 2.3 seconds 300 operations; ... (3 of 3 found)`,
    /// then `Percentiles: P50: 6.21 P75: 8.43 P99: 19.74 P99.9: 44.47 P99.99: 3233.33`.
    fn take(&mut self, line: &str, child: &Child) {
        let words: Vec<_> = line.split_whitespace().collect();
        let before = |word: &str| {
            let at = words.iter().position(|w| w.trim_end_matches(';') == word)?;
            words[at.checked_sub(1)?].trim_start_matches('(').parse::<f64>().ok()
        };
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at + 1)?.parse::<f64>().ok()
        };
        if let (Some(ops), Some(seconds)) = (before("operations"), before("seconds")) {
            (self.ops, self.seconds) = (ops as u64, seconds);
            if let (Some(found), Some(of)) = (before("of"), before("found)")) {
                self.is_whole &= found == of;
            }
        } else if let (Some(p50), Some(p99)) = (after("P50:"), after("P99:")) {
            self.latency_us = Some([p50, p99, after("P99.9:").unwrap_or(0.0)]);
            self.readings.push(Reading::of(child.id()));
        } else if line.starts_with("OpenDb:") {
            self.open_ms = after("OpenDb:");
        }
    }
}

/// Reads along until the report number `wanted` is there, then to the end.
fn listen(child: &Child, spoken: ChildStdout, wanted: usize) -> Result<Report> {
    let mut report = Report::new(child);
    for line in BufReader::new(spoken).lines() {
        report.take(&line?, child);
    }
    let reports = report.readings.len() - 1;
    ensure!(reports == wanted, "db_bench made {reports} reports, not {wanted}");
    ensure!(report.is_whole, "db_bench did not find all keys");
    Ok(report)
}

/// Looks at the counters until it ends by itself: the last ones count.
fn watch(child: &mut Child, spoken: ChildStdout) -> Result<Report> {
    let mut report = Report::new(child);
    let mut last = report.readings[0];
    while child.try_wait()?.is_none() {
        let reading = Reading::of(child.id());
        if reading.rss > 0 {
            last = reading;
        }
        sleep(Duration::from_millis(5));
    }
    for line in BufReader::new(spoken).lines() {
        report.take(&line?, child);
    }
    report.seconds = (last.at - report.readings[0].at).as_secs_f64();
    report.readings.push(last);
    Ok(report)
}

fn figures(run: &Run, report: &Report) -> Result<Figures> {
    let [.., begin, end] = report.readings[..] else { unreachable!("there are two at least") };
    let writes = matches!(run.workload.kind, Kind::Fill | Kind::Overwrite { .. });
    Ok(Figures {
        ops: report.ops,
        seconds: report.seconds,
        cpu_s: end.cpu_s - begin.cpu_s,
        latency_us: report.latency_us,
        written: end.written.saturating_sub(begin.written),
        read: end.read.saturating_sub(begin.read),
        user_bytes: if writes { report.ops * ROW_LEN } else { 0 },
        disk_bytes: disk_len(&run.dir),
        open_ms: report.open_ms,
        rss: end.rss,
        others: end.others_since(&begin),
    })
}
