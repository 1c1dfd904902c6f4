//! fjall: a thread per client, background threads as it likes.
//!
//! It has no direct I/O: what its cache does not hold, the page cache of the machine does, beyond
//! the memory that it was given. A synced write is an insert and then a sync of its journal.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use anyhow::{Result, anyhow};

use crate::report::Figures;
use crate::stage::{Stage, Tally};
use crate::workload::{
    Draw, Kind, MIXED_RATE, Run, Workload, cache_len, name_of, write_buffer_len,
};

/// Runs a workload on it.
///
/// # Errors
/// The engine's.
pub fn run(run: &Run) -> Result<Figures> {
    let begin = Instant::now();
    let database = Database::builder(&run.dir).cache_size(cache_len(run.memory)).open()?;
    let rows = database.keyspace("rows", || options(run))?;
    if run.workload.kind != Kind::Fill {
        rows.get(name_of(run.keys / 2))?.ok_or_else(|| anyhow!("the rows are gone"))?;
    }
    let mut sum = Tally::opened(begin.elapsed());
    let stage = Arc::new(Stage::default());
    let clients = spawn(run, &database, &rows, &stage);
    stage.ready();
    if run.workload.kind == Kind::Open {
        stage.stop();
    }
    let readings = stage.lead(run);
    for client in clients {
        sum.add(&client.join().map_err(|_| anyhow!("a client panicked"))??);
    }
    sum.figures(run, readings)
}

fn options(run: &Run) -> KeyspaceCreateOptions {
    let filter = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
    KeyspaceCreateOptions::default()
        .max_memtable_size(write_buffer_len(run.memory))
        .filter_policy(FilterPolicy::all(filter))
}

type Running = JoinHandle<Result<Tally>>;

fn spawn(run: &Run, database: &Database, rows: &Keyspace, stage: &Arc<Stage>) -> Vec<Running> {
    let Workload { kind, clients, .. } = run.workload;
    let writer = u32::from(kind == Kind::Mixed);
    let count = if matches!(kind, Kind::Settle | Kind::Open) { 0 } else { clients + writer };
    let client = |number| {
        let stage = Arc::clone(stage);
        let (database, rows, mut draw) = (database.clone(), rows.clone(), Draw::new(run, number));
        let keys = draw.all(run);
        let client = Client { database, rows, draw, stage, tally: Tally::default() };
        thread::spawn(move || match kind {
            Kind::Fill | Kind::Overwrite { sync: false } => client.write_all(keys),
            Kind::Overwrite { sync: true } => client.write_synced(),
            Kind::Mixed if number == 0 => client.write_at_rate(),
            _ => client.read(),
        })
    };
    (0..count).map(client).collect()
}

struct Client {
    database: Database,
    rows: Keyspace,
    draw: Draw,
    stage: Arc<Stage>,
    tally: Tally,
}

impl Client {
    fn write_all(mut self, keys: Vec<u32>) -> Result<Tally> {
        while !self.stage.is_measured() {
            thread::sleep(Duration::from_micros(100));
        }
        let mut begin = Instant::now();
        for key in keys {
            self.rows.insert(name_of(u64::from(key)), self.draw.value())?;
            self.note(&mut begin);
        }
        self.stage.stop();
        Ok(self.tally)
    }

    fn write_synced(mut self) -> Result<Tally> {
        let mut begin = Instant::now();
        while !self.stage.is_stopped() {
            let key = self.draw.key();
            self.rows.insert(name_of(key), self.draw.value())?;
            self.database.persist(PersistMode::SyncAll)?;
            self.note(&mut begin);
        }
        Ok(self.tally)
    }

    fn read(mut self) -> Result<Tally> {
        let mut begin = Instant::now();
        while !self.stage.is_stopped() {
            let found = self.rows.get(name_of(self.draw.key()))?;
            self.tally.missing += u64::from(found.is_none());
            self.note(&mut begin);
        }
        Ok(self.tally)
    }

    /// Beside the reads; not tallied.
    fn write_at_rate(mut self) -> Result<Tally> {
        let (begin, mut count) = (Instant::now(), 0);
        while !self.stage.is_stopped() {
            let due = begin.elapsed().as_micros() as u64 * MIXED_RATE / 1_000_000;
            while count < due {
                let key = self.draw.key();
                self.rows.insert(name_of(key), self.draw.value())?;
                count += 1;
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(self.tally)
    }

    /// One look at the clock per operation: where one ends, the next begins.
    fn note(&mut self, begin: &mut Instant) {
        let now = Instant::now();
        if self.stage.is_measured() {
            self.tally.note(now - *begin);
        }
        *begin = now;
    }
}
