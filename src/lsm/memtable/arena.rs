//! The arena: blocks of bytes named by 32-bit references, freed to lists by size and used again.
//!
//! A reference counts units of 8 bytes, so one arena reaches 32 GiB. Sizes are rounded up to a
//! *class*: steps of 8 bytes up to 512, then eight steps per doubling, so at most an eighth is
//! lost. A freed block goes to the list of its class, last in, first out, since it is then still
//! in the cache. An allocation takes, in this order: a block of its class; a larger free block
//! (at least twice as large, so that no slivers are made), cut; fresh memory. Blocks are never
//! joined, so that a free costs one store: the memory held is at most the sum of each class's own
//! high-water mark, and goes back to the system with the table.

use super::chunk::{CHUNK_LEN, Chunk, Pages, prefetch};

/// A block of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ref(pub u32);

impl Ref {
    /// Names no block.
    pub const NONE: Self = Self(0);
}

/// A size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub u8);

const UNIT_LEN: usize = 8;
const UNITS_PER_CHUNK: usize = CHUNK_LEN / UNIT_LEN;

/// Classes up to [`FINE_LEN_MAX`], of one unit more each.
const FINE_COUNT: usize = 64;
const FINE_LEN_MAX: usize = FINE_COUNT * UNIT_LEN;
const STEPS_PER_DOUBLING: usize = 8;
const DOUBLINGS: usize = 9;
const CLASS_COUNT: usize = FINE_COUNT + DOUBLINGS * STEPS_PER_DOUBLING;

/// Bytes of the block to be handed out next that are loaded ahead: all of it, if values are small.
const PREFETCH_LEN: usize = 256;

/// Longest block, bytes: 256 KiB.
pub const BLOCK_LEN_MAX: usize = FINE_LEN_MAX << DOUBLINGS;

impl Class {
    /// The smallest class whose blocks hold `len` bytes.
    ///
    /// # Panics
    /// When `len` is over [`BLOCK_LEN_MAX`].
    #[inline]
    pub fn holding(len: usize) -> Self {
        if len <= FINE_LEN_MAX {
            return Self((len.max(1).div_ceil(UNIT_LEN) - 1) as u8);
        }
        assert!(len <= BLOCK_LEN_MAX, "a block of {len} bytes, {BLOCK_LEN_MAX} is the most");
        let doubling = ((len - 1) / FINE_LEN_MAX).ilog2() as usize;
        let step_len = (FINE_LEN_MAX << doubling) / STEPS_PER_DOUBLING;
        let step = (len - (FINE_LEN_MAX << doubling)).div_ceil(step_len) - 1;
        Self((FINE_COUNT + doubling * STEPS_PER_DOUBLING + step) as u8)
    }

    /// The largest class whose blocks fit into `len` bytes, at least one unit.
    fn within(len: usize) -> Self {
        let class = Self::holding(len.min(BLOCK_LEN_MAX));
        if class.block_len() > len { Self(class.0 - 1) } else { class }
    }

    /// Bytes of a block of this class.
    #[inline]
    pub fn block_len(self) -> usize {
        let class = usize::from(self.0);
        if class < FINE_COUNT {
            return (class + 1) * UNIT_LEN;
        }
        let (doubling, step) =
            ((class - FINE_COUNT) / STEPS_PER_DOUBLING, (class - FINE_COUNT) % STEPS_PER_DOUBLING);
        let base = FINE_LEN_MAX << doubling;
        base + (step + 1) * base / STEPS_PER_DOUBLING
    }
}

/// Blocks of bytes. Lives on one core.
pub struct Arena {
    pages: Pages,
    chunks: Vec<Chunk<u8>>,
    /// Head of the list of free blocks of each class; a free block begins with the next one's name.
    free: [Ref; CLASS_COUNT],
    /// A bit per class, in words of 64: its list is not empty.
    free_bits: [u64; CLASS_COUNT.div_ceil(64)],
    used_len: usize,
}

impl Arena {
    /// An arena without memory.
    pub fn new(pages: Pages) -> Self {
        Self {
            pages,
            chunks: Vec::new(),
            free: [Ref::NONE; CLASS_COUNT],
            free_bits: [0; CLASS_COUNT.div_ceil(64)],
            used_len: 0,
        }
    }

