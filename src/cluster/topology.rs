//! Which nodes a cluster has, and what becomes of a wish to change that: a pure function.
//!
//! The topology is what the first partition's group has decided; each node has a copy. It says what
//! is to be: which nodes exist, which of them are to have replicas, and how many a partition is to
//! have; which node has which follows from that ([`super::placement`]). Who really has one is each
//! group's own affair, which its leader brings in line ([`super::plan`]).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Source, Wanted};
use crate::id::NodeId;

/// Most nodes that a cluster can have had: their shards have numbers of 16 bits.
pub const NODES_MAX: u64 = 60;
/// Most replicas of a partition; and how many it has in a topology of before there was a choice,
/// when all nodes had all.
pub const REPLICAS_MAX: u8 = 7;
/// Replicas of a partition, unless something else is asked for.
pub const REPLICAS: u8 = 3;
/// Longest name of a zone, bytes.
const ZONE_LEN_MAX: usize = 64;

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has replicas.
    Serving,
    /// Its replicas go.
    Draining,
    /// It was not heard of for long: its replicas go, until it is.
    Lost,
    /// It is gone for good; its number is not used again.
    Removed,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which.
    pub id: u64,
    /// Where its peers reach its first shard; shard n listens n ports further on.
    pub peer: SocketAddr,
    /// Where it stands; nodes of one zone may fail together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// What is to become of it.
    pub state: State,
    /// That of its data directory when it was first heard of; 0: it was not yet, or has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub incarnation: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Rises with each change.
    pub version: u64,
    /// Who had replicas at the groups' birth.
    pub founders: Vec<u64>,
    /// By number.
    pub nodes: Vec<Member>,
    /// How many of them have a replica of each partition; all, while there are fewer.
    #[serde(default = "replicas_max")]
    replicas: u8,
    /// Who is to lead all partitions; none: each leads as many as the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// The cluster that this one follows: its standby, which takes no writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Source>,
}

fn replicas_max() -> u8 {
    REPLICAS_MAX
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "action")]
pub enum Action {
    /// Tells what there is; changes nothing.
    Status,
    /// A node with an empty directory wants to be one of the cluster.
    Join {
        /// Where its peers are to reach it.
        peer: SocketAddr,
        /// See [`Member::zone`].
        #[serde(default)]
        zone: String,
        /// Its shards: as many as the others have.
        cores: u16,
    },
    /// A node that is one of the cluster has started, perhaps somewhere else than before.
    Announce {
        /// Which.
        node: u64,
        /// Where its peers reach it.
        peer: SocketAddr,
    },
    /// A node is to have no replicas.
    Drain {
        /// Which.
        node: u64,
    },
    /// A node that was drained is to have replicas again.
    Restore {
        /// Which.
        node: u64,
    },
    /// A node is gone for good.
    Remove {
        /// Which.
        node: u64,
    },
    /// A node is to lead all partitions; none: each as many as the others.
    Transfer {
        /// Which.
        node: Option<u64>,
    },
    /// A node that served is not heard of for long; of the leader's own accord.
    Lost {
        /// Which.
        node: u64,
    },
    /// It is heard of again.
    Found {
        /// Which.
        node: u64,
    },
    /// A node is heard of for the first time; of the leader's own accord.
    Known {
        /// Which.
        node: u64,
        /// See [`Member::incarnation`].
        incarnation: u32,
    },
    /// So many nodes are to have a replica of each partition.
    Replicas {
        /// How many: see [`check_replicas`].
        count: u8,
    },
    /// The cluster is to be a standby of another: all that it has goes, and what the other has
    /// takes its place.
    Follow {
        /// Which.
        source: Source,
    },
    /// It is to follow nobody any more, and take writes.
    Promote,
}

impl Action {
    /// As text.
    pub fn encode(&self) -> String {
        text_of(self)
    }

    /// Back from text.
    ///
    /// # Errors
    /// It is none: a sentence.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|error| format!("no action of a cluster: {error}"))
    }
}

