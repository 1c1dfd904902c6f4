//! What an inspection prints: a line per thing, for people or as JSON.
//!
//! The fields of the JSON objects are those of [`Line`], and `type` is its variant. Fields are
//! added, never removed.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::id::Timestamp;
use crate::lsm::key::{PREFIX_LEN, db_of, decode_user_key};
use crate::mvcc::{Effect, Logged};

/// Bytes of a key that are shown.
const KEY_SHOWN_MAX: usize = 64;

/// See the module's header. Places are bytes from the start of a file, but for `lsn` and `durable`.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(in crate::cli) enum Line<'a> {
    /// A log begins.
    Log { shard: u16, dir: &'a Path },
    /// It goes on in this file, whose header is sound.
    Segment { file: &'a str, bytes: u64, lsn: u64, durable: u64, epoch: u64 },
    /// A sound block.
    Block { offset: u64, bytes: usize, lsn: u64, durable: u64, records: u32 },
    /// A record of it: an entry of a partition's Raft log. Its effects follow.
    Entry { offset: u64, bytes: usize, partition: u32, term: u64, index: u64 },
    /// A partition's term, vote and commit index.
    HardState { offset: u64, partition: u32, term: u64, vote: u64, commit: u64 },
    /// Piece of a large value, or of an entry's effects.
    Blob { offset: u64, bytes: usize, blob: u64, at: u64 },
    /// The key has a value from now on.
    Put {
        #[serde(flatten)]
        key: Key,
        value_len: u64,
        /// Where its bytes are, if not here.
        blob: Option<u64>,
        expiry_ms: Option<u64>,
        timestamp: u64,
    },
    /// The key is gone.
    Delete {
        #[serde(flatten)]
        key: Key,
        timestamp: u64,
    },
    /// All keys of the partition are gone.
    Clear { timestamp: u64 },
    /// The entry's effects are in a blob.
    Elsewhere { blob: u64, bytes: u64, timestamp: u64 },
    /// From this byte of the entry on there is no effect, though the checksum is right.
    Malformed { at: usize },
    /// The log goes on in a file that is not printed.
    Next { file: &'a str },
    /// The log ends at this byte.
    End { file: &'a str, offset: u64 },
    /// Bytes behind the end: of no log, for ever.
    Void { file: &'a str, from: u64, to: u64, is_zero: bool },
    /// A table: what its footer says of the file.
    Table { number: u64, shard: u16, log_id: String, bytes: u64, compression: String, format: u32 },
    /// What rows it has.
    Rows {
        rows: u64,
        puts: u64,
        deletes: u64,
        expiring: u64,
        timestamp_min: u64,
        timestamp_max: u64,
        expiry_min_ms: u64,
        expiry_max_ms: u64,
        key_bytes: u64,
        value_bytes: u64,
        large_bytes: u64,
    },
    /// A sound part of a table.
    Part { kind: &'static str, offset: u64, bytes: usize, raw_bytes: usize, count: u32 },
    /// All of a table that was read.
    SoundTable { bytes: u64, parts: u64 },
    /// A manifest begins, whose first record is sound.
    Manifest { file: &'a str, shard: u16, log_id: String, bytes: u64 },
    /// A sound record of it.
    Record { kind: &'static str, number: u64, offset: u64, bytes: usize },
    /// What holds for the shard from then on.
    Shard { number_next: u64, blob_last: u64, log_from: u64 },
    /// How far a partition is in its tables from then on.
    Partition {
        partition: u32,
        index: u64,
        index_term: u64,
        term: u64,
        vote: u64,
        flushed: u64,
        clock: u64,
        log_from: u64,
    },
    /// About how many keys a partition has.
    Keys { partition: u32, db: u8, keys: u64, expiring: u64 },
    /// A table counts no more.
    Remove { number: u64 },
    /// A table counts.
    Add {
        number: u64,
        partition: u32,
        level: u8,
        bytes: u64,
        rows: u64,
        checksum: String,
        origin: Option<String>,
        smallest: Option<Key>,
        largest: Option<Key>,
    },
    /// Bytes behind the last record, of an edit that nobody was told of.
    Torn { from: u64, to: u64 },
    /// All records are right, and the tables are there if that was asked.
    SoundManifest { seq: u64, tables: usize, bytes: u64, number_next: u64, log_from: u64 },
    /// All that was read.
    Sound { lsn: u64, durable: u64, epoch: u64, segments: usize, blocks: u64, records: u64 },
    /// A server would not start on this log.
    Refused { error: String },
}

/// The key of an effect.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Key {
    /// Escaped, and cut if it is long.
    key: String,
    key_len: usize,
    db: u8,
    slot: u16,
}

impl Key {
    pub(in crate::cli) fn of(encoded: &[u8]) -> Option<Self> {
        let user_key = decode_user_key(encoded)?;
        let shown = &user_key[..user_key.len().min(KEY_SHOWN_MAX)];
        let dots = if shown.len() < user_key.len() { "..." } else { "" };
        let slot = u16::from_be_bytes([encoded[PREFIX_LEN - 3], encoded[PREFIX_LEN - 2]]);
        let key = format!("{}{dots}", shown.escape_ascii());
        Some(Self { key, key_len: user_key.len(), db: db_of(encoded), slot })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, key_len, db, slot } = self;
        write!(f, "\"{key}\"  {key_len} bytes  db {db}  slot {slot}")
    }
}

impl Line<'_> {
    /// What an entry does at its byte `at`.
    pub(in crate::cli) fn of_effect(effect: &Effect<'_>, at: usize) -> Self {
        let timestamp = effect.timestamp().0;
        let key = effect.key().map(Key::of);
        match (*effect, key) {
            (_, Some(None)) => Self::Malformed { at },
            (Effect::Put { value, expiry_ms, .. }, Some(Some(key))) => {
                let (value_len, blob) = match value {
                    Logged::Inline(bytes) => (bytes.len() as u64, None),
                    Logged::Blob(blob) => (blob.len, Some(blob.id)),
                };
                Self::Put { key, value_len, blob, expiry_ms, timestamp }
            }
            (Effect::Delete { .. }, Some(Some(key))) => Self::Delete { key, timestamp },
            (Effect::Elsewhere { blob, .. }, _) => {
                Self::Elsewhere { blob: blob.id, bytes: blob.len, timestamp }
            }
            _ => Self::Clear { timestamp },
        }
    }
}

/// Unix milliseconds and what orders versions within one.
struct At(u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}.{}", Timestamp(self.0).ms(), self.0 & 0xFFFF)
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log { shard, dir } => write!(f, "log of shard {shard} in {}", dir.display()),
            Self::Segment { file, bytes, lsn, durable, epoch } => write!(
                f,
                "segment {file}  {bytes} bytes  lsn {lsn}  durable {durable}  epoch {epoch}  \
                 header sound"
            ),
            Self::Block { offset, bytes, lsn, durable, records } => write!(
                f,
                "  block at {offset}  {bytes} bytes  lsn {lsn}  durable {durable}  \
                 {records} records  sound"
            ),
            Self::Entry { offset, bytes, partition, term, index } => write!(
                f,
                "    entry at {offset}  partition {partition}  term {term}  index {index}  \
                 {bytes} bytes"
            ),
            Self::HardState { offset, partition, term, vote, commit } => write!(
                f,
                "    hard state at {offset}  partition {partition}  term {term}  vote {vote}  \
                 commit {commit}"
            ),
            Self::Blob { offset, bytes, blob, at } => {
                write!(f, "    blob {blob} at {offset}  {bytes} bytes from its byte {at} on")
            }
            Self::Next { file } => write!(f, "the log goes on in {file}"),
            Self::End { file, offset } => write!(f, "end of the log at {offset} of {file}"),
            Self::Void { file, from, to, is_zero } => {
                let what = if *is_zero { "zeroes" } else { "what a crash or an older use left" };
                write!(f, "void from {from} to {to} of {file}: {what}")
            }
            Self::Sound { lsn, durable, epoch, segments, blocks, records } => write!(
                f,
                "sound up to lsn {lsn}, durable {durable} by its own proof, epoch {epoch}: \
                 {segments} segments, {blocks} blocks, {records} records"
            ),
            Self::Refused { error } => write!(f, "refused: {error}"),
            Self::Put { .. } | Self::Delete { .. } | Self::Clear { .. } => self.fmt_effect(f),
            Self::Elsewhere { .. } | Self::Malformed { .. } => self.fmt_effect(f),
            Self::Manifest { .. } | Self::Record { .. } | Self::Shard { .. } => {
                self.fmt_manifest(f)
            }
            Self::Partition { .. } | Self::Keys { .. } => self.fmt_manifest(f),
            Self::Remove { .. } | Self::Add { .. } => self.fmt_manifest(f),
            Self::Torn { .. } | Self::SoundManifest { .. } => self.fmt_manifest(f),
            table => table.fmt_table(f),
        }
    }
}

impl Line<'_> {
    fn fmt_effect(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value_len, blob, expiry_ms, timestamp } => {
                write!(f, "      put {key}  value {value_len} bytes")?;
                if let Some(blob) = blob {
                    write!(f, " in blob {blob}")?;
                }
                if let Some(expiry_ms) = expiry_ms {
                    write!(f, "  expires {expiry_ms}")?;
                }
                write!(f, "  {}", At(*timestamp))
            }
            Self::Delete { key, timestamp } => write!(f, "      delete {key}  {}", At(*timestamp)),
            Self::Clear { timestamp } => write!(f, "      clear  {}", At(*timestamp)),
            Self::Elsewhere { blob, bytes, timestamp } => {
                write!(f, "      effects in blob {blob}  {bytes} bytes  {}", At(*timestamp))
            }
            Self::Malformed { at } => write!(f, "      malformed at byte {at} of the entry"),
            other => unreachable!("no effect: {other:?}"),
        }
    }
}

