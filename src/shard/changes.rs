//! What was done to keys, for those who are told of it: kept from evaluation to commit.
//!
//! While nobody listens a command pays one branch here. Otherwise each change is queued with the
//! entry that carries it, in the order of evaluation, and handed out in that order when its entry
//! is committed and all changes before it are: nobody hears of what a crash could take back. The
//! queue is as long as what is not committed, which the backlog of the log bounds.
//!
//! A key whose time is over is there until it is deleted, by [`Shard::expire`] or by a write in
//! its place; that is when it counts as *expired*.
//!
//! Not here: who listens, and the channels of keyspace events ([`crate::server`]).

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{Shard, Target};
use crate::command::notify::{self, Classes, Event};
use crate::command::{Args, Spec, is_expired};
use crate::env::Env;
use crate::partition::Evaluated;

/// What was done to a key.
#[derive(Debug)]
pub struct Change {
    /// Encoded.
    pub key: Box<[u8]>,
    /// The keyspace events that are published of it, in order.
    pub events: SmallVec<[&'static str; 3]>,
    place: u32,
    /// The entry that carries it; 0: none does.
    entry: u64,
}

/// What a key was before it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Absent,
    Expired,
    There,
}

/// See the module's header.
#[derive(Default)]
pub(super) struct Changes {
    classes: Classes,
    queue: VecDeque<Change>,
}

impl Changes {
    /// Whether anybody is told of anything.
    pub fn are_observed(&self) -> bool {
        self.classes.is_on()
    }

    /// Forgets what is not committed: it will never be.
    pub fn abandon(&mut self) {
        self.queue.clear();
    }

    fn push(&mut self, (place, entry): (u32, u64), key: &[u8], names: &[(Classes, &'static str)]) {
        let told = names.iter().filter(|(class, _)| self.classes.has(*class));
        let events: SmallVec<_> = told.map(|(_, name)| *name).collect();
        if !events.is_empty() {
            self.queue.push_back(Change { key: key.into(), events, place, entry });
        }
    }
}

impl<E: Env> Shard<E> {
    /// From now on changes of these classes are handed out.
    pub fn observe(&mut self, classes: Classes) {
        self.changes.classes = classes;
    }

    /// The next change whose entry is committed.
    pub fn next_change(&mut self) -> Option<Change> {
        let Change { place, entry, .. } = self.changes.queue.front()?;
        let committed = self.partition(*place).committed().index >= *entry;
        committed.then(|| self.changes.queue.pop_front().expect("looked at"))
    }

    /// What a key is, before a change that is noted after.
    pub(super) fn before(&self, Target { place, hash, key }: Target<'_>) -> Before {
        match self.partition(place).find(hash, key).0 {
            None => Before::Absent,
            Some(version) if is_expired(version.expiry_ms, self.now_ms) => Before::Expired,
            Some(_) => Before::There,
        }
    }

    /// Notes what an evaluation did to its key.
    pub(super) fn note_evaluated(&mut self, target: Target<'_>, evaluated: &Evaluated) {
        let before = match (evaluated.hit, evaluated.expired) {
            (true, _) => Before::There,
            (_, true) => Before::Expired,
            _ => Before::Absent,
        };
        let entry = evaluated.hold.unwrap_or(0);
        self.note_change((target.place, entry), target.key, evaluated.event, before);
    }

    /// Notes that a command did not find the key that it reads.
    pub(super) fn note_miss(
        &mut self,
        Target { place, key, .. }: Target<'_>,
        (spec, args): (&Spec, &Args<'_>),
        hold: Option<u64>,
    ) {
        if self.changes.classes.has(Classes::KEY_MISS) && notify::is_read(spec, args) {
            let at = (place, hold.unwrap_or(0));
            self.changes.push(at, key, &[(Classes::KEY_MISS, "keymiss")]);
        }
    }

    /// Notes a change that the entry of a partition carries.
    pub(super) fn note_change(&mut self, at: (u32, u64), key: &[u8], event: Event, before: Before) {
        let deleted = matches!(event, Event::Delete | Event::RenameFrom | Event::Expired);
        let mut names: SmallVec<[_; 4]> = SmallVec::new();
        if !deleted && event != Event::None {
            if before == Before::Expired {
                names.extend_from_slice(Event::Expired.names());
            }
            if before != Before::There || event.replaces() {
                names.push((Classes::NEW, "new"));
            }
        }
        names.extend_from_slice(event.names());
        self.changes.push(at, key, &names);
    }
}
