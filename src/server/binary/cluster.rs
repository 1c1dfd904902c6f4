//! `cluster`: which nodes there are, and which are to be. What changes that goes to the leader of
//! the partition that knows, from whichever node it was asked of, as a write goes to its key's.

use serde::Serialize;

use super::Asker;
use crate::cluster::{Action, Members, Topology, text_of};
use crate::env::Env;
use crate::id::NodeId;
use crate::protocol::binary::{Code, Failure, Reply};
use crate::server::Server;
use crate::shard::{Denied, Shard};

/// What is answered.
#[derive(Serialize)]
struct Told<'a> {
    /// Which node it is about; 0: none.
    node: u64,
    cluster: String,
    cores: u16,
    partitions: u32,
    topology: &'a Topology,
    #[serde(flatten)]
    status: Option<Status>,
}

/// What is answered to `status` besides, as far as the node that was asked knows.
#[derive(Serialize)]
struct Status {
    /// Who was asked.
    asked: u64,
    /// Partitions, in order.
    partition: Vec<PartitionStatus>,
}

#[derive(Serialize)]
struct PartitionStatus {
    /// 0: nobody known.
    leader: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// The change of members is half done.
    changing: bool,
    /// The newest entry that is applied where it was asked.
    applied: u64,
    /// Whose replica lacks more than what is on its way, or is silent, if the leader was asked.
    behind: Vec<u64>,
}

impl<E: Env> Server<E> {
    pub(super) fn serve_cluster(&mut self, asker: &Asker, text: &str) {
        let Some(members) = self.shard.members().cloned() else {
            let text = "this node is alone: start it with --peer-port PORT, and others can join it";
            return self.fail(asker, Failure::new(Code::ClusterRefused, text));
        };
        let action = match Action::decode(text) {
            Ok(action) => action,
            Err(text) => return self.fail(asker, Failure::new(Code::BadRequest, &text)),
        };
        if action == Action::Status {
            let text = told(&members, &members.topology(), 0, Some(status(&members)));
            return self.tell_cluster(asker, &[], &text);
        }
        let owner = self.shard.owner(Shard::<E>::knowing());
        let Some(place) = self.shard.knowing_place().filter(|_| owner == self.shard.id()) else {
            return self.forward_typed(owner, asker, text.as_bytes());
        };
        if self.refuses(asker, self.binary.set) {
            return;
        }
        match self.shard.change_topology(place, &action) {
            Ok(granted) => {
                let waits: Vec<_> = granted.hold.map(|entry| (place, entry)).into_iter().collect();
                let text = told(&members, &granted.topology, granted.node, None);
                self.tell_cluster(asker, &waits, &text);
            }
            Err(Denied::Never(text)) => {
                self.fail(asker, Failure::new(Code::ClusterRefused, &text));
            }
            Err(Denied::Busy) => {
                let text = "another change of the cluster is on its way: try again";
                self.fail(asker, Failure::new(Code::Overloaded, text));
            }
        }
    }

    fn tell_cluster(&mut self, asker: &Asker, waits: &[(u32, u64)], text: &str) {
        self.respond(asker, waits, 0, |out| {
            Reply::Info(text).encode(out);
            None
        });
    }
}

fn told(members: &Members, topology: &Topology, node: u64, status: Option<Status>) -> String {
    let replicas = members.replicas();
    let told = Told {
        node,
        cluster: format!("{:032x}", members.cluster()),
        cores: members.shard_count(),
        partitions: replicas.len() as u32,
        topology,
        status,
    };
    text_of(&told)
}

fn status(members: &Members) -> Status {
    let of = |(id, known): (u32, crate::cluster::ReplicaSet)| PartitionStatus {
        leader: members.leader(crate::id::PartitionId(id)).map_or(0, |node| node.0),
        changing: known.members.is_changing(),
        voters: numbers(&known.members.voters),
        learners: numbers(&known.members.learners),
        applied: known.applied,
        behind: numbers(&known.behind),
    };
    let partition = (0..).zip(members.replicas()).map(of).collect();
    Status { asked: members.own().0, partition }
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}
