//! Rows that SSTables have as well: taken in when they are read, let go when memory is short.
//!
//! Which row goes is said by a clock (Corbato, 1968): a hand passes over the hash index, bucket by
//! bucket, lets unused rows go and takes the mark of the used ones. A row comes in unmarked, so one
//! that was read only once, by a scan say, goes at the hand's next visit, and one that is used
//! between two visits stays.
//!
//! Why not a queue per row (LRU, S3-FIFO): a row would carry two links and a read would write them.
//! The mark costs a bit that was free, and is written only when it is not set.

use smallvec::SmallVec;

use super::arena::Ref;
use super::scan::head_of;
use super::store::State;
use super::{EntryRef, Memtable, Payload, Version};
use crate::id::Timestamp;

/// What the hand did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Where it goes on; 0: it has been everywhere.
    pub cursor: u64,
    /// Rows that were let go.
    pub count: usize,
}

impl Memtable {
    /// Whether SSTables may have rows of keys that are not here.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// From now on they may.
    pub fn make_partial(&mut self) {
        self.is_partial = true;
        self.keeps_tombstones = true;
    }

    /// Whether `key` is here, be it as a tombstone; marks it as used.
    #[inline]
    pub fn mark_used(&mut self, hash: u64, key: &[u8]) -> bool {
        let Some((node, _)) = self.index.find(hash, key, &self.store) else { return false };
        if self.store.uses(node) == 0 {
            self.store.set_uses(node, 1);
        }
        true
    }

    /// Takes in the newest version of `key` that SSTables have, a tombstone too. What is here is
    /// newer: then nothing happens.
    pub fn admit(&mut self, hash: u64, key: &[u8], version: &Version<'_>) {
        if self.index.find(hash, key, &self.store).is_some() {
            return;
        }
        let EntryRef(node) = self.insert(hash, key, version, state_of(version));
        self.store.set_touches(node, 0);
        self.dead_len += self.dead_weight(node);
    }

    /// Writes a tombstone as the newest version of `key`, whether or not it is here.
    ///
    /// # Panics
    /// As [`Memtable::delete`].
    pub fn bury(&mut self, hash: u64, key: &[u8], timestamp: Timestamp) -> EntryRef {
        let (kind, payload) = (super::Kind::Delete, Payload::Bytes(&[]));
        let version = Version { timestamp, kind, expiry_ms: None, payload };
        match self.index.find(hash, key, &self.store) {
            Some((node, _)) => self.push(node, &version, State::Delete),
            None => self.insert(hash, key, &version, State::Delete),
        }
    }

    /// Moves the hand by a bucket: lets rows go that are committed, not newer than `up_to` and
    /// unused. The caller knows that SSTables have all of them.
    pub fn sweep(&mut self, cursor: u64, up_to: Timestamp) -> Swept {
        let mut nodes: SmallVec<[Ref; 32]> = SmallVec::new();
        let cursor = self.index.walk(cursor, &self.store, |node| nodes.push(node));
        nodes.retain(|node| self.may_go(*node, up_to));
        nodes.iter().for_each(|node| self.let_go(*node));
        self.is_partial |= !nodes.is_empty();
        Swept { cursor, count: nodes.len() }
    }

    /// Steps in which the hand comes around.
    pub fn step_count(&self) -> usize {
        self.index.base_count()
    }

    /// Whether a row goes now. A used one is unmarked and stays.
    fn may_go(&mut self, node: Ref, up_to: Timestamp) -> bool {
        let is_clean = self.store.touches(node) == 0
            && self.store.timestamp(head_of(&self.store, node)) <= up_to;
        if is_clean && self.store.uses(node) > 0 {
            self.store.set_uses(node, 0);
            return false;
        }
        is_clean
    }

    fn let_go(&mut self, node: Ref) {
        let (is_live, expiry_ms) = self.weigh(node);
        self.live_len -= usize::from(is_live);
        self.dead_len -= self.dead_weight(node);
        if let Some(expiry_ms) = expiry_ms {
            self.expiring.remove(expiry_ms, node, self.db_of(node));
        }
        self.remove(node);
    }
}

