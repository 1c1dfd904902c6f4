//! Scenes of transactions: queueing, watching, and where the keys are.

use std::time::Duration;

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::cluster::SlotMap;
use crate::id::ShardId;
use crate::lsm::key::slot_of;
use crate::shard::Planted;

pub fn house(shards: u16) -> House {
    House::new(7, Shape { shards, ..Shape::default() })
}

/// A key of each shard, by its number.
pub fn keys(shards: u16) -> Vec<String> {
    let map = SlotMap::new(shards, Shape::default().partitions);
    let of = |key: &String| map.shard_of(map.partition_of(slot_of(key.as_bytes())));
    let key = |shard| (0..).map(|n| format!("{{{n}}}")).find(|key| of(key) == ShardId(shard));
    (0..shards).map(|shard| key(shard).expect("there are many")).collect()
}

pub fn ask(house: &House, talk: &mut Talk, line: &str) -> Value {
    let words: Vec<&str> = line.split(' ').collect();
    house.ask(talk, &words)
}

fn ints(numbers: &[i64]) -> Value {
    Value::Array(numbers.iter().map(|n| Value::Int(*n)).collect())
}

fn queued() -> Value {
    Value::Simple("QUEUED".to_owned())
}

#[test]
fn a_transaction_runs_where_its_keys_are() {
    for shards in [1, 2] {
        let house = house(shards);
        for key in keys(shards) {
            let mut talk = house.connect_to(0);
            assert_eq!(ask(&house, &mut talk, "MULTI"), Value::ok());
            for line in ["INCR KEY", "SELECT 1", "INCR KEY", "PING", "SET KEY x y", "SELECT 0"] {
                assert_eq!(ask(&house, &mut talk, &line.replace("KEY", &key)), queued());
            }
            let got = ask(&house, &mut talk, "EXEC");
            assert_eq!(
                got,
                Value::Array(vec![
                    Value::Int(1),
                    Value::ok(),
                    Value::Int(1),
                    Value::Simple("PONG".to_owned()),
                    Value::Error("ERR syntax error".to_owned()),
                    Value::ok(),
                ])
            );
            assert_eq!(ask(&house, &mut talk, &format!("GET {key}")), Value::bulk("1"));
            assert!(ask(&house, &mut talk, "EXEC").is_error("ERR EXEC without MULTI"));
        }
    }
}

#[test]
fn pipelined_transactions_of_several_shards_answer_in_order() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect_to(0);

    for n in 0..20 {
        let key = &keys[n % 2];
        for line in ["MULTI", "INCR KEY", "INCR KEY", "EXEC", "GET KEY"] {
            let line = line.replace("KEY", key);
            talk.send(&line.split(' ').collect::<Vec<_>>());
        }
    }

    for n in 0..20i64 {
        let replies = house.replies(&mut talk, 5);
        let last = 2 * (n / 2 + 1);
        let expected = [Value::ok(), queued(), queued(), ints(&[last - 1, last])];
        assert_eq!(replies[..4], expected);
        assert_eq!(replies[4], Value::bulk(last.to_string()));
    }
}

#[test]
fn keys_of_several_shards_run_in_turn() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect();
    let (a, b) = (&keys[0], &keys[1]);

    let lines = ["MULTI", "MSET $a 1 $b 2", "INCR $b", "SELECT 1", "APPEND $a x", "SELECT 0"];
    for line in lines.into_iter().chain(["MGET $a $b", "EXEC"]) {
        let line = line.replace("$a", a).replace("$b", b);
        talk.send(&line.split(' ').collect::<Vec<_>>());
    }
    talk.send(&["GET", a]);

    let replies = house.replies(&mut talk, 9);
    let both = Value::Array(vec![Value::bulk("1"), Value::bulk("3")]);
    let expected = vec![Value::ok(), Value::Int(3), Value::ok(), Value::Int(1), Value::ok(), both];
    assert_eq!(replies[7], Value::Array(expected));
    assert_eq!(replies[8], Value::bulk("1"));

    ask(&house, &mut talk, "MULTI");
    ask(&house, &mut talk, &format!("SET {b} 1"));
    ask(&house, &mut talk, "FLUSHALL");
    ask(&house, &mut talk, "DBSIZE");
    let expected = vec![Value::ok(), Value::ok(), Value::Int(0)];
    assert_eq!(ask(&house, &mut talk, "EXEC"), Value::Array(expected));
}

