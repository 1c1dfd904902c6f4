//! Every operation, with both clients, against a real server of two shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::server::Server;
use stavekv_client::{Change, Code, Error, Op, Options, Reason, Scan, blocking};

/// For the async client.
macro_rules! awaited {
    ($call:expr) => {
        $call.await
    };
}

/// For the blocking one.
macro_rules! direct {
    ($call:expr) => {
        $call
    };
}

/// The same exchanges for both clients: they have the same methods.
macro_rules! every_op {
    ($client:ident, $wait:ident) => {{
        $wait!($client.ping()).expect("it is there");
        let server = $wait!($client.server()).expect("it is there");
        assert_eq!((server.protocol, server.shard_count), (1, 2));
        let info = $wait!($client.info("server")).expect("it tells");
        assert!(info.contains("redis_version:"), "{info}");

        // Many keys, so that both shards have some.
        for i in 0..100 {
            let (key, value) = (format!("key:{i}"), vec![i as u8; i]);
            let set = $wait!($client.set(&key, &value)).expect("it fits");
            assert_eq!(set.change, Change::Created);
            let item = $wait!($client.get(&key)).expect("it is there").expect("it was set");
            assert_eq!((item.value, item.version, item.expires), (value, set.version, None));
            let again = $wait!($client.set(&key, "again")).expect("it fits");
            assert!(again.version > set.version && again.change == Change::Replaced);
        }
        assert_eq!($wait!($client.get("absent")), Ok(None));
        assert_eq!($wait!($client.get(b"\x00\xff\r\n")), Ok(None));

        let deleted = $wait!($client.delete("key:0")).expect("it is there");
        assert_eq!(deleted.change, Change::Deleted);
        let deleted = $wait!($client.delete("key:0")).expect("that is fine");
        assert_eq!((deleted.change, deleted.version), (Change::Nothing, 0));

        let keys = ["key:1", "absent", "key:2", "key:3"];
        let items = $wait!($client.multi_get(&keys)).expect("it is there");
        let present: Vec<_> = items.iter().map(Option::is_some).collect();
        assert_eq!(present, [true, false, true, true]);
        assert_eq!($wait!($client.multi_get::<&str>(&[])), Ok(Vec::new()));

        // Time to live.
        let before = SystemTime::now();
        let op = Op::set("ttl", "v").ttl(Duration::from_secs(100));
        $wait!($client.write(&op)).expect("it fits");
        let expires = $wait!($client.get("ttl")).expect("read").expect("there").expires;
        let left = expires.expect("it goes").duration_since(before).expect("later");
        assert!((95..=105).contains(&left.as_secs()), "{left:?}");
        $wait!($client.write(&Op::set("ttl", "w").keep_ttl())).expect("it fits");
        assert_eq!($wait!($client.get("ttl")).expect("read").expect("there").expires, expires);
        $wait!($client.write(&Op::set("ttl", "x"))).expect("it fits");
        assert_eq!($wait!($client.get("ttl")).expect("read").expect("there").expires, None);
        $wait!($client.write(&Op::set("ttl", "x").expires_at(before))).expect("it is past");
        assert_eq!($wait!($client.get("ttl")), Ok(None));

        // Conditions.
        let first = $wait!($client.write(&Op::set("c", "1").if_absent())).expect("absent");
        let refused = $wait!($client.write(&Op::set("c", "2").if_absent())).expect_err("there");
        assert_eq!((refused.unmet(), refused.is_unknown()), (Some(first.version), false));
        let second = $wait!($client.write(&Op::set("c", "2").if_equals("1"))).expect("it is");
        let refused = $wait!($client.write(&Op::set("c", "3").if_equals("1"))).expect_err("2");
        assert_eq!(refused.unmet(), Some(second.version));
        let op = Op::set("c", "3").if_version(second.version);
        let third = $wait!($client.write(&op)).expect("it has it");
        assert_eq!($wait!($client.write(&op)).expect_err("no more").unmet(), Some(third.version));
        $wait!($client.write(&Op::delete("c").if_present())).expect("it is");
        let refused = $wait!($client.write(&Op::delete("c").if_present())).expect_err("gone");
        assert_eq!(refused.unmet(), Some(0));
        $wait!($client.write(&Op::set("c", "4").if_version(0))).expect("0: absent");

        // A batch: all or none.
        let ops = [Op::set("{b}1", "x"), Op::set("{b}2", "y").if_absent(), Op::delete("{b}3")];
        let done = $wait!($client.batch(&ops)).expect("all conditions hold");
        let changes: Vec<_> = done.outcomes.iter().map(|outcome| outcome.change).collect();
        assert_eq!(changes, [Change::Created, Change::Created, Change::Nothing]);
        assert_eq!(done.version, done.outcomes[1].version);
        let ops = [Op::set("{b}1", "z"), Op::set("{b}2", "z").if_absent()];
        let refused = $wait!($client.batch(&ops)).expect_err("the second is there");
        assert_eq!(refused.refusal().and_then(|refusal| refusal.index), Some(1));
        let item = $wait!($client.get("{b}1")).expect("read").expect("there");
        assert_eq!(item.value, b"x", "none was done");
        let ops = [Op::set("{b}1", "z"), Op::set("{other}1", "z")];
        let refused = $wait!($client.batch(&ops)).expect_err("two partitions");
        assert_eq!(refused.code(), Some(Code::CrossPartition));

        // Databases are apart.
        let other = $client.with_db(1);
        assert_eq!($wait!(other.get("key:1")), Ok(None));
        $wait!(other.set("key:1", "other")).expect("it fits");
        let item = $wait!($client.get("key:1")).expect("read").expect("there");
        assert_eq!(item.value, b"again");

        // Large values, there and back.
        let large: Vec<u8> = (0..1_u32 << 20).map(|i| (i * 7) as u8).collect();
        $wait!($client.set("large", &large)).expect("it fits");
        let item = $wait!($client.get("large")).expect("read").expect("there");
        assert!(item.value == large);

        // More than fits into one reply.
        let keys: Vec<String> = (0..12).map(|i| format!("large:{i}")).collect();
        for key in &keys {
            $wait!($client.set(key, &large)).expect("it fits");
        }
        let items = $wait!($client.multi_get(&keys)).expect("in several replies");
        assert!(items.iter().flatten().filter(|item| item.value == large).count() == 12);
        for key in &keys {
            $wait!($client.delete(key)).expect("it is there");
        }

        // Limits are told, and the connection goes on.
        let refused = $wait!($client.set(vec![b'k'; 70_000], "v")).expect_err("a long key");
        assert_eq!(refused.code(), Some(Code::TooLarge), "{refused}");
        let huge = vec![0; server.body_len_max as usize];
        let refused = $wait!($client.write(&Op::delete("huge").if_equals(&huge[..5 << 20])));
        let refused = refused.expect_err("only a set has so long a body");
        assert!(matches!(refused, Error::NotDone(Reason::TooLarge { .. })), "{refused}");
        let refused = $wait!($client.set("huge", &huge)).expect_err("over the limit");
        assert!(matches!(refused, Error::NotDone(Reason::TooLarge { .. })), "{refused}");
        $wait!($client.ping()).expect("it is still there");
    }};
}

