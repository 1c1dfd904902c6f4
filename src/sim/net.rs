//! Connections inside the simulation: of a test to a node, and of one node to another.
//!
//! Each direction is a lane: chunks in order, each with its own latency, never overtaking. The
//! sender waits once [`NetConditions::window`](super::NetConditions) bytes are on their way or
//! unread. What a shard may not tell apart is drawn: how bytes are cut, whether a send ends at
//! once, how many chunks still come after a pause. Broken roads are in [`super::cuts`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use xxhash_rust::xxh3::xxh3_64;

use super::executor::Owner;
use super::link::{CLIENT, End, Item, Leaving, Link, Place, Sending, Side, addr_of};
use super::world::{Action, What, World, nanos};
use crate::env::{ConnId, Event, ListenerId, Sent};
use crate::id::{NodeId, ShardId};
use crate::limits::CONNECT_MAX;

/// How long nothing may be heard of the connections of a machine that lost its power.
const SILENCE_MAX_NS: u64 = 10_000_000_000;

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
    link: Option<(u64, Side)>,
}

impl Conns {
    pub fn close_listeners(&mut self) {
        self.listeners.iter_mut().for_each(|listener| listener.open = false);
    }

    fn listener_on(&self, port: u16) -> Option<ListenerId> {
        let index = self.listeners.iter().position(|each| each.open && each.port == port)?;
        Some(ListenerId(index as u32))
    }

    fn link(&self, conn: ConnId) -> Option<(u64, Side)> {
        let slot = self.slots.get(conn.index as usize)?;
        slot.link.filter(|_| slot.generation == conn.generation)
    }

    fn add(&mut self, link: u64, side: Side) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(ConnSlot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.link = Some((link, side));
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
        | Event::Connected { conn }
        | Event::Received { conn, .. }
        | Event::Sent { conn, .. }
        | Event::Refused { conn }
        | Event::Ended { conn } => *conn,
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
        let read: Vec<(u64, Side, usize)> = taken
            .iter()
            .filter_map(|event| match event {
                Event::Received { conn, chunk } => {
                    conns.link(*conn).map(|(number, side)| (number, side, chunk.len()))
                }
                _ => None,
            })
            .collect();
        for (number, side, len) in read {
            self.make_room(number, side, len);
        }
        events.extend(taken);
    }

    pub(super) fn event(&mut self, owner: Owner, event: Event<SimChunk>) {
        if let Some(shard) = self.shard(owner) {
            shard.conns.events.push(event);
            shard.signal.wake();
        }
    }

    fn link_of(&mut self, owner: Owner, conn: ConnId) -> Option<(u64, Side)> {
        self.shard(owner)?.conns.link(conn)
    }

    /// The end of a connection that is open, and the link's number and side.
    fn end_of(&mut self, owner: Owner, conn: ConnId) -> Option<(u64, Side, &mut End)> {
        let (number, side) = self.link_of(owner, conn)?;
        let link = self.links.get_mut(&number).expect("a connection has its link");
        Some((number, side, link.end_mut(side)))
    }

    pub fn peer_addr(&mut self, owner: Owner, conn: ConnId) -> Option<SocketAddr> {
        let (number, side) = self.link_of(owner, conn)?;
        let link = self.links.get(&number)?;
        (!link.end(side).connecting).then(|| link.end(side.other()).addr)
    }

    pub fn send(&mut self, owner: Owner, conn: ConnId, buf: &mut Vec<u8>) -> Sent {
        let Some((number, side, end)) = self.end_of(owner, conn) else { return Sent::Broken };
        assert!(!end.connecting, "a send before {conn:?} of {owner:?} is connected");
        assert!(end.sending.is_none(), "two sends at once on {conn:?} of {owner:?}");
        if end.peer_left == Leaving::Closed {
            // The kernel takes what is sent to a closed peer until the peer's reset has come.
            let breaks = self.rng.one_in(2);
            let (_, _, end) = self.end_of(owner, conn).expect("looked at above");
            end.broken |= breaks;
            if std::mem::replace(&mut end.broken, true) {
                return Sent::Broken;
            }
            buf.clear();
            return Sent::Done;
        }
        if buf.is_empty() {
            return Sent::Done;
        }
        let used = self.links[&number].end(side.other()).lane.bytes;
        let room = self.net.window.saturating_sub(used);
        let in_flight = buf.len() > room || self.rng.chance(self.net.send_in_flight);
        let print = xxh3_64(buf);
        let sending = Sending { buf: std::mem::take(buf), sent: 0, tells: in_flight };
        let (_, _, end) = self.end_of(owner, conn).expect("looked at above");
        end.sending = Some(sending);
        self.note(What::Sent, number, print);
        self.pump(number, side);
        if in_flight {
            return Sent::InFlight;
        }
        let (_, _, end) = self.end_of(owner, conn).expect("looked at above");
        if let Some(sending) = end.sending.take() {
            *buf = sending.buf;
            buf.clear();
        }
        Sent::Done
    }

