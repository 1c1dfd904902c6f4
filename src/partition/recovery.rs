//! From the tables and the log's records back to a partition.
//!
//! The rows of the tables come first, if they are loaded at all, then what the log has: all
//! entries behind the one that the tables go up to, perhaps some before. A table may have a newer
//! version of a key than an entry that is replayed, since a flush goes on while keys change; such a
//! version stays, and the entry that made it comes later in the log.
//!
//! A lone voter's durable log is its committed log, so each entry is applied as it is read and
//! dropped from Raft's memory. What a voter among several has in its log may never be committed,
//! and may be replaced by what another leader says: so an entry waits in the log's cache until a
//! hard state says how far the log is committed, and what is left then is Raft's. While the log
//! says that there is no other voter, it is committed as far as it goes.

use std::collections::HashMap;
use std::sync::Arc;

use super::apply::{Fault, Rows};
use super::install::left_after;
use super::log_cache::{Content, LogCache};
use super::replica::{ELECTION_TICKS, GUARD_TICKS, Replica};
use super::roster::{Decree, Roster};
use super::standby::begins;
use super::{Committed, Entry, Flushed, Following, Partition, Sessions, Sizes};
use crate::consensus::{self, Config, EntryKind, Group, Handle, Membership, Restored};
use crate::id::{Lsn, NodeId, PartitionId, Timestamp};
use crate::lsm::memtable::{Memtable, Remains, Version};
use crate::mvcc::{self, Effect, Logged};

/// Large values met in the log, by blob id: complete or still growing.
pub type Blobs = HashMap<u64, Arc<Vec<u8>>, ahash::RandomState>;

/// Whether a table may have a key; asked when rows stay in the tables.
pub type MayHave<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Why a record could not be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An entry of members that is none, though its checksum is right.
    #[error("partition {partition} entry {index}: {source}")]
    Members {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: u64,
        /// What is wrong with it.
        source: consensus::Error,
    },
    /// Other nodes have replicas, or another cluster is followed, and this one was started as if it
    /// were alone.
    #[error(
        "partition {partition} has replicas on other nodes, or is a standby's: start this one as a \
         node of its cluster, with its initial-cluster or its peer-port"
    )]
    NotAlone {
        /// Which.
        partition: PartitionId,
    },
    /// The entry does not decode, though its checksum is right.
    #[error("partition {partition} entry {index}: {source}")]
    Malformed {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: u64,
        /// Where in it.
        source: mvcc::Error,
    },
    /// Entries are numbered without a gap.
    #[error("partition {partition}: entry {found} follows entry {last}")]
    Gap {
        /// Whose.
        partition: PartitionId,
        /// The entry before.
        last: u64,
        /// The entry that came.
        found: u64,
    },
    /// A value's blob records are missing before its entry.
    #[error("partition {partition} entry {index}: blob {blob} is not in the log")]
    BlobMissing {
        /// Whose.
        partition: PartitionId,
        /// Which.
        index: u64,
        /// The blob.
        blob: u64,
    },
}

/// What the manifest says of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How far the tables go.
    pub flushed: Flushed,
    /// The term of the entry that they go up to.
    pub index_term: u64,
    /// Raft's term.
    pub term: u64,
    /// Raft's vote, 0: none.
    pub vote: u64,
    /// See [`Restored::floor`].
    pub floor: (u64, u64),
    /// The newest version that a table may have.
    pub clock: Timestamp,
    /// Entries that were logged up to here are void.
    pub log_from: Lsn,
    /// Who has replicas as of the entry that the tables go up to.
    pub roster: Roster,
    /// What clients were told as of then, [`Sessions`] as bytes.
    pub sessions: Arc<[u8]>,
}

/// A partition being rebuilt.
pub struct Recovery {
    id: PartitionId,
    stored: Stored,
    pub(super) memtable: Memtable,
    pub(super) sizes: Sizes,
    dying: Vec<Remains>,
    pub(super) clock: Timestamp,
    term: u64,
    vote: Option<NodeId>,
    pub(super) last_index: u64,
    pub(super) last_term: u64,
    pub(super) flushed: Flushed,
    /// No table has a newer version.
    tables_clock: Timestamp,
    /// Tables may have versions up to this, of entries that are still to be applied.
    catch_up: Timestamp,
    /// Rises when the log clears what the tables have.
    generation: u32,
    /// Of a node that may have others: the log, the entry up to which it is applied, and up to
    /// which it is known to be committed.
    replicated: Option<(LogCache, u64, u64)>,
    /// Who has replicas as of the entries that are applied.
    roster: Roster,
    /// Rows are being copied from another cluster in the entry that is applied next.
    is_copying: bool,
    /// What clients were told, likewise.
    pub(super) sessions: Sessions,
    /// Who had them as of the tables, and the entries that changed it, up to what is applied.
    changed_from: Membership,
    changes: Vec<(u64, Vec<u8>)>,
    /// This node, if it may have others.
    own: NodeId,
}

