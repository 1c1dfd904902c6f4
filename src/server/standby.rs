//! Asynchronous shipping: the shards of a standby keep their partitions like those of another
//! cluster, the *source*, as its log goes on.
//!
//! **Who is followed** is a part of the topology ([`crate::cluster::Source`]), so that all nodes
//! agree on it and it outlives them. While it is, clients may read and not write
//! ([`crate::shard::Refused::Standby`]); `stave cluster promote` ends it.
//!
//! **Who asks.** The leader of each partition, over one connection of its shard to any node of the
//! source, as any client with a password does; so both clusters have the same number of
//! partitions, and the same password. Per partition one request is under way:
//!
//! ```text
//! begin    changes from the end on -> a place in the source's log; all rows go
//! copy     changes, a page of rows, changes, a page of rows, ...
//! follow   changes behind the place; nothing new: again a little later
//! ```
//!
//! What came is proposed as one entry that begins with the place it leads to, and the next request
//! leaves when that is committed ([`crate::partition::Following`]): a majority has it, and whoever
//! leads next goes on there. Nothing else is remembered, here or by the source. Chosen over a
//! stream that the source pushes, which would have to keep a window per standby and know when to
//! let go; what would change it: a round trip so long that a reply per round trip is too little.
//!
//! **Exactly.** Versions, deadlines, deletions and clears arrive as the source has them, each
//! partition in the order of its log. Entries of the source are not torn but for those of more than
//! some 256 KiB, which come in parts. Partitions do not wait for each other. What sessions were
//! told (writes that are done once) does not come along: after a promotion a retry may be done
//! again.
//!
//! **When the source forgot** the place, the partition is copied anew. One partition of a shard is
//! copied at a time, since its rows stay in memory meanwhile.
//!
//! Bounds: one reply per partition; nothing is asked while the log is behind or memory is short.

use std::time::Duration;

use super::Server;
use crate::cluster::{Fed, Source};
use crate::env::{ConnId, Env, Event, Sent};
use crate::partition::{Following, Stage};
use crate::protocol::binary::{
    Behind, Changed, Code, Failure, Header, Hello, Parser, Position, Reply, Request, Rows,
    RowsFrom, Subject, VERSION, finish, start,
};
use crate::shard::Shipment;

/// Longest reply, bytes: a page, and the longest value.
const REPLY_LEN_MAX: usize = crate::limits::VALUE_LEN_MAX + (4 << 20);
/// Between two attempts to connect.
const REDIAL_EVERY: Duration = Duration::from_millis(500);
/// A source that was asked and is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Until it is asked again after it had nothing new; longer each time, up to the last.
const REST: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];
/// Until it is asked again after it refused.
const REFUSED_REST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Down,
    Dialling,
    Greeting,
    Up,
}

/// What was asked of the source for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// A place to begin from.
    Begin,
    /// What was done behind this.
    Changes(Position),
    /// Rows from here on.
    Rows(Vec<u8>),
}

/// A partition that is led here.
#[derive(Debug, Default)]
struct Pull {
    asked: Option<Asked>,
    /// The entry that has to be committed before more is asked for.
    proposed: Option<u64>,
    /// Nothing is asked before.
    due: Duration,
    rest: Duration,
    /// It has to be copied anew.
    is_lost: bool,
    /// Changes were asked for since the last page of rows.
    wants_rows: bool,
    /// The source's newest entry, when it said so, and its time then.
    newest: u64,
    heard: Duration,
    now_ms: u64,
}

/// See the module's header. Lives on one core.
#[derive(Default)]
pub(super) struct Standby {
    source: Option<Source>,
    conn: Option<ConnId>,
    state: State,
    parser: Parser,
    out: Vec<u8>,
    is_sending: bool,
    /// Which address is tried next.
    turn: usize,
    retry_at: Duration,
    /// When the source was heard last, or dialled.
    heard: Duration,
    pulls: Vec<Pull>,
    /// Copies that were begun.
    copies: u64,
    error: String,
}

