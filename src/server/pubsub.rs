//! Pub/sub on one shard, between the shards of a node, and between nodes.
//!
//! A message goes to the subscribers of the publisher's own shard at once, and by mail to each
//! shard whose [`Interest`](super::channels::Interest) says that somebody there may listen; the
//! reply is the sum of who got it. Each other node that is reached gets it at one shard, which does
//! the same there; nobody counts those, nor is told if a link breaks meanwhile. It is encoded once
//! per shard and protocol, and a large payload is shared by all who get it. Nobody waits for a
//! subscriber ([`super::push`]).
//!
//! Order: what one connection publishes reaches each subscriber in that order, since it takes one
//! way, from shard to shard in order; and in the order of the replies around it, since a message is
//! appended to them. Messages of different publishers have no order among each other. A message
//! tells nothing of writes that were not acknowledged before it was sent: it may come before them.
//!
//! In cluster mode keyspace events, and the channels of SSUBSCRIBE, are of one shard, and PUBSUB
//! answers for the one that was asked, as a node of a cluster does.

use smallvec::SmallVec;

use super::Server;
use super::output::{Combine, Encoded, Part};
use super::remote::{Address, Answered, NO_TICKET};
use crate::command::pubsub::{self, Kind, Merge, PubSub};
use crate::command::{self, Arg, Spec, glob};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::{Args, ArgsBuf, Proto};

/// A message, encoded when the first subscriber of a protocol gets it.
type Encodings = [Option<Encoded>; 2];

/// No connection of ours: the command is the node's own.
const NOBODY: ConnId = ConnId { index: u32::MAX, generation: 0 };

