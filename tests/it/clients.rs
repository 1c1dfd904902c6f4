//! Connections: how many, who may, and which database.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::server::Server;
use crate::typed::Typed;

#[test]
fn one_connection_too_many_is_refused_by_name_and_room_is_found_again() {
    let server = Server::start(&["--max-clients", "10"]);
    let mut clients: Vec<Client> = (0..10).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.run(&["PING"]), Reply::Simple("PONG".to_owned()));
    }

    let mut refused = server.client();
    let first = refused.try_reply();
    assert_eq!(first, Some(Reply::Error("ERR max number of clients reached".to_owned())));
    assert_eq!(refused.try_reply(), None, "and closed");

    clients.truncate(5);
    let served = (0..100).any(|_| {
        sleep(Duration::from_millis(20));
        let mut client = server.client();
        let _ = client.stream().set_read_timeout(Some(Duration::from_secs(1)));
        std::io::Write::write_all(client.stream(), b"PING\r\n").is_ok()
            && client.try_reply() == Some(Reply::Simple("PONG".to_owned()))
    });
    assert!(served, "no room 2 s after five left");
}

#[test]
fn without_the_password_nothing_is_served_and_nothing_large_is_read() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let mut client = server.client();

    for command in [&["GET", "a"][..], &["PING"], &["SET", "a", "b"], &["INFO"], &["FLUSHALL"]] {
        let refused = client.run(command);
        assert_eq!(refused.error(), "NOAUTH Authentication required.", "{command:?}");
    }
    let wrong = client.run(&["AUTH", "wrong"]);
    assert!(wrong.error().starts_with("WRONGPASS"), "{wrong:?}");

    for (request, answer) in [
        ("*11\r\n", "unauthenticated multibulk length"),
        ("*2\r\n$3\r\nGET\r\n$20000\r\n", "unauthenticated bulk length"),
    ] {
        let mut client = server.client();
        client.write(request.as_bytes());
        let refused = client.reply();
        assert!(refused.error().contains(answer), "{refused:?}");
        assert_eq!(client.try_reply(), None, "{request:?}: and closed");
    }

    assert_eq!(client.run(&["AUTH", "hunter2"]), Reply::ok());
    assert_eq!(client.run(&["SET", "a", &"b".repeat(20_000)]), Reply::ok());
    let mut other = server.client();
    let hello = other.run(&["HELLO", "2", "AUTH", "default", "hunter2"]);
    assert!(matches!(hello, Reply::Array(_)), "{hello:?}");
    assert_eq!(other.run(&["STRLEN", "a"]), Reply::Integer(20_000));
}

#[test]
fn what_follows_a_password_in_one_packet_is_served() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let mut client = server.client();

    client.write(b"GET a\r\nAUTH hunter2\r\nSET a 1\r\nGET a\r\n");

    assert!(client.reply().error().starts_with("NOAUTH"));
    assert_eq!(client.reply(), Reply::ok());
    assert_eq!(client.reply(), Reply::ok());
    assert_eq!(client.reply(), Reply::bulk("1"));
}

#[test]
fn databases_are_apart_also_after_a_restart() {
    let mut server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    for db in ["0", "1", "15"] {
        assert_eq!(client.run(&["SELECT", db]), Reply::ok());
        assert_eq!(client.run(&["SET", "k", db]), Reply::ok());
    }
    assert!(client.run(&["SELECT", "16"]).error().contains("out of range"));

    server.kill();
    server.restart();

    let mut client = server.client();
    assert_eq!(client.run(&["GET", "k"]), Reply::bulk("0"));
    client.run(&["SELECT", "1"]);
    assert_eq!(client.run(&["FLUSHDB"]), Reply::ok());
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(0));
    client.run(&["SELECT", "15"]);
    assert_eq!(client.run(&["GET", "k"]), Reply::bulk("15"));
}

