//! Campaigns before the timeout: by what is known of the other nodes from elsewhere than messages.
//!
//! A process that has ended is told by its connections at once: they end, and new ones are refused.
//! Who knows that of its leader need not wait for a timeout, which has to be long enough for a busy
//! leader. It still waits for the guard ([`crate::consensus::Config::guard_ticks`]), as do all
//! whose votes it needs: a firewall that rejects looks just like a process that has ended, and
//! behind it the leader may have a lease. Who knows of no leader at all, as after a start, is bound
//! by no guard.
//!
//! So that not all campaign at the same moment the voters stand in a circle, which begins at
//! another one in each group ([`crate::consensus::Config::turn`]); the first that can be reached
//! comes first. Nothing depends on all of them seeing the same circle: a campaign that comes at the
//! wrong moment ends with its pre-vote.

use raft::StateRole;

use super::Group;
use crate::consensus::Role;
use crate::id::NodeId;

/// An election that has begun is given so much time to end.
const ELECTION_TICKS: usize = 5;
/// A campaign that came to nothing is repeated after so much.
const AGAIN_TICKS: usize = 1;
/// For so long each who stands before in the circle is waited for, who may be about to start.
const PLACE_TICKS: usize = 3;

/// What is known of the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// They can be reached.
    pub up: Vec<NodeId>,
    /// Their processes have ended, by all signs.
    pub gone: Vec<NodeId>,
}

/// How soon a replica campaigns, if not by its timeout.
pub(super) struct Haste {
    /// Where the circle begins.
    pub turn: u64,
    /// The leader is gone: the timeout is this.
    hurried: Option<usize>,
    /// Ticks in which nothing is tried where no leader is known.
    wait: usize,
    /// Ticks since a leader was known.
    idle: usize,
    term: u64,
}

impl Haste {
    /// Of a replica that is at `term`.
    pub fn new(turn: u64, term: u64) -> Self {
        Self { turn, hurried: None, wait: 0, idle: 0, term }
    }

    /// A tick; `hears`: who leads was heard of since the last one. The timeout that holds in place
    /// of `ticks`.
    pub fn tick(&mut self, term: u64, leads: bool, hears: bool, ticks: usize) -> usize {
        self.wait = match (term == self.term, leads) {
            (false, _) => ELECTION_TICKS,
            (true, true) => AGAIN_TICKS,
            (true, false) => self.wait.saturating_sub(1),
        };
        self.term = term;
        self.idle = if leads { 0 } else { self.idle + 1 };
        if hears {
            self.hurried = None;
        }
        self.hurried.unwrap_or(ticks).min(ticks)
    }
}

impl Group {
    /// Seeks leadership without waiting for a timeout. A lone voter has it at once.
    ///
    /// Of no effect on a leader, a learner, while more than
    /// [`CAMPAIGN_LAG_MAX`](crate::consensus::CAMPAIGN_LAG_MAX) entries wait to be applied, while a
    /// snapshot is being installed, or, in a group of several, within
    /// [`Config::guard_ticks`](crate::consensus::Config::guard_ticks) from a restart.
    pub fn campaign(&mut self) {
        if self.may_campaign() {
            // Errs on local messages of a removed replica only; there is none.
            let _ = self.node.campaign();
        }
    }

    fn may_campaign(&self) -> bool {
        let is_quiet = self.quiet_ticks > 0 && !self.lone;
        !is_quiet && !self.lags() && self.node.raft.promotable()
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        self.quiet_ticks = self.quiet_ticks.saturating_sub(1);
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader {
            return self.tick_leader();
        }
        self.unchecked_ticks = 0;
        let leads = raft.leader_id != 0;
        let ticks = self.timeout.ticks(raft.term, raft.state);
        let ticks = self.haste.tick(raft.term, leads, leads && raft.election_elapsed == 0, ticks);
        raft.set_randomized_election_timeout(ticks);
        let fires = raft.election_elapsed + 1 >= ticks;
        if fires && self.lags() {
            return;
        }
        self.node.tick();
        if fires {
            self.timeout.redraw();
        }
    }

    fn tick_leader(&mut self) {
        let raft = &mut self.node.raft;
        self.unchecked_ticks += 1;
        let is_due = self.unchecked_ticks >= self.config.election_ticks;
        // raft-rs looks for its majority when a guard's time is over.
        raft.election_elapsed = if is_due { self.config.guard_ticks - 1 } else { 0 };
        if is_due {
            self.unchecked_ticks = 0;
        }
        raft.tick();
    }

    /// Campaigns now, or sooner than it would have, if what is known of the others speaks for it;
    /// before each [`Group::tick`].
    pub fn look_around(&mut self, outlook: &Outlook) {
        if self.role() == Role::Leader {
            return;
        }
        let Some((place, rank)) = self.rank(outlook) else { return };
        let haste = &self.haste;
        let is_time = haste.wait == 0 && haste.idle >= place * PLACE_TICKS;
        match self.leader() {
            Some(leader) if outlook.gone.contains(&leader) => {
                self.haste.hurried = Some(self.config.guard_ticks + rank);
            }
            None if rank == 0 && is_time && self.may_campaign() => {
                self.haste.wait = AGAIN_TICKS;
                self.campaign();
            }
            _ => {}
        }
    }

    /// How many stand before this replica in the circle of voters, and how many of them can be
    /// reached. None: it could not win, or is no voter.
    fn rank(&self, outlook: &Outlook) -> Option<(usize, usize)> {
        let voters = &self.members.now().voters;
        let own = voters.iter().position(|voter| *voter == self.config.id)?;
        let first = (self.haste.turn % voters.len() as u64) as usize;
        let is_up = |at: usize| outlook.up.contains(&voters[at]);
        let up = (0..voters.len()).filter(|at| *at != own && is_up(*at)).count();
        let circle = (first..first + voters.len()).map(|at| at % voters.len());
        let before = circle.take_while(|at| *at != own);
        let ranks = (before.clone().count(), before.filter(|at| is_up(*at)).count());
        (2 * (up + 1) > voters.len()).then_some(ranks)
    }
}
