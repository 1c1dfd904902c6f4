//! DUMP and RESTORE: a value with its type, as bytes that every Redis reads ([`super::rdb`]).

use std::sync::Arc;

use smallvec::SmallVec;

use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Effect, Error, Event, Input, NewValue, number, rdb};
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

fn dump<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    match input.found {
        Some(found) => reply.bulk_shared(&Arc::new(rdb::encode(found.value.as_slice()))),
        None => reply.null(),
    }
    Ok(Effect::None)
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    replace: bool,
    is_absolute: bool,
}

/// How long ago and how often a key was used is checked, and not kept: nothing is evicted by it.
fn options(args: &Args<'_>) -> Result<Options, Error> {
    let (mut options, mut use_of, mut at) = (Options::default(), None, 4);
    while at < args.len() {
        let is = |word: &'static str, earlier: Option<&str>| {
            args.is(at, word)
                && at + 1 < args.len()
                && earlier.is_none_or(|earlier| earlier == word)
        };
        if args.is(at, "REPLACE") {
            options.replace = true;
        } else if args.is(at, "ABSTTL") {
            options.is_absolute = true;
        } else if is("IDLETIME", use_of) {
            use_of = Some("IDLETIME");
            at += 1;
            if number::parse_i64(args.get(at))? < 0 {
                return Err(Error::Other("ERR Invalid IDLETIME value, must be >= 0"));
            }
        } else if is("FREQ", use_of) {
            use_of = Some("FREQ");
            at += 1;
            if !(0..=255).contains(&number::parse_i64(args.get(at))?) {
                return Err(Error::Other("ERR Invalid FREQ value, must be >= 0 and <= 255"));
            }
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    Ok(options)
}

fn restore<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    const BAD_TTL: Error = Error::Other("ERR Invalid TTL value, must be >= 0");
    let args = &input.args;
    let Options { replace, is_absolute } = options(args)?;
    if input.found.is_some() && !replace {
        return Err(Error::Other("BUSYKEY Target key name already exists."));
    }
    let ttl_ms = u64::try_from(number::parse_i64(args.get(2))?).map_err(|_| BAD_TTL)?;
    let value = rdb::decode(args.get(3))?;
    let since_ms = if is_absolute { 0 } else { input.now_ms };
    let until_ms = ttl_ms.checked_add(since_ms).filter(|until_ms| i64::try_from(*until_ms).is_ok());
    let until_ms = until_ms.ok_or(BAD_TTL)?;
    let expiry_ms = Some(until_ms).filter(|_| ttl_ms > 0);
    reply.simple("OK");
    if expiry_ms.is_some_and(|expiry_ms| expiry_ms <= input.now_ms) {
        return Ok(match input.found {
            Some(_) => Effect::Delete(Event::Delete),
            None => Effect::None,
        });
    }
    let value = NewValue::Owned(SmallVec::from_vec(value));
    Ok(Effect::Put { value, expiry_ms, event: Event::Restore })
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Answer) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let (group, keys, run) = (Group::Generic, Keys::FIRST, Run::Keyed(Keyed::One(run)));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.6.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("dump", 2, Flags::READONLY, dump).about("A value as bytes that RESTORE takes", "2.6.0"),
    row("restore", -4, Flags::WRITE.and(Flags::DENYOOM), restore)
        .about("Sets a key to what DUMP gave of a string, here or in Redis", "2.6.0"),
];
