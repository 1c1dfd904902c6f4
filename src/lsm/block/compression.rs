//! How rows are stored: packed part by part.
//!
//! Why no dictionary for Zstandard: a part that will be packed has 32 KiB of rows, which is enough
//! to find in it what rows have in common (`bench-results/table.md` has what one would save).

use zstd_safe::{CCtx, DCtx, compress_bound};

use super::part::part_len;

/// Zstandard's level: the next ones cost more CPU than they save bytes of 32 KiB
/// (`bench-results/table.md`).
const ZSTD_LEVEL: i32 = 1;

/// How rows are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// As they are.
    #[default]
    None = 0,
    /// LZ4, block format.
    Lz4 = 1,
    /// Zstandard: one frame, without a dictionary.
    Zstd = 2,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    /// What it is called, in settings too.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Of its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }

    pub(super) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| *compression as u8 == byte)
    }

    /// What new tables get where this is what was asked for: what is rewritten often is not given
    /// to Zstandard, but LZ4; what has come to the bottom level stays for long, and is.
    pub fn at(self, is_bottom: bool) -> Self {
        if self == Self::Zstd && !is_bottom { Self::Lz4 } else { self }
    }
}

/// Packs the parts of a table.
pub struct Packer {
    compression: Compression,
    /// Made when it is needed: some 100 KiB.
    zstd: Option<CCtx<'static>>,
    packed: Vec<u8>,
}

impl Packer {
    /// Of a table that is stored like this.
    pub fn new(compression: Compression) -> Self {
        Self { compression, zstd: None, packed: Vec::new() }
    }

    /// What to store of `raw`, and how that is packed: not at all if it saves no sector.
    pub fn pack<'a>(&'a mut self, raw: &'a [u8]) -> (Compression, &'a [u8]) {
        let packed = &mut self.packed;
        let len = match self.compression {
            Compression::None => return (Compression::None, raw),
            Compression::Lz4 => {
                packed.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                lz4_flex::block::compress_into(raw, packed).expect("there is room for the worst")
            }
            Compression::Zstd => {
                packed.resize(compress_bound(raw.len()), 0);
                let context = self.zstd.get_or_insert_with(CCtx::create);
                let packed = context.compress(&mut packed[..], raw, ZSTD_LEVEL);
                packed.expect("there is room for the worst")
            }
        };
        if part_len(len) < part_len(raw.len()) {
            (self.compression, &packed[..len])
        } else {
            (Compression::None, raw)
        }
    }
}

/// Unpacks parts, of any table.
#[derive(Default)]
pub struct Unpacker {
    /// Made when it is needed, and kept: some 160 KiB, which cost 6 us each time.
    zstd: Option<DCtx<'static>>,
}

impl Unpacker {
    /// Fills `raw` with what `body` was before it was packed; false: it is not of that length, or
    /// no such body.
    pub fn unpack(&mut self, compression: Compression, body: &[u8], raw: &mut [u8]) -> bool {
        let len = match compression {
            Compression::None if body.len() == raw.len() => {
                raw.copy_from_slice(body);
                Some(raw.len())
            }
            Compression::None => None,
            Compression::Lz4 => lz4_flex::block::decompress_into(body, raw).ok(),
            Compression::Zstd => {
                self.zstd.get_or_insert_with(DCtx::create).decompress(raw, body).ok()
            }
        };
        len == Some(raw.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..2_000).flat_map(|n| format!("user:{n} is known;").into_bytes()).collect()
    }

    #[test]
    fn what_was_packed_is_found_again_and_shorter() {
        let raw = text();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let (mut packer, mut unpacker) = (Packer::new(compression), Unpacker::default());
            for raw in [&raw[..], &raw[..9_000]] {
                let (how, packed) = packer.pack(raw);
                assert_eq!(how, compression);
                assert!(packed.len() * 2 < raw.len(), "{compression:?}: {}", packed.len());
                let mut out = vec![0; raw.len()];
                assert!(unpacker.unpack(how, packed, &mut out) && out == raw, "{compression:?}");
                for wrong in [raw.len() - 1, raw.len() + 1] {
                    let is_whole = unpacker.unpack(how, packed, &mut vec![0; wrong]);
                    assert!(!is_whole, "{compression:?} {wrong}");
                }
                let is_whole = unpacker.unpack(how, &packed[..packed.len() - 1], &mut out);
                assert!(!is_whole, "{compression:?} cut");
            }
        }
    }

    #[test]
    fn what_does_not_save_a_sector_is_stored_as_it_is() {
        let random: Vec<u8> = (0..8_000_u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ (n >> 3) as u8)
            .collect();
        for compression in Compression::ALL {
            for raw in [&b"short"[..], &random] {
                let mut packer = Packer::new(compression);
                let (how, stored) = packer.pack(raw);
                assert_eq!((how, stored), (Compression::None, raw), "{compression:?}");
            }
        }
    }

    #[test]
    fn only_the_bottom_is_given_to_zstandard() {
        for (asked, above, bottom) in [
            (Compression::None, Compression::None, Compression::None),
            (Compression::Lz4, Compression::Lz4, Compression::Lz4),
            (Compression::Zstd, Compression::Lz4, Compression::Zstd),
        ] {
            assert_eq!([asked.at(false), asked.at(true)], [above, bottom]);
        }
    }
}
