//! Answers that do not wait for the majority: they may be lost when their leader is, and nothing
//! else is lost with them. Who waits for the majority is never told what is lost later.
//!
//! Clients that wait for it read and write one key, and what they see is linearizable. Others write
//! the same key and are answered earlier: to the checker each of these writes is one that may have
//! happened, or may yet, or never does, whatever its client was told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Campaign;
use super::clients::Clients;
use super::cluster::Cluster;
use super::house::{BINARY_PORT, Shape};
use super::retriers::framed;
use super::talk::{Talk, Value};
use crate::ack::Ack;
use crate::id::PartitionId;
use crate::protocol::binary::{
    Condition, FLAG_ONCE, HEADER_LEN, Header, Hello, Op as Write, OutcomeState, Reply, Request,
    VERSION, flags_of,
};
use crate::shard::Planted;
use crate::sim::checker::{CallId, History, Op};
use crate::sim::{Client, Rng};

/// How long troubles come.
const WATCHED: Duration = Duration::from_secs(6);
/// The first client of the checker that is answered early, and the first number that one writes.
const EARLY: u32 = 1_000;
const NUMBER_FIRST: i64 = 1_000_000_000;
/// Errors that say that nothing was done.
const NOT_BEGUN: [&str; 2] = ["CLUSTERDOWN", "TRYAGAIN"];

/// A client that writes and is answered early.
struct Writer {
    who: u32,
    ack: Ack,
    talk: Option<Talk>,
    /// Its connection said what its answers wait for.
    is_settled: bool,
    asked: Option<CallId>,
    rests_until: Duration,
    /// Its writes that may have been done, by what they wrote.
    made: BTreeMap<i64, CallId>,
    acked: Vec<i64>,
}

impl Writer {
    fn new(at: u32) -> Self {
        let ack = if at % 3 == 2 { Ack::Relaxed } else { Ack::Leader };
        let (talk, asked, made, acked) = (None, None, BTreeMap::new(), Vec::new());
        let rests_until = Duration::ZERO;
        Self { who: EARLY + at, ack, talk, is_settled: false, asked, rests_until, made, acked }
    }

    fn turn(&mut self, cluster: &Cluster, history: &mut History, rng: &mut Rng, number: &mut i64) {
        let now = cluster.sim.now();
        let (ack, count) = (self.ack.name(), cluster.houses.len());
        let talk = self.talk.get_or_insert_with(|| {
            let talk = cluster.connect(rng.index(count));
            talk.send(&["CLIENT", "ACK", ack]);
            talk
        });
        while let Some(reply) = talk.next() {
            if !std::mem::replace(&mut self.is_settled, true) {
                assert_eq!(reply, Value::ok());
                continue;
            }
            let Some(id) = self.asked.take() else { continue };
            if reply == Value::ok() {
                self.acked.extend(self.made.last_key_value().map(|(number, _)| number));
            } else if NOT_BEGUN.iter().any(|known| reply.is_error(known)) {
                self.made.pop_last();
                history.never(id);
            }
        }
        if talk.is_ended() {
            (self.talk, self.asked, self.is_settled) = (None, None, false);
            self.rests_until = now + Duration::from_millis(rng.between(1, 100));
        } else if self.is_settled && self.asked.is_none() && now >= self.rests_until {
            *number += 1;
            talk.send(&["SET", "key0", &number.to_string()]);
            let id = history.called(self.who, "key0", Op::Put(*number), now.as_nanos() as u64);
            (self.asked, self.rests_until) = (Some(id), now + Duration::from_millis(rng.below(80)));
            self.made.insert(*number, id);
        }
    }
}

/// Something goes wrong, or all is well again.
fn strike(cluster: &mut Cluster, rng: &mut Rng) -> Result<(), String> {
    let one = rng.index(cluster.houses.len());
    let other = (one + 1) % cluster.houses.len();
    let sim = std::rc::Rc::clone(&cluster.sim);
    let id = |at: usize| cluster.houses[at].node.id();
    match rng.below(8) {
        0 => cluster.houses[one].node.pause_for(Duration::from_millis(rng.between(100, 2_000))),
        1 | 2 => sim.isolate(id(one)),
        3 => {
            let late = 1_000_000..=rng.between(10_000_000, 400_000_000);
            sim.slow_down(id(one), id(other), late);
        }
        4 => {
            cluster.houses[one].node.kill();
            cluster.houses[one].boot()?;
        }
        5 => {
            cluster.houses[one].node.power_cut();
            cluster.houses[one].boot()?;
        }
        _ => sim.heal(),
    }
    Ok(())
}

