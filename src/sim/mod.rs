//! The simulator: an [`Env`] made from a seed. Whole clusters in one thread, with
//! virtual time, a disk that forgets what was not synced, and clients in the hands of the test.
//!
//! Simulated: nodes and their shards (tasks in seeded order, timers, wake-ups between shards); per
//! node a disk of sectors with durable and pending versions ([`Node::power_cut`], [`Node::kill`],
//! [`Faults`]) and a wall clock; connections from clients
//! and between nodes, cut in chunks, delayed, broken ([`Sim::cut`], [`Sim::isolate`]). The same
//! seed gives the same run to the last bit: [`Sim::trace_hash`] folds every decision.
//!
//! Not simulated: threads (a shard's code may not start any), preemption within a task, the cost of
//! computing (a step of a task takes about a microsecond of virtual time whatever it does), stalls
//! and contained panics (a panic in a task ends the test), file descriptors, paths with `..`,
//! names of hosts ([`Node::addr`] is the address of one), datagrams.
//!
//! Harsher than most real disks, on purpose: a directory that was created is lost in a power cut
//! unless *its parent* was synced, and an un-synced write may be kept though an earlier one is not.
//! [`Node::make_dir`] makes a durable directory to start from.
//!
//! To replay: a test under [`check`] that fails prints its seed; `SIM_SEED=<seed> cargo test NAME`
//! runs that seed alone and `SIM_TRACE=1` prints each decision. `STAVE_SIM_SEEDS=10` tries ten
//! times as many seeds, `STAVE_SIM_FIRST=600` begins with that one.
//!
//! ```
//! use stavekv::env::{Env, File, Mode};
//! use stavekv::id::{NodeId, ShardId};
//! use stavekv::sim::Sim;
//!
//! let sim = Sim::new(7);
//! let node = sim.node(NodeId(1));
//! let env = node.env(ShardId(0));
//! let len = sim.run_on(&env, async |env| env.open("log".as_ref(), Mode::Create).await?.size());
//! assert_eq!(len.expect("an empty disk takes a file"), 0);
//! node.power_cut(); // The name was not synced: it may be gone.
//! node.restart();
//! ```
#![expect(clippy::disallowed_methods, reason = "seeds and traces are chosen by SIM_* variables")]

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::env::{Class, Env};
use crate::id::{NodeId, ShardId};

pub mod checker;
mod client;
mod cuts;
mod disk;
mod env;
mod executor;
mod faults;
mod io;
mod link;
mod net;
mod node;
mod rng;
mod stored;
#[cfg(test)]
mod tests;
pub mod torture;
mod world;

pub use client::Client;
pub use disk::PowerCut;
pub use env::{SimEnv, WALL_START_MS};
pub use faults::{DiskLatency, Failure, Faults, NetConditions, Plan};
pub use io::SimFile;
pub use net::SimChunk;
pub use node::Node;
pub use rng::Rng;
pub use world::SimWaker;

use world::{Core, World, nanos};

/// Steps after which [`Sim::run_until`] takes the run for a livelock. About ten seconds of real
/// time.
pub const STEPS_MAX: u64 = 20_000_000;

/// One simulation. Dropped, it drops all its tasks.
pub struct Sim {
    core: Rc<Core>,
    seed: u64,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(seed {}, {:?}, {} steps)", self.seed, self.now(), self.steps())
    }
}

impl Sim {
    /// A world with nothing in it; everything that happens in it follows from `seed` and from what
    /// the test does.
    pub fn new(seed: u64) -> Self {
        let world = RefCell::new(World::new(seed));
        Self { core: Rc::new(Core { world, executor: Default::default() }), seed }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A hash of every decision so far.
    pub fn trace_hash(&self) -> u64 {
        self.core.world.borrow().trace
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core.world.borrow().now)
    }

    /// Steps done: tasks run, things that fell due.
    pub fn steps(&self) -> u64 {
        self.core.world.borrow().steps
    }

