//! Several nodes that are one cluster, in the simulator.

use std::rc::Rc;
use std::time::Duration;

use super::house::{House, PATIENCE, PEER_PORT, Shape};
use super::talk::{Talk, Value};
use crate::cluster::Member;
use crate::id::NodeId;
use crate::sim::Sim;

/// Nodes of one shape, numbered from 1.
#[derive(Debug)]
pub struct Cluster {
    /// Their world.
    pub sim: Rc<Sim>,
    /// In the order of their numbers.
    pub houses: Vec<House>,
}

impl Cluster {
    /// `count` nodes that serve.
    ///
    /// # Panics
    /// If one does not start.
    pub fn new(seed: u64, count: u64, shape: &Shape) -> Self {
        let sim = Rc::new(Sim::new(seed));
        let ids = (1..=count).map(NodeId);
        let member = |id| Member { id, peer_addr: sim.node(id).addr(PEER_PORT) };
        let members: Vec<_> = ids.clone().map(member).collect();
        let house = |id| House::in_cluster(&sim, id, members.clone(), shape.clone());
        let mut cluster = Self { houses: ids.map(house).collect(), sim: Rc::clone(&sim) };
        for house in &mut cluster.houses {
            house.boot().expect("an empty directory opens");
        }
        cluster
    }

    /// A connection to a node, from 0.
    pub fn connect(&self, node: usize) -> Talk {
        self.houses[node].connect()
    }

    /// Sends a command and waits for its reply; none: the connection ended before.
    ///
    /// # Panics
    /// On a hang.
    pub fn ask(&self, talk: &Talk, args: &[&str]) -> Option<Value> {
        talk.send(args);
        let end = self.sim.now() + PATIENCE;
        let mut got = None;
        self.sim.run_until(|| {
            assert!(self.sim.now() < end, "hang: waited {PATIENCE:?} for a reply to {args:?}");
            got = talk.next();
            got.is_some() || talk.is_ended()
        });
        got
    }

    /// Lets time pass.
    pub fn run_ms(&self, ms: u64) {
        self.sim.run_for(Duration::from_millis(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { shards: 1, partitions: 2, ..Shape::default() }
    }

    #[test]
    fn three_nodes_elect_leaders_and_replicate() {
        let cluster = Cluster::new(1, 3, &shape());
        cluster.run_ms(5000);
        for house in &cluster.houses {
            eprintln!("{:?} entries {}", house, house.stats[0].entries_committed.get());
        }
        let talks: Vec<_> = (0..3).map(|node| cluster.connect(node)).collect();
        for n in 0..20 {
            let key = format!("key{n}");
            let reply = cluster.ask(&talks[n % 3], &["SET", &key, &n.to_string()]);
            assert_eq!(reply, Some(Value::ok()), "{key}");
        }
        for n in 0..20 {
            let key = format!("key{n}");
            let reply = cluster.ask(&talks[(n + 1) % 3], &["GET", &key]);
            assert_eq!(reply, Some(Value::bulk(n.to_string())), "{key}");
        }
    }
}
