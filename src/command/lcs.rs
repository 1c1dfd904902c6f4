//! LCS: the longest common subsequence of two values.
//!
//! Redis fills a table of 32-bit lengths, cell by cell; we keep of each row only where the length
//! rises by one, and make 64 of these bits at once, with an addition (Crochemore et al., A fast and
//! practical bit-vector algorithm for the longest common subsequence problem, 2001). Rows are of
//! the shorter value. The subsequence is read from the end of the table, on the path that Redis
//! takes where there are several.
//!
//! Two values are refused when Redis would not have the memory for them, at 512 MiB: 134 M cells
//! or so, two values of 11 KiB. That bounds the time on a core as well, to tens of ms, plus what it
//! takes to look through both values; and the memory to some 50 MiB.

use std::sync::Arc;

use smallvec::SmallVec;

use super::table::{Access, Flags, Group, Keys, Run, Spec};
use super::together::{Effects, Together, same_db};
use super::{Args, Error, Found, number};
use crate::limits::VALUE_LEN_MAX;
use crate::protocol::resp::Reply;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    len: bool,
    index: bool,
    match_lens: bool,
    match_len_min: i64,
}

fn options(args: &Args<'_>) -> Result<Options, Error> {
    let (mut options, mut at) = (Options::default(), 3);
    while at < args.len() {
        if args.is(at, "IDX") {
            options.index = true;
        } else if args.is(at, "LEN") {
            options.len = true;
        } else if args.is(at, "WITHMATCHLEN") {
            options.match_lens = true;
        } else if args.is(at, "MINMATCHLEN") && at + 1 < args.len() {
            options.match_len_min = number::parse_i64(args.get(at + 1))?;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    if options.index && options.len {
        let text = "ERR If you want both the length and indexes, please just use IDX.";
        return Err(Error::Other(text));
    }
    Ok(options)
}

/// Where the length of the common subsequence of a row's prefix and a column's rises: bit `n` of a
/// row is 0 if column `n` adds one.
struct Table {
    words_count: usize,
    /// The first is that of no row: all ones.
    bits: Vec<u64>,
}

impl Table {
    /// `keep`: all rows; or else only the last.
    fn new(rows: &[u8], columns: &[u8], keep: bool) -> Self {
        let words_count = columns.len().div_ceil(64);
        let matches = Matches::new(rows, columns, words_count);
        let mut row = vec![u64::MAX; words_count];
        let mut bits = Vec::new();
        if keep {
            bits.reserve_exact((rows.len() + 1) * words_count);
            bits.extend_from_slice(&row);
        }
        for byte in rows {
            let mut carry = false;
            for (word, matching) in row.iter_mut().zip(matches.of(*byte)) {
                let (sum, over) = word.overflowing_add(*word & matching);
                let (sum, over_too) = sum.overflowing_add(u64::from(carry));
                carry = over | over_too;
                *word = sum | (*word & !matching);
            }
            if keep {
                bits.extend_from_slice(&row);
            }
        }
        Self { words_count, bits: if keep { bits } else { row } }
    }

    /// Length of the subsequence of the whole.
    fn len(&self) -> usize {
        let last = self.bits.len() - self.words_count;
        self.bits[last..].iter().map(|word| word.count_zeros() as usize).sum()
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.bits[row * self.words_count..][..self.words_count]
    }

    /// Whether the last of so many columns adds one.
    fn rises(&self, row: usize, columns: usize) -> bool {
        let at = columns - 1;
        self.row(row)[at / 64] >> (at % 64) & 1 == 0
    }

    /// Length of the subsequence of so many rows and columns.
    fn len_of(&self, row: usize, columns: usize) -> usize {
        let (whole, rest) = (columns / 64, columns % 64);
        let row = self.row(row);
        let len: u32 = row[..whole].iter().map(|word| word.count_zeros()).sum();
        let part = row.get(whole).map_or(0, |word| (!word & ((1 << rest) - 1)).count_ones());
        (len + part) as usize
    }
}

/// For each byte that a row has: the columns that have it.
struct Matches {
    words_count: usize,
    /// Which of the sets is a byte's; `NONE`: no row has it.
    numbers: [u16; 256],
    bits: Vec<u64>,
}

const NONE: u16 = u16::MAX;

impl Matches {
    fn new(rows: &[u8], columns: &[u8], words_count: usize) -> Self {
        let (mut numbers, mut count) = ([NONE; 256], 0);
        for byte in rows {
            let number = &mut numbers[usize::from(*byte)];
            if *number == NONE {
                *number = count;
                count += 1;
            }
        }
        let mut bits = vec![0; usize::from(count) * words_count];
        for (at, byte) in columns.iter().enumerate() {
            let number = numbers[usize::from(*byte)];
            if number != NONE {
                bits[usize::from(number) * words_count + at / 64] |= 1 << (at % 64);
            }
        }
        Self { words_count, numbers, bits }
    }

    fn of(&self, byte: u8) -> &[u64] {
        let number = usize::from(self.numbers[usize::from(byte)]);
        &self.bits[number * self.words_count..][..self.words_count]
    }
}

/// Bytes that follow each other in both values: where they begin in each, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    starts: [usize; 2],
    len: usize,
}

/// The stretches of the subsequence, the last first.
fn stretches(a: &[u8], b: &[u8]) -> Vec<Stretch> {
    let mut path = Path::new(a, b);
    let mut found: Vec<Stretch> = Vec::new();
    let mut follows = false;
    while path.i > 0 && path.j > 0 {
        if a[path.i - 1] != b[path.j - 1] {
            path.step();
            follows = false;
            continue;
        }
        path.step_both();
        let starts = [path.i, path.j];
        match found.last_mut() {
            Some(stretch) if follows => *stretch = Stretch { starts, len: stretch.len + 1 },
            _ => found.push(Stretch { starts, len: 1 }),
        }
        follows = true;
    }
    found
}

/// A walk through the table from its end: so much of `a` and `b` is left.
struct Path {
    table: Table,
    i: usize,
    j: usize,
    /// Rows are of `b`, not of `a`: of the shorter one.
    is_turned: bool,
    /// Of a turned one: the lengths with `i` and `j`, and with `i` and `j - 1`.
    lens: (usize, usize),
}

impl Path {
    fn new(a: &[u8], b: &[u8]) -> Self {
        let is_turned = b.len() < a.len();
        let table = if is_turned { Table::new(b, a, true) } else { Table::new(a, b, true) };
        let mut path = Self { table, i: a.len(), j: b.len(), is_turned, lens: (0, 0) };
        path.measure();
        path
    }

    fn measure(&mut self) {
        if self.is_turned && self.j > 0 {
            let Self { table, i, j, .. } = self;
            self.lens = (table.len_of(*j, *i), table.len_of(*j - 1, *i));
        }
    }

    /// To where the subsequence is as long: without the last of `b`, unless only the other is.
    fn step(&mut self) {
        if !self.is_turned {
            let only_a = self.table.rises(self.i, self.j);
            *(if only_a { &mut self.i } else { &mut self.j }) -= 1;
            return;
        }
        let (len, without_b) = self.lens;
        let rises = |row: usize| usize::from(self.table.rises(row, self.i));
        let without_a = len - rises(self.j);
        if without_a > without_b {
            self.lens = (without_a, without_b - rises(self.j - 1));
            self.i -= 1;
        } else {
            self.j -= 1;
            self.measure();
        }
    }

    /// The last of both is a part of it.
    fn step_both(&mut self) {
        (self.i, self.j) = (self.i - 1, self.j - 1);
        self.measure();
    }
}

fn check_len(a: &[u8], b: &[u8]) -> Result<(), Error> {
    let cells = (a.len() as u64 + 1) * (b.len() as u64 + 1);
    if cells * 4 > VALUE_LEN_MAX as u64 {
        return Err(Error::Other(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    Ok(())
}

fn lcs<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let options = options(&args)?;
    let value = |nth: usize| found[nth].map_or(&[][..], |found| found.value.as_slice());
    let (a, b) = (value(0), value(1));
    check_len(a, b)?;
    if options.len {
        let (rows, columns) = if b.len() < a.len() { (b, a) } else { (a, b) };
        reply.integer(Table::new(rows, columns, false).len() as i64);
        return Ok(SmallVec::new());
    }
    let stretches = stretches(a, b);
    if options.index {
        write_index(&stretches, options, reply);
        return Ok(SmallVec::new());
    }
    let parts = stretches.iter().rev().map(|stretch| &a[stretch.starts[0]..][..stretch.len]);
    reply.bulk_shared(&Arc::new(parts.collect::<Vec<_>>().concat()));
    Ok(SmallVec::new())
}

fn write_index(stretches: &[Stretch], options: Options, reply: &mut Reply<'_>) {
    let least = options.match_len_min;
    let shown = || stretches.iter().filter(|stretch| stretch.len as i64 >= least);
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(shown().count());
    for Stretch { starts, len } in shown() {
        reply.array(2 + usize::from(options.match_lens));
        for start in starts {
            reply.array(2);
            reply.integer(*start as i64);
            reply.integer((start + len - 1) as i64);
        }
        if options.match_lens {
            reply.integer(*len as i64);
        }
    }
    reply.bulk(b"len");
    reply.integer(stretches.iter().map(|stretch| stretch.len as i64).sum());
}

pub(super) static SPECS: &[Spec] = &[Spec {
    name: "lcs",
    arity: -3,
    flags: Flags::READONLY,
    keys: Keys::TWO,
    access: Access::Read,
    group: Group::String,
    summary: "The longest common subsequence of two values of one partition",
    since: "7.0.0",
    run: Run::Together(Together { dbs: same_db, is_in_both: false, judge: lcs }),
}];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Redis does it: the whole table, then from its end.
    fn plain(a: &[u8], b: &[u8]) -> (usize, Vec<Stretch>) {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                table[i][j] = if a[i - 1] == b[j - 1] {
                    table[i - 1][j - 1] + 1
                } else {
                    table[i - 1][j].max(table[i][j - 1])
                };
            }
        }
        let (mut i, mut j, mut found, mut follows) = (a.len(), b.len(), Vec::new(), false);
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                let before: Option<Stretch> = if follows { found.pop() } else { None };
                let len = before.map_or(1, |stretch| stretch.len + 1);
                found.push(Stretch { starts: [i, j], len });
                follows = true;
                continue;
            }
            follows = false;
            if table[i - 1][j] > table[i][j - 1] { i -= 1 } else { j -= 1 }
        }
        (table[a.len()][b.len()], found)
    }

    proptest! {
        /// Few letters, so that there are many ways; lengths around words.
        #[test]
        fn path_is_that_of_the_whole_table(
            a in prop::collection::vec(b'a'..b'e', 0..150),
            b in prop::collection::vec(b'a'..b'e', 0..150),
        ) {
            let (len, expected) = plain(&a, &b);

            prop_assert_eq!(Table::new(&a, &b, false).len(), len);
            prop_assert_eq!(Table::new(&b, &a, false).len(), len);
            prop_assert_eq!(stretches(&a, &b), expected);
        }
    }

    #[test]
    fn as_much_is_taken_as_redis_takes() {
        assert_eq!(check_len(&[0; 11_584], &[0; 11_584]), Ok(()));
        assert!(check_len(&[0; 11_585], &[0; 11_585]).is_err());
        assert!(check_len(&[], &vec![0; (128 << 20) - 1]).is_ok());
        assert!(check_len(&[], &vec![0; 128 << 20]).is_err());
    }
}
