//! Connections inside the simulation: the shard's end behind [`Env`](crate::env::Env), the client's
//! in the hands of the test.
//!
//! Each direction is a lane: chunks in order, each with its own latency, never overtaking. The
//! sender waits once [`NetConditions::window`](super::NetConditions) bytes are on their way or
//! unread. What the shard may not tell apart is drawn: how bytes are cut, whether a send ends at
//! once, how many chunks still come after a pause.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;

use xxhash_rust::xxh3::xxh3_64;

use super::executor::Owner;
use super::world::{Action, What, World};
use crate::env::{ConnId, Event, ListenerId, Sent};
use crate::id::{NodeId, ShardId};

/// Received bytes.
#[derive(Debug)]
pub struct SimChunk(Box<[u8]>);

impl Deref for SimChunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// One shard's listeners and connections, and what happened on them since its last turn.
#[derive(Default)]
pub(super) struct Conns {
    events: Vec<Event<SimChunk>>,
    listeners: Vec<Listener>,
    slots: Vec<ConnSlot>,
    free: Vec<u32>,
}

struct Listener {
    port: u16,
    shared: bool,
    open: bool,
}

#[derive(Default)]
struct ConnSlot {
    generation: u32,
    link: Option<u64>,
}

impl Conns {
    pub fn close_listeners(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.open = false);
    }

    fn listener_on(&self, port: u16) -> Option<ListenerId> {
        let index = self.listeners.iter().position(|each| each.open && each.port == port)?;
        Some(ListenerId(index as u32))
    }

    fn link(&self, conn: ConnId) -> Option<u64> {
        let slot = self.slots.get(conn.index as usize)?;
        slot.link.filter(|_| slot.generation == conn.generation)
    }

    fn add(&mut self, link: u64) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(ConnSlot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.link = Some(link);
        ConnId { index, generation: slot.generation }
    }

    fn remove(&mut self, conn: ConnId) {
        let slot = &mut self.slots[conn.index as usize];
        slot.link = None;
        slot.generation += 1;
        self.free.push(conn.index);
        self.events.retain(|event| conn_of(event) != conn);
    }
}

fn conn_of(event: &Event<SimChunk>) -> ConnId {
    match event {
        Event::Accepted { conn, .. }
        | Event::Received { conn, .. }
        | Event::Sent { conn, .. }
        | Event::Ended { conn } => *conn,
    }
}

/// One direction of a link: chunks and, as `None`, the end, in order.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Option<Vec<u8>>>,
    /// When the last of the queue arrives.
    last: u64,
    /// On their way, or there and not read.
    bytes: usize,
}

/// The shard's end of a link.
#[derive(Clone, Copy)]
pub(super) enum Server {
    Waiting,
    Open(Owner, ConnId),
    Gone,
}

/// How far the client has gone in leaving.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaving {
    No,
    /// Sends no more.
    Half,
    /// Sends and reads no more.
    Closed,
}

/// A connection, both ends of it.
pub(super) struct Link {
    node: NodeId,
    port: u16,
    pub addr: SocketAddr,
    pub server: Server,
    pub outbox: VecDeque<u8>,
    up: Lane,
    held: VecDeque<Option<Vec<u8>>>,
    pub leaving: Leaving,
    /// What the end on its way up will tell the shard.
    end_queued: Leaving,
    /// What the shard's end knows of the client's leaving.
    ended: Leaving,
    broken: bool,
    paused: bool,
    grace: u64,
    down: Lane,
    sending: Option<(Vec<u8>, usize)>,
    inbox: Vec<u8>,
    pub client_ended: bool,
    /// The test dropped the client: with the server gone too, the link may go.
    pub client_dropped: bool,
}

impl Link {
    fn new(node: NodeId, port: u16, addr: SocketAddr) -> Self {
        Self {
            node,
            port,
            addr,
            server: Server::Waiting,
            outbox: VecDeque::new(),
            up: Lane::default(),
            held: VecDeque::new(),
            leaving: Leaving::No,
            end_queued: Leaving::No,
            ended: Leaving::No,
            broken: false,
            paused: false,
            grace: 0,
            down: Lane::default(),
            sending: None,
            inbox: Vec::new(),
            client_ended: false,
            client_dropped: false,
        }
    }

