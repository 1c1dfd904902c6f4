//! The torture of a few seeds, and that it replays.

use std::cell::RefCell;

use super::*;
use crate::sim::check;

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
