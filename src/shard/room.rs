//! Room in memory: rows leave it that tables have, and who writes waits until some did.
//!
//! Memory that rows fill is given back by flushes: what a flush has written to a table may go. So
//! writers do not meet a wall. While there is room enough they are free. Above that what is left is
//! spread over as long as a flush takes, so that they become slower the less there is, and hardly
//! anything is left when they stand still. Reads and deletes are not held up.
//!
//! ```text
//! free      up to a quarter of what lies between where rows begin to leave and the budget
//! slowed    above: a write takes its length of what is earned with time, or waits, in order
//! refused   nothing is left, and flushes fail, or nothing was given back for IDLE_MAX
//! ```
//!
//! Rows that never leave memory (`--engine memory`) are given back by nobody: writes are refused
//! when the budget is used up, unless keys may be evicted ([`super::evict`]). Then it is as above,
//! but that keys are deleted, and writers are free up to three quarters.
//!
//! Not here: who waits, and how ([`super::seek`], [`crate::server`]).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::seek::Wait;
use crate::command::{Flags, Spec};
use crate::env::{Class, Env};
use crate::eviction::Eviction;
use crate::id::Lsn;

/// Steps of a turn that lets rows go, of some seven rows each: some 50 us. One partition's turn, so
/// that what is used or has just come has many turns before the hand comes by again.
const STEPS_MAX: usize = 48;

/// Steps of the hand without effect after which memory counts as stuck.
const STUCK_STEPS: usize = 4096;

/// Of the memory, one part in so many is kept free.
const SPARE_SHARE: usize = 8;

/// Bytes that are kept free besides, for what is not accounted: buffers of flushes and compactions,
/// and what the allocator holds. Some 50 MiB of it were measured per core under a load of writes.
const UNSEEN_LEN_MAX: usize = 32 << 20;

/// Less than this part of the budget counts as nothing left.
const LEFT_SHARE: usize = 128;

/// What is left is spread over the time of a flush, but over no shorter and no longer time.
const SPAN_MIN: Duration = Duration::from_millis(100);
const SPAN_MAX: Duration = Duration::from_secs(2);

/// Writes are refused when nothing was given back for so long and no flush got any further: longer
/// than a disk that works takes for one operation.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Whether a write may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Slowed,
    Refused,
}

/// What flushes do, as far as memory is concerned.
#[derive(Clone, Copy, Debug)]
struct Flushes {
    /// How long one takes.
    span: Duration,
    /// Rises with all that one of them does.
    moves: u64,
    /// They fail.
    fail: bool,
}

/// How fast memory may fill. Pure: time and what is used are told.
#[derive(Debug)]
struct Intake {
    /// Writers are slowed from here on, bytes.
    slow_from: usize,
    /// The budget.
    full_at: usize,
    state: State,
    /// Bytes that may be written at once; below zero: what was written too early.
    credit: i64,
    /// Bytes that are earned in a second.
    rate: u64,
    at: Duration,
    /// What was used when it was least, and what flushes had done, since nothing was left.
    least: usize,
    moves: u64,
    moved_at: Duration,
}

impl Intake {
    fn new(slow_from: usize, full_at: usize) -> Self {
        let (state, credit, rate, at) = (State::Free, 0, 0, Duration::ZERO);
        let (least, moves, moved_at) = (usize::MAX, 0, Duration::ZERO);
        Self { slow_from, full_at, state, credit, rate, at, least, moves, moved_at }
    }

    fn is_due(&self, used: usize) -> bool {
        self.state != State::Free || used > self.slow_from
    }

    /// So much is used now.
    fn judge(&mut self, now: Duration, used: usize, flushes: Flushes) {
        let zone = (self.full_at - self.slow_from) as u64;
        if used <= self.slow_from {
            (self.state, self.credit, self.rate) = (State::Free, zone as i64, zone);
            (self.at, self.least) = (now, usize::MAX);
            return;
        }
        let left = self.full_at.saturating_sub(used);
        let since = match self.state {
            // It begins with nothing.
            State::Free => now,
            _ => self.at,
        };
        self.at = now;
        if left <= self.full_at / LEFT_SHARE {
            (self.credit, self.rate) = (self.credit.min(0), 0);
            self.state = self.judge_full(now, used, flushes);
            return;
        }
        self.least = usize::MAX;
        let (left, filled) = (left as u64, (used - self.slow_from) as u64);
        let span_ms = flushes.span.clamp(SPAN_MIN, SPAN_MAX).as_millis() as u64;
        let rate = u128::from(left) * u128::from(zone) * 1000 / u128::from(filled * span_ms);
        self.rate = rate.min(u128::from(u64::MAX)) as u64;
        let earned = u128::from(self.rate) * (now - since).as_nanos() / 1_000_000_000;
        let before = if self.state == State::Free { 0 } else { self.credit };
        self.credit = (i128::from(before) + earned.min(u128::from(zone)) as i128)
            .min(i128::from(left / 16)) as i64;
        self.state = State::Slowed;
    }

