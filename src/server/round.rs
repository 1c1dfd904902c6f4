//! A round: requests of many connections, parsed together, looked up together, run in order.
//!
//! Between the first and the last there is time for memory to answer: the index line of every key
//! is asked for when its command is parsed, the entry it points at when all are, and only then does
//! the first command run. With a million keys this is worth up to twice the throughput, since a
//! miss costs as much as parsing three commands.

use super::conn::Conn;
use super::job::Job;
use super::ledger;
use super::output::Combine;
use super::{Server, Source, Work, remote};
use crate::cluster::NOWHERE;
use crate::command::{self, Access, Keyed, Run, Spec, monitor};
use crate::env::{ConnId, Env};
use crate::id::{ShardId, Slot};
use crate::limits::SLOT_COUNT;
use crate::lsm::key;
use crate::protocol::resp::{Args, Batch, Frame, Limits, Proto};
use crate::shard::{Shard, Target};

/// Requests of a round: enough to hide memory's latency, few enough to stay in the first cache.
const ROUND_MAX: usize = 48;

/// Requests that are parsed from one chunk at a time. A chunk that is begun is finished, unless it
/// is full of tiny requests: what is left of it would have to be copied.
const PARSE_MAX: usize = 512;

/// Keys of one command from which on it is worked on in slices ([`super::job`]).
pub const KEYS_AT_ONCE_MAX: usize = 256;

/// Bytes of a value from which on it goes to the log in slices ([`super::job`]).
pub const VALUE_AT_ONCE_MAX: usize = 1 << 20;

/// One request of the round.
enum Call {
    /// A request.
    Request(Request),
    /// The connection sent what is not the protocol.
    Broken { conn: ConnId, error: String },
}

struct Request {
    conn: ConnId,
    frame: Frame,
    /// Which of the round's sources, and where in it parsing began.
    source: usize,
    from: usize,
    resolved: Result<&'static Spec, command::Error>,
    /// Where its one key lives, if it was looked up ahead.
    ahead: Option<Ahead>,
}

/// A key looked up ahead.
#[derive(Clone, Copy)]
struct Ahead {
    place: u32,
    hash: u64,
    key: (usize, usize),
}

/// The requests of a round and what they are made of; reused.
pub struct Round<C> {
    number: u64,
    batch: Batch,
    sources: Vec<Source<C>>,
    calls: Vec<Call>,
    keys: Vec<u8>,
    key: Vec<u8>,
}

impl<C> Default for Round<C> {
    fn default() -> Self {
        Self {
            number: 0,
            batch: Batch::default(),
            sources: Vec::new(),
            calls: Vec::new(),
            keys: Vec::new(),
            key: Vec::new(),
        }
    }
}

impl<E: Env> Server<E> {
    /// Runs a round. False: there was nothing to run.
    pub(super) fn run_round(&mut self) -> bool {
        let mut round = std::mem::take(&mut self.round);
        round.number += 1;
        self.gather(&mut round);
        self.look_ahead(&mut round);
        let mut calls = std::mem::take(&mut round.calls);
        let ran = !calls.is_empty();
        for call in calls.drain(..) {
            match call {
                Call::Request(request) => self.run_request(&mut round, request),
                Call::Broken { conn, error } => self.refuse_stream(conn, &error),
            }
        }
        round.calls = calls;
        round.batch.clear();
        round.sources.clear();
        round.keys.clear();
        self.round = round;
        ran
    }

    /// Parses up to [`ROUND_MAX`] requests.
    fn gather(&mut self, round: &mut Round<E::Chunk>) {
        while round.calls.len() < ROUND_MAX {
            let Some(work) = self.work.pop_front() else { return };
            let index = work.conn.index as usize;
            let Some(Some(conn)) = self.conns.get_mut(index) else { continue };
            if conn.id != work.conn {
                continue;
            }
            conn.queued -= 1;
            let (id, ended) = (conn.id, conn.ended);
            if ended {
                // It may be that this was all that it waited for.
                self.mark_dirty(id.index);
            }
            let Some(Some(conn)) = self.conns.get_mut(index) else { continue };
            if conn.is_deaf() {
                continue;
            }
            if !conn.is_served() || !conn.stash.is_empty() {
                conn.stash.push_back(work.source.bytes()[work.used..].to_vec());
                self.pause_if_long(id);
                continue;
            }
            let parsed = round.calls.len();
            if let Some(rest) = parse(conn, work, round) {
                conn.queued += 1;
                self.work.push_front(rest);
            }
            // Before authentication one request at a time: the next may be read by other rules.
            if !conn.session.authenticated && round.calls.len() > parsed {
                return;
            }
        }
    }

