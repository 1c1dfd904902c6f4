//! Segments, blocks and records as bytes; pure.
//!
//! ```text
//! segment := header[4096] block* rest      file {seq:020}.wal, whole sectors
//! header  := checksum:u64 magic:u64 version:u32 shard:u16 zero:u16 log_id:u128 seq:u64 epoch:u64
//!            nonce:u64 base:u64 durable:u64 segment_len:u64 chain:u64 block_len_max:u32
//!            in_flight_max:u32 zero*
//! block   := checksum:u64 magic:u32 payload_len:u32 record_count:u32 head:u32 epoch:u64 lsn:u64
//!            durable:u64 chain:u64 | payload[payload_len] | pad to the sector
//! payload := record*
//! record  := kind:u8 zero[3] partition:u32 payload_len:u32 term:u64 index:u64 | payload
//! ```
//!
//! Little-endian. A block is one write; its padding is written as zeroes and never read.
//!
//! *Place.* `base` is the LSN of the header's sector, so byte `o` of a segment has LSN `base + o`
//! and a block says `lsn = base + o`. Headers and padding count.
//!
//! *Chain.* `chain` is the checksum of what stands before in the log: the block before, or the
//! segment's header for its first block, or for a header the last block of the segment before
//! ([`FIRST_CHAIN`] at the log's birth). `checksum` is xxh3-64 of all that follows it: the rest of
//! the sector for a header; up to the end of the payload for a block, seeded with a number made of
//! `log_id` and `shard`, which no client knows. `nonce` is random: no two headers have the same
//! checksum, so a block written under one never follows another, whatever a file held before.
//!
//! *Proof.* `durable` is how far the log was durable when this was written, never beyond `lsn`. To
//! whoever reads it later it proves that all before it was there once. `head` is a checksum of the
//! block's header alone, so that the header proves this also when the payload is damaged: the high
//! half of xxh3-64, seeded as `checksum`, of the header with both checksums 0; its lowest bit is
//! set. `block_len_max` and `in_flight_max` bound what the writer had in flight at any time, and so
//! what one crash can leave behind the durable log.
//!
//! `rest` is zeroes, or what a recycled file held before. It may be missing: a file is cut to where
//! the header of the next segment goes on, when a replay ended there and that header is durable. So
//! `segment_len` is what the file was made with, and more than it has only if a next one was begun.
//!
//! Frozen: to change a field, raise [`VERSION`] and keep the old decoder. Every version keeps the
//! first 20 bytes of a header and what its checksum covers, so that each can name the other.
//!
//! Version 1, read and not written, has 0 for `head`, `block_len_max` and `in_flight_max`; its
//! writers had at most 8 blocks of 1 MiB in flight.

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::id::{Lsn, PartitionId, ShardId};
use crate::limits::SECTOR_LEN;

/// The version this program writes.
pub const VERSION: u32 = 2;
/// The oldest version that it reads.
pub const VERSION_MIN: u32 = 1;
/// Bytes of a block's header.
pub const BLOCK_HEADER_LEN: usize = BLOCK_CHAIN.end;
/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = RECORD_INDEX.end;
/// Longest block, header and padding included.
pub const BLOCK_LEN_MAX: usize = 1 << 20;
/// Longest payload of a record.
pub const RECORD_LEN_MAX: usize = BLOCK_LEN_MAX - BLOCK_HEADER_LEN - RECORD_HEADER_LEN;
/// The chain before the first header of a log.
pub const FIRST_CHAIN: u64 = 0;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"STAVEWAL");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"SBLK");

const CHECKSUM: Range<usize> = 0..8;

