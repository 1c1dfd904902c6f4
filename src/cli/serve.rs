//! `stave serve`: the life of a server, from the command line to the exit code.
//!
//! In this order, so that the cheap refusals come first and nothing is touched before it is ours:
//! configuration, log, signals, data directory, open-files limit, server, ready file; then wait for
//! a reason to end; then drain within [`DRAIN_MAX`]. A second signal ends at once: durability never
//! depends on a clean end.

use std::ffi::OsString;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::cluster::Seat;
use super::directory::{self, Asked, DataDir, Shape};
use super::ready::{Ready, ReadyFile};
use super::settings::Settings;
use super::start::{self, Plan, Running};
use super::stop::{Stop, Stops};
use super::{EXIT_ADDRESS, EXIT_CODES, EXIT_DATA_DIR, EXIT_FAILURE, EXIT_OK, EXIT_USAGE};
use crate::config::{self, CONFIG_VARIABLE, Config, Inputs, Resolved, Source};
use crate::env::machine::Machine;
use crate::env::process;
use crate::server;

/// How long the shards may take to end: 10 s are promised, and the process needs a moment too.
const DRAIN_MAX: Duration = Duration::from_secs(9);

/// A signal this soon after the first is the same one: a terminal and `timeout` signal the process
/// and its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Files that are open beside the clients' connections.
const OPEN_FILES_RESERVE: u64 = 512;

const EXAMPLES: &str = "\
Examples:
  stave serve                                    data in ./stave-data, port 6379, this machine only
  redis-cli -p 6379 set greeting hello           any Redis client talks to it
  stave serve --data-dir /srv/stave --cores 4 --memory 8GiB
  STAVE_REQUIREPASS=... stave serve --bind 0.0.0.0
  stave serve --config stave.toml --check-config

Every setting is a flag, a key of the TOML file and a variable: --resp-port 7000, resp-port = 7000,
STAVE_RESP_PORT=7000. A flag beats a variable, a variable the file, the file the default.
SIGTERM and Ctrl-C drain and exit within 10 s.";

/// Serve a data directory
#[derive(clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(super) struct Serve {
    /// TOML file with settings; an unknown key is an error [env: STAVE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, touch nothing, and exit with 0 or 2
    #[arg(long)]
    check_config: bool,

    /// Print the effective configuration as TOML, with each value's source, and exit
    #[arg(long)]
    print_config: bool,

    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// Serves until asked to end; returns the exit code. What is asked for goes to `out`,
    /// everything else to standard error.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        let resolved = match self.resolve() {
            Ok(resolved) => resolved,
            Err(error) => {
                eprintln!("stave: {error:#}");
                return EXIT_USAGE;
            }
        };
        if self.check_config || self.print_config {
            return self.show(&resolved, out);
        }
        super::log::start(&resolved.config.log_level, resolved.config.log_format);
        for note in &resolved.notes {
            tracing::warn!("{note}");
        }
        match serve(resolved) {
            Ok(()) => EXIT_OK,
            Err(error) => {
                tracing::error!("{}", describe(&error));
                exit_code(&error)
            }
        }
    }

    fn show(&self, resolved: &Resolved, out: &mut impl Write) -> u8 {
        resolved.notes.iter().for_each(|note| eprintln!("stave: {note}"));
        let shown = if self.print_config { resolved.to_toml() } else { "ok\n".to_owned() };
        // Whoever closed the pipe has seen enough.
        let _ = out.write_all(shown.as_bytes());
        EXIT_OK
    }

    fn resolve(&self) -> anyhow::Result<Resolved> {
        let path =
            self.config.clone().or_else(|| std::env::var_os(CONFIG_VARIABLE).map(Into::into));
        let text = path.as_deref().map(read_config).transpose()?;
        let inputs = Inputs {
            flags: self.settings.0.clone(),
            variables: variables(std::env::vars_os())?,
            file: path.as_deref().zip(text.as_deref()),
            machine: Machine::detect(),
        };
        Ok(config::resolve(&inputs)?)
    }
}

fn read_config(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Those that are ours. Others may hold bytes that are no text.
fn variables(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> anyhow::Result<Vec<(String, String)>> {
    let ours = all.filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("STAVE_"))?;
        Some((name, value))
    });
    ours.map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => anyhow::bail!("{name}: not valid UTF-8"),
    })
    .collect()
}

