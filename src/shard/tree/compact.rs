//! Merging the tables of a partition, so that they stay few and hold little that is void.
//!
//! One compaction at a time; what is merged next is [`crate::lsm::pick`]'s to say, and is asked
//! when something has changed. A task runs it and has the manifest say so, if all its inputs still
//! count then: a flush after a clear may have made them void.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::store::Store;
use super::{Error, Options, RETRY_DELAY};
use crate::env::{Class, Env};
use crate::id::{PartitionId, Timestamp};
use crate::lsm::compact::{self, TARGET_LEN, compact};
use crate::lsm::manifest::{Edit, State, TableEntry};
use crate::lsm::pace::{self, Pace};
use crate::lsm::pick::{Cursors, Job, Levels, Request, Shape, Void};
use crate::lsm::table::Table;
use crate::metrics::ShardStats;

/// How long after the last look it is asked again, though nothing has changed: rows expire.
const IDLE_DELAY: Duration = Duration::from_secs(10);

/// How long after the last flush level 0 is emptied though it has few runs. While flushes come one
/// after another each would have its partition's tables written anew: of all CPU of a core that
/// does nothing but overwrite, that took a tenth.
const QUIET_DELAY: Duration = Duration::from_secs(5);

/// How a run ended, once it has.
type End = Rc<RefCell<Option<Result<(), Error>>>>;

/// See the module's header.
pub struct Compaction<E: Env> {
    env: E,
    store: Store<E>,
    options: Options,
    numbers: Rc<Cell<u64>>,
    shape: Shape,
    /// By place, with the partition's number.
    cursors: Vec<(PartitionId, Cursors)>,
    /// The place that is asked first.
    next: usize,
    running: Option<End>,
    pace: Rc<Pace>,
    /// Tables have come or gone since it was asked.
    has_changed: bool,
    /// When it is asked again.
    ask_at: Duration,
    /// From when on nothing was flushed lately.
    quiet_from: Duration,
    /// Runs that have failed since the last that did not: each keeps the disk busy, and while it is
    /// full takes what room there is, so that the next comes later.
    failures: u32,
}

impl<E: Env> Compaction<E> {
    /// Of the tables of these partitions. `numbers`: the next file's.
    pub fn new(
        env: &E,
        store: Store<E>,
        options: &Options,
        numbers: Rc<Cell<u64>>,
        partitions: Vec<PartitionId>,
    ) -> Self {
        let flush_len = options.flush_from() / partitions.len().max(1) as u64;
        Self {
            env: env.clone(),
            store,
            options: options.clone(),
            numbers,
            shape: Shape::of_flushes(flush_len.max(1)),
            cursors: partitions.into_iter().map(|id| (id, Cursors::default())).collect(),
            next: 0,
            running: None,
            pace: Rc::default(),
            has_changed: true,
            ask_at: Duration::ZERO,
            quiet_from: Duration::ZERO,
            failures: 0,
        }
    }

    /// Tables have come or gone.
    pub fn note_change(&mut self) {
        self.has_changed = true;
    }

    /// A flush has brought a table.
    pub fn note_flush(&mut self) {
        self.has_changed = true;
        self.quiet_from = self.env.now() + QUIET_DELAY;
    }

    /// Whether anything is to be done now.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && !self.has_changed
    }

    /// Ends what is done. True: tables have come or gone.
    pub fn end(&mut self, stats: &ShardStats) -> bool {
        let Some(end) = self.running.as_ref().and_then(|end| end.borrow_mut().take()) else {
            return false;
        };
        self.running = None;
        self.has_changed = true;
        match end {
            Ok(()) => {
                stats.compactions.add(1);
                self.failures = 0;
            }
            Err(error) => {
                let shard = self.options.log.shard.0;
                // Once, and not for each of the tries to come.
                if self.failures == 0 {
                    tracing::error!(shard, %error, "compactions fail; trying again");
                }
                self.ask_at = self.env.now() + RETRY_DELAY * (1 << self.failures.min(3));
                self.failures += 1;
            }
        }
        true
    }

    /// Begins what is due. With a full disk nothing that would make room waits.
    pub fn begin(&mut self, is_disk_full: bool) {
        // The clock last: a turn comes by here while one is running.
        if self.running.is_some() || self.store.is_refused() {
            return;
        }
        let now = self.env.now();
        if now < self.ask_at {
            return;
        }
        let is_quiet = is_disk_full || now >= self.quiet_from;
        let void = Void { now_ms: self.env.unix_ms(), retain_from: Timestamp(u64::MAX) };
        let Some((partition, job)) = self.pick(void, is_quiet) else { return };
        let end = End::default();
        self.running = Some(Rc::clone(&end));
        let run = Run {
            env: self.env.clone(),
            store: self.store.clone(),
            options: self.options.clone(),
            numbers: Rc::clone(&self.numbers),
            partition,
            job,
            now_ms: void.now_ms,
            pace: Rc::clone(&self.pace),
        };
        let env = self.env.clone();
        self.env.spawn(Class::Background, async move {
            let ended = run.run().await;
            *end.borrow_mut() = Some(ended);
            env.notify();
        });
    }

    /// The next partition in turn that has something to do.
    fn pick(&mut self, void: Void, is_quiet: bool) -> Option<(PartitionId, Job)> {
        let count = self.cursors.len();
        for step in 0..count {
            let place = (self.next + step) % count;
            let (partition, cursors) = &mut self.cursors[place];
            let picked = self.store.look(|state| {
                let tables = state.tables_of(*partition).map(|entry| (entry.level, &entry.meta));
                let levels = Levels::new(tables);
                let (shape, running, idle) = (self.shape, &[], Some(void));
                Request { levels: &levels, shape, running, idle, is_quiet }.pick(cursors)
            });
            // The manifest is being written: there will be news.
            let picked = picked?;
            if let Some(job) = picked {
                self.next = place + 1;
                return Some((*partition, job));
            }
        }
        self.has_changed = false;
        self.ask_at = self.env.now();
        None
    }

    /// Asks again though nothing has changed, if that was long ago. `slowest_read`: of a row, since
    /// the last tick.
    pub fn tick(&mut self, slowest_read: Duration) {
        if self.running.is_some() {
            self.pace.adjust(slowest_read > pace::READ_MAX, self.debt());
        }
        self.has_changed |= self.env.now() > self.ask_at + IDLE_DELAY;
    }
}