const MAGIC: Range<usize> = 8..16;
const VERSION_AT: Range<usize> = 16..20;
const SHARD: Range<usize> = 20..22;
const LOG_ID: Range<usize> = 24..40;
const SEQ: Range<usize> = 40..48;
const EPOCH: Range<usize> = 48..56;
const NONCE: Range<usize> = 56..64;
const BASE: Range<usize> = 64..72;
const DURABLE: Range<usize> = 72..80;
const SEGMENT_LEN: Range<usize> = 80..88;
const CHAIN: Range<usize> = 88..96;
const HEADER_BLOCK_LEN_MAX: Range<usize> = 96..100;
const IN_FLIGHT_MAX: Range<usize> = 100..104;
/// What version 1 does not say.
const V1_IN_FLIGHT_MAX: u32 = 8;

const BLOCK_MAGIC_AT: Range<usize> = 8..12;
const BLOCK_PAYLOAD_LEN: Range<usize> = 12..16;
const BLOCK_RECORD_COUNT: Range<usize> = 16..20;
const BLOCK_HEAD: Range<usize> = 20..24;
const BLOCK_EPOCH: Range<usize> = 24..32;
const BLOCK_LSN: Range<usize> = 32..40;
const BLOCK_DURABLE: Range<usize> = 40..48;
const BLOCK_CHAIN: Range<usize> = 48..56;

const RECORD_PARTITION: Range<usize> = 4..8;
const RECORD_PAYLOAD_LEN: Range<usize> = 8..12;
const RECORD_TERM: Range<usize> = 12..20;
const RECORD_INDEX: Range<usize> = 20..28;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// An entry of a partition's Raft log.
    Entry = 1,
    /// A partition's Raft term and vote.
    HardState = 2,
    /// A piece of a large value; `term` is the value's id, `index` the piece's place in it.
    Blob = 3,
}

impl RecordKind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Entry, Self::HardState, Self::Blob].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One record, to be appended or read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Whose.
    pub partition: PartitionId,
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
    /// At most [`RECORD_LEN_MAX`] bytes; opaque here.
    pub payload: &'a [u8],
}

/// Which log a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogId {
    /// The data directory's number, random and told to no client.
    pub directory: u128,
    /// Whose log in it.
    pub shard: ShardId,
}

impl LogId {
    /// The seed of all block checksums of this log.
    pub fn key(&self) -> u64 {
        xxh3_64_with_seed(&self.directory.to_le_bytes(), u64::from(self.shard.0))
    }
}

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which log.
    pub log: LogId,
    /// Place among the segments: rises by one.
    pub seq: u64,
    /// Which run of the writer.
    pub epoch: u64,
    /// Random, so that no two headers are alike.
    pub nonce: u64,
    /// LSN of the header's sector.
    pub base: Lsn,
    /// See the module's header, *Proof*.
    pub durable: Lsn,
    /// Bytes of the file.
    pub segment_len: u64,
    /// Checksum of the last block before.
    pub chain: u64,
    /// Most bytes of a block of its writer.
    pub block_len_max: u32,
    /// Most writes that its writer has in flight.
    pub in_flight_max: u32,
}

/// Why a first sector is not a header for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Never written, or not whole.
    Absent,
    /// Whole, but of a version that this program does not know.
    Version(u32),
}