    /// Nothing is left.
    fn judge_full(&mut self, now: Duration, used: usize, flushes: Flushes) -> State {
        if used < self.least || self.moves != flushes.moves {
            (self.least, self.moves) = (self.least.min(used), flushes.moves);
            self.moved_at = now;
        }
        match flushes.fail || now - self.moved_at > IDLE_MAX {
            true => State::Refused,
            false => State::Slowed,
        }
    }

    /// Whether something may be written now.
    fn has_credit(&self) -> bool {
        self.credit > 0
    }

    fn take(&mut self, len: usize) {
        self.credit = self.credit.saturating_sub_unsigned(len as u64);
    }

    /// When something may be written, if nothing else happens.
    fn delay(&self) -> Option<Duration> {
        let missing = self.credit.min(0).unsigned_abs() + 1;
        let ms = (missing * 1000).checked_div(self.rate)?;
        Some(Duration::from_millis(ms.clamp(1, 100)))
    }
}

/// What is known of the memory that rows may take, and who waits for some.
pub(super) struct Room {
    /// Rows that tables have are let go, or keys deleted, when more than this is used; none: never.
    target: Option<usize>,
    /// Which keys are deleted.
    pub eviction: Eviction,
    memory_max: usize,
    /// Bytes that are measured once per tick: not of rows.
    pub other_len: usize,
    /// The end of the log when memory was last measured.
    pub measured_at: Lsn,
    /// The partition that the hand is at which lets rows go.
    pub hand: usize,
    /// Its steps since a row went.
    pub idle_steps: usize,
    /// Flushes that had ended by then.
    flushes: u64,
    /// Memory is short, and no row can go.
    pub is_stuck: bool,
    /// A flush would give much back.
    pub awaits_flush: bool,
    intake: Intake,
    /// Who waits, and for how many bytes.
    waits: VecDeque<(Wait, usize)>,
    /// Somebody will look again after a while.
    is_timed: Rc<Cell<bool>>,
}

impl Room {
    /// Of a shard that begins. `rows_max`: bytes of memory that rows may take; none: they never
    /// leave it. `memory_max`: the budget of the shard.
    pub fn new(rows_max: Option<usize>, memory_max: usize) -> Self {
        let target = rows_max.map(target_of);
        Self {
            target,
            eviction: Eviction::None,
            memory_max,
            other_len: 0,
            measured_at: Lsn(0),
            hand: 0,
            idle_steps: 0,
            flushes: 0,
            is_stuck: false,
            awaits_flush: false,
            intake: Self::intake(target, memory_max, 1),
            waits: VecDeque::new(),
            is_timed: Rc::default(),
        }
    }

    /// Writers are slowed when so many quarters of what is kept free are used.
    fn intake(target: Option<usize>, memory_max: usize, quarters: usize) -> Intake {
        let from = target.unwrap_or(memory_max).min(memory_max);
        Intake::new(from + (memory_max - from) / 4 * quarters, memory_max)
    }

    /// Of rows that never leave memory otherwise. True: it was another one before.
    pub fn set_eviction(&mut self, eviction: Eviction) -> bool {
        if eviction == self.eviction {
            return false;
        }
        self.eviction = eviction;
        self.target = (eviction != Eviction::None).then(|| target_of(self.memory_max));
        // What deleted keys leave is above the target.
        self.intake = Self::intake(self.target, self.memory_max, 3);
        (self.is_stuck, self.awaits_flush, self.idle_steps) = (false, false, 0);
        self.give_up();
        true
    }

