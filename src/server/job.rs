//! Long commands, worked on in slices: many keys, or a value that takes long to log.
//!
//! While its job lasts a connection is busy: what it sent after waits, so that its order holds.
//! Other connections are served between the slices. A large value goes to the log ahead of the
//! entry that refers to it, a piece per slice, among everybody else's writes. The keys of an MSET
//! are ordered by partition and those of one partition are one slice, however many they are: so
//! that they are one entry, and nobody sees some of them without the others.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::conn::Conn;
use super::ledger::Call;
use super::remote::{LEADS_NO_MORE, NO_TICKET, Origin};
use super::round::{self, KEYS_AT_ONCE_MAX};
use super::sweep::{Asked, Slice, Sweep};
use super::tally::{HASHER, Tally, Whose};
use super::together::{self, Group, Place};
use super::{Server, away};
use crate::cluster::SlotMap;
use crate::command::{Keyed, Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::lsm::key;
use crate::mvcc::BlobRef;
use crate::protocol::resp::{Args, ArgsBuf, Proto};
use crate::shard::{Caller, Rooms, Scope, Transaction, Wait};

/// Log bytes in flight from which on no more of a large value is appended: others go first.
pub(super) const BLOB_BACKLOG_MAX: usize = 2 << 20;

/// A long command.
pub struct Job {
    origin: Origin,
    /// Which.
    pub spec: &'static Spec,
    args: Rc<ArgsBuf>,
    /// Of which database its keys are.
    pub db: u8,
    proto: Proto,
    /// Whose latency it is, if it is of a connection of ours.
    call: Call,
    /// Under which the connection expects the parts; none before the first slice.
    ticket: Option<u32>,
    /// Its keys, in the order of work.
    keys: Vec<Place>,
    /// Keys done.
    done: usize,
    /// Keys whose values are in the log, as far as they have to be; at least as many.
    logged: usize,
    /// The values of keys to come that are in the log.
    blobs: Vec<(u32, BlobRef)>,
    /// The value of the next key on its way there, and how far it is.
    blob: Option<(BlobRef, usize)>,
    /// An EXEC that has to wait for a long command before it.
    pub transaction: Option<Arc<Transaction>>,
    /// For whom it is, if that matters.
    pub caller: Option<Caller>,
    /// Time of this core in it.
    spent: Duration,
    /// Of which partitions it is, if it is a walk over all keys.
    pub scope: Scope,
    /// That walk, once it is begun.
    sweep: Option<Sweep>,
    /// Until its next keys are in memory, and there is room.
    pub wait: Option<Wait>,
    /// The room that it was given.
    pub given: Rooms,
    /// How old what it is answered may be, if it may be old.
    pub stale_max: Option<Duration>,
}

/// All that are being worked on, in the order in which they came.
#[derive(Default)]
pub(super) struct Jobs {
    /// In boxes, since those that wait are passed over each turn.
    queue: VecDeque<Box<Job>>,
    tally: Tally,
}

impl Jobs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes one in.
    pub fn push(&mut self, job: Job) {
        job.whose().into_iter().for_each(|whose| self.tally.add(whose));
        self.queue.push_back(Box::new(job));
    }

    /// One has ended.
    fn forget(&mut self, whose: Option<Whose>) {
        whose.into_iter().for_each(|whose| self.tally.remove(whose));
    }
}