impl Recovery {
    /// A partition of which the manifest says `stored`; the default if it says nothing. Its rows
    /// come into `memtable`, which is empty.
    pub fn new(id: PartitionId, memtable: Memtable, stored: Stored) -> Self {
        Self {
            id,
            memtable,
            sizes: Sizes::default(),
            dying: Vec::new(),
            clock: stored.clock,
            term: stored.term,
            vote: (stored.vote != 0).then_some(NodeId(stored.vote)),
            last_index: stored.flushed.index,
            last_term: stored.index_term,
            flushed: stored.flushed,
            tables_clock: stored.clock,
            catch_up: stored.clock,
            generation: 0,
            replicated: None,
            roster: stored.roster.clone(),
            is_copying: stored.roster.is_copying(),
            sessions: Sessions::decode(&stored.sessions).expect("whoever read it has looked"),
            changed_from: Membership::default(),
            changes: Vec::new(),
            own: NodeId(0),
            stored,
        }
    }

    /// There may be other voters: about so many bytes of log are kept in memory for them. At the
    /// group's birth it had these.
    pub fn keep_log(&mut self, len_max: usize, own: NodeId, founders: &[NodeId]) {
        self.own = own;
        if self.roster.members == Membership::default() {
            self.roster.members = Membership::new(founders.to_vec(), Vec::new());
        }
        self.changed_from = self.roster.members.clone();
        let base = (self.last_index, self.last_term);
        self.replicated = Some((LogCache::new(base, len_max), base.0, base.0));
    }

    /// There are no other voters.
    ///
    /// # Errors
    /// [`Error::NotAlone`]: there are.
    pub fn be_alone(&self, own: NodeId) -> Result<(), Error> {
        let members = &self.roster.members;
        let is_alone = *members == Membership::default() || members.is_lone(own);
        // Where it is in another's log is known to members alone.
        match is_alone && self.roster.following.is_none() {
            true => Ok(()),
            false => Err(Error::NotAlone { partition: self.id }),
        }
    }

    /// The tables of the partition have rows: tombstones have something to shadow.
    pub fn has_tables(&mut self) {
        self.memtable.keep_tombstones();
    }

    /// Its rows stay in the tables; of these there are about `sizes` keys.
    pub fn lean_on_tables(&mut self, sizes: Sizes) {
        self.memtable.make_partial();
        self.sizes = sizes;
    }

    /// Takes in the newest version of a key that its tables have, a put. Each key once.
    pub fn row(&mut self, key: &[u8], version: &Version<'_>) {
        self.rows(&|_| false).load(key, version);
    }

    fn rows<'a>(&'a mut self, may_have: MayHave<'a>) -> Rows<'a> {
        Rows {
            memtable: &mut self.memtable,
            sizes: &mut self.sizes,
            clock: &mut self.clock,
            generation: &mut self.generation,
            dying: &mut self.dying,
            tables_clock: self.tables_clock,
            may_have,
            sessions: &mut self.sessions,
            is_copying: self.is_copying,
        }
    }

    /// Takes in a hard state record.
    ///
    /// # Errors
    /// As [`Recovery::entry`].
    pub fn hard_state(
        &mut self,
        (term, commit): (u64, u64),
        payload: &[u8],
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        if let Some((_, _, committed)) = &mut self.replicated {
            *committed = commit.max(*committed);
            self.apply_committed(may_have)?;
        }
        // The log may reach back behind what the manifest says.
        if term >= self.term {
            let vote = payload.try_into().map_or(0, u64::from_le_bytes);
            self.term = term;
            self.vote = (vote != 0).then_some(NodeId(vote));
        }
        Ok(())
    }

    /// Takes in an entry record that was logged at `lsn`: passes over it if the tables came from
    /// elsewhere later. True: it did.
    pub fn pass_void(&self, lsn: Lsn, payload: &[u8], blobs: &mut Blobs) -> bool {
        let is_void = lsn <= self.stored.log_from;
        if is_void {
            drop_blobs(payload, blobs);
        }
        is_void
    }

