//! How fast tables are merged, or sent to others: as fast as the disk takes it, unless those suffer
//! from it who wait for an answer.
//!
//! A rate in bytes per second is brought up by an eighth per tick while answers come in time, and
//! down by a quarter when one was late. But it never falls so low that what is due would take
//! longer than [`CATCH_UP_S`]: reads would pay for that later, with every table more.
//!
//! Why by latency and not by a fixed rate: measured with 14 M keys on a shared virtual disk, point
//! reads beside an unbounded compaction had p99 of 76 to 143 ms and waited up to 0.9 s, without one
//! 7 ms and 0.02 s; what the disk bears is different on every machine.

use std::cell::Cell;
use std::time::Duration;

use crate::env::Env;

/// A read of a row should take no longer.
pub const READ_MAX: Duration = Duration::from_millis(4);
/// What is due is done within so many seconds, if the disk can.
const CATCH_UP_S: u64 = 10;
/// Bytes per second, at least: a partition's flush merged in a second.
const RATE_MIN: u64 = 8 << 20;
/// At most: more than a disk does.
const RATE_MAX: u64 = 4 << 30;
/// Before anything was measured.
const RATE_START: u64 = 64 << 20;
/// How long what was taken counts as lately.
const USED_FOR: Duration = Duration::from_secs(1);
/// Shorter pauses are saved up.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// See the module's header. Lives on one core.
pub struct Pace {
    rate: Cell<u64>,
    /// Until when what was taken lasts.
    until: Cell<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate: Cell::new(RATE_START), until: Cell::default() }
    }
}

impl Pace {
    /// A tick: whether an answer was late since the last one; `due` bytes are due.
    pub fn adjust(&self, was_late: bool, due: u64) {
        let rate = self.rate.get();
        let rate = if was_late { rate / 4 * 3 } else { rate + rate / 8 };
        self.rate.set(rate.clamp(RATE_MIN.max(due / CATCH_UP_S).min(RATE_MAX), RATE_MAX));
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate.get()
    }

    /// Whether something was taken lately, or waits to be.
    pub fn is_used(&self, now: Duration) -> bool {
        self.until.get() + USED_FOR > now
    }

    /// Waits until `len` bytes more may be merged.
    pub async fn take<E: Env>(&self, env: &E, len: u64) {
        let now = env.now();
        let lasts = Duration::from_nanos(len.saturating_mul(1_000_000_000) / self.rate.get());
        let until = self.until.get().max(now) + lasts;
        self.until.set(until);
        if until - now >= PAUSE_MIN {
            env.sleep(until - now).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_falls_while_reads_are_slow_and_rises_when_they_are_not() {
        let pace = Pace::default();
        (0..100).for_each(|_| pace.adjust(true, 0));
        assert_eq!(pace.rate(), RATE_MIN);
        (0..3).for_each(|_| pace.adjust(false, 0));
        assert!(pace.rate() > RATE_MIN && pace.rate() < 2 * RATE_MIN);
        (0..100).for_each(|_| pace.adjust(false, 0));
        assert_eq!(pace.rate(), RATE_MAX);
    }

    #[test]
    fn what_is_due_is_done_in_time_however_slow_reads_are() {
        let pace = Pace::default();
        (0..100).for_each(|_| pace.adjust(true, 5 << 30));
        assert_eq!(pace.rate(), (5 << 30) / CATCH_UP_S);
        pace.adjust(true, u64::MAX);
        assert_eq!(pace.rate(), RATE_MAX);
    }
}
