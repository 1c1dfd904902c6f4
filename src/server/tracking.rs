//! Connections that are told when keys change: who they are, and how they are told.
//!
//! Three shards may be in it. The one that has the key knows who read it ([`crate::shard`]) and
//! mails the change to the shards of its readers and of those who are told of prefixes; theirs
//! knows what each asked for; and if that is to tell another connection, it mails on to that one's.
//! Mail keeps its order, and a shard's answers come before its invalidations: so whoever is told of
//! a change has before had the replies to all that it read before the change, and a cache that
//! drops what it is told of holds nothing old for good. By the same order a connection that ends is
//! looked for in the tables of readers after all that it read.
//!
//! An invalidation leaves in the turn in which the change commits, before the writer is answered if
//! both are on the key's shard. A connection that is gone is told nothing.
//!
//! FLUSHALL and FLUSHDB tell everybody to forget everything, once per shard.
//!
//! Connections of other nodes: [`far`].

mod far;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::Server;
use super::output::Encoded;
use crate::command::tracking::{self, Mode};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::Proto;
use crate::shard::mailbox::{Invalidation, Listener, Parcel};
use crate::shard::{Caller, Change, Client};

/// Connections of this shard that track keys.
#[derive(Default)]
pub struct Trackers {
    /// By their index.
    conns: BTreeMap<u32, ConnId>,
    /// Those who are told of all keys with a prefix.
    prefixes: BTreeMap<Box<[u8]>, Vec<ConnId>>,
    /// Keys that changed in this turn, and who changed each last: told together.
    changed: BTreeMap<Vec<u8>, Option<Client>>,
    /// Shards of other nodes that are told of all keys.
    far: BTreeSet<ShardId>,
    /// A connection of another node may be among the readers of keys.
    has_far_readers: bool,
    /// Other nodes were told that there are prefixes here.
    is_announced: bool,
    /// The node's trackers are to forget everything at the turn's end.
    forgets: bool,
}

impl Trackers {
    fn leave(&mut self, id: ConnId) {
        self.conns.remove(&id.index);
        self.prefixes.retain(|_, listeners| {
            listeners.retain(|listener| *listener != id);
            !listeners.is_empty()
        });
    }
}

/// Who tracks.
impl<E: Env> Server<E> {
    /// What a connection's session says of tracking has changed.
    pub(super) fn retrack(&mut self, index: u32) {
        let Some(Some(conn)) = self.conns.get(index as usize) else { return };
        let id = conn.id;
        self.trackers.leave(id);
        if let Some(tracking) = &conn.session.tracking {
            self.trackers.conns.insert(index, id);
            for prefix in &tracking.prefixes {
                self.trackers.prefixes.entry(prefix.clone()).or_default().push(id);
            }
        }
        self.count_trackers();
        self.note_caller(index);
    }

    /// A connection is gone.
    pub(super) fn untrack(&mut self, id: ConnId) {
        self.trackers.leave(id);
        self.count_trackers();
        let gone = Client { shard: self.shard.id(), conn: id };
        for shard in (0..self.shard.map().shard_count()).map(ShardId) {
            self.tell_shard(shard, Listener::Nobody, None, Some(gone));
        }
        self.untrack_far(gone);
    }

    /// Before the connection hears of it: what any shard evaluates after that, it is told of.
    fn count_trackers(&mut self) {
        let here = &self.node.common.trackers[usize::from(self.shard.id().0)];
        here.all.store(self.trackers.conns.len() as u32, Ordering::Release);
        here.broadcast.store(self.trackers.prefixes.len() as u32, Ordering::Release);
        self.shard.stats().tracking_clients.set(self.trackers.conns.len() as u64);
        self.look_for_observers();
    }

    /// Tells the shard for whom the next command is. Call while it is observed.
    pub(super) fn note_caller(&mut self, index: u32) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        let session = &mut conn.session;
        // Neither a subcommand of CLIENT nor MULTI uses up what CLIENT CACHING said.
        let is_next =
            !session.last_command.starts_with("client|") && session.last_command != "multi";
        let lasts = conn.in_turn > 0;
        let tracking = session.tracking.as_deref_mut().filter(|_| is_next);
        let remembers = tracking.is_some_and(|tracking| tracking.take_remembers(lasts));
        let client = Client { shard: self.shard.id(), conn: conn.id };
        self.shard.set_caller(Some(Caller { client, remembers }));
    }
}

