//! A disk that is full, fails, or lies.

use std::time::Duration;

use super::*;
use crate::sim::{DiskLatency, Faults};

#[test]
fn full_disk_is_a_state_that_passes() {
    check(50, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        node.make_dir(DIR);
        node.set_capacity(2 * options().segment_len + 5 * SECTOR);
        let env = node.env(ShardId(0));
        let disk = node.clone();
        let written = sim.run_on(&env, async move |env| {
            let (mut records, mut writer) = open(&env, &options()).await;
            let mut refused = 0;
            while refused < 50 {
                if !writer.is_disk_full() {
                    let record = Owned::numbered(records.len() as u64, 3_000);
                    writer.append(record.record());
                    writer.flush(Flush::Now);
                    records.push(record);
                } else {
                    refused += 1;
                }
                env.sleep(Duration::from_micros(500)).await;
            }
            for _ in 0..30 {
                let record = Owned::numbered(records.len() as u64, 3_000);
                writer.append(record.record());
                writer.flush(Flush::Now);
                records.push(record);
            }
            assert!(writer.failure().is_none());
            disk.set_capacity(u64::MAX);
            let end = writer.appended();
            until_durable(&env, &writer, end).await;
            assert!(!writer.is_disk_full() && writer.backlog_len() == 0);
            records
        });
        node.power_cut();
        node.restart();

        assert_eq!(replay_on(&sim, &node, &options()).expect("a mere crash"), written);
    });
}

#[test]
fn failed_write_closes_the_log_for_ever() {
    for faults in [
        Faults { write_eio: 1_000_000, ..Faults::none() },
        Faults { short_write: 1_000_000, ..Faults::none() },
    ] {
        check(50, |seed| {
            let sim = Sim::new(seed);
            let node = sim.node(NODE);
            let env = node.env(ShardId(0));
            let (disk, faults) = (node.clone(), faults.clone());
            let acked = sim.run_on(&env, async move |env| {
                let (mut records, mut writer) = open(&env, &options()).await;
                for index in 0..10 {
                    let record = Owned::numbered(index, 5_000);
                    let lsn = writer.append(record.record());
                    writer.flush(Flush::Now);
                    until_durable(&env, &writer, lsn).await;
                    records.push(record);
                }
                disk.set_faults(faults);
                writer.append(Owned::numbered(99, 9_000).record());
                writer.flush(Flush::Now);
                while writer.failure().is_none() {
                    env.sleep(Duration::from_micros(50)).await;
                }
                disk.set_faults(Faults::none());
                let durable = writer.durable();
                let never = writer.append(Owned::numbered(100, 10).record());
                writer.flush(Flush::Now);
                env.sleep(Duration::from_millis(50)).await;
                assert!(writer.durable() == durable && never > durable);
                assert!(writer.close().await.is_err());
                records
            });
            node.power_cut();
            node.restart();

            let found = replay_on(&sim, &node, &options()).expect("a mere crash");

            assert_eq!(found[..10], acked[..]);
            assert!(found.len() <= 11 && found.iter().all(|record| record.index != 100));
        });
    }
}

#[test]
fn errors_of_replay_are_errors_with_a_path() {
    for faults in [
        Faults { read_eio: 300_000, ..Faults::none() },
        Faults { name_eio: 300_000, ..Faults::none() },
        Faults { sync_eio: 1_000_000, ..Faults::none() },
    ] {
        let failed = std::cell::Cell::new(0);
        check(40, |seed| {
            let sim = Sim::new(seed);
            let node = sim.node(NODE);
            write_some(&sim, &node, &options(), 20);
            node.power_cut();
            node.restart();
            node.set_faults(faults.clone());

            match replay_on(&sim, &node, &options()) {
                Ok(found) => assert_eq!(found.len(), 20),
                Err(Error::Io { path, .. }) => {
                    assert!(path.starts_with("shard-00"));
                    failed.set(failed.get() + 1);
                }
                Err(error) => panic!("an I/O error became {error}"),
            }
        });
        assert!(failed.get() > 0, "{faults:?} never hit");
    }
}

