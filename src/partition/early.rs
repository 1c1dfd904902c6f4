//! Who waits for an entry, and until when: until it is committed, or only until it is on the disk
//! here.
//!
//! A client may ask to be answered before a majority has what it is told ([`Ack`]). Then its
//! answer waits for this leader's own write of the entry (`leader`), or for nothing (`relaxed`).
//! The entry itself is none the wiser: it is committed as all others are, and a read of what it
//! wrote waits for that, unless its reader asked for less as well. So who waits for the majority
//! is never told what may be lost, whoever wrote it.
//!
//! **What is lost, and with what.** A log is lost from some entry on, never in the middle. A
//! command is evaluated against all that was proposed before it, and its entry comes after theirs:
//! so if a write is kept, all that its answer told of is, too. And what a client was told of a
//! write that is done once ([`super::sessions`]) is in the entry of that write. Both are kept or
//! both are lost: a client that asks again after a loss finds that nothing was done, and it is done
//! then, once; as long as the entry is there, it finds the first answer. What it was told early
//! remains nowhere else. The version that an early answer names is no more certain than its write:
//! another leader, whose clock is behind, may give the same one to another write.
//!
//! **Bound.** What is not committed is kept in memory. Who waits for a commit asks for no more
//! meanwhile, so their number bounds it; early answers have no such end when followers are slow.
//! From [`AHEAD_LEN_MAX`] on everybody waits for the majority.

use super::{Partition, Planted, Waiter};
use crate::ack::Ack;

/// Bytes of uncommitted entries of a partition beyond which nobody is answered early.
const AHEAD_LEN_MAX: usize = 4 << 20;

impl Partition {
    /// What the answer to who asked for `ack` waits for, now. A lone voter's commit is the write on
    /// its own disk.
    pub fn promise(&self, ack: Ack) -> Ack {
        match ack {
            Ack::Quorum => ack,
            Ack::Leader if self.replica.is_none() => Ack::Quorum,
            _ if self.replica.is_some() && self.uncommitted_len > AHEAD_LEN_MAX => Ack::Quorum,
            _ => ack,
        }
    }

    /// Whether an answer that tells of entry `index`, which was proposed here, may leave. Not once
    /// leadership is lost: another's entry may have its number.
    pub fn has_met(&self, index: u64, ack: Ack) -> bool {
        let is_early = ack == Ack::Leader || self.has(Planted::QuorumIsLeader);
        index <= self.committed.index
            || ack == Ack::Relaxed
            || is_early && self.replica.is_some() && index <= self.written_index()
    }

    /// Has `waiter` told when an answer that tells of entry `index` may leave
    /// ([`Partition::has_met`] said that it may not yet).
    pub fn wait(&mut self, index: u64, ack: Ack, waiter: Waiter) {
        let entry = if index == self.open.index {
            &mut self.open
        } else {
            let at = self.pending.binary_search_by_key(&index, |entry| entry.index);
            let at = at.unwrap_or_else(|_| panic!("nobody proposed entry {index}"));
            &mut self.pending[at]
        };
        let waiters = if ack == Ack::Leader { &mut entry.early } else { &mut entry.waiters };
        if waiters.last() != Some(&waiter) {
            waiters.push(waiter);
        }
    }

    /// The newest entry that is on the disk here, and so are all before it.
    fn written_index(&self) -> u64 {
        match self.planted {
            Some(Planted::LeaderUnwritten) => self.group.last_index(),
            _ => self.group.persisted_index(),
        }
    }

    /// Hands over who waited for no more than the disk here.
    pub(super) fn release_early(&mut self, released: &mut Vec<Waiter>) {
        if self.pending.is_empty() || self.replica.is_none() {
            return;
        }
        let (from, until) = (self.early_until, self.written_index());
        let first = self.pending.partition_point(|entry| entry.index <= from);
        let written = self.pending.range_mut(first..).take_while(|entry| entry.index <= until);
        written.for_each(|entry| {
            released.append(&mut entry.early);
            if self.planted == Some(Planted::QuorumIsLeader) {
                released.append(&mut entry.waiters);
            }
        });
        self.early_until = until;
    }
}
