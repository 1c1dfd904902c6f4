//! What a replica's rows come to: the same at all replicas that have applied the same entries.
//!
//! For who checks that they do ([`crate::cluster::Witness`]); it looks at every row.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::Partition;
use crate::lsm::memtable::{Kind, Payload, Version};

impl Partition {
    /// The newest entry that is applied, and a digest of all keys with their values, versions and
    /// deadlines. `None`: the rows here are not all of those, or some that are not committed.
    pub fn digest(&self) -> Option<(u64, u64)> {
        let is_settled = self.is_ready() && self.newest_uncommitted().is_none();
        let is_exact = (is_settled && !self.is_copying()) || self.shows_committed();
        if !is_exact || self.is_partial() {
            return None;
        }
        let (mut rows, mut cursor) = (BTreeMap::new(), 0);
        loop {
            cursor = self.memtable.walk(cursor, |key, version| {
                if version.kind == Kind::Put {
                    rows.insert(xxh3_64(key), row(&version));
                }
            });
            if cursor == 0 {
                break;
            }
        }
        let digest = rows
            .iter()
            .fold(0_u64, |sum, (key, row)| sum.rotate_left(1) ^ key.wrapping_mul(row | 1));
        Some((self.committed.index, digest))
    }
}

fn row(version: &Version<'_>) -> u64 {
    let value = match version.payload {
        Payload::Bytes(bytes) => bytes,
        Payload::Shared(value) => value.as_slice(),
    };
    let head = [version.timestamp.0, version.expiry_ms.unwrap_or(0), xxh3_64(value)];
    xxh3_64(&head.map(u64::to_le_bytes).concat())
}
