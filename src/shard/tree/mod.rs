//! The tables of a shard: what becomes of its partitions' rows, so that the log may end.
//!
//! The log is one for all partitions, and a segment of it may go when no partition needs it any
//! more. So when the log has grown to most of what it may have, the partition that needs the oldest
//! part of it is flushed: what it has that no table has is written to a new one, the manifest says
//! so, and the log is released up to what the others need. One flush at a time, a slice per turn:
//! work that is in proportion to what was written, spread evenly.
//!
//! Where a flush begins in the log is its *mark*: all that was logged before it is committed before
//! the first row is taken ([`flush`] says what then comes). A large value whose entry is still to
//! come holds the mark back to where its first piece was logged.
//!
//! Tables also go from one replica to another: [`checkpoint`] gives those of a partition out,
//! [`incoming`] and [`install`] have others take their place. And [`copy`] makes a copy of all that
//! a shard has on the disk.
//!
//! Invariants:
//! * The log reaches back to the mark of every partition that has entries which no table has.
//! * A file is in the directory, durably, before an edit names it, and is removed after one that
//!   does not.
//! * When the log has failed, nothing is flushed any more: what is committed is not known.
//!
//! Not here: what is taken of a partition ([`crate::partition`]); files and formats
//! ([`crate::lsm`]).

mod belt;
mod checkpoint;
mod compact;
mod copy;
mod due;
mod flush;
mod incoming;
mod install;
mod load;
mod outgoing;
mod scrub;
mod stages;
mod store;

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::Wanted;
use compact::Compaction;
use copy::Copying;
use flush::Shared;
use install::Installing;
use stages::{Flushing, Stage};
use store::Store;

pub use checkpoint::{Awaited, Checkpoint, Made};
pub use copy::CopyTo;
pub use incoming::{Incoming, Staged};
pub use install::Installed;
pub use load::Loaded;
pub use outgoing::{Outgoing, PIECE_LEN, Piece};

use crate::env::{Class, Env};
use crate::id::{Lsn, PartitionId};
use crate::lsm::manifest::{Edit, Keys, PartitionState, ShardState, State, TableEntry, file};
use crate::lsm::table::{self, Compression};
use crate::lsm::view::View;
use crate::metrics::ShardStats;
use crate::partition::{Partition, Waiter};
use crate::wal::{LogId, Writer};

/// A flush that has waited longer for entries to commit is given up until they do.
const COMMITS_MAX: Duration = Duration::from_secs(1);
/// How long nothing is tried after a flush or a compaction failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// On a full disk what little there is in the log is flushed so long after the last flush.
const FULL_DELAY: Duration = Duration::from_secs(1);

/// How the tables of a shard are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where they are.
    pub dir: PathBuf,
    /// Whose they are.
    pub log: LogId,
    /// Bytes of log from which writes have to wait until some of it is released; flushes begin at
    /// three quarters of it.
    pub log_len_max: u64,
    /// How the rows of new tables are stored ([`Compression::at`]).
    pub compression: Compression,
    /// Bytes of memory that rows may take; flushes begin when a quarter of it was logged. None:
    /// all rows stay in memory, and are loaded at the start.
    pub rows_len_max: Option<u64>,
}

impl Options {
    /// Bytes of log from which flushes begin.
    fn flush_from(&self) -> u64 {
        let most = self.log_len_max / 4 * 3;
        self.rows_len_max.map_or(most, |rows| most.min(FLUSH_LEN_MIN.max(rows / 4))).max(1)
    }

    /// Whether the rows of tables of so many bytes are loaded at the start.
    pub fn loads(&self, table_bytes: u64) -> bool {
        self.rows_len_max.is_none_or(|rows| table_bytes <= LOAD_LEN_MAX.min(rows / 2))
    }
}

/// However short memory is, a flush begins no earlier than when so much was logged, bytes.
const FLUSH_LEN_MIN: u64 = 64 << 10;

/// Bytes of tables whose rows are loaded at the start: about as many take half a second.
const LOAD_LEN_MAX: u64 = 128 << 20;

/// Bytes of log after which a flush begins early when memory is short: a part of the usual.
const SHORT_SHARE: u64 = 16;

