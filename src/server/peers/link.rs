//! A connection to one shard of another node, which carries frames there and only the answer to the
//! greeting back.

use std::net::SocketAddr;
use std::time::Duration;

use super::asked::Asked;
use super::{BEAT_EVERY, SILENCE_MAX};
use crate::cluster::Topology;
use crate::consensus::Message;
use crate::env::{ConnId, Env, Sent};
use crate::id::{NodeId, PartitionId, ShardId};
use crate::partition::Content;
use crate::protocol::peer::{
    self, Batch, Blob, Body, Closed, Endpoint, GREETING_LEN_MAX, HEADER_LEN, Hello, Kind, Led,
    MAIL_LEN_MAX, Parser, Place, SnapshotStep, finish, is_same, reborn, start,
};
use crate::shard::mailbox::{Parcel, wire};

/// Messages are not sent while this much waits to be: the other is slow, and is told anew later.
const QUEUE_LEN_MAX: usize = 32 << 20;
/// Bytes of a large value, or of a parcel that is longer, in one frame.
const PIECE_LEN: usize = 1 << 20;
/// Between two attempts to connect.
const REDIAL_EVERY: Duration = Duration::from_millis(100);
/// A buffer that has grown beyond this is not kept.
const SPARE_LEN_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Dialling,
    Greeting,
    Up,
}

/// See the module's header.
pub(super) struct Link {
    pub node: NodeId,
    pub shard: ShardId,
    pub addr: SocketAddr,
    pub conn: Option<ConnId>,
    /// That of the other's data directory, as it said when it was up last.
    pub incarnation: u32,
    state: State,
    parser: Parser,
    /// Answers that were there before it was up.
    early: Vec<Parcel>,
    /// Frames that were not sent yet.
    out: Vec<u8>,
    batch: Batch,
    is_sending: bool,
    /// Nothing is tried before.
    retry_at: Duration,
    /// When something was sent last.
    spoke: Duration,
    /// Since when it is up.
    since: Duration,
    asked: Asked,
    /// The newest topology that was sent.
    told_version: u64,
    /// The other was told that connections here are told of prefixes.
    pub told_broadcast: bool,
    /// A refusal was told of.
    is_told: bool,
    /// Nobody listened there when it was tried last.
    is_refused: bool,
}

impl Link {
    pub fn new(node: NodeId, shard: ShardId, addr: SocketAddr) -> Self {
        Self {
            node,
            shard,
            addr,
            conn: None,
            incarnation: 0,
            state: State::Down,
            parser: Parser::default(),
            early: Vec::new(),
            out: Vec::new(),
            batch: Batch::default(),
            is_sending: false,
            retry_at: Duration::ZERO,
            spoke: Duration::ZERO,
            since: Duration::ZERO,
            asked: Asked::default(),
            told_version: 0,
            told_broadcast: false,
            is_told: false,
            is_refused: false,
        }
    }