#[tokio::test]
async fn every_op_async() {
    let server = Server::start();
    let client = Options::new(&server.address).name("ops").connect().await.expect("it serves");
    every_op!(client, awaited);

    let mut found = BTreeMap::new();
    let mut scanner = client.scan(Scan::all().values().page_len(7));
    while let Some(entry) = scanner.next().await.expect("it reads") {
        assert_eq!(entry.value_len as usize, entry.value.as_ref().map_or(0, Vec::len));
        found.insert(entry.key, entry.value);
    }
    check_scan(&found);
}

#[test]
fn every_op_blocking() {
    let server = Server::start();
    let client = blocking::Client::connect(&server.address).expect("it serves");
    every_op!(client, direct);

    let found = client.scan(Scan::all().values().page_len(7));
    let found = found.map(|entry| entry.map(|entry| (entry.key, entry.value)));
    check_scan(&found.collect::<Result<_, _>>().expect("it reads"));
    let keys = |scan: Scan| -> BTreeSet<Vec<u8>> {
        client.scan(scan).map(|entry| entry.expect("it reads").key).collect()
    };
    assert_eq!(keys(Scan::prefix("key:1")).len(), 11, "1 and 10 to 19");
    assert_eq!(keys(Scan::glob("key:?")).len(), 9, "1 to 9");
    assert_eq!(keys(Scan::glob("*[b]*")), BTreeSet::from([b"{b}1".into(), b"{b}2".into()]));
    assert_eq!(keys(Scan::prefix("nothing")), BTreeSet::new());
}

const LONG_LEN: usize = 64 << 20;

/// Bytes that differ from page to page.
fn long_value() -> Vec<u8> {
    (0..LONG_LEN as u64 / 8)
        .flat_map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect()
}

