//! The property: whatever crashes come, nothing acknowledged is lost, nothing read is taken back,
//! nothing deleted returns, counters count each acknowledged increment once, and the replies of a
//! connection come in order. [`super::model`] says what may be. Keys that are always written
//! together ([`super::groups`]) are always read alike: after a crash too.
//!
//! A run is some lives of one node. In each, clients send pipelines of random commands until the
//! node is killed, loses power, is stopped, or all is answered; then it starts anew, all keys are
//! read, and what is read must be allowed. Some lives have a disk that fails.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::groups;
use super::house::{House, PATIENCE, Shape};
use super::model::{Counter, Known, Register, State};
use super::talk::{Talk, Value, encode};
use super::{Done, Kind, Length, Violation};
use crate::lsm::table::Compression;
use crate::sim::{Faults, Rng, WALL_START_MS};

/// Keys of each client, and counters of all.
pub(super) const KEYS: usize = 4;
const COUNTERS: usize = 2;
/// Far enough: no key expires in a run.
const FAR_MS: u64 = WALL_START_MS + 1_000_000_000;

/// One key of a command's reply.
#[derive(Debug)]
pub(super) enum Expect {
    /// This and nothing else; a read if there is one, by key.
    Exactly(Value),
    /// A read of someone's register: which, and its floor when it was sent.
    Register(usize, usize),
    /// An increment: of which counter, and what was known when it was sent.
    Increment(usize, Known),
    /// A read of a counter.
    Counter(usize, Known),
    /// Each in order.
    Each(Vec<Expect>),
    /// A read of all keys of a group: its register, and its floor when it was sent.
    Group(usize, usize),
    /// A read of both names of a token, likewise.
    Token(usize, usize),
    /// The read of a counter that is to be incremented if nobody else does.
    Guarded(usize, Known),
    /// Such an increment: of which counter, to what, and what was known when it was sent.
    Guard(usize, i64, Known),
}

struct Asked {
    text: String,
    expect: Expect,
    /// Registers and the numbers of their writes that the reply tells of.
    tells: Vec<(usize, usize)>,
    /// Own registers that an exact reply read, for when the disk has failed.
    clears: bool,
}

pub(super) struct Player {
    talk: Talk,
    asked: VecDeque<Asked>,
    left: u64,
    /// A counter that it watches, and what it read there, once it has.
    pub guard: Option<(usize, Option<i64>)>,
}

pub(super) struct Run {
    pub house: House,
    pub rng: Rng,
    pub registers: Vec<Register>,
    pub counters: Vec<Counter>,
    pub players: Vec<Player>,
    /// A clear is on its way: no writes of others.
    pub clearing: bool,
    /// The disk of this life may fail.
    pub faulty: bool,
    /// A shard said that its log failed: writes are refused.
    failed: bool,
    number: u64,
    done: Done,
}

/// A run of some lives of a node.
///
/// # Errors
/// The first thing that must not be.
///
/// # Panics
/// Where the node does, or when it hangs.
pub fn run(seed: u64, shape: Shape, length: Length) -> Result<Done, Violation> {
    let house = House::unopened(seed, shape);
    let mut rng = house.sim.rng();
    let clients = rng.between(2, 4) as usize;
    let mut run = Run {
        house,
        rng,
        registers: (0..clients * groups::REGISTERS).map(|_| Register::default()).collect(),
        counters: (0..COUNTERS).map(|_| Counter::default()).collect(),
        players: Vec::new(),
        clearing: false,
        faulty: false,
        failed: false,
        number: 0,
        done: Done::default(),
    };
    while !length.is_reached(&run.done) {
        run.boot()?;
        let lived = run.live(clients);
        run.done.count_life(&run.house);
        lived.map_err(|error| run.violation(Kind::Wrong, error))?;
    }
    run.boot()?;
    run.done.trace_hash = run.house.sim.trace_hash();
    Ok(run.done)
}

