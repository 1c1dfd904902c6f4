//! Subscribers that do not read, under a flood of messages: they are slowed, then closed, both are
//! counted, and the others hear everything.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
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
