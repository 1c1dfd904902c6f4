//! A cache that is full: keys leave, all who want to know are told, and a kill brings none back.

use std::collections::BTreeSet;

use crate::client::{Client, Reply, encode};
use crate::server::Server;

const KEYS: usize = 60_000;
const HOT: usize = 200;
const VALUE_LEN: usize = 1_000;
const PIPELINE: usize = 500;

fn value(key: usize) -> String {
    format!("{key}-{}", "v".repeat(VALUE_LEN))
}

fn figure(client: &mut Client, name: &str) -> u64 {
    let Reply::Bulk(info) = client.run(&["INFO", "everything"]) else { panic!("INFO is text") };
    let info = String::from_utf8(info).expect("text");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.expect("it is there").trim().parse().expect("a number")
}

/// Numbers of the keys that are there, each with its value.
fn found(client: &mut Client) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for first in (0..KEYS).step_by(PIPELINE) {
        let get = |key: usize| encode(&["GET", &format!("key:{key}")]);
        client.write(&(first..first + PIPELINE).flat_map(get).collect::<Vec<_>>());
        for key in first..first + PIPELINE {
            match client.reply() {
                Reply::Null => {}
                reply => {
                    assert_eq!(reply, Reply::Bulk(value(key).into_bytes()), "key:{key}");
                    found.insert(key);
                }
            }
        }
    }
    found
}

/// As [`found`], once none leaves meanwhile: what is read takes memory, too.
fn settled(client: &mut Client) -> BTreeSet<usize> {
    for _ in 0..50 {
        let before = figure(client, "evicted_keys");
        let found = found(client);
        if figure(client, "evicted_keys") == before {
            return found;
        }
    }
    panic!("keys leave although nobody writes");
}

/// Writes all keys, and reads the first ones again and again.
fn fill(client: &mut Client) {
    for first in (0..KEYS).step_by(PIPELINE) {
        let set = |key: usize| encode(&["SET", &format!("key:{key}"), &value(key)]);
        client.write(&(first..first + PIPELINE).flat_map(set).collect::<Vec<_>>());
        (0..PIPELINE).for_each(|_| assert_eq!(client.reply(), Reply::ok()));
        let get = |key: usize| encode(&["GET", &format!("key:{key}")]);
        client.write(&(0..HOT).flat_map(get).collect::<Vec<_>>());
        (0..HOT).for_each(|key| assert_ne!(client.reply(), Reply::Null, "key:{key}"));
    }
}

#[test]
fn keys_leave_a_full_cache_and_none_comes_back() {
    let policy = ["--maxmemory-policy", "allkeys-lru", "--notify-keyspace-events", "Ee"];
    let flags = [&["--engine", "memory", "--memory", "32MiB", "--cores", "1"][..], &policy];
    let mut server = Server::start(&flags.concat());
    let mut subscriber = server.client();
    subscriber.run(&["SUBSCRIBE", "__keyevent@0__:evicted"]);
    let mut client = server.client();

    fill(&mut client);

    let kept = settled(&mut client);
    let bytes = kept.len() * VALUE_LEN;
    assert!(bytes > 12 << 20, "{bytes} bytes of values are there");
    let evicted = KEYS - kept.len();
    assert_eq!(figure(&mut client, "evicted_keys"), evicted as u64);
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(kept.len() as i64));
    let told: BTreeSet<Vec<u8>> = (0..evicted)
        .map(|_| match subscriber.reply() {
            Reply::Array(parts) => match parts.into_iter().nth(2) {
                Some(Reply::Bulk(key)) => key,
                other => panic!("{other:?} is no key"),
            },
            other => panic!("{other:?} is no message"),
        })
        .collect();
    assert_eq!(told.len(), evicted);
    assert!(kept.iter().all(|key| !told.contains(format!("key:{key}").as_bytes())));

    server.kill();
    server.restart();
    let mut client = server.client();
    // A few more may leave, as other things take memory now. None comes back.
    let after = found(&mut client);
    assert!(after.is_subset(&kept), "{:?}", after.difference(&kept));
    assert!(after.len() > kept.len() / 10 * 9, "{} of {}", after.len(), kept.len());
    let rss = server.rss_mib();
    assert!(rss < 120, "{rss} MiB");
}

#[test]
fn a_policy_without_the_engine_for_it_is_refused_with_the_cure() {
    let server = Server::start(&[]);
    let flags = ["--maxmemory-policy", "allkeys-lru", "--check-config"];
    let (code, text) = server.second(&flags);
    assert!(code != Some(0) && text.contains("engine = \"memory\""), "{code:?}: {text}");
    let mut client = server.client();
    let set = client.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert!(set.error().contains("engine memory"), "{set:?}");
}
