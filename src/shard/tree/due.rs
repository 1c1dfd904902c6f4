//! When a flush begins, and how much of it is done in a turn. Pure.
//!
//! Each partition's flush has its share of what is logged from one of its flushes to the next. It
//! begins with a slice a turn, and does more from turn to turn as it comes to need that share, so
//! that who writes is slowed little by little, and hardly ever stopped at the end of the log.
//!
//! Why: 50 clients with 64 SETs each on their way log 140 MB/s in turns of 0.6 ms. With one slice a
//! turn a flush took twice as long as it had, and the log was full for 5 to 150 ms three times a
//! second. Now the slowest of 3 M SETs takes 19 ms where it took 67, p99 is 7.6 ms where it was
//! 9.5, at 0.93 of the throughput, since waiting for a full log had made flushes fewer (medians of
//! seven in turn, `tools/bench --case memory-set-p64 --scale 0.5 --against`).

use crate::id::Lsn;

/// Slices of a flush in a turn at most: some 3 ms, with what the task does.
const SLICES_MAX: u128 = 16;

/// Where the log has to end for a flush to begin: `from` bytes behind the `oldest` mark, or where
/// all marks together are as far behind as marks that lie evenly in `from` bytes. Without that all
/// would be due at once at first, since all begin in one place.
pub fn begin_at(marks: &[Lsn], oldest: Lsn, from: u64) -> Lsn {
    let count = marks.len() as u128;
    let sum = marks.iter().map(|mark| u128::from(mark.0)).sum::<u128>();
    let evenly = (u128::from(from) * (count + 1) / 2 + sum) / count;
    Lsn(oldest.0.saturating_add(from).min(u64::try_from(evenly).unwrap_or(u64::MAX)))
}

/// Slices of a flush to be done in this turn, when `len` bytes were logged since it began, and each
/// of `count` partitions is flushed once in `from` bytes.
pub fn slices(len: u64, from: u64, count: usize) -> usize {
    let share = (u128::from(from) / count as u128).max(1);
    1 + (u128::from(len).min(share) * (SLICES_MAX - 1) / share) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_begin_in_one_place_are_flushed_one_after_the_other() {
        let mut marks = [Lsn(1000); 6];
        let mut begun = Vec::new();
        for at in (1000..5000).step_by(10).map(Lsn) {
            let (place, oldest) =
                marks.iter().copied().enumerate().min_by_key(|(_, mark)| *mark).expect("six");
            if at >= begin_at(&marks, oldest, 600) {
                begun.push((place, at.0));
                marks[place] = at;
            }
        }
        let first = begun.iter().map(|(_, at)| *at).take(7).collect::<Vec<_>>();
        assert_eq!(first, [1350, 1410, 1480, 1560, 1600, 1610, 1860]);
        let last = begun.iter().rev().take(12).collect::<Vec<_>>();
        assert!(
            last.windows(2).all(|pair| (40..=170).contains(&(pair[0].1 - pair[1].1))),
            "{last:?}"
        );
    }

    #[test]
    fn one_partition_alone_is_flushed_at_the_whole_length() {
        assert_eq!(begin_at(&[Lsn(50)], Lsn(50), 600), Lsn(650));
        // Of six, five have nothing to flush: their marks are where the log ends.
        let marks = [Lsn(50), Lsn(640), Lsn(640), Lsn(640), Lsn(640), Lsn(640)];
        assert_eq!(begin_at(&marks, Lsn(50), 600), Lsn(650));
    }

    #[test]
    fn a_flush_does_more_in_a_turn_the_longer_it_takes() {
        let turns = [0, 50, 100, 1000].map(|len| slices(len, 600, 6));
        assert_eq!(turns, [1, 8, 16, 16]);
        assert_eq!(slices(u64::MAX, 1, 64), 16);
    }
}
