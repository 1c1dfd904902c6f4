//! What the shape costs on synthetic loads: rows written for each that was flushed, and rows held
//! for each that is live. The figures of bench-results/compaction.md:
//! `cargo test --release --lib pick::tests::loads -- --ignored --nocapture`.

use super::*;
use crate::sim::Rng;

const FLUSH_ROWS: u32 = 500;
const FLUSH_LEN: u64 = FLUSH_ROWS as u64 * ROW_LEN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Each key as likely as any other.
    Uniform,
    /// Nine in ten writes go to one key in ten.
    HotSet,
    /// New keys, in order.
    Sequential,
}

struct Cost {
    /// Rows written for one flushed.
    write: f64,
    /// Rows held for one that is live, at the worst, and when settled.
    held: f64,
    settled: f64,
    /// Most runs and levels that a read looks into.
    read: usize,
}

/// Each of `key_count` keys once, then ten times as many writes.
fn cost(load: Load, key_count: u32, shape: Shape) -> Cost {
    let mut rng = Rng::new(7);
    let mut tree = Tree::new(shape, 1_000);
    let (mut at, mut next) = (0, 0);
    let mut key = |load| {
        next += 1;
        match load {
            Load::Sequential => next,
            Load::HotSet if !rng.one_in(10) => rng.below(u64::from(key_count / 10)) as u32 * 10,
            _ => rng.below(u64::from(key_count)) as u32,
        }
    };
    let (mut held, mut read) = (0.0_f64, 0);
    if load != Load::Sequential {
        for flush in 0..key_count / FLUSH_ROWS {
            let keys = (0..FLUSH_ROWS).map(|row| flush * FLUSH_ROWS + row);
            tree.flush(keys.map(|key| Row::put(key, u64::from(flush) + 1)).collect());
            tree.run(false);
        }
        (tree.flushed, tree.written, at) = (0, 0, 1_000);
    }
    for _ in 0..10 * key_count / FLUSH_ROWS {
        let rows = (0..FLUSH_ROWS).map(|_| {
            at += 1;
            Row::put(key(load), at)
        });
        tree.flush(rows.collect());
        tree.run(false);
        let live = if load == Load::Sequential { tree.row_count() } else { u64::from(key_count) };
        held = held.max(tree.row_count() as f64 / live as f64);
        let levels = tree.levels();
        let below = (1..LEVEL_COUNT).filter(|level| !levels.tables(*level).is_empty()).count();
        read = read.max(levels.tables(0).len() + below);
    }
    let write = tree.written as f64 / tree.flushed as f64;
    tree.run(true);
    let live = tree.seen().len() as f64;
    Cost { write, held, settled: tree.row_count() as f64 / live, read }
}

const LOADS: [Load; 3] = [Load::Uniform, Load::HotSet, Load::Sequential];

fn shape(runs: usize, base: u64, ratio: u64) -> Shape {
    Shape { runs, base_len: base * FLUSH_LEN, ratio }
}

#[test]
fn the_shape_writes_and_holds_little() {
    for (load, most) in LOADS.into_iter().zip([10.5, 8.0, 1.01]) {
        let Cost { write, held, settled, read } = cost(load, 50_000, Shape::of_flushes(FLUSH_LEN));

        assert!(write < most, "{load:?}: {write} rows written for one");
        assert!(held < 1.2 && settled < 1.2, "{load:?}: {held} and {settled} held for one");
        assert!(read < 10, "{load:?}: a read looks into {read}");
    }
}

#[test]
#[ignore = "prints the figures of bench-results/compaction.md"]
fn figures() {
    eprintln!("| keys | load | runs | base | ratio | written | held | settled | read |");
    eprintln!("|---|---|---|---|---|---|---|---|---|");
    for (keys, load) in
        [50_000, 150_000].into_iter().flat_map(|keys| LOADS.map(|load| (keys, load)))
    {
        for (runs, base, ratio) in [
            (4, 40, 10),
            (4, 8, 10),
            (4, 20, 10),
            (2, 20, 10),
            (8, 80, 10),
            (4, 40, 4),
            (4, 40, 6),
            (4, 40, 20),
        ] {
            let Cost { write, held, settled, read } = cost(load, keys, shape(runs, base, ratio));
            eprintln!(
                "| {keys} | {load:?} | {runs} | {base} | {ratio} | {write:.1} | {held:.2} \
                 | {settled:.2} | {read} |"
            );
        }
    }
}
