//! MULTI, EXEC, DISCARD, WATCH: transactions of a connection.
//!
//! What is queued waits in the connection. EXEC takes the keys of all queued commands together:
//! they have to be in one partition (in cluster mode: in one slot), and what is watched on the same
//! shard; otherwise nothing is run. The commands on keys run there in one step, in order, each
//! seeing what those before it did, and what they did is one entry: a crash leaves all of it or
//! none, and nobody sees a part. If that is another shard, one request takes them there, and the
//! connection waits for the answer. A command that fails at run time does not undo the others, as
//! in Redis.
//!
//! Commands without keys run at the connection in their place among the others. Those on all keys
//! (DBSIZE, SCAN, KEYS, RANDOMKEY) are answered, but are no part of the step: each shard answers
//! for itself. Those that ask all shards (INFO, CLIENT LIST) do so before anything is run, also if
//! then nothing is. FLUSHALL and FLUSHDB touch every partition: a transaction that has them must
//! not have commands on keys.
//!
//! Bounds: [`STEPS_MAX`], [`QUEUED_LEN_MAX`], [`WATCHED_MAX`]; past them a command is refused, and
//! the transaction with it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Server;
use super::node::View;
use super::output::Part;
use super::remote::{self, Answered};
use super::together::{Group, Place};
use crate::command::question::{NodeWide, Told};
use crate::command::{Access, Keyspace, Op, ReplyMode, Run, Session, Spec};
use crate::env::{ConnId, Env};
use crate::id::{ShardId, Slot, Timestamp};
use crate::lsm::key;
use crate::partition::Seen;
use crate::protocol::resp::{Args, Reply};
use crate::shard::mailbox::Element;
use crate::shard::{Holds, Spread, Step, Transaction, Watched};

/// Most commands of a transaction.
pub const STEPS_MAX: usize = 64 << 10;

/// Most bytes of their arguments; a step holds the core as long as it takes to copy them.
pub const QUEUED_LEN_MAX: usize = 64 << 20;

/// Most keys that a connection watches.
pub const WATCHED_MAX: usize = 16 << 10;

/// What became of a transaction on another shard, in the count of its answer.
const REFUSED: i64 = 0;
const EXECUTED: i64 = 1;
const TOUCHED: i64 = 2;

const CROSSED: &str = "CROSSSLOT Keys of a transaction must be in one partition, give them one \
                       {hash tag}; nothing was executed";

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
    running: Option<Running>,
}

