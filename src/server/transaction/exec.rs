//! EXEC: where the keys of what is queued are, and running it if that is here.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::Server;
use super::super::job::Job;
use super::super::node::View;
use super::super::remote::{self, Origin};
use super::elsewhere::Running;
use super::{Pending, is_on_keys};
use crate::command::question::Told;
use crate::command::{Keyspace, ReplyMode, Run, Session, Spec};
use crate::env::Env;
use crate::id::{ShardId, Slot};
use crate::lsm::key;
use crate::protocol::resp::{ArgsBuf, Proto, Reply};
use crate::shard::{Caller, Client, Holds, Step, Transaction, Wait};

const CROSSED: &str = "CROSSSLOT A transaction that watches keys must have all its keys on one \
                       core, give them one {hash tag}; nothing was executed";

const LISTENING: &str = "CROSSSLOT A connection that listens to channels must have all keys of a \
                         transaction on one core, give them one {hash tag}; nothing was executed";

/// Where a transaction runs.
enum Place {
    /// On this shard, in one step.
    At(ShardId),
    /// On several, one command after the other.
    Several,
}

fn slots_of(steps: &[Step]) -> impl Iterator<Item = Slot> {
    steps.iter().filter(|step| is_on_keys(step.spec)).flat_map(|step| {
        let args = step.args.args();
        step.spec.key_indices(&args).map(move |at| key::slot_of(args.get(at)))
    })
}

fn is_flush(step: &Step) -> bool {
    let Run::Keyspace(parse) = step.spec.run else { return false };
    let what = parse(&step.args.args());
    matches!(what, Ok(Keyspace::FlushAll | Keyspace::FlushDb))
}

impl<E: Env> Server<E> {
    pub(super) fn exec(&mut self, index: u32, spec: &'static Spec) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let mut pending = conn.pending.take().expect("EXEC comes after MULTI");
        if pending.is_broken {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.refuse(index, text);
        }
        self.note_transaction(&pending);
        let shard = match self.where_to_run(&pending) {
            Ok(Place::At(shard)) => shard,
            // A message would come between the elements of the reply.
            Ok(Place::Several) if self.listens(index, &pending) => {
                return self.refuse(index, LISTENING);
            }
            Ok(Place::Several) => return self.exec_in_turn(index, *pending),
            Err(text) => return self.refuse(index, text),
        };
        if let Some((step, wide)) = pending.next_question() {
            let (asked, args) = (step.spec, step.args.clone());
            let conn = self.conns[index as usize].as_deref_mut().expect("found above");
            conn.pending = Some(pending);
            return self.ask_all(index, asked, wide, args.args(), Some(spec));
        }
        let wait = match shard == self.shard.id() {
            true => self.wait_of_exec(index, &mut pending),
            false => None,
        };
        if shard == self.shard.id() && wait.is_none() {
            return self.exec_here(index, spec, *pending);
        }
        let told = std::mem::take(&mut pending.told);
        self.foresee(index, &mut pending.queued);
        if self.monitors.is_on() {
            for step in pending.queued.iter().filter(|step| is_on_keys(step.spec)) {
                self.show(index, step.spec, &step.args.args());
            }
        }
        let mut transaction = Transaction { watched: pending.watched, steps: Vec::new() };
        let steps = pending.queued.into_iter().map(|step| {
            if !is_on_keys(step.spec) {
                return Some(step);
            }
            transaction.steps.push(step);
            None
        });
        let running = Some(Running { call: self.ledger.wait(), steps: steps.collect(), told });
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        conn.pending = Some(Box::new(Pending { running, ..Pending::default() }));
        conn.busy = true;
        let to = remote::Address::of(conn, remote::EXEC_TICKET);
        let transaction = Arc::new(transaction);
        if shard != self.shard.id() {
            return self.forward_transaction(shard, to, spec, transaction);
        }
        let (origin, of) = (Origin::Remote(shard, to), (0, Proto::Resp2));
        let mut job = Job::new(origin, spec, ArgsBuf::default().args(), Vec::new(), of);
        (job.transaction, job.wait, job.caller) = (Some(transaction), wait, self.shard.caller());
        self.jobs.push(job);
    }