    /// Finds commands and keys and asks memory for them.
    fn look_ahead(&mut self, round: &mut Round<E::Chunk>) {
        for call in &mut round.calls {
            let Call::Request(request) = call else { continue };
            let source = &round.sources[request.source].bytes()[request.from..];
            let args = round.batch.args(request.frame, source);
            request.resolved = command::resolve(&args);
            let Some(Some(conn)) = self.conns.get_mut(request.conn.index as usize) else {
                continue;
            };
            let Ok(spec) = &request.resolved else { continue };
            let Run::Keyed(Keyed::One(_)) = spec.run else {
                if spec.access == Access::Connection {
                    conn.changed_in = round.number;
                }
                continue;
            };
            let name = args.get(spec.keys.first as usize);
            if conn.changed_in == round.number || name.len() > crate::limits::KEY_LEN_MAX {
                continue;
            }
            let slot = key::slot_of(name);
            let Ok(place) = self.shard.locate(slot) else { continue };
            key::encode_data_key(slot, conn.session.db, name, &mut round.key);
            let memtable = self.shard.partition(place).memtable();
            let hash = memtable.hash(&round.key);
            memtable.prefetch(hash);
            let at = round.keys.len();
            round.keys.extend_from_slice(&round.key);
            request.ahead = Some(Ahead { place, hash, key: (at, round.keys.len()) });
        }
        for call in &round.calls {
            if let Call::Request(Request { ahead: Some(Ahead { place, hash, .. }), .. }) = call {
                self.shard.partition(*place).memtable().prefetch_entry(*hash);
            }
        }
    }

    fn run_request(&mut self, round: &mut Round<E::Chunk>, request: Request) {
        let index = request.conn.index;
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if conn.closing {
            return;
        }
        let source = &round.sources[request.source].bytes()[request.from..];
        let args = round.batch.args(request.frame, source);
        if !conn.is_served() {
            // A long command came before it in the round, or long replies: it waits.
            conn.deferred.push_back(args.to_buf());
            if let (Ok(spec), Some(Ahead { place, hash, key })) = (request.resolved, request.ahead)
            {
                let key = &round.keys[key.0..key.1];
                self.foresee_key(spec, &args, Target { place, hash, key });
            }
            return;
        }
        self.mark_dirty(index);
        let spec = match request.resolved {
            Ok(spec) => spec,
            Err(error) => return self.refuse_unresolved(index, &error),
        };
        let ahead = request.ahead.map(|ahead| {
            let Ahead { place, hash, key } = ahead;
            Target { place, hash, key: &round.keys[key.0..key.1] }
        });
        self.dispatch(index, spec, args, ahead, &mut round.key);
    }

    /// Runs the commands that waited behind a long one, up to the next long one.
    pub(super) fn run_deferred(&mut self, index: u32) {
        let mut scratch = Vec::new();
        while let Some(Some(conn)) = self.conns.get_mut(index as usize)
            && conn.is_free()
            && let Some(request) = conn.deferred.pop_front()
        {
            conn.in_turn = conn.in_turn.saturating_sub(1);
            self.mark_dirty(index);
            match command::resolve(&request.args()) {
                Ok(spec) => self.dispatch(index, spec, request.args(), None, &mut scratch),
                Err(error) => self.refuse_unresolved(index, &error),
            }
        }
    }

