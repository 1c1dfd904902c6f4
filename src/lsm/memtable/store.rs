//! Blocks with a meaning: nodes and records, laid out in the arena, and the large values beside it.
//!
//! ```text
//! block  := header key body slack
//! header := link:u32 home:u32 touches:u32 timestamp:u64 body_len:u32 word:u32   (28 bytes)
//! body   := expiry_ms:u64?  (bytes | index of a large value:u32)
//! word   := key_len:18 kind:2 shared:1 expires:1 class:8 uses:2
//! ```
//!
//! A *node* is a key: it stands in the index and in the order, never moves while anyone may name
//! it, and carries one version of its own. A *record* is one further version of a node: its key is
//! empty, `home` and `touches` mean nothing. `link` of a node names its newest record; the records
//! form a ring, `link` of each naming the next newer one and that of the newest the oldest. So the
//! newest is one step away for readers and the oldest two for commits, however many are in flight.

use std::sync::Arc;

use ahash::RandomState;

use super::arena::{Arena, BLOCK_LEN_MAX, Class, Ref};
use super::chunk::{Pages, prefetch};
use super::{Payload, Version};
use crate::id::Timestamp;
use crate::limits::{KEY_LEN_MAX, LARGE_LEN_MIN};

/// What a version says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The node has no version of its own: it was moved to a record, or rolled back.
    Void,
    Put,
    Delete,
}

const LINK: usize = 0;
const HOME: usize = 4;
const TOUCHES: usize = 8;
const TIMESTAMP: usize = 12;
const BODY_LEN: usize = 20;
const WORD: usize = 24;
const HEADER_LEN: usize = 28;

const KEY_LEN_BITS: u32 = 18;
const STATE_SHIFT: u32 = KEY_LEN_BITS;
const SHARED_BIT: u32 = 1 << 20;
const EXPIRES_BIT: u32 = 1 << 21;
const CLASS_SHIFT: u32 = 22;
const USES_SHIFT: u32 = 30;
const EXPIRY_LEN: usize = 8;
const SHARED_LEN: usize = 4;

/// Longest encoded key: every byte escaped, and room for prefix, terminator and sub-key.
pub const ENCODED_KEY_LEN_MAX: usize = 2 * KEY_LEN_MAX + 64;

const _: () = {
    assert!(ENCODED_KEY_LEN_MAX < 1 << KEY_LEN_BITS);
    assert!(HEADER_LEN + ENCODED_KEY_LEN_MAX + EXPIRY_LEN + LARGE_LEN_MIN <= BLOCK_LEN_MAX);
};

/// What a lookup brings into the cache of each block it may read: header, key, a small value.
const PREFETCH_LEN: usize = 192;

/// A header's last word, taken apart.
#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    fn new(key_len: usize, state: State, class: Class) -> Self {
        Self(key_len as u32 | ((state as u32) << STATE_SHIFT) | (u32::from(class.0) << CLASS_SHIFT))
    }

    fn key_len(self) -> usize {
        (self.0 & ((1 << KEY_LEN_BITS) - 1)) as usize
    }

    fn state(self) -> State {
        match (self.0 >> STATE_SHIFT) & 3 {
            0 => State::Void,
            1 => State::Put,
            _ => State::Delete,
        }
    }

    fn is_shared(self) -> bool {
        self.0 & SHARED_BIT != 0
    }

    fn expires(self) -> bool {
        self.0 & EXPIRES_BIT != 0
    }

    fn class(self) -> Class {
        Class((self.0 >> CLASS_SHIFT) as u8)
    }

    /// Key and class of `self`, the rest of `version`.
    fn with_version_of(self, version: Self) -> Self {
        const OF_VERSION: u32 = (3 << STATE_SHIFT) | SHARED_BIT | EXPIRES_BIT;
        Self((self.0 & !OF_VERSION) | (version.0 & OF_VERSION))
    }
}

/// A block, to be read: found once in the arena, whatever is asked of it.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    header: &'a [u8; HEADER_LEN],
    /// Key, body, and what is not the block's.
    rest: &'a [u8],
}

impl<'a> Block<'a> {
    #[inline]
    pub fn prefetch(self) {
        prefetch(self.header, PREFETCH_LEN);
    }

