//! Requests for a partition's changes and for its rows, and their replies: what a copy of the data
//! somewhere else is made of, and kept up to date with.

use super::Code;
use crate::codec::{Fields, put_u32};
use crate::limits::KEY_LEN_MAX;

/// Longest place to go on from in a copy, bytes: an encoded key and a byte.
const FROM_LEN_MAX: usize = 2 * KEY_LEN_MAX + 16;

/// Which cluster and partition a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Which partition.
    pub partition: u32,
    /// The cluster's id; 0: whichever it is.
    pub cluster: u128,
}

/// A place in the log of a partition: behind an entry, and some effects of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The entry; 0: none is named.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Effects of the entry behind it.
    pub part: u32,
}

impl Position {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.part.to_le_bytes());
        put_u32(out, 0);
    }

    /// Back from bytes.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (index, term, part) = (fields.u64()?, fields.u64()?, fields.u32()?);
        fields.zero(4)?;
        Some(Self { index, term, part })
    }
}

/// Where a page of a partition's rows begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsFrom<'a> {
    /// Of which partition.
    pub subject: Subject,
    /// As the page before said; empty: at the first row.
    pub from: &'a [u8],
}

/// Behind which place changes are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Of which partition.
    pub subject: Subject,
    /// As the reply before said; the default: the end of the log.
    pub position: Position,
}

impl Behind {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let read = |fields: &mut Fields<'_>| {
            let partition = fields.u32()?;
            fields.zero(4)?;
            let subject = Subject { partition, cluster: fields.u128()? };
            Some(Self { subject, position: Position::read(fields)? })
        };
        let behind = read(&mut fields).ok_or(Code::BadRequest)?;
        fields.end().ok_or(Code::BadRequest).map(|()| behind)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.subject.partition.to_le_bytes());
        put_u32(out, 0);
        out.extend_from_slice(&self.subject.cluster.to_le_bytes());
        self.position.encode(out);
    }
}

impl<'a> RowsFrom<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let read = |fields: &mut Fields<'a>| {
            let (partition, from_len) = (fields.u32()?, fields.u32()? as usize);
            let subject = Subject { partition, cluster: fields.u128()? };
            Some(Self { subject, from: fields.take(from_len)? })
        };
        let page = read(&mut fields).ok_or(Code::BadRequest)?;
        fields.end().ok_or(Code::BadRequest)?;
        if page.from.len() > FROM_LEN_MAX { Err(Code::TooLarge) } else { Ok(page) }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.subject.partition.to_le_bytes());
        put_u32(out, self.from.len());
        out.extend_from_slice(&self.subject.cluster.to_le_bytes());
        out.extend_from_slice(self.from);
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done<'a> {
    /// The key holds this.
    Set {
        /// What.
        value: &'a [u8],
        /// When it goes by itself, unix milliseconds; 0: it stays.
        expiry_ms: u64,
    },
    /// The key is gone.
    Deleted,
    /// All keys of the partition are gone, of all databases.
    Cleared,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Its version.
    pub timestamp: u64,
    /// Which database.
    pub db: u8,
    /// Which key; empty if all are gone.
    pub key: &'a [u8],
    /// What was done.
    pub done: Done<'a>,
}

const SET: u8 = 1;
const DELETED: u8 = 2;
const CLEARED: u8 = 3;

impl<'a> Change<'a> {
    /// Appends the change.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let Done::Set { value, .. } = self.done {
            out.extend_from_slice(value);
        }
    }

    /// Appends the change but for its value.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let (kind, value_len, expiry_ms) = match self.done {
            Done::Set { value, expiry_ms } => (SET, value.len(), expiry_ms),
            Done::Deleted => (DELETED, 0, 0),
            Done::Cleared => (CLEARED, 0, 0),
        };
        out.extend_from_slice(&[kind, self.db, 0, 0]);
        put_u32(out, self.key.len());
        put_u32(out, value_len);
        put_u32(out, 0);
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&expiry_ms.to_le_bytes());
        out.extend_from_slice(self.key);
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let (kind, db) = (fields.u8()?, fields.u8()?);
        fields.zero(2)?;
        let (key_len, value_len) = (fields.u32()? as usize, fields.u32()? as usize);
        fields.zero(4)?;
        let (timestamp, expiry_ms) = (fields.u64()?, fields.u64()?);
        let (key, value) = (fields.take(key_len)?, fields.take(value_len)?);
        let done = match kind {
            SET => Done::Set { value, expiry_ms },
            DELETED if value.is_empty() && expiry_ms == 0 => Done::Deleted,
            CLEARED if value.is_empty() && key.is_empty() && expiry_ms == 0 => Done::Cleared,
            _ => return None,
        };
        Some(Self { timestamp, db, key, done })
    }
}

/// Several changes, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    pub(super) count: usize,
    /// Checked.
    pub(super) bytes: &'a [u8],
}

impl<'a> Changes<'a> {
    fn read(count: usize, fields: &mut Fields<'a>) -> Option<Self> {
        let bytes = fields.0;
        for _ in 0..count {
            Change::read(fields)?;
        }
        Some(Self { count, bytes })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Change<'a>> + use<'a> {
        let mut fields = Fields(self.bytes);
        (0..self.count).map(move |_| Change::read(&mut fields).expect("checked"))
    }
}

/// What was done behind a place of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed<'a> {
    /// The newest version that is committed.
    pub timestamp: u64,
    /// The newest entry that is.
    pub newest: u64,
    /// The server's time, unix milliseconds.
    pub now_ms: u64,
    /// Behind the last change here.
    pub position: Position,
    /// What was done.
    pub changes: Changes<'a>,
}

impl<'a> Changed<'a> {
    /// Appends what stands before the first of `count` changes.
    pub fn begin(&self, count: usize, out: &mut Vec<u8>) {
        for number in [self.timestamp, self.newest, self.now_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        self.position.encode(out);
        put_u32(out, count);
        put_u32(out, 0);
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.begin(self.changes.count, out);
        out.extend_from_slice(self.changes.bytes);
    }

    pub(super) fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let [timestamp, newest, now_ms] = fields.numbers()?;
        let (position, count) = (Position::read(fields)?, fields.u32()? as usize);
        fields.zero(4)?;
        let changes = Changes::read(count, fields)?;
        Some(Self { timestamp, newest, now_ms, position, changes })
    }
}

/// A page of a partition's rows, in the order of their encoded keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows<'a> {
    /// The newest version among them.
    pub timestamp: u64,
    /// All that the page has of is committed by this entry.
    pub newest: u64,
    /// Where the next page begins; empty: that was all.
    pub next: &'a [u8],
    /// Each as it was set.
    pub rows: Changes<'a>,
}

impl<'a> Rows<'a> {
    /// Appends what stands before the first of `count` rows.
    pub fn begin(&self, count: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&self.newest.to_le_bytes());
        put_u32(out, count);
        put_u32(out, self.next.len());
        out.extend_from_slice(self.next);
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.begin(self.rows.count, out);
        out.extend_from_slice(self.rows.bytes);
    }

    pub(super) fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let (timestamp, newest) = (fields.u64()?, fields.u64()?);
        let (count, next_len) = (fields.u32()? as usize, fields.u32()? as usize);
        let next = fields.take(next_len)?;
        Some(Self { timestamp, newest, next, rows: Changes::read(count, fields)? })
    }
}
