//! Members come, vote and go, in fair weather and in foul.

use proptest::prelude::*;

use super::super::*;
use super::groups::{Op, op, play};
use super::net::Net;

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().map(|id| NodeId(*id)).collect()
}

/// Who belongs for good, as a node knows: voters and learners.
fn settled(net: &mut Net, id: u64) -> (Vec<NodeId>, Vec<NodeId>) {
    let membership = net.members(id);
    assert!(!membership.is_changing(), "{membership:?} as node {id} knows");
    (membership.voters, membership.learners)
}

/// `count` nodes, of which the first `voters` are a group with a leader.
fn elected(count: u64, voters: u64) -> (Net, u64) {
    let mut net = Net::with(1, count, voters);
    let leader = net.elect();
    net.settle();
    (net, leader)
}

#[test]
fn a_learner_catches_up_votes_and_goes() {
    let (mut net, leader) = elected(4, 3);
    net.propose(leader).expect("it leads");

    net.propose_members(leader, &[1, 2, 3], &[4]).expect("it leads");
    net.settle();
    assert_eq!(settled(&mut net, 4), (ids(&[1, 2, 3]), ids(&[4])));
    assert_eq!(net.group(4).applied_index(), net.group(leader).applied_index());
    net.group(4).campaign();
    assert_eq!(net.group(4).role(), Role::Follower, "learners do not campaign");

    net.propose_members(leader, &[1, 2, 3, 4], &[]).expect("nothing is under way");
    net.settle();
    assert_eq!(settled(&mut net, 4), (ids(&[1, 2, 3, 4]), Vec::new()));
    net.group(leader).transfer(NodeId(4));
    net.settle();
    assert_eq!(net.leader(), Some(4));

    net.propose_members(4, &[2, 4], &[]).expect("it leads");
    net.settle();
    assert_eq!(settled(&mut net, 4), (ids(&[2, 4]), Vec::new()));
    assert_eq!(settled(&mut net, 2), (ids(&[2, 4]), Vec::new()));
}

#[test]
fn a_voter_that_becomes_a_learner_votes_until_the_change_ends() {
    let (mut net, leader) = elected(3, 3);
    let voters: Vec<_> = (1..=3).filter(|id| *id != 3).collect();
    if leader == 3 {
        net.group(3).transfer(NodeId(1));
        net.settle();
    }
    let leader = net.leader().expect("one or the other");

    net.propose_members(leader, &voters, &[3]).expect("it leads");
    net.settle();

    assert_eq!(settled(&mut net, 3), (ids(&[1, 2]), ids(&[3])));
    assert!(net.transcript.contains("Membership 0"), "it took two steps:\n{}", net.transcript);
}

#[test]
fn a_leader_that_is_removed_steps_down_and_the_others_go_on() {
    let (mut net, leader) = elected(3, 3);
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();

    net.propose_members(leader, &others, &[]).expect("it leads");
    net.settle();

    assert_eq!(net.group(leader).role(), Role::Follower);
    assert_eq!(net.propose(leader), Err(Error::NotLeader { leader: None }));
    let next = net.elect();
    assert!(others.contains(&next));
    net.propose(next).expect("it leads");
    (0..4).for_each(|_| net.tick_all());
    assert_eq!(settled(&mut net, next), (ids(&others), Vec::new()));
    assert_eq!(net.group(next).commit_index(), net.group(next).last_index());
    (0..100).for_each(|_| net.tick(leader));
    assert_eq!(net.group(leader).role(), Role::Follower, "it does not campaign");
}

