//! The table of settings: name, help, how a value is read and shown.

use std::path::{Path, PathBuf};

use super::text::{is_log_level, parse_duration, parse_size, quote, show_duration, show_size};
use super::{CORES_MAX, Config, Engine, LogFormat, PARTITIONS_PER_CORE_MAX, Runtime, Secret};
use crate::ack::Ack;
use crate::cluster::check_replicas;
use crate::command::notify::Classes;
use crate::command::slowlog;
use crate::eviction::Eviction;
use crate::limits::SECTOR_LEN;
use crate::lsm::table::Compression;

/// A setting.
pub struct Key {
    /// In the file; with two dashes, the flag.
    pub name: &'static str,
    /// Stands for the value in the help; empty for a switch (`true` or `false`).
    pub value_name: &'static str,
    /// One or two lines for `--help`.
    pub help: &'static str,
    /// True if the value is shown to nobody.
    pub secret: bool,
    /// Reads a value; an error says what is expected.
    set: fn(&mut Config, &str) -> Result<(), &'static str>,
    /// The value in TOML, if there is one.
    show: fn(&Config) -> Option<String>,
}

impl Key {
    /// The environment variable: `STAVE_RESP_PORT` for `resp-port`.
    pub fn variable(&self) -> String {
        format!("STAVE_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    pub(super) fn set(&self, config: &mut Config, value: &str) -> Result<(), &'static str> {
        (self.set)(config, value)
    }

    pub(super) fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }
}

const PORT: &str = "a port, 0 to 65535 (0: any free one)";
const ADDRESSES: &str = "HOST:PORT, separated by commas";
const SEEDS: &str = "HOST:PORT, or a service's name such as _stave._tcp.example.com, separated by \
                     commas";
const SWITCH: &str = "true or false";

