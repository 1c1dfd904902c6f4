//! Replies: values to bodies and back. The server appends them piece by piece; clients and tests
//! read them whole with [`Reply::decode`].

use super::changes::{Changed, Rows};
use super::{FLAG_ERROR, Failure, Header, Opcode};
use crate::codec::{Fields, put_u16, put_u32};

/// A reply, its header aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `hello`.
    Hello(Welcome<'a>),
    /// To `auth`.
    Auth,
    /// To `ping`.
    Ping(&'a [u8]),
    /// To `info`.
    Info(&'a str),
    /// To `session`: when it began.
    Session(u64),
    /// To `get`.
    Get(Item<'a>),
    /// To `set` and `delete`.
    Write(Outcome),
    /// To `batch`.
    Batch(Outcomes<'a>),
    /// To `multi-get`.
    MultiGet(Items<'a>),
    /// To `scan`.
    Scan(Scanned<'a>),
    /// To `changes`.
    Changes(Changed<'a>),
    /// To `copy`.
    Copy(Rows<'a>),
    /// To any of them.
    Error(Failure<'a>),
}

/// What a server says first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version spoken from here on.
    pub version: u8,
    /// The client is in.
    pub authenticated: bool,
    /// A password is set.
    pub password_set: bool,
    /// Which shard serves this connection.
    pub shard: u16,
    /// How many there are.
    pub shard_count: u16,
    /// How many partitions share the slots.
    pub partition_count: u32,
    /// Longest key, bytes.
    pub key_len_max: u32,
    /// Longest value, bytes.
    pub value_len_max: u32,
    /// Longest body, bytes.
    pub body_len_max: u32,
    /// Most ops of a batch.
    pub batch_count_max: u32,
    /// Longest body of a batch, bytes.
    pub batch_len_max: u32,
    /// Most keys of a multi-get.
    pub multi_get_count_max: u32,
    /// Most entries of a scan.
    pub scan_count_max: u32,
    /// From so many unanswered requests on the server reads no more.
    pub in_flight_max: u32,
    /// Identity of the node, kept over restarts.
    pub node_id: &'a str,
    /// The server's own version.
    pub server_version: &'a str,
}

const WELCOME_AUTHENTICATED: u8 = 1;
const WELCOME_PASSWORD_SET: u8 = 2;

impl<'a> Welcome<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let authenticated = if self.authenticated { WELCOME_AUTHENTICATED } else { 0 };
        let password_set = if self.password_set { WELCOME_PASSWORD_SET } else { 0 };
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&[self.version, authenticated | password_set]);
        put_u16(out, self.shard.into());
        put_u16(out, self.shard_count.into());
        put_u16(out, 0);
        for number in self.numbers() {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_u16(out, self.node_id.len());
        put_u16(out, self.server_version.len());
        out.extend_from_slice(self.node_id.as_bytes());
        out.extend_from_slice(self.server_version.as_bytes());
    }

    fn numbers(&self) -> [u32; 9] {
        [
            self.partition_count,
            self.key_len_max,
            self.value_len_max,
            self.body_len_max,
            self.batch_count_max,
            self.batch_len_max,
            self.multi_get_count_max,
            self.scan_count_max,
            self.in_flight_max,
        ]
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        fields.zero(8)?;
        let (version, flags) = (fields.u8()?, fields.u8()?);
        let (shard, shard_count) = (fields.u16()?, fields.u16()?);
        fields.zero(2)?;
        let mut welcome = Self {
            version,
            authenticated: flags & WELCOME_AUTHENTICATED != 0,
            password_set: flags & WELCOME_PASSWORD_SET != 0,
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
            ..Self::default()
        };
        let (node_id_len, version_len) = (fields.u16()?, fields.u16()?);
        welcome.node_id = str::from_utf8(fields.take(node_id_len.into())?).ok()?;
        welcome.server_version = str::from_utf8(fields.take(version_len.into())?).ok()?;
        Some(welcome)
    }
}

const ITEM_ABSENT: u8 = 0;
const ITEM_PRESENT: u8 = 1;
const ITEM_LEFT_OUT: u8 = 2;

/// What a key holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    /// The version; 0: the key is absent.
    pub timestamp: u64,
    /// Until when, unix milliseconds; 0: for good.
    pub expiry_ms: u64,
    /// Bytes of the value.
    pub value_len: u32,
    /// The value; none: the key is absent, or its value is left out.
    pub value: Option<&'a [u8]>,
}

impl<'a> Item<'a> {
    /// A key that is there.
    pub fn present(timestamp: u64, expiry_ms: Option<u64>, value: &'a [u8]) -> Self {
        let value_len = u32::try_from(value.len()).expect("a value is bounded");
        let expiry_ms = expiry_ms.unwrap_or(0);
        Self { timestamp, expiry_ms, value_len, value: Some(value) }
    }

    /// Whether the key is there.
    pub fn is_present(&self) -> bool {
        self.timestamp != 0
    }

    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.value.unwrap_or_default());
    }

    /// Appends the item but for the value's bytes, which have to come next.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let state = match self.value {
            Some(_) => ITEM_PRESENT,
            None if self.is_present() => ITEM_LEFT_OUT,
            None => ITEM_ABSENT,
        };
        // In words, as its checksum reads them soon: the core waits for what was written otherwise.
        let words =
            [self.timestamp, u64::from(state) | u64::from(self.value_len) << 32, self.expiry_ms];
        out.extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let (timestamp, state) = (fields.u64()?, fields.u8()?);
        fields.zero(3)?;
        let (value_len, expiry_ms) = (fields.u32()?, fields.u64()?);
        let value = match state {
            ITEM_PRESENT if timestamp != 0 => Some(fields.take(value_len as usize)?),
            ITEM_LEFT_OUT if timestamp != 0 => None,
            ITEM_ABSENT if (timestamp, value_len, expiry_ms) == (0, 0, 0) => None,
            _ => return None,
        };
        Some(Self { timestamp, expiry_ms, value_len, value })
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OutcomeState {
    /// There was nothing to delete.
    #[default]
    Nothing = 0,
    /// It was absent and is there.
    Created = 1,
    /// It was there and holds something else.
    Replaced = 2,
    /// It was there and is gone.
    Deleted = 3,
}

/// What became of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The version written; 0: nothing was.
    pub timestamp: u64,
    /// What became of its key.
    pub state: OutcomeState,
}

impl Outcome {
    /// Appends the outcome.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&[self.state as u8, 0, 0, 0, 0, 0, 0, 0]);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let timestamp = fields.u64()?;
        let state = match fields.u8()? {
            0 => OutcomeState::Nothing,
            1 => OutcomeState::Created,
            2 => OutcomeState::Replaced,
            3 => OutcomeState::Deleted,
            _ => return None,
        };
        fields.zero(7)?;
        Some(Self { timestamp, state })
    }
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident of $item:ident<$life:lifetime>, $each:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            /// The newest version among them, or the last written.
            pub timestamp: u64,
            count: usize,
            /// Checked.
            bytes: &'a [u8],
        }

        impl<$life> $name<$life> {
            fn read(fields: &mut Fields<$life>) -> Option<Self> {
                let (timestamp, count) = (fields.u64()?, fields.u32()? as usize);
                fields.zero(4)?;
                let bytes = fields.0;
                for _ in 0..count {
                    $item::read(fields)?;
                }
                Some(Self { timestamp, count, bytes })
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
            pub fn iter(&self) -> impl Iterator<Item = $each> + use<$life> {
                let mut fields = Fields(self.bytes);
                (0..self.count).map(move |_| $item::read(&mut fields).expect("checked"))
            }

            /// Appends a body of these.
            pub fn encode(timestamp: u64, each: &[$each], out: &mut Vec<u8>) {
                Self::begin(timestamp, each.len(), out);
                each.iter().for_each(|one| one.encode(out));
            }

            /// Appends what stands before the first of `count`.
            pub fn begin(timestamp: u64, count: usize, out: &mut Vec<u8>) {
                out.extend_from_slice(&timestamp.to_le_bytes());
                put_u32(out, count);
                put_u32(out, 0);
            }
        }
    };
}

