//! Numbers in values: INCR and its kin.

use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Effect, Error, Event, Input, NewValue, number};
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

fn incr<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    add(input, reply, 1)
}

fn decr<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    add(input, reply, -1)
}

fn incrby<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    add(input, reply, number::parse_i64(input.args.get(2))?)
}

fn decrby<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let amount = number::parse_i64(input.args.get(2))?;
    add(input, reply, amount.checked_neg().ok_or(Error::DecrementOverflow)?)
}

/// The key's number plus `amount`; an absent key counts as 0. The deadline stays.
fn add<'a>(input: &Input<'a>, reply: &mut Reply<'_>, amount: i64) -> Evaluated<'a> {
    let old = match input.found {
        Some(found) => number::parse_i64(found.value.as_slice())?,
        None => 0,
    };
    let new = old.checked_add(amount).ok_or(Error::CounterOverflow)?;
    reply.integer(new);
    let expiry_ms = input.found.and_then(|found| found.expiry_ms);
    let value = NewValue::Owned(number::format_i64(new));
    Ok(Effect::Put { value, expiry_ms, event: Event::Add })
}

fn incrbyfloat<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let old = input.found.map_or(&b"0"[..], |found| found.value.as_slice());
    let new = number::add_decimal(old, input.args.get(2))?;
    reply.bulk(&new);
    let expiry_ms = input.found.and_then(|found| found.expiry_ms);
    Ok(Effect::Put { value: NewValue::Owned(new), expiry_ms, event: Event::AddFloat })
}

const fn row(name: &'static str, arity: i16, run: Answer) -> Spec {
    let flags = Flags::WRITE.and(Flags::DENYOOM).and(Flags::FAST);
    let (access, group, keys) = (Access::Write, Group::String, Keys::FIRST);
    let run = Run::Keyed(Keyed::One(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("incr", 2, incr).about("Adds 1 to a number", "1.0.0"),
    row("decr", 2, decr).about("Subtracts 1 from a number", "1.0.0"),
    row("incrby", 3, incrby).about("Adds to a number", "1.0.0"),
    row("decrby", 3, decrby).about("Subtracts from a number", "1.0.0"),
    row("incrbyfloat", 3, incrbyfloat).about("Adds to a number with decimals", "2.6.0"),
];
