//! Requests: bodies to values and back.
//!
//! Decoding checks a body once, whole; what it holds is then borrowed from it, also the ops of a
//! batch and the keys of a multi-get, which are read again where they stand.

use super::changes::{Behind, RowsFrom};
use super::{Code, OPERAND_LEN_MAX, Opcode, PING_LEN_MAX};
use crate::codec::{Fields, put_u16, put_u32};
use crate::command::DB_COUNT;
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};

/// Longest text of a `cluster` request, bytes.
const CLUSTER_LEN_MAX: usize = 4096;

/// A request, its header aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Begins a connection.
    Hello(Hello<'a>),
    /// Gives a password.
    Auth {
        /// Empty: "default".
        user: &'a [u8],
        /// In the clear.
        password: &'a [u8],
    },
    /// Asks for the same bytes.
    Ping(&'a [u8]),
    /// Asks for a section of the node's figures; empty: the default ones.
    Info(&'a str),
    /// Asks which nodes there are, or changes it: JSON, [`crate::cluster::Action`].
    Cluster(&'a str),
    /// Says in which session writes are done once from here on.
    Session {
        /// Random.
        id: [u8; 16],
        /// When it began, as the first reply said; 0: now.
        born: u64,
    },
    /// Asks for a key.
    Get {
        /// Which database.
        db: u8,
        /// Which key.
        key: &'a [u8],
    },
    /// A set or a delete, as its kind says.
    Write(Op<'a>),
    /// Several of them, all or none.
    Batch(Ops<'a>),
    /// Asks for several keys.
    MultiGet(Keys<'a>),
    /// Asks for a page of the keys.
    Scan(Scan<'a>),
    /// Asks what was done in a partition.
    Changes(Behind),
    /// Asks for a page of a partition's rows.
    Copy(RowsFrom<'a>),
}

/// What a client says first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Which versions it speaks.
    pub versions: &'a [u8],
    /// What it calls itself; may be empty.
    pub name: &'a [u8],
    /// Empty: "default".
    pub user: &'a [u8],
    /// Empty: none.
    pub password: &'a [u8],
}

/// When an op may be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Always.
    #[default]
    None,
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key holds this.
    Equals(&'a [u8]),
    /// The key's version is this; 0: it is absent.
    Version(u64),
}

/// How long what is set stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// For good.
    #[default]
    None,
    /// So many milliseconds from now.
    InMs(u64),
    /// Until this unix millisecond.
    AtMs(u64),
    /// As long as what was there would have.
    Keep,
}

/// A set or a delete of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Op<'a> {
    /// Which database.
    pub db: u8,
    /// Which key.
    pub key: &'a [u8],
    /// The new value; none: the key is deleted.
    pub value: Option<&'a [u8]>,
    /// How long it stays; nothing for a delete.
    pub ttl: Ttl,
    /// When it may be done.
    pub condition: Condition<'a>,
}

const KIND_SET: u8 = 1;
const KIND_DELETE: u8 = 2;

impl<'a> Op<'a> {
    /// Reads the body of a long set: `body` is without the value, which came apart.
    ///
    /// # Errors
    /// As [`Request::decode`].
    pub fn decode_long(body: &'a [u8], value: &'a [u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let op = Self::read(&mut fields, Some(value))?;
        fields.end().ok_or(Code::BadRequest)?;
        if op.value.is_some() { Ok(op) } else { Err(Code::BadRequest) }
    }

    fn decode(fields: &mut Fields<'a>) -> Result<Self, Code> {
        Self::read(fields, None)
    }

    /// `apart`: the value, if it is not among the fields.
    fn read(fields: &mut Fields<'a>, apart: Option<&'a [u8]>) -> Result<Self, Code> {
        let head = fields.take(4).ok_or(Code::BadRequest)?;
        let [kind, db, condition, ttl] = *head else { return Err(Code::BadRequest) };
        let mut len = || fields.u32().map(|len| len as usize).ok_or(Code::BadRequest);
        let (key_len, value_len, operand_len) = (len()?, len()?, len()?);
        let long = value_len > VALUE_LEN_MAX || operand_len > OPERAND_LEN_MAX;
        if key_len > KEY_LEN_MAX || long {
            return Err(Code::TooLarge);
        }
        let numbers = (fields.u64(), fields.u64());
        let (Some(ttl_ms), Some(version)) = numbers else { return Err(Code::BadRequest) };
        let mut bytes = |len| fields.take(len).ok_or(Code::BadRequest);
        let key = bytes(key_len)?;
        let value = match apart {
            Some(value) if value.len() == value_len => value,
            Some(_) => return Err(Code::BadRequest),
            None => bytes(value_len)?,
        };
        let operand = bytes(operand_len)?;
        let ttl = ttl_of(ttl, ttl_ms)?;
        let condition = condition_of(condition, operand, version)?;
        let value = match kind {
            KIND_SET => Some(value),
            KIND_DELETE if value.is_empty() && ttl == Ttl::None => None,
            _ => return Err(Code::BadRequest),
        };
        Ok(Self { db: checked(db)?, key, value, ttl, condition })
    }

    /// Appends the op.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = if self.value.is_some() { KIND_SET } else { KIND_DELETE };
        let (ttl, ttl_ms) = match self.ttl {
            Ttl::None => (0, 0),
            Ttl::InMs(ms) => (1, ms),
            Ttl::AtMs(ms) => (2, ms),
            Ttl::Keep => (3, 0),
        };
        let (condition, operand, version) = match self.condition {
            Condition::None => (0, [].as_slice(), 0),
            Condition::Absent => (1, [].as_slice(), 0),
            Condition::Present => (2, [].as_slice(), 0),
            Condition::Equals(operand) => (3, operand, 0),
            Condition::Version(version) => (4, [].as_slice(), version),
        };
        let value = self.value.unwrap_or_default();
        out.extend_from_slice(&[kind, self.db, condition, ttl]);
        put_u32(out, self.key.len());
        put_u32(out, value.len());
        put_u32(out, operand.len());
        out.extend_from_slice(&ttl_ms.to_le_bytes());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(value);
        out.extend_from_slice(operand);
    }
}

/// Largest `ttl_ms`: far from where sums overflow.
const TTL_MS_MAX: u64 = 1 << 53;

fn ttl_of(ttl: u8, ms: u64) -> Result<Ttl, Code> {
    match (ttl, ms) {
        (0, 0) => Ok(Ttl::None),
        (1, 1..=TTL_MS_MAX) => Ok(Ttl::InMs(ms)),
        (2, ..=TTL_MS_MAX) => Ok(Ttl::AtMs(ms)),
        (3, 0) => Ok(Ttl::Keep),
        _ => Err(Code::BadRequest),
    }
}

fn condition_of(condition: u8, operand: &[u8], version: u64) -> Result<Condition<'_>, Code> {
    match (condition, operand, version) {
        (0, [], 0) => Ok(Condition::None),
        (1, [], 0) => Ok(Condition::Absent),
        (2, [], 0) => Ok(Condition::Present),
        (3, operand, 0) => Ok(Condition::Equals(operand)),
        (4, [], version) => Ok(Condition::Version(version)),
        _ => Err(Code::BadRequest),
    }
}

fn checked(db: u8) -> Result<u8, Code> {
    if db < DB_COUNT { Ok(db) } else { Err(Code::BadRequest) }
}

/// The ops of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ops<'a> {
    count: usize,
    /// Checked.
    bytes: &'a [u8],
}

impl<'a> Ops<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let count = fields.u32().ok_or(Code::BadRequest)?;
        fields.zero(4).ok_or(Code::BadRequest)?;
        let bytes = fields.0;
        for _ in 0..count {
            Op::decode(&mut fields)?;
        }
        fields.end().ok_or(Code::BadRequest)?;
        Ok(Self { count: count as usize, bytes })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all of them, encoded.
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Op<'a>> + Clone + use<'a> {
        let mut fields = Fields(self.bytes);
        (0..self.count).map(move |_| Op::decode(&mut fields).expect("checked when decoded"))
    }

    /// Appends the body of a batch of these.
    pub fn encode(ops: &[Op<'_>], out: &mut Vec<u8>) {
        put_u32(out, ops.len());
        put_u32(out, 0);
        ops.iter().for_each(|op| op.encode(out));
    }
}

/// The keys of a multi-get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    /// Which database.
    pub db: u8,
    count: usize,
    /// Checked.
    bytes: &'a [u8],
}

impl<'a> Keys<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let (db, count) = db_and_u32(&mut fields)?;
        let bytes = fields.0;
        for _ in 0..count {
            key(&mut fields)?;
        }
        fields.end().ok_or(Code::BadRequest)?;
        Ok(Self { db, count: count as usize, bytes })
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
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = Fields(self.bytes);
        (0..self.count).map(move |_| key(&mut fields).expect("checked when decoded"))
    }

    /// Appends the body of a multi-get of these.
    pub fn encode(db: u8, keys: &[&[u8]], out: &mut Vec<u8>) {
        out.extend_from_slice(&[db, 0, 0, 0]);
        put_u32(out, keys.len());
        for key in keys {
            put_u32(out, key.len());
            out.extend_from_slice(key);
        }
    }
}

