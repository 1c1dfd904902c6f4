//! redis-cli: commands, cluster mode, mass insertion, and what it asks for when it starts.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::client::Reply;
use crate::server::{Server, has, told};

/// `redis-cli -p port args...` with `input`: exit code and all that it printed.
fn cli(port: u16, args: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string()]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("redis-cli runs");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_owned());
    // It may end before it has read all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("redis-cli ends");
    writing.join().expect("no panic");
    told(output)
}

fn says(port: u16, args: &[&str], expected: &str) {
    assert_eq!(cli(port, args, ""), (Some(0), format!("{expected}\n")), "{args:?}");
}

#[test]
fn commands_and_their_replies() {
    if !has("redis-cli") {
        return;
    }
    let server = Server::start(&["--cores", "2"]);
    for (args, reply) in [
        (&["set", "k", "v"][..], "OK"),
        (&["get", "k"], "v"),
        (&["incr", "n"], "1"),
        (&["incrby", "n", "41"], "42"),
        (&["set", "k", "v", "ex", "100"], "OK"),
        (&["ttl", "k"], "100"),
        (&["ttl", "n"], "-1"),
        (&["ttl", "none"], "-2"),
        (&["mset", "a", "1", "b", "2", "c", "3"], "OK"),
        (&["mget", "a", "b", "c", "none"], "1\n2\n3\n"),
        (&["del", "a", "b", "none"], "2"),
        (&["exists", "c"], "1"),
        (&["dbsize"], "3"),
        (&["ping"], "PONG"),
        (&["-3", "get", "k"], "v"),
    ] {
        says(server.port, args, reply);
    }
    let (_, said) = cli(server.port, &["incr", "k"], "");
    assert!(said.contains("ERR value is not an integer"), "{said}");
}

#[test]
fn an_interactive_session_starts_and_knows_the_commands() {
    if !has("redis-cli") {
        return;
    }
    let server = Server::start(&[]);

    let (code, said) = cli(server.port, &["--no-raw"], "set k v\nget k\nhelp get\nexit\n");

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"v\""), "{said}");
    let (_, docs) = cli(server.port, &["command", "docs", "get", "set"], "");
    assert!(docs.contains("summary") && docs.contains("since"), "{docs}");
    let (_, count) = cli(server.port, &["command", "count"], "");
    assert!(count.trim().parse::<u32>().expect("a number") > 30, "{count}");
    // What INFO counts is some 100 ms old.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (_, info) = cli(server.port, &["info"], "");
    for line in ["# Server", "redis_version:", "# Keyspace", "db0:keys=1"] {
        assert!(info.contains(line), "{line} is not in {info}");
    }
}

#[test]
fn in_cluster_mode_it_is_sent_to_the_shard_of_the_key() {
    if !has("redis-cli") {
        return;
    }
    let server = Server::start(&["--cores", "2", "--cluster-mode"]);
    let [first, second] = server.shard_ports[..] else { panic!("{:?}", server.shard_ports) };

    for n in 0..20 {
        let (key, value) = (format!("key:{n}"), n.to_string());
        assert!(cli(first, &["-c", "set", &key, &value], "").1.ends_with("OK\n"));
        assert!(cli(second, &["-c", "get", &key], "").1.ends_with(&format!("{value}\n")));
        assert!(cli(server.port, &["-c", "get", &key], "").1.ends_with(&format!("{value}\n")));
    }
    let moved = (0..20).filter(|n| {
        let said = cli(first, &["get", &format!("key:{n}")], "").1;
        said.contains("MOVED") && said.contains(&format!("127.0.0.1:{second}"))
    });
    let moved = moved.count();
    assert!((1..20).contains(&moved), "{moved} of 20 keys are the other shard's");
    let (_, info) = cli(first, &["cluster", "info"], "");
    assert!(info.contains("cluster_state:ok"), "{info}");
    assert!(info.contains("cluster_slots_assigned:16384"), "{info}");
    let cross = cli(first, &["mset", "a", "1", "b", "2"], "").1;
    assert!(cross.contains("CROSSSLOT"), "{cross}");
}

#[test]
fn mass_insertion_loses_nothing() {
    if !has("redis-cli") {
        return;
    }
    let server = Server::start(&["--cores", "2"]);
    let input: String = (0..100_000).map(|n| format!("SET pipe:{n} {n}\r\n")).collect();

    let (code, said) = cli(server.port, &["--pipe"], &input);

    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("errors: 0, replies: 100000"), "{said}");
    let mut client = server.client();
    assert_eq!(client.run(&["DBSIZE"]), Reply::Integer(100_000));
    assert_eq!(client.run(&["GET", "pipe:99999"]), Reply::bulk("99999"));
}

#[test]
fn help_tells_the_arguments_of_commands() {
    if !has("redis-cli") {
        return;
    }
    let server = Server::start(&[]);
    for (command, line) in [
        ("get", "key"),
        ("mset", "key value [key value ...]"),
        ("scan", "cursor [MATCH pattern] [COUNT count] [TYPE type]"),
        ("getex", "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT"),
        ("set", "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT"),
        ("hello", "[protover [AUTH username password] [SETNAME clientname]]"),
        ("info", "[section [section ...]]"),
    ] {
        let (code, said) = cli(server.port, &["help", command], "");

        assert_eq!(code, Some(0), "{said}");
        let said = without_colours(&said);
        let heading = format!("{} {line}", command.to_ascii_uppercase());
        assert!(said.contains(&heading), "{heading:?} is not in {said}");
        assert!(said.contains("summary:") && said.contains("since:"), "{said}");
    }
    let (_, group) = cli(server.port, &["help", "@string"], "");
    assert!(group.contains("GETRANGE") && group.contains("INCRBYFLOAT"), "{group}");
}

/// Text without what a terminal is told.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text));
    std::iter::once(first).chain(rest).collect()
}
