//! The torture of a few seeds, and that it replays; short slices of the campaigns, and that they
//! see what they are for.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::house::Shape;
use super::*;
use crate::sim::check;
use crate::wal;

#[test]
fn nothing_acknowledged_or_read_is_taken_back_by_a_crash() {
    let total = RefCell::new(Done::default());
    check(60, |seed| {
        let done = run(seed, shape(seed), Length::Lives(4));
        total.borrow_mut().add(&done.unwrap_or_else(|violation| panic!("{violation}")));
    });
    eprintln!("{:?}", total.borrow());
}

#[test]
fn the_whole_server_replays_from_its_seed() {
    for seed in 0..5 {
        let hash = || run(seed, shape(seed), Length::Lives(2)).map(|done| done.trace_hash);
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}

#[test]
fn a_slice_of_each_campaign_finds_nothing() {
    check(2, |seed| {
        for (campaign, size) in [(Campaign::Flips, 150), (Campaign::DiskFull, 2)] {
            let shape = campaign.shape(seed);
            let done = campaign.play(seed, &shape, size, |_, _| {});
            let done = done.unwrap_or_else(|violation| panic!("{campaign:?}: {violation}"));
            eprintln!("{campaign:?}: {done:?}");
        }
    });
}

/// One in two hundred of the operations, others with each seed; `stave torture` tries them all.
#[test]
fn a_crash_or_an_error_at_an_operation_of_the_disk_loses_nothing() {
    check(2, |seed| {
        let shape = Campaign::Calls.shape(seed);
        let calls = calls::count(seed, &shape, 60).unwrap_or_else(|error| panic!("{error}"));
        for call in (1 + seed % 200..=calls).step_by(200) {
            for trouble in calls::TROUBLES {
                let ran = calls::run(seed, &shape, 60, call, trouble);
                ran.unwrap_or_else(|violation| panic!("{violation}"));
            }
        }
    });
}

/// Seen by an operation that fails, or by a crash at one.
fn seen_at_a_call(plant: impl Fn(&mut Shape)) {
    let mut shape = Campaign::Calls.shape(0);
    plant(&mut shape);
    let sound = calls::count(0, &Campaign::Calls.shape(0), 20).expect("nothing is planted");
    let seen = (1..=sound).any(|call| {
        calls::TROUBLES.iter().any(|trouble| {
            let run = AssertUnwindSafe(|| calls::run(0, &shape, 20, call, *trouble));
            catch_unwind(run).map_or(true, |result| result.is_err())
        })
    });
    assert!(seen, "none of {sound} operations shows it");
}

#[test]
fn campaigns_see_planted_bugs() {
    seen_at_a_call(|shape| shape.log_planted = Some(wal::Planted::AckBeforeDurable));
    seen_at_a_call(|shape| shape.log_planted = Some(wal::Planted::IgnoreFailedSync));
}
