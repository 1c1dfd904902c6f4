//! What a log entry carries: effects, each a version of a key.
//!
//! A leader evaluates a command once and logs what it did, never the command (charter, D12), so
//! that followers and replay only apply. All writes of one loop turn to a partition are one entry.
//!
//! ```text
//! entry  := effect*
//! effect := kind:u8 flags:u8 zero:u16 key_len:u32 value_len:u32 timestamp:u64
//!           expiry_ms:u64 if flags & 1 | key[key_len] | value[value_len]
//! kind   := 1 put, 2 delete, 4 clear (every key of the partition; no key, no value),
//!           5 elsewhere (the effects are too many for a record: they are a blob; no key),
//!           6 members (who has replicas of the partition, crate::consensus; no key),
//!           7 topology (which nodes there are, crate::cluster; no key),
//!           8 reply (what a client was told of the effects before it; no key),
//!           9 follow (how far the effects behind it are those of another cluster; no key)
//! flags  := 1 has an expiry, 2 the value is a blob reference: id:u64 len:u64
//! ```
//!
//! Little-endian. Keys are encoded as in [`crate::lsm::key`]. Timestamps rise from effect to
//! effect and from entry to entry. A blob's bytes stand in blob records before the entry.
//! *Elsewhere* stands alone in its entry, and not in the blob that it names: so an entry, which is
//! all or nothing, may have any length. *Members* and *topology* stand alone in theirs, and change
//! no key. A *follow* is the first of its entry. The value of a *reply* is `id:u8[16] born:u64
//! sequence:u64 | reply`, the write's name in its client's session and what `crate::partition`
//! keeps for when it is asked for again.

use std::num::NonZeroU64;

use crate::id::{Once, SessionId, Timestamp};

/// Bytes of an effect before its expiry, key and value.
pub const EFFECT_HEADER_LEN: usize = 20;

const FLAG_EXPIRY: u8 = 1;
const FLAG_BLOB: u8 = 2;

/// Where a large value's bytes are: in blob records of the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Given by the shard that wrote it; never used twice in a log.
    pub id: u64,
    /// Bytes of the value.
    pub len: u64,
}

/// The value of a put, as logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged<'a> {
    /// The bytes themselves.
    Inline(&'a [u8]),
    /// Elsewhere in the log.
    Blob(BlobRef),
}

/// One effect of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key has this value from now on.
    Put {
        /// Encoded key.
        key: &'a [u8],
        /// Its version.
        timestamp: Timestamp,
        /// Absolute deadline, decided by the leader (charter, D9).
        expiry_ms: Option<u64>,
        /// Its value.
        value: Logged<'a>,
    },
    /// The key is gone.
    Delete {
        /// Encoded key.
        key: &'a [u8],
        /// The tombstone's version.
        timestamp: Timestamp,
    },
    /// Every key of the partition is gone.
    Clear {
        /// All older versions are gone.
        timestamp: Timestamp,
    },
    /// The entry's effects are the bytes of a blob.
    Elsewhere {
        /// That of the last of them.
        timestamp: Timestamp,
        /// Their bytes.
        blob: BlobRef,
    },
    /// Other nodes have replicas of the partition from now on.
    Members {
        /// Nothing that counts.
        timestamp: Timestamp,
        /// A change of members, or none: the end of one.
        change: &'a [u8],
    },
    /// The cluster is of other nodes from now on.
    Topology {
        /// The change's version.
        timestamp: Timestamp,
        /// What it is now.
        topology: &'a [u8],
    },
    /// The partition follows one of another cluster, and the effects behind this one are what that
    /// one told; or it does so no more.
    Follow {
        /// Nothing that counts, or that of the last of them.
        timestamp: Timestamp,
        /// How far it is then.
        state: &'a [u8],
    },
    /// A client was told of a write that is done once.
    Reply {
        /// Later than the write's.
        timestamp: Timestamp,
        /// Which write.
        once: Once,
        /// What it was told.
        reply: &'a [u8],
    },
}

/// Bytes of the value of a reply before what was told.
const ONCE_LEN: usize = 32;

/// Why an entry could not be decoded. Its checksum was right, so it was written wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed effect at byte {offset} of the entry")]
pub struct Error {
    /// Where the effect begins, bytes from the start of the entry.
    pub offset: usize,
}

