//! A real file system that is full: writes are refused with one error, reads, deletes and starts go
//! on, and writes resume by themselves; nothing acknowledged is lost.
//!
//! The file system is a tmpfs in a mount namespace of its own, reached through its process; it goes
//! with that. `STAVE_FULL_DIR` names another of 160 MiB, empty, to be used in its place, and
//! `STAVE_FULL_CYCLES` says how often the test fills it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, encode};
use crate::server::{Server, dies_with_us, has, skipped};

const DISK_MIB: u64 = 160;
const FLAGS: [&str; 4] = ["--wal-segment-size", "8MiB", "--wal-size-max", "32MiB"];
const VALUE_LEN: usize = 4_000;
const PIPELINE: usize = 100;
/// How long writes may take to resume.
const RESUME_MAX: Duration = Duration::from_secs(10);

/// How long a full disk may take to be seen as full, with what is being written.
const FULL_MAX: Duration = Duration::from_secs(30);

/// A small file system.
struct SmallDisk {
    path: PathBuf,
    /// Whose namespace it is in, and where; none: it was there before.
    holder: Option<(Child, PathBuf)>,
}

impl SmallDisk {
    /// None, and it is said: it can not be had here.
    fn mount() -> Option<Self> {
        if let Some(path) = std::env::var_os("STAVE_FULL_DIR") {
            return Some(Self { path: path.into(), holder: None });
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.join(format!("it-small-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the target directory takes files");
        let mount = format!(
            "mount -t tmpfs -o size={DISK_MIB}m stave '{}' && echo mounted && exec cat",
            dir.display()
        );
        let as_root: &[&str] = &["--mount"];
        for flags in [as_root, &["--mount", "--map-root-user"]] {
            let mut command = dies_with_us("unshare");
            command.args(flags).args(["sh", "-c", &mount]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut holder = command.spawn().expect("it is installed");
            let mut line = String::new();
            let stdout = holder.stdout.as_mut().expect("piped");
            let read = BufReader::new(stdout).read_line(&mut line);
            if read.is_ok() && line == "mounted\n" {
                let root = Path::new("/proc").join(holder.id().to_string()).join("root");
                let path = root.join(dir.strip_prefix("/").expect("it is absolute"));
                return Some(Self { path, holder: Some((holder, dir)) });
            }
            let _ = holder.wait();
        }
        skipped("no small file system can be mounted here");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes `mib` MiB of the file system, or all that is left.
    fn take(&self, mib: Option<usize>) {
        let file = File::options().create(true).append(true).open(self.ballast());
        let mut file = file.expect("a name has room");
        let mut piece = vec![1; 1 << 20];
        let mut left = mib.unwrap_or(usize::MAX);
        while left > 0 && !piece.is_empty() {
            match file.write_all(&piece) {
                Ok(()) => left -= 1,
                // The last bytes too.
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    piece.truncate(piece.len() / 2);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn give_back(&self) {
        fs::remove_file(self.ballast()).expect("it was taken");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let Some((holder, dir)) = &mut self.holder else { return };
        let _ = holder.kill();
        let _ = holder.wait();
        let _ = fs::remove_dir(dir);
    }
}

/// A server on it, and what is acknowledged.
struct Scene {
    disk: SmallDisk,
    server: Server,
    client: Client,
    /// The version of each key that is there; none: it was deleted.
    keys: BTreeMap<usize, Option<usize>>,
    next: usize,
}

fn name(key: usize) -> String {
    format!("key:{key}")
}

fn value(key: usize, version: usize) -> String {
    format!("{key}-{version}-{}", "v".repeat(VALUE_LEN))
}

impl Scene {
    fn begin() -> Option<Self> {
        let has_all = ["unshare", "mount", "setpriv"].map(has).iter().all(|has| *has);
        let disk = has_all.then(SmallDisk::mount)??;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.join(format!("it-full-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the target directory takes files");
        let data = disk.path.join("data");
        fs::create_dir_all(&data).expect("it is empty");
        std::os::unix::fs::symlink(data, dir.join("data")).expect("it is new");
        let server = Server::start_in(dir, &FLAGS);
        let client = server.client();
        Some(Self { disk, server, client, keys: BTreeMap::new(), next: 0 })
    }

    /// Sets keys until the disk refuses; the error.
    fn fill(&mut self, version: usize) -> String {
        loop {
            let keys = self.next..self.next + PIPELINE;
            let set = |key: usize| encode(&["SET", &name(key), &value(key, version)]);
            self.client.write(&keys.clone().flat_map(set).collect::<Vec<_>>());
            let replies: Vec<Reply> = keys.clone().map(|_| self.client.reply()).collect();
            let mut refusal = None;
            for (key, reply) in keys.zip(replies) {
                match reply {
                    Reply::Error(error) => refusal = Some(error),
                    reply => {
                        assert_eq!(reply, Reply::ok());
                        self.keys.insert(key, Some(version));
                        self.next = key + 1;
                    }
                }
            }
            if let Some(refusal) = refusal {
                return refusal;
            }
            assert!(self.next < 1_000_000, "a small disk takes all");
        }
    }

    /// Every key is as acknowledged.
    fn check(&mut self) {
        let all: Vec<_> = self.keys.iter().map(|(key, version)| (*key, *version)).collect();
        for some in all.chunks(PIPELINE) {
            let get = |(key, _): &(usize, _)| encode(&["GET", &name(*key)]);
            self.client.write(&some.iter().flat_map(get).collect::<Vec<_>>());
            for (key, version) in some {
                let expected = version
                    .map_or(Reply::Null, |version| Reply::Bulk(value(*key, version).into_bytes()));
                assert_eq!(self.client.reply(), expected, "key {key}");
            }
        }
    }

    /// Deletes all of the keys but each `spared`th, many with one command.
    fn delete(&mut self, spared: usize) -> usize {
        let live = self.keys.iter().filter(|(_, version)| version.is_some());
        let doomed = live.map(|(key, _)| *key).filter(|key| key % spared != 0);
        let doomed: Vec<usize> = doomed.collect();
        for some in doomed.chunks(PIPELINE) {
            let names: Vec<String> = some.iter().map(|key| name(*key)).collect();
            let mut args = vec!["DEL"];
            args.extend(names.iter().map(String::as_str));
            assert_eq!(self.client.run(&args), Reply::Integer(some.len() as i64));
            self.keys.extend(some.iter().map(|key| (*key, None)));
        }
        doomed.len()
    }

    fn kill_and_start(&mut self) {
        self.server.kill();
        self.disk.take(None);
        self.server.restart();
        self.client = self.server.client();
    }

    /// Until a write is taken again.
    fn resume(&mut self, version: usize) -> Duration {
        let begin = Instant::now();
        loop {
            match self.client.run(&["SET", &name(self.next), &value(self.next, version)]) {
                Reply::Error(error) => {
                    assert!(begin.elapsed() < RESUME_MAX, "there is room, and yet: {error}");
                    sleep(Duration::from_millis(20));
                }
                reply => {
                    assert_eq!(reply, Reply::ok());
                    self.keys.insert(self.next, Some(version));
                    self.next += 1;
                    return begin.elapsed();
                }
            }
        }
    }

    /// How many cores say that their disk is full.
    fn full_disks(&mut self) -> String {
        let Reply::Bulk(info) = self.client.run(&["INFO", "stave"]) else { panic!("INFO is text") };
        let info = String::from_utf8(info).expect("text");
        let line = info.lines().find_map(|line| line.strip_prefix("stave_full_disks:"));
        line.expect("it is there").trim().to_owned()
    }

    /// It is full, and room comes from outside.
    fn cycle_from_outside(&mut self, cycle: usize) -> Duration {
        self.disk.take(Some(DISK_MIB as usize / 4));
        let begin = Instant::now();
        let refusal = loop {
            let refusal = self.fill(cycle);
            assert_is_refusal(&refusal);
            self.disk.take(None);
            self.check();
            sleep(Duration::from_millis(300));
            // A flush that was under way may have given back what is enough for more.
            if self.full_disks() == "1" {
                break refusal;
            }
            assert!(begin.elapsed() < FULL_MAX, "the disk has no room left, and it is not full");
        };
        assert!(self.delete(5) > 1000, "many");
        for _ in 0..2 {
            self.kill_and_start();
            self.check();
            let spared = 6 + cycle % 5;
            self.delete(spared);
            let set = self.client.run(&["SET", "refused", "v"]);
            assert!(matches!(&set, Reply::Error(error) if *error == refusal), "{set:?}");
        }
        self.disk.give_back();
        self.resume(cycle)
    }

    /// It is full, and deletes alone make room.
    fn cycle_by_deletes(&mut self, cycle: usize) -> Duration {
        let refusal = self.fill(cycle);
        assert_is_refusal(&refusal);
        self.check();
        self.delete(7);
        self.resume(cycle)
    }
}

fn assert_is_refusal(error: &str) {
    let cure = "free space on it or delete keys";
    assert!(error.starts_with("MISCONF the disk is full") && error.contains(cure), "{error}");
}

#[test]
fn a_full_disk_is_a_state_that_passes() {
    let Some(mut scene) = Scene::begin() else { return };
    let cycles = std::env::var("STAVE_FULL_CYCLES").ok().and_then(|text| text.parse().ok());
    let (mut slowest, mut acked) = (Duration::ZERO, 0);
    for cycle in 0..cycles.unwrap_or(2) {
        let from_outside = cycle % 2 == 0;
        let (before, took) = (
            scene.next,
            match from_outside {
                true => scene.cycle_from_outside(cycle),
                false => scene.cycle_by_deletes(cycle),
            },
        );
        scene.check();
        acked += scene.next - before;
        slowest = slowest.max(took);
        println!(
            "cycle {cycle}: {} writes acked, writes resumed after {} ms, room came {}",
            scene.next - before,
            took.as_millis(),
            if from_outside { "from outside" } else { "by deletes" }
        );
        // The next one begins with an empty disk, but for what each seventh key needs. Of what was
        // deleted a part is looked at again.
        scene.delete(7);
        scene.keys.retain(|key, version| version.is_some() || key % 50 == 1);
    }
    scene.server.kill();
    scene.server.restart();
    scene.client = scene.server.client();
    scene.check();
    println!("{acked} writes acked, slowest resumption {} ms, none lost", slowest.as_millis());
}
