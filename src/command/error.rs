//! What a command is refused with. The `Display` of an error is its text on the wire, byte for
//! byte as Redis 7 words it: clients match on prefixes and tests on whole lines.

use crate::limits::KEY_LEN_MAX;

/// Why a command was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Options that do not parse, or that exclude each other.
    #[error("ERR syntax error")]
    Syntax,

    /// An argument or a value that should be a 64-bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,

    /// An argument or a value that should be a decimal number.
    #[error("ERR value is not a valid float")]
    NotFloat,

    /// `INCR` and its kin, past 64 bits.
    #[error("ERR increment or decrement would overflow")]
    CounterOverflow,

    /// `DECRBY` by the one number that has no negative.
    #[error("ERR decrement would overflow")]
    DecrementOverflow,

    /// `INCRBYFLOAT`, past what a float holds.
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,

    /// The key holds another type than the command works on.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,

    /// A deadline that is zero, negative or past 64 bits of milliseconds.
    #[error("ERR invalid expire time in '{command}' command")]
    InvalidExpiry {
        /// Name of the command, lower case.
        command: &'static str,
    },

    /// `EXPIRE` options that exclude each other.
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxWithOther,

    /// `EXPIRE` options that exclude each other.
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtWithLt,

    /// An `EXPIRE` option nobody knows.
    #[error("ERR Unsupported option {option}")]
    ExpireOption {
        /// As the client wrote it.
        option: Box<str>,
    },

    /// `APPEND` or `SETRANGE` past [`crate::limits::VALUE_LEN_MAX`].
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    ValueTooLong,

    /// `SETRANGE` at a negative offset.
    #[error("ERR offset is out of range")]
    Offset,

    /// Longer than [`KEY_LEN_MAX`].
    #[error("ERR key is longer than {KEY_LEN_MAX} bytes")]
    KeyTooLong,

    /// Too few or too many arguments.
    #[error("ERR wrong number of arguments for '{command}' command")]
    Arity {
        /// Full name of the command, lower case, such as `client|id`.
        command: &'static str,
    },

    /// No such command.
    #[error("ERR unknown command '{name}', with args beginning with: {args}")]
    UnknownCommand {
        /// As the client wrote it, at most 128 bytes.
        name: Box<str>,
        /// Its first arguments, each quoted and followed by a space.
        args: Box<str>,
    },

    /// No such subcommand.
    #[error("ERR unknown subcommand '{name}'. Try {command} HELP.")]
    UnknownSubcommand {
        /// As the client wrote it, at most 128 bytes.
        name: Box<str>,
        /// Name of the command, upper case.
        command: Box<str>,
    },

    /// Too many arguments of a subcommand that takes one or two.
    #[error(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try {command} HELP."
    )]
    SubcommandArity {
        /// As the client wrote it, at most 128 bytes.
        name: Box<str>,
        /// Name of the command, upper case.
        command: &'static str,
    },

    /// The connection has to authenticate first.
    #[error("NOAUTH Authentication required.")]
    NoAuth,

    /// The connection listens, in RESP2.
    #[error(
        "ERR Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
         RESET are allowed in this context"
    )]
    Subscribed {
        /// Full name of the command.
        command: &'static str,
    },

    /// Wrong user or password.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPass,

    /// `AUTH password` at a server that has none.
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. \
         Are you sure your configuration is correct?"
    )]
    NoPassword,

    /// `HELLO` with a version other than 2 and 3.
    #[error("NOPROTO unsupported protocol version")]
    NoProto,

    /// `SELECT` of a database that does not exist.
    #[error("ERR DB index is out of range")]
    DbIndex,

    /// Keys of a command that has to keep to one slot.
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,

    /// `TYPE` of connections that do not exist.
    #[error("ERR Unknown client type '{name}'")]
    ClientType {
        /// As the client wrote it.
        name: Box<str>,
    },

    /// Not the number of a connection.
    #[error("ERR Invalid client ID")]
    ClientId,

    /// There is one user.
    #[error("ERR No such user '{name}'")]
    NoSuchUser {
        /// As the client wrote it.
        name: Box<str>,
    },

    /// A wording that only one command uses.
    #[error("{0}")]
    Other(&'static str),
}

impl Error {
    /// A subcommand of `command` with arguments it does not take.
    pub(super) fn subcommand_arity(args: &super::Args<'_>, command: &'static str) -> Self {
        let name = args.get(1);
        let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
        Self::SubcommandArity { name: name.into(), command }
    }
}
