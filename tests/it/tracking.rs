//! CLIENT TRACKING: one script for redis-server and for us, and all that each connection hears.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::cluster::{self, CHANGE_MAX, Patient};
use crate::redis_server::RedisServer;
use crate::server::Server;

/// Connections' names and their commands. `{x}` is the id of connection `x`; `~` waits for expiry.
/// After each, what all connections have heard is taken down. `w` and `p` speak RESP2.
const SCRIPTS: &[&str] = &[
    // What is read is told once, whoever changes it; also what was not there.
    "a: CLIENT TRACKING ON | a: GET k | b: SET k 1 | b: SET k 2 | a: GET k | a: SET k 3
     a: MGET k l m | w: MSET k 1 m 1 | w: DEL l | a: EXISTS l | a: TTL m | w: EXPIRE m 100
     w: PERSIST m | a: STRLEN m | w: APPEND m x | a: GET m | w: GETEX m EX 100 | a: GETEX m
     w: SET {t}m 1 | a: MGET {t}m {t}n | w: RENAME {t}m {t}n | a: GET {t}n | w: COPY {t}n {t}o
     w: COPY {t}o {t}n REPLACE | a: GET {t}n | w: INCR {t}n | a: GET {t}n | w: GETDEL {t}n
     a: GET n | w: SETRANGE n 2 z | w: SETNX n 1
     a: GETBIT n 3 | w: SETBIT n 3 1 | w: SETBIT n 4 1 | a: BITCOUNT n | w: SETBIT n 3 1
     w: BITFIELD n SET u8 0 1 | a: BITPOS n 1 | w: BITFIELD n SET u8 0 1 | w: BITOP NOT n n
     a: BITFIELD_RO n GET u8 0 | w: DEL n | a: LCS {t}1 {t}2 | w: SET {t}2 1 | w: SET {t}1 1
     a: LCS {t}1 {t}1 | w: BITOP OR {t}1 {t}1 {t}2 | a: BITFIELD n GET u8 0 | w: SET n 1
     a: DUMP n | w: APPEND n 1
     a: GET e | w: SET e 1 PX 300 | a: GET e | ~ | a: TYPE e | w: SET e 1 | a: OBJECT ENCODING e
     w: SET e 2 | a: GET e | w: FLUSHALL | w: SET e 1 | a: GET e | w: FLUSHDB
     a: CLIENT TRACKINGINFO | a: CLIENT GETREDIR | a: CLIENT TRACKING OFF | w: SET e 2
     a: CLIENT TRACKINGINFO | a: CLIENT GETREDIR",
    // Transactions, on both sides.
    "a: CLIENT TRACKING ON | a: MULTI; GET {t}x; PING; GET {t}z; EXEC
     b: MULTI; SET {t}x 1; SET {t}x 2; EXEC
     w: SET {t}z 1 | a: GET x | a: MULTI; SET x 3; PING; EXEC | a: GET x | a: MULTI; GET x; DISCARD
     w: MULTI; DEL x; SET x 2; DEL x; EXEC",
    // Not of its own changes.
    "a: CLIENT TRACKING ON NOLOOP | a: GET k | a: SET k 1 | b: SET k 2 | a: GET k | b: SET k 3
     a: CLIENT TRACKINGINFO",
    // Opting in and out.
    "a: CLIENT TRACKING ON OPTIN | a: GET k | w: SET k 1 | a: CLIENT CACHING YES | a: GET k
     a: GET l | w: SET k 2 | w: SET l 2 | a: CLIENT CACHING YES | a: CLIENT TRACKINGINFO | a: PING
     a: GET k | w: SET k 3 | a: CLIENT CACHING YES; MULTI; GET {t}k; GET {t}l; EXEC
     w: SET {t}k 4 | w: SET {t}l 4 | a: CLIENT CACHING NO | a: CLIENT TRACKING ON OPTOUT
     a: CLIENT TRACKING OFF | a: CLIENT CACHING YES | a: CLIENT TRACKING ON OPTOUT | a: GET k
     w: SET k 5 | a: CLIENT CACHING NO | a: CLIENT TRACKINGINFO | a: GET k | w: SET k 6 | a: GET k
     w: SET k 7 | a: CLIENT CACHING YES | a: CLIENT CACHING MAYBE | a: CLIENT TRACKING ON OPTIN
     a: CLIENT TRACKING ON BCAST",
    // Prefixes.
    "a: CLIENT TRACKING ON BCAST PREFIX foo PREFIX bar | b: CLIENT TRACKING ON BCAST NOLOOP
     w: SET foo1 1 | w: SET other 1 | w: MSET foo2 1 bar1 1 zap 1 foo1 2 | b: SET foo3 1
     a: SET bar2 1 | a: CLIENT TRACKINGINFO | b: CLIENT TRACKINGINFO | w: DEL foo1 nothing bar1
     a: CLIENT TRACKING ON BCAST PREFIX foo | a: CLIENT TRACKING ON BCAST PREFIX fo
     a: CLIENT TRACKING ON BCAST PREFIX foobar | a: CLIENT TRACKING ON BCAST PREFIX zap PREFIX za
     a: CLIENT TRACKING ON BCAST PREFIX zap | w: SET zap 2 | w: SET foo4 1 PX 300 | ~
     a: CLIENT TRACKING ON BCAST OPTIN | a: CLIENT TRACKING ON OPTIN OPTOUT | w: FLUSHALL
     a: CLIENT TRACKING ON PREFIX x | a: CLIENT TRACKING OFF | a: CLIENT TRACKING ON PREFIX x
     a: CLIENT TRACKING ON OPTIN OPTOUT | a: CLIENT TRACKING MAYBE | a: CLIENT TRACKING ON SOON
     a: CLIENT TRACKING ON PREFIX | a: CLIENT TRACKING | w: SET foo1 1 | a: CLIENT NOTHING",
    // What was read before prefixes were chosen is told once; what was not chosen is not told.
    "a: CLIENT TRACKING ON | a: GET k | a: GET other | a: CLIENT TRACKING OFF
     a: CLIENT TRACKING ON BCAST PREFIX k | w: SET k 1 | w: SET other 1 | a: CLIENT TRACKING OFF
     a: CLIENT TRACKING ON | w: SET k 2",
    // Keys that changed together are told together, also to the connection that was named.
    "p: SUBSCRIBE __redis__:invalidate | w: CLIENT TRACKING ON BCAST REDIRECT {p}
     a: MSET {t}x 1 {t}y 2 {t}z 3 | a: MULTI; SET {t}y 1; DEL {t}x; EXEC
     b: CLIENT TRACKING ON BCAST REDIRECT {a} | w: MSET {t}x 1 {t}y 2 {t}z 3",
    // Another connection is told: of RESP3, and of RESP2 when it is subscribed.
    "a: CLIENT TRACKING ON REDIRECT {b} | a: GET k | w: SET k 1 | a: CLIENT GETREDIR | b: PING
     a: CLIENT TRACKINGINFO | w: CLIENT TRACKING ON REDIRECT {p} | w: GET k | a: SET k 2
     p: SUBSCRIBE __redis__:invalidate | w: GET k | a: SET k 3 | w: GET k | a: GET k | w: SET k 4
     w: FLUSHALL | w: CLIENT TRACKING ON REDIRECT 0 | w: CLIENT TRACKING ON REDIRECT 99999999
     w: CLIENT TRACKING ON REDIRECT x | w: CLIENT TRACKING ON REDIRECT {a} REDIRECT {b}
     a: GET k | b: QUIT | w: SET k 5 | a: CLIENT TRACKINGINFO | a: GET k | w: SET k 6
     a: CLIENT TRACKING ON | a: GET k | w: SET k 7 | a: CLIENT TRACKINGINFO",
    // RESP2 alone hears nothing; RESET ends it.
    "w: CLIENT TRACKING ON | w: GET k | a: SET k 1 | w: HELLO 3 | w: GET k | a: SET k 2
     w: RESET | w: CLIENT TRACKINGINFO | w: GET k | a: SET k 3",
];

