//! Who of a shard's connections listens to what, and what the other shards have to know of it.
//!
//! The table is the shard's own. The others see its [`Interest`]: counts of subscriptions by a hash
//! of the channel, written by the shard alone before the subscription is confirmed, so that a
//! message published after the confirmation finds the count. A count may stand for another channel
//! of the same hash: the message comes and finds nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::glob;
use crate::command::pubsub::Kind;
use crate::env::ConnId;

/// Counts of an [`Interest`], per kind of channel.
const BUCKETS: usize = 512;

/// What other shards know of one shard's subscriptions.
pub struct Interest {
    patterns: AtomicU32,
    channels: [AtomicU32; BUCKETS],
    shard_channels: [AtomicU32; BUCKETS],
}

impl Default for Interest {
    fn default() -> Self {
        let none = || std::array::from_fn(|_| AtomicU32::new(0));
        Self { patterns: AtomicU32::new(0), channels: none(), shard_channels: none() }
    }
}

impl Interest {
    fn count(&self, kind: Kind, name: &[u8]) -> &AtomicU32 {
        match kind {
            Kind::Pattern => &self.patterns,
            Kind::Channel => &self.channels[bucket(name)],
            Kind::Shard => &self.shard_channels[bucket(name)],
        }
    }

    /// Whether somebody there may listen to this channel.
    pub fn may_want(&self, kind: Kind, channel: &[u8]) -> bool {
        let by_pattern = kind == Kind::Channel && self.patterns.load(Ordering::Acquire) > 0;
        by_pattern || self.count(kind, channel).load(Ordering::Acquire) > 0
    }

    /// For the owner.
    fn note(&self, kind: Kind, name: &[u8], subscribes: bool) {
        let count = self.count(kind, name);
        let now = count.load(Ordering::Relaxed);
        count.store(if subscribes { now + 1 } else { now - 1 }, Ordering::Release);
    }
}

/// The same on all shards.
fn bucket(name: &[u8]) -> usize {
    xxhash_rust::xxh3::xxh3_64(name) as usize % BUCKETS
}

/// The subscriptions of one connection.
struct Own {
    id: ConnId,
    names: [BTreeSet<Arc<[u8]>>; 3],
}

type Table = HashMap<Arc<[u8]>, Vec<ConnId>, ahash::RandomState>;

/// See the module's header.
pub struct Channels {
    channels: Table,
    shard_channels: Table,
    /// In order, so that messages by several patterns come in one.
    patterns: BTreeMap<Arc<[u8]>, Vec<ConnId>>,
    /// By the index of the connection.
    own: BTreeMap<u32, Own>,
    /// Of names and places in lists.
    len: usize,
}

/// Beside the name: entries in two tables and a list.
const SUBSCRIPTION_LEN: usize = 96;

impl Channels {
    /// None; `seed` is for the tables.
    pub fn new(seed: u64) -> Self {
        let hasher = || ahash::RandomState::with_seeds(seed, 1, 2, 3);
        Self {
            channels: HashMap::with_hasher(hasher()),
            shard_channels: HashMap::with_hasher(hasher()),
            patterns: BTreeMap::new(),
            own: BTreeMap::new(),
            len: 0,
        }
    }

    /// Adds a subscription; false if it was there.
    pub fn add(&mut self, conn: ConnId, kind: Kind, name: &[u8], interest: &Interest) -> bool {
        let of = || Own { id: conn, names: Default::default() };
        let own = self.own.entry(conn.index).or_insert_with(of);
        assert_eq!(own.id, conn, "a connection that is gone kept its subscriptions");
        let names = &mut own.names[kind as usize];
        if names.contains(name) {
            return false;
        }
        let name: Arc<[u8]> = name.into();
        names.insert(Arc::clone(&name));
        self.len += name.len() + SUBSCRIPTION_LEN;
        interest.note(kind, &name, true);
        match kind {
            Kind::Channel => self.channels.entry(name).or_default().push(conn),
            Kind::Shard => self.shard_channels.entry(name).or_default().push(conn),
            Kind::Pattern => self.patterns.entry(name).or_default().push(conn),
        }
        true
    }

