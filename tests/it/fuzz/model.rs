//! What the commands on keys mean, over a std `HashMap`: written from the manual of Redis, and as
//! simple as it can be. It answers with the bytes that a right server sends.
//!
//! It has no clock: deadlines are far away or long gone, so nothing expires by itself.

use std::collections::{HashMap, HashSet};

/// What a deadline is compared with, unix milliseconds: between those that the fuzzer gives.
const NOW_MS: i64 = 2_000_000_000_000;

const SYNTAX: &str = "ERR syntax error";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const NO_KEY: &str = "ERR no such key";

type Words = Vec<Vec<u8>>;
type Id = (u8, Vec<u8>);
type Answer = Result<Vec<u8>, String>;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    value: Vec<u8>,
    until_ms: Option<i64>,
}

/// All databases, and what one connection remembers.
#[derive(Default)]
pub struct Model {
    entries: HashMap<Id, Entry>,
    db: u8,
    resp3: bool,
    queued: Option<Vec<Words>>,
    is_broken: bool,
    watched: HashSet<Id>,
    is_touched: bool,
}

/// Least and most arguments, the name included.
const ARITIES: [(&str, usize, usize); 48] = [
    ("GET", 2, 2),
    ("SET", 3, 99),
    ("SETNX", 3, 3),
    ("GETSET", 3, 3),
    ("GETDEL", 2, 2),
    ("GETEX", 2, 99),
    ("MGET", 2, 99),
    ("MSET", 3, 99),
    ("MSETNX", 3, 99),
    ("APPEND", 3, 3),
    ("STRLEN", 2, 2),
    ("GETRANGE", 4, 4),
    ("SUBSTR", 4, 4),
    ("SETRANGE", 4, 4),
    ("SETBIT", 4, 4),
    ("GETBIT", 3, 3),
    ("BITCOUNT", 2, 2),
    ("BITOP", 4, 99),
    ("INCR", 2, 2),
    ("DECR", 2, 2),
    ("INCRBY", 3, 3),
    ("DECRBY", 3, 3),
    ("INCRBYFLOAT", 3, 3),
    ("DEL", 2, 99),
    ("UNLINK", 2, 99),
    ("EXISTS", 2, 99),
    ("TOUCH", 2, 99),
    ("TYPE", 2, 2),
    ("EXPIREAT", 3, 99),
    ("PEXPIREAT", 3, 99),
    ("EXPIRETIME", 2, 2),
    ("PEXPIRETIME", 2, 2),
    ("PERSIST", 2, 2),
    ("RENAME", 3, 3),
    ("RENAMENX", 3, 3),
    ("COPY", 3, 99),
    ("DBSIZE", 1, 1),
    ("SELECT", 2, 2),
    ("FLUSHDB", 1, 99),
    ("FLUSHALL", 1, 99),
    ("PING", 1, 2),
    ("ECHO", 2, 2),
    ("PUBLISH", 3, 3),
    ("MULTI", 1, 1),
    ("EXEC", 1, 1),
    ("DISCARD", 1, 1),
    ("WATCH", 2, 99),
    ("UNWATCH", 1, 1),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_uppercase()
}

fn simple(text: &str) -> Answer {
    Ok(format!("+{text}\r\n").into_bytes())
}

