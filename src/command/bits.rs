//! Bits of values: SETBIT, GETBIT, BITCOUNT, BITPOS and BITOP.
//!
//! A value is a row of bits, the highest of its first byte first, and after its end come zeros
//! without end. So a bit is read wherever it is, and a key that is not there has bits as well.
//! Long values are gone through in words of many bytes.
//!
//! Not here: integers of some bits ([`super::bitfield`]).

use smallvec::SmallVec;

use super::table::{Access, Answer, Flags, Group, Keyed, Keys, Run, Spec};
use super::together::{Effects, Together, same_db};
use super::{Args, Effect, Error, Event, Found, Input, NewValue, number};
use crate::limits::VALUE_LEN_MAX;
use crate::protocol::resp::Reply;

type Evaluated<'a> = Result<Effect<'a>, Error>;

const BAD_OFFSET: Error = Error::Other("ERR bit offset is not an integer or out of range");
const BAD_BIT: Error = Error::Other("ERR bit is not an integer or out of range");

/// The place of a bit of a value that may become as long as values do. `width`: of the integers
/// that `#` counts in; none: there are none.
///
/// # Errors
/// As Redis words it.
pub(super) fn parse_offset(text: &[u8], width: Option<u32>) -> Result<u64, Error> {
    let (digits, unit) = match (text, width) {
        ([b'#', digits @ ..], Some(width)) => (digits, i64::from(width)),
        (digits, _) => (digits, 1),
    };
    let offset = number::parse_i64(digits).ok().and_then(|offset| offset.checked_mul(unit));
    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
    offset.filter(|offset| offset >> 3 < VALUE_LEN_MAX as u64).ok_or(BAD_OFFSET)
}

/// A copy of `old`, with zeros up to `len` bytes if it is shorter.
pub(super) fn grown(old: &[u8], len: usize) -> SmallVec<[u8; 24]> {
    let len = len.max(old.len());
    let mut value = SmallVec::with_capacity(len);
    value.extend_from_slice(old);
    value.resize(len, 0);
    value
}

fn bytes_of(found: Option<Found<'_>>) -> &[u8] {
    found.map_or(&[], |found| found.value.as_slice())
}

/// The byte of a bit, and its mask there.
fn place(offset: u64) -> (usize, u8) {
    ((offset >> 3) as usize, 0x80 >> (offset & 7))
}

fn is_set(value: &[u8], offset: u64) -> bool {
    let (at, mask) = place(offset);
    value.get(at).is_some_and(|byte| byte & mask != 0)
}

fn getbit<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let offset = parse_offset(input.args.get(2), None)?;
    reply.integer(i64::from(is_set(bytes_of(input.found), offset)));
    Ok(Effect::None)
}

fn setbit<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let offset = parse_offset(input.args.get(2), None)?;
    let bit = match number::parse_i64(input.args.get(3)) {
        Ok(0) => false,
        Ok(1) => true,
        _ => return Err(BAD_BIT),
    };
    let old = bytes_of(input.found);
    let was = is_set(old, offset);
    reply.integer(i64::from(was));
    let (at, mask) = place(offset);
    if at < old.len() && was == bit {
        return Ok(Effect::None);
    }
    let mut value = grown(old, at + 1);
    value[at] = if bit { value[at] | mask } else { value[at] & !mask };
    let expiry_ms = input.found.and_then(|found| found.expiry_ms);
    Ok(Effect::Put { value: NewValue::Owned(value), expiry_ms, event: Event::SetBit })
}

/// Some bits of a value, from one to another, both included.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
}

/// In what `start` and `end` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Bits,
}

impl Unit {
    fn parse(args: &Args<'_>, at: usize) -> Result<Self, Error> {
        match () {
            () if at == args.len() => Ok(Self::Bytes),
            () if args.is(at, "BYTE") => Ok(Self::Bytes),
            () if args.is(at, "BIT") => Ok(Self::Bits),
            () => Err(Error::Syntax),
        }
    }
}

impl Span {
    /// From `start` to `end`, both included and counted from the end when negative; none: there is
    /// not one bit.
    fn of(len: usize, start: i64, end: i64, unit: Unit) -> Option<Self> {
        let total = if unit == Unit::Bits { len as i64 * 8 } else { len as i64 };
        let from_end = |at: i64| if at < 0 { (total + at).max(0) } else { at };
        let (start, end) = (from_end(start), from_end(end).min(total - 1));
        if start > end {
            return None;
        }
        let (start, end) = (start as u64, end as u64);
        Some(match unit {
            Unit::Bytes => Self { first: start * 8, last: end * 8 + 7 },
            Unit::Bits => Self { first: start, last: end },
        })
    }

