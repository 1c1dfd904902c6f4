//! Replies that tell of what is not committed yet, by the entry that they wait for.
//!
//! A turn's writes to a partition are one entry, so a thousand replies wait in one buffer and leave
//! it together. All of them wait under one [`WAITER`]: whose entry is committed is looked up when
//! it is called.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Asker, Large, encode};
use crate::env::Env;
use crate::partition::Waiter;
use crate::protocol::binary::{Class, Code, FLAG_ERROR, Failure, LONG_LEN_MIN, Opcode, Retry};
use crate::server::Server;
use crate::server::remote::LED_NO_MORE;
use crate::shard::Hold;

/// The waiter of all held replies.
pub const WAITER: Waiter = Waiter(1 << 62);

/// Buffers kept for reuse.
const SPARE_MAX: usize = 64;

/// An entry to wait for: place of the partition, number.
pub(super) type Wait = (u32, u64);

struct Held {
    asker: Asker,
    /// Where its frame is in the group's bytes.
    frame: (usize, usize),
    large: Large,
    /// What it waits for after this.
    more: Vec<Wait>,
}

#[derive(Default)]
struct Group {
    hold: Hold,
    bytes: Vec<u8>,
    held: Vec<Held>,
}

/// See the module's header. Lives on one core.
#[derive(Default)]
pub(super) struct Holds {
    /// In the order of their first reply.
    groups: VecDeque<Group>,
    spare: Vec<Group>,
    /// Held replies to requests with a deadline.
    deadlined: usize,
}

impl Holds {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group of an entry: nearly always among the newest.
    fn group(&mut self, hold: Hold) -> &mut Group {
        let found = self.groups.iter().rposition(|group| group.hold == hold);
        let at = found.unwrap_or_else(|| {
            let spare = self.spare.pop().unwrap_or_default();
            self.groups.push_back(Group { hold, ..spare });
            self.groups.len() - 1
        });
        &mut self.groups[at]
    }

    /// Keeps a reply, which `body` appends the body of, until all of its waits are over.
    pub fn hold(
        &mut self,
        asker: &Asker,
        (hold, more): (Hold, Vec<Wait>),
        flags: u16,
        body: impl FnOnce(&mut Vec<u8>) -> Large,
    ) {
        self.deadlined += usize::from(!asker.deadline.is_zero());
        let group = self.group(hold);
        let at = group.bytes.len();
        let large = encode(&mut group.bytes, &asker.header, flags, body);
        let frame = (at, group.bytes.len());
        group.held.push(Held { asker: *asker, frame, large, more });
    }

    fn recycle(&mut self, mut group: Group) {
        if self.spare.len() < SPARE_MAX && group.bytes.capacity() <= 256 << 10 {
            group.bytes.clear();
            group.held.clear();
            self.spare.push(group);
        }
    }
}

impl<E: Env> Server<E> {
    /// Sends the replies for whose entry enough was waited.
    pub(in crate::server) fn release_typed(&mut self) {
        let mut at = 0;
        while let Some(group) = self.binary.holds.groups.get(at) {
            if !self.shard.has_met(group.hold) {
                at += 1;
                continue;
            }
            let mut group = self.binary.holds.groups.remove(at).expect("looked at");
            for held in group.held.drain(..) {
                self.binary.holds.deadlined -= usize::from(!held.asker.deadline.is_zero());
                let frame = &group.bytes[held.frame.0..held.frame.1];
                self.settle_held(&held.asker, frame, held.large, held.more);
            }
            self.binary.holds.recycle(group);
        }
    }

    /// What a reply waited for has happened: it leaves, or waits for the next.
    pub(super) fn settle_held(
        &mut self,
        asker: &Asker,
        frame: &[u8],
        large: Large,
        mut more: Vec<(u32, u64)>,
    ) {
        while let Some(wait) = more.pop() {
            if let Some(hold) = self.shard.wait(wait, asker.ack(), WAITER) {
                self.binary.holds.deadlined += usize::from(!asker.deadline.is_zero());
                let group = self.binary.holds.group(hold);
                let at = group.bytes.len();
                group.bytes.extend_from_slice(frame);
                let frame = (at, group.bytes.len());
                return group.held.push(Held { asker: *asker, frame, large, more });
            }
        }
        self.deliver_typed(asker, frame, large.as_ref());
    }

