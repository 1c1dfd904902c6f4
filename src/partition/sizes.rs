//! Keys by database, kept up to date by what each write changed.

use crate::id::Timestamp;
use crate::lsm::key::db_of;
use crate::lsm::memtable::{Kind, Memtable};

/// Keys, and keys with a deadline, of each database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    dbs: [(i64, i64); 16],
}

/// What the memtable held before a write.
#[derive(Clone, Copy)]
pub struct Before(i64, i64);

impl Before {
    /// Looks before the write.
    pub fn of(table: &Memtable) -> Self {
        Self(table.live_len() as i64, table.expiring_len() as i64)
    }
}

impl Sizes {
    /// Notes what the write of `key` changed.
    pub fn note(&mut self, key: &[u8], before: Before, table: &Memtable) {
        let after = Before::of(table);
        let db = &mut self.dbs[usize::from(db_of(key) & 15)];
        db.0 += after.0 - before.0;
        db.1 += after.1 - before.1;
    }

    /// Keys and keys with a deadline.
    pub fn of(&self, db: u8) -> (u64, u64) {
        let (keys, expiring) = self.dbs[usize::from(db & 15)];
        (keys.max(0) as u64, expiring.max(0) as u64)
    }

    /// Whether there are keys, and all are of this database.
    pub fn has_only(&self, db: u8) -> bool {
        self.dbs.iter().enumerate().all(|(at, (keys, _))| (*keys > 0) == (at == usize::from(db)))
    }
}

/// The encoded keys of a database.
pub fn keys_of(table: &mut Memtable, db: u8) -> Vec<Vec<u8>> {
    let newest = Timestamp(u64::MAX);
    let keys = table
        .scan(&[], newest)
        .filter(|(key, version)| db_of(key) == db && version.kind == Kind::Put);
    keys.map(|(key, _)| key.to_vec()).collect()
}
