//! What tables cost: writing, reading in order, merging, single keys, the filter.
//!
//! `cargo bench --bench table -- [none|lz4|zstd] ROWS`: keys of 16 bytes (22 encoded), 1,024 slots,
//! values of 100 bytes, half of them random. Files go to the directory of `TABLE_BENCH_DIR`, else
//! to the system's for what is temporary. One core, direct I/O. `cpu` is processor time of the
//! thread; `result` is a hash of all that was read: it depends on ROWS alone.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark times")]
#![expect(unsafe_code, reason = "std does not read a thread's processor time")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stavekv::env::uring::{self, Features, Start, UringEnv};
use stavekv::id::{ShardId, Slot, Timestamp};
use stavekv::lsm::block::{Handle, Kind, PartKind, Sought, find, find_row, hash_of};
use stavekv::lsm::compact::{self, compact};
use stavekv::lsm::key::{encode_data_key, slot_of};
use stavekv::lsm::merge::Merge;
use stavekv::lsm::pace::Pace;
use stavekv::lsm::table::{Block, Compression, Meta, Options, Row, Table, Value, Writer};
use stavekv::wal::format::LogId;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITION_SLOTS: u16 = 1_024;
const VALUE_LEN: usize = 100;
/// Single keys that are looked up in memory.
const HELD: usize = 2_000;
const LOG: LogId = LogId { directory: 7, shard: ShardId(0) };

type Of = Table<UringEnv>;

fn encode(number: u64, key: &mut Vec<u8>) {
    let user_key = format!("{:016x}", number.wrapping_mul(0xD134_2543_DE82_EF95));
    let slot = Slot(slot_of(user_key.as_bytes()).0 % PARTITION_SLOTS);
    encode_data_key(slot, 0, user_key.as_bytes(), key);
}

fn sorted_keys(count: u64) -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new(); count as usize];
    keys.iter_mut().zip(0..).for_each(|(key, number)| encode(number, key));
    keys.sort_unstable();
    keys
}

/// SplitMix64.
fn random(number: u64) -> u64 {
    let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Half random, half not.
fn fill(value: &mut [u8; VALUE_LEN], number: u64) {
    for (n, bytes) in value[..VALUE_LEN / 2].chunks_mut(8).enumerate() {
        bytes.copy_from_slice(&random(number * 8 + n as u64).to_le_bytes()[..bytes.len()]);
    }
}

fn mix(sum: u64, bytes: &[u8]) -> u64 {
    let word = u64::from_le_bytes(*bytes.first_chunk().expect("values are of 100 bytes"));
    (sum.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists, and `time` is ours to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A stretch of work.
struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), cpu_time())
    }

    fn print(&self, what: &str, count: u64, rest: &str) {
        let per = |time: Duration| time.as_nanos() as f64 / count as f64;
        let (wall, cpu) = (per(self.0.elapsed()), per(cpu_time() - self.1));
        println!("{what:28} {wall:8.1} ns each, {cpu:8.1} cpu  {rest}");
    }
}

struct Bench {
    env: UringEnv,
    dir: PathBuf,
    compression: Compression,
    number: u64,
    keys: Vec<Vec<u8>>,
}

impl Bench {
    fn next_file(&mut self) -> (u64, PathBuf) {
        self.number += 1;
        (self.number, self.dir.join(self.number.to_string()))
    }

    /// Writes each `step`th key from `first` on.
    async fn write(&mut self, first: usize, step: usize) -> Of {
        let (number, path) = self.next_file();
        let options = Options { log: LOG, number, compression: self.compression };
        let mut writer = Writer::create(&self.env, &path, options).await.expect("a new file");
        let mut bytes = [b'v'; VALUE_LEN];
        for at in (first..self.keys.len()).step_by(step) {
            fill(&mut bytes, at as u64);
            let (key, timestamp) = (&self.keys[at], Timestamp((1 << 50) + at as u64));
            let value = Value::Bytes(&bytes);
            let row = Row { key, timestamp, kind: Kind::Put, expiry_ms: None, value };
            writer.add(&row).await.expect("the disk works");
        }
        let meta = writer.finish().await.expect("the disk works");
        self.open(&path, &meta).await
    }

    async fn open(&self, path: &Path, meta: &Meta) -> Of {
        Table::open(&self.env, path, meta).await.expect("it was just written")
    }

    async fn run(mut self) {
        let count = self.keys.len() as u64;
        let watch = Watch::start();
        let table = self.write(0, 1).await;
        let per_row = table.meta().file_len as f64 / count as f64;
        watch.print("write", count, &format!("{per_row:.1} bytes/row"));
        for _ in 0..2 {
            let watch = Watch::start();
            let result = scan(&table).await;
            watch.print("scan", count, &format!("result {result:016x}"));
        }
        self.single_keys(&table).await;
        self.filter(&table);
        for inputs in [2, 4, 8] {
            let mut tables = Vec::new();
            for first in 0..inputs {
                tables.push(self.write(first, inputs).await);
            }
            self.merge(&tables).await;
        }
    }

