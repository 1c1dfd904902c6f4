//! The shards of other nodes, as this shard talks to them: a link to each that it has something
//! for, an incoming connection from each that has something for it.
//!
//! Replicas' messages go to the shard of the same number on each node. Requests that another node's
//! partition leader must serve go to that shard, in the parcels that shards of one node exchange;
//! their answers come back on the other's link. A link that breaks is dialled anew; what was asked
//! over it and not answered ends as unknown.

mod asked;
mod incoming;
mod link;
mod snapshots;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::cluster::{Members, ReplicaSet};
use crate::consensus::{Message, Outlook};
use crate::env::{ConnId, Env, ListenerId};
use crate::id::{NodeId, PartitionId, ShardId};
use crate::protocol::peer::{Closed, Led, Place, is_same};
use crate::shard::mailbox::Parcel;

use incoming::Incoming;
use link::Link;

pub(super) use snapshots::Snapshots;

/// The peers' listener: the fourth that a shard opens.
pub const LISTENER: ListenerId = ListenerId(3);

/// A peer that was not heard of for so long is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// The same is told so often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// A peer that was heard of within this time is there.
const THERE_MAX: Duration = Duration::from_secs(1);
/// A link that carries nothing else carries a beat so often.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// See the module's header. Lives on one core.
pub struct Peers {
    members: Arc<Members>,
    own: Place,
    /// By the other shard's number.
    links: BTreeMap<ShardId, Link>,
    /// Which of them was dialled last on the connection of a place.
    dialled: Vec<Option<ShardId>>,
    /// By the connection's place.
    incoming: BTreeMap<u32, Incoming>,
    /// Parcels that came.
    mail: VecDeque<(ShardId, Parcel)>,
    /// The version of the members that was looked at.
    known: u64,
    /// Why a connection was closed that the operator was told of last, and when.
    told: (String, Duration),
    /// Scratch.
    messages: Vec<(PartitionId, Message)>,
}

impl Peers {
    /// None is connected.
    pub fn new(members: Arc<Members>, shard: ShardId, partition_count: u32) -> Self {
        let own = Place {
            cluster: members.cluster(),
            node: members.own(),
            shard,
            shard_count: members.shard_count(),
            partition_count,
            incarnation: members.incarnation(),
            life: members.life(),
        };
        let mut peers = Self {
            own,
            links: BTreeMap::new(),
            dialled: Vec::new(),
            incoming: BTreeMap::new(),
            mail: VecDeque::new(),
            known: members.topology().version,
            told: (String::new(), Duration::ZERO),
            messages: Vec::new(),
            members,
        };
        peers.look_at_members();
        peers
    }

    /// From now on there is to be a link to a shard of another node.
    fn want(&mut self, node: NodeId, shard: ShardId) {
        let number = self.members.number(node, shard);
        let Some(addr) = self.addr_of(node, shard) else { return };
        self.links.entry(number).or_insert_with(|| Link::new(node, shard, addr));
    }

    fn addr_of(&self, node: NodeId, shard: ShardId) -> Option<SocketAddr> {
        let mut addr = self.members.others().iter().find(|member| member.node() == node)?.peer;
        addr.set_port(addr.port() + shard.0);
        Some(addr)
    }

    /// Sees to a link to each node there is; those that lead elsewhere now, and have to go.
    fn look_at_members(&mut self) -> Vec<ShardId> {
        let others = self.members.others();
        others.iter().for_each(|member| self.want(member.node(), self.own.shard));
        let leads_elsewhere = |link: &Link| self.addr_of(link.node, link.shard) != Some(link.addr);
        let stale = self.links.iter().filter(|(_, link)| leads_elsewhere(link));
        stale.map(|(number, _)| *number).collect()
    }

