//! From a directory to a shard: load the tables, read the log, lead the partitions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::replicas::Replicas;
use super::tree::{self, Loaded, Tree};
use super::{Planted, Shard};
use crate::ack::Ack;
use crate::cluster::{Members, SlotMap};
use crate::consensus::Outlook;
use crate::env::Env;
use crate::id::{Lsn, NodeId, PartitionId, ShardId};
use crate::lsm::memtable::{Memtable, Pages};
use crate::metrics::ShardStats;
use crate::partition::{self, MayHave, Partition, Recovery};
use crate::wal::{self, RecordKind, Writer};

/// How a shard is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// The nodes that have replicas of its partitions, if it is not the only one.
    pub members: Option<Arc<Members>>,
    /// Which of its shards.
    pub shard: ShardId,
    /// Who has which slots.
    pub map: SlotMap,
    /// What answers wait for whose clients do not say: relaxed ones let the log be written behind.
    pub ack: Ack,
    /// This shard's part of the memory budget, bytes.
    pub memory_max: usize,
    /// The log.
    pub log: wal::Options,
    /// The tables.
    pub tree: tree::Options,
    /// A bug to be caught by the tests; none outside them.
    #[doc(hidden)]
    pub planted: Option<Planted>,
}

/// How far the loading and then the replay is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes of tables and log read.
    pub done: u64,
    /// Bytes of tables and log there are, as far as is known.
    pub total: u64,
}

/// Why a shard could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Log(#[from] wal::Error),
    /// The tables.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// What the log says does not fit together.
    #[error("the log in {} can not be applied: {source}", dir.display())]
    Partition {
        /// Where.
        dir: PathBuf,
        /// What.
        source: partition::Error,
    },
    /// A record of a partition that this shard does not have.
    #[error(
        "the log in {} has a record of partition {partition}, which belongs to another shard: was \
         the directory made with another number of cores?", dir.display()
    )]
    Foreign {
        /// Where.
        dir: PathBuf,
        /// Whose record.
        partition: PartitionId,
    },
}

/// Reads the log, applies it and, without other members, leads all partitions, durably.
///
/// # Errors
/// As [`Error`]. Nothing was changed unless the log was read to its end.
pub async fn open<E: Env>(
    env: E,
    options: Options,
    stats: Arc<ShardStats>,
    mut on_progress: impl FnMut(Progress),
) -> Result<Shard<E>, Error> {
    make_log_dir(&env, &options.log.dir).await?;
    let first = options.map.partitions_of(options.shard).start;
    let loaded = Loaded::read(&env, &options.tree).await?;
    let mut replay = Replay::new(&env, &options, &loaded);
    let loaded_len = replay.load(&env, &options, &loaded, &mut on_progress).await?;
    let ended = {
        let ids = options.map.partitions_of(options.shard).map(PartitionId);
        let views: Vec<_> = ids.map(|id| loaded.view(id)).collect();
        let on_record = |lsn, record: wal::Record<'_>| {
            let place = record.partition.0.wrapping_sub(first) as usize;
            replay.take(lsn, record, &|key| views.get(place).is_some_and(|v| v.may_contain(key)));
        };
        let on_bytes = |progress: wal::Progress| {
            let (done, total) = (progress.done_bytes, progress.total_bytes);
            on_progress(Progress { done: loaded_len + done, total: loaded_len + total });
        };
        let log = wal::Options { needed_from: loaded.log_from(), ..options.log.clone() };
        wal::replay(&env, &log, on_record, on_bytes).await?
    };
    let Replay { recoveries, failed, blob_last, .. } = replay;
    failed.map_or(Ok(()), Err)?;
    let partitions = finish(&env, &options, recoveries);
    let log = Writer::open(&env, &options.log, ended).await?;
    let rows_max = options.tree.rows_len_max.map(|len| len as usize);
    let ids = partitions.iter().map(|partition| partition.id()).collect();
    let tree = Tree::open(&env, options.tree, loaded, ids).await?;
    let mut shard = Shard {
        env: env.clone(),
        id: options.shard,
        map: options.map,
        writes_behind: options.ack == Ack::Relaxed,
        memory_max: options.memory_max,
        replicas: Replicas::new(options.members, partitions.len(), env.random()),
        partitions,
        log,
        tree,
        in_log: Default::default(),
        backlog: Default::default(),
        touched: Vec::new(),
        slowness: Default::default(),
        sending: Default::default(),
        together: false,
        released: Vec::new(),
        crowd: super::crowd::Crowd::default(),
        abandoned: Vec::new(),
        failed: None,
        memory_used: 0,
        room: super::room::Room::new(rows_max, options.memory_max),
        is_partial: false,
        seeker: super::seek::Seeker::new(env.random()),
        now_ms: env.unix_ms(),
        blob_next: blob_last,
        expired_keys: Vec::new(),
        changes: super::changes::Changes::new(env.random(), options.memory_max),
        stats,
        planted: options.planted,
    };
    lead(&env, &mut shard).await;
    shard.tick_replicas(&Outlook::default());
    shard.tree.begin(&shard.stats);
    shard.account(0);
    Ok(shard)
}

