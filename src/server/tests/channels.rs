//! Messages between the nodes of a cluster.

use std::collections::BTreeMap;

use crate::sim::check;
use crate::sim::torture::cluster::Cluster;
use crate::sim::torture::house::Shape;
use crate::sim::torture::talk::{Talk, Value};

const SHARDS: u16 = 2;
const NODES: usize = 3;
/// What each publisher sends.
const COUNT: usize = 20;

/// One at each shard of each node that is up.
fn connect_all(cluster: &Cluster) -> Vec<Talk> {
    let houses = cluster.houses.iter().filter(|house| house.node.is_up());
    houses.flat_map(|house| (0..SHARDS).map(|shard| house.connect_to(shard))).collect()
}

fn subscribe(cluster: &Cluster, talk: &Talk, how: [&str; 2]) {
    assert!(cluster.ask(talk, &how).is_some_and(|reply| !reply.is_error("")));
}

/// The payloads that have come, by publisher, in order.
fn heard(talk: &Talk) -> BTreeMap<usize, Vec<usize>> {
    let mut heard: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    while let Some(message) = talk.next() {
        let Value::Array(items) = message else { panic!("{message:?} is no message") };
        let Some(Value::Bulk(payload)) = items.last() else { panic!("{items:?}") };
        let text = String::from_utf8_lossy(payload).into_owned();
        let (from, number) = text.split_once(':').expect("as it was published");
        let (from, number) = (from.parse().expect("a number"), number.parse().expect("a number"));
        heard.entry(from).or_default().push(number);
    }
    heard
}

/// Each publisher's messages reach each subscriber once and in order.
fn exchange(cluster: &Cluster, subscribers: &[Talk], (command, channel): (&str, &str)) {
    let publishers = connect_all(cluster);
    for number in 0..COUNT {
        for (from, talk) in publishers.iter().enumerate() {
            talk.send(&[command, channel, &format!("{from}:{number}")]);
        }
    }
    cluster.run_ms(1_000);
    let here = usize::from(SHARDS) as i64;
    for talk in &publishers {
        let counts: Vec<_> = std::iter::from_fn(|| talk.next()).collect();
        assert_eq!(counts, vec![Value::Int(here); COUNT], "who got it on this node");
    }
    let all: Vec<usize> = (0..COUNT).collect();
    let expected: BTreeMap<_, _> = (0..publishers.len()).map(|from| (from, all.clone())).collect();
    for (at, talk) in subscribers.iter().enumerate() {
        assert_eq!(heard(talk), expected, "{command} {channel}: subscriber {at}");
    }
}

#[test]
fn messages_reach_the_subscribers_of_all_nodes_once_and_in_order() {
    check(20, |seed| {
        let shape = Shape { shards: SHARDS, ..Shape::default() };
        let mut cluster = Cluster::new(seed, NODES as u64, &shape);
        cluster.run_ms(2_000);
        let ways = [
            (["SUBSCRIBE", "news"], ("PUBLISH", "news")),
            (["PSUBSCRIBE", "ne*"], ("PUBLISH", "never")),
            (["SSUBSCRIBE", "slot"], ("SPUBLISH", "slot")),
        ];
        for (how, published) in ways {
            let subscribers = connect_all(&cluster);
            subscribers.iter().for_each(|talk| subscribe(&cluster, talk, how));
            exchange(&cluster, &subscribers, published);
        }

        let gone = seed as usize % NODES;
        cluster.houses[gone].node.kill();
        let subscribers = connect_all(&cluster);
        subscribers.iter().for_each(|talk| subscribe(&cluster, talk, ["SUBSCRIBE", "after"]));
        exchange(&cluster, &subscribers, ("PUBLISH", "after"));
        cluster.houses[gone].boot().expect("a log that a kill left opens");
        cluster.run_ms(5_000);
        let more: Vec<_> = (0..SHARDS).map(|n| cluster.houses[gone].connect_to(n)).collect();
        more.iter().for_each(|talk| subscribe(&cluster, talk, ["SUBSCRIBE", "after"]));
        let subscribers: Vec<_> = subscribers.into_iter().chain(more).collect();
        exchange(&cluster, &subscribers, ("PUBLISH", "after"));
    });
}