/// A transaction while its keyed commands are with another shard: the others, in their places.
struct Running {
    steps: Vec<Option<Step>>,
    told: VecDeque<Told>,
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

/// Queueing.
impl<E: Env> Server<E> {
    /// Queues a command of a connection that has said MULTI. False: it is to be run now.
    pub(super) fn queue(&mut self, index: u32, spec: &'static Spec, args: &Args<'_>) -> bool {
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
        if spec.name == "shutdown" {
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
    pub(super) fn run_transaction(
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
}

/// WATCH.
impl<E: Env> Server<E> {
    fn watch(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        if self.node.is_cluster_mode()
            && let Some(error) = self.check_slots(spec, &args)
        {
            return self.refuse(index, &error);
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let pending = conn.pending.get_or_insert_default();
        if pending.watched.len() + args.len() - 1 > WATCHED_MAX {
            return self.refuse(index, &format!("ERR at most {WATCHED_MAX} keys can be watched"));
        }
        let (id, db, proto) = (conn.id, conn.session.db, conn.session.proto);
        let mut others: Vec<(ShardId, Vec<Place>)> = Vec::new();
        for place in Place::all(spec, &args) {
            let name = args.get(place.at as usize);
            match self.shard.locate(key::slot_of(name)) {
                Ok(_) => pending.watched.push(self.shard.watch(db, name)),
                Err(shard) => match others.iter_mut().find(|(other, _)| *other == shard) {
                    Some((_, keys)) => keys.push(place),
                    None => others.push((shard, vec![place])),
                },
            }
        }
        if others.is_empty() {
            return self.say(index, |reply| reply.simple("OK"));
        }
        pending.watching = others.len();
        conn.busy = true;
        for (shard, keys) in &others {
            let group = Group { spec, args, keys, db, proto, blobs: &[] };
            let to = remote::Address { conn: id, ticket: remote::WATCH_TICKET };
            self.forward_group(*shard, to, &group);
        }
    }

    /// Another shard's WATCH of keys of this one.
    fn serve_watch(&mut self, args: Args<'_>, db: u8) -> Answered {
        let mut answered = Answered::default();
        for name in args.from(1) {
            let at = answered.body.len() as u32;
            let watched = self.shard.watch(db, name);
            encode_watched(&watched, &mut answered.body);
            let len = answered.body.len() as u32 - at;
            answered.elements.push(Element { part: 0, at, len });
        }
        answered
    }

    /// Another shard watches for us.
    pub(super) fn take_watched(&mut self, id: ConnId, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        let Some(pending) = conn.pending.as_deref_mut() else { return };
        for Element { at, len, .. } in part.elements {
            let bytes = &part.body[*at as usize..][..*len as usize];
            pending.watched.push(decode_watched(bytes));
        }
        pending.watching -= 1;
        if pending.watching == 0 {
            conn.busy = false;
            self.say(id.index, |reply| reply.simple("OK"));
            self.mark_dirty(id.index);
        }
    }
}

/// `slot:u16 kind:u8 timestamp:u64 half:u64 key`, within this process.
fn encode_watched(watched: &Watched, out: &mut Vec<u8>) {
    let (kind, timestamp, half) = match watched.seen {
        Seen::Present(timestamp) => (1, timestamp, 0),
        Seen::Absent { since, half } => (0, since, half),
    };
    out.extend_from_slice(&watched.slot.0.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&timestamp.0.to_le_bytes());
    out.extend_from_slice(&half.to_le_bytes());
    out.extend_from_slice(&watched.key);
}

fn decode_watched(bytes: &[u8]) -> Watched {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (timestamp, half) = (Timestamp(number(3)), number(11));
    let seen = match bytes[2] {
        1 => Seen::Present(timestamp),
        _ => Seen::Absent { since: timestamp, half },
    };
    Watched { slot: Slot(u16::from_le_bytes([bytes[0], bytes[1]])), key: bytes[19..].into(), seen }
}

/// EXEC.
impl<E: Env> Server<E> {
    fn exec(&mut self, index: u32, spec: &'static Spec) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let mut pending = conn.pending.take().expect("EXEC comes after MULTI");
        if pending.is_broken {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.refuse(index, text);
        }
        let shard = match self.where_to_run(&pending) {
            Ok(shard) => shard,
            Err(text) => return self.refuse(index, text),
        };
        if let Some((step, wide)) = pending.next_question() {
            let (asked, args) = (step.spec, step.args.clone());
            let conn = self.conns[index as usize].as_deref_mut().expect("found above");
            conn.pending = Some(pending);
            return self.ask_all(index, asked, wide, args.args(), Some(spec));
        }
        if shard == self.shard.id() {
            return self.exec_here(index, *pending);
        }
        let told = std::mem::take(&mut pending.told);
        self.foresee(index, &mut pending.queued);
        let mut transaction = Transaction { watched: pending.watched, steps: Vec::new() };
        let steps = pending.queued.into_iter().map(|step| {
            if !is_on_keys(step.spec) {
                return Some(step);
            }
            transaction.steps.push(step);
            None
        });
        let running = Some(Running { steps: steps.collect(), told });
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        conn.pending = Some(Box::new(Pending { running, ..Pending::default() }));
        conn.busy = true;
        let to = remote::Address { conn: conn.id, ticket: remote::EXEC_TICKET };
        self.forward_transaction(shard, to, spec, Arc::new(transaction));
    }

    /// A question of a transaction is answered.
    pub(super) fn go_on_with_exec(&mut self, index: u32, told: Told, spec: &'static Spec) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if let Some(pending) = conn.pending.as_deref_mut() {
            pending.told.push_back(told);
            self.exec(index, spec);
        }
    }

    /// Where a transaction runs.
    fn where_to_run(&self, pending: &Pending) -> Result<ShardId, &'static str> {
        let slots = || slots_of(&pending.queued);
        let first = slots().next();
        if self.node.is_cluster_mode() && slots().any(|slot| Some(slot) != first) {
            return Err("CROSSSLOT Keys in request don't hash to the same slot");
        }
        if first.is_some() && pending.queued.iter().any(is_flush) {
            return Err("CROSSSLOT A transaction that clears the keyspace must not have commands \
                        on keys; nothing was executed");
        }
        let map = self.shard.map();
        let mut watched =
            pending.watched.iter().map(|watched| map.shard_of(map.partition_of(watched.slot)));
        let here = match self.shard.place_of_all(slots()) {
            Spread::Here(_) => self.shard.id(),
            Spread::Elsewhere(shard) => shard,
            Spread::Several => return Err(CROSSED),
            Spread::Nowhere => watched.clone().next().unwrap_or(self.shard.id()),
        };
        if watched.any(|shard| shard != here) {
            return Err(CROSSED);
        }
        Ok(here)
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
                let facts = View { node, client: None, unix_ms };
                run(&mut session, &facts, &step.args.args(), &mut reply);
            }
        }
    }

    /// A transaction whose keys are all on this shard.
    fn exec_here(&mut self, index: u32, mut pending: Pending) {
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
            return self.abort(index, sent, &refused.to_string());
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
        self.shard.end_together();
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        unmute(&mut conn.session, after);
        if sent {
            self.hold_all(index, mark, &holds);
        } else {
            conn.output.undo(mark);
        }
    }