list! {
    /// What became of a batch.
    Outcomes of Outcome<'a>, Outcome
}
list! {
    /// What several keys hold.
    Items of Item<'a>, Item<'a>
}

/// A page of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// The newest version among them.
    pub timestamp: u64,
    /// For the next page; empty: that was all.
    pub cursor: &'a [u8],
    /// The page.
    pub entries: Entries<'a>,
}

/// The entries of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    count: usize,
    /// Checked.
    bytes: &'a [u8],
}

/// A key of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// What it holds.
    pub item: Item<'a>,
}

impl<'a> Entry<'a> {
    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.key.len());
        put_u32(out, 0);
        out.extend_from_slice(self.key);
        self.item.encode(out);
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let key_len = fields.u32()?;
        fields.zero(4)?;
        let key = fields.take(key_len as usize)?;
        Some(Self { key, item: Item::read(fields)? })
    }
}

impl<'a> Entries<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut fields = Fields(self.bytes);
        (0..self.count).map(move |_| Entry::read(&mut fields).expect("checked"))
    }
}

impl<'a> Scanned<'a> {
    /// Appends a page: `count` entries, encoded.
    pub fn encode(timestamp: u64, cursor: &[u8], count: usize, entries: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&timestamp.to_le_bytes());
        put_u32(out, count);
        put_u32(out, cursor.len());
        out.extend_from_slice(cursor);
        out.extend_from_slice(entries);
    }

    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        let (timestamp, count) = (fields.u64()?, fields.u32()? as usize);
        let cursor_len = fields.u32()?;
        let cursor = fields.take(cursor_len as usize)?;
        let bytes = fields.0;
        for _ in 0..count {
            Entry::read(fields)?;
        }
        Some(Self { timestamp, cursor, entries: Entries { count, bytes } })
    }
}

