//! The server's tests: scenes, each of one behaviour, with whole nodes of one to three shards in
//! the simulator, played by clients.
//!
//! The node and its clients are [`crate::sim::torture`]'s, which is also where the crash test is.

use crate::sim::torture::{house, talk};

mod away;
mod backlog;
mod caches;
mod channels;
mod clones;
mod evict;
mod introspection;
mod memory;
mod monitor;
mod replies;
mod room;
mod slowlog;
mod tables;
mod transactions;
