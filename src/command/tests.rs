//! The exchanges of `testdata/*.txt`, and random ones against a model.
//!
//! An exchange is a request, its effects and its reply; [`transcript`] has the grammar.
//! `UPDATE_GOLDEN=1` rewrites effects and replies. `tests/it/conformance` sends the same requests
//! to a real Redis and to the whole program, and compares the replies.

#![expect(clippy::disallowed_methods, reason = "golden files are read and rewritten")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod cluster;
mod fuzz;
mod transcript;

use proptest::prelude::*;

use super::question::{NodeWide, Question, Told, write_clients};
use super::*;
use crate::ack::Ack;
use crate::id::{ShardId, Slot};
use crate::limits::{KEY_LEN_MAX, LARGE_LEN_MIN};
use crate::metrics::{Histogram, Totals};
use crate::protocol::resp::ArgsBuf;
use crate::protocol::resp::Proto;
use transcript::{Line, escape, words};

const NODE_ID: &str = "0123456789abcdef0123456789abcdef01234567";
const START_MS: u64 = 1_700_000_000_000;

struct TestFacts {
    identity: Identity,
    topology: Topology,
    password: Option<Vec<u8>>,
    now_ms: u64,
    session: Session,
    followers: Vec<Follower>,
}

impl TestFacts {
    fn new(password: Option<&str>) -> Self {
        let endpoint = |shard| Endpoint {
            id: endpoint_id(NODE_ID, ShardId(shard)),
            host: "127.0.0.1".to_owned(),
            port: 7500 + shard,
            peer_port: 7401,
            is_reached: true,
        };
        let range = |first, last, leader| SlotRange {
            first: Slot(first),
            last: Slot(last),
            leader,
            followers: Vec::new(),
        };
        Self {
            identity: Identity {
                version: "0.1.0".to_owned(),
                node_id: NODE_ID.to_owned(),
                run_id: "f".repeat(40),
                cores: 2,
                resp_port: 6379,
                pid: 42,
                started_ms: START_MS - 90_000_000,
                os: "Linux".to_owned(),
                runtime: "io_uring",
                ack: Ack::Quorum,
                may_be_open: true,
                may_evict: true,
                ..Identity::default()
            },
            topology: Topology {
                epoch: 3,
                endpoints: vec![endpoint(0), endpoint(1)],
                ranges: vec![range(0, 4095, 0), range(4096, 8191, 0), range(8192, 16_383, 1)],
                myself: 1,
            },
            password: password.map(|word| word.as_bytes().to_vec()),
            now_ms: START_MS,
            session: Session::default(),
            followers: Vec::new(),
        }
    }
}

impl Facts for TestFacts {
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn topology(&self) -> &Topology {
        &self.topology
    }
    fn password(&self) -> Option<Arc<[u8]>> {
        self.password.as_deref().map(Arc::from)
    }
    fn now_us(&self) -> u64 {
        self.now_ms * 1000 + 7
    }
    fn begin_save(&self) -> Result<(), &'static str> {
        Ok(())
    }
    fn counters(&self) -> Counters {
        let keyspace = vec![KeyspaceFacts { db: 0, keys: 5, expires: 2, avg_ttl_ms: 900 }];
        let followers = self.followers.clone();
        let log_entries = 1000 * u64::from(!followers.is_empty());
        let shards = Totals { clients: 1, ..Totals::default() };
        let (memory_used, rest) = (2048, Counters::default());
        Counters { shards, memory_used, keyspace, followers, log_entries, ..rest }
    }
    fn config(&self) -> Vec<(&'static str, String)> {
        let config = [("save", ""), ("appendonly", "yes"), ("databases", "16"), ("port", "6379")];
        config.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
    }
    fn has_client(&self, id: u64) -> bool {
        id == self.session.id
    }
    fn calls(&self) -> Vec<Calls> {
        let histogram = Histogram::default();
        [(1_500, 3), (40_000, 1)].iter().for_each(|(ns, n)| histogram.record(*ns, *n));
        let mut get = Calls { name: "get", calls: 4, busy_ns: 6_000, ..Calls::default() };
        get.latency.add(&histogram);
        let list = Calls { name: "client|list", rejected: 2, ..Calls::default() };
        vec![get, list]
    }
    fn errors(&self) -> Vec<(String, u64)> {
        vec![("ERR".to_owned(), 2)]
    }
    fn client(&self) -> Option<Client> {
        Some(Client { session: self.session.clone(), ..Client::default() })
    }
}