impl Standby {
    /// Whether it is the connection to the source.
    #[inline]
    pub fn has(&self, conn: ConnId) -> bool {
        self.conn == Some(conn)
    }

    fn subject(&self, partition: u32) -> Subject {
        Subject { partition, cluster: self.source.as_ref().map_or(0, Source::id) }
    }

    fn push(&mut self, request_id: u64, request: &Request<'_>) {
        let at = start(&mut self.out);
        request.encode(&mut self.out);
        let opcode = request.opcode() as u8;
        let header = Header { version: VERSION, opcode, request_id, ..Header::default() };
        finish(&mut self.out, at, header);
    }

    fn send<E: Env>(&mut self, env: &E) {
        let Some(conn) = self.conn.filter(|_| !self.is_sending && !self.out.is_empty()) else {
            return;
        };
        match env.send(conn, &mut self.out) {
            Sent::Done => {}
            Sent::InFlight => self.is_sending = true,
            // Its end is told, too.
            Sent::Broken => self.out.clear(),
        }
    }

    fn drop_conn<E: Env>(&mut self, env: &E) {
        if let Some(conn) = self.conn.take() {
            env.close(conn);
        }
        (self.state, self.is_sending) = (State::Down, false);
        (self.parser, self.out) = (Parser::of_replies(), Vec::new());
        self.retry_at = env.now() + REDIAL_EVERY;
        self.pulls.iter_mut().for_each(|pull| pull.asked = None);
    }

    /// Says once why it does not go on.
    fn fail(&mut self, error: String) {
        if self.error != error {
            tracing::warn!(error, "the cluster that is followed does not tell what was done");
            self.error = error;
        }
    }
}

impl<E: Env> Server<E> {
    /// Looks whom this cluster follows; dials, and gives up who is silent.
    pub(super) fn tick_standby(&mut self) {
        let Some(members) = self.shard.members().cloned() else { return };
        let topology = members.topology();
        if self.standby.source != topology.follows {
            self.standby.drop_conn(&self.env);
            let pulls = std::mem::take(&mut self.standby.pulls);
            let source = topology.follows.clone();
            self.standby = Standby { source, pulls, ..Standby::default() };
            self.standby.parser = Parser::of_replies();
            self.standby.pulls.clear();
        }
        let count = self.shard.map().partitions_per_shard() as usize;
        self.standby.pulls.resize_with(count, Pull::default);
        let now = self.env.now();
        let Some(source) = &self.standby.source else {
            let led = self.end_following();
            return members.note_fed(self.shard.id(), Fed { led, ..Fed::default() });
        };
        match self.standby.state {
            State::Down if now >= self.standby.retry_at => {
                let addr = source.at[self.standby.turn % source.at.len()];
                self.standby.turn += 1;
                self.standby.retry_at = now + REDIAL_EVERY;
                if let Ok(conn) = self.env.connect(addr) {
                    self.standby.conn = Some(conn);
                    (self.standby.state, self.standby.heard) = (State::Dialling, now);
                }
            }
            State::Down => {}
            state => {
                let waits =
                    state != State::Up || self.standby.pulls.iter().any(|of| of.asked.is_some());
                if waits && now.saturating_sub(self.standby.heard) > SILENCE_MAX {
                    self.standby.fail("it is silent".to_owned());
                    self.standby.drop_conn(&self.env);
                }
            }
        }
        self.pull_all();
        members.note_fed(self.shard.id(), self.fed());
    }

    /// Nobody is followed any more: the partitions are to know. Of how many it is not known.
    fn end_following(&mut self) -> u32 {
        let mut left = 0;
        for place in 0..self.standby.pulls.len() as u32 {
            let partition = self.shard.partition(place);
            if partition.following().is_none() || !self.shard.leads(place) {
                continue;
            }
            left += 1;
            let is_due = self.standby.pulls[place as usize]
                .proposed
                .is_none_or(|index| partition.committed().index >= index);
            if is_due {
                let proposed = self.shard.follow(place, Shipment::default(), None, 0);
                self.standby.pulls[place as usize].proposed = proposed;
            }
        }
        left
    }