    #[inline]
    pub fn key(self) -> &'a [u8] {
        &self.rest[..self.word().key_len()]
    }

    /// [`Ref::NONE`]: the block's own version is the newest of the node.
    #[inline]
    pub fn link(self) -> Ref {
        Ref(u32_at(self.header, LINK))
    }

    #[inline]
    pub fn timestamp(self) -> Timestamp {
        Timestamp(u64_at(self.header, TIMESTAMP))
    }

    #[inline]
    fn word(self) -> Word {
        Word(u32_at(self.header, WORD))
    }

    #[inline]
    fn body(self) -> (Option<u64>, &'a [u8]) {
        let body_len = u32_at(self.header, BODY_LEN) as usize;
        let body = &self.rest[self.word().key_len()..][..body_len];
        if self.word().expires() {
            (Some(u64_at(body, 0)), &body[EXPIRY_LEN..])
        } else {
            (None, body)
        }
    }
}

/// Nodes, records and large values of one memtable. Lives on one core.
pub struct Store {
    arena: Arena,
    shared: Vec<Option<Arc<Vec<u8>>>>,
    shared_free: Vec<u32>,
    shared_len: usize,
    hasher: RandomState,
}

impl Store {
    pub fn new(seed: u64, pages: Pages) -> Self {
        let [a, b, c, d] = [1, 2, 3, 4].map(|step: u64| {
            // SplitMix64 (Steele, Lea, Flood, 2014): four unlike words of one seed.
            let mut word = seed.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^ (word >> 31)
        });
        Self {
            arena: Arena::new(pages),
            shared: Vec::new(),
            shared_free: Vec::new(),
            shared_len: 0,
            hasher: RandomState::with_seeds(a, b, c, d),
        }
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    pub fn hash_of(&self, node: Ref) -> u64 {
        self.hash(self.key(node))
    }

    #[inline]
    pub fn prefetch(&self, block: Ref) {
        self.arena.prefetch(block, PREFETCH_LEN);
    }

    /// A new block that holds `version` under `key` (empty: a record), linked to nothing.
    pub fn create(&mut self, key: &[u8], version: &Version<'_>, state: State) -> Ref {
        assert!(key.len() <= ENCODED_KEY_LEN_MAX, "an encoded key of {} bytes", key.len());
        let shared = match version.payload {
            Payload::Shared(value) => Some(self.share(Arc::clone(value))),
            Payload::Bytes(bytes) if bytes.len() >= LARGE_LEN_MIN => {
                Some(self.share(Arc::new(bytes.to_vec())))
            }
            Payload::Bytes(_) => None,
        };
        let index = shared.unwrap_or_default().to_le_bytes();
        let value = match version.payload {
            Payload::Bytes(bytes) if shared.is_none() => bytes,
            _ => &index,
        };
        let expiry_len = if version.expiry_ms.is_some() { EXPIRY_LEN } else { 0 };
        let body_len = expiry_len + value.len();
        let class = Class::holding(HEADER_LEN + key.len() + body_len);
        let mut word = Word::new(key.len(), state, class);
        word.0 |= if shared.is_some() { SHARED_BIT } else { 0 };
        word.0 |= if version.expiry_ms.is_some() { EXPIRES_BIT } else { 0 };

        let block = self.arena.alloc(class);
        let bytes = &mut self.arena.bytes_mut(block)[..class.block_len()];
        bytes[..TIMESTAMP].fill(0);
        bytes[TIMESTAMP..BODY_LEN].copy_from_slice(&version.timestamp.0.to_le_bytes());
        bytes[BODY_LEN..WORD].copy_from_slice(&(body_len as u32).to_le_bytes());
        bytes[WORD..HEADER_LEN].copy_from_slice(&word.0.to_le_bytes());
        let (key_bytes, body) = bytes[HEADER_LEN..].split_at_mut(key.len());
        key_bytes.copy_from_slice(key);
        if let Some(expiry_ms) = version.expiry_ms {
            body[..EXPIRY_LEN].copy_from_slice(&expiry_ms.to_le_bytes());
        }
        body[expiry_len..body_len].copy_from_slice(value);
        block
    }

    /// Frees a block and the large value it may hold.
    pub fn destroy(&mut self, block: Ref) {
        self.clear(block);
        let class = self.word(block).class();
        self.arena.free(block, class);
    }

    /// Makes the node's own version void and frees the large value it may hold.
    pub fn clear(&mut self, block: Ref) {
        let word = self.word(block);
        if word.is_shared() && word.state() != State::Void {
            let index = u32_at(self.block(block).body().1, 0);
            let freed = self.shared[index as usize].take().expect("a version owns its value");
            self.shared_len -= freed.len();
            self.shared_free.push(index);
        }
        self.set_word(block, word.with_version_of(Word(0)));
        self.set_u32(block, BODY_LEN, 0);
    }

    /// Moves the version of `record` into `node`, whose own must be void; the record is freed.
    /// False, and nothing happens, when it does not fit.
    pub fn adopt(&mut self, node: Ref, record: Ref) -> bool {
        let (to, from) = (self.word(node), self.word(record));
        debug_assert_eq!((to.state(), from.key_len()), (State::Void, 0));
        let body_len = self.body_len(record);
        if HEADER_LEN + to.key_len() + body_len > to.class().block_len() {
            return false;
        }
        self.arena.copy((record, HEADER_LEN), (node, HEADER_LEN + to.key_len()), body_len);
        self.arena.copy((record, TIMESTAMP), (node, TIMESTAMP), WORD - TIMESTAMP);
        self.set_word(node, to.with_version_of(from));
        // Not `destroy`: a large value has changed hands, not ended.
        self.arena.free(record, from.class());
        true
    }

    /// Replaces `node` by a new one in a block of its size that holds the version of `from`, which
    /// is its record or itself; both are freed.
    pub fn refit(&mut self, node: Ref, from: Ref) -> Ref {
        let (old, version) = (self.word(node), self.word(from));
        let body_len = self.body_len(from);
        let class = Class::holding(HEADER_LEN + old.key_len() + body_len);
        let new = self.arena.alloc(class);
        self.arena.copy((node, 0), (new, 0), HEADER_LEN + old.key_len());
        let body_at = HEADER_LEN + version.key_len();
        self.arena.copy((from, body_at), (new, HEADER_LEN + old.key_len()), body_len);
        self.arena.copy((from, TIMESTAMP), (new, TIMESTAMP), WORD - TIMESTAMP);
        let word = Word::new(old.key_len(), State::Void, class).with_version_of(version);
        self.set_word(new, word);
        self.set_link(new, Ref::NONE);
        if from != node {
            self.arena.free(from, version.class());
        }
        self.arena.free(node, old.class());
        new
    }

    /// Bytes a block of the right size would have for the node with the version of `from`, and
    /// bytes the node's block has.
    pub fn fit(&self, node: Ref, from: Ref) -> (usize, usize) {
        let word = self.word(node);
        let wanted = Class::holding(HEADER_LEN + word.key_len() + self.body_len(from));
        (wanted.block_len(), word.class().block_len())
    }

    /// Bytes of a block and of the large value it may hold.
    pub fn weight(&self, block: Ref) -> usize {
        let shared_len = match self.version(block) {
            Some(Version { payload: Payload::Shared(value), .. }) => {
                value.len() + size_of::<Option<Arc<Vec<u8>>>>()
            }
            _ => 0,
        };
        self.word(block).class().block_len() + shared_len
    }

    /// Whether what the block holds may lie in a node.
    pub fn is_inline(&self, block: Ref) -> bool {
        is_inline(self.body_len(block).saturating_sub(EXPIRY_LEN))
    }

    /// The block as readers see it.
    #[inline]
    pub fn block(&self, block: Ref) -> Block<'_> {
        let (header, rest) =
            self.arena.bytes(block).split_first_chunk().expect("a block is longer than its header");
        Block { header, rest }
    }

