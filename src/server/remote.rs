//! Requests that cross shards, and the answers to them.
//!
//! A request for a key of another shard goes into that shard's parcel; the connection gets a gate
//! that its answer opens. The other shard evaluates it as its own and answers when the entry is
//! committed: what has to wait is kept in a table, under a number that the partition hands back.

use std::sync::Arc;

use super::Server;
use super::job::Job;
use super::output::Part;
use super::{keyspace, round};
use crate::command::{Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::partition::Waiter;
use crate::protocol::resp::{Args, Proto};
use crate::shard::mailbox::{Answer, Parcel, Request};

/// The ticket of a reply that nobody wants (`CLIENT REPLY OFF`).
pub const NO_TICKET: u32 = u32::MAX;

/// Set in waiters that are answers to other shards; the rest is the place in the table.
const HELD: u64 = 1 << 63;

/// Which reply, or part of one, an answer is for.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The connection, on the shard that asked.
    pub conn: ConnId,
    /// Which of its commands.
    pub ticket: u32,
    /// Which key of it.
    pub part: u32,
}

/// Whose command a job is.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Of a connection of this shard.
    Conn(ConnId),
    /// Of another shard, to be answered there.
    Remote(ShardId, Address),
}

/// The outcome of one key, encoded.
#[derive(Debug, Default)]
pub struct Answered {
    /// Encoded reply or element.
    pub body: Vec<u8>,
    /// Large values in it.
    pub splices: Vec<(usize, Arc<Vec<u8>>)>,
    /// For commands that count.
    pub count: i64,
    /// What has to commit first: place of the partition, entry.
    pub hold: Option<(u32, u64)>,
}

/// An answer that waits for a commit, or for several.
pub struct Held {
    to: ShardId,
    address: Address,
    answered: Answered,
    /// Commits still missing.
    missing: u32,
}

/// The waiter of a connection.
pub fn conn_waiter(index: u32) -> Waiter {
    Waiter(u64::from(index))
}

/// The place in the table of held answers, if the waiter is one.
pub fn held_index(waiter: Waiter) -> Option<u32> {
    (waiter.0 & HELD != 0).then_some(waiter.0 as u32)
}

impl<E: Env> Server<E> {
    /// Sends one key's part of a command to the shard that has the key.
    pub(super) fn forward(
        &mut self,
        shard: ShardId,
        to: Address,
        spec: &'static Spec,
        args: Args<'_>,
        at: usize,
        (db, proto): (u8, Proto),
    ) {
        self.shard.stats().forwarded_requests.add(1);
        let parcel = self.mailbox.to(shard);
        let first = parcel.spans.len() as u32;
        parcel.push_arg(&args, 0);
        let step = spec.keys.step.max(1) as usize;
        let single = spec.key_indices(&args).len() == 1;
        let wanted = if single { 1..args.len() } else { at..at + step };
        wanted.for_each(|arg| parcel.push_arg(&args, arg));
        let len = parcel.spans.len() as u32 - first;
        parcel.requests.push(Request {
            conn: to.conn,
            ticket: to.ticket,
            part: to.part,
            spec,
            db,
            resp3: proto == Proto::Resp3,
            args: (first, len),
        });
    }

    /// Takes in everything other shards sent.
    pub(super) fn receive_mail(&mut self) {
        while let Some((from, parcel)) = self.mailbox.receive() {
            for request in &parcel.requests {
                self.serve(from, request, &parcel);
            }
            for answer in &parcel.answers {
                self.take_answer(answer, &parcel);
            }
        }
    }

