//! WATCH: what a key was, so that EXEC can tell whether anybody touched it since.
//!
//! A key that is there is known by its newest version's timestamp: every write gives a new one, so
//! a value that was replaced by an equal one, or deleted and made again, was touched. It does not
//! matter whether that version is committed: if a crash takes it, the connection that watches goes
//! with it; if leadership is lost, it is another version, or none.
//!
//! A key that is not there has no version, and its last tombstone is freed when it commits. So the
//! partition remembers the *absent* keys that are watched, each with the time up to which nobody
//! made it and took it away again. Only a deletion looks there, and only while somebody watches an
//! absent key; writes do not. Nobody has to say that a watch is over: the memory has two halves,
//! and when the young one is full the old one is forgotten. A watch that was forgotten (some
//! [`HALF_LEN_MAX`] later watches of absent keys in the partition) counts as touched.
//!
//! A key whose time is over is absent: whoever watches it while it lives sees it touched when it
//! expires; whoever watches it after that does not care when it is removed. As in Redis.

use std::collections::BTreeMap;

use super::{Kind, Partition};
use crate::command;
use crate::id::Timestamp;
use crate::lsm::memtable::{Memtable, Version};

/// Absent keys in one half of the memory.
const HALF_LEN_MAX: usize = 4096;

/// Bytes of their names.
const HALF_BYTES_MAX: usize = 512 << 10;

/// What a watched key was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It had this version.
    Present(Timestamp),
    /// It was not there.
    Absent {
        /// Nobody made it and took it away between its watch and this.
        since: Timestamp,
        /// Which half of the memory knows.
        half: u64,
    },
}

#[derive(Default)]
struct Half {
    keys: BTreeMap<Box<[u8]>, Timestamp>,
    bytes: usize,
}

/// The absent keys that are watched.
#[derive(Default)]
pub struct Absences {
    young: Half,
    old: Half,
    /// Number of the young half; the old one has the number before.
    half: u64,
}

impl Absences {
    /// Whether no absent key is watched.
    pub fn is_empty(&self) -> bool {
        self.young.keys.is_empty() && self.old.keys.is_empty()
    }

    /// `newest`: when the key was last written, if it has expired and is still here.
    fn watch(&mut self, key: &[u8], newest: Option<Timestamp>, now: Timestamp) -> Seen {
        let known = self.of(key).filter(|since| newest.is_none_or(|newest| newest <= *since));
        let since = known.unwrap_or(now);
        if self.young.keys.len() >= HALF_LEN_MAX || self.young.bytes >= HALF_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.half += 1;
        }
        if self.young.keys.insert(key.into(), since).is_none() {
            self.young.bytes += key.len();
        }
        Seen::Absent { since, half: self.half }
    }

    fn of(&self, key: &[u8]) -> Option<Timestamp> {
        self.young.keys.get(key).or_else(|| self.old.keys.get(key)).copied()
    }

    /// The newest version of `key` is being deleted.
    pub fn note_deletion(&mut self, key: &[u8], newest: Option<Version<'_>>, timestamp: Timestamp) {
        let Some(newest) = newest.filter(|version| version.kind == Kind::Put) else { return };
        for half in [&mut self.young, &mut self.old] {
            // An older one had expired when the key was watched.
            if let Some(since) = half.keys.get_mut(key)
                && newest.timestamp > *since
            {
                *since = timestamp;
            }
        }
    }

    /// All keys of `table` are being deleted.
    pub fn note_clear(&mut self, table: &Memtable, timestamp: Timestamp) {
        for (key, since) in self.young.keys.iter_mut().chain(&mut self.old.keys) {
            let newest = table.get(table.hash(key), key);
            if newest.is_some_and(|v| v.kind == Kind::Put && v.timestamp > *since) {
                *since = timestamp;
            }
        }
    }

    /// All watches of absent keys count as touched.
    pub fn forget(&mut self) {
        *self = Self { half: self.half + 2, ..Self::default() };
    }
}

impl Partition {
    /// Watches a key: what it is.
    pub fn watch(&mut self, hash: u64, key: &[u8], now_ms: u64) -> Seen {
        let newest = self.memtable.get(hash, key).filter(|version| version.kind == Kind::Put);
        match newest {
            Some(version) if is_there(&version, now_ms) => Seen::Present(version.timestamp),
            _ => {
                let newest = newest.map(|version| version.timestamp);
                self.absences.watch(key, newest, self.clock)
            }
        }
    }

    /// Whether nobody touched a key since it was watched.
    pub fn is_untouched(&self, hash: u64, key: &[u8], seen: Seen, now_ms: u64) -> bool {
        let newest = self.memtable.get(hash, key).filter(|version| version.kind == Kind::Put);
        match seen {
            Seen::Present(timestamp) => newest.is_some_and(|version| {
                version.timestamp == timestamp && is_there(&version, now_ms)
            }),
            Seen::Absent { since, half } => {
                half + 1 >= self.absences.half
                    && self.absences.of(key) == Some(since)
                    && newest.is_none_or(|version| version.timestamp <= since)
            }
        }
    }
}

fn is_there(version: &Version<'_>, now_ms: u64) -> bool {
    version.kind == Kind::Put && !command::is_expired(version.expiry_ms, now_ms)
}
