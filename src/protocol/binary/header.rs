//! The 32 bytes in front of every body, and the checksums.

use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Code;
use crate::ack::Ack;

/// The first bytes of every frame. The first is not ASCII: no other protocol begins with it.
pub const MAGIC: [u8; 4] = [0xD5, b'S', b'T', b'V'];

/// The version this program speaks.
pub const VERSION: u8 = 1;

/// Bytes of a header.
pub const HEADER_LEN: usize = HEADER_CHECK.end;

/// Set in the flags of replies.
pub const FLAG_REPLY: u16 = 1;

/// Set in the flags of replies whose body is an error.
pub const FLAG_ERROR: u16 = 2;

/// Set in the flags of writes that are to be done once in their connection's session.
pub const FLAG_ONCE: u16 = 4;

/// Set in the flags of gets and multi-gets that a replica which follows may answer.
pub const FLAG_STALE: u16 = 8;

/// The bits of the flags that say what the answer to a request on keys waits for
/// ([`Header::ack`]).
pub const FLAGS_ACK: u16 = 0x30;

const MAGIC_AT: Range<usize> = 0..4;
const VERSION_AT: usize = 4;
const OPCODE: usize = 5;
const FLAGS: Range<usize> = 6..8;
const REQUEST_ID: Range<usize> = 8..16;
const DEADLINE_MS: Range<usize> = 16..20;
const BODY_LEN: Range<usize> = 20..24;
const BODY_CHECK: Range<usize> = 24..28;
const HEADER_CHECK: Range<usize> = 28..32;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The first request of a connection.
    Hello = 0x01,
    /// A password.
    Auth = 0x02,
    /// An echo.
    Ping = 0x03,
    /// Figures of the node, as text.
    Info = 0x04,
    /// Which nodes there are, or are to be.
    Cluster = 0x05,
    /// A session, for writes that are done once.
    Session = 0x06,
    /// One key's value.
    Get = 0x10,
    /// Gives a key a value.
    Set = 0x11,
    /// Removes a key.
    Delete = 0x12,
    /// Sets and deletes of one partition, all or none.
    Batch = 0x13,
    /// Several keys' values.
    MultiGet = 0x14,
    /// A page of the keys.
    Scan = 0x15,
    /// What was done in a partition behind a place of its log.
    Changes = 0x16,
    /// A page of a partition's rows, in order.
    Copy = 0x17,
}

impl Opcode {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Hello,
        Self::Auth,
        Self::Ping,
        Self::Info,
        Self::Cluster,
        Self::Session,
        Self::Get,
        Self::Set,
        Self::Delete,
        Self::Batch,
        Self::MultiGet,
        Self::Scan,
        Self::Changes,
        Self::Copy,
    ];

    /// Of its number.
    #[inline]
    pub fn of(byte: u8) -> Option<Self> {
        // Asked several times per request.
        static BY_NUMBER: [Option<Opcode>; 256] = by_number();
        BY_NUMBER[usize::from(byte)]
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Auth => "auth",
            Self::Ping => "ping",
            Self::Info => "info",
            Self::Cluster => "cluster",
            Self::Session => "session",
            Self::Get => "get",
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Batch => "batch",
            Self::MultiGet => "multi-get",
            Self::Scan => "scan",
            Self::Changes => "changes",
            Self::Copy => "copy",
        }
    }
}

const fn by_number() -> [Option<Opcode>; 256] {
    let (mut table, mut at) = ([None; 256], 0);
    while at < Opcode::ALL.len() {
        table[Opcode::ALL[at] as usize] = Some(Opcode::ALL[at]);
        at += 1;
    }
    table
}

/// A header, decoded; magic and checksums are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The protocol's version.
    pub version: u8,
    /// Which request; it may be unknown.
    pub opcode: u8,
    /// [`FLAG_REPLY`], [`FLAG_ERROR`], [`FLAG_ONCE`], [`FLAG_STALE`], [`FLAGS_ACK`].
    pub flags: u16,
    /// The client's.
    pub request_id: u64,
    /// Milliseconds from arrival; 0: none.
    pub deadline_ms: u32,
    /// Bytes that follow.
    pub body_len: u32,
    /// Checksum of them.
    pub body_check: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`Code::BadMagic`], [`Code::BadChecksum`]. Its version is the caller's to judge.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Code> {
        if bytes[MAGIC_AT] != MAGIC {
            return Err(Code::BadMagic);
        }
        if u32_at(bytes, HEADER_CHECK) != checksum(&bytes[..HEADER_CHECK.start]) {
            return Err(Code::BadChecksum);
        }
        Ok(Self {
            version: bytes[VERSION_AT],
            opcode: bytes[OPCODE],
            flags: u16::from_le_bytes(bytes[FLAGS].try_into().expect("two bytes")),
            request_id: u64::from_le_bytes(bytes[REQUEST_ID].try_into().expect("eight bytes")),
            deadline_ms: u32_at(bytes, DEADLINE_MS),
            body_len: u32_at(bytes, BODY_LEN),
            body_check: u32_at(bytes, BODY_CHECK),
        })
    }

    /// Writes a header.
    pub fn encode(&self, bytes: &mut [u8; HEADER_LEN]) {
        let [magic, version, opcode, flags] = [
            u32::from_le_bytes(MAGIC).into(),
            u64::from(self.version) << 32,
            u64::from(self.opcode) << 40,
            u64::from(self.flags) << 48,
        ];
        let mut words = [
            magic | version | opcode | flags,
            self.request_id,
            u64::from(self.deadline_ms) | u64::from(self.body_len) << 32,
            self.body_check.into(),
        ];
        words[3] |= u64::from(checksum_of_header(&words)) << 32;
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }

    /// What the answer waits for, if the request says so.
    pub fn ack(&self) -> Option<Ack> {
        Ack::ALL.into_iter().find(|ack| flags_of(*ack) == self.flags & FLAGS_ACK)
    }

    /// Whether `body` is what the header says.
    pub fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.body_len as usize && checksum(body) == self.body_check
    }
}

