//! Reads at replicas that follow: whatever befalls the nodes and the roads between them, each is
//! answered with what was current at some moment within the bound before it was asked, or with an
//! error.
//!
//! Clients of all nodes read and write one key, and what they see is linearizable. Readers that
//! said READONLY read it too, each at its own node. What one of these is answered is put to the
//! same checker, alone, as a read that may have happened at any moment from the bound before it was
//! asked until it was answered.

use std::time::Duration;

use super::Campaign;
use super::clients::Clients;
use super::cluster::Cluster;
use super::house::{BINARY_PORT, Shape};
use super::retriers::framed;
use super::talk::{Talk, Value};
use crate::protocol::binary::{FLAG_STALE, Hello, Keys, Opcode, Request, VERSION};
use crate::shard::Planted;
use crate::sim::Rng;
use crate::sim::checker::{Answer, History, Op};

/// How old what a reader is answered may be.
const STALE_MAX: Duration = Duration::from_millis(600);
/// How long troubles come.
const WATCHED: Duration = Duration::from_secs(8);
/// How late what comes over a slow road may be.
const SLOW_NS: u64 = 2_000_000_000;
/// The client of the checker that a reader is.
const READER: u32 = 1_000;
/// What there may be in place of a value.
const ERRORS: [&str; 4] = ["CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "UNKNOWN"];

/// A read that was answered.
struct Seen {
    asked: Duration,
    answered: Duration,
    value: Option<i64>,
}

/// A connection that said READONLY, and what it was answered.
struct Reader {
    node: usize,
    talk: Option<Talk>,
    asked: Option<Duration>,
    rests_until: Duration,
    seen: Vec<Seen>,
    errors: u64,
}

impl Reader {
    fn at(node: usize) -> Self {
        let (talk, asked, seen) = (None, None, Vec::new());
        Self { node, talk, asked, rests_until: Duration::ZERO, seen, errors: 0 }
    }

    fn turn(&mut self, cluster: &Cluster, rng: &mut Rng) -> Result<(), String> {
        let now = cluster.sim.now();
        let talk = self.talk.get_or_insert_with(|| {
            let talk = cluster.connect(self.node);
            talk.send(&["READONLY"]);
            talk
        });
        while let Some(reply) = talk.next() {
            let Some(asked) = self.asked.take_if(|_| reply != Value::ok()) else { continue };
            self.rests_until = now + Duration::from_millis(rng.between(5, 60));
            let value = match &reply {
                Value::Nil => None,
                Value::Bulk(bytes) => String::from_utf8_lossy(bytes).parse().ok(),
                error if ERRORS.iter().any(|known| error.is_error(known)) => {
                    self.errors += 1;
                    continue;
                }
                other => return Err(format!("GET -> {other:?}")),
            };
            self.seen.push(Seen { asked, answered: now, value });
        }
        if talk.is_ended() {
            (self.talk, self.asked) = (None, None);
        } else if self.asked.is_none() && now >= self.rests_until {
            talk.send(&["GET", "key0"]);
            self.asked = Some(now);
        }
        Ok(())
    }
}

/// Whether a read is explained, together with what the other clients saw.
fn explain(history: &History, seen: &Seen) -> Result<(), String> {
    let mut history = history.clone();
    let from = seen.asked.saturating_sub(STALE_MAX).as_nanos() as u64;
    let id = history.called(READER, "key0", Op::Get, from);
    history.returned(id, Answer::Value(seen.value), seen.answered.as_nanos() as u64);
    let checked = history.check();
    checked.map(drop).map_err(|violation| format!("asked at {:?}: {violation}", seen.asked))
}

/// Something goes wrong, or all is well again.
fn strike(cluster: &Cluster, rng: &mut Rng) {
    let (sim, count) = (&cluster.sim, cluster.houses.len());
    let one = rng.index(count);
    let other = (one + 1 + rng.index(count - 1)) % count;
    let [one, other] = [one, other].map(|at| &cluster.houses[at].node);
    match rng.below(8) {
        0 => one.pause_for(Duration::from_millis(rng.between(100, 4_000))),
        1 => sim.isolate(one.id()),
        2 => sim.cut(one.id(), other.id()),
        3 | 4 => {
            let late = rng.between(SLOW_NS / 10, SLOW_NS);
            sim.slow_down(one.id(), other.id(), late / 2..=late);
            sim.slow_down(other.id(), one.id(), late / 2..=late);
        }
        5 => one.set_wall_offset_ms(rng.between(0, 7_200_000) as i64 - 3_600_000),
        _ => sim.heal(),
    }
}

/// Two nodes, one of which may lead, and the others no longer reach each other.
fn split(cluster: &Cluster, rng: &mut Rng) {
    let ids: Vec<_> = cluster.houses.iter().map(|house| house.node.id()).collect();
    let one = rng.index(ids.len());
    let other = (one + 1 + rng.index(ids.len() - 1)) % ids.len();
    for rest in (0..ids.len()).filter(|at| ![one, other].contains(at)) {
        for minor in [one, other] {
            cluster.sim.cut(ids[minor], ids[rest]);
            cluster.sim.cut(ids[rest], ids[minor]);
        }
    }
}

/// Whether any of so many things goes wrong, or five nodes are split again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Storm,
    Splits,
}