    pub fn pause(&mut self, owner: Owner, conn: ConnId) {
        if self.link_of(owner, conn).is_none() {
            return;
        }
        let grace = self.rng.below(3);
        if let Some((_, _, end)) = self.end_of(owner, conn).filter(|(_, _, end)| !end.paused) {
            end.paused = true;
            end.grace = grace;
        }
    }

    pub fn resume(&mut self, owner: Owner, conn: ConnId) {
        let Some((number, side, end)) = self.end_of(owner, conn) else { return };
        end.paused = false;
        let held = std::mem::take(&mut end.held);
        let count = held.len();
        for item in held.into_iter().rev() {
            end.lane.queue.push_front(item);
        }
        // Each arrival takes the front of the queue, so it takes as many more as were held.
        for _ in 0..count {
            let at = self.now + self.rng.below(1_000);
            self.schedule(at, Action::Arrive(number, side));
        }
    }

    pub fn close(&mut self, owner: Owner, conn: ConnId) {
        let Some((number, side)) = self.link_of(owner, conn) else { return };
        let shard = self.shard(owner).expect("it has the connection");
        shard.conns.remove(conn);
        self.note(What::Closed, number, 0);
        self.leave(number, side);
    }

    /// This end is gone; the other, if somebody has it, will learn of it.
    fn leave(&mut self, number: u64, side: Side) {
        let link = self.links.get_mut(&number).expect("a connection has its link");
        link.lose(side);
        if link.end(side.other()).is_there() {
            self.push(number, side.other(), Item::End);
        } else {
            self.links.remove(&number);
        }
    }

    /// The process of `node` is gone: its connections break, and what was on its way from it may be
    /// lost. With the power gone too, other nodes may hear nothing for a while.
    pub fn break_links(&mut self, node: NodeId, power: bool) {
        for number in self.links.keys().copied().collect::<Vec<u64>>() {
            for side in Side::BOTH {
                let Some(link) = self.links.get(&number) else { continue };
                let end = link.end(side);
                if end.node == Some(node) && matches!(end.place, Place::Open(..)) {
                    let may_be_silent = power && link.end(side.other()).node.is_some();
                    self.break_off(number, side, may_be_silent);
                }
            }
        }
    }

    fn break_off(&mut self, number: u64, side: Side, may_be_silent: bool) {
        let lost = self.rng.one_in(2);
        let is_silent = may_be_silent && self.rng.one_in(2);
        let silence = if is_silent { self.rng.below(SILENCE_MAX_NS) } else { 0 };
        let lane =
            &mut self.links.get_mut(&number).expect("just listed").end_mut(side.other()).lane;
        if lost {
            lane.queue.clear();
        }
        lane.last = lane.last.max(self.now + silence);
        self.leave(number, side);
    }
}

/// Both lanes.
impl World {
    /// A test's link on its way to the node.
    pub fn connect(&mut self, node: NodeId, port: u16) -> u64 {
        let to = SocketAddr::new(addr_of(node), port);
        self.dial((None, Place::Test), CLIENT.into(), to)
    }

    /// A shard's.
    pub fn open(&mut self, owner: Owner, to: SocketAddr) -> ConnId {
        assert!(self.shard(owner).is_some(), "a connection of an earlier life of {owner:?}");
        let number = self.dial((Some(owner.node), Place::Waiting), addr_of(owner.node), to);
        let conn = self.shard(owner).expect("looked at above").conns.add(number, Side::Opener);
        let link = self.links.get_mut(&number).expect("just made");
        let end = link.end_mut(Side::Opener);
        end.place = Place::Open(owner, conn);
        end.connecting = true;
        let limit = self.now + nanos(CONNECT_MAX) + self.rng.below(2_000_000);
        self.schedule(limit, Action::GiveUp(number));
        conn
    }

    fn dial(&mut self, opener: (Option<NodeId>, Place), ip: IpAddr, to: SocketAddr) -> u64 {
        let number = self.number();
        let from = SocketAddr::new(ip, 30_000 + (number % 30_000) as u16);
        let link = Link::new(opener, from, to);
        let at = self.now + self.latency(link.road(Side::Acceptor));
        self.links.insert(number, link);
        self.schedule(at, Action::Connect(number));
        number
    }

