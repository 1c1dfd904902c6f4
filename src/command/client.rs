//! CLIENT: names, lists and closes connections.

use std::fmt::Write as _;

use super::connection::{refuse, settle};
use super::question::{Filter, NodeWide, Pause, Question, Told};
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::tracking::{Mode, Tracking};
use super::{Args, Client, Error, Facts, ReplyMode, Session, Then, help, number, tracking};
use crate::ack::Ack;
use crate::protocol::resp::{Proto, Reply};

fn id(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.integer(session.id as i64);
    Then::Continue
}

/// Whether all bytes are printable and none is a blank, so that a line of `CLIENT LIST` parses.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|b| (b'!'..=b'~').contains(b))
}

/// A name for a connection.
///
/// # Errors
/// A blank or a byte that does not print.
pub(super) fn parse_name(name: &[u8]) -> Result<String, Error> {
    if is_plain(name) {
        return Ok(String::from_utf8_lossy(name).into_owned());
    }
    Err(Error::Other("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn setname(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    settle(reply, parse_name(args.get(2)).map(|name| session.name = name))
}

fn getname(session: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    if session.name.is_empty() {
        reply.null();
    } else {
        reply.bulk(session.name.as_bytes());
    }
    Then::Continue
}

fn setinfo(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let option = String::from_utf8_lossy(args.get(2));
    let field = if args.is(2, "LIB-NAME") {
        &mut session.lib_name
    } else if args.is(2, "LIB-VER") {
        &mut session.lib_ver
    } else {
        reply.error(&format!("ERR Unrecognized option '{option}'"));
        return Then::Continue;
    };
    if is_plain(args.get(3)) {
        *field = String::from_utf8_lossy(args.get(3)).into_owned();
        reply.simple("OK");
    } else {
        reply
            .error(&format!("ERR {option} cannot contain spaces, newlines or special characters."));
    }
    Then::Continue
}

fn on_or_off(args: &Args<'_>) -> Result<bool, Error> {
    match (args.is(2, "ON"), args.is(2, "OFF")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(Error::Syntax),
    }
}

fn no_evict(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    settle(reply, on_or_off(args).map(|on| session.no_evict = on))
}

fn no_touch(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    settle(reply, on_or_off(args).map(|on| session.no_touch = on))
}

/// Without a level: which it is.
fn ack(session: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match (args.len(), Ack::named(args.get(args.len() - 1))) {
        (2, _) => reply.bulk(session.ack.name().as_bytes()),
        (3, Some(ack)) => {
            session.ack = ack;
            reply.simple("OK");
        }
        _ => reply.error("ERR CLIENT ACK takes quorum, leader or relaxed"),
    }
    Then::Continue
}

fn reply_mode(
    session: &mut Session,
    _: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    if args.is(2, "ON") {
        session.reply_mode = ReplyMode::On;
        reply.simple("OK");
    } else if args.is(2, "OFF") {
        session.reply_mode = ReplyMode::Off;
    } else if args.is(2, "SKIP") {
        // Off stays off: there is nothing to skip.
        if session.reply_mode != ReplyMode::Off {
            session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        refuse(reply, &Error::Syntax);
    }
    Then::Continue
}

fn info(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let mut text = String::new();
    if let Some(client) = facts.client() {
        write_line(&mut text, &client, facts.now_us() / 1000);
    }
    reply.verbatim(&text);
    Then::Continue
}

fn flags_of(client: &Client) -> String {
    let session = &client.session;
    let tracking = session.tracking.as_deref();
    let mut flags = String::new();
    for (set, flag) in [
        (session.is_monitor, 'O'),
        (session.subscribed.is_any(), 'P'),
        (tracking.is_some(), 't'),
        (tracking.is_some_and(|tracking| tracking.is_broken), 'R'),
        (tracking.is_some_and(|tracking| tracking.mode == Mode::Broadcast), 'B'),
        (client.queued.is_some(), 'x'),
        (client.is_waiting, 'b'),
        (client.is_closing, 'c'),
        (session.readonly, 'r'),
        (session.no_evict, 'e'),
        (session.no_touch, 'T'),
    ] {
        flags.extend(set.then_some(flag));
    }
    if flags.is_empty() {
        flags.push('N');
    }
    flags
}

/// One line, with the fields of Redis 7.2 in its order. What we do not have is 0: buffers of a
/// fixed size, arguments apart from the input. `qbuf`: received and not yet run; `omem`: due and
/// not yet with the kernel; `tot-mem`: all that is held for it; `resp=0`: the binary protocol.
pub(super) fn write_line(text: &mut String, client: &Client, now_ms: u64) {
    let Client { session, input_len, output_len, queued_len, held_len, .. } = client;
    let cmd = if session.last_command.is_empty() { "NULL" } else { session.last_command };
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
    let resp = match session.proto {
        _ if client.is_binary => 0,
        Proto::Resp2 => 2,
        Proto::Resp3 => 3,
    };
    let multi = client.queued.map_or(-1, |count| count as i64);
    let redirect = session.tracking.as_deref().map_or(-1, Tracking::redirect);
    let events = if client.is_sending { "rw" } else { "r" };
    writeln!(
        text,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} \
         ssub={} multi={multi} qbuf={input_len} qbuf-free=0 argv-mem=0 multi-mem={queued_len} \
         rbs=0 rbp=0 obl=0 oll=0 omem={output_len} tot-mem={held_len} events={events} cmd={cmd} \
         user=default redir={redirect} resp={resp} lib-name={} lib-ver={}",
        session.id,
        session.peer,
        session.local,
        session.name,
        seconds(session.created_ms),
        seconds(session.active_ms),
        flags_of(client),
        session.db,
        session.subscribed.channels,
        session.subscribed.patterns,
        session.subscribed.shard_channels,
        session.lib_name,
        session.lib_ver,
    )
    .expect("a String takes every write");
}

const LIST: NodeWide =
    NodeWide { ask: |args| Filter::parse_list(args).map(Question::Clients), tell: tell_list };

/// By id, which is by age.
fn tell_list(
    _: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let text = String::from_utf8_lossy(&told.body);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.sort_by_cached_key(|line| {
        let id = line.strip_prefix("id=").and_then(|rest| rest.split(' ').next());
        id.and_then(|id| id.parse::<u64>().ok())
    });
    reply.verbatim(&lines.concat());
    Then::Continue
}

const KILL: NodeWide =
    NodeWide { ask: |args| Filter::parse_kill(args).map(Question::Kill), tell: tell_kill };

fn tell_kill(
    _: &mut Session,
    _: &dyn Facts,
    args: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    match (args.len(), told.count) {
        (3, 0) => reply.error("ERR No such client"),
        (3, _) => reply.simple("OK"),
        (_, count) => reply.integer(count),
    }
    Then::Continue
}

const PAUSE: NodeWide =
    NodeWide { ask: |args| parse_pause(args).map(Question::Pause), tell: tell_ok };
const UNPAUSE: NodeWide = NodeWide { ask: |_| Ok(Question::Unpause), tell: tell_ok };

fn parse_pause(args: &Args<'_>) -> Result<Pause, Error> {
    let all = match args.len() {
        3 => true,
        4 if args.is(3, "ALL") => true,
        4 if args.is(3, "WRITE") => false,
        4 => return Err(Error::Other("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(Error::subcommand_arity(args, "CLIENT")),
    };
    match number::parse_i64(args.get(2)) {
        Ok(ms @ 0..) => Ok(Pause { ms: ms as u64, all }),
        Ok(_) => Err(Error::Other("ERR timeout is negative")),
        Err(_) => Err(Error::Other("ERR timeout is not an integer or out of range")),
    }
}

/// `+OK`, when all shards have done it.
pub(super) fn tell_ok(
    _: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    _: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    settle(reply, Ok(()))
}

/// No command of ours blocks, so nobody is found blocked.
fn unblock(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let how = match args.len() {
        3 => Ok(()),
        4 if args.is(3, "TIMEOUT") || args.is(3, "ERROR") => Ok(()),
        4 => Err(Error::Other("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => Err(Error::subcommand_arity(args, "CLIENT")),
    };
    match how.and_then(|()| number::parse_i64(args.get(2))) {
        Ok(_) => reply.integer(0),
        Err(error) => refuse(reply, &error),
    }
    Then::Continue
}

fn client_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "CLIENT", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let access = if flags.has(Flags::ADMIN) { Access::Admin } else { Access::Connection };
    let (group, keys, run) = (Group::Connection, Keys::NONE, Run::Connection(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.4.0", run }
}

const fn wide(name: &'static str, arity: i16, wide: NodeWide) -> Spec {
    Spec { run: Run::Node(wide), ..row(name, arity, ALL, id) }
}

const HELP: Flags = Flags::LOADING.and(Flags::STALE);
const OWN: Flags = HELP.and(Flags::NOSCRIPT);
const ALL: Flags = OWN.and(Flags::ADMIN);

pub(super) static SPECS: &[Spec] = &[
    row("client|id", 2, OWN, id).about("The number of this connection", "5.0.0"),
    row("client|setname", 3, OWN, setname).about("Names this connection", "2.6.9"),
    row("client|getname", 2, OWN, getname).about("The name of this connection", "2.6.9"),
    row("client|setinfo", 4, OWN, setinfo)
        .about("Tells the client's library (LIB-NAME) or its version (LIB-VER)", "7.2.0"),
    row("client|info", 2, OWN, info).about("This connection's line of CLIENT LIST", "6.2.0"),
    wide("client|list", -2, LIST).about("Connections, all or by TYPE or ID", "2.4.0"),
    wide("client|kill", -3, KILL)
        .about("Closes connections by ID, ADDR, LADDR, TYPE, USER, SKIPME or MAXAGE", "2.4.0"),
    wide("client|pause", -3, PAUSE)
        .about("For so many milliseconds all commands wait, or those that WRITE", "3.0.0"),
    wide("client|unpause", 2, UNPAUSE).about("They go on", "6.2.0"),
    row("client|unblock", -3, ALL, unblock)
        .about("Ends a command that blocks: none does, so the answer is 0", "5.0.0"),
    row("client|no-evict", 3, ALL, no_evict)
        .about("ON or OFF: this connection stays when memory is short", "7.0.0"),
    row("client|no-touch", 3, OWN, no_touch)
        .about("ON or OFF: this connection's reads leave no trace in caches", "7.2.0"),
    row("client|ack", -2, OWN, ack)
        .about("What this connection's answers wait for: QUORUM, LEADER or RELAXED", "7.4.0"),
    row("client|reply", 3, OWN, reply_mode)
        .about("ON, OFF or SKIP: whether commands are answered", "3.2.0"),
    row("client|tracking", -3, OWN, tracking::tracking)
        .about("ON or OFF: tells this connection when keys that it read change", "6.0.0"),
    row("client|caching", 3, OWN, tracking::caching)
        .about("YES or NO: whether the next command's keys are tracked", "6.0.0"),
    row("client|getredir", 2, OWN, tracking::getredir)
        .about("The connection that is told instead of this one", "6.0.0"),
    row("client|trackinginfo", 2, OWN, tracking::trackinginfo)
        .about("What CLIENT TRACKING was asked for", "6.2.0"),
    row("client|help", 2, HELP, client_help).about("This text", "5.0.0"),
];
