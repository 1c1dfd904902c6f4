//! How old what a replica has is at most: what lets one that follows answer reads, and not only its
//! leader.
//!
//! Nothing is sent as long as nobody wants such reads. Then a shard asks the shards of its number
//! on the other nodes with each tick, under a number that it gives to nothing else, and notes when
//! it asked. Whoever leads a partition under a lease answers up to which index it has committed,
//! and what its wall clock says ([`crate::protocol::peer::Closed`]). When the replica here has
//! applied that index, it has *closed* the moment at which it asked.
//!
//! **Why that is so.** Let the replica ask at `t`, by its own monotonic clock, and the leader look
//! at its lease and then at its commit index, `i`, when it takes the question up, which is later.
//! While the lease holds nobody else can lead, and nothing is acknowledged before it is committed.
//! So every write that was acknowledged to anybody before `t` has an index of at most `i`, in the
//! one log that all replicas agree on. A replica that has applied `i` shows each of them, or what
//! came after it; and what it shows is committed. At `now`, by the same clock, it is therefore at
//! most `now - t` behind. How long question and answer were under way, in queues or in a process
//! that was stopped, only makes `t` older than it might be; it is never reckoned from when the
//! answer came, which proves nothing. No two clocks are compared: the number that comes back only
//! names the note of `t` that was kept here. A clock that stands still while its machine is
//! suspended makes this wrong, as it does a lease.
//!
//! *Deadlines of keys* are the leader's to decide. A read that is answered here goes by the wall
//! clock of the leader at that moment, which came with the answer: it shows no key that was gone
//! for the leader before `t`, and none goes early because the clock here is fast.
//!
//! *The bound* is held to at the beginning of the turn that reads, with [`LEASE_SPARE`] to spare,
//! and again at its end, as with a lease: a turn that took longer is taken back. So what a read is
//! answered was current at some moment not longer than the bound before it was asked.
//!
//! Not here: who asks for such reads and where they go else ([`crate::server`]). The first half of
//! the file is pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Planted, Shard};
use crate::env::Env;
use crate::id::PartitionId;
use crate::partition::{LEASE_SPARE, Standing};
use crate::protocol::peer::Closed;

/// Questions whose answers may still come, and answers of a partition that wait for their index: of
/// the last seconds, at one per tick. The oldest are given up.
const WAITING_MAX: usize = 64;

/// A moment that is closed once an index is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// When it was asked for.
    pub at: Duration,
    /// All that was acknowledged before has at most this index.
    pub index: u64,
    /// What the leader's wall clock said, unix milliseconds.
    pub wall_ms: u64,
}

/// The moments that a shard's partitions have closed. Pure.
#[derive(Debug, Default)]
pub(super) struct Moments {
    /// The last number that was given to a question.
    round: u64,
    asked: VecDeque<(u64, Duration)>,
    known: Vec<Known>,
    /// Marks that wait for their index.
    waiting: usize,
}

#[derive(Clone, Debug, Default)]
struct Known {
    waiting: VecDeque<Mark>,
    newest: Option<Mark>,
}

impl Moments {
    /// Of a shard of so many partitions; `round` is a number that no life of this node before is
    /// likely to have used.
    pub fn new(partitions: usize, round: u64) -> Self {
        Self { round, known: vec![Known::default(); partitions], ..Self::default() }
    }

