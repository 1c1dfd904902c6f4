//! What a driver has to carry out. The order is the numbered loop of [`super`].

use super::{Entry, Message, Snapshot};
use crate::id::NodeId;

/// A write to the log, numbered in the order of issue within one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// What a replica must never forget, besides the log itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// Who got this replica's vote in that term.
    pub vote: Option<NodeId>,
    /// The newest commit index known; a hint that spares work after a restart.
    pub commit: u64,
}

/// The part a replica plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one. Also what learners are.
    #[default]
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Proposes.
    Leader,
}

/// A new role, leader or term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleChange {
    /// This replica's role.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: u64,
}

/// The answer to [`super::Group::read_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// What the request was named.
    pub context: u64,
    /// The read is linearizable once this index is applied.
    pub index: u64,
}

/// All that one [`super::Group::drain`] asks for. Reused: `clear` keeps the buffers.
#[derive(Debug, Default)]
pub struct Effects {
    /// Entries to log, rising by one. The first may overwrite: see the driver loop.
    pub append: Vec<Entry>,
    /// The hard state, if any part of it changed.
    pub hard_state: Option<HardState>,
    /// The number of the write that makes `install`, `append` and `hard_state` durable. `None`:
    /// nothing of them has to be.
    pub write: Option<WriteId>,
    /// Messages that may leave at once.
    pub messages: Vec<Message>,
    /// Entries up to this index, and not yet handed out, are to be applied.
    pub commit: Option<u64>,
    /// This replica's new role.
    pub role: Option<RoleChange>,
    /// Reads whose index is known.
    pub reads: Vec<ReadState>,
    /// A snapshot to install before anything after it is applied; the log begins anew behind it.
    pub install: Option<Snapshot>,
    /// A follower lags behind the log's first entry: [`super::Group::offer_snapshot`].
    pub snapshot_wanted: Option<NodeId>,
}

impl Effects {
    /// Forgets all effects, keeps the memory.
    pub fn clear(&mut self) {
        self.append.clear();
        self.hard_state = None;
        self.write = None;
        self.messages.clear();
        self.commit = None;
        self.role = None;
        self.reads.clear();
        self.install = None;
        self.snapshot_wanted = None;
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.append.is_empty()
            && self.hard_state.is_none()
            && self.write.is_none()
            && self.messages.is_empty()
            && self.commit.is_none()
            && self.role.is_none()
            && self.reads.is_empty()
            && self.install.is_none()
            && self.snapshot_wanted.is_none()
    }
}
