//! A partition: one Raft group and one tree. Writes are proposed here, and applied in index order.
//!
//! **The overlay is the memtable.** A write is evaluated once, at proposal, and its version goes
//! into the memtable at once, newer than the timestamp of [`Partition::committed`]: the overlay
//! of proposed but uncommitted versions (charter, D12). Committing an entry moves the watermark and
//! drops the versions it replaced; losing leadership unlinks what is above it. Chosen over an
//! overlay beside the memtable because a write then costs one probe instead of three; what would
//! change it: a follower that must not show uncommitted versions to scans without a filter.
//!
//! Life of a write: [`Partition::evaluate`] adds an effect to the open entry and a version to the
//! memtable; at the end of the loop's turn [`Partition::seal`] proposes the entry and appends it to
//! the shard's log; when the log is durable [`Partition::persisted`] lets Raft commit it, and
//! whoever waited is released.
//!
//! Invariants:
//! * Timestamps rise from effect to effect, and the open entry is newer than all pending ones.
//! * A version is visible to a reply that has left only if its entry is committed.
//! * `touched` references of an entry belong to the memtable of the entry's generation.
//!
//! Lives on its shard's core. Not here: which partition, which shard ([`crate::cluster`]); the log
//! ([`crate::wal`]); what a command means ([`crate::command`]).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::command::{self, Arg, Event, Found};
use crate::consensus::{self, Effects, EntryKind, Group, Handle, Role};
use crate::env::Env;
use crate::id::{Lsn, Once, PartitionId, Timestamp};
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::memtable::{EntryRef, Kind, Memtable, Payload, Remains, Scan, Sum, Version};
use crate::mvcc::{BlobRef, Effect, Logged};
use crate::wal::{self, RecordKind, Writer};

use replica::Replica;
use sizes::Before;

pub use behind::{TooOld, Went};
pub use flush::{Flush, Flushed, Overtaken};
pub use log_cache::Content;
pub use recovery::{Blobs, Error, MayHave, Recovery, Stored};
pub use replica::{LEASE_SPARE, Standing, TICK};
pub use resident::Epoch;
pub use roster::Roster;
pub use sessions::{Recalled, Reply, Sessions};
pub use sizes::{DB_COUNT, Sizes};
pub use standby::{Following, Stage, is_begin};
pub use together::{BLOB_CHUNK_LEN, Decided, Key, What, log_blob};
pub use watch::Seen;

mod apply;
mod behind;
mod digest;
mod early;
mod evict;
mod flush;
mod install;
mod log_cache;
mod recovery;
mod replica;
mod resident;
mod roster;
mod sessions;
mod sizes;
mod standby;
#[cfg(test)]
mod tests;
mod together;
mod watch;

/// An entry is sealed before its turn's end from this size on, bytes: a log record is bounded.
pub const ENTRY_LEN_SOFT_MAX: usize = 256 << 10;

/// Pieces of a cleared memtable that are freed at a time.
const RELEASE_MAX: usize = 8;

