//! Stave's engine: one shard on the production runtime, on one thread that has a core of its own.
//!
//! It is driven as the server drives it ([`stavekv::server`]): a turn takes what clients ask for in
//! rounds, keys of a round are prefetched together, what has to commit is held, the turn ends with
//! one write to the log. A client here has one operation under way and asks for the next in the
//! turn after its answer. Writes that are not synced are asked for [`BATCH`] at a time: an engine
//! of turns is never met by one write alone unless it is idle.

use std::cell::Cell;
use std::mem::take;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use stavekv::ack::Ack;
use stavekv::cluster::SlotMap;
use stavekv::command::{self, Spec};
use stavekv::env::uring::{self, Features, UringEnv};
use stavekv::env::{Class, Env as _, os};
use stavekv::id::{NodeId, ShardId};
use stavekv::limits::PARTITIONS_PER_CORE;
use stavekv::lsm::key;
use stavekv::lsm::table::Compression;
use stavekv::metrics::ShardStats;
use stavekv::partition::Waiter;
use stavekv::protocol::resp::{Args, Proto, Reply, Span};
use stavekv::shard::{self, Shard, Target, Wait};
use stavekv::wal;

use crate::report::Figures;
use crate::stage::{Stage, Tally};
use crate::workload::{Draw, KEY_LEN, Kind, MIXED_RATE, Run, VALUE_LEN, name_of};

/// As the server's.
const SLICE: Duration = Duration::from_micros(250);
const TICK: Duration = Duration::from_millis(100);
/// As the default of `wal-size-max`.
const LOG_LEN_MAX: u64 = 512 << 20;
/// Writes of a client that does not wait for the disk.
const BATCH: u32 = 64;
/// The writer beside the reads: not tallied.
const BESIDE: u32 = u32::MAX;

/// Runs a workload on it.
///
/// # Errors
/// The engine's.
pub fn run(run: &Run) -> Result<Figures> {
    let stage = Arc::new(Stage::default());
    let tally = spawn(run.clone(), Arc::clone(&stage))?;
    let readings = stage.lead(run);
    tally.recv()??.figures(run, readings)
}

fn spawn(run: Run, stage: Arc<Stage>) -> Result<Receiver<Result<Tally>>> {
    let (sender, receiver) = channel();
    let features = Features::probe()?;
    os::spawn("shard-00", Some(0), move || {
        let start = os::Start::now();
        let options = uring::Options { name: 1, start, seed: run.seed, features };
        let ended = uring::run(options, |env| serve(env, run, Arc::clone(&stage)));
        // Whoever waits for a stage that never comes is let go.
        stage.stop();
        let _ = sender.send(ended.unwrap_or_else(|error| Err(error.into())));
    })?;
    Ok(receiver)
}

async fn serve(env: UringEnv, run: Run, stage: Arc<Stage>) -> Result<Tally> {
    let begin = Instant::now();
    let stats = Arc::new(ShardStats::default());
    let shard = shard::open(env.clone(), options(&run), stats, |_| {}).await?;
    let mut load = Load::new(env, shard, &run, Arc::clone(&stage));
    load.spawn_ticks();
    let is_new = run.workload.kind == Kind::Fill;
    load.read_one(run.keys / 2).await?;
    // A new directory has no keys yet.
    load.tally.missing *= u64::from(!is_new);
    load.tally.open = begin.elapsed();
    stage.ready();
    match run.count() {
        Some(_) => load.wait_for_start().await,
        None if run.workload.kind == Kind::Open => stage.stop(),
        None => {}
    }
    load.run().await?;
    let Load { shard, tally, .. } = load;
    shard.close().await?;
    Ok(tally)
}

fn options(run: &Run) -> shard::Options {
    let (log_id, shard) = (u128::from(run.keys), ShardId(0));
    shard::Options {
        node: NodeId(1),
        shard,
        members: None,
        map: SlotMap::new(1, PARTITIONS_PER_CORE.into()),
        ack: ack(run),
        memory_max: run.memory as usize,
        log: wal::Options::new(run.dir.join("shard-00/wal"), log_id, shard),
        tree: shard::TreeOptions {
            dir: run.dir.join("shard-00/tree"),
            log: wal::LogId { directory: log_id, shard },
            log_len_max: LOG_LEN_MAX,
            // As that of the others.
            compression: Compression::None,
            rows_len_max: Some(run.memory),
        },
        planted: None,
    }
}

fn ack(run: &Run) -> Ack {
    if run.workload.is_synced() { Ack::Quorum } else { Ack::Relaxed }
}

/// What a client asks for, looked up as far as its key goes.
#[derive(Clone, Copy)]
struct Request {
    client: u32,
    is_write: bool,
    name: [u8; KEY_LEN],
    place: u32,
    hash: u64,
    /// Where in the keys of the round.
    at: usize,
}

/// A request whose key is being fetched from tables.
struct Parked {
    request: Request,
    key: Vec<u8>,
    wait: Wait,
}