/// JSON of what nodes tell of a cluster.
///
/// # Panics
/// If a map has keys that are no text.
pub fn text_of(told: &impl Serialize) -> String {
    serde_json::to_string(told).expect("it has no odd keys")
}

/// Refuses what can not be the number of a partition's replicas.
///
/// # Errors
/// A sentence.
pub fn check_replicas(count: u8) -> Result<(), Refusal> {
    if count % 2 == 1 && count <= REPLICAS_MAX {
        return Ok(());
    }
    Err(format!(
        "a partition has 1, 3, 5 or 7 replicas and not {count}: a majority of an even number \
         outlives no more failures than one of the odd number before it"
    ))
}

/// Why a wish is not granted: a sentence with the cause and the cure.
pub type Refusal = String;

impl Member {
    /// One that serves, and was not heard of yet.
    pub fn new(id: u64, peer: SocketAddr, zone: &str) -> Self {
        Self { id, peer, zone: zone.to_owned(), state: State::Serving, incarnation: 0 }
    }

    /// Its number.
    pub fn node(&self) -> NodeId {
        NodeId(self.id)
    }
}

impl Topology {
    /// At the beginning: `founders` that serve, in the order of their numbers.
    pub fn founded(founders: Vec<Member>, replicas: u8) -> Self {
        let ids = founders.iter().map(|member| member.id).collect();
        Self { version: 1, founders: ids, nodes: founders, replicas, leader: None, follows: None }
    }

    /// How many nodes are to have a replica of each partition, if there are so many.
    pub fn replicas(&self) -> usize {
        self.replicas.into()
    }

    /// Who is to have replicas of each of so many partitions.
    pub fn place(&self, partitions: u32) -> Vec<Wanted> {
        super::placement::place(self, partitions)
    }

