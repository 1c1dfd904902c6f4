//! The memtable: the newest versions of a partition's keys, committed and proposed, in memory.
//!
//! It is also the overlay of proposed versions (charter, D12), so that a write probes once: `put`
//! and `delete` insert at proposal, as the newest version of the key, and return an [`EntryRef`];
//! when the log entry commits, [`Memtable::commit`] frees what became older, and the whole entry if
//! what is newest is a tombstone; when leadership is lost, [`Memtable::rollback`] frees what became
//! void. Who may see a version is the caller's to decide: it compares the version's timestamp with
//! the partition's committed one.
//!
//! ```text
//! index (hash)  line of 10 tags, 10 refs --+
//! order (key)   piles of <= 512 refs ------+--> node: header, key, version --> ring of records,
//! expiring      (expiry, ref) in order ----+    one contiguous block           one per version
//! ```
//!
//! Invariants:
//! * A node with one committed version of at most 1 KiB is one block; a lookup reads the index line
//!   and that block, and misses the cache twice.
//! * A version in flight lies in a record and is copied into the node when it commits. So the node,
//!   the index and the order do not change under an overwrite, an `EntryRef` stays valid, and
//!   records come from the arena's most recently freed, cached blocks.
//! * Timestamps of one key do not fall from version to version.
//! * Each `EntryRef` is given back once, to `commit` or to `rollback`. A node lives at least until
//!   the last of its refs is back, so refs need no generation and are never stale.
//! * No step holds the core for long: the index splits one bucket, the order one pile at a time,
//!   and a full table is freed in pieces ([`Memtable::dismantle`]).
//!
//! Why this and not a map of the usual kind (`bench-results/memtable.md`; figures of a loaded
//! machine): what a server does is not one lookup but a turn's worth, and only a table that shows
//! its index line and its node can have both prefetched. So a lookup in a group takes half the time
//! of a hash map's and an overwrite a fourth. The price: a lone lookup takes about 1.5 times as
//! long as a hash map's, and a new key 1.3 to 3 times. But a hash map that grows stops for 0.2 s (1
//! M keys) to 1.3 s (10 M), has no order, and one version per key; a B-tree has an order, scans
//! five to eight times as fast, and takes five to ten times as long per lookup.
//!
//! A tombstone that is committed goes, unless there are SSTables below, whose older versions it
//! shadows: from [`Memtable::keep_tombstones`] on it stays until it is in a table itself
//! ([`Memtable::forget`]).
//!
//! A table may also be *partial*: rows that SSTables have are let go when memory is short, and
//! taken in again when they are asked for ([`resident`]). A key that is not here is then not known
//! to be nowhere.
//!
//! Not here: what a value means; who reads which version; what is in SSTables. Reading order:
//! `store` (layout), `arena`, `index`, `order`, then this file.

use std::sync::Arc;

use super::key::PREFIX_LEN;
use crate::id::Timestamp;

mod arena;
mod chunk;
mod deadlines;
mod evict;
mod index;
mod order;
mod resident;
mod scan;
mod store;
mod weight;

#[cfg(test)]
mod model;

pub use chunk::Pages;
pub use deadlines::Sum;
pub use scan::Scan;

use arena::Ref;
use deadlines::Deadlines;
use index::Index;
use order::Order;
use scan::{head_of, version_at};
use store::{State, Store};

/// A key of the table that was put or deleted; to be given to [`Memtable::commit`] or
/// [`Memtable::rollback`], once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef(Ref);

/// What a version says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a value.
    Put,
    /// It has none: a tombstone.
    Delete,
}

/// The bytes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Fewer than [`crate::limits::LARGE_LEN_MIN`] bytes; copied into the table. (A longer value is
    /// taken too, and comes back as `Shared`.)
    Bytes(&'a [u8]),
    /// A large value: held by reference, never copied.
    Shared(&'a Arc<Vec<u8>>),
}

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version<'a> {
    /// When it was written; rises within a partition.
    pub timestamp: Timestamp,
    /// Put or delete.
    pub kind: Kind,
    /// Absolute deadline, unix milliseconds; `None`: never. Of a put only.
    pub expiry_ms: Option<u64>,
    /// The value; empty for a delete.
    pub payload: Payload<'a>,
}

/// A node whose block is more than twice the size that its value needs, and this much more, moves
/// to a smaller one, so that a value that shrank does not pin memory. Bytes.
const SLACK_LEN_MAX: usize = 64;

