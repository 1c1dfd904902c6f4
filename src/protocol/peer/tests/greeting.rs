//! Who is let in.

use super::super::*;
use crate::id::{NodeId, ShardId};

const NODES: [Known; 3] = [(NodeId(1), 0), (NodeId(2), 7), (NodeId(3), 0)];

fn place(node: u64) -> Place {
    let (cluster, node, shard, incarnation) = (0xC1, NodeId(node), ShardId(0), 7);
    let (shard_count, partition_count, life) = (2, 32, 5);
    Place { cluster, node, shard, shard_count, partition_count, incarnation, life }
}

#[test]
fn a_node_of_the_same_cluster_is_welcome() {
    let hello = Hello::new(place(2), NodeId(1), ShardId(1));

    let welcome = place(1).judge(&hello, &NODES);

    let (node, shard, incarnation) = (NodeId(1), ShardId(1), 7);
    assert_eq!(welcome, Ok(Welcome { version: SPOKEN, node, shard, incarnation }));
    let unknown = Hello { from: Place { incarnation: 8, ..place(3) }, ..hello };
    assert!(place(1).judge(&unknown, &NODES).is_ok(), "nobody knows what it was");
}

#[test]
fn whoever_is_wrong_is_told_why() {
    let hello = Hello::new(place(2), NodeId(1), ShardId(1));
    let from = hello.from;
    let with = |from| Hello { from, ..hello };
    let wrong = [
        (Reason::Version, Hello { version: SPOKEN - 1, ..hello }),
        (Reason::Cluster, with(Place { cluster: 0xC2, ..from })),
        (Reason::Node, Hello { to_node: NodeId(3), ..hello }),
        (Reason::Twin, with(place(1))),
        (Reason::Stranger, with(place(4))),
        (Reason::ShardCount, with(Place { shard_count: 4, ..from })),
        (Reason::Incarnation, with(Place { incarnation: 8, ..from })),
        (Reason::Incarnation, with(Place { incarnation: 0, ..from })),
        (Reason::PartitionCount, with(Place { partition_count: 64, ..from })),
    ];

    for (reason, hello) in wrong {
        let refusal = place(1).judge(&hello, &NODES).expect_err("it is wrong");

        assert_eq!(refusal.code, reason as u16, "{refusal}");
        let mut body = Vec::new();
        refusal.encode(&mut body);
        assert!(body.len() <= GREETING_LEN_MAX);
        assert_eq!(Body::decode(Kind::Refused, &body), Ok(Body::Refused(refusal)));
    }
}

#[test]
fn a_hello_that_contradicts_itself_is_malformed() {
    let hello = Hello::new(place(2), NodeId(1), ShardId(1));
    let from = hello.from;
    let bad = [
        Hello { to_shard: ShardId(2), ..hello },
        Hello { from: Place { shard: ShardId(2), ..from }, ..hello },
        Hello { from: Place { node: NodeId(0), ..from }, ..hello },
        Hello { to_node: NodeId(0), ..hello },
    ];

    for hello in bad {
        let mut body = Vec::new();
        hello.encode(&mut body);

        let decoded = Body::decode(Kind::Hello, &body);

        assert!(matches!(decoded, Err(Error::Malformed { kind: Kind::Hello, .. })), "{hello:?}");
    }
}