/// The log of the others goes back to its beginning, and yet a snapshot fills it: what it knows of
/// the members is of a later moment.
#[test]
fn a_replica_that_was_done_without_is_filled_by_a_snapshot_and_votes_as_before_meanwhile() {
    let (mut net, leader) = elected(3, 3);
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let [gone, left] = others[..] else { panic!("two others") };
    net.propose_members(leader, &[leader, left], &[]).expect("it leads");
    net.settle();
    net.say_without(leader, gone);
    assert!(net.hear(0));
    assert_eq!(net.group(gone).last_index(), 0);
    assert!(!net.hear(0), "there is nothing left to go");

    let (term, index) = net.group(gone).floor();
    net.crash(gone);
    net.restart(gone);
    assert_eq!(net.group(gone).floor(), (term, index), "a restart changes nothing");
    (0..20).for_each(|_| net.tick(gone));
    assert_eq!(net.group(gone).role(), Role::Follower, "it does not campaign");
    let votes = |net: &mut Net, log_term, index| {
        let to = NodeId(gone);
        let term = net.group(gone).term() + 1;
        let kind = MessageKind::Vote;
        let plea =
            Message { kind, from: NodeId(left), to, term, log_term, index, ..Message::default() };
        net.group(gone).step(plea).expect("it is well-formed");
        net.turn(gone);
        net.sync(gone);
        let is_yes =
            |message: &Message| message.kind == MessageKind::VoteResponse && !message.reject;
        let yes = net.wires.iter().any(is_yes);
        net.wires.clear();
        yes
    };
    assert!(!votes(&mut net, term, index - 1), "the candidate lacks what this one had");
    assert!(votes(&mut net, term, index));

    net.tick_all();
    let leader = net.elect();
    let voters: Vec<_> = (1..=3).filter(|id| *id != gone).collect();
    net.propose_members(leader, &voters, &[gone]).expect("it leads");
    (0..8).for_each(|_| net.tick_all());
    net.give_up_snapshots();
    (0..8).for_each(|_| net.tick_all());
    assert!(!net.group(gone).is_vacant());
    let last = net.group(leader).last_index();
    assert_eq!(net.group(gone).applied_index(), last);
    assert!(net.transcript.contains(&format!("{gone} installs a snapshot")));
}

/// A leader that hears late of what a replica had takes it for a part of its log, which is gone.
#[test]
fn a_replica_is_filled_whose_leader_takes_it_for_one_that_has_the_beginning() {
    let (mut net, leader) = elected(3, 3);
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let [gone, left] = others[..] else { panic!("two others") };
    net.propose(leader).expect("it leads");
    net.turn(leader);
    net.deliver_to(gone);
    while net.sync(gone) {}
    let at = net.wires.iter().position(|message| message.from.0 == gone);
    let late = at.and_then(|at| net.wires.remove(at)).expect("it has the entry");
    net.settle();
    net.propose_members(leader, &[leader, left], &[]).expect("it leads");
    net.settle();
    net.say_without(leader, gone);
    let applied = net.group(leader).applied_index();
    net.group(leader).compact(applied);

    net.nodes[gone as usize - 1].up = false;
    net.propose_members(leader, &[leader, left], &[gone]).expect("it leads");
    net.settle();
    net.nodes[gone as usize - 1].up = true;
    net.wires.push_back(late);
    net.deliver(0);
    net.wires.clear();
    assert!(net.hear(0), "what was said of it is of a moment when it was no member");

    for _ in 0..3 {
        (0..20).for_each(|_| net.tick_all());
        net.give_up_snapshots();
    }
    assert!(!net.group(gone).is_vacant());
    assert_eq!(net.group(gone).applied_index(), net.group(leader).last_index());
}

/// Its log was forgotten as it was applied, so the newcomers begin with a snapshot.
#[test]
fn a_lone_voter_becomes_three_and_lone_again() {
    let (mut net, leader) = elected(3, 1);
    for _ in 0..5 {
        net.propose(leader).expect("it leads");
        net.settle();
    }
    assert_eq!(net.group(1).log_len(), 0);

    net.propose_members(1, &[1], &[2, 3]).expect("it leads");
    (0..8).for_each(|_| net.tick_all());
    net.give_up_snapshots();
    (0..8).for_each(|_| net.tick_all());
    assert_eq!(settled(&mut net, 2), (ids(&[1]), ids(&[2, 3])));
    net.propose_members(1, &[1, 2, 3], &[]).expect("nothing is under way");
    net.settle();
    assert_eq!(settled(&mut net, 3), (ids(&[1, 2, 3]), Vec::new()));
    net.propose_members(1, &[1], &[]).expect("nothing is under way");
    net.settle();
    net.propose(1).expect("it leads");
    net.settle();

    assert_eq!(settled(&mut net, 1), (ids(&[1]), Vec::new()));
    assert_eq!(net.group(1).log_len(), 0, "nobody else needs the log");
}