/// A value and its deadline.
type Stored = (Vec<u8>, Option<u64>);

/// A server small enough to be right: one map, one connection, effects applied at once.
struct Server {
    facts: TestFacts,
    session: Session,
    keys: BTreeMap<(u8, Vec<u8>), Stored>,
    /// Effects of the latest command, in words.
    effects: Vec<String>,
}

impl Server {
    fn new(proto: Proto, password: Option<&str>) -> Self {
        let (peer, local) = ("127.0.0.1:50000".to_owned(), "127.0.0.1:6379".to_owned());
        let mut session = Session::new(9, peer, local, START_MS, password.is_none());
        session.proto = proto;
        let facts = TestFacts { session: session.clone(), ..TestFacts::new(password) };
        Self { facts, session, keys: BTreeMap::new(), effects: Vec::new() }
    }

    fn run(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let owned = ArgsBuf::from_iter(words);
        let args = owned.args();
        self.effects.clear();
        let (mut out, mut spliced) = (Vec::new(), Vec::new());
        let mut reply = Reply::new(self.session.proto, &mut out, &mut spliced);
        let resolved =
            resolve(&args).and_then(|spec| admit(&self.session, spec, &args).map(|()| spec));
        let sent = match resolved {
            Ok(spec) => self.dispatch(spec, &args, &mut reply),
            Err(error) => {
                reply.error(&error.to_string());
                self.session.replies()
            }
        };
        assert!(spliced.is_empty(), "test values are small");
        if sent { out } else { Vec::new() }
    }

    fn dispatch(&mut self, spec: &'static Spec, args: &Args<'_>, reply: &mut Reply<'_>) -> bool {
        self.session.note(spec.name, self.facts.now_ms);
        match &spec.run {
            Run::Keyed(keyed) => self.run_keyed(spec, keyed, args, reply),
            Run::Together(together) => self.run_together(spec, together, args, reply),
            Run::Transaction(_) => reply.error("ERR transactions are the connection's"),
            Run::Keyspace(parse) => match parse(args) {
                Ok(keyspace) => self.run_keyspace(keyspace, args, reply),
                Err(error) => reply.error(&error.to_string()),
            },
            Run::Node(wide) => self.run_node_wide(wide, args, reply),
            Run::Connection(run) | Run::Both(run, _) => {
                self.facts.session = self.session.clone();
                let then = run(&mut self.session, &self.facts, args, reply);
                if then != Then::Continue {
                    self.effects.push(format!("{then:?}"));
                }
            }
            Run::PubSub(_) => reply.error("ERR the server runs this"),
            Run::Container(_) => unreachable!("{spec:?} was resolved to a container"),
        }
        self.session.replies()
    }

    /// This connection is the only one, of the only shard.
    fn run_node_wide(&mut self, wide: &NodeWide, args: &Args<'_>, reply: &mut Reply<'_>) {
        self.facts.session = self.session.clone();
        let question = match (wide.ask)(args) {
            Ok(question) => question,
            Err(error) => return reply.error(&error.to_string()),
        };
        let (mut told, now_ms) = (Told::default(), self.facts.now_ms);
        match &question {
            Question::Gauges => {}
            Question::Clients(filter) => {
                let client = self.facts.client();
                let hit = client.iter().filter(|_| filter.hits(&self.session, true, now_ms));
                told.body = write_clients(hit, now_ms);
            }
            Question::Kill(filter) if filter.hits(&self.session, true, now_ms) => {
                told.count = 1;
                self.effects.push("Kill".to_owned());
            }
            Question::Kill(_) => {}
            other => self.effects.push(format!("{other:?}")),
        }
        let then = (wide.tell)(&mut self.session, &self.facts, args, &told, reply);
        assert_eq!(then, Then::Continue);
    }

