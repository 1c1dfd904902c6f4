//! A partition that follows one of another cluster: how far it is, in its own log.
//!
//! Each entry that was made of what the other told begins with how far this copy has come by it
//! ([`Effect::Follow`]), so that a crash leaves both or neither: whoever leads next goes on where
//! the log ends, and nothing is applied twice. Such an entry is not evaluated: the leader applies
//! it as its followers do, when it is committed. Its effects have the timestamps that the other
//! gave them, which is what a version is; so nobody else may write here, and the clock is the
//! other's.
//!
//! ```text
//! follow := stage:u8 zero[7] cluster:u128 index:u64 term:u64 part:u32 zero:u32 until:u64 | from
//! stage  := 0 it follows nobody any more, and nothing comes behind this; 1 it begins: all rows
//!           go; 2 rows are being copied; 3 it follows the log
//! ```
//!
//! Little-endian. While rows are copied, from `from` on (3: all are here, and `until` is the entry
//! that has to be reached), they come in the order of their keys and their versions rise and fall.
//! Then what is newer stays, and a flush takes all that is in memory and marks nothing as being in
//! tables: rows leave memory only when the copy is whole. So a partition has to fit into its
//! shard's memory while it is copied. From then on versions rise as everywhere.
//!
//! Not here: who asks the other ([`crate::server`]); which cluster is followed
//! ([`crate::cluster`]).

use std::sync::Arc;

use super::log_cache::Content;
use super::replica::Staged;
use super::{Around, Logging, Partition, Roster};
use crate::codec::Fields;
use crate::consensus::{self, Handle};
use crate::env::Env;
use crate::id::{Lsn, Timestamp};
use crate::mvcc::{self, Effect};
use crate::protocol::binary::Position;

/// How far a copy of a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// It begins: what was here before goes.
    Begins = 1,
    /// Rows are missing, or what was done while they were copied.
    Copies = 2,
    /// It is the other as of some moment.
    Follows = 3,
}

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// How far it is.
    pub stage: Stage,
    /// The cluster that is followed.
    pub cluster: u128,
    /// Behind which place of the other's log it is.
    pub position: Position,
    /// The copy is whole when it has come to this entry.
    pub until: u64,
    /// The next row that is to be copied; none: all were.
    pub from: Option<Vec<u8>>,
}

impl Following {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let has_all = u8::from(self.from.is_none());
        let mut out = vec![self.stage as u8, has_all, 0, 0, 0, 0, 0, 0];
        out.extend_from_slice(&self.cluster.to_le_bytes());
        self.position.encode(&mut out);
        out.extend_from_slice(&self.until.to_le_bytes());
        out.extend_from_slice(self.from.as_deref().unwrap_or_default());
        out
    }

    /// Back from bytes; `None`: they are none of these, or say that nobody is followed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (stage, has_all) = (fields.u8()?, fields.u8()? != 0);
        fields.zero(6)?;
        let stage = match stage {
            1 => Stage::Begins,
            2 => Stage::Copies,
            3 => Stage::Follows,
            _ => return None,
        };
        let (cluster, position) = (fields.u128()?, Position::read(&mut fields)?);
        let (until, from) = (fields.u64()?, (!has_all).then(|| fields.0.to_vec()));
        Some(Self { stage, cluster, position, until, from })
    }

    /// Whether it is not the other as of any moment yet.
    pub fn is_copying(&self) -> bool {
        self.stage != Stage::Follows
    }
}

/// Whether an entry throws all rows away, and the clock with them.
pub(super) fn begins(payload: &[u8]) -> bool {
    matches!(
        mvcc::decode(payload).next(),
        Some(Ok(Effect::Follow { state, .. })) if is_begin(state)
    )
}

/// Whether that is what a follow effect says.
pub fn is_begin(state: &[u8]) -> bool {
    state.first() == Some(&(Stage::Begins as u8))
}

impl Roster {
    /// Whether rows are being copied from another cluster, as of what is applied.
    pub(super) fn is_copying(&self) -> bool {
        self.following.as_deref().is_some_and(Following::is_copying)
    }
}

impl Partition {
    /// Whom it follows, and how far it is, as of what is applied.
    pub fn following(&self) -> Option<&Arc<Following>> {
        self.roster.following.as_ref()
    }

    /// Whether rows are being copied into it, and it is of no one moment.
    pub fn is_copying(&self) -> bool {
        self.roster.is_copying()
    }

    /// Proposes what another cluster told: effects that begin with a [`Effect::Follow`], and the
    /// large values that they name by numbers of their own. For a leader that has no open entry;
    /// returns the entry.
    ///
    /// # Errors
    /// It does not lead; nothing happened.
    pub fn propose_told<E: Env>(
        &mut self,
        content: Content,
        around: &mut Around<'_, E>,
    ) -> Result<(u64, Option<Logging>), consensus::Error> {
        assert!(!self.is_open(), "nobody else writes here");
        let replica = self.replica.as_mut().expect("a node of a cluster");
        let (tag, len) = replica.stage(Staged { content, is_logged: false });
        let proposed = self.group.propose(Handle { lsn: Lsn(0), len, tag });
        if let Err(refused) = proposed {
            self.forget_staged();
            return Err(refused);
        }
        let index = self.group.last_index();
        Ok((index, self.settle(around)))
    }

    /// An entry was applied that threw all rows away: what the tables have counts no more, and what
    /// comes may be older than it.
    pub(super) fn rewind(&mut self) {
        self.flushed.timestamp = Timestamp(0);
        self.rewound = self.generation;
        (self.tables_clock, self.catch_up) = (Timestamp(0), Timestamp(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_comes_back_as_encoded_and_the_bytes_are_frozen() {
        let position = Position { index: 7, term: 2, part: 1 };
        let all = Following {
            stage: Stage::Copies,
            cluster: 0x0F0E,
            position,
            until: 9,
            from: Some(b"k".to_vec()),
        };
        let whole = Following { stage: Stage::Follows, from: None, ..all.clone() };
        let bytes = all.encode();

        assert_eq!(Following::decode(&bytes), Some(all));
        assert_eq!(Following::decode(&whole.encode()), Some(whole));
        assert_eq!(Following::decode(&[0; 56]), None, "it follows nobody");
        for cut in 0..bytes.len() - 1 {
            assert_eq!(Following::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "02000000000000000e0f000000000000000000000000000007000000000000000200000000000000\
             010000000000000009000000000000006b"
        );
    }
}
