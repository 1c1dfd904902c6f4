//! Values: GET, SET and their kin.

use smallvec::SmallVec;

use super::expire::Deadline;
use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Effect, Error, Event, Found, Input, NewValue, number};
use crate::limits::VALUE_LEN_MAX;
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

fn get<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    reply_found(input.found, reply);
    Ok(Effect::None)
}

/// What the key held, or nothing.
fn reply_found(found: Option<Found<'_>>, reply: &mut Reply<'_>) {
    match found {
        Some(found) => found.value.write_to(reply),
        None => reply.null(),
    }
}

/// Stores `value` without a deadline.
fn stored(value: NewValue<'_>) -> Effect<'_> {
    Effect::Put { value, expiry_ms: None, event: Event::Set }
}

/// Stores `value` until a deadline that the command gives; if it has passed the key is gone.
fn stored_until<'a>(input: &Input<'a>, value: NewValue<'a>, expiry_ms: u64) -> Effect<'a> {
    if expiry_ms <= input.now_ms {
        return delete_found(input);
    }
    Effect::Put { value, expiry_ms: Some(expiry_ms), event: Event::SetUntil }
}

/// Deletes the key, if there is anything to delete.
fn delete_found<'a>(input: &Input<'a>) -> Effect<'a> {
    if input.found.is_some() { Effect::Delete(Event::Delete) } else { Effect::None }
}

/// When a key may be set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition<'a> {
    Always,
    IfAbsent,
    IfPresent,
    /// It holds these bytes.
    IfEqual(&'a [u8]),
}

impl Condition<'_> {
    fn holds(self, found: Option<Found<'_>>) -> bool {
        match self {
            Condition::Always => true,
            Condition::IfAbsent => found.is_none(),
            Condition::IfPresent => found.is_some(),
            Condition::IfEqual(wanted) => found.is_some_and(|f| f.value.as_slice() == wanted),
        }
    }
}

struct SetOptions<'a> {
    condition: Condition<'a>,
    keep_ttl: bool,
    get: bool,
    deadline: Option<(Deadline, &'a [u8])>,
}

/// A deadline option and its amount. After an `earlier` one only the same is legal, and counts.
fn deadline_option<'a>(
    args: &Args<'a>,
    at: usize,
    earlier: Option<(Deadline, &[u8])>,
) -> Option<(Deadline, &'a [u8])> {
    let deadline = Deadline::parse(args.get(at))?;
    let fits = earlier.is_none_or(|(earlier, _)| earlier == deadline);
    (fits && at + 1 < args.len()).then(|| (deadline, args.get(at + 1)))
}

fn set_options<'a>(args: &Args<'a>) -> Result<SetOptions<'a>, Error> {
    let mut options =
        SetOptions { condition: Condition::Always, keep_ttl: false, get: false, deadline: None };
    let mut at = 3;
    while at < args.len() {
        let may_condition = options.condition == Condition::Always;
        if args.is(at, "NX") && (may_condition || options.condition == Condition::IfAbsent) {
            options.condition = Condition::IfAbsent;
        } else if args.is(at, "XX") && (may_condition || options.condition == Condition::IfPresent)
        {
            options.condition = Condition::IfPresent;
        } else if args.is(at, "IFEQ") && may_condition && at + 1 < args.len() {
            options.condition = Condition::IfEqual(args.get(at + 1));
            at += 1;
        } else if args.is(at, "GET") {
            options.get = true;
        } else if args.is(at, "KEEPTTL") && options.deadline.is_none() {
            options.keep_ttl = true;
        } else if let Some(deadline) = deadline_option(args, at, options.deadline)
            && !options.keep_ttl
        {
            options.deadline = Some(deadline);
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    Ok(options)
}

fn set<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let value = input.args.arg(2).to_new_value();
    if input.args.len() == 3 {
        reply.simple("OK");
        return Ok(stored(value));
    }
    let options = set_options(&input.args)?;
    let until = options.deadline;
    let until = until.map(|(deadline, amount)| deadline.resolve(amount, input.now_ms, "set"));
    let until = until.transpose()?;
    let allowed = options.condition.holds(input.found);
    match (options.get, allowed) {
        (true, _) => reply_found(input.found, reply),
        (false, true) => reply.simple("OK"),
        (false, false) => reply.null(),
    }
    Ok(match until {
        _ if !allowed => Effect::None,
        Some(expiry_ms) => stored_until(input, value, expiry_ms),
        // A deadline that is kept is not a new one: at its very millisecond the key still lives.
        None if options.keep_ttl => {
            let expiry_ms = input.found.and_then(|found| found.expiry_ms);
            Effect::Put { value, expiry_ms, event: Event::Set }
        }
        None => stored(value),
    })
}

