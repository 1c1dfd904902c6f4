//! Questions to every shard of the node, and what this shard answers.
//!
//! The connection that asks is busy until all shards have answered: what it sends next comes after.
//! Its own shard answers at once, the others by mail, each at one moment of its own; so the reply
//! tells of moments that lie some microseconds apart, and of nothing that is older than the
//! question. In cluster mode too a question is about the whole node.
//!
//! A question within a transaction is asked when EXEC comes, before anything of it is run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Server;
use super::conn::Conn;
use super::ledger::Call;
use super::node::View;
use super::output::Part;
use super::remote::{ASK_TICKET, Address, Answered};
use crate::command::pubsub::PubSub;
use crate::command::question::{Filter, NodeWide, Pause, Question, Told, write_clients};
use crate::command::{Access, Client, Facts, Op, Run, Session, Spec, Then};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::{Args, ArgsBuf, Proto, Reply};

/// A question of a connection that not all shards have answered.
pub struct Asked {
    wide: NodeWide,
    args: ArgsBuf,
    missing: u32,
    told: Told,
    /// What it costs; of a transaction's question nothing of its own.
    call: Call,
    spec: &'static Spec,
    /// It is one of a transaction's: the EXEC that goes on after it.
    exec: Option<&'static Spec>,
}

/// Until when which commands wait (`CLIENT PAUSE`).
pub(super) struct Paused {
    until: Duration,
    all: bool,
}

/// Asking.
impl<E: Env> Server<E> {
    /// Runs a command whose reply takes all shards.
    pub(super) fn run_node_wide(
        &mut self,
        index: u32,
        spec: &'static Spec,
        wide: NodeWide,
        args: Args<'_>,
    ) {
        if let Err(error) = (wide.ask)(&args) {
            return self.refuse(index, &error.to_string());
        }
        self.ask_all(index, spec, wide, args, None);
    }

    /// Sends the question to all shards; what comes after waits for their answers.
    pub(super) fn ask_all(
        &mut self,
        index: u32,
        spec: &'static Spec,
        wide: NodeWide,
        args: Args<'_>,
        exec: Option<&'static Spec>,
    ) {
        let missing = u32::from(self.shard.map().shard_count());
        let call = self.ledger.wait();
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        conn.busy = true;
        let (args_kept, told) = (args.to_buf(), Told::default());
        let asked = Asked { wide, args: args_kept, missing, told, call, spec, exec };
        conn.asked = Some(Box::new(asked));
        let id = conn.id;
        let to = Address::plain(id, ASK_TICKET);
        let here = self.shard.id();
        for shard in (0..missing as u16).map(ShardId).filter(|shard| *shard != here) {
            self.forward(shard, to, spec, args, (0, Proto::Resp2));
        }
        let own = self.answer_question(wide, &args, Some(index));
        self.take_told(id, Part::of(&own));
    }

    /// A shard has answered.
    pub(super) fn take_told(&mut self, id: ConnId, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        let Some(asked) = conn.asked.as_deref_mut() else { return };
        asked.told.count += part.count;
        asked.told.body.extend_from_slice(part.body);
        asked.missing -= 1;
        if asked.missing > 0 {
            return;
        }
        let Some(asked) = conn.asked.take() else { return };
        let Asked { wide, args, told, call, spec, exec, .. } = *asked;
        conn.busy = false;
        let mark = conn.output.mark();
        match exec {
            Some(exec) => {
                self.ledger.begin(exec);
                self.go_on_with_exec(id.index, told, exec);
                self.ledger.end_later(call, self.shard.stats());
            }
            None => {
                self.tell(id.index, wide, &args.args(), &told);
                self.note_error_at(id.index, spec, mark);
                self.ledger.finish(call, self.shard.stats());
            }
        }
        self.mark_dirty(id.index);
    }

    /// Makes the reply.
    pub(super) fn tell(&mut self, index: u32, wide: NodeWide, args: &Args<'_>, told: &Told) {
        self.reply_at_conn(index, None, |session, facts, reply| {
            (wide.tell)(session, facts, args, told, reply)
        });
    }

    /// Runs a command on the connection and the node, and what it asks for then.
    pub(super) fn reply_at_conn(
        &mut self,
        index: u32,
        client: Option<Client>,
        run: impl FnOnce(&mut Session, &dyn Facts, &mut Reply<'_>) -> Then,
    ) {
        self.node.look_at_members(self.shard.map());
        let facts = View::new(&self.node, client, self.env.unix_ms());
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let Conn { session, output, .. } = conn;
        let mark = output.mark();
        let then = output.reply(session.proto, |reply| run(session, &facts, reply));
        let answered = session.replies();
        if !answered {
            output.undo(mark);
        }
        match then {
            Then::Continue => {}
            Then::Close => conn.closing = true,
            Then::Reset => {
                let id = conn.id;
                self.leave_all(id);
                self.remove_monitor(id);
                self.retrack(index);
            }
            Then::Sleep(ms) => self.put_to_sleep(index, ms, answered),
            Then::Stop => {
                conn.closing = true;
                self.stop.store(true, Ordering::Release);
                self.mailbox.wake_all();
            }
            Then::Track => self.retrack(index),
            Then::Monitor => self.add_monitor(index),
            Then::Configure(settings) => {
                self.node.configure(settings);
                self.look_for_observers();
            }
        }
    }
}

/// Answering.
impl<E: Env> Server<E> {
    /// Another shard's question.
    pub(super) fn serve_question(
        &mut self,
        (from, to): (ShardId, Address),
        wide: NodeWide,
        args: &Args<'_>,
    ) {
        let answered = self.answer_question(wide, args, None);
        self.answer(from, to, answered);
    }

