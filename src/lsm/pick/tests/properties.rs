//! Whatever is flushed and whenever jobs end: what is read stays right, and jobs come to an end.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Keys, and whether each is deleted or expires, and when.
    Flush(Vec<(u16, u8)>),
    Begin {
        idle: bool,
    },
    End(usize),
    Wait(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let key = prop_oneof![3 => 0..400_u16, 1 => 0..20_u16];
    prop_oneof![
        4 => prop::collection::vec((key, any::<u8>()), 1..30).prop_map(Op::Flush),
        4 => any::<bool>().prop_map(|idle| Op::Begin { idle }),
        3 => any::<usize>().prop_map(Op::End),
        1 => any::<u8>().prop_map(Op::Wait),
    ]
}

struct World {
    tree: Tree,
    expected: BTreeMap<u32, Row>,
    at: u64,
}

impl World {
    fn new() -> Self {
        let shape = Shape { runs: 3, base_len: 40 * ROW_LEN, ratio: 3 };
        Self { tree: Tree::new(shape, 8), expected: BTreeMap::new(), at: 0 }
    }

    fn row(&mut self, key: u16, kind: u8) -> Row {
        self.at += 1;
        let is_delete = kind.is_multiple_of(4);
        let expiry_ms = if kind % 4 == 1 { self.tree.now_ms + 1 + u64::from(kind) } else { 0 };
        Row { key: u32::from(key), at: self.at, is_delete, expiry_ms }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Flush(keys) => {
                let rows = keys.into_iter().map(|(key, kind)| self.row(key, kind));
                let rows: Vec<Row> = rows.collect();
                self.expected.extend(rows.iter().map(|row| (row.key, *row)));
                self.tree.flush(rows);
            }
            Op::Begin { idle } => {
                if self.tree.begin(idle) {
                    self.check_apart();
                }
            }
            Op::End(index) => {
                if !self.tree.running.is_empty() {
                    self.tree.end(index % self.tree.running.len());
                    self.check();
                }
            }
            Op::Wait(ms) => self.tree.now_ms += u64::from(ms),
        }
    }

    fn check_apart(&self) {
        let (last, others) = self.tree.running.split_last().expect("one was begun");
        for other in others {
            let shared = last.inputs.iter().find(|input| other.inputs.contains(input));
            assert_eq!(shared, None, "in two jobs");
            let meets = last.range.0 <= other.range.1 && other.range.0 <= last.range.1;
            let is_one_level = last.output_level == other.output_level && last.output_level > 0;
            assert!(!(meets && is_one_level), "two jobs write where they overlap");
        }
        assert!(!last.inputs.is_empty() && last.len > 0);
    }

    fn check(&mut self) {
        let now_ms = self.tree.now_ms;
        self.expected.retain(|_, row| !row.is_void(now_ms));
        assert_eq!(self.tree.seen(), self.expected);
    }

    /// All jobs to their end; the debt then, and what is left.
    fn settle(&mut self) {
        while !self.tree.running.is_empty() {
            self.tree.end(0);
        }
        let due = self.tree.debt();
        assert_eq!(self.tree.begin(false), due > 0, "a debt of {due}");
        self.tree.running.clear();
        self.tree.run(false);
        assert_eq!(self.tree.debt(), 0);
        assert!(self.tree.levels().tables(0).len() < 9, "runs stay");
        self.check();
        self.tree.run(true);
        assert_eq!(self.tree.debt(), 0, "idle jobs made others due");
        self.check();
    }
}

/// The keys of a flush.
fn keys() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(0..4_000_u16, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

    #[test]
    fn what_is_read_stays_right_and_jobs_end(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        world.settle();
    }

    /// Without flushes every job that is due brings the debt down.
    #[test]
    fn the_debt_falls(flushes in prop::collection::vec(keys(), 1..60)) {
        let mut world = World::new();
        for keys in flushes {
            world.step(Op::Flush(keys.into_iter().map(|key| (key, 2)).collect()));
        }
        let first = world.tree.debt();
        let total = world.tree.levels().total_len();
        let (mut jobs, mut len) = (0, 0);
        while world.tree.begin(false) {
            let job = world.tree.end(0);
            jobs += 1;
            len += if job.is_move { 0 } else { job.len };
            prop_assert!(jobs < 10_000);
        }
        prop_assert_eq!(world.tree.debt(), 0);
        // A row too many costs a table of each level, and those that it lies among.
        prop_assert!(len <= 2 * first + total, "{len} bytes for a debt of {first}");
    }
}

fn tree_of(rows: impl IntoIterator<Item = Row>) -> Tree {
    let shape = Shape { runs: 3, base_len: 40 * ROW_LEN, ratio: 3 };
    let mut tree = Tree::new(shape, 8);
    tree.flush(rows.into_iter().collect());
    tree
}

