//! What a partition gives to its SSTables: every committed version that none of them has, in the
//! order of the keys, a few at a time.
//!
//! A flush goes on while keys change, and takes of each key the version that is committed when it
//! comes by. That may be newer than the flush's beginning, and then the log has it too: replay
//! meets the older versions first and passes over them, since a key's versions rise. What a flush
//! promises is only that nothing up to its beginning is missing; what came later is the next
//! one's, and so is it of the log.
//!
//! A version is dirty when it is newer than [`Flushed::timestamp`]. So nothing is marked when a key
//! is written, and a flush passes over the clean ones, which costs a look at each.
//!
//! Tombstones that are in a table are of no more use here, and are dropped by the next flush.

use std::sync::Arc;

use super::{Committed, Partition, Planted, Roster, Sizes};
use crate::consensus::Membership;
use crate::id::Timestamp;
use crate::lsm::memtable::Kind;
use crate::lsm::rows::Rows;

/// A slice of a flush looks at so many keys at most, times its size: some 50 us.
const SLICE_KEYS_MAX: usize = 512;

/// A slice ends when it has taken so many bytes, times its size.
const SLICE_LEN_MAX: usize = 32 << 10;

/// How far the tables of a partition go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// The effects of all entries up to this are in tables.
    pub index: u64,
    /// No version up to this is in the memtable alone.
    pub timestamp: Timestamp,
}

/// A flush on its way.
#[derive(Debug)]
pub struct Flush {
    generation: u32,
    /// Versions newer than this are taken.
    since: Timestamp,
    /// How far the tables go when it is done.
    until: Flushed,
    /// The term of the entry that they go up to.
    until_term: u64,
    /// Raft's term and vote, to be kept with it.
    hard: (u64, u64),
    /// The key to go on from.
    from: Vec<u8>,
    /// About how many keys there were when it began.
    sizes: Sizes,
    /// Who had replicas when it began.
    roster: Arc<Roster>,
    /// What clients had been told when it began.
    sessions: Arc<[u8]>,
}

/// The keys were cleared while the flush was on its way: what it has taken is void.
#[derive(Debug, PartialEq, Eq)]
pub struct Overtaken;

impl Flush {
    /// How far the tables go when it is done.
    pub fn until(&self) -> Flushed {
        self.until
    }

    /// The term of the entry that the tables go up to, then.
    pub fn until_term(&self) -> u64 {
        self.until_term
    }

    /// Raft's term and vote when it began, 0: none. The log has what changed since.
    pub fn hard_state(&self) -> (u64, u64) {
        self.hard
    }

    /// Who had replicas when it began.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What clients had been told when it began, [`super::Sessions`] as bytes.
    pub fn sessions(&self) -> &Arc<[u8]> {
        &self.sessions
    }

    /// About how many keys there were when it began.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }
}

impl Partition {
    /// How far the tables go.
    pub fn flushed(&self) -> Flushed {
        self.flushed
    }

    /// Whether something that counts is in the log alone: an entry whose effects are in no table,
    /// one that is not committed yet, a vote.
    pub fn needs_log(&self) -> bool {
        self.committed.index > self.flushed.index
            || self.newest_logged() > self.committed.index
            || (self.is_replicated() && self.group.hard_state() != self.stored_hard)
    }

    /// The newest entry that the log has, or will have at the end of the turn.
    pub fn newest_logged(&self) -> u64 {
        match self.is_open() {
            true => self.open.index,
            false => self.group.last_index(),
        }
    }

    /// Whether nothing up to entry `index` of the log may still commit that has not. Another leader
    /// may have taken entries back: those never will.
    pub fn has_settled(&self, index: u64) -> bool {
        self.committed.index >= index.min(self.newest_logged())
    }

    /// Begins a flush of all that is committed. `None`: a clear is on its way, so that it is not
    /// known yet which keys count, or entries are missing that tables have; later, then.
    pub fn begin_flush(&mut self) -> Option<Flush> {
        if !self.retired.is_empty() || self.is_catching_up() {
            return None;
        }
        // A key that is deleted from now on may be in the table that is being written.
        if !self.has(Planted::DropTombstones) {
            self.memtable.keep_tombstones();
        }
        // While rows are copied, older versions may come: all that is in memory is taken each time.
        let marks = !self.is_copying() || self.has(Planted::MarkCopied);
        let of = |timestamp| if marks { timestamp } else { Timestamp(0) };
        let since = of(self.flushed.timestamp);
        let until =
            Flushed { index: self.committed.index, timestamp: of(self.committed.timestamp) };
        let (generation, sizes) = (self.generation, self.sizes);
        let until_term = self.group.term_of(until.index).unwrap_or(self.group.term());
        let (hard, from) = (self.group.hard_state(), Vec::new());
        let mut roster = Arc::clone(&self.roster);
        if self.has(Planted::FlushDropsMembers) {
            Arc::make_mut(&mut roster).members = Membership::default();
        }
        let sessions = match self.has(Planted::FlushDropsReplies) {
            true => Arc::default(),
            false => self.sessions.encode().into(),
        };
        Some(Flush { generation, since, until, until_term, hard, from, sizes, roster, sessions })
    }

    /// Whether the tables that are there are void: all keys were cleared since they were written.
    pub fn has_void_tables(&self, flush: &Flush) -> bool {
        flush.generation != self.tables_generation
    }

    /// Takes the next slice, of `size` times the usual. True: that was the last.
    ///
    /// # Errors
    /// [`Overtaken`]: give the flush up.
    pub fn take_slice(
        &mut self,
        flush: &mut Flush,
        rows: &mut Rows,
        size: usize,
    ) -> Result<bool, Overtaken> {
        if flush.generation != self.generation {
            return Err(Overtaken);
        }
        if self.has(Planted::MarkLate) {
            let Committed { index, timestamp } = self.committed;
            flush.until = Flushed { index, timestamp };
        }
        let mut stale = Vec::new();
        let (mut seen, mut is_last) = (0, true);
        let at = match self.planted {
            Some(Planted::FlushUncommitted) => Timestamp(u64::MAX),
            _ => self.committed.timestamp,
        };
        for (key, version) in self.memtable.scan(&flush.from, at) {
            if version.timestamp > flush.since {
                rows.push(key, &version);
            } else if version.kind == Kind::Delete {
                stale.push(key.to_vec());
            }
            seen += 1;
            if seen >= size * SLICE_KEYS_MAX || rows.byte_len() >= size * SLICE_LEN_MAX {
                flush.from.clear();
                flush.from.extend_from_slice(key);
                flush.from.push(0);
                is_last = false;
                break;
            }
        }
        stale.iter().for_each(|key| self.memtable.forget(key, flush.since));
        Ok(is_last)
    }

    /// The flush's table is durable and in the manifest.
    pub fn end_flush(&mut self, flush: &Flush) {
        self.flushed = flush.until;
        if flush.generation < self.rewound {
            // Of what was here before.
            self.flushed.timestamp = Timestamp(0);
        }
        self.stored_hard = flush.hard;
        self.tables_generation = flush.generation;
    }
}
