//! Write-ahead log: the one durable, ordered record of every write on a shard.
//!
//! A shard has one log, shared by its partitions, and a Raft entry is stored here and nowhere else:
//! so one write makes a turn of many partitions durable, and no byte is logged twice. Segments are
//! zeroed once, ahead of need, and then overwritten with direct `RWF_DSYNC` writes, several in
//! flight: 29,000 durable commits a second at four in flight where a growing file with fdatasync
//! makes 5,200 (charter, D3).
//!
//! Several writes in flight means that a crash may leave a hole, so
//! * an ack waits for the *contiguous* durable prefix ([`Writer::durable`]);
//! * every block says its place, its writer's run (epoch) and the checksum of the block before, so
//!   that replay stops at the first gap and takes no recycled byte for data;
//! * every block says how far the log was durable when it was made. A later block that knows more
//!   than replay found is the proof that what is missing was acknowledged: that is corruption, and
//!   is refused with file and offset. Without such a proof the rest was never acked: the tail ends.
//!
//! After a replay, appending goes on in a fresh segment of a new epoch, whose base is where replay
//! ended; what lies beyond it in older segments is void for ever.
//!
//! Invariants:
//! * LSNs rise without a gap from block to block and from segment to segment.
//! * `durable <= appended`. Raft and clients are told of `durable` alone.
//! * After a failed write nothing more is written, and `durable` never moves again.
//!
//! Not here: what a payload means ([`crate::partition`]); when a segment may go. Reading order:
//! `format`, `walk`, `replay`, `segment`, `writer`.

mod error;
pub mod format;
mod replay;
mod segment;
#[cfg(test)]
mod tests;
pub mod walk;
mod writer;

use std::path::PathBuf;

pub use error::Error;
pub use replay::{Ended, Progress, replay};
pub use writer::{Flush, Writer};

use crate::id::{PartitionId, ShardId};

/// Default bytes of a segment.
pub const SEGMENT_LEN: u64 = 64 << 20;

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
    /// At most [`format::RECORD_LEN_MAX`] bytes; opaque here.
    pub payload: &'a [u8],
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if it is missing.
    pub dir: PathBuf,
    /// The data directory's number: a log of another is refused.
    pub log_id: u128,
    /// Whose log.
    pub shard: ShardId,
    /// Bytes of new segments: whole sectors, room for at least one block.
    pub segment_len: u64,
    /// Most writes in flight. More would only make blocks smaller: at four the device is at half
    /// its rate and a write waits 133 us instead of 113.
    pub in_flight_max: usize,
    /// A bug to be caught by the tests; none outside them.
    #[doc(hidden)]
    pub planted: Option<Planted>,
}

/// Bugs that the tests plant, to show that they would see them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// `durable` moves when a write is submitted.
    AckBeforeDurable,
    /// Replay does not compare a block's chain with the block before.
    SkipChainCheck,
    /// Replay takes a block of any epoch.
    TrustRecycledBytes,
    /// The last open block is forgotten when the log is flushed.
    DropLastBatch,
    /// A failed write counts as written.
    IgnoreFailedSync,
    /// The durable prefix does not wait for earlier writes.
    AckOutOfOrder,
}

impl Options {
    /// The log of a shard in `dir`.
    pub fn new(dir: PathBuf, log_id: u128, shard: ShardId) -> Self {
        let (segment_len, in_flight_max) = (SEGMENT_LEN, 4);
        Self { dir, log_id, shard, segment_len, in_flight_max, planted: None }
    }

    fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }
}
