//! An SSTable as bytes: rows in order, an index over them, a filter, a footer. Pure.
//!
//! ```text
//! file    := (rows | value)* leaf+ top filter bounds footer      {number:020}.sst, whole sectors
//! value   := run of chunks      a value of 16 KiB and more
//! top     := run                the index's upper level: entries that name leaves
//! filter  := run                see super::filter
//! bounds  := run                smallest key, largest key
//! run     := part+              all but the last with a body of 1,048,552 bytes, not compressed
//! rows, leaf, and the parts of a run are parts:
//! part    := checksum:u64 kind:u8 compression:u8 zero:u16 body_len:u32 raw_len:u32 count:u32
//!            | body[body_len] | zero to the end of the sector                            <= 1 MiB
//! kind    := 1 rows, 2 leaf, 3 top, 4 filter, 5 chunk, 6 bounds
//! compression := 0 none, 1 LZ4 block, 2 Zstandard frame
//!
//! What rows, a leaf and the top hold once decompressed, raw_len bytes:
//! entries := entry* restart:u32[n] n:u32      restarts: where entries with a whole key begin
//! entry   := shared:varint unshared:varint body_len:varint key[unshared] body[body_len]
//!
//! The body of an entry of rows; the key is an encoded one (super::key):
//! row     := head:u8 timestamp:u64 expiry_ms:u64 if head & 0x10 | value
//! head    := 1 put, 2 delete; | 0x10 has an expiry | 0x20 value is offset:u64 len:u64 of a run
//! The body of an entry of a leaf or of the top; the key is not below any key of what it names
//! and below all keys of what the next one names, or equal to them:
//! place   := sector:varint sectors:varint
//!
//! footer  := checksum:u64 magic:u64 version:u32 shard:u16 compression:u8 zero:u8 log_id:u128
//!            number:u64 nonce:u64 file_len:u64 digest:u64
//!            rows:u64 puts:u64 deletes:u64 expiring:u64 timestamp_min:u64 timestamp_max:u64
//!            expiry_min_ms:u64 expiry_max_ms:u64 key_len:u64 value_len:u64 large_len:u64
//!            row_parts:u64 leaves_offset:u64 leaves_len:u64
//!            top_offset:u64 top_len:u64 filter_offset:u64 filter_len:u64
//!            bounds_offset:u64 smallest_len:u32 largest_len:u32 | zero to the end of the sector
//! ```
//!
//! Little-endian. A varint has seven bits per byte, low ones first, and at most five bytes. A part
//! begins at a sector; rows are laid out so that a row of a common size is one read of one sector.
//!
//! *Order.* Keys ascend; versions of one key, of which there may be many, descend by timestamp.
//!
//! *Proof.* A part's checksum is xxh3-64 of all that follows it up to the end of its last sector,
//! seeded with a number made of log, shard, file number and nonce ([`Footer::seed`]), plus the
//! part's offset: so a part is valid at its own place in its own file alone, and the nonce, which
//! is random, tells a file from an earlier one of the same number. The footer's checksum is xxh3-64
//! of the rest of its sector, and `digest` folds the checksums of all parts in the order of the
//! file: so it names these very bytes, and whoever keeps it ([`Meta`]) tells this file from every
//! other. No byte is outside a checksum, padding included.
//!
//! Frozen: to change a field, raise [`VERSION`] and keep the old decoder. Every version keeps the
//! first 20 bytes of the footer and what its checksum covers, so that each can name the other.
//!
//! Why sectors and not one byte behind the other: reads are direct, so a part that straddles a
//! sector costs two. The price is padding, at most an eighth (see [`super::table`]).
//!
//! Not here: reading and writing files ([`super::table`]); which table holds what.

mod compression;
mod entries;
mod footer;
mod index;
mod part;
mod row;

pub use compression::{Compression, Packer, Unpacker};
pub use entries::{Builder, Cursor, Found, Lone, entry_at, find};
pub use footer::{BadFooter, Footer, Meta, Origin, Run, Statistics, fold, seal_footer, seed_of};
pub use index::{Handle, separator};
pub use part::{BODY_LEN_MAX, HEADER_LEN, PART_LEN_MAX, Part, PartKind, part_len, seal};
pub use row::{Head, Large, Row, Sought, Value, find_row};

pub use super::memtable::Kind;

/// The version this program writes.
pub const VERSION: u32 = 1;

/// A value from this size on lies outside the rows. Bytes.
pub const LARGE_LEN_MIN: usize = 16 << 10;

/// Longest encoded key, bytes: a user key of [`crate::limits::KEY_LEN_MAX`] NULs, doubled by its
/// escapes, and room for what names a part of a collection.
pub const ROW_KEY_LEN_MAX: usize = 256 << 10;

/// The hash of an encoded key that filters are asked with; the same for all tables.
#[inline]
pub fn hash_of(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Sound by its checksum, and yet not what this program writes: [`what`](Malformed::what) is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The smallest thing that is.
    pub what: &'static str,
}

fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
