//! The property of tracking: a cache that drops what it is told of holds nothing old for good.
//!
//! Some connections read keys and keep what they read, each in its own way of tracking, until they
//! are told that it has changed; others change the keys by all sorts of commands, on all shards and
//! in pipelines. Now and then everybody waits until all is answered: then what is in a cache must
//! be what the node holds. The error says which cache held what.

mod nodes;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::sim::{Rng, check};

/// Keys of a run.
const KEYS: u64 = 12;
/// Deadlines that writers give, milliseconds; the pause at a rest is longer.
const DEADLINE_MS_MAX: u64 = 80;
/// Expiry is looked for every 100 ms.
const REST_MS: u64 = 400;

/// What a run did.
#[derive(Debug, Default)]
struct Done {
    told: usize,
    cached: usize,
    evicted: u64,
}

/// How a cache tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Reads,
    OptIn,
    OptOut,
    Broadcast,
    /// Reads over one connection and is told over another, whose id this is.
    Redirected,
}

/// A connection that keeps what it reads.
struct Cache {
    way: Way,
    talk: Talk,
    /// With [`Way::Redirected`].
    told_by: Option<Talk>,
    /// What replies are to come: of reads the keys; of others nothing.
    asked: VecDeque<Vec<String>>,
    held: BTreeMap<String, Value>,
}

struct Run {
    house: House,
    rng: Rng,
    /// As long as a key is.
    key_len: usize,
    caches: Vec<Cache>,
    writers: Vec<(Talk, usize)>,
    number: u64,
    done: Done,
}

impl Cache {
    fn new(way: Way, talk: Talk, told_by: Option<Talk>) -> Self {
        Self { way, talk, told_by, asked: VecDeque::new(), held: BTreeMap::new() }
    }

    fn held(&self, key: &str) -> Option<&Value> {
        self.held.get(key)
    }

    fn is_ended(&self) -> bool {
        self.talk.is_ended() || self.told_by.as_ref().is_some_and(Talk::is_ended)
    }

    fn take(&mut self, value: Value, done: &mut Done) {
        match value {
            Value::Push(message) => self.forget(&message[1], done),
            // That says nothing of the keys.
            Value::Error(_) => drop(self.asked.pop_front()),
            value => {
                let keys = self.asked.pop_front().expect("one reply for each command");
                let values = match value {
                    Value::Array(values) if keys.len() > 1 => values,
                    value => vec![value],
                };
                for (key, value) in keys.into_iter().zip(values) {
                    done.cached += 1;
                    self.held.insert(key, value);
                }
            }
        }
    }

    fn forget(&mut self, keys: &Value, done: &mut Done) {
        done.told += 1;
        match keys {
            Value::Array(keys) => {
                for key in keys {
                    let Value::Bulk(key) = key else { panic!("{key:?} is no key") };
                    let key = std::str::from_utf8(key).expect("ours");
                    self.held.remove(key);
                    self.mistrust(|asked| asked == key);
                }
            }
            Value::Nil => {
                self.held.clear();
                self.mistrust(|_| true);
            }
            other => panic!("{other:?} are no keys"),
        }
    }

    /// A reply that is to come over another connection than this news may be older than it.
    fn mistrust(&mut self, concerns: impl Fn(&str) -> bool) {
        if self.told_by.is_some() {
            for keys in &mut self.asked {
                keys.retain(|key| !concerns(key));
            }
        }
    }

    fn take_all(&mut self, done: &mut Done) {
        while let Some(value) = self.talk.next() {
            self.take(value, done);
        }
        let told: Vec<Value> =
            self.told_by.iter().flat_map(|talk| std::iter::from_fn(|| talk.next())).collect();
        for message in told {
            match message {
                Value::Push(message) => self.forget(&message[1], done),
                other => panic!("{other:?} is no invalidation"),
            }
        }
    }

    fn say(&mut self, args: &[&str], keys: Vec<String>) {
        self.talk.send(args);
        self.asked.push_back(keys);
    }

    /// What it sends of others first is what it is told first.
    fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }
}

