//! The shard of a standby: what another cluster told becomes entries of this one's partitions.
//!
//! Not here: who asks the other ([`crate::server`]).

use std::sync::Arc;

use super::changes::Before;
use super::{Holds, Refused, Shard};
use crate::command::Event;
use crate::env::Env;
use crate::id::Timestamp;
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::key;
use crate::mvcc::{BlobRef, Effect, Logged};
use crate::partition::{Content, Following, Standing, is_begin};
use crate::protocol::binary::{Change, Done};

/// Bytes of the log that may wait for the disk while more is taken from another cluster.
const BACKLOG_MAX: usize = 8 << 20;

/// What another cluster told, as an entry.
#[derive(Debug, Default)]
pub struct Shipment {
    content: Vec<u8>,
    blobs: Vec<(BlobRef, Arc<Vec<u8>>)>,
    /// The newest version in it.
    newest: u64,
}

impl Shipment {
    /// Adds a change. `None`: the key is longer than one may be, or of a database that there is
    /// not.
    pub fn add(&mut self, change: &Change<'_>) -> Option<()> {
        let timestamp = Timestamp(change.timestamp);
        self.newest = self.newest.max(change.timestamp);
        if change.key.len() > crate::limits::KEY_LEN_MAX || change.db >= crate::command::DB_COUNT {
            return None;
        }
        let mut encoded = Vec::new();
        key::encode_data_key(key::slot_of(change.key), change.db, change.key, &mut encoded);
        let key = encoded.as_slice();
        let effect = match change.done {
            Done::Cleared => Effect::Clear { timestamp },
            Done::Deleted => Effect::Delete { key, timestamp },
            Done::Set { value, expiry_ms } => {
                let expiry_ms = (expiry_ms != 0).then_some(expiry_ms);
                let value = match value.len() {
                    LARGE_LEN_MIN.. => Logged::Blob(self.add_blob(value)),
                    _ => Logged::Inline(value),
                };
                Effect::Put { key, timestamp, expiry_ms, value }
            }
        };
        effect.encode(&mut self.content);
        Some(())
    }

    /// The log gives it another name.
    fn add_blob(&mut self, value: &[u8]) -> BlobRef {
        let blob = BlobRef { id: self.blobs.len() as u64 + 1, len: value.len() as u64 };
        self.blobs.push((blob, Arc::new(value.to_vec())));
        blob
    }

    /// The newest version in it; 0: there is none.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    fn finish(self, follow: &[u8], timestamp: Timestamp) -> Content {
        let mut payload = Vec::with_capacity(self.content.len() + 128);
        Effect::Follow { timestamp, state: follow }.encode(&mut payload);
        payload.extend_from_slice(&self.content);
        Content { payload: payload.into(), blobs: self.blobs }
    }
}

impl<E: Env> Shard<E> {
    /// The cluster that takes the writes, if this one only follows it; then clients may not write.
    pub fn primary(&self) -> Option<&Arc<str>> {
        self.replicas.primary.as_ref()
    }

    /// Whether more may be taken from another cluster.
    pub fn has_room_for_told(&self) -> bool {
        self.failed.is_none()
            && !self.log.is_disk_full()
            && !self.tree.is_full(self.log.appended())
            && !self.is_short_of_memory()
            && self.log.backlog_len() < BACKLOG_MAX
            && !self.is_backlogged()
    }

    /// Proposes what another cluster told of the partition at `place`, with how far it is then;
    /// returns the entry. `None`: this shard does not lead it.
    pub fn follow(
        &mut self,
        place: u32,
        told: Shipment,
        following: Option<&Following>,
        timestamp: u64,
    ) -> Option<u64> {
        if !self.leads(place) || !self.partition(place).is_ready() {
            return None;
        }
        self.seal(place);
        let state = following.map_or_else(|| vec![0; 8], Following::encode);
        let content = told.finish(&state, Timestamp(timestamp));
        let noted = self.changes.are_observed().then(|| content.payload.clone());
        let proposed = self.at(place, |partition, around| partition.propose_told(content, around));
        let (index, logging) = proposed.ok()?;
        self.note(place, logging);
        if let Some(payload) = noted {
            self.note_told(place, index, &payload);
        }
        Some(index)
    }

    /// Whoever has read these keys is told.
    fn note_told(&mut self, place: u32, index: u64, payload: &[u8]) {
        self.set_caller(None);
        for effect in crate::mvcc::decode(payload).flatten() {
            let event = match effect {
                Effect::Put { expiry_ms: Some(_), .. } => Event::SetUntil,
                Effect::Put { .. } => Event::Set,
                Effect::Delete { .. } => Event::Delete,
                Effect::Clear { .. } => Event::None,
                Effect::Follow { state, .. } if is_begin(state) => Event::None,
                _ => continue,
            };
            match effect.key() {
                Some(key) => self.note_change((place, Some(index)), key, event, Before::There),
                None => {
                    let mut holds = Holds::default();
                    holds.add(place, index);
                    self.note_clear_at(holds);
                }
            }
        }
    }

    /// Looks whether this cluster follows another; each tick, and when leaders change.
    pub(super) fn look_for_primary(&mut self) {
        let Some(members) = &self.replicas.members else { return };
        let topology = members.topology();
        let led = self.partitions.iter().zip(&self.replicas.standings);
        let mut led = led.filter(|(_, standing)| **standing == Standing::Leads);
        self.replicas.primary = match &topology.follows {
            Some(source) => Some(source.to_string().into()),
            // It is to follow nobody any more, or this node has not heard of whom.
            None if led.any(|(partition, _)| partition.following().is_some()) => Some("".into()),
            None => None,
        };
    }

    /// What a client is told who wants to write.
    pub(super) fn refusal_of_standby(&self) -> Option<Refused> {
        self.replicas.primary.as_ref().map(|primary| Refused::Standby { primary: primary.clone() })
    }
}