fn state_of(version: &Version<'_>) -> State {
    match version.kind {
        super::Kind::Put => State::Put,
        super::Kind::Delete => State::Delete,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Kind;
    use super::*;

    fn put(table: &mut Memtable, key: &str, timestamp: u64, value: &[u8]) -> EntryRef {
        let hash = table.hash(key.as_bytes());
        let payload = Payload::Bytes(value);
        table.put(hash, key.as_bytes(), Timestamp(timestamp), None, payload)
    }

    fn sweep_all(table: &mut Memtable, up_to: u64) -> usize {
        let (mut cursor, mut count) = (0, 0);
        loop {
            let swept = table.sweep(cursor, Timestamp(up_to));
            (cursor, count) = (swept.cursor, count + swept.count);
            if cursor == 0 {
                return count;
            }
        }
    }

    fn names(table: &mut Memtable) -> Vec<String> {
        let rows = table.scan(&[], Timestamp(u64::MAX));
        rows.map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn clean_unused_rows_go_and_nothing_else() {
        let mut table = Memtable::new(1);
        for (key, timestamp) in [("clean", 1), ("used", 2), ("dirty", 9)] {
            let entry = put(&mut table, key, timestamp, &[7; 2_000]);
            table.commit(entry, Timestamp(timestamp));
        }
        let open = put(&mut table, "open", 3, b"v");
        let again = put(&mut table, "used", 4, b"v");
        table.commit(again, Timestamp(4));
        assert!(table.mark_used(table.hash(b"used"), b"used"));
        assert!(!table.is_partial());

        assert_eq!(sweep_all(&mut table, 5), 1);

        assert!(table.is_partial() && !table.mark_used(table.hash(b"clean"), b"clean"));
        assert_eq!(names(&mut table), ["dirty", "open", "used"]);
        assert_eq!(sweep_all(&mut table, 5), 1, "the mark is taken at the first visit");
        table.commit(open, Timestamp(9));
        assert_eq!(sweep_all(&mut table, 9), 2);
        assert_eq!((table.live_len(), names(&mut table).len()), (0, 0));
    }

    #[test]
    fn a_row_that_comes_in_is_as_it_was_and_does_not_replace_a_newer_one() {
        let mut table = Memtable::new(1);
        let (hash, value) = (table.hash(b"k"), vec![5; 3_000]);
        let payload = Payload::Bytes(&value);
        let row = Version { timestamp: Timestamp(3), kind: Kind::Put, expiry_ms: Some(8), payload };

        table.admit(hash, b"k", &row);
        table.admit(hash, b"k", &Version { timestamp: Timestamp(9), ..row });

        assert_eq!(table.get(hash, b"k"), Some(row));
        assert_eq!((table.live_len(), table.expiring_len()), (1, 1));
        let entry = put(&mut table, "k", 10, b"new");
        table.commit(entry, Timestamp(10));
        table.admit(hash, b"k", &row);
        assert_eq!(table.get(hash, b"k").map(|newest| newest.timestamp), Some(Timestamp(10)));
        assert_eq!(sweep_all(&mut table, 10), 1);
        assert_eq!((table.live_len(), table.expiring_len()), (0, 0));
    }

    #[test]
    fn a_key_that_is_not_here_can_be_buried() {
        let mut table = Memtable::new(1);
        table.make_partial();
        let hash = table.hash(b"k");

        let entry = table.bury(hash, b"k", Timestamp(5));
        table.commit(entry, Timestamp(5));

        assert_eq!(table.get(hash, b"k").map(|version| version.kind), Some(Kind::Delete));
        assert_eq!(table.live_len(), 0);
        let open = table.bury(hash, b"k", Timestamp(6));
        table.rollback(open, Timestamp(5));
        assert_eq!(table.get(hash, b"k").map(|version| version.timestamp), Some(Timestamp(5)));
    }

    #[test]
    fn rows_that_go_and_come_leave_no_memory_behind() {
        let mut table = Memtable::new(1);
        let mut rows: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for n in 0..if cfg!(miri) { 100 } else { 5_000_usize } {
            let (key, value) = (format!("key:{n}"), vec![n as u8; n % 1_500]);
            let entry = put(&mut table, &key, 1, &value);
            table.commit(entry, Timestamp(1));
            rows.insert(key, value);
        }
        let before = table.memory_len();

        for _ in 0..3 {
            assert_eq!(sweep_all(&mut table, 1), rows.len());
            assert!(table.memory_len() < before / 4, "{} of {before}", table.memory_len());
            for (key, value) in &rows {
                let (timestamp, payload) = (Timestamp(1), Payload::Bytes(value));
                let row = Version { timestamp, kind: Kind::Put, expiry_ms: None, payload };
                table.admit(table.hash(key.as_bytes()), key.as_bytes(), &row);
            }
            assert!(table.memory_len() <= before + before / 10);
        }
        for (key, value) in &rows {
            let version = table.get(table.hash(key.as_bytes()), key.as_bytes());
            assert_eq!(version.map(|v| v.payload), Some(Payload::Bytes(value)));
        }
    }
}
