//! The common tests of a runtime, on glommio.

use std::rc::Rc;

use super::*;
use crate::env::tests;

fn check<F: Future<Output = ()> + 'static>(test: impl FnOnce(GlommioEnv) -> F) {
    run(options(), test).expect("the rings work");
}

fn options() -> Options {
    Options { name: 1, start: crate::env::os::Start::now(), seed: 1 }
}

#[test]
fn echoes_to_many_clients() {
    check(tests::echoes_to_many_clients);
}

#[test]
fn sends_more_than_a_socket_takes() {
    check(tests::sends_more_than_a_socket_takes);
}

#[test]
fn a_paused_connection_is_not_read() {
    check(tests::a_paused_connection_is_not_read);
}

#[test]
fn listeners_share_a_port_and_close() {
    check(tests::listeners_share_a_port_and_close);
}

#[test]
fn connects_and_both_ends_talk_and_close() {
    check(tests::connects_and_both_ends_talk_and_close);
}

#[test]
fn a_connection_paused_before_it_is_made_is_not_read() {
    check(tests::a_connection_paused_before_it_is_made_is_not_read);
}

#[test]
fn a_refused_connect_says_so_and_a_dropped_one_leaves_nothing() {
    check(tests::a_refused_connect_says_so_and_a_dropped_one_leaves_nothing);
}

#[test]
fn a_connect_without_an_answer_ends_in_time() {
    check(tests::a_connect_without_an_answer_ends_in_time);
}

#[test]
fn files_are_written_read_and_synced() {
    check(tests::files_are_written_read_and_synced);
}

#[test]
fn writes_overlap() {
    check(tests::writes_overlap);
}

#[test]
fn sleeps_spawns_and_wakes_across_threads() {
    check(tests::sleeps_spawns_and_wakes_across_threads);
}

#[test]
fn no_wake_is_lost() {
    check(tests::no_wake_is_lost);
}

#[test]
fn a_panic_ends_its_task_alone_and_is_counted() {
    check(tests::a_panic_ends_its_task_alone_and_is_counted);
}

#[test]
fn a_task_that_holds_the_core_is_counted_as_a_stall() {
    check(tests::a_task_that_holds_the_core_is_counted_as_a_stall);
}

#[test]
fn a_busy_background_does_not_hold_up_the_foreground() {
    check(tests::a_busy_background_does_not_hold_up_the_foreground);
}

#[test]
fn an_idle_shard_uses_no_cpu() {
    check(tests::an_idle_shard_uses_no_cpu);
}

#[test]
fn the_end_of_a_shard_drops_its_tasks_and_connections() {
    let held = Rc::new(());
    let inner = Rc::clone(&held);

    let count = run(options(), |env| async move {
        let (_, addr) = env.listen(([127, 0, 0, 1], 0).into(), true).expect("loopback has room");
        let client = std::net::TcpStream::connect(addr).expect("it listens");
        for class in [Class::Foreground, Class::Background] {
            let (task, inner) = (env.clone(), Rc::clone(&inner));
            env.spawn(class, async move {
                task.sleep(Duration::from_secs(3600)).await;
                drop(inner);
            });
        }
        let mut events = Vec::new();
        env.turn(&mut events).await;
        drop(inner);
        (Rc::downgrade(&env.0), client)
    });

    let (core, mut client) = count.expect("the rings work");
    assert_eq!((Rc::strong_count(&held), core.strong_count()), (1, 0));
    assert_eq!(client.read(&mut [0]).expect("closed in order"), 0);
}

#[test]
fn a_panic_of_the_main_task_is_an_error() {
    let result = run::<(), _>(options(), |_| async { panic!("planted") });

    assert!(result.is_err());
}
