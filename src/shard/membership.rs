//! The shard as one that sees to who has replicas of its partitions: what the nodes have agreed on
//! is told to all shards, and the groups that it leads are brought in line.
//!
//! Looked at each tick. What is to be follows from the topology alone, and what is from each
//! group's own log ([`crate::cluster::next`]), so that nothing has to be remembered here but since
//! when a leadership is held: leaderships go back to whom they are due only when that is some time
//! ago, or else a node that hands over before its end would get them back.

use std::time::Duration;

use super::Shard;
use crate::cluster::{
    Action, Members, Refusal, ReplicaSet, Sighting, Step, Topology, Wanted, Witness, next,
};
use crate::env::Env;
use crate::id::{NodeId, PartitionId};
use crate::partition::{Partition, Standing};

/// The partition that knows which nodes there are.
const KNOWING: PartitionId = PartitionId(0);
/// Entries that a replica may lack that is given a vote or leadership.
const LACK_MAX: u64 = 256;
/// How long a leadership is held at least before it goes to whom it is due.
const HELD_MIN: Duration = Duration::from_secs(10);

/// Why the nodes of a cluster are not changed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It can not be.
    Never(Refusal),
    /// A change before is on its way.
    Busy,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Which node it was about; 0: none.
    pub node: u64,
    /// Which nodes there are then.
    pub topology: Topology,
    /// The entry that has to be committed before anybody is told.
    pub hold: Option<u64>,
}

impl<E: Env> Shard<E> {
    /// Where this shard has the partition that knows which nodes there are, if it leads it.
    pub fn knowing_place(&self) -> Option<u32> {
        self.place_of(KNOWING).filter(|place| self.leads(*place))
    }

    /// Which partition knows which nodes there are.
    pub fn knowing() -> PartitionId {
        KNOWING
    }

    /// Changes which nodes there are; of the leader of the partition at that place.
    ///
    /// # Errors
    /// [`Denied`]; nothing was done.
    pub fn change_topology(&mut self, place: u32, action: &Action) -> Result<Granted, Denied> {
        let members = self.members().cloned().expect("a node of a cluster");
        if self.partition(place).is_decreeing() {
            return Err(Denied::Busy);
        }
        let now = decreed(self.partition(place), &members);
        let (topology, node) = now.after(action, self.map.shard_count()).map_err(Denied::Never)?;
        if topology == now {
            return Ok(Granted { node, topology, hold: None });
        }
        self.seal(place);
        let bytes = topology.encode();
        let hold = self.partitions[place as usize].propose_topology(&bytes);
        self.seal(place);
        Ok(Granted { node, topology, hold: Some(hold) })
    }

    /// Has the topology say who the nodes are that are heard of for the first time, does without
    /// those that are not heard of for long, and has those back that are.
    fn look_after_nodes(
        &mut self,
        place: u32,
        topology: &Topology,
        members: &Members,
        up: &[NodeId],
    ) {
        if !self.leads(place) || !self.partition(place).is_ready() {
            return self.replicas.absent.forget();
        }
        let (whose, when) = ((members.own(), up), (self.env.now(), members.patience()));
        let absent = self.replicas.absent.look(topology, whose, when);
        if let Some(action) = &absent {
            tracing::warn!(?action, "a node was not heard of for long, or is again");
        }
        if let Some(action) = absent.or_else(|| members.unknown(topology))
            && let Err(error) = self.change_topology(place, &action)
        {
            tracing::debug!(?error, "the topology is not changed now");
        }
    }

    /// A partition of which there is no replica here is led by another node, which says who has
    /// some.
    pub fn note_leader_elsewhere(&mut self, partition: PartitionId, node: NodeId, of: ReplicaSet) {
        let Some(place) = self.place_of(partition) else { return };
        let Some(members) = self.replicas.members.clone() else { return };
        self.replicas.elsewhere[place as usize] = true;
        members.note_leader(partition, Some(node));
        if self.is_elsewhere(place) {
            if !of.members.contains(members.own()) {
                self.vacate(place, &of);
            }
            members.note_replicas(partition, of);
        }
    }

    /// Has what is here of a partition go, since its group goes on without it, as a leader says.
    fn vacate(&mut self, place: u32, of: &ReplicaSet) {
        let may_go = self.partition(place).may_vacate((of.term, of.applied));
        if !may_go || self.failed.is_some() {
            return;
        }
        tracing::info!(partition = %self.partition(place).id(), "a replica is done without here");
        self.partitions[place as usize].note_term(of.term);
        self.settle_at(place);
        self.replicas.staged.remove(&place);
        let nothing = self.tree.nothing(self.partition(place), &of.members);
        self.partitions[place as usize].begin_vacate();
        self.install(place, nothing);
    }

    /// It has gone, and so are all writes of before it durable.
    pub(super) fn end_vacate(&mut self, place: u32) {
        self.in_log.retain(|write| write.place != place);
        self.partitions[place as usize].end_vacate();
    }

