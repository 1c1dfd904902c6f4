//! Election timeouts drawn from a seed.

use raft::StateRole;

/// How many ticks this replica waits for a leader, redrawn whenever its term or role changed or it
/// has campaigned: the moments at which raft-rs redraws its own, unseeded one.
pub(super) struct ElectionTimeout {
    state: u64,
    ticks_min: u64,
    ticks: usize,
    drawn_for: (u64, StateRole),
}

impl ElectionTimeout {
    /// Values are in `election_ticks..2 * election_ticks`.
    pub(super) fn new(seed: u64, id: u64, election_ticks: usize, term: u64) -> Self {
        let mut timeout = Self {
            state: seed ^ id.wrapping_mul(0xd6e8_feb8_6659_fd93),
            ticks_min: election_ticks as u64,
            ticks: election_ticks,
            drawn_for: (term, StateRole::Follower),
        };
        timeout.redraw();
        timeout
    }

    /// The timeout that holds for this term and role.
    pub(super) fn ticks(&mut self, term: u64, role: StateRole) -> usize {
        if self.drawn_for != (term, role) {
            self.drawn_for = (term, role);
            self.redraw();
        }
        self.ticks
    }

    /// Draws the next value: splitmix64 (Steele, Lea, Flood 2014).
    pub(super) fn redraw(&mut self) {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        self.ticks = (self.ticks_min + z % self.ticks_min) as usize;
    }
}
