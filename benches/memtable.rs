//! What the memtable costs beside the usual structures.
//!
//! `cargo bench --bench memtable -- [stave|stave-huge|hashmap|btreemap|skiplist] KEYS`: keys of 16
//! bytes, of 1,024 slots, values of 100 bytes. Keys are made outside the measured time, 1,024 at a
//! time, so that they are in the cache as a request's are. Lookups and overwrites: the median of
//! nine rounds of 200,000. `result` is a hash of all that was read: it depends on KEYS, not on the
//! structure.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark times")]
#![expect(unsafe_code, reason = "std does not read a thread's processor time")]

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use crossbeam_skiplist::SkipMap;
use stavekv::id::{Slot, Timestamp};
use stavekv::lsm::key::{encode_data_key, slot_of};
use stavekv::lsm::memtable::{EntryRef, Memtable, Pages, Payload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 1_024;
const GROUP: usize = 16;
const ROUNDS: usize = 9;
const ROUND_LEN: usize = 200_000 / BATCH * BATCH;
const VALUE_LEN: usize = 100;
const PARTITION_SLOTS: u16 = 1_024;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

/// What is measured, of each structure.
trait Table {
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// The first eight bytes of the value.
    fn get(&self, key: &[u8]) -> u64;

    fn put_group(&mut self, keys: &[Vec<u8>], value: &[u8]) {
        keys.iter().for_each(|key| self.put(key, value));
    }

    fn get_group(&self, keys: &[Vec<u8>]) -> u64 {
        keys.iter().fold(0, |sum, key| mix(sum, self.get(key)))
    }

    /// Keys in order, and the time to the end.
    fn scan(&mut self) -> Option<usize> {
        None
    }

    fn memory_len(&self) -> Option<usize> {
        None
    }
}

struct Stave {
    table: Memtable,
    now: u64,
    entries: Vec<EntryRef>,
}

impl Table for Stave {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.now += 1;
        let hash = self.table.hash(key);
        let now = Timestamp(self.now);
        let entry = self.table.put(hash, key, now, None, Payload::Bytes(value));
        self.table.commit(entry, now);
    }

    fn get(&self, key: &[u8]) -> u64 {
        let version = self.table.get(self.table.hash(key), key).expect("all keys are resident");
        match version.payload {
            Payload::Bytes(value) => first(value),
            Payload::Shared(value) => first(value),
        }
    }

    /// Proposes all, then commits all, as a turn of the shard's loop does.
    fn put_group(&mut self, keys: &[Vec<u8>], value: &[u8]) {
        let hashes = self.prefetched(keys);
        for (key, hash) in keys.iter().zip(hashes) {
            self.now += 1;
            let payload = Payload::Bytes(value);
            self.entries.push(self.table.put(hash, key, Timestamp(self.now), None, payload));
        }
        self.table.commit_all(&self.entries, Timestamp(self.now));
        self.entries.clear();
    }

    fn get_group(&self, keys: &[Vec<u8>]) -> u64 {
        let hashes = self.prefetched(keys);
        keys.iter().zip(hashes).fold(0, |sum, (key, hash)| {
            let version = self.table.get(hash, key).expect("all keys are resident");
            let Payload::Bytes(value) = version.payload else { return sum };
            mix(sum, first(value))
        })
    }

    fn scan(&mut self) -> Option<usize> {
        Some(self.table.scan(&[], Timestamp(u64::MAX)).count())
    }

    fn memory_len(&self) -> Option<usize> {
        Some(self.table.held_len())
    }
}

impl Stave {
    fn prefetched(&self, keys: &[Vec<u8>]) -> [u64; GROUP] {
        let mut hashes = [0; GROUP];
        for (key, hash) in keys.iter().zip(&mut hashes) {
            *hash = self.table.hash(key);
            self.table.prefetch(*hash);
        }
        hashes.iter().for_each(|&hash| self.table.prefetch_entry(hash));
        hashes
    }
}

impl Table for HashMap<Box<[u8]>, Box<[u8]>, ahash::RandomState> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Some(old) = self.get_mut(key) {
            *old = value.into();
        } else {
            self.insert(key.into(), value.into());
        }
    }

    fn get(&self, key: &[u8]) -> u64 {
        first(self.get(key).expect("all keys are resident"))
    }
}

impl Table for BTreeMap<Box<[u8]>, Box<[u8]>> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.insert(key.into(), value.into());
    }

    fn get(&self, key: &[u8]) -> u64 {
        first(self.get(key).expect("all keys are resident"))
    }

    fn scan(&mut self) -> Option<usize> {
        Some(self.iter().filter(|(_, value)| !value.is_empty()).count())
    }
}