    /// Takes in an entry record, unless its effects are in the tables.
    ///
    /// # Errors
    /// As [`Error`]: the log is not one that this program wrote; nothing can be trusted after it.
    pub fn entry(
        &mut self,
        term: u64,
        index: u64,
        payload: &[u8],
        blobs: &mut Blobs,
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        let partition = self.id;
        if index <= self.flushed.index {
            drop_blobs(payload, blobs);
            return Ok(());
        }
        if self.replicated.is_some() {
            return self.keep(term, index, payload, blobs, may_have);
        }
        if matches!(Decree::of(payload), Some(Decree::Members(_) | Decree::Follow(_))) {
            return Err(Error::NotAlone { partition });
        }
        if index != self.last_index + 1 {
            return Err(Error::Gap { partition, last: self.last_index, found: index });
        }
        let taken = self.rows(may_have).apply_entry(payload, &mut |blob| blobs.remove(&blob.id));
        taken.map_err(|fault| Error::of(partition, index, fault))?;
        self.last_index = index;
        self.last_term = term;
        self.term = self.term.max(term);
        Ok(())
    }

    /// An entry that is not known to be committed yet, and perhaps takes the place of others.
    fn keep(
        &mut self,
        term: u64,
        index: u64,
        payload: &[u8],
        blobs: &mut Blobs,
        may_have: MayHave<'_>,
    ) -> Result<(), Error> {
        let partition = self.id;
        let Some((cache, applied, _)) = &mut self.replicated else { return Ok(()) };
        if index <= *applied || index > cache.last() + 1 {
            return Err(Error::Gap { partition, last: cache.last(), found: index });
        }
        let mut content = Content { payload: payload.into(), blobs: Vec::new() };
        take_blobs(payload, blobs, &mut content.blobs).map_err(|blob| Error::BlobMissing {
            partition,
            index,
            blob,
        })?;
        cache.push(index, term, content);
        cache.trim(*applied, true);
        self.term = self.term.max(term);
        if self.is_lone() {
            let (_, _, committed) = self.replicated.as_mut().expect("looked at");
            *committed = index;
            return self.apply_committed(may_have);
        }
        Ok(())
    }

    /// Whether the log says that nobody else has a vote.
    fn is_lone(&self) -> bool {
        self.roster.members.is_lone(self.own)
    }

