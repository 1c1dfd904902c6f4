//! What the leader of a group does next, so that those have replicas who are to: a pure function of
//! what is and what is to be. Whoever leads asks again and again; so a change that was interrupted,
//! wherever, goes on.
//!
//! ```text
//! who lacks a replica     becomes a learner, one at a time, and is sent what there is
//! all of them caught up   one change: they vote, and those who are to go do not any more
//! the leader is to go     it hands over first, and its successor goes on
//! ```

use crate::consensus::{Change, Membership};
use crate::id::NodeId;

/// What a leader is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as it is to be, or has to be waited for.
    Nothing,
    /// These are to be the members.
    Change(Change),
    /// This node is to lead.
    HandOver(NodeId),
}

/// Who is to have replicas of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// With a vote; the first of them is to lead.
    pub voters: Vec<NodeId>,
    /// Without.
    pub learners: Vec<NodeId>,
}

impl Wanted {
    fn contains(&self, node: &NodeId) -> bool {
        self.voters.contains(node) || self.learners.contains(node)
    }
}

/// What the leader `own` of a group with these members does next. `is_near`: a node has the log,
/// but for what is on its way.
pub fn next(
    own: NodeId,
    now: &Membership,
    wanted: &Wanted,
    is_near: impl Fn(NodeId) -> bool,
) -> Step {
    if now.is_changing() || wanted.voters.is_empty() {
        return Step::Nothing;
    }
    let newcomer = wanted.voters.iter().chain(&wanted.learners).find(|node| !now.contains(**node));
    if let Some(newcomer) = newcomer {
        // Who is there stays until all of the new ones are.
        let learners = now.learners.iter().copied().chain([*newcomer]).collect();
        return Step::Change(Change { voters: now.voters.clone(), learners });
    }
    let new_voters = wanted.voters.iter().filter(|node| !now.voters.contains(node));
    if !new_voters.into_iter().all(|node| is_near(*node)) {
        return Step::Nothing;
    }
    if !wanted.voters.contains(&own) && now.voters.contains(&own) {
        return leave(own, now, wanted, is_near);
    }
    let (mut voters, mut learners) = (wanted.voters.clone(), wanted.learners.clone());
    voters.sort_unstable();
    learners.sort_unstable();
    if (&now.voters, &now.learners) != (&voters, &learners) {
        return Step::Change(Change { voters, learners });
    }
    Step::Nothing
}

/// The leader is to have no vote any more.
fn leave(own: NodeId, now: &Membership, wanted: &Wanted, is_near: impl Fn(NodeId) -> bool) -> Step {
    let heir = wanted.voters.iter().find(|node| now.voters.contains(node) && is_near(**node));
    if let Some(heir) = heir {
        return Step::HandOver(*heir);
    }
    if wanted.voters.iter().all(|node| now.voters.contains(node)) {
        // None of them is near.
        return Step::Nothing;
    }
    let stays = now.voters.iter().filter(|node| **node == own || wanted.contains(node));
    let mut voters: Vec<_> = stays.chain(&wanted.voters).copied().collect();
    voters.sort_unstable();
    voters.dedup();
    Step::Change(Change { voters, learners: wanted.learners.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn wanted(voters: &[u64]) -> Wanted {
        Wanted { voters: ids(voters), learners: Vec::new() }
    }

    /// Goes on until nothing is left to do; who leads in the end, and the members.
    fn settle(mut own: u64, voters: &[u64], wanted: &Wanted) -> (u64, Membership) {
        let mut now = Membership::new(ids(voters), Vec::new());
        for _ in 0..20 {
            match next(NodeId(own), &now, wanted, |_| true) {
                Step::Nothing => return (own, now),
                Step::HandOver(to) => {
                    assert!(now.voters.contains(&to), "{to} has no vote");
                    own = to.0;
                }
                Step::Change(change) => {
                    assert!(change.voters.contains(&NodeId(own)), "a leader stays");
                    now = Membership::new(change.voters, change.learners);
                }
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn every_set_of_nodes_leads_to_every_other() {
        let sets: [&[u64]; 7] = [&[1], &[2], &[1, 2], &[1, 2, 3], &[3, 4, 5], &[2, 6], &[1, 7]];
        for from in sets {
            for to in sets {
                for own in from {
                    let (leader, members) = settle(*own, from, &wanted(to));
                    assert_eq!(members, Membership::new(ids(to), Vec::new()), "{from:?} {to:?}");
                    assert!(to.contains(&leader), "{from:?} {to:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_votes_before_it_has_caught_up() {
        let mut now = Membership::new(ids(&[1]), Vec::new());
        let wanted = wanted(&[1, 2]);
        let step = next(NodeId(1), &now, &wanted, |_| false);
        assert_eq!(step, Step::Change(Change { voters: ids(&[1]), learners: ids(&[2]) }));

        now = Membership::new(ids(&[1]), ids(&[2]));
        assert_eq!(next(NodeId(1), &now, &wanted, |_| false), Step::Nothing);
        let step = next(NodeId(1), &now, &wanted, |_| true);
        assert_eq!(step, Step::Change(Change { voters: ids(&[1, 2]), learners: ids(&[]) }));
    }

    #[test]
    fn a_dead_node_goes_without_being_asked() {
        let now = Membership::new(ids(&[1, 2, 3]), Vec::new());
        let step = next(NodeId(1), &now, &wanted(&[1, 2]), |node| node != NodeId(3));
        assert_eq!(step, Step::Change(Change { voters: ids(&[1, 2]), learners: ids(&[]) }));
    }
}
