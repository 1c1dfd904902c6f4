//! What the tables of a shard hold, into its partitions, before the log is replayed.
//!
//! All rows are loaded: the memtable answers every read. So a start costs what there is, and not
//! what was ever written. Of each key only the newest version counts, and a tombstone is nothing.

use std::sync::Arc;

use super::store::Store;
use super::{Error, Options};
use crate::env::Env;
use crate::id::{Lsn, PartitionId};
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::block::{Row, Value};
use crate::lsm::manifest::State;
use crate::lsm::manifest::file::{self, Manifest};
use crate::lsm::memtable::{Kind, Payload, Version};
use crate::lsm::merge::Merge;
use crate::lsm::table::{self, Table};
use crate::partition::{Flushed, Recovery, Stored};

/// Bytes of rows between two yields: some 100 us.
const YIELD_LEN: usize = 64 << 10;

/// A manifest that was read, and what it names that was looked at.
pub struct Loaded {
    read: file::Read,
}

impl Loaded {
    /// Reads the manifest; nothing is changed.
    ///
    /// # Errors
    /// As [`Error`]: the disk's, or damage.
    pub async fn read<E: Env>(env: &E, options: &Options) -> Result<Self, Error> {
        let read = file::Read::of(env, &manifest_options(options)).await?;
        Ok(Self { read })
    }

    fn state(&self) -> &State {
        self.read.state()
    }

    /// The log has to reach back to here.
    pub fn log_from(&self) -> Lsn {
        self.state().shard().log_from
    }

    /// The newest large value of the log that was released.
    pub fn blob_last(&self) -> u64 {
        self.state().shard().blob_last
    }

    /// What it says of a partition.
    pub fn stored(&self, partition: PartitionId) -> Stored {
        let state = self.state().partition(partition);
        Stored {
            flushed: Flushed { index: state.index, timestamp: state.flushed },
            index_term: state.index_term,
            term: state.term,
            vote: state.vote,
            clock: state.clock,
        }
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> u64 {
        self.state().tables().map(|entry| entry.meta.file_len).sum()
    }

    /// Loads the rows of a partition; `on_bytes` is told of the progress.
    ///
    /// # Errors
    /// As [`Error`]: the disk's, or damage.
    pub async fn rows<E: Env>(
        &self,
        env: &E,
        options: &Options,
        partition: PartitionId,
        recovery: &mut Recovery,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<(), Error> {
        let mut inputs = Vec::new();
        for entry in self.state().tables_of(partition) {
            let path = options.dir.join(table::file_name(entry.meta.number));
            inputs.push(Table::open(env, &path, &entry.meta).await?.iter(&[]));
        }
        if inputs.is_empty() {
            return Ok(());
        }
        recovery.has_tables();
        let mut merge = Merge::new(inputs);
        let (mut last, mut since_yield) = (Vec::new(), 0);
        while merge.advance().await? {
            let Some(row) = merge.row() else { break };
            let len = row.key.len() + len_of(&row.value);
            let is_newest = last != row.key;
            if is_newest {
                last.clear();
                last.extend_from_slice(row.key);
            }
            if is_newest && row.kind == Kind::Put {
                take(&row, merge.table(), recovery).await?;
            }
            since_yield += len;
            if since_yield >= YIELD_LEN {
                on_bytes(since_yield as u64);
                since_yield = 0;
                env.yield_now().await;
            }
        }
        Ok(())
    }

    /// Goes on with the manifest: what nobody needs is removed from the directory.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn open<E: Env>(self, env: &E, options: &Options) -> Result<(Store<E>, u64), Error> {
        // A compaction takes numbers and does not say which comes next.
        let behind = self.state().tables().map(|entry| entry.meta.number + 1).max();
        let number_next = self.state().shard().number_next.max(behind.unwrap_or(1));
        let manifest = Manifest::open(env, &manifest_options(options), self.read).await?;
        Ok((Store::new(env, &options.dir, manifest), number_next))
    }
}

fn manifest_options(options: &Options) -> file::Options {
    file::Options { dir: options.dir.clone(), log: options.log }
}

fn len_of(value: &Value<'_>) -> usize {
    match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Large(large) => large.len as usize,
    }
}

async fn take<E: Env>(
    row: &Row<'_>,
    table: &Table<E>,
    recovery: &mut Recovery,
) -> Result<(), Error> {
    let whole: Arc<Vec<u8>>;
    let payload = match row.value {
        Value::Bytes(bytes) => Payload::Bytes(bytes),
        Value::Large(large) => {
            whole = table.read_value(large).await?;
            if whole.len() < LARGE_LEN_MIN {
                Payload::Bytes(&whole)
            } else {
                Payload::Shared(&whole)
            }
        }
    };
    let Row { timestamp, kind, expiry_ms, .. } = *row;
    recovery.row(row.key, &Version { timestamp, kind, expiry_ms, payload });
    Ok(())
}
