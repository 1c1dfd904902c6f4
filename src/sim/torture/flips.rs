//! Single bits of files, flipped: found, or without effect.
//!
//! A data directory is made by a trace and ended by a power cut. For each flip it is put on a fresh
//! disk, one bit is flipped, and the node started: it refuses the start and names a file, or it
//! serves, and then each key is answered with what it held or with an error. One thing may not be
//! told from a crash: damage in the last block of a log, if that is a long one, is what a torn
//! write looks like, and there the last write may be missing, whole. The same holds for the last
//! record of a manifest: then it is a table of before, which is gone, that is named.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;

use super::house::{House, Shape};
use super::talk::Value;
use super::trace::Trace;
use super::{Done, Kind, Violation};
use crate::limits::SECTOR_LEN;
use crate::sim::Rng;

type Model = BTreeMap<String, Option<Rc<Vec<u8>>>>;

/// A data directory, and what its keys hold.
#[derive(Debug)]
pub struct Image {
    shape: Shape,
    /// By kind: log, tables, manifest.
    files: [Vec<(PathBuf, Vec<u8>)>; 3],
    /// At its end, and before each of the last writes.
    models: Vec<Model>,
}

/// One bit.
#[derive(Debug)]
struct Flip<'a> {
    path: &'a PathBuf,
    offset: usize,
    bit: u8,
    is_log: bool,
}

impl Image {
    /// What a trace of `ops` commands leaves.
    ///
    /// # Errors
    /// What is wrong before anything was flipped.
    pub fn new(seed: u64, shape: &Shape, ops: u64) -> Result<Self, Violation> {
        let mut trace = Trace::new(seed, shape.clone());
        let mut models = Vec::new();
        trace.boot().map_err(|error| trace.violation(Kind::RefusedStart, error))?;
        for _ in 0..ops {
            trace.step()?;
            models.push(trace.known());
        }
        models.reverse();
        models.dedup();
        models.truncate(3);
        trace.crash(true);
        let mut files = [const { Vec::new() }; 3];
        for shard in 0..shape.shards {
            for part in ["wal", "tree"] {
                let dir = format!("/data/shard-{shard:02}/{part}");
                for name in trace.house.node.names(&dir) {
                    let kind = ["wal", ".sst", ".manifest"];
                    let is = |kind: &str| part == kind || name.ends_with(kind);
                    let kind = kind.iter().position(|kind| is(kind)).unwrap_or(0);
                    let path = PathBuf::from(format!("{dir}/{name}"));
                    let bytes = trace.house.node.read_file(&path).unwrap_or_default();
                    files[kind].push((path, bytes));
                }
            }
        }
        Ok(Self { shape: shape.clone(), files, models })
    }

    /// Flips one bit of a fresh copy. Most are in sectors with something in them.
    ///
    /// # Errors
    /// A wrong answer, or one that is missing.
    pub fn flip(&self, rng: &mut Rng, done: &mut Done) -> Result<(), Violation> {
        let flip = self.draw(rng);
        let seed = rng.next_u64();
        let run = AssertUnwindSafe(|| self.judge(seed, &flip, done));
        let result = match catch_unwind(run) {
            Ok(result) => result,
            Err(_) => Err((Kind::Wrong, "a panic".to_owned())),
        };
        let told = |(kind, text)| Violation { kind, life: 0, text: format!("{flip:?}: {text}") };
        result.map_err(told)
    }

    fn draw(&self, rng: &mut Rng) -> Flip<'_> {
        loop {
            let kind = rng.index(3);
            if self.files[kind].is_empty() {
                continue;
            }
            let (path, bytes) = &self.files[kind][rng.index(self.files[kind].len())];
            if bytes.is_empty() {
                continue;
            }
            let offset = rng.index(bytes.len());
            let sector = offset / SECTOR_LEN * SECTOR_LEN;
            let sector = &bytes[sector..bytes.len().min(sector + SECTOR_LEN)];
            if sector.iter().any(|byte| *byte != 0) || rng.one_in(200) {
                let bit = rng.below(8) as u8;
                return Flip { path, offset, bit, is_log: kind == 0 };
            }
        }
    }

    fn judge(&self, seed: u64, flip: &Flip<'_>, done: &mut Done) -> Result<(), (Kind, String)> {
        let mut house = self.house(seed);
        house.node.flip_bit(flip.path, flip.offset as u64, flip.bit);
        done.flips += 1;
        if let Err(error) = house.boot() {
            done.detected += 1;
            let is_named = error.contains("/data/shard-");
            return if is_named { Ok(()) } else { Err((Kind::Wrong, format!("unnamed: {error}"))) };
        }
        let found = read(&house);
        let agrees = |model: &Model| {
            let held = |key: &String| Value::from_option(model[key].as_deref());
            found.iter().all(|(key, value)| value.is_error("") || *value == held(key))
        };
        let refused = found.values().filter(|value| value.is_error("")).count();
        match self.models.iter().position(agrees) {
            Some(0) if refused > 0 => done.detected += 1,
            Some(0) => done.harmless += 1,
            Some(_) if flip.is_log => done.torn += 1,
            _ => return Err((Kind::Lost, self.differences(&found))),
        }
        Ok(())
    }

    fn house(&self, seed: u64) -> House {
        let house = House::unopened(seed, self.shape.clone());
        for shard in 0..self.shape.shards {
            for part in ["wal", "tree"] {
                house.node.make_dir(format!("/data/shard-{shard:02}/{part}"));
            }
        }
        for (path, bytes) in self.files.iter().flatten() {
            house.node.write_file(path, bytes);
        }
        house
    }

    fn differences(&self, found: &BTreeMap<String, Value>) -> String {
        let held = |key: &String| Value::from_option(self.models[0][key].as_deref());
        let wrong = found.iter().filter(|(key, value)| **value != held(key));
        let wrong = wrong.map(|(key, value)| format!("{key}: {value:?} for {:?}", held(key)));
        wrong.take(5).collect::<Vec<_>>().join(", ")
    }
}

fn read(house: &House) -> BTreeMap<String, Value> {
    let mut talk = house.connect();
    let mut found = BTreeMap::new();
    for index in 0..super::trace::KEYS {
        let key = super::trace::key(index);
        let value = house.ask(&mut talk, &["GET", &key]);
        found.insert(key, value);
    }
    found
}