/// Entries that are committed together: their misses overlap, and all of them fit into the cache.
const GROUP_LEN: usize = 16;

/// Bytes of a B-tree entry of the expiry index: 16, in nodes two thirds full.
const EXPIRING_ENTRY_LEN: usize = 24;

/// The memtable of one partition. Lives on one core.
pub struct Memtable {
    /// The seed of its hashes, and its memory.
    made_with: (u64, Pages),
    store: Store,
    index: Index,
    order: Order,
    /// Nodes whose newest version is a put that expires, earliest first.
    expiring: Deadlines,
    live_len: usize,
    /// Bytes of nodes that are committed tombstones and no more.
    dead_len: usize,
    /// Committed tombstones stay.
    keeps_tombstones: bool,
    /// Tables have rows that are not here.
    is_partial: bool,
}

impl Memtable {
    /// An empty table. `hash_seed` should be unknown to clients; what the table answers, orders of
    /// iteration included, does not depend on it.
    pub fn new(hash_seed: u64) -> Self {
        Self::with_pages(hash_seed, Pages::Small)
    }

    /// As [`Memtable::new`], in memory of the given kind.
    pub fn with_pages(hash_seed: u64, pages: Pages) -> Self {
        Self {
            made_with: (hash_seed, pages),
            store: Store::new(hash_seed, pages),
            index: Index::new(pages),
            order: Order::new(),
            expiring: Deadlines::new(),
            live_len: 0,
            dead_len: 0,
            keeps_tombstones: false,
            is_partial: false,
        }
    }

    /// An empty table that hashes keys as this one does, in memory of the same kind.
    pub fn emptied(&self) -> Self {
        let (hash_seed, pages) = self.made_with;
        Self::with_pages(hash_seed, pages)
    }

