//! A scan under way.

use super::Client;
use crate::error::Result;
use crate::op::Entry;
use crate::scan::{Pages, Scan};
use crate::wire::{self, Request};

/// Keys that a scan finds, one after the other.
///
/// It holds one page of entries. It can be kept for as long as one likes: the server keeps nothing.
#[derive(Debug)]
#[must_use = "nothing is read before next() is called"]
pub struct Scanner {
    client: Client,
    pages: Pages,
}

impl Scanner {
    pub(super) fn new(client: Client, scan: Scan) -> Self {
        Self { client, pages: Pages::new(scan) }
    }

    /// The next key; none: that was all.
    ///
    /// # Errors
    /// As any read. Called again, it goes on where it was.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            while let Some(mut entry) = self.pages.entry() {
                if !self.pages.lacks_value(&entry) {
                    return Ok(Some(entry));
                }
                // It did not fit into the page. If the key is gone, the scan passes over it.
                if let Some(item) = self.client.get(&entry.key).await? {
                    entry.fill(item);
                    return Ok(Some(entry));
                }
            }
            if self.pages.has_ended() {
                return Ok(None);
            }
            let (scan, cursor) = (&self.pages.scan, &self.pages.cursor);
            let request = Request::Scan { db: self.client.db, scan, cursor };
            let page = self.client.call(&request, wire::page).await?;
            self.pages.add(page);
        }
    }
}
