//! The footer: what the file is, what is in it, and where. The last sector of the file.

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::compression::Compression;
use super::index::Handle;
use super::part::{BODY_LEN_MAX, PART_LEN_MAX, part_len};
use super::{ROW_KEY_LEN_MAX, Row, VERSION, Value, u32_at, u64_at};
use crate::id::{ShardId, Timestamp};
use crate::limits::SECTOR_LEN;
use crate::lsm::memtable::Kind;
use crate::wal::format::LogId;

const MAGIC: u64 = u64::from_le_bytes(*b"STAVESST");

const CHECKSUM: Range<usize> = 0..8;
const MAGIC_AT: Range<usize> = 8..16;
const VERSION_AT: Range<usize> = 16..20;
const SHARD: Range<usize> = 20..22;
const COMPRESSION: usize = 22;
const LOG_ID: Range<usize> = 24..40;
/// From here on numbers of eight bytes, in the order of the format.
const NUMBERS: Range<usize> = 40..40 + 8 * NUMBER_COUNT;
const NUMBER_COUNT: usize = 23;
const SMALLEST_LEN: Range<usize> = NUMBERS.end..NUMBERS.end + 4;
const LARGEST_LEN: Range<usize> = SMALLEST_LEN.end..SMALLEST_LEN.end + 4;

/// Where a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Where its first part begins.
    pub offset: u64,
    /// Bytes of its bodies together.
    pub len: u64,
}

impl Run {
    /// Its part with that number, from 0 on; none behind the last.
    pub fn part(&self, number: u64) -> Option<Handle> {
        let done = number.checked_mul(BODY_LEN_MAX as u64)?;
        let left = self.len.checked_sub(done).filter(|left| *left > 0)?;
        let offset = self.offset.checked_add(number * PART_LEN_MAX as u64)?;
        let len = part_len(left.min(BODY_LEN_MAX as u64) as usize);
        offset.checked_add(len as u64).map(|_| Handle { offset, len })
    }

    /// Its parts in order.
    pub fn parts(self) -> impl Iterator<Item = Handle> {
        (0..).map_while(move |number| self.part(number))
    }

    /// Bytes on disk, headers and padding included.
    pub fn disk_len(&self) -> u64 {
        let whole = self.len / BODY_LEN_MAX as u64;
        let rest = (self.len % BODY_LEN_MAX as u64) as usize;
        whole * part_len(BODY_LEN_MAX) as u64 + if rest > 0 { part_len(rest) as u64 } else { 0 }
    }
}

/// What rows a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All of them.
    pub row_count: u64,
    /// Those that are puts.
    pub put_count: u64,
    /// Those that are tombstones.
    pub delete_count: u64,
    /// Those that have an expiry.
    pub expiring_count: u64,
    /// The oldest version.
    pub timestamp_min: Timestamp,
    /// The newest version.
    pub timestamp_max: Timestamp,
    /// The first deadline, unix milliseconds; 0 if no row has one.
    pub expiry_min_ms: u64,
    /// The last deadline; 0 if no row has one.
    pub expiry_max_ms: u64,
    /// Bytes of all encoded keys.
    pub key_len: u64,
    /// Bytes of all values, large ones included.
    pub value_len: u64,
    /// Bytes of large values.
    pub large_len: u64,
}

impl Statistics {
    /// Counts a row.
    pub fn count(&mut self, row: &Row<'_>) {
        let is_first = self.row_count == 0;
        self.row_count += 1;
        match row.kind {
            Kind::Put => self.put_count += 1,
            Kind::Delete => self.delete_count += 1,
        }
        let at = row.timestamp;
        self.timestamp_min = if is_first { at } else { self.timestamp_min.min(at) };
        self.timestamp_max = self.timestamp_max.max(at);
        if let Some(expiry_ms) = row.expiry_ms {
            let is_first = self.expiring_count == 0;
            self.expiring_count += 1;
            let min = if is_first { expiry_ms } else { self.expiry_min_ms.min(expiry_ms) };
            self.expiry_min_ms = min;
            self.expiry_max_ms = self.expiry_max_ms.max(expiry_ms);
        }
        self.key_len += row.key.len() as u64;
        self.value_len += row.value.len();
        if let Value::Large(large) = row.value {
            self.large_len += large.len;
        }
    }
}