/// Bugs that the tests plant, to show that they would see them.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A write's reply does not wait for its commit.
    ReplyBeforeCommit,
    /// A read of an uncommitted version is answered at once.
    AnswerUncommittedRead,
    /// Another shard's answer takes its place among the replies when it comes, not when asked for.
    ReplyOutOfOrder,
    /// Commands see committed versions only.
    DropOverlay,
    /// Each effect of a transaction is an entry of its own.
    SplitTransaction,
    /// EXEC does not look at what is watched.
    SkipWatch,
    /// EXEC's reply does not wait for its commit.
    ExecBeforeCommit,
    /// A read of an uncommitted version is not remembered for its reader.
    ForgetReader,
    /// Tombstones go when they are committed, though tables have older versions.
    DropTombstones,
    /// A flush takes what is proposed, too, and does not wait for the log.
    FlushUncommitted,
    /// A flush is said to have taken all up to its end.
    MarkLate,
    /// Rows leave memory that no table has.
    LetGoDirty,
    /// A command on a key that only a table has is evaluated as if there were none.
    SkipSeek,
    /// What the log had before an install still counts.
    InstallKeepsLog,
    /// The tables of an install are read before its rows are taken over.
    InstallShowsEarly,
    /// A leader trusts its lease for longer than others wait.
    LongLease,
    /// Whoever takes its leader for gone campaigns at once.
    CampaignUnguarded,
    /// Followers do not take in what clients were told.
    LeaderKeepsReplies,
    /// The manifest and checkpoints do not have what clients were told.
    FlushDropsReplies,
    /// A leader whose disk is slow goes on.
    LeadSlowly,
    /// The manifest and checkpoints do not have who has replicas.
    FlushDropsMembers,
    /// A retry of what is on its way is evaluated, too.
    RepeatProposed,
    /// How old a replica is, is reckoned from when its leader's answer came.
    AgeFromReceipt,
    /// A replica closes a moment before it has applied what was committed by then.
    ClosedUnapplied,
    /// A leader says what is committed without a lease.
    ClosedWithoutLease,
    /// A flush marks what it took while rows are copied from another cluster.
    MarkCopied,
    /// Who waits for the majority is told when the entry is on the leader's disk.
    QuorumIsLeader,
    /// Who waits for the leader's disk is told when the entry is on its way there.
    LeaderUnwritten,
    /// Followers say that they have what is only on its way to their disks.
    FollowerUnwritten,
    /// A replica does not log for whom it has voted.
    ForgetVote,
    /// Who loses leadership keeps what it has proposed.
    KeepProposed,
    /// Followers leave out some entries.
    SkipEntries,
    /// A leader that hands over still trusts its lease.
    KeepLease,
}

/// Who waits for an entry to commit: a token that only the shard can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter(pub u64);

/// A log write of a partition, to be reported to it when the log is durable up to `lsn`.
#[derive(Clone, Copy, Debug)]
pub struct Logging {
    /// Durable from here on.
    pub lsn: crate::id::Lsn,
    /// The write.
    pub write: crate::consensus::WriteId,
}

/// How far the partition has come: what a reader may be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The newest committed entry.
    pub index: u64,
    /// The newest version in it or before.
    pub timestamp: Timestamp,
}

/// What came of one key's evaluation.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// The key was there.
    pub hit: bool,
    /// What was there was no more: its time was over.
    pub expired: bool,
    /// What was done to the key.
    pub event: Event,
    /// The entry that has to commit before the reply may leave.
    pub hold: Option<u64>,
    /// For commands that count.
    pub count: u64,
    /// A large value and its deadline: to be logged, then [`Partition::put_large`].
    pub large: Option<(Arc<Vec<u8>>, Option<u64>)>,
}

/// Where an evaluation leaves its effect.
pub struct Proposal<'a> {
    key: &'a [u8],
    /// Of what was found; 0: nothing was.
    seen: Timestamp,
    timestamp: Timestamp,
    payload: Vec<u8>,
    count: u64,
    event: Event,
    made: Made,
}

enum Made {
    Nothing,
    Value { value_len: usize, expiry_ms: Option<u64> },
    Large(Arc<Vec<u8>>, Option<u64>),
    Deletion,
}

impl Proposal<'_> {
    /// The version of what was found; 0: nothing was.
    pub fn seen(&self) -> Timestamp {
        self.seen
    }

    /// Takes what a command made of the key.
    pub fn take(&mut self, (effect, count): (command::Effect<'_>, u64)) {
        self.count = count;
        let (value, expiry_ms) = match effect {
            command::Effect::Put { value, expiry_ms, event } => {
                self.event = event;
                (value, expiry_ms)
            }
            command::Effect::Delete(event) => {
                (self.event, self.made) = (event, Made::Deletion);
                return;
            }
            command::Effect::None => return,
        };
        let bytes = value.as_slice();
        let value_len = bytes.len();
        self.made = match value {
            command::NewValue::Shared(value) if value_len >= LARGE_LEN_MIN => {
                Made::Large(Arc::clone(value), expiry_ms)
            }
            command::NewValue::Owned(value) if value_len >= LARGE_LEN_MIN => {
                Made::Large(Arc::new(value.into_vec()), expiry_ms)
            }
            _ if value_len >= LARGE_LEN_MIN => Made::Large(Arc::new(bytes.to_vec()), expiry_ms),
            _ => {
                let (key, timestamp, value) = (self.key, self.timestamp, Logged::Inline(bytes));
                Effect::Put { key, timestamp, expiry_ms, value }.encode(&mut self.payload);
                Made::Value { value_len, expiry_ms }
            }
        };
    }
}

