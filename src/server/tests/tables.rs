//! Scenes of tables: what was flushed is there after a restart, what was deleted is not, and the
//! log ends.

use std::time::Duration;

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::sim::{Failure, Plan};
use crate::wal;

/// Flushes all the time.
fn shape() -> Shape {
    Shape { shards: 2, partitions: 2, log_len_max: 4 << 20, ..Shape::default() }
}

fn set_some(house: &House, talk: &mut Talk, keys: std::ops::Range<usize>, value: &str) {
    let keys: Vec<usize> = keys.collect();
    for some in keys.chunks(32) {
        some.iter().for_each(|key| talk.send(&["SET", &format!("key{key}"), value]));
        house.replies(talk, some.len());
    }
}

fn flushes(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.flushes.get()).sum()
}

/// Bytes of all files of the first shard.
fn disk_len(house: &House) -> u64 {
    let of = |dir: &str| {
        let names = house.node.names(dir);
        let lens = names.iter().map(|name| house.node.read_file(format!("{dir}/{name}")));
        lens.map(|bytes| bytes.map_or(0, |bytes| bytes.len() as u64)).sum::<u64>()
    };
    of("/data/shard-00/wal") + of("/data/shard-00/tree")
}

/// Bytes of all segments of a shard's log.
fn log_len(house: &House, shard: u16) -> u64 {
    let dir = format!("/data/shard-{shard:02}/wal");
    let names = house.node.names(&dir);
    let segments = names.iter().filter(|name| wal::segment_seq(name).is_some());
    let lens = segments.map(|name| house.node.read_file(format!("{dir}/{name}")));
    lens.map(|bytes| bytes.map_or(0, |bytes| bytes.len() as u64)).sum()
}

#[test]
fn log_ends_however_much_is_written_and_a_restart_finds_everything() {
    let mut house = House::new(1, shape());
    let mut talk = house.connect();
    for round in 0..20 {
        set_some(&house, &mut talk, 0..512, &format!("{round}-{}", "x".repeat(8_000)));
    }
    house.ask(&mut talk, &["SET", "large", &"y".repeat(3 << 20)]);
    for round in 20..24 {
        set_some(&house, &mut talk, 0..512, &format!("{round}-{}", "x".repeat(8_000)));
    }
    assert!(flushes(&house) > 10, "{}", flushes(&house));
    let longest = (0..2).map(|shard| log_len(&house, shard)).max().expect("two");
    // Some 50 MB per shard were written. What is needed, and the segments around it.
    assert!(longest < 10 << 20, "{longest}");

    house.power_cycle();

    let mut talk = house.connect();
    for key in 0..512 {
        let found = house.ask(&mut talk, &["GETRANGE", &format!("key{key}"), "0", "2"]);
        assert_eq!(found, Value::bulk("23-"), "key{key}");
    }
    assert_eq!(house.ask(&mut talk, &["STRLEN", "large"]), Value::Int(3 << 20));
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(513));
}

#[test]
fn deletions_hold_over_flushes_and_restarts() {
    let mut house = House::new(2, shape());
    let mut talk = house.connect();
    set_some(&house, &mut talk, 0..512, &"x".repeat(10_000));
    for key in 0..256 {
        assert_eq!(house.ask(&mut talk, &["DEL", &format!("key{key}")]), Value::Int(1));
    }
    for _ in 0..3 {
        let before = flushes(&house);
        set_some(&house, &mut talk, 512..1_024, &"x".repeat(10_000));
        assert!(flushes(&house) > before);
    }
    assert_eq!(house.ask(&mut talk, &["GET", "key7"]), Value::Nil);
    for _ in 0..2 {
        house.power_cycle();
        let mut talk = house.connect();
        assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(768));
        assert_eq!(house.ask(&mut talk, &["EXISTS", "key7", "key255", "key256"]), Value::Int(1));
    }
}