#[test]
fn who_listens_is_not_answered_in_turn() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect();
    let queue = |talk: &mut Talk| {
        ask(&house, talk, "MULTI");
        keys.iter().for_each(|key| drop(ask(&house, talk, &format!("SET {key} 1"))));
    };

    queue(&mut talk);
    ask(&house, &mut talk, "SUBSCRIBE news");
    assert!(ask(&house, &mut talk, "EXEC").is_error("CROSSSLOT"));

    ask(&house, &mut talk, "HELLO 3");
    ask(&house, &mut talk, "SUBSCRIBE news");
    queue(&mut talk);
    assert!(ask(&house, &mut talk, "EXEC").is_error("CROSSSLOT"));
    assert_eq!(ask(&house, &mut talk, "DBSIZE"), Value::Int(0));
}

#[test]
fn keys_of_several_partitions_of_a_shard_run_in_one_step() {
    let house = house(1);
    let keys: Vec<String> = (0..8).map(|n| format!("k{n}")).collect();
    let (mut talk, mut other) = (house.connect(), house.connect());
    let all = keys.join(" ");

    for round in 1..=20i64 {
        talk.send(&["MULTI"]);
        keys.iter().for_each(|key| talk.send(&["INCR", key]));
        talk.send(&["EXEC"]);
        let seen = ask(&house, &mut other, &format!("MGET {all}"));
        let Value::Array(seen) = seen else { panic!("{seen:?}") };
        assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
        let replies = house.replies(&mut talk, 10);
        assert_eq!(replies[9], ints(&[round; 8]));
    }
}

#[test]
fn watched_keys_of_several_shards_are_refused_and_nothing_is_run() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect();

    ask(&house, &mut talk, &format!("WATCH {}", keys[0]));
    ask(&house, &mut talk, "MULTI");
    ask(&house, &mut talk, &format!("SET {} 1", keys[1]));
    let refused = ask(&house, &mut talk, "EXEC");
    assert!(refused.is_error("CROSSSLOT"), "{refused:?}");
    for command in ["RENAME", "RENAMENX", "COPY"] {
        let refused = ask(&house, &mut talk, &format!("{command} {} {}", keys[0], keys[1]));
        assert!(refused.is_error("CROSSSLOT Keys in request"), "{refused:?}");
    }

    assert_eq!(ask(&house, &mut talk, "DBSIZE"), Value::Int(0));
}

/// What others do between WATCH and EXEC, and whether it touches the key.
const TOUCHES: &[(&str, &[&str], bool)] = &[
    ("nothing, of a key that is there", &["SET K 1", "WATCH K"], false),
    ("nothing, of a key that is not", &["WATCH K"], false),
    ("a read", &["SET K 1", "WATCH K", "GET K", "EXISTS K", "TTL K"], false),
    ("another value", &["SET K 1", "WATCH K", "SET K 2"], true),
    ("the same value", &["SET K 1", "WATCH K", "SET K 1"], true),
    ("a deletion", &["SET K 1", "WATCH K", "DEL K"], true),
    ("made again", &["SET K 1", "WATCH K", "DEL K", "SET K 1"], true),
    ("made", &["WATCH K", "SET K 1"], true),
    ("made and deleted", &["WATCH K", "SET K 1", "DEL K"], true),
    ("a deletion of nothing", &["WATCH K", "DEL K"], false),
    ("a deadline", &["SET K 1", "WATCH K", "EXPIRE K 100"], true),
    ("an expiry", &["SET K 1 PX 50", "WATCH K", "wait"], true),
    ("an expiry before the watch", &["SET K 1 PX 50", "wait", "WATCH K", "wait"], false),
    ("expired, then made", &["SET K 1 PX 50", "wait", "WATCH K", "SET K 2"], true),
    ("made and expired", &["WATCH K", "SET K 1 PX 50", "wait"], true),
    ("made, expired and watched again", &["WATCH K", "SET K 1 PX 50", "wait", "WATCH K"], true),
    ("all deleted", &["SET K 1", "WATCH K", "FLUSHALL"], true),
    ("all deleted where nothing was", &["WATCH K", "FLUSHALL"], false),
    ("made, all deleted", &["WATCH K", "SET K 1", "FLUSHDB"], true),
    ("all of another database", &["SET K 1", "WATCH K", "SELECT 1", "FLUSHDB"], false),
    ("the key of another database", &["SET K 1", "WATCH K", "SELECT 1", "SET K 1"], false),
    ("another name", &["SET K 1", "WATCH K", "RENAME K K2"], true),
    ("another key's name", &["SET K2 1", "WATCH K", "RENAME K2 K", "RENAME K K2"], true),
    ("forgotten", &["SET K 1", "WATCH K", "SET K 2", "UNWATCH"], false),
    ("discarded", &["SET K 1", "WATCH K", "SET K 2", "MULTI", "DISCARD"], false),
    ("a second watch", &["SET K 1", "WATCH K", "SET K 2", "WATCH K"], true),
];