/// An entry from its first effect to its commit.
#[derive(Default)]
struct Entry {
    index: u64,
    /// Of its last effect.
    timestamp: Timestamp,
    generation: u32,
    touched: Vec<EntryRef>,
    /// Bytes, from when it is sealed on.
    len: usize,
    waiters: Vec<Waiter>,
    /// Who waits for no more than the disk here; see [`early`].
    early: Vec<Waiter>,
    /// Writes to be done once that it has the replies of.
    told: Vec<Once>,
}

/// A memtable that a clear replaced.
struct Retired {
    /// The clear's entry; the table is gone for good once it is committed.
    index: u64,
    generation: u32,
    table: Memtable,
    sizes: Sizes,
}

/// See the module's header.
pub struct Partition {
    id: PartitionId,
    memtable: Memtable,
    sizes: Sizes,
    /// Rises with each clear.
    generation: u32,
    /// Of the memtable that the tables were written from.
    tables_generation: u32,
    /// Of the first memtable since another cluster is followed.
    rewound: u32,
    flushed: Flushed,
    /// Tables may have versions up to this, of entries that are still to be applied.
    catch_up: Timestamp,
    retired: VecDeque<Retired>,
    /// Cleared and committed: freed piece by piece.
    dying: Vec<Remains>,
    /// Raft's term and vote as the manifest has them.
    stored_hard: (u64, u64),
    group: Group,
    effects: Effects,
    clock: Timestamp,
    committed: Committed,
    payload: Vec<u8>,
    open: Entry,
    pending: VecDeque<Entry>,
    /// Bytes of `pending`.
    uncommitted_len: usize,
    /// Nobody waits for the disk here of `pending` up to this entry.
    early_until: u64,
    spare: Vec<Entry>,
    absences: watch::Absences,
    /// Where the hand goes on that lets rows go, or looks for victims.
    hand: u64,
    /// Up to so many uses of a key count; see [`evict`].
    uses_max: u32,
    /// Entries that delete victims and are not committed, each with the bytes that it gives back.
    leaving: VecDeque<(u64, usize)>,
    /// Of versions up to this, tables may have newer ones than the log that is being applied.
    tables_clock: Timestamp,
    /// Who has replicas of it; see [`roster`].
    roster: Arc<Roster>,
    /// What clients were told; see [`sessions`].
    sessions: Sessions,
    /// The newest topology that was proposed here.
    decreed: u64,
    /// What a lone voter does without.
    replica: Option<Box<Replica>>,
    planted: Option<Planted>,
}

/// What a partition's log writes and commits touch.
pub struct Around<'a, E: Env> {
    /// The shard's log.
    pub log: &'a mut Writer<E>,
    /// The newest name of a large value.
    pub blob_next: &'a mut u64,
    /// Whether a table may have a key.
    pub may_have: MayHave<'a>,
    /// Whoever waited for what is committed now.
    pub released: &'a mut Vec<Waiter>,
}

impl Partition {
    /// This partition's number.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// What is committed.
    pub fn committed(&self) -> Committed {
        self.committed
    }

    /// The newest version given out.
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// The memtable, for hashing and prefetching.
    pub fn memtable(&self) -> &Memtable {
        &self.memtable
    }

    /// Plants a bug.
    #[doc(hidden)]
    pub fn plant(&mut self, bug: Option<Planted>) {
        self.planted = bug;
    }

    /// Whether a bug is planted.
    #[doc(hidden)]
    pub fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// Whether writes are taken here.
    pub fn is_leader(&self) -> bool {
        self.group.role() == Role::Leader
    }