    /// Puts a chunk, or the end, on its way to a side.
    fn push(&mut self, number: u64, to: Side, item: Item) {
        let road = self.links[&number].road(to);
        let at = self.now + self.latency(road);
        let link = self.links.get_mut(&number).expect("looked at above");
        let lane = &mut link.end_mut(to).lane;
        if let Item::Chunk(chunk) = &item {
            lane.bytes += chunk.len();
        }
        lane.queue.push_back(item);
        lane.last = at.max(lane.last + 1);
        let at = lane.last;
        self.schedule(at, Action::Arrive(number, to));
    }

    /// Where to cut the next `len` bytes when `room` is left.
    fn slice(&mut self, len: usize, room: usize) -> usize {
        let most = len.min(room).min(self.net.chunk_len_max);
        if most == 0 || self.rng.one_in(2) {
            return most;
        }
        self.rng.between(1, most as u64) as usize
    }

    /// Sends what `from` wants sent, as far as there is room; then its end, if it leaves.
    pub fn pump(&mut self, number: u64, from: Side) {
        loop {
            let Some(link) = self.links.get(&number) else { return };
            let to = link.end(from.other());
            if !to.is_there() {
                return;
            }
            let (waiting, used) = (link.end(from).unsent(), to.lane.bytes);
            let len = self.slice(waiting, self.net.window.saturating_sub(used));
            if len == 0 {
                if waiting == 0 {
                    self.all_sent(number, from);
                }
                return;
            }
            let link = self.links.get_mut(&number).expect("looked at above");
            let chunk = link.end_mut(from).take(len);
            self.push(number, from.other(), Item::Chunk(chunk));
        }
    }

    fn all_sent(&mut self, number: u64, from: Side) {
        let link = self.links.get_mut(&number).expect("the caller has it");
        let end = link.end_mut(from);
        if let Some(sending) = &mut end.sending {
            if std::mem::take(&mut sending.tells) {
                let at = self.now + self.rng.between(500, 200_000);
                self.schedule(at, Action::Sent(number, from));
            }
        } else if end.leaving > end.end_queued {
            end.end_queued = end.leaving;
            self.push(number, from.other(), Item::End);
        }
    }

    /// `side` has read `len` bytes: there is room for more.
    pub(super) fn make_room(&mut self, number: u64, side: Side, len: usize) {
        let Some(link) = self.links.get(&number) else { return };
        let is_cut = self.is_cut(link.road(side.other()));
        let link = self.links.get_mut(&number).expect("looked at above");
        let lane = &mut link.end_mut(side).lane;
        if is_cut {
            lane.unacked += len;
            return;
        }
        lane.bytes -= len;
        if len > 0 {
            self.pump(number, side.other());
        }
    }

    /// A connection reaches the node: some listener takes it, or it is refused.
    pub fn on_connect(&mut self, number: u64) {
        let Some(link) = self.links.get(&number) else { return };
        let (road, port) = (link.road(Side::Acceptor), link.end(Side::Acceptor).addr.port());
        let is_shards = matches!(link.end(Side::Opener).place, Place::Open(..));
        if Side::BOTH.iter().any(|to| self.is_cut(link.road(*to))) {
            if Side::BOTH.iter().any(|to| self.is_rejecting(link.road(*to))) {
                self.refused(number);
            }
            return;
        }
        let found = road.1.map_or(Vec::new(), |node| self.listeners(node, port));
        let (Some(node), false) = (road.1, found.is_empty()) else { return self.refuse(number) };
        let (shard, listener) = found[self.rng.index(found.len())];
        let owner = self.boot(node, shard);
        let conn = self.shard(owner).expect("just found").conns.add(number, Side::Acceptor);
        let link = self.links.get_mut(&number).expect("looked at above");
        link.end_mut(Side::Acceptor).place = Place::Open(owner, conn);
        self.note(What::Connected, number, u64::from(shard.0));
        self.event(owner, Event::Accepted { conn, listener });
        if is_shards {
            self.push(number, Side::Opener, Item::Connected);
        }
        self.pump(number, Side::Opener);
    }

