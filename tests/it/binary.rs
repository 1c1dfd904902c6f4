//! The binary port of the real program: every operation, and what goes wrong.

use std::io::{ErrorKind, Write as _};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stavekv::protocol::binary::{
    Class, Code, Condition, Hello, Keys, NO_INDEX, Op, OutcomeState, Reply, Request, Retry, Scan,
    Ttl,
};

use crate::client::Reply as Resp;
use crate::server::Server;
use crate::typed::{Typed, encode, get, op, set};

/// Both shapes: every key here, and half of them one hop away.
const CORES: [&str; 2] = ["1", "2"];

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

#[test]
fn what_is_set_here_is_read_there_and_the_other_way_round() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let (mut typed, mut resp) = (Typed::greeted(&server), server.client());
        for n in 0..50 {
            let (key, value) = (format!("key:{n}"), format!("value {n}"));
            assert_eq!(typed.set(&key, &value).state, OutcomeState::Created);
            assert_eq!(resp.run(&["GET", &key]), Resp::bulk(&value));
            assert_eq!(resp.run(&["SET", &key, "new", "PX", "60000"]), Resp::ok());
            let answer = typed.run(&get(&key));
            let Reply::Get(item) = answer.reply() else { panic!("{answer:?}") };
            assert_eq!(item.value, Some(&b"new"[..]));
            let left = item.expiry_ms - now_ms();
            assert!((50_000..=60_000).contains(&left), "{left} ms are left");
            assert_eq!(typed.set(&key, "again").state, OutcomeState::Replaced);
            let deleted = typed.run(&Request::Write(op(&key, None))).outcome();
            assert_eq!(deleted.state, OutcomeState::Deleted);
            assert_eq!(resp.run(&["GET", &key]), Resp::Null);
            let nothing = typed.run(&Request::Write(op(&key, None))).outcome();
            assert_eq!((nothing.state, nothing.timestamp), (OutcomeState::Nothing, 0));
            assert_eq!(typed.get(&key), None);
        }
    }
}

#[test]
fn versions_rise_and_conditions_hold_them() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for key in ["a", "b", "c", "d"] {
            let on = |condition, value| Request::Write(Op { condition, ..op(key, Some(value)) });
            let first = client.run(&on(Condition::Absent, "1")).outcome();
            assert_eq!(client.run(&get(key)).version(), first.timestamp);
            let again = client.run(&on(Condition::Absent, "2"));
            assert_eq!(again.code(), Code::ConditionFailed);
            assert_eq!(again.failure().timestamp, first.timestamp, "the version is told");
            assert_eq!(again.failure().index, NO_INDEX, "there is one op alone");
            assert_eq!(again.failure().class, Class::NotDone);

            let second = client.run(&on(Condition::Version(first.timestamp), "2")).outcome();
            assert!(second.timestamp > first.timestamp);
            let stale = client.run(&on(Condition::Version(first.timestamp), "3"));
            assert_eq!(stale.failure().timestamp, second.timestamp);

            assert_eq!(client.run(&on(Condition::Equals(b"1"), "3")).code(), Code::ConditionFailed);
            client.run(&on(Condition::Equals(b"2"), "3")).outcome();
            client.run(&on(Condition::Present, "4")).outcome();
            let gone = Op { condition: Condition::Equals(b"4"), ..op(key, None) };
            assert_eq!(client.run(&Request::Write(gone)).outcome().state, OutcomeState::Deleted);
            let absent = client.run(&on(Condition::Present, "5"));
            assert_eq!((absent.code(), absent.failure().timestamp), (Code::ConditionFailed, 0));
            client.run(&on(Condition::Version(0), "6")).outcome();
            assert_eq!(client.get(key).as_deref(), Some(&b"6"[..]));
        }
    }
}

