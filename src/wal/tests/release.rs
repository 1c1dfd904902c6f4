//! Giving up what is not needed: what goes and when, and a crash at every step of it.

use std::time::Duration;

use super::*;
use crate::sim::Faults;

/// A log of `count` records, each durable before the next; the LSN of each.
async fn filled(env: &SimEnv, options: &Options, count: u64) -> (Writer<SimEnv>, Vec<Lsn>) {
    let (_, mut writer) = open(env, options).await;
    let mut places = Vec::new();
    for index in 0..count {
        let lsn = writer.append(Owned::numbered(index, 3_000).record());
        writer.flush(Flush::Now);
        until_durable(env, &writer, lsn).await;
        places.push(lsn);
    }
    (writer, places)
}

async fn until_released(env: &SimEnv, writer: &Writer<SimEnv>, len: u64) {
    for _ in 0..10_000 {
        if writer.log_len() <= len {
            return;
        }
        env.sleep(Duration::from_micros(100)).await;
    }
    panic!("{} bytes are still there, and not {len}", writer.log_len());
}

fn needed(needed_from: Lsn) -> Options {
    Options { needed_from, ..options() }
}

fn numbers(records: &[Owned]) -> Vec<u64> {
    records.iter().map(|record| record.index).collect()
}

#[test]
fn what_is_not_needed_goes_and_the_rest_is_found() {
    check(40, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let env = node.env(ShardId(0));
        let needed_from = sim.run_on(&env, async move |env| {
            let (mut writer, places) = filled(&env, &options(), 200).await;
            let before = writer.log_len();
            assert!(before > 9 * writer.segment_len(), "{before} bytes are too few");
            let needed_from = places[149];
            writer.release(needed_from);
            let least = writer.appended().0 - needed_from.0;
            until_released(&env, &writer, least + writer.segment_len()).await;
            assert!(writer.log_len() >= least, "needed bytes are gone");
            writer.close().await.expect("the disk works");
            needed_from
        });
        node.power_cut();
        node.restart();

        let spares = node.names(DIR);
        let spares = spares.iter().filter(|name| segments::spare_number_of(name).is_some());
        assert!(spares.count() <= supply::SPARES_MAX);
        let found = replay_on(&sim, &node, &needed(needed_from)).expect("it reaches back");
        assert_eq!(numbers(&found), (150..200).collect::<Vec<_>>());
        let refused = replay_on(&sim, &node, &options()).expect_err("the first is gone");
        let first = segment_paths(&node)[0].clone();
        match refused {
            Error::Missing { path } => assert!(path < first, "{path:?} is there"),
            other => panic!("refused for another reason: {other}"),
        }
    });
}

/// Segments are made of what was given up: the log runs for long on a disk of few segments.
#[test]
fn a_log_that_is_released_fits_on_a_small_disk() {
    check(20, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        node.make_dir(DIR);
        node.set_capacity(6 * options().segment_len);
        let env = node.env(ShardId(0));
        sim.run_on(&env, async move |env| {
            let (_, mut writer) = open(&env, &options()).await;
            for index in 0..2_000 {
                let lsn = writer.append(Owned::numbered(index, 3_000).record());
                writer.flush(Flush::Now);
                until_durable(&env, &writer, lsn).await;
                writer.release(lsn);
            }
            assert!(writer.log_len() <= 3 * writer.segment_len());
        });
    });
}

/// The log in the middle of a release, `steps` steps of the simulation from its beginning: whether
/// it is over, and from where on the log is needed.
fn released_for(sim: &Sim, node: &Node, planted: Option<Planted>, steps: u64) -> (bool, Lsn) {
    let options = Options { planted, ..options() };
    let env = node.env(ShardId(0));
    let (mut writer, places) = sim.run_on(&env, async move |env| filled(&env, &options, 100).await);
    // There are segments behind the one that this is in the middle of.
    let needed_from = places[59];
    writer.release(needed_from);
    let mut is_over = false;
    for _ in 0..steps {
        is_over = !sim.step();
    }
    (is_over, needed_from)
}

/// A crash at every step of a release, which is at every call of the disk's and between any two;
/// how many there were.
fn crashed_at_every_step(seed: u64, planted: Option<Planted>) -> u64 {
    for steps in 0.. {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let (is_over, needed_from) = released_for(&sim, &node, planted, steps);
        match steps % 2 {
            0 => _ = node.power_cut(),
            _ => node.kill(),
        }
        node.restart();
        let options = needed(needed_from);
        for life in 0..3 {
            let found = replay_on(&sim, &node, &options);
            let found = found.unwrap_or_else(|error| panic!("refused at step {steps}: {error}"));
            assert_eq!(
                numbers(&found),
                (60..100).collect::<Vec<_>>(),
                "at step {steps}, life {life}"
            );
            // An opening takes away what a release has left, and may be cut short too.
            let (env, options) = (node.env(ShardId(0)), options.clone());
            sim.run_on(&env, async move |env| drop(open(&env, &options).await.1));
            node.power_cut();
            node.restart();
        }
        if is_over {
            return steps;
        }
    }
    unreachable!("a release ends")
}

