//! Checkpoints of partitions, from one replica to another.
//!
//! ```text
//! sender    checkpoint(place) -> Checkpoint: head, Outgoing -> pieces
//! receiver  receive_checkpoint(place, head) -> Incoming <- pieces; -> Staged;
//!           install -> take_installed
//! ```
//!
//! All begin at once and are gone on with at the end of each turn ([`Shard::tend`]), which is
//! notified of news.
//!
//! Not here: what Raft says and is told of it; the wire.

use std::rc::Rc;

use super::Shard;
use super::{Awaited, Checkpoint, CopyTo, Incoming, Installed, Made, Outgoing, Staged, TreeError};
use crate::env::Env;
use crate::partition::Partition;

impl<E: Env> Shard<E> {
    /// Asks for a checkpoint of a partition with all that is committed; see
    /// [`Checkpoint::index`] for how far it goes.
    pub fn checkpoint(&mut self, place: u32) -> Awaited<Made<E>> {
        if let Some(cause) = &self.failed {
            return Awaited::of(Err(TreeError::NoCheckpoint { cause: cause.clone() }));
        }
        let index = self.partitions[place as usize].committed().index;
        self.tree.checkpoint(place, index)
    }

    /// Begins a copy of all that is on the disk, as it is at one moment to come; what is committed
    /// is in it. One at a time.
    pub fn copy_to(&mut self, to: CopyTo) -> Awaited<Result<(), TreeError>> {
        if let Some(cause) = &self.failed {
            return Awaited::of(Err(TreeError::NoCheckpoint { cause: cause.clone() }));
        }
        let committed = self.partitions.iter().map(|partition| partition.committed().index);
        self.tree.copy_to(to, committed)
    }

    /// Begins to read a checkpoint's tables, behind their first `skipped` bytes: see
    /// [`Outgoing::begin`].
    pub fn send_out(&self, checkpoint: Rc<Checkpoint<E>>, skipped: u64) -> Outgoing {
        Outgoing::begin(&self.env, checkpoint, skipped, Rc::clone(&self.sending.pace))
    }

    /// Begins to take in a checkpoint of another replica, whose head is given.
    ///
    /// # Errors
    /// The head is not one, or of another partition.
    pub fn receive_checkpoint(&self, place: u32, head: &[u8]) -> Result<Incoming, TreeError> {
        self.tree.receive(&self.partitions[place as usize], head)
    }

    /// Has staged tables take the place of all that a partition has. Nothing of the partition may
    /// be logged from here on until [`Shard::take_installed`] names it.
    pub fn install(&mut self, place: u32, staged: Staged) {
        self.tree.install(place, staged);
    }

    /// An install that has ended: durably, or the partition has what it had.
    pub fn take_installed(&mut self) -> Option<Installed> {
        self.tree.take_installed()
    }

    /// Some partitions are others than in the turn before.
    pub(super) fn note_installs(&mut self) {
        self.is_partial = self.partitions.iter().any(Partition::is_partial);
        self.note_clear();
    }
}

#[cfg(test)]
mod tests;
