//! What is said when things break, against what is there: servers killed in mid-flight, stopped,
//! absent, and connections cut in the middle of a request.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stavekv_client::{Client, Error, Op, Options, Reason, Result, blocking};

use crate::server::Server;

/// How often a server is killed, per client: `STAVE_KILLS`, or a few times.
fn kills() -> u32 {
    let given = std::env::var("STAVE_KILLS").ok();
    given.map_or(6, |text| text.parse().expect("STAVE_KILLS is a number"))
}

/// What was said of the writes, by key.
#[derive(Default)]
struct Said(Mutex<BTreeMap<String, Fate>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Done,
    NotDone,
    Unknown,
}

impl Said {
    fn note<T>(&self, key: String, result: &Result<T>) -> Fate {
        let fate = match result {
            Ok(_) => Fate::Done,
            Err(error) => {
                // Every key is written once and only if it is absent: this would be a second try of
                // a write that had been done.
                assert_eq!(error.unmet(), None, "{key} was done twice");
                if error.is_unknown() { Fate::Unknown } else { Fate::NotDone }
            }
        };
        let before = self.0.lock().expect("no one panics holding it").insert(key, fate);
        assert_eq!(before, None);
        fate
    }

    /// Compares with what is there; how many there are of each fate.
    fn check(&self, client: &blocking::Client) -> BTreeMap<Fate, usize> {
        let said = self.0.lock().expect("no one panics holding it");
        let keys: Vec<_> = said.keys().collect();
        let items = client.multi_get(&keys).expect("the server is back");
        let mut counts = BTreeMap::new();
        for ((key, fate), item) in said.iter().zip(items) {
            match fate {
                Fate::Done => assert!(item.is_some(), "{key}: done, and not there"),
                Fate::NotDone => assert!(item.is_none(), "{key}: not done, and there"),
                Fate::Unknown => {}
            }
            *counts.entry(*fate).or_default() += 1;
        }
        counts
    }
}

fn check_counts(counts: &BTreeMap<Fate, usize>) {
    println!("{counts:?}");
    for fate in [Fate::Done, Fate::NotDone, Fate::Unknown] {
        assert!(counts.get(&fate).is_some_and(|count| *count > 0), "no {fate:?} in {counts:?}");
    }
}

/// Of some writers, the values are so long that a kill cuts requests in two.
fn value_of(writer: usize) -> Vec<u8> {
    vec![b'v'; if writer.is_multiple_of(16) { 1 << 20 } else { 100 }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kill_tells_done_from_not_done_from_unknown_async() {
    let mut server = Server::start();
    let options = Options::new(&server.address).connections_max(3).exactly_once(false);
    let client = options.connect().await.expect("it serves");
    let said = Arc::new(Said::default());
    for round in 0..kills() {
        let (stop, writers) = write_for_a_while(&client, &said, round).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("no panic");
        }
        server.restart();
        client.ping().await.expect("it connects again by itself");
    }
    let client = blocking::Client::connect(&server.address).expect("it serves");
    check_counts(&said.check(&client));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_done_once_whenever_the_server_is_killed() {
    let mut server = Server::start();
    let options = Options::new(&server.address).connections_max(3);
    let client = options.deadline(Duration::from_secs(30)).connect().await.expect("it serves");
    let said = Arc::new(Said::default());
    for round in 0..kills() {
        let (stop, writers) = write_for_a_while(&client, &said, round).await;
        server.kill();
        server.restart();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("nothing is done twice");
        }
    }
    let client = blocking::Client::connect(&server.address).expect("it serves");
    let counts = said.check(&client);
    println!("{counts:?}");
    assert_eq!(counts.get(&Fate::Unknown), None, "{counts:?}");
}

/// Writers, and what stops them.
type Writers = (Arc<AtomicBool>, Vec<tokio::task::JoinHandle<()>>);

async fn write_for_a_while(client: &Client, said: &Arc<Said>, round: u32) -> Writers {
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..48).map(|writer| {
        let (client, said, stop) = (client.clone(), said.clone(), stop.clone());
        tokio::spawn(write_async(client, said, stop, round, writer))
    });
    let writers = writers.collect();
    tokio::time::sleep(Duration::from_millis(u64::from(20 + 7 * (round % 12)))).await;
    (stop, writers)
}

async fn write_async(
    client: Client,
    said: Arc<Said>,
    stop: Arc<AtomicBool>,
    round: u32,
    writer: usize,
) {
    let value = value_of(writer);
    for i in 0.. {
        let key = format!("{round}:{writer}:{i}");
        let result = client.write(&Op::set(&key, &value).if_absent()).await;
        let fate = said.note(key, &result);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if fate != Fate::Done {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn every_kill_tells_done_from_not_done_from_unknown_blocking() {
    let mut server = Server::start();
    let options = Options::new(&server.address).connections_max(8).exactly_once(false);
    let client = options.connect_blocking().expect("it serves");
    let said = Said::default();
    for round in 0..kills() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (client, said, stop) = (client.clone(), &said, &stop);
                scope.spawn(move || write_blocking(&client, said, stop, round, writer));
            }
            std::thread::sleep(Duration::from_millis(u64::from(20 + 7 * (round % 12))));
            server.kill();
            std::thread::sleep(Duration::from_millis(30));
            stop.store(true, Ordering::Relaxed);
        });
        server.restart();
        client.ping().expect("it connects again by itself");
    }
    check_counts(&said.check(&client));
}