#[test]
fn deadlines_of_keys_are_kept_or_replaced_as_asked() {
    let server = Server::start(&[]);
    let (mut client, mut resp) = (Typed::greeted(&server), server.client());
    let on = |ttl, value| Request::Write(Op { ttl, ..op("k", Some(value)) });
    let expiry = |client: &mut Typed| match client.run(&get("k")).reply() {
        Reply::Get(item) => item.expiry_ms,
        reply => panic!("{reply:?}"),
    };

    client.run(&on(Ttl::AtMs(now_ms() + 60_000), "1")).outcome();
    let until = expiry(&mut client);
    client.run(&on(Ttl::Keep, "2")).outcome();
    assert_eq!(expiry(&mut client), until);
    assert!(matches!(resp.run(&["PTTL", "k"]), Resp::Integer(50_000..=60_000)));
    client.run(&on(Ttl::None, "3")).outcome();
    assert_eq!(expiry(&mut client), 0);
    let gone = client.run(&on(Ttl::AtMs(1), "4")).outcome();
    assert_eq!(gone.state, OutcomeState::Deleted, "its moment has passed");
    client.run(&on(Ttl::InMs(30), "5")).outcome();
    sleep(Duration::from_millis(60));
    assert_eq!(client.get("k"), None);
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for tag in ["{a}", "{b}", "{c}", "{d}"] {
            let key = |n: u32| format!("{tag}{n}");
            let (one, two, three) = (key(1), key(2), key(3));
            let made = client.batch(&[op(&one, Some("1")), op(&two, Some("2"))]);
            let Reply::Batch(outcomes) = made.reply() else { panic!("{made:?}") };
            let states: Vec<_> = outcomes.iter().map(|outcome| outcome.state).collect();
            assert_eq!(states, [OutcomeState::Created; 2]);
            assert_eq!(outcomes.timestamp, outcomes.iter().last().expect("two").timestamp);

            let guard = Op { condition: Condition::Absent, ..op(&two, Some("x")) };
            let refused = client.batch(&[op(&one, Some("x")), guard, op(&three, Some("x"))]);
            assert_eq!((refused.code(), refused.failure().index), (Code::ConditionFailed, 1));
            assert_eq!(client.get(&one).as_deref(), Some(&b"1"[..]), "nothing was done");
            assert_eq!(client.get(&three), None);

            let swapped = client.batch(&[op(&one, None), op(&three, Some("3"))]);
            assert!(!swapped.is_error(), "{swapped:?}");
            assert_eq!((client.get(&one), client.get(&three)), (None, Some(b"3".to_vec())));
        }
        let apart = client.batch(&[op("foo", Some("1")), op("bar", Some("2"))]);
        assert_eq!((apart.code(), apart.failure().index), (Code::CrossPartition, 1));
        let empty = client.batch(&[]);
        assert!(!empty.is_error(), "{empty:?}");
    }
}

#[test]
fn several_keys_come_in_their_order() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        let keys: Vec<String> = (0..100).map(|n| format!("many:{n}")).collect();
        for key in keys.iter().step_by(2) {
            client.set(key, key);
        }
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let answer = client.multi_get(&names);
        let Reply::MultiGet(items) = answer.reply() else { panic!("{answer:?}") };
        assert_eq!(items.len(), 100);
        for (n, item) in items.iter().enumerate() {
            let wanted = (n % 2 == 0).then(|| keys[n].as_bytes());
            assert_eq!(item.value, wanted, "item {n}");
        }
        let newest = items.iter().map(|item| item.timestamp).max().expect("a hundred");
        assert_eq!(items.timestamp, newest);
        let none = client.multi_get(&[]);
        assert!(matches!(none.reply(), Reply::MultiGet(items) if items.is_empty()));
    }
}

#[test]
fn a_scan_finds_every_key_of_its_pattern() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for n in 0..300 {
            client.set(&format!("user:{n}"), &n.to_string());
            client.set(&format!("other:{n}"), "x");
        }
        client.run(&Request::Write(Op { db: 3, ..op("user:elsewhere", Some("x")) })).outcome();

        let all = client.scan_all(Scan { count: 7, ..Scan::default() });
        assert_eq!(all.len(), 600);
        assert!(all.values().all(Option::is_none), "keys only");
        let users = Scan { pattern: b"user:", values: true, ..Scan::default() };
        let users = client.scan_all(users);
        assert_eq!(users.len(), 300);
        for (key, value) in &users {
            assert_eq!(value.as_deref(), key.strip_prefix(b"user:"));
        }
        let some = client.scan_all(Scan { pattern: b"user:[12]?", glob: true, ..Scan::default() });
        assert_eq!(some.len(), 20);
        assert_eq!(client.scan_all(Scan { db: 3, ..Scan::default() }).len(), 1);
        let strange = client.run(&Request::Scan(Scan { cursor: b"x", ..Scan::default() }));
        assert_eq!(strange.code(), Code::BadRequest);
    }
}