/// A command as it comes from a connection: its bytes, and where the arguments are in them.
struct Line {
    spec: &'static Spec,
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Line {
    fn new(name: &str, lens: &[usize]) -> Self {
        let mut spans = vec![Span::new(0, name.len())];
        let mut bytes = name.as_bytes().to_vec();
        for len in lens {
            spans.push(Span::new(bytes.len(), *len));
            bytes.resize(bytes.len() + len, 0);
        }
        let spec = command::lookup(name.as_bytes()).expect("a command of the table");
        Self { spec, bytes, spans }
    }
}

struct Load {
    env: UringEnv,
    shard: Shard<UringEnv>,
    run: Run,
    stage: Arc<Stage>,
    draw: Draw,
    /// Keys that are still to come, where they are counted.
    left: Vec<u32>,
    tally: Tally,
    /// Clients that may ask.
    free: Vec<u32>,
    /// When each client asked.
    asked: Vec<Instant>,
    requests: Vec<Request>,
    keys: Vec<u8>,
    scratch: Vec<u8>,
    reply: Vec<u8>,
    waiters: Vec<Waiter>,
    parked: Vec<Parked>,
    /// Held until the log is durable.
    under_way: usize,
    /// Clients whose answer is there.
    answered: Vec<u32>,
    set: Line,
    get: Line,
    ticked: Rc<Cell<bool>>,
    /// Since when there is a writer beside the reads, and its writes.
    beside: (Instant, u64),
}

impl Load {
    fn new(env: UringEnv, shard: Shard<UringEnv>, run: &Run, stage: Arc<Stage>) -> Self {
        let mut draw = Draw::new(run, 0);
        let kind = run.workload.kind;
        let clients = match kind {
            Kind::Settle | Kind::Open => 0,
            Kind::Fill | Kind::Overwrite { sync: false } => BATCH,
            _ => run.workload.clients,
        };
        Self {
            left: draw.all(run),
            draw,
            env,
            shard,
            run: run.clone(),
            stage,
            tally: Tally::default(),
            free: (0..clients).collect(),
            asked: vec![Instant::now(); clients as usize],
            requests: Vec::new(),
            keys: Vec::new(),
            scratch: Vec::new(),
            reply: Vec::new(),
            waiters: Vec::new(),
            parked: Vec::new(),
            under_way: 0,
            answered: Vec::new(),
            set: Line::new("set", &[KEY_LEN, VALUE_LEN]),
            get: Line::new("get", &[KEY_LEN]),
            ticked: Rc::default(),
            beside: (Instant::now(), 0),
        }
    }

    fn spawn_ticks(&self) {
        let (env, ticked) = (self.env.clone(), Rc::clone(&self.ticked));
        self.env.spawn(Class::Foreground, async move {
            loop {
                env.sleep(TICK).await;
                ticked.set(true);
                env.notify();
            }
        });
    }

    async fn wait_for_start(&self) {
        while !self.stage.is_measured() {
            self.env.sleep(Duration::from_micros(200)).await;
        }
    }

    /// Turns until the run is stopped and all that was asked for is answered.
    async fn run(&mut self) -> Result<()> {
        let mut events = Vec::new();
        while !self.stage.is_stopped() || self.is_waiting() {
            // What waits for the disk is woken by it, and the ticks see that the run is over.
            if self.may_ask() {
                self.env.notify();
            }
            self.env.turn(&mut events).await;
            self.turn()?;
        }
        Ok(())
    }

    /// Reads one key: the engine is open when it is answered.
    async fn read_one(&mut self, number: u64) -> Result<()> {
        let mut events = Vec::new();
        self.prepare(BESIDE, false, number);
        self.evaluate_all()?;
        while self.is_waiting() {
            self.env.turn(&mut events).await;
            self.begin_turn()?;
            self.end_turn()?;
        }
        self.answered.clear();
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.under_way > 0 || !self.parked.is_empty()
    }

    fn begin_turn(&mut self) -> Result<()> {
        self.shard.begin_turn();
        self.shard.take_fetched();
        self.evaluate_parked()?;
        self.shard.advance();
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        self.begin_turn()?;
        let end = Instant::now() + SLICE;
        if self.run.workload.kind == Kind::Mixed {
            self.write_beside()?;
        }
        while self.may_ask() && self.round()? < end {}
        if self.ticked.replace(false) {
            self.shard.account(0);
            self.shard.release_some();
        }
        self.end_turn()
    }

    fn may_ask(&self) -> bool {
        !self.free.is_empty() && !self.stage.is_stopped() && !self.shard.is_backlogged()
    }

    /// All who may ask do. Returns when what could be answered at once was.
    fn round(&mut self) -> Result<Instant> {
        let is_write = matches!(self.run.workload.kind, Kind::Fill | Kind::Overwrite { .. });
        let now = Instant::now();
        while let Some(client) = self.free.pop() {
            let Some(number) = self.next() else {
                self.free.push(client);
                break;
            };
            self.asked[client as usize] = now;
            self.prepare(client, is_write, number);
        }
        if self.requests.is_empty() && !self.is_waiting() {
            self.stage.stop();
        }
        self.evaluate_all()?;
        Ok(self.note_answered())
    }

