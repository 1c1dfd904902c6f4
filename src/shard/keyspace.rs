//! Walks over a shard's keys: what SCAN, KEYS, RANDOMKEY and the counts of a slot are made of.
//!
//! A walk goes partition by partition, and in each bucket by bucket of the memtable's hash index,
//! so that a step costs what it shows, whatever there is. Nothing is kept between steps but the
//! cursor, which a client may hold for as long as it likes:
//!
//! ```text
//! cursor := bucket << 14 | partition        0 begins; after the last partition it is 0 again
//! ```
//!
//! Partitions are numbered across the node, so a cursor tells which shard goes on. Buckets are
//! numbered so that growth invalidates none ([`Memtable::walk`]). A cursor is good for as long as
//! the node runs: hashes differ from run to run, as in Redis.
//!
//! Where rows are in tables alone there are no buckets to walk: there a walk goes in the order of
//! keys ([`Listing`]), and a cursor says how far it is [`Within`] the partition.
//!
//! Not here: who is asked, patterns and replies ([`crate::server`]).
//!
//! [`Memtable::walk`]: crate::lsm::memtable::Memtable::walk
//! [`Listing`]: super::Listing

use std::borrow::Cow;

use super::Shard;
use crate::command::is_expired;
use crate::env::Env;
use crate::id::{PartitionId, Slot};
use crate::limits::SLOT_COUNT;
use crate::lsm::key;
use crate::lsm::memtable::{Kind, Version};
use crate::partition::Partition;

/// Keys that one step looks at, at most: some 500 us of work.
const STEP_KEYS_MAX: usize = 4096;

/// Bytes of keys after which a step ends.
const STEP_LEN_MAX: usize = 1 << 20;

/// Buckets that RANDOMKEY tries before it looks in key order: more are needed only when nearly all
/// keys are of other databases.
const RANDOM_BUCKETS_MAX: usize = 64;

/// Which partitions of a shard something is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Option<Vec<PartitionId>>);

impl Scope {
    /// All of them, of a node that is alone.
    pub const ALL: Self = Self(None);

    /// Only these.
    pub fn of(partitions: Vec<PartitionId>) -> Self {
        Self(Some(partitions))
    }

    /// Whether it is about a partition.
    pub fn has(&self, partition: PartitionId) -> bool {
        self.0.as_ref().is_none_or(|these| these.contains(&partition))
    }

    /// Those that are named.
    pub fn named(&self) -> &[PartitionId] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether it is about none.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }
}

const PARTITION_BITS: u32 = SLOT_COUNT.trailing_zeros();

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the partition, across the node.
    pub partition: u32,
    /// Where in its index.
    bucket: u64,
}

impl Cursor {
    /// At the beginning of a partition.
    pub fn at(partition: u32) -> Self {
        Self { partition, bucket: 0 }
    }

    /// As clients send it; any number is a cursor.
    pub fn decode(cursor: u64) -> Self {
        let partition = (cursor & ((1 << PARTITION_BITS) - 1)) as u32;
        Self { partition, bucket: cursor >> PARTITION_BITS }
    }

    /// As clients see it.
    pub fn encode(self) -> u64 {
        self.bucket << PARTITION_BITS | u64::from(self.partition)
    }
}

/// Set in the bucket of a cursor that is [`Within`]: there are not that many buckets.
const IN_ORDER: u64 = 1 << (PARTITION_BITS + Within::HASH_BITS);

/// How far a walk in order is: before the keys of a slot with this hash or a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// The slot.
    pub slot: Slot,
    /// Of a key.
    pub hash: u32,
}

impl Within {
    /// Bits of the hash: with the rest a cursor has 53, which JavaScript can hold.
    pub const HASH_BITS: u32 = 24;
}

impl Cursor {
    /// In a partition that is walked in order.
    pub fn in_order(partition: u32, Within { slot, hash }: Within) -> Self {
        let place = u64::from(slot.0) << Within::HASH_BITS | u64::from(hash);
        Self { partition, bucket: IN_ORDER | place }
    }

