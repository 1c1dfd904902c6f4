//! Clients of a cluster that write down what they see, for [`crate::sim::checker`].
//!
//! Each has a connection to some node and sends one command after another over it. What is not
//! answered in time, or not before the connection ends, or is answered with UNKNOWN, stays open in
//! the history; what is refused as not begun must never have an effect. Then the client goes to
//! another node.

use std::time::Duration;

use super::cluster::Cluster;
use super::talk::{Talk, Value, encode};
use crate::sim::Rng;
use crate::sim::checker::{Answer, CallId, History, Op};

/// How long a client waits for a reply.
const REPLY_MAX: Duration = Duration::from_secs(8);
/// How long all must be answered again once nothing is wrong any more.
const HEALED_MAX: Duration = Duration::from_secs(30);
/// Errors that say that nothing was done.
const NOT_BEGUN: [&str; 3] = ["CLUSTERDOWN", "TRYAGAIN", "MISCONF"];
/// The distance of two written numbers: increments do not reach the next.
const APART: i64 = 10_000;

struct Waits {
    id: CallId,
    op: Op,
    until: Duration,
}

struct Client {
    talk: Option<Talk>,
    waits: Option<Waits>,
    /// Nothing is sent before.
    rests_until: Duration,
}

/// What a reply tells.
enum Told {
    Answer(Answer),
    Never,
    Unknown,
}

/// See the module's header.
pub(super) struct Clients {
    pub history: History,
    clients: Vec<Client>,
    keys: u64,
    /// Of the ten in the order of [`Clients::send`] so many.
    kinds: u64,
    /// How many only read, and at the first node.
    readers: usize,
    /// Commands to be sent yet.
    left: u64,
    /// Longest rest between two.
    rest_max: Duration,
    last_number: i64,
    pub refused: u64,
    pub unknown: u64,
}

impl Clients {
    /// Some of them, of every kind, which send `ops` commands.
    pub fn drawn(rng: &mut Rng, ops: u64) -> Self {
        let client = |_| Client { talk: None, waits: None, rests_until: Duration::ZERO };
        Self {
            history: History::default(),
            clients: (0..rng.between(3, 10)).map(client).collect(),
            keys: rng.between(1, 8),
            kinds: 10,
            readers: 0,
            left: ops,
            rest_max: Duration::from_millis([1, 20, 300][rng.index(3)]),
            last_number: 0,
            refused: 0,
            unknown: 0,
        }
    }

    /// Some of them, which send commands on one key as fast as they can. The first only read, at
    /// the first node: a write might wait there for ever.
    #[cfg(test)]
    pub fn on_one_key(rng: &mut Rng) -> Self {
        let drawn = Self::drawn(rng, u64::MAX);
        Self { keys: 1, readers: 2, rest_max: Duration::from_millis(5), ..drawn }
    }

    /// As [`Clients::on_one_key`]; all of them write, and rest a little longer.
    #[cfg(test)]
    pub fn that_write_one_key(rng: &mut Rng) -> Self {
        Self { readers: 0, rest_max: Duration::from_millis(100), ..Self::on_one_key(rng) }
    }

    /// The same, which get and set alone.
    #[cfg(test)]
    pub fn plain(self) -> Self {
        Self { kinds: 7, ..self }
    }

    /// Nothing more is sent.
    #[cfg(test)]
    pub fn stop(&mut self) {
        self.left = 0;
    }

    /// Whether all was sent and nobody waits.
    pub fn are_done(&self) -> bool {
        self.left == 0 && self.clients.iter().all(|client| client.waits.is_none())
    }

    /// Takes what came and sends what is due.
    ///
    /// # Errors
    /// A reply that no command gets.
    pub fn turn(&mut self, cluster: &Cluster, rng: &mut Rng) -> Result<(), String> {
        (0..self.clients.len()).try_for_each(|who| self.turn_of(who, cluster, rng))
    }

    fn turn_of(&mut self, who: usize, cluster: &Cluster, rng: &mut Rng) -> Result<(), String> {
        let now = cluster.sim.now();
        let client = &mut self.clients[who];
        let Some(talk) = &client.talk else {
            if now >= client.rests_until && self.left > 0 {
                let node = rng.index(cluster.houses.len());
                client.talk = Some(cluster.connect(if who < self.readers { 0 } else { node }));
            }
            return Ok(());
        };
        if let Some(waits) = client.waits.take() {
            let reply = talk.next();
            let has_ended = reply.is_none() && (now >= waits.until || talk.is_ended());
            match reply {
                Some(reply) => self.take(&waits, &reply, now)?,
                None if has_ended => self.unknown += 1,
                None => client.waits = Some(waits),
            }
            if has_ended {
                self.leave(who, now, rng);
            }
        } else if talk.is_ended() {
            self.leave(who, now, rng);
        } else if talk.client.is_connected() && now >= client.rests_until && self.left > 0 {
            self.send(who, now, rng);
        }
        Ok(())
    }