/// How a cache begins; redirected to connection `id`.
fn command_of(way: Way, id: &str) -> Vec<&str> {
    let options: &[&str] = match way {
        Way::Reads => &[],
        Way::OptIn => &["OPTIN"],
        Way::OptOut => &["OPTOUT"],
        Way::Broadcast => &["BCAST", "PREFIX", "k", "PREFIX", "other"],
        Way::Redirected => &["REDIRECT", id],
    };
    [&["CLIENT", "TRACKING", "ON"], options].concat()
}

/// Reads the first of some keys, or all, into a cache.
fn say_read(cache: &mut Cache, rng: &mut Rng, keys: Vec<String>) {
    let alone = rng.one_in(2);
    // Redirected invalidations race with replies: such a client reads one at a time.
    if cache.way == Way::Redirected && !cache.is_answered() {
        return;
    }
    if alone || cache.way == Way::Redirected {
        let kept = cache.way != Way::OptOut || rng.one_in(2);
        match (cache.way, kept) {
            (Way::OptIn, _) => cache.say(&["CLIENT", "CACHING", "YES"], Vec::new()),
            (Way::OptOut, false) => cache.say(&["CLIENT", "CACHING", "NO"], Vec::new()),
            _ => {}
        }
        let held = if kept { vec![keys[0].clone()] } else { Vec::new() };
        return cache.say(&["GET", &keys[0]], held);
    }
    if cache.way == Way::OptIn {
        cache.say(&["CLIENT", "CACHING", "YES"], Vec::new());
    }
    let words = std::iter::once("MGET").chain(keys.iter().map(String::as_str));
    let words: Vec<&str> = words.collect();
    cache.say(&words, keys.clone());
}

impl Run {
    fn new(seed: u64, shape: Shape) -> Self {
        let tight = shape.memory_max < 1 << 24;
        let house = House::new(seed, shape);
        let rng = house.sim.rng();
        let key_len = if tight { 20_000 } else { 0 };
        let (caches, writers, number) = (Vec::new(), Vec::new(), 0);
        let mut run = Self { house, rng, key_len, caches, writers, number, done: Done::default() };
        for _ in 0..run.rng.between(1, 3) {
            let way = [Way::Reads, Way::OptIn, Way::OptOut, Way::Broadcast, Way::Redirected];
            let way = way[run.rng.index(way.len())];
            let cache = run.cache(way);
            run.caches.push(cache);
        }
        for _ in 0..run.rng.between(1, 3) {
            let talk = run.connect();
            run.writers.push((talk, 0));
        }
        run
    }

    fn connect(&mut self) -> Talk {
        let shard = self.rng.below(u64::from(self.house.shape.shards));
        self.house.connect_to(shard as u16)
    }

    fn cache(&mut self, way: Way) -> Cache {
        let mut talk = self.connect();
        self.house.ask(&mut talk, &["HELLO", "3"]);
        let mut told_by = None;
        let mut id = String::new();
        if way == Way::Redirected {
            let mut other = self.connect();
            self.house.ask(&mut other, &["HELLO", "3"]);
            let Value::Int(number) = self.house.ask(&mut other, &["CLIENT", "ID"]) else {
                panic!("an id is a number")
            };
            (id, told_by) = (number.to_string(), Some(other));
        }
        assert_eq!(self.house.ask(&mut talk, &command_of(way, &id)), Value::ok());
        Cache::new(way, talk, told_by)
    }

    fn key(&mut self) -> String {
        let number = self.rng.below(KEYS);
        format!("k{number}:{}", "x".repeat(self.key_len))
    }

    /// A read, or several, of a cache.
    fn read(&mut self, at: usize) {
        let keys: Vec<String> = (0..self.rng.between(2, 4)).map(|_| self.key()).collect();
        say_read(&mut self.caches[at], &mut self.rng, keys);
    }

