//! How a write of the log is made durable: by itself, or by a sync after it. Pure.
//!
//! By itself (`RWF_DSYNC`) it costs least CPU, and a disk without a volatile cache, or with FUA,
//! has nothing to flush. On any other the kernel flushes after the write, in a worker bound to the
//! core that takes the disk's interrupts. When anything else keeps that core busy, a neighbour in
//! another container or the clients, each such write waits for the scheduler's tick: 250 commits a
//! second instead of 4,700. A sync that is asked for apart is not bound to that core. So both are
//! timed: now and then [`TRIAL_LEN`] writes are made in the other way, and the way is changed if
//! they end clearly sooner.
//!
//! Why not always apart: with builds that do nothing else, 1, 8 and 50 clients, and 50 with 16 SETs
//! each on their way, did 0.85 to 0.93, 0.90 to 1.04, 1.04 to 1.15, 0.86 to 0.90 times as many a
//! second, at 1.3, 1.3, 1.0, 1.1 times the CPU; with a busy loop on the core of the interrupts 15,
//! 2.0, 1.05 times as many (2-core VM, virtio disk, one interrupt). What would change it: workers
//! that are not bound.

use std::time::Duration;

/// See the module's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// The write ends when it is durable.
    Dsync,
    /// The write is followed by a sync of the file.
    Fdatasync,
}

impl SyncMethod {
    fn other(self) -> Self {
        match self {
            Self::Dsync => Self::Fdatasync,
            Self::Fdatasync => Self::Dsync,
        }
    }
}

/// Writes of a trial, and those that count for what is usual.
const TRIAL_LEN: u32 = 32;
/// From one trial to the next at first, and when many in a row were lost.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(16);

/// Chooses between the methods by what writes take.
#[derive(Debug)]
pub struct Choice {
    method: SyncMethod,
    /// What a write takes with it, smoothed.
    usual: Duration,
    /// Writes with it since it was chosen or tried against; those of `usual`.
    seen: u32,
    trial: Option<Trial>,
    /// When the next trial may begin, and how long after this one.
    due: Duration,
    wait: Duration,
}

#[derive(Debug, Default)]
struct Trial {
    ended: u32,
    took: Duration,
}

impl Default for Choice {
    fn default() -> Self {
        let (usual, due) = (Duration::ZERO, Duration::ZERO);
        Self { method: SyncMethod::Dsync, usual, seen: 0, trial: None, due, wait: WAIT_MIN }
    }
}

impl Choice {
    /// That of a write that starts now.
    pub fn method(&mut self, now: Duration) -> SyncMethod {
        if self.trial.is_none() && self.seen >= TRIAL_LEN && now >= self.due {
            self.trial = Some(Trial::default());
        }
        if self.trial.is_some() { self.method.other() } else { self.method }
    }

    /// The method in use, but for trials.
    pub fn kept(&self) -> SyncMethod {
        self.method
    }

    /// A write ended after `took`.
    pub fn ended(&mut self, method: SyncMethod, took: Duration, now: Duration) {
        if method == self.method {
            self.seen = (self.seen + 1).min(TRIAL_LEN);
            self.usual = (self.usual * (self.seen - 1) + took) / self.seen;
            return;
        }
        let Some(trial) = &mut self.trial else { return };
        trial.ended += 1;
        trial.took += took;
        let (ended, took) = (trial.ended, trial.took);
        // Lost before its end, if the writes to come can not make up for those that were.
        if took > self.usual * TRIAL_LEN {
            self.end_trial(now, (self.wait * 2).min(WAIT_MAX));
        } else if ended == TRIAL_LEN {
            self.won(took / TRIAL_LEN, now);
        }
    }

    /// All writes of a trial took `mean` each, no longer than is usual.
    fn won(&mut self, mean: Duration, now: Duration) {
        // What costs more CPU has to be a third faster.
        let is_worth_it = self.method == SyncMethod::Fdatasync || mean * 4 < self.usual * 3;
        if !is_worth_it {
            return self.end_trial(now, (self.wait * 2).min(WAIT_MAX));
        }
        (self.method, self.usual, self.seen) = (self.method.other(), mean, TRIAL_LEN);
        self.end_trial(now, WAIT_MIN);
    }

    fn end_trial(&mut self, now: Duration, wait: Duration) {
        (self.trial, self.wait, self.due) = (None, wait, now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SyncMethod::{Dsync, Fdatasync};

    /// What writes take: with each method, microseconds.
    struct Disk {
        dsync: u64,
        fdatasync: u64,
    }

    /// Writes one after the other for `time`; returns how many with each, and the time when done.
    fn write(choice: &mut Choice, disk: &Disk, from: Duration, time: Duration) -> (u32, u32) {
        let (mut now, mut counts) = (from, (0, 0));
        while now < from + time {
            let method = choice.method(now);
            let us = match method {
                Dsync => disk.dsync,
                Fdatasync => disk.fdatasync,
            };
            match method {
                Dsync => counts.0 += 1,
                Fdatasync => counts.1 += 1,
            }
            now += Duration::from_micros(us);
            choice.ended(method, Duration::from_micros(us), now);
        }
        counts
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn on_a_calm_machine_it_stays_and_tries_seldom() {
        for fdatasync in [80, 100, 130] {
            let mut choice = Choice::default();
            let disk = Disk { dsync: 100, fdatasync };
            let (_, tried) = write(&mut choice, &disk, Duration::ZERO, 100 * SECOND);
            assert_eq!(choice.kept(), Dsync);
            assert!((1..=10 * TRIAL_LEN).contains(&tried), "{tried} of a million");
        }
    }

    #[test]
    fn it_leaves_writes_that_wait_for_a_tick_and_comes_back_when_they_do_not() {
        let mut choice = Choice::default();
        let busy = Disk { dsync: 4000, fdatasync: 110 };
        let (waited, _) = write(&mut choice, &busy, Duration::ZERO, SECOND);
        assert_eq!((choice.kept(), waited), (Fdatasync, TRIAL_LEN));

        let (waited, went) = write(&mut choice, &busy, SECOND, 100 * SECOND);
        assert!(waited <= 10 && went > 800_000, "{waited} waited, {went} went");

        let calm = Disk { dsync: 90, fdatasync: 110 };
        write(&mut choice, &calm, 101 * SECOND, 17 * SECOND);
        assert_eq!(choice.kept(), Dsync);
    }

    #[test]
    fn writes_of_a_trial_that_end_after_it_count_for_nothing() {
        let mut choice = Choice::default();
        let (us, ms) = (Duration::from_micros(100), Duration::from_millis(4));
        (0..TRIAL_LEN).for_each(|_| choice.ended(Dsync, us, us));
        assert_eq!([choice.method(us), choice.method(us)], [Fdatasync; 2]);
        choice.ended(Fdatasync, ms, ms);
        assert_eq!(choice.method(ms), Dsync);
        choice.ended(Fdatasync, ms, ms);
        assert_eq!((choice.kept(), choice.usual), (Dsync, us));
    }
}
