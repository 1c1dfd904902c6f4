//! Requests, encoded.

use super::{FLAG_LEADER, FLAG_ONCE, FLAG_QUORUM, FLAG_RELAXED, FLAG_STALE, put_frame};
use crate::changes::Position;
use crate::op::{Ack, Condition, Op, Ttl};

/// The opcode of a set.
pub(crate) const SET: u8 = 0x11;

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    Hello(Hello<'a>),
    Ping(&'a [u8]),
    Info(&'a str),
    Cluster(&'a str),
    Session { id: [u8; 16], born: u64 },
    Get { db: u8, key: &'a [u8] },
    Write { db: u8, op: &'a Op<'a> },
    Batch { db: u8, ops: &'a [Op<'a>] },
    MultiGet { db: u8, keys: &'a [&'a [u8]] },
    Scan { db: u8, scan: &'a crate::Scan, cursor: &'a [u8] },
    Changes { partition: u32, cluster: u128, position: Position },
    Copy { partition: u32, cluster: u128, from: &'a [u8] },
}

/// What a client wants of answers to requests on keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    /// Reads may be answered with what is old.
    pub stale: bool,
    /// What answers wait for; none: as the server is set.
    pub ack: Option<Ack>,
}

impl Wishes {
    fn flags(self, request: &Request<'_>) -> u8 {
        let stale = match request {
            Request::Get { .. } | Request::MultiGet { .. } if self.stale => FLAG_STALE,
            Request::Get { .. } | Request::MultiGet { .. } | Request::Scan { .. } => 0,
            Request::Write { .. } | Request::Batch { .. } => 0,
            _ => return 0,
        };
        stale
            | match self.ack {
                None => 0,
                Some(Ack::Quorum) => FLAG_QUORUM,
                Some(Ack::Leader) => FLAG_LEADER,
                Some(Ack::Relaxed) => FLAG_RELAXED,
            }
    }
}

/// A request, its number if it is a write that is to be done once, and what is wanted of its
/// answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub request: Request<'a>,
    pub once: Option<u64>,
    pub wishes: Wishes,
}

impl Asked<'_> {
    /// Appends its frame. `id`: of what has no number; `deadline_ms` 0: none.
    pub fn put(&self, id: u64, deadline_ms: u32, out: &mut Vec<u8>) {
        let once = if self.once.is_some() { FLAG_ONCE } else { 0 };
        let flags = once | self.wishes.flags(&self.request);
        let opcode = self.request.opcode();
        put_frame(out, (opcode, flags), id, deadline_ms, |out| self.request.put_body(out));
    }
}

impl<'a> From<Request<'a>> for Asked<'a> {
    fn from(request: Request<'a>) -> Self {
        Self { request, once: None, wishes: Wishes::default() }
    }
}

/// What a client says first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hello<'a> {
    pub versions: &'a [u8],
    pub name: &'a [u8],
    pub user: &'a [u8],
    pub password: &'a [u8],
}

