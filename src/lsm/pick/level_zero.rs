//! Jobs that take from level 0.

use super::{Job, Request, Why};
use crate::lsm::block::Meta;

/// With so many times [`super::Shape::runs`] all go down, whatever it costs: each is looked into by
/// a read.
const RUNS_FACTOR: usize = 3;
/// Runs go down when what they are merged with is at most so many times their bytes. With 4 a row
/// is written 14 times instead of 10 (bench-results/compaction.md), and no more than 1.16 times
/// what is live is held with either.
const BASE_FACTOR: u64 = 2;
/// Idle, level 0 is left alone if it holds less than this part of the rest.
const SETTLED_PART: u64 = 10;

/// The job that is due for level 0, if any, whatever runs.
pub fn due(request: &Request<'_>) -> Option<Job> {
    let runs = request.levels.tables(0);
    let shape = request.shape;
    if runs.len() < shape.runs {
        return None;
    }
    if let Some(job) = moved(request) {
        return Some(job);
    }
    let down = down(request, Why::Runs);
    let below = down.len - request.levels.len(0);
    let is_cheap = below <= BASE_FACTOR.saturating_mul(request.levels.len(0));
    if is_cheap || runs.len() >= RUNS_FACTOR * shape.runs {
        return Some(down);
    }
    let count = alike(runs);
    let tier = runs[..count].iter().map(|table| (0, *table));
    (count >= shape.runs).then(|| request.job(tier, 0, Why::Runs))
}

/// Level 0 into the base although it has few runs: so that it holds little of all bytes.
pub fn settle(request: &Request<'_>) -> Option<Job> {
    let len = request.levels.len(0);
    let rest = request.levels.total_len() - len;
    let is_settled = len.saturating_mul(SETTLED_PART) <= rest;
    if is_settled {
        return None;
    }
    moved(request).or_else(|| Some(down(request, Why::Settle)))
}

/// How many of the newest runs are of a size: each no longer than all newer ones together, or than
/// the newest, so that a byte is rewritten each time its run doubles, and no more.
fn alike(runs: &[&Meta]) -> usize {
    let mut len = 0;
    let is_alike = |run: &&&Meta| {
        let before = len;
        len += run.file_len;
        before == 0 || run.file_len <= before
    };
    runs.iter().take_while(is_alike).count()
}

/// All runs and what they lie among in the base.
pub fn down(request: &Request<'_>, why: Why) -> Job {
    let levels = request.levels;
    let runs = levels.tables(0);
    let base = levels.base(request.shape);
    let smallest = runs.iter().map(|run| &run.smallest).min().expect("there are runs");
    let largest = runs.iter().map(|run| &run.largest).max().expect("there are runs");
    let below = levels.overlapping(base, smallest, largest);
    let inputs = runs.iter().map(|run| (0, *run)).chain(below.iter().map(|table| (base, *table)));
    request.job(inputs, base, why)
}

/// The oldest runs that meet no other run and nothing of the base: rows that came in order.
fn moved(request: &Request<'_>) -> Option<Job> {
    let runs = request.levels.tables(0);
    let base = request.levels.base(request.shape);
    let meets =
        |run: &Meta, other: &Meta| run.smallest <= other.largest && other.smallest <= run.largest;
    let is_alone = |run: &&&Meta| {
        let others = runs.iter().filter(|other| other.number != run.number);
        let below = request.levels.overlapping(base, &run.smallest, &run.largest);
        below.is_empty() && others.into_iter().all(|other| !meets(run, other))
    };
    let chosen: Vec<&Meta> = runs.iter().rev().take_while(is_alone).copied().collect();
    if chosen.is_empty() {
        return None;
    }
    let inputs = chosen.into_iter().rev().map(|run| (0, run));
    Some(Job { is_move: true, ..request.job(inputs, base, Why::Runs) })
}
