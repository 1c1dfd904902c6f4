//! The log as raft-rs reads it: (index, term, kind, handle) of each entry that some replica may
//! still need, in memory. Durability is the driver's; here an entry is held from its draining on.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{self, ConfState, EntryType};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::message::snapshot_to_raft;
use super::{Entry, EntryKind, Error, Restored, Snapshot};
use crate::id::NodeId;

/// What an entry counts besides its payload when a size is limited, bytes: about its framing, so
/// that empty entries are bounded in number too.
const ENTRY_OVERHEAD_LEN: u64 = 64;

/// Contiguous entries behind a base. Bounded by [`Log::compact`].
pub(super) struct Log {
    /// The entry before the first: 0 and 0 if there never was one.
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    /// What the group starts from; not kept up to date, since raft-rs reads it once.
    initial: RaftState,
    /// The states that the driver can ship, and to whom.
    offered: BTreeMap<NodeId, Snapshot>,
    /// Who asked for a snapshot that was not there.
    wanted: Cell<Option<NodeId>>,
}

impl Log {
    /// # Errors
    /// [`Error::Restored`]: a gap, or a watermark outside the log.
    pub(super) fn new(conf: ConfState, restored: Restored) -> Result<Self, Error> {
        let Restored {
            term, vote, commit, applied, snapshot_index, snapshot_term, entries, ..
        } = restored;
        check_contiguous(snapshot_index, snapshot_term, term, &entries)?;
        let last = snapshot_index + entries.len() as u64;
        let commit = commit.max(applied).max(snapshot_index);
        if commit > last {
            let what = "last index (below the commit index)";
            return Err(Error::Restored { what, found: last, expected: commit });
        }
        let hard = eraftpb::HardState {
            term,
            vote: vote.map_or(0, |id| id.0),
            commit,
            ..Default::default()
        };
        Ok(Self {
            base_index: snapshot_index,
            base_term: snapshot_term,
            entries: entries.into(),
            initial: RaftState::new(hard, conf),
            offered: BTreeMap::new(),
            wanted: Cell::new(None),
        })
    }

    /// The newest entry's index, or the base's.
    pub(super) fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// The newest index that is no longer held.
    pub(super) fn base_index(&self) -> u64 {
        self.base_index
    }

    /// How many entries are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry at `index`, if it is held.
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let position = index.checked_sub(self.base_index + 1)?;
        self.entries.get(position as usize)
    }

    /// As [`Log::get`], for mending the handle.
    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut Entry> {
        let position = index.checked_sub(self.base_index + 1)?;
        self.entries.get_mut(position as usize)
    }

    /// Adds `entry`, in place of all from its index on.
    pub(super) fn append(&mut self, entry: Entry) {
        let (index, base, last) = (entry.index, self.base_index, self.last());
        assert!(index > base && index <= last + 1, "append of {index} to ({base}, {last}]");
        self.entries.truncate((index - base - 1) as usize);
        self.entries.push_back(entry);
    }

    /// Forgets all entries up to `index`, which is held; its term is kept.
    pub(super) fn compact(&mut self, index: u64) {
        let Some(entry) = self.get(index) else { return };
        self.base_term = entry.term;
        self.entries.drain(..(index - self.base_index) as usize);
        self.base_index = index;
    }

    /// Begins anew behind a snapshot.
    pub(super) fn restore(&mut self, index: u64, term: u64) {
        self.entries.clear();
        (self.base_index, self.base_term) = (index, term);
        self.offered.clear();
    }

    /// From here on a follower that needs a snapshot is sent this one.
    pub(super) fn offer(&mut self, to: NodeId, snapshot: Snapshot) {
        self.offered.insert(to, snapshot);
    }

    /// The state that was offered to a follower can not be shipped any more.
    pub(super) fn withdraw(&mut self, to: NodeId) {
        self.offered.remove(&to);
    }

    /// Who was refused a snapshot since the last call.
    pub(super) fn take_wanted(&self) -> Option<NodeId> {
        self.wanted.take()
    }
}

fn check_contiguous(
    base_index: u64,
    base_term: u64,
    term_max: u64,
    entries: &[Entry],
) -> Result<(), Error> {
    let mut term = base_term;
    for (expected, entry) in (base_index + 1..).zip(entries) {
        if entry.index != expected {
            return Err(Error::Restored { what: "entry index", found: entry.index, expected });
        }
        if entry.term < term || entry.term > term_max {
            let expected = term.max(entry.term.min(term_max));
            return Err(Error::Restored { what: "entry term", found: entry.term, expected });
        }
        term = entry.term;
    }
    Ok(())
}

/// raft-rs's form of an entry. The deprecated `sync_log` says that there is a payload: a field that
/// raft-rs itself never reads, so that a new leader's own entry can not be taken for one.
pub(super) fn to_raft(entry: &Entry) -> eraftpb::Entry {
    eraftpb::Entry {
        index: entry.index,
        term: entry.term,
        entry_type: match entry.kind {
            EntryKind::Membership => EntryType::EntryConfChangeV2,
            EntryKind::Empty | EntryKind::Payload => EntryType::EntryNormal,
        },
        sync_log: entry.kind != EntryKind::Empty,
        ..Default::default()
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries {low}..{high} of a log up to {}", self.last());
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let from = (low - self.base_index - 1) as usize;
        let held = self.entries.range(from..from + (high - low) as usize);
        let mut found = Vec::with_capacity(held.len().min(256));
        let mut size = 0;
        for entry in held {
            size += ENTRY_OVERHEAD_LEN + u64::from(entry.handle.len);
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(to_raft(entry));
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        let missing = if index < self.base_index {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        };
        self.get(index).map(|entry| entry.term).ok_or(raft::Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let to = NodeId(to);
        // Whoever is no member in a snapshot ignores it.
        let fits = |offered: &&Snapshot| {
            let is_new = offered.index >= request_index && offered.index >= self.base_index;
            is_new && offered.membership.contains(to)
        };
        let Some(offered) = self.offered.get(&to).filter(fits) else {
            self.wanted.set(Some(to));
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        Ok(snapshot_to_raft(offered))
    }
}
