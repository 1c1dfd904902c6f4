//! What was done to keys, for those who are told of it: kept from evaluation to commit.
//!
//! While nobody listens a command pays one branch here. Otherwise each change is queued with the
//! entries that carry it, in the order of evaluation, and handed out in that order when they are
//! committed and all changes before it are: nobody hears of what a crash could take back. The
//! queue is as long as what is not committed, which the backlog of the log bounds.
//!
//! Who read the key is taken from the table of readers when the change is evaluated. A read that
//! comes after that sees the change, so its reader need not be told; its reply leaves when the
//! change is committed, before the change is told to those who read earlier.
//!
//! A key whose time is over is there until it is deleted, by [`Shard::expire`] or by a write in
//! its place; that is when it counts as *expired*.
//!
//! Not here: who listens, and the channels of keyspace events ([`crate::server`]).

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::tracked::{Client, Readers, Tracked};
use super::{Holds, Planted, Shard, Target};
use crate::command::notify::{self, Classes, Event};
use crate::command::{Args, Flags, Spec, is_expired};
use crate::env::Env;
use crate::partition::Evaluated;

/// The part of a shard's memory that its table of readers may take: one in so many bytes.
const TRACKED_SHARE: usize = 16;

/// Names of keyspace events.
type Names = SmallVec<[&'static str; 3]>;

/// What was done to a key, or to all.
#[derive(Debug, Default)]
pub struct Change {
    /// Encoded; none: all keys were deleted at once.
    pub key: Option<Box<[u8]>>,
    /// The keyspace events that are published of it, in order.
    pub events: Names,
    /// Who read the key and has not been told of a change since.
    pub readers: Readers,
    /// Whether the key may hold something else now.
    pub is_write: bool,
    /// Whose command it was; none: the node's own.
    pub by: Option<Client>,
    holds: Holds,
}

/// What a key was before it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Absent,
    Expired,
    There,
}

/// Whose command is being evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The connection.
    pub client: Client,
    /// It is to be told when keys change that the command reads.
    pub remembers: bool,
}

/// Who is told of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observers {
    /// The keyspace events that are published.
    pub classes: Classes,
    /// Whether any connection of the node tracks keys.
    pub tracking: bool,
    /// Whether one of them is told of keys that it did not read.
    pub broadcast: bool,
}

/// See the module's header.
pub(super) struct Changes {
    observers: Observers,
    are_observed: bool,
    caller: Option<Caller>,
    tracked: Tracked,
    tracked_len_max: usize,
    queue: VecDeque<Change>,
    /// Readers are to be told that the next changes will be known to another node.
    has_lost: bool,
}

impl Changes {
    /// None; `seed` is for the table of readers, `memory_max` bounds it.
    pub fn new(seed: u64, memory_max: usize) -> Self {
        Self {
            observers: Observers::default(),
            are_observed: false,
            caller: None,
            tracked: Tracked::new(seed),
            tracked_len_max: memory_max / TRACKED_SHARE,
            queue: VecDeque::new(),
            has_lost: false,
        }
    }

    /// Whether anybody is told of anything.
    pub fn are_observed(&self) -> bool {
        self.are_observed
    }

    /// What is not committed will never be: no events. That readers are told does no harm.
    pub fn abandon(&mut self) {
        self.lose(|_| true);
    }

    /// As [`Changes::abandon`], of what the partition at `place` has not committed: this node does
    /// not lead it any more.
    pub fn abandon_at(&mut self, place: u32, committed: u64) {
        self.lose(|holds| holds.iter().any(|(at, entry)| at == place && entry > committed));
    }

    fn lose(&mut self, is_lost: impl Fn(&Holds) -> bool) {
        for change in self.queue.iter_mut().filter(|change| is_lost(&change.holds)) {
            change.events.clear();
            change.holds = Holds::default();
        }
        self.has_lost |= self.observers.tracking;
    }

