//! MEMORY: what takes the memory, from the accounting that `INFO memory` shows.
//!
//! A key's figure is that of the memtable: the blocks of all its versions, large values whole, and
//! its share of the indexes. There are no nested values, so SAMPLES is read and changes nothing.
//! The allocator (mimalloc) is not asked: MALLOC-STATS says so, PURGE has nothing to do.

use super::info::human;
use super::question::{NodeWide, Question, Told};
use super::table::{Access, Connection, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Counters, Effect, Error, Facts, Input, Session, Then, help, number};
use crate::protocol::resp::Reply;

/// Memory below which DOCTOR has nothing to say, bytes.
const EMPTY_LEN_MAX: u64 = 5 << 20;

/// Bytes of the process beyond what is accounted for, below which their share says nothing.
const EXCESS_LEN_MIN: u64 = 10 << 20;

/// Bytes of a connection, on average, that are many.
const CONNECTION_LEN_MAX: u64 = 200 << 10;

fn usage<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    check_options(&input.args)?;
    match input.found {
        Some(_) => reply.integer(input.held_len as i64),
        None => reply.null(),
    }
    Ok(Effect::None)
}

fn check_options(args: &Args<'_>) -> Result<(), Error> {
    for at in (3..args.len()).step_by(2) {
        if !args.is(at, "SAMPLES") || at + 1 == args.len() {
            return Err(Error::Syntax);
        }
        if number::parse_i64(args.get(at + 1))? < 0 {
            return Err(Error::Syntax);
        }
    }
    Ok(())
}

const STATS: NodeWide = NodeWide { ask: |_| Ok(Question::Gauges), tell: stats };

/// A figure of STATS.
enum Figure {
    Count(u64),
    Ratio(f64),
}

fn stats(
    _: &mut Session,
    facts: &dyn Facts,
    _: &Args<'_>,
    _: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let figures = figures(&facts.counters());
    reply.map(figures.len());
    for (name, figure) in figures {
        reply.bulk(name.as_bytes());
        match figure {
            Figure::Count(count) => reply.integer(count as i64),
            Figure::Ratio(ratio) => reply.double(ratio),
        }
    }
    Then::Continue
}

/// Under the names of Redis, but for the resident set; what has no counterpart here is left out.
fn figures(c: &Counters) -> [(&'static str, Figure); 13] {
    use Figure::{Count, Ratio};
    let keys = c.keyspace.iter().map(|db| db.keys).sum::<u64>();
    let overhead = c.shards.connection_bytes + c.shards.wal_backlog_bytes;
    [
        ("peak.allocated", Count(c.memory_peak)),
        ("total.allocated", Count(c.memory_used)),
        ("clients.normal", Count(c.shards.connection_bytes)),
        ("aof.buffer", Count(c.shards.wal_backlog_bytes)),
        ("overhead.total", Count(overhead)),
        ("keys.count", Count(keys)),
        (
            "keys.bytes-per-key",
            Count(c.shards.memtable_bytes.checked_div(keys).unwrap_or_default()),
        ),
        ("dataset.bytes", Count(c.shards.memtable_bytes)),
        ("dataset.percentage", Ratio(100.0 * ratio(c.shards.memtable_bytes, c.memory_used))),
        ("peak.percentage", Ratio(100.0 * ratio(c.memory_used, c.memory_peak))),
        ("process.resident", Count(c.memory_rss)),
        ("fragmentation", Ratio(ratio(c.memory_rss, c.memory_used))),
        ("fragmentation.bytes", Count(c.memory_rss.saturating_sub(c.memory_used))),
    ]
}

/// 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

const DOCTOR: NodeWide = NodeWide { ask: |_| Ok(Question::Gauges), tell: doctor };

fn doctor(
    _: &mut Session,
    facts: &dyn Facts,
    _: &Args<'_>,
    _: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    reply.verbatim(&diagnosis(&facts.counters()));
    Then::Continue
}

fn diagnosis(c: &Counters) -> String {
    let (used, excess) = (c.memory_used, c.memory_rss.saturating_sub(c.memory_used));
    if used < EMPTY_LEN_MAX {
        return format!("{} are in use: too little to say more.\n", human(used));
    }
    let mut found = Vec::new();
    if used > c.memory_limit / 10 * 9 {
        let limit = human(c.memory_limit);
        found.push(format!("{} of {limit} are in use: writes are refused above it.", human(used)));
    }
    if c.memory_peak > used / 2 * 3 {
        found.push(format!("{} were in use once, {} are now.", human(c.memory_peak), human(used)));
    }
    if excess > EXCESS_LEN_MIN && excess > used / 5 * 2 {
        let rss = human(c.memory_rss);
        found.push(format!("The process holds {rss}, of which {} are accounted for.", human(used)));
    }
    let connection = c.shards.connection_bytes.checked_div(c.shards.clients).unwrap_or_default();
    if connection > CONNECTION_LEN_MAX {
        found
            .push(format!("A connection takes {} on average; see CLIENT LIST.", human(connection)));
    }
    if found.is_empty() {
        found.push("Nothing stands out.".to_owned());
    }
    found.join("\n") + "\n"
}

/// In the words of Redis with an allocator that it does not know.
fn malloc_stats(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.bulk(b"Stats not supported for the current allocator");
    Then::Continue
}

fn purge(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.simple("OK");
    Then::Continue
}

fn memory_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "MEMORY", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Run) -> Spec {
    let (access, group, keys) = (Access::Admin, Group::Server, Keys::NONE);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "4.0.0", run }
}