fn db_and_u32(fields: &mut Fields<'_>) -> Result<(u8, u32), Code> {
    let db = fields.u8().ok_or(Code::BadRequest)?;
    fields.zero(3).ok_or(Code::BadRequest)?;
    Ok((checked(db)?, fields.u32().ok_or(Code::BadRequest)?))
}

fn key<'a>(fields: &mut Fields<'a>) -> Result<&'a [u8], Code> {
    let len = fields.u32().ok_or(Code::BadRequest)? as usize;
    if len > KEY_LEN_MAX {
        return Err(Code::TooLarge);
    }
    fields.take(len).ok_or(Code::BadRequest)
}

/// Which page of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Which database.
    pub db: u8,
    /// With values.
    pub values: bool,
    /// The pattern is a glob.
    pub glob: bool,
    /// Most entries; 0: the server's choice.
    pub count: u32,
    /// Of the page before; empty: the first.
    pub cursor: &'a [u8],
    /// A prefix or a glob; empty: any key.
    pub pattern: &'a [u8],
}

const SCAN_VALUES: u8 = 1;
const SCAN_GLOB: u8 = 2;

impl<'a> Scan<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Code> {
        let mut fields = Fields(body);
        let scan = Self::read(&mut fields).ok_or(Code::BadRequest)?;
        fields.end().ok_or(Code::BadRequest)?;
        checked(scan.db)?;
        if scan.pattern.len() > KEY_LEN_MAX {
            return Err(Code::TooLarge);
        }
        Ok(scan)
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let (db, flags) = (fields.u8()?, fields.u8()?);
        fields.zero(2)?;
        let (count, cursor_len, pattern_len) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let cursor = fields.take(cursor_len as usize)?;
        let pattern = fields.take(pattern_len as usize)?;
        let (values, glob) = (flags & SCAN_VALUES != 0, flags & SCAN_GLOB != 0);
        let known = flags & !(SCAN_VALUES | SCAN_GLOB) == 0;
        known.then_some(Self { db, values, glob, count, cursor, pattern })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let values = if self.values { SCAN_VALUES } else { 0 };
        let glob = if self.glob { SCAN_GLOB } else { 0 };
        out.extend_from_slice(&[self.db, values | glob, 0, 0]);
        out.extend_from_slice(&self.count.to_le_bytes());
        put_u32(out, self.cursor.len());
        put_u32(out, self.pattern.len());
        out.extend_from_slice(self.cursor);
        out.extend_from_slice(self.pattern);
    }
}