    /// Whether a write that needs memory may have to wait.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.intake.state != State::Free
    }

    /// Whether writes that need memory are refused; so much is used.
    pub fn refuses(&self, used: usize) -> bool {
        match self.target {
            None => used > self.memory_max,
            Some(_) => self.intake.state == State::Refused || self.lacks_victims(used),
        }
    }

    /// Whether nothing is left, and there is no key that may go.
    fn lacks_victims(&self, used: usize) -> bool {
        let is_full = used + self.memory_max / LEFT_SHARE >= self.memory_max;
        self.eviction != Eviction::None && self.is_stuck && !self.awaits_flush && is_full
    }

    /// Lets go on whom there is room for. True: somebody goes on.
    fn grant(&mut self) -> bool {
        let before = self.waits.len();
        while self.intake.has_credit()
            && let Some((wait, len)) = self.waits.pop_front()
        {
            if wait.is_wanted() {
                self.intake.take(len);
                wait.give(|room| &mut room.memory);
                wait.end(None);
            }
        }
        self.waits.len() < before
    }

    /// Has all ask again. True: somebody does.
    fn give_up(&mut self) -> bool {
        let some = !self.waits.is_empty();
        self.waits.drain(..).for_each(|(wait, _)| wait.end(None));
        some
    }
}

/// Of so much memory for rows, what is to be used.
fn target_of(rows_max: usize) -> usize {
    let spare = rows_max / SPARE_SHARE;
    rows_max - spare - spare.min(UNSEEN_LEN_MAX)
}

impl<E: Env> Shard<E> {
    /// Whether whoever wants to evaluate a command may have to wait: for its keys
    /// ([`Shard::seek`]), or for room ([`Shard::seek_room`]).
    #[inline]
    pub fn may_wait(&self) -> bool {
        self.is_partial() || self.room.is_short() || self.backlog.holds()
    }

    /// Whether a command whose arguments have `len` bytes has the room in memory and log that it
    /// needs, or needs none. If not, `wait` ends when it may be asked again, with one that was
    /// given the same.
    pub fn seek_room(&mut self, spec: &Spec, len: usize, wait: &Wait) -> bool {
        self.seek_log(spec, len, wait) && self.seek_memory(spec, len, wait)
    }

    fn seek_memory(&mut self, spec: &Spec, len: usize, wait: &Wait) -> bool {
        if !self.room.is_short() || !spec.flags.has(Flags::DENYOOM) || wait.given().memory {
            return true;
        }
        if self.admit(spec).is_err() {
            // It will be told so.
            return true;
        }
        if self.room.waits.is_empty() && self.room.intake.has_credit() {
            self.room.intake.take(len);
            wait.give(|room| &mut room.memory);
            return true;
        }
        if wait.begin_for(|room| &mut room.memory) {
            self.room.waits.push_back((wait.clone(), len));
            self.stats.writes_slowed.add(1);
            self.env.notify();
        }
        false
    }