/// Those who were members have nothing left, and of nothing there is no snapshot to fill them with.
#[test]
fn a_voter_knows_after_a_crash_that_it_goes_on_alone() {
    let mut net = Net::with(2, 3, 3);
    let leader = net.elect();
    net.settle();
    net.propose_members(leader, &[leader], &[]).expect("it leads");
    let alone = Membership::new(ids(&[leader]), Vec::new());
    for turn in 0.. {
        net.turn(leader);
        (1..=3).for_each(|id| net.deliver_to(id));
        (1..=3).filter(|id| *id != leader).for_each(|id| while net.sync(id) {});
        if net.members(leader) == alone {
            break;
        }
        net.sync(leader);
        assert!(turn < 100, "the change does not end");
    }
    let others = (1..=3).filter(|id| *id != leader);
    others.clone().for_each(|id| net.say_without(leader, id));
    assert!(net.rumours.is_empty(), "it might not know any more after a crash");
    net.settle();
    others.for_each(|id| net.say_without(leader, id));
    assert!(net.hear(0) && net.hear(1));

    (1..=3).for_each(|id| net.crash(id));
    (1..=3).for_each(|id| net.restart(id));
    (0..100).for_each(|_| net.tick_all());
    net.propose(leader).expect("it leads");
    net.settle();
    assert_eq!(net.group(leader).commit_index(), net.group(leader).last_index());
}

/// Its learners would have entries of a term in which it may vote for another after a crash.
#[test]
fn a_sole_voter_says_nothing_as_a_leader_before_its_vote_is_durable() {
    let (mut net, _) = elected(2, 1);
    net.propose_members(1, &[1], &[2]).expect("it leads");
    net.settle();
    net.crash(1);
    net.restart(1);

    while net.group(1).role() != Role::Leader {
        net.tick(1);
    }
    assert_eq!(net.wires_to(2), 0, "its vote is on its way to the disk");
    while net.sync(1) {}
    assert_ne!(net.wires_to(2), 0);
}

/// It crashes before, with all that it alone knew of: that others vote with it now.
#[test]
fn who_was_a_sole_voter_votes_in_a_term_that_it_led_unheard() {
    let mut net = Net::with(2, 2, 1);
    net.group(1).campaign();
    net.settle();
    net.propose_members(1, &[2], &[]).expect("it leads");
    net.turn(1);
    net.sync(1);
    for turn in 0.. {
        net.tick(1);
        net.deliver_to(2);
        while net.sync(2) {}
        net.deliver_to(1);
        if net.group(2).applied_index() == 2 {
            break;
        }
        assert!(turn < 100, "no snapshot comes");
    }

    let crash = |net: &mut Net| {
        net.crash(1);
        net.restart(1);
        net.wires.clear();
        (0..7).for_each(|_| net.tick(1));
    };
    crash(&mut net);
    net.group(1).campaign();
    net.turn(1);
    let led = (net.group(1).role(), net.group(1).term());
    crash(&mut net);
    net.group(2).campaign();
    net.settle();

    assert_eq!(led, (Role::Leader, 2));
    assert_eq!((net.leader(), net.group(2).term()), (Some(2), 2));
}

#[test]
fn a_change_that_is_none_or_comes_too_early_is_refused() {
    let mut net = Net::with(1, 4, 1);
    net.group(1).campaign();
    assert_eq!(net.propose_members(1, &[1], &[2]), Err(Error::Unready { term: 1 }));
    net.settle();

    let bad: [(&[u64], &[u64]); 5] =
        [(&[], &[2]), (&[1, 1], &[]), (&[1], &[1]), (&[0, 1], &[]), (&[1], &[])];
    for (voters, learners) in bad {
        let refused = net.propose_members(1, voters, learners);
        assert!(matches!(refused, Err(Error::Membership { .. })), "{voters:?} {learners:?}");
    }
    assert_eq!(net.propose_members(2, &[1, 2], &[]), Err(Error::NotLeader { leader: None }));
    net.propose_members(1, &[1], &[2]).expect("it leads");
    assert_eq!(net.propose_members(1, &[1], &[3]), Err(Error::Changing));
}

#[test]
fn payloads_survive_the_round_trip_and_others_are_refused() {
    let change = Change { voters: ids(&[9, 3, 70_000]), learners: ids(&[4]) };
    let mut payload = Vec::new();
    change.encode(&mut payload);

    let sorted = Change { voters: ids(&[3, 9, 70_000]), learners: ids(&[4]) };
    assert_eq!(Change::decode(&payload), Ok(Some(sorted)));
    assert_eq!(Change::decode(&[]), Ok(None));
    for len in 1..payload.len() {
        assert!(Change::decode(&payload[..len]).is_err(), "{len} bytes of {}", payload.len());
    }
    for at in 0..8 {
        payload[at] ^= 1;
        assert!(Change::decode(&payload).is_err(), "byte {at} changed");
        payload[at] ^= 1;
    }
}

