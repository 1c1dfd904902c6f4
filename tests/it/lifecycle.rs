//! The life of a server under load: SIGTERM loses nothing, and there is only one of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::server::Server;

/// Counts up a key of its own until the connection ends; what was acked last is in `acked`.
fn count_up(mut client: Client, key: String, acked: Arc<AtomicU64>) {
    loop {
        let request = format!("INCR {key}\r\n").repeat(16);
        if std::io::Write::write_all(client.stream(), request.as_bytes()).is_err() {
            return;
        }
        for _ in 0..16 {
            match client.try_reply() {
                Some(Reply::Integer(n)) => acked.store(n as u64, Ordering::Relaxed),
                Some(other) => panic!("INCR was answered {other:?}"),
                None => return,
            }
        }
    }
}

#[test]
fn sigterm_under_load_ends_with_0_within_10_s_and_loses_nothing() {
    for cores in ["1", "2"] {
        let mut server = Server::start(&["--cores", cores]);
        let load: Vec<_> = (0..8)
            .map(|n| {
                let (key, acked) = (format!("counter:{n}"), Arc::new(AtomicU64::new(0)));
                let (client, shared) = (server.client(), Arc::clone(&acked));
                let name = key.clone();
                (key, acked, spawn(move || count_up(client, name, shared)))
            })
            .collect();
        sleep(Duration::from_millis(700));

        server.terminate();
        let begin = Instant::now();

        assert_eq!(server.end(), Some(0), "after {:?}: {}", begin.elapsed(), server.log());
        server.restart();
        let mut client = server.client();
        for (key, acked, thread) in load {
            thread.join().expect("no wrong reply");
            let acked = acked.load(Ordering::Relaxed);
            let found = match client.run(&["GET", &key]) {
                Reply::Bulk(text) => String::from_utf8_lossy(&text).parse().unwrap_or(0),
                _ => 0,
            };
            assert!(acked > 0 && found >= acked, "{key}: acked {acked}, found {found}");
            assert!(found <= acked + 16, "{key}: acked {acked}, found {found}: 16 were sent");
        }
    }
}

#[test]
fn a_second_server_on_the_same_data_is_refused_by_name() {
    let server = Server::start(&[]);

    let (code, said) = server.second(&[]);

    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("in use by process {}", server.pid())), "{said}");
    assert_eq!(server.client().run(&["PING"]), Reply::Simple("PONG".to_owned()));
}

#[test]
fn a_directory_that_has_lost_a_shard_is_refused_with_the_cure() {
    let mut server = Server::start(&["--cores", "2"]);
    server.kill();
    let lost = server.dir().join("data/shard-01");
    std::fs::remove_dir_all(&lost).expect("it is ours");

    let (code, said) = server.second(&["--cores", "2"]);

    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("shard-01/wal holds no log, though it did"), "{said}");
    assert!(!lost.exists(), "nothing is made in its place");
}

#[test]
fn a_second_server_on_the_same_port_is_refused_by_name() {
    let server = Server::start(&[]);

    let (code, said) = server.second_on_port();

    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(&server.port.to_string()), "{said}");
    assert_eq!(server.client().run(&["PING"]), Reply::Simple("PONG".to_owned()));
}

/// `tools/test glommio` has the servers of these tests run on the other runtime.
#[test]
fn the_runtime_that_was_asked_for_serves() {
    let asked = std::env::var("STAVE_RUNTIME").unwrap_or_else(|_| "io_uring".to_owned());
    let server = Server::start(&[]);

    let info = match server.client().run(&["INFO", "server"]) {
        Reply::Bulk(text) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("INFO was answered {other:?}"),
    };

    assert!(info.contains(&format!("multiplexing_api:{asked}\r\n")), "{asked}: {info}");
}

#[test]
fn inspect_shows_what_a_server_left_and_never_disturbs_one_that_runs() {
    let mut server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    for n in 0..20 {
        let set = client.run(&["SET", &format!("inspected:{n}"), "value"]);
        assert_eq!(set, Reply::Simple("OK".to_owned()));
    }

    let (code, said) = server.inspect(&[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("is in use by process {}", server.pid())), "{said}");
    server.kill();
    let (code, text) = server.inspect(&[]);
    let (json_code, json) = server.inspect(&["--json"]);

    assert_eq!((code, json_code), (Some(0), Some(0)), "{text}{json}");
    for n in 0..20 {
        let shown = format!("put \"inspected:{n}\"");
        assert_eq!(text.matches(&shown).count(), 1, "{shown}: {text}");
        assert!(json.contains(&format!("\"type\":\"put\",\"key\":\"inspected:{n}\"")), "{json}");
    }
    assert_eq!(text.matches("\nsound up to lsn").count(), 2, "{text}");
    server.restart();
    assert_eq!(server.client().run(&["DBSIZE"]), Reply::Integer(20));
}

#[test]
fn shutdown_ends_every_core_and_keeps_what_was_acked() {
    let mut server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    for key in 0..100 {
        assert_eq!(client.run(&["SET", &format!("key:{key}"), "v"]), Reply::ok());
    }
    assert_eq!(client.run(&["SHUTDOWN", "ABORT"]).error(), "ERR No shutdown in progress.");

    client.send(&["SHUTDOWN", "NOSAVE"]);

    assert_eq!(client.try_reply(), None, "the end is the answer");
    assert_eq!(server.end(), Some(0), "{}", server.log());
    server.restart();
    assert_eq!(server.client().run(&["DBSIZE"]), Reply::Integer(100));
}

#[test]
fn debug_error_answers_with_the_error_that_is_asked_for() {
    // As people type it: a switch with its value apart.
    let server = Server::start(&["--enable-debug-command", "true"]);
    let mut client = server.client();

    let reply = client.run(&["DEBUG", "ERROR", "LOADING fake\r\nmessage"]);

    assert_eq!(reply.error(), "LOADING fake  message");
    assert_eq!(client.run(&["PING"]), Reply::Simple("PONG".to_owned()));
}

#[test]
fn debug_sleep_holds_its_own_connection_if_it_is_allowed() {
    let server = Server::start(&["--enable-debug-command"]);
    let (mut sleeper, mut other) = (server.client(), server.client());
    let begin = Instant::now();

    sleeper.write(b"DEBUG SLEEP 0.3\r\nPING\r\n");

    assert_eq!(other.run(&["PING"]), Reply::Simple("PONG".to_owned()));
    assert!(begin.elapsed() < Duration::from_millis(300), "a stranger waited");
    assert_eq!(sleeper.reply(), Reply::ok());
    assert!(begin.elapsed() >= Duration::from_millis(300), "it did not sleep");
    assert_eq!(sleeper.reply(), Reply::Simple("PONG".to_owned()));
    assert_eq!(sleeper.run(&["DEBUG", "SLEEP", "x"]).error(), "ERR value is not a valid float");
    sleeper.send(&["DEBUG", "SLEEP", "9"]);
    drop(sleeper);
    assert_eq!(other.run(&["PING"]), Reply::Simple("PONG".to_owned()));
}
