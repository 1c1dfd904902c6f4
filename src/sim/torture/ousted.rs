//! A leader that is cut off and has its lease, and those who elect another: the moment at which a
//! lease that is too long, or a campaign that is too early, lets a client read what is no longer
//! true.
//!
//! First the leader loses one follower, whose guard ends; then the other, which may find that its
//! connections are refused and takes the leader for gone. Clients of all nodes read and write one
//! key as fast as they can.

use std::time::Duration;

use super::Campaign;
use super::clients::Clients;
use super::cluster::Cluster;
use super::house::Shape;
use crate::shard::Planted;

/// How long the clients go on after the second cut.
const WATCHED: Duration = Duration::from_millis(1_500);

fn scene(seed: u64, planted: Option<Planted>) -> Result<(), String> {
    let shape = Shape { shards: 1, partitions: 1, planted, ..Campaign::Cluster.shape(seed) };
    let cluster = Cluster::new(seed, 3, &shape);
    let (sim, mut rng) = (&cluster.sim, cluster.sim.rng());
    cluster.run_ms(1_500);
    let [leader, first, second] = [0, 1, 2].map(|at| cluster.houses[at].node.id());
    let cut = |other| {
        sim.cut(leader, other);
        sim.cut(other, leader);
    };

    cut(first);
    cluster.run_ms(rng.between(500, 2_500));
    cut(second);
    let mut clients = Clients::on_one_key(&mut rng);
    let end = sim.now() + WATCHED;
    while sim.now() < end {
        sim.run_for(Duration::from_micros(500));
        clients.turn(&cluster, &mut rng)?;
    }

    sim.heal();
    clients.stop();
    while !clients.are_done() {
        sim.run_for(Duration::from_millis(1));
        clients.turn(&cluster, &mut rng)?;
    }
    clients.read_all(&cluster)?;
    clients.history.check().map(drop).map_err(|violation| violation.to_string())
}

fn seen(bug: Planted) {
    let found = (0..100).find(|seed| scene(*seed, Some(bug)).is_err());
    println!("{bug:?}: seen at seed {}", found.expect("it is seen"));
}

#[test]
fn nobody_reads_what_is_no_longer_true_from_a_leader_that_is_cut_off() {
    crate::sim::check(20, |seed| scene(seed, None).unwrap_or_else(|error| panic!("{error}")));
}

#[test]
fn a_lease_that_outlives_the_guard_is_seen() {
    seen(Planted::LongLease);
}

#[test]
fn a_campaign_that_does_not_wait_for_the_guard_is_seen() {
    seen(Planted::CampaignUnguarded);
}
