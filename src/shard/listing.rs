//! Keys in order of a partition whose rows are not all in memory: pages of what the tables have,
//! each laid over by what the memtable has.
//!
//! A page is read by a task and taken by the loop. A flush or a clear in between makes it void, and
//! it is read again: a row that it lacks may have left memory since.

use std::cell::RefCell;
use std::rc::Rc;

use super::Shard;
use super::seek::unreadable;
use crate::command::is_expired;
use crate::env::{Class, Env};
use crate::id::Timestamp;
use crate::lsm::memtable::Kind;
use crate::lsm::table;
use crate::lsm::view::{Page, successor};
use crate::partition::Epoch;

/// A page on its way.
pub struct Listing {
    place: u32,
    from: Vec<u8>,
    limit: usize,
    epoch: Epoch,
    page: Rc<RefCell<Option<Result<Page, table::Error>>>>,
}

/// What came of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is still being read.
    Not,
    /// It was shown; the next one begins there, if there is one.
    To(Option<Vec<u8>>),
    /// It can not be read: the text of an error reply.
    Failed(String),
}

impl<E: Env> Shard<E> {
    /// Begins a page of the partition at `place`, from the encoded key `from` on.
    pub fn list(&self, place: u32, from: &[u8], limit: usize) -> Listing {
        let page = Rc::default();
        let epoch = self.partitions[place as usize].epoch();
        let listing = Listing { place, from: from.to_vec(), limit, epoch, page };
        self.read_page(&listing);
        listing
    }

    fn read_page(&self, listing: &Listing) {
        let Listing { place, from, limit, page, .. } = listing;
        let (view, env, page) = (self.tree.view(*place), self.env.clone(), Rc::clone(page));
        let (from, limit) = (from.clone(), *limit);
        self.env.spawn(Class::Foreground, async move {
            let read = view.page(&from, limit).await;
            *page.borrow_mut() = Some(read);
            env.notify();
        });
    }

    /// Shows `each` the live keys of a page, encoded, each with the timestamp of its newest version
    /// if that is in memory, else 0. Whoever answers with them waits for what
    /// [`Shard::uncommitted`] names.
    pub fn take_listed(
        &mut self,
        listing: &mut Listing,
        mut each: impl FnMut(&[u8], Timestamp),
    ) -> Listed {
        let Some(read) = listing.page.borrow_mut().take() else { return Listed::Not };
        let page = match read {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(shard = self.id.0, %error, "keys can not be read");
                return Listed::Failed(unreadable(&error));
            }
        };
        let now_ms = self.now_ms;
        let partition = &mut self.partitions[listing.place as usize];
        if partition.epoch() != listing.epoch {
            listing.epoch = partition.epoch();
            self.read_page(listing);
            return Listed::Not;
        }
        let mut rows = page.rows.iter().peekable();
        let mut show = |key: &[u8], kind: Kind, expiry_ms: Option<u64>, timestamp| {
            if kind == Kind::Put && !is_expired(expiry_ms, now_ms) {
                each(key, timestamp);
            }
        };
        for (nth, (key, version)) in partition.scan(&listing.from).enumerate() {
            if page.end.as_ref().is_some_and(|end| key >= end.as_slice()) {
                break;
            }
            while let Some(row) = rows.next_if(|row| row.key.as_slice() < key) {
                show(&row.key, row.kind, row.expiry_ms, Timestamp(0));
            }
            rows.next_if(|row| row.key == key);
            show(key, version.kind, version.expiry_ms, version.timestamp);
            if nth + 1 >= listing.limit {
                return Listed::To(Some(successor(key)));
            }
        }
        rows.for_each(|row| show(&row.key, row.kind, row.expiry_ms, Timestamp(0)));
        Listed::To(page.end)
    }

    /// Proposes the deletion of a live key that was listed.
    pub fn bury(&mut self, place: u32, key: &[u8]) {
        let now_ms = self.now_ms;
        self.partitions[place as usize].bury(key, now_ms);
        self.touch(place);
    }
}
