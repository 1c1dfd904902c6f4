//! Requests that cross shards, and the answers to them.
//!
//! A request for a key of another shard goes into that shard's parcel; the connection gets a gate
//! that its answer opens. The other shard evaluates it as its own and answers when the entry is
//! committed: what has to wait is kept in a table, under a number that the partition hands back.

use std::sync::Arc;

use super::Server;
use super::conn::Conn;
use super::job::Job;
use super::ledger::{self, Ledger};
use super::output::{Part, Whole};
use super::round;
use super::together::{Group, Place};
use crate::ack::Ack;
use crate::command::{Keyed, Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::{PartitionId, ShardId};
use crate::partition::Waiter;
use crate::protocol::resp::{Args, Proto, Reply};
use crate::shard::mailbox::{Answer, Element, Parcel, Request};
use crate::shard::{Caller, Client, Holds, Scope, Transaction};

/// The ticket of a reply that nobody wants (`CLIENT REPLY OFF`).
pub const NO_TICKET: u32 = u32::MAX;

/// The ticket of an answer that is not a reply: what another shard watches for a connection.
pub const WATCH_TICKET: u32 = u32::MAX - 1;

/// The ticket of an answer that is not a reply: what became of a connection's transaction.
pub const EXEC_TICKET: u32 = u32::MAX - 2;

/// The ticket of an answer that is not a reply: to a question to all shards.
pub const ASK_TICKET: u32 = u32::MAX - 3;

/// What a write ends as whose leader lost the leadership before a majority had it.
pub const LED_NO_MORE: &str =
    "UNKNOWN the leader of the partition has changed: whether the write is kept is unknown";

/// What a request is answered that came to a shard which does not lead its partition any more.
pub const LEADS_NO_MORE: &str =
    "the leader of the partition has changed, nothing was done: try again";

/// Set in waiters that are answers to other shards; the rest is the place in the table.
const HELD: u64 = 1 << 63;

/// Which reply, or part of one, an answer is for.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The connection, on the shard that asked.
    pub conn: ConnId,
    /// Which of its commands.
    pub ticket: u32,
    /// What the answer waits for.
    pub ack: Ack,
}

impl Address {
    /// The reply of a connection of this shard.
    pub fn of(conn: &Conn, ticket: u32) -> Self {
        Self { conn: conn.id, ticket, ack: conn.session.answers_at() }
    }

    /// Of an answer that tells of nothing that was written.
    pub fn plain(conn: ConnId, ticket: u32) -> Self {
        Self { conn, ticket, ack: Ack::Quorum }
    }

    /// Whoever sent a request here.
    pub fn of_request(request: &Request) -> Self {
        Self { conn: request.conn, ticket: request.ticket, ack: request.ack }
    }
}

/// Whose command a job is.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Of a connection of this shard.
    Conn(ConnId),
    /// Of another shard, to be answered there.
    Remote(ShardId, Address),
}

/// The outcome of a command, or of some keys of it, encoded.
#[derive(Debug, Default)]
pub struct Answered {
    /// Encoded reply or elements.
    pub body: Vec<u8>,
    /// Large values in it.
    pub splices: Vec<(usize, Arc<Vec<u8>>)>,
    /// For commands that count.
    pub count: i64,
    /// What has to commit first.
    pub holds: Holds,
    /// The parts of the body, if the command is split.
    pub elements: Vec<Element>,
}

impl Answered {
    /// An error, for each of these parts if the command is split.
    pub fn error(text: &str, parts: impl Iterator<Item = u32>) -> Self {
        let body = format!("-{text}\r\n").into_bytes();
        let len = body.len() as u32;
        let elements = parts.map(|part| Element { part, at: 0, len }).collect();
        Self { body, elements, ..Self::default() }
    }
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
    /// Sends a command to the shard that has its keys.
    pub(super) fn forward(
        &mut self,
        shard: ShardId,
        to: Address,
        spec: &'static Spec,
        args: Args<'_>,
        (db, proto): (u8, Proto),
    ) {
        self.note_too_old(shard);
        let request = self.request(to, spec);
        let parcel = self.mailbox.to(shard);
        let first = parcel.spans.len() as u32;
        (0..args.len()).for_each(|arg| parcel.push_arg(&args, arg));
        let (args, resp3) = ((first, args.len() as u32), proto == Proto::Resp3);
        parcel.requests.push(Request { db, resp3, args, ..request });
    }