    /// Asks for what is due; each turn.
    pub(super) fn pull_all(&mut self) {
        if self.standby.state != State::Up {
            return;
        }
        let mut copying = false;
        for place in 0..self.standby.pulls.len() as u32 {
            self.pull(place, &mut copying);
        }
        self.standby.send(&self.env);
    }

    fn pull(&mut self, place: u32, copying: &mut bool) {
        let partition = self.shard.partition(place);
        let at = place as usize;
        if !self.shard.leads(place) || !partition.is_ready() {
            if self.standby.pulls[at].asked.is_none() {
                self.standby.pulls[at] = Pull::default();
            }
            return;
        }
        let (now, committed) = (self.env.now(), partition.committed().index);
        let subject = self.standby.subject(partition.id().0);
        let following = partition.following().cloned();
        let following = following.filter(|of| of.cluster == subject.cluster);
        let pull = &mut self.standby.pulls[at];
        // One at a time: its rows stay in memory.
        let copies = pull.is_lost || following.as_ref().is_none_or(|of| of.is_copying());
        let is_next = !copies || !std::mem::replace(copying, true);
        let waits = pull.asked.is_some() || pull.proposed.is_some_and(|index| committed < index);
        if waits || now < pull.due || !is_next || !self.shard.has_room_for_told() {
            return;
        }
        pull.proposed = None;
        let asked = match following {
            Some(of) if !pull.is_lost => match &of.from {
                Some(from) if of.is_copying() && pull.wants_rows => Asked::Rows(from.clone()),
                _ => Asked::Changes(of.position),
            },
            _ => Asked::Begin,
        };
        let id = place.into();
        match &asked {
            Asked::Begin => {
                let position = Position::default();
                self.standby.push(id, &Request::Changes(Behind { subject, position }));
            }
            Asked::Changes(position) => {
                let behind = Behind { subject, position: *position };
                self.standby.push(id, &Request::Changes(behind));
            }
            Asked::Rows(from) => {
                self.standby.push(id, &Request::Copy(RowsFrom { subject, from }));
            }
        }
        self.standby.pulls[at].asked = Some(asked);
        if self.standby.pulls.iter().filter(|of| of.asked.is_some()).count() == 1 {
            self.standby.heard = now;
        }
    }

    /// Something happened to the connection to the source.
    pub(super) fn on_source_event(&mut self, event: Event<E::Chunk>) {
        match event {
            Event::Connected { .. } => self.on_source_connected(),
            Event::Received { chunk, .. } => self.receive_from_source(&chunk),
            Event::Sent { buf, .. } => self.on_source_sent(buf),
            _ => self.on_source_ended(),
        }
    }

    /// The source is connected: says hello.
    fn on_source_connected(&mut self) {
        let password = self.node.password().unwrap_or_default();
        let hello =
            Hello { versions: &[VERSION], name: b"stave-standby", user: b"", password: &password };
        self.standby.push(0, &Request::Hello(hello));
        self.standby.state = State::Greeting;
        self.standby.send(&self.env);
    }

    fn on_source_sent(&mut self, mut buf: Vec<u8>) {
        self.standby.is_sending = false;
        if self.standby.out.is_empty() {
            buf.clear();
            self.standby.out = buf;
        }
        self.standby.send(&self.env);
    }

    fn on_source_ended(&mut self) {
        self.standby.fail("it can not be reached, or closed the connection".to_owned());
        self.standby.drop_conn(&self.env);
    }

