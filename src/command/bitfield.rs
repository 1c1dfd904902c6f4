//! Integers of some bits at any place of a value: BITFIELD and BITFIELD_RO.
//!
//! Bits are those of [`super::bits`]. All operations are read before the first is done, so that a
//! wrong one changes nothing, and the value is made as long as the longest write needs it.
//!
//! ```text
//! operation := GET type offset | SET type offset value | INCRBY type offset increment
//!            | OVERFLOW WRAP|SAT|FAIL         for those that come after it
//! type      := i1..i64 | u1..u63
//! offset    := bits | "#" integers of the type
//! ```

use smallvec::SmallVec;

use super::bits::{grown, parse_offset};
use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Effect, Error, Event, Input, NewValue, number};
use crate::limits::VALUE_LEN_MAX;
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

/// Bytes that an integer of 64 bits can lie in.
const WINDOW_LEN: usize = 9;

/// How an integer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    signed: bool,
    /// Bits, 1 to 64.
    width: u32,
}

impl Kind {
    fn parse(text: &[u8]) -> Result<Self, Error> {
        let (signed, digits, most) = match text {
            [b'i', digits @ ..] => (true, digits, 64),
            [b'u', digits @ ..] => (false, digits, 63),
            _ => (false, &[][..], 0),
        };
        let width = number::parse_i64(digits).ok().filter(|width| (1..=most).contains(width));
        let invalid = Error::Other(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported \
             but i64 is.",
        );
        width.map(|width| Self { signed, width: width as u32 }).ok_or(invalid)
    }

    fn limits(self) -> (i128, i128) {
        let half = 1_i128 << (self.width - 1);
        if self.signed { (-half, half - 1) } else { (0, 2 * half - 1) }
    }

    /// What its lowest bits are as an integer of this kind.
    fn wrapped(self, number: i128) -> i128 {
        let rest = i128::BITS - self.width;
        let top = number << rest;
        if self.signed { top >> rest } else { (top as u128 >> rest) as i128 }
    }

    /// Nine bytes with the integer somewhere in them, and how far from their end it is.
    fn window(self, value: &[u8], offset: u64) -> (u128, u32) {
        let at = (offset >> 3) as usize;
        let known = value.get(at..).unwrap_or_default();
        let bytes = (0..WINDOW_LEN).map(|nth| known.get(nth).copied().unwrap_or(0));
        let window = bytes.fold(0, |window, byte| window << 8 | u128::from(byte));
        (window, 8 * WINDOW_LEN as u32 - (offset & 7) as u32 - self.width)
    }

    fn read(self, value: &[u8], offset: u64) -> i128 {
        let (window, shift) = self.window(value, offset);
        self.wrapped((window >> shift) as i128)
    }

    /// Writes `number`, of which its lowest bits count. All of its place is in `value`.
    fn write(self, value: &mut [u8], offset: u64, number: i128) {
        let (window, shift) = self.window(value, offset);
        let mask = ((1_u128 << self.width) - 1) << shift;
        let window = (window & !mask) | ((number as u128) << shift & mask);
        let bytes = window.to_be_bytes();
        let bytes = &bytes[bytes.len() - WINDOW_LEN..];
        let place = &mut value[(offset >> 3) as usize..];
        place.iter_mut().zip(bytes).for_each(|(byte, new)| *byte = *new);
    }
}