#[test]
fn a_watched_key_that_was_touched_keeps_exec_from_running() {
    for (shards, warm) in [(1, false), (2, false), (1, true), (2, true)] {
        for (what, lines, touched) in TOUCHES {
            let house = house(shards);
            for key in keys(shards) {
                let (mut watcher, mut other) = (house.connect_to(0), house.connect());
                if warm {
                    // Somebody has watched keys that are not there.
                    ask(&house, &mut other, &format!("WATCH {key}{key} x"));
                }
                for line in *lines {
                    let line = line.replace('K', &key);
                    let of_watcher = ["WATCH", "UNWATCH", "MULTI", "DISCARD"];
                    match line.split(' ').next() {
                        Some("wait") => house.sim.run_for(Duration::from_millis(130)),
                        Some(word) if of_watcher.contains(&word) => {
                            ask(&house, &mut watcher, &line);
                        }
                        _ => drop(ask(&house, &mut other, &line)),
                    }
                }
                ask(&house, &mut watcher, "MULTI");
                ask(&house, &mut watcher, &format!("SET {key} mine"));
                let expected = if *touched { Value::Nil } else { Value::Array(vec![Value::ok()]) };
                assert_eq!(ask(&house, &mut watcher, "EXEC"), expected, "{what}, {shards} shards");
                let mut reader = house.connect();
                let value = ask(&house, &mut reader, &format!("GET {key}"));
                assert_eq!(value == Value::bulk("mine"), !touched, "{what}, {shards} shards");
                assert_eq!(ask(&house, &mut reader, "FLUSHALL"), Value::ok());
            }
        }
    }
}

#[test]
fn what_can_not_be_queued_aborts() {
    let house = house(1);
    let mut talk = house.connect();

    for line in ["GET", "NOSUCH", "SET a"] {
        ask(&house, &mut talk, "MULTI");
        ask(&house, &mut talk, "SET a 1");
        assert!(ask(&house, &mut talk, line).is_error("ERR"), "{line}");
        let text = "EXECABORT Transaction discarded because of previous errors.";
        assert!(ask(&house, &mut talk, "EXEC").is_error(text), "{line}");
    }
    ask(&house, &mut talk, "MULTI");
    assert!(ask(&house, &mut talk, "MULTI").is_error("ERR MULTI calls can not be nested"));
    assert!(ask(&house, &mut talk, "WATCH a").is_error("ERR WATCH inside MULTI is not allowed"));
    assert_eq!(ask(&house, &mut talk, "EXEC"), Value::Array(vec![]));
    ask(&house, &mut talk, "MULTI");
    ask(&house, &mut talk, "SET a 1");
    assert_eq!(ask(&house, &mut talk, "RESET"), Value::Simple("RESET".to_owned()));
    assert!(ask(&house, &mut talk, "DISCARD").is_error("ERR DISCARD without MULTI"));
    assert_eq!(ask(&house, &mut talk, "GET a"), Value::Nil);
}

#[test]
fn an_exec_with_arguments_ends_the_transaction() {
    let house = house(1);
    let mut talk = house.connect();

    ask(&house, &mut talk, "MULTI");
    ask(&house, &mut talk, "SET a 1");
    let refused = ask(&house, &mut talk, "EXEC x");

    let text = "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec'";
    assert!(refused.is_error(text), "{refused:?}");
    assert!(ask(&house, &mut talk, "EXEC").is_error("ERR EXEC without MULTI"));
    assert_eq!(ask(&house, &mut talk, "GET a"), Value::Nil);
}

#[test]
fn in_cluster_mode_a_transaction_keeps_to_one_slot_of_its_shard() {
    let house = House::new(7, Shape { shards: 2, cluster_mode: true, ..Shape::default() });
    let [here, there] = <[String; 2]>::try_from(keys(2)).expect("two shards");
    let mut talk = house.connect_to(0);

    for line in [format!("SET {there} 1"), format!("MGET {here} {there}")] {
        ask(&house, &mut talk, "MULTI");
        assert_eq!(ask(&house, &mut talk, &format!("SET {here} 1")), queued());
        let refused = ask(&house, &mut talk, &line);
        assert!(refused.is_error("MOVED") || refused.is_error("CROSSSLOT"), "{refused:?}");
        assert!(ask(&house, &mut talk, "EXEC").is_error("EXECABORT"));
    }
    assert!(ask(&house, &mut talk, &format!("WATCH {there}")).is_error("MOVED"));
    let map = SlotMap::new(2, Shape::default().partitions);
    let of = |key: &String| map.partition_of(slot_of(key.as_bytes()));
    let is_near =
        |key: &String| of(key) == of(&here) && slot_of(key.as_bytes()) != slot_of(here.as_bytes());
    let near = (0..).map(|n| format!("{{near{n}}}")).find(is_near).expect("a partition has many");
    ask(&house, &mut talk, "MULTI");
    for key in [&here, &near] {
        assert_eq!(ask(&house, &mut talk, &format!("SET {key} 1")), queued());
    }
    let refused = ask(&house, &mut talk, "EXEC");
    assert!(refused.is_error("CROSSSLOT Keys in request don't hash"), "{refused:?}");

    assert_eq!(ask(&house, &mut talk, &format!("WATCH {here}")), Value::ok());
    ask(&house, &mut talk, "MULTI");
    ask(&house, &mut talk, &format!("INCR {here}"));
    assert_eq!(ask(&house, &mut talk, "EXEC"), ints(&[1]));
}

