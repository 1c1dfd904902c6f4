//! Several nodes that are one cluster, in the simulator.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use super::house::{House, PATIENCE, PEER_PORT, Shape};
use super::talk::{Talk, Value};
use crate::cluster::{Member, Source, Told, Topology};
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
        Self::found(&Rc::new(Sim::new(seed)), 1..=count, shape, None)
    }

    /// Nodes of these numbers that serve; they may follow another cluster.
    ///
    /// # Panics
    /// If one does not start.
    pub fn found(
        sim: &Rc<Sim>,
        ids: RangeInclusive<u64>,
        shape: &Shape,
        follows: Option<Source>,
    ) -> Self {
        let ids = ids.map(NodeId);
        let member = |id: NodeId| Member::new(id.0, sim.node(id).addr(PEER_PORT), "");
        let mut topology = Topology::founded(ids.clone().map(member).collect(), shape.replicas);
        topology.follows = follows;
        let house = |id| House::in_cluster(sim, id, Some(topology.clone()), shape.clone());
        let mut cluster = Self { houses: ids.map(house).collect(), sim: Rc::clone(sim) };
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

    /// A node that was let in.
    ///
    /// # Errors
    /// It does not start.
    pub fn add(&mut self, told: &Told) -> Result<(), String> {
        self.houses.push(self.house_of(NodeId(self.houses.len() as u64 + 1), told));
        self.houses.last_mut().map_or(Ok(()), House::boot)
    }

    /// A node that was let in, on the machine of another that has lost its data.
    ///
    /// # Errors
    /// It does not start.
    pub fn replace(&mut self, at: usize, told: &Told) -> Result<(), String> {
        self.houses[at] = self.house_of(self.houses[at].node.id(), told);
        self.houses[at].boot()
    }

    fn house_of(&self, machine: NodeId, told: &Told) -> House {
        let (topology, shape) = (Some(told.topology.clone()), self.houses[0].shape.clone());
        House::on(&self.sim, machine, NodeId(told.node), topology, shape)
    }

    /// Runs until all nodes know the same topology and each finds all replicas where they are to
    /// be. Nodes that were let in and never came may keep that from happening.
    ///
    /// # Errors
    /// How far they are after so long.
    pub fn settle(&self, patience: Duration) -> Result<(), String> {
        let end = self.sim.now() + patience;
        loop {
            let known = self.houses.iter().filter_map(|house| house.members.as_deref());
            let told: Vec<_> = known.map(Told::status).collect();
            let same = told.windows(2).all(|pair| pair[0].topology == pair[1].topology);
            let is_here =
                |member: &Member| self.houses.iter().any(|house| house.id() == member.node());
            if same && told.iter().all(|told| told.unsettled().is_empty())
                || told.iter().any(|told| !told.topology.serving().all(is_here))
            {
                return Ok(());
            }
            if self.sim.now() > end {
                let lines = told.iter().map(unsettled).collect::<String>();
                return Err(format!(
                    "{patience:?} after all was healed it is not settled: {lines}"
                ));
            }
            self.run_ms(200);
        }
    }

    /// Lets time pass.
    pub fn run_ms(&self, ms: u64) {
        self.sim.run_for(Duration::from_millis(ms));
    }
}

/// What a node tells, if that is not as it is to be.
fn unsettled(told: &Told) -> String {
    let mut line = format!("\nnode {} knows {:?}", told.asked, told.topology);
    for (id, wanted) in told.unsettled() {
        let is = &told.partition[id as usize];
        let _ = write!(line, "\n  partition {id} is {is:?} and is to be {wanted:?}");
    }
    line
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

    /// How long it takes until keys of all partitions are written over a node.
    fn time_to_write(cluster: &Cluster, node: usize) -> Duration {
        let begin = cluster.sim.now();
        let talks: Vec<_> = (0..8).map(|_| cluster.connect(node)).collect();
        for (n, talk) in talks.iter().enumerate() {
            talk.send(&["SET", &format!("key{n}"), "x"]);
        }
        for (n, talk) in talks.iter().enumerate() {
            let mut got = None;
            cluster.sim.run_until(|| {
                got = talk.next();
                got.is_some() || talk.is_ended()
            });
            // It had been sent on before the leader was known to be dead.
            while got != Some(Value::ok()) {
                assert!(got.is_some_and(|reply| reply.is_error("UNKNOWN")));
                got = cluster.ask(talk, &["SET", &format!("key{n}"), "x"]);
            }
        }
        cluster.sim.now() - begin
    }

    #[test]
    fn a_new_cluster_a_dead_leader_and_a_whole_restart_cost_less_than_a_timeout() {
        let (mut starts, mut kills, mut restarts) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 0..30 {
            let mut cluster = Cluster::new(seed, 3, &shape());
            starts.push(time_to_write(&cluster, 1));
            cluster.run_ms(2_000 + seed * 37);
            cluster.houses[0].node.kill();
            kills.push(time_to_write(&cluster, 1));
            cluster.houses.iter().for_each(|house| house.node.kill());
            cluster.houses.iter_mut().for_each(|house| house.boot().expect("it starts"));
            restarts.push(time_to_write(&cluster, 1));
        }
        for (what, times, ms) in [
            ("start", starts, [500, 1_000]),
            ("kill", kills, [1_000, 1_600]),
            ("restart", restarts, [1_600, 2_500]),
        ] {
            let median = median(times.clone());
            let most = times.iter().max().expect("there are seeds");
            eprintln!("{what}: median {median:?}, at most {most:?}");
            let [usual_max, max] = ms.map(Duration::from_millis);
            assert!(median <= usual_max && *most <= max, "{what}: {times:?}");
        }
    }

    fn median(mut times: Vec<Duration>) -> Duration {
        times.sort_unstable();
        times[times.len() / 2]
    }
}
