//! COMMAND: the command table, as clients and redis-cli read it.

use super::connection::refuse;
use super::table::{self, Access, Connection, Flags, Group, Keys, Run, Spec};
use super::uses::{self, Use};
use super::{Args, Error, Facts, Session, Then, glob, help, syntax};
use crate::protocol::resp::Reply;

/// Bare `COMMAND`, and the way to the subcommands: the one command that works both ways.
pub(super) fn command(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.array(table::all().count());
    table::all().for_each(|spec| write_info(spec, reply));
    Then::Continue
}

fn count(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.integer(table::all().count() as i64);
    Then::Continue
}

fn info(session: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    if args.len() == 2 {
        return command(session, facts, args, reply);
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match table::lookup_full(name) {
            Some(spec) => write_info(spec, reply),
            None => reply.null(),
        }
    }
    Then::Continue
}

fn docs(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let named = || args.from(2).filter_map(table::lookup_full);
    if args.len() == 2 {
        write_docs(table::all(), reply);
    } else {
        write_docs(named(), reply);
    }
    Then::Continue
}

fn list(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let every = || table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands()));
    let names: Vec<&str> = match args.len() {
        2 => every().map(|spec| spec.name).collect(),
        5 if args.is(2, "FILTERBY") && args.is(3, "MODULE") => Vec::new(),
        5 if args.is(2, "FILTERBY") && args.is(3, "PATTERN") => every()
            .map(|spec| spec.name)
            .filter(|name| glob::matches(args.get(4), name.as_bytes(), true))
            .collect(),
        5 if args.is(2, "FILTERBY") && args.is(3, "ACLCAT") => every()
            .filter(|spec| categories(spec).any(|c| args.is(4, &c[1..])))
            .map(|spec| spec.name)
            .collect(),
        _ => {
            refuse(reply, &Error::Syntax);
            return Then::Continue;
        }
    };
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Then::Continue
}

fn getkeys(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let inner = args.tail(2.min(args.len()));
    if inner.is_empty() {
        refuse(reply, &Error::Arity { command: "command|getkeys" });
        return Then::Continue;
    }
    match uses::keys_of(&inner) {
        Ok(keys) => {
            reply.array(keys.len());
            keys.iter().for_each(|(at, _)| reply.bulk(inner.get(*at)));
        }
        Err(text) => reply.error(text),
    }
    Then::Continue
}

fn getkeysandflags(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let inner = args.tail(2);
    match uses::keys_of(&inner) {
        Ok(keys) => {
            reply.array(keys.len());
            for (at, flags) in keys {
                reply.array(2);
                reply.bulk(inner.get(at));
                write_use(flags, reply);
            }
        }
        Err(text) => reply.error(text),
    }
    Then::Continue
}

fn write_use(flags: Use, reply: &mut Reply<'_>) {
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
}

fn command_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "COMMAND", SPECS)
}

/// The ten fields of Redis 7.
fn write_info(spec: &Spec, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    reply.set(spec.flags.names().count());
    spec.flags.names().for_each(|name| reply.simple(name));
    reply.integer(i64::from(spec.keys.first));
    reply.integer(i64::from(spec.keys.last));
    reply.integer(i64::from(spec.keys.step));
    reply.set(categories(spec).count());
    categories(spec).for_each(|name| reply.simple(name));
    reply.set(tips(spec).len());
    tips(spec).iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    write_key_specs(spec, reply);
    reply.set(spec.subcommands().len());
    spec.subcommands().iter().for_each(|sub| write_info(sub, reply));
}

/// How a cluster's clients send a command to many nodes and make one reply of theirs, in Redis's
/// words. Without these redis-py asks one node for `DBSIZE`.
fn tips(spec: &Spec) -> &'static [&'static str] {
    const RANDOM: &str = "nondeterministic_output";
    const ANY_ORDER: &str = "nondeterministic_output_order";
    const EVERY_SHARD: &str = "request_policy:all_shards";
    const MANY_SHARDS: &str = "request_policy:multi_shard";
    const SUM: &str = "response_policy:agg_sum";
    const LEAST: &str = "response_policy:agg_min";
    const ALL_OK: &str = "response_policy:all_succeeded";
    match spec.name {
        "dbsize" => &[EVERY_SHARD, SUM],
        "flushall" | "flushdb" | "ping" => &[EVERY_SHARD, ALL_OK],
        "del" | "unlink" | "exists" | "touch" => &[MANY_SHARDS, SUM],
        "mget" => &[MANY_SHARDS],
        "msetnx" => &[MANY_SHARDS, LEAST],
        "mset" => &[MANY_SHARDS, ALL_OK],
        "wait" | "waitaof" => &[EVERY_SHARD, LEAST],
        "scan" => &[RANDOM, "request_policy:special"],
        "keys" => &[EVERY_SHARD, ANY_ORDER],
        "randomkey" => &[EVERY_SHARD, RANDOM],
        "info" => &[RANDOM, EVERY_SHARD, "response_policy:special"],
        "config|set" => &["request_policy:all_nodes", ALL_OK],
        "command" | "command|info" | "command|docs" | "command|list" => &[ANY_ORDER],
        "ttl"
        | "pttl"
        | "dump"
        | "time"
        | "client|info"
        | "client|list"
        | "latency|latest"
        | "latency|history"
        | "latency|doctor"
        | "memory|stats"
        | "memory|doctor"
        | "memory|malloc-stats"
        | "slowlog|get"
        | "slowlog|len"
        | "object|encoding"
        | "object|freq"
        | "object|idletime"
        | "object|refcount"
        | "cluster|slots"
        | "cluster|shards"
        | "cluster|nodes"
        | "cluster|count-failure-reports" => &[RANDOM],
        _ => &[],
    }
}

