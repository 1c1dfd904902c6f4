//! An SSTable as a file: written once from start to end, then read.
//!
//! The format is [`super::block`]'s; here is what drives it over an [`Env`]. After
//! [`Table::open`] the index's upper level and the filter are resident, some 11 bits per key; a
//! part of rows is a direct read, mostly of one sector, and so is a leaf of the index the first
//! time: leaves are a hundredth of the rows and stay in memory until [`Table::forget_leaves`].
//!
//! Invariants:
//! * Nothing is answered from bytes whose checksum was not verified when they were read.
//! * An open table is the very file that its [`Meta`] was made of: every field agrees.
//! * What is read is bounded by the file's length and a MiB per part, whatever the bytes say.
//!
//! Not here: which tables there are (the manifest); caches of rows; when a table is written.
//! Reading order: `writer`, this file, `iter`, `chunks`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

mod chunks;
mod error;
mod iter;
mod output;
#[cfg(test)]
mod tests;
mod writer;

pub use chunks::Chunks;
pub use error::Error;
pub use iter::Iter;
pub use output::Output;
pub use writer::Writer;

pub use super::block::{Compression, Large, Meta, Row, Value, hash_of};

use super::block::{
    Footer, Handle, Head, Kind, Malformed, Part, PartKind, Run, Sought, Unpacker, entry_at, find,
    find_row,
};
use super::filter::Filter;
use crate::env::{Aligned, Env, File as _, Mode};
use crate::id::Timestamp;
use crate::limits::SECTOR_LEN;
use crate::wal::format::LogId;
use error::io;

/// What a new table is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The log of the shard that writes it.
    pub log: LogId,
    /// The file's number; never used twice in a log.
    pub number: u64,
    /// How rows are stored.
    pub compression: Compression,
}

/// Bytes of a leaf in memory besides its own.
const LEAF_ENTRY_LEN: usize = 96;

/// The name of table `number`.
pub fn file_name(number: u64) -> String {
    format!("{number:020}.sst")
}

/// The number of a table's name; none for anything else.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".sst")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// The newest version of a key that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRow {
    /// When it was written.
    pub timestamp: Timestamp,
    /// Put or delete.
    pub kind: Kind,
    /// Absolute deadline, unix milliseconds.
    pub expiry_ms: Option<u64>,
    /// The value.
    pub value: OwnedValue,
}

/// Its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedValue {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// To be read: [`Table::read_value`].
    Large(Large),
}

/// A part of the file in memory, verified.
#[derive(Debug)]
pub struct Block {
    bytes: Aligned,
    part: Part,
    /// Decompressed, if it was compressed.
    raw: Vec<u8>,
}

impl Block {
    /// What it holds, decompressed.
    pub fn payload(&self) -> &[u8] {
        match self.part.compression {
            Compression::None => &self.bytes[self.part.body()],
            Compression::Lz4 | Compression::Zstd => &self.raw,
        }
    }

    /// Bytes of memory.
    pub fn memory_len(&self) -> usize {
        self.bytes.len() + self.raw.capacity()
    }
}

/// Decompresses the body of a part into `raw`, with what this core keeps for that.
fn unpack(part: &Part, bytes: &[u8], raw: &mut Vec<u8>) -> Result<(), Malformed> {
    thread_local!(static UNPACKER: RefCell<Unpacker> = RefCell::default());
    UNPACKER.with_borrow_mut(|unpacker| part.decompress(bytes, raw, unpacker))
}

struct Inner<E: Env> {
    env: E,
    file: E::File,
    path: PathBuf,
    meta: Meta,
    footer: Footer,
    top: Vec<u8>,
    filter: Filter,
    /// Leaves that were read by [`Table::get`], by where they are.
    leaves: RefCell<HashMap<u64, Rc<Block>, ahash::RandomState>>,
    /// Bytes of them.
    leaves_len: Cell<usize>,
    /// When all of it was last known to be as it was written.
    verified_at: Cell<Duration>,
}

/// A table open for reading; a handle that clones cheaply. Lives on one core.
pub struct Table<E: Env> {
    inner: Rc<Inner<E>>,
}

impl<E: Env> Clone for Table<E> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