/// The error and its causes in one line, each told once.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let joint = if text.is_empty() { "" } else { ": " };
            text.push_str(joint);
            text.push_str(&cause);
        }
    }
    if let Some(cure) = cure(error) {
        text.push_str("; ");
        text.push_str(cure);
    }
    text
}

/// What to do about an error of the system's that does not tell.
fn cure(error: &anyhow::Error) -> Option<&'static str> {
    let of_files = |cause: &(dyn std::error::Error + 'static)| {
        !matches!(cause.downcast_ref(), Some(server::Error::Listen { .. }))
    };
    let mut causes = error.chain().take_while(|cause| of_files(*cause));
    let kind = causes.find_map(|cause| cause.downcast_ref::<io::Error>())?.kind();
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room there and start again: nothing that was acknowledged is lost")
        }
        io::ErrorKind::PermissionDenied => {
            Some("run it as the user who owns the files, or give them to this one (chown -R)")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("give a --data-dir on a file system that takes writes")
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            Some("a file is in the way: give a directory")
        }
        _ => None,
    }
}

/// The exit code for what kept the server from serving.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<directory::Error>() {
        return EXIT_DATA_DIR;
    }
    if error.is::<config::Error>() {
        return EXIT_USAGE;
    }
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    let is_address = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
    };
    if kinds.into_iter().any(is_address) { EXIT_ADDRESS } else { EXIT_FAILURE }
}

/// The whole life after the configuration.
fn serve(resolved: Resolved) -> anyhow::Result<()> {
    let asked = |name| resolved.source(name) != Source::Default;
    let asked = Asked { cores: asked("cores"), partitions: asked("partitions-per-core") };
    let mut config = resolved.config;
    // It may wait for others; there is nothing to drain yet, so that a signal ends it there.
    let seat = Seat::of(&mut config, asked)?;
    process::block_signals().context("block signals")?;
    let stops = Stops::new();
    stops.add_signals().context("start a thread")?;

    // Never dropped: only when the process is gone does nothing of it write there any more, also
    // when a shard did not end. The kernel releases the lock then.
    let birth = seat.as_ref().and_then(|seat| seat.birth);
    let Config { cores, partitions_per_core, .. } = config;
    let shape = Shape { cores, partitions_per_core, asked };
    let opened = DataDir::open(&config.data_dir, shape, birth)?;
    let dir = ManuallyDrop::new(opened);
    if let Some(seat) = &seat {
        seat.save(&config.data_dir)?;
    }
    config.cores = dir.identity().cores;
    config.partitions_per_core = dir.identity().partitions_per_core();
    config.check()?;
    fit_open_files(&mut config)?;
    log_start(&config, &dir);

    if let Some(path) = &config.ready_file {
        ReadyFile::clear(path).with_context(|| path.display().to_string())?;
    }
    let plan = Plan { config, identity: dir.identity(), seat };
    let running = start::start(&plan)?;
    if let Err(error) = dir.note_begun() {
        tracing::warn!(%error, "the loss of a shard would not be noticed at the next start");
    }
    if let Some(seat) = &plan.seat {
        seat.announce(&plan.config);
    }
    let ready_file = announce(&plan, &running)?;
    stops.add_end(running.wait).context("start a thread")?;
    let first = stops.wait(None);
    drop(ready_file);
    match first {
        Some(Stop::Signal(signal)) => {
            tracing::info!(?signal, "draining");
            (running.drain)();
            wait_for_end(&stops)
        }
        Some(Stop::Ended(Err(failure))) => Err(anyhow::anyhow!(failure)),
        Some(Stop::Ended(Ok(()))) | None => Ok(()),
    }
}

/// Makes room for as many connections as may come, or lets fewer come.
fn fit_open_files(config: &mut Config) -> anyhow::Result<()> {
    let want = u64::from(config.max_clients) + OPEN_FILES_RESERVE;
    let limit = process::raise_open_files_max(want).context("raise the limit of open files")?;
    if limit < want {
        let fitting = limit.saturating_sub(OPEN_FILES_RESERVE).max(1);
        tracing::warn!(
            limit,
            max_clients = config.max_clients,
            fitting,
            "max-clients does not fit the limit of open files; raise it with ulimit -n"
        );
        config.max_clients = u32::try_from(fitting).unwrap_or(u32::MAX);
    }
    Ok(())
}

