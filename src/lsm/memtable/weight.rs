//! What one key takes of the table's memory: the figure of MEMORY USAGE.

use super::arena::Ref;
use super::scan::head_of;
use super::store::State;
use super::{EXPIRING_ENTRY_LEN, Memtable};

/// Bytes of index and order for a key: a seventh of a bucket of 64, and a reference in a pile that
/// is two thirds full.
const INDEXES_LEN: usize = 16;

impl Memtable {
    /// Bytes that `key` takes with all its versions, its place in the indexes included; large
    /// values count whole. `None`: there is no such key. The weights of all keys come to about
    /// [`Memtable::memory_len`].
    pub fn weight(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let (node, _) = self.index.find(hash, key, &self.store)?;
        let mut len = self.store.weight(node) + INDEXES_LEN;
        if self.store.expiry_ms(head_of(&self.store, node)).is_some() {
            len += EXPIRING_ENTRY_LEN;
        }
        let newest = self.store.link(node);
        let mut record = newest;
        while record != Ref::NONE {
            len += self.store.weight(record);
            let newer = self.store.link(record);
            record = if newer == newest { Ref::NONE } else { newer };
        }
        Some(len)
    }

    /// Bytes that keys take which are deleted, and stay until that is in a table.
    pub fn dead_len(&self) -> usize {
        self.dead_len
    }

    /// Of these, the node's: none, unless a committed tombstone is all that it is.
    pub(super) fn dead_weight(&self, node: Ref) -> usize {
        let is_lone = self.store.touches(node) == 0 && self.store.link(node) == Ref::NONE;
        match is_lone && self.store.state(node) == State::Delete {
            true => self.store.weight(node) + INDEXES_LEN,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::id::Timestamp;
    use crate::limits::LARGE_LEN_MIN;
    use crate::lsm::memtable::Payload;

    #[test]
    fn weights_of_all_keys_come_to_the_memory_of_the_table() {
        let count = if cfg!(miri) { 500 } else { 20_000 };
        let mut table = Memtable::new(1);
        let keys: Vec<String> = (0..count).map(|n| format!("key:{n}")).collect();
        for (n, key) in keys.iter().enumerate() {
            let hash = table.hash(key.as_bytes());
            let expiry_ms = (n % 4 == 0).then_some(n as u64 + 1);
            let value = vec![b'x'; n % 300];
            let payload = Payload::Bytes(&value);
            let entry = table.put(hash, key.as_bytes(), Timestamp(1), expiry_ms, payload);
            table.commit(entry, Timestamp(1));
        }

        let weigh = |key: &String| table.weight(table.hash(key.as_bytes()), key.as_bytes());
        let sum: usize = keys.iter().map(|key| weigh(key).expect("it is there")).sum();

        let held = table.memory_len();
        assert!(sum.abs_diff(held) < held / 10, "weights of {sum}, memory of {held} bytes");
        assert_eq!(table.weight(table.hash(b"none"), b"none"), None);
    }

    #[test]
    fn versions_in_flight_and_large_values_count() {
        let mut table = Memtable::new(1);
        let (hash, large) = (table.hash(b"k"), Arc::new(vec![7; LARGE_LEN_MIN]));
        let first = table.put(hash, b"k", Timestamp(1), None, Payload::Bytes(b"v"));
        let alone = table.weight(hash, b"k").expect("it is there");

        let second = table.put(hash, b"k", Timestamp(2), None, Payload::Shared(&large));
        let third = table.put(hash, b"k", Timestamp(3), None, Payload::Bytes(&[1; 1_000]));
        let all = table.weight(hash, b"k").expect("it is there");
        assert!(all >= alone + LARGE_LEN_MIN + 1_000 && all < LARGE_LEN_MIN + 1_500, "{all}");

        [first, second, third].into_iter().for_each(|entry| table.commit(entry, Timestamp(3)));
        let settled = table.weight(hash, b"k").expect("it is there");
        assert!((1_000..1_500).contains(&settled), "{settled}");
    }
}