/// Clients of both kinds at a cluster, and what they saw.
struct Scene {
    cluster: Cluster,
    rng: Rng,
    clients: Clients,
    writers: Vec<Writer>,
    number: i64,
}

impl Scene {
    fn new(seed: u64, planted: Option<Planted>, clients: fn(&mut Rng) -> Clients) -> Self {
        let of = Campaign::Cluster.shape(seed);
        let of = Shape { shards: 1, partitions: 1, drift_ppm: 0, watched: false, ..of };
        let cluster = Cluster::new(seed, 3, &Shape { planted, ..of });
        let mut rng = cluster.sim.rng();
        cluster.run_ms(1_500);
        let (clients, writers) = (clients(&mut rng).plain(), (0..4).map(Writer::new).collect());
        Self { cluster, rng, clients, writers, number: NUMBER_FIRST }
    }

    fn run_until(&mut self, end: Duration) -> Result<(), String> {
        while self.cluster.sim.now() < end {
            self.cluster.sim.run_for(Duration::from_micros(500));
            self.clients.turn(&self.cluster, &mut self.rng)?;
            let Self { cluster, clients, rng, number, .. } = self;
            for writer in &mut self.writers {
                writer.turn(cluster, &mut clients.history, rng, number);
            }
        }
        Ok(())
    }

    /// How many answers came early, and how many writes of these nobody ever saw.
    fn judge(mut self) -> Result<(u64, u64), String> {
        let Self { cluster, rng, clients, writers, .. } = &mut self;
        cluster.sim.heal();
        clients.stop();
        while !clients.are_done() {
            cluster.sim.run_for(Duration::from_millis(1));
            clients.turn(cluster, rng)?;
        }
        clients.read_all(cluster)?;
        let mut unseen = 0;
        for writer in writers.iter() {
            for (number, id) in &writer.made {
                // Gets and sets alone: what nobody read might as well not have been.
                if !clients.history.was_read(*number) {
                    clients.history.never(*id);
                    unseen += u64::from(writer.acked.contains(number));
                }
            }
        }
        clients.history.check().map_err(|violation| violation.to_string())?;
        Ok((writers.iter().map(|writer| writer.acked.len() as u64).sum(), unseen))
    }
}

/// One trouble after another.
fn storm(seed: u64) -> Result<(u64, u64), String> {
    let mut scene = Scene::new(seed, None, Clients::that_write_one_key);
    let end = scene.cluster.sim.now() + WATCHED;
    while scene.cluster.sim.now() < end {
        strike(&mut scene.cluster, &mut scene.rng)?;
        let next = Duration::from_millis(scene.rng.between(50, 1_500));
        scene.run_until(scene.cluster.sim.now() + next)?;
    }
    scene.judge()
}

/// The leader, where some read all the time, is cut off until others lead.
fn cut_off(seed: u64, planted: Option<Planted>) -> Result<(u64, u64), String> {
    let mut scene = Scene::new(seed, planted, Clients::on_one_key);
    let now = scene.cluster.sim.now();
    scene.run_until(now + Duration::from_millis(200))?;
    scene.cluster.sim.isolate(scene.cluster.houses[0].node.id());
    scene.run_until(now + Duration::from_millis(2_200))?;
    scene.judge()
}

fn is_clean(seeds: u64, scene: impl Fn(u64) -> Result<(u64, u64), String>) {
    let total = std::cell::Cell::new((0, 0));
    crate::sim::check(seeds, |seed| {
        let (acked, unseen) = scene(seed).unwrap_or_else(|error| panic!("{error}"));
        total.set((total.get().0 + acked, total.get().1 + unseen));
    });
    let (acked, unseen) = total.get();
    println!("{acked} early answers, {unseen} of their writes were never seen");
    assert!(acked > 300, "they were answered: {acked}");
}

