//! A process that says that it is a node which another process is.

use crate::id::{NodeId, PartitionId, ShardId};
use crate::sim::check;
use crate::sim::torture::cluster::Cluster;
use crate::sim::torture::house::{House, Shape};
use crate::sim::torture::talk::Value;

fn leaders(cluster: &Cluster) -> Vec<Option<NodeId>> {
    let members = cluster.houses[0].members.as_ref().expect("a cluster");
    (0..cluster.houses[0].shape.partitions).map(|id| members.leader(PartitionId(id))).collect()
}

#[test]
fn nobody_speaks_with_a_second_process_of_a_node_and_it_disturbs_nobody() {
    check(20, |seed| {
        let shape = Shape { partitions: 6, ..Shape::default() };
        let cluster = Cluster::new(seed, 3, &shape);
        cluster.run_ms(15_000);
        let before = leaders(&cluster);
        assert!(before.iter().all(Option::is_some));

        let real = &cluster.houses[seed as usize % 3];
        let known = real.members.as_ref().expect("a cluster").topology();
        let known = Some(known.as_ref().clone());
        let mut clone = House::on(&cluster.sim, NodeId(4), real.id(), known, shape);
        clone.boot().expect("an empty directory opens");
        let heard = clone.members.clone().expect("a cluster");
        for n in 0..50_u8 {
            let talk = cluster.connect(usize::from(n) % 3);
            let key = format!("key {n}");
            assert_eq!(cluster.ask(&talk, &["SET", &key, "x"]), Some(Value::ok()));
            let others = cluster.houses.iter().map(House::id).filter(|id| *id != real.id());
            for other in others {
                assert!(!heard.hears_of(other, ShardId(0)), "{other} speaks with the clone");
            }
            cluster.run_ms(100);
        }
        assert_eq!(leaders(&cluster), before);
    });
}