    /// Runs one admitted or refused command of a connection.
    fn dispatch(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        ahead: Option<Target<'_>>,
        scratch: &mut Vec<u8>,
    ) {
        if self.paused.is_some() && self.postpone(index, spec, &args) {
            return;
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if !conn.session.authenticated {
            // The password may have been taken away since it came.
            conn.session.authenticated = self.node.password().is_none();
        }
        if let Err(error) = command::admit(&conn.session, spec, &args) {
            return self.reject(index, spec, &error.to_string());
        }
        if let Err(error) = self.shard.admit(spec) {
            return self.reject(index, spec, &error.to_string());
        }
        if conn.session.is_monitor && !monitor::is_allowed(spec) {
            return self.reject(index, spec, monitor::REFUSED);
        }
        let mark = conn.output.mark();
        if conn.pending.is_some() && self.queue(index, spec, &args) {
            let conn = self.conns[index as usize].as_deref().expect("the caller found it");
            if let Some(error) = conn.output.error_at(mark) {
                self.note_rejected(spec, error);
            }
            return;
        }
        self.run_command(index, spec, args, ahead, scratch);
    }

    /// Runs one admitted command of a connection.
    pub(super) fn run_command(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        ahead: Option<Target<'_>>,
        scratch: &mut Vec<u8>,
    ) {
        let is_shown = self.monitors.is_on();
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        conn.session.note(spec.name, self.shard.now_ms());
        let is_readonly = conn.session.readonly;
        let mark = conn.output.mark();
        self.ledger.begin(spec);
        let alone = self.slow.times_each() || ledger::is_timed_alone(spec, &args);
        let began = alone.then(|| self.env.now());
        if is_readonly {
            self.shard.set_stale_max(self.stale_max_of_conn(index, spec));
        }
        self.run_spec(index, spec, args, ahead, scratch);
        if is_readonly {
            self.shard.set_stale_max(None);
        }
        if is_shown {
            self.show(index, spec, &args);
        }
        if !self.ledger.is_waiting() {
            self.note_error_at(index, spec, mark);
        }
        match began {
            None => self.ledger.end(spec),
            Some(began) => {
                let took = self.env.now().saturating_sub(began);
                self.ledger.end_alone(spec, took, self.shard.stats());
                self.note_slow_of(index, spec, &args, took);
            }
        }
    }

    fn run_spec(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        ahead: Option<Target<'_>>,
        scratch: &mut Vec<u8>,
    ) {
        if self.shard.is_observed() {
            self.note_caller(index);
        }
        match spec.run {
            Run::Keyed(Keyed::One(_)) if !is_long(spec, &args) => {
                self.run_one(index, spec, args, ahead, scratch);
            }
            Run::Keyed(_) if is_long(spec, &args) => {
                let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
                conn.busy = true;
                let with = (self.ledger.wait(), self.shard.caller());
                let mut job = Job::of_conn(conn, with, spec, args);
                job.stale_max = self.shard.stale_max();
                self.jobs.push(job);
            }
            Run::Keyed(_) => self.run_many(index, spec, args),
            Run::Together(together) => self.run_together(index, spec, &together, args),
            Run::Transaction(op) => self.run_transaction(index, op, spec, args),
            Run::Connection(run) | Run::Both(run, _) => self.run_connection(index, run, args),
            Run::Keyspace(parse) => match parse(&args) {
                Ok(what) => self.run_keyspace(index, spec, what, args),
                Err(error) => self.refuse(index, &error.to_string()),
            },
            Run::PubSub(what) => self.run_pubsub(index, spec, what, args),
            Run::Node(wide) => self.run_node_wide(index, spec, wide, args),
            Run::Container(_) => unreachable!("resolve returns no containers"),
        }
    }

    /// A command with one key: here, or where the key lives.
    fn run_one(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        ahead: Option<Target<'_>>,
        scratch: &mut Vec<u8>,
    ) {
        let at = spec.keys.first as usize;
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let target = match ahead {
            Some(target) => target,
            None => match find(&self.shard, conn.session.db, args.get(at), scratch) {
                Ok(target) => target,
                Err((shard, slot)) => return self.forward_one(index, spec, args, shard, slot),
            },
        };
        if self.parks_one(index, spec, args, target) {
            return;
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let sent = conn.session.replies();
        let mark = conn.output.mark();
        let evaluated = conn.output.reply(conn.session.proto, |reply| {
            self.shard.evaluate(target, spec, args, at, None, reply)
        });
        if !sent {
            return conn.output.undo(mark);
        }
        if let Some(entry) = evaluated.hold {
            self.hold(index, mark, target.place, entry);
        }
    }

    /// Keeps a reply back until its entry commits, or as long as its client asked for.
    pub(super) fn hold(&mut self, index: u32, mark: u64, place: u32, entry: u64) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        let (of, ack) = ((place, entry), conn.session.answers_at());
        if let Some(hold) = self.shard.wait(of, ack, remote::conn_waiter(index)) {
            conn.output.hold(mark, hold);
            self.ledger.hold(hold);
        }
    }

    fn run_connection(&mut self, index: u32, run: command::Connection, args: Args<'_>) {
        let client = if args.is(0, "client") { self.client(index) } else { None };
        self.reply_at_conn(index, client, |session, facts, reply| {
            run(session, facts, &args, reply)
        });
        let Some(Some(conn)) = self.conns.get(index as usize) else { return };
        let session = &conn.session;
        if matches!(session.last_command, "client|setname" | "hello" | "reset") {
            let who = (session.peer.clone(), session.name.clone());
            self.node.peers_on(self.shard.id()).insert(index, who);
        }
        if session.last_command == "readonly" {
            self.note_readonly();
        }
    }

    /// In cluster mode keys must share a slot, and the slot must be this shard's.
    pub(super) fn check_slots(&self, spec: &Spec, args: &Args<'_>) -> Option<String> {
        let mut slots = spec.key_indices(args).map(|at| key::slot_of(args.get(at)));
        let first = slots.next()?;
        if slots.any(|slot| slot != first) {
            return Some("CROSSSLOT Keys in request don't hash to the same slot".to_owned());
        }
        let shard = self.shard.locate(first).err()?;
        // Who it will be is not known yet: it waits.
        let asks_for_keys = !matches!(spec.run, Run::PubSub(_));
        if shard == NOWHERE || asks_for_keys && self.is_to_wait(first, shard) {
            return None;
        }
        self.note_too_old(shard);
        Some(self.node.moved(first, shard, self.shard.map()))
    }

    /// Whether nobody can be asked for a slot of another shard at this moment.
    fn is_to_wait(&self, slot: Slot, shard: ShardId) -> bool {
        let partition = self.shard.map().partition_of(slot);
        shard == NOWHERE || self.node.is_orphaned(partition, self.shard.map().shard_of(partition))
    }

    /// A key of another shard: that shard is asked, or in cluster mode the client is.
    fn forward_one(
        &mut self,
        index: u32,
        spec: &'static Spec,
        args: Args<'_>,
        shard: ShardId,
        slot: Slot,
    ) {
        debug_assert!(slot.0 < SLOT_COUNT, "a slot is a slot");
        if self.node.is_cluster_mode() && !self.is_to_wait(slot, shard) {
            self.note_too_old(shard);
            let moved = self.node.moved(slot, shard, self.shard.map());
            return self.refuse(index, &moved);
        }
        let ticket = self.expect(index, Combine::Whole, 1);
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let to = remote::Address::of(conn, ticket);
        let of = (conn.session.db, conn.session.proto);
        self.forward(shard, to, spec, args, of);
    }

    /// Counts a reply that is an error.
    pub(super) fn note_error_at(&self, index: u32, spec: &Spec, mark: u64) {
        if let Some(Some(conn)) = self.conns.get(index as usize)
            && let Some(error) = conn.output.error_at(mark)
        {
            let stats = self.shard.stats();
            stats.calls.of(spec.number()).failed.add(1);
            ledger::note_error(error, stats);
        }
    }

    /// Answers what is no command, or no whole one, with an error.
    fn refuse_unresolved(&mut self, index: u32, error: &command::Error) {
        let spec = match error {
            command::Error::Arity { command } => command::lookup_full(command.as_bytes()),
            _ => None,
        };
        let text = error.to_string();
        match spec {
            Some(spec) => self.reject(index, spec, &text),
            None if is_of_a_browser(error) => self.break_off(index),
            None => {
                ledger::note_error(text.as_bytes(), self.shard.stats());
                self.refuse(index, &text);
            }
        }
    }

    /// Answers a command that is not run with an error. An EXEC ends its transaction by that.
    fn reject(&mut self, index: u32, spec: &Spec, text: &str) {
        self.note_rejected(spec, text.as_bytes());
        match spec.name {
            "exec" => self.abort(index, text),
            _ => self.refuse(index, text),
        }
    }

    /// Closes at once, without a word: what else came is not run. A web page can make a browser
    /// send a form to any port, and the body of it would be commands.
    fn break_off(&mut self, index: u32) {
        let conn = self.conns[index as usize].as_deref().expect("the caller found it");
        tracing::warn!(peer = %conn.session.peer, "a connection that speaks HTTP is closed");
        self.close(index);
    }

    fn note_rejected(&self, spec: &Spec, text: &[u8]) {
        let stats = self.shard.stats();
        stats.calls.of(spec.number()).rejected.add(1);
        ledger::note_error(text, stats);
    }

    /// Answers with an error.
    pub(super) fn refuse(&mut self, index: u32, text: &str) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if let Some(pending) = &mut conn.pending {
            pending.note_refusal();
        }
        if conn.session.replies() {
            conn.output.reply(conn.session.proto, |reply| reply.error(text));
        }
    }

