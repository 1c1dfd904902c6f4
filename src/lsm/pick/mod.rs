//! Which tables of a partition to merge next. Pure: the tables in, a [`Job`] out.
//!
//! Level 0 has runs as they were flushed, which overlap; the levels from 1 to [`LEVEL_LAST`] have
//! tables that do not, each level up to a target that is a tenth of the next one's. Targets are
//! counted from the bottom, which is as large as it is: so all levels above it together hold a
//! ninth of it, and what is void on the disk is no more than that. Level 0 goes straight to the
//! *base*, the first level whose target is not above [`Shape::base_len`]; what is between is empty.
//!
//! Level 0 is tiered: when there are [`Shape::runs`] of a size they become one run, unless they are
//! so many bytes that merging them into the base is the cheaper: then all go there. So a shard that
//! must flush little and often does not rewrite its base for it.
//!
//! Invariants:
//! * A key's versions in a level are newer than all of it in the levels below, and in level 0 newer
//!   than in the older runs. So no run goes down before all that are older.
//! * No two jobs share a table, nor write to one level where their keys overlap.
//! * `is_bottom` is said only where nothing older of those keys is anywhere.
//! * Jobs come to an end: each brings bytes down, or makes fewer runs of many, or leaves rows out
//!   that it can not meet again.
//!
//! Why so: measured on synthetic loads (`pick::tests::loads`, bench-results/compaction.md). Of what
//! is live no more than 1.3 times may be held: a ratio of 10 holds 1.17 times at the worst and
//! writes a row about ten times; of 4, 1.38 times and seven to ten. A
//! base whose target may be less than what level 0 brings down at once is a level too many, and
//! costs half as much again; hence [`Shape::of_flushes`]. Why by key in turn, and not the table
//! with the least overlap: each is met within a cycle, so that what is void goes.
//!
//! Not here: merging ([`super::table`]); when it is idle, and how much a job may cost (the shard).

mod level_zero;
mod levels;
#[cfg(test)]
mod tests;
mod void;

use std::cmp::Reverse;

use crate::id::Timestamp;
use crate::lsm::block::Meta;
pub use levels::Levels;

/// The deepest level.
pub const LEVEL_LAST: usize = 6;
/// Levels, level 0 included.
pub const LEVEL_COUNT: usize = LEVEL_LAST + 1;

/// What the levels should look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Runs of level 0 that are merged; at least 2.
    pub runs: usize,
    /// Most bytes of the first level below 0: what `ratio` times `runs` flushes have.
    pub base_len: u64,
    /// How much more a level holds than the one above; at least 2.
    pub ratio: u64,
}

impl Shape {
    /// For flushes of about `len` bytes.
    pub fn of_flushes(len: u64) -> Self {
        let (runs, ratio) = (4, 10);
        Self { runs, base_len: len.saturating_mul(runs as u64 * ratio), ratio }
    }
}

/// What may be left out by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void {
    /// Unix milliseconds: puts with an expiry up to this are expired.
    pub now_ms: u64,
    /// Of versions up to this only the newest of each key is kept.
    pub retain_from: Timestamp,
}

/// Why a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Level 0 has too many runs.
    Runs,
    /// The level is above its target.
    Len,
    /// Much of it is tombstones or expired.
    Void,
    /// Nothing comes to level 0 any more, and it holds more than a tenth of the rest.
    Settle,
}

/// Tables to be merged, or moved, into a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Level and number of each: the newest first where they are of level 0, then by level.
    pub inputs: Vec<(u8, u64)>,
    /// Where the rows go.
    pub output_level: u8,
    /// Nothing older of these keys is in another table: tombstones and what they hide can go.
    pub is_bottom: bool,
    /// No row meets another: it is enough to say that the tables are in the other level.
    pub is_move: bool,
    /// Why.
    pub why: Why,
    /// Bytes of the inputs.
    pub len: u64,
    /// The first and the last key of the inputs.
    pub range: (Vec<u8>, Vec<u8>),
}

impl Job {
    fn overlaps(&self, other: &Self) -> bool {
        self.range.0 <= other.range.1 && other.range.0 <= self.range.1
    }

    /// Whether both can run at once.
    fn is_apart_from(&self, other: &Self) -> bool {
        let shares = self.inputs.iter().any(|input| other.inputs.contains(input));
        let meets = self.output_level == other.output_level && self.overlaps(other);
        !(shares || meets)
    }
}

/// How far the choice in turn has come in each level of a partition. Lost at a restart, which does
/// no harm.
#[derive(Clone, Debug, Default)]
pub struct Cursors {
    /// The last key of the last table chosen.
    keys: [Vec<u8>; LEVEL_COUNT],
}

/// What is to be picked from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// All tables, those of the running jobs too.
    pub levels: &'a Levels<'a>,
    /// What they should look like.
    pub shape: Shape,
    /// The jobs that are under way.
    pub running: &'a [Job],
    /// What could be left out, if there is time for that: no job is due.
    pub idle: Option<Void>,
    /// Nothing was flushed lately, so that what is merged now is not merged again soon.
    pub is_quiet: bool,
}

