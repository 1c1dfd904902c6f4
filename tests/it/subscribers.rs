//! Subscribers that do not read, under a flood of messages: they are slowed, then closed, both are
//! counted, and the others hear everything. Subscribers of several nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
use crate::cluster::{self, CHANGE_MAX, Patient, write_some};
use crate::server::Server;

/// Bytes of a payload.
const LEN: usize = 1000;
/// Messages of the flood: for each subscriber six times what it may leave unread.
const COUNT: usize = 200_000;
/// Messages published at once.
const BATCH: usize = 500;
/// Messages on their way to those who read: never as much as they may leave unread.
const WINDOW: usize = 4_000;
/// Who reads, and who does not.
const READERS: usize = 2;
const SLEEPERS: usize = 2;

fn payload(n: usize) -> String {
    format!("{n:0LEN$}")
}

fn subscribed(server: &Server) -> Client {
    let mut client = server.client();
    let Reply::Array(items) = client.run(&["SUBSCRIBE", "flood"]) else { panic!("no array") };
    assert_eq!(items[1], Reply::bulk("flood"));
    client
}

/// Hears all messages, each once and in order; tells how many by now.
fn hears_all(mut client: Client, heard: &AtomicUsize) {
    let empty = encode(&["message", "flood", &payload(0)]);
    let mut message = vec![0; empty.len()];
    for n in 0..COUNT {
        client.stream().read_exact(&mut message).expect("a message");
        assert!(message == encode(&["message", "flood", &payload(n)]), "message {n}");
        heard.store(n + 1, Ordering::Release);
    }
}

fn figure(client: &mut Client, name: &str) -> u64 {
    let Reply::Bulk(info) = client.run(&["INFO", "stats"]) else { panic!("no text") };
    let info = String::from_utf8(info).expect("text");
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.expect("it is in INFO").parse().expect("a number")
}

#[test]
fn who_does_not_read_is_slowed_then_closed_and_the_others_hear_everything() {
    let server = Server::start(&["--cores", "2"]);
    let mut sleepers: Vec<Client> = (0..SLEEPERS).map(|_| subscribed(&server)).collect();
    let heard: Vec<_> = (0..READERS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let readers: Vec<_> = heard
        .iter()
        .map(|heard| {
            let (client, heard) = (subscribed(&server), Arc::clone(heard));
            spawn(move || hears_all(client, &heard))
        })
        .collect();
    let (mut publisher, mut asker) = (server.client(), server.client());
    let (before, begun) = (server.rss_mib(), Instant::now());
    let (mut grown, mut receivers) = (0, Vec::new());

    for first in (0..COUNT).step_by(BATCH) {
        let batch = (first..first + BATCH).flat_map(|n| encode(&["PUBLISH", "flood", &payload(n)]));
        publisher.write(&batch.collect::<Vec<u8>>());
        receivers.extend((0..BATCH).map(|_| publisher.reply()));
        grown = server.rss_mib().saturating_sub(before).max(grown);
        let slowest = || heard.iter().map(|heard| heard.load(Ordering::Acquire)).min();
        while slowest() < Some((first + BATCH).saturating_sub(WINDOW)) {
            assert!(begun.elapsed() < Duration::from_secs(120), "{:?} were heard", slowest());
            sleep(Duration::from_micros(200));
        }
        if first == 0 {
            assert_eq!(figure(&mut asker, "stave_subscribers_slowed"), 0, "a little is no harm");
        }
    }
    readers.into_iter().for_each(|reader| reader.join().expect("it heard everything"));

    let all = Reply::Integer((READERS + SLEEPERS) as i64);
    assert_eq!((&receivers[0], receivers.last()), (&all, Some(&Reply::Integer(READERS as i64))));
    // On a busy machine readers, too, may be slowed now and then: they still hear everything.
    let slowed = figure(&mut asker, "stave_subscribers_slowed");
    assert!(slowed >= SLEEPERS as u64, "{slowed} times one was slowed");
    assert_eq!(figure(&mut asker, "client_output_buffer_limit_disconnections"), SLEEPERS as u64);
    // 32 MiB for each of them, in vectors that grew by doubling; all of it would be 400 MB.
    assert!(grown < 200, "{grown} MiB");
    for sleeper in &mut sleepers {
        let got = std::iter::from_fn(|| sleeper.try_reply()).count();
        assert!((1..COUNT).contains(&got), "{got} messages, and closed");
    }
}

/// Waits until what is published at any node is heard at every other.
fn await_links(nodes: &[Server]) {
    let subscribe = |node: &Server| {
        let mut client = node.client();
        assert!(matches!(client.run(&["SUBSCRIBE", "links"]), Reply::Array(_)));
        (client, BTreeSet::new())
    };
    let mut heard: Vec<(Client, BTreeSet<String>)> = nodes.iter().map(subscribe).collect();
    let begun = Instant::now();
    while heard.iter().any(|(_, from)| from.len() < nodes.len()) {
        assert!(begun.elapsed() < CHANGE_MAX, "not all nodes hear of each other");
        for (at, node) in nodes.iter().enumerate() {
            node.client().run(&["PUBLISH", "links", &at.to_string()]);
        }
        sleep(Duration::from_millis(50));
        for (client, from) in &mut heard {
            while client.has_more() {
                from.insert(format!("{:?}", client.reply()));
            }
        }
    }
}

/// Of messages and of keyspace events; the keys are led by any node.
#[test]
fn the_subscribers_of_all_nodes_of_a_cluster_hear_of_everything() {
    const KEYS: usize = 60;
    let nodes = cluster::start(3, &["--notify-keyspace-events", "KEA"]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    await_links(&nodes);
    let subscribe = |node: &Server| {
        let mut client = node.client();
        assert!(matches!(client.run(&["SUBSCRIBE", "news"]), Reply::Array(_)));
        assert!(matches!(client.run(&["PSUBSCRIBE", "__keyspace@0__:event:*"]), Reply::Array(_)));
        client
    };
    let mut subscribers: Vec<Client> = nodes.iter().map(subscribe).collect();

    for (at, node) in nodes.iter().enumerate() {
        let mut client = node.client();
        assert_eq!(client.run(&["PUBLISH", "news", &at.to_string()]), Reply::Integer(1));
        for n in (at..KEYS).step_by(nodes.len()) {
            assert_eq!(client.run(&["SET", &format!("event:{n}"), "x"]), Reply::ok());
        }
    }

    for subscriber in &mut subscribers {
        let heard: BTreeSet<_> = (0..KEYS + nodes.len())
            .map(|_| match subscriber.reply() {
                Reply::Array(items) => items[items.len() - 2..].to_vec(),
                other => panic!("{other:?} is no message"),
            })
            .map(|last| format!("{last:?}"))
            .collect();
        let news = (0..nodes.len()).map(|at| [Reply::bulk("news"), Reply::bulk(at.to_string())]);
        let event = |n| [Reply::bulk(format!("__keyspace@0__:event:{n}")), Reply::bulk("set")];
        let expected = news.chain((0..KEYS).map(event)).map(|last| format!("{last:?}"));
        assert_eq!(heard, expected.collect());
        assert!(!subscriber.has_more(), "something came twice");
    }
}
