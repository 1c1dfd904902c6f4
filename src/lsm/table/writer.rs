//! Writing a table, row by row, from start to end.
//!
//! Rows gather in a part until the next one would need another sector; then the part is closed if
//! at most an eighth of it would be padding, or if it has [`ROWS_SECTORS_MAX`] sectors. So small
//! rows are read with one read of one sector, and rows of a size that does not divide a sector cost
//! few bytes more than they have.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::output::Output;
use super::{Options, Table};
use crate::env::Env;
use crate::limits::SECTOR_LEN;
use crate::lsm::block::{
    BODY_LEN_MAX, Builder, Compression, Footer, HEADER_LEN, Handle, Kind, LARGE_LEN_MIN, Large,
    Meta, Packer, Part, PartKind, ROW_KEY_LEN_MAX, Row, Run, Statistics, Value, fold, hash_of,
    part_len, seal, seed_of, separator,
};
use crate::lsm::filter::Filter;

/// Rows of a part share their keys' beginnings in groups of so many.
const ROWS_INTERVAL: u32 = 8;
/// Entries of the index do: places are short, keys are what costs.
const INDEX_INTERVAL: u32 = 8;
/// A part of rows does not grow beyond this to have less padding.
const ROWS_SECTORS_MAX: usize = 4;
/// A part of rows that will be compressed is closed when it has this many bytes.
const ROWS_RAW_LEN: usize = 32 << 10;
/// A leaf is closed when it fills a sector, but not with fewer entries than this: keys may be long,
/// and there must be fewer leaves than parts of rows.
const LEAF_ENTRIES_MIN: u32 = 16;
/// Nor does it grow beyond this. Bytes.
const LEAF_LEN_MAX: usize = 512 << 10;
/// Bytes of work after which others run: about 100 us.
const WORK_LEN: usize = 64 << 10;
/// What a row costs besides its bytes, in those.
const ROW_WORK_LEN: usize = 64;

/// A table being written. Dropped before [`Writer::finish`], it leaves a file that is worth
/// nothing and the caller's to remove. Lives on one core.
pub struct Writer<E: Env> {
    env: E,
    path: PathBuf,
    options: Options,
    output: Output<E>,
    nonce: u64,
    seed: u64,
    digest: u64,

    rows: Builder,
    row_parts: u64,
    leaf: Builder,
    /// Closed leaves, decompressed, with the last key of each.
    leaves: Vec<(Vec<u8>, u32, Vec<u8>)>,
    hashes: Vec<u64>,
    smallest: Vec<u8>,
    last_key: Vec<u8>,
    last_timestamp: u64,
    statistics: Statistics,

    work: usize,
    /// The head of the row that is added.
    head: Vec<u8>,
    /// The body of an index entry.
    place: Vec<u8>,
    packer: Packer,
}

/// Opening, and what it says of itself.
impl<E: Env> Writer<E> {
    /// Creates the file at `path`, which must not be there.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn create(env: &E, path: &Path, options: Options) -> Result<Self, Error> {
        let nonce = env.random();
        Ok(Self {
            env: env.clone(),
            path: path.to_owned(),
            output: Output::create(env, path).await?,
            nonce,
            seed: seed_of(options.log, options.number, nonce),
            options,
            digest: 0,
            rows: Builder::new(ROWS_INTERVAL),
            row_parts: 0,
            leaf: Builder::new(INDEX_INTERVAL),
            leaves: Vec::new(),
            hashes: Vec::new(),
            smallest: Vec::new(),
            last_key: Vec::new(),
            last_timestamp: 0,
            statistics: Statistics::default(),
            work: 0,
            head: Vec::new(),
            place: Vec::new(),
            packer: Packer::new(options.compression),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes so far, without index and filter, which add some 2 %.
    pub fn file_len(&self) -> u64 {
        self.output.offset() + self.rows.len() as u64
    }

    /// Rows so far.
    pub fn row_count(&self) -> u64 {
        self.statistics.row_count
    }

    /// The key of the last row; empty if there is none.
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }
}

/// Rows.
impl<E: Env> Writer<E> {
    /// Adds a row whose value is given. A large one is written to the file piece by piece before
    /// this ends. Lets others run every 100 us or so.
    ///
    /// # Errors
    /// As the disk's; the table is lost then.
    ///
    /// # Panics
    /// If the row is not behind the last one, its key is over [`ROW_KEY_LEN_MAX`], or its value is
    /// in another table: [`Writer::add_large`].
    pub async fn add(&mut self, row: &Row<'_>) -> Result<(), Error> {
        let Value::Bytes(value) = row.value else { panic!("whose value is it? {:?}", row.value) };
        if value.len() < LARGE_LEN_MIN {
            return self.push(row, value).await;
        }
        let offset = self.output.offset();
        for (number, piece) in value.chunks(BODY_LEN_MAX).enumerate() {
            let raw = |body: &mut [u8]| body.copy_from_slice(piece);
            self.write_part(PartKind::Chunk, piece.len(), number as u32, raw).await?;
        }
        let value = Value::Large(Large { offset, len: value.len() as u64 });
        self.push(&Row { value, ..*row }, &[]).await
    }

