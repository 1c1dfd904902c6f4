//! Commands, pure: one file per family and the table of all.
//!
//! A command on keys is a function of (arguments, the key's value, the time) to (effect, reply).
//! It looks nothing up and changes nothing: the partition finds the value before, and logs the
//! effect after (charter D12: the log carries effects, never commands). A command with several
//! keys is split by the shard layer and evaluated key by key; [`Keyed`] says how the parts are
//! put together. A command on the connection or the node reads [`Facts`] and changes its
//! [`Session`]; what it can not do itself, it asks for by [`Then`].
//!
//! ```text
//! resolve(args) -> Spec        unknown command, unknown subcommand, arity
//! admit(session, spec, args)   authentication, key length
//! spec.run:
//!   Keyed       for each key of spec.keys(args): keyed.evaluate(input, reply) -> effect, count
//!   Connection  run(session, facts, args, reply) -> Then
//!   Together    for all keys at once: decide(args, found, reply) -> effects
//!   Keyspace    parse(args) -> what every shard has to do
//!   Node        ask(args) -> a question to every shard; tell(.., answers, reply) -> Then
//! ```
//!
//! Invariants:
//! * Replies and error texts are those of Redis 7, byte for byte; each difference we mean is marked
//!   with its reason (`~`) in `testdata/`.
//! * A deadline is absolute and decided here, from `now_ms` of the leader (charter D9). A value
//!   whose deadline has passed is never seen by a command: [`is_expired`] is the one rule.
//!
//! Not here: decoding of requests ([`crate::protocol::resp`]), where a slot lives, MULTI and
//! pub/sub. Reading order: `table`, `string`, `expire`, `connection`, `facts`.

mod acl;
mod bitfield;
mod bits;
mod client;
mod cluster;
pub mod config;
mod connection;
mod counter;
pub mod debug;
mod dump;
mod error;
mod expire;
mod facts;
mod function;
pub mod glob;
mod info;
mod introspect;
mod key;
mod keyspace;
pub mod latency;
mod lcs;
mod memory;
pub mod monitor;
pub mod notify;
mod number;
pub mod pubsub;
pub mod question;
mod rdb;
pub mod redact;
mod server;
mod session;
mod slot;
pub mod slowlog;
mod string;
mod syntax;
mod table;
mod together;
pub mod tracking;
mod transaction;
pub mod typed;
mod uses;

#[cfg(test)]
mod tests;

pub use connection::same_secret;
pub use error::Error;
pub use facts::{
    Calls, Client, Counters, Endpoint, Facts, Follower, Identity, Keyspace as KeyspaceFacts,
    Primary, SlotRange, Topology, endpoint_id,
};
pub use keyspace::Scan;
pub use notify::Event;
pub use session::{ReplyMode, Session};
pub use slot::{moved, slot_of};
pub use table::{
    Access, Answer, Connection, Flags, Group, Keyed, Keys, Keyspace, Run, Spec, admit, all, lookup,
    lookup_full, numbered, resolve,
};

pub use together::{Effects, Together};
pub use transaction::Op;

use std::sync::Arc;

pub use crate::protocol::resp::{Arg, Args};

use smallvec::SmallVec;

use crate::protocol::resp::Reply;

/// Databases a connection may `SELECT`.
pub const DB_COUNT: u8 = 16;

/// The value of a key; the same two shapes as an argument.
pub type Value<'a> = Arg<'a>;

impl<'a> Arg<'a> {
    /// The bytes.
    pub fn as_slice(self) -> &'a [u8] {
        match self {
            Arg::Bytes(bytes) => bytes,
            Arg::Shared(bytes) => bytes,
        }
    }

    /// Writes the bytes as a bulk string, without a copy when they are shared and large.
    pub fn write_to(self, reply: &mut Reply<'_>) {
        match self {
            Arg::Bytes(bytes) => reply.bulk(bytes),
            Arg::Shared(bytes) => reply.bulk_shared(bytes),
        }
    }

    /// These bytes as a value to store, still without a copy.
    pub fn to_new_value(self) -> NewValue<'a> {
        match self {
            Arg::Bytes(bytes) => NewValue::Borrowed(bytes),
            Arg::Shared(bytes) => NewValue::Shared(bytes),
        }
    }
}

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its value.
    pub value: Value<'a>,
    /// Its deadline, unix milliseconds; none: it stays.
    pub expiry_ms: Option<u64>,
}

/// All that the evaluation of one key depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The command. For one part of a split command, either all arguments or those of the part.
    pub args: Args<'a>,
    /// Index in `args` of the key this evaluation is for. Its own arguments (`MSET`) follow it.
    pub key_at: usize,
    /// What the key holds; none when it is absent, deleted or expired.
    pub found: Option<Found<'a>>,
    /// Bytes of memory that the key takes; 0 but for a command that weighs ([`Flags::WEIGHS`]).
    pub held_len: usize,
    /// Wall clock of the leader, unix milliseconds.
    pub now_ms: u64,
}

/// What has to be done to the key; logged before the reply leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Nothing: no entry in the log.
    None,
    /// The key holds `value` until `expiry_ms`.
    Put {
        /// The new value, whole.
        value: NewValue<'a>,
        /// Its deadline, unix milliseconds, not before `now_ms`; none: it stays.
        expiry_ms: Option<u64>,
        /// As what it is published.
        event: Event,
    },
    /// The key is gone. Given only for a key that was found.
    Delete(Event),
}

/// A value to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue<'a> {
    /// An argument, or the value found: to be copied.
    Borrowed(&'a [u8]),
    /// A large one, to be held once more.
    Shared(&'a Arc<Vec<u8>>),
    /// Made by the command: a number, or the parts of an `APPEND`.
    Owned(SmallVec<[u8; 24]>),
}

impl NewValue<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            NewValue::Borrowed(bytes) => bytes,
            NewValue::Shared(bytes) => bytes,
            NewValue::Owned(bytes) => bytes,
        }
    }
}

/// Whether a value with this deadline is gone at `now_ms`: at the very millisecond it still lives,
/// as in Redis.
pub fn is_expired(expiry_ms: Option<u64>, now_ms: u64) -> bool {
    expiry_ms.is_some_and(|expiry_ms| now_ms > expiry_ms)
}

/// The reply of `HELP`: a line for each subcommand, in the form of Redis.
fn help(reply: &mut Reply<'_>, command: &str, subcommands: &[Spec]) -> Then {
    reply.array(1 + 2 * subcommands.len());
    reply.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for spec in subcommands {
        reply.simple(&spec.short_name().to_ascii_uppercase());
        reply.simple(&format!("    {}.", spec.summary));
    }
    Then::Continue
}

/// What the connection layer has to do once the reply is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// Go on.
    #[default]
    Continue,
    /// Send what is written, then close.
    Close,
    /// Set these parameters, whose values were checked (`CONFIG SET loglevel`).
    Configure(Vec<(&'static str, String)>),
    /// What the session says of tracking has changed (`CLIENT TRACKING`).
    Track,
    /// Show it every command from here on (`MONITOR`).
    Monitor,
    /// Forget what the connection asked for: subscriptions, tracking, MONITOR (`RESET`).
    Reset,
    /// Answer `+OK` after so many milliseconds, and read nothing from it meanwhile.
    Sleep(u64),
    /// Stop the node as SIGTERM does (`SHUTDOWN`); there is no answer but the end.
    Stop,
}