/// Deletes a key that holds these bytes: the end of a lock that is still ours.
fn delifeq<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let is_equal = Condition::IfEqual(input.args.get(2)).holds(input.found);
    reply.integer(i64::from(is_equal));
    Ok(if is_equal { Effect::Delete(Event::Delete) } else { Effect::None })
}

fn setnx<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    if input.found.is_some() {
        reply.integer(0);
        return Ok(Effect::None);
    }
    reply.integer(1);
    Ok(stored(input.args.arg(2).to_new_value()))
}

fn setex<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_with_deadline(input, reply, Deadline::Seconds, "setex")
}

fn psetex<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    set_with_deadline(input, reply, Deadline::Milliseconds, "psetex")
}

fn set_with_deadline<'a>(
    input: &Input<'a>,
    reply: &mut Reply<'_>,
    deadline: Deadline,
    command: &'static str,
) -> Evaluated<'a> {
    let expiry_ms = deadline.resolve(input.args.get(2), input.now_ms, command)?;
    reply.simple("OK");
    Ok(stored_until(input, input.args.arg(3).to_new_value(), expiry_ms))
}

fn getset<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    reply_found(input.found, reply);
    Ok(stored(input.args.arg(2).to_new_value()))
}

fn getdel<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    reply_found(input.found, reply);
    Ok(delete_found(input))
}

fn getex<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let args = &input.args;
    let (mut persist, mut deadline, mut at) = (false, None, 2);
    while at < args.len() {
        if args.is(at, "PERSIST") && deadline.is_none() {
            persist = true;
        } else if let Some(parsed) = deadline_option(args, at, deadline)
            && !persist
        {
            deadline = Some(parsed);
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    // An absent key is answered before the deadline is looked at, as in Redis.
    let Some(found) = input.found else {
        reply.null();
        return Ok(Effect::None);
    };
    let until = deadline.map(|(deadline, amount)| deadline.resolve(amount, input.now_ms, "getex"));
    let until = until.transpose()?;
    found.value.write_to(reply);
    let value = found.value.to_new_value();
    Ok(match until {
        Some(until) if until <= input.now_ms => Effect::Delete(Event::Delete),
        Some(until) => Effect::Put { value, expiry_ms: Some(until), event: Event::Expire },
        None if persist && found.expiry_ms.is_some() => {
            Effect::Put { value, expiry_ms: None, event: Event::Persist }
        }
        None => Effect::None,
    })
}

fn append<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let tail = input.args.arg(2);
    let Some(found) = input.found else {
        reply.integer(tail.as_slice().len() as i64);
        let value = tail.to_new_value();
        return Ok(Effect::Put { value, expiry_ms: None, event: Event::Append });
    };
    let (head, tail) = (found.value.as_slice(), tail.as_slice());
    let len = head.len() + tail.len();
    if len > VALUE_LEN_MAX {
        return Err(Error::ValueTooLong);
    }
    reply.integer(len as i64);
    // Nothing appended is a write too, as in Redis: whoever watches the key sees it touched.
    let value = if tail.is_empty() {
        found.value.to_new_value()
    } else {
        let mut value = SmallVec::with_capacity(len);
        value.extend_from_slice(head);
        value.extend_from_slice(tail);
        NewValue::Owned(value)
    };
    Ok(Effect::Put { value, expiry_ms: found.expiry_ms, event: Event::Append })
}

fn strlen<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    reply.integer(input.found.map_or(0, |found| found.value.as_slice().len() as i64));
    Ok(Effect::None)
}

fn getrange<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let start = number::parse_i64(input.args.get(2))?;
    let end = number::parse_i64(input.args.get(3))?;
    let value = input.found.map_or(&[][..], |found| found.value.as_slice());
    reply.bulk(&value[range(value.len(), start, end)]);
    Ok(Effect::None)
}

