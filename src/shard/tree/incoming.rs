//! A checkpoint of another replica on its way in: its tables become files here, which nothing names
//! until they are installed.
//!
//! ```text
//! loop:  head, piece, piece ... last            install                       rows taken over
//! task:        written, synced, verified: staged  ...... the edit in the manifest, durable
//! ```
//!
//! The task that writes the files also removes them, unless the manifest came to name them: when
//! something was wrong with them, and when who holds [`Incoming`] or [`Staged`] lets it go. After a
//! crash they are removed as whatever the manifest does not name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use xxhash_rust::xxh3::Xxh3;

use super::belt::Belt;
use super::flush::{self, Shared};
use super::load::{load_rows, sizes_of, stored_of};
use super::outgoing::{PIECE_LEN, Piece};
use super::store::Store;
use super::{Error, Tree};
use crate::env::{Class, Env};
use crate::id::PartitionId;
use crate::limits::SECTOR_LEN;
use crate::lsm::manifest::format::{Kind, decode};
use crate::lsm::manifest::{Edit, Keys, PartitionState};
use crate::lsm::pick::LEVEL_COUNT;
use crate::lsm::table::{Meta, Output, Table};
use crate::partition::{Partition, Recovery, Roster, Sessions};
use crate::wal::LogId;

/// What was staged, or why it could not be.
type End = Rc<RefCell<Option<Result<Staged, Error>>>>;

/// Takes the pieces of a checkpoint. Dropped before [`Incoming::take_staged`] has given it, what
/// there is of it is removed.
pub struct Incoming {
    belt: Belt<Piece>,
    end: End,
}

impl Incoming {
    /// Whether another piece may be put.
    pub fn has_room(&self) -> bool {
        self.belt.has_room()
    }

    /// The next piece, in the order in which [`super::Outgoing`] gives them.
    pub fn put(&self, piece: Piece) {
        self.belt.put(piece);
    }

    /// All pieces were put.
    pub fn finish(&self) {
        self.belt.close();
    }

    /// Whether [`Incoming::take_staged`] has something to tell.
    pub fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// All tables, durable and verified, once they are; after [`Incoming::finish`], or when
    /// something is wrong. Once.
    pub fn take_staged(&self) -> Option<Result<Staged, Error>> {
        self.end.borrow_mut().take()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.belt.close();
        let staged = self.end.borrow_mut().take();
        drop(staged);
    }
}

/// Tables of a partition that are to take the place of those it has. Dropped, they are removed.
pub struct Staged {
    pub(super) state: PartitionState,
    pub(super) keys: Vec<Keys>,
    /// What the partition starts from; taken when it does.
    pub(super) recovery: Option<Recovery>,
    pub(super) shared: Shared,
}

impl Staged {
    /// The effects of all entries up to this are in it.
    pub fn index(&self) -> u64 {
        self.state.index
    }

    /// The term of that entry.
    pub fn index_term(&self) -> u64 {
        self.state.index_term
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Of no effect once the edit is on its way.
        self.shared.give_up();
    }
}

impl<E: Env> Tree<E> {
    /// Begins to take a checkpoint of `partition` in, whose head is given.
    ///
    /// # Errors
    /// The head is not one, or of another partition.
    pub fn receive(&self, partition: &Partition, head: &[u8]) -> Result<Incoming, Error> {
        let edit = check_head(head, partition.id())?;
        let staging = Staging {
            env: self.env.clone(),
            store: self.store.clone(),
            numbers: Rc::clone(&self.numbers),
            log: self.options.log,
            edit,
            tables: Vec::new(),
            named: Vec::new(),
            output: None,
            hash: Xxh3::new(),
        };
        let (state, keys) = (staging.edit.partitions[0].1.clone(), staging.edit.keys.clone());
        let recovery = Some(partition.blank(stored_of(&state)));
        let staged = Staged { state, keys, recovery, shared: Shared::default() };
        let (belt, end) = (Belt::default(), End::default());
        let incoming = Incoming { belt: belt.clone(), end: Rc::clone(&end) };
        let loads = self.options.rows_len_max.is_none();
        self.env.spawn(Class::Background, run(staging, staged, loads, belt, end));
        Ok(incoming)
    }
}

/// What a head says, if it is one of that partition.
fn check_head(head: &[u8], partition: PartitionId) -> Result<Edit, Error> {
    let refused = |what| Err(Error::Refused { what });
    let Ok(record) = decode(head) else { return refused("its head is damaged") };
    let edit = record.edit;
    let [(id, state)] = &edit.partitions[..] else {
        return refused("it is not of one partition");
    };
    let is_of_it = edit.add.iter().all(|entry| entry.partition == partition)
        && edit.keys.iter().all(|keys| keys.partition == partition);
    if *id != partition || !is_of_it {
        return refused("it is of another partition");
    }
    let is_whole = record.header.kind == Kind::Snapshot && edit.remove.is_empty();
    let is_readable =
        Roster::decode(&state.roster).is_some() && Sessions::decode(&state.sessions).is_some();
    if !is_whole || !is_readable || state.index == 0 || !has_levels(&edit) {
        return refused("its head is not one of a checkpoint");
    }
    Ok(edit)
}

