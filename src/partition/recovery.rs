//! From the tables and the log's records back to a partition.
//!
//! The rows of the tables come first, if they are loaded at all, then what the log has: all
//! entries behind the one that the tables go up to, perhaps some before. A table may have a newer
//! version of a key than an entry that is replayed, since a flush goes on while keys change; such a
//! version stays, and the entry that made it comes later in the log.
//!
//! A lone voter's durable log is its committed log, so each entry is applied as it is read and
//! dropped from Raft's memory. (A group of several voters keeps what is above the commit index as
//! uncommitted versions; that joins with replication.)

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Before, Committed, Entry, Flushed, Partition, Sizes};
use crate::consensus::{Config, Group, Restored};
use crate::id::{NodeId, PartitionId, Timestamp};
use crate::lsm::memtable::{Memtable, Payload, Remains, Version};
use crate::mvcc::{self, BlobRef, Effect, Logged};

/// Large values met in the log, by blob id: complete or still growing.
pub type Blobs = HashMap<u64, Arc<Vec<u8>>, ahash::RandomState>;

/// Whether a table may have a key; asked when rows stay in the tables.
pub type MayHave<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Effects that are applied together.
const GROUP_LEN: usize = 32;

/// Why a record could not be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The entry does not decode, though its checksum is right.
    #[error("partition {partition} entry {index}: {source}")]
    Malformed {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: u64,
        /// Where in it.
        source: mvcc::Error,
    },
    /// Entries are numbered without a gap.
    #[error("partition {partition}: entry {found} follows entry {last}")]
    Gap {
        /// Whose.
        partition: PartitionId,
        /// The entry before.
        last: u64,
        /// The entry that came.
        found: u64,
    },
    /// A value's blob records are missing before its entry.
    #[error("partition {partition} entry {index}: blob {blob} is not in the log")]
    BlobMissing {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: u64,
        /// The blob.
        blob: u64,
    },
}

/// What the manifest says of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How far the tables go.
    pub flushed: Flushed,
    /// The term of the entry that they go up to.
    pub index_term: u64,
    /// Raft's term.
    pub term: u64,
    /// Raft's vote, 0: none.
    pub vote: u64,
    /// The newest version that a table may have.
    pub clock: Timestamp,
}

/// A partition being rebuilt.
pub struct Recovery {
    id: PartitionId,
    hash_seed: u64,
    memtable: Memtable,
    sizes: Sizes,
    dying: Vec<Remains>,
    clock: Timestamp,
    term: u64,
    vote: Option<NodeId>,
    last_index: u64,
    last_term: u64,
    flushed: Flushed,
    /// No table has a newer version.
    tables_clock: Timestamp,
    /// The log cleared what the tables have.
    is_cleared: bool,
}

impl Recovery {
    /// A partition of which the manifest says `stored`; the default if it says nothing.
    pub fn new(id: PartitionId, hash_seed: u64, stored: Stored) -> Self {
        Self {
            id,
            hash_seed,
            memtable: Memtable::new(hash_seed),
            sizes: Sizes::default(),
            dying: Vec::new(),
            clock: stored.clock,
            term: stored.term,
            vote: (stored.vote != 0).then_some(NodeId(stored.vote)),
            last_index: stored.flushed.index,
            last_term: stored.index_term,
            flushed: stored.flushed,
            tables_clock: stored.clock,
            is_cleared: false,
        }
    }

    /// The tables of the partition have rows: tombstones have something to shadow.
    pub fn has_tables(&mut self) {
        self.memtable.keep_tombstones();
    }

    /// Its rows stay in the tables; of these there are about `sizes` keys.
    pub fn lean_on_tables(&mut self, sizes: Sizes) {
        self.memtable.make_partial();
        self.sizes = sizes;
    }