    /// How far it is, if it is of a walk in order.
    pub fn within(self) -> Option<Within> {
        let slot = Slot((self.bucket >> Within::HASH_BITS) as u16 & (SLOT_COUNT - 1));
        let hash = self.bucket as u32 & ((1 << Within::HASH_BITS) - 1);
        (self.bucket & IN_ORDER != 0).then_some(Within { slot, hash })
    }
}

/// How far a step got.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    seen: usize,
    shown: usize,
    shown_len: usize,
}

impl<E: Env> Shard<E> {
    /// Shows `each` some `count` live keys of a database from `from` on, in no order; `None`: there
    /// are no more on this shard. Looks at ten times as many, at most at 4,096, so it may show
    /// fewer or none, and stops before a partition whose rows are not all in memory. Whoever
    /// answers with it waits for what [`Shard::uncommitted`] names.
    pub fn walk(
        &self,
        (scope, db): (&Scope, u8),
        from: Cursor,
        count: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Option<Cursor> {
        let first = self.partitions[0].id().0;
        let mut at = if from.partition < first { Cursor::at(first) } else { from };
        let seen_max = count.saturating_mul(10).min(STEP_KEYS_MAX);
        let mut step = Step::default();
        while let Some(partition) = self.partitions.get((at.partition - first) as usize) {
            let is_full =
                step.shown >= count || step.seen >= seen_max || step.shown_len >= STEP_LEN_MAX;
            if is_full || partition.is_partial() {
                return Some(at);
            }
            if at.within().is_some() {
                // Its rows were in tables when the walk came here: from the beginning.
                at = Cursor::at(at.partition);
            }
            if !scope.has(PartitionId(at.partition)) {
                at = Cursor::at(at.partition + 1);
                continue;
            }
            // A bucket counts as a key, since it may hold none.
            step.seen += 1;
            let mut next = 0;
            if partition.db_sizes(db).0 > 0 {
                next = partition.memtable().walk(at.bucket, |encoded, version| {
                    step.seen += 1;
                    if key::db_of(encoded) == db && self.is_live(&version) {
                        let name = user_key(encoded);
                        step.shown += 1;
                        step.shown_len += name.len();
                        each(&name);
                    }
                });
            }
            at = if next == 0 {
                Cursor::at(at.partition + 1)
            } else {
                Cursor { bucket: next, ..at }
            };
        }
        None
    }

    /// Shows `each` live keys of a slot and database, in order, from the encoded key `from` on;
    /// where to go on, if there is more. Looks at `count` keys, at most at 4,096.
    pub fn walk_slot(
        &mut self,
        (slot, db): (Slot, u8),
        from: &[u8],
        count: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Option<Vec<u8>> {
        let place = self.replica_of(slot)?;
        let (prefix, now_ms) = (key::slot_prefix(slot, db), self.now_ms);
        let from = if from.is_empty() { &prefix } else { from };
        let mut last = None;
        let keys = self.partitions[place as usize].scan(from).take(count.clamp(1, STEP_KEYS_MAX));
        for (encoded, version) in keys {
            if !encoded.starts_with(&prefix) {
                return None;
            }
            if version.kind == Kind::Put && !is_expired(version.expiry_ms, now_ms) {
                each(&user_key(encoded));
            }
            last = Some(encoded);
        }
        // The least key behind the last.
        last.map(|last| [last, &[0]].concat())
    }

    /// Keys of a database.
    pub fn keys_of(&self, scope: &Scope, db: u8) -> u64 {
        self.partitions.iter().map(|partition| self.size_of(partition, scope, db)).sum()
    }

    fn size_of(&self, partition: &Partition, scope: &Scope, db: u8) -> u64 {
        if scope.has(partition.id()) { partition.db_sizes(db).0 } else { 0 }
    }

    /// A live key of a database, each about as likely as any other; with a number that says which
    /// of several shards' keys to take: the one with the least, which is that of a shard with many
    /// keys more often in proportion.
    pub fn random_key(&mut self, scope: &Scope, db: u8) -> Option<(Vec<u8>, i64)> {
        let (place, score) = self.random_place(scope, db)?;
        let key = self.random_of_buckets(place, db);
        let key = key.or_else(|| self.random_in_order(place, scope, db))?;
        Some((key, score))
    }

    /// The place of a partition, more likely the more keys of a database it has, and the number of
    /// [`Shard::random_key`]. None: there are no keys.
    pub fn random_place(&self, scope: &Scope, db: u8) -> Option<(usize, i64)> {
        let total = self.keys_of(scope, db);
        let mut nth = self.env.random().checked_rem(total)?;
        let sizes = self.partitions.iter().map(|of| self.size_of(of, scope, db));
        let place = sizes.into_iter().position(|keys| {
            let here = nth < keys;
            nth = nth.wrapping_sub(keys);
            here
        })?;
        // The first of `total` events of a Poisson process (Efraimidis, Spirakis, 2006).
        let chance = (self.env.random() >> 11) as f64 / (1u64 << 53) as f64;
        let score = -(1.0 - chance).ln() / total as f64;
        Some((place, (score * (1u64 << 60) as f64) as i64))
    }

    /// Whether not all rows of the partition at `place` are in memory.
    pub fn is_partial_at(&self, place: u32) -> bool {
        self.partitions.get(place as usize).is_some_and(|partition| partition.is_partial())
    }

    /// Whether the keys of a database can be deleted without looking for them.
    pub fn clears_at_once(&self, db: u8) -> bool {
        self.partitions.iter().all(|partition| !partition.is_partial() || partition.has_only(db))
    }

    fn random_of_buckets(&self, place: usize, db: u8) -> Option<Vec<u8>> {
        for _ in 0..RANDOM_BUCKETS_MAX {
            let (mut chosen, mut count) = (None, 0);
            let bucket = self.env.random();
            self.partitions[place].memtable().walk(bucket, |encoded, version| {
                if key::db_of(encoded) == db && self.is_live(&version) {
                    count += 1;
                    if self.env.random().is_multiple_of(count) {
                        chosen = Some(user_key(encoded).into_owned());
                    }
                }
            });
            if chosen.is_some() {
                return chosen;
            }
        }
        None
    }

    /// The first key of a slot that has one, from a random slot of the partition on, and then of
    /// any partition.
    fn random_in_order(&mut self, place: usize, scope: &Scope, db: u8) -> Option<Vec<u8>> {
        let partitions = self.partitions.len();
        let places = (0..partitions).map(|step| (place + step) % partitions);
        let has_some = |place: &usize| self.size_of(&self.partitions[*place], scope, db) > 0;
        for place in places.filter(has_some).collect::<Vec<_>>() {
            let slots = self.map.slots_of(self.partitions[place].id());
            let skip = self.env.random() % slots.len() as u64;
            for slot in slots.clone().cycle().skip(skip as usize).take(slots.len()) {
                let mut found = None;
                self.walk_slot((Slot(slot), db), &[], usize::MAX, |key| {
                    found.get_or_insert_with(|| key.to_vec());
                });
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn is_live(&self, version: &Version<'_>) -> bool {
        version.kind == Kind::Put && !is_expired(version.expiry_ms, self.now_ms)
    }
}

/// The user key inside an encoded key; copied only if it holds a zero byte.
pub fn user_key(encoded: &[u8]) -> Cow<'_, [u8]> {
    let plain = &encoded[key::PREFIX_LEN..encoded.len() - 2];
    if plain.contains(&0) {
        return Cow::Owned(key::decode_user_key(encoded).expect("a key of the memtable is whole"));
    }
    Cow::Borrowed(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_numbers_that_javascript_can_hold() {
        for (partition, bucket) in [(0, 0), (1, 0), (16_383, 1), (7, 1 << 38)] {
            let cursor = Cursor { partition, bucket };
            assert_eq!(Cursor::decode(cursor.encode()), cursor);
            assert!(cursor.encode() < 1 << 53);
        }
        let at = Within { slot: Slot(16_383), hash: (1 << Within::HASH_BITS) - 1 };
        let cursor = Cursor::in_order(16_383, at);
        assert_eq!(Cursor::decode(cursor.encode()).within(), Some(at));
        assert!(cursor.encode() < 1 << 53);
        assert_eq!(Cursor { partition: 7, bucket: 1 << 37 }.within(), None);
        assert_eq!(Cursor::at(0).encode(), 0);
        assert_eq!(Cursor::decode(u64::MAX).partition, 16_383);
    }
}
