//! A partition that has replicas on other nodes: what a lone voter does without.
//!
//! A follower logs what its leader sends, and applies it when it is committed; a leader's own
//! writes are in the memtable already (the overlay) and only wait. Whoever loses leadership takes
//! the overlay back: what was proposed is still in the log, and is applied from there if the next
//! leader commits it. A new leader is ready once the first entry of its term is committed, and with
//! it all that was in its log.
//!
//! **The lease.** A leader answers reads by itself while it knows that nobody else can lead: from
//! the moment at which it asked a round of heartbeats that a majority answered, for
//! [`LEASE`]. A follower that has heard of its leader votes for nobody during [`GUARD_TICKS`],
//! whatever it knows of the leader otherwise, and one that has just started votes for nobody during
//! its first ones ([`crate::consensus`]); ticks are never closer than [`TICK_MIN`]. So another
//! leader is at least `(GUARD_TICKS - 1) * TICK_MIN` away, of which a good tenth is left for clocks
//! that drift. A leader that hands over has no lease from then on. Chosen over a round of messages
//! per read, which costs a round trip; without a lease reads wait until there is one.
//!
//! **How soon another leads.** A leader whose process is seen to have ended is followed when the
//! guard is over. One that is only silent may be busy: it is given [`ELECTION_TICKS`] at least. So
//! the guard is short, since only the lease is bound to it, and a lease that ends too early costs
//! a wait, not an election.

use std::time::Duration;

use super::apply::{Fault, Rows};
use super::install::left_after;
use super::log_cache::{Blob, Content, LogCache};
use super::standby::begins;
use super::{MayHave, Partition, Planted, Sessions, Waiter};
use crate::consensus::{self, Message, Outlook, ReadState, Role, RoleChange};
use crate::id::{NodeId, PartitionId};

/// How often a replica's time goes on.
pub const TICK: Duration = Duration::from_millis(100);
/// Two ticks are never closer.
const TICK_MIN: Duration = Duration::from_millis(95);
/// Ticks without a leader before a campaign; at most twice as many.
pub const ELECTION_TICKS: usize = 10;
/// See the module's header.
pub const GUARD_TICKS: usize = 7;
/// See the module's header.
const LEASE: Duration = Duration::from_millis(500);
/// A lease is renewed when less than this is left of it.
const LEASE_LOW: Duration = Duration::from_millis(420);
/// A round that was not answered for so long is asked again.
const ROUND_MAX: Duration = Duration::from_millis(200);
/// How long the log is kept, within its bound, for who has read it from outside the group.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);
/// And for who did before a restart.
const COME_BACK_MAX: Duration = Duration::from_secs(10);
/// A turn that begins with less than this left of the lease does not count on it.
pub const LEASE_SPARE: Duration = Duration::from_millis(100);

const _: () = assert!(
    LEASE.as_millis() * 10 <= (GUARD_TICKS as u128 - 1) * TICK_MIN.as_millis() * 9,
    "a lease ends well before another can lead"
);

/// Who answers for a partition at this moment, as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This replica.
    Leads,
    /// Another one.
    Follows(NodeId),
    /// Another one, and there is no replica here.
    Elsewhere,
    /// Nobody, or this one before long.
    Waits,
}

#[derive(Default)]
struct Lease {
    /// The name and the time of the round that is under way.
    asked: Option<(u64, Duration)>,
    rounds: u64,
    until: Duration,
}

/// An entry's content on its way into Raft's log.
#[derive(Default)]
pub(super) struct Staged {
    pub content: Content,
    /// Its large values are in the log, under the names that it has for them.
    pub is_logged: bool,
}

/// See the module's header.
pub struct Replica {
    cache: LogCache,
    staged: Vec<Staged>,
    outbox: Vec<Message>,
    /// Who waited when leadership was lost.
    ended: Vec<Waiter>,
    /// The first entry of the term in which this replica leads.
    leads_from: Option<u64>,
    lease: Lease,
    ticked: Duration,
    /// Large values of the open entry.
    blobs: Vec<Blob>,
    /// Who lacks entries that the log does not have any more.
    wanted: Option<NodeId>,
    /// Entries behind this one are kept, for a snapshot that is on its way.
    pinned: Option<u64>,
    /// Somebody outside the group reads the log, or may, until then; the node may be alone.
    followed_until: Option<Duration>,
    /// The snapshot that Raft has taken, and the write that makes it durable.
    installing: Option<Installing>,
}

