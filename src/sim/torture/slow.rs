//! A leader whose disk becomes slow: others lead soon, and it gets nothing back while that lasts.

use std::time::Duration;

use super::clients::Clients;
use super::cluster::Cluster;
use super::house::Shape;
use super::shape;
use super::talk::Value;
use crate::shard::Planted;
use crate::sim::DiskLatency;

/// How long nothing may be served.
const WITHOUT_MAX: Duration = Duration::from_secs(5);
/// How long the disk is watched: leaderships would go back long before that.
const WATCHED: Duration = Duration::from_secs(45);

/// Of a disk whose writes take three to six times this, nanoseconds.
fn latency(ns: u64) -> DiskLatency {
    let writes = 3 * ns..=6 * ns;
    DiskLatency { read_ns: ns..=2 * ns, write_ns: writes.clone(), sync_ns: writes, held_up_ns: 0 }
}

/// The longest time in which no write was served, from the moment at which a disk is slow.
fn scene(seed: u64, planted: Option<Planted>) -> Result<Duration, String> {
    // A log that may not grow is another trouble.
    let shape = Shape {
        shards: 1,
        partitions: 3,
        planted,
        log_len_max: 1 << 30,
        rows_len_max: None,
        ..shape(seed)
    };
    let cluster = Cluster::new(seed, 3, &shape);
    let (sim, mut rng) = (&cluster.sim, cluster.sim.rng());
    cluster.run_ms(1_500);
    let slow = rng.index(3);
    let node = &cluster.houses[slow].node;
    node.set_latency(latency(1_000_000_000));

    let mut clients = Clients::on_one_key(&mut rng);
    let lines = (0..6).map(|key| (format!("key:{key}"), cluster.connect((slow + 1) % 3)));
    let mut lines: Vec<_> = lines.map(|(key, talk)| (key, talk, sim.now())).collect();
    lines.iter().for_each(|(key, talk, _)| talk.send(&["SET", key, "x"]));
    let (end, mut longest) = (sim.now() + WATCHED, Duration::ZERO);
    while sim.now() < end {
        sim.run_for(Duration::from_millis(5));
        clients.turn(&cluster, &mut rng)?;
        for (key, talk, served) in &mut lines {
            if let Some(reply) = talk.next() {
                talk.send(&["SET", key, "x"]);
                if reply == Value::ok() {
                    *served = sim.now();
                }
            }
            if talk.is_ended() {
                *talk = cluster.connect((slow + 1) % 3);
                talk.send(&["SET", key, "x"]);
            }
            longest = longest.max(sim.now() - *served);
        }
    }

    node.set_latency(latency(20_000));
    clients.stop();
    while !clients.are_done() {
        sim.run_for(Duration::from_millis(1));
        clients.turn(&cluster, &mut rng)?;
    }
    clients.read_all(&cluster)?;
    let checked = clients.history.check();
    checked.map(|_| longest).map_err(|violation| violation.to_string())
}

#[test]
fn a_leader_whose_disk_is_slow_hands_over_and_gets_nothing_back() {
    crate::sim::check(3, |seed| {
        let longest = scene(seed, None).unwrap_or_else(|error| panic!("{error}"));
        println!("seed {seed}: {longest:?} without service");
        assert!(longest <= WITHOUT_MAX, "{longest:?} without service");
    });
}

#[test]
fn a_slow_leader_that_goes_on_is_seen() {
    let found = (0..20).find(|seed| {
        scene(*seed, Some(Planted::LeadSlowly)).is_ok_and(|longest| longest > WITHOUT_MAX)
    });
    println!("LeadSlowly: seen at seed {}", found.expect("it is seen"));
}
