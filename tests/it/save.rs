//! BGSAVE: the copy is a data directory of its own.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client::{Client, Reply};
use crate::server::Server;

const KEYS: usize = 3_000;

fn fill(client: &mut Client, from: usize, value: &str) {
    for key in from..from + KEYS {
        assert_eq!(client.run(&["SET", &format!("key:{key}"), value]), Reply::ok());
    }
}

fn has(client: &mut Client, line: &str) -> bool {
    let Reply::Bulk(text) = client.run(&["INFO", "persistence"]) else { panic!("a text") };
    String::from_utf8_lossy(&text).lines().any(|of| of == line)
}

fn wait_for_save(client: &mut Client) {
    let end = Instant::now() + Duration::from_secs(20);
    while !has(client, "rdb_saves:1") || !has(client, "rdb_bgsave_in_progress:0") {
        assert!(Instant::now() < end, "the copy does not come to its end");
        sleep(Duration::from_millis(10));
    }
}

fn saved_at(client: &mut Client) -> u64 {
    let Reply::Integer(at) = client.run(&["LASTSAVE"]) else { panic!("a time") };
    let told = format!("rdb_last_save_time:{at}");
    assert!(has(client, &told), "no {told}");
    at as u64
}

#[test]
fn a_second_server_starts_from_a_copy_and_has_what_was_acknowledged_before() {
    let unix_s = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let begun = unix_s();
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    let started = saved_at(&mut client);
    assert!((begun..=unix_s()).contains(&started), "it started at {started}");
    assert!(has(&mut client, "rdb_last_bgsave_time_sec:-1") && has(&mut client, "rdb_saves:0"));
    fill(&mut client, 0, "before");

    assert_eq!(client.run(&["BGSAVE"]), Reply::Simple("Background saving started".to_owned()));
    assert!(matches!(client.run(&["BGSAVE"]), Reply::Error(_)), "one at a time");
    wait_for_save(&mut client);
    assert!(saved_at(&mut client) >= started);
    assert!(!has(&mut client, "rdb_last_bgsave_time_sec:-1"));
    assert!(has(&mut client, "rdb_current_bgsave_time_sec:-1"));
    fill(&mut client, KEYS, "after");
    let checkpoints = server.dir().join("data/checkpoints");
    let made = fs::read_dir(&checkpoints).expect("it is there").next().expect("one").expect("one");
    let other = server.dir().join("other");
    fs::create_dir_all(&other).expect("ours");
    fs::rename(made.path(), other.join("data")).expect("ours");
    let copy = Server::start_in(other, &["--cores", "2"]);

    let mut theirs = copy.client();
    assert_eq!(theirs.run(&["DBSIZE"]), Reply::Integer(KEYS as i64));
    assert_eq!(theirs.run(&["GET", "key:17"]), Reply::Bulk(b"before".to_vec()));
    assert_eq!(theirs.run(&["SET", "key:17", "theirs"]), Reply::ok());
    assert_eq!(client.run(&["GET", "key:17"]), Reply::Bulk(b"before".to_vec()));
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(2 * KEYS as i64));
}