    /// Ends a subscription; false if there was none.
    pub fn remove(&mut self, conn: ConnId, kind: Kind, name: &[u8], interest: &Interest) -> bool {
        let Some(own) = self.own.get_mut(&conn.index) else { return false };
        if !own.names[kind as usize].remove(name) {
            return false;
        }
        if own.names.iter().all(BTreeSet::is_empty) {
            self.own.remove(&conn.index);
        }
        self.len -= name.len() + SUBSCRIPTION_LEN;
        interest.note(kind, name, false);
        let listeners = match kind {
            Kind::Channel => self.channels.get_mut(name),
            Kind::Shard => self.shard_channels.get_mut(name),
            Kind::Pattern => self.patterns.get_mut(name),
        };
        let listeners = listeners.expect("a connection's subscription is in the table");
        // Order among subscribers is nobody's business, but the same seed must give the same.
        listeners.retain(|listener| *listener != conn);
        if listeners.is_empty() {
            match kind {
                Kind::Channel => drop(self.channels.remove(name)),
                Kind::Shard => drop(self.shard_channels.remove(name)),
                Kind::Pattern => drop(self.patterns.remove(name)),
            }
        }
        true
    }

    /// What a connection listens to, in order.
    pub fn names_of(&self, conn: ConnId, kind: Kind) -> Vec<Arc<[u8]>> {
        let own = self.own.get(&conn.index);
        own.map_or_else(Vec::new, |own| own.names[kind as usize].iter().cloned().collect())
    }

    /// Who listens to this channel itself.
    pub fn listeners(&self, kind: Kind, channel: &[u8]) -> &[ConnId] {
        let table = if kind == Kind::Shard { &self.shard_channels } else { &self.channels };
        table.get(channel).map_or(&[], Vec::as_slice)
    }

    /// Patterns that match this channel, and who listens to each.
    pub fn matching(&self, channel: &[u8]) -> impl Iterator<Item = (&Arc<[u8]>, &[ConnId])> {
        let all = self.patterns.iter();
        all.filter(|(pattern, _)| glob::matches(pattern, channel, false))
            .map(|(pattern, listeners)| (pattern, listeners.as_slice()))
    }

    /// All names of a kind, in no order.
    pub fn names(&self, kind: Kind) -> Vec<&[u8]> {
        match kind {
            Kind::Channel => self.channels.keys().map(AsRef::as_ref).collect(),
            Kind::Shard => self.shard_channels.keys().map(AsRef::as_ref).collect(),
            Kind::Pattern => self.patterns.keys().map(AsRef::as_ref).collect(),
        }
    }

    /// How many names of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel => self.channels.len(),
            Kind::Shard => self.shard_channels.len(),
            Kind::Pattern => self.patterns.len(),
        }
    }

    /// Whether anybody listens to anything.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// About the bytes held.
    pub fn held_len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 7 }
    }

    #[test]
    fn a_subscription_counts_once_and_is_seen_by_others_until_its_end() {
        let (mut channels, interest) = (Channels::new(1), Interest::default());

        assert!(channels.add(conn(1), Kind::Channel, b"news", &interest));
        assert!(!channels.add(conn(1), Kind::Channel, b"news", &interest));
        assert!(channels.add(conn(2), Kind::Channel, b"news", &interest));
        assert_eq!(channels.listeners(Kind::Channel, b"news"), [conn(1), conn(2)]);
        assert!(interest.may_want(Kind::Channel, b"news"));
        assert!(!interest.may_want(Kind::Shard, b"news"));

        assert!(channels.remove(conn(1), Kind::Channel, b"news", &interest));
        assert!(!channels.remove(conn(1), Kind::Channel, b"news", &interest));
        assert!(interest.may_want(Kind::Channel, b"news"));
        assert!(channels.remove(conn(2), Kind::Channel, b"news", &interest));
        assert!(!interest.may_want(Kind::Channel, b"news"));
        assert!(channels.is_empty() && channels.held_len() == 0);
    }

    #[test]
    fn a_pattern_makes_every_channel_wanted_but_those_of_slots() {
        let (mut channels, interest) = (Channels::new(1), Interest::default());
        channels.add(conn(1), Kind::Pattern, b"n*", &interest);

        assert!(interest.may_want(Kind::Channel, b"anything"));
        assert!(!interest.may_want(Kind::Shard, b"anything"));
        assert_eq!(channels.matching(b"news").count(), 1);
        assert_eq!(channels.matching(b"other").count(), 0);
    }

    #[test]
    fn names_of_the_kinds_are_apart() {
        let (mut channels, interest) = (Channels::new(1), Interest::default());
        for kind in KINDS {
            channels.add(conn(3), kind, b"x", &interest);
        }

        for kind in KINDS {
            assert_eq!((channels.count(kind), channels.names(kind)), (1, vec![&b"x"[..]]));
            for name in channels.names_of(conn(3), kind) {
                assert!(channels.remove(conn(3), kind, &name, &interest));
            }
        }
        assert!(channels.is_empty());
    }
}
