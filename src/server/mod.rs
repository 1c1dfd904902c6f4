//! One core of the server: connections on one side, the shard on the other.
//!
//! A turn: take what arrived on sockets and from other shards, parse and run requests in rounds
//! ([`round`]) until the time slice is used, work on long commands ([`job`]), end the shard's turn
//! (one log write), and send each connection what may leave ([`output`]).
//!
//! Bounds: a connection whose replies are not read stops being served and then being read; where
//! the log is behind, writes wait, and what their connections send after them; received bytes that
//! can not be served wait in the connection's stash, which the pause of reading bounds.
//!
//! Not here: what a command does ([`crate::command`]), where data is ([`crate::shard`]). Start and
//! end of the whole node: [`start()`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::env::{Class, ConnId, Env, Event, ListenerId, Sent};
use crate::metrics::Stat;
use crate::partition::Waiter;
use crate::shard::mailbox::Mailbox;
use crate::shard::{Hold, Planted, Shard};
use binary::{Desk, Line};
use channels::Channels;
use conn::Conn;
use job::Jobs;
use ledger::Ledger;
use limbo::Limbo;
use monitor::Monitors;
use peers::{Peers, Snapshots};

use latency::LatencyLog;
use question::Paused;
use remote::Held;
use round::Round;
use save::Saving;
use sleep::Woken;
use slowlog::SlowLog;
use standby::Standby;
use tracking::Trackers;

pub use push::OUTPUT_LIMITS;
pub use save::IDENTITY;
pub use start::{Error, Options, Running, log_dir, start, tree_dir};

pub(crate) use node::{Common, Node};
pub(crate) use start::{Shared, common, listen, node, opening};

mod away;
mod binary;
mod channels;
mod conn;
mod followers;
mod job;
mod keyspace;
mod latency;
mod ledger;
mod limbo;
mod monitor;
mod node;
mod notify;
mod output;
mod peers;
mod pubsub;
mod push;
mod question;
mod remote;
mod round;
mod save;
mod sleep;
mod slowlog;
mod standby;
mod start;
mod stride;
mod sweep;
mod tally;
#[cfg(test)]
mod tests;
mod together;
mod tracking;
mod transaction;

/// How long requests are served in one turn before replies are sent and sockets looked at.
const SLICE: Duration = Duration::from_micros(250);
/// How often time is looked at for expiry, accounting and idle buffers.
const TICK: Duration = Duration::from_millis(100);
/// How long a node that stops waits for others to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How long it answers whom nobody has told yet that others lead.
const FAREWELL: Duration = Duration::from_millis(400);
/// How long a draining node waits for replies that are due.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Bytes that connections are sent in one turn; who is left over comes first in the next.
const SENT_LEN_MAX: usize = 1 << 20;

/// Received bytes that wait to be parsed.
pub(crate) struct Work<C> {
    conn: ConnId,
    source: Source<C>,
    /// Bytes of it that were used.
    used: usize,
}

/// Where received bytes are.
pub(crate) enum Source<C> {
    /// In a buffer of the runtime.
    Chunk(C),
    /// In the connection's stash before.
    Own(Vec<u8>),
}

impl<C: std::ops::Deref<Target = [u8]>> Source<C> {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Chunk(chunk) => chunk,
            Source::Own(bytes) => bytes,
        }
    }
}

