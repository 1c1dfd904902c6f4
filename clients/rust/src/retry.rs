//! When to try again: pure decisions, shared by both clients.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::error::{Code, Error, Reason, Retry};

/// Waits that grow with each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after so many failures in a row, at least one; `random` is any number.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let part = (random >> 32) as f64 / f64::from(u32::MAX);
        full.mul_f64(0.5 + part / 2.0)
    }
}

/// A number that differs from call to call and from process to process. Not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    left: u32,
    failures: u32,
    backoff: Backoff,
    writes: bool,
}

impl Attempts {
    /// `writes`: the request changes something.
    pub fn new(retries_max: u32, backoff: Backoff, writes: bool) -> Self {
        Self { left: retries_max, failures: 0, backoff, writes }
    }

    /// Whether the request may be tried again after `error`, and how long to wait first.
    pub fn after(&mut self, error: &Error) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.failures += 1;
        if self.writes && error.is_unknown() {
            return None;
        }
        match error.reason() {
            // The pool waits between attempts to connect.
            Reason::Connect { .. } => Some(Duration::ZERO),
            Reason::ConnectionLost(_) => Some(self.delay()),
            Reason::Refused(refusal) => match refusal.retry {
                _ if refusal.code == Code::DeadlineExceeded => None,
                Retry::Now => Some(self.delay()),
                Retry::After(least) => Some(least + self.delay()),
                Retry::Elsewhere if refusal.code == Code::ShuttingDown => Some(self.delay()),
                Retry::Elsewhere | Retry::Never => None,
            },
            Reason::Deadline { .. }
            | Reason::Interrupted
            | Reason::TooLarge { .. }
            | Reason::Protocol(_) => None,
        }
    }

    fn delay(&self) -> Duration {
        self.backoff.delay(self.failures, random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(10), max: Duration::from_millis(100) };

    fn refused(code: Code, retry: Retry) -> Reason {
        let (text, address) = (String::new(), String::new());
        Reason::Refused(Refusal { code, retry, index: None, version: 0, text, address })
    }

    #[test]
    fn waits_double_up_to_the_most_and_differ() {
        let full = |failures| BACKOFF.delay(failures, u64::MAX).as_millis();

        assert_eq!([1, 2, 3, 4, 5, 99].map(full), [10, 20, 40, 80, 100, 100]);
        assert_eq!(BACKOFF.delay(1, 0), Duration::from_millis(5), "half at least");
        assert_ne!(random(), random());
    }

    #[test]
    fn a_write_of_unknown_fate_is_never_tried_again() {
        let lost = Reason::ConnectionLost("x".to_owned());
        let mut write = Attempts::new(3, BACKOFF, true);
        let mut read = Attempts::new(3, BACKOFF, false);

        assert_eq!(write.after(&Error::Unknown(lost.clone())), None);
        assert!(read.after(&Error::Unknown(lost.clone())).is_some());
        assert!(write.after(&Error::NotDone(lost)).is_some());
    }

    #[test]
    fn attempts_end() {
        let error = Error::NotDone(refused(Code::Overloaded, Retry::Now));
        let mut attempts = Attempts::new(2, BACKOFF, true);

        let tries = std::iter::from_fn(|| attempts.after(&error)).count();

        assert_eq!(tries, 2);
    }

    #[test]
    fn the_servers_word_counts() {
        let mut attempts = Attempts::new(9, BACKOFF, true);
        let mut after = |code, retry| attempts.after(&Error::NotDone(refused(code, retry)));

        let waited = after(Code::DiskFull, Retry::After(Duration::from_secs(1)));
        assert!(waited.is_some_and(|wait| wait > Duration::from_secs(1)));
        assert!(after(Code::ShuttingDown, Retry::Elsewhere).is_some());
        assert_eq!(after(Code::ReadOnly, Retry::Elsewhere), None);
        assert_eq!(after(Code::AuthFailed, Retry::Never), None);
        assert_eq!(after(Code::DeadlineExceeded, Retry::Now), None);
    }
}
