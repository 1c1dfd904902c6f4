//! A cluster that follows another: what it has, what it refuses, who dies meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant, SystemTime};

use stavekv_client::blocking::Client;
use stavekv_client::{Options, Scan};

use crate::client::Reply;
use crate::cluster::{CHANGE_MAX, Patient};
use crate::members::{ask, node, settle};
use crate::server::Server;

const ONE: [&str; 4] = ["--cores", "1", "--memory", "64MiB"];

fn client_of<'a>(servers: impl IntoIterator<Item = &'a Server>, db: u8) -> Client {
    let all: Vec<_> =
        servers.into_iter().map(|server| format!("127.0.0.1:{}", server.binary_port)).collect();
    let options = Options::new(all.join(",")).deadline(Duration::from_secs(30)).db(db);
    options.retries_max(1000).connect_blocking_lazily()
}

fn follow(standby: &Server, ports: &[u16], flags: &str) -> (Option<i32>, String) {
    let at: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    ask(standby, format!("follow {} {flags}", at.join(",")).trim())
}

/// A key: its name, its value, its version, its deadline.
type Row = (Vec<u8>, Option<Vec<u8>>, u64, Option<SystemTime>);

/// All that a database has, to the version and the deadline.
fn all(client: &Client) -> Vec<Row> {
    let entries = client.scan(Scan::all().values());
    let mut all: Vec<_> = entries
        .map(|entry| entry.expect("it tells"))
        .map(|entry| (entry.key, entry.value, entry.version, entry.expires))
        .collect();
    all.sort_unstable();
    all
}

