//! The manifest as a file: read at the start, appended to, written anew when it has grown.
//!
//! ```text
//! {seq:020}.manifest      the one with the highest number counts
//! new-{seq:020}.manifest  on its way to become one; worth nothing after a crash
//! ```
//!
//! Each start begins a new file, and so does an edit that the old one has no room for: a snapshot
//! under a passing name, synced, renamed, and only when the name is durable the old one goes. An
//! edit is one write behind the last, synced before anyone is told.
//!
//! An edit whose write failed may be in the file or not. Reading it back would not tell: after a
//! failed sync a read shows what was written and not what is durable. So the manifest goes on in a
//! new file, whose snapshot has the edit ([`Manifest::renew`]); until that is durable either fate
//! of the edit is right, since nobody was told, and from then on the old file does not count.

use std::io;
use std::path::{Path, PathBuf};

use super::format::{self, Header, Kind};
use super::replay::{Damage, replay};
use super::{Edit, State, Unfit};
use crate::env::{Aligned, Env, File, Mode};
use crate::limits::SECTOR_LEN;
use crate::lsm::table;
use crate::wal::LogId;

/// A file may grow to this, bytes, or to four times its snapshot.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Bytes of one read or write.
const PIECE_LEN: usize = 1 << 20;

/// Where a manifest is, and whose it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory, with the tables.
    pub dir: PathBuf,
    /// The shard's log.
    pub log: LogId,
}

/// Why a manifest can not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was durable can not be read.
    #[error(
        "corrupt manifest: no valid record at byte {offset} of {}; restore this file from a copy, \
         or the directory from a backup", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// A manifest of something else.
    #[error(
        "{} belongs to another data directory or shard, or has another's name; put back the file \
         that was here", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A version that this program does not know.
    #[error(
        "{} has version {version}, this program reads version {}; start the program that wrote it",
        path.display(), format::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// There are tables, and nothing that says which count.
    #[error(
        "there are tables in {} and no manifest; restore it from a copy, or the directory from a \
         backup", dir.display()
    )]
    Lost {
        /// Where.
        dir: PathBuf,
    },
    /// An edit that contradicts the manifest; nothing was written.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

fn io<T>(op: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.to_owned(), source })
}

/// The name of manifest `seq`.
pub fn file_name(seq: u64) -> String {
    format!("{seq:020}.manifest")
}

/// The number of a manifest's name; none for anything else.
pub fn seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".manifest")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

fn new_name(seq: u64) -> String {
    format!("new-{}", file_name(seq))
}

/// A manifest that was read.
#[derive(Debug, Default)]
pub struct Read {
    state: State,
    /// The highest number of a file, 0: there is none.
    seq: u64,
}

impl Read {
    /// Reads the manifest; an empty state if the directory has none, and no tables. Changes
    /// nothing.
    ///
    /// # Errors
    /// As [`Error`].
    pub async fn of<E: Env>(env: &E, options: &Options) -> Result<Self, Error> {
        let names = match env.list(&options.dir).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            names => io("list", &options.dir, names)?,
        };
        let Some(seq) = names.iter().filter_map(|name| seq_of(name)).max() else {
            let has_tables = names.iter().any(|name| table::number_of(name).is_some());
            let dir = options.dir.clone();
            return if has_tables { Err(Error::Lost { dir }) } else { Ok(Self::default()) };
        };
        let path = options.dir.join(file_name(seq));
        let bytes = read_whole(env, &path).await?;
        let state = replay(&bytes, options.log, seq).map_err(|damage| match damage {
            Damage::Corrupt { offset } => Error::Corrupt { path, offset },
            Damage::Foreign => Error::Foreign { path },
            Damage::Version(version) => Error::Version { path, version },
        })?;
        Ok(Self { state, seq })
    }

    /// What it says.
    pub fn state(&self) -> &State {
        &self.state
    }
}

async fn read_whole<E: Env>(env: &E, path: &Path) -> Result<Vec<u8>, Error> {
    let file = io("open", path, env.open(path, Mode::Read).await)?;
    let len = io("stat", path, file.size())?;
    let (mut bytes, mut buf) = (Vec::new(), Aligned::zeroed(PIECE_LEN));
    while (bytes.len() as u64) < len {
        let (result, back) = file.read_at(buf, PIECE_LEN, bytes.len() as u64).await;
        buf = back;
        let count = io("read", path, result)?;
        bytes.extend_from_slice(&buf[..count]);
        // Shorter than its length says, or not whole sectors: the rest is not there to be read.
        if count == 0 || count % SECTOR_LEN != 0 {
            break;
        }
    }
    Ok(bytes)
}

/// The manifest of a shard, open for edits.
pub struct Manifest<E: Env> {
    env: E,
    options: Options,
    state: State,
    file: E::File,
    path: PathBuf,
    seq: u64,
    /// Where the next record goes, its number, and the checksum of the last.
    end: u64,
    number: u64,
    chain: u64,
    len_max: u64,
    /// The last write failed: nothing may follow it in this file.
    is_unknown: bool,
}