#[test]
fn a_crash_at_every_step_of_a_release_leaves_what_is_needed() {
    check(6, |seed| {
        let steps = crashed_at_every_step(seed, None);
        assert!(steps >= 8, "only {steps} steps");
    });
}

#[test]
#[should_panic(expected = "refused at step")]
fn a_planted_release_of_too_much_is_seen() {
    crashed_at_every_step(1, Some(Planted::ReleaseEarly));
}

#[test]
fn a_disk_that_refuses_is_asked_again() {
    check(30, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let env = node.env(ShardId(0));
        let disk = node.clone();
        let needed_from = sim.run_on(&env, async move |env| {
            let (mut writer, places) = filled(&env, &options(), 150).await;
            let needed_from = places[120];
            // The next segment is ready: none of its calls are met.
            env.sleep(Duration::from_millis(100)).await;
            disk.set_faults(Faults { name_eio: 500_000, sync_eio: 500_000, ..Faults::none() });
            for _ in 0..8 {
                writer.release(needed_from);
                env.sleep(Duration::from_millis(50)).await;
            }
            disk.set_faults(Faults::none());
            assert!(writer.failure().is_none(), "a release made the log fail");
            writer.release(needed_from);
            let least = writer.appended().0 - needed_from.0;
            until_released(&env, &writer, least + writer.segment_len()).await;
            let lsn = writer.append(Owned::numbered(150, 10).record());
            writer.flush(Flush::Now);
            until_durable(&env, &writer, lsn).await;
            needed_from
        });
        node.power_cut();
        node.restart();

        let found = replay_on(&sim, &node, &needed(needed_from)).expect("it reaches back");

        assert_eq!(numbers(&found), (121..=150).collect::<Vec<_>>());
    });
}

/// Of what is there before the log, nothing is asked: names of a release may reach the disk in any
/// order.
#[test]
fn gaps_before_the_log_mean_nothing_and_gaps_in_it_are_named() {
    check(60, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let env = node.env(ShardId(0));
        let needed_from =
            sim.run_on(&env, async move |env| filled(&env, &options(), 120).await.1[59]);
        node.power_cut();
        node.restart();
        let paths = segment_paths(&node);
        let bases = paths.iter().map(|path| {
            format::SegmentHeader::decode(&bytes_of(&node, path)).ok().map(|(h, _)| h.base)
        });
        let first = bases.into_iter().rposition(|base| base.is_some_and(|b| b <= needed_from));
        let first = first.expect("it is there");
        assert!(first > 2 && first + 3 < paths.len());
        let remove = |path: PathBuf| {
            let env = node.env(ShardId(0));
            sim.run_on(&env, async move |env| env.remove(&path).await.expect("it is there"));
        };
        let mut rng = sim.rng();
        for path in paths[..first].iter().filter(|_| rng.one_in(2)) {
            remove(path.clone());
        }

        let found = replay_on(&sim, &node, &needed(needed_from)).expect("it reaches back");
        assert_eq!(numbers(&found), (60..120).collect::<Vec<_>>());

        let gone = first + rng.index(3);
        remove(paths[gone].clone());
        match replay_on(&sim, &node, &needed(needed_from)).expect_err("a segment is gone") {
            // One further back reaches back too, by its header: what follows it is missing.
            Error::Missing { path } if gone == first => assert!(path <= paths[first]),
            Error::Missing { path } => assert_eq!(path, paths[gone]),
            Error::Corrupt { path, durable, .. } if gone == first => {
                assert!(path < paths[first] && durable >= needed_from.0);
            }
            other => panic!("refused for another reason: {other}"),
        }
    });
}

#[test]
fn a_log_that_ends_before_what_is_needed_is_refused() {
    let sim = Sim::new(3);
    let node = sim.node(NODE);
    let env = node.env(ShardId(0));
    let end = sim.run_on(&env, async move |env| {
        let (writer, _) = filled(&env, &options(), 50).await;
        let end = writer.appended();
        writer.close().await.expect("the disk works");
        end
    });
    node.power_cut();
    node.restart();

    let ahead = Lsn(end.0 + 5 * SECTOR);
    match replay_on(&sim, &node, &needed(ahead)).expect_err("the end is gone") {
        Error::Corrupt { durable, end: found, .. } => {
            assert_eq!(durable, ahead.0);
            assert!(found >= end.0 && found < ahead.0);
        }
        other => panic!("refused for another reason: {other}"),
    }
    for path in segment_paths(&node).into_iter().rev() {
        let env = node.env(ShardId(0));
        sim.run_on(&env, async move |env| env.remove(&path).await.expect("it is there"));
    }
    let refused = replay_on(&sim, &node, &needed(ahead)).expect_err("all is gone");
    assert!(matches!(refused, Error::Gone { needed_from, .. } if needed_from == ahead.0));
}