/// Telling.
impl<E: Env> Server<E> {
    /// Tells everybody who has to know of a committed change.
    pub(super) fn invalidate(&mut self, change: &Change, key: Option<&[u8]>) {
        for reader in &change.readers {
            self.tell_shard(reader.shard, Listener::Reader(reader.conn), key, change.by);
        }
        if !change.is_write {
            return;
        }
        match key {
            Some(key) => self.tell_of_prefixes(key, change.by),
            None => self.tell_everybody(change.by),
        }
        self.tell_far_shards(key, change.by);
    }

    fn tell_of_prefixes(&mut self, key: &[u8], by: Option<Client>) {
        for shard in (0..self.shard.map().shard_count()).map(ShardId) {
            let there = &self.node.common.trackers[usize::from(shard.0)];
            if there.broadcast.load(Ordering::Acquire) > 0 {
                self.tell_shard(shard, Listener::Broadcast, Some(key), by);
            }
        }
    }

    /// Has all of the node that track forget everything.
    fn tell_everybody(&mut self, by: Option<Client>) {
        for shard in (0..self.shard.map().shard_count()).map(ShardId) {
            let there = &self.node.common.trackers[usize::from(shard.0)];
            if there.all.load(Ordering::Acquire) > 0 {
                self.tell_shard(shard, Listener::Everybody, None, by);
            }
        }
    }

    fn tell_shard(&mut self, shard: ShardId, to: Listener, key: Option<&[u8]>, by: Option<Client>) {
        if shard == self.shard.id() {
            return self.take_invalidation(to, key, by);
        }
        let by = match self.is_far(shard) {
            true => by.and_then(|by| self.as_called_by(shard, by)),
            false => by,
        };
        let parcel = self.mailbox.to(shard);
        let key = key.map(|key| parcel.push_bytes(key));
        parcel.invalidations.push(Invalidation { to, key, by });
    }

    /// Takes in what another shard tells.
    pub(super) fn receive_invalidations(&mut self, from: ShardId, parcel: &Parcel) {
        let mut rest = parcel.invalidations.as_slice();
        while let Some(Invalidation { to, key, by }) = rest.first() {
            let mut told = 1;
            match (to, by) {
                (Listener::Sender(wants), _) => self.note_far_broadcast(from, *wants),
                // Another node's shard has another number here.
                (Listener::Nobody, Some(gone)) => {
                    self.shard.forget_reader(Client { shard: from, ..*gone });
                }
                // Keys that it was told together leave together.
                (Listener::Instead(id), _) if key.is_some() => {
                    let same = rest.iter().take_while(|next| next.to == *to);
                    let keys = same.map_while(|next| next.key).map(|key| parcel.slice(key));
                    let keys: Vec<_> = keys.collect();
                    told = keys.len();
                    self.tell_instead(*id, &keys);
                }
                _ => self.take_invalidation(*to, key.map(|key| parcel.slice(key)), *by),
            }
            rest = &rest[told..];
        }
    }

    fn take_invalidation(&mut self, to: Listener, key: Option<&[u8]>, by: Option<Client>) {
        match to {
            // Of what it read before it was told of all keys, it is told once.
            Listener::Reader(id) if key.is_some() && self.hears_prefixes(id) => {}
            Listener::Reader(id) => self.tell_tracker(id, by, key.as_slice()),
            Listener::Broadcast => {
                let key = key.expect("the change of a key");
                self.trackers.changed.insert(key.to_vec(), by);
            }
            Listener::Everybody => {
                for id in self.trackers.conns.values().copied().collect::<Vec<_>>() {
                    self.tell_tracker(id, None, &[]);
                }
            }
            Listener::Instead(id) => self.tell_instead(id, key.as_slice()),
            Listener::Nobody => by.into_iter().for_each(|gone| self.shard.forget_reader(gone)),
            // That is about the sender of a parcel.
            Listener::Sender(_) => {}
        }
    }

