//! Effects of committed entries become rows: at a replay, and on replicas that follow.
//!
//! A table may have a newer version of a key than an entry that is applied, since a flush goes on
//! while keys change; such a version stays, and the entry that made it comes later.

use std::sync::Arc;

use smallvec::SmallVec;

use super::standby::is_begin;
use super::{Before, MayHave, Sessions, Sizes};
use crate::id::Timestamp;
use crate::lsm::memtable::{Memtable, Payload, Remains, Version};
use crate::mvcc::{self, BlobRef, Effect, Logged};

/// Effects that are applied together.
const GROUP_LEN: usize = 32;

/// Why an entry could not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not decode.
    Malformed(mvcc::Error),
    /// A large value that it names is not there.
    BlobMissing(u64),
}

/// The rows of a partition, and what is counted of them.
pub(super) struct Rows<'a> {
    pub memtable: &'a mut Memtable,
    pub sizes: &'a mut Sizes,
    pub clock: &'a mut Timestamp,
    /// Rises with each clear.
    pub generation: &'a mut u32,
    pub dying: &'a mut Vec<Remains>,
    /// No table has a newer version.
    pub tables_clock: Timestamp,
    pub may_have: MayHave<'a>,
    /// What clients were told.
    pub sessions: &'a mut Sessions,
    /// Rows are being copied from another cluster: their versions rise and fall.
    pub is_copying: bool,
}

/// Gives a large value, once.
pub(super) type TakeBlob<'a> = &'a mut dyn FnMut(BlobRef) -> Option<Arc<Vec<u8>>>;

impl Rows<'_> {
    /// Applies the effects of an entry, or of the blob that it stands for.
    pub fn apply_entry(&mut self, payload: &[u8], blob: TakeBlob<'_>) -> Result<(), Fault> {
        match mvcc::decode(payload).next() {
            Some(Ok(Effect::Elsewhere { blob: of, .. })) => {
                let effects = take(of, blob)?;
                self.apply_all(&effects, blob)
            }
            _ => self.apply_all(payload, blob),
        }
    }

    /// Applies effects, some at a time, so that the cache misses of their keys overlap: they are
    /// most of what it takes.
    fn apply_all(&mut self, effects: &[u8], blob: TakeBlob<'_>) -> Result<(), Fault> {
        let mut effects = mvcc::decode(effects);
        let mut group: SmallVec<[(u64, Effect<'_>); GROUP_LEN]> = SmallVec::new();
        loop {
            for effect in effects.by_ref().take(GROUP_LEN) {
                let effect = effect.map_err(Fault::Malformed)?;
                let hash = effect.key().map_or(0, |key| self.memtable.hash(key));
                self.memtable.prefetch(hash);
                group.push((hash, effect));
            }
            if group.is_empty() {
                return Ok(());
            }
            group.iter().for_each(|(hash, _)| self.memtable.prefetch_entry(*hash));
            for (hash, effect) in group.drain(..) {
                self.apply(hash, effect, blob)?;
            }
        }
    }

    fn apply(&mut self, hash: u64, effect: Effect<'_>, blob: TakeBlob<'_>) -> Result<(), Fault> {
        if !matches!(effect, Effect::Members { .. } | Effect::Topology { .. }) {
            *self.clock = (*self.clock).max(effect.timestamp());
        }
        let is_older = effect.key().is_some_and(|key| self.is_older(hash, key, effect.timestamp()));
        match effect {
            Effect::Put { value: Logged::Blob(of), .. } if is_older => {
                take(of, blob)?;
            }
            _ if is_older => {}
            Effect::Put { key, timestamp, expiry_ms, value } => {
                let whole;
                let payload = match value {
                    Logged::Inline(bytes) => Payload::Bytes(bytes),
                    Logged::Blob(of) => {
                        whole = take(of, blob)?;
                        Payload::Shared(&whole)
                    }
                };
                self.put(hash, key, timestamp, expiry_ms, payload);
            }
            Effect::Delete { key, timestamp } => self.delete(hash, key, timestamp),
            Effect::Clear { .. } => self.clear(),
            // The partition has taken them in.
            Effect::Members { .. } | Effect::Topology { .. } => {}
            Effect::Follow { timestamp, state } if is_begin(state) => {
                self.clear();
                *self.clock = timestamp;
            }
            Effect::Follow { .. } => {}
            Effect::Reply { timestamp, once, reply } => {
                self.sessions.apply(&once, timestamp, reply.into());
            }
            Effect::Elsewhere { .. } => return Err(Fault::Malformed(mvcc::Error { offset: 0 })),
        }
        Ok(())
    }

    fn put(
        &mut self,
        hash: u64,
        key: &[u8],
        timestamp: Timestamp,
        expiry_ms: Option<u64>,
        payload: Payload<'_>,
    ) {
        let replaces = self.is_away(hash, key) && (self.may_have)(key);
        let before = Before::of(key, self.memtable);
        let entry = self.memtable.put(hash, key, timestamp, expiry_ms, payload);
        self.memtable.commit(entry, timestamp);
        self.sizes.note(before, self.memtable);
        if replaces {
            self.sizes.lose(key);
        }
    }

    fn delete(&mut self, hash: u64, key: &[u8], timestamp: Timestamp) {
        if self.is_away(hash, key) {
            let entry = self.memtable.bury(hash, key, timestamp);
            self.memtable.commit(entry, timestamp);
            return self.sizes.lose(key);
        }
        let before = Before::of(key, self.memtable);
        if let Some(entry) = self.memtable.delete(hash, key, timestamp) {
            self.memtable.commit(entry, timestamp);
            self.sizes.note(before, self.memtable);
        }
    }

    fn clear(&mut self) {
        *self.generation += 1;
        let fresh = self.memtable.emptied();
        self.dying.push(std::mem::replace(self.memtable, fresh).dismantle());
        *self.sizes = Sizes::default();
    }

    /// Takes in the newest version of a key that its tables have, a put. Each key once.
    pub fn load(&mut self, key: &[u8], version: &Version<'_>) {
        let before = Before::of(key, self.memtable);
        let hash = self.memtable.hash(key);
        let Version { timestamp, expiry_ms, payload, .. } = *version;
        let entry = self.memtable.put(hash, key, timestamp, expiry_ms, payload);
        self.memtable.commit(entry, timestamp);
        self.sizes.note(before, self.memtable);
    }

    /// Whether only tables can tell of a key.
    fn is_away(&self, hash: u64, key: &[u8]) -> bool {
        self.memtable.is_partial() && self.memtable.get(hash, key).is_none()
    }

    /// Whether a version of the key is here that is as new: a table had it.
    fn is_older(&self, hash: u64, key: &[u8], timestamp: Timestamp) -> bool {
        (self.is_copying || timestamp <= self.tables_clock)
            && self.memtable.get(hash, key).is_some_and(|newest| newest.timestamp >= timestamp)
    }
}

fn take(of: BlobRef, blob: TakeBlob<'_>) -> Result<Arc<Vec<u8>>, Fault> {
    blob(of).filter(|bytes| bytes.len() as u64 == of.len).ok_or(Fault::BlobMissing(of.id))
}