#[test]
fn rows_in_order_are_moved_and_not_rewritten() {
    let mut tree = tree_of([]);
    for flush in 0..200 {
        tree.flush(
            (0..10).map(|row| Row::put(flush * 10 + row, u64::from(flush) * 10 + 1)).collect(),
        );
        tree.run(false);
    }

    assert_eq!(tree.written, tree.flushed);
    assert!(tree.levels().tables(0).len() < 3);
}

#[test]
fn what_expired_is_given_back_in_a_quiet_hour() {
    let row =
        |key| Row { expiry_ms: 100 + u64::from(key % 200), ..Row::put(key, 1 + u64::from(key)) };
    let mut tree = tree_of((0..500).map(row));
    tree.run(true);
    assert_eq!(tree.row_count(), 500);

    tree.now_ms = 99;
    assert_eq!(tree.run(true), 0, "nothing has expired");
    tree.now_ms = 400;
    tree.run(true);

    assert_eq!(tree.row_count(), 0);
}

#[test]
fn tombstones_go_down_to_what_they_hide_and_with_it() {
    let mut tree = tree_of((0..500).map(|key| Row::put(key, 1)));
    tree.run(true);
    let delete = |key| Row { is_delete: true, ..Row::put(key, 2) };
    tree.flush((0..30).map(delete).collect());

    tree.run(true);

    assert_eq!(tree.row_count(), 470);
    assert_eq!(tree.run(true), 0, "a job without an end");
}

/// A tombstone that is too young to go would be met again and again.
#[test]
fn what_is_too_young_to_go_is_left_alone() {
    let delete = |key| Row { is_delete: true, ..Row::put(key, 50) };
    let mut tree = tree_of((0..30).map(delete));
    assert!(tree.begin(true));
    assert!(tree.end(0).is_move);

    let levels = tree.levels();
    for (retain_from, is_picked) in [(49, false), (50, true)] {
        let void = Void { now_ms: 0, retain_from: Timestamp(retain_from) };
        let request = Request {
            levels: &levels,
            shape: tree.shape,
            running: &[],
            idle: Some(void),
            is_quiet: true,
        };
        assert_eq!(request.pick(&mut Cursors::default()).is_some(), is_picked);
    }
}

/// A tombstone that meets nothing below may hide what an older run has.
#[test]
fn tombstones_stay_while_an_older_run_is_left_out() {
    let mut tree = tree_of((300..700).map(|key| Row::put(key, 1)));
    tree.shape.base_len = 1_000 * ROW_LEN;
    tree.run(true);
    tree.flush((0..50).chain([699]).map(|key| Row::put(key, 2)).collect());
    for key in 0..3 {
        tree.flush(vec![Row { is_delete: true, ..Row::put(key, 3 + u64::from(key)) }]);
    }

    assert!(tree.begin(false));
    let job = tree.end(0);

    assert_eq!((job.output_level, job.inputs.len(), job.is_bottom), (0, 3, false));
    assert_eq!(tree.seen().first_key_value().map(|(key, _)| *key), Some(3));
}

#[test]
fn jobs_that_share_a_table_or_meet_in_a_level_are_not_apart() {
    let job = |inputs: &[(u8, u64)], output_level, range: (u8, u8)| Job {
        inputs: inputs.to_vec(),
        output_level,
        is_bottom: false,
        is_move: false,
        why: Why::Len,
        len: 1,
        range: (vec![range.0], vec![range.1]),
    };
    let one = job(&[(4, 1), (5, 2)], 5, (10, 20));

    for (other, is_apart) in [
        (job(&[(4, 3), (5, 4)], 5, (21, 30)), true),
        (job(&[(4, 3), (5, 2)], 5, (21, 30)), false),
        (job(&[(4, 3), (5, 4)], 5, (20, 30)), false),
        (job(&[(5, 4), (6, 5)], 6, (5, 30)), true),
    ] {
        assert_eq!(one.is_apart_from(&other), is_apart);
        assert_eq!(other.is_apart_from(&one), is_apart);
    }
}

/// Little flushes become runs of some length before they meet the base.
#[test]
fn little_flushes_do_not_rewrite_the_base() {
    let mut tree = tree_of((0..4_000).map(|key| Row::put(key, 1)));
    tree.run(true);
    let before = tree.written;

    for flush in 0..300_u64 {
        tree.flush(vec![Row::put((flush * 1_511 % 4_000) as u32, 2 + flush)]);
        tree.run(false);
    }

    let cost = (tree.written - before) / 300;
    assert!(cost < 150, "{cost} rows written for one");
}