    /// Tells those who listen to prefixes of what changed in this turn.
    pub(super) fn broadcast_changed(&mut self) {
        if self.trackers.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.trackers.changed);
        let prefixes: Vec<_> = self
            .trackers
            .prefixes
            .iter()
            .map(|(prefix, to)| (prefix.clone(), to.clone()))
            .collect();
        for (prefix, listeners) in prefixes {
            let from = changed.range(prefix.to_vec()..);
            let keys: Vec<_> = from.take_while(|(key, _)| key.starts_with(&prefix)).collect();
            for id in listeners {
                let me = Some(Client { shard: self.shard.id(), conn: id });
                let no_loop = self.wants_no_loop(id);
                let keys = keys.iter().filter(|(_, by)| !no_loop || **by != me);
                let keys: Vec<&[u8]> = keys.map(|(key, _)| key.as_slice()).collect();
                if !keys.is_empty() {
                    self.tell_tracker(id, None, &keys);
                }
            }
        }
    }

    fn hears_prefixes(&mut self, id: ConnId) -> bool {
        let tracking = self.conn(id).and_then(|conn| conn.session.tracking.as_deref());
        tracking.is_some_and(|tracking| tracking.mode == Mode::Broadcast)
    }

    fn wants_no_loop(&mut self, id: ConnId) -> bool {
        let tracking = self.conn(id).and_then(|conn| conn.session.tracking.as_deref());
        tracking.is_some_and(|tracking| tracking.no_loop)
    }

    /// Tells a connection of ours that tracks, or the one that it named. No keys: all.
    fn tell_tracker(&mut self, id: ConnId, by: Option<Client>, keys: &[&[u8]]) {
        let me = Client { shard: self.shard.id(), conn: id };
        let Some(conn) = self.conn(id) else { return };
        let (proto, client_id) = (conn.session.proto, conn.session.id);
        let Some(tracking) = conn.session.tracking.as_deref() else { return };
        if tracking.no_loop && by == Some(me) {
            return;
        }
        let Some(other) = tracking.redirect.filter(|other| *other != client_id) else {
            return match proto {
                Proto::Resp3 => self.push_invalidation(id.index, proto, keys),
                // It could not tell this from a reply.
                Proto::Resp2 => {}
            };
        };
        let shard = self.node.shard_of_client(other);
        let Some(to) = self.node.conn_of(other) else { return self.break_redirect(id, other) };
        if shard == self.shard.id() {
            return self.tell_instead(to, keys);
        }
        for key in keys {
            self.tell_shard(shard, Listener::Instead(to), Some(key), None);
        }
        if keys.is_empty() {
            self.tell_shard(shard, Listener::Instead(to), None, None);
        }
    }

    fn break_redirect(&mut self, id: ConnId, other: u64) {
        let Some(conn) = self.conn(id) else { return };
        let proto = conn.session.proto;
        if let Some(tracking) = conn.session.tracking.as_deref_mut() {
            tracking.is_broken = true;
        }
        if proto == Proto::Resp3 {
            let message =
                Encoded::new(proto, |reply| tracking::write_broken_redirect(reply, other));
            self.push(id.index, &message);
        }
    }

    /// Tells a connection of ours that another named.
    fn tell_instead(&mut self, id: ConnId, keys: &[&[u8]]) {
        let Some(conn) = self.conn(id) else { return };
        let proto = conn.session.proto;
        if proto == Proto::Resp3 || conn.session.subscribed.is_any() {
            self.push_invalidation(id.index, proto, keys);
        }
    }

    fn push_invalidation(&mut self, index: u32, proto: Proto, keys: &[&[u8]]) {
        let keys = (!keys.is_empty()).then_some(keys);
        let message = Encoded::new(proto, |reply| match proto {
            Proto::Resp3 => tracking::write_invalidation(reply, keys),
            Proto::Resp2 => tracking::write_invalidation_message(reply, keys),
        });
        self.push(index, &message);
    }

    /// What INFO shows of tracking; returns about the bytes it takes.
    pub(super) fn count_tracked(&self) -> usize {
        let (count, held_len) = self.shard.tracked();
        self.shard.stats().tracked_keys.set(count as u64);
        held_len
    }
}
