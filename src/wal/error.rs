//! Why the log could not be written or read back.

use std::io;
use std::path::PathBuf;

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

    /// A later block proves that what stood here was durable. Never skipped.
    #[error(
        "corrupt log: no valid block at byte {offset} of {}, though the log was durable up to LSN \
         {durable} and ends at {end}; restore this file from a copy, or the directory from a \
         backup", path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Where the readable log ends.
        end: u64,
        /// What a later block knew to be durable.
        durable: u64,
    },

    /// The first sector of a segment is neither a header nor zero.
    #[error("corrupt log: no valid header at byte 0 of {}; restore this file from a copy, or the \
         directory from a backup", path.display())]
    Header {
        /// The segment.
        path: PathBuf,
    },

    /// The file lost its end.
    #[error("corrupt log: {} has {len} bytes, its header says {expected}; restore this file from \
         a copy, or the directory from a backup", path.display())]
    Truncated {
        /// The segment.
        path: PathBuf,
        /// Bytes it has.
        len: u64,
        /// Bytes it had.
        expected: u64,
    },

    /// A block is sound, but its records are not: written by a broken program.
    #[error("malformed record in the block at byte {offset} of {}", path.display())]
    Malformed {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },

    /// Written by another version.
    #[error("{} has log format {version}, this program knows {known}: use the version of stave \
         that wrote it", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What we know.
        known: u32,
    },

    /// The segment is of another data directory or shard.
    #[error("{} belongs to another log: it was copied here from another data directory or shard; \
         move it away", path.display())]
    Foreign {
        /// The segment.
        path: PathBuf,
    },
}

impl Error {
    /// Whether it says that the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
