//! A part of the file: its header, its checksum, its compression.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::compression::{Compression, Unpacker};
use super::footer::Run;
use super::index::Handle;
use super::{Malformed, malformed, u32_at, u64_at};
use crate::limits::SECTOR_LEN;

/// Bytes before a part's body.
pub const HEADER_LEN: usize = COUNT.end;
/// Longest part, header and padding included.
pub const PART_LEN_MAX: usize = 1 << 20;

/// Longest body, compressed or not.
pub const BODY_LEN_MAX: usize = PART_LEN_MAX - HEADER_LEN;

const CHECKSUM: Range<usize> = 0..8;
const KIND: usize = 8;
const COMPRESSION: usize = 9;
const ZERO: Range<usize> = 10..12;
const BODY_LEN: Range<usize> = 12..16;
const RAW_LEN: Range<usize> = 16..20;
const COUNT: Range<usize> = 20..24;

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartKind {
    /// Rows.
    Rows = 1,
    /// Index entries that name rows.
    Leaf = 2,
    /// Of the run of entries that name leaves.
    Top = 3,
    /// Of the filter's run.
    Filter = 4,
    /// Of the run of a large value.
    Chunk = 5,
    /// Of the run of the smallest and the largest key.
    Bounds = 6,
}

impl PartKind {
    fn of(byte: u8) -> Option<Self> {
        let all = [Self::Rows, Self::Leaf, Self::Top, Self::Filter, Self::Chunk, Self::Bounds];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// What it is called when it is broken.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Leaf => "index leaf",
            Self::Top => "index top",
            Self::Filter => "filter",
            Self::Chunk => "chunk of a value",
            Self::Bounds => "bounds",
        }
    }
}

/// Bytes on disk of a part with this body.
pub fn part_len(body_len: usize) -> usize {
    (HEADER_LEN + body_len).next_multiple_of(SECTOR_LEN)
}

/// A part's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the body is.
    pub kind: PartKind,
    /// Of the body.
    pub compression: Compression,
    /// Bytes of the body as stored.
    pub body_len: usize,
    /// Bytes of it decompressed; at most [`BODY_LEN_MAX`].
    pub raw_len: usize,
    /// Entries; of a part of a run, its number in it.
    pub count: u32,
}

