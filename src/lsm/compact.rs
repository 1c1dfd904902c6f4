//! A compaction's run: rows of some tables in order, those that no read can want left out, into
//! new tables.
//!
//! What is kept of a key: the versions newer than `retain_from`, and the newest of the rest, unless
//! that says that the key is gone and nothing below it says otherwise. So every read at
//! `retain_from` or later finds what it did before.
//!
//! ```text
//! newest version <= retain_from    above the bottom    at the bottom
//! put                              kept                kept
//! put, expired                     a tombstone         dropped
//! tombstone                        kept                dropped
//! ```
//!
//! Versions of one key never straddle two tables. Others run every 100 us or so ([`Writer::add`]).
//!
//! Not here: which tables are compacted, and when; replacing them (the manifest).

use std::path::PathBuf;

use super::block::{Compression, Kind, Meta, Row, Value};
use super::merge::Merge;
use super::pace::Pace;
use super::table::{Error, Iter, Options as TableOptions, Writer};
use crate::env::Env;
use crate::id::Timestamp;
use crate::wal::format::LogId;

/// Bytes of a table, more or less.
pub const TARGET_LEN: u64 = 64 << 20;

/// Bytes of rows between two looks at the pace.
const PACED_LEN: u64 = 64 << 10;

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The log of the shard that runs it.
    pub log: LogId,
    /// How the new tables store rows.
    pub compression: Compression,
    /// A table is finished when it has so many bytes: [`TARGET_LEN`].
    pub target_len: u64,
    /// No older version of any of these keys is in a table that is not an input.
    pub is_bottom: bool,
    /// The oldest time at which anyone will read.
    pub retain_from: Timestamp,
    /// Puts whose deadline is not after this are expired for every read to come, unix milliseconds.
    pub now_ms: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The new tables in order; none if no row was kept.
    pub tables: Vec<Meta>,
    /// Rows of the inputs.
    pub rows_read: u64,
    /// Rows of the new tables.
    pub rows_written: u64,
    /// Versions that a newer one hides from every read.
    pub hidden_count: u64,
    /// Tombstones that hid nothing any more.
    pub tombstones_dropped: u64,
    /// Puts that expired: dropped, or made tombstones.
    pub expired_count: u64,
}

/// Runs a compaction of `inputs`, whose rows come in the order of [`Merge`], as fast as `pace`
/// lets it. Each new file is
/// `next_file`'s to number and to name. Synced when this ends; the caller syncs the directory, and
/// on an error removes what was named.
///
/// # Errors
/// As the disk's; a table is damaged. The inputs are as they were.
pub async fn compact<E: Env>(
    env: &E,
    inputs: Vec<Iter<E>>,
    options: &Options,
    pace: &Pace,
    next_file: impl FnMut() -> (u64, PathBuf),
) -> Result<Outcome, Error> {
    let mut merge = Merge::new(inputs.into_iter().map(Iter::eager).collect());
    let mut sieve = Sieve::new(options);
    let mut outputs = Outputs { env, options, next_file, writer: None, tables: Vec::new() };
    let mut taken = 0;
    while merge.advance().await? {
        if taken >= PACED_LEN {
            pace.take(env, taken).await;
            taken = 0;
        }
        let Some(row) = merge.row() else { break };
        taken += row.key.len() as u64 + len_of(&row.value);
        let Some(kept) = sieve.pass(&row) else { continue };
        let writer = outputs.writer_for(&kept).await?;
        match kept.value {
            Value::Bytes(_) => writer.add(&kept).await?,
            Value::Large(_) => writer.add_large(&kept, merge.table()).await?,
        }
        sieve.outcome.rows_written += 1;
    }
    let tables = outputs.finish().await?;
    Ok(Outcome { tables, ..sieve.outcome })
}

fn len_of(value: &Value<'_>) -> u64 {
    match value {
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::Large(large) => large.len,
    }
}

/// Which rows are kept. Pure.
struct Sieve<'a> {
    options: &'a Options,
    /// The key of the last row, and its version.
    key: Vec<u8>,
    last: Option<Timestamp>,
    /// A version of that key that every read finds was met: what follows is hidden.
    is_settled: bool,
    outcome: Outcome,
}

impl<'a> Sieve<'a> {
    fn new(options: &'a Options) -> Self {
        let (key, outcome) = Default::default();
        Self { options, key, last: None, is_settled: false, outcome }
    }

    /// The row as it is kept; none if it is not.
    fn pass<'r>(&mut self, row: &Row<'r>) -> Option<Row<'r>> {
        self.outcome.rows_read += 1;
        let is_same_key = self.last.is_some() && self.key == row.key;
        if !is_same_key {
            self.key.clear();
            self.key.extend_from_slice(row.key);
            self.is_settled = false;
        }
        // The same version from two tables, as after an interrupted run, is one.
        let is_twin = is_same_key && self.last == Some(row.timestamp);
        self.last = Some(row.timestamp);
        if self.is_settled || is_twin {
            self.outcome.hidden_count += 1;
            return None;
        }
        if row.timestamp > self.options.retain_from {
            return Some(*row);
        }
        self.is_settled = true;
        self.settled(row)
    }

    /// As [`Sieve::pass`], of the newest version that every read finds.
    fn settled<'r>(&mut self, row: &Row<'r>) -> Option<Row<'r>> {
        let is_expired = row.expiry_ms.is_some_and(|at| at <= self.options.now_ms);
        let is_gone = is_expired || row.kind == Kind::Delete;
        self.outcome.expired_count += u64::from(is_expired);
        match (is_gone, self.options.is_bottom) {
            (false, _) => Some(*row),
            (true, true) => {
                self.outcome.tombstones_dropped += u64::from(row.kind == Kind::Delete);
                None
            }
            (true, false) => {
                let (kind, value) = (Kind::Delete, Value::Bytes(&[]));
                Some(Row { kind, expiry_ms: None, value, ..*row })
            }
        }
    }
}

/// The new tables, one after the other.
struct Outputs<'a, E: Env, F> {
    env: &'a E,
    options: &'a Options,
    next_file: F,
    writer: Option<Writer<E>>,
    tables: Vec<Meta>,
}

impl<E: Env, F: FnMut() -> (u64, PathBuf)> Outputs<'_, E, F> {
    /// The table that a row goes to.
    async fn writer_for(&mut self, row: &Row<'_>) -> Result<&mut Writer<E>, Error> {
        let is_full = self.writer.as_ref().is_some_and(|writer| {
            let large_len = if let Value::Large(large) = row.value { large.len } else { 0 };
            writer.file_len() + large_len >= self.options.target_len && writer.last_key() != row.key
        });
        if is_full {
            self.end_table().await?;
        }
        if self.writer.is_none() {
            let (number, path) = (self.next_file)();
            let Options { log, compression, .. } = *self.options;
            let options = TableOptions { log, number, compression };
            self.writer = Some(Writer::create(self.env, &path, options).await?);
        }
        Ok(self.writer.as_mut().expect("made above"))
    }

    async fn end_table(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.tables.push(writer.finish().await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<Meta>, Error> {
        self.end_table().await?;
        Ok(self.tables)
    }
}
