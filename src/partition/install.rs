//! From tables of another replica: the partition goes on as if it had started from them.
//!
//! The tables may have versions of entries that come later ([`Partition::is_catching_up`]): until
//! those are applied, what is here is of no one moment, and nobody is to be shown it. Nor is it
//! flushed: a version that is passed over now, since it is older than a table's, would be in a
//! newer table than the one that it is older than.

use super::{Committed, Partition, Recovery, Stored, Waiter};
use crate::id::Timestamp;
use crate::mvcc;

impl Partition {
    /// An empty partition of this name, of which a manifest says `stored`: to be filled, and
    /// installed here.
    pub fn blank(&self, stored: Stored) -> Recovery {
        // Commands that wait have their keys hashed.
        Recovery::new(self.id, self.memtable.emptied(), stored)
    }

    /// Raft's term and vote, 0: none.
    pub fn hard_state(&self) -> (u64, u64) {
        self.group.hard_state()
    }

    /// Replaces all that is here by what `fresh` was loaded with; the manifest has this hard state
    /// now. Raft is not told, but what is kept of its log begins anew. Whoever waited for an entry
    /// that was not committed is handed over.
    pub fn install(&mut self, fresh: Recovery, hard: (u64, u64), abandoned: &mut Vec<Waiter>) {
        self.abandon(abandoned);
        self.roster = fresh.roster();
        self.sessions = fresh.sessions;
        let old = std::mem::replace(&mut self.memtable, fresh.memtable);
        self.dying.push(old.dismantle());
        self.sizes = fresh.sizes;
        // Reads of the old tables that are on their way do not come in.
        self.generation += 1;
        self.tables_generation = self.generation;
        self.flushed = fresh.flushed;
        self.stored_hard = hard;
        (self.tables_clock, self.catch_up) = (fresh.clock, fresh.clock);
        self.clock = match self.roster.following {
            // Its clock is another's.
            Some(_) => fresh.clock,
            None => self.clock.max(fresh.clock),
        };
        self.committed = Committed { index: fresh.last_index, timestamp: fresh.clock };
        self.hand = 0;
        if let Some(replica) = &mut self.replica {
            replica.begin_anew((fresh.last_index, fresh.last_term));
        }
    }

    /// Whether tables have versions of entries that were not applied here.
    /// What is copied from another cluster is of no one moment anyway, until the entry that ends
    /// the copy.
    pub fn is_catching_up(&self) -> bool {
        self.catch_up > self.flushed.timestamp && !self.is_copying()
    }
}

/// Up to which version tables are ahead, when they were so up to `catch_up` and an entry with these
/// effects has been applied; 0: they are not.
pub(super) fn left_after(catch_up: Timestamp, payload: &[u8]) -> Timestamp {
    if catch_up == Timestamp(0) {
        return catch_up;
    }
    let newest = mvcc::decode(payload).flatten().map(|effect| effect.timestamp()).max();
    if newest.is_some_and(|newest| newest >= catch_up) { Timestamp(0) } else { catch_up }
}