    fn next(&mut self) -> Option<u64> {
        match self.run.count() {
            Some(_) => self.left.pop().map(u64::from),
            None => Some(self.draw.key()),
        }
    }

    fn write_beside(&mut self) -> Result<()> {
        let (begin, count) = self.beside;
        let due = begin.elapsed().as_micros() as u64 * MIXED_RATE / 1_000_000;
        // A long pause is not made up for in one turn.
        for _ in count..due.min(count + u64::from(BATCH)) {
            let number = self.draw.key();
            self.prepare(BESIDE, true, number);
        }
        self.beside.1 = due;
        self.evaluate_all()
    }

    /// Looks up where the key is, and has memory brought near.
    fn prepare(&mut self, client: u32, is_write: bool, number: u64) {
        let name = name_of(number);
        let slot = key::slot_of(&name);
        let place = self.shard.locate(slot).expect("the only shard has all slots");
        key::encode_data_key(slot, 0, &name, &mut self.scratch);
        let memtable = self.shard.partition(place).memtable();
        let hash = memtable.hash(&self.scratch);
        memtable.prefetch(hash);
        let at = self.keys.len();
        self.keys.extend_from_slice(&self.scratch);
        self.requests.push(Request { client, is_write, name, place, hash, at });
    }

    fn evaluate_all(&mut self) -> Result<()> {
        let (requests, keys) = (take(&mut self.requests), take(&mut self.keys));
        for request in &requests {
            self.shard.partition(request.place).memtable().prefetch_entry(request.hash);
        }
        let ends = requests.iter().skip(1).map(|next| next.at).chain([keys.len()]);
        for (request, end) in requests.iter().zip(ends) {
            self.seek(request, &keys[request.at..end])?;
        }
        (self.requests, self.keys) = (requests, keys);
        self.requests.clear();
        self.keys.clear();
        Ok(())
    }

    /// Evaluates it, or has its key fetched. A write of a whole value need not know what was there.
    fn seek(&mut self, request: &Request, key: &[u8]) -> Result<()> {
        let Request { is_write, place, hash, .. } = *request;
        if !is_write && self.shard.is_partial() {
            let wait = Wait::default();
            if !self.shard.seek(Target { place, hash, key }, &wait) {
                self.parked.push(Parked { request: *request, key: key.to_vec(), wait });
                return Ok(());
            }
        }
        self.evaluate(request, key)
    }

    fn evaluate_parked(&mut self) -> Result<()> {
        let parked = take(&mut self.parked);
        for Parked { request, key, wait } in parked {
            match wait.error() {
                _ if !wait.is_over() => self.parked.push(Parked { request, key, wait }),
                Some(error) => bail!("{error}"),
                None => self.seek(&request, &key)?,
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, request: &Request, key: &[u8]) -> Result<()> {
        let Request { client, is_write, place, hash, .. } = *request;
        let line = if is_write { &mut self.set } else { &mut self.get };
        line.bytes[3..3 + KEY_LEN].copy_from_slice(&request.name);
        if is_write {
            line.bytes[3 + KEY_LEN..].copy_from_slice(self.draw.value());
            self.shard.admit(line.spec)?;
        }
        let (args, target) =
            (Args::new(&line.bytes, &line.spans, &[]), Target { place, hash, key });
        self.reply.clear();
        let mut large = Vec::new();
        let mut reply = Reply::new(Proto::Resp2, &mut self.reply, &mut large);
        let evaluated = self.shard.evaluate(target, line.spec, args, 1, None, &mut reply);
        self.tally.missing += u64::from(!is_write && !evaluated.hit);
        match evaluated.hold {
            // Nobody asks when the writes beside the reads are done.
            _ if client == BESIDE && is_write => {}
            Some(entry) if self.must_wait((place, entry), client) => self.under_way += 1,
            _ => self.answered.push(client),
        }
        Ok(())
    }

    fn must_wait(&mut self, of: (u32, u64), client: u32) -> bool {
        self.shard.wait(of, ack(&self.run), Waiter(u64::from(client))).is_some()
    }

    fn end_turn(&mut self) -> Result<()> {
        self.shard.end_turn();
        self.shard.tend(None);
        if let Some(cause) = self.shard.failure() {
            bail!("the log failed: {cause}");
        }
        self.shard.take_released(&mut self.waiters);
        self.under_way -= self.waiters.len();
        self.answered.extend(self.waiters.drain(..).map(|waiter| waiter.0 as u32));
        self.note_answered();
        Ok(())
    }

    /// One look at the clock for all: that is when their replies would leave.
    fn note_answered(&mut self) -> Instant {
        let (now, is_measured) = (Instant::now(), self.stage.is_measured());
        for client in self.answered.drain(..).filter(|client| *client != BESIDE) {
            if is_measured {
                self.tally.note(now - self.asked[client as usize]);
            }
            self.free.push(client);
        }
        now
    }
}
