//! Replies, decoded into what the user gets. `None`: it is not such a reply.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fields::Fields;
use crate::changes::{Changed, Changes, Done, Position, Rows};
use crate::error::{Code, Refusal, Retry};
use crate::op::{BatchOutcome, Change, Entry, Item, Outcome, ServerInfo};

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
const LEFT_OUT: u8 = 2;
/// Bytes of an item before its value.
const ITEM_HEADER_LEN: usize = 24;
/// The index of an error that is of no single op.
const NO_INDEX: u32 = u32::MAX;

/// A page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// For the next page; empty: that was all.
    pub cursor: Vec<u8>,
    pub entries: Vec<Entry>,
}

pub(crate) fn hello(body: Vec<u8>) -> Option<ServerInfo> {
    let mut fields = Fields(&body);
    fields.u64()?;
    let (protocol, flags) = (fields.u8()?, fields.u8()?);
    let (shard, shard_count) = (fields.u16()?, fields.u16()?);
    fields.u16()?;
    let mut info = ServerInfo {
        protocol,
        authenticated: flags & 1 != 0,
        password_set: flags & 2 != 0,
        shard,
        shard_count,
        partition_count: fields.u32()?,
        key_len_max: fields.u32()?,
        value_len_max: fields.u32()?,
        body_len_max: fields.u32()?,
        batch_count_max: fields.u32()?,
        batch_len_max: fields.u32()?,
        multi_get_count_max: fields.u32()?,
        scan_count_max: fields.u32()?,
        in_flight_max: fields.u32()?,
        ..ServerInfo::default()
    };
    let (node_id_len, version_len) = (fields.u16()?, fields.u16()?);
    info.node_id = fields.text(node_id_len.into())?;
    info.version = fields.text(version_len.into())?;
    fields.end()?;
    Some(info)
}

pub(crate) fn session(body: Vec<u8>) -> Option<u64> {
    let mut fields = Fields(&body);
    let born = fields.u64()?;
    fields.end()?;
    Some(born)
}

pub(crate) fn ping(body: Vec<u8>) -> Option<()> {
    (body.len() >= 8).then_some(())
}

pub(crate) fn info(mut body: Vec<u8>) -> Option<String> {
    let text = (body.len() >= 8).then(|| body.split_off(8))?;
    String::from_utf8(text).ok()
}

pub(crate) fn item(mut body: Vec<u8>) -> Option<Option<Item>> {
    let mut fields = Fields(&body);
    let head = read_item_head(&mut fields)?;
    match head.state {
        ABSENT => fields.end().map(|()| None),
        PRESENT if fields.0.len() == head.value_len as usize => {
            // The value stays where it was read, not copied once more.
            body.drain(..ITEM_HEADER_LEN);
            Some(Some(Item { value: body, version: head.version, expires: head.expires }))
        }
        _ => None,
    }
}

pub(crate) fn items(body: Vec<u8>) -> Option<Vec<Option<Item>>> {
    let mut fields = Fields(&body);
    fields.u64()?;
    let count = fields.u32()?;
    fields.u32()?;
    let items: Option<Vec<_>> = (0..count).map(|_| read_item(&mut fields)).collect();
    fields.end()?;
    items
}

pub(crate) fn outcome(body: Vec<u8>) -> Option<Outcome> {
    let mut fields = Fields(&body);
    let outcome = read_outcome(&mut fields)?;
    fields.end()?;
    Some(outcome)
}

pub(crate) fn batch_outcome(body: Vec<u8>) -> Option<BatchOutcome> {
    let mut fields = Fields(&body);
    let version = fields.u64()?;
    let count = fields.u32()?;
    fields.u32()?;
    let outcomes: Option<Vec<_>> = (0..count).map(|_| read_outcome(&mut fields)).collect();
    fields.end()?;
    Some(BatchOutcome { version, outcomes: outcomes? })
}

pub(crate) fn page(body: Vec<u8>) -> Option<Page> {
    let mut fields = Fields(&body);
    fields.u64()?;
    let (count, cursor_len) = (fields.u32()?, fields.u32()?);
    let cursor = fields.take(cursor_len as usize)?.to_owned();
    let entries: Option<Vec<_>> = (0..count).map(|_| read_entry(&mut fields)).collect();
    fields.end()?;
    Some(Page { cursor, entries: entries? })
}