    /// Adds a row of the table `from`, whose value is a large one of that table, and streams it.
    ///
    /// # Errors
    /// As the disk's; and as [`Table::chunks`] of the other table.
    ///
    /// # Panics
    /// As [`Writer::add`], and if the value is not a large one.
    pub async fn add_large(&mut self, row: &Row<'_>, from: &Table<E>) -> Result<(), Error> {
        let Value::Large(large) = row.value else { panic!("not a large value: {:?}", row.value) };
        let offset = self.output.offset();
        let (mut chunks, mut number) = (from.chunks(large), 0);
        while let Some(piece) = chunks.next().await? {
            let raw = |body: &mut [u8]| body.copy_from_slice(piece);
            self.write_part(PartKind::Chunk, piece.len(), number, raw).await?;
            number += 1;
        }
        let value = Value::Large(Large { offset, len: large.len });
        self.push(&Row { value, ..*row }, &[]).await
    }

    /// Adds a row as it is to be stored; `bytes` is what follows the head of its body.
    async fn push(&mut self, row: &Row<'_>, bytes: &[u8]) -> Result<(), Error> {
        let is_new_key = self.check_order(row);
        let body_len = row.encode_head(&mut self.head);
        if self.is_part_full(row.key, body_len) {
            self.close_rows(row.key).await?;
        }
        self.rows.add(row.key, &self.head, bytes);
        self.statistics.count(row);
        if is_new_key {
            self.hashes.push(hash_of(row.key));
            self.last_key.clear();
            self.last_key.extend_from_slice(row.key);
        }
        self.last_timestamp = row.timestamp.0;
        self.worked(ROW_WORK_LEN + row.key.len() + bytes.len()).await;
        Ok(())
    }

    /// Whether the row has another key than the one before, behind which it must be.
    fn check_order(&mut self, row: &Row<'_>) -> bool {
        assert!(row.key.len() <= ROW_KEY_LEN_MAX, "a key of {} bytes", row.key.len());
        let is_bare = row.value.is_empty() && row.expiry_ms.is_none();
        assert!(row.kind == Kind::Put || is_bare, "a delete with a value or an expiry");
        if self.statistics.row_count == 0 {
            self.smallest.extend_from_slice(row.key);
            return true;
        }
        let order = self.last_key.as_slice().cmp(row.key);
        let is_behind = order.is_lt() || (order.is_eq() && row.timestamp.0 < self.last_timestamp);
        assert!(is_behind, "the rows are out of order at {:?}", row.key.escape_ascii());
        order.is_lt()
    }

    /// Whether the open part is better closed before such an entry.
    fn is_part_full(&self, key: &[u8], body_len: usize) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        let len = self.rows.len();
        let longer = len + self.rows.len_of(key, body_len);
        if self.options.compression != Compression::None {
            return longer > ROWS_RAW_LEN;
        }
        let part = part_len(len);
        let padding = part - HEADER_LEN - len;
        part_len(longer) > part && (padding * 8 <= part || part >= ROWS_SECTORS_MAX * SECTOR_LEN)
    }

    /// Lets others run if it is time.
    async fn worked(&mut self, work: usize) {
        self.work += work;
        if self.work >= WORK_LEN {
            self.work = 0;
            self.env.yield_now().await;
        }
    }
}

/// Parts.
impl<E: Env> Writer<E> {
    /// Writes the open part of rows; `next` is the key that follows, or nothing at the end.
    async fn close_rows(&mut self, next: &[u8]) -> Result<(), Error> {
        let count = self.rows.count();
        let raw = self.rows.finish();
        let (compression, body) = self.packer.pack(raw);
        let part = Part {
            kind: PartKind::Rows,
            compression,
            body_len: body.len(),
            raw_len: raw.len(),
            count,
        };
        let offset = self.output.offset();
        let len = part_len(body.len());
        let room = self.output.room(len).await?;
        room[part.body()].copy_from_slice(body);
        self.digest = fold(self.digest, seal(&part, self.seed, offset, room));
        self.output.took(len);
        self.rows.clear();
        self.row_parts += 1;
        let mut key = std::mem::take(&mut self.last_key);
        self.last_key.extend_from_slice(&key);
        if !next.is_empty() {
            separator(&mut key, next);
        }
        self.index(key, Handle { offset, len });
        Ok(())
    }

