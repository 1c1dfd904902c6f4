//! Scenes of a cache that is full: keys leave, and writes go on.

use super::house::{House, Shape};
use super::room::{MIB, PIPELINE, VALUE_LEN, used, value};
use super::talk::{Talk, Value};
use super::transactions::ask;
use crate::eviction::Eviction;
use crate::sim::check;
use crate::sim::torture::cluster::Cluster;

/// Of each core.
const MEMORY: usize = 8 * MIB;
/// Keys that are read again and again.
const HOT: usize = 100;

fn shape(shards: u16, eviction: Eviction) -> Shape {
    let memory_max = MEMORY * usize::from(shards);
    let (segment_len, log_len_max) = (64 << 20, 64 << 20);
    Shape { shards, memory_max, eviction, segment_len, log_len_max, ..Shape::default() }
}

fn evicted(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.evicted_keys.get()).sum()
}

fn size(house: &House, talk: &mut Talk) -> usize {
    let Value::Int(size) = ask(house, talk, "DBSIZE") else { panic!("no size") };
    size as usize
}

/// Writes keys `0..len`, some at a time, and after each some reads `hot` twice. The most memory
/// that was used; the first error.
fn fill(house: &House, len: usize, hot: &[&str], options: &[&str]) -> (usize, Option<Value>) {
    let (mut talk, mut most, mut refused) = (house.connect(), 0, None);
    for first in (0..len).step_by(PIPELINE) {
        for key in first..first + PIPELINE {
            let (name, value) = (format!("key:{key}"), value(key));
            talk.send(&[&["SET", &name, &value], options].concat());
        }
        let replies = house.replies(&mut talk, PIPELINE);
        refused = refused.or(replies.into_iter().find(|reply| *reply != Value::ok()));
        for _ in 0..2 {
            hot.iter().for_each(|key| talk.send(&["GET", key]));
            house.replies(&mut talk, hot.len());
        }
        house.run_ms(20);
        most = most.max(used(house));
    }
    (most, refused)
}

/// How many of the keys are there; each holds what was written last.
fn found(house: &House, talk: &mut Talk, len: usize) -> usize {
    let mut found = 0;
    for first in (0..len).step_by(PIPELINE) {
        let keys = first..first + PIPELINE;
        keys.clone().for_each(|key| talk.send(&["GET", &format!("key:{key}")]));
        for (key, reply) in keys.zip(house.replies(talk, PIPELINE)) {
            if reply != Value::Nil {
                assert_eq!(reply, Value::bulk(value(key)), "key:{key}");
                found += 1;
            }
        }
    }
    found
}

#[test]
fn a_full_cache_keeps_what_is_used_and_a_restart_brings_nothing_back() {
    for (seed, eviction) in [(1, Eviction::AllKeysLru), (2, Eviction::AllKeysLfu)] {
        let shards = seed as u16;
        let mut house = House::new(seed, shape(shards, eviction));
        let (memory, len) = (house.shape.memory_max, 4 * house.shape.memory_max / VALUE_LEN);
        let hot: Vec<String> = (0..HOT).map(|key| format!("key:{key}")).collect();
        let hot: Vec<&str> = hot.iter().map(String::as_str).collect();

        let (most, refused) = fill(&house, len, &hot, &[]);

        assert_eq!(refused, None, "{eviction:?}");
        assert!(most <= memory + memory / 32, "{eviction:?}: {most} bytes of {memory}");
        let mut talk = house.connect();
        hot.iter().for_each(|key| talk.send(&["GET", key]));
        let missed = house.replies(&mut talk, HOT).iter().filter(|v| **v == Value::Nil).count();
        assert_eq!(missed, 0, "{eviction:?}: of what was read all the time");
        house.run_ms(1_000);
        let kept = found(&house, &mut talk, len);
        assert_eq!(size(&house, &mut talk), kept);
        assert_eq!(evicted(&house) as usize, len.next_multiple_of(PIPELINE) - kept);
        let share = kept * VALUE_LEN * 100 / memory;
        assert!((50..100).contains(&share), "{eviction:?}: {share} % of the memory is values");

        house.power_cycle();
        let mut talk = house.connect();
        assert_eq!(size(&house, &mut talk), kept, "{eviction:?}");
        assert_eq!(found(&house, &mut talk, len), kept, "{eviction:?}");
    }
}

