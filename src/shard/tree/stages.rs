//! The stages of a flush, one after the other, each begun in the turn in which it may.
//!
//! ```text
//! marked      until all that was logged before the mark is committed; given up if that takes long
//! taking      rows go to the task that writes the table ([`super::flush`]), a slice per turn
//! taken       until the table is written, and the log durable as far as rows were taken
//! installing  until the manifest says so; then the log is released
//! ```
//!
//! Not here: which partition is flushed, and when (the tree).

use std::sync::Arc;
use std::time::Duration;

use super::flush::{self, Shared};
use super::{COMMITS_MAX, Change, Error, Ground, RETRY_DELAY, Tree, due};
use crate::env::{Class, Env};
use crate::id::Lsn;
use crate::lsm::manifest::{Keys, PartitionState, ShardState};
use crate::lsm::table;
use crate::partition::{Flush, Flushed, Planted};

/// A flush on its way.
pub struct Flushing {
    pub place: u32,
    pub mark: Lsn,
    pub stage: Stage,
}

/// How far it is.
pub enum Stage {
    /// Until this entry, the last before the mark, commits; since then.
    Marked { index: u64, since: Duration },
    /// Rows are taken.
    Taking(Flush, Shared),
    /// Until the log is durable to here, and the table written.
    Taken(Flush, Shared, Lsn),
    /// The manifest is being written; then the log is needed from there on.
    Installing(Flush, Shared, Lsn),
}

impl<E: Env> Tree<E> {
    /// The next stage, if it has come. None: the flush is over.
    pub(super) fn go_on(
        &mut self,
        flushing: Flushing,
        ground: &mut Ground<'_, E>,
    ) -> Option<Flushing> {
        let Flushing { place, mark, stage } = flushing;
        let partition = &mut ground.partitions[place as usize];
        let stage = match stage {
            Stage::Marked { index, since } => {
                let may_begin = partition.has_settled(index);
                match may_begin.then(|| partition.begin_flush()).flatten() {
                    Some(flush) => Stage::Taking(flush, self.spawn()),
                    None => self.wait(place, (index, since), ground)?,
                }
            }
            Stage::Taking(flush, shared) => self.take(flush, shared, ground, place)?,
            Stage::Taken(flush, shared, lsn)
                if ground.log.durable() < lsn && !partition.has(Planted::FlushUncommitted) =>
            {
                self.look_for_end(&shared)?;
                Stage::Taken(flush, shared, lsn)
            }
            Stage::Taken(flush, shared, lsn) => match shared.is_written() {
                true => {
                    let change = self.change_of(&flush, ground, (place, mark));
                    let log_from = change.shard.log_from;
                    shared.install(change);
                    self.moves += 1;
                    Stage::Installing(flush, shared, log_from)
                }
                false => {
                    self.look_for_end(&shared)?;
                    Stage::Taken(flush, shared, lsn)
                }
            },
            Stage::Installing(flush, shared, log_from) => match shared.take_end() {
                None => Stage::Installing(flush, shared, log_from),
                Some(Ok(())) => {
                    self.end(&flush, ground, (place, mark), log_from);
                    return None;
                }
                Some(Err(error)) => {
                    self.fail(&error);
                    return None;
                }
            },
        };
        Some(Flushing { place, mark, stage })
    }

    /// None: what the flush waits for may wait for a checkpoint, or for ever. It has not begun.
    fn wait(
        &mut self,
        place: u32,
        (index, since): (u64, Duration),
        ground: &Ground<'_, E>,
    ) -> Option<Stage> {
        let is_in_vain = self.env.now().saturating_sub(since) > COMMITS_MAX;
        if is_in_vain {
            self.in_vain[place as usize] = ground.partitions[place as usize].newest_logged();
        }
        if is_in_vain || self.wanted_place(ground.partitions).is_some() {
            self.env.notify();
            return None;
        }
        Some(Stage::Marked { index, since })
    }

    fn spawn(&mut self) -> Shared {
        let shared = Shared::default();
        let number = self.new_number();
        let options = table::Options {
            log: self.options.log,
            number,
            compression: self.options.compression.at(false),
        };
        let task = flush::run(self.env.clone(), shared.clone(), self.store.clone(), options);
        self.env.spawn(Class::Background, task);
        self.env.notify();
        shared
    }

