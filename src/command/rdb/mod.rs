//! A string as Redis writes it into its files and into DUMP: an RDB object and its end.
//!
//! ```text
//! payload := type:u8 string version:u16 crc64:u64       little-endian; type 0 is a string; the sum
//!                                                       is of all that comes before it
//! string  := len byte{len}
//!          | 0xc0 i8 | 0xc1 i16 | 0xc2 i32               a number in decimal, little-endian
//!          | 0xc3 packed_len:len len:len byte{packed}    LZF
//! len     := 00xxxxxx | 01xxxxxx byte | 0x80 u32 | 0x81 u64                          big-endian
//! ```
//!
//! What is written is what Redis 7.0 writes of the same value, byte for byte, up to
//! [`PACKED_LEN_MAX`]. What is read may be wrong in any way: nothing is taken on trust, and memory
//! is asked for as bytes come out.

use super::{Error, number};
use crate::limits::VALUE_LEN_MAX;

mod crc;
mod lzf;

/// Of Redis 7.0, so that every newer server reads it.
const VERSION: u16 = 10;
/// Of Redis 7.4: strings have been the same ever since.
const VERSION_MAX: u16 = 12;
const STRING: u8 = 0;
/// The types of Redis 7.4 that are not strings: lists, sets and others.
const OTHERS: [std::ops::RangeInclusive<u8>; 2] = [1..=7, 9..=25];

const INT8: u8 = 0xc0;
const INT16: u8 = 0xc1;
const INT32: u8 = 0xc2;
const PACKED: u8 = 0xc3;
const LEN_32: u8 = 0x80;
const LEN_64: u8 = 0x81;

const END_LEN: usize = 10;
/// The longest text of a number that is written as one.
const NUMBER_LEN_MAX: usize = 11;
/// Shorter ones are not worth it.
const PACKED_LEN_MIN: usize = 21;
/// Longer ones are written as they are, which every Redis reads as well: packing takes a core some
/// 4 ms for each MiB.
const PACKED_LEN_MAX: usize = 1 << 20;

const BAD_END: Error = Error::Other("ERR DUMP payload version or checksum are wrong");
const BAD_FORMAT: Error = Error::Other("ERR Bad data format");

