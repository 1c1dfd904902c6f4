//! What answers wait for, as clients ask for it: a majority, the leader's disk, or nothing.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use stavekv_client::{Ack, Op, blocking};

use crate::client::{Client, Reply};
use crate::cluster::{CHANGE_MAX, Patient, start};
use crate::server::{Server, binary, told};

/// Keys that are written at once: each node leads some of them.
const KEYS: usize = 24;
/// How often the followers are stopped until the leader was quick enough to answer while it leads.
const ROUNDS: usize = 20;
/// How long answers are waited for that are not to come: a lease ends meanwhile.
const LEASE: Duration = Duration::from_millis(700);

fn signal(nodes: &[Server], name: &str) {
    for node in nodes {
        let sent = Command::new("kill").args([name, &node.pid().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }
}

fn name(level: &str, round: usize, n: usize) -> String {
    format!("{level}:{round}:{n}")
}

/// Connections to a node for as many keys, whose answers wait for this.
fn lines(node: &Server, level: &str) -> Vec<Client> {
    let connect = |_| {
        let mut client = node.client();
        assert_eq!(client.run(&["CLIENT", "ACK", level]), Reply::ok());
        client
    };
    (0..KEYS).map(connect).collect()
}

/// The keys whose writes are answered OK while the other two nodes are stopped.
fn answered(lines: &mut [Client], level: &str) -> Vec<usize> {
    let answers = lines.iter_mut().enumerate();
    let answers = answers
        .filter_map(|(n, line)| Some((n, line.has_more().then(|| line.try_reply()).flatten()?)));
    let is_ok = |(n, reply): (usize, Reply)| {
        let is_passing = matches!(&reply, Reply::Error(text) if !text.starts_with("ERR"));
        assert!(reply == Reply::ok() || is_passing, "{level}:{n}: {reply:?}");
        (reply == Reply::ok()).then_some(n)
    };
    answers.filter_map(is_ok).collect()
}

/// Stops all nodes but the first and writes; what is answered on the leader's disk. What waits for
/// the majority is not.
fn round(nodes: &[Server], round: usize) -> Vec<usize> {
    let [mut majority, mut disk] = ["quorum", "leader"].map(|level| lines(&nodes[0], level));
    let mut patient = Patient::of(&nodes[..1]);
    for n in 0..KEYS {
        patient.ask(&["SET", &name("leader", round, n), "before"]);
    }
    signal(&nodes[1..], "-STOP");
    sleep(Duration::from_millis(5));
    let value = round.to_string();
    for n in 0..KEYS {
        disk[n].send(&["SET", &name("leader", round, n), &value]);
        majority[n].send(&["SET", &name("quorum", round, n), &value]);
    }
    sleep(LEASE);
    let early = answered(&mut disk, "leader");
    assert_eq!(answered(&mut majority, "quorum"), [0; 0], "no majority has it");
    early
}

#[test]
fn the_leaders_disk_answers_while_no_majority_does_and_has_it_after_kill_9_of_all() {
    let mut nodes = start(3, &[]);
    let mut rounds = (0..ROUNDS).map(|n| {
        let early = round(&nodes, n);
        if early.is_empty() {
            signal(&nodes[1..], "-CONT");
            sleep(LEASE);
        }
        (n, early)
    });
    let (n, early) = rounds.find(|(_, early)| !early.is_empty()).expect("it leads something");

    nodes.iter_mut().for_each(Server::kill);
    nodes[..2].iter_mut().for_each(Server::restart);
    let mut patient = Patient::of(&nodes[..2]);
    for key in early {
        // Of the two that are back only the one that has it can lead.
        let reply = patient.ask(&["GET", &name("leader", n, key)]).0;
        assert_eq!(reply, Reply::bulk(n.to_string()), "leader:{n}:{key}");
    }
}

#[test]
fn every_face_says_what_its_answers_wait_for() {
    let nodes = start(3, &["--ack", "leader"]);
    let mut patient = Patient::of(&nodes);
    assert_eq!(patient.ask(&["SET", "k", "v"]).0, Reply::ok());
    let mut client = nodes[0].client();
    assert_eq!(client.run(&["CLIENT", "ACK"]), Reply::bulk("leader"));
    assert_eq!(client.run(&["CLIENT", "ACK", "quorum"]), Reply::ok());
    assert_eq!(client.run(&["CLIENT", "ACK"]), Reply::bulk("quorum"));

    let address = format!("127.0.0.1:{}", nodes[0].binary_port);
    let typed = blocking::Client::connect(address.as_str()).expect("it serves");
    for ack in [Ack::Quorum, Ack::Leader, Ack::Relaxed] {
        let typed = typed.with_ack(ack);
        let text = format!("{ack:?}");
        for n in 0..KEYS {
            let key = format!("{{{n}}}:typed");
            let set = typed.write(&Op::set(&key, &text)).expect("it is written");
            let got = typed.get(&key).expect("an answer").expect("it is there");
            assert_eq!((got.value.as_slice(), got.version), (text.as_bytes(), set.version));
        }
        let level = text.to_lowercase();
        let args = ["set", "by:cli", &text, "--server", &address, "--ack", &level];
        let run = told(Command::new(binary()).args(args).output().expect("the binary runs"));
        assert_eq!(run.0, Some(0), "{}", run.1);
        assert_eq!(patient.ask(&["GET", "by:cli"]).0, Reply::bulk(&text));
    }
    let refused = Command::new(binary()).args(["del", "k", "--ack", "none"]).output();
    let refused = told(refused.expect("the binary runs"));
    assert!(refused.0 == Some(2) && refused.1.contains("quorum, leader or relaxed"), "{refused:?}");

    let begun = Instant::now();
    loop {
        let sum = |figure: &str| nodes.iter().map(|node| counted(node, figure)).sum::<u64>();
        if sum("stave_answers_leader") > 0 && sum("stave_answers_relaxed") > 0 {
            break;
        }
        assert!(begun.elapsed() < CHANGE_MAX, "early answers are counted");
        sleep(Duration::from_millis(50));
    }
}

fn counted(node: &Server, name: &str) -> u64 {
    let Reply::Bulk(text) = node.client().run(&["INFO", "stave"]) else { panic!("a text") };
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}