/// Who wrote a table, and under which number: as its footer says, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The log of the shard.
    pub log: LogId,
    /// The file's number there.
    pub number: u64,
}

/// All that must be kept of a table to open it and to choose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The log of the shard that has it.
    pub log: LogId,
    /// The file's number there.
    pub number: u64,
    /// Who wrote it, if that was another shard: it came as a file.
    pub origin: Option<Origin>,
    /// Bytes of the file.
    pub file_len: u64,
    /// The footer's: it names these very bytes.
    pub checksum: u64,
    /// What rows it has.
    pub statistics: Statistics,
    /// The first row's key, encoded.
    pub smallest: Vec<u8>,
    /// The last row's key, encoded.
    pub largest: Vec<u8>,
}

impl Meta {
    /// Who wrote it.
    pub fn origin(&self) -> Origin {
        self.origin.unwrap_or(Origin { log: self.log, number: self.number })
    }

    /// The same table as a file of another log, or under another number.
    pub fn copied(&self, log: LogId, number: u64) -> Self {
        let origin = Some(self.origin()).filter(|origin| *origin != Origin { log, number });
        Self { log, number, origin, ..self.clone() }
    }
}

/// The last sector of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The log of the shard that wrote it.
    pub log: LogId,
    /// The file's number.
    pub number: u64,
    /// Random, so that no two files are alike.
    pub nonce: u64,
    /// Bytes of the file, this sector included.
    pub file_len: u64,
    /// See [`fold`].
    pub digest: u64,
    /// What its writer was told to use.
    pub compression: Compression,
    /// What rows it has.
    pub statistics: Statistics,
    /// Parts that hold rows.
    pub row_parts: u64,
    /// Where the first leaf begins, and how many bytes on disk all have; they have no gap.
    pub leaves: (u64, u64),
    /// Where the index's upper level is.
    pub top: Run,
    /// Where the filter is.
    pub filter: Run,
    /// Where the bounds are: the smallest key, then the largest.
    pub bounds: Run,
    /// How much of the bounds is the smallest key.
    pub smallest_len: usize,
}

/// Why a last sector is not a footer for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFooter {
    /// Never written, or not whole.
    Absent,
    /// Whole, but of a version that this program does not know.
    Version(u32),
}

/// Takes the checksum of the next part of the file into the digest of those before; 0 before all.
pub fn fold(digest: u64, checksum: u64) -> u64 {
    (digest.rotate_left(23) ^ checksum).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The seed of all part checksums of a file.
pub fn seed_of(log: LogId, number: u64, nonce: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&nonce.to_le_bytes());
    xxh3_64_with_seed(&bytes, log.key())
}

impl Footer {
    /// The seed of all part checksums of the file.
    pub fn seed(&self) -> u64 {
        seed_of(self.log, self.number, self.nonce)
    }

    fn numbers(&self) -> [u64; NUMBER_COUNT] {
        let of = &self.statistics;
        [
            self.number,
            self.nonce,
            self.file_len,
            self.digest,
            of.row_count,
            of.put_count,
            of.delete_count,
            of.expiring_count,
            of.timestamp_min.0,
            of.timestamp_max.0,
            of.expiry_min_ms,
            of.expiry_max_ms,
            of.key_len,
            of.value_len,
            of.large_len,
            self.row_parts,
            self.leaves.0,
            self.leaves.1,
            self.top.offset,
            self.top.len,
            self.filter.offset,
            self.filter.len,
            self.bounds.offset,
        ]
    }

