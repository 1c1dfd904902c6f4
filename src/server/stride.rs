//! A step of SCAN over a partition whose rows are not all in memory, or that another node may lead
//! before the next step: in the order of slots, and within a slot in the order of a hash of the
//! key, which is the same on all nodes.
//!
//! A cursor has 53 bits and a key has more, so a step that ends within a slot says with the hash
//! how far it came: it shows the keys with the smallest hashes from there on. A slot is read from
//! its beginning each time, which costs what it holds; mostly that is less than a step shows.
//!
//! Each key that is there from the first step to the last is shown, and once.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::Server;
use crate::env::Env;
use crate::id::{PartitionId, Slot};
use crate::lsm::key;
use crate::shard::{Cursor, Listed, Listing, Within, user_key};

/// Keys that are read at a time, at least and at most.
const PAGE_KEYS: [usize; 2] = [128, 1024];

/// Keys that a step looks at, but for the rest of the last slot.
const SEEN_MAX: usize = 16 << 10;

/// See the module's header.
pub(super) struct Stride {
    place: u32,
    partition: u32,
    db: u8,
    count: usize,
    listing: Listing,
    /// Where in the partition it is.
    at: Within,
    /// Keys of the present slot, by their hashes.
    here: BTreeMap<u32, Vec<Vec<u8>>>,
    here_count: usize,
    /// Keys of this hash and above are left to the next step.
    until: Option<u32>,
    seen: usize,
    /// User keys.
    pub found: Vec<Vec<u8>>,
}

/// How far a step got.
pub(super) enum Strode {
    /// It waits for the disk.
    Not,
    /// It is done, and the next begins there.
    To(Cursor),
    /// It can not be done: the text of an error reply.
    Failed(String),
}

/// A step shows some keys more than were asked for, if they are of one slot.
fn page_keys(count: usize) -> usize {
    count.saturating_mul(2).clamp(PAGE_KEYS[0], PAGE_KEYS[1])
}

fn hash_of(name: &[u8]) -> u32 {
    (xxh3_64(name) >> (64 - Within::HASH_BITS)) as u32
}

impl Stride {
    /// Takes a live key; true: the step is done before it.
    fn take(&mut self, encoded: &[u8]) -> bool {
        let slot = key::slot_in(encoded);
        if slot != self.at.slot && self.end_slot(slot) {
            return true;
        }
        self.seen += 1;
        if key::db_of(encoded) != self.db {
            return false;
        }
        let name = user_key(encoded);
        let hash = hash_of(&name);
        if hash < self.at.hash || self.until.is_some_and(|until| hash >= until) {
            return false;
        }
        self.here.entry(hash).or_default().push(name.into_owned());
        self.here_count += 1;
        self.leave_rest();
        false
    }

    /// Leaves the keys with the largest hashes to the next step, if there are too many.
    fn leave_rest(&mut self) {
        while self.found.len() + self.here_count > self.count && self.here.len() > 1 {
            let Some((hash, left)) = self.here.pop_last() else { return };
            self.here_count -= left.len();
            self.until = Some(hash);
        }
    }

    /// The slot has no more keys; the next one is `next`. True: the step is done.
    fn end_slot(&mut self, next: Slot) -> bool {
        self.found.extend(std::mem::take(&mut self.here).into_values().flatten());
        self.here_count = 0;
        if let Some(hash) = self.until {
            self.at.hash = hash;
            return true;
        }
        self.at = Within { slot: next, hash: 0 };
        self.found.len() >= self.count || self.seen >= SEEN_MAX
    }
}

impl<E: Env> Server<E> {
    /// Whether a cursor is in a partition whose keys take the disk to walk.
    pub(super) fn takes_disk(&self, cursor: Cursor) -> bool {
        let first = self.shard.map().partitions_of(self.shard.id()).start;
        let place = cursor.partition.saturating_sub(first);
        self.shard.is_partial_at(place)
    }

    /// Whether SCAN goes on from a cursor by strides.
    pub(super) fn strides(&self, cursor: Cursor) -> bool {
        self.shard.members().is_some() || self.takes_disk(cursor)
    }

    /// Begins a step in such a partition, of this shard.
    pub(super) fn begin_stride(&self, cursor: Cursor, db: u8, count: usize) -> Stride {
        let first = self.shard.map().partitions_of(self.shard.id()).start;
        let partition = cursor.partition.max(first);
        let place = partition - first;
        let slots = self.shard.map().slots_of(PartitionId(partition));
        // A cursor of before its rows left memory: from the beginning, so that none is missed.
        let start = Within { slot: Slot(slots.start), hash: 0 };
        let at = cursor.within().filter(|at| slots.contains(&at.slot.0)).unwrap_or(start);
        let from = key::slot_prefix(at.slot, 0);
        let listing = self.shard.list(place, &from, page_keys(count));
        let (here, here_count, until, seen, found) = Default::default();
        let count = count.max(1);
        Stride { place, partition, db, count, listing, at, here, here_count, until, seen, found }
    }

    /// Goes on with it.
    pub(super) fn go_on(&mut self, stride: &mut Stride) -> Strode {
        let mut keys = Vec::new();
        let listed = self.shard.take_listed(&mut stride.listing, |key, _| keys.push(key.to_vec()));
        match listed {
            Listed::Not => return Strode::Not,
            Listed::Failed(error) => return Strode::Failed(error),
            Listed::To(_) if keys.iter().any(|key| stride.take(key)) => {}
            Listed::To(Some(next)) => {
                stride.listing = self.shard.list(stride.place, &next, page_keys(stride.count));
                return Strode::Not;
            }
            Listed::To(None) => {
                if !stride.end_slot(stride.at.slot) || stride.until.is_none() {
                    return Strode::To(Cursor::at(stride.partition + 1));
                }
            }
        }
        Strode::To(Cursor::in_order(stride.partition, stride.at))
    }
}
