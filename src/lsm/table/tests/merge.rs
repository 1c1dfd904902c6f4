//! Merges and compactions against sorted lists.

use std::cell::Cell;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::lsm::compact::{self, Outcome, compact};
use crate::lsm::merge::Merge;
use crate::lsm::pace::Pace;

/// One table of each list, numbered from 1 on, open.
async fn tables_of(env: &SimEnv, lists: &[Vec<Owned>]) -> Vec<Table<SimEnv>> {
    let mut tables = Vec::new();
    for (number, rows) in (1..).zip(lists) {
        let path = PathBuf::from(file_name(number));
        let options = Options { number, ..options() };
        let meta = write(env, &path, options, rows).await.expect("no faults are on");
        tables.push(Table::open(env, &path, &meta).await.expect("it is sound"));
    }
    tables
}

async fn merged(tables: &[Table<SimEnv>], from: &[u8]) -> Vec<Owned> {
    let mut merge = Merge::new(tables.iter().map(|table| table.iter(from)).collect());
    let mut rows = Vec::new();
    while merge.advance().await.expect("they are sound") {
        let Row { key, timestamp, kind, expiry_ms, value } = merge.row().expect("it is there");
        let (key, timestamp) = (key.to_vec(), timestamp.0);
        let value = match value {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Large(large) => {
                merge.table().read_value(large).await.expect("it is sound").to_vec()
            }
        };
        rows.push(Owned { key, timestamp, kind, expiry_ms, value });
    }
    assert!(merge.row().is_none() && !merge.advance().await.expect("it stays at the end"));
    rows
}

fn row() -> impl Strategy<Value = Owned> {
    let value_len = prop_oneof![20 => 0..50usize, 1 => Just(20_000usize)];
    (0..25u8, 1..60u64, 0..4u8, 0..100u64, value_len).prop_map(
        |(letter, timestamp, kind, expiry_ms, len)| {
            let key = [b'k', letter, 0, 1];
            let value = vec![letter ^ timestamp as u8; len];
            match kind {
                0 => Owned::delete(&key, timestamp),
                1 => Owned { expiry_ms: Some(expiry_ms), ..Owned::put(&key, timestamp, &value) },
                _ => Owned::put(&key, timestamp, &value),
            }
        },
    )
}

/// Lists of rows; no version is in two of them.
fn lists() -> impl Strategy<Value = Vec<Vec<Owned>>> {
    (1..8usize, prop::collection::vec((row(), any::<prop::sample::Index>()), 1..150)).prop_map(
        |(count, rows)| {
            let mut lists = vec![Vec::new(); count];
            let all = sorted(rows.iter().map(|(row, _)| row.clone()).collect());
            for (row, (_, at)) in all.into_iter().zip(&rows) {
                lists[at.index(count)].push(row);
            }
            lists.retain(|list| !list.is_empty());
            lists
        },
    )
}

