//! The request parser: chunks of a byte stream in, commands out.
//!
//! The common case is a chunk with whole commands, written as every client writes them. It is read
//! here in one pass, without allocation or copy: the arguments are places in the chunk. All else
//! goes through [`Partial`], which remembers where it stopped: a frame cut by the chunk's end, a
//! large argument, a quoted inline command, a length that is over a limit or oddly written. The
//! fast path knows no errors: what it does not take to be right it leaves to `partial`, which
//! decides. So each rule is decided in one place, and by a byte's place in its frame, never by
//! where the chunk was cut.
//!
//! ```text
//! frame  := '*' count CRLF ('$' len CRLF byte{len} CRLF){count}  |  inline LF
//! inline := words of a line, see `inline`
//! ```
//!
//! As in Redis, a count below 1 and an empty inline line are skipped, and of a CRLF only the CR of
//! a header is looked at: the byte after it, and both after an argument, are skipped unseen. Unlike
//! Redis, a NUL byte does not hide the rest of a line.

use super::partial::{Partial, Taken};
use super::{Batch, Error, Span, inline};
use crate::limits::{
    ARGS_MAX, FRAME_LEN_MAX, INLINE_LEN_MAX, LARGE_LEN_MIN, UNAUTHENTICATED_ARGS_MAX,
    UNAUTHENTICATED_BULK_LEN_MAX, VALUE_LEN_MAX,
};

/// What a connection may send in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments; at most [`ARGS_MAX`].
    pub args_max: usize,
    /// Bytes of one argument; at most [`VALUE_LEN_MAX`].
    pub bulk_len_max: usize,
    /// Bytes of the frame; at most [`FRAME_LEN_MAX`].
    pub frame_len_max: usize,
}

impl Limits {
    /// Before authentication, where it is asked for.
    pub const fn unauthenticated() -> Self {
        Self {
            args_max: UNAUTHENTICATED_ARGS_MAX,
            bulk_len_max: UNAUTHENTICATED_BULK_LEN_MAX,
            frame_len_max: FRAME_LEN_MAX,
        }
    }

    /// After it.
    pub const fn authenticated() -> Self {
        Self { args_max: ARGS_MAX, bulk_len_max: VALUE_LEN_MAX, frame_len_max: FRAME_LEN_MAX }
    }

    /// Arguments below this length are left in the frame's bytes and are within the limits.
    fn short_len_end(&self) -> usize {
        LARGE_LEN_MIN.min(self.bulk_len_max + 1)
    }
}

/// The parser of one connection; it lives on that connection's shard. Two words while idle.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Between frames; nothing is held.
    #[default]
    Idle,
    /// Within a frame; all bytes received so far are taken.
    Within(Box<Partial>),
    /// The connection is to be closed.
    Failed(Error),
}

/// Why the fast path stopped within a frame.
struct Cut {
    /// All before it was understood.
    at: usize,
    /// Where this frame's spans start.
    args_start: usize,
    /// Arguments still to come; 0: not even the frame's first line was understood.
    missing: usize,
}

impl Parser {
    /// Parses up to `frames_max` commands, appends them to `batch`, and returns how many bytes of
    /// `chunk` were used. Fewer than all only if `frames_max` was reached: call again with the
    /// rest. The chunk must be kept as long as its frames are; `limits` may differ from call to
    /// call, and hold for what is read in it.
    ///
    /// # Errors
    /// The stream is broken; every later call says the same. Commands parsed before the breach are
    /// in `batch` and are to be answered before the error.
    ///
    /// # Panics
    /// When `frames_max` is 0 or the chunk is over 1 GiB.
    pub fn parse(
        &mut self,
        chunk: &[u8],
        limits: &Limits,
        frames_max: usize,
        batch: &mut Batch,
    ) -> Result<usize, Error> {
        assert!(frames_max > 0, "asked for no frames");
        assert!(chunk.len() <= 1 << 30, "a chunk of {} bytes", chunk.len());
        let frames_end = batch.frames.len().saturating_add(frames_max);
        let mut at = self.resume(chunk, 0, limits, batch)?;
        while at < chunk.len() && batch.frames.len() < frames_end {
            at = match whole_frame(chunk, at, limits, batch) {
                Ok(next) => next,
                Err(cut) => {
                    self.carry(&chunk[at..cut.at], at, &cut, chunk[at], batch);
                    self.resume(chunk, cut.at, limits, batch)?
                }
            };
        }
        Ok(at)
    }

    /// Bytes of memory held for a frame that is not complete.
    pub fn buffered_len(&self) -> usize {
        match &self.state {
            State::Within(partial) => size_of::<Partial>() + partial.held_len(),
            State::Idle | State::Failed(_) => 0,
        }
    }