    fn run_keyed(&mut self, spec: &Spec, keyed: &Keyed, args: &Args<'_>, reply: &mut Reply<'_>) {
        let (now_ms, db) = (self.facts.now_ms, self.session.db);
        let indices = spec.key_indices(args);
        keyed.begin(indices.len(), reply);
        let mut sum = 0;
        for key_at in indices {
            let id = (db, args.get(key_at).to_vec());
            let stored = self.keys.get(&id).filter(|stored| !is_expired(stored.1, now_ms)).cloned();
            let found = stored.as_ref().map(|(value, expiry_ms)| Found {
                value: Arg::Bytes(value),
                expiry_ms: *expiry_ms,
            });
            // A pair travels alone, as it does to another shard.
            let part = [args.get(0), args.get(key_at), args.get((key_at + 1).min(args.len() - 1))];
            let part = ArgsBuf::from_iter(part);
            let held_len = if spec.flags.has(Flags::WEIGHS) { 64 } else { 0 };
            let input = if spec.keys == Keys::PAIRS {
                Input { args: part.args(), key_at: 1, found, held_len, now_ms }
            } else {
                Input { args: *args, key_at, found, held_len, now_ms }
            };
            let (effect, count) = keyed.evaluate(&input, reply);
            sum += count;
            self.apply(id, &effect);
        }
        keyed.finish(sum, reply);
    }

    fn run_together(
        &mut self,
        spec: &Spec,
        together: &Together,
        args: &Args<'_>,
        reply: &mut Reply<'_>,
    ) {
        let dbs = match (together.dbs)(args, self.session.db) {
            Ok(dbs) => dbs,
            Err(error) => return reply.error(&error.to_string()),
        };
        let ids = together.key_indices(spec, args).into_iter().enumerate();
        let ids: Vec<_> = ids.map(|(nth, at)| (dbs[nth.min(1)], args.get(at).to_vec())).collect();
        let stored: Vec<_> = ids.iter().map(|id| self.keys.get(id).cloned()).collect();
        let found = stored.iter().map(|stored| {
            let (value, expiry_ms) = stored.as_ref()?;
            let found = Found { value: Arg::Bytes(value), expiry_ms: *expiry_ms };
            Some(found).filter(|found| !is_expired(found.expiry_ms, self.facts.now_ms))
        });
        let found: Vec<_> = found.collect();
        for (key, effect) in together.decide(*args, &found, reply) {
            self.apply(ids[key].clone(), &effect);
        }
    }

    fn apply(&mut self, id: (u8, Vec<u8>), effect: &Effect<'_>) {
        let key = id.1.escape_ascii().to_string();
        match effect {
            Effect::None => {}
            Effect::Put { value, expiry_ms, .. } => {
                let value = value.as_slice().to_vec();
                let mut text = format!("put {key} \"{}\"", value.escape_ascii());
                if let Some(expiry_ms) = expiry_ms {
                    assert!(*expiry_ms >= self.facts.now_ms, "put a value that is already gone");
                    write!(text, " until {expiry_ms}").expect("a String takes every write");
                }
                self.effects.push(text);
                self.keys.insert(id, (value, *expiry_ms));
            }
            Effect::Delete(_) => {
                self.effects.push(format!("delete {key}"));
                let old = self.keys.remove(&id);
                assert!(
                    old.is_some_and(|old| !is_expired(old.1, self.facts.now_ms)),
                    "deleted {key}, which was not there"
                );
            }
        }
    }

