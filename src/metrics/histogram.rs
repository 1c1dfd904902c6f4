//! Distributions of times: a count per bucket, buckets that grow with the value.
//!
//! ```text
//! bucket := ns                                  below 128 ns, one each
//!           (shift << 6) + (ns >> shift)        above: 64 per power of two, shift = log2(ns) - 6
//! ```
//!
//! So a value is known to 1/64, and the middle of its bucket is off by less than 0.8 %; what is
//! over 18 minutes counts as 18 minutes. Why not the crate `hdrhistogram`: its counts have no
//! single writer with many readers, so that a reader on another core would have to be sent a copy;
//! here a record is one load and one store, and any core reads while the owner writes.

use std::sync::OnceLock;

use super::Stat;

/// Buckets of a power of two, as a power of two.
const SUB_BITS: u32 = 6;
/// Values are below 2 to this, nanoseconds.
const VALUE_BITS: u32 = 40;
/// A table takes 18 KiB.
const BUCKETS: usize = (((VALUE_BITS - SUB_BITS - 1) as usize) << SUB_BITS) + (2 << SUB_BITS);

fn bucket_of(ns: u64) -> usize {
    let ns = ns.min((1 << VALUE_BITS) - 1);
    let shift = (ns | (1 << SUB_BITS)).ilog2() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (ns >> shift) as usize
}

/// The values of a bucket: the first, and how many.
fn values_of(bucket: usize) -> (u64, u64) {
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let first = (bucket - (shift << SUB_BITS)) as u64;
    (first << shift, 1 << shift)
}

/// Times of one kind on one shard; see the module's header.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Made by the first record, since most commands are never used.
    counts: OnceLock<Box<[Stat]>>,
}

impl Histogram {
    /// Records a time `n` times; for the owner.
    pub fn record(&self, ns: u64, n: u64) {
        let counts = self.counts.get_or_init(|| (0..BUCKETS).map(|_| Stat::default()).collect());
        counts[bucket_of(ns)].add(n);
    }

    /// Forgets all; for the owner.
    pub fn reset(&self) {
        self.counts.get().into_iter().flatten().for_each(|count| count.set(0));
    }
}

/// What histograms showed, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: Vec<u64>,
    /// How many times there are.
    pub count: u64,
}

impl Distribution {
    /// Adds what a histogram shows.
    pub fn add(&mut self, histogram: &Histogram) {
        let Some(counts) = histogram.counts.get() else { return };
        self.counts.resize(BUCKETS, 0);
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            let count = count.get();
            *sum += count;
            self.count += count;
        }
    }

    /// The time that `percent` of all did not exceed, nanoseconds: the middle of its bucket.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = (percent / 100.0 * self.count as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum >= rank {
                let (first, len) = values_of(bucket);
                return first + len / 2;
            }
        }
        0
    }

    /// How many were up to each power of two of microseconds: those at which the number grows.
    pub fn by_microseconds(&self) -> Vec<(u64, u64)> {
        let mut shown: Vec<(u64, u64)> = Vec::new();
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            sum += count;
            let (first, len) = values_of(bucket);
            let us = (first + len - 1).div_ceil(1000).next_power_of_two();
            match shown.last_mut() {
                Some((last, until)) if *last == us => *until = sum,
                _ => shown.push((us, sum)),
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(times: &[(u64, u64)]) -> Distribution {
        let histogram = Histogram::default();
        times.iter().for_each(|(ns, n)| histogram.record(*ns, *n));
        let mut distribution = Distribution::default();
        distribution.add(&histogram);
        distribution
    }

    #[test]
    fn buckets_cover_all_values_without_gaps() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (first, len) = values_of(bucket);
            assert_eq!(first, next, "bucket {bucket}");
            assert!(len == 1 || len <= first / 64, "bucket {bucket} is wide");
            for ns in [first, first + len - 1] {
                assert_eq!(bucket_of(ns), bucket, "{ns} ns");
            }
            next = first + len;
        }
        assert_eq!(next, 1 << VALUE_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_a_percent() {
        let times: Vec<_> = (1..=100_000).map(|ns| (ns * 10, 1)).collect();
        let distribution = distribution(&times);

        for (percent, truth) in [(50.0, 500_000.0), (99.0, 990_000.0), (99.9, 999_000.0)] {
            let shown = distribution.percentile(percent) as f64;
            assert!((shown - truth).abs() <= truth / 100.0, "p{percent}: {shown}, not {truth}");
        }
        assert_eq!(distribution.count, 100_000);
    }

    #[test]
    fn powers_of_microseconds_count_up() {
        let distribution = distribution(&[(900, 2), (1_000, 1), (1_500, 1), (30_000, 5)]);

        assert_eq!(distribution.by_microseconds(), [(1, 2), (2, 4), (32, 9)]);
        assert_eq!(Distribution::default().by_microseconds(), []);
        assert_eq!(Distribution::default().percentile(50.0), 0);
    }
}
