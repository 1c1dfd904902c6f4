//! Clients of a cluster that ask again until they know: for each write there is one entry in the
//! history, however often it was asked for.
//!
//! Each is one session of the binary protocol. A write that is not answered for a while, or whose
//! connection ends, or that is answered with an error that does not settle it, is sent again, to
//! any node, under the same number; the connection before it may live on, so that the copies race.
//! Some that are answered are sent again all the same, as if the answer had been lost, now or much
//! later: the second answer is to be the first.
//! The writes compare with what the client last read, so that one that is done twice, or that is
//! done and said not to hold, is seen by [`crate::sim::checker`].

use std::time::Duration;

use super::cluster::Cluster;
use super::house::BINARY_PORT;
use crate::protocol::binary::{
    Code, Condition, FLAG_ONCE, HEADER_LEN, Header, Hello, OutcomeState, Reply, Request, VERSION,
    finish, start,
};
use crate::protocol::binary::{Failure, Op as Write};
use crate::sim::checker::{Answer, CallId, History, Op};
use crate::sim::{Client, Rng};

/// How long a request waits at most before it is sent again.
const PATIENCE_MAX: Duration = Duration::from_secs(4);
/// The number of `session` on each connection.
const SESSION_ID: u64 = 1 << 40;

/// What waits for its answer.
struct Asked {
    id: CallId,
    op: Op,
    key: String,
    sequence: u64,
    /// An answer that came and was not enough.
    told: Option<Answer>,
    /// Whether that is so.
    doubts: bool,
}

struct Retrier {
    session: [u8; 16],
    /// As the first reply said; 0: there was none.
    born: u64,
    sequence: u64,
    /// What was last seen of its key.
    seen: Option<i64>,
    asked: Option<Asked>,
    line: Option<Client>,
    input: Vec<u8>,
    /// Where copies may be under way.
    others: Vec<Client>,
    again_at: Duration,
}

/// See the module's header.
pub(super) struct Retriers {
    pub history: History,
    retriers: Vec<Retrier>,
    keys: u64,
    left: u64,
    last_number: i64,
    /// Requests that were sent again.
    pub again: u64,
}

impl Retriers {
    /// Some of them, which do `ops` operations.
    pub fn drawn(rng: &mut Rng, ops: u64) -> Self {
        let retrier = |at: u64| Retrier {
            session: u128::from(at + 1).to_le_bytes(),
            born: 0,
            sequence: 0,
            seen: None,
            asked: None,
            line: None,
            input: Vec::new(),
            others: Vec::new(),
            again_at: Duration::ZERO,
        };
        Self {
            history: History::default(),
            retriers: (0..rng.between(2, 5)).map(retrier).collect(),
            keys: rng.between(1, 3),
            left: ops,
            last_number: 0,
            again: 0,
        }
    }

    /// Whether all was done.
    pub fn are_done(&self) -> bool {
        self.left == 0 && self.retriers.iter().all(|retrier| retrier.asked.is_none())
    }

    /// Takes what came and sends what is due.
    ///
    /// # Errors
    /// A reply that no request gets.
    pub fn turn(&mut self, cluster: &Cluster, rng: &mut Rng) -> Result<(), String> {
        (0..self.retriers.len()).try_for_each(|who| self.turn_of(who, cluster, rng))
    }

    fn turn_of(&mut self, who: usize, cluster: &Cluster, rng: &mut Rng) -> Result<(), String> {
        let now = cluster.sim.now();
        let retrier = &mut self.retriers[who];
        if retrier.asked.is_none() {
            if self.left == 0 || now < retrier.again_at {
                return Ok(());
            }
            self.left -= 1;
            self.ask(who, now, rng);
            return Ok(());
        }
        while let Some((header, body)) = self.retriers[who].next_frame() {
            if self.take(who, (&header, &body), now, rng)? {
                let rest = Duration::from_micros(rng.between(10, 50_000));
                self.retriers[who].again_at = now + rest;
                return Ok(());
            }
        }
        let retrier = &mut self.retriers[who];
        if retrier.line.take_if(|line| line.is_ended()).is_some() {
            let soon = now + Duration::from_micros(rng.between(500, 20_000));
            retrier.again_at = retrier.again_at.min(soon);
        }
        if now >= retrier.again_at {
            self.again += 1;
            let keeps = rng.one_in(2);
            retrier.send(cluster, rng, keeps);
            let most = PATIENCE_MAX.as_micros() as u64 >> rng.below(8);
            retrier.again_at = now + Duration::from_micros(rng.between(5_000, most.max(10_000)));
        }
        Ok(())
    }

