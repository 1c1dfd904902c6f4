//! Scans: which keys, and the pages they come in.

use std::collections::VecDeque;

use crate::op::Entry;
use crate::wire::Page;

/// Which keys to walk over; all of them unless said.
///
/// A key that is there from the first page to the last comes at least once; one that comes or goes
/// meanwhile may or may not. The order is the server's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a scan is walked with Client::scan"]
pub struct Scan {
    pub(crate) pattern: Vec<u8>,
    pub(crate) glob: bool,
    pub(crate) values: bool,
    pub(crate) page_len: u32,
}

impl Scan {
    /// All keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self { pattern: prefix.as_ref().to_owned(), ..Self::default() }
    }

    /// Keys that a glob fits: `*`, `?`, `[a-z]`, `[^a]`, and `\` before what is meant literally.
    pub fn glob(pattern: impl AsRef<[u8]>) -> Self {
        Self { pattern: pattern.as_ref().to_owned(), glob: true, ..Self::default() }
    }

    /// With the keys' values.
    pub fn values(mut self) -> Self {
        self.values = true;
        self
    }

    /// Most entries that one request fetches; the server's choice unless said.
    pub fn page_len(mut self, entries: u32) -> Self {
        self.page_len = entries;
        self
    }
}

/// Where a scan is.
#[derive(Debug)]
pub(crate) struct Pages {
    pub scan: Scan,
    /// Of the next page.
    pub cursor: Vec<u8>,
    entries: VecDeque<Entry>,
    ended: bool,
}

impl Pages {
    pub fn new(scan: Scan) -> Self {
        Self { scan, cursor: Vec::new(), entries: VecDeque::new(), ended: false }
    }

    /// The next entry that is at hand.
    pub fn entry(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    /// Whether there is no further page.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn add(&mut self, page: Page) {
        self.ended = page.cursor.is_empty();
        self.cursor = page.cursor;
        self.entries = page.entries.into();
    }

    /// After an error, nothing more comes.
    #[cfg(feature = "blocking")]
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the entry lacks the value that was asked for: it did not fit into the page.
    pub fn lacks_value(&self, entry: &Entry) -> bool {
        self.scan.values && entry.value.is_none()
    }
}