    /// The hash of an encoded key, for all that follows.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.store.hash(key)
    }

    /// Starts to load the index line of `hash`. First of two steps that hide both misses of a
    /// lookup behind other work.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Starts to load the node that `hash` leads to. Reads the index line: call it some ten
    /// lookups after [`Memtable::prefetch`].
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        self.index.prefetch_nodes(hash, &self.store);
    }

    /// The newest version of `key`, tombstones included, committed or not.
    ///
    /// Inlined into whoever asks: a version is many words, and is passed on through memory else,
    /// where each hand waits for what the one before has just written.
    #[inline(always)]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<Version<'_>> {
        let (_, node) = self.index.find(hash, key, &self.store)?;
        self.store.version_in(match node.link() {
            Ref::NONE => node,
            newest => self.store.block(newest),
        })
    }

    /// The newest version of `key` that is not newer than `at`.
    #[inline]
    pub fn get_at(&self, hash: u64, key: &[u8], at: Timestamp) -> Option<Version<'_>> {
        let (node, _) = self.index.find(hash, key, &self.store)?;
        version_at(&self.store, node, at)
    }

    /// Writes a value as the newest version of `key`.
    ///
    /// # Panics
    /// When `timestamp` is before that of the key's newest version, or `key` is longer than an
    /// encoded key may be.
    pub fn put(
        &mut self,
        hash: u64,
        key: &[u8],
        timestamp: Timestamp,
        expiry_ms: Option<u64>,
        payload: Payload<'_>,
    ) -> EntryRef {
        let version = Version { timestamp, kind: Kind::Put, expiry_ms, payload };
        match self.index.find(hash, key, &self.store) {
            Some((node, _)) => self.push(node, &version, State::Put),
            None => self.insert(hash, key, &version, State::Put),
        }
    }

    /// Writes a tombstone as the newest version of `key`. `None`: the key has no value here, so
    /// there is nothing to delete, nor to commit.
    ///
    /// # Panics
    /// When `timestamp` is before that of the key's newest version.
    pub fn delete(&mut self, hash: u64, key: &[u8], timestamp: Timestamp) -> Option<EntryRef> {
        let (node, _) = self.index.find(hash, key, &self.store)?;
        if self.store.state(head_of(&self.store, node)) != State::Put {
            return None;
        }
        let version = Version {
            timestamp,
            kind: Kind::Delete,
            expiry_ms: None,
            payload: Payload::Bytes(&[]),
        };
        Some(self.push(node, &version, State::Delete))
    }

    /// Takes note that all versions up to `up_to` are committed, and gives `entry` back: frees the
    /// versions older than the newest committed one, and the entry if that is a tombstone that need
    /// not be kept.
    ///
    /// When several refs of one key are committed together, give each the same `up_to` (that of
    /// the batch): the first call then does the work.
    ///
    /// # Panics
    /// When the entry's refs are all back, or are with this one and a version is newer than
    /// `up_to`: a ref was given back twice or too early.
    pub fn commit(&mut self, entry: EntryRef, up_to: Timestamp) {
        let EntryRef(node) = entry;
        if self.store.touches(node) > 1 {
            self.settle(node, up_to);
        }
        self.give_back(node, up_to);
    }

    /// As [`Memtable::commit`] for each of `entries`, so that the cache misses overlap: they are
    /// most of what it takes.
    pub fn commit_all(&mut self, entries: &[EntryRef], up_to: Timestamp) {
        for group in entries.chunks(GROUP_LEN) {
            group.iter().for_each(|EntryRef(node)| self.store.prefetch(*node));
            for EntryRef(node) in group {
                match self.store.link(*node) {
                    Ref::NONE => {}
                    newest => self.store.prefetch(newest),
                }
            }
            group.iter().for_each(|entry| self.commit(*entry, up_to));
        }
    }

    /// From now on committed tombstones stay, until [`Memtable::forget`].
    pub fn keep_tombstones(&mut self) {
        self.keeps_tombstones = true;
    }

    /// Frees the entry of `key` if all that it holds is a tombstone, committed and not newer than
    /// `up_to`: the caller knows that nothing is left for it to shadow, or that a table has it.
    pub fn forget(&mut self, key: &[u8], up_to: Timestamp) {
        let Some((node, _)) = self.index.find(self.store.hash(key), key, &self.store) else {
            return;
        };
        let is_tombstone =
            self.store.link(node) == Ref::NONE && self.store.state(node) == State::Delete;
        if is_tombstone && self.store.touches(node) == 0 && self.store.timestamp(node) <= up_to {
            self.dead_len -= self.dead_weight(node);
            self.remove(node);
        }
    }

    /// The encoded key of an entry that is not given back yet.
    pub fn key(&self, EntryRef(node): EntryRef) -> &[u8] {
        self.store.key(node)
    }

    /// Drops the versions newer than `to`, and gives `entry` back: its version was not committed
    /// and never will be.
    ///
    /// # Panics
    /// When the entry's refs are all back.
    pub fn rollback(&mut self, entry: EntryRef, to: Timestamp) {
        let EntryRef(node) = entry;
        let before = self.weigh(node);
        self.unwind(node, to);
        self.recount(node, before);
        self.give_back(node, to);
    }

    /// Keys whose newest version is a put, committed or not.
    pub fn live_len(&self) -> usize {
        self.live_len
    }

    /// Of those, the ones with an expiry.
    pub fn expiring_len(&self) -> usize {
        self.expiring.len()
    }

    /// The deadlines of a database's keys here.
    pub fn deadlines(&self, db: u8) -> Sum {
        self.expiring.sum(db)
    }

    /// Bytes in use: blocks, large values and indexes. Freed blocks are not counted, since the
    /// next writes take them: what a memory budget is to be compared with.
    pub fn memory_len(&self) -> usize {
        self.store.used_len() + self.index_len()
    }

    /// Bytes taken from the system: those in use and free blocks.
    pub fn held_len(&self) -> usize {
        self.store.held_len() + self.index_len()
    }

    /// Adds to `keys` up to `limit` encoded keys whose newest version is a put with an expiry at or
    /// before `now_ms`, earliest first. Costs one comparison when there is none.
    pub fn expired(&self, now_ms: u64, limit: usize, keys: &mut Vec<Vec<u8>>) {
        let due = self.expiring.due(now_ms).take(limit);
        keys.extend(due.map(|node| self.store.key(node).to_vec()));
    }

    /// Keys from `from` on, in order, each with its newest version up to `at`, tombstones included.
    /// `Timestamp(u64::MAX)`: the newest of all. Takes `&mut` since keys are sorted as they are
    /// reached.
    pub fn scan(&mut self, from: &[u8], at: Timestamp) -> Scan<'_> {
        Scan::new(&self.store, &mut self.order, from, at)
    }

    /// Keys in the order of their hashes, a bucket of some seven per call: shows `visit` each with
    /// its newest version, tombstones included, and returns the cursor of the next call; 0: that
    /// was all. A key that is there from the first call (cursor 0) to the last is shown at least
    /// once, whatever comes and goes in between; any number is a valid cursor.
    pub fn walk(&self, cursor: u64, mut visit: impl FnMut(&[u8], Version<'_>)) -> u64 {
        self.index.walk(cursor, &self.store, |node| {
            if let Some(version) = self.store.version(head_of(&self.store, node)) {
                visit(self.store.key(node), version);
            }
        })
    }

    /// Ends the table and gives what is to be freed, for the caller to free bit by bit: dropping
    /// ten million keys at once takes longer than a core may be held.
    pub fn dismantle(self) -> Remains {
        Remains { table: self }
    }

    fn index_len(&self) -> usize {
        self.index.held_len() + self.order.held_len() + self.expiring.len() * EXPIRING_ENTRY_LEN
    }

    /// A node for a key that has none.
    fn insert(&mut self, hash: u64, key: &[u8], version: &Version<'_>, state: State) -> EntryRef {
        let is_inline = match version.payload {
            Payload::Bytes(bytes) => store::is_inline(bytes.len()),
            Payload::Shared(_) => true,
        };
        let node = if is_inline {
            self.store.create(key, version, state)
        } else {
            let void = Version { expiry_ms: None, payload: Payload::Bytes(&[]), ..*version };
            let node = self.store.create(key, &void, State::Void);
            let record = self.store.create(&[], version, state);
            self.link(node, record);
            node
        };
        self.index.insert(hash, node, &self.store);
        self.order.insert(key, node, &mut self.store);
        self.store.set_touches(node, 1);
        self.recount(node, (false, None));
        EntryRef(node)
    }

    /// A further version of a node.
    fn push(&mut self, node: Ref, version: &Version<'_>, state: State) -> EntryRef {
        let newest = self.store.timestamp(head_of(&self.store, node));
        let is_void = self.store.state(head_of(&self.store, node)) == State::Void;
        let timestamp = version.timestamp;
        assert!(is_void || timestamp >= newest, "a version of {timestamp} upon one of {newest}");
        let before = self.weigh(node);
        self.dead_len -= self.dead_weight(node);
        let record = self.store.create(&[], version, state);
        self.link(node, record);
        self.store.set_touches(node, self.store.touches(node) + 1);
        self.recount(node, before);
        EntryRef(node)
    }

    /// Makes `record` the newest of the node's ring.
    fn link(&mut self, node: Ref, record: Ref) {
        let newest = self.store.link(node);
        if newest == Ref::NONE {
            self.store.set_link(record, record);
        } else {
            let oldest = self.store.link(newest);
            self.store.set_link(record, oldest);
            self.store.set_link(newest, record);
        }
        self.store.set_link(node, record);
    }

    /// Makes the newest version up to `up_to` the node's own, or its oldest record when it does not
    /// fit, and frees the older ones.
    fn settle(&mut self, node: Ref, up_to: Timestamp) {
        let newest = self.store.link(node);
        if newest == Ref::NONE {
            return;
        }
        let (mut kept, mut rest) = (None, Some(self.store.link(newest)));
        while let Some(record) = rest.filter(|&record| self.store.timestamp(record) <= up_to) {
            rest = (record != newest).then(|| self.store.link(record));
            if let Some(older) = kept.replace(record) {
                self.store.destroy(older);
            }
        }
        let Some(kept) = kept else { return };
        if self.store.state(node) != State::Void {
            self.store.clear(node);
        }
        if self.store.adopt(node, kept) {
            self.store.set_link(node, if rest.is_some() { newest } else { Ref::NONE });
            if let Some(oldest) = rest {
                self.store.set_link(newest, oldest);
            }
        } else {
            self.store.set_link(kept, rest.unwrap_or(kept));
            self.store.set_link(newest, kept);
        }
    }

    /// Frees the versions of the node that are newer than `to`.
    fn unwind(&mut self, node: Ref, to: Timestamp) {
        if self.store.state(node) != State::Void && self.store.timestamp(node) > to {
            self.store.clear(node);
        }
        let newest = self.store.link(node);
        if newest == Ref::NONE || self.store.timestamp(newest) <= to {
            return;
        }
        let oldest = self.store.link(newest);
        let (mut kept, mut record) = (Ref::NONE, oldest);
        while self.store.timestamp(record) <= to {
            kept = record;
            record = self.store.link(record);
        }
        loop {
            let newer = self.store.link(record);
            self.store.destroy(record);
            if record == newest {
                break;
            }
            record = newer;
        }
        if kept != Ref::NONE {
            self.store.set_link(kept, oldest);
        }
        self.store.set_link(node, kept);
    }

    /// One ref of the node is back. With the last, all its versions are settled as of `up_to`: a
    /// node without a value goes, one in a block of the wrong size moves.
    fn give_back(&mut self, node: Ref, up_to: Timestamp) {
        let touches = self.store.touches(node);
        assert!(touches > 0, "{node:?} was given back more often than touched");
        self.store.set_touches(node, touches - 1);
        if touches > 1 {
            return;
        }
        self.settle(node, up_to);
        let head = head_of(&self.store, node);
        match self.store.state(head) {
            State::Void => self.remove(node),
            state => {
                let newest = self.store.timestamp(head);
                assert!(newest <= up_to, "settled to {up_to}, but there is a version of {newest}");
                match state {
                    State::Delete if !self.keeps_tombstones => self.remove(node),
                    _ => {
                        let node = self.fit(node, head);
                        self.dead_len += self.dead_weight(node);
                    }
                }
            }
        }
    }

    /// Moves the node to a block of the right size when its version has outgrown its block, or has
    /// shrunk to less than half of it. Where it is then.
    fn fit(&mut self, node: Ref, head: Ref) -> Ref {
        let (wanted_len, block_len) = self.store.fit(node, head);
        let outgrown = head != node && self.store.is_inline(head);
        // A tombstone is there for long, and one of many.
        let slack_len = match self.store.state(head) {
            State::Delete => wanted_len,
            _ => wanted_len + SLACK_LEN_MAX,
        };
        let shrunk = head == node && block_len > wanted_len + slack_len;
        if !outgrown && !shrunk {
            return node;
        }
        let hash = self.store.hash_of(node);
        let (expiry_ms, db) = (self.store.expiry_ms(head), self.db_of(node));
        let new = self.store.refit(node, head);
        self.index.replace(hash, node, new);
        self.order.replace(node, new, &self.store);
        if let Some(expiry_ms) = expiry_ms {
            self.expiring.remove(expiry_ms, node, db);
            self.expiring.insert(expiry_ms, new, db);
        }
        new
    }

    /// Frees a node whose newest version is no put.
    fn remove(&mut self, node: Ref) {
        self.index.remove(self.store.hash_of(node), node);
        self.order.remove(node, &mut self.store);
        let record = self.store.link(node);
        if record != Ref::NONE {
            self.store.destroy(record);
        }
        self.store.destroy(node);
    }

    /// Whether the node's newest version is a put, and when that expires.
    fn weigh(&self, node: Ref) -> (bool, Option<u64>) {
        let head = head_of(&self.store, node);
        (self.store.state(head) == State::Put, self.store.expiry_ms(head))
    }

    /// Brings the counts and the expiry index from `before` to what the node weighs.
    fn recount(&mut self, node: Ref, before: (bool, Option<u64>)) {
        let after = self.weigh(node);
        self.live_len = self.live_len + usize::from(after.0) - usize::from(before.0);
        if before.1 == after.1 {
            return;
        }
        let db = self.db_of(node);
        if let Some(expiry_ms) = before.1 {
            self.expiring.remove(expiry_ms, node, db);
        }
        if let Some(expiry_ms) = after.1 {
            self.expiring.insert(expiry_ms, node, db);
        }
    }

    /// The database of a node's key.
    fn db_of(&self, node: Ref) -> u8 {
        self.store.key(node).get(PREFIX_LEN - 1).copied().unwrap_or_default()
    }
}

/// A table that is being freed. Dropping it frees what is left at once.
pub struct Remains {
    table: Memtable,
}

impl Remains {
    /// Entries of the expiry index that are freed as one piece.
    const EXPIRING_PER_PIECE: usize = 256;

    /// Bytes not yet freed.
    pub fn memory_len(&self) -> usize {
        self.table.memory_len()
    }

    /// Frees up to `budget` pieces: a chunk of 2 MiB, a large value, 512 keys of the order, 256 of
    /// the expiry index; some 100 us at most, but for a large value of many MiB. False when all is
    /// freed.
    pub fn release_some(&mut self, budget: usize) -> bool {
        let table = &mut self.table;
        (0..budget).all(|_| {
            table.expiring.release(Self::EXPIRING_PER_PIECE)
                || table.order.release_piece()
                || table.index.release_piece()
                || table.store.release_piece()
        })
    }
}