    fn receive_from_source(&mut self, mut bytes: &[u8]) {
        self.standby.heard = self.env.now();
        loop {
            let mut parser = std::mem::take(&mut self.standby.parser);
            let parsed = parser.next(&mut bytes, REPLY_LEN_MAX);
            match parsed {
                Ok(None) => {
                    self.standby.parser = parser;
                    break;
                }
                Ok(Some(frame)) => {
                    self.standby.parser = parser;
                    match Reply::decode(&frame.header, &frame.body) {
                        Some(reply) => self.on_source_reply(frame.header.request_id, &reply),
                        None => self.give_source_up("it answers something odd".to_owned()),
                    }
                }
                Err(breach) => {
                    self.give_source_up(format!("its reply is broken: {}", breach.code.name()));
                }
            }
            if self.standby.conn.is_none() {
                return;
            }
        }
        self.pull_all();
    }

    fn give_source_up(&mut self, error: String) {
        self.standby.fail(error);
        self.standby.drop_conn(&self.env);
    }

    fn on_source_reply(&mut self, id: u64, reply: &Reply<'_>) {
        if self.standby.state == State::Greeting {
            let own = self.shard.map().partition_count();
            let refusal = match reply {
                Reply::Hello(welcome) if !welcome.authenticated => {
                    Some("it wants a password: give this cluster the same one".to_owned())
                }
                Reply::Hello(welcome) if welcome.partition_count != own => Some(format!(
                    "it has {} partitions and this cluster {own}: a standby has as many: as \
                     many cores per node, and --partitions-per-core",
                    welcome.partition_count
                )),
                Reply::Hello(_) => None,
                Reply::Error(failure) => Some(failure.text.to_owned()),
                _ => Some("it answers something odd".to_owned()),
            };
            match refusal {
                Some(error) => self.give_source_up(error),
                None => self.standby.state = State::Up,
            }
            return;
        }
        let Some(pull) = self.standby.pulls.get_mut(id as usize) else { return };
        let Some(asked) = pull.asked.take() else { return };
        let place = id as u32;
        match (reply, asked) {
            (Reply::Error(failure), _) => self.on_source_refusal(place, failure),
            (Reply::Changes(told), Asked::Begin) => self.begin_copy(place, told),
            (Reply::Changes(told), Asked::Changes(position)) => {
                self.take_changes(place, position, told);
            }
            (Reply::Copy(page), Asked::Rows(from)) => self.take_rows(place, &from, page),
            _ => self.give_source_up("it answers something odd".to_owned()),
        }
    }

    fn on_source_refusal(&mut self, place: u32, failure: &Failure<'_>) {
        let (now, is_lost) = (self.env.now(), failure.code == Code::TooOld as u16);
        let pull = &mut self.standby.pulls[place as usize];
        if is_lost && !pull.is_lost {
            let partition = self.shard.partition(place).id();
            tracing::warn!(%partition, "the source's log has gone on: it is copied anew");
            pull.is_lost = true;
            return;
        }
        pull.due = now + REFUSED_REST;
        self.standby.fail(failure.text.to_owned());
    }

    /// How far a partition is, if that is what the source was asked by.
    fn following_at(&self, place: u32, position: Position) -> Option<Following> {
        let cluster = self.standby.subject(0).cluster;
        let following = self.shard.partition(place).following()?;
        let fits = following.cluster == cluster && following.position == position;
        fits.then(|| Following::clone(following))
    }

    fn begin_copy(&mut self, place: u32, told: &Changed<'_>) {
        let cluster = self.standby.subject(0).cluster;
        let partition = self.shard.partition(place).id();
        tracing::info!(%partition, "copying from the source");
        self.standby.copies += 1;
        let (stage, position) = (Stage::Begins, told.position);
        let begun = Following { stage, cluster, position, until: 0, from: Some(Vec::new()) };
        self.note_heard(place, told);
        self.propose_told(place, Shipment::default(), &begun, told.timestamp);
        let pull = &mut self.standby.pulls[place as usize];
        (pull.is_lost, pull.wants_rows) = (false, true);
    }

