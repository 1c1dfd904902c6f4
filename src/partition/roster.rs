//! Who has replicas of a partition, whom it follows, and, in the first partition, which nodes the
//! cluster has: what the group decides about itself.
//!
//! A decree stands alone in its entry, but for that of whom it follows ([`super::standby`]), and
//! holds from its applying on, on each replica. What came of all of them is kept with the tables,
//! in the manifest and at the head of a checkpoint:
//!
//! ```text
//! roster := voter_count:u16 learner_count:u16 outgoing_count:u16 learner_next_count:u16
//!           | each a node:u64 | following? | topology, all that is left
//! following := 1:u8 len:u32 | how far it follows another cluster's
//! ```
//!
//! Little-endian; empty: as at the group's birth. What a topology says is [`crate::cluster`]'s.

use std::sync::Arc;

use super::{Around, Content, Entry, Following, Logging, Partition};
use crate::codec::{Fields, put_u32};
use crate::consensus::{self, Change, Handle, Membership};
use crate::env::Env;
use crate::id::{Lsn, NodeId, Timestamp};
use crate::mvcc::{self, Effect};

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Who has replicas; nobody: whoever had at the group's birth.
    pub members: Membership,
    /// Which nodes there are, if this is the partition that knows; empty: those of the beginning.
    pub topology: Arc<[u8]>,
    /// Whom the partition follows, if it does, and how far it is.
    pub following: Option<Arc<Following>>,
}

/// Before whom the partition follows; a topology is text.
const FOLLOWING: u8 = 1;

impl Roster {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Membership { voters, learners, outgoing, learners_next } = &self.members;
        let lists = [voters, learners, outgoing, learners_next];
        let mut out = Vec::new();
        if *self == Self::default() {
            return out;
        }
        for ids in lists {
            let count = u16::try_from(ids.len()).expect("a group has few members");
            out.extend_from_slice(&count.to_le_bytes());
        }
        lists.iter().copied().flatten().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        if let Some(following) = &self.following {
            let following = following.encode();
            out.push(FOLLOWING);
            put_u32(&mut out, following.len());
            out.extend_from_slice(&following);
        }
        out.extend_from_slice(&self.topology);
        out
    }

    /// Back from bytes; `None`: they are no roster.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (head, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut list = |at: usize| {
            let count = usize::from(u16::from_le_bytes([head[2 * at], head[2 * at + 1]]));
            let (ids, left) = rest.split_at_checked(8 * count)?;
            rest = left;
            let ids = ids.as_chunks::<8>().0.iter();
            Some(ids.map(|id| NodeId(u64::from_le_bytes(*id))).collect::<Vec<_>>())
        };
        let (voters, learners, outgoing, learners_next) = (list(0)?, list(1)?, list(2)?, list(3)?);
        let members = Membership { voters, learners, outgoing, learners_next };
        let mut following = None;
        if rest.first() == Some(&FOLLOWING) {
            let mut fields = Fields(&rest[1..]);
            let len = fields.u32()? as usize;
            following = Some(Arc::new(Following::decode(fields.take(len)?)?));
            rest = fields.0;
        }
        Some(Self { members, topology: rest.into(), following })
    }
}