/// Categories of Redis's access control lists, in its order.
fn categories(spec: &Spec) -> impl Iterator<Item = &'static str> + Clone {
    let keyed = matches!(spec.run, Run::Keyed(_) | Run::Together(_) | Run::Keyspace(_));
    let has = |flag| spec.flags.has(flag);
    let named = |names: &[&str]| names.contains(&spec.name);
    let is_of_connection = spec.group == Group::Connection && spec.subcommands().is_empty();
    [
        (
            "@keyspace",
            (keyed
                && ![Group::String, Group::Bitmap, Group::Cluster].contains(&spec.group)
                && !named(&["memory|usage"]))
                || named(&["object|help"]),
        ),
        ("@read", has(Flags::READONLY)),
        ("@write", has(Flags::WRITE)),
        ("@string", spec.group == Group::String),
        ("@bitmap", spec.group == Group::Bitmap),
        ("@pubsub", spec.group == Group::PubSub && spec.subcommands().is_empty()),
        ("@admin", has(Flags::ADMIN) || named(&["role"])),
        ("@fast", has(Flags::FAST)),
        ("@slow", !has(Flags::FAST)),
        (
            "@dangerous",
            has(Flags::ADMIN) || named(&["info", "flushall", "flushdb", "keys", "role", "restore"]),
        ),
        (
            "@connection",
            is_of_connection
                || named(&["wait", "waitaof", "command", "readonly", "readwrite", "asking"]),
        ),
        ("@transaction", spec.group == Group::Transactions),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
}

fn write_key_specs(spec: &Spec, reply: &mut Reply<'_>) {
    let Keys { first, last, step } = spec.keys;
    if first == 0 {
        return reply.set(0);
    }
    let uses = uses::uses(spec);
    reply.set(uses.len());
    for (nth, flags) in uses.iter().enumerate() {
        let first = i64::from(first) + nth as i64;
        // Counted from the first key here, from the start of the command in the older fields.
        let last = match last {
            _ if nth + 1 < uses.len() => 0,
            last @ ..0 => i64::from(last),
            last => i64::from(last) - first,
        };
        reply.map(3);
        reply.bulk(b"flags");
        write_use(flags, reply);
        reply.bulk(b"begin_search");
        write_rule(reply, "index", &[("index", first)]);
        reply.bulk(b"find_keys");
        let step = i64::from(step);
        write_rule(reply, "range", &[("lastkey", last), ("keystep", step), ("limit", 0)]);
    }
}

fn write_rule(reply: &mut Reply<'_>, kind: &str, fields: &[(&str, i64)]) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(*value);
    }
}

fn write_docs<'a>(specs: impl Iterator<Item = &'a Spec> + Clone, reply: &mut Reply<'_>) {
    reply.map(specs.clone().count());
    for spec in specs {
        let subcommands = spec.subcommands();
        reply.bulk(spec.name.as_bytes());
        let arguments = syntax::syntax(spec.name);
        let more = [arguments.is_empty(), subcommands.is_empty()];
        reply.map(3 + more.iter().filter(|absent| !**absent).count());
        for (name, value) in
            [("summary", spec.summary), ("since", spec.since), ("group", spec.group.name())]
        {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        if !arguments.is_empty() {
            reply.bulk(b"arguments");
            syntax::write(arguments, reply);
        }
        if !subcommands.is_empty() {
            reply.bulk(b"subcommands");
            write_docs(subcommands.iter(), reply);
        }
    }
}

const fn row(name: &'static str, arity: i16, run: Connection) -> Spec {
    let flags = Flags::LOADING.and(Flags::STALE);
    let (access, group, keys) = (Access::Connection, Group::Connection, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.8.13", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("command|count", 2, count).about("Counts the commands", "2.8.13"),
    row("command|info", -2, info).about("Arity, flags and keys of commands", "2.8.13"),
    row("command|docs", -2, docs).about("What commands are for", "7.0.0"),
    row("command|list", -2, list)
        .about("Names, all or FILTERBY MODULE, ACLCAT or PATTERN", "7.0.0"),
    row("command|getkeys", -4, getkeys).about("The keys of a whole command", "2.8.13"),
    row("command|getkeysandflags", -4, getkeysandflags)
        .about("The keys of a whole command, each with what is done to it", "7.0.0"),
    row("command|help", 2, command_help).about("This text", "5.0.0"),
];
