//! What the shards of a node know of it and of each other: its identity, its counters, its limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::channels::Interest;
use super::save::Save;
use crate::cluster::{self, Members, SlotMap};
use crate::command::notify::Classes;
use crate::command::{
    self, Calls, Client, Counters, Endpoint, Facts, Follower, Identity, KeyspaceFacts, Primary,
    Session, SlotRange, Topology, config, endpoint_id, latency, moved, slowlog,
};
use crate::env::ConnId;
use crate::eviction::Eviction;
use crate::id::{NodeId, PartitionId, ShardId, Slot};
use crate::lsm::memtable::Sum;
use crate::metrics::{ShardStats, Totals};

/// Sets a parameter at run time (`CONFIG SET`): name, value.
pub type Configure = dyn Fn(&str, &str) + Send + Sync;

/// What all shards of a node share; read often, written by nobody but through atomics.
pub struct Common {
    /// Each shard's counters, in order.
    pub stats: Vec<Arc<ShardStats>>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Copies of it.
    pub save: Save,
    /// What clients have to say first.
    pub password: Mutex<Option<Arc<[u8]>>>,
    /// Seconds after which an idle connection is closed; 0: none is.
    pub idle_s: AtomicU64,
    /// Most connections of the node.
    pub clients_max: u64,
    /// The memory budget, bytes.
    pub memory_max: u64,
    /// For `CONFIG GET`.
    pub config: Vec<(&'static str, String)>,
    /// For `CONFIG SET`.
    pub configure: Box<Configure>,
    /// What was set so since the start.
    pub set: Mutex<BTreeMap<&'static str, String>>,
    /// The keyspace events that are told of: the bits of [`Classes`].
    pub notify: AtomicU32,
    /// Which keys leave when memory is full: [`Eviction::number`].
    pub eviction: AtomicU8,
    /// Milliseconds from which on LATENCY tells of a command; 0: of none.
    pub latency_ms: AtomicU64,
    /// Microseconds from which on a command is slow; negative: none is.
    pub slow_us: AtomicI64,
    /// Slow commands that are kept.
    pub slow_len_max: AtomicU32,
    /// Slow commands are numbered across the node.
    pub slow_next: AtomicU64,
    /// Each shard's open connections by their places: from where they are and what they are
    /// called. Looked at by others only for a slow command.
    pub peers: Vec<Mutex<BTreeMap<u32, (String, String)>>>,
    /// What each shard's connections listen to, in order.
    pub interest: Vec<Interest>,
    /// How many of each shard's connections are told of changes of keys, in order.
    pub trackers: Vec<TrackerCounts>,
    /// How many of each shard's connections monitor, in order.
    pub monitors: Vec<AtomicU32>,
    /// Each shard's open connections by their ids, in order: looked at by others only where a
    /// connection names another.
    pub open: Vec<Mutex<BTreeMap<u64, ConnId>>>,
    /// Connections are numbered across the node.
    pub client_next: AtomicU64,
    /// Largest memory seen.
    pub memory_peak: AtomicU64,
    /// Shards that have nothing due any more, when the node stops.
    pub idle: Vec<AtomicBool>,
}

/// How many connections of one shard are told of changes of keys; written by that shard.
#[derive(Default)]
pub struct TrackerCounts {
    /// All that are told.
    pub all: AtomicU32,
    /// Prefixes of which some are told.
    pub broadcast: AtomicU32,
}

/// The node as one of its shards sees it.
pub struct Node {
    /// Shared with the others.
    pub common: Arc<Common>,
    /// Who we are.
    pub identity: Identity,
    /// Who has which slots.
    topology: Mutex<Arc<Topology>>,
    /// The cluster, if there are other nodes; and what of it the topology tells.
    members: Option<Arc<Members>>,
    told: AtomicU64,
    shards: u16,
}

impl Node {
    /// A node of these shards, whose own ports `topology` tells.
    pub fn new(
        common: Arc<Common>,
        identity: Identity,
        topology: Topology,
        members: Option<Arc<Members>>,
    ) -> Self {
        let shards = topology.endpoints.len() as u16;
        let topology = Mutex::new(Arc::new(topology));
        Self { common, identity, topology, members, told: AtomicU64::new(0), shards }
    }

    /// Who has which slots, as of now.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.lock().expect("no one panics holding it"))
    }