#[test]
fn short_reads_are_read_on() {
    check(40, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let written = write_some(&sim, &node, &options(), 20);
        node.power_cut();
        node.restart();
        node.set_faults(Faults { short_read: 500_000, ..Faults::none() });

        assert_eq!(replay_on(&sim, &node, &options()).expect("nothing is wrong"), written);
    });
}

#[test]
fn a_disk_that_lies_is_caught_by_the_log() {
    let caught = std::cell::Cell::new(0);
    check(60, |seed| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        node.set_faults(Faults { sync_lie: 100_000, ..Faults::none() });
        let written = write_some(&sim, &node, &options(), 40);
        node.power_cut();
        node.restart();
        node.set_faults(Faults::none());

        match replay_on(&sim, &node, &options()) {
            Ok(found) => assert_eq!(found, written[..found.len()]),
            Err(_) => caught.set(caught.get() + 1),
        }
    });
    assert!(crate::sim::seeds(2).count() < 2 || caught.get() > 10, "{caught:?}");
}

#[test]
fn lazy_flush_gathers_and_is_punctual() {
    let sim = Sim::new(5);
    let node = sim.node(NODE);
    let fast =
        || DiskLatency { read_ns: 1..=9, write_ns: 1_000..=2_000, sync_ns: 1..=9, held_up_ns: 0 };
    node.set_latency(fast());
    let env = node.env(ShardId(0));
    let (blocks, waited) = sim.run_on(&env, async move |env| {
        let (_, mut writer) = open(&env, &options()).await;
        let (start, mut lsn) = (env.now(), Lsn(0));
        for index in 0..20 {
            lsn = writer.append(Owned::numbered(index, 100).record());
            writer.flush(Flush::Lazy);
            env.sleep(Duration::from_micros(100)).await;
        }
        until_durable(&env, &writer, lsn).await;
        let waited = env.now() - start;
        (read(&env, &options()).await.expect("nothing is wrong").1.block_count, waited)
    });

    assert_eq!(blocks, 1);
    assert!(waited > Duration::from_millis(9) && waited < Duration::from_millis(13), "{waited:?}");
}

#[test]
fn a_loop_gathers_while_all_slots_are_taken() {
    let sim = Sim::new(6);
    let node = sim.node(NODE);
    let slow = DiskLatency {
        read_ns: 1..=9,
        write_ns: 1_000_000..=1_000_001,
        sync_ns: 1..=9,
        held_up_ns: 0,
    };
    node.set_latency(slow);
    let env = node.env(ShardId(0));
    let blocks = sim.run_on(&env, async move |env| {
        let options = Options { segment_len: 1 << 20, block_len_max: 1 << 18, ..options() };
        let (_, mut writer) = open(&env, &options).await;
        for index in 0..100 {
            writer.append(Owned::numbered(index, 100).record());
            writer.flush(Flush::Now);
        }
        let end = writer.appended();
        until_durable(&env, &writer, end).await;
        let (records, ended) = read(&env, &options).await.expect("nothing is wrong");
        assert_eq!(records.len(), 100);
        ended.block_count
    });

    assert_eq!(blocks, 4, "three at once, and the rest together");
}

#[test]
fn writes_that_are_held_up_are_synced_apart_while_they_are() {
    let sim = Sim::new(7);
    let node = sim.node(NODE);
    let latency = |held_up_ns| DiskLatency {
        read_ns: 1..=9,
        write_ns: 50_000..=60_000,
        sync_ns: 50_000..=60_000,
        held_up_ns,
    };
    node.set_latency(latency(4_000_000));
    let env = node.env(ShardId(0));
    let seen = sim.run_on(&env, async move |env| {
        let options = Options { segment_len: 1 << 20, ..options() };
        let (_, mut writer) = open(&env, &options).await;
        let mut seen = vec![writer.is_held_up()];
        for held_up_ns in [4_000_000, 0] {
            node.set_latency(latency(held_up_ns));
            let end = env.now() + Duration::from_secs(20);
            let mut index = 0;
            while env.now() < end {
                let lsn = writer.append(Owned::numbered(index, 100).record());
                writer.flush(Flush::Now);
                until_durable(&env, &writer, lsn).await;
                env.sleep(Duration::from_millis(10)).await;
                index += 1;
            }
            seen.push(writer.is_held_up());
        }
        seen
    });

    assert_eq!(seen, [false, true, false]);
}
