//! One partition's replica: events in, effects out.

use std::collections::VecDeque;

use raft::eraftpb::{self, EntryType};
use raft::{CAMPAIGN_TRANSFER, ProgressState, RawNode, ReadOnlyOption, Ready, StateRole};

use super::effects::{Effects, HardState, ReadState, Role, RoleChange, WriteId};
use super::log::Log;
use super::membership::Members;
use super::message::{self, Message, MessageKind};
use super::timeout::ElectionTimeout;
use super::{
    CAMPAIGN_LAG_MAX, Change, Config, Entry, EntryKind, Error, Handle, MESSAGE_PAYLOAD_LEN_MAX,
    MESSAGES_INFLIGHT_MAX, Membership, Restored, Snapshot,
};
use crate::id::NodeId;

mod outlook;
mod vacancy;

use outlook::Haste;
pub use outlook::Outlook;

/// Committed entries are looked through in portions of this many payload bytes.
const COMMIT_PORTION_LEN: u64 = 1 << 20;

/// One partition's replica on this shard. The driver loop is in [`super`].
///
/// A call costs well under a microsecond, apart from [`Group::step`] of many entries and
/// [`Group::campaign`] with many unapplied.
pub struct Group {
    node: RawNode<Log>,
    config: Config,
    members: Members,
    /// See [`Restored::floor`].
    floor: (u64, u64),
    /// No other replica needs this log.
    lone: bool,
    timeout: ElectionTimeout,
    /// A leader's ticks since it looked whether a majority is there.
    unchecked_ticks: usize,
    haste: Haste,
    /// For so many ticks this replica may have forgotten that it follows a leader.
    quiet_ticks: usize,
    /// Entries proposed or received since the last drain, which raft-rs may or may not take in.
    staged: Vec<Entry>,
    /// Messages behind the write that they have to wait for, oldest first.
    held: VecDeque<(WriteId, Message)>,
    /// Term and vote as of the newest drain, and the write that has them.
    voted: ((u64, u64), WriteId),
    /// The newest entry of members, if it is not known to be committed; 0: none.
    deciding: u64,
    /// The write that has how far the log was committed when the members changed last.
    decided: WriteId,
    /// The number of raft-rs's newest `Ready`.
    ready_newest: u64,
    /// The newest write asked for.
    write_newest: WriteId,
    /// The newest write that is durable, and so are all before it.
    write_durable: WriteId,
}