fn log_start(config: &Config, dir: &DataDir) {
    let identity = dir.identity();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %dir.path().display(),
        is_new = dir.is_born(),
        cluster_id = %format_args!("{:032x}", identity.cluster_id),
        node_id = %identity.node_id,
        cores = identity.cores,
        partitions = identity.partitions,
        memory_bytes = config.memory,
        ack = ?config.ack,
        "starting"
    );
    if config.insecure && !config.bind.is_loopback() && config.requirepass.is_none() {
        tracing::warn!(bind = %config.bind, "anyone who reaches this address may read and write");
    }
}

/// Tells people and programs that the server serves.
fn announce(plan: &Plan, running: &Running) -> anyhow::Result<Option<ReadyFile>> {
    let config = &plan.config;
    tracing::info!(
        bind = %config.bind,
        resp_port = running.resp_port,
        binary_port = running.binary_port,
        shard_ports = ?running.shard_ports,
        "serving; redis-cli -p {} talks to it", running.resp_port
    );
    let Some(path) = &config.ready_file else { return Ok(None) };
    let ready = Ready {
        pid: std::process::id(),
        node_id: plan.identity.node_id.0,
        resp_port: running.resp_port,
        binary_port: Some(running.binary_port),
        http_port: None,
        peer_port: plan
            .seat
            .as_ref()
            .map(|seat| seat.members(&plan.identity, &plan.config).own_addr().port()),
        shard_ports: running.shard_ports.clone(),
    };
    let file = ReadyFile::write(path, &ready).with_context(|| path.display().to_string())?;
    Ok(Some(file))
}

/// Lets the shards finish, but no longer than [`DRAIN_MAX`].
fn wait_for_end(stops: &Stops) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        match stops.wait(Some(DRAIN_MAX.saturating_sub(begin.elapsed()))) {
            Some(Stop::Ended(Ok(()))) => {
                tracing::info!(took = ?begin.elapsed(), "ended");
                return Ok(());
            }
            Some(Stop::Ended(Err(failure))) => return Err(anyhow::anyhow!(failure)),
            Some(Stop::Signal(_)) if begin.elapsed() < SAME_SIGNAL => {}
            Some(Stop::Signal(_)) => anyhow::bail!("a second signal: ended without draining"),
            None => anyhow::bail!("not drained within {DRAIN_MAX:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal;

    #[test]
    fn exit_codes_tell_the_causes_apart() {
        let locked = directory::Error::Locked { path: "d".into(), pid: "1".to_owned() };
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        let other = io::Error::from(io::ErrorKind::OutOfMemory);

        let codes = [
            anyhow::Error::from(locked),
            anyhow::Error::from(taken).context("listen on 127.0.0.1:6379"),
            anyhow::Error::from(other),
            anyhow::Error::from(config::Error::PortsTooHigh { base: 1, cores: 1 }),
        ]
        .map(|error| exit_code(&error));

        assert_eq!(codes, [EXIT_DATA_DIR, EXIT_ADDRESS, EXIT_FAILURE, EXIT_USAGE]);
    }

    #[test]
    fn an_error_is_described_without_repeating_itself() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = directory::Error::Io { op: "open", path: "d".into(), source };

        let shown = describe(&anyhow::Error::from(error).context("start"));

        assert_eq!(shown, "start: open d: entity not found");
    }

    #[test]
    fn an_error_of_the_system_comes_with_a_cure() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let (op, path) = ("write", std::path::PathBuf::from("d/new.wal"));
        let log = wal::Error::Io { op, path: path.clone(), source: full() };
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let addr = "127.0.0.1:80".parse().expect("an address");

        let shown = [
            anyhow::Error::from(log),
            anyhow::Error::from(directory::Error::Io { op: "open", path, source: denied }),
            anyhow::Error::from(server::Error::Listen {
                addr,
                source: io::ErrorKind::PermissionDenied.into(),
            }),
        ]
        .map(|error| describe(&error.context("start")));

        assert!(shown[0].contains("make room there"), "{shown:?}");
        assert!(shown[1].contains("chown"), "{shown:?}");
        assert!(shown[2].ends_with("--shard-port-base"), "{shown:?}");
    }

    #[test]
    fn a_drain_ends_with_the_server_and_not_before() {
        let stops = Stops::new();
        stops.add_end(|| Err("shard 1 panicked".to_owned())).expect("a thread");

        let error = wait_for_end(&stops).expect_err("it failed while draining");

        assert_eq!(error.to_string(), "shard 1 panicked");
    }
}
