//! How many clients wait for the log these days, and how fast they come. Pure.
//!
//! Those who had to wait within a window of some milliseconds are counted once each; the figures
//! of the last whole window are what [`crate::wal`] paces its writes by.

use std::time::Duration;

use crate::partition::Waiter;
use crate::wal::Company;

/// Longer than a client of a busy node needs to come back.
const WINDOW: Duration = Duration::from_millis(4);
/// Places of waiters; two in one place count as one.
const PLACES: usize = 4096;

/// See the module's header.
pub struct Crowd {
    began: Duration,
    number: u32,
    /// The window in which a waiter of this place was seen last.
    seen: Vec<u32>,
    latest: Option<Waiter>,
    members: u32,
    arrivals: u32,
    fresh: u32,
    last: Company,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            began: Duration::ZERO,
            number: 1,
            seen: vec![0; PLACES],
            latest: None,
            members: 0,
            arrivals: 0,
            fresh: 0,
            last: Company::default(),
        }
    }
}

impl Crowd {
    /// A client has to wait. What comes in a row of the same one counts once: a pipeline.
    pub fn note(&mut self, waiter: Waiter) {
        if self.latest.replace(waiter) == Some(waiter) {
            return;
        }
        self.fresh += 1;
        self.arrivals += 1;
        let place = &mut self.seen[(waiter.0 ^ (waiter.0 >> 53)) as usize % PLACES];
        self.members += u32::from(*place != self.number);
        *place = self.number;
    }

    /// Whether somebody has come to wait in this turn.
    pub fn waits(&self) -> bool {
        self.fresh > 0
    }

    /// The turn ends: who is there to be written for.
    pub fn end_turn(&mut self, now: Duration) -> Company {
        self.latest = None;
        let elapsed = now.saturating_sub(self.began);
        if elapsed >= WINDOW {
            let interval = elapsed / self.arrivals.max(1);
            self.last = Company { crowd: self.members, interval, ..Company::default() };
            (self.members, self.arrivals, self.began) = (0, 0, now);
            self.number = self.number.wrapping_add(1);
        }
        Company { waiting: std::mem::take(&mut self.fresh), ..self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_count_once_per_window_and_their_pace_is_known() {
        let mut crowd = Crowd::default();
        let ms = Duration::from_millis;
        crowd.end_turn(ms(100));
        for turn in 1..=4 {
            for waiter in [7, 7, 8, 1 << 63 | 7] {
                crowd.note(Waiter(waiter));
            }
            let company = crowd.end_turn(ms(100 + turn));
            assert_eq!(company.waiting, 3);
            assert_eq!(company.crowd, if turn < 4 { 0 } else { 3 });
        }
        let company = crowd.end_turn(ms(104));
        assert_eq!((company.crowd, company.interval), (3, ms(4) / 12));
        assert_eq!(crowd.end_turn(ms(200)).crowd, 0);
    }
}
