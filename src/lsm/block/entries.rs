//! Sorted entries with prefix-compressed keys: what rows, leaves and the top are made of.
//!
//! Every [`Builder::interval`] entries one has its whole key (`shared` 0), and a restart says where
//! it begins: a search halves the restarts, then walks.

use std::cmp::Ordering;
use std::ops::Range;

use super::{Malformed, malformed, u32_at};

/// Appends `value`, seven bits per byte.
pub(super) fn put_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes of `value` as a varint.
fn varint_len(value: u32) -> usize {
    (32 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Reads a varint at `at` and moves `at` behind it; none if it is cut off or too large.
#[inline]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u32::from(first));
    }
    let mut value = u32::from(first & 0x7F);
    for shift in [7, 14, 21, 28] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let bits = u32::from(byte & 0x7F);
        if shift == 28 && bits > 0xF {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// How many first bytes of `a` and `b` are the same.
#[inline]
pub(super) fn common_len(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    for (n, (x, y)) in a_words.iter().zip(b_words).enumerate() {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return n * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let at = a_words.len() * 8;
    let rest = a[at..].iter().zip(&b[at..]).take_while(|(x, y)| x == y).count();
    at + rest
}

/// Writes entries in the order of their keys.
#[derive(Debug)]
pub struct Builder {
    interval: u32,
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    count: u32,
}

impl Builder {
    /// With a whole key every `interval` entries.
    pub fn new(interval: u32) -> Self {
        let (bytes, restarts, last_key) = Default::default();
        Self { interval, bytes, restarts, last_key, count: 0 }
    }

    /// Entries so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The key of the last entry; of an earlier life if there is none.
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Bytes of [`Builder::finish`] if it came now.
    pub fn len(&self) -> usize {
        self.bytes.len() + (self.restarts.len() + 1) * 4
    }

    fn is_restart(&self) -> bool {
        self.count.is_multiple_of(self.interval)
    }

    /// How many bytes an entry shares with the one before.
    fn shared_len(&self, key: &[u8]) -> usize {
        if self.is_restart() { 0 } else { common_len(&self.last_key, key) }
    }

    /// Bytes that an entry would add.
    pub fn len_of(&self, key: &[u8], body_len: usize) -> usize {
        let shared = self.shared_len(key);
        let unshared = key.len() - shared;
        let lens = [shared, unshared, body_len].map(|len| varint_len(len as u32));
        lens.iter().sum::<usize>() + unshared + body_len + if self.is_restart() { 4 } else { 0 }
    }

    /// Appends an entry whose body is `head`, then `tail`. The key is not below the last one.
    pub fn add(&mut self, key: &[u8], head: &[u8], tail: &[u8]) {
        let shared = self.shared_len(key);
        if self.is_restart() {
            self.restarts.push(self.bytes.len() as u32);
        }
        put_varint(shared as u32, &mut self.bytes);
        put_varint((key.len() - shared) as u32, &mut self.bytes);
        put_varint((head.len() + tail.len()) as u32, &mut self.bytes);
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(tail);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.count += 1;
    }

    /// The entries; then [`Builder::clear`].
    pub fn finish(&mut self) -> &[u8] {
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        &self.bytes
    }

    /// Begins anew, with the memory that there is.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.restarts.clear();
        self.count = 0;
    }
}

/// Where the entries of `bytes` end and the restarts begin, and how many those are.
#[inline]
fn bounds(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    let Some(at) = bytes.len().checked_sub(4) else { return malformed("entries") };
    let count = u32_at(bytes, at) as usize;
    match count.checked_mul(4).and_then(|len| at.checked_sub(len)) {
        // Entries without a restart can not be searched.
        Some(end) if count > 0 || end == 0 => Ok((end, count)),
        _ => malformed("entries"),
    }
}

/// One entry as stored.
struct Entry {
    shared: usize,
    key: Range<usize>,
    body: Range<usize>,
}

/// The entry at `at`, which is before `end`.
#[inline]
fn entry(bytes: &[u8], at: usize, end: usize) -> Result<Entry, Malformed> {
    let read = || {
        let mut at = at;
        let entries = &bytes[..end];
        let shared = varint(entries, &mut at)? as usize;
        let unshared = varint(entries, &mut at)? as usize;
        let body_len = varint(entries, &mut at)? as usize;
        let key = at..at.checked_add(unshared)?;
        let body = key.end..key.end.checked_add(body_len)?;
        (body.end <= end).then_some(Entry { shared, key, body })
    };
    read().ok_or(Malformed { what: "entry" })
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether its key is the one that was searched for.
    pub is_exact: bool,
    /// Its body in the bytes.
    pub body: Range<usize>,
}

/// The first entry of `bytes` whose key is not below `key`; none if all are.
///
/// # Errors
/// These are no entries.
pub fn find(bytes: &[u8], key: &[u8]) -> Result<Option<Found>, Malformed> {
    let (end, restart_count) = bounds(bytes)?;
    let mut at = restart_below(bytes, end, restart_count, key)?;
    // The key before is below `key`, and this many bytes of them are the same.
    let (mut common, mut key_len) = (0, 0);
    while at < end {
        let entry = entry(bytes, at, end)?;
        if entry.shared > key_len {
            return malformed("entry");
        }
        key_len = entry.shared + entry.key.len();
        // Where more is shared than that, the entry differs from `key` as the one before did.
        if entry.shared <= common {
            let (own, wanted) = (&bytes[entry.key.clone()], &key[entry.shared..]);
            let same = common_len(own, wanted);
            match own.get(same).cmp(&wanted.get(same)) {
                Ordering::Less => common = entry.shared + same,
                order => {
                    let is_exact = order == Ordering::Equal;
                    return Ok(Some(Found { is_exact, body: entry.body }));
                }
            }
        }
        at = entry.body.end;
    }
    Ok(None)
}

/// Where the last entry with a whole key below `key` begins; the first if there is none.
fn restart_below(
    bytes: &[u8],
    end: usize,
    restart_count: usize,
    key: &[u8],
) -> Result<usize, Malformed> {
    let (mut low, mut high) = (0, restart_count);
    // All before `low` are below `key`, none from `high` on.
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = entry_of_restart(bytes, end, middle)?;
        if &bytes[entry.key] < key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(match low {
        0 => 0,
        low => u32_at(bytes, end + (low - 1) * 4) as usize,
    })
}

fn entry_of_restart(bytes: &[u8], end: usize, number: usize) -> Result<Entry, Malformed> {
    let at = u32_at(bytes, end + number * 4) as usize;
    match entry(bytes, at, end) {
        Ok(entry) if at < end && entry.shared == 0 => Ok(entry),
        _ => malformed("restart"),
    }
}

/// An entry by itself: without those before, its key is not known as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lone<'a> {
    /// Bytes that its key shares with the key before.
    pub shared: usize,
    /// The rest of its key.
    pub rest: &'a [u8],
    /// Its body in the bytes.
    pub body: Range<usize>,
}

/// The entry that begins at `at`; none at the end.
///
/// # Errors
/// There is no entry at `at`.
pub fn entry_at(bytes: &[u8], at: usize) -> Result<Option<Lone<'_>>, Malformed> {
    let (end, _) = bounds(bytes)?;
    if at >= end {
        return Ok(None);
    }
    let Entry { shared, key, body } = entry(bytes, at, end)?;
    Ok(Some(Lone { shared, rest: &bytes[key], body }))
}