impl<E: Env> Compaction<E> {
    /// Bytes to be merged until nothing is due.
    fn debt(&self) -> u64 {
        let of = |state: &State| {
            let debts = self.cursors.iter().map(|(partition, _)| {
                let tables = state.tables_of(*partition).map(|entry| (entry.level, &entry.meta));
                let levels = Levels::new(tables);
                let (shape, running) = (self.shape, &[]);
                Request { levels: &levels, shape, running, idle: None, is_quiet: false }.debt()
            });
            debts.sum()
        };
        self.store.look(of).unwrap_or(0)
    }
}

/// A compaction on its way.
struct Run<E: Env> {
    env: E,
    store: Store<E>,
    options: Options,
    numbers: Rc<Cell<u64>>,
    partition: PartitionId,
    job: Job,
    now_ms: u64,
    pace: Rc<Pace>,
}

impl<E: Env> Run<E> {
    async fn run(self) -> Result<(), Error> {
        let numbers: Vec<u64> = self.job.inputs.iter().map(|(_, number)| *number).collect();
        if self.job.is_move {
            return self.install(&numbers, None).await;
        }
        let mut named = Vec::new();
        match self.merge(&numbers, &mut named).await {
            Ok(outputs) => self.install(&numbers, Some(outputs)).await,
            Err(error) => {
                self.store.remove(&named).await;
                Err(error)
            }
        }
    }

    /// Writes the new tables; `named` has their numbers, whatever comes of it.
    async fn merge(&self, numbers: &[u64], named: &mut Vec<u64>) -> Result<Vec<TableEntry>, Error> {
        let inputs = self.store.tables(numbers).iter().map(|table| table.iter(&[])).collect();
        let options = compact::Options {
            log: self.options.log,
            compression: self.options.compression.at(self.job.is_bottom),
            // A run of level 0 is one table, since its place is told by its versions.
            target_len: if self.job.output_level == 0 { u64::MAX } else { TARGET_LEN },
            is_bottom: self.job.is_bottom,
            retain_from: Timestamp(u64::MAX),
            now_ms: self.now_ms,
        };
        let next_file = || -> (u64, PathBuf) {
            let number = self.numbers.replace(self.numbers.get() + 1);
            named.push(number);
            (number, self.store.path_of(number))
        };
        let outcome = compact(&self.env, inputs, &options, &self.pace, next_file).await?;
        self.store.sync_dir().await?;
        for meta in &outcome.tables {
            let path = self.store.path_of(meta.number);
            self.store.keep(Table::open(&self.env, &path, meta).await?);
        }
        let (partition, level) = (self.partition, self.job.output_level);
        let entries = outcome.tables.into_iter().map(|meta| TableEntry { partition, level, meta });
        Ok(entries.collect())
    }

    /// Has the manifest name the new tables, or the same in the other level, for the inputs, and
    /// removes what is not needed any more.
    async fn install(
        &self,
        numbers: &[u64],
        outputs: Option<Vec<TableEntry>>,
    ) -> Result<(), Error> {
        let is_move = outputs.is_none();
        let written = outputs.iter().flatten().map(|entry| entry.meta.number).collect::<Vec<_>>();
        let decide = |state: &State| {
            let moved =
                |entry: &TableEntry| TableEntry { level: self.job.output_level, ..entry.clone() };
            let inputs: Option<Vec<_>> = numbers.iter().map(|n| state.table(*n)).collect();
            let add = outputs.or_else(|| Some(inputs.as_ref()?.iter().map(|e| moved(e)).collect()));
            inputs?;
            Some(Edit { add: add?, remove: numbers.to_vec(), ..Edit::default() })
        };
        let void = match self.store.commit(decide).await? {
            true if is_move => Vec::new(),
            true => numbers.to_vec(),
            // The inputs do not count any more, so neither do the outputs.
            false => written,
        };
        self.store.remove(&void).await;
        Ok(())
    }
}