impl Group {
    /// A follower that goes on where `restored` ends.
    ///
    /// # Errors
    /// * [`Error::Config`]: ids or ticks that contradict each other.
    /// * [`Error::Restored`]: the restored log has a gap or lacks what was committed.
    /// * [`Error::Membership`]: a restored payload is none of a membership entry.
    pub fn new(config: Config, mut restored: Restored) -> Result<Self, Error> {
        let Config { id, seed, turn, election_ticks, guard_ticks, heartbeat_ticks, .. } = config;
        let (term, applied) = (restored.term, restored.applied.max(restored.snapshot_index));
        let voted = (term, restored.vote.unwrap_or_default().0);
        let (floor, born) = (restored.floor, (config.voters.clone(), config.learners.clone()));
        let members = restored_members(&mut restored, Membership::new(born.0, born.1))?;
        let deciding = newest_undecided(&restored);
        let log = Log::new(message::conf_state(members.now()), restored)?;
        let raft_config = raft::Config {
            id: id.0,
            election_tick: guard_ticks,
            min_election_tick: guard_ticks,
            max_election_tick: 2 * election_ticks,
            heartbeat_tick: heartbeat_ticks,
            applied,
            max_size_per_msg: MESSAGE_PAYLOAD_LEN_MAX,
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            read_only_option: ReadOnlyOption::Safe,
            max_committed_size_per_ready: COMMIT_PORTION_LEN,
            ..Default::default()
        };
        raft_config.validate().map_err(|error| Error::Config { reason: error.to_string() })?;
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, log, &silent)
            .map_err(|error| Error::Config { reason: error.to_string() })?;
        Ok(Self {
            node,
            lone: members.now().is_lone(id),
            members,
            floor,
            timeout: ElectionTimeout::new(seed, id.0, election_ticks, term),
            unchecked_ticks: 0,
            haste: Haste::new(turn, term),
            quiet_ticks: if term > 0 { guard_ticks } else { 0 },
            staged: Vec::new(),
            held: VecDeque::new(),
            voted: (voted, WriteId::default()),
            deciding,
            decided: WriteId::default(),
            ready_newest: 0,
            write_newest: WriteId(0),
            write_durable: WriteId(0),
            config,
        })
    }

    /// A message of another replica has arrived.
    ///
    /// # Errors
    /// [`Error::Malformed`]: it was not taken in; the connection it came from is not to be trusted.
    pub fn step(&mut self, mut message: Message) -> Result<(), Error> {
        message.check(self.config.id)?;
        if message.kind == MessageKind::TimeoutNow && self.lags() {
            return Ok(());
        }
        if self.quiet_ticks > 0 && is_unasked_campaign(&message) {
            return Ok(());
        }
        if message.kind == MessageKind::AppendResponse && !self.mend_rejection(&mut message) {
            return Ok(());
        }
        if self.is_vacant() && !self.may_take(&mut message) {
            return Ok(());
        }
        self.check_memory(&message);
        if message.kind == MessageKind::AppendResponse && !message.reject && message.index > 0 {
            self.note_filled(message.from);
        }
        self.stage(&message.entries);
        // What remains are answers from replicas that are no longer members: not worth a word.
        let _ = self.node.step(message.into_raft());
        Ok(())
    }

    /// Adds an entry to the log, if this replica leads, and returns its term and index: what it
    /// will have for ever, should it be committed. Earlier entries need not be persisted.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::Transferring`] or [`Error::Overloaded`]; nothing happened.
    pub fn propose(&mut self, handle: Handle) -> Result<(u64, u64), Error> {
        self.check_proposal()?;
        Ok(self.append(EntryKind::Payload, handle))
    }

    /// Adds an entry after which `change` says who belongs to the group; `handle` is that of its
    /// payload ([`Change::encode`]). Returns its term and index, as [`Group::propose`] does.
    ///
    /// # Errors
    /// As [`Group::propose`], and:
    /// * [`Error::Unready`]: this leader is too new.
    /// * [`Error::Changing`]: the change before is not done.
    /// * [`Error::Membership`]: it is none.
    pub fn propose_membership(
        &mut self,
        change: &Change,
        handle: Handle,
    ) -> Result<(u64, u64), Error> {
        self.check_proposal()?;
        let raft = &self.node.raft;
        if !raft.commit_to_current_term() {
            return Err(Error::Unready { term: raft.term });
        }
        let now = self.members.now();
        if raft.has_pending_conf() || now.is_changing() {
            return Err(Error::Changing);
        }
        change.check().map_err(|what| Error::Membership { what })?;
        if change.singles(now).is_empty() {
            return Err(Error::Membership { what: "they are its members already" });
        }
        let (term, index) = self.append(EntryKind::Membership, handle);
        self.node.raft.pending_conf_index = index;
        Ok((term, index))
    }

    fn append(&mut self, kind: EntryKind, handle: Handle) -> (u64, u64) {
        let raft = &mut self.node.raft;
        let (term, index) = (raft.term, raft.raft_log.last_index() + 1);
        // What raft-rs's own propose does, without the message around it.
        let entry = Entry { index, term, kind, handle };
        let taken = raft.append_entry(&mut [super::log::to_raft(&entry)]);
        assert!(taken, "entry {index} was dropped, though uncommitted bytes have no limit");
        raft.bcast_append();
        self.staged.push(entry);
        (term, index)
    }

    /// The log has given an entry its place: from here on [`Group::entry`] and messages name it.
    /// Of no effect if the entry is no longer in the log.
    pub fn place(&mut self, term: u64, index: u64, handle: Handle) {
        if let Some(entry) = self.node.mut_store().get_mut(index).filter(|held| held.term == term) {
            entry.handle = handle;
        }
    }

    /// `write`, and every write before it, is durable.
    pub fn persisted(&mut self, write: WriteId) {
        let newest = self.write_newest;
        assert!(write <= newest, "write {write:?} was never asked for, the newest is {newest:?}");
        if write <= self.write_durable {
            return;
        }
        self.write_durable = write;
        let ready = if write == newest { self.ready_newest } else { write.0 };
        self.node.on_persist_ready(ready);
    }

    /// Tells what the entry of members at `index` says, which is committed and about to be applied.
    ///
    /// # Errors
    /// [`Error::Membership`]: it is the payload of no such entry. The replica can not go on.
    pub fn decided(&mut self, index: u64, payload: &[u8]) -> Result<(), Error> {
        self.members.decide(index, Change::decode(payload)?);
        Ok(())
    }

    /// All entries up to `index` are in the tree. A lone voter's log forgets them.
    ///
    /// # Panics
    /// When [`Group::decided`] was not told of a membership entry.
    pub fn applied(&mut self, index: u64) {
        let before = self.applied_index();
        if index <= before {
            return;
        }
        self.change_members(before, index);
        let last = self.last_index();
        self.node.advance_apply_to(index);
        if self.last_index() > last {
            // It has ended the change of members, and would tell nobody before something else does.
            self.node.raft.bcast_append();
        }
        if self.lone {
            self.compact(index);
        }
    }

    /// The membership entries behind `before`, up to `index`, take effect.
    fn change_members(&mut self, before: u64, index: u64) {
        for index in before + 1..=index {
            let entry = self.node.store().get(index);
            if entry.is_none_or(|entry| entry.kind != EntryKind::Membership) {
                continue;
            }
            let change = self.members.take_decided(index);
            let raft = match &change {
                Some(change) => change.to_raft(self.members.now()),
                None => eraftpb::ConfChangeV2::default(),
            };
            let conf = self.node.apply_conf_change(&raft).expect("it was checked when proposed");
            self.members.enter(index, change.as_ref());
            let now = self.members.now();
            assert_eq!(*now, message::membership_of(&conf), "entry {index} is understood alike");
            self.lone = now.is_lone(self.config.id);
            if self.role() == Role::Leader && !now.is_voter(self.config.id) {
                let term = self.term();
                self.node.raft.become_follower(term, 0);
            }
        }
    }

    /// Moves leadership to `to`: of effect on the leader alone. Until it has moved, or an election
    /// timeout has passed, proposals are refused.
    pub fn transfer(&mut self, to: NodeId) {
        if self.role() == Role::Leader {
            self.unchecked_ticks = 0;
            self.node.transfer_leader(to.0);
        }
    }

    /// Asks which index a linearizable read has to wait for; the answer comes as
    /// [`Effects::reads`], named `context`. It may never come: give it a deadline. Reads that wait
    /// at the same time may share one name.
    ///
    /// # Errors
    /// * [`Error::NotLeader`]: no leader is known.
    /// * [`Error::Unready`]: this is the leader, too newly.
    pub fn read_index(&mut self, context: u64) -> Result<(), Error> {
        let raft = &self.node.raft;
        if raft.leader_id == 0 {
            return Err(Error::NotLeader { leader: None });
        }
        if raft.state == StateRole::Leader && !raft.commit_to_current_term() {
            return Err(Error::Unready { term: raft.term });
        }
        self.node.read_index(message::encode_read(self.config.id, context));
        Ok(())
    }

    /// Messages to `peer` were lost: what was sent optimistically is probed for anew.
    pub fn unreachable(&mut self, peer: NodeId) {
        self.node.report_unreachable(peer.0);
    }

    /// The state at `index`, which is applied, can be shipped to `to`, which lags behind the log.
    /// One that it was sent before is taken for lost: Raft would wait for it.
    ///
    /// # Panics
    /// If the log no longer knows the term at `index`, or it is not applied.
    pub fn offer_snapshot(&mut self, to: NodeId, index: u64) {
        let applied = self.applied_index();
        assert!(index > 0 && index <= applied, "snapshot at {index}, applied is {applied}");
        let term = raft::Storage::term(self.node.store(), index)
            .expect("a snapshot is offered before the log behind it is compacted");
        let membership = self.members.at(index).expect("as far back as the log").clone();
        self.snapshot_sent(to, false);
        self.node.mut_store().offer(to, Snapshot { index, term, membership });
        // Their answers let those go on who wait for it.
        self.node.ping();
    }

    /// A snapshot has reached `peer` and was installed there, or failed to. Until told so, or until
    /// the peer acknowledges the snapshot's index, a leader sends it nothing more: give a shipment
    /// a deadline.
    pub fn snapshot_sent(&mut self, peer: NodeId, installed: bool) {
        let status =
            if installed { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.node.report_snapshot(peer.0, status);
    }

    /// What was offered to `to` is not there any more.
    pub fn withdraw_snapshot(&mut self, to: NodeId) {
        self.node.mut_store().withdraw(to);
    }

    /// Forgets entries up to `index`, which is applied. A follower that lacks them needs a
    /// snapshot.
    pub fn compact(&mut self, index: u64) {
        let applied = self.applied_index();
        assert!(index <= applied, "compaction to {index}, applied is {applied}");
        self.node.mut_store().compact(index);
        self.members.compact(index);
    }

    /// Who belongs to the group in the state at `index`, which is applied; none if the log does not
    /// reach back so far. What is kept of that state has to be kept with it:
    /// [`Restored::membership`].
    pub fn membership(&self, index: u64) -> Option<&Membership> {
        self.members.at(index)
    }

    /// Adds to `out` all that the events since the last call have caused.
    pub fn drain(&mut self, out: &mut Effects) {
        while self.node.has_ready() {
            let ready = self.node.ready();
            self.take_ready(ready, out);
        }
        self.staged.clear();
        while self.held.front().is_some_and(|(write, _)| *write <= self.write_durable) {
            out.messages.extend(self.held.pop_front().map(|(_, message)| message));
        }
        out.snapshot_wanted = self.node.store().take_wanted().or(out.snapshot_wanted);
    }

    /// The entry at `index`, unless it was compacted or never drained.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        self.node.store().get(index).copied()
    }

    /// Whether no other node has a replica, or is to have one.
    pub fn is_lone(&self) -> bool {
        self.lone
    }

    /// Whether the members change: an entry that says so is in the log and not applied, or a change
    /// is half done.
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf() || self.members.now().is_changing()
    }

    /// Whether this replica would know its members after a crash, as far as it has applied them.
    pub fn remembers_members(&self) -> bool {
        self.decided <= self.write_durable
    }

    /// Whether this node belongs to the group, as far as entries are applied.
    pub fn is_member(&self) -> bool {
        self.members.now().contains(self.config.id)
    }

    /// This replica's role.
    pub fn role(&self) -> Role {
        role_of(self.node.raft.state)
    }

    /// Who leads, if known.
    pub fn leader(&self) -> Option<NodeId> {
        some_id(self.node.raft.leader_id)
    }

    /// The newest term seen.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The newest term seen, and who got this replica's vote in it, 0: nobody.
    pub fn hard_state(&self) -> (u64, u64) {
        (self.node.raft.term, self.node.raft.vote)
    }

    /// The term of an entry that the log has, or of the one before.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        raft::Storage::term(self.node.store(), index).ok()
    }

    /// To whom leadership is on its way.
    pub fn transferee(&self) -> Option<NodeId> {
        self.node.raft.lead_transferee.map(NodeId)
    }

    /// The newest index known to be committed; it may be ahead of what was handed out to apply.
    pub fn commit_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The newest index reported as applied.
    pub fn applied_index(&self) -> u64 {
        self.node.raft.raft_log.applied
    }

    /// The newest entry's index.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The newest entry that is durable here, and so are all before it.
    pub fn persisted_index(&self) -> u64 {
        self.node.raft.raft_log.persisted
    }

    /// Entries held in memory.
    pub fn log_len(&self) -> usize {
        self.node.store().len()
    }

    /// The next entry that a leader would send to `peer`.
    #[cfg(test)]
    pub fn next_index(&self, peer: NodeId) -> Option<u64> {
        self.node.raft.prs().get(peer.0).map(|progress| progress.next_idx)
    }

    /// The newest entry of which a leader knows that `peer` has it, and all before.
    pub fn acknowledged(&self, peer: NodeId) -> Option<u64> {
        self.node.raft.prs().get(peer.0).map(|progress| progress.matched)
    }

    /// How far a follower is known to have the log, if this replica leads, has heard of it within
    /// an election timeout, and it has all or is sent entries as they come: nothing has to be found
    /// out first, and no snapshot is on its way.
    pub fn matched(&self, peer: NodeId) -> Option<u64> {
        let is_leader = self.role() == Role::Leader;
        let progress = self.node.raft.prs().get(peer.0).filter(|_| is_leader)?;
        let has_all = progress.matched == self.last_index();
        let follows = progress.state == ProgressState::Replicate || has_all;
        let is_heard = peer == self.config.id || progress.recent_active;
        (follows && is_heard).then_some(progress.matched)
    }

    fn check_proposal(&self) -> Result<(), Error> {
        let raft = &self.node.raft;
        if self.role() != Role::Leader {
            return Err(Error::NotLeader { leader: self.leader() });
        }
        if let Some(to) = raft.lead_transferee {
            return Err(Error::Transferring { to: NodeId(to) });
        }
        let uncommitted = raft.raft_log.last_index() - raft.raft_log.committed;
        if uncommitted >= self.config.uncommitted_max {
            return Err(Error::Overloaded { uncommitted });
        }
        Ok(())
    }

    /// A campaign would copy too much, look for entries that a snapshot has taken the place of, or
    /// be won at once, by the only voter that is left, whose log is not durable yet.
    fn lags(&self) -> bool {
        let (applied, log) = (self.applied_index(), &self.node.raft.raft_log);
        let installing = self.node.store().base_index() > applied;
        let unwritten =
            log.persisted < log.last_index() && self.members.now().is_sole(self.config.id);
        installing || unwritten || log.committed - applied > CAMPAIGN_LAG_MAX
    }

    /// A leader tells a replica of no more than that has acknowledged: whoever lacks it must not go
    /// on, nor vote.
    fn check_memory(&self, message: &Message) {
        let (id, last) = (self.config.id, self.last_index());
        let is_known = message.kind != MessageKind::Heartbeat
            || message.term < self.term()
            || message.commit <= last;
        assert!(
            is_known,
            "node {id} has acknowledged entry {} and has no more than {last}: it has lost data, or \
             was started on an empty directory as the node that it was; remove it from the cluster \
             and let it join anew, with an empty directory",
            message.commit
        );
    }

    /// Keeps raft-rs from moving a follower's next index to its match or below (#557): what a
    /// follower has acknowledged it does not reject, so such a rejection is stale. False: drop it.
    fn mend_rejection(&self, message: &mut Message) -> bool {
        if !message.reject || message.request_snapshot != 0 {
            return true;
        }
        let Some(progress) = self.node.raft.prs().get(message.from.0) else { return false };
        if message.term == self.node.raft.term && message.index <= progress.matched {
            return progress.matched == 0;
        }
        if message.reject_hint < progress.matched {
            // Without a term the hint is taken as it is.
            (message.reject_hint, message.log_term) = (progress.matched, 0);
        }
        true
    }

    /// Remembers the handles of entries that are about to be offered to raft-rs.
    fn stage(&mut self, entries: &[Entry]) {
        let log = self.node.store();
        let new = |entry: &&Entry| log.get(entry.index).is_none_or(|held| held.term != entry.term);
        self.staged.extend(entries.iter().filter(new));
    }

    /// Whether the newest change of members is known to be committed only with this commit index:
    /// it is logged then, since those who are left out forget what they had.
    fn decides(&self, commit: u64) -> bool {
        self.deciding > 0 && commit >= self.deciding
    }

    /// Carries one of raft-rs's batches over into `out`.
    fn take_ready(&mut self, mut ready: Ready, out: &mut Effects) {
        let decides = ready.hs().is_some_and(|hard| self.decides(hard.commit));
        self.ready_newest = ready.number();
        if ready.must_sync() || decides {
            self.write_newest = WriteId(ready.number());
            out.write = Some(self.write_newest);
        }
        if ready.ss().is_some() {
            out.role =
                Some(RoleChange { role: self.role(), leader: self.leader(), term: self.term() });
        }
        if let Some(hard) = ready.hs() {
            let (term, vote, commit) = (hard.term, some_id(hard.vote), hard.commit);
            out.hard_state = Some(HardState { term, vote, commit });
            if self.voted.0 != (term, hard.vote) {
                self.voted = ((term, hard.vote), self.write_newest);
            }
        }
        if decides {
            (self.deciding, self.decided) = (0, self.write_newest);
        }
        self.take_snapshot(&ready, out);
        self.take_entries(&ready, out);
        if let Some(last) = ready.committed_entries().last() {
            out.commit = Some(last.index);
        }
        for read in ready.take_read_states() {
            let context = message::decode_read(self.config.id, &read.request_ctx);
            out.reads.extend(context.map(|context| ReadState { context, index: read.index }));
        }
        self.take_messages(&mut ready, out);

        self.node.advance_append_async(ready);
        if self.write_newest == self.write_durable {
            // Nothing is in flight, so this batch has nothing to wait for. Unless told so, raft-rs
            // would keep a record of it until the next write, which an idle group never makes.
            self.node.on_persist_ready(self.ready_newest);
        }
    }

    fn take_snapshot(&mut self, ready: &Ready, out: &mut Effects) {
        if ready.snapshot().get_metadata().index == 0 {
            return;
        }
        let snapshot = message::snapshot_from_raft(ready.snapshot());
        self.members = Members::new(snapshot.index, snapshot.membership.clone());
        self.floor = (0, 0);
        self.lone = self.members.now().is_lone(self.config.id);
        self.node.mut_store().restore(snapshot.index, snapshot.term);
        out.append.clear();
        out.commit = None;
        out.install = Some(snapshot);
    }

    fn take_entries(&mut self, ready: &Ready, out: &mut Effects) {
        let mut next = 0;
        for raft in ready.entries() {
            let entry = find_staged(&self.staged, &mut next, raft);
            self.node.mut_store().append(entry);
            out.append.push(entry);
            if entry.kind == EntryKind::Membership {
                self.deciding = entry.index;
            }
        }
    }

    fn take_messages(&mut self, ready: &mut Ready, out: &mut Effects) {
        let log = self.node.store();
        let vote_write = Some(self.voted.1).filter(|write| *write > self.write_durable);
        for raft in ready.take_messages() {
            let message = Message::from_raft(raft, log);
            match vote_write {
                None => out.messages.extend(message),
                Some(write) => self.held.extend(message.map(|message| (write, message))),
            }
        }
        for raft in ready.take_persisted_messages() {
            let message = Message::from_raft(raft, log);
            self.held.extend(message.map(|message| (self.write_newest, message)));
        }
    }
}

