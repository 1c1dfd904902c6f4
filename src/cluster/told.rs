//! What a node tells of the cluster: written by the server, read by the command line and by nodes
//! that join.

use serde::{Deserialize, Serialize};

use super::{Fed, Members, Refusal, ReplicaSet, Topology, Wanted};
use crate::id::{NodeId, PartitionId};

/// See the module's header.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Told {
    /// Which node it is about, if it is what became of a wish; 0: none.
    pub node: u64,
    /// Its id, hexadecimal.
    pub cluster: String,
    /// Of each node.
    pub cores: u16,
    /// How many.
    pub partitions: u32,
    /// Which nodes there are.
    pub topology: Topology,
    /// Who tells.
    pub asked: u64,
    /// In order, if that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<PartitionStatus>,
    /// How far the node is that was asked with what it follows, if the cluster is a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fed: Option<Fed>,
}

/// A partition, as far as the node knows that was asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PartitionStatus {
    /// 0: nobody known.
    pub leader: u64,
    /// Who has a vote.
    pub voters: Vec<u64>,
    /// Who has a replica without.
    pub learners: Vec<u64>,
    /// The change of members is half done.
    pub changing: bool,
    /// The newest entry that is applied where it was asked.
    pub applied: u64,
    /// Whose replica lacks more than what is on its way, or is silent, if the leader was asked or
    /// the node that was asked has none.
    pub behind: Vec<u64>,
}

impl Told {
    /// What node `members.own()` tells of a topology.
    pub fn of(members: &Members, topology: &Topology) -> Self {
        Self {
            node: 0,
            cluster: format!("{:032x}", members.cluster()),
            cores: members.shard_count(),
            partitions: members.wanted().len() as u32,
            topology: topology.clone(),
            asked: members.own().0,
            partition: Vec::new(),
            fed: None,
        }
    }

    /// Back from text.
    ///
    /// # Errors
    /// It is none: a sentence.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|error| format!("a node tells something odd: {error}"))
    }

    /// And of all partitions.
    pub fn status(members: &Members) -> Self {
        let of = |(id, known): (u32, ReplicaSet)| PartitionStatus {
            leader: members.leader(PartitionId(id)).map_or(0, |node| node.0),
            changing: known.members.is_changing(),
            voters: numbers(&known.members.voters),
            learners: numbers(&known.members.learners),
            applied: known.applied,
            behind: numbers(&known.behind),
        };
        let partition = (0..).zip(members.replicas()).map(of).collect();
        let (topology, fed) = (members.topology(), members.fed());
        let fed = (topology.follows.is_some() || fed.led > 0).then_some(fed);
        Self { partition, fed, ..Self::of(members, &topology) }
    }

    /// Partitions that are not as they are to be, and how they are to be.
    pub fn unsettled(&self) -> Vec<(u32, Wanted)> {
        let leader = self.topology.leader;
        let mut wanted: Vec<_> = (0..).zip(self.topology.place(self.partitions)).collect();
        wanted.truncate(self.partition.len());
        wanted.retain(|(id, wanted)| !self.partition[*id as usize].is_settled(wanted, leader));
        wanted
    }
}

impl PartitionStatus {
    /// Whether a node has a replica.
    pub fn has(&self, node: u64) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// Whether its replicas are those that are wanted, and it has a leader.
    fn is_settled(&self, wanted: &Wanted, leader: Option<u64>) -> bool {
        let same = |have: &[u64], want: &[NodeId]| {
            have.len() == want.len() && want.iter().all(|node| have.contains(&node.0))
        };
        let due = leader.filter(|leader| wanted.voters.contains(&NodeId(*leader)));
        due.map_or(self.leader != 0, |due| self.leader == due)
            && !self.changing
            && same(&self.voters, &wanted.voters)
            && same(&self.learners, &wanted.learners)
    }
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}
