//! Nothing wrong is ever answered: flipped bits, cut files, parts and files in each other's place.

use super::*;
use crate::lsm::block::{LARGE_LEN_MIN, PART_LEN_MAX};

/// A small table with everything in it: versions, tombstones, deadlines, a large value.
fn some_of_all() -> Vec<Owned> {
    let mut rows = many(60, 100);
    rows.push(Owned { expiry_ms: Some(99), ..Owned::put(b"key:00000007", 900, b"newer") });
    rows.push(Owned::delete(b"key:00000009", 901));
    rows.push(Owned::put(b"large", 5, &vec![3; LARGE_LEN_MIN]));
    sorted(rows)
}

/// Whether anything is answered as if nothing were wrong: the open, a scan, or some read of a key.
fn answers(sim: &Sim, env: &SimEnv, meta: &Meta, rows: &[Owned]) -> Result<Vec<Owned>, Error> {
    let scanned = read_all(sim, env, meta);
    let (meta, rows) = (meta.clone(), rows.to_vec());
    sim.run_on(env, async move |env| {
        let Ok(table) = Table::open(&env, Path::new(PATH), &meta).await else { return };
        for row in &rows {
            if let Ok(found) = get(&table, &row.key, row.timestamp).await {
                assert_eq!(found.as_ref(), Some(row), "a wrong answer");
            }
        }
    });
    scanned
}

#[test]
fn a_flipped_bit_in_any_byte_is_found() {
    for compression in Compression::ALL {
        let rows = some_of_all();
        let (sim, node, env, meta) = scene(1, Options { compression, ..options() }, &rows);
        assert_eq!(answers(&sim, &env, &meta, &rows).expect("it is sound"), rows);
        let sound = node.read_file(PATH).expect("it is there");
        // Padding too: what is covered by a checksum is covered to the last bit of the sector. A
        // byte in three, so that it takes seconds; another third for each of the three.
        for offset in (compression as usize..sound.len()).step_by(3) {
            let bit = (offset / 3 % 8) as u8;
            node.flip_bit(PATH, offset as u64, bit);
            let result = read_all(&sim, &env, &meta);
            let error = result.map(|_| ()).expect_err("the bit was found");
            let near = match &error {
                Error::Corrupt { offset: at, .. } => {
                    *at <= offset as u64 && offset as u64 - at < PART_LEN_MAX as u64
                }
                error => error.is_corrupt(),
            };
            assert!(near, "bit {bit} of byte {offset}: {error}");
            node.flip_bit(PATH, offset as u64, bit);
        }
        assert_eq!(node.read_file(PATH), Some(sound));
    }
}

#[test]
fn reads_of_single_keys_are_right_or_refused() {
    let rows = some_of_all();
    let (sim, node, env, meta) = scene(1, options(), &rows);
    let len = meta.file_len;
    for offset in (0..len).step_by(997) {
        node.flip_bit(PATH, offset, 3);
        assert!(answers(&sim, &env, &meta, &rows).is_err(), "byte {offset}");
        node.flip_bit(PATH, offset, 3);
    }
}

/// A damaged part takes the keys in it away, and no others.
#[test]
fn a_bad_part_refuses_its_keys_alone() {
    let rows = many(400, 100);
    let (sim, node, env, meta) = scene(1, options(), &rows);
    node.flip_bit(PATH, 2 * SECTOR + 100, 1);
    sim.run_on(&env, async move |env| {
        let table = Table::open(&env, Path::new(PATH), &meta).await.expect("its end is sound");
        let (mut right, mut refused) = (0, 0);
        for row in &rows {
            match get(&table, &row.key, u64::MAX).await {
                Ok(found) => {
                    assert_eq!(found.as_ref(), Some(row));
                    right += 1;
                }
                Err(Error::Corrupt { what: "rows", offset, .. }) if offset == 2 * SECTOR => {
                    refused += 1;
                }
                Err(error) => panic!("another error: {error}"),
            }
        }
        assert!(refused > 10 && refused < 50 && right > 300, "{right} right, {refused} refused");
    });
}

