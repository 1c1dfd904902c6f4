//! A frame that is not whole in one chunk, or out of the ordinary: read step by step.
//!
//! Each step remembers how far it came, so every byte is looked at once, however the stream is
//! cut. Bytes are copied into a buffer of the frame's own, but a large argument goes straight into
//! the vector in which it will live.

use std::sync::Arc;

use super::parser::{Limits, take_args};
use super::{Batch, Error, Span, inline};
use crate::limits::{ARGS_MAX, INLINE_LEN_MAX, LARGE_LEN_MIN, VALUE_LEN_MAX};
use crate::protocol::with_address_space;

/// What became of the bytes offered to a partial frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All were taken and the frame wants more.
    All,
    /// The frame is complete: a command. What follows it was left.
    Command,
    /// The frame is complete and says nothing. What follows it was left.
    Skip,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Partial {
    /// The frame so far, but large arguments; of a quoted inline command its words.
    buf: Vec<u8>,
    spans: Vec<Span>,
    large: Vec<Arc<Vec<u8>>>,
    /// Bytes of the frame that are not in `buf`: large arguments and their ends.
    large_len: usize,
    /// Arguments still to come.
    missing: usize,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Within a line that starts at `start` of the buffer.
    Line { line: Line, start: usize },
    /// Before an argument's line.
    Args,
    /// Within an argument of `len` bytes that starts at `start` of the buffer.
    Bulk { start: usize, len: usize },
    /// Within a large argument of `len` bytes.
    Large { value: Vec<u8>, len: usize },
    /// Within the two bytes after a large argument.
    LargeEnd { left: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    ArgsCount,
    BulkLen,
    Inline,
}

impl Line {
    fn last_byte(self) -> u8 {
        if self == Self::Inline { b'\n' } else { b'\r' }
    }

    /// Bytes that belong to the line after its last: the LF that nobody looks at.
    fn skipped_len(self) -> usize {
        usize::from(self != Self::Inline)
    }

    fn too_long(self) -> Error {
        match self {
            Self::ArgsCount => Error::ArgsCountTooLong,
            Self::BulkLen => Error::BulkLenTooLong,
            Self::Inline => Error::InlineTooLong,
        }
    }
}

impl Partial {
    /// A frame of which nothing was read; its first byte will be `first`.
    pub(super) fn new(first: u8) -> Self {
        let line = if first == b'*' { Line::ArgsCount } else { Line::Inline };
        Self { step: Step::Line { line, start: 0 }, ..Self::within(Vec::new(), Vec::new(), 0) }
    }

    /// A frame of which `buf` was read, with `spans` in it; `missing` arguments are to come.
    pub(super) fn within(buf: Vec<u8>, spans: Vec<Span>, missing: usize) -> Self {
        Self { buf, spans, large: Vec::new(), large_len: 0, missing, step: Step::Args }
    }

    /// Bytes of memory held, beside the struct itself.
    pub(super) fn held_len(&self) -> usize {
        let current = if let Step::Large { value, .. } = &self.step { value.len() } else { 0 };
        let large: usize = self.large.iter().map(|value| value.capacity()).sum();
        let lists = self.spans.capacity() * size_of::<Span>()
            + self.large.capacity() * size_of::<Arc<Vec<u8>>>();
        self.buf.capacity() + lists + large + current
    }

    /// Takes from `chunk[*at..]` what belongs to this frame and moves `at` behind it.
    pub(super) fn take(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        limits: &Limits,
    ) -> Result<Taken, Error> {
        loop {
            let done = match self.step {
                Step::Line { line, start } => match self.take_line(chunk, at, line, start)? {
                    Some(end) => self.read_line(line, start, end, limits)?,
                    None => return Ok(Taken::All),
                },
                Step::Args if self.missing == 0 => Some(Taken::Command),
                Step::Args => self.take_whole_args(chunk, at, limits),
                Step::Bulk { start, len } => self.take_bulk(chunk, at, start, len),
                Step::Large { .. } => self.take_large(chunk, at),
                Step::LargeEnd { left } => self.take_large_end(chunk, at, left),
            };
            if let Some(taken) = done {
                return Ok(taken);
            }
        }
    }

    /// Hands the command over to `batch`.
    pub(super) fn finish(self, batch: &mut Batch) {
        batch.push_carried(self.buf, &self.spans, self.large);
    }

    /// Takes bytes up to the line's end; returns the place of its last byte in the buffer, once
    /// it and what is skipped after it are there.
    fn take_line(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        line: Line,
        start: usize,
    ) -> Result<Option<usize>, Error> {
        let rest = &chunk[*at..];
        let held = self.buf.len() - start;
        if held > 0 && self.buf.last() == Some(&line.last_byte()) {
            // Only its skipped byte is missing: with more the line would have been complete.
            let Some(&byte) = rest.first() else { return Ok(None) };
            self.buf.push(byte);
            *at += 1;
            return Ok(Some(self.buf.len() - 2));
        }
        let seen = &rest[..rest.len().min(INLINE_LEN_MAX + 1 - held)];
        let found = seen.iter().position(|&b| b == line.last_byte());
        if found.is_none() && held + seen.len() > INLINE_LEN_MAX {
            return Err(line.too_long());
        }
        let want = found.map_or(seen.len(), |len| len + 1 + line.skipped_len());
        let taken = &rest[..want.min(rest.len())];
        self.buf.extend_from_slice(taken);
        *at += taken.len();
        Ok(found.filter(|_| taken.len() == want).map(|len| start + held + len))
    }

    /// Reads the line whose last byte is at `end` of the buffer.
    fn read_line(
        &mut self,
        line: Line,
        start: usize,
        end: usize,
        limits: &Limits,
    ) -> Result<Option<Taken>, Error> {
        match line {
            Line::ArgsCount => self.read_args_count(end, limits),
            Line::BulkLen => self.read_bulk_len(start, end, limits).map(|()| None),
            Line::Inline => self.read_inline(end).map(Some),
        }
    }

    fn read_args_count(&mut self, end: usize, limits: &Limits) -> Result<Option<Taken>, Error> {
        let count = number(&self.buf[1..end]).ok_or(Error::InvalidArgsCount)?;
        let Ok(count @ 1..) = usize::try_from(count) else { return Ok(Some(Taken::Skip)) };
        if count > limits.args_max {
            // As Redis: what no client may send is judged first only beyond 32 bits.
            let unauthenticated = limits.args_max < ARGS_MAX && count <= i32::MAX as usize;
            return Err(if unauthenticated {
                Error::UnauthenticatedArgsCount
            } else {
                Error::InvalidArgsCount
            });
        }
        self.missing = count;
        self.step = Step::Args;
        Ok(None)
    }

    fn read_bulk_len(&mut self, start: usize, end: usize, limits: &Limits) -> Result<(), Error> {
        let got = self.buf[start];
        if got != b'$' {
            return Err(Error::ExpectedBulk { got });
        }
        let len = number(&self.buf[start + 1..end]).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|&len| len <= VALUE_LEN_MAX).ok_or(Error::InvalidBulkLen)?;
        if len > limits.bulk_len_max {
            return Err(Error::UnauthenticatedBulkLen);
        }
        if self.frame_len() + len > limits.frame_len_max {
            return Err(Error::FrameTooLong);
        }
        self.step = if len >= LARGE_LEN_MIN {
            Step::Large { value: with_address_space(len), len }
        } else {
            Step::Bulk { start: self.buf.len(), len }
        };
        Ok(())
    }

    fn read_inline(&mut self, end: usize) -> Result<Taken, Error> {
        let line = &self.buf[..end];
        if !inline::split_plain(line, 0, &mut self.spans) {
            self.buf = inline::split_quoted(line, &mut self.spans)?;
        }
        Ok(if self.spans.is_empty() { Taken::Skip } else { Taken::Command })
    }

    /// Takes all arguments that are whole in the chunk, in one copy.
    fn take_whole_args(&mut self, chunk: &[u8], at: &mut usize, limits: &Limits) -> Option<Taken> {
        let left = limits.frame_len_max.saturating_sub(self.frame_len());
        let src = &chunk[..chunk.len().min(at.saturating_add(left))];
        let bias = self.buf.len().wrapping_sub(*at);
        let end = take_args(src, *at, bias, limits, &mut self.missing, &mut self.spans);
        self.buf.extend_from_slice(&chunk[*at..end]);
        *at = end;
        if self.missing > 0 {
            self.step = Step::Line { line: Line::BulkLen, start: self.buf.len() };
        }
        None
    }

    fn take_bulk(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        start: usize,
        len: usize,
    ) -> Option<Taken> {
        let want = start + len + 2 - self.buf.len();
        let taken = &chunk[*at..][..want.min(chunk.len() - *at)];
        self.buf.extend_from_slice(taken);
        *at += taken.len();
        if taken.len() < want {
            return Some(Taken::All);
        }
        self.end_arg(Span::new(start, len))
    }

    fn take_large(&mut self, chunk: &[u8], at: &mut usize) -> Option<Taken> {
        let Step::Large { value, len } = &mut self.step else { return None };
        let taken = &chunk[*at..][..(*len - value.len()).min(chunk.len() - *at)];
        value.extend_from_slice(taken);
        *at += taken.len();
        if value.len() < *len {
            return Some(Taken::All);
        }
        self.large_len += *len + 2;
        self.large.push(Arc::new(std::mem::take(value)));
        self.step = Step::LargeEnd { left: 2 };
        None
    }

    fn take_large_end(&mut self, chunk: &[u8], at: &mut usize, left: usize) -> Option<Taken> {
        let taken = left.min(chunk.len() - *at);
        *at += taken;
        if taken < left {
            self.step = Step::LargeEnd { left: left - taken };
            return Some(Taken::All);
        }
        self.end_arg(Span::large(self.large.len() - 1))
    }

    fn end_arg(&mut self, span: Span) -> Option<Taken> {
        self.spans.push(span);
        self.missing -= 1;
        self.step = Step::Args;
        None
    }

    /// Bytes of the frame so far.
    fn frame_len(&self) -> usize {
        self.buf.len() + self.large_len
    }
}

/// Redis `string2ll`: an optional `-`, digits without a leading zero, nothing else.
fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] if digits.len() == text.len() => Some(0),
        [b'1'..=b'9', ..] if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}
