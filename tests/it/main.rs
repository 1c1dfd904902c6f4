//! Integration tests: the crate as its users see it. One binary, so that it links once.
//!
//! [`server`] starts the real program on ports of its own choice; the other modules are what meets
//! it: the tools of the Redis world, hostile clients, and kill -9. A tool that is not installed
//! skips its tests with a line that says so; `tools/test` installs them all.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a user's side of the seam: real files, threads and time"
)]

mod acks;
mod binary;
mod changes;
mod cli;
mod client;
mod clients;
mod cluster;
mod cluster_slots;
mod compression;
mod conformance;
mod crash;
mod doctor;
mod evict;
mod exporter;
mod figures;
mod followers;
mod full;
mod fuzz;
mod go;
mod hostile;
mod keyspace;
mod larger;
mod latency;
mod lifecycle;
mod members;
mod nc;
mod node;
mod notify;
mod once;
mod redis_benchmark;
mod redis_cli;
mod redis_exporter;
mod redis_py;
mod redis_rs;
mod redis_server;
mod resp_cost;
mod save;
mod scripts;
mod server;
mod standby;
mod subscribers;
mod tracking;
mod typed;
mod values;
