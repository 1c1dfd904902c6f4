//! The search for an order: Wing and Gong's, with Lowe's list and memory.
//!
//! Calls and returns stand in a list in order of time. What is called before the first return may
//! come next in the order; it is then lifted out of the list with its return. When a return is met,
//! its call should have come before: the last choice is undone. A set of calls done and the state
//! that it led to is visited once (G. Lowe, "Testing for linearizability", 2017): without that
//! memory a few dozen overlapping calls take for ever.

use std::collections::HashSet;

use super::{Call, Value};

/// What a place of the list is.
#[derive(Clone, Copy)]
enum Place {
    Called(usize),
    /// A return, or the end of the list.
    Wall,
}

/// Which calls are done, without the full words in front and the empty ones behind; the number of
/// full ones; and the state.
type Seen = (usize, Box<[u64]>, Value);

/// The place before the first.
const HEAD: usize = 0;

/// A search over the calls of one key.
pub(super) struct Search<'a> {
    calls: &'a [Call],
    list: Vec<Place>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Of each call: the places of its call and, if it has one, its return.
    places: Vec<(usize, Option<usize>)>,
    done: Vec<u64>,
    state: Value,
    /// Answered calls that are not done.
    left: usize,
    seen: HashSet<Seen, ahash::RandomState>,
    steps: u64,
}

impl<'a> Search<'a> {
    pub fn new(calls: &'a [Call]) -> Self {
        // A return and a call at the same time overlap: calls first.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
        for (at, call) in calls.iter().enumerate() {
            events.push((call.called, false, at));
            events.extend(call.returned.map(|(when, _)| (when, true, at)));
        }
        events.sort_unstable();
        let mut places = vec![(HEAD, None); calls.len()];
        let mut list = vec![Place::Wall];
        for (_, is_return, call) in &events {
            let here = list.len();
            if *is_return {
                places[*call].1 = Some(here);
                list.push(Place::Wall);
            } else {
                places[*call].0 = here;
                list.push(Place::Called(*call));
            }
        }
        list.push(Place::Wall);
        let end = list.len() - 1;
        Self {
            calls,
            next: (0..list.len()).map(|at| (at + 1).min(end)).collect(),
            previous: (0..list.len()).map(|at| at.saturating_sub(1)).collect(),
            list,
            places,
            done: vec![0; calls.len().div_ceil(64)],
            state: None,
            left: events.len() - calls.len(),
            seen: HashSet::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)),
            steps: 0,
        }
    }

    /// Visits what can be reached until `is_found`. Whether it was; `None` after `steps_max` steps.
    pub fn run(&mut self, steps_max: u64, mut is_found: impl FnMut(&Self) -> bool) -> Option<bool> {
        let mut undo: Vec<(usize, Value)> = Vec::new();
        let mut at = self.next[HEAD];
        if is_found(self) {
            return Some(true);
        }
        while self.steps < steps_max {
            self.steps += 1;
            match self.list[at] {
                Place::Called(call) => match self.choose(call) {
                    Some(state) => {
                        if is_found(self) {
                            return Some(true);
                        }
                        undo.push((call, state));
                        at = self.next[HEAD];
                    }
                    None => at = self.next[at],
                },
                Place::Wall => {
                    let Some((call, state)) = undo.pop() else { return Some(false) };
                    self.put_back(call, state);
                    at = self.next[self.places[call].0];
                }
            }
        }
        None
    }

    /// Whether every answer is explained.
    pub fn explains_all(&self) -> bool {
        self.left == 0
    }

    /// Whether this call is done.
    pub fn has(&self, call: usize) -> bool {
        self.done[call / 64] & 1 << (call % 64) != 0
    }

    /// What the key holds after what is done.
    pub fn state(&self) -> Value {
        self.state
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Makes `call` the next in the order, if its answer allows that and it leads somewhere new.
    /// The state before.
    fn choose(&mut self, call: usize) -> Option<Value> {
        let (answer, after) = self.calls[call].op.apply(self.state);
        match self.calls[call].returned {
            Some((_, told)) if told != answer => return None,
            // Without effect it might as well never happen.
            None if after == self.state => return None,
            _ => {}
        }
        self.done[call / 64] |= 1 << (call % 64);
        if !self.seen.insert(self.seen_now(after)) {
            self.done[call / 64] &= !(1 << (call % 64));
            return None;
        }
        let (called, returned) = self.places[call];
        self.lift(called);
        if let Some(returned) = returned {
            self.lift(returned);
            self.left -= 1;
        }
        Some(std::mem::replace(&mut self.state, after))
    }

    fn put_back(&mut self, call: usize, state: Value) {
        let (called, returned) = self.places[call];
        if let Some(returned) = returned {
            self.lower(returned);
            self.left += 1;
        }
        self.lower(called);
        self.done[call / 64] &= !(1 << (call % 64));
        self.state = state;
    }

    fn seen_now(&self, state: Value) -> Seen {
        let full = self.done.iter().take_while(|word| **word == u64::MAX).count();
        let rest = &self.done[full..];
        let len = rest.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        (full, rest[..len].into(), state)
    }

    fn lift(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn lower(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[after] = at;
    }
}