    /// What was sent and has not arrived is lost.
    pub fn lose_sent(&mut self) {
        self.outbox.clear();
        self.up.queue.clear();
        self.held.clear();
    }

    /// The link goes on without its server.
    fn lose_server(&mut self) {
        self.server = Server::Gone;
        self.lose_sent();
        self.sending = None;
    }
}

/// The shard's side: what [`super::SimEnv`] hands on.
impl World {
    pub fn listen(
        &mut self,
        owner: Owner,
        addr: SocketAddr,
        shared: bool,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        assert!(self.shard(owner).is_some(), "a listener of an earlier life of {owner:?}");
        let machine = self.machine(owner.node);
        let mut port = addr.port();
        if port == 0 {
            port = machine.next_port;
            machine.next_port += 1;
        }
        let mut others = machine.shards.values().flat_map(|shard| &shard.conns.listeners);
        if others.any(|each| each.open && each.port == port && !(each.shared && shared)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let conns = &mut self.shard(owner).expect("looked at above").conns;
        conns.listeners.push(Listener { port, shared, open: true });
        let id = ListenerId(conns.listeners.len() as u32 - 1);
        Ok((id, SocketAddr::new(addr.ip(), port)))
    }

    /// Gives a shard's loop what happened; what it takes over makes room in its links.
    pub fn hand_over(&mut self, owner: Owner, events: &mut Vec<Event<SimChunk>>) {
        let Some(shard) = self.shard(owner) else { return };
        let taken = std::mem::take(&mut shard.conns.events);
        let conns = &shard.conns;
        let read: Vec<(u64, usize)> = taken
            .iter()
            .filter_map(|event| match event {
                Event::Received { conn, chunk } => Some((conns.link(*conn)?, chunk.len())),
                _ => None,
            })
            .collect();
        for (number, len) in read {
            if let Some(link) = self.links.get_mut(&number) {
                link.up.bytes -= len;
                self.pump_up(number);
            }
        }
        events.extend(taken);
    }

    fn event(&mut self, owner: Owner, event: Event<SimChunk>) {
        if let Some(shard) = self.shard(owner) {
            shard.conns.events.push(event);
            shard.signal.wake();
        }
    }

    fn link_of(&mut self, owner: Owner, conn: ConnId) -> Option<u64> {
        self.shard(owner)?.conns.link(conn)
    }

    pub fn peer_addr(&mut self, owner: Owner, conn: ConnId) -> Option<SocketAddr> {
        let number = self.link_of(owner, conn)?;
        self.links.get(&number).map(|link| link.addr)
    }

    pub fn send(&mut self, owner: Owner, conn: ConnId, buf: &mut Vec<u8>) -> Sent {
        let Some(number) = self.link_of(owner, conn) else { return Sent::Broken };
        let link = self.links.get_mut(&number).expect("a connection has its link");
        assert!(link.sending.is_none(), "two sends at once on {conn:?} of {owner:?}");
        if link.ended == Leaving::Closed {
            // The kernel takes what is sent to a closed peer until the peer's reset has come.
            link.broken |= self.rng.one_in(2);
            if std::mem::replace(&mut link.broken, true) {
                return Sent::Broken;
            }
            buf.clear();
            return Sent::Done;
        }
        if buf.is_empty() {
            return Sent::Done;
        }
        let room = self.net.window.saturating_sub(link.down.bytes);
        let in_flight = buf.len() > room || self.rng.chance(self.net.send_in_flight);
        let print = xxh3_64(buf);
        link.sending = Some((std::mem::take(buf), 0));
        self.note(What::Sent, number, print);
        self.pump_down(number, in_flight);
        if in_flight {
            return Sent::InFlight;
        }
        let link = self.links.get_mut(&number).expect("a connection has its link");
        if let Some((sent, _)) = link.sending.take() {
            *buf = sent;
            buf.clear();
        }
        Sent::Done
    }

    pub fn pause(&mut self, owner: Owner, conn: ConnId) {
        let Some(number) = self.link_of(owner, conn) else { return };
        let grace = self.rng.below(3);
        if let Some(link) = self.links.get_mut(&number).filter(|link| !link.paused) {
            link.paused = true;
            link.grace = grace;
        }
    }

    pub fn resume(&mut self, owner: Owner, conn: ConnId) {
        let Some(number) = self.link_of(owner, conn) else { return };
        let link = self.links.get_mut(&number).expect("a connection has its link");
        link.paused = false;
        let held = std::mem::take(&mut link.held);
        let count = held.len();
        for item in held.into_iter().rev() {
            link.up.queue.push_front(item);
        }
        // Each arrival takes the front of the queue, so it takes as many more as were held.
        for _ in 0..count {
            let at = self.now + self.rng.below(1_000);
            self.schedule(at, Action::Up(number));
        }
    }

    pub fn close(&mut self, owner: Owner, conn: ConnId) {
        let Some(number) = self.link_of(owner, conn) else { return };
        let shard = self.shard(owner).expect("it has the connection");
        shard.conns.remove(conn);
        self.note(What::Closed, number, 0);
        self.links.get_mut(&number).expect("a connection has its link").lose_server();
        self.push(number, false, None);
    }

    /// The process of `node` is gone: its connections break, and what was on its way to the
    /// clients may be lost.
    pub fn break_links(&mut self, node: NodeId) {
        let numbers: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.node == node && matches!(link.server, Server::Open(..)))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let lost = self.rng.one_in(2);
            let link = self.links.get_mut(&number).expect("just listed");
            link.lose_server();
            if lost {
                link.down.queue.clear();
            }
            self.push(number, false, None);
        }
    }
}

