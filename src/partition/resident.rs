//! Which rows of a partition are in memory, when its tables have more than that.
//!
//! A row that is in a table as well may be let go ([`Partition::let_go`]), and is taken in again
//! when it was read ([`Partition::admit`]). From the first that went on, a key that is not in the
//! memtable may still be in a table, so whoever evaluates a command sees to it before that all its
//! keys are known ([`Partition::knows`], or no table's filter says that it may have them).
//!
//! A read of the tables takes its time, and what it found may have been overtaken: the key may have
//! been written, flushed and let go since. So a read notes the [`Epoch`] that it began in, and what
//! it found counts only if that has not changed: every flush and every clear begins another.

use super::{Flushed, Partition, Planted};
use crate::id::Timestamp;
use crate::lsm::memtable::{Kind, Payload, Version};

/// Between two flushes or clears of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    generation: u32,
    flushed: Flushed,
}

impl Partition {
    /// See [`Epoch`].
    pub fn epoch(&self) -> Epoch {
        Epoch { generation: self.generation, flushed: self.flushed }
    }

    /// Whether tables may have rows that are not in memory.
    pub fn is_partial(&self) -> bool {
        self.memtable.is_partial()
    }

    /// Whether what the memtable says of a key is all there is; marks the key as used.
    #[inline]
    pub fn knows(&mut self, hash: u64, key: &[u8]) -> bool {
        !self.memtable.is_partial() || self.memtable.mark_used(hash, key)
    }

    /// Takes in what the tables have of a key: none, nothing. False: it was read in another epoch,
    /// and has to be read again.
    /// `is_used`: it is marked as used at once.
    pub fn admit(
        &mut self,
        key: &[u8],
        found: Option<&Version<'_>>,
        epoch: Epoch,
        is_used: bool,
    ) -> bool {
        if epoch != self.epoch() {
            return false;
        }
        let (timestamp, payload) = (Timestamp(0), Payload::Bytes(&[]));
        let nothing = Version { timestamp, kind: Kind::Delete, expiry_ms: None, payload };
        let hash = self.memtable.hash(key);
        self.memtable.admit(hash, key, found.unwrap_or(&nothing));
        is_used.then(|| self.memtable.mark_used(hash, key));
        true
    }

    /// Lets rows go that tables have: in up to `steps_max` steps of some seven rows, but looks at
    /// no more than an eighth of all. How many went, and the steps.
    pub fn let_go(&mut self, steps_max: usize) -> (usize, usize) {
        let steps = steps_max.min(self.memtable.step_count() / 8 + 1);
        if self.tables_generation != self.generation || self.flushed == Flushed::default() {
            return (0, steps);
        }
        let up_to = match self.planted {
            Some(Planted::LetGoDirty) => self.committed.timestamp,
            _ => self.flushed.timestamp,
        };
        let mut gone = 0;
        for _ in 0..steps {
            let swept = self.memtable.sweep(self.hand, up_to);
            (self.hand, gone) = (swept.cursor, gone + swept.count);
        }
        (gone, steps)
    }

    /// Proposes that a key be gone which only tables have; returns the entry to wait for.
    pub fn bury(&mut self, key: &[u8], now_ms: u64) -> u64 {
        let hash = self.memtable.hash(key);
        if let Some(entry) = self.delete(hash, key, now_ms) {
            return entry;
        }
        // Whether one of these is this key and was there, nobody knows here.
        self.absences.forget();
        let timestamp = self.clock.next(now_ms);
        let entry = self.memtable.bury(hash, key, timestamp);
        crate::mvcc::Effect::Delete { key, timestamp }.encode(&mut self.payload);
        self.sizes.lose(key);
        (self.clock, self.open.timestamp) = (timestamp, timestamp);
        self.open.touched.push(entry);
        self.next_index()
    }

    /// A key was put that was not in memory, and that a table may have: it was counted as new.
    pub fn note_replaced(&mut self, key: &[u8]) {
        self.sizes.lose(key);
    }
}
