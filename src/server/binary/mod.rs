//! The binary port: frames in, frames out, answered by request id as soon as they are known.
//!
//! A connection of this port is a [`Conn`] with a [`Line`]: the same session, output, stash and
//! bounds as any other, and requests that become the same evaluations on the same partitions. What
//! differs is order: a reply that waits for a commit or for another shard waits in [`holds`], not
//! in the connection's output, and holds up nobody.
//!
//! ```text
//! round   frames of many connections, their keys asked for ahead
//! serve   one request: here, or one hop to the shard of its key, which runs the same code
//! holds   replies that tell of what is not committed yet
//! gather  the parts of a multi-get that several shards make
//! changes what was done in a partition, and copies of it, for who keeps them elsewhere
//! parked  requests whose keys are being fetched from tables
//! long    values that are logged, or summed, in pieces with others in between
//! once    writes that are done once, however often they are asked for
//! session hello, auth, session, ping, info, and the clock that ends a slow handshake
//! ```
//!
//! Bounds: requests under way per connection, by count and by bytes; beyond them, or when replies
//! are not read, the connection is not read either. Nothing is dropped.
//!
//! [`Conn`]: super::conn::Conn

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Work;
use crate::ack::Ack;
use crate::command::{Spec, lookup};
use crate::env::{ConnId, ListenerId};
use crate::id::{Once, SessionId, ShardId};
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::protocol::binary::{
    FLAG_REPLY, FLAG_STALE, Header, LONG_LEN_MIN, OPERAND_LEN_MAX, OTHER_BODY_LEN_MAX, Opcode,
    Parser, UNAUTHENTICATED_BODY_LEN_MAX, VERSION, finish, finish_with, start,
};
use crate::shard::mailbox::{Part, TypedRequest};

use changes::Copying;
use gather::Gathering;
use holds::Holds;
use long::Longs;
use parked::ParkedQueue;
use round::Round;

pub use holds::WAITER;

mod changes;
mod cluster;
mod gather;
mod holds;
mod long;
mod once;
mod parked;
mod round;
mod serve;
mod session;

/// Where connections of the binary port come in: every shard listens there third.
pub const LISTENER: ListenerId = ListenerId(2);

/// Longest body that is taken, bytes: an op with the longest key, value and operand.
const BODY_LEN_MAX: usize = VALUE_LEN_MAX + OPERAND_LEN_MAX + KEY_LEN_MAX + 4096;

/// Most ops of a batch.
const BATCH_COUNT_MAX: usize = 1024;

/// Longest body of a batch, bytes: with what the open entry holds already it fits a log record.
const BATCH_LEN_MAX: usize = 256 << 10;

/// Most keys of a multi-get: some 200 us of lookups.
const MULTI_GET_COUNT_MAX: usize = 1024;

/// Longest values of a multi-get together, bytes.
const MULTI_GET_LEN_MAX: usize = 8 << 20;

/// Most entries of a page of a scan.
const SCAN_COUNT_MAX: usize = 1024;

/// Entries of a page where the client does not say.
const SCAN_COUNT: usize = 100;

/// Values of a page of a scan together, bytes; what does not fit is left out.
const SCAN_VALUES_LEN_MAX: usize = 1 << 20;

/// Requests of one connection that may be under way.
const IN_FLIGHT_MAX: u32 = 16_384;

/// Bytes of them together.
const IN_FLIGHT_LEN_MAX: usize = 8 << 20;

/// What a request for many keys counts beside its bytes: its reply, put together in memory, can be
/// [`MULTI_GET_LEN_MAX`] bytes, so nine may be under way.
const WIDE_LEN: u32 = 1 << 20;

/// The highest opcode there is.
const OPCODE_MAX: usize = Opcode::Copy as usize;

const _: () = assert!(BATCH_LEN_MAX <= OTHER_BODY_LEN_MAX && BODY_LEN_MAX <= u32::MAX as usize);

/// What a connection of the binary port has beside a session and an output.
pub struct Line {
    parser: Parser,
    /// It said hello.
    greeted: bool,
    /// In which its writes are done once that say so.
    session: Option<SessionId>,
    /// When it came.
    since: Duration,
    in_flight: u32,
    in_flight_len: usize,
}

impl Line {
    /// Of a connection that came at `since`.
    pub fn new(since: Duration) -> Self {
        Self {
            parser: Parser::default(),
            greeted: false,
            session: None,
            since,
            in_flight: 0,
            in_flight_len: 0,
        }
    }

    /// Whether so much is under way that no more is taken.
    pub fn is_full(&self) -> bool {
        self.in_flight >= IN_FLIGHT_MAX || self.in_flight_len > IN_FLIGHT_LEN_MAX
    }

