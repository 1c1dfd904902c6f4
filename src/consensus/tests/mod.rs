//! Tests of the group as its driver sees it: here a lone voter, in `groups` three of them, in
//! `members` as many as come and go, in `outlook` those that know more than messages tell.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads golden files and measures"
)]

mod groups;
mod members;
mod net;
mod outlook;

use std::hint::black_box;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn handle(lsn: u64) -> Handle {
    Handle { lsn: Lsn(lsn), len: 100, tag: 0 }
}

fn payload(term: u64, index: u64, lsn: u64) -> Entry {
    Entry { index, term, kind: EntryKind::Payload, handle: handle(lsn) }
}

fn lone(restored: Restored) -> Group {
    Group::new(Config::new(NodeId(1), vec![NodeId(1)], 7), restored).expect("the log is whole")
}

fn drained(group: &mut Group) -> Effects {
    let mut out = Effects::default();
    group.drain(&mut out);
    out
}

/// A lone leader whose first, empty entry is persisted and applied.
fn lone_leader() -> Group {
    let mut group = lone(Restored::default());
    group.campaign();
    let write = drained(&mut group).write.expect("a new leader writes");
    group.persisted(write);
    assert_eq!(drained(&mut group).commit, Some(1));
    group.applied(1);
    group
}

#[test]
fn lone_voter_leads_at_once() {
    let mut group = lone(Restored::default());

    group.campaign();
    let out = drained(&mut group);

    let leader = Some(NodeId(1));
    assert_eq!(out.role, Some(RoleChange { role: Role::Leader, leader, term: 1 }));
    assert_eq!(out.hard_state, Some(HardState { term: 1, vote: leader, commit: 0 }));
    assert_eq!(out.append, [Entry { index: 1, term: 1, ..Entry::default() }]);
    assert!(out.write.is_some() && out.messages.is_empty() && out.commit.is_none());
}

#[test]
fn lone_voter_commits_only_what_is_persisted() {
    let mut group = lone_leader();

    let proposed = group.propose(handle(10)).expect("it leads");
    let out = drained(&mut group);
    let quiet = drained(&mut group);
    group.persisted(out.write.expect("an entry is written"));
    let after = drained(&mut group);

    assert_eq!(proposed, (1, 2));
    assert_eq!((out.append.as_slice(), out.commit), ([payload(1, 2, 10)].as_slice(), None));
    assert!(quiet.is_empty(), "{quiet:?}");
    assert_eq!((after.commit, after.write), (Some(2), None));
}

#[test]
fn proposals_are_pipelined_and_persisted_in_one_report() {
    let mut group = lone_leader();

    let mut writes = Vec::new();
    for lsn in 0..16 {
        assert_eq!(group.propose(handle(lsn)), Ok((1, 2 + lsn)));
        writes.extend(drained(&mut group).write);
    }
    group.persisted(writes[3]);
    let first = drained(&mut group).commit;
    group.persisted(writes[15]);
    let rest = drained(&mut group).commit;

    assert_eq!((writes.len(), first, rest), (16, Some(5), Some(17)));
}

#[test]
fn one_drain_takes_all_proposals_of_a_turn() {
    let mut group = lone_leader();

    (0..3).for_each(|lsn| assert!(group.propose(handle(lsn)).is_ok()));
    let out = drained(&mut group);

    assert_eq!(out.append, [payload(1, 2, 0), payload(1, 3, 1), payload(1, 4, 2)]);
    assert!(drained(&mut group).is_empty());
}

#[test]
fn proposals_are_refused_from_the_bound_on() {
    let mut config = Config::new(NodeId(1), vec![NodeId(1)], 7);
    config.uncommitted_max = 2;
    let mut group = Group::new(config, Restored::default()).expect("an empty log is whole");
    group.campaign();

    assert!(group.propose(handle(1)).is_ok());

    assert_eq!(group.propose(handle(2)), Err(Error::Overloaded { uncommitted: 2 }));
}

#[test]
fn lone_voter_forgets_what_is_applied() {
    let mut group = lone_leader();

    for lsn in 0..100 {
        let (_, index) = group.propose(handle(lsn)).expect("it leads");
        let write = drained(&mut group).write.expect("an entry is written");
        group.persisted(write);
        assert_eq!(drained(&mut group).commit, Some(index));
        group.applied(index);
    }

    assert_eq!((group.log_len(), group.last_index(), group.entry(101)), (0, 101, None));
}

#[test]
fn place_mends_the_handle_of_that_entry_alone() {
    let mut group = lone_leader();
    let (term, index) = group.propose(handle(0)).expect("it leads");
    drained(&mut group);

    group.place(term + 1, index, handle(66));
    group.place(term, index + 1, handle(67));
    assert_eq!(group.entry(index), Some(payload(term, index, 0)));
    group.place(term, index, handle(68));

    assert_eq!(group.entry(index), Some(payload(term, index, 68)));
}

