//! SLOWLOG over the shards of a node.

use super::house::House;
use super::talk::{Talk, Value};
use super::transactions::{ask, house, keys};

/// The entries, newest first: id, arguments in a line, address and name.
fn entries(house: &House, talk: &mut Talk, line: &str) -> Vec<(i64, String, String, String)> {
    let Value::Array(entries) = ask(house, talk, line) else { panic!("no list") };
    let text = |value: &Value| match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?} is not a text"),
    };
    let entry = |entry: &Value| {
        let Value::Array(fields) = entry else { panic!("{entry:?} is no entry") };
        let [Value::Int(id), _, Value::Int(us), Value::Array(args), peer, name] = &fields[..]
        else {
            panic!("{fields:?} is no entry")
        };
        assert!(*us >= 0);
        let args: Vec<String> = args.iter().map(text).collect();
        (*id, args.join(" "), text(peer), text(name))
    };
    entries.iter().map(entry).collect()
}

fn lines(entries: &[(i64, String, String, String)]) -> Vec<&str> {
    entries.iter().map(|entry| entry.1.as_str()).collect()
}

#[test]
fn every_command_of_every_shard_is_told_of_newest_first() {
    let house = house(2);
    let keys = keys(2);
    let mut talks = [house.connect_to(0), house.connect_to(1)];
    ask(&house, &mut talks[0], "CLIENT SETNAME zero");
    ask(&house, &mut talks[0], "CONFIG SET slowlog-log-slower-than 0");
    ask(&house, &mut talks[0], "SLOWLOG RESET");
    for key in &keys {
        ask(&house, &mut talks[0], &format!("SET {key} x"));
        ask(&house, &mut talks[1], &format!("GET {key}"));
    }
    for line in ["MULTI", &format!("INCR {}1", keys[1]), "PING", "EXEC"] {
        ask(&house, &mut talks[0], line);
    }
    ask(&house, &mut talks[1], "AUTH secret");

    for talk in &mut talks {
        let all = entries(&house, talk, "SLOWLOG GET -1");
        assert!(all.is_sorted_by(|a, b| a.0 > b.0), "{all:?}");
        let mut told: Vec<&str> =
            lines(&all).into_iter().filter(|line| !line.starts_with("SLOWLOG")).collect();
        told.reverse();
        let (first, second) = (&keys[0], &keys[1]);
        let expected = [
            format!("SET {first} x"),
            format!("GET {first}"),
            format!("SET {second} x"),
            format!("GET {second}"),
            "MULTI".to_owned(),
            format!("INCR {second}1"),
            "PING".to_owned(),
            "AUTH (redacted)".to_owned(),
        ];
        assert_eq!(told, expected);
        let of = |line: &str| all.iter().find(|entry| entry.1 == line).expect("it is there");
        assert_eq!((of(&expected[0]).3.as_str(), of(&expected[2]).3.as_str()), ("zero", "zero"));
        assert_eq!(of(&expected[0]).2, of(&expected[2]).2);
        assert!(of(&expected[3]).2.contains(':') && of(&expected[3]).2 != of(&expected[0]).2);
    }
}

#[test]
fn the_bounds_hold_for_the_whole_node() {
    let house = house(2);
    let keys = keys(2);
    let mut talk = house.connect_to(0);
    ask(&house, &mut talk, "CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 5");
    for n in 0..20 {
        ask(&house, &mut talk, &format!("SET {} {n}", keys[n % 2]));
    }
    assert_eq!(ask(&house, &mut talk, "SLOWLOG LEN"), Value::Int(5));
    assert_eq!(lines(&entries(&house, &mut talk, "SLOWLOG GET")).len(), 5);
    assert_eq!(lines(&entries(&house, &mut talk, "SLOWLOG GET 2")).len(), 2);

    ask(&house, &mut talk, "CONFIG SET slowlog-log-slower-than -1");
    ask(&house, &mut talk, "SLOWLOG RESET");
    for key in &keys {
        ask(&house, &mut talk, &format!("MGET {key} {key}1"));
    }
    assert_eq!(ask(&house, &mut talk, "SLOWLOG LEN"), Value::Int(0));
}
