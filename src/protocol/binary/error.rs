//! Why a request was not done, or may not have been.

use super::NO_INDEX;
use crate::codec::{Fields, put_u16};

/// Whether what was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// It was not and will not be.
    NotDone = 0,
    /// It may have been, or may yet be.
    Unknown = 1,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not as it is: it would fail again.
    Never,
    /// At once, on a new connection if this one is closed.
    Now,
    /// After so many milliseconds.
    AfterMs(u32),
    /// At another node, or at this one when it is back.
    Elsewhere,
}

impl Retry {
    fn number(self) -> u8 {
        match self {
            Retry::Never => 0,
            Retry::Now => 1,
            Retry::AfterMs(_) => 2,
            Retry::Elsewhere => 3,
        }
    }

    fn of(number: u8, after_ms: u32) -> Option<Self> {
        let retry = match number {
            0 => Retry::Never,
            1 => Retry::Now,
            2 => return Some(Retry::AfterMs(after_ms)),
            3 => Retry::Elsewhere,
            _ => return None,
        };
        (after_ms == 0).then_some(retry)
    }
}

macro_rules! codes {
    (
        $($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $class:ident,
            $retry:expr;)*
    ) => {
        /// What went wrong. Numbers are never given twice and never change; a client takes one
        /// that it does not know by its class and its retry. The doc of each says what a server
        /// sends along.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether it was done, unless the error says otherwise.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// When to try again, unless the error says otherwise.
            pub fn retry(self) -> Retry {
                match self { $(Self::$name => $retry,)* }
            }
        }
    };
}

codes! {
    /// 1, not done, never: the body is not that of the opcode, or a value in it is out of range.
    BadRequest = 1, "bad_request", NotDone, Retry::Never;
    /// 2, not done, never: none of the offered versions, or the header's. The connection closes.
    UnsupportedVersion = 2, "unsupported_version", NotDone, Retry::Never;
    /// 3, not done, never: this server has no such opcode.
    UnknownOp = 3, "unknown_op", NotDone, Retry::Never;
    /// 4, not done, never: over a limit of the hello's reply. A body over it closes the connection.
    TooLarge = 4, "too_large", NotDone, Retry::Never;
    /// 5, not done, never: the stream does not begin with the magic. The connection closes.
    BadMagic = 5, "bad_magic", NotDone, Retry::Never;
    /// 6, not done, now: a checksum is wrong: bytes were damaged. The connection closes.
    BadChecksum = 6, "bad_checksum", NotDone, Retry::Now;
    /// 7, not done, never: `hello` comes first, once.
    HelloRequired = 7, "hello_required", NotDone, Retry::Never;
    /// 16, not done, never: a password is set and none was given yet.
    AuthRequired = 16, "auth_required", NotDone, Retry::Never;
    /// 17, not done, never: wrong user or password. The connection closes.
    AuthFailed = 17, "auth_failed", NotDone, Retry::Never;
    /// 32, not done, never: the condition of op `index` does not hold. Timestamp: the version.
    ConditionFailed = 32, "condition_failed", NotDone, Retry::Never;
    /// 33, not done, never: the keys of a batch are of several partitions.
    CrossPartition = 33, "cross_partition", NotDone, Retry::Never;
    /// 34, not done, never: the key holds what the operation is not for.
    WrongType = 34, "wrong_type", NotDone, Retry::Never;
    /// 35, not done, never: the cluster can not be changed like this; the text says why.
    ClusterRefused = 35, "cluster_refused", NotDone, Retry::Never;
    /// 48, not done, elsewhere: another node has the slot; `address` says which.
    Moved = 48, "moved", NotDone, Retry::Elsewhere;
    /// 49, not done, after ms: more work than the server takes.
    Overloaded = 49, "overloaded", NotDone, Retry::AfterMs(100);
    /// 50, not done, elsewhere: the node stops.
    ShuttingDown = 50, "shutting_down", NotDone, Retry::Elsewhere;
    /// 51, not done, after ms: nobody leads the partition at this moment.
    NoLeader = 51, "no_leader", NotDone, Retry::AfterMs(100);
    /// 52, not done, elsewhere: it might be old, but what this node has is older than that, and the
    /// partition's leader can not be reached.
    TooStale = 52, "too_stale", NotDone, Retry::Elsewhere;
    /// 64, not done, after ms: the memory budget is used up; reads and deletes go on.
    OutOfMemory = 64, "out_of_memory", NotDone, Retry::AfterMs(1000);
    /// 65, not done, after ms: the log can not grow; reads go on.
    DiskFull = 65, "disk_full", NotDone, Retry::AfterMs(1000);
    /// 66, unknown, elsewhere: the log failed while the write was on its way to the disk.
    LogFailed = 66, "log_failed", Unknown, Retry::Elsewhere;
    /// 67, not done, elsewhere: the log failed before; the shard takes no writes. Never: the
    /// cluster is a standby.
    ReadOnly = 67, "read_only", NotDone, Retry::Elsewhere;
    /// 68, unknown, now: the partition's leader changed before a majority had the write.
    LeaderChanged = 68, "leader_changed", Unknown, Retry::Now;
    /// 69, unknown, never: this attempt was not done, but what is kept of the session does not
    /// reach back far enough to tell whether one before was. Timestamp: a new one is born later. Of
    /// `changes`, not done: the log does not reach back to that position, or never had it.
    TooOld = 69, "too_old", Unknown, Retry::Never;
    /// 80, as the error's class says, now: the deadline passed.
    DeadlineExceeded = 80, "deadline_exceeded", NotDone, Retry::Now;
    /// 96, unknown, never: the server met what it takes to be impossible.
    Internal = 96, "internal", Unknown, Retry::Never;
}

