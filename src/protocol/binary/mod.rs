//! The binary protocol, version 1: typed requests and replies in checksummed frames.
//!
//! For programs that want more than RESP can say: versions and conditions, deadlines, atomic
//! batches, answers as soon as they are known, errors that tell *not done* from *unknown*. This
//! header is the specification; `tests/vectors/*.txt` hold every frame in bytes and in fields, for
//! clients in other languages. All integers are little-endian and unsigned.
//!
//! # Frames
//!
//! A connection carries frames, in both directions, one after the other:
//!
//! ```text
//! frame  := header[32] body[body_len]
//! header := 0..4    magic         D5 53 54 56 (D5 "STV")
//!           4       version       1
//!           5       opcode        of the request; a reply repeats it
//!           6..8    flags:u16     1 reply, 2 error; requests have neither; 4 of a write:
//!                                 done once, see *sessions*; 8 of a get or multi-get: it may
//!                                 be old, see *old answers*; 0x30 of a request on keys: when
//!                                 it is answered, see *early answers*; other bits are zero
//!           8..16   request_id    the client's choice; the reply repeats it
//!           16..20  deadline_ms   of a request, from its arrival, 0: none; of a reply: zero
//!           20..24  body_len      bytes
//!           24..28  body_check    lower 32 bits of xxh3-64 (seed 0) of the body
//!           28..32  header_check  lower 32 bits of xxh3-64 (seed 0) of bytes 0..28
//! ```
//!
//! Magic, version and the place of `header_check` are the same in all versions. A frame with a bad
//! magic, checksum or version, or with a body over the limit, is answered with an error and the
//! connection is closed: the stream can not be trusted. So is a `set` with a body over
//! [`LONG_LEN_MIN`] whose lengths are over their limits, or are not those of the body. Any other
//! error is that of one request. The body of a `set` is at most as long as `hello` tells, any other
//! request's [`OTHER_BODY_LEN_MAX`].
//!
//! # A connection
//!
//! Default port 7400. The first request is `hello`, and it is in version 1 whatever it offers. It
//! names the versions the client speaks; the reply names the highest that both do, and all that
//! follows is in that one. If there is none, the error is `unsupported_version`. Where a password
//! is set, `hello` may carry it, or `auth` follows; until all of that is done, which may take
//! [`HANDSHAKE_MS_MAX`] ms, a body is at most [`UNAUTHENTICATED_BODY_LEN_MAX`] bytes. After that a
//! connection may be silent as long as it likes, unless the node's `timeout` (`CONFIG SET`) says
//! otherwise: then one over which nothing goes for so long is closed, if no request is under way.
//!
//! *Order.* Requests may be sent without waiting for replies. Replies come as they become known, in
//! any order; the request id tells whose they are. Ids of requests under way should differ; the
//! server does not look at them. Requests of a connection that name the same key are evaluated in
//! the order in which they were sent.
//!
//! *Bounds.* A server that is owed too much reading stops reading; it drops nothing. The limits
//! that requests must keep are in the reply to `hello`. Behind a `set` with a body over
//! [`LONG_LEN_MIN`] it reads on when that is answered.
//!
//! *Deadline.* A request that was not evaluated when its deadline passed is not evaluated: the
//! error is `deadline_exceeded`, class *not done*. One that was evaluated and still waits to be
//! durable is answered `deadline_exceeded`, class *unknown*, up to 100 ms after its deadline.
//!
//! *Versions.* A timestamp is the version of a write: hybrid logical clock, unix milliseconds in
//! the upper 48 bits, a counter in the lower 16. It rises with every write of a key. Every reply's
//! body begins with one; 0: there is none to tell.
//!
//! *Sessions.* A `set`, `delete` or `batch` with flag 4 is done once, however often it is asked
//! for: over this connection, another, or another node, in any order, also after crashes; whoever
//! asks again gets the first answer, `condition_failed` too. Its name is the connection's session,
//! which `session` says, and its `request_id`, its *sequence*, which is given to no other write of
//! that session; what is asked again is the same body. Each partition keeps the answers to the 1024
//! highest sequences of a session, of 1024 sessions, and at most some 2 MiB; a request beyond that
//! is `too_old`. So keep the sequences under way close together. A client that gets `too_old` to a
//! request that it never sent before goes on with a new session, of another id, that was born after
//! the error's timestamp. An error of class *not done* is of one attempt: one before it may have
//! been done.
//!
//! *Old answers.* A `get` or `multi-get` is answered by the leaders of its keys' partitions, and so
//! tells of every write that was acknowledged before it was asked. With flag 8 the node that is
//! asked may answer from replicas of its own that follow, if it can prove that what they have was
//! current at most so long before as its `read-staleness-max` says; what is older is asked of the
//! leaders all the same. When they can not be reached the error is `too_stale`. Each key is as of
//! its own moment, and a later read may be answered with something older.
//!
//! *Early answers.* The flags of a `get`, `set`, `delete`, `batch`, `multi-get` or `scan` say what
//! its answer waits for: until what it tells is on the disks of a majority (0x10), or on that of
//! the partition's leader (0x20), or for nothing (0x30); none of them: as the node is set, by
//! default for the majority. What is told earlier may be lost when its leader is, and its version
//! given to another write. Requests that wait for the majority are never told of it before the
//! majority has it. A write of a session that is lost so is forgotten with its answer.
//!
//! # Requests
//!
//! ```text
//! 01 hello     version_count:u8 zero:u8 name_len:u16 user_len:u16 password_len:u16
//!              | versions[version_count] name user password
//! 02 auth      user_len:u16 password_len:u16 | user password
//! 03 ping      any bytes, at most 4096
//! 04 info      name of a section, or nothing for the default ones
//! 05 cluster   what is to be done, JSON of at most 4096 bytes: see below
//! 06 session   id:u8[16] born:u64    id: random; born: 0, or as the reply to the first one said
//! 10 get       db:u8 zero[3] key_len:u32 | key
//! 11 set       one op of kind 1
//! 12 delete    one op of kind 2
//! 13 batch     count:u32 zero:u32 | op[count]
//! 14 multi-get db:u8 zero[3] count:u32 | key[count], each key_len:u32 | key
//! 15 scan      db:u8 flags:u8 zero:u16 count:u32 cursor_len:u32 pattern_len:u32 | cursor pattern
//! 16 changes   partition:u32 zero:u32 cluster:u8[16] position
//! 17 copy      partition:u32 from_len:u32 cluster:u8[16] | from
//!
//! op := kind:u8 db:u8 condition:u8 ttl:u8 key_len:u32 value_len:u32 operand_len:u32
//!       ttl_ms:u64 version:u64 | key value operand
//!   kind       1 set, 2 delete (its value, ttl and ttl_ms are empty and zero)
//!   condition  0 none
//!              1 the key is absent
//!              2 the key is present
//!              3 the key holds `operand`
//!              4 the key's version is `version`; 0: the key is absent
//!   ttl        0 the key stays for good
//!              1 it goes ttl_ms milliseconds from now; not 0
//!              2 it goes at ttl_ms, unix milliseconds; in the past: at once
//!              3 it goes when what it held would have gone
//! position := index:u64 term:u64 part:u32 zero:u32
//! ```
//!
//! A name is of printable ASCII without spaces; an empty `user` is "default". `ttl_ms` is at most
//! 2^53, and zero but for ttl 1 and 2; `operand` is empty but for condition 3 and at most
//! [`OPERAND_LEN_MAX`] bytes (name the version of what is longer), `version` zero but for
//! condition 4.
//!
//! `cluster`: an object whose `action` is `status`, `join` (`peer`, `zone`, `cores`), `announce`
//! (`node`, `peer`), `drain`, `restore`, `remove` or `transfer` (`node`), `replicas` (`count`),
//! `follow` (`source`: `cluster`, its id, and `at`, addresses of binary ports) or `promote`; asked
//! of any node. The
//! reply, when a majority has it: `node` (which it is about), `cluster` (its id, 32 hex digits),
//! `cores`, `partitions`, `topology`; of `status` also `partition`, one for each, and
//! `asked`, and of a standby `fed`, how far that node is.
//!
//! `batch`: all its keys are of one partition, else the error is `cross_partition`: keys with the
//! same `{hash tag}` always are; the partition of a key is `slot * partition_count / 16384`, where
//! `slot` is CRC16/XMODEM of the key, or of its hash tag, modulo 16384. All conditions are checked
//! against the state before the batch. If one fails nothing is done and the error names its index;
//! else all ops are done, in order, as one entry of the log.
//!
//! `scan` flags: 1 with values; 2 `pattern` is a glob (`*`, `?`, `[a-z]`, `\`), else a prefix; an
//! empty pattern is any key. `count` is the most entries of the reply, 0: the server's choice. The
//! first cursor is empty, the next ones are the replies'; each is good while the node runs.
//! A key that was there from the first page to the last is returned at least once; others may be.
//!
//! `changes` tells what was done in a partition behind a place of its log: writes that a majority
//! has, in order, each once, with the versions that they got; what sessions were told is not among
//! them. A zero position is the end of the log: the reply has no changes, and the position to go
//! on from. The server keeps nothing of who asks: it has the newest entries in memory, and those
//! of a node that is alone for ten minutes after the last such request; a position that it does
//! not know any more, or never did, is `too_old`, class *not done*: copy anew. The
//! request's `cluster` is the number that the reply to `cluster` has in hex, or 0: whichever it is.
//! By a node that is in no cluster, or in another, both requests are `cluster_refused`.
//!
//! `copy` tells all rows of a partition, of all databases, page by page in an order that holds on
//! all nodes, so that it goes on after any failure; each page is as of its own moment. So who asks
//! `changes` for a position first, copies, asks for changes again before each further page, and
//! takes of each key what is newest, has the partition as it was at some moment when the changes
//! have come to the `newest` of the last page.
//!
//! # Replies
//!
//! ```text
//! hello      timestamp:u64 version:u8 flags:u8 shard:u16 shard_count:u16 zero:u16
//!            partition_count:u32 key_len_max:u32 value_len_max:u32 body_len_max:u32
//!            batch_count_max:u32 batch_len_max:u32 multi_get_count_max:u32 scan_count_max:u32
//!            in_flight_max:u32 node_id_len:u16 server_version_len:u16 | node_id server_version
//!              flags  1 authenticated, 2 a password is set
//! auth       timestamp:u64
//! ping       timestamp:u64 | the bytes of the request
//! info       timestamp:u64 | text
//! cluster    timestamp:u64 | JSON
//! session    timestamp:u64    when the session began
//! get        item
//! set        outcome
//! delete     outcome
//! batch      timestamp:u64 count:u32 zero:u32 | outcome[count]
//! multi-get  timestamp:u64 count:u32 zero:u32 | item[count], in the order of the keys
//! scan       timestamp:u64 count:u32 cursor_len:u32 | cursor entry[count]
//! changes    timestamp:u64 newest:u64 now_ms:u64 position count:u32 zero:u32 | change[count]
//! copy       timestamp:u64 newest:u64 count:u32 next_len:u32 | next change[count]
//! error      timestamp:u64 code:u16 class:u8 retry:u8 retry_after_ms:u32 index:u32
//!            text_len:u16 address_len:u16 | text address
//!
//! item    := timestamp:u64 state:u8 zero[3] value_len:u32 expiry_ms:u64 | value
//!   state      0 absent (all else is zero), 1 present, 2 present, its value left out
//!   expiry_ms  unix milliseconds; 0: it stays
//! outcome := timestamp:u64 state:u8 zero[7]
//!   state      0 nothing to do (a delete of what was absent), 1 created, 2 replaced, 3 deleted
//! entry   := key_len:u32 zero:u32 | key item
//! change  := kind:u8 db:u8 zero:u16 key_len:u32 value_len:u32 zero:u32 timestamp:u64
//!            expiry_ms:u64 | key value
//!   kind       1 set, 2 deleted, 3 all keys of the partition are deleted
//! ```
//!
//! The timestamp of a `batch` is that of its last write, that of a `multi-get` the newest of its
//! items. `multi-get` reads each key as of its own moment. An empty cursor in a `scan` reply: that
//! was all. A scan's item has state 2 unless values were asked for and this one fits into the
//! reply; `value_len` is the length of the value all the same, and no value follows.
//!
//! `timestamp` and `newest` of `changes` are the newest version and entry that are committed,
//! `now_ms` is the server's time. An empty `next`: that was all.
//!
//! An error's timestamp is, for `condition_failed`, the key's version (0: absent), for `too_old`
//! what a new session is to be born after, else zero.
//! `index` is the op of a `batch` that the error is of; FFFFFFFF: it is of none, or of the only
//! one. `address` is, for `moved`, host:port of who to ask. `text` is one line for people; programs
//! look at `code`.
//! `class`: 0 not done, 1 unknown: it may have been done, or may yet be. `retry`: 0 never as it is,
//! 1 now, 2 after `retry_after_ms`, 3 elsewhere. The codes and what each means: [`Code`].
//!
//! # Not here
//!
//! Sockets and who answers ([`crate::server`]). Reading order: `header`, `parser`, `long`,
//! `request`, `reply`, `changes`, `error`.