    /// Whether enough of it is answered.
    pub fn is_relieved(&self) -> bool {
        self.in_flight <= IN_FLIGHT_MAX / 2 && self.in_flight_len <= IN_FLIGHT_LEN_MAX / 2
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Bytes held for it.
    pub fn held_len(&self) -> usize {
        self.parser.buffered_len() + self.in_flight_len
    }

    /// Whether the handshake is behind it.
    fn is_settled(&self, authenticated: bool) -> bool {
        self.greeted && authenticated
    }

    fn begun(&mut self, header: &Header) {
        self.in_flight += 1;
        self.in_flight_len += cost_of(header) as usize;
    }

    fn answered(&mut self, cost: u32) {
        self.in_flight -= 1;
        self.in_flight_len -= cost as usize;
    }
}

/// What a request counts against [`IN_FLIGHT_LEN_MAX`].
fn cost_of(header: &Header) -> u32 {
    let wide = [Opcode::MultiGet, Opcode::Scan, Opcode::Changes, Opcode::Copy];
    let is_wide = wide.map(|wide| wide as u8).contains(&header.opcode);
    if is_long_set(header) {
        return header.body_len.max(IN_FLIGHT_LEN_MAX as u32 + 1);
    }
    header.body_len + if is_wide { WIDE_LEN } else { 0 }
}

/// Whether a replica that follows may answer a request.
pub(super) fn may_be_stale(header: &Header) -> bool {
    let reads = [Opcode::Get, Opcode::MultiGet].map(|reads| reads as u8);
    header.flags & FLAG_STALE != 0 && reads.contains(&header.opcode)
}

/// Whether a request is on keys by name: it may say what its answer waits for.
fn is_on_keys(opcode: u8) -> bool {
    let writes = [Opcode::Set, Opcode::Delete, Opcode::Batch];
    let reads = [Opcode::Get, Opcode::MultiGet, Opcode::Scan];
    writes.iter().chain(&reads).any(|on_keys| *on_keys as u8 == opcode)
}

/// Nothing is read behind such a one until it is answered: it takes long, and what comes after it
/// must not overtake it.
fn is_long_set(header: &Header) -> bool {
    header.opcode == Opcode::Set as u8 && header.body_len as usize > LONG_LEN_MIN
}

/// Longest body that a connection may send now, bytes.
fn body_len_max(settled: bool) -> usize {
    if settled { BODY_LEN_MAX } else { UNAUTHENTICATED_BODY_LEN_MAX }
}

/// Who gets a reply, and to what.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Asker {
    /// The shard that has the connection.
    shard: ShardId,
    conn: ConnId,
    /// It is a part of a reply that is put together there.
    part: Option<Part>,
    /// Of the request.
    header: Header,
    /// Of the process's time; zero: none.
    deadline: Duration,
    /// In which session it is to be done once, if it is.
    session: Option<SessionId>,
}

impl Asker {
    /// Who sent a request to this shard.
    pub fn of(shard: ShardId, request: &TypedRequest) -> Self {
        let TypedRequest { conn, part, header, deadline, session, .. } = *request;
        Self { shard, conn, part, header, deadline, session }
    }

    /// The write's name, if it is to be done once.
    fn once(&self) -> Option<Once> {
        let sequence = self.header.request_id;
        self.session.map(|session| Once { session, sequence })
    }

    fn cost(&self) -> u32 {
        cost_of(&self.header)
    }

    /// What its answer waits for.
    fn ack(&self) -> Ack {
        self.header.ack().unwrap_or_default()
    }
}

/// A shard's side of the binary port.
pub struct Desk<C> {
    /// As the server's own, but of the connections of this port.
    pub work: VecDeque<Work<C>>,
    round: Round<C>,
    holds: Holds,
    longs: Longs,
    parked: ParkedQueue,
    copying: VecDeque<Copying>,
    gatherings: Vec<Option<Gathering>>,
    gatherings_free: Vec<u32>,
    /// What a write is admitted as.
    set: &'static Spec,
    delete: &'static Spec,
    /// As what a request is counted, by opcode.
    counted_as: [Option<&'static Spec>; OPCODE_MAX + 1],
}

impl<C> Default for Desk<C> {
    fn default() -> Self {
        let spec = |name: &[u8]| lookup(name).expect("it is in the table");
        Self {
            work: VecDeque::new(),
            round: Round::default(),
            holds: Holds::default(),
            longs: Longs::default(),
            parked: ParkedQueue::default(),
            copying: VecDeque::new(),
            gatherings: Vec::new(),
            gatherings_free: Vec::new(),
            set: spec(b"set"),
            delete: spec(b"del"),
            counted_as: std::array::from_fn(|opcode| {
                Some(match Opcode::of(opcode as u8)? {
                    Opcode::Hello => spec(b"hello"),
                    Opcode::Auth => spec(b"auth"),
                    Opcode::Ping => spec(b"ping"),
                    Opcode::Info => spec(b"info"),
                    Opcode::Cluster => spec(b"cluster"),
                    Opcode::Session => spec(b"client"),
                    Opcode::Get => spec(b"get"),
                    Opcode::Set => spec(b"set"),
                    Opcode::Delete => spec(b"del"),
                    Opcode::Batch => spec(b"exec"),
                    Opcode::MultiGet => spec(b"mget"),
                    Opcode::Scan | Opcode::Changes | Opcode::Copy => spec(b"scan"),
                })
            }),
        }
    }
}

impl<C> Desk<C> {
    /// The command as which a request is counted: the one that does the same.
    fn counted_as(&self, opcode: u8) -> Option<&'static Spec> {
        self.counted_as.get(usize::from(opcode)).copied().flatten()
    }

    /// Whether no reply waits for anything.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty()
            && self.holds.is_empty()
            && self.longs.is_empty()
            && self.parked.is_empty()
            && self.copying.is_empty()
            && self.gatherings.len() == self.gatherings_free.len()
    }
}

/// A body's last part that is not copied.
type Large = Option<Arc<Vec<u8>>>;

/// Appends a reply to the request that `header` began; `body` appends its body.
fn encode(
    out: &mut Vec<u8>,
    header: &Header,
    flags: u16,
    body: impl FnOnce(&mut Vec<u8>) -> Large,
) -> Large {
    let at = start(out);
    let large = body(out);
    let flags = FLAG_REPLY | flags;
    let header = Header { version: VERSION, flags, deadline_ms: 0, ..*header };
    match &large {
        None => finish(out, at, header),
        // Its sum takes long: whoever delivers it finishes the frame.
        Some(large) if large.len() > LONG_LEN_MIN => {}
        Some(large) => finish_with(out, at, header, large),
    }
    large
}