impl Line<'_> {
    fn fmt_manifest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest { file, shard, log_id, bytes } => {
                write!(f, "manifest {file} of shard {shard}  log {log_id}  {bytes} bytes")
            }
            Self::Record { kind, number, offset, bytes } => {
                write!(f, "  {kind} {number} at {offset}  {bytes} bytes  sound")
            }
            Self::Shard { number_next, blob_last, log_from } => write!(
                f,
                "    shard: next file {number_next}  last blob {blob_last}  log needed from LSN \
                 {log_from}"
            ),
            Self::Partition {
                partition,
                index,
                index_term,
                term,
                vote,
                flushed,
                clock,
                log_from,
            } => {
                write!(
                    f,
                    "    partition {partition}: applied index {index} of term {index_term}  term \
                     {term}  vote {vote}  flushed {}  clock {}",
                    At(*flushed),
                    At(*clock),
                )?;
                match log_from {
                    0 => Ok(()),
                    lsn => write!(f, "  log void up to LSN {lsn}"),
                }
            }
            Self::Keys { partition, db, keys, expiring } => {
                write!(f, "    partition {partition}  db {db}  keys {keys}  expiring {expiring}")
            }
            Self::Remove { number } => write!(f, "    remove table {number}"),
            Self::Add {
                number,
                partition,
                level,
                bytes,
                rows,
                checksum,
                origin,
                smallest,
                largest,
            } => {
                write!(f, "    add table {number}  partition {partition}  level {level}  ")?;
                write!(f, "{bytes} bytes  {rows} rows  checksum {checksum}")?;
                origin.iter().try_for_each(|origin| write!(f, "  written as {origin}"))?;
                let keys = smallest.iter().chain(largest);
                keys.into_iter().try_for_each(|key| write!(f, "  {key}"))
            }
            Self::Torn { from, to } => write!(f, "torn: bytes {from} to {to}, of no record"),
            Self::SoundManifest { seq, tables, bytes, number_next, log_from } => write!(
                f,
                "sound: manifest {seq}  {tables} tables of {bytes} bytes  next file {number_next}  \
                 log needed from LSN {log_from}"
            ),
            other => unreachable!("of no manifest: {other:?}"),
        }
    }

    fn fmt_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { number, shard, log_id, bytes, compression, format } => write!(
                f,
                "table {number} of shard {shard}  log {log_id}  {bytes} bytes  \
                 compression {compression}  format {format}  footer sound"
            ),
            Self::Rows {
                rows,
                puts,
                deletes,
                expiring,
                timestamp_min,
                timestamp_max,
                expiry_min_ms,
                expiry_max_ms,
                key_bytes,
                value_bytes,
                large_bytes,
            } => write!(
                f,
                "rows {rows}: {puts} puts, {deletes} deletes, {expiring} expire from \
                 {expiry_min_ms} to {expiry_max_ms}  {} to {}  keys {key_bytes} bytes  \
                 values {value_bytes} bytes, {large_bytes} of them large",
                At(*timestamp_min),
                At(*timestamp_max),
            ),
            Self::Part { kind, offset, bytes, raw_bytes, count } => {
                write!(f, "  {kind} at {offset}  {bytes} bytes  raw {raw_bytes}  ")?;
                write!(f, "count {count}  sound")
            }
            Self::SoundTable { bytes, parts } => {
                write!(f, "sound: {bytes} bytes, {parts} parts")
            }
            other => unreachable!("of no table: {other:?}"),
        }
    }
}

