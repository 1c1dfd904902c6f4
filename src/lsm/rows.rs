//! Some rows of a memtable, copied out: what passes from the loop, which may look into memtables,
//! to a background task, which may wait for the disk.
//!
//! Invariant: rows come out as they went in, in the same order.

use std::ops::Range;
use std::sync::Arc;

use super::memtable::{Kind, Payload, Version};
use crate::id::Timestamp;

/// See the module's header. Kept and reused, so that copying allocates nothing once it has grown.
#[derive(Debug, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    rows: Vec<Row>,
    shared_len: usize,
}

#[derive(Debug)]
struct Row {
    key: Range<usize>,
    timestamp: Timestamp,
    kind: Kind,
    expiry_ms: Option<u64>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Copied(Range<usize>),
    Shared(Arc<Vec<u8>>),
}

impl Rows {
    /// Copies a row in; of a large value the reference.
    pub fn push(&mut self, key: &[u8], version: &Version<'_>) {
        let key = self.copy(key);
        let value = match version.payload {
            Payload::Bytes(bytes) => Value::Copied(self.copy(bytes)),
            Payload::Shared(value) => {
                self.shared_len += value.len();
                Value::Shared(Arc::clone(value))
            }
        };
        let Version { timestamp, kind, expiry_ms, .. } = *version;
        self.rows.push(Row { key, timestamp, kind, expiry_ms, value });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of keys and values, large ones included.
    pub fn byte_len(&self) -> usize {
        self.bytes.len() + self.shared_len
    }

    /// The row of that number.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, at: usize) -> (&[u8], Version<'_>) {
        let row = &self.rows[at];
        let payload = match &row.value {
            Value::Copied(range) => Payload::Bytes(&self.bytes[range.clone()]),
            Value::Shared(value) => Payload::Shared(value),
        };
        let Row { timestamp, kind, expiry_ms, .. } = *row;
        (&self.bytes[row.key.clone()], Version { timestamp, kind, expiry_ms, payload })
    }

    /// Forgets all rows; keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.shared_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in() {
        let large = Arc::new(vec![7; 100]);
        let put = |payload| Version {
            timestamp: Timestamp(5),
            kind: Kind::Put,
            expiry_ms: Some(9),
            payload,
        };
        let gone = Version {
            timestamp: Timestamp(6),
            kind: Kind::Delete,
            expiry_ms: None,
            payload: Payload::Bytes(&[]),
        };
        let given: [(&[u8], Version<'_>); 3] = [
            (b"a", put(Payload::Bytes(b"value"))),
            (b"b", gone),
            (b"c", put(Payload::Shared(&large))),
        ];
        let mut rows = Rows::default();
        rows.push(b"of before", &gone);
        rows.clear();

        given.iter().for_each(|(key, version)| rows.push(key, version));

        assert_eq!((rows.count(), rows.byte_len()), (3, 3 + 5 + 100));
        given.iter().enumerate().for_each(|(at, row)| assert_eq!(rows.get(at), *row));
    }
}
