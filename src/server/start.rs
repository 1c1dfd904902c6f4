//! The whole node: a thread per core, from the first byte of replay to the last of the log.
//!
//! ```text
//! each shard:   runtime -> replay its log, lead its partitions -> "opened"
//! when all are: listen on the shared port and on its own -> "listening on ..."
//! when all are: connect mailboxes, learn the topology -> serve
//! ```
//!
//! Whatever ends one shard ends the node: half a node that serves half the keys helps nobody.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::Server;
use super::channels::Interest;
use super::node::{Common, Configure, Node, TrackerCounts};
use crate::ack::Ack;
use crate::cluster::{Members, SlotMap};
use crate::command::notify::Classes;
use crate::command::{Endpoint, Identity, SlotRange, Topology, endpoint_id};
use crate::config::Runtime;
use crate::env::uring::{self, Features, Start};
use crate::env::{Env, Wake, os};
use crate::eviction::Eviction;
use crate::id::{NodeId, ShardId, Slot};
use crate::lsm::table::Compression;
use crate::metrics::ShardStats;
use crate::shard::mailbox::{self, Mailbox};
use crate::shard::{self, Progress, Shard};
use crate::wal;

/// How a node is started.
pub struct Options {
    /// Where its shards' directories are; locked and identified by the caller.
    pub data_dir: PathBuf,
    /// This node, as its directory says.
    pub node: NodeId,
    /// The nodes of its cluster, if it is not the only one.
    pub members: Option<Arc<Members>>,
    /// The directory's own number: logs of another directory are refused.
    pub log_id: u128,
    /// Shards and partitions, as its directory says.
    pub map: SlotMap,
    /// Whether shard n runs on core n alone.
    pub pin: bool,
    /// The memory budget of the node, bytes.
    pub memory_max: usize,
    /// What drives disk and sockets.
    pub runtime: Runtime,
    /// What an answer waits for whose client does not say.
    pub ack: Ack,
    /// Where to listen.
    pub bind: IpAddr,
    /// The port shared by all shards; 0: any free one.
    pub resp_port: u16,
    /// The port of the binary protocol, shared by all shards; 0: any free one.
    pub binary_port: u16,
    /// Shard n has port base + n of its own; 0: any free ones.
    pub shard_port_base: u16,
    /// Whether keys of another shard are answered with MOVED.
    pub cluster_mode: bool,
    /// What clients have to say first.
    pub password: Option<Vec<u8>>,
    /// Most connections of the node.
    pub clients_max: u64,
    /// Which keyspace events are told of, until `CONFIG SET`.
    pub notify: Classes,
    /// Which keys leave when memory is full, until `CONFIG SET`. For rows that never leave it
    /// otherwise.
    pub eviction: Eviction,
    /// From how many milliseconds on LATENCY tells of a command, until `CONFIG SET`; 0: of none.
    pub latency_ms: u64,
    /// From how many microseconds on a command is slow, until `CONFIG SET`; negative: none is.
    pub slow_us: i64,
    /// Slow commands that are kept, until `CONFIG SET`.
    pub slow_len_max: u32,
    /// Bytes of a log segment.
    pub segment_len: u64,
    /// Bytes of a shard's log that is not in tables: writes wait from here on.
    pub log_len_max: u64,
    /// How new tables store rows.
    pub compression: Compression,
    /// Rows that are in tables leave memory when more bytes than this are used; none: never.
    pub rows_len_max: Option<usize>,
    /// Who we are, but for ports and shard.
    pub identity: Identity,
    /// For `CONFIG GET`.
    pub config: Vec<(&'static str, String)>,
    /// For `CONFIG SET`.
    pub configure: Box<Configure>,
    /// Told how far each shard's replay is.
    pub on_progress: Arc<dyn Fn(ShardId, Progress) + Send + Sync>,
}

/// Why a node could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shard's data could not be opened.
    #[error("shard {shard}: {source}")]
    Open {
        /// Which.
        shard: ShardId,
        /// Why.
        source: shard::Error,
    },
    /// A port could not be had.
    #[error(
        "listen on {addr}: {source}; choose another with --resp-port, --binary-port or \
         --shard-port-base"
    )]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The runtime of a shard could not be set up, or broke.
    #[error("shard {shard}: {source}")]
    Runtime {
        /// Which.
        shard: ShardId,
        /// Why.
        source: io::Error,
    },
    /// The log could not be closed.
    #[error("shard {shard}: {source}")]
    Log {
        /// Which.
        shard: ShardId,
        /// Why.
        source: Arc<wal::Error>,
    },
    /// A shard's thread panicked; the text is on standard error.
    #[error("shard {shard} panicked")]
    Panicked {
        /// Which.
        shard: ShardId,
    },
}