    /// The newest version of a key, and the entry a reply that tells of it has to wait for.
    #[inline(always)] // As `Memtable::get`.
    pub fn find(&self, hash: u64, key: &[u8]) -> (Option<Version<'_>>, Option<u64>) {
        if self.has(Planted::DropOverlay) {
            let version = self.memtable.get_at(hash, key, self.committed.timestamp);
            return (version.filter(|version| version.kind == Kind::Put), None);
        }
        let mut found = (self.memtable.get(hash, key), None);
        match &found.0 {
            Some(version) => {
                if version.timestamp > self.committed.timestamp {
                    found.1 = Some(self.entry_of(version.timestamp));
                }
                if version.kind != Kind::Put {
                    found.0 = None;
                }
            }
            None => found.1 = self.retired.back().map(|retired| retired.index),
        }
        found
    }

    /// The entry that carries an uncommitted version.
    fn entry_of(&self, timestamp: Timestamp) -> u64 {
        let at = self.pending.partition_point(|entry| entry.timestamp < timestamp);
        self.pending.get(at).map_or_else(|| self.next_index(), |entry| entry.index)
    }

    /// The index that the open entry will have.
    fn next_index(&self) -> u64 {
        self.open.index
    }

    /// The last entry that is not committed.
    pub fn newest_uncommitted(&self) -> Option<u64> {
        match self.is_open() {
            true => Some(self.open.index),
            false => self.pending.back().map(|entry| entry.index),
        }
    }

    /// Whether the open entry should be sealed before the turn ends.
    pub fn is_full(&self) -> bool {
        self.payload.len() >= ENTRY_LEN_SOFT_MAX
    }

    /// Whether there is an open entry.
    pub fn is_open(&self) -> bool {
        !self.payload.is_empty()
    }

    /// Evaluates one key of a command: looks it up, runs `run` on what it holds, and proposes the
    /// effect. For leaders.
    pub fn evaluate(
        &mut self,
        hash: u64,
        key: &[u8],
        now_ms: u64,
        run: impl FnOnce(Option<Found<'_>>, &mut Proposal<'_>),
    ) -> Evaluated {
        self.note_use(hash, key);
        let payload = std::mem::take(&mut self.payload);
        let timestamp = self.clock.next(now_ms);
        let (version, hold) = self.find(hash, key);
        let seen = version.map_or(Timestamp(0), |version| version.timestamp);
        let found = version
            .filter(|version| !command::is_expired(version.expiry_ms, now_ms))
            .map(|version| Found { value: arg_of(version.payload), expiry_ms: version.expiry_ms });
        let hit = found.is_some();
        let expired = version.is_some() && !hit;
        let (count, event, made) = (0, Event::None, Made::Nothing);
        let mut proposal = Proposal { key, seen, timestamp, payload, count, event, made };
        run(found, &mut proposal);
        let Proposal { payload, count, event, made, .. } = proposal;
        self.payload = payload;
        let mut evaluated = Evaluated { hit, expired, event, hold, count, large: None };
        match made {
            Made::Nothing if self.has(Planted::AnswerUncommittedRead) => evaluated.hold = None,
            Made::Nothing => {}
            Made::Deletion => evaluated.hold = self.delete(hash, key, now_ms).or(hold),
            Made::Large(value, expiry_ms) => evaluated.large = Some((value, expiry_ms)),
            Made::Value { value_len, expiry_ms } => {
                // The value may have lain in the memtable itself: the entry's copy goes in.
                let before = Before::of(key, &self.memtable);
                let value = Payload::Bytes(&self.payload[self.payload.len() - value_len..]);
                let entry = self.memtable.put(hash, key, timestamp, expiry_ms, value);
                self.took(timestamp, entry, before);
                let held = !self.has(Planted::ReplyBeforeCommit);
                evaluated.hold = held.then(|| self.next_index());
            }
        }
        evaluated
    }

    /// Proposes a large value, whose bytes are in the log already; returns the entry to wait for.
    pub fn put_large(
        &mut self,
        hash: u64,
        key: &[u8],
        (value, blob): (&Arc<Vec<u8>>, BlobRef),
        expiry_ms: Option<u64>,
        now_ms: u64,
    ) -> u64 {
        let timestamp = self.clock.next(now_ms);
        let logged = Logged::Blob(blob);
        Effect::Put { key, timestamp, expiry_ms, value: logged }.encode(&mut self.payload);
        if let Some(replica) = self.replica.as_mut() {
            replica.note_blob((blob, Arc::clone(value)));
        }
        let before = Before::of(key, &self.memtable);
        let entry = self.memtable.put(hash, key, timestamp, expiry_ms, Payload::Shared(value));
        self.took(timestamp, entry, before);
        self.next_index()
    }