impl SegmentHeader {
    /// Writes the header over the first sector of `sector`; returns its checksum.
    pub fn encode(&self, sector: &mut [u8]) -> u64 {
        let sector = &mut sector[..SECTOR_LEN];
        sector.fill(0);
        sector[MAGIC].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        sector[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        sector[SHARD].copy_from_slice(&self.log.shard.0.to_le_bytes());
        sector[LOG_ID].copy_from_slice(&self.log.directory.to_le_bytes());
        sector[SEQ].copy_from_slice(&self.seq.to_le_bytes());
        sector[EPOCH].copy_from_slice(&self.epoch.to_le_bytes());
        sector[NONCE].copy_from_slice(&self.nonce.to_le_bytes());
        sector[BASE].copy_from_slice(&self.base.0.to_le_bytes());
        sector[DURABLE].copy_from_slice(&self.durable.0.to_le_bytes());
        sector[SEGMENT_LEN].copy_from_slice(&self.segment_len.to_le_bytes());
        sector[CHAIN].copy_from_slice(&self.chain.to_le_bytes());
        sector[HEADER_BLOCK_LEN_MAX].copy_from_slice(&self.block_len_max.to_le_bytes());
        sector[IN_FLIGHT_MAX].copy_from_slice(&self.in_flight_max.to_le_bytes());
        seal_header(sector)
    }

    /// Reads a first sector back: the header and its checksum.
    ///
    /// # Errors
    /// As [`BadHeader`].
    pub fn decode(sector: &[u8]) -> Result<(Self, u64), BadHeader> {
        let sector = sector.get(..SECTOR_LEN).ok_or(BadHeader::Absent)?;
        let checksum = u64_at(sector, CHECKSUM);
        if u64_at(sector, MAGIC) != SEGMENT_MAGIC || checksum != xxh3_64(&sector[CHECKSUM.end..]) {
            return Err(BadHeader::Absent);
        }
        let version = u32_at(sector, VERSION_AT);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(BadHeader::Version(version));
        }
        let or = |told: u32, v1: u32| if version == 1 { v1 } else { told };
        let directory = u128::from_le_bytes(sector[LOG_ID].try_into().expect("sixteen bytes"));
        let shard = u16::from_le_bytes(sector[SHARD].try_into().expect("two bytes"));
        let header = Self {
            log: LogId { directory, shard: ShardId(shard) },
            seq: u64_at(sector, SEQ),
            epoch: u64_at(sector, EPOCH),
            nonce: u64_at(sector, NONCE),
            base: Lsn(u64_at(sector, BASE)),
            durable: Lsn(u64_at(sector, DURABLE)),
            segment_len: u64_at(sector, SEGMENT_LEN),
            chain: u64_at(sector, CHAIN),
            block_len_max: or(u32_at(sector, HEADER_BLOCK_LEN_MAX), BLOCK_LEN_MAX as u32),
            in_flight_max: or(u32_at(sector, IN_FLIGHT_MAX), V1_IN_FLIGHT_MAX),
        };
        Ok((header, checksum))
    }

    /// Most bytes that its writer has in flight.
    pub fn reach(&self) -> u64 {
        u64::from(self.block_len_max) * u64::from(self.in_flight_max)
    }
}

