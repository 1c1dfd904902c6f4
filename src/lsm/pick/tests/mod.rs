//! A tree without bytes: what jobs do to it, and what it costs.

use std::collections::BTreeMap;

use super::*;
use crate::id::ShardId;
use crate::lsm::block::Statistics;
use crate::wal::format::LogId;

mod loads;
mod properties;

/// Bytes of a row.
const ROW_LEN: u64 = 100;

/// A version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    key: u32,
    at: u64,
    is_delete: bool,
    /// Unix milliseconds; 0: none.
    expiry_ms: u64,
}

impl Row {
    fn put(key: u32, at: u64) -> Self {
        Self { key, at, is_delete: false, expiry_ms: 0 }
    }

    fn is_void(&self, now_ms: u64) -> bool {
        self.is_delete || (self.expiry_ms > 0 && self.expiry_ms <= now_ms)
    }
}

struct Table {
    level: u8,
    meta: Meta,
    rows: Vec<Row>,
}

/// See the module's header.
struct Tree {
    shape: Shape,
    /// Most rows of a table that a job makes.
    table_rows: usize,
    tables: BTreeMap<u64, Table>,
    number: u64,
    cursors: Cursors,
    running: Vec<Job>,
    now_ms: u64,
    flushed: u64,
    written: u64,
}

impl Tree {
    fn new(shape: Shape, table_rows: usize) -> Self {
        Self {
            shape,
            table_rows,
            tables: BTreeMap::new(),
            number: 0,
            cursors: Cursors::default(),
            running: Vec::new(),
            now_ms: 0,
            flushed: 0,
            written: 0,
        }
    }

    fn add(&mut self, level: u8, rows: Vec<Row>) {
        self.number += 1;
        let expiries = || rows.iter().map(|row| row.expiry_ms).filter(|expiry| *expiry > 0);
        let statistics = Statistics {
            row_count: rows.len() as u64,
            delete_count: rows.iter().filter(|row| row.is_delete).count() as u64,
            expiring_count: expiries().count() as u64,
            expiry_min_ms: expiries().min().unwrap_or(0),
            expiry_max_ms: expiries().max().unwrap_or(0),
            timestamp_min: Timestamp(rows.iter().map(|row| row.at).min().expect("rows")),
            timestamp_max: Timestamp(rows.iter().map(|row| row.at).max().expect("rows")),
            ..Statistics::default()
        };
        let key = |row: Option<&Row>| row.expect("rows").key.to_be_bytes().to_vec();
        let meta = Meta {
            log: LogId { directory: 1, shard: ShardId(0) },
            number: self.number,
            origin: None,
            file_len: rows.len() as u64 * ROW_LEN,
            checksum: self.number,
            statistics,
            smallest: key(rows.first()),
            largest: key(rows.last()),
        };
        self.tables.insert(self.number, Table { level, meta, rows });
    }

    /// Newer than all that is there.
    fn flush(&mut self, mut rows: Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        merge(&mut rows);
        self.flushed += rows.len() as u64;
        self.written += rows.len() as u64;
        self.add(0, rows);
    }

    fn levels(&self) -> Levels<'_> {
        Levels::new(self.tables.values().map(|table| (table.level, &table.meta)))
    }

    fn ask<T>(&self, idle: bool, ask: impl FnOnce(&Request<'_>) -> T) -> T {
        let void = Void { now_ms: self.now_ms, retain_from: Timestamp(u64::MAX) };
        let idle = idle.then_some(void);
        let (levels, running) = (self.levels(), &self.running);
        ask(&Request { levels: &levels, shape: self.shape, running, idle, is_quiet: true })
    }

    fn debt(&self) -> u64 {
        self.ask(false, |request| request.debt())
    }

    /// Begins a job, if there is one.
    fn begin(&mut self, idle: bool) -> bool {
        let mut cursors = self.cursors.clone();
        let job = self.ask(idle, |request| request.pick(&mut cursors));
        self.cursors = cursors;
        self.running.extend(job.clone());
        job.is_some()
    }

    /// Ends a job that is under way.
    fn end(&mut self, index: usize) -> Job {
        let job = self.running.swap_remove(index);
        let mut rows = Vec::new();
        for (level, number) in &job.inputs {
            let table = self.tables.get_mut(number).expect("a job is made of tables");
            assert_eq!(table.level, *level);
            if job.is_move {
                table.level = job.output_level;
            } else {
                rows.extend(self.tables.remove(number).expect("just seen").rows);
            }
        }
        merge(&mut rows);
        if job.is_bottom {
            rows.retain(|row| !row.is_void(self.now_ms));
        }
        self.written += rows.len() as u64;
        // Level 0 has runs of one table.
        let most = if job.output_level == 0 { usize::MAX } else { self.table_rows };
        for rows in rows.chunks(most) {
            self.add(job.output_level, rows.to_vec());
        }
        job
    }

    /// All jobs, one after the other; how many.
    fn run(&mut self, idle: bool) -> usize {
        let mut count = 0;
        while self.begin(idle) {
            self.end(0);
            count += 1;
            assert!(count < 10_000, "jobs without an end");
        }
        count
    }

    fn row_count(&self) -> u64 {
        self.tables.values().map(|table| table.rows.len() as u64).sum()
    }

    /// What a reader sees, who stops at the first level, or run, that has the key.
    fn seen(&self) -> BTreeMap<u32, Row> {
        let mut seen = BTreeMap::new();
        let levels = self.levels();
        for table in (0..LEVEL_COUNT).flat_map(|level| levels.tables(level)) {
            for row in &self.tables[&table.number].rows {
                seen.entry(row.key).or_insert(*row);
            }
        }
        seen.retain(|_, row| !row.is_void(self.now_ms));
        seen
    }
}

/// The newest version of each key, by key.
fn merge(rows: &mut Vec<Row>) {
    rows.sort_by_key(|row| (row.key, Reverse(row.at)));
    rows.dedup_by_key(|row| row.key);
}
