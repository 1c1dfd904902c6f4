//! Fuzzes the binary protocol: the decoder alone, and the port of a running server.
//!
//! Nearly every change breaks a checksum and is refused there, so most inputs are mended: cut into
//! frames again, with lengths and checksums that hold and bodies as strange as before. Every mended
//! frame of a session is owed exactly one reply.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use stavekv::protocol::binary::{
    Code, Failure, HEADER_LEN, Header, Hello, MAGIC, Parser, Reply, Request, VERSION, finish, start,
};

use super::{Rng, corpus, edit_field, input_numbers, offspring};
use crate::server::Server;
use crate::typed::{Answer, encode};

/// Longest body that the decoder takes here, bytes.
const BODY_LEN_MAX: usize = 64 << 10;

/// More than this beyond twice of what was sent is hoarding.
const HELD_LEN_MAX: usize = 1 << 20;

/// Inputs that one connection carries.
const GROUP: u64 = 64;

/// How much a server may grow while it is fuzzed, beyond what it had after the first inputs.
const GROWTH_MIB_MAX: u64 = 64;

/// The input with this number, as it is.
fn wild(seeds: &[Vec<u8>], rng: &mut Rng, input: &mut Vec<u8>) {
    offspring(seeds, rng, input);
    input.truncate(BODY_LEN_MAX);
    for _ in 0..rng.below(4) {
        edit_field(rng, input);
    }
}

/// Appends `input` as frames whose lengths and checksums hold, with ids from `id` on; returns how
/// many.
fn mend(mut input: &[u8], id: u64, out: &mut Vec<u8>) -> u64 {
    let mut count = 0;
    while let Some((head, rest)) = input.split_first_chunk::<HEADER_LEN>() {
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, next) = rest.split_at((number(20) as usize).min(rest.len()));
        let at = start(out);
        out.extend_from_slice(body);
        let flags = u16::from_le_bytes([head[6], head[7]]);
        // Sooner or later; most of the time it is far away.
        let deadline_ms = number(16);
        let header =
            Header { version: VERSION, opcode: head[5], flags, deadline_ms, ..Header::default() };
        finish(out, at, Header { request_id: id + count, ..header });
        count += 1;
        input = next;
    }
    count
}

/// What the decoder makes of `stream`, cut into chunks of 1 to `chunk_len_max` bytes: the frames
/// and how it ended.
fn parse(
    stream: &[u8],
    rng: &mut Rng,
    chunk_len_max: usize,
) -> (Vec<(Header, Vec<u8>)>, Option<Code>) {
    let (mut parser, mut frames, mut start) = (Parser::default(), Vec::new(), 0);
    while start < stream.len() {
        let left = stream.len() - start;
        let mut chunk = &stream[start..start + 1 + rng.below(chunk_len_max.min(left))];
        start += chunk.len();
        loop {
            let before = chunk.len();
            match parser.next(&mut chunk, BODY_LEN_MAX) {
                Ok(Some(frame)) => {
                    assert!(frame.header.fits(&frame.body));
                    frames.push((frame.header, frame.body.into_owned()));
                }
                Ok(None) => {
                    assert!(chunk.is_empty(), "{before} bytes were left without reason");
                    break;
                }
                Err(breach) => return (frames, Some(breach.code)),
            }
        }
        let held = parser.buffered_len();
        assert!(held <= 2 * start + HELD_LEN_MAX, "{held} held after {start} bytes");
    }
    (frames, None)
}

/// What a frame's body decodes to, encodes to the same body.
fn decode(header: &Header, body: &[u8], again: &mut Vec<u8>) -> bool {
    if let Ok(request) = Request::decode(header.opcode, body) {
        again.clear();
        request.encode(again);
        assert_eq!(again, body, "{request:?}");
        return true;
    }
    // A client's side of it.
    Reply::decode(header, body).is_some()
}

/// Tries the inputs with these numbers; how many frames, and how many of them decode.
fn fuzz(seeds: &[Vec<u8>], numbers: Range<u64>) -> (usize, usize) {
    let (mut input, mut mended, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let (mut count, mut decoded) = (0, 0);
    for number in numbers {
        let mut rng = Rng::new(number);
        wild(seeds, &mut rng, &mut input);
        if rng.below(4) > 0 {
            mended.clear();
            mend(&input, 1, &mut mended);
            std::mem::swap(&mut input, &mut mended);
        }
        let chunk_len_max = [1, 7, 33, 200][rng.below(4)].max(input.len() / 64);

        let whole = parse(&input, &mut rng, usize::MAX);
        let cut = parse(&input, &mut rng, chunk_len_max);

        assert!(whole == cut, "STAVE_FUZZ_INPUTS=1 STAVE_FUZZ_FIRST={number}: cut otherwise");
        count += whole.0.len();
        for (header, body) in &whole.0 {
            decoded += usize::from(decode(header, body, &mut again));
        }
    }
    (count, decoded)
}

#[test]
fn no_input_harms_the_decoder() {
    let seeds = corpus("binary");
    assert!(seeds.len() >= 30, "only {} seeds", seeds.len());
    let numbers = input_numbers();
    let middle = numbers.start + (numbers.end - numbers.start) / 2;

    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| fuzz(&seeds, numbers.start..middle));
        let second = fuzz(&seeds, middle..numbers.end);
        (first.join().expect("its panic names the input"), second)
    });

    let (frames, decoded) = (first.0 + second.0, first.1 + second.1);
    println!("{} inputs, {frames} frames, {decoded} understood", numbers.end - numbers.start);
    assert!(decoded > 0 && decoded < frames, "{decoded} of {frames}: this tests one side alone");
}