/// What a node of a seed looks like.
pub fn shape(seed: u64) -> Shape {
    let mut rng = Rng::new(seed);
    Shape {
        shards: rng.between(1, 3) as u16,
        partitions: rng.between(1, 3) as u32,
        // Flushes all the time, now and then, or never.
        log_len_max: [8 << 10, 64 << 10, 1 << 30][rng.index(3)],
        // All rows stay in memory, some leave it, or all that can.
        rows_len_max: [None, Some(200 << 10), Some(1 << 10)][rng.index(3)],
        compression: compression(seed),
        ..Shape::default()
    }
}

/// Of the tables of a seed's nodes.
pub(super) fn compression(seed: u64) -> Compression {
    Compression::ALL[(seed % 3) as usize]
}

pub(super) fn key(register: usize) -> String {
    format!("key{register}")
}

fn value_of(state: &State) -> Value {
    state.value.as_ref().map_or(Value::Nil, |value| Value::bulk(&**value))
}

fn deadline_of(state: &State) -> Value {
    match (&state.value, state.expiry_ms) {
        (None, _) => Value::Int(-2),
        (_, None) => Value::Int(-1),
        (_, Some(at)) => Value::Int(at as i64),
    }
}

impl Run {
    fn violation(&self, kind: Kind, text: String) -> Violation {
        Violation { kind, life: self.done.lives, text }
    }

    /// Starts the node and reads everything.
    fn boot(&mut self) -> Result<(), Violation> {
        self.house.node.set_faults(Faults::none());
        let boot = self.house.boot();
        boot.map_err(|error| self.violation(Kind::RefusedStart, error))?;
        self.settle().map_err(|error| self.violation(Kind::Lost, error))
    }

    /// Reads everything and says what it has to be from now on.
    fn settle(&mut self) -> Result<(), String> {
        let mut talk = self.house.connect();
        for index in 0..self.singles() {
            let name = key(index);
            let value = self.house.ask(&mut talk, &["GET", &name]);
            let deadline = self.house.ask(&mut talk, &["PEXPIRETIME", &name]);
            let value = match value {
                Value::Bulk(bytes) => Some(Rc::new(bytes)),
                Value::Nil => None,
                other => return Err(format!("GET {name}: {other:?}")),
            };
            let expiry_ms = match deadline {
                Value::Int(at @ 1..) => Some(at as u64),
                _ => None,
            };
            let found = State { value, expiry_ms };
            self.registers[index].settle(found).map_err(|error| format!("{name}: {error}"))?;
        }
        self.settle_groups(&mut talk)?;
        for index in 0..COUNTERS {
            let found = match self.house.ask(&mut talk, &["GET", &format!("count{index}")]) {
                Value::Nil => 0,
                Value::Bulk(bytes) => number(&bytes)?,
                other => return Err(format!("GET count{index}: {other:?}")),
            };
            self.counters[index].settle(found).map_err(|error| format!("count{index}: {error}"))?;
        }
        Ok(())
    }

    /// One life, to its end.
    fn live(&mut self, clients: usize) -> Result<(), String> {
        let ops = self.rng.between(10, 80);
        self.players = (0..clients)
            .map(|_| Player {
                talk: self.house.connect(),
                asked: VecDeque::new(),
                left: ops,
                guard: None,
            })
            .collect();
        (self.clearing, self.failed, self.faulty) = (false, false, self.rng.one_in(5));
        if self.faulty {
            let ppm = [3_000, 30_000, 200_000][self.rng.index(3)];
            // A key that can not be read is refused alone (`away`): the model knows no such reply.
            self.house.node.set_faults(Faults { read_eio: 0, ..Faults::errors(ppm) });
        }
        let scale = [2_000, 20_000, 300_000][self.rng.index(3)];
        let end = self.house.sim.now() + Duration::from_micros(self.rng.between(10, scale));
        let patience = self.house.sim.now() + PATIENCE;
        let step_us = [20, 200, 2_000][self.rng.index(3)];
        // One in three lives goes on until all is answered: then nothing may be missing.
        let to_the_end = self.rng.one_in(3);
        while to_the_end || self.house.sim.now() < end {
            if self.turn(step_us)? {
                break;
            }
            if self.house.sim.now() > patience {
                return Err(format!("hang: {:?} was not answered", self.oldest()));
            }
        }
        self.end_life();
        // What the node sent before its end still arrives.
        self.house.run_ms(100);
        for index in 0..clients {
            self.take_replies(index)?;
        }
        self.players.clear();
        Ok(())
    }

