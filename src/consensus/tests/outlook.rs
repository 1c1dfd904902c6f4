//! Campaigns before a timeout, and what holds them back.

use super::super::*;
use super::net::Net;

/// Three replicas of which two have just heard of the third, their leader.
fn led() -> (Net, u64, [u64; 2]) {
    let mut net = Net::new(1);
    let leader = net.elect();
    (0..2).for_each(|_| net.tick(leader));
    net.settle();
    let others: Vec<_> = net.ids().filter(|id| *id != leader).collect();
    (net, leader, [others[0], others[1]])
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

/// A tick of a replica that can reach `up`, and takes `gone` for gone.
fn tick(net: &mut Net, id: u64, up: &[u64], gone: &[u64]) {
    let outlook = Outlook { up: nodes(up), gone: nodes(gone) };
    net.group(id).look_around(&outlook);
    net.turn(id);
    net.tick(id);
    net.settle();
}

#[test]
fn a_leader_that_is_gone_is_followed_when_the_guard_is_over() {
    let (mut net, leader, [one, other]) = led();
    net.crash(leader);

    let mut ticks = 0;
    while net.leader().is_none() {
        ticks += 1;
        tick(&mut net, one, &[other], &[leader]);
        tick(&mut net, other, &[one], &[leader]);
        assert!(ticks >= 6 || net.leader().is_none(), "before the guard was over");
    }

    assert!(ticks <= 8, "{ticks} ticks");
}

/// Behind a firewall that rejects, a leader looks as if it were gone, and has its lease.
#[test]
fn who_takes_a_leader_for_gone_that_others_hear_of_disturbs_nobody() {
    let (mut net, leader, [mistaken, other]) = led();
    let term = net.group(leader).term();

    for _ in 0..40 {
        net.group(mistaken).look_around(&Outlook { up: nodes(&[other]), gone: nodes(&[leader]) });
        for id in [mistaken, leader, other] {
            net.tick(id);
            settle_without(&mut net, [leader, mistaken]);
        }
        assert_eq!((net.leader(), net.group(leader).term()), (Some(leader), term));
    }
    assert_eq!(net.group(mistaken).role(), Role::PreCandidate);
}

/// As [`Net::settle`], but that these two do not hear each other.
fn settle_without(net: &mut Net, cut: [u64; 2]) {
    loop {
        for id in net.ids() {
            while net.sync(id) {}
        }
        net.wires.retain(|message| ![message.from.0, message.to.0].iter().all(|e| cut.contains(e)));
        if net.wires.is_empty() {
            return;
        }
        net.deliver(0);
    }
}

#[test]
fn without_a_leader_the_first_that_can_be_reached_comes_forward_at_once() {
    let mut net = Net::new(1);
    for _ in 0..4 {
        assert_eq!(net.leader(), None, "it does not wait for node 1, at which the circle begins");
        for id in [3, 2] {
            tick(&mut net, id, &[5 - id], &[]);
        }
    }
    assert_eq!(net.leader(), Some(2));

    let mut net = Net::new(1);
    tick(&mut net, 1, &[], &[]);
    assert_eq!(net.group(1).role(), Role::Follower, "alone it can not win");
    tick(&mut net, 1, &[3], &[]);
    assert_eq!(net.leader(), Some(1));
}

#[test]
fn after_a_restart_of_all_the_first_comes_forward_when_the_guard_is_over() {
    let (mut net, _, _) = led();
    net.ids().for_each(|id| net.crash(id));
    net.ids().for_each(|id| net.restart(id));

    let mut ticks = 0;
    while net.leader().is_none() {
        ticks += 1;
        for id in net.ids() {
            let others: Vec<_> = net.ids().filter(|other| *other != id).collect();
            tick(&mut net, id, &others, &[]);
        }
    }

    assert!((7..=10).contains(&ticks), "{ticks} ticks");
    assert_eq!(net.leader(), Some(1));
}
