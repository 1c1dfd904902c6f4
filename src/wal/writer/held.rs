//! The segments of the log, oldest first, and giving up those of which nothing is needed.
//!
//! A segment goes when the next one begins no later than the place from which the log is needed,
//! and that one's header is durable. It becomes a spare, if there is room for one; but only if it
//! was begun by this writer: a write of a process that was killed may still be on its way to an
//! older one; nor if it is shorter than new ones are. What became of a name matters to no replay
//! ([`crate::wal::walk::unneeded`]); so a refusal is no more than a warning, and one sync makes all
//! names of a release durable.

use std::collections::VecDeque;
use std::rc::Rc;

use super::{Shared, State};
use crate::env::{Class, Env};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;
use crate::wal::segments::{self, io};
use crate::wal::{Error, Options, Planted};

/// A segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    seq: u64,
    base: Lsn,
    /// Begun by this writer, and as long as new ones are.
    may_be_spare: bool,
}

/// See the module's header.
pub struct Held {
    /// Oldest first; the last one is the present one.
    segments: VecDeque<Segment>,
    needed_from: Lsn,
    /// A task is at work.
    is_releasing: bool,
}

impl Held {
    /// Those that a replay read.
    pub fn new(segments: &[(u64, Lsn)]) -> Self {
        let of = |&(seq, base)| Segment { seq, base, may_be_spare: false };
        let segments = segments.iter().map(of).collect();
        Self { segments, needed_from: Lsn(0), is_releasing: false }
    }

    /// The log goes on in segment `seq`, which `is_whole`: as long as new ones are.
    pub fn begin(&mut self, seq: u64, base: Lsn, is_whole: bool) {
        self.segments.push_back(Segment { seq, base, may_be_spare: is_whole });
    }

    /// Nothing before `needed_from` is needed.
    pub fn release(&mut self, needed_from: Lsn) {
        self.needed_from = self.needed_from.max(needed_from);
    }

    /// The segments that have the log between two places, by number, and the bytes of each up to
    /// the second.
    pub fn between(&self, from: Lsn, until: Lsn) -> impl Iterator<Item = (u64, u64)> {
        let ends = self.segments.iter().skip(1).map(|next| next.base).chain([until]);
        let of = self.segments.iter().zip(ends);
        let is_in = move |(segment, end): &(&Segment, Lsn)| *end >= from && segment.base < until;
        of.filter(is_in).map(move |(segment, end)| (segment.seq, end.min(until).0 - segment.base.0))
    }

    /// Bytes of the log from the oldest segment to `end`.
    pub fn len(&self, end: Lsn) -> u64 {
        self.segments.front().map_or(0, |oldest| end.0 - oldest.base.0)
    }

    /// Whether a task is at work.
    pub fn is_releasing(&self) -> bool {
        self.is_releasing
    }

    /// The oldest, if it can go from a log that is `durable`.
    fn unneeded(&self, durable: Lsn, options: &Options) -> Option<Segment> {
        let (oldest, next) = (self.segments.front()?, self.segments.get(1)?);
        let until = if options.has(Planted::ReleaseEarly) { oldest.base } else { next.base };
        let is_begun = next.base.0 + SECTOR_LEN as u64 <= durable.0;
        (until <= self.needed_from && is_begun).then_some(*oldest)
    }
}

impl<E: Env> State<E> {
    fn unneeded(&self) -> Option<Segment> {
        let may = !self.is_over();
        may.then(|| self.held.unneeded(self.in_flight.durable(), &self.options))?
    }
}

/// Sees to it that what is not needed goes.
pub fn see_to<E: Env>(env: &E, shared: &Shared<E>) {
    let mut state = shared.borrow_mut();
    if state.unneeded().is_some() && !std::mem::replace(&mut state.held.is_releasing, true) {
        env.spawn(Class::Background, run(env.clone(), Rc::clone(shared)));
    }
}

async fn run<E: Env>(env: E, shared: Shared<E>) {
    let result = release(&env, &shared).await;
    let mut state = shared.borrow_mut();
    state.held.is_releasing = false;
    if let Err(error) = result {
        tracing::warn!(shard = state.options.shard.0, %error, "log segments stay for now");
    }
    state.wake_closer();
}

/// Takes away the names of all that can go, then makes that durable.
async fn release<E: Env>(env: &E, shared: &Shared<E>) -> Result<(), Error> {
    let mut spares = Vec::new();
    let dir = shared.borrow().options.dir.clone();
    while let Some(Job { segment, spare }) = job(shared, spares.len()) {
        let path = segments::path(&dir, segment.seq);
        let (op, result) = match spare {
            Some(number) => {
                ("rename", env.rename(&path, &dir.join(segments::spare_name(number))).await)
            }
            None => ("remove", env.remove(&path).await),
        };
        match result {
            Ok(()) => spares.extend(spare),
            // An attempt that was said to have failed had not.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return io(op, &path, Err(error)),
        }
        shared.borrow_mut().held.segments.pop_front();
    }
    io("sync", &dir, env.sync_dir(&dir).await)?;
    let mut state = shared.borrow_mut();
    spares.into_iter().for_each(|number| state.next.add_spare(number));
    Ok(())
}

struct Job {
    segment: Segment,
    /// The number of the spare to make of it; none: it is removed.
    spare: Option<u64>,
}

/// The next to go, when `made` spares have been made of those before.
fn job<E: Env>(shared: &Shared<E>, made: usize) -> Option<Job> {
    let mut state = shared.borrow_mut();
    let segment = state.unneeded()?;
    let is_wanted = segment.may_be_spare && state.next.has_room(made);
    Some(Job { segment, spare: is_wanted.then(|| state.next.name()) })
}
