//! `--initial-cluster`: the nodes that found a cluster together, and which of them this one is.
//!
//! All of them are given the same list at every start; a node's number is its place in it. The
//! cluster's id is made of the list that the nodes were born with, so that none has to hand it out;
//! later the list may name other addresses, but not other nodes.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use xxhash_rust::xxh3::xxh3_128;

use super::directory::Identity;
use crate::cluster::{Member, Members};
use crate::config::Config;
use crate::id::NodeId;

/// Most nodes of a cluster that have all partitions.
const NODES_MAX: usize = 7;

/// Who founds the cluster, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Founders {
    /// Of the cluster.
    pub(super) id: u128,
    /// This node.
    pub(super) own: NodeId,
    /// Where the peers of each listen, in order.
    pub(super) addrs: Vec<SocketAddr>,
}

impl Founders {
    /// Of a configuration; none: the node is alone.
    ///
    /// # Errors
    /// The list makes no sense, a name is not known, or it can not be told which node this is.
    pub(super) fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let names = &config.initial_cluster;
        if names.is_empty() {
            return Ok(None);
        }
        ensure!(
            (2..=NODES_MAX).contains(&names.len()),
            "initial-cluster names {} node(s): give 2 to {NODES_MAX}, best 3 or 5",
            names.len()
        );
        let addrs = names.iter().map(|name| resolve(name)).collect::<anyhow::Result<Vec<_>>>()?;
        for (at, addr) in addrs.iter().enumerate() {
            let twin = addrs[..at].iter().position(|other| other == addr);
            if let Some(twin) = twin {
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
        let id = xxh3_128(names.join(",").as_bytes());
        Ok(Some(Self { id, own: NodeId(config.node_id), addrs }))
    }

    /// Where the first of this node's shards listens for its peers.
    pub(super) fn own_port(&self) -> u16 {
        self.addrs[self.own.0 as usize - 1].port()
    }

    /// The cluster of a data directory that was made for it.
    pub(super) fn members(&self, identity: &Identity) -> Arc<Members> {
        let member = |(at, addr): (usize, &SocketAddr)| Member {
            id: NodeId(at as u64 + 1),
            peer_addr: *addr,
        };
        let all = self.addrs.iter().enumerate().map(member).collect();
        let Identity { cluster_id, cores, partitions, .. } = *identity;
        Arc::new(Members::new(self.own, cluster_id, all, cores, partitions))
    }
}

fn resolve(name: &str) -> anyhow::Result<SocketAddr> {
    let text = format!("initial-cluster: {name}: expected HOST:PEERPORT");
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

    #[test]
    fn the_same_list_gives_the_same_cluster_and_each_node_its_place() {
        let names = ["127.0.0.1:7401", "127.0.0.1:7411", "127.0.0.1:7421"];
        let of = |id| Founders::of(&config(&names, id)).expect("fine").expect("a cluster");

        assert_eq!(of(1).id, of(3).id);
        assert_eq!(of(3).own, NodeId(3));
        assert_eq!(of(1).addrs[1].port(), 7411);
        assert_eq!(Founders::of(&config(&[], 0)).expect("fine"), None);
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
            let error = Founders::of(&config(names, id)).expect_err("senseless");
            assert!(format!("{error:#}").contains(expected), "{names:?}: {error:#}");
        }
    }
}