/// The payload of a value.
pub(super) fn encode(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 9 + 1 + END_LEN);
    out.push(STRING);
    if let Some(number) = as_number(value) {
        write_number(number, &mut out);
    } else if let Some(packed) = pack(value) {
        out.push(PACKED);
        write_len(packed.len(), &mut out);
        write_len(value.len(), &mut out);
        out.extend_from_slice(&packed);
    } else {
        write_len(value.len(), &mut out);
        out.extend_from_slice(value);
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc::sum(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn as_number(value: &[u8]) -> Option<i32> {
    let number = if value.len() > NUMBER_LEN_MAX { None } else { number::parse_i64(value).ok() };
    number.and_then(|number| i32::try_from(number).ok())
}

fn write_number(number: i32, out: &mut Vec<u8>) {
    if let Ok(number) = i8::try_from(number) {
        out.extend_from_slice(&[INT8, number.cast_unsigned()]);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(INT16);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(INT32);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// None: it would not be shorter by four bytes at least.
fn pack(value: &[u8]) -> Option<Vec<u8>> {
    if !(PACKED_LEN_MIN..=PACKED_LEN_MAX).contains(&value.len()) {
        return None;
    }
    lzf::pack(value, value.len() - 4)
}

fn write_len(len: usize, out: &mut Vec<u8>) {
    match len {
        0..64 => out.push(len as u8),
        64..16_384 => out.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]),
        _ => match u32::try_from(len) {
            Ok(len) => {
                out.push(LEN_32);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(LEN_64);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        },
    }
}

/// The value of a payload.
///
/// # Errors
/// In the words of Redis: another version or a wrong sum; bytes that are no string. One of our own:
/// an object of another type.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<u8>, Error> {
    let (rest, end) = payload.split_last_chunk::<END_LEN>().ok_or(BAD_END)?;
    let [low, high, sum @ ..] = *end;
    let summed = &payload[..rest.len() + 2];
    let is_known = u16::from_le_bytes([low, high]) <= VERSION_MAX;
    if !is_known || u64::from_le_bytes(sum) != crc::sum(summed) {
        return Err(BAD_END);
    }
    let (kind, mut rest) = rest.split_first().ok_or(BAD_FORMAT)?;
    match *kind {
        STRING => decode_string(&mut rest),
        other if OTHERS.iter().any(|types| types.contains(&other)) => {
            let text = "ERR the payload is of another type than string, which this server has not";
            Err(Error::Other(text))
        }
        _ => Err(BAD_FORMAT),
    }
}

/// What may follow is left, as Redis leaves it.
fn decode_string(rest: &mut &[u8]) -> Result<Vec<u8>, Error> {
    let first = *rest.first().ok_or(BAD_FORMAT)?;
    if first < INT8 {
        let len = take_len(rest)?;
        return take(rest, len).map(<[u8]>::to_vec);
    }
    take(rest, 1)?;
    let number = match first {
        INT8 => i32::from(i8::from_le_bytes(take_chunk(rest)?)),
        INT16 => i32::from(i16::from_le_bytes(take_chunk(rest)?)),
        INT32 => i32::from_le_bytes(take_chunk(rest)?),
        PACKED => {
            let (packed_len, len) = (take_len(rest)?, take_len(rest)?);
            return lzf::unpack(take(rest, packed_len)?, len).ok_or(BAD_FORMAT);
        }
        _ => return Err(BAD_FORMAT),
    };
    Ok(number::format_i64(number.into()).to_vec())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (taken, after) = rest.split_at_checked(len).ok_or(BAD_FORMAT)?;
    *rest = after;
    Ok(taken)
}

fn take_chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (taken, after) = rest.split_first_chunk().ok_or(BAD_FORMAT)?;
    *rest = after;
    Ok(*taken)
}

/// A length, at most that of the longest value.
fn take_len(rest: &mut &[u8]) -> Result<usize, Error> {
    let [first] = take_chunk(rest)?;
    let len = match first {
        0..0x40 => u64::from(first),
        0x40..0x80 => {
            let [second] = take_chunk(rest)?;
            u64::from(first & 0x3f) << 8 | u64::from(second)
        }
        LEN_32 => u32::from_be_bytes(take_chunk(rest)?).into(),
        LEN_64 => u64::from_be_bytes(take_chunk(rest)?),
        _ => return Err(BAD_FORMAT),
    };
    usize::try_from(len).ok().filter(|len| *len <= VALUE_LEN_MAX).ok_or(BAD_FORMAT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ended(object: &[u8], version: u16) -> Vec<u8> {
        let mut payload = object.to_vec();
        payload.extend_from_slice(&version.to_le_bytes());
        let sum = crc::sum(&payload);
        payload.extend_from_slice(&sum.to_le_bytes());
        payload
    }

    #[test]
    fn payloads_are_those_of_redis() {
        for (value, payload) in [
            (&b"\x00"[..], &b"\x00\x01\x00\n\x00[\xf8%\xccl\x17CV"[..]),
            (b"12345", b"\x00\xc190\n\x00\x9d\x94\xea'\x93\xfc\x08\xb9"),
        ] {
            assert_eq!(decode(payload), Ok(value.to_vec()));
            assert_eq!(encode(value), payload, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            words in prop::collection::vec("[a-c]{1,6}|[0-9]{1,11}|\\PC{0,40}", 0..40),
        ) {
            let value = words.concat().into_bytes();
            let payload = encode(&value);

            prop_assert_eq!(decode(&payload), Ok(value));
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 0x10;
                prop_assert_eq!(decode(&damaged), Err(BAD_END));
            }
        }

        #[test]
        fn nothing_is_taken_on_trust(
            mut object in prop::collection::vec(any::<u8>(), 0..40),
            packed: bool,
        ) {
            if packed {
                object.splice(0..0, [STRING, PACKED]);
            }
            if let Ok(value) = decode(&ended(&object, VERSION)) {
                prop_assert!(value.len() <= 264 * object.len());
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        assert_eq!(decode(b""), Err(BAD_END));
        assert_eq!(decode(&ended(b"", VERSION)), Err(BAD_FORMAT));
        assert_eq!(decode(&ended(b"\x00\x01a", VERSION_MAX)), Ok(b"a".to_vec()));
        assert_eq!(decode(&ended(b"\x00\x01a", VERSION_MAX + 1)), Err(BAD_END));
        assert_eq!(decode(&ended(b"\x00\x01ab", VERSION)), Ok(b"a".to_vec()));
        assert_eq!(decode(&ended(b"\x00\xc2\x00\x00\x00\x80", 1)), Ok(b"-2147483648".to_vec()));
        for object in [
            &b"\x00"[..],
            b"\x00\x02a",
            b"\x00\x40",
            b"\x00\x80\xff\xff\xff\xffa",
            b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xffa",
            b"\x00\x82a",
            b"\x00\xc2\x00\x00\x00",
            b"\x00\xc4\x00",
            b"\x00\xc3\x02\x01\x01a",
            b"\x00\xc3\x02\x80\x1f\xff\xff\xff\x00a",
            b"\x00\xc3\x02\x05\x20\x00",
            b"\xf0\x01a",
        ] {
            assert_eq!(decode(&ended(object, VERSION)), Err(BAD_FORMAT), "{object:?}");
        }
        assert!(decode(&ended(b"\x01\x01\x01a", VERSION)).is_err());
    }
}