/// A serving node.
pub struct Running {
    /// The shared port.
    pub resp_port: u16,
    /// The shared port of the binary protocol.
    pub binary_port: u16,
    /// Each shard's own.
    pub shard_ports: Vec<u16>,
    stopper: Stopper,
    ends: Receiver<(ShardId, Result<(), Error>)>,
    threads: Vec<JoinHandle<()>>,
}

/// Stops a node from anywhere.
#[derive(Clone)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    wakers: Vec<uring::Waker>,
}

impl Stopper {
    /// Begins the drain. May be called more than once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wakers.iter().for_each(Wake::wake);
    }
}

/// What a shard tells the starter.
enum News {
    Waker(uring::Waker),
    Opened,
    Listening(u16),
    Failed(Error),
}

/// What the starter tells a shard.
enum Order {
    Listen(Shared),
    Serve(Box<Node>, Vec<uring::Waker>),
}

/// The ports that all shards share.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    pub resp: u16,
    pub binary: u16,
}

/// Both ends of a shard's start, as the starter sees them.
struct Starting {
    news: Receiver<News>,
    orders: Sender<Order>,
}

/// What a shard's thread takes along.
struct Seat {
    shard: ShardId,
    options: Arc<Options>,
    mailbox: Mailbox<uring::Waker>,
    stats: Arc<ShardStats>,
    stop: Arc<AtomicBool>,
    news: Sender<News>,
    orders: Receiver<Order>,
}

/// Starts all shards; returns when the node serves.
///
/// # Errors
/// As [`Error`]. All threads have ended then.
pub fn start(options: Options) -> Result<Running, Error> {
    let reserve = |port| {
        let addr = SocketAddr::new(options.bind, port);
        os::reserve_port(addr).map_err(|source| Error::Listen { addr, source })
    };
    let (resp, binary) = (reserve(options.resp_port)?, reserve(options.binary_port)?);
    let shared = Shared { resp: resp.port(), binary: binary.port() };
    let features =
        Features::probe().map_err(|source| Error::Runtime { shard: ShardId(0), source })?;
    let count = options.map.shard_count();
    let stats: Vec<_> = (0..count).map(|_| Arc::new(ShardStats::default())).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let options = Arc::new(options);
    let begin = Start::now();
    let (end, ends) = channel();
    let mut starting = Vec::new();
    let mut threads = Vec::new();
    for (index, mailbox) in mailbox::mesh(count).into_iter().enumerate() {
        let (news_in, news) = channel();
        let (orders, orders_out) = channel();
        let shard = ShardId(index as u16);
        let seat = Seat {
            shard,
            options: Arc::clone(&options),
            mailbox,
            stats: Arc::clone(&stats[index]),
            stop: Arc::clone(&stop),
            news: news_in,
            orders: orders_out,
        };
        let end = end.clone();
        let core = options.pin.then_some(index);
        let thread = os::spawn(&format!("shard-{shard}"), core, move || {
            let run = std::panic::AssertUnwindSafe(|| run_shard(seat, features, begin));
            let result = std::panic::catch_unwind(run);
            // The starter may have given up on us; nobody else is to be told.
            let _ = end.send((shard, result.unwrap_or(Err(Error::Panicked { shard }))));
        });
        threads.push(thread.map_err(|source| Error::Runtime { shard, source })?);
        starting.push(Starting { news, orders });
    }
    match bring_up(&options, &starting, &stats, shared) {
        Ok((wakers, shard_ports)) => {
            let stopper = Stopper { stop, wakers };
            let Shared { resp: resp_port, binary: binary_port } = shared;
            Ok(Running { resp_port, binary_port, shard_ports, stopper, ends, threads })
        }
        Err(error) => {
            // Shards that wait for orders end when these channels close.
            drop(starting);
            stop.store(true, Ordering::Release);
            threads.into_iter().for_each(|thread| drop(thread.join()));
            let first = ends.try_iter().find_map(|(_, result)| result.err());
            Err(error.or(first).unwrap_or(Error::Panicked { shard: ShardId(0) }))
        }
    }
}

/// Takes all shards through the start together. An error of `None`: a shard ended without a word,
/// and its end says why.
fn bring_up(
    options: &Arc<Options>,
    starting: &[Starting],
    stats: &[Arc<ShardStats>],
    shared: Shared,
) -> Result<(Vec<uring::Waker>, Vec<u16>), Option<Error>> {
    let mut wakers = Vec::new();
    for shard in starting {
        match hear(shard)? {
            News::Waker(waker) => wakers.push(waker),
            _ => return Err(None),
        }
    }
    for shard in starting {
        hear(shard)?;
    }
    let mut ports = Vec::new();
    for shard in starting {
        shard.orders.send(Order::Listen(shared)).map_err(|_| None)?;
        match hear(shard)? {
            News::Listening(port) => ports.push(port),
            _ => return Err(None),
        }
    }
    let common = Arc::new(common(options, stats));
    for (index, shard) in starting.iter().enumerate() {
        let node = node(options, &common, ShardId(index as u16), shared.resp, &ports);
        let order = Order::Serve(Box::new(node), wakers.clone());
        shard.orders.send(order).map_err(|_| None)?;
    }
    Ok((wakers, ports))
}

