//! Keys of the crash property that belong together.
//!
//! A *group* is some keys with one writer, which writes all of them to the same value, by MSET or
//! by a transaction, which may give them others on the way. So whoever reads them all finds them
//! alike, at any time and after any crash, also if that MSET wrote to other partitions as well; and
//! what they hold is a [`Register`]'s state. Some are longer than a record of the log, or than a
//! block. A *token* is one of two names that its writer
//! renames to the other: exactly one is there. A *guarded* increment is WATCH, GET, and a
//! transaction that sets the counter: it counts as any other, or does nothing. A *spread*
//! transaction sets keys of several shards: none of it is lost once it was acknowledged.
//!
//! [`Register`]: super::model::Register

use super::model::State;
use super::run::{Expect, KEYS, Run, key, number, words};
use super::talk::{Talk, Value, encode};

/// Registers of a client: its keys, its group, its token.
pub const REGISTERS: usize = KEYS + 2;
/// Keys of a group.
const MEMBERS: usize = 8;

fn members(owner: usize) -> Vec<String> {
    (0..MEMBERS).map(|member| format!("{{group{owner}}}{member}")).collect()
}

fn names(owner: usize) -> [String; 2] {
    [format!("{{token{owner}}}0"), format!("{{token{owner}}}1")]
}

fn mget(keys: &[String]) -> Vec<Vec<u8>> {
    let keys = keys.iter().map(|key| key.clone().into_bytes());
    [b"MGET".to_vec()].into_iter().chain(keys).collect()
}

