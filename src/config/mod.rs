//! What an operator may choose, and where each choice came from.
//!
//! Every setting has one name: `--memory` as a flag, `memory` in the TOML file, `STAVE_MEMORY` in
//! the environment. A flag beats a variable, a variable beats the file, the file beats the default.
//! [`KEYS`] is the one table they all come from; the command line is made from it too.
//!
//! Why so few: a setting needs two users who want different values. Everything else is a constant
//! with its reason in [`crate::limits`].
//!
//! A name that nobody knows is an error in the file and on the command line. An unknown `STAVE_*`
//! variable is not, since others set those (Kubernetes gives every pod `STAVE_SERVICE_HOST` next to
//! a service called stave); one that looks like a slip becomes a note.
//!
//! Pure but for [`Machine`], which the caller detects: files and the environment are read in
//! [`crate::cli`]. Reading order: `keys`, then [`resolve`]; `text` is the small print.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ack::Ack;
use crate::command::notify::Classes;
use crate::env::machine::Machine;
use crate::eviction::Eviction;
use crate::limits::SLOT_COUNT;
use crate::lsm::table::Compression;

mod keys;
mod text;

#[cfg(test)]
mod tests;

pub use keys::{KEYS, Key};
pub use text::{is_log_level, parse_duration};

/// Least memory of one core, bytes: below it nothing is left beside the log's buffers.
pub const MEMORY_PER_CORE_MIN: u64 = 32 << 20;

/// Most cores of a node.
pub const CORES_MAX: u16 = 1024;

/// Most partitions of a core.
pub const PARTITIONS_PER_CORE_MAX: u16 = 64;

/// Where the keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// In SSTables; those in use in memory, too.
    Lsm,
    /// All of them in memory, and in the log and in SSTables for the next start.
    Memory,
}

/// What drives the disk and the sockets of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The reactor of [`crate::env::uring`].
    IoUring,
    /// That of the crate glommio, where it was built in.
    Glommio,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// A password. It shows itself to nobody by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself, for comparing.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// All settings, each with its effective value. [`KEYS`] says what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// See [`KEYS`], as for all others.
    pub data_dir: PathBuf,
    /// At least 1, at most [`CORES_MAX`].
    pub cores: u16,
    /// Of a data directory that is born; at least 1, at most [`PARTITIONS_PER_CORE_MAX`].
    pub partitions_per_core: u16,
    /// Bytes.
    pub memory: u64,
    /// An address of this machine.
    pub bind: IpAddr,
    /// Where keys and values live.
    pub engine: Engine,
    /// Which keys leave when memory is full, of an engine that keeps all in memory.
    pub maxmemory_policy: Eviction,
    /// What drives disk and sockets.
    pub runtime: Runtime,
    /// What an answer waits for whose client does not say.
    pub ack: Ack,
    /// Whether clients are told that this is a Redis cluster.
    pub cluster_mode: bool,
    /// 0: any free one.
    pub resp_port: u16,
    /// Of the binary protocol. 0: any free one.
    pub binary_port: u16,
    /// Shard n listens on this port + n. 0: any free ones.
    pub shard_port_base: u16,
    /// The nodes of the cluster, `HOST:PEERPORT`, in order; empty: this one is alone.
    pub initial_cluster: Vec<String>,
    /// How many nodes have a replica of each partition of a cluster that is founded.
    pub replication_factor: u8,
    /// How long a node may be silent before others have its replicas; zero: for ever.
    pub replace_dead_after: Duration,
    /// How old what a replica that follows is asked may be; zero: none is.
    pub read_staleness_max: Duration,
    /// Which of them this one is, from 1; 0 if it is alone.
    pub node_id: u64,
    /// Nodes of a cluster to join, `HOST:PEERPORT`.
    pub join: Vec<String>,
    /// Where the peers of this node's first core listen; 0: nowhere.
    pub peer_port: u16,
    /// The host at which the other nodes reach this one; empty: `bind`.
    pub advertise_host: String,
    /// Where this node stands; empty: nowhere in particular.
    pub zone: String,
    /// Written once the server serves.
    pub ready_file: Option<PathBuf>,
    /// What `AUTH` must say.
    pub requirepass: Option<Secret>,
    /// Serve the network without a password.
    pub insecure: bool,
    /// Allow DEBUG.
    pub enable_debug_command: bool,
    /// A level, or directives such as `info,stavekv::wal=debug`.
    pub log_level: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Bytes; a multiple of [`crate::limits::SECTOR_LEN`].
    pub wal_segment_size: u64,
    /// Bytes of a shard's log that is not in tables from which writes wait.
    pub wal_size_max: u64,
    /// How new tables store rows.
    pub compression: Compression,
    /// Connections of this node, all cores together.
    pub max_clients: u32,
    /// Which changes of keys are told to subscribers.
    pub notify_keyspace_events: Classes,
    /// Milliseconds from which on LATENCY tells of a command; 0: of none.
    pub latency_monitor_threshold: u64,
    /// Microseconds from which on a command is slow; 0: each, -1: none.
    pub slowlog_log_slower_than: i64,
    /// Slow commands that are kept.
    pub slowlog_max_len: u32,
}