fn finish<E: Env>(env: &E, options: &Options, recoveries: Vec<Recovery>) -> Vec<Partition> {
    let finish = |recovery: Recovery| {
        let mut partition = recovery.finish(options.node, env.random());
        partition.plant(options.planted);
        partition
    };
    recoveries.into_iter().map(finish).collect()
}

/// Makes `<data directory>/<shard>/<log>` and makes its names durable: without that a power cut
/// may take the whole log, however well its files are synced.
async fn make_log_dir<E: Env>(env: &E, dir: &Path) -> Result<(), wal::Error> {
    let io = |op, path: &Path, result: std::io::Result<()>| {
        result.map_err(|source| wal::Error::Io { op, path: path.to_owned(), source })
    };
    io("create", dir, env.create_dir(dir).await)?;
    for parent in dir.ancestors().skip(1).take(2) {
        io("sync", parent, env.sync_dir(parent).await)?;
    }
    Ok(())
}

/// Campaigns where nobody else has a vote, and waits until each such partition has committed its
/// term's first entry.
async fn lead<E: Env>(env: &E, shard: &mut Shard<E>) {
    let alone = |partition: &Partition| !partition.has_others();
    for place in 0..shard.partitions.len() as u32 {
        if !alone(&shard.partitions[place as usize]) {
            continue;
        }
        let logging = shard.at(place, |partition, around| partition.campaign(around));
        shard.note(place, logging);
    }
    shard.log.flush(wal::Flush::Now);
    while shard.failed.is_none() {
        shard.advance();
        shard.log.flush(wal::Flush::Now);
        let mut campaigning = shard.partitions.iter().filter(|partition| alone(partition));
        if shard.in_log.is_empty() && campaigning.all(|partition| partition.is_ready()) {
            return;
        }
        env.sleep(Duration::from_micros(200)).await;
    }
}

struct Replay {
    first: u32,
    dir: PathBuf,
    recoveries: Vec<Recovery>,
    blobs: partition::Blobs,
    blob_last: u64,
    failed: Option<Error>,
}

/// Memory that is a partition's part, bytes, from which on its memtable is of huge pages. They are
/// resident as a whole, so that a table may take two of them that it hardly uses.
const HUGE_MEMORY_MIN: usize = 64 << 20;

/// A partition as the manifest has it.
fn begin<E: Env>(env: &E, id: PartitionId, loaded: &Loaded<E>, options: &Options) -> Recovery {
    let count = options.map.partitions_per_shard() as usize;
    let is_large = options.memory_max / count >= HUGE_MEMORY_MIN;
    let pages = if is_large { Pages::Huge } else { Pages::Small };
    let memtable = Memtable::with_pages(env.random(), pages);
    let mut recovery = Recovery::new(id, memtable, loaded.stored(id));
    if let Some(members) = &options.members {
        let len_max = super::replicas::log_cache_len(options.memory_max, count);
        recovery.keep_log(len_max, options.node, members.founders());
    }
    recovery
}

