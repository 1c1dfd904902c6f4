//! Random pipelines of commands to the real program: each reply is, byte for byte, that of a
//! [`Model`] of the keyspace.
//!
//! ```text
//! STAVE_FUZZ_INPUTS=1000000 cargo test --release --test it fuzz::pipelines
//! ```

use std::io::{Read as _, Write as _};

use super::model::Model;
use super::{Rng, input_numbers};
use crate::client::{Client, Reply, encode};
use crate::server::Server;

/// Commands from one empty server to the next.
const LIFE: usize = 10_000;
/// Most commands of one pipeline.
const DEPTH_MAX: usize = 64;

const TAGGED: [&[u8]; 5] = [b"{t}a", b"{t}b", b"{t}c", b"{t}\x00\xff", b"{t}"];
const ALONE: [&[u8]; 6] = [b"a", b"b", b"c", b"\x00\r\n", b"", b"a long key of no meaning at all"];
const VALUES: [&[u8]; 13] = [
    b"",
    b"v",
    b"abc",
    b"\r\n\x00\xff",
    b"5",
    b"-7",
    b"2.5",
    b"0",
    b"007",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"a value that is longer than what is held beside its key, by a few bytes",
    b"x y",
];
const NUMBERS: [&str; 11] = [
    "0",
    "1",
    "-1",
    "2",
    "-3",
    "10",
    "100",
    "x",
    "",
    "9223372036854775807",
    "-9223372036854775808",
];
const FLOATS: [&str; 4] = ["0.5", "-1.5", "2", "abc"];
/// Gone, far away, and what is none.
const DEADLINES: [&str; 6] = ["1", "33000000000", "34000000000", "0", "-5", "x"];
const DEADLINES_MS: [&str; 4] = ["1", "33000000000500", "34000000000499", "y"];
const KEYED: [&str; 33] = [
    "GET",
    "GET",
    "SET",
    "SET",
    "SET",
    "SETNX",
    "GETSET",
    "GETDEL",
    "GETEX",
    "MGET",
    "MSET",
    "APPEND",
    "STRLEN",
    "GETRANGE",
    "SUBSTR",
    "SETRANGE",
    "SETBIT",
    "GETBIT",
    "BITCOUNT",
    "INCR",
    "DECR",
    "INCRBY",
    "DECRBY",
    "INCRBYFLOAT",
    "DEL",
    "UNLINK",
    "EXISTS",
    "TOUCH",
    "TYPE",
    "EXPIREAT",
    "PEXPIREAT",
    "PEXPIRETIME",
    "PERSIST",
];
const OTHERS: [&str; 21] = [
    "BITOP",
    "RENAME",
    "RENAMENX",
    "COPY",
    "COPY",
    "MSETNX",
    "EXPIRETIME",
    "SELECT",
    "PING",
    "ECHO",
    "PUBLISH",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "DBSIZE",
    "FLUSHDB",
];

fn of<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.below(list.len())]
}

fn word(rng: &mut Rng, list: &[&str]) -> Vec<u8> {
    of(rng, list).as_bytes().to_vec()
}

