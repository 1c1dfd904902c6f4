//! The state of a simulation: time, chance, the trace, what is due, the machines and the links
//! between them and the clients. What happens to it is in [`super::io`] and [`super::net`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::cuts::Roads;
use super::disk::Disk;
use super::executor::{Executor, Owner, Policy};
use super::faults::{DiskLatency, Failure, Faults, NetConditions, Plan};
use super::io::Op;
use super::link::{Link, Side};
use super::net::Conns;
use super::rng::Rng;
use crate::env::{Counters, Wake};
use crate::id::{NodeId, ShardId};

/// Everything, shared by all handles of one simulation.
pub(super) struct Core {
    pub world: RefCell<World>,
    pub executor: Executor,
}

/// What is due at some time.
pub(super) enum Action {
    Wake(Weak<Timer>),
    Io { node: NodeId, op: u64 },
    Connect(u64),
    Arrive(u64, Side),
    Sent(u64, Side),
    GiveUp(u64),
    Break(u64, Side),
    Unpause { node: NodeId },
}

/// The kinds of decisions folded into the trace.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Run,
    Timer,
    Submitted,
    Completed,
    Connected,
    Arrived,
    Refused,
    Received,
    SendEnded,
    Sent,
    Closed,
    Broke,
    Cut,
    Healed,
    Down,
    Up,
    Faulted,
}

/// One machine: the disk and, while it is up, the process.
pub(super) struct Machine {
    pub life: u64,
    pub up: bool,
    /// Without its process the kernel refuses connections; without power nobody does.
    pub powered: bool,
    pub paused: bool,
    pub started: u64,
    pub wall_offset_ms: i64,
    /// Parts per million by which its monotonic clock is fast.
    pub drift_ppm: i64,
    pub disk: Disk,
    pub faults: Faults,
    pub latency: DiskLatency,
    /// Which operations are to fail, and how many there were.
    pub plan: Option<Plan>,
    pub calls: u64,
    /// The last operation that was planned to fail.
    pub failed: Option<String>,
    /// In flight, and what the plan says of them.
    pub ops: BTreeMap<u64, (Op, Option<Failure>)>,
    pub shards: BTreeMap<ShardId, Shard>,
    pub next_port: u16,
}

/// What one shard's runtime knows.
pub(super) struct Shard {
    pub rng: Rng,
    pub signal: Arc<Signal>,
    pub counters: Counters,
    pub conns: Conns,
}

/// Everything but the tasks.
pub(super) struct World {
    pub now: u64,
    pub rng: Rng,
    pub policy: Policy,
    pub steps: u64,
    pub trace: u64,
    pub verbose: bool,
    pub numbers: u64,
    due: BTreeMap<(u64, u64), Action>,
    pub machines: BTreeMap<NodeId, Machine>,
    pub links: BTreeMap<u64, Link>,
    pub net: NetConditions,
    pub roads: Roads,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let policy = Policy::drawn(&mut rng);
        let net = NetConditions::drawn(&mut rng);
        Self {
            now: 0,
            rng,
            policy,
            steps: 0,
            trace: seed,
            verbose: std::env::var_os("SIM_TRACE").is_some(),
            numbers: 0,
            due: BTreeMap::new(),
            machines: BTreeMap::new(),
            links: BTreeMap::new(),
            net,
            roads: Roads::default(),
        }
    }

    /// Folds a decision into the trace.
    pub fn note(&mut self, what: What, one: u64, other: u64) {
        for word in [what as u64, one, other, self.now] {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        if self.verbose {
            eprintln!("{:>14} ns {what:?} {one} {other} -> {:016x}", self.now, self.trace);
        }
    }

    /// A number not used before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn schedule(&mut self, at: u64, action: Action) {
        let number = self.number();
        self.due.insert((at, number), action);
    }

    /// When the next thing is due.
    pub fn next_due(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// What is due until now.
    pub fn take_due(&mut self) -> Option<Action> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= self.now).then(|| entry.remove())
    }

    /// The machine `node`, made if it is not there.
    pub fn machine(&mut self, node: NodeId) -> &mut Machine {
        let (now, rng) = (self.now, &mut self.rng);
        self.machines.entry(node).or_insert_with(|| Machine {
            life: 0,
            up: true,
            powered: true,
            paused: false,
            started: now,
            wall_offset_ms: 0,
            drift_ppm: 0,
            disk: Disk::new(),
            faults: Faults::none(),
            latency: DiskLatency::drawn(rng),
            plan: None,
            calls: 0,
            failed: None,
            ops: BTreeMap::new(),
            shards: BTreeMap::new(),
            next_port: 20_000,
        })
    }

    /// Makes the shard if it is not there; its owner's mark of this life.
    ///
    /// # Panics
    /// If the node is down.
    pub fn boot(&mut self, node: NodeId, shard: ShardId) -> Owner {
        let rng = self.rng.fork();
        let machine = self.machine(node);
        assert!(machine.up, "node {node} is down: restart it first");
        machine.shards.entry(shard).or_insert_with(|| Shard {
            rng,
            signal: Arc::default(),
            counters: Counters::default(),
            conns: Conns::default(),
        });
        Owner { node, shard, life: machine.life }
    }

    /// The shard, if this life of it lasts.
    pub fn shard(&mut self, owner: Owner) -> Option<&mut Shard> {
        let machine = self.machines.get_mut(&owner.node)?;
        if !machine.up || machine.life != owner.life {
            return None;
        }
        machine.shards.get_mut(&owner.shard)
    }
}