    fn count(self, value: &[u8]) -> u64 {
        let (from, to) = ((self.first >> 3) as usize, (self.last >> 3) as usize);
        let before = value[from] & !(0xff >> (self.first & 7));
        let after = value[to] & ((1 << (7 - (self.last & 7))) - 1);
        count_ones(&value[from..=to]) - u64::from(before.count_ones() + after.count_ones())
    }

    /// Of the first bit that is so.
    fn position(self, value: &[u8], bit: bool) -> Option<u64> {
        // What is looked for is a one: of the bits, or of their opposites.
        let other = if bit { 0 } else { 0xff };
        let (from, to) = ((self.first >> 3) as usize, (self.last >> 3) as usize);
        let begin = (value[from] ^ other) & (0xff >> (self.first & 7));
        let (at, byte) = if begin != 0 {
            (from, begin)
        } else {
            let at = from + 1 + first_but(&value[from + 1..=to], other)?;
            (at, value[at] ^ other)
        };
        let found = at as u64 * 8 + u64::from(byte.leading_zeros());
        Some(found).filter(|found| *found <= self.last)
    }
}

fn count_ones(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones()));
    words.chain(rest.iter().map(|byte| u64::from(byte.count_ones()))).sum()
}

/// Index of the first byte that is another.
fn first_but(bytes: &[u8], same: u8) -> Option<usize> {
    let (words, _) = bytes.as_chunks::<32>();
    let skipped = words.iter().take_while(|word| **word == [same; 32]).count() * 32;
    bytes[skipped..].iter().position(|byte| *byte != same).map(|at| skipped + at)
}

fn bitcount<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    // An absent key is answered before the range is looked at, as in Redis.
    let Some(found) = input.found else {
        reply.integer(0);
        return Ok(Effect::None);
    };
    let (args, value) = (&input.args, found.value.as_slice());
    let span = match args.len() {
        2 => Span::of(value.len(), 0, -1, Unit::Bytes),
        4 | 5 => {
            let (start, end) = (number::parse_i64(args.get(2))?, number::parse_i64(args.get(3))?);
            if start < 0 && end < 0 && start > end {
                None
            } else {
                Span::of(value.len(), start, end, Unit::parse(args, 4)?)
            }
        }
        _ => return Err(Error::Syntax),
    };
    reply.integer(span.map_or(0, |span| span.count(value)) as i64);
    Ok(Effect::None)
}

fn bitpos<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Evaluated<'a> {
    let args = &input.args;
    let bit = match number::parse_i64(args.get(2))? {
        0 => false,
        1 => true,
        _ => return Err(Error::Other("ERR The bit argument must be 1 or 0.")),
    };
    let Some(found) = input.found else {
        reply.integer(if bit { -1 } else { 0 });
        return Ok(Effect::None);
    };
    let value = found.value.as_slice();
    if args.len() > 6 {
        return Err(Error::Syntax);
    }
    let start = if args.len() > 3 { number::parse_i64(args.get(3))? } else { 0 };
    let unit = Unit::parse(args, 5.min(args.len()))?;
    let end = if args.len() > 4 { number::parse_i64(args.get(4))? } else { -1 };
    let position = Span::of(value.len(), start, end, unit).map(|span| span.position(value, bit));
    reply.integer(match position {
        Some(Some(at)) => at as i64,
        // Without an end there are zeros behind the value.
        Some(None) if !bit && args.len() < 5 => value.len() as i64 * 8,
        _ => -1,
    });
    Ok(Effect::None)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

impl Operation {
    fn parse(word: &[u8]) -> Result<Self, Error> {
        let all =
            [(&b"AND"[..], Self::And), (b"OR", Self::Or), (b"XOR", Self::Xor), (b"NOT", Self::Not)];
        let known = all.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
        known.map(|(_, operation)| *operation).ok_or(Error::Syntax)
    }

