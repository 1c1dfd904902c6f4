//! Tables from elsewhere take the place of all that a partition has, or nothing does: one edit of
//! the manifest.
//!
//! Old and new are never mixed. The edit removes all tables of the partition and adds the new ones;
//! until the loop takes over, reads go on with the old tables and the old rows, and then, in one
//! turn, with the new ones. What a read of the old tables brings later is of another epoch.
//!
//! No flush is on its way meanwhile: one that has not begun or is of the same partition is given
//! up, and another's end is waited for, since both say from where on the log is needed.
//!
//! What the log has of the partition before the edit is void for ever, committed or not: entries
//! behind the checkpoint's may be there that a deposed leader wrote. So the manifest says up to
//! where ([`PartitionState::log_from`]), and is written when the log is durable to there, lest a
//! log that a power cut made shorter comes to that place a second time.

use super::incoming::Staged;
use super::load::stored_of;
use super::{Change, Error, Flushing, Ground, Shared, Stage, Tree, flush};
use crate::consensus::Membership;
use crate::env::{Class, Env};
use crate::id::Lsn;
use crate::lsm::manifest::PartitionState;
use crate::partition::{Partition, Planted, Roster};

/// An install on its way.
pub(super) struct Installing {
    place: u32,
    staged: Staged,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    /// Others come first.
    Queued,
    /// Until the log is durable to here.
    Marked(Lsn),
    /// The manifest is being written; the log is needed from there on, and has nothing of the
    /// partition before the mark.
    Named { mark: Lsn, log_from: Lsn, hard: (u64, u64) },
}

/// An install that has ended.
#[derive(Debug)]
pub struct Installed {
    /// Of the partition at this place.
    pub place: u32,
    /// Up to this entry; 0: nothing.
    pub index: u64,
    /// An error: the partition has what it had.
    pub end: Result<(), Error>,
}

impl<E: Env> Tree<E> {
    /// Has staged tables take the place of all that the partition at `place` has. How it ended:
    /// [`Tree::take_installed`].
    pub fn install(&mut self, place: u32, staged: Staged) {
        self.installs.push_back(Installing { place, staged, step: Step::Queued });
        self.env.notify();
    }

    /// Nothing, to be installed: of a partition that goes on without this replica, with these
    /// members.
    pub fn nothing(&self, partition: &Partition, members: &Membership) -> Staged {
        let topology = partition.roster().topology.clone();
        let roster = Roster { members: members.clone(), topology, following: None }.encode().into();
        let floor = partition.last_entry();
        let state = PartitionState { floor, roster, ..PartitionState::default() };
        let recovery = Some(partition.blank(stored_of(&state)));
        let (env, store, shared) = (self.env.clone(), self.store.clone(), Shared::default());
        let staged = Staged { state, keys: Vec::new(), recovery, shared: shared.clone() };
        self.env.spawn(Class::Background, async move {
            flush::finish(&env, &store, &shared, Vec::new()).await;
        });
        staged
    }

    /// An install that has ended. The partition is what the tables make it.
    pub fn take_installed(&mut self) -> Option<Installed> {
        self.installed.pop_front()
    }

    /// Whether there is one that nobody has taken.
    pub fn has_installed(&self) -> bool {
        !self.installed.is_empty()
    }

    /// Whether no flush may begin.
    pub(super) fn is_installing(&self) -> bool {
        self.installs.front().is_some_and(|first| !matches!(first.step, Step::Queued))
    }

    /// Goes on with the first install.
    pub(super) fn tend_installs(&mut self, ground: &mut Ground<'_, E>) {
        let Some(mut first) = self.installs.pop_front() else { return };
        first.step = match first.step {
            Step::Queued if self.clear_way(first.place) => Step::Marked(ground.log.appended()),
            Step::Marked(mark) if ground.log.durable() >= mark => self.name(&first, mark, ground),
            Step::Named { mark, log_from, hard } => match first.staged.shared.take_end() {
                None => first.step,
                Some(end) => return self.end_install(first, end, ground, (mark, log_from, hard)),
            },
            step => step,
        };
        self.installs.push_front(first);
    }

    /// Sees to it that no flush is on its way. True: none is.
    fn clear_way(&mut self, place: u32) -> bool {
        match self.flushing.take() {
            Some(Flushing { stage: Stage::Marked { .. }, .. }) => true,
            Some(Flushing {
                place: of,
                stage: Stage::Taking(_, shared) | Stage::Taken(_, shared, _),
                ..
            }) if of == place => {
                shared.give_up();
                true
            }
            other => {
                self.flushing = other;
                self.flushing.is_none()
            }
        }
    }

    /// Tells the task what the manifest is to say.
    fn name(&mut self, first: &Installing, mark: Lsn, ground: &Ground<'_, E>) -> Step {
        let Installing { place, staged, .. } = first;
        let shard = self.shard_state(ground, (*place, mark));
        let partition = &ground.partitions[*place as usize];
        let (term, vote) = match partition.hard_state() {
            // It has not heard of the term of an entry that is about to be its own.
            (term, _) if term < staged.index_term() => (staged.index_term(), 0),
            hard_state => hard_state,
        };
        let log_from = if partition.has(Planted::InstallKeepsLog) { Lsn(0) } else { mark };
        let state = PartitionState { term, vote, log_from, ..staged.state.clone() };
        let (id, keys, log_from) = (partition.id(), staged.keys.clone(), shard.log_from);
        if !partition.has(Planted::InstallShowsEarly) {
            self.store.hold(id);
        }
        staged.shared.install(Change { partition: id, state, shard, keys, replaces_all: true });
        Step::Named { mark, log_from, hard: (term, vote) }
    }

    fn end_install(
        &mut self,
        first: Installing,
        end: Result<(), Error>,
        ground: &mut Ground<'_, E>,
        (mark, log_from, hard): (Lsn, Lsn, (u64, u64)),
    ) {
        let Installing { place, mut staged, .. } = first;
        let index = staged.index();
        if end.is_ok()
            && let Some(recovery) = staged.recovery.take()
        {
            ground.partitions[place as usize].install(recovery, hard, ground.abandoned);
            self.marks[place as usize] = mark;
            self.needed_from = log_from;
            ground.log.release(log_from);
            self.compaction.note_change();
            self.due_at = Lsn(0);
        }
        self.store.release();
        self.count(ground.stats);
        self.installed.push_back(Installed { place, index, end });
        self.env.notify();
    }
}
