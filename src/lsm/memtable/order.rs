//! The ordered index: the nodes of a memtable by key.
//!
//! Nodes lie in *piles* of at most 512, each a range of keys, found through a B-tree of the piles'
//! lower bounds. A pile has no inner order until a scan comes to it and sorts it. So a new key
//! costs a descent through the bounds, which stay in the cache (one per some 350 keys), and one
//! store; no node is read until its pile is full and is split at its median. A node names its pile,
//! so that it can be taken out or replaced without a descent. Overwrites do not come here at all.
//!
//! Why not a B-tree or a skip list of the nodes: each insert then reads log2(n) keys, most of them
//! outside the cache (10 M keys: std's B-tree 2.1 us per insert, one run; this memtable 1.1 to
//! 1.7). Why not all lazily: the first scan of ten million keys would sort them and hold the core
//! for seconds; here the most that one step does is to sort or split one pile, some 70 us (512 keys
//! of ordinary length at 130 ns). What would change it: scans that matter more than inserts, since
//! a scan reads nodes from all over the arena (`bench-results/memtable.md`).

use std::collections::BTreeMap;

use super::arena::Ref;
use super::store::Store;

/// Nodes of a pile; it is split when there are more.
const PILE_COUNT_MAX: usize = 512;

/// A pile of fewer is joined to its left neighbour if there is room.
const PILE_COUNT_MIN: usize = PILE_COUNT_MAX / 8;

/// A key, cut so that most comparisons are of two integers in the tree's own nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    /// The first eight bytes, big-endian, zeroes behind a shorter key.
    head: u64,
    key: Vec<u8>,
}

impl Bound {
    /// Becomes the bound of `key`; keeps its allocation.
    fn set(&mut self, key: &[u8]) {
        let mut head = [0; 8];
        let len = key.len().min(8);
        head[..len].copy_from_slice(&key[..len]);
        self.head = u64::from_be_bytes(head);
        self.key.clear();
        self.key.extend_from_slice(key);
    }
}

#[derive(Default)]
struct Pile {
    nodes: Vec<Ref>,
    is_sorted: bool,
}

/// The order of one memtable. Lives on one core.
pub struct Order {
    /// Lower bound of each pile, and its place in `piles`. The first bound is the empty key.
    bounds: BTreeMap<Bound, u32>,
    piles: Vec<Pile>,
    /// Places in `piles` that hold none.
    spare: Vec<u32>,
    /// Kept for its allocation.
    wanted: Bound,
    bound_bytes: usize,
}

impl Order {
    pub fn new() -> Self {
        Self {
            bounds: BTreeMap::from([(Bound::default(), 0)]),
            piles: vec![Pile::default()],
            spare: Vec::new(),
            wanted: Bound::default(),
            bound_bytes: 0,
        }
    }

    /// Adds a node, under `key`, which is its key.
    pub fn insert(&mut self, key: &[u8], node: Ref, store: &mut Store) {
        let number = self.pile_of(key);
        let pile = &mut self.piles[number as usize];
        pile.nodes.push(node);
        pile.is_sorted = pile.nodes.len() == 1;
        store.set_home(node, number);
        if pile.nodes.len() > PILE_COUNT_MAX {
            self.split(number, store);
        }
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: Ref, store: &mut Store) {
        let number = store.home(node);
        let at = self.place_of(number, node);
        let pile = &mut self.piles[number as usize];
        if pile.is_sorted {
            pile.nodes.remove(at);
        } else {
            pile.nodes.swap_remove(at);
        }
        if pile.nodes.len() < PILE_COUNT_MIN {
            self.wanted.set(store.key(node));
            self.join(number, store);
        }
    }

    /// Puts `new`, which has the same key and home, in the place of `old`.
    pub fn replace(&mut self, old: Ref, new: Ref, store: &Store) {
        let number = store.home(new);
        let at = self.place_of(number, old);
        self.piles[number as usize].nodes[at] = new;
    }

