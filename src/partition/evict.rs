//! A cache's memory is full: keys are deleted so that others find room.
//!
//! Victims are deleted as a client would delete them, by entries of the log: so all replicas delete
//! the same keys, and a restart does not bring them back. Only a leader looks for victims. What
//! they give back is given back when they are committed: it is remembered how much that is.

use super::Partition;
use crate::eviction::Eviction;

/// Keys with the next deadlines that are looked at in a turn.
const NEXT_MAX: usize = 1024;

impl Partition {
    /// From now on so many uses of a key count.
    pub fn count_uses(&mut self, eviction: Eviction) {
        self.uses_max = eviction.uses_max();
    }

    /// A key is looked up.
    #[inline]
    pub fn note_use(&mut self, hash: u64, key: &[u8]) {
        if self.uses_max > 0 {
            self.memtable.note_use(hash, key, self.uses_max);
        }
    }

    /// Bytes that victims give back when they are committed.
    pub fn leaving_len(&mut self) -> usize {
        while self.leaving.front().is_some_and(|(entry, _)| self.has_settled(*entry)) {
            self.leaving.pop_front();
        }
        self.leaving.iter().map(|(_, len)| len).sum()
    }

    /// Deletes keys until about `wanted_len` bytes are given back, or the hand has made `steps_max`
    /// steps of some seven keys. `keys` are those, encoded; the steps are returned.
    pub fn evict(
        &mut self,
        eviction: Eviction,
        (wanted_len, steps_max): (usize, usize),
        now_ms: u64,
        keys: &mut Vec<Vec<u8>>,
    ) -> usize {
        keys.clear();
        let (mut steps, mut weighed, mut freed_len) = (0, 0, 0);
        while steps < steps_max && freed_len < wanted_len {
            if eviction == Eviction::VolatileTtl {
                self.memtable.expired(u64::MAX, NEXT_MAX, keys);
                steps = steps_max;
            } else {
                // Where all are in use, those go that are in use the least.
                let uses = if keys.is_empty() { steps * 4 / steps_max } else { 0 };
                let victims = (eviction, uses as u32);
                self.hand = self.memtable.pick_victims(self.hand, victims, keys);
                steps += 1;
            }
            while weighed < keys.len() && freed_len < wanted_len {
                let (hash, key) = (self.memtable.hash(&keys[weighed]), &keys[weighed]);
                freed_len += self.memtable.weight(hash, key).unwrap_or_default();
                weighed += 1;
            }
        }
        keys.truncate(weighed);
        let mut last = None;
        keys.retain(|key| {
            let entry = self.delete(self.memtable.hash(key), key, now_ms);
            last = entry.or(last);
            entry.is_some()
        });
        self.leaving.extend(last.map(|entry| (entry, freed_len)));
        steps
    }
}
