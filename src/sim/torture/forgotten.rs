//! A voter that forgets what it acknowledged: the shortest way to the loss of a write.
//!
//! One node is cut off while the two others agree on a write. Then who followed loses it, the
//! leader is gone, and who was cut off is back: two of three, which know nothing of it.

use super::cluster::Cluster;
use super::house::{House, Shape};
use super::talk::Value;
use crate::id::PartitionId;
use crate::limits::SECTOR_LEN;
use crate::sim::check;
use crate::wal;

/// How the follower loses it.
#[derive(Clone, Copy)]
enum Way {
    /// It is started on an empty disk, as who it was: a fault of its operator's.
    Wiped,
    /// One bit of the last block of its log is flipped.
    Flipped,
}

/// What is read in the end of what was 1 and then 2.
///
/// # Errors
/// Why the follower does not start.
fn read_after(seed: u64, way: Way, shape: &Shape) -> Result<Value, String> {
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
    write(&cluster, "2");

    let house = &mut cluster.houses[follower];
    house.node.kill();
    ruin(house, way);
    cluster.sim.node(leader).kill();
    cluster.sim.heal();
    cluster.houses[follower].boot()?;
    let talk = cluster.connect(other);
    loop {
        match cluster.ask(&talk, &["GET", "key"]).expect("it goes on") {
            value @ Value::Bulk(_) => return Ok(value),
            refused => assert!(refused.is_error(""), "{refused:?}"),
        }
        cluster.run_ms(50);
    }
}

fn ruin(house: &House, way: Way) {
    let Way::Flipped = way else {
        house.node.wipe();
        house.node.make_dir("/data");
        return;
    };
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
        let refused = read_after(seed, Way::Flipped, &shape()).expect_err("it is not whole");
        assert!(refused.contains("one bit of the block at byte"), "{refused}");
    });
}

#[test]
fn the_loss_of_the_last_block_is_seen() {
    let log_planted = Some(wal::Planted::FlippedIsTorn);
    let read = read_after(1, Way::Flipped, &Shape { log_planted, ..shape() });
    assert_eq!(read, Ok(Value::bulk("1")), "what was acknowledged is gone");
}

/// Nobody refuses it, so nobody may do it: see `--initial-cluster` in README.md.
#[test]
fn the_loss_of_all_that_a_node_had_is_seen_if_it_comes_back_as_who_it_was() {
    let read = read_after(1, Way::Wiped, &shape());
    assert_eq!(read, Ok(Value::bulk("1")), "what was acknowledged is gone");
}
