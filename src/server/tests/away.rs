//! Scenes of rows that only tables have: every command finds them, whatever it is.
//!
//! Memory is so short here that every row leaves it as soon as a table has it, so nearly all that
//! is asked for is fetched.

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::metrics::ShardStats;
use crate::sim::Faults;

const KEYS: usize = 400;

fn shape() -> Shape {
    let (rows_len_max, log_len_max) = (Some(1 << 10), 16 << 10);
    Shape { shards: 2, partitions: 2, rows_len_max, log_len_max, ..Shape::default() }
}

/// A node that has keys and holds none of them in memory.
fn house() -> House {
    let house = House::new(11, shape());
    let mut talk = house.connect();
    for key in 0..KEYS {
        talk.send(&["SET", &format!("key{key}"), &format!("value{key}")]);
    }
    house.replies(&mut talk, KEYS);
    settle(&house, &mut talk);
    house
}

/// Lets the flushes end and the rows go.
fn settle(house: &House, talk: &mut Talk) {
    for _ in 0..40 {
        house.ask(talk, &["PING"]);
        house.run_ms(50);
    }
}

fn evicted(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.rows_evicted.get()).sum()
}

fn fetched(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.rows_fetched.get()).sum()
}

fn texts(value: Value) -> Vec<String> {
    let Value::Array(items) = value else { panic!("no array: {value:?}") };
    let text = |item| match item {
        Value::Bulk(bytes) => String::from_utf8(bytes).expect("text"),
        other => panic!("no text: {other:?}"),
    };
    items.into_iter().map(text).collect()
}

/// All keys that SCAN shows, and how often it was asked.
fn scanned(house: &House, talk: &mut Talk, count: &str) -> (Vec<String>, usize) {
    let (mut all, mut cursor, mut steps) = (Vec::new(), "0".to_owned(), 0);
    loop {
        let Value::Array(mut reply) = house.ask(talk, &["SCAN", &cursor, "COUNT", count]) else {
            panic!("no array")
        };
        all.extend(texts(reply.pop().expect("keys")));
        let Some(Value::Bulk(next)) = reply.pop() else { panic!("no cursor") };
        cursor = String::from_utf8(next).expect("a number");
        steps += 1;
        if cursor == "0" {
            return (all, steps);
        }
    }
}

fn all_keys() -> Vec<String> {
    let mut all: Vec<_> = (0..KEYS).map(|key| format!("key{key}")).collect();
    all.sort();
    all
}

#[test]
fn reads_and_writes_find_rows_that_only_tables_have() {
    let house = house();
    assert!(evicted(&house) as usize > KEYS / 4, "{}", evicted(&house));
    let mut talk = house.connect();
    let before = fetched(&house);

    for key in 0..KEYS {
        talk.send(&["GET", &format!("key{key}")]);
    }
    for (key, reply) in house.replies(&mut talk, KEYS).into_iter().enumerate() {
        assert_eq!(reply, Value::bulk(format!("value{key}")), "key{key}");
    }
    assert!(fetched(&house) > before);
    for (command, wanted) in [
        (&["APPEND", "key1", "!"] as &[&str], Value::Int(7)),
        (&["SETNX", "key2", "x"], Value::Int(0)),
        (&["EXISTS", "key3", "key4", "none"], Value::Int(2)),
        (&["DEL", "key5", "key6", "none"], Value::Int(2)),
        (&["GETDEL", "key7"], Value::bulk("value7")),
        (&["INCR", "key8"], Value::Error("ERR value is not an integer or out of range".into())),
        (&["SET", "key9", "new", "GET"], Value::bulk("value9")),
        (&["STRLEN", "key10"], Value::Int(7)),
        (&["EXPIRE", "key11", "100"], Value::Int(1)),
        (&["TTL", "none"], Value::Int(-2)),
        (&["TYPE", "key12"], Value::Simple("string".into())),
        (&["GET", "key5"], Value::Nil),
        (&["GET", "key1"], Value::bulk("value1!")),
    ] {
        assert_eq!(house.ask(&mut talk, command), wanted, "{command:?}");
    }
    assert_eq!(
        texts(house.ask(&mut talk, &["MGET", "key20", "key21", "key22"])),
        ["value20", "value21", "value22"]
    );
}

#[test]
fn walks_show_every_key_once() {
    let house = house();
    let mut talk = house.connect();

    for count in ["1", "10", "1000"] {
        let (mut keys, _) = scanned(&house, &mut talk, count);
        keys.sort();
        assert_eq!(keys, all_keys(), "COUNT {count}");
    }
    let mut keys = texts(house.ask(&mut talk, &["KEYS", "*"]));
    keys.sort();
    assert_eq!(keys, all_keys());
    assert_eq!(texts(house.ask(&mut talk, &["KEYS", "key123"])), ["key123"]);
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(KEYS as i64));
    for _ in 0..20 {
        let Value::Bulk(key) = house.ask(&mut talk, &["RANDOMKEY"]) else { panic!("no key") };
        assert!(key.starts_with(b"key"));
    }
    assert_eq!(house.ask(&mut talk, &["CLUSTER", "COUNTKEYSINSLOT", "12539"]), Value::Int(0));
}

