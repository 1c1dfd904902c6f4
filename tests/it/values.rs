//! Values and memory: large ones across a restart, and what happens when there is no more room.

use crate::client::{Reply, encode};
use crate::server::Server;

/// Bytes that tell where they are from.
fn value(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) ^ (at >> 8) ^ seed) as u8).collect()
}

/// Around every bound: inline, large, worked on in slices, more than the log takes at once.
const LENGTHS: [usize; 9] =
    [0, 1, 65_535, 65_536, 524_288, 1 << 20, (1 << 20) + 1, 5 << 20, 20 << 20];

#[test]
fn values_of_every_size_survive_kill_9() {
    for cores in ["1", "2"] {
        let mut server = Server::start(&["--cores", cores]);
        let mut client = server.client();
        for (at, len) in LENGTHS.into_iter().enumerate() {
            let key = format!("value:{at}").into_bytes();
            client.write(&encode(&[b"SET".to_vec(), key, value(at, len)]));
            assert_eq!(client.reply(), Reply::ok(), "{len} bytes on {cores} cores");
        }
        for kills in 0..2 {
            let mut client = server.client();
            for (at, len) in LENGTHS.into_iter().enumerate() {
                let found = client.run(&["GET", &format!("value:{at}")]);
                let right = found == Reply::Bulk(value(at, len));
                assert!(right, "{len} bytes on {cores} cores after {kills} kills");
            }
            server.kill();
            server.restart();
        }
    }
}

#[test]
fn large_values_come_in_order_with_what_is_around_them() {
    let server = Server::start(&["--cores", "2"]);
    let mut client = server.client();
    let mut pipeline = Vec::new();
    for round in 0..20usize {
        let key = format!("key:{round}");
        pipeline.extend(encode(&[b"SET", key.as_bytes(), &value(round, 100_000 * round)]));
        pipeline.extend(encode(&["GET", &key]));
        pipeline.extend(encode(&["INCR", "counter"]));
    }
    let mut writer = client.stream().try_clone().expect("a descriptor is left");
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &pipeline));

    for round in 0..20usize {
        assert_eq!(client.reply(), Reply::ok(), "round {round}");
        assert!(client.reply() == Reply::Bulk(value(round, 100_000 * round)), "round {round}");
        assert_eq!(client.reply(), Reply::Integer(round as i64 + 1));
    }
    writing.join().expect("no panic").expect("the server reads");
}

#[test]
fn when_memory_is_full_writes_are_refused_and_reads_and_deletes_go_on() {
    let server = Server::start(&["--engine", "memory", "--memory", "64MiB"]);
    let mut client = server.client();
    let filler = "x".repeat(100_000);
    let refused =
        (0..2_000).find_map(|n| match client.run(&["SET", &format!("fill:{n}"), &filler]) {
            Reply::Error(text) => Some((n, text)),
            _ => None,
        });

    let (count, text) = refused.expect("200 MB do not fit 64 MiB");
    assert!(text.starts_with("OOM command not allowed"), "{text}");
    assert!(count > 100, "refused after {count} values of 100 KB");
    assert_eq!(client.run(&["GET", "fill:0"]), Reply::bulk(&filler));
    for n in 0..count / 2 {
        assert_eq!(client.run(&["DEL", &format!("fill:{n}")]), Reply::Integer(1));
    }
    let served = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        client.run(&["SET", "again", "1"]) == Reply::ok()
    });
    assert!(served, "no room 5 s after half was deleted");
}

#[test]
fn large_values_leave_memory_for_the_disk_and_come_back_whole() {
    let server = Server::start(&["--memory", "64MiB", "--cores", "1"]);
    let mut client = server.client();
    let value = |n: usize| format!("{n}-{}", "x".repeat(100_000));
    for n in 0..1_500 {
        assert_eq!(client.run(&["SET", &format!("fill:{n}"), &value(n)]), Reply::ok());
    }
    assert!(server.rss_mib() < 150, "{} MiB", server.rss_mib());
    for n in (0..1_500).step_by(7) {
        assert!(client.run(&["GET", &format!("fill:{n}")]) == Reply::bulk(value(n)), "fill:{n}");
    }
}