    /// Where this node's own shards are reached is known to all; where others are, they say. Brings
    /// up to date what clients are told, if anything has changed.
    pub fn look_at_members(&self, map: &SlotMap) {
        let Some(members) = self.members.as_ref() else { return };
        let version = members.version();
        if self.told.load(Ordering::Relaxed) == version {
            return;
        }
        self.told.store(version, Ordering::Relaxed);
        let known = members.endpoints();
        let endpoints = known.iter().map(|(node, shard, host, port)| Endpoint {
            id: endpoint_id(&format!("{:032x}{:08x}", members.cluster(), node.0), *shard),
            host: host.clone(),
            port: *port,
            peer_port: members.peer_port(*node, *shard),
            is_reached: members.hears_of(*node, *shard),
        });
        let replicas = members.replicas();
        let place = |node: NodeId, shard: ShardId| {
            known.iter().position(|(of, at, ..)| (*of, *at) == (node, shard))
        };
        let range = |id: u32| {
            let (partition, slots) = (PartitionId(id), map.slots_of(PartitionId(id)));
            let home = map.shard_of(partition);
            let leader = place(members.leader(partition)?, home)?;
            // Who would send each reader on is not told of.
            let answer = !members.stale_max().is_zero();
            let voters = replicas[id as usize].members.voters.iter().filter(|_| answer);
            let followers = voters.filter_map(|node| place(*node, home));
            let followers = followers.filter(|at| *at != leader).collect();
            let (first, last) = (Slot(slots.start), Slot(slots.end - 1));
            Some(SlotRange { first, last, leader, followers })
        };
        let topology = Topology {
            epoch: version,
            endpoints: endpoints.collect(),
            ranges: (0..map.partition_count()).filter_map(range).collect(),
            myself: place(members.own(), self.identity.shard).unwrap_or(0),
        };
        *self.topology.lock().expect("no one panics holding it") = Arc::new(topology);
    }

    /// Open connections of the whole node.
    pub fn client_count(&self) -> u64 {
        self.common.stats.iter().map(|stats| stats.clients.get()).sum()
    }

    /// Most connections of the whole node.
    pub fn clients_max(&self) -> u64 {
        self.common.clients_max
    }

    /// Whether a key of another shard is answered with MOVED.
    pub fn is_cluster_mode(&self) -> bool {
        self.identity.cluster_mode
    }

    /// A new connection's memory of itself.
    pub fn new_session(&self, peer: String, now_ms: u64) -> Session {
        let shards = u64::from(self.shards);
        let number = self.common.client_next.fetch_add(1, Ordering::Relaxed);
        let id = number * shards + u64::from(self.identity.shard.0) + 1;
        let topology = self.topology();
        let host = topology.endpoints.get(topology.myself).map_or("", |own| own.host.as_str());
        let local = format!("{host}:{}", self.identity.resp_port);
        let authenticated = self.password().is_none();
        Session::new(id, peer, local, now_ms, authenticated).answered_at(self.identity.ack)
    }

    /// What clients have to say first; none: nothing.
    pub fn password(&self) -> Option<Arc<[u8]>> {
        self.common.password.lock().expect("no one panics holding it").clone()
    }

    /// The shard on which a connection of this id is, if it is: ids rise across the node and tell
    /// the shard.
    pub fn shard_of_client(&self, id: u64) -> ShardId {
        let shards = u64::from(self.shards);
        ShardId((id.saturating_sub(1) % shards) as u16)
    }

    /// Whether a request is to wait until somebody else leads: a client that is sent to a process
    /// that has ended may wait for long before it asks again.
    pub fn is_orphaned(&self, partition: PartitionId, shard: ShardId) -> bool {
        self.members.as_ref().is_some_and(|members| members.is_orphaned(partition, shard))
    }

    /// Where a client finds a slot.
    pub fn moved(&self, slot: Slot, shard: ShardId, map: &SlotMap) -> String {
        self.look_at_members(map);
        let topology = self.topology();
        let range = topology.ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
        // What was told may be a moment older than who was asked.
        let place = match &self.members {
            None => Some(shard.0 as usize),
            Some(_) => range.map(|range| range.leader),
        };
        match place.and_then(|place| topology.endpoints.get(place)) {
            Some(endpoint) => moved(slot, &endpoint.host, endpoint.port),
            None => "TRYAGAIN where the slot's leader is reached is not known yet".to_owned(),
        }
    }