    /// Those that are connected and turn out to be of a data directory which is not their node's.
    fn reborn(&self) -> Vec<ShardId> {
        let is_other = |node, incarnation| {
            let known = self.members.incarnation_of(node);
            !is_same(incarnation, known)
        };
        let links = self.links.iter().filter(|(_, link)| link.is_up());
        let links = links.filter(|(_, link)| is_other(link.node, link.incarnation));
        let of = |incoming: &Incoming| Some((incoming.from?, incoming.incarnation));
        let incoming = self.incoming.values().filter_map(of).filter(|(from, incarnation)| {
            self.members.far(*from).is_some_and(|(node, _)| is_other(node, *incarnation))
        });
        links.map(|(number, _)| *number).chain(incoming.map(|(from, _)| from)).collect()
    }

    /// Whether a connection is one of theirs.
    pub fn has(&self, conn: ConnId) -> bool {
        self.link_of(conn).is_some()
            || self.incoming.get(&conn.index).is_some_and(|incoming| incoming.conn == conn)
    }

    /// Whether the operator is to be told why a connection was closed: who is refused dials again
    /// ten times a second.
    fn is_news(&mut self, why: &str, now: Duration) -> bool {
        let (told, at) = &self.told;
        let is_news = told != why || now.saturating_sub(*at) > TOLD_EVERY;
        if is_news {
            self.told = (why.to_owned(), now);
        }
        is_news
    }

    /// The connection from a shard of a node.
    fn from(&self, node: NodeId, shard: ShardId) -> Option<&Incoming> {
        let number = Some(self.members.number(node, shard));
        self.incoming.values().find(|incoming| incoming.from == number)
    }

    /// The number of the shard to which a connection is the link.
    fn link_of(&self, conn: ConnId) -> Option<ShardId> {
        let number = (*self.dialled.get(conn.index as usize)?)?;
        self.links.get(&number).filter(|link| link.conn == Some(conn)).map(|_| number)
    }

    /// A link has a new connection.
    fn note_dialled(&mut self, number: ShardId, conn: ConnId) {
        let index = conn.index as usize;
        if index >= self.dialled.len() {
            self.dialled.resize(index + 1, None);
        }
        self.dialled[index] = Some(number);
    }

    /// What the links tell of the other nodes' shards of this shard's number.
    pub fn outlook(&self) -> Outlook {
        let replicas = || self.links.values().filter(|link| link.shard == self.own.shard);
        let nodes = |is_meant: fn(&Link) -> bool| {
            replicas().filter(|link| is_meant(link)).map(|link| link.node).collect()
        };
        Outlook { up: nodes(Link::is_up), gone: nodes(Link::is_refused) }
    }

    /// Tells all shards which nodes this one hears of.
    fn note_heard(&self, now: Duration) {
        let is_meant = |link: &&Link| link.shard == self.own.shard && link.is_up();
        let heard = self.links.values().filter(is_meant).map(|link| {
            let heard = self.from(link.node, link.shard).map_or(Duration::ZERO, |from| from.heard);
            (link.node, link.silent_for(heard, now))
        });
        self.members.note_heard(self.own.shard, &heard.collect::<Vec<_>>());
    }

    /// Whether nothing is on its way to them.
    pub fn is_idle(&self) -> bool {
        self.links.values().all(Link::is_idle)
    }

    /// Whether requests for a shard would be sent.
    pub fn reaches(&self, number: ShardId) -> bool {
        self.links.get(&number).is_some_and(Link::is_up)
    }

