//! A cluster that follows another, while nodes of both are killed and cut off.
//!
//! Keys of one tag lie in one partition and have one writer, which waits for each answer; so what
//! a standby shows of them at any moment is what some beginning of that writer's history left, and
//! never less of it than before. Reads that may have met a copy, which is of no one moment, are not
//! judged. In the end, when all is healed, both have the same; and also after a power cut of all of
//! the standby's nodes.

use std::collections::VecDeque;
use std::time::Duration;

use super::cluster::Cluster;
use super::house::{BINARY_PORT, Shape};
use super::talk::{Talk, Value};
use crate::cluster::{Fed, Source};
use crate::shard::Planted;
use crate::sim::rng::Rng;

/// Tags, and keys of each.
const TAGS: usize = 4;
const KEYS: usize = 6;
/// Keys that are there before, which take several pages to copy.
const OLD_KEYS: usize = 240;
const OLD_LEN: usize = 4000;
/// How often all are looked at.
const TURN: Duration = Duration::from_millis(10);
/// How long there is trouble.
const TROUBLE: Duration = Duration::from_secs(25);
/// How long a read waits until it is known whether it may have met a copy.
const MATURE: Duration = Duration::from_millis(400);
/// How long it may take until the standby has all, once all is healed.
const HEALED_MAX: Duration = Duration::from_secs(60);

/// A write: to which key, what, and whether it was acknowledged.
struct Write {
    key: usize,
    value: Option<String>,
    is_acked: bool,
}

/// A read that is to be judged.
struct Read {
    at: Duration,
    state: (u64, u32, u64),
    values: Vec<Option<String>>,
}

struct Tag {
    number: usize,
    history: Vec<Write>,
    /// The standby has shown so many of them.
    floor: usize,
    writer: Talk,
    reader: Talk,
    is_reading: Option<(u64, u32, u64)>,
    reads: VecDeque<Read>,
}

fn name(tag: usize, key: usize) -> String {
    format!("{{t{tag}}}:{key}")
}

fn old(n: usize) -> String {
    format!("old:{n}")
}

