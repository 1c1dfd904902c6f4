//! A shard whose disk is too slow to lead: it says so to the others and hands its leaderships over.
//!
//! A follower may be slow, since the others are a majority without it; a leader may not, since
//! whoever asks waits for its own log write. The disk is *slow* when the oldest write that is not
//! durable is late at several ticks in a row; one look is not enough, as after a stop of the
//! process all that is on its way looks old. It is taken for slow for a while after that, longer
//! each time it comes back, so that leaderships do not go to and fro; meanwhile the others are told
//! at each tick, and give it none.
//!
//! Leaderships go to replicas that are not slow themselves and have all but what is on its way, if
//! with them there is a majority without this node: else nothing is gained. A transfer needs no
//! write of the old leader's, so a disk that hangs for ever does not hold it up. A core that stalls
//! sends no heartbeats: the others elect a leader without being asked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Shard;
use super::membership::lags;
use crate::env::Env;
use crate::id::NodeId;
use crate::partition::{Partition, Planted};

/// A log write that takes longer is late.
const LATE: Duration = Duration::from_secs(1);
/// At so many ticks in a row one has to be.
const LATE_TICKS: u32 = 5;
/// How long a disk is taken for slow after it was, at first and at most.
const REST_MIN: Duration = Duration::from_secs(30);
const REST_MAX: Duration = Duration::from_secs(600);
/// How long the word of another node holds.
const WORD_MAX: Duration = Duration::from_secs(1);

/// What is known of this disk; pure.
#[derive(Debug, Default)]
struct Pace {
    late_ticks: u32,
    /// It is taken for slow until then.
    until: Duration,
    /// For how long it was, the last time.
    rest: Duration,
}

impl Pace {
    /// A tick; `oldest`: since when the oldest log write waits for the disk. Whether it is slow.
    fn tick(&mut self, now: Duration, oldest: Option<Duration>) -> bool {
        let is_late = oldest.is_some_and(|since| now.saturating_sub(since) > LATE);
        self.late_ticks = if is_late { self.late_ticks + 1 } else { 0 };
        if self.late_ticks >= LATE_TICKS {
            if now >= self.until {
                let is_again = now < self.until + self.rest;
                self.rest = if is_again { (2 * self.rest).min(REST_MAX) } else { REST_MIN };
            }
            self.until = now + self.rest;
        }
        now < self.until
    }
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Slowness {
    own: Pace,
    is_slow: bool,
    /// Nodes that said that they are, and until when that holds.
    others: BTreeMap<NodeId, Duration>,
}

impl Slowness {
    /// Whether a node said so.
    pub fn has(&self, node: NodeId) -> bool {
        self.others.contains_key(&node)
    }
}

impl<E: Env> Shard<E> {
    /// Whether this shard's disk is too slow to lead.
    pub fn is_slow(&self) -> bool {
        self.slowness.is_slow
    }

    /// The shard of this number of another node says that its disk is slow.
    pub fn note_slow(&mut self, node: NodeId) {
        self.slowness.others.insert(node, self.env.now() + WORD_MAX);
    }

    /// Looks at the disk, and hands over if it is slow; each tick.
    pub(super) fn tend_slowness(&mut self) {
        let (now, oldest) = (self.env.now(), self.in_log.front().map(|write| write.at));
        self.slowness.others.retain(|_, until| now < *until);
        let was_slow = self.slowness.is_slow;
        self.slowness.is_slow = self.slowness.own.tick(now, oldest);
        if was_slow != self.slowness.is_slow {
            let (shard, is_slow) = (self.id, self.slowness.is_slow);
            tracing::warn!(%shard, is_slow, "whether the disk is too slow to lead has changed");
            self.stats.slow_disks.set(is_slow.into());
        }
        if self.slowness.is_slow && self.planted != Some(Planted::LeadSlowly) {
            self.shed_leaderships();
        }
    }

    fn shed_leaderships(&mut self) {
        for place in 0..self.partitions.len() as u32 {
            let Some(heir) = self.heir(self.partition(place)) else { continue };
            let partition = self.partition(place).id();
            tracing::warn!(%partition, node = %heir, "handing over: the disk is slow");
            self.seal(place);
            self.partitions[place as usize].hand_over(heir);
            self.settle_at(place);
        }
    }

    /// Who is to lead a partition in place of this shard, if it leads and somebody can.
    fn heir(&self, partition: &Partition) -> Option<NodeId> {
        if !partition.is_leader() || !partition.is_ready() {
            return None;
        }
        let own = self.members()?.own();
        let voters = &partition.roster().members.voters;
        let is_able =
            |node: &NodeId| *node != own && !self.slowness.has(*node) && !lags(partition, *node);
        let able: Vec<_> = voters.iter().copied().filter(is_able).collect();
        // Those of one node do not all go to the same.
        let turn = partition.id().0 as usize % able.len().max(1);
        (able.len() > voters.len() / 2).then(|| able[turn])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// Ticks for a while in which no write becomes durable; when it is taken for slow.
    fn hang(pace: &mut Pace, from: Duration) -> Option<Duration> {
        let mut ticks = (0..100).map(|tick| from + tick * TICK);
        ticks.find(|now| pace.tick(*now, Some(from)))
    }

    #[test]
    fn a_disk_that_hangs_is_slow_soon_and_for_a_while() {
        let mut pace = Pace::default();

        let slow = hang(&mut pace, at(10)).expect("it is slow");
        assert!(slow <= at(12), "{slow:?}");
        assert!(pace.tick(slow + TICK, None), "one write that ends does not heal it");
        assert!(pace.tick(slow + REST_MIN - TICK, None));
        assert!(!pace.tick(slow + REST_MIN, None));
    }

    #[test]
    fn what_looks_old_once_is_not_slow() {
        let mut pace = Pace::default();
        for tick in 0..1_000 {
            let now = at(10) + tick * TICK;
            // Each write takes a second and a half, and four looks see it late.
            let since = at(10) + (tick - tick % 15) * TICK;
            assert!(!pace.tick(now, Some(since)));
        }
        // The process was stopped: then all that was on its way is done.
        assert!(!pace.tick(at(500), Some(at(200))) && !pace.tick(at(501), None));
    }

    #[test]
    fn a_disk_that_is_slow_again_rests_for_longer() {
        let mut pace = Pace::default();
        let mut from = at(10);
        for rest in [30, 60, 120, 240, 480, 600, 600] {
            let slow = hang(&mut pace, from).expect("it is slow");
            assert_eq!(pace.until - slow, at(rest));
            from = pace.until;
        }
        from += 3 * REST_MAX;
        let slow = hang(&mut pace, from).expect("it is slow");
        assert_eq!(pace.until - slow, REST_MIN, "long ago is forgotten");
    }
}