    fn oldest(&self) -> Vec<&str> {
        let asked = self.players.iter().filter_map(|player| player.asked.front());
        asked.map(|asked| asked.text.as_str()).collect()
    }

    fn end_life(&mut self) {
        if self.rng.one_in(6) && !self.failed && !self.faulty {
            self.done.stops += 1;
            self.house.stop();
        } else if self.rng.one_in(3) {
            self.done.kills += 1;
            self.house.node.kill();
        } else {
            self.done.power_cuts += 1;
            self.house.node.power_cut();
        }
        let hour_ms = 3_600_000;
        let jump = self.rng.between(0, 2 * hour_ms) as i64 - hour_ms as i64;
        self.house.node.set_wall_offset_ms(jump);
    }

    /// Someone sends something, time passes, replies are checked. True: all is answered.
    fn turn(&mut self, step_us: u64) -> Result<bool, String> {
        let who = self.rng.index(self.players.len());
        if self.rng.one_in(2) && self.players[who].left > 0 && self.players[who].asked.len() < 64 {
            let count = self.rng.between(1, 12).min(self.players[who].left);
            self.players[who].left -= count;
            let mut bytes: Vec<u8> = (0..count).flat_map(|_| self.ask(who)).collect();
            bytes.extend(self.guarded(who));
            self.players[who].talk.client.send(&bytes);
        }
        let pause = self.rng.between(1, step_us);
        self.house.sim.run_for(Duration::from_micros(pause));
        for index in 0..self.players.len() {
            self.take_replies(index)?;
        }
        let open = |player: &Player| !player.asked.is_empty() || player.left > 0;
        Ok(!self.players.iter().any(open))
    }

    fn take_replies(&mut self, who: usize) -> Result<(), String> {
        while let Some(reply) = self.players[who].talk.next() {
            let Some(asked) = self.players[who].asked.pop_front() else {
                return Err(format!("client {who} got {reply:?} for nothing"));
            };
            self.done.answers += 1;
            let text = asked.text.clone();
            self.judge(who, asked, &reply)
                .map_err(|error| format!("client {who}: {text} -> {reply:?}: {error}"))?;
        }
        if self.players[who].talk.is_ended() && self.house.node.is_up() {
            if !self.faulty && !self.house.has_stopped() {
                return Err(format!("client {who}: the server closed the connection"));
            }
            self.failed = true;
            self.players[who].asked.clear();
            self.players[who].left = 0;
        }
        Ok(())
    }

    fn judge(&mut self, who: usize, asked: Asked, reply: &Value) -> Result<(), String> {
        if self.faulty && (is_of_the_log(reply) || reply.is_error("EXECABORT")) {
            self.failed = true;
            return Ok(());
        }
        self.agree_of(who, &asked.expect, reply)?;
        self.done.acked += 1;
        asked.tells.iter().for_each(|(register, at)| self.registers[*register].told(*at));
        if asked.clears {
            self.clearing = false;
            self.counters.iter_mut().for_each(Counter::cleared);
        }
        Ok(())
    }

    pub(super) fn agree(&mut self, expect: &Expect, reply: &Value) -> Result<(), String> {
        match (expect, reply) {
            (_, reply) if self.faulty && is_of_the_log(reply) => {
                self.failed = true;
                Ok(())
            }
            (Expect::Exactly(expected), reply) if expected == reply => Ok(()),
            (Expect::Register(index, from), Value::Nil) => self.registers[*index].read(*from, None),
            (Expect::Register(index, from), Value::Bulk(bytes)) => {
                self.registers[*index].read(*from, Some(bytes))
            }
            (Expect::Increment(index, from), Value::Int(n)) => {
                self.counters[*index].incremented(*from, *n)
            }
            (Expect::Counter(index, from), Value::Nil) => self.counters[*index].read(*from, 0),
            (Expect::Counter(index, from), Value::Bulk(bytes)) => {
                self.counters[*index].read(*from, number(bytes)?)
            }
            (Expect::Each(each), Value::Array(replies)) if each.len() == replies.len() => {
                each.iter().zip(replies).try_for_each(|(expect, reply)| self.agree(expect, reply))
            }
            (Expect::Group(index, from), reply) => {
                let value = groups::alike(reply)?;
                self.registers[*index].read(*from, value)
            }
            (Expect::Token(index, from), reply) => {
                let name = groups::name_of_token(reply)?;
                self.registers[*index].read(*from, name)
            }
            _ => Err(format!("expected {expect:?}")),
        }
    }

