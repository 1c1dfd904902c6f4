//! Three replicas of one group.

use std::path::Path;

use proptest::prelude::*;

use super::super::*;
use super::net::Net;

/// Compares with `testdata/name`; `UPDATE_GOLDEN=1` rewrites it.
fn check_golden(name: &str, goal: &str, transcript: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consensus/testdata").join(name);
    let actual = format!("{goal}\n\n{transcript}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).expect("the source tree is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("UPDATE_GOLDEN=1 writes it");
    assert!(golden == actual, "{name} differs; UPDATE_GOLDEN=1 rewrites it. Actual:\n{actual}");
}

fn elected(seed: u64) -> (Net, u64) {
    let mut net = Net::new(seed);
    let leader = net.elect();
    net.settle();
    (net, leader)
}

fn other_than(id: u64) -> u64 {
    id % 3 + 1
}

/// Election, two entries, the leader's loss with an entry that only it has, a second leader, and
/// the first one's return.
fn play_leader_loss(seed: u64) -> Net {
    let mut net = Net::new(seed);
    let first = net.elect();
    net.settle();
    net.say(&format!("two proposals to {first}, in two writes"));
    for _ in 0..2 {
        net.propose(first).expect("it leads");
        net.turn(first);
    }
    net.settle();
    net.say(&format!("a proposal to {first} that reaches nobody"));
    net.propose(first).expect("it leads");
    net.turn(first);
    net.sync(first);
    net.wires.clear();
    net.crash(first);
    let second = net.elect();
    net.settle();
    net.say(&format!("a proposal to {second}"));
    net.propose(second).expect("it leads");
    net.settle();
    net.restart(first);
    (0..4).for_each(|_| net.tick_all());
    net
}

#[test]
fn three_replicas_survive_the_loss_of_their_leader() {
    let net = play_leader_loss(1);

    let lsns: Vec<_> = net.chosen.values().map(|entry| entry.handle.lsn.0).collect();
    assert_eq!(lsns, [0, 1, 2, 0, 4], "payload 3 was never committed");
    assert!(net.nodes.iter().all(|node| node.group.applied_index() == 5));
    let goal = "Goal: a group elects a leader, replicates, loses it together with an entry that\n\
                nobody else holds, elects another, and brings the first one back in line.\n\
                N is Role | N appends index@term kind lsn | N -> peer message";
    check_golden("leader_loss.txt", goal, &net.transcript);
}

#[test]
fn equal_seeds_give_equal_transcripts() {
    let transcripts: Vec<_> = [1, 1, 2, 3, 4].map(|seed| play_leader_loss(seed).transcript).into();

    assert_eq!(transcripts[0], transcripts[1]);
    assert!(transcripts[1..].windows(2).any(|pair| pair[0] != pair[1]), "the seed is of no effect");
}

#[test]
fn a_follower_refuses_proposals_and_names_the_leader() {
    let (mut net, leader) = elected(1);
    let follower = other_than(leader);

    let refused = net.propose(follower);
    net.turn(follower);

    assert_eq!(refused, Err(Error::NotLeader { leader: Some(NodeId(leader)) }));
    assert!(net.wires.is_empty(), "the proposal was forwarded: {:?}", net.wires);
}

#[test]
fn an_entry_commits_by_the_followers_before_the_leaders_own_write() {
    let (mut net, leader) = elected(1);
    let before = net.group(leader).commit_index();

    net.propose(leader).expect("it leads");
    net.turn(leader);
    for follower in [other_than(leader), other_than(other_than(leader))] {
        net.deliver_to(follower);
        assert_eq!(net.wires_to(leader), 0, "an acknowledgement before the write");
        net.sync(follower);
        net.deliver_to(leader);
    }

    let group = &net.nodes[leader as usize - 1].group;
    assert_eq!((group.commit_index(), group.applied_index()), (before + 1, before));
    net.sync(leader);
    assert_eq!(net.group(leader).applied_index(), before + 1);
}

#[test]
fn a_retransmitted_entry_is_not_acknowledged_before_its_first_write_is_durable() {
    let (mut net, leader) = elected(1);
    let follower = other_than(leader);
    net.propose(leader).expect("it leads");
    net.turn(leader);
    let append = net.wires.iter().find(|message| message.to.0 == follower).cloned();
    let append = append.expect("the entry is sent");
    net.wires.clear();

    for _ in 0..2 {
        net.group(follower).step(append.clone()).expect("it is well formed");
        net.turn(follower);
        assert!(net.wires.is_empty(), "acknowledged: {:?}", net.wires);
    }
    net.sync(follower);

    assert_eq!(net.wires.len(), 2);
}

#[test]
fn leadership_moves_on_request() {
    let (mut net, leader) = elected(1);
    let to = other_than(leader);

    net.group(leader).transfer(NodeId(to));
    assert_eq!(net.propose(leader), Err(Error::Transferring { to: NodeId(to) }));
    net.settle();

    assert_eq!(net.leader(), Some(to));
}

/// A leader's lease: it hears nothing and may still answer reads, since one of its two followers
/// has answered it just now. That one restarts.
#[test]
fn who_has_restarted_helps_to_elect_nobody_while_the_guard_lasts() {
    let (mut net, leader) = elected(1);
    let (forgetful, ambitious) = (other_than(leader), other_than(other_than(leader)));
    net.nodes[leader as usize - 1].up = false;
    net.crash(forgetful);
    net.restart(forgetful);

    for _ in 0..6 {
        net.tick(forgetful);
        for id in [ambitious, forgetful] {
            net.group(id).campaign();
            net.turn(id);
        }
        net.settle();
        assert_eq!(net.group(leader).role(), Role::Leader);
        assert_eq!(net.leader(), None, "two leaders:\n{}", net.transcript);
    }

    assert_ne!(net.elect(), leader);
}

#[test]
fn who_has_restarted_helps_the_one_that_the_leader_chose() {
    let (mut net, leader) = elected(1);
    let (forgetful, heir) = (other_than(leader), other_than(other_than(leader)));
    net.crash(forgetful);
    net.restart(forgetful);

    net.group(leader).transfer(NodeId(heir));
    net.turn(leader);
    // The leader's own vote would do; it is not asked.
    net.deliver_to(heir);
    net.nodes[leader as usize - 1].up = false;
    net.settle();

    assert_eq!(net.leader(), Some(heir));
}

#[test]
fn reads_of_leader_and_followers_learn_an_index() {
    let (mut net, leader) = elected(1);
    let commit = net.group(leader).commit_index();

    for id in 1..=3 {
        assert_eq!(net.group(id).read_index(9), Ok(()));
    }
    net.settle();

    net.reads.sort_by_key(|(id, _)| *id);
    let read = ReadState { context: 9, index: commit };
    assert_eq!(net.reads, [(1, read), (2, read), (3, read)]);
}

/// A follower is down while the log it lacks goes: who it is, and up to where.
fn outrun(net: &mut Net, leader: u64) -> (u64, u64) {
    let late = other_than(leader);
    net.crash(late);
    for _ in 0..5 {
        net.propose(leader).expect("it leads");
        net.settle();
    }
    let applied = net.group(leader).applied_index();
    net.group(leader).compact(applied);
    (late, applied)
}

#[test]
fn a_follower_behind_the_log_gets_a_snapshot() {
    let (mut net, leader) = elected(1);
    let (late, applied) = outrun(&mut net, leader);
    net.propose(leader).expect("it leads");
    net.settle();

    net.restart(late);
    (0..8).for_each(|_| net.tick_all());

    assert!(net.transcript.contains(&format!("{late} installs a snapshot")), "{}", net.transcript);
    assert_eq!(net.group(late).applied_index(), applied + 1);
    net.group(leader).snapshot_sent(NodeId(late), true);
    net.propose(leader).expect("it leads");
    (0..4).for_each(|_| net.tick_all());
    assert_eq!(net.group(late).applied_index(), applied + 2);
}

/// The follower was down when it came, and has staged it again since.
#[test]
fn a_snapshot_that_was_lost_is_sent_when_it_is_offered_again() {
    let (mut net, leader) = elected(1);
    let (late, applied) = outrun(&mut net, leader);
    net.restart(late);
    let mut left = 10_000;
    while !net.is_next(MessageKind::Snapshot) {
        left -= 1;
        assert!(left > 0, "no snapshot is sent: {}", net.transcript);
        match net.is_idle() {
            true => net.ids().for_each(|id| net.tick(id)),
            false => net.deliver(0),
        }
        net.ids().for_each(|id| while net.sync(id) {});
    }
    net.crash(late);
    net.settle();
    net.restart(late);
    (0..8).for_each(|_| net.tick_all());
    assert!(net.group(late).applied_index() < applied, "what was lost does not come by itself");

    net.group(leader).offer_snapshot(NodeId(late), applied);
    (0..8).for_each(|_| net.tick_all());

    assert_eq!(net.group(late).applied_index(), net.group(leader).applied_index());
}

#[test]
fn no_campaign_while_a_snapshot_is_being_installed() {
    let (mut net, leader) = elected(1);
    let late = other_than(leader);
    let term = net.group(leader).term();
    let (from, to) = (NodeId(leader), NodeId(late));
    let voters = [1, 2, 3].map(NodeId).to_vec();
    let membership = Membership { voters, ..Membership::default() };
    let snapshot = Some(Snapshot { index: 20, term, membership });
    let kind = MessageKind::Snapshot;
    let message = Message { kind, from, to, term, snapshot, ..Message::default() };
    net.group(late).step(message).expect("it is well formed");
    net.turn(late);

    net.group(late).campaign();
    (0..50).for_each(|_| net.tick(late));
    assert_eq!(net.group(late).role(), Role::Follower);
    net.sync(late);
    net.group(late).campaign();

    assert_eq!(net.group(late).role(), Role::PreCandidate);
}

/// tikv/raft-rs#557: the follower is probed at its match, then an old rejection arrives.
#[test]
fn a_stale_rejection_does_not_move_a_follower_below_its_match() {
    let (mut net, leader) = elected(1);
    let follower = other_than(leader);
    (0..3).for_each(|_| assert!(net.propose(leader).is_ok()));
    net.settle();
    let (term, last) = (net.group(leader).term(), net.group(leader).last_index());
    net.group(leader).unreachable(NodeId(follower));

    for index in [last, last + 1] {
        let stale = Message {
            kind: MessageKind::AppendResponse,
            from: NodeId(follower),
            to: NodeId(leader),
            term,
            index,
            log_term: term,
            reject: true,
            reject_hint: 1,
            ..Message::default()
        };
        net.group(leader).step(stale).expect("it is well formed");
        assert!(net.group(leader).next_index(NodeId(follower)) > Some(last));
    }
}

/// In one turn a commit is to be told, with an append without entries, and what was lost is to be
/// sent again.
#[test]
fn entries_are_not_added_to_an_append_that_begins_elsewhere() {
    let (mut net, leader) = elected(1);
    let (late, other) = (other_than(leader), other_than(other_than(leader)));
    net.propose(leader).expect("it leads");
    net.turn(leader);
    net.wires.retain(|message| message.to.0 == other);
    net.deliver_to(other);
    net.sync(other);
    let ack = net.wires.pop_front().expect("the entry is acknowledged");
    let (term, last) = (net.group(leader).term(), net.group(leader).last_index());
    let rejection = Message {
        kind: MessageKind::AppendResponse,
        from: NodeId(late),
        to: NodeId(leader),
        term,
        index: last,
        reject: true,
        reject_hint: last - 1,
        log_term: term,
        ..Message::default()
    };

    for message in [ack, rejection] {
        net.group(leader).step(message).expect("it is well formed");
    }
    net.turn(leader);

    let sent: Vec<_> = net.wires.iter().filter(|message| message.to.0 == late).collect();
    assert!(sent.iter().any(|message| !message.entries.is_empty()), "{sent:?}");
    assert!(sent.iter().all(|message| message.check(NodeId(late)).is_ok()), "{sent:?}");
}

#[test]
fn malformed_messages_are_refused() {
    let (mut net, leader) = elected(1);
    let (from, to, term) = (NodeId(leader), NodeId(other_than(leader)), net.group(leader).term());
    let gap = vec![Entry { index: 9, term, ..Entry::default() }];
    let good = Message { from, to, term, ..Message::default() };
    let bad = [
        Message { to: from, from: to, ..good.clone() },
        Message { from: NodeId(0), ..good.clone() },
        Message { term: 0, ..good.clone() },
        Message { entries: gap, ..good.clone() },
        Message { snapshot: Some(Snapshot::default()), ..good.clone() },
        Message { kind: MessageKind::ReadIndex, ..good.clone() },
    ];

    for message in bad {
        let refused = net.group(to.0).step(message.clone());
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{message:?} was taken in");
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Tick(u64),
    Deliver(usize),
    Lose(usize),
    Repeat(usize),
    Sync(u64),
    Propose(u64),
    Crash(u64),
    Campaign(u64),
    Unreachable(u64, u64),
    Compact(u64),
    /// The voters and the learners are those whose bits are set.
    Members(u64, u8, u8),
    /// One says that another is no member.
    Say(u64, u64),
    /// Somebody hears what was said of it.
    Hear(usize),
}

/// What may happen among `count` nodes.
pub(super) fn op(count: u64) -> impl Strategy<Value = Op> {
    let (id, at) = (move || 1..=count, || 0..64usize);
    prop_oneof![
        8 => id().prop_map(Op::Tick),
        24 => at().prop_map(Op::Deliver),
        2 => at().prop_map(Op::Lose),
        2 => at().prop_map(Op::Repeat),
        12 => id().prop_map(Op::Sync),
        6 => id().prop_map(Op::Propose),
        1 => id().prop_map(Op::Crash),
        1 => id().prop_map(Op::Campaign),
        1 => (id(), id()).prop_map(|(id, peer)| Op::Unreachable(id, peer)),
        1 => id().prop_map(Op::Compact),
    ]
}

pub(super) fn play(net: &mut Net, op: Op) {
    match op {
        Op::Tick(id) => net.tick(id),
        Op::Deliver(at) if !net.wires.is_empty() => net.deliver(at % net.wires.len()),
        Op::Lose(at) if !net.wires.is_empty() => drop(net.wires.remove(at % net.wires.len())),
        Op::Repeat(at) if !net.wires.is_empty() => {
            let message = net.wires[at % net.wires.len()].clone();
            net.wires.push_back(message);
        }
        Op::Deliver(_) | Op::Lose(_) | Op::Repeat(_) => {}
        Op::Sync(id) => drop(net.sync(id)),
        Op::Propose(id) => {
            if net.propose(id).is_ok() {
                net.turn(id);
            }
        }
        Op::Crash(id) => {
            net.crash(id);
            net.restart(id);
        }
        Op::Campaign(id) => {
            net.group(id).campaign();
            net.turn(id);
        }
        Op::Unreachable(id, peer) => net.group(id).unreachable(NodeId(peer)),
        Op::Compact(id) => {
            let applied = net.group(id).applied_index();
            net.group(id).compact(applied);
        }
        Op::Members(id, voters, learners) => {
            let of = |bits: u8| net.ids().filter(|id| bits >> (id - 1) & 1 == 1).collect();
            let (voters, learners): (Vec<_>, Vec<_>) = (of(voters), of(learners & !voters));
            if net.propose_members(id, &voters, &learners).is_ok() {
                net.turn(id);
            }
        }
        Op::Say(id, other) => net.say_without(id, other),
        Op::Hear(at) if !net.rumours.is_empty() => drop(net.hear(at % net.rumours.len())),
        Op::Hear(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Lost, repeated, reordered messages and crashes: no two replicas apply different entries
    /// (the net asserts it), nothing is applied before it is durable, and once the weather clears
    /// all agree on all.
    #[test]
    fn replicas_never_disagree(seed in any::<u64>(), ops in prop::collection::vec(op(3), 1..2000)) {
        let mut net = Net::new(seed);
        for op in ops {
            play(&mut net, op);
        }

        net.settle();
        net.give_up_snapshots();
        (0..60).for_each(|_| net.tick_all());
        let leader = net.elect();
        net.propose(leader).expect("it leads");
        (0..20).for_each(|_| net.tick_all());
        let last = net.group(leader).last_index();
        for id in 1..=3 {
            prop_assert_eq!(net.group(id).applied_index(), last, "node {}", id);
        }
    }
}