/// The staged entry that raft-rs took in as `raft`; entries come in the order of staging.
fn find_staged(staged: &[Entry], next: &mut usize, raft: &eraftpb::Entry) -> Entry {
    let (index, term) = (raft.index, raft.term);
    if !raft.sync_log {
        let kind = match raft.entry_type {
            EntryType::EntryNormal => EntryKind::Empty,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Membership,
        };
        return Entry { index, term, kind, handle: Handle::default() };
    }
    let is_it = |entry: &Entry| entry.index == index && entry.term == term;
    let found = (*next..staged.len()).chain(0..*next).find(|&at| is_it(&staged[at]));
    let Some(at) = found else { panic!("entry {index} of term {term} was never staged") };
    *next = at + 1;
    staged[at]
}

/// A plea for votes that no leader has asked for.
fn is_unasked_campaign(message: &Message) -> bool {
    let asks = matches!(message.kind, MessageKind::Vote | MessageKind::PreVote);
    asks && message.context != CAMPAIGN_TRANSFER
}

/// Who belonged to the group since its log's begin; at first `born` unless it is known better.
fn restored_members(restored: &mut Restored, born: Membership) -> Result<Members, Error> {
    let known = restored.membership.take().unwrap_or(born);
    let mut members = Members::new(restored.snapshot_index, known);
    for (index, payload) in std::mem::take(&mut restored.changes) {
        members.enter(index, Change::decode(&payload)?.as_ref());
    }
    Ok(members)
}

/// The newest entry of members that is not known to be committed; 0: none.
fn newest_undecided(restored: &Restored) -> u64 {
    let known = restored.commit.max(restored.applied);
    let mut undecided = restored.entries.iter().rev().take_while(|entry| entry.index > known);
    let newest = undecided.find(|entry| entry.kind == EntryKind::Membership);
    newest.map_or(0, |entry| entry.index)
}

fn role_of(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}

fn some_id(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}
