//! MULTI, EXEC, DISCARD, WATCH: transactions of a connection.
//!
//! What is queued waits in the connection. If all keys of the queued commands and all that is
//! watched are on one shard, the commands on keys run there in one step, in order, each seeing what
//! those before it did, and nobody sees a part. What they did is one entry per partition: a crash
//! leaves all of a partition's part or none. If that is another shard, one request takes them
//! there, and the connection waits for the answer. A command that fails at run time does not undo
//! the others, as in Redis.
//!
//! With keys on several shards the commands run in turn like a pipeline, and others may come in
//! between. Why not refuse: most clients wrap every pipeline in MULTI. Nothing is run with WATCH,
//! whose promise must not be weakened; in cluster mode, whose clients know where keys are; and for
//! a connection that listens, whose messages would come between the elements of the reply.
//!
//! Commands without keys run at the connection in their place among the others. Those on all keys
//! (DBSIZE, SCAN, KEYS, RANDOMKEY) are answered, but are no part of the step: each shard answers
//! for itself. Those that ask all shards (INFO, CLIENT LIST) do so before anything is run, also if
//! then nothing is. FLUSHALL and FLUSHDB touch every shard.
//!
//! Bounds: [`STEPS_MAX`], [`QUEUED_LEN_MAX`], [`WATCHED_MAX`]; past them a command is refused, and
//! the transaction with it.
//!
//! Here: what a connection has queued. What it watches: [`watch`]. How EXEC runs it: [`exec`], and
//! [`elsewhere`] if the keys are another shard's.

use std::collections::VecDeque;

use super::Server;
use super::remote::Answered;
use crate::command::question::{NodeWide, Told};
use crate::command::{Access, Flags, Op, Run, Spec, debug};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::{Args, Reply};
use crate::shard::{Step, Transaction, Watched};

mod elsewhere;
mod exec;
mod watch;

/// Most commands of a transaction.
pub const STEPS_MAX: usize = 64 << 10;

/// Most bytes of their arguments; a step holds the core as long as it takes to copy them.
pub const QUEUED_LEN_MAX: usize = 64 << 20;

/// Most keys that a connection watches.
pub const WATCHED_MAX: usize = 16 << 10;

/// What a connection has queued, and what it watches.
#[derive(Default)]
pub struct Pending {
    /// MULTI was said.
    is_open: bool,
    /// A command could not be queued: EXEC will run nothing.
    is_broken: bool,
    queued: Vec<Step>,
    queued_len: usize,
    watched: Vec<Watched>,
    /// Shards that have not said what they watch.
    watching: usize,
    /// What the shards say to its questions, in order.
    told: VecDeque<Told>,
    /// What is left of a transaction that another shard is running.
    running: Option<elsewhere::Running>,
}

impl Pending {
    /// Bytes that are queued.
    pub fn held_len(&self) -> usize {
        self.queued_len + self.watched.iter().map(|watched| watched.key.len()).sum::<usize>()
    }

    /// Commands that are queued, if MULTI was said.
    pub fn queued_count(&self) -> Option<usize> {
        self.is_open.then_some(self.queued.len())
    }

    /// Whether a command that is queued writes.
    pub fn writes(&self) -> bool {
        self.queued.iter().any(|step| step.spec.access == Access::Write)
    }

    /// The first question that was not asked, and how.
    fn next_question(&self) -> Option<(&Step, NodeWide)> {
        let mut questions = self.queued.iter().filter_map(|step| match step.spec.run {
            Run::Node(wide) => Some((step, wide)),
            _ => None,
        });
        questions.nth(self.told.len())
    }

    /// A command was refused: if it was to be queued, EXEC runs nothing.
    pub fn note_refusal(&mut self) {
        self.is_broken |= self.is_open;
    }
}

/// The command's arguments as text and numbers take them, bytes.
pub fn len_of(args: &Args<'_>) -> usize {
    args.iter().map(<[u8]>::len).sum::<usize>() + 16 * args.len()
}

fn is_on_keys(spec: &Spec) -> bool {
    matches!(spec.run, Run::Keyed(_) | Run::Together(_))
}