/// See the module's header.
pub struct Server<E: Env> {
    env: E,
    shard: Shard<E>,
    mailbox: Mailbox<E::Waker>,
    node: Rc<Node>,
    stop: Arc<AtomicBool>,
    conns: Vec<Option<Box<Conn>>>,
    conn_count: usize,
    work: VecDeque<Work<E::Chunk>>,
    round: Round<E::Chunk>,
    binary: Desk<E::Chunk>,
    jobs: Jobs,
    /// Answers to other shards that wait for a commit.
    held: Vec<Option<Held>>,
    held_free: Vec<u32>,
    /// Requests that nobody can answer now.
    limbo: Limbo,
    /// The other nodes, if there are any.
    peers: Option<Box<Peers>>,
    /// On their way to and from other nodes.
    snapshots: Snapshots<E>,
    /// Another cluster that this one follows.
    standby: Standby,
    /// Connections with something to send.
    dirty: Vec<u32>,
    waiters: Vec<Waiter>,
    piece: Vec<u8>,
    /// Who listens to what.
    channels: Channels,
    /// Who is told of changes of keys.
    trackers: Trackers,
    /// Scratch: who gets a message.
    listeners: Vec<ConnId>,
    /// Connections that leave too much unread.
    overrun: Vec<ConnId>,
    ticked: Rc<Cell<bool>>,
    /// What commands cost.
    ledger: Ledger,
    /// Those that took long.
    slow: SlowLog,
    /// Who is shown all of them.
    monitors: Monitors,
    /// How long some of them took.
    latency: LatencyLog,
    /// When rates were reckoned, and how many commands, bytes from clients and bytes to them there
    /// had been.
    rated: (Duration, [u64; 3]),
    /// Connections that have slept enough.
    woken: Rc<RefCell<Vec<Woken>>>,
    /// Commands wait (`CLIENT PAUSE`).
    paused: Option<Paused>,
    /// A copy of the data directory.
    saving: Saving,
    /// The node stops: what is due is sent, nothing new is begun.
    draining: bool,
}

impl<E: Env> Server<E> {
    /// A server on one core; `listen` and [`Server::run`] next.
    pub fn new(
        env: E,
        shard: Shard<E>,
        mailbox: Mailbox<E::Waker>,
        node: Node,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let channels = Channels::new(env.random());
        let partitions = shard.map().partition_count();
        let peers = shard
            .members()
            .map(|members| Box::new(Peers::new(Arc::clone(members), shard.id(), partitions)));
        Self {
            env,
            shard,
            mailbox,
            node: Rc::new(node),
            stop,
            conns: Vec::new(),
            conn_count: 0,
            work: VecDeque::new(),
            round: Round::default(),
            binary: Desk::default(),
            jobs: Jobs::default(),
            held: Vec::new(),
            held_free: Vec::new(),
            limbo: Limbo::default(),
            peers,
            snapshots: Snapshots::default(),
            standby: Standby::default(),
            dirty: Vec::new(),
            waiters: Vec::new(),
            piece: Vec::new(),
            channels,
            trackers: Trackers::default(),
            listeners: Vec::new(),
            overrun: Vec::new(),
            ticked: Rc::default(),
            ledger: Ledger::default(),
            slow: SlowLog::default(),
            monitors: Monitors::default(),
            latency: LatencyLog::default(),
            rated: (Duration::ZERO, [0; 3]),
            woken: Rc::default(),
            paused: None,
            saving: Saving::default(),
            draining: false,
        }
    }