const NAMES: [&str; 4] = ["a", "b", "w", "p"];

/// Connections by name.
struct Crowd {
    clients: BTreeMap<&'static str, Client>,
    ids: BTreeMap<&'static str, String>,
}

impl Crowd {
    fn new(connect: impl Fn() -> Client) -> Self {
        let mut crowd = Self { clients: BTreeMap::new(), ids: BTreeMap::new() };
        for name in NAMES {
            let mut client = connect();
            if matches!(name, "a" | "b") {
                client.run(&["HELLO", "3"]);
            }
            let Reply::Integer(id) = client.run(&["CLIENT", "ID"]) else { panic!("no id") };
            crowd.ids.insert(name, id.to_string());
            crowd.clients.insert(name, client);
        }
        crowd.clients.get_mut("a").expect("made").run(&["FLUSHALL"]);
        crowd
    }

    /// Runs a line; what everybody heard, ids replaced by names.
    fn play(&mut self, name: &str, command: &str) -> String {
        let mut command = command.to_owned();
        for (name, id) in &self.ids {
            command = command.replace(&format!("{{{name}}}"), id);
        }
        let mut heard = String::new();
        if command == "~" {
            sleep(Duration::from_millis(700));
        } else {
            command.split("; ").for_each(|one| heard.push_str(&self.run(name, one)));
        }
        heard.push_str(&self.listen(name));
        // The one that ran it has its reply; what it told the others is on the way at most.
        for other in NAMES {
            if other != name {
                heard.push_str(&self.listen(other));
            }
        }
        let tells_ids = command.starts_with("CLIENT") || command.starts_with("SET ");
        for (name, id) in self.ids.iter().filter(|_| tells_ids) {
            heard = heard.replace(&format!("Integer({id})"), &format!("Integer({name})"));
        }
        heard
    }

