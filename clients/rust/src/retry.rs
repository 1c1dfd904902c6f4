//! When to try again: pure decisions, shared by both clients.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::error::{Code, Error, Reason, Retry};
use crate::once::Names;

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
    /// The number of a write that is to be done once.
    once: Option<u64>,
    /// The session of the last attempt; 0: there was none.
    session_number: u64,
    /// It is to be another from now on, which began after this.
    renews: Option<u64>,
    /// An attempt may have done it.
    may_be_done: bool,
}

impl Attempts {
    /// `writes`: the request changes something; `once`: its number, if the server is to do it once.
    pub fn new(retries_max: u32, backoff: Backoff, writes: bool, once: Option<u64>) -> Self {
        Self {
            left: retries_max,
            failures: 0,
            backoff,
            writes,
            once,
            session_number: 0,
            renews: None,
            may_be_done: false,
        }
    }

    /// An attempt begins on a connection that is in that session; the number it has there.
    ///
    /// # Errors
    /// An attempt may have done it in another session, which does not know.
    pub fn begin(&mut self, session_number: u64) -> Result<Option<u64>, Error> {
        if self.may_be_done && self.session_number != session_number {
            return Err(Error::Unknown(Reason::SessionEnded));
        }
        self.session_number = session_number;
        Ok(self.once.filter(|_| session_number != 0))
    }

    /// Whether the request may be tried again after `error`, and how long to wait first.
    pub fn after(&mut self, error: &Error) -> Option<Duration> {
        let is_once = self.once.is_some() && self.session_number != 0;
        if is_once && error.code() == Some(Code::TooOld) && !self.may_be_done {
            // It was never asked for before: what the server has forgotten is something else.
            self.renews = error.refusal().map(|refusal| refusal.version);
            self.left = self.left.checked_sub(1)?;
            return Some(Duration::ZERO);
        }
        self.may_be_done |= self.writes && error.is_unknown();
        if self.may_be_done && !is_once {
            return None;
        }
        if !self.may_be_done {
            self.left = self.left.checked_sub(1)?;
        }
        self.failures += 1;
        match error.reason() {
            // The pool waits between attempts to connect.
            Reason::Connect { .. } => Some(Duration::ZERO),
            Reason::ConnectionLost(_) => Some(self.delay()),
            Reason::Refused(refusal) => match refusal.retry {
                _ if refusal.code == Code::DeadlineExceeded => None,
                Retry::Now => Some(self.delay()),
                Retry::After(least) => Some(least + self.delay()),
                Retry::Elsewhere if refusal.code == Code::ShuttingDown => Some(self.delay()),
                // Whoever has the log goes on elsewhere, or here when it is back.
                Retry::Elsewhere if self.may_be_done => Some(self.delay()),
                Retry::Elsewhere | Retry::Never => None,
            },
            Reason::Deadline { .. }
            | Reason::SessionEnded
            | Reason::Interrupted
            | Reason::TooLarge { .. }
            | Reason::Protocol(_) => None,
        }
    }

    /// Has the next attempt made in a new session, if that helps.
    pub fn renew(&mut self, names: &Names) {
        if let Some(after) = self.renews.take() {
            names.renew(self.session_number, after);
        }
    }

    /// What is said when `error` is the last one: that this attempt did nothing does not say that
    /// none did; but that a condition does not hold is the answer to all.
    pub fn last(&self, error: Error) -> Error {
        match error {
            Error::NotDone(reason) if self.may_be_done => match &reason {
                Reason::Refused(refusal) if refusal.code == Code::ConditionFailed => {
                    Error::NotDone(reason)
                }
                _ => Error::Unknown(reason),
            },
            // Nothing was asked for before, so this is the only one.
            Error::Unknown(reason) if !self.may_be_done => match &reason {
                Reason::Refused(refusal) if refusal.code == Code::TooOld => Error::NotDone(reason),
                _ => Error::Unknown(reason),
            },
            error => error,
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
    fn a_write_of_unknown_fate_that_might_be_done_twice_is_never_tried_again() {
        let lost = Reason::ConnectionLost("x".to_owned());
        let mut write = Attempts::new(3, BACKOFF, true, None);
        let mut read = Attempts::new(3, BACKOFF, false, None);

        assert_eq!(write.after(&Error::Unknown(lost.clone())), None);
        assert!(read.after(&Error::Unknown(lost.clone())).is_some());
        let mut write = Attempts::new(3, BACKOFF, true, None);
        assert!(write.after(&Error::NotDone(lost)).is_some());
    }

    fn once() -> Attempts {
        let mut attempts = Attempts::new(1, BACKOFF, true, Some(7));
        assert_eq!(attempts.begin(1), Ok(Some(7)));
        attempts
    }

    #[test]
    fn a_write_that_is_done_once_is_tried_until_its_fate_is_known() {
        let lost = || Reason::ConnectionLost("x".to_owned());
        let mut attempts = once();
        for _ in 0..9 {
            assert!(attempts.after(&Error::Unknown(lost())).is_some());
            assert_eq!(attempts.begin(1), Ok(Some(7)));
        }

        let full = || refused(Code::DiskFull, Retry::After(Duration::ZERO));
        assert!(attempts.after(&Error::NotDone(full())).is_some());
        assert_eq!(attempts.last(Error::NotDone(full())), Error::Unknown(full()));
        let unmet = Error::NotDone(refused(Code::ConditionFailed, Retry::Never));
        assert_eq!(attempts.after(&unmet), None);
        assert_eq!(attempts.last(unmet.clone()), unmet, "that is the answer");
        assert!(attempts.begin(2).is_err_and(|error| error.is_unknown()), "nobody knows there");
    }

    #[test]
    fn what_was_never_asked_for_and_is_too_old_goes_to_a_new_session() {
        let names = Names::default();
        let too_old = Error::Unknown(refused(Code::TooOld, Retry::Never));
        let mut attempts = once();

        assert_eq!(attempts.after(&too_old), Some(Duration::ZERO));
        attempts.renew(&names);
        assert_eq!((names.session().number, attempts.begin(2)), (2, Ok(Some(7))));
        assert!(!attempts.last(too_old.clone()).is_unknown(), "it was not done");

        let mut attempts = once();
        attempts.after(&Error::Unknown(Reason::ConnectionLost("x".to_owned())));
        assert_eq!(attempts.after(&too_old), None);
        assert!(attempts.last(too_old).is_unknown());
    }

    #[test]
    fn attempts_end() {
        let error = Error::NotDone(refused(Code::Overloaded, Retry::Now));
        let mut attempts = Attempts::new(2, BACKOFF, true, None);

        let tries = std::iter::from_fn(|| attempts.after(&error)).count();

        assert_eq!(tries, 2);
    }

    #[test]
    fn the_servers_word_counts() {
        let mut attempts = Attempts::new(9, BACKOFF, true, None);
        let mut after = |code, retry| attempts.after(&Error::NotDone(refused(code, retry)));

        let waited = after(Code::DiskFull, Retry::After(Duration::from_secs(1)));
        assert!(waited.is_some_and(|wait| wait > Duration::from_secs(1)));
        assert!(after(Code::ShuttingDown, Retry::Elsewhere).is_some());
        assert_eq!(after(Code::ReadOnly, Retry::Elsewhere), None);
        assert_eq!(after(Code::AuthFailed, Retry::Never), None);
        assert_eq!(after(Code::DeadlineExceeded, Retry::Now), None);
    }
}
