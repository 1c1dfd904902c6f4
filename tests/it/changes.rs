//! What was done in a cluster, as it tells who keeps a copy of it somewhere else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, SystemTime};

use stavekv_client::blocking::Client;
use stavekv_client::{Changed, Code, Done, Options, Position};

use crate::client::Reply;
use crate::cluster::{Patient, free_port, start};
use crate::server::Server;

const PARTITIONS: u32 = stavekv::limits::PARTITIONS_PER_CORE as u32;

type Row = (u64, Vec<u8>, Option<SystemTime>);

/// What a partition was copied to.
#[derive(Default)]
struct Copy {
    rows: BTreeMap<(u8, Vec<u8>), Row>,
    at: Position,
    /// Nothing is older than what came before, once the copy is whole.
    newest: u64,
}

impl Copy {
    fn of(client: &Client, partition: u32) -> Self {
        let first = client.changes(0, partition, Position::default()).expect("it tells");
        let mut copy = Self { at: first.position, ..Self::default() };
        let (mut from, mut newest) = (Vec::new(), 0);
        loop {
            let page = client.copy(0, partition, &from).expect("it tells");
            page.rows.into_iter().for_each(|row| copy.take(row));
            (from, newest) = (page.next, newest.max(page.newest));
            copy.follow_once(client, partition);
            if from.is_empty() && copy.at.index >= newest {
                return copy;
            }
        }
    }

    /// True: there was something new.
    fn follow_once(&mut self, client: &Client, partition: u32) -> bool {
        let told = client.changes(0, partition, self.at).expect("the log reaches back");
        self.at = told.position;
        told.changes.into_iter().map(|change| self.take(change)).count() > 0
    }

    fn follow(&mut self, client: &Client, partition: u32) {
        while self.follow_once(client, partition) {}
    }

    fn take(&mut self, Changed { version, db, key, done }: Changed) {
        let held = self.rows.get(&(db, key.clone())).map_or(0, |(held, ..)| *held);
        match done {
            Done::Cleared => self.rows.clear(),
            _ if held > version => {}
            Done::Set { value, expires } => {
                self.rows.insert((db, key), (version, value, expires));
            }
            Done::Deleted => drop(self.rows.remove(&(db, key))),
        }
        self.newest = self.newest.max(version);
    }
}

fn client_of<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Client {
    let all: Vec<_> =
        servers.into_iter().map(|server| format!("127.0.0.1:{}", server.binary_port)).collect();
    let options = Options::new(all.join(",")).deadline(Duration::from_secs(30)).retries_max(1000);
    options.connect_blocking_lazily()
}

/// A cluster of one node.
fn lone(flags: &[&str]) -> Server {
    let port = free_port();
    Server::start(&[["--peer-port", &port.to_string(), "--cores", "1"].as_slice(), flags].concat())
}

fn assert_same(client: &Client, copies: &[Copy]) {
    let mut count = 0;
    for ((db, key), (version, value, expires)) in copies.iter().flat_map(|copy| &copy.rows) {
        if *db != 0 {
            continue;
        }
        count += 1;
        let item = client.get(key).expect("it tells").expect("it is there");
        let text = String::from_utf8_lossy(key);
        assert_eq!((item.version, item.expires), (*version, *expires), "{text}");
        assert!(item.value == *value, "{text}");
    }
    let there = client.scan(stavekv_client::Scan::all()).count();
    assert_eq!(count, there, "keys of the copy, and of the cluster");
}