    /// What a connection hears up to the reply of a command.
    fn run(&mut self, name: &str, command: &str) -> String {
        let client = self.clients.get_mut(name).expect("a name of the script");
        client.send(&command.split_whitespace().collect::<Vec<_>>());
        let mut heard = String::new();
        loop {
            let reply = client.reply();
            heard.push_str(&format!("{name}: {reply:?}; "));
            if !matches!(reply, Reply::Push(_)) {
                return heard;
            }
        }
    }

    /// All that a connection hears up to an answer that it asks for at once.
    fn listen(&mut self, name: &str) -> String {
        let Some(client) = self.clients.get_mut(name) else { return String::new() };
        client.send(&["PING", "mark"]);
        let mut heard = String::new();
        loop {
            match client.try_reply() {
                None => {
                    self.clients.retain(|other, _| *other != name);
                    return heard + &format!("{name}: end; ");
                }
                Some(Reply::Bulk(mark)) if mark == b"mark" => return heard,
                Some(Reply::Array(pong)) if pong.last() == Some(&Reply::bulk("mark")) => {
                    return heard;
                }
                Some(reply) => heard.push_str(&format!("{name}: {reply:?}; ")),
            }
        }
    }
}

#[test]
fn redis_and_we_tell_everybody_the_same() {
    let Some(redis) = RedisServer::start() else { return };
    let server = Server::start(&[]);
    for script in SCRIPTS {
        let (mut theirs, mut ours) =
            (Crowd::new(|| redis.client()), Crowd::new(|| server.client()));
        for line in script.split(['|', '\n']).map(str::trim).filter(|line| !line.is_empty()) {
            let (name, command) = line.split_once(": ").unwrap_or(("w", line));
            let (expected, got) = (theirs.play(name, command), ours.play(name, command));
            // Its reply tells the version.
            assert!(got == expected || command == "HELLO 3", "{line:?}\n{got}\n{expected}");
        }
    }
}

fn told(client: &mut Client) -> Vec<String> {
    client.send(&["PING"]);
    let replies = std::iter::from_fn(|| match client.reply() {
        Reply::Push(items) => Some(format!("{:?}", items[1])),
        _ => None,
    });
    let mut told: Vec<_> = replies.collect();
    told.sort();
    told
}

#[test]
fn caching_counts_for_all_of_a_transaction_over_several_cores() {
    let server = Server::start(&["--cores", "2"]);
    let (mut reader, mut writer) = (server.client(), server.client());
    reader.run(&["HELLO", "3"]);
    let keys: Vec<String> = (0..16).map(|n| format!("k{n:02}")).collect();
    let change = |writer: &mut Client| {
        keys.iter().for_each(|key| assert_eq!(writer.run(&["SET", key, "1"]), Reply::ok()));
    };
    // Said before it, and within it.
    for (mode, said, within, heard) in [
        ("OPTIN", Some("YES"), None, 16),
        ("OPTIN", None, Some("YES"), 16),
        ("OPTIN", None, None, 0),
        ("OPTOUT", Some("NO"), None, 0),
        ("OPTOUT", None, None, 16),
    ] {
        assert_eq!(reader.run(&["CLIENT", "TRACKING", "ON", mode]), Reply::ok());
        if let Some(word) = said {
            assert_eq!(reader.run(&["CLIENT", "CACHING", word]), Reply::ok());
        }
        reader.run(&["MULTI"]);
        if let Some(word) = within {
            reader.run(&["CLIENT", "CACHING", word]);
        }
        keys.iter().for_each(|key| drop(reader.run(&["GET", key])));
        let Reply::Array(_) = reader.run(&["EXEC"]) else { panic!("not run") };
        change(&mut writer);
        sleep(Duration::from_millis(50));
        assert_eq!(told(&mut reader).len(), heard, "{mode} {said:?} {within:?}");

        // The next command is another matter.
        assert_eq!(reader.run(&["GET", "k00"]), Reply::bulk("1"));
        change(&mut writer);
        sleep(Duration::from_millis(50));
        assert_eq!(told(&mut reader).len(), usize::from(mode == "OPTOUT"), "{mode} {said:?}");
        assert_eq!(reader.run(&["CLIENT", "TRACKING", "OFF"]), Reply::ok());
    }
}

