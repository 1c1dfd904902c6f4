//! A row: one version of a key, as it is given and as the body of an entry.

use std::ops::Range;

use super::{Kind, Lone, Malformed, entry_at, find, malformed, u64_at};
use crate::id::Timestamp;

/// Bytes of a body before its expiry and its value.
const HEAD_LEN: usize = 9;
/// As stored in place of a large value.
const LARGE_REF_LEN: usize = 16;

const KIND_BITS: u8 = 0x0F;
const FLAG_EXPIRY: u8 = 0x10;
const FLAG_LARGE: u8 = 0x20;

/// Where a large value is in the file of its row: a run of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    /// Where the first chunk begins.
    pub offset: u64,
    /// Bytes of the value.
    pub len: u64,
}

/// The value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Its bytes; empty for a delete.
    Bytes(&'a [u8]),
    /// In chunks of the same table.
    Large(Large),
}

impl Value<'_> {
    /// Bytes of the value.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Large(large) => large.len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Encoded as in [`crate::lsm::key`].
    pub key: &'a [u8],
    /// When it was written.
    pub timestamp: Timestamp,
    /// Put or delete.
    pub kind: Kind,
    /// Absolute deadline, unix milliseconds. Of a put only.
    pub expiry_ms: Option<u64>,
    /// The value.
    pub value: Value<'a>,
}

impl Row<'_> {
    /// What stands before the value's bytes in the row's body, and the body's length.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> usize {
        out.clear();
        let kind = match self.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
        };
        let expiry = if self.expiry_ms.is_some() { FLAG_EXPIRY } else { 0 };
        let large = if matches!(self.value, Value::Large(_)) { FLAG_LARGE } else { 0 };
        out.push(kind | expiry | large);
        out.extend_from_slice(&self.timestamp.0.to_le_bytes());
        if let Some(expiry_ms) = self.expiry_ms {
            out.extend_from_slice(&expiry_ms.to_le_bytes());
        }
        match self.value {
            Value::Bytes(bytes) => out.len() + bytes.len(),
            Value::Large(large) => {
                out.extend_from_slice(&large.offset.to_le_bytes());
                out.extend_from_slice(&large.len.to_le_bytes());
                out.len()
            }
        }
    }
}

/// The value in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Bytes(Range<usize>),
    Large(Large),
}

/// What a row's body says; its value is a range of the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// When it was written.
    pub timestamp: Timestamp,
    /// Put or delete.
    pub kind: Kind,
    /// Absolute deadline.
    pub expiry_ms: Option<u64>,
    value: Held,
}

impl Head {
    /// Reads the body at `body` of `bytes`.
    ///
    /// # Errors
    /// It is no row's.
    #[inline]
    pub fn decode(bytes: &[u8], body: Range<usize>) -> Result<Self, Malformed> {
        let read = || {
            let own = bytes.get(body.clone())?;
            let head = *own.first()?;
            let kind = match head & KIND_BITS {
                1 => Kind::Put,
                2 => Kind::Delete,
                _ => return None,
            };
            let timestamp = Timestamp(u64_at(own.get(..HEAD_LEN)?, 1));
            let mut at = HEAD_LEN;
            let mut expiry_ms = None;
            if head & FLAG_EXPIRY != 0 {
                expiry_ms = Some(u64_at(own.get(at..at + 8)?, 0));
                at += 8;
            }
            let value = match head & !(KIND_BITS | FLAG_EXPIRY) {
                0 => Held::Bytes(body.start + at..body.end),
                FLAG_LARGE if own.len() == at + LARGE_REF_LEN => {
                    Held::Large(Large { offset: u64_at(own, at), len: u64_at(own, at + 8) })
                }
                _ => return None,
            };
            let is_bare = own.len() == HEAD_LEN;
            (kind == Kind::Put || is_bare).then_some(Self { timestamp, kind, expiry_ms, value })
        };
        read().ok_or(Malformed { what: "row" })
    }

    /// Its value, in the bytes that it was decoded from.
    #[inline]
    pub fn value<'a>(&self, bytes: &'a [u8]) -> Value<'a> {
        match &self.value {
            Held::Bytes(range) => Value::Bytes(&bytes[range.clone()]),
            Held::Large(large) => Value::Large(*large),
        }
    }

    /// The row, of which this is all but the key.
    #[inline]
    pub fn row<'a>(&self, key: &'a [u8], bytes: &'a [u8]) -> Row<'a> {
        let Self { timestamp, kind, expiry_ms, .. } = *self;
        Row { key, timestamp, kind, expiry_ms, value: self.value(bytes) }
    }
}

/// What a search among rows came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// The newest version that is not too new.
    Found(Head),
    /// There is none.
    Absent,
    /// The rows end before it could be told: it may be in those that follow.
    Beyond,
}

/// The newest version of `key` in `rows` that is not newer than `at`.
///
/// # Errors
/// These are no rows.
pub fn find_row(rows: &[u8], key: &[u8], at: Timestamp) -> Result<Sought, Malformed> {
    let Some(found) = find(rows, key)? else { return Ok(Sought::Beyond) };
    if !found.is_exact {
        return Ok(Sought::Absent);
    }
    let mut body = found.body;
    loop {
        let head = Head::decode(rows, body.clone())?;
        if head.timestamp <= at {
            return Ok(Sought::Found(head));
        }
        let Some(Lone { shared, rest, body: next }) = entry_at(rows, body.end)? else {
            return Ok(Sought::Beyond);
        };
        if shared > key.len() {
            return malformed("entry");
        }
        if &key[shared..] != rest {
            return Ok(Sought::Absent);
        }
        body = next;
    }
}
