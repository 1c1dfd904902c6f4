//! The memtable against a map of version lists, and facts about memory that a map does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{EntryRef, Kind, Memtable, Pages, Payload, Sum, Version};
use crate::id::Timestamp;
use crate::limits::LARGE_LEN_MIN;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    at: u64,
    kind: Kind,
    expiry_ms: Option<u64>,
    value: Vec<u8>,
}

impl Written {
    fn of(version: Version<'_>) -> Self {
        let value = match version.payload {
            Payload::Bytes(bytes) => bytes.to_vec(),
            Payload::Shared(value) => value.to_vec(),
        };
        let (at, kind) = (version.timestamp.0, version.kind);
        Self { at, kind, expiry_ms: version.expiry_ms, value }
    }
}

type Map = BTreeMap<Vec<u8>, Vec<Written>>;

/// A memtable, what it should hold, and what is in flight.
struct Pair {
    table: Memtable,
    map: Map,
    flight: Vec<(u64, Vec<u8>, EntryRef)>,
    committed: u64,
    last: u64,
    keeps_tombstones: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            table: Memtable::with_pages(7, Pages::Huge),
            map: Map::new(),
            flight: Vec::new(),
            committed: 0,
            last: 0,
            keeps_tombstones: false,
        }
    }

    fn keep_tombstones(&mut self) {
        self.table.keep_tombstones();
        self.keeps_tombstones = true;
    }

    /// The tombstones up to what is committed are in a table now, of some keys.
    fn forget_tombstone(&mut self, key: &[u8]) {
        self.table.forget(key, Timestamp(self.committed));
        let is_in_flight = self.flight.iter().any(|(_, other, _)| other == key);
        if let Some([lone]) = self.map.get(key).map(Vec::as_slice)
            && lone.kind == Kind::Delete
            && !is_in_flight
        {
            self.map.remove(key);
        }
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>, expiry_ms: Option<u64>, step: u64) {
        self.last = (self.last + step).max(self.committed + 1);
        let hash = self.table.hash(key);
        let shared = Arc::new(value.clone());
        let payload = if value.len() >= LARGE_LEN_MIN {
            Payload::Shared(&shared)
        } else {
            Payload::Bytes(&value)
        };
        let entry = self.table.put(hash, key, Timestamp(self.last), expiry_ms, payload);
        self.flight.push((self.last, key.to_vec(), entry));
        let version = Written { at: self.last, kind: Kind::Put, expiry_ms, value };
        self.map.entry(key.to_vec()).or_default().push(version);
    }

    fn delete(&mut self, key: &[u8]) {
        self.last += 1;
        let newest = self.map.get(key).and_then(|versions| versions.last());
        let is_live = newest.is_some_and(|version| version.kind == Kind::Put);
        let entry = self.table.delete(self.table.hash(key), key, Timestamp(self.last));
        assert_eq!(entry.is_some(), is_live, "{key:?}");
        let Some(entry) = entry else { return };
        self.flight.push((self.last, key.to_vec(), entry));
        let version =
            Written { at: self.last, kind: Kind::Delete, expiry_ms: None, value: Vec::new() };
        self.map.entry(key.to_vec()).or_default().push(version);
    }

    /// Commits the first `count` writes in flight, and those of the same timestamp as the last.
    fn commit(&mut self, count: usize) {
        let Some(last) = count.checked_sub(1).map(|at| at.min(self.flight.len().wrapping_sub(1)))
        else {
            return;
        };
        let Some(&(up_to, ..)) = self.flight.get(last) else { return };
        self.committed = up_to;
        let count = self.flight.partition_point(|&(at, ..)| at <= up_to);
        for (_, _, entry) in self.flight.drain(..count) {
            self.table.commit(entry, Timestamp(up_to));
        }
        self.forget();
    }

    fn rollback(&mut self) {
        let to = self.committed;
        for (_, _, entry) in self.flight.drain(..) {
            self.table.rollback(entry, Timestamp(to));
        }
        self.map.values_mut().for_each(|versions| versions.retain(|version| version.at <= to));
        self.forget();
    }

    /// What a commit or a rollback makes unreachable.
    fn forget(&mut self) {
        let (committed, keeps) = (self.committed, self.keeps_tombstones);
        let flight = &self.flight;
        self.map.retain(|key, versions| {
            let older = versions.partition_point(|version| version.at <= committed);
            versions.drain(..older.saturating_sub(1));
            let is_settled = !flight.iter().any(|(_, other, _)| other == key);
            versions.last().is_some_and(|newest| !is_settled || keeps || newest.kind == Kind::Put)
        });
    }

    fn check(&mut self, keys: &[Vec<u8>]) {
        for key in keys {
            let hash = self.table.hash(key);
            self.table.prefetch(hash);
            self.table.prefetch_entry(hash);
            let newest = self.table.get(hash, key).map(Written::of);
            assert_eq!(newest, seen(&self.map, key, u64::MAX), "{key:?}");
            for at in [self.committed, self.committed.midpoint(self.last), self.last] {
                let found = self.table.get_at(hash, key, Timestamp(at)).map(Written::of);
                assert_eq!(found, seen(&self.map, key, at), "{key:?} at {at}");
            }
        }
        self.check_order(&[], u64::MAX);
        self.check_order(&keys[keys.len() / 2], self.committed);
        self.check_counts();
    }

    fn check_order(&mut self, from: &[u8], at: u64) {
        let found: Vec<_> = self
            .table
            .scan(from, Timestamp(at))
            .map(|(key, version)| (key.to_vec(), Written::of(version)))
            .collect();
        let wanted: Vec<_> = self
            .map
            .range(from.to_vec()..)
            .filter_map(|(key, _)| Some((key.clone(), seen(&self.map, key, at)?)))
            .collect();
        assert_eq!(found, wanted);
    }

    fn check_counts(&self) {
        let live = || {
            let newest = self.map.iter().filter_map(|(key, all)| Some((key, all.last()?)));
            newest.filter(|(_, version)| version.kind == Kind::Put)
        };
        let expiring = live().filter(|(_, version)| version.expiry_ms.is_some()).count();
        assert_eq!((self.table.live_len(), self.table.expiring_len()), (live().count(), expiring));

        let (mut dead_len, mut nodes, mut cursor) = (0, Vec::new(), 0);
        loop {
            cursor = self.table.index.walk(cursor, &self.table.store, |node| nodes.push(node));
            if cursor == 0 {
                break;
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        nodes.iter().for_each(|node| dead_len += self.table.dead_weight(*node));
        assert_eq!(self.table.dead_len(), dead_len);

        let mut sums = [Sum::default(); 16];
        for (key, version) in live() {
            if let Some(expiry_ms) = version.expiry_ms {
                let of = Sum { count: 1, expiry_ms: u128::from(expiry_ms) };
                let sum = &mut sums[usize::from(key.get(3).copied().unwrap_or_default()) % 16];
                *sum = sum.and(of);
            }
        }
        assert_eq!(std::array::from_fn(|db| self.table.deadlines(db as u8)), sums);

        let due = |now_ms| live().filter(move |(_, v)| v.expiry_ms.is_some_and(|at| at <= now_ms));
        let mut keys = Vec::new();
        self.table.expired(50, usize::MAX, &mut keys);
        let mut wanted: Vec<_> = due(50).map(|(key, _)| key.clone()).collect();
        let deadlines: Vec<_> = keys.iter().map(|key| self.map[key].last()).collect();
        assert!(deadlines.is_sorted_by_key(|version| version.and_then(|v| v.expiry_ms)));
        keys.sort();
        wanted.sort();
        assert_eq!(keys, wanted);
    }

    /// Deletes all and asserts that no block is left.
    fn drain(mut self, keys: &[Vec<u8>]) {
        self.rollback();
        keys.iter().for_each(|key| self.delete(key));
        self.commit(self.flight.len());
        keys.iter().for_each(|key| self.forget_tombstone(key));
        self.check(keys);
        assert_eq!((self.table.live_len(), self.table.dead_len()), (0, 0));
        assert_eq!(self.table.store.used_len(), self.table.store.table_len(), "a block leaked");
    }
}

fn seen(map: &Map, key: &[u8], at: u64) -> Option<Written> {
    map.get(key)?.iter().rev().find(|version| version.at <= at).cloned()
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, len: usize, expiry_ms: Option<u64>, step: u64 },
    Delete(usize),
    Commit(usize),
    Rollback,
    Forget(usize),
}

