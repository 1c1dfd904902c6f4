//! The shard as one of several that have the same partitions: what comes from the others and goes
//! to them, and who leads.
//!
//! Standings are looked at once per turn ([`Shard::begin_turn`]), with [`LEASE_SPARE`] to spare; a
//! turn that took longer than that, since the process was stopped in it or the machine paused, has
//! said things that may not be true any more ([`Shard::is_overdue`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::closed::Moments;
use super::membership::lags;
use super::{Hold, Shard, Staged};
use crate::cluster::{Absent, Members, NOWHERE};
use crate::consensus::{self, Message, MessageKind, Outlook};
use crate::env::Env;
use crate::id::{NodeId, PartitionId, ShardId, Slot};
use crate::partition::{Content, LEASE_SPARE, Partition, Standing};

/// Log that is kept for snapshots takes no more than this part of the memory.
const PINNED_SHARE: usize = 10;

/// A partition's part of the memory for the newest entries of the log.
pub(super) fn log_cache_len(memory_max: usize, partitions: usize) -> usize {
    (memory_max / 16 / partitions).max(64 << 10)
}

/// What a lone node's shard does without.
#[derive(Default)]
pub(super) struct Replicas {
    /// The nodes that have replicas of the same partitions, if there are others.
    pub members: Option<Arc<Members>>,
    /// Who leads each partition, as of this turn's beginning; of a lone node nothing.
    pub(super) standings: Vec<Standing>,
    pub(super) turn_began: Duration,
    /// Partitions whose leaders say that there is no replica here.
    pub elsewhere: Vec<bool>,
    /// Nodes that are not heard of, if the first partition is led here.
    pub absent: Absent,
    /// The cluster that this one follows, if it does.
    pub primary: Option<Arc<str>>,
    /// Since when each partition is led, or not.
    pub leads_since: Vec<Duration>,
    /// Partitions that got messages in this turn.
    stirred: Vec<u32>,
    /// Partitions whose leadership was lost in this turn, and how far they were committed.
    lost: Vec<(u32, u64)>,
    /// Something was logged in this turn that others wait for.
    pub has_followed: bool,
    /// How old what a command is answered may be, if it may be old.
    pub stale_max: Option<Duration>,
    /// Up to when all is good that was read from replicas that follow, in this turn.
    pub good_until: Cell<Option<Duration>>,
    pub moments: Moments,
    /// Snapshots that are here and that Raft was not told of yet, by place.
    pub(super) staged: BTreeMap<u32, Staged>,
}

impl Replicas {
    /// Of a shard of so many partitions; `round` is random.
    pub fn new(members: Option<Arc<Members>>, partitions: usize, round: u64) -> Self {
        let count = members.iter().len() * partitions;
        let (standings, leads_since) = (vec![Standing::Waits; count], vec![Duration::ZERO; count]);
        let (elsewhere, moments) = (vec![false; count], Moments::new(count, round));
        Self { standings, leads_since, members, elsewhere, moments, ..Self::default() }
    }
}

impl<E: Env> Shard<E> {
    /// The cluster that it belongs to.
    pub fn members(&self) -> Option<&Arc<Members>> {
        self.replicas.members.as_ref()
    }

    /// Which shard answers for a partition, perhaps one of another node; [`NOWHERE`]: none does
    /// now.
    pub fn owner(&self, partition: PartitionId) -> ShardId {
        let home = self.map.shard_of(partition);
        let Some(members) = &self.replicas.members else { return home };
        let led_elsewhere = |members: &Members| {
            members.leader(partition).map_or(NOWHERE, |node| members.number(node, home))
        };
        if let Some(place) = self.place_of(partition) {
            if self.closed_for_reads(place).is_some() {
                return self.id;
            }
            return match self.replicas.standings[place as usize] {
                Standing::Leads => self.id,
                Standing::Follows(node) => members.number(node, home),
                Standing::Waits => NOWHERE,
                Standing::Elsewhere => led_elsewhere(members),
            };
        }
        if self.is_closed_nearby(partition) {
            return home;
        }
        led_elsewhere(members)
    }