    fn write(&mut self, at: usize) {
        self.number += 1;
        let (key, other, value) = (self.key(), self.key(), self.number.to_string());
        let ms = self.rng.between(1, DEADLINE_MS_MAX).to_string();
        let talk = &self.writers[at].0;
        let mut said = 1;
        match self.rng.below(12) {
            0 | 1 => talk.send(&["SET", &key, &value]),
            2 => talk.send(&["SET", &key, &value, "PX", &ms]),
            3 => talk.send(&["MSET", &key, &value, &other, &value]),
            4 => talk.send(&["DEL", &key, &other]),
            5 => talk.send(&["PEXPIRE", &key, &ms]),
            6 => talk.send(&["APPEND", &key, &value]),
            7 => talk.send(&["RENAME", &key, &other]),
            8 => talk.send(&["COPY", &key, &other, "REPLACE"]),
            9 => talk.send(&["GETDEL", &key]),
            10 => {
                talk.send(&["MULTI"]);
                talk.send(&["SET", &key, &value]);
                talk.send(&["SETRANGE", &key, "2", "abc"]);
                talk.send(&["EXEC"]);
                said = 4;
            }
            _ if self.rng.one_in(8) => {
                talk.send(&[["FLUSHALL", "FLUSHDB"][self.rng.index(2)]]);
            }
            _ => talk.send(&["INCR", &key]),
        }
        self.writers[at].1 += said;
    }

    /// Waits until all is answered; what is held must be what is there.
    fn rest(&mut self) -> Result<(), String> {
        let Self { house, caches, writers, done, .. } = self;
        house.wait("all replies", || {
            for (talk, due) in writers.iter_mut() {
                *due -= std::iter::from_fn(|| talk.next()).count();
            }
            caches.iter_mut().for_each(|cache| cache.take_all(done));
            writers.iter().all(|(_, due)| *due == 0) && caches.iter().all(Cache::is_answered)
        });
        // In steps: what is not read holds up what comes after.
        for _ in 0..REST_MS / 20 {
            house.run_ms(20);
            caches.iter_mut().for_each(|cache| cache.take_all(done));
        }
        let mut talk = house.connect();
        for (nth, cache) in caches.iter().enumerate() {
            for (key, held) in &cache.held {
                let there = house.ask(&mut talk, &["GET", key]);
                if there != *held {
                    let way = cache.way;
                    return Err(format!(
                        "cache {nth} ({way:?}) holds {key:.4} {held:?}: it is {there:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn run(seed: u64, shape: Shape) -> Result<Done, String> {
    let mut run = Run::new(seed, shape);
    for _ in 0..4 {
        for _ in 0..run.rng.between(1, 60) {
            if run.rng.one_in(2) {
                let at = run.rng.index(run.writers.len());
                run.write(at);
            } else {
                let at = run.rng.index(run.caches.len());
                run.read(at);
            }
            if run.rng.one_in(3) {
                run.house.sim.run_for(std::time::Duration::from_micros(run.rng.below(400)));
                let Run { caches, done, .. } = &mut run;
                caches.iter_mut().for_each(|cache| cache.take_all(done));
            }
        }
        run.rest()?;
    }
    let stats = run.house.stats.iter();
    run.done.evicted = stats.map(|stats| stats.tracked_evicted.get()).sum();
    Ok(run.done)
}

fn shape(seed: u64) -> Shape {
    let mut rng = Rng::new(seed);
    // A table of readers of 64 KiB.
    let memory_max = if rng.one_in(4) { 1 << 20 } else { 1 << 30 };
    let (shards, partitions) = (rng.between(1, 3) as u16, rng.between(1, 2) as u32);
    Shape { shards, partitions, memory_max, ..Shape::default() }
}

#[test]
fn caches_hold_nothing_old_for_good() {
    let sums = Cell::new((0, 0, 0));
    check(150, |seed| {
        let done = run(seed, shape(seed)).unwrap_or_else(|error| panic!("{error}"));
        let (told, cached, evicted) = sums.get();
        sums.set((told + done.told, cached + done.cached, evicted + done.evicted));
    });
    let (told, cached, evicted) = sums.get();
    println!("{cached} values cached, {told} invalidations, {evicted} keys evicted");
    assert!(told > 100 && evicted > 10);
}

#[test]
fn a_reader_that_is_forgotten_is_seen() {
    let planted = Some(crate::shard::Planted::ForgetReader);
    let seen = (0..200).find(|seed| run(*seed, Shape { planted, ..shape(*seed) }).is_err());
    println!("seen at seed {:?}", seen.expect("it was not seen in 200 seeds"));
}