/// The password of a running node: another one, none, and what becomes of who is connected.
#[test]
fn a_password_is_set_while_clients_are_connected() {
    let server = Server::start(&["--cores", "2"]);
    let mut before = server.client();
    assert_eq!(before.run(&["CONFIG", "SET", "requirepass", "one"]), Reply::ok());

    assert_eq!(before.run(&["SET", "a", "1"]), Reply::ok(), "who is in stays in");
    let mut after = server.client();
    assert!(after.run(&["GET", "a"]).error().starts_with("NOAUTH"));
    assert!(after.run(&["AUTH", "wrong"]).error().starts_with("WRONGPASS"));
    let address = format!("127.0.0.1:{}", server.binary_port);
    let typed = stavekv_client::blocking::Client::connect(address.as_str());
    let refused = typed.and_then(|client| client.get("a"));
    assert!(refused.is_err(), "the binary port asks for it, too");
    assert_eq!(after.run(&["AUTH", "one"]), Reply::ok());

    assert_eq!(after.run(&["CONFIG", "SET", "requirepass", "two"]), Reply::ok());
    let mut stranger = server.client();
    assert!(stranger.run(&["AUTH", "one"]).error().starts_with("WRONGPASS"));
    assert_eq!(stranger.run(&["AUTH", "two"]), Reply::ok());
    assert_eq!(stranger.run(&["CONFIG", "GET", "requirepass"]), Reply::Array(Vec::new()));

    let mut outside = server.client();
    assert!(outside.run(&["PING"]).error().starts_with("NOAUTH"));
    assert_eq!(after.run(&["CONFIG", "SET", "requirepass", ""]), Reply::ok());
    for client in [&mut outside, &mut server.client()] {
        assert_eq!(client.run(&["GET", "a"]), Reply::bulk("1"), "it is needed no more");
    }
}

#[test]
fn a_node_that_the_network_reaches_keeps_a_password() {
    let server = Server::start(&["--bind", "0.0.0.0", "--requirepass", "one"]);
    let mut client = server.client();
    assert_eq!(client.run(&["AUTH", "one"]), Reply::ok());
    let refused = client.run(&["CONFIG", "SET", "requirepass", ""]);
    assert!(refused.error().contains("start it with insecure"), "{refused:?}");
    assert_eq!(client.run(&["CONFIG", "SET", "requirepass", "two"]), Reply::ok());
    assert!(server.client().run(&["GET", "a"]).error().starts_with("NOAUTH"));
}

#[test]
fn idle_connections_are_closed_after_the_timeout_and_listeners_are_not() {
    let server = Server::start(&["--cores", "2"]);
    let (mut idle, mut busy, mut listener) = (server.client(), server.client(), server.client());
    let mut clients = [&mut idle, &mut busy, &mut listener];
    for client in &mut clients {
        assert_eq!(client.run(&["PING"]), Reply::Simple("PONG".to_owned()));
    }
    assert!(matches!(listener.run(&["SUBSCRIBE", "news"]), Reply::Array(_)));
    assert_eq!(busy.run(&["CONFIG", "SET", "timeout", "2"]), Reply::ok());
    let told = busy.run(&["CONFIG", "GET", "timeout"]);
    assert_eq!(told, Reply::Array(vec![Reply::bulk("timeout"), Reply::bulk("2")]));
    for _ in 0..40 {
        sleep(Duration::from_millis(100));
        assert_eq!(busy.run(&["PING"]), Reply::Simple("PONG".to_owned()));
    }
    assert_eq!(idle.try_ask(&["PING"]), None, "it was idle for four seconds");
    assert!(matches!(listener.run(&["PING"]), Reply::Array(_)), "it listens");
}

#[test]
fn idle_connections_of_the_binary_port_are_closed_too() {
    let server = Server::start(&["--cores", "2"]);
    let (mut idle, mut busy) = (Typed::greeted(&server), Typed::greeted(&server));
    assert_eq!(idle.get("a"), None);
    assert_eq!(server.client().run(&["CONFIG", "SET", "timeout", "2"]), Reply::ok());
    for _ in 0..40 {
        sleep(Duration::from_millis(100));
        assert_eq!(busy.get("a"), None);
    }
    let begun = Instant::now();
    assert_eq!(idle.try_answer(), None);
    assert!(begun.elapsed() < Duration::from_secs(1), "it was closed, not silent");
}

#[test]
fn who_waits_for_an_answer_or_sends_half_a_command_is_not_idle() {
    let server = Server::start(&["--cores", "1", "--enable-debug-command", "true"]);
    let mut patient = server.client();
    assert_eq!(patient.run(&["CONFIG", "SET", "timeout", "2"]), Reply::ok());
    assert_eq!(patient.run(&["DEBUG", "SLEEP", "3.5"]), Reply::ok());
    // Idleness begins anew when the answer leaves.
    sleep(Duration::from_millis(500));
    assert_eq!(patient.run(&["PING"]), Reply::Simple("PONG".to_owned()));

    let mut slow = server.client();
    slow.write(b"*2\r\n$4\r\nPING\r\n$35\r\n");
    for _ in 0..35 {
        sleep(Duration::from_millis(100));
        slow.write(b"x");
    }
    slow.write(b"\r\n");
    assert_eq!(slow.reply(), Reply::bulk("x".repeat(35)));
}
