//! The shard as one whose data are kept somewhere else, too: what was done behind a place of a
//! partition's log, and its rows in order.
//!
//! Not here: what is asked and answered ([`crate::server`]).

use super::Shard;
use crate::env::Env;
use crate::lsm::memtable::{Kind, Version};
use crate::lsm::view::successor;
use crate::partition::{TooOld, Went};
use crate::protocol::binary::Position;

/// Rows that are looked at for a page, tombstones included: some 100 us.
const SEEN_MAX: usize = 2048;

impl<E: Env> Shard<E> {
    /// Shows `each` what was done to keys of the partition at `place` behind a position, until it
    /// says that this was enough; where it is then. No position: the end, and nothing is shown.
    ///
    /// # Errors
    /// [`TooOld`]: the log does not have that position.
    pub fn changes_behind(
        &mut self,
        place: u32,
        from: Position,
        each: impl FnMut(Went<'_>) -> bool,
    ) -> Result<Position, TooOld> {
        let now = self.env.now();
        let partition = &mut self.partitions[place as usize];
        partition.note_followed(now);
        match from == Position::default() {
            true => partition.end_position().ok_or(TooOld),
            false => partition.changes_behind(from, each),
        }
    }

    /// Shows `each` the rows of the partition at `place` that are in memory, from an encoded key
    /// on, in order, until it says that this was enough; where the next ones begin, if there may
    /// be some. Whoever answers with it waits for the newest entry that is not committed.
    pub fn rows_from(
        &mut self,
        place: u32,
        from: &[u8],
        mut each: impl FnMut(&[u8], Version<'_>) -> bool,
    ) -> Option<Vec<u8>> {
        for (seen, (key, version)) in self.partitions[place as usize].scan(from).enumerate() {
            let goes_on = version.kind != Kind::Put || each(key, version);
            if !goes_on || seen + 1 == SEEN_MAX {
                return Some(successor(key));
            }
        }
        None
    }
}
