//! Keys by database, kept up to date by what each write changed.

use crate::id::Timestamp;
use crate::lsm::key::db_of;
use crate::lsm::memtable::{Kind, Memtable};

/// Keys, and keys with a deadline, of each database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    dbs: [(i64, i64); 16],
}

/// What the memtable held before a key of this database changed.
#[derive(Clone, Copy)]
pub struct Before {
    db: u8,
    keys: i64,
    expiring: i64,
}

impl Before {
    /// Looks before `key` changes.
    pub fn of(key: &[u8], table: &Memtable) -> Self {
        let (keys, expiring) = (table.live_len() as i64, table.expiring_len() as i64);
        Self { db: db_of(key) & 15, keys, expiring }
    }
}

impl Sizes {
    /// Notes what the change of the key made of it.
    pub fn note(&mut self, before: Before, table: &Memtable) {
        let db = &mut self.dbs[usize::from(before.db)];
        db.0 += table.live_len() as i64 - before.keys;
        db.1 += table.expiring_len() as i64 - before.expiring;
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
