//! The hash index: from a key's hash to its node, in one cache line.
//!
//! A bucket is one line: ten 16-bit tags (the upper bits of the hash), ten references, and the
//! number of an overflow bucket. A lookup compares ten tags at once and follows, nearly always, one
//! reference or none.
//!
//! The table doubles without a pause: from the moment that buckets hold 6.5 nodes on average, each
//! insert splits one bucket `i` of `n` into `i` and `n + i`, until all are split; by then the
//! fullest have 7.5 on average, and the table half of that. The hash of a node is not stored but
//! taken from its key; the nodes of the bucket next to be split are prefetched one insert ahead,
//! so that a split finds them in the cache. The table does not shrink: it lives as long as its
//! memtable.

use super::arena::Ref;
use super::chunk::{Chunk, Pages, prefetch};
use super::store::{Block, Store};

const SLOT_COUNT: usize = 10;

/// Nodes per bucket, in halves, at which the table starts to double.
const HALVES_PER_BUCKET_MAX: usize = 13;

const BUCKET_COUNT_MIN: usize = 16;

type Buckets = Chunk<Bucket>;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: the slot is empty.
    tags: [u16; SLOT_COUNT],
    refs: [Ref; SLOT_COUNT],
    /// Number of the bucket with the nodes that did not fit, plus one; 0: none.
    overflow: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

const EMPTY: Bucket = Bucket { tags: [0; SLOT_COUNT], refs: [Ref::NONE; SLOT_COUNT], overflow: 0 };

impl Bucket {
    /// A bit for each slot whose tag is `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        let mut bits = 0;
        for (slot, &other) in self.tags.iter().enumerate() {
            bits |= u32::from(other == tag) << slot;
        }
        bits
    }

    fn used_count(&self) -> usize {
        self.tags.iter().filter(|&&tag| tag != 0).count()
    }
}

/// Buckets from which on the first chunk is a huge page, too: an eighth of it.
const LARGE_COUNT: usize = Buckets::CAPACITY / 8;

/// Buckets in chunks, so that none moves when there come more.
struct Table {
    pages: Pages,
    chunks: Vec<Buckets>,
    count: usize,
}

impl Table {
    fn new(pages: Pages) -> Self {
        Self { pages, chunks: Vec::new(), count: 0 }
    }

    #[inline]
    fn at(&self, number: usize) -> &Bucket {
        &self.chunks[number / Buckets::CAPACITY][number % Buckets::CAPACITY]
    }

    #[inline]
    fn at_mut(&mut self, number: usize) -> &mut Bucket {
        &mut self.chunks[number / Buckets::CAPACITY][number % Buckets::CAPACITY]
    }

    fn push(&mut self) {
        if self.count.is_multiple_of(Buckets::CAPACITY) {
            let pages = if self.count == 0 { Pages::Small } else { self.pages };
            self.chunks.push(Chunk::new(pages));
        }
        let last = self.chunks.last_mut().expect("one was pushed at 0");
        last.extend(1, EMPTY);
        self.count += 1;
        if self.count == LARGE_COUNT && self.pages == Pages::Huge {
            self.chunks[0].merge_pages();
        }
    }
}

/// The hash index of one memtable. Lives on one core.
pub struct Index {
    home: Table,
    overflow: Table,
    /// Overflow buckets that hold nothing.
    spare: Vec<u32>,
    /// Buckets when none is split; a power of two.
    base: usize,
    /// Buckets below this are split; 0 while the table is at rest.
    split: usize,
    len: usize,
}

/// A slot, for replacing what is in it.
#[derive(Clone, Copy)]
struct Place {
    /// 0: in its home bucket; else in overflow bucket `overflow - 1`.
    overflow: u32,
    slot: usize,
}

impl Index {
    pub fn new(pages: Pages) -> Self {
        let mut home = Table::new(pages);
        (0..BUCKET_COUNT_MIN).for_each(|_| home.push());
        Self {
            home,
            overflow: Table::new(pages),
            spare: Vec::new(),
            base: BUCKET_COUNT_MIN,
            split: 0,
            len: 0,
        }
    }