#[test]
fn a_cut_file_is_found() {
    let rows = some_of_all();
    let (sim, node, env, meta) = scene(1, options(), &rows);
    let sound = node.read_file(PATH).expect("it is there");
    for len in (0..sound.len()).step_by(SECTOR_LEN).rev() {
        node.truncate_file(PATH, len as u64);
        let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it was cut");
        assert!(matches!(error, Error::Length { .. }), "{len}: {error}");
        // And if something made it as long as it was, with zeroes.
        let mut zeroed = sound[..len].to_vec();
        zeroed.resize(sound.len(), 0);
        node.write_file(PATH, &zeroed);
        let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it has a zeroed tail");
        assert!(matches!(error, Error::Corrupt { what: "footer", .. }), "{len}: {error}");
    }
    node.write_file(PATH, &[&sound[..], &[0; SECTOR_LEN]].concat());
    let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it grew");
    assert!(matches!(error, Error::Length { .. }), "{error}");
}

#[test]
fn sectors_in_each_others_place_are_found() {
    // All rows alike, so that the parts have the same shape.
    let rows = many(400, 100);
    let (sim, node, env, meta) = scene(1, options(), &rows);
    let sound = node.read_file(PATH).expect("it is there");
    let count = sound.len() / SECTOR_LEN;
    for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        let mut wrong = sound.clone();
        wrong.copy_within(b * SECTOR_LEN..(b + 1) * SECTOR_LEN, a * SECTOR_LEN);
        if wrong == sound {
            continue;
        }
        node.write_file(PATH, &wrong);
        assert!(read_all(&sim, &env, &meta).is_err(), "sector {b} in place of {a}");
    }
}

/// The same rows in a file of another number, of another log, of an earlier life.
#[test]
fn another_file_in_its_place_is_found_and_named() {
    let rows = many(300, 100);
    let (sim, node, env, meta) = scene(1, options(), &rows);
    let log = LogId { directory: 0xfeed_bee0, ..options().log };
    let shard = LogId { shard: ShardId(4), ..options().log };
    let others = [
        ("number", Options { number: 8, ..options() }),
        ("log", Options { log, ..options() }),
        ("log", Options { log: shard, ..options() }),
        ("checksum", options()),
    ];
    let sound = node.read_file(PATH).expect("it is there");
    for (what, other) in others {
        let (_, elsewhere, ..) = scene(2, other, &rows);
        let bytes = elsewhere.read_file(PATH).expect("it is there");
        node.write_file(PATH, &bytes);
        let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it is another");
        assert!(matches!(error, Error::Foreign { what: w, .. } if w == what), "{what}: {error}");

        // And a single part of it in a file that is right otherwise.
        for sector in 0..sound.len() / SECTOR_LEN - 1 {
            let mut mixed = sound.clone();
            let at = sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN;
            mixed[at.clone()].copy_from_slice(&bytes[at]);
            node.write_file(PATH, &mixed);
            let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it is mixed");
            let at = sector as u64 * SECTOR;
            assert!(matches!(error, Error::Corrupt { offset, .. } if offset <= at), "{error}");
        }
    }
}

#[test]
fn a_meta_that_is_not_its_own_is_refused() {
    let (sim, _, env, meta) = scene(1, options(), &many(100, 10));
    let wrong = |change: fn(&mut Meta)| {
        let mut meta = meta.clone();
        change(&mut meta);
        meta
    };
    for meta in [
        wrong(|meta| meta.smallest.push(0)),
        wrong(|meta| meta.largest.truncate(3)),
        wrong(|meta| meta.statistics.row_count += 1),
        wrong(|meta| meta.checksum ^= 1),
        wrong(|meta| meta.file_len += SECTOR),
    ] {
        assert!(read_all(&sim, &env, &meta).is_err_and(|error| error.is_corrupt()), "{meta:?}");
    }
}

#[test]
fn another_version_is_named() {
    let (sim, node, env, meta) = scene(1, options(), &many(100, 10));
    let mut bytes = node.read_file(PATH).expect("it is there");
    let footer = bytes.len() - SECTOR_LEN;
    bytes[footer + 16] = 9;
    crate::lsm::block::seal_footer(&mut bytes[footer..]);
    node.write_file(PATH, &bytes);

    let error = read_all(&sim, &env, &meta).map(|_| ()).expect_err("it is of a later version");

    assert!(matches!(error, Error::Version { version: 9, known: 1, .. }), "{error}");
}
