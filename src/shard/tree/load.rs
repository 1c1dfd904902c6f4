//! What the tables of a shard hold, into its partitions, before the log is replayed.
//!
//! Tables are opened, which costs eleven bits per key. If they are few, their rows are loaded as
//! well, so that reads never wait; otherwise rows come when they are asked for, and a start costs
//! the same however many there are. Of each key only the newest version counts, and a tombstone is
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::store::Store;
use super::{Error, Options};
use crate::env::Env;
use crate::id::{Lsn, PartitionId};
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::block::{Row, Value};
use crate::lsm::manifest::file::{self, Manifest};
use crate::lsm::manifest::{Keys, PartitionState, State};
use crate::lsm::memtable::{Kind, Payload, Version};
use crate::lsm::merge::Merge;
use crate::lsm::table::{self, Iter, Meta, Table};
use crate::lsm::view::View;
use crate::partition::{DB_COUNT, Flushed, Recovery, Roster, Sizes, Stored};

/// Bytes of rows between two yields: some 100 us.
const YIELD_LEN: usize = 64 << 10;

/// A manifest that was read, and the tables that it names, open.
pub struct Loaded<E: Env> {
    read: file::Read,
    tables: BTreeMap<u64, Table<E>>,
}

impl<E: Env> Loaded<E> {
    /// Reads the manifest and opens the tables; nothing is changed.
    ///
    /// # Errors
    /// As [`Error`]: the disk's, or damage.
    pub async fn read(env: &E, options: &Options) -> Result<Self, Error> {
        let read = file::Read::of(env, &manifest_options(options)).await?;
        let mut tables = BTreeMap::new();
        for entry in read.state().tables() {
            let number = entry.meta.number;
            let path = options.dir.join(table::file_name(number));
            tables.insert(number, Table::open(env, &path, &entry.meta).await?);
        }
        Ok(Self { read, tables })
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
        stored_of(&self.state().partition(partition))
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> u64 {
        self.state().tables().map(|entry| entry.meta.file_len).sum()
    }

    /// The tables of a partition, as reads see them.
    pub fn view(&self, partition: PartitionId) -> View<E> {
        let entries = self.state().tables_of(partition);
        View::new(entries.map(|entry| (entry.level, self.tables[&entry.meta.number].clone())))
    }

    /// About how many keys a partition has.
    pub fn sizes(&self, partition: PartitionId) -> Sizes {
        let state = self.state();
        sizes_of(state.keys_of(partition), state.tables_of(partition).map(|entry| &entry.meta))
    }

    /// Loads the rows of a partition; `on_bytes` is told of the progress.
    ///
    /// # Errors
    /// As [`Error`]: the disk's, or damage.
    pub async fn rows(
        &self,
        env: &E,
        partition: PartitionId,
        recovery: &mut Recovery,
        on_bytes: impl FnMut(u64),
    ) -> Result<(), Error> {
        let entries = self.state().tables_of(partition);
        let inputs = entries.map(|entry| self.tables[&entry.meta.number].iter(&[])).collect();
        load_rows(env, inputs, recovery, on_bytes).await
    }

    /// Goes on with the manifest: what nobody needs is removed from the directory.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn open(
        self,
        env: &E,
        options: &Options,
        partitions: &[PartitionId],
    ) -> Result<(Store<E>, u64), Error> {
        // A compaction takes numbers and does not say which comes next.
        let behind = self.state().tables().map(|entry| entry.meta.number + 1).max();
        let number_next = self.state().shard().number_next.max(behind.unwrap_or(1));
        let manifest = Manifest::open(env, &manifest_options(options), self.read).await?;
        Ok((Store::new(env, &options.dir, manifest, self.tables, partitions), number_next))
    }
}

/// Loads the newest version of each key of these tables, if it is a put; `on_bytes` is told of the
/// progress.
///
/// # Errors
/// As [`Error`]: the disk's, or damage.
pub async fn load_rows<E: Env>(
    env: &E,
    inputs: Vec<Iter<E>>,
    recovery: &mut Recovery,
    mut on_bytes: impl FnMut(u64),
) -> Result<(), Error> {
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

/// What a partition has to know of what the manifest says of it.
pub fn stored_of(state: &PartitionState) -> Stored {
    Stored {
        flushed: Flushed { index: state.index, timestamp: state.flushed },
        index_term: state.index_term,
        term: state.term,
        vote: state.vote,
        floor: state.floor,
        clock: state.clock,
        log_from: state.log_from,
        roster: Roster::decode(&state.roster).expect("its checksum is right"),
        sessions: Arc::clone(&state.sessions),
    }
}

/// About how many keys a partition with these tables has; `keys`: as the manifest says.
pub fn sizes_of<'m>(keys: Option<&[Keys]>, tables: impl Iterator<Item = &'m Meta>) -> Sizes {
    let counts: Vec<_> = match keys {
        Some(keys) => keys.iter().map(|of| (of.db, of.keys, of.expiring)).collect(),
        // A manifest of version 1: any database may have been used.
        None => {
            let puts = tables.map(|meta| meta.statistics.put_count).sum();
            (0..DB_COUNT as u8).map(|db| (db, if db == 0 { puts } else { 0 }, 0)).collect()
        }
    };
    Sizes::of_counts(&counts)
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