impl Effect<'_> {
    /// Appends the effect to an entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Effect::Put { key, timestamp, expiry_ms, value: Logged::Inline(value) } => {
                header(out, 1, 0, key.len(), value.len(), timestamp, expiry_ms);
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Effect::Put { key, timestamp, expiry_ms, value: Logged::Blob(blob) } => {
                header(out, 1, FLAG_BLOB, key.len(), 16, timestamp, expiry_ms);
                out.extend_from_slice(key);
                out.extend_from_slice(&blob.id.to_le_bytes());
                out.extend_from_slice(&blob.len.to_le_bytes());
            }
            Effect::Delete { key, timestamp } => {
                header(out, 2, 0, key.len(), 0, timestamp, None);
                out.extend_from_slice(key);
            }
            Effect::Clear { timestamp } => header(out, 4, 0, 0, 0, timestamp, None),
            Effect::Members { timestamp, change } => {
                header(out, 6, 0, 0, change.len(), timestamp, None);
                out.extend_from_slice(change);
            }
            Effect::Topology { timestamp, topology } => {
                header(out, 7, 0, 0, topology.len(), timestamp, None);
                out.extend_from_slice(topology);
            }
            Effect::Reply { timestamp, once, reply } => {
                header(out, 8, 0, 0, ONCE_LEN + reply.len(), timestamp, None);
                out.extend_from_slice(&once.session.id);
                out.extend_from_slice(&once.session.born.get().to_le_bytes());
                out.extend_from_slice(&once.sequence.to_le_bytes());
                out.extend_from_slice(reply);
            }
            Effect::Follow { timestamp, state } => {
                header(out, 9, 0, 0, state.len(), timestamp, None);
                out.extend_from_slice(state);
            }
            Effect::Elsewhere { timestamp, blob } => {
                header(out, 5, FLAG_BLOB, 0, 16, timestamp, None);
                out.extend_from_slice(&blob.id.to_le_bytes());
                out.extend_from_slice(&blob.len.to_le_bytes());
            }
        }
    }

    /// The encoded key, of an effect on one.
    pub fn key(&self) -> Option<&[u8]> {
        match *self {
            Effect::Put { key, .. } | Effect::Delete { key, .. } => Some(key),
            Effect::Clear { .. }
            | Effect::Elsewhere { .. }
            | Effect::Members { .. }
            | Effect::Topology { .. }
            | Effect::Follow { .. }
            | Effect::Reply { .. } => None,
        }
    }

    /// The effect's version.
    pub fn timestamp(&self) -> Timestamp {
        match *self {
            Effect::Put { timestamp, .. }
            | Effect::Delete { timestamp, .. }
            | Effect::Clear { timestamp }
            | Effect::Elsewhere { timestamp, .. }
            | Effect::Members { timestamp, .. }
            | Effect::Topology { timestamp, .. }
            | Effect::Follow { timestamp, .. }
            | Effect::Reply { timestamp, .. } => timestamp,
        }
    }
}

fn header(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u8,
    key_len: usize,
    value_len: usize,
    timestamp: Timestamp,
    expiry_ms: Option<u64>,
) {
    let mut bytes = [0; EFFECT_HEADER_LEN + 8];
    bytes[0] = kind;
    bytes[1] = flags | if expiry_ms.is_some() { FLAG_EXPIRY } else { 0 };
    bytes[4..8].copy_from_slice(&(key_len as u32).to_le_bytes());
    bytes[8..12].copy_from_slice(&(value_len as u32).to_le_bytes());
    bytes[12..20].copy_from_slice(&timestamp.0.to_le_bytes());
    bytes[20..28].copy_from_slice(&expiry_ms.unwrap_or(0).to_le_bytes());
    let len = if expiry_ms.is_some() { bytes.len() } else { EFFECT_HEADER_LEN };
    out.extend_from_slice(&bytes[..len]);
}

/// The effects of an entry, in order; ends after the first error.
pub fn decode(entry: &[u8]) -> Effects<'_> {
    Effects { entry, offset: 0 }
}

/// See [`decode`].
#[derive(Clone, Debug)]
pub struct Effects<'a> {
    entry: &'a [u8],
    offset: usize,
}

