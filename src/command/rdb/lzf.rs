//! LZF as Redis packs strings with (liblzf 3.6, `VERY_FAST`).
//!
//! ```text
//! packed := (literals | copy)*
//! literals := 000lllll byte{l + 1}
//! copy     := lllooooo offset:u8            l + 2 bytes, from o:offset + 1 bytes before
//!           | 111ooooo len:u8 offset:u8     len + 9 bytes
//! ```
//!
//! Which earlier bytes are found is the table's doing: three bytes are looked for where those that
//! had the same hash were last. Done here as there, the packed bytes are the same.

const TABLE_BITS: u32 = 16;
const LITERALS_MAX: usize = 1 << 5;
const OFFSET_MAX: usize = 1 << 13;
const COPY_LEN_MAX: usize = (1 << 8) + (1 << 3);

/// Where three bytes were last seen, plus one; 0: they were not.
struct Places(Vec<u32>);

impl Places {
    /// Where such three bytes may have been; they are at `at` from here on.
    fn replace(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let [a, b, c] = [0, 1, 2].map(|nth| u32::from(bytes[at + nth]));
        let hash = a << 16 | b << 8 | c;
        let slot = (hash >> (24 - TABLE_BITS)).wrapping_sub(hash.wrapping_mul(5));
        let place = &mut self.0[(slot & ((1 << TABLE_BITS) - 1)) as usize];
        let before = std::mem::replace(place, at as u32 + 1);
        (before as usize).checked_sub(1)
    }
}

/// What is packed, with literals that are not yet ended.
struct Packed {
    out: Vec<u8>,
    literals_count: usize,
    len_max: usize,
}

impl Packed {
    /// Begins literals: a byte for how many.
    fn begin(&mut self) {
        self.out.push(0);
        self.literals_count = 0;
    }

    fn end(&mut self) {
        let count = self.literals_count;
        let at = self.out.len() - count - 1;
        match count {
            0 => self.out.truncate(at),
            count => self.out[at] = count as u8 - 1,
        }
    }

    fn push(&mut self, byte: u8) {
        self.out.push(byte);
        self.literals_count += 1;
        if self.literals_count == LITERALS_MAX {
            self.end();
            self.begin();
        }
    }

    fn copy(&mut self, offset: usize, len: usize) {
        self.end();
        let high = (offset >> 8) as u8;
        let len = len - 2;
        if len < 7 {
            self.out.push(high | (len as u8) << 5);
        } else {
            self.out.extend_from_slice(&[high | 7 << 5, (len - 7) as u8]);
        }
        self.out.push(offset as u8);
        self.begin();
    }

    /// Whether so many bytes more are too many, counted as Redis does.
    fn lacks(&self, more: usize) -> bool {
        let unused = usize::from(self.literals_count == 0);
        self.out.len() - unused + more >= self.len_max
    }
}

/// Packs at least three bytes into at most `len_max`; none: they do not fit.
pub(super) fn pack(bytes: &[u8], len_max: usize) -> Option<Vec<u8>> {
    let mut places = Places(vec![0; 1 << TABLE_BITS]);
    let mut packed = Packed { out: Vec::with_capacity(len_max), literals_count: 0, len_max };
    packed.begin();
    let (mut at, end) = (0, bytes.len() - 2);
    while at < end {
        // The very first bytes are never copied from.
        let before = places.replace(bytes, at).filter(|before| {
            *before > 0
                && at - before - 1 < OFFSET_MAX
                && bytes[*before..before + 3] == bytes[at..at + 3]
        });
        let Some(before) = before else {
            if packed.out.len() >= len_max {
                return None;
            }
            packed.push(bytes[at]);
            at += 1;
            continue;
        };
        if packed.lacks(4) {
            return None;
        }
        let len = same_len(bytes, before, at);
        packed.copy(at - before - 1, len);
        at += len;
        if at >= end {
            break;
        }
        // Of what was copied the last two places are noted.
        places.replace(bytes, at - 2);
        places.replace(bytes, at - 1);
    }
    if packed.out.len() + 3 > len_max {
        return None;
    }
    bytes[at..].iter().for_each(|byte| packed.push(*byte));
    packed.end();
    Some(packed.out)
}

/// How many bytes are the same as before, three at least.
fn same_len(bytes: &[u8], before: usize, at: usize) -> usize {
    let most = (bytes.len() - at - 2).min(COPY_LEN_MAX);
    let is_same = |len: usize| bytes[before + len] == bytes[at + len];
    let mut len = 2;
    if most > 16 {
        // Redis compares sixteen without a look at how many there may be.
        for _ in 0..16 {
            len += 1;
            if !is_same(len) {
                return len;
            }
        }
    }
    loop {
        len += 1;
        if len >= most || !is_same(len) {
            return len;
        }
    }
}

/// Unpacks to exactly `len` bytes; none: that is not what it is.
pub(super) fn unpack(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::new();
    let mut rest = packed;
    while let Some((control, after)) = rest.split_first() {
        let count = usize::from(*control);
        if count < LITERALS_MAX {
            let (literals, after) = after.split_at_checked(count + 1)?;
            out.extend_from_slice(literals);
            rest = after;
        } else {
            let (more, after) = if count >> 5 == 7 { after.split_first()? } else { (&0, after) };
            let (low, after) = after.split_first()?;
            let count_of = (count >> 5) + usize::from(*more) + 2;
            let offset = (count & 0x1f) << 8 | usize::from(*low);
            let from = out.len().checked_sub(offset + 1)?;
            // What is copied may be what is being written.
            (from..from + count_of).for_each(|at| out.push(out[at]));
            rest = after;
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            words in prop::collection::vec("[ab]{1,30}|\\PC{1,9}", 3..80),
        ) {
            let bytes = words.concat().into_bytes();
            if let Some(packed) = pack(&bytes, bytes.len() - 1) {
                prop_assert!(packed.len() < bytes.len());
                prop_assert_eq!(unpack(&packed, bytes.len()), Some(bytes));
            }
        }
    }
}
