//! Stave: a durable, replicated key-value store that is as fast as a cache.

pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod consensus;
pub mod env;
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
