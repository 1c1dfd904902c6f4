//! Replicas that move from one node to another while every node is asked for their keys: a node
//! that has led, and has no replica any more, asks whoever leads now, or waits until it hears.

use std::time::Duration;

use super::cluster::Cluster;
use super::house::Shape;
use super::nemesis::wish;
use super::talk::Value;
use crate::cluster::Action;
use crate::sim::check;

/// How long all are asked after the replicas were told to move.
const ASKED: Duration = Duration::from_secs(6);

fn scene(seed: u64) {
    let shape = Shape { shards: 1, partitions: 4, ..Shape::default() };
    let cluster = Cluster::new(seed, 3, &shape);
    let (sim, mut rng) = (&cluster.sim, cluster.sim.rng());
    let talks: Vec<_> = (0..3).map(|node| cluster.connect(node)).collect();
    let keys: Vec<_> = (0..16).map(|n| format!("key{n}")).collect();
    for key in &keys {
        assert_eq!(cluster.ask(&talks[0], &["SET", key, key]), Some(Value::ok()));
    }

    let (mut asked, mut got) = ([0; 3], [0; 3]);
    for count in [1, 3] {
        cluster.run_ms(rng.between(1, 1_500));
        let at = cluster.houses[rng.index(3)].node.id();
        let _wish = wish(&cluster, at, &Action::Replicas { count });
        let begin = sim.now();
        // Whoever leads instead of one that pauses may end a change that leaves it out.
        let mut paused = Some(begin + Duration::from_millis(rng.between(1, 800)));
        while sim.now() < begin + ASKED {
            sim.run_for(Duration::from_millis(1));
            if paused.is_some_and(|at| sim.now() >= at) {
                cluster.houses[rng.index(3)].node.pause_for(Duration::from_secs(2));
                paused = None;
            }
            for (node, talk) in talks.iter().enumerate() {
                while let Some(reply) = talk.next() {
                    let is_right = reply == Value::bulk(&keys[got[node] % keys.len()]);
                    assert!(is_right || reply.is_error("TRYAGAIN"), "node {node}: {reply:?}");
                    got[node] += 1;
                }
                if asked[node] < got[node] + keys.len() {
                    talk.send(&["GET", &keys[asked[node] % keys.len()]]);
                    asked[node] += 1;
                }
            }
        }
    }
    assert!(got.iter().all(|got| *got > 200), "{got:?} answers of {asked:?}");
    cluster.settle(Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_node_answers_while_replicas_move() {
    check(16, scene);
}