    /// Where this shard has a partition.
    pub fn place_of(&self, partition: PartitionId) -> Option<u32> {
        let place = partition.0.checked_sub(self.partitions[0].id().0)?;
        ((place as usize) < self.partitions.len()).then_some(place)
    }

    /// Where this shard has the partition of a slot, whoever leads it.
    pub fn replica_of(&self, slot: Slot) -> Option<u32> {
        self.place_of(self.map.partition_of(slot))
    }

    /// Whether it takes writes for the partition of that place.
    pub fn leads(&self, place: u32) -> bool {
        self.replicas.members.is_none()
            || self.replicas.standings[place as usize] == Standing::Leads
    }

    /// Looks who leads; at the beginning of a turn.
    pub(super) fn look_at_standings(&mut self) {
        let Some(members) = &self.replicas.members else { return };
        self.replicas.turn_began = self.env.now();
        let at = self.replicas.turn_began + LEASE_SPARE;
        let is_own = |leader| leader == Some(members.own());
        let mut changed = false;
        let places = self.replicas.standings.iter_mut().zip(&mut self.replicas.elsewhere);
        for ((standing, elsewhere), partition) in places.zip(&self.partitions) {
            let now = match (partition.standing(at), *elsewhere) {
                _ if self.failed.is_some() => Standing::Waits,
                // Who belongs to the group no more may not have been told so by its log; a learner
                // would follow for ever.
                (Standing::Waits | Standing::Follows(_), true) => Standing::Elsewhere,
                (now, _) => now,
            };
            *elsewhere &= now == Standing::Elsewhere;
            if *standing != now || !self.replicas.lost.is_empty() {
                changed = true;
                *standing = now;
                let leader = match now {
                    Standing::Leads => Some(members.own()),
                    Standing::Follows(node) => Some(node),
                    Standing::Waits => None,
                    // Whoever leads tells; until then this node is not to be asked any more.
                    Standing::Elsewhere if is_own(members.leader(partition.id())) => None,
                    Standing::Elsewhere => continue,
                };
                members.note_leader(partition.id(), leader);
            }
        }
        if changed {
            self.look_for_primary();
        }
        self.replicas.lost.clear();
        self.replicas.good_until.set(None);
        self.settle_moments();
    }

    /// Whether the turn took so long that what was answered in it may not be true: a lease that it
    /// counted on has ended meanwhile, or what was read from a replica that follows is too old.
    pub fn is_overdue(&self) -> bool {
        self.replicas.members.is_some() && {
            let now = self.env.now();
            if self.replicas.good_until.get().is_some_and(|until| now > until) {
                return true;
            }
            let ended = |partition: &Partition| partition.standing(now) != Standing::Leads;
            let led = self.replicas.standings.iter().zip(&self.partitions);
            now.saturating_sub(self.replicas.turn_began) > LEASE_SPARE
                && (!self.replicas.lost.is_empty()
                    || led
                        .filter(|(standing, _)| **standing == Standing::Leads)
                        .any(|of| ended(of.1)))
        }
    }

    /// A message of another replica of a partition.
    ///
    /// # Errors
    /// As [`consensus::Group::step`]; also for a partition that is not this shard's.
    pub fn receive(
        &mut self,
        partition: PartitionId,
        message: Message,
        contents: Vec<Content>,
    ) -> Result<(), consensus::Error> {
        let (kind, from) = (message.kind, message.from);
        let Some(place) = self.place_of(partition) else {
            let what = "for a partition of another shard";
            return Err(consensus::Error::Malformed { kind, from, what });
        };
        let is_taken = self.failed.is_none()
            && !self.partitions[place as usize].is_installing()
            && message.snapshot.as_ref().is_none_or(|of| self.has_staged(place, of.index, of.term));
        if !is_taken {
            // As if it had been lost on its way.
            return Ok(());
        }
        if matches!(kind, MessageKind::Append | MessageKind::Heartbeat) {
            // Who leads counts on the replica here.
            self.replicas.elsewhere[place as usize] = false;
        }
        self.replicas.stirred.push(place);
        self.partitions[place as usize].receive(message, contents)
    }

