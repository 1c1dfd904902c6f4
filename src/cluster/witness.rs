//! What a node's replicas are seen to be, for who checks that those of all nodes agree.
//!
//! A replica of which somebody wants to know tells at each tick, of one moment, its term, whether
//! it leads, and a digest of its rows if they are those of committed entries and of no others. Two
//! replicas that have applied the same entries have the same digest, and a term has one leader: the
//! simulator's storms check both ([`crate::sim::torture`]). Nobody wants to know it in a server: a
//! digest costs a look at each row.

use std::sync::Mutex;

use super::members::locked;
use crate::id::PartitionId;

/// A replica at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Of which partition.
    pub partition: PartitionId,
    /// Raft's, at the replica.
    pub term: u64,
    /// Whether it leads in that term.
    pub leads: bool,
    /// The newest entry that is applied, and a digest of the rows after it.
    pub rows: Option<(u64, u64)>,
}

/// What was seen and not yet looked at.
#[derive(Debug, Default)]
pub struct Witness(Mutex<Vec<Sighting>>);

impl Witness {
    /// Notes what is seen.
    pub fn note(&self, sighting: Sighting) {
        locked(&self.0).push(sighting);
    }

    /// What was seen since the last call, in order.
    pub fn take(&self) -> Vec<Sighting> {
        std::mem::take(&mut locked(&self.0))
    }
}
