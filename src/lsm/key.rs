//! The internal key: one byte string whose plain `memcmp` order is the order of the store.
//!
//! ```text
//! key := tag:u8 slot:u16(BE) db:u8 esc(user key) 00 01 sub
//! esc :  each 00 becomes 00 FF, so that 00 01 can end it and a prefix sorts before what it begins
//! ```
//!
//! Timestamp and kind follow in an SSTable only; the memtable keeps them per version. `sub` is
//! empty for strings and leaves room for collections. Slot first makes a partition, a split and an
//! export contiguous; keys with the same hash tag lie together, in order.
//!
//! Not here: what a value holds; how versions of one key are ordered ([`super::memtable`]).

use crate::id::Slot;
use crate::limits::SLOT_COUNT;

/// First byte of a key that holds a client's data.
pub const TAG_DATA: u8 = 0x10;

/// Bytes before the escaped user key: tag, slot, database.
pub const PREFIX_LEN: usize = 4;

const ESCAPED_NUL: [u8; 2] = [0x00, 0xFF];
const TERMINATOR: [u8; 2] = [0x00, 0x01];

/// Encodes the data key of `user_key` into `out`, whose old content is dropped.
///
/// Costs one copy when the key holds no NUL, as nearly all keys do.
pub fn encode_data_key(slot: Slot, db: u8, user_key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(PREFIX_LEN + user_key.len() + TERMINATOR.len());
    out.extend_from_slice(&slot_prefix(slot, db));
    if user_key.contains(&0) {
        escape(user_key, out);
    } else {
        out.extend_from_slice(user_key);
    }
    out.extend_from_slice(&TERMINATOR);
}

/// The user key inside an encoded data key; `None` when `encoded` is not one.
pub fn decode_user_key(encoded: &[u8]) -> Option<Vec<u8>> {
    let (prefix, mut rest) = encoded.split_at_checked(PREFIX_LEN)?;
    if prefix[0] != TAG_DATA {
        return None;
    }
    let mut user_key = Vec::with_capacity(rest.len());
    loop {
        let nul = rest.iter().position(|&byte| byte == 0)?;
        user_key.extend_from_slice(&rest[..nul]);
        match rest.get(nul + 1)? {
            0xFF => user_key.push(0),
            0x01 => return Some(user_key),
            _ => return None,
        }
        rest = &rest[nul + 2..];
    }
}

/// What all data keys of one slot and database begin with: the start of a scan over them.
pub fn slot_prefix(slot: Slot, db: u8) -> [u8; PREFIX_LEN] {
    let [high, low] = slot.0.to_be_bytes();
    [TAG_DATA, high, low, db]
}

/// The database of an encoded data key.
///
/// # Panics
/// When `encoded` is shorter than [`PREFIX_LEN`].
#[inline]
pub fn db_of(encoded: &[u8]) -> u8 {
    encoded[PREFIX_LEN - 1]
}

/// The slot of an encoded data key.
///
/// # Panics
/// When `encoded` is shorter than [`PREFIX_LEN`].
pub fn slot_in(encoded: &[u8]) -> Slot {
    Slot(u16::from_be_bytes([encoded[1], encoded[2]]))
}

/// The slot of a user key: CRC16/XMODEM of its hash tag, or of the whole key, modulo 16,384.
///
/// The hash tag is what stands between the first `{` and the first `}` after it, unless that is
/// nothing (Redis cluster specification, "Hash tags").
pub fn slot_of(user_key: &[u8]) -> Slot {
    Slot(crc16(hash_tag(user_key)) % SLOT_COUNT)
}

fn hash_tag(user_key: &[u8]) -> &[u8] {
    let Some(open) = user_key.iter().position(|&byte| byte == b'{') else { return user_key };
    let after = &user_key[open + 1..];
    match after.iter().position(|&byte| byte == b'}') {
        None | Some(0) => user_key,
        Some(close) => &after[..close],
    }
}

fn escape(user_key: &[u8], out: &mut Vec<u8>) {
    for &byte in user_key {
        if byte == 0 {
            out.extend_from_slice(&ESCAPED_NUL);
        } else {
            out.push(byte);
        }
    }
}