#[test]
fn the_next_deadline_goes_first_and_what_has_none_stays() {
    let house = House::new(3, shape(1, Eviction::VolatileTtl));
    let mut talk = house.connect();
    for key in 0..500 {
        ask(&house, &mut talk, &format!("SET plain:{key} {}", value(key)));
        ask(&house, &mut talk, &format!("SET late:{key} {} EX 100000", value(key)));
    }

    let len = 2 * MEMORY / VALUE_LEN;
    assert_eq!(fill(&house, len, &[], &["EX", "1000"]).1, None);

    for key in 0..500 {
        for kind in ["plain", "late"] {
            let reply = ask(&house, &mut talk, &format!("GET {kind}:{key}"));
            assert_eq!(reply, Value::bulk(value(key)), "{kind}:{key}");
        }
    }
    assert!(evicted(&house) > 0);
}

#[test]
fn where_no_key_may_go_writes_are_refused_until_the_policy_is_another() {
    let house = House::new(4, shape(1, Eviction::VolatileLru));
    let len = 2 * MEMORY / VALUE_LEN;

    let refused = fill(&house, len, &[], &[]).1.expect("nothing may go");

    assert!(refused.is_error("OOM command not allowed"), "{refused:?}");
    assert_eq!(evicted(&house), 0);
    let mut talk = house.connect();
    assert_eq!(ask(&house, &mut talk, "GET key:7"), Value::bulk(value(7)));
    assert_eq!(ask(&house, &mut talk, "DEL key:7"), Value::Int(1));
    let set = "CONFIG SET maxmemory-policy allkeys-random";
    assert_eq!(ask(&house, &mut talk, set), Value::ok());
    house.run_ms(1_000);
    assert_eq!(fill(&house, len, &[], &[]).1, None);
    assert!(evicted(&house) > 0);
}

/// Only leaders look for victims; the others delete what they are told.
#[test]
fn all_replicas_of_a_cache_are_without_the_same_keys() {
    check(3, |seed| {
        let shape = shape(1, Eviction::AllKeysLfu);
        let cluster = Cluster::new(seed, 3, &shape);
        cluster.run_ms(3_000);
        let talk = cluster.houses[0].connect();
        let len = 2 * MEMORY / VALUE_LEN;
        for first in (0..len).step_by(PIPELINE) {
            let keys = first..first + PIPELINE;
            keys.clone().for_each(|key| talk.send(&["SET", &format!("key:{key}"), &value(key)]));
            let mut left = keys.len();
            while left > 0 {
                cluster.run_ms(5);
                while let Some(reply) = talk.next() {
                    assert_eq!(reply, Value::ok());
                    left -= 1;
                }
            }
        }
        cluster.run_ms(2_000);
        let all: u64 = cluster.houses.iter().map(evicted).sum();
        assert!(all > 0);
        for house in &cluster.houses {
            assert!(used(house) <= MEMORY, "{} bytes", used(house));
        }
        // Each node answers of its own replica what the leaders would.
        let readers: Vec<Talk> = cluster.houses.iter().map(House::connect).collect();
        for reader in &readers {
            assert_eq!(cluster.ask(reader, &["READONLY"]), Some(Value::ok()));
        }
        cluster.run_ms(1_000);
        let mut missing = 0;
        for key in (0..len).step_by(7) {
            let name = format!("key:{key}");
            let replies: Vec<_> =
                readers.iter().map(|reader| cluster.ask(reader, &["GET", &name])).collect();
            assert!(replies.iter().all(|reply| *reply == replies[0]), "{name}: {replies:?}");
            missing += usize::from(replies[0] == Some(Value::Nil));
        }
        assert!(missing > 0);
    });
}