#[test]
fn a_connection_that_ends_takes_what_it_queued_with_it() {
    let house = house(2);
    let mut reader = house.connect();
    for key in keys(2) {
        let mut talk = house.connect_to(0);
        for line in ["WATCH KEY", "MULTI", "SET KEY 1"] {
            ask(&house, &mut talk, &line.replace("KEY", &key));
        }
        drop(talk);
        house.run_ms(10);
        assert_eq!(ask(&house, &mut reader, &format!("GET {key}")), Value::Nil);

        // One that ends without waiting for its EXEC, which is done all the same.
        let talk = house.connect_to(0);
        for line in ["MULTI", "SET KEY 1", "APPEND KEY 2", "EXEC"] {
            talk.send(&line.replace("KEY", &key).split(' ').collect::<Vec<_>>());
        }
        drop(talk);
        house.run_ms(10);
        assert_eq!(ask(&house, &mut reader, &format!("GET {key}")), Value::bulk("12"));
    }
}

#[test]
fn a_transaction_too_large_is_refused_as_a_whole() {
    use super::super::transaction::STEPS_MAX;
    let house = house(1);
    let mut talk = house.connect();

    talk.send(&["MULTI"]);
    (0..=STEPS_MAX).for_each(|_| talk.send(&["INCR", "a"]));
    talk.send(&["EXEC"]);

    let replies = house.replies(&mut talk, STEPS_MAX + 3);
    assert_eq!(replies[STEPS_MAX], queued());
    assert!(replies[STEPS_MAX + 1].is_error("ERR a transaction holds"));
    assert!(replies[STEPS_MAX + 2].is_error("EXECABORT"));
    assert_eq!(ask(&house, &mut talk, "GET a"), Value::Nil);
}

#[test]
fn a_transaction_without_replies_runs_all_the_same() {
    let house = house(2);
    for key in keys(2) {
        let mut talk = house.connect_to(0);
        talk.send(&["CLIENT", "REPLY", "OFF"]);
        for line in ["WATCH KEY", "MULTI", "INCR KEY", "PING", "DBSIZE", "GET KEY", "EXEC"] {
            let line = line.replace("KEY", &key);
            talk.send(&line.split(' ').collect::<Vec<_>>());
        }
        talk.send(&["CLIENT", "REPLY", "ON"]);
        talk.send(&["GET", &key]);

        assert_eq!(house.replies(&mut talk, 2), [Value::ok(), Value::bulk("1")]);
        assert_eq!(ask(&house, &mut talk, "PING"), Value::Simple("PONG".to_owned()));
    }
}

/// Whether a power cut right behind its acknowledgement takes any of a transaction on two shards.
fn is_cut(seed: u64, planted: Option<Planted>) -> bool {
    let mut house = House::new(seed, Shape { shards: 2, planted, ..Shape::default() });
    let keys = keys(2);
    let mut talk = house.connect_to((seed % 2) as u16);
    talk.send(&["MULTI"]);
    for round in 0..5 {
        keys.iter().for_each(|key| talk.send(&["SET", key, &format!("{seed} {round}")]));
    }
    talk.send(&["EXEC"]);
    let replies = house.replies(&mut talk, 12);
    assert_eq!(replies[11], Value::Array(vec![Value::ok(); 10]));

    house.power_cycle();

    let mut talk = house.connect();
    let kept = ask(&house, &mut talk, &format!("MGET {}", keys.join(" ")));
    kept != Value::Array(vec![Value::bulk(format!("{seed} 4")); 2])
}

#[test]
fn an_acknowledged_transaction_on_several_shards_outlives_a_power_cut() {
    for seed in 0..100 {
        assert!(!is_cut(seed, None), "replay with seed {seed}");
    }
    let seen = (0..100).any(|seed| is_cut(seed, Some(Planted::ReplyBeforeCommit)));
    assert!(seen, "one that is acknowledged before its commits would be seen");
}
