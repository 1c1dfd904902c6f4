//! Write-ahead log: the one durable, ordered record of every write on a shard.
//!
//! A shard has one log, shared by its partitions, and a Raft entry is stored here and nowhere else:
//! so one write makes a turn of many partitions durable, and no byte is logged twice. Segments are
//! zeroed once, ahead of need, and then overwritten with direct writes, several in flight, durable
//! by `RWF_DSYNC` or, where that is held up, by a sync of their own (`sync_method`): 29,000 commits
//! a second at four in flight where a growing file with fdatasync makes 5,200 (charter, D3).
//!
//! Several writes in flight means that a crash may leave a hole, so
//! * an ack waits for the *contiguous* durable prefix ([`Writer::durable`]);
//! * every block says its place, its writer's run (epoch) and the checksum of what stands before,
//!   so that replay stops at the first gap and takes no recycled byte for data;
//! * every block says how far the log was durable when it was written. One that knows more than
//!   replay found is the proof that what is missing was acknowledged: that is corruption, and is
//!   refused with file and offset. So is more behind the end than one crash can leave. Without such
//!   a proof (`rest` has them all) the rest was never acked, and the log ends; but what was written
//!   as a whole there, and differs in one bit, is damage, too: a crash leaves whole pieces out. A
//!   replica that forgot what it acknowledged would take it from the majority that has it.
//!
//! After a replay, appending goes on in a fresh segment of a new epoch that begins where replay
//! ended; what lies beyond that point in older segments is void for ever.
//!
//! Invariants:
//! * LSNs rise without a gap from block to block and from segment to segment.
//! * `durable <= appended`. Raft and clients are told of `durable` alone.
//! * Where a replay ended is durable before anyone is told of it, and no later replay ends before.
//! * After a failed write nothing more is written, and `durable` never moves again.
//!
//! A crash at any point of a replay or an opening is like one before it: segments have their names
//! durably before their headers are written, void ones lose theirs from the last to the first, and
//! a header that was not written leaves a segment that was never begun. Only after it is durable
//! are the segments before cut to the part that replay reads: a restart costs no more, of disk or
//! of time, than the bytes that were written.
//!
//! A log does not grow for ever: what the tree holds is not needed here, and
//! [`Writer::release`] gives the room back, by whole segments, oldest first. Whoever releases keeps
//! the place from which the log is needed, durably and before, and hands it to the next replay
//! ([`Options::needed_from`]). That one begins with the newest segment that reaches back to there:
//! older ones are of no account, be they there, gone, or gone in part. So a crash at any point of a
//! release, in whatever order names reach the disk, is like one before or after it. If no segment
//! reaches back to there, or the log ends before, it is refused: both were durable once. What the
//! first segment's header is chained to is gone, and not asked for.
//!
//! A full disk is a state ([`Writer::is_disk_full`]): no segment can be made, or only with room
//! that flushes need which would let the log end. It begins while nearly a whole segment is left,
//! so that what gives room back can still be logged ([`Writer::has_room_to_free`]), and ends by
//! itself. A start finds its segment in a reserve (`reserve`).
//!
//! Not here: what a payload means ([`crate::partition`]); from where the log is needed (the tree's
//! manifest). Reading order: `format`, `walk`, `rest`, `replay`, `segments`, `supply`, `reserve`,
//! `pace`, `sync_method`, `writer`.

mod copy;
mod error;
pub mod format;
mod pace;
mod replay;
mod reserve;
mod rest;
mod segments;
mod supply;
mod sync_method;
#[cfg(test)]
mod tests;
pub mod walk;
mod writer;

use std::path::PathBuf;

pub use copy::{Extent, copy};
pub use error::Error;
pub use format::{LogId, Record, RecordKind};
pub use pace::Company;
pub use replay::{Ended, Progress, replay};
pub use reserve::{LEN as RESERVE_LEN, NAME as RESERVE_NAME};
pub use segments::{path as segment_path, seq_of as segment_seq};
pub use writer::{Flush, Writer};

use crate::id::{Lsn, ShardId};

/// Default bytes of a segment.
pub const SEGMENT_LEN: u64 = 64 << 20;

/// Default of [`Options::in_flight_max`].
pub const IN_FLIGHT_MAX: usize = 8;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if it is missing.
    pub dir: PathBuf,
    /// The data directory's number: a log of another is refused. Random, and told to no client.
    pub log_id: u128,
    /// Whose log.
    pub shard: ShardId,
    /// Bytes of new segments: whole sectors, room for at least one block. Those that are there may
    /// have other lengths.
    pub segment_len: u64,
    /// Longest block, header and padding included: whole sectors, at most
    /// [`format::BLOCK_LEN_MAX`]. A record must fit into it.
    pub block_len_max: usize,
    /// Most writes in flight.
    pub in_flight_max: usize,
    /// Bytes of the reserve for a start on a full disk; 0: there is none.
    pub reserve_len: u64,
    /// Bytes that a segment leaves free on the disk besides as many as the log has: what is in the
    /// log goes to tables, and tables are merged, before the log can end. 0: none at all.
    pub room_len: u64,
    /// The log must reach back to here: all records that [`Writer::append`] gave a higher LSN are
    /// needed. It must have been durable. 0: all.
    pub needed_from: Lsn,
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
    /// The durable prefix does not wait for earlier writes.
    AckOutOfOrder,
    /// Replay does not compare a block's chain with what stands before.
    SkipChainCheck,
    /// Replay takes every sound block, whatever its place and epoch.
    TrustRecycledBytes,
    /// Replay takes a block that was written as a whole, but for a flipped bit, for a torn one.
    FlippedIsTorn,
    /// Replay does not make durable what it read.
    SkipReplaySync,
    /// Now and then a block is written without its records.
    DropLastBatch,
    /// A failed write counts as written.
    IgnoreFailedSync,
    /// What is to be synced after it was written is not.
    ForgetSync,
    /// An opening cuts the old segment before the new one has its header.
    GiveBackEarly,
    /// A release takes the segment that is needed from its middle on, too.
    ReleaseEarly,
}

impl Options {
    /// The log of a shard in `dir`.
    pub fn new(dir: PathBuf, log_id: u128, shard: ShardId) -> Self {
        Self {
            dir,
            log_id,
            shard,
            segment_len: SEGMENT_LEN,
            block_len_max: format::BLOCK_LEN_MAX,
            in_flight_max: IN_FLIGHT_MAX,
            reserve_len: 0,
            room_len: 0,
            needed_from: Lsn(0),
            planted: None,
        }
    }

    fn log(&self) -> LogId {
        LogId { directory: self.log_id, shard: self.shard }
    }

    fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }
}
