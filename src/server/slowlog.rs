//! The slow commands of one shard.
//!
//! What is measured is the time that a command held this core, as in Redis: not what it waited for
//! the log or for another core. A clock that is read per command costs more than a GET may lose, so
//! a plain command (one key, or of constant time) is timed only while the threshold is below
//! [`EACH_BELOW_US`]: above, nothing that it does by itself takes so long, since what is long goes
//! in slices ([`super::job`]), whose times are summed. A command for several keys, all keys or the
//! node is always timed.
//!
//! The part of a command that another shard runs is an entry of that shard; of its client the
//! address and the name are looked up there. EXEC is none, its commands are. The binary port's
//! requests are not in it.
//!
//! Bounds: `slowlog-max-len` entries, and [`HELD_LEN_MAX`] bytes; the oldest go first.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Server;
use super::node::Node;
use super::remote::Answered;
use super::round;
use crate::command::question::Slowlog;
use crate::command::slowlog::{Entry, shorten};
use crate::command::{Keyed, Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::Args;

/// Thresholds from which on plain commands are not timed, microseconds.
const EACH_BELOW_US: u64 = 1_000;

/// Bytes of the entries of a shard.
const HELD_LEN_MAX: usize = 4 << 20;

/// See the module's header.
#[derive(Default)]
pub struct SlowLog {
    /// From where on a command is slow; none: none is.
    threshold: Option<Duration>,
    /// From where on it is looked at, for this log or for LATENCY; none: none is.
    noted: Option<Duration>,
    /// Whether every command is timed.
    times_each: bool,
    len_max: usize,
    /// The newest last.
    entries: VecDeque<Entry>,
    held_len: usize,
}

impl SlowLog {
    /// Takes over what `CONFIG SET` said. `sampled`: from where on LATENCY tells of a command.
    pub fn configure(&mut self, node: &Node, sampled: Option<Duration>) {
        let us = u64::try_from(node.common.slow_us.load(Ordering::Relaxed)).ok();
        self.threshold = us.map(Duration::from_micros);
        self.noted = self.threshold.into_iter().chain(sampled).min();
        self.times_each = us.is_some_and(|us| us < EACH_BELOW_US);
        self.len_max = node.common.slow_len_max.load(Ordering::Relaxed) as usize;
    }

    /// Whether every command is timed alone.
    #[inline]
    pub fn times_each(&self) -> bool {
        self.times_each
    }

    /// Whether a command that took so long is looked at.
    #[inline]
    pub fn is_noted(&self, took: Duration) -> bool {
        self.noted.is_some_and(|noted| took >= noted)
    }

    /// Whether a command that took so long is an entry.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.threshold.is_some_and(|threshold| took >= threshold)
    }

    fn push(&mut self, entry: Entry) {
        self.held_len += entry.held_len();
        self.entries.push_back(entry);
        while self.entries.len() > self.len_max || self.held_len > HELD_LEN_MAX {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.held_len -= oldest.held_len();
        }
    }

    /// Bytes held.
    pub fn held_len(&self) -> usize {
        self.held_len
    }

    /// Answers a question.
    pub fn answer(&mut self, question: Slowlog) -> Answered {
        let mut answered = Answered::default();
        match question {
            Slowlog::Get(count) => {
                self.entries
                    .iter()
                    .rev()
                    .take(count)
                    .for_each(|entry| entry.write_to(&mut answered.body));
            }
            Slowlog::Len => answered.count = self.entries.len() as i64,
            Slowlog::Reset => {
                self.entries.clear();
                self.held_len = 0;
            }
        }
        answered
    }
}

impl<E: Env> Server<E> {
    /// Notes that a command of a connection of ours held this core for so long, if that is slow.
    #[inline]
    pub(super) fn note_slow_of(
        &mut self,
        index: u32,
        spec: &Spec,
        args: &Args<'_>,
        took: Duration,
    ) {
        // What another core runs, or this one in slices, is noted where and when it has run.
        let is_elsewhere = || {
            let one = matches!(spec.run, Run::Keyed(Keyed::One(_)));
            self.ledger.is_waiting() && (one || round::is_long(spec, args))
        };
        if self.slow.is_noted(took)
            && !is_elsewhere()
            && let Some(Some(conn)) = self.conns.get(index as usize)
        {
            self.note_slow((self.shard.id(), conn.id), spec, args, took);
        }
    }

    /// Notes that a command of a connection held this core for so long, if that is slow.
    pub(super) fn note_slow(
        &mut self,
        (shard, conn): (ShardId, ConnId),
        spec: &Spec,
        args: &Args<'_>,
        took: Duration,
    ) {
        // An EXEC's time is that of its commands.
        if !self.slow.is_noted(took) || spec.name == "exec" {
            return;
        }
        let unix_s = self.env.unix_ms() / 1000;
        self.latency.note(spec, took, unix_s);
        if !self.slow.is_slow(took) {
            return;
        }
        let (peer, name) = self.node.who_is(shard, conn);
        self.slow.push(Entry {
            id: self.node.common.slow_next.fetch_add(1, Ordering::Relaxed),
            unix_s,
            us: took.as_micros() as u64,
            args: shorten(spec, args),
            peer,
            name,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(len_max: usize) -> SlowLog {
        SlowLog { len_max, threshold: Some(Duration::from_micros(5)), ..SlowLog::default() }
    }

    fn entry(id: u64, len: usize) -> Entry {
        Entry { id, args: vec![vec![b'x'; len]; 32], ..Entry::default() }
    }

    #[test]
    fn a_command_is_slow_from_the_threshold_on() {
        let mut log = log(4);
        assert!(!log.is_slow(Duration::from_nanos(4_999)));
        assert!(log.is_slow(Duration::from_micros(5)));
        log.threshold = None;
        assert!(!log.is_slow(Duration::from_secs(100)));
    }

    #[test]
    fn the_oldest_entries_go_first_by_number_and_by_bytes() {
        let mut few = log(3);
        (0..10).for_each(|id| few.push(entry(id, 1)));
        assert_eq!(few.answer(Slowlog::Len).count, 3);
        assert_eq!(few.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [7, 8, 9]);
        few.answer(Slowlog::Reset);
        assert_eq!((few.held_len(), few.answer(Slowlog::Len).count), (0, 0));

        let mut many = log(65_536);
        (0..5_000).for_each(|id| many.push(entry(id, 128)));
        assert!(many.held_len() <= HELD_LEN_MAX, "{} bytes", many.held_len());
        assert!(many.entries.len() > 500, "{} entries", many.entries.len());
        assert_eq!(many.entries.back().map(|entry| entry.id), Some(4_999));
    }
}