/// How a request says what its answer is to wait for.
pub fn flags_of(ack: Ack) -> u16 {
    match ack {
        Ack::Quorum => 0x10,
        Ack::Leader => 0x20,
        Ack::Relaxed => 0x30,
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[at].try_into().expect("four bytes"))
}

fn checksum(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

/// [`checksum`] of the first 28 bytes of a header, given as words: XXH3's rule for 17 to 32 bytes
/// (its specification, section "Medium inputs" of short ones), seed 0.
///
/// Why not the library's: it reads what was just written in pieces that are not those that were
/// written, and the core waits until they are in its cache: 16 ns for a header, and 5 so.
fn checksum_of_header(words: &[u64; 4]) -> u32 {
    /// The first words of the default secret.
    const SECRET: [u64; 4] = [
        0xBE4B_A423_396C_FEB8,
        0x1CAD_21F7_2C81_017C,
        0xDB97_9083_E96D_D4DE,
        0x1F67_B3B7_A4A4_4072,
    ];
    const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
    const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;
    let folded = |left: u64, right: u64| {
        let product = u128::from(left) * u128::from(right);
        product as u64 ^ (product >> 64) as u64
    };
    let [first, second, third, fourth] = *words;
    // Its last 16 bytes overlap its first.
    let last = [second >> 32 | third << 32, third >> 32 | fourth << 32];
    let sum = (HEADER_CHECK.start as u64)
        .wrapping_mul(PRIME64_1)
        .wrapping_add(folded(first ^ SECRET[0], second ^ SECRET[1]))
        .wrapping_add(folded(last[0] ^ SECRET[2], last[1] ^ SECRET[3]));
    let mixed = (sum ^ sum >> 37).wrapping_mul(PRIME_MX1);
    (mixed ^ mixed >> 32) as u32
}

/// The checksum of a body that comes, or is read, piece by piece.
#[derive(Clone, Default)]
pub struct Checksum(Box<Xxh3>);

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checksum({:08x})", self.digest())
    }
}

impl Checksum {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Of all pieces so far.
    pub fn digest(&self) -> u32 {
        self.0.digest() as u32
    }
}

/// Begins a frame in `out`: leaves room for its header. Append the body, then [`finish`].
pub fn start(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    at
}

/// Ends the frame that began at `at`: all that was appended since is its body. `header` has what
/// is the caller's to say; length and checksums are filled in.
///
/// # Panics
/// When the body is longer than a frame can say.
pub fn finish(out: &mut [u8], at: usize, header: Header) {
    let (head, body) = out[at..].split_first_chunk_mut::<HEADER_LEN>().expect("begun by start");
    let body_len = u32::try_from(body.len()).expect("limits are far below");
    Header { body_len, body_check: checksum(body), ..header }.encode(head);
}

/// As [`finish`], of a body that ends with `tail`, which is not in `out`: it is sent after it.
///
/// # Panics
/// As [`finish`].
pub fn finish_with(out: &mut [u8], at: usize, header: Header, tail: &[u8]) {
    let (head, body) = out[at..].split_first_chunk_mut::<HEADER_LEN>().expect("begun by start");
    let mut hasher = Xxh3::new();
    hasher.update(body);
    hasher.update(tail);
    let body_len = u32::try_from(body.len() + tail.len()).expect("limits are far below");
    Header { body_len, body_check: hasher.digest() as u32, ..header }.encode(head);
}

/// As [`finish_with`], of a tail whose length and checksum, with the body before it, are known.
///
/// # Panics
/// As [`finish`].
pub fn finish_summed(out: &mut [u8], header: Header, tail_len: usize, body_check: u32) {
    let (head, body) = out.split_first_chunk_mut::<HEADER_LEN>().expect("begun by start");
    let body_len = u32::try_from(body.len() + tail_len).expect("limits are far below");
    Header { body_len, body_check, ..header }.encode(head);
}
