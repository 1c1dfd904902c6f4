//! LATENCY: how long commands take.

use super::table::{self, Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Calls, Facts, Session, Then, help};
use crate::protocol::resp::Reply;

/// For each command how many calls were ready within so many microseconds, by powers of two.
fn histogram(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let names: Vec<&str> = args.from(2).filter_map(table::lookup_full).flat_map(names_of).collect();
    let wanted = |of: &Calls| args.len() == 2 || names.contains(&of.name);
    let mut calls = facts.calls();
    calls.retain(|of| of.latency.count > 0 && wanted(of));
    reply.map(calls.len());
    for of in &calls {
        reply.bulk(of.name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(of.latency.count as i64);
        reply.bulk(b"histogram_usec");
        let counts = of.latency.by_microseconds();
        reply.map(counts.len());
        for (us, count) in counts {
            reply.integer(us as i64);
            reply.integer(count as i64);
        }
    }
    Then::Continue
}

/// A command's, or those of its subcommands.
fn names_of(spec: &'static Spec) -> impl Iterator<Item = &'static str> {
    std::iter::once(spec).chain(spec.subcommands()).map(|spec| spec.name)
}

fn latency_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "LATENCY", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Admin, Group::Server, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.8.13", run }
}

const HELP: Flags = Flags::LOADING.and(Flags::STALE);
const ADMIN: Flags = HELP.and(Flags::NOSCRIPT).and(Flags::ADMIN);

pub(super) static SPECS: &[Spec] = &[
    row("latency|histogram", -2, ADMIN, histogram)
        .about("How many calls of commands took how long", "7.0.0"),
    row("latency|help", 2, HELP, latency_help).about("This text", "2.8.13"),
];
