//! Deadlines: EXPIRE, TTL and their kin, and the deadline options of SET and GETEX.

use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Effect, Error, Event, Input, number};
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

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

fn expire<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_deadline(input, reply, Deadline::Seconds, "expire")
}

fn pexpire<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_deadline(input, reply, Deadline::Milliseconds, "pexpire")
}

fn expireat<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_deadline(input, reply, Deadline::AtSeconds, "expireat")
}

fn pexpireat<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_deadline(input, reply, Deadline::AtMilliseconds, "pexpireat")
}

/// `NX XX GT LT`.
#[derive(Clone, Copy, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: &Args<'_>) -> Result<Self, Error> {
        let mut set = Self::default();
        for at in 3..args.len() {
            let flag = match args.get(at).to_ascii_uppercase().as_slice() {
                b"NX" => &mut set.nx,
                b"XX" => &mut set.xx,
                b"GT" => &mut set.gt,
                b"LT" => &mut set.lt,
                _ => {
                    let option = String::from_utf8_lossy(args.get(at)).into();
                    return Err(Error::ExpireOption { option });
                }
            };
            *flag = true;
        }
        if set.nx && (set.xx || set.gt || set.lt) {
            return Err(Error::ExpireNxWithOther);
        }
        if set.gt && set.lt { Err(Error::ExpireGtWithLt) } else { Ok(set) }
    }

    /// Whether `new` may take the place of `old`. No deadline counts as one that never comes.
    fn allow(self, old: Option<u64>, new: i64) -> bool {
        // A deadline past 63 bits is never stored, so the cast keeps it.
        let old = old.map(|old| old as i64);
        !(self.nx && old.is_some()
            || self.xx && old.is_none()
            || self.gt && old.is_none_or(|old| new <= old)
            || self.lt && old.is_some_and(|old| new >= old))
    }
}

fn set_deadline<'a>(
    input: &Input<'a>,
    reply: &mut Reply<'_>,
    deadline: Deadline,
    command: &'static str,
) -> Evaluated<'a> {
    let conditions = Conditions::parse(&input.args)?;
    let amount = number::parse_i64(input.args.get(2))?;
    let at_ms = deadline.at_ms(amount, input.now_ms).ok_or(Error::InvalidExpiry { command })?;
    let Some(found) = input.found else {
        reply.integer(0);
        return Ok(Effect::None);
    };
    if !conditions.allow(found.expiry_ms, at_ms) {
        reply.integer(0);
        return Ok(Effect::None);
    }
    reply.integer(1);
    if at_ms <= input.now_ms as i64 {
        return Ok(Effect::Delete(Event::Delete));
    }
    let (value, expiry_ms) = (found.value.to_new_value(), Some(at_ms as u64));
    Ok(Effect::Put { value, expiry_ms, event: Event::Expire })
}

fn persist<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let found = input.found.filter(|found| found.expiry_ms.is_some());
    reply.integer(i64::from(found.is_some()));
    Ok(found.map_or(Effect::None, |found| Effect::Put {
        value: found.value.to_new_value(),
        expiry_ms: None,
        event: Event::Persist,
    }))
}

fn ttl<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    answer_deadline(input, reply, |at_ms, now_ms| (at_ms.saturating_sub(now_ms) + 500) / 1000)
}

fn pttl<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    answer_deadline(input, reply, |at_ms, now_ms| at_ms.saturating_sub(now_ms))
}

fn expiretime<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    answer_deadline(input, reply, |at_ms, _| (at_ms + 500) / 1000)
}

fn pexpiretime<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    answer_deadline(input, reply, |at_ms, _| at_ms)
}

/// -2: no such key; -1: it has no deadline.
fn answer_deadline<'a>(
    input: &Input<'a>,
    reply: &mut Reply<'_>,
    form: fn(u64, u64) -> u64,
) -> Evaluated<'a> {
    reply.integer(match input.found {
        None => -2,
        Some(found) => found.expiry_ms.map_or(-1, |at_ms| form(at_ms, input.now_ms) as i64),
    });
    Ok(Effect::None)
}

const fn row(name: &'static str, arity: i16, access: Access, run: Answer) -> Spec {
    let flags = match access {
        Access::Write => Flags::WRITE.and(Flags::FAST),
        _ => Flags::READONLY.and(Flags::FAST),
    };
    let (group, keys, run) = (Group::Generic, Keys::FIRST, Run::Keyed(Keyed::One(run)));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

const READ: Access = Access::Read;
const WRITE: Access = Access::Write;

pub(super) static SPECS: &[Spec] = &[
    row("expire", -3, WRITE, expire).about("Sets a key's deadline, seconds from now", "1.0.0"),
    row("pexpire", -3, WRITE, pexpire)
        .about("Sets a key's deadline, milliseconds from now", "2.6.0"),
    row("expireat", -3, WRITE, expireat).about("Sets a key's deadline, unix seconds", "1.2.0"),
    row("pexpireat", -3, WRITE, pexpireat)
        .about("Sets a key's deadline, unix milliseconds", "2.6.0"),
    row("persist", 2, WRITE, persist).about("Removes a key's deadline", "2.2.0"),
    row("ttl", 2, READ, ttl).about("Seconds until a key's deadline", "1.0.0"),
    row("pttl", 2, READ, pttl).about("Milliseconds until a key's deadline", "2.6.0"),
    row("expiretime", 2, READ, expiretime).about("A key's deadline, unix seconds", "7.0.0"),
    row("pexpiretime", 2, READ, pexpiretime).about("A key's deadline, unix milliseconds", "7.0.0"),
];