/// How many keys were read at replicas that follow.
fn scene(seed: u64, weather: Weather, planted: Option<Planted>) -> Result<u64, String> {
    let of = Campaign::Cluster.shape(seed);
    let nodes = if weather == Weather::Storm { 3 } else { 5 };
    let shape = Shape { partitions: 1, replicas: nodes as u8, planted, stale_max: STALE_MAX, ..of };
    let cluster = Cluster::new(seed, nodes, &shape);
    let (sim, mut rng) = (&cluster.sim, cluster.sim.rng());
    cluster.run_ms(1_000);
    let mut clients = Clients::that_write_one_key(&mut rng);
    let mut readers: Vec<_> = (0..nodes as usize).map(Reader::at).collect();
    let (end, mut next) = (sim.now() + WATCHED, sim.now());
    while sim.now() < end {
        sim.run_for(Duration::from_micros(700));
        clients.turn(&cluster, &mut rng)?;
        readers.iter_mut().try_for_each(|reader| reader.turn(&cluster, &mut rng))?;
        if sim.now() >= next {
            let most = match weather {
                Weather::Storm => {
                    strike(&cluster, &mut rng);
                    1_500
                }
                Weather::Splits => {
                    sim.heal();
                    split(&cluster, &mut rng);
                    5_000
                }
            };
            next = sim.now() + Duration::from_millis(rng.between(most / 10, most));
        }
    }
    let stats = cluster.houses.iter().flat_map(|house| &house.stats);
    let behind = stats.map(|stats| stats.follower_reads.get()).sum();
    sim.heal();
    clients.stop();
    while !clients.are_done() {
        sim.run_for(Duration::from_millis(1));
        clients.turn(&cluster, &mut rng)?;
    }
    clients.history.check().map_err(|violation| format!("not of readers: {violation}"))?;
    let mut seen = readers.iter().flat_map(|reader| &reader.seen);
    seen.try_for_each(|seen| explain(&clients.history, seen))?;
    Ok(behind)
}

#[test]
fn what_is_read_at_a_replica_that_follows_is_not_older_than_the_bound() {
    let total = std::cell::Cell::new(0);
    crate::sim::check(12, |seed| {
        let weather = if seed % 4 == 0 { Weather::Splits } else { Weather::Storm };
        let behind = scene(seed, weather, None).unwrap_or_else(|error| panic!("{error}"));
        total.set(total.get() + behind);
    });
    println!("{} keys were read at replicas that follow", total.get());
    assert!(total.get() > 300, "they did read there");
}

fn seen(bug: Planted, weather: Weather) {
    let found = (0..60).find(|seed| {
        // Only what readers see counts.
        let found = scene(*seed, weather, Some(bug)).err();
        found.is_some_and(|text| text.starts_with("asked at"))
    });
    let seed = found.unwrap_or_else(|| panic!("{bug:?} was not seen"));
    scene(seed, weather, None)
        .unwrap_or_else(|error| panic!("seed {seed} without {bug:?}: {error}"));
    println!("{bug:?}: seen at seed {seed}");
}

#[test]
fn an_age_that_is_reckoned_from_when_the_answer_came_is_seen() {
    seen(Planted::AgeFromReceipt, Weather::Storm);
}

#[test]
fn a_moment_that_is_closed_before_all_is_applied_is_seen() {
    seen(Planted::ClosedUnapplied, Weather::Storm);
}

#[test]
fn a_leader_that_tells_what_is_committed_without_a_lease_is_seen() {
    seen(Planted::ClosedWithoutLease, Weather::Splits);
}

/// Three quiet nodes, and one of them that does not lead the key `k`, from 0.
fn quiet(seed: u64, stale_max: Duration) -> (Cluster, usize) {
    let shape = Shape { partitions: 1, stale_max, ..Shape::default() };
    let cluster = Cluster::new(seed, 3, &shape);
    cluster.run_ms(1_500);
    let members = cluster.houses[0].members.as_ref().expect("a cluster");
    let leader = members.leader(crate::id::PartitionId(0)).expect("somebody leads");
    (cluster, (leader.0 as usize) % 3)
}

fn reads_behind(cluster: &Cluster, node: usize) -> (u64, u64) {
    let stats = &cluster.houses[node].stats[0];
    (stats.follower_reads.get(), stats.follower_reads_too_old.get())
}