    /// A block of `class`; what it holds is left over from its former life.
    ///
    /// # Panics
    /// When 32 GiB are in use: the memory budget of a shard ends long before.
    pub fn alloc(&mut self, class: Class) -> Ref {
        self.used_len += class.block_len();
        if let Some(block) = self.pop(class) {
            return block;
        }
        let twice = Class::holding((2 * class.block_len()).min(BLOCK_LEN_MAX));
        if let Some(larger) = self.free_class_from(twice).filter(|&larger| larger != class) {
            let block = self.pop(larger).expect("its bit says it has one");
            self.shelve(
                Ref(block.0 + (class.block_len() / UNIT_LEN) as u32),
                larger.block_len() - class.block_len(),
            );
            return block;
        }
        self.alloc_fresh(class)
    }

    /// Gives `block`, allocated as `class`, back.
    pub fn free(&mut self, block: Ref, class: Class) {
        self.used_len -= class.block_len();
        self.push(block, class);
    }

    /// The bytes from the start of `block` on; those past its end belong to others.
    ///
    /// # Panics
    /// When there never was such a block.
    #[inline]
    pub fn bytes(&self, block: Ref) -> &[u8] {
        let (chunk, offset) = place(block);
        &self.chunks[chunk][offset..]
    }

    /// As [`Arena::bytes`], to be written.
    #[inline]
    pub fn bytes_mut(&mut self, block: Ref) -> &mut [u8] {
        let (chunk, offset) = place(block);
        &mut self.chunks[chunk][offset..]
    }

    /// Copies `len` bytes from `from.1` bytes into block `from.0` to `to.1` bytes into `to.0`.
    pub fn copy(&mut self, from: (Ref, usize), to: (Ref, usize), len: usize) {
        let ((from_chunk, from_start), (to_chunk, to_start)) = (place(from.0), place(to.0));
        let source = from_start + from.1..from_start + from.1 + len;
        let target = to_start + to.1;
        if from_chunk == to_chunk {
            self.chunks[from_chunk].copy_within(source, target);
            return;
        }
        let [from, to] = self
            .chunks
            .get_disjoint_mut([from_chunk, to_chunk])
            .expect("two chunks, both of blocks that exist");
        to[target..target + len].copy_from_slice(&from[source]);
    }

    /// Asks for the first `len` bytes of `block` to be brought into the cache.
    #[inline]
    pub fn prefetch(&self, block: Ref, len: usize) {
        if let Some(first) = self.bytes(block).first() {
            prefetch(first, len);
        }
    }

    /// Bytes of the blocks in use, rounded up to their classes.
    pub fn used_len(&self) -> usize {
        self.used_len
    }

    /// Bytes taken from the system and touched: blocks in use and free ones.
    pub fn held_len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// Gives one chunk back to the system; false when none is left. No block may be used after.
    pub fn release_chunk(&mut self) -> bool {
        self.chunks.pop().is_some()
    }

    fn alloc_fresh(&mut self, class: Class) -> Ref {
        let len = class.block_len();
        if self.chunks.last().is_none_or(|last| last.room() < len) {
            self.open_chunk();
        }
        let chunk = self.chunks.len() - 1;
        let last = &mut self.chunks[chunk];
        let unit = chunk * UNITS_PER_CHUNK + last.len() / UNIT_LEN;
        last.extend(len, 0);
        Ref(u32::try_from(unit).expect("an arena is at most 32 GiB"))
    }

    /// Shelves what is left of the last chunk and opens the next. The first is no huge page before
    /// it is full, so that a partition that is hardly used costs what it holds.
    fn open_chunk(&mut self) {
        if let Some(last) = self.chunks.last_mut() {
            let (start, room) = (last.len(), last.room());
            last.extend(room, 0);
            let unit = (self.chunks.len() - 1) * UNITS_PER_CHUNK + start / UNIT_LEN;
            self.shelve(Ref(unit as u32), room);
        }
        if let ([first], Pages::Huge) = (&mut self.chunks[..], self.pages) {
            first.merge_pages();
        }
        let pages = if self.chunks.is_empty() { Pages::Small } else { self.pages };
        let mut chunk = Chunk::new(pages);
        if self.chunks.is_empty() {
            chunk.extend(UNIT_LEN, 0); // So that no block is called `Ref::NONE`.
        }
        self.chunks.push(chunk);
    }

    /// Puts `len` free bytes at `start` on the lists, as few and as large blocks as may be.
    fn shelve(&mut self, mut start: Ref, mut len: usize) {
        while len >= UNIT_LEN {
            let class = Class::within(len);
            self.push(start, class);
            start.0 += (class.block_len() / UNIT_LEN) as u32;
            len -= class.block_len();
        }
    }

    fn push(&mut self, block: Ref, class: Class) {
        let index = usize::from(class.0);
        let next = self.free[index];
        self.bytes_mut(block)[..4].copy_from_slice(&next.0.to_le_bytes());
        self.free[index] = block;
        self.free_bits[index / 64] |= 1 << (index % 64);
    }

