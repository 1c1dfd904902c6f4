//! Keys by database, kept up to date by what each write changed.

use crate::id::Timestamp;
use crate::lsm::key::db_of;
use crate::lsm::memtable::{Kind, Memtable};

/// Keys, and keys with a deadline, of each database.
///
/// Exact while all rows are in memory. Beyond that an estimate: whether a key that is overwritten
/// unread was there is told by filters, which are wrong for a key in a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    dbs: [(i64, i64); DB_COUNT],
    /// A bit per database that ever had a key.
    used: u16,
}

/// Databases.
pub const DB_COUNT: usize = 16;

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
        self.used |= 1 << before.db;
    }

    /// A key is counted that should not be.
    pub fn lose(&mut self, key: &[u8]) {
        self.dbs[usize::from(db_of(key) & 15)].0 -= 1;
    }

    /// Keys of all databases.
    pub fn total(&self) -> u64 {
        self.dbs.iter().map(|(keys, _)| (*keys).max(0) as u64).sum()
    }

    /// As kept in the manifest: the databases that ever had a key, and what they have.
    pub fn to_counts(self) -> Vec<(u8, u64, u64)> {
        let used = (0..DB_COUNT as u8).filter(|db| self.used & 1 << db != 0);
        used.map(|db| (db, self.of(db).0, self.of(db).1)).collect()
    }

    /// See [`Sizes::to_counts`].
    pub fn of_counts(counts: &[(u8, u64, u64)]) -> Self {
        let mut sizes = Self::default();
        for (db, keys, expiring) in counts {
            sizes.dbs[usize::from(db & 15)] = (*keys as i64, *expiring as i64);
            sizes.used |= 1 << (db & 15);
        }
        sizes
    }

    /// Whether no other database than this ever had a key.
    pub fn is_all_of(&self, db: u8) -> bool {
        self.used & !(1 << (db & 15)) == 0
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
