//! The manifest: which tables a shard has, and how far each of its partitions is in them. Pure.
//!
//! A [`State`] is what all edits so far come to. An [`Edit`] is all or nothing, and whoever wants
//! to know whether a table counts asks the state. What is not named here is not needed: a file in
//! the directory that no edit names is removed at the next start.
//!
//! Invariants:
//! * No table is named twice, and only one that is named can be removed: else an edit is refused
//!   before it is written.
//! * File numbers are used once.
//!
//! Not here: how edits are laid out ([`mod@format`]), and kept ([`mod@file`]); the tables
//! themselves ([`super::table`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Lsn, PartitionId, Timestamp};
use crate::lsm::block::Meta;

pub mod file;
pub mod format;
pub mod replay;

/// A table, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Whose rows it has.
    pub partition: PartitionId,
    /// 0: as it was flushed, so that it may overlap with others; from 1 on tables of a level do
    /// not.
    pub level: u8,
    /// What the table is.
    pub meta: Meta,
}

/// How far a partition is in its tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The effects of all entries up to this are in tables.
    pub index: u64,
    /// The term of that entry.
    pub index_term: u64,
    /// Raft's term.
    pub term: u64,
    /// Raft's vote; 0: none.
    pub vote: u64,
    /// All versions up to this are in tables.
    pub flushed: Timestamp,
    /// If all that the partition had is gone, since its group goes on without this replica: term
    /// and index of the last entry that it had. Else zeroes.
    pub floor: (u64, u64),
    /// No table has a version after this.
    pub clock: Timestamp,
    /// What the log has of the partition up to here is void: its tables came from elsewhere.
    pub log_from: Lsn,
    /// Who has replicas of it, as of `index`; empty: who had at its birth.
    pub roster: Arc<[u8]>,
    /// What clients were told of writes, as of `index`; empty: nothing to be kept.
    pub sessions: Arc<[u8]>,
}

/// About how many keys a partition has in a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Whose.
    pub partition: PartitionId,
    /// Of which database.
    pub db: u8,
    /// Keys.
    pub keys: u64,
    /// Of these, the ones with a deadline.
    pub expiring: u64,
}

/// What holds for the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// No file has this number or a higher one.
    pub number_next: u64,
    /// The newest large value that was logged when this was written.
    pub blob_last: u64,
    /// The log is needed from here on.
    pub log_from: Lsn,
}

/// One change of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Tables that count from now on; or, if removed as well, in another level.
    pub add: Vec<TableEntry>,
    /// Numbers of tables that do not any more.
    pub remove: Vec<u64>,
    /// Partitions that have come further.
    pub partitions: Vec<(PartitionId, PartitionState)>,
    /// The shard, if it has.
    pub shard: Option<ShardState>,
    /// Keys of partitions that have come further: all databases of each that ever had one.
    pub keys: Vec<Keys>,
}

/// An edit that does not fit the state. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It adds a table that is there.
    #[error("table {0} is added twice")]
    Twice(u64),
    /// It removes one that is not.
    #[error("table {0} is removed and is not there")]
    Missing(u64),
}

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    tables: BTreeMap<u64, TableEntry>,
    partitions: BTreeMap<PartitionId, PartitionState>,
    keys: BTreeMap<PartitionId, Vec<Keys>>,
    shard: ShardState,
}

impl State {
    /// What holds for the shard.
    pub fn shard(&self) -> ShardState {
        self.shard
    }

    /// How far a partition is; the default if nothing of it is in tables.
    pub fn partition(&self, id: PartitionId) -> PartitionState {
        self.partitions.get(&id).cloned().unwrap_or_default()
    }

    /// About how many keys a partition had when it was flushed last, by database; none: unknown.
    pub fn keys_of(&self, id: PartitionId) -> Option<&[Keys]> {
        self.keys.get(&id).map(Vec::as_slice)
    }

    /// All tables, by number.
    pub fn tables(&self) -> impl Iterator<Item = &TableEntry> {
        self.tables.values()
    }

    /// The tables of a partition, by number.
    pub fn tables_of(&self, id: PartitionId) -> impl Iterator<Item = &TableEntry> {
        self.tables.values().filter(move |entry| entry.partition == id)
    }

    /// The table of that number, if it counts.
    pub fn table(&self, number: u64) -> Option<&TableEntry> {
        self.tables.get(&number)
    }

    /// Whether a table counts.
    pub fn has(&self, number: u64) -> bool {
        self.tables.contains_key(&number)
    }

    /// Whether an edit fits.
    ///
    /// # Errors
    /// As [`Unfit`].
    pub fn check(&self, edit: &Edit) -> Result<(), Unfit> {
        for (at, number) in edit.remove.iter().enumerate() {
            if !self.has(*number) || edit.remove[..at].contains(number) {
                return Err(Unfit::Missing(*number));
            }
        }
        for (at, entry) in edit.add.iter().enumerate() {
            let number = entry.meta.number;
            let stays = self.has(number) && !edit.remove.contains(&number);
            if stays || edit.add[..at].iter().any(|other| other.meta.number == number) {
                return Err(Unfit::Twice(number));
            }
        }
        Ok(())
    }

    /// Takes an edit in.
    ///
    /// # Errors
    /// As [`State::check`].
    pub fn apply(&mut self, edit: Edit) -> Result<(), Unfit> {
        self.check(&edit)?;
        for number in edit.remove {
            self.tables.remove(&number);
        }
        self.tables.extend(edit.add.into_iter().map(|entry| (entry.meta.number, entry)));
        for (id, state) in edit.partitions {
            self.partitions.insert(id, state);
            self.keys.remove(&id);
        }
        for keys in edit.keys {
            self.keys.entry(keys.partition).or_default().push(keys);
        }
        self.shard = edit.shard.unwrap_or(self.shard);
        Ok(())
    }

    /// The edit that makes this state out of an empty one.
    pub fn snapshot(&self) -> Edit {
        Edit {
            add: self.tables.values().cloned().collect(),
            remove: Vec::new(),
            partitions: self.partitions.iter().map(|(id, state)| (*id, state.clone())).collect(),
            shard: Some(self.shard),
            keys: self.keys.values().flatten().copied().collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
