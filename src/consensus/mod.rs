//! Raft, wrapped: events in, effects out. One [`Group`] is one partition's replica on this shard.
//!
//! The algorithm is raft-rs's. This module hides its types, holds its log in memory, keeps its
//! messages back until what they promise is durable, and replaces its randomness. It does nothing
//! by itself: no file, no socket, no clock. The driver (the partition) gives it events and carries
//! out the [`Effects`], once per loop turn:
//!
//! 1. Give the turn's events, in any number and order: [`Group::step`] per message of a peer,
//!    [`Group::propose`] at most a few times (all writes of the turn are one entry),
//!    [`Group::persisted`] per log write that became durable, [`Group::applied`],
//!    [`Group::look_around`] and [`Group::tick`] each 100 ms or so.
//! 2. Call [`Group::drain`] once. It takes all that those events caused.
//! 3. [`Effects::install`]: fetch and install that snapshot; it is part of the write below, and
//!    once that is persisted, [`Group::applied`] with the snapshot's index.
//! 4. [`Effects::append`] and [`Effects::hard_state`]: one write to the log, in this order. An
//!    entry with an index that the log already holds replaces it and all after it. Remember
//!    [`Effects::write`] with the write; when it *and all before it* are durable, call
//!    [`Group::persisted`] with it. Several writes may be in flight. A hard state without a
//!    `write` (only the commit index moved) may be logged whenever it costs nothing, or never.
//!    When the log has given an entry its place, [`Group::place`] records it.
//! 5. [`Effects::messages`]: send, in order per peer. They may leave at once, before the write of
//!    the same turn: what must wait for a write is kept in the group until `persisted`.
//! 6. [`Effects::commit`]: apply all entries up to it ([`Group::entry`] finds each), then
//!    [`Group::applied`]. Of an entry of members the group is told the payload before
//!    ([`Group::decided`]).
//! 7. [`Effects::reads`]: answer each once applied has reached its index.
//! 8. [`Effects::role`]: on losing leadership end what was proposed as *unknown*, and all waiting
//!    reads as *retry*. The group forgets both without a word.
//! 9. [`Effects::clear`].
//!
//! Invariants:
//! * `applied <= commit <= last`; an entry is handed out for applying only when it is committed
//!   *and* durable here. With a lone voter therefore `commit <= persisted`.
//! * No vote and no acknowledgement leaves before the writes that it speaks of, and all earlier
//!   ones, are durable.
//! * Who has answered a leader helps to elect no other for [`Config::guard_ticks`], unless that
//!   leader hands over. A leader's lease counts on it; so a replica that restarted, and has
//!   forgotten whom it answered, helps nobody during its first ones.
//! * Equal configuration, restored state and events give equal effects.
//!
//! **Why the entries given to raft-rs are empty.** It copies each entry four or five times on its
//! way. So the [`Handle`] lies in our log beside (index, term), which name an entry uniquely, and
//! raft-rs only sees one bit: has a payload. This saves two allocations per entry, lets a handle be
//! mended when the log has placed the payload, and makes size limits count payload bytes. Rejected:
//! the handle as `Entry::data` (16 bytes on the heap, shared and counted at each copy).
//!
//! **Why the thread's generator is of no effect.** raft-rs draws a random election timeout on each
//! change of role. It reads the value in `tick` alone, so [`Group::tick`] overwrites it right
//! before, with one drawn from [`Config::seed`]. raft-rs has one setting for the guard and for how
//! long a leader stays without a majority; the second is longer here, so `tick` counts it.
//!
//! Gaps of raft-rs 0.7.0 and what stands before them: a stale rejection moves a follower's next
//! index to or below its match (tikv/raft-rs#557): `step` drops or raises it. A campaign copies all
//! unapplied entries to look for membership changes (#530): no campaign while more than
//! [`CAMPAIGN_LAG_MAX`] are unapplied. The same search panics while a snapshot is being installed:
//! no campaign then either. Entries are added to a message without any that waits to be drained,
//! though it begins elsewhere: it is mended when it leaves. Proposals to a follower are forwarded
//! without a trace: `propose` refuses them. A broken invariant panics: the shard stops rather than
//! diverge.
//!
//! Members ([`Group::propose_membership`]) change by joint consensus; what an entry says holds once
//! it is applied. The first is followed by a second, without a payload, that the leader appends by
//! itself. A leader that is no voter after it steps down; the others elect one after a timeout, so
//! hand over before. More gaps of raft-rs there: a leader that is removed goes on (and panics at
//! its next write): [`Group::applied`] ends it. The entry that ends a change is sent by nobody
//! until something else is: `applied` sends it. A snapshot of a moment at which its receiver was no
//! member is ignored there, for ever: such a one is not sent, a newer one is asked for. The only
//! voter that is left wins a campaign at once and panics if its log is not durable: it waits. A new
//! replica knows the members at the beginning of its log from [`Config`] or from its first
//! snapshot. A sole voter leads before its vote is durable and speaks as a leader at once; after a
//! crash it would vote for another in that term, or lead in it a second time, with other entries
//! (etcd-io/etcd#14370 is of the same haste): what it says is kept back until then.
//!
//! A replica that its group goes on without is vacated ([`Group::vacate`]): its log goes. It may
//! still be asked for its vote by those who do not know that the members have changed, so it keeps
//! its term, its vote and the name of its last entry, and votes as if it had it. Members in its log
//! would be those after a part that it lacks: only a snapshot fills it again, which it asks for. So
//! those who go on must not take it for a member again: that a change of members is committed is
//! written at once, by everyone, and nobody is vacated before the leader has it on its disk
//! ([`Group::remembers_members`]).
//!
//! Not here: payloads and their encoding (the partition; of members alone: `membership`), the log's
//! format ([`crate::wal`]), the peer codec, hibernation. Reading order: `effects`, `message`,
//! `membership`, `group`, `group/outlook`, `log`, `timeout`.

