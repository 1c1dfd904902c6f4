//! Three nodes that are one store: whoever is asked, whoever dies.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::members::{ask, node, settle};
use crate::server::Server;

/// How long a change of leaders may take, on a machine that is busy with other tests.
pub const CHANGE_MAX: Duration = Duration::from_secs(20);

/// Starts `count` nodes.
pub fn start(count: usize, flags: &[&str]) -> Vec<Server> {
    let names: Vec<_> = (0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let names = names.join(",");
    let node = |id: usize| {
        let id = id.to_string();
        let own = ["--initial-cluster", &names, "--node-id", &id];
        Server::start(&[own.as_slice(), flags].concat())
    };
    (1..=count).map(node).collect()
}

/// A free port with another free one behind it, each told of once in this process. They are below
/// those that the kernel gives to whoever binds to 0 or connects: nobody gets them by chance
/// between now and the start of a node, or while it is dead.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const PAIRS: u32 = 11_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let pair = std::process::id() * 97 + COUNT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + pair % PAIRS * 2).expect("it is below 32,000");
        if [port, port + 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return port;
        }
    }
}

/// A client of any node that lives, which asks again where nothing was done.
pub struct Patient<'a> {
    nodes: Vec<&'a Server>,
    open: Option<Client>,
    turn: usize,
}

impl<'a> Patient<'a> {
    pub fn of(nodes: impl IntoIterator<Item = &'a Server>) -> Self {
        Self { nodes: nodes.into_iter().collect(), open: None, turn: 0 }
    }

    /// The reply, and how long it took; errors that say so are tried again.
    pub fn ask(&mut self, args: &[&str]) -> (Reply, Duration) {
        let begun = Instant::now();
        loop {
            let reply = self.try_ask(args);
            match &reply {
                Some(Reply::Error(text)) if is_passing(text) => {}
                Some(reply) => return (reply.clone(), begun.elapsed()),
                None => self.open = None,
            }
            assert!(begun.elapsed() < CHANGE_MAX, "{args:?}: {reply:?} after {CHANGE_MAX:?}");
            sleep(Duration::from_millis(20));
        }
    }

    fn try_ask(&mut self, args: &[&str]) -> Option<Reply> {
        self.turn += 1;
        let node = self.nodes[self.turn % self.nodes.len()];
        let client = self.open.get_or_insert_with(|| node.client());
        client.try_ask(args)
    }
}

/// SET and GET may be sent again whatever became of them.
fn is_passing(text: &str) -> bool {
    ["TRYAGAIN", "CLUSTERDOWN", "UNKNOWN"].iter().any(|prefix| text.starts_with(prefix))
}

pub fn write_some(client: &mut Patient<'_>, round: usize, kept: &mut BTreeMap<String, String>) {
    for n in 0..40 {
        let (key, value) = (format!("key:{n}"), format!("{round}:{n}"));
        assert_eq!(client.ask(&["SET", &key, &value]).0, Reply::ok());
        kept.insert(key, value);
    }
}

pub fn assert_kept(client: &mut Patient<'_>, kept: &BTreeMap<String, String>) {
    for (key, value) in kept {
        assert_eq!(client.ask(&["GET", key]).0, Reply::bulk(value), "{key}");
    }
}

