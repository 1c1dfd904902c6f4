//! Histories written by hand, tiny ones against every order there is, and large ones that must not
//! take long.

use proptest::prelude::*;

use super::*;
use crate::sim::Rng;

const OK: Answer = Answer::Done;

fn got(value: i64) -> Answer {
    Answer::Value(Some(value))
}

/// When it is called, when it returns and with which answer, what it is.
type Line = (u64, Option<(u64, Answer)>, Op);

/// Calls on one key.
fn history(calls: &[Line]) -> History {
    let mut history = History::default();
    for (client, (called, returned, op)) in calls.iter().enumerate() {
        let id = history.called(client as u32, "k", *op, *called);
        if let Some((at, answer)) = returned {
            history.returned(id, *answer, *at);
        }
    }
    history
}

fn is_sound(calls: &[Line]) -> bool {
    history(calls).check().is_ok()
}

const GET: Op = Op::Get;

#[test]
fn what_one_order_explains_is_linearizable() {
    // One after the other.
    assert!(is_sound(&[
        (1, Some((2, OK)), Op::Put(7)),
        (3, Some((4, got(7))), GET),
        (5, Some((6, Answer::Deleted(true))), Op::Delete),
        (7, Some((8, Answer::Deleted(false))), Op::Delete),
        (9, Some((10, Answer::Count(1))), Op::Incr),
        (11, Some((12, Answer::Swapped(true))), Op::Cas { from: Some(1), to: 9 }),
        (13, Some((14, Answer::Swapped(false))), Op::Cas { from: Some(1), to: 10 }),
        (15, Some((16, got(9))), GET),
    ]));
    // Reads that overlap a write see either, in the right order.
    assert!(is_sound(&[
        (1, Some((9, OK)), Op::Put(7)),
        (2, Some((3, Answer::Value(None))), GET),
        (4, Some((5, got(7))), GET),
    ]));
    // Two that end in the instant in which another begins overlap it.
    assert!(is_sound(&[(1, Some((2, OK)), Op::Put(7)), (2, Some((3, Answer::Value(None))), GET)]));
}

#[test]
fn what_is_unknown_may_happen_at_any_later_time_or_never() {
    let unknown = (1, None, Op::Put(7));
    assert!(is_sound(&[unknown, (2, Some((3, Answer::Value(None))), GET)]));
    assert!(is_sound(&[
        unknown,
        (2, Some((3, Answer::Value(None))), GET),
        (4, Some((5, OK)), Op::Put(8)),
        (6, Some((7, got(8))), GET),
        (800, Some((900, got(7))), GET),
    ]));
    // Not before it was called, and not twice.
    assert!(!is_sound(&[(0, Some((0, got(7))), GET), unknown]));
    assert!(!is_sound(&[
        unknown,
        (2, Some((3, got(7))), GET),
        (4, Some((5, OK)), Op::Put(8)),
        (6, Some((7, got(8))), GET),
        (8, Some((9, got(7))), GET),
    ]));
}

#[test]
fn stale_lost_and_split_are_seen() {
    let (put_7, put_8) = ((1, Some((2, OK)), Op::Put(7)), (3, Some((4, OK)), Op::Put(8)));
    // A stale read.
    assert!(!is_sound(&[put_7, put_8, (5, Some((6, got(7))), GET)]));
    // A lost write.
    assert!(!is_sound(&[put_7, (3, Some((4, Answer::Value(None))), GET)]));
    // Two leaders, each with its own clients.
    assert!(!is_sound(&[
        (1, Some((4, OK)), Op::Put(7)),
        (1, Some((4, OK)), Op::Put(8)),
        (5, Some((6, got(7))), GET),
        (7, Some((8, got(8))), GET),
    ]));
    // A write of nobody.
    assert!(!is_sound(&[put_7, (3, Some((4, got(9))), GET)]));
    // What was deleted is back.
    let delete = (3, Some((4, Answer::Deleted(true))), Op::Delete);
    assert!(!is_sound(&[put_7, delete, (5, Some((6, got(7))), GET)]));
    // An increment that was counted twice, and one that was not.
    let one = (1, Some((5, Answer::Count(1))), Op::Incr);
    assert!(!is_sound(&[one, one]));
    assert!(!is_sound(&[one, (6, Some((7, Answer::Count(3))), Op::Incr)]));
    // A retry of the client's own library: it answers for the second time that it happened.
    assert!(is_sound(&[one, (2, None, Op::Incr), (6, Some((7, Answer::Count(3))), Op::Incr)]));
}

#[test]
fn what_never_was_has_no_effect() {
    let mut history = History::default();
    let refused = history.called(1, "k", Op::Put(7), 1);
    history.never(refused);
    let read = history.called(2, "k", GET, 2);
    history.returned(read, got(7), 3);

    assert!(history.check().is_err());
    assert_eq!(history.counts(), (2, 1));
}

#[test]
fn an_explanation_names_the_first_wrong_answer_and_what_led_to_it() {
    let mut history = history(&[
        (1_000, Some((2_000, OK)), Op::Put(7)),
        (2_500, Some((2_600, got(7))), GET),
        (3_000, None, Op::Put(8)),
        (4_000, Some((5_000, OK)), Op::Put(9)),
        (6_000, Some((7_000, got(7))), GET),
        (8_000, Some((9_000, got(7))), GET),
    ]);
    let other = history.called(1, "a", GET, 1);
    history.returned(other, Answer::Value(None), 2);

    let violation = history.check().expect_err("7 was overwritten");

    assert_eq!(
        violation.to_string(),
        "key k: no order explains this answer:\n\
         \x20        6.000 us to        7.000 us, client 4: Get -> Value(Some(7))\n\
         it could be {Value(Some(8)), Value(Some(9))}, after these calls:\n\
         \x20        1.000 us to        2.000 us, client 0: Put(7) -> Done\n\
         \x20        3.000 us             and on, client 2: Put(8) -> unknown\n\
         \x20        4.000 us to        5.000 us, client 3: Put(9) -> Done\n"
    );
}

