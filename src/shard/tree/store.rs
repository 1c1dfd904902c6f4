//! The tables and the manifest of a shard, as its tasks share them.
//!
//! One edit is written at a time; who comes meanwhile waits. What an edit says is decided when its
//! turn comes, on the state that it changes. One that the disk refuses is not given up: it may be
//! on the disk, so neither what it adds nor what it removes may be touched. It is tried again in a
//! new file until the disk takes it, and its flush or compaction is as slow as that.
//!
//! Every table that counts is open, with its filter and the top of its index in memory; a table is
//! opened before an edit names it, and a partition's view follows its edit at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{Checkpoint, Error, RETRY_DELAY};
use crate::env::Env;
use crate::id::PartitionId;
use crate::lsm::manifest::file::{self, Manifest};
use crate::lsm::manifest::{Edit, State};
use crate::lsm::table::{self, Table};
use crate::lsm::view::View;
use crate::wal::LogId;

/// Between two looks whether a refused edit is to be tried again.
const LOOK_DELAY: Duration = Duration::from_millis(20);

struct Inside<E: Env> {
    env: E,
    dir: PathBuf,
    /// None while an edit is being written.
    manifest: Option<Manifest<E>>,
    waiting: Vec<Waker>,
    /// The disk does not take the edit that is being written.
    is_refused: bool,
    /// Because it is full.
    lacks_room: bool,
    tables: BTreeMap<u64, Table<E>>,
    /// Of the partitions from `first` on.
    views: Vec<Rc<View<E>>>,
    first: PartitionId,
    /// A partition whose reads go on with the tables of before, and the view that waits.
    held: Option<(PartitionId, Option<Rc<View<E>>>)>,
}

impl<E: Env> Inside<E> {
    /// Brings the view of a partition up to date.
    fn refresh(&mut self, partition: PartitionId, state: &State) {
        let entries = state.tables_of(partition);
        let tables = entries.map(|entry| (entry.level, self.tables[&entry.meta.number].clone()));
        let view = Rc::new(View::new(tables.collect::<Vec<_>>()));
        match &mut self.held {
            Some((held, next)) if *held == partition => *next = Some(view),
            _ => self.show(partition, view),
        }
    }

    fn show(&mut self, partition: PartitionId, view: Rc<View<E>>) {
        if let Some(place) = partition.0.checked_sub(self.first.0)
            && let Some(slot) = self.views.get_mut(place as usize)
        {
            *slot = view;
        }
    }
}

/// See the module's header. A handle.
pub struct Store<E: Env>(Rc<RefCell<Inside<E>>>);

impl<E: Env> Clone for Store<E> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<E: Env> Store<E> {
    /// Of the manifest in `dir`, where the tables are as well: those that it names, open.
    pub fn new(
        env: &E,
        dir: &Path,
        manifest: Manifest<E>,
        tables: BTreeMap<u64, Table<E>>,
        partitions: &[PartitionId],
    ) -> Self {
        let mut inside = Inside {
            env: env.clone(),
            dir: dir.to_owned(),
            manifest: None,
            waiting: Vec::new(),
            is_refused: false,
            lacks_room: false,
            tables,
            views: partitions.iter().map(|_| Rc::new(View::new([]))).collect(),
            first: partitions.first().copied().unwrap_or(PartitionId(0)),
            held: None,
        };
        partitions.iter().for_each(|id| inside.refresh(*id, manifest.state()));
        inside.manifest = Some(manifest);
        Self(Rc::new(RefCell::new(inside)))
    }

    /// The tables of the partition at `place`.
    pub fn view(&self, place: u32) -> Rc<View<E>> {
        Rc::clone(&self.0.borrow().views[place as usize])
    }

    /// Reads of a partition go on with the tables that it has, whatever edits follow, until
    /// [`Store::release`]. One at a time.
    pub fn hold(&self, partition: PartitionId) {
        self.0.borrow_mut().held = Some((partition, None));
    }

    /// Reads go on with the tables that the manifest names.
    pub fn release(&self) {
        let mut inside = self.0.borrow_mut();
        if let Some((partition, Some(view))) = inside.held.take() {
            inside.show(partition, view);
        }
    }

    /// The tables of a partition, held open; `None` while the manifest is being written.
    pub fn checkpoint(&self, log: LogId, partition: PartitionId) -> Option<Checkpoint<E>> {
        let inside = self.0.borrow();
        let state = inside.manifest.as_ref()?.state();
        Some(Checkpoint::of(log, partition, state, |number| inside.tables[&number].clone()))
    }

    /// Whether a table of the partition at `place` may have a key.
    pub fn may_contain(&self, place: u32, key: &[u8]) -> bool {
        self.0.borrow().views[place as usize].may_contain(key)
    }

    /// Keeps a table that the next edit will name.
    pub fn keep(&self, table: Table<E>) {
        self.0.borrow_mut().tables.insert(table.meta().number, table);
    }

    /// Tables that count, by their numbers; some may not any more.
    pub fn tables(&self, numbers: &[u64]) -> Vec<Table<E>> {
        let inside = self.0.borrow();
        numbers.iter().filter_map(|number| inside.tables.get(number).cloned()).collect()
    }

    /// The table that counts with the next number behind `last`.
    pub fn table_after(&self, last: u64) -> Option<Table<E>> {
        let inside = self.0.borrow();
        inside.tables.range(last + 1..).next().map(|(_, table)| table.clone())
    }

