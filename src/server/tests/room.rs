//! Scenes of a disk that is slower than who writes: writers wait for the room that flushes give
//! back, and nobody else does.

use std::time::Duration;

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::sim::{DiskLatency, Failure, Plan};

pub(super) const MIB: usize = 1 << 20;
pub(super) const VALUE_LEN: usize = 1_000;
pub(super) const PIPELINE: usize = 250;

/// Of each core.
const MEMORY: usize = 8 * MIB;

fn shape(shards: u16) -> Shape {
    let memory = MEMORY * usize::from(shards);
    let (rows_len_max, segment_len) = (Some(memory), 64 << 20);
    Shape { shards, memory_max: memory, rows_len_max, segment_len, ..Shape::default() }
}

/// Each sync takes long: a flush takes several, a write to the log none.
fn slow_disk() -> DiskLatency {
    let (write_ns, sync_ns) = (1_000_000..=5_000_000, 1_000_000_000..=2_000_000_000);
    DiskLatency { read_ns: 50_000..=100_000, write_ns, sync_ns, held_up_ns: 0 }
}

pub(super) fn value(key: usize) -> String {
    format!("{key}-{}", "v".repeat(VALUE_LEN))
}

pub(super) fn used(house: &House) -> usize {
    let of = |stats: &crate::metrics::ShardStats| {
        let here = stats.memtable_bytes.get() + stats.connection_bytes.get();
        here + stats.wal_backlog_bytes.get() + stats.table_memory_bytes.get()
    };
    house.stats.iter().map(|stats| of(stats) as usize).sum()
}

fn slowed(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.writes_slowed.get()).sum()
}

/// What was seen while somebody wrote.
#[derive(Debug, Default)]
struct Seen {
    /// Most memory that was used.
    used: usize,
    /// The longest that a read or a delete on another connection took.
    longest: Duration,
    refused: Option<Value>,
}

/// Writes a pipeline, and reads and deletes on another connection until it is answered.
fn write(house: &House, (writer, other): (&mut Talk, &mut Talk), first: usize, seen: &mut Seen) {
    for key in first..first + PIPELINE {
        writer.send(&["SET", &format!("key:{key}"), &value(key)]);
    }
    let mut left = PIPELINE;
    while left > 0 {
        let began = house.sim.now();
        house.ask(other, &["GET", "resident"]);
        seen.longest = seen.longest.max(house.sim.now() - began);
        seen.used = seen.used.max(used(house));
        house.run_ms(5);
        while let Some(reply) = writer.next() {
            left -= 1;
            if reply != Value::ok() {
                seen.refused.get_or_insert(reply);
            }
        }
    }
}

fn fill(house: &House, len: usize) -> Seen {
    let (mut writer, mut other) = (house.connect(), house.connect());
    house.ask(&mut other, &["SET", "resident", "1"]);
    let mut seen = Seen::default();
    for first in (0..len / VALUE_LEN).step_by(PIPELINE) {
        write(house, (&mut writer, &mut other), first, &mut seen);
    }
    seen
}

#[test]
fn who_fills_memory_faster_than_the_disk_takes_it_waits_and_is_not_refused() {
    for (seed, shards) in [(1, 1), (2, 2)] {
        let house = House::new(seed, shape(shards));
        house.node.set_latency(slow_disk());
        let memory = house.shape.memory_max;

        let seen = fill(&house, 3 * memory);

        assert_eq!(seen.refused, None, "{shards} cores");
        assert!(slowed(&house) > 0, "nobody had to wait");
        // What arrives between two ticks is seen at the second.
        let most = memory + memory / 32;
        assert!(seen.used <= most, "{} bytes of {memory} on {shards} cores", seen.used);
        assert!(seen.longest < Duration::from_millis(100), "a read waited {:?}", seen.longest);
        let mut talk = house.connect();
        for key in (0..3 * memory / VALUE_LEN).step_by(997) {
            let found = house.ask(&mut talk, &["GET", &format!("key:{key}")]);
            assert_eq!(found, Value::bulk(value(key)), "key:{key}");
        }
    }
}

/// What is under way gives no room back: writes are refused, and served again when it does.
#[test]
fn when_flushes_fail_writes_are_refused_and_reads_and_deletes_go_on() {
    let house = House::new(3, shape(1));
    house.node.set_plan(Some(Plan::Files(".sst", Failure::Eio)));

    let seen = fill(&house, 2 * MEMORY);

    let refused = seen.refused.expect("more than memory does not fit it");
    assert!(refused.is_error("OOM command not allowed"), "{refused:?}");
    // As above.
    assert!(seen.used <= MEMORY + MEMORY / 32, "{}", seen.used);
    let mut talk = house.connect();
    assert_eq!(house.ask(&mut talk, &["GET", "key:7"]), Value::bulk(value(7)));
    assert_eq!(house.ask(&mut talk, &["DEL", "key:7"]), Value::Int(1));

    house.node.set_plan(None);
    house.run_ms(3_000);
    assert_eq!(fill(&house, 2 * MEMORY).refused, None);
}

/// Each kind of write waits, and what its connection sends behind it does too.
#[test]
fn all_kinds_of_writes_wait_in_the_order_of_their_connection() {
    let memory = 4 * MIB;
    let house = House::new(4, Shape { memory_max: memory, rows_len_max: Some(memory), ..shape(2) });
    house.node.set_latency(slow_disk());
    let mut talks: Vec<Talk> = (0..4).map(|_| house.connect()).collect();
    let text = "w".repeat(VALUE_LEN);
    for round in 0..400 {
        for (at, talk) in talks.iter().enumerate() {
            let key = |kind: &str| format!("{{{at}-{round}}}{kind}");
            let (set, list, copy) = (key("set"), key("many"), key("copy"));
            talk.send(&["SET", &set, &format!("{round}-{text}")]);
            talk.send(&["APPEND", &set, &text]);
            talk.send(&["MSET", &list, &text, &key("other"), &text, "far", &text]);
            talk.send(&["COPY", &set, &copy, "REPLACE"]);
            ["MULTI", "EXEC"].into_iter().for_each(|word| {
                talk.send(&[word]);
                if word == "MULTI" {
                    talk.send(&["SETRANGE", &copy, "0", "now"]);
                    talk.send(&["GETRANGE", &copy, "0", "2"]);
                }
            });
            talk.send(&["STRLEN", &set]);
        }
        for talk in &mut talks {
            let len = format!("{round}-").len() + VALUE_LEN;
            let long = Value::Int((len + VALUE_LEN) as i64);
            let queued = || Value::Simple("QUEUED".into());
            let done = Value::Array(vec![long.clone(), Value::bulk("now")]);
            let want = [
                Value::ok(),
                long.clone(),
                Value::ok(),
                Value::Int(1),
                Value::ok(),
                queued(),
                queued(),
                done,
                long,
            ];
            assert_eq!(house.replies(talk, want.len()), want, "round {round}");
        }
        assert!(used(&house) <= memory + memory / 32, "round {round}");
    }
    assert!(slowed(&house) > 0, "nobody had to wait");
}
