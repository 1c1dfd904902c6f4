//! Nodes that come and go: joined, drained, removed, killed meanwhile; with a writer all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::client::Reply;
use crate::cluster::{CHANGE_MAX, Patient, assert_kept, free_port, write_some};
use crate::server::{Server, binary, told};

/// A node that others can join, or that joins, and its peer port.
pub fn node(join: Option<u16>, flags: &[&str]) -> (Server, u16) {
    let port = free_port();
    let (own, seed) = (port.to_string(), format!("127.0.0.1:{}", join.unwrap_or(0)));
    let mut all = vec!["--peer-port", &own];
    if join.is_some() {
        all.extend(["--join", &seed]);
    }
    (Server::start(&[&all, flags].concat()), port)
}

/// `stave cluster ...`, asked of a node: the exit code and what it said.
pub fn ask(node: &Server, words: &str) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    let server = format!("127.0.0.1:{}", node.binary_port);
    command.arg("cluster").args(words.split(' ')).args(["--server", &server]);
    told(command.output().expect("the binary runs"))
}

pub fn settle(node: &Server) {
    let begun = Instant::now();
    loop {
        let (code, text) = ask(node, "status --check");
        if code == Some(0) {
            return;
        }
        assert!(begun.elapsed() < CHANGE_MAX, "not settled: {text}");
        sleep(Duration::from_millis(50));
    }
}

fn change(node: &Server, words: &str) {
    let (code, text) = ask(node, words);
    assert_eq!(code, Some(0), "{words}: {text}");
}

/// Three nodes of a cluster where all is as it is to be, and the keys that it has.
fn three() -> ([Server; 3], BTreeMap<String, String>) {
    let (first, seed) = node(None, &[]);
    let (second, _) = node(Some(seed), &[]);
    let (third, _) = node(Some(seed), &[]);
    let nodes = [first, second, third];
    nodes.iter().for_each(settle);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    (nodes, kept)
}

/// Writes through some nodes until told to stop; what was acknowledged.
fn write_on(nodes: &[&Server], stop: &AtomicBool) -> BTreeMap<String, String> {
    let (mut client, mut kept) = (Patient::of(nodes.iter().copied()), BTreeMap::new());
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("on:{}", n % 500), n.to_string());
        assert_eq!(client.ask(&["SET", &key, &value]).0, Reply::ok());
        kept.insert(key, value);
    }
    kept
}

#[test]
fn a_cluster_grows_from_one_node_under_load_and_outlives_its_first() {
    // Little log is kept, so that who joins is sent tables.
    let small = ["--memory", "64MiB", "--cores", "1"];
    let (mut first, seed) = node(None, &small);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of([&first]), 0, &mut kept);

    let stop = AtomicBool::new(false);
    let (second, third) = scope(|threads| {
        let writer = threads.spawn(|| write_on(&[&first], &stop));
        let (second, port) = node(Some(seed), &["--memory", "64MiB"]);
        settle(&second);
        let (third, _) = node(Some(port), &["--memory", "64MiB"]);
        settle(&third);
        stop.store(true, Ordering::Relaxed);
        kept.append(&mut writer.join().expect("every write was acknowledged"));
        (second, third)
    });
    settle(&first);
    assert_eq!(first.client().run(&["WAIT", "1", "0"]), Reply::Integer(1));

    first.kill();
    let mut client = Patient::of([&second, &third]);
    assert_kept(&mut client, &kept);
    write_some(&mut client, 1, &mut kept);

    change(&second, "remove 1");
    // The binary port lets in, too.
    let (fourth, _) = node(Some(third.binary_port), &["--memory", "64MiB"]);
    let join = format!("127.0.0.1:{}", third.binary_port);
    settle(&fourth);
    assert_kept(&mut Patient::of([&fourth]), &kept);

    // The one that was removed is told so.
    let (code, text) = first.second(&["--join", &join]);
    assert_ne!(code, Some(0));
    assert!(text.contains("node 1 was removed from its cluster"), "{text}");
}