    /// The memtable took a version that the open entry has.
    fn took(&mut self, timestamp: Timestamp, entry: EntryRef, before: Before) {
        self.sizes.note(before, &self.memtable);
        self.clock = timestamp;
        self.open.timestamp = timestamp;
        self.open.touched.push(entry);
    }

    /// Proposes that a key be gone; returns the entry to wait for, or `None` if there was no key.
    pub fn delete(&mut self, hash: u64, key: &[u8], now_ms: u64) -> Option<u64> {
        let timestamp = self.clock.next(now_ms);
        if !self.absences.is_empty() {
            self.absences.note_deletion(key, self.memtable.get(hash, key), timestamp);
        }
        let before = Before::of(key, &self.memtable);
        let entry = self.memtable.delete(hash, key, timestamp)?;
        Effect::Delete { key, timestamp }.encode(&mut self.payload);
        self.took(timestamp, entry, before);
        Some(self.next_index())
    }

    /// Proposes that all keys be gone; returns the entry to wait for. The open entry must have been
    /// sealed.
    pub fn clear(&mut self, now_ms: u64) -> u64 {
        assert!(!self.is_open(), "a clear begins an entry: the open one is of the old memtable");
        let timestamp = self.clock.next(now_ms);
        self.clock = timestamp;
        self.open.timestamp = timestamp;
        Effect::Clear { timestamp }.encode(&mut self.payload);
        self.absences.note_clear(&self.memtable, timestamp);
        let index = self.next_index();
        let fresh = self.memtable.emptied();
        let table = std::mem::replace(&mut self.memtable, fresh);
        let sizes = std::mem::take(&mut self.sizes);
        self.retired.push_back(Retired { index, generation: self.generation, table, sizes });
        self.generation += 1;
        index
    }

    /// Proposes the open entry, if there is one, and appends it to the log.
    pub fn seal<E: Env>(&mut self, around: &mut Around<'_, E>) -> Option<Logging> {
        if !self.is_open() {
            return None;
        }
        self.spill(around.log, around.blob_next);
        let handle = match self.replica.as_mut() {
            None => Handle { lsn: around.log.appended(), len: self.payload.len() as u32, tag: 0 },
            Some(replica) => {
                let (tag, len) = replica.stage_own(&self.payload);
                Handle { lsn: Lsn(0), len, tag }
            }
        };
        let (_, index) = self.group.propose(handle).expect("a leader whose queue is bounded");
        assert_eq!(index, self.open.index, "an entry that is not the next");
        let spare = self.spare.pop().unwrap_or_default();
        let mut entry = std::mem::replace(&mut self.open, spare);
        (entry.generation, entry.len) = (self.generation, handle.len as usize);
        self.uncommitted_len += entry.len;
        self.pending.push_back(entry);
        let logging = self.settle_sealed(around);
        self.payload.clear();
        logging
    }

    /// Carries out what Raft decided since the last time: appends to the log what it wants there,
    /// and commits what it allows. Returns the log write, if there was one.
    pub fn settle<E: Env>(&mut self, around: &mut Around<'_, E>) -> Option<Logging> {
        // Raft ends a change of members with an entry of its own, which must not take the index of
        // the open one.
        match self.is_open() && self.group.is_changing() && self.is_ready() {
            true => self.seal(around),
            false => self.settle_sealed(around),
        }
    }

    fn settle_sealed<E: Env>(&mut self, around: &mut Around<'_, E>) -> Option<Logging> {
        self.effects.clear();
        self.group.drain(&mut self.effects);
        self.take_decisions();
        let logging = self.log_effects(around);
        if let Some(write) = self.effects.write.filter(|_| self.has(Planted::FollowerUnwritten)) {
            self.group.persisted(write);
        }
        self.forget_staged();
        self.open.index = self.group.last_index() + 1;
        if let Some(commit) = self.effects.commit {
            self.apply(commit, around);
        }
        match self.open.index == self.group.last_index() + 1 {
            true => logging,
            // It has just ended one.
            false => self.settle_sealed(around).or(logging),
        }
    }