/// A random command that makes sense where the model is.
fn command(rng: &mut Rng, model: &Model) -> Vec<Vec<u8>> {
    let mut name = if rng.below(3) > 0 { of(rng, &KEYED) } else { of(rng, &OTHERS) };
    // These are no part of a transaction's one step; see `server::transaction`.
    if model.is_queueing() && ["DBSIZE", "FLUSHDB"].contains(&name) {
        name = "EXEC";
    }
    // Keys that are judged together have to live together.
    let together = model.is_queueing()
        || ["RENAME", "RENAMENX", "COPY", "MSETNX", "BITOP", "MULTI", "WATCH"].contains(&name);
    let key = |rng: &mut Rng| {
        let list = if together || rng.below(2) == 0 { &TAGGED[..] } else { &ALONE[..] };
        of(rng, list).to_vec()
    };
    let mut words = vec![name.as_bytes().to_vec()];
    if rng.below(50) == 0 {
        words[0].make_ascii_lowercase();
    }
    match name {
        "SET" => {
            words.extend([key(rng), of(rng, &VALUES).to_vec()]);
            set_options(rng, &mut words);
        }
        "GETEX" => {
            words.push(key(rng));
            match rng.below(4) {
                0 => words.push(b"PERSIST".to_vec()),
                1 => words.extend([b"EXAT".to_vec(), word(rng, &DEADLINES)]),
                2 => words.extend([b"pxat".to_vec(), word(rng, &DEADLINES_MS)]),
                _ => {}
            }
        }
        "SETNX" | "GETSET" | "APPEND" => words.extend([key(rng), of(rng, &VALUES).to_vec()]),
        "GETRANGE" | "SUBSTR" => {
            words.extend([key(rng), word(rng, &NUMBERS), word(rng, &NUMBERS)]);
        }
        "SETRANGE" => {
            let offset = of(rng, &["0", "1", "10", "100", "-1", "x", "536870912"]);
            words.extend([key(rng), offset.as_bytes().to_vec(), of(rng, &VALUES).to_vec()]);
        }
        "SETBIT" | "GETBIT" => {
            let offset = of(rng, &["0", "1", "7", "8", "100", "999", "-1", "x", "4294967296"]);
            words.extend([key(rng), offset.as_bytes().to_vec()]);
            if name == "SETBIT" {
                words.push(word(rng, &["0", "1", "1", "2", "x"]));
            }
        }
        "BITOP" => {
            words.push(word(rng, &["AND", "OR", "XOR", "NOT", "or", "FOO"]));
            words.extend((0..2 + rng.below(3)).map(|_| key(rng)));
        }
        "INCRBY" | "DECRBY" => words.extend([key(rng), word(rng, &NUMBERS)]),
        "INCRBYFLOAT" => {
            let key = key(rng);
            if !model.is_small_number(&key) || model.is_queueing() {
                return vec![b"GET".to_vec(), key];
            }
            words.extend([key, word(rng, &FLOATS)]);
        }
        "MSET" | "MSETNX" => {
            for _ in 0..=rng.below(4) {
                words.extend([key(rng), of(rng, &VALUES).to_vec()]);
            }
        }
        "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" | "WATCH" => {
            words.extend((0..=rng.below(4)).map(|_| key(rng)));
        }
        "EXPIREAT" | "PEXPIREAT" => {
            let list = if name == "EXPIREAT" { &DEADLINES[..] } else { &DEADLINES_MS[..] };
            words.extend([key(rng), word(rng, list)]);
            let options = ["NX", "XX", "GT", "LT", "gt", "FOO"];
            words.extend((0..rng.below(3)).map(|_| word(rng, &options)));
        }
        "RENAME" | "RENAMENX" => words.extend([key(rng), key(rng)]),
        "COPY" => {
            words.extend([key(rng), key(rng)]);
            if rng.below(2) == 0 {
                words.push(b"REPLACE".to_vec());
            }
            if rng.below(3) == 0 {
                words.extend([b"DB".to_vec(), word(rng, &["0", "1", "2", "16", "x"])]);
            }
        }
        "SELECT" => words.push(word(rng, &["0", "0", "0", "1", "2", "16", "x"])),
        "ECHO" => words.push(of(rng, &VALUES).to_vec()),
        "PUBLISH" => words.extend([b"nobody".to_vec(), b"hears".to_vec()]),
        "PING" if rng.below(2) == 0 => words.push(of(rng, &VALUES).to_vec()),
        "MULTI" | "EXEC" | "DISCARD" | "UNWATCH" | "DBSIZE" | "FLUSHDB" | "PING" => {}
        _ => words.push(key(rng)),
    }
    mangle(rng, model, &mut words);
    words
}

fn set_options(rng: &mut Rng, words: &mut Vec<Vec<u8>>) {
    if rng.below(3) == 0 {
        words.push(word(rng, &["NX", "XX", "GET", "get", "KEEPTTL", "FOO"]));
    }
    match rng.below(8) {
        0 => words.extend([b"EXAT".to_vec(), word(rng, &DEADLINES)]),
        1 => words.extend([b"PXAT".to_vec(), word(rng, &DEADLINES_MS)]),
        2 => words.extend([b"IFEQ".to_vec(), of(rng, &VALUES).to_vec()]),
        3 => words.push(b"GET".to_vec()),
        _ => {}
    }
}

/// Once in a while there is no such command, or it has too few or too many arguments.
fn mangle(rng: &mut Rng, model: &Model, words: &mut Vec<Vec<u8>>) {
    let fixed = ["EXEC", "WATCH", "PING", "FLUSHDB", "BITCOUNT"];
    let fixed = fixed.iter().any(|name| words[0].eq_ignore_ascii_case(name.as_bytes()));
    match rng.below(100) {
        0 => *words = vec![b"NOSUCH".to_vec()],
        1 if words.len() > 1 && !words[0].starts_with(b"M") => drop(words.pop()),
        // Whether an argument too many is one depends on the command's options.
        2 if !fixed && words.len() <= 2 && !model.is_queueing() => {
            words.extend([b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]);
        }
        _ => {}
    }
}