    /// A request of no arguments, as its caller wants it.
    fn request(&mut self, to: Address, spec: &'static Spec) -> Request {
        self.shard.stats().forwarded_requests.add(1);
        let Address { conn, ticket, ack } = to;
        let remembers = self.shard.caller().is_some_and(|caller| caller.remembers);
        let stale = self.shard.stale_max().is_some();
        let (parts, args, transaction) = ((0, 0), (0, 0), None);
        let (db, resp3) = (0, false);
        Request { conn, ticket, parts, spec, db, resp3, remembers, stale, ack, args, transaction }
    }

    /// Sends a command that is about all keys to a shard that has some of them.
    pub(super) fn forward_walk(
        &mut self,
        shard: ShardId,
        to: Address,
        spec: &'static Spec,
        args: Args<'_>,
        of: (u8, Proto),
        scope: &Scope,
    ) {
        self.forward(shard, to, spec, args, of);
        let parcel = self.mailbox.to(shard);
        let first = parcel.parts.len() as u32;
        parcel.parts.extend(scope.named().iter().map(|id| id.0));
        let request = parcel.requests.last_mut().expect("it was pushed");
        request.parts = (first, scope.named().len() as u32);
    }

    /// Sends a transaction to the shard that has its keys.
    pub(super) fn forward_transaction(
        &mut self,
        shard: ShardId,
        to: Address,
        spec: &'static Spec,
        transaction: Arc<Transaction>,
    ) {
        let request = self.request(to, spec);
        let parcel = self.mailbox.to(shard);
        let transactions = &mut parcel.transactions;
        transactions.push(transaction);
        let transaction = Some(transactions.len() as u32 - 1);
        parcel.requests.push(Request { transaction, ..request });
    }

    /// Sends the part of a command that is about a shard's keys to that shard.
    pub(super) fn forward_group(&mut self, shard: ShardId, to: Address, group: &Group<'_>) {
        let Group { spec, args, keys, db, proto, .. } = *group;
        if let Run::Keyed(Keyed::One(_)) = spec.run {
            return self.forward(shard, to, spec, args, (db, proto));
        }
        self.note_too_old(shard);
        self.shard.stats().forwarded_requests.add(1);
        let remembers = self.shard.caller().is_some_and(|caller| caller.remembers);
        let stale = self.shard.stale_max().is_some();
        let parcel = self.mailbox.to(shard);
        let (first, parts) = (parcel.spans.len() as u32, parcel.parts.len() as u32);
        parcel.push_arg(&args, 0);
        for key in keys {
            let at = key.at as usize;
            (at..at + spec.keys.step as usize).for_each(|arg| parcel.push_arg(&args, arg));
            parcel.parts.push(key.part);
        }
        let (parts, args) =
            ((parts, keys.len() as u32), (first, parcel.spans.len() as u32 - first));
        let (resp3, Address { conn, ticket, ack }) = (proto == Proto::Resp3, to);
        let transaction = None;
        let request = Request {
            conn,
            ticket,
            parts,
            spec,
            db,
            resp3,
            remembers,
            stale,
            ack,
            args,
            transaction,
        };
        parcel.requests.push(request);
    }

    /// Takes in everything other shards sent. False: nothing.
    pub(super) fn receive_mail(&mut self) -> bool {
        let mut some = false;
        let far = |server: &mut Self| server.peers.as_mut().and_then(|peers| peers.receive());
        while let Some((from, parcel)) = self.mailbox.receive().or_else(|| far(self)) {
            if !std::mem::replace(&mut some, true) {
                self.ledger.begin_turn(self.env.now());
            }
            // Whoever sent it may know of an observer that was not there when the turn began.
            self.look_for_observers();
            for request in &parcel.requests {
                self.shard.set_stale_max(self.stale_max_of(request));
                match self.is_owner_of(request, &parcel) {
                    true => self.serve(from, request, &parcel),
                    false => self.postpone_request(from, request, &parcel),
                }
            }
            self.shard.set_stale_max(None);
            for answer in &parcel.answers {
                self.take_answer(answer, &parcel);
            }
            self.receive_typed(from, &parcel);
            // After the answers: what was read before the change is with the reader first.
            self.receive_invalidations(from, &parcel);
        }
        some
    }

