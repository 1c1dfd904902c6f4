//! Reads at nodes that do not lead, by connections that said READONLY.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::cluster::{CHANGE_MAX, Patient, start, write_some};
use crate::members::{ask, settle};
use crate::server::{Server, binary, told};

/// A connection that said so.
fn reader(port: u16) -> Client {
    let mut client = Client::connect(port);
    assert_eq!(client.run(&["READONLY"]), Reply::ok());
    client
}

/// A figure of a node.
pub fn figure(node: &Server, name: &str) -> u64 {
    let Reply::Bulk(text) = node.client().run(&["INFO", "stave"]) else { panic!("a text") };
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

fn signal(nodes: &[Server], name: &str) {
    for node in nodes {
        let sent = Command::new("kill").args([name, &node.pid().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }
}

/// Reads everything at a node, as often as it takes until its own replicas answer for all of it.
fn read_behind(node: &Server, client: &mut Client, kept: &BTreeMap<String, String>) {
    let begun = Instant::now();
    loop {
        let before = figure(node, "stave_follower_reads_too_old");
        for (key, value) in kept {
            assert_eq!(client.run(&["GET", key]), Reply::bulk(value), "{key}");
        }
        if figure(node, "stave_follower_reads_too_old") == before {
            return;
        }
        assert!(begun.elapsed() < CHANGE_MAX, "a leader is asked all the time");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_node_answers_readers_until_it_is_cut_off_for_longer_than_the_bound() {
    let nodes = start(3, &["--cores", "2", "--read-staleness-max", "3s"]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    // Written to a majority, which is not all.
    sleep(Duration::from_millis(500));
    for node in &nodes {
        let mut client = reader(node.port);
        read_behind(node, &mut client, &kept);
        let keys: Vec<_> = kept.keys().map(String::as_str).collect();
        let Reply::Array(values) = client.run(&[["MGET"].as_slice(), &keys].concat()) else {
            panic!("MGET answers with an array")
        };
        assert!(values.iter().eq(kept.values().map(Reply::bulk).collect::<Vec<_>>().iter()));
        assert!(figure(node, "stave_follower_reads") > 0);
    }

    let before = figure(&nodes[2], "stave_follower_reads");
    let address = format!("127.0.0.1:{}", nodes[2].binary_port);
    let typed = stavekv_client::blocking::Client::connect(address.as_str()).expect("it serves");
    let typed = typed.with_stale_reads();
    for (key, value) in &kept {
        let item = typed.get(key).expect("an answer").expect("it is there");
        assert_eq!(item.value, value.as_bytes(), "{key}");
    }
    let keys: Vec<_> = kept.keys().collect();
    let items = typed.multi_get(&keys).expect("an answer").into_iter().flatten();
    assert!(items.map(|item| item.value).eq(kept.values().map(|value| value.as_bytes())));
    assert!(figure(&nodes[2], "stave_follower_reads") > before);
    let mut get = Command::new(binary());
    get.args(["get", "key:0", "--stale", "--server", &address]);
    assert_eq!(told(get.output().expect("the binary runs")), (Some(0), kept["key:0"].clone()));

    let mut client = reader(nodes[0].port);
    read_behind(&nodes[0], &mut client, &kept);
    signal(&nodes[1..], "-STOP");
    let begun = Instant::now();
    let mut answered = BTreeMap::new();
    while begun.elapsed() < Duration::from_secs(2) {
        for (key, value) in &kept {
            assert_eq!(client.run(&["GET", key]), Reply::bulk(value), "{key}");
            *answered.entry(key).or_insert(0) += 1;
        }
    }
    assert!(answered.values().all(|times| *times > 10), "{answered:?}");

    // What was sent to one that was stopped ends with the connection to it.
    let refused = loop {
        match client.run(&["GET", "key:0"]) {
            Reply::Error(text) if text.starts_with("MASTERDOWN") => break text,
            Reply::Error(text) => assert!(text.starts_with("UNKNOWN"), "{text}"),
            value => assert!(begun.elapsed() < Duration::from_secs(4), "{value:?}"),
        }
        assert!(begun.elapsed() < CHANGE_MAX, "no refusal");
    };
    assert!(refused.contains("older than read-staleness-max"), "{refused}");

    signal(&nodes[1..], "-CONT");
    let mut patient = Patient::of(&nodes);
    write_some(&mut patient, 1, &mut kept);
    sleep(Duration::from_millis(500));
    read_behind(&nodes[0], &mut reader(nodes[0].port), &kept);
}

#[test]
fn in_cluster_mode_a_reader_is_sent_to_the_leader_only_if_it_has_to() {
    let nodes = start(3, &["--cluster-mode"]);
    let mut readers: Vec<_> = nodes.iter().map(|node| reader(node.shard_ports[0])).collect();
    let begun = Instant::now();
    // The first answers are of who leads; then all three answer.
    while !readers.iter_mut().all(|client| client.run(&["GET", "key"]) == Reply::Null) {
        assert!(begun.elapsed() < CHANGE_MAX, "a reader is sent on all the time");
        sleep(Duration::from_millis(50));
    }

    for client in &mut readers {
        assert_eq!(client.run(&["READWRITE"]), Reply::ok());
    }
    let is_sent_on = |client: &mut Client| {
        let reply = client.run(&["GET", "key"]);
        matches!(reply, Reply::Error(text) if text.starts_with("MOVED"))
    };
    // Leadership may be on its way from one to another.
    while readers.iter_mut().filter_map(|client| is_sent_on(client).then_some(())).count() != 2 {
        assert!(begun.elapsed() < CHANGE_MAX, "one leads");
        sleep(Duration::from_millis(50));
    }
}

fn text(client: &mut Client, words: &[&str]) -> String {
    let Reply::Bulk(text) = client.run(words) else { panic!("{words:?} is answered with a text") };
    String::from_utf8(text).expect("ASCII")
}

/// Asks until a text has all of this.
fn until(node: &Server, words: &[&str], expected: &[String]) {
    let begun = Instant::now();
    loop {
        let told = text(&mut node.client(), words);
        if expected.iter().all(|line| told.contains(line)) {
            return;
        }
        assert!(begun.elapsed() < CHANGE_MAX, "{expected:?} in {told}");
        sleep(Duration::from_millis(50));
    }
}

/// The ports that a slot's leader and its followers have.
fn ports_of(node: &Server, slot: i64) -> Vec<i64> {
    let Reply::Array(ranges) = node.client().run(&["CLUSTER", "SLOTS"]) else { panic!("ranges") };
    for range in ranges {
        let Reply::Array(parts) = range else { panic!("{range:?} is a range") };
        let [Reply::Integer(first), Reply::Integer(last), nodes @ ..] = &parts[..] else {
            panic!("{parts:?} begins with two slots")
        };
        if (*first..=*last).contains(&slot) {
            let port = |node: &Reply| match node {
                Reply::Array(node) => match &node[1] {
                    Reply::Integer(port) => *port,
                    port => panic!("{port:?} is a port"),
                },
                node => panic!("{node:?} is a node"),
            };
            return nodes.iter().map(port).collect();
        }
    }
    Vec::new()
}

/// Waits until a node's CLUSTER SLOTS names these: a follower may be heard of by the leader first.
pub fn until_told_of(node: &Server, ports: &[i64]) {
    let begun = Instant::now();
    while ports_of(node, 7) != ports {
        assert!(begun.elapsed() < CHANGE_MAX, "{:?}", ports_of(node, 7));
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_follows_is_told_of_as_long_as_it_is_heard_of() {
    let mut nodes = start(3, &["--cluster-mode"]);
    settle(&nodes[0]);
    assert_eq!(ask(&nodes[0], "transfer 1").0, Some(0));
    let port = |at: usize| i64::from(nodes[at].shard_ports[0]);
    let (first, second, third) = (port(0), port(1), port(2));
    let slave = |port: i64, nth: u8| format!("slave{nth}:ip=127.0.0.1,port={port},state=online");
    let both = ["connected_slaves:2".to_owned(), slave(second, 0), slave(third, 1)];
    until(&nodes[0], &["INFO", "replication"], &both);
    until(&nodes[1], &["INFO", "replication"], &["connected_slaves:0".to_owned()]);
    for node in &nodes {
        until(node, &["CLUSTER", "NODES"], &[" connected 0-16383\n".to_owned()]);
        until_told_of(node, &[first, second, third]);
        let told = text(&mut node.client(), &["CLUSTER", "NODES"]);
        assert_eq!(told.matches("slave").count(), 2, "{told}");
    }

    nodes[2].kill();
    let lost = [format!("127.0.0.1:{third}@"), "slave,fail? ".to_owned()];
    until(&nodes[0], &["CLUSTER", "NODES"], &lost);
    assert_eq!(ports_of(&nodes[0], 7), [first, second]);
    let one = ["connected_slaves:1".to_owned(), slave(second, 0)];
    until(&nodes[0], &["INFO", "replication"], &one);
    nodes[2].restart();
    until(&nodes[0], &["INFO", "replication"], &["connected_slaves:2".to_owned()]);
}

/// Who leads no more may be asked in the same moment: it knows who does, or has the client wait.
#[test]
fn nobody_is_sent_to_where_it_asked() {
    let nodes = start(3, &["--cluster-mode"]);
    settle(&nodes[0]);
    let (done, moved) = (AtomicBool::new(false), AtomicU32::new(0));
    scope(|scope| {
        for node in &nodes {
            scope.spawn(|| {
                let port = node.shard_ports[0];
                let mut client = Client::connect(port);
                while !done.load(Ordering::Relaxed) {
                    match client.try_ask(&["GET", "key"]) {
                        Some(Reply::Error(text)) if text.starts_with("MOVED") => {
                            assert!(!text.ends_with(&format!(":{port}")), "{port} says {text}");
                            moved.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(_) => {}
                        // A core that was stopped for long closes what it answered.
                        None => client = Client::connect(port),
                    }
                }
            });
        }
        for to in [1, 2, 3, 1, 2, 3] {
            assert_eq!(ask(&nodes[0], &format!("transfer {to}")).0, Some(0));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(moved.into_inner() > 0, "two of three lead nothing");
}

#[test]
fn a_client_is_not_sent_to_a_leader_that_is_gone() {
    let mut nodes = start(3, &["--cluster-mode"]);
    settle(&nodes[0]);
    assert_eq!(ask(&nodes[0], "transfer 1").0, Some(0));
    until(&nodes[1], &["CLUSTER", "NODES"], &[" connected 0-16383\n".to_owned()]);
    nodes[0].kill();
    let gone = format!(":{}", nodes[0].shard_ports[0]);
    // Up to a tick later the other nodes know.
    sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let mut client = Client::connect(nodes[1].shard_ports[0]);
    while begun.elapsed() < Duration::from_secs(5) {
        match client.try_ask(&["SET", "key", "value"]) {
            Some(Reply::Error(text)) => assert!(!text.ends_with(&gone), "{text}"),
            Some(_) => {}
            None => client = Client::connect(nodes[1].shard_ports[0]),
        }
    }
}