    /// A question is about to be sent at `now`; its number.
    pub fn ask(&mut self, now: Duration) -> u64 {
        self.round = self.round.wrapping_add(1);
        if self.asked.len() >= WAITING_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.round, now));
        self.round
    }

    /// When a question was asked; none: too long ago, or never.
    pub fn asked_at(&self, round: u64) -> Option<Duration> {
        self.asked.iter().find(|(of, _)| *of == round).map(|(_, at)| *at)
    }

    /// The partition at that place closes a moment once it has applied the mark's index.
    pub fn note(&mut self, place: u32, mark: Mark) {
        let known = &mut self.known[place as usize];
        if known.waiting.len() >= WAITING_MAX {
            known.waiting.pop_front();
            self.waiting -= 1;
        }
        known.waiting.push_back(mark);
        self.waiting += 1;
    }

    /// Whether anything waits for an index.
    pub fn are_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// The partition at that place has applied all up to `index`. The moment that it has closed, if
    /// that is another than before.
    pub fn settle(&mut self, place: u32, index: u64) -> Option<Mark> {
        let Known { waiting, newest } = &mut self.known[place as usize];
        let (before, count) = (*newest, waiting.len());
        // Of several leaders the later question may be answered first, with a lower index.
        waiting.retain(|mark| {
            let waits = mark.index > index;
            if !waits && newest.is_none_or(|newest| newest.at < mark.at) {
                *newest = Some(*mark);
            }
            waits
        });
        self.waiting -= count - waiting.len();
        newest.filter(|_| *newest != before)
    }

    /// The newest moment that the partition at that place has closed.
    pub fn closed(&self, place: u32) -> Option<Mark> {
        self.known.get(place as usize)?.newest
    }
}

impl<E: Env> Shard<E> {
    /// From here on commands may be answered by replicas that follow, if what they have is at most
    /// so old; none, or zero: by leaders alone. Of no effect on a lone node.
    pub fn set_stale_max(&mut self, stale_max: Option<Duration>) {
        let members = self.replicas.members.as_ref();
        let bound = stale_max.filter(|bound| members.is_some() && !bound.is_zero());
        if let (Some(members), Some(_)) = (members, bound) {
            members.want_closed(self.replicas.turn_began);
        }
        self.replicas.stale_max = bound;
    }

    /// How old what a command is answered may be; none: only leaders answer.
    pub fn stale_max(&self) -> Option<Duration> {
        self.replicas.stale_max
    }

    /// What the partition at that place has closed, if it follows and may answer the command.
    pub(super) fn closed_for_reads(&self, place: u32) -> Option<Mark> {
        let bound = self.replicas.stale_max?;
        let standing = self.replicas.standings[place as usize];
        let follows = matches!(standing, Standing::Follows(_) | Standing::Waits);
        let mark = self.replicas.moments.closed(place).filter(|_| follows)?;
        let is_fresh = self.replicas.turn_began + LEASE_SPARE <= mark.at + bound;
        let partition = self.partition(place);
        // What it had may have gone, and an older snapshot have come.
        let has_it = partition.committed().index >= mark.index && partition.shows_committed();
        (is_fresh && has_it).then_some(mark)
    }

    /// Whether another shard of this node may answer the command from a replica of that partition.
    pub(super) fn is_closed_nearby(&self, partition: PartitionId) -> bool {
        let (Some(bound), Some(members)) = (self.replicas.stale_max, &self.replicas.members) else {
            return false;
        };
        let at = members.closed(partition);
        at.is_some_and(|at| self.replicas.turn_began + LEASE_SPARE <= at + bound)
    }

    /// The wall time that a command on the partition at that place goes by, unix milliseconds.
    #[inline]
    pub(super) fn wall_ms(&self, place: u32) -> u64 {
        match self.replicas.stale_max {
            Some(bound) if !self.leads(place) => self.wall_ms_behind(place, bound),
            _ => self.now_ms,
        }
    }

    /// As [`Shard::wall_ms`], of a partition that follows: it is read.
    fn wall_ms_behind(&self, place: u32, bound: Duration) -> u64 {
        let Some(mark) = self.closed_for_reads(place) else { return self.now_ms };
        let until = mark.at + bound;
        let earliest = self.replicas.good_until.get().map_or(until, |other| other.min(until));
        self.replicas.good_until.set(Some(earliest));
        self.stats.follower_reads.add(1);
        mark.wall_ms
    }

    /// A question to the leaders, if anybody wants to read here: its number. To be sent at once.
    pub fn ask_leaders(&mut self) -> Option<u64> {
        let now = self.env.now();
        let is_wanted = self.replicas.members.as_ref()?.wants_closed(now);
        if self.failed.is_some() || !is_wanted {
            return None;
        }
        let round = self.replicas.moments.ask(now);
        // What is led here may not be so for long.
        let own = self.answer_ask(round);
        self.take_closed(&own);
        Some(round)
    }