#[test]
fn cleared_keys_stay_away() {
    let mut house = House::new(3, shape());
    let mut talk = house.connect();
    set_some(&house, &mut talk, 0..1_024, &"x".repeat(10_000));
    assert!(flushes(&house) > 0);
    house.ask(&mut talk, &["FLUSHALL"]);
    house.ask(&mut talk, &["SET", "key5", "new"]);
    house.power_cycle();
    let mut talk = house.connect();
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(1));

    // Until the tables of before are gone too.
    for _ in 0..3 {
        set_some(&house, &mut talk, 2_000..2_512, &"x".repeat(10_000));
    }
    house.power_cycle();

    let mut talk = house.connect();
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(513));
    assert_eq!(house.ask(&mut talk, &["GET", "key5"]), Value::bulk("new"));
    assert_eq!(house.ask(&mut talk, &["GET", "key6"]), Value::Nil);
}

/// Its pieces are logged over many turns, and the log is released meanwhile.
#[test]
fn large_values_that_are_being_logged_hold_the_log() {
    let mut house = House::new(5, Shape { shards: 1, log_len_max: 2 << 20, ..shape() });
    let (mut talk, mut other) = (house.connect(), house.connect());
    let large = "z".repeat(9 << 20);
    for round in 0..2 {
        other.send(&["SET", &format!("large{round}"), &large]);
        for _ in 0..4 {
            set_some(&house, &mut talk, 0..256, &"x".repeat(4_000));
        }
        assert_eq!(house.reply(&mut other), Value::Simple("OK".into()));
    }
    assert!(flushes(&house) > 4);

    house.power_cycle();

    let mut talk = house.connect();
    for round in 0..2 {
        let len = house.ask(&mut talk, &["STRLEN", &format!("large{round}")]);
        assert_eq!(len, Value::Int(9 << 20));
    }
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(258));
}

/// The argument is logged in pieces before the command runs; what the key holds then is more.
#[test]
fn what_a_long_argument_is_a_part_of_is_whole_after_a_restart() {
    let mut house = House::new(6, Shape { shards: 2, ..shape() });
    let mut talk = house.connect();
    let large = "z".repeat(3 << 20);
    for key in 0..4 {
        house.ask(&mut talk, &["SET", &format!("append{key}"), "head"]);
        house.ask(&mut talk, &["APPEND", &format!("append{key}"), &large]);
        house.ask(&mut talk, &["SET", &format!("setrange{key}"), "head"]);
        house.ask(&mut talk, &["SETRANGE", &format!("setrange{key}"), "2", &large]);
        house.ask(&mut talk, &["APPEND", &format!("new{key}"), &large]);
    }

    house.power_cycle();

    let mut talk = house.connect();
    for (name, start, len) in
        [("append", "headz", 4), ("setrange", "hezzz", 2), ("new", "zzzzz", 0)]
    {
        for key in 0..4 {
            let key = format!("{name}{key}");
            let found = house.ask(&mut talk, &["GETRANGE", &key, "0", "4"]);
            assert_eq!(found, Value::bulk(start), "{key}");
            let found = house.ask(&mut talk, &["STRLEN", &key]);
            assert_eq!(found, Value::Int(len + (3 << 20)), "{key}");
        }
    }
}

#[test]
fn deadlines_come_back_from_tables() {
    let mut house = House::new(4, shape());
    let mut talk = house.connect();
    house.ask(&mut talk, &["SET", "lasting", "v", "PX", "100000000"]);
    house.ask(&mut talk, &["SET", "passing", "v", "PX", "50000"]);
    for _ in 0..3 {
        set_some(&house, &mut talk, 0..512, &"x".repeat(10_000));
    }
    house.power_cycle();
    let mut talk = house.connect();
    assert!(matches!(house.ask(&mut talk, &["PTTL", "lasting"]), Value::Int(90_000_000..)));

    house.run_ms(60_000);

    assert_eq!(house.ask(&mut talk, &["EXISTS", "lasting", "passing"]), Value::Int(1));
    assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(513));
}

/// Writes until one is refused; how many were taken.
fn set_until_refused(house: &House, talk: &mut Talk) -> (usize, Value) {
    let mut acked = 0;
    loop {
        let value = format!("{acked}-{}", "y".repeat(4_000));
        match house.ask(talk, &["SET", &format!("key{}", acked % 512), &value]) {
            Value::Simple(_) => acked += 1,
            refusal => return (acked, refusal),
        }
        assert!(acked < 20_000, "the disk is full and takes all");
    }
}