/// What an entry says that changes no key.
pub(super) enum Decree<'a> {
    /// A change of members, or its end.
    Members(&'a [u8]),
    /// A topology.
    Topology(&'a [u8]),
    /// Whom the partition follows, and how far it is.
    Follow(&'a [u8]),
}

impl<'a> Decree<'a> {
    /// That of an entry, if it is one.
    pub(super) fn of(payload: &'a [u8]) -> Option<Self> {
        match mvcc::decode(payload).next()? {
            Ok(Effect::Members { change, .. }) => Some(Self::Members(change)),
            Ok(Effect::Topology { topology, .. }) => Some(Self::Topology(topology)),
            Ok(Effect::Follow { state, .. }) => Some(Self::Follow(state)),
            _ => None,
        }
    }
}

/// The entry that ends a change of members; Raft makes it by itself.
pub(super) fn end_of_change() -> Content {
    let mut payload = Vec::new();
    Effect::Members { timestamp: Timestamp(0), change: &[] }.encode(&mut payload);
    Content { payload: payload.into(), blobs: Vec::new() }
}

impl Partition {
    /// Who has replicas, as far as entries are applied here.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Whether there is a replica here, as far as entries are applied.
    pub fn is_member(&self) -> bool {
        self.group.is_member()
    }

    /// How far a replica is known to have the log, if this one leads and has heard of it lately.
    pub fn matched(&self, node: NodeId) -> Option<u64> {
        self.group.matched(node)
    }

    /// Whether an entry of the log is the newest topology and not committed yet.
    pub fn is_decreeing(&self) -> bool {
        self.decreed > self.committed.index
    }

    /// The newest topology that the log has and that is not applied, and may never be.
    pub fn undecided_topology(&self) -> Option<&[u8]> {
        let replica = self.replica.as_ref()?;
        let behind = self.group.applied_index() + 1..=self.group.last_index();
        let contents = behind.rev().filter_map(|index| replica.content_at(index));
        let mut decrees = contents.filter_map(|content| Decree::of(&content.payload));
        decrees.find_map(|decree| match decree {
            Decree::Topology(topology) => Some(topology),
            _ => None,
        })
    }

    /// Proposes another topology; returns the entry to wait for. For a leader whose open entry was
    /// sealed; to be sealed before anything else is proposed.
    pub fn propose_topology(&mut self, topology: &[u8]) -> u64 {
        assert!(!self.is_open() && self.is_replicated(), "a decree stands alone");
        // It is no version: what comes from another cluster may have the next one.
        let timestamp = self.clock;
        self.open.timestamp = timestamp;
        Effect::Topology { timestamp, topology }.encode(&mut self.payload);
        self.decreed = self.open.index;
        self.open.index
    }

    /// Proposes other members, if this replica leads. Its open entry was sealed.
    ///
    /// # Errors
    /// As [`consensus::Group::propose_membership`]; nothing happened.
    pub fn propose_members<E: Env>(
        &mut self,
        change: &Change,
        around: &mut Around<'_, E>,
    ) -> Result<Option<Logging>, consensus::Error> {
        assert!(!self.is_open(), "a decree stands alone");
        let (mut bytes, mut payload) = (Vec::new(), Vec::new());
        change.encode(&mut bytes);
        Effect::Members { timestamp: Timestamp(0), change: &bytes }.encode(&mut payload);
        let replica = self.replica.as_mut().expect("it can have others");
        let (tag, len) = replica.stage_own(&payload);
        let proposed = self.group.propose_membership(change, Handle { lsn: Lsn(0), len, tag });
        if let Err(refused) = proposed {
            self.forget_staged();
            return Err(refused);
        }
        Ok(self.settle(around))
    }

    /// Takes in what a committed entry says that changes no key; before it is told to be applied.
    pub(super) fn take_decree(&mut self, index: u64) {
        let replica = self.replica.take().expect("it is replicated");
        match replica.content_at(index).and_then(|content| Decree::of(&content.payload)) {
            Some(Decree::Members(change)) => {
                let decided = self.group.decided(index, change);
                let taken =
                    decided.and_then(|()| Arc::make_mut(&mut self.roster).members.take(change));
                taken.unwrap_or_else(|error| {
                    panic!("partition {} entry {index} can not be applied: {error}", self.id)
                });
            }
            Some(Decree::Topology(topology)) => {
                Arc::make_mut(&mut self.roster).topology = topology.into();
            }
            Some(Decree::Follow(state)) => {
                let following = Following::decode(state).map(Arc::new);
                Arc::make_mut(&mut self.roster).following = following;
            }
            None => {}
        }
        self.replica = Some(replica);
    }
}

impl Entry {
    /// The first entry that this replica will propose.
    pub(super) fn after(index: u64) -> Self {
        Self { index: index + 1, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Stage;
    use crate::protocol::binary::Position;

    #[test]
    fn a_roster_comes_back_as_encoded_and_no_cut_of_it_does() {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let members = Membership {
            voters: ids(&[1, 2, 3]),
            learners: ids(&[4]),
            outgoing: ids(&[1, 2]),
            learners_next: ids(&[5]),
        };
        let topology = b"{}".as_slice().into();
        let roster = Roster { members: members.clone(), topology, following: None };
        let bytes = roster.encode();
        let stage = Stage::Copies;
        let position = Position { index: 7, term: 1, part: 0 };
        let from = Some(b"k".to_vec());
        let following = Following { stage, cluster: 9, position, until: 8, from };
        let follows = Roster { following: Some(Arc::new(following)), ..roster.clone() };
        assert_eq!(Roster::decode(&follows.encode()), Some(follows));

        assert_eq!(Roster::decode(&bytes), Some(roster));
        assert_eq!(Roster::decode(&[]), Some(Roster::default()));
        assert!(Roster::default().encode().is_empty());
        for cut in 1..bytes.len() - 2 {
            assert_eq!(Roster::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }
}
