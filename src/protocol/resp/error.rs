//! Why a request can not be read.

use std::fmt;

/// A breach of the protocol. Its text is the reply, to the byte what Redis 7 sends; after it the
/// connection is closed, since where the next frame starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The number after `*` is no number or over [`crate::limits::ARGS_MAX`].
    #[error("ERR Protocol error: invalid multibulk length")]
    InvalidArgsCount,
    /// The number after `$` is no number, negative or over [`crate::limits::VALUE_LEN_MAX`].
    #[error("ERR Protocol error: invalid bulk length")]
    InvalidBulkLen,
    /// More arguments than a client may send before it authenticates.
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedArgsCount,
    /// A longer argument than a client may send before it authenticates.
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLen,
    /// An argument does not start with `$`.
    #[error("ERR Protocol error: expected '$', got '{}'", Shown(*.got))]
    ExpectedBulk {
        /// What it starts with.
        got: u8,
    },
    /// The line of `*` has no end within [`crate::limits::INLINE_LEN_MAX`] bytes.
    #[error("ERR Protocol error: too big mbulk count string")]
    ArgsCountTooLong,
    /// The line of `$` has no end within [`crate::limits::INLINE_LEN_MAX`] bytes.
    #[error("ERR Protocol error: too big bulk count string")]
    BulkLenTooLong,
    /// An inline command has no end within [`crate::limits::INLINE_LEN_MAX`] bytes.
    #[error("ERR Protocol error: too big inline request")]
    InlineTooLong,
    /// An inline command has a quote that is not closed, or not followed by white space.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The arguments of one command add up to more than [`crate::limits::FRAME_LEN_MAX`]. Ours:
    /// Redis closes such a connection without a word.
    #[error("ERR Protocol error: too big request")]
    FrameTooLong,
}

/// A byte as a reply's text can carry it. CR and LF stay: the encoder makes them spaces.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\r' | b'\n' | b' '..=b'~' => write!(f, "{}", char::from(self.0)),
            other => write!(f, "\\x{other:02x}"),
        }
    }
}
