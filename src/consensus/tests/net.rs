//! Some replicas, their disks and the wires between them, all in one thread, with a transcript.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use super::super::*;

/// What survives a crash, and the writes that do not yet.
#[derive(Default)]
struct Disk {
    hard_state: HardState,
    /// (index, term) of what the log begins behind.
    base: (u64, u64),
    /// Who belonged to the group there, if not those of its birth.
    membership: Option<Membership>,
    floor: (u64, u64),
    entries: Vec<Entry>,
    in_flight: VecDeque<DiskWrite>,
}

struct DiskWrite {
    id: WriteId,
    hard_state: Option<HardState>,
    install: Option<Snapshot>,
    append: Vec<Entry>,
}

pub(super) struct Node {
    pub(super) group: Group,
    pub(super) up: bool,
    disk: Disk,
    /// The tree: what it has applied. Nets of an even seed lose it in a crash, as far as the log
    /// has it.
    applied: u64,
}

/// The whole cluster. Node ids are 1 and so on.
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) wires: VecDeque<Message>,
    pub(super) transcript: String,
    /// What some replica applied at an index; any other must apply the same.
    pub(super) chosen: BTreeMap<u64, Entry>,
    pub(super) reads: Vec<(u64, ReadState)>,
    /// Who led in a term for which its vote was durable; nobody else does.
    leaders: BTreeMap<u64, u64>,
    seed: u64,
    /// The voters at the group's birth.
    born: Vec<NodeId>,
    payloads: u64,
    /// The payloads of membership entries, by their handles' places.
    changes: BTreeMap<u64, Vec<u8>>,
    /// Who was said to be done without, by a leader of a term that had applied an entry, and by
    /// whom it is done.
    pub(super) rumours: Vec<(u64, (u64, u64), Membership)>,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, 3, 3)
    }

    /// `count` nodes; the first `voters` of them are the group's at its birth.
    pub(super) fn with(seed: u64, count: u64, voters: u64) -> Self {
        let born: Vec<_> = (1..=voters).map(NodeId).collect();
        let nodes = (1..=count)
            .map(|id| Node {
                group: group(id, seed, &born, Restored::default()),
                up: true,
                disk: Disk::default(),
                applied: 0,
            })
            .collect();
        Self {
            nodes,
            wires: VecDeque::new(),
            transcript: String::new(),
            chosen: BTreeMap::new(),
            reads: Vec::new(),
            leaders: BTreeMap::new(),
            seed,
            born,
            payloads: 0,
            changes: BTreeMap::new(),
            rumours: Vec::new(),
        }
    }

    pub(super) fn ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.nodes.len() as u64
    }

    pub(super) fn group(&mut self, id: u64) -> &mut Group {
        &mut self.nodes[id as usize - 1].group
    }

    pub(super) fn say(&mut self, line: &str) {
        writeln!(self.transcript, "{line}").expect("a string takes all");
    }

    /// Who leads the highest term, among those up.
    pub(super) fn leader(&self) -> Option<u64> {
        let up = self.nodes.iter().zip(1u64..).filter(|(node, _)| node.up);
        up.filter(|(node, _)| node.group.role() == Role::Leader)
            .max_by_key(|(node, _)| node.group.term())
            .map(|(_, id)| id)
    }

    /// Proposes a payload that is like no other.
    pub(super) fn propose(&mut self, id: u64) -> Result<(u64, u64), Error> {
        self.payloads += 1;
        let handle = Handle { lsn: Lsn(self.payloads), len: 100, tag: 0 };
        self.group(id).propose(handle)
    }

    /// Proposes that these be the group's members.
    pub(super) fn propose_members(
        &mut self,
        id: u64,
        voters: &[u64],
        learners: &[u64],
    ) -> Result<(u64, u64), Error> {
        let ids = |numbers: &[u64]| numbers.iter().map(|id| NodeId(*id)).collect();
        let change = Change { voters: ids(voters), learners: ids(learners) };
        let mut payload = Vec::new();
        change.encode(&mut payload);
        self.payloads += 1;
        let handle = Handle { lsn: Lsn(self.payloads), len: payload.len() as u32, tag: 0 };
        self.changes.insert(self.payloads, payload);
        self.group(id).propose_membership(&change, handle)
    }

    /// Who belongs to the group, as a node knows.
    pub(super) fn members(&mut self, id: u64) -> Membership {
        let applied = self.group(id).applied_index();
        self.group(id).membership(applied).expect("the newest is known").clone()
    }

    pub(super) fn tick(&mut self, id: u64) {
        if self.nodes[id as usize - 1].up {
            self.group(id).tick();
            self.turn(id);
        }
    }

    /// Drains a node and carries its effects out: writes stay in flight.
    pub(super) fn turn(&mut self, id: u64) {
        let mut out = Effects::default();
        self.group(id).drain(&mut out);
        self.narrate(id, &out);
        self.check_leader(id);
        let Effects { append, hard_state, write, messages, commit, reads, install, .. } = out;
        let node = &mut self.nodes[id as usize - 1];
        match write {
            Some(write) => {
                node.disk.in_flight.push_back(DiskWrite { id: write, hard_state, install, append })
            }
            None => assert!(append.is_empty() && install.is_none(), "{append:?} {install:?}"),
        }
        self.wires.extend(messages);
        self.reads.extend(reads.into_iter().map(|read| (id, read)));
        if let Some(commit) = commit {
            self.apply(id, commit);
        }
        if let Some(peer) = out.snapshot_wanted {
            let applied = self.nodes[id as usize - 1].applied;
            self.say(&format!("{id} offers {peer} a snapshot at {applied}"));
            self.group(id).offer_snapshot(peer, applied);
        }
    }

    /// A sole voter leads before its vote is durable, but neither says nor commits anything: should
    /// it crash then, another may lead in that term.
    fn check_leader(&mut self, id: u64) {
        let node = &self.nodes[id as usize - 1];
        let term = node.group.term();
        if node.group.role() == Role::Leader && node.disk.hard_state.term == term {
            let known = *self.leaders.entry(term).or_insert(id);
            assert_eq!(known, id, "two leaders in term {term}");
        }
    }

    fn apply(&mut self, id: u64, commit: u64) {
        let node = &mut self.nodes[id as usize - 1];
        for index in node.applied + 1..=commit {
            let entry = node.group.entry(index).expect("a committed entry is held");
            let durable = node.disk.entries.contains(&entry);
            assert!(durable, "node {id} applies {entry:?} before it is durable");
            let chosen = *self.chosen.entry(index).or_insert(entry);
            assert_eq!(chosen, entry, "node {id} disagrees");
            if entry.kind == EntryKind::Membership {
                let payload = self.changes.get(&entry.handle.lsn.0);
                let payload = payload.map_or(&[][..], Vec::as_slice);
                node.group.decided(index, payload).expect("it was proposed");
            }
        }
        assert!(commit > node.applied, "node {id}: commit {commit} after {}", node.applied);
        node.applied = commit;
        node.group.applied(commit);
    }

    /// The oldest write of a node becomes durable.
    pub(super) fn sync(&mut self, id: u64) -> bool {
        let node = &mut self.nodes[id as usize - 1];
        let Some(write) = node.disk.in_flight.pop_front() else { return false };
        let disk = &mut node.disk;
        disk.hard_state = write.hard_state.unwrap_or(disk.hard_state);
        let installed = write.install.map(|snapshot| {
            disk.entries.clear();
            disk.base = (snapshot.index, snapshot.term);
            disk.membership = Some(snapshot.membership);
            disk.floor = (0, 0);
            snapshot.index
        });
        for entry in write.append {
            disk.entries.retain(|held| held.index < entry.index);
            disk.entries.push(entry);
        }
        node.group.persisted(write.id);
        if let Some(index) = installed {
            node.applied = index;
            node.group.applied(index);
        }
        self.turn(id);
        true
    }

    /// A node says that another is no member, if it leads and that is so.
    pub(super) fn say_without(&mut self, id: u64, other: u64) {
        if self.group(id).role() != Role::Leader || !self.group(id).remembers_members() {
            return;
        }
        let members = self.members(id);
        let as_of = (self.group(id).term(), self.group(id).applied_index());
        if !members.contains(NodeId(other)) {
            self.rumours.push((other, as_of, members));
        }
    }

    /// A node hears what was said of it, perhaps long ago. True: its log is gone.
    pub(super) fn hear(&mut self, at: usize) -> bool {
        let Some((id, as_of, members)) = self.rumours.get(at).cloned() else { return false };
        if !self.group(id).may_vacate(as_of) {
            return false;
        }
        self.group(id).note_term(as_of.0);
        self.turn(id);
        while self.sync(id) {}
        self.say(&format!("{id} is vacated"));
        let node = &mut self.nodes[id as usize - 1];
        node.group.vacate(members.clone());
        let (hard_state, floor) = (node.disk.hard_state, node.group.floor());
        let hard_state = HardState { commit: 0, ..hard_state };
        let membership = Some(members);
        node.disk = Disk { hard_state, floor, membership, ..Disk::default() };
        node.applied = 0;
        self.turn(id);
        true
    }

    /// Hands over the message at `at` of the wires.
    pub(super) fn deliver(&mut self, at: usize) {
        let Some(message) = self.wires.remove(at) else { return };
        let id = message.to.0;
        if self.nodes[id as usize - 1].up {
            self.group(id).step(message).expect("replicas send nothing malformed");
            self.turn(id);
        }
    }

    /// Whether no message is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.wires.is_empty()
    }

    /// Whether a message of this kind is the next to be handed over.
    pub(super) fn is_next(&self, kind: MessageKind) -> bool {
        self.wires.front().is_some_and(|message| message.kind == kind)
    }

    /// How many messages are on their way to a node.
    pub(super) fn wires_to(&self, id: u64) -> usize {
        self.wires.iter().filter(|message| message.to.0 == id).count()
    }

    /// Hands over all that is on its way to a node.
    pub(super) fn deliver_to(&mut self, id: u64) {
        while let Some(at) = self.wires.iter().position(|message| message.to.0 == id) {
            self.deliver(at);
        }
    }

    /// What a driver does when a snapshot takes too long: lost on its way, or with its receiver.
    pub(super) fn give_up_snapshots(&mut self) {
        for id in self.ids() {
            for peer in self.ids().filter(|peer| *peer != id) {
                self.group(id).snapshot_sent(NodeId(peer), false);
            }
        }
    }

    /// All disks and wires at work until nothing is left to do.
    pub(super) fn settle(&mut self) {
        loop {
            let mut busy = false;
            for id in self.ids() {
                self.turn(id);
                while self.sync(id) {
                    busy = true;
                }
            }
            while !self.wires.is_empty() {
                self.deliver(0);
                busy = true;
            }
            if !busy {
                return;
            }
        }
    }

    /// Ticks everyone, settling in between, until someone leads.
    pub(super) fn elect(&mut self) -> u64 {
        for _ in 0..1000 {
            if let Some(id) = self.leader() {
                return id;
            }
            self.tick_all();
        }
        panic!("no leader after 1000 ticks:\n{}", self.transcript);
    }

    pub(super) fn tick_all(&mut self) {
        self.ids().for_each(|id| self.tick(id));
        self.settle();
    }

    /// What was not durable is gone.
    pub(super) fn crash(&mut self, id: u64) {
        self.say(&format!("{id} crashes"));
        let node = &mut self.nodes[id as usize - 1];
        node.up = false;
        node.disk.in_flight.clear();
        if self.seed.is_multiple_of(2) {
            node.applied = node.disk.base.0;
        }
        node.group = group(id, self.seed, &self.born, node.restored(&self.changes));
    }

    pub(super) fn restart(&mut self, id: u64) {
        self.say(&format!("{id} restarts"));
        self.nodes[id as usize - 1].up = true;
    }

    fn narrate(&mut self, id: u64, out: &Effects) {
        let text = &mut self.transcript;
        let mut line = |words: String| writeln!(text, "{id} {words}").expect("a string takes all");
        if let Some(RoleChange { role, leader, term }) = out.role {
            line(format!("is {role:?} in term {term}, led by {}", leader.unwrap_or_default()));
        }
        if let Some(snapshot) = &out.install {
            line(format!("installs a snapshot at {}@{}", snapshot.index, snapshot.term));
        }
        for Entry { index, term, kind, handle } in &out.append {
            line(format!("appends {index}@{term} {kind:?} {}", handle.lsn));
        }
        if let Some(HardState { term, vote, commit }) = out.hard_state {
            let vote = vote.unwrap_or_default();
            line(format!("hard state: term {term} vote {vote} commit {commit}"));
        }
        if let Some(commit) = out.commit {
            line(format!("applies up to {commit}"));
        }
        for message in &out.messages {
            line(describe(message));
        }
    }
}