    /// Takes in what a committed entry says that changes no key.
    fn take_decree(&mut self, index: u64, payload: &[u8]) -> Result<(), Error> {
        let partition = self.id;
        match Decree::of(payload) {
            Some(Decree::Members(change)) => {
                self.changes.push((index, change.to_vec()));
                let taken = self.roster.members.take(change);
                taken.map_err(|source| Error::Members { partition, index, source })
            }
            Some(Decree::Topology(topology)) => {
                self.roster.topology = topology.into();
                Ok(())
            }
            Some(Decree::Follow(state)) => {
                self.roster.following = Following::decode(state).map(Arc::new);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// As of what is applied.
    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::new(self.roster.clone())
    }

    fn apply_committed(&mut self, may_have: MayHave<'_>) -> Result<(), Error> {
        let Some((cache, mut applied, committed)) = self.replicated.take() else { return Ok(()) };
        while applied < committed.min(cache.last()) {
            applied += 1;
            let content = cache.get(applied).expect("what is not applied is kept");
            self.catch_up = left_after(self.catch_up, &content.payload);
            // The entry that ends a copy may still have what is older than a row.
            self.is_copying = self.roster.is_copying();
            self.take_decree(applied, &content.payload)?;
            let done =
                self.rows(may_have).apply_entry(&content.payload, &mut |blob| content.blob(blob));
            done.map_err(|fault| Error::of(self.id, applied, fault))?;
            if begins(&content.payload) {
                self.flushed.timestamp = Timestamp(0);
                (self.tables_clock, self.catch_up) = (Timestamp(0), Timestamp(0));
            }
        }
        self.replicated = Some((cache, applied, committed));
        Ok(())
    }

    /// The partition, a follower for now: a lone voter is to campaign next.
    pub fn finish(mut self, node: NodeId, seed: u64) -> Partition {
        let roster = self.roster();
        let (applied, base, entries) = match &self.replicated {
            None => (self.last_index, (self.last_index, self.last_term), Vec::new()),
            Some((cache, applied, _)) => (*applied, cache.base(), entries_of(cache)),
        };
        let restored = Restored {
            term: self.term,
            vote: self.vote,
            commit: applied,
            applied,
            snapshot_index: base.0,
            snapshot_term: base.1,
            floor: self.stored.floor,
            entries,
            membership: self.replicated.is_some().then(|| self.members_at(base.0)),
            changes: std::mem::take(&mut self.changes),
        };
        let mut config = Config::new(node, vec![node], seed);
        if self.replicated.is_some() {
            (config.election_ticks, config.guard_ticks) = (ELECTION_TICKS, GUARD_TICKS);
            (config.turn, config.uncommitted_max) = (self.id.0.into(), u64::MAX);
        }
        let group = Group::new(config, restored).expect("a log that was read without a gap");
        let open = Entry::after(group.last_index());
        Partition {
            id: self.id,
            memtable: self.memtable,
            sizes: self.sizes,
            generation: self.generation,
            tables_generation: 0,
            rewound: 0,
            flushed: self.flushed,
            catch_up: if self.replicated.is_some() { self.catch_up } else { Timestamp(0) },
            retired: Default::default(),
            dying: self.dying,
            stored_hard: (self.stored.term, self.stored.vote),
            group,
            effects: Default::default(),
            clock: self.clock,
            committed: Committed { index: applied, timestamp: self.clock },
            payload: Vec::new(),
            open,
            pending: Default::default(),
            uncommitted_len: 0,
            early_until: 0,
            spare: Vec::new(),
            absences: Default::default(),
            hand: 0,
            uses_max: 0,
            leaving: Default::default(),
            tables_clock: self.tables_clock,
            roster,
            sessions: self.sessions,
            decreed: 0,
            replica: self.replicated.map(|(cache, ..)| Box::new(Replica::new(cache))),
            planted: None,
        }
    }
}

impl Recovery {
    /// Who had replicas as of an entry; what changed it later stays among the changes.
    fn members_at(&mut self, index: u64) -> Membership {
        let mut members = std::mem::take(&mut self.changed_from);
        let later = self.changes.partition_point(|(at, _)| *at <= index);
        for (_, change) in self.changes.drain(..later) {
            members.take(&change).expect("it was taken in before");
        }
        members
    }
}

impl Error {
    fn of(partition: PartitionId, index: u64, fault: Fault) -> Self {
        match fault {
            Fault::Malformed(source) => Self::Malformed { partition, index, source },
            Fault::BlobMissing(blob) => Self::BlobMissing { partition, index, blob },
        }
    }
}

fn entries_of(cache: &LogCache) -> Vec<consensus::Entry> {
    let entry = |(index, term, content): (u64, u64, &Content)| {
        let len = u32::try_from(content.byte_len()).unwrap_or(u32::MAX);
        let kind = match Decree::of(&content.payload) {
            Some(Decree::Members(_)) => EntryKind::Membership,
            _ if content.payload.is_empty() => EntryKind::Empty,
            _ => EntryKind::Payload,
        };
        consensus::Entry { index, term, kind, handle: Handle { lsn: Lsn(0), len, tag: 0 } }
    };
    cache.iter().map(entry).collect()
}

/// Takes the large values that effects name, those in effects that are a blob too.
fn take_blobs(
    payload: &[u8],
    blobs: &mut Blobs,
    into: &mut Vec<(mvcc::BlobRef, Arc<Vec<u8>>)>,
) -> Result<(), u64> {
    for (blob, is_inner) in Content::named(payload) {
        let bytes = blobs.remove(&blob.id).ok_or(blob.id)?;
        into.push((blob, Arc::clone(&bytes)));
        if is_inner {
            take_blobs(&bytes, blobs, into)?;
        }
    }
    Ok(())
}

/// The entry is in the tables, and so are its large values.
fn drop_blobs(payload: &[u8], blobs: &mut Blobs) {
    for effect in mvcc::decode(payload).flatten() {
        let blob = match effect {
            Effect::Put { value: Logged::Blob(blob), .. } => blob,
            Effect::Elsewhere { blob, .. } => {
                if let Some(effects) = blobs.remove(&blob.id) {
                    drop_blobs(&effects, blobs);
                }
                continue;
            }
            _ => continue,
        };
        blobs.remove(&blob.id);
    }
}