#[test]
fn replies_come_as_they_are_known() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = Typed::greeted(&server);
    client.set("there", "already");
    let mut overtaken = 0;
    for round in 0..20 {
        let keys: Vec<String> = (0..40).map(|n| format!("out:{round}:{n}")).collect();
        let mut out = Vec::new();
        for (n, key) in (0u64..).zip(&keys) {
            encode(&mut out, 1000 + 2 * n, 0, &set(key, "x"));
            encode(&mut out, 1001 + 2 * n, 0, &get("there"));
        }
        client.write(&out);
        let order: Vec<u64> = (0..80).map(|_| client.answer().header.request_id).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(1000..1080), "each once");
        overtaken += order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    }
    assert!(overtaken > 0, "a get waited for the writes before it, always");
}

#[test]
fn requests_on_one_key_are_done_in_the_order_sent() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for key in ["a", "b", "c"] {
            let mut out = Vec::new();
            for n in 0..200u64 {
                encode(&mut out, 2 * n, 0, &set(key, &n.to_string()));
                encode(&mut out, 2 * n + 1, 0, &get(key));
            }
            client.write(&out);
            let answers = client.answers(400);
            for n in 0..200 {
                let value = answers[&(2 * n + 1)].value();
                assert_eq!(value, Some(n.to_string().into_bytes()), "get {n} of {key}");
            }
        }
    }
}

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    for cores in CORES {
        let mut server = Server::start(&["--cores", cores]);
        for cycle in 0..3 {
            let mut client = Typed::greeted(&server);
            let mut out = Vec::new();
            for n in 0..3000u64 {
                encode(&mut out, n, 0, &set(&format!("k:{cycle}:{n}"), "kept"));
            }
            let mut writer = client.stream().try_clone().expect("a descriptor is left");
            let writing = spawn(move || drop(writer.write_all(&out)));
            let mut acked = Vec::new();
            for _ in 0..1000 + 500 * cycle {
                acked.push(client.answer().header.request_id);
            }
            server.kill();
            while let Some(answer) = client.try_answer() {
                acked.push(answer.header.request_id);
            }
            writing.join().expect("no panic");
            server.restart();
            let mut client = Typed::greeted(&server);
            for n in acked {
                let key = format!("k:{cycle}:{n}");
                assert_eq!(client.get(&key).as_deref(), Some(&b"kept"[..]), "{key}, {cores}");
            }
        }
    }
}

#[test]
fn ten_thousand_deep() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for round in 0..3u64 {
            let mut out = Vec::new();
            for n in 0..10_000u64 {
                let key = format!("deep:{}", n % 1000);
                match n % 2 {
                    0 => encode(&mut out, n, 0, &set(&key, &round.to_string())),
                    _ => encode(&mut out, n, 0, &get(&key)),
                }
            }
            let mut writer = client.stream().try_clone().expect("a descriptor is left");
            let writing = spawn(move || writer.write_all(&out).expect("the server reads"));
            let answers = client.answers(10_000);
            assert!(answers.values().all(|answer| !answer.is_error()));
            writing.join().expect("no panic");
        }
    }
}

#[test]
fn who_does_not_read_is_stopped_and_served_when_it_reads() {
    for (cores, len) in [("1", 60_000), ("1", 300_000), ("2", 10_000)] {
        let server = Server::start(&["--cores", cores]);
        let value = "v".repeat(len);
        let mut client = Typed::greeted(&server);
        client.set("big", &value);
        let mut requests = Vec::new();
        (0..100).for_each(|_| encode(&mut requests, 7, 0, &get("big")));
        let one = requests.len() / 100;
        client.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("not zero");
        let mut sent = 0;
        loop {
            match client.stream().write(&requests[sent % one..]) {
                Ok(len) => sent += len,
                Err(error) => {
                    let stopped = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                    assert!(stopped.contains(&error.kind()), "{error}");
                    break;
                }
            }
            assert!(sent < 64 << 20, "{sent} bytes were taken without reading a reply");
        }
        assert_eq!(Typed::greeted(&server).get("big").map(|value| value.len()), Some(len));
        for n in 0..(sent / one).min(2_000) {
            let right = client.answer().value().as_deref() == Some(value.as_bytes());
            assert!(right, "reply {n} of {} of {len} bytes, {cores} cores", sent / one);
        }
    }
}

#[test]
fn halves_of_frames_are_waited_for_and_dropped_with_their_connection() {
    let server = Server::start(&[]);
    let mut whole = Vec::new();
    encode(&mut whole, 7, 0, &set("half", "value"));
    for cut in [1, 4, 31, 32, 40, whole.len() - 1] {
        let mut client = Typed::greeted(&server);
        client.write(&whole[..cut]);
        sleep(Duration::from_millis(20));
        client.write(&whole[cut..]);
        assert_eq!(client.answer().header.request_id, 7);
        client.write(&whole[..cut]);
    }
    let mut client = Typed::greeted(&server);
    for byte in &whole {
        client.write(std::slice::from_ref(byte));
    }
    client.answer().outcome();
}