    fn abort(&mut self, index: u32, sent: bool, why: &str) {
        self.shard.stats().errors.add(1);
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if sent {
            let text = format!("EXECABORT Transaction discarded because of: {why}");
            conn.output.reply(conn.session.proto, |reply| reply.error(&text));
        }
    }

    /// A command on keys of this shard.
    fn exec_step(&mut self, index: u32, step: &Step, holds: &mut Holds) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (db, proto) = (conn.session.db, conn.session.proto);
        conn.session.note(step.spec.name, self.shard.now_ms());
        self.shard.stats().commands.add(1);
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
    }

    /// A command of a transaction that is not on keys, in its place.
    fn exec_aside(&mut self, index: u32, step: &Step, told: &mut VecDeque<Told>) {
        self.shard.stats().commands.add(1);
        let args = step.args.args();
        let Run::Node(wide) = step.spec.run else {
            return self.run_command(index, step.spec, args, None, &mut Vec::new());
        };
        let told = told.pop_front().unwrap_or_default();
        match (wide.ask)(&args) {
            Ok(_) => self.tell(index, wide, &args, &told),
            Err(error) => self.refuse(index, &error.to_string()),
        }
    }

    /// A transaction of another shard's connection, all of whose keys are here.
    fn serve_exec(&mut self, transaction: &Transaction) -> Answered {
        let mut answered = Answered { count: EXECUTED, ..Answered::default() };
        if !self.shard.are_untouched(&transaction.watched, &mut answered.holds) {
            answered.count = TOUCHED;
            return answered;
        }
        let specs = transaction.steps.iter().map(|step| step.spec);
        if let Err(refused) = self.shard.admit_all(specs) {
            let text = format!("EXECABORT Transaction discarded because of: {refused}");
            return Answered { count: REFUSED, ..Answered::error(&text, std::iter::empty()) };
        }
        let Answered { body, splices, holds, elements, .. } = &mut answered;
        self.shard.begin_together();
        for step in &transaction.steps {
            let at = body.len();
            let mut reply = Reply::new(step.proto, body, splices);
            self.shard.evaluate_whole(step.spec, step.args.args(), step.db, &mut reply, holds);
            self.shard.stats().commands.add(1);
            let len = (body.len() - at) as u32;
            elements.push(Element { part: 0, at: at as u32, len });
        }
        self.shard.end_together();
        answered
    }

    /// Another shard has run our transaction, or not: the reply, with what is run here.
    pub(super) fn take_executed(&mut self, id: ConnId, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        conn.busy = false;
        let Some(mut running) = conn.pending.take().and_then(|pending| pending.running) else {
            return;
        };
        let (sent, proto) = (conn.session.replies(), conn.session.proto);
        match part.count {
            EXECUTED => {
                let mark = conn.output.mark();
                let after = mute(&mut conn.session, sent);
                conn.output.reply(proto, |reply| reply.array(running.steps.len()));
                let mut elements = part.elements.iter();
                for step in &running.steps {
                    match step {
                        None => self.put_element(id.index, part, elements.next()),
                        Some(step) => self.exec_aside(id.index, step, &mut running.told),
                    }
                }
                let Some(conn) = self.conn(id) else { return };
                unmute(&mut conn.session, after);
                if !sent {
                    conn.output.undo(mark);
                }
            }
            TOUCHED if sent => conn.output.reply(proto, |reply| reply.null_array()),
            REFUSED if sent => {
                self.shard.stats().errors.add(1);
                self.put(id.index, part, 0, part.body.len());
            }
            _ => {}
        }
        self.mark_dirty(id.index);
    }

    fn put_element(&mut self, index: u32, part: Part<'_>, element: Option<&Element>) {
        let Element { at, len, .. } = *element.expect("one for each command on keys");
        self.put(index, part, at as usize, (at + len) as usize);
    }

    /// Appends bytes of an answer to the replies, and the large values among them.
    fn put(&mut self, index: u32, part: Part<'_>, from: usize, until: usize) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        let within = part.splices.iter().filter(|(at, _)| (from..until).contains(at));
        conn.output.append(&part.body[from..until], within.map(|(at, value)| (at - from, value)));
    }

    /// Runs a request that another shard sent about a transaction.
    pub(super) fn serve_transaction(
        &mut self,
        transaction: Option<&Transaction>,
        args: Args<'_>,
        db: u8,
    ) -> Answered {
        match transaction {
            Some(transaction) => self.serve_exec(transaction),
            None => self.serve_watch(args, db),
        }
    }
}

/// Keeps a session from answering while a transaction runs whose reply is not wanted. Returns how
/// it is to be after that.
fn mute(session: &mut Session, sent: bool) -> Option<ReplyMode> {
    (!sent).then(|| std::mem::replace(&mut session.reply_mode, ReplyMode::Off))
}

fn unmute(session: &mut Session, after: Option<ReplyMode>) {
    if let Some(after) = after
        && session.reply_mode == ReplyMode::Off
    {
        session.reply_mode = after;
    }
}