    /// Entries first: what the hard state says of the commit index is about them, too.
    fn log_effects<E: Env>(&mut self, around: &mut Around<'_, E>) -> Option<Logging> {
        let write = self.effects.write?;
        if self.is_installing() {
            // The manifest has it: see `end_install`.
            return None;
        }
        let mut lsn = around.log.appended();
        let append = std::mem::take(&mut self.effects.append);
        for entry in &append {
            lsn = self.log_entry(entry, around);
        }
        self.effects.append = append;
        if let Some(hard) = self.effects.hard_state.filter(|_| !self.has(Planted::ForgetVote)) {
            let vote = hard.vote.unwrap_or_default().0.to_le_bytes();
            let record = record(self.id, RecordKind::HardState, hard.term, hard.commit, &vote);
            lsn = around.log.append(record);
        }
        Some(Logging { lsn, write })
    }

    fn log_entry<E: Env>(&mut self, entry: &consensus::Entry, around: &mut Around<'_, E>) -> Lsn {
        let (term, index) = (entry.term, entry.index);
        let is_empty = entry.kind == EntryKind::Empty;
        if self.replica.is_none() {
            let payload = if is_empty { [].as_slice() } else { &self.payload };
            return around.log.append(record(self.id, RecordKind::Entry, term, index, payload));
        }
        let is_end = entry.kind == EntryKind::Membership && entry.handle.len == 0;
        let mut content = if is_end { roster::end_of_change() } else { Content::default() };
        if !is_empty && !is_end {
            let staged = self.take_staged(entry.handle.tag);
            content = staged.content;
            if !staged.is_logged {
                content.log_blobs(around.log, around.blob_next);
            }
        }
        let record = record(self.id, RecordKind::Entry, term, index, &content.payload);
        let lsn = around.log.append(record);
        self.keep_content(index, term, content);
        lsn
    }

    /// A log write is durable: commits what this allows and hands over whoever waited for it, or
    /// for the write alone. Returns what Raft wants logged in turn, rarely anything.
    pub fn persisted<E: Env>(
        &mut self,
        write: consensus::WriteId,
        around: &mut Around<'_, E>,
    ) -> Option<Logging> {
        self.group.persisted(write);
        let logging = self.settle(around);
        self.release_early(around.released);
        logging
    }

    /// Applies all entries up to `commit`.
    fn apply<E: Env>(&mut self, commit: u64, around: &mut Around<'_, E>) {
        if self.replica.is_some() {
            self.apply_replicated(commit, around.may_have, around.released);
        } else {
            while self.pending.front().is_some_and(|entry| entry.index <= commit) {
                self.commit_front(around.released);
            }
            self.committed.index = commit;
            self.group.applied(commit);
        }
        while self.retired.front().is_some_and(|retired| retired.index <= commit) {
            let retired = self.retired.pop_front().expect("looked at");
            self.dying.push(retired.table.dismantle());
        }
    }

    /// The oldest pending entry is committed: what it did to rows is no longer provisional.
    fn commit_front(&mut self, released: &mut Vec<Waiter>) {
        let mut entry = self.pending.pop_front().expect("the caller looked at it");
        let table = if entry.generation == self.generation {
            Some(&mut self.memtable)
        } else {
            let retired = self.retired.iter_mut().find(|r| r.generation == entry.generation);
            retired.map(|retired| &mut retired.table)
        };
        if let Some(table) = table {
            table.commit_all(&entry.touched, entry.timestamp);
        }
        entry.told.drain(..).for_each(|once| self.sessions.commit(&once));
        // The clock may have been set back since it was proposed: see [`standby`].
        let timestamp = entry.timestamp.min(self.clock);
        self.committed.timestamp = self.committed.timestamp.max(timestamp);
        released.append(&mut entry.waiters);
        released.append(&mut entry.early);
        self.uncommitted_len -= entry.len;
        entry.touched.clear();
        self.spare.push(entry);
    }