    pub(super) fn serve(&mut self, from: ShardId, request: &Request, parcel: &Parcel) {
        let args = parcel.args(request);
        let Request { conn, spec, .. } = *request;
        let address = Address::of_request(request);
        if let Run::PubSub(what) = spec.run {
            return self.serve_pubsub((from, address), spec, what, &args);
        }
        // Of those at the connection only MONITOR's lines are mailed.
        if let Run::Connection(_) = spec.run {
            return self.give_to_monitors(args.get(1));
        }
        if let Run::Node(wide) = spec.run {
            return self.serve_question((from, address), wide, &args);
        }
        let alone = self.slow.times_each() || ledger::is_timed_alone(spec, &args);
        let began = alone.then(|| self.env.now());
        self.serve_part(from, request, parcel, args);
        match began {
            None => self.ledger.serve(spec),
            Some(began) => {
                let took = self.env.now().saturating_sub(began);
                self.ledger.charge_alone(spec, took, self.shard.stats());
                self.note_slow((from, conn), spec, &args, took);
            }
        }
    }

    fn serve_part(&mut self, from: ShardId, request: &Request, parcel: &Parcel, args: Args<'_>) {
        let transaction =
            request.transaction.map(|at| Arc::clone(&parcel.transactions[at as usize]));
        let Request { conn, spec, db, resp3, remembers, .. } = *request;
        let address = Address::of_request(request);
        let proto = round::proto_of(resp3);
        if remembers {
            self.note_far_reader(from);
        }
        if self.shard.is_observed() {
            let caller = Caller { client: Client { shard: from, conn }, remembers };
            self.shard.set_caller(Some(caller));
        }
        // What came after a long command of the same connection is run after it.
        let is_long = round::is_long(spec, &args) || self.is_long_walk(spec, &args, db);
        let wait = self.is_away(spec, &args, db, transaction.as_deref());
        if is_long || wait.is_some() || self.has_job_of(from, conn) {
            let origin = Origin::Remote(from, address);
            let keys = keys_of(request, parcel);
            let mut job = Job::new(origin, spec, args, keys, (db, proto));
            (job.transaction, job.caller) = (transaction, self.shard.caller());
            (job.wait, job.scope) = (wait, scope_of(request, parcel));
            job.stale_max = self.shard.stale_max();
            return self.jobs.push(job);
        }
        match spec.run {
            Run::Keyspace(parse) => {
                if let Ok(what) = parse(&args) {
                    let (to, scope) = ((from, address), scope_of(request, parcel));
                    self.serve_keyspace(to, spec, what, &args, (db, proto), &scope);
                }
            }
            Run::Transaction(_) => {
                let answered =
                    self.serve_transaction((from, conn), transaction.as_deref(), args, db);
                self.answer(from, address, answered);
            }
            Run::Together(_) => {
                let answered = self.evaluate_alone(spec, args, db, proto);
                self.answer(from, address, answered);
            }
            _ => {
                let keys = keys_of(request, parcel);
                let group = Group { spec, args, keys: &keys, db, proto, blobs: &[] };
                let answered = self.evaluate_group(&group);
                self.answer(from, address, answered);
            }
        }
    }

    /// A command of another shard whose keys are judged together.
    pub(super) fn evaluate_alone(
        &mut self,
        spec: &'static Spec,
        args: Args<'_>,
        db: u8,
        proto: Proto,
    ) -> Answered {
        if let Err(refused) = self.shard.admit(spec) {
            return Answered::error(&refused.to_string(), std::iter::empty());
        }
        let mut answered = Answered::default();
        let Answered { body, splices, holds, .. } = &mut answered;
        let mut reply = Reply::new(proto, body, splices);
        self.shard.begin_together();
        self.shard.evaluate_whole(spec, args, db, &mut reply, holds);
        self.shard.end_together();
        answered
    }

