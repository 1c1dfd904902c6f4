//! A real node in the simulator: built as [`start`](crate::server::start()) builds it, with a task
//! per shard in place of a thread.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::talk::{Talk, Value};
use crate::ack::Ack;
use crate::cluster::{Members, SlotMap, Topology, Witness};
use crate::command::Identity;
use crate::env::{Class, Env, Wake};
use crate::eviction::Eviction;
use crate::id::{NodeId, ShardId};
use crate::limits::SECTOR_LEN;
use crate::lsm::table::Compression;
use crate::metrics::ShardStats;
use crate::server::{self, Common, Node, Options, Server, Shared};
use crate::shard::mailbox::{self, Mailbox};
use crate::shard::{self, Planted};
use crate::sim::{self, Sim, SimEnv, SimWaker};
use crate::wal;

/// The node of a test of one.
const NODE: NodeId = NodeId(1);
/// Where the first shard of a node of several listens for the others.
pub const PEER_PORT: u16 = 7401;
/// The port shared by its shards.
pub const PORT: u16 = 6379;
/// The port of the binary protocol, shared too.
pub const BINARY_PORT: u16 = 7400;
/// Shard n has this port plus n of its own.
pub const SHARD_PORTS: u16 = 7500;
/// The longest that anything may take; longer is a hang. Virtual time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What kind of node.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Cores.
    pub shards: u16,
    /// Of each shard.
    pub partitions: u32,
    /// What an answer waits for whose client does not say.
    pub ack: Ack,
    /// Which cluster it is one of, if it is of any.
    pub cluster: u128,
    /// How many nodes of a cluster have a replica of each partition.
    pub replicas: u8,
    /// How long a node of a cluster may be silent before others have its replicas; zero: for ever.
    pub replace_after: Duration,
    /// How old what a replica that follows is asked may be; zero: none is.
    pub stale_max: Duration,
    /// The memory budget of the node, bytes.
    pub memory_max: usize,
    /// What clients have to say first.
    pub password: Option<&'static str>,
    /// Whether keys of another shard are answered with MOVED.
    pub cluster_mode: bool,
    /// Bytes of a log segment.
    pub segment_len: u64,
    /// Bytes of a shard's log that is not in tables: writes wait from here on.
    pub log_len_max: u64,
    /// How new tables store rows.
    pub compression: Compression,
    /// Bytes of rows that stay in memory although tables have them; `None`: all do.
    pub rows_len_max: Option<usize>,
    /// Which keys leave when memory is full.
    pub eviction: Eviction,
    /// Parts per million by which the clocks of some nodes are fast, and those of others slow.
    pub drift_ppm: i64,
    /// Whether its replicas show what they have to its witness.
    pub watched: bool,
    /// A bug of a shard's, to show that it is seen.
    pub planted: Option<Planted>,
    /// A bug of the log's.
    pub log_planted: Option<wal::Planted>,
    /// A node that has lost its data is started as who it was, and no other notices.
    pub careless: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            shards: 1,
            partitions: 2,
            ack: Ack::Quorum,
            cluster: 9,
            replicas: crate::cluster::REPLICAS,
            replace_after: Duration::from_secs(600),
            stale_max: Duration::from_secs(5),
            memory_max: 1 << 30,
            password: None,
            cluster_mode: false,
            segment_len: (wal::format::BLOCK_LEN_MAX + SECTOR_LEN) as u64,
            log_len_max: 1 << 30,
            compression: Compression::None,
            rows_len_max: None,
            eviction: Eviction::None,
            drift_ppm: 0,
            watched: false,
            planted: None,
            log_planted: None,
            careless: false,
        }
    }
}

/// What the shards of one life of the node say.
#[derive(Default)]
struct Life {
    opened: Cell<u16>,
    serving: Cell<u16>,
    ended: Cell<u16>,
    errors: RefCell<Vec<String>>,
}

/// See the module's header.
pub struct House {
    /// Its world.
    pub sim: Rc<Sim>,
    /// Its machine.
    pub node: sim::Node,
    /// How it is started.
    pub shape: Shape,
    /// What its shards count since they started.
    pub stats: Vec<Arc<ShardStats>>,
    id: NodeId,
    /// How often it began with nothing.
    births: u32,
    /// How often it was started.
    lives: u64,
    /// What it starts from, if it is one of a cluster.
    topology: Option<Topology>,
    /// What it knows of its cluster then.
    pub members: Option<Arc<Members>>,
    /// What its replicas were seen to be.
    pub witness: Arc<Witness>,
    life: Rc<Life>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "House({:?}, {:?})", self.node, self.shape)
    }
}