#[test]
fn broken_frames_are_answered_and_the_connection_is_closed() {
    let server = Server::start(&[]);
    let mut good = Vec::new();
    encode(&mut good, 9, 0, &set("k", "v"));
    let flipped = |at: usize| {
        let mut frame = good.clone();
        frame[at] ^= 1;
        frame
    };
    let header_of = |change: &dyn Fn(&mut stavekv::protocol::binary::Header)| {
        use stavekv::protocol::binary::Header;
        let mut frame = good.clone();
        let mut header = Header::decode(frame.first_chunk().expect("whole")).expect("ours");
        change(&mut header);
        header.encode(frame.first_chunk_mut().expect("whole"));
        frame
    };
    for (frame, code, id) in [
        (b"*1\r\n$4\r\nPING\r\n".to_vec(), Code::BadMagic, 0),
        (flipped(2), Code::BadMagic, 0),
        (flipped(9), Code::BadChecksum, 0),
        (flipped(40), Code::BadChecksum, 9),
        (header_of(&|header| header.version = 2), Code::UnsupportedVersion, 9),
        (header_of(&|header| header.body_len = 1 << 30), Code::TooLarge, 9),
    ] {
        let mut client = Typed::greeted(&server);
        let before = client.send(&get("k"));
        client.write(&frame);
        assert_eq!(client.answer().header.request_id, before, "what came before is answered");
        let answer = client.answer();
        assert_eq!((answer.code(), answer.header.request_id), (code, id));
        assert_eq!(client.try_answer(), None, "{code:?}: and closed");
    }
    assert_eq!(Typed::greeted(&server).get("k"), None);
}

#[test]
fn what_one_request_does_wrong_is_its_own() {
    let server = Server::start(&[]);
    let mut client = Typed::greeted(&server);
    let long = "k".repeat((64 << 10) + 1);
    let large = "v".repeat((1 << 20) + 1);
    assert_eq!(client.run(&get(&long)).code(), Code::TooLarge);
    let holds_large = Condition::Equals(large.as_bytes());
    let on_large = Request::Write(Op { condition: holds_large, ..op("k", None) });
    assert_eq!(client.run(&on_large).code(), Code::TooLarge, "name its version");
    let db = client.run(&Request::Get { db: 16, key: b"k" });
    assert_eq!((db.code(), db.failure().retry), (Code::BadRequest, Retry::Never));
    let many: Vec<String> = (0..2000).map(|n| format!("{{t}}{n}")).collect();
    let ops: Vec<Op<'_>> = many.iter().map(|key| op(key, Some("x"))).collect();
    assert_eq!(client.batch(&ops).code(), Code::TooLarge);
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(client.multi_get(&names).code(), Code::TooLarge);
    let hello = Request::Hello(Hello { versions: &[1], ..Hello::default() });
    assert_eq!(client.run(&hello).code(), Code::HelloRequired);
    assert!(matches!(client.run(&Request::Ping(b"there?")).reply(), Reply::Ping(b"there?")));
    let info = client.run(&Request::Info("server"));
    assert!(matches!(info.reply(), Reply::Info(text) if text.starts_with("# Server\r\n")));
    let info = client.run(&Request::Info(""));
    assert!(matches!(info.reply(), Reply::Info(text) if text.contains("# Memory\r\n")));
}

#[test]
fn large_values_come_back_whole() {
    for cores in CORES {
        let mut server = Server::start(&["--cores", cores]);
        let value: String = (0..1 << 20).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
        let mut client = Typed::greeted(&server);
        let keys = ["a", "b", "c", "d"];
        for key in keys {
            client.set(key, &value);
            assert_eq!(client.get(key).as_deref(), Some(value.as_bytes()));
        }
        let several = client.multi_get(&keys);
        let Reply::MultiGet(items) = several.reply() else { panic!("not of a multi-get") };
        assert!(items.iter().all(|item| item.value == Some(value.as_bytes())));
        let scan = Scan { values: true, ..Scan::default() };
        assert_eq!(client.scan_all(scan).len(), 4, "what does not fit is left out");
        server.kill();
        server.restart();
        let mut client = Typed::greeted(&server);
        for key in keys {
            assert_eq!(client.get(key).as_deref(), Some(value.as_bytes()));
        }
    }
}

