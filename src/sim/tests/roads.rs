//! Connections from node to node: as those of clients while all is well; cut, slow, healed.

use super::net::{Noted, noting_on};
use super::*;
use crate::env::tests;
use crate::limits::CONNECT_MAX;

const OTHER: NodeId = NodeId(2);
/// What one end has sent in these tests: a byte says its place.
const LEN: usize = 20_000;

/// Two shards that note what happens, and a connection from the first to the second.
struct Pair {
    sim: Sim,
    envs: [SimEnv; 2],
    seen: [Noted; 2],
    conns: [ConnId; 2],
}

impl Pair {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let ((one, seen_one), (two, seen_two)) =
            (noting_on(&sim, NODE, 0), noting_on(&sim, OTHER, 0));
        let opener = one.connect(sim.node(OTHER).addr(PORT)).expect("it always begins");
        sim.run_until(|| !seen_one.borrow().is_empty());
        assert!(
            matches!(seen_one.borrow_mut().remove(0), Event::Connected { conn } if conn == opener)
        );
        let accepted = seen_two.borrow_mut().remove(0);
        let Event::Accepted { conn: acceptor, .. } = accepted else { panic!("{accepted:?}") };
        Self { sim, envs: [one, two], seen: [seen_one, seen_two], conns: [opener, acceptor] }
    }

    /// Sends from one end. Whether all of it went.
    fn send(&self, from: usize) -> Sent {
        let mut buf = (0..LEN).map(|at| (at % 251) as u8).collect();
        self.envs[from].send(self.conns[from], &mut buf)
    }

    /// How many bytes one end has received, and whether it was told of an end.
    fn received(&self, at: usize) -> (usize, bool) {
        let (mut len, mut ended) = (0, false);
        for event in self.seen[at].borrow().iter() {
            match event {
                Event::Received { chunk, .. } => {
                    assert!(!ended, "bytes after the end");
                    let in_order = |(n, byte): (usize, &u8)| *byte == ((len + n) % LEN % 251) as u8;
                    assert!(chunk.iter().enumerate().all(in_order), "a hole in the stream");
                    len += chunk.len();
                }
                Event::Ended { .. } => ended = true,
                _ => {}
            }
        }
        (len, ended)
    }

    fn has_sent(&self, at: usize) -> bool {
        self.seen[at].borrow().iter().any(|event| matches!(event, Event::Sent { .. }))
    }
}

#[test]
fn connections_of_a_simulated_shard_are_as_those_of_a_real_one() {
    check(3, |seed| {
        let sim = Sim::new(seed);
        let env = sim.env(NODE, ShardId(0));
        sim.run_on(&env, tests::connects_and_both_ends_talk_and_close);
        sim.run_on(&env, tests::a_refused_connect_says_so_and_a_dropped_one_leaves_nothing);
    });
}

#[test]
fn nodes_talk_both_ways_and_see_each_others_end() {
    check(50, |seed| {
        let pair = Pair::new(seed);
        let peers = [0, 1].map(|at| pair.envs[at].peer_addr(pair.conns[at]).expect("it is open"));
        assert_eq!(
            (peers[0], peers[1].ip()),
            (pair.sim.node(OTHER).addr(PORT), pair.sim.node(NODE).addr(0).ip())
        );

        let _ = (pair.send(0), pair.send(1));
        pair.sim.run_until(|| pair.received(0).0 == LEN && pair.received(1).0 == LEN);
        let closes = seed as usize % 2;
        pair.envs[closes].close(pair.conns[closes]);
        pair.sim.run_until(|| pair.received(1 - closes).1);

        assert!(!pair.received(closes).1);
        assert_eq!(pair.envs[closes].send(pair.conns[closes], &mut vec![1]), Sent::Broken);
        pair.envs[1 - closes].close(pair.conns[1 - closes]);
    });
}

#[test]
fn a_cut_stalls_the_stream_and_healing_lets_it_go_on_or_breaks_it() {
    let (mut went_on, mut broke_before, mut broke_after) = (0, 0, 0);
    for seed in 0..200 {
        let pair = Pair::new(seed);
        let _ = pair.send(0);
        pair.sim.run_for(Duration::from_nanos(pair.sim.rng().below(3_000_000)));

        pair.sim.cut(NODE, OTHER);
        let early = pair.received(1).0;
        pair.sim.run_for(Duration::from_secs(10));
        assert_eq!(pair.received(1).0, early, "bytes went through a cut");
        let broken = pair.received(0).1 || pair.received(1).1;
        pair.sim.heal();
        pair.sim.run_for(Duration::from_secs(10));

        let ((_, ended), (len, other_ended)) = (pair.received(0), pair.received(1));
        match (broken, ended || other_ended) {
            (true, _) => broke_before += 1,
            (false, true) => broke_after += 1,
            (false, false) => {
                assert_eq!(len, LEN, "neither broken nor whole");
                went_on += 1;
            }
        }
    }
    assert!(
        went_on > 10 && broke_before > 10 && broke_after > 3,
        "{went_on} {broke_before} {broke_after}"
    );
}