    /// Asks for the line that a lookup of `hash` reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.home.at(self.home_of(hash)), 1);
    }

    /// Asks for the nodes that a lookup of `hash` may compare with. Reads the index line.
    #[inline]
    pub fn prefetch_nodes(&self, hash: u64, store: &Store) {
        let bucket = self.home.at(self.home_of(hash));
        let mut bits = bucket.matches(tag_of(hash));
        while bits != 0 {
            store.prefetch(bucket.refs[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }

    /// The node under `hash` that holds `key`, and its block.
    #[inline]
    pub fn find<'a>(&self, hash: u64, key: &[u8], store: &'a Store) -> Option<(Ref, Block<'a>)> {
        let tag = tag_of(hash);
        let mut bucket = self.home.at(self.home_of(hash));
        loop {
            let mut bits = bucket.matches(tag);
            while bits != 0 {
                let node = bucket.refs[bits.trailing_zeros() as usize];
                let block = store.block(node);
                block.prefetch();
                if block.key() == key {
                    return Some((node, block));
                }
                bits &= bits - 1;
            }
            if bucket.overflow == 0 {
                return None;
            }
            bucket = self.overflow.at(bucket.overflow as usize - 1);
        }
    }

    /// Adds a node that is not in the index, and does a step of the table's growth.
    pub fn insert(&mut self, hash: u64, node: Ref, store: &Store) {
        self.add(self.home_of(hash), tag_of(hash), node);
        self.len += 1;
        if self.split > 0 || 2 * self.len > HALVES_PER_BUCKET_MAX * self.base {
            self.split_bucket(self.split, store);
        }
    }

    /// Puts `new` in the place of `old`, a node of the same key.
    pub fn replace(&mut self, hash: u64, old: Ref, new: Ref) {
        let home = self.home_of(hash);
        let place = self.place_of(home, tag_of(hash), old);
        self.bucket_mut(home, place.overflow).refs[place.slot] = new;
    }

    /// Takes `node` out.
    pub fn remove(&mut self, hash: u64, node: Ref) {
        let home = self.home_of(hash);
        let hole = self.place_of(home, tag_of(hash), node);
        self.len -= 1;
        // The hole is filled from the last overflow bucket, so that a chain is never longer than
        // its nodes demand.
        let (mut before, mut last) = (0, 0);
        while self.bucket(home, last).overflow != 0 {
            (before, last) = (last, self.bucket(home, last).overflow);
        }
        let end = self.bucket_mut(home, last);
        let used_count = end.used_count();
        let (tag, moved) = (end.tags[used_count - 1], end.refs[used_count - 1]);
        (end.tags[used_count - 1], end.refs[used_count - 1]) = (0, Ref::NONE);
        if (hole.overflow, hole.slot) != (last, used_count - 1) {
            let bucket = self.bucket_mut(home, hole.overflow);
            (bucket.tags[hole.slot], bucket.refs[hole.slot]) = (tag, moved);
        }
        if last != 0 && used_count == 1 {
            self.bucket_mut(home, before).overflow = 0;
            self.spare.push(last - 1);
        }
    }

    /// Shows `visit` the nodes of one bucket and returns the cursor of the next; 0: it was the
    /// last. Starts at 0. A node that is there from the first call to the last is shown, however
    /// the table grows in between, and but for a table that was replaced by a smaller one, once.
    ///
    /// The cursor counts with its bits reversed (Pieter Noordhuis, `dictScan` of Redis): what
    /// bucket `i` splits into has `i` as its lower bits, so it is passed together with `i`.
    pub fn walk(&self, cursor: u64, store: &Store, mut visit: impl FnMut(Ref)) -> u64 {
        let mask = self.base as u64 - 1;
        let home = (cursor & mask) as usize;
        let after = (cursor | !mask).reverse_bits().wrapping_add(1).reverse_bits();
        prefetch(self.home.at((after & mask) as usize), 1);
        let twin = (home < self.split).then_some(home + self.base);
        for home in [Some(home), twin].into_iter().flatten() {
            let mut bucket = self.home.at(home);
            loop {
                let nodes = &bucket.refs[..bucket.used_count()];
                nodes.iter().for_each(|&node| store.prefetch(node));
                nodes.iter().for_each(|&node| visit(node));
                if bucket.overflow == 0 {
                    break;
                }
                bucket = self.overflow.at(bucket.overflow as usize - 1);
            }
        }
        after
    }

    /// Calls of [`Index::walk`] that see all nodes.
    pub fn base_count(&self) -> usize {
        self.base
    }

    /// Bytes taken from the system and touched.
    pub fn held_len(&self) -> usize {
        (self.home.count + self.overflow.count) * size_of::<Bucket>() + self.spare.capacity() * 4
    }

    /// Frees one chunk; false when none is left. No lookup may follow.
    pub fn release_piece(&mut self) -> bool {
        self.home.chunks.pop().is_some() || self.overflow.chunks.pop().is_some()
    }

    #[inline]
    fn home_of(&self, hash: u64) -> usize {
        let number = hash as usize & (self.base - 1);
        if number < self.split { hash as usize & (2 * self.base - 1) } else { number }
    }

    fn bucket(&self, home: usize, overflow: u32) -> &Bucket {
        if overflow == 0 { self.home.at(home) } else { self.overflow.at(overflow as usize - 1) }
    }

    fn bucket_mut(&mut self, home: usize, overflow: u32) -> &mut Bucket {
        if overflow == 0 {
            self.home.at_mut(home)
        } else {
            self.overflow.at_mut(overflow as usize - 1)
        }
    }

    fn place_of(&self, home: usize, tag: u16, node: Ref) -> Place {
        let mut overflow = 0;
        loop {
            let bucket = self.bucket(home, overflow);
            let mut bits = bucket.matches(tag);
            while bits != 0 {
                let slot = bits.trailing_zeros() as usize;
                if bucket.refs[slot] == node {
                    return Place { overflow, slot };
                }
                bits &= bits - 1;
            }
            overflow = bucket.overflow;
            assert!(overflow != 0, "{node:?} is not in the index");
        }
    }

    /// Slots fill from the front and only the last bucket of a chain has empty ones.
    fn add(&mut self, home: usize, tag: u16, node: Ref) {
        let mut overflow = 0;
        loop {
            let bucket = self.bucket_mut(home, overflow);
            let used_count = bucket.used_count();
            if used_count < SLOT_COUNT {
                (bucket.tags[used_count], bucket.refs[used_count]) = (tag, node);
                return;
            }
            if bucket.overflow == 0 {
                let fresh = self.open_overflow();
                self.bucket_mut(home, overflow).overflow = fresh;
            }
            overflow = self.bucket(home, overflow).overflow;
        }
    }

    /// An empty overflow bucket: its number plus one.
    fn open_overflow(&mut self) -> u32 {
        let number = self.spare.pop().unwrap_or_else(|| {
            self.overflow.push();
            self.overflow.count as u32 - 1
        });
        *self.overflow.at_mut(number as usize) = EMPTY;
        number + 1
    }

    /// Splits bucket `number` in two and has the nodes of the next prefetched.
    fn split_bucket(&mut self, number: usize, store: &Store) {
        self.home.push();
        let mut bucket = std::mem::replace(self.home.at_mut(number), EMPTY);
        self.split = number + 1;
        loop {
            for slot in 0..bucket.used_count() {
                let hash = store.hash_of(bucket.refs[slot]);
                self.add(self.home_of(hash), bucket.tags[slot], bucket.refs[slot]);
            }
            if bucket.overflow == 0 {
                break;
            }
            self.spare.push(bucket.overflow - 1);
            bucket = *self.overflow.at(bucket.overflow as usize - 1);
        }
        if number + 1 == self.base {
            self.base *= 2;
            self.split = 0;
            return;
        }
        let next = self.home.at(number + 1);
        next.refs[..next.used_count()].iter().for_each(|&node| store.prefetch(node));
    }
}

#[inline]
fn tag_of(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}