    /// Takes in the newest version of a key that its tables have, a put. Each key once.
    pub fn row(&mut self, key: &[u8], version: &Version<'_>) {
        let before = Before::of(key, &self.memtable);
        let hash = self.memtable.hash(key);
        let Version { timestamp, expiry_ms, payload, .. } = *version;
        let entry = self.memtable.put(hash, key, timestamp, expiry_ms, payload);
        self.memtable.commit(entry, timestamp);
        self.sizes.note(before, &self.memtable);
    }

    /// Takes in a hard state record.
    pub fn hard_state(&mut self, term: u64, payload: &[u8]) {
        // The log may reach back behind what the manifest says.
        if term < self.term {
            return;
        }
        let vote = payload.try_into().map_or(0, u64::from_le_bytes);
        self.term = term;
        self.vote = (vote != 0).then_some(NodeId(vote));
    }

    /// Takes in and applies an entry record, unless its effects are in the tables.
    ///
    /// # Errors
    /// As [`Error`]: the log is not one that this program wrote; nothing can be trusted after it.
    pub fn entry(
        &mut self,
        term: u64,
        index: u64,
        payload: &[u8],
        blobs: &mut Blobs,
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        let partition = self.id;
        if index <= self.flushed.index {
            drop_blobs(payload, blobs);
            return Ok(());
        }
        if index != self.last_index + 1 {
            return Err(Error::Gap { partition, last: self.last_index, found: index });
        }
        match mvcc::decode(payload).next() {
            Some(Ok(Effect::Elsewhere { blob, .. })) => {
                let effects = self.blob(index, blob, blobs)?;
                self.apply_all(index, &effects, blobs, may_have)?;
            }
            _ => self.apply_all(index, payload, blobs, may_have)?,
        }
        self.last_index = index;
        self.last_term = term;
        self.term = self.term.max(term);
        Ok(())
    }