/// Lengths on both sides of each bound: the same block, another, a record, a large value.
fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..40usize,
        4 => 40..300usize,
        2 => 1_010..1_040usize,
        1 => 2_000..9_000usize,
        1 => LARGE_LEN_MIN - 1..LARGE_LEN_MIN + 2,
    ]
}

fn op(keys: usize) -> impl Strategy<Value = Op> {
    let expiry_ms = prop::option::weighted(0.3, 1..100u64);
    prop_oneof![
        8 => (0..keys, value_len(), expiry_ms, 0..3u64)
            .prop_map(|(key, len, expiry_ms, step)| Op::Put { key, len, expiry_ms, step }),
        4 => (0..keys).prop_map(Op::Delete),
        4 => (1..8usize).prop_map(Op::Commit),
        1 => Just(Op::Rollback),
        2 => (0..keys).prop_map(Op::Forget),
    ]
}

/// Keys that begin with one another, shorter and longer than a bound's head.
fn keys() -> Vec<Vec<u8>> {
    (0..8usize)
        .map(|at| b"\x10\x00\x01\x00key\x00\x01"[..3 + at / 2 * 2].repeat(1 + at % 2))
        .collect()
}

const CASES: u32 = if cfg!(miri) { 4 } else { 256 };

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES, failure_persistence: None, ..Default::default()
    })]

    /// Eight keys, so that each gathers versions, tombstones and rollbacks.
    #[test]
    fn versions_agree_with_lists(
        ops in prop::collection::vec(op(8), 1..100),
        keeps_from in prop::option::of(0..100usize),
    ) {
        let (mut pair, keys) = (Pair::new(), keys());
        for (at, op) in ops.into_iter().enumerate() {
            if keeps_from == Some(at) {
                pair.keep_tombstones();
            }
            match op {
                Op::Put { key, len, expiry_ms, step } => {
                    pair.put(&keys[key], vec![at as u8; len], expiry_ms, step);
                }
                Op::Delete(key) => pair.delete(&keys[key]),
                Op::Commit(count) => pair.commit(count),
                Op::Rollback => pair.rollback(),
                Op::Forget(key) => pair.forget_tombstone(&keys[key]),
            }
            pair.check(&keys);
        }
        pair.drain(&keys);
    }
}