/// Waits until the standby has what its primary has, which nobody writes to.
fn assert_same<'a>(
    primary: impl IntoIterator<Item = &'a Server>,
    standby: impl IntoIterator<Item = &'a Server>,
    db: u8,
) {
    let (primary, standby) = (client_of(primary, db), client_of(standby, db));
    let begun = Instant::now();
    loop {
        // Keys may expire meanwhile.
        let (expected, found) = (all(&primary), all(&standby));
        if found == expected {
            return;
        }
        let text = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
        let other = expected.iter().zip(&found).find(|(one, two)| one != two);
        assert!(
            begun.elapsed() < CHANGE_MAX,
            "{} keys and {}: first other {:?}",
            expected.len(),
            found.len(),
            other.map(|(one, two)| (text(&one.0), one.2, text(&two.0), two.2))
        );
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_standby_has_what_its_primary_has_refuses_writes_and_becomes_a_primary() {
    let (primary, port) = node(None, &ONE);
    let mut redis = primary.client();
    let large = "x".repeat(2 << 20);
    for n in 0..2000 {
        redis.run(&["SET", &format!("old:{n}"), &n.to_string()]);
    }
    redis.run(&["SET", "large", &large]);
    redis.run(&["SET", "later", "gone", "PXAT", "4000000000123"]);
    redis.run(&["SELECT", "3"]);
    redis.run(&["SET", "elsewhere", "1"]);
    let (mut standby, own_port) = node(None, &ONE);
    standby.client().run(&["SET", "mine", "1"]);

    let (code, text) = follow(&standby, &[port], "");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--replace-data"), "{text}");
    let (code, text) = follow(&standby, &[own_port], "--replace-data");
    assert!(code == Some(2) && text.contains("does not follow itself"), "{text}");
    let (code, text) = follow(&standby, &[port], "--replace-data");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("6 of 6 partitions follow it"), "{text}");
    [0, 3].iter().for_each(|db| assert_same([&primary], [&standby], *db));

    let mut reader = standby.client();
    let refused = reader.run(&["SET", "mine", "2"]);
    assert!(refused.error().starts_with("READONLY this cluster is a standby of 127.0.0.1"));
    assert!(refused.error().contains("stave cluster promote"), "{refused:?}");
    let refused = client_of([&standby], 0).set("mine", "2").expect_err("it takes none");
    assert!(refused.to_string().contains("standby"), "{refused}");
    assert!(reader.run(&["FLUSHALL"]).error().starts_with("READONLY"));
    assert_eq!(reader.run(&["GET", "old:7"]), Reply::bulk("7"));
    let Reply::Bulk(info) = reader.run(&["INFO", "replication"]) else { panic!("it is text") };
    let info = String::from_utf8_lossy(&info).into_owned();
    for line in ["role:slave", "master_link_status:up", "stave_standby_copying:0"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    let (_, text) = follow(&primary, &[own_port], "--replace-data");
    assert!(text.contains("is a standby itself"), "{text}");

    redis.run(&["SELECT", "0"]);
    redis.run(&["DEL", "old:1", "old:2", "large"]);
    redis.run(&["SET", "old:3", &large, "PX", "900000"]);
    redis.run(&["SET", "brief", "1", "PX", "300"]);
    let many: Vec<_> = (0..3000).map(|n| format!("{{t}}:{n}:{}", "y".repeat(300))).collect();
    let mut long = vec!["MSET"];
    many.iter().for_each(|key| long.extend([key.as_str(), "z"]));
    assert_eq!(redis.run(&long), Reply::ok());
    assert_same([&primary], [&standby], 0);

    // It goes on where it was, whatever it was killed in.
    let copied = |standby: &Server| standby.log().matches("copied anew").count();
    let before = copied(&standby);
    for round in 0..3 {
        standby.kill();
        redis.run(&["SET", "old:5", &format!("round {round}")]);
        redis.run(&["DEL", &format!("old:1{round}")]);
        standby.restart();
        assert_same([&primary], [&standby], 0);
        assert_eq!(copied(&standby), before, "{}", standby.log());
    }
    redis.run(&["FLUSHALL"]);
    redis.run(&["SET", "after", "all"]);
    [0, 3].iter().for_each(|db| assert_same([&primary], [&standby], *db));

    let (code, text) = ask(&standby, "promote");
    assert_eq!(code, Some(0), "{text}");
    let mut writer = standby.client();
    assert_eq!(writer.run(&["SET", "mine", "3"]), Reply::ok());
    assert_eq!(writer.run(&["GET", "after"]), Reply::bulk("all"));
    let (code, text) = ask(&standby, "promote");
    assert!(code == Some(2) && text.contains("takes writes already"), "{text}");

    // And the other way round.
    let (code, text) = follow(&primary, &[own_port], "--replace-data");
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(writer.run(&["SET", "more", "4"]), Reply::ok());
    assert_same([&standby], [&primary], 0);
    standby.kill();
    standby.restart();
    assert_eq!(standby.client().run(&["GET", "mine"]), Reply::bulk("3"));
}

#[test]
fn clusters_of_three_follow_each_other_while_nodes_of_both_are_killed() {
    let three = || {
        let (first, port) = node(None, &ONE);
        let (second, port_of_second) = node(Some(port), &ONE);
        let (third, port_of_third) = node(Some(port), &ONE);
        settle(&first);
        ([first, second, third], [port, port_of_second, port_of_third])
    };
    let (mut primary, ports) = three();
    let (mut standby, _) = three();
    let mut begun = Patient::of(&primary);
    for n in 0..500 {
        assert_eq!(begun.ask(&["SET", &format!("k:{n}"), "old"]).0, Reply::ok());
    }
    let (code, text) = follow(&standby[0], &ports, "");
    assert_eq!(code, Some(0), "{text}");

    for dead in 0..3 {
        let stop = AtomicBool::new(false);
        primary[dead].kill();
        standby[(dead + 1) % 3].kill();
        let living: Vec<_> =
            primary.iter().enumerate().filter(|(at, _)| *at != dead).map(|of| of.1).collect();
        scope(|threads| {
            let writer = threads.spawn(|| {
                let mut patient = Patient::of(living);
                for n in 0.. {
                    let (key, value) = (format!("k:{}", n % 600), format!("{dead}:{n}"));
                    match n % 7 {
                        6 => patient.ask(&["DEL", &key]),
                        _ => patient.ask(&["SET", &key, &value]),
                    };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("all was written");
        });
        primary[dead].restart();
        standby[(dead + 1) % 3].restart();
        assert_same(&primary, &standby, 0);
    }
    let (_, text) = ask(&standby[1], "status");
    assert!(text.contains("6 of 6 partitions follow it"), "{text}");

    // The primary is lost: the standby takes over with all that was acknowledged before.
    assert_same(&primary, &standby, 0);
    let kept = all(&client_of(&primary, 0));
    primary.iter_mut().for_each(Server::kill);
    let (code, text) = ask(&standby[2], "promote");
    assert_eq!(code, Some(0), "{text}");
    assert!(all(&client_of(&standby, 0)) == kept, "what was there is there");
    assert_eq!(Patient::of(&standby).ask(&["SET", "k:0", "new"]).0, Reply::ok());
}