/// All wires and disks work from here on: everyone who belongs to the group has all of it.
fn clear_up(net: &mut Net) {
    net.settle();
    net.give_up_snapshots();
    (0..60).for_each(|_| net.tick_all());
    let leader = net.elect();
    net.propose(leader).expect("it leads");
    (0..20).for_each(|_| net.tick_all());
    net.give_up_snapshots();
    (0..20).for_each(|_| net.tick_all());
    let leader = net.elect();
    let (voters, learners) = settled(net, leader);
    let last = net.group(leader).last_index();
    for id in voters.iter().chain(&learners) {
        assert_eq!(net.group(id.0).applied_index(), last, "node {id}");
        assert_eq!(settled(net, id.0), (voters.clone(), learners.clone()), "node {id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Five nodes, any of which may come and go, and lose what they had, while messages are lost,
    /// repeated and reordered and nodes crash: one leader in a term, no two replicas apply
    /// different entries (the net asserts both), and once the weather clears all members agree on
    /// all, and on who they are.
    #[test]
    fn replicas_never_disagree_while_members_change(
        seed in any::<u64>(),
        born in 1..=5u64,
        ops in prop::collection::vec(
            prop_oneof![
                40 => op(5),
                1 => (1..=5u64, 0..32u8, 0..32u8).prop_map(|(id, v, l)| Op::Members(id, v, l)),
                1 => (1..=5u64, 1..=5u64).prop_map(|(id, other)| Op::Say(id, other)),
                1 => any::<usize>().prop_map(Op::Hear),
            ],
            1..3000,
        ),
    ) {
        let mut net = Net::with(seed, 5, born);
        for op in ops {
            play(&mut net, op);
        }

        clear_up(&mut net);
    }
}

/// By seeds: a node is added, promoted, another is removed, round and round, while a tenth of the
/// messages is lost and someone crashes now and then.
#[test]
fn members_come_and_go_in_foul_weather() {
    let (mut changes, mut vacated) = (0, 0);
    for seed in 0..100 {
        let mut net = Net::with(seed, 5, 3);
        let mut chance = seed;
        for round in 0..300_u64 {
            // As splitmix64 does.
            chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let dice = (chance ^ chance >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
            let (id, other) = (1 + dice % 5, 1 + dice / 5 % 5);
            net.ids().for_each(|id| net.tick(id));
            for step in 0..40 {
                for id in net.ids() {
                    net.sync(id);
                }
                let lost = (dice >> (step % 16)) % 10 == 0;
                play(&mut net, if lost { Op::Lose(0) } else { Op::Deliver(0) });
            }
            if round % 16 == 7 {
                play(&mut net, Op::Crash(id));
            }
            if round % 50 == 49 {
                play(&mut net, Op::Compact(id));
                net.give_up_snapshots();
            }
            let Some(leader) = net.leader() else { continue };
            let _ = net.propose(leader);
            if round % 10 == 3 {
                changes += u32::from(step_on(&mut net, leader, other));
            }
            net.say_without(leader, other);
            if round % 4 == 1 && !net.rumours.is_empty() {
                let newest = net.rumours.len() - 1;
                vacated += u32::from(net.hear(newest - dice as usize % 20 % net.rumours.len()));
            }
            net.turn(leader);
        }
        clear_up(&mut net);
    }
    assert!(changes > 500, "only {changes} changes were begun");
    assert!(vacated > 100, "only {vacated} replicas lost what they had");
}

/// Adds `other` as a learner, makes a voter of it if it is one, or removes it.
fn step_on(net: &mut Net, leader: u64, other: u64) -> bool {
    let Membership { voters, learners, .. } = net.members(leader);
    let without = |ids: &[NodeId]| -> Vec<_> {
        ids.iter().map(|id| id.0).filter(|id| *id != other).collect()
    };
    let (mut next, mut next_learners) = (without(&voters), without(&learners));
    if learners.contains(&NodeId(other)) {
        next.push(other);
    } else if !voters.contains(&NodeId(other)) {
        next_learners.push(other);
    }
    net.propose_members(leader, &next, &next_learners).is_ok()
}