#[test]
fn who_waits_for_the_majority_is_never_told_what_is_lost_later() {
    is_clean(6, storm);
}

#[test]
fn nor_is_who_reads_at_a_leader_that_is_cut_off() {
    is_clean(12, |seed| cut_off(seed, None));
}

fn seen(bug: Planted, scene: impl Fn(u64, Option<Planted>) -> Result<(), String>) {
    let found = (0..60).find(|seed| scene(*seed, Some(bug)).is_err());
    let seed = found.unwrap_or_else(|| panic!("{bug:?} was not seen"));
    scene(seed, None).unwrap_or_else(|error| panic!("seed {seed} without {bug:?}: {error}"));
    println!("{bug:?}: seen at seed {seed}");
}

#[test]
fn an_answer_at_the_leaders_disk_to_who_waits_for_the_majority_is_seen() {
    seen(Planted::QuorumIsLeader, |seed, bug| cut_off(seed, bug).map(drop));
}

#[test]
fn a_read_of_what_the_majority_does_not_have_is_seen() {
    seen(Planted::AnswerUncommittedRead, |seed, bug| cut_off(seed, bug).map(drop));
}

/// Three quiet nodes, and the one of them, from 0, that leads all keys.
fn quiet(seed: u64, planted: Option<Planted>) -> (Cluster, usize) {
    let shape = Shape { partitions: 1, planted, ..Shape::default() };
    let cluster = Cluster::new(seed, 3, &shape);
    cluster.run_ms(1_500);
    let members = cluster.houses[0].members.as_ref().expect("a cluster");
    let leader = members.leader(PartitionId(0)).expect("somebody leads");
    (cluster, leader.0 as usize - 1)
}

fn connect(cluster: &Cluster, node: usize, ack: Ack) -> Talk {
    let talk = cluster.connect(node);
    assert_eq!(cluster.ask(&talk, &["CLIENT", "ACK", ack.name()]), Some(Value::ok()));
    talk
}

/// What is answered within a tenth of a second.
fn soon(cluster: &Cluster, talk: &Talk, args: &[&str]) -> Option<Value> {
    talk.send(args);
    let (mut got, end) = (None, cluster.sim.now() + Duration::from_millis(100));
    cluster.sim.run_until(|| {
        got = talk.next();
        got.is_some() || cluster.sim.now() > end
    });
    got
}

/// All lose their power as soon as the leader, which nobody hears, has answered a write that waited
/// for its disk alone. It comes back with one of the others, whose log is shorter.
fn outage(seed: u64, planted: Option<Planted>) -> Result<(), String> {
    let (mut cluster, leader) = quiet(seed, planted);
    let talk = connect(&cluster, leader, Ack::Leader);
    cluster.sim.isolate(cluster.houses[leader].node.id());
    let reply = cluster.ask(&talk, &["SET", "k", "early"]);
    if reply != Some(Value::ok()) {
        return Err(format!("within the lease it is answered {reply:?}"));
    }
    for house in &cluster.houses {
        house.node.power_cut();
    }
    cluster.sim.heal();
    for node in [leader, (leader + 1) % 3] {
        cluster.houses[node].boot()?;
    }
    let end = cluster.sim.now() + Duration::from_secs(20);
    while cluster.sim.now() < end {
        let talk = cluster.connect((leader + 1) % 3);
        match cluster.ask(&talk, &["GET", "k"]) {
            Some(value) if value == Value::bulk("early") => return Ok(()),
            Some(Value::Nil) => return Err("what was on the leader's disk is lost".to_owned()),
            _ => cluster.run_ms(100),
        }
    }
    Err("nobody leads".to_owned())
}

#[test]
fn what_waited_for_the_leaders_disk_is_there_when_the_leader_comes_back() {
    crate::sim::check(20, |seed| outage(seed, None).unwrap_or_else(|error| panic!("{error}")));
}

#[test]
fn an_answer_before_the_leaders_disk_has_it_is_seen() {
    seen(Planted::LeaderUnwritten, outage);
}