/// Puts the checksum into a header's sector and returns it.
pub fn seal_header(sector: &mut [u8]) -> u64 {
    let checksum = xxh3_64(&sector[CHECKSUM.end..SECTOR_LEN]);
    sector[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// What a block's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Which run of the writer.
    pub epoch: u64,
    /// Its place.
    pub lsn: Lsn,
    /// See the module's header, *Proof*.
    pub durable: Lsn,
    /// Checksum of what stands before.
    pub chain: u64,
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

    /// Completes a block whose payload stands after the header, and pads it; returns its checksum.
    pub fn seal(&self, key: u64, block: &mut [u8]) -> u64 {
        let end = BLOCK_HEADER_LEN + self.payload_len;
        block[end..self.block_len()].fill(0);
        block[BLOCK_MAGIC_AT].copy_from_slice(&BLOCK_MAGIC.to_le_bytes());
        block[BLOCK_PAYLOAD_LEN].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        block[BLOCK_RECORD_COUNT].copy_from_slice(&self.record_count.to_le_bytes());
        block[BLOCK_EPOCH].copy_from_slice(&self.epoch.to_le_bytes());
        block[BLOCK_LSN].copy_from_slice(&self.lsn.0.to_le_bytes());
        block[BLOCK_DURABLE].copy_from_slice(&self.durable.0.to_le_bytes());
        block[BLOCK_CHAIN].copy_from_slice(&self.chain.to_le_bytes());
        let head = head_of(key, block);
        block[BLOCK_HEAD].copy_from_slice(&head.to_le_bytes());
        let checksum = xxh3_64_with_seed(&block[CHECKSUM.end..end], key);
        block[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Reads the header at the start of `bytes`, whatever became of the payload; none if it can be
    /// no block. What it says is true if it [`Head::is_sealed`].
    pub fn peek(key: u64, bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.get(..BLOCK_HEADER_LEN)?;
        let header = Self {
            epoch: u64_at(bytes, BLOCK_EPOCH),
            lsn: Lsn(u64_at(bytes, BLOCK_LSN)),
            durable: Lsn(u64_at(bytes, BLOCK_DURABLE)),
            chain: u64_at(bytes, BLOCK_CHAIN),
            payload_len: u32_at(bytes, BLOCK_PAYLOAD_LEN) as usize,
            record_count: u32_at(bytes, BLOCK_RECORD_COUNT),
        };
        let plausible = u32_at(bytes, BLOCK_MAGIC_AT) == BLOCK_MAGIC
            && header.payload_len <= BLOCK_LEN_MAX - BLOCK_HEADER_LEN
            && header.durable <= header.lsn;
        if !plausible {
            return None;
        }
        match u32_at(bytes, BLOCK_HEAD) {
            0 => Some(Head { header, is_sealed: false }),
            head => (head == head_of(key, bytes)).then_some(Head { header, is_sealed: true }),
        }
    }

    /// Reads the block at the start of `bytes`, and its checksum; none if it is not whole and sound
    /// by itself.
    pub fn decode(key: u64, bytes: &[u8]) -> Option<(Self, u64)> {
        let header = Self::peek(key, bytes)?.header;
        let block = bytes.get(..header.block_len())?;
        let checksum = u64_at(block, CHECKSUM);
        let end = BLOCK_HEADER_LEN + header.payload_len;
        let sound = checksum == xxh3_64_with_seed(&block[CHECKSUM.end..end], key);
        sound.then_some((header, checksum))
    }
}

/// Most bytes of a block in which a single bit is looked for: some 25 ms.
const MENDED_LEN_MAX: usize = 8 << 10;
/// What a disk writes in one piece at least.
const ATOM_LEN: usize = 512;

/// Bytes that are no sound block, and might be one if one bit were another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// So many of them have to be seen.
    Needs(usize),
    /// They were written as a sound block, and a bit was flipped since.
    Block,
}

impl Mended {
    /// Looks for the bit in the block at the start of `bytes`, unless it is a long one. `is_meant`:
    /// whether a block with that header would stand here; costs some microseconds if none does.
    pub fn find(key: u64, bytes: &[u8], is_meant: impl Fn(&BlockHeader) -> bool) -> Option<Self> {
        let head: [u8; BLOCK_HEADER_LEN] = bytes.get(..BLOCK_HEADER_LEN)?.try_into().ok()?;
        let with = |bit: usize| {
            let mut head = head;
            head[bit / 8] ^= 1 << (bit % 8);
            head
        };
        let heads = (0..8 * BLOCK_HEADER_LEN).map(with).chain([head]);
        for one in heads {
            let found = BlockHeader::peek(key, &one).map(|found| found.header);
            let Some(header) = found.filter(&is_meant) else { continue };
            let end = BLOCK_HEADER_LEN + header.payload_len;
            if end > MENDED_LEN_MAX {
                return None;
            }
            let Some(block) = bytes.get(..end) else {
                return Some(Self::Needs(header.block_len()));
            };
            let mut block = block.to_vec();
            block[..BLOCK_HEADER_LEN].copy_from_slice(&one);
            if is_sound(key, &block) || (one == head && lacks_a_bit(key, &mut block)) {
                return Some(Self::Block);
            }
        }
        None
    }
}

fn is_sound(key: u64, block: &[u8]) -> bool {
    u64_at(block, CHECKSUM) == xxh3_64_with_seed(&block[CHECKSUM.end..], key)
}

/// Whether one other bit of the payload makes the block sound. Not if there is nothing in a piece
/// of what a disk writes at once: that was not written.
fn lacks_a_bit(key: u64, block: &mut [u8]) -> bool {
    if block.chunks(ATOM_LEN).any(|atom| atom.iter().all(|byte| *byte == 0)) {
        return false;
    }
    (8 * BLOCK_HEADER_LEN..8 * block.len()).any(|bit| {
        block[bit / 8] ^= 1 << (bit % 8);
        let is_it = is_sound(key, block);
        block[bit / 8] ^= 1 << (bit % 8);
        is_it
    })
}

/// The header that a first sector would be if one bit were another. A torn one is not taken for
/// that: all that is in it is written in one piece.
pub fn mended_header(sector: &[u8]) -> Option<SegmentHeader> {
    let mut sector = sector.get(..SECTOR_LEN)?.to_vec();
    let magic = u64_at(&sector, MAGIC) ^ SEGMENT_MAGIC;
    if magic.count_ones() > 1 {
        return None;
    }
    for bit in 0..8 * SECTOR_LEN {
        sector[bit / 8] ^= 1 << (bit % 8);
        if let Ok((header, _)) = SegmentHeader::decode(&sector) {
            return Some(header);
        }
        sector[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// A block's header by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it says.
    pub header: BlockHeader,
    /// Whether its own checksum vouches for it; version 1 had none.
    pub is_sealed: bool,
}

fn head_of(key: u64, block: &[u8]) -> u32 {
    let mut header = [0; BLOCK_HEADER_LEN];
    header.copy_from_slice(&block[..BLOCK_HEADER_LEN]);
    header[CHECKSUM].fill(0);
    header[BLOCK_HEAD].fill(0);
    (xxh3_64_with_seed(&header, key) >> 32) as u32 | 1
}

/// Bytes on disk of a block with this much payload.
pub fn block_len(payload_len: usize) -> usize {
    (BLOCK_HEADER_LEN + payload_len).next_multiple_of(SECTOR_LEN)
}

/// Writes a record at the start of `out`; returns its length.
pub fn encode_record(record: &Record<'_>, out: &mut [u8]) -> usize {
    let len = RECORD_HEADER_LEN + record.payload.len();
    let out = &mut out[..len];
    out[..4].copy_from_slice(&u32::from(record.kind as u8).to_le_bytes());
    out[RECORD_PARTITION].copy_from_slice(&record.partition.0.to_le_bytes());
    out[RECORD_PAYLOAD_LEN].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out[RECORD_TERM].copy_from_slice(&record.term.to_le_bytes());
    out[RECORD_INDEX].copy_from_slice(&record.index.to_le_bytes());
    out[RECORD_HEADER_LEN..].copy_from_slice(record.payload);
    len
}

/// Reads the record at the start of `bytes`; the record and what follows it. None if there is none.
pub fn decode_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let header = bytes.get(..RECORD_HEADER_LEN)?;
    let (kind, zero) = (RecordKind::of(header[0])?, &header[1..4]);
    if zero != [0; 3] {
        return None;
    }
    let payload_len = u32_at(header, RECORD_PAYLOAD_LEN) as usize;
    let payload = bytes[RECORD_HEADER_LEN..].get(..payload_len)?;
    let record = Record {
        kind,
        partition: PartitionId(u32_at(header, RECORD_PARTITION)),
        term: u64_at(header, RECORD_TERM),
        index: u64_at(header, RECORD_INDEX),
        payload,
    };
    Some((record, &bytes[RECORD_HEADER_LEN + payload_len..]))
}

fn u32_at(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[at].try_into().expect("a field of four bytes"))
}

fn u64_at(bytes: &[u8], at: Range<usize>) -> u64 {
    u64::from_le_bytes(bytes[at].try_into().expect("a field of eight bytes"))
}