impl Config {
    /// What holds when nobody says anything, on such a machine.
    pub fn defaults(machine: &Machine) -> Self {
        let cores = machine.cores.clamp(1, CORES_MAX);
        let quarter = machine.memory / 4 / (1 << 20) * (1 << 20);
        Self {
            data_dir: PathBuf::from("stave-data"),
            cores,
            partitions_per_core: crate::limits::PARTITIONS_PER_CORE,
            memory: quarter.max(u64::from(cores) * MEMORY_PER_CORE_MIN),
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            engine: Engine::Lsm,
            maxmemory_policy: Eviction::None,
            runtime: Runtime::IoUring,
            ack: Ack::Quorum,
            cluster_mode: false,
            resp_port: 6379,
            binary_port: 7400,
            shard_port_base: 7500,
            initial_cluster: Vec::new(),
            replication_factor: crate::cluster::REPLICAS,
            replace_dead_after: Duration::from_secs(600),
            read_staleness_max: Duration::from_secs(5),
            node_id: 0,
            join: Vec::new(),
            peer_port: 0,
            advertise_host: String::new(),
            zone: String::new(),
            ready_file: None,
            requirepass: None,
            insecure: false,
            enable_debug_command: false,
            log_level: "info".to_owned(),
            log_format: LogFormat::Human,
            wal_segment_size: 64 << 20,
            wal_size_max: 512 << 20,
            compression: Compression::None,
            max_clients: 10_000,
            notify_keyspace_events: Classes::default(),
            latency_monitor_threshold: 0,
            slowlog_log_slower_than: 10_000,
            slowlog_max_len: 128,
        }
    }

    /// Checks what no single setting can see. To be repeated when [`Config::cores`] is changed to
    /// what a data directory was born with.
    ///
    /// # Errors
    /// The first thing found wrong, with its cure.
    pub fn check(&self) -> Result<(), Error> {
        let least = u64::from(self.cores) * MEMORY_PER_CORE_MIN;
        if self.memory < least {
            return Err(Error::MemoryTooSmall { memory: self.memory, least, cores: self.cores });
        }
        if u32::from(self.cores) * u32::from(self.partitions_per_core) > u32::from(SLOT_COUNT) {
            let (cores, each) = (self.cores, self.partitions_per_core);
            return Err(Error::PartitionsTooMany { cores, each });
        }
        if self.engine == Engine::Lsm && self.maxmemory_policy != Eviction::None {
            return Err(Error::NothingToEvict { policy: self.maxmemory_policy.name() });
        }
        if !self.bind.is_loopback() && self.requirepass.is_none() && !self.insecure {
            return Err(Error::Exposed { bind: self.bind });
        }
        if self.resp_port == self.binary_port && self.resp_port != 0 {
            return Err(Error::PortTwice { port: self.resp_port });
        }
        let (base, cores) = (u32::from(self.shard_port_base), u32::from(self.cores));
        if base == 0 {
            return Ok(());
        }
        if base + cores > 1 << 16 {
            return Err(Error::PortsTooHigh { base: self.shard_port_base, cores: self.cores });
        }
        for (name, port) in [("resp-port", self.resp_port), ("binary-port", self.binary_port)] {
            if (base..base + cores).contains(&u32::from(port)) {
                let (base, cores) = (self.shard_port_base, self.cores);
                return Err(Error::PortsOverlap { name, port, base, cores });
            }
        }
        Ok(())
    }
}