#[test]
fn lone_voter_goes_on_after_a_restart() {
    let mut group = lone(Restored {
        term: 4,
        vote: Some(NodeId(1)),
        commit: 6,
        applied: 7,
        snapshot_index: 5,
        snapshot_term: 3,
        entries: vec![payload(3, 6, 60), payload(4, 7, 70), payload(4, 8, 80)],
        ..Restored::default()
    });
    assert_eq!((group.applied_index(), group.commit_index(), group.last_index()), (7, 7, 8));

    group.campaign();
    let proposed = group.propose(handle(90));
    let out = drained(&mut group);
    group.persisted(out.write.expect("a new leader writes"));
    let after = drained(&mut group);

    assert_eq!((proposed, group.term()), (Ok((5, 10)), 5));
    assert_eq!(out.append[1], payload(5, 10, 90));
    assert_eq!((out.commit, after.commit), (None, Some(10)));
    assert_eq!(group.entry(8), Some(payload(4, 8, 80)));
}

#[test]
fn a_restored_log_with_a_hole_is_refused() {
    let missing = Restored { term: 1, entries: vec![payload(1, 2, 0)], ..Restored::default() };
    let short = Restored { term: 1, commit: 3, ..Restored::default() };

    for restored in [missing, short] {
        let refused = Group::new(Config::new(NodeId(1), vec![NodeId(1)], 7), restored);
        assert!(matches!(refused, Err(Error::Restored { .. })), "a hole was taken in");
    }
}

#[test]
fn lone_leader_answers_reads_once_it_has_committed() {
    let mut group = lone(Restored::default());
    assert_eq!(group.read_index(5), Err(Error::NotLeader { leader: None }));
    group.campaign();
    assert_eq!(group.read_index(5), Err(Error::Unready { term: 1 }));
    let write = drained(&mut group).write.expect("a new leader writes");
    group.persisted(write);
    drained(&mut group);

    assert_eq!(group.read_index(5), Ok(()));

    assert_eq!(drained(&mut group).reads, [ReadState { context: 5, index: 1 }]);
}

#[test]
fn no_campaign_while_many_entries_wait_to_be_applied() {
    let last = CAMPAIGN_LAG_MAX + 1;
    let entries = (1..=last).map(|index| payload(1, index, index)).collect();
    let mut group = lone(Restored { term: 1, commit: last, entries, ..Restored::default() });

    group.campaign();
    (0..100).for_each(|_| group.tick());
    assert_eq!((group.role(), group.term()), (Role::Follower, 1));
    assert_eq!(drained(&mut group).commit, Some(last));
    group.applied(1);
    group.tick();

    assert_eq!((group.role(), group.term()), (Role::Leader, 2));
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Propose(u8),
    Drain,
    Persist(u8),
    Apply,
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u8..4).prop_map(Op::Propose),
        Just(Op::Drain),
        (0u8..8).prop_map(Op::Persist),
        Just(Op::Apply),
        Just(Op::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order of events: nothing is handed out for applying that is not durable.
    #[test]
    fn commit_never_exceeds_persisted(ops in prop::collection::vec(op(), 1..200)) {
        let mut group = lone_leader();
        let (mut appended, mut persisted, mut committed) = (1, 1, 1);
        let mut writes = std::collections::VecDeque::new();
        for op in ops {
            match op {
                Op::Propose(count) => (0..count).for_each(|lsn| {
                    group.propose(handle(lsn.into())).expect("it leads");
                }),
                Op::Drain => {
                    let out = drained(&mut group);
                    for entry in &out.append {
                        prop_assert_eq!(entry.index, appended + 1);
                        appended = entry.index;
                    }
                    writes.extend(out.write.map(|write| (write, appended)));
                    committed = out.commit.unwrap_or(committed);
                }
                Op::Persist(count) => {
                    let count = usize::from(count).min(writes.len());
                    if let Some((write, index)) = writes.drain(..count).next_back() {
                        group.persisted(write);
                        persisted = index;
                    }
                }
                Op::Apply => group.applied(committed),
                Op::Tick => group.tick(),
            }
            prop_assert!(committed <= persisted, "{} > {}", committed, persisted);
            prop_assert!(group.commit_index() <= persisted);
        }
    }
}

/// `cargo test --release --lib consensus::tests::cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for release builds"]
fn cost_of_a_lone_voter() {
    for (batch, depth) in [(1u64, 1usize), (1, 16), (16, 1)] {
        let rounds = 2_000_000 / batch;
        let mut group = lone_leader();
        let (mut out, mut writes) = (Effects::default(), std::collections::VecDeque::new());
        let (mut applied, started) = (1, Instant::now());
        for round in 0..rounds {
            for lsn in 0..batch {
                black_box(group.propose(handle(round + lsn)).expect("it leads"));
            }
            if writes.len() >= depth {
                group.persisted(writes.pop_front().expect("one is in flight"));
            }
            group.drain(&mut out);
            writes.extend(out.write);
            if let Some(commit) = out.commit {
                applied = commit;
                group.applied(applied);
            }
            out.clear();
        }
        let cost = started.elapsed().as_nanos() as u64 / (rounds * batch);
        println!("{batch} per turn, {depth} in flight: {cost} ns per entry, applied {applied}");
        assert!(applied + (depth as u64 + 1) * batch > rounds * batch, "applied {applied}");
    }
}