#[test]
fn long_values_travel_alone_and_come_back_whole() {
    for cores in CORES {
        let mut server = Server::start(&["--cores", cores]);
        let value: String = (0..5 << 20).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
        let (short, last) = (&value[..(1 << 20) + 7], "last");
        let mut client = Typed::greeted(&server);
        let keys = ["a", "b", "c", "d"];
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for key in keys {
            // What comes behind a long one does not overtake it.
            for (request, answer) in [
                (set(key, &value), None),
                (get(key), Some(value.as_str())),
                (set(key, short), None),
                (get(key), Some(short)),
                (set(key, last), None),
                (set(key, &value), None),
            ] {
                encode(&mut sent, 1000 + expected.len() as u64, 0, &request);
                expected.push(answer);
            }
        }
        let mut stream = client.stream().try_clone().expect("a socket");
        let writer = spawn(move || stream.write_all(&sent));
        let answers = client.answers(expected.len());
        writer.join().expect("no panic").expect("the server reads");
        for (id, expected) in (1000..).zip(expected) {
            assert!(!answers[&id].is_error(), "{:?}", answers[&id].failure());
            if let Some(expected) = expected {
                assert!(answers[&id].value().as_deref() == Some(expected.as_bytes()));
            }
        }
        let absent = Op { condition: Condition::Absent, ..op("a", Some(&value)) };
        assert_eq!(client.run(&Request::Write(absent)).code(), Code::ConditionFailed);
        let keep = Op { condition: Condition::Present, ttl: Ttl::InMs(60_000), ..absent };
        assert_eq!(client.run(&Request::Write(keep)).outcome().state, OutcomeState::Replaced);
        server.kill();
        server.restart();
        let mut client = Typed::greeted(&server);
        for key in keys {
            assert!(client.get(key).as_deref() == Some(value.as_bytes()), "{key}");
        }
    }
}

#[test]
fn a_long_set_that_makes_no_sense_is_refused_before_it_comes() {
    let server = Server::start(&[]);
    let mut whole = Vec::new();
    encode(&mut whole, 9, 0, &set("k", &"v".repeat(2 << 20)));
    let head_of = |value_len: u32, body_len: u32| {
        use stavekv::protocol::binary::Header;
        let mut head = whole[..64].to_vec();
        head[40..44].copy_from_slice(&value_len.to_le_bytes());
        let first = head.first_chunk_mut().expect("whole");
        let header = Header { body_len, ..Header::decode(first).expect("ours") };
        header.encode(first);
        head
    };
    let before = server.rss_mib();
    let over = (512 << 20) + 1;
    for (value_len, body_len, code) in [
        (over, over + 33, Code::TooLarge),
        (u32::MAX, u32::MAX, Code::TooLarge),
        (over - 1, 2 << 20, Code::BadRequest),
    ] {
        let mut client = Typed::greeted(&server);
        client.write(&head_of(value_len, body_len));
        let answer = client.answer();
        assert_eq!((answer.code(), answer.header.request_id), (code, 9));
        assert_eq!(client.try_answer(), None, "and closed");
    }
    // Announced and not sent: address space alone.
    let mut clients: Vec<_> = (0..8).map(|_| Typed::greeted(&server)).collect();
    for client in &mut clients {
        client.write(&head_of(512 << 20, (512 << 20) + 33));
    }
    assert!(Typed::greeted(&server).get("k").is_none());
    let grown = server.rss_mib().saturating_sub(before);
    assert!(grown < 32, "{grown} MiB");

    let mut damaged = whole.clone();
    *damaged.last_mut().expect("long") ^= 1;
    let mut client = Typed::greeted(&server);
    client.write(&damaged);
    assert_eq!(client.answer().code(), Code::BadChecksum);
    assert_eq!(client.try_answer(), None, "and closed");
    let mut client = Typed::connect(server.binary_port);
    client.write(&whole[..64]);
    assert_eq!(client.answer().code(), Code::TooLarge, "before hello");
    assert_eq!(client.try_answer(), None, "and closed");
}

