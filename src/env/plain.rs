//! What every real runtime does by plain calls: chance, the names in a directory, and a look at
//! what direct I/O is asked for.
//!
//! Names are rare, and the calls on them take microseconds where a shard's log does not grow: not
//! worth a thread or an operation of the ring.

use std::cell::Cell;
use std::io;
use std::path::Path;

use super::Aligned;
use crate::limits::SECTOR_LEN;

/// Random numbers of a shard, by SplitMix64 (Steele, Lea, Flood 2014).
pub struct Chance(Cell<u64>);

impl Chance {
    /// From a seed of the operating system.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// The next number.
    pub fn draw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// See [`super::Env::list`].
///
/// # Errors
/// As the system's.
pub fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// # Panics
/// When an operation on the first `len` bytes of `buf` is none that direct I/O takes.
pub fn check_direct(buf: &Aligned, len: usize, offset: u64) {
    let sector = SECTOR_LEN as u64;
    assert!(len <= buf.len(), "{len} bytes of a buffer of {}", buf.len());
    assert!(
        len.is_multiple_of(SECTOR_LEN) && offset.is_multiple_of(sector),
        "direct I/O of {len} bytes at {offset} is not aligned"
    );
}