#[test]
fn any_node_serves_any_key_and_the_death_of_one_loses_nothing() {
    let mut nodes = start(3, &["--cores", "2"]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    for node in &nodes {
        assert_kept(&mut Patient::of([node]), &kept);
        let keys: Vec<_> = kept.keys().map(String::as_str).collect();
        let mget = [["MGET"].as_slice(), &keys].concat();
        let Reply::Array(values) = Patient::of([node]).ask(&mget).0 else {
            panic!("MGET answers with an array")
        };
        assert!(values.iter().eq(kept.values().map(Reply::bulk).collect::<Vec<_>>().iter()));
    }

    assert_eq!(nodes[0].client().run(&["WAIT", "1", "0"]), Reply::Integer(1));
    assert_eq!(Patient::of(&nodes[1..2]).ask(&["FLUSHALL"]).0, Reply::ok());
    for key in kept.keys() {
        assert_eq!(Patient::of(&nodes).ask(&["GET", key]).0, Reply::Null, "{key} was cleared");
    }
    write_some(&mut Patient::of(&nodes), 0, &mut kept);

    for round in 1..=3 {
        let dead = round - 1;
        nodes[dead].kill();
        let living = nodes.iter().enumerate().filter(|(at, _)| *at != dead).map(|(_, node)| node);
        let mut client = Patient::of(living);
        write_some(&mut client, round, &mut kept);
        assert_kept(&mut client, &kept);
        nodes[dead].restart();
    }
    assert_kept(&mut Patient::of(&nodes), &kept);
}

#[test]
fn commands_of_many_keys_are_answered_by_any_node() {
    let nodes = start(3, &["--cores", "1"]);
    // More than one slice of work, and than one request to each of the others.
    let keys: Vec<_> = (0..2_000).map(|n| format!("key:{n}")).collect();
    let pairs: Vec<_> = keys.iter().flat_map(|key| [key.as_str(), "value"]).collect();
    let of = |name| [name].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>();
    for node in &nodes {
        let mut client = Patient::of([node]);
        let mut ask = |args: &[&str]| client.ask(args).0;
        assert_eq!(ask(&[["MSET"].as_slice(), &pairs].concat()), Reply::ok());
        let Reply::Array(values) = ask(&of("MGET")) else { panic!("MGET answers with an array") };
        assert_eq!(values, vec![Reply::bulk("value"); keys.len()]);
        let Reply::Array(names) = ask(&["KEYS", "*"]) else { panic!("KEYS answers with an array") };
        assert_eq!(names.len(), keys.len());
        for name in ["EXISTS", "TOUCH", "DEL"] {
            assert_eq!(ask(&of(name)), Reply::Integer(2_000), "{name}");
        }
        assert_eq!(ask(&["DBSIZE"]), Reply::Integer(0));
    }
}

#[test]
fn values_longer_than_a_frame_between_nodes_are_written_and_read_at_any_node() {
    let nodes = start(3, &["--cores", "1", "--memory", "1GiB"]);
    for (node, letter) in nodes.iter().zip(["a", "b", "c"]) {
        let value = letter.repeat(80 << 20);
        assert_eq!(Patient::of([node]).ask(&["SET", "long", &value]).0, Reply::ok());
        for other in &nodes {
            let got = Patient::of([other]).ask(&["GET", "long"]).0;
            assert!(got == Reply::bulk(&value), "it is not what node {letter} was told");
        }
    }
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    let mut nodes = start(3, &[]);
    let mut kept = BTreeMap::new();
    for round in 0..2 {
        write_some(&mut Patient::of(&nodes), round, &mut kept);
        nodes.iter_mut().for_each(Server::kill);
        nodes.iter_mut().for_each(Server::restart);
        assert_kept(&mut Patient::of(&nodes), &kept);
    }
}

#[test]
fn without_a_majority_writes_are_refused_in_time_and_go_on_when_it_is_back() {
    let mut nodes = start(3, &[]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    nodes[1].kill();
    nodes[2].kill();

    let begun = Instant::now();
    let mut client = nodes[0].client();
    let refused = loop {
        // What was on its way when the others died ends as unknown, with the connection.
        match client.try_ask(&["SET", "key:0", "lonely"]) {
            Some(Reply::Error(text)) if text.starts_with("CLUSTERDOWN") => break text,
            Some(Reply::Error(text)) if is_passing(&text) => {}
            Some(reply) => panic!("a minority said {reply:?}"),
            None => client = nodes[0].client(),
        }
        assert!(begun.elapsed() < CHANGE_MAX, "no refusal");
    };
    assert!(refused.contains("nothing was done: try again"), "{refused}");
    kept.remove("key:0");

    nodes[1].restart();
    let mut client = Patient::of(&nodes[..2]);
    assert_kept(&mut client, &kept);
    write_some(&mut client, 1, &mut kept);
}

#[test]
fn a_node_that_is_told_to_end_hands_over_first() {
    let mut nodes = start(3, &[]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);

    nodes[0].terminate();
    let mut client = nodes[1].client();
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let reply =
            client.try_ask(&["SET", &format!("other:{}", begun.elapsed().as_millis()), "x"]);
        match reply {
            Some(Reply::Error(text)) => assert!(text.starts_with("TRYAGAIN"), "{text}"),
            reply => assert_eq!(reply, Some(Reply::ok())),
        }
        longest = longest.max(asked.elapsed());
    }

    assert!(longest < Duration::from_secs(2), "{longest:?} without service");
    assert_eq!(nodes[0].end(), Some(0));
    assert_kept(&mut Patient::of(&nodes[1..]), &kept);
}

#[test]
fn a_node_of_another_cluster_is_refused_by_name() {
    let nodes = start(2, &[]);
    let text = nodes[0].second(&["--initial-cluster", "127.0.0.1:1,127.0.0.1:2", "--node-id", "2"]);
    assert!(text.1.contains("in use by process"), "{text:?}");
}

/// Its operator has it start on an empty directory as who it was, finds out, and does what the log
/// says.
#[test]
fn a_node_that_has_lost_all_it_had_is_not_spoken_with_and_joins_anew() {
    let mut nodes = start(3, &[]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    let begun = Instant::now();
    let topology = |node: &Server| ask(node, "topology").1;
    while topology(&nodes[2]).matches("incarnation").count() < 3 {
        assert!(begun.elapsed() < CHANGE_MAX, "they do not know each other");
        sleep(Duration::from_millis(50));
    }

    nodes[1].kill();
    std::fs::remove_dir_all(nodes[1].dir().join("data")).expect("it is ours");
    nodes[1].restart();
    let said = |node: &Server| node.log().contains("node 2 has another data directory than it had");
    while !nodes.iter().all(said) {
        assert!(begun.elapsed() < 2 * CHANGE_MAX, "nobody says so");
        sleep(Duration::from_millis(50));
    }
    assert_kept(&mut Patient::of([&nodes[0], &nodes[2]]), &kept);

    nodes[1].kill();
    let (code, text) = ask(&nodes[0], "remove 2");
    assert_eq!(code, Some(0), "{text}");
    let text = topology(&nodes[0]);
    let (_, first) = text.split_once("127.0.0.1:").expect("where it is");
    let port: String = first.chars().take_while(char::is_ascii_digit).collect();
    let (new, _) = node(port.parse().ok(), &[]);
    settle(&new);
    nodes[0].kill();
    write_some(&mut Patient::of([&new, &nodes[2]]), 1, &mut kept);
    assert_kept(&mut Patient::of([&new]), &kept);
}

/// Clients of a cluster are told where to go, by any node.
#[test]
fn in_cluster_mode_clients_are_sent_to_the_leader() {
    let nodes = start(3, &["--cluster-mode"]);
    let mut kept = BTreeMap::new();
    let begun = Instant::now();
    for n in 0..20 {
        let (key, value) = (format!("key:{n}"), n.to_string());
        let mut port = nodes[n % 3].shard_ports[0];
        loop {
            let reply = Client::connect(port).try_ask(&["SET", &key, &value]);
            match reply {
                Some(Reply::Error(text)) if text.starts_with("MOVED") => {
                    let (_, to) = text.rsplit_once(':').expect("MOVED slot host:port");
                    port = to.parse().expect("a port");
                    assert!(nodes.iter().any(|node| node.shard_ports.contains(&port)), "{text}");
                }
                Some(Reply::Error(text)) if is_passing(&text) => {}
                reply => {
                    assert_eq!(reply, Some(Reply::ok()));
                    break;
                }
            }
            assert!(begun.elapsed() < CHANGE_MAX, "{key} is sent round and round");
        }
        kept.insert(key, value);
    }
    let slots = nodes[0].client().run(&["CLUSTER", "SLOTS"]);
    let Reply::Array(ranges) = slots else { panic!("an array of ranges") };
    assert!(!ranges.is_empty());
}

/// A node that was away for longer than the others keep their logs is sent their tables.
#[test]
fn a_node_that_was_away_for_long_catches_up() {
    // A core's partitions keep 64 KiB of log each for those who are away.
    let mut nodes = start(3, &["--memory", "64MiB", "--wal-size-max", "64MiB"]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes), 0, &mut kept);
    nodes[2].kill();
    {
        let mut client = Patient::of(&nodes[..2]);
        for n in 0..600 {
            let (key, value) = (format!("long:{n}"), format!("{n}").repeat(2000));
            assert_eq!(client.ask(&["SET", &key, &value]).0, Reply::ok());
            kept.insert(key, value);
        }
    }
    nodes[2].restart();
    let begun = Instant::now();
    let has_all =
        |node: &Server| node.client().run(&["DBSIZE"]) == Reply::Integer(kept.len() as i64);
    while !has_all(&nodes[2]) {
        assert!(begun.elapsed() < CHANGE_MAX, "node 3 lacks some of {} keys", kept.len());
        sleep(Duration::from_millis(50));
    }

    nodes[0].kill();
    assert_kept(&mut Patient::of(&nodes[1..]), &kept);
}

/// What a node runs for clients of another is slow there, too, and is told of with that node's
/// address: who the client is only the other one knows.
#[test]
fn slow_commands_of_another_nodes_clients_are_noted() {
    let nodes = start(3, &["--slowlog-log-slower-than", "0", "--slowlog-max-len", "1000"]);
    let mut kept = BTreeMap::new();
    write_some(&mut Patient::of(&nodes[..1]), 0, &mut kept);
    assert_kept(&mut Patient::of(&nodes[..1]), &kept);

    let of_others = nodes[1..].iter().flat_map(|node| {
        let Reply::Array(entries) = node.client().run(&["SLOWLOG", "GET", "-1"]) else {
            panic!("SLOWLOG GET answers with an array")
        };
        entries.into_iter().filter(|entry| {
            let Reply::Array(fields) = entry else { panic!("an entry is an array: {entry:?}") };
            let is_write =
                matches!(&fields[3], Reply::Array(args) if args[0] == Reply::bulk("SET"));
            let Reply::Bulk(from) = &fields[4] else { panic!("an address: {fields:?}") };
            is_write && from.starts_with(b"127.0.0.1:") && fields[5] == Reply::bulk("")
        })
    });
    assert!(of_others.count() > 0, "40 keys, and the other nodes lead two thirds of them");
}