#[test]
fn wide_replies_that_nobody_reads_take_bounded_memory() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let value = "v".repeat(1 << 20);
        let mut client = Typed::greeted(&server);
        let keys: Vec<String> = (0..7).map(|n| format!("wide:{n}")).collect();
        for key in &keys {
            client.set(key, &value);
        }
        let before = server.rss_mib();
        let names: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let mut body = Vec::new();
        Keys::encode(0, &names, &mut body);
        let mut requests = Vec::new();
        for n in 0..2_000 {
            let request = Request::decode(0x14, &body).expect("encoded");
            encode(&mut requests, n, 0, &request);
        }

        // 14 GB of replies.
        client.stream().set_write_timeout(Some(Duration::from_secs(1))).expect("not zero");
        let _ = client.stream().write_all(&requests);
        sleep(Duration::from_millis(500));

        let grown = server.rss_mib().saturating_sub(before);
        // Nine are under way, 8 MiB each, on both shards, in vectors that grew by doubling: 288.
        assert!(grown < 320, "{grown} MiB for one connection, {cores} cores");
        for _ in 0..20 {
            assert!(!client.answer().is_error());
        }
        drop(client);
        assert!(Typed::greeted(&server).get("wide:0").is_some());
    }
}

#[test]
fn nobody_is_served_before_hello_and_password() {
    let server = Server::start(&["--requirepass", "secret"]);
    let hello = |password: &'static [u8]| {
        Request::Hello(Hello { versions: &[1], password, ..Hello::default() })
    };
    let auth = |password: &'static [u8]| Request::Auth { user: b"", password };

    let mut client = Typed::connect(server.binary_port);
    assert_eq!(client.run(&get("k")).code(), Code::HelloRequired);
    let welcome = client.run(&hello(b""));
    let Reply::Hello(welcome) = welcome.reply() else { panic!("{welcome:?}") };
    assert!(!welcome.authenticated && welcome.password_set);
    assert_eq!(client.run(&get("k")).code(), Code::AuthRequired);
    assert_eq!(client.run(&auth(b"secret")).reply(), Reply::Auth);
    assert_eq!(client.get("k"), None);

    for password in [&b"wrong"[..], b"secre", b"secret ", b"SECRET"] {
        let mut client = Typed::connect(server.binary_port);
        assert_eq!(client.run(&hello(password)).code(), Code::AuthFailed);
        assert_eq!(client.try_answer(), None, "and closed");
    }
    let mut client = Typed::connect(server.binary_port);
    client.run(&hello(b""));
    assert_eq!(client.run(&auth(b"guess")).code(), Code::AuthFailed);
    assert_eq!(client.try_answer(), None, "and closed");

    let mut client = Typed::connect(server.binary_port);
    let mut large = Vec::new();
    encode(&mut large, 1, 0, &set("k", &"v".repeat(5000)));
    client.write(&large);
    assert_eq!(client.answer().code(), Code::TooLarge, "before the password");
    assert_eq!(client.try_answer(), None);

    let mut client = Typed::connect(server.binary_port);
    assert!(matches!(client.run(&hello(b"secret")).reply(), Reply::Hello(w) if w.authenticated));
    assert_eq!(client.get("k"), None);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let server = Server::start(&[]);
    let mut silent = Typed::connect(server.binary_port);
    let mut greeted = Typed::greeted(&server);
    let begin = Instant::now();

    let answer = silent.answer();

    assert_eq!(answer.code(), Code::HelloRequired);
    assert!(begin.elapsed() > Duration::from_secs(9), "{:?}", begin.elapsed());
    assert_eq!(silent.try_answer(), None, "and closed");
    assert_eq!(greeted.get("k"), None, "who said hello may be silent");
}

#[test]
fn another_version_is_refused() {
    let server = Server::start(&[]);
    let mut client = Typed::connect(server.binary_port);
    let hello = Hello { versions: &[7, 9], ..Hello::default() };
    assert_eq!(client.run(&Request::Hello(hello)).code(), Code::UnsupportedVersion);
    assert_eq!(client.try_answer(), None, "and closed");
    let mut client = Typed::connect(server.binary_port);
    let hello = Hello { versions: &[9, 1], ..Hello::default() };
    let welcome = client.run(&Request::Hello(hello));
    assert!(matches!(welcome.reply(), Reply::Hello(welcome) if welcome.version == 1));
}

#[test]
fn a_deadline_in_time_changes_nothing() {
    for cores in CORES {
        let server = Server::start(&["--cores", cores]);
        let mut client = Typed::greeted(&server);
        for n in 0..50 {
            let key = format!("key:{n}");
            client.send_by(&set(&key, "x"), 20_000);
            client.answer().outcome();
            client.send_by(&get(&key), 20_000);
            assert_eq!(client.answer().value().as_deref(), Some(&b"x"[..]));
        }
    }
}
