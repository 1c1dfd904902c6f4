//! What a reply may need to know of the node: filled in by the server, or by the simulator.

use std::sync::Arc;

use crate::ack::Ack;
use crate::eviction::Eviction;
use crate::id::{ShardId, Slot};
use crate::metrics::{Distribution, Totals};

/// Facts of the node, as seen from one shard. Methods that gather may be slow-ish (micro-, not
/// milliseconds); none blocks.
pub trait Facts {
    /// Who we are: fixed at start.
    fn identity(&self) -> &Identity;
    /// Which endpoint serves which slots.
    fn topology(&self) -> &Topology;
    /// The password clients must give; none: everybody is in.
    fn password(&self) -> Option<Arc<[u8]>>;
    /// Wall clock, unix microseconds.
    fn now_us(&self) -> u64;
    /// Figures for `INFO`, gathered now.
    fn counters(&self) -> Counters;
    /// Calls by command: of those that were called or refused.
    fn calls(&self) -> Vec<Calls>;
    /// Error replies by their first word.
    fn errors(&self) -> Vec<(String, u64)>;
    /// Asks for a copy of the data directory.
    ///
    /// # Errors
    /// An error reply: there will be none.
    fn begin_save(&self) -> Result<(), &'static str>;
    /// Parameters for `CONFIG GET`, by name; secrets never among them.
    fn config(&self) -> Vec<(&'static str, String)>;
    /// The connection that asks, for the commands that tell of it.
    fn client(&self) -> Option<Client>;
    /// Whether a connection of the node has this id.
    fn has_client(&self, id: u64) -> bool;
    /// The cluster that this one follows, if it does.
    fn primary(&self) -> Option<Primary> {
        None
    }
}

/// The cluster that a standby follows, as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct Primary {
    /// Where it is asked: HOST.
    pub host: String,
    /// And its port.
    pub port: u16,
    /// It is reached.
    pub is_up: bool,
    /// Partitions that this node leads.
    pub led: u32,
    /// Of these, those that are being copied.
    pub copying: u32,
    /// Copies that were begun since the node started.
    pub copies: u64,
    /// Entries that are not here yet.
    pub lag_entries: u64,
    /// How old what is here is at most, milliseconds.
    pub lag_ms: u64,
    /// Why it does not go on; empty: it does.
    pub error: String,
}

/// Who a node is. Fixed at start.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Version of Stave, such as `0.1.0`.
    pub version: String,
    /// Identity of the node: 40 hex digits, kept over restarts.
    pub node_id: String,
    /// Identity of this run of the process: 40 hex digits.
    pub run_id: String,
    /// The shard that answers.
    pub shard: ShardId,
    /// Shards of the node: one per core.
    pub cores: u16,
    /// Port shared by all shards.
    pub resp_port: u16,
    /// Whether `--cluster-mode` was given.
    pub cluster_mode: bool,
    /// Process id.
    pub pid: u32,
    /// When the process started, unix milliseconds.
    pub started_ms: u64,
    /// Operating system and machine, such as `Linux 6.18 x86_64`.
    pub os: String,
    /// Configuration file; empty for none.
    pub config_file: String,
    /// Which runtime drives the disk and the sockets, such as `io_uring`.
    pub runtime: &'static str,
    /// What an answer waits for whose client does not say.
    pub ack: Ack,
    /// Whether `DEBUG` is allowed.
    pub debug_enabled: bool,
    /// Whether it may be without a password: only this machine reaches it, or that was said.
    pub may_be_open: bool,
    /// Whether keys may leave when memory is full.
    pub may_evict: bool,
}

/// One place that serves slots: a shard of a node, with a port of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// 40 hex digits; see [`endpoint_id`].
    pub id: String,
    /// Address clients reach it at: never empty.
    pub host: String,
    /// Port of its RESP listener: never 0.
    pub port: u16,
    /// Port for peers.
    pub peer_port: u16,
    /// Whether the node that tells of it hears of it.
    pub is_reached: bool,
}

/// A run of slots and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: Slot,
    /// Last slot, included.
    pub last: Slot,
    /// Index in [`Topology::endpoints`] of the leader.
    pub leader: usize,
    /// Likewise of those that follow and answer connections that said READONLY, in order.
    pub followers: Vec<usize>,
}

/// Which endpoint serves which slots. Ranges are sorted, disjoint, and cover all slots when the
/// cluster is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Version of the slot map; rises with each change.
    pub epoch: u64,
    /// In the same order on every node.
    pub endpoints: Vec<Endpoint>,
    /// By first slot.
    pub ranges: Vec<SlotRange>,
    /// Index in `endpoints` of the one that answers.
    pub myself: usize,
}

