//! The reactor on this machine's kernel, and on as little of it as the oldest one has.

use super::*;
use crate::env::tests;

fn options(features: Features) -> Options {
    static NAME: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let name = NAME.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Options { name, start: Start::now(), seed: 1, features }
}

/// With all that the kernel offers, and with as little as the oldest one does.
fn both<F: Future<Output = ()> + 'static>(test: impl Fn(UringEnv) -> F) {
    let current = Features::probe().expect("the test machine runs a kernel of this century");
    for features in [current, Features::OLDEST] {
        run(options(features), &test).expect("the ring works");
    }
}

#[test]
fn echoes_to_many_clients() {
    both(tests::echoes_to_many_clients);
}

#[test]
fn sends_more_than_a_socket_takes() {
    both(tests::sends_more_than_a_socket_takes);
}

#[test]
fn a_paused_connection_is_not_read() {
    both(tests::a_paused_connection_is_not_read);
}

#[test]
fn listeners_share_a_port_and_close() {
    both(tests::listeners_share_a_port_and_close);
}

#[test]
fn connects_and_both_ends_talk_and_close() {
    both(tests::connects_and_both_ends_talk_and_close);
}

#[test]
fn a_connection_paused_before_it_is_made_is_not_read() {
    both(tests::a_connection_paused_before_it_is_made_is_not_read);
}

#[test]
fn a_refused_connect_says_so_and_a_dropped_one_leaves_nothing() {
    both(tests::a_refused_connect_says_so_and_a_dropped_one_leaves_nothing);
}

#[test]
fn a_connect_without_an_answer_ends_in_time() {
    both(tests::a_connect_without_an_answer_ends_in_time);
}

#[test]
fn files_are_written_read_and_synced() {
    both(tests::files_are_written_read_and_synced);
}

#[test]
fn writes_overlap() {
    both(tests::writes_overlap);
}

#[test]
fn sleeps_spawns_and_wakes_across_threads() {
    both(tests::sleeps_spawns_and_wakes_across_threads);
}

#[test]
fn no_wake_is_lost() {
    both(tests::no_wake_is_lost);
}

#[test]
fn a_panic_ends_its_task_alone_and_is_counted() {
    both(tests::a_panic_ends_its_task_alone_and_is_counted);
}

#[test]
fn a_task_that_holds_the_core_is_counted_as_a_stall() {
    both(tests::a_task_that_holds_the_core_is_counted_as_a_stall);
}

#[test]
fn a_busy_background_does_not_hold_up_the_foreground() {
    both(tests::a_busy_background_does_not_hold_up_the_foreground);
}

#[test]
fn an_idle_shard_uses_no_cpu() {
    both(tests::an_idle_shard_uses_no_cpu);
}
