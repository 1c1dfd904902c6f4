//! Commands on keys that all live on this shard, and steps that several commands share.
//!
//! Between [`Shard::begin_together`] and [`Shard::end_together`] no entry is sealed: whatever is
//! evaluated there is one entry per partition, so that a crash leaves all of it or none. Nothing
//! else runs in between, since a core does one thing at a time: so nobody sees a part of it. MSET,
//! RENAME, EXEC and their kin run so.

use std::sync::Arc;

use smallvec::SmallVec;

use super::changes::Before;
use super::{Planted, Shard, Target};
use crate::command::{Args, Error, Event, Run, Spec, Together, notify};
use crate::env::Env;
use crate::id::Slot;
use crate::lsm::key;
use crate::partition::{Decided, Key, What};
use crate::protocol::resp::Reply;

/// Entries that a reply waits for: of each partition's place the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds(SmallVec<[(u32, u64); 2]>);

impl Holds {
    /// The reply tells of an entry of the partition at `place`.
    pub fn add(&mut self, place: u32, entry: u64) {
        match self.0.iter_mut().find(|(held, _)| *held == place) {
            Some((_, last)) => *last = entry.max(*last),
            None => self.0.push((place, entry)),
        }
    }

    /// Of each place the last entry.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// Encoded keys of a command, one after the other, each with its end.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    ends: SmallVec<[usize; 4]>,
}

impl<E: Env> Shard<E> {
    /// The one partition of this shard that has all these keys; or how they are spread.
    pub fn place_of_all(&self, slots: impl IntoIterator<Item = Slot>) -> Spread {
        let mut partitions = slots.into_iter().map(|slot| self.map.partition_of(slot));
        let Some(first) = partitions.next() else { return Spread::Nowhere };
        if partitions.any(|partition| partition != first) {
            return Spread::Several;
        }
        match (self.place_of(first), self.owner(first)) {
            (Some(place), owner) if owner == self.id => Spread::Here(place),
            (_, owner) => Spread::Elsewhere(owner),
        }
    }

    /// Begins a step: what is evaluated until its end is one entry per partition.
    pub fn begin_together(&mut self) {
        assert!(!self.together, "a step within a step");
        self.together = true;
    }

    /// Ends a step.
    pub fn end_together(&mut self) {
        self.together = false;
        for at in 0..self.touched.len() {
            let place = self.touched[at];
            if self.partitions[place as usize].is_full() {
                self.seal(place);
            }
        }
    }

    /// Whether the open entry of a partition must be sealed now.
    pub(super) fn is_due(&self, place: u32) -> bool {
        let partition = &self.partitions[place as usize];
        match self.together {
            false => partition.is_full(),
            true => self.planted == Some(Planted::SplitTransaction) && partition.is_open(),
        }
    }

    /// Evaluates a command whose keys all live here, with its whole reply. An error is its reply.
    ///
    /// # Panics
    /// If a key lives elsewhere, or the command has no keys.
    pub fn evaluate_whole(
        &mut self,
        spec: &Spec,
        args: Args<'_>,
        db: u8,
        reply: &mut Reply<'_>,
        holds: &mut Holds,
    ) {
        match &spec.run {
            Run::Keyed(keyed) => {
                let indices = spec.key_indices(&args);
                keyed.begin(indices.len(), reply);
                let (mut count, mut scratch) = (0, Vec::new());
                for at in indices {
                    let target = self.target(db, args.get(at), &mut scratch);
                    let place = target.place;
                    let evaluated = self.evaluate(target, spec, args, at, None, reply);
                    count += evaluated.count;
                    evaluated.hold.into_iter().for_each(|entry| holds.add(place, entry));
                }
                keyed.finish(count, reply);
            }
            Run::Together(together) => match (together.dbs)(&args, db) {
                Ok(dbs) => self.judge(spec, together, args, dbs, reply, holds),
                Err(error) => reply.error(&error.to_string()),
            },
            _ => panic!("{spec:?} has no keys"),
        }
    }

