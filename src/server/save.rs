//! BGSAVE: a copy of the data directory in `checkpoints/<unix-ms>/` of it, made by all shards.
//!
//! Whoever takes the command says which copy is wanted; each shard sees it at its next tick and
//! copies its own part ([`Shard::copy_to`](crate::shard::Shard::copy_to)) under a passing name, and
//! the last one to end gives the directory its identity and its name. So a directory without
//! `.tmp` is whole: `stave serve --data-dir` starts from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::Server;
use super::node::Common;
use super::start::{log_dir, tree_dir};
use crate::env::{Class, Env};
use crate::shard::{Awaited, CopyTo, TreeError};

/// What all shards know of copies.
#[derive(Default)]
pub struct Save {
    /// When the newest was asked for, unix milliseconds: its name.
    wanted: AtomicU64,
    /// Shards that have not ended it, and one for the end of all.
    left: AtomicU32,
    has_failed: AtomicBool,
    /// When the last one that succeeded was asked for.
    saved_ms: AtomicU64,
    /// How many did, and how long the last of them took.
    saves: AtomicU64,
    took_ms: AtomicU64,
}

impl Save {
    /// Asks for a copy. False: one is on its way.
    pub fn begin(&self, now_ms: u64, shards: usize) -> bool {
        let shares = shards as u32 + 1;
        let begun = self.left.compare_exchange(0, shares, Ordering::AcqRel, Ordering::Relaxed);
        if begun.is_ok() {
            self.has_failed.store(false, Ordering::Relaxed);
            let last = self.wanted.load(Ordering::Relaxed);
            self.wanted.store(now_ms.max(last + 1), Ordering::Release);
        }
        begun.is_ok()
    }

    /// Whether one is on its way.
    pub fn is_going(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }

    /// Whether the last one failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// When the last that succeeded was asked for, unix milliseconds.
    pub fn saved_ms(&self) -> Option<u64> {
        Some(self.saved_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// How many succeeded.
    pub fn saves(&self) -> u64 {
        self.saves.load(Ordering::Relaxed)
    }

    /// Whole seconds that the last of them took; -1: none did.
    pub fn took_s(&self) -> i64 {
        let took_s = self.took_ms.load(Ordering::Relaxed) / 1000;
        self.saved_ms().map_or(-1, |_| took_s as i64)
    }

    /// Whole seconds since the one that is on its way was asked for; -1: none is.
    pub fn going_s(&self, now_ms: u64) -> i64 {
        let since_ms = now_ms.saturating_sub(self.wanted.load(Ordering::Relaxed));
        if self.is_going() { (since_ms / 1000) as i64 } else { -1 }
    }

    /// A shard has ended. True: it was the last.
    fn end_one(&self, has_failed: bool) -> bool {
        self.has_failed.fetch_or(has_failed, Ordering::Relaxed);
        self.left.fetch_sub(1, Ordering::AcqRel) == 2
    }
}

/// A shard's part in the copy that is on its way.
#[derive(Default)]
pub(super) struct Saving {
    seen: u64,
    copy: Option<Awaited<Result<(), TreeError>>>,
}

impl<E: Env> Server<E> {
    /// Begins and ends this shard's part of a copy.
    pub(super) fn look_at_save(&mut self) {
        let common = Arc::clone(&self.node.common);
        let wanted = common.save.wanted.load(Ordering::Acquire);
        let dir = dir_of(&common.data_dir, wanted, ".tmp");
        if wanted != self.saving.seen {
            let id = self.shard.id();
            let to = CopyTo { tree: tree_dir(&dir, id), log: log_dir(&dir, id) };
            self.saving = Saving { seen: wanted, copy: Some(self.shard.copy_to(to)) };
        }
        let Some(end) = self.saving.copy.as_ref().and_then(Awaited::take) else { return };
        self.saving.copy = None;
        if let Err(error) = &end {
            tracing::error!(shard = self.shard.id().0, %error, "a copy for BGSAVE failed");
        }
        if !common.save.end_one(end.is_err()) {
            return;
        }
        let env = self.env.clone();
        self.env.spawn(Class::Background, async move {
            finish(&env, &common, &dir, wanted).await;
            common.save.left.store(0, Ordering::Release);
        });
    }
}

/// All shards have ended: the copy is a data directory, if none failed.
async fn finish<E: Env>(env: &E, common: &Common, dir: &Path, wanted: u64) {
    if common.save.has_failed() {
        return;
    }
    match name(env, &common.data_dir, dir, wanted).await {
        Ok(path) => {
            let took_ms = env.unix_ms().saturating_sub(wanted);
            common.save.took_ms.store(took_ms, Ordering::Relaxed);
            common.save.saves.fetch_add(1, Ordering::Relaxed);
            common.save.saved_ms.store(wanted, Ordering::Relaxed);
            tracing::info!(path = %path.display(), "a copy of the data directory is whole");
        }
        Err(error) => {
            common.save.has_failed.store(true, Ordering::Relaxed);
            tracing::error!(path = %dir.display(), %error, "a copy for BGSAVE failed");
        }
    }
}

async fn name<E: Env>(
    env: &E,
    data_dir: &Path,
    dir: &Path,
    wanted: u64,
) -> std::io::Result<PathBuf> {
    // Written once, at the birth of the directory.
    env.link(&data_dir.join(IDENTITY), &dir.join(IDENTITY)).await?;
    env.sync_dir(dir).await?;
    let path = dir_of(data_dir, wanted, "");
    env.rename(dir, &path).await?;
    env.sync_dir(&data_dir.join(CHECKPOINTS)).await?;
    Ok(path)
}

/// What a data directory is: a file in it, written once.
pub const IDENTITY: &str = "identity.toml";
const CHECKPOINTS: &str = "checkpoints";

fn dir_of(data_dir: &Path, wanted: u64, suffix: &str) -> PathBuf {
    data_dir.join(CHECKPOINTS).join(format!("{wanted}{suffix}"))
}
