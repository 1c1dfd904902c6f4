//! Disks that fail: an error each time, never a panic, never a table that is not whole.

use super::*;
use crate::sim::{Faults, check};

/// Rows for some writes and reads of several sizes.
fn rows() -> Vec<Owned> {
    let mut rows = many(3_000, 200);
    rows.push(Owned::put(b"large", 5, &vec![3; 2_300_000]));
    sorted(rows)
}

/// Writes under faults, reads without.
fn write_under(seed: u64, faults: &Faults, capacity: u64, rows: &[Owned]) -> Result<(), Error> {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    node.set_faults(faults.clone());
    node.set_capacity(capacity);
    let env = node.env(ShardId(0));
    let own = rows.to_vec();
    let meta =
        sim.run_on(&env, async move |env| write(&env, Path::new(PATH), options(), &own).await)?;
    node.set_faults(Faults::none());
    assert_eq!(read_all(&sim, &env, &meta).expect("it was written"), rows);
    Ok(())
}

fn seeds_that_fail(faults: &Faults, capacity: u64) -> usize {
    let rows = rows();
    let errors = (0..30).filter_map(|seed| write_under(seed, faults, capacity, &rows).err());
    errors.inspect(|error| assert!(!error.is_corrupt(), "the file is not read: {error}")).count()
}

#[test]
fn failing_writes_and_syncs_are_told() {
    let of = |change: fn(&mut Faults)| {
        let mut faults = Faults::none();
        change(&mut faults);
        seeds_that_fail(&faults, u64::MAX)
    };

    assert!((5..30).contains(&of(|faults| faults.write_eio = 300_000)));
    assert!((5..30).contains(&of(|faults| faults.short_write = 300_000)));
    assert!((5..30).contains(&of(|faults| faults.sync_eio = 500_000)));
    assert!((5..30).contains(&of(|faults| faults.name_eio = 500_000)));
    assert_eq!(of(|faults| faults.spike = 500_000), 0);
}

#[test]
fn a_full_disk_is_told_at_each_sector() {
    let rows = rows();
    let whole = {
        let (_, _, _, meta) = scene(1, options(), &rows);
        meta.file_len
    };
    let mut told = [0; 2];
    for capacity in (0..whole).step_by(37 * SECTOR_LEN) {
        let error = write_under(1, &Faults::none(), capacity, &rows).expect_err("it is too small");
        let is_short = matches!(error, Error::Short { .. });
        assert!(is_short || error.is_disk_full(), "{error}");
        told[usize::from(is_short)] += 1;
    }
    assert!(told[0] > 0 && told[1] > 0, "{told:?}");
    assert!(write_under(1, &Faults::none(), whole, &rows).is_ok());
}

#[test]
fn failing_reads_are_told() {
    let rows = rows();
    let eio = Faults { read_eio: 50_000, ..Faults::none() };
    let short = Faults { short_read: 100_000, ..Faults::none() };
    let flips = Faults { bit_flip: 50_000, ..Faults::none() };
    for faults in [eio, short, flips] {
        let (mut failed, mut right) = (0, 0);
        for seed in 0..30 {
            let (sim, node, env, meta) = scene(seed, options(), &rows);
            node.set_faults(faults.clone());
            match read_all(&sim, &env, &meta) {
                Ok(read) => {
                    assert_eq!(read, rows);
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(error.is_corrupt(), faults.bit_flip > 0, "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0 && right > 0, "{faults:?}: {failed} failed, {right} right");
    }
}

#[test]
fn a_finished_table_outlives_a_power_cut() {
    check(30, |seed| {
        let rows = many(2_000, 200);
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let own = rows.clone();
        let meta = sim.run_on(&node.env(ShardId(0)), async move |env| {
            let meta = write(&env, Path::new(PATH), options(), &own).await;
            env.sync_dir(Path::new("")).await.expect("no faults are on");
            meta.expect("no faults are on")
        });

        node.power_cut();
        node.restart();

        let env = node.env(ShardId(0));
        assert_eq!(read_all(&sim, &env, &meta).expect("it was synced"), rows);
    });
}

/// What a writer left that did not finish is no table, whatever of it reached the disk.
#[test]
fn an_abandoned_file_is_no_table() {
    let rows = many(3_000, 500);
    let (_, _, _, meta) = scene(1, options(), &rows);
    let sim = Sim::new(2);
    let env = sim.node(NODE).env(ShardId(0));
    sim.run_on(&env, async move |env| {
        let mut writer = Writer::create(&env, Path::new(PATH), options()).await.expect("it is new");
        for row in &rows {
            writer.add(&row.row()).await.expect("no faults are on");
        }
        drop(writer);
        assert!(Table::open(&env, Path::new(PATH), &meta).await.is_err());
        env.remove(Path::new(PATH)).await.expect("it is there");
    });
}