/// What becomes of a number that is too large or too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    fn parse(word: &[u8]) -> Result<Self, Error> {
        let all = [(&b"WRAP"[..], Self::Wrap), (b"SAT", Self::Saturate), (b"FAIL", Self::Fail)];
        let known = all.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        known.map(|known| known.1).ok_or(Error::Other("ERR Invalid OVERFLOW type specified"))
    }

    /// The number that is kept; none: nothing is.
    fn fit(self, kind: Kind, number: i128) -> Option<i128> {
        let (least, most) = kind.limits();
        match self {
            _ if (least..=most).contains(&number) => Some(number),
            Self::Wrap => Some(kind.wrapped(number)),
            Self::Saturate => Some(number.clamp(least, most)),
            Self::Fail => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    kind: Kind,
    offset: u64,
    action: Action,
    overflow: Overflow,
}

impl Operation {
    /// Does it, and returns what is answered and whether that changed the value; none: it does not
    /// fit.
    fn run(self, value: &mut [u8]) -> Option<(i128, bool)> {
        let Self { kind, offset, action, overflow } = self;
        let old = kind.read(value, offset);
        let wanted = match action {
            Action::Get => return Some((old, false)),
            Action::Set(number) if kind.signed => i128::from(number),
            // Redis reads a negative one as what its 64 bits are without a sign.
            Action::Set(number) => i128::from(number as u64),
            Action::Add(number) => old + i128::from(number),
        };
        let new = overflow.fit(kind, wanted)?;
        kind.write(value, offset, new);
        Some((if matches!(action, Action::Set(_)) { old } else { new }, old != new))
    }

    /// Bytes that the value has to have; 0 for what only reads.
    fn len(&self) -> usize {
        let last = self.offset + u64::from(self.kind.width) - 1;
        if self.action == Action::Get { 0 } else { (last >> 3) as usize + 1 }
    }
}

/// One operation's words: how many it takes, with its name; none: it is not one.
fn words_count(args: &Args<'_>, at: usize) -> Option<usize> {
    let all = [("GET", 3), ("SET", 4), ("INCRBY", 4), ("OVERFLOW", 2)];
    let known = all.iter().find(|(name, _)| args.is(at, name));
    known.map(|(_, count)| *count).filter(|count| at + count <= args.len())
}

/// Whether a BITFIELD with these arguments changes nothing.
pub(super) fn only_reads(args: &Args<'_>) -> bool {
    let mut at = 2;
    while at < args.len() {
        match words_count(args, at) {
            Some(count @ (2 | 3)) => at += count,
            _ => return false,
        }
    }
    true
}

fn parse(args: &Args<'_>) -> Result<SmallVec<[Operation; 4]>, Error> {
    let (mut operations, mut overflow, mut at) = (SmallVec::new(), Overflow::Wrap, 2);
    while at < args.len() {
        let count = words_count(args, at).ok_or(Error::Syntax)?;
        if count == 2 {
            overflow = Overflow::parse(args.get(at + 1))?;
            at += count;
            continue;
        }
        let kind = Kind::parse(args.get(at + 1))?;
        let offset = parse_offset(args.get(at + 2), Some(kind.width))?;
        let action = match args.is(at, "GET") {
            true => Action::Get,
            false if args.is(at, "SET") => Action::Set(number::parse_i64(args.get(at + 3))?),
            false => Action::Add(number::parse_i64(args.get(at + 3))?),
        };
        operations.push(Operation { kind, offset, action, overflow });
        at += count;
    }
    Ok(operations)
}

fn bitfield<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let operations = parse(&input.args)?;
    let len = operations.iter().map(Operation::len).max().unwrap_or(0);
    if len == 0 {
        answer_reads(input, &operations, reply);
        return Ok(Effect::None);
    }
    // An offset is within the longest value, an integer that begins there may not be.
    if len > VALUE_LEN_MAX {
        return Err(Error::ValueTooLong);
    }
    let old = input.found.map_or(&[][..], |found| found.value.as_slice());
    let mut value = grown(old, len);
    let (has_grown, mut event) = (value.len() > old.len(), Event::None);
    if has_grown {
        event = Event::Grow;
    }
    reply.array(operations.len());
    for operation in &operations {
        let Some((number, changes)) = operation.run(&mut value) else {
            reply.null();
            continue;
        };
        reply.integer(number as i64);
        if changes || has_grown && operation.action != Action::Get {
            event = Event::SetBit;
        }
    }
    if event == Event::None {
        return Ok(Effect::None);
    }
    let expiry_ms = input.found.and_then(|found| found.expiry_ms);
    Ok(Effect::Put { value: NewValue::Owned(value), expiry_ms, event })
}

fn bitfield_ro<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let operations = parse(&input.args)?;
    if operations.iter().any(|operation| operation.action != Action::Get) {
        return Err(Error::Other("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    answer_reads(input, &operations, reply);
    Ok(Effect::None)
}

fn answer_reads(input: &Input<'_>, operations: &[Operation], reply: &mut Reply<'_>) {
    let value = input.found.map_or(&[][..], |found| found.value.as_slice());
    reply.array(operations.len());
    for Operation { kind, offset, .. } in operations {
        reply.integer(kind.read(value, *offset) as i64);
    }
}

const fn row(name: &'static str, flags: Flags, run: Answer) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let (arity, group, keys) = (-2, Group::Bitmap, Keys::FIRST);
    let run = Run::Keyed(Keyed::One(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "3.2.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("bitfield", Flags::WRITE.and(Flags::DENYOOM), bitfield)
        .about("Reads, sets and adds to integers of some bits within a value", "3.2.0"),
    row("bitfield_ro", Flags::READONLY.and(Flags::FAST), bitfield_ro)
        .about("Reads integers of some bits within a value", "6.0.0"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_beside_it_changes(
            old in prop::collection::vec(any::<u8>(), 20),
            offset in 0..96_u64,
            width in 1..=64_u32,
            signed: bool,
            number: i64,
        ) {
            let kind = Kind { signed, width: if signed { width } else { width.min(63) } };
            let number = kind.wrapped(i128::from(number));
            let mut value = old.clone();

            kind.write(&mut value, offset, number);

            prop_assert_eq!(kind.read(&value, offset), number);
            let bit = |value: &[u8], at: u64| value[(at >> 3) as usize] >> (7 - (at & 7)) & 1;
            let end = offset + u64::from(kind.width);
            for at in (0..160).filter(|at| *at < offset || *at >= end) {
                prop_assert_eq!(bit(&value, at), bit(&old, at), "bit {}", at);
            }
        }
    }

    #[test]
    fn numbers_that_do_not_fit_wrap_saturate_or_fail() {
        let (i8, u8) = (Kind { signed: true, width: 8 }, Kind { signed: false, width: 8 });
        let i64 = Kind { signed: true, width: 64 };
        let most = i128::from(i64::MAX);
        for (kind, number, wrapped, saturated) in [
            (i8, 128, -128, 127),
            (i8, -129, 127, -128),
            (u8, 256, 0, 255),
            (u8, -1, 255, 0),
            (i64, most + 1, -most - 1, most),
            (i64, -most - 2, most, -most - 1),
        ] {
            assert_eq!(Overflow::Wrap.fit(kind, number), Some(wrapped), "{kind:?} {number}");
            assert_eq!(Overflow::Saturate.fit(kind, number), Some(saturated), "{kind:?} {number}");
            assert_eq!(Overflow::Fail.fit(kind, number), None, "{kind:?} {number}");
        }
    }
}
