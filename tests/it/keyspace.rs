//! SCAN, KEYS, RANDOMKEY and their kin over the shards of a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
use crate::server::Server;

fn bulks(reply: Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { panic!("{reply:?} is not an array") };
    let text = |item| match item {
        Reply::Bulk(bytes) => String::from_utf8(bytes).expect("the tests' keys are text"),
        other => panic!("{other:?} is not a key"),
    };
    items.into_iter().map(text).collect()
}

/// One step: the next cursor and the keys.
fn scan(client: &mut Client, args: &[&str]) -> (String, Vec<String>) {
    let Reply::Array(mut parts) = client.run(args) else { panic!("SCAN answers an array") };
    let keys = bulks(parts.pop().expect("two parts"));
    let Some(Reply::Bulk(cursor)) = parts.pop() else { panic!("the cursor is a string") };
    (String::from_utf8(cursor).expect("digits"), keys)
}

/// A whole iteration, and how many steps it took.
fn scan_all(client: &mut Client, options: &[&str]) -> (Vec<String>, usize) {
    let (mut cursor, mut all, mut steps) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let args = [&["SCAN", &cursor], options].concat();
        let (next, mut keys) = scan(client, &args);
        all.append(&mut keys);
        steps += 1;
        if next == "0" {
            return (all, steps);
        }
        cursor = next;
    }
}

/// Sets `count` keys `name:0` and so on, in one pipeline.
fn fill(client: &mut Client, name: &str, count: usize) {
    let set = |nth: usize| encode(&["SET", &format!("{name}:{nth}"), "v"]);
    client.write(&(0..count).flat_map(set).collect::<Vec<_>>());
    (0..count).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
}

#[test]
fn a_scan_shows_every_key_of_its_database_once() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    assert_eq!(scan_all(&mut client, &[]), (Vec::new(), 2), "a step per shard");
    fill(&mut client, "key", 3000);
    client.run(&["SELECT", "3"]);
    fill(&mut client, "other", 500);

    let (others, _) = scan_all(&mut client, &["COUNT", "100"]);
    client.run(&["SELECT", "0"]);
    let (keys, steps) = scan_all(&mut client, &[]);
    let (some, few_steps) = scan_all(&mut client, &["MATCH", "key:1?2*", "COUNT", "500"]);

    assert_eq!((others.len(), keys.len()), (500, 3000));
    assert_eq!(BTreeSet::from_iter(&keys).len(), 3000, "no key twice while nothing is deleted");
    assert!((100..=600).contains(&steps) && few_steps < 20, "{steps}, {few_steps}");
    let wanted = (0..3000).map(|nth| format!("key:{nth}"));
    let wanted =
        wanted.filter(|key| key.len() > 6 && key[4..].starts_with('1') && &key[6..7] == "2");
    assert_eq!(BTreeSet::from_iter(some), wanted.collect());
    assert_eq!(scan_all(&mut client, &["TYPE", "string"]).0.len(), 3000);
    assert_eq!(scan_all(&mut client, &["TYPE", "hash", "COUNT", "1000"]).0.len(), 0);
}

