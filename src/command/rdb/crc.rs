//! CRC-64 as Redis computes it ("Jones"): polynomial `ad93d23594c935a9`, reflected, from 0.

const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9_u64.reverse_bits();

/// `TABLES[n][byte]`: what a byte does to the sum when `n` bytes come after it.
static TABLES: [[u64; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut at = 0;
    while at < 8 * 256 {
        let (nth, byte) = (at / 256, at % 256);
        let (mut sum, mut bit) = (byte as u64, 0);
        while nth == 0 && bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        if nth > 0 {
            sum = tables[nth - 1][byte];
            sum = sum >> 8 ^ tables[0][(sum & 0xff) as usize];
        }
        tables[nth][byte] = sum;
        at += 1;
    }
    tables
};

/// The sum of these bytes.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum, word| {
        let word = (sum ^ u64::from_le_bytes(*word)).to_le_bytes();
        let parts = word.iter().zip(TABLES.iter().rev());
        parts.fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)])
    });
    rest.iter().fold(sum, |sum, byte| sum >> 8 ^ TABLES[0][usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis() {
        // As its crc64.c has it.
        assert_eq!(sum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let bytes: Vec<u8> = (0..100_u8).map(|at| at.wrapping_mul(37)).collect();
        for len in 0..100 {
            let by_bits = bytes[..len].iter().fold(0, |sum, byte| {
                let step = |sum: u64, _| (sum >> 1) ^ (POLYNOMIAL * (sum & 1));
                (0..8).fold(sum ^ u64::from(*byte), step)
            });
            assert_eq!(sum(&bytes[..len]), by_bits, "{len} bytes");
        }
    }
}
