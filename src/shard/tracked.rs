//! Which connections read which keys of this shard, and so have to be told when one changes.
//!
//! A key is kept from the first read on that is to be remembered until it changes: then its readers
//! are told once, and read it again if they want to hear of the next change. There is no list by
//! reader: one that is gone is forgotten when the key changes, or when the sweep comes by, which
//! goes through the whole table, some keys at a time, for all that were gone when it began. All are
//! forgotten when the last one on the node stops tracking. The table is bounded in bytes: when it
//! is full the key that was read first is given up, and its readers are told as if it had changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::env::ConnId;
use crate::id::ShardId;

/// A connection of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Which shard's.
    pub shard: ShardId,
    /// Its name there.
    pub conn: ConnId,
}

impl Client {
    pub(super) fn order(&self) -> (u16, u32, u32) {
        (self.shard.0, self.conn.index, self.conn.generation)
    }
}

/// The readers of a key.
pub type Readers = SmallVec<[Client; 1]>;

/// About the bytes of a key without its name: places in two tables, two counts.
const KEY_LEN: usize = 160;

struct Entry {
    /// Its place in the order of first reads.
    at: u64,
    /// Sorted.
    readers: Readers,
}

/// See the module's header.
pub(super) struct Tracked {
    keys: HashMap<Arc<[u8]>, Entry, ahash::RandomState>,
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    len: usize,
    /// Readers that are gone and that the sweep looks for, sorted.
    gone: Vec<Client>,
    /// Where in the order it is.
    swept: u64,
    /// Those for which it has to begin anew.
    gone_since: Vec<Client>,
}

impl Tracked {
    /// No keys; `seed` is for the table.
    pub fn new(seed: u64) -> Self {
        let keys = HashMap::with_hasher(ahash::RandomState::with_seeds(seed, 4, 5, 6));
        let (gone, gone_since) = (Vec::new(), Vec::new());
        Self { keys, order: BTreeMap::new(), next: 0, len: 0, gone, swept: 0, gone_since }
    }

    /// Notes that a connection has read a key.
    pub fn remember(&mut self, key: &[u8], reader: Client) {
        if let Some(Entry { readers, .. }) = self.keys.get_mut(key) {
            if let Err(at) = readers.binary_search_by_key(&reader.order(), Client::order) {
                readers.insert(at, reader);
                self.len += size_of::<Client>();
            }
            return;
        }
        let (name, at): (Arc<[u8]>, _) = (key.into(), self.next);
        self.next += 1;
        self.len += len_of(key, 1);
        self.order.insert(at, Arc::clone(&name));
        self.keys.insert(name, Entry { at, readers: smallvec::smallvec![reader] });
    }

    /// Forgets a key; who read it.
    pub fn take(&mut self, key: &[u8]) -> Readers {
        let Some(Entry { at, readers }) = self.keys.remove(key) else { return Readers::new() };
        self.order.remove(&at);
        self.len -= len_of(key, readers.len());
        readers
    }

    /// Forgets the key that was read first of all.
    pub fn take_oldest(&mut self) -> Option<(Arc<[u8]>, Readers)> {
        let (_, key) = self.order.first_key_value()?;
        let key = Arc::clone(key);
        let readers = self.take(&key);
        Some((key, readers))
    }

    /// A reader is gone: the sweep is to forget it.
    pub fn forget(&mut self, reader: Client) {
        if !self.keys.is_empty() {
            self.gone_since.push(reader);
        }
    }

    /// Goes on with the sweep, through `count` keys.
    pub fn sweep(&mut self, count: usize) {
        if self.gone.is_empty() {
            self.gone = std::mem::take(&mut self.gone_since);
            self.gone.sort_unstable_by_key(Client::order);
            self.swept = 0;
        }
        if self.gone.is_empty() {
            return;
        }
        let keys = self.order.range(self.swept..).take(count);
        let keys: Vec<_> = keys.map(|(at, key)| (*at, Arc::clone(key))).collect();
        for (_, key) in &keys {
            let Entry { readers, .. } = self.keys.get_mut(key).expect("it is in both tables");
            let (gone, before) = (&self.gone, readers.len());
            readers.retain(|reader| {
                gone.binary_search_by_key(&reader.order(), Client::order).is_err()
            });
            self.len -= (before - readers.len()) * size_of::<Client>();
            if readers.is_empty() {
                self.take(key);
            }
        }
        match keys.last() {
            Some((at, _)) if keys.len() == count => self.swept = at + 1,
            _ => self.gone.clear(),
        }
    }

    /// Forgets all; who read anything, some more than once.
    pub fn take_readers(&mut self) -> Readers {
        let readers = self.keys.drain().flat_map(|(_, entry)| entry.readers).collect();
        self.clear();
        readers
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.gone.clear();
        self.gone_since.clear();
        self.keys.clear();
        self.order.clear();
        self.len = 0;
    }

    /// Keys.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// About the bytes held.
    pub fn held_len(&self) -> usize {
        self.len
    }
}

fn len_of(key: &[u8], readers: usize) -> usize {
    KEY_LEN + key.len() + readers * size_of::<Client>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(shard: u16, index: u32) -> Client {
        Client { shard: ShardId(shard), conn: ConnId { index, generation: 1 } }
    }

    #[test]
    fn a_key_has_each_reader_once_until_it_is_taken() {
        let mut tracked = Tracked::new(1);
        for reader in [reader(1, 0), reader(0, 9), reader(1, 0), reader(0, 2)] {
            tracked.remember(b"k", reader);
        }

        assert_eq!(tracked.count(), 1);
        assert_eq!(tracked.take(b"k")[..], [reader(0, 2), reader(0, 9), reader(1, 0)]);
        assert!(tracked.take(b"k").is_empty());
        assert_eq!((tracked.count(), tracked.held_len()), (0, 0));
    }

    #[test]
    fn the_sweep_forgets_who_was_gone_when_it_began_and_nobody_else() {
        let mut tracked = Tracked::new(1);
        let (one, two) = (reader(0, 1), reader(1, 1));
        let name = |n: u32| format!("key {n}").into_bytes();
        for n in 0..100 {
            for (reader, others) in [(one, 1), (two, 0)] {
                if n % 3 != others {
                    tracked.remember(&name(n), reader);
                }
            }
        }
        tracked.forget(one);
        tracked.sweep(30);
        // It has gone by the keys that this one reads.
        tracked.forget(two);
        (0..3).for_each(|_| tracked.sweep(30));
        tracked.take(&name(1));
        assert_eq!(tracked.count(), 65, "34 were of the first alone, one has changed");
        assert_eq!(tracked.take(&name(2))[..], [two]);

        (0..4).for_each(|_| tracked.sweep(30));

        assert_eq!((tracked.count(), tracked.held_len()), (0, 0));
        tracked.remember(b"k", reader(0, 1));
        tracked.sweep(30);
        assert_eq!(tracked.count(), 1, "a new one at its place is another");
    }

    #[test]
    fn the_oldest_is_the_one_read_first_and_not_changed_since() {
        let mut tracked = Tracked::new(1);
        for key in ["a", "b", "c", "a"] {
            tracked.remember(key.as_bytes(), reader(0, 1));
        }
        tracked.take(b"a");
        tracked.remember(b"a", reader(0, 1));

        let order = std::iter::from_fn(|| tracked.take_oldest()).map(|(key, _)| key);
        assert_eq!(order.collect::<Vec<_>>(), [b"b".as_slice(), b"c", b"a"].map(Arc::from));
        assert_eq!(tracked.held_len(), 0);
    }
}
