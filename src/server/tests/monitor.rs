//! MONITOR over the shards of a node.

use super::house::House;
use super::talk::{Talk, Value};
use super::transactions::{ask, house, keys};

/// The lines that have come, without their times and clients.
fn shown(house: &House, talk: &Talk) -> Vec<String> {
    let line = |value| match value {
        Value::Simple(line) => line.split_once("] ").expect("a line of MONITOR").1.to_owned(),
        other => panic!("{other:?} is no line"),
    };
    // What a client has not read fits into a window only: the rest follows.
    let mut lines: Vec<String> = Vec::new();
    loop {
        house.run_ms(5);
        let count = lines.len();
        lines.extend(std::iter::from_fn(|| talk.next()).map(line));
        if lines.len() == count {
            return lines;
        }
    }
}

#[test]
fn commands_of_all_shards_are_shown_until_reset() {
    let house = house(2);
    let keys = keys(2);
    let mut monitor = house.connect_to(0);
    let mut talks = [house.connect_to(0), house.connect_to(1)];
    ask(&house, &mut talks[0], "PING");
    assert_eq!(ask(&house, &mut monitor, "MONITOR"), Value::ok());
    for talk in &mut talks {
        for key in &keys {
            ask(&house, talk, &format!("SET {key} x"));
            assert_eq!(shown(&house, &monitor), [format!("\"SET\" \"{key}\" \"x\"")]);
        }
        ask(&house, talk, "AUTH word");
        ask(&house, talk, "CONFIG GET save");
        assert_eq!(shown(&house, &monitor), ["\"AUTH\" \"(redacted)\""]);
        for line in ["MULTI", &format!("INCR {}1", keys[1]), "ECHO in", "EXEC"] {
            ask(&house, talk, line);
        }
        let lines = shown(&house, &monitor);
        let mut sorted: Vec<&str> = lines.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let incr = format!("\"INCR\" \"{}1\"", keys[1]);
        assert_eq!(sorted, ["\"ECHO\" \"in\"", "\"EXEC\"", &incr, "\"MULTI\""]);
    }

    // Once more is not answered; keys are not for it.
    monitor.send(&["MONITOR"]);
    assert!(ask(&house, &mut monitor, "GET x").is_error("ERR Replica can't interact"));
    assert_eq!(ask(&house, &mut monitor, "RESET"), Value::Simple("RESET".to_owned()));
    shown(&house, &monitor);
    ask(&house, &mut talks[1], "PING");
    assert!(shown(&house, &monitor).is_empty());
    assert_eq!(ask(&house, &mut monitor, "GET x"), Value::Nil);
}

#[test]
fn a_monitor_that_does_not_read_misses_lines_and_is_told_so() {
    let house = house(1);
    let mut monitor = house.connect_to(0);
    let mut talk = house.connect_to(0);
    ask(&house, &mut talk, "MULTI");
    assert!(ask(&house, &mut talk, "MONITOR") == Value::Simple("QUEUED".to_owned()));
    let Value::Array(got) = ask(&house, &mut talk, "EXEC") else { panic!("not run") };
    assert!(got[0].is_error("ERR MONITOR isn't allowed for DENY BLOCKING client"));
    ask(&house, &mut monitor, "MONITOR");

    for _ in 0..41 {
        (0..1000).for_each(|_| talk.send(&["PING"]));
        house.replies(&mut talk, 1000);
    }

    let lines = shown(&house, &monitor);
    let pings = lines.iter().filter(|line| *line == "\"PING\"").count();
    assert!((10_000..41_000).contains(&pings), "{pings} lines");
    house.run_ms(1100);
    ask(&house, &mut talk, "PING");
    let left = shown(&house, &monitor);
    assert!(left.iter().chain(&lines).any(|line| line.starts_with("\"LEFT-OUT\" ")), "{left:?}");
    assert_eq!(house.stats[0].monitor_left_out.get() as usize, 41_000 - pings);
}