/// A connection to the port, and what it was told.
struct Line {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Line {
    fn open(port: u16, greet: bool) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        stream.set_write_timeout(Some(Duration::from_secs(10))).expect("not zero");
        stream.set_nodelay(true).expect("TCP");
        let mut line = Self { stream, received: Vec::new() };
        if greet {
            let mut hello = Vec::new();
            let versions = &[VERSION];
            encode(&mut hello, 0, 0, &Request::Hello(Hello { versions, ..Hello::default() }));
            line.stream.write_all(&hello).expect("the server reads");
            line.answer().expect("hello is answered");
        }
        line
    }

    /// The next reply; none: closed. Panics if neither comes.
    fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<HEADER_LEN>() {
                let header = Header::decode(head).expect("the server makes no broken frames");
                if let Some(body) = rest.get(..header.body_len as usize) {
                    assert!(header.fits(body), "a body that is not what its header says");
                    let answer = Answer { header, body: body.to_vec() };
                    self.received.drain(..HEADER_LEN + header.body_len as usize);
                    return Some(answer);
                }
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(len) => self.received.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer, and not closed: {error}"),
            }
        }
    }
}

/// Sends a group of mended inputs over one connection; returns how many frames they were. All are
/// answered, once each, unless the connection is closed for a wrong password.
fn converse(port: u16, seeds: &[Vec<u8>], numbers: Range<u64>) -> u64 {
    let (mut input, mut out, mut count) = (Vec::new(), Vec::new(), 0);
    for number in numbers {
        wild(seeds, &mut Rng::new(number), &mut input);
        count += mend(&input, 1 + count, &mut out);
    }
    let mut line = Line::open(port, true);
    let mut writer = line.stream.try_clone().expect("a descriptor is left");
    let mut owed: BTreeSet<u64> = (1..=count).collect();
    thread::scope(|scope| {
        // Beside it, since the server may want its replies read first.
        scope.spawn(move || writer.write_all(&out));
        while !owed.is_empty() {
            let Some(answer) = line.answer() else { panic!("closed, with {owed:?} unanswered") };
            let id = answer.header.request_id;
            assert!(owed.remove(&id), "{id} is answered twice");
            let reply = Reply::decode(&answer.header, &answer.body).expect("the server's own");
            if is_wrong_password(&reply) {
                let _ = line.stream.shutdown(Shutdown::Both);
                break;
            }
        }
    });
    count
}

fn is_wrong_password(reply: &Reply<'_>) -> bool {
    matches!(reply, Reply::Error(Failure { code, .. }) if *code == Code::AuthFailed as u16)
}

/// Sends an input as it is, before or after a hello, and reads what comes until the end.
fn throw(port: u16, seeds: &[Vec<u8>], number: u64) {
    let (mut rng, mut input) = (Rng::new(number), Vec::new());
    wild(seeds, &mut rng, &mut input);
    let mut line = Line::open(port, rng.below(2) == 0);
    // It may be closed before all is sent.
    let _ = line.stream.write_all(&input);
    let _ = line.stream.shutdown(Shutdown::Write);
    while line.answer().is_some() {}
}

/// Tries these inputs on a server; returns how many frames were answered.
fn attack(server: &Server, seeds: &[Vec<u8>], numbers: Range<u64>) -> u64 {
    let (mut frames, mut at) = (0, numbers.start);
    while at < numbers.end {
        let group = at..(at + GROUP).min(numbers.end);
        at = group.end;
        let tried = std::panic::catch_unwind(|| match group.start / GROUP % 2 {
            0 => converse(server.binary_port, seeds, group.clone()),
            // As it is one input takes a connection: the first of the group.
            _ => {
                throw(server.binary_port, seeds, group.start);
                converse(server.binary_port, seeds, group.clone())
            }
        });
        frames += tried.unwrap_or_else(|_| {
            let len = group.end - group.start;
            panic!("replay with STAVE_FUZZ_INPUTS={len} STAVE_FUZZ_FIRST={}", group.start)
        });
    }
    frames
}

#[test]
fn no_input_harms_a_server() {
    let seeds: Vec<_> = corpus("binary").into_iter().filter(|seed| seed.len() < 2048).collect();
    assert!(seeds.len() >= 30 && seeds.iter().any(|seed| seed.starts_with(&MAGIC)));
    let numbers = input_numbers();
    let server = Server::start(&["--cores", "2"]);
    let (mut frames, mut warm, mut at) = (0, None, numbers.start);
    // Keys are many, since they are fuzzed too: they go after each round; what stays is counted.
    const ROUND: u64 = 50_000;
    while at < numbers.end {
        let end = (at + ROUND).min(numbers.end);
        let middle = at + (end - at) / 2;
        frames += thread::scope(|scope| {
            let first = scope.spawn(|| attack(&server, &seeds, at..middle));
            let second = attack(&server, &seeds, middle..end);
            first.join().expect("its panic names the inputs") + second
        });
        at = end;
        server.client().run(&["FLUSHALL"]);
        warm.get_or_insert_with(|| server.rss_mib());
    }

    let grown = server.rss_mib().saturating_sub(warm.unwrap_or(0));
    println!("{} inputs, {frames} frames, {grown} MiB grown", numbers.end - numbers.start);
    assert!(grown <= GROWTH_MIB_MAX, "grew by {grown} MiB");
    let log = server.log();
    assert!(!log.contains("panic"), "{log}");
}
