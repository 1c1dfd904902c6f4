//! Deadlines: EXPIRE, TTL and their kin, and the deadline options of SET and GETEX.

use super::{Error, number};

/// How a deadline is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `EX`: seconds from the leader's clock.
    Seconds,
    /// `PX`: milliseconds from it.
    Milliseconds,
    /// `EXAT`: unix seconds.
    AtSeconds,
    /// `PXAT`: unix milliseconds.
    AtMilliseconds,
}

impl Deadline {
    /// An option of SET or GETEX; none when it is another.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let all = [
            (&b"EX"[..], Self::Seconds),
            (b"PX", Self::Milliseconds),
            (b"EXAT", Self::AtSeconds),
            (b"PXAT", Self::AtMilliseconds),
        ];
        all.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, deadline)| *deadline)
    }

    /// The absolute deadline, unix milliseconds, of a positive amount.
    ///
    /// # Errors
    /// [`Error::NotInteger`], [`Error::InvalidExpiry`].
    pub fn resolve(self, amount: &[u8], now_ms: u64, command: &'static str) -> Result<u64, Error> {
        let amount = number::parse_i64(amount)?;
        if amount <= 0 {
            return Err(Error::InvalidExpiry { command });
        }
        let at_ms = self.at_ms(amount, now_ms).ok_or(Error::InvalidExpiry { command })?;
        Ok(at_ms as u64)
    }

    /// The absolute deadline, unix milliseconds, perhaps before 1970; none past 64 bits.
    pub(super) fn at_ms(self, amount: i64, now_ms: u64) -> Option<i64> {
        let ms = match self {
            Self::Seconds | Self::AtSeconds => amount.checked_mul(1000)?,
            Self::Milliseconds | Self::AtMilliseconds => amount,
        };
        match self {
            Self::Seconds | Self::Milliseconds => ms.checked_add(now_ms as i64),
            Self::AtSeconds | Self::AtMilliseconds => Some(ms),
        }
    }
}