#[test]
fn what_a_connection_read_is_forgotten_soon_after_its_end() {
    let server = Server::start(&["--cores", "2"]);
    let (mut stays, mut goes, mut asker) = (server.client(), server.client(), server.client());
    for client in [&mut stays, &mut goes] {
        client.run(&["HELLO", "3"]);
        assert_eq!(client.run(&["CLIENT", "TRACKING", "ON"]), Reply::ok());
    }
    let names: Vec<String> = (0..5_000).map(|n| format!("k{n}")).collect();
    let keys = |range: std::ops::Range<usize>| [&["MGET".to_owned()], &names[range]].concat();
    goes.write(&crate::client::encode(&keys(0..5_000)));
    goes.reply();
    stays.write(&crate::client::encode(&keys(0..10)));
    stays.reply();
    let mut tracked = || {
        let Reply::Bulk(info) = asker.run(&["INFO", "stats"]) else { panic!("no text") };
        let info = String::from_utf8(info).expect("text");
        let found = info.lines().find_map(|line| line.strip_prefix("tracking_total_keys:"));
        found.expect("it is in INFO").parse::<usize>().expect("a number")
    };
    let mut becomes = |count| {
        (0..200).any(|_| {
            sleep(Duration::from_millis(50));
            tracked() == count
        })
    };
    assert!(becomes(5_000));

    drop(goes);

    assert!(becomes(10), "the other's alone are left");
    assert_eq!(server.client().run(&["SET", "k3", "1"]), Reply::ok());
    sleep(Duration::from_millis(50));
    assert_eq!(told(&mut stays).len(), 1);
}

/// Waits until a connection was told of all these keys, or to forget everything.
fn hears(client: &mut Client, keys: &[String]) -> bool {
    let mut left: BTreeSet<_> = keys.iter().map(|key| key.clone().into_bytes()).collect();
    let began = Instant::now();
    client.send(&["PING"]);
    while !left.is_empty() && began.elapsed() < CHANGE_MAX {
        match client.reply() {
            Reply::Push(mut items) => match items.pop() {
                Some(Reply::Array(keys)) => keys.iter().for_each(|key| {
                    let Reply::Bulk(key) = key else { panic!("{key:?} is no key") };
                    left.remove(key);
                }),
                _ => return true,
            },
            _ => {
                sleep(Duration::from_millis(20));
                client.send(&["PING"]);
            }
        }
    }
    left.is_empty()
}

#[test]
fn a_node_tells_of_changes_of_what_other_nodes_lead() {
    let mut nodes = cluster::start(3, &["--cores", "2"]);
    let keys: Vec<String> = (0..32).map(|n| format!("k{n}")).collect();
    let set = |nodes: &[Server], value: &str| {
        let mut writer = Patient::of(nodes);
        keys.iter().for_each(|key| assert_eq!(writer.ask(&["SET", key, value]).0, Reply::ok()));
    };
    set(&nodes, "0");
    let options: [&[&str]; 2] = [&[], &["BCAST", "PREFIX", "k"]];
    for (number, options) in options.into_iter().enumerate() {
        let mut reader = nodes[0].client();
        reader.run(&["HELLO", "3"]);
        let command = [&["CLIENT", "TRACKING", "ON"], options].concat();
        assert_eq!(reader.run(&command), Reply::ok());
        // All leaders know of it by then, and have answered.
        sleep(Duration::from_secs(1));
        told(&mut reader);
        let values = [&["MGET".to_owned()], &keys[..]].concat();
        reader.write(&crate::client::encode(&values));
        let Reply::Array(values) = reader.reply() else { panic!("no values") };
        assert!(values.iter().all(|value| *value == Reply::bulk(number.to_string())));

        set(&nodes[1..], &(number + 1).to_string());

        assert!(hears(&mut reader, &keys), "{options:?}");
    }

    let mut reader = nodes[0].client();
    reader.run(&["HELLO", "3"]);
    assert_eq!(reader.run(&["CLIENT", "TRACKING", "ON"]), Reply::ok());
    assert_eq!(reader.run(&["GET", "k1"]), Reply::bulk("2"));
    nodes[2].kill();
    assert!(hears(&mut reader, &["nothing of this name".to_owned()]), "all is to be forgotten");
}
