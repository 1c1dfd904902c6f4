//! Reads every table once a day, so that damage is known before anybody asks for what it hit.
//!
//! One table after the other, slowly, in the background class; whatever is wrong is logged with
//! file and offset and counted (`stave_scrub_errors`), and the next table is read. One that is
//! compacted away meanwhile was read by the compaction. How old the oldest verification is, is a
//! gauge (`stave_scrub_oldest_s`): damaged bytes only get older.

use std::sync::Arc;
use std::time::Duration;

use super::store::Store;
use crate::env::Env;
use crate::id::ShardId;
use crate::lsm::block::Value;
use crate::lsm::table::{Error, Table};
use crate::metrics::ShardStats;

/// From the beginning of a cycle to that of the next, if it is not longer.
const CYCLE: Duration = Duration::from_secs(24 * 3600);
/// How long after the start the first one begins.
const FIRST_AFTER: Duration = Duration::from_secs(300);
/// Bytes of rows per second: a thousandth of a core.
const RATE: u64 = 8 << 20;
/// Bytes between two pauses.
const PIECE_LEN: u64 = 256 << 10;

/// Runs for as long as the node does.
pub async fn run<E: Env>(env: E, store: Store<E>, shard: ShardId, stats: Arc<ShardStats>) {
    let mut next = env.now() + FIRST_AFTER;
    loop {
        env.sleep(next.saturating_sub(env.now())).await;
        next = env.now() + CYCLE;
        let mut last = 0;
        while let Some(table) = store.table_after(last) {
            last = table.meta().number;
            match verify(&env, &table, &stats).await {
                Ok(()) => table.note_verified(env.now()),
                Err(error) => {
                    tracing::error!(shard = shard.0, %error, "a scrub found damage");
                    stats.scrub_errors.add(1);
                }
            }
        }
        stats.scrub_cycles.add(1);
    }
}

/// Reads all of a table; the first thing that is wrong.
async fn verify<E: Env>(env: &E, table: &Table<E>, stats: &ShardStats) -> Result<(), Error> {
    let mut rows = table.iter(&[]);
    let mut read = 0;
    while rows.advance().await? {
        let Some(row) = rows.row() else { break };
        read += row.key.len() as u64;
        match row.value {
            Value::Bytes(bytes) => read += bytes.len() as u64,
            Value::Large(large) => {
                let mut chunks = table.chunks(large);
                while let Some(chunk) = chunks.next().await? {
                    read += chunk.len() as u64;
                }
            }
        }
        if read >= PIECE_LEN {
            stats.scrubbed_bytes.add(read);
            env.sleep(Duration::from_nanos(read * 1_000_000_000 / RATE)).await;
            read = 0;
        }
    }
    stats.scrubbed_bytes.add(read);
    Ok(())
}
