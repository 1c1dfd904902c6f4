//! When a write of the log starts: at once, or with company. Pure.
//!
//! Alone, a client wants its write at once, and a few want several in flight. A crowd does better
//! to share: a commit costs some 40 us of CPU on all that it touches (submission, two interrupts,
//! the worker that flushes), and where the cores are busy that is what bounds everybody. So once
//! clients come fast enough for [`GATHER_MIN`] of them to meet within a few times what a write
//! takes, a block waits until two fifths of the crowd are in it: two blocks are then on their way
//! in turn, one in the disk while the other fills.
//!
//! Why two fifths: SETs per second of 50 clients, with a block that starts when 12, 16, 24 or 40
//! wait for it: 66, 78, 78, 66 thousand, with none 53 and redis 50; of 256 clients with 16, 32, 64,
//! 100: 69, 72, 88, 83 thousand, with none 62 (medians of alternating runs, 2-core VM). A fixed
//! delay would make a lone client wait for nobody, and a fixed count a small crowd. What would
//! change it: a disk whose commits cost no CPU.

use std::time::Duration;

/// Clients that must be able to meet in a block for it to be worth their waiting.
const GATHER_MIN: u32 = 12;
/// Blocks in flight while clients gather.
const GATHER_IN_FLIGHT_MAX: usize = 2;
/// How long a block gathers at most, in times of a write, and at all.
const GATHER_WRITES_MAX: u32 = 3;
const GATHER_TIME_MAX: Duration = Duration::from_millis(1);
/// What a write is thought to take before the first has ended.
const WRITE_TIME: Duration = Duration::from_micros(100);

/// Who wants the log written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Company {
    /// Clients that began to wait since this was last said.
    pub waiting: u32,
    /// Clients that waited for the log lately, those who will be back included.
    pub crowd: u32,
    /// Time from one of them to the next; zero: not known.
    pub interval: Duration,
}

/// When the open block may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Now.
    Now,
    /// When more have come, and no later than this.
    Until(Duration),
    /// When a write has ended.
    AfterOne,
}

/// See the module's header.
#[derive(Debug)]
pub struct Pace {
    /// What a write takes, smoothed.
    write_time: Duration,
    /// Clients that should meet in a block.
    target: u32,
    /// Clients that wait for the open block, and since when.
    waiting: u32,
    since: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { write_time: WRITE_TIME, target: 0, waiting: 0, since: None }
    }
}

impl Pace {
    /// Clients wait for the open block.
    pub fn join(&mut self, company: Company, now: Duration) {
        self.since.get_or_insert(now);
        self.waiting += company.waiting;
        let meet = match company.interval.as_nanos() {
            0 => 0,
            interval => self.gather_time().as_nanos() / interval,
        };
        self.target = (company.crowd * 2 / 5).min(meet.min(u128::from(u32::MAX)) as u32);
    }

    /// When the open block may be written, with so many writes in flight.
    pub fn start(&self, now: Duration, in_flight: usize) -> Start {
        if self.target < GATHER_MIN {
            return Start::Now;
        }
        if in_flight >= GATHER_IN_FLIGHT_MAX {
            return Start::AfterOne;
        }
        let until = self.since.unwrap_or(now) + self.gather_time();
        if self.waiting >= self.target || now >= until { Start::Now } else { Start::Until(until) }
    }

    /// The open block was closed; the next has nobody yet.
    pub fn closed(&mut self) {
        (self.waiting, self.since) = (0, None);
    }

    /// A write ended after `took`.
    pub fn ended(&mut self, took: Duration) {
        self.write_time = (self.write_time * 7 + took) / 8;
    }

    fn gather_time(&self) -> Duration {
        (self.write_time * GATHER_WRITES_MAX).min(GATHER_TIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn company(waiting: u32, crowd: u32, interval: Duration) -> Company {
        Company { waiting, crowd, interval }
    }

    #[test]
    fn few_clients_never_wait() {
        let mut pace = Pace::default();
        pace.join(company(1, 1, us(200)), us(5));
        assert_eq!(pace.start(us(5), 0), Start::Now);

        pace.join(company(8, 20, us(10)), us(6));
        assert_eq!(pace.start(us(6), 7), Start::Now);
    }

    #[test]
    fn a_crowd_that_comes_slowly_never_waits() {
        let mut pace = Pace::default();
        pace.join(company(1, 5000, us(50)), us(0));
        assert_eq!(pace.start(us(0), 0), Start::Now);
    }

    #[test]
    fn a_crowd_gathers_until_two_fifths_are_there_or_the_time_is_over() {
        let mut pace = Pace::default();
        pace.join(company(5, 50, us(12)), us(1000));
        assert_eq!(pace.start(us(1000), 0), Start::Until(us(1300)));
        assert_eq!(pace.start(us(1300), 0), Start::Now);

        pace.join(company(15, 50, us(12)), us(1100));
        assert_eq!(pace.start(us(1100), 1), Start::Now);
        assert_eq!(pace.start(us(1100), 2), Start::AfterOne);

        pace.closed();
        pace.join(company(1, 50, us(12)), us(1200));
        assert_eq!(pace.start(us(1200), 1), Start::Until(us(1500)));
    }

    #[test]
    fn nobody_gathers_longer_than_a_millisecond_on_a_slow_disk() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.ended(us(50_000)));
        pace.join(company(1, 50, us(12)), us(0));
        assert_eq!(pace.start(us(0), 0), Start::Until(us(1000)));
    }
}
