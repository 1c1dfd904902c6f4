//! One core's share of the data: its partitions and its log.
//!
//! A turn of the shard's loop evaluates commands against partitions ([`Shard::evaluate`]), then
//! [`Shard::end_turn`] seals each touched partition's writes into one entry, appends all entries
//! to the log and starts one write. When the log reports how far it is durable,
//! [`Shard::advance`] lets the partitions commit and releases whoever waited.
//!
//! What an answer waits for is up to its client ([`Ack`]): who asks for less than a commit is
//! released earlier ([`Shard::wait`]). A shard that writes behind, since its node is `relaxed`,
//! lets entries gather for some milliseconds before they are written, unless somebody waits.
//!
//! What was committed goes from the memtables to tables in slices, so that the log may end, and
//! rows that tables have leave memory when it is short ([`Shard::tend`]). Whoever evaluates a
//! command asks for its keys first ([`Shard::seek`]), and for room if it writes
//! ([`Shard::seek_room`]).
//!
//! When the disk is full, what needs room is refused with one error, and what makes room is taken
//! as long as the log has some ([`Shard::admit`]); flushes then come early, so that what was
//! deleted leaves the disk (`tree`). It ends by itself.
//!
//! When the log fails, what is on disk is unknown: the shard takes no more writes, drops what was
//! not committed and ends those replies as unknown. Reads of committed data go on. Nothing is
//! retried; a restart reads what the disk really holds.
//!
//! Not here: connections and replies ([`crate::server`]), mail ([`mailbox`]), start ([`open()`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::ack::Ack;
use crate::cluster::SlotMap;
use crate::command::{self, Flags, Input, Run, Spec, notify};
use crate::consensus::WriteId;
use crate::env::Env;
use crate::id::{Lsn, ShardId, Slot};
use crate::lsm::memtable::Sum;
use crate::metrics::ShardStats;
use crate::mvcc::BlobRef;
use crate::partition::{self, Around, Evaluated, Logging, Partition, Waiter};
use crate::protocol::resp::Reply;
use crate::wal::{self, Writer};

use replicas::Replicas;
use tree::{Ground, Tree};

pub use crate::partition::Planted;
pub use changes::{Caller, Change, Observers};
pub use keyspace::{Cursor, Scope, Within, user_key};
pub use listing::{Listed, Listing};
pub use membership::{Denied, Granted};
pub use once::Told;
pub use open::{Error, Options, Progress, open};
pub use seek::{Rooms, Wait};
pub use ship::Shipment;
pub use together::{Holds, Spread};
pub use tracked::Client;
pub use transaction::{Step, Transaction, Watched};
pub use tree::{
    Awaited, Checkpoint, CopyTo, Error as TreeError, Incoming, Installed, Made,
    Options as TreeOptions, Outgoing, PIECE_LEN, Piece, Staged,
};
pub use typed::{ConditionFailed, Written};

mod backlog;
mod behind;
mod changes;
mod closed;
mod crowd;
mod evict;
mod keyspace;
mod late;
mod listing;
pub mod mailbox;
mod membership;
mod once;
mod open;
mod replicas;
mod room;
mod seek;
mod ship;
mod slow;
mod snapshot;
mod together;
mod tracked;
mod transaction;
mod tree;
mod typed;

/// Keys that one round of active expiry deletes in a partition.
const EXPIRE_MAX: usize = 64;

/// What an answer waits for that tells of an entry of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Which of the shard's partitions.
    pub place: u32,
    /// Which entry.
    pub index: u64,
    /// Until when.
    pub ack: Ack,
}

/// Why a command could not be evaluated. The text is the error reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another cluster takes the writes.
    #[error(
        "READONLY this cluster is a standby{} and takes no writes: write to its primary, or make \
         this one a primary with `stave cluster promote`",
        if primary.is_empty() { String::new() } else { format!(" of {primary}") }
    )]
    Standby {
        /// Where; empty: it is not known here.
        primary: Arc<str>,
    },
    /// The memory budget is used up, and nothing under way gives any of it back; deletes and reads
    /// go on.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    /// The log can not grow; what makes room is still taken ([`Flags::FREES`]).
    #[error(
        "MISCONF the disk is full: free space on it or delete keys, then writes go on by \
         themselves; reads and deletes do meanwhile"
    )]
    DiskFull,
    /// The log is as long as it may be, and what is in it can not be written to tables.
    #[error(
        "MISCONF the log is full and flushes to tables fail, see the server's log: writes are \
         refused until one succeeds, reads go on"
    )]
    LogFull,
    /// The log failed.
    #[error("MISCONF the log of this shard failed and takes no more writes: {cause}")]
    LogFailed {
        /// What the disk said.
        cause: String,
    },
}