    /// Serves until told to stop, then drains. Returns the shard, whose log is to be closed.
    pub async fn run(mut self) -> Shard<E> {
        self.spawn_ticks();
        let mut events = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            self.env.turn(&mut events).await;
            self.turn(&mut events);
        }
        self.give_leadership_away(&mut events).await;
        self.env.close_listeners();
        self.draining = true;
        self.end_pause();
        let end = self.env.now() + DRAIN_MAX;
        while !self.is_all_drained() && self.env.now() < end {
            self.env.turn(&mut events).await;
            self.turn(&mut events);
        }
        for index in 0..self.conns.len() as u32 {
            self.close(index);
        }
        self.shard
    }

    /// Has other nodes lead, and goes on serving until they do: nobody has to wait for an election.
    async fn give_leadership_away(&mut self, events: &mut Vec<Event<E::Chunk>>) {
        if self.shard.members().is_none() {
            return;
        }
        let mut end = self.env.now() + HAND_OVER_MAX;
        self.shard.hand_over();
        let mut is_over = false;
        while self.env.now() < end {
            self.env.turn(events).await;
            self.turn(events);
            if !is_over && !self.shard.leads_any() {
                // Until the others have heard of it they still ask here.
                (is_over, end) = (true, self.env.now() + FAREWELL);
            }
        }
    }

    fn spawn_ticks(&self) {
        let (env, ticked) = (self.env.clone(), Rc::clone(&self.ticked));
        self.env.spawn(Class::Foreground, async move {
            loop {
                env.sleep(TICK).await;
                ticked.set(true);
                env.notify();
            }
        });
    }

    fn turn(&mut self, events: &mut Vec<Event<E::Chunk>>) {
        self.shard.begin_turn();
        self.shard.take_fetched();
        self.serve_parked();
        self.serve_copying();
        self.look_for_observers();
        for event in events.drain(..) {
            self.on_event(event);
        }
        let has_mail = self.receive_mail();
        self.look_into_limbo();
        self.wake_sleepers();
        self.shard.settle();
        self.shard.advance();
        let mut now = self.env.now();
        match has_mail {
            true => self.ledger.end_round(now, self.shard.stats()),
            false => self.ledger.begin_turn(now),
        }
        self.charge_committed(now);
        let end = now + SLICE;
        while now < end && (self.run_round() | self.run_typed_round()) {
            self.shard.look_at_log();
            now = self.env.now();
            self.ledger.end_round(now, self.shard.stats());
        }
        let progressed = self.run_jobs() | self.run_longs();
        if self.ticked.replace(false) {
            self.on_tick();
        }
        self.shard.end_turn();
        self.shard.tend(self.blob_oldest());
        self.ledger.end_turn();
        self.charge_committed(now);
        if self.shard.is_overdue() {
            self.take_back_turn();
        }
        self.release();
        self.tell_changes();
        self.tell_monitors();
        self.close_overrun();
        self.flush_dirty();
        self.pull_all();
        self.send_to_peers();
        let full = self.mailbox.deliver();
        if full || progressed || self.has_received() {
            self.env.notify();
        }
    }

    fn update_rate(&mut self) {
        let (now, (since, before)) = (self.env.now(), self.rated);
        let elapsed_ms = (now - since).as_millis() as u64;
        if elapsed_ms < 1000 {
            return;
        }
        let stats = self.shard.stats();
        let counts = [&stats.commands, &stats.received_bytes, &stats.sent_bytes].map(Stat::get);
        let rates = [&stats.commands_per_s, &stats.received_per_s, &stats.sent_per_s];
        for ((rate, count), before) in rates.into_iter().zip(counts).zip(before) {
            rate.set(count.saturating_sub(before) * 1000 / elapsed_ms);
        }
        self.rated = (now, counts);
    }

    fn charge_committed(&mut self, now: Duration) {
        let shard = &self.shard;
        self.ledger.commit(now, shard.stats(), |hold| {
            shard.partition(hold.place).has_met(hold.index, hold.ack)
        });
    }

    fn has_received(&self) -> bool {
        !self.work.is_empty() || !self.binary.work.is_empty()
    }

    fn has_work(&self) -> bool {
        self.has_received() || !self.jobs.is_empty() || !self.binary.is_idle()
    }

    /// Puts received bytes in the queue of their port.
    fn enqueue(&mut self, work: Work<E::Chunk>, is_binary: bool) {
        let queue = if is_binary { &mut self.binary.work } else { &mut self.work };
        queue.push_back(work);
    }

    fn is_drained(&self) -> bool {
        !self.has_work()
            && self.limbo.is_empty()
            && self.peers.as_ref().is_none_or(|peers| peers.is_idle())
            && self.held.iter().all(Option::is_none)
            && self.conns.iter().flatten().all(|conn| conn.is_idle())
    }

    /// Whether nothing is due on any shard: the others may wait for answers of this one.
    fn is_all_drained(&mut self) -> bool {
        let idle = &self.node.common.idle;
        let drained = self.is_drained();
        if idle[usize::from(self.shard.id().0)].swap(drained, Ordering::AcqRel) != drained {
            self.mailbox.wake_all();
        }
        idle.iter().all(|shard| shard.load(Ordering::Acquire))
    }

    fn on_event(&mut self, event: Event<E::Chunk>) {
        match event {
            Event::Accepted { conn, listener: peers::LISTENER } => self.accept_peer(conn),
            Event::Accepted { conn, listener } => self.on_accepted(conn, listener),
            Event::Connected { conn }
            | Event::Refused { conn }
            | Event::Ended { conn }
            | Event::Received { conn, .. }
            | Event::Sent { conn, .. }
                if self.standby.has(conn) =>
            {
                self.on_source_event(event)
            }
            Event::Connected { conn } => self.on_peer_connected(conn),
            Event::Refused { conn } => self.on_peer_refused(conn),
            Event::Received { conn, chunk } if self.is_peer(conn) => {
                if self.is_client_of_peer_port(conn, &chunk) {
                    self.on_accepted(conn, binary::LISTENER);
                    return self.on_event(Event::Received { conn, chunk });
                }
                self.receive_from_peer(conn, &chunk);
            }
            Event::Sent { conn, buf } if self.is_peer(conn) => self.on_peer_sent(conn, buf),
            Event::Ended { conn } if self.is_peer(conn) => self.on_peer_ended(conn),
            Event::Received { conn, chunk } => {
                self.shard.stats().received_bytes.add(chunk.len() as u64);
                self.shard.stats().receives.add(1);
                let (draining, now_ms) = (self.draining, self.shard.now_ms());
                let Some(open) = self.conn(conn) else { return };
                if open.is_deaf() || draining {
                    return;
                }
                open.session.active_ms = now_ms;
                // What is in the queue is older than this, and goes to the stash from there.
                if open.queued == 0 && (!open.is_served() || !open.stash.is_empty()) {
                    open.stash.push_back(chunk.to_vec());
                    return self.pause_if_long(conn);
                }
                open.queued += 1;
                let is_binary = open.binary.is_some();
                self.enqueue(Work { conn, source: Source::Chunk(chunk), used: 0 }, is_binary);
            }
            Event::Sent { conn, buf } => {
                if let Some(open) = self.conn(conn) {
                    open.sending = false;
                    open.output.recycle(buf);
                    self.mark_dirty(conn.index);
                }
            }
            Event::Ended { conn } => {
                if let Some(open) = self.conn(conn) {
                    if open.ended && open.sending {
                        // The second is that of the send: it will never end.
                        return self.close(conn.index);
                    }
                    open.ended = true;
                    self.mark_dirty(conn.index);
                }
                self.mark_dirty(conn.index);
            }
        }
    }

    #[inline]
    fn is_peer(&self, conn: ConnId) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers.has(conn))
    }

    /// The turn took so long that a lease which it counted on may have ended: nothing of it leaves,
    /// and whoever was to hear of it has to ask again.
    fn take_back_turn(&mut self) {
        tracing::warn!(
            "the core was stopped for too long: connections that were answered are closed"
        );
        for index in std::mem::take(&mut self.dirty) {
            self.close(index);
        }
        self.mailbox.void_answers(&format!("TRYAGAIN {}", remote::LEADS_NO_MORE));
    }

    fn on_accepted(&mut self, id: ConnId, listener: ListenerId) {
        let is_binary = listener == binary::LISTENER;
        let stats = Arc::clone(self.shard.stats());
        if self.node.client_count() >= self.node.clients_max() {
            stats.connections_rejected.add(1);
            let mut refusal = b"-ERR max number of clients reached\r\n".to_vec();
            if is_binary {
                refusal.clear();
                Self::crowded_out(&mut refusal);
            }
            self.env.send(id, &mut refusal);
            return self.env.close(id);
        }
        stats.connections_received.add(1);
        stats.clients.add(1);
        let peer = self.env.peer_addr(id).map_or_else(String::new, |addr| addr.to_string());
        let session = self.node.new_session(peer, self.env.unix_ms());
        self.node.open_on(self.shard.id()).insert(session.id, id);
        let who = (session.peer.clone(), String::new());
        self.node.peers_on(self.shard.id()).insert(id.index, who);
        let index = id.index as usize;
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, || None);
        }
        assert!(self.conns[index].is_none(), "{id:?} accepted over a live connection");
        let mut conn = Box::new(Conn::new(id, session));
        conn.binary = is_binary.then(|| Box::new(Line::new(self.env.now())));
        conn.output.misplaces_answers = self.shard.planted() == Some(Planted::ReplyOutOfOrder);
        self.conns[index] = Some(conn);
        self.conn_count += 1;
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id.index as usize)?.as_deref_mut()?;
        (conn.id == id).then_some(conn)
    }

    fn mark_dirty(&mut self, index: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(index as usize)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Stops reading from a connection that sends more than is served.
    fn pause_if_long(&mut self, id: ConnId) {
        let env = self.env.clone();
        if let Some(conn) = self.conn(id)
            && !conn.paused
        {
            conn.paused = true;
            env.pause(id);
        }
    }

    /// Tells those who waited for what is committed now, or will never be.
    fn release(&mut self) {
        let mut waiters = std::mem::take(&mut self.waiters);
        // First who will never know: another leader's entry may be committed in place of theirs.
        self.give_up_abandoned(&mut waiters);
        self.shard.take_released(&mut waiters);
        let typed = |waiters: &[Waiter]| waiters.contains(&binary::WAITER);
        if typed(&waiters) {
            self.release_typed();
        }
        for waiter in waiters.drain(..).filter(|waiter| *waiter != binary::WAITER) {
            match remote::held_index(waiter) {
                Some(index) => self.answer_held(index),
                None => self.mark_dirty(waiter.0 as u32),
            }
        }
        self.waiters = waiters;
    }

    fn give_up_abandoned(&mut self, waiters: &mut Vec<Waiter>) {
        self.shard.take_abandoned(waiters);
        if waiters.is_empty() && !self.shard.has_lost_any() {
            return;
        }
        self.ledger.abandon();
        if waiters.contains(&binary::WAITER) || self.shard.has_lost_any() {
            self.abandon_typed();
        }
        for waiter in waiters.drain(..).filter(|waiter| *waiter != binary::WAITER) {
            match remote::held_index(waiter) {
                Some(index) => self.abandon_held(index),
                None => self.give_up(waiter.0 as u32),
            }
        }
        // Who was told that the entry is written, and whose reply had no room to leave since.
        if self.shard.has_lost_any() {
            let has_lost = |hold: Hold| self.shard.has_lost(hold.place, hold.index);
            let conns = self.conns.iter().flatten();
            let lost = conns.filter(|conn| conn.output.waits_for(has_lost));
            let lost: Vec<_> = lost.map(|conn| conn.id.index).collect();
            lost.into_iter().for_each(|index| self.give_up(index));
        }
    }

    /// Closes a connection whose held replies will never be known to be true; what is before them
    /// leaves first.
    fn give_up(&mut self, index: u32) {
        // The one that waited may be gone, and another be in its place.
        let held = |conn: &Conn| conn.output.is_held();
        let mut left = SENT_LEN_MAX;
        if self.conns.get(index as usize).and_then(Option::as_deref).is_some_and(held)
            && self.flush(index, &mut left)
        {
            self.close(index);
        }
    }

    fn flush_dirty(&mut self) {
        let mut left = SENT_LEN_MAX;
        let mut dirty = std::mem::take(&mut self.dirty).into_iter();
        while left > 0
            && let Some(index) = dirty.next()
        {
            if self.flush(index, &mut left) {
                self.after_flush(index);
            }
        }
        if dirty.len() > 0 {
            self.dirty.splice(..0, dirty);
            self.env.notify();
        }
    }

    /// Sends what may leave. False: the connection is gone.
    fn flush(&mut self, index: u32, left: &mut usize) -> bool {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return false };
        conn.dirty = false;
        while *left > 0 {
            if conn.sending {
                return true;
            }
            let shard = &self.shard;
            conn.output.take(&mut self.piece, |hold| shard.has_met(hold));
            if self.piece.is_empty() {
                return true;
            }
            *left = left.saturating_sub(self.piece.len());
            conn.in_flight = self.piece.len();
            conn.session.active_ms = shard.now_ms();
            shard.stats().sent_bytes.add(self.piece.len() as u64);
            shard.stats().sends.add(1);
            match self.env.send(conn.id, &mut self.piece) {
                Sent::Done => {
                    let piece = std::mem::take(&mut self.piece);
                    self.piece = conn.output.recycle(piece);
                }
                Sent::InFlight => conn.sending = true,
                Sent::Broken => {
                    self.piece.clear();
                    self.close(index);
                    return false;
                }
            }
        }
        // More of a large value; the others first.
        self.mark_dirty(index);
        self.env.notify();
        true
    }

    /// Serves on, reads on or closes, as what was sent allows.
    fn after_flush(&mut self, index: u32) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if conn.answers_first && conn.output.awaited_count() == 0 {
            conn.answers_first = false;
            conn.busy = false;
        }
        if conn.is_done() {
            return self.close(index);
        }
        if conn.busy || !conn.is_relieved() {
            return;
        }
        if !conn.deferred.is_empty() {
            self.env.notify();
            return self.run_deferred(index);
        }
        if let Some(error) = conn.broken.take() {
            let id = conn.id;
            self.env.notify();
            return self.refuse_stream(id, &error);
        }
        // Ahead of what is in the queue, which came later.
        let is_binary = conn.binary.is_some();
        let queue = if is_binary { &mut self.binary.work } else { &mut self.work };
        while let Some(bytes) = conn.stash.pop_back() {
            conn.queued += 1;
            queue.push_front(Work { conn: conn.id, source: Source::Own(bytes), used: 0 });
        }
        if conn.paused {
            conn.paused = false;
            self.env.resume(conn.id);
        }
    }

    /// Closes a connection and forgets it. What was due to it is given up.
    fn close(&mut self, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize).and_then(Option::take) else { return };
        self.env.close(conn.id);
        if conn.session.subscribed.is_any() {
            self.leave_all(conn.id);
        }
        if conn.session.tracking.is_some() {
            self.untrack(conn.id);
        }
        if conn.session.is_monitor {
            self.remove_monitor(conn.id);
        }
        self.node.open_on(self.shard.id()).remove(&conn.session.id);
        self.node.peers_on(self.shard.id()).remove(&index);
        self.conn_count -= 1;
        self.shard.stats().clients.sub(1);
    }

    /// Closes connections that have sent nothing for too long, if there is such a thing: as Redis,
    /// none that listens or waits for an answer.
    fn close_idle(&mut self) {
        let max_ms = self.node.common.idle_s.load(Ordering::Relaxed) * 1000;
        if max_ms == 0 {
            return;
        }
        let now_ms = self.env.unix_ms();
        let is_idle = |conn: &&Conn| {
            let waits = conn.busy || conn.postponed || conn.unread_len() > 0;
            let listens = conn.session.subscribed.is_any() || conn.session.is_monitor;
            let is_old = now_ms.saturating_sub(conn.session.active_ms) > max_ms;
            // One that waits for changes has a request under way.
            let asks = conn.binary.as_deref().is_some_and(|line| !line.is_idle());
            is_old && !waits && !listens && !asks
        };
        let idle = self.conns.iter().flatten().map(|conn| &**conn).filter(is_idle);
        for index in idle.map(|conn| conn.id.index).collect::<Vec<_>>() {
            self.close(index);
        }
    }

    fn on_tick(&mut self) {
        self.conns.iter_mut().flatten().for_each(|conn| conn.output.shrink());
        self.update_gauges();
        self.update_rate();
        self.look_for_slow();
        self.shard.set_eviction(self.node.eviction());
        self.shard.sweep_readers();
        self.tend_far_readers();
        self.on_typed_tick();
        self.tick_peers();
        self.tick_standby();
        let outlook = self.peers.as_ref().map(|peers| peers.outlook());
        self.shard.tick_replicas(&outlook.unwrap_or_default());
        self.node.look_at_members(self.shard.map());
        self.look_at_pause();
        self.close_idle();
        self.look_at_save();
        // While writes are paused, keys stay too.
        let expired_all = self.paused.is_some() || !self.shard.expire();
        if !expired_all || self.shard.release_some() {
            self.ticked.set(true);
            self.env.notify();
        }
        let (stats, counters) = (self.shard.stats(), self.env.counters());
        stats.turns.set(counters.turns);
        stats.parks.set(counters.parks);
        stats.stalls.set(counters.stalls);
        stats.panics.set(counters.panics);
    }
}