    /// Keys of this model are one slot and one partition, in order; a scan is whole at once.
    fn run_keyspace(&mut self, keyspace: Keyspace, args: &Args<'_>, reply: &mut Reply<'_>) {
        let (db, now_ms) = (self.session.db, self.facts.now_ms);
        self.keys.retain(|_, stored| !is_expired(stored.1, now_ms));
        let keys: Vec<Vec<u8>> =
            self.keys.keys().filter(|id| id.0 == db).map(|id| id.1.clone()).collect();
        let matching = |pattern: Option<&[u8]>| -> Vec<&Vec<u8>> {
            let fits = |key: &&Vec<u8>| pattern.is_none_or(|p| glob::matches(p, key, false));
            keys.iter().filter(fits).collect()
        };
        let list = |found: &[&Vec<u8>], reply: &mut Reply<'_>| {
            reply.array(found.len());
            found.iter().for_each(|key| reply.bulk(key));
        };
        let in_slot =
            |slot| keys.iter().filter(move |key| slot_of(key) == slot).collect::<Vec<&Vec<u8>>>();
        match keyspace {
            Keyspace::Count => reply.integer(keys.len() as i64),
            Keyspace::Keys => list(&matching(Some(args.get(1))), reply),
            Keyspace::Random => match keys.first() {
                Some(key) => reply.bulk(key),
                None => reply.null(),
            },
            Keyspace::Scan(scan) => {
                reply.array(2);
                reply.bulk(b"0");
                let mut found = matching(scan.pattern.map(|at| args.get(at)));
                found.retain(|_| scan.strings && scan.cursor == 0);
                list(&found, reply);
            }
            Keyspace::CountInSlot(slot) => reply.integer(in_slot(slot).len() as i64),
            Keyspace::KeysInSlot(slot, count) => {
                let found = in_slot(slot);
                list(&found[..count.min(found.len())], reply);
            }
            Keyspace::FlushDb | Keyspace::FlushAll => {
                self.keys.retain(|id, _| keyspace == Keyspace::FlushDb && id.0 != db);
                self.effects.push(format!("{keyspace:?}"));
                reply.simple("OK");
            }
        }
    }
}

/// The file as it should be: requests and prose as they are, effects and replies anew.
fn replay(text: &str) -> (String, usize) {
    let (mut out, mut count) = (String::new(), 0);
    let mut server = Server::new(Proto::Resp2, None);
    for line in text.lines() {
        let parsed = Line::parse(line);
        if matches!(parsed, Line::Effects(_) | Line::Reply(_)) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        match parsed {
            Line::Directive(word, rest) => obey(&mut server, word, rest),
            Line::Request(request) => {
                let reply = server.run(&words(request));
                count += 1;
                if !server.effects.is_empty() {
                    out.push_str(&format!("= {}\n", server.effects.join("; ")));
                }
                out.push_str(&format!("< {}\n", escape(&reply)));
            }
            Line::Prose | Line::Remark(..) => {}
            Line::Raw(_) | Line::Effects(_) | Line::Reply(_) => {
                panic!("handlers get whole requests: {line:?}")
            }
        }
    }
    (out, count)
}

fn obey(server: &mut Server, word: &str, rest: &str) {
    match word {
        "fresh" | "resp2" | "alone" => *server = Server::new(Proto::Resp2, None),
        "resp3" => *server = Server::new(Proto::Resp3, None),
        "password" => *server = Server::new(Proto::Resp2, Some(rest)),
        "clock" => server.facts.now_ms += rest.parse::<u64>().expect("milliseconds"),
        _ => panic!("what is {word:?}?"),
    }
}

fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/command/testdata");
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    files.sort();
    files
}

#[test]
fn exchanges_are_as_written() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut total = 0;
    for path in golden_files() {
        let written = std::fs::read_to_string(&path).expect("a readable file");
        let (replayed, count) = replay(&written);
        total += count;
        if update {
            std::fs::write(&path, &replayed).expect("a writable file");
            continue;
        }
        for (nth, (old, new)) in written.lines().zip(replayed.lines()).enumerate() {
            assert_eq!(old, new, "{}:{}", path.display(), nth + 1);
        }
        assert_eq!(written.len(), replayed.len(), "{}: lines are missing", path.display());
    }
    assert!(total >= 150, "only {total} exchanges");
}

