//! The node: its time, its role, its facts.

use super::connection::refuse;
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then, config, info, introspect, latency, number};
use crate::protocol::resp::Reply;

fn time(_: &mut Session, facts: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let now_us = facts.now_us();
    reply.array(2);
    reply.bulk(&number::format_i64((now_us / 1_000_000) as i64));
    reply.bulk(&number::format_i64((now_us % 1_000_000) as i64));
    Then::Continue
}

fn role(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(0);
    reply.array(0);
    Then::Continue
}

/// An acknowledged write is already where it has to be, so there is nothing to wait for.
fn wait(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let timeout = Error::Other("ERR timeout is not an integer or out of range");
    let parsed = number::parse_i64(args.get(1))
        .and_then(|_| number::parse_i64(args.get(2)).map_err(|_| timeout));
    match parsed {
        Ok(0..) => reply.integer(facts.counters().replicas as i64),
        Ok(_) => reply.error("ERR timeout is negative"),
        Err(error) => refuse(reply, &error),
    }
    Then::Continue
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Server, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

const EARLY: Flags = Flags::LOADING.and(Flags::STALE);

pub(super) static SPECS: &[Spec] = &[
    Spec { run: Run::Node(info::INFO), ..row("info", -1, EARLY, time) }
        .about("Facts and figures of the node", "1.0.0"),
    row("time", 1, EARLY.and(Flags::FAST), time).about("The node's clock", "2.6.0"),
    row("role", 1, EARLY.and(Flags::FAST).and(Flags::NOSCRIPT), role)
        .about("Whether the node leads, and who follows", "2.8.12"),
    Spec { group: Group::Generic, ..row("wait", 3, Flags::NOSCRIPT, wait) }
        .about("Followers that hold this connection's writes", "3.0.0"),
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
];