/// Whether some order explains `calls`, by trying all.
fn some_order_explains(calls: &[Call], done: u32, state: Value) -> bool {
    let waits = |at: usize| done & 1 << at == 0;
    if (0..calls.len()).all(|at| !waits(at) || calls[at].returned.is_none()) {
        return true;
    }
    (0..calls.len()).filter(|at| waits(*at)).any(|at| {
        let called = calls[at].called;
        let is_late = |(other, call): (usize, &Call)| {
            waits(other) && call.returned.is_some_and(|(end, _)| end < called)
        };
        let (answer, after) = calls[at].op.apply(state);
        let fits = calls[at].returned.is_none_or(|(_, told)| told == answer);
        fits && !calls.iter().enumerate().any(is_late)
            && some_order_explains(calls, done | 1 << at, after)
    })
}

/// One call; its answer is what would be right at a state drawn from few.
fn call() -> impl Strategy<Value = Call> {
    let value = prop_oneof![Just(None), (0..3i64).prop_map(Some)];
    let op = prop_oneof![
        4 => Just(Op::Get),
        3 => (0..3i64).prop_map(Op::Put),
        1 => Just(Op::Delete),
        1 => (value.clone(), 0..3i64).prop_map(|(from, to)| Op::Cas { from, to }),
        1 => Just(Op::Incr),
    ];
    (op, 0..12u64, 0..6u64, value, 0..8u8).prop_map(|(op, called, length, state, unknown)| {
        let returned = (unknown > 0).then(|| (called + length, op.apply(state).0));
        Call { client: 0, op, called, returned }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Also of each beginning, so that sound ones are among them.
    #[test]
    fn the_search_agrees_with_every_order_there_is(calls in prop::collection::vec(call(), 1..7)) {
        for len in 1..=calls.len() {
            let (calls, expected) = (&calls[..len], some_order_explains(&calls[..len], 0, None));
            prop_assert_eq!(decide(calls).0, Some(expected));
            if !expected {
                prop_assert!(explain(calls).contains("no order explains"));
            }
        }
    }
}

/// What a client waits for: it takes effect when it is due, and returns at the time named last.
type Pending = (CallId, String, Op, u64);

/// What `clients` see of `keys` correct registers in `ops` operations; one in `unknown` is not
/// answered.
fn correct(seed: u64, clients: usize, keys: u64, ops: u64, unknown: u64) -> History {
    let (mut rng, mut history) = (Rng::new(seed), History::default());
    let mut states: BTreeMap<String, Value> = BTreeMap::new();
    let mut due: BTreeMap<(u64, usize), Option<Pending>> =
        (0..clients).map(|client| ((client as u64, client), None)).collect();
    let (mut sent, mut last) = (0, Vec::new());
    while let Some(((now, client), waits)) = due.pop_first() {
        if let Some((id, key, op, end)) = waits {
            let state = states.entry(key).or_default();
            let (answer, after) = op.apply(*state);
            let is_lost = rng.one_in(unknown);
            if !is_lost || rng.one_in(2) {
                *state = after;
            }
            if !is_lost {
                last.push((id, answer, end));
            }
            due.insert((end + rng.between(1, 50), client), None);
        } else if sent < ops {
            sent += 1;
            let op = match rng.below(10) {
                0..5 => Op::Get,
                5..8 => Op::Put(sent as i64),
                8 => Op::Delete,
                _ => Op::Incr,
            };
            let key = format!("k{}", rng.below(keys));
            let id = history.called(client as u32, &key, op, now);
            let at = now + rng.between(1, 200);
            due.insert((at, client), Some((id, key, op, at + rng.between(1, 200))));
        }
    }
    last.into_iter().for_each(|(id, answer, end)| history.returned(id, answer, end));
    history
}

#[test]
fn large_histories_take_few_steps() {
    // 100 keys as a torture has them: about two steps a call.
    let steps = correct(1, 16, 100, 10_000, 100).check().expect("it is correct");
    assert!(steps < 40_000, "{steps} steps");
    // All on a few keys, where most calls overlap.
    let steps = correct(2, 8, 5, 10_000, 1_000).check().expect("it is correct");
    assert!(steps < 2_000_000, "{steps} steps");
}

#[test]
fn one_wrong_answer_in_a_large_history_is_found() {
    for seed in 0..20 {
        let mut history = correct(seed, 16, 20, 2_000, 100);
        let gets: Vec<usize> = (1_000..history.calls.len())
            .filter(|at| {
                let call = history.calls[*at].1.expect("none was refused");
                call.op == GET && call.returned.is_some()
            })
            .collect();
        let at = gets[Rng::new(seed).index(gets.len())];
        let call = history.calls[at].1.as_mut().expect("looked at above");
        call.returned = call.returned.map(|(end, _)| (end, Answer::Value(Some(-1))));

        let violation = history.check().expect_err("nobody wrote that");

        assert!(violation.text.contains("Value(Some(-1))"), "{violation}");
    }
}