impl Replay {
    fn new<E: Env>(env: &E, options: &Options, loaded: &Loaded<E>) -> Self {
        let partitions = options.map.partitions_of(options.shard);
        let seeds = [env.random(), env.random(), env.random(), env.random()];
        let first = partitions.start;
        let recovery = |id| begin(env, id, loaded, options);
        let recoveries: Vec<_> = partitions.map(PartitionId).map(recovery).collect();
        let alone = recoveries.iter().try_for_each(|recovery| match options.members {
            Some(_) => Ok(()),
            None => recovery.be_alone(options.node),
        });
        let mut replay = Self {
            first,
            dir: options.log.dir.clone(),
            recoveries,
            blobs: partition::Blobs::with_hasher(ahash::RandomState::with_seeds(
                seeds[0], seeds[1], seeds[2], seeds[3],
            )),
            blob_last: loaded.blob_last(),
            failed: None,
        };
        replay.note(alone);
        replay
    }

    /// Loads the rows of all tables, if they are few; returns their bytes.
    async fn load<E: Env>(
        &mut self,
        env: &E,
        options: &Options,
        loaded: &Loaded<E>,
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<u64, Error> {
        let (mut done, total) = (0, loaded.table_bytes());
        if !options.tree.loads(total) {
            for (id, recovery) in (self.first..).zip(&mut self.recoveries) {
                recovery.lean_on_tables(loaded.sizes(PartitionId(id)));
            }
            return Ok(0);
        }
        for (id, recovery) in (self.first..).zip(&mut self.recoveries) {
            let id = PartitionId(id);
            let on_bytes = |bytes| {
                done += bytes;
                on_progress(Progress { done: done.min(total), total });
            };
            match loaded.rows(env, id, recovery, on_bytes).await {
                Ok(()) => {}
                // The rows of the damaged part are refused when they are asked for, and no others.
                Err(error) if error.is_corrupt() && options.tree.rows_len_max.is_some() => {
                    tracing::error!(shard = options.shard.0, %error, "some rows can not be read");
                    *recovery = begin(env, id, loaded, options);
                    recovery.lean_on_tables(loaded.sizes(id));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(total)
    }

    fn take(&mut self, lsn: Lsn, record: wal::Record<'_>, may_have: MayHave<'_>) {
        if self.failed.is_some() {
            return;
        }
        if record.kind == RecordKind::Blob {
            return self.take_blob(record);
        }
        let place = record.partition.0.wrapping_sub(self.first) as usize;
        let Some(recovery) = self.recoveries.get_mut(place) else {
            let (dir, partition) = (self.dir.clone(), record.partition);
            self.failed = Some(Error::Foreign { dir, partition });
            return;
        };
        if record.kind == RecordKind::HardState {
            let wal::Record { term, index: commit, payload, .. } = record;
            let taken = recovery.hard_state((term, commit), payload, may_have);
            return self.note(taken);
        }
        let (blobs, wal::Record { term, index, payload, .. }) = (&mut self.blobs, record);
        if recovery.pass_void(lsn, payload, blobs) {
            return;
        }
        let applied = recovery.entry(term, index, payload, blobs, may_have);
        self.note(applied);
    }

    fn note(&mut self, applied: Result<(), partition::Error>) {
        if let Err(source) = applied {
            self.failed = Some(Error::Partition { dir: self.dir.clone(), source });
        }
    }

    /// A piece of a large value. Pieces come in order; a value whose entry never came is dropped
    /// with the rest at the end.
    fn take_blob(&mut self, record: wal::Record<'_>) {
        self.blob_last = self.blob_last.max(record.term);
        let blob = self.blobs.entry(record.term).or_default();
        let bytes = Arc::make_mut(blob);
        if bytes.len() as u64 == record.index {
            bytes.extend_from_slice(record.payload);
        }
    }
}
