//! Where the process ends and the server begins: the one place that wires them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::directory::Identity;
use crate::config::Config;

/// Everything a server is told.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Checked; `cores` is what the data directory was born with.
    pub(super) config: Config,
    /// Who this node is. Its directory is locked.
    pub(super) identity: Identity,
}

/// A server that serves.
pub(super) struct Running {
    /// The shared port.
    pub(super) resp_port: u16,
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
    // WIRING: `crate::server::start` belongs here; until then a thread that only waits stands in.
    let draining = Arc::new(AtomicBool::new(false));
    let drained = Arc::clone(&draining);
    let waiting = thread::Builder::new().name("shards".to_owned()).spawn(move || {
        while !drained.load(Ordering::Acquire) {
            thread::park();
        }
    })?;
    let waker = waiting.thread().clone();
    let ports = 0..plan.identity.cores;
    Ok(Running {
        resp_port: plan.config.resp_port,
        shard_ports: ports.map(|shard| plan.config.shard_port_base + shard).collect(),
        drain: Box::new(move || {
            draining.store(true, Ordering::Release);
            waker.unpark();
        }),
        wait: Box::new(move || waiting.join().map_err(|_| "a shard panicked".to_owned())),
    })
}
