//! Why the log could not be written or read back.

use std::io;
use std::path::{Path, PathBuf};

use super::format::VERSION;
use super::segments;
use super::walk::Defect;

/// See the variants. Whoever meets one while writing stops acking.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. After a failed write, what is on disk is unknown.
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
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Asked for.
        len: usize,
        /// Done.
        written: usize,
    },

    /// Something later proves that what stood here was durable. Never skipped.
    #[error(
        "corrupt log: no valid {what} at byte {offset} of {}; the log was durable up to LSN \
         {durable} and can be read up to {end}; restore this file from a copy, or the directory \
         from a backup", path.display()
    )]
    Corrupt {
        /// A block, or a segment's header.
        what: &'static str,
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Where the readable log ends.
        end: u64,
        /// What something later knew to be durable.
        durable: u64,
    },

    /// Nothing later proves that what stood here was durable; but it was written as a whole, and
    /// may have been. Never skipped.
    #[error(
        "corrupt log: one bit of the {what} at byte {offset} of {} is not as it was written; \
         restore this file from a copy, or the directory from a backup", path.display()
    )]
    Flipped {
        /// A block, or a segment's header.
        what: &'static str,
        /// The segment.
        path: PathBuf,
        /// Where in it that begins.
        offset: u64,
    },

    /// The file lost its end.
    #[error(
        "corrupt log: {} has {len} bytes and its header says {expected}; restore this file from a \
         copy, or the directory from a backup", path.display()
    )]
    Truncated {
        /// The segment.
        path: PathBuf,
        /// Bytes it has.
        len: u64,
        /// Bytes it had.
        expected: u64,
    },

    /// A segment is not there, though the log went on in it: segments after it are there, or the
    /// one before was cut to the part that ends where it began.
    #[error(
        "corrupt log: {} is missing, though the log went on in it; restore it from a copy, or the \
         directory from a backup", path.display()
    )]
    Missing {
        /// What should be there.
        path: PathBuf,
    },

    /// There is no segment at all, though some of the log is needed.
    #[error(
        "corrupt log: {} holds no segment, though the log is needed from LSN {needed_from} on; \
         restore the directory from a backup", path.display()
    )]
    Gone {
        /// The log's directory.
        path: PathBuf,
        /// From where on it is needed.
        needed_from: u64,
    },

    /// A segment of this log that can not have followed what stands before it: one of the two is of
    /// another copy.
    #[error(
        "corrupt log: {} begins at LSN {base} and does not continue the segments before it, which \
         can be read up to {end}: files of different copies of this directory were mixed; put the \
         files of one copy there", path.display()
    )]
    Misfit {
        /// The later segment.
        path: PathBuf,
        /// Where its header says that it begins.
        base: u64,
        /// Where the readable log ends.
        end: u64,
    },

    /// A block is sound and its records are not: written by a broken program.
    #[error("malformed record in the block at byte {offset} of {}", path.display())]
    Malformed {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },

    /// Written by another version.
    #[error(
        "{} has log format {version} and this program knows {known}: use the version of stave that \
         wrote it", path.display()
    )]
    Version {
        /// The segment.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What we know.
        known: u32,
    },

    /// The segment is of another data directory or shard.
    #[error(
        "{} belongs to another log: it was copied here from another data directory or shard; move \
         it away", path.display()
    )]
    Foreign {
        /// The segment.
        path: PathBuf,
    },
}

impl Error {
    /// Why the log in `dir` is refused.
    pub fn of(dir: &Path, defect: Defect) -> Self {
        let path = |seq| segments::path(dir, seq);
        match defect {
            Defect::Corrupt { what, seq, offset, end, durable } => {
                Self::Corrupt { what, path: path(seq), offset, end: end.0, durable: durable.0 }
            }
            Defect::Flipped { what, seq, offset } => {
                Self::Flipped { what, path: path(seq), offset }
            }
            Defect::Truncated { seq, len, expected } => {
                Self::Truncated { path: path(seq), len, expected }
            }
            Defect::Missing { seq } => Self::Missing { path: path(seq) },
            Defect::Malformed { seq, offset } => Self::Malformed { path: path(seq), offset },
            Defect::Version { seq, version } => {
                Self::Version { path: path(seq), version, known: VERSION }
            }
            Defect::Gone { needed_from } => {
                Self::Gone { path: dir.to_owned(), needed_from: needed_from.0 }
            }
            Defect::Foreign { seq } => Self::Foreign { path: path(seq) },
            Defect::Misfit { seq, base, end } => {
                Self::Misfit { path: path(seq), base: base.0, end: end.0 }
            }
        }
    }

    /// Whether it says that the disk is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}
