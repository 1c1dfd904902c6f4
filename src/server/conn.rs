//! One client connection, on the core that accepted it.

use std::collections::VecDeque;
use std::time::Duration;

use super::binary::Line;
use super::output::Output;
use super::question::Asked;
use super::transaction::{Pending, len_of};
use crate::command::Session;
use crate::env::ConnId;
use crate::protocol::resp::{ArgsBuf, Parser};

/// A connection's replies that are due from this many bytes on stop its requests; they go on below
/// half of it.
pub const OUTPUT_LEN_MAX: usize = 1 << 20;

/// Requests of one connection that may be with other shards at a time.
pub const AWAITED_MAX: usize = 4096;

/// See the module's header.
pub struct Conn {
    /// Its name at the runtime.
    pub id: ConnId,
    /// What it said of itself.
    pub session: Session,
    /// Of a connection of the binary port.
    pub binary: Option<Box<Line>>,
    /// Requests that are not whole yet.
    pub parser: Parser,
    /// Replies that have not left yet.
    pub output: Output,
    /// Received while it was not served, and not in the queue of work.
    pub stash: VecDeque<Vec<u8>>,
    /// Parsed when a long command began; older than the stash.
    pub deferred: VecDeque<ArgsBuf>,
    /// Commands of a transaction among these: they run in turn.
    pub in_turn: usize,
    /// Pieces of it in the server's queue of work; older than the stash.
    pub queued: usize,
    /// What it sent is not the protocol: said so, and closed, when what came before is done.
    pub broken: Option<String>,
    /// What it queued and watches, if it does.
    pub pending: Option<Box<Pending>>,
    /// The question to all shards that it waits for.
    pub asked: Option<Box<Asked>>,
    /// Its next command waits for a pause to end.
    pub postponed: bool,
    /// A send is with the runtime.
    pub sending: bool,
    /// Bytes of it.
    pub in_flight: usize,
    /// Since when more is due to it than a subscriber may leave unread for long.
    pub slow_since: Option<Duration>,
    /// A long command of it is being worked on; nothing after it may start.
    pub busy: bool,
    /// It is busy until the answer of its long command has left: another shard may still be at
    /// work on it, where what comes next would overtake it.
    pub answers_first: bool,
    /// Too much is due to it; the runtime does not read.
    pub paused: bool,
    /// It sends no more.
    pub ended: bool,
    /// It is closed when all its replies are sent; what it sends is ignored.
    pub closing: bool,
    /// In the list of those with something to send.
    pub dirty: bool,
    /// The round in which a command changed the session: what was looked up before is stale.
    pub changed_in: u64,
}

impl Conn {
    /// A fresh one.
    pub fn new(id: ConnId, session: Session) -> Self {
        Self {
            id,
            session,
            binary: None,
            parser: Parser::default(),
            output: Output::default(),
            stash: VecDeque::new(),
            deferred: VecDeque::new(),
            in_turn: 0,
            queued: 0,
            broken: None,
            pending: None,
            asked: None,
            postponed: false,
            sending: false,
            in_flight: 0,
            slow_since: None,
            busy: false,
            answers_first: false,
            paused: false,
            ended: false,
            closing: false,
            dirty: false,
            changed_in: 0,
        }
    }

    /// Whether what it sends is ignored.
    pub fn is_deaf(&self) -> bool {
        self.closing || self.broken.is_some()
    }

    /// Whether its next request may be run.
    pub fn is_served(&self) -> bool {
        self.is_free() && self.deferred.is_empty()
    }

    /// Whether nothing holds up a request that is at hand.
    pub fn is_free(&self) -> bool {
        !self.busy && !self.postponed && !self.closing && !self.is_full()
    }

    /// Whether so much is due to it that it has to read first.
    pub fn is_full(&self) -> bool {
        self.output.due_len() > OUTPUT_LEN_MAX
            || self.output.awaited_count() > AWAITED_MAX
            || self.binary.as_deref().is_some_and(Line::is_full)
    }

    /// Bytes that are due, those on their way included.
    pub fn unread_len(&self) -> usize {
        self.output.due_len() + if self.sending { self.in_flight } else { 0 }
    }

    /// Whether enough of what was due is gone.
    pub fn is_relieved(&self) -> bool {
        self.output.due_len() <= OUTPUT_LEN_MAX / 2
            && self.output.awaited_count() <= AWAITED_MAX / 2
            && self.binary.as_deref().is_none_or(Line::is_relieved)
    }

    /// Whether nothing of it is left to do, so that it can be closed.
    pub fn is_done(&self) -> bool {
        let drained = self.output.is_empty() && !self.sending && !self.busy;
        let drained = drained && self.binary.as_deref().is_none_or(Line::is_idle);
        let read = self.queued == 0 && self.stash.is_empty() && self.deferred.is_empty();
        let read = read && self.broken.is_none();
        drained && (self.closing || self.ended && read)
    }

    /// Whether nothing is due to it and nobody works for it.
    pub fn is_idle(&self) -> bool {
        self.output.is_empty() && !self.sending && !self.busy
    }

    /// Bytes received and kept, and not run.
    pub fn input_len(&self) -> usize {
        let stash: usize = self.stash.iter().map(Vec::len).sum();
        let deferred: usize = self.deferred.iter().map(|args| len_of(&args.args())).sum();
        self.parser.buffered_len() + stash + deferred
    }

    /// Bytes held for it.
    pub fn held_len(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.held_len());
        let line = self.binary.as_deref().map_or(0, Line::held_len);
        self.input_len() + self.output.held_len() + pending + line
    }
}