/// Opening.
impl<E: Env> Table<E> {
    /// Opens the table that `meta` was made of. Reads the footer, the upper level of the index, the
    /// filter and the bounds.
    ///
    /// # Errors
    /// As the disk's; the file is damaged or another one.
    pub async fn open(env: &E, path: &Path, meta: &Meta) -> Result<Self, Error> {
        let file = io("open", path, env.open(path, Mode::Read).await)?;
        let len = io("stat", path, file.size())?;
        if len != meta.file_len {
            return Err(Error::Length { path: path.to_owned(), len, expected: meta.file_len });
        }
        let (footer, checksum) = read_footer::<E>(&file, path, len).await?;
        check_identity(&footer, checksum, meta, path)?;
        let seed = footer.seed();
        let of = |run, kind| read_run::<E>(&file, path, seed, run, kind);
        let top = of(footer.top, PartKind::Top).await?;
        let filter = of(footer.filter, PartKind::Filter).await?;
        let bounds = of(footer.bounds, PartKind::Bounds).await?;
        let corrupt = |offset, what| Error::corrupt(path, offset, Malformed { what });
        let filter = Filter::of(&filter).ok_or(corrupt(footer.filter.offset, "filter"))?;
        let found = footer.meta(checksum, &bounds);
        if found.map(|found| found.copied(meta.log, meta.number)).as_ref() != Some(meta) {
            return Err(Error::Foreign { what: "statistics", path: path.to_owned() });
        }
        let (env, path, meta) = (env.clone(), path.to_owned(), meta.clone());
        let seeds = ahash::RandomState::with_seeds(seed, meta.number, meta.checksum, 0);
        let leaves = RefCell::new(HashMap::with_hasher(seeds));
        let (leaves_len, verified_at) = (Cell::default(), Cell::new(env.now()));
        let inner =
            Inner { env, file, path, meta, footer, top, filter, leaves, leaves_len, verified_at };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// What is kept of it.
    pub fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Bytes that are resident while it is open.
    pub fn memory_len(&self) -> usize {
        let fixed = self.inner.top.capacity() + self.inner.filter.byte_len();
        fixed + size_of::<Inner<E>>() + self.inner.leaves_len.get()
    }

    /// Bytes of it that [`Table::forget_leaves`] frees.
    pub fn leaves_len(&self) -> usize {
        self.inner.leaves_len.get()
    }

    /// Forgets the leaves of the index that were read.
    pub fn forget_leaves(&self) {
        self.inner.leaves.borrow_mut().clear();
        self.inner.leaves_len.set(0);
    }

    /// When all of it was last read and found as it was written; before that, when it was opened.
    pub fn verified_at(&self) -> Duration {
        self.inner.verified_at.get()
    }

    /// All of it was read and is as it was written.
    pub fn note_verified(&self, at: Duration) {
        self.inner.verified_at.set(at);
    }

    /// False: the key of `hash` ([`hash_of`]) is not in the table. One key in a hundred that is not
    /// gets true.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        self.inner.filter.may_contain(hash)
    }
}

/// Reading.
impl<E: Env> Table<E> {
    /// The newest version of `key` that is not newer than `at`, a tombstone too. Asks no filter:
    /// [`Table::may_contain`] first. One read, seldom more, once the leaf is known.
    ///
    /// # Errors
    /// As the disk's; a part is damaged.
    pub async fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<OwnedRow>, Error> {
        let Some(mut leaf_at) = self.leaf_of(key)? else { return Ok(None) };
        // Versions of one key may go on in the part that follows, and in the leaf that does.
        let mut is_first = true;
        loop {
            let leaf_handle = leaf_at.0;
            let leaf = self.leaf(leaf_handle).await?;
            let mut place = self.place_in(&leaf, leaf_handle, is_first.then_some(key))?;
            while let Some((handle, next)) = place {
                let rows = self.read(PartKind::Rows, handle).await?;
                match self.wrong(handle, find_row(rows.payload(), key, at))? {
                    Sought::Found(head) => return Ok(Some(owned(&head, rows.payload()))),
                    Sought::Absent => return Ok(None),
                    Sought::Beyond => place = self.place_at(&leaf, leaf_handle, next)?,
                }
            }
            match self.next_leaf(leaf_at.1)? {
                Some(next) => leaf_at = next,
                None => return Ok(None),
            }
            is_first = false;
        }
    }

