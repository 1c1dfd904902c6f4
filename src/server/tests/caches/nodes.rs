//! The same of a cluster: caches and writers are at any node, and leaders change while they ask.

use std::cell::Cell;
use std::time::Duration;

use super::{Cache, DEADLINE_MS_MAX, Done, Way, command_of, say_read};
use crate::sim::torture::cluster::Cluster;
use crate::sim::torture::house::{PATIENCE, Shape};
use crate::sim::torture::talk::{Talk, Value};
use crate::sim::{Rng, check};

/// Keys of a run.
const KEYS: u64 = 10;
/// Whoever lost its leader knows it by then, and all links are up again.
const REST_MS: u64 = 5_000;

/// What has happened to a node, or to the road between two.
#[derive(Clone, Copy)]
enum Trouble {
    Down(usize),
    Cut,
    Paused,
}

struct Run {
    cluster: Cluster,
    rng: Rng,
    caches: Vec<(usize, Cache)>,
    /// With the replies that are due.
    writers: Vec<(usize, Talk, usize)>,
    trouble: Option<Trouble>,
    number: u64,
    done: Done,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (shards, partitions) = (rng.between(1, 2) as u16, rng.between(1, 3) as u32);
        let shape = Shape { shards, partitions, ..Shape::default() };
        let cluster = Cluster::new(seed, 3, &shape);
        let (caches, writers, trouble) = (Vec::new(), Vec::new(), None);
        let mut run =
            Self { cluster, rng, caches, writers, trouble, number: 0, done: Done::default() };
        // Until all is led.
        run.cluster.run_ms(2_000);
        (0..3).for_each(|_| run.add_cache());
        (0..2).for_each(|_| run.add_writer());
        run
    }

    /// One that serves.
    fn node(&mut self) -> usize {
        let up: Vec<_> = (0..3).filter(|node| self.cluster.houses[*node].node.is_up()).collect();
        up[self.rng.index(up.len())]
    }

    fn connect(&mut self, node: usize) -> Talk {
        let shard = self.rng.below(u64::from(self.cluster.houses[node].shape.shards));
        self.cluster.houses[node].connect_to(shard as u16)
    }

    fn add_writer(&mut self) {
        let node = self.node();
        let talk = self.connect(node);
        self.writers.push((node, talk, 0));
    }

    fn add_cache(&mut self) {
        let way = [Way::Reads, Way::OptIn, Way::OptOut, Way::Broadcast, Way::Redirected];
        let (way, node) = (way[self.rng.index(way.len())], self.node());
        let (talk, mut told_by) = (self.connect(node), None);
        let mut id = String::new();
        if way == Way::Redirected {
            let other = self.connect(node);
            self.cluster.ask(&other, &["HELLO", "3"]);
            let Some(Value::Int(number)) = self.cluster.ask(&other, &["CLIENT", "ID"]) else {
                return self.add_cache();
            };
            (id, told_by) = (number.to_string(), Some(other));
        }
        let mut cache = Cache::new(way, talk, told_by);
        cache.say(&["HELLO", "3"], Vec::new());
        cache.say(&command_of(way, &id), Vec::new());
        self.caches.push((node, cache));
    }

    fn key(&mut self) -> String {
        format!("k{}", self.rng.below(KEYS))
    }

    fn write(&mut self, at: usize) {
        self.number += 1;
        let (key, other, value) = (self.key(), self.key(), self.number.to_string());
        let ms = self.rng.between(1, DEADLINE_MS_MAX).to_string();
        let (_, talk, due) = &mut self.writers[at];
        match self.rng.below(8) {
            0..3 => talk.send(&["SET", &key, &value]),
            3 => talk.send(&["SET", &key, &value, "PX", &ms]),
            4 => talk.send(&["MSET", &key, &value, &other, &value]),
            5 => talk.send(&["DEL", &key, &other]),
            6 if self.rng.one_in(8) => talk.send(&["FLUSHALL"]),
            _ => talk.send(&["APPEND", &key, &value]),
        }
        *due += 1;
    }

    fn read(&mut self, at: usize) {
        let keys: Vec<_> = (0..self.rng.between(2, 4)).map(|_| self.key()).collect();
        say_read(&mut self.caches[at].1, &mut self.rng, keys);
    }

    /// Takes what came; who is gone is replaced.
    fn take_all(&mut self) {
        self.caches.iter_mut().for_each(|(_, cache)| cache.take_all(&mut self.done));
        for (_, talk, due) in &mut self.writers {
            *due -= std::iter::from_fn(|| talk.next()).count();
        }
        let (caches, writers) = (self.caches.len(), self.writers.len());
        self.caches.retain(|(_, cache)| !cache.is_ended());
        self.writers.retain(|(_, talk, _)| !talk.is_ended());
        (self.caches.len()..caches).for_each(|_| self.add_cache());
        (self.writers.len()..writers).for_each(|_| self.add_writer());
    }

    fn disturb(&mut self) {
        let node = self.rng.index(3);
        let house = &self.cluster.houses[node];
        let (id, next) = (house.node.id(), self.cluster.houses[(node + 1) % 3].node.id());
        self.trouble = Some(match self.rng.below(6) {
            0 => {
                house.node.kill();
                Trouble::Down(node)
            }
            1 => {
                house.stop();
                Trouble::Down(node)
            }
            2 => {
                house.node.pause_for(Duration::from_millis(self.rng.between(200, 3_000)));
                Trouble::Paused
            }
            3 => {
                self.cluster.sim.isolate(id);
                Trouble::Cut
            }
            4 => {
                self.cluster.sim.cut(id, next);
                Trouble::Cut
            }
            _ => {
                self.cluster.sim.cut(next, id);
                self.cluster.sim.cut(id, next);
                Trouble::Cut
            }
        });
    }

    fn heal(&mut self) {
        match self.trouble.take() {
            Some(Trouble::Down(node)) => self.cluster.houses[node].boot().expect("it starts"),
            Some(Trouble::Cut) => self.cluster.sim.heal(),
            Some(Trouble::Paused) | None => {}
        }
    }

    /// Waits until all is answered; what is held must be what is there.
    fn rest(&mut self) -> Result<(), String> {
        self.heal();
        let end = self.cluster.sim.now() + PATIENCE;
        let is_answered = |run: &Self| {
            run.caches.iter().all(|(_, cache)| cache.is_answered())
                && run.writers.iter().all(|(_, _, due)| *due == 0)
        };
        let mut left = REST_MS;
        while left > 0 || !is_answered(self) {
            if self.cluster.sim.now() > end {
                return Err("hang".to_owned());
            }
            self.cluster.run_ms(20);
            left = left.saturating_sub(20);
            self.take_all();
        }
        let mut there = Vec::new();
        for key in (0..KEYS).map(|number| format!("k{number}")) {
            let node = self.node();
            let value = loop {
                let talk = self.connect(node);
                match self.cluster.ask(&talk, &["GET", &key]) {
                    Some(Value::Error(text)) => println!("{key}: {text}"),
                    Some(value) => break value,
                    None => {}
                }
                self.cluster.run_ms(100);
            };
            there.push((key, value));
        }
        // Reading has deleted what was over; that is told, too.
        self.cluster.run_ms(200);
        self.take_all();
        for (node, cache) in &self.caches {
            for (key, value) in &there {
                if let Some(held) = cache.held(key).filter(|held| *held != value) {
                    let way = cache.way;
                    return Err(format!(
                        "a cache ({way:?}) at {node} holds {key} {held:?}: it is {value:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn run(seed: u64) -> Result<Done, String> {
    let mut run = Run::new(seed);
    for _ in 0..3 {
        for _ in 0..run.rng.between(20, 200) {
            let at = run.rng.index(run.caches.len());
            match run.rng.below(5) {
                0 | 1 => run.read(at),
                2 => {
                    let at = run.rng.index(run.writers.len());
                    run.write(at);
                }
                _ if run.rng.one_in(20) && run.trouble.is_none() => run.disturb(),
                _ if run.rng.one_in(20) => run.heal(),
                _ => run.cluster.sim.run_for(Duration::from_micros(run.rng.below(40_000))),
            }
            run.take_all();
        }
        run.rest()?;
    }
    Ok(run.done)
}

#[test]
fn caches_of_any_node_hold_nothing_old_for_good() {
    let sums = Cell::new((0, 0));
    check(24, |seed| {
        let done = run(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (told, cached) = sums.get();
        sums.set((told + done.told, cached + done.cached));
    });
    let (told, cached) = sums.get();
    println!("{cached} values cached, {told} invalidations");
    assert!(told > 100);
}