    /// Applies effects, some at a time, so that the cache misses of their keys overlap: they are
    /// most of what a replay takes.
    fn apply_all(
        &mut self,
        index: u64,
        effects: &[u8],
        blobs: &mut Blobs,
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        let partition = self.id;
        let mut effects = mvcc::decode(effects);
        let mut group: SmallVec<[(u64, Effect<'_>); GROUP_LEN]> = SmallVec::new();
        loop {
            for effect in effects.by_ref().take(GROUP_LEN) {
                let effect =
                    effect.map_err(|s| Error::Malformed { partition, index, source: s })?;
                let hash = effect.key().map_or(0, |key| self.memtable.hash(key));
                self.memtable.prefetch(hash);
                group.push((hash, effect));
            }
            if group.is_empty() {
                return Ok(());
            }
            group.iter().for_each(|(hash, _)| self.memtable.prefetch_entry(*hash));
            for (hash, effect) in group.drain(..) {
                self.apply(index, hash, effect, blobs, may_have)?;
            }
        }
    }

    fn apply(
        &mut self,
        index: u64,
        hash: u64,
        effect: Effect<'_>,
        blobs: &mut Blobs,
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        self.clock = self.clock.max(effect.timestamp());
        if effect.key().is_some_and(|key| self.is_older(hash, key, effect.timestamp())) {
            return self.pass_over(index, effect, blobs);
        }
        match effect {
            Effect::Put { key, timestamp, expiry_ms, value } => {
                let whole;
                let payload = match value {
                    Logged::Inline(bytes) => Payload::Bytes(bytes),
                    Logged::Blob(blob) => {
                        whole = self.blob(index, blob, blobs)?;
                        Payload::Shared(&whole)
                    }
                };
                let replaces = self.is_away(hash, key) && may_have(key);
                let before = Before::of(key, &self.memtable);
                let entry = self.memtable.put(hash, key, timestamp, expiry_ms, payload);
                self.memtable.commit(entry, timestamp);
                self.sizes.note(before, &self.memtable);
                if replaces {
                    self.sizes.lose(key);
                }
            }
            Effect::Delete { key, timestamp } if self.is_away(hash, key) => {
                let entry = self.memtable.bury(hash, key, timestamp);
                self.memtable.commit(entry, timestamp);
                self.sizes.lose(key);
            }
            Effect::Delete { key, timestamp } => {
                let before = Before::of(key, &self.memtable);
                if let Some(entry) = self.memtable.delete(hash, key, timestamp) {
                    self.memtable.commit(entry, timestamp);
                    self.sizes.note(before, &self.memtable);
                }
            }
            Effect::Clear { .. } => {
                self.is_cleared = true;
                let fresh = Memtable::new(self.hash_seed);
                self.dying.push(std::mem::replace(&mut self.memtable, fresh).dismantle());
                self.sizes = Sizes::default();
            }
            Effect::Elsewhere { .. } => {
                let (partition, source) = (self.id, mvcc::Error { offset: 0 });
                return Err(Error::Malformed { partition, index, source });
            }
        }
        Ok(())
    }

    /// Whether only tables can tell of a key.
    fn is_away(&self, hash: u64, key: &[u8]) -> bool {
        self.memtable.is_partial() && self.memtable.get(hash, key).is_none()
    }

    /// Whether a version of the key is here that is as new: a table had it.
    fn is_older(&self, hash: u64, key: &[u8], timestamp: Timestamp) -> bool {
        timestamp <= self.tables_clock
            && self.memtable.get(hash, key).is_some_and(|newest| newest.timestamp >= timestamp)
    }

    fn pass_over(&self, index: u64, effect: Effect<'_>, blobs: &mut Blobs) -> Result<(), Error> {
        if let Effect::Put { value: Logged::Blob(blob), .. } = effect {
            self.blob(index, blob, blobs)?;
        }
        Ok(())
    }

    /// One effect refers to a blob, so it need not be kept any longer.
    fn blob(&self, index: u64, blob: BlobRef, blobs: &mut Blobs) -> Result<Arc<Vec<u8>>, Error> {
        match blobs.remove(&blob.id) {
            Some(bytes) if bytes.len() as u64 == blob.len => Ok(bytes),
            _ => Err(Error::BlobMissing { partition: self.id, index, blob: blob.id }),
        }
    }

    /// The partition, a follower for now: [`Partition::campaign`] next.
    pub fn finish(self, node: NodeId, seed: u64) -> Partition {
        let restored = Restored {
            term: self.term,
            vote: self.vote,
            commit: self.last_index,
            applied: self.last_index,
            snapshot_index: self.last_index,
            snapshot_term: self.last_term,
            entries: Vec::new(),
        };
        let group = Group::new(Config::new(node, Partition::lone(node), seed), restored)
            .expect("a group of one whose log was read without a gap");
        Partition {
            id: self.id,
            hash_seed: self.hash_seed,
            memtable: self.memtable,
            sizes: self.sizes,
            generation: u32::from(self.is_cleared),
            tables_generation: 0,
            flushed: self.flushed,
            retired: Default::default(),
            dying: self.dying,
            group,
            effects: Default::default(),
            clock: self.clock,
            committed: Committed { index: self.last_index, timestamp: self.clock },
            payload: Vec::new(),
            open: Entry { index: self.last_index + 1, ..Entry::default() },
            pending: Default::default(),
            spare: Vec::new(),
            absences: Default::default(),
            hand: 0,
            planted: None,
        }
    }
}

/// The entry is in the tables, and so are its large values.
fn drop_blobs(payload: &[u8], blobs: &mut Blobs) {
    for effect in mvcc::decode(payload).flatten() {
        let blob = match effect {
            Effect::Put { value: Logged::Blob(blob), .. } => blob,
            Effect::Elsewhere { blob, .. } => {
                if let Some(effects) = blobs.remove(&blob.id) {
                    drop_blobs(&effects, blobs);
                }
                continue;
            }
            _ => continue,
        };
        blobs.remove(&blob.id);
    }
}
