//! Who belongs to a group, and how that changes.
//!
//! A change names all members that are to be, and is an entry of the log. Its payload, which the
//! driver logs as any other:
//!
//! ```text
//! change := voter_count:u16 learner_count:u16 zero:u32 | each a node:u64, little-endian, rising
//! ```
//!
//! An empty payload ends a change: the leader appends such an entry by itself as soon as the first
//! is applied. In between a majority of the voters before *and* of those after has to agree, to
//! anything (joint consensus; Ongaro's thesis, 4.3). Only a single learner comes or goes at once.
//! What an entry says holds from its applying on, on each replica.

use std::collections::VecDeque;

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use super::{Change, Error, Membership};
use crate::id::NodeId;

const HEAD_LEN: usize = 8;

impl Membership {
    /// Members for good, sorted.
    pub fn new(mut voters: Vec<NodeId>, mut learners: Vec<NodeId>) -> Self {
        voters.sort_unstable();
        learners.sort_unstable();
        Self { voters, learners, ..Self::default() }
    }

    /// Whether it is on its way to another one.
    pub fn is_changing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` belongs to the group in any way.
    pub fn contains(&self, id: NodeId) -> bool {
        let Self { voters, learners, outgoing, learners_next } = self;
        [voters, learners, outgoing, learners_next].into_iter().flatten().any(|known| *known == id)
    }

    /// Takes in what a committed entry of members says ([`Change::encode`], or nothing).
    ///
    /// # Errors
    /// [`Error::Membership`]: it is none.
    pub fn take(&mut self, payload: &[u8]) -> Result<(), Error> {
        *self = self.after(Change::decode(payload)?.as_ref());
        Ok(())
    }

    /// Whether `id` has a vote.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Nobody but `id` has a vote.
    pub(super) fn is_sole(&self, id: NodeId) -> bool {
        self.voters.iter().chain(&self.outgoing).all(|voter| *voter == id)
    }

    /// Nobody but `id` needs the log.
    pub fn is_lone(&self, id: NodeId) -> bool {
        self.voters == [id] && self.learners.is_empty() && !self.is_changing()
    }

    pub(super) fn sort(&mut self) {
        let Self { voters, learners, outgoing, learners_next } = self;
        [voters, learners, outgoing, learners_next].into_iter().for_each(|ids| ids.sort_unstable());
    }

    /// What it is after an entry with this change; `None`: with the end of one.
    pub(super) fn after(&self, change: Option<&Change>) -> Self {
        let Some(change) = change else {
            let learners = [self.learners.as_slice(), &self.learners_next].concat();
            return Self::new(self.voters.clone(), learners);
        };
        let mut after = Self::new(change.voters.clone(), change.learners.clone());
        if change.is_joint(self) {
            after.outgoing.clone_from(&self.voters);
            (after.learners_next, after.learners) =
                after.learners.iter().partition(|id| self.voters.contains(id));
        }
        after
    }
}

impl Change {
    /// Appends the payload of its entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for ids in [&self.voters, &self.learners] {
            let count = u16::try_from(ids.len()).expect("a group has few members");
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        for ids in [&self.voters, &self.learners] {
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.iter().for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
        }
    }

    /// What a payload says; `None`: a change ends.
    ///
    /// # Errors
    /// [`Error::Membership`]: it is none.
    pub(super) fn decode(payload: &[u8]) -> Result<Option<Self>, Error> {
        if payload.is_empty() {
            return Ok(None);
        }
        let malformed = || Error::Membership { what: "the entry is malformed" };
        let (head, ids) = payload.split_first_chunk::<HEAD_LEN>().ok_or_else(malformed)?;
        let count = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let (ids, rest) = ids.as_chunks::<8>();
        let is_right = rest.is_empty() && ids.len() == count(0) + count(2) && head[4..] == [0; 4];
        if !is_right {
            return Err(malformed());
        }
        let ids: Vec<_> = ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect();
        let (voters, learners) = ids.split_at(count(0));
        let change = Self { voters: voters.to_vec(), learners: learners.to_vec() };
        change.check().map_err(|what| Error::Membership { what })?;
        Ok(Some(change))
    }

    /// Refuses what is no membership.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let mut ids: Vec<_> = self.voters.iter().chain(&self.learners).collect();
        ids.sort_unstable();
        if self.voters.is_empty() {
            Err("a group without voters")
        } else if ids.len() > u16::MAX.into() {
            Err("too many members")
        } else if ids[0].0 == 0 {
            Err("a node without a number")
        } else if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            Err("a node that is named twice")
        } else {
            Ok(())
        }
    }

    /// Whether it takes two steps from `now`.
    fn is_joint(&self, now: &Membership) -> bool {
        let singles = self.singles(now);
        let is_learners = |id: u64| !now.is_voter(NodeId(id)) && !self.voters.contains(&NodeId(id));
        singles.len() != 1 || !is_learners(singles[0].node_id)
    }

    /// raft-rs's form of it.
    pub(super) fn to_raft(&self, now: &Membership) -> ConfChangeV2 {
        let transition = match self.is_joint(now) {
            true => ConfChangeTransition::Implicit,
            false => ConfChangeTransition::Auto,
        };
        ConfChangeV2 { transition, changes: self.singles(now).into(), ..Default::default() }
    }

    /// What has to be done, node by node.
    pub(super) fn singles(&self, now: &Membership) -> Vec<ConfChangeSingle> {
        let single = |id: &NodeId, change_type| ConfChangeSingle {
            node_id: id.0,
            change_type,
            ..Default::default()
        };
        let new = |ids: &[NodeId], known: &[NodeId], change_type| -> Vec<_> {
            let new = ids.iter().filter(|id| !known.contains(id));
            new.map(|id| single(id, change_type)).collect()
        };
        let mut singles = new(&self.voters, &now.voters, ConfChangeType::AddNode);
        singles.extend(new(&self.learners, &now.learners, ConfChangeType::AddLearnerNode));
        let stays = |id: &NodeId| self.voters.contains(id) || self.learners.contains(id);
        let gone = now.voters.iter().chain(&now.learners).filter(|id| !stays(id));
        singles.extend(gone.map(|id| single(id, ConfChangeType::RemoveNode)));
        singles
    }
}

/// The memberships of a group since its log's begin.
pub(super) struct Members {
    /// Each with the index from which on it holds, rising. The first holds from the log's base on.
    history: VecDeque<(u64, Membership)>,
    /// What the committed entries say that are not applied.
    decided: VecDeque<(u64, Option<Change>)>,
}

impl Members {
    pub(super) fn new(index: u64, mut membership: Membership) -> Self {
        membership.sort();
        Self { history: [(index, membership)].into(), decided: VecDeque::new() }
    }

    /// The newest.
    pub(super) fn now(&self) -> &Membership {
        &self.history.back().expect("there is always one").1
    }

    /// That of the state at `index`, if the log reaches back so far.
    pub(super) fn at(&self, index: u64) -> Option<&Membership> {
        let mut known = self.history.iter().rev();
        known.find(|(from, _)| *from <= index).map(|(_, membership)| membership)
    }

    /// The entry at `index` takes effect.
    pub(super) fn enter(&mut self, index: u64, change: Option<&Change>) {
        let after = self.now().after(change);
        self.history.push_back((index, after));
    }

    /// The entry at `index` is committed. Of no effect if that is known, or if a snapshot has taken
    /// its place.
    pub(super) fn decide(&mut self, index: u64, change: Option<Change>) {
        let (entered, _) = self.history.back().expect("there is always one");
        let known = self.decided.back().map_or(*entered, |(decided, _)| *decided);
        if index > known {
            self.decided.push_back((index, change));
        }
    }

    /// What the entry at `index`, the next to be applied, says.
    pub(super) fn take_decided(&mut self, index: u64) -> Option<Change> {
        match self.decided.pop_front() {
            Some((decided, change)) if decided == index => change,
            _ => panic!("entry {index} is applied before its payload was told"),
        }
    }

    /// The log begins behind `base`.
    pub(super) fn compact(&mut self, base: u64) {
        while self.history.get(1).is_some_and(|(from, _)| *from <= base) {
            self.history.pop_front();
        }
    }
}