impl Request<'_> {
    /// The job that is due most, if any; `cursors` go on behind it. It is under way from then on.
    pub fn pick(&self, cursors: &mut Cursors) -> Option<Job> {
        let job = self.due(cursors).or_else(|| self.idle_job())?;
        for &(level, number) in job.inputs.iter().filter(|_| job.why == Why::Len) {
            let table = self.levels.find(level, number);
            if usize::from(level) < usize::from(job.output_level) {
                cursors.keys[usize::from(level)].clone_from(&table.largest);
            }
        }
        Some(job)
    }

    /// Bytes to be read and written until no job is due, as far as can be told: 0 if none is.
    pub fn debt(&self) -> u64 {
        let targets = self.levels.targets(self.shape);
        let base = self.levels.base(self.shape);
        let mut debt = 0;
        let mut carried = 0;
        if let Some(job) = level_zero::due(self) {
            debt += job.len;
            if job.output_level > 0 {
                carried = self.levels.len(0);
            }
        }
        for (level, target) in targets.iter().enumerate().take(LEVEL_LAST).skip(base) {
            let own = self.levels.len(level);
            let len = own + carried;
            carried = len.saturating_sub(*target);
            if carried > 0 {
                // With each byte come those of the next level that it lies among.
                let next = u128::from(self.levels.len(level + 1)) * u128::from(carried);
                debt += carried + (next / u128::from(len)) as u64;
            }
        }
        debt
    }

    fn due(&self, cursors: &Cursors) -> Option<Job> {
        let targets = self.levels.targets(self.shape);
        let base = self.levels.base(self.shape);
        let runs = self.levels.tables(0).len() as u128 * 1_000 / self.shape.runs as u128;
        let zero = level_zero::due(self).filter(|job| self.is_free(job));
        // In thousandths of its target.
        let score =
            |level: usize| u128::from(self.levels.len(level)) * 1_000 / u128::from(targets[level]);
        let is_full = |level: &usize| self.levels.len(*level) > targets[*level];
        let mut full: Vec<usize> = (base..LEVEL_LAST).filter(is_full).collect();
        full.sort_by_key(|level| Reverse(score(*level)));
        let (first, behind): (Vec<usize>, Vec<usize>) =
            full.into_iter().partition(|level| score(*level) > runs);
        let mut of_level = |level| self.of_level(level, cursors);
        let fuller = first.into_iter().find_map(&mut of_level);
        fuller.or(zero).or_else(|| behind.into_iter().find_map(of_level))
    }

    /// The next table of a level in turn that is free, down to the next level.
    fn of_level(&self, level: usize, cursors: &Cursors) -> Option<Job> {
        let tables = self.levels.tables(level);
        let next = tables.partition_point(|table| table.largest <= cursors.keys[level]);
        let (before, behind) = tables.split_at(next);
        behind.iter().chain(before).find_map(|table| {
            let job = self.down(level, table, Why::Len);
            self.is_free(&job).then_some(job)
        })
    }

    /// `table` and what it lies among in the next level; and those beside it that cost no more.
    fn down(&self, level: usize, table: &Meta, why: Why) -> Job {
        let below = self.levels.overlapping(level + 1, &table.smallest, &table.largest);
        let mut chosen = vec![table];
        if let Some(last) = below.last() {
            // They lie among the same tables, so that no byte more is rewritten for them.
            let beside = self.levels.tables(level).iter();
            let behind = beside.skip_while(|other| other.smallest <= table.largest);
            chosen.extend(behind.take_while(|other| other.largest <= last.largest).copied());
        }
        let inputs = chosen.into_iter().map(|table| (level, table));
        let inputs = inputs.chain(below.iter().map(|table| (level + 1, *table)));
        self.job(inputs, level + 1, why)
    }

    /// A job of these tables, newest first.
    fn job<'t>(
        &self,
        inputs: impl IntoIterator<Item = (usize, &'t Meta)>,
        output_level: usize,
        why: Why,
    ) -> Job {
        let tables: Vec<(usize, &Meta)> = inputs.into_iter().collect();
        let smallest = tables.iter().map(|(_, table)| &table.smallest).min();
        let largest = tables.iter().map(|(_, table)| &table.largest).max();
        let range = smallest.zip(largest).map(|(one, other)| (one.clone(), other.clone()));
        let range = range.expect("a job has tables");
        let is_alone = tables.len() == 1;
        Job {
            inputs: tables.iter().map(|(level, table)| (*level as u8, table.number)).collect(),
            output_level: output_level as u8,
            is_bottom: self.is_bottom(&tables, output_level, &range),
            is_move: is_alone && tables[0].0 < output_level,
            why,
            len: tables.iter().map(|(_, table)| table.file_len).sum(),
            range,
        }
    }

    /// Whether nothing older of the keys is outside `tables`.
    fn is_bottom(
        &self,
        tables: &[(usize, &Meta)],
        output_level: usize,
        range: &(Vec<u8>, Vec<u8>),
    ) -> bool {
        let is_in = |table: &Meta| tables.iter().any(|(_, other)| other.number == table.number);
        let overlapping =
            |level| self.levels.overlapping(level, &range.0, &range.1).iter().copied();
        let from = output_level.max(1);
        let is_below_free = (from..LEVEL_COUNT).flat_map(overlapping).all(is_in);
        let oldest = tables.iter().map(|(_, table)| table.statistics.timestamp_min).min();
        let is_older = |table: &&&Meta| Some(table.statistics.timestamp_min) < oldest;
        let from_zero = tables.iter().any(|(level, _)| *level == 0);
        let runs = self.levels.tables(0).iter();
        let is_zero_free = !from_zero || runs.filter(is_older).all(|table| is_in(table));
        is_below_free && is_zero_free
    }

    fn is_free(&self, job: &Job) -> bool {
        self.running.iter().all(|running| running.is_apart_from(job))
    }

    fn idle_job(&self) -> Option<Job> {
        let void = self.idle?;
        let settled = if self.is_quiet { level_zero::settle(self) } else { None };
        let settled = settled.filter(|job| self.is_free(job));
        settled.or_else(|| void::find(self, void))
    }
}