#[test]
fn lookup_finds_every_command_in_any_case() {
    for spec in all() {
        let found = lookup(spec.name.to_ascii_uppercase().as_bytes()).expect("it is in the table");
        assert_eq!(found.name, spec.name);
        assert!(spec.arity != 0 && !spec.summary.is_empty(), "{spec:?}");
        assert!(spec.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{spec:?}");
    }
    let unlike: [&[u8]; 3] = [b"G\x05T", b"\x07et", b"bitfield\x7fro"];
    for name in [&b""[..], b"GE", b"GETT", b"client|list", &[b'a'; 64]].into_iter().chain(unlike) {
        assert!(lookup(name).is_none(), "{name:?}");
    }
}

#[test]
fn large_values_are_never_copied() {
    let large = Arc::new(vec![b'x'; LARGE_LEN_MIN]);
    let mut list = ArgsBuf::from_iter(["SET", "k"]);
    list.push_shared(Arc::clone(&large));
    let (mut out, mut spliced) = (Vec::new(), Vec::new());
    let mut reply = Reply::new(Proto::Resp2, &mut out, &mut spliced);
    let run = |name: &[u8], input: &Input<'_>, reply: &mut Reply<'_>| -> bool {
        let Some(Spec { run: Run::Keyed(keyed), .. }) = lookup(name) else {
            panic!("a command on keys");
        };
        match keyed.evaluate(input, reply).0 {
            Effect::Put { value: NewValue::Shared(value), .. } => Arc::ptr_eq(value, &large),
            Effect::Put { .. } => false,
            _ => true,
        }
    };
    let found = Some(Found { value: Arg::Shared(&large), expiry_ms: None });
    let input = Input { args: list.args(), key_at: 1, found, held_len: 0, now_ms: START_MS };

    assert!(run(b"set", &input, &mut reply), "SET stores the argument itself");
    assert!(run(b"get", &input, &mut reply));
    let list = ArgsBuf::from_iter(["EXPIRE", "k", "10"]);
    let input = Input { args: list.args(), ..input };
    assert!(run(b"expire", &input, &mut reply), "EXPIRE keeps the value it found");

    assert_eq!(spliced.len(), 1, "GET sends the value from where it is");
    assert_eq!(out, b"+OK\r\n$65536\r\n\r\n:1\r\n");
}

#[test]
fn keys_have_a_bound() {
    let mut server = Server::new(Proto::Resp2, None);
    let mut set = |len: usize| server.run(&[b"SET".to_vec(), vec![b'k'; len], b"v".to_vec()]);

    assert_eq!(set(KEY_LEN_MAX), b"+OK\r\n");
    assert_eq!(set(KEY_LEN_MAX + 1), b"-ERR key is longer than 65536 bytes\r\n");
}

#[test]
fn endpoints_of_a_node_differ() {
    assert_eq!(endpoint_id(NODE_ID, ShardId(0)), NODE_ID);
    assert_ne!(endpoint_id(NODE_ID, ShardId(1)), endpoint_id(NODE_ID, ShardId(2)));
    assert_eq!(moved(Slot(3999), "127.0.0.1", 6381), "MOVED 3999 127.0.0.1:6381");
}

/// What a model can be asked to do; the key is one of four.
#[derive(Clone, Debug)]
enum Op {
    Set(u8, i8),
    SetNxPx(u8, i8, u16),
    SetXxKeepTtl(u8, i8),
    GetDel(u8),
    Append(u8, u8),
    Incr(u8, i8),
    ExpireGt(u8, i16),
    Persist(u8),
    Del(u8, u8),
    Pass(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..4_u8;
    prop_oneof![
        3 => (key(), any::<i8>()).prop_map(|(k, n)| Op::Set(k, n)),
        3 => (key(), any::<i8>(), 1..2000_u16).prop_map(|(k, n, ms)| Op::SetNxPx(k, n, ms)),
        2 => (key(), any::<i8>()).prop_map(|(k, n)| Op::SetXxKeepTtl(k, n)),
        1 => key().prop_map(Op::GetDel),
        2 => (key(), 0..10_u8).prop_map(|(k, n)| Op::Append(k, n)),
        3 => (key(), any::<i8>()).prop_map(|(k, n)| Op::Incr(k, n)),
        2 => (key(), -5..2000_i16).prop_map(|(k, ms)| Op::ExpireGt(k, ms)),
        1 => key().prop_map(Op::Persist),
        1 => (key(), key()).prop_map(|(a, b)| Op::Del(a, b)),
        3 => (0..1500_u16).prop_map(Op::Pass),
    ]
}

#[derive(Default)]
struct Model {
    keys: BTreeMap<u8, (String, Option<u64>)>,
    now_ms: u64,
}

impl Model {
    /// The request of `op` and the reply it should get.
    fn step(&mut self, op: &Op) -> (String, String) {
        let now_ms = self.now_ms;
        self.keys.retain(|_, (_, until)| until.is_none_or(|until| until >= now_ms));
        let nil = || "$-1\r\n".to_owned();
        let ok = || "+OK\r\n".to_owned();
        match *op {
            Op::Set(k, n) => {
                self.keys.insert(k, (n.to_string(), None));
                (format!("SET {k} {n}"), ok())
            }
            Op::SetNxPx(k, n, ms) => {
                let request = format!("SET {k} {n} PX {ms} NX");
                if self.keys.contains_key(&k) {
                    return (request, nil());
                }
                self.keys.insert(k, (n.to_string(), Some(now_ms + u64::from(ms))));
                (request, ok())
            }
            Op::SetXxKeepTtl(k, n) => {
                let reply = match self.keys.get_mut(&k) {
                    Some((value, _)) => {
                        *value = n.to_string();
                        ok()
                    }
                    None => nil(),
                };
                (format!("SET {k} {n} KEEPTTL XX"), reply)
            }
            Op::GetDel(k) => {
                let old = self.keys.remove(&k);
                let reply = old.map_or_else(nil, |(v, _)| format!("${}\r\n{v}\r\n", v.len()));
                (format!("GETDEL {k}"), reply)
            }
            Op::Append(k, n) => {
                let (value, _) = self.keys.entry(k).or_default();
                value.push_str(&n.to_string());
                (format!("APPEND {k} {n}"), format!(":{}\r\n", value.len()))
            }
            Op::Incr(k, n) => (format!("INCRBY {k} {n}"), self.incr(k, n)),
            Op::ExpireGt(k, ms) => {
                let at_ms = now_ms as i64 + i64::from(ms);
                let until = self.keys.get(&k).map(|(_, until)| *until);
                let set = until.is_some_and(|until| until.is_some_and(|u| at_ms > u as i64));
                if set && at_ms <= now_ms as i64 {
                    self.keys.remove(&k);
                } else if set {
                    self.keys.get_mut(&k).expect("it was found").1 = Some(at_ms as u64);
                }
                (format!("PEXPIRE {k} {ms} GT"), format!(":{}\r\n", u8::from(set)))
            }
            Op::Persist(k) => {
                let until = self.keys.get_mut(&k).and_then(|(_, until)| until.take());
                (format!("PERSIST {k}"), format!(":{}\r\n", u8::from(until.is_some())))
            }
            Op::Del(a, b) => {
                let gone = [a, b].iter().filter(|k| self.keys.remove(k).is_some()).count();
                (format!("DEL {a} {b}"), format!(":{gone}\r\n"))
            }
            Op::Pass(ms) => {
                self.now_ms += u64::from(ms);
                ("PING".to_owned(), "+PONG\r\n".to_owned())
            }
        }
    }

    fn incr(&mut self, k: u8, n: i8) -> String {
        let not_integer = || "-ERR value is not an integer or out of range\r\n".to_owned();
        let old = self.keys.get(&k).map_or("0", |(value, _)| value);
        // Rust reads more forms of a number than Redis does.
        let plain = old.parse::<i64>().ok().filter(|n| n.to_string() == old);
        let Some(old) = plain else { return not_integer() };
        let Some(new) = old.checked_add(i64::from(n)) else {
            return "-ERR increment or decrement would overflow\r\n".to_owned();
        };
        self.keys.entry(k).or_default().0 = new.to_string();
        format!(":{new}\r\n")
    }
}

proptest! {
    /// Few keys, so that deadlines, conditions and numbers meet on each.
    #[test]
    fn commands_agree_with_a_model(ops in prop::collection::vec(op(), 1..200)) {
        let mut server = Server::new(Proto::Resp2, None);
        let mut model = Model { now_ms: START_MS, ..Model::default() };
        for op in &ops {
            let (request, expected) = model.step(op);
            let reply = server.run(&words(&request));
            prop_assert_eq!(String::from_utf8_lossy(&reply), expected, "{}", request);
            server.facts.now_ms = model.now_ms;
        }
    }
}