impl<'a> Hello<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let count = fields.u8()?;
        fields.zero(1)?;
        let lens = (fields.u16()?, fields.u16()?, fields.u16()?);
        let versions = fields.take(count.into())?;
        let name = fields.take(lens.0.into())?;
        let user = fields.take(lens.1.into())?;
        let password = fields.take(lens.2.into())?;
        fields.end()?;
        Some(Self { versions, name, user, password })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.versions.len()).expect("there are few versions");
        out.extend_from_slice(&[count, 0]);
        put_u16(out, self.name.len());
        put_u16(out, self.user.len());
        put_u16(out, self.password.len());
        for part in [self.versions, self.name, self.user, self.password] {
            out.extend_from_slice(part);
        }
    }
}

fn auth(body: &[u8]) -> Option<Request<'_>> {
    let mut fields = Fields(body);
    let (user_len, password_len) = (fields.u16()?, fields.u16()?);
    let (user, password) = (fields.take(user_len.into())?, fields.take(password_len.into())?);
    fields.end()?;
    Some(Request::Auth { user, password })
}

fn session(body: &[u8]) -> Option<Request<'_>> {
    let mut fields = Fields(body);
    let (id, born) = (*fields.take(16)?.first_chunk()?, fields.u64()?);
    fields.end()?;
    Some(Request::Session { id, born })
}