    /// Goes away, and to any node later.
    fn leave(&mut self, who: usize, now: Duration, rng: &mut Rng) {
        self.clients[who].talk = None;
        self.clients[who].rests_until = now + Duration::from_micros(rng.between(10, 200_000));
    }

    fn send(&mut self, who: usize, now: Duration, rng: &mut Rng) {
        self.left -= 1;
        self.last_number += APART;
        let op = match rng.below(self.kinds) {
            _ if who < self.readers => Op::Get,
            0..4 => Op::Get,
            4..7 => Op::Put(self.last_number),
            7 => Op::Delete,
            8 => Op::Cas { from: None, to: self.last_number },
            _ => Op::Incr,
        };
        let key = format!("key{}", rng.below(self.keys));
        let id = self.history.called(who as u32, &key, op, nanos(now));
        let client = &mut self.clients[who];
        let talk = client.talk.as_ref().expect("the caller looked");
        talk.client.send(&encode(&words(op, &key)));
        client.waits = Some(Waits { id, op, until: now + REPLY_MAX });
        client.rests_until = now + self.rest_max.mul_f64(rng.below(1_000) as f64 / 1_000.0);
    }

    fn take(&mut self, waits: &Waits, reply: &Value, now: Duration) -> Result<(), String> {
        match told(waits.op, reply)? {
            Told::Answer(answer) => self.history.returned(waits.id, answer, nanos(now)),
            Told::Unknown => self.unknown += 1,
            Told::Never => {
                self.refused += 1;
                self.history.never(waits.id);
            }
        }
        Ok(())
    }

    /// Reads every key at every node: nothing is wrong any more, so all must answer soon.
    ///
    /// # Errors
    /// One that does not.
    pub fn read_all(&mut self, cluster: &Cluster) -> Result<(), String> {
        let end = cluster.sim.now() + HEALED_MAX;
        for node in 0..cluster.houses.len() {
            for key in 0..self.keys {
                let key = format!("key{key}");
                while let Some(reply) = self.read(cluster, node, &key)? {
                    if cluster.sim.now() > end {
                        let node = node + 1;
                        return Err(format!(
                            "{HEALED_MAX:?} after all was healed node {node} does not answer \
                             GET {key}: {reply}"
                        ));
                    }
                    cluster.run_ms(50);
                }
            }
        }
        Ok(())
    }

    /// What there was in place of an answer.
    fn read(
        &mut self,
        cluster: &Cluster,
        node: usize,
        key: &str,
    ) -> Result<Option<String>, String> {
        let talk = cluster.connect(node);
        let who = (self.clients.len() + node) as u32;
        let (op, now) = (Op::Get, cluster.sim.now());
        let id = self.history.called(who, key, op, nanos(now));
        talk.client.send(&encode(&words(op, key)));
        let mut reply = None;
        cluster.sim.run_until(|| {
            reply = talk.next();
            reply.is_some() || talk.is_ended() || cluster.sim.now() > now + REPLY_MAX
        });
        let Some(reply) = reply else {
            let what = if talk.is_ended() { "the connection ended" } else { "no reply came" };
            return Ok(Some(what.to_owned()));
        };
        let (_, before) = self.history.counts();
        self.take(&Waits { id, op, until: now }, &reply, cluster.sim.now())?;
        Ok((self.history.counts().1 == before).then(|| format!("{reply:?}")))
    }
}

fn nanos(at: Duration) -> u64 {
    at.as_nanos() as u64
}

fn words(op: Op, key: &str) -> Vec<String> {
    let line = match op {
        Op::Get => format!("GET {key}"),
        Op::Put(value) => format!("SET {key} {value}"),
        Op::Delete => format!("DEL {key}"),
        Op::Cas { from, to } => {
            assert!(from.is_none(), "RESP has no other compare and set");
            format!("SET {key} {to} NX")
        }
        Op::Incr => format!("INCR {key}"),
    };
    line.split(' ').map(str::to_owned).collect()
}

fn told(op: Op, reply: &Value) -> Result<Told, String> {
    Ok(Told::Answer(match (op, reply) {
        (Op::Get, Value::Nil) => Answer::Value(None),
        (Op::Get, Value::Bulk(bytes)) => {
            let text = String::from_utf8_lossy(bytes);
            Answer::Value(Some(text.parse().map_err(|_| format!("GET -> {text:?}"))?))
        }
        (Op::Put(_), Value::Simple(_)) => Answer::Done,
        (Op::Delete, Value::Int(count @ 0..=1)) => Answer::Deleted(*count == 1),
        (Op::Cas { .. }, Value::Simple(_)) => Answer::Swapped(true),
        (Op::Cas { .. }, Value::Nil) => Answer::Swapped(false),
        (Op::Incr, Value::Int(count)) => Answer::Count(*count),
        (_, Value::Error(_)) if NOT_BEGUN.iter().any(|prefix| reply.is_error(prefix)) => {
            return Ok(Told::Never);
        }
        _ if reply.is_error("UNKNOWN") => return Ok(Told::Unknown),
        _ => return Err(format!("{op:?} -> {reply:?}")),
    }))
}
