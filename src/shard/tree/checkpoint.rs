//! A partition as its tables have it at an entry: what a replica that lacks it is sent.
//!
//! Tables never change, and a flush promises that all entries up to [`Checkpoint::index`] are in
//! them. So a checkpoint is their list, what the manifest says of the partition beside it, and a
//! flush before, if something is in no table. It holds the tables' files open: compaction may take
//! their names, and their bytes stay until the checkpoint goes.
//!
//! ```text
//! head   a manifest's snapshot record ([`crate::lsm::manifest::format`]) of the partition alone
//! piece  table:u32 offset:u64 bytes, in order; the last one of a table with the file's xxh3-64
//! ```
//!
//! A table may have versions that are newer than the entry. Who installs it applies the entries
//! behind the checkpoint, passes over those versions when he meets them ([`crate::partition`]), and
//! shows nobody anything before he has come to [`PartitionState::clock`].
//!
//! Not here: the way of the pieces ([`super::outgoing`]), and what becomes of them
//! ([`super::incoming`]).

use std::cell::RefCell;
use std::rc::Rc;

use super::{Error, Tree};
use crate::env::Env;
use crate::id::PartitionId;
use crate::lsm::manifest::format::{Header, Kind, encode};
use crate::lsm::manifest::{Edit, Keys, PartitionState, State, TableEntry};
use crate::lsm::table::Table;
use crate::partition::Partition;
use crate::wal::LogId;

/// See the module's header.
pub struct Checkpoint<E: Env> {
    log: LogId,
    partition: PartitionId,
    state: PartitionState,
    keys: Vec<Keys>,
    tables: Vec<(u8, Table<E>)>,
}

impl<E: Env> Checkpoint<E> {
    /// What `state` says of a partition; `open` finds a table that it names.
    pub(super) fn of(
        log: LogId,
        partition: PartitionId,
        state: &State,
        open: impl Fn(u64) -> Table<E>,
    ) -> Self {
        let entries = state.tables_of(partition);
        let tables = entries.map(|entry| (entry.level, open(entry.meta.number)));
        let (keys, tables) =
            (state.keys_of(partition).unwrap_or_default().to_vec(), tables.collect());
        Self { log, partition, state: state.partition(partition), keys, tables }
    }

    /// The effects of all entries up to this are in it.
    pub fn index(&self) -> u64 {
        self.state.index
    }

    /// The term of that entry.
    pub fn index_term(&self) -> u64 {
        self.state.index_term
    }

    /// Bytes of its tables.
    pub fn byte_len(&self) -> u64 {
        self.tables.iter().map(|(_, table)| table.meta().file_len).sum()
    }

    /// Its tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table<E>> {
        self.tables.iter().map(|(_, table)| table)
    }

    /// What has to be known of it before its pieces come: see the module's header.
    pub fn head(&self) -> Vec<u8> {
        let entry = |(level, table): &(u8, Table<E>)| {
            let (partition, level, meta) = (self.partition, *level, table.meta().clone());
            TableEntry { partition, level, meta }
        };
        let edit = Edit {
            add: self.tables.iter().map(entry).collect(),
            remove: Vec::new(),
            partitions: vec![(self.partition, self.state.clone())],
            shard: None,
            keys: self.keys.clone(),
        };
        let header = Header { kind: Kind::Snapshot, log: self.log, seq: 0, number: 0, chain: 0 };
        let mut head = Vec::new();
        encode(&header, &edit, &mut head);
        head
    }
}

/// Something that is not there yet. A handle; dropped, nobody waits for it.
pub struct Awaited<T>(Rc<RefCell<Option<T>>>);

impl<T> Awaited<T> {
    /// Which will be put there.
    pub(super) fn until(end: Rc<RefCell<Option<T>>>) -> Self {
        Self(end)
    }

    /// Which is there already.
    pub fn of(thing: T) -> Self {
        Self(Rc::new(RefCell::new(Some(thing))))
    }

    /// What it is, once it is there. Once.
    pub fn take(&self) -> Option<T> {
        self.0.borrow_mut().take()
    }
}

/// What came of asking for a checkpoint.
pub type Made<E> = Result<Checkpoint<E>, Error>;

/// A checkpoint that somebody waits for.
pub(super) struct Wanted<E: Env> {
    place: u32,
    /// It goes up to here, or further.
    index: u64,
    end: Rc<RefCell<Option<Made<E>>>>,
}

impl<E: Env> Tree<E> {
    /// Asks for a checkpoint of the partition at `place` that has all entries up to `index`, which
    /// is committed. It costs no more than the flush, if one is due, and is begun by
    /// [`Tree::tend`]. While a clear is being committed it waits.
    ///
    /// It ends in an error if the flush fails, the manifest can not be written, or the log fails.
    pub fn checkpoint(&mut self, place: u32, index: u64) -> Awaited<Made<E>> {
        let end = Rc::default();
        self.wanted.push(Wanted { place, index, end: Rc::clone(&end) });
        self.env.notify();
        Awaited(end)
    }

    /// The first partition that is to be flushed for a checkpoint.
    pub(super) fn wanted_place(&self, partitions: &[Partition]) -> Option<u32> {
        let lacks = |wanted: &&Wanted<E>| {
            let partition = &partitions[wanted.place as usize];
            partition.flushed().index < wanted.index && !partition.is_catching_up()
        };
        self.wanted.iter().find(lacks).map(|wanted| wanted.place)
    }

    /// Ends the checkpoints whose tables are there.
    pub(super) fn tend_checkpoints(&mut self, partitions: &[Partition]) {
        if self.wanted.is_empty() {
            return;
        }
        if self.store.is_refused() {
            return self.refuse_checkpoints("the manifest can not be written");
        }
        let (store, log, env) = (&self.store, self.options.log, &self.env);
        self.wanted.retain(|Wanted { place, index, end }| {
            let partition = &partitions[*place as usize];
            if Rc::strong_count(end) == 1 {
                return false;
            }
            // The manifest may be on its way to the disk: who writes it notifies the loop.
            let checkpoint = match partition.flushed().index < *index {
                true => None,
                false => store.checkpoint(log, partition.id()),
            };
            let is_there = checkpoint.is_some();
            if let Some(checkpoint) = checkpoint {
                *end.borrow_mut() = Some(Ok(checkpoint));
                env.notify();
            }
            !is_there
        });
    }

    /// Ends all that are waited for.
    pub(super) fn refuse_checkpoints(&mut self, cause: &str) {
        for wanted in self.wanted.drain(..) {
            *wanted.end.borrow_mut() = Some(Err(Error::NoCheckpoint { cause: cause.to_owned() }));
            self.env.notify();
        }
    }
}
