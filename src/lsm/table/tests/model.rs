//! Tables against sorted lists.

use proptest::prelude::*;

use super::*;
use crate::lsm::block::LARGE_LEN_MIN;

/// Values of many sizes: most are small, some fill sectors, some are large.
fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..200usize,
        2 => 200..5_000usize,
        1 => LARGE_LEN_MIN - 2..LARGE_LEN_MIN + 2,
        1 => Just(70_000usize),
    ]
}

fn row() -> impl Strategy<Value = Owned> {
    // Few keys and timestamps, so that a key has many versions, and long ones with much in common.
    let key = (0..40u8, prop_oneof![6 => Just(0usize), 1 => 1..3_000usize]);
    let expiry = prop::option::of(0..u64::MAX);
    (key, 0..30u64, any::<bool>(), expiry, value_len()).prop_map(
        |((letter, long), timestamp, is_put, expiry_ms, len)| {
            let key = [&vec![b'k'; long][..], &[letter, 0, 1]].concat();
            if is_put {
                let value: Vec<u8> = (0..len).map(|n| (n * 31) as u8 ^ letter).collect();
                Owned { expiry_ms, ..Owned::put(&key, timestamp, &value) }
            } else {
                Owned::delete(&key, timestamp)
            }
        },
    )
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_table_answers_as_a_sorted_list_does(
        rows in prop::collection::vec(row(), 1..300),
        compression in compression(),
        asked in prop::collection::vec((0..42u8, 0..32u64), 20),
        seed: u64,
    ) {
        let rows = sorted(rows);
        let (sim, _, env, meta) = scene(seed, Options { compression, ..options() }, &rows);
        check_meta(&meta, &rows);

        sim.run_on(&env, async move |env| {
            let table = Table::open(&env, Path::new(PATH), &meta).await.expect("it is sound");
            for row in &rows {
                assert!(table.may_contain(hash_of(&row.key)));
            }
            assert_eq!(read_from(&table, b"").await.expect("it is sound"), rows);
            for (letter, at) in asked {
                check_key(&table, &rows, &[letter, 0, 1], at).await;
                let some = &rows[(usize::from(letter) * 7 + at as usize) % rows.len()].key;
                check_key(&table, &rows, some, at).await;
                let longer = [&some[..], b"\x00"].concat();
                check_key(&table, &rows, &longer, at).await;
            }
        });
    }
}

async fn check_key(table: &Table<SimEnv>, rows: &[Owned], key: &[u8], at: u64) {
    let expected = rows.iter().find(|row| row.key == key && row.timestamp <= at);
    assert_eq!(get(table, key, at).await.expect("it is sound").as_ref(), expected);
    let from = rows.partition_point(|row| row.key.as_slice() < key);
    assert_eq!(read_from(table, key).await.expect("it is sound"), rows[from..]);
}

fn check_meta(meta: &Meta, rows: &[Owned]) {
    let of = &meta.statistics;
    let count = |is: fn(&Owned) -> bool| rows.iter().filter(|row| is(row)).count() as u64;
    let sum = |len: fn(&Owned) -> usize| rows.iter().map(|row| len(row) as u64).sum::<u64>();
    assert_eq!(of.row_count, rows.len() as u64);
    assert_eq!(of.put_count, count(|row| row.kind == Kind::Put));
    assert_eq!(of.delete_count, count(|row| row.kind == Kind::Delete));
    assert_eq!(of.expiring_count, count(|row| row.expiry_ms.is_some()));
    assert_eq!(Some(of.timestamp_min.0), rows.iter().map(|row| row.timestamp).min());
    assert_eq!(Some(of.timestamp_max.0), rows.iter().map(|row| row.timestamp).max());
    let expiries = || rows.iter().filter_map(|row| row.expiry_ms);
    assert_eq!(of.expiry_min_ms, expiries().min().unwrap_or(0));
    assert_eq!(of.expiry_max_ms, expiries().max().unwrap_or(0));
    assert_eq!(of.key_len, sum(|row| row.key.len()));
    assert_eq!(of.value_len, sum(|row| row.value.len()));
    let large = |row: &Owned| if row.value.len() < LARGE_LEN_MIN { 0 } else { row.value.len() };
    assert_eq!(of.large_len, sum(large));
    assert_eq!(&meta.smallest, &rows[0].key);
    assert_eq!(&meta.largest, &rows[rows.len() - 1].key);
}