    /// A random command of a client, encoded and noted.
    fn ask(&mut self, who: usize) -> Vec<u8> {
        let write = !self.failed && !self.clearing;
        let args = match self.rng.below(100) {
            0 if write && self.is_quiet() => self.clear(who),
            0..50 if write => self.write(who),
            50..60 if write => return self.ask_group(who),
            60..70 if write => self.increment(who),
            70..75 => self.read_counter(who),
            75..82 => self.read_many(who),
            82..88 => self.read_group(who),
            _ => self.read(who),
        };
        encode(&args)
    }

    pub(super) fn note(
        &mut self,
        who: usize,
        args: &[Vec<u8>],
        expect: Expect,
        tells: Vec<(usize, usize)>,
    ) {
        let words = args.iter().map(|arg| String::from_utf8_lossy(&arg[..arg.len().min(20)]));
        let text = words.collect::<Vec<_>>().join(" ");
        let clears = text.starts_with("FLUSH");
        self.done.ops += 1;
        self.players[who].asked.push_back(Asked { text, expect, tells, clears });
    }

    fn is_quiet(&self) -> bool {
        self.players.iter().all(|player| player.asked.is_empty())
    }

    fn clear(&mut self, who: usize) -> Vec<Vec<u8>> {
        self.clearing = true;
        self.counters.iter_mut().for_each(Counter::clear_sent);
        let tells = self.registers.iter_mut().enumerate();
        let tells = tells.map(|(index, register)| (index, register.sent(State::default())));
        let tells = tells.collect();
        let args = words(&[["FLUSHALL", "FLUSHDB"][self.rng.index(2)]]);
        self.note(who, &args, Expect::Exactly(Value::ok()), tells);
        args
    }

    fn own(&mut self, who: usize) -> usize {
        who * KEYS + self.rng.index(KEYS)
    }

    /// Registers of one key each.
    pub(super) fn singles(&self) -> usize {
        self.registers.len() / groups::REGISTERS * KEYS
    }