impl<E: Env> Server<E> {
    /// Runs a command of the family for a connection of ours.
    pub(super) fn run_pubsub(
        &mut self,
        index: u32,
        spec: &'static Spec,
        what: PubSub,
        args: Args<'_>,
    ) {
        if self.node.is_cluster_mode()
            && spec.key_indices(&args).len() > 0
            && let Some(error) = self.check_slots(spec, &args)
        {
            return self.refuse(index, &error);
        }
        match what {
            PubSub::Subscribe(kind) => self.subscribe(index, kind, &args),
            PubSub::Unsubscribe(kind) => self.unsubscribe(index, kind, &args),
            PubSub::Publish(kind) => {
                let (channel, payload) = (args.arg(1), args.arg(2));
                let asked = self.interested(kind, channel.as_slice());
                let count = self.deliver(kind, channel, payload);
                if kind != Kind::Shard || !self.node.is_cluster_mode() {
                    let twins = self.twins();
                    self.mail_to(&twins, spec, args);
                }
                self.ask(
                    index,
                    spec,
                    &args,
                    (Combine::Sum, &asked),
                    Answered { count: count as i64, ..Answered::default() },
                );
            }
            PubSub::Channels(_) if args.len() > 3 => {
                let name = String::from_utf8_lossy(args.get(1));
                let text = format!(
                    "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB \
                     HELP."
                );
                self.refuse(index, &text);
            }
            PubSub::Channels(_) | PubSub::CountSubscribers(_) | PubSub::CountPatterns => {
                let merge = match what {
                    PubSub::Channels(_) => Merge::Names,
                    PubSub::CountSubscribers(_) => Merge::Counts,
                    _ => Merge::NameCount,
                };
                let alone = self.node.is_cluster_mode();
                let asked: Vec<_> = self.others().filter(|_| !alone).collect();
                let own = self.look_up(what, &args);
                self.ask(index, spec, &args, (Combine::Merged(merge), &asked), own);
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = ShardId> + use<E> {
        let here = self.shard.id();
        (0..self.shard.map().shard_count()).map(ShardId).filter(move |shard| *shard != here)
    }

    /// Other shards where somebody may listen to this channel.
    fn interested(&self, kind: Kind, channel: &[u8]) -> SmallVec<[ShardId; 8]> {
        let interest = &self.node.common.interest;
        self.others()
            .filter(|shard| interest[usize::from(shard.0)].may_want(kind, channel))
            .collect()
    }

    /// Sends the command to other shards and makes one reply of their answers and our own.
    fn ask(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: &Args<'_>,
        (combine, asked): (Combine, &[ShardId]),
        own: Answered,
    ) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        let (id, replies) = (conn.id, conn.session.replies());
        let ticket = match replies {
            true => conn.output.expect(self.ledger.wait(), combine, asked.len() as u32 + 1),
            false => NO_TICKET,
        };
        for shard in asked {
            let to = Address::plain(id, ticket);
            self.forward(*shard, to, spec, *args, (0, Proto::Resp2));
        }
        if replies {
            let conn = self.conns[index as usize].as_deref_mut().expect("looked at");
            let whole = conn.output.answer(ticket, Part::of(&own));
            self.note_whole(whole);
        }
    }

    /// Sends a message that nobody counts to the other shards where somebody may listen, and to the
    /// other nodes.
    pub(super) fn mail_message(&mut self, channel: &[u8], payload: &[u8]) {
        let mut shards = self.interested(Kind::Channel, channel);
        shards.extend(self.twins());
        if shards.is_empty() {
            return;
        }
        let spec = command::lookup(b"publish").expect("it is in the table");
        let message = ArgsBuf::from_iter([&b"publish"[..], channel, payload]);
        self.mail_to(&shards, spec, message.args());
    }

    /// A shard of each other node, to which messages for that node go.
    fn twins(&self) -> SmallVec<[ShardId; 8]> {
        self.peers.as_deref().map_or_else(SmallVec::new, |peers| peers.twins().collect())
    }

    fn mail_to(&mut self, shards: &[ShardId], spec: &'static Spec, message: Args<'_>) {
        for shard in shards {
            let to = Address::plain(NOBODY, NO_TICKET);
            self.forward(*shard, to, spec, message, (0, Proto::Resp2));
        }
    }

    /// This shard's part of another shard's command; what comes from another node is given to all
    /// of this one.
    pub(super) fn serve_pubsub(
        &mut self,
        (from, address): (ShardId, Address),
        spec: &'static Spec,
        what: PubSub,
        args: &Args<'_>,
    ) {
        let answered = match what {
            PubSub::Publish(kind) => {
                if self.is_far(from) {
                    let shards = self.interested(kind, args.arg(1).as_slice());
                    self.mail_to(&shards, spec, *args);
                }
                let count = self.deliver(kind, args.arg(1), args.arg(2)) as i64;
                Answered { count, ..Answered::default() }
            }
            _ => self.look_up(what, args),
        };
        self.answer(from, address, answered);
    }

    /// What PUBSUB asks, of this shard.
    fn look_up(&self, what: PubSub, args: &Args<'_>) -> Answered {
        let mut body = Vec::new();
        match what {
            PubSub::CountSubscribers(kind) => {
                for (at, name) in args.from(2).enumerate() {
                    let count = self.channels.listeners(kind, name).len();
                    pubsub::push_record(&mut body, at, name, count as u64);
                }
            }
            PubSub::Channels(kind) => {
                let pattern = (args.len() > 2).then(|| args.get(2));
                let names = self.channels.names(kind);
                let wanted = |name: &[u8]| pattern.is_none_or(|p| glob::matches(p, name, false));
                let names = names.into_iter().filter(|name| wanted(name));
                names.for_each(|name| pubsub::push_record(&mut body, 0, name, 0));
            }
            _ => {
                let names = self.channels.names(Kind::Pattern);
                names.iter().for_each(|name| pubsub::push_record(&mut body, 0, name, 0));
            }
        }
        Answered { body, ..Answered::default() }
    }

    fn subscribe(&mut self, index: u32, kind: Kind, args: &Args<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        // Confirmations are messages: sent also when replies are not.
        conn.session.replies();
        let id = conn.id;
        for name in args.from(1) {
            let interest = &self.node.common.interest[usize::from(self.shard.id().0)];
            let added = self.channels.add(id, kind, name, interest);
            self.confirm(index, (kind, true), Some(name), added);
        }
    }

    fn unsubscribe(&mut self, index: u32, kind: Kind, args: &Args<'_>) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        conn.session.replies();
        let id = conn.id;
        if args.len() > 1 {
            for name in args.from(1) {
                let removed = self.leave(id, kind, name);
                self.confirm(index, (kind, false), Some(name), removed);
            }
            return;
        }
        let all = self.channels.names_of(id, kind);
        if all.is_empty() {
            self.confirm(index, (kind, false), None, false);
        }
        for name in all {
            let removed = self.leave(id, kind, &name);
            self.confirm(index, (kind, false), Some(&name), removed);
        }
    }

    fn leave(&mut self, id: ConnId, kind: Kind, name: &[u8]) -> bool {
        let interest = &self.node.common.interest[usize::from(self.shard.id().0)];
        self.channels.remove(id, kind, name, interest)
    }

    fn confirm(&mut self, index: u32, what: (Kind, bool), name: Option<&[u8]>, changed: bool) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if changed {
            conn.session.subscribed.note(what.0, what.1);
        }
        let now = conn.session.subscribed;
        let proto = conn.session.proto;
        conn.output.reply(proto, |reply| pubsub::write_confirmation(reply, what, name, &now));
    }

    /// Ends all subscriptions of a connection, without a word: it is reset, or gone.
    pub(super) fn leave_all(&mut self, id: ConnId) {
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            for name in self.channels.names_of(id, kind) {
                self.leave(id, kind, &name);
            }
        }
    }