const WEIGHS: Flags = Flags::READONLY.and(Flags::WEIGHS);
const MALLOC_STATS: Connection = malloc_stats;
const PURGE: Connection = purge;
const HELP: Connection = memory_help;

pub(super) static SPECS: &[Spec] = &[
    Spec {
        keys: Keys::SECOND,
        access: Access::Read,
        ..row("memory|usage", -3, WEIGHS, Run::Keyed(Keyed::One(usage)))
    }
    .about("Bytes that a key takes, its share of the indexes included", "4.0.0"),
    row("memory|stats", 2, Flags::NONE, Run::Node(STATS))
        .about("What takes how much of the memory", "4.0.0"),
    row("memory|doctor", 2, Flags::NONE, Run::Node(DOCTOR))
        .about("What stands out in the figures of STATS", "4.0.0"),
    row("memory|malloc-stats", 2, Flags::NONE, Run::Connection(MALLOC_STATS))
        .about("Figures of the allocator: it has none", "4.0.0"),
    row("memory|purge", 2, Flags::NONE, Run::Connection(PURGE))
        .about("Does nothing: the allocator gives memory back by itself", "4.0.0"),
    row("memory|help", 2, Flags::LOADING.and(Flags::STALE), Run::Connection(HELP))
        .about("This text", "4.0.0"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Totals;

    #[test]
    fn the_doctor_names_what_stands_out() {
        const MIB: u64 = 1 << 20;
        let sound = Counters {
            shards: Totals { clients: 2, ..Totals::default() },
            memory_used: 100 * MIB,
            memory_peak: 110 * MIB,
            memory_rss: 120 * MIB,
            memory_limit: 1024 * MIB,
            ..Counters::default()
        };
        let limit = Counters { memory_limit: 105 * MIB, ..sound.clone() };
        let peak = Counters { memory_peak: 200 * MIB, ..sound.clone() };
        let excess = Counters { memory_rss: 160 * MIB, ..sound.clone() };
        let shards = Totals { connection_bytes: MIB, ..sound.shards };
        let connections = Counters { shards, ..sound.clone() };
        let empty = Counters { memory_used: MIB, ..sound.clone() };
        for (counters, expected) in [
            (sound, "Nothing stands out.\n"),
            (limit, "100.00M of 105.00M are in use: writes are refused above it.\n"),
            (peak, "200.00M were in use once, 100.00M are now.\n"),
            (excess, "The process holds 160.00M, of which 100.00M are accounted for.\n"),
            (connections, "A connection takes 512.00K on average; see CLIENT LIST.\n"),
            (empty, "1.00M are in use: too little to say more.\n"),
        ] {
            assert_eq!(diagnosis(&counters), expected);
        }
    }
}