    #[inline]
    pub fn key(&self, node: Ref) -> &[u8] {
        self.block(node).key()
    }

    #[inline]
    pub fn state(&self, block: Ref) -> State {
        self.word(block).state()
    }

    #[inline]
    pub fn timestamp(&self, block: Ref) -> Timestamp {
        self.block(block).timestamp()
    }

    /// The expiry of a put, unix milliseconds.
    pub fn expiry_ms(&self, block: Ref) -> Option<u64> {
        let block = self.block(block);
        if block.word().state() == State::Put { block.body().0 } else { None }
    }

    /// The version a block holds; `None` when it is void.
    #[inline]
    pub fn version(&self, block: Ref) -> Option<Version<'_>> {
        self.version_in(self.block(block))
    }

    /// As [`Store::version`], of a block that was looked up.
    #[inline(always)] // As `Memtable::get`.
    pub fn version_in<'a>(&'a self, block: Block<'a>) -> Option<Version<'a>> {
        let word = block.word();
        let kind = match word.state() {
            State::Void => return None,
            State::Put => super::Kind::Put,
            State::Delete => super::Kind::Delete,
        };
        let (expiry_ms, value) = block.body();
        let payload = if word.is_shared() {
            let value = &self.shared[u32_at(value, 0) as usize];
            Payload::Shared(value.as_ref().expect("a version owns its value"))
        } else {
            Payload::Bytes(value)
        };
        Some(Version { timestamp: block.timestamp(), kind, expiry_ms, payload })
    }

    #[inline]
    pub fn link(&self, block: Ref) -> Ref {
        self.block(block).link()
    }

    pub fn set_link(&mut self, block: Ref, to: Ref) {
        self.set_u32(block, LINK, to.0);
    }

    /// The pile of the order that the node lies in.
    pub fn home(&self, node: Ref) -> u32 {
        u32_at(self.block(node).header, HOME)
    }

    pub fn set_home(&mut self, node: Ref, home: u32) {
        self.set_u32(node, HOME, home);
    }

    /// Uses of the node that count, up to 3.
    pub fn uses(&self, node: Ref) -> u32 {
        self.word(node).0 >> USES_SHIFT
    }

    pub fn set_uses(&mut self, node: Ref, uses: u32) {
        debug_assert!(uses < 4, "{uses} uses in two bits");
        let word = self.word(node).0 & !(3 << USES_SHIFT);
        self.set_word(node, Word(word | uses << USES_SHIFT));
    }

    /// How many puts and deletes of the node were neither committed nor rolled back.
    pub fn touches(&self, node: Ref) -> u32 {
        u32_at(self.block(node).header, TOUCHES)
    }

    pub fn set_touches(&mut self, node: Ref, touches: u32) {
        self.set_u32(node, TOUCHES, touches);
    }

    /// Bytes in use: blocks and large values.
    pub fn used_len(&self) -> usize {
        self.arena.used_len() + self.shared_len + self.table_len()
    }

    /// Bytes taken from the system.
    pub fn held_len(&self) -> usize {
        self.arena.held_len() + self.shared_len + self.table_len()
    }

    /// Frees one chunk or large value; false when none is left. Nothing may be read after.
    pub fn release_piece(&mut self) -> bool {
        self.shared.pop().is_some() || self.arena.release_chunk()
    }

    /// Bytes of the table of large values, without these.
    pub fn table_len(&self) -> usize {
        self.shared.capacity() * size_of::<Option<Arc<Vec<u8>>>>() + self.shared_free.capacity() * 4
    }

    fn share(&mut self, value: Arc<Vec<u8>>) -> u32 {
        self.shared_len += value.len();
        if let Some(index) = self.shared_free.pop() {
            self.shared[index as usize] = Some(value);
            return index;
        }
        self.shared.push(Some(value));
        u32::try_from(self.shared.len() - 1).expect("large values fill 256 TiB before")
    }

    #[inline]
    fn word(&self, block: Ref) -> Word {
        self.block(block).word()
    }

    fn set_word(&mut self, block: Ref, word: Word) {
        self.set_u32(block, WORD, word.0);
    }

    fn body_len(&self, block: Ref) -> usize {
        u32_at(self.block(block).header, BODY_LEN) as usize
    }

    fn set_u32(&mut self, block: Ref, at: usize, value: u32) {
        self.arena.bytes_mut(block)[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..].first_chunk().expect("a field lies inside its block");
    u32::from_le_bytes(*field)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..].first_chunk().expect("a field lies inside its block");
    u64::from_le_bytes(*field)
}

/// Whether a value of this length lies in the block of its node.
pub const fn is_inline(value_len: usize) -> bool {
    value_len <= INLINE_LEN_MAX
}

/// Values up to this length lie in the node's block, behind the key: one miss less per lookup.
/// Longer ones get a record of their own, so that a value that shrinks does not pin its block and a
/// commit seldom copies more than this. Bytes.
const INLINE_LEN_MAX: usize = 1 << 10;
const _: () = assert!(SHARED_LEN <= INLINE_LEN_MAX);
