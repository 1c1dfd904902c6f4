//! The tables and the manifest of a shard, as its tasks share them.
//!
//! One edit is written at a time; who comes meanwhile waits. What an edit says is decided when its
//! turn comes, on the state that it changes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Error;
use crate::env::Env;
use crate::lsm::manifest::file::Manifest;
use crate::lsm::manifest::{Edit, State};
use crate::lsm::table;

struct Inside<E: Env> {
    env: E,
    dir: PathBuf,
    /// None while an edit is being written, and for ever after one failed.
    manifest: Option<Manifest<E>>,
    waiting: Vec<Waker>,
    failed: bool,
}

/// See the module's header. A handle.
pub struct Store<E: Env>(Rc<RefCell<Inside<E>>>);

impl<E: Env> Clone for Store<E> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<E: Env> Store<E> {
    /// Of the manifest in `dir`, where the tables are as well.
    pub fn new(env: &E, dir: &Path, manifest: Manifest<E>) -> Self {
        let inside = Inside {
            env: env.clone(),
            dir: dir.to_owned(),
            manifest: Some(manifest),
            waiting: Vec::new(),
            failed: false,
        };
        Self(Rc::new(RefCell::new(inside)))
    }

    /// Where table `number` is.
    pub fn path_of(&self, number: u64) -> PathBuf {
        self.0.borrow().dir.join(table::file_name(number))
    }

    /// What the manifest says; `None` while it is being written.
    pub fn look<T>(&self, at: impl FnOnce(&State) -> T) -> Option<T> {
        self.0.borrow().manifest.as_ref().map(|manifest| at(manifest.state()))
    }

    /// What tables are, by their numbers, as far as they count.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn metas(&self, numbers: &[u64]) -> Result<Vec<table::Meta>, Error> {
        let manifest = self.take().await?;
        let entries = numbers.iter().filter_map(|number| manifest.state().table(*number));
        let metas = entries.map(|entry| entry.meta.clone()).collect();
        self.put_back(Some(manifest));
        Ok(metas)
    }

    /// Whether no edit is taken any more.
    pub fn has_failed(&self) -> bool {
        self.0.borrow().failed
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
            if let Err(error) = env.remove(&path).await {
                tracing::warn!(path = %path.display(), %error, "a table is not needed and stays");
            }
        }
    }

    /// Writes the edit that `decide` makes of the present state; durable when this ends. False: it
    /// made none.
    ///
    /// # Errors
    /// As the disk's, and [`Error::Stopped`] after one: what the manifest says is not known then.
    pub async fn commit(&self, decide: impl FnOnce(&State) -> Option<Edit>) -> Result<bool, Error> {
        let mut manifest = self.take().await?;
        let Some(edit) = decide(manifest.state()) else {
            self.put_back(Some(manifest));
            return Ok(false);
        };
        let committed = manifest.commit(edit).await;
        self.put_back(committed.is_ok().then_some(manifest));
        committed.map(|()| true).map_err(Error::from)
    }

    async fn take(&self) -> Result<Manifest<E>, Error> {
        poll_fn(|cx| {
            let mut inside = self.0.borrow_mut();
            match inside.manifest.take() {
                Some(manifest) => Poll::Ready(Ok(manifest)),
                None if inside.failed => Poll::Ready(Err(Error::Stopped)),
                None => {
                    inside.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn put_back(&self, manifest: Option<Manifest<E>>) {
        let mut inside = self.0.borrow_mut();
        inside.failed = manifest.is_none();
        inside.manifest = manifest;
        inside.waiting.drain(..).for_each(Waker::wake);
    }

    fn here(&self) -> (E, PathBuf) {
        let inside = self.0.borrow();
        (inside.env.clone(), inside.dir.clone())
    }
}