/// One key of a command, looked up: where it lives.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Which of the shard's partitions.
    pub place: u32,
    /// Hash of `key`.
    pub hash: u64,
    /// Encoded.
    pub key: &'a [u8],
}

struct InLog {
    lsn: Lsn,
    /// When the turn began that wrote it; of a lone node zero.
    at: Duration,
    place: u32,
    write: WriteId,
}

/// Partitions of which writes have become durable, and the newest of each.
type Due = SmallVec<[(u32, WriteId); 16]>;

/// See the module's header.
pub struct Shard<E: Env> {
    env: E,
    id: ShardId,
    map: SlotMap,
    /// What is appended is written some milliseconds later, unless somebody waits for it.
    writes_behind: bool,
    memory_max: usize,
    partitions: Vec<Partition>,
    log: Writer<E>,
    tree: Tree<E>,
    /// Log writes that partitions wait for, in log order.
    in_log: VecDeque<InLog>,
    /// Partitions with an open entry.
    touched: Vec<u32>,
    replicas: Replicas,
    slowness: slow::Slowness,
    sending: late::Sending,
    /// A step is going on: no entry is sealed.
    together: bool,
    released: Vec<Waiter>,
    crowd: crowd::Crowd,
    abandoned: Vec<Waiter>,
    failed: Option<String>,
    memory_used: usize,
    room: room::Room,
    backlog: backlog::Backlog,
    /// Some rows are in tables alone.
    is_partial: bool,
    seeker: seek::Seeker,
    /// Wall time as of this turn, unix milliseconds.
    now_ms: u64,
    blob_next: u64,
    expired_keys: Vec<Vec<u8>>,
    changes: changes::Changes,
    stats: Arc<ShardStats>,
    planted: Option<Planted>,
}

impl<E: Env> Shard<E> {
    /// This shard's number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// A bug to be caught by the tests; none outside them.
    #[doc(hidden)]
    pub fn planted(&self) -> Option<Planted> {
        self.planted
    }

    /// Which shard and partition has a slot.
    pub fn map(&self) -> &SlotMap {
        &self.map
    }

