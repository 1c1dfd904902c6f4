//! Messages between the replicas of a group, as plain fields, and raft-rs's form of them.
//!
//! The peer codec encodes these fields and attaches each entry's payload. raft-rs's own protobuf
//! encoding is never written and never parsed.

use raft::Storage as _;
use raft::eraftpb::{self, ConfState, MessageType};

use super::log::{Log, to_raft};
use super::{Entry, Error, Membership, Snapshot};
use crate::id::NodeId;

/// What a message is. Numbers are the wire's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// Entries and the commit index, leader to follower.
    #[default]
    Append = 1,
    /// What the follower holds, or where its log differs.
    AppendResponse = 2,
    /// A candidate's plea.
    Vote = 3,
    /// A vote, durable.
    VoteResponse = 4,
    /// Could I win? Changes nothing.
    PreVote = 5,
    /// The answer to that.
    PreVoteResponse = 6,
    /// The leader lives.
    Heartbeat = 7,
    /// So does the follower.
    HeartbeatResponse = 8,
    /// The log no longer reaches back to the follower: a snapshot follows by other means.
    Snapshot = 9,
    /// Make `from` the leader: a follower's request to the leader.
    TransferLeader = 10,
    /// Campaign at once, leader to follower.
    TimeoutNow = 11,
    /// A follower asks for the leader's commit index.
    ReadIndex = 12,
    /// The answer to that.
    ReadIndexResponse = 13,
}

impl MessageKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Append,
        Self::AppendResponse,
        Self::Vote,
        Self::VoteResponse,
        Self::PreVote,
        Self::PreVoteResponse,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::Snapshot,
        Self::TransferLeader,
        Self::TimeoutNow,
        Self::ReadIndex,
        Self::ReadIndexResponse,
    ];

    /// Of its number.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message. Fields that a kind does not use are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageKind,
    /// Sender.
    pub from: NodeId,
    /// Receiver.
    pub to: NodeId,
    /// The sender's term; in a pre-vote the term that it would campaign for.
    pub term: u64,
    /// The term of the entry at `index`, or at `reject_hint` in a rejection.
    pub log_term: u64,
    /// Append: the entry before `entries`. Response: the last one held, or the one rejected.
    pub index: u64,
    /// Entries from `index + 1` on.
    pub entries: Vec<Entry>,
    /// The sender's commit index.
    pub commit: u64,
    /// The term of the entry there (votes only).
    pub commit_term: u64,
    /// The answer is no.
    pub reject: bool,
    /// Where the rejecting follower's log may agree.
    pub reject_hint: u64,
    /// A follower wants a snapshot at this index or above.
    pub request_snapshot: u64,
    /// Opaque: names a read, or says that a campaign was asked for by the leader.
    pub context: Vec<u8>,
    /// The candidate's election priority.
    pub priority: i64,
    /// What kind [`MessageKind::Snapshot`] is about.
    pub snapshot: Option<Snapshot>,
}

impl Message {
    /// Refuses what would break raft-rs or the log.
    pub(super) fn check(&self, id: NodeId) -> Result<(), Error> {
        let is_read = matches!(self.kind, MessageKind::ReadIndex | MessageKind::ReadIndexResponse);
        let what = if self.to != id {
            "not for this replica"
        } else if self.from == id || self.from.0 == 0 {
            "impossible sender"
        } else if self.term == 0 && self.kind != MessageKind::ReadIndex && !self.is_transfer() {
            "no term"
        } else if is_read && self.context.len() != READ_CONTEXT_LEN {
            "read context of a wrong length"
        } else if !self.entries.is_empty() && self.kind != MessageKind::Append {
            "entries where none belong"
        } else if (1..)
            .zip(&self.entries)
            .any(|(n, entry)| self.index.checked_add(n) != Some(entry.index))
        {
            "entries with a gap"
        } else if self.entries.iter().any(|entry| entry.term > self.term) {
            "an entry from the future"
        } else if self.snapshot.is_some() != (self.kind == MessageKind::Snapshot) {
            "snapshot missing or misplaced"
        } else {
            return Ok(());
        };
        Err(Error::Malformed { kind: self.kind, from: self.from, what })
    }

    fn is_transfer(&self) -> bool {
        self.kind == MessageKind::TransferLeader
    }

    /// raft-rs's form. Handles stay behind: the group stages them.
    pub(super) fn into_raft(self) -> eraftpb::Message {
        let is_read = matches!(self.kind, MessageKind::ReadIndex | MessageKind::ReadIndexResponse);
        let mut raft = eraftpb::Message {
            msg_type: to_raft_kind(self.kind),
            from: self.from.0,
            to: self.to.0,
            term: self.term,
            log_term: self.log_term,
            index: self.index,
            commit: self.commit,
            commit_term: self.commit_term,
            reject: self.reject,
            reject_hint: self.reject_hint,
            request_snapshot: self.request_snapshot,
            priority: self.priority,
            ..Default::default()
        };
        if is_read {
            let request = eraftpb::Entry { data: self.context.into(), ..Default::default() };
            raft.set_entries(vec![request].into());
        } else {
            raft.context = self.context.into();
            raft.set_entries(self.entries.iter().map(to_raft).collect());
        }
        if let Some(snapshot) = &self.snapshot {
            raft.set_snapshot(snapshot_to_raft(snapshot));
        }
        raft
    }

