//! The torture sees each bug that is planted for it.
//!
//! Not here: `wal::Planted::SkipChainCheck` and `TrustRecycledBytes`. A block is taken only if its
//! epoch, its place and its chain are right; each of the checks stands in for the other two, so
//! that one alone is not missed from outside. The log's own tests look at blocks.

use super::house::Shape;
use super::{Length, run, shape};
use crate::shard::Planted;
use crate::wal;

/// Seeds within which a planted bug must be seen.
const SEEDS_MAX: u64 = 400;

/// Looks from seed `first` on: a rare bug is not looked for from 0 on, which takes a minute.
fn seen_within(what: &str, first: u64, plant: impl Fn(&mut Shape)) -> u64 {
    for seed in first..first + SEEDS_MAX {
        let mut shape = shape(seed);
        plant(&mut shape);
        // A bug may show as a panic too: an assertion that it broke.
        let run = std::panic::AssertUnwindSafe(|| run(seed, shape, Length::Lives(4)));
        let error = match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => continue,
            Ok(Err(violation)) => violation.to_string(),
            Err(_) => "a panic".to_owned(),
        };
        println!("{what}: seen at seed {seed}: {error:.100}");
        return seed;
    }
    panic!("{what} was not seen in {SEEDS_MAX} seeds");
}

fn in_shard(bug: Planted, first: u64) {
    seen_within(&format!("{bug:?}"), first, |shape| shape.planted = Some(bug));
}

fn in_log(bug: wal::Planted) {
    seen_within(&format!("{bug:?}"), 0, |shape| shape.log_planted = Some(bug));
}

#[test]
fn a_reply_before_its_commit_is_seen() {
    in_shard(Planted::ReplyBeforeCommit, 0);
}

#[test]
fn an_answer_from_an_uncommitted_version_is_seen() {
    in_shard(Planted::AnswerUncommittedRead, 0);
}

#[test]
fn replies_out_of_order_are_seen() {
    in_shard(Planted::ReplyOutOfOrder, 0);
}

#[test]
fn commands_that_miss_what_is_proposed_are_seen() {
    in_shard(Planted::DropOverlay, 0);
}

#[test]
fn a_transaction_in_several_entries_is_seen() {
    in_shard(Planted::SplitTransaction, 55);
}

#[test]
fn an_exec_that_ignores_what_is_watched_is_seen() {
    in_shard(Planted::SkipWatch, 0);
}

#[test]
fn an_exec_that_answers_before_its_commit_is_seen() {
    in_shard(Planted::ExecBeforeCommit, 0);
}

/// With flushes all the time.
fn in_tables(bug: Planted, first: u64) {
    seen_within(&format!("{bug:?}"), first, |shape| {
        (shape.planted, shape.log_len_max) = (Some(bug), 8 << 10);
    });
}

#[test]
fn tombstones_that_are_dropped_before_a_table_has_them_are_seen() {
    in_tables(Planted::DropTombstones, 0);
}

#[test]
fn tables_with_uncommitted_versions_are_seen() {
    in_tables(Planted::FlushUncommitted, 110);
}

#[test]
fn a_log_that_is_released_up_to_the_end_of_a_flush_is_seen() {
    in_tables(Planted::MarkLate, 0);
}

/// With rows that leave memory as soon as a table has them.
fn in_memory(bug: Planted) {
    seen_within(&format!("{bug:?}"), 0, |shape| {
        (shape.planted, shape.log_len_max) = (Some(bug), 8 << 10);
        shape.rows_len_max = Some(1 << 10);
    });
}

#[test]
fn rows_that_leave_memory_before_a_table_has_them_are_seen() {
    in_memory(Planted::LetGoDirty);
}

#[test]
fn keys_that_are_not_asked_for_are_seen() {
    in_memory(Planted::SkipSeek);
}

#[test]
fn a_log_that_acks_before_it_is_durable_is_seen() {
    in_log(wal::Planted::AckBeforeDurable);
}

#[test]
fn a_log_that_drops_a_batch_is_seen() {
    in_log(wal::Planted::DropLastBatch);
}

#[test]
fn a_log_that_ignores_failed_writes_is_seen() {
    in_log(wal::Planted::IgnoreFailedSync);
}

#[test]
fn a_log_that_forgets_to_sync_after_a_write_is_seen() {
    in_log(wal::Planted::ForgetSync);
}

#[test]
fn a_log_that_acks_out_of_order_is_seen() {
    in_log(wal::Planted::AckOutOfOrder);
}