impl<'a> Effects<'a> {
    /// Where the next one begins, bytes from the start of the entry.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn next_effect(&mut self) -> Option<Effect<'a>> {
        let rest = &self.entry[self.offset..];
        let header = rest.get(..EFFECT_HEADER_LEN)?;
        let (kind, flags) = (header[0], header[1]);
        let key_len = u32_at(header, 4) as usize;
        let value_len = u32_at(header, 8) as usize;
        let timestamp = Timestamp(u64_at(header, 12));
        let mut at = EFFECT_HEADER_LEN;
        let mut expiry_ms = None;
        if flags & FLAG_EXPIRY != 0 {
            expiry_ms = Some(u64_at(rest.get(at..at + 8)?, 0));
            at += 8;
        }
        let key = rest.get(at..at + key_len)?;
        let value = rest.get(at + key_len..at + key_len + value_len)?;
        self.offset += at + key_len + value_len;
        match (kind, flags & FLAG_BLOB != 0) {
            (1, false) => {
                Some(Effect::Put { key, timestamp, expiry_ms, value: Logged::Inline(value) })
            }
            (1, true) if value_len == 16 => {
                let blob = BlobRef { id: u64_at(value, 0), len: u64_at(value, 8) };
                Some(Effect::Put { key, timestamp, expiry_ms, value: Logged::Blob(blob) })
            }
            (2, false) => Some(Effect::Delete { key, timestamp }),
            (4, false) => Some(Effect::Clear { timestamp }),
            (5, true) if value_len == 16 => {
                let blob = BlobRef { id: u64_at(value, 0), len: u64_at(value, 8) };
                Some(Effect::Elsewhere { timestamp, blob })
            }
            (6, false) => Some(Effect::Members { timestamp, change: value }),
            (7, false) => Some(Effect::Topology { timestamp, topology: value }),
            (9, false) => Some(Effect::Follow { timestamp, state: value }),
            (8, false) => {
                let (once, reply) = once_of(value)?;
                Some(Effect::Reply { timestamp, once, reply })
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Effects<'a> {
    type Item = Result<Effect<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.entry.len() {
            return None;
        }
        let offset = self.offset;
        let effect = self.next_effect();
        if effect.is_none() {
            self.offset = self.entry.len();
        }
        Some(effect.ok_or(Error { offset }))
    }
}

/// Gives the blobs that an entry's effects name other names: an entry is written again in the log
/// of another shard, where its blobs have names of that log.
pub fn rename_blobs(entry: &mut [u8], new: impl Fn(u64) -> u64) {
    let mut at = 0;
    loop {
        let mut effects = Effects { entry, offset: at };
        let Some(Ok(effect)) = effects.next() else { return };
        let blob = match effect {
            Effect::Put { value: Logged::Blob(blob), .. } | Effect::Elsewhere { blob, .. } => blob,
            _ => {
                at = effects.offset;
                continue;
            }
        };
        // The reference is the effect's end.
        at = effects.offset;
        entry[at - 16..at - 8].copy_from_slice(&new(blob.id).to_le_bytes());
    }
}

fn once_of(value: &[u8]) -> Option<(Once, &[u8])> {
    let (head, reply) = value.split_first_chunk::<ONCE_LEN>()?;
    let id = *head.first_chunk().expect("it is longer");
    let session = SessionId { id, born: NonZeroU64::new(u64_at(head, 16))? };
    Some((Once { session, sequence: u64_at(head, 24) }, reply))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Effect<'static>; 9] {
        let timestamp = Timestamp(0x0102_0304_0506_0708);
        [
            Effect::Put { key: b"k", timestamp, expiry_ms: None, value: Logged::Inline(b"value") },
            Effect::Put {
                key: b"key",
                timestamp,
                expiry_ms: Some(9),
                value: Logged::Blob(BlobRef { id: 7, len: 1 << 20 }),
            },
            Effect::Delete { key: b"gone", timestamp },
            Effect::Clear { timestamp },
            Effect::Elsewhere { timestamp, blob: BlobRef { id: 8, len: 3 } },
            Effect::Members { timestamp, change: b"change" },
            Effect::Topology { timestamp, topology: b"{}" },
            Effect::Reply { timestamp, once: once(), reply: b"done" },
            Effect::Follow { timestamp, state: b"far" },
        ]
    }

    fn once() -> Once {
        let born = NonZeroU64::new(0x11).expect("it is not zero");
        Once { session: SessionId { id: *b"a client's own..", born }, sequence: 0x22 }
    }

    #[test]
    fn effects_come_back_as_encoded() {
        let mut entry = Vec::new();
        samples().iter().for_each(|effect| effect.encode(&mut entry));

        let back: Result<Vec<_>, _> = decode(&entry).collect();

        assert_eq!(back.expect("well formed"), samples());
    }

    #[test]
    fn blobs_get_other_names_and_all_else_stays() {
        let mut entry = Vec::new();
        samples().iter().for_each(|effect| effect.encode(&mut entry));

        rename_blobs(&mut entry, |id| id + 100);

        let names = |effect: Effect<'_>| match effect {
            Effect::Put { value: Logged::Blob(blob), .. } | Effect::Elsewhere { blob, .. } => {
                Some((blob.id, blob.len))
            }
            _ => None,
        };
        let found: Vec<_> = decode(&entry).map(|e| names(e.expect("well formed"))).collect();
        let (second, fifth) = (Some((107, 1 << 20)), Some((108, 3)));
        assert_eq!(found, [None, second, None, None, fifth, None, None, None, None]);
        rename_blobs(&mut entry, |id| id - 100);
        let back: Result<Vec<_>, _> = decode(&entry).collect();
        assert_eq!(back.expect("well formed"), samples());
    }

    #[test]
    fn the_format_is_frozen() {
        let mut entry = Vec::new();
        samples()[1].encode(&mut entry);

        let golden = "01030000030000001000000008070605040302010900000000000000\
                      6b657907000000000000000000100000000000";
        assert_eq!(hex(&entry), golden);
        entry.clear();
        samples()[7].encode(&mut entry);
        let golden = "080000000000000024000000080706050403020161\
                      20636c69656e742773206f776e2e2e11000000000000002200000000000000646f6e65";
        assert_eq!(hex(&entry), golden);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn every_cut_and_every_wrong_byte_is_an_error_or_another_effect_but_never_a_panic() {
        let mut entry = Vec::new();
        samples().iter().for_each(|effect| effect.encode(&mut entry));

        for cut in 0..entry.len() {
            let _ = decode(&entry[..cut]).count();
            for bit in 0..8 {
                let mut wrong = entry.clone();
                wrong[cut] ^= 1 << bit;
                let _ = decode(&wrong).count();
            }
        }
    }
}