    /// What a transaction waits for whose keys are here: for those that are not in memory, and for
    /// room.
    fn wait_of_exec(&mut self, index: u32, pending: &mut Pending) -> Option<Wait> {
        if !self.shard.may_wait() {
            return None;
        }
        self.foresee(index, &mut pending.queued);
        let keyed = pending.queued.iter().filter(|step| is_on_keys(step.spec));
        let steps = keyed.cloned().collect();
        let transaction = Transaction { watched: pending.watched.clone(), steps };
        let wait = Wait::default();
        (!self.seek_transaction(&transaction, &wait)).then_some(wait)
    }

    /// A question of a transaction is answered.
    pub(in crate::server) fn go_on_with_exec(
        &mut self,
        index: u32,
        told: Told,
        spec: &'static Spec,
    ) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if let Some(pending) = conn.pending.as_deref_mut() {
            pending.told.push_back(told);
            // Others have been served in between. That too much is remembered does no harm.
            let client = Client { shard: self.shard.id(), conn: conn.id };
            let remembers = conn.session.tracking.is_some();
            self.shard.set_caller(Some(Caller { client, remembers }));
            self.exec(index, spec);
        }
    }

    /// CLIENT CACHING among the commands: what any of them reads is remembered.
    fn note_transaction(&mut self, pending: &Pending) {
        let mut names = pending.queued.iter().map(|step| step.spec.name);
        if let Some(caller) = self.shard.caller()
            && names.any(|name| name == "client|caching")
        {
            self.shard.set_caller(Some(Caller { remembers: true, ..caller }));
        }
    }

    /// Where a transaction runs.
    fn where_to_run(&self, pending: &Pending) -> Result<Place, &'static str> {
        let slots = || slots_of(&pending.queued);
        let first = slots().next();
        let clears = first.is_some() && pending.queued.iter().any(is_flush);
        if self.node.is_cluster_mode() && slots().any(|slot| Some(slot) != first) {
            return Err("CROSSSLOT Keys in request don't hash to the same slot");
        }
        if self.node.is_cluster_mode() && clears {
            return Err("CROSSSLOT A transaction that clears the keyspace must not have commands \
                        on keys; nothing was executed");
        }
        let map = self.shard.map();
        let watched = pending.watched.iter().map(|watched| watched.slot);
        let owner = |slot| self.shard.owner(map.partition_of(slot));
        let mut shards = slots().chain(watched).map(owner);
        let shard = shards.next().unwrap_or(self.shard.id());
        if !clears && shards.all(|other| other == shard) {
            return Ok(Place::At(shard));
        }
        if pending.watched.is_empty() { Ok(Place::Several) } else { Err(CROSSED) }
    }

    fn listens(&self, index: u32, pending: &Pending) -> bool {
        let conn = self.conns[index as usize].as_deref().expect("the caller found it");
        let mut steps = pending.queued.iter();
        conn.session.subscribed.is_any()
            || steps
                .any(|step| step.spec.name.ends_with("subscribe") || step.spec.name == "monitor")
    }

    /// A transaction whose keys are on several shards: its commands run as if they came without
    /// one, their replies are the elements of this one's.
    fn exec_in_turn(&mut self, index: u32, pending: Pending) {
        let specs = pending.queued.iter().map(|step| step.spec);
        if let Err(refused) = self.shard.admit_all(specs) {
            return self.abort(index, &refused.to_string());
        }
        self.say(index, |reply| reply.array(pending.queued.len()));
        let remembers = self.shard.caller().is_some_and(|caller| caller.remembers);
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if let Some(tracking) = conn.session.tracking.as_deref_mut() {
            tracking.give_back(remembers);
        }
        conn.in_turn = pending.queued.len();
        for step in pending.queued.into_iter().rev() {
            conn.deferred.push_front(step.args);
        }
        self.run_deferred(index);
    }

    /// Finds out which database each command is about, and how its reply is encoded: SELECT and
    /// HELLO may stand among them, and run when the others have.
    fn foresee(&self, index: u32, steps: &mut [Step]) {
        let conn = self.conns[index as usize].as_deref().expect("the caller found it");
        let mut session: Session = conn.session.clone();
        for step in steps {
            (step.db, step.proto) = (session.db, session.proto);
            if let Run::Connection(run) = step.spec.run
                && matches!(step.spec.name, "select" | "hello")
            {
                let (mut out, mut spliced) = (Vec::new(), Vec::new());
                let mut reply = Reply::new(session.proto, &mut out, &mut spliced);
                let (node, unix_ms) = (&self.node, self.env.unix_ms());
                let facts = View::new(node, None, unix_ms);
                run(&mut session, &facts, &step.args.args(), &mut reply);
            }
        }
    }

    /// A transaction whose keys are all on this shard.
    fn exec_here(&mut self, index: u32, spec: &'static Spec, mut pending: Pending) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (sent, proto) = (conn.session.replies(), conn.session.proto);
        let (mark, mut holds) = (conn.output.mark(), Holds::default());
        if !self.shard.are_untouched(&pending.watched, &mut holds) {
            if sent {
                conn.output.reply(proto, |reply| reply.null_array());
                self.hold_all(index, mark, &holds);
            }
            return;
        }
        let specs = pending.queued.iter().map(|step| step.spec);
        if let Err(refused) = self.shard.admit_all(specs) {
            return self.abort(index, &refused.to_string());
        }
        let after = mute(&mut conn.session, sent);
        conn.output.reply(proto, |reply| reply.array(pending.queued.len()));
        self.shard.begin_together();
        for step in &pending.queued {
            if is_on_keys(step.spec) {
                self.exec_step(index, step, &mut holds);
            } else {
                self.exec_aside(index, step, &mut pending.told);
            }
        }
        self.shard.end_transaction(&mut holds);
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        unmute(&mut conn.session, after);
        self.ledger.begin(spec);
        if sent {
            self.hold_all(index, mark, &holds);
        } else {
            conn.output.undo(mark);
        }
    }

    /// An EXEC that is refused ends the transaction.
    pub(in crate::server) fn abort(&mut self, index: u32, why: &str) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        conn.pending = None;
        self.refuse(index, &aborted(why));
    }

    /// A command on keys of this shard.
    fn exec_step(&mut self, index: u32, step: &Step, holds: &mut Holds) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (db, proto) = (conn.session.db, conn.session.proto);
        conn.session.note(step.spec.name, self.shard.now_ms());
        let (mark, began) = (conn.output.mark(), self.env.now());
        self.ledger.begin(step.spec);
        let args = step.args.args();
        let checked = match &step.spec.run {
            Run::Together(together) => self.check_together(step.spec, together, &args, db),
            _ => Ok(()),
        };
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        conn.output.reply(proto, |reply| match checked {
            Ok(()) => self.shard.evaluate_whole(step.spec, args, db, reply, holds),
            Err(error) => reply.error(&error),
        });
        self.note_error_at(index, step.spec, mark);
        let took = self.env.now().saturating_sub(began);
        self.ledger.end_alone(step.spec, took, self.shard.stats());
        self.note_slow_of(index, step.spec, &args, took);
        if self.monitors.is_on() {
            self.show(index, step.spec, &args);
        }
    }

    /// A command of a transaction that is not on keys, in its place.
    pub(super) fn exec_aside(&mut self, index: u32, step: &Step, told: &mut VecDeque<Told>) {
        let args = step.args.args();
        if step.spec.name == "monitor" {
            return self.refuse(index, "ERR MONITOR isn't allowed for DENY BLOCKING client");
        }
        let Run::Node(wide) = step.spec.run else {
            let caller = self.shard.caller();
            self.run_command(index, step.spec, args, None, &mut Vec::new());
            return self.shard.set_caller(caller);
        };
        let told = told.pop_front().unwrap_or_default();
        match (wide.ask)(&args) {
            Ok(_) => self.tell(index, wide, &args, &told),
            Err(error) => self.refuse(index, &error.to_string()),
        }
    }
}

/// The reply of an EXEC that was refused.
pub(super) fn aborted(why: &str) -> String {
    let why = why.strip_prefix("ERR ").unwrap_or(why);
    format!("EXECABORT Transaction discarded because of: {why}")
}

/// Keeps a session from answering while a transaction runs whose reply is not wanted. Returns how
/// it is to be after that.
pub(super) fn mute(session: &mut Session, sent: bool) -> Option<ReplyMode> {
    (!sent).then(|| std::mem::replace(&mut session.reply_mode, ReplyMode::Off))
}

pub(super) fn unmute(session: &mut Session, after: Option<ReplyMode>) {
    if let Some(after) = after
        && session.reply_mode == ReplyMode::Off
    {
        session.reply_mode = after;
    }
}