/// More keys with one tag than a step shows: they are of one slot.
#[test]
fn a_slot_with_many_keys_is_walked_in_steps() {
    let house = House::new(12, shape());
    let mut talk = house.connect();
    for key in 0..300 {
        talk.send(&["SET", &format!("{{tag}}{key}"), "v"]);
    }
    house.replies(&mut talk, 300);
    settle(&house, &mut talk);

    let (keys, steps) = scanned(&house, &mut talk, "16");

    assert!(steps >= 300 / 17, "{steps}");
    assert_eq!(keys.len(), 300);
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 300);
    let slot = house.ask(&mut talk, &["CLUSTER", "KEYSLOT", "{tag}"]);
    let Value::Int(slot) = slot else { panic!("no slot") };
    let slot = slot.to_string();
    let count = house.ask(&mut talk, &["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    assert_eq!(count, Value::Int(300));
    let some = texts(house.ask(&mut talk, &["CLUSTER", "GETKEYSINSLOT", &slot, "25"]));
    assert_eq!(some.len(), 25);
}

#[test]
fn databases_are_cleared_apart_and_together() {
    let house = house();
    let mut talk = house.connect();
    house.ask(&mut talk, &["SELECT", "3"]);
    for key in 0..50 {
        talk.send(&["SET", &format!("key{key}"), "three"]);
    }
    house.replies(&mut talk, 50);
    settle(&house, &mut talk);

    assert_eq!(house.ask(&mut talk, &["FLUSHDB"]), Value::ok());
    assert_eq!(house.ask(&mut talk, &["GET", "key1"]), Value::Nil);
    assert_eq!(house.ask(&mut talk, &["RANDOMKEY"]), Value::Nil);
    assert!(texts(house.ask(&mut talk, &["KEYS", "*"])).is_empty());
    house.ask(&mut talk, &["SELECT", "0"]);
    assert_eq!(house.ask(&mut talk, &["GET", "key1"]), Value::bulk("value1"));
    assert_eq!(scanned(&house, &mut talk, "100").0.len(), KEYS);

    assert_eq!(house.ask(&mut talk, &["FLUSHALL"]), Value::ok());
    assert_eq!(house.ask(&mut talk, &["GET", "key1"]), Value::Nil);
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(0));
    assert!(scanned(&house, &mut talk, "100").0.is_empty());
    house.ask(&mut talk, &["SET", "key1", "again"]);
    settle(&house, &mut talk);
    assert_eq!(house.ask(&mut talk, &["GET", "key1"]), Value::bulk("again"));
    assert_eq!(house.ask(&mut talk, &["GET", "key2"]), Value::Nil);
}

#[test]
fn transactions_and_watches_see_rows_that_only_tables_have() {
    let house = house();
    let mut talk = house.connect();
    let mut other = house.connect();
    let ok = || Value::ok();
    for key in ["key1", "key2", "key3", "none1"] {
        assert_eq!(house.ask(&mut talk, &["WATCH", key]), ok());
        house.ask(&mut talk, &["MULTI"]);
        house.ask(&mut talk, &["APPEND", key, "+"]);
        settle(&house, &mut other);
        let Value::Array(done) = house.ask(&mut talk, &["EXEC"]) else { panic!("aborted") };
        assert_eq!(done.len(), 1);

        assert_eq!(house.ask(&mut talk, &["WATCH", key]), ok());
        house.ask(&mut talk, &["MULTI"]);
        house.ask(&mut talk, &["GET", key]);
        house.ask(&mut other, &["SET", key, "touched"]);
        settle(&house, &mut other);
        assert_eq!(house.ask(&mut talk, &["EXEC"]), Value::Nil, "{key}");
    }
    assert_eq!(
        house.ask(&mut talk, &["RENAME", "{key5}", "{key5}b"]),
        Value::Error("ERR no such key".into())
    );
}

