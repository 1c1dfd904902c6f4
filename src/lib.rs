//! Stave: a durable, replicated key-value store that is as fast as a cache.
//!
//! One process per machine, one thread per core, nothing shared. This file is the map.
//!
//! # Layers
//!
//! A layer imports only from below; `tests/tidy.rs` fails otherwise.
//!
//! | | |
//! |---|---|
//! | 0 | [`ack`], [`eviction`], [`id`], [`limits`], [`metrics`]: numbers and bounds |
//! | 1 | [`command`], [`consensus`], [`mvcc`], [`protocol`], [`lsm::memtable`], [`wal::format`] |
//! | 2 | [`mod@env`]: the one seam to clock, chance, tasks, files, sockets and other cores |
//! | 3 | [`wal`]: a shard's log; [`lsm::table`], [`lsm::view`]: a table, and those of a partition |
//! | 4 | [`cluster`], [`partition`], [`shard`]: who owns what; one Raft group; one core's data |
//! | 5 | [`server`], [`config`]: connections and replies; settings |
//! | 6 | [`cli`], [`sim`]: the program; the simulator, an [`env::Env`] made from a seed |
//!
//! # The road of a SET
//!
//! 1. `server::round`: bytes in a buffer of the ring become a [`protocol::resp::Frame`]; the frames
//!    of a round are looked up together, so that their keys are in the cache when they run.
//! 2. [`command::resolve`]: the table gives name, arity, keys and access.
//! 3. [`shard::Shard::locate`]: slot to partition to shard. Ours: a call. Another core's: a
//!    [`shard::mailbox::Parcel`], or MOVED in cluster mode.
//! 4. [`partition::Partition::evaluate`]: the command runs on what the key holds; its effect goes
//!    into the turn's open entry, its version into the memtable; the reply is encoded and held.
//! 5. [`shard::Shard::end_turn`]: each partition's writes of the turn are one Raft entry, all
//!    entries one append to [`wal::Writer`], which writes with `RWF_DSYNC`.
//! 6. [`shard::Shard::advance`]: the log is durable so far, Raft commits, the partition lets go of
//!    older versions, the held replies leave.
//!
//! A GET leaves at step 4. A key that is not in memory and that a table may have
//! ([`shard::Shard::seek`]) is read before step 4 ([`lsm::view::View::get`]), and its command waits
//! meanwhile; a plain SET does not. What was written goes to tables behind all this
//! ([`shard::Shard::tend`]). There is no second, unreplicated write path: one node is a group of
//! one.
//!
//! # Words
//!
//! *node* a process; *shard* one core's thread and all it owns; *slot* one of 16,384 hash buckets;
//! *partition* a range of slots, one Raft group; *LSN* a place in a shard's log; *timestamp* the
//! version of a write; *segment* a file of the log; *memtable* the ordered keys in memory.

pub mod ack;
pub mod cli;
pub mod cluster;
mod codec;
pub mod command;
pub mod config;
pub mod consensus;
pub mod env;
pub mod eviction;
pub mod id;
pub mod limits;
pub mod lsm;
pub mod metrics;
pub mod mvcc;
pub mod partition;
pub mod protocol;
pub mod server;
pub mod shard;
pub mod sim;
pub mod wal;