    /// A source of chance for the test's own choices, apart from the simulation's.
    pub fn rng(&self) -> Rng {
        self.core.world.borrow_mut().rng.fork()
    }

    /// A node: with an empty disk and up, if it is named for the first time.
    pub fn node(&self, id: NodeId) -> Node {
        self.core.world.borrow_mut().machine(id);
        Node { core: self.core.clone(), id }
    }

    /// The runtime of a shard: [`Node::env`].
    ///
    /// # Panics
    /// If the node is down.
    pub fn env(&self, node: NodeId, shard: ShardId) -> SimEnv {
        self.node(node).env(shard)
    }

    /// Connects a client to a port of a node. Whether a shard takes it shows later:
    /// [`Client::is_connected`], [`Client::is_ended`].
    pub fn connect(&self, node: NodeId, port: u16) -> Client {
        Client::connect(&self.core, node, port)
    }

    /// How the network behaves; drawn from the seed otherwise.
    pub fn set_net(&self, conditions: NetConditions) {
        self.core.world.borrow_mut().net = conditions;
    }

    /// How the network behaves.
    pub fn net(&self) -> NetConditions {
        self.core.world.borrow().net.clone()
    }

    /// Does the next thing. False if nothing will ever happen unless the test does something.
    pub fn step(&self) -> bool {
        self.core.step(u64::MAX)
    }

    /// Runs until `done`, which is asked after each step.
    ///
    /// # Panics
    /// If nothing is left to happen before, or after [`STEPS_MAX`] steps.
    pub fn run_until(&self, mut done: impl FnMut() -> bool) {
        let first = self.steps();
        while !done() {
            assert!(self.step(), "deadlock: nothing is left to happen; {self:?}");
            self.check_steps(first);
        }
    }

    /// Runs for `duration` of virtual time. Fine if nothing happens in it.
    ///
    /// # Panics
    /// After [`STEPS_MAX`] steps.
    pub fn run_for(&self, duration: Duration) {
        let until = self.core.world.borrow().now.saturating_add(nanos(duration));
        let first = self.steps();
        while self.core.world.borrow().now < until && self.core.step(until) {
            self.check_steps(first);
        }
        let mut world = self.core.world.borrow_mut();
        world.now = world.now.max(until);
    }

    /// Runs `task` on a shard, and everything else with it, until it ends.
    ///
    /// # Panics
    /// As [`Sim::run_until`]; also if the task's node goes down.
    pub fn run_on<T: 'static>(
        &self,
        env: &SimEnv,
        task: impl AsyncFnOnce(SimEnv) -> T + 'static,
    ) -> T {
        let result = Rc::new(RefCell::new(None));
        let (slot, own) = (result.clone(), env.clone());
        env.spawn(Class::Foreground, async move {
            let value = task(own).await;
            slot.replace(Some(value));
        });
        self.run_until(|| result.borrow().is_some());
        result.take().expect("it ran until there was one")
    }

    fn check_steps(&self, first: u64) {
        let steps = self.steps() - first;
        assert!(steps < STEPS_MAX, "livelock: no end after {steps} steps; {self:?}");
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold envs, which hold the world, which would hold what they wait for.
        self.core.executor.end(|_| true);
        if let Ok(mut world) = self.core.world.try_borrow_mut() {
            world.machines.values_mut().for_each(|machine| machine.ops.clear());
        }
    }
}

/// The seeds to try: `SIM_SEED` alone if it is set, else `n`, times `STAVE_SIM_SEEDS`, from
/// `STAVE_SIM_FIRST` on.
///
/// # Panics
/// If one of the variables is not a number.
pub fn seeds(n: u64) -> impl Iterator<Item = u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("STAVE_SIM_FIRST").unwrap_or(0);
            first..first + n * number("STAVE_SIM_SEEDS").unwrap_or(1)
        }
    }
}

/// Runs `test` with each of [`seeds`]`(n)`; if it panics, says with which.
///
/// # Panics
/// As `test` does.
pub fn check(n: u64, test: impl Fn(u64)) {
    for seed in seeds(n) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("replay with SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