    /// The rows from `from` on, in order.
    pub fn iter(&self, from: &[u8]) -> Iter<E> {
        Iter::new(self.clone(), from)
    }

    /// A large value of this table, chunk by chunk.
    pub fn chunks(&self, large: Large) -> Chunks<E> {
        Chunks::new(self.clone(), large)
    }

    /// A large value of this table as a whole.
    ///
    /// # Errors
    /// As [`Chunks::next`].
    pub async fn read_value(&self, large: Large) -> Result<Arc<Vec<u8>>, Error> {
        let mut chunks = self.chunks(large);
        let mut value = Vec::with_capacity(chunks.left_len());
        while let Some(chunk) = chunks.next().await? {
            value.extend_from_slice(chunk);
        }
        Ok(Arc::new(value))
    }

    /// The leaf that may name `key`, and where its entry in the top ends.
    ///
    /// # Errors
    /// The top is malformed.
    pub fn leaf_of(&self, key: &[u8]) -> Result<Option<(Handle, usize)>, Error> {
        let top = &self.inner.top;
        let found = self.wrong_top(find(top, key))?;
        found.map(|found| self.wrong_top(handle_and_end(top, found.body))).transpose()
    }

    /// A leaf, from memory if it was read before.
    async fn leaf(&self, handle: Handle) -> Result<Rc<Block>, Error> {
        let known = self.inner.leaves.borrow().get(&handle.offset).cloned();
        if let Some(leaf) = known {
            return Ok(leaf);
        }
        let leaf = Rc::new(self.read(PartKind::Leaf, handle).await?);
        let before = self.inner.leaves.borrow_mut().insert(handle.offset, Rc::clone(&leaf));
        if before.is_none() {
            let len = leaf.memory_len() + LEAF_ENTRY_LEN;
            self.inner.leaves_len.set(self.inner.leaves_len.get() + len);
        }
        Ok(leaf)
    }

    /// The leaf whose entry in the top begins at `at`.
    fn next_leaf(&self, at: usize) -> Result<Option<(Handle, usize)>, Error> {
        let top = &self.inner.top;
        let entry = self.wrong_top(entry_at(top, at))?;
        entry.map(|entry| self.wrong_top(handle_and_end(top, entry.body))).transpose()
    }

    /// The part of rows that may have `key`, or the first of the leaf; and where its entry ends.
    fn place_in(
        &self,
        leaf: &Block,
        at: Handle,
        key: Option<&[u8]>,
    ) -> Result<Option<(Handle, usize)>, Error> {
        let Some(key) = key else { return self.place_at(leaf, at, 0) };
        let found = self.wrong(at, find(leaf.payload(), key))?;
        let place = found.map(|found| handle_and_end(leaf.payload(), found.body)).transpose();
        self.wrong(at, place)
    }

    /// The part of rows whose entry in the leaf begins at `next`.
    fn place_at(
        &self,
        leaf: &Block,
        at: Handle,
        next: usize,
    ) -> Result<Option<(Handle, usize)>, Error> {
        let entry = self.wrong(at, entry_at(leaf.payload(), next))?;
        let place = entry.map(|entry| handle_and_end(leaf.payload(), entry.body)).transpose();
        self.wrong(at, place)
    }

    /// Reads and verifies a part.
    ///
    /// # Errors
    /// As the disk's; it is not the part of that kind that was written there.
    pub async fn read(&self, kind: PartKind, handle: Handle) -> Result<Block, Error> {
        self.check(handle)?;
        let Handle { offset, len } = handle;
        let bytes = read_exact(self.begin_read(offset, len), &self.inner.path, len).await?;
        let (part, _) = self.verify(kind, handle, &bytes)?;
        let mut raw = Vec::new();
        if part.compression != Compression::None {
            self.wrong(handle, unpack(&part, &bytes, &mut raw))?;
        }
        Ok(Block { bytes, part, raw })
    }