    /// One shard of each node that is reached.
    pub fn twins(&self) -> impl Iterator<Item = ShardId> + '_ {
        let own = self.own.shard;
        let twins = self.links.iter().filter(move |(_, link)| link.shard == own && link.is_up());
        twins.map(|(number, _)| *number)
    }

    /// The shards that would be.
    pub fn reached(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.links.iter().filter(|(_, link)| link.is_up()).map(|(number, _)| *number)
    }

    /// From now on there is to be a link to each shard of each node.
    pub fn want_all(&mut self) {
        for node in self.members.others().iter().map(|member| member.node()).collect::<Vec<_>>() {
            (0..self.own.shard_count).for_each(|shard| self.want(node, ShardId(shard)));
        }
    }

    /// The shards that would be reached, and were told otherwise of whether connections here are
    /// told of prefixes; from now on they count as told.
    pub fn untold_of_broadcast(&mut self, wants: bool) -> Vec<ShardId> {
        let links = self.links.iter_mut().filter(|(_, link)| link.is_up());
        let untold = links.filter(|(_, link)| link.told_broadcast != wants);
        let told = untold.map(|(number, link)| {
            link.told_broadcast = wants;
            *number
        });
        told.collect()
    }

    /// Answers a shard's question.
    pub fn push_closed(&mut self, to: ShardId, closed: &Closed) {
        if let Some(link) = self.links.get_mut(&to) {
            link.push_closed(closed);
        }
    }

    /// The next parcel that came, and from whom.
    pub fn receive(&mut self) -> Option<(ShardId, Parcel)> {
        self.mail.pop_front()
    }
}

impl<E: Env> Server<E> {
    /// Sends what this turn has for other nodes: after [`crate::shard::Shard::end_turn`], and
    /// before the next.
    pub(super) fn send_to_peers(&mut self) {
        let Some(mut peers) = self.peers.take() else { return };
        self.send_messages(&mut peers);
        self.announce_trackers(&mut peers);
        self.send_mail(&mut peers);
        self.receive_snapshots(&mut peers);
        self.send_snapshots(&mut peers);
        for link in peers.links.values_mut() {
            link.flush(&self.env);
        }
        self.peers = Some(peers);
    }

    fn send_messages(&mut self, peers: &mut Peers) {
        let mut messages = std::mem::take(&mut peers.messages);
        self.shard.take_messages(&mut messages);
        let mut lost = Vec::new();
        for (partition, message) in messages.drain(..) {
            let number = peers.members.number(message.to, self.shard.id());
            let Some(link) = peers.links.get_mut(&number) else { continue };
            let shard = &self.shard;
            let content = |index, term| shard.content(partition, index, term);
            if !link.push_message(partition, &message, content) && !lost.contains(&link.node) {
                lost.push(link.node);
            }
        }
        peers.links.values_mut().for_each(Link::end_batch);
        lost.into_iter().for_each(|node| self.shard.unreachable(node));
        peers.messages = messages;
    }

    fn send_mail(&mut self, peers: &mut Peers) {
        let first = self.shard.map().shard_count();
        for number in (first..).take(self.mailbox.far_count()).map(ShardId) {
            let Some(parcel) = self.mailbox.take_far(number) else { continue };
            if let Some((node, shard)) = peers.members.far(number) {
                peers.want(node, shard);
            }
            let Some(link) = peers.links.get_mut(&number) else {
                // The node is gone for good.
                self.postpone_all(&parcel);
                continue;
            };
            if !link.is_up() {
                // What was not sent can go to another; answers are for that shard alone.
                self.postpone_all(&parcel);
                link.keep_answers(parcel);
            } else if let Err(error) = link.push_mail(&parcel, self.env.now()) {
                tracing::warn!(node = %link.node, %error, "a peer's mail can not be sent");
                self.drop_link(peers, number);
            }
        }
    }

    /// Other nodes are there, or elsewhere, than before.
    fn follow_topology(&mut self, peers: &mut Peers) {
        let version = peers.members.topology().version;
        if std::mem::replace(&mut peers.known, version) == version {
            return;
        }
        for number in peers.look_at_members() {
            self.drop_link(peers, number);
            peers.links.remove(&number);
        }
        peers.look_at_members();
        for number in peers.reborn() {
            self.drop_link(peers, number);
        }
    }