    /// Writes the footer over the first sector of `sector`; returns its checksum.
    pub fn encode(&self, sector: &mut [u8]) -> u64 {
        let sector = &mut sector[..SECTOR_LEN];
        sector.fill(0);
        sector[MAGIC_AT].copy_from_slice(&MAGIC.to_le_bytes());
        sector[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        sector[SHARD].copy_from_slice(&self.log.shard.0.to_le_bytes());
        sector[COMPRESSION] = self.compression as u8;
        sector[LOG_ID].copy_from_slice(&self.log.directory.to_le_bytes());
        for (bytes, number) in sector[NUMBERS].chunks_exact_mut(8).zip(self.numbers()) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        let largest_len = self.bounds.len as usize - self.smallest_len;
        sector[SMALLEST_LEN].copy_from_slice(&(self.smallest_len as u32).to_le_bytes());
        sector[LARGEST_LEN].copy_from_slice(&(largest_len as u32).to_le_bytes());
        seal_footer(sector)
    }

    /// Reads a last sector back: the footer and its checksum.
    ///
    /// # Errors
    /// As [`BadFooter`].
    pub fn decode(sector: &[u8]) -> Result<(Self, u64), BadFooter> {
        let sector = sector.get(..SECTOR_LEN).ok_or(BadFooter::Absent)?;
        let checksum = u64_at(sector, CHECKSUM.start);
        let is_footer = u64_at(sector, MAGIC_AT.start) == MAGIC;
        if !is_footer || checksum != xxh3_64(&sector[CHECKSUM.end..]) {
            return Err(BadFooter::Absent);
        }
        let version = u32_at(sector, VERSION_AT.start);
        if version != VERSION {
            return Err(BadFooter::Version(version));
        }
        let footer = Self::read(sector).ok_or(BadFooter::Absent)?;
        if footer.is_plausible() { Ok((footer, checksum)) } else { Err(BadFooter::Absent) }
    }

    fn read(sector: &[u8]) -> Option<Self> {
        let directory = u128::from_le_bytes(sector[LOG_ID].try_into().expect("sixteen bytes"));
        let shard = u16::from_le_bytes(sector[SHARD].try_into().expect("two bytes"));
        let number = |n: usize| u64_at(sector, NUMBERS.start + n * 8);
        let (smallest_len, largest_len) =
            (u32_at(sector, SMALLEST_LEN.start), u32_at(sector, LARGEST_LEN.start));
        Some(Self {
            log: LogId { directory, shard: ShardId(shard) },
            number: number(0),
            nonce: number(1),
            file_len: number(2),
            digest: number(3),
            compression: Compression::of(sector[COMPRESSION])?,
            statistics: Statistics {
                row_count: number(4),
                put_count: number(5),
                delete_count: number(6),
                expiring_count: number(7),
                timestamp_min: Timestamp(number(8)),
                timestamp_max: Timestamp(number(9)),
                expiry_min_ms: number(10),
                expiry_max_ms: number(11),
                key_len: number(12),
                value_len: number(13),
                large_len: number(14),
            },
            row_parts: number(15),
            leaves: (number(16), number(17)),
            top: Run { offset: number(18), len: number(19) },
            filter: Run { offset: number(20), len: number(21) },
            bounds: Run {
                offset: number(22),
                len: u64::from(smallest_len) + u64::from(largest_len),
            },
            smallest_len: smallest_len as usize,
        })
    }

    /// Whether all that it names follows on each other up to itself: so that nothing it says makes
    /// a reader ask for more than the file has.
    fn is_plausible(&self) -> bool {
        let sector = SECTOR_LEN as u64;
        let end = |offset: u64, len: u64| offset.checked_add(len).filter(|end| end % sector == 0);
        let run_end = |run: Run| end(run.offset, run.disk_len());
        self.file_len >= 2 * sector
            && self.bounds.len <= 2 * ROW_KEY_LEN_MAX as u64
            && [self.top.len, self.filter.len].iter().all(|len| *len < self.file_len)
            && end(self.leaves.0, self.leaves.1) == Some(self.top.offset)
            && run_end(self.top) == Some(self.filter.offset)
            && run_end(self.filter) == Some(self.bounds.offset)
            && run_end(self.bounds) == Some(self.file_len - sector)
            && self.leaves.0.is_multiple_of(sector)
    }

    /// What must be kept of the table, with the bounds as read and the footer's checksum; none if
    /// those are not its bounds.
    pub fn meta(&self, checksum: u64, bounds: &[u8]) -> Option<Meta> {
        let (smallest, largest) = bounds.split_at_checked(self.smallest_len)?;
        (bounds.len() as u64 == self.bounds.len).then(|| Meta {
            log: self.log,
            number: self.number,
            origin: None,
            file_len: self.file_len,
            checksum,
            statistics: self.statistics,
            smallest: smallest.to_vec(),
            largest: largest.to_vec(),
        })
    }
}

/// Puts the checksum into a footer's sector and returns it.
pub fn seal_footer(sector: &mut [u8]) -> u64 {
    let checksum = xxh3_64(&sector[CHECKSUM.end..SECTOR_LEN]);
    sector[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    checksum
}