/// What all keys of a group hold.
pub fn alike(reply: &Value) -> Result<Option<&[u8]>, String> {
    let Value::Array(values) = reply else { return Err("not an array".to_owned()) };
    if values.iter().any(|value| *value != values[0]) {
        let shown = |value: &Value| format!("{value:?}").chars().take(20).collect::<String>();
        let values: Vec<_> = values.iter().map(shown).collect();
        return Err(format!("keys that are written together differ: {values:?}"));
    }
    match &values[0] {
        Value::Bulk(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        other => Err(format!("{other:?} is no value")),
    }
}

/// Which of the names of a token is there.
pub fn name_of_token(reply: &Value) -> Result<Option<&[u8]>, String> {
    let Value::Array(values) = reply else { return Err("not an array".to_owned()) };
    match values.as_slice() {
        [Value::Nil, Value::Nil] => Ok(None),
        [Value::Bulk(_), Value::Nil] => Ok(Some(b"0")),
        [Value::Nil, Value::Bulk(_)] => Ok(Some(b"1")),
        _ => Err("a token has both names".to_owned()),
    }
}

impl Run {
    /// Reads all groups and tokens after a start.
    pub fn settle_groups(&mut self, talk: &mut Talk) -> Result<(), String> {
        let (singles, clients) = (self.singles(), self.registers.len() / REGISTERS);
        for owner in 0..clients {
            let group = self.house.ask(talk, &as_words(&mget(&members(owner))));
            let token = self.house.ask(talk, &as_words(&mget(&names(owner))));
            let group = alike(&group).map(|value| value.map(<[u8]>::to_vec));
            let token = name_of_token(&token).map(|value| value.map(<[u8]>::to_vec));
            for (index, found) in [(singles + owner, group), (singles + clients + owner, token)] {
                let found = found.map_err(|error| format!("register {index}: {error}"))?;
                let found = found.map_or_else(State::default, State::of);
                let settled = self.registers[index].settle(found);
                settled.map_err(|error| format!("register {index}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Reads a group or a token of anybody.
    pub fn read_group(&mut self, who: usize) -> Vec<Vec<u8>> {
        let (singles, clients) = (self.singles(), self.registers.len() / REGISTERS);
        let owner = self.rng.index(clients);
        let (index, is_group) = match self.rng.one_in(3) {
            false => (singles + owner, true),
            true => (singles + clients + owner, false),
        };
        let from = self.registers[index].floor();
        let (args, expect) = match is_group {
            true => (mget(&members(owner)), Expect::Group(index, from)),
            false => (mget(&names(owner)), Expect::Token(index, from)),
        };
        self.note(who, &args, expect, Vec::new());
        args
    }

    /// Writes to several keys at once.
    pub fn ask_group(&mut self, who: usize) -> Vec<u8> {
        match self.rng.below(5) {
            0 if !self.faulty => self.rename(who),
            2 if !self.faulty && self.players[who].guard.is_none() => self.write_spread(who),
            1 if self.players[who].guard.is_none() => self.watch(who),
            _ => self.write_group(who),
        }
    }

    fn write_group(&mut self, who: usize) -> Vec<u8> {
        let index = self.singles() + who;
        let mut value = format!("g{}.", self.next_number()).into_bytes();
        let len = [0, 0, 0, 2_000, 40_000][self.rng.index(5)];
        value.resize(value.len().max(len), b'y');
        let at = self.registers[index].sent(State::of(value.clone()));
        // EXEC would take what is watched for a transaction of its own.
        let watches = self.players[who].guard.is_some();
        if watches || self.rng.one_in(3) {
            return self.write_in_one_command(who, (index, at), &value);
        }
        self.write_in_transaction(who, (index, at), &value)
    }

    /// The keys lie in one partition; perhaps there are keys of others among them.
    fn write_in_one_command(&mut self, who: usize, tells: (usize, usize), value: &[u8]) -> Vec<u8> {
        let (mut keys, mut tells) = (members(who), vec![tells]);
        if self.rng.one_in(2) {
            let singles = who * KEYS..(who + 1) * KEYS;
            keys.splice(MEMBERS / 2..MEMBERS / 2, singles.clone().map(key));
            let state = State::of(value);
            tells.extend(singles.map(|at| (at, self.registers[at].sent(state.clone()))));
        }
        let mut args = words(&["MSET"]);
        args.extend(keys.into_iter().flat_map(|key| [key.into_bytes(), value.to_vec()]));
        self.note(who, &args, Expect::Exactly(Value::ok()), tells);
        encode(&args)
    }

    /// Each key gets the value, and perhaps another one before.
    fn write_in_transaction(&mut self, who: usize, tells: (usize, usize), value: &[u8]) -> Vec<u8> {
        let detours = self.rng.one_in(2);
        let mut commands = vec![words(&["MULTI"])];
        let mut replies = Vec::new();
        for key in members(who) {
            let mut set = words(&["SET", &key]);
            let mut reply = Value::ok();
            if detours {
                let detour = format!("never seen {:width$}", 0, width = value.len());
                commands.push(words(&["SET", &key, &detour]));
                replies.push(Value::ok());
                set[0] = b"GETSET".to_vec();
                reply = Value::bulk(detour);
            }
            set.push(value.to_vec());
            commands.push(set);
            replies.push(reply);
        }
        let queued = || Expect::Exactly(Value::Simple("QUEUED".to_owned()));
        self.note(who, &commands[0], Expect::Exactly(Value::ok()), Vec::new());
        commands[1..].iter().for_each(|args| self.note(who, args, queued(), Vec::new()));
        commands.push(words(&["EXEC"]));
        let expect = Expect::Exactly(Value::Array(replies));
        self.note(who, &words(&["EXEC"]), expect, vec![tells]);
        commands.iter().flat_map(|args| encode(args)).collect()
    }

    /// All keys of a client that have no tag, in a transaction: they are of several shards, so its
    /// commands run in turn, and a crash may keep some. What was acknowledged is all there.
    fn write_spread(&mut self, who: usize) -> Vec<u8> {
        let singles = who * KEYS..(who + 1) * KEYS;
        let queued = || Expect::Exactly(Value::Simple("QUEUED".to_owned()));
        let mut commands = vec![words(&["MULTI"])];
        self.note(who, &commands[0], Expect::Exactly(Value::ok()), Vec::new());
        let mut tells = Vec::new();
        for at in singles {
            let value = format!("s{}.", self.next_number());
            let set = words(&["SET", &key(at), &value]);
            self.note(who, &set, queued(), Vec::new());
            tells.push((at, self.registers[at].sent(State::of(value))));
            commands.push(set);
        }
        commands.push(words(&["EXEC"]));
        let replies = vec![Value::ok(); tells.len()];
        self.note(who, &words(&["EXEC"]), Expect::Exactly(Value::Array(replies)), tells);
        commands.iter().flat_map(|args| encode(args)).collect()
    }

    fn rename(&mut self, who: usize) -> Vec<u8> {
        let index = self.singles() + self.registers.len() / REGISTERS + who;
        let names = names(who);
        let last = self.registers[index].last().value.clone();
        let (args, now) = match last.as_deref().map(Vec::as_slice) {
            None => (words(&["SET", &names[0], "token"]), "0"),
            Some(b"0") => (words(&["RENAME", &names[0], &names[1]]), "1"),
            Some(_) => (words(&["RENAME", &names[1], &names[0]]), "0"),
        };
        let at = self.registers[index].sent(State::of(now));
        self.note(who, &args, Expect::Exactly(Value::ok()), vec![(index, at)]);
        encode(&args)
    }

    /// Begins a guarded increment.
    fn watch(&mut self, who: usize) -> Vec<u8> {
        let index = self.rng.index(self.counters.len());
        let key = format!("count{index}");
        let (watch, get) = (words(&["WATCH", &key]), words(&["GET", &key]));
        self.note(who, &watch, Expect::Exactly(Value::ok()), Vec::new());
        let known = self.counters[index].known();
        self.note(who, &get, Expect::Guarded(index, known), Vec::new());
        self.players[who].guard = Some((index, None));
        [encode(&watch), encode(&get)].concat()
    }

    /// Ends a guarded increment, if its read was answered.
    pub fn guarded(&mut self, who: usize) -> Vec<u8> {
        let Some((index, Some(read))) = self.players[who].guard else { return Vec::new() };
        self.players[who].guard = None;
        if self.clearing {
            // Its watch is left for a transaction that may as well fail.
            let unwatch = words(&["UNWATCH"]);
            self.note(who, &unwatch, Expect::Exactly(Value::ok()), Vec::new());
            return encode(&unwatch);
        }
        let next = read + 1;
        let set = words(&["SET", &format!("count{index}"), &next.to_string()]);
        let queued = Expect::Exactly(Value::Simple("QUEUED".to_owned()));
        self.note(who, &words(&["MULTI"]), Expect::Exactly(Value::ok()), Vec::new());
        self.note(who, &set, queued, Vec::new());
        let known = self.counters[index].known();
        self.counters[index].sent();
        self.note(who, &words(&["EXEC"]), Expect::Guard(index, next, known), Vec::new());
        let commands = [words(&["MULTI"]), set, words(&["EXEC"])];
        commands.iter().flat_map(|args| encode(args)).collect()
    }

    /// Checks a reply of a client's.
    pub fn agree_of(&mut self, who: usize, expect: &Expect, reply: &Value) -> Result<(), String> {
        match (expect, reply) {
            (Expect::Guarded(index, known), Value::Nil | Value::Bulk(_)) => {
                self.agree(&Expect::Counter(*index, *known), reply)?;
                let read = match reply {
                    Value::Bulk(bytes) => number(bytes)?,
                    _ => 0,
                };
                self.players[who].guard = Some((*index, Some(read)));
                Ok(())
            }
            (Expect::Guard(..), Value::Nil) => Ok(()),
            (Expect::Guard(index, next, known), Value::Array(replies)) => {
                if replies.as_slice() != [Value::ok()] {
                    return Err("not what SET answers".to_owned());
                }
                self.counters[*index].incremented(*known, *next)
            }
            _ => self.agree(expect, reply),
        }
    }
}

fn as_words(args: &[Vec<u8>]) -> Vec<&str> {
    args.iter().map(|arg| std::str::from_utf8(arg).expect("ASCII")).collect()
}