/// One connection's life on an empty server.
fn live(server: &Server, rng: &mut Rng, count: usize) {
    let mut client = server.client();
    assert_eq!(client.run(&["FLUSHALL"]), Reply::ok());
    let resp3 = rng.below(2) == 1;
    let mut model = Model::new(resp3);
    if resp3 {
        client.write(&encode(&["HELLO", "3"]));
        skip_greeting(&mut client);
    }
    let mut left = count;
    while left > 0 {
        let depth = (1 + rng.below(DEPTH_MAX)).min(left);
        left -= depth;
        let (mut sent, mut expected, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..depth {
            let words = command(rng, &model);
            sent.extend(encode(&words));
            let reply = model.run(&words);
            expected.extend_from_slice(&reply);
            commands.push((words, reply));
        }
        client.stream().write_all(&sent).expect("the server reads");
        let mut got = vec![0; expected.len()];
        let len = read_up_to(&mut client, &mut got);
        if got[..len] != expected {
            explain(&commands, &got[..len]);
        }
    }
    assert!(!client.has_more(), "the server said more than it was asked");
    compare_keys(&mut client, &mut model);
}

/// The reply of HELLO 3 ends with an empty list of modules.
fn skip_greeting(client: &mut Client) {
    let (mut got, mut byte) = (Vec::new(), [0]);
    while !got.ends_with(b"modules\r\n*0\r\n") {
        client.stream().read_exact(&mut byte).expect("the server answers");
        got.push(byte[0]);
    }
}

fn read_up_to(client: &mut Client, into: &mut [u8]) -> usize {
    let mut at = 0;
    while at < into.len() {
        match client.stream().read(&mut into[at..]) {
            Ok(len) if len > 0 => at += len,
            _ => break,
        }
    }
    at
}

/// Fails with the first command whose reply is another.
fn explain(commands: &[(Vec<Vec<u8>>, Vec<u8>)], mut got: &[u8]) -> ! {
    let show = |words: &[Vec<u8>]| {
        let words: Vec<String> = words.iter().map(|w| w.escape_ascii().to_string()).collect();
        words.join(" ")
    };
    for (at, (words, reply)) in commands.iter().enumerate() {
        match got.strip_prefix(&reply[..]) {
            Some(rest) => got = rest,
            None => panic!(
                "{:?} was answered {}, not {}; before it: {:#?}",
                show(words),
                got[..got.len().min(200)].escape_ascii(),
                reply.escape_ascii(),
                commands[..at].iter().map(|(words, _)| show(words)).collect::<Vec<_>>(),
            ),
        }
    }
    panic!("the server said more: {}", got.escape_ascii());
}

/// SCAN and KEYS tell of exactly the keys of the model.
fn compare_keys(client: &mut Client, model: &mut Model) {
    if model.is_queueing() {
        assert_eq!(client.run(&["DISCARD"]), Reply::ok());
    }
    let bulks = |reply: &Reply| match reply {
        Reply::Array(items) => items
            .iter()
            .map(|item| match item {
                Reply::Bulk(key) => key.clone(),
                other => panic!("{other:?} is no key"),
            })
            .collect::<Vec<_>>(),
        other => panic!("{other:?} is no list"),
    };
    let mut keys = bulks(&client.run(&["KEYS", "*"]));
    keys.sort();
    assert_eq!(keys, model.keys());
    let (mut scanned, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let Reply::Array(parts) = client.run(&["SCAN", &cursor]) else { panic!("no array") };
        scanned.extend(bulks(&parts[1]));
        let Reply::Bulk(next) = &parts[0] else { panic!("{parts:?} has no cursor") };
        cursor = String::from_utf8_lossy(next).into_owned();
        if cursor == "0" {
            break;
        }
    }
    scanned.sort();
    scanned.dedup();
    assert_eq!(scanned, model.keys());
}

#[test]
fn replies_are_those_of_a_model() {
    let server = Server::start(&["--cores", "2"]);
    let numbers = input_numbers();
    let mut at = numbers.start;
    while at < numbers.end {
        let count = LIFE.min((numbers.end - at) as usize);
        println!("from STAVE_FUZZ_FIRST={at}");
        live(&server, &mut Rng::new(at), count);
        at += count as u64;
    }
}