    /// Bytes of the file as they are, whole sectors. Nothing is verified.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn bytes(&self, offset: u64, len: usize) -> Result<Aligned, Error> {
        read_exact(self.begin_read(offset, len), &self.inner.path, len).await
    }

    fn begin_read(&self, offset: u64, len: usize) -> impl Future<Output = ReadEnd> + 'static {
        self.inner.file.read_at(Aligned::zeroed(len), len, offset)
    }

    /// The part that fills `bytes`, read from `handle`.
    fn verify(&self, kind: PartKind, at: Handle, bytes: &[u8]) -> Result<(Part, u64), Error> {
        self.wrong(at, Part::open(kind, self.inner.footer.seed(), at.offset, bytes))
    }

    /// Whether the file has such a place.
    fn check(&self, handle: Handle) -> Result<(), Error> {
        let is_there = handle.end() <= self.inner.meta.file_len;
        let malformed = Malformed { what: "place" };
        self.wrong(handle, if is_there { Ok(()) } else { Err(malformed) })
    }

    fn wrong<T>(&self, at: Handle, result: Result<T, Malformed>) -> Result<T, Error> {
        result.map_err(|malformed| Error::corrupt(&self.inner.path, at.offset, malformed))
    }

    fn wrong_top<T>(&self, result: Result<T, Malformed>) -> Result<T, Error> {
        let offset = self.inner.footer.top.offset;
        result.map_err(|malformed| Error::corrupt(&self.inner.path, offset, malformed))
    }
}

fn handle_and_end(
    bytes: &[u8],
    body: std::ops::Range<usize>,
) -> Result<(Handle, usize), Malformed> {
    Ok((Handle::decode(bytes, body.clone())?, body.end))
}

fn owned(head: &Head, rows: &[u8]) -> OwnedRow {
    let value = match head.value(rows) {
        Value::Bytes(bytes) => OwnedValue::Bytes(bytes.to_vec()),
        Value::Large(large) => OwnedValue::Large(large),
    };
    let Head { timestamp, kind, expiry_ms, .. } = *head;
    OwnedRow { timestamp, kind, expiry_ms, value }
}

type ReadEnd = (std::io::Result<usize>, Aligned);

/// Awaits a read of `len` bytes that the file has.
async fn read_exact(
    read: impl Future<Output = ReadEnd>,
    path: &Path,
    len: usize,
) -> Result<Aligned, Error> {
    let (result, bytes) = read.await;
    if io("read", path, result)? < len {
        return io("read", path, Err(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

async fn read_footer<E: Env>(
    file: &E::File,
    path: &Path,
    len: u64,
) -> Result<(Footer, u64), Error> {
    let Some(offset) = len.checked_sub(SECTOR_LEN as u64).filter(|at| at % 4096 == 0) else {
        return Err(Error::corrupt(path, 0, Malformed { what: "footer" }));
    };
    let read = file.read_at(Aligned::zeroed(SECTOR_LEN), SECTOR_LEN, offset);
    let sector = read_exact(read, path, SECTOR_LEN).await?;
    Footer::decode(&sector).map_err(|bad| Error::footer(path, offset, bad))
}

/// That the file at `path` is the one that `meta` was made of, by its footer alone.
///
/// # Errors
/// [`Error::Foreign`].
pub fn check_identity(
    footer: &Footer,
    checksum: u64,
    meta: &Meta,
    path: &Path,
) -> Result<(), Error> {
    let origin = meta.origin();
    let what = if footer.log != origin.log {
        "log"
    } else if footer.number != origin.number {
        "number"
    } else if footer.file_len != meta.file_len {
        "length"
    } else if checksum != meta.checksum {
        "checksum"
    } else {
        return Ok(());
    };
    Err(Error::Foreign { what, path: path.to_owned() })
}

/// Reads a whole run; the footer was checked: the file has it.
async fn read_run<E: Env>(
    file: &E::File,
    path: &Path,
    seed: u64,
    run: Run,
    kind: PartKind,
) -> Result<Vec<u8>, Error> {
    let mut whole = Vec::with_capacity(run.len as usize);
    for (number, handle) in run.parts().enumerate() {
        let Handle { offset, len } = handle;
        let read = file.read_at(Aligned::zeroed(len), len, offset);
        let bytes = read_exact(read, path, len).await?;
        let part = Part::open_of_run(kind, seed, handle, number as u64, run, &bytes);
        let part = part.map_err(|malformed| Error::corrupt(path, offset, malformed))?;
        whole.extend_from_slice(&bytes[part.body()]);
    }
    Ok(whole)
}
