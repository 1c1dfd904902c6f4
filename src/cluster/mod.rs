//! Where things are: slots in partitions, partitions on shards.
//!
//! On one node the map is arithmetic: partitions are equal ranges of slots, and each shard has an
//! equal run of neighbouring partitions, so that a shard's slots are one contiguous range and
//! `CLUSTER SLOTS` is one line per shard. All nodes of a cluster have the same map: each has its
//! replica of a partition on the shard of that number ([`members`]). Which nodes there are is what
//! they have agreed on ([`topology`]); who of them is to have replicas follows from it
//! ([`placement`]), and what a leader does to that end ([`plan`]). Nodes that are not heard of for
//! long are done without ([`absent`]). A cluster may follow another ([`standby`]). Whether replicas
//! agree shows to a [`witness`].

mod absent;
mod members;
mod placement;
mod plan;
mod standby;
mod told;
mod topology;
mod witness;

use std::ops::Range;

pub use absent::Absent;
pub use members::{Follower, Members, NOWHERE, ReplicaSet};
pub use plan::{Step, Wanted, next};
pub use standby::{Fed, Source};
pub use told::{PartitionStatus, Told};
pub use topology::{
    Action, Member, REPLICAS, REPLICAS_MAX, Refusal, State, Topology, check_replicas, text_of,
};
pub use witness::{Sighting, Witness};

use crate::id::{PartitionId, ShardId, Slot};
use crate::limits::SLOT_COUNT;

/// The map of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMap {
    shards: u16,
    partitions_per_shard: u32,
}

impl SlotMap {
    /// `shards` shards of `partitions_per_shard` partitions each.
    ///
    /// # Panics
    /// Without shards or partitions, or with more partitions than slots.
    pub fn new(shards: u16, partitions_per_shard: u32) -> Self {
        let partitions = u32::from(shards) * partitions_per_shard;
        assert!(
            partitions > 0 && partitions <= u32::from(SLOT_COUNT),
            "{shards} shards of {partitions_per_shard} partitions do not share {SLOT_COUNT} slots"
        );
        Self { shards, partitions_per_shard }
    }

    /// How many shards.
    pub fn shard_count(&self) -> u16 {
        self.shards
    }

    /// How many partitions each shard has.
    pub fn partitions_per_shard(&self) -> u32 {
        self.partitions_per_shard
    }

    /// How many partitions in all.
    pub fn partition_count(&self) -> u32 {
        u32::from(self.shards) * self.partitions_per_shard
    }

    /// The partition of a slot.
    pub fn partition_of(&self, slot: Slot) -> PartitionId {
        PartitionId(u32::from(slot.0) * self.partition_count() / u32::from(SLOT_COUNT))
    }

    /// The shard of a partition.
    pub fn shard_of(&self, partition: PartitionId) -> ShardId {
        ShardId((partition.0 / self.partitions_per_shard) as u16)
    }

    /// The slots of a partition.
    pub fn slots_of(&self, partition: PartitionId) -> Range<u16> {
        let first = |n: u32| (n * u32::from(SLOT_COUNT)).div_ceil(self.partition_count()) as u16;
        first(partition.0)..first(partition.0 + 1)
    }

    /// The slots of a shard.
    pub fn slots_of_shard(&self, shard: ShardId) -> Range<u16> {
        let first = u32::from(shard.0) * self.partitions_per_shard;
        let last = first + self.partitions_per_shard - 1;
        self.slots_of(PartitionId(first)).start..self.slots_of(PartitionId(last)).end
    }

    /// The partitions of a shard.
    pub fn partitions_of(&self, shard: ShardId) -> Range<u32> {
        let first = u32::from(shard.0) * self.partitions_per_shard;
        first..first + self.partitions_per_shard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_partition_and_the_ranges_agree() {
        for (shards, per_shard) in [(1, 1), (1, 16), (3, 7), (64, 16), (16, 64)] {
            let map = SlotMap::new(shards, per_shard);
            for partition in 0..map.partition_count() {
                for slot in map.slots_of(PartitionId(partition)) {
                    assert_eq!(map.partition_of(Slot(slot)), PartitionId(partition));
                }
            }
            let ranges = (0..shards).map(|shard| map.slots_of_shard(ShardId(shard)));
            let end = ranges.fold(0, |end, range| {
                assert_eq!(range.start, end, "no gap, no overlap");
                range.end
            });
            assert_eq!(end, SLOT_COUNT);
        }
    }
}
