//! Scenes of replies that do not leave: held ones when the log fails, unwanted ones.

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use super::transactions::keys;
use crate::sim::{DiskLatency, Faults};

fn house(shards: u16) -> House {
    House::new(11, Shape { shards, ..Shape::default() })
}

/// From now on every write of the log fails, after 300 ms. None is on its way: the one that makes
/// the next segment ready would fail the log before anybody's command is in it.
fn break_the_disk(house: &House) {
    house.run_ms(500);
    let (write_ns, other_ns) = (300_000_000..=300_000_000, 1_000..=9_000);
    let latency =
        DiskLatency { read_ns: other_ns.clone(), write_ns, sync_ns: other_ns, held_up_ns: 0 };
    house.node.set_latency(latency);
    house.node.set_faults(Faults { write_eio: 1_000_000, ..Faults::none() });
}

#[test]
fn held_replies_of_a_failed_log_never_leave_and_reads_go_on() {
    let mut house = house(1);
    let [mut writer, mut reader, mut other] = [(); 3].map(|()| house.connect());
    for talk in [&mut writer, &mut reader, &mut other] {
        assert_eq!(house.ask(talk, &["SET", "kept", "1"]), Value::ok());
    }

    break_the_disk(&house);
    writer.send(&["GET", "kept"]);
    writer.send(&["SET", "kept", "2"]);
    writer.send(&["GET", "nothing"]);
    house.run_ms(100); // It is in the log, and not durable: who meets it is held.
    reader.send(&["GET", "nothing"]);
    reader.send(&["GET", "kept"]);
    let (written, read) = (house.until_closed(&mut writer), house.until_closed(&mut reader));

    assert_eq!(written, [Value::bulk("1")], "only what came before the write is known");
    assert_eq!(read, [Value::Nil], "what it met may be lost");
    assert_eq!(house.ask(&mut other, &["GET", "kept"]), Value::bulk("1"));
    assert_eq!(house.ask(&mut other, &["DBSIZE"]), Value::Int(1));
    let refused = house.ask(&mut other, &["SET", "kept", "3"]);
    assert!(refused.is_error("MISCONF the log of this shard failed"), "{refused:?}");
    house.node.set_faults(Faults::none());
    house.power_cycle();
    let found = house.ask(&mut house.connect(), &["GET", "kept"]);
    assert!(found == Value::bulk("1") || found == Value::bulk("2"), "{found:?}");
}

#[test]
fn a_failed_log_of_another_shard_is_told_and_the_connection_stays() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect_to(0);

    break_the_disk(&house);
    talk.send(&["SET", &keys[1], "1"]);
    talk.send(&["MGET", &keys[1], &keys[1], &keys[0]]);
    let (unknown, read) = (house.reply(&mut talk), house.reply(&mut talk));
    let refused = house.ask(&mut talk, &["SET", &keys[1], "2"]);

    assert!(unknown.is_error("UNKNOWN the log failed: whether"), "{unknown:?}");
    assert!(read.is_error("UNKNOWN the log failed: whether"), "not one error: {read:?}");
    assert!(refused.is_error("MISCONF the log of this shard failed"), "{refused:?}");
    assert_eq!(house.ask(&mut talk, &["GET", &keys[1]]), Value::Nil);
    assert_eq!(house.ask(&mut talk, &["PING"]), Value::Simple("PONG".to_owned()));
}

/// Commands of every road: one key, several, judged together, of all shards, refused, unknown,
/// long ones of keys and of bytes.
fn commands(keys: &[String]) -> Vec<Vec<String>> {
    let mut commands: Vec<Vec<String>> = Vec::new();
    let mut add = |line: &str| commands.push(line.split(' ').map(str::to_owned).collect());
    for key in keys {
        for line in [
            "SET KEY 1",
            "GET KEY",
            "INCR KEY",
            "MSETNX KEY 1 KEY 2",
            "RENAMENX KEY KEY",
            "GETRANGE KEY",
            "NOSUCH KEY",
            "EXPIRE KEY x",
        ] {
            add(&line.replace("KEY", key));
        }
    }
    let all = keys.join(" ");
    for line in ["MGET ALL", "DEL ALL", "DBSIZE", "PING", "CLIENT ID", "SCAN 0", "PUBLISH a b"] {
        add(&line.replace("ALL", &all));
    }
    let many: Vec<_> = (0..300).map(|n| format!("many:{n}")).collect();
    add(&format!("MGET {}", many.join(" ")));
    add(&format!("MSET {} 1", many.join(" 1 ")));
    add(&format!("SET {} {}", keys[keys.len() - 1], "x".repeat(1_200_000)));
    commands
}

fn send(talk: &Talk, command: &[String]) {
    talk.send(&command.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn client_reply_skip_skips_the_next_reply_of_any_command() {
    for shards in [1, 2] {
        let house = house(shards);
        let mut talk = house.connect_to(0);
        for (n, command) in commands(&keys(shards)).iter().enumerate() {
            talk.send(&["CLIENT", "REPLY", "SKIP"]);
            send(&talk, command);
            let (echo, name) = (n.to_string(), &command[0]);
            assert_eq!(house.ask(&mut talk, &["ECHO", &echo]), Value::bulk(&echo), "{name}");
        }
        // The second is the one that the first skips, and skips one itself.
        talk.send(&["CLIENT", "REPLY", "SKIP"]);
        talk.send(&["CLIENT", "REPLY", "SKIP"]);
        talk.send(&["ECHO", "skipped"]);
        assert_eq!(house.ask(&mut talk, &["ECHO", "told"]), Value::bulk("told"));
    }
}

#[test]
fn client_reply_off_answers_nothing_and_runs_everything_in_order() {
    for shards in [1, 2] {
        let house = house(shards);
        let (mut talk, keys) = (house.connect_to(0), keys(shards));
        let key = &keys[keys.len() - 1];

        talk.send(&["CLIENT", "REPLY", "OFF"]);
        commands(&keys).iter().for_each(|command| send(&talk, command));
        talk.send(&["APPEND", key, "end"]);
        talk.send(&["CLIENT", "REPLY", "SKIP"]);
        talk.send(&["ECHO", "still off"]);

        assert_eq!(house.ask(&mut talk, &["CLIENT", "REPLY", "ON"]), Value::ok());
        assert_eq!(house.ask(&mut talk, &["STRLEN", key]), Value::Int(1_200_003));
        assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(301));
    }
}