    /// What was sent to a node may be lost.
    pub fn unreachable(&mut self, node: NodeId) {
        self.partitions.iter_mut().for_each(|partition| partition.unreachable(node));
    }

    /// Carries out what the messages of this turn led to.
    pub fn settle(&mut self) {
        self.end_installs();
        let mut stirred = std::mem::take(&mut self.replicas.stirred);
        if self.failed.is_none() {
            stirred.sort_unstable();
            stirred.dedup();
            for place in stirred.drain(..) {
                self.settle_at(place);
            }
        }
        stirred.clear();
        self.replicas.stirred = stirred;
    }

    pub(super) fn settle_at(&mut self, place: u32) {
        let committed = self.partition(place).committed().index;
        let (led, was_ready) = (self.partition(place).has_led(), self.partition(place).is_ready());
        self.stir(place);
        if !was_ready && self.partition(place).is_ready() {
            // It can not answer a read before.
            let now = self.env.now();
            self.partitions[place as usize].renew_lease(now);
            self.stir(place);
        }
        let partition = &mut self.partitions[place as usize];
        partition.take_ended(&mut self.abandoned);
        if partition.begin_install().is_some()
            && let Some(staged) = self.replicas.staged.remove(&place)
        {
            self.install(place, staged);
        }
        let partition = &mut self.partitions[place as usize];
        if !partition.is_ready() && self.replicas.standings[place as usize] == Standing::Leads {
            self.replicas.standings[place as usize] = Standing::Waits;
        }
        // One that only hands over still hears of what it has proposed.
        if led && !partition.has_led() {
            self.replicas.lost.push((place, committed));
            self.changes.abandon_at(place, committed);
        }
    }

    /// Whether a snapshot of a partition up to this entry is here, for when Raft asks for it.
    pub fn has_staged(&self, place: u32, index: u64, term: u64) -> bool {
        let staged = self.replicas.staged.get(&place);
        staged.is_some_and(|staged| (staged.index(), staged.index_term()) == (index, term))
    }

    /// A snapshot of a partition is here, for when Raft asks for it.
    pub fn stage(&mut self, place: u32, staged: Staged) {
        self.replicas.staged.insert(place, staged);
    }

    /// Nodes that lack what only a snapshot can give them, with the place of the partition.
    pub fn take_snapshots_wanted(&mut self, into: &mut Vec<(u32, NodeId)>) {
        let all = (0..).zip(&mut self.partitions);
        into.extend(all.filter_map(|(place, of)| Some((place, of.take_snapshot_wanted()?))));
    }

    /// Keeps a partition's log behind `index`, until told otherwise.
    pub fn pin_log(&mut self, place: u32, index: Option<u64>) {
        self.partitions[place as usize].pin_log(index);
    }

    /// The partition for which the most log is kept for the sake of snapshots, if that is more than
    /// is kept anyway by a part of the memory that the shard's other work would miss.
    pub fn overlong_pin(&self) -> Option<u32> {
        let usual = log_cache_len(self.memory_max, self.partitions.len());
        let extra = |of: &Partition| of.pinned_len().saturating_sub(usual);
        let all = self.partitions.iter().map(extra).sum::<usize>();
        let longest = (0..).zip(&self.partitions).max_by_key(|(_, of)| extra(of));
        longest.filter(|_| all > self.memory_max / PINNED_SHARE).map(|(place, _)| place)
    }

    /// Whether a replica lacks more than what is on its way.
    pub fn lags(&self, place: u32, node: NodeId) -> bool {
        lags(self.partition(place), node)
    }