/// The id under which a shard is visible as a cluster node: the node's own for shard 0, so that
/// `CLUSTER MYID` of a one-core node is the node's id; for others the last four digits are mixed
/// with the shard's number.
///
/// # Panics
/// When `node_id` is not 40 ASCII hex digits.
pub fn endpoint_id(node_id: &str, shard: ShardId) -> String {
    let is_hex = node_id.len() == 40 && node_id.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(is_hex, "a node id is 40 hex digits: {node_id:?}");
    let tail = u16::from_str_radix(&node_id[36..], 16).expect("four hex digits fit");
    format!("{}{:04x}", &node_id[..36], tail ^ shard.0)
}

/// Keys of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keyspace {
    /// Number of the database.
    pub db: u8,
    /// Keys that have not expired, or not yet been found to have.
    pub keys: u64,
    /// Those of them with a deadline.
    pub expires: u64,
    /// Mean of what is left to those of them that are in memory, milliseconds.
    pub avg_ttl_ms: u64,
}

/// Figures of the whole node, gathered when asked for.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// What the shards count, of all of them.
    pub shards: Totals,
    /// Most connections accepted at a time.
    pub clients_max: u64,
    /// Which keys are deleted to give others room.
    pub eviction: Eviction,
    /// Bytes accounted to the memory budget.
    pub memory_used: u64,
    /// Most of it so far.
    pub memory_peak: u64,
    /// Resident set of the process, bytes.
    pub memory_rss: u64,
    /// Memory of the machine, bytes.
    pub memory_system: u64,
    /// The budget (`--memory`), bytes.
    pub memory_limit: u64,
    /// Whether a copy of the data directory is being made.
    pub is_saving: bool,
    /// Whether the last one failed.
    pub save_failed: bool,
    /// When the last that is whole was asked for, unix seconds; as in Redis the time of the start,
    /// if none was.
    pub saved_s: u64,
    /// Copies since the start that are whole.
    pub saves: u64,
    /// How long the last took, seconds; negative: there was none.
    pub save_took_s: i64,
    /// How long one is being made, seconds; negative: none is.
    pub saving_s: i64,
    /// Whether the node still reads its log.
    pub loading: bool,
    /// Seconds since the bytes of SSTables were verified that were not for the longest time.
    pub scrub_oldest_s: u64,
    /// CPU time in the kernel, microseconds.
    pub cpu_sys_us: u64,
    /// CPU time outside it, microseconds.
    pub cpu_user_us: u64,
    /// Databases that hold keys, by number.
    pub keyspace: Vec<Keyspace>,
    /// Followers that hold every acknowledged write.
    pub replicas: u64,
    /// Nodes that follow this one in some of what it leads.
    pub followers: Vec<Follower>,
    /// Entries of the logs of all partitions, as far as is known here; of a lone node 0.
    pub log_entries: u64,
}

/// A node that has replicas of what this one leads, and is heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Address clients reach its first shard at.
    pub host: String,
    /// And its port.
    pub port: u16,
    /// It lacks no more than what is on its way.
    pub is_near: bool,
    /// Entries that are committed here and that it is not known to have.
    pub lacks: u64,
    /// Whole seconds since it was heard of.
    pub silent_s: u64,
}

/// Calls of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Full name, lower case.
    pub name: &'static str,
    /// Those that ran.
    pub calls: u64,
    /// Time of cores in them, nanoseconds.
    pub busy_ns: u64,
    /// Calls refused before they ran.
    pub rejected: u64,
    /// Calls that ran and were answered with an error.
    pub failed: u64,
    /// From the turn that took a call up until its reply could leave, nanoseconds.
    pub latency: Distribution,
}

/// One connection, as `CLIENT LIST` shows it.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// What the connection remembers.
    pub session: super::Session,
    /// Commands it has queued, if it said MULTI.
    pub queued: Option<usize>,
    /// Bytes of them, and of what it watches.
    pub queued_len: usize,
    /// Bytes received and not yet run.
    pub input_len: usize,
    /// Bytes of replies that are not with the kernel.
    pub output_len: usize,
    /// Bytes held for it in all.
    pub held_len: usize,
    /// It speaks the binary protocol.
    pub is_binary: bool,
    /// Its next command waits for a pause to end.
    pub is_waiting: bool,
    /// It is closed when what is due to it has left.
    pub is_closing: bool,
    /// A send is under way.
    pub is_sending: bool,
}
