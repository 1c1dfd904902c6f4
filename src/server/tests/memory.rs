//! MEMORY over the shards of a node.

use super::talk::Value;
use super::transactions::{ask, house, keys};

#[test]
fn a_key_weighs_the_same_on_every_shard_and_from_everywhere() {
    let house = house(2);
    let keys = keys(2);
    let mut talks = [house.connect_to(0), house.connect_to(1)];
    for key in &keys {
        ask(&house, &mut talks[0], &format!("SET {key} {}", "x".repeat(1_000)));
        ask(&house, &mut talks[0], &format!("SET {key}2 x EX 1000"));
    }
    for talk in &mut talks {
        for key in &keys {
            let Value::Int(long) = ask(&house, talk, &format!("MEMORY USAGE {key}")) else {
                panic!("no figure")
            };
            assert!((1_000..1_300).contains(&long), "{long}");
            let Value::Int(short) = ask(&house, talk, &format!("MEMORY USAGE {key}2")) else {
                panic!("no figure")
            };
            assert!((60..150).contains(&short), "{short}");
        }
    }
}

#[test]
fn stats_tell_of_all_shards() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect_to(0);
    for key in &keys {
        ask(&house, &mut talk, &format!("SET {key} {}", "x".repeat(4_000)));
    }
    let Value::Array(stats) = ask(&house, &mut talk, "MEMORY STATS") else { panic!("no list") };
    let figure = |name: &str| {
        let at = stats.iter().position(|of| *of == Value::Bulk(name.as_bytes().to_vec()));
        match at.map(|at| &stats[at + 1]) {
            Some(Value::Int(figure)) => *figure,
            other => panic!("{name} is {other:?}"),
        }
    };
    assert_eq!(figure("keys.count"), 2);
    assert!(figure("dataset.bytes") > 8_000);
    assert_eq!(figure("keys.bytes-per-key"), figure("dataset.bytes") / 2);
    assert_eq!(
        figure("total.allocated"),
        figure("dataset.bytes") + figure("clients.normal") + figure("aof.buffer")
    );
}
