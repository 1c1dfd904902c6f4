//! When a write of the log starts: at once, or with company. Pure.
//!
//! Alone, a client wants its write at once. Several do better to share: a commit costs some 40 us
//! of CPU on all that it touches (submission, two interrupts, the worker that flushes), and a disk
//! of one flush at a time does two that overlap hardly sooner than two in a row. So once clients
//! come so fast that at least [`GATHER_MIN`] meet within a few times what a write takes, a block
//! waits until two fifths of the crowd are in it: two blocks are then on their way in turn, one in
//! the disk while the other fills. Of a crowd too large for half of that to meet in the time,
//! [`CROWD_MIN`] must be able to.
//!
//! Why two fifths: SETs per second of 50 clients, with a block that starts when 12, 16, 24 or 40
//! wait for it: 66, 78, 78, 66 thousand, with none 53 and redis 50; of 256 clients with 16, 32, 64,
//! 100: 69, 72, 88, 83 thousand, with none 62 (medians of alternating runs, 2-core VM). A fixed
//! delay would make a lone client wait for nobody, and a fixed count a small crowd. What would
//! change it: a disk whose commits cost no CPU.
//!
//! Why 3 are enough, but where other nodes have replicas: 6, 8, 12, 16 and 24 clients did 1.19,
//! 1.12, 1.20, 1.19 and 1.28 times as much as with 12, at 0.79 to 0.83 of the CPU per SET (a disk
//! that does 7.1, 9.6, 11.5 thousand writes a second with 1, 2, 4 in flight); 4 of which 2 met 0.81
//! to 1.04. With replicas a block holds entries of other leaders too, whose clients wait for two
//! disks in a row: 16 and 50 clients of 3 nodes did 0.84 to 0.90 and 0.81 to 0.84 times as much.
//! Waiting for nothing but the write before: 0.89 and 0.78 times with 8 and 16.

use std::time::Duration;

/// Clients that must be able to meet in a block for it to be worth their waiting.
const GATHER_MIN: u32 = 3;
/// The same of a crowd that comes too slowly for half of its share to meet, or where other nodes
/// have replicas.
const CROWD_MIN: u32 = 12;
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
    /// Other nodes have replicas of what is written, and this one of theirs.
    pub is_replicated: bool,
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
    /// How many are worth waiting for.
    least: u32,
    /// Clients that wait for the open block, and since when.
    waiting: u32,
    since: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { write_time: WRITE_TIME, target: 0, least: GATHER_MIN, waiting: 0, since: None }
    }
}

impl Pace {
    /// Clients wait for the open block.
    pub fn join(&mut self, company: Company, now: Duration) {
        self.since.get_or_insert(now);
        self.waiting += company.waiting;
        let meet = match company.interval.as_nanos() {
            0 => 0,
            interval => (self.gather_time().as_nanos() / interval).min(u128::from(u32::MAX)) as u32,
        };
        let share = (company.crowd * 2).div_ceil(5);
        self.target = share.min(meet);
        let is_slow = meet.saturating_mul(2) < share;
        self.least = if company.is_replicated || is_slow { CROWD_MIN } else { GATHER_MIN };
    }

    /// When the open block may be written, with so many writes in flight.
    pub fn start(&self, now: Duration, in_flight: usize) -> Start {
        if self.target < self.least {
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
        Company { waiting, crowd, interval, is_replicated: false }
    }

    #[test]
    fn one_to_five_clients_never_wait() {
        for crowd in 1..=5 {
            let mut pace = Pace::default();
            pace.join(company(1, crowd, us(40)), us(5));
            assert_eq!(pace.start(us(5), 1), Start::Now);
        }
    }

    #[test]
    fn a_few_wait_unless_other_nodes_have_replicas() {
        let few = company(1, 8, us(10));
        let mut pace = Pace::default();
        pace.join(few, us(6));
        assert_eq!(pace.start(us(6), 0), Start::Until(us(306)));
        pace.join(Company { waiting: 3, ..few }, us(8));
        assert_eq!(pace.start(us(8), 0), Start::Now);

        let mut pace = Pace::default();
        pace.join(Company { is_replicated: true, ..few }, us(6));
        assert_eq!(pace.start(us(6), 7), Start::Now);
        pace.join(Company { is_replicated: true, crowd: 50, ..few }, us(7));
        assert_eq!(pace.start(us(7), 0), Start::Until(us(306)));
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
