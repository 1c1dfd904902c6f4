//! Many sorted iterators as one: keys ascend, versions of a key descend by timestamp.
//!
//! A loser tree: each inner node keeps the loser of its match, the winner is at the top, so the
//! next row costs one comparison per level, `log2(n)`, where a heap costs two.
//!
//! ```text
//! losers[0] = winner      losers[k] = loser of the match at node k; leaf i has parent (i + n) / 2
//! ```
//!
//! Not here: which of a key's versions are kept ([`super::compact`]).

use std::cmp::Ordering;

use super::block::Row;
use super::table::{Error, Iter, Table};
use crate::env::Env;

/// Rows of several tables in order. A version that two inputs have comes twice, that of the earlier
/// input first. Lives on one core.
pub struct Merge<E: Env> {
    inputs: Vec<Iter<E>>,
    /// See the module's header. Empty until the first row was asked for.
    losers: Vec<usize>,
}

impl<E: Env> Merge<E> {
    /// Of these.
    pub fn new(inputs: Vec<Iter<E>>) -> Self {
        Self { inputs, losers: Vec::new() }
    }

    /// The next row; none behind the last.
    ///
    /// # Errors
    /// As [`Merge::advance`].
    pub async fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        self.advance().await?;
        Ok(self.row())
    }

    /// Goes to the next row; false: there is none.
    ///
    /// # Errors
    /// As the inputs'. The merge can not go on then.
    #[inline]
    pub async fn advance(&mut self) -> Result<bool, Error> {
        match self.losers.first() {
            Some(&winner) => {
                // Mostly the next row is in memory.
                if !self.inputs[winner].advance_here()? {
                    self.inputs[winner].advance().await?;
                }
                self.replay(winner);
            }
            None => self.begin().await?,
        }
        Ok(self.row().is_some())
    }

    /// The row that it is at; none before the first and behind the last.
    #[inline]
    pub fn row(&self) -> Option<Row<'_>> {
        self.losers.first().and_then(|&winner| self.inputs[winner].row())
    }

    /// The table of the row that it is at, or of any.
    ///
    /// # Panics
    /// If there are no inputs.
    pub fn table(&self) -> &Table<E> {
        self.inputs[self.losers.first().copied().unwrap_or(0)].table()
    }

    async fn begin(&mut self) -> Result<(), Error> {
        for input in &mut self.inputs {
            input.advance().await?;
        }
        let count = self.inputs.len();
        self.losers = vec![0; count];
        if count > 0 {
            let winner = self.play(1);
            self.losers[0] = winner;
        }
        Ok(())
    }

    /// Plays all matches below node `at`; returns the winner.
    fn play(&mut self, at: usize) -> usize {
        let count = self.inputs.len();
        if at >= count {
            return at - count;
        }
        let (left, right) = (self.play(2 * at), self.play(2 * at + 1));
        let (winner, loser) =
            if self.is_before(left, right) { (left, right) } else { (right, left) };
        self.losers[at] = loser;
        winner
    }

    /// Input `changed`, which had won, plays its way up again.
    #[inline]
    fn replay(&mut self, changed: usize) {
        let mut winner = changed;
        let mut at = (changed + self.inputs.len()) / 2;
        while at > 0 {
            let loser = self.losers[at];
            if self.is_before(loser, winner) {
                self.losers[at] = std::mem::replace(&mut winner, loser);
            }
            at /= 2;
        }
        self.losers[0] = winner;
    }

    /// Whether the row of input `a` comes before that of `b`.
    #[inline]
    fn is_before(&self, a: usize, b: usize) -> bool {
        match (self.inputs[a].row(), self.inputs[b].row()) {
            (Some(own), Some(other)) => match own.key.cmp(other.key) {
                Ordering::Equal => (other.timestamp, a) < (own.timestamp, b),
                order => order == Ordering::Less,
            },
            (own, other) => own.is_some() || (other.is_none() && a < b),
        }
    }
}