impl House {
    /// A node that serves.
    ///
    /// # Panics
    /// If it does not start.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut house = Self::unopened(seed, shape);
        house.boot().expect("an empty directory opens");
        house
    }

    /// A node that is not started.
    pub fn unopened(seed: u64, shape: Shape) -> Self {
        Self::in_cluster(&Rc::new(Sim::new(seed)), NODE, None, shape)
    }

    /// One of several nodes, not started, on the machine of its number.
    pub fn in_cluster(sim: &Rc<Sim>, id: NodeId, topology: Option<Topology>, shape: Shape) -> Self {
        Self::on(sim, id, id, topology, shape)
    }

    /// One of several nodes, not started, on `machine`.
    pub fn on(
        sim: &Rc<Sim>,
        machine: NodeId,
        id: NodeId,
        topology: Option<Topology>,
        shape: Shape,
    ) -> Self {
        let (sim, node) = (Rc::clone(sim), sim.node(machine));
        node.make_dir("/data");
        let (stats, life, stop) = (Vec::new(), Rc::default(), Arc::default());
        let (births, lives, members, witness) = (0, 0, None, Arc::default());
        Self { sim, node, shape, stats, id, births, lives, topology, members, witness, life, stop }
    }

    /// Its number in its cluster: not that of its machine, if the machine was another node before.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Starts the node and waits until it serves.
    ///
    /// # Errors
    /// Why it does not.
    pub fn boot(&mut self) -> Result<(), String> {
        self.boot_until(|| false).map(drop)
    }

    /// Starts the node and waits until it serves, or until `stop`. Whether it serves.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn boot_until(&mut self, stop: impl Fn() -> bool) -> Result<bool, String> {
        if !self.node.is_up() {
            self.node.restart();
        }
        let drift = [0, self.shape.drift_ppm, -self.shape.drift_ppm];
        self.node.set_drift_ppm(drift[self.node.id().0 as usize % drift.len()]);
        (self.life, self.stop) = (Rc::default(), Arc::default());
        let count = self.shape.shards;
        self.lives += 1;
        let life = self.node.id().0 << 32 | self.lives;
        let whose = (self.id, self.incarnation(), life);
        let options = Arc::new(options(&self.shape, whose, self.topology.as_ref(), &self.witness));
        self.members = options.members.clone();
        self.stats = (0..count).map(|_| Arc::default()).collect();
        let common = Arc::new(server::common(&options, &self.stats));
        let wakers = self.wakers();
        for (index, mailbox) in mailbox::mesh(count).into_iter().enumerate() {
            let id = ShardId(index as u16);
            let env = self.node.env(id);
            let seat = Seat {
                id,
                options: Arc::clone(&options),
                shape: self.shape.clone(),
                mailbox,
                wakers: wakers.clone(),
                common: Arc::clone(&common),
                life: Rc::clone(&self.life),
                stop: Arc::clone(&self.stop),
            };
            env.spawn(Class::Foreground, seat.live(env.clone()));
        }
        let life = &self.life;
        let ends = || life.serving.get() == count || !life.errors.borrow().is_empty();
        self.sim.run_until(|| ends() || stop());
        match life.errors.borrow_mut().pop() {
            Some(error) => Err(error),
            None => Ok(life.serving.get() == count),
        }
    }

    /// That of its data directory, which has it from its birth on.
    fn incarnation(&mut self) -> u32 {
        const PREFIX: &str = "incarnation-";
        if self.topology.is_none() || self.shape.careless {
            return 0;
        }
        let names = self.node.names("/data");
        let known = names.iter().find_map(|name| name.strip_prefix(PREFIX)?.parse().ok());
        known.unwrap_or_else(|| {
            self.births += 1;
            self.node.make_dir(format!("/data/{PREFIX}{}", self.births));
            self.births
        })
    }

    fn wakers(&self) -> Vec<SimWaker> {
        (0..self.shape.shards).map(|index| self.node.env(ShardId(index)).waker()).collect()
    }

    /// Begins the drain of a stop.
    pub fn begin_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wakers().iter().for_each(Wake::wake);
    }

    /// Whether all shards have drained and closed their logs.
    pub fn has_stopped(&self) -> bool {
        self.life.ended.get() == self.shape.shards
    }

    /// Stops the node as SIGTERM does, and waits for its end.
    ///
    /// # Panics
    /// If it does not come.
    pub fn stop(&self) {
        self.begin_stop();
        self.wait("the drain", || self.has_stopped());
        self.node.kill();
    }

    /// Power cut and start, without faults.
    ///
    /// # Panics
    /// If it does not start.
    pub fn power_cycle(&mut self) {
        self.node.power_cut();
        self.boot().expect("a log that a power cut left opens");
    }

    /// A connection to the shared port.
    pub fn connect(&self) -> Talk {
        Talk::new(self.sim.connect(self.node.id(), PORT))
    }

    /// A connection to a shard's own port.
    pub fn connect_to(&self, shard: u16) -> Talk {
        Talk::new(self.sim.connect(self.node.id(), SHARD_PORTS + shard))
    }

    /// Runs until `done`.
    ///
    /// # Panics
    /// On a hang.
    pub fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = self.sim.now() + PATIENCE;
        self.sim.run_until(|| {
            assert!(self.sim.now() < end, "hang: waited {PATIENCE:?} for {what}");
            done()
        });
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Panics
    /// If none comes.
    pub fn ask(&self, talk: &mut Talk, args: &[&str]) -> Value {
        talk.send(args);
        self.reply(talk)
    }

    /// Waits for the next reply.
    ///
    /// # Panics
    /// If none comes.
    pub fn reply(&self, talk: &mut Talk) -> Value {
        let mut got = None;
        self.wait("a reply", || {
            got = talk.next();
            assert!(got.is_some() || !talk.is_ended(), "the connection ended before the reply");
            got.is_some()
        });
        got.expect("waited for it")
    }

    /// Waits for the next `count` replies.
    ///
    /// # Panics
    /// If they do not come.
    pub fn replies(&self, talk: &mut Talk, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.reply(talk)).collect()
    }

    /// All replies until the server closes.
    ///
    /// # Panics
    /// If it does not.
    pub fn until_closed(&self, talk: &mut Talk) -> Vec<Value> {
        let mut got = Vec::new();
        self.wait("the server to close", || {
            got.extend(std::iter::from_fn(|| talk.next()));
            talk.is_ended()
        });
        got.extend(std::iter::from_fn(|| talk.next()));
        got
    }

    /// Lets time pass.
    pub fn run_ms(&self, ms: u64) {
        self.sim.run_for(Duration::from_millis(ms));
    }
}