    /// Thinks of something to do; it is sent next.
    fn ask(&mut self, who: usize, now: Duration, rng: &mut Rng) {
        self.last_number += 1;
        let retrier = &mut self.retriers[who];
        let to = self.last_number;
        let op = match rng.below(10) {
            0..3 => Op::Get,
            3 => Op::Put(to),
            4 => Op::Delete,
            _ => Op::Cas { from: retrier.seen, to },
        };
        let key = format!("once{}", rng.below(self.keys));
        let id = self.history.called(who as u32, &key, op, now.as_nanos() as u64);
        retrier.sequence += 1;
        retrier.asked =
            Some(Asked { id, op, key, sequence: retrier.sequence, told: None, doubts: true });
        retrier.again_at = now;
        if let Some(line) = &retrier.line
            && !line.is_ended()
            && retrier.born != 0
        {
            line.send(&retrier.frame());
            retrier.again_at = now + PATIENCE_MAX / 4;
        }
    }

    /// Takes a reply. True: it settles what was asked.
    fn take(
        &mut self,
        who: usize,
        (header, body): (&Header, &[u8]),
        now: Duration,
        rng: &mut Rng,
    ) -> Result<bool, String> {
        let retrier = &mut self.retriers[who];
        let reply = Reply::decode(header, body).ok_or("a reply that can not be read")?;
        if let Reply::Session(born) = reply {
            let is_first = retrier.born == 0;
            retrier.born = if is_first { born } else { retrier.born };
            if is_first && let Some(line) = &retrier.line {
                line.send(&retrier.frame());
            }
            return Ok(false);
        }
        let is_it = |of: &&mut Asked| of.sequence == header.request_id;
        let Some(asked) = retrier.asked.as_mut().filter(is_it) else { return Ok(false) };
        let Some(answer) = answer_to(asked.op, &reply)? else {
            // Nobody knows, or nothing was done: it is sent again.
            retrier.again_at = retrier.again_at.min(now + Duration::from_millis(20));
            return Ok(false);
        };
        let first = *asked.told.get_or_insert(answer);
        if first != answer && asked.op != Op::Get {
            return Err(format!("{:?} -> {first:?}, and asked again {answer:?}", asked.op));
        }
        if asked.op != Op::Get && asked.doubts && rng.one_in(2) {
            let most = PATIENCE_MAX.as_micros() as u64 >> rng.below(12);
            retrier.again_at = now + Duration::from_micros(rng.between(100, most.max(200)));
            asked.doubts = rng.one_in(2);
            return Ok(false);
        }
        match (asked.op, answer) {
            (_, Answer::Value(value)) => retrier.seen = value,
            (Op::Put(to) | Op::Cas { to, .. }, Answer::Done | Answer::Swapped(true)) => {
                retrier.seen = Some(to);
            }
            _ => {}
        }
        self.history.returned(asked.id, answer, now.as_nanos() as u64);
        retrier.asked = None;
        Ok(true)
    }
}

impl Retrier {
    /// A whole frame that came.
    fn next_frame(&mut self) -> Option<(Header, Vec<u8>)> {
        self.input.extend(self.line.as_ref()?.received());
        let (head, rest) = self.input.split_first_chunk::<HEADER_LEN>()?;
        let header = Header::decode(head).expect("a node sends frames");
        let body = rest.get(..header.body_len as usize)?.to_vec();
        self.input.drain(..HEADER_LEN + body.len());
        Some((header, body))
    }

