//! `--compression`: tables take less of the disk, and are read whatever the next start asks for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Reply, encode};
use crate::server::{Server, binary, told};

const KEYS: usize = 30_000;
const FLAGS: [&str; 4] = ["--memory", "32MiB", "--wal-size-max", "8MiB"];

/// What a record of an application looks like: words that come again, and what differs.
fn value(key: usize, round: usize) -> String {
    let mixed = (key as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ round as u64);
    format!(
        "{{\"id\":{key},\"session\":\"{mixed:016x}\",\"plan\":\"team\",\"active\":true,\
         \"email\":\"someone.{key}@example.com\",\"created\":\"2026-01-{:02}T10:00:00Z\",\
         \"tags\":[\"customer\",\"newsletter\"],\"score\":{}}}",
        key % 28 + 1,
        mixed >> 44
    )
}

fn write(client: &mut Client, round: usize) {
    let sets = (0..KEYS).map(|key| encode(&["SET", &format!("key:{key:06}"), &value(key, round)]));
    for some in sets.collect::<Vec<_>>().chunks(500) {
        client.write(&some.concat());
        some.iter().for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    }
}

fn check(client: &mut Client, round: usize) {
    let gets = (0..KEYS).map(|key| encode(&["GET", &format!("key:{key:06}")]));
    for (at, some) in gets.collect::<Vec<_>>().chunks(500).enumerate() {
        client.write(&some.concat());
        for key in at * 500..at * 500 + some.len() {
            assert_eq!(client.reply(), Reply::bulk(value(key, round)), "key {key}");
        }
    }
}

fn figure(client: &mut Client, name: &str) -> u64 {
    let Reply::Bulk(info) = client.run(&["INFO", "stave"]) else { panic!("INFO is text") };
    let info = String::from_utf8(info).expect("text");
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name}")).trim().parse().expect("a number")
}

/// Writes until something was compacted, and then until nothing is any more.
fn write_until_compacted(server: &Server) -> usize {
    let (mut client, begun) = (server.client(), Instant::now());
    for round in 0.. {
        write(&mut client, round);
        if figure(&mut client, "stave_compactions") > 1 {
            return round;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no compaction: {}", server.log());
        sleep(Duration::from_millis(50));
    }
    unreachable!("a round is the last")
}

/// Bytes of tables and of the keys and values in them, by how they are stored.
fn tables(dir: &Path) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir.join("data/shard-00/tree")).expect("it is there") {
        let path = entry.expect("it is there").path();
        if path.extension().is_none_or(|end| end != "sst") {
            continue;
        }
        let mut command = Command::new(binary());
        command.args(["inspect", "sstable", "--json"]).arg(&path);
        let (code, said) = told(command.output().expect("the binary is built"));
        // What was being written when it ended; the next start removes it.
        if said.contains("no valid footer") {
            continue;
        }
        assert_eq!(code, Some(0), "{said}");
        let lines = said.lines().take(2).map(|line| serde_json::from_str(line).expect("JSON"));
        let [table, rows]: [Value; 2] = lines.collect::<Vec<_>>().try_into().expect("two lines");
        let number = |line: &Value, name: &str| line[name].as_u64().expect("a number");
        let way = table["compression"].as_str().expect("a name").to_owned();
        let (stored, raw) = found.entry(way).or_default();
        *stored += number(&table, "bytes");
        *raw += number(&rows, "key_bytes") + number(&rows, "value_bytes");
    }
    found
}

#[test]
fn tables_are_shorter_and_read_by_every_later_start() {
    let mut shares = BTreeMap::new();
    for (asked, next) in [("none", "zstd"), ("lz4", "none"), ("zstd", "lz4")] {
        let mut server = Server::start(&[&FLAGS[..], &["--compression", asked]].concat());
        let round = write_until_compacted(&server);
        check(&mut server.client(), round);
        server.terminate();
        assert_eq!(server.end(), Some(0), "{}", server.log());
        let found = tables(server.dir());
        let wanted: &[&str] = if asked == "zstd" { &["lz4", "zstd"] } else { &[asked] };
        assert!(found.keys().all(|way| wanted.contains(&way.as_str())), "{asked}: {found:?}");
        let (stored, raw) = found.get(asked).unwrap_or_else(|| panic!("{asked}: {found:?}"));
        shares.insert(asked, *stored as f64 / *raw as f64);

        server.restart_with(&[&FLAGS[..], &["--compression", next]].concat());
        check(&mut server.client(), round);
    }
    println!("{shares:?}");
    assert!(shares["none"] > 1.0, "{shares:?}");
    assert!(shares["lz4"] < 0.7, "{shares:?}");
    assert!(shares["zstd"] < shares["lz4"] * 0.9, "{shares:?}");
}