    fn serve(&mut self, from: ShardId, request: &Request, parcel: &Parcel) {
        let args = parcel.args(request);
        let Request { conn, ticket, part, spec, db, resp3, .. } = *request;
        let address = Address { conn, ticket, part };
        let proto = round::proto_of(resp3);
        // What came after a long command of the same connection is run after it.
        let is_long = round::is_long(spec, &args) || keyspace::is_long(spec, &args);
        if is_long || self.has_job_of(from, conn) {
            let origin = Origin::Remote(from, address);
            return self.jobs.push_back(Job::new(origin, spec, args, db, proto));
        }
        match spec.run {
            Run::Keyspace(parse) => {
                if let Ok(what) = parse(&args) {
                    self.serve_keyspace((from, address), spec, what, &args, (db, proto));
                }
            }
            // The slots of a shard's keys do not move while it runs; its first key tells for all.
            _ => {
                let at = spec.keys.first as usize;
                let answered = self.evaluate_for(spec, args, at, db, proto, None);
                self.answer(from, address, answered);
            }
        }
    }

    /// Answers another shard when all of `waits` are committed.
    pub(super) fn answer_after(
        &mut self,
        to: ShardId,
        address: Address,
        answered: Answered,
        mut waits: Vec<(u32, u64)>,
    ) {
        if address.ticket == NO_TICKET {
            return;
        }
        waits.sort_unstable();
        waits.dedup();
        let index = self.keep(Held { to, address, answered, missing: waits.len() as u32 + 1 });
        for (place, entry) in waits {
            if self.shard.wait(place, entry, Waiter(HELD | u64::from(index))) {
                self.answer_held(index);
            }
        }
        self.answer_held(index);
    }

    /// Answers another shard, now or when the entry is committed.
    pub(super) fn answer(&mut self, to: ShardId, address: Address, answered: Answered) {
        if address.ticket == NO_TICKET {
            return;
        }
        let hold = answered.hold;
        let Some((place, entry)) = hold else { return self.send_answer(to, address, answered) };
        let index = self.keep(Held { to, address, answered, missing: 1 });
        if self.shard.wait(place, entry, Waiter(HELD | u64::from(index))) {
            self.answer_held(index);
        }
    }

    fn keep(&mut self, held: Held) -> u32 {
        let index = self.held_free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() as u32 - 1
        });
        self.held[index as usize] = Some(held);
        index
    }

    fn send_answer(&mut self, to: ShardId, address: Address, mut answered: Answered) {
        let Address { conn, ticket, part } = address;
        let count = answered.count;
        if to == self.shard.id() {
            let part = Part { part, count, body: &answered.body, splices: &answered.splices };
            return self.take_part(conn, ticket, part);
        }
        let answer = Answer { conn, ticket, part, count, body: (0, 0), splices: (0, 0) };
        let parcel = self.mailbox.to(to);
        parcel.push_answer(answer, &answered.body, &mut answered.splices);
    }

    /// An entry that a held answer waited for is committed.
    pub(super) fn answer_held(&mut self, index: u32) {
        let Some(held) = self.held[index as usize].as_mut() else { return };
        held.missing -= 1;
        if held.missing == 0 {
            let held = self.held[index as usize].take().expect("looked at");
            self.held_free.push(index);
            self.send_answer(held.to, held.address, held.answered);
        }
    }

    /// The log failed before the entry was committed: whether it is on disk, nobody knows.
    pub(super) fn abandon_held(&mut self, index: u32) {
        let Some(mut held) = self.held[index as usize].take() else { return };
        self.held_free.push(index);
        held.answered = Answered {
            body: b"-MISCONF the log failed: whether the write is kept is unknown\r\n".to_vec(),
            ..Answered::default()
        };
        self.send_answer(held.to, held.address, held.answered);
    }

    fn take_answer(&mut self, answer: &Answer, parcel: &Parcel) {
        let (first, len) = answer.splices;
        let part = Part {
            part: answer.part,
            count: answer.count,
            body: parcel.slice(answer.body),
            splices: &parcel.splices[first as usize..][..len as usize],
        };
        self.take_part(answer.conn, answer.ticket, part);
    }

    fn take_part(&mut self, id: ConnId, ticket: u32, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        if conn.output.answer(ticket, part) {
            self.mark_dirty(id.index);
        }
    }
}