#[test]
fn rows_that_left_memory_are_there_after_a_restart_and_deleted_ones_are_not() {
    let mut house = house();
    for round in 0..3 {
        let mut talk = house.connect();
        for key in (round..KEYS).step_by(7) {
            talk.send(&["DEL", &format!("key{key}")]);
            talk.send(&["SET", &format!("new{round}-{key}"), "n"]);
        }
        house.replies(&mut talk, 2 * (KEYS - round).div_ceil(7));
        if round == 1 {
            settle(&house, &mut talk);
        }
        house.power_cycle();
        let mut talk = house.connect();
        for key in 0..KEYS {
            let wanted = match key % 7 <= round {
                true => Value::Nil,
                false => Value::bulk(format!("value{key}")),
            };
            assert_eq!(house.ask(&mut talk, &["GET", &format!("key{key}")]), wanted, "key{key}");
        }
        let (keys, _) = scanned(&house, &mut talk, "50");
        assert_eq!(keys.len(), KEYS, "as many came as went");
        let Value::Int(size) = house.ask(&mut talk, &["DBSIZE"]) else { panic!("no size") };
        assert!(size.abs_diff(KEYS as i64) <= 4, "{size}");
    }
}

/// A flipped bit in a table: the node starts, the keys of that part are refused, all others served.
#[test]
fn a_damaged_part_of_a_table_costs_its_own_keys_alone() {
    let mut house = House::new(13, Shape { shards: 1, partitions: 1, ..shape() });
    let mut talk = house.connect();
    for key in 0..KEYS {
        talk.send(&["SET", &format!("key{key}"), &"x".repeat(200)]);
    }
    house.replies(&mut talk, KEYS);
    settle(&house, &mut talk);
    house.stop();
    let dir = "/data/shard-00/tree";
    let largest = house.node.names(dir).into_iter().filter(|name| name.ends_with(".sst"));
    let len = |name: &String| house.node.read_file(format!("{dir}/{name}")).map_or(0, |b| b.len());
    let name = largest.max_by_key(len).expect("there are tables");
    assert!(house.node.flip_bit(format!("{dir}/{name}"), 100, 3), "the first part of rows");
    house.boot().expect("it starts");

    let mut talk = house.connect();
    let replies: Vec<_> =
        (0..KEYS).map(|key| house.ask(&mut talk, &["GET", &format!("key{key}")])).collect();
    let refused = replies.iter().filter(|reply| reply.is_error("IOERR")).count();
    let served = replies.iter().filter(|reply| **reply == Value::bulk("x".repeat(200))).count();
    assert_eq!(refused + served, KEYS);
    assert!(refused > 0 && refused < KEYS / 4, "{refused}");
    assert!(house.ask(&mut talk, &["KEYS", "*"]).is_error("IOERR"));
    house.run_ms(400_000);
    let found = |stats: &ShardStats| (stats.scrub_cycles.get(), stats.scrub_errors.get());
    assert_eq!(found(&house.stats[0]), (1, 1), "a scrub finds it, too");
    let age = house.stats[0].unverified_s.get();
    assert!(age >= 400, "what is damaged is not verified: {age} s");
}

#[test]
fn the_age_of_what_was_not_verified_falls_when_a_scrub_has_read_it() {
    let house = house();
    let age = || house.stats.iter().map(|stats| stats.unverified_s.get()).max();

    house.run_ms(290_000);
    let before = age();
    house.run_ms(100_000);

    assert!(before >= Some(280) && age() <= Some(110), "{before:?}, then {:?}", age());
}

/// Its keys are refused, and those alone, for as long as they can not be read.
#[test]
fn keys_that_can_not_be_read_are_refused_alone() {
    let house = house();
    let mut talk = house.connect();
    house.node.set_faults(Faults { read_eio: 1_000_000, ..Faults::none() });

    let refused = |reply: &Value| reply.is_error("IOERR the key can not be read");
    let replies: Vec<_> =
        (0..KEYS).map(|key| house.ask(&mut talk, &["GET", &format!("key{key}")])).collect();
    assert!(replies.iter().any(refused));
    for (key, reply) in replies.iter().enumerate() {
        assert!(refused(reply) || *reply == Value::bulk(format!("value{key}")), "{reply:?}");
    }
    let away = replies.iter().position(refused).map(|key| format!("key{key}")).expect("some are");
    for command in [&["APPEND", &away, "x"] as &[&str], &["DEL", &away], &["RENAME", &away, &away]]
    {
        assert!(refused(&house.ask(&mut talk, command)), "{command:?}");
    }
    assert!(
        house.ask(&mut talk, &["MGET", &away, "none"]).is_error("IOERR")
            || matches!(house.ask(&mut talk, &["MGET", &away, "none"]), Value::Array(_))
    );
    assert_eq!(house.ask(&mut talk, &["SET", &away, "new"]), Value::ok(), "it asks for nothing");
    assert_eq!(house.ask(&mut talk, &["GET", &away]), Value::bulk("new"));

    house.node.set_faults(Faults::none());
    for key in 0..KEYS {
        let name = format!("key{key}");
        let wanted = if name == away { "new".to_owned() } else { format!("value{key}") };
        assert_eq!(house.ask(&mut talk, &["GET", &name]), Value::bulk(wanted));
    }
}
