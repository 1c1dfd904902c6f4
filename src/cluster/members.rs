//! The nodes of a cluster, as one of them sees it, and who leads which partition.
//!
//! The shards of other nodes have numbers behind this node's own: to whoever sends a request, a
//! shard is a shard, and only its number says whether a ring or a connection leads there. Who leads
//! is written by the shard that has the replica and read by all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::{NodeId, PartitionId, ShardId};

/// Where a request waits that nobody can answer now.
pub const NOWHERE: ShardId = ShardId(u16::MAX);

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: NodeId,
    /// Where its peers reach it: the host and the first of its peer ports, shard n listens n ports
    /// further on.
    pub peer_addr: SocketAddr,
}

/// See the module's header.
#[derive(Debug)]
pub struct Members {
    own: NodeId,
    cluster: u128,
    all: Vec<Member>,
    shards: u16,
    leaders: Vec<AtomicU64>,
    /// Where clients reach the shards of all nodes, as far as they have said.
    endpoints: Mutex<BTreeMap<(NodeId, ShardId), (String, u16)>>,
    /// Rises with each change of leaders and endpoints.
    version: AtomicU64,
}

impl Members {
    /// The members of cluster `cluster`, node `own` among them, each of `shards` shards.
    ///
    /// # Panics
    /// If `own` is not a member, or there are more shards than can be numbered.
    pub fn new(own: NodeId, cluster: u128, all: Vec<Member>, shards: u16, partitions: u32) -> Self {
        assert!(all.iter().any(|member| member.id == own), "{own} is not among {all:?}");
        let numbers = (all.len() + 1) * usize::from(shards);
        assert!(numbers < usize::from(NOWHERE.0), "{numbers} shards can not be numbered");
        let leaders = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        let (endpoints, version) = (Mutex::default(), AtomicU64::new(1));
        Self { own, cluster, all, shards, leaders, endpoints, version }
    }

    /// This node.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// Which cluster it is.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// All of them, this one too.
    pub fn all(&self) -> &[Member] {
        &self.all
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<NodeId> {
        self.all.iter().map(|member| member.id).collect()
    }

    /// This one among them.
    pub fn own_member(&self) -> Option<&Member> {
        self.all.iter().find(|member| member.id == self.own)
    }

    /// All but this one.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.all.iter().filter(|member| member.id != self.own)
    }

    /// Where a shard of a node listens for the others.
    pub fn peer_port(&self, node: NodeId, shard: ShardId) -> u16 {
        let member = self.all.iter().find(|member| member.id == node);
        member.map_or(0, |member| member.peer_addr.port()) + shard.0
    }

    /// Followers of whom some have every acknowledged write on their disks: so many at least.
    pub fn sure_followers(&self) -> u64 {
        self.all.len() as u64 / 2
    }

    /// Shards of each node.
    pub fn shard_count(&self) -> u16 {
        self.shards
    }

    /// How many numbers there are of shards of other nodes.
    pub fn far_count(&self) -> usize {
        self.all.len() * usize::from(self.shards)
    }

    /// The number of a shard of a node.
    pub fn number(&self, node: NodeId, shard: ShardId) -> ShardId {
        let place = self.all.iter().position(|member| member.id == node);
        match place.filter(|_| node != self.own) {
            Some(place) => ShardId(self.shards * (place as u16 + 1) + shard.0),
            None => shard,
        }
    }

    /// Which shard of which other node has a number.
    pub fn far(&self, number: ShardId) -> Option<(NodeId, ShardId)> {
        let place = (number.0 / self.shards).checked_sub(1)?;
        let member = self.all.get(usize::from(place))?;
        Some((member.id, ShardId(number.0 % self.shards)))
    }

    /// Who leads a partition, as far as is known.
    pub fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        let id = self.leaders[partition.0 as usize].load(Ordering::Relaxed);
        (id != 0).then_some(NodeId(id))
    }

    /// Notes who leads a partition.
    pub fn note_leader(&self, partition: PartitionId, leader: Option<NodeId>) {
        let new = leader.map_or(0, |id| id.0);
        if self.leaders[partition.0 as usize].swap(new, Ordering::Relaxed) != new {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Rises with each change of what clients are told.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Notes where clients reach a shard.
    pub fn note_endpoint(&self, node: NodeId, shard: ShardId, host: &str, port: u16) {
        let mut endpoints = self.endpoints.lock().expect("no one panics holding it");
        let new = (host.to_owned(), port);
        if endpoints.insert((node, shard), new.clone()) != Some(new) {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where clients reach all shards that have said so, in order.
    pub fn endpoints(&self) -> Vec<(NodeId, ShardId, String, u16)> {
        let endpoints = self.endpoints.lock().expect("no one panics holding it");
        let all = endpoints.iter();
        all.map(|((node, shard), (host, port))| (*node, *shard, host.clone(), *port)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_of_all_nodes_have_numbers_of_their_own() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7401));
        let member = |id| Member { id: NodeId(id), peer_addr: addr };
        let members = Members::new(NodeId(2), 1, [1, 2, 3].map(member).into(), 4, 8);

        let numbers = |node| (0..4).map(move |shard| (NodeId(node), ShardId(shard)));
        for (node, shard) in numbers(1).chain(numbers(3)) {
            let number = members.number(node, shard);
            assert!(number.0 >= 4 && number != NOWHERE);
            assert_eq!(members.far(number), Some((node, shard)));
        }
        for (node, shard) in numbers(2) {
            assert_eq!(members.number(node, shard), shard);
            assert_eq!(members.far(shard), None);
        }
        assert_eq!(members.far(NOWHERE), None);
    }
}