/// See [`Partition::is_installing`].
#[derive(Clone, Copy, Debug)]
struct Installing {
    index: u64,
    write: consensus::WriteId,
    /// The tree was told.
    is_begun: bool,
}

impl Replica {
    pub(super) fn new(cache: LogCache) -> Self {
        // Who read it before the restart comes back soon.
        let is_worth = cache.last() > cache.base().0;
        Self {
            followed_until: is_worth.then_some(Duration::ZERO),
            cache,
            staged: Vec::new(),
            outbox: Vec::new(),
            ended: Vec::new(),
            leads_from: None,
            lease: Lease::default(),
            ticked: Duration::ZERO,
            blobs: Vec::new(),
            wanted: None,
            pinned: None,
            installing: None,
        }
    }

    pub(super) fn memory_len(&self) -> usize {
        self.cache.byte_len()
    }

    /// Keeps the log for who reads it from outside the group.
    pub(super) fn note_followed(&mut self, now: Duration) {
        self.followed_until = Some(now + FOLLOWED_FOR);
    }

    pub(super) fn cache(&self) -> &LogCache {
        &self.cache
    }

    /// What an entry says, if it is still here.
    pub(super) fn content_at(&self, index: u64) -> Option<&Content> {
        self.cache.get(index)
    }

    /// The log begins anew behind an entry of a term.
    pub(super) fn begin_anew(&mut self, base: (u64, u64)) {
        self.cache.begin_anew(base);
    }

    /// A large value of the open entry is in the log.
    pub(super) fn note_blob(&mut self, blob: Blob) {
        self.blobs.push(blob);
    }

    /// Stages this replica's own entry; returns its tag and its length.
    pub(super) fn stage_own(&mut self, payload: &[u8]) -> (u32, u32) {
        let content = Content { payload: payload.into(), blobs: std::mem::take(&mut self.blobs) };
        self.stage(Staged { content, is_logged: true })
    }

    pub(super) fn stage(&mut self, staged: Staged) -> (u32, u32) {
        let len = u32::try_from(staged.content.byte_len()).unwrap_or(u32::MAX);
        self.staged.push(staged);
        (self.staged.len() as u32 - 1, len)
    }

    fn on_role(&mut self, change: RoleChange, last_index: u64) {
        self.leads_from = (change.role == Role::Leader).then_some(last_index);
        if change.role != Role::Leader {
            self.lease = Lease { rounds: self.lease.rounds, ..Lease::default() };
        }
    }

    fn on_reads(&mut self, reads: &[ReadState], lease: Duration) {
        for read in reads {
            if let Some((_, at)) = self.lease.asked.filter(|(name, _)| *name == read.context) {
                self.lease.asked = None;
                self.lease.until = self.lease.until.max(at + lease);
            }
        }
    }
}

