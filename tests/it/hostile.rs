//! Clients that mean harm or know no better, while a well-behaved one is served.
//!
//! The bound on the other client's wait is wide here, since tests run side by side, unoptimised, on
//! machines of all kinds: it finds a server that stands still. `tools/hostile` measures.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
use crate::server::Server;

/// The p99 of the well-behaved client at most; more if it is slow without the others already.
const P99_MAX: Duration = Duration::from_secs(1);
/// Probes before the others come.
const CALM: usize = 50;
/// So many times its worst without the others may its p99 be, on a slow machine.
const SLOWER_MAX: u32 = 8;

/// The well-behaved client: SET and GET in turn, 500 a second at most.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Probe {
    fn start(server: &Server) -> Self {
        let (stop, mut client) = (Arc::new(AtomicBool::new(false)), server.client());
        let stopped = Arc::clone(&stop);
        let (is_calm, calm) = channel();
        let thread = spawn(move || {
            let mut took = Vec::new();
            while took.len() <= CALM || !stopped.load(Ordering::Relaxed) {
                if took.len() == CALM {
                    is_calm.send(()).expect("the test waits for it");
                }
                let (begin, n) = (Instant::now(), took.len().to_string());
                assert_eq!(client.run(&["SET", "probe", &n]), Reply::ok());
                assert_eq!(client.run(&["GET", "probe"]), Reply::bulk(&n));
                took.push(begin.elapsed());
                sleep(Duration::from_millis(4));
            }
            took
        });
        calm.recv().expect("the probe is served");
        Self { stop, thread }
    }

    /// Ends it and judges.
    fn end(self, name: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.thread.join().expect("the probe was served rightly");
        let calm = took.drain(..CALM).max().expect("there are some");
        took.sort_unstable();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!("{name}: {} probes, p50 {p50:?}, p99 {p99:?}, before {calm:?}", took.len());
        assert!(p99 < P99_MAX.max(SLOWER_MAX * calm), "{name}: p99 {p99:?}, before {calm:?}");
    }
}

#[test]
fn slow_and_half_requests_hold_nobody_up() {
    let server = Server::start(&[]);
    let probe = Probe::start(&server);
    let whole = encode(&["SET", "slow", "value"]);
    let mut clients: Vec<Client> = (0..100).map(|_| server.client()).collect();

    for byte in 0..3 {
        clients.iter_mut().for_each(|client| client.write(&whole[byte..=byte]));
        sleep(Duration::from_millis(500));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.write(&whole[3..3 + n % 20]);
    }
    let abandoned = clients.split_off(50);
    drop(abandoned);
    for (n, client) in clients.iter_mut().enumerate() {
        client.write(&whole[3 + n % 20..]);
        assert_eq!(client.reply(), Reply::ok(), "client {n}");
    }

    probe.end("slow");
}

/// Asks for `key` until the server reads no more; how many requests it took whole.
fn ask_without_reading(client: &mut Client, key: &str) -> usize {
    let request = encode(&["GET", key]);
    let requests = request.repeat(100);
    client.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("not zero");
    let mut sent = 0;
    loop {
        match client.stream().write(&requests[sent % request.len()..]) {
            Ok(len) => sent += len,
            Err(error) => {
                let stopped = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(stopped, "{error}");
                return sent / request.len();
            }
        }
        assert!(sent < 64 << 20, "{sent} bytes of requests were taken without reading a reply");
    }
}

#[test]
fn who_does_not_read_is_stopped_and_served_when_it_reads() {
    for (cores, len) in [("1", 60_000), ("1", 300_000), ("2", 10_000)] {
        let server = Server::start(&["--cores", cores]);
        let probe = Probe::start(&server);
        let value = "v".repeat(len);
        assert_eq!(server.client().run(&["SET", "big", &value]), Reply::ok());
        let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();

        let counts: Vec<usize> =
            clients.iter_mut().map(|client| ask_without_reading(client, "big")).collect();
        drop(clients.split_off(1));
        for n in 0..counts[0].min(2_000) {
            let right = clients[0].reply() == Reply::bulk(&value);
            assert!(right, "reply {n} of {} of {len} bytes, {cores} cores", counts[0]);
        }

        probe.end("unread");
    }
}

#[test]
fn ten_thousand_deep_is_served_in_order() {
    for cores in ["1", "2"] {
        let server = Server::start(&["--cores", cores]);
        let probe = Probe::start(&server);
        let mut client = server.client();
        for round in 0..3 {
            let requests = (0..10_000).flat_map(|n| match n % 2 {
                0 => encode(&["INCR", "deep"]),
                _ => encode(&["SET", &format!("deep:{n}"), "x"]),
            });
            let requests: Vec<u8> = requests.collect();
            let mut writer = client.stream().try_clone().expect("a descriptor is left");
            let writing = spawn(move || writer.write_all(&requests).expect("the server reads"));
            for n in 0..5_000 {
                assert_eq!(client.reply(), Reply::Integer(round * 5_000 + n + 1));
                assert_eq!(client.reply(), Reply::ok());
            }
            writing.join().expect("no panic");
        }
        probe.end("deep");
    }
}

#[test]
fn a_hundred_thousand_keys_at_once() {
    for cores in ["1", "2"] {
        let mut server = Server::start(&["--cores", cores]);
        let probe = Probe::start(&server);
        let keys: Vec<String> = (0..100_000).map(|n| format!("many:{n}")).collect();
        let pairs = keys.iter().flat_map(|key| [key.as_str(), key.as_str()]);
        let mset: Vec<&str> = ["MSET"].into_iter().chain(pairs).collect();
        let all = |name| [name].into_iter().chain(keys.iter().map(String::as_str));
        let mut client = server.client();

        assert_eq!(client.run(&mset), Reply::ok());
        let found = client.run(&all("MGET").collect::<Vec<_>>());
        assert!(found == Reply::Array(keys.iter().map(Reply::bulk).collect()), "other values");
        probe.end("many");

        server.kill();
        server.restart();
        let mut client = server.client();
        let deleted = client.run(&all("DEL").collect::<Vec<_>>());
        assert_eq!(deleted, Reply::Integer(100_000), "acked by the MSET before kill -9");
    }
}

#[test]
fn what_is_not_the_protocol_is_refused_and_closed() {
    let server = Server::start(&[]);
    for (stream, answer) in [
        (b"*1048577\r\n".to_vec(), "invalid multibulk length"),
        (b"*2\r\n$-5\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n:1\r\n".to_vec(), "expected '$'"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n".to_vec(), "invalid bulk length"),
        (vec![b'x'; 70_000], "too big inline request"),
    ] {
        let mut client = server.client();
        client.write(&stream);
        let refused = client.reply();
        assert!(refused.error().contains(answer), "{refused:?} instead of {answer}");
        assert_eq!(client.try_reply(), None, "{answer}: and closed");
    }
    assert_eq!(server.client().run(&["PING"]), Reply::Simple("PONG".to_owned()));
}

#[test]
#[ignore = "half a gigabyte takes long on a busy machine; tools/hostile does it, too"]
fn the_largest_value() {
    let server = Server::start(&["--memory", "4GiB"]);
    let mut client = server.client();
    let value = vec![b'v'; 512 << 20];

    client.write(&encode(&[b"SET".as_slice(), b"largest", &value]));
    assert_eq!(client.reply(), Reply::ok());
    client.send(&["GET", "largest"]);
    assert!(client.reply() == Reply::Bulk(value), "other bytes");
}