impl<'a> Request<'a> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`Code::UnknownOp`], [`Code::BadRequest`], and [`Code::TooLarge`] for keys, values and pings
    /// over their limits. How many ops, keys or entries are too many is the server's to judge.
    pub fn decode(opcode: u8, body: &'a [u8]) -> Result<Self, Code> {
        let bad = Code::BadRequest;
        match Opcode::of(opcode).ok_or(Code::UnknownOp)? {
            Opcode::Get => {
                let mut fields = Fields(body);
                let db = fields.u8().ok_or(bad)?;
                fields.zero(3).ok_or(bad)?;
                let key = key(&mut fields)?;
                fields.end().ok_or(bad)?;
                Ok(Self::Get { db: checked(db)?, key })
            }
            opcode @ (Opcode::Set | Opcode::Delete) => {
                let mut fields = Fields(body);
                let op = Op::decode(&mut fields)?;
                fields.end().ok_or(bad)?;
                let fits = op.value.is_some() == (opcode == Opcode::Set);
                fits.then_some(Self::Write(op)).ok_or(bad)
            }
            Opcode::Batch => Ops::decode(body).map(Self::Batch),
            Opcode::MultiGet => Keys::decode(body).map(Self::MultiGet),
            Opcode::Scan => Scan::decode(body).map(Self::Scan),
            Opcode::Changes => Behind::decode(body).map(Self::Changes),
            Opcode::Copy => RowsFrom::decode(body).map(Self::Copy),
            Opcode::Hello => Hello::read(body).map(Self::Hello).ok_or(bad),
            Opcode::Auth => auth(body).ok_or(bad),
            Opcode::Ping if body.len() > PING_LEN_MAX => Err(Code::TooLarge),
            Opcode::Ping => Ok(Self::Ping(body)),
            Opcode::Info => str::from_utf8(body).map(Self::Info).map_err(|_| bad),
            Opcode::Session => session(body).ok_or(bad),
            Opcode::Cluster if body.len() > CLUSTER_LEN_MAX => Err(Code::TooLarge),
            Opcode::Cluster => str::from_utf8(body).map(Self::Cluster).map_err(|_| bad),
        }
    }

    /// Which opcode it has.
    pub fn opcode(&self) -> Opcode {
        match self {
            Self::Hello(_) => Opcode::Hello,
            Self::Auth { .. } => Opcode::Auth,
            Self::Ping(_) => Opcode::Ping,
            Self::Info(_) => Opcode::Info,
            Self::Cluster(_) => Opcode::Cluster,
            Self::Session { .. } => Opcode::Session,
            Self::Get { .. } => Opcode::Get,
            Self::Write(Op { value: Some(_), .. }) => Opcode::Set,
            Self::Write(_) => Opcode::Delete,
            Self::Batch(_) => Opcode::Batch,
            Self::MultiGet(_) => Opcode::MultiGet,
            Self::Scan(_) => Opcode::Scan,
            Self::Changes(_) => Opcode::Changes,
            Self::Copy(_) => Opcode::Copy,
        }
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Auth { user, password } => {
                put_u16(out, user.len());
                put_u16(out, password.len());
                out.extend_from_slice(user);
                out.extend_from_slice(password);
            }
            Self::Ping(bytes) => out.extend_from_slice(bytes),
            Self::Info(text) | Self::Cluster(text) => out.extend_from_slice(text.as_bytes()),
            Self::Session { id, born } => {
                out.extend_from_slice(id);
                out.extend_from_slice(&born.to_le_bytes());
            }
            Self::Get { db, key } => {
                out.extend_from_slice(&[*db, 0, 0, 0]);
                put_u32(out, key.len());
                out.extend_from_slice(key);
            }
            Self::Write(op) => op.encode(out),
            Self::Batch(ops) => {
                put_u32(out, ops.count);
                put_u32(out, 0);
                out.extend_from_slice(ops.bytes);
            }
            Self::MultiGet(keys) => {
                out.extend_from_slice(&[keys.db, 0, 0, 0]);
                put_u32(out, keys.count);
                out.extend_from_slice(keys.bytes);
            }
            Self::Scan(scan) => scan.encode(out),
            Self::Changes(behind) => behind.encode(out),
            Self::Copy(page) => page.encode(out),
        }
    }
}