impl Partition {
    /// Whether other nodes have replicas of it.
    pub fn is_replicated(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether other nodes have replicas of it at this moment, or are to have one.
    pub fn has_others(&self) -> bool {
        !self.group.is_lone()
    }

    /// Who answers for it at `now`, a moment of this process's time.
    pub fn standing(&self, now: Duration) -> Standing {
        let Some(replica) = &self.replica else { return Standing::Leads };
        let (role, leader) = (self.group.role(), self.group.leader());
        match (role, leader) {
            (Role::Leader, _) if !self.has_others() && self.is_ready() => Standing::Leads,
            (Role::Leader, _) => match self.is_ready() && now < replica.lease.until {
                true => Standing::Leads,
                false => Standing::Waits,
            },
            _ if !self.group.is_member() => Standing::Elsewhere,
            (_, Some(leader)) => Standing::Follows(leader),
            (_, None) => Standing::Waits,
        }
    }

    /// Whether its rows are those of committed entries, all up to one and no other: not while this
    /// replica leads.
    pub fn shows_committed(&self) -> bool {
        let leads = self.replica.as_ref().is_none_or(|replica| replica.leads_from.is_some());
        let is_whole = !self.is_installing() && !self.is_catching_up() && !self.is_vacant();
        let is_whole = is_whole && !self.is_copying();
        !leads && !self.is_leader() && is_whole
    }

    /// Whether this replica leads and has applied all that was committed before it did.
    pub fn is_ready(&self) -> bool {
        let Some(replica) = &self.replica else { return self.is_leader() };
        replica.leads_from.is_some_and(|from| from <= self.committed.index)
            && (self.group.transferee().is_none() || self.has(Planted::KeepLease))
    }

    /// A message of another replica, with the contents of its entries.
    ///
    /// # Errors
    /// As [`consensus::Group::step`].
    pub fn receive(
        &mut self,
        mut message: Message,
        contents: Vec<Content>,
    ) -> Result<(), consensus::Error> {
        let replica = self.replica.as_mut().expect("a lone voter gets no messages");
        for (entry, content) in message.entries.iter_mut().zip(contents) {
            let (tag, len) = replica.stage(Staged { content, is_logged: false });
            (entry.handle.tag, entry.handle.len) = (tag, len);
        }
        self.group.step(message)
    }

    /// Time goes on, and other nodes come and go. Of effect when [`Partition::settle`] is called
    /// next.
    pub fn tick(&mut self, now: Duration, outlook: &Outlook) {
        let Some(replica) = self.replica.as_mut() else { return };
        if now.saturating_sub(replica.ticked) < TICK_MIN || replica.installing.is_some() {
            return;
        }
        replica.followed_until = match replica.followed_until {
            Some(Duration::ZERO) => Some(now + COME_BACK_MAX),
            until => until.filter(|until| now < *until),
        };
        replica.ticked = now;
        if self.planted == Some(Planted::CampaignUnguarded)
            && self.group.leader().is_some_and(|leader| outlook.gone.contains(&leader))
        {
            self.group.campaign();
        }
        self.group.look_around(outlook);
        self.group.tick();
    }

    /// Asks for a longer lease, if this replica leads and has little left of it.
    pub fn renew_lease(&mut self, now: Duration) {
        if !self.is_ready() {
            return;
        }
        let Some(replica) = self.replica.as_mut() else { return };
        let lease = &mut replica.lease;
        let is_low = lease.until.saturating_sub(now) < LEASE_LOW;
        let is_asking = lease.asked.is_some_and(|(_, at)| now.saturating_sub(at) < ROUND_MAX);
        if is_low && !is_asking && self.group.read_index(lease.rounds + 1).is_ok() {
            lease.rounds += 1;
            lease.asked = Some((lease.rounds, now));
        }
    }

    /// Hands leadership to another node, if this replica leads; it answers nothing from here on.
    pub fn hand_over(&mut self, to: NodeId) {
        let keeps = self.has(Planted::KeepLease);
        if let Some(replica) = self.replica.as_mut() {
            if !keeps {
                replica.lease = Lease { rounds: replica.lease.rounds, ..Lease::default() };
            }
            self.group.transfer(to);
        }
    }

    /// What was sent to a node may be lost.
    pub fn unreachable(&mut self, node: NodeId) {
        self.group.unreachable(node);
        self.group.snapshot_sent(node, false);
    }

    /// Who lacks so much of the log that only a snapshot helps; once.
    pub fn take_snapshot_wanted(&mut self) -> Option<NodeId> {
        self.replica.as_mut()?.wanted.take()
    }

    /// Keeps all entries behind `index`, until told otherwise.
    pub fn pin_log(&mut self, index: Option<u64>) {
        if let Some(replica) = self.replica.as_mut() {
            replica.pinned = index;
        }
    }

    /// Whoever lacks entries up to `index` has a snapshot of them staged. False: the log does not
    /// reach back to it any more.
    pub fn offer_snapshot(&mut self, to: NodeId, index: u64) -> bool {
        let is_known = index <= self.committed.index && self.group.term_of(index).is_some();
        if is_known {
            self.group.offer_snapshot(to, index);
        }
        is_known
    }

    /// A snapshot for a node is over: if it was not taken up, the node is asked anew what it lacks.
    pub fn end_snapshot(&mut self, node: NodeId) {
        self.group.withdraw_snapshot(node);
        self.group.snapshot_sent(node, false);
    }

    /// The newest entry that a node is known to have, if this replica leads and the node is of the
    /// group.
    pub fn acknowledged(&self, node: NodeId) -> Option<u64> {
        self.group.acknowledged(node).filter(|_| self.is_leader())
    }

    /// Bytes of the log that are in memory.
    pub fn log_len(&self) -> usize {
        self.replica.as_ref().map_or(0, |replica| replica.memory_len())
    }

    /// The same, if some of it is kept for a snapshot.
    pub fn pinned_len(&self) -> usize {
        let is_pinned = self.replica.as_ref().is_some_and(|replica| replica.pinned.is_some());
        if is_pinned { self.log_len() } else { 0 }
    }

    /// Whether Raft has taken a snapshot that the tables do not have yet: until then nothing may be
    /// logged.
    pub fn is_installing(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.installing.is_some())
    }

