//! Parsed commands of many connections, waiting to be executed.
//!
//! A shard parses everything that one turn of its loop received before it executes any of it, so
//! that the keys can be prefetched together. So a parsed command is plain data, twelve bytes plus
//! eight per argument, in lists that live as long as the shard. Its bytes stay where they are: in
//! the chunk, which the caller keeps until [`Batch::clear`], or, if it was cut by the end of a
//! chunk, in a buffer that moved from the parser into the batch.

use std::sync::Arc;

use super::{Args, Span};

/// One parsed command of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    source: u32,
    args_start: u32,
    args_len: u32,
}

/// As `source`: the chunk given to the call that parsed the frame. Else an index of `carried`.
const CHUNK: u32 = u32::MAX;

/// Parsed commands; one per shard, reused from turn to turn.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) frames: Vec<Frame>,
    pub(super) spans: Vec<Span>,
    large: Vec<Arc<Vec<u8>>>,
    /// Bytes of the frames that were not whole in one chunk.
    carried: Vec<Vec<u8>>,
}

impl Batch {
    /// The commands in the order in which they were parsed. Those of one call of
    /// [`super::Parser::parse`] lie together, at the end.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The arguments of `frame`. `chunk` is what was given to the call that parsed it.
    #[inline]
    pub fn args<'a>(&'a self, frame: Frame, chunk: &'a [u8]) -> Args<'a> {
        let source =
            if frame.source == CHUNK { chunk } else { &self.carried[frame.source as usize] };
        let spans = &self.spans[frame.args_start as usize..][..frame.args_len as usize];
        Args::new(source, spans, &self.large)
    }

    /// Forgets all commands. Keeps memory for the next turn, within reason.
    pub fn clear(&mut self) {
        const SPANS_KEPT_MAX: usize = 64 << 10;
        self.frames.clear();
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.large.clear();
        self.carried.clear();
    }

    /// Adds the command whose arguments are the spans from `args_start` on, all in the chunk.
    #[inline]
    pub(super) fn push_whole(&mut self, args_start: usize) {
        let args_len = self.spans.len() - args_start;
        debug_assert!(args_len > 0 && self.spans.len() < u32::MAX as usize);
        let (args_start, args_len) = (args_start as u32, args_len as u32);
        self.frames.push(Frame { source: CHUNK, args_start, args_len });
    }

    /// Adds a command with bytes of its own.
    pub(super) fn push_carried(
        &mut self,
        bytes: Vec<u8>,
        spans: &[Span],
        large: Vec<Arc<Vec<u8>>>,
    ) {
        let frame = Frame {
            source: u32::try_from(self.carried.len()).expect("fewer buffers than bytes"),
            args_start: u32::try_from(self.spans.len()).expect("a batch is smaller than 4 Gi"),
            args_len: u32::try_from(spans.len()).expect("at most ARGS_MAX"),
        };
        let moved_by = self.large.len();
        self.spans.extend(spans.iter().map(|span| span.moved(moved_by)));
        self.large.extend(large);
        self.carried.push(bytes);
        self.frames.push(frame);
    }
}
