//! Frames out of a stream that is cut anywhere.
//!
//! A frame that lies whole in one chunk is borrowed from it. Else its pieces are gathered in one
//! buffer that all frames share. Nothing is allocated on the word of a header that is not whole,
//! true and within the limit, and what is allocated grows with what really arrives.

use super::{Body, Error, HEADER_LEN, Header, Kind, MAGIC};

/// Room that is made for a frame at once; more when it comes.
const RESERVE_MAX: usize = 64 << 10;

/// A buffer that has grown beyond this is not kept for the next frame.
const KEEP_LEN_MAX: usize = 1 << 20;

/// A whole frame whose checksums hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// What it says.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(&self) -> Result<Body<'a>, Error> {
        Body::decode(self.kind, self.body)
    }
}

/// What of a stream was read and is not a whole frame yet.
#[derive(Debug, Default)]
pub struct Parser {
    /// The begin of a frame, header included.
    partial: Vec<u8>,
    /// That frame was whole and was given.
    is_given: bool,
}

impl Parser {
    /// Takes the next frame from the front of `bytes`, which it shortens. `None`: `bytes` is used
    /// up. Bodies over `body_len_max` bytes are refused.
    ///
    /// # Errors
    /// The stream is broken; the parser must not be used again.
    pub fn next<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
        body_len_max: usize,
    ) -> Result<Option<Frame<'a>>, Error> {
        self.forget();
        if self.partial.is_empty()
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            let header = judged(head, body_len_max)?;
            if let Some((body, rest)) = rest.split_at_checked(header.body_len as usize) {
                *bytes = rest;
                return framed(header, body).map(Some);
            }
        }
        self.gather(bytes, body_len_max)
    }

    /// Bytes held.
    pub fn buffered_len(&self) -> usize {
        self.partial.capacity()
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_amid(&self) -> bool {
        !self.partial.is_empty() && !self.is_given
    }

    fn gather(
        &mut self,
        bytes: &mut &[u8],
        body_len_max: usize,
    ) -> Result<Option<Frame<'_>>, Error> {
        self.fill(bytes, HEADER_LEN);
        let Some(head) = self.partial.first_chunk() else {
            return might_be_header(&self.partial).map(|()| None);
        };
        let header = judged(head, body_len_max)?;
        let frame_len = HEADER_LEN + header.body_len as usize;
        if self.partial.len() == HEADER_LEN {
            self.partial.reserve(frame_len.min(RESERVE_MAX));
        }
        self.fill(bytes, frame_len);
        if self.partial.len() < frame_len {
            return Ok(None);
        }
        self.is_given = true;
        framed(header, &self.partial[HEADER_LEN..]).map(Some)
    }

    /// Moves bytes over until `len` are there.
    fn fill(&mut self, bytes: &mut &[u8], len: usize) {
        let missing = len.saturating_sub(self.partial.len());
        let (moved, rest) = bytes.split_at(missing.min(bytes.len()));
        self.partial.extend_from_slice(moved);
        *bytes = rest;
    }

    /// Makes room after a frame that was gathered.
    fn forget(&mut self) {
        if std::mem::take(&mut self.is_given) {
            self.partial.clear();
            if self.partial.capacity() > KEEP_LEN_MAX {
                self.partial = Vec::new();
            }
        }
    }
}

/// What can not become a header is not waited for.
fn might_be_header(begin: &[u8]) -> Result<(), Error> {
    let len = begin.len().min(MAGIC.len());
    if begin[..len] == MAGIC[..len] {
        return Ok(());
    }
    let mut found = [0; MAGIC.len()];
    found[..len].copy_from_slice(&begin[..len]);
    Err(Error::Magic { found })
}

fn judged(head: &[u8; HEADER_LEN], max: usize) -> Result<Header, Error> {
    let header = Header::decode(head)?;
    let len = header.body_len as usize;
    if len > max.min(super::BODY_LEN_MAX) {
        return Err(Error::TooLong { kind: header.kind, len, max });
    }
    Ok(header)
}

fn framed(header: Header, body: &[u8]) -> Result<Frame<'_>, Error> {
    let kind = header.kind;
    match header.fits(body) {
        true => Ok(Frame { kind, body }),
        false => Err(Error::BodyChecksum { kind }),
    }
}