    /// Starts a partial frame with what the fast path understood of it: `bytes`, which start at
    /// `frame_start` of the chunk.
    #[cold]
    fn carry(&mut self, bytes: &[u8], frame_start: usize, cut: &Cut, first: u8, batch: &mut Batch) {
        let partial = if cut.missing == 0 {
            Partial::new(first)
        } else {
            let spans = batch.spans.drain(cut.args_start..);
            let spans = spans.map(|span| span.earlier(frame_start)).collect();
            Partial::within(bytes.to_vec(), spans, cut.missing)
        };
        self.state = State::Within(Box::new(partial));
    }

    /// Takes on from `at` what belongs to the partial frame, if there is one; returns where the
    /// rest starts.
    fn resume(
        &mut self,
        chunk: &[u8],
        mut at: usize,
        limits: &Limits,
        batch: &mut Batch,
    ) -> Result<usize, Error> {
        let taken = match &mut self.state {
            State::Idle => return Ok(at),
            State::Within(partial) => partial.take(chunk, &mut at, limits),
            State::Failed(error) => Err(*error),
        };
        match taken {
            Ok(Taken::All) => debug_assert_eq!(at, chunk.len(), "left bytes of its own frame"),
            Ok(Taken::Skip) => self.state = State::Idle,
            Ok(Taken::Command) => {
                if let State::Within(partial) = std::mem::take(&mut self.state) {
                    partial.finish(batch);
                }
            }
            Err(error) => {
                self.state = State::Failed(error);
                return Err(error);
            }
        }
        Ok(at)
    }
}

/// Reads the frame at `start` if it is whole and plain; returns where the next one starts.
#[inline]
fn whole_frame(
    chunk: &[u8],
    start: usize,
    limits: &Limits,
    batch: &mut Batch,
) -> Result<usize, Cut> {
    let args_start = batch.spans.len();
    if chunk[start] != b'*' {
        return whole_line(chunk, start, batch);
    }
    // Beyond this end the frame would be too long: then it seems cut, and is not read here.
    let end = chunk.len().min(start.saturating_add(limits.frame_len_max));
    let src = &chunk[..end];
    let (mut missing, at) = match short_header(src, start, b'*') {
        Some((count, at)) if (1..=limits.args_max).contains(&count) => (count, at),
        _ => return Err(Cut { at: start, args_start, missing: 0 }),
    };
    let at = take_args(src, at, 0, limits, &mut missing, &mut batch.spans);
    if missing > 0 {
        return Err(Cut { at, args_start, missing });
    }
    batch.push_whole(args_start);
    Ok(at)
}

/// Reads an inline command without quotes, or an empty line.
fn whole_line(chunk: &[u8], start: usize, batch: &mut Batch) -> Result<usize, Cut> {
    let args_start = batch.spans.len();
    let line = &chunk[start..chunk.len().min(start + INLINE_LEN_MAX + 1)];
    match line.iter().position(|&b| b == b'\n') {
        Some(len) if inline::split_plain(&line[..len], start, &mut batch.spans) => {
            if batch.spans.len() > args_start {
                batch.push_whole(args_start);
            }
            Ok(start + len + 1)
        }
        _ => Err(Cut { at: start, args_start, missing: 0 }),
    }
}

/// Reads arguments from `at` on while they are whole, short and plainly written, and appends their
/// places, `bias` added. Takes each from `missing`; returns where it stopped.
#[inline]
pub(super) fn take_args(
    src: &[u8],
    mut at: usize,
    bias: usize,
    limits: &Limits,
    missing: &mut usize,
    spans: &mut Vec<Span>,
) -> usize {
    let len_end = limits.short_len_end();
    while *missing > 0 {
        let Some((len, start)) = short_header(src, at, b'$') else { break };
        let next = start + len + 2;
        if len >= len_end || next > src.len() {
            break;
        }
        spans.push(Span::new(start.wrapping_add(bias), len));
        at = next;
        *missing -= 1;
    }
    at
}

/// Reads `kind`, a number of up to six digits without a leading zero, CR and any byte. Returns the
/// number and the place after.
#[inline(always)]
fn short_header(src: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    const DIGITS_MAX: usize = 6;
    let &[first, tens, next, _] = src.get(at..at + 4)?.first_chunk()?;
    let mut number = usize::from(tens.wrapping_sub(b'0'));
    if first != kind || number > 9 {
        return None;
    }
    if next == b'\r' {
        return Some((number, at + 4));
    }
    if number == 0 {
        return None;
    }
    for (index, &byte) in src[at + 2..].iter().enumerate().take(DIGITS_MAX) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let next = at + 2 + index + 2;
            return (byte == b'\r' && next <= src.len()).then_some((number, next));
        }
        number = number * 10 + usize::from(digit);
    }
    None
}
