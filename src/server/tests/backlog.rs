//! Scenes of a log that is behind: who writes waits for it, and who reads does not.

use std::time::Duration;

use super::house::{House, Shape};
use super::talk::{Talk, Value};
use crate::ack::Ack;
use crate::sim::DiskLatency;

/// Of a value; shorter than those that are logged in pieces.
const VALUE_LEN: usize = 900_000;
/// Of each writer; of all together much more than may be under way.
const VALUES: usize = 7;
const WRITERS: usize = 3;
/// One write of the disk.
const SLOW: Duration = Duration::from_secs(2);

fn slow_down(house: &House) {
    let write_ns = SLOW.as_nanos() as u64;
    let (write_ns, other_ns) = (write_ns..=write_ns, 1_000..=9_000);
    let latency =
        DiskLatency { read_ns: other_ns.clone(), write_ns, sync_ns: other_ns, held_up_ns: 0 };
    house.node.set_latency(latency);
}

fn slowed(house: &House) -> u64 {
    house.stats.iter().map(|stats| stats.writes_slowed.get()).sum()
}

/// How long a command takes that is alone on its connection.
fn time(house: &House, talk: &mut Talk, args: &[&str]) -> Duration {
    let began = house.sim.now();
    house.ask(talk, args);
    house.sim.now() - began
}

#[test]
fn reads_go_on_while_the_log_is_behind_and_writes_wait_in_order() {
    for (seed, shards, ack) in [(1, 1, Ack::Quorum), (2, 2, Ack::Relaxed)] {
        let segment_len = 64 << 20;
        let house = House::new(seed, Shape { shards, ack, segment_len, ..Shape::default() });
        let [mut reader, mut other] = [(); 2].map(|()| house.connect_to(0));
        let resident = ["SET", "resident", "1"];
        assert_eq!(house.ask(&mut reader, &resident), Value::ok());
        house.run_ms(1_000);
        slow_down(&house);
        let mut writers: Vec<Talk> = (0..WRITERS).map(|_| house.connect_to(0)).collect();
        for at in 0..VALUES {
            for (writer, talk) in writers.iter().enumerate() {
                let text = format!("{at}{}", "v".repeat(VALUE_LEN));
                talk.send(&["SET", &format!("{{resident}}{writer}"), &text]);
                talk.send(&["APPEND", &format!("{{resident}}{writer}"), "."]);
            }
        }
        while slowed(&house) == 0 {
            assert!(house.sim.now() < 60 * SLOW, "nobody had to wait");
            house.run_ms(1);
        }

        // Most of the time they are, until the last value is in the log.
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            longest = longest.max(time(&house, &mut reader, &["GET", "resident"]));
            house.run_ms(7);
        }
        let deleted = time(&house, &mut other, &["DEL", "resident"]);

        assert!(longest < Duration::from_millis(50), "a read waited {longest:?}, seed {seed}");
        assert!(deleted > SLOW / 8, "a delete did not wait: {deleted:?}, seed {seed}");
        for (writer, talk) in writers.iter_mut().enumerate() {
            let replies = house.replies(talk, 2 * VALUES);
            let want = [Value::ok(), Value::Int(VALUE_LEN as i64 + 2)];
            let want: Vec<_> = want.iter().cycle().take(2 * VALUES).cloned().collect();
            assert_eq!(replies, want, "writer {writer}, seed {seed}");
        }
        assert_eq!(house.ask(&mut reader, &["GET", "resident"]), Value::Nil);
    }
}
