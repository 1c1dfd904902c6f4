//! Segments, blocks and records as bytes; pure.
//!
//! ```text
//! segment := header[4096] block* rest        file {seq:020}.wal, a whole number of sectors
//! header  := checksum:u64 magic:u64 version:u32 shard:u32 log_id:u128 seq:u64 epoch:u64
//!            base:u64 durable:u64 segment_len:u64 chain:u64 zero*
//! block   := checksum:u64 magic:u32 payload_len:u32 record_count:u32 zero:u32 epoch:u64 lsn:u64
//!            durable:u64 chain:u64 zero:u64 | payload[payload_len] | zero* to the sector
//! payload := record*
//! record  := kind:u8 zero[3] partition:u32 payload_len:u32 zero:u32 term:u64 index:u64 | payload
//! ```
//!
//! Little-endian. `checksum` is xxh3-64 of all that follows it, up to the end of the header's fields
//! or of the payload; a block's is seeded with `chain`, the checksum of the block before, which for
//! the first block of a log is [`FIRST_CHAIN`]. A block is one write. `lsn` is the block's own
//! place; a block at byte `o` of a segment has `lsn = base + o - 4096`. `durable` is how far the log
//! was known to be durable when the block was made: the proof, for a later reader, that everything
//! before was there once. `rest` is zeroes or what a recycled file held before: other epochs.
//!
//! Frozen: to change a field, raise [`VERSION`] and keep the old decoder.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Record, RecordKind};
use crate::id::{Lsn, PartitionId, ShardId};
use crate::limits::SECTOR_LEN;

/// The version this program writes.
pub const VERSION: u32 = 1;
/// Bytes of a block's header.
pub const BLOCK_HEADER_LEN: usize = 64;
/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 32;
/// Longest block, header and padding included.
pub const BLOCK_LEN_MAX: usize = 1 << 20;
/// Longest payload of a record.
pub const RECORD_LEN_MAX: usize = BLOCK_LEN_MAX - BLOCK_HEADER_LEN - RECORD_HEADER_LEN;
/// The chain before the first block of a log.
pub const FIRST_CHAIN: u64 = 0x5354_4156_4557_414c;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"STAVEWAL");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"SBLK");
const SEGMENT_FIELDS: Range<usize> = 8..96;

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The data directory's number.
    pub log_id: u128,
    /// Whose log.
    pub shard: ShardId,
    /// Place among the segments; rises, with gaps where segments were given up.
    pub seq: u64,
    /// Which run of the writer.
    pub epoch: u64,
    /// LSN of the first block.
    pub base: Lsn,
    /// As in a block.
    pub durable: Lsn,
    /// Bytes of the file.
    pub segment_len: u64,
    /// Checksum of the last block before.
    pub chain: u64,
}

/// Why a first sector is not a header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Never written, or not whole: there is no segment here.
    Absent,
    /// Whole, but of a version this program does not know.
    Version(u32),
}

impl SegmentHeader {
    /// Writes the header into the first sector.
    pub fn encode(&self, sector: &mut [u8]) {
        sector[..SECTOR_LEN].fill(0);
        sector[8..16].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        sector[16..20].copy_from_slice(&VERSION.to_le_bytes());
        sector[20..24].copy_from_slice(&u32::from(self.shard.0).to_le_bytes());
        sector[24..40].copy_from_slice(&self.log_id.to_le_bytes());
        let words =
            [self.seq, self.epoch, self.base.0, self.durable.0, self.segment_len, self.chain];
        for (n, word) in words.iter().enumerate() {
            sector[40 + 8 * n..48 + 8 * n].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(&sector[SEGMENT_FIELDS], FIRST_CHAIN);
        sector[..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads it back.
    ///
    /// # Errors
    /// As [`BadHeader`].
    pub fn decode(sector: &[u8]) -> Result<Self, BadHeader> {
        if sector.len() < SECTOR_LEN || u64_at(sector, 8) != SEGMENT_MAGIC {
            return Err(BadHeader::Absent);
        }
        if u64_at(sector, 0) != xxh3_64_with_seed(&sector[SEGMENT_FIELDS], FIRST_CHAIN) {
            return Err(BadHeader::Absent);
        }
        let version = u32_at(sector, 16);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Self {
            shard: ShardId(u32_at(sector, 20) as u16),
            log_id: u128::from_le_bytes(sector[24..40].try_into().expect("sixteen bytes")),
            seq: u64_at(sector, 40),
            epoch: u64_at(sector, 48),
            base: Lsn(u64_at(sector, 56)),
            durable: Lsn(u64_at(sector, 64)),
            segment_len: u64_at(sector, 72),
            chain: u64_at(sector, 80),
        })
    }
}

/// What a block's header says, when its checksum proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Which run of the writer.
    pub epoch: u64,
    /// Its place.
    pub lsn: Lsn,
    /// How far the log was durable when it was made.
    pub durable: Lsn,
    /// Checksum of the block before.
    pub chain: u64,
    /// Its own.
    pub checksum: u64,
    /// Bytes of its records.
    pub payload_len: usize,
    /// How many there are.
    pub record_count: u32,
}

impl BlockHeader {
    /// Bytes on disk.
    pub fn block_len(&self) -> usize {
        block_len(self.payload_len)
    }

