//! Starts on a full disk, and the room that is kept for them.

use std::time::Duration;

use super::*;

/// With a reserve of which a quarter is room for a manifest.
fn with_reserve() -> Options {
    Options { reserve_len: 24 * SECTOR, ..options() }
}

fn names(node: &Node) -> Vec<String> {
    node.names(DIR)
}

/// Writes one record, durably.
async fn write_one(env: &SimEnv, writer: &mut Writer<SimEnv>, record: &Owned) {
    let lsn = writer.append(record.record());
    writer.flush(Flush::Now);
    until_durable(env, writer, lsn).await;
}

/// A log with some records, whose process is killed on a disk that is full to the last byte.
fn full(seed: u64, options: &Options) -> (Sim, Node, Vec<Owned>) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let (own, env) = (options.clone(), node.env(ShardId(0)));
    let written = sim.run_on(&env, async move |env| {
        let (mut records, mut writer) = open(&env, &own).await;
        for index in 0..3 {
            let record = Owned::numbered(index, 2_000);
            write_one(&env, &mut writer, &record).await;
            records.push(record);
        }
        env.sleep(Duration::from_secs(1)).await;
        records
    });
    node.kill();
    // The segment to come would give its room.
    for path in segment_paths(&node).iter().skip(1) {
        node.write_file(path, &[]);
    }
    node.set_capacity(node.disk_used());
    node.restart();
    (sim, node, written)
}

#[test]
fn a_node_starts_on_a_full_disk_again_and_again() {
    check(40, |seed| {
        let (sim, node, mut expected) = full(seed, &with_reserve());
        assert!(names(&node).iter().any(|name| name == RESERVE_NAME));
        // What is full stays so: nobody gives room but the log itself.
        for life in 0..4 {
            let env = node.env(ShardId(0));
            let before = expected.clone();
            expected = sim.run_on(&env, async move |env| {
                let (mut records, mut writer) = open(&env, &with_reserve()).await;
                assert_eq!(records, before);
                assert!(writer.is_disk_full() && writer.has_room_to_free());
                let record = Owned::numbered(records.len() as u64, 2_000);
                write_one(&env, &mut writer, &record).await;
                records.push(record);
                env.sleep(Duration::from_secs(1)).await;
                assert!(writer.failure().is_none());
                records
            });
            if (seed + life) % 2 == 0 {
                node.power_cut();
            } else {
                node.kill();
            }
            node.restart();
        }
    });
}

#[test]
fn without_a_reserve_a_full_disk_refuses_a_start() {
    let mut refused = 0;
    for seed in 0..20 {
        let (sim, node, _) = full(seed, &options());
        let env = node.env(ShardId(0));
        refused += sim.run_on(&env, async move |env| {
            let (_, ended) = read(&env, &options()).await.expect("nothing is wrong");
            let opened = Writer::open(&env, &options(), ended).await;
            u32::from(opened.is_err_and(|error| error.is_disk_full()))
        });
    }
    assert!(refused > 10, "{refused} of 20");
}

/// The disk counts as full while there is still room for what flushes make of the log.
#[test]
fn the_last_room_is_left_to_flushes() {
    let room = Options { room_len: 20 * SECTOR, ..with_reserve() };
    let sim = Sim::new(1);
    let node = sim.node(NODE);
    let (own, disk) = (room.clone(), node.clone());
    node.make_dir(DIR);
    node.set_capacity(200 * SECTOR);
    let env = node.env(ShardId(0));
    sim.run_on(&env, async move |env| {
        let (_, mut writer) = open(&env, &own).await;
        for index in 0.. {
            if writer.is_disk_full() {
                break;
            }
            write_one(&env, &mut writer, &Owned::numbered(index, 5_000)).await;
            env.sleep(Duration::from_millis(5)).await;
        }
        let free = 200 * SECTOR - disk.disk_used();
        assert!(
            free + 4 * SECTOR >= writer.log_len(),
            "{free} bytes free for a log of {}",
            writer.log_len()
        );
        assert!(writer.has_room_to_free(), "deletes are still taken");

        // They did their work.
        let end = writer.durable();
        writer.release(end);
        env.sleep(Duration::from_secs(1)).await;
        assert!(!writer.is_disk_full(), "there is room again");
    });
}

/// A short segment of a start does not become a spare, which would be taken for a whole one.
#[test]
fn a_short_segment_is_not_used_again() {
    let (sim, node, _) = full(3, &with_reserve());
    let env = node.env(ShardId(0));
    let disk = node.clone();
    sim.run_on(&env, async move |env| {
        let (_, mut writer) = open(&env, &with_reserve()).await;
        assert!(writer.is_disk_full(), "known from the start");
        disk.set_capacity(u64::MAX);
        env.sleep(Duration::from_secs(1)).await;
        assert!(!writer.is_disk_full());
        for index in 0..20 {
            write_one(&env, &mut writer, &Owned::numbered(index, 5_000)).await;
        }
        let end = writer.durable();
        writer.release(end);
        env.sleep(Duration::from_secs(1)).await;
        for index in 0..40 {
            write_one(&env, &mut writer, &Owned::numbered(index, 5_000)).await;
        }
    });
    for name in names(&node).iter().filter(|name| segments::spare_number_of(name).is_some()) {
        let len = bytes_of(&node, &PathBuf::from(DIR).join(name)).len() as u64;
        assert_eq!(len, options().segment_len, "{name}");
    }
}
