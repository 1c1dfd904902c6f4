//! How many requests of each connection wait, so that what comes after them waits too.

use std::collections::HashMap;

use crate::env::ConnId;
use crate::id::ShardId;

/// A connection, by its shard.
pub type Whose = (ShardId, ConnId);

/// Names of connections are not the clients' to choose.
pub const HASHER: ahash::RandomState = ahash::RandomState::with_seeds(1, 2, 3, 4);

/// See the module's header. Lives on one core.
pub struct Tally(HashMap<Whose, u32, ahash::RandomState>);

impl Default for Tally {
    fn default() -> Self {
        Self(HashMap::with_hasher(HASHER))
    }
}

impl Tally {
    /// One more.
    pub fn add(&mut self, whose: Whose) {
        *self.0.entry(whose).or_default() += 1;
    }

    /// One less.
    pub fn remove(&mut self, whose: Whose) {
        if let Some(count) = self.0.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&whose);
            }
        }
    }

    /// Whether there are any.
    pub fn has(&self, whose: Whose) -> bool {
        self.0.contains_key(&whose)
    }
}