    /// This shard's counters.
    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.stats
    }

    /// Who answers for a slot: this shard's partition of that place, or another shard
    /// ([`Shard::owner`]); see also [`Shard::set_stale_max`].
    pub fn locate(&self, slot: Slot) -> Result<u32, ShardId> {
        let partition = self.map.partition_of(slot);
        match self.place_of(partition) {
            Some(place) if self.leads(place) || self.closed_for_reads(place).is_some() => Ok(place),
            _ => Err(self.owner(partition)),
        }
    }

    /// A partition, for hashing, prefetching and asking what is committed.
    pub fn partition(&self, place: u32) -> &Partition {
        &self.partitions[place as usize]
    }

    /// Begins a turn: all that it evaluates happens at one wall time.
    pub fn begin_turn(&mut self) {
        self.now_ms = self.env.unix_ms();
        self.look_at_standings();
        self.look_at_log();
    }

    /// Wall time of this turn, unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Whether the memory budget is used up, as of the last [`Shard::account`].
    pub fn is_short_of_memory(&self) -> bool {
        self.memory_used > self.memory_max
    }

    /// Whether the log can not grow since the disk is full: no segment can be made, or no table of
    /// what is in it.
    fn is_disk_full(&self) -> bool {
        let tables = self.tree.is_full(self.log.appended()) && self.tree.lacks_room();
        self.log.is_disk_full() || tables
    }

    /// Whether a write of `spec` would be taken at all.
    ///
    /// # Errors
    /// As [`Refused`].
    pub fn admit(&self, spec: &command::Spec) -> Result<(), Refused> {
        if spec.access != command::Access::Write {
            return Ok(());
        }
        if let Some(refused) = self.refusal_of_standby() {
            return Err(refused);
        }
        if let Some(cause) = &self.failed {
            return Err(Refused::LogFailed { cause: cause.clone() });
        }
        if self.is_disk_full() {
            let is_taken = spec.flags.has(Flags::FREES) && self.log.has_room_to_free();
            return if is_taken { Ok(()) } else { Err(Refused::DiskFull) };
        }
        if self.tree.is_full(self.log.appended()) {
            return Err(Refused::LogFull);
        }
        if spec.flags.has(Flags::DENYOOM) && self.is_out_of_memory() {
            return Err(Refused::OutOfMemory);
        }
        Ok(())
    }

    /// Evaluates one key of a command: looks it up, runs the command, proposes its effect.
    ///
    /// `blob`: a large argument's bytes are in the log already ([`Shard::log_blob`]).
    ///
    /// # Panics
    /// When `spec` is not evaluated key by key.
    pub fn evaluate(
        &mut self,
        target: Target<'_>,
        spec: &Spec,
        args: command::Args<'_>,
        key_at: usize,
        blob: Option<BlobRef>,
        reply: &mut Reply<'_>,
    ) -> Evaluated {
        let Run::Keyed(keyed) = &spec.run else { panic!("{spec:?} has no single key") };
        let now_ms = self.wall_ms(target.place);
        let Target { place, hash, key } = target;
        let is_blind = self.is_partial && self.is_blind(spec, &args);
        let replaces = is_blind && self.replaces_unread(target);
        debug_assert!(is_blind || !self.replaces_unread(target), "{spec:?} was not asked for");
        let partition = &mut self.partitions[place as usize];
        let clock = partition.clock();
        let held_len = if spec.flags.has(Flags::WEIGHS) {
            partition.memtable().weight(hash, key).unwrap_or_default()
        } else {
            0
        };
        let mut evaluated = partition.evaluate(hash, key, now_ms, |found, proposal| {
            let input = Input { args, key_at, found, held_len, now_ms };
            proposal.take(keyed.evaluate(&input, reply));
        });
        if notify::is_counted(spec, &args) {
            self.stats.note_read(evaluated.hit);
        }
        if let Some((value, expiry_ms)) = evaluated.large.take() {
            // What APPEND and SETRANGE make of the argument is not what was logged.
            let is_argument = (0..args.len())
                .any(|at| args.shared(at).is_some_and(|arg| Arc::ptr_eq(arg, &value)));
            let entry = self.put_large(target, &value, expiry_ms, blob.filter(|_| is_argument));
            evaluated.hold = Some(entry);
        }
        if replaces && self.partitions[place as usize].clock() != clock {
            self.partitions[place as usize].note_replaced(key);
        }
        if self.partitions[place as usize].is_open() {
            self.touch(place);
        }
        if self.changes.are_observed() {
            self.note_lookup(target, (spec, &args), (evaluated.hit, evaluated.hold));
            self.note_evaluated(target, &evaluated);
        }
        evaluated
    }

    /// A name for a large value that will be logged piece by piece.
    pub fn new_blob(&mut self, len: usize) -> BlobRef {
        self.blob_next += 1;
        self.tree.note_blob(self.blob_next, self.log.appended());
        BlobRef { id: self.blob_next, len: len as u64 }
    }

    /// Appends the piece of a large value at `at` to the log; returns where the next begins.
    pub fn log_blob(&mut self, blob: BlobRef, value: &[u8], at: usize) -> usize {
        partition::log_blob(&mut self.log, blob, value, at)
    }

    fn log_whole_blob(&mut self, value: &[u8]) -> BlobRef {
        let blob = self.new_blob(value.len());
        let mut at = 0;
        while at < value.len() {
            at = self.log_blob(blob, value, at);
        }
        blob
    }

    /// Proposes that all keys of all partitions be gone; the last entry of each has to commit.
    pub fn clear(&mut self, mut hold: impl FnMut(u32, u64)) {
        let now_ms = self.now_ms;
        for place in 0..self.partitions.len() as u32 {
            if !self.leads(place) {
                continue;
            }
            self.seal(place);
            let index = self.partitions[place as usize].clear(now_ms);
            self.touched.push(place);
            hold(place, index);
        }
        self.note_clear();
    }

    /// Names the last entry of each partition that is not committed yet.
    pub fn uncommitted(&self, mut hold: impl FnMut(u32, u64)) {
        for (place, partition) in self.partitions.iter().enumerate() {
            if let Some(index) = partition.newest_uncommitted() {
                hold(place as u32, index);
            }
        }
    }

    /// Proposes the deletion of all keys of one database. Names what has to commit: also where
    /// there was no key, since that it is gone may not be committed.
    pub fn clear_db(&mut self, db: u8, mut hold: impl FnMut(u32, u64)) {
        let now_ms = self.now_ms;
        for place in 0..self.partitions.len() as u32 {
            if !self.leads(place) {
                continue;
            }
            if self.partitions[place as usize].has_only(db) {
                self.seal(place);
                self.partitions[place as usize].clear(now_ms);
                self.touched.push(place);
                continue;
            }
            for key in self.partitions[place as usize].keys_of(db) {
                let partition = &mut self.partitions[place as usize];
                let hash = partition.memtable().hash(&key);
                if partition.delete(hash, &key, now_ms).is_some() {
                    self.touch(place);
                }
            }
        }
        self.note_clear();
        self.uncommitted(&mut hold);
    }

    /// The newest version that each partition has given out.
    pub fn clocks(&self) -> impl Iterator<Item = crate::id::Timestamp> + '_ {
        self.partitions.iter().map(Partition::clock)
    }

    /// Whether keys may be deleted that nobody asked to delete.
    fn may_sweep(&self) -> bool {
        // What a standby has goes when its primary says so.
        let may_write = self.failed.is_none() && !self.is_backlogged() && self.primary().is_none();
        may_write && (!self.is_disk_full() || self.log.has_room_to_free())
    }

    /// Deletes keys whose time is over, a few per partition. True: there are more.
    pub fn expire(&mut self) -> bool {
        if !self.may_sweep() {
            return false;
        }
        let now_ms = self.now_ms;
        let mut more = false;
        let mut keys = std::mem::take(&mut self.expired_keys);
        for place in 0..self.partitions.len() as u32 {
            if !self.leads(place) {
                continue;
            }
            let count = self.partitions[place as usize].expire(now_ms, EXPIRE_MAX, &mut keys);
            if count > 0 {
                if self.changes.are_observed() {
                    self.set_caller(None);
                    self.note_expired(place, &keys);
                }
                self.touch(place);
                self.stats.expired_keys.add(count as u64);
                more |= count == EXPIRE_MAX;
            }
        }
        self.expired_keys = keys;
        more
    }

    /// Frees a piece of what a clear left behind. True: there is more.
    pub fn release_some(&mut self) -> bool {
        self.partitions.iter_mut().any(Partition::release_some)
    }

    fn touch(&mut self, place: u32) {
        if self.touched.last() != Some(&place) {
            self.touched.push(place);
        }
        if self.is_due(place) {
            self.seal(place);
        }
    }

    fn seal(&mut self, place: u32) {
        let logging = self.at(place, |partition, around| partition.seal(around));
        self.note(place, logging);
    }

    /// Does something with a partition that may write to the log.
    fn at<R>(
        &mut self,
        place: u32,
        run: impl FnOnce(&mut Partition, &mut Around<'_, E>) -> R,
    ) -> R {
        let Self { partitions, log, blob_next, tree, released, .. } = self;
        let may_have = |key: &[u8]| tree.may_contain(place, key);
        let mut around = Around { log, blob_next, may_have: &may_have, released };
        run(&mut partitions[place as usize], &mut around)
    }

    fn note(&mut self, place: u32, logging: Option<Logging>) {
        if let Some(Logging { lsn, write }) = logging {
            let at = self.replicas.turn_began;
            self.in_log.push_back(InLog { lsn, at, place, write });
        }
    }

    /// Has `waiter` told when an answer that tells of an entry, and for which its client asked for
    /// `ack`, may leave. `None`: at once.
    pub fn wait(&mut self, (place, index): (u32, u64), ack: Ack, waiter: Waiter) -> Option<Hold> {
        let partition = &mut self.partitions[place as usize];
        let ack = partition.promise(ack);
        match ack {
            Ack::Quorum => {}
            Ack::Leader => self.stats.answers_leader.add(1),
            Ack::Relaxed => self.stats.answers_relaxed.add(1),
        }
        if partition.has_met(index, ack) {
            return None;
        }
        partition.wait(index, ack, waiter);
        self.crowd.note(waiter);
        Some(Hold { place, index, ack })
    }

    /// Ends the turn: proposes and logs what it wrote.
    pub fn end_turn(&mut self) {
        for at in 0..self.touched.len() {
            self.seal(self.touched[at]);
        }
        self.touched.clear();
        let has_followed = std::mem::take(&mut self.replicas.has_followed);
        if self.writes_behind && !self.crowd.waits() {
            self.log.flush(wal::Flush::Lazy);
        } else {
            let is_replicated = self.replicas.members.is_some();
            let company = wal::Company { is_replicated, ..self.crowd.end_turn(self.env.now()) };
            self.log.flush(match has_followed {
                // A leader waits for what was logged here.
                true => wal::Flush::Now,
                false => wal::Flush::Shared(company),
            });
        }
        self.advance();
    }

    /// Flushes and compacts what is due, at most a slice of it; after [`Shard::end_turn`].
    /// `blob_oldest`: the oldest large value that is being logged piece by piece.
    pub fn tend(&mut self, blob_oldest: Option<u64>) {
        if self.failed.is_none() {
            self.tree.tend(Ground {
                partitions: &mut self.partitions,
                log: &mut self.log,
                blob_oldest,
                blob_last: self.blob_next,
                is_short: self.room.is_stuck || self.room.awaits_flush,
                stats: &self.stats,
                abandoned: &mut self.abandoned,
            });
            if self.tree.has_installed() {
                self.note_installs();
            }
        }
        self.let_rows_go();
        self.give_room();
    }

    /// Commits what the log allows. Then ask [`Shard::take_released`].
    pub fn advance(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let Some(error) = self.log.failure() {
            return self.fail(error.to_string());
        }
        let durable = self.log.durable();
        let mut due = Due::new();
        while self.take_due(durable, &mut due) {
            for (place, write) in due.drain(..) {
                let run = |partition: &mut Partition, around: &mut Around<'_, E>| {
                    partition.persisted(write, around)
                };
                let logging = self.at(place, run);
                self.note(place, logging);
            }
        }
    }

    /// Of each partition the newest write that is durable: all before it are, so that it settles
    /// once for all of them. True: there are some.
    fn take_due(&mut self, durable: Lsn, due: &mut Due) -> bool {
        let until = self.in_log.partition_point(|write| write.lsn <= durable);
        self.stats.entries_committed.add(until as u64);
        let is_sender = self.replicas.members.is_some() && until > 0;
        if let Some(oldest) = self.in_log.front().filter(|_| is_sender) {
            self.note_log_write(oldest.at);
        }
        for InLog { place, write, .. } in self.in_log.drain(..until) {
            match due.iter_mut().find(|(of, _)| *of == place) {
                Some((_, newest)) => *newest = write,
                None => due.push((place, write)),
            }
        }
        until > 0
    }

    fn fail(&mut self, cause: String) {
        self.in_log.clear();
        self.touched.clear();
        for partition in &mut self.partitions {
            partition.abandon(&mut self.abandoned);
        }
        self.changes.abandon();
        self.tree.abandon();
        self.failed = Some(cause);
    }

    /// Why the log takes no more writes, if it does not.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whoever waited for what is committed by now.
    pub fn take_released(&mut self, into: &mut Vec<Waiter>) {
        into.append(&mut self.released);
    }

    /// Whoever waited for what will never be known to be committed.
    pub fn take_abandoned(&mut self, into: &mut Vec<Waiter>) {
        into.append(&mut self.abandoned);
    }

    /// Sums up keys and memory, also for the budget. `other_bytes` are the connections'.
    pub fn account(&mut self, other_bytes: usize) {
        self.tree.tick(self.seeker.take_slowest());
        self.tend_sending();
        let tables = self.tree.memory_len();
        let backlog = self.log.backlog_len();
        self.room.other_len = backlog + other_bytes + tables;
        let bytes = self.measure();
        self.is_partial = self.partitions.iter().any(Partition::is_partial);
        let stats = &self.stats;
        stats.table_memory_bytes.set(tables as u64);
        stats.unverified_s.set(self.tree.unverified_for().as_secs());
        stats.memtable_bytes.set(bytes as u64);
        stats.connection_bytes.set(other_bytes as u64);
        stats.log_bytes.set(self.partitions.iter().map(Partition::log_len).sum::<usize>() as u64);
        stats.wal_backlog_bytes.set(backlog as u64);
        stats.wal_bytes.set(self.log.appended().0);
        stats.full_disks.set(u64::from(self.is_disk_full()));
        stats.held_up_logs.set(u64::from(self.log.is_held_up()));
        let (mut keys, mut expiring) = (0, 0);
        for (db, totals) in stats.dbs.iter().enumerate() {
            let (mut of, mut deadlines) = ((0, 0), Sum::default());
            for (place, partition) in (0..).zip(&self.partitions) {
                if !self.is_elsewhere(place) {
                    let sizes = partition.db_sizes(db as u8);
                    of = (of.0 + sizes.0, of.1 + sizes.1);
                    deadlines = deadlines.and(partition.db_deadlines(db as u8));
                }
            }
            totals.keys.set(of.0);
            totals.expiring.set(of.1);
            totals.deadlines.set(deadlines.count);
            totals.deadline_mean_ms.set(deadlines.mean_ms());
            (keys, expiring) = (keys + of.0, expiring + of.1);
        }
        stats.keys.set(keys);
        stats.expiring_keys.set(expiring);
    }

    /// Brings the memory that is used up to date; returns the bytes of rows.
    fn measure(&mut self) -> usize {
        let rows = self.partitions.iter().map(Partition::memory_len).sum();
        self.memory_used = rows + self.room.other_len;
        self.room.measured_at = self.log.appended();
        rows
    }

    /// Writes out what is appended and waits until it is durable; for the end.
    pub async fn close(self) -> Result<(), Arc<wal::Error>> {
        self.log.close().await
    }
}