#[test]
fn a_leader_that_is_cut_off_answers_early_alone_and_what_it_answered_is_lost() {
    let (cluster, leader) = quiet(1, None);
    let [majority, disk, none] = Ack::ALL.map(|ack| connect(&cluster, leader, ack));
    assert_eq!(cluster.ask(&none, &["CLIENT", "ACK"]), Some(Value::bulk("relaxed")));
    cluster.sim.isolate(cluster.houses[leader].node.id());

    assert_eq!(soon(&cluster, &majority, &["GET", "k"]), Some(Value::Nil));
    assert_eq!(soon(&cluster, &disk, &["SET", "k", "1"]), Some(Value::ok()));
    assert_eq!(soon(&cluster, &none, &["INCR", "k"]), Some(Value::Int(2)));
    assert_eq!(soon(&cluster, &disk, &["GET", "k"]), Some(Value::bulk("2")));
    assert_eq!(soon(&cluster, &majority, &["GET", "k"]), None, "it may be lost");
    let stats = &cluster.houses[leader].stats[0];
    assert_eq!((stats.answers_leader.get(), stats.answers_relaxed.get()), (2, 1));

    cluster.run_ms(5_000);
    assert_ne!(majority.next(), Some(Value::bulk("2")));
    let other = cluster.connect((leader + 1) % 3);
    assert_eq!(cluster.ask(&other, &["GET", "k"]), Some(Value::Nil));
    cluster.sim.heal();
    cluster.run_ms(2_000);
    let back = cluster.connect(leader);
    assert_eq!(cluster.ask(&back, &["GET", "k"]), Some(Value::Nil));
}

/// Sends a write that is to be done once, in session 7 under number 5; what it is answered.
fn once(cluster: &Cluster, node: usize, born: &mut u64, ack: Ack) -> Option<(OutcomeState, u64)> {
    let line = cluster.sim.connect(cluster.houses[node].node.id(), BINARY_PORT);
    let hello = Request::Hello(Hello { versions: &[VERSION], ..Hello::default() });
    let session = Request::Session { id: [7; 16], born: *born };
    line.send(&[framed(1, 0, &hello), framed(2, 0, &session)].concat());
    let write = Write { key: b"k", value: Some(b"v"), ..Write::default() };
    let write = Write { condition: Condition::Absent, ..write };
    line.send(&framed(5, FLAG_ONCE | flags_of(ack), &Request::Write(write)));
    cluster.run_ms(100);
    let mut told = None;
    for (header, body) in frames(&line) {
        match Reply::decode(&header, &body).expect("a reply") {
            Reply::Session(of) => *born = of,
            Reply::Write(outcome) => told = Some((outcome.state, outcome.timestamp)),
            Reply::Error(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    told
}

fn frames(line: &Client) -> Vec<(Header, Vec<u8>)> {
    let (bytes, mut at, mut all) = (line.received(), 0, Vec::new());
    while let Some(head) = bytes[at..].first_chunk::<HEADER_LEN>() {
        let header = Header::decode(head).expect("a node sends frames");
        let end = at + HEADER_LEN + header.body_len as usize;
        all.push((header, bytes[at + HEADER_LEN..end].to_vec()));
        at = end;
    }
    all
}

#[test]
fn what_is_done_once_and_lost_is_done_again_when_it_is_asked_for_again_and_then_no_more() {
    let (cluster, leader) = quiet(3, None);
    let (other, mut born) = ((leader + 1) % 3, 0);
    cluster.sim.isolate(cluster.houses[leader].node.id());
    let first = once(&cluster, leader, &mut born, Ack::Leader).expect("the disk here is enough");
    let same = once(&cluster, leader, &mut born, Ack::Leader);
    assert_eq!(same, Some(first), "as long as it is there it is the answer");
    assert_eq!(once(&cluster, leader, &mut born, Ack::Quorum), None, "nobody else has it");

    cluster.run_ms(5_000);
    let second = once(&cluster, other, &mut born, Ack::Quorum).expect("another leads");
    assert_eq!(second.0, first.0, "nothing was done that anybody knows of");
    cluster.sim.heal();
    cluster.run_ms(2_000);
    for node in [leader, other] {
        assert_eq!(once(&cluster, node, &mut born, Ack::Leader), Some(second));
    }
}