mod effects;
mod group;
mod log;
mod membership;
mod message;
mod timeout;

#[cfg(test)]
mod tests;

use crate::id::{Lsn, NodeId};

pub use effects::{Effects, HardState, ReadState, Role, RoleChange, WriteId};
pub use group::{Group, Outlook};
pub use message::{Message, MessageKind};

/// A replica does not campaign while more committed entries than this wait to be applied.
///
/// raft-rs copies them all, at some 130 bytes each, when it starts a campaign.
pub const CAMPAIGN_LAG_MAX: u64 = 4096;

/// Most payload bytes of one append message, unless a single entry is longer or all of it was
/// proposed in this turn.
pub const MESSAGE_PAYLOAD_LEN_MAX: u64 = 256 << 10;

/// Most append messages in flight to one follower.
pub const MESSAGES_INFLIGHT_MAX: usize = 64;

/// Where an entry's payload lies in this shard's log. Opaque here, apart from `len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handle {
    /// Where the payload begins.
    pub lsn: Lsn,
    /// Bytes of payload. Limits of message size count it.
    pub len: u32,
    /// The driver's own: for instance which staged buffer holds the payload until it is placed.
    pub tag: u32,
}

const _: () = assert!(size_of::<Handle>() == 16, "a handle is small enough to be copied freely");

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// A new leader's first entry: nothing to apply, no payload.
    #[default]
    Empty,
    /// What the partition proposed.
    Payload,
    /// A change of voters or learners, or the end of one: [`Change`].
    Membership,
}

/// One entry of the replicated log. Its term and index name it uniquely, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the group's log, from 1, without gaps.
    pub index: u64,
    /// The term of the leader that made it; never falls with rising index.
    pub term: u64,
    /// What it is.
    pub kind: EntryKind,
    /// Where its payload lies; meaningless for [`EntryKind::Empty`].
    pub handle: Handle,
}

/// Who is to belong to a group: all of its members, not only the new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Those that vote and count; at least one.
    pub voters: Vec<NodeId>,
    /// Those that receive the log but neither vote nor count.
    pub learners: Vec<NodeId>,
}

/// Who belongs to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those that vote and count.
    pub voters: Vec<NodeId>,
    /// Those that receive the log but neither vote nor count.
    pub learners: Vec<NodeId>,
    /// While it changes: the voters before, of whom a majority has to agree too. Else empty.
    pub outgoing: Vec<NodeId>,
    /// While it changes: those of `outgoing` that will be learners.
    pub learners_next: Vec<NodeId>,
}

/// The state at an index, in place of all entries up to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Who belonged to the group at that index.
    pub membership: Membership,
}

