//! The filter: whether a table may have a key, without a read. A blocked Bloom filter; pure.
//!
//! ```text
//! filter := line[n]      line := bit[512]      little-endian words of 64 bits
//! ```
//!
//! A key sets six bits of one line, so a question costs one cache miss. The low half of the key's
//! hash ([`super::block::hash_of`]) chooses the line: `low * n >> 32`; the high half, multiplied by
//! the golden ratio again and again, chooses the bits: nine high ones each.
//!
//! Why blocked: a plain Bloom filter misses the cache once per bit, for few keys less that pass
//! though they are not there: 0.95 % of them do here, measured (`bench-results/table.md`), where
//! theory gives a plain one 0.8 %. A ribbon filter takes some 30 % less memory and, by RocksDB's
//! account, several times the CPU to build and to ask; it is the choice if filters come to press on
//! memory.

/// Bits of memory per key.
pub const BITS_PER_KEY: usize = 10;
/// Bits that a key sets.
const PROBES: usize = 6;
const LINE_LEN: usize = 64;
const GOLDEN_RATIO: u32 = 0x9E37_79B9;

/// A cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
struct Line([u64; 8]);

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    lines: Vec<Line>,
}

impl Filter {
    /// An empty one, with room for so many keys.
    pub fn with_room(key_count: usize) -> Self {
        let lines = (key_count * BITS_PER_KEY).div_ceil(LINE_LEN * 8).max(1);
        Self { lines: vec![Line::default(); lines] }
    }

    /// Notes the key of `hash`.
    #[inline]
    pub fn insert(&mut self, hash: u64) {
        let line = line_of(hash, self.lines.len());
        let line = &mut self.lines[line].0;
        for_each_bit(hash, |word, bit| {
            line[word] |= bit;
            true
        });
    }

    /// False: the key was not noted.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let line = &self.lines[line_of(hash, self.lines.len())].0;
        for_each_bit(hash, |word, bit| line[word] & bit != 0)
    }

    /// Bytes of it, on disk and in memory.
    pub fn byte_len(&self) -> usize {
        self.lines.len() * LINE_LEN
    }

    /// Copies the bytes from `from` on, which is a multiple of 8, to `out`, as many as fit.
    pub fn read(&self, from: usize, out: &mut [u8]) {
        let words = self.lines.iter().flat_map(|line| line.0).skip(from / 8);
        for (bytes, word) in out.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
    }

    /// The filter with these bytes; none if they are not whole lines.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (lines, rest) = bytes.as_chunks::<LINE_LEN>();
        if lines.is_empty() || !rest.is_empty() {
            return None;
        }
        let line = |bytes: &[u8; LINE_LEN]| {
            let mut line = Line::default();
            for (word, bytes) in line.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            line
        };
        Some(Self { lines: lines.iter().map(line).collect() })
    }
}

#[inline]
fn line_of(hash: u64, line_count: usize) -> usize {
    (((hash & 0xFFFF_FFFF) * line_count as u64) >> 32) as usize
}

/// Calls `each` for the key's bits until it says false; whether it never did.
#[inline]
fn for_each_bit(hash: u64, mut each: impl FnMut(usize, u64) -> bool) -> bool {
    let mut high = (hash >> 32) as u32;
    for _ in 0..PROBES {
        let bit = high >> 23;
        if !each((bit >> 6) as usize, 1 << (bit & 63)) {
            return false;
        }
        high = high.wrapping_mul(GOLDEN_RATIO);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsm::block::hash_of;

    fn hash(n: u64) -> u64 {
        hash_of(format!("key:{n:012}").as_bytes())
    }

    fn filter_of(count: u64) -> Filter {
        let mut filter = Filter::with_room(count as usize);
        (0..count).for_each(|n| filter.insert(hash(n)));
        filter
    }

    #[test]
    fn what_was_noted_is_found_and_of_the_rest_one_in_a_hundred() {
        let count = 100_000;
        let filter = filter_of(count);

        assert!((0..count).all(|n| filter.may_contain(hash(n))));
        let wrong = (count..2 * count).filter(|n| filter.may_contain(hash(*n))).count();
        assert!(wrong < 1_200, "{wrong} of {count}");
        assert!(filter.byte_len() as u64 * 8 <= count * BITS_PER_KEY as u64 + 512);
    }

    #[test]
    fn bytes_come_back() {
        let filter = filter_of(300);
        let mut bytes = vec![0; filter.byte_len()];
        let half = bytes.len() / 16 * 8;

        filter.read(0, &mut bytes[..half]);
        filter.read(half, &mut bytes[half..]);

        assert_eq!(Filter::of(&bytes), Some(filter));
        assert_eq!(Filter::of(&bytes[1..]), None);
        assert_eq!(Filter::of(&[]), None);
    }

    #[test]
    fn the_format_is_frozen() {
        let mut filter = Filter::with_room(52);
        filter.insert(0x1234_5678_9ABC_DEF0);
        let mut bytes = vec![0; filter.byte_len()];
        filter.read(0, &mut bytes);

        let set: Vec<usize> =
            (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect();

        assert_eq!((bytes.len(), set), (128, vec![548, 684, 784, 839, 922, 999]));
    }

    #[test]
    fn a_filter_of_nothing_has_nothing() {
        let filter = Filter::with_room(0);

        assert!((0..1_000).all(|n| !filter.may_contain(hash(n))));
    }
}
