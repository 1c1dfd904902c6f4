//! Where the process ends and the server begins: the one place that wires them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::directory::Identity;
use super::stop::Stopper;
use crate::config::Config;

/// Everything a server is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Checked; `cores` is what the data directory was born with.
    pub config: Config,
    /// Who this node is. Its directory is locked.
    pub identity: Identity,
    /// The processors to pin to, one per core; shared when there are fewer than cores.
    pub cpus: Vec<usize>,
    /// For a shard that fails and for `SHUTDOWN`.
    pub stopper: Stopper,
}

/// A server that serves.
pub struct Running {
    /// The shared port.
    pub resp_port: u16,
    /// Each core's own port, in the order of the shards.
    pub shard_ports: Vec<u16>,
    /// Asks all shards to drain, flush and end. Returns at once.
    pub drain: Box<dyn Fn() + Send>,
    /// One per shard; each ends after `drain`. One that ends on its own tells [`Plan::stopper`]
    /// first. The error is a sentence for the log.
    pub threads: Vec<JoinHandle<Result<(), String>>>,
}

/// Starts the server; returns once every shard has replayed its log and serves.
///
/// # Errors
/// What kept it from serving. An `io::Error` of kind `AddrInUse` or `AddrNotAvailable` within makes
/// the exit code say so.
pub(super) fn start(plan: &Plan) -> anyhow::Result<Running> {
    // WIRING: `crate::server::run` belongs here; until then threads that only wait stand in.
    let draining = Arc::new(AtomicBool::new(false));
    let shards = 0..plan.config.cores;
    let threads = shards.clone().map(|shard| {
        let draining = Arc::clone(&draining);
        let wait = move || {
            while !draining.load(Ordering::Acquire) {
                thread::park();
            }
            Ok(())
        };
        thread::Builder::new().name(format!("shard-{shard}")).spawn(wait)
    });
    let threads = threads.collect::<Result<Vec<_>, _>>()?;
    let wakers: Vec<_> = threads.iter().map(|thread| thread.thread().clone()).collect();
    Ok(Running {
        resp_port: plan.config.resp_port,
        shard_ports: shards.map(|shard| plan.config.shard_port_base + shard).collect(),
        drain: Box::new(move || {
            draining.store(true, Ordering::Release);
            wakers.iter().for_each(thread::Thread::unpark);
        }),
        threads,
    })
}
