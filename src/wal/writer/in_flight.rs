//! Writes in flight, in the order of the log: how far it is durable without a gap.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Lsn;
use crate::wal::{Options, Planted};

/// A write in flight.
struct Slot {
    /// Where the log is durable when this and all before are.
    end: Lsn,
    began: Duration,
    done: bool,
}

/// See the module's header. `durable` never moves back, and never again after a failure.
pub struct InFlight {
    slots: VecDeque<Slot>,
    /// The number of the first slot.
    first: u64,
    slots_max: usize,
    durable: Lsn,
    failed: bool,
    planted: Option<Planted>,
}

impl InFlight {
    /// None in flight; the log is `durable`.
    pub fn new(options: &Options, durable: Lsn) -> Self {
        let Options { in_flight_max: slots_max, planted, .. } = *options;
        assert!(slots_max > 0, "a log without writes");
        let slots = VecDeque::with_capacity(slots_max);
        Self { slots, first: 0, slots_max, durable, failed: false, planted }
    }

    /// The contiguous durable prefix.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Whether another may start.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.slots_max
    }

    /// A write up to `end` starts, behind all others; returns its number.
    pub fn begin(&mut self, end: Lsn, now: Duration) -> u64 {
        self.slots.push_back(Slot { end, began: now, done: false });
        if self.planted == Some(Planted::AckBeforeDurable) {
            self.durable = self.durable.max(end);
        }
        self.first + self.slots.len() as u64 - 1
    }

    /// A write has ended: `durable` grows by what is done from its end on. Returns how long the
    /// write took.
    pub fn end(&mut self, number: u64, now: Duration) -> Duration {
        let slot = &mut self.slots[(number - self.first) as usize];
        slot.done = true;
        let took = now.saturating_sub(slot.began);
        if self.planted == Some(Planted::AckOutOfOrder) {
            self.durable = self.durable.max(slot.end);
        }
        while self.slots.front().is_some_and(|slot| slot.done) {
            let slot = self.slots.pop_front().expect("just looked at");
            self.first += 1;
            if !self.failed {
                self.durable = self.durable.max(slot.end);
            }
        }
        took
    }

    /// Nothing more counts as durable, whatever comes of the writes in flight.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardId;

    fn in_flight() -> InFlight {
        InFlight::new(&Options::new("wal".into(), 1, ShardId(0)), Lsn(10))
    }

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn durable_waits_for_every_earlier_write() {
        let mut writes = in_flight();
        let numbers = [20, 30, 40].map(|end| writes.begin(Lsn(end), us(5)));

        let [first, second, third] = numbers;
        let durable = [second, first, third].map(|number| {
            assert_eq!(writes.end(number, us(12)), us(7));
            writes.durable().0
        });

        assert_eq!(durable, [10, 30, 40]);
        assert_eq!(writes.count(), 0);
    }

    #[test]
    fn nothing_is_durable_after_a_failure() {
        let mut writes = in_flight();
        let [first, second] = [20, 30].map(|end| writes.begin(Lsn(end), us(0)));

        writes.end(first, us(1));
        writes.fail();
        writes.end(second, us(1));

        assert_eq!((writes.durable(), writes.count()), (Lsn(20), 0));
    }
}