impl<'a> Reply<'a> {
    /// Reads the body of a reply. `None`: it is not one, or to an opcode that is unknown here.
    pub fn decode(header: &Header, body: &'a [u8]) -> Option<Self> {
        if header.flags & FLAG_ERROR != 0 {
            return Failure::decode(body).map(Self::Error);
        }
        let mut fields = Fields(body);
        let reply = match Opcode::of(header.opcode)? {
            Opcode::Hello => Self::Hello(Welcome::read(&mut fields)?),
            Opcode::Session => Self::Session(fields.u64()?),
            Opcode::Get => Self::Get(Item::read(&mut fields)?),
            Opcode::Set | Opcode::Delete => Self::Write(Outcome::read(&mut fields)?),
            Opcode::Batch => Self::Batch(Outcomes::read(&mut fields)?),
            Opcode::MultiGet => Self::MultiGet(Items::read(&mut fields)?),
            Opcode::Scan => Self::Scan(Scanned::read(&mut fields)?),
            Opcode::Changes => Self::Changes(Changed::read(&mut fields)?),
            Opcode::Copy => Self::Copy(Rows::read(&mut fields)?),
            plain @ (Opcode::Auth | Opcode::Ping | Opcode::Info | Opcode::Cluster) => {
                fields.zero(8)?;
                let rest = std::mem::take(&mut fields.0);
                match plain {
                    Opcode::Auth => rest.is_empty().then_some(Self::Auth)?,
                    Opcode::Ping => Self::Ping(rest),
                    _ => Self::Info(str::from_utf8(rest).ok()?),
                }
            }
        };
        fields.end()?;
        Some(reply)
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(welcome) => welcome.encode(out),
            Self::Auth => out.extend_from_slice(&[0; 8]),
            Self::Session(born) => out.extend_from_slice(&born.to_le_bytes()),
            Self::Ping(bytes) => {
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(bytes);
            }
            Self::Info(text) => {
                out.extend_from_slice(&[0; 8]);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Get(item) => item.encode(out),
            Self::Write(outcome) => outcome.encode(out),
            Self::Batch(outcomes) => {
                Outcomes::begin(outcomes.timestamp, outcomes.count, out);
                out.extend_from_slice(outcomes.bytes);
            }
            Self::MultiGet(items) => {
                Items::begin(items.timestamp, items.count, out);
                out.extend_from_slice(items.bytes);
            }
            Self::Scan(Scanned { timestamp, cursor, entries }) => {
                Scanned::encode(*timestamp, cursor, entries.count, entries.bytes, out);
            }
            Self::Changes(changed) => changed.encode(out),
            Self::Copy(rows) => rows.encode(out),
            Self::Error(failure) => failure.encode(out),
        }
    }
}