    /// A number for a value.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn value(&mut self) -> Vec<u8> {
        self.number += 1;
        let wide = self.house.sim.net().chunk_len_max > 10_000;
        let len = match self.rng.below(200) {
            0 if wide => 1_100_000,
            0..3 => 70_000,
            3..50 => self.rng.between(0, 3_000) as usize,
            _ => 0,
        };
        let mut value = format!("v{}.", self.number).into_bytes();
        value.resize(value.len().max(len), b'x');
        value
    }

    fn write(&mut self, who: usize) -> Vec<Vec<u8>> {
        let index = self.own(who);
        let (name, last) = (key(index), self.registers[index].last().clone());
        let there = last.value.is_some();
        let mut state = last.clone();
        let (args, reply) = match self.rng.below(20) {
            0..7 => {
                let value = self.value();
                state = State::of(value.clone());
                (args_of(&["SET", &name], value), Value::ok())
            }
            7..10 => {
                state = State::default();
                (words(&["DEL", &name]), Value::Int(i64::from(there)))
            }
            10..12 => {
                let value = self.value();
                if !there {
                    state = State::of(value.clone());
                }
                (args_of(&["SETNX", &name], value), Value::Int(i64::from(!there)))
            }
            12 | 13 => {
                let at = FAR_MS + self.rng.below(1_000_000);
                state.expiry_ms = there.then_some(at);
                let args = words(&["PEXPIREAT", &name, &at.to_string()]);
                (args, Value::Int(i64::from(there)))
            }
            14 | 15 => {
                let value = format!("+{}", self.number).into_bytes();
                let mut whole = last.value.as_deref().cloned().unwrap_or_default();
                whole.extend_from_slice(&value);
                let len = whole.len() as i64;
                state.value = Some(Rc::new(whole));
                (args_of(&["APPEND", &name], value), Value::Int(len))
            }
            16 => {
                let value = self.value();
                state = State::of(value.clone());
                (args_of(&["GETSET", &name], value), value_of(&last))
            }
            _ => return self.write_many(who),
        };
        let at = self.registers[index].sent(state);
        self.note(who, &args, Expect::Exactly(reply), vec![(index, at)]);
        args
    }

    /// MSET or DEL of several keys of a client's.
    fn write_many(&mut self, who: usize) -> Vec<Vec<u8>> {
        let sets = self.rng.one_in(2);
        let mut args = words(&[if sets { "MSET" } else { "DEL" }]);
        let (mut tells, mut count) = (Vec::new(), 0);
        for index in who * KEYS..(who + 1) * KEYS {
            if self.rng.one_in(2) && args.len() > 1 {
                continue;
            }
            count += i64::from(self.registers[index].last().value.is_some());
            args.push(key(index).into_bytes());
            let mut state = State::default();
            if sets {
                let value = self.value();
                args.push(value.clone());
                state = State::of(value);
            }
            tells.push((index, self.registers[index].sent(state)));
        }
        let reply = if sets { Value::ok() } else { Value::Int(count) };
        self.note(who, &args, Expect::Exactly(reply), tells);
        args
    }

    fn increment(&mut self, who: usize) -> Vec<Vec<u8>> {
        let index = self.rng.index(COUNTERS);
        let args = words(&["INCR", &format!("count{index}")]);
        let expect = Expect::Increment(index, self.counters[index].known());
        self.counters[index].sent();
        self.note(who, &args, expect, Vec::new());
        args
    }

    fn read_counter(&mut self, who: usize) -> Vec<Vec<u8>> {
        let index = self.rng.index(COUNTERS);
        let args = words(&["GET", &format!("count{index}")]);
        let expect = Expect::Counter(index, self.counters[index].known());
        self.note(who, &args, expect, Vec::new());
        args
    }

    /// What a read of a register by a client may answer, and tells.
    fn seen(&mut self, who: usize, index: usize) -> (Expect, Option<(usize, usize)>) {
        let register = &self.registers[index];
        // One's own keys are read exactly, as long as no write was refused.
        if index / KEYS != who || self.faulty || self.clearing {
            return (Expect::Register(index, register.floor()), None);
        }
        (Expect::Exactly(value_of(register.last())), Some((index, register.newest())))
    }

    fn read(&mut self, who: usize) -> Vec<Vec<u8>> {
        let index = self.rng.index(self.singles());
        let own = index / KEYS == who && !self.faulty && !self.clearing;
        if own && self.rng.one_in(4) {
            let args = words(&["PEXPIRETIME", &key(index)]);
            let register = &self.registers[index];
            let (reply, at) = (deadline_of(register.last()), register.newest());
            self.note(who, &args, Expect::Exactly(reply), vec![(index, at)]);
            return args;
        }
        let args = words(&["GET", &key(index)]);
        let (expect, tells) = self.seen(who, index);
        self.note(who, &args, expect, tells.into_iter().collect());
        args
    }

    fn read_many(&mut self, who: usize) -> Vec<Vec<u8>> {
        let mut args = words(&["MGET"]);
        let (mut each, mut tells) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.between(1, 6) {
            let index = self.rng.index(self.singles());
            args.push(key(index).into_bytes());
            let (expect, told) = self.seen(who, index);
            each.push(expect);
            tells.extend(told);
        }
        self.note(who, &args, Expect::Each(each), tells);
        args
    }
}

pub(super) fn words(args: &[&str]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

fn args_of(args: &[&str], last: Vec<u8>) -> Vec<Vec<u8>> {
    let mut args = words(args);
    args.push(last);
    args
}

pub(super) fn number(bytes: &[u8]) -> Result<i64, String> {
    let text = String::from_utf8_lossy(bytes);
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// The log takes nothing, or failed meanwhile.
fn is_of_the_log(reply: &Value) -> bool {
    reply.is_error("MISCONF") || reply.is_error("UNKNOWN")
}