impl<E: Env> Manifest<E> {
    /// Goes on with what was read, in a new file. Removes what nobody needs: older manifests, and
    /// tables that the state does not name.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn open(env: &E, options: &Options, read: Read) -> Result<Self, Error> {
        make_dir(env, &options.dir).await?;
        let Read { state, seq } = read;
        let seq = seq + 1;
        let (file, end, chain) = begin(env, options, seq, &state).await?;
        let path = options.dir.join(file_name(seq));
        let (number, len_max) = (1, len_max(end));
        let options = options.clone();
        let env = env.clone();
        let is_unknown = false;
        let manifest =
            Self { env, options, state, file, path, seq, end, number, chain, len_max, is_unknown };
        manifest.tidy().await?;
        Ok(manifest)
    }

    /// What it says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes an edit in; durable when this ends.
    ///
    /// # Errors
    /// [`Error::Unfit`]: nothing has changed. As the disk's: the state has the edit, and whether
    /// the file has it is not known before [`Manifest::renew`] succeeds, which has to come next.
    ///
    /// # Panics
    /// If it does not.
    pub async fn commit(&mut self, edit: Edit) -> Result<(), Error> {
        assert!(!self.is_unknown, "an edit behind one whose write failed: {}", self.path.display());
        self.state.check(&edit)?;
        let log = self.options.log;
        let (seq, number, chain) = (self.seq, self.number, self.chain);
        let header = Header { kind: Kind::Edit, log, seq, number, chain };
        let mut record = Vec::new();
        let checksum = format::encode(&header, &edit, &mut record);
        self.state.apply(edit)?;
        if self.end + record.len() as u64 > self.len_max {
            return self.renew().await;
        }
        self.is_unknown = true;
        write(&self.file, &self.path, self.end, &record).await?;
        self.is_unknown = false;
        self.end += record.len() as u64;
        (self.number, self.chain) = (number + 1, checksum);
        Ok(())
    }

    /// Goes on in a new file, which has all edits, also one whose write failed; durable when this
    /// ends. Nothing but the old manifest is removed: others are at work in the directory.
    ///
    /// # Errors
    /// As the disk's. It may be tried again, as often as it takes.
    pub async fn renew(&mut self) -> Result<(), Error> {
        self.is_unknown = true;
        let seq = self.seq + 1;
        let begun = begin(&self.env, &self.options, seq, &self.state).await;
        if begun.is_err() {
            // What there is of it would only take room from the next try.
            let _ = self.env.remove(&self.options.dir.join(new_name(seq))).await;
        }
        let (file, end, chain) = begun?;
        let old = std::mem::replace(&mut self.path, self.options.dir.join(file_name(seq)));
        (self.file, self.end, self.number, self.chain) = (file, end, 1, chain);
        (self.seq, self.len_max, self.is_unknown) = (seq, len_max(end), false);
        if let Err(error) = self.env.remove(&old).await {
            tracing::warn!(path = %old.display(), %error, "a manifest is not needed and stays");
        }
        Ok(())
    }

    async fn tidy(&self) -> Result<(), Error> {
        let dir = &self.options.dir;
        let names = io("list", dir, self.env.list(dir).await)?;
        let is_needed = |name: &str| match (table::number_of(name), seq_of(name)) {
            (Some(number), _) => self.state.has(number),
            (_, Some(seq)) => seq == self.seq,
            _ => !name.starts_with("new-"),
        };
        for name in names.iter().filter(|name| !is_needed(name)) {
            let path = dir.join(name);
            io("remove", &path, self.env.remove(&path).await)?;
        }
        Ok(())
    }
}

/// Writes a manifest that says `state` into a directory that has none; durable when this ends, with
/// all names that are there.
///
/// # Errors
/// As the disk's.
pub async fn write_copy<E: Env>(env: &E, options: &Options, state: &State) -> Result<(), Error> {
    make_dir(env, &options.dir).await?;
    begin(env, options, 1, state).await.map(drop)
}

fn len_max(snapshot_len: u64) -> u64 {
    FILE_LEN_MAX.max(4 * snapshot_len)
}

/// Creates the directory, durably.
async fn make_dir<E: Env>(env: &E, dir: &Path) -> Result<(), Error> {
    io("create", dir, env.create_dir(dir).await)?;
    for parent in dir.ancestors().skip(1).take(2) {
        io("sync", parent, env.sync_dir(parent).await)?;
    }
    Ok(())
}

/// Writes file `seq` with a snapshot; where it ends, and the snapshot's checksum.
async fn begin<E: Env>(
    env: &E,
    options: &Options,
    seq: u64,
    state: &State,
) -> Result<(E::File, u64, u64), Error> {
    let header = Header { kind: Kind::Snapshot, log: options.log, seq, number: 0, chain: 0 };
    let mut record = Vec::new();
    let checksum = format::encode(&header, &state.snapshot(), &mut record);
    let (new, path) = (options.dir.join(new_name(seq)), options.dir.join(file_name(seq)));
    // Left by a start that did not come to its end.
    match env.remove(&new).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => io("remove", &new, result)?,
    }
    let file = io("create", &new, env.open(&new, Mode::Create).await)?;
    write(&file, &new, 0, &record).await?;
    io("rename", &new, env.rename(&new, &path).await)?;
    io("sync", &options.dir, env.sync_dir(&options.dir).await)?;
    Ok((file, record.len() as u64, checksum))
}

/// Writes a record of whole sectors; durable when this ends.
async fn write<F: File>(file: &F, path: &Path, at: u64, record: &[u8]) -> Result<(), Error> {
    let mut buf = Aligned::zeroed(record.len().min(PIECE_LEN));
    let mut offset = at;
    for piece in record.chunks(PIECE_LEN) {
        buf[..piece.len()].copy_from_slice(piece);
        let (result, back) = file.write_at(buf, piece.len(), offset, false).await;
        buf = back;
        if io("write", path, result)? < piece.len() {
            return io("write", path, Err(io::ErrorKind::StorageFull.into()));
        }
        offset += piece.len() as u64;
    }
    io("sync", path, file.sync().await)
}

#[cfg(test)]
mod tests;
