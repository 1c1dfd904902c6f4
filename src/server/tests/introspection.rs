//! What a node tells of itself is true, whichever shard is asked.

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use super::transactions::{ask, house, keys};

/// A bulk string's text.
fn text(value: &Value) -> String {
    let Value::Bulk(bytes) = value else { panic!("{value:?} is not a text") };
    String::from_utf8(bytes.clone()).expect("ASCII")
}

fn id(house: &House, talk: &mut Talk) -> i64 {
    match ask(house, talk, "CLIENT ID") {
        Value::Int(id) => id,
        other => panic!("{other:?} is no id"),
    }
}

/// The value of a field of a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let words = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    words.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// A figure of INFO.
pub fn figure(house: &House, talk: &mut Talk, section: &str, name: &str) -> String {
    let info = text(&ask(house, talk, &format!("INFO {section}")));
    let mut values = info.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    values.next().unwrap_or_else(|| panic!("no {name} in {info}")).to_owned()
}

#[test]
fn connections_of_all_shards_are_listed_and_found() {
    let house = house(3);
    let mut talks: Vec<Talk> = (0..6).map(|n| house.connect_to(n % 3)).collect();
    let ids: Vec<i64> = talks.iter_mut().map(|talk| id(&house, talk)).collect();
    ask(&house, &mut talks[4], "CLIENT SETNAME four");
    ask(&house, &mut talks[5], "SUBSCRIBE news");

    let list = text(&ask(&house, &mut talks[0], "CLIENT LIST"));
    let lines: Vec<&str> = list.lines().collect();
    let listed: Vec<i64> =
        lines.iter().map(|line| field(line, "id").parse().expect("a number")).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted);
    let of = |id: i64| lines[listed.iter().position(|other| *other == id).expect("listed")];
    assert_eq!((field(of(ids[4]), "name"), field(of(ids[4]), "cmd")), ("four", "client|setname"));
    assert_eq!((field(of(ids[0]), "flags"), field(of(ids[5]), "flags")), ("N", "P"));

    let two = format!("CLIENT LIST ID {} {}", ids[1], ids[5]);
    assert_eq!(text(&ask(&house, &mut talks[0], &two)).lines().count(), 2);
    let subscribed = text(&ask(&house, &mut talks[0], "CLIENT LIST TYPE pubsub"));
    assert_eq!(field(&subscribed, "id"), ids[5].to_string());
}

#[test]
fn a_connection_of_any_shard_is_closed() {
    let house = house(2);
    let mut talks: Vec<Talk> = (0..4).map(|n| house.connect_to(n % 2)).collect();
    let ids: Vec<i64> = talks.iter_mut().map(|talk| id(&house, talk)).collect();

    let kill = format!("CLIENT KILL ID {}", ids[1]);
    assert_eq!(ask(&house, &mut talks[0], &kill), Value::Int(1));
    assert_eq!(ask(&house, &mut talks[0], &kill), Value::Int(0));
    assert!(house.until_closed(&mut talks[1]).is_empty());

    house.run_ms(2500);
    let young = house.connect_to(1);
    assert_eq!(ask(&house, &mut talks[0], "CLIENT KILL MAXAGE 2"), Value::Int(2));
    for at in [2, 3] {
        assert!(house.until_closed(&mut talks[at]).is_empty());
    }
    assert!(!young.is_ended());
    assert_eq!(ask(&house, &mut talks[0], "CLIENT KILL TYPE normal SKIPME no"), Value::Int(2));
    assert!(house.until_closed(&mut talks[0]).is_empty());
    assert!(house.until_closed(&mut { young }).is_empty());
}