    /// Whether memory is used up and nothing is known to give any back.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.room.refuses(self.memory_used)
    }

    /// Lets rows go that tables have, if memory is short.
    pub(super) fn let_rows_go(&mut self) {
        let Some(target) = self.room.target else { return };
        let grown = self.log.appended().0.saturating_sub(self.room.measured_at.0);
        // Measured once per tick while there is room enough.
        if self.memory_used > target - target / SPARE_SHARE || grown > target as u64 / 16 {
            self.measure();
        }
        if self.memory_used <= target {
            (self.room.is_stuck, self.room.awaits_flush) = (false, false);
            return;
        }
        if self.room.eviction != Eviction::None {
            return self.evict_some(target);
        }
        let flushes = self.stats.flushes.get();
        if std::mem::replace(&mut self.room.flushes, flushes) != flushes {
            self.room.idle_steps = 0;
        }
        self.room.hand = (self.room.hand + 1) % self.partitions.len();
        let (gone, steps) = self.partitions[self.room.hand].let_go(STEPS_MAX);
        self.is_partial |= gone > 0;
        self.room.idle_steps = if gone > 0 { 0 } else { self.room.idle_steps + steps };
        self.stats.rows_evicted.add(gone as u64);
        // It has been past a few thousand rows, all of which are in no table or in use.
        self.room.is_stuck =
            self.room.idle_steps > STUCK_STEPS && self.memory_used > self.room.intake.slow_from;
        if gone > 0 || !self.room.is_stuck && !self.room.waits.is_empty() {
            self.env.notify();
        }
    }

    /// Lets writers go on for whom there is room by now.
    pub(super) fn give_room(&mut self) {
        if self.room.target.is_none() || !self.room.intake.is_due(self.memory_used) {
            return;
        }
        let now = self.env.now();
        let flushes = Flushes {
            span: self.tree.span_of_flush(now),
            moves: self.tree.moves(),
            fail: self.tree.is_stuck(),
        };
        self.room.intake.judge(now, self.memory_used, flushes);
        let refuses_all = self.failed.is_some()
            || self.log.is_disk_full()
            || self.tree.is_full(self.log.appended())
            || self.is_out_of_memory();
        let some = if refuses_all { self.room.give_up() } else { self.room.grant() };
        if some {
            self.env.notify();
        }
        if !self.room.waits.is_empty() {
            // Also if there is room enough for some: the others come next.
            self.room.intake.state = State::Slowed;
            self.look_later();
        }
    }

    /// Has the loop turn again when something may be written.
    fn look_later(&self) {
        let Some(delay) = self.room.intake.delay() else { return };
        if self.room.is_timed.replace(true) {
            return;
        }
        let (env, is_timed) = (self.env.clone(), Rc::clone(&self.room.is_timed));
        self.env.spawn(Class::Foreground, async move {
            env.sleep(delay).await;
            is_timed.set(false);
            env.notify();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn flushes(span_ms: u64) -> Flushes {
        Flushes { span: ms(span_ms), moves: 0, fail: false }
    }

    /// Writes as fast as it may for a while, from `used` on; nothing is given back.
    fn fill(intake: &mut Intake, mut used: usize, ms_max: u64, flushes: Flushes) -> Vec<usize> {
        let mut taken = Vec::new();
        for at in 0..ms_max {
            intake.judge(ms(at), used, flushes);
            let before = used;
            while intake.state == State::Slowed && intake.has_credit() {
                intake.take(1000);
                used += 1000;
            }
            taken.push(used - before);
        }
        taken
    }

    #[test]
    fn what_is_left_is_spread_over_a_flush_and_never_passed() {
        let mut intake = Intake::new(26 * MIB, 32 * MIB);

        let taken = fill(&mut intake, 26 * MIB + 1, 4000, flushes(2000));

        let sum = |range: std::ops::Range<usize>| taken[range].iter().sum::<usize>();
        let quarters: Vec<usize> = (0..8).map(|at| sum(at * 500..(at + 1) * 500)).collect();
        assert!(quarters.is_sorted_by(|one, next| one >= next), "{quarters:?}");
        // No step from one to the next is a fall to nothing.
        assert!(quarters.windows(2).all(|pair| pair[1] * 6 > pair[0]), "{quarters:?}");
        assert!(sum(0..4000) < 6 * MIB, "{quarters:?}");
        assert!(sum(0..2000) > 3 * MIB, "{quarters:?}");
    }

    #[test]
    fn writes_are_refused_when_nothing_was_given_back_for_long() {
        let mut intake = Intake::new(26 * MIB, 32 * MIB);
        intake.judge(ms(0), 30 * MIB, flushes(100));
        for at in 1..=10 {
            intake.judge(ms(at * 1000), 32 * MIB, flushes(100));
            assert_eq!(intake.state, State::Slowed, "after {at} s");
            assert!(!intake.has_credit());
        }

        // A flush got further.
        intake.judge(ms(11_000), 32 * MIB, Flushes { moves: 1, ..flushes(100) });
        intake.judge(ms(20_000), 32 * MIB, Flushes { moves: 1, ..flushes(100) });
        assert_eq!(intake.state, State::Slowed);
        intake.judge(ms(21_001), 32 * MIB, Flushes { moves: 1, ..flushes(100) });
        assert_eq!(intake.state, State::Refused);

        intake.judge(ms(21_100), 29 * MIB, flushes(100));
        assert_eq!(intake.state, State::Slowed);
        intake.judge(ms(21_200), 29 * MIB, flushes(100));
        assert!(intake.has_credit());
    }

    #[test]
    fn writes_are_refused_at_once_when_flushes_fail_and_nothing_is_left() {
        let mut intake = Intake::new(26 * MIB, 32 * MIB);
        let failing = Flushes { fail: true, ..flushes(100) };

        intake.judge(ms(0), 30 * MIB, failing);
        assert_eq!(intake.state, State::Slowed);
        intake.judge(ms(1), 32 * MIB, failing);
        assert_eq!(intake.state, State::Refused);
    }
}
