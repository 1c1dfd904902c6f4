//! The nodes of a cluster, as one of them sees it, and who leads which partition.
//!
//! The shards of other nodes have numbers behind this node's own: to whoever sends a request, a
//! shard is a shard, and only its number says whether a ring or a connection leads there. Who leads
//! and who has replicas is written by the shard that has one, which nodes there are by the shard of
//! the first partition; all is read by all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::topology::NODES_MAX;
use super::{Action, Fed, Member, State, Topology, Wanted, Witness};
use crate::consensus::Membership;
use crate::id::{NodeId, PartitionId, ShardId};

/// Where a request waits that nobody can answer now.
pub const NOWHERE: ShardId = ShardId(u16::MAX);

/// Leaders are asked for so long after the last read at a replica that follows.
const WANTED_FOR: Duration = Duration::from_secs(60);

/// A partition's replicas, as this node's own knows, or as the leader says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Who has one, as of the entries that are applied there.
    pub members: Membership,
    /// The newest of them.
    pub applied: u64,
    /// Raft's term there.
    pub term: u64,
    /// Who lacks more than what is on its way, if this node leads.
    pub behind: Vec<NodeId>,
    /// Entries that each is not known to have, if this node leads.
    pub lacks: Vec<(NodeId, u64)>,
}

/// A node that has replicas of what this one leads, and is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Which.
    pub node: NodeId,
    /// It lacks no more than what is on its way.
    pub is_near: bool,
    /// Entries that it is not known to have.
    pub lacks: u64,
    /// Since when it was not heard of.
    pub silent: Duration,
}

/// See the module's header.
#[derive(Debug)]
pub struct Members {
    own: NodeId,
    cluster: u128,
    founders: Vec<NodeId>,
    topology: Mutex<Arc<Topology>>,
    /// Who is to have replicas of each partition, by that.
    wanted: Mutex<Arc<[Wanted]>>,
    /// Where nodes are reached, whatever they have agreed on.
    configured: Vec<(u64, SocketAddr)>,
    /// That of this node's data directory; 0: it is from before there was one.
    incarnation: u32,
    /// That of this process; random.
    life: u64,
    /// Those that other nodes have said, as their greetings came.
    said: Mutex<BTreeMap<u64, u32>>,
    /// Those that a topology says which the log has, and which is not known to be agreed on.
    undecided: Mutex<BTreeMap<u64, u32>>,
    /// How long a node may be silent before others have its replicas; zero: for ever.
    patience: Duration,
    /// How old what a replica that follows is asked may be; zero: none is.
    stale_max: Duration,
    shards: u16,
    leaders: Vec<AtomicU64>,
    /// Up to when the replica of each partition here has all there was, nanoseconds of the process;
    /// 0: nobody knows.
    closed: Vec<AtomicU64>,
    /// When that was last wanted, likewise.
    closed_wanted: AtomicU64,
    replicas: Mutex<Vec<ReplicaSet>>,
    /// Where clients reach the shards of all nodes, as far as they have said.
    endpoints: Mutex<BTreeMap<(NodeId, ShardId), (String, u16)>>,
    /// The shards of other nodes that are heard of by the one of their number here, and for how
    /// long they were silent at its last tick.
    heard: Mutex<BTreeMap<(NodeId, ShardId), Duration>>,
    /// How far this node's shards are with what they follow.
    fed: Mutex<BTreeMap<ShardId, Fed>>,
    /// Rises with each change of leaders, endpoints and nodes.
    version: AtomicU64,
    /// Who wants to know what replicas are seen to be; nobody outside the simulator.
    witness: Option<Arc<Witness>>,
}

impl Members {
    /// The members of cluster `cluster`, node `own` among them, each of `shards` shards.
    ///
    /// # Panics
    /// If `own` is not a member, or there are more shards than can be numbered.
    pub fn new(
        own: NodeId,
        cluster: u128,
        topology: Topology,
        shards: u16,
        partitions: u32,
    ) -> Self {
        assert!(topology.get(own.0).is_some(), "{own} is not in {topology:?}");
        let numbers = u64::from(shards) * (NODES_MAX + 1);
        assert!(numbers < u64::from(NOWHERE.0), "{numbers} shards can not be numbered");
        Self {
            own,
            cluster,
            founders: topology.founders.iter().map(|id| NodeId(*id)).collect(),
            wanted: Mutex::new(topology.place(partitions).into()),
            topology: Mutex::new(Arc::new(topology)),
            configured: Vec::new(),
            incarnation: 0,
            life: 0,
            said: Mutex::default(),
            undecided: Mutex::default(),
            patience: Duration::ZERO,
            stale_max: Duration::ZERO,
            shards,
            leaders: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            closed: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            closed_wanted: AtomicU64::new(0),
            replicas: Mutex::new(vec![ReplicaSet::default(); partitions as usize]),
            endpoints: Mutex::default(),
            heard: Mutex::default(),
            fed: Mutex::default(),
            version: AtomicU64::new(1),
            witness: None,
        }
    }