    /// Gives a message to the subscribers of this shard; returns how many there are.
    pub(super) fn deliver(&mut self, kind: Kind, channel: Arg<'_>, payload: Arg<'_>) -> usize {
        if self.channels.is_empty() {
            return 0;
        }
        let name = channel.as_slice();
        let mut listeners = std::mem::take(&mut self.listeners);
        listeners.extend_from_slice(self.channels.listeners(kind, name));
        let mut count = listeners.len();
        self.give(&mut listeners, |proto| {
            Encoded::new(proto, |reply| pubsub::write_message(reply, kind, channel, payload))
        });
        if kind == Kind::Channel && self.channels.count(Kind::Pattern) > 0 {
            let matching = self.channels.matching(name);
            let matching: Vec<_> = matching
                .map(|(pattern, to)| (std::sync::Arc::clone(pattern), to.to_vec()))
                .collect();
            for (pattern, mut to) in matching {
                count += to.len();
                self.give(&mut to, |proto| {
                    Encoded::new(proto, |reply| {
                        pubsub::write_pattern_message(reply, &pattern, channel, payload);
                    })
                });
            }
        }
        self.listeners = listeners;
        count
    }

    /// Pushes a message to all of `to`, which is empty after.
    pub(super) fn give(&mut self, to: &mut Vec<ConnId>, encode: impl Fn(Proto) -> Encoded) {
        let mut encodings = Encodings::default();
        for id in to.drain(..) {
            let Some(conn) = self.conn(id) else { continue };
            let proto = conn.session.proto;
            let encoded =
                encodings[usize::from(proto == Proto::Resp3)].get_or_insert_with(|| encode(proto));
            self.push(id.index, encoded);
        }
    }

    /// What INFO shows of the subscriptions; returns about the bytes they take.
    pub(super) fn count_channels(&self) -> usize {
        let stats = self.shard.stats();
        stats.pubsub_channels.set(self.channels.count(Kind::Channel) as u64);
        stats.pubsub_patterns.set(self.channels.count(Kind::Pattern) as u64);
        stats.pubsub_shard_channels.set(self.channels.count(Kind::Shard) as u64);
        self.channels.held_len()
    }
}