impl Job {
    /// A command of a connection of ours.
    pub fn of_conn(
        conn: &Conn,
        (call, caller): (Call, Option<Caller>),
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Self {
        let keys = Place::all(spec, &args);
        let of = (conn.session.db, conn.session.proto);
        Self { call, caller, ..Self::new(Origin::Conn(conn.id), spec, args, keys, of) }
    }

    /// A command of this shard's connection or another's.
    pub fn new(
        origin: Origin,
        spec: &'static Spec,
        args: Args<'_>,
        mut keys: Vec<Place>,
        (db, proto): (u8, Proto),
    ) -> Self {
        if in_one_step(spec) {
            // By slot is by partition, too. Stable: of two values of one key the last one stays.
            keys.sort_by_key(|key| key::slot_of(args.get(key.at as usize)).0);
        }
        let args = Rc::new(args.to_buf());
        let (ticket, done, logged, blobs, blob) = (None, 0, 0, Vec::new(), None);
        Self {
            origin,
            spec,
            args,
            db,
            proto,
            call: Call::default(),
            ticket,
            keys,
            done,
            logged,
            blobs,
            blob,
            transaction: None,
            caller: None,
            spent: Duration::ZERO,
            scope: Scope::ALL,
            sweep: None,
            wait: None,
            given: Rooms::default(),
            stale_max: None,
        }
    }

    /// The oldest of its large values that are in the log, or on their way there.
    fn blob_oldest(&self) -> Option<u64> {
        let named = self.blobs.iter().map(|(_, blob)| blob.id);
        named.chain(self.blob.map(|(blob, _)| blob.id)).min()
    }

    /// How far it is.
    fn progress(&self) -> (usize, usize, usize) {
        (self.done, self.logged, self.blob.map_or(0, |(_, logged)| logged))
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The keys that are not done.
    pub fn keys_left(&self) -> impl Iterator<Item = Place> {
        self.keys[self.done..].iter().copied()
    }

    /// Whether keys of it are being fetched.
    fn is_waiting(&self) -> bool {
        self.wait.as_ref().is_some_and(|wait| !wait.is_over())
    }

    /// The keys of the next slice.
    pub fn slice(&self, map: &SlotMap) -> Vec<Place> {
        let rest = &self.keys[self.done..];
        let args = self.args.args();
        let of = |key: &Place| map.partition_of(key::slot_of(args.get(key.at as usize)));
        match rest.first().map(of).filter(|_| in_one_step(self.spec)) {
            Some(first) => rest.iter().take_while(|key| of(key) == first).copied().collect(),
            None => rest[..rest.len().min(KEYS_AT_ONCE_MAX)].to_vec(),
        }
    }

    /// The connection of another shard that it is for, if it is.
    fn whose(&self) -> Option<(ShardId, ConnId)> {
        away::whose(self.origin)
    }
}

impl<E: Env> Server<E> {
    /// A slice of each job, but of those of one connection of another shard only the first: the
    /// others wait for it, in order.
    /// True: some got further; the others wait for the log.
    pub(super) fn run_jobs(&mut self) -> bool {
        let mut progressed = false;
        let mut unfinished: HashSet<Whose, _> = HashSet::with_hasher(HASHER);
        for _ in 0..self.jobs.queue.len() {
            let Some(mut job) = self.jobs.queue.pop_front() else { break };
            let whose = job.whose();
            let is_behind = whose.is_some_and(|whose| unfinished.contains(&whose));
            if !self.is_wanted(&job) {
                self.jobs.forget(whose);
            } else if is_behind || job.is_waiting() {
                unfinished.extend(whose);
                self.jobs.queue.push_back(job);
            } else {
                let before = job.progress();
                if self.run_timed_slice(&mut job) {
                    progressed = true;
                    self.jobs.forget(whose);
                    self.end_job(&job);
                } else {
                    progressed |= job.progress() != before;
                    unfinished.extend(whose);
                    self.jobs.queue.push_back(job);
                }
            }
        }
        progressed
    }

    /// The oldest large value that is in the log, or on its way there, for a command to come.
    pub(super) fn blob_oldest(&self) -> Option<u64> {
        let of_jobs = self.jobs.queue.iter().filter_map(|job| job.blob_oldest()).min();
        of_jobs.into_iter().chain(self.long_blob_oldest()).min()
    }

    /// Whether a long command of a connection of another shard is being worked on: what comes after
    /// it becomes a job as well.
    pub(super) fn has_job_of(&self, from: ShardId, conn: ConnId) -> bool {
        self.jobs.tally.has((from, conn))
    }

    /// Whether this shard still leads what a job, which may have waited, is about.
    fn owns(&self, job: &Job, args: &Args<'_>) -> bool {
        let is_here = |slot| self.shard.locate(slot).is_ok();
        match &job.transaction {
            Some(transaction) => transaction.slots().into_iter().all(is_here),
            None if matches!(job.spec.run, Run::Together(_) | Run::Transaction(_)) => {
                job.spec.key_indices(args).all(|at| is_here(key::slot_of(args.get(at))))
            }
            None => true,
        }
    }

    fn is_wanted(&mut self, job: &Job) -> bool {
        match job.origin {
            Origin::Conn(id) => self.conn(id).is_some(),
            Origin::Remote(..) => true,
        }
    }

    fn end_job(&mut self, job: &Job) {
        let whose = match job.origin {
            Origin::Conn(id) => (self.shard.id(), id),
            Origin::Remote(shard, to) => (shard, to.conn),
        };
        self.note_slow(whose, job.spec, &job.args.args(), job.spent);
        if let Origin::Conn(id) = job.origin
            && let Some(conn) = self.conn(id)
        {
            // A WATCH is busy until all shards have said what they watch.
            if !matches!(job.spec.run, Run::Transaction(_)) {
                conn.busy = conn.output.awaited_count() > 0;
                conn.answers_first = conn.busy;
            }
            self.mark_dirty(id.index);
        }
    }

    fn run_timed_slice(&mut self, job: &mut Job) -> bool {
        let began = self.env.now();
        self.shard.set_stale_max(job.stale_max);
        let done = self.run_slice(job);
        self.shard.set_stale_max(None);
        let took = self.env.now().saturating_sub(began);
        self.ledger.charge_alone(job.spec, took, self.shard.stats());
        job.spent += took;
        done
    }

    /// True: the job is done.
    fn run_slice(&mut self, job: &mut Job) -> bool {
        let held = Rc::clone(&job.args);
        let args = held.args();
        self.shard.set_caller(job.caller);
        if let Some(wait) = job.wait.take() {
            job.given = wait.given();
            if let Some(error) = wait.error() {
                self.fail_job(job, &error);
                return true;
            }
        }
        if !self.seek_for(job, &args) {
            return false;
        }
        if let (Run::Keyspace(parse), Origin::Remote(shard, to)) = (&job.spec.run, job.origin) {
            let Ok(what) = parse(&args) else { return true };
            if job.sweep.is_none() && !self.takes_long(what, job.db) {
                let of = (job.db, job.proto);
                self.serve_keyspace((shard, to), job.spec, what, &args, of, &job.scope);
                return true;
            }
            let Job { db, proto, ref scope, .. } = *job;
            let asked = Asked { what, args: &args, db, proto, scope };
            let sweep = job.sweep.get_or_insert_default();
            let slice = self.sweep_slice(sweep, (shard, to), asked);
            job.done += usize::from(matches!(slice, Slice::More));
            return matches!(slice, Slice::Last);
        }
        if let (Run::Transaction(_), Origin::Conn(id)) = (&job.spec.run, job.origin) {
            self.watch_again(id, job.spec, args);
            return true;
        }
        if matches!(job.origin, Origin::Remote(..)) && !self.owns(job, &args) {
            self.fail_job(job, &format!("TRYAGAIN {LEADS_NO_MORE}"));
            return true;
        }
        if let (Run::Transaction(_), Origin::Remote(shard, to)) = (&job.spec.run, job.origin) {
            let answered =
                self.serve_transaction((shard, to.conn), job.transaction.as_deref(), args, job.db);
            self.answer(shard, to, answered);
            return true;
        }
        if let (Run::Together(_), Origin::Remote(shard, to)) = (&job.spec.run, job.origin) {
            let answered = self.evaluate_alone(job.spec, args, job.db, job.proto);
            self.answer(shard, to, answered);
            return true;
        }
        let keys = job.slice(self.shard.map());
        while let Some(key) = keys.get(job.logged - job.done) {
            let here = self.shard.locate(key::slot_of(args.get(key.at as usize))).is_ok();
            if here && !self.log_value(&mut job.blob, job.spec, args, key.at as usize) {
                return false;
            }
            job.blobs.extend(job.blob.take().map(|(blob, _)| (key.at, blob)));
            job.logged += 1;
        }
        self.run_keys(job, args, &keys);
        job.done = job.logged;
        job.blobs.clear();
        job.done >= job.keys.len()
    }

    /// Appends a piece of the key's value to the log, if it is long. True: it is all there, or the
    /// key will be refused.
    fn log_value(
        &mut self,
        blob: &mut Option<(BlobRef, usize)>,
        spec: &Spec,
        args: Args<'_>,
        at: usize,
    ) -> bool {
        if self.shard.admit(spec).is_err() {
            return true;
        }
        let until = match spec.keys.step {
            // It holds the value in another form.
            _ if spec.name == "restore" => return true,
            2.. => at + spec.keys.step as usize,
            _ if spec.key_indices(&args).len() == 1 => args.len(),
            // Keys alone.
            _ => return true,
        };
        let large = (at..until).find_map(|arg| args.shared(arg));
        let Some(value) = large.filter(|value| value.len() > round::VALUE_AT_ONCE_MAX) else {
            return true;
        };
        let (named, logged) = match *blob {
            Some(begun) => begun,
            None => (self.shard.new_blob(value.len()), 0),
        };
        let behind = self.shard.backlog_len() > BLOB_BACKLOG_MAX;
        let logged = if behind { logged } else { self.shard.log_blob(named, value, logged) };
        *blob = Some((named, logged));
        logged == value.len()
    }

    fn run_keys(&mut self, job: &mut Job, args: Args<'_>, keys: &[Place]) {
        let Run::Keyed(keyed) = &job.spec.run else { return };
        match job.origin {
            Origin::Conn(id) => {
                let ticket = self.ticket_of(id, job, keyed);
                self.run_groups(id.index, ticket, job.spec, args, keys, &job.blobs);
            }
            Origin::Remote(shard, to) => {
                let (spec, db, proto) = (job.spec, job.db, job.proto);
                let group = Group { spec, args, keys, db, proto, blobs: &job.blobs };
                let answered = self.evaluate_group(&group);
                self.answer(shard, to, answered);
            }
        }
    }
}

impl<E: Env> Server<E> {
    /// Under which a connection expects the parts of its job.
    pub(super) fn ticket_of(&mut self, id: ConnId, job: &mut Job, keyed: &Keyed) -> u32 {
        let (parts, combine, call) = (job.keys.len() as u32, together::combine(keyed), job.call);
        let expect = || match self.conn(id) {
            Some(conn) => match conn.session.replies() {
                true => conn.output.expect(call, combine, parts),
                false => NO_TICKET,
            },
            None => NO_TICKET,
        };
        *job.ticket.get_or_insert_with(expect)
    }
}

/// Whether the keys of one partition are written in one step.
fn in_one_step(spec: &Spec) -> bool {
    matches!(spec.run, Run::Keyed(Keyed::AllOk(_)))
}
