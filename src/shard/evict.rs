//! A cache that is full (`--engine memory` with a `maxmemory-policy`): keys leave, so that writes
//! go on.
//!
//! When more memory is used than is to be, the partitions that are led here look for victims in
//! turn, each as much as is too much ([`crate::partition::Partition::evict`]). What a deleted key
//! leaves, its name and the word that it is deleted, stays in memory until that is in a table: it
//! counts as given back here, and is given back by flushes, which begin earlier while there is much
//! of it. Writers who are faster than that are slowed, as everywhere ([`super::room`]).
//!
//! What other nodes lead, they look after: all nodes of a cluster should have the same memory and
//! the same policy.

use super::Shard;
use crate::env::Env;
use crate::eviction::Eviction;
use crate::partition::Partition;

/// Steps of a hand in a turn, of some seven keys each: a turn full of pipelined writes brings some
/// 800 keys, and with 48 steps victims did not keep up. All are made only where most keys are used.
const STEPS_MAX: usize = 256;

/// What deleted keys leave is flushed early when it is more than this part of the memory that is
/// kept free.
const DEAD_SHARE: usize = 8;

impl<E: Env> Shard<E> {
    /// From now on these keys leave. It is for rows that never leave memory otherwise.
    pub fn set_eviction(&mut self, eviction: Eviction) {
        if self.room.set_eviction(eviction) {
            self.partitions.iter_mut().for_each(|partition| partition.count_uses(eviction));
        }
    }

    /// Has keys leave until no more than `target` bytes are used, a few in a turn.
    pub(super) fn evict_some(&mut self, target: usize) {
        let dead_len = self.partitions.iter().map(|partition| partition.memtable().dead_len());
        let dead_len = dead_len.sum::<usize>();
        self.room.awaits_flush = dead_len > (self.memory_max - target) / DEAD_SHARE;
        let leaving_len = self.partitions.iter_mut().map(Partition::leaving_len).sum::<usize>();
        let wanted_len = self.memory_used.saturating_sub(dead_len + leaving_len + target);
        if wanted_len == 0 || !self.may_sweep() {
            return;
        }
        let count = self.partitions.len();
        let mut places = (1..=count).map(|nth| (self.room.hand + nth) % count);
        let Some(place) = places.find(|place| self.leads(*place as u32)) else { return };
        self.room.hand = place;
        let mut keys = std::mem::take(&mut self.expired_keys);
        let (eviction, now_ms) = (self.room.eviction, self.now_ms);
        let limits = (wanted_len, STEPS_MAX);
        let steps = self.partitions[place].evict(eviction, limits, now_ms, &mut keys);
        self.room.idle_steps = if keys.is_empty() { self.room.idle_steps + steps } else { 0 };
        if !keys.is_empty() {
            if self.changes.are_observed() {
                self.set_caller(None);
                self.note_evicted(place as u32, &keys);
            }
            self.touch(place as u32);
            self.stats.evicted_keys.add(keys.len() as u64);
        }
        self.expired_keys = keys;
        let led = self.partitions.iter().filter(|partition| partition.is_leader());
        let all_steps: usize = led.map(|partition| partition.memtable().step_count()).sum();
        self.room.is_stuck = self.room.idle_steps > all_steps;
        if !self.room.is_stuck {
            self.env.notify();
        }
    }
}