    /// The same, with nodes that are reached here, whatever they agree on: the configuration is
    /// newer.
    #[must_use]
    pub fn at(mut self, configured: Vec<(u64, SocketAddr)>) -> Self {
        self.configured = configured;
        let known = self.topology().as_ref().clone();
        *locked(&self.topology) = Arc::new(self.configure(known));
        self
    }

    /// The same, of a node whose data directory has this incarnation, and whose process this life.
    #[must_use]
    pub fn born(self, incarnation: u32, life: u64) -> Self {
        Self { incarnation, life, ..self }
    }

    /// That of this process.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// That of this node's data directory.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Notes of which incarnation another node says to be.
    pub fn note_incarnation(&self, node: NodeId, incarnation: u32) {
        locked(&self.said).insert(node.0, incarnation);
    }

    /// What the topology should say of a node that was heard of and is unknown to it.
    pub fn unknown(&self, topology: &Topology) -> Option<Action> {
        let said = locked(&self.said);
        let of = |id: u64| match id == self.own.0 {
            true => self.incarnation,
            false => said.get(&id).copied().unwrap_or(0),
        };
        let mut nodes = topology.nodes.iter().filter(|member| member.incarnation == 0);
        let new = nodes.find(|member| of(member.id) != 0)?;
        Some(Action::Known { node: new.id, incarnation: of(new.id) })
    }

    /// The same, of a node that takes others for lost that are silent for so long.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long a node may be silent before others have its replicas; zero: for ever.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// The same, of a node whose replicas are looked at.
    #[must_use]
    pub fn seen_by(self, witness: Arc<Witness>) -> Self {
        Self { witness: Some(witness), ..self }
    }

    /// Who wants to know what replicas are seen to be.
    pub fn witness(&self) -> Option<&Witness> {
        self.witness.as_deref()
    }

    /// The same, of a node whose replicas that follow answer with what is at most so old; zero: not
    /// at all.
    #[must_use]
    pub fn stale_for(self, stale_max: Duration) -> Self {
        Self { stale_max, ..self }
    }

    /// How old what a replica that follows answers may be; zero: none does.
    pub fn stale_max(&self) -> Duration {
        self.stale_max
    }