/// Enough for several leaves, pieces and buffers.
#[test]
fn a_long_table_is_read_from_start_and_middle() {
    for compression in Compression::ALL {
        let rows = many(40_000, 100);
        let (sim, _, env, meta) = scene(1, Options { compression, ..options() }, &rows);
        sim.run_on(&env, async move |env| {
            let table = Table::open(&env, Path::new(PATH), &meta).await.expect("it is sound");
            let leaves_len = table.inner.footer.leaves.1;
            assert!(leaves_len > SECTOR || compression != Compression::None, "one leaf");
            assert_eq!(read_from(&table, b"").await.expect("it is sound"), rows);
            for n in [0, 1, 9_999, 20_000, 39_999] {
                let from = read_from(&table, &rows[n].key).await.expect("it is sound");
                assert_eq!(from, rows[n..]);
                let found = get(&table, &rows[n].key, u64::MAX).await.expect("it is sound");
                assert_eq!(found.as_ref(), Some(&rows[n]));
            }
        });
    }
}

/// One key's versions fill more than a leaf: each is found, at each time.
#[test]
fn versions_of_a_key_may_fill_parts_and_leaves() {
    let rows: Vec<Owned> =
        (0..900).map(|n| Owned::put(b"key", 2_000 - 2 * n, &[7; 4_000])).collect();
    let rows = sorted([rows, vec![Owned::put(b"kez", 5, b"x")]].concat());
    let (sim, _, env, meta) = scene(1, options(), &rows);
    sim.run_on(&env, async move |env| {
        let table = Table::open(&env, Path::new(PATH), &meta).await.expect("it is sound");
        for at in [0, 201, 202, 203, 1_001, 2_000, u64::MAX] {
            check_key(&table, &rows, b"key", at).await;
        }
        check_key(&table, &rows, b"kez", 5).await;
    });
}

#[test]
fn a_value_of_many_chunks_streams_and_is_copied_to_another_table() {
    let value: Vec<u8> = (0..3_500_000u32).map(|n| (n ^ n >> 9) as u8).collect();
    let rows = vec![
        Owned::put(b"a", 1, b"small"),
        Owned::put(b"b", 1, &value),
        Owned::put(b"c", 1, &value[..crate::lsm::block::BODY_LEN_MAX]),
    ];
    let (sim, _, env, meta) = scene(1, options(), &rows);
    sim.run_on(&env, async move |env| {
        let table = Table::open(&env, Path::new(PATH), &meta).await.expect("it is sound");
        assert_eq!(read_from(&table, b"").await.expect("it is sound"), rows);

        let other = Options { number: 8, ..options() };
        let mut writer = Writer::create(&env, Path::new("8"), other).await.expect("it is new");
        let mut iter = table.iter(b"").eager();
        while let Some(row) = iter.next().await.expect("it is sound") {
            match row.value {
                Value::Bytes(_) => writer.add(&row).await,
                Value::Large(_) => writer.add_large(&row, &table).await,
            }
            .expect("no faults are on");
        }
        let copied = writer.finish().await.expect("no faults are on");
        assert_eq!(copied.statistics, meta.statistics);
        let copy = Table::open(&env, Path::new("8"), &copied).await.expect("it is sound");
        assert_eq!(read_from(&copy, b"").await.expect("it is sound"), rows);
    });
}

#[test]
fn rows_of_all_sizes_leave_little_padding() {
    for value_len in [10, 100, 500, 1_000, 1_400, 2_100, 3_000, 4_000, 5_000, 9_000, 16_000] {
        let rows = many(200_000 / (value_len as u64 + 40), value_len);
        let (_, _, _, meta) = scene(1, options(), &rows);
        let raw = meta.statistics.key_len + meta.statistics.value_len;
        let overhead = meta.file_len as f64 / raw as f64;
        // A row has 12 bytes of its own; index, filter and footer have some sectors.
        let own = rows.len() as u64 * 13 + 12 * SECTOR;
        let allowed = 1.25 + own as f64 / raw as f64;
        assert!(overhead < allowed, "{value_len}: {overhead} of {allowed}");
    }
}

#[test]
#[should_panic(expected = "out of order")]
fn rows_out_of_order_are_refused() {
    scene(1, options(), &[Owned::put(b"b", 1, b""), Owned::put(b"a", 2, b"")]);
}

#[test]
#[should_panic(expected = "out of order")]
fn the_same_version_twice_is_refused() {
    scene(1, options(), &[Owned::put(b"a", 1, b""), Owned::put(b"a", 1, b"")]);
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let rows = many(10, 10);
    let (sim, node, env, meta) = scene(1, options(), &rows);
    let before = node.read_file(PATH);
    let again = rows.clone();
    let result = sim.run_on(&env, async move |env| {
        write(&env, Path::new(PATH), options(), &again).await.map(|_| ())
    });

    assert!(matches!(result, Err(Error::Io { op: "create", .. })), "{result:?}");
    assert_eq!(node.read_file(PATH), before);
    assert_eq!(read_all(&sim, &env, &meta).expect("it is sound"), rows);
}