    /// Sends what is asked to some node. `keeps`: what was sent before may still arrive.
    fn send(&mut self, cluster: &Cluster, rng: &mut Rng, keeps: bool) {
        let node = cluster.houses[rng.index(cluster.houses.len())].node.id();
        let line = cluster.sim.connect(node, BINARY_PORT);
        let hello = Request::Hello(Hello { versions: &[VERSION], ..Hello::default() });
        let session = Request::Session { id: self.session, born: self.born };
        let mut frames = [framed(0, 0, &hello), framed(SESSION_ID, 0, &session)].concat();
        if self.born != 0 {
            frames.extend(self.frame());
        }
        line.send(&frames);
        self.input.clear();
        if let Some(before) = self.line.replace(line)
            && keeps
        {
            self.others.truncate(3);
            self.others.insert(0, before);
        }
    }

    /// What is asked.
    fn frame(&self) -> Vec<u8> {
        let Some(asked) = &self.asked else { return Vec::new() };
        let (key, sequence) = (asked.key.as_bytes(), asked.sequence);
        let text = |number: i64| number.to_string().into_bytes();
        let (value, from) = match asked.op {
            Op::Get => return framed(sequence, 0, &Request::Get { db: 0, key }),
            Op::Put(to) => (Some(text(to)), None),
            Op::Delete => (None, None),
            Op::Cas { from, to } => (Some(text(to)), Some(from.map(text))),
            Op::Incr => unreachable!("the binary protocol has no counters"),
        };
        let condition = match &from {
            None => Condition::None,
            Some(None) => Condition::Absent,
            Some(Some(from)) => Condition::Equals(from),
        };
        let write = Write { key, value: value.as_deref(), condition, ..Write::default() };
        framed(sequence, FLAG_ONCE, &Request::Write(write))
    }
}

/// A request of the binary protocol.
pub(super) fn framed(request_id: u64, flags: u16, request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let at = start(&mut out);
    request.encode(&mut out);
    let opcode = request.opcode() as u8;
    let header = Header { version: VERSION, opcode, flags, request_id, ..Header::default() };
    finish(&mut out, at, header);
    out
}

/// What a reply says of an operation; `None`: nothing.
fn answer_to(op: Op, reply: &Reply<'_>) -> Result<Option<Answer>, String> {
    Ok(Some(match (op, reply) {
        (Op::Get, Reply::Get(item)) => {
            let text = item.value.map(String::from_utf8_lossy);
            let number = text.map(|text| text.parse().map_err(|_| format!("GET -> {text:?}")));
            Answer::Value(number.transpose()?)
        }
        (Op::Put(_), Reply::Write(_)) => Answer::Done,
        (Op::Delete, Reply::Write(outcome)) => {
            Answer::Deleted(outcome.state != OutcomeState::Nothing)
        }
        (Op::Cas { .. }, Reply::Write(_)) => Answer::Swapped(true),
        (Op::Cas { .. }, Reply::Error(Failure { code, .. }))
            if *code == Code::ConditionFailed as u16 =>
        {
            Answer::Swapped(false)
        }
        (_, Reply::Error(Failure { code, text, .. })) if *code == Code::TooOld as u16 => {
            return Err(format!("{op:?} -> too old: {text}"));
        }
        (_, Reply::Error(failure)) if is_passing(failure) => return Ok(None),
        _ => return Err(format!("{op:?} -> {reply:?}")),
    }))
}

fn is_passing(failure: &Failure<'_>) -> bool {
    const PASSING: [Code; 7] = [
        Code::Overloaded,
        Code::ShuttingDown,
        Code::NoLeader,
        Code::LeaderChanged,
        Code::DiskFull,
        Code::LogFailed,
        Code::ReadOnly,
    ];
    PASSING.iter().any(|code| *code as u16 == failure.code)
}