impl Request<'_> {
    pub fn opcode(&self) -> u8 {
        match self {
            Self::Hello(_) => 0x01,
            Self::Ping(_) => 0x03,
            Self::Info(_) => 0x04,
            Self::Cluster(_) => 0x05,
            Self::Session { .. } => 0x06,
            Self::Get { .. } => 0x10,
            Self::Write { op: Op { value: Some(_), .. }, .. } => SET,
            Self::Write { .. } => 0x12,
            Self::Batch { .. } => 0x13,
            Self::MultiGet { .. } => 0x14,
            Self::Scan { .. } => 0x15,
            Self::Changes { .. } => 0x16,
            Self::Copy { .. } => 0x17,
        }
    }

    /// Whether it changes anything.
    pub fn writes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Batch { .. } | Self::Cluster(_))
    }

    /// Whether the server can see to it that it is done once.
    pub fn may_be_once(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Batch { .. })
    }

    /// Bytes of its body.
    pub fn body_len(&self) -> u64 {
        let len = match self {
            Self::Hello(hello) => {
                8 + hello.versions.len()
                    + hello.name.len()
                    + hello.user.len()
                    + hello.password.len()
            }
            Self::Ping(bytes) => bytes.len(),
            Self::Info(text) | Self::Cluster(text) => text.len(),
            Self::Session { .. } => 24,
            Self::Get { key, .. } => 8 + key.len(),
            Self::Write { op, .. } => op_len(op),
            Self::Batch { ops, .. } => 8 + ops.iter().map(op_len).sum::<usize>(),
            Self::MultiGet { keys, .. } => 8 + keys.iter().map(|key| 4 + key.len()).sum::<usize>(),
            Self::Scan { scan, cursor, .. } => 16 + cursor.len() + scan.pattern.len(),
            Self::Changes { .. } => 48,
            Self::Copy { from, .. } => 24 + from.len(),
        };
        len as u64
    }

    /// Appends its frame. `deadline_ms` 0: none.
    pub fn put(&self, id: u64, deadline_ms: u32, out: &mut Vec<u8>) {
        Asked::from(*self).put(id, deadline_ms, out);
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => put_hello(hello, out),
            Self::Ping(bytes) => out.extend_from_slice(bytes),
            Self::Info(text) | Self::Cluster(text) => out.extend_from_slice(text.as_bytes()),
            Self::Session { id, born } => {
                out.extend_from_slice(id);
                out.extend_from_slice(&born.to_le_bytes());
            }
            Self::Get { db, key } => {
                out.extend_from_slice(&[*db, 0, 0, 0]);
                put_bytes(key, out);
            }
            Self::Write { db, op } => put_op(*db, op, out),
            Self::Batch { db, ops } => {
                put_len(ops.len(), out);
                put_len(0, out);
                ops.iter().for_each(|op| put_op(*db, op, out));
            }
            Self::MultiGet { db, keys } => {
                out.extend_from_slice(&[*db, 0, 0, 0]);
                put_len(keys.len(), out);
                keys.iter().for_each(|key| put_bytes(key, out));
            }
            Self::Scan { db, scan, cursor } => {
                let flags = u8::from(scan.values) | u8::from(scan.glob) << 1;
                out.extend_from_slice(&[*db, flags, 0, 0]);
                out.extend_from_slice(&scan.page_len.to_le_bytes());
                put_len(cursor.len(), out);
                put_len(scan.pattern.len(), out);
                out.extend_from_slice(cursor);
                out.extend_from_slice(&scan.pattern);
            }
            Self::Changes { partition, cluster, position } => {
                out.extend_from_slice(&partition.to_le_bytes());
                put_len(0, out);
                out.extend_from_slice(&cluster.to_le_bytes());
                out.extend_from_slice(&position.index.to_le_bytes());
                out.extend_from_slice(&position.term.to_le_bytes());
                out.extend_from_slice(&position.part.to_le_bytes());
                put_len(0, out);
            }
            Self::Copy { partition, cluster, from } => {
                out.extend_from_slice(&partition.to_le_bytes());
                put_len(from.len(), out);
                out.extend_from_slice(&cluster.to_le_bytes());
                out.extend_from_slice(from);
            }
        }
    }
}

fn put_hello(hello: &Hello<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[u8::try_from(hello.versions.len()).expect("a few"), 0]);
    for part in [hello.name, hello.user, hello.password] {
        let len = u16::try_from(part.len()).expect("checked against the hello's limit");
        out.extend_from_slice(&len.to_le_bytes());
    }
    for part in [hello.versions, hello.name, hello.user, hello.password] {
        out.extend_from_slice(part);
    }
}

fn op_len(op: &Op<'_>) -> usize {
    let operand = if let Condition::Equals(operand) = op.condition { operand.len() } else { 0 };
    32 + op.key.len() + op.value.map_or(0, <[u8]>::len) + operand
}

fn put_op(db: u8, op: &Op<'_>, out: &mut Vec<u8>) {
    let kind = if op.value.is_some() { 1 } else { 2 };
    let (ttl, ttl_ms) = match op.ttl {
        Ttl::None => (0, 0),
        Ttl::InMs(ms) => (1, ms),
        Ttl::AtMs(ms) => (2, ms),
        Ttl::Keep => (3, 0),
    };
    let (condition, operand, version) = match op.condition {
        Condition::None => (0, [].as_slice(), 0),
        Condition::Absent => (1, [].as_slice(), 0),
        Condition::Present => (2, [].as_slice(), 0),
        Condition::Equals(operand) => (3, operand, 0),
        Condition::Version(version) => (4, [].as_slice(), version),
    };
    let value = op.value.unwrap_or_default();
    out.extend_from_slice(&[kind, db, condition, ttl]);
    put_len(op.key.len(), out);
    put_len(value.len(), out);
    put_len(operand.len(), out);
    out.extend_from_slice(&ttl_ms.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    for part in [op.key, value, operand] {
        out.extend_from_slice(part);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    let len = u32::try_from(len).expect("the body's length was checked before");
    out.extend_from_slice(&len.to_le_bytes());
}
