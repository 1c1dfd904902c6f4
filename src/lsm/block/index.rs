//! The index: entries that name a place in the file.

use std::ops::Range;

use super::Malformed;
use super::entries::{common_len, put_varint, varint};
use super::part::PART_LEN_MAX;
use crate::limits::SECTOR_LEN;

/// Where a part is: whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes, header and padding included; at most [`PART_LEN_MAX`].
    pub len: usize,
}

impl Handle {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset + self.len as u64
    }

    /// The body of an index entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let sector = self.offset / SECTOR_LEN as u64;
        let sector = u32::try_from(sector).expect("a file is shorter than 16 TiB");
        put_varint(sector, out);
        put_varint((self.len / SECTOR_LEN) as u32, out);
    }

    /// Reads the body of an index entry.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8], body: Range<usize>) -> Result<Self, Malformed> {
        let read = || {
            let body = bytes.get(body)?;
            let mut at = 0;
            let sector = varint(body, &mut at)?;
            let sectors = varint(body, &mut at)? as usize;
            let sound = at == body.len() && (1..=PART_LEN_MAX / SECTOR_LEN).contains(&sectors);
            let offset = u64::from(sector) * SECTOR_LEN as u64;
            sound.then_some(Self { offset, len: sectors * SECTOR_LEN })
        };
        read().ok_or(Malformed { what: "index entry" })
    }
}

/// Makes `last`, the last key of a part, the shortest key that is not below it and is below `next`,
/// the first of the part that follows; if the two are the same, it stays.
pub fn separator(last: &mut Vec<u8>, next: &[u8]) {
    let common = common_len(last, next);
    // `next` differs there, or goes on there: with one byte more it is above all that `last` is.
    if last.len() > common + 1 && next.len() > common + 1 {
        last.truncate(common);
        last.push(next[common]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_separator_is_short() {
        let mut last = b"user:1000:name".to_vec();
        separator(&mut last, b"user:2000:name");
        assert_eq!(last, b"user:2");
    }

    #[test]
    fn what_is_no_place_is_malformed() {
        for bad in [&[][..], &[1], &[1, 0], &[1, 1, 1], &[0x80], &[1, 0x81, 2], &[0xFF; 6]] {
            assert!(Handle::decode(bad, 0..bad.len()).is_err(), "{bad:?}");
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xFF]), 0..6)
    }

    proptest! {
        #[test]
        fn a_separator_separates(a in key(), b in key()) {
            let (last, next) = if a < b { (a, b) } else { (b, a) };
            let mut short = last.clone();

            separator(&mut short, &next);

            prop_assert!(last <= short && short.len() <= last.len());
            prop_assert!(short < next || last == next);
        }

        #[test]
        fn a_place_comes_back(sector: u32, sectors in 1..=256usize) {
            let offset = u64::from(sector) * SECTOR_LEN as u64;
            let handle = Handle { offset, len: sectors * SECTOR_LEN };
            let mut body = Vec::new();

            handle.encode(&mut body);

            prop_assert_eq!(Handle::decode(&body, 0..body.len()), Ok(handle));
        }
    }
}