/// Whether the tables of each level but the first follow on each other.
fn has_levels(edit: &Edit) -> bool {
    let mut bounds: Vec<_> = edit.add.iter().filter(|entry| entry.level > 0).collect();
    bounds.sort_by_key(|entry| (entry.level, &entry.meta.smallest));
    let overlap = bounds
        .windows(2)
        .any(|two| two[0].level == two[1].level && two[0].meta.largest >= two[1].meta.smallest);
    let is_deep = edit.add.iter().any(|entry| usize::from(entry.level) >= LEVEL_COUNT);
    !overlap && !is_deep
}

/// Files that are written.
struct Staging<E: Env> {
    env: E,
    store: Store<E>,
    numbers: Rc<Cell<u64>>,
    log: LogId,
    /// The head.
    edit: Edit,
    /// Those that are whole, in its order, each with its level.
    tables: Vec<(u8, Table<E>)>,
    /// The numbers of all files that were begun.
    named: Vec<u64>,
    /// The file that pieces go to, and the hash of what it has.
    output: Option<Output<E>>,
    hash: Xxh3,
}

impl<E: Env> Staging<E> {
    /// Writes a piece; behind the last one of a table, opens it.
    async fn take(&mut self, piece: Piece) -> Result<(), Error> {
        let Piece { table, offset, bytes, digest } = piece;
        let refused = Err(Error::Refused { what: "a piece of a table is not the next one" });
        let at = self.tables.len();
        let Some(entry) = self.edit.add.get(at).filter(|_| table as usize == at) else {
            return refused;
        };
        let (level, file_len, len) = (entry.level, entry.meta.file_len, bytes.len());
        let meta = entry.meta.clone();
        let is_next = offset == self.output.as_ref().map_or(0, Output::offset);
        let is_whole = len > 0 && len <= PIECE_LEN && len.is_multiple_of(SECTOR_LEN);
        let is_last = offset.checked_add(len as u64) == Some(file_len);
        if !is_next || !is_whole || is_last != digest.is_some() {
            return refused;
        }
        self.write(&bytes).await?;
        match digest {
            Some(digest) => self.end_table(level, &meta, digest).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let output = match &mut self.output {
            Some(output) => output,
            none => {
                let number = self.numbers.replace(self.numbers.get() + 1);
                self.named.push(number);
                none.insert(Output::create(&self.env, &self.store.path_of(number)).await?)
            }
        };
        output.room(bytes.len()).await?.copy_from_slice(bytes);
        output.took(bytes.len());
        self.hash.update(bytes);
        Ok(())
    }

    /// The file has all its bytes: they are what was sent, and a table.
    async fn end_table(&mut self, level: u8, meta: &Meta, digest: u64) -> Result<(), Error> {
        let (Some(output), Some(number)) = (self.output.take(), self.named.last()) else {
            return Err(Error::Refused { what: "a table has no bytes" });
        };
        let hash = std::mem::replace(&mut self.hash, Xxh3::new());
        if hash.digest() != digest {
            return Err(Error::Refused { what: "a table came with another checksum" });
        }
        output.finish().await?;
        let (path, meta) = (self.store.path_of(*number), meta.copied(self.log, *number));
        self.tables.push((level, Table::open(&self.env, &path, &meta).await?));
        Ok(())
    }

    /// Takes all pieces.
    async fn receive(&mut self, belt: &Belt<Piece>) -> Result<(), Error> {
        while let Some(piece) = belt.next().await {
            self.take(piece).await?;
            self.env.notify();
        }
        if self.tables.len() < self.edit.add.len() {
            return Err(Error::Refused { what: "it ends before its last table" });
        }
        self.store.sync_dir().await
    }

    /// What a partition starts from: the rows, if all are to be in memory.
    async fn load(&self, staged: &mut Staged, loads: bool) -> Result<(), Error> {
        let Some(recovery) = &mut staged.recovery else { return Ok(()) };
        let metas = || self.tables.iter().map(|(_, table)| table.meta());
        if loads {
            let inputs = self.tables.iter().map(|(_, table)| table.iter(&[])).collect();
            return load_rows(&self.env, inputs, recovery, |_| {}).await;
        }
        let keys = Some(&staged.keys[..]).filter(|keys| !keys.is_empty());
        recovery.lean_on_tables(sizes_of(keys, metas()));
        Ok(())
    }
}

/// The task: see the module's header.
async fn run<E: Env>(
    mut staging: Staging<E>,
    mut staged: Staged,
    loads: bool,
    belt: Belt<Piece>,
    end: End,
) {
    let (env, store, shared) = (staging.env.clone(), staging.store.clone(), staged.shared.clone());
    let received = match staging.receive(&belt).await {
        Ok(()) => staging.load(&mut staged, loads).await,
        refused => refused,
    };
    let is_named = match received {
        Ok(()) => {
            let tables = std::mem::take(&mut staging.tables);
            *end.borrow_mut() = Some(Ok(staged));
            // Who waited may have gone meanwhile.
            if Rc::strong_count(&end) == 1 {
                end.borrow_mut().take();
            }
            drop(end);
            env.notify();
            flush::finish(&env, &store, &shared, tables).await
        }
        Err(error) => {
            *end.borrow_mut() = Some(Err(error));
            env.notify();
            false
        }
    };
    if !is_named {
        store.remove(&staging.named).await;
    }
}
