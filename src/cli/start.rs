//! Where the process ends and the server begins: the one place that wires them together.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cluster::Seat;
use super::directory::Identity;
use crate::ack::Ack;
use crate::cluster::SlotMap;
use crate::command;
use crate::config::{self, Config, Engine};
use crate::env::os;
use crate::id::ShardId;
use crate::server;
use crate::shard::Progress;

/// How often a long replay says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Everything a server is told.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Checked; `cores` is what the data directory was born with.
    pub(super) config: Config,
    /// Who this node is. Its directory is locked.
    pub(super) identity: Identity,
    /// The cluster that it is a node of, if it is.
    pub(super) seat: Option<Seat>,
}

/// A server that serves.
pub(super) struct Running {
    /// The shared port.
    pub(super) resp_port: u16,
    /// The shared port of the binary protocol.
    pub(super) binary_port: u16,
    /// Each core's own port, in the order of the shards.
    pub(super) shard_ports: Vec<u16>,
    /// Asks all shards to drain, flush and end. Returns at once.
    pub(super) drain: Box<dyn Fn()>,
    /// Returns when all shards have ended, asked to or not; the error is a sentence for the log.
    pub(super) wait: Box<dyn FnOnce() -> Result<(), String> + Send>,
}

/// Starts the server; returns once every shard has replayed its log and serves.
///
/// # Errors
/// What kept it from serving. An `io::Error` of kind `AddrInUse` or `AddrNotAvailable` within makes
/// the exit code say so.
pub(super) fn start(plan: &Plan) -> anyhow::Result<Running> {
    let running = server::start(options(plan)).context("start")?;
    let stopper = running.stopper();
    Ok(Running {
        resp_port: running.resp_port,
        binary_port: running.binary_port,
        shard_ports: running.shard_ports.clone(),
        drain: Box::new(move || stopper.stop()),
        wait: Box::new(move || running.wait().map_err(|error| error.to_string())),
    })
}

fn options(plan: &Plan) -> server::Options {
    let Plan { config, identity, .. } = plan;
    let per_shard = u32::from(identity.partitions_per_core());
    let memory_max = usize::try_from(config.memory).unwrap_or(usize::MAX);
    server::Options {
        members: plan.seat.as_ref().map(|seat| seat.members(identity, config)),
        data_dir: config.data_dir.clone(),
        node: identity.node_id,
        log_id: identity.log_id(),
        map: SlotMap::new(identity.cores, per_shard),
        pin: os::has_whole_cores(),
        memory_max,
        runtime: config.runtime,
        ack: config.ack,
        bind: config.bind,
        resp_port: config.resp_port,
        binary_port: config.binary_port,
        shard_port_base: config.shard_port_base,
        cluster_mode: config.cluster_mode,
        password: config.requirepass.as_ref().map(|secret| secret.reveal().as_bytes().to_vec()),
        clients_max: u64::from(config.max_clients),
        notify: config.notify_keyspace_events,
        eviction: config.maxmemory_policy,
        latency_ms: config.latency_monitor_threshold,
        slow_us: config.slowlog_log_slower_than,
        slow_len_max: config.slowlog_max_len,
        segment_len: config.wal_segment_size,
        log_len_max: config.wal_size_max,
        compression: config.compression,
        rows_len_max: (config.engine == Engine::Lsm).then_some(memory_max),
        identity: who(plan),
        config: parameters(config),
        configure: Box::new(configure),
        on_progress: Arc::new(ProgressLog::new().into_fn()),
    }
}

fn who(plan: &Plan) -> command::Identity {
    let Plan { config, identity, .. } = plan;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    command::Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node_id: format!("{:032x}{:08x}", identity.cluster_id, identity.node_id.0),
        run_id: format!("{:016x}{:016x}{:08x}", os::random_seed(), os::random_seed(), 0),
        cores: identity.cores,
        cluster_mode: config.cluster_mode,
        pid: std::process::id(),
        started_ms: os::unix_ms(),
        os: format!("Linux {} {}", release.trim(), std::env::consts::ARCH),
        runtime: match config.runtime {
            config::Runtime::IoUring => "io_uring",
            config::Runtime::Glommio => "glommio",
        },
        ack: config.ack,
        debug_enabled: config.enable_debug_command,
        may_be_open: config.bind.is_loopback() || config.insecure,
        may_evict: config.engine == Engine::Memory,
        ..command::Identity::default()
    }
}