#[test]
fn a_node_is_drained_and_restored_while_others_write_and_all_come_back_after_a_crash() {
    let (mut nodes, mut kept) = three();

    let stop = AtomicBool::new(false);
    let all: Vec<_> = nodes.iter().collect();
    scope(|threads| {
        let writer = threads.spawn(|| write_on(&all, &stop));
        for _ in 0..2 {
            change(&nodes[1], "drain 1");
            // It serves any key as before, though it has none.
            assert_kept(&mut Patient::of(&nodes[..1]), &kept);
            assert!(scan(&nodes[0]).len() >= kept.len());
            change(&nodes[2], "restore 1");
        }
        change(&nodes[0], "transfer 2");
        stop.store(true, Ordering::Relaxed);
        kept.append(&mut writer.join().expect("every write was acknowledged"));
    });

    nodes.iter_mut().for_each(Server::kill);
    nodes.iter_mut().for_each(Server::restart);
    nodes.iter().for_each(settle);
    assert_kept(&mut Patient::of(&nodes), &kept);
    let (_, text) = ask(&nodes[0], "status");
    assert!(text.contains("all 6 partitions are as they are to be"), "{text}");
}

/// A figure of a node's INFO.
fn figure(node: &Server, name: &str) -> u64 {
    let Reply::Bulk(text) = node.client().run(&["INFO"]) else { panic!("INFO is text") };
    let text = String::from_utf8(text).expect("it is text");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.expect("it is there").trim().parse().expect("a number")
}

#[test]
fn what_a_drained_node_had_is_gone_and_comes_back_with_it() {
    let (mut nodes, mut kept) = three();
    let large = "x".repeat(2000);
    for n in 0..200 {
        kept.insert(format!("large:{n}"), large.clone());
    }
    let mut client = Patient::of(&nodes[..1]);
    kept.iter().for_each(|(key, value)| {
        assert_eq!(client.ask(&["SET", key, value]).0, Reply::ok());
    });
    // One that has been there from the beginning, and one that was sent tables.
    for (at, id) in [(0, "1"), (1, "2")] {
        change(&nodes[2], &format!("drain {id}"));
        let begun = Instant::now();
        let has_rows = |node: &Server| figure(node, "stave_memory_memtables") > 200_000;
        while has_rows(&nodes[at]) || figure(&nodes[at], "stave_sstables") > 0 {
            assert!(begun.elapsed() < CHANGE_MAX, "its replicas are still there");
            sleep(Duration::from_millis(50));
        }
        nodes[at].kill();
        nodes[at].restart();
        assert_eq!(figure(&nodes[at], "stave_sstables"), 0);
        write_some(&mut Patient::of(&nodes), at + 1, &mut kept);
        assert_kept(&mut Patient::of([&nodes[at]]), &kept);

        change(&nodes[2], &format!("restore {id}"));
        nodes.iter().for_each(settle);
        assert!(figure(&nodes[at], "stave_sstables") > 0, "it was sent tables");
    }
    nodes[2].kill();
    assert_kept(&mut Patient::of(&nodes[..2]), &kept);
    nodes.iter_mut().for_each(Server::kill);
    nodes.iter_mut().for_each(Server::restart);
    assert_kept(&mut Patient::of(&nodes), &kept);
}

#[test]
fn what_can_not_be_is_refused_with_the_cure() {
    let alone = Server::start(&[]);
    let (code, text) = ask(&alone, "status");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("start it with --peer-port PORT"), "{text}");

    let (first, seed) = node(None, &[]);
    let (code, text) = ask(&first, "remove 1");
    assert_eq!(code, Some(2));
    assert!(text.contains("the only one that has replicas: add another before"), "{text}");
    let (_, text) = ask(&first, "drain 7 --dry-run");
    assert!(text.contains("there is no node 7"), "{text}");

    let (second, _) = node(Some(seed), &[]);
    settle(&second);
    let (_, text) = ask(&first, "drain 2 --dry-run");
    assert!(text.contains("loses [2]") && text.contains("nothing was done"), "{text}");
    let join = format!("127.0.0.1:{seed}");
    let new = alone.dir().join("new");
    for (flag, value, cure) in [
        ("--cores", "2", "start it with --cores 1"),
        (
            "--partitions-per-core",
            "7",
            "has 6 partitions per core: leave --partitions-per-core out",
        ),
    ] {
        let mut command = Command::new(binary());
        command.args(["serve", "--resp-port", "0", "--join", &join, flag, value]);
        let (code, text) = told(command.arg("--data-dir").arg(&new).output().expect("it runs"));
        assert_ne!(code, Some(0));
        assert!(text.contains(cure), "{text}");
    }
    let (_, text) = ask(&first, "status");
    let has_row = |id: &str| text.lines().any(|line| line.starts_with(id));
    assert!(has_row("2    ") && !has_row("3    "), "nobody was let in: {text}");
}