mod changes;
mod error;
mod header;
mod long;
mod parser;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use changes::{Behind, Change, Changed, Changes, Done, Position, Rows, RowsFrom, Subject};
pub use error::{Class, Code, Failure, Retry};
pub use header::{
    Checksum, FLAG_ERROR, FLAG_ONCE, FLAG_REPLY, FLAG_STALE, FLAGS_ACK, HEADER_LEN, Header, MAGIC,
    Opcode, VERSION, finish, finish_summed, finish_with, flags_of, start,
};
pub use parser::{Breach, Frame, Parser};
pub use reply::{
    Entries, Entry, Item, Items, Outcome, OutcomeState, Outcomes, Reply, Scanned, Welcome,
};
pub use request::{Condition, Hello, Keys, Op, Ops, Request, Scan, Ttl};

/// Longest body before authentication, bytes: names and a password.
pub const UNAUTHENTICATED_BODY_LEN_MAX: usize = 4096;

/// A `set` with a longer body is *long*, bytes: its value is gathered where it will live.
pub const LONG_LEN_MIN: usize = 1 << 20;

/// Longest operand of a condition, bytes: it is compared at once.
pub const OPERAND_LEN_MAX: usize = 1 << 20;

/// Longest body of any request but `set`, bytes.
pub const OTHER_BODY_LEN_MAX: usize = 4 << 20;

/// Longest body of a `ping`, bytes.
pub const PING_LEN_MAX: usize = 4096;

/// Time from the connection's begin to its authentication, milliseconds.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;

/// The index of an error that is of no single op.
pub const NO_INDEX: u32 = u32::MAX;
