//! Several keys judged in one step, and entries of any length.
//!
//! [`Partition::judge`] looks all keys of a command up, lets it decide, and proposes what it
//! decided. What was found is borrowed from the memtable that is about to change, so that effects
//! are copied out first. Effects of one step are in one entry, since an entry is sealed only
//! between steps ([`crate::shard::Shard::end_together`]); one that outgrew a log record is logged
//! as a blob, and the entry says which ([`Effect::Elsewhere`]).

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Before, Partition, arg_of};
use crate::command::{self, Event, Found};
use crate::env::Env;
use crate::id::{PartitionId, Timestamp};
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::memtable::Payload;
use crate::mvcc::{BlobRef, Effect, Logged};
use crate::wal::{self, RecordKind, Writer};

/// Bytes of a blob in one log record.
pub const BLOB_CHUNK_LEN: usize = 512 << 10;

/// A longer entry is logged as a blob, bytes.
const ENTRY_LEN_MAX: usize = 512 << 10;

/// A key of a command: its hash and its encoding.
pub type Key<'a> = (u64, &'a [u8]);

/// What has to be done to a key, by its number among the command's keys.
#[derive(Debug)]
pub struct Decided {
    /// Which key.
    pub key: usize,
    /// What.
    pub what: What,
    /// As what it is published.
    pub event: Event,
}

/// See [`Decided`].
#[derive(Debug)]
pub enum What {
    /// The key holds these bytes.
    Put(Vec<u8>, Option<u64>),
    /// The key holds these bytes, which have to be in the log first.
    PutLarge(Arc<Vec<u8>>, Option<u64>),
    /// The key is gone.
    Delete,
}

impl What {
    fn of(effect: command::Effect<'_>) -> Option<(Self, Event)> {
        let (value, expiry_ms, event) = match effect {
            command::Effect::None => return None,
            command::Effect::Delete(event) => return Some((Self::Delete, event)),
            command::Effect::Put { value, expiry_ms, event } => (value, expiry_ms, event),
        };
        let bytes = value.as_slice();
        let what = match value {
            command::NewValue::Shared(value) if bytes.len() >= LARGE_LEN_MIN => {
                Self::PutLarge(Arc::clone(value), expiry_ms)
            }
            command::NewValue::Owned(value) if bytes.len() >= LARGE_LEN_MIN => {
                Self::PutLarge(Arc::new(value.into_vec()), expiry_ms)
            }
            _ if bytes.len() >= LARGE_LEN_MIN => {
                Self::PutLarge(Arc::new(bytes.to_vec()), expiry_ms)
            }
            _ => Self::Put(bytes.to_vec(), expiry_ms),
        };
        Some((what, event))
    }
}

impl Partition {
    /// Looks `keys` up and lets `run` decide on what they hold. Returns what it decided, and the
    /// entry that a reply telling of what was found has to wait for.
    pub fn judge<'a>(
        &'a self,
        keys: &[Key<'_>],
        now_ms: u64,
        run: impl FnOnce(&[Option<Found<'a>>]) -> command::Effects<'a>,
    ) -> (SmallVec<[Decided; 2]>, Option<u64>) {
        let mut hold = None;
        let found = keys.iter().map(|(hash, key)| {
            let (version, entry) = self.find(*hash, key);
            hold = hold.max(entry);
            version.filter(|version| !command::is_expired(version.expiry_ms, now_ms)).map(
                |version| Found { value: arg_of(version.payload), expiry_ms: version.expiry_ms },
            )
        });
        let found: SmallVec<[_; 4]> = found.collect();
        let effects = run(&found);
        let decided = effects.into_iter().filter_map(|(key, effect)| {
            let (what, event) = What::of(effect)?;
            Some(Decided { key, what, event })
        });
        (decided.collect(), hold)
    }

    /// Proposes that a key hold `value`, which is not large; returns the entry to wait for.
    pub fn put(
        &mut self,
        (hash, key): Key<'_>,
        value: &[u8],
        expiry_ms: Option<u64>,
        now_ms: u64,
    ) -> u64 {
        let timestamp = self.clock.next(now_ms);
        let logged = Logged::Inline(value);
        Effect::Put { key, timestamp, expiry_ms, value: logged }.encode(&mut self.payload);
        let before = Before::of(key, &self.memtable);
        let entry = self.memtable.put(hash, key, timestamp, expiry_ms, Payload::Bytes(value));
        self.took(timestamp, entry, before);
        self.next_index()
    }

    /// If the open entry is too long for a record: logs its effects as the blob `blob_next + 1`,
    /// and makes an entry of it that says so.
    pub(super) fn spill<E: Env>(&mut self, log: &mut Writer<E>, blob_next: &mut u64) {
        if self.payload.len() <= ENTRY_LEN_MAX {
            return;
        }
        *blob_next += 1;
        let blob = BlobRef { id: *blob_next, len: self.payload.len() as u64 };
        let mut at = 0;
        while at < self.payload.len() {
            at = log_blob(log, blob, &self.payload, at);
        }
        // What a long transaction took is not kept.
        let effects = std::mem::take(&mut self.payload);
        if let Some(replica) = self.replica.as_mut() {
            replica.note_blob((blob, Arc::new(effects)));
        }
        let timestamp: Timestamp = self.open.timestamp;
        Effect::Elsewhere { timestamp, blob }.encode(&mut self.payload);
    }
}

/// Appends the piece of a blob at `at` to the log; returns where the next begins.
pub fn log_blob<E: Env>(log: &mut Writer<E>, blob: BlobRef, bytes: &[u8], at: usize) -> usize {
    let end = bytes.len().min(at + BLOB_CHUNK_LEN);
    log.append(wal::Record {
        kind: RecordKind::Blob,
        partition: PartitionId(0),
        term: blob.id,
        index: at as u64,
        payload: &bytes[at..end],
    });
    end
}
