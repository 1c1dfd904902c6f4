//! The numbers that name things: slots, partitions, shards, places in the log, versions.
//!
//! Each is a newtype, so that a slot can not be passed for a partition. They order as their
//! numbers do and print as plain numbers.

use std::fmt;
use std::num::NonZeroU64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One of 16,384 hash buckets of the keyspace: CRC16/XMODEM of the key or of its `{hash tag}`.
    Slot(u16)
}
id! {
    /// A contiguous range of slots: one Raft group and one tree. Numbered from 0 in slot order.
    PartitionId(u32)
}
id! {
    /// One core's thread and all it owns. Numbered from 0 on its node.
    ShardId(u16)
}
id! {
    /// A process of the cluster; never reused, never 0.
    NodeId(u64)
}
id! {
    /// A place in a shard's log: bytes appended before it in the log's life, block headers and
    /// padding included. Rises from segment to segment without a gap.
    Lsn(u64)
}
id! {
    /// The version of a write: hybrid logical clock, unix milliseconds in the upper 48 bits and a
    /// counter in the lower 16. Given by the leader, rising within a partition.
    Timestamp(u64)
}

impl Timestamp {
    /// The first timestamp of a millisecond.
    pub fn from_ms(unix_ms: u64) -> Self {
        Self(unix_ms << 16)
    }

    /// Unix milliseconds.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The next timestamp after `self` at wall time `now_ms`: never before either.
    pub fn next(self, now_ms: u64) -> Self {
        Self((self.0 + 1).max(now_ms << 16))
    }
}

/// Who a client says it is that wants each of its writes done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    /// Random; the client's choice.
    pub id: [u8; 16],
    /// When it began: a [`Timestamp`] that a node gave.
    pub born: NonZeroU64,
}

/// Names a write that is done once, however often it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Once {
    /// Whose it is.
    pub session: SessionId,
    /// The client's number for it, rising.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_rise_when_the_wall_clock_falls() {
        let first = Timestamp::default().next(1_000);

        let second = first.next(10);

        assert_eq!(first, Timestamp::from_ms(1_000));
        assert!(second > first && second.ms() == 1_000);
    }
}
