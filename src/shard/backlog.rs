//! Room in the log: what is appended and not durable, or in no table, has a limit, and who writes
//! waits at it, in order. Reads go on meanwhile, however long the disk takes.
//!
//! Not here: who waits, and how ([`super::seek`], [`crate::server`]).

use std::collections::VecDeque;

use super::Shard;
use super::seek::Wait;
use crate::command::{Access, Spec};
use crate::env::Env;

/// Writes wait while this much of the log is not durable, bytes.
const BACKLOG_MAX: usize = 16 << 20;

/// Who waits for the log.
#[derive(Default)]
pub(super) struct Backlog {
    /// Whoever comes to write waits.
    holds: bool,
    /// And for how many bytes.
    waits: VecDeque<(Wait, usize)>,
}

impl Backlog {
    #[inline]
    pub fn holds(&self) -> bool {
        self.holds
    }
}

impl<E: Env> Shard<E> {
    /// Whether so much of the log is not durable, or in no table, that writes have to wait.
    pub fn is_backlogged(&self) -> bool {
        // A log that failed never catches up; what is committed can still be read.
        self.failed.is_none()
            && (self.log.backlog_len() > BACKLOG_MAX || self.tree.is_behind(self.log.appended()))
    }

    /// Bytes appended to the log and not yet durable.
    pub fn backlog_len(&self) -> usize {
        self.log.backlog_len()
    }

    /// Has writes wait from here on, or lets go on whom there is room for: for the beginning of a
    /// turn, and between its rounds.
    pub fn look_at_log(&mut self) {
        // Nobody waits to be told that it is refused.
        let refuses = self.failed.is_some() || self.is_disk_full();
        let is_behind = !refuses && self.is_backlogged();
        if !is_behind && !self.backlog.waits.is_empty() {
            let left = BACKLOG_MAX.saturating_sub(self.log.backlog_len());
            self.let_writers_go(if refuses { usize::MAX } else { left });
        }
        self.backlog.holds = is_behind || !self.backlog.waits.is_empty();
    }

    /// The first ones, of as many bytes together. The others come next, and before those who come.
    fn let_writers_go(&mut self, mut left: usize) {
        while left > 0
            && let Some((wait, len)) = self.backlog.waits.pop_front()
        {
            if wait.is_wanted() {
                left = left.saturating_sub(len);
                wait.give(|room| &mut room.log);
                wait.end(None);
            }
        }
        self.env.notify();
    }

    /// Whether a command whose arguments have `len` bytes may write to the log, or does not. If
    /// not, `wait` ends when it may be asked again.
    pub(super) fn seek_log(&mut self, spec: &Spec, len: usize, wait: &Wait) -> bool {
        let writes = spec.access == Access::Write;
        if !self.backlog.holds || !writes || wait.given().log || self.admit(spec).is_err() {
            return true;
        }
        if wait.begin_for(|room| &mut room.log) {
            self.backlog.waits.push_back((wait.clone(), len));
            self.stats.writes_slowed.add(1);
        }
        false
    }
}
