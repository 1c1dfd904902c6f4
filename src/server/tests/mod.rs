//! The server's tests: whole nodes of one to three shards in the simulator, played by clients.
//!
//! [`house`] starts, kills and restarts a node, [`talk`] speaks RESP, [`model`] knows what may be
//! read. [`crashes`] is the property: whatever crashes come, nothing acknowledged or read is taken
//! back; [`planted`] shows that it would see the bugs it is for. The rest are scenes, each of one
//! behaviour.

mod away;
mod caches;
mod crashes;
mod groups;
mod house;
mod introspection;
mod memory;
mod model;
mod monitor;
mod planted;
mod replies;
mod slowlog;
mod tables;
mod talk;
mod transactions;