/// A place among entries, which are given with each call: so that what owns both can lend.
#[derive(Debug, Default)]
pub struct Cursor {
    next: usize,
    end: usize,
    key: Vec<u8>,
    body: Range<usize>,
}

impl Cursor {
    /// Goes before the first entry of `bytes`.
    ///
    /// # Errors
    /// These are no entries.
    pub fn start(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let (end, _) = bounds(bytes)?;
        (self.next, self.end, self.body) = (0, end, 0..0);
        self.key.clear();
        Ok(())
    }

    /// Goes before the first entry of `bytes` whose key is not below `key`.
    ///
    /// # Errors
    /// These are no entries.
    pub fn seek(&mut self, bytes: &[u8], key: &[u8]) -> Result<(), Malformed> {
        self.start(bytes)?;
        let (end, restart_count) = bounds(bytes)?;
        self.next = restart_below(bytes, end, restart_count, key)?;
        loop {
            let (before, len) = (self.next, self.key.len());
            let Some(next) = self.peek(bytes)? else { return Ok(()) };
            let own = self.key[..next.shared].iter().chain(&bytes[next.key.clone()]);
            if own.cmp(key) != Ordering::Less {
                debug_assert_eq!((before, len), (self.next, self.key.len()));
                return Ok(());
            }
            self.take(bytes, next);
        }
    }

    /// Goes to the next entry; false: there is none.
    ///
    /// # Errors
    /// These are no entries.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<bool, Malformed> {
        let Some(next) = self.peek(bytes)? else { return Ok(false) };
        self.take(bytes, next);
        Ok(true)
    }

    #[inline]
    fn peek(&self, bytes: &[u8]) -> Result<Option<Entry>, Malformed> {
        if self.next >= self.end {
            return Ok(None);
        }
        let entry = entry(bytes, self.next, self.end)?;
        if entry.shared > self.key.len() { malformed("entry") } else { Ok(Some(entry)) }
    }

    #[inline]
    fn take(&mut self, bytes: &[u8], entry: Entry) {
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(&bytes[entry.key]);
        self.next = entry.body.end;
        self.body = entry.body;
    }

    /// The key of the entry.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Where its body is.
    #[inline]
    pub fn body(&self) -> Range<usize> {
        self.body.clone()
    }
}

#[cfg(test)]
mod tests;