impl Node {
    fn restored(&self, changes: &BTreeMap<u64, Vec<u8>>) -> Restored {
        let HardState { term, vote, commit } = self.disk.hard_state;
        let applied = self.disk.entries.iter().filter(|entry| entry.index <= self.applied);
        let decided = applied.filter(|entry| entry.kind == EntryKind::Membership);
        let payload = |entry: &Entry| changes.get(&entry.handle.lsn.0).cloned().unwrap_or_default();
        Restored {
            term,
            vote,
            commit,
            applied: self.applied,
            snapshot_index: self.disk.base.0,
            snapshot_term: self.disk.base.1,
            floor: self.disk.floor,
            entries: self.disk.entries.clone(),
            membership: self.disk.membership.clone(),
            changes: decided.map(|entry| (entry.index, payload(entry))).collect(),
        }
    }
}

fn group(id: u64, seed: u64, born: &[NodeId], restored: Restored) -> Group {
    let config = Config::new(NodeId(id), born.to_vec(), seed);
    Group::new(config, restored).expect("the disk holds what was acknowledged")
}

fn describe(message: &Message) -> String {
    let Message { kind, to, term, index, log_term, commit, .. } = message;
    let entries: Vec<_> = message.entries.iter().map(|entry| entry.index).collect();
    let verdict = if message.reject { " REJECTED" } else { "" };
    format!(
        "-> {to} {kind:?} term {term} at {index}@{log_term} commit {commit} {entries:?}{verdict}"
    )
}