fn numbered(number: u64) -> Vec<u8> {
    // A third of the keys share a long prefix, the others differ early.
    if number.is_multiple_of(3) {
        format!("a common beginning {number}").into_bytes()
    } else {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec()
    }
}

fn put_committed(table: &mut Memtable, key: &[u8], at: u64, value: &[u8]) {
    let hash = table.hash(key);
    let entry = table.put(hash, key, Timestamp(at), None, Payload::Bytes(value));
    table.commit(entry, Timestamp(at));
}

#[test]
fn index_and_order_hold_through_growth_and_thinning() {
    let count = if cfg!(miri) { 600 } else { 10_000 };
    let (mut pair, keys) = (Pair::new(), (0..count).map(numbered).collect::<Vec<_>>());
    for (at, key) in keys.iter().enumerate() {
        pair.put(key, vec![at as u8; at % 50], Some(at as u64 % 997), 1);
        if at % 64 == 63 {
            pair.commit(64);
        }
    }
    pair.commit(64);
    pair.check(&keys);
    // All but each hundredth key, out of order, so that piles are joined.
    for at in (0..keys.len()).map(|at| at * 7_919 % keys.len()).filter(|at| at % 100 != 0) {
        pair.delete(&keys[at]);
        pair.commit(1);
    }
    pair.check(&keys);

    pair.drain(&keys);
}

#[test]
fn scan_resumes_behind_the_last_key_seen() {
    let mut table = Memtable::new(1);
    (0..2_000).for_each(|number| put_committed(&mut table, &numbered(number), number, b"value"));

    let (mut from, mut seen) = (Vec::new(), Vec::new());
    loop {
        let before = seen.len();
        let part = table.scan(&from, Timestamp(u64::MAX)).take(70);
        seen.extend(part.map(|(key, _)| key.to_vec()));
        if seen.len() == before {
            break;
        }
        from = seen.last().expect("it has just grown").clone();
        from.push(0);
    }

    let mut wanted: Vec<_> = (0..2_000).map(numbered).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
}