fn texts(reply: &Value) -> Option<Vec<Option<String>>> {
    let Value::Array(values) = reply else { return None };
    let text = |value: &Value| match value {
        Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Some(values.iter().map(text).collect())
}

impl Tag {
    fn write(&mut self, source: &Cluster, rng: &mut Rng) {
        match self.writer.next() {
            Some(reply) => {
                let last = self.history.last_mut().expect("it was asked for");
                last.is_acked = reply == Value::ok() || matches!(reply, Value::Int(_));
            }
            None if self.writer.is_ended() => self.writer = source.connect(rng.index(3)),
            None => return,
        }
        let (key, number) = (rng.index(KEYS), self.history.len());
        let name = name(self.number, key);
        let value = (!rng.one_in(5)).then(|| number.to_string());
        match &value {
            Some(value) => self.writer.send(&["SET", &name, value]),
            None => self.writer.send(&["DEL", &name]),
        }
        self.history.push(Write { key, value, is_acked: false });
    }

    fn read(&mut self, standby: &Cluster, state: (u64, u32, u64), rng: &mut Rng) {
        if let Some(reply) = self.reader.next() {
            let asked = self.is_reading.take();
            if let (Some(asked), Some(values)) = (asked, texts(&reply)) {
                let at = standby.sim.now() + MATURE;
                self.reads.push_back(Read { at, state: asked, values });
            }
        }
        if self.reader.is_ended() {
            (self.reader, self.is_reading) = (standby.connect(rng.index(3)), None);
        }
        if self.is_reading.is_none() {
            let names: Vec<_> = (0..KEYS).map(|key| name(self.number, key)).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            self.reader.send(&[["MGET"].as_slice(), &names].concat());
            self.is_reading = Some(state);
        }
    }

    /// Whether the beginning of the history of this length may have left these values. What was not
    /// acknowledged, `open`, may have been done whenever.
    fn fits(&self, len: usize, values: &[Option<String>], open: &[&Write]) -> bool {
        (0..KEYS).all(|key| {
            let done = self.history[..len].iter().rev();
            let last = done.filter(|write| write.key == key).find(|write| write.is_acked);
            let last = last.map_or(&None, |write| &write.value);
            let may_be = |write: &&Write| write.key == key && write.value == values[key];
            *last == values[key] || open.iter().any(may_be)
        })
    }

    /// Judges what is old enough, if the standby was quiet. How many reads were judged.
    fn judge(&mut self, now: Duration, state: (u64, u32, u64)) -> Result<usize, String> {
        let mut judged = 0;
        while self.reads.front().is_some_and(|read| read.at <= now) {
            let Some(read) = self.reads.pop_front() else { break };
            if read.state != state || state.1 > 0 {
                continue;
            }
            let open: Vec<_> = self.history.iter().filter(|write| !write.is_acked).collect();
            let mut lens = self.floor..=self.history.len();
            let Some(least) = lens.find(|len| self.fits(*len, &read.values, &open)) else {
                return Err(format!(
                    "tag {}: from write {} on no moment has {:?}",
                    self.number, self.floor, read.values
                ));
            };
            self.floor = least;
            judged += 1;
        }
        Ok(judged)
    }
}

/// What all nodes of the standby say.
fn fed(standby: &Cluster) -> Fed {
    let living = standby.houses.iter().filter(|house| house.node.is_up());
    let told = living.filter_map(|house| house.members.as_deref());
    told.fold(Fed::default(), |sum, members| sum.and(&members.fed()))
}

/// Does something bad to a node of a cluster, of which all others are well. Until when.
fn hurt(cluster: &mut Cluster, rng: &mut Rng) -> (usize, Duration) {
    let at = rng.index(cluster.houses.len());
    let node = &cluster.houses[at].node;
    match rng.below(4) {
        0 => node.kill(),
        1 => {
            node.power_cut();
        }
        2 => node.pause(),
        _ => cluster.sim.isolate(node.id()),
    }
    (at, cluster.sim.now() + Duration::from_millis(rng.between(100, 3_000)))
}

fn mend(cluster: &mut Cluster, at: usize) {
    cluster.sim.heal();
    let house = &mut cluster.houses[at];
    match house.node.is_up() {
        true => house.node.unpause(),
        false => house.boot().expect("a log that a crash left opens"),
    }
}

/// The same on both sides.
fn compare(source: &Cluster, standby: &Cluster) -> Result<(), String> {
    let ends = [source, standby].map(|cluster| (cluster, cluster.connect(0)));
    let tags = (0..TAGS).map(|tag| (0..KEYS).map(|key| name(tag, key)).collect::<Vec<_>>());
    let olds = (0..OLD_KEYS).map(|n| vec![old(n)]);
    for names in tags.chain(olds) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let [there, here] = [0, 1].map(|at| {
            let (cluster, talk) = &ends[at];
            let end = cluster.sim.now() + Duration::from_secs(20);
            loop {
                let reply = cluster.ask(talk, &[["MGET"].as_slice(), &names].concat());
                match reply.as_ref().and_then(texts) {
                    Some(values) => break values,
                    None => assert!(cluster.sim.now() < end, "{names:?}: {reply:?}"),
                }
            }
        });
        if there != here {
            let short = |values: Vec<Option<String>>| {
                let cut = |value: String| value.chars().take(12).collect::<String>();
                values.into_iter().map(|value| value.map(cut)).collect::<Vec<_>>()
            };
            return Err(format!("{names:?}: {:?} and {:?} here", short(there), short(here)));
        }
    }
    Ok(())
}

/// Until the standby says that it has all, and has had for a while.
fn catch_up(standby: &Cluster, partitions: u32) -> Result<(), String> {
    let (sim, mut quiet) = (&standby.sim, 0);
    let end = sim.now() + HEALED_MAX;
    while quiet < 10 {
        sim.run_for(Duration::from_millis(200));
        let fed = fed(standby);
        let is_whole = fed.led == partitions && fed.copying == 0 && fed.lag_entries == 0;
        quiet = if is_whole { quiet + 1 } else { 0 };
        if sim.now() > end {
            return Err(format!("not caught up {HEALED_MAX:?} after all was healed: {fed:?}"));
        }
    }
    Ok(())
}

fn fill(source: &Cluster, rng: &mut Rng) {
    let talk = source.connect(0);
    let mut numbers: Vec<_> = (0..OLD_KEYS).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, rng.index(at + 1));
    }
    for n in numbers {
        let value = format!("{n}:").repeat(OLD_LEN / 4);
        while source.ask(&talk, &["SET", &old(n), &value]) != Some(Value::ok()) {}
    }
}

/// Both clusters, and who writes and reads.
struct Scene {
    source: Cluster,
    standby: Cluster,
    tags: Vec<Tag>,
    rng: Rng,
    /// Which cluster's node is hurt, and until when.
    trouble: Option<(bool, usize, Duration)>,
    calm_until: Duration,
    /// Times that something was done to a node.
    acts: u64,
    seen: Seen,
}