fn hear(shard: &Starting) -> Result<News, Option<Error>> {
    match shard.news.recv() {
        Ok(News::Failed(error)) => Err(Some(error)),
        Ok(news) => Ok(news),
        Err(_) => Err(None),
    }
}

/// What the shards of a node share.
pub(crate) fn common(options: &Arc<Options>, stats: &[Arc<ShardStats>]) -> Common {
    let configured = Arc::clone(options);
    Common {
        stats: stats.to_vec(),
        data_dir: options.data_dir.clone(),
        save: Default::default(),
        password: Mutex::new(options.password.as_deref().map(Arc::from)),
        idle_s: AtomicU64::new(0),
        clients_max: options.clients_max,
        memory_max: options.memory_max as u64,
        config: options.config.clone(),
        configure: Box::new(move |name, value| (configured.configure)(name, value)),
        set: Mutex::default(),
        notify: AtomicU32::new(options.notify.bits()),
        eviction: AtomicU8::new(options.eviction.number()),
        latency_ms: AtomicU64::new(options.latency_ms),
        slow_us: AtomicI64::new(options.slow_us),
        slow_len_max: AtomicU32::new(options.slow_len_max),
        slow_next: AtomicU64::new(0),
        peers: stats.iter().map(|_| Mutex::default()).collect(),
        interest: stats.iter().map(|_| Interest::default()).collect(),
        trackers: stats.iter().map(|_| TrackerCounts::default()).collect(),
        monitors: stats.iter().map(|_| AtomicU32::new(0)).collect(),
        open: stats.iter().map(|_| Mutex::default()).collect(),
        client_next: AtomicU64::new(0),
        memory_peak: AtomicU64::new(0),
        idle: stats.iter().map(|_| AtomicBool::new(false)).collect(),
    }
}

/// The node as `shard` sees it; `ports` are all shards' own.
pub(crate) fn node(
    options: &Options,
    common: &Arc<Common>,
    shard: ShardId,
    resp_port: u16,
    ports: &[u16],
) -> Node {
    let everywhere = options.bind.is_unspecified();
    let named = options.members.as_ref().map(|members| members.own_addr().ip());
    let visible = match everywhere {
        true => named.unwrap_or(IpAddr::from([127, 0, 0, 1])),
        false => options.bind,
    };
    let endpoints = ports.iter().enumerate().map(|(index, port)| Endpoint {
        id: endpoint_id(&options.identity.node_id, ShardId(index as u16)),
        host: visible.to_string(),
        port: *port,
        peer_port: 0,
        is_reached: true,
    });
    let ranges = (0..ports.len()).map(|index| {
        let slots = options.map.slots_of_shard(ShardId(index as u16));
        let (first, last) = (Slot(slots.start), Slot(slots.end - 1));
        SlotRange { first, last, leader: index, followers: Vec::new() }
    });
    let topology = Topology {
        epoch: 1,
        endpoints: endpoints.collect(),
        ranges: ranges.collect(),
        myself: shard.0 as usize,
    };
    if let Some(members) = &options.members {
        for (index, port) in ports.iter().enumerate() {
            let host = visible.to_string();
            members.note_endpoint(members.own(), ShardId(index as u16), &host, *port);
        }
    }
    let identity = Identity { shard, resp_port, ..options.identity.clone() };
    Node::new(Arc::clone(common), identity, topology, options.members.clone())
}

fn run_shard(seat: Seat, features: Features, start: Start) -> Result<(), Error> {
    let shard = seat.shard;
    let news = seat.news.clone();
    let (name, seed) = (u64::from(shard.0) + 1, os::random_seed());
    let ended = match seat.options.runtime {
        Runtime::IoUring => {
            let options = uring::Options { name, start, seed, features };
            uring::run(options, |env| serve(env, seat))
        }
        Runtime::Glommio => run_on_glommio(name, start, seed, seat),
    };
    ended.unwrap_or_else(|source| {
        let text = io::Error::new(source.kind(), source.to_string());
        let _ = news.send(News::Failed(Error::Runtime { shard, source: text }));
        Err(Error::Runtime { shard, source })
    })
}