    fn note_heard(&mut self, place: u32, told: &Changed<'_>) {
        let now = self.env.now();
        let pull = &mut self.standby.pulls[place as usize];
        (pull.newest, pull.now_ms, pull.heard) = (told.newest, told.now_ms, now);
        self.standby.error.clear();
    }

    fn take_changes(&mut self, place: u32, asked: Position, told: &Changed<'_>) {
        self.note_heard(place, told);
        let Some(mut following) = self.following_at(place, asked) else { return };
        let now = self.env.now();
        let pull = &mut self.standby.pulls[place as usize];
        pull.wants_rows = true;
        let is_whole = following.from.is_none() && told.position.index >= following.until;
        let is_news = told.position != asked || following.is_copying() && is_whole;
        if !is_news {
            pull.rest = (pull.rest * 2).clamp(REST[0], REST[1]);
            let rest = if following.from.is_some() { Duration::ZERO } else { pull.rest };
            pull.due = now + rest;
            return;
        }
        pull.rest = Duration::ZERO;
        following.position = told.position;
        let is_end = following.is_copying() && is_whole;
        if following.is_copying() {
            following.stage = if is_whole { Stage::Follows } else { Stage::Copies };
        }
        if following.stage == Stage::Follows {
            following.until = 0;
        }
        let mut entry = Shipment::default();
        if told.changes.iter().any(|change| entry.add(&change).is_none()) {
            return self.give_source_up("it tells of a key that can not be".to_owned());
        }
        // The end of a copy is as new as all that was copied.
        let clock = self.shard.partition(place).clock().0;
        let newest = if is_end { entry.newest().max(clock) } else { entry.newest() };
        self.propose_told(place, entry, &following, newest);
    }

    fn take_rows(&mut self, place: u32, asked: &[u8], page: &Rows<'_>) {
        let Some(following) = self.shard.partition(place).following().cloned() else { return };
        let fits = following.is_copying() && following.from.as_deref() == Some(asked);
        if !fits || following.cluster != self.standby.subject(0).cluster {
            return;
        }
        let mut entry = Shipment::default();
        if page.rows.iter().any(|row| entry.add(&row).is_none()) {
            return self.give_source_up("it tells of a key that can not be".to_owned());
        }
        let from = (!page.next.is_empty()).then(|| page.next.to_vec());
        let (stage, until) = (Stage::Copies, following.until.max(page.newest));
        let following = Following { stage, until, from, ..Following::clone(&following) };
        let newest = entry.newest();
        self.propose_told(place, entry, &following, newest);
        self.standby.pulls[place as usize].wants_rows = false;
    }

    fn propose_told(&mut self, place: u32, told: Shipment, following: &Following, timestamp: u64) {
        let proposed = self.shard.follow(place, told, Some(following), timestamp);
        self.standby.pulls[place as usize].proposed = proposed;
    }

    /// How far the partitions are that are led here.
    fn fed(&self) -> Fed {
        let now = self.env.now();
        let (is_up, error) = (self.standby.state == State::Up, self.standby.error.clone());
        let copies = self.standby.copies;
        let mut fed = Fed { up: is_up, error, copies, ..Fed::default() };
        for (place, pull) in (0..).zip(&self.standby.pulls) {
            if !self.shard.leads(place) {
                continue;
            }
            fed.led += 1;
            let partition = self.shard.partition(place);
            let following = partition.following().filter(|of| !of.is_copying());
            let Some(following) = following.filter(|_| !pull.is_lost) else {
                fed.copying += 1;
                continue;
            };
            let behind = pull.newest.saturating_sub(following.position.index);
            fed.lag_entries += behind;
            let since = now.saturating_sub(pull.heard).as_millis() as u64;
            let age = pull.now_ms.saturating_sub(partition.clock().0 >> 16);
            fed.lag_ms = fed.lag_ms.max(since + if behind > 0 { age } else { 0 });
        }
        fed
    }
}