/// How a group is made up and paced.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica; never 0.
    pub id: NodeId,
    /// The voters at the group's birth, this one included if it is one. Of no effect where
    /// [`Restored::membership`] says more.
    pub voters: Vec<NodeId>,
    /// The learners at its birth.
    pub learners: Vec<NodeId>,
    /// Ticks without a leader before a campaign: at least this, less than twice as many. Also how
    /// long a leader leads without hearing from a majority.
    pub election_ticks: usize,
    /// Ticks for which whoever has heard of a leader helps to elect no other; more than
    /// `heartbeat_ticks`, at most `election_ticks`. A lease has to be shorter.
    pub guard_ticks: usize,
    /// At which of its voters the group begins: who is to lead, other things being equal.
    pub turn: u64,
    /// Ticks between a leader's heartbeats; less than `election_ticks`.
    pub heartbeat_ticks: usize,
    /// Proposals are refused from this many uncommitted entries on.
    pub uncommitted_max: u64,
    /// Where this group's election timeouts come from, together with `id`.
    pub seed: u64,
}

impl Config {
    /// A group of `voters` without learners, with ten ticks to an election, seven to its guard and
    /// two to a heartbeat.
    pub fn new(id: NodeId, voters: Vec<NodeId>, seed: u64) -> Self {
        Self {
            id,
            voters,
            learners: Vec::new(),
            election_ticks: 10,
            guard_ticks: 7,
            turn: 0,
            heartbeat_ticks: 2,
            uncommitted_max: 1024,
            seed,
        }
    }
}

/// What a replay of the log found for a group. The default is a group that never ran.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The term of the last hard state.
    pub term: u64,
    /// Its vote.
    pub vote: Option<NodeId>,
    /// Its commit index; may lag behind the truth, also behind `applied`.
    pub commit: u64,
    /// Entries up to here are in the tree and will not be handed out again.
    pub applied: u64,
    /// The last entry that is not in `entries` any more, 0 if none ever was.
    pub snapshot_index: u64,
    /// That entry's term.
    pub snapshot_term: u64,
    /// All that follow it, without a gap, durable.
    pub entries: Vec<Entry>,
    /// Who belonged to the group at `snapshot_index`; none: whom [`Config`] names.
    pub membership: Option<Membership>,
    /// Term and index of the last entry that this replica had before it was vacated
    /// ([`Group::vacate`]); zeroes: it was not, or is filled again.
    pub floor: (u64, u64),
    /// Index and payload of each membership entry among `entries` up to `applied`, in order.
    pub changes: Vec<(u64, Vec<u8>)>,
}

/// Why an event was refused. Except for the last four, the sender may try again, elsewhere or
/// later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Only the leader takes this.
    #[error("not the leader of this partition")]
    NotLeader {
        /// Who leads, as far as is known here.
        leader: Option<NodeId>,
    },

    /// Leadership is on its way to another replica; it arrives or is given up within an election
    /// timeout.
    #[error("leadership is moving to node {to}")]
    Transferring {
        /// The leader to be.
        to: NodeId,
    },

    /// [`Config::uncommitted_max`] is reached.
    #[error("{uncommitted} entries are waiting to be committed")]
    Overloaded {
        /// How many.
        uncommitted: u64,
    },

    /// A new leader answers no reads before its first entry is committed.
    #[error("the leader of term {term} has not committed an entry yet")]
    Unready {
        /// The leader's term.
        term: u64,
    },

    /// Members change one change at a time.
    #[error("a change of this partition's members is under way")]
    Changing,

    /// Nobody is to belong to the group in this way, or all do already.
    #[error("bad change of members: {what}")]
    Membership {
        /// What is wrong with it.
        what: &'static str,
    },

    /// A message that no replica of this group sends.
    #[error("malformed {kind:?} message from node {from}: {what}")]
    Malformed {
        /// Its kind.
        kind: MessageKind,
        /// Who claims to have sent it.
        from: NodeId,
        /// What is wrong with it.
        what: &'static str,
    },

    /// The configuration contradicts itself.
    #[error("bad group configuration: {reason}")]
    Config {
        /// How.
        reason: String,
    },

    /// What was restored contradicts itself: a part of the log is missing.
    #[error("bad restored log: {what} is {found}, expected {expected}")]
    Restored {
        /// Of what.
        what: &'static str,
        /// The value found.
        found: u64,
        /// The value, or bound, that would have been right.
        expected: u64,
    },
}
