//! What the disk loses and keeps, and each of its faults shown to happen.

use std::io;

use super::*;

fn sim_with_file(seed: u64, sectors: usize) -> (Sim, Node, SimEnv, SimFile) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let env = node.env(ShardId(0));
    let file = sim.run_on(&env, async move |env| {
        let file = create(&env, "log").await;
        write(&file, 1, 0, sectors, true).await.expect("no faults are on");
        file
    });
    (sim, node, env, file)
}

async fn write(
    file: &SimFile,
    byte: u8,
    sector: u64,
    sectors: usize,
    durable: bool,
) -> io::Result<usize> {
    let buf = filled(byte, sectors);
    file.write_at(buf, sectors * SECTOR_LEN, sector * SECTOR, durable).await.0
}

async fn read(file: &SimFile, sectors: usize) -> io::Result<Vec<u8>> {
    let buf = Aligned::zeroed(sectors * SECTOR_LEN);
    let (count, buf) = file.read_at(buf, sectors * SECTOR_LEN, 0).await;
    count.map(|count| buf[..count].to_vec())
}

/// How many of `n` seeds do it.
fn seeds_that(n: u64, does: impl Fn(u64) -> bool) -> u64 {
    (0..n).filter(|seed| does(*seed)).count() as u64
}

#[test]
fn power_cuts_lose_tear_and_reorder_unsynced_writes() {
    let mut all = PowerCut::default();
    for seed in 0..200 {
        let (sim, node, env, file) = sim_with_file(seed, 8);
        sim.run_on(&env, async move |_| {
            for sector in 0..8 {
                write(&file, 2, sector, 1, false).await.expect("no faults are on");
            }
        });

        let cut = node.power_cut();

        let bytes = node.read_file("log").expect("its name was synced");
        assert_eq!(bytes.len(), 8 * SECTOR_LEN, "its length was durable");
        for atom in bytes.chunks(512) {
            assert!(atom == [1; 512] || atom == [2; 512], "an atom tore; seed {seed}");
        }
        assert_eq!((cut.unsynced, cut.lost + cut.kept + cut.torn), (8, 8));
        all.lost += cut.lost;
        all.kept += cut.kept;
        all.torn += cut.torn;
        all.reordered += cut.reordered;
    }
    assert!(all.lost > 100 && all.kept > 100 && all.torn > 100 && all.reordered > 100, "{all:?}");
}

#[test]
fn sync_keeps_what_had_ended_before_it() {
    check(200, |seed| {
        let (sim, node, env, file) = sim_with_file(seed, 4);
        sim.run_on(&env, async move |_| {
            write(&file, 2, 0, 6, false).await.expect("no faults are on");
            file.sync().await.expect("no faults are on");
            write(&file, 3, 0, 1, false).await.expect("no faults are on");
        });

        node.power_cut();

        let bytes = node.read_file("log").expect("its name was synced");
        assert_eq!(bytes.len(), 6 * SECTOR_LEN, "the length was synced");
        assert!(bytes[SECTOR_LEN..].iter().all(|byte| *byte == 2), "the first sync held");
        assert!(bytes[..SECTOR_LEN].iter().all(|byte| *byte == 2 || *byte == 3));
    });
}

#[test]
fn kill_keeps_what_was_written() {
    check(200, |seed| {
        let (sim, node, env, file) = sim_with_file(seed, 4);
        sim.run_on(&env, async move |_| {
            write(&file, 2, 0, 8, false).await.expect("no faults are on");
        });

        node.kill();

        let bytes = node.read_file("log").expect("a kill loses no name");
        assert!(bytes == vec![2; 8 * SECTOR_LEN]);
    });
}

