//! Data that is larger than memory, on the real disk: every row is found, before and after a kill.

use crate::client::{Client, Reply, encode};
use crate::server::Server;

const KEYS: usize = 60_000;
const VALUE_LEN: usize = 1_000;
const PIPELINE: usize = 500;

fn value(key: usize) -> String {
    format!("{key}-{}", "v".repeat(VALUE_LEN))
}

fn fill(client: &mut Client) {
    for first in (0..KEYS).step_by(PIPELINE) {
        let set = |key: usize| encode(&["SET", &format!("key:{key}"), &value(key)]);
        client.write(&(first..first + PIPELINE).flat_map(set).collect::<Vec<_>>());
        (0..PIPELINE).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    }
}

/// Reads every `step`th key.
fn check(client: &mut Client, step: usize) {
    for first in (0..KEYS).step_by(PIPELINE * step) {
        let keys = || (first..KEYS.min(first + PIPELINE * step)).step_by(step);
        let get = |key: usize| encode(&["GET", &format!("key:{key}")]);
        client.write(&keys().flat_map(get).collect::<Vec<_>>());
        for key in keys() {
            assert_eq!(client.reply(), Reply::Bulk(value(key).into_bytes()), "key:{key}");
        }
    }
}

fn figure(client: &mut Client, name: &str) -> u64 {
    let Reply::Bulk(info) = client.run(&["INFO", "stave"]) else { panic!("INFO is text") };
    let info = String::from_utf8(info).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.expect("it is there").trim().parse().expect("a number")
}

/// Keys that SCAN shows; none twice.
fn scanned(client: &mut Client) -> usize {
    let (mut cursor, mut keys) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        let Reply::Array(parts) = client.run(&["SCAN", &cursor, "COUNT", "1000"]) else {
            panic!("an array")
        };
        let [Reply::Bulk(next), Reply::Array(some)] = &parts[..] else { panic!("two parts") };
        for key in some {
            let Reply::Bulk(key) = key else { panic!("a key is a string") };
            assert!(keys.insert(key.clone()), "{} twice", String::from_utf8_lossy(key));
        }
        cursor = String::from_utf8(next.clone()).expect("digits");
        if cursor == "0" {
            return keys.len();
        }
    }
}

#[test]
fn rows_that_left_memory_are_read_from_the_disk_and_survive_a_kill() {
    let mut server = Server::start(&["--cores", "1", "--memory", "32MiB"]);
    let mut client = server.client();
    fill(&mut client);
    assert!(figure(&mut client, "stave_rows_evicted") > KEYS as u64 / 4);

    check(&mut client, 1);
    assert!(figure(&mut client, "stave_rows_fetched") > 0);
    assert_eq!(scanned(&mut client), KEYS);
    for key in (0..KEYS).step_by(1_000) {
        assert_eq!(client.run(&["DEL", &format!("key:{key}")]), Reply::Integer(1));
    }
    let (deleted, rss) = (KEYS / 1_000, server.rss_mib());
    assert!(rss < 120, "{rss} MiB");

    server.kill();
    server.restart();
    let mut client = server.client();
    assert_eq!(scanned(&mut client), KEYS - deleted);
    assert_eq!(client.run(&["EXISTS", "key:0", "key:1000", "key:1001"]), Reply::Integer(1));
    for key in (0..KEYS).step_by(1_000) {
        client.run(&["SET", &format!("key:{key}"), &value(key)]);
    }
    check(&mut client, 7);
}