/// What keeps tables from being read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A table.
    #[error(transparent)]
    Table(#[from] table::Error),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] file::Error),
    /// A copy of the log.
    #[error(transparent)]
    Log(#[from] crate::wal::Error),
    /// There is no checkpoint of a partition, and there may be one later.
    #[error("no checkpoint: {cause}")]
    NoCheckpoint {
        /// Why not.
        cause: String,
    },
    /// What came is no checkpoint: what sent it is not to be trusted.
    #[error("a checkpoint that came is refused: {what}")]
    Refused {
        /// What is wrong.
        what: &'static str,
    },
}

impl Error {
    /// Whether it says that the disk is full.
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } | Self::Manifest(file::Error::Io { source, .. }) => {
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            Self::Table(error) => error.is_disk_full(),
            Self::Log(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// Whether a part of a table is damaged, and the rest of it may be sound.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Table(table::Error::Corrupt { .. }))
    }
}

/// What a flush changes in the manifest, besides its table.
pub struct Change {
    partition: PartitionId,
    state: PartitionState,
    shard: ShardState,
    keys: Vec<Keys>,
    /// The tables of before are void.
    replaces_all: bool,
}

impl Change {
    /// The edit of `state` that adds these tables, each with its level.
    fn edit(self, state: &State, tables: Vec<(u8, table::Meta)>) -> Edit {
        let Self { partition, state: mut now, shard, keys, replaces_all } = self;
        let void = state.tables_of(partition).filter(|_| replaces_all);
        now.log_from = now.log_from.max(state.partition(partition).log_from);
        let entry = |(level, meta)| TableEntry { partition, level, meta };
        Edit {
            remove: void.map(|entry| entry.meta.number).collect(),
            add: tables.into_iter().map(entry).collect(),
            partitions: vec![(partition, now)],
            shard: Some(shard),
            keys,
        }
    }
}

/// What a turn gives to be tended.
pub struct Ground<'a, E: Env> {
    /// All partitions of the shard.
    pub partitions: &'a mut [Partition],
    /// Its log, with everything in it that was proposed.
    pub log: &'a mut Writer<E>,
    /// The oldest large value that is being logged and whose entry is still to come.
    pub blob_oldest: Option<u64>,
    /// The newest large value.
    pub blob_last: u64,
    /// No row can be let go and memory is used up.
    pub is_short: bool,
    /// What is counted.
    pub stats: &'a ShardStats,
    /// Takes whoever waited for an entry whose outcome is unknown.
    pub abandoned: &'a mut Vec<Waiter>,
}

/// See the module's header.
pub struct Tree<E: Env> {
    env: E,
    options: Options,
    store: Store<E>,
    flushing: Option<Flushing>,
    wanted: Vec<Wanted<E>>,
    installs: VecDeque<Installing>,
    installed: VecDeque<Installed>,
    copying: Option<Copying<E>>,
    compaction: Compaction<E>,
    /// By place: the partition needs the log from here on.
    marks: Vec<Lsn>,
    /// By place: a flush has waited too long for what was logged up to here to commit.
    in_vain: Vec<u64>,
    /// The oldest part of the log is needed by a partition of which that is true.
    is_held_in_vain: bool,
    /// Large values, and where their first pieces are; rising.
    blobs: VecDeque<(u64, Lsn)>,
    /// The next number of a file.
    numbers: Rc<Cell<u64>>,
    /// Nothing is due before the log is so long.
    due_at: Lsn,
    /// The log is needed from here on, as far as was last reckoned.
    needed_from: Lsn,
    retry_at: Duration,
    /// The last flush failed.
    has_failed: bool,
    /// Because the disk is full.
    has_no_room: bool,
    /// The log had no room at the end of the last turn.
    was_log_full: bool,
    /// When the last flush began, where the log ended then, and how long the last one took that
    /// ended.
    began_at: Duration,
    began_from: Lsn,
    took: Duration,
    /// Steps of flushes.
    moves: u64,
}

