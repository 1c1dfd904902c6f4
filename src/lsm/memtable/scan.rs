//! Iteration in key order.

use super::Version;
use super::arena::Ref;
use super::order::Order;
use super::store::{State, Store};
use crate::id::Timestamp;

/// Keys in order, each with its newest version not newer than the scan's timestamp, tombstones
/// included. Keys that have no such version are passed over.
///
/// A step is cheap but for each 350th or so, which sorts the next pile of keys (some 70 us at
/// most). Stop at any time and resume with [`super::Memtable::scan`] from the successor of the last
/// key seen (the key and a zero byte).
pub struct Scan<'a> {
    store: &'a Store,
    order: &'a mut Order,
    at: Timestamp,
    /// What is left of the current pile, last first.
    nodes: Vec<Ref>,
    next: Option<Vec<u8>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(store: &'a Store, order: &'a mut Order, from: &[u8], at: Timestamp) -> Self {
        let mut scan = Self { store, order, at, nodes: Vec::new(), next: None };
        scan.open_pile(from);
        scan
    }

    fn open_pile(&mut self, from: &[u8]) {
        let (nodes, next) = self.order.pile_from(from, self.store);
        let start = nodes.partition_point(|&node| self.store.key(node) < from);
        self.nodes.clear();
        self.nodes.extend(nodes[start..].iter().rev());
        self.next = next;
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = (&'a [u8], Version<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(node) = self.nodes.pop() else {
                let from = self.next.take()?;
                self.open_pile(&from);
                continue;
            };
            if let Some(version) = version_at(self.store, node, self.at) {
                return Some((self.store.key(node), version));
            }
        }
    }
}

/// The block with the newest version of `node`: its newest record, else itself.
#[inline]
pub(super) fn head_of(store: &Store, node: Ref) -> Ref {
    let newest = store.link(node);
    if newest == Ref::NONE { node } else { newest }
}

/// The newest version of `node` not newer than `at`.
pub(super) fn version_at(store: &Store, node: Ref, at: Timestamp) -> Option<Version<'_>> {
    let newest = head_of(store, node);
    if store.timestamp(newest) <= at {
        return store.version(newest);
    }
    if newest == node {
        return None;
    }
    // Versions in flight are newer than what readers ask for, so the oldest mostly ends the walk.
    let own = store.state(node) != State::Void && store.timestamp(node) <= at;
    let mut found = own.then_some(node);
    let mut record = store.link(newest);
    while store.timestamp(record) <= at {
        found = Some(record);
        record = store.link(record);
    }
    store.version(found?)
}
