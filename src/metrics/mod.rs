//! Counters and gauges: written by one shard, read by any.
//!
//! Each shard has a [`ShardStats`] of its own cache lines. Only its owner writes, so a write is a
//! plain load and store; a reader sums over the shards and may see counts a moment apart.

mod calls;
mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};

pub use calls::{COMMANDS_MAX, CallStats, CommandStats};
pub use histogram::{Distribution, Histogram};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Stat(AtomicU64);

impl Stat {
    /// Adds; for the owner.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; for the owner.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Replaces; for the owner.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The newest value seen here.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gauges of one database on one shard.
#[derive(Debug, Default)]
pub struct DbStats {
    /// Keys.
    pub keys: Stat,
    /// Keys with a deadline.
    pub expiring: Stat,
    /// Of those, the ones in memory.
    pub deadlines: Stat,
    /// Mean of their deadlines, milliseconds since 1970.
    pub deadline_mean_ms: Stat,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one shard counts. Gauges say so; all else only rises, or is reset.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardStats {
            $($(#[$doc])* pub $name: Stat,)*
            /// Keys by database.
            pub dbs: [DbStats; 16],
            /// Calls by command.
            pub calls: CallStats,
        }

        /// A [`ShardStats`] read out, or the sum of several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            /// Adds what `stats` shows.
            pub fn add(&mut self, stats: &ShardStats) {
                $(self.$name = self.$name.wrapping_add(stats.$name.get());)*
            }
        }
    };
}

stats! {
    /// Gauge: open client connections.
    clients,
    /// Connections accepted.
    connections_received,
    /// Connections refused at the limit.
    connections_rejected,
    /// Commands run.
    commands,
    /// Gauge: commands run in the last whole second.
    commands_per_s,
    /// Error replies.
    errors,
    /// Bytes received from clients.
    received_bytes,
    /// Pieces in which they came.
    receives,
    /// Bytes sent to clients.
    sent_bytes,
    /// Pieces in which they went.
    sends,
    /// Gauge: bytes received from clients in the last whole second.
    received_per_s,
    /// Gauge: bytes sent to clients in the last whole second.
    sent_per_s,
    /// Reads that found their key.
    keyspace_hits,
    /// Reads that did not.
    keyspace_misses,
    /// Keys deleted because their time was over.
    expired_keys,
    /// Keys deleted to give others room.
    evicted_keys,
    /// Gauge: keys.
    keys,
    /// Gauge: keys with a deadline.
    expiring_keys,
    /// Gauge: bytes held by memtables.
    memtable_bytes,
    /// Gauge: bytes held for connections (partial requests and unsent replies).
    connection_bytes,
    /// Gauge: bytes of the newest entries of the log, which are in memory for replicas.
    log_bytes,
    /// Gauge: bytes appended to the log and not yet durable.
    wal_backlog_bytes,
    /// Bytes appended to the log, headers and padding included.
    wal_bytes,
    /// Log entries committed.
    entries_committed,
    /// Flushes to tables that the manifest has.
    flushes,
    /// Rows that were read from tables because they were not in memory.
    rows_fetched,
    /// Rows that left memory because it was short; tables have them.
    rows_evicted,
    /// Writes that waited for room in memory, or in the log.
    writes_slowed,
    /// Gauge: bytes of memory that open tables take: filters and indexes.
    table_memory_bytes,
    /// Bytes of rows that scrubs have read.
    scrubbed_bytes,
    /// Times that all tables were read by one.
    scrub_cycles,
    /// Tables that one found damaged.
    scrub_errors,
    /// Gauge: seconds since the bytes of tables were verified that were not for the longest time;
    /// of several shards the highest counts, not the sum.
    unverified_s,
    /// Gauge: shards whose disk is too slow to lead.
    slow_disks,
    /// Gauge: shards that refuse writes because their disk is full.
    full_disks,
    /// Gauge: 1 while log writes are followed by a sync, since those that sync themselves were held
    /// up.
    held_up_logs,
    /// Compactions that the manifest has.
    compactions,
    /// Gauge: tables.
    tables,
    /// Gauge: bytes of all tables.
    table_bytes,
    /// Requests sent to other shards.
    forwarded_requests,
    /// Snapshots that were begun for replicas that lack the log.
    snapshots_begun,
    /// Bytes of tables that were sent to them.
    snapshot_bytes,
    /// Keys that were read from replicas that follow.
    follower_reads,
    /// Commands that might have been answered by such a replica, and were not: what it had was too
    /// old, or nobody knew how old.
    follower_reads_too_old,
    /// Answers whose clients asked for no more than the leader's disk.
    answers_leader,
    /// Answers whose clients asked for no disk.
    answers_relaxed,
    /// Turns of the shard's loop.
    turns,
    /// Times the core slept.
    parks,
    /// Times a task held the core too long.
    stalls,
    /// Tasks that panicked.
    panics,
    /// Times that a subscriber left so much unread that its own commands wait.
    subscribers_slowed,
    /// Gauge: channels with subscribers.
    pubsub_channels,
    /// Gauge: patterns with subscribers.
    pubsub_patterns,
    /// Gauge: channels of slots with subscribers.
    pubsub_shard_channels,
    /// Connections closed because they left too much unread for too long.
    subscribers_closed,
    /// Commands that MONITOR did not show.
    monitor_left_out,
    /// Gauge: connections whose next command waits for a pause to end.
    blocked_clients,
    /// Gauge: connections that are told of changes.
    tracking_clients,
    /// Gauge: keys that connections read and are told of.
    tracked_keys,
    /// Such keys that were given up because there were too many.
    tracked_evicted,
}

impl ShardStats {
    /// Counts a read of a key; for the owner.
    #[inline]
    pub fn note_read(&self, hit: bool) {
        if hit { &self.keyspace_hits } else { &self.keyspace_misses }.add(1);
    }

    /// Sets what is counted since the last `CONFIG RESETSTAT` back to 0; for the owner.
    pub fn reset(&self) {
        for stat in [
            &self.connections_received,
            &self.connections_rejected,
            &self.commands,
            &self.errors,
            &self.received_bytes,
            &self.receives,
            &self.sent_bytes,
            &self.sends,
            &self.keyspace_hits,
            &self.keyspace_misses,
            &self.expired_keys,
            &self.evicted_keys,
            &self.subscribers_slowed,
            &self.subscribers_closed,
            &self.monitor_left_out,
        ] {
            stat.set(0);
        }
        self.calls.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_over_shards() {
        let shards = [ShardStats::default(), ShardStats::default()];
        shards[0].keys.add(3);
        shards[1].keys.add(4);
        shards[1].keys.sub(1);

        let mut totals = Totals::default();
        shards.iter().for_each(|stats| totals.add(stats));

        assert_eq!((totals.keys, totals.commands), (6, 0));
    }
}
