//! The content of one simulated file: sectors, each with a durable version and pending ones, and a
//! length of the same kind. Pure; see [`super::disk`] for the rules.
//!
//! Zero sectors are not stored, so preallocated files cost nothing.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::disk::{Change, PowerCut};
use super::rng::Rng;
use crate::limits::SECTOR_LEN;

/// What the device writes in one piece: a sector tears between these.
const ATOM_LEN: usize = 512;

/// The content of a sector; `None` is all zero.
type Page = Option<Rc<[u8; SECTOR_LEN]>>;

#[derive(Debug)]
struct Version {
    at: Change,
    page: Page,
    /// A failed sync dropped it: no later sync brings it to the disk.
    dropped: bool,
}

#[derive(Debug, Default)]
struct Sector {
    durable: Page,
    pending: Vec<Version>,
}

impl Sector {
    fn current(&self) -> &Page {
        self.pending.last().map_or(&self.durable, |version| &version.page)
    }

    /// Version 0 is the durable one.
    fn version(&self, index: usize) -> &Page {
        if index == 0 { &self.durable } else { &self.pending[index - 1].page }
    }

    fn is_plain_zero(&self) -> bool {
        self.durable.is_none() && self.pending.is_empty()
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Stored {
    sectors: BTreeMap<u64, Sector>,
    len: u64,
    durable_len: u64,
    /// Lengths not yet durable, in order of time.
    lens: Vec<(Change, u64)>,
    /// Cloned by each open handle and each operation in flight.
    pub open: Rc<()>,
}

impl Stored {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Reads into `buf` from `offset`; the count is short at the end of the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        for (index, piece) in buf[..len].chunks_mut(SECTOR_LEN).enumerate() {
            let number = offset / SECTOR_LEN as u64 + index as u64;
            match self.sectors.get(&number).and_then(|sector| sector.current().as_ref()) {
                Some(page) => piece.copy_from_slice(&page[..piece.len()]),
                None => piece.fill(0),
            }
        }
        len
    }

    /// Writes one sector, durable at once or pending.
    pub fn write(&mut self, at: Change, number: u64, bytes: &[u8], durable: bool) {
        let sector = self.sectors.entry(number).or_default();
        let page = page(bytes);
        if durable {
            *sector = Sector { durable: page, pending: Vec::new() };
        } else {
            sector.pending.push(Version { at, page, dropped: false });
        }
        if sector.is_plain_zero() {
            self.sectors.remove(&number);
        }
        self.grow(at, (number + 1) * SECTOR_LEN as u64, durable);
    }

    fn grow(&mut self, at: Change, end: u64, durable: bool) {
        if end > self.len {
            self.len = end;
            self.lens.push((at, end));
        }
        if durable {
            self.lens.retain(|(_, len)| *len > end || *len < self.durable_len);
            self.durable_len = self.durable_len.max(end);
        }
    }

    /// Cuts the file to `len` bytes, pending. What is behind reads as zeroes if the file grows
    /// again, and may be there in part after a power cut.
    pub fn shrink(&mut self, at: Change, len: u64) {
        assert!(len <= self.len, "a file of {} bytes is cut to {len}", self.len);
        self.len = len;
        self.lens.push((at, len));
        for sector in self.sectors.range_mut(len / SECTOR_LEN as u64..).map(|(_, sector)| sector) {
            sector.pending.push(Version { at, page: None, dropped: false });
        }
    }

    /// Makes all changes up to `upto` durable, but for what a failed sync dropped.
    pub fn sync(&mut self, upto: Change) {
        self.sectors.retain(|_, sector| {
            let done = sector.pending.partition_point(|version| version.at <= upto);
            if let Some(last) = sector.pending[..done].iter().rposition(|version| !version.dropped)
            {
                sector.durable = sector.pending[last].page.clone();
                sector.pending.drain(..=last);
            }
            !sector.is_plain_zero()
        });
        if let Some((_, len)) = self.lens.iter().rev().find(|(at, _)| *at <= upto) {
            self.durable_len = *len;
        }
        self.lens.retain(|(at, _)| *at > upto);
    }

    /// A sync failed: any part of what it was to make durable never will be by a later one.
    pub fn sync_failed(&mut self, upto: Change, rng: &mut Rng) {
        for version in self.sectors.values_mut().flat_map(|sector| &mut sector.pending) {
            version.dropped |= version.at <= upto && rng.one_in(2);
        }
    }

    /// Forgets what is not durable, as chance has it.
    pub fn cut(&mut self, rng: &mut Rng, report: &mut PowerCut) {
        let sector_len = SECTOR_LEN as u64;
        let least = self.lens.iter().fold(self.durable_len, |least, (_, len)| least.min(*len));
        let most = self.lens.iter().fold(self.durable_len, |most, (_, len)| most.max(*len));
        self.len = least + rng.between(0, (most - least) / sector_len) * sector_len;
        self.durable_len = self.len;
        self.lens.clear();
        let mut fates = Vec::new();
        for sector in self.sectors.values_mut().filter(|sector| !sector.pending.is_empty()) {
            let newest = sector.pending.last().map(|version| version.at).unwrap_or_default();
            let (page, fate) = cut_sector(sector, rng);
            *sector = Sector { durable: page, pending: Vec::new() };
            fates.push((newest, fate));
        }
        let len = self.len;
        self.sectors.retain(|number, sector| !sector.is_plain_zero() && number * sector_len < len);
        count(&fates, report);
    }

    /// Flips one bit of byte `offset`, in what reads see and in what is durable. False if the file
    /// ends before it.
    pub fn flip_bit(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.len {
            return false;
        }
        let sector = self.sectors.entry(offset / SECTOR_LEN as u64).or_default();
        let at = (offset % SECTOR_LEN as u64) as usize;
        flip(&mut sector.durable, at, bit);
        if let Some(version) = sector.pending.last_mut() {
            flip(&mut version.page, at, bit);
        }
        true
    }

    /// Cuts the file to `len` bytes, at once and durably: a test's doing, not the store's.
    pub fn truncate(&mut self, len: u64) {
        assert!(len.is_multiple_of(SECTOR_LEN as u64), "{len} is not a number of whole sectors");
        self.len = len;
        self.durable_len = len;
        self.lens.clear();
        self.sectors.retain(|number, _| number * (SECTOR_LEN as u64) < len);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Between,
    Torn,
    Kept,
}

fn count(fates: &[(Change, Fate)], report: &mut PowerCut) {
    let of = |fate| fates.iter().filter(move |(_, each)| *each == fate);
    report.unsynced += fates.len() as u64;
    report.lost += of(Fate::Lost).count() as u64;
    report.torn += of(Fate::Torn).count() as u64;
    report.kept += of(Fate::Kept).count() as u64;
    let last_kept = of(Fate::Kept).map(|(at, _)| *at).max().unwrap_or_default();
    report.reordered += of(Fate::Lost).filter(|(at, _)| *at < last_kept).count() as u64;
}

fn cut_sector(sector: &Sector, rng: &mut Rng) -> (Page, Fate) {
    let newest = sector.pending.len();
    if rng.one_in(4) {
        let (first, second) = (rng.index(newest + 1), rng.index(newest + 1));
        let mixed = mix(sector.version(first), sector.version(second), rng);
        if mixed != *sector.version(first) && mixed != *sector.version(second) {
            return (mixed, Fate::Torn);
        }
    }
    let index = rng.index(newest + 1);
    let fate = match index {
        0 => Fate::Lost,
        index if index == newest => Fate::Kept,
        _ => Fate::Between,
    };
    (sector.version(index).clone(), fate)
}

/// Each atom from either page.
fn mix(one: &Page, other: &Page, rng: &mut Rng) -> Page {
    let mut bytes = [0; SECTOR_LEN];
    for (index, atom) in bytes.chunks_mut(ATOM_LEN).enumerate() {
        if let Some(page) = if rng.one_in(2) { one } else { other } {
            atom.copy_from_slice(&page[index * ATOM_LEN..][..ATOM_LEN]);
        }
    }
    page(&bytes)
}

fn page(bytes: &[u8]) -> Page {
    let bytes: &[u8; SECTOR_LEN] = bytes.try_into().expect("writes are of whole sectors");
    bytes.iter().any(|byte| *byte != 0).then(|| Rc::new(*bytes))
}

fn flip(page: &mut Page, at: usize, bit: u8) {
    let bytes = Rc::make_mut(page.get_or_insert_with(|| Rc::new([0; SECTOR_LEN])));
    bytes[at] ^= 1 << (bit % 8);
}
