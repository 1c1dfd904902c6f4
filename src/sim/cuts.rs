//! The roads between nodes, and what a test may do to them: cut, slow down, heal.
//!
//! A stream never loses bytes from its middle. So a cut holds up what it meets, also on the way
//! back once the window is full of what the cut keeps from being acknowledged. Then the connection
//! breaks, at each end by itself: at once, after a while, or not before the road is healed. Healing
//! breaks some and lets the others go on where they were. Nobody connects across a cut in either
//! direction: there is no answer, or, as of a firewall that rejects, a refusal, which looks as if
//! the process had ended. Tests as clients reach every node whatever is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::Sim;
use super::link::{Leaving, Link, Place, Side};
use super::world::{Action, What, World};
use crate::id::NodeId;

/// When an end gives up a connection that a cut holds up: at once, or after a while.
const BREAKS_AT_ONCE_NS: RangeInclusive<u64> = 0..=1_000_000;
const BREAKS_LATER_NS: RangeInclusive<u64> = 1_000_000..=20_000_000_000;
/// When what was held up is sent again after the road was healed.
const RESUMES_NS: RangeInclusive<u64> = 1_000..=1_000_000_000;

/// From a node, to a node; `None`: a test's end, or nowhere.
type Road = (Option<NodeId>, Option<NodeId>);

/// What is not as usual.
#[derive(Default)]
pub(super) struct Roads {
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Those of the cut ones that refuse connections.
    rejecting: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeMap<(NodeId, NodeId), RangeInclusive<u64>>,
}

impl Roads {
    fn is_cut(&self, road: Road) -> bool {
        road.0.zip(road.1).is_some_and(|road| self.cut.contains(&road))
    }

    fn is_rejecting(&self, road: Road) -> bool {
        road.0.zip(road.1).is_some_and(|road| self.rejecting.contains(&road))
    }

    fn cuts(&self, link: &Link) -> bool {
        Side::BOTH.iter().any(|to| self.is_cut(link.road(*to)))
    }
}

/// What a test does to the roads.
impl Sim {
    /// What `from` sends to `to` does not arrive from now on. What `to` sends does, until its
    /// window is full.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.core.world.borrow_mut().cut_road(from, to);
    }

    /// Cuts all roads from and to `node`, but those to nodes that were never named.
    pub fn isolate(&self, node: NodeId) {
        let mut world = self.core.world.borrow_mut();
        for other in world.machines.keys().copied().filter(|id| *id != node).collect::<Vec<_>>() {
            world.cut_road(node, other);
            world.cut_road(other, node);
        }
    }

    /// From now on a chunk from `from` to `to` takes a time from `latency_ns`, nanoseconds.
    pub fn slow_down(&self, from: NodeId, to: NodeId, latency_ns: RangeInclusive<u64>) {
        self.core.world.borrow_mut().roads.slow.insert((from, to), latency_ns);
    }

    /// Makes all roads as they were.
    pub fn heal(&self) {
        self.core.world.borrow_mut().heal_roads();
    }
}

impl World {
    pub fn is_cut(&self, road: Road) -> bool {
        self.roads.is_cut(road)
    }

    pub fn is_rejecting(&self, road: Road) -> bool {
        self.roads.is_rejecting(road)
    }

    /// Draws how long a chunk takes.
    pub fn latency(&mut self, road: Road) -> u64 {
        let slow = road.0.zip(road.1).and_then(|road| self.roads.slow.get(&road));
        let range = slow.unwrap_or(&self.net.latency_ns);
        self.rng.between(*range.start(), *range.end())
    }

    fn cut_road(&mut self, from: NodeId, to: NodeId) {
        self.note(What::Cut, from.0, to.0);
        if from == to || !self.roads.cut.insert((from, to)) {
            return;
        }
        if self.rng.one_in(2) {
            self.roads.rejecting.insert((from, to));
        }
        let is_hit =
            |link: &Link| Side::BOTH.iter().any(|s| link.road(*s) == (Some(from), Some(to)));
        for number in self.numbers_of(is_hit) {
            for side in Side::BOTH {
                let range = match self.rng.below(4) {
                    0 => BREAKS_AT_ONCE_NS,
                    1 | 2 => BREAKS_LATER_NS,
                    _ => continue,
                };
                let at = self.now + self.rng.between(*range.start(), *range.end());
                self.schedule(at, Action::Break(number, side));
            }
        }
    }

    fn numbers_of(&self, is_meant: impl Fn(&Link) -> bool) -> Vec<u64> {
        self.links.iter().filter(|(_, link)| is_meant(link)).map(|(number, _)| *number).collect()
    }

    /// An end of a connection that a cut holds up has waited long enough.
    pub fn on_break(&mut self, number: u64, side: Side) {
        if self.links.get(&number).is_some_and(|link| self.roads.cuts(link)) {
            self.break_end(number, side);
        }
    }

    /// This end takes the connection for broken. The other learns it when this one closes.
    pub fn break_end(&mut self, number: u64, side: Side) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let end = link.end(side);
        if !matches!(end.place, Place::Open(..)) || end.peer_left == Leaving::Closed {
            return;
        }
        Side::BOTH.iter().for_each(|from| link.lose_sent(*from));
        self.note(What::Broke, number, side as u64);
        self.end(number, side, Leaving::Closed);
    }

    fn heal_roads(&mut self) {
        self.note(What::Healed, 0, 0);
        let roads = std::mem::take(&mut self.roads);
        for number in self.numbers_of(|link| roads.cuts(link)) {
            let breaks = self.rng.one_in(4);
            for side in Side::BOTH {
                self.go_on(number, side);
                if breaks {
                    self.break_end(number, side);
                }
            }
        }
    }

    /// What was held up on the way to `to` arrives after all.
    fn go_on(&mut self, number: u64, to: Side) {
        let at = self.now + self.rng.between(*RESUMES_NS.start(), *RESUMES_NS.end());
        let Some(link) = self.links.get_mut(&number) else { return };
        let lane = &mut link.end_mut(to).lane;
        let stalled = std::mem::take(&mut lane.stalled);
        let unacked = std::mem::take(&mut lane.unacked);
        for _ in 0..stalled {
            self.schedule(at, Action::Arrive(number, to));
        }
        self.make_room(number, to, unacked);
    }
}