    /// Bytes of memory that open tables take. Forgets leaves when they take more than
    /// `leaves_len_max`.
    pub fn memory_len(&self, leaves_len_max: usize) -> usize {
        let inside = self.0.borrow();
        if inside.tables.values().map(Table::leaves_len).sum::<usize>() > leaves_len_max {
            inside.tables.values().for_each(Table::forget_leaves);
        }
        inside.tables.values().map(Table::memory_len).sum()
    }

    /// When the table was verified that was not for the longest time; none: there is no table.
    pub fn oldest_verified(&self) -> Option<Duration> {
        self.0.borrow().tables.values().map(Table::verified_at).min()
    }

    /// Where table `number` is.
    pub fn path_of(&self, number: u64) -> PathBuf {
        self.0.borrow().dir.join(table::file_name(number))
    }

    /// What the manifest says; `None` while it is being written.
    pub fn look<T>(&self, at: impl FnOnce(&State) -> T) -> Option<T> {
        self.0.borrow().manifest.as_ref().map(|manifest| at(manifest.state()))
    }

    /// Whether the disk does not take an edit, which is tried again and again.
    pub fn is_refused(&self) -> bool {
        self.0.borrow().is_refused
    }

    /// Whether that is because it is full.
    pub fn lacks_room(&self) -> bool {
        self.0.borrow().lacks_room
    }

    /// Makes the names of the tables durable.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn sync_dir(&self) -> Result<(), Error> {
        let (env, dir) = self.here();
        let synced = env.sync_dir(&dir).await;
        synced.map_err(|source| Error::Io { op: "sync", path: dir, source })
    }

    /// Removes tables that no edit names any more. What fails is left to the next start.
    pub async fn remove(&self, numbers: &[u64]) {
        let (env, _) = self.here();
        for number in numbers {
            let path = self.path_of(*number);
            self.0.borrow_mut().tables.remove(number);
            let removed = env.remove(&path).await;
            if let Err(error) = removed.or_else(if_missing) {
                tracing::warn!(path = %path.display(), %error, "a table is not needed and stays");
            }
        }
    }

    /// Writes the edit that `decide` makes of the present state; durable when this ends, however
    /// often that has to be tried. False: it made none.
    ///
    /// # Errors
    /// Never the disk's. [`Error::Manifest`]: the edit does not fit, and nothing was written.
    pub async fn commit(&self, decide: impl FnOnce(&State) -> Option<Edit>) -> Result<bool, Error> {
        let mut manifest = self.take().await;
        let Some(edit) = decide(manifest.state()) else {
            self.put_back(manifest);
            return Ok(false);
        };
        let changed: BTreeSet<_> = edit.add.iter().map(|entry| entry.partition).collect();
        let removed = edit.remove.iter().filter_map(|number| manifest.state().table(*number));
        let changed: BTreeSet<_> = removed.map(|entry| entry.partition).chain(changed).collect();
        let committed = match manifest.commit(edit).await {
            Err(error @ file::Error::Io { .. }) => {
                self.heal(&mut manifest, error).await;
                Ok(())
            }
            committed => committed,
        };
        if committed.is_ok() {
            let mut inside = self.0.borrow_mut();
            changed.into_iter().for_each(|id| inside.refresh(id, manifest.state()));
        }
        self.put_back(manifest);
        committed.map(|()| true).map_err(Error::from)
    }

    /// Goes on in a new file that has the edit which could not be written.
    async fn heal(&self, manifest: &mut Manifest<E>, error: file::Error) {
        let (env, dir) = self.here();
        // Once, and not for each of the tries to come.
        tracing::error!(%error, "the manifest can not be written; trying again");
        let mut error = Some(Error::from(error));
        while error.is_some() {
            error = manifest.renew().await.err().map(Error::from);
            if let Some(refused) = &error {
                let inside = &mut *self.0.borrow_mut();
                (inside.is_refused, inside.lacks_room) = (true, refused.is_disk_full());
            }
            if error.is_some() {
                // Writes that wait for a flush are refused while none can end.
                env.notify();
                self.until_retry(&env).await;
            }
        }
        {
            let inside = &mut *self.0.borrow_mut();
            (inside.is_refused, inside.lacks_room) = (false, false);
        }
        tracing::info!(dir = %dir.display(), "the manifest is whole again, in a new file");
    }

    /// Until an edit that was refused is tried again: a while, or until [`Store::look_again`].
    async fn until_retry(&self, env: &E) {
        let until = env.now() + RETRY_DELAY;
        while self.is_refused() && env.now() < until {
            env.sleep(LOOK_DELAY).await;
        }
    }

    /// There is room again: what was refused for want of it is tried soon, and counts as not
    /// refused until then.
    pub fn look_again(&self) {
        let inside = &mut *self.0.borrow_mut();
        if inside.lacks_room {
            (inside.is_refused, inside.lacks_room) = (false, false);
        }
    }

    /// The manifest, if no edit is being written: none is before [`Store::put_back`].
    pub fn try_take(&self) -> Option<Manifest<E>> {
        self.0.borrow_mut().manifest.take()
    }

    async fn take(&self) -> Manifest<E> {
        poll_fn(|cx| {
            let mut inside = self.0.borrow_mut();
            match inside.manifest.take() {
                Some(manifest) => Poll::Ready(manifest),
                None => {
                    inside.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Lets the next edit be written.
    pub fn put_back(&self, manifest: Manifest<E>) {
        let mut inside = self.0.borrow_mut();
        inside.manifest = Some(manifest);
        inside.waiting.drain(..).for_each(Waker::wake);
    }

    fn here(&self) -> (E, PathBuf) {
        let inside = self.0.borrow();
        (inside.env.clone(), inside.dir.clone())
    }
}

/// What was never made need not be removed.
fn if_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests;