/// The bytes from `start` to `end`, both included and counted from the end when negative.
fn range(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    if len == 0 || (start < 0 && end < 0 && start > end) {
        return 0..0;
    }
    let len = len as i64;
    let from_end = |at: i64| if at < 0 { (len + at.max(-len)).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

fn setrange<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let offset = number::parse_i64(input.args.get(2))?;
    let patch = input.args.get(3);
    let old = input.found.map_or(&[][..], |found| found.value.as_slice());
    if offset < 0 {
        return Err(Error::Offset);
    }
    if patch.is_empty() {
        reply.integer(old.len() as i64);
        return Ok(Effect::None);
    }
    let end = (offset as u64).saturating_add(patch.len() as u64);
    if end > VALUE_LEN_MAX as u64 {
        return Err(Error::ValueTooLong);
    }
    let (offset, end) = (offset as usize, end as usize);
    let mut value = SmallVec::with_capacity(old.len().max(end));
    value.extend_from_slice(old);
    value.resize(old.len().max(end), 0);
    value[offset..end].copy_from_slice(patch);
    reply.integer(value.len() as i64);
    let expiry_ms = input.found.and_then(|found| found.expiry_ms);
    Ok(Effect::Put { value: NewValue::Owned(value), expiry_ms, event: Event::SetRange })
}

fn mset<'a>(input: &Input<'a>) -> Effect<'a> {
    stored(input.args.arg(input.key_at + 1).to_new_value())
}

const READ: Flags = Flags::READONLY;
const REMOVE: Flags = Flags::WRITE.and(Flags::FREES);
const FAST: Flags = Flags::FAST;
const GROW: Flags = Flags::WRITE.and(Flags::DENYOOM);

const fn row(name: &'static str, arity: i16, flags: Flags, run: Answer) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let run = Run::Keyed(Keyed::One(run));
    let (group, keys) = (Group::String, Keys::FIRST);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("get", 2, READ.and(FAST), get).about("The value of a key", "1.0.0"),
    row("set", -3, GROW, set)
        .about("Sets a key to a value, with conditions and a deadline", "1.0.0"),
    row("setnx", 3, GROW.and(FAST), setnx).about("Sets a key unless it exists", "1.0.0"),
    row("setex", 4, GROW, setex).about("Sets a key for some seconds", "2.0.0"),
    row("psetex", 4, GROW, psetex).about("Sets a key for some milliseconds", "2.6.0"),
    row("getset", 3, GROW.and(FAST), getset)
        .about("Sets a key and returns what it held before", "1.0.0"),
    row("delifeq", 3, REMOVE.and(FAST), delifeq)
        .about("Deletes a key if it holds this value, as in Valkey", "9.0.0"),
    row("getdel", 2, REMOVE.and(FAST), getdel)
        .about("Deletes a key and returns what it held", "6.2.0"),
    row("getex", -2, Flags::WRITE.and(FAST), getex)
        .about("The value of a key, whose deadline it sets or removes", "6.2.0"),
    row("append", 3, GROW.and(FAST), append).about("Adds bytes to the end of a value", "2.0.0"),
    row("strlen", 2, READ.and(FAST), strlen).about("The length of a value, bytes", "2.2.0"),
    row("getrange", 4, READ, getrange).about("A part of a value", "2.4.0"),
    row("substr", 4, READ, getrange).about("A part of a value; the old name of GETRANGE", "1.0.0"),
    row("setrange", 4, GROW, setrange).about("Overwrites a part of a value", "2.2.0"),
    Spec {
        keys: Keys::ALL,
        run: Run::Keyed(Keyed::Each(get)),
        ..row("mget", -2, READ.and(FAST), get)
    }
    .about("The values of several keys", "1.0.0"),
    Spec { keys: Keys::PAIRS, run: Run::Keyed(Keyed::AllOk(mset)), ..row("mset", -3, GROW, get) }
        .about("Sets several keys", "1.0.1"),
];

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn range_counts_from_both_ends() {
        assert_eq!(range(11, 0, 4), 0..5);
        assert_eq!(range(11, -5, -1), 6..11);
        assert_eq!(range(11, 0, -1), 0..11);
        assert_eq!(range(11, -100, -50), 0..1);
        assert_eq!(range(11, 5, 3), 0..0);
        assert_eq!(range(11, i64::MIN, i64::MAX), 0..11);
        assert_eq!(range(0, 0, -1), 0..0);
    }
}