    /// Forgets who read what, and what is to be told to whom; all of them.
    fn take_readers(&mut self) -> Readers {
        let mut readers = self.tracked.take_readers();
        readers
            .extend(self.queue.iter_mut().flat_map(|change| std::mem::take(&mut change.readers)));
        readers
    }

    fn told(&self, names: &[(Classes, &'static str)]) -> Names {
        let told = names.iter().filter(|(class, _)| self.observers.classes.has(*class));
        told.map(|(_, name)| *name).collect()
    }

    fn remember(&mut self, key: &[u8], reader: Client) -> u64 {
        self.tracked.remember(key, reader);
        let mut evicted = 0;
        while self.tracked.held_len() > self.tracked_len_max
            && let Some((key, readers)) = self.tracked.take_oldest()
        {
            let key = Some(key.as_ref().into());
            self.queue.push_back(Change { key, readers, ..Change::default() });
            evicted += 1;
        }
        evicted
    }
}

/// Keys that are looked at in a turn for readers that are gone: some 100 us.
const READERS_SWEPT_MAX: usize = 1024;

/// For the server.
impl<E: Env> Shard<E> {
    /// From now on these are told.
    pub fn observe(&mut self, observers: Observers) {
        self.changes.observers = observers;
        self.changes.are_observed = observers.classes.is_on() || observers.tracking;
        if !observers.tracking {
            self.changes.caller = None;
            if self.changes.tracked.count() > 0 {
                self.changes.tracked.clear();
            }
        }
    }

    /// Whether anybody is told of changes, and so whose command it is has to be known.
    pub fn is_observed(&self) -> bool {
        self.changes.are_observed
    }

    /// The next commands are evaluated for this connection; none: for the node itself.
    pub fn set_caller(&mut self, caller: Option<Caller>) {
        self.changes.caller = caller;
    }

    /// For whom commands are evaluated.
    pub fn caller(&self) -> Option<Caller> {
        self.changes.caller
    }

    /// A connection that read keys here, and will read no more, is to be forgotten.
    pub fn forget_reader(&mut self, gone: Client) {
        self.changes.tracked.forget(gone);
    }

    /// Goes through some of the keys that were read, for readers that are gone.
    pub fn sweep_readers(&mut self) {
        self.changes.tracked.sweep(READERS_SWEPT_MAX);
    }

    /// The next change that is committed.
    pub fn next_change(&mut self) -> Option<Change> {
        let first = self.changes.queue.front()?;
        let committed = |place| self.partition(place).committed().index;
        let is_due = first.holds.iter().all(|(place, entry)| committed(place) >= entry);
        if is_due { self.changes.queue.pop_front() } else { None }
    }

    /// If leadership was lost, of any partition: whoever has read anything is to forget everything
    /// before the next change is told. Who leads now does not know them.
    pub fn tell_lost_readers(&mut self) {
        if std::mem::take(&mut self.changes.has_lost) {
            let readers = self.changes.take_readers();
            let change = Change { is_write: true, readers, ..Change::default() };
            self.changes.queue.push_front(self.of_all(change));
        }
    }

    /// A change of all keys: the node's own connections are told anyway, others once each.
    fn of_all(&self, mut change: Change) -> Change {
        let readers = &mut change.readers;
        readers.retain(|reader| reader.shard.0 >= self.map.shard_count());
        readers.sort_unstable_by_key(Client::order);
        readers.dedup();
        change
    }

    /// Keys whose readers are known, and about the bytes that this takes.
    pub fn tracked(&self) -> (usize, usize) {
        (self.changes.tracked.count(), self.changes.tracked.held_len())
    }
}

/// For the shard.
impl<E: Env> Shard<E> {
    /// What a key is, before a change that is noted after.
    pub(super) fn before(&self, Target { place, hash, key }: Target<'_>) -> Before {
        match self.partition(place).find(hash, key).0 {
            None => Before::Absent,
            Some(version) if is_expired(version.expiry_ms, self.now_ms) => Before::Expired,
            Some(_) => Before::There,
        }
    }

    /// Notes that a command has looked a key up, and whether it was there.
    pub(super) fn note_lookup(
        &mut self,
        Target { place, key, .. }: Target<'_>,
        (spec, args): (&Spec, &Args<'_>),
        (hit, hold): (bool, Option<u64>),
    ) {
        let forgets = self.planted == Some(Planted::ForgetReader) && hold.is_some();
        if let Some(Caller { client, remembers: true }) = self.changes.caller
            && spec.flags.has(Flags::READONLY)
            && !forgets
        {
            let evicted = self.changes.remember(key, client);
            self.stats.tracked_evicted.add(evicted);
        }
        let tells_misses = self.changes.observers.classes.has(Classes::KEY_MISS);
        if !hit && tells_misses && notify::is_read(spec, args) {
            let mut holds = Holds::default();
            hold.into_iter().for_each(|entry| holds.add(place, entry));
            let events = self.changes.told(&[(Classes::KEY_MISS, "keymiss")]);
            let key = Some(key.into());
            self.changes.queue.push_back(Change { key, events, holds, ..Change::default() });
        }
    }

    /// Notes what an evaluation did to its key.
    pub(super) fn note_evaluated(&mut self, target: Target<'_>, evaluated: &Evaluated) {
        let before = match (evaluated.hit, evaluated.expired) {
            (true, _) => Before::There,
            (_, true) => Before::Expired,
            _ => Before::Absent,
        };
        if evaluated.event != Event::None {
            self.note_change((target.place, evaluated.hold), target.key, evaluated.event, before);
        }
    }

    /// Notes a change of a key, which an entry of a partition carries.
    pub(super) fn note_change(
        &mut self,
        (place, entry): (u32, Option<u64>),
        key: &[u8],
        event: Event,
        before: Before,
    ) {
        let mut names: SmallVec<[_; 4]> = SmallVec::new();
        if !event.is_deletion() {
            if before == Before::Expired {
                names.extend_from_slice(Event::Expired.names());
            }
            if before != Before::There || event.replaces() {
                names.push((Classes::NEW, "new"));
            }
        }
        names.extend_from_slice(event.names());
        let changes = &mut self.changes;
        let (events, readers) = (changes.told(&names), changes.tracked.take(key));
        if events.is_empty() && readers.is_empty() && !changes.observers.broadcast {
            return;
        }
        let mut holds = Holds::default();
        entry.into_iter().for_each(|entry| holds.add(place, entry));
        let (by, key) = (changes.caller.map(|caller| caller.client), Some(key.into()));
        changes.queue.push_back(Change { key, events, readers, is_write: true, by, holds });
    }

    /// Notes that keys whose time was over are deleted.
    pub(super) fn note_expired(&mut self, place: u32, keys: &[Vec<u8>]) {
        let newest = self.partition(place).newest_uncommitted();
        for key in keys {
            self.note_change((place, newest), key, Event::Expired, Before::Expired);
        }
    }

    /// Notes that keys were deleted to give others room.
    pub(super) fn note_evicted(&mut self, place: u32, keys: &[Vec<u8>]) {
        let newest = self.partition(place).newest_uncommitted();
        for key in keys {
            self.note_change((place, newest), key, Event::Evicted, Before::There);
        }
    }

    /// Notes that all keys, or those of a database, are deleted.
    pub fn note_clear(&mut self) {
        if !self.changes.observers.tracking {
            return;
        }
        let mut holds = Holds::default();
        self.uncommitted(|place, entry| holds.add(place, entry));
        self.note_clear_at(holds);
    }

    /// As [`Shard::note_clear`], of deletions in these entries.
    pub(super) fn note_clear_at(&mut self, holds: Holds) {
        let readers = self.changes.tracked.take_readers();
        let change = Change { is_write: true, readers, holds, ..Change::default() };
        self.changes.queue.push_back(self.of_all(change));
    }
}