    /// The nodes, in order, of the first pile that may hold keys from `key` on, and the bound of
    /// the pile after it. Sorts the pile if it is not.
    pub fn pile_from(&mut self, key: &[u8], store: &Store) -> (&[Ref], Option<Vec<u8>>) {
        let number = self.pile_of(key);
        let after = (std::ops::Bound::Excluded(&self.wanted), std::ops::Bound::Unbounded);
        let next = self.bounds.range(after).next().map(|(bound, _)| bound.key.clone());
        let pile = &mut self.piles[number as usize];
        if !pile.is_sorted {
            pile.nodes.iter().for_each(|&node| store.prefetch(node));
            pile.nodes.sort_unstable_by(|&a, &b| store.key(a).cmp(store.key(b)));
            pile.is_sorted = true;
        }
        (&pile.nodes, next)
    }

    /// Bytes taken from the system.
    pub fn held_len(&self) -> usize {
        // A pile's array doubles up to the bound; a B-tree node is two thirds full or so.
        let piles = self.piles.len() * (size_of::<Pile>() + PILE_COUNT_MAX * size_of::<Ref>());
        piles + self.bounds.len() * 3 * (size_of::<Bound>() + 4) / 2 + self.bound_bytes
    }

    /// Frees one pile and its bound; false when none is left. Nothing may be asked after.
    pub fn release_piece(&mut self) -> bool {
        self.bounds.pop_last();
        self.piles.pop().is_some()
    }

    /// The pile whose range holds `key`. Leaves the bound of `key` in `wanted`.
    fn pile_of(&mut self, key: &[u8]) -> u32 {
        self.wanted.set(key);
        let found = self.bounds.range(..=&self.wanted).next_back();
        *found.expect("the first bound is the empty key").1
    }

    fn place_of(&self, number: u32, node: Ref) -> usize {
        let found = self.piles[number as usize].nodes.iter().position(|&other| other == node);
        found.unwrap_or_else(|| panic!("{node:?} is not in pile {number}, its home"))
    }

    fn split(&mut self, number: u32, store: &mut Store) {
        let nodes = &mut self.piles[number as usize].nodes;
        nodes.iter().for_each(|&node| store.prefetch(node));
        let middle = nodes.len() / 2;
        nodes.select_nth_unstable_by(middle, |&a, &b| store.key(a).cmp(store.key(b)));
        let mut upper = Vec::with_capacity(PILE_COUNT_MAX + 1);
        upper.extend(nodes.drain(middle..));
        let mut bound = Bound::default();
        bound.set(store.key(upper[0]));
        self.bound_bytes += bound.key.len();

        let fresh = self.spare.pop().unwrap_or_else(|| {
            self.piles.push(Pile::default());
            self.piles.len() as u32 - 1
        });
        upper.iter().for_each(|&node| store.set_home(node, fresh));
        self.piles[fresh as usize] = Pile { nodes: upper, is_sorted: false };
        self.bounds.insert(bound, fresh);
    }

    /// Moves the few nodes of pile `number`, in whose range `wanted` lies, to the pile on its left.
    fn join(&mut self, number: u32, store: &mut Store) {
        let mut below = self.bounds.range(..=&self.wanted).rev();
        let (Some((bound, _)), Some((_, &left))) = (below.next(), below.next()) else { return };
        let count = self.piles[number as usize].nodes.len();
        if count + self.piles[left as usize].nodes.len() > PILE_COUNT_MAX / 2 {
            return;
        }
        let bound = bound.clone();
        self.bounds.remove(&bound);
        self.bound_bytes -= bound.key.len();
        let moved = std::mem::take(&mut self.piles[number as usize].nodes);
        moved.iter().for_each(|&node| store.set_home(node, left));
        let pile = &mut self.piles[left as usize];
        pile.nodes.extend(moved);
        pile.is_sorted = false;
        self.spare.push(number);
    }
}