/// What a read at `at` finds, when all that expires by `now_ms` has expired.
fn visible(rows: &[Owned], key: &[u8], at: u64, now_ms: u64) -> Option<(u64, Vec<u8>)> {
    let newest = rows.iter().find(|row| row.key == key && row.timestamp <= at)?;
    let is_live = newest.kind == Kind::Put && newest.expiry_ms.is_none_or(|expiry| expiry > now_ms);
    is_live.then(|| (newest.timestamp, newest.value.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_merge_is_the_sorted_whole(lists in lists(), from in 0..26u8, seed: u64) {
        let sim = Sim::new(seed);
        let env = sim.node(NODE).env(ShardId(0));
        sim.run_on(&env, async move |env| {
            let tables = tables_of(&env, &lists).await;
            let all = sorted(lists.concat());
            assert_eq!(merged(&tables, b"").await, all);
            let from = [b'k', from];
            let first = all.partition_point(|row| row.key[..] < from[..]);
            assert_eq!(merged(&tables, &from).await, all[first..]);
        });
    }

    #[test]
    fn a_compaction_changes_no_read(
        lists in lists(),
        is_bottom: bool,
        retain_from in prop_oneof![0..62u64, Just(u64::MAX)],
        now_ms in 0..100u64,
        target_len in prop_oneof![Just(1u64), Just(20_000), Just(compact::TARGET_LEN)],
        seed: u64,
    ) {
        let options = compact::Options {
            log: options().log,
            compression: Compression::None,
            target_len,
            is_bottom,
            retain_from: Timestamp(retain_from),
            now_ms,
        };
        let sim = Sim::new(seed);
        let env = sim.node(NODE).env(ShardId(0));
        sim.run_on(&env, async move |env| {
            let before = sorted(lists.concat());
            let (outcome, after) = run(&env, &lists, &options).await;
            assert_eq!(outcome.rows_read as usize, before.len());
            check_reads(&options, &before, &after);
            check_least(&options, &after);
        });
    }
}

/// Compacts tables of these lists: what came of it, and the rows of the new tables.
async fn run(
    env: &SimEnv,
    lists: &[Vec<Owned>],
    options: &compact::Options,
) -> (Outcome, Vec<Owned>) {
    let tables = tables_of(env, lists).await;
    let inputs = tables.iter().map(|table| table.iter(b"")).collect();
    let number = Cell::new(100);
    let next_file = || {
        number.set(number.get() + 1);
        (number.get(), PathBuf::from(file_name(number.get())))
    };
    let outcome =
        compact(env, inputs, options, &Pace::default(), next_file).await.expect("no faults are on");
    let mut after: Vec<Owned> = Vec::new();
    for meta in &outcome.tables {
        let path = PathBuf::from(file_name(meta.number));
        let table = Table::open(env, &path, meta).await.expect("it is sound");
        if let Some(last) = after.last() {
            assert!(last.key < meta.smallest, "a key straddles tables");
        }
        after.extend(read_from(&table, b"").await.expect("it is sound"));
    }
    assert_eq!(number.get(), 100 + outcome.tables.len() as u64, "no file without rows");
    assert_eq!(outcome.rows_written as usize, after.len());
    (outcome, after)
}

fn check_reads(options: &compact::Options, before: &[Owned], after: &[Owned]) {
    let now_ms = options.now_ms;
    for row in before {
        for at in options.retain_from.0.min(70)..=70 {
            // Reads are at `retain_from` at the earliest.
            let at = at.max(options.retain_from.0);
            let expected = visible(before, &row.key, at, now_ms);
            assert_eq!(visible(after, &row.key, at, now_ms), expected, "{row:?} at {at}");
        }
    }
}

/// Nothing is kept that need not be.
fn check_least(options: &compact::Options, after: &[Owned]) {
    let settled = |row: &&Owned| row.timestamp <= options.retain_from.0;
    let settled: Vec<&Owned> = after.iter().filter(settled).collect();
    assert!(settled.is_sorted_by(|a, b| a.key < b.key), "a hidden version was kept");
    for row in settled {
        assert!(row.expiry_ms.is_none_or(|expiry| expiry > options.now_ms), "{row:?} is expired");
        assert!(!options.is_bottom || row.kind == Kind::Put, "{row:?} hides nothing");
    }
}

#[test]
fn a_merge_of_nothing_is_empty() {
    let sim = Sim::new(1);
    let env = sim.node(NODE).env(ShardId(0));
    sim.run_on(&env, async move |_| {
        let mut merge: Merge<SimEnv> = Merge::new(Vec::new());
        assert!(!merge.advance().await.expect("nothing is wrong"));
        assert!(merge.row().is_none());
    });
}

#[test]
fn a_version_of_two_tables_is_kept_once() {
    let sim = Sim::new(1);
    let env = sim.node(NODE).env(ShardId(0));
    sim.run_on(&env, async move |env| {
        let lists = vec![many(20, 30), many(20, 30)];
        let options = compact::Options {
            log: options().log,
            compression: Compression::Lz4,
            target_len: compact::TARGET_LEN,
            is_bottom: false,
            retain_from: Timestamp(0),
            now_ms: 0,
        };
        let (outcome, after) = run(&env, &lists, &options).await;
        assert_eq!(after, many(20, 30));
        assert_eq!((outcome.hidden_count, outcome.tables.len()), (20, 1));
    });
}