/// Both lanes.
impl World {
    /// A link on its way to the node.
    pub fn connect(&mut self, node: NodeId, port: u16) -> u64 {
        let number = self.number();
        let from_port = 30_000 + (number % 30_000) as u16;
        let addr = SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), from_port);
        self.links.insert(number, Link::new(node, port, addr));
        let (min, max) = (*self.net.latency_ns.start(), *self.net.latency_ns.end());
        let at = self.now + self.rng.between(min, max);
        self.schedule(at, Action::Connect(number));
        number
    }

    /// Puts a chunk, or the end, on its way: up to the shard, or down to the client.
    fn push(&mut self, number: u64, is_up: bool, item: Option<Vec<u8>>) {
        let (min, max) = (*self.net.latency_ns.start(), *self.net.latency_ns.end());
        let at = self.now + self.rng.between(min, max);
        let link = self.links.get_mut(&number).expect("the caller has it");
        let lane = if is_up { &mut link.up } else { &mut link.down };
        lane.bytes += item.as_ref().map_or(0, Vec::len);
        lane.queue.push_back(item);
        lane.last = at.max(lane.last + 1);
        let (at, action) =
            (lane.last, if is_up { Action::Up(number) } else { Action::Down(number) });
        self.schedule(at, action);
    }

    /// Where to cut the next `len` bytes when `room` is left.
    fn cut(&mut self, len: usize, room: usize) -> usize {
        let most = len.min(room).min(self.net.chunk_len_max);
        if most == 0 || self.rng.one_in(2) {
            return most;
        }
        self.rng.between(1, most as u64) as usize
    }

    /// Sends what the client wants sent, as far as there is room; then its end.
    pub fn pump_up(&mut self, number: u64) {
        loop {
            let Some(link) = self.links.get(&number) else { return };
            if !matches!(link.server, Server::Open(..)) {
                return;
            }
            let (waiting, used) = (link.outbox.len(), link.up.bytes);
            let len = self.cut(waiting, self.net.window.saturating_sub(used));
            let link = self.links.get_mut(&number).expect("looked at above");
            if len > 0 {
                let chunk = link.outbox.drain(..len).collect();
                self.push(number, true, Some(chunk));
                continue;
            }
            if waiting == 0 && link.leaving > link.end_queued {
                link.end_queued = link.leaving;
                self.push(number, true, None);
            }
            return;
        }
    }

    /// Sends what is to be sent to the client, as far as there is room; with `tells`, the shard is
    /// told when all is sent.
    fn pump_down(&mut self, number: u64, tells: bool) {
        loop {
            let Some(link) = self.links.get(&number) else { return };
            let Some((buf, sent)) = &link.sending else { return };
            let (waiting, used) = (buf.len() - sent, link.down.bytes);
            if waiting == 0 {
                if tells {
                    let at = self.now + self.rng.between(500, 200_000);
                    self.schedule(at, Action::Sent(number));
                }
                return;
            }
            // A send that is not left in flight had room for all of it.
            let room = self.net.window.saturating_sub(used);
            let len = self.cut(waiting, room);
            if len == 0 {
                return;
            }
            let link = self.links.get_mut(&number).expect("looked at above");
            let (buf, sent) = link.sending.as_mut().expect("looked at above");
            let chunk = buf[*sent..*sent + len].to_vec();
            *sent += len;
            self.push(number, false, Some(chunk));
        }
    }

    /// A client's connection reaches the node: some listener takes it, or it is refused.
    pub fn on_connect(&mut self, number: u64) {
        let Some(link) = self.links.get(&number) else { return };
        let (node, port) = (link.node, link.port);
        let found: Vec<(ShardId, ListenerId)> = match self.machines.get(&node) {
            Some(machine) if machine.up => machine
                .shards
                .iter()
                .filter_map(|(id, shard)| Some((*id, shard.conns.listener_on(port)?)))
                .collect(),
            _ => Vec::new(),
        };
        if found.is_empty() {
            let link = self.links.get_mut(&number).expect("looked at above");
            link.lose_server();
            link.client_ended = true;
            if link.client_dropped {
                self.links.remove(&number);
            }
            return;
        }
        let (shard, listener) = found[self.rng.index(found.len())];
        let owner = self.boot(node, shard);
        let conn = self.shard(owner).expect("just found").conns.add(number);
        self.links.get_mut(&number).expect("looked at above").server = Server::Open(owner, conn);
        self.note(What::Connected, number, u64::from(shard.0));
        self.event(owner, Event::Accepted { conn, listener });
        self.pump_up(number);
    }

    pub fn on_up(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let Some(item) = link.up.queue.pop_front() else { return };
        let Server::Open(owner, conn) = link.server else { return };
        if link.paused {
            if link.grace == 0 || !link.held.is_empty() {
                return link.held.push_back(item);
            }
            link.grace -= 1;
        }
        match item {
            Some(chunk) => {
                self.note(What::Received, number, xxh3_64(&chunk));
                let chunk = SimChunk(chunk.into_boxed_slice());
                self.event(owner, Event::Received { conn, chunk });
            }
            None => self.end(number, owner, conn),
        }
    }

    fn end(&mut self, number: u64, owner: Owner, conn: ConnId) {
        let link = self.links.get_mut(&number).expect("the caller has it");
        let told = link.ended != Leaving::No;
        link.ended = link.end_queued;
        let given_up = link.ended == Leaving::Closed && link.sending.take().is_some();
        self.note(What::Arrived, number, u64::from(told));
        // Twice only if a send was in flight on a half-closed connection: who waits for its end
        // must learn that it never comes.
        if !told || given_up {
            self.event(owner, Event::Ended { conn });
        }
    }

    pub fn on_down(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let Some(item) = link.down.queue.pop_front() else { return };
        let print = item.as_ref().map_or(0, |chunk| xxh3_64(chunk));
        match item {
            Some(chunk) => link.inbox.extend(chunk),
            None => link.client_ended = true,
        }
        if link.client_ended && link.client_dropped {
            self.links.remove(&number);
        }
        self.note(What::Arrived, number, print);
    }

    pub fn on_sent(&mut self, number: u64) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let Server::Open(owner, conn) = link.server else { return };
        let Some((mut buf, _)) = link.sending.take() else { return };
        buf.clear();
        self.note(What::SendEnded, number, 0);
        self.event(owner, Event::Sent { conn, buf });
    }

    /// What has arrived at the client; makes room for more.
    pub fn drain_inbox(&mut self, number: u64) -> Vec<u8> {
        let Some(link) = self.links.get_mut(&number) else { return Vec::new() };
        let taken = std::mem::take(&mut link.inbox);
        link.down.bytes -= taken.len();
        let stuck = link.sending.as_ref().is_some_and(|(buf, sent)| *sent < buf.len());
        if stuck && !taken.is_empty() {
            self.pump_down(number, true);
        }
        taken
    }
}