    /// `CONFIG SET` of checked values.
    pub fn configure(&self, settings: Vec<(&'static str, String)>) {
        for (name, value) in settings {
            if name == config::PASSWORD_PARAMETER {
                tracing::warn!("another password holds until this node ends");
                let password = (!value.is_empty()).then(|| Arc::from(value.into_bytes()));
                *self.common.password.lock().expect("no one panics holding it") = password;
                // It is shown to nobody.
                continue;
            }
            if name == config::TIMEOUT_PARAMETER {
                let seconds = value.parse().expect("the command checked it");
                self.common.idle_s.store(seconds, Ordering::Relaxed);
            }
            if name == "notify-keyspace-events" {
                let classes = Classes::parse(value.as_bytes()).expect("the command checked it");
                self.common.notify.store(classes.bits(), Ordering::Relaxed);
            }
            if name == config::EVICTION_PARAMETER {
                let eviction = Eviction::named(value.as_bytes()).expect("the command checked it");
                self.common.eviction.store(eviction.number(), Ordering::Relaxed);
            }
            if name == latency::THRESHOLD_PARAMETER {
                let ms = value.parse().expect("the command checked it");
                self.common.latency_ms.store(ms, Ordering::Relaxed);
            }
            if name == slowlog::THRESHOLD_PARAMETER {
                let us = value.parse().expect("the command checked it");
                self.common.slow_us.store(us, Ordering::Relaxed);
            }
            if name == slowlog::LEN_PARAMETER {
                let len = value.parse().expect("the command checked it");
                self.common.slow_len_max.store(len, Ordering::Relaxed);
            }
            (self.common.configure)(name, &value);
            self.common.set.lock().expect("no one panics holding it").insert(name, value);
        }
    }

    /// Which keys leave when memory is full.
    pub fn eviction(&self) -> Eviction {
        Eviction::ALL[usize::from(self.common.eviction.load(Ordering::Relaxed))]
    }

    /// The keyspace events that are told of.
    pub fn notified(&self) -> Classes {
        Classes::from_bits(self.common.notify.load(Ordering::Relaxed))
    }

    /// Whether any connection is told of changes of keys, and whether one is told of prefixes.
    pub fn tracks(&self) -> (bool, bool) {
        let any = |of: fn(&TrackerCounts) -> &AtomicU32| {
            self.common.trackers.iter().any(|shard| of(shard).load(Ordering::Acquire) > 0)
        };
        let tracking = any(|shard| &shard.all);
        (tracking, tracking && any(|shard| &shard.broadcast))
    }

    /// Whether a connection of this id is open, and its name on its shard.
    pub fn conn_of(&self, id: u64) -> Option<ConnId> {
        self.open_on(self.shard_of_client(id)).get(&id).copied()
    }

    /// From where a connection is, and what it is called; nothing if it is gone. Another one may
    /// be in its place by now. Of another node's connection only that node is known: where its
    /// peers reach it.
    pub fn who_is(&self, shard: ShardId, conn: ConnId) -> (String, String) {
        if self.common.peers.get(usize::from(shard.0)).is_some() {
            return self.peers_on(shard).get(&conn.index).cloned().unwrap_or_default();
        }
        let node = self.members.as_ref().and_then(|members| members.address_of(shard));
        (node.map(|address| address.to_string()).unwrap_or_default(), String::new())
    }

    /// From where the connections of a shard of this node are, and what they are called.
    pub fn peers_on(&self, shard: ShardId) -> MutexGuard<'_, BTreeMap<u32, (String, String)>> {
        self.common.peers[usize::from(shard.0)].lock().expect("no one panics holding it")
    }

    /// The open connections of a shard.
    pub fn open_on(&self, shard: ShardId) -> MutexGuard<'_, BTreeMap<u64, ConnId>> {
        self.common.open[usize::from(shard.0)].lock().expect("no one panics holding it")
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.common.stats.iter().for_each(|stats| totals.add(stats));
        totals
    }
}

/// The facts a command may ask for, at this moment.
pub struct View<'a> {
    /// The node.
    pub node: &'a Node,
    /// The connection that asks, if the command tells of it.
    pub client: Option<Client>,
    /// Wall time.
    pub unix_ms: u64,
    topology: Arc<Topology>,
}

impl<'a> View<'a> {
    /// Of this moment.
    pub fn new(node: &'a Node, client: Option<Client>, unix_ms: u64) -> Self {
        Self { topology: node.topology(), node, client, unix_ms }
    }

    /// The figures that are not the shards': of copies of the directory, and of other nodes.
    fn beside_shards(&self) -> Counters {
        let (common, members) = (&self.node.common, self.node.members.as_ref());
        let save = &common.save;
        Counters {
            clients_max: common.clients_max,
            memory_limit: common.memory_max,
            eviction: self.node.eviction(),
            is_saving: save.is_going(),
            save_failed: save.has_failed(),
            saved_s: save.saved_ms().unwrap_or(self.node.identity.started_ms) / 1000,
            saves: save.saves(),
            save_took_s: save.took_s(),
            saving_s: save.going_s(self.unix_ms),
            replicas: members.map_or(0, |members| members.sure_followers()),
            followers: self.followers(),
            log_entries: members.map_or(0, |members| members.applied()),
            ..Counters::default()
        }
    }

    /// The nodes that follow this one, where their first shards are reached.
    fn followers(&self) -> Vec<Follower> {
        let Some(members) = &self.node.members else { return Vec::new() };
        let known = members.endpoints();
        let told = |of: cluster::Follower| {
            let mut first = known.iter().filter(|(node, ..)| *node == of.node);
            let (.., host, port) = first.next()?;
            let (host, port, silent_s) = (host.clone(), *port, of.silent.as_secs());
            Some(Follower { host, port, is_near: of.is_near, lacks: of.lacks, silent_s })
        };
        members.followers().into_iter().filter_map(told).collect()
    }