#[test]
fn writes_in_flight_may_be_there_after_a_power_cut_in_part() {
    let mut seen = [false; 3];
    for seed in 0..200 {
        let (sim, node, env, file) = sim_with_file(seed, 8);
        env.spawn(Class::Foreground, async move {
            write(&file, 2, 0, 8, true).await.expect("no faults are on");
            panic!("the node went down before");
        });
        sim.run_for(Duration::from_nanos(1));
        sim.step();

        node.power_cut();

        let bytes = node.read_file("log").expect("its name was synced");
        let new = bytes.iter().filter(|byte| **byte == 2).count();
        seen[if new == 0 { 0 } else { 1 + usize::from(new == bytes.len()) }] = true;
    }
    assert!(seen[1], "no write in flight was there in part: {seen:?}");
}

#[test]
fn writes_in_flight_end_in_any_order() {
    let overtaken = seeds_that(100, |seed| {
        let (sim, _, env, file) = sim_with_file(seed, 2);
        let order = Rc::new(RefCell::new(Vec::new()));
        for sector in 0..2 {
            let (file, order) = (file.clone(), order.clone());
            env.spawn(Class::Foreground, async move {
                write(&file, 2, sector, 1, true).await.expect("no faults are on");
                order.borrow_mut().push(sector);
            });
        }
        sim.run_until(|| order.borrow().len() == 2);
        let first = order.borrow()[0];
        first == 1
    });
    assert!((10..90).contains(&overtaken), "{overtaken} of 100");
}

#[test]
fn names_are_durable_after_sync_dir_alone() {
    let run = |seed, synced: bool| {
        let sim = Sim::new(seed);
        let node = sim.node(NODE);
        let env = node.env(ShardId(0));
        sim.run_on(&env, async move |env| {
            let file = env.open("log".as_ref(), Mode::Create).await.expect("it is free");
            write(&file, 1, 0, 1, true).await.expect("no faults are on");
            if synced {
                env.sync_dir("/".as_ref()).await.expect("no faults are on");
            }
        });
        node.power_cut();
        node.read_file("log").is_some()
    };

    assert_eq!(seeds_that(100, |seed| run(seed, true)), 100);
    assert!((10..90).contains(&seeds_that(100, |seed| run(seed, false))));
}

