//! CLIENT: names, lists and closes connections.

use std::fmt::Write as _;

use super::connection::{refuse, settle};
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Client, Error, Facts, ReplyMode, Session, Then, help, number};
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

fn info(session: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let mut text = String::new();
    let client = Client { session: session.clone(), input_len: 0, output_len: 0 };
    write_client(&mut text, &client, facts.now_us() / 1000);
    reply.verbatim(&text);
    Then::Continue
}

/// One line, with the fields of Redis 7.2 in its order; what we do not have is 0.
fn write_client(text: &mut String, client: &Client, now_ms: u64) {
    let Client { session, input_len, output_len } = client;
    let mut flags = String::new();
    for (set, flag) in [
        (session.subscribed.is_any(), 'P'),
        (session.readonly, 'r'),
        (session.no_evict, 'e'),
        (session.no_touch, 'T'),
    ] {
        flags.extend(set.then_some(flag));
    }
    if flags.is_empty() {
        flags.push('N');
    }
    let cmd = if session.last_command.is_empty() { "NULL" } else { session.last_command };
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
    let resp = if session.proto == Proto::Resp3 { 3 } else { 2 };
    writeln!(
        text,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub={} psub={} \
         ssub={} multi=-1 qbuf={input_len} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 \
         oll=0 omem={output_len} tot-mem={} events=r cmd={cmd} user=default redir=-1 resp={resp} \
         lib-name={} lib-ver={}",
        session.id,
        session.peer,
        session.local,
        session.name,
        seconds(session.created_ms),
        seconds(session.active_ms),
        session.db,
        session.subscribed.channels,
        session.subscribed.patterns,
        session.subscribed.shard_channels,
        input_len + output_len,
        session.lib_name,
        session.lib_ver,
    )
    .expect("a String takes every write");
}

/// All connections; ours as it is at this moment.
fn clients(session: &Session, facts: &dyn Facts) -> Vec<Client> {
    let mut clients = facts.clients();
    for client in clients.iter_mut().filter(|client| client.session.id == session.id) {
        client.session = session.clone();
    }
    clients
}

fn list(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let mut wanted = clients(session, facts);
    if args.len() == 4 && args.is(2, "TYPE") {
        match parse_type(args.get(3)) {
            Ok(normal) => wanted.retain(|_| normal),
            Err(text) => return refuse_with(reply, &text),
        }
    } else if args.len() > 3 && args.is(2, "ID") {
        let mut ids = Vec::new();
        for id in args.from(3) {
            match number::parse_i64(id) {
                Ok(id) => ids.push(id as u64),
                Err(_) => return refuse_with(reply, "ERR Invalid client ID"),
            }
        }
        wanted.retain(|client| ids.contains(&client.session.id));
    } else if args.len() != 2 {
        refuse(reply, &Error::Syntax);
        return Then::Continue;
    }
    let (mut text, now_ms) = (String::new(), facts.now_us() / 1000);
    for client in &wanted {
        write_client(&mut text, client, now_ms);
    }
    reply.verbatim(&text);
    Then::Continue
}

fn refuse_with(reply: &mut Reply<'_>, text: &str) -> Then {
    reply.error(text);
    Then::Continue
}

/// Whether the type is that of all our connections.
fn parse_type(name: &[u8]) -> Result<bool, String> {
    match name.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"slave" | b"replica" | b"pubsub" => Ok(false),
        _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))),
    }
}

#[derive(Default)]
struct Filter<'a> {
    id: Option<u64>,
    addr: Option<&'a [u8]>,
    laddr: Option<&'a [u8]>,
    of_another_type: bool,
    with_me: bool,
}

impl Filter<'_> {
    fn hits(&self, session: &Session, me: u64) -> bool {
        !self.of_another_type
            && self.id.is_none_or(|id| id == session.id)
            && self.addr.is_none_or(|addr| addr == session.peer.as_bytes())
            && self.laddr.is_none_or(|addr| addr == session.local.as_bytes())
            && (self.with_me || session.id != me)
    }
}

fn parse_filter<'a>(args: &Args<'a>) -> Result<Filter<'a>, String> {
    let syntax = || Error::Syntax.to_string();
    let mut filter = Filter::default();
    for at in (2..args.len()).step_by(2) {
        if at + 1 == args.len() {
            return Err(syntax());
        }
        let value = args.get(at + 1);
        match args.get(at).to_ascii_uppercase().as_slice() {
            b"ID" => match number::parse_i64(value) {
                Ok(id @ 1..) => filter.id = Some(id as u64),
                _ => return Err("ERR client-id should be greater than 0".to_owned()),
            },
            b"ADDR" => filter.addr = Some(value),
            b"LADDR" => filter.laddr = Some(value),
            b"TYPE" => filter.of_another_type |= !parse_type(value)?,
            b"USER" if value != b"default" => {
                return Err(format!("ERR No such user '{}'", String::from_utf8_lossy(value)));
            }
            b"USER" => {}
            b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => filter.with_me = false,
            b"SKIPME" if value.eq_ignore_ascii_case(b"no") => filter.with_me = true,
            _ => return Err(syntax()),
        }
    }
    Ok(filter)
}

fn kill(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let by_address = args.len() == 3;
    let filter = if by_address {
        Ok(Filter { addr: Some(args.get(2)), with_me: true, ..Filter::default() })
    } else {
        parse_filter(args)
    };
    let filter = match filter {
        Ok(filter) => filter,
        Err(text) => return refuse_with(reply, &text),
    };
    let hit = |client: &Client| filter.hits(&client.session, session.id);
    let ids: Vec<u64> =
        facts.clients().iter().filter(|c| hit(c)).map(|client| client.session.id).collect();
    match (by_address, ids.len()) {
        (true, 0) => reply.error("ERR No such client"),
        (true, _) => reply.simple("OK"),
        (false, count) => reply.integer(count as i64),
    }
    if ids.is_empty() { Then::Continue } else { Then::Kill(ids) }
}

fn client_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "CLIENT", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let access = if flags.has(Flags::ADMIN) { Access::Admin } else { Access::Connection };
    let (group, keys, run) = (Group::Connection, Keys::NONE, Run::Connection(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.4.0", run }
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
    row("client|list", -2, ALL, list).about("Connections, all or by TYPE or ID", "2.4.0"),
    row("client|kill", -3, ALL, kill)
        .about("Closes connections by ID, ADDR, LADDR, TYPE, USER or SKIPME", "2.4.0"),
    row("client|no-evict", 3, ALL, no_evict)
        .about("ON or OFF: this connection stays when memory is short", "7.0.0"),
    row("client|no-touch", 3, OWN, no_touch)
        .about("ON or OFF: this connection's reads leave no trace in caches", "7.2.0"),
    row("client|reply", 3, OWN, reply_mode)
        .about("ON, OFF or SKIP: whether commands are answered", "3.2.0"),
    row("client|help", 2, HELP, client_help).about("This text", "5.0.0"),
];