    /// Takes a slice. None: the flush is over.
    fn take(
        &mut self,
        mut flush: Flush,
        shared: Shared,
        ground: &mut Ground<'_, E>,
        place: u32,
    ) -> Option<Stage> {
        self.look_for_end(&shared)?;
        let Some(mut rows) = shared.room() else { return Some(Stage::Taking(flush, shared)) };
        let since = ground.log.appended().0 - self.began_from.0;
        let size = due::slices(since, self.options.flush_from(), self.marks.len());
        let partition = &mut ground.partitions[place as usize];
        let Ok(is_last) = partition.take_slice(&mut flush, &mut rows, size) else {
            shared.give_up();
            return None;
        };
        shared.hand_over(rows, is_last);
        self.moves += 1;
        match is_last {
            true => Some(Stage::Taken(flush, shared, ground.log.appended())),
            false => Some(Stage::Taking(flush, shared)),
        }
    }

    /// None: the task has ended before its time.
    fn look_for_end(&mut self, shared: &Shared) -> Option<()> {
        match shared.take_end() {
            None => Some(()),
            Some(Ok(())) => None,
            Some(Err(error)) => {
                self.fail(&error);
                None
            }
        }
    }

    /// What the manifest is to say of the flush.
    fn change_of(
        &mut self,
        flush: &Flush,
        ground: &Ground<'_, E>,
        (place, mark): (u32, Lsn),
    ) -> Change {
        let shard = self.shard_state(ground, (place, mark));
        let partition = &ground.partitions[place as usize];
        let (term, vote) = flush.hard_state();
        let (index_term, Flushed { index, timestamp: flushed }) =
            (flush.until_term(), flush.until());
        // The table may have whatever was committed until now.
        let clock = partition.committed().timestamp;
        let log_from = Lsn(0);
        let roster = flush.roster().encode().into();
        let sessions = Arc::clone(flush.sessions());
        let state = PartitionState {
            index,
            index_term,
            term,
            vote,
            flushed,
            floor: partition.floor(),
            clock,
            log_from,
            roster,
            sessions,
        };
        let replaces_all = partition.has_void_tables(flush);
        let id = partition.id();
        let counts = flush.sizes().to_counts().into_iter();
        let keys = counts.map(|(db, keys, expiring)| Keys { partition: id, db, keys, expiring });
        Change { partition: id, state, shard, keys: keys.collect(), replaces_all }
    }

    /// What holds for the shard when the partition at `place` needs the log from `mark` on.
    pub(super) fn shard_state(
        &mut self,
        ground: &Ground<'_, E>,
        (place, mark): (u32, Lsn),
    ) -> ShardState {
        let before = std::mem::replace(&mut self.marks[place as usize], mark);
        let (_, log_from) = self.oldest(ground);
        self.marks[place as usize] = before;
        // Durable, as all that is before the mark.
        let log_from = log_from.min(mark);
        ShardState { number_next: self.numbers.get(), blob_last: ground.blob_last, log_from }
    }

    /// The manifest says that the flush is done.
    fn end(
        &mut self,
        flush: &Flush,
        ground: &mut Ground<'_, E>,
        (place, mark): (u32, Lsn),
        log_from: Lsn,
    ) {
        ground.partitions[place as usize].end_flush(flush);
        self.marks[place as usize] = mark;
        (self.has_failed, self.has_no_room) = (false, false);
        self.took = self.env.now().saturating_sub(self.began_at);
        self.moves += 1;
        self.needed_from = log_from;
        ground.log.release(log_from);
        ground.stats.flushes.add(1);
        self.compaction.note_flush();
        self.count(ground.stats);
        // Each partition is flushed once while half of the log is written, or less often.
        let count = 4 * self.marks.len() as u64;
        self.due_at = Lsn(ground.log.appended().0 + self.options.flush_from() / count * 2);
        self.env.notify();
    }

    fn fail(&mut self, error: &Error) {
        // Once, and not for each of the tries to come.
        if !self.has_failed {
            tracing::error!(shard = self.options.log.shard.0, %error, "flushes fail; trying again");
        }
        self.refuse_checkpoints(&error.to_string());
        (self.has_failed, self.has_no_room) = (true, error.is_disk_full());
        self.retry_at = self.env.now() + RETRY_DELAY;
    }
}
