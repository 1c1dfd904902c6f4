//! How fast tables are sent to other replicas: as fast as they are read, unless log writes suffer.
//!
//! Who is sent a snapshot can wait; whoever writes meanwhile waits for every log write, which has
//! disk and core in common with what is sent. A log write is *late* when it takes more than
//! [`TIMES`] as long as the slowest of a tick does when nothing is sent: disks differ, and what is
//! usual on one would be a failure on another.

use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use crate::env::Env;
use crate::lsm::pace::Pace;

/// A log write that takes so many times as long as usual is late.
const TIMES: u32 = 3;
/// No shorter one is.
const LATE_MIN: Duration = Duration::from_millis(4);
/// Of what is usual one tick is a part in so many.
const WEIGHT: u32 = 16;

/// See the module's header.
#[derive(Default)]
pub(super) struct Sending {
    pub pace: Rc<Pace>,
    writes: Writes,
}

/// How long log writes take. Pure.
#[derive(Debug, Default)]
struct Writes {
    /// The slowest since the last tick.
    slowest: Duration,
    /// Of ticks in which nothing was sent.
    usual: Duration,
}

impl Writes {
    /// A tick, in which something was sent or not. Whether a write was late.
    fn tick(&mut self, was_sent: bool) -> bool {
        let slowest = std::mem::take(&mut self.slowest);
        if slowest.is_zero() {
            return false;
        }
        if was_sent {
            return slowest > LATE_MIN.max(self.usual * TIMES);
        }
        self.usual = match self.usual.is_zero() {
            true => slowest,
            false => self.usual - self.usual / WEIGHT + slowest / WEIGHT,
        };
        false
    }
}

impl<E: Env> Shard<E> {
    /// The oldest log write that is durable by now was appended at `at`.
    pub(super) fn note_log_write(&mut self, at: Duration) {
        let took = self.env.now().saturating_sub(at);
        self.sending.writes.slowest = self.sending.writes.slowest.max(took);
    }

    /// Sends faster or slower; each tick.
    pub(super) fn tend_sending(&mut self) {
        let was_sent = self.sending.pace.is_used(self.env.now());
        let was_late = self.sending.writes.tick(was_sent);
        if was_sent {
            self.sending.pace.adjust(was_late, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(writes: &mut Writes, ms: u64, was_sent: bool) -> bool {
        writes.slowest = Duration::from_millis(ms);
        writes.tick(was_sent)
    }

    #[test]
    fn late_is_what_takes_several_times_as_long_as_without_sending() {
        let mut writes = Writes::default();
        assert!(!tick(&mut writes, 10, false), "nothing is sent");
        assert!(!tick(&mut writes, 29, true));
        assert!(tick(&mut writes, 31, true));
        assert!((0..100).all(|_| tick(&mut writes, 100, true)));
        assert!(tick(&mut writes, 31, true), "what is late is not usual by and by");
        assert!(!(0..200).any(|_| tick(&mut writes, 20, false)));
        assert!(!tick(&mut writes, 55, true));
        assert!(!tick(&mut writes, 0, true), "nobody wrote");
    }

    #[test]
    fn a_short_write_is_not_late_however_short_they_are_else() {
        let mut writes = Writes::default();
        tick(&mut writes, 1, false);
        assert!(!tick(&mut writes, 4, true));
        assert!(tick(&mut writes, 5, true));
    }
}