/// Where lines go.
pub(in crate::cli) struct Printer<'a> {
    to: To<'a>,
    /// What the first line that could not be printed met; no other is tried.
    failure: Option<io::Error>,
}

enum To<'a> {
    Text(&'a mut dyn Write),
    Json(&'a mut dyn Write),
    Listener(&'a mut dyn FnMut(&Line<'_>)),
}

impl<'a> Printer<'a> {
    pub(in crate::cli) fn new(out: &'a mut dyn Write, json: bool) -> Self {
        Self { to: if json { To::Json(out) } else { To::Text(out) }, failure: None }
    }

    /// Of one who prints nothing and looks at the lines.
    pub(in crate::cli) fn listener(listener: &'a mut dyn FnMut(&Line<'_>)) -> Self {
        Self { to: To::Listener(listener), failure: None }
    }

    /// Prints a line, unless one before could not be printed: see [`Printer::check`].
    pub(in crate::cli) fn line(&mut self, line: &Line<'_>) {
        if self.failure.is_some() {
            return;
        }
        let printed = match &mut self.to {
            To::Text(out) => writeln!(out, "{line}"),
            To::Json(out) => serde_json::to_writer(&mut *out, line)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
            To::Listener(listener) => {
                listener(line);
                Ok(())
            }
        };
        self.failure = printed.err();
    }

    /// # Errors
    /// Why a line could not be printed, once.
    pub(in crate::cli) fn check(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }
}