#[test]
fn who_joins_has_as_many_partitions_as_the_cluster_was_founded_with() {
    let (first, seed) = node(None, &["--partitions-per-core", "2"]);
    let (mut second, _) = node(Some(seed), &[]);
    settle(&second);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of([&second]), 0, &mut kept);
    let (_, text) = ask(&second, "status");
    assert!(text.contains("all 2 partitions are as they are to be"), "{text}");

    second.kill();
    let (code, text) = second.second(&["--partitions-per-core", "6"]);
    assert_ne!(code, Some(0));
    assert!(text.contains("was born with 2 partitions per core"), "{text}");
    second.restart();
    settle(&first);
    assert_kept(&mut Patient::of([&second]), &kept);
}

#[test]
fn a_node_that_waits_for_a_cluster_ends_when_it_is_told_to() {
    let port = free_port();
    let (other, join) = (Server::start(&[]), format!("127.0.0.1:{port}"));
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "5"]).arg(binary()).args(["serve", "--join", &join]);
    command.arg("--data-dir").arg(other.dir().join("new"));
    let begun = Instant::now();
    let (_, text) = told(command.output().expect("there is timeout"));
    assert!(text.contains("waiting for a node of the cluster"), "{text}");
    assert!(begun.elapsed() < CHANGE_MAX, "it took {:?}", begun.elapsed());
}

#[test]
fn a_node_that_has_others_does_not_start_alone() {
    let (mut first, seed) = node(None, &[]);
    let (second, _) = node(Some(seed), &[]);
    settle(&second);
    first.kill();
    let (code, text) = first.second(&[]);
    assert_ne!(code, Some(0));
    assert!(text.contains("has replicas on other nodes"), "{text}");
}

/// All keys, by SCAN; as many as DBSIZE tells of if nobody writes.
fn scan(node: &Server) -> BTreeSet<String> {
    let (mut client, mut cursor) = (Patient::of([node]), "0".to_owned());
    let mut keys = BTreeSet::new();
    loop {
        let page = match client.ask(&["SCAN", &cursor, "COUNT", "40"]).0 {
            Reply::Array(page) => page,
            refused => panic!("SCAN: {refused:?}"),
        };
        let [Reply::Bulk(next), Reply::Array(names)] = page.as_slice() else { panic!("{page:?}") };
        keys.extend(names.iter().map(|name| match name {
            Reply::Bulk(name) => String::from_utf8_lossy(name).into_owned(),
            name => panic!("{name:?}"),
        }));
        cursor = String::from_utf8_lossy(next).into_owned();
        if cursor == "0" {
            return keys;
        }
    }
}

/// What tells of all keys tells the same, and everything, wherever it is asked.
fn assert_whole(nodes: &[Server], kept: &BTreeMap<String, String>) {
    let expected: BTreeSet<_> = kept.keys().cloned().collect();
    for node in nodes {
        assert_eq!(scan(node), expected);
        let mut client = Patient::of([node]);
        let mut ask = |args: &[&str]| client.ask(args).0;
        let Reply::Integer(count) = ask(&["DBSIZE"]) else { panic!("DBSIZE fails") };
        // Of rows that a snapshot brought it is known about.
        assert!(count.abs_diff(expected.len() as i64) <= 3, "{count} of {}", expected.len());
        let Reply::Array(keys) = ask(&["KEYS", "*"]) else { panic!("KEYS fails") };
        assert_eq!(keys.len(), expected.len());
        let Reply::Bulk(key) = ask(&["RANDOMKEY"]) else { panic!("no key") };
        assert!(expected.contains(&*String::from_utf8_lossy(&key)));
        let mut command = Command::new(binary());
        let server = format!("127.0.0.1:{}", node.binary_port);
        command.args(["scan", "--server", &server]);
        let (code, text) = told(command.output().expect("the binary runs"));
        assert_eq!((code, text.lines().count()), (Some(0), expected.len()));
    }
}

/// How many partitions have replicas on each node, and the rows themselves.
fn replicas(node: &Server) -> Vec<Vec<u64>> {
    let (code, text) = ask(node, "status --json");
    assert_eq!(code, Some(0), "{text}");
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let rows = told["partition"].as_array().expect("partitions");
    let numbers = |of: &serde_json::Value| -> Vec<u64> {
        of.as_array().expect("nodes").iter().filter_map(serde_json::Value::as_u64).collect()
    };
    rows.iter().map(|row| numbers(&row["voters"])).collect()
}