impl Table for SkipMap<Box<[u8]>, Box<[u8]>> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.insert(key.into(), value.into());
    }

    fn get(&self, key: &[u8]) -> u64 {
        first(SkipMap::get(self, key).expect("all keys are resident").value())
    }

    fn scan(&mut self) -> Option<usize> {
        Some(self.iter().filter(|entry| !entry.value().is_empty()).count())
    }
}

fn first(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().expect("values are of 100 bytes"))
}

fn mix(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn encode(number: u64, key: &mut Vec<u8>) {
    // Digits in an order of their own, so that neighbours in time are not neighbours in order.
    let user_key = format!("{:016x}", number.wrapping_mul(0xD134_2543_DE82_EF95));
    let slot = Slot(slot_of(user_key.as_bytes()).0 % PARTITION_SLOTS);
    encode_data_key(slot, 0, user_key.as_bytes(), key);
}

fn value_of(number: u64) -> [u8; VALUE_LEN] {
    let mut value = [b'v'; VALUE_LEN];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// What this thread has had of a core: other processes do not count.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and `time` is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Inserts all keys: nanoseconds per key, and the slowest sixteen in a row.
fn insert_all(table: &mut dyn Table, count: u64) -> (f64, Duration) {
    let mut keys = vec![Vec::new(); BATCH];
    let (mut total, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for start in (0..count).step_by(BATCH) {
        let numbers = start..(start + BATCH as u64).min(count);
        numbers.clone().zip(&mut keys).for_each(|(number, key)| encode(number, key));
        let begin = Instant::now();
        let mut last = cpu_time();
        for (number, key) in numbers.zip(&keys) {
            table.put(key, &value_of(number));
            if number % GROUP as u64 == 0 {
                let now = cpu_time();
                slowest = slowest.max(now - last);
                last = now;
            }
        }
        total += begin.elapsed();
    }
    (total.as_nanos() as f64 / count as f64, slowest)
}

/// Median nanoseconds per key of `work` upon random resident keys.
fn measure(count: u64, mut work: impl FnMut(&[Vec<u8>])) -> f64 {
    let mut random = Random(count);
    let mut keys = vec![Vec::new(); BATCH];
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let mut total = Duration::ZERO;
            for _ in 0..ROUND_LEN / BATCH {
                keys.iter_mut().for_each(|key| encode(random.next() % count, key));
                let begin = Instant::now();
                work(&keys);
                total += begin.elapsed();
            }
            total.as_nanos() as f64 / ROUND_LEN as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn run(name: &str, table: &mut dyn Table, count: u64) {
    let (insert, slowest) = insert_all(table, count);
    let mut result = 0;
    let get = measure(count, |keys| {
        result = keys.iter().fold(result, |sum, key| mix(sum, table.get(key)));
    });
    let get_group = measure(count, |keys| {
        for group in keys.chunks(GROUP) {
            result = mix(result, table.get_group(group));
        }
    });
    let put = measure(count, |keys| keys.iter().for_each(|key| table.put(key, &value_of(1))));
    let put_group = measure(count, |keys| {
        keys.chunks(GROUP).for_each(|group| table.put_group(group, &value_of(2)));
    });
    let scans = [(); 2].map(|()| {
        let begin = Instant::now();
        let seen = black_box(table.scan());
        assert!(seen.is_none_or(|seen| seen as u64 == count), "{seen:?} of {count}");
        seen.map_or(f64::NAN, |_| begin.elapsed().as_nanos() as f64 / count as f64)
    });
    let bytes = table.memory_len().map_or(f64::NAN, |len| len as f64 / count as f64);
    println!(
        "{name:10} keys {count:9} | get {get:5.0} | get x16 {get_group:5.0} | insert {insert:5.0} \
         (slowest {:4} us) | overwrite {put:5.0} | overwrite x16 {put_group:5.0} | scan {:5.1}, \
         again {:5.1} | bytes/key {bytes:4.0} | result {result:016x}",
        slowest.as_micros(),
        scans[0],
        scans[1],
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    let wanted = |name: &str| args.len() < 2 || args.iter().any(|arg| arg == name);
    for (name, pages) in [("stave", Pages::Small), ("stave-huge", Pages::Huge)] {
        if wanted(name) {
            run(
                name,
                &mut Stave { table: Memtable::with_pages(42, pages), now: 0, entries: Vec::new() },
                count,
            );
        }
    }
    if wanted("hashmap") {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        run("hashmap", &mut HashMap::<Box<[u8]>, Box<[u8]>, _>::with_hasher(hasher), count);
    }
    if wanted("btreemap") {
        run("btreemap", &mut BTreeMap::<Box<[u8]>, Box<[u8]>>::new(), count);
    }
    if wanted("skiplist") {
        run("skiplist", &mut SkipMap::<Box<[u8]>, Box<[u8]>>::new(), count);
    }
}
