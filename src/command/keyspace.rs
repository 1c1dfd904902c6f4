//! Commands in which every shard may have a part: SCAN, KEYS, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL.
//!
//! Here they are only understood: what is asked of the shards is a [`Keyspace`], and how they do
//! it is theirs ([`crate::shard`]).

use super::table::{Access, Flags, Group, Keys, Keyspace, Run, Spec};
use super::{Args, Error, number};

/// Keys of a SCAN that gives no COUNT, as in Redis.
const COUNT_DEFAULT: usize = 10;

/// What SCAN asks for. The pattern stays among the arguments, which travel with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where to go on; 0: at the beginning.
    pub cursor: u64,
    /// About how many keys.
    pub count: usize,
    /// Index among the arguments of the pattern that keys have to match; none: all do.
    pub pattern: Option<usize>,
    /// Whether keys with strings are wanted: all there are.
    pub strings: bool,
}

fn scan(args: &Args<'_>) -> Result<Keyspace, Error> {
    let cursor = parse_cursor(args.get(1))?;
    let mut scan = Scan { cursor, count: COUNT_DEFAULT, pattern: None, strings: true };
    let mut at = 2;
    while at < args.len() {
        if at + 1 == args.len() {
            return Err(Error::Syntax);
        } else if args.is(at, "COUNT") {
            let count = number::parse_i64(args.get(at + 1))?;
            scan.count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(Error::Syntax)?;
        } else if args.is(at, "MATCH") {
            scan.pattern = Some(at + 1).filter(|&at| args.get(at) != b"*");
        } else if args.is(at, "TYPE") {
            scan.strings = args.is(at + 1, "string");
        } else {
            return Err(Error::Syntax);
        }
        at += 2;
    }
    Ok(Keyspace::Scan(scan))
}

/// A cursor as C's `strtoul` reads it, but for leading blanks; nothing is 0.
fn parse_cursor(text: &[u8]) -> Result<u64, Error> {
    let invalid = Error::Other("ERR invalid cursor");
    if text.is_empty() {
        return Ok(0);
    }
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|n| n.parse().ok());
    let number: u64 = number.ok_or(invalid)?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

fn keys(_: &Args<'_>) -> Result<Keyspace, Error> {
    Ok(Keyspace::Keys)
}

fn randomkey(_: &Args<'_>) -> Result<Keyspace, Error> {
    Ok(Keyspace::Random)
}

fn dbsize(_: &Args<'_>) -> Result<Keyspace, Error> {
    Ok(Keyspace::Count)
}

fn flushdb(args: &Args<'_>) -> Result<Keyspace, Error> {
    check_flush(args).map(|()| Keyspace::FlushDb)
}

fn flushall(args: &Args<'_>) -> Result<Keyspace, Error> {
    check_flush(args).map(|()| Keyspace::FlushAll)
}

/// ASYNC and SYNC are the same here: memory is always freed bit by bit, after the reply.
fn check_flush(args: &Args<'_>) -> Result<(), Error> {
    match args.len() {
        1 => Ok(()),
        2 if args.is(1, "ASYNC") || args.is(1, "SYNC") => Ok(()),
        _ => Err(Error::Syntax),
    }
}

const fn row(
    name: &'static str,
    arity: i16,
    flags: Flags,
    run: fn(&Args<'_>) -> Result<Keyspace, Error>,
) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let (group, keys, run) = (Group::Generic, Keys::NONE, Run::Keyspace(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

const fn server(spec: Spec) -> Spec {
    Spec { group: Group::Server, ..spec }
}

const READ: Flags = Flags::READONLY;
const REMOVE: Flags = Flags::WRITE.and(Flags::FREES);

pub(super) static SPECS: &[Spec] = &[
    row("scan", -2, READ, scan)
        .about("Some keys and a cursor for the next; MATCH, COUNT, TYPE", "2.8.0"),
    row("keys", 2, READ, keys).about("All keys that match a pattern", "1.0.0"),
    row("randomkey", 1, READ, randomkey).about("A key at random", "1.0.0"),
    server(row("dbsize", 1, READ.and(Flags::FAST), dbsize))
        .about("Counts the keys of the database", "1.0.0"),
    server(row("flushdb", -1, REMOVE, flushdb)).about("Deletes all keys of the database", "1.0.0"),
    server(row("flushall", -1, REMOVE, flushall))
        .about("Deletes all keys of all databases", "1.0.0"),
];