/// Who chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// The TOML file, at this line.
    File {
        /// From 1.
        line: usize,
    },
    /// A `STAVE_*` variable.
    Variable,
    /// The command line.
    Flag,
}

/// Everything that is to be weighed against each other.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Key names and values.
    pub flags: Vec<(&'static str, String)>,
    /// The environment, or as much of it as begins with `STAVE_`.
    pub variables: Vec<(String, String)>,
    /// The file's name and text.
    pub file: Option<(&'a Path, &'a str)>,
    /// For the defaults.
    pub machine: Machine,
}

/// A configuration and how it came about.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The effective values.
    pub config: Config,
    /// Things worth a warning that are no errors.
    pub notes: Vec<String>,
    /// One per entry of [`KEYS`].
    sources: Vec<Source>,
    machine: Machine,
}

/// Weighs flags, variables and the file, and checks the outcome.
///
/// # Errors
/// The first thing found wrong: flags, then variables, then the file, then the whole.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Resolved, Error> {
    let mut resolved = Resolved {
        config: Config::defaults(&inputs.machine),
        notes: Vec::new(),
        sources: vec![Source::Default; KEYS.len()],
        machine: inputs.machine,
    };
    // From the weakest to the strongest, so that each overwrites the one before.
    if let Some((path, text)) = inputs.file {
        resolved.take_file(path, text)?;
    }
    for (variable, value) in &inputs.variables {
        resolved.take_variable(variable, value)?;
    }
    for (name, value) in &inputs.flags {
        let at = position(name).ok_or_else(|| unknown(name, Place::Flag))?;
        resolved.set(at, value, Source::Flag, || Place::Flag)?;
    }
    resolved.config.check()?;
    Ok(resolved)
}

impl Resolved {
    /// Who chose the value of the key `name`, one of [`KEYS`].
    pub fn source(&self, name: &str) -> Source {
        let at = position(name).unwrap_or_else(|| panic!("{name} is not a key"));
        self.sources[at]
    }

    /// The effective configuration as a TOML file, each value's source as a comment. Passwords are
    /// left out.
    pub fn to_toml(&self) -> String {
        let lines = KEYS.iter().zip(&self.sources).map(|(key, source)| {
            let shown = key.show(&self.config);
            let from = match source {
                Source::Default if key.name == "memory" => self.memory_default(),
                Source::Default => "default".to_owned(),
                Source::File { line } => format!("file, line {line}"),
                Source::Variable => key.variable(),
                Source::Flag => format!("--{}", key.name),
            };
            match shown {
                None => format!("# {} is not set  # {from}\n", key.name),
                Some(_) if key.secret => format!("# {} = <redacted>  # {from}\n", key.name),
                Some(value) => format!("{} = {value}  # {from}\n", key.name),
            }
        });
        lines.collect()
    }

    fn memory_default(&self) -> String {
        let whose = if self.machine.memory_of_cgroup { "cgroup's limit" } else { "machine" };
        format!("default: a quarter of the {whose}")
    }

    fn take_file(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        for entry in text::read_toml(path, text)? {
            let place = || Place::File { path: path.to_owned(), line: entry.line };
            let at = position(&entry.name).ok_or_else(|| unknown(&entry.name, place()))?;
            self.set(at, &entry.value, Source::File { line: entry.line }, place)?;
        }
        Ok(())
    }

    fn take_variable(&mut self, variable: &str, value: &str) -> Result<(), Error> {
        let Some(rest) = variable.strip_prefix("STAVE_") else { return Ok(()) };
        if variable == CONFIG_VARIABLE {
            return Ok(());
        }
        let place = || Place::Variable(variable.to_owned());
        match KEYS.iter().position(|key| key.variable() == variable) {
            Some(at) => self.set(at, value, Source::Variable, place),
            None => {
                let name = rest.to_ascii_lowercase().replace('_', "-");
                if let Some(key) = nearest(&name) {
                    let meant = key.variable();
                    self.notes.push(format!("{variable} is ignored; is {meant} meant?"));
                }
                Ok(())
            }
        }
    }