    /// Answers with a protocol error and closes, when what came before is done.
    pub(super) fn refuse_stream(&mut self, id: ConnId, text: &str) {
        let Some(conn) = self.conn(id) else { return };
        if conn.busy || !conn.deferred.is_empty() {
            conn.broken = Some(text.to_owned());
            return;
        }
        if conn.closing {
            return;
        }
        conn.closing = true;
        ledger::note_error(text.as_bytes(), self.shard.stats());
        self.refuse(id.index, text);
        self.mark_dirty(id.index);
    }
}

/// Parses what fits into the round; what is left of the work.
fn parse<C>(conn: &mut Conn, mut work: Work<C>, round: &mut Round<C>) -> Option<Work<C>>
where
    C: std::ops::Deref<Target = [u8]>,
{
    let limits = if conn.session.authenticated {
        Limits::authenticated()
    } else {
        Limits::unauthenticated()
    };
    let room = if conn.session.authenticated { PARSE_MAX } else { 1 };
    let (from, first) = (work.used, round.batch.frames().len());
    let bytes = &work.source.bytes()[from..];
    let parsed = conn.parser.parse(bytes, &limits, room, &mut round.batch);
    let whole = parsed.as_ref().is_ok_and(|used| *used < bytes.len());
    let source = round.sources.len();
    let frames = round.batch.frames()[first..].iter();
    round.calls.extend(frames.map(|frame| {
        Call::Request(Request {
            conn: work.conn,
            frame: *frame,
            source,
            from,
            resolved: Err(command::Error::Syntax),
            ahead: None,
        })
    }));
    match parsed {
        Ok(used) if whole => {
            // The rest needs a source of its own: this one is kept for the frames.
            work.used += used;
            let rest = work.source.bytes()[work.used..].to_vec();
            round.sources.push(work.source);
            Some(Work { conn: work.conn, source: Source::Own(rest), used: 0 })
        }
        Ok(_) => {
            round.sources.push(work.source);
            None
        }
        Err(error) => {
            round.sources.push(work.source);
            round.calls.push(Call::Broken { conn: work.conn, error: error.to_string() });
            None
        }
    }
}