pub(crate) fn changes(body: Vec<u8>) -> Option<Changes> {
    let mut fields = Fields(&body);
    let (version, newest, _now_ms) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (index, term, part) = (fields.u64()?, fields.u64()?, fields.u32()?);
    fields.u32()?;
    let count = fields.u32()?;
    fields.u32()?;
    let changes: Option<Vec<_>> = (0..count).map(|_| read_change(&mut fields)).collect();
    fields.end()?;
    let position = Position { index, term, part };
    Some(Changes { changes: changes?, position, newest, version })
}

pub(crate) fn rows(body: Vec<u8>) -> Option<Rows> {
    let mut fields = Fields(&body);
    fields.u64()?;
    let newest = fields.u64()?;
    let (count, next_len) = (fields.u32()?, fields.u32()?);
    let next = fields.take(next_len as usize)?.to_owned();
    let rows: Option<Vec<_>> = (0..count).map(|_| read_change(&mut fields)).collect();
    fields.end()?;
    Some(Rows { rows: rows?, next, newest })
}

/// An error, and whether what was asked for may have been done.
pub(crate) fn refusal(body: &[u8]) -> Option<(Refusal, bool)> {
    let mut fields = Fields(body);
    let (version, code) = (fields.u64()?, fields.u16()?);
    let (class, retry) = (fields.u8()?, fields.u8()?);
    let after = fields.u32()?;
    let index = fields.u32()?;
    let (text_len, address_len) = (fields.u16()?, fields.u16()?);
    let refusal = Refusal {
        code: Code::of(code),
        retry: match retry {
            1 => Retry::Now,
            2 => Retry::After(Duration::from_millis(after.into())),
            3 => Retry::Elsewhere,
            _ => Retry::Never,
        },
        index: (index != NO_INDEX).then_some(index),
        version,
        text: fields.text(text_len.into())?,
        address: fields.text(address_len.into())?,
    };
    fields.end()?;
    // Any class but the one that rules it out.
    Some((refusal, class != 0))
}

struct ItemHead {
    version: u64,
    state: u8,
    value_len: u32,
    expires: Option<SystemTime>,
}

fn read_item_head(fields: &mut Fields<'_>) -> Option<ItemHead> {
    let (version, state) = (fields.u64()?, fields.u8()?);
    fields.take(3)?;
    let (value_len, expiry_ms) = (fields.u32()?, fields.u64()?);
    Some(ItemHead { version, state, value_len, expires: expires(expiry_ms)? })
}

fn read_item(fields: &mut Fields<'_>) -> Option<Option<Item>> {
    let ItemHead { version, state, value_len, expires } = read_item_head(fields)?;
    match state {
        ABSENT => Some(None),
        PRESENT => {
            let value = fields.take(value_len as usize)?.to_owned();
            Some(Some(Item { value, version, expires }))
        }
        _ => None,
    }
}

fn read_entry(fields: &mut Fields<'_>) -> Option<Entry> {
    let key_len = fields.u32()?;
    fields.u32()?;
    let key = fields.take(key_len as usize)?.to_owned();
    let ItemHead { version, state, value_len, expires } = read_item_head(fields)?;
    let value = match state {
        PRESENT => Some(fields.take(value_len as usize)?.to_owned()),
        LEFT_OUT => None,
        _ => return None,
    };
    Some(Entry { key, value, value_len, version, expires })
}

fn read_change(fields: &mut Fields<'_>) -> Option<Changed> {
    let (kind, db) = (fields.u8()?, fields.u8()?);
    fields.take(2)?;
    let (key_len, value_len) = (fields.u32()?, fields.u32()?);
    fields.take(4)?;
    let (version, expiry_ms) = (fields.u64()?, fields.u64()?);
    let key = fields.take(key_len as usize)?.to_owned();
    let value = fields.take(value_len as usize)?.to_owned();
    let done = match kind {
        1 => Done::Set { value, expires: expires(expiry_ms)? },
        2 => Done::Deleted,
        3 => Done::Cleared,
        _ => return None,
    };
    Some(Changed { version, db, key, done })
}

fn expires(expiry_ms: u64) -> Option<Option<SystemTime>> {
    match expiry_ms {
        0 => Some(None),
        ms => UNIX_EPOCH.checked_add(Duration::from_millis(ms)).map(Some),
    }
}

fn read_outcome(fields: &mut Fields<'_>) -> Option<Outcome> {
    let version = fields.u64()?;
    let change = match fields.u8()? {
        0 => Change::Nothing,
        1 => Change::Created,
        2 => Change::Replaced,
        3 => Change::Deleted,
        _ => return None,
    };
    fields.take(7)?;
    Some(Outcome { version, change })
}
