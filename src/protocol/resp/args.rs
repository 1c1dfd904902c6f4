//! The arguments of one command: a view of bytes held elsewhere, or a copy of its own.

use std::fmt;
use std::sync::Arc;

use crate::limits::LARGE_LEN_MIN;

/// Where one argument is: a range of the command's source bytes, or a place in the list of large
/// values. Plain data, so that many parsed commands can wait while others are parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    offset: u32,
    len: u32,
}

/// As `len`: `offset` is an index into the list of large values.
const LARGE: u32 = u32::MAX;

impl Span {
    /// Bytes `offset..offset + len` of the source.
    #[inline]
    pub fn new(offset: usize, len: usize) -> Self {
        debug_assert!(offset < LARGE as usize && len < LARGE as usize, "span {offset} + {len}");
        Self { offset: offset as u32, len: len as u32 }
    }

    /// The large value at `index` of the list.
    pub fn large(index: usize) -> Self {
        Self { offset: u32::try_from(index).expect("fewer values than bytes"), len: LARGE }
    }

    /// The same argument when `count` values were put in front of the list of large ones.
    pub(super) fn moved(self, count: usize) -> Self {
        if self.len == LARGE { Self::large(self.offset as usize + count) } else { self }
    }

    /// The same argument when `count` bytes at the start of the source were dropped.
    pub(super) fn earlier(self, count: usize) -> Self {
        assert!(self.len != LARGE && self.offset as usize >= count, "{self:?} moved by {count}");
        Self { offset: self.offset - count as u32, len: self.len }
    }
}

/// One argument: bytes that are borrowed, or held elsewhere and shared without a copy.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// Borrowed, from a receive buffer or a memtable.
    Bytes(&'a [u8]),
    /// Large, held once.
    Shared(&'a Arc<Vec<u8>>),
}

/// The arguments of one command, its name first. Two words and a half of references: copy it.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    source: &'a [u8],
    spans: &'a [Span],
    large: &'a [Arc<Vec<u8>>],
}

impl<'a> Args<'a> {
    /// A view of `spans` of `source` and of the `large` values they name.
    #[inline]
    pub fn new(source: &'a [u8], spans: &'a [Span], large: &'a [Arc<Vec<u8>>]) -> Self {
        Self { source, spans, large }
    }

    /// How many there are; a command that was received has at least one.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`, 0 being the command's name.
    ///
    /// # Panics
    /// When `index` is not below [`Args::len`].
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let span = self.spans[index];
        if span.len == LARGE {
            return &self.large[span.offset as usize];
        }
        &self.source[span.offset as usize..][..span.len as usize]
    }

    /// Argument `index` where it is held, if it is large ([`LARGE_LEN_MIN`]): keep it without a
    /// copy.
    ///
    /// # Panics
    /// When `index` is not below [`Args::len`].
    #[inline]
    pub fn shared(&self, index: usize) -> Option<&'a Arc<Vec<u8>>> {
        let span = self.spans[index];
        (span.len == LARGE).then(|| &self.large[span.offset as usize])
    }

    /// Argument `index`, borrowed or shared as it is held.
    ///
    /// # Panics
    /// When `index` is not below [`Args::len`].
    #[inline]
    pub fn arg(&self, index: usize) -> Arg<'a> {
        match self.shared(index) {
            Some(value) => Arg::Shared(value),
            None => Arg::Bytes(self.get(index)),
        }
    }

    /// Whether argument `index` is `word` in any case.
    ///
    /// # Panics
    /// When `index` is not below [`Args::len`].
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.get(index).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The bytes of the arguments from `start` on.
    ///
    /// # Panics
    /// When `start` is over [`Args::len`].
    pub fn from(&self, start: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        self.tail(start).iter()
    }

    /// The arguments from `start` on.
    ///
    /// # Panics
    /// When `start` is over [`Args::len`].
    #[inline]
    pub fn tail(&self, start: usize) -> Self {
        Self { spans: &self.spans[start..], ..*self }
    }

    /// All arguments in order.
    #[inline]
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        (0..self.len()).map(move |index| self.get(index))
    }

    /// A copy that outlives the source; large values are shared, not copied.
    pub fn to_buf(&self) -> ArgsBuf {
        let mut buf = ArgsBuf::default();
        for index in 0..self.len() {
            match self.shared(index) {
                Some(value) => buf.push_shared(Arc::clone(value)),
                None => buf.push(self.get(index)),
            }
        }
        buf
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_LEN_MAX: usize = 64;
        let mut list = f.debug_list();
        for arg in self.iter() {
            let shown = &arg[..arg.len().min(SHOWN_LEN_MAX)];
            let more = if shown.len() < arg.len() { "..." } else { "" };
            list.entry(&format_args!("\"{}\"{more}", shown.escape_ascii()));
        }
        list.finish()
    }
}

/// Arguments that own their bytes: a command that waits (in a transaction, on its way to another
/// shard), or one made here rather than received.
#[derive(Clone, Default)]
pub struct ArgsBuf {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    large: Vec<Arc<Vec<u8>>>,
}

impl ArgsBuf {
    /// Appends a copy of `arg`.
    ///
    /// # Panics
    /// When the arguments add up to 4 GiB.
    pub fn push(&mut self, arg: &[u8]) {
        if arg.len() >= LARGE_LEN_MIN {
            return self.push_shared(Arc::new(arg.to_vec()));
        }
        assert!(self.bytes.len() + arg.len() < LARGE as usize, "arguments of 4 GiB");
        self.spans.push(Span::new(self.bytes.len(), arg.len()));
        self.bytes.extend_from_slice(arg);
    }

    /// Appends a value that is held elsewhere, too.
    pub fn push_shared(&mut self, arg: Arc<Vec<u8>>) {
        self.spans.push(Span::large(self.large.len()));
        self.large.push(arg);
    }

    /// The view that commands read.
    pub fn args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.spans, &self.large)
    }
}

impl<A: AsRef<[u8]>> FromIterator<A> for ArgsBuf {
    fn from_iter<I: IntoIterator<Item = A>>(args: I) -> Self {
        let mut buf = Self::default();
        args.into_iter().for_each(|arg| buf.push(arg.as_ref()));
        buf
    }
}

impl fmt::Debug for ArgsBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.args().fmt(f)
    }
}
