//! Long commands, worked on in slices: many keys, or a value that takes long to log.
//!
//! While its job lasts a connection is busy: what it sent after waits, so that its order holds.
//! Other connections are served between the slices. A large value goes to the log ahead of the
//! entry that refers to it, a piece per slice, among everybody else's writes.

use std::rc::Rc;

use super::conn::Conn;
use super::keyspace::Sweep;
use super::remote::{self, Origin};
use super::round::KEYS_AT_ONCE_MAX;
use super::{Server, round};
use crate::command::{Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::mvcc::BlobRef;
use crate::protocol::resp::{Args, ArgsBuf, Proto, Reply};

/// Log bytes in flight from which on no more of a large value is appended: others go first.
const BLOB_BACKLOG_MAX: usize = 2 << 20;

/// A long command.
pub struct Job {
    origin: Origin,
    spec: &'static Spec,
    args: Rc<ArgsBuf>,
    db: u8,
    proto: Proto,
    /// Under which the connection expects the parts; none before the first slice.
    ticket: Option<u32>,
    /// Keys done.
    done: usize,
    /// The value of the next key on its way into the log, and how far it is.
    blob: Option<(BlobRef, usize)>,
    /// A walk over all keys, once it is begun.
    sweep: Option<Sweep>,
}

impl Job {
    /// A command of a connection of ours.
    pub fn of_conn(conn: &Conn, spec: &'static Spec, args: Args<'_>) -> Self {
        Self::new(Origin::Conn(conn.id), spec, args, conn.session.db, conn.session.proto)
    }

    /// A command of this shard's connection or another's.
    pub fn new(origin: Origin, spec: &'static Spec, args: Args<'_>, db: u8, proto: Proto) -> Self {
        let args = Rc::new(args.to_buf());
        Self { origin, spec, args, db, proto, ticket: None, done: 0, blob: None, sweep: None }
    }

    /// Keys done, and bytes of the next one's value logged.
    fn progress(&self) -> (usize, usize) {
        (self.done, self.blob.map_or(0, |(_, logged)| logged))
    }

    /// The connection of another shard that it is for, if it is.
    fn whose(&self) -> Option<(ShardId, ConnId)> {
        match self.origin {
            Origin::Conn(_) => None,
            Origin::Remote(shard, to) => Some((shard, to.conn)),
        }
    }
}

impl<E: Env> Server<E> {
    /// A slice of each job, but of those of one connection of another shard only the first: the
    /// others wait for it, in order.
    /// True: some got further; the others wait for the log.
    pub(super) fn run_jobs(&mut self) -> bool {
        let mut progressed = false;
        let mut unfinished: Vec<(ShardId, ConnId)> = Vec::new();
        for _ in 0..self.jobs.len() {
            let Some(mut job) = self.jobs.pop_front() else { break };
            if !self.is_wanted(&job) {
                continue;
            }
            let before = job.progress();
            let whose = job.whose();
            if whose.is_some_and(|whose| unfinished.contains(&whose)) {
                self.jobs.push_back(job);
            } else if self.run_slice(&mut job) {
                progressed = true;
                self.end_job(&job);
            } else {
                progressed |= job.progress() != before;
                unfinished.extend(whose);
                self.jobs.push_back(job);
            }
        }
        progressed
    }

    /// Whether a long command of a connection of another shard is being worked on: what comes after
    /// it becomes a job as well.
    pub(super) fn has_job_of(&self, from: ShardId, conn: ConnId) -> bool {
        self.jobs.iter().any(|job| job.whose() == Some((from, conn)))
    }

    fn is_wanted(&mut self, job: &Job) -> bool {
        match job.origin {
            Origin::Conn(id) => self.conn(id).is_some(),
            Origin::Remote(..) => true,
        }
    }

    fn end_job(&mut self, job: &Job) {
        if let Origin::Conn(id) = job.origin
            && let Some(conn) = self.conn(id)
        {
            conn.busy = conn.output.awaited_count() > 0;
            conn.answers_first = conn.busy;
            self.mark_dirty(id.index);
        }
    }

    /// True: the job is done.
    fn run_slice(&mut self, job: &mut Job) -> bool {
        let held = Rc::clone(&job.args);
        let args = held.args();
        if let (Run::Keyspace(parse), Origin::Remote(shard, to)) = (&job.spec.run, job.origin) {
            let Ok(what) = parse(&args) else { return true };
            if !what.is_long() {
                self.serve_keyspace((shard, to), job.spec, what, &args, (job.db, job.proto));
                return true;
            }
            let sweep = job.sweep.get_or_insert_default();
            job.done += 1;
            return self.sweep_slice(sweep, (shard, to), what, &args, job.db);
        }
        let mut scratch = Vec::new();
        let indices = job.spec.key_indices(&args).skip(job.done).take(KEYS_AT_ONCE_MAX);
        for at in indices {
            let here = round::find(&self.shard, job.db, args.get(at), &mut scratch).is_ok();
            if here && !self.log_value(&mut job.blob, job.spec, args, at) {
                return false;
            }
            self.run_key(job, args, at);
            job.done += 1;
            job.blob = None;
        }
        job.done >= job.spec.key_indices(&args).len()
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

    fn run_key(&mut self, job: &mut Job, args: Args<'_>, at: usize) {
        let Run::Keyed(keyed) = &job.spec.run else { return };
        let blob = job.blob.map(|(blob, _)| blob);
        match job.origin {
            Origin::Conn(id) => {
                let parts = job.spec.key_indices(&args).len() as u32;
                let ticket = match job.ticket {
                    Some(ticket) => ticket,
                    None => self.expect(id.index, keyed, parts),
                };
                job.ticket = Some(ticket);
                let part = (ticket, job.done as u32);
                self.run_part(id.index, job.spec, args, at, part, blob);
            }
            Origin::Remote(shard, to) => {
                let answer = self.evaluate_for(job.spec, args, at, job.db, job.proto, blob);
                self.answer(shard, to, answer);
            }
        }
    }

    /// One key of a command, into an answer of its own.
    pub(super) fn evaluate_for(
        &mut self,
        spec: &'static Spec,
        args: Args<'_>,
        at: usize,
        db: u8,
        proto: Proto,
        blob: Option<BlobRef>,
    ) -> remote::Answered {
        let Run::Keyed(keyed) = &spec.run else { return remote::Answered::default() };
        let mut answered = remote::Answered::default();
        let mut scratch = Vec::new();
        let mut reply = Reply::new(proto, &mut answered.body, &mut answered.splices);
        if let Err(error) = self.shard.admit(spec) {
            reply.error(&error.to_string());
            return answered;
        }
        match round::find(&self.shard, db, args.get(at), &mut scratch) {
            Ok(target) => {
                let evaluated = self.shard.evaluate(target, keyed, args, at, blob, &mut reply);
                answered.count = evaluated.count as i64;
                answered.hold = evaluated.hold.map(|entry| (target.place, entry));
            }
            Err(_) => reply.error("TRYAGAIN the slot has moved: send the command again"),
        }
        answered
    }
}
