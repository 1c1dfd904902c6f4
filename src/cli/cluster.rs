//! As which node of which cluster a server starts: a founder (`--initial-cluster`), one that others
//! may join (`--peer-port`), or one that joins (`--join`).
//!
//! Founders are all given the same list at every start; a node's number is its place in it, and the
//! cluster's id is made of it, so that none has to hand it out. Who joins asks any node of the
//! cluster, over the binary protocol on its peer port, gets a number, and keeps what it was told of
//! the others beside its identity, to find them again:
//!
//! ```text
//! DIR/cluster.json    the topology that this node was told last; a copy, of use at the start alone
//! ```
//!
//! How many replicas a partition has is decided at the founding, too, and kept there. A directory
//! of before there was a choice says nothing of it: all of its nodes have all replicas, as before.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use stavekv_client::{Options, Retry};
use xxhash_rust::xxh3::xxh3_128;

use super::directory::{Asked, Birth, Identity};
use super::seeds;
use crate::cluster::{Action, Member, Members, REPLICAS, REPLICAS_MAX, State, Told, Topology};
use crate::config::Config;
use crate::env::os::random_seed;
use crate::id::NodeId;

/// Most nodes that found a cluster.
const FOUNDERS_MAX: usize = 7;
/// Where the peers of a node listen that joins and was told no port.
const PEER_PORT: u16 = 7401;
/// How long a node that joins looks for one that answers.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that was one before does: it can start without.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(3);
/// How long one that answers may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// The copy of the topology.
pub(super) const TOPOLOGY: &str = "cluster.json";

/// A node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// As what its directory is born, or was.
    pub(super) birth: Option<Birth>,
    /// Which nodes there are, as far as is known before the log is read.
    topology: Topology,
    /// Where nodes are reached whatever the log says: the configuration is newer.
    configured: Vec<(u64, SocketAddr)>,
    /// The others look for this node somewhere else: to be told once it serves.
    moved: bool,
}

impl Seat {
    /// Of a configuration; none: the node is alone. What was not `asked` for, a node that joins
    /// takes from the others.
    ///
    /// # Errors
    /// The configuration makes no sense, a name is not known, or nobody lets this node in.
    pub(super) fn of(config: &mut Config, asked: Asked) -> anyhow::Result<Option<Self>> {
        let joins = !config.join.is_empty();
        let founds = !config.initial_cluster.is_empty();
        ensure!(!(joins && founds), "initial-cluster founds a cluster, join joins one: give one");
        if !founds && !joins && config.peer_port == 0 {
            return Ok(None);
        }
        let identity = Identity::read(&config.data_dir)?;
        let known = read_topology(&config.data_dir);
        if founds {
            let replicas = match (&identity, known) {
                (_, Some(known)) => known.replicas() as u8,
                (Some(_), None) => REPLICAS_MAX,
                (None, None) => config.replication_factor,
            };
            return founder(config, replicas).map(Some);
        }
        let own = own_addr(config, if joins { PEER_PORT } else { 0 })?;
        let seat = match (joins, identity) {
            (true, None) => join(config, own, asked)?,
            (true, Some(identity)) => come_back(config, &identity, known, own)?,
            (false, identity) => host(identity, known, own, config.replication_factor)?,
        };
        Ok(Some(seat))
    }

    /// Tells the others where this node is, if they look for it somewhere else. From a thread of
    /// its own: they may need this node to agree on it.
    pub(super) fn announce(&self, config: &Config) {
        let (Some(birth), [(_, peer)]) = (self.birth, self.configured.as_slice()) else { return };
        let action = Action::Announce { node: birth.node_id.0, peer: *peer };
        let config = config.clone();
        if !self.moved {
            return;
        }
        std::thread::spawn(move || match ask(&config, &action, Duration::MAX) {
            Ok(_) => tracing::info!("the other nodes know where this one is reached"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the other nodes do not know where this one is reached");
            }
        });
    }