    /// Back from bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        text_of(self).into_bytes()
    }

    /// A node, removed or not.
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.nodes.iter().find(|member| member.id == id)
    }

    /// The nodes that are to have replicas.
    pub fn serving(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(|member| member.state == State::Serving)
    }

    /// What it is once a wish is granted, and which node that is about. Equal if nothing changes.
    ///
    /// # Errors
    /// It can not be.
    pub fn after(&self, action: &Action, cores: u16) -> Result<(Self, u64), Refusal> {
        let mut after = self.clone();
        let node = match action {
            Action::Status => 0,
            Action::Join { peer, zone, cores: asked } => {
                after.join(*peer, zone, (*asked, cores))?
            }
            Action::Announce { node, peer } => after.announce(*node, *peer)?,
            Action::Drain { node } => after.set_state(*node, State::Draining)?,
            Action::Restore { node } => after.set_state(*node, State::Serving)?,
            Action::Remove { node } => after.set_state(*node, State::Removed)?,
            Action::Transfer { node } => after.lead(*node)?,
            Action::Lost { node } if self.is(*node, State::Serving) => {
                after.set_state(*node, State::Lost)?
            }
            Action::Found { node } if self.is(*node, State::Lost) => {
                after.set_state(*node, State::Serving)?
            }
            // Somebody has decided otherwise meanwhile.
            Action::Lost { node } | Action::Found { node } => *node,
            Action::Known { node, incarnation } => after.know(*node, *incarnation),
            Action::Replicas { count } => {
                check_replicas(*count)?;
                after.replicas = *count;
                0
            }
            Action::Follow { source } => after.follow(source)?,
            Action::Promote if self.follows.is_none() => {
                return Err("this cluster follows none: it takes writes already".to_owned());
            }
            Action::Promote => {
                after.follows = None;
                0
            }
        };
        if after != *self {
            after.version += 1;
        }
        Ok((after, node))
    }

    fn is(&self, id: u64, state: State) -> bool {
        self.get(id).is_some_and(|member| member.state == state)
    }

    fn known(&self, id: u64) -> Result<&Member, Refusal> {
        let known = self.get(id).filter(|member| member.state != State::Removed);
        known.ok_or_else(|| match self.get(id) {
            Some(_) => format!("node {id} was removed: its number is not used again"),
            None => format!("there is no node {id}: `stave cluster status` names those there are"),
        })
    }

    fn join(&mut self, peer: SocketAddr, zone: &str, cores: (u16, u16)) -> Result<u64, Refusal> {
        if cores.0 != cores.1 {
            let (asked, have) = cores;
            return Err(format!(
                "the nodes of this cluster have {have} core(s) each, this one has {asked}: start \
                 it with --cores {have}"
            ));
        }
        if zone.len() > ZONE_LEN_MAX || !zone.chars().all(|c| c.is_ascii_graphic()) {
            return Err(format!("a zone is at most {ZONE_LEN_MAX} printable characters"));
        }
        let at = |member: &&Member| member.peer == peer && member.state != State::Removed;
        if let Some(known) = self.nodes.iter().find(at) {
            return Err(format!(
                "node {id} of this cluster is reached at {peer}: if it has lost its data, remove \
                 it first with `stave cluster remove {id}`; if not, start it with its own data \
                 directory",
                id = known.id
            ));
        }
        let id = self.nodes.iter().map(|member| member.id).max().unwrap_or(0) + 1;
        if id > NODES_MAX {
            return Err(format!("{NODES_MAX} nodes have been in this cluster: no more can join"));
        }
        self.nodes.push(Member::new(id, peer, zone));
        Ok(id)
    }

    fn know(&mut self, id: u64, incarnation: u32) -> u64 {
        let mut nodes = self.nodes.iter_mut();
        if let Some(new) = nodes.find(|member| member.id == id && member.incarnation == 0) {
            new.incarnation = incarnation;
        }
        id
    }

    fn announce(&mut self, id: u64, peer: SocketAddr) -> Result<u64, Refusal> {
        self.known(id)?;
        let other = |member: &&Member| {
            member.peer == peer && member.id != id && member.state != State::Removed
        };
        if let Some(other) = self.nodes.iter().find(other) {
            return Err(format!("node {} is reached at {peer}", other.id));
        }
        self.nodes.iter_mut().filter(|member| member.id == id).for_each(|own| own.peer = peer);
        Ok(id)
    }

    fn lead(&mut self, leader: Option<u64>) -> Result<u64, Refusal> {
        if let Some(id) = leader
            && self.known(id)?.state != State::Serving
        {
            return Err(format!("node {id} has no replicas: restore it before"));
        }
        self.leader = leader;
        Ok(leader.unwrap_or(0))
    }

    fn follow(&mut self, source: &Source) -> Result<u64, Refusal> {
        source.check()?;
        if let Some(other) = self.follows.as_ref().filter(|of| of.cluster != source.cluster) {
            return Err(format!(
                "this cluster is a standby of {other}, cluster {}: make it a primary first with \
                 `stave cluster promote`",
                other.cluster
            ));
        }
        self.follows = Some(source.clone());
        Ok(0)
    }

    fn set_state(&mut self, id: u64, state: State) -> Result<u64, Refusal> {
        self.known(id)?;
        let others = self.serving().filter(|member| member.id != id).count();
        if state != State::Serving && others == 0 {
            return Err(format!("node {id} is the only one that has replicas: add another before"));
        }
        self.nodes.iter_mut().filter(|member| member.id == id).for_each(|own| own.state = state);
        self.leader = self.leader.filter(|leader| state == State::Serving || *leader != id);
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn member(id: u64) -> Member {
        let peer = addr(7000 + 10 * id as u16);
        Member::new(id, peer, "")
    }

    fn three() -> Topology {
        Topology::founded([1, 2, 3].map(member).into(), 3)
    }

    fn join(port: u16) -> Action {
        Action::Join { peer: addr(port), zone: "a".to_owned(), cores: 2 }
    }

    #[test]
    fn who_joins_gets_the_next_number_and_no_number_comes_back() {
        let (four, id) = three().after(&join(8000), 2).expect("there is room");
        assert_eq!((id, four.version, four.nodes.len()), (4, 2, 4));

        let (three, _) = four.after(&Action::Remove { node: 4 }, 2).expect("others are left");
        let (five, id) = three.after(&join(8000), 2).expect("its place is free");
        assert_eq!(id, 5);
        assert_eq!(five.serving().map(|of| of.id).collect::<Vec<_>>(), [1, 2, 3, 5]);
    }

    #[test]
    fn a_topology_comes_back_as_encoded() {
        let (topology, _) = three().after(&join(8000), 2).expect("there is room");
        assert_eq!(Topology::decode(&topology.encode()), Some(topology));
        assert_eq!(Topology::decode(b"{}"), None);
    }

    #[test]
    fn in_a_topology_of_before_there_was_a_choice_all_nodes_have_all() {
        let (three, _) = three().after(&Action::Replicas { count: 1 }, 2).expect("it can be");
        assert_eq!((three.replicas(), three.version), (1, 2));
        let text = three.encode();
        let old = String::from_utf8_lossy(&text).replace(r#","replicas":1"#, "");
        let old = Topology::decode(old.as_bytes()).expect("it has all that it had");
        assert_eq!(old.replicas(), usize::from(REPLICAS_MAX));
    }

    fn source(cluster: u8) -> Action {
        let cluster = format!("{cluster:032x}");
        Action::Follow { source: Source { cluster, at: vec![addr(7400)] } }
    }

    #[test]
    fn a_cluster_follows_one_other_until_it_is_promoted() {
        let (standby, _) = three().after(&source(7), 2).expect("it can");
        assert_eq!(Topology::decode(&standby.encode()), Some(standby.clone()));
        assert_eq!(standby.follows.as_ref().map(Source::id), Some(7));
        assert_eq!(standby.after(&source(7), 2).expect("the same").0.version, 2);
        let refusal = standby.after(&source(8), 2).expect_err("it follows another");
        assert!(refusal.contains("stave cluster promote"), "{refusal}");

        let (primary, _) = standby.after(&Action::Promote, 2).expect("it can");
        assert_eq!((primary.version, &primary.follows), (3, &None));
        let refusal = primary.after(&Action::Promote, 2).expect_err("it follows none");
        assert!(refusal.contains("takes writes already"), "{refusal}");
        for text in ["", "7", "zz"] {
            let source = Source { cluster: text.to_owned(), at: vec![addr(7400)] };
            three().after(&Action::Follow { source }, 2).expect_err("that is no id");
        }
    }

    #[test]
    fn what_changes_nothing_has_no_version_of_its_own() {
        let same = Action::Announce { node: 2, peer: addr(7020) };
        assert_eq!(three().after(&same, 2), Ok((three(), 2)));
        let other = Action::Announce { node: 2, peer: addr(9) };
        assert_eq!(three().after(&other, 2).expect("free").0.version, 2);
    }

    #[test]
    fn what_can_not_be_is_refused_with_cause_and_cure() {
        let lone = Topology::founded(vec![member(1)], 3);
        let (gone, _) = three().after(&Action::Remove { node: 2 }, 2).expect("others are left");
        for (topology, action, expected) in [
            (three(), join(7020), "remove it first with `stave cluster remove 2`"),
            (three(), Action::Join { peer: addr(1), zone: "a b".into(), cores: 2 }, "a zone is"),
            (three(), Action::Join { peer: addr(1), zone: "".into(), cores: 3 }, "--cores 2"),
            (three(), Action::Drain { node: 9 }, "there is no node 9"),
            (three(), Action::Announce { node: 1, peer: addr(7020) }, "node 2 is reached at"),
            (gone, Action::Restore { node: 2 }, "node 2 was removed"),
            (lone, Action::Drain { node: 1 }, "the only one that has replicas"),
            (three(), Action::Replicas { count: 4 }, "1, 3, 5 or 7 replicas and not 4"),
            (three(), Action::Replicas { count: 9 }, "1, 3, 5 or 7"),
        ] {
            let refusal = topology.after(&action, 2).expect_err("it can not be");
            assert!(refusal.contains(expected), "{action:?}: {refusal}");
        }
    }
}
