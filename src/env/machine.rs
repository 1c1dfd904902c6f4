//! What this process may use: cores and memory, as its cgroup or else its machine has them.
//!
//! A container that is allowed 512 MiB sees the 64 GiB of its host in `/proc/meminfo`, so the
//! cgroup is asked first: each level from the process's own group up to the root may hold a limit,
//! and the lowest one rules. Both versions of the interface are read, since version 1 is still met
//! on older hosts. A file that is missing or says "max" is no limit.

use std::fs;
use std::path::{Path, PathBuf};

/// The cores and the memory there are to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores, at least one: the affinity mask or the cgroup's CPU quota, whichever is less.
    pub cores: u16,
    /// Bytes of memory.
    pub memory: u64,
    /// True if a cgroup sets [`Machine::memory`], false if it is all that the machine has.
    pub memory_of_cgroup: bool,
}

impl Machine {
    /// Asks the kernel. Where it says nothing of memory, 1 GiB is assumed.
    pub fn detect() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let total = read(Path::new("/proc/meminfo")).and_then(|text| mem_total(&text));
        let total = total.unwrap_or(1 << 30);
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let limit = limit_files(&groups)
            .iter()
            .filter_map(|path| read(path)?.trim().parse::<u64>().ok())
            .min()
            .filter(|limit| *limit < total);
        Self {
            cores: u16::try_from(cores).unwrap_or(u16::MAX),
            memory: limit.unwrap_or(total),
            memory_of_cgroup: limit.is_some(),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Bytes, from the text of `/proc/meminfo`.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// The files that may hold a limit, from the text of `/proc/self/cgroup`.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // Inside a container the path may be the host's, of which only the root is visible.
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|level| Path::new(root).join(level).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_both_cgroup_versions_is_asked() {
        let files = limit_files("9:name=systemd:/\n4:cpu,memory:/a\n0::/b/c\n");

        let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            files,
            [
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/b/c/memory.max",
                "/sys/fs/cgroup/b/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }

    #[test]
    fn meminfo_counts_in_kibibytes() {
        assert_eq!(mem_total("MemTotal:       24595992 kB\nMemFree: 1 kB\n"), Some(25_186_295_808));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let machine = Machine::detect();

        assert!(machine.cores >= 1 && machine.memory > 1 << 20, "{machine:?}");
    }
}
