//! A deterministic mutation fuzzer for stable Rust: a corpus directory is kept in the repository,
//! and each input is made from its seed files by a numbered random stream. So a failure is named by
//! one number, and a run by how many inputs it has.
//!
//! `STAVE_FUZZ_INPUTS` inputs (20,000 unless told) from number `STAVE_FUZZ_FIRST` (0) on:
//!
//! ```text
//! STAVE_FUZZ_INPUTS=10000000 cargo test --release --test it fuzz::resp
//! STAVE_FUZZ_INPUTS=1 STAVE_FUZZ_FIRST=4711 cargo test --test it fuzz::resp
//! ```
//!
//! An input that found a bug becomes a file of the corpus.

use std::fs;
use std::ops::Range;
use std::path::Path;

mod binary;
mod manifest;
mod model;
mod peer;
mod pipelines;
mod resp;
mod table;
mod wal;

/// The random stream of one input: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Rng(u64);

impl Rng {
    /// The stream with this number; neighbours have nothing in common.
    pub fn new(number: u64) -> Self {
        let mut rng = Self(number.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "nothing is below 0");
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// A place in `0..=len`.
    pub fn place(&mut self, len: usize) -> usize {
        self.below(len + 1)
    }

    /// A range of up to `len_max` bytes within `0..len`.
    pub fn range(&mut self, len: usize, len_max: usize) -> Range<usize> {
        let start = self.place(len);
        start..start + self.place(len_max.min(len - start))
    }
}

/// The numbers of the inputs that this run is to try.
pub fn input_numbers() -> Range<u64> {
    let setting = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    };
    let first = setting("STAVE_FUZZ_FIRST", 0);
    first..first + setting("STAVE_FUZZ_INPUTS", 20_000)
}

/// An eighth of them, for what takes milliseconds of one: a single flipped bit is looked for.
pub fn few_input_numbers() -> Range<u64> {
    let Range { start, end } = input_numbers();
    start..start + (end - start).div_ceil(8)
}

/// The files of `tests/corpus/{name}`, by name: the same on each machine.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a directory can be listed").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a corpus file can be read")).collect()
}

/// Makes `input` an offspring of the corpus: one of its files, changed a few times; one in sixteen
/// as it is.
pub fn offspring(corpus: &[Vec<u8>], rng: &mut Rng, input: &mut Vec<u8>) {
    const CHANGES_MAX: usize = 6;
    input.clear();
    input.extend_from_slice(&corpus[rng.below(corpus.len())]);
    if rng.below(16) > 0 {
        for _ in 0..=rng.below(CHANGES_MAX) {
            change(corpus, rng, input);
        }
    }
}

/// Changes `input` once.
fn change(corpus: &[Vec<u8>], rng: &mut Rng, input: &mut Vec<u8>) {
    let len = input.len();
    match rng.below(8) {
        0 if len > 0 => input[rng.below(len)] ^= 1 << rng.below(8),
        1 if len > 0 => input[rng.below(len)] = rng.next() as u8,
        2 => edit_number(rng, input),
        3 => input.truncate(rng.place(len)),
        4 => drop(input.drain(rng.range(len, 64))),
        5 => splice(&corpus[rng.below(corpus.len())], rng, input),
        6 => repeat(rng, input),
        _ => {
            let byte = b"\r\n\0 '\"\\$*-0919:\xff\x80"[rng.below(17)];
            input.insert(rng.place(len), byte);
        }
    }
}

/// A little-endian number, somewhere, becomes a notable one.
pub fn edit_field(rng: &mut Rng, input: &mut [u8]) {
    const NOTABLE: [u64; 12] =
        [0, 1, 2, 3, 255, 1024, 1025, 65_535, 65_536, 1 << 20, u32::MAX as u64, u64::MAX];
    let len = [1, 2, 4, 8][rng.below(4)];
    if input.len() < len {
        return;
    }
    let at = rng.place(input.len() - len);
    let number = NOTABLE[rng.below(NOTABLE.len())].wrapping_add(rng.below(2) as u64);
    input[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
}

/// Replaces a decimal number in the text, or a few bytes if none is near, by a notable one.
fn edit_number(rng: &mut Rng, input: &mut Vec<u8>) {
    const NOTABLE: [i64; 22] = [
        -1,
        0,
        1,
        2,
        3,
        4,
        9,
        10,
        11,
        99,
        255,
        256,
        16_384,
        16_385,
        65_535,
        65_536,
        1 << 20,
        (1 << 20) + 1,
        512 << 20,
        u32::MAX as i64,
        i64::MAX,
        i64::MIN,
    ];
    let from = rng.place(input.len());
    let digits = |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let start = input[from..].iter().position(u8::is_ascii_digit).map_or(from, |len| from + len);
    let end = start + digits(&input[start..]);
    let old: i64 = std::str::from_utf8(&input[start..end])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    let new = match rng.below(3) {
        0 => NOTABLE[rng.below(NOTABLE.len())],
        1 => old.wrapping_add(rng.below(5) as i64 - 2),
        _ => rng.below(300) as i64,
    };
    drop(input.splice(start..end, new.to_string().into_bytes()));
}

/// Puts a piece of `other` into the input, over bytes or between them.
fn splice(other: &[u8], rng: &mut Rng, input: &mut Vec<u8>) {
    const INPUT_LEN_MAX: usize = 256 << 10;
    let piece = &other[rng.range(other.len(), 4096)];
    if input.len() + piece.len() > INPUT_LEN_MAX {
        return;
    }
    let at = rng.place(input.len());
    let over = if rng.below(2) == 0 { 0 } else { piece.len().min(input.len() - at) };
    drop(input.splice(at..at + over, piece.iter().copied()));
}

/// Repeats a piece of the input in place.
fn repeat(rng: &mut Rng, input: &mut Vec<u8>) {
    let range = rng.range(input.len(), 64);
    let piece = input[range.clone()].repeat(1 + rng.below(4));
    drop(input.splice(range.end..range.end, piece));
}
