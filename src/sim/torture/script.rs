//! Which troubles of a seed happen: all, or only some, to find those that it takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

/// What was done to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// From 0, in the order of what could have been done.
    pub number: u32,
    /// Virtual time.
    pub at: Duration,
    /// In words.
    pub what: String,
}

/// See the module's header.
#[derive(Debug, Default)]
pub struct Script {
    only: Option<BTreeSet<u32>>,
    next: Cell<u32>,
    struck: RefCell<Vec<Strike>>,
}

impl Script {
    /// No other troubles than these.
    pub fn only(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self { only: Some(numbers.into_iter().collect()), ..Self::default() }
    }

    /// Whether the next trouble happens, which is described if it does.
    pub(super) fn strikes(&self, describe: impl FnOnce() -> (Duration, String)) -> bool {
        let number = self.next.replace(self.next.get() + 1);
        let happens = self.only.as_ref().is_none_or(|only| only.contains(&number));
        if happens {
            let (at, what) = describe();
            self.struck.borrow_mut().push(Strike { number, at, what });
        }
        happens
    }

    /// What has happened so far, also of a run that ended in a panic.
    pub fn struck(&self) -> Vec<Strike> {
        self.struck.borrow().clone()
    }
}

/// Of `numbers`, for which `fails` holds, as few as are found by leaving out others, in at most
/// `tries` tries (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input").
pub fn minimized(
    mut numbers: Vec<u32>,
    tries: usize,
    mut fails: impl FnMut(&[u32]) -> bool,
) -> Vec<u32> {
    let (mut part, mut left) = (numbers.len().div_ceil(2), tries);
    while part > 0 && left > 0 {
        let (mut at, before) = (0, numbers.len());
        while at < numbers.len() && left > 0 {
            let end = (at + part).min(numbers.len());
            let rest = [&numbers[..at], &numbers[end..]].concat();
            left -= 1;
            match fails(&rest) {
                true => numbers = rest,
                false => at = end,
            }
        }
        // Single ones are gone through again as long as that helps.
        part = if part > 1 { part.div_ceil(2) } else { usize::from(numbers.len() < before) };
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_takes_is_found() {
        let needed = [3, 17, 30];
        let fails = |numbers: &[u32]| needed.iter().all(|number| numbers.contains(number));
        assert_eq!(minimized((0..40).collect(), 200, fails), needed);
        assert_eq!(minimized((0..40).collect(), 0, fails).len(), 40, "no tries, no change");
        assert!(minimized((0..9).collect(), 100, |_| true).is_empty());
    }
}