    /// Lookups of keys whose parts are in memory, and of keys that are on the disk.
    async fn single_keys(&self, table: &Of) {
        let at = |n: usize| random(n as u64) as usize % self.keys.len();
        let mut held = Vec::new();
        for n in 0..HELD {
            held.push(hold(table, &self.keys[at(n)]).await);
        }
        for (what, size) in [("get, in memory, 100 keys", 100), ("get, in memory, 2000 keys", HELD)]
        {
            let (watch, rounds, mut result) = (Watch::start(), 500_000 / size, 0);
            for _ in 0..rounds {
                for (n, (leaf, rows)) in held[..size].iter().enumerate() {
                    result = mix(result, look_up(table, &self.keys[at(n)], leaf, rows));
                }
            }
            watch.print(what, (rounds * size) as u64, &format!("result {result:016x}"));
        }
        let (watch, mut result) = (Watch::start(), 0);
        for n in 0..HELD {
            let found = table.get(&self.keys[at(n)], Timestamp(u64::MAX)).await;
            let found = found.expect("the disk works").expect("it is there");
            result ^= found.timestamp.0;
        }
        watch.print("get, from disk, one by one", HELD as u64, &format!("result {result:x}"));
    }

    fn filter(&self, table: &Of) {
        let count = self.keys.len() as u64;
        let (mut key, mut wrong) = (Vec::new(), 0u64);
        for number in count..2 * count {
            encode(number, &mut key);
            wrong += u64::from(table.may_contain(hash_of(&key)));
        }
        let hashes: Vec<u64> = (count..2 * count).map(random).collect();
        let watch = Watch::start();
        let passed = hashes.iter().filter(|hash| table.may_contain(**hash)).count();
        let resident = table.memory_len() as f64 * 8.0 / count as f64;
        let percent = wrong as f64 * 100.0 / count as f64;
        let rest = format!("{percent:.2} % wrong ({passed} here), {resident:.1} resident bits/key");
        watch.print("filter, absent keys", count, &rest);
    }

    async fn merge(&mut self, tables: &[Of]) {
        let (count, inputs) = (self.keys.len() as u64, tables.len());
        let iters = || tables.iter().map(|table| table.iter(b"").eager()).collect::<Vec<_>>();
        let (watch, mut merge, mut result) = (Watch::start(), Merge::new(iters()), 0);
        while let Some(row) = merge.next().await.expect("the disk works") {
            if let Value::Bytes(bytes) = row.value {
                result = mix(result, bytes);
            }
        }
        watch.print(&format!("merge of {inputs}"), count, &format!("result {result:016x}"));
        let options = compact::Options {
            log: LOG,
            compression: self.compression,
            target_len: compact::TARGET_LEN,
            is_bottom: true,
            retain_from: Timestamp(u64::MAX),
            now_ms: 0,
        };
        // What compaction costs, not how it is slowed.
        let pace = Pace::default();
        (0..100).for_each(|_| pace.adjust(false, 0));
        let (env, watch) = (self.env.clone(), Watch::start());
        let outcome = compact(&env, iters(), &options, &pace, || self.next_file()).await;
        let outcome = outcome.expect("the disk works");
        assert_eq!(outcome.rows_written, count);
        let rest = format!("{} tables", outcome.tables.len());
        watch.print(&format!("compaction of {inputs}"), count, &rest);
    }
}

async fn scan(table: &Of) -> u64 {
    let (mut iter, mut result) = (table.iter(b"").eager(), 0);
    while let Some(row) = iter.next().await.expect("the disk works") {
        if let Value::Bytes(bytes) = row.value {
            result = mix(result, bytes);
        }
    }
    result
}

/// The leaf and the rows that have a key.
async fn hold(table: &Of, key: &[u8]) -> (Block, Block) {
    let (leaf, _) = table.leaf_of(key).expect("it is sound").expect("it is in the table");
    let leaf = table.read(PartKind::Leaf, leaf).await.expect("the disk works");
    let rows = place_of(&leaf, key);
    (leaf, table.read(PartKind::Rows, rows).await.expect("the disk works"))
}

fn place_of(leaf: &Block, key: &[u8]) -> Handle {
    let found = find(leaf.payload(), key).expect("it is sound").expect("it is in the table");
    Handle::decode(leaf.payload(), found.body).expect("it is sound")
}

/// All of a lookup but the reads: hash, filter, top, leaf, rows.
fn look_up<'a>(table: &Of, key: &[u8], leaf: &Block, rows: &'a Block) -> &'a [u8] {
    assert!(table.may_contain(hash_of(key)));
    let top = table.leaf_of(key).expect("it is sound");
    let place = place_of(leaf, key);
    assert!(top.is_some() && place.len > 0);
    match find_row(rows.payload(), key, Timestamp(u64::MAX)) {
        Ok(Sought::Found(head)) => match head.value(rows.payload()) {
            Value::Bytes(bytes) => bytes,
            Value::Large(_) => unreachable!("values are of 100 bytes"),
        },
        other => panic!("{other:?}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let keys = sorted_keys(count);
    let dir = std::env::var_os("TABLE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("stave-table-bench-{}", std::process::id()));
    for compression in Compression::ALL {
        let name = compression.name();
        if args.iter().any(|arg| Compression::named(arg).is_some() && arg != name) {
            continue;
        }
        println!("compression {name}, {count} rows");
        std::fs::create_dir_all(&dir).expect("the directory is ours");
        let (keys, own) = (keys.clone(), dir.clone());
        let options = uring::Options {
            name: 1,
            start: Start::now(),
            seed: 1,
            features: Features::probe().expect("there is a ring"),
        };
        let result = uring::run(options, |env| async move {
            Bench { env, dir: own, compression, number: 0, keys }.run().await;
        });
        std::fs::remove_dir_all(&dir).expect("the directory is ours");
        result.expect("there is a ring");
    }
}
