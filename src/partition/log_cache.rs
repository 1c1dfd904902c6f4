//! What the newest entries of a replicated log say: for the followers that need them, and to be
//! applied here once they are committed.
//!
//! Beside Raft's own list of entries ([`crate::consensus`]), which knows their terms and lengths
//! alone. A cache in that its oldest entries go when it has grown too long, those that are applied;
//! a follower that needs them then gets a snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use super::together::log_blob;
use crate::env::Env;
use crate::mvcc::{self, BlobRef, Effect, Logged};
use crate::wal::Writer;

/// What an entry takes besides its bytes.
const ITEM_LEN: usize = 64;

/// Entries that go at a time: some 50 us.
const TRIMMED_MAX: usize = 1024;

/// A large value that an entry names.
pub type Blob = (BlobRef, Arc<Vec<u8>>);

/// An entry's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its effects; nothing if it is an entry without a payload.
    pub payload: Box<[u8]>,
    /// The large values that they name.
    pub blobs: Vec<Blob>,
}

impl Content {
    /// Bytes that it stands for.
    pub fn byte_len(&self) -> usize {
        self.payload.len() + self.blobs.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// One of its large values.
    pub fn blob(&self, of: BlobRef) -> Option<Arc<Vec<u8>>> {
        self.blobs.iter().find(|(held, _)| held.id == of.id).map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Logs the large values, each under a name that this shard's log has not had yet.
    pub(super) fn log_blobs<E: Env>(&mut self, log: &mut Writer<E>, blob_next: &mut u64) {
        if self.blobs.is_empty() {
            return;
        }
        let mut names = Vec::new();
        for (blob, _) in &mut self.blobs {
            *blob_next += 1;
            names.push((blob.id, *blob_next));
            blob.id = *blob_next;
        }
        let new = |id| names.iter().find(|(old, _)| *old == id).map_or(id, |(_, new)| *new);
        // Effects that are a blob themselves name others.
        let inner = Self::stands_for(&self.payload);
        mvcc::rename_blobs(&mut self.payload, new);
        for (blob, bytes) in &mut self.blobs {
            if inner.is_some_and(|inner| new(inner) == blob.id) {
                mvcc::rename_blobs(Arc::make_mut(bytes).as_mut_slice(), new);
            }
            let mut at = 0;
            while at < bytes.len() {
                at = log_blob(log, *blob, bytes, at);
            }
        }
    }

    /// The blob that the payload stands for.
    fn stands_for(payload: &[u8]) -> Option<u64> {
        match mvcc::decode(payload).next() {
            Some(Ok(Effect::Elsewhere { blob, .. })) => Some(blob.id),
            _ => None,
        }
    }

    /// The large values that effects name, each with whether it is effects itself.
    pub fn named(payload: &[u8]) -> impl Iterator<Item = (BlobRef, bool)> + '_ {
        mvcc::decode(payload).flatten().filter_map(|effect| match effect {
            Effect::Put { value: Logged::Blob(blob), .. } => Some((blob, false)),
            Effect::Elsewhere { blob, .. } => Some((blob, true)),
            _ => None,
        })
    }
}

struct Item {
    term: u64,
    content: Content,
}

/// See the module's header. Entries are without a gap.
pub struct LogCache {
    /// The entry before the first, and its term.
    base: (u64, u64),
    items: VecDeque<Item>,
    len: usize,
    len_max: usize,
}

impl LogCache {
    /// Empty behind the entry `base` of a term; keeps about `len_max` bytes.
    pub fn new(base: (u64, u64), len_max: usize) -> Self {
        Self { base, items: VecDeque::new(), len: 0, len_max }
    }

    /// Forgets all entries; the first that comes is behind this one, of a term.
    pub fn begin_anew(&mut self, base: (u64, u64)) {
        self.items.clear();
        (self.base, self.len) = (base, 0);
    }

    /// The entry before the first, and its term.
    pub fn base(&self) -> (u64, u64) {
        self.base
    }

    /// The newest entry.
    pub fn last(&self) -> u64 {
        self.base.0 + self.items.len() as u64
    }

    /// The term of an entry that is here, or of the one before.
    pub fn term(&self, index: u64) -> Option<u64> {
        match index == self.base.0 {
            true => Some(self.base.1),
            false => self.item(index).map(|item| item.term),
        }
    }

    /// What an entry says.
    pub fn get(&self, index: u64) -> Option<&Content> {
        self.item(index).map(|item| &item.content)
    }

    /// Its terms and contents, from the first on.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, &Content)> + '_ {
        let items = self.items.iter().map(|item| (item.term, &item.content));
        (self.base.0 + 1..).zip(items).map(|(index, (term, content))| (index, term, content))
    }

    /// Bytes held.
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// Adds an entry in place of all from its index on.
    ///
    /// # Panics
    /// If there is a gap before it.
    pub fn push(&mut self, index: u64, term: u64, content: Content) {
        let (base, last) = (self.base.0, self.last());
        assert!(index > base && index <= last + 1, "entry {index} to a cache of ({base}, {last}]");
        while self.last() >= index {
            self.len -= self.items.pop_back().map_or(0, |item| len_of(&item.content));
        }
        self.len += len_of(&content);
        self.items.push_back(Item { term, content });
    }

    /// Lets the oldest entries go while there are too many bytes, or all if nobody `needs` them;
    /// none behind `applied`, and so many at a time that nobody notices. The first that is kept
    /// follows the returned index.
    pub fn trim(&mut self, applied: u64, needs: bool) -> u64 {
        let len_max = if needs { self.len_max } else { 0 };
        for _ in 0..TRIMMED_MAX {
            if self.len <= len_max || self.base.0 >= applied {
                break;
            }
            let Some(item) = self.items.pop_front() else { break };
            self.len -= len_of(&item.content);
            self.base = (self.base.0 + 1, item.term);
        }
        self.base.0
    }

    fn item(&self, index: u64) -> Option<&Item> {
        self.items.get(index.checked_sub(self.base.0 + 1)? as usize)
    }
}

fn len_of(content: &Content) -> usize {
    ITEM_LEN + content.byte_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Content {
        Content { payload: vec![7; len].into(), blobs: Vec::new() }
    }

    #[test]
    fn an_entry_takes_the_place_of_all_from_its_index_on() {
        let mut cache = LogCache::new((10, 2), 1 << 20);
        (11..15).for_each(|index| cache.push(index, 2, content(index as usize)));

        cache.push(12, 3, content(1));

        assert_eq!((cache.last(), cache.term(12), cache.term(13)), (12, Some(3), None));
        assert_eq!(cache.get(11).map(|content| content.payload.len()), Some(11));
        assert_eq!(cache.byte_len(), 2 * ITEM_LEN + 11 + 1);
    }

    #[test]
    fn the_oldest_that_are_applied_go_and_no_others() {
        let mut cache = LogCache::new((0, 0), 1000);
        (1..=10).for_each(|index| cache.push(index, index, content(400)));

        assert_eq!(cache.trim(3, true), 3, "what is not applied stays, however long it is");
        assert_eq!((cache.base(), cache.term(3), cache.get(3)), ((3, 3), Some(3), None));
        assert_eq!(cache.trim(10, true), 8, "two of 464 bytes are fewer than 1000");
        assert_eq!(cache.byte_len(), 2 * (ITEM_LEN + 400));
    }
}
