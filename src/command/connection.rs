//! The connection itself: PING, HELLO, AUTH, SELECT and their kin.

use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, DB_COUNT, Error, Facts, Session, Then, client, number};
use crate::protocol::resp::{Proto, Reply};

/// The version of Redis we answer as. Clients read it to learn what a server can do.
pub const REDIS_VERSION: &str = "7.4.0";

fn ping(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match args.len() {
        1 | 2 if session.is_confined() => {
            // A status could not be told from a message.
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(args.from(1).next().unwrap_or_default());
        }
        1 => reply.simple("PONG"),
        2 => args.arg(1).write_to(reply),
        _ => refuse(reply, &Error::Arity { command: "ping" }),
    }
    Then::Continue
}

fn echo(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    args.arg(1).write_to(reply);
    Then::Continue
}

/// Writes the error as the reply.
pub(super) fn refuse(reply: &mut Reply<'_>, error: &Error) {
    reply.error(&error.to_string());
}

/// Writes `+OK`, or the error.
pub(super) fn settle(reply: &mut Reply<'_>, outcome: Result<(), Error>) -> Then {
    match outcome {
        Ok(()) => reply.simple("OK"),
        Err(error) => refuse(reply, &error),
    }
    Then::Continue
}

fn auth(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let outcome = match args.len() {
        2 if facts.password().is_none() => Err(Error::NoPassword),
        2 => authenticate(session, facts, b"default", args.get(1)),
        3 => authenticate(session, facts, args.get(1), args.get(2)),
        _ => Err(Error::Syntax),
    };
    settle(reply, outcome)
}

fn authenticate(
    session: &mut Session,
    facts: &dyn Facts,
    user: &[u8],
    password: &[u8],
) -> Result<(), Error> {
    let right = facts.password().is_none_or(|expected| same_secret(&expected, password));
    if user != b"default" || !right {
        return Err(Error::WrongPass);
    }
    session.authenticated = true;
    Ok(())
}

/// Compares in a time that depends on the length of `given` alone, which the client knows.
pub fn same_secret(expected: &[u8], given: &[u8]) -> bool {
    let mut differences = expected.len() ^ given.len();
    for (at, &byte) in given.iter().enumerate() {
        let other = expected.get(at % expected.len().max(1)).copied().unwrap_or(0);
        differences |= usize::from(byte ^ other);
    }
    differences == 0
}

struct Hello<'a> {
    proto: Option<Proto>,
    auth: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

fn hello(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match parse_hello(args) {
        Ok(hello) => match greet(session, facts, &hello) {
            Ok(()) => write_hello(session, facts, reply),
            Err(error) => refuse(reply, &error),
        },
        Err(text) => reply.error(&text),
    }
    Then::Continue
}

fn parse_hello<'a>(args: &Args<'a>) -> Result<Hello<'a>, String> {
    let mut hello = Hello { proto: None, auth: None, name: None };
    if args.len() > 1 {
        hello.proto = Some(match number::parse_i64(args.get(1)) {
            Ok(2) => Proto::Resp2,
            Ok(3) => Proto::Resp3,
            Ok(_) => return Err(Error::NoProto.to_string()),
            Err(_) => {
                return Err("ERR Protocol version is not an integer or out of range".to_owned());
            }
        });
    }
    let mut at = 2;
    while at < args.len() {
        let more = args.len() - at - 1;
        if args.is(at, "AUTH") && more >= 2 {
            hello.auth = Some((args.get(at + 1), args.get(at + 2)));
            at += 3;
        } else if args.is(at, "SETNAME") && more >= 1 {
            hello.name = Some(args.get(at + 1));
            at += 2;
        } else {
            let option = String::from_utf8_lossy(args.get(at));
            return Err(format!("ERR Syntax error in HELLO option '{option}'"));
        }
    }
    Ok(hello)
}

/// All or nothing, but for the authentication.
fn greet(session: &mut Session, facts: &dyn Facts, hello: &Hello<'_>) -> Result<(), Error> {
    if let Some((user, password)) = hello.auth {
        authenticate(session, facts, user, password)?;
    }
    let name = hello.name.map(client::parse_name).transpose()?;
    if !session.authenticated {
        return Err(Error::Other(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
             the RESP protocol version at the same time",
        ));
    }
    session.name = name.unwrap_or_else(|| std::mem::take(&mut session.name));
    session.proto = hello.proto.unwrap_or(session.proto);
    Ok(())
}

fn write_hello(session: &Session, facts: &dyn Facts, reply: &mut Reply<'_>) {
    reply.set_proto(session.proto);
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if session.proto == Proto::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(session.id as i64);
    reply.bulk(b"mode");
    reply.bulk(mode(facts).as_bytes());
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

/// `cluster` or `standalone`.
pub(super) fn mode(facts: &dyn Facts) -> &'static str {
    if facts.identity().cluster_mode { "cluster" } else { "standalone" }
}

const NOT_AN_INT: &str = "ERR value is out of range, value must between -2147483648 and 2147483647";

fn select(
    session: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    let outcome = number::parse_i64(args.get(1)).and_then(|db| match u8::try_from(db) {
        Ok(db) if db != 0 && db < DB_COUNT && facts.identity().cluster_mode => {
            Err(Error::Other("ERR SELECT is not allowed in cluster mode"))
        }
        Ok(db) if db < DB_COUNT => {
            session.db = db;
            Ok(())
        }
        // As Redis: what no `int` holds is no index at all.
        _ if i32::try_from(db).is_err() => Err(Error::Other(NOT_AN_INT)),
        _ => Err(Error::DbIndex),
    });
    settle(reply, outcome)
}

fn quit(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.simple("OK");
    Then::Close
}

fn reset(session: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    session.reset(facts.password().is_none(), facts.identity().ack);
    reply.simple("RESET");
    Then::Reset
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Connection, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

const EARLY: Flags = Flags::LOADING.and(Flags::STALE).and(Flags::FAST);
const OPEN: Flags = EARLY.and(Flags::NOSCRIPT).and(Flags::NO_AUTH).and(Flags::ALLOW_BUSY);

pub(super) static SPECS: &[Spec] = &[
    row("ping", -1, Flags::FAST, ping).about("Answers PONG, or what it was given", "1.0.0"),
    row("echo", 2, EARLY, echo).about("Answers what it was given", "1.0.0"),
    row("auth", -2, OPEN, auth).about("Authenticates the connection", "1.0.0"),
    row("hello", -1, OPEN, hello)
        .about("Chooses the protocol version, and may authenticate and name", "6.0.0"),
    row("select", 2, EARLY, select).about("Chooses the database", "1.0.0"),
    row("quit", -1, OPEN, quit).about("Closes the connection", "1.0.0"),
    row("reset", 1, OPEN, reset).about("Makes the connection as good as new", "6.2.0"),
    Spec { run: Run::Container(client::SPECS), ..row("client", -2, Flags::NONE, ping) }
        .about("Connections", "2.4.0"),
];