/// What `CONFIG GET` knows: names that Redis clients ask for.
fn parameters(config: &Config) -> Vec<(&'static str, String)> {
    let append_fsync = match config.ack {
        Ack::Relaxed => "everysec",
        Ack::Quorum | Ack::Leader => "always",
    };
    vec![
        ("save", String::new()),
        ("appendonly", "yes".to_owned()),
        ("appendfsync", append_fsync.to_owned()),
        ("databases", command::DB_COUNT.to_string()),
        ("maxmemory", config.memory.to_string()),
        (command::config::EVICTION_PARAMETER, config.maxmemory_policy.name().to_owned()),
        ("maxclients", config.max_clients.to_string()),
        (command::config::TIMEOUT_PARAMETER, "0".to_owned()),
        ("tcp-keepalive", "0".to_owned()),
        ("loglevel", config.log_level.clone()),
        ("bind", config.bind.to_string()),
        ("port", config.resp_port.to_string()),
        ("dir", config.data_dir.display().to_string()),
        ("cluster-enabled", if config.cluster_mode { "yes" } else { "no" }.to_owned()),
        ("notify-keyspace-events", config.notify_keyspace_events.to_string()),
        (command::latency::THRESHOLD_PARAMETER, config.latency_monitor_threshold.to_string()),
        (command::slowlog::THRESHOLD_PARAMETER, config.slowlog_log_slower_than.to_string()),
        (command::slowlog::LEN_PARAMETER, config.slowlog_max_len.to_string()),
        ("client-output-buffer-limit", crate::server::OUTPUT_LIMITS.to_owned()),
        ("latency-tracking", "yes".to_owned()),
        ("latency-tracking-info-percentiles", "50 99 99.9".to_owned()),
        ("proto-max-bulk-len", crate::limits::VALUE_LEN_MAX.to_string()),
    ]
}

/// `CONFIG SET`, after the command checked the value.
fn configure(name: &str, value: &str) {
    if name != "loglevel" {
        return;
    }
    // The words of Redis, in ours.
    let level = match value {
        "verbose" => "debug",
        "notice" => "info",
        "warning" => "warn",
        level => level,
    };
    if let Err(reason) = super::log::set_level(level) {
        tracing::warn!(value, reason, "the log level stays as it is");
    }
}

/// Says once a second how far a long replay is, over all shards.
struct ProgressLog {
    begin: Instant,
    said: Mutex<(Instant, Vec<(ShardId, Progress)>)>,
}

impl ProgressLog {
    fn new() -> Self {
        let begin = Instant::now();
        Self { begin, said: Mutex::new((begin, Vec::new())) }
    }

    fn into_fn(self) -> impl Fn(ShardId, Progress) + Send + Sync {
        move |shard, progress| self.note(shard, progress)
    }

    fn note(&self, shard: ShardId, progress: Progress) {
        let mut said = self.said.lock().expect("no one panics holding it");
        match said.1.iter_mut().find(|(of, _)| *of == shard) {
            Some((_, known)) => *known = progress,
            None => said.1.push((shard, progress)),
        }
        if said.0.elapsed() < PROGRESS_EVERY {
            return;
        }
        said.0 = Instant::now();
        let done: u64 = said.1.iter().map(|(_, progress)| progress.done).sum();
        let total: u64 = said.1.iter().map(|(_, progress)| progress.total).sum();
        let rate = done as f64 / self.begin.elapsed().as_secs_f64();
        let left = Duration::from_secs_f64((total.saturating_sub(done)) as f64 / rate.max(1.0));
        tracing::info!(
            done_mib = done >> 20,
            total_mib = total >> 20,
            mib_per_s = (rate / f64::from(1 << 20)) as u64,
            left_s = left.as_secs(),
            "reading tables and log"
        );
    }
}