/// Completes the part whose body stands behind its header in `bytes`, and pads it, for place
/// `offset` of the file of `seed`; returns its checksum.
///
/// # Panics
/// If `bytes` are not as long as the part is.
pub fn seal(part: &Part, seed: u64, offset: u64, bytes: &mut [u8]) -> u64 {
    assert_eq!(bytes.len(), part_len(part.body_len), "room for a part of {part:?}");
    bytes[HEADER_LEN + part.body_len..].fill(0);
    bytes[KIND] = part.kind as u8;
    bytes[COMPRESSION] = part.compression as u8;
    bytes[ZERO].fill(0);
    bytes[BODY_LEN].copy_from_slice(&(part.body_len as u32).to_le_bytes());
    bytes[RAW_LEN].copy_from_slice(&(part.raw_len as u32).to_le_bytes());
    bytes[COUNT].copy_from_slice(&part.count.to_le_bytes());
    let checksum = checksum_of(seed, offset, bytes);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

fn checksum_of(seed: u64, offset: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(&bytes[CHECKSUM.end..], seed.wrapping_add(offset))
}

impl Part {
    /// Reads the part that fills `bytes`, which stood at `offset` of the file of `seed`, and its
    /// checksum.
    ///
    /// # Errors
    /// It is not the part of that kind that was written there.
    pub fn open(
        kind: PartKind,
        seed: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(Self, u64), Malformed> {
        let (part, checksum) = Self::peek(bytes)
            .filter(|(part, _)| part.kind == kind)
            .ok_or(Malformed { what: kind.name() })?;
        if part_len(part.body_len) != bytes.len() || checksum != checksum_of(seed, offset, bytes) {
            return malformed(kind.name());
        }
        Ok((part, checksum))
    }

    /// Reads the part with that number of a run, which fills `bytes` and stood at `at`.
    ///
    /// # Errors
    /// As [`Part::open`].
    pub fn open_of_run(
        kind: PartKind,
        seed: u64,
        at: Handle,
        number: u64,
        run: Run,
        bytes: &[u8],
    ) -> Result<Self, Malformed> {
        let (part, _) = Self::open(kind, seed, at.offset, bytes)?;
        let left = run.len.saturating_sub(number * BODY_LEN_MAX as u64);
        let is_whole = part.body_len as u64 == left.min(BODY_LEN_MAX as u64);
        let fits = u64::from(part.count) == number && part.compression == Compression::None;
        if is_whole && fits { Ok(part) } else { malformed(kind.name()) }
    }

    /// Reads the header at the start of `bytes`, whose checksum may be wrong; none if it can be no
    /// part.
    pub fn peek(bytes: &[u8]) -> Option<(Self, u64)> {
        let bytes = bytes.get(..HEADER_LEN)?;
        let part = Self {
            kind: PartKind::of(bytes[KIND])?,
            compression: Compression::of(bytes[COMPRESSION])?,
            body_len: u32_at(bytes, BODY_LEN.start) as usize,
            raw_len: u32_at(bytes, RAW_LEN.start) as usize,
            count: u32_at(bytes, COUNT.start),
        };
        let plausible = bytes[ZERO] == [0; 2]
            && part.body_len <= BODY_LEN_MAX
            && part.raw_len <= BODY_LEN_MAX
            && (part.compression != Compression::None || part.raw_len == part.body_len);
        plausible.then(|| (part, u64_at(bytes, CHECKSUM.start)))
    }

    /// Where the body of an open part is in its bytes.
    pub fn body(&self) -> Range<usize> {
        HEADER_LEN..HEADER_LEN + self.body_len
    }

    /// Decompresses the body of an open part into `raw`, whose old content is dropped.
    ///
    /// # Errors
    /// It can not be decompressed, though its checksum is right.
    pub fn decompress(
        &self,
        bytes: &[u8],
        raw: &mut Vec<u8>,
        unpacker: &mut Unpacker,
    ) -> Result<(), Malformed> {
        raw.resize(self.raw_len, 0);
        let is_whole = unpacker.unpack(self.compression, &bytes[self.body()], raw);
        if is_whole { Ok(()) } else { malformed(self.kind.name()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x1234_5678_9abc_def0;

    fn sealed(body: &[u8], offset: u64) -> Vec<u8> {
        let mut bytes = vec![0xEE; part_len(body.len())];
        bytes[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(body);
        let len = body.len();
        let (kind, compression) = (PartKind::Rows, Compression::None);
        let part = Part { kind, compression, body_len: len, raw_len: len, count: 3 };
        seal(&part, SEED, offset, &mut bytes);
        bytes
    }

    #[test]
    fn every_bit_of_a_part_counts() {
        let bytes = sealed(b"some body", 8192);
        assert!(Part::open(PartKind::Rows, SEED, 8192, &bytes).is_ok());

        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(Part::open(PartKind::Rows, SEED, 8192, &wrong).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_part_is_valid_at_its_place_in_its_file_alone() {
        let bytes = sealed(b"some body", 8192);

        for (kind, seed, offset) in [
            (PartKind::Leaf, SEED, 8192),
            (PartKind::Rows, SEED + 4096, 8192),
            (PartKind::Rows, SEED, 4096),
        ] {
            assert!(Part::open(kind, seed, offset, &bytes).is_err());
        }
        let longer = [&bytes[..], &[0; SECTOR_LEN]].concat();
        assert!(Part::open(PartKind::Rows, SEED, 8192, &longer).is_err());
    }

    #[test]
    fn what_decompresses_to_another_length_is_malformed() {
        let raw = vec![7; 3000];
        let body = lz4_flex::block::compress(&raw);
        let bytes = sealed(&body, 0);
        let (kind, compression, body_len) = (PartKind::Rows, Compression::Lz4, body.len());
        let part = |raw_len| Part { kind, compression, body_len, raw_len, count: 0 };
        let (mut out, mut unpacker) = (Vec::new(), Unpacker::default());

        assert_eq!(part(3000).decompress(&bytes, &mut out, &mut unpacker), Ok(()));
        assert_eq!(out, raw);
        for wrong in [0, 2999, 3001, BODY_LEN_MAX] {
            assert!(part(wrong).decompress(&bytes, &mut out, &mut unpacker).is_err(), "{wrong}");
        }
    }
}