    /// Whether the other's process has ended, by all signs.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Its connection was refused, and was dropped.
    pub fn note_refusal(&mut self) {
        self.is_refused = true;
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether nothing waits to be sent over it.
    pub fn is_idle(&self) -> bool {
        !self.is_up() || (self.out.is_empty() && !self.is_sending)
    }

    /// Since when its connection is up, if it is: of no other is that the same.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// For how long the other side, heard of at `heard`, is silent.
    pub fn silent_for(&self, heard: Duration, now: Duration) -> Duration {
        now.saturating_sub(heard.max(self.since))
    }

    /// Whether that is too long.
    pub fn is_lost(&self, heard: Duration, now: Duration) -> bool {
        self.state != State::Down && self.silent_for(heard, now) > SILENCE_MAX
    }

    /// Dials if it is down, beats if it is up and idle. The connection that it has begun.
    pub fn tick<E: Env>(&mut self, env: &E, own: &Place, now: Duration) -> Option<ConnId> {
        match self.state {
            State::Down if now >= self.retry_at => return self.dial(env, own, now),
            State::Up if now.saturating_sub(self.spoke) >= BEAT_EVERY && self.out.is_empty() => {
                let at = start(&mut self.out);
                Body::encode_beat(now.as_nanos() as u64, &mut self.out);
                let _ = finish(&mut self.out, at, Kind::Beat);
                self.flush(env);
            }
            _ => {}
        }
        None
    }

    fn dial<E: Env>(&mut self, env: &E, own: &Place, now: Duration) -> Option<ConnId> {
        debug_assert_ne!(own.node, self.node, "nobody dials itself");
        (self.retry_at, self.since) = (now + REDIAL_EVERY, now);
        let conn = env.connect(self.addr).ok()?;
        (self.conn, self.state) = (Some(conn), State::Dialling);
        Some(conn)
    }

    /// It is connected: says hello.
    pub fn greet<E: Env>(&mut self, env: &E, own: &Place, now: Duration) {
        self.out.clear();
        let at = start(&mut self.out);
        Hello::new(*own, self.node, self.shard).encode(&mut self.out);
        let _ = finish(&mut self.out, at, Kind::Hello);
        (self.state, self.since, self.is_refused) = (State::Greeting, now, false);
        self.send(env);
    }

    /// What the other answers. False: the link is of no use. `own`: where clients reach this shard;
    /// `known`: of which incarnation the other has to be.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        now: Duration,
        own: (&str, u16),
        known: u32,
    ) -> bool {
        while let Ok(Some(frame)) = self.parser.next(&mut bytes, GREETING_LEN_MAX) {
            match frame.decode() {
                Ok(Body::Welcome(welcome)) if !is_same(welcome.incarnation, known) => {
                    self.tell_once(&reborn(self.node));
                    return false;
                }
                Ok(Body::Welcome(welcome)) if self.state == State::Greeting => {
                    self.incarnation = welcome.incarnation;
                    (self.state, self.since, self.is_told) = (State::Up, now, false);
                    self.spoke = now;
                    let (at, (host, port)) = (start(&mut self.out), own);
                    Endpoint { host, port }.encode(&mut self.out);
                    let _ = finish(&mut self.out, at, Kind::Endpoint);
                    for parcel in std::mem::take(&mut self.early) {
                        if self.push_mail(&parcel, now).is_err() {
                            return false;
                        }
                    }
                }
                Ok(Body::Refused(refusal)) => {
                    self.tell_once(&format!("a peer refuses this node: {}", refusal.text));
                    return false;
                }
                _ => return false,
            }
        }
        bytes.is_empty()
    }

