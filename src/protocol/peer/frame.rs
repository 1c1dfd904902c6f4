//! The 32 bytes in front of every body, and the checksums.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::Error;

/// The first bytes of every frame. The first is not ASCII: no other protocol begins with it.
pub const MAGIC: [u8; 4] = [0xD5, b'S', b'T', b'P'];

/// The version of the frames.
pub const VERSION: u8 = 1;

/// Bytes of a header.
pub const HEADER_LEN: usize = HEADER_CHECK.end;

/// Longest body, bytes.
pub const BODY_LEN_MAX: usize = 64 << 20;

/// Longest parcel, all its pieces together, bytes: its lengths and places have 32 bits.
pub const MAIL_LEN_MAX: usize = u32::MAX as usize;

/// Longest body before the greeting is done, bytes.
pub const GREETING_LEN_MAX: usize = 1024;

const MAGIC_AT: Range<usize> = 0..4;
const VERSION_AT: usize = 4;
const KIND: usize = 5;
const BODY_LEN: Range<usize> = 8..12;
const BODY_CHECK: Range<usize> = 16..24;
const HEADER_CHECK: Range<usize> = 24..32;
/// Zero in this version.
const RESERVED: [Range<usize>; 2] = [6..8, 12..16];

/// What a frame is. Numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The dialler's first.
    Hello = 1,
    /// The answer: go on.
    Welcome = 2,
    /// The answer: no.
    Refused = 3,
    /// Messages of groups.
    Raft = 4,
    /// A piece of a large value.
    Blob = 5,
    /// A parcel.
    Mail = 6,
    /// A sign of life.
    Beat = 7,
    /// Where clients reach the sender.
    Endpoint = 8,
    /// A step of a snapshot's way.
    Snapshot = 9,
    /// What the sender leads.
    Leads = 10,
    /// Which nodes there are.
    Topology = 11,
    /// The sender's disk is slow.
    Slow = 12,
    /// How far is what you lead committed?
    Ask = 13,
    /// The answer to that.
    Closed = 14,
    /// A piece of a parcel, before the frame with its end.
    MailPiece = 15,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Raft,
        Self::Blob,
        Self::Mail,
        Self::Beat,
        Self::Endpoint,
        Self::Snapshot,
        Self::Leads,
        Self::Topology,
        Self::Slow,
        Self::Ask,
        Self::Closed,
        Self::MailPiece,
    ];

    /// Of its number.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A header, decoded; what is the same in all frames is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Bytes of it.
    pub body_len: u32,
    /// Checksum of it.
    pub body_check: u64,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// All but [`Error::TooLong`], [`Error::BodyChecksum`] and [`Error::Malformed`].
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Error> {
        let found = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if found != MAGIC {
            return Err(Error::Magic { found });
        }
        if u64_at(bytes, HEADER_CHECK) != xxh3_64(&bytes[..HEADER_CHECK.start]) {
            return Err(Error::HeaderChecksum);
        }
        if bytes[VERSION_AT] != VERSION {
            return Err(Error::Version { found: bytes[VERSION_AT] });
        }
        let kind = Kind::of(bytes[KIND]).ok_or(Error::Kind { found: bytes[KIND] })?;
        if RESERVED.into_iter().flatten().any(|at| bytes[at] != 0) {
            return Err(Error::Reserved);
        }
        let body_len = u32::from_le_bytes(bytes[BODY_LEN].try_into().expect("four bytes"));
        Ok(Self { kind, body_len, body_check: u64_at(bytes, BODY_CHECK) })
    }

    /// Writes a header.
    pub fn encode(&self, bytes: &mut [u8; HEADER_LEN]) {
        bytes.fill(0);
        bytes[MAGIC_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT] = VERSION;
        bytes[KIND] = self.kind as u8;
        bytes[BODY_LEN].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[BODY_CHECK].copy_from_slice(&self.body_check.to_le_bytes());
        let check = xxh3_64(&bytes[..HEADER_CHECK.start]);
        bytes[HEADER_CHECK].copy_from_slice(&check.to_le_bytes());
    }

    /// Whether `body` is what the header says.
    pub fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.body_len as usize && xxh3_64(body) == self.body_check
    }
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: Range<usize>) -> u64 {
    u64::from_le_bytes(bytes[at].try_into().expect("eight bytes"))
}

/// Begins a frame in `out`: leaves room for its header. Append the body, then [`finish`].
pub fn start(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    at
}

/// Ends the frame that began at `at`: all that was appended since is its body.
///
/// # Errors
/// [`Error::TooLong`]: the frame was taken out again.
pub fn finish(out: &mut Vec<u8>, at: usize, kind: Kind) -> Result<(), Error> {
    let len = out.len() - at - HEADER_LEN;
    if len > BODY_LEN_MAX {
        out.truncate(at);
        return Err(Error::TooLong { kind, len, max: BODY_LEN_MAX });
    }
    let (head, body) = out[at..].split_first_chunk_mut().expect("begun by start");
    Header { kind, body_len: len as u32, body_check: xxh3_64(body) }.encode(head);
    Ok(())
}
