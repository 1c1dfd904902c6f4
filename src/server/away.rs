//! Commands on keys that are not in memory: they wait until what the tables have of them is there.
//! And commands that write when memory is short, or the log is behind: they wait for room, by the
//! same road.
//!
//! A command is looked at when all is known that decides where it runs, and before anything of it
//! is done: whoever has to wait becomes a job, as a long command does, so that what its connection
//! sends after waits too, in order. While it waits, what is behind it in a pipeline is fetched
//! already.
//!
//! Not here: how rows are fetched ([`crate::shard`]); walks over keys ([`super::sweep`]).

use super::job::Job;
use super::output::Combine;
use super::remote::{Address, Answered, Origin};
use super::round;
use super::together::Place;
use super::transaction::len_of;
use super::{Server, remote};
use crate::command::{Flags, Run, Spec};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::Args;
use crate::shard::{Target, Transaction, Wait};

impl<E: Env> Server<E> {
    /// Has the keys of a command fetched that are this shard's and not in memory, and asks for the
    /// room that it needs. True: it may be evaluated.
    pub(super) fn seek(&mut self, spec: &Spec, args: &Args<'_>, db: u8, wait: &Wait) -> bool {
        let (dbs, keys) = match &spec.run {
            // What it says to a wrong one, it says when it is run.
            Run::Together(together) => {
                let dbs = (together.dbs)(args, db).unwrap_or([db; 2]);
                (dbs, together.key_indices(spec, args))
            }
            _ => ([db; 2], spec.key_indices(args).collect()),
        };
        self.seek_keys(spec, args, dbs, &keys, wait)
    }

    /// As [`Server::seek`], for some of its keys.
    pub(super) fn seek_keys(
        &mut self,
        spec: &Spec,
        args: &Args<'_>,
        dbs: [u8; 2],
        keys: &[usize],
        wait: &Wait,
    ) -> bool {
        if !self.shard.may_wait() {
            return true;
        }
        let is_fetched = !self.shard.is_partial() || self.shard.is_blind(spec, args);
        let (mut scratch, mut all, mut is_here) = (Vec::new(), true, false);
        for (nth, at) in keys.iter().enumerate() {
            let found = round::find(&self.shard, dbs[nth.min(1)], args.get(*at), &mut scratch);
            if let Ok(target) = found {
                is_here = true;
                all &= is_fetched || self.shard.seek(target, wait);
            }
        }
        all & (!is_here || self.shard.seek_room(spec, len_of(args), wait))
    }

    /// As [`Server::seek`], for all that a transaction looks at.
    pub(super) fn seek_transaction(&mut self, transaction: &Transaction, wait: &Wait) -> bool {
        if !self.shard.may_wait() {
            return true;
        }
        let mut all = true;
        for watched in &transaction.watched {
            let Ok(place) = self.shard.locate(watched.slot) else { continue };
            let (key, hash) =
                (&*watched.key, self.shard.partition(place).memtable().hash(&watched.key));
            all &= self.shard.seek(Target { place, hash, key }, wait);
        }
        // Room for all of it, at once.
        let writes = transaction.steps.iter().filter(|step| step.spec.flags.has(Flags::DENYOOM));
        let len = writes.clone().map(|step| len_of(&step.args.args())).sum();
        if let Some(first) = writes.clone().next() {
            all &= self.shard.seek_room(first.spec, len, wait);
        }
        for step in &transaction.steps {
            all &= self.seek(step.spec, &step.args.args(), step.db, wait);
        }
        all
    }

    /// The one key of a command that is about to be evaluated. True: it waits.
    #[inline]
    pub(super) fn parks_one(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        target: Target<'_>,
    ) -> bool {
        if !self.shard.may_wait() {
            return false;
        }
        let wait = Wait::default();
        let has_room = self.shard.seek_room(spec, len_of(&args), &wait);
        let is_fetched = !self.shard.is_partial() || self.shard.is_blind(spec, &args);
        if (is_fetched || self.shard.seek(target, &wait)) && has_room {
            return false;
        }
        self.park(index, spec, args, wait);
        true
    }

    /// The keys of a command of a connection. True: it waits for some that are here.
    pub(super) fn parks(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) -> bool {
        let Some(Some(conn)) = self.conns.get(index as usize) else { return false };
        let (db, wait) = (conn.session.db, Wait::default());
        if self.seek(spec, &args, db, &wait) {
            return false;
        }
        self.park(index, spec, args, wait);
        true
    }