    fn pop(&mut self, class: Class) -> Option<Ref> {
        let index = usize::from(class.0);
        let block = self.free[index];
        if block == Ref::NONE {
            return None;
        }
        let next = *self.bytes(block).first_chunk::<4>().expect("a block is at least a unit");
        let next = Ref(u32::from_le_bytes(next));
        self.free[index] = next;
        if next == Ref::NONE {
            self.free_bits[index / 64] &= !(1 << (index % 64));
        } else {
            // It was freed long ago if much is in flight: the next write finds it in the cache.
            self.prefetch(next, class.block_len().min(PREFETCH_LEN));
        }
        Some(block)
    }

    /// The smallest class, `from` or larger, with a free block.
    fn free_class_from(&self, from: Class) -> Option<Class> {
        let from = usize::from(from.0);
        let mut word = from / 64;
        let mut bits = self.free_bits[word] & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.free_bits.get(word)?;
        }
        Some(Class((word * 64 + bits.trailing_zeros() as usize) as u8))
    }
}

#[inline]
fn place(block: Ref) -> (usize, usize) {
    let unit = block.0 as usize;
    (unit / UNITS_PER_CHUNK, unit % UNITS_PER_CHUNK * UNIT_LEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn classes_hold_what_they_are_asked_for_and_waste_an_eighth_at_most() {
        for len in 1..=BLOCK_LEN_MAX {
            let class = Class::holding(len);
            let block_len = class.block_len();
            assert!(block_len >= len && block_len.is_multiple_of(UNIT_LEN), "{len} -> {block_len}");
            assert!(block_len - len < UNIT_LEN.max(len / 8), "{len} -> {block_len}");
            assert_eq!(Class::holding(block_len), class);
            assert!(len < UNIT_LEN || Class::within(len).block_len() <= len);
        }
        assert_eq!(usize::from(Class::holding(BLOCK_LEN_MAX).0), CLASS_COUNT - 1);
    }

    #[test]
    fn one_block_written_for_ever_holds_the_memory_of_two() {
        let mut arena = Arena::new(Pages::Small);
        let class = Class::holding(1_000);
        let mut block = arena.alloc(class);
        for _ in 0..10_000 {
            let next = arena.alloc(class);
            arena.free(block, class);
            block = next;
        }

        assert!(arena.held_len() <= 2 * class.block_len() + UNIT_LEN, "{}", arena.held_len());
        assert_eq!(arena.used_len(), class.block_len());
    }

    #[test]
    fn memory_of_large_blocks_serves_small_ones() {
        let mut arena = Arena::new(Pages::Small);
        let (large, small) = (Class::holding(64 << 10), Class::holding(64));
        let blocks: Vec<_> = (0..64).map(|_| arena.alloc(large)).collect();
        blocks.into_iter().for_each(|block| arena.free(block, large));
        let held_len = arena.held_len();

        for _ in 0..64 << 10 {
            arena.alloc(small);
        }

        assert_eq!(arena.held_len(), held_len);
    }

    fn len() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 1..600usize, 1 => 600..20_000usize, 1 => 100_000..BLOCK_LEN_MAX]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Each block is filled with a byte of its own: an overlap would overwrite it.
        #[test]
        fn blocks_never_overlap(
            ops in prop::collection::vec((any::<bool>(), len(), any::<u16>()), 1..200)
        ) {
            let mut arena = Arena::new(Pages::Small);
            let mut live: Vec<(Ref, usize, u8)> = Vec::new();
            for (at, (free, len, pick)) in ops.into_iter().enumerate() {
                if free && !live.is_empty() {
                    let (block, len, fill) = live.swap_remove(usize::from(pick) % live.len());
                    prop_assert!(arena.bytes(block)[..len].iter().all(|&byte| byte == fill));
                    arena.free(block, Class::holding(len));
                } else {
                    let block = arena.alloc(Class::holding(len));
                    prop_assert!(block != Ref::NONE);
                    let block_len = Class::holding(len).block_len();
                    arena.bytes_mut(block)[..block_len].fill(at as u8);
                    live.push((block, len, at as u8));
                }
            }
            for &(block, len, fill) in &live {
                prop_assert!(arena.bytes(block)[..len].iter().all(|&byte| byte == fill));
            }
            let used: usize = live.iter().map(|&(_, len, _)| Class::holding(len).block_len()).sum();
            prop_assert_eq!(arena.used_len(), used);
        }
    }
}