impl<E: Env> Tree<E> {
    /// Goes on with the tables of a shard with these partitions, which were loaded.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn open(
        env: &E,
        options: Options,
        loaded: Loaded<E>,
        partitions: Vec<PartitionId>,
    ) -> Result<Self, Error> {
        let log_from = loaded.log_from();
        let (store, number_next) = loaded.open(env, &options, &partitions).await?;
        let numbers = Rc::new(Cell::new(number_next));
        let (marks, in_vain) = (vec![log_from; partitions.len()], vec![0; partitions.len()]);
        let of = (store.clone(), Rc::clone(&numbers));
        Ok(Self {
            env: env.clone(),
            compaction: Compaction::new(env, of.0, &options, of.1, partitions),
            options,
            store,
            flushing: None,
            wanted: Vec::new(),
            installs: VecDeque::new(),
            installed: VecDeque::new(),
            copying: None,
            marks,
            in_vain,
            is_held_in_vain: false,
            blobs: VecDeque::new(),
            numbers,
            due_at: Lsn(0),
            needed_from: log_from,
            retry_at: Duration::ZERO,
            has_failed: false,
            has_no_room: false,
            was_log_full: false,
            began_at: Duration::ZERO,
            began_from: Lsn(0),
            took: Duration::ZERO,
            moves: 0,
        })
    }

    /// The first piece of large value `blob` will be logged at `lsn` or behind.
    pub fn note_blob(&mut self, blob: u64, lsn: Lsn) {
        self.blobs.push_back((blob, lsn));
    }

    /// Whether so much log waits to be released that writes have to wait.
    ///
    /// Not if it waits for entries to commit that may never: there is no majority, or the group
    /// goes on without this replica. What others are asked for goes on then.
    pub fn is_behind(&self, appended: Lsn) -> bool {
        self.is_at_its_longest(appended) && !self.is_stuck() && !self.is_held_in_vain
    }

    /// Whether flushes fail, and the log is as long as it may become.
    pub fn is_full(&self, appended: Lsn) -> bool {
        self.is_at_its_longest(appended) && self.is_stuck()
    }

    fn is_at_its_longest(&self, appended: Lsn) -> bool {
        appended.0.saturating_sub(self.needed_from.0) > self.options.log_len_max
    }

    /// Whether nothing is known to become of flushes: waiting for one may take for ever.
    pub fn is_stuck(&self) -> bool {
        self.has_failed || self.store.is_refused()
    }

    /// Whether flushes fail because the disk is full.
    pub fn lacks_room(&self) -> bool {
        self.has_no_room || self.store.lacks_room()
    }

    /// Does what is due, at most a slice of it. For the end of a turn, when all that was proposed
    /// is in the log.
    pub fn tend(&mut self, mut ground: Ground<'_, E>) {
        let appended = ground.log.appended();
        // Also while flushes fail: writes are refused then, and the log stays as long as it is.
        let is_longest = self.is_at_its_longest(appended);
        self.tend_installs(&mut ground);
        self.look_for_room(ground.log.is_disk_full());
        let is_short = ground.is_short || ground.log.is_disk_full();
        let is_due = appended >= self.due_at || is_longest || is_short;
        match self.flushing.take() {
            Some(flushing) => self.flushing = self.go_on(flushing, &mut ground),
            None if self.is_installing() => {}
            None if is_due || !self.wanted.is_empty() => self.begin_if_due(&mut ground),
            None => {}
        }
        self.tend_checkpoints(ground.partitions);
        self.tend_copy(&ground);
        if !self.compaction.is_idle() {
            if self.compaction.end(ground.stats) {
                self.count(ground.stats);
            }
            self.compaction.begin(ground.log.is_disk_full());
        }
    }

    /// Where there is room for the log again, what failed for want of room is tried at once, and
    /// writes may wait for it: until its time comes the log could get as long as it may be, and
    /// writes that had just been taken again would be refused once more.
    fn look_for_room(&mut self, is_log_full: bool) {
        let was_full = std::mem::replace(&mut self.was_log_full, is_log_full);
        if !was_full || is_log_full {
            return;
        }
        self.store.look_again();
        if self.has_no_room {
            (self.has_failed, self.has_no_room) = (false, false);
            self.retry_at = Duration::ZERO;
        }
    }

    /// Counts the tables, and begins to read them all from time to time.
    pub fn begin(&self, stats: &Arc<ShardStats>) {
        self.count(stats);
        let (env, store) = (self.env.clone(), self.store.clone());
        let task = scrub::run(env, store, self.options.log.shard, Arc::clone(stats));
        self.env.spawn(Class::Background, task);
    }

    /// How long a flush takes: the last one, or the one on its way if that takes longer.
    pub fn span_of_flush(&self, now: Duration) -> Duration {
        let since = self.flushing.as_ref().map(|_| now.saturating_sub(self.began_at));
        since.map_or(self.took, |since| since.max(self.took))
    }

    /// Rises with each step of a flush.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The tables of the partition at `place`.
    pub fn view(&self, place: u32) -> Rc<View<E>> {
        self.store.view(place)
    }

    /// Whether a table of the partition at `place` may have a key.
    pub fn may_contain(&self, place: u32, key: &[u8]) -> bool {
        self.store.may_contain(place, key)
    }

    /// Bytes of memory that the open tables take.
    pub fn memory_len(&self) -> usize {
        let rows_len_max = self.options.rows_len_max.unwrap_or(u64::MAX);
        self.store.memory_len((rows_len_max / 8) as usize)
    }

    /// How long ago the bytes of tables were verified that were not for the longest time. Since the
    /// start at most: what was verified before is not kept.
    pub fn unverified_for(&self) -> Duration {
        let oldest = self.store.oldest_verified();
        oldest.map_or(Duration::ZERO, |oldest| self.env.now().saturating_sub(oldest))
    }

    /// Some time has passed, in which the slowest read of a row took so long.
    pub fn tick(&mut self, slowest_read: Duration) {
        self.compaction.tick(slowest_read);
    }

    /// The log failed.
    pub fn abandon(&mut self) {
        if let Some(Flushing {
            stage: Stage::Taking(_, shared) | Stage::Taken(_, shared, _), ..
        }) = self.flushing.take()
        {
            shared.give_up();
        }
        self.due_at = Lsn(u64::MAX);
        self.installs.clear();
        self.refuse_checkpoints("the log has failed");
        self.end_copy(Err(Error::NoCheckpoint { cause: "the log has failed".to_owned() }));
    }

    fn begin_if_due(&mut self, ground: &mut Ground<'_, E>) {
        if self.store.is_refused() || self.env.now() < self.retry_at {
            return;
        }
        let (place, oldest) = self.oldest(ground);
        self.needed_from = oldest;
        let since = self.env.now();
        let begin_at = due::begin_at(&self.marks, oldest, self.flush_from(ground, since));
        let place = place.filter(|_| ground.log.appended() >= begin_at);
        let flushing = match (self.wanted_place(ground.partitions), place) {
            // What is not committed may wait for the very replica that the checkpoint is for: it
            // stays in the log, none of which is released.
            (Some(place), _) => {
                let (index, mark) = (0, self.marks[place as usize]);
                Flushing { place, mark, stage: Stage::Marked { index, since } }
            }
            (None, Some(place)) => {
                let index = ground.partitions[place as usize].newest_logged();
                let mark = self.start_of_blobs(ground).unwrap_or(ground.log.appended());
                Flushing { place, mark, stage: Stage::Marked { index, since } }
            }
            (None, None) => {
                self.due_at = begin_at;
                return;
            }
        };
        self.flushing = Some(flushing);
        (self.began_at, self.began_from) = (since, ground.log.appended());
        self.moves += 1;
        self.env.notify();
    }

    /// Bytes of log from which a flush begins now. On a full disk every delete counts: what is left
    /// of it in the log alone gives no room back.
    fn flush_from(&self, ground: &Ground<'_, E>, now: Duration) -> u64 {
        let usual = self.options.flush_from();
        match (ground.log.is_disk_full(), ground.is_short) {
            (true, _) if now.saturating_sub(self.began_at) > FULL_DELAY => 1,
            (true, _) => usual.min(FLUSH_LEN_MIN),
            (false, true) => usual / SHORT_SHARE,
            (false, false) => usual,
        }
    }

    /// The partition to be flushed first, and from where on the log is needed.
    fn oldest(&mut self, ground: &Ground<'_, E>) -> (Option<u32>, Lsn) {
        let end = self.start_of_blobs(ground).unwrap_or(ground.log.appended());
        let (mut oldest, mut first) = (end, None);
        self.is_held_in_vain = false;
        for (place, partition) in ground.partitions.iter().enumerate() {
            let mark = &mut self.marks[place];
            if !partition.needs_log() {
                *mark = end;
                continue;
            }
            let is_in_vain = !partition.has_settled(self.in_vain[place]);
            if *mark < oldest {
                (oldest, self.is_held_in_vain) = (*mark, is_in_vain);
            }
            let is_first = first.is_none_or(|(_, least)| *mark < least);
            if is_first && !is_in_vain && !partition.is_catching_up() {
                first = Some((place as u32, *mark));
            }
        }
        (first.map(|(place, _)| place), oldest)
    }

    /// Where the oldest large value begins whose entry is not in the log.
    fn start_of_blobs(&mut self, ground: &Ground<'_, E>) -> Option<Lsn> {
        let oldest = ground.blob_oldest.unwrap_or(u64::MAX);
        while self.blobs.front().is_some_and(|(blob, _)| *blob < oldest) {
            self.blobs.pop_front();
        }
        self.blobs.front().map(|(_, lsn)| *lsn)
    }

    fn new_number(&mut self) -> u64 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    /// Counts the tables, for INFO.
    fn count(&self, stats: &ShardStats) {
        let of = |state: &State| {
            let lens = state.tables().map(|entry| entry.meta.file_len);
            lens.fold((0, 0), |sum, len| (sum.0 + 1, sum.1 + len))
        };
        // While the manifest is being written, as it was before.
        if let Some((tables, bytes)) = self.store.look(of) {
            stats.tables.set(tables);
            stats.table_bytes.set(bytes);
        }
    }
}