/// Every setting there is, in the order of the help.
pub static KEYS: [Key; 36] = [
    Key {
        name: "data-dir",
        value_name: "DIR",
        help: "Where everything is kept; created if it is not there [default: stave-data]",
        secret: false,
        set: |config, value| put(&mut config.data_dir, path(value), "a directory's name"),
        show: |config| Some(show_path(&config.data_dir)),
    },
    Key {
        name: "cores",
        value_name: "N",
        help: "Cores to use, one thread each. Fixed at the birth of a data directory \
               [default: the data directory's, for a new one the cgroup's or machine's]",
        secret: false,
        set: |config, value| {
            let cores = value.parse().ok().filter(|n| (1..=CORES_MAX).contains(n));
            put(&mut config.cores, cores, "a number of cores, 1 to 1024")
        },
        show: |config| Some(config.cores.to_string()),
    },
    Key {
        name: "partitions-per-core",
        value_name: "N",
        help: "Parts, 1 to 64, that each core's share of the keys is cut into, each with a log and \
               a leader of its own: fewer are faster, more spread better over many nodes. Fixed at \
               the birth of a cluster [default: the cluster's, for a new one 6]",
        secret: false,
        set: |config, value| {
            let each = value.parse().ok().filter(|n| (1..=PARTITIONS_PER_CORE_MAX).contains(n));
            put(&mut config.partitions_per_core, each, "a number of partitions, 1 to 64")
        },
        show: |config| Some(config.partitions_per_core.to_string()),
    },
    Key {
        name: "memory",
        value_name: "SIZE",
        help: "Memory for everything, such as 512MiB or 4g; powers of 1024 [default: a quarter of \
               the cgroup's or machine's]",
        secret: false,
        set: |config, value| put(&mut config.memory, parse_size(value), "a size such as 512MiB"),
        show: |config| Some(show_bytes(config.memory)),
    },
    Key {
        name: "bind",
        value_name: "ADDR",
        help: "IP address to listen on [default: 127.0.0.1]. One that the network reaches needs \
               requirepass",
        secret: false,
        set: |config, value| put(&mut config.bind, value.parse().ok(), "an IP address"),
        show: |config| Some(quote(&config.bind.to_string())),
    },
    Key {
        name: "engine",
        value_name: "ENGINE",
        help: "Where keys and values live: lsm (on disk, those in use in memory, too) or memory \
               (all of them; when it is full, see maxmemory-policy)",
        secret: false,
        set: |config, value| {
            let engine = match value {
                "lsm" => Some(Engine::Lsm),
                "memory" => Some(Engine::Memory),
                _ => None,
            };
            put(&mut config.engine, engine, "lsm or memory")
        },
        show: |config| match config.engine {
            Engine::Lsm => Some(quote("lsm")),
            Engine::Memory => Some(quote("memory")),
        },
    },
    Key {
        name: "maxmemory-policy",
        value_name: "POLICY",
        help: "Which keys are deleted when memory is full, with engine memory, instead of refusing \
               writes: noeviction, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, \
               volatile-lfu, volatile-random or volatile-ttl (volatile: of those with a deadline)",
        secret: false,
        set: |config, value| {
            let known = "noeviction, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, \
                         volatile-lfu, volatile-random or volatile-ttl";
            put(&mut config.maxmemory_policy, Eviction::named(value.as_bytes()), known)
        },
        show: |config| Some(quote(config.maxmemory_policy.name())),
    },
    Key {
        name: "runtime",
        value_name: "RUNTIME",
        help: "What drives disk and sockets: io_uring, or glommio where it was built in",
        secret: false,
        set: |config, value| {
            let runtime = match value {
                "io_uring" => Some(Runtime::IoUring),
                "glommio" if cfg!(feature = "glommio") => Some(Runtime::Glommio),
                _ => None,
            };
            let known = "io_uring, or glommio in a build with `--features glommio`";
            put(&mut config.runtime, runtime, known)
        },
        show: |config| {
            Some(quote(match config.runtime {
                Runtime::IoUring => "io_uring",
                Runtime::Glommio => "glommio",
            }))
        },
    },
    Key {
        name: "ack",
        value_name: "WHEN",
        help: "When a client is answered that does not say so itself: when what it is told is on \
               the disks of a majority (quorum; one node: on its disk), on the leader's disk \
               (leader; lost with it, or when another leads before the followers have it), or \
               applied (relaxed; written behind, so that a crash may lose the last moments) \
               [default: quorum]",
        secret: false,
        set: |config, value| {
            put(&mut config.ack, Ack::named(value.as_bytes()), "quorum, leader or relaxed")
        },
        show: |config| Some(quote(config.ack.name())),
    },
    Key {
        name: "cluster-mode",
        value_name: "",
        help: "Be a Redis cluster to clients: each core is a node of it, and a key of another \
               core is answered with MOVED",
        secret: false,
        set: |config, value| put(&mut config.cluster_mode, switch(value), SWITCH),
        show: |config| Some(config.cluster_mode.to_string()),
    },
    Key {
        name: "resp-port",
        value_name: "PORT",
        help: "Port for Redis clients, shared by all cores; 0: any free one [default: 6379]",
        secret: false,
        set: |config, value| put(&mut config.resp_port, value.parse().ok(), PORT),
        show: |config| Some(config.resp_port.to_string()),
    },
    Key {
        name: "binary-port",
        value_name: "PORT",
        help: "Port for clients of the binary protocol, shared by all cores; 0: any free one \
               [default: 7400]",
        secret: false,
        set: |config, value| put(&mut config.binary_port, value.parse().ok(), PORT),
        show: |config| Some(config.binary_port.to_string()),
    },
    Key {
        name: "shard-port-base",
        value_name: "PORT",
        help: "Core n is also reached alone on this port + n; 0: any free ones [default: 7500]",
        secret: false,
        set: |config, value| put(&mut config.shard_port_base, value.parse().ok(), PORT),
        show: |config| Some(config.shard_port_base.to_string()),
    },
    Key {
        name: "initial-cluster",
        value_name: "HOST:PORT,...",
        help: "The nodes that are one cluster, by where their peers listen (core n: port + n); the \
               same list, in the same order, on all of them [default: none, one node alone]",
        secret: false,
        set: |config, value| put(&mut config.initial_cluster, addresses(value), ADDRESSES),
        show: |config| show_addresses(&config.initial_cluster),
    },
    Key {
        name: "replication-factor",
        value_name: "N",
        help: "How many nodes have a copy of each key, in a cluster that this start founds: 1, 3, \
               5 or 7; later `stave cluster replicas N` changes it [default: 3]",
        secret: false,
        set: |config, value| {
            let count = value.parse().ok().filter(|count| check_replicas(*count).is_ok());
            put(&mut config.replication_factor, count, "1, 3, 5 or 7")
        },
        show: |config| Some(config.replication_factor.to_string()),
    },
    Key {
        name: "replace-dead-after",
        value_name: "TIME",
        help: "How long a node of a cluster may be silent before others have its copies, if enough \
               are there; the same on all nodes; 0: for ever [default: 10m]",
        secret: false,
        set: |config, value| {
            put(&mut config.replace_dead_after, parse_duration(value), "a time, such as 10m or 0")
        },
        show: |config| Some(quote(&show_duration(config.replace_dead_after))),
    },
    Key {
        name: "read-staleness-max",
        value_name: "TIME",
        help: "How old the answer of a node may be that does not lead the key's partition, to a \
               connection that said READONLY; what is older is asked of the leader. 0: all is \
               [default: 5s]",
        secret: false,
        set: |config, value| {
            put(&mut config.read_staleness_max, parse_duration(value), "a time, such as 5s or 0")
        },
        show: |config| Some(quote(&show_duration(config.read_staleness_max))),
    },
    Key {
        name: "join",
        value_name: "HOST:PORT,...",
        help: "Become a node of the cluster of which these are nodes, by where their peers listen; \
               of one that has joined: find them again. A name may stand for several: all its \
               addresses are tried, and the SRV records of a service, such as \
               _stave._tcp.example.com [default: none]",
        secret: false,
        set: |config, value| put(&mut config.join, seeds(value), SEEDS),
        show: |config| show_addresses(&config.join),
    },
    Key {
        name: "peer-port",
        value_name: "PORT",
        help: "Where other nodes reach this one (core n: port + n), so that they can join it; 0: \
               nowhere [default: 0; with join 7401]",
        secret: false,
        set: |config, value| put(&mut config.peer_port, value.parse().ok(), "a port, 0 to 65535"),
        show: |config| (config.peer_port != 0).then(|| config.peer_port.to_string()),
    },
    Key {
        name: "advertise-host",
        value_name: "HOST",
        help: "The name or IP address at which other nodes reach this one [default: bind]",
        secret: false,
        set: |config, value| {
            let host = (!value.is_empty()).then(|| value.to_owned());
            put(&mut config.advertise_host, host, "a name or an IP address")
        },
        show: |config| {
            let host = &config.advertise_host;
            (!host.is_empty()).then(|| quote(host))
        },
    },
    Key {
        name: "zone",
        value_name: "NAME",
        help: "Where a node that joins stands; nodes of one zone may fail together [default: none]",
        secret: false,
        set: |config, value| {
            let sound = value.len() <= 64 && value.chars().all(|c| c.is_ascii_graphic());
            put(
                &mut config.zone,
                sound.then(|| value.to_owned()),
                "at most 64 printable characters",
            )
        },
        show: |config| (!config.zone.is_empty()).then(|| quote(&config.zone)),
    },
    Key {
        name: "node-id",
        value_name: "N",
        help: "Which of initial-cluster this node is, 1 for the first",
        secret: false,
        set: |config, value| put(&mut config.node_id, value.parse().ok(), "a number from 1"),
        show: |config| (config.node_id != 0).then(|| config.node_id.to_string()),
    },
    Key {
        name: "ready-file",
        value_name: "FILE",
        help: "Gets one line of JSON (pid, node_id, ports) once the server serves; removed at exit",
        secret: false,
        set: |config, value| put(&mut config.ready_file, path(value).map(Some), "a file's name"),
        show: |config| config.ready_file.as_deref().map(show_path),
    },
    Key {
        name: "requirepass",
        value_name: "PASSWORD",
        help: "What clients must say with AUTH. Others can read a command line: prefer \
               STAVE_REQUIREPASS or the file",
        secret: true,
        set: |config, value| {
            let secret = (!value.is_empty()).then(|| Secret(value.to_owned()));
            put(&mut config.requirepass, secret.map(Some), "a password that is not empty")
        },
        show: |config| config.requirepass.as_ref().map(|_| String::new()),
    },
    Key {
        name: "insecure",
        value_name: "",
        help: "Allow an address that the network reaches without a password",
        secret: false,
        set: |config, value| put(&mut config.insecure, switch(value), SWITCH),
        show: |config| Some(config.insecure.to_string()),
    },
    Key {
        name: "enable-debug-command",
        value_name: "",
        help: "Allow DEBUG, which test suites use, to whoever may connect",
        secret: false,
        set: |config, value| put(&mut config.enable_debug_command, switch(value), SWITCH),
        show: |config| Some(config.enable_debug_command.to_string()),
    },
    Key {
        name: "log-level",
        value_name: "LEVEL",
        help: "error, warn, info, debug or trace, or by module: info,stavekv::wal=debug \
               [default: info]",
        secret: false,
        set: |config, value| {
            let level = is_log_level(value).then(|| value.to_owned());
            put(&mut config.log_level, level, "error, warn, info, debug, trace or module=level")
        },
        show: |config| Some(quote(&config.log_level)),
    },
    Key {
        name: "log-format",
        value_name: "FORMAT",
        help: "human or json, on standard error [default: human]",
        secret: false,
        set: |config, value| {
            let format = match value {
                "human" => Some(LogFormat::Human),
                "json" => Some(LogFormat::Json),
                _ => None,
            };
            put(&mut config.log_format, format, "human or json")
        },
        show: |config| {
            Some(quote(match config.log_format {
                LogFormat::Human => "human",
                LogFormat::Json => "json",
            }))
        },
    },
    Key {
        name: "wal-segment-size",
        value_name: "SIZE",
        help: "Size of a file of the log [default: 64MiB]",
        secret: false,
        set: |config, value| {
            let size = parse_size(value).filter(|size| {
                (1 << 20..=4 << 30).contains(size) && size.is_multiple_of(SECTOR_LEN as u64)
            });
            put(&mut config.wal_segment_size, size, "a size of 1MiB to 4GiB, a multiple of 4KiB")
        },
        show: |config| Some(show_bytes(config.wal_segment_size)),
    },
    Key {
        name: "wal-size-max",
        value_name: "SIZE",
        help: "Log of a core that may not be in tables yet: three quarters are usual, at all of it \
               writes wait [default: 512MiB]",
        secret: false,
        set: |config, value| {
            let size = parse_size(value).filter(|size| (1 << 20..=1 << 40).contains(size));
            put(&mut config.wal_size_max, size, "a size of 1MiB to 1024GiB")
        },
        show: |config| Some(show_bytes(config.wal_size_max)),
    },
    Key {
        name: "compression",
        value_name: "HOW",
        help: "How new SSTables store values below 16 KiB: none, lz4, or zstd (Zstandard at the \
               bottom level, LZ4 above). It saves disk and costs CPU; tables that are there stay \
               as they are until they are compacted [default: none]",
        secret: false,
        set: |config, value| {
            put(&mut config.compression, Compression::named(value), "none, lz4 or zstd")
        },
        show: |config| Some(quote(config.compression.name())),
    },
    Key {
        name: "max-clients",
        value_name: "N",
        help: "Most connections at a time [default: 10000]",
        secret: false,
        set: |config, value| {
            let count = value.parse().ok().filter(|n| (1..=10_000_000).contains(n));
            put(&mut config.max_clients, count, "a number of connections, 1 to 10000000")
        },
        show: |config| Some(config.max_clients.to_string()),
    },
    Key {
        name: "notify-keyspace-events",
        value_name: "CLASSES",
        help: "Changes of keys that are published, as in Redis: K and/or E, and the letters of \
               classes, A for all. `expired` is published when the key is deleted, which may be \
               after its time [default: none]",
        secret: false,
        set: |config, value| {
            let classes = Classes::parse(value.as_bytes());
            put(&mut config.notify_keyspace_events, classes, "letters of Ag$lshzxeKEtmdn")
        },
        show: |config| Some(quote(&config.notify_keyspace_events.to_string())),
    },
    Key {
        name: "latency-monitor-threshold",
        value_name: "MILLISECONDS",
        help: "A command that holds a core for so long is told of by LATENCY; 0: none \
               [default: 0]",
        secret: false,
        set: |config, value| {
            let ms = value.parse().ok().filter(|ms| i64::try_from(*ms).is_ok());
            put(&mut config.latency_monitor_threshold, ms, "milliseconds, or 0")
        },
        show: |config| Some(config.latency_monitor_threshold.to_string()),
    },
    Key {
        name: "slowlog-log-slower-than",
        value_name: "MICROSECONDS",
        help: "A command that holds a core for so long is told of by SLOWLOG; 0: every command, \
               -1: none [default: 10000]",
        secret: false,
        set: |config, value| {
            let us = value.parse().ok().filter(|us| *us >= -1);
            put(&mut config.slowlog_log_slower_than, us, "microseconds, or -1")
        },
        show: |config| Some(config.slowlog_log_slower_than.to_string()),
    },
    Key {
        name: "slowlog-max-len",
        value_name: "N",
        help: "Most commands that SLOWLOG tells of [default: 128]",
        secret: false,
        set: |config, value| {
            let len = value.parse().ok().filter(|len| i64::from(*len) <= slowlog::LEN_MAX);
            put(&mut config.slowlog_max_len, len, "a number of commands, 0 to 65536")
        },
        show: |config| Some(config.slowlog_max_len.to_string()),
    },
];

/// `HOST:PORT,HOST:PORT`.
fn addresses(value: &str) -> Option<Vec<String>> {
    names(value, |name| name.contains(':'))
}

/// Addresses, or names of services: these begin so.
fn seeds(value: &str) -> Option<Vec<String>> {
    names(value, |name| name.contains(':') || name.starts_with('_'))
}

fn names(value: &str, is_sound: impl Fn(&String) -> bool) -> Option<Vec<String>> {
    let names = value.split(',').map(|name| name.trim().to_owned());
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    let sound = !names.is_empty() && names.iter().all(is_sound);
    sound.then_some(names)
}

fn show_addresses(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| quote(&names.join(",")))
}

fn put<T>(into: &mut T, value: Option<T>, expected: &'static str) -> Result<(), &'static str> {
    *into = value.ok_or(expected)?;
    Ok(())
}

fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn show_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A size is a string in TOML unless it is a plain number of bytes.
fn show_bytes(bytes: u64) -> String {
    quote(&show_size(bytes))
}