    /// Answers another shard, now or when all its entries are as safe as its client asked for.
    pub(super) fn answer(&mut self, to: ShardId, address: Address, answered: Answered) {
        if address.ticket == NO_TICKET {
            return;
        }
        let holds = answered.holds.clone();
        if holds.iter().len() == 0 {
            return self.send_answer(to, address, answered);
        }
        let missing = holds.iter().len() as u32 + 1;
        let index = self.keep(Held { to, address, answered, missing });
        for (place, entry) in holds.iter() {
            let (of, waiter) = ((place, entry), Waiter(HELD | u64::from(index)));
            if self.shard.wait(of, address.ack, waiter).is_none() {
                self.answer_held(index);
            }
        }
        self.answer_held(index);
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
        let Address { conn, ticket, .. } = address;
        if to == self.shard.id() {
            return self.take_part(conn, ticket, Part::of(&answered));
        }
        let (elements, body, splices) = ((0, 0), (0, 0), (0, 0));
        let answer = Answer { conn, ticket, elements, count: answered.count, body, splices };
        let Answered { body, elements, splices, .. } = &mut answered;
        self.mailbox.to(to).push_answer(answer, body, elements, splices);
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

    /// The entry will not be known to be committed here: whether it is, nobody knows.
    pub(super) fn abandon_held(&mut self, index: u32) {
        let Some(mut held) = self.held[index as usize].take() else { return };
        self.held_free.push(index);
        let text = match self.shard.failure() {
            Some(_) => "UNKNOWN the log failed: whether the write is kept is unknown",
            None => LED_NO_MORE,
        };
        let parts = held.answered.elements.iter().map(|element| element.part);
        held.answered = Answered::error(text, parts);
        self.send_answer(held.to, held.address, held.answered);
    }

    fn take_answer(&mut self, answer: &Answer, parcel: &Parcel) {
        let (first, len) = answer.splices;
        let (element, elements) = answer.elements;
        let part = Part {
            elements: &parcel.elements[element as usize..][..elements as usize],
            count: answer.count,
            body: parcel.slice(answer.body),
            splices: &parcel.splices[first as usize..][..len as usize],
        };
        self.take_part(answer.conn, answer.ticket, part);
    }

    fn take_part(&mut self, id: ConnId, ticket: u32, part: Part<'_>) {
        match ticket {
            WATCH_TICKET => return self.take_watched(id, part),
            EXEC_TICKET => return self.take_executed(id, part),
            ASK_TICKET => return self.take_told(id, part),
            _ => {}
        }
        let Some(conn) = self.conn(id) else { return };
        let whole = conn.output.answer(ticket, part);
        if whole.is_some() {
            self.mark_dirty(id.index);
        }
        self.note_whole(whole);
    }

    /// Counts what a reply that came in parts took.
    pub(super) fn note_whole(&self, whole: Option<Whole>) {
        let Some(Whole { call, error }) = whole else { return };
        self.ledger.finish(call, self.shard.stats());
        if let Some(error) = error.as_deref().and_then(|error| error.strip_prefix(b"-")) {
            Ledger::fail(call, error, self.shard.stats());
        }
    }
}

/// Which parts of its reply a request is about; none: it is answered as a whole.
pub(super) fn parts_of<'p>(request: &Request, parcel: &'p Parcel) -> &'p [u32] {
    match request.spec.run {
        Run::Keyed(_) => named_parts(request, parcel),
        // Of others they say no more than where it looks.
        _ => &[],
    }
}

fn named_parts<'p>(request: &Request, parcel: &'p Parcel) -> &'p [u32] {
    let (first, len) = request.parts;
    &parcel.parts[first as usize..][..len as usize]
}

/// The partitions that a request is about that is about all keys.
pub(super) fn scope_of(request: &Request, parcel: &Parcel) -> Scope {
    match named_parts(request, parcel) {
        [] => Scope::ALL,
        parts => Scope::of(parts.iter().map(|id| PartitionId(*id)).collect()),
    }
}

/// The keys of a request, and which parts of the reply they are.
fn keys_of(request: &Request, parcel: &Parcel) -> Vec<Place> {
    let mut keys = Place::all(request.spec, &parcel.args(request));
    keys.iter_mut().zip(named_parts(request, parcel)).for_each(|(key, part)| key.part = *part);
    keys
}
