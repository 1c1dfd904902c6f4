//! What a process has used so far, as the kernel counts it: CPU, bytes to and from the disk,
//! memory.
//!
//! One road for all engines, whether they run in this process or in a child. CPU time comes in
//! ticks of 10 ms: measure seconds. Bytes written count when a page becomes dirty or a direct write
//! is made, less what was thrown away before it was written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

/// Ticks of a second in `/proc/PID/stat`; fixed on Linux.
const TICKS: f64 = 100.0;

/// The counters of a process at one time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// Seconds, kernel and user, all threads.
    pub cpu_s: f64,
    /// Bytes.
    pub written: u64,
    /// Bytes.
    pub read: u64,
    /// Resident bytes; 0 when the process has ended.
    pub rss: u64,
    /// Seconds that all cores were busy, whoever kept them so.
    pub busy_s: f64,
}

impl Reading {
    /// Of this process.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// Of any process that we may look into; also of one that has ended and is not waited for.
    pub fn of(pid: u32) -> Self {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        // The name of the program, in parentheses, may hold spaces.
        let fields: Vec<_> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        let io = read("io");
        let written = field(&io, "write_bytes:");
        Self {
            at: Instant::now(),
            cpu_s: (ticks(11) + ticks(12)) / TICKS,
            written: written.saturating_sub(field(&io, "cancelled_write_bytes:")),
            read: field(&io, "read_bytes:"),
            rss: field(&read("status"), "VmRSS:") * 1024,
            busy_s: busy(),
        }
    }

    /// Cores that others kept busy from `begin` until now: what was measured then is worth less.
    pub fn others_since(&self, begin: &Self) -> f64 {
        let others = (self.busy_s - begin.busy_s) - (self.cpu_s - begin.cpu_s);
        others.max(0.0) / (self.at - begin.at).as_secs_f64().max(0.01)
    }
}

/// All that `/proc/stat` counts of all cores but idling and waiting for the disk.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let cores = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks = cores.enumerate().filter(|(at, _)| ![3, 4].contains(at) && *at < 8);
    ticks.filter_map(|(_, n)| n.parse::<f64>().ok()).sum::<f64>() / TICKS
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes that a directory takes on the disk, as `du` counts.
pub fn disk_len(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let len = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_len(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(len).sum()
}