/// Keys that were there all the time, with others put and deleted and the index growing tenfold
/// between the steps.
#[test]
fn walk_shows_what_stays_once_through_growth() {
    let mut table = Memtable::new(5);
    let stays: Vec<_> = (0..1_000).map(numbered).collect();
    stays.iter().for_each(|key| put_committed(&mut table, key, 1, b"value"));

    let (mut cursor, mut seen, mut step) = (0, BTreeMap::new(), 0u64);
    loop {
        cursor = table.walk(cursor, |key, _| *seen.entry(key.to_vec()).or_insert(0) += 1);
        if cursor == 0 {
            break;
        }
        for number in 0..20 {
            put_committed(&mut table, &numbered(1_000 + step * 20 + number), 2 + step, b"new");
        }
        let old = numbered(1_000 + step * 17);
        if let Some(entry) = table.delete(table.hash(&old), &old, Timestamp(2 + step)) {
            table.commit(entry, Timestamp(2 + step));
        }
        step += 1;
    }

    assert!(step > 100 && table.live_len() > 5_000, "{step} steps, {} keys", table.live_len());
    assert!(stays.iter().all(|key| seen.get(key) == Some(&1)));
    let any = [u64::MAX, 1 << 63, 12_345_678_901_234_567];
    assert!(any.into_iter().all(|cursor| table.walk(cursor, |_, _| {}) < 1 << 32));
}

#[test]
fn one_key_written_for_ever_holds_the_memory_of_a_few_versions() {
    let mut table = Memtable::new(1);
    for at in 0..20_000u64 {
        put_committed(&mut table, b"counter", at, at.to_string().as_bytes());
    }

    assert!(table.store.held_len() < 1_000, "{}", table.store.held_len());
}

#[test]
fn value_that_shrinks_gives_its_block_back() {
    let mut table = Memtable::new(1);
    put_committed(&mut table, b"key", 1, &[1; 1_000]);

    put_committed(&mut table, b"key", 2, &[2; 10]);

    assert!(table.store.used_len() < 100, "{}", table.store.used_len());
}

#[test]
fn thousand_versions_of_one_key_in_flight_commit_at_once() {
    let mut table = Memtable::new(1);
    let hash = table.hash(b"counter");
    let refs: Vec<_> = (1..=1_000u64)
        .map(|at| table.put(hash, b"counter", Timestamp(at), None, Payload::Bytes(b"1")))
        .collect();

    refs.into_iter().for_each(|entry| table.commit(entry, Timestamp(1_000)));

    let newest = table.get(hash, b"counter").expect("it was put");
    assert_eq!((newest.timestamp, newest.payload), (Timestamp(1_000), Payload::Bytes(b"1")));
    assert!(table.store.used_len() < 100, "{}", table.store.used_len());
}

#[test]
#[should_panic(expected = "given back more often than touched")]
fn ref_given_back_twice_is_caught() {
    let mut table = Memtable::new(1);
    let hash = table.hash(b"key");
    let entry = table.put(hash, b"key", Timestamp(1), None, Payload::Bytes(b"value"));
    table.commit(entry, Timestamp(1));

    table.commit(entry, Timestamp(1));
}

#[test]
fn large_value_is_held_by_reference_and_freed_with_its_version() {
    let mut table = Memtable::new(1);
    let (hash, value) = (table.hash(b"key"), Arc::new(vec![7; LARGE_LEN_MIN]));
    let entry = table.put(hash, b"key", Timestamp(1), Some(9), Payload::Shared(&value));
    table.commit(entry, Timestamp(1));
    assert!(table.memory_len() >= LARGE_LEN_MIN);
    assert_eq!(Arc::strong_count(&value), 2);

    let entry = table.delete(hash, b"key", Timestamp(2)).expect("it has a value");
    assert_eq!(Arc::strong_count(&value), 2);
    table.commit(entry, Timestamp(2));

    assert_eq!(Arc::strong_count(&value), 1);
    assert!(table.get(hash, b"key").is_none());
}

#[test]
fn remains_are_freed_piece_by_piece() {
    let mut table = Memtable::new(1);
    (0..5_000).for_each(|number| put_committed(&mut table, &numbered(number), number, &[1; 500]));

    let mut remains = table.dismantle();

    let mut calls = 1;
    while remains.release_some(1) {
        calls += 1;
    }
    assert!(calls > 10, "{calls}");
    assert_eq!(remains.table.store.held_len(), 0);
}