impl Core {
    /// Does the next thing: what is due, else a ready task, else what will be due next, but not
    /// after `until`. False if there is no such thing.
    pub fn step(&self, until: u64) -> bool {
        let mut world = self.world.borrow_mut();
        if let Some(action) = world.take_due() {
            if matches!(action, Action::Unpause { .. }) {
                self.executor.unpark();
            }
            world.perform(action);
        } else if let Some(id) = self.pick(&mut world) {
            drop(world);
            self.executor.run(id);
            return true;
        } else {
            match world.next_due() {
                Some(at) if at <= until => world.now = at,
                _ => return false,
            }
        }
        world.steps += 1;
        true
    }

    fn pick(&self, world: &mut World) -> Option<u64> {
        let World { rng, machines, policy, .. } = world;
        let paused = |node| machines.get(&node).is_some_and(|machine| machine.paused);
        let (id, owner) = self.executor.pick(*policy, rng, paused)?;
        world.now += world.rng.between(50, 1_500);
        world.steps += 1;
        world.note(What::Run, id, owner.node.0 << 16 | u64::from(owner.shard.0));
        Some(id)
    }
}

impl World {
    fn perform(&mut self, action: Action) {
        match action {
            Action::Wake(timer) => {
                if let Some(timer) = timer.upgrade() {
                    self.note(What::Timer, 0, 0);
                    timer.fire();
                }
            }
            Action::Io { node, op } => self.complete(node, op),
            Action::Connect(link) => self.on_connect(link),
            Action::Arrive(link, side) => self.arrive(link, side),
            Action::Sent(link, side) => self.on_sent(link, side),
            Action::GiveUp(link) => self.give_up(link),
            Action::Break(link, side) => self.on_break(link, side),
            Action::Unpause { node } => self.machine(node).paused = false,
        }
    }
}

/// A sleeper. It fires late by chance, as real ones do.
#[derive(Default)]
pub(super) struct Timer {
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Timer {
    /// Sets one for `deadline`.
    pub fn set(world: &mut World, deadline: u64) -> Rc<Self> {
        let timer = Rc::new(Self::default());
        let late = if world.rng.one_in(16) { 1_000_000 } else { 2_000 };
        let at = deadline.saturating_add(world.rng.below(late));
        world.schedule(at, Action::Wake(Rc::downgrade(&timer)));
        timer
    }

    fn fire(&self) {
        self.fired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready once it fired.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.fired.get() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// Ends the wait of a shard's loop.
#[derive(Debug, Default)]
pub(super) struct Signal {
    woken: AtomicBool,
    turn: Mutex<Option<Waker>>,
}

impl Signal {
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        let waker = self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the wait is over; if not, whom to wake when it is.
    pub fn poll(&self, cx: &mut Context<'_>) -> bool {
        if self.woken.swap(false, Ordering::Relaxed) {
            return true;
        }
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        false
    }
}

/// Wakes a simulated shard; of any thread as the trait demands, though there is one only.
#[derive(Clone, Debug)]
pub struct SimWaker(pub(super) Arc<Signal>);

impl Wake for SimWaker {
    fn wake(&self) {
        self.0.wake();
    }
}

/// Nanoseconds, as far as 64 bits reach.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
