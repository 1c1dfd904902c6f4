//! A node that was away for longer than the log is kept: it is sent a snapshot, whatever the
//! network and its own disk are like meanwhile.

use std::time::Duration;

use super::cluster::Cluster;
use super::house::Shape;
use super::talk::{Talk, Value};
use crate::cluster::Told;
use crate::sim::DiskLatency;

/// Bytes of a value: tables hold it as it is.
const VALUE_LEN: usize = 8 << 10;
/// Keys: 8 MiB of values, of which the log keeps 2.
const KEYS: usize = 1_000;
/// Keys that are asked for at a time.
const PIPELINE: usize = 100;
/// Of a node.
const MEMORY_MAX: usize = 32 << 20;
/// The node that is away, from 0.
const AWAY: usize = 2;

fn shape() -> Shape {
    Shape { shards: 1, partitions: 1, memory_max: MEMORY_MAX, ..Shape::default() }
}

fn latency(ns: u64) -> DiskLatency {
    DiskLatency { read_ns: ns..=2 * ns, write_ns: ns..=2 * ns, sync_ns: ns..=2 * ns, held_up_ns: 0 }
}

fn key(n: usize) -> String {
    format!("key:{n}")
}

/// Another one for each key, and not one that is shorter in a table.
fn value(n: usize, round: usize) -> String {
    let mut state = (n + round * KEYS) as u64 + 1;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        format!("{:08x}", state >> 32)
    };
    (0..VALUE_LEN / 8).map(|_| word()).collect()
}

/// What happens to a node that was away.
struct Scene {
    cluster: Cluster,
    talk: Talk,
}

impl Scene {
    /// Three nodes, of which one is away while all keys are written.
    fn new(seed: u64, shape: &Shape) -> Self {
        let cluster = Cluster::new(seed, 3, shape);
        cluster.run_ms(2_000);
        let talk = cluster.connect(0);
        let scene = Self { cluster, talk };
        scene.cluster.houses[AWAY].node.power_cut();
        scene.cluster.run_ms(3_000);
        scene.write(0);
        scene
    }

    fn write(&self, round: usize) {
        self.write_and(round, || {});
    }

    fn write_and(&self, round: usize, mut meanwhile: impl FnMut()) {
        for first in (0..KEYS).step_by(PIPELINE) {
            for n in first..first + PIPELINE {
                self.talk.send(&["SET", &key(n), &value(n, round)]);
            }
            for n in first..first + PIPELINE {
                let mut reply = None;
                self.cluster.sim.run_until(|| {
                    reply = self.talk.next();
                    reply.is_some()
                });
                assert_eq!(reply, Some(Value::ok()), "{}", key(n));
            }
            meanwhile();
        }
    }

    fn sum(&self, of: impl Fn(&crate::metrics::ShardStats) -> u64) -> u64 {
        self.cluster.houses.iter().flat_map(|house| &house.stats).map(|stats| of(stats)).sum()
    }

    /// Bytes of tables that were sent so far.
    fn sent(&self) -> u64 {
        self.sum(|stats| stats.snapshot_bytes.get())
    }

    fn begun(&self) -> u64 {
        self.sum(|stats| stats.snapshots_begun.get())
    }

    fn applied(&self, node: usize) -> u64 {
        let members = self.cluster.houses[node].members.as_deref().expect("it is of a cluster");
        Told::status(members).partition[0].applied
    }

    /// Waits until the node that was away has all that was written.
    fn catch_up(&self, patience: Duration) {
        let (wanted, end) = (self.applied(0), self.cluster.sim.now() + patience);
        while self.applied(AWAY) < wanted {
            let (begun, sent, has) = (self.begun(), self.sent(), self.applied(AWAY));
            let now = self.cluster.sim.now();
            assert!(now < end, "{has} of {wanted} after {begun} snapshots, {sent} bytes");
            self.cluster.run_ms(10);
        }
    }

