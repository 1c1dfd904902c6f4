//! A voter that forgets what it acknowledged: the shortest way to the loss of a write.
//!
//! One node is cut off while the two others agree on a write. Then who followed loses it, the
//! leader is gone, and who was cut off is back: two of three, which know nothing of it.

use std::time::Duration;

use super::cluster::Cluster;
use super::house::{House, Shape};
use super::talk::Value;
use crate::id::PartitionId;
use crate::limits::SECTOR_LEN;
use crate::shard::Planted;
use crate::sim::{DiskLatency, check};
use crate::wal;

/// How the follower loses it.
#[derive(Clone, Copy)]
enum Way {
    /// It is started on an empty disk, as who it was: a fault of its operator's.
    Wiped,
    /// One bit of the last block of its log is flipped.
    Flipped,
    /// Its power is cut while what was acknowledged last would be on its way to a slow disk.
    PowerCut,
}

/// How long the two have, that lack what was agreed on.
const ALONE_MS: u64 = 5_000;
/// How slow a slow disk is: meanwhile the next tick comes.
const SLOW_NS: u64 = 300_000_000;

/// What is read in the end of what was 1 and then 2: at first without the leader, then with it, if
/// nobody answers. `restarts`: who was cut off is new, too.
///
/// # Errors
/// Why the follower does not start.
fn read_after(seed: u64, way: Way, restarts: bool, shape: &Shape) -> Result<Value, String> {
    let mut cluster = Cluster::new(seed, 3, shape);
    let write = |cluster: &Cluster, value| {
        let talk = cluster.connect(0);
        assert_eq!(cluster.ask(&talk, &["SET", "key", value]), Some(Value::ok()));
    };
    write(&cluster, "1");
    cluster.run_ms(1_500);
    let members = cluster.houses[0].members.as_ref().expect("a cluster");
    let leader = members.leader(PartitionId(0)).expect("it has written");
    let led = (0..3).find(|at| cluster.houses[*at].id() == leader).expect("one of them");
    // Who is written to is not cut off.
    let (follower, other) = [(1, 2), (0, 2), (0, 1)][led];
    cluster.sim.isolate(cluster.houses[other].node.id());
    let latency = cluster.houses[follower].node.latency();
    if let Way::PowerCut = way {
        let write_ns = SLOW_NS..=SLOW_NS;
        cluster.houses[follower].node.set_latency(DiskLatency { write_ns, ..latency.clone() });
    }
    write(&cluster, "2");

    ruin(&cluster.houses[follower], way);
    cluster.houses[follower].node.set_latency(latency);
    cluster.sim.node(leader).kill();
    cluster.sim.heal();
    if restarts {
        cluster.houses[other].node.kill();
        cluster.houses[other].boot()?;
    }
    cluster.houses[follower].boot()?;
    let end = cluster.sim.now() + Duration::from_millis(ALONE_MS);
    while cluster.sim.now() < end {
        if let Some(value) = read(&cluster, other) {
            return Ok(value);
        }
    }
    cluster.houses[led].boot()?;
    loop {
        if let Some(value) = read(&cluster, other) {
            return Ok(value);
        }
    }
}

/// What a node answers now, if anything.
fn read(cluster: &Cluster, at: usize) -> Option<Value> {
    let talk = cluster.connect(at);
    cluster.run_ms(50);
    match cluster.ask(&talk, &["GET", "key"])? {
        value @ Value::Bulk(_) => Some(value),
        refused => {
            assert!(refused.is_error(""), "{refused:?}");
            None
        }
    }
}

fn ruin(house: &House, way: Way) {
    match way {
        Way::PowerCut => drop(house.node.power_cut()),
        Way::Flipped => {
            house.node.kill();
            flip(house);
        }
        Way::Wiped => {
            house.node.kill();
            house.node.wipe();
            house.node.make_dir("/data");
        }
    }
}

fn flip(house: &House) {
    let dir = "/data/shard-00/wal";
    let mut names = house.node.names(dir);
    names.retain(|name| wal::segment_seq(name).is_some());
    // The newest may not be begun.
    let last = names.iter().rev().find_map(|name| {
        let path = format!("{dir}/{name}");
        let bytes = house.node.read_file(&path)?;
        let is_used = |sector: &[u8]| sector.iter().any(|byte| *byte != 0);
        Some((path, bytes.chunks(SECTOR_LEN).rposition(is_used)?))
    });
    let (path, sector) = last.expect("it has written");
    let at = sector * SECTOR_LEN + wal::format::BLOCK_HEADER_LEN + 20;
    assert!(house.node.flip_bit(&path, at as u64, 3));
}

fn shape() -> Shape {
    Shape { partitions: 1, ..Shape::default() }
}

#[test]
fn a_node_whose_last_block_has_a_flipped_bit_does_not_vote_without_it() {
    check(20, |seed| {
        let read = read_after(seed, Way::Flipped, false, &shape());
        let refused = read.expect_err("it is not whole");
        assert!(refused.contains("one bit of the block at byte"), "{refused}");
    });
}

#[test]
fn the_loss_of_the_last_block_is_seen() {
    let log_planted = Some(wal::Planted::FlippedIsTorn);
    let read = read_after(1, Way::Flipped, false, &Shape { log_planted, ..shape() });
    assert_eq!(read, Ok(Value::bulk("1")), "what was acknowledged is gone");
}

#[test]
fn nobody_speaks_with_a_node_that_has_lost_all_it_had() {
    check(20, |seed| {
        for restarts in [false, true] {
            let read = read_after(seed, Way::Wiped, restarts, &shape());
            assert_eq!(read, Ok(Value::bulk("2")), "the leader is back");
        }
    });
}

#[test]
fn what_a_follower_acknowledges_outlives_a_power_cut() {
    check(20, |seed| {
        let read = read_after(seed, Way::PowerCut, false, &shape());
        assert_eq!(read, Ok(Value::bulk("2")));
    });
}

#[test]
fn the_loss_of_what_a_follower_had_not_written_is_seen() {
    let planted = Some(Planted::FollowerUnwritten);
    let shape = Shape { planted, ..shape() };
    // What is on its way to the disk may arrive.
    let mut reads = (0..20).map(|seed| read_after(seed, Way::PowerCut, false, &shape));
    assert!(reads.any(|read| read == Ok(Value::bulk("1"))), "what was acknowledged is gone");
}

#[test]
fn the_loss_of_all_that_a_node_had_is_seen_if_it_comes_back_as_who_it_was() {
    let read = read_after(1, Way::Wiped, false, &Shape { careless: true, ..shape() });
    assert_eq!(read, Ok(Value::bulk("1")), "what was acknowledged is gone");
}