    /// Keeps what is known of the others for the next start.
    pub(super) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let (path, tmp) = (dir.join(TOPOLOGY), dir.join("cluster.json.tmp"));
        fs::write(&tmp, self.topology.encode()).with_context(|| tmp.display().to_string())?;
        fs::rename(&tmp, &path).with_context(|| path.display().to_string())
    }

    /// The cluster of a data directory that was made for it.
    pub(super) fn members(&self, identity: &Identity, config: &Config) -> Arc<Members> {
        let Identity { cluster_id, node_id, cores, partitions, incarnation, .. } = *identity;
        let configured = self.configured.clone();
        let topology = self.topology.clone();
        let members = Members::new(node_id, cluster_id, topology, cores, partitions);
        let members = members.at(configured).born(incarnation, random_seed());
        let members = members.patient_for(config.replace_dead_after);
        Arc::new(members.stale_for(config.read_staleness_max))
    }
}

/// One of those that found a cluster together.
fn founder(config: &Config, replicas: u8) -> anyhow::Result<Seat> {
    let names = &config.initial_cluster;
    ensure!(
        (2..=FOUNDERS_MAX).contains(&names.len()),
        "initial-cluster names {} node(s): give 2 to {FOUNDERS_MAX}, best 3 or 5",
        names.len()
    );
    let addrs = names.iter().map(|name| resolve("initial-cluster", name));
    let addrs = addrs.collect::<anyhow::Result<Vec<_>>>()?;
    for (at, addr) in addrs.iter().enumerate() {
        if let Some(twin) = addrs[..at].iter().position(|other| other == addr) {
            bail!("initial-cluster: {} and {} are the same node", names[twin], names[at]);
        }
    }
    ensure!(
        (1..=names.len() as u64).contains(&config.node_id),
        "node-id is {}, but initial-cluster names {} nodes: say which of them this one is with \
         --node-id, 1 for the first",
        config.node_id,
        names.len()
    );
    let mut told = names.join(",");
    if replicas != REPLICAS {
        // Those that were told differently are not of one cluster.
        told.push_str(&format!(";{replicas}"));
    }
    let (cluster_id, nodes) = (xxh3_128(told.as_bytes()), names.len() as u16);
    let birth = Some(Birth { cluster_id, node_id: NodeId(config.node_id), nodes });
    let configured: Vec<_> = (1..).zip(addrs).collect();
    let founders = configured.iter().map(|(id, addr)| Member::new(*id, *addr, "")).collect();
    let topology = Topology::founded(founders, replicas);
    Ok(Seat { birth, topology, configured, moved: false })
}

/// The first node of a cluster, or one that needs nobody to find the others.
fn host(
    identity: Option<Identity>,
    known: Option<Topology>,
    own: SocketAddr,
    replicas: u8,
) -> anyhow::Result<Seat> {
    let id = identity.map_or(1, |identity| identity.node_id.0);
    let topology = match known {
        Some(known) => known,
        // Its log may not say so: it would vote for itself alone.
        None if identity.is_some_and(|identity| identity.nodes > 1) => bail!(
            "this node is one of several that founded a cluster: give it the --initial-cluster and \
             --node-id that it was born with, or --join"
        ),
        None if id == 1 => Topology::founded(vec![Member::new(1, own, "")], replicas),
        None => bail!("this node has joined a cluster and lacks {TOPOLOGY}: give it --join"),
    };
    let birth = identity.map(Birth::of);
    Ok(Seat { birth, topology, configured: vec![(id, own)], moved: false })
}

/// A node that is new.
fn join(config: &mut Config, own: SocketAddr, asked: Asked) -> anyhow::Result<Seat> {
    let others = ask(config, &Action::Status, JOIN_PATIENCE)?;
    if !asked.cores {
        config.cores = others.cores;
    }
    let each = (others.partitions / u32::from(others.cores.max(1))) as u16;
    ensure!(
        !asked.partitions || config.partitions_per_core == each,
        "the cluster has {each} partitions per core: leave --partitions-per-core out"
    );
    config.partitions_per_core = each;
    let (zone, cores) = (config.zone.clone(), config.cores);
    let told = ask(config, &Action::Join { peer: own, zone, cores }, JOIN_PATIENCE)?;
    let cluster_id = u128::from_str_radix(&told.cluster, 16).context("the cluster's id")?;
    let nodes = told.topology.founders.len() as u16;
    let birth = Some(Birth { cluster_id, node_id: NodeId(told.node), nodes });
    tracing::info!(node_id = told.node, cluster_id = told.cluster, "joined a cluster");
    let configured = vec![(told.node, own)];
    Ok(Seat { birth, topology: told.topology, configured, moved: false })
}

