//! Walks over many keys, or over keys that only tables have: a job that looks at a piece per slice,
//! others in between, and holds what it found until it is through.
//!
//! Where all rows are in memory it goes by the index of the memtable, elsewhere page by page
//! ([`Listing`]), and waits for each.
//!
//! Bounds: a sweep that found more than [`KEYS_LEN_MAX`] bytes says so instead of going on.

use super::Server;
use super::keyspace::{bulk, write_scanned};
use super::remote::{Address, Answered, LEADS_NO_MORE};
use super::stride::{Stride, Strode};
use crate::command::{Keyspace, Scan, glob};
use crate::env::Env;
use crate::id::{PartitionId, ShardId, Slot, Timestamp};
use crate::lsm::key;
use crate::protocol::resp::{Args, Proto, Reply};
use crate::shard::{Cursor, Listed, Listing, Scope, user_key};

/// Bytes of keys of one shard that one command may gather.
const KEYS_LEN_MAX: usize = 64 << 20;

/// Keys of a slice of a sweep: some 200 us of work.
const SLICE_KEYS: usize = 1024;

/// Keys of which RANDOMKEY takes one.
const CHOICE_KEYS: usize = 64;

/// How far a walk over a shard's keys is, and what it found.
#[derive(Default)]
pub(super) struct Sweep {
    cursor: Option<Cursor>,
    /// The next key, encoded, of a walk in order.
    from: Vec<u8>,
    /// The page that it waits for.
    listing: Option<Listing>,
    stride: Option<Box<Stride>>,
    /// Of which partition the pages are.
    place: u32,
    /// Of RANDOMKEY: its number, and that it has begun at the beginning.
    random: Option<(i64, bool)>,
    /// Of FLUSHDB: the newest version in each partition when it began; newer ones stay.
    began: Vec<Timestamp>,
    body: Vec<u8>,
    count: i64,
}

/// How a slice ended.
pub(super) enum Slice {
    /// It waits for the disk.
    Waits,
    /// There is more.
    More,
    /// That was the last.
    Last,
    /// It can not go on: the text of an error reply.
    Failed(String),
}

/// A command that sweeps, and what it needs to be told.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub what: Keyspace,
    pub args: &'a Args<'a>,
    pub db: u8,
    pub proto: Proto,
    pub scope: &'a Scope,
}

impl<E: Env> Server<E> {
    /// A slice of a sweep; answered after the last.
    pub(super) fn sweep_slice(
        &mut self,
        sweep: &mut Sweep,
        (from, address): (ShardId, Address),
        asked: Asked<'_>,
    ) -> Slice {
        let slice = match asked.what {
            _ if !self.leads_scope(asked.scope) => {
                Slice::Failed(format!("TRYAGAIN {LEADS_NO_MORE}"))
            }
            Keyspace::Scan(scan) => self.sweep_scan(sweep, scan, asked),
            Keyspace::Random => self.sweep_random(sweep, asked),
            Keyspace::FlushDb => self.sweep_away(sweep, asked),
            Keyspace::CountInSlot(slot) => self.sweep_slot(sweep, slot, usize::MAX, asked),
            Keyspace::KeysInSlot(slot, count) => self.sweep_slot(sweep, slot, count, asked),
            _ => self.sweep_keys(sweep, asked),
        };
        let is_full = sweep.body.len() > KEYS_LEN_MAX;
        let mut answered = Answered { count: sweep.count, ..Answered::default() };
        match &slice {
            Slice::Failed(error) => answered.body = format!("-{error}\r\n").into_bytes(),
            _ if is_full => {
                let text = b"-ERR the reply would be longer than 64 MiB: use SCAN\r\n";
                answered.body = text.to_vec();
            }
            Slice::Last => answered.body = std::mem::take(&mut sweep.body),
            Slice::Waits | Slice::More => return slice,
        }
        self.shard.uncommitted(|place, entry| answered.holds.add(place, entry));
        self.answer(from, address, answered);
        Slice::Last
    }

    /// The next page of the partition at `sweep.place`, from `sweep.from` on. None: it waits.
    fn next_page(
        &mut self,
        sweep: &mut Sweep,
        limit: usize,
        each: impl FnMut(&[u8], Timestamp),
    ) -> Option<Result<Option<Vec<u8>>, String>> {
        let (place, from) = (sweep.place, &sweep.from);
        let listing = sweep.listing.get_or_insert_with(|| self.shard.list(place, from, limit));
        let listed = match self.shard.take_listed(listing, each) {
            Listed::Not => return None,
            Listed::To(next) => Ok(next),
            Listed::Failed(error) => Err(error),
        };
        sweep.listing = None;
        Some(listed)
    }

