//! The deadlines of a memtable's keys, earliest first, and of each database how many there are and
//! their sum, so that their mean costs nothing to tell.

use std::collections::BTreeSet;

use super::arena::Ref;

/// Databases.
const DB_COUNT: usize = 16;

/// When which node's key expires.
pub struct Deadlines {
    of: BTreeSet<(u64, Ref)>,
    /// By database.
    sums: [Sum; DB_COUNT],
}

/// Deadlines of some keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Keys.
    pub count: u64,
    /// Milliseconds since 1970, of all together.
    pub expiry_ms: u128,
}

impl Sum {
    /// Of both.
    pub fn and(self, other: Self) -> Self {
        let count = self.count + other.count;
        Self { count, expiry_ms: self.expiry_ms + other.expiry_ms }
    }

    /// The mean, milliseconds since 1970; 0 of none.
    pub fn mean_ms(self) -> u64 {
        let mean = self.expiry_ms / u128::from(self.count.max(1));
        mean.try_into().expect("a mean is no more than the largest")
    }
}

impl Deadlines {
    /// None.
    pub fn new() -> Self {
        Self { of: BTreeSet::new(), sums: [Sum::default(); DB_COUNT] }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Of a database.
    pub fn sum(&self, db: u8) -> Sum {
        self.sums[usize::from(db) % DB_COUNT]
    }

    /// A node's key of a database has this deadline from now on.
    pub fn insert(&mut self, expiry_ms: u64, node: Ref, db: u8) {
        if self.of.insert((expiry_ms, node)) {
            let sum = &mut self.sums[usize::from(db) % DB_COUNT];
            sum.count += 1;
            sum.expiry_ms += u128::from(expiry_ms);
        }
    }

    /// It has it no more.
    pub fn remove(&mut self, expiry_ms: u64, node: Ref, db: u8) {
        if self.of.remove(&(expiry_ms, node)) {
            let sum = &mut self.sums[usize::from(db) % DB_COUNT];
            sum.count -= 1;
            sum.expiry_ms -= u128::from(expiry_ms);
        }
    }

    /// The nodes whose keys' time is over, earliest first.
    pub fn due(&self, now_ms: u64) -> impl Iterator<Item = Ref> {
        let due = self.of.iter().take_while(move |&&(expiry_ms, _)| expiry_ms <= now_ms);
        due.map(|&(_, node)| node)
    }

    /// Forgets up to `limit` of a table that is being freed, whose sums nobody asks for any more;
    /// whether any are left.
    pub fn release(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            self.of.pop_first();
        }
        !self.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    #[test]
    fn the_mean_of_the_latest_deadlines_does_not_overflow() {
        let of = Sum { count: 2, expiry_ms: 2 * u128::from(u64::MAX) };
        assert_eq!(of.mean_ms(), u64::MAX);
        assert_eq!(of.and(Sum::default()).mean_ms(), u64::MAX);
        assert_eq!(Sum::default().mean_ms(), 0);
    }
}