/// A node that has joined before.
fn come_back(
    config: &Config,
    identity: &Identity,
    known: Option<Topology>,
    own: SocketAddr,
) -> anyhow::Result<Seat> {
    let node = identity.node_id.0;
    let (told, mut moved) = (ask(config, &Action::Status, ANNOUNCE_PATIENCE), true);
    let topology = match (told, known) {
        (Ok(told), _) => {
            let expected = format!("{:032x}", identity.cluster_id);
            ensure!(
                told.cluster == expected,
                "the data directory is of cluster {expected}, but --join names one of {}: give an \
                 empty directory to join that one",
                told.cluster
            );
            let was = told.topology.get(node);
            ensure!(
                was.is_some_and(|was| was.state != State::Removed),
                "node {node} was removed from its cluster: to join it again give an empty directory"
            );
            moved = was.is_some_and(|was| was.peer != own);
            told.topology
        }
        (Err(error), Some(known)) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "nobody of --join answers: starting with what was known before");
            known
        }
        (Err(error), None) => return Err(error),
    };
    let configured = vec![(node, own)];
    Ok(Seat { birth: Some(Birth::of(*identity)), topology, configured, moved })
}

/// Asks the nodes that the configuration names, one after the other, until one answers.
fn ask(config: &Config, action: &Action, patience: Duration) -> anyhow::Result<Told> {
    let text = action.encode();
    let (begin, mut told_of) = (Instant::now(), false);
    loop {
        let mut failed = None;
        for (name, found) in config.join.iter().map(|name| (name, seeds::look_up(name))) {
            for seed in found.as_deref().unwrap_or_default() {
                match ask_one(config, *seed, &text, patience.min(ANSWER_PATIENCE)) {
                    Ok(answer) => {
                        let told = Told::decode(&answer);
                        return told.map_err(|text| anyhow!("--join {name} ({seed}): {text}"));
                    }
                    Err(error) if is_final(&error) => {
                        return Err(error).with_context(|| format!("--join {name} ({seed})"));
                    }
                    Err(error) => failed = Some((name, error.into())),
                }
            }
            failed = found.err().map(|error| (name, error)).or(failed);
        }
        let (name, error) = failed.context("join names nobody")?;
        if begin.elapsed() > patience {
            return Err(error).with_context(|| {
                format!("--join {name}: no node of the cluster answered for {patience:?}")
            });
        }
        if !std::mem::replace(&mut told_of, true) {
            let error = format!("{error:#}");
            tracing::info!(name, error, "waiting for a node of the cluster");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// What one node answers.
fn ask_one(
    config: &Config,
    seed: SocketAddr,
    text: &str,
    deadline: Duration,
) -> Result<String, stavekv_client::Error> {
    let options = Options::new(seed.to_string()).name("stave-join").connections_max(1);
    let options = match &config.requirepass {
        Some(password) => options.password(password.reveal()),
        None => options,
    };
    options.deadline(deadline).connect_blocking_lazily().cluster(text)
}

/// Whether asking again, or another, is of no use.
fn is_final(error: &stavekv_client::Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.retry == Retry::Never)
}

/// Where this node's peers reach it.
fn own_addr(config: &Config, default_port: u16) -> anyhow::Result<SocketAddr> {
    let port = if config.peer_port == 0 { default_port } else { config.peer_port };
    let host = match (config.advertise_host.as_str(), config.bind) {
        ("", bind) if !bind.is_unspecified() => return Ok(SocketAddr::new(bind, port)),
        ("", bind) => bail!(
            "bind is {bind}, which the other nodes of a cluster can not reach: say where they \
             reach this one with --advertise-host"
        ),
        (host, _) => host,
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => resolve("advertise-host", &format!("{host}:{port}")),
    }
}

fn read_topology(dir: &Path) -> Option<Topology> {
    Topology::decode(&fs::read(dir.join(TOPOLOGY)).ok()?)
}

fn resolve(setting: &str, name: &str) -> anyhow::Result<SocketAddr> {
    let text = format!("{setting}: {name}: expected HOST:PEERPORT");
    let mut addrs = name.to_socket_addrs().with_context(|| text.clone())?;
    addrs.next().context(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::machine::Machine;

    fn config(names: &[&str], node_id: u64) -> Config {
        let initial_cluster = names.iter().map(|name| (*name).to_owned()).collect();
        let machine = Machine { cores: 1, memory: 1 << 30, memory_of_cgroup: false };
        Config { initial_cluster, node_id, ..Config::defaults(&machine) }
    }

    fn seat(mut config: Config) -> anyhow::Result<Option<Seat>> {
        Seat::of(&mut config, Asked::default())
    }

    #[test]
    fn the_same_list_gives_the_same_cluster_and_each_node_its_place() {
        let names = ["127.0.0.1:7401", "127.0.0.1:7411", "127.0.0.1:7421"];
        let of = |id| seat(config(&names, id)).expect("fine").expect("a cluster");
        let birth = |id| of(id).birth.expect("a founder is born as one");

        assert_eq!(birth(1).cluster_id, birth(3).cluster_id);
        assert_eq!(birth(3).node_id, NodeId(3));
        assert_eq!(of(1).topology.nodes[1].peer.port(), 7411);
        assert_eq!(seat(config(&[], 0)).expect("fine"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_cure() {
        let two = ["127.0.0.1:7401", "127.0.0.1:7411"];
        for (names, id, expected) in [
            (&two[..1], 1, "give 2 to 7"),
            (&two[..], 0, "say which of them this one is with --node-id"),
            (&two[..], 3, "node-id is 3, but initial-cluster names 2 nodes"),
            (&["127.0.0.1:1", "127.0.0.1:1"][..], 1, "are the same node"),
            (&["127.0.0.1", "127.0.0.1:1"][..], 1, "expected HOST:PEERPORT"),
        ] {
            let error = seat(config(names, id)).expect_err("senseless");
            assert!(format!("{error:#}").contains(expected), "{names:?}: {error:#}");
        }
    }

    #[test]
    fn one_of_several_founders_does_not_become_a_cluster_of_its_own() {
        let identity = |nodes| {
            let (node_id, cores, partitions) = (NodeId(1), 1, 4);
            Some(Identity { cluster_id: 7, node_id, cores, partitions, nodes, incarnation: 1 })
        };
        let own = SocketAddr::from(([127, 0, 0, 1], 7401));

        let error = host(identity(3), None, own, 3).expect_err("two others may lead");
        assert!(error.to_string().contains("--initial-cluster"), "{error:#}");
        assert!(host(identity(1), None, own, 3).is_ok(), "it was alone");
    }

    #[test]
    fn a_node_says_where_it_is_reached() {
        let everywhere = Config { bind: [0, 0, 0, 0].into(), peer_port: 9, ..config(&[], 0) };
        let error = own_addr(&everywhere, 0).expect_err("nobody can connect to 0.0.0.0");
        assert!(error.to_string().contains("--advertise-host"), "{error:#}");

        let named = Config { advertise_host: "10.1.2.3".to_owned(), ..everywhere };
        assert_eq!(own_addr(&named, 0).expect("fine").to_string(), "10.1.2.3:9");
        let plain = Config { bind: [127, 0, 0, 1].into(), peer_port: 0, ..named };
        let plain = Config { advertise_host: String::new(), ..plain };
        assert_eq!(own_addr(&plain, 7401).expect("fine").to_string(), "127.0.0.1:7401");
    }
}
