//! Replicas that the group goes on without: what they had goes, what they promised stays.
//!
//! A leader of a later term, or of the same one and further on, says that a replica is no member as
//! of an entry that it has applied. So that entry is committed; and the replica has not heard of
//! one behind it, by which it would be a member again, since its last entry is not after that one.
//! Nothing counts on its log then, nor will before a snapshot fills it. But who was a member with
//! it once, and has not heard of the change, may ask for its vote: it votes as before, for nobody
//! who lacks its last entry.

use super::{Group, Role};
use crate::consensus::{Membership, Message, MessageKind, Restored};
use crate::id::NodeId;

impl Group {
    /// Term and index of the newest entry that this replica has, or had.
    pub fn last_entry(&self) -> (u64, u64) {
        let index = self.last_index();
        (self.term_of(index).unwrap_or_default(), index).max(self.floor)
    }

    /// See [`Restored::floor`].
    pub fn floor(&self) -> (u64, u64) {
        self.floor
    }

    /// Whether the replica was vacated, and not filled again.
    pub fn is_vacant(&self) -> bool {
        self.floor != (0, 0)
    }

    /// Whether a replica that a leader says is no member as of `entry`, term of the leader and
    /// index, has a log and may forget it.
    pub fn may_vacate(&self, entry: (u64, u64)) -> bool {
        let last = self.last_entry();
        let has_log = !self.is_vacant() && last.1 > 0;
        has_log && last <= entry && self.role() != Role::Leader
    }

    /// There was a leader in this term.
    pub fn note_term(&mut self, term: u64) {
        if term > self.term() {
            self.node.raft.become_follower(term, 0);
        }
    }

    /// Forgets the log, which is durably gone, and so is what was applied; all writes that were
    /// asked for are durable. The members are as a leader said.
    pub fn vacate(&mut self, members: Membership) {
        let (term, vote) = self.hard_state();
        let restored = Restored {
            term,
            vote: super::some_id(vote),
            floor: self.last_entry(),
            membership: Some(members),
            ..Restored::default()
        };
        *self = Self::new(self.config.clone(), restored).expect("an empty log fits together");
    }

    /// Whether a message to a vacant replica is raft-rs's, as it is left.
    pub(super) fn may_take(&mut self, message: &mut Message) -> bool {
        match message.kind {
            MessageKind::Vote | MessageKind::PreVote => {
                (message.log_term, message.index) >= self.floor
            }
            MessageKind::Append if message.term >= self.term() => {
                self.held.push_back((self.write_durable, ask_for_snapshot(message)));
                false
            }
            // A leader may have heard late of what was here, and takes it for a part of the log. It
            // is answered all the same: whoever is silent is sent no snapshot.
            MessageKind::Heartbeat => {
                message.commit = 0;
                true
            }
            _ => true,
        }
    }

    /// Who has acknowledged an entry is not vacant, whatever it asked for before.
    pub(super) fn note_filled(&mut self, node: NodeId) {
        if let Some(progress) = self.node.raft.mut_prs().get_mut(node.0) {
            progress.pending_request_snapshot = 0;
        }
    }
}

/// The answer to an append that no log is there for. It promises nothing.
fn ask_for_snapshot(append: &Message) -> Message {
    Message {
        kind: MessageKind::AppendResponse,
        from: append.to,
        to: append.from,
        term: append.term,
        index: append.index,
        reject: true,
        request_snapshot: 1,
        ..Message::default()
    }
}
