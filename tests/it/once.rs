//! Writes that are done once, however often they are asked for: after a crash, over another
//! connection, at another node, while leaders are killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use stavekv::protocol::binary::{Code, Condition, FLAG_ONCE, Op, Opcode, Ops, Reply, Request};
use stavekv_client::blocking::Client;
use stavekv_client::{Op as Write, Options};

use crate::cluster::{CHANGE_MAX, free_port};
use crate::server::Server;
use crate::typed::{Answer, Typed};

const SESSION: [u8; 16] = *b"0123456789abcdef";

/// A connection in a session.
struct Line {
    typed: Typed,
    born: u64,
}

impl Line {
    fn of(server: &Server, born: u64) -> Self {
        let mut typed = Typed::greeted(server);
        let answer = typed.run(&Request::Session { id: SESSION, born });
        let Reply::Session(born) = answer.reply() else { panic!("{answer:?}") };
        Self { typed, born }
    }

    fn once(&mut self, sequence: u64, request: &Request<'_>) -> Answer {
        self.typed.ask(sequence, FLAG_ONCE, request)
    }
}

fn set_if_absent(key: &'static str) -> Request<'static> {
    let op = Op { key: key.as_bytes(), value: Some(b"1"), ..Op::default() };
    Request::Write(Op { condition: Condition::Absent, ..op })
}

#[test]
fn what_was_answered_is_answered_again_after_a_crash_too() {
    let mut server = Server::start(&["--cores", "2"]);
    let mut line = Line::of(&server, 0);
    let mut ops = Vec::new();
    let one = Op { key: b"{a}1", value: Some(b"x"), ..Op::default() };
    let gone = Op { key: b"{a}2", ..Op::default() };
    Ops::encode(&[one, gone], &mut ops);
    let batch = Request::decode(Opcode::Batch as u8, &ops).expect("just encoded");
    let long = vec![7; 2 << 20];
    let long = Op { key: b"long", value: Some(&long), ..Op::default() };
    let long = Request::Write(Op { condition: Condition::Absent, ..long });
    let asked = [set_if_absent("a"), set_if_absent("b"), batch, set_if_absent("a"), long];
    let first: Vec<_> = (10..).zip(&asked).map(|(id, ask)| line.once(id, ask)).collect();
    assert_eq!(first[3].code(), Code::ConditionFailed);
    assert_eq!(first.iter().filter(|answer| answer.is_error()).count(), 1);

    let again: Vec<_> = (10..).zip(&asked).map(|(id, ask)| line.once(id, ask)).collect();
    assert_eq!(again, first);
    let born = line.born;
    for _ in 0..2 {
        server.kill();
        server.restart();
        let mut line = Line::of(&server, born);
        assert_eq!(line.born, born);
        let again: Vec<_> = (10..).zip(&asked).map(|(id, ask)| line.once(id, ask)).collect();
        assert_eq!(again, first);
        // What is not to be done once is done as often as it is asked for.
        assert_eq!(line.typed.ask(10, 0, &set_if_absent("a")).code(), Code::ConditionFailed);
    }
}

#[test]
fn what_can_not_be_done_once_is_refused() {
    let server = Server::start(&[]);
    let mut line = Line::of(&server, 0);
    let get = Request::Get { db: 0, key: b"a" };
    assert_eq!(line.once(1, &get).code(), Code::BadRequest);
    assert_eq!(line.typed.ask(2, FLAG_ONCE | 8, &set_if_absent("a")).code(), Code::BadRequest);
    let future = Request::Session { id: SESSION, born: u64::MAX };
    assert_eq!(line.typed.ask(3, 0, &future).code(), Code::BadRequest);
    let op = |sequence| (sequence, Request::Write(Op { key: b"a", ..Op::default() }));
    for (sequence, request) in (2..1100).map(op) {
        assert!(!line.once(sequence, &request).is_error());
    }
    let (sequence, request) = op(2);
    let late = line.once(sequence, &request);
    assert_eq!(late.code(), Code::TooOld);
    assert_eq!(late.failure().class, stavekv::protocol::binary::Class::Unknown);
}

/// Three nodes whose binary ports stay the same.
fn nodes() -> (Vec<Server>, String) {
    let peers: Vec<_> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let ports: Vec<_> = (0..3).map(|_| free_port().to_string()).collect();
    let peers = peers.join(",");
    let node = |(id, port): (usize, &String)| {
        let id = id.to_string();
        Server::start(&["--initial-cluster", &peers, "--node-id", &id, "--binary-port", port])
    };
    let nodes = (1..).zip(&ports).map(node).collect();
    let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    (nodes, addresses.join(","))
}

/// Adds one by comparing and setting, until told to stop; how often that succeeded.
fn count(addresses: &str, key: &str, stop: &AtomicBool) -> u64 {
    let options = Options::new(addresses).deadline(CHANGE_MAX).connections_max(1);
    let client: Client = options.connect_blocking_lazily();
    let mut successes = 0;
    while !stop.load(Ordering::Relaxed) {
        let item = client.get(key).expect("a leader is there in time");
        let text = item.as_ref().map_or("0".to_owned(), |item| {
            String::from_utf8(item.value.clone()).expect("it is a number")
        });
        let next = (text.parse::<u64>().expect("it is a number") + 1).to_string();
        let op = Write::set(key, &next).if_version(item.map_or(0, |item| item.version));
        match client.write(&op) {
            Ok(_) => successes += 1,
            Err(error) if error.unmet().is_some() => {}
            Err(error) => panic!("{key}: {error}"),
        }
    }
    successes
}

#[test]
fn counters_count_each_success_once_whoever_is_killed() {
    let (mut nodes, addresses) = nodes();
    let stop = AtomicBool::new(false);
    let sums = scope(|threads| {
        let keys = [0, 0, 1, 1].map(|key| format!("count:{key}"));
        let counting = keys.map(|key| {
            let (addresses, stop) = (&addresses, &stop);
            threads.spawn(move || (key.clone(), count(addresses, &key, stop)))
        });
        for round in 0..6 {
            let node = &mut nodes[round % 3];
            sleep(Duration::from_millis(700 + 130 * round as u64));
            node.kill();
            sleep(Duration::from_millis(1_200));
            node.restart();
        }
        sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        counting.map(|thread| thread.join().expect("no outcome is unknown"))
    });
    let client = Client::connect(addresses).expect("all serve");
    for key in ["count:0", "count:1"] {
        let successes: u64 = sums.iter().filter(|(of, _)| of == key).map(|(_, sum)| sum).sum();
        let item = client.get(key).expect("it is read").expect("it was counted");
        assert_eq!(item.value, successes.to_string().as_bytes(), "{key}");
        println!("{key}: {successes}");
    }
}
