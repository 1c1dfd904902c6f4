//! The protocol in bytes, from a client's side: requests out, replies in. No sockets here.
//!
//! Its specification is the header of `src/protocol/binary/mod.rs` in the server's source. This is
//! a second, independent writing of it; `tests/vectors/*.txt` keep the two the same.

mod fields;
mod reply;
mod request;
pub(crate) mod session;
#[cfg(test)]
mod tests;

use xxhash_rust::xxh3::xxh3_64;

pub(crate) use reply::{
    Page, batch_outcome, changes, hello, info, item, items, outcome, page, ping, refusal, rows,
    session,
};
pub(crate) use request::{Asked, Hello, Request, SET, Wishes};

/// The first bytes of every frame.
const MAGIC: [u8; 4] = [0xD5, b'S', b'T', b'V'];
/// The version this client speaks.
pub(crate) const VERSION: u8 = 1;
/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 32;

/// Longest body of any request but a set. Bytes.
pub(crate) const OTHER_BODY_LEN_MAX: u32 = 4 << 20;

const FLAG_REPLY: u16 = 1;
const FLAG_ERROR: u16 = 2;
/// Of a write that is to be done once.
const FLAG_ONCE: u8 = 4;
/// Of a read that a replica which follows may answer.
const FLAG_STALE: u8 = 8;

/// Of a request on keys: what its answer waits for.
const FLAG_QUORUM: u8 = 0x10;
const FLAG_LEADER: u8 = 0x20;
const FLAG_RELAXED: u8 = 0x30;

/// A reply: whose, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub opcode: u8,
    pub id: u64,
    pub is_error: bool,
    pub body: Vec<u8>,
}

/// Appends a frame: header, then what `write` appends.
pub(crate) fn put_frame(
    out: &mut Vec<u8>,
    (opcode, flags): (u8, u8),
    id: u64,
    deadline_ms: u32,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let at = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, opcode, flags, 0]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&deadline_ms.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    write(out);
    let (head, body) = out[at..].split_at_mut(HEADER_LEN);
    let body_len = u32::try_from(body.len()).expect("its length was checked before");
    head[20..24].copy_from_slice(&body_len.to_le_bytes());
    head[24..28].copy_from_slice(&check(body).to_le_bytes());
    let header_check = check(&head[..28]);
    head[28..].copy_from_slice(&header_check.to_le_bytes());
}

/// The reply at the start of `input` and its length in bytes; `None`: there is not all of it yet.
///
/// # Errors
/// What is wrong with it. The rest of the stream can not be trusted.
pub(crate) fn frame(input: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let Some((head, rest)) = input.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[..4] != MAGIC {
        return Err("it does not begin with the magic; is it the server's binary port?".to_owned());
    }
    if number(28) != check(&head[..28]) {
        return Err("the header's checksum is wrong".to_owned());
    }
    if head[4] != VERSION {
        return Err(format!("version {} of the protocol", head[4]));
    }
    let flags = u16::from_le_bytes([head[6], head[7]]);
    if flags & FLAG_REPLY == 0 {
        return Err("a request, and we are the client".to_owned());
    }
    let Some(body) = rest.get(..number(20) as usize) else { return Ok(None) };
    if number(24) != check(body) {
        return Err("the body's checksum is wrong".to_owned());
    }
    let id = head[8..16].try_into().expect("eight bytes");
    let frame = Frame {
        opcode: head[5],
        id: u64::from_le_bytes(id),
        is_error: flags & FLAG_ERROR != 0,
        body: body.to_owned(),
    };
    Ok(Some((frame, HEADER_LEN + body.len())))
}

fn check(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}
