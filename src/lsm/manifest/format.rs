//! The manifest as bytes; pure.
//!
//! ```text
//! manifest  := record+                 {seq:020}.manifest; whole sectors
//! record    := checksum:u64 magic:u32 version:u16 kind:u16 shard:u16 zero:u16 body_len:u32
//!              log_id:u128 seq:u64 number:u64 chain:u64 | body[body_len] | zero to the sector
//! kind      := 1 snapshot: the first record of a file, an edit of an empty state; 2 edit
//! body      := shard? partition_count:u32 remove_count:u32 add_count:u32 keys_count:u32
//!              partition* remove* add* keys*
//! shard     := has:u64 number_next:u64 blob_last:u64 log_from:u64      zeroes if has is 0
//! partition := id:u32 roster_len:u32 index:u64 index_term:u64 term:u64 vote:u64 flushed:u64
//!              clock:u64 log_from:u64 sessions_len:u64 floor_term:u64 floor_index:u64
//!              | roster[roster_len] sessions[sessions_len]
//! remove    := number:u64
//! add       := partition:u32 level:u8 has_origin:u8 zero[2] number:u64 file_len:u64 checksum:u64
//!              rows:u64 puts:u64 deletes:u64 expiring:u64 timestamp_min:u64 timestamp_max:u64
//!              expiry_min_ms:u64 expiry_max_ms:u64 key_len:u64 value_len:u64 large_len:u64
//!              smallest_len:u32 largest_len:u32 smallest[smallest_len] largest[largest_len]
//!              origin?
//! origin    := shard:u64 number:u64 log_id:u128         there if has_origin is 1
//! keys      := partition:u32 db:u32 keys:u64 expiring:u64
//! ```
//!
//! Version 1 has no keys: their count is 0. Before version 3 there is no `log_from`, which is 0,
//! and no table has an origin. Before version 4 no partition has a roster: who has replicas of it,
//! as [`crate::partition`] encodes it. Before version 5 there is no `sessions_len`, which is 0:
//! what clients were told, encoded there too. Before version 6 there is no floor, which is zeroes.
//!
//! Little-endian. `seq` is the file's number, `number` that of the record in it, from 0; `chain` is
//! the checksum of the record before, 0 for the first. `checksum` is xxh3-64 of all that follows it
//! to the end of the record's last sector: no byte is outside a checksum, and a record is valid in
//! its own place in its own file alone.
//!
//! Frozen: to change a field, raise [`VERSION`] and keep the old decoder. Every version keeps the
//! first 16 bytes of a record and what its checksum covers, so that each can name the other.
//!
//! Why plain fields and not an archive of rkyv's, as the charter has it: an edit is a hundred bytes
//! and read once per start, so that there is nothing to gain from reading in place; and its layout
//! would be that crate's, version by version, where this must be readable for ever.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::{Edit, Keys, PartitionState, ShardState, TableEntry};
use crate::codec::Fields;
use crate::id::{Lsn, PartitionId, ShardId, Timestamp};
use crate::limits::SECTOR_LEN;
use crate::lsm::block::{Meta, Origin, Statistics};
use crate::wal::format::LogId;

/// The version this program writes.
pub const VERSION: u16 = 6;
/// The oldest that it reads.
const VERSION_MIN: u16 = 1;
/// From this version on tables may come from elsewhere.
const VERSION_ORIGIN: u16 = 3;
/// From this version on it is kept what clients were told.
const VERSION_SESSIONS: u16 = 5;
/// From this version on replicas may be vacant.
const VERSION_FLOOR: u16 = 6;
/// Bytes before a record's body.
pub const HEADER_LEN: usize = CHAIN.end;
/// Longest record: more tables than a shard can have open.
pub const RECORD_LEN_MAX: usize = 256 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"SMAN");

const CHECKSUM: Range<usize> = 0..8;
const MAGIC_AT: Range<usize> = 8..12;
const VERSION_AT: Range<usize> = 12..14;
const KIND: Range<usize> = 14..16;
const SHARD: Range<usize> = 16..18;
const BODY_LEN: Range<usize> = 20..24;
const LOG_ID: Range<usize> = 24..40;
const SEQ: Range<usize> = 40..48;
const NUMBER: Range<usize> = 48..56;
const CHAIN: Range<usize> = 56..64;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// The first of a file.
    Snapshot = 1,
    /// Any other.
    Edit = 2,
}

/// What a record says besides its edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Whose manifest.
    pub log: LogId,
    /// The file's number.
    pub seq: u64,
    /// Its own number in the file.
    pub number: u64,
    /// Checksum of the record before.
    pub chain: u64,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not one, or damaged.
    Invalid,
    /// Sound, and of a version that this program does not know.
    Version(u16),
    /// Sound by its checksum, and yet not what this program writes.
    Malformed,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub header: Header,
    /// What it says.
    pub edit: Edit,
    /// Its checksum: the next one's chain.
    pub checksum: u64,
    /// Bytes of it, whole sectors.
    pub len: usize,
}