    fn listeners(&self, node: NodeId, port: u16) -> Vec<(ShardId, ListenerId)> {
        match self.machines.get(&node) {
            Some(machine) if machine.up => machine
                .shards
                .iter()
                .filter_map(|(id, shard)| Some((*id, shard.conns.listener_on(port)?)))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Nobody listens there. A test learns it at once; a shard later, from a machine without power
    /// perhaps never, and never where there is none.
    fn refuse(&mut self, number: u64) {
        let link = &self.links[&number];
        let is_shards = matches!(link.end(Side::Opener).place, Place::Open(..));
        let machine = link.end(Side::Acceptor).node.and_then(|node| self.machines.get(&node));
        let is_powered = machine.map(|machine| machine.powered);
        let is_silent =
            is_shards && is_powered.is_none_or(|is_powered| !is_powered && self.rng.one_in(2));
        let link = self.links.get_mut(&number).expect("looked at above");
        link.lose(Side::Acceptor);
        if is_silent {
            return;
        } else if is_shards {
            return self.push(number, Side::Opener, Item::Refused);
        }
        let opener = link.end_mut(Side::Opener);
        opener.is_over = true;
        if opener.dropped {
            self.links.remove(&number);
        }
    }

    /// The time to connect is over.
    pub fn give_up(&mut self, number: u64) {
        if self.links.get(&number).is_some_and(|link| link.end(Side::Opener).connecting) {
            self.break_end(number, Side::Opener);
        }
    }

    pub fn arrive(&mut self, number: u64, side: Side) {
        let Some(link) = self.links.get(&number) else { return };
        let is_cut = self.is_cut(link.road(side));
        let end = self.links.get_mut(&number).expect("looked at above").end_mut(side);
        if is_cut {
            end.lane.stalled += 1;
            return;
        }
        let Some(item) = end.lane.queue.pop_front() else { return };
        match end.place {
            Place::Test => self.arrive_at_test(number, item),
            Place::Open(owner, conn) => self.arrive_at_shard(number, side, (owner, conn), item),
            Place::Waiting | Place::Gone => {}
        }
    }

    fn arrive_at_shard(&mut self, number: u64, side: Side, at: (Owner, ConnId), item: Item) {
        let (owner, conn) = at;
        let end = self.links.get_mut(&number).expect("the caller has it").end_mut(side);
        if end.paused && !end.connecting {
            if end.grace == 0 || !end.held.is_empty() {
                return end.held.push_back(item);
            }
            end.grace -= 1;
        }
        match item {
            // It gave up on the other side before.
            Item::Chunk(_) | Item::Connected if end.peer_left != Leaving::No => {}
            Item::Refused => self.refused(number),
            Item::Chunk(chunk) => {
                self.note(What::Received, number, xxh3_64(&chunk));
                let chunk = SimChunk(chunk.into_boxed_slice());
                self.event(owner, Event::Received { conn, chunk });
            }
            Item::Connected => {
                end.connecting = false;
                self.note(What::Connected, number, 0);
                self.event(owner, Event::Connected { conn });
            }
            Item::End => {
                let left = self.links[&number].end(side.other()).end_queued;
                self.end(number, side, left);
            }
        }
    }

    /// The shard that connects learns that it is refused.
    fn refused(&mut self, number: u64) {
        let end = self.links.get_mut(&number).expect("the caller has it").end_mut(Side::Opener);
        let Place::Open(owner, conn) = end.place else { return };
        if std::mem::replace(&mut end.peer_left, Leaving::Closed) == Leaving::No {
            end.connecting = false;
            self.note(What::Refused, number, 0);
            self.event(owner, Event::Refused { conn });
        }
    }

    /// A shard's end learns that the other side `left`.
    pub(super) fn end(&mut self, number: u64, side: Side, left: Leaving) {
        let end = self.links.get_mut(&number).expect("the caller has it").end_mut(side);
        let Place::Open(owner, conn) = end.place else { return };
        let told = end.peer_left != Leaving::No;
        end.peer_left = left;
        end.connecting = false;
        let given_up = left == Leaving::Closed && end.sending.take().is_some();
        self.note(What::Arrived, number, u64::from(told));
        // Twice only if a send was in flight on a half-closed connection: who waits for its end
        // must learn that it never comes.
        if !told || given_up {
            self.event(owner, Event::Ended { conn });
        }
    }

    fn arrive_at_test(&mut self, number: u64, item: Item) {
        let link = self.links.get_mut(&number).expect("the caller has it");
        let end = link.end_mut(Side::Opener);
        let mut print = 0;
        match item {
            Item::Chunk(chunk) => {
                print = xxh3_64(&chunk);
                end.inbox.extend(chunk);
            }
            Item::End | Item::Connected | Item::Refused => end.is_over = true,
        }
        if end.is_over && end.dropped {
            self.links.remove(&number);
        }
        self.note(What::Arrived, number, print);
    }

    pub fn on_sent(&mut self, number: u64, side: Side) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let end = link.end_mut(side);
        let Place::Open(owner, conn) = end.place else { return };
        let Some(Sending { mut buf, .. }) = end.sending.take() else { return };
        buf.clear();
        self.note(What::SendEnded, number, 0);
        self.event(owner, Event::Sent { conn, buf });
    }

    /// What has arrived at a test's end; makes room for more.
    pub fn drain_inbox(&mut self, number: u64) -> Vec<u8> {
        let Some(link) = self.links.get_mut(&number) else { return Vec::new() };
        let taken = std::mem::take(&mut link.end_mut(Side::Opener).inbox);
        self.make_room(number, Side::Opener, taken.len());
        taken
    }
}