    fn park(&mut self, index: u32, spec: &'static Spec, args: Args<'_>, wait: Wait) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        conn.busy = true;
        let with = (self.ledger.wait(), self.shard.caller());
        let mut job = Job::of_conn(conn, with, spec, args);
        (job.wait, job.stale_max) = (Some(wait), self.shard.stale_max());
        self.jobs.push(job);
    }

    /// As [`Server::parks`], of a command whose keys are judged together.
    pub(super) fn parks_together(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> bool {
        let conn = self.conns[index as usize].as_deref().expect("the caller found it");
        let (db, proto, wait) = (conn.session.db, conn.session.proto, Wait::default());
        if self.seek(spec, &args, db, &wait) {
            return false;
        }
        let ticket = self.expect(index, Combine::Whole, 1);
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        (conn.busy, conn.answers_first) = (true, true);
        let to = Address::of(conn, ticket);
        let origin = Origin::Remote(self.shard.id(), to);
        let mut job = Job::new(origin, spec, args, Vec::new(), (db, proto));
        (job.wait, job.caller) = (Some(wait), self.shard.caller());
        self.jobs.push(job);
        true
    }

    /// Fetches what a command will look at that waits behind another of its connection.
    pub(super) fn foresee_key(&mut self, spec: &Spec, args: &Args<'_>, target: Target<'_>) {
        if self.shard.is_partial() && !self.shard.is_blind(spec, args) {
            self.shard.seek(target, &Wait::default());
        }
    }

    /// Has fetched what the next slice of a job looks at, and asks for room before the first.
    /// True: it is all there.
    pub(super) fn seek_for(&mut self, job: &mut Job, args: &Args<'_>) -> bool {
        if !self.shard.may_wait() {
            return true;
        }
        let wait = Wait::with(job.given);
        let is_known = match (&job.spec.run, &job.transaction) {
            (Run::Transaction(_), Some(transaction)) => {
                let transaction = std::sync::Arc::clone(transaction);
                self.seek_transaction(&transaction, &wait)
            }
            (Run::Transaction(_) | Run::Together(_), _) => self.seek(job.spec, args, job.db, &wait),
            (Run::Keyed(_), _) => {
                let keys = job.slice(self.shard.map());
                let keys: Vec<_> = keys.iter().map(|key| key.at as usize).collect();
                self.seek_keys(job.spec, args, [job.db; 2], &keys, &wait)
            }
            _ => true,
        };
        job.given = wait.given();
        if !is_known {
            job.wait = Some(wait);
        }
        is_known
    }

    /// Ends a job whose keys can not be read.
    pub(super) fn fail_job(&mut self, job: &mut Job, error: &str) {
        // Only the keys of these are parts of the reply.
        let is_keyed = matches!(job.spec.run, Run::Keyed(_));
        let parts: Vec<_> = job.keys_left().filter(|_| is_keyed).collect();
        let answered = Answered::error(error, parts.iter().map(|place: &Place| place.part));
        match job.origin() {
            Origin::Remote(shard, to) => self.answer(shard, to, answered),
            Origin::Conn(id) => self.fail_job_of(id, job, &answered),
        }
    }

    fn fail_job_of(&mut self, id: ConnId, job: &mut Job, answered: &Answered) {
        let Run::Keyed(keyed) = &job.spec.run else { return self.refuse(id.index, "IOERR") };
        let ticket = self.ticket_of(id, job, keyed);
        if ticket != remote::NO_TICKET {
            self.take_group(id.index, ticket, answered);
        }
    }

    /// Whether a request of another shard has to wait for keys.
    pub(super) fn is_away(
        &mut self,
        spec: &Spec,
        args: &Args<'_>,
        db: u8,
        transaction: Option<&Transaction>,
    ) -> Option<Wait> {
        if !self.shard.may_wait() {
            return None;
        }
        let wait = Wait::default();
        let is_known = match (&spec.run, transaction) {
            (_, Some(transaction)) => self.seek_transaction(transaction, &wait),
            (Run::Keyed(_) | Run::Together(_) | Run::Transaction(_), None) => {
                self.seek(spec, args, db, &wait)
            }
            _ => true,
        };
        (!is_known).then_some(wait)
    }
}

/// Whose job it is.
pub(super) fn whose(origin: Origin) -> Option<(ShardId, ConnId)> {
    match origin {
        Origin::Conn(_) => None,
        Origin::Remote(shard, to) => Some((shard, to.conn)),
    }
}