    fn keyspace(&self) -> Vec<KeyspaceFacts> {
        let of = |db: u8| {
            let stats = self.node.common.stats.iter().map(|stats| &stats.dbs[db as usize]);
            let (mut keys, mut expires, mut deadlines) = (0, 0, Sum::default());
            for db in stats {
                keys += db.keys.get();
                expires += db.expiring.get();
                let (count, mean_ms) = (db.deadlines.get(), db.deadline_mean_ms.get());
                let expiry_ms = u128::from(count) * u128::from(mean_ms);
                deadlines = deadlines.and(Sum { count, expiry_ms });
            }
            let avg_ttl_ms = deadlines.mean_ms().saturating_sub(self.unix_ms);
            KeyspaceFacts { db, keys, expires, avg_ttl_ms }
        };
        (0..16).map(of).filter(|keyspace| keyspace.keys > 0).collect()
    }
}

impl Facts for View<'_> {
    fn identity(&self) -> &Identity {
        &self.node.identity
    }

    fn topology(&self) -> &Topology {
        &self.topology
    }

    fn password(&self) -> Option<Arc<[u8]>> {
        self.node.password()
    }

    fn now_us(&self) -> u64 {
        self.unix_ms * 1000
    }

    fn begin_save(&self) -> Result<(), &'static str> {
        if self.node.members.is_some() {
            // A member that starts from it would have forgotten what it acknowledged.
            return Err("ERR BGSAVE is not for members of a cluster");
        }
        let begun = self.node.common.save.begin(self.unix_ms, self.node.common.stats.len());
        begun.then_some(()).ok_or("ERR Background save already in progress")
    }

    fn counters(&self) -> Counters {
        let common = &self.node.common;
        let now = self.node.totals();
        let of_requests = now.connection_bytes + now.wal_backlog_bytes;
        let used = now.memtable_bytes + of_requests + now.table_memory_bytes;
        let peak = common.memory_peak.fetch_max(used, Ordering::Relaxed).max(used);
        let usage = crate::env::os::usage();
        let ages = common.stats.iter().map(|stats| stats.unverified_s.get());
        Counters {
            shards: now,
            memory_used: used,
            memory_peak: peak,
            memory_rss: usage.rss_bytes,
            memory_system: usage.system_bytes,
            scrub_oldest_s: ages.max().unwrap_or(0),
            cpu_sys_us: usage.cpu_sys_us,
            cpu_user_us: usage.cpu_user_us,
            keyspace: self.keyspace(),
            ..self.beside_shards()
        }
    }

    fn calls(&self) -> Vec<Calls> {
        let sum = |spec: &command::Spec| {
            let mut calls = Calls { name: spec.name, ..Calls::default() };
            for stats in &self.node.common.stats {
                let of = stats.calls.of(spec.number());
                calls.calls += of.calls.get();
                calls.busy_ns += of.busy_ns.get();
                calls.rejected += of.rejected.get();
                calls.failed += of.failed.get();
                calls.latency.add(&of.latency);
            }
            calls
        };
        command::numbered().map(sum).filter(|calls| calls.calls + calls.rejected > 0).collect()
    }

    fn errors(&self) -> Vec<(String, u64)> {
        let mut sums = BTreeMap::new();
        self.node.common.stats.iter().for_each(|stats| stats.calls.add_errors_to(&mut sums));
        sums.into_iter().collect()
    }

    fn config(&self) -> Vec<(&'static str, String)> {
        let mut config = self.node.common.config.clone();
        let set = self.node.common.set.lock().expect("no one panics holding it");
        for (name, value) in set.iter() {
            match config.iter_mut().find(|(known, _)| known == name) {
                Some((_, shown)) => shown.clone_from(value),
                None => config.push((name, value.clone())),
            }
        }
        config
    }

    fn client(&self) -> Option<Client> {
        self.client.clone()
    }

    fn primary(&self) -> Option<Primary> {
        let members = self.node.members.as_ref()?;
        let (topology, fed) = (members.topology(), members.fed());
        let at = topology.follows.as_ref()?.at.first()?;
        Some(Primary {
            host: at.ip().to_string(),
            port: at.port(),
            is_up: fed.up,
            led: fed.led,
            copying: fed.copying,
            copies: fed.copies,
            lag_entries: fed.lag_entries,
            lag_ms: fed.lag_ms,
            error: fed.error,
        })
    }

    fn has_client(&self, id: u64) -> bool {
        self.node.conn_of(id).is_some()
    }
}