    /// The partitions that are led here and of which a node has no replica, and who has. It may
    /// forget what it had: it is told of what this node knows after a crash as well.
    pub fn led_without(&self, node: NodeId) -> impl Iterator<Item = (PartitionId, ReplicaSet)> {
        let led = (0..).zip(&self.partitions).filter(|(place, _)| self.leads(*place));
        let led = led.filter(|(_, partition)| partition.remembers_members());
        let without = led.filter(move |(_, of)| !of.roster().members.contains(node));
        without.map(|(_, partition)| (partition.id(), replica_set(partition)))
    }

    /// Whether only another node can tell of the partition at that place.
    pub(super) fn is_elsewhere(&self, place: u32) -> bool {
        let place = place as usize;
        self.replicas.members.is_some()
            && (self.replicas.elsewhere[place]
                || self.replicas.standings[place] == Standing::Elsewhere)
    }

    /// Tells what is known of the nodes and of the replicas, and brings those groups in line that
    /// this shard leads.
    pub(super) fn tend_members(&mut self, up: &[NodeId]) {
        let Some(members) = self.members().cloned() else { return };
        if let Some(place) = self.place_of(KNOWING) {
            let topology = decreed(self.partition(place), &members);
            self.look_after_nodes(place, &topology, &members, up);
            if topology.nodes.iter().any(|member| member.incarnation == 0) {
                let undecided = self.partition(place).undecided_topology();
                if let Some(undecided) = undecided.and_then(Topology::decode) {
                    members.note_undecided(&undecided);
                }
            }
            members.note_topology(topology);
        }
        let (has_leader, now) = (members.topology().leader.is_some(), self.env.now());
        if let Some(witness) = members.witness() {
            self.partitions.iter().for_each(|partition| show(witness, partition));
        }
        let all_wanted = members.wanted();
        for place in 0..self.partitions.len() as u32 {
            let partition = self.partition(place);
            let wanted = &all_wanted[partition.id().0 as usize];
            if !self.is_elsewhere(place) {
                members.note_replicas(partition.id(), replica_set(partition));
            }
            if !self.leads(place) || !partition.is_ready() {
                self.replicas.leads_since[place as usize] = now;
                continue;
            }
            let held = now.saturating_sub(self.replicas.leads_since[place as usize]);
            let is_due = has_leader || held > HELD_MIN;
            match self.step(partition, &members, wanted, is_due) {
                Step::Nothing => {}
                Step::HandOver(to) => {
                    tracing::info!(partition = %partition.id(), node = %to, "handing over");
                    self.seal(place);
                    self.partitions[place as usize].hand_over(to);
                    self.settle_at(place);
                }
                Step::Change(change) => {
                    let partition = partition.id();
                    tracing::info!(%partition, ?change, "changing who has replicas");
                    self.seal(place);
                    let proposed = self
                        .at(place, |partition, around| partition.propose_members(&change, around));
                    match proposed {
                        Ok(logging) => self.note(place, logging),
                        Err(error) => tracing::debug!(%error, "members are not changed now"),
                    }
                }
            }
        }
    }

    /// What the leader of a partition is to do next.
    fn step(
        &self,
        partition: &Partition,
        members: &Members,
        wanted: &Wanted,
        is_due: bool,
    ) -> Step {
        let own = members.own();
        let is_near = |node: NodeId| !lags(partition, node);
        let step = next(own, &partition.roster().members, wanted, is_near);
        let due = wanted.voters.first().filter(|first| {
            let has_vote = partition.roster().members.voters.contains(first);
            let is_able = has_vote && is_near(**first) && !self.slowness.has(**first);
            is_due && **first != own && is_able
        });
        match (step, due) {
            (Step::Nothing, Some(first)) => Step::HandOver(*first),
            (step, _) => step,
        }
    }
}

/// What the nodes have agreed on, as far as is applied here.
fn decreed(partition: &Partition, members: &Members) -> Topology {
    let known = &partition.roster().topology;
    match known.is_empty() {
        true => members.topology().as_ref().clone(),
        false => Topology::decode(known).expect("it was encoded by a leader"),
    }
}

/// Whether a replica lacks more than what is on its way, or was not heard of lately.
pub(super) fn lags(partition: &Partition, node: NodeId) -> bool {
    let matched = partition.matched(node);
    matched.is_none_or(|matched| matched + LACK_MAX < partition.committed().index)
}

fn show(witness: &Witness, partition: &Partition) {
    witness.note(Sighting {
        partition: partition.id(),
        term: partition.hard_state().0,
        leads: partition.is_leader(),
        rows: partition.digest(),
    });
}

/// What the replica of this node knows of all of them.
fn replica_set(partition: &Partition) -> ReplicaSet {
    let members = partition.roster().members.clone();
    let all = members.voters.iter().chain(&members.learners).copied();
    let (applied, term) = (partition.committed().index, partition.hard_state().0);
    let all: Vec<_> = all.filter(|_| partition.is_leader()).collect();
    let behind = all.iter().copied().filter(|node| lags(partition, *node)).collect();
    let lacks = |node: &NodeId| applied.saturating_sub(partition.matched(*node).unwrap_or(0));
    let lacks = all.iter().map(|node| (*node, lacks(node))).collect();
    ReplicaSet { members, applied, term, behind, lacks }
}