    /// Where a key of this shard lives.
    fn target<'a>(&self, db: u8, name: &[u8], scratch: &'a mut Vec<u8>) -> Target<'a> {
        let slot = key::slot_of(name);
        let place = self.replica_of(slot).expect("the key lives here");
        key::encode_data_key(slot, db, name, scratch);
        let hash = self.partition(place).memtable().hash(scratch);
        Target { place, hash, key: scratch }
    }

    /// Evaluates a command whose keys are judged together; all must live in one partition.
    fn judge(
        &mut self,
        spec: &Spec,
        together: &Together,
        args: Args<'_>,
        dbs: [u8; 2],
        reply: &mut Reply<'_>,
        holds: &mut Holds,
    ) {
        let indices = together.key_indices(spec, &args);
        let slots = indices.iter().map(|at| key::slot_of(args.get(*at)));
        let Spread::Here(place) = self.place_of_all(slots) else {
            return reply.error(&Error::CrossSlot.to_string());
        };
        let (mut names, mut scratch) = (Names::default(), Vec::new());
        for (nth, at) in indices.into_iter().enumerate() {
            self.target(dbs[nth.min(1)], args.get(at), &mut scratch);
            names.bytes.extend_from_slice(&scratch);
            names.ends.push(names.bytes.len());
        }
        let now_ms = self.now_ms;
        let partition = &mut self.partitions[place as usize];
        let starts = std::iter::once(0).chain(names.ends.iter().copied());
        let keys: SmallVec<[Key<'_>; 4]> = starts
            .zip(&names.ends)
            .map(|(start, end)| &names.bytes[start..*end])
            .map(|key| (partition.memtable().hash(key), key))
            .collect();
        keys.iter().for_each(|(hash, key)| partition.note_use(*hash, key));
        let mut hits: SmallVec<[bool; 4]> = SmallVec::new();
        let (decided, mut hold) = partition.judge(&keys, now_ms, |found| {
            hits.extend(found.iter().map(Option::is_some));
            together.decide(args, found, reply)
        });
        let is_counted = notify::is_counted(spec, &args);
        for nth in notify::read_keys(spec, keys.len()) {
            let ((hash, key), hit) = (keys[nth], hits[nth]);
            if is_counted {
                self.stats.note_read(hit);
            }
            if self.changes.are_observed() {
                self.note_lookup(Target { place, hash, key }, (spec, &args), (hit, hold));
            }
        }
        for Decided { key, what, event } in decided {
            let (hash, key) = keys[key];
            let entry = self.carry_out(Target { place, hash, key }, what, event);
            hold = hold.max(entry);
        }
        hold.into_iter().for_each(|entry| holds.add(place, entry));
    }

    fn carry_out(&mut self, target: Target<'_>, what: What, event: Event) -> Option<u64> {
        let Target { place, hash, key } = target;
        let observed = self.changes.are_observed();
        let before = if observed { self.before(target) } else { Before::There };
        let now_ms = self.now_ms;
        let partition = &mut self.partitions[place as usize];
        let entry = match what {
            What::Delete => partition.delete(hash, key, now_ms),
            What::Put(value, expiry_ms) => {
                Some(partition.put((hash, key), &value, expiry_ms, now_ms))
            }
            What::PutLarge(value, expiry_ms) => {
                Some(self.put_large(target, &value, expiry_ms, None))
            }
        };
        if observed {
            self.note_change((place, entry), key, event, before);
        }
        if self.partitions[place as usize].is_open() {
            self.touch(place);
        }
        entry
    }

    /// Proposes a large value; logs it first, unless it is there already.
    pub(super) fn put_large(
        &mut self,
        target: Target<'_>,
        value: &Arc<Vec<u8>>,
        expiry_ms: Option<u64>,
        blob: Option<crate::mvcc::BlobRef>,
    ) -> u64 {
        let Target { place, hash, key } = target;
        let blob = blob.unwrap_or_else(|| self.log_whole_blob(value));
        let partition = &mut self.partitions[place as usize];
        partition.put_large(hash, key, (value, blob), expiry_ms, self.now_ms)
    }
}

/// How keys are spread over partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// There are none.
    Nowhere,
    /// All in this partition of this shard.
    Here(u32),
    /// All in one partition, of another shard.
    Elsewhere(crate::id::ShardId),
    /// Over several partitions.
    Several,
}