#[test]
fn a_pause_holds_writes_on_every_shard_until_it_ends() {
    let house = house(2);
    let keys = keys(2);
    let mut boss = house.connect_to(0);
    let mut talks: Vec<Talk> = (0..2).map(|n| house.connect_to(n)).collect();
    let transaction = house.connect_to(1);
    for line in ["MULTI", &format!("SET {} in", keys[1])] {
        transaction.send(&line.split(' ').collect::<Vec<_>>());
    }
    house.run_ms(5);

    assert_eq!(ask(&house, &mut boss, "CLIENT PAUSE 60000 WRITE"), Value::ok());
    transaction.send(&["EXEC"]);
    for (talk, key) in talks.iter_mut().zip(&keys) {
        assert_eq!(ask(&house, talk, &format!("GET {key}")), Value::Nil);
        talk.send(&["SET", key, "late"]);
        talk.send(&["GET", key]);
    }
    house.run_ms(5000);
    assert!(talks.iter().all(|talk| talk.next().is_none()), "a write was not held");
    let waiting = text(&ask(&house, &mut boss, "CLIENT LIST"));
    assert_eq!(waiting.lines().filter(|line| field(line, "flags").contains('b')).count(), 3);
    assert_eq!(ask(&house, &mut boss, &format!("EXISTS {} {}", keys[0], keys[1])), Value::Int(0));

    assert_eq!(ask(&house, &mut boss, "CLIENT UNPAUSE"), Value::ok());
    for talk in &mut talks {
        assert_eq!(house.replies(talk, 2)[0], Value::ok());
    }
    assert_eq!(house.replies(&mut { transaction }, 3)[2], Value::Array(vec![Value::ok()]));
}

#[test]
fn a_pause_of_all_ends_by_itself() {
    let house = house(2);
    let mut boss = house.connect_to(0);
    let talk = house.connect_to(1);
    assert_eq!(ask(&house, &mut boss, "CLIENT PAUSE 1000"), Value::ok());
    talk.send(&["PING"]);

    house.run_ms(900);
    assert_eq!(talk.next(), None);
    house.run_ms(300);
    assert_eq!(talk.next(), Some(Value::Simple("PONG".to_owned())));
}

#[test]
fn questions_of_a_transaction_are_answered_in_their_places() {
    let house = house(2);
    for key in keys(2) {
        let mut talk = house.connect_to(0);
        let mut other = house.connect_to(1);
        let other = id(&house, &mut other);
        ask(&house, &mut talk, "MULTI");
        for line in ["SET KEY 1", "CLIENT LIST", "GET KEY", "CLIENT LIST ID x", "INFO server"] {
            ask(&house, &mut talk, &line.replace("KEY", &key));
        }
        // What is wrong with a question is known when it is asked.
        let Value::Array(got) = ask(&house, &mut talk, "EXEC") else { panic!("not run") };
        assert_eq!((&got[0], &got[2]), (&Value::ok(), &Value::bulk("1")));
        assert!(text(&got[1]).contains(&format!("id={other} ")), "{:?}", got[1]);
        assert!(got[3].is_error("ERR Invalid client ID"));
        assert!(text(&got[4]).starts_with("# Server"));
    }
}

#[test]
fn figures_are_those_of_this_moment_on_every_shard() {
    let house = House::new(3, Shape { shards: 3, ..Shape::default() });
    let mut talks: Vec<Talk> = (0..3).map(|n| house.connect_to(n)).collect();
    for (nth, key) in keys(3).iter().enumerate() {
        ask(&house, &mut talks[nth], &format!("SET {key} x"));
        let db0 = figure(&house, &mut talks[2], "keyspace", "db0");
        assert!(db0.starts_with(&format!("keys={},", nth + 1)), "{db0}");
    }

    ask(&house, &mut talks[1], "CONFIG RESETSTAT");
    let calls = figure(&house, &mut talks[0], "stats", "total_commands_processed");
    assert!(calls.parse::<u64>().expect("a number") <= 2, "{calls} commands after a reset");
}

/// What a figure of the form `a=1,b=2` says of `name`.
fn within(figure: &str, name: &str) -> f64 {
    let parts = figure.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    parts.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {figure:?}"))
}

