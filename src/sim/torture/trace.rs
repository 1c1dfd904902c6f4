//! A trace: one client, one command at a time, so that a seed says at which operation of the disk
//! which command is on its way; and a model of each key.
//!
//! The campaigns are made of it: each breaks something at a chosen place and asks what is left. A
//! command that was not answered, or with an error, is done or not; all others are done.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::house::{House, PATIENCE, Shape};
use super::model::{Register, State};
use super::talk::{Talk, Value, encode};
use super::{Done, Kind, Violation};
use crate::sim::Rng;

/// Keys of a trace.
pub(super) const KEYS: usize = 40;

/// See the module's header.
pub(super) struct Trace {
    pub house: House,
    pub done: Done,
    talk: Option<Talk>,
    rng: Rng,
    registers: Vec<Register>,
    /// Values are numbered.
    number: u64,
    /// Nothing goes on when the disk has been asked so often.
    pub until: u64,
    /// Errors are no surprise.
    pub is_faulty: bool,
}

/// What became of a command, or of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was done.
    Done,
    /// It was answered with an error, or the connection ended.
    Refused,
    /// The disk was asked as often as wanted.
    Reached,
}

pub(super) fn key(index: usize) -> String {
    format!("k{index}")
}

impl Trace {
    /// A trace of a node that is not started.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let house = House::unopened(seed, shape);
        Self {
            rng: house.sim.rng(),
            house,
            done: Done::default(),
            talk: None,
            registers: (0..KEYS).map(|_| Register::default()).collect(),
            number: 0,
            until: u64::MAX,
            is_faulty: false,
        }
    }

    pub fn violation(&self, kind: Kind, text: impl Into<String>) -> Violation {
        Violation { kind, life: self.done.lives, text: text.into() }
    }

    fn is_reached(&self) -> bool {
        self.house.node.calls() >= self.until
    }

    /// Starts the node. An error: it does not start, and says why; its process has ended.
    pub fn boot(&mut self) -> Result<End, String> {
        self.talk = None;
        let (node, until) = (self.house.node.clone(), self.until);
        let booted = self.house.boot_until(|| node.calls() >= until);
        if booted.is_err() {
            self.house.node.kill();
        }
        Ok(if booted? { End::Done } else { End::Reached })
    }

    /// Ends the node as a crash does, or a power cut.
    pub fn crash(&mut self, power: bool) {
        self.done.count_life(&self.house);
        if power {
            self.done.power_cuts += 1;
            self.house.node.power_cut();
        } else {
            self.done.kills += 1;
            self.house.node.kill();
        }
    }

    /// Ends the node as SIGTERM does.
    pub fn stop(&mut self) -> End {
        self.house.begin_stop();
        let end = self.house.sim.now() + PATIENCE;
        self.house.sim.run_until(|| {
            assert!(self.house.sim.now() < end, "hang: the node does not stop");
            self.house.has_stopped() || self.is_reached()
        });
        if !self.house.has_stopped() {
            return End::Reached;
        }
        self.done.count_life(&self.house);
        self.done.stops += 1;
        self.house.node.kill();
        End::Done
    }

    /// Sends one command; its reply.
    fn ask(&mut self, args: &[Vec<u8>]) -> Result<Value, End> {
        let talk = self.talk.take().unwrap_or_else(|| self.house.connect());
        talk.client.send(&encode(args));
        let (mut got, end) = (None, self.house.sim.now() + PATIENCE);
        self.house.sim.run_until(|| {
            let late = self.house.sim.now() >= end;
            assert!(!late, "hang: no reply to {:?}", String::from_utf8_lossy(&args[0]));
            got = talk.next();
            got.is_some() || talk.is_ended() || self.is_reached()
        });
        match got {
            // Of what was on its way at that moment nothing is sure.
            _ if self.is_reached() => Err(End::Reached),
            Some(value) => {
                self.talk = Some(talk);
                Ok(value)
            }
            None => Err(End::Refused),
        }
    }

    /// One random command.
    pub fn step(&mut self) -> Result<End, Violation> {
        let (one, other) = (self.rng.index(KEYS), self.rng.index(KEYS));
        self.done.ops += 1;
        match self.rng.below(20) {
            0..11 => self.write("SET", &[one]),
            11..14 => self.write("DEL", &[one]),
            14..16 if one != other => self.write("MSET", &[one, other]),
            _ => self.read(one),
        }
    }

    /// Sets a random key.
    pub fn set(&mut self) -> Result<End, Violation> {
        let one = self.rng.index(KEYS);
        self.done.ops += 1;
        self.write("SET", &[one])
    }

    /// Deletes a random key.
    pub fn delete(&mut self) -> Result<End, Violation> {
        let one = self.rng.index(KEYS);
        self.done.ops += 1;
        self.write("DEL", &[one])
    }

    fn value(&mut self) -> Vec<u8> {
        self.number += 1;
        let len = if self.rng.one_in(60) { 70_000 } else { self.rng.below(2_000) as usize };
        let mut value = format!("v{}.", self.number).into_bytes();
        value.resize(value.len().max(len), b'x');
        value
    }

    fn write(&mut self, name: &str, keys: &[usize]) -> Result<End, Violation> {
        let (mut args, mut tells) = (vec![name.as_bytes().to_vec()], Vec::new());
        for index in keys {
            args.push(key(*index).into_bytes());
            let mut state = State::default();
            if name != "DEL" {
                let value = self.value();
                args.push(value.clone());
                state = State::of(value);
            }
            tells.push((*index, self.registers[*index].sent(state)));
        }
        let reply = match self.ask(&args) {
            Ok(reply) => reply,
            Err(end) => return self.unanswered(end, name),
        };
        match (name, reply) {
            ("DEL", Value::Int(0 | 1)) | ("SET" | "MSET", Value::Simple(_)) => {
                self.done.acked += 1;
                tells.iter().for_each(|(index, at)| self.registers[*index].told(*at));
                Ok(End::Done)
            }
            (_, Value::Error(_)) if self.is_faulty => Ok(End::Refused),
            (_, reply) => Err(self.violation(Kind::Wrong, format!("{name} -> {reply:?}"))),
        }
    }

    fn unanswered(&self, end: End, name: &str) -> Result<End, Violation> {
        if end == End::Refused && !self.is_faulty {
            return Err(self.violation(Kind::Wrong, format!("{name}: the server closed")));
        }
        Ok(end)
    }

    fn read(&mut self, index: usize) -> Result<End, Violation> {
        let from = self.registers[index].floor();
        let reply = match self.ask(&[b"GET".to_vec(), key(index).into_bytes()]) {
            Ok(reply) => reply,
            Err(end) => return self.unanswered(end, "GET"),
        };
        let value = match &reply {
            Value::Bulk(bytes) => Some(bytes.as_slice()),
            Value::Nil => None,
            Value::Error(_) if self.is_faulty => return Ok(End::Refused),
            other => return Err(self.violation(Kind::Wrong, format!("GET -> {other:?}"))),
        };
        let read = self.registers[index].read(from, value);
        read.map_err(|error| self.violation(Kind::Wrong, format!("{}: {error}", key(index))))?;
        self.done.acked += 1;
        Ok(End::Done)
    }

    /// Reads all keys of a node that serves, which may still have commands of unknown end.
    pub fn read_all(&mut self) -> Result<(), Violation> {
        (0..KEYS).try_for_each(|index| self.read(index).map(drop))
    }

    /// Reads all keys after a start: what is found is what they hold from now on.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.talk = None;
        for index in 0..KEYS {
            let reply = self.ask(&[b"GET".to_vec(), key(index).into_bytes()]);
            let found = match reply {
                Ok(Value::Bulk(bytes)) => State::of(bytes),
                Ok(Value::Nil) => State::default(),
                other => {
                    let text = format!("after a start, GET {} -> {other:?}", key(index));
                    return Err(self.violation(Kind::Lost, text));
                }
            };
            let settled = self.registers[index].settle(found);
            settled
                .map_err(|error| self.violation(Kind::Lost, format!("{}: {error}", key(index))))?;
        }
        Ok(())
    }

    /// What each key holds, if no command is of unknown end.
    pub fn known(&self) -> BTreeMap<String, Option<Rc<Vec<u8>>>> {
        let states = self.registers.iter().enumerate();
        states.map(|(index, register)| (key(index), register.last().value.clone())).collect()
    }

    /// A start that has to succeed, with everything there; then some more writes, which have to
    /// survive a power cut.
    pub fn prove(&mut self) -> Result<(), Violation> {
        (self.until, self.is_faulty) = (u64::MAX, false);
        for steps in [20, 0] {
            self.boot().map_err(|error| self.violation(Kind::RefusedStart, error))?;
            self.settle()?;
            for _ in 0..steps {
                self.step()?;
            }
            self.crash(true);
        }
        Ok(())
    }
}
