//! Which keys of a full cache go.
//!
//! A hand passes over the hash index, as it does for rows that tables have ([`super::resident`]),
//! and each key counts its uses since the hand was there:
//!
//! * *least recently used*: a clock (Corbato, 1968). Who was used stays, and loses its mark.
//! * *least frequently used*: a clock that counts (Smith, 1978), up to three as S3-FIFO does (Yang
//!   and others, 2023). Each visit takes one use away; who has none goes.
//! * *random*: whom the hand meets. Hashes are random.
//!
//! A new key has no use yet: so one that is asked for once, by a scan say, goes before those that
//! are asked for again. *By deadline* needs no hand: the deadlines are in order.
//!
//! Why not samples of exact times, as Redis takes: each read would write a time into its node, and
//! each eviction look at five nodes that are in no cache. The mark is two bits that were free,
//! written only while they are below what counts.

use smallvec::SmallVec;

use super::Memtable;
use super::arena::Ref;
use super::scan::head_of;
use super::store::State;
use crate::eviction::Eviction;

impl Memtable {
    /// Takes note that `key` is used, up to `uses_max` times.
    #[inline]
    pub fn note_use(&mut self, hash: u64, key: &[u8], uses_max: u32) {
        let Some((node, _)) = self.index.find(hash, key, &self.store) else { return };
        let uses = self.store.uses(node);
        if uses < uses_max {
            self.store.set_uses(node, uses + 1);
        }
    }

    /// Moves the hand by a bucket and adds to `keys` those that go, which have at most `uses`.
    /// Returns where it goes on; 0: it has been everywhere.
    pub fn pick_victims(
        &mut self,
        cursor: u64,
        (eviction, uses): (Eviction, u32),
        keys: &mut Vec<Vec<u8>>,
    ) -> u64 {
        let mut nodes: SmallVec<[Ref; 32]> = SmallVec::new();
        let cursor = self.index.walk(cursor, &self.store, |node| nodes.push(node));
        for node in nodes {
            if self.is_victim(node, eviction, uses) {
                keys.push(self.store.key(node).to_vec());
            }
        }
        cursor
    }

    /// Whether a key goes now. One that was used, and stays, was used once less.
    fn is_victim(&mut self, node: Ref, eviction: Eviction, most: u32) -> bool {
        let head = head_of(&self.store, node);
        let is_put = self.store.state(head) == State::Put;
        // One that is being written is used.
        if !is_put || self.store.touches(node) > 0 {
            return false;
        }
        if eviction.is_volatile() && self.store.expiry_ms(head).is_none() {
            return false;
        }
        let uses = self.store.uses(node).min(eviction.uses_max());
        if uses > 0 {
            self.store.set_uses(node, uses - 1);
        }
        uses <= most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Timestamp;
    use crate::lsm::memtable::Payload;

    /// Keys `0..count`, every tenth with a deadline.
    fn table(count: u64) -> Memtable {
        let mut table = Memtable::new(7);
        for n in 0..count {
            let key = n.to_be_bytes();
            let expiry_ms = n.is_multiple_of(10).then_some(1_000 + n);
            let (hash, value) = (table.hash(&key), Payload::Bytes(b"value"));
            let entry = table.put(hash, &key, Timestamp(n + 1), expiry_ms, value);
            table.commit(entry, Timestamp(n + 1));
        }
        table
    }

    fn use_all(table: &mut Memtable, keys: impl Iterator<Item = u64>, uses_max: u32) {
        for n in keys {
            let key = n.to_be_bytes();
            table.note_use(table.hash(&key), &key, uses_max);
        }
    }

    /// One round of the hand: who goes, in order.
    fn round(table: &mut Memtable, eviction: Eviction) -> Vec<u64> {
        let (mut cursor, mut keys) = (0, Vec::new());
        loop {
            cursor = table.pick_victims(cursor, (eviction, 0), &mut keys);
            if cursor == 0 {
                break;
            }
        }
        let number = |key: &Vec<u8>| u64::from_be_bytes(key[..].try_into().expect("8 bytes"));
        let mut keys: Vec<u64> = keys.iter().map(number).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn who_was_used_since_the_hand_was_there_stays() {
        let (mut table, lru) = (table(1_000), Eviction::AllKeysLru);
        use_all(&mut table, 0..300, lru.uses_max());
        use_all(&mut table, 0..300, lru.uses_max());

        assert_eq!(round(&mut table, lru), (300..1_000).collect::<Vec<_>>());
        use_all(&mut table, 0..100, lru.uses_max());
        assert_eq!(round(&mut table, lru), (100..1_000).collect::<Vec<_>>(), "none was deleted");
    }

    #[test]
    fn who_was_used_more_often_stays_for_longer() {
        let (mut table, lfu) = (table(1_000), Eviction::AllKeysLfu);
        for uses in 1..=5 {
            use_all(&mut table, 0..(uses * 100), lfu.uses_max());
        }

        // 0..100 were used five times, 400..500 once; three count.
        for from in [500, 400, 300, 0] {
            assert_eq!(round(&mut table, lfu), (from..1_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn who_has_no_deadline_stays_where_that_counts() {
        let mut table = table(1_000);
        let (lru, random) = (Eviction::VolatileLru, Eviction::VolatileRandom);
        use_all(&mut table, 0..500, lru.uses_max());

        let expiring = |from: u64| (from..1_000).step_by(10).collect::<Vec<_>>();
        assert_eq!(round(&mut table, lru), expiring(500));
        assert_eq!(round(&mut table, random), expiring(0));
        assert_eq!(round(&mut table, Eviction::AllKeysRandom), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn who_is_being_written_or_deleted_is_no_victim() {
        let mut table = table(10);
        table.keep_tombstones();
        let [a, b] = [1_u64.to_be_bytes(), 2_u64.to_be_bytes()];
        let write = table.put(table.hash(&a), &a, Timestamp(50), None, Payload::Bytes(b"w"));
        let delete = table.delete(table.hash(&b), &b, Timestamp(51)).expect("it is there");
        assert_eq!(round(&mut table, Eviction::AllKeysRandom), [0, 3, 4, 5, 6, 7, 8, 9]);

        table.commit(write, Timestamp(51));
        table.commit(delete, Timestamp(51));
        assert_eq!(round(&mut table, Eviction::AllKeysRandom), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
        let weight = table.weight(table.hash(&b), &b);
        assert_eq!(Some(table.dead_len()), weight);
        let again = table.put(table.hash(&b), &b, Timestamp(52), None, Payload::Bytes(b"w"));
        assert_eq!(table.dead_len(), 0);
        table.commit(again, Timestamp(52));
    }
}
