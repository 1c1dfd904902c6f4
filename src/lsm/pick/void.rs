//! Jobs for idle moments: tables much of which could be left out.

use super::{Job, LEVEL_COUNT, LEVEL_LAST, Request, Void, Why, level_zero};
use crate::lsm::block::Meta;

/// A table is worth a job if this part of its rows is void, as far as its statistics tell: one in
/// four.
const VOID_PART: u64 = 4;

/// The job that gives back the most, if any.
pub fn find(request: &Request<'_>, void: Void) -> Option<Job> {
    let levels = request.levels;
    let of_zero = levels.tables(0).iter().any(|run| is_worth_it(run, void));
    let zero = of_zero.then(|| level_zero::down(request, Why::Void));
    let mut tables: Vec<(usize, &Meta)> = (1..LEVEL_COUNT)
        .flat_map(|level| levels.tables(level).iter().map(move |table| (level, *table)))
        .filter(|(_, table)| is_worth_it(table, void))
        .collect();
    tables.sort_by_key(|(_, table)| std::cmp::Reverse(void_len(table, void)));
    let jobs = tables.into_iter().map(|(level, table)| of_table(request, level, table));
    zero.into_iter().chain(jobs).find(|job| request.is_free(job))
}

/// Down, to where what a tombstone hides is; at the bottom, into the same level again.
fn of_table(request: &Request<'_>, level: usize, table: &Meta) -> Job {
    let here = request.job([(level, table)], level, Why::Void);
    if here.is_bottom || level == LEVEL_LAST { here } else { request.down(level, table, Why::Void) }
}

/// Only if all versions are old enough to go: what stays because of its age would be met again.
fn is_worth_it(table: &Meta, void: Void) -> bool {
    let rows = table.statistics.row_count;
    let is_old = table.statistics.timestamp_max <= void.retain_from;
    is_old && void_rows(table, void).saturating_mul(VOID_PART) >= rows.max(1)
}

/// Tombstones, and rows that are likely to have expired: deadlines are taken to be spread evenly.
fn void_rows(table: &Meta, void: Void) -> u64 {
    let statistics = &table.statistics;
    let (min, max) = (statistics.expiry_min_ms, statistics.expiry_max_ms);
    let expired = if statistics.expiring_count == 0 || void.now_ms < min {
        0
    } else if void.now_ms >= max {
        statistics.expiring_count
    } else {
        let part = u128::from(void.now_ms - min) * u128::from(statistics.expiring_count);
        (part / u128::from(max - min)) as u64
    };
    statistics.delete_count + expired
}

fn void_len(table: &Meta, void: Void) -> u64 {
    let rows = table.statistics.row_count.max(1);
    let len = u128::from(table.file_len) * u128::from(void_rows(table, void)) / u128::from(rows);
    len as u64
}