fn int(n: i64) -> Answer {
    Ok(format!(":{n}\r\n").into_bytes())
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An integer in the one way to write it.
fn number(bytes: &[u8]) -> Result<i64, String> {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
    number.filter(|n| n.to_string().as_bytes() == bytes).ok_or(NOT_INTEGER.to_owned())
}

impl Model {
    /// No keys; replies in this version of the protocol.
    pub fn new(resp3: bool) -> Self {
        Self { resp3, ..Self::default() }
    }

    /// Whether commands are being queued.
    pub fn is_queueing(&self) -> bool {
        self.queued.is_some()
    }

    /// The keys of the session's database, in order.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let own = self.entries.keys().filter(|id| id.0 == self.db);
        let mut keys: Vec<_> = own.map(|id| id.1.clone()).collect();
        keys.sort();
        keys
    }

    /// Whether adding to the key is exact in every number format.
    pub fn is_small_number(&self, key: &[u8]) -> bool {
        self.get(key).is_none_or(|Entry { value, .. }| {
            value.len() < 9 && (value.ends_with(b".5") || !value.contains(&b'.'))
        })
    }

    /// Runs a command and returns its reply.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let name = text(&words[0]);
        let answer = match ARITIES.iter().find(|(known, ..)| *known == name) {
            None => Err(format!("ERR unknown command '{name}', with args beginning with: ")),
            Some((_, least, most)) => {
                let pairs = name.starts_with("MSET") && words.len().is_multiple_of(2);
                if (*least..=*most).contains(&words.len()) && !pairs {
                    self.admitted(&name, words)
                } else {
                    let wrong = name.to_ascii_lowercase();
                    let wrong = format!("wrong number of arguments for '{wrong}' command");
                    Err(match name.as_str() {
                        "EXEC" => format!("EXECABORT Transaction discarded because of: {wrong}"),
                        _ => format!("ERR {wrong}"),
                    })
                }
            }
        };
        answer.unwrap_or_else(|error| {
            self.is_broken |= self.queued.is_some();
            format!("-{error}\r\n").into_bytes()
        })
    }

    fn admitted(&mut self, name: &str, words: &[Vec<u8>]) -> Answer {
        let wrong = |error: &str| Ok(format!("-{error}\r\n").into_bytes());
        match (name, &mut self.queued) {
            ("MULTI", Some(_)) => wrong("ERR MULTI calls can not be nested"),
            ("WATCH", Some(_)) => wrong("ERR WATCH inside MULTI is not allowed"),
            ("EXEC", None) => wrong("ERR EXEC without MULTI"),
            ("DISCARD", None) => wrong("ERR DISCARD without MULTI"),
            ("MULTI", None) => {
                (self.queued, self.is_broken) = (Some(Vec::new()), false);
                simple("OK")
            }
            ("DISCARD", Some(_)) => {
                self.queued = None;
                self.forget();
                simple("OK")
            }
            ("EXEC", Some(_)) => Ok(self.exec()),
            (_, Some(queued)) => {
                queued.push(words.to_vec());
                simple("QUEUED")
            }
            ("WATCH", None) => {
                let db = self.db;
                self.watched.extend(words[1..].iter().map(|key| (db, key.clone())));
                simple("OK")
            }
            (_, None) => self.step(name, words),
        }
    }

    fn forget(&mut self) {
        self.watched.clear();
        self.is_touched = false;
    }

    fn exec(&mut self) -> Vec<u8> {
        let queued = self.queued.take().expect("the caller saw it");
        let is_touched = self.is_touched;
        self.forget();
        if self.is_broken {
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n".to_vec();
        }
        if is_touched {
            return if self.resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() };
        }
        let mut out = format!("*{}\r\n", queued.len()).into_bytes();
        for words in queued {
            let answer = self.step(&text(&words[0]), &words);
            out.extend(answer.unwrap_or_else(|error| format!("-{error}\r\n").into_bytes()));
        }
        out
    }

    fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(&(self.db, key.to_vec()))
    }

    fn touch(&mut self, id: &Id) {
        self.is_touched |= self.watched.contains(id);
    }

    fn put(&mut self, id: Id, value: Vec<u8>, until_ms: Option<i64>) {
        if until_ms.is_some_and(|until_ms| until_ms <= NOW_MS) {
            self.remove(&id);
            return;
        }
        self.touch(&id);
        self.entries.insert(id, Entry { value, until_ms });
    }

    fn remove(&mut self, id: &Id) -> Option<Entry> {
        let old = self.entries.remove(id)?;
        self.touch(id);
        Some(old)
    }

    fn or_null(&self, entry: Option<&Entry>) -> Vec<u8> {
        match entry {
            Some(entry) => bulk(&entry.value),
            None if self.resp3 => b"_\r\n".to_vec(),
            None => b"$-1\r\n".to_vec(),
        }
    }

    fn step(&mut self, name: &str, words: &[Vec<u8>]) -> Answer {
        let id = (self.db, words.get(1).cloned().unwrap_or_default());
        let old = self.entries.get(&id).cloned();
        let value = || old.as_ref().map_or(Vec::new(), |old| old.value.clone());
        let until_ms = old.as_ref().and_then(|old| old.until_ms);
        match name {
            "GET" => Ok(self.or_null(old.as_ref())),
            "SET" => self.set(id, words),
            "GETEX" => self.getex(id, words),
            "SETNX" => {
                if old.is_none() {
                    self.put(id, words[2].clone(), None);
                }
                int(i64::from(old.is_none()))
            }
            "GETSET" => {
                self.put(id, words[2].clone(), None);
                Ok(self.or_null(old.as_ref()))
            }
            "GETDEL" => {
                let old = self.remove(&id);
                Ok(self.or_null(old.as_ref()))
            }
            "APPEND" => {
                let value = [value(), words[2].clone()].concat();
                let len = value.len() as i64;
                self.put(id, value, until_ms);
                int(len)
            }
            "STRLEN" => int(value().len() as i64),
            "GETRANGE" | "SUBSTR" => {
                let (start, end) = (number(&words[2])?, number(&words[3])?);
                Ok(bulk(range(&value(), start, end)))
            }
            "SETRANGE" => self.setrange(id, value(), until_ms, words),
            "SETBIT" => self.setbit(id, value(), until_ms, words),
            "GETBIT" => int(bit_at(&value(), offset(&words[2])?)),
            "BITCOUNT" => int(value().iter().map(|byte| i64::from(byte.count_ones())).sum()),
            "BITOP" => self.bitop(words),
            "INCR" => self.add(id, value(), until_ms, 1),
            "DECR" => self.add(id, value(), until_ms, -1),
            "INCRBY" => self.add(id, value(), until_ms, number(&words[2])?),
            "DECRBY" => {
                let by = number(&words[2])?.checked_neg();
                self.add(id, value(), until_ms, by.ok_or("ERR decrement would overflow")?)
            }
            "INCRBYFLOAT" => {
                let float = |bytes: &[u8]| {
                    let number = std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok());
                    number.ok_or("ERR value is not a valid float".to_owned())
                };
                let start = if old.is_some() { float(&value())? } else { 0.0_f64 };
                let sum = (start + float(&words[2])?).to_string().into_bytes();
                let reply = bulk(&sum);
                self.put(id, sum, until_ms);
                Ok(reply)
            }
            "EXPIREAT" | "PEXPIREAT" => self.expire_at(id, old, name, words),
            "EXPIRETIME" | "PEXPIRETIME" => {
                let unit = if name == "EXPIRETIME" { 1000 } else { 1 };
                // Redis rounds seconds to the nearest.
                let shown = until_ms.map(|ms| (ms + unit / 2) / unit);
                int(if old.is_none() { -2 } else { shown.unwrap_or(-1) })
            }
            "PERSIST" => {
                if until_ms.is_some() {
                    self.put(id, value(), None);
                }
                int(i64::from(until_ms.is_some()))
            }
            "TYPE" => simple(if old.is_some() { "string" } else { "none" }),
            _ => self.step_on_many(name, words),
        }
    }

    /// Commands on several keys, on none or on all.
    fn step_on_many(&mut self, name: &str, words: &[Vec<u8>]) -> Answer {
        let db = self.db;
        let ids: Vec<Id> = words[1..].iter().map(|key| (db, key.clone())).collect();
        let there = |model: &Self, id: &Id| model.entries.contains_key(id);
        match name {
            "MGET" => {
                let values = ids.iter().map(|id| self.or_null(self.entries.get(id)));
                let head = format!("*{}\r\n", ids.len()).into_bytes();
                Ok(std::iter::once(head).chain(values).collect::<Vec<_>>().concat())
            }
            "MSETNX" if ids.iter().step_by(2).any(|id| there(self, id)) => int(0),
            "MSET" | "MSETNX" => {
                for pair in ids.chunks(2) {
                    self.put(pair[0].clone(), pair[1].1.clone(), None);
                }
                if name == "MSET" { simple("OK") } else { int(1) }
            }
            "DEL" | "UNLINK" => {
                int(ids.iter().filter(|id| self.remove(id).is_some()).count() as i64)
            }
            "EXISTS" | "TOUCH" => int(ids.iter().filter(|id| there(self, id)).count() as i64),
            "RENAME" | "RENAMENX" => self.rename(name, &ids),
            "COPY" => self.copy(&ids, &words[3..]),
            "DBSIZE" => int(self.keys().len() as i64),
            "SELECT" => match number(&words[1])? {
                db @ 0..16 => {
                    self.db = db as u8;
                    simple("OK")
                }
                _ => Err("ERR DB index is out of range".to_owned()),
            },
            "FLUSHDB" | "FLUSHALL" => {
                let every: Vec<Id> = self.entries.keys().cloned().collect();
                let gone = every.iter().filter(|id| name == "FLUSHALL" || id.0 == db);
                gone.for_each(|id| drop(self.remove(id)));
                simple("OK")
            }
            "PING" if words.len() == 1 => simple("PONG"),
            "PING" | "ECHO" => Ok(bulk(&words[1])),
            "PUBLISH" => int(0),
            "UNWATCH" => {
                self.forget();
                simple("OK")
            }
            _ => panic!("{name} has an arity and no meaning"),
        }
    }

    fn set(&mut self, id: Id, words: &[Vec<u8>]) -> Answer {
        let (mut nx, mut xx, mut get, mut keep) = (false, false, false, false);
        let (mut equal, mut until_ms, mut at) = (None, None, 3);
        while at < words.len() {
            match text(&words[at]).as_str() {
                "NX" if !xx && equal.is_none() => nx = true,
                "XX" if !nx && equal.is_none() => xx = true,
                "GET" => get = true,
                "KEEPTTL" if until_ms.is_none() => keep = true,
                "IFEQ" if !nx && !xx && equal.is_none() && at + 1 < words.len() => {
                    at += 1;
                    equal = Some(&words[at]);
                }
                unit @ ("EXAT" | "PXAT") if !keep && at + 1 < words.len() => {
                    at += 1;
                    until_ms = Some((&words[at], if unit == "EXAT" { 1000 } else { 1 }));
                }
                _ => return Err(SYNTAX.to_owned()),
            }
            at += 1;
        }
        let old = self.entries.get(&id).cloned();
        let until_ms = match until_ms {
            Some((amount, unit)) => Some(deadline(amount, unit, "set")?),
            None if keep => old.as_ref().and_then(|old| old.until_ms),
            None => None,
        };
        let held = old.as_ref().map(|old| &old.value);
        let does =
            !(nx && old.is_some() || xx && old.is_none() || equal.is_some() && equal != held);
        if does {
            self.put(id, words[2].clone(), until_ms);
        }
        match (get, does) {
            (false, true) => simple("OK"),
            (false, false) => Ok(self.or_null(None)),
            (true, _) => Ok(self.or_null(old.as_ref())),
        }
    }

    fn getex(&mut self, id: Id, words: &[Vec<u8>]) -> Answer {
        let option = words.get(2).map(|word| text(word));
        let unit = match (option.as_deref(), words.len()) {
            (None, 2) | (Some("PERSIST"), 3) => 0,
            (Some("EXAT"), 4) => 1000,
            (Some("PXAT"), 4) => 1,
            _ => return Err(SYNTAX.to_owned()),
        };
        let Some(old) = self.entries.get(&id).cloned() else { return Ok(self.or_null(None)) };
        if unit > 0 {
            self.put(id, old.value.clone(), Some(deadline(&words[3], unit, "getex")?));
        } else if option.is_some() && old.until_ms.is_some() {
            self.put(id, old.value.clone(), None);
        }
        Ok(bulk(&old.value))
    }

    fn setrange(
        &mut self,
        id: Id,
        mut value: Vec<u8>,
        until_ms: Option<i64>,
        words: &[Vec<u8>],
    ) -> Answer {
        let offset = usize::try_from(number(&words[2])?);
        let offset = offset.map_err(|_| "ERR offset is out of range")?;
        let piece = &words[3];
        if piece.is_empty() {
            return int(value.len() as i64);
        }
        if offset + piece.len() > 512 << 20 {
            return Err("ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_owned());
        }
        value.resize(value.len().max(offset + piece.len()), 0);
        value[offset..offset + piece.len()].copy_from_slice(piece);
        let len = value.len() as i64;
        self.put(id, value, until_ms);
        int(len)
    }

    fn setbit(
        &mut self,
        id: Id,
        mut value: Vec<u8>,
        until_ms: Option<i64>,
        words: &[Vec<u8>],
    ) -> Answer {
        let at = offset(&words[2])?;
        let bit = number(&words[3]).ok().filter(|bit| [0, 1].contains(bit));
        let bit = bit.ok_or("ERR bit is not an integer or out of range")?;
        let (byte, was, len) = (at / 8, bit_at(&value, at), value.len());
        value.resize(len.max(byte + 1), 0);
        if value.len() == len && was == bit {
            return int(was);
        }
        value[byte] = value[byte] & !(0x80 >> (at % 8)) | (bit as u8) << (7 - at % 8);
        self.put(id, value, until_ms);
        int(was)
    }

    fn bitop(&mut self, words: &[Vec<u8>]) -> Answer {
        let operation = text(&words[1]);
        if !["AND", "OR", "XOR", "NOT"].contains(&operation.as_str()) {
            return Err(SYNTAX.to_owned());
        }
        if operation == "NOT" && words.len() > 4 {
            return Err("ERR BITOP NOT must be called with a single source key.".to_owned());
        }
        let sources = words[3..].iter().map(|key| self.get(key));
        let values: Vec<_> =
            sources.map(|old| old.map_or(vec![], |old| old.value.clone())).collect();
        let len = values.iter().map(Vec::len).max().unwrap_or(0);
        let byte = |at: usize| {
            let mut bytes = values.iter().map(|value| value.get(at).copied().unwrap_or(0));
            let first = bytes.next().expect("the arity sees to it");
            match operation.as_str() {
                "AND" => bytes.fold(first, |a, b| a & b),
                "OR" => bytes.fold(first, |a, b| a | b),
                "XOR" => bytes.fold(first, |a, b| a ^ b),
                _ => !first,
            }
        };
        let result: Vec<u8> = (0..len).map(byte).collect();
        let id = (self.db, words[2].clone());
        if len == 0 {
            self.remove(&id);
        } else {
            self.put(id, result, None);
        }
        int(len as i64)
    }

    fn add(&mut self, id: Id, value: Vec<u8>, until_ms: Option<i64>, by: i64) -> Answer {
        let start = if self.entries.contains_key(&id) { number(&value)? } else { 0 };
        let sum = start.checked_add(by).ok_or(OVERFLOW)?;
        self.put(id, sum.to_string().into_bytes(), until_ms);
        int(sum)
    }

    fn expire_at(&mut self, id: Id, old: Option<Entry>, name: &str, words: &[Vec<u8>]) -> Answer {
        let options: Vec<String> = words[3..].iter().map(|word| text(word)).collect();
        for (option, word) in options.iter().zip(&words[3..]) {
            if !["NX", "XX", "GT", "LT"].contains(&option.as_str()) {
                return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word)));
            }
        }
        let has = |option: &str| options.iter().any(|given| given == option);
        if has("NX") && (has("XX") || has("GT") || has("LT")) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(text.to_owned());
        }
        if has("GT") && has("LT") {
            let text = "ERR GT and LT options at the same time are not compatible";
            return Err(text.to_owned());
        }
        let amount = number(&words[2])?;
        let when = if name == "EXPIREAT" { amount * 1000 } else { amount };
        let Some(old) = old else { return int(0) };
        let current = old.until_ms;
        let refused = has("NX") && current.is_some()
            || has("XX") && current.is_none()
            || has("GT") && current.is_none_or(|current| when <= current)
            || has("LT") && current.is_some_and(|current| when >= current);
        if refused {
            return int(0);
        }
        self.put(id, old.value, Some(when));
        int(1)
    }

    fn rename(&mut self, name: &str, ids: &[Id]) -> Answer {
        let source = self.entries.get(&ids[0]).cloned().ok_or(NO_KEY)?;
        if name == "RENAMENX" && self.entries.contains_key(&ids[1]) {
            return int(0);
        }
        if ids[0] != ids[1] {
            self.remove(&ids[0]);
            self.put(ids[1].clone(), source.value, source.until_ms);
        }
        if name == "RENAME" { simple("OK") } else { int(1) }
    }

    fn copy(&mut self, ids: &[Id], options: &[Vec<u8>]) -> Answer {
        let (mut to, mut replace) = (ids[1].clone(), false);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match (text(option).as_str(), option) {
                ("REPLACE", _) => replace = true,
                ("DB", _) => match number(options.next().ok_or(SYNTAX)?)? {
                    db @ 0..16 => to.0 = db as u8,
                    _ => return Err("ERR DB index is out of range".to_owned()),
                },
                _ => return Err(SYNTAX.to_owned()),
            }
        }
        if to == ids[0] {
            return Err("ERR source and destination objects are the same".to_owned());
        }
        match self.entries.get(&ids[0]).cloned() {
            Some(source) if replace || !self.entries.contains_key(&to) => {
                self.put(to, source.value, source.until_ms);
                int(1)
            }
            _ => int(0),
        }
    }
}

/// The place of a bit.
fn offset(word: &[u8]) -> Result<usize, String> {
    let offset = number(word).ok().filter(|offset| (0..1 << 32).contains(offset));
    let error = || "ERR bit offset is not an integer or out of range".to_owned();
    offset.map(|offset| offset as usize).ok_or_else(error)
}

fn bit_at(value: &[u8], at: usize) -> i64 {
    value.get(at / 8).map_or(0, |byte| i64::from(byte >> (7 - at % 8) & 1))
}

fn deadline(amount: &[u8], unit: i64, command: &str) -> Result<i64, String> {
    let when = number(amount)?.checked_mul(unit).filter(|ms| *ms > 0);
    when.ok_or(format!("ERR invalid expire time in '{command}' command"))
}

fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = value.len() as i64;
    let place = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let (start, end) = (place(start), place(end).min(len - 1));
    if start > end { b"" } else { &value[start as usize..=end as usize] }
}