    /// The entry of a snapshot that Raft has taken; once.
    pub fn begin_install(&mut self) -> Option<u64> {
        let installing = self.replica.as_mut()?.installing.as_mut()?;
        let begins = !std::mem::replace(&mut installing.is_begun, true);
        begins.then_some(installing.index)
    }

    /// The tables have it, and so has the memtable.
    pub fn end_install(&mut self) {
        let Some(replica) = self.replica.as_mut() else { return };
        if let Some(Installing { index, write, .. }) = replica.installing.take() {
            self.group.persisted(write);
            self.group.applied(index);
        }
    }

    /// Whether what is here may go, since the group goes on without this replica; a leader says so
    /// as of `entry`: see [`consensus::Group::may_vacate`].
    pub fn may_vacate(&self, entry: (u64, u64)) -> bool {
        !self.is_installing() && self.group.may_vacate(entry)
    }

    /// See [`consensus::Group::remembers_members`].
    pub fn remembers_members(&self) -> bool {
        self.group.remembers_members()
    }

    /// Term and index of the newest entry that this replica has, or had.
    pub fn last_entry(&self) -> (u64, u64) {
        self.group.last_entry()
    }

    /// There was a leader in this term. Of effect when [`Partition::settle`] is called next.
    pub fn note_term(&mut self, term: u64) {
        self.group.note_term(term);
    }

    /// What is here is about to go: until it has, nothing may be logged.
    pub fn begin_vacate(&mut self) {
        let replica = self.replica.as_mut().expect("a lone voter is not vacated");
        let write = consensus::WriteId::default();
        replica.installing = Some(Installing { index: 0, write, is_begun: true });
    }

    /// It has gone, durably ([`Partition::install`]), and so have all writes.
    pub fn end_vacate(&mut self) {
        if let Some(replica) = self.replica.as_mut() {
            replica.installing = None;
        }
        self.group.vacate(self.roster.members.clone());
        self.open.index = self.group.last_index() + 1;
        self.effects.clear();
    }

    /// See [`consensus::Restored::floor`].
    pub fn floor(&self) -> (u64, u64) {
        self.group.floor()
    }

    /// Whether what was here has gone, since the group goes on without this replica.
    pub fn is_vacant(&self) -> bool {
        self.group.is_vacant()
    }

    /// Messages for other nodes, since the last call.
    pub fn take_messages(&mut self, into: &mut Vec<(PartitionId, Message)>) {
        let id = self.id;
        if let Some(replica) = self.replica.as_mut() {
            into.extend(replica.outbox.drain(..).map(|message| (id, message)));
        }
    }