    /// Dials who is not there, drops who was not heard of, beats where nothing else is to say.
    pub(super) fn tick_peers(&mut self) {
        let Some(mut peers) = self.peers.take() else { return };
        let now = self.env.now();
        let (mut gone, mut dialled) = (Vec::new(), Vec::new());
        let topology = peers.members.topology();
        self.follow_topology(&mut peers);
        self.want_leaders(&mut peers);
        let round = self.shard.ask_leaders();
        for (number, link) in &mut peers.links {
            let from_there = peers.incoming.values().find(|other| other.from == Some(*number));
            let heard = from_there.map_or(Duration::ZERO, |other| other.heard);
            if link.is_lost(heard, now) {
                gone.push(*number);
                continue;
            }
            if link.shard == self.shard.id() {
                round.into_iter().for_each(|round| link.push_ask(round));
                if self.shard.is_slow() {
                    link.push_slow();
                }
                link.push_leads(self.shard.led_without(link.node).map(|(partition, of)| {
                    let ReplicaSet { members, applied, term, behind, .. } = of;
                    Led { partition, term, applied, members, behind }
                }));
            }
            // One of its shards is enough.
            if link.shard == ShardId(0) && self.shard.id() == ShardId(0) {
                link.push_topology(&topology);
            }
            if let Some(conn) = link.tick(&self.env, &peers.own, now) {
                dialled.push((*number, conn));
            }
        }
        dialled.into_iter().for_each(|(number, conn)| peers.note_dialled(number, conn));
        for number in gone {
            self.drop_link(&mut peers, number);
        }
        peers.note_heard(now);
        let silent = |other: &&Incoming| now.saturating_sub(other.heard) > SILENCE_MAX;
        let silent: Vec<_> = peers.incoming.values().filter(silent).map(|of| of.conn).collect();
        for conn in silent {
            self.drop_incoming(&mut peers, conn);
        }
        self.peers = Some(peers);
    }

    /// The connection is up, closed, or has taken what was sent.
    pub(super) fn on_peer_connected(&mut self, conn: ConnId) {
        let Some(peers) = self.peers.as_mut() else { return };
        let (own, now) = (peers.own, self.env.now());
        if let Some(link) = peers.link_of(conn).and_then(|number| peers.links.get_mut(&number)) {
            link.greet(&self.env, &own, now);
        }
    }

    /// Nobody listens where a link leads.
    pub(super) fn on_peer_refused(&mut self, conn: ConnId) {
        let Some(peers) = self.peers.as_ref() else { return };
        let Some(number) = peers.link_of(conn) else { return };
        self.on_peer_ended(conn);
        if let Some(link) = self.peers.as_mut().and_then(|peers| peers.links.get_mut(&number)) {
            link.note_refusal();
        }
    }

    pub(super) fn on_peer_sent(&mut self, conn: ConnId, buf: Vec<u8>) {
        let Some(peers) = self.peers.as_mut() else { return };
        if let Some(link) = peers.link_of(conn).and_then(|number| peers.links.get_mut(&number)) {
            link.on_sent(&self.env, buf);
        }
    }

    pub(super) fn on_peer_ended(&mut self, conn: ConnId) {
        let Some(mut peers) = self.peers.take() else { return };
        match peers.link_of(conn) {
            Some(number) => self.drop_link(&mut peers, number),
            None => self.drop_incoming(&mut peers, conn),
        }
        self.peers = Some(peers);
    }

    /// A link is broken: what was asked over it will not be answered.
    fn drop_link(&mut self, peers: &mut Peers, number: ShardId) {
        let Some(link) = peers.links.get_mut(&number) else { return };
        if link.is_up() {
            self.mistrust(Some(number));
        }
        let asked = link.drop_conn(&self.env);
        self.shard.unreachable(link.node);
        asked.end(self);
        // Answers to the other may be lost with it: that it asked in vain it sees by the end of its
        // own link.
        let from_there = peers.incoming.values().find(|other| other.from == Some(number));
        if let Some(conn) = from_there.map(|other| other.conn) {
            self.drop_incoming(peers, conn);
        }
    }

    fn drop_incoming(&mut self, peers: &mut Peers, conn: ConnId) {
        let gone = peers.incoming.remove(&conn.index);
        if gone.is_some_and(|gone| gone.from.is_some()) {
            self.mistrust(None);
        }
        self.env.close(conn);
    }
}