fn options(
    shape: &Shape,
    (node, incarnation, life): (NodeId, u32, u64),
    topology: Option<&Topology>,
    witness: &Arc<Witness>,
) -> Options {
    let partitions = u32::from(shape.shards) * shape.partitions;
    let members = |topology: &Topology| {
        let members = Members::new(node, shape.cluster, topology.clone(), shape.shards, partitions);
        let members = members.born(incarnation, life);
        let members = members.patient_for(shape.replace_after).stale_for(shape.stale_max);
        Arc::new(match shape.watched {
            true => members.seen_by(Arc::clone(witness)),
            false => members,
        })
    };
    Options {
        members: topology.map(members),
        runtime: crate::config::Runtime::IoUring,
        data_dir: "/data".into(),
        node,
        log_id: 7,
        map: SlotMap::new(shape.shards, shape.partitions),
        pin: false,
        memory_max: shape.memory_max,
        ack: shape.ack,
        bind: Ipv4Addr::LOCALHOST.into(),
        resp_port: PORT,
        binary_port: BINARY_PORT,
        shard_port_base: SHARD_PORTS,
        cluster_mode: shape.cluster_mode,
        password: shape.password.map(|word| word.as_bytes().to_vec()),
        clients_max: 1000,
        notify: crate::command::notify::Classes::default(),
        latency_ms: 0,
        eviction: shape.eviction,
        slow_us: 10_000,
        slow_len_max: 128,
        segment_len: shape.segment_len,
        log_len_max: shape.log_len_max,
        compression: shape.compression,
        rows_len_max: shape.rows_len_max,
        identity: Identity {
            node_id: "f".repeat(40),
            cores: shape.shards,
            cluster_mode: shape.cluster_mode,
            ack: shape.ack,
            may_evict: shape.rows_len_max.is_none(),
            ..Identity::default()
        },
        config: Vec::new(),
        configure: Box::new(|_, _| {}),
        on_progress: Arc::new(|_, _| {}),
    }
}

/// What a shard's task takes along.
struct Seat {
    id: ShardId,
    options: Arc<Options>,
    shape: Shape,
    mailbox: Mailbox<SimWaker>,
    wakers: Vec<SimWaker>,
    common: Arc<Common>,
    life: Rc<Life>,
    stop: Arc<AtomicBool>,
}

impl Seat {
    async fn live(mut self, env: SimEnv) {
        let life = Rc::clone(&self.life);
        let opening = shard::Options {
            planted: self.shape.planted,
            log: wal::Options {
                planted: self.shape.log_planted,
                ..server::opening(self.id, &self.options).log
            },
            ..server::opening(self.id, &self.options)
        };
        let stats = Arc::clone(&self.common.stats[usize::from(self.id.0)]);
        let shard = match shard::open(env.clone(), opening, stats, |_| {}).await {
            Ok(shard) => shard,
            Err(error) => return life.errors.borrow_mut().push(error.to_string()),
        };
        life.opened.set(life.opened.get() + 1);
        while life.opened.get() < self.shape.shards {
            env.sleep(Duration::from_micros(50)).await;
        }
        let shared = Shared { resp: PORT, binary: BINARY_PORT };
        server::listen(&env, self.id, &self.options, shared).expect("the ports are free");
        self.mailbox.connect(&self.wakers);
        let node = self.node();
        let server = Server::new(env, shard, self.mailbox, node, self.stop);
        life.serving.set(life.serving.get() + 1);
        let shard = server.run().await;
        // Whether the log closes well after a failure is not what these tests are about.
        let _ = shard.close().await;
        life.ended.set(life.ended.get() + 1);
    }

    fn node(&self) -> Node {
        let ports: Vec<u16> = (0..self.shape.shards).map(|n| SHARD_PORTS + n).collect();
        server::node(&self.options, &self.common, self.id, PORT, &ports)
    }
}