    /// The log failed, or the leadership of a partition was lost: what is held for it will never be
    /// known to be true.
    pub(in crate::server) fn abandon_typed(&mut self) {
        let (code, text) = match self.shard.failure() {
            Some(_) => (Code::LogFailed, "the log failed: whether the write is kept is unknown"),
            None => (Code::LeaderChanged, LED_NO_MORE),
        };
        for group in std::mem::take(&mut self.binary.holds.groups) {
            // What a reply is to wait for later counts too: nobody would ever tell of it.
            let is_lost = |(place, entry): &Wait| self.shard.has_lost(*place, *entry);
            let all = code == Code::LogFailed || is_lost(&(group.hold.place, group.hold.index));
            let mut group = group;
            let lost = group.held.extract_if(.., |held| all || held.more.iter().any(is_lost));
            let lost: Vec<_> = lost.map(|held| held.asker).collect();
            if !group.held.is_empty() {
                self.binary.holds.groups.push_back(group);
            }
            for asker in lost {
                self.binary.holds.deadlined -= usize::from(!asker.deadline.is_zero());
                self.end_unknown(&asker, Failure::new(code, text));
            }
        }
    }

    /// Ends what is held past its deadline.
    pub(super) fn expire_held(&mut self) {
        if self.binary.holds.deadlined == 0 {
            return;
        }
        let now = self.env.now();
        let is_late = |deadline: Duration| !deadline.is_zero() && deadline < now;
        let mut late = Vec::new();
        for group in &mut self.binary.holds.groups {
            let ended = group.held.extract_if(.., |held| is_late(held.asker.deadline));
            late.extend(ended.map(|held| held.asker));
        }
        self.binary.holds.deadlined -= late.len();
        for asker in late {
            let text = "the deadline passed while the log was being written";
            self.end_unknown(&asker, Failure::new(Code::DeadlineExceeded, text));
        }
    }

    /// Answers with an error what was evaluated and may or may not become durable.
    fn end_unknown(&mut self, asker: &Asker, failure: Failure<'_>) {
        let reads = [Opcode::Get, Opcode::MultiGet, Opcode::Scan, Opcode::Copy];
        let failure = match Opcode::of(asker.header.opcode) {
            Some(opcode) if reads.contains(&opcode) => {
                Failure { class: Class::NotDone, retry: Retry::Now, ..failure }
            }
            _ => Failure { class: Class::Unknown, ..failure },
        };
        self.note_failure(asker, failure.code);
        let mut frame = Vec::new();
        encode(&mut frame, &asker.header, FLAG_ERROR, |out| {
            failure.encode(out);
            None
        });
        self.deliver_typed(asker, &frame, None);
    }

    /// Hands a reply to its connection, to the shard that has it, or to the gathering that it is a
    /// part of.
    fn deliver_typed(&mut self, asker: &Asker, frame: &[u8], large: Option<&Arc<Vec<u8>>>) {
        match large {
            Some(value) if value.len() > LONG_LEN_MIN => self.begin_summing(asker, frame, value),
            _ => self.hand_over(asker, frame, large),
        }
    }

    /// As [`Server::deliver_typed`], of a frame that is finished.
    pub(super) fn hand_over(&mut self, asker: &Asker, frame: &[u8], large: Option<&Arc<Vec<u8>>>) {
        if asker.shard == self.shard.id() {
            return match asker.part {
                Some(part) => self.take_typed_part(part, frame),
                None => self.give_typed(asker.conn, asker.cost(), frame, large),
            };
        }
        let parcel = self.mailbox.to(asker.shard);
        let at = parcel.bytes.len();
        parcel.bytes.extend_from_slice(frame);
        parcel.answer_typed((asker.conn, asker.part, asker.cost()), at, large.cloned());
    }
}
