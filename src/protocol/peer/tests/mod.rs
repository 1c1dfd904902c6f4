//! Tests of the codec: golden frames, properties, hostile bytes.

mod golden;
mod greeting;
mod properties;

use super::{Batch, Kind, finish, start};
use crate::consensus::{Entry, EntryKind, Message};
use crate::id::PartitionId;

/// A frame whose body `body` appends.
fn framed(kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let at = start(&mut out);
    body(&mut out);
    finish(&mut out, at, kind).expect("it is short");
    out
}

/// One frame of messages; an entry's payload is [`payload`].
fn raft_frame<'a>(messages: impl IntoIterator<Item = &'a (PartitionId, Message)>) -> Vec<u8> {
    let (mut batch, mut out) = (Batch::default(), Vec::new());
    for (partition, message) in messages {
        let pushed = batch.push(&mut out, *partition, message, |entry, out| {
            out.extend_from_slice(&payload(entry));
        });
        pushed.expect("it is short");
    }
    batch.end(&mut out);
    out
}

/// Bytes that tell one entry's payload from another's.
fn payload(entry: &Entry) -> Vec<u8> {
    let len = if entry.kind == EntryKind::Empty { 0 } else { entry.handle.len };
    (0..len).map(|n| (entry.index + u64::from(n)) as u8).collect()
}