    /// Whether this node led when the partition was settled last: what was proposed then has not
    /// been given up. By now a message may have said that another leads.
    pub fn has_led(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.leads_from.is_some())
    }

    /// Whoever waited for what will never be known here.
    pub fn take_ended(&mut self, into: &mut Vec<Waiter>) {
        if let Some(replica) = self.replica.as_mut() {
            into.append(&mut replica.ended);
        }
    }

    /// What an entry of the log says, if it is of this term and still here.
    pub fn content(&self, index: u64, term: u64) -> Option<&Content> {
        let cache = &self.replica.as_ref()?.cache;
        cache.get(index).filter(|_| cache.term(index) == Some(term))
    }

    /// The newest entry that the log has; committed or not.
    pub fn last_index(&self) -> u64 {
        self.group.last_index()
    }

    /// Takes over what Raft decided about roles, reads and messages; what is to be logged is the
    /// caller's. Before anything is applied.
    pub(super) fn take_decisions(&mut self) {
        let Some(mut replica) = self.replica.take() else { return };
        if let Some(change) = self.effects.role {
            let led = replica.leads_from.is_some();
            replica.on_role(change, self.group.last_index());
            let keeps = self.has(Planted::KeepProposed);
            if led && change.role != Role::Leader && !keeps {
                self.abandon(&mut replica.ended);
                // What is taken back may be committed after all, with the timestamps it has.
                self.clock = self.committed.timestamp;
                replica.blobs.clear();
            }
        }
        let lease = if self.has(Planted::LongLease) { 4 * LEASE } else { LEASE };
        replica.on_reads(&self.effects.reads, lease);
        replica.wanted = self.effects.snapshot_wanted.or(replica.wanted);
        if let (Some(snapshot), Some(write)) = (&self.effects.install, self.effects.write) {
            let index = snapshot.index;
            replica.installing = Some(Installing { index, write, is_begun: false });
        }
        replica.outbox.append(&mut self.effects.messages);
        self.replica = Some(replica);
    }

    /// What an entry that Raft took in says.
    pub(super) fn take_staged(&mut self, tag: u32) -> Staged {
        let replica = self.replica.as_mut().expect("it is replicated");
        std::mem::take(&mut replica.staged[tag as usize])
    }

    /// The entry is on its way to the disk.
    pub(super) fn keep_content(&mut self, index: u64, term: u64, content: Content) {
        let replica = self.replica.as_mut().expect("it is replicated");
        replica.cache.push(index, term, content);
    }

    /// What Raft did not take in of what was staged, it never will.
    pub(super) fn forget_staged(&mut self) {
        if let Some(replica) = self.replica.as_mut() {
            replica.staged.clear();
        }
    }

    /// Applies all entries up to `commit`: own ones are in the memtable, others are not.
    pub(super) fn apply_replicated(
        &mut self,
        commit: u64,
        may_have: MayHave<'_>,
        released: &mut Vec<Waiter>,
    ) {
        while self.committed.index < commit {
            let index = self.committed.index + 1;
            // The entry that ends a copy may still have what is older than a row.
            let was_copying = self.is_copying();
            self.take_decree(index);
            match self.pending.front().is_some_and(|entry| entry.index == index) {
                true => self.commit_front(released),
                false => self.apply_logged(index, was_copying, may_have),
            }
            self.committed.index = index;
        }
        let replica = self.replica.as_mut().expect("it is replicated");
        self.group.applied(commit);
        // Who follows has to be able to fetch the last one, however long it is.
        let last = if replica.followed_until.is_some() { commit.saturating_sub(1) } else { commit };
        let kept_from = replica.pinned.map_or(last, |index| index.min(last));
        let is_needed = !self.group.is_lone() || replica.followed_until.is_some();
        let base = replica.cache.trim(kept_from, is_needed);
        self.group.compact(base);
    }

    fn apply_logged(&mut self, index: u64, is_copying: bool, may_have: MayHave<'_>) {
        let replica = self.replica.take().expect("it is replicated");
        let content = replica.cache.get(index).expect("what is not applied is kept");
        self.catch_up = left_after(self.catch_up, &content.payload);
        let mut ignored = Sessions::default();
        let is_ignored = self.planted == Some(Planted::LeaderKeepsReplies);
        // The partition's clock is ahead by what a leader has proposed.
        let mut clock = self.committed.timestamp;
        let mut rows = Rows {
            sessions: if is_ignored { &mut ignored } else { &mut self.sessions },
            memtable: &mut self.memtable,
            sizes: &mut self.sizes,
            clock: &mut clock,
            generation: &mut self.generation,
            dying: &mut self.dying,
            tables_clock: self.tables_clock,
            may_have,
            is_copying,
        };
        let is_left_out = self.planted == Some(Planted::SkipEntries) && index.is_multiple_of(16);
        let payload = if is_left_out { &[][..] } else { &content.payload[..] };
        let applied = rows.apply_entry(payload, &mut |blob| content.blob(blob));
        if let Err(Fault::Malformed(_) | Fault::BlobMissing(_)) = applied {
            panic!("partition {} entry {index} can not be applied: {applied:?}", self.id);
        }
        self.committed.timestamp = clock;
        self.clock = self.clock.max(clock);
        if begins(&content.payload) {
            self.clock = clock;
            self.rewind();
        }
        self.replica = Some(replica);
    }
}
