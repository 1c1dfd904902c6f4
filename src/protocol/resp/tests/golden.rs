//! The golden transcripts of `testdata/`.

use std::sync::Arc;

use super::super::{Limits, Proto, Reply};
use super::{Parsed, parse_cut, parse_whole};
use crate::limits::LARGE_LEN_MIN;

const REQUESTS: &str = include_str!("../testdata/requests.txt");
const REPLIES: &str = include_str!("../testdata/replies.txt");

#[test]
fn requests_are_read_as_the_transcript_says() {
    let mut limits = Limits::authenticated();
    let mut blocks = 0;
    for block in REQUESTS.split("\n\n").skip(1) {
        let lines: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
        let Some(request) = lines[0].strip_prefix("> ") else {
            assert_eq!(lines, ["limits unauthenticated"], "a block without a request");
            limits = Limits::unauthenticated();
            continue;
        };
        let stream = unescape(&expand(request));
        let expected: Vec<String> = lines[1..].iter().map(|line| expand(line)).collect();

        for chunk_len in [1, 7, 16 << 10, stream.len()] {
            let cuts: Vec<usize> = (0..stream.len()).step_by(chunk_len).skip(1).collect();
            let parsed = parse_cut(&stream, &cuts, &limits, 3);

            assert!(shown(&parsed) == expected, "{request} by {chunk_len}:\n{:?}", shown(&parsed));
        }
        blocks += 1;
    }
    assert!(blocks > 70, "only {blocks} requests found in the transcript");
}

#[test]
fn limits_hold_for_what_is_read_under_them() {
    let stream = b"*11\r\n";

    let before = parse_whole(stream, &Limits::unauthenticated());
    let after = parse_whole(stream, &Limits::authenticated());

    assert!(before.error.is_some() && after == Parsed::default());
}

#[test]
fn replies_are_written_as_the_transcript_says() {
    for block in REPLIES.split("\n\n").skip(1) {
        let lines: Vec<&str> = block.lines().collect();
        let (call, arg) = lines[0].split_once(' ').unwrap_or((lines[0], ""));
        for (proto, line) in [(Proto::Resp2, "2 "), (Proto::Resp3, "3 ")] {
            let expected = lines.iter().find_map(|l| l.strip_prefix(line)).expect("both versions");
            let (mut out, mut spliced) = (Vec::new(), Vec::new());

            write(&mut Reply::new(proto, &mut out, &mut spliced), call, &unescape(arg));

            assert_eq!(out.escape_ascii().to_string(), escaped(expected), "{} {proto:?}", lines[0]);
        }
    }
}

#[test]
fn large_value_is_spliced_into_its_reply() {
    let large = Arc::new(vec![b'x'; LARGE_LEN_MIN]);
    let (mut out, mut spliced) = (Vec::new(), Vec::new());
    let mut reply = Reply::new(Proto::Resp2, &mut out, &mut spliced);

    reply.bulk_shared(&Arc::new(b"small".to_vec()));
    reply.bulk_shared(&large);

    assert_eq!(out, b"$5\r\nsmall\r\n$65536\r\n\r\n");
    assert!(spliced.len() == 1 && spliced[0].0 == 19 && Arc::ptr_eq(&spliced[0].1, &large));
}

fn write(reply: &mut Reply<'_>, call: &str, arg: &[u8]) {
    let text = std::str::from_utf8(arg).unwrap_or("");
    let len = || text.parse().expect("a length");
    match call {
        "simple" => reply.simple(text),
        "error" => reply.error(text),
        "integer" => reply.integer(text.parse().expect("an integer")),
        "double" => reply.double(text.parse().expect("a float")),
        "boolean" => reply.boolean(text == "true"),
        "bulk" => reply.bulk(arg),
        "null" => reply.null(),
        "null_array" => reply.null_array(),
        "array" => reply.array(len()),
        "map" => reply.map(len()),
        "set" => reply.set(len()),
        "push" => reply.push(len()),
        "verbatim" => reply.verbatim(text),
        other => panic!("no reply is called {other}"),
    }
}

/// As the transcript writes it.
fn shown(parsed: &Parsed) -> Vec<String> {
    let quoted = |arg: &Vec<u8>| format!("\"{}\"", escape(arg));
    let command = |args: &Vec<Vec<u8>>| {
        format!("< {}", args.iter().map(quoted).collect::<Vec<_>>().join(" "))
    };
    let error = parsed.error.map(|error| format!("! {}", escape(error.to_string().as_bytes())));
    parsed.commands.iter().map(command).chain(error).collect()
}

/// As `escape_ascii`, but the single quote stands for itself.
fn escape(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\'", "'")
}

fn escaped(text: &str) -> String {
    unescape(text).escape_ascii().to_string()
}

/// Writes out `{x*n}`.
fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
    let (times, after) = rest.split_once('}').expect("a brace is closed");
    let (letter, count) = times.split_once('*').expect("{letter*count}");
    let count = count.parse().expect("a count");
    format!("{before}{}{}", letter.repeat(count), expand(after))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let (byte, after) = match (byte, after) {
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("hex digits");
                (u8::from_str_radix(digits, 16).expect("hex digits"), after)
            }
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', other) => panic!("unknown escape before {}", other.escape_ascii()),
            (byte, after) => (*byte, after),
        };
        out.push(byte);
        rest = after;
    }
    out
}