#[test]
fn what_is_there_all_the_time_is_shown_while_keys_come_and_go() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    fill(&mut client, "stays", 2000);
    fill(&mut client, "goes", 2000);

    let (mut cursor, mut seen, mut step) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let (next, keys) = scan(&mut client, &["SCAN", &cursor, "COUNT", "20"]);
        seen.extend(keys);
        if next == "0" {
            break;
        }
        cursor = next;
        fill(&mut client, &format!("comes:{step}"), 100);
        for nth in 0..10 {
            client.run(&["DEL", &format!("goes:{}", step * 10 + nth)]);
        }
        step += 1;
    }

    assert!(step > 50, "{step} steps");
    let missing: Vec<_> =
        (0..2000).map(|nth| format!("stays:{nth}")).filter(|key| !seen.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn keys_random_keys_and_slots_are_those_of_all_shards() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    assert_eq!(client.run(&["RANDOMKEY"]), Reply::Null);
    assert_eq!(client.run(&["KEYS", "*"]), Reply::Array(Vec::new()));
    fill(&mut client, "k", 100);
    fill(&mut client, "{tag}k", 30);

    assert_eq!(bulks(client.run(&["KEYS", "*"])).len(), 130);
    assert_eq!(BTreeSet::from_iter(bulks(client.run(&["KEYS", "k:9?"]))).len(), 10);
    let random = (0..300).map(|_| match client.run(&["RANDOMKEY"]) {
        Reply::Bulk(key) => key,
        other => panic!("{other:?}"),
    });
    let random: BTreeSet<_> = random.collect();
    assert!(random.len() > 70, "{} of 130 keys in 300 draws", random.len());

    let Reply::Integer(slot) = client.run(&["CLUSTER", "KEYSLOT", "tag"]) else { panic!("a slot") };
    let slot = slot.to_string();
    assert_eq!(client.run(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), Reply::Integer(30));
    assert_eq!(bulks(client.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "7"])).len(), 7);
    assert_eq!(bulks(client.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "70"])).len(), 30);

    // One key among many of another database.
    client.run(&["SELECT", "9"]);
    client.run(&["SET", "alone", "v"]);
    assert_eq!(client.run(&["RANDOMKEY"]), Reply::bulk("alone"));
    assert_eq!(bulks(client.run(&["KEYS", "*"])), ["alone"]);
    assert_eq!(client.run(&["FLUSHDB", "ASYNC"]), Reply::ok());
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(0));
    client.run(&["SELECT", "0"]);
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(130));
    assert_eq!(client.run(&["FLUSHALL", "SYNC"]), Reply::ok());
    assert_eq!(client.run(&["KEYS", "*"]), Reply::Array(Vec::new()));
}

/// The order of a connection holds across a command that is worked on in slices.
#[test]
fn keys_sees_what_came_before_it_and_nothing_of_what_came_after() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    fill(&mut client, "before", 20_000);

    let after = (0..200).flat_map(|nth| encode(&["SET", &format!("after:{nth}"), "v"]));
    let pipeline = [encode(&["KEYS", "*"]), after.collect(), encode(&["KEYS", "after:*"])].concat();
    client.write(&pipeline);

    assert_eq!(bulks(client.reply()).len(), 20_000);
    (0..200).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    assert_eq!(bulks(client.reply()).len(), 200);
}

#[test]
fn in_cluster_mode_a_shard_answers_for_its_own_keys() {
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    let mut count = 0;
    for &port in &server.shard_ports {
        let mut client = Client::connect(port);
        for nth in 0..200 {
            client.run(&["SET", &format!("k{nth}"), "v"]);
        }
        let Reply::Integer(size) = client.run(&["DBSIZE"]) else { panic!("a count") };
        let (keys, _) = scan_all(&mut client, &["COUNT", "50"]);
        let all = bulks(client.run(&["KEYS", "*"]));
        assert_eq!((keys.len() as i64, all.len() as i64), (size, size));
        count += size;
    }
    assert_eq!(count, 200);
}

/// Others are served while a large keyspace is walked.
#[test]
fn a_long_walk_stalls_nobody() {
    let server = Server::start(&["--cores", "1"]);
    let mut client = server.client();
    for part in 0..10 {
        fill(&mut client, &format!("part:{part}"), 30_000);
    }
    let mut other = server.client();
    client.send(&["KEYS", "*"]);
    let begin = Instant::now();

    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let sent = Instant::now();
        assert_eq!(other.run(&["GET", "part:0:1"]), Reply::bulk("v"));
        slowest = slowest.max(sent.elapsed());
    }
    let others = begin.elapsed();

    assert_eq!(bulks(client.reply()).len(), 300_000);
    println!("20 GETs beside KEYS of 300,000: {others:?}, the slowest {slowest:?}");
    assert!(slowest < Duration::from_millis(250), "{slowest:?}");
}
