//! EXEC of a transaction whose keys are another shard's: its commands on keys travel there and run
//! in one step; the others are run here, in their places, when the answer comes.

use std::collections::VecDeque;

use super::super::Server;
use super::super::ledger::Call;
use super::super::output::Part;
use super::super::remote::Answered;
use super::exec::{aborted, mute, unmute};
use crate::command::question::Told;
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::Reply;
use crate::shard::mailbox::Element;
use crate::shard::{Step, Transaction};

/// What became of a transaction, in the count of its answer.
const REFUSED: i64 = 0;
const EXECUTED: i64 = 1;
const TOUCHED: i64 = 2;

/// A transaction while its keyed commands are with another shard: the others, in their places.
pub struct Running {
    /// What it costs.
    pub call: Call,
    /// `None`: a command on keys.
    pub steps: Vec<Option<Step>>,
    /// What was said to the questions among them.
    pub told: VecDeque<Told>,
}

impl<E: Env> Server<E> {
    /// A transaction of another shard's connection, all of whose keys are here.
    pub(super) fn serve_exec(
        &mut self,
        whose: (ShardId, ConnId),
        transaction: &Transaction,
    ) -> Answered {
        let mut answered = Answered { count: EXECUTED, ..Answered::default() };
        if !self.shard.are_untouched(&transaction.watched, &mut answered.holds) {
            answered.count = TOUCHED;
            return answered;
        }
        let specs = transaction.steps.iter().map(|step| step.spec);
        if let Err(refused) = self.shard.admit_all(specs) {
            let text = aborted(&refused.to_string());
            return Answered { count: REFUSED, ..Answered::error(&text, std::iter::empty()) };
        }
        let Answered { body, splices, holds, elements, .. } = &mut answered;
        self.shard.begin_together();
        for step in &transaction.steps {
            let at = body.len();
            let mut reply = Reply::new(step.proto, body, splices);
            let began = self.env.now();
            self.ledger.begin(step.spec);
            self.shard.evaluate_whole(step.spec, step.args.args(), step.db, &mut reply, holds);
            let took = self.env.now().saturating_sub(began);
            self.note_slow(whose, step.spec, &step.args.args(), took);
            self.ledger.end(step.spec);
            let len = (body.len() - at) as u32;
            elements.push(Element { part: 0, at: at as u32, len });
        }
        self.shard.end_transaction(holds);
        answered
    }

    /// Another shard has run our transaction, or not: the reply, with what is run here.
    pub(in crate::server) fn take_executed(&mut self, id: ConnId, part: Part<'_>) {
        let Some(conn) = self.conn(id) else { return };
        conn.busy = false;
        let Some(mut running) = conn.pending.take().and_then(|pending| pending.running) else {
            return;
        };
        self.ledger.finish(running.call, self.shard.stats());
        let Some(conn) = self.conn(id) else { return };
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
}