    /// Why there is no link, for the operator.
    fn tell_once(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            let (node, addr) = (self.node, self.addr);
            tracing::error!(%node, %addr, "{why}");
        }
    }

    /// Appends a message; false: it is lost.
    pub fn push_message<'c>(
        &mut self,
        partition: PartitionId,
        message: &Message,
        content: impl Fn(u64, u64) -> Option<&'c Content>,
    ) -> bool {
        if self.state != State::Up || self.out.len() > QUEUE_LEN_MAX {
            return false;
        }
        let mut contents = Vec::with_capacity(message.entries.len());
        for entry in &message.entries {
            let Some(content) = content(entry.index, entry.term) else { return false };
            contents.push(content);
        }
        for content in &contents {
            self.push_blobs(content);
        }
        let first = message.index + 1;
        let pushed = self.batch.push(&mut self.out, partition, message, |entry, out| {
            out.extend_from_slice(&contents[(entry.index - first) as usize].payload);
        });
        pushed.is_ok()
    }

    fn push_blobs(&mut self, content: &Content) {
        if content.blobs.is_empty() {
            return;
        }
        self.end_batch();
        for (of, value) in &content.blobs {
            for (piece, bytes) in value.chunks(PIECE_LEN).enumerate() {
                let at = start(&mut self.out);
                let offset = (piece * PIECE_LEN) as u64;
                Blob { blob: of.id, whole_len: of.len, offset, bytes }.encode(&mut self.out);
                let _ = finish(&mut self.out, at, Kind::Blob);
            }
        }
    }

    pub fn end_batch(&mut self) {
        self.batch.end(&mut self.out);
    }

    /// Appends a parcel.
    ///
    /// # Errors
    /// It is longer than [`MAIL_LEN_MAX`].
    pub fn push_mail(&mut self, parcel: &Parcel, now: Duration) -> Result<(), peer::Error> {
        let at = start(&mut self.out);
        wire::encode(parcel, now, &mut self.out);
        let len = self.out.len() - at - HEADER_LEN;
        if len > MAIL_LEN_MAX {
            return Err(peer::Error::TooLong { kind: Kind::Mail, len, max: MAIL_LEN_MAX });
        }
        match len > PIECE_LEN {
            true => self.cut_mail(at)?,
            false => finish(&mut self.out, at, Kind::Mail)?,
        }
        self.asked.note(parcel);
        Ok(())
    }

    /// Makes pieces of a long parcel whose frame was begun at `at`.
    fn cut_mail(&mut self, at: usize) -> Result<(), peer::Error> {
        let body = self.out.split_off(at + HEADER_LEN);
        self.out.truncate(at);
        let mut pieces = body.chunks(PIECE_LEN).peekable();
        while let Some(piece) = pieces.next() {
            let kind = if pieces.peek().is_some() { Kind::MailPiece } else { Kind::Mail };
            let at = start(&mut self.out);
            self.out.extend_from_slice(piece);
            finish(&mut self.out, at, kind)?;
        }
        Ok(())
    }

    /// Appends a step of a snapshot's way; nothing if it is down: whoever waits for it gives up.
    pub fn push_step(&mut self, step: &SnapshotStep<'_>) {
        if self.is_up() {
            self.end_batch();
            let at = start(&mut self.out);
            step.encode(&mut self.out);
            let _ = finish(&mut self.out, at, Kind::Snapshot);
        }
    }

    /// Tells which partitions are led here, if the other has to be told of any.
    pub fn push_leads(&mut self, led: impl Iterator<Item = Led>) {
        let mut led = led.peekable();
        if self.is_up() && led.peek().is_some() {
            self.end_batch();
            let at = start(&mut self.out);
            led.for_each(|led| led.encode(&mut self.out));
            let _ = finish(&mut self.out, at, Kind::Leads);
        }
    }

    /// Tells which nodes there are, if the other was not told of that or a newer version over this
    /// connection.
    pub fn push_topology(&mut self, topology: &Topology) {
        if self.is_up() && self.told_version < topology.version {
            self.told_version = topology.version;
            self.end_batch();
            let at = start(&mut self.out);
            self.out.extend_from_slice(&topology.encode());
            let _ = finish(&mut self.out, at, Kind::Topology);
        }
    }

    /// Tells that this shard's disk is slow.
    pub fn push_slow(&mut self) {
        if self.is_up() {
            self.end_batch();
            let at = start(&mut self.out);
            let _ = finish(&mut self.out, at, Kind::Slow);
        }
    }

    /// Asks how far what is led there is committed.
    pub fn push_ask(&mut self, round: u64) {
        if self.is_up() {
            self.end_batch();
            let at = start(&mut self.out);
            Body::encode_ask(round, &mut self.out);
            let _ = finish(&mut self.out, at, Kind::Ask);
        }
    }

    /// Answers such a question.
    pub fn push_closed(&mut self, closed: &Closed) {
        if self.is_up() {
            self.end_batch();
            let at = start(&mut self.out);
            closed.encode(&mut self.out);
            let _ = finish(&mut self.out, at, Kind::Closed);
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued_len(&self) -> usize {
        self.out.len()
    }

    /// Keeps the answers of a parcel until the link is up.
    pub fn keep_answers(&mut self, mut parcel: Parcel) {
        parcel.requests.clear();
        parcel.typed.clear();
        if !parcel.is_empty() {
            self.early.push(parcel);
        }
    }

    /// Its requests that these answer are over; what answers none is taken out.
    pub fn note_answers(&mut self, parcel: &mut Parcel) {
        self.asked.note_answers(parcel);
    }

    /// Sends what waits, if nothing is on its way.
    pub fn flush<E: Env>(&mut self, env: &E) {
        if self.state == State::Up && !self.out.is_empty() {
            self.spoke = env.now();
            self.send(env);
        }
    }

    fn send<E: Env>(&mut self, env: &E) {
        let Some(conn) = self.conn.filter(|_| !self.is_sending) else { return };
        match env.send(conn, &mut self.out) {
            Sent::Done if self.out.capacity() > SPARE_LEN_MAX => self.out = Vec::new(),
            Sent::Done => {}
            Sent::InFlight => self.is_sending = true,
            // The end of the connection is told, too.
            Sent::Broken => self.out.clear(),
        }
    }

    pub fn on_sent<E: Env>(&mut self, env: &E, mut buf: Vec<u8>) {
        self.is_sending = false;
        if self.out.is_empty() && buf.capacity() <= SPARE_LEN_MAX {
            buf.clear();
            self.out = buf;
        }
        self.flush(env);
    }

    /// Closes the connection; what was asked and not answered.
    pub fn drop_conn<E: Env>(&mut self, env: &E) -> Asked {
        if let Some(conn) = self.conn.take() {
            env.close(conn);
        }
        // Whether the other is gone for good is to be known soon.
        let rest = if self.is_up() { Duration::ZERO } else { REDIAL_EVERY };
        self.retry_at = env.now() + rest;
        (self.state, self.is_sending, self.is_refused) = (State::Down, false, false);
        (self.told_version, self.told_broadcast) = (0, false);
        (self.early, self.out, self.batch, self.parser) = Default::default();
        std::mem::take(&mut self.asked)
    }
}