#[test]
fn five_nodes_keep_three_copies_of_each_key_or_as_many_as_they_are_told_to() {
    let (first, seed) = node(None, &[]);
    let mut nodes = vec![first];
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of([&nodes[0]]), 0, &mut kept);
    for _ in 0..4 {
        nodes.push(node(Some(seed), &[]).0);
        nodes.iter().for_each(settle);
    }

    for node in &nodes {
        let rows = replicas(node);
        assert!(rows.iter().all(|voters| voters.len() == 3), "{rows:?}");
        for id in 1..=5 {
            let count = rows.iter().filter(|voters| voters.contains(&id)).count();
            assert!((3..=4).contains(&count), "node {id} has {count} of 18: {rows:?}");
        }
        assert_kept(&mut Patient::of([node]), &kept);
        write_some(&mut Patient::of([node]), 1, &mut kept);
    }
    assert_whole(&nodes, &kept);

    let stop = AtomicBool::new(false);
    scope(|threads| {
        let all: Vec<_> = nodes.iter().collect();
        let stop = &stop;
        let writer = threads.spawn(move || write_on(&all, stop));
        let (_, text) = ask(&nodes[3], "replicas 4");
        assert!(text.contains("1, 3, 5 or 7 replicas and not 4"), "{text}");
        let (_, text) = ask(&nodes[3], "replicas 5 --dry-run");
        assert!(text.contains("6 of 6 partitions would change"), "{text}");
        change(&nodes[3], "replicas 5");
        assert!(replicas(&nodes[0]).iter().all(|voters| voters.len() == 5));
        change(&nodes[1], "replicas 1");
        assert!(replicas(&nodes[0]).iter().all(|voters| voters.len() == 1));
        change(&nodes[2], "replicas 3");
        stop.store(true, Ordering::Relaxed);
        kept.append(&mut writer.join().expect("every write was acknowledged"));
    });

    // Any two may go, one after the other, if the cluster is told of the first.
    nodes[0].kill();
    change(&nodes[1], "remove 1");
    nodes[1].kill();
    assert_kept(&mut Patient::of(&nodes[2..]), &kept);
    assert_whole(&nodes[2..], &kept);
}

/// Waits until a node says of so many that they are in a state.
fn await_states(node: &Server, state: &str, count: usize) {
    let begun = Instant::now();
    loop {
        let (_, text) = ask(node, "status");
        if text.matches(state).count() == count {
            return;
        }
        assert!(begun.elapsed() < CHANGE_MAX, "{text}");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_dead_node_is_replaced_and_serves_again_when_it_is_back() {
    let flags = ["--replace-dead-after", "2s"];
    let (first, seed) = node(None, &flags);
    let mut nodes = vec![first];
    (0..4).for_each(|_| nodes.push(node(Some(seed), &flags).0));
    nodes.iter().for_each(settle);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);

    // The first leads all, and so decides who is lost, and is itself the first to be.
    change(&nodes[1], "transfer 1");
    for dead in [0, 1] {
        nodes[dead].kill();
        let begun = Instant::now();
        let alive = &nodes[dead + 1..];
        let lost = format!("\"id\":{},", dead + 1);
        loop {
            let (_, text) = ask(&alive[0], "status --json");
            let state = text.split(&lost).nth(1).and_then(|rest| rest.split('}').next());
            if state.is_some_and(|state| state.contains("lost")) {
                break;
            }
            assert!(begun.elapsed() < CHANGE_MAX, "not lost: {text}");
            sleep(Duration::from_millis(100));
        }
        alive.iter().for_each(settle);
        assert_kept(&mut Patient::of(alive), &kept);
        write_some(&mut Patient::of(alive), dead + 1, &mut kept);
        assert_whole(alive, &kept);
        let rows = replicas(&alive[0]);
        let has = |voters: &Vec<u64>| voters.contains(&(dead as u64 + 1));
        assert!(rows.iter().all(|voters| voters.len() == 3 && !has(voters)), "{rows:?}");
    }

    // With three alive none can be done without.
    nodes[2].kill();
    sleep(Duration::from_secs(4));
    await_states(&nodes[3], " lost ", 2);
    nodes[..3].iter_mut().for_each(Server::restart);
    // Who is back serves again once the others have heard of it.
    await_states(&nodes[0], " serving ", 5);
    nodes.iter().for_each(settle);
    assert_whole(&nodes, &kept);
}