#[test]
fn renames_are_whole_after_a_power_cut() {
    let mut seen = BTreeSet::new();
    for (seed, to) in (0..400).map(|seed| (seed, ["a/new", "b/new"][seed as usize % 2])) {
        let (sim, node, env, _) = sim_with_file(seed, 1);
        node.make_dir("a");
        node.make_dir("b");
        node.write_file("a/old", b"here");
        sim.run_on(&env, async move |env| {
            env.rename("a/old".as_ref(), to.as_ref()).await.expect("no faults are on");
            env.open("a/more".as_ref(), Mode::Create).await.expect("the name is free");
            env.open("b/more".as_ref(), Mode::Create).await.expect("the name is free");
            if seed % 4 > 1 {
                env.sync_dir("a".as_ref()).await.expect("no faults are on");
            }
        });

        node.power_cut();

        let (old, new) = (node.read_file("a/old").is_some(), node.read_file(to).is_some());
        assert!(old || new, "seed {seed}: the file is lost");
        assert!(!(old && new) || to == "b/new", "seed {seed}: half a rename in one directory");
        assert!(seed % 4 <= 1 || new && !old, "seed {seed}: a synced rename was lost");
        seen.insert((old, new));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn created_directories_need_a_sync_of_their_parent() {
    let kept = seeds_that(100, |seed| {
        let (sim, node, env, _) = sim_with_file(seed, 1);
        sim.run_on(&env, async move |env| {
            env.create_dir("x/y".as_ref()).await.expect("no faults are on");
            env.sync_dir("x".as_ref()).await.expect("no faults are on");
            env.create_dir("x/y".as_ref()).await.expect("it is fine if it is there");
        });
        node.power_cut();
        assert!(node.names("x").len() == node.names("/").len() - 1, "y was synced in x");
        node.names("/").len() == 2
    });
    assert!((10..90).contains(&kept), "{kept} of 100");
}

#[test]
fn removed_files_may_come_back_and_stay_readable_while_open() {
    let back = seeds_that(100, |seed| {
        let (sim, node, env, file) = sim_with_file(seed, 2);
        sim.run_on(&env, async move |env| {
            env.remove("log".as_ref()).await.expect("no faults are on");
            assert_eq!(read(&file, 2).await.expect("it is open"), vec![1; 2 * SECTOR_LEN]);
        });
        node.power_cut();
        node.read_file("log").is_some_and(|bytes| bytes == vec![1; 2 * SECTOR_LEN])
    });
    assert!((10..90).contains(&back), "{back} of 100");
}

#[test]
fn opening_minds_what_is_there() {
    let (sim, _, env, file) = sim_with_file(0, 3);
    sim.run_on(&env, async move |env| {
        let kind = |result: io::Result<SimFile>| result.err().map(|error| error.kind());
        let open = async |path: &str, mode| kind(env.open(path.as_ref(), mode).await);

        assert_eq!(open("log", Mode::Create).await, Some(io::ErrorKind::AlreadyExists));
        assert_eq!(open("gone", Mode::Write).await, Some(io::ErrorKind::NotFound));
        assert_eq!(open("gone/log", Mode::Create).await, Some(io::ErrorKind::NotFound));
        assert_eq!(open("log/log", Mode::Create).await, Some(io::ErrorKind::NotADirectory));
        assert_eq!(open("/", Mode::Read).await, Some(io::ErrorKind::IsADirectory));
        assert_eq!(open("/log", Mode::Read).await, None);
        assert_eq!(file.size().expect("it is open"), 3 * SECTOR);
        assert_eq!(read(&file, 9).await.expect("no faults are on").len(), 3 * SECTOR_LEN);
    });
}

#[test]
fn errors_come_when_they_are_on() {
    let always = 1_000_000;
    let (sim, node, env, file) = sim_with_file(0, 1);
    let faults = Faults { name_eio: always, short_read: 0, ..Faults::errors(always) };
    node.set_faults(faults);
    let again = file.clone();
    sim.run_on(&env, async move |env| {
        let eio = |error: io::Error| error.raw_os_error() == Some(libc::EIO);
        assert!(read(&file, 1).await.is_err_and(eio));
        assert!(write(&file, 2, 0, 1, true).await.is_err_and(eio));
        assert!(file.sync().await.is_err_and(eio));
        assert!(env.sync_dir("/".as_ref()).await.is_err_and(eio));
        assert!(env.list("/".as_ref()).await.is_err_and(eio));
    });
    node.set_faults(Faults { short_read: always, short_write: always, ..Faults::none() });
    sim.run_on(&node.env(ShardId(0)), async move |_| {
        let file = again;
        let count = write(&file, 2, 0, 4, true).await.expect("short, not failed");
        assert!((1..4).contains(&(count / SECTOR_LEN)), "{count}");
        write(&file, 2, 3, 1, true).await.expect("one sector is never short");
        assert!((1..4).contains(&(read(&file, 4).await.expect("short").len() / SECTOR_LEN)));
    });
}

#[test]
fn full_disk_writes_short_then_not_at_all_and_overwrites_still() {
    let (sim, node, env, file) = sim_with_file(0, 2);
    node.set_capacity(4 * SECTOR);
    sim.run_on(&env, async move |env| {
        let full = |error: io::Error| error.kind() == io::ErrorKind::StorageFull;
        assert_eq!(write(&file, 2, 1, 9, true).await.expect("short"), 3 * SECTOR_LEN);
        assert!(write(&file, 2, 4, 1, true).await.is_err_and(full));
        assert_eq!(write(&file, 3, 0, 4, true).await.expect("in place"), 4 * SECTOR_LEN);
        let other = create(&env, "other").await;
        assert!(write(&other, 2, 0, 1, true).await.is_err_and(full));
        drop(file);
        env.remove("log".as_ref()).await.expect("a full disk removes");
        assert_eq!(write(&other, 2, 0, 1, true).await.expect("there is room"), SECTOR_LEN);
    });
    assert_eq!(node.disk_used(), SECTOR);
}

#[test]
fn a_cut_file_has_any_length_from_it_to_the_durable_one_until_a_sync() {
    let mut lens = [0; 9];
    for seed in 0..200 {
        let (sim, node, env, file) = sim_with_file(seed, 8);
        let synced = seed % 4 == 0;
        sim.run_on(&env, async move |_| {
            file.truncate(3 * SECTOR).await.expect("no faults are on");
            assert_eq!(file.size().expect("open"), 3 * SECTOR);
            assert_eq!(read(&file, 8).await.expect("no faults are on"), [1; 3 * SECTOR_LEN]);
            if synced {
                file.sync().await.expect("no faults are on");
            }
        });

        node.power_cut();

        let bytes = node.read_file("log").expect("its name was synced");
        let sectors = bytes.len() / SECTOR_LEN;
        assert_eq!(bytes[..3 * SECTOR_LEN], [1; 3 * SECTOR_LEN], "seed {seed}");
        assert!(if synced { sectors == 3 } else { (3..=8).contains(&sectors) }, "seed {seed}");
        lens[sectors] += 1;
    }
    assert!(lens[4] > 0 && lens[8] > 0, "{lens:?}");
}

#[test]
fn lying_and_failing_syncs_lose_what_a_later_one_does_not_bring_back() {
    for faults in [
        Faults { sync_lie: 1_000_000, ..Faults::none() },
        Faults { sync_eio: 1_000_000, ..Faults::none() },
    ] {
        let lost = seeds_that(100, |seed| {
            let (sim, node, env, file) = sim_with_file(seed, 1);
            let again = faults.sync_eio > 0;
            node.set_faults(faults.clone());
            sim.run_on(&env, async move |_| {
                write(&file, 2, 0, 1, false).await.expect("writes are well");
                assert_eq!(file.sync().await.is_err(), again);
            });
            node.set_faults(Faults::none());
            if again {
                sim.run_on(&env, async |env| {
                    let file = env.open("log".as_ref(), Mode::Write).await.expect("there");
                    file.sync().await.expect("it says so");
                });
            }
            node.power_cut();
            node.read_file("log") != Some(vec![2; SECTOR_LEN])
        });
        assert!((10..90).contains(&lost), "{lost} of 100 with {faults:?}");
    }
}

#[test]
fn flipped_bits_stay_and_misdirected_writes_hit_others() {
    let (sim, node, env, file) = sim_with_file(3, 4);
    assert!(node.flip_bit("log", 5, 3) && !node.flip_bit("log", 4 * SECTOR, 0));
    node.set_faults(Faults { misdirected_write: 1_000_000, ..Faults::none() });
    let reader = file.clone();
    let bytes = sim.run_on(&env, async move |_| {
        for _ in 0..20 {
            write(&file, 2, 3, 1, true).await.expect("it says so");
        }
        read(&reader, 4).await.expect("no read faults are on")
    });

    assert!(bytes[..3 * SECTOR_LEN].iter().filter(|byte| **byte == 2).count() >= SECTOR_LEN);

    let (sim, node, env, file) = sim_with_file(4, 4);
    node.set_faults(Faults { bit_flip: 1_000_000, ..Faults::none() });
    let seen = sim.run_on(&env, async move |_| read(&file, 4).await.expect("it says so"));
    assert_eq!(seen.iter().filter(|byte| **byte != 1).count(), 1);
    node.power_cut();
    assert_eq!(node.read_file("log"), Some(seen), "the flip is on the disk");
}

#[test]
fn spikes_take_long() {
    let (sim, node, env, file) = sim_with_file(0, 1);
    let spike_max = Duration::from_secs(10);
    node.set_faults(Faults { spike: 1_000_000, spike_max, ..Faults::none() });
    let before = sim.now();
    sim.run_on(&env, async move |_| read(&file, 1).await.expect("slow, not failed"));
    assert!(sim.now() - before > Duration::from_millis(100), "{:?}", sim.now() - before);
}