impl Code {
    /// Of its number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as u16 == number)
    }
}

/// The body of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The key's version, for [`Code::ConditionFailed`]; for [`Code::TooOld`], when a session is
    /// too old; else 0.
    pub timestamp: u64,
    /// A [`Code`], or one of a later server.
    pub code: u16,
    /// Whether it was done.
    pub class: Class,
    /// When to try again.
    pub retry: Retry,
    /// Which op or key; [`NO_INDEX`]: none in particular.
    pub index: u32,
    /// One line for people.
    pub text: &'a str,
    /// Who to ask, for [`Code::Moved`]; else empty.
    pub address: &'a str,
}

impl<'a> Failure<'a> {
    /// An error with what its code always says.
    pub fn new(code: Code, text: &'a str) -> Self {
        Self {
            timestamp: 0,
            code: code as u16,
            class: code.class(),
            retry: code.retry(),
            index: NO_INDEX,
            text,
            address: "",
        }
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let after_ms = if let Retry::AfterMs(ms) = self.retry { ms } else { 0 };
        out.extend_from_slice(&self.timestamp.to_le_bytes());
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&[self.class as u8, self.retry.number()]);
        out.extend_from_slice(&after_ms.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        put_u16(out, self.text.len());
        put_u16(out, self.address.len());
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(self.address.as_bytes());
    }

    /// Reads a body.
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let (timestamp, code) = (fields.u64()?, fields.u16()?);
        let class = match fields.u8()? {
            0 => Class::NotDone,
            1 => Class::Unknown,
            _ => return None,
        };
        let retry = fields.u8()?;
        let retry = Retry::of(retry, fields.u32()?)?;
        let index = fields.u32()?;
        let (text_len, address_len) = (fields.u16()?, fields.u16()?);
        let text = str::from_utf8(fields.take(text_len.into())?).ok()?;
        let address = str::from_utf8(fields.take(address_len.into())?).ok()?;
        fields.end()?;
        Some(Self { timestamp, code, class, retry, index, text, address })
    }
}
