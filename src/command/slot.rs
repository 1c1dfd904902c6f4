//! From a key to its slot: CRC16/XMODEM of the key or of its `{hash tag}`, modulo 16,384, as the
//! Redis cluster specification defines it.

use crate::id::Slot;
use crate::limits::SLOT_COUNT;

/// The slot of a key. What stands between the first `{` and the next `}`, unless empty, is hashed
/// in place of the key.
pub fn slot_of(key: &[u8]) -> Slot {
    Slot(crc16(tag_of(key)) % SLOT_COUNT)
}

/// `MOVED slot host:port`: sends a cluster client to the shard that owns `slot`.
pub fn moved(slot: Slot, host: &str, port: u16) -> String {
    format!("MOVED {slot} {host}:{port}")
}

fn tag_of(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|&b| b == b'}') {
        Some(0) | None => key,
        Some(close) => &rest[..close],
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &b| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ b)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), Slot(12_182));
        assert_eq!(slot_of(b""), Slot(0));
    }

    #[test]
    fn hash_tag_is_the_first_unless_empty() {
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(tag_of(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag_of(b"foo{bar"), b"foo{bar");
    }
}