#[test]
fn a_copy_and_what_was_done_since_are_the_data_to_the_version() {
    let mut server = lone(&[]);
    let mut redis = server.client();
    for n in 0..3000 {
        redis.run(&["SET", &format!("old:{n}"), &n.to_string()]);
    }
    let large = "x".repeat(3 << 20);
    redis.run(&["SET", "large", &large]);
    let client = client_of([&server]);
    let mut copies: Vec<_> = (0..PARTITIONS).map(|id| Copy::of(&client, id)).collect();
    assert_same(&client, &copies);

    redis.run(&["SET", "large", &large[1..]]);
    redis.run(&["SET", "small", &large[..70_000], "PX", "900000"]);
    redis.run(&["PEXPIREAT", "old:1", "4000000000123"]);
    redis.run(&["DEL", "old:2", "old:3", "none"]);
    redis.run(&["INCR", "old:4"]);
    redis.run(&["RENAME", "{old}:5", "none"]);
    let many: Vec<_> = (0..4000).map(|n| format!("{{t}}:{n}:{}", "y".repeat(200))).collect();
    let mut long = vec!["MSET"];
    many.iter().for_each(|key| long.extend([key.as_str(), "z"]));
    assert_eq!(redis.run(&long), Reply::ok());
    redis.run(&["SELECT", "3"]);
    redis.run(&["SET", "elsewhere", "1"]);
    let follow = |client: &Client, copies: &mut Vec<Copy>| {
        copies.iter_mut().zip(0..).for_each(|(copy, id)| copy.follow(client, id));
    };
    follow(&client, &mut copies);
    assert_same(&client, &copies);
    assert!(copies.iter().any(|copy| copy.rows.contains_key(&(3, b"elsewhere".to_vec()))));

    // A place in the log outlives a crash.
    server.kill();
    server.restart();
    let client = client_of([&server]);
    let mut redis = server.client();
    redis.run(&["SET", "after", "the crash"]);
    follow(&client, &mut copies);
    assert_same(&client, &copies);

    assert_eq!(redis.run(&["FLUSHALL"]), Reply::ok());
    redis.run(&["SET", "new", "1"]);
    follow(&client, &mut copies);
    assert_same(&client, &copies);
    assert_eq!(copies.iter().map(|copy| copy.rows.len()).sum::<usize>(), 1);
}

#[test]
fn a_copy_follows_a_cluster_whose_leaders_are_killed() {
    let mut nodes = start(3, &["--cores", "1"]);
    let client = client_of(&nodes);
    let mut copies: Vec<_> = (0..PARTITIONS).map(|id| Copy::of(&client, id)).collect();

    let mut round = 0;
    for dead in 0..3 {
        let stop = AtomicBool::new(false);
        nodes[dead].kill();
        let living: Vec<_> =
            nodes.iter().enumerate().filter(|(at, _)| *at != dead).map(|of| of.1).collect();
        let client = client_of(living.iter().copied());
        scope(|threads| {
            let stop = &stop;
            let writer = threads.spawn(|| {
                let mut patient = Patient::of(living);
                for n in 0..400 {
                    let (key, value) = (format!("k:{}", n % 50), format!("{dead}:{n}"));
                    match n % 7 {
                        6 => patient.ask(&["DEL", &key]),
                        _ => patient.ask(&["SET", &key, &value]),
                    };
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                let id = round % PARTITIONS;
                copies[id as usize].follow_once(&client, id);
                round += 1;
            }
            writer.join().expect("all was written");
        });
        nodes[dead].restart();
    }
    let client = client_of(&nodes);
    copies.iter_mut().zip(0..).for_each(|(copy, id)| copy.follow(&client, id));
    assert_same(&client, &copies);
}

#[test]
fn rows_that_are_in_tables_alone_are_copied_and_a_log_that_went_on_is_too_old() {
    let server = lone(&["--memory", "64MiB"]);
    let client = client_of([&server]);
    let first = client.changes(0, 0, Position::default()).expect("it tells");
    let value = "v".repeat(1000);
    let mut redis = server.client();
    for n in 0..120 {
        let keys: Vec<_> = (0..1000).map(|key| format!("k:{}", n * 1000 + key)).collect();
        let mut all = vec!["MSET"];
        keys.iter().for_each(|key| all.extend([key.as_str(), &value]));
        while redis.run(&all) != Reply::ok() {}
    }

    let copies: Vec<_> = (0..PARTITIONS).map(|id| Copy::of(&client, id)).collect();

    assert_eq!(copies.iter().map(|copy| copy.rows.len()).sum::<usize>(), 120_000);
    let error = client.changes(0, 0, first.position).expect_err("it has gone on");
    assert_eq!(error.code(), Some(Code::TooOld), "{error}");
    let ahead = Position { index: 1 << 40, ..first.position };
    let error = client.changes(0, 0, ahead).expect_err("it is not there yet");
    assert_eq!(error.code(), Some(Code::TooOld), "{error}");
    let error = client.changes(7, 0, first.position).expect_err("another cluster");
    assert!(error.to_string().contains("this is cluster"), "{error}");
    let error = client.copy(0, PARTITIONS, b"").expect_err("none of that number");
    assert_eq!(error.code(), Some(Code::BadRequest), "{error}");

    let alone = Server::start(&[]);
    let error = client_of([&alone]).changes(0, 0, Position::default()).expect_err("no log");
    assert!(error.to_string().contains("--peer-port"), "{error}");
}