/// Writes a lot, with flushes, and finds it after a power cut.
fn writes_go_on(mut house: House, mut talk: Talk) {
    let before = flushes(&house);
    for round in 0..4 {
        set_some(&house, &mut talk, 0..512, &format!("{round}-{}", "z".repeat(4_000)));
    }
    assert!(flushes(&house) > before, "flushes go on too");
    house.power_cycle();
    let mut talk = house.connect();
    for key in 0..512 {
        let found = house.ask(&mut talk, &["GETRANGE", &format!("key{key}"), "0", "1"]);
        assert_eq!(found, Value::bulk("3-"), "key{key}");
    }
}

/// Of all files only the manifest can not be written: writes go on until the log is full, and when
/// the disk takes the manifest again so do flushes, without a restart.
#[test]
fn a_manifest_that_could_not_be_written_heals() {
    for failure in [Failure::NoSpace, Failure::Eio] {
        let house = House::new(7, Shape { shards: 1, log_len_max: 2 << 20, ..shape() });
        let mut talk = house.connect();
        set_some(&house, &mut talk, 0..512, &"x".repeat(4_000));
        house.node.set_plan(Some(Plan::Files(".manifest", failure)));
        let before = flushes(&house);

        let (acked, refusal) = set_until_refused(&house, &mut talk);

        assert!(refusal.is_error("MISCONF"), "{refusal:?}");
        assert!(flushes(&house) <= before + 1, "one edit was on its way");
        // The edit may have come before the first of them.
        let (key, first) = acked
            .checked_sub(1)
            .map_or((0, "x".to_owned()), |last| (last % 512, last.to_string()[..1].to_owned()));
        let newest = house.ask(&mut talk, &["GETRANGE", &format!("key{key}"), "0", "0"]);
        assert_eq!(newest, Value::bulk(&first));

        house.node.set_plan(None);
        house.run_ms(3_000);

        assert!(flushes(&house) > before, "the flush that could not end has ended");
        writes_go_on(house, talk);
    }
}

/// The power goes while the manifest can not be written: nothing acknowledged is lost.
#[test]
fn a_power_cut_while_the_manifest_heals_loses_nothing() {
    for (seed, failure) in (0..10).zip([Failure::NoSpace, Failure::Eio].into_iter().cycle()) {
        let mut house = House::new(seed, Shape { shards: 1, log_len_max: 2 << 20, ..shape() });
        let mut talk = house.connect();
        set_some(&house, &mut talk, 0..512, &"x".repeat(4_000));
        house.node.set_plan(Some(Plan::Files(".manifest", failure)));
        let (acked, _) = set_until_refused(&house, &mut talk);
        // In the middle of a try, or just when one succeeds.
        if seed % 3 != 0 {
            house.node.set_plan(None);
        }
        house.sim.run_for(Duration::from_micros(seed * 130_000));

        house.node.power_cut();
        house.node.set_plan(None);
        house.boot().expect("the log and the manifest are whole");

        let mut talk = house.connect();
        for at in acked.saturating_sub(512)..acked {
            let (key, want) = (format!("key{}", at % 512), format!("{at}-"));
            let end = (want.len() - 1).to_string();
            assert_eq!(house.ask(&mut talk, &["GETRANGE", &key, "0", &end]), Value::bulk(&want));
        }
        assert_eq!(house.ask(&mut talk, &["DBSIZE"]), Value::Int(512));
    }
}

/// Neither flushes nor new segments find room: writes are refused, reads go on, and when there is
/// room again so do writes, without a restart.
#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let house = House::new(6, Shape { shards: 1, log_len_max: 2 << 20, ..shape() });
    let mut talk = house.connect();
    set_some(&house, &mut talk, 0..512, &"x".repeat(4_000));
    // What is under way takes room, too.
    house.run_ms(2_000);
    house.node.set_capacity(disk_len(&house) + (100 << 10));

    let (acked, refusal) = set_until_refused(&house, &mut talk);

    assert!(refusal.is_error("MISCONF"), "{refusal:?}");
    assert!(acked > 0);
    let last = acked - 1;
    let prefix = format!("{last}-");
    let newest =
        ["GETRANGE", &format!("key{}", last % 512), "0", &last.to_string().len().to_string()];
    assert_eq!(house.ask(&mut talk, &newest), Value::bulk(&prefix));

    house.node.set_capacity(u64::MAX);
    house.run_ms(10_000);

    writes_go_on(house, talk);
}
