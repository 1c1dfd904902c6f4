//! MONITOR: every command of the node, as a line.
//!
//! The form is that of Redis: a simple string of time, database, client and arguments in quotes.
//! Not here: who gets the lines, and how many ([`crate::server`]).

use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Facts, Session, Then, redact};
use crate::protocol::resp::Reply;

/// Bytes of an argument that are shown.
pub const ARG_LEN_MAX: usize = 4096;

/// What it is told of any other, in the words of Redis.
pub const REFUSED: &str = "ERR Replica can't interact with the keyspace";

fn monitor(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    // As in Redis, whoever says it twice is not answered.
    if std::mem::replace(&mut session.is_monitor, true) {
        return Then::Continue;
    }
    reply.simple("OK");
    Then::Monitor
}

/// Whether a command is shown: those of operators are not, as in Redis.
pub fn is_shown(spec: &Spec) -> bool {
    !spec.flags.has(Flags::ADMIN)
}

/// Whether a connection that monitors may run it.
pub fn is_allowed(spec: &Spec) -> bool {
    let reaches_replicas = matches!(spec.name, "publish" | "spublish");
    !(spec.flags.has(Flags::READONLY) || spec.flags.has(Flags::WRITE) || reaches_replicas)
}

/// The line of a command.
pub fn write_line(
    out: &mut Vec<u8>,
    now_ms: u64,
    (db, peer): (u8, &str),
    spec: &Spec,
    args: &Args<'_>,
) {
    begin_line(out, now_ms, db, peer);
    for at in 0..args.len() {
        let arg = redact::shown(spec, args, at);
        let shown = &arg[..arg.len().min(ARG_LEN_MAX)];
        out.extend_from_slice(b" \"");
        shown.iter().for_each(|byte| quote(out, *byte));
        if shown.len() < arg.len() {
            let more = format!("... ({} more bytes)", arg.len() - shown.len());
            out.extend_from_slice(more.as_bytes());
        }
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}

/// The line that stands for so many commands that are left out.
pub fn write_left_out(out: &mut Vec<u8>, now_ms: u64, shard: u16, count: u64) {
    begin_line(out, now_ms, 0, &format!("stave:{shard}"));
    out.extend_from_slice(format!(" \"LEFT-OUT\" \"{count}\"\r\n").as_bytes());
}

fn begin_line(out: &mut Vec<u8>, now_ms: u64, db: u8, peer: &str) {
    let (seconds, us) = (now_ms / 1000, now_ms % 1000 * 1000);
    out.extend_from_slice(format!("+{seconds}.{us:06} [{db} {peer}]").as_bytes());
}

fn quote(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x07 => out.extend_from_slice(b"\\a"),
        0x08 => out.extend_from_slice(b"\\b"),
        b' '..=b'~' => out.push(byte),
        _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
    }
}

const RUN: Connection = monitor;

pub(super) static SPECS: &[Spec] = &[Spec {
    name: "monitor",
    arity: 1,
    flags: Flags::LOADING.and(Flags::STALE).and(Flags::ADMIN).and(Flags::NOSCRIPT),
    keys: Keys::NONE,
    access: Access::Admin,
    group: Group::Server,
    summary: "Shows the commands of all connections",
    since: "1.0.0",
    run: Run::Connection(RUN),
}];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::protocol::resp::ArgsBuf;

    fn line(words: &[&[u8]]) -> String {
        let (owned, mut out) = (ArgsBuf::from_iter(words), Vec::new());
        let spec = lookup(words[0]).expect("a command");
        write_line(&mut out, 1_700_000_000_012, (3, "1.2.3.4:5"), spec, &owned.args());
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_line_is_that_of_redis() {
        let got = line(&[b"SET", b"a \"b\"", b"\\\r\n\t\x07\x08\x00\xff"]);
        let expected = r#"+1700000000.012000 [3 1.2.3.4:5] "SET" "a \"b\"" "\\\r\n\t\a\b\x00\xff""#;
        assert_eq!(got, format!("{expected}\r\n"));
        let secret = line(&[b"AUTH", b"me", b"word"]);
        assert!(secret.ends_with("\"AUTH\" \"(redacted)\" \"(redacted)\"\r\n"), "{secret}");
        let long = line(&[b"ECHO", &[b'x'; ARG_LEN_MAX + 5]]);
        assert!(long.ends_with("x... (5 more bytes)\"\r\n"), "{}", &long[ARG_LEN_MAX..]);
    }
}
