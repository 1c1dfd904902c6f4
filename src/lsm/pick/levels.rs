//! The tables of a partition by level, and how long each level should be.

use super::{LEVEL_COUNT, LEVEL_LAST, Shape};
use crate::lsm::block::Meta;

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    /// Level 0 newest first, the others by key.
    levels: [Vec<&'a Meta>; LEVEL_COUNT],
}

impl<'a> Levels<'a> {
    /// The tables of a partition, each with its level, in any order.
    ///
    /// # Panics
    /// If tables of a level below 0 overlap, or a level is too deep: it is not what jobs leave.
    pub fn new(tables: impl IntoIterator<Item = (u8, &'a Meta)>) -> Self {
        let mut levels: [Vec<&Meta>; LEVEL_COUNT] = Default::default();
        for (level, table) in tables {
            levels[usize::from(level)].push(table);
        }
        // By time and not by number: a run that was made of others is as old as they are.
        levels[0].sort_by_key(|table| {
            let statistics = &table.statistics;
            std::cmp::Reverse((statistics.timestamp_max, statistics.timestamp_min, table.number))
        });
        for (level, tables) in levels.iter_mut().enumerate().skip(1) {
            tables.sort_by(|one, other| one.smallest.cmp(&other.smallest));
            let overlap = tables.windows(2).find(|pair| pair[0].largest >= pair[1].smallest);
            assert!(overlap.is_none(), "tables of level {level} overlap: {overlap:?}");
        }
        Self { levels }
    }

    /// The tables of a level: newest first in level 0, by key in the others.
    pub fn tables(&self, level: usize) -> &[&'a Meta] {
        &self.levels[level]
    }

    /// Bytes of a level.
    pub fn len(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.file_len).sum()
    }

    /// Bytes of all levels.
    pub fn total_len(&self) -> u64 {
        (0..LEVEL_COUNT).map(|level| self.len(level)).sum()
    }

    /// The table of a level with that number.
    pub(super) fn find(&self, level: u8, number: u64) -> &'a Meta {
        let mut tables = self.levels[usize::from(level)].iter();
        tables.find(|table| table.number == number).expect("a job is made of tables that are there")
    }

    /// The tables of a level below 0 that may have keys from `smallest` to `largest`.
    pub(super) fn overlapping(&self, level: usize, smallest: &[u8], largest: &[u8]) -> &[&'a Meta] {
        assert!(level > 0, "runs are in order of time");
        let tables = &self.levels[level];
        let first = tables.partition_point(|table| table.largest.as_slice() < smallest);
        let end = tables.partition_point(|table| table.smallest.as_slice() <= largest);
        &tables[first..end.max(first)]
    }

    /// Most bytes of each level below 0 before it gives some to the next; the last has no bound.
    pub(super) fn targets(&self, shape: Shape) -> [u64; LEVEL_COUNT] {
        let least = (shape.base_len / shape.ratio).max(1);
        let mut targets = [u64::MAX; LEVEL_COUNT];
        let longest = (1..LEVEL_COUNT).map(|level| self.len(level)).max();
        let mut target = longest.unwrap_or(0);
        for level in (1..LEVEL_LAST).rev() {
            target = (target / shape.ratio).max(least);
            targets[level] = target;
        }
        targets
    }

    /// The level that level 0 goes to: the deepest that is enough, and none below tables.
    pub(super) fn base(&self, shape: Shape) -> usize {
        let first = (1..LEVEL_LAST).find(|level| !self.levels[*level].is_empty());
        let mut len = self.len(LEVEL_LAST);
        let mut base = LEVEL_LAST;
        while len > shape.base_len && base > 1 {
            len /= shape.ratio;
            base -= 1;
        }
        first.map_or(base, |first| base.min(first))
    }
}
