//! `stave ping`: whether a server is there, and how far.

use std::time::Instant;

use serde::Serialize;

use super::EXIT_OK;
use super::ask::{Ask, Session};
use super::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  stave ping
  until stave ping --deadline 1s; do sleep 1; done       wait for a server";

/// Ask whether a server is there
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ping {}

/// The answer, in JSON.
#[derive(Serialize)]
struct Record<'a> {
    server: &'a str,
    node_id: &'a str,
    version: &'a str,
    shard_count: u16,
    value_len_max: u32,
    round_trip_us: u64,
}

impl Ask for Ping {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        // What the connection costs is not the way.
        let server = session.client.server()?;
        let begin = Instant::now();
        session.client.ping()?;
        let round_trip_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (address, version) = (session.address, server.version.as_str());
        let record = Record {
            server: address,
            node_id: &server.node_id,
            version,
            shard_count: server.shard_count,
            value_len_max: server.value_len_max,
            round_trip_us,
        };
        session.print(&record, &format!("{address}: stave {version}, {round_trip_us} us"))?;
        Ok(EXIT_OK)
    }
}
