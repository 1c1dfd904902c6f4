//! What went wrong, told so that a program can act on it.

use std::fmt;
use std::io;
use std::time::Duration;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request failed, and, first of all, whether it may have been done.
///
/// A read changes nothing: it fails with [`Error::NotDone`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It was not done and will not be: the server said so, or never had the whole request. Trying
    /// again can not do it twice.
    NotDone(Reason),
    /// It may have been done, or may yet be: the request had left and no answer came. Read the key,
    /// or write with a condition, before doing it again.
    Unknown(Reason),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The server answered with an error.
    Refused(Refusal),
    /// No connection could be made.
    Connect {
        /// Where to.
        address: String,
        /// What the operating system said.
        kind: io::ErrorKind,
        /// The same for people.
        text: String,
    },
    /// The connection broke.
    ConnectionLost(String),
    /// The deadline passed.
    Deadline {
        /// What was waited for.
        awaited: &'static str,
    },
    /// The server forgot the session in which an attempt may have done it.
    SessionEnded,
    /// [`Options::interrupted_by`](crate::Options::interrupted_by) said so.
    Interrupted,
    /// The request is over a limit of the server; nothing was sent.
    TooLarge {
        /// Bytes of its body.
        len: u64,
        /// Bytes the server takes.
        max: u64,
    },
    /// What came is not the protocol: another program, a newer server, or damage.
    Protocol(String),
}

/// An error of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub code: Code,
    /// When to try again, in the server's view.
    pub retry: Retry,
    /// Which op of a batch or key of a multi-get it is about, if one.
    pub index: Option<u32>,
    /// For [`Code::ConditionFailed`]: the key's version, 0 if it is absent. Else of no concern.
    pub version: u64,
    /// One line for people.
    pub text: String,
    /// For [`Code::Moved`]: `host:port` of who to ask. Else empty.
    pub address: String,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not as it is: it would fail again.
    Never,
    /// At once.
    Now,
    /// After this long.
    After(Duration),
    /// At another node, or here when the node is back.
    Elsewhere,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The protocol's error codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// One that this client does not know: go by whether it was done, and by its retry.
            Other(u16),
        }

        impl Code {
            /// Of its number on the wire.
            pub fn of(number: u16) -> Self {
                match number { $($number => Self::$name,)* other => Self::Other(other) }
            }

            /// Its number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* Self::Other(other) => other }
            }

            /// Its name in the protocol's specification.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Other(_) => "other" }
            }
        }
    };
}

codes! {
    /// The request is malformed, or a value in it is out of range.
    BadRequest = 1, "bad_request";
    /// Client and server have no version of the protocol in common.
    UnsupportedVersion = 2, "unsupported_version";
    /// The server does not know the operation.
    UnknownOp = 3, "unknown_op";
    /// Over a limit of the server.
    TooLarge = 4, "too_large";
    /// The server saw something that is not the protocol.
    BadMagic = 5, "bad_magic";
    /// Bytes were damaged on their way.
    BadChecksum = 6, "bad_checksum";
    /// The connection did not begin as it must.
    HelloRequired = 7, "hello_required";
    /// A password is set and none was given.
    AuthRequired = 16, "auth_required";
    /// Wrong user or password.
    AuthFailed = 17, "auth_failed";
    /// The condition does not hold.
    ConditionFailed = 32, "condition_failed";
    /// The keys of a batch are of several partitions: give them one `{hash tag}`.
    CrossPartition = 33, "cross_partition";
    /// The key holds what the operation is not for.
    WrongType = 34, "wrong_type";
    /// The cluster can not be changed like this.
    ClusterRefused = 35, "cluster_refused";
    /// Another node has the key.
    Moved = 48, "moved";
    /// More work than the server takes.
    Overloaded = 49, "overloaded";
    /// The node stops.
    ShuttingDown = 50, "shutting_down";
    /// Nobody leads the key's partition at this moment.
    NoLeader = 51, "no_leader";
    /// What the node has is too old, and the key's leader can not be reached.
    TooStale = 52, "too_stale";
    /// The memory budget is used up; reads and deletes go on.
    OutOfMemory = 64, "out_of_memory";
    /// The disk is full; reads go on.
    DiskFull = 65, "disk_full";
    /// The log failed while the write was on its way to the disk.
    LogFailed = 66, "log_failed";
    /// The log failed before; the shard takes no writes.
    ReadOnly = 67, "read_only";
    /// The leader of the key's partition changed before a majority had the write.
    LeaderChanged = 68, "leader_changed";
    /// The write was asked for again so late that the server does not know any more whether it was
    /// done.
    TooOld = 69, "too_old";
    /// The deadline passed at the server.
    DeadlineExceeded = 80, "deadline_exceeded";
    /// The server met what it takes to be impossible.
    Internal = 96, "internal";
}

impl Error {
    /// What happened.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::NotDone(reason) | Self::Unknown(reason) => reason,
        }
    }

    /// Whether it may have been done.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// What the server said, if it did.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self.reason() {
            Reason::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The code of the server's error, if it is one.
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(|refusal| refusal.code)
    }

    /// If a condition did not hold: the version that the key has, 0 if it is absent.
    pub fn unmet(&self) -> Option<u64> {
        let refusal = self.refusal()?;
        (refusal.code == Code::ConditionFailed).then_some(refusal.version)
    }

    /// The error of a request that changes nothing.
    pub(crate) fn of_read(self) -> Self {
        match self {
            Self::NotDone(reason) | Self::Unknown(reason) => Self::NotDone(reason),
        }
    }

    /// `sent`: the whole request had left.
    pub(crate) fn lost(sent: bool, reason: Reason) -> Self {
        if sent { Self::Unknown(reason) } else { Self::NotDone(reason) }
    }

    pub(crate) fn connect(address: &str, error: &io::Error) -> Self {
        let (kind, text) = (error.kind(), error.to_string());
        Self::NotDone(Reason::Connect { address: address.to_owned(), kind, text })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDone(reason) => write!(f, "not done: {reason}"),
            Self::Unknown(reason) => write!(f, "unknown whether it was done: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Connect { address, text, .. } => write!(f, "no connection to {address}: {text}"),
            Self::ConnectionLost(text) => write!(f, "connection lost: {text}"),
            Self::Deadline { awaited } => write!(f, "the deadline passed, waiting for {awaited}"),
            Self::SessionEnded => f.write_str("the server forgot this client's session"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::TooLarge { len, max } => {
                write!(f, "a request of {len} bytes, and the server takes {max}")
            }
            Self::Protocol(text) => write!(f, "not the protocol: {text}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::Other(number) => write!(f, "error {number}")?,
            code => write!(f, "{}", code.name())?,
        }
        if let Some(index) = self.index {
            write!(f, " (at {index})")?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if !self.address.is_empty() {
            write!(f, " (ask {})", self.address)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