/// Bytes of the record that begins here, as far as its first bytes can be believed.
pub fn record_len(bytes: &[u8]) -> Option<usize> {
    let magic = bytes.get(MAGIC_AT)? == MAGIC.to_le_bytes();
    let len = HEADER_LEN + u32_at(bytes.get(BODY_LEN)?, 0) as usize;
    (magic && len <= RECORD_LEN_MAX).then(|| len.next_multiple_of(SECTOR_LEN))
}

/// Appends a record, padded to whole sectors; returns its checksum.
pub fn encode(header: &Header, edit: &Edit, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    encode_edit(edit, out);
    let body_len = out.len() - start - HEADER_LEN;
    out.resize(start + (out.len() - start).next_multiple_of(SECTOR_LEN), 0);
    let record = &mut out[start..];
    record[MAGIC_AT].copy_from_slice(&MAGIC.to_le_bytes());
    record[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
    record[KIND].copy_from_slice(&(header.kind as u16).to_le_bytes());
    record[SHARD].copy_from_slice(&header.log.shard.0.to_le_bytes());
    record[BODY_LEN].copy_from_slice(&(body_len as u32).to_le_bytes());
    record[LOG_ID].copy_from_slice(&header.log.directory.to_le_bytes());
    record[SEQ].copy_from_slice(&header.seq.to_le_bytes());
    record[NUMBER].copy_from_slice(&header.number.to_le_bytes());
    record[CHAIN].copy_from_slice(&header.chain.to_le_bytes());
    let checksum = xxh3_64(&record[CHECKSUM.end..]);
    record[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// Reads the record at the beginning of `bytes`.
///
/// # Errors
/// As [`Bad`].
pub fn decode(bytes: &[u8]) -> Result<Record, Bad> {
    let len = record_len(bytes).ok_or(Bad::Invalid)?;
    let record = bytes.get(..len).ok_or(Bad::Invalid)?;
    let checksum = u64_at(record, CHECKSUM.start);
    if xxh3_64(&record[CHECKSUM.end..]) != checksum {
        return Err(Bad::Invalid);
    }
    let version = u16_at(record, VERSION_AT.start);
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(Bad::Version(version));
    }
    let kind = match u16_at(record, KIND.start) {
        1 => Kind::Snapshot,
        2 => Kind::Edit,
        _ => return Err(Bad::Malformed),
    };
    let body_len = u32_at(record, BODY_LEN.start) as usize;
    let body = &record[HEADER_LEN..HEADER_LEN + body_len];
    let directory = record[LOG_ID].try_into().map(u128::from_le_bytes);
    let log = LogId {
        directory: directory.expect("sixteen bytes"),
        shard: ShardId(u16_at(record, SHARD.start)),
    };
    let edit = decode_edit(body, log, version).ok_or(Bad::Malformed)?;
    let header = Header {
        kind,
        log,
        seq: u64_at(record, SEQ.start),
        number: u64_at(record, NUMBER.start),
        chain: u64_at(record, CHAIN.start),
    };
    Ok(Record { header, edit, checksum, len })
}

/// Most bytes of a record in which a single bit is looked for: some 20 ms. Most have no more.
const MENDED_LEN_MAX: usize = SECTOR_LEN;
/// What a disk writes in one piece at least.
const ATOM_LEN: usize = 512;

/// The record that begins here but for one bit, unless it is a long one. It was written as a whole,
/// and the bit was flipped since: of a torn one whole pieces are missing.
pub fn mended(bytes: &[u8]) -> Option<Record> {
    let mut bytes = bytes[..bytes.len().min(MENDED_LEN_MAX)].to_vec();
    for bit in 0..8 * bytes.len().min(HEADER_LEN) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(record) = decode(&bytes) {
            return Some(record);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.truncate(record_len(&bytes)?);
    let checksum = u64_at(&bytes, CHECKSUM.start);
    for bit in 8 * HEADER_LEN..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if xxh3_64(&bytes[CHECKSUM.end..]) == checksum {
            let record = decode(&bytes).ok()?;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let atom = &bytes[bit / 8 / ATOM_LEN * ATOM_LEN..][..ATOM_LEN];
            return atom.iter().any(|byte| *byte != 0).then_some(record);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

fn encode_edit(edit: &Edit, out: &mut Vec<u8>) {
    let ShardState { number_next, blob_last, log_from } = edit.shard.unwrap_or_default();
    let has = u64::from(edit.shard.is_some());
    numbers(out, &[has, number_next, blob_last, log_from.0]);
    for count in [edit.partitions.len(), edit.remove.len(), edit.add.len(), edit.keys.len()] {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    for (id, state) in &edit.partitions {
        let PartitionState { index, index_term, term, vote, flushed, clock, .. } = state;
        let id = u64::from(id.0) | (state.roster.len() as u64) << 32;
        numbers(out, &[id, *index, *index_term, *term, *vote, flushed.0, clock.0]);
        numbers(out, &[state.log_from.0, state.sessions.len() as u64]);
        numbers(out, &[state.floor.0, state.floor.1]);
        out.extend_from_slice(&state.roster);
        out.extend_from_slice(&state.sessions);
    }
    numbers(out, &edit.remove);
    edit.add.iter().for_each(|entry| encode_table(entry, out));
    for Keys { partition, db, keys, expiring } in &edit.keys {
        let place = u64::from(partition.0) | u64::from(*db) << 32;
        numbers(out, &[place, *keys, *expiring]);
    }
}

fn encode_table(entry: &TableEntry, out: &mut Vec<u8>) {
    let TableEntry { partition, level, meta } = entry;
    let of = &meta.statistics;
    let has_origin = u64::from(meta.origin.is_some());
    let place = u64::from(partition.0) | u64::from(*level) << 32 | has_origin << 40;
    numbers(out, &[place, meta.number, meta.file_len, meta.checksum]);
    numbers(out, &[of.row_count, of.put_count, of.delete_count, of.expiring_count]);
    numbers(out, &[of.timestamp_min.0, of.timestamp_max.0, of.expiry_min_ms, of.expiry_max_ms]);
    numbers(out, &[of.key_len, of.value_len, of.large_len]);
    for key in [&meta.smallest, &meta.largest] {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(&meta.smallest);
    out.extend_from_slice(&meta.largest);
    if let Some(Origin { log, number }) = meta.origin {
        numbers(out, &[u64::from(log.shard.0), number]);
        out.extend_from_slice(&log.directory.to_le_bytes());
    }
}

fn numbers(out: &mut Vec<u8>, all: &[u64]) {
    all.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

/// None: it is not one, or there is something behind it.
fn decode_edit(body: &[u8], log: LogId, version: u16) -> Option<Edit> {
    let mut rest = Fields(body);
    let [has, number_next, blob_last, log_from] = rest.numbers()?;
    let shard = ShardState { number_next, blob_last, log_from: Lsn(log_from) };
    let [partitions, removes, adds, keys] = [rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?];
    let mut edit = Edit { shard: (has == 1).then_some(shard), ..Edit::default() };
    for _ in 0..partitions {
        edit.partitions.push(decode_partition(&mut rest, version)?);
    }
    for _ in 0..removes {
        edit.remove.push(rest.u64()?);
    }
    for _ in 0..adds {
        edit.add.push(decode_table(&mut rest, log, version)?);
    }
    for _ in 0..keys {
        let [place, keys, expiring] = rest.numbers()?;
        let (partition, db) = (PartitionId(place as u32), u8::try_from(place >> 32).ok()?);
        edit.keys.push(Keys { partition, db, keys, expiring });
    }
    (rest.0.is_empty() && has <= 1).then_some(edit)
}

fn decode_partition(rest: &mut Fields<'_>, version: u16) -> Option<(PartitionId, PartitionState)> {
    let [id, index, index_term, term, vote, flushed, clock] = rest.numbers()?;
    let log_from = if version >= VERSION_ORIGIN { rest.u64()? } else { 0 };
    let sessions_len = if version >= VERSION_SESSIONS { rest.u64()? } else { 0 };
    let floor = if version >= VERSION_FLOOR { rest.numbers()? } else { [0, 0] };
    let state = PartitionState {
        index,
        index_term,
        term,
        vote,
        flushed: Timestamp(flushed),
        floor: floor.into(),
        clock: Timestamp(clock),
        log_from: Lsn(log_from),
        roster: rest.take((id >> 32) as usize)?.into(),
        sessions: rest.take(usize::try_from(sessions_len).ok()?)?.into(),
    };
    Some((PartitionId(id as u32), state))
}

fn decode_table(rest: &mut Fields<'_>, log: LogId, version: u16) -> Option<TableEntry> {
    let [place, number, file_len, checksum] = rest.numbers()?;
    let [row_count, put_count, delete_count, expiring_count] = rest.numbers()?;
    let [timestamp_min, timestamp_max, expiry_min_ms, expiry_max_ms] = rest.numbers()?;
    let [key_len, value_len, large_len] = rest.numbers()?;
    let (smallest_len, largest_len) = (rest.u32()? as usize, rest.u32()? as usize);
    let smallest = rest.take(smallest_len)?.to_vec();
    let largest = rest.take(largest_len)?.to_vec();
    let has_origin = place >> 40;
    if has_origin > u64::from(version >= VERSION_ORIGIN) {
        return None;
    }
    let origin = if has_origin == 1 { Some(decode_origin(rest)?) } else { None };
    let statistics = Statistics {
        row_count,
        put_count,
        delete_count,
        expiring_count,
        timestamp_min: Timestamp(timestamp_min),
        timestamp_max: Timestamp(timestamp_max),
        expiry_min_ms,
        expiry_max_ms,
        key_len,
        value_len,
        large_len,
    };
    let meta = Meta { log, number, origin, file_len, checksum, statistics, smallest, largest };
    let partition = PartitionId(place as u32);
    Some(TableEntry { partition, level: (place >> 32) as u8, meta })
}

fn decode_origin(rest: &mut Fields<'_>) -> Option<Origin> {
    let [shard, number] = rest.numbers()?;
    let directory = u128::from_le_bytes(rest.take(16)?.try_into().ok()?);
    let shard = ShardId(u16::try_from(shard).ok()?);
    Some(Origin { log: LogId { directory, shard }, number })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