#[tokio::test]
async fn a_value_of_64_mib_comes_back_whole_async() {
    let server = Server::start();
    let options = Options::new(&server.address).deadline(Duration::from_secs(60));
    let client = options.connect().await.expect("it serves");
    let value = long_value();
    // Of whichever core: the keys are on both.
    for key in ["a", "b", "c"] {
        client.set(key, &value).await.expect("it fits");
        client.set(key, &value[..3 << 20]).await.expect("it fits");
        client.set(key, &value).await.expect("it fits");
        let item = client.get(key).await.expect("read").expect("there");
        assert!(item.value == value, "{key}");
    }
    let items = client.multi_get(&["a", "none"]).await.expect("too long for one reply");
    assert!(items[0].as_ref().is_some_and(|item| item.value == value) && items[1].is_none());
    let op = Op::set("a", &value).if_absent();
    let refused = client.write(&op).await.expect_err("it is there");
    assert_eq!(refused.code(), Some(Code::ConditionFailed));
}

#[test]
fn a_value_of_64_mib_comes_back_whole_blocking() {
    let server = Server::start();
    let options = Options::new(&server.address).deadline(Duration::from_secs(60));
    let client = options.connect_blocking().expect("it serves");
    let value = long_value();
    let outcome = client.set("long", &value).expect("it fits");
    let item = client.get("long").expect("read").expect("there");
    assert!(item.value == value && item.version == outcome.version);
    let items = client.multi_get(&["long"]).expect("too long for one reply");
    assert!(items[0].as_ref().is_some_and(|item| item.value == value));
}

fn check_scan(found: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
    let keys = found.keys().filter(|key| key.starts_with(b"key:")).count();
    assert_eq!(keys, 99);
    // It did not fit into a page, and came all the same.
    assert_eq!(found[b"large".as_slice()].as_ref().map(Vec::len), Some(1 << 20));
    assert_eq!(found[b"{b}2".as_slice()].as_deref(), Some(b"y".as_slice()));
    assert_eq!(found.len(), 99 + 4, "with c, {{b}}1, {{b}}2 and large");
}

#[test]
fn a_pipeline_keeps_the_order_of_a_key() {
    let server = Server::start();
    let client = blocking::Client::connect(&server.address).expect("it serves");
    let values: Vec<String> = (0..2_000).map(|i| i.to_string()).collect();
    let large = vec![b'x'; 300_000];
    let mut pipeline = client.pipeline();
    for value in &values {
        pipeline.set("k", value).get("k").set("other", value);
    }
    // Longer than what is sent without reading.
    pipeline.set("large", &large).get("large").delete("large");

    let answers = pipeline.run();

    assert_eq!(answers.len(), 6_003);
    for (at, value) in values.iter().enumerate() {
        let answer = answers[3 * at + 1].clone().expect("it is read");
        assert_eq!(answer.into_item().expect("it was set").value, value.as_bytes());
    }
    assert_eq!(answers[6_001].clone().map(|a| a.into_item().map(|i| i.value)), Ok(Some(large)));
}

#[tokio::test]
async fn a_password_is_asked_for_and_never_shown() {
    let server = Server::with(&["--requirepass", "open sesame"]);
    let options = || Options::new(&server.address);

    let none = options().connect().await.expect_err("none was given");
    let wrong = options().password("sesame").connect_blocking().expect_err("another");
    let right = options().password("open sesame").connect().await.expect("this one");

    assert_eq!(none.code(), Some(Code::AuthRequired), "{none}");
    assert_eq!(wrong.code(), Some(Code::AuthFailed), "{wrong}");
    right.set("k", "v").await.expect("it is in");
    assert!(!format!("{:?} {right:?}", options().password("open sesame")).contains("sesame"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tasks_share_a_few_connections() {
    let server = Server::start();
    let options = Options::new(&server.address).connections_max(2).in_flight_max(100);
    let client = options.connect().await.expect("it serves");

    let tasks = (0..1_000).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            let key = format!("key:{i}");
            client.set(&key, &key).await?;
            let item = client.get(&key).await?.expect("it was set");
            assert_eq!(item.value, key.as_bytes(), "the answer is that of the question");
            Ok::<_, Error>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic").expect("all are served");
    }

    let clients = client.info("clients").await.expect("it tells");
    let connected = clients.lines().find_map(|line| line.strip_prefix("connected_clients:"));
    assert_eq!(connected, Some("2"), "{clients}");
}