/// Whether a command is worked on in slices.
pub(super) fn is_long(spec: &Spec, args: &Args<'_>) -> bool {
    if args.len() > KEYS_AT_ONCE_MAX && spec.key_indices(args).len() > KEYS_AT_ONCE_MAX {
        return true;
    }
    spec.access == Access::Write
        && (0..args.len())
            .any(|at| args.shared(at).is_some_and(|value| value.len() > VALUE_AT_ONCE_MAX))
}

/// Where a key lives on this shard, or which shard has it.
pub(super) fn find<'a, E: Env>(
    shard: &Shard<E>,
    db: u8,
    name: &[u8],
    scratch: &'a mut Vec<u8>,
) -> Result<Target<'a>, (ShardId, Slot)> {
    let slot = key::slot_of(name);
    let place = shard.locate(slot).map_err(|shard| (shard, slot))?;
    key::encode_data_key(slot, db, name, scratch);
    let hash = shard.partition(place).memtable().hash(scratch);
    Ok(Target { place, hash, key: scratch })
}

/// As [`find`], for what is read of this shard's replica, whoever leads the partition.
pub(super) fn find_replica<'a, E: Env>(
    shard: &Shard<E>,
    db: u8,
    name: &[u8],
    scratch: &'a mut Vec<u8>,
) -> Option<Target<'a>> {
    let slot = key::slot_of(name);
    let place = shard.replica_of(slot)?;
    key::encode_data_key(slot, db, name, scratch);
    let hash = shard.partition(place).memtable().hash(scratch);
    Some(Target { place, hash, key: scratch })
}

/// RESP3 or not, as it travels.
pub(super) fn proto_of(resp3: bool) -> Proto {
    if resp3 { Proto::Resp3 } else { Proto::Resp2 }
}

/// Whether an unknown command is the first line or a header of an HTTP request.
fn is_of_a_browser(error: &command::Error) -> bool {
    let command::Error::UnknownCommand { name, .. } = error else { return false };
    ["post", "host:"].iter().any(|word| name.eq_ignore_ascii_case(word))
}