    /// Notes in the open leaf where a part of rows is.
    fn index(&mut self, key: Vec<u8>, handle: Handle) {
        handle.encode(&mut self.place);
        let longer = self.leaf.len() + self.leaf.len_of(&key, self.place.len());
        let is_full = longer > SECTOR_LEN - HEADER_LEN && self.leaf.count() >= LEAF_ENTRIES_MIN;
        if is_full || longer > LEAF_LEN_MAX {
            self.close_leaf();
        }
        self.leaf.add(&key, &self.place, &[]);
    }

    fn close_leaf(&mut self) {
        if self.leaf.is_empty() {
            return;
        }
        let (count, key) = (self.leaf.count(), self.leaf.last_key().to_vec());
        self.leaves.push((self.leaf.finish().to_vec(), count, key));
        self.leaf.clear();
    }

    /// Writes a part that is not compressed, whose body `fill` makes.
    async fn write_part(
        &mut self,
        kind: PartKind,
        len: usize,
        count: u32,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Handle, Error> {
        let part =
            Part { kind, compression: Compression::None, body_len: len, raw_len: len, count };
        let (whole, offset) = (part_len(len), self.output.offset());
        let room = self.output.room(whole).await?;
        fill(&mut room[part.body()]);
        self.digest = fold(self.digest, seal(&part, self.seed, offset, room));
        self.output.took(whole);
        self.worked(whole).await;
        Ok(Handle { offset, len: whole })
    }

    /// Writes a run of `len` bytes; `read` copies from a place on.
    async fn write_run(
        &mut self,
        kind: PartKind,
        len: usize,
        read: impl Fn(usize, &mut [u8]),
    ) -> Result<Run, Error> {
        let offset = self.output.offset();
        for (number, at) in (0..len).step_by(BODY_LEN_MAX).enumerate() {
            let body_len = BODY_LEN_MAX.min(len - at);
            self.write_part(kind, body_len, number as u32, |body| read(at, body)).await?;
        }
        Ok(Run { offset, len: len as u64 })
    }
}

/// Ending.
impl<E: Env> Writer<E> {
    /// Writes what is left, the index, the filter and the footer, and makes the file durable. The
    /// caller syncs the directory.
    ///
    /// # Errors
    /// As the disk's; the table is lost then.
    ///
    /// # Panics
    /// If no row was added: a table has bounds.
    pub async fn finish(mut self) -> Result<Meta, Error> {
        assert!(self.statistics.row_count > 0, "a table without rows");
        self.close_rows(&[]).await?;
        self.close_leaf();
        let (leaves, top) = self.write_index().await?;
        let filter = self.write_filter().await?;
        let bounds = [self.smallest.as_slice(), &self.last_key].concat();
        let read = |at, body: &mut [u8]| copy_from(&bounds, at, body);
        let bounds_run = self.write_run(PartKind::Bounds, bounds.len(), read).await?;
        let footer = Footer {
            log: self.options.log,
            number: self.options.number,
            nonce: self.nonce,
            file_len: self.output.offset() + SECTOR_LEN as u64,
            digest: self.digest,
            compression: self.options.compression,
            statistics: self.statistics,
            row_parts: self.row_parts,
            leaves,
            top,
            filter,
            bounds: bounds_run,
            smallest_len: self.smallest.len(),
        };
        let checksum = footer.encode(self.output.room(SECTOR_LEN).await?);
        self.output.took(SECTOR_LEN);
        self.output.finish().await?;
        Ok(footer.meta(checksum, &bounds).expect("these are its bounds"))
    }

    async fn write_index(&mut self) -> Result<((u64, u64), Run), Error> {
        let offset = self.output.offset();
        let mut top = Builder::new(INDEX_INTERVAL);
        for (leaf, count, key) in std::mem::take(&mut self.leaves) {
            let fill = |body: &mut [u8]| body.copy_from_slice(&leaf);
            let handle = self.write_part(PartKind::Leaf, leaf.len(), count, fill).await?;
            handle.encode(&mut self.place);
            top.add(&key, &self.place, &[]);
        }
        let len = self.output.offset() - offset;
        let top = top.finish();
        let read = |at, body: &mut [u8]| copy_from(top, at, body);
        Ok(((offset, len), self.write_run(PartKind::Top, top.len(), read).await?))
    }

    async fn write_filter(&mut self) -> Result<Run, Error> {
        let hashes = std::mem::take(&mut self.hashes);
        let mut filter = Filter::with_room(hashes.len());
        for some in hashes.chunks(4096) {
            some.iter().for_each(|hash| filter.insert(*hash));
            self.worked(some.len() * 16).await;
        }
        drop(hashes);
        let read = |at, body: &mut [u8]| filter.read(at, body);
        self.write_run(PartKind::Filter, filter.byte_len(), read).await
    }
}

fn copy_from(bytes: &[u8], at: usize, body: &mut [u8]) {
    body.copy_from_slice(&bytes[at..at + body.len()]);
}