    /// What this shard has to say. `asks`: the connection that asks, if it is ours.
    fn answer_question(&mut self, wide: NodeWide, args: &Args<'_>, asks: Option<u32>) -> Answered {
        let mut answered = Answered::default();
        let Ok(question) = (wide.ask)(args) else { return answered };
        match question {
            Question::Gauges => self.update_gauges(),
            Question::Clients(filter) => {
                let now_ms = self.env.unix_ms();
                let clients = self.hit_by(&filter, asks);
                let clients: Vec<_> =
                    clients.iter().filter_map(|index| self.client(*index)).collect();
                answered.body = write_clients(clients.iter(), now_ms);
            }
            Question::Kill(filter) => answered.count = self.kill(&filter, asks),
            Question::Pause(pause) => self.pause(pause),
            Question::Unpause => self.end_pause(),
            Question::ResetStats => self.shard.stats().reset(),
            Question::Latency(question) => return self.latency.answer(question),
            Question::Slow(question) => return self.slow.answer(question),
        }
        answered
    }

    /// The connections that a filter means.
    fn hit_by(&self, filter: &Filter<'_>, asks: Option<u32>) -> Vec<u32> {
        let now_ms = self.env.unix_ms();
        let open = self.conns.iter().enumerate();
        let open = open.filter_map(|(index, conn)| Some((index as u32, conn.as_deref()?)));
        open.filter(|(index, conn)| filter.hits(&conn.session, asks == Some(*index), now_ms))
            .map(|(index, _)| index)
            .collect()
    }

    /// A connection as `CLIENT LIST` shows it.
    pub(super) fn client(&self, index: u32) -> Option<Client> {
        let conn = self.conns.get(index as usize)?.as_deref()?;
        let pending = conn.pending.as_deref();
        Some(Client {
            session: conn.session.clone(),
            queued: pending.and_then(|pending| pending.queued_count()),
            queued_len: pending.map_or(0, |pending| pending.held_len()),
            input_len: conn.input_len(),
            output_len: conn.unread_len(),
            held_len: size_of::<Conn>() + conn.held_len() + conn.unread_len(),
            is_binary: conn.binary.is_some(),
            is_waiting: conn.postponed,
            is_closing: conn.closing,
            is_sending: conn.sending,
        })
    }

    /// Closes connections, ours only after its reply. Returns how many.
    fn kill(&mut self, filter: &Filter<'_>, asks: Option<u32>) -> i64 {
        let hit = self.hit_by(filter, asks);
        for index in &hit {
            match self.conns[*index as usize].as_deref_mut() {
                Some(conn) if asks == Some(*index) => conn.closing = true,
                _ => self.close(*index),
            }
        }
        hit.len() as i64
    }

    /// Brings up to date what other shards may see of this one.
    pub(super) fn update_gauges(&mut self) {
        let held = self.conns.iter().flatten().map(|conn| conn.held_len()).sum::<usize>();
        let blocked = self.conns.iter().flatten().filter(|conn| conn.postponed).count();
        self.shard.stats().blocked_clients.set(blocked as u64);
        let channels = self.count_channels();
        let slow = self.slow.held_len();
        self.shard.account(held + channels + slow + self.count_tracked());
    }
}

/// `CLIENT PAUSE`. What other shards have sent here before goes on: a write under way when the
/// pause was asked for may be applied after it began.
impl<E: Env> Server<E> {
    fn pause(&mut self, pause: Pause) {
        let until = self.env.now() + Duration::from_millis(pause.ms);
        let until = self.paused.as_ref().map_or(until, |paused| paused.until.max(until));
        self.paused = Some(Paused { until, all: pause.all });
    }

    /// Lets go on what waits, if the time is over.
    pub(super) fn look_at_pause(&mut self) {
        if self.paused.as_ref().is_some_and(|paused| paused.until <= self.env.now()) {
            self.end_pause();
        }
    }

    /// Lets go on what waits.
    pub(super) fn end_pause(&mut self) {
        self.paused = None;
        for index in 0..self.conns.len() {
            if let Some(conn) = &mut self.conns[index]
                && std::mem::take(&mut conn.postponed)
            {
                self.mark_dirty(index as u32);
            }
        }
    }

    /// Whether a command has to wait; it is kept then, and so is all that the connection sends.
    pub(super) fn postpone(&mut self, index: u32, spec: &Spec, args: &Args<'_>) -> bool {
        let Some(paused) = &self.paused else { return false };
        let all = paused.all;
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let pending = conn.pending.as_deref();
        let writes = match spec.run {
            Run::PubSub(PubSub::Publish(_)) => true,
            Run::Transaction(Op::Exec) => pending.is_some_and(|pending| pending.writes()),
            _ => spec.access == Access::Write,
        };
        // Somebody has to be able to end it, and to see who waits.
        if !(all || writes) || spec.name.starts_with("client|") {
            return false;
        }
        conn.postponed = true;
        conn.deferred.push_front(args.to_buf());
        // If it is not of a transaction, more may be remembered than was asked for.
        conn.in_turn += usize::from(conn.in_turn > 0);
        true
    }

    /// Whether a request of the binary port is refused: its client is told to come again.
    pub(super) fn is_paused_for(&self, writes: bool) -> bool {
        self.paused.as_ref().is_some_and(|paused| paused.all || writes)
    }
}
