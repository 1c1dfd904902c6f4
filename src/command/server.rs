//! The node: its time, its role, its facts.

use super::connection::refuse;
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{
    Args, Counters, Error, Facts, Session, Then, acl, config, debug, function, info, introspect,
    latency, memory, number, slowlog,
};
use crate::ack::Ack;
use crate::protocol::resp::Reply;

fn time(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let now_us = facts.now_us();
    reply.array(2);
    reply.bulk(&number::format_i64((now_us / 1_000_000) as i64));
    reply.bulk(&number::format_i64((now_us % 1_000_000) as i64));
    Then::Continue
}

/// As INFO has it: a node that has replicas of what this one leads is its slave, and offsets are
/// counted in entries.
fn role(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let Counters { followers, log_entries, .. } = facts.counters();
    if let Some(primary) = facts.primary() {
        reply.array(5);
        reply.bulk(b"slave");
        reply.bulk(primary.host.as_bytes());
        reply.integer(i64::from(primary.port));
        let state = match (primary.is_up, primary.copying) {
            (false, _) => "connect",
            (true, 0) => "connected",
            (true, _) => "sync",
        };
        reply.bulk(state.as_bytes());
        reply.integer(log_entries as i64);
        return Then::Continue;
    }
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(log_entries as i64);
    reply.array(followers.len());
    for of in followers {
        reply.array(3);
        let offset = log_entries.saturating_sub(of.lacks);
        for text in [of.host, of.port.to_string(), offset.to_string()] {
            reply.bulk(text.as_bytes());
        }
    }
    Then::Continue
}

/// Followers that have what this connection was told, as far as is known: of what it is told early
/// nothing is.
fn replicas(session: &Session, facts: &dyn Facts) -> i64 {
    match session.answers_at() {
        Ack::Quorum => facts.counters().replicas as i64,
        Ack::Leader | Ack::Relaxed => 0,
    }
}

/// An acknowledged write is already where it has to be, so there is nothing to wait for.
fn wait(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let timeout = Error::Other("ERR timeout is not an integer or out of range");
    let parsed = number::parse_i64(args.get(1))
        .and_then(|_| number::parse_i64(args.get(2)).map_err(|_| timeout));
    match parsed {
        Ok(0..) => reply.integer(replicas(session, facts)),
        Ok(_) => reply.error("ERR timeout is negative"),
        Err(error) => refuse(reply, &error),
    }
    Then::Continue
}

/// An ack is given when the write is on this node's disk, unless it was asked to be earlier.
fn waitaof(
    session: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    let within = |at: usize, fits: fn(i64) -> bool, text: &'static str| {
        let number = number::parse_i64(args.get(at))?;
        if fits(number) { Ok(()) } else { Err(Error::Other(text)) }
    };
    let range = "ERR value is out of range, value must between 0 and 1";
    let checked = within(1, |n| (0..=1).contains(&n), range)
        .and_then(|()| within(2, |n| n >= 0, "ERR value is out of range, must be positive"))
        .and_then(|()| within(3, |n| n >= 0, "ERR timeout is negative"));
    match checked {
        Ok(()) => {
            reply.array(2);
            reply.integer(i64::from(session.ack != Ack::Relaxed));
            reply.integer(replicas(session, facts));
        }
        Err(error) => refuse(reply, &error),
    }
    Then::Continue
}

/// `BGSAVE SCHEDULE` begins at once, too: nothing is in its way.
fn bgsave(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    if args.len() > 2 || args.len() == 2 && !args.is(1, "SCHEDULE") {
        refuse(reply, &Error::Syntax);
        return Then::Continue;
    }
    match facts.begin_save() {
        Ok(()) => reply.simple("Background saving started"),
        Err(error) => reply.error(error),
    }
    Then::Continue
}

/// When the last copy that is whole was asked for; if none was since the start, the start's time.
fn lastsave(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.integer(facts.counters().saved_s as i64);
    Then::Continue
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Server, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

const EARLY: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATOR: Flags = EARLY.and(Flags::ADMIN).and(Flags::NOSCRIPT);
const STOP: Flags = OPERATOR.and(Flags::NO_MULTI).and(Flags::ALLOW_BUSY);

pub(super) static SPECS: &[Spec] = &[
    Spec { run: Run::Node(info::INFO), ..row("info", -1, EARLY, time) }
        .about("Facts and figures of the node", "1.0.0"),
    row("time", 1, EARLY.and(Flags::FAST), time).about("The node's clock", "2.6.0"),
    row("role", 1, EARLY.and(Flags::FAST).and(Flags::NOSCRIPT), role)
        .about("Whether the node leads, and who follows", "2.8.12"),
    Spec { group: Group::Generic, ..row("wait", 3, Flags::NOSCRIPT, wait) }
        .about("Followers that hold this connection's writes", "3.0.0"),
    Spec { group: Group::Generic, ..row("waitaof", 4, Flags::NOSCRIPT, waitaof) }
        .about("Whether this connection's writes are on disk, and on how many followers", "7.2.0"),
    Spec { access: Access::Admin, ..row("bgsave", -1, OPERATOR.and(Flags::NO_MULTI), bgsave) }
        .about("Copies the data directory to checkpoints/ in it", "1.0.0"),
    row("lastsave", 1, EARLY.and(Flags::FAST), lastsave)
        .about("When the last copy that is whole was asked for", "1.0.0"),
    Spec { access: Access::Admin, ..row("shutdown", -1, STOP, debug::shutdown) }
        .about("Drains the node and ends it", "1.0.0"),
    Spec { access: Access::Admin, ..row("debug", -2, OPERATOR, debug::debug) }
        .about("For test suites: ERROR, SLEEP; see enable-debug-command", "1.0.0"),
    Spec { run: Run::Container(acl::SPECS), ..row("acl", -2, Flags::NONE, time) }
        .about("Users", "6.0.0"),
    Spec { run: Run::Container(function::SPECS), ..row("function", -2, Flags::NONE, time) }
        .about("Functions: there are none", "7.0.0"),
    Spec {
        run: Run::Both(introspect::command, introspect::SPECS),
        group: Group::Connection,
        ..row("command", -1, EARLY, time)
    }
    .about("What the commands are", "2.8.13"),
    Spec {
        run: Run::Container(config::SPECS),
        access: Access::Admin,
        ..row("config", -2, Flags::NONE, time)
    }
    .about("Parameters of the node", "2.0.0"),
    Spec {
        run: Run::Container(latency::SPECS),
        access: Access::Admin,
        ..row("latency", -2, Flags::NONE, time)
    }
    .about("How long commands take", "2.8.13"),
    Spec {
        run: Run::Container(memory::SPECS),
        access: Access::Admin,
        ..row("memory", -2, Flags::NONE, time)
    }
    .about("What takes the memory", "4.0.0"),
    Spec {
        run: Run::Container(slowlog::SPECS),
        access: Access::Admin,
        ..row("slowlog", -2, Flags::NONE, time)
    }
    .about("Commands that held a core for long", "2.2.12"),
];