    /// Notes that the replica of a partition here has all that was acknowledged before `at`, a
    /// moment of the process's time.
    pub fn note_closed(&self, partition: PartitionId, at: Duration) {
        self.closed[partition.0 as usize].store(at.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Up to when the replica of a partition here has all there was, as far as is known.
    pub fn closed(&self, partition: PartitionId) -> Option<Duration> {
        let at = self.closed[partition.0 as usize].load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_nanos(at))
    }

    /// Somebody reads at replicas that follow.
    pub fn want_closed(&self, now: Duration) {
        self.closed_wanted.store(now.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Whether anybody did lately.
    pub fn wants_closed(&self, now: Duration) -> bool {
        let at = self.closed_wanted.load(Ordering::Relaxed);
        at != 0 && now.saturating_sub(Duration::from_nanos(at)) < WANTED_FOR
    }

    fn configure(&self, mut topology: Topology) -> Topology {
        for member in &mut topology.nodes {
            let configured = self.configured.iter().find(|(id, _)| *id == member.id);
            member.peer = configured.map_or(member.peer, |(_, addr)| *addr);
        }
        topology
    }

    /// Notes a topology that the log has. A leader has heard what it says of incarnations, so it is
    /// true, also if a crash has made this node forget that it was agreed on.
    pub fn note_undecided(&self, topology: &Topology) {
        let said = topology.nodes.iter().filter(|member| member.incarnation != 0);
        locked(&self.undecided).extend(said.map(|member| (member.id, member.incarnation)));
    }

    /// Which incarnation a node is known to be of; 0: it is not.
    pub fn incarnation_of(&self, node: NodeId) -> u32 {
        let agreed = self.topology().get(node.0).map_or(0, |member| member.incarnation);
        match agreed {
            0 => locked(&self.undecided).get(&node.0).copied().unwrap_or(0),
            agreed => agreed,
        }
    }

    /// This node.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// Which cluster it is.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// Who had replicas at the groups' birth.
    pub fn founders(&self) -> &[NodeId] {
        &self.founders
    }

    /// Which nodes there are.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&locked(&self.topology))
    }

    /// Who is to have replicas of each partition, by that.
    pub fn wanted(&self) -> Arc<[Wanted]> {
        Arc::clone(&locked(&self.wanted))
    }

    /// Takes over what the nodes have agreed on, if it is newer than what is known. True: it is.
    pub fn note_topology(&self, new: Topology) -> bool {
        let mut known = locked(&self.topology);
        let is_newer = new.version > known.version && new.get(self.own.0).is_some();
        if is_newer {
            *locked(&self.wanted) = new.place(self.leaders.len() as u32).into();
            *known = Arc::new(self.configure(new));
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        is_newer
    }

    /// All that are not gone, this one too.
    pub fn all(&self) -> Vec<Member> {
        let topology = self.topology();
        topology.nodes.iter().filter(|member| member.state != State::Removed).cloned().collect()
    }

    /// Their ids, and incarnations as far as they are known.
    pub fn known(&self) -> Vec<(NodeId, u32)> {
        self.ids().into_iter().map(|node| (node, self.incarnation_of(node))).collect()
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<NodeId> {
        self.all().iter().map(Member::node).collect()
    }

    /// Where the peers of this one reach it.
    pub fn own_addr(&self) -> SocketAddr {
        self.topology().get(self.own.0).expect("it is always one of them").peer
    }

    /// All but this one.
    pub fn others(&self) -> Vec<Member> {
        let mut others = self.all();
        others.retain(|member| member.node() != self.own);
        others
    }

    /// Where a shard of a node listens for the others.
    pub fn peer_port(&self, node: NodeId, shard: ShardId) -> u16 {
        self.topology().get(node.0).map_or(0, |member| member.peer.port()) + shard.0
    }

    /// Followers of whom some have every acknowledged write on their disks: so many at least.
    pub fn sure_followers(&self) -> u64 {
        let replicas = locked(&self.replicas);
        let voters = replicas.iter().map(|of| of.members.voters.len()).filter(|voters| *voters > 0);
        voters.min().unwrap_or(1) as u64 / 2
    }

    /// Shards of each node.
    pub fn shard_count(&self) -> u16 {
        self.shards
    }

    /// The number of a shard of a node.
    pub fn number(&self, node: NodeId, shard: ShardId) -> ShardId {
        let before = if node == self.own { 0 } else { self.shards * node.0 as u16 };
        ShardId(before + shard.0)
    }

    /// Which shard of which other node has a number.
    pub fn far(&self, number: ShardId) -> Option<(NodeId, ShardId)> {
        let node = number.0 / self.shards;
        let is_one = node > 0 && u64::from(node) <= NODES_MAX;
        is_one.then(|| (NodeId(node.into()), ShardId(number.0 % self.shards)))
    }

    /// Where the node that has a number of [`Members::number`] is reached by its peers.
    pub fn address_of(&self, number: ShardId) -> Option<SocketAddr> {
        let (node, _) = self.far(number)?;
        self.topology().get(node.0).map(|member| member.peer)
    }

    /// Notes what is known of a partition's replicas.
    pub fn note_replicas(&self, partition: PartitionId, replicas: ReplicaSet) {
        let known = &mut locked(&self.replicas)[partition.0 as usize];
        if known.members != replicas.members {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        *known = replicas;
    }

    /// Notes which nodes a shard here hears of, and for how long they are silent.
    pub fn note_heard(&self, shard: ShardId, nodes: &[(NodeId, Duration)]) {
        let mut heard = locked(&self.heard);
        let before = heard.keys().filter(|(_, of)| *of == shard).count();
        let known = |(node, _): &&(NodeId, Duration)| heard.contains_key(&(*node, shard));
        if before != nodes.len() || nodes.iter().filter(known).count() != before {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        heard.retain(|(_, of), _| *of != shard);
        heard.extend(nodes.iter().map(|(node, silent)| ((*node, shard), *silent)));
    }

    /// Whether a shard of a node is heard of. This node's own always is.
    pub fn hears_of(&self, node: NodeId, shard: ShardId) -> bool {
        node == self.own || locked(&self.heard).contains_key(&(node, shard))
    }

    /// Whether this node has a replica of a partition whose leader, on shards of this number, is
    /// not heard of: there will soon be another one.
    pub fn is_orphaned(&self, partition: PartitionId, shard: ShardId) -> bool {
        let is_gone = self.leader(partition).is_some_and(|leader| !self.hears_of(leader, shard));
        is_gone && locked(&self.replicas)[partition.0 as usize].members.voters.contains(&self.own)
    }

    /// The nodes that are heard of and have replicas of what this one leads, in order.
    pub fn followers(&self) -> Vec<Follower> {
        let mut all: BTreeMap<NodeId, (bool, u64)> = BTreeMap::new();
        for (id, of) in (0..).zip(locked(&self.replicas).iter()) {
            if self.leader(PartitionId(id)) == Some(self.own) {
                for (node, lacks) in of.lacks.iter().filter(|(node, _)| *node != self.own) {
                    let known = all.entry(*node).or_insert((true, 0));
                    *known = (known.0 && !of.behind.contains(node), known.1 + lacks);
                }
            }
        }
        let heard = locked(&self.heard);
        let of = |(node, (is_near, lacks))| {
            let shards = heard.iter().filter(|((of, _), _)| *of == node);
            let silent = shards.map(|(_, silent)| *silent).max()?;
            Some(Follower { node, is_near, lacks, silent })
        };
        all.into_iter().filter_map(of).collect()
    }

    /// What is known of all partitions' replicas.
    pub fn replicas(&self) -> Vec<ReplicaSet> {
        locked(&self.replicas).clone()
    }

    /// Entries of the logs of all partitions, as far as is known.
    pub fn applied(&self) -> u64 {
        locked(&self.replicas).iter().map(|of| of.applied).sum()
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
        let mut endpoints = locked(&self.endpoints);
        let new = (host.to_owned(), port);
        if endpoints.insert((node, shard), new.clone()) != Some(new) {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes how far a shard of this node is with what it follows.
    pub fn note_fed(&self, shard: ShardId, new: Fed) {
        locked(&self.fed).insert(shard, new);
    }

    /// How far this node's shards are with what they follow.
    pub fn fed(&self) -> Fed {
        locked(&self.fed).values().fold(Fed::default(), Fed::and)
    }

    /// Where clients reach all shards that have said so, in order; not those of nodes that are gone
    /// for good.
    pub fn endpoints(&self) -> Vec<(NodeId, ShardId, String, u16)> {
        let (endpoints, ids) = (locked(&self.endpoints), self.ids());
        let all = endpoints.iter().filter(|((node, _), _)| ids.contains(node));
        all.map(|((node, shard), (host, port))| (*node, *shard, host.clone(), *port)).collect()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no one panics holding it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 2 of three, of so many shards and eight partitions.
    fn second_of_three(shards: u16) -> Members {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7401));
        let member = |id| Member::new(id, addr, "");
        let topology = Topology::founded([1, 2, 3].map(member).into(), 3);
        Members::new(NodeId(2), 1, topology, shards, 8)
    }

    #[test]
    fn who_is_heard_of_and_has_replicas_of_what_is_led_here_follows() {
        let members = second_of_three(1);
        let (shard, silent) = (ShardId(0), Duration::from_millis(40));
        let voters: Vec<_> = [1, 2, 3].map(NodeId).into();
        for (id, leader, lacks, behind) in [(0, 2, 3, vec![]), (1, 2, 400, vec![NodeId(3)])] {
            let lacks = vec![(NodeId(1), 1), (NodeId(2), 0), (NodeId(3), lacks)];
            let members_of = Membership { voters: voters.clone(), ..Membership::default() };
            let of = ReplicaSet { members: members_of, behind, lacks, ..ReplicaSet::default() };
            members.note_replicas(PartitionId(id), of);
            members.note_leader(PartitionId(id), Some(NodeId(leader)));
        }
        assert!(members.followers().is_empty(), "nobody is heard of");
        members.note_heard(shard, &[(NodeId(1), silent), (NodeId(3), silent)]);
        let follower =
            |node, is_near, lacks| Follower { node: NodeId(node), is_near, lacks, silent };
        assert_eq!(members.followers(), [follower(1, true, 2), follower(3, false, 403)]);
        members.note_heard(shard, &[(NodeId(3), silent)]);
        assert_eq!(members.followers(), [follower(3, false, 403)]);
    }

    #[test]
    fn a_leader_that_is_not_heard_of_leaves_orphans_where_there_are_replicas() {
        let members = second_of_three(1);
        let shard = ShardId(0);
        let voters: Vec<_> = [1, 2, 3].map(NodeId).into();
        for (id, voters) in [(0, voters.clone()), (1, vec![NodeId(1), NodeId(3)])] {
            let of = Membership { voters, ..Membership::default() };
            let of = ReplicaSet { members: of, ..ReplicaSet::default() };
            members.note_replicas(PartitionId(id), of);
            members.note_leader(PartitionId(id), Some(NodeId(1)));
        }
        let orphaned = || [0, 1, 2].map(|id| members.is_orphaned(PartitionId(id), shard));
        assert_eq!(orphaned(), [true, false, false], "of the third no leader is known");
        let before = members.version();
        members.note_heard(shard, &[(NodeId(1), Duration::ZERO)]);
        assert_eq!(orphaned(), [false; 3]);
        assert!(members.version() > before, "clients are told of it");
        let before = members.version();
        members.note_heard(shard, &[(NodeId(1), Duration::from_secs(1))]);
        assert_eq!(members.version(), before, "nothing has changed for them");
        members.note_leader(PartitionId(0), Some(NodeId(2)));
        members.note_heard(shard, &[]);
        assert_eq!(orphaned(), [false; 3], "this node leads");
    }

    #[test]
    fn the_shards_of_all_nodes_have_numbers_of_their_own() {
        let members = second_of_three(4);

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
