//! `stave doctor` on what a real server left: sound as it is, and every kind of damage to every
//! kind of file is told, with the file and the exit code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
use crate::server::{Server, binary, told};

const KEYS: usize = 6_000;
const SECTOR: usize = 4096;

fn doctor(dir: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.arg("doctor").arg("--data-dir").arg(dir).args(flags);
    told(command.output().expect("the binary is built"))
}

/// A data directory with tables, some values of which are large, and a log; its server was killed.
fn scene() -> (Server, PathBuf) {
    let mut server = Server::start(&["--memory", "32MiB", "--wal-size-max", "8MiB"]);
    let mut client = server.client();
    let sets = (0..KEYS).map(|key| {
        let len = if key % 100 == 0 { 40_000 } else { 1_000 };
        encode(&["SET", &format!("key:{key}"), &"v".repeat(len)])
    });
    for some in sets.collect::<Vec<_>>().chunks(200) {
        client.write(&some.concat());
        some.iter().for_each(|_| assert_eq!(client.reply(), Reply::ok()));
    }
    let (code, said) = doctor(&server.dir().join("data"), &[]);
    assert!(code == Some(2) && said.contains("is in use by process"), "{said}");
    let begun = Instant::now();
    while tables(&mut client) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no two tables: {}", server.log());
        sleep(Duration::from_millis(20));
    }
    server.kill();
    let dir = server.dir().join("data").canonicalize().expect("it is there");
    // What was being written when it died is not named yet; the next start removes it, too.
    let (_, said) = doctor(&dir, &[]);
    let left = said.lines().filter_map(|line| line.strip_prefix("note: ")?.split_once(": no edit"));
    left.for_each(|(path, _)| fs::remove_file(path).expect("ours"));
    (server, dir)
}

/// How many tables the server has.
fn tables(client: &mut Client) -> usize {
    let Reply::Bulk(info) = client.run(&["INFO", "stave"]) else { panic!("INFO is text") };
    let info = String::from_utf8(info).expect("text");
    let count = info.lines().find_map(|line| line.strip_prefix("stave_sstables:"));
    count.expect("it is there").trim().parse().expect("a number")
}

/// The files of a directory whose names end so, by size.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("it is there");
    let paths = entries.map(|entry| entry.expect("it is there").path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    paths.sort_by_key(|path| fs::metadata(path).expect("it is there").len());
    paths
}

/// What is told of `dir` while `path` holds `bytes`.
fn with(dir: &Path, path: &Path, bytes: &[u8]) -> (Option<i32>, String) {
    let sound = fs::read(path).expect("it is there");
    fs::write(path, bytes).expect("ours");
    let said = doctor(dir, &[]);
    fs::write(path, sound).expect("ours");
    said
}

/// That the damage is told and its file named.
#[track_caller]
fn assert_told(path: &Path, what: &str, (code, text): (Option<i32>, String)) {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let named = text.lines().any(|line| line.starts_with("finding: ") && line.contains(&name));
    assert!(code == Some(1) && named, "{what} of {name} is not told:\n{text}");
}

/// Bit flips, truncations and zeroed tails; `last`: bytes before this count.
fn damage(dir: &Path, path: &Path, last: usize) {
    let sound = fs::read(path).expect("it is there");
    for at in (0..last).step_by(last / 12).chain([last - 1]) {
        let mut wrong = sound.clone();
        wrong[at] ^= 1 << (at % 8);
        assert_told(path, &format!("bit {} of byte {at}", at % 8), with(dir, path, &wrong));
    }
    let mut zeroed = sound.clone();
    zeroed[last / 2..].fill(0);
    assert_told(path, "a zeroed tail", with(dir, path, &zeroed));
    let cut = last / 2 / SECTOR * SECTOR;
    assert_told(path, "a truncation", with(dir, path, &sound[..cut]));
    assert_told(path, "nothing left", with(dir, path, &[]));
}

#[test]
fn every_damage_to_what_a_server_left_is_told() {
    let (server, dir) = scene();
    let (code, text) = doctor(&dir, &[]);
    assert_eq!(code, Some(0), "{text}\n{}", server.log());
    let (tree, wal) = (dir.join("shard-00/tree"), dir.join("shard-00/wal"));
    let tables = files(&tree, ".sst");
    let [.., other, table] = &tables[..] else { panic!("two tables: {text}") };

    damage(&dir, table, fs::metadata(table).expect("there").len() as usize);
    let manifest = &files(&tree, ".manifest")[0];
    // What stands in its last record may be of an edit cut short.
    let before = fs::metadata(manifest).expect("there").len() as usize - SECTOR;
    if before > SECTOR {
        let mut wrong = fs::read(manifest).expect("there");
        wrong[before / 2] ^= 1;
        assert_told(manifest, "a flip", with(&dir, manifest, &wrong));
    }
    assert_told(manifest, "nothing left", with(&dir, manifest, &[]));
    let segments = files(&wal, ".wal");
    let (_, log) = Command::new(binary())
        .args(["inspect", "wal"])
        .arg(&dir)
        .output()
        .map(told)
        .expect("the binary is built");
    let end = log.lines().find_map(|line| line.strip_prefix("end of the log at ")).expect("an end");
    let (end, name) = end.split_once(" of ").expect("a place");
    let newest = segments.iter().find(|path| path.ends_with(name)).expect("it is there");
    // The last blocks prove that what is before them was durable, and nothing proves them.
    let proven = end.parse::<usize>().expect("a number") / 2;
    let mut wrong = fs::read(newest).expect("there");
    wrong[proven] ^= 1;
    assert_told(newest, "a flip", with(&dir, newest, &wrong));

    let bytes = fs::read(other).expect("there");
    assert_told(table, "another table", with(&dir, table, &bytes));
    let hidden = dir.join("hidden");
    fs::rename(table, &hidden).expect("ours");
    let (code, text) = doctor(&dir, &["--json"]);
    fs::rename(&hidden, table).expect("ours");
    let name = table.file_name().expect("a name").to_string_lossy();
    let told = text.contains(&*name) && text.contains("\"partition\":");
    assert!(code == Some(1) && told, "{text}");

    let (code, text) = doctor(&dir, &[]);
    assert_eq!(code, Some(0), "what was put back is sound: {text}");
}

#[test]
fn a_file_of_another_directory_a_double_and_a_leftover_are_told() {
    let (_one, dir) = scene();
    let (_two, foreign) = scene();
    let of = |dir: &Path, kind: &str, end: &str| {
        files(&dir.join("shard-00").join(kind), end).pop().expect("one at least")
    };

    for (kind, end) in [("tree", ".sst"), ("tree", ".manifest"), ("wal", ".wal")] {
        let bytes = fs::read(of(&foreign, kind, end)).expect("there");
        let path = of(&dir, kind, end);
        assert_told(&path, "a file of another directory", with(&dir, &path, &bytes));
    }
    let table = of(&dir, "tree", ".sst");
    let double = table.with_file_name("00000000000000099999.sst");
    fs::copy(&table, &double).expect("ours");
    let (code, text) = doctor(&dir, &[]);
    assert_eq!(code, Some(0), "the next start removes it: {text}");
    assert!(text.contains("note: ") && text.contains("99999.sst: no edit"), "{text}");
    fs::write(table.with_file_name("thesis.txt"), "x").expect("ours");
    assert_told(&table.with_file_name("thesis.txt"), "a stranger", doctor(&dir, &[]));
}