    /// Our form, with handles from the log. `None`: an entry is no longer there (compacted, or
    /// overwritten since by another leader's), so the message is as good as lost.
    pub(super) fn from_raft(mut raft: eraftpb::Message, log: &Log) -> Option<Self> {
        let kind = from_raft_kind(raft.msg_type);
        let is_read = matches!(kind, MessageKind::ReadIndex | MessageKind::ReadIndexResponse);
        let mut message = Self {
            kind,
            from: NodeId(raft.from),
            to: NodeId(raft.to),
            term: raft.term,
            log_term: raft.log_term,
            index: raft.index,
            commit: raft.commit,
            commit_term: raft.commit_term,
            reject: raft.reject,
            reject_hint: raft.reject_hint,
            request_snapshot: raft.request_snapshot,
            priority: raft.priority,
            ..Default::default()
        };
        if is_read {
            message.context = raft.entries[0].data.to_vec();
        } else {
            message.context = raft.context.to_vec();
            message.entries = raft
                .entries
                .iter()
                .map(|entry| log.get(entry.index).filter(|held| held.term == entry.term).copied())
                .collect::<Option<_>>()?;
            message.mend_begin(log)?;
        }
        if raft.has_snapshot() {
            message.snapshot = Some(snapshot_from_raft(&raft.take_snapshot()));
        }
        Some(message)
    }
}

impl Message {
    /// Names the entry before the first: raft-rs adds entries to a message without any that it has
    /// not handed out yet, wherever that one began. `None`: nobody knows that entry's term.
    fn mend_begin(&mut self, log: &Log) -> Option<()> {
        let before = self.entries.first().map_or(self.index, |first| first.index - 1);
        if before != self.index {
            self.log_term = log.term(before).ok()?;
            self.index = before;
        }
        Some(())
    }
}

/// A read's name on the way: the asking replica and its own number, so that two replicas never
/// choose the same (raft-rs drops the second of two equal names).
pub(super) const READ_CONTEXT_LEN: usize = 16;

/// Names a read.
pub(super) fn encode_read(id: NodeId, context: u64) -> Vec<u8> {
    [id.0.to_le_bytes(), context.to_le_bytes()].concat()
}

/// The number of a read of `id`; `None` if it is another's.
pub(super) fn decode_read(id: NodeId, name: &[u8]) -> Option<u64> {
    let (asking, context) = name.split_first_chunk::<8>()?;
    let context = u64::from_le_bytes(context.try_into().ok()?);
    (u64::from_le_bytes(*asking) == id.0).then_some(context)
}

/// raft-rs's form of a membership. One that is changing always goes on by itself.
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect();
    ConfState {
        voters: numbers(&membership.voters),
        learners: numbers(&membership.learners),
        voters_outgoing: numbers(&membership.outgoing),
        learners_next: numbers(&membership.learners_next),
        auto_leave: !membership.outgoing.is_empty(),
        ..Default::default()
    }
}

/// Our form of a membership, sorted.
pub(super) fn membership_of(conf: &ConfState) -> Membership {
    let ids = |numbers: &[u64]| numbers.iter().map(|&id| NodeId(id)).collect();
    let mut membership = Membership {
        voters: ids(&conf.voters),
        learners: ids(&conf.learners),
        outgoing: ids(&conf.voters_outgoing),
        learners_next: ids(&conf.learners_next),
    };
    membership.sort();
    membership
}

/// raft-rs's form of a snapshot.
pub(super) fn snapshot_to_raft(snapshot: &Snapshot) -> eraftpb::Snapshot {
    let mut raft = eraftpb::Snapshot::default();
    let metadata = raft.mut_metadata();
    metadata.index = snapshot.index;
    metadata.term = snapshot.term;
    metadata.set_conf_state(conf_state(&snapshot.membership));
    raft
}

/// Our form of a snapshot.
pub(super) fn snapshot_from_raft(raft: &eraftpb::Snapshot) -> Snapshot {
    let metadata = raft.get_metadata();
    let membership = membership_of(metadata.get_conf_state());
    Snapshot { index: metadata.index, term: metadata.term, membership }
}

fn to_raft_kind(kind: MessageKind) -> MessageType {
    match kind {
        MessageKind::Append => MessageType::MsgAppend,
        MessageKind::AppendResponse => MessageType::MsgAppendResponse,
        MessageKind::Vote => MessageType::MsgRequestVote,
        MessageKind::VoteResponse => MessageType::MsgRequestVoteResponse,
        MessageKind::PreVote => MessageType::MsgRequestPreVote,
        MessageKind::PreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        MessageKind::Heartbeat => MessageType::MsgHeartbeat,
        MessageKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        MessageKind::Snapshot => MessageType::MsgSnapshot,
        MessageKind::TransferLeader => MessageType::MsgTransferLeader,
        MessageKind::TimeoutNow => MessageType::MsgTimeoutNow,
        MessageKind::ReadIndex => MessageType::MsgReadIndex,
        MessageKind::ReadIndexResponse => MessageType::MsgReadIndexResp,
    }
}

fn from_raft_kind(kind: MessageType) -> MessageKind {
    match kind {
        MessageType::MsgAppend => MessageKind::Append,
        MessageType::MsgAppendResponse => MessageKind::AppendResponse,
        MessageType::MsgRequestVote => MessageKind::Vote,
        MessageType::MsgRequestVoteResponse => MessageKind::VoteResponse,
        MessageType::MsgRequestPreVote => MessageKind::PreVote,
        MessageType::MsgRequestPreVoteResponse => MessageKind::PreVoteResponse,
        MessageType::MsgHeartbeat => MessageKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => MessageKind::HeartbeatResponse,
        MessageType::MsgSnapshot => MessageKind::Snapshot,
        MessageType::MsgTransferLeader => MessageKind::TransferLeader,
        MessageType::MsgTimeoutNow => MessageKind::TimeoutNow,
        MessageType::MsgReadIndex => MessageKind::ReadIndex,
        MessageType::MsgReadIndexResp => MessageKind::ReadIndexResponse,
        local @ (MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum) => unreachable!("{local:?} was to leave the replica"),
    }
}