#[test]
fn a_follower_answers_once_it_knows_how_old_it_is_and_a_leader_till_then() {
    let (cluster, node) = quiet(1, Duration::from_secs(5));
    let talk = cluster.connect(node);
    let get = || cluster.ask(&talk, &["GET", "k"]);
    assert_eq!(cluster.ask(&talk, &["SET", "k", "v"]), Some(Value::ok()));
    cluster.run_ms(500);
    assert_eq!(get(), Some(Value::bulk("v")));
    assert_eq!(reads_behind(&cluster, node), (0, 0), "nobody said READONLY");

    assert_eq!(cluster.ask(&talk, &["READONLY"]), Some(Value::ok()));
    assert_eq!(get(), Some(Value::bulk("v")));
    assert_eq!(reads_behind(&cluster, node), (0, 1), "nobody has asked the leader yet");
    cluster.run_ms(300);
    assert_eq!(get(), Some(Value::bulk("v")));
    assert_eq!(cluster.ask(&talk, &["EXISTS", "k", "other"]), Some(Value::Int(1)));
    assert_eq!(reads_behind(&cluster, node), (3, 1));

    assert_eq!(cluster.ask(&talk, &["READWRITE"]), Some(Value::ok()));
    assert_eq!(get(), Some(Value::bulk("v")));
    assert_eq!(reads_behind(&cluster, node), (3, 1));
}

#[test]
fn a_follower_that_is_cut_off_answers_up_to_the_bound_and_refuses_after_it() {
    let (cluster, node) = quiet(2, Duration::from_secs(3));
    let talk = cluster.connect(node);
    assert_eq!(cluster.ask(&talk, &["SET", "k", "v"]), Some(Value::ok()));
    assert_eq!(cluster.ask(&talk, &["READONLY"]), Some(Value::ok()));
    cluster.run_ms(500);
    cluster.sim.isolate(cluster.houses[node].node.id());

    cluster.run_ms(2_000);
    assert_eq!(cluster.ask(&talk, &["GET", "k"]), Some(Value::bulk("v")));
    cluster.run_ms(1_500);
    let refused = cluster.ask(&talk, &["GET", "k"]).expect("an answer");
    assert!(refused.is_error("MASTERDOWN"), "{refused:?}");

    cluster.sim.heal();
    cluster.run_ms(2_000);
    let (before, _) = reads_behind(&cluster, node);
    assert_eq!(cluster.ask(&talk, &["GET", "k"]), Some(Value::bulk("v")));
    assert_eq!(reads_behind(&cluster, node).0, before + 1);
}

#[test]
fn deadlines_of_keys_are_the_leaders_whatever_the_clock_of_the_follower_says() {
    let (cluster, node) = quiet(3, Duration::from_secs(5));
    let talk = cluster.connect(node);
    let set = ["SET", "k", "v", "PX", "60000"];
    assert_eq!(cluster.ask(&talk, &set), Some(Value::ok()));
    assert_eq!(cluster.ask(&talk, &["READONLY"]), Some(Value::ok()));
    cluster.houses[node].node.set_wall_offset_ms(3_600_000);
    cluster.run_ms(500);
    assert_eq!(cluster.ask(&talk, &["GET", "k"]), Some(Value::bulk("v")));

    cluster.houses[node].node.set_wall_offset_ms(-3_600_000);
    cluster.run_ms(60_000);
    assert_eq!(cluster.ask(&talk, &["GET", "k"]), Some(Value::Nil));
    assert_eq!(reads_behind(&cluster, node), (2, 0));
}

#[test]
fn the_binary_protocol_asks_for_it_by_request() {
    let (cluster, node) = quiet(5, Duration::from_secs(2));
    let talk = cluster.connect(node);
    assert_eq!(cluster.ask(&talk, &["SET", "k", "v"]), Some(Value::ok()));
    let client = cluster.sim.connect(cluster.houses[node].node.id(), BINARY_PORT);
    let hello = Hello { versions: &[VERSION], ..Hello::default() };
    client.send(&framed(1, 0, &Request::Hello(hello)));
    let mut keys = Vec::new();
    Keys::encode(0, &[b"k", b"other"], &mut keys);
    let multi_get = Request::decode(Opcode::MultiGet as u8, &keys).expect("ours");
    let get = Request::Get { db: 0, key: b"k" };
    client.send(&framed(2, FLAG_STALE, &get));
    cluster.run_ms(300);
    assert_eq!(reads_behind(&cluster, node), (0, 1));
    client.received();

    client.send(&framed(3, FLAG_STALE, &get));
    client.send(&framed(4, FLAG_STALE, &multi_get));
    client.send(&framed(5, 0, &get));
    cluster.run_ms(100);
    assert_eq!(reads_behind(&cluster, node), (3, 1));
    let answers = String::from_utf8_lossy(&client.received()).into_owned();
    assert_eq!(answers.matches('v').count(), 3, "{answers:?}");

    cluster.sim.isolate(cluster.houses[node].node.id());
    cluster.run_ms(2_500);
    client.send(&framed(6, FLAG_STALE, &get));
    cluster.run_ms(10_000);
    let answers = String::from_utf8_lossy(&client.received()).into_owned();
    assert!(answers.contains("older than read-staleness-max"), "{answers:?}");
}

#[test]
fn who_tracks_keys_reads_from_leaders() {
    let (cluster, node) = quiet(4, Duration::from_secs(5));
    let talk = cluster.connect(node);
    talk.send(&["HELLO", "3"]);
    talk.send(&["CLIENT", "TRACKING", "ON"]);
    talk.send(&["READONLY"]);
    cluster.run_ms(500);
    talk.send(&["GET", "k"]);
    cluster.run_ms(500);

    assert_eq!(reads_behind(&cluster, node), (0, 0));
}
