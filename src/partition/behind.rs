//! What was done behind a place of a replicated log: for who keeps a copy of the partition
//! somewhere else, outside the group.
//!
//! A place is an entry, its term, and how many effects of the next entry were told already: an
//! entry may be long, and is told in parts. Whoever asks names the place that it was told last, so
//! nothing is kept of it here. An entry of that number and term is the same on all replicas, and
//! only what is committed is told, so that a place is good whoever leads. What can be told is what
//! [`LogCache`] has; a node that is alone keeps that only while somebody asks.
//!
//! [`LogCache`]: super::log_cache::LogCache

use std::sync::Arc;
use std::time::Duration;

use super::log_cache::Content;
use super::{Partition, Replica};
use crate::mvcc::{self, Effect, Logged};
use crate::protocol::binary::Position;

/// The log does not reach back to that place, or never had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld;

/// What an effect on keys did, with the large value that it names.
pub type Went<'a> = (Effect<'a>, Option<Arc<Vec<u8>>>);

impl Partition {
    /// The end of what is committed. `None`: it is not replicated, and keeps no log to be told of.
    pub fn end_position(&self) -> Option<Position> {
        let index = self.committed.index;
        let term = self.replica.as_ref()?.cache().term(index)?;
        Some(Position { index, term, part: 0 })
    }

    /// Somebody asks for its log: it is kept for a while.
    pub fn note_followed(&mut self, now: Duration) {
        if let Some(replica) = self.replica.as_mut() {
            replica.note_followed(now);
        }
    }

    /// Shows `each` what was done to keys behind a place, in order, until it says that this was
    /// enough; where it is then. Only what is committed.
    ///
    /// # Errors
    /// [`TooOld`]; nothing was shown.
    pub fn changes_behind(
        &self,
        from: Position,
        mut each: impl FnMut(Went<'_>) -> bool,
    ) -> Result<Position, TooOld> {
        let cache = self.replica.as_deref().map(Replica::cache).ok_or(TooOld)?;
        let end = self.committed.index;
        let is_known = from.index <= end && cache.term(from.index) == Some(from.term);
        if !is_known || from.index == end && from.part > 0 {
            return Err(TooOld);
        }
        let mut at = from;
        while at.index < end {
            let index = at.index + 1;
            let (content, term) = (cache.get(index).ok_or(TooOld)?, cache.term(index));
            match show(content, at.part, &mut each) {
                Some(part) => return Ok(Position { part, ..at }),
                None => at = Position { index, term: term.ok_or(TooOld)?, part: 0 },
            }
        }
        Ok(at)
    }
}

/// Shows the effects of an entry from `part` on. `Some`: that was enough, after so many of them.
fn show(content: &Content, part: u32, each: &mut impl FnMut(Went<'_>) -> bool) -> Option<u32> {
    let spilled = match mvcc::decode(&content.payload).next() {
        Some(Ok(Effect::Elsewhere { blob, .. })) => content.blob(blob),
        _ => None,
    };
    let effects = spilled.as_deref().map_or(&*content.payload, Vec::as_slice);
    for (effect, nth) in mvcc::decode(effects).flatten().zip(1..).skip(part as usize) {
        let large = match effect {
            Effect::Put { value: Logged::Blob(blob), .. } => content.blob(blob),
            Effect::Put { .. } | Effect::Delete { .. } | Effect::Clear { .. } => None,
            // They change no key.
            _ => continue,
        };
        if !each((effect, large)) {
            return Some(nth);
        }
    }
    None
}
