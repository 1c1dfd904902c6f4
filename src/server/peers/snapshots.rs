//! Snapshots on their way: a partition's tables go to a replica that lacks more of the log than is
//! left of it.
//!
//! The leader makes a checkpoint, sends its head and its tables piece by piece, and offers it to
//! Raft once the other says that it has staged them; until then, and a while longer, it keeps its
//! log behind the checkpoint. A few at a time to each node: each waits for several round trips and
//! syncs, and all share what the disk and the link have to give.
//!
//! ```text
//! sender    head ........ piece piece ...... piece .... end ............. raft: snapshot
//! receiver        took 0 ............ took n ..... took m ..... staged .................. append
//! ```
//!
//! **No more is on its way than [`WINDOW_LEN`].** What comes faster than the receiver's disk takes
//! it would be in the receiver's memory, and what is queued before the messages of Raft keeps them
//! waiting, and with them clients.
//!
//! **What has come need not come again.** When the connection is another, or nothing is heard for
//! [`ASK_EVERY`], the sender says its head anew, as another attempt, and goes on behind what the
//! receiver has of that checkpoint. It is given up when it has not gone on for [`PATIENCE`]: one
//! that does go on may take as long as it has to.
//!
//! **What a slow replica costs its leader is bounded.** The log is kept behind what the replica
//! has, until it lacks no more than what is on its way; when that takes too much of the memory
//! ([`crate::shard::Shard::overlong_pin`]), the snapshot for whose sake the most is kept is given
//! up, and begun again after a while.

mod receiving;
mod sending;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::env::Env;
use crate::id::{NodeId, ShardId};

use receiving::Receiving;
use sending::Sending;

/// Bytes of tables that are on their way for a snapshot, at most: some 200 MB/s over 10 ms.
const WINDOW_LEN: u64 = 2 << 20;
/// How long the log is kept for a snapshot that does not go on, and what has come of one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever is silent for so long is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// See the module's header. Lives on one core.
pub(in crate::server) struct Snapshots<E: Env> {
    /// By node, and place of the partition.
    sending: BTreeMap<(NodeId, u32), Sending<E>>,
    receiving: BTreeMap<u32, Receiving>,
    /// Those that are not begun before a moment.
    rests: BTreeMap<(NodeId, u32), Duration>,
    wanted: Vec<(u32, NodeId)>,
    /// Those that are over, and places whose log is to be kept from elsewhere on.
    ended: Vec<(NodeId, u32)>,
    moved: Vec<u32>,
    /// Links to those that have staged one, or have it: they are to be told.
    staged: Vec<(ShardId, Staged)>,
}

/// What the receiver says when it has a snapshot.
#[derive(Clone, Copy)]
struct Staged {
    place: u32,
    index: u64,
    term: u64,
}

impl<E: Env> Default for Snapshots<E> {
    fn default() -> Self {
        Self {
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            rests: BTreeMap::new(),
            wanted: Vec::new(),
            ended: Vec::new(),
            moved: Vec::new(),
            staged: Vec::new(),
        }
    }
}
