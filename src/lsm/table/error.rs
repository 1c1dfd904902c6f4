//! Why a table could not be written or read.

use std::io;
use std::path::{Path, PathBuf};

use crate::lsm::block::{BadFooter, Malformed, VERSION};

/// See the variants.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. A table that was being written is worth nothing.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Fewer bytes were written than asked: the disk is full or broken.
    #[error("write {}: {written} of {len} bytes at byte {offset}", path.display())]
    Short {
        /// The table.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Asked for.
        len: usize,
        /// Done.
        written: usize,
    },

    /// A checksum or a bound proves the bytes wrong. Never served, never skipped.
    #[error("corrupt table: no valid {what} at byte {offset} of {}", path.display())]
    Corrupt {
        /// The part.
        what: &'static str,
        /// The table.
        path: PathBuf,
        /// Where in it the part begins.
        offset: u64,
    },

    /// The file has another length than it was written with.
    #[error("corrupt table: {} has {len} bytes and had {expected}", path.display())]
    Length {
        /// The table.
        path: PathBuf,
        /// Bytes it has.
        len: u64,
        /// Bytes it had.
        expected: u64,
    },

    /// Sound, and another table than the one that should be there.
    #[error(
        "{} is another table: its {what} is not the one that was written here; put back the file \
         that belongs here", path.display()
    )]
    Foreign {
        /// What tells them apart.
        what: &'static str,
        /// The table.
        path: PathBuf,
    },

    /// Written by another version.
    #[error(
        "{} has table format {version} and this program knows {known}: use the version of stave \
         that wrote it", path.display()
    )]
    Version {
        /// The table.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What we know.
        known: u32,
    },
}

impl Error {
    /// Whether it says that the disk is full: what cuts a write short is that, most likely.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            Self::Short { .. } => true,
            _ => false,
        }
    }

    /// Whether the file is not what was written: another try will not help.
    pub fn is_corrupt(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Short { .. })
    }

    /// A part of the table at `path` is wrong.
    pub fn corrupt(path: &Path, offset: u64, malformed: Malformed) -> Self {
        Self::Corrupt { what: malformed.what, path: path.to_owned(), offset }
    }

    /// The sector at `offset` is not a footer for us.
    pub fn footer(path: &Path, offset: u64, bad: BadFooter) -> Self {
        let path = path.to_owned();
        match bad {
            BadFooter::Absent => Self::Corrupt { what: "footer", path, offset },
            BadFooter::Version(version) => Self::Version { path, version, known: VERSION },
        }
    }
}

/// Adds what was tried, and on what, to an error of the disk's.
pub(super) fn io<T>(op: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.to_owned(), source })
}