#[test]
fn what_comes_against_a_cut_stops_when_the_window_is_full() {
    let mut stopped = 0;
    for seed in 0..50 {
        let pair = Pair::new(seed);
        pair.sim.set_net(NetConditions { window: 3_000, ..pair.sim.net() });
        pair.sim.cut(NODE, OTHER);

        if pair.send(1) != Sent::InFlight {
            continue; // It broke at once.
        }
        pair.sim.run_for(Duration::from_secs(1));
        let (len, ended) = pair.received(0);
        assert!(len <= 3_000 && !pair.has_sent(1), "{len} bytes against the cut");
        if ended || pair.received(1).1 {
            continue;
        }
        assert_eq!(len, 3_000);
        stopped += 1;
        pair.sim.heal();
        let is_over = || pair.received(0).0 == LEN || pair.received(0).1 || pair.received(1).1;
        pair.sim.run_until(is_over);
    }
    assert!(stopped > 5, "{stopped}");
}

#[test]
fn an_isolated_a_dead_and_an_unknown_node_let_nobody_connect() {
    let mut rejected = 0;
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let (env, seen) = noting_on(&sim, NODE, 0);
        let (other, _) = noting_on(&sim, OTHER, 0);
        let ends_without_connect = |to| {
            let begin = sim.now();
            let conn = env.connect(to).expect("it always begins");
            sim.run_until(|| !seen.borrow().is_empty());
            assert!(sim.now() - begin < CONNECT_MAX * 2);
            let (last, is_refused) = match seen.borrow_mut().pop() {
                Some(Event::Ended { conn }) => (conn, false),
                Some(Event::Refused { conn }) => (conn, true),
                other => panic!("{other:?}"),
            };
            assert_eq!(last, conn);
            env.close(conn);
            is_refused
        };
        sim.isolate(OTHER);
        rejected += u32::from(ends_without_connect(sim.node(OTHER).addr(PORT)));
        let back = other.connect(sim.node(NODE).addr(PORT)).expect("it always begins");
        sim.run_for(CONNECT_MAX * 2);
        assert!(seen.borrow().is_empty(), "connected from an isolated node");
        other.close(back);
        sim.heal();
        sim.node(OTHER).power_cut();
        ends_without_connect(sim.node(OTHER).addr(PORT));
        assert!(!ends_without_connect(([192, 0, 2, 1], PORT).into()), "there is nobody to refuse");
        sim.node(OTHER).restart();
        sim.node(OTHER).kill();
        assert!(ends_without_connect(sim.node(OTHER).addr(PORT)), "its kernel is there");
    }
    assert!((10..50).contains(&rejected), "{rejected}");
}

#[test]
fn connections_of_a_node_that_dies_break_at_its_peers() {
    for seed in 0..100 {
        let pair = Pair::new(seed);
        let _ = (pair.send(0), pair.send(1));
        pair.sim.run_for(Duration::from_nanos(pair.sim.rng().below(3_000_000)));
        let dies = seed as usize % 2;
        let node = pair.sim.node([NODE, OTHER][dies]);
        if seed % 3 == 0 {
            node.power_cut();
        } else {
            node.kill();
        }

        pair.sim.run_until(|| pair.received(1 - dies).1);

        node.restart();
        noting_on(&pair.sim, node.id(), 0);
        let alive = &pair.envs[1 - dies];
        alive.close(pair.conns[1 - dies]);
        alive.connect(node.addr(PORT)).expect("it always begins");
        let seen = &pair.seen[1 - dies];
        let is_there = |event: &Event<SimChunk>| matches!(event, Event::Connected { .. });
        pair.sim.run_until(|| seen.borrow().last().is_some_and(is_there));
    }
}

#[test]
fn a_slow_road_delays_one_direction_alone() {
    let pair = Pair::new(3);
    pair.sim.slow_down(NODE, OTHER, 3_000_000_000..=3_000_000_001);

    let _ = (pair.send(0), pair.send(1));
    pair.sim.run_for(Duration::from_secs(2));

    assert_eq!((pair.received(0).0, pair.received(1).0), (LEN, 0));
    pair.sim.heal();
    pair.sim.run_until(|| pair.received(1).0 == LEN);
}

#[test]
fn cuts_are_the_same_each_time() {
    let run = |seed| {
        let pair = Pair::new(seed);
        let _ = (pair.send(0), pair.send(1));
        pair.sim.cut(NODE, OTHER);
        pair.sim.run_for(Duration::from_secs(3));
        pair.sim.heal();
        pair.sim.run_for(Duration::from_secs(3));
        pair.sim.trace_hash()
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
