//! Edits for tests.

use super::{Edit, Keys, PartitionState, ShardState, TableEntry};
use crate::id::{Lsn, PartitionId, ShardId, Timestamp};
use crate::lsm::block::{Meta, Origin, Statistics};
use crate::wal::format::LogId;

pub const LOG: LogId =
    LogId { directory: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, shard: ShardId(3) };

/// Another shard's.
pub const OTHER: LogId = LogId { directory: 77, shard: ShardId(300) };

/// A table with that number.
pub fn table(number: u64) -> TableEntry {
    let statistics = Statistics {
        row_count: 10 * number,
        put_count: 9 * number,
        delete_count: number,
        timestamp_min: Timestamp(number),
        timestamp_max: Timestamp(2 * number),
        ..Statistics::default()
    };
    TableEntry {
        partition: PartitionId(number as u32 % 4),
        level: (number % 3) as u8,
        meta: Meta {
            log: LOG,
            number,
            origin: number.is_multiple_of(3).then_some(Origin { log: OTHER, number: number + 100 }),
            file_len: 4096 * number,
            checksum: 7 * number,
            statistics,
            smallest: format!("a{number}").into_bytes(),
            largest: vec![b'z'; number as usize % 90],
        },
    }
}

/// Adds table `number`, removes some, and brings its partition and the shard forward.
pub fn edit(number: u64, remove: Vec<u64>) -> Edit {
    let entry = table(number);
    let state = PartitionState {
        index: number,
        index_term: 1,
        term: 2,
        vote: 3,
        flushed: Timestamp(number),
        floor: (number % 2, number),
        clock: Timestamp(number + 1),
        log_from: Lsn(512 * number),
        roster: vec![9; number as usize % 4].into(),
        sessions: vec![8; number as usize % 3].into(),
    };
    let shard = ShardState { number_next: number + 1, blob_last: 5, log_from: Lsn(4096 * number) };
    let keys = Keys { partition: entry.partition, db: 1, keys: 8 * number, expiring: number };
    Edit {
        keys: vec![keys],
        partitions: vec![(entry.partition, state)],
        add: vec![entry],
        remove,
        shard: Some(shard),
    }
}