/// Whether a command can be one of several: what holds its connection can not.
fn may_be_queued(spec: &Spec, args: &Args<'_>) -> bool {
    let sleeps = spec.name == "debug" && args.is(1, "SLEEP");
    !spec.flags.has(Flags::NO_MULTI) && spec.name != "client|tracking" && !sleeps
}

impl<E: Env> Server<E> {
    /// Queues a command of a connection that has said MULTI. False: it is to be run now.
    pub(in crate::server) fn queue(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> bool {
        let checks = is_on_keys(spec) && self.node.is_cluster_mode();
        let misplaced = if checks { self.check_slots(spec, args) } else { None };
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        match spec.run {
            Run::Transaction(Op::Unwatch) => {}
            Run::Transaction(_) => return false,
            Run::Connection(_) if spec.name == "reset" => {
                conn.pending = None;
                return false;
            }
            Run::Connection(_) if spec.name == "quit" => return false,
            _ => {}
        }
        let Some(pending) = conn.pending.as_deref_mut().filter(|pending| pending.is_open) else {
            return false;
        };
        let len = len_of(args);
        if spec.name == "debug" && !self.node.identity.debug_enabled {
            self.refuse(index, debug::REFUSED);
        } else if !may_be_queued(spec, args) {
            self.refuse(index, "ERR Command not allowed inside a transaction");
        } else if pending.queued.len() >= STEPS_MAX || pending.queued_len + len > QUEUED_LEN_MAX {
            let bytes = QUEUED_LEN_MAX >> 20;
            let text = format!("ERR a transaction holds {STEPS_MAX} commands and {bytes} MiB");
            self.refuse(index, &text);
        } else if let Some(error) = misplaced {
            self.refuse(index, &error);
        } else {
            let (db, proto) = (0, conn.session.proto);
            pending.queued.push(Step { spec, args: args.to_buf(), db, proto });
            pending.queued_len += len;
            if conn.session.replies() {
                conn.output.reply(conn.session.proto, |reply| reply.simple("QUEUED"));
            }
        }
        true
    }

    /// MULTI and its kin.
    pub(in crate::server) fn run_transaction(
        &mut self,
        index: u32,
        op: Op,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let is_open = conn.pending.as_ref().is_some_and(|pending| pending.is_open);
        match (op, is_open) {
            (Op::Multi, false) => {
                conn.pending.get_or_insert_default().is_open = true;
                self.say(index, |reply| reply.simple("OK"));
            }
            (Op::Multi, true) => {
                self.say(index, |reply| reply.error("ERR MULTI calls can not be nested"));
            }
            (Op::Discard, true) | (Op::Unwatch, false) => {
                conn.pending = None;
                self.say(index, |reply| reply.simple("OK"));
            }
            (Op::Discard, false) => {
                self.say(index, |reply| reply.error("ERR DISCARD without MULTI"));
            }
            (Op::Watch, true) => {
                self.say(index, |reply| reply.error("ERR WATCH inside MULTI is not allowed"));
            }
            (Op::Watch, false) => self.watch(index, spec, args),
            (Op::Exec, false) => {
                self.say(index, |reply| reply.error("ERR EXEC without MULTI"));
            }
            (Op::Exec, true) => self.exec(index, spec),
            // What it watched is forgotten by the EXEC that runs it.
            (Op::Unwatch, true) => self.say(index, |reply| reply.simple("OK")),
        }
    }

    /// Answers a command that is no part of a transaction.
    fn say(&mut self, index: u32, encode: impl FnOnce(&mut Reply<'_>)) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if conn.session.replies() {
            conn.output.reply(conn.session.proto, encode);
        }
    }

    /// Runs a request that another shard sent about a transaction.
    pub(in crate::server) fn serve_transaction(
        &mut self,
        whose: (ShardId, ConnId),
        transaction: Option<&Transaction>,
        args: Args<'_>,
        db: u8,
    ) -> Answered {
        match transaction {
            Some(transaction) => self.serve_exec(whose, transaction),
            None => self.serve_watch(args, db),
        }
    }
}