    fn sweep_scan(&mut self, sweep: &mut Sweep, scan: Scan, asked: Asked<'_>) -> Slice {
        let mut cursor = Cursor::decode(scan.cursor);
        if asked.scope.is_empty() {
            write_scanned(&mut sweep.body, 0, 0, &mut Vec::new());
            return Slice::Last;
        }
        if let Some(first) = asked.scope.named().first().filter(|id| id.0 != cursor.partition) {
            cursor = Cursor::at(first.0);
        }
        let mut stride = match sweep.stride.take() {
            Some(stride) => stride,
            None => Box::new(self.begin_stride(cursor, asked.db, scan.count)),
        };
        let next = match self.go_on(&mut stride) {
            Strode::Not => {
                sweep.stride = Some(stride);
                return Slice::Waits;
            }
            Strode::Failed(error) => return Slice::Failed(error),
            Strode::To(next) => self.encode_next(next),
        };
        let pattern = scan.pattern.map(|at| asked.args.get(at));
        let fits = |key: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, key, false));
        let (mut keys, mut count) = (Vec::new(), 0);
        for name in stride.found.iter().filter(|name| scan.strings && fits(name)) {
            bulk(&mut keys, name);
            count += 1;
        }
        write_scanned(&mut sweep.body, next, count, &mut keys);
        Slice::Last
    }

    /// A cursor as clients see it: behind the last partition of this shard is the next shard.
    pub(super) fn encode_next(&self, next: Cursor) -> u64 {
        let end = self.shard.map().partitions_of(self.shard.id()).end;
        if next.partition < end { next.encode() } else { self.next_shard() }
    }

    fn sweep_keys(&mut self, sweep: &mut Sweep, asked: Asked<'_>) -> Slice {
        let (pattern, db) = (asked.args.get(1), asked.db);
        let first = self.shard.map().partitions_of(self.shard.id()).start;
        let cursor = sweep.cursor.unwrap_or(Cursor::at(first));
        let (mut body, mut count) = (std::mem::take(&mut sweep.body), 0);
        let mut take = |name: &[u8]| {
            if glob::matches(pattern, name, false) {
                bulk(&mut body, name);
                count += 1;
            }
        };
        sweep.place = cursor.partition - first;
        let slice = if !asked.scope.has(PartitionId(cursor.partition)) {
            sweep.cursor = Some(Cursor::at(cursor.partition + 1));
            self.more_partitions(sweep)
        } else if self.takes_disk(cursor) {
            let page = self.next_page(sweep, SLICE_KEYS, |key, _| {
                if key::db_of(key) == db {
                    take(&user_key(key));
                }
            });
            match page {
                None => Slice::Waits,
                Some(Err(error)) => Slice::Failed(error),
                Some(Ok(next)) => {
                    let is_through = next.is_none();
                    sweep.from = next.unwrap_or_default();
                    sweep.cursor = Some(Cursor::at(cursor.partition + u32::from(is_through)));
                    self.more_partitions(sweep)
                }
            }
        } else {
            sweep.cursor = self.shard.walk((asked.scope, db), cursor, SLICE_KEYS, take);
            if sweep.cursor.is_some() { Slice::More } else { Slice::Last }
        };
        (sweep.body, sweep.count) = (body, sweep.count + count);
        slice
    }

    /// Whether its cursor is in a partition of this shard.
    fn more_partitions(&self, sweep: &Sweep) -> Slice {
        let end = self.shard.map().partitions_of(self.shard.id()).end;
        match sweep.cursor {
            Some(cursor) if cursor.partition < end => Slice::More,
            _ => Slice::Last,
        }
    }

    /// The keys of a slot, at most `count`; of COUNTKEYSINSLOT, which wants all, only how many.
    fn sweep_slot(
        &mut self,
        sweep: &mut Sweep,
        slot: Slot,
        count: usize,
        asked: Asked<'_>,
    ) -> Slice {
        let Some(place) = self.shard.replica_of(slot) else { return Slice::Last };
        let left = count.saturating_sub(sweep.count as usize);
        if left == 0 {
            return Slice::Last;
        }
        let (prefix, names) = (key::slot_prefix(slot, asked.db), count < usize::MAX);
        if sweep.from.is_empty() {
            sweep.from = prefix.to_vec();
        }
        let mut found = Vec::new();
        let limit = left.min(SLICE_KEYS);
        let next = if self.shard.is_partial_at(place) {
            sweep.place = place;
            let page = self.next_page(sweep, limit, |key, _| {
                if key.starts_with(&prefix) {
                    found.push(user_key(key).into_owned());
                }
            });
            match page {
                None => return Slice::Waits,
                Some(Err(error)) => return Slice::Failed(error),
                Some(Ok(next)) => next.filter(|next| next.starts_with(&prefix)),
            }
        } else {
            let from = std::mem::take(&mut sweep.from);
            let of = (slot, asked.db);
            self.shard.walk_slot(of, &from, limit, |name| found.push(name.to_vec()))
        };
        found.truncate(left);
        sweep.count += found.len() as i64;
        if names {
            found.iter().for_each(|name| bulk(&mut sweep.body, name));
        }
        match next {
            Some(next) if (sweep.count as usize) < count => {
                sweep.from = next;
                Slice::More
            }
            _ => Slice::Last,
        }
    }

    fn sweep_random(&mut self, sweep: &mut Sweep, asked: Asked<'_>) -> Slice {
        let (score, is_second) = match sweep.random {
            Some(begun) => begun,
            None => match self.begin_random(sweep, asked) {
                Some(score) => (score, false),
                None => return no_key(sweep, asked.proto),
            },
        };
        sweep.random = Some((score, is_second));
        let mut found = Vec::new();
        let page = self.next_page(sweep, CHOICE_KEYS, |key, _| {
            if key::db_of(key) == asked.db {
                found.push(user_key(key).into_owned());
            }
        });
        let next = match page {
            None => return Slice::Waits,
            Some(Err(error)) => return Slice::Failed(error),
            Some(Ok(next)) => next,
        };
        if !found.is_empty() {
            let chosen = self.env.random() as usize % found.len();
            bulk(&mut sweep.body, &found[chosen]);
            sweep.count = score;
            return Slice::Last;
        }
        match next {
            None if is_second => return no_key(sweep, asked.proto),
            // From the beginning, up to where it began.
            None => sweep.random = Some((score, true)),
            Some(_) => {}
        }
        sweep.from = next.unwrap_or_default();
        Slice::More
    }

    /// Where a random key is looked for. None: there are no keys.
    fn begin_random(&mut self, sweep: &mut Sweep, asked: Asked<'_>) -> Option<i64> {
        let (place, score) = self.shard.random_place(asked.scope, asked.db)?;
        sweep.place = place as u32;
        let slots = self.shard.map().slots_of(self.shard.partition(place as u32).id());
        let slot = slots.start + (self.env.random() % slots.len() as u64) as u16;
        sweep.from = key::slot_prefix(Slot(slot), 0).to_vec();
        Some(score)
    }

    /// FLUSHDB where other databases have keys, too: each key that was there when it began.
    fn sweep_away(&mut self, sweep: &mut Sweep, Asked { db, scope, .. }: Asked<'_>) -> Slice {
        if sweep.began.is_empty() {
            sweep.began = self.shard.clocks().collect();
        }
        let Some(&began) = sweep.began.get(sweep.place as usize) else { return Slice::Last };
        if !scope.has(self.shard.partition(sweep.place).id()) {
            sweep.place += 1;
            return Slice::More;
        }
        let mut found = Vec::new();
        let page = self.next_page(sweep, SLICE_KEYS, |key, timestamp| {
            if key::db_of(key) == db && timestamp <= began {
                found.push(key.to_vec());
            }
        });
        let next = match page {
            None => return Slice::Waits,
            Some(Err(error)) => return Slice::Failed(error),
            Some(Ok(next)) => next,
        };
        found.iter().for_each(|key| self.shard.bury(sweep.place, key));
        sweep.place += u32::from(next.is_none());
        sweep.from = next.unwrap_or_default();
        if (sweep.place as usize) < sweep.began.len() {
            return Slice::More;
        }
        self.shard.note_clear();
        Slice::Last
    }
}

fn no_key(sweep: &mut Sweep, proto: Proto) -> Slice {
    sweep.count = i64::MAX;
    Reply::new(proto, &mut sweep.body, &mut Vec::new()).null();
    Slice::Last
}