    /// The log failed: drops every uncommitted version and hands over whoever waited, whose
    /// outcome is unknown.
    pub fn abandon(&mut self, abandoned: &mut Vec<Waiter>) {
        // The open entry learns its generation when it is sealed.
        let next = Entry { index: self.open.index, ..Entry::default() };
        let mut open = std::mem::replace(&mut self.open, next);
        open.generation = self.generation;
        self.payload.clear();
        self.sessions.forget_proposed();
        self.absences.forget();
        let uncommitted = self.pending.drain(..).chain([open]).collect::<Vec<_>>();
        if let Some(first) = self.retired.pop_front() {
            // What was written after the clear goes with the table that the clear made.
            self.memtable = first.table;
            self.sizes = first.sizes;
            self.generation = first.generation;
            self.retired.clear();
        }
        let to = self.committed.timestamp;
        for mut entry in uncommitted.into_iter().rev() {
            if entry.generation == self.generation {
                for touched in entry.touched.drain(..).rev() {
                    let before = Before::of(self.memtable.key(touched), &self.memtable);
                    self.memtable.rollback(touched, to);
                    self.sizes.note(before, &self.memtable);
                }
            }
            abandoned.append(&mut entry.waiters);
            abandoned.append(&mut entry.early);
        }
        (self.uncommitted_len, self.early_until) = (0, 0);
    }

    /// Bytes held.
    pub fn memory_len(&self) -> usize {
        let retired: usize = self.retired.iter().map(|retired| retired.table.memory_len()).sum();
        let dying: usize = self.dying.iter().map(Remains::memory_len).sum();
        let log = self.log_len();
        // And as they were at the last flush, which the manifest keeps.
        let sessions = 2 * self.sessions.memory_len();
        self.memtable.memory_len() + retired + dying + log + sessions
    }

    /// Keys, and keys with a deadline, of a database.
    pub fn db_sizes(&self, db: u8) -> (u64, u64) {
        self.sizes.of(db)
    }

    /// The deadlines of a database's keys that are in memory.
    pub fn db_deadlines(&self, db: u8) -> Sum {
        self.memtable().deadlines(db)
    }

    /// Whether it holds keys, and all are of this database.
    pub fn has_only(&self, db: u8) -> bool {
        match self.is_partial() {
            true => self.sizes.is_all_of(db),
            false => self.sizes.has_only(db),
        }
    }

    /// Keys from `from` on, in order, each with its newest version.
    pub fn scan(&mut self, from: &[u8]) -> Scan<'_> {
        self.memtable.scan(from, Timestamp(u64::MAX))
    }

    /// The encoded keys of a database.
    pub fn keys_of(&mut self, db: u8) -> Vec<Vec<u8>> {
        sizes::keys_of(&mut self.memtable, db)
    }

    /// Proposes the deletion of up to `limit` keys whose time is over; returns how many.
    pub fn expire(&mut self, now_ms: u64, limit: usize, keys: &mut Vec<Vec<u8>>) -> usize {
        keys.clear();
        self.memtable.expired(now_ms, limit, keys);
        for key in keys.iter() {
            let hash = self.memtable.hash(key);
            self.delete(hash, key, now_ms);
        }
        keys.len()
    }

    /// Frees a piece of a cleared memtable; true while there is more.
    pub fn release_some(&mut self) -> bool {
        if let Some(table) = self.dying.last_mut()
            && !table.release_some(RELEASE_MAX)
        {
            self.dying.pop();
        }
        !self.dying.is_empty()
    }

    /// A lone voter leads at once; returns what must be logged first.
    pub fn campaign<E: Env>(&mut self, around: &mut Around<'_, E>) -> Option<Logging> {
        self.group.campaign();
        self.settle(around)
    }
}

fn arg_of(payload: Payload<'_>) -> Arg<'_> {
    match payload {
        Payload::Bytes(bytes) => Arg::Bytes(bytes),
        Payload::Shared(bytes) => Arg::Shared(bytes),
    }
}

fn record(
    partition: PartitionId,
    kind: RecordKind,
    term: u64,
    index: u64,
    payload: &[u8],
) -> wal::Record<'_> {
    wal::Record { kind, partition, term, index, payload }
}