    /// See [`Partition::offer_snapshot`].
    pub fn offer_snapshot(&mut self, place: u32, to: NodeId, index: u64) -> bool {
        let is_known = self.partitions[place as usize].offer_snapshot(to, index);
        self.settle_at(place);
        is_known
    }

    /// See [`Partition::end_snapshot`].
    pub fn end_snapshot(&mut self, place: u32, node: NodeId) {
        self.partitions[place as usize].end_snapshot(node);
    }

    /// Goes on with partitions whose snapshot is in the tables.
    fn end_installs(&mut self) {
        while let Some(installed) = self.take_installed() {
            let place = installed.place;
            if let Err(error) = installed.end {
                // Raft counts on what is not there.
                return self.fail(format!("a snapshot can not be installed: {error}"));
            }
            match installed.index {
                0 => self.end_vacate(place),
                _ => self.partitions[place as usize].end_install(),
            }
            self.stir(place);
        }
    }

    fn stir(&mut self, place: u32) {
        let logging = self.at(place, |partition, around| partition.settle(around));
        self.replicas.has_followed |= logging.is_some();
        self.note(place, logging);
    }

    /// Whether what was waited for has happened to an entry that this shard proposed, as what it
    /// was proposed as.
    pub fn has_met(&self, hold: Hold) -> bool {
        let Hold { place, index, ack } = hold;
        self.partition(place).has_met(index, ack) && !self.has_lost(place, index)
    }

    /// Whether any leadership was lost in this turn.
    pub fn has_lost_any(&self) -> bool {
        !self.replicas.lost.is_empty()
    }

    /// Whether leadership was lost in this turn before an entry was committed. Another leader's may
    /// have its number.
    pub fn has_lost(&self, place: u32, index: u64) -> bool {
        self.replicas.lost.iter().any(|(lost, committed)| *lost == place && index > *committed)
    }

    /// Time goes on for the replicas: some 100 ms after the last time. What is known of the other
    /// nodes, by their shards of this number.
    pub fn tick_replicas(&mut self, outlook: &Outlook) {
        if self.replicas.members.is_none() || self.failed.is_some() {
            return;
        }
        let now = self.env.now();
        for place in 0..self.partitions.len() as u32 {
            let partition = &mut self.partitions[place as usize];
            partition.tick(now, outlook);
            partition.renew_lease(now);
            self.settle_at(place);
        }
        self.tend_slowness();
        self.tend_members(&outlook.up);
        self.look_for_primary();
    }

    /// Messages for the other replicas, since the last call. To be sent in the same turn: see
    /// [`Shard::content`].
    pub fn take_messages(&mut self, into: &mut Vec<(PartitionId, Message)>) {
        if self.replicas.members.is_some() {
            self.partitions.iter_mut().for_each(|partition| partition.take_messages(into));
        }
    }

    /// What an entry of a message that was taken says. `None`: it is not there any more, and the
    /// message is as good as lost.
    pub fn content(&self, partition: PartitionId, index: u64, term: u64) -> Option<&Content> {
        let place = self.place_of(partition)?;
        self.partitions[place as usize].content(index, term)
    }

    /// Whether it leads a partition that other nodes could lead.
    pub fn leads_any(&self) -> bool {
        self.replicas.members.is_some()
            && self.failed.is_none()
            && self.partitions.iter().any(Partition::is_leader)
    }

    /// Hands all leadership to other nodes; for a planned end.
    pub fn hand_over(&mut self) {
        let Some(members) = self.replicas.members.clone() else { return };
        for place in 0..self.partitions.len() {
            if !self.partitions[place].is_leader() {
                continue;
            }
            let voters = &self.partitions[place].roster().members.voters;
            let others = voters.iter().copied().filter(|node| *node != members.own());
            let others: Vec<_> = others.collect();
            if let Some(heir) = others.get(place % others.len().max(1)) {
                self.partitions[place].hand_over(*heir);
                self.settle_at(place as u32);
            }
        }
    }
}