    /// Of all values, each with zeros up to the longest one's length.
    fn of(self, sources: &[Option<Found<'_>>]) -> Vec<u8> {
        let values = || sources.iter().map(|found| bytes_of(*found));
        let mut result = vec![0; values().map(<[u8]>::len).max().unwrap_or(0)];
        let mut rest = values();
        let first = rest.next().unwrap_or(&[]);
        result[..first.len()].copy_from_slice(first);
        if self == Self::Not {
            result.iter_mut().for_each(|byte| *byte = !*byte);
        }
        for value in rest {
            let (both, beyond) = result.split_at_mut(value.len());
            let pairs = both.iter_mut().zip(value);
            match self {
                Self::And => {
                    pairs.for_each(|(byte, other)| *byte &= other);
                    beyond.fill(0);
                }
                Self::Or => pairs.for_each(|(byte, other)| *byte |= other),
                Self::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
                Self::Not => unreachable!("it has one source"),
            }
        }
        result
    }
}

fn bitop<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let operation = Operation::parse(args.get(1))?;
    let (destination, sources) = found.split_first().expect("the arity sees to it");
    if operation == Operation::Not && sources.len() > 1 {
        let text = "ERR BITOP NOT must be called with a single source key.";
        return Err(Error::Other(text));
    }
    let value = operation.of(sources);
    reply.integer(value.len() as i64);
    let effect = if value.is_empty() {
        destination.map(|_| Effect::Delete(Event::Delete))
    } else {
        let value = NewValue::Owned(SmallVec::from_vec(value));
        Some(Effect::Put { value, expiry_ms: None, event: Event::Set })
    };
    Ok(effect.map(|effect| (0, effect)).into_iter().collect())
}

const READ: Flags = Flags::READONLY;
const GROW: Flags = Flags::WRITE.and(Flags::DENYOOM);

const fn row(name: &'static str, arity: i16, flags: Flags, run: Answer) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let (group, keys, run) = (Group::Bitmap, Keys::FIRST, Run::Keyed(Keyed::One(run)));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.2.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("setbit", 4, GROW, setbit).about("Sets or clears a bit of a value", "2.2.0"),
    row("getbit", 3, READ.and(Flags::FAST), getbit).about("A bit of a value", "2.2.0"),
    row("bitcount", -2, READ, bitcount)
        .about("Counts the bits of a value, or of a part, that are set", "2.6.0"),
    row("bitpos", -3, READ, bitpos)
        .about("Where a value, or a part, has its first bit that is set or clear", "2.8.7"),
    Spec {
        keys: Keys::FROM_SECOND,
        run: Run::Together(Together { dbs: same_db, is_in_both: false, judge: bitop }),
        ..row("bitop", -4, GROW, setbit)
    }
    .about("AND, OR, XOR or NOT of values of one partition, into a key", "2.6.0"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(value: &[u8]) -> Vec<bool> {
        (0..value.len() as u64 * 8).map(|at| is_set(value, at)).collect()
    }

    proptest! {
        /// Mostly zeros or mostly ones, so that words are skipped.
        #[test]
        fn spans_count_and_find_as_a_walk_over_all_bits_does(
            fill in prop_oneof![Just(0_u8), Just(0xff), Just(0x01)],
            changes in prop::collection::vec((0..200_usize, any::<u8>()), 0..4),
            len in 1..200_usize,
            start in 0..1600_u64,
            more in 0..1600_u64,
        ) {
            let mut value = vec![fill; len];
            for (at, byte) in changes {
                value[at % len] = byte;
            }
            let last_bit = len as u64 * 8 - 1;
            let first = start.min(last_bit);
            let span = Span { first, last: (first + more).min(last_bit) };
            let all = bits(&value);
            let inside = span.first as usize..=span.last as usize;

            let ones = all[inside.clone()].iter().filter(|bit| **bit).count();
            prop_assert_eq!(span.count(&value), ones as u64);
            for bit in [false, true] {
                let at = all[inside.clone()].iter().position(|found| *found == bit);
                let at = at.map(|at| at as u64 + span.first);
                prop_assert_eq!(span.position(&value, bit), at, "{}", bit);
            }
        }
    }

    #[test]
    fn offsets_end_where_the_longest_value_does() {
        assert_eq!(parse_offset(b"4294967295", None), Ok(u64::from(u32::MAX)));
        assert_eq!(parse_offset(b"#67108863", Some(64)), Ok(4_294_967_232));
        for text in ["4294967296", "-1", "#0", "", "1x", "9223372036854775807"] {
            assert_eq!(parse_offset(text.as_bytes(), None), Err(BAD_OFFSET), "{text}");
        }
        for text in ["#67108864", "#-1", "#", "##1", "#9223372036854775807"] {
            assert_eq!(parse_offset(text.as_bytes(), Some(64)), Err(BAD_OFFSET), "{text}");
        }
    }
}
