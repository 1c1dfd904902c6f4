//! The tables of a partition as a read sees them: which may have a key, and which has its newest
//! version.
//!
//! A view never changes: when tables come or go there is a new one, and whoever reads goes on with
//! the one that he began with; its files stay open, though they may have no name any more.
//!
//! A key's versions in a table are newer than those in all that come behind it in the order of
//! search: level 0 from the newest run to the oldest, then level by level, of each at most one
//! table. So the first hit is the newest version.
//!
//! Not here: which tables there are ([`super::manifest`]); rows in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::{Kind, hash_of};
use super::merge::Merge;
use super::pick::{LEVEL_COUNT, Levels};
use super::table::{Error, OwnedRow, OwnedValue, Table};
use crate::env::Env;
use crate::id::Timestamp;
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::memtable::{Payload, Version};

/// See the module's header.
pub struct View<E: Env> {
    /// Newest first.
    runs: Vec<Table<E>>,
    /// The levels below that are not empty, each by key.
    levels: Vec<Vec<Table<E>>>,
}

/// The newest version of a key that the tables have.
#[derive(Debug)]
pub struct Found {
    row: OwnedRow,
    /// The value, if it stands beside its row.
    large: Option<Arc<Vec<u8>>>,
}

impl Found {
    /// As the memtable has it.
    pub fn version(&self) -> Version<'_> {
        let payload = match (&self.large, &self.row.value) {
            (Some(large), _) if large.len() >= LARGE_LEN_MIN => Payload::Shared(large),
            (Some(large), _) => Payload::Bytes(large),
            (None, OwnedValue::Bytes(bytes)) => Payload::Bytes(bytes),
            (None, OwnedValue::Large(_)) => Payload::Bytes(&[]),
        };
        let OwnedRow { timestamp, kind, expiry_ms, .. } = self.row;
        Version { timestamp, kind, expiry_ms, payload }
    }
}

/// A key of a [`Page`], without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRow {
    /// Encoded.
    pub key: Vec<u8>,
    /// What its newest version says.
    pub kind: Kind,
    /// Absolute deadline, unix milliseconds.
    pub expiry_ms: Option<u64>,
}

/// Keys in order, tombstones included: all that the tables have from where it begins to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Each key once.
    pub rows: Vec<PageRow>,
    /// The next one begins here; none: there is nothing behind.
    pub end: Option<Vec<u8>>,
}

impl<E: Env> View<E> {
    /// Of these tables, each with its level.
    pub fn new(tables: impl IntoIterator<Item = (u8, Table<E>)>) -> Self {
        let tables: BTreeMap<u64, (u8, Table<E>)> = tables
            .into_iter()
            .map(|(level, table)| (table.meta().number, (level, table)))
            .collect();
        let levels = Levels::new(tables.values().map(|(level, table)| (*level, table.meta())));
        let of = |level| {
            let metas = levels.tables(level).iter();
            metas.map(|meta| tables[&meta.number].1.clone()).collect::<Vec<_>>()
        };
        let below = (1..LEVEL_COUNT).map(of).filter(|level| !level.is_empty());
        Self { runs: of(0), levels: below.collect() }
    }

    /// The tables whose keys reach around `key`, in the order of search.
    fn around<'v>(&'v self, key: &'v [u8]) -> impl Iterator<Item = &'v Table<E>> {
        let below = self.levels.iter().filter_map(move |level| level.get(first_from(level, key)));
        let all = self.runs.iter().chain(below);
        all.filter(move |table| *table.meta().smallest <= *key && *key <= *table.meta().largest)
    }

    /// False: no table has a row of `key`. True may be wrong, for one key in a hundred per table.
    pub fn may_contain(&self, key: &[u8]) -> bool {
        let hash = hash_of(key);
        self.around(key).any(|table| table.may_contain(hash))
    }

    /// The newest version of `key`, a tombstone too.
    ///
    /// # Errors
    /// As the disk's; a table is damaged.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>, Error> {
        let hash = hash_of(key);
        for table in self.around(key).filter(|table| table.may_contain(hash)) {
            let Some(row) = table.get(key, Timestamp(u64::MAX)).await? else { continue };
            let large = match row.value {
                OwnedValue::Large(large) => Some(table.read_value(large).await?),
                OwnedValue::Bytes(_) => None,
            };
            return Ok(Some(Found { row, large }));
        }
        Ok(None)
    }

    /// Keys from `from` on, at most `limit`. Of each level one table is read at most, so the page
    /// may be shorter.
    ///
    /// # Errors
    /// As [`View::get`].
    pub async fn page(&self, from: &[u8], limit: usize) -> Result<Page, Error> {
        let (mut inputs, mut last) = (Vec::new(), None);
        for level in &self.levels {
            let at = first_from(level, from);
            inputs.extend(level.get(at));
            if let (Some(table), true) = (level.get(at), at + 1 < level.len()) {
                last = last.into_iter().chain([&table.meta().largest]).min();
            }
        }
        inputs.extend(self.runs.iter().filter(|table| *table.meta().largest >= *from));
        let mut merge = Merge::new(inputs.iter().map(|table| table.iter(from)).collect());
        let mut page = Page { rows: Vec::new(), end: last.map(|last| successor(last)) };
        while merge.advance().await? {
            let Some(row) = merge.row() else { break };
            if page.end.as_ref().is_some_and(|end| row.key >= end.as_slice()) {
                break;
            }
            if page.rows.last().is_some_and(|last| last.key == row.key) {
                continue;
            }
            if page.rows.len() >= limit {
                page.end = Some(row.key.to_vec());
                break;
            }
            let (key, kind, expiry_ms) = (row.key.to_vec(), row.kind, row.expiry_ms);
            page.rows.push(PageRow { key, kind, expiry_ms });
        }
        Ok(page)
    }
}

/// The first table of a level that has keys from `key` on.
fn first_from<E: Env>(level: &[Table<E>], key: &[u8]) -> usize {
    level.partition_point(|table| *table.meta().largest < *key)
}

/// The least key behind `key`.
pub fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
