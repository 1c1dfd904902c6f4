//! Frames out of a stream that is cut anywhere.
//!
//! A frame that lies whole in one chunk is borrowed from it. Else its pieces are gathered, first
//! the header's, and only when that was judged the body's: nothing is allocated on the word of a
//! header that is not whole, true and within the limit, and what is allocated grows with what
//! really arrives. The value of a long set is gathered apart ([`super::long`]).

use std::borrow::Cow;

use super::long::{Long, is_long};
use super::{Code, HEADER_LEN, Header, OTHER_BODY_LEN_MAX, Opcode, VERSION};

/// Room that is made for a body at once; more when it comes.
const RESERVE_MAX: usize = 64 << 10;

/// A whole frame whose checksums hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Cow<'a, [u8]>,
    /// Of a long set its value, which is not in the body: [`Op::decode_long`].
    ///
    /// [`Op::decode_long`]: super::Op::decode_long
    pub value: Option<Vec<u8>>,
}

/// Why a stream can not be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What is wrong.
    pub code: Code,
    /// The header, where it can be trusted.
    pub header: Option<Header>,
}

/// What of a stream was read and is not a whole frame yet.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// Of the frame that is not whole: its header's bytes, or once that is whole its body's.
    partial: Vec<u8>,
    /// Its header, once it is whole.
    header: Option<Header>,
    /// Its body, if it is long.
    long: Option<Box<Long>>,
    /// The stream is a server's, whose bodies are as long as values.
    of_replies: bool,
}

impl Parser {
    /// Takes the next frame from the front of `bytes`, which it shortens. `None`: `bytes` is used
    /// up.
    ///
    /// # Errors
    /// The stream is broken; the parser must not be used again.
    pub fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        body_len_max: usize,
    ) -> Result<Option<Frame<'a>>, Breach> {
        if !self.is_amid()
            && let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>()
        {
            let header = judged(head, body_len_max, self.of_replies)?;
            if !is_long(&header)
                && let Some((body, rest)) = rest.split_at_checked(header.body_len as usize)
            {
                *bytes = rest;
                return framed(header, Cow::Borrowed(body)).map(Some);
            }
        }
        self.gather(bytes, body_len_max)
    }

    /// Of what a server says.
    pub fn of_replies() -> Self {
        Self { of_replies: true, ..Self::default() }
    }

    /// Bytes held.
    pub fn buffered_len(&self) -> usize {
        self.partial.capacity() + self.long.as_ref().map_or(0, |long| long.held_len())
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_amid(&self) -> bool {
        self.header.is_some() || !self.partial.is_empty()
    }

    #[cold]
    fn gather<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        body_len_max: usize,
    ) -> Result<Option<Frame<'a>>, Breach> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.fill(bytes, HEADER_LEN);
                let Some(head) = self.partial.first_chunk::<HEADER_LEN>() else {
                    // What can not become a header is not waited for.
                    let begun = self.partial.len().min(super::MAGIC.len());
                    return match self.partial[..begun] == super::MAGIC[..begun] {
                        true => Ok(None),
                        false => Err(Breach { code: Code::BadMagic, header: None }),
                    };
                };
                let header = judged(head, body_len_max, self.of_replies)?;
                self.header = Some(header);
                self.partial.clear();
                if is_long(&header) {
                    self.long = Some(Box::default());
                    return self.gather_long(header, bytes);
                }
                self.partial.reserve((header.body_len as usize).min(RESERVE_MAX));
                header
            }
        };
        if self.long.is_some() {
            return self.gather_long(header, bytes);
        }
        self.fill(bytes, header.body_len as usize);
        if self.partial.len() < header.body_len as usize {
            return Ok(None);
        }
        self.header = None;
        framed(header, Cow::Owned(std::mem::take(&mut self.partial))).map(Some)
    }

    fn gather_long<'a>(
        &mut self,
        header: Header,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Frame<'a>>, Breach> {
        let breach = |code| Breach { code, header: Some(header) };
        let Some(long) = self.long.as_deref_mut() else { return Ok(None) };
        if !long.take(&header, bytes).map_err(breach)? {
            return Ok(None);
        }
        let (rest, value, check) = std::mem::take(long).finish();
        (self.long, self.header) = (None, None);
        if check != header.body_check {
            return Err(breach(Code::BadChecksum));
        }
        Ok(Some(Frame { header, body: Cow::Owned(rest), value: Some(value) }))
    }

    /// Moves bytes over until `len` are there.
    fn fill(&mut self, bytes: &mut &[u8], len: usize) {
        let (moved, rest) = bytes.split_at((len - self.partial.len()).min(bytes.len()));
        self.partial.extend_from_slice(moved);
        *bytes = rest;
    }
}

fn judged(
    head: &[u8; HEADER_LEN],
    body_len_max: usize,
    of_replies: bool,
) -> Result<Header, Breach> {
    let header = Header::decode(head).map_err(|code| Breach { code, header: None })?;
    let is_set = header.opcode == Opcode::Set as u8;
    let max =
        if is_set || of_replies { body_len_max } else { body_len_max.min(OTHER_BODY_LEN_MAX) };
    let code = match header {
        Header { version, .. } if version != VERSION => Code::UnsupportedVersion,
        Header { body_len, .. } if body_len as usize > max => Code::TooLarge,
        _ => return Ok(header),
    };
    Err(Breach { code, header: Some(header) })
}

fn framed(header: Header, body: Cow<'_, [u8]>) -> Result<Frame<'_>, Breach> {
    match header.fits(&body) {
        true => Ok(Frame { header, body, value: None }),
        false => Err(Breach { code: Code::BadChecksum, header: Some(header) }),
    }
}
