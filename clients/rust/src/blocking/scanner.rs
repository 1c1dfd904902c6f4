//! A scan under way.

use super::Client;
use crate::error::Result;
use crate::op::Entry;
use crate::scan::{Pages, Scan};
use crate::wire::{self, Request};

/// Keys that a scan finds, one after the other.
///
/// It holds one page of entries. It can be kept for as long as one likes: the server keeps nothing.
/// After an error it ends.
#[derive(Debug)]
#[must_use = "nothing is read before the iterator is asked"]
pub struct Scanner {
    client: Client,
    pages: Pages,
}

impl Scanner {
    pub(super) fn new(client: Client, scan: Scan) -> Self {
        Self { client, pages: Pages::new(scan) }
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        loop {
            while let Some(mut entry) = self.pages.entry() {
                if !self.pages.lacks_value(&entry) {
                    return Ok(Some(entry));
                }
                // It did not fit into the page. If the key is gone, the scan passes over it.
                if let Some(item) = self.client.get(&entry.key)? {
                    entry.fill(item);
                    return Ok(Some(entry));
                }
            }
            if self.pages.has_ended() {
                return Ok(None);
            }
            let (scan, cursor) = (&self.pages.scan, &self.pages.cursor);
            let request = Request::Scan { db: self.client.db, scan, cursor };
            let page = self.client.call(&request, wire::page)?;
            self.pages.add(page);
        }
    }
}

impl Iterator for Scanner {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.pages.end();
        }
        next.transpose()
    }
}