    fn set(
        &mut self,
        at: usize,
        value: &str,
        source: Source,
        place: impl FnOnce() -> Place,
    ) -> Result<(), Error> {
        let key = &KEYS[at];
        self.sources[at] = source;
        key.set(&mut self.config, value).map_err(|expected| Error::Value {
            name: key.name,
            value: if key.secret { "<redacted>".to_owned() } else { value.to_owned() },
            place: place(),
            expected,
        })
    }
}

/// Names the TOML file; as `--config`.
pub const CONFIG_VARIABLE: &str = "STAVE_CONFIG";

fn position(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

fn nearest(name: &str) -> Option<&'static Key> {
    text::nearest(name, KEYS.iter().map(|key| key.name)).map(|at| &KEYS[at])
}

fn unknown(name: &str, place: Place) -> Error {
    Error::UnknownKey { name: name.to_owned(), place, nearest: nearest(name).map(|key| key.name) }
}

/// Where something wrong was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The command line.
    Flag,
    /// This variable.
    Variable(String),
    /// The TOML file.
    File {
        /// Its name.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Why a configuration is refused. Each says what would be accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is not TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser says.
        message: String,
    },

    /// There is no such setting.
    #[error("{place}: unknown setting \"{name}\"{}", suggestion(*nearest))]
    UnknownKey {
        /// As it was written.
        name: String,
        /// Where.
        place: Place,
        /// A setting of a similar name.
        nearest: Option<&'static str>,
    },

    /// A value that the setting does not take.
    #[error("{place}: {name} = \"{value}\": expected {expected}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given; passwords are redacted.
        value: String,
        /// Where.
        place: Place,
        /// What is accepted.
        expected: &'static str,
    },

    /// Everyone on the network could read and write everything.
    #[error(
        "bind = {bind} is reachable from the network and no password is set: \
         set requirepass (STAVE_REQUIREPASS), or say insecure (--insecure) if that is meant"
    )]
    Exposed {
        /// The address.
        bind: IpAddr,
    },

    /// Not enough to run at all.
    #[error(
        "memory = {} is too little for {cores} core(s): give at least {}, or fewer cores",
        text::show_size(*memory), text::show_size(*least)
    )]
    MemoryTooSmall {
        /// Bytes.
        memory: u64,
        /// Bytes.
        least: u64,
        /// How many share it.
        cores: u16,
    },

    /// Keys would be deleted although the disk has room for them.
    #[error(
        "maxmemory-policy = \"{policy}\": with engine = \"lsm\" rows leave memory for the disk and \
         none is lost; set engine = \"memory\" if keys are to be evicted"
    )]
    NothingToEvict {
        /// Which keys.
        policy: &'static str,
    },

    /// A partition without a slot.
    #[error(
        "{cores} core(s) of partitions-per-core = {each} are more than the {SLOT_COUNT} slots: \
         give fewer of either"
    )]
    PartitionsTooMany {
        /// How many have them.
        cores: u16,
        /// How many each has.
        each: u16,
    },

    /// The last core's port would be beyond 65535.
    #[error("shard-port-base = {base}: {cores} core(s) do not fit below port 65536")]
    PortsTooHigh {
        /// The first port.
        base: u16,
        /// How many.
        cores: u16,
    },

    /// Two protocols on one port.
    #[error("resp-port and binary-port are both {port}; move one of them")]
    PortTwice {
        /// The port.
        port: u16,
    },

    /// A shared port is also a core's own.
    #[error(
        "{name} = {port} is also a shard's port: those are {base} to {}; move one of them",
        u32::from(*base) + u32::from(*cores) - 1
    )]
    PortsOverlap {
        /// Which shared port.
        name: &'static str,
        /// Its number.
        port: u16,
        /// The first port of a shard.
        base: u16,
        /// How many.
        cores: u16,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => "; --help lists all settings".to_owned(),
    }
}