/// `TABLES[k][x]` is the CRC of byte `x` followed by `k` zero bytes, so that eight bytes are
/// folded by eight independent loads instead of eight dependent ones.
static TABLES: [[u16; 256]; 8] = tables();

const POLYNOMIAL: u16 = 0x1021;

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeros - 1][byte];
            tables[zeros][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// CRC16/XMODEM: polynomial 0x1021, initial value 0, no reflection.
fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let (groups, rest) = bytes.as_chunks::<8>();
    for group in groups {
        let [high, low] = crc.to_be_bytes();
        crc = TABLES[7][(group[0] ^ high) as usize] ^ TABLES[6][(group[1] ^ low) as usize];
        for (at, &byte) in group.iter().enumerate().skip(2) {
            crc ^= TABLES[7 - at][byte as usize];
        }
    }
    for &byte in rest {
        crc = (crc << 8) ^ TABLES[0][((crc >> 8) as u8 ^ byte) as usize];
    }
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(slot: u16, db: u8, user_key: &[u8]) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        encode_data_key(Slot(slot), db, user_key, &mut out);
        out
    }

    fn crc16_bit_by_bit(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc, &byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc: u16, _| {
                (crc << 1) ^ if crc & 0x8000 != 0 { POLYNOMIAL } else { 0 }
            })
        })
    }

    #[test]
    fn encoding_is_frozen() {
        assert_eq!(encoded(0x1234, 7, b"ab"), b"\x10\x12\x34\x07ab\x00\x01");
        assert_eq!(encoded(1, 0, b"a\x00b\x00"), b"\x10\x00\x01\x00a\x00\xFFb\x00\xFF\x00\x01");
        assert_eq!(encoded(16_383, 255, b""), b"\x10\x3F\xFF\xFF\x00\x01");
        assert!(encoded(9, 3, b"key").starts_with(&slot_prefix(Slot(9), 3)));
    }

    #[test]
    fn what_is_no_data_key_does_not_decode() {
        for bad in [
            &b""[..],
            b"\x10\x00\x01",
            b"\x20\x00\x01\x00a\x00\x01",
            b"\x10\x00\x01\x00a",
            b"\x10\x00\x01\x00a\x00",
            b"\x10\x00\x01\x00a\x00\x02",
        ] {
            assert_eq!(decode_user_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sub_key_is_not_part_of_the_user_key() {
        let mut with_sub = encoded(1, 0, b"hash");
        with_sub.extend_from_slice(b"field\x00\x01");

        assert_eq!(decode_user_key(&with_sub).as_deref(), Some(&b"hash"[..]));
    }

    #[test]
    fn slots_agree_with_redis() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // `CLUSTER KEYSLOT` of Redis 7.
        for (key, slot) in [("", 0), ("foo", 12_182), ("bar", 5_061), ("hello", 866)] {
            assert_eq!(slot_of(key.as_bytes()), Slot(slot), "{key}");
        }
    }

    #[test]
    fn slot_is_that_of_the_hash_tag() {
        let whole = |key: &[u8]| Slot(crc16(key) % SLOT_COUNT);

        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), whole(b"foo{}{bar}"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), whole(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), whole(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), whole(b"foo{bar"));
        assert_eq!(slot_of(b"}foo{bar"), whole(b"}foo{bar"));
    }

    /// Few distinct bytes, so that NULs, terminators and common prefixes are frequent.
    fn user_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, b'a', 0xFE, 0xFF]), 0..8)
    }

    proptest! {
        #[test]
        fn user_key_survives_the_round_trip(slot in 0..SLOT_COUNT, db: u8, key in user_key()) {
            prop_assert_eq!(decode_user_key(&encoded(slot, db, &key)), Some(key));
        }

        #[test]
        fn encoded_order_is_slot_then_db_then_user_key(
            a in (0..3u16, 0..3u8, user_key()),
            b in (0..3u16, 0..3u8, user_key()),
        ) {
            let by_bytes = encoded(a.0, a.1, &a.2).cmp(&encoded(b.0, b.1, &b.2));

            prop_assert_eq!(by_bytes, a.cmp(&b));
        }

        #[test]
        fn crc_by_tables_is_crc_by_bits(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(crc16(&bytes), crc16_bit_by_bit(&bytes));
        }
    }
}
