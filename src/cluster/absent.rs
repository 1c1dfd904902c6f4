//! Nodes that are not heard of: when their replicas are to be elsewhere, and when they are back.
//!
//! Decided by whoever leads the first partition, by its own monotonic clock, from the moment on at
//! which it took office: who looks for less than the patience asked for judges nobody. A pure
//! function of what it is told.
//!
//! A node is given up only if the others can do without it: as many as a partition has replicas are
//! reached, and more than half of those that serve, so that who is cut off from most gives up
//! nobody. Its replicas go as if it were drained: each only once those who replace it have caught
//! up ([`super::next`]), so that a last copy never goes. When it is reached again it serves again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, State, Topology};
use crate::id::NodeId;

/// Since when nodes are not heard of. Of a leader; empty of others.
#[derive(Debug, Default)]
pub struct Absent {
    heard: BTreeMap<u64, Duration>,
}

impl Absent {
    /// Somebody else leads.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// What is to be wished for at `now` by node `own`, which reaches the nodes `up`. `patience`:
    /// how long a node may be silent; zero: for ever.
    pub fn look(
        &mut self,
        topology: &Topology,
        (own, up): (NodeId, &[NodeId]),
        (now, patience): (Duration, Duration),
    ) -> Option<Action> {
        let is_up = |id: u64| id == own.0 || up.contains(&NodeId(id));
        for member in &topology.nodes {
            let heard = self.heard.entry(member.id).or_insert(now);
            *heard = if is_up(member.id) { now } else { *heard };
        }
        let mut nodes = topology.nodes.iter();
        if let Some(back) = nodes.find(|of| of.state == State::Lost && is_up(of.id)) {
            return Some(Action::Found { node: back.id });
        }
        let reached = topology.serving().filter(|of| is_up(of.id)).count();
        let can_do_without =
            reached >= topology.replicas() && 2 * reached > topology.serving().count();
        if patience.is_zero() || !can_do_without {
            return None;
        }
        let mut serving = topology.serving();
        let lost = serving.find(|of| now.saturating_sub(self.heard[&of.id]) > patience)?;
        Some(Action::Lost { node: lost.id })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Member;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    fn nodes(count: u64) -> Topology {
        let member = |id| {
            let peer = std::net::SocketAddr::from(([10, 0, 0, id as u8], 7401));
            Member::new(id, peer, "")
        };
        Topology::founded((1..=count).map(member).collect(), 3)
    }

    /// What node 1 wishes for at a second.
    fn look(absent: &mut Absent, topology: &Topology, up: &[u64], at_s: u64) -> Option<Action> {
        let up: Vec<_> = up.iter().map(|id| NodeId(*id)).collect();
        absent.look(topology, (NodeId(1), &up), (Duration::from_secs(at_s), PATIENCE))
    }

    #[test]
    fn who_is_silent_for_long_is_given_up_and_is_back_when_heard_of() {
        let (mut absent, five) = (Absent::default(), nodes(5));
        assert_eq!(look(&mut absent, &five, &[2, 3, 4], 1_000), None, "clocks begin with office");
        assert_eq!(look(&mut absent, &five, &[2, 3, 4], 1_600), None);
        let lost = Action::Lost { node: 5 };
        assert_eq!(look(&mut absent, &five, &[2, 3, 4], 1_601), Some(lost.clone()));

        let (four, _) = five.after(&lost, 1).expect("others are left");
        assert_eq!(look(&mut absent, &four, &[2, 3, 4], 1_700), None);
        let found = Action::Found { node: 5 };
        assert_eq!(look(&mut absent, &four, &[2, 3, 4, 5], 1_701), Some(found.clone()));
        let (back, _) = four.after(&found, 1).expect("it is known");
        assert_eq!(back.nodes, five.nodes);
        assert_eq!(look(&mut absent, &back, &[2, 3, 4], 1_702), None, "a word sets its clock");
        absent.forget();
        assert_eq!(look(&mut absent, &back, &[2, 3, 4], 9_000), None, "a new leader waits");
    }

    #[test]
    fn nobody_is_given_up_whom_the_others_can_not_do_without() {
        for (count, up) in [(3, &[2][..]), (4, &[2]), (7, &[2, 3]), (5, &[2])] {
            let (mut absent, topology) = (Absent::default(), nodes(count));
            look(&mut absent, &topology, up, 0);
            assert_eq!(look(&mut absent, &topology, up, 9_000), None, "{count} nodes");
        }
        let (mut absent, four) = (Absent::default(), nodes(4));
        look(&mut absent, &four, &[2, 3], 0);
        assert_eq!(look(&mut absent, &four, &[2, 3], 601), Some(Action::Lost { node: 4 }));
        let (drained, _) = four.after(&Action::Drain { node: 4 }, 1).expect("it can be");
        assert_eq!(look(&mut absent, &drained, &[2, 3], 602), None, "it has nothing");
    }
}