    /// Completes a block whose payload stands after the header, and pads it; returns the checksum.
    pub fn seal(&self, block: &mut [u8]) -> u64 {
        let end = BLOCK_HEADER_LEN + self.payload_len;
        block[end..self.block_len()].fill(0);
        block[8..12].copy_from_slice(&BLOCK_MAGIC.to_le_bytes());
        block[12..16].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        block[16..20].copy_from_slice(&self.record_count.to_le_bytes());
        block[20..24].fill(0);
        block[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        block[32..40].copy_from_slice(&self.lsn.0.to_le_bytes());
        block[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        block[48..56].copy_from_slice(&self.chain.to_le_bytes());
        block[56..64].fill(0);
        let checksum = xxh3_64_with_seed(&block[8..end], self.chain);
        block[..8].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Reads the block at the start of `bytes`; none if it is not whole and sound by itself.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..BLOCK_HEADER_LEN)?;
        if u32_at(header, 8) != BLOCK_MAGIC {
            return None;
        }
        let payload_len = u32_at(header, 12) as usize;
        if block_len(payload_len) > bytes.len().min(BLOCK_LEN_MAX) {
            return None;
        }
        let (checksum, chain) = (u64_at(header, 0), u64_at(header, 48));
        let sound = checksum == xxh3_64_with_seed(&bytes[8..BLOCK_HEADER_LEN + payload_len], chain);
        sound.then(|| Self {
            epoch: u64_at(header, 24),
            lsn: Lsn(u64_at(header, 32)),
            durable: Lsn(u64_at(header, 40)),
            chain,
            checksum,
            payload_len,
            record_count: u32_at(header, 16),
        })
    }
}

/// Bytes on disk of a block with this payload.
pub fn block_len(payload_len: usize) -> usize {
    (BLOCK_HEADER_LEN + payload_len).next_multiple_of(SECTOR_LEN)
}

/// Writes a record at the start of `out`; returns its length.
pub fn encode_record(record: &Record<'_>, out: &mut [u8]) -> usize {
    let len = RECORD_HEADER_LEN + record.payload.len();
    let out = &mut out[..len];
    out[..RECORD_HEADER_LEN].fill(0);
    out[0] = record.kind as u8;
    out[4..8].copy_from_slice(&record.partition.0.to_le_bytes());
    out[8..12].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out[16..24].copy_from_slice(&record.term.to_le_bytes());
    out[24..32].copy_from_slice(&record.index.to_le_bytes());
    out[RECORD_HEADER_LEN..].copy_from_slice(record.payload);
    len
}

/// The records of a block's payload, in order; `None` once where they do not decode.
pub fn records(payload: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = decode_record(rest);
        rest = record.map_or(&[], |(_, rest)| rest);
        Some(record.map(|(record, _)| record))
    })
}

fn decode_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let header = bytes.get(..RECORD_HEADER_LEN)?;
    let kind = RecordKind::of(header[0])?;
    let payload_len = u32_at(header, 8) as usize;
    let payload = bytes[RECORD_HEADER_LEN..].get(..payload_len)?;
    let record = Record {
        kind,
        partition: PartitionId(u32_at(header, 4)),
        term: u64_at(header, 16),
        index: u64_at(header, 24),
        payload,
    };
    Some((record, &bytes[RECORD_HEADER_LEN + payload_len..]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