    /// Reads keys from the node itself.
    fn check(&self, round: usize) {
        let talk = self.cluster.connect(AWAY);
        assert_eq!(self.cluster.ask(&talk, &["READONLY"]), Some(Value::ok()));
        self.cluster.run_ms(500);
        for n in (0..KEYS).step_by(97) {
            let found = self.cluster.ask(&talk, &["GET", &key(n)]);
            assert_eq!(found, Some(Value::bulk(value(n, round))), "{}", key(n));
        }
    }
}

/// A snapshot whose way is cut so many times; bytes that were sent of it.
fn cut(seed: u64, cuts: u64) -> u64 {
    let mut scene = Scene::new(seed, &shape());
    scene.cluster.houses[AWAY].boot().expect("it starts");
    let (sim, away) = (&scene.cluster.sim, scene.cluster.houses[AWAY].node.id());
    for nth in 1..=cuts {
        sim.run_until(|| scene.sent() > nth * (5 << 19));
        // Longer than silence is borne: the connection is another afterwards.
        sim.isolate(away);
        scene.cluster.run_ms(3_000);
        sim.heal();
    }
    scene.catch_up(Duration::from_secs(60));
    assert_eq!(scene.begun(), 1, "snapshots were begun");
    scene.check(0);
    scene.sent()
}

#[test]
fn a_snapshot_goes_on_where_its_connection_broke() {
    crate::sim::check(1, |seed| {
        let whole = cut(seed, 0);
        assert!(whole > 7 << 20, "{whole} bytes are not all keys");
        let sent = cut(seed, 2);
        eprintln!("seed {seed}: {whole} bytes, {sent} with two cuts");
        // What was on its way each time.
        assert!(sent <= whole + 2 * (2 << 20), "{sent} bytes instead of {whole}");
    });
}

#[test]
fn a_snapshot_may_take_as_long_as_a_slow_disk_needs() {
    let mut scene = Scene::new(1, &shape());
    scene.cluster.houses[AWAY].boot().expect("it starts");
    scene.cluster.houses[AWAY].node.set_latency(latency(15_000_000_000));
    scene.cluster.sim.run_until(|| scene.begun() == 1);
    // Longer than one is waited for that does not go on.
    scene.cluster.run_ms(75_000);
    assert!(scene.applied(AWAY) < scene.applied(0), "the disk was not slow");
    scene.cluster.houses[AWAY].node.set_latency(latency(20_000));
    scene.catch_up(Duration::from_secs(120));
    assert_eq!(scene.begun(), 1, "snapshots were begun");
    scene.check(0);
}

#[test]
fn a_replica_that_is_slow_costs_its_leader_a_part_of_the_memory_and_no_more() {
    let mut scene = Scene::new(2, &shape());
    scene.cluster.houses[AWAY].boot().expect("it starts");
    let node = &scene.cluster.houses[AWAY].node;
    node.set_latency(latency(1_500_000_000));
    scene.cluster.sim.run_until(|| scene.sent() > 2 << 20);

    let (mut longest, begun) = (0, scene.begun());
    for round in 1..=3 {
        scene.write_and(round, || {
            scene.cluster.run_ms(200);
            let others = scene.cluster.houses[..AWAY].iter().flat_map(|house| &house.stats);
            longest = others.map(|stats| stats.log_bytes.get()).fold(longest, u64::max);
        });
    }
    let pinned_max = MEMORY_MAX as u64 / 10 + (2 << 20);
    eprintln!("{longest} bytes of log, after {} snapshots", scene.begun());
    assert!(longest < pinned_max + (2 << 20), "{longest} bytes of log");
    assert!(longest > 4 << 20, "{longest} bytes of log: it was not short");

    node.set_latency(latency(20_000));
    scene.catch_up(Duration::from_secs(120));
    assert!(scene.begun() > begun, "the one that was given up was not begun anew");
    scene.check(3);
}