/// What a scene came to.
#[derive(Debug, Default)]
struct Seen {
    /// Reads that were judged.
    judged: usize,
    /// Copies that were begun in one life of the standby's nodes.
    copies: u64,
    /// How long something was being copied.
    copied_for: Duration,
}

impl Scene {
    fn begin(seed: u64, planted: Option<Planted>) -> Self {
        let small = planted.is_some() || seed.is_multiple_of(2);
        let log_len_max = if small { 300 << 10 } else { 1 << 30 };
        let memory_max = if seed.is_multiple_of(3) { 32 << 20 } else { 1 << 30 };
        let shape = Shape { log_len_max, memory_max, ..Shape::default() };
        let source = Cluster::new(seed, 3, &shape);
        let mut rng = source.sim.rng();
        fill(&source, &mut rng);
        let at = source.houses.iter().map(|house| house.node.addr(BINARY_PORT)).collect();
        let follows = Some(Source { cluster: format!("{:032x}", shape.cluster), at });
        let shape = Shape { cluster: 10, planted, ..shape };
        let standby = Cluster::found(&source.sim, 11..=13, &shape, follows);
        let tag = |number| {
            let (writer, reader) = (source.connect(number % 3), standby.connect(number % 3));
            writer.send(&["SET", &name(number, 0), "0"]);
            let first = Write { key: 0, value: Some("0".to_owned()), is_acked: false };
            let (history, reads) = (vec![first], VecDeque::new());
            Tag { number, history, floor: 0, writer, reader, is_reading: None, reads }
        };
        let tags = (0..TAGS).map(tag).collect();
        let calm_until = source.sim.now() + Duration::from_secs(1);
        let (trouble, acts, seen) = (None, 0, Seen::default());
        Self { source, standby, tags, rng, trouble, calm_until, acts, seen }
    }

    fn turn(&mut self) -> Result<(), String> {
        self.source.sim.run_for(TURN);
        let (fed, now) = (fed(&self.standby), self.source.sim.now());
        self.seen.copies = self.seen.copies.max(fed.copies);
        if fed.copying > 0 {
            self.seen.copied_for += TURN;
        }
        let state = (fed.copies, fed.copying, self.acts);
        for tag in &mut self.tags {
            tag.write(&self.source, &mut self.rng);
            tag.read(&self.standby, state, &mut self.rng);
            self.seen.judged += tag.judge(now, state)?;
        }
        match self.trouble {
            Some((.., until)) if now >= until => self.mend(),
            None if now >= self.calm_until => {
                let at_source = self.rng.one_in(2);
                let hurts = if at_source { &mut self.source } else { &mut self.standby };
                let (at, until) = hurt(hurts, &mut self.rng);
                (self.trouble, self.acts) = (Some((at_source, at, until)), self.acts + 1);
            }
            _ => {}
        }
        Ok(())
    }

    fn mend(&mut self) {
        let Some((at_source, at, _)) = self.trouble.take() else { return };
        mend(if at_source { &mut self.source } else { &mut self.standby }, at);
        self.acts += 1;
        let calm = Duration::from_millis(self.rng.between(500, 2_500));
        self.calm_until = self.source.sim.now() + calm;
    }

    fn end(mut self) -> Result<Seen, String> {
        self.mend();
        self.source.sim.run_for(Duration::from_secs(5));
        catch_up(&self.standby, 2)?;
        compare(&self.source, &self.standby)?;
        for house in &self.standby.houses {
            house.node.power_cut();
        }
        for house in &mut self.standby.houses {
            house.boot()?;
        }
        catch_up(&self.standby, 2)?;
        compare(&self.source, &self.standby)?;
        Ok(self.seen)
    }
}

fn scene(seed: u64, planted: Option<Planted>) -> Result<Seen, String> {
    let mut scene = Scene::begin(seed, planted);
    let end = scene.source.sim.now() + TROUBLE;
    while scene.source.sim.now() < end {
        scene.turn()?;
    }
    scene.end()
}

#[test]
fn a_standby_shows_beginnings_of_what_was_done_and_has_all_in_the_end() {
    crate::sim::check(3, |seed| {
        let seen = scene(seed, None).unwrap_or_else(|error| panic!("{error}"));
        println!("seed {seed}: {seen:?}");
        assert!(seen.judged > 50, "{seen:?}: too few reads");
    });
}

#[test]
fn a_flush_that_marks_what_is_being_copied_is_seen() {
    let found = (0..20).find(|seed| scene(*seed, Some(Planted::MarkCopied)).is_err());
    println!("MarkCopied: seen at seed {}", found.expect("it is seen"));
    assert!(scene(found.unwrap_or(0), None).is_ok(), "nothing is wrong without it");
}