/// Half of the writers send single requests, half of them pipelines.
fn write_blocking(
    client: &blocking::Client,
    said: &Said,
    stop: &AtomicBool,
    round: u32,
    writer: usize,
) {
    let value = value_of(if writer == 0 { 0 } else { 1 });
    for i in 0.. {
        let key = |at: usize| format!("{round}:{writer}:{i}:{at}");
        let mut is_done = true;
        if writer.is_multiple_of(2) {
            let result = client.write(&Op::set(&key(0), &value).if_absent());
            is_done = said.note(key(0), &result) == Fate::Done;
        } else {
            let keys: Vec<_> = (0..20).map(key).collect();
            let mut pipeline = client.pipeline();
            for key in &keys {
                pipeline.write(Op::set(key, &value).if_absent());
            }
            for (key, result) in keys.iter().zip(pipeline.run()) {
                is_done &= said.note(key.clone(), &result) == Fate::Done;
            }
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if !is_done {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test]
async fn where_no_server_is_nothing_is_done() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it has one").to_string();
    drop(listener);
    let options = || Options::new(&address);

    let error = options().connect().await.expect_err("nobody listens");
    let blocking = options().connect_blocking_lazily().set("k", "v").expect_err("nobody listens");

    for error in [error, blocking] {
        let refused = |reason: &Reason| match reason {
            Reason::Connect { kind, .. } => *kind == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        assert!(matches!(&error, Error::NotDone(reason) if refused(reason)), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test]
async fn a_silent_server_keeps_nobody_past_the_deadline() {
    let server = Server::start();
    let deadline = Duration::from_millis(1_300);
    let options = || {
        let options = Options::new(&server.address).deadline(deadline).exactly_once(false);
        options.connections_max(1).in_flight_max(1)
    };
    let client = options().connect().await.expect("it serves");
    let blocking = options().connect_blocking().expect("it serves");
    server.signal("-STOP");
    let begin = Instant::now();

    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.with_deadline(deadline - Duration::from_millis(200)).set("b", "2").await
    };
    let (first, second) = tokio::join!(client.set("a", "1"), second);
    assert!(begin.elapsed() < deadline + Duration::from_millis(300), "{:?}", begin.elapsed());
    // The first had left; the second waited for its place.
    let late = |error: &Error| matches!(error.reason(), Reason::Deadline { .. });
    let first = first.expect_err("nobody answers");
    assert!(first.is_unknown() && late(&first), "{first}");
    let second = second.expect_err("it was never sent");
    assert!(!second.is_unknown() && late(&second), "{second}");

    let results: Vec<_> = std::thread::scope(|scope| {
        let calls = ["c", "d"].map(|key| {
            let blocking = blocking.clone();
            scope.spawn(move || blocking.set(key, "3").expect_err("nobody answers"))
        });
        calls.map(|call| call.join().expect("no panic")).into()
    });
    let unknown = results.iter().filter(|error| error.is_unknown()).count();
    assert_eq!(unknown, 1, "one had the only connection: {results:?}");

    // A silent connection is given up: nothing is left that waits for the server.
    server.signal("-CONT");
    client.ping().await.expect("on a new connection");
    blocking.ping().expect("on a new connection");
    assert_eq!(blocking.get("b"), Ok(None), "not done is not done");
}

/// The reply to a hello, from the vectors.
fn hello_reply() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/replies.txt");
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    let hex = text.lines().filter_map(|line| line.split_once(".hex = ").map(|(_, hex)| hex));
    let digits: Vec<_> = hex.take(2).flat_map(str::chars).filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// A server that answers the hello, reads `len` bytes more, and closes; how often it was called.
fn fake(len: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it has one").to_string();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut hello = [0; 41];
                let served = stream.read_exact(&mut hello);
                let served = served.and_then(|()| stream.write_all(&hello_reply()));
                let _ = served.and_then(|()| stream.read_exact(&mut vec![0; len]));
            });
        }
    });
    (address, calls)
}

#[tokio::test]
async fn a_request_cut_off_in_the_middle_is_not_done() {
    // Far more than the systems' buffers hold, so that some of it can not have left.
    let value = vec![0; 64 << 20];
    let (address, _) = fake(1 << 20);
    let options = || Options::new(&address).retries_max(0).exactly_once(false);

    let client = options().connect().await.expect("it says hello");
    let blocking = options().connect_blocking().expect("it says hello");
    let errors = [client.set("k", &value).await, blocking.set("k", &value)];

    for error in errors {
        let error = error.expect_err("it was cut off");
        assert!(matches!(error, Error::NotDone(Reason::ConnectionLost(_))), "{error}");
    }
}

#[tokio::test]
async fn a_request_that_left_whole_is_unknown_and_a_read_is_never() {
    // The frame of this set has 66 bytes.
    let (address, calls) = fake(66);
    let options = Options::new(&address).connections_max(1).exactly_once(false);
    let client = options.connect().await.expect("hello");
    let error = client.set("k", "v").await.expect_err("no answer comes");
    assert!(matches!(error, Error::Unknown(Reason::ConnectionLost(_))), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 1, "it is not tried again");

    let error = client.get("k".repeat(100)).await.expect_err("no answer comes");
    assert!(matches!(error, Error::NotDone(Reason::ConnectionLost(_))), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 5, "a read is, three times");
}

#[tokio::test]
async fn a_crowd_does_not_storm_a_server_that_is_gone() {
    let (address, calls) = fake(0);
    let options = Options::new(&address).connections_max(2).retries_max(1_000);
    let options = options.exactly_once(false);
    let options = options.backoff(Duration::from_millis(50), Duration::from_millis(200));
    let client = options.deadline(Duration::from_millis(600)).connect_lazily();

    let requests = (0..200).map(|i| {
        let client = client.clone();
        tokio::spawn(async move { client.get(format!("{i}")).await })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.expect("no panic").expect_err("it closes every connection");
    }

    let calls = calls.load(Ordering::Relaxed);
    assert!(calls < 100, "{calls} connections for 200 requests in 600 ms");
}