#[cfg(feature = "glommio")]
fn run_on_glommio(name: u64, start: Start, seed: u64, seat: Seat) -> io::Result<Result<(), Error>> {
    let options = crate::env::glommio::Options { name, start, seed };
    crate::env::glommio::run(options, |env| serve(env, seat))
}

#[cfg(not(feature = "glommio"))]
fn run_on_glommio(_: u64, _: Start, _: u64, _: Seat) -> io::Result<Result<(), Error>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this build has no glommio runtime"))
}

/// A shard's life.
async fn serve<E>(env: E, seat: Seat) -> Result<(), Error>
where
    E: Env<Waker = uring::Waker>,
{
    let Seat { shard: id, options, mut mailbox, stats, stop, news, orders } = seat;
    // Whoever does not listen any more has given up on the start, and so do we.
    let _ = news.send(News::Waker(env.waker()));
    let shard = match open(&env, id, &options, stats).await {
        Ok(shard) => shard,
        Err(error) => {
            let _ = news.send(News::Failed(error));
            return Ok(());
        }
    };
    let _ = news.send(News::Opened);
    let Ok(Order::Listen(shared)) = orders.recv() else { return Ok(()) };
    match listen(&env, id, &options, shared) {
        Ok(port) => drop(news.send(News::Listening(port))),
        Err(error) => {
            let _ = news.send(News::Failed(error));
            return Ok(());
        }
    }
    let Ok(Order::Serve(node, wakers)) = orders.recv() else { return Ok(()) };
    mailbox.connect(&wakers);
    let server = Server::new(env, shard, mailbox, *node, stop);
    let shard = server.run().await;
    shard.close().await.map_err(|source| Error::Log { shard: id, source })
}

async fn open<E: Env>(
    env: &E,
    id: ShardId,
    options: &Options,
    stats: Arc<ShardStats>,
) -> Result<Shard<E>, Error> {
    let on_progress = Arc::clone(&options.on_progress);
    shard::open(env.clone(), opening(id, options), stats, move |progress| on_progress(id, progress))
        .await
        .map_err(|source| Error::Open { shard: id, source })
}

/// Where the log of shard `id` is.
pub fn log_dir(data_dir: &Path, id: ShardId) -> PathBuf {
    data_dir.join(format!("shard-{id:02}")).join("wal")
}

/// Where the tables of shard `id` are.
pub fn tree_dir(data_dir: &Path, id: ShardId) -> PathBuf {
    data_dir.join(format!("shard-{id:02}")).join("tree")
}

/// How shard `id` of the node is opened.
pub(crate) fn opening(id: ShardId, options: &Options) -> shard::Options {
    let dir = log_dir(&options.data_dir, id);
    let shards = usize::from(options.map.shard_count());
    shard::Options {
        node: options.node,
        shard: id,
        members: options.members.clone(),
        map: options.map,
        ack: options.ack,
        memory_max: options.memory_max / shards,
        log: wal::Options {
            segment_len: options.segment_len,
            reserve_len: wal::RESERVE_LEN,
            // The cores share the disk.
            room_len: options.segment_len * shards as u64,
            ..wal::Options::new(dir, options.log_id, id)
        },
        tree: shard::TreeOptions {
            dir: tree_dir(&options.data_dir, id),
            log: wal::LogId { directory: options.log_id, shard: id },
            log_len_max: options.log_len_max,
            compression: options.compression,
            rows_len_max: options.rows_len_max.map(|len| (len / shards) as u64),
        },
        planted: None,
    }
}

/// Listens on the shared ports and on the shard's own, which is returned. The order of the
/// listeners tells them apart ([`super::binary::LISTENER`]).
pub(crate) fn listen<E: Env>(
    env: &E,
    id: ShardId,
    options: &Options,
    shared: Shared,
) -> Result<u16, Error> {
    let on = |port: u16, shared: bool| {
        let addr = SocketAddr::new(options.bind, port);
        let bound = env.listen(addr, shared).map(|(_, bound)| bound.port());
        bound.map_err(|source| Error::Listen { addr, source })
    };
    on(shared.resp, true)?;
    let own = if options.shard_port_base == 0 { 0 } else { options.shard_port_base + id.0 };
    let own = on(own, false)?;
    on(shared.binary, true)?;
    if let Some(members) = &options.members {
        on(members.peer_port(members.own(), id), false)?;
    }
    Ok(own)
}

impl Running {
    /// Stops the node from anywhere.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the node has ended, by [`Stopper::stop`] or by itself.
    ///
    /// # Errors
    /// What ended it, if it was not asked to.
    pub fn wait(self) -> Result<(), Error> {
        let mut result = Ok(());
        for _ in 0..self.threads.len() {
            let Ok((_, ended)) = self.ends.recv() else { break };
            // The first to go takes the others along.
            self.stopper.stop();
            result = result.and(ended);
        }
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        result
    }
}