    /// The answer to a question, this node's own or another's.
    pub fn answer_ask(&self, round: u64) -> Closed {
        let now = self.env.now();
        let is_unchecked = self.planted == Some(Planted::ClosedWithoutLease);
        let leads = |partition: &&crate::partition::Partition| {
            partition.standing(now) == Standing::Leads || (is_unchecked && partition.is_leader())
        };
        let led = self.partitions.iter().filter(|_| self.failed.is_none()).filter(leads);
        let indices = led.map(|partition| (partition.id(), partition.committed().index)).collect();
        Closed { round, wall_ms: self.env.unix_ms(), indices }
    }

    /// An answer has come.
    pub fn take_closed(&mut self, closed: &Closed) {
        let Closed { round, wall_ms, ref indices } = *closed;
        let Some(mut at) = self.replicas.moments.asked_at(round) else { return };
        if self.planted == Some(Planted::AgeFromReceipt) {
            at = self.env.now();
        }
        for (partition, index) in indices {
            let Some(place) = self.place_of(*partition) else { continue };
            let is_early = self.planted == Some(Planted::ClosedUnapplied);
            let index = if is_early { 0 } else { *index };
            self.replicas.moments.note(place, Mark { at, index, wall_ms });
        }
        self.settle_moments();
    }

    /// Closes what was applied meanwhile.
    pub(super) fn settle_moments(&mut self) {
        if !self.replicas.moments.are_waiting() {
            return;
        }
        let Some(members) = &self.replicas.members else { return };
        for (place, partition) in (0..).zip(&self.partitions) {
            let index = partition.committed().index;
            if let Some(mark) = self.replicas.moments.settle(place, index) {
                members.note_closed(partition.id(), mark.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at_ms: u64, index: u64) -> Mark {
        Mark { at: Duration::from_millis(at_ms), index, wall_ms: at_ms }
    }

    #[test]
    fn a_moment_is_closed_once_its_index_is_applied() {
        let mut moments = Moments::new(2, 7);
        moments.note(1, mark(10, 5));
        moments.note(1, mark(20, 8));

        assert_eq!(moments.settle(1, 4), None);
        assert_eq!(moments.closed(1), None);
        assert_eq!(moments.settle(1, 5), Some(mark(10, 5)));
        assert!(moments.are_waiting());
        assert_eq!(moments.settle(1, 9), Some(mark(20, 8)));
        assert_eq!((moments.closed(1), moments.closed(0)), (Some(mark(20, 8)), None));
        assert!(!moments.are_waiting());
    }

    #[test]
    fn a_replica_that_always_lags_closes_older_moments() {
        let mut moments = Moments::new(1, 0);
        for tick in 0..200 {
            moments.note(0, mark(100 * tick, 10 * tick));
            moments.settle(0, (10 * tick).saturating_sub(35));
        }

        assert_eq!(moments.closed(0), Some(mark(100 * 195, 10 * 195)));
    }

    #[test]
    fn an_older_answer_that_comes_late_changes_nothing() {
        let mut moments = Moments::new(1, 0);
        moments.note(0, mark(30, 2));
        moments.settle(0, 3);
        moments.note(0, mark(10, 1));

        assert_eq!(moments.settle(0, 3), None);
        assert_eq!(moments.closed(0), Some(mark(30, 2)));
    }

    #[test]
    fn the_time_of_a_question_is_kept_here_and_found_by_its_number() {
        let mut moments = Moments::new(1, u64::MAX);
        let at = Duration::from_secs;
        let rounds: Vec<_> = (0..100).map(|second| moments.ask(at(second))).collect();

        assert_eq!(moments.asked_at(rounds[99]), Some(at(99)));
        assert_eq!(moments.asked_at(rounds[36]), Some(at(36)));
        assert_eq!(moments.asked_at(rounds[35]), None, "too long ago");
        assert_eq!(moments.asked_at(rounds[99] + 1), None);
    }
}
