//! Connections of other nodes that are told when keys change.
//!
//! A request says whether its connection is to be told of what it reads; the leader remembers that
//! as it does for its own ([`crate::shard`]), and mails the change on the way on which it mailed
//! the answer: so they come in that order. Who is told of prefixes has to be known to every leader:
//! a shard with such connections says so over each of its links, and is answered with *forget
//! everything*, since what was read before may have changed untold.
//!
//! What is not told for certain is told by all: when a link breaks, in either direction, a node's
//! trackers are told to forget everything, as news may have been lost with it; when leadership is
//! lost, those who read from that leader are, as the next one knows nobody. Until then what they
//! hold may be old, as long as it takes the node to see that the other is gone.
//!
//! In cluster mode each key is read at its leader, and nothing is asked for another node's clients.

use super::super::Server;
use super::super::peers::Peers;
use crate::env::Env;
use crate::id::ShardId;
use crate::shard::mailbox::{Invalidation, Listener};
use crate::shard::{Client, Observers};

impl<E: Env> Server<E> {
    pub(in crate::server) fn is_far(&self, shard: ShardId) -> bool {
        shard >= ShardId(self.shard.map().shard_count())
    }

    /// These, and those of other nodes.
    pub(in crate::server) fn with_far(&self, observers: Observers) -> Observers {
        let broadcast = observers.broadcast || !self.trackers.far.is_empty();
        let tracking = observers.tracking || broadcast || self.trackers.has_far_readers;
        Observers { tracking, broadcast, ..observers }
    }

    /// A request of another shard is about to be evaluated that is to be remembered.
    pub(in crate::server) fn note_far_reader(&mut self, from: ShardId) {
        if !self.trackers.has_far_readers && self.is_far(from) {
            self.trackers.has_far_readers = true;
            self.look_for_observers();
        }
    }

    /// Whether anybody of another node reads here is looked at anew.
    pub(in crate::server) fn tend_far_readers(&mut self) {
        // Of what waits to be evaluated it was noted when it came.
        let may_come = !self.jobs.is_empty() || !self.limbo.is_empty();
        self.trackers.has_far_readers &= may_come || self.shard.tracked().0 > 0;
    }

    /// Whose command it was, as another node's shard calls it; nobody if it is not of that node.
    pub(super) fn as_called_by(&self, shard: ShardId, by: Client) -> Option<Client> {
        let members = self.shard.members()?;
        let ((to, _), (of, home)) = (members.far(shard)?, members.far(by.shard)?);
        (to == of).then_some(Client { shard: home, ..by })
    }

    /// A shard of another node wants to be told of all keys, or no more.
    pub(super) fn note_far_broadcast(&mut self, from: ShardId, wants: bool) {
        if wants {
            self.trackers.far.insert(from);
            self.tell_shard(from, Listener::Everybody, None, None);
        } else {
            self.trackers.far.remove(&from);
        }
        self.look_for_observers();
    }

    /// A connection that tracked is gone: whoever leads what it read forgets it.
    pub(super) fn untrack_far(&mut self, by: Client) {
        let Some(peers) = self.peers.as_deref() else { return };
        let numbers: Vec<_> = peers.reached().collect();
        for number in numbers {
            self.mailbox.to(number).invalidations.push(Invalidation {
                to: Listener::Nobody,
                key: None,
                by: Some(by),
            });
        }
    }

    fn wants_far_broadcast(&self) -> bool {
        !self.trackers.prefixes.is_empty() && !self.node.is_cluster_mode()
    }

    /// Says over each link whether connections here are told of prefixes, if that was not said.
    pub(in crate::server) fn announce_trackers(&mut self, peers: &mut Peers) {
        let wants = self.wants_far_broadcast();
        if !wants && !self.trackers.is_announced {
            return;
        }
        self.trackers.is_announced = wants;
        for number in peers.untold_of_broadcast(wants) {
            let to = Listener::Sender(wants);
            let news = Invalidation { to, key: None, by: None };
            self.mailbox.to(number).invalidations.push(news);
        }
    }

    /// Any shard may lead what they are told of.
    pub(in crate::server) fn want_leaders(&self, peers: &mut Peers) {
        if self.wants_far_broadcast() {
            peers.want_all();
        }
    }

    /// What was told over a link may be lost. `to`: the shard to which it leads.
    pub(in crate::server) fn mistrust(&mut self, to: Option<ShardId>) {
        self.trackers.forgets = true;
        if let Some(gone) = to {
            self.trackers.far.remove(&gone);
        }
    }

    /// Has all trackers of the node forget everything, if a link was lost.
    pub(in crate::server) fn tell_all_to_forget(&mut self) {
        if std::mem::take(&mut self.trackers.forgets) {
            self.tell_everybody(None);
        }
    }

    /// The far shards that are told of all keys take a change.
    pub(super) fn tell_far_shards(&mut self, key: Option<&[u8]>, by: Option<Client>) {
        if self.trackers.far.is_empty() {
            return;
        }
        let to = if key.is_some() { Listener::Broadcast } else { Listener::Everybody };
        for shard in self.trackers.far.iter().copied().collect::<Vec<_>>() {
            self.tell_shard(shard, to, key, by);
        }
    }
}