#[test]
fn calls_hits_and_errors_are_those_that_were_made() {
    for shards in [1, 2] {
        let house = house(shards);
        let mut talk = house.connect_to(0);
        let keys = keys(2);
        ask(&house, &mut talk, "CONFIG RESETSTAT");
        for key in &keys {
            for n in 0..3 {
                ask(&house, &mut talk, &format!("SET {key} x{n}"));
            }
            for n in 0..7 {
                ask(&house, &mut talk, &format!("GET {key}{}", if n < 5 { "" } else { "absent" }));
            }
            assert!(ask(&house, &mut talk, &format!("INCR {key}")).is_error("ERR value"));
        }
        ask(&house, &mut talk, &format!("MGET {} {} absent", keys[0], keys[1]));
        assert!(ask(&house, &mut talk, "GET").is_error("ERR wrong number"));
        assert!(ask(&house, &mut talk, "FOO bar").is_error("ERR unknown command"));
        assert!(ask(&house, &mut talk, "CLIENT KILL 1.1.1.1:1").is_error("ERR No such"));
        for line in ["MULTI", &format!("SET {} y", keys[1]), "PING", "EXEC"] {
            ask(&house, &mut talk, line);
        }

        let mut of = |section, name: &str| figure(&house, &mut talk, section, name);
        for (name, calls, rejected, failed) in [
            ("set", 7, 0, 0),
            ("get", 14, 1, 0),
            ("incr", 2, 0, 2),
            ("mget", 1, 0, 0),
            ("client|kill", 1, 0, 1),
            ("exec", 1, 0, 0),
            ("ping", 1, 0, 0),
        ] {
            let stat = of("commandstats", &format!("cmdstat_{name}"));
            let told = ["calls", "rejected_calls", "failed_calls"].map(|part| within(&stat, part));
            assert_eq!(told, [calls, rejected, failed].map(f64::from), "{name} on {shards}");
        }
        assert_eq!(of("errorstats", "errorstat_ERR"), "count=5");
        assert_eq!(of("stats", "total_error_replies"), "5");
        assert_eq!(of("stats", "keyspace_hits"), "12");
        assert_eq!(of("stats", "keyspace_misses"), "5");
        for name in ["set", "get", "mget", "exec", "client|kill"] {
            let stat = of("latencystats", &format!("latency_percentiles_usec_{name}"));
            assert!(within(&stat, "p99") >= within(&stat, "p50"), "{stat}");
        }
    }
}

#[test]
fn the_latency_of_a_write_is_that_of_its_disk() {
    for shard in 0..2 {
        let house = house(2);
        let key = &keys(2)[shard];
        let mut talk = house.connect_to(0);
        let mut slowest = 0.0_f64;
        for n in 0..20 {
            let begin = house.sim.now();
            ask(&house, &mut talk, &format!("SET {key} {n}"));
            slowest = slowest.max((house.sim.now() - begin).as_secs_f64() * 1e6);
        }

        let name = "latency_percentiles_usec_set";
        let set = figure(&house, &mut talk, "latencystats", name);
        let (p50, p99) = (within(&set, "p50"), within(&set, "p99"));
        assert!(p50 > 1.0 && p99 <= slowest * 1.01, "{set}, and the client waited {slowest} us");
        let Value::Array(told) = ask(&house, &mut talk, "LATENCY HISTOGRAM set") else {
            panic!("no histogram")
        };
        let Value::Array(of) = &told[1] else { panic!("{told:?}") };
        assert_eq!((&told[0], &of[1]), (&Value::bulk("set"), &Value::Int(20)));
    }
}

#[test]
fn commands_per_second_are_those_of_the_last_second() {
    let house = house(2);
    let mut talks = [house.connect_to(0), house.connect_to(1)];
    house.run_ms(1000);
    for _ in 0..200 {
        for talk in &mut talks {
            ask(&house, talk, "PING");
        }
        house.run_ms(10);
    }

    let shown = figure(&house, &mut talks[0], "stats", "instantaneous_ops_per_sec");
    let shown: f64 = shown.parse().expect("a number");
    assert!((100.0..=205.0).contains(&shown), "{shown} a second of two hundred");
    house.run_ms(2200);
    let shown = figure(&house, &mut talks[0], "stats", "instantaneous_ops_per_sec");
    assert!(shown.parse::<f64>().is_ok_and(|shown| shown <= 1.0), "{shown} while nobody asks");
}
