//! A copy of a shard's directory while it runs: what a power cut at one moment would leave.
//!
//! Every partition is flushed first, so that little of the log is needed. Then the manifest is kept
//! from changing, so that no table loses its name and the log is not released; the tables that it
//! names get a second name each, it is written anew beside them, and the end of the log, up to
//! where it is durable, is copied. So the copy has every write that was acknowledged before, and of
//! no later entry a part: its start replays the log as any start does.
//!
//! The tables cost no room until compaction replaces them here.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use super::checkpoint::{Awaited, Made};
use super::store::Store;
use super::{Error, Ground, Options, Tree};
use crate::env::{Class, Env};
use crate::lsm::manifest::file::{self, Manifest};
use crate::lsm::table;
use crate::wal::{self, Extent};

/// How a copy ended, once it has.
type End = Rc<RefCell<Option<Result<(), Error>>>>;

/// Where a copy goes.
#[derive(Clone, Debug)]
pub struct CopyTo {
    /// The tables, and the manifest.
    pub tree: PathBuf,
    /// The log.
    pub log: PathBuf,
}

/// A copy that waits for its flushes.
pub(super) struct Copying<E: Env> {
    to: CopyTo,
    flushes: Vec<Awaited<Made<E>>>,
    end: End,
}

impl<E: Env> Tree<E> {
    /// Begins a copy; `committed`: by place, the entries that have to be in it. One at a time.
    pub fn copy_to(
        &mut self,
        to: CopyTo,
        committed: impl Iterator<Item = u64>,
    ) -> Awaited<Result<(), Error>> {
        if self.copying.is_some() {
            let cause = "another copy has not ended".to_owned();
            return Awaited::of(Err(Error::NoCheckpoint { cause }));
        }
        let flushes = (0..).zip(committed).map(|(place, index)| self.checkpoint(place, index));
        let (flushes, end) = (flushes.collect(), End::default());
        self.copying = Some(Copying { to, flushes, end: Rc::clone(&end) });
        Awaited::until(end)
    }

    /// Goes on with the copy that is on its way.
    pub(super) fn tend_copy(&mut self, ground: &Ground<'_, E>) {
        let Some(copying) = &mut self.copying else { return };
        let mut failed = None;
        copying.flushes.retain(|flush| match flush.take() {
            None => true,
            Some(made) => {
                failed = made.err().or(failed.take());
                false
            }
        });
        if let Some(error) = failed {
            return self.end_copy(Err(error));
        }
        let is_flushed = copying.flushes.is_empty();
        // While it is being written: who writes it notifies the loop.
        let Some(manifest) = is_flushed.then(|| self.store.try_take()).flatten() else { return };
        let Some(Copying { to, end, .. }) = self.copying.take() else { return };
        let log = ground.log.extents(manifest.state().shard().log_from);
        let (env, store, options) = (self.env.clone(), self.store.clone(), self.options.clone());
        self.env.spawn(Class::Background, async move {
            let copied = copy(&env, &store, &options, &manifest, &to, &log).await;
            store.put_back(manifest);
            *end.borrow_mut() = Some(copied);
            env.notify();
        });
    }

    pub(super) fn end_copy(&mut self, ended: Result<(), Error>) {
        if let Some(Copying { end, .. }) = self.copying.take() {
            *end.borrow_mut() = Some(ended);
            self.env.notify();
        }
    }
}

async fn copy<E: Env>(
    env: &E,
    store: &Store<E>,
    options: &Options,
    manifest: &Manifest<E>,
    to: &CopyTo,
    log: &[Extent],
) -> Result<(), Error> {
    let io = |op, result: std::io::Result<()>| {
        result.map_err(|source| Error::Io { op, path: to.tree.clone(), source })
    };
    io("create", env.create_dir(&to.tree).await)?;
    for entry in manifest.state().tables() {
        let number = entry.meta.number;
        let link = to.tree.join(table::file_name(number));
        io("link a table to", env.link(&store.path_of(number), &link).await)?;
        env.yield_now().await;
    }
    let of = file::Options { dir: to.tree.clone(), log: options.log };
    file::write_copy(env, &of, manifest.state()).await?;
    Ok(wal::copy(env, log, &to.log).await?)
}
