//! Commands whose keys are judged together: RENAME, MOVE, COPY, MSETNX.
//!
//! All keys are looked up, then the command decides on all of them in one step. The effects are one
//! entry of the log, so that a crash leaves all of them or none. That takes keys of one partition;
//! whoever calls has seen to it.

use smallvec::{SmallVec, smallvec};

use super::table::{Access, Flags, Group, Keys, Run, Spec};
use super::{Args, DB_COUNT, Effect, Error, Event, Found, number};
use crate::protocol::resp::Reply;

/// Effects in order, each with the number of its key among the command's keys.
pub type Effects<'a> = SmallVec<[(usize, Effect<'a>); 2]>;

/// Decides on all keys of a command and writes its reply.
pub type Judge =
    for<'a> fn(Args<'a>, &[Option<Found<'a>>], &mut Reply<'_>) -> Result<Effects<'a>, Error>;

/// A command whose keys are judged together.
#[derive(Clone, Copy)]
pub struct Together {
    /// The databases of its first key and of the others, given the session's.
    pub dbs: fn(&Args<'_>, u8) -> Result<[u8; 2], Error>,
    /// Its only key is looked up in both databases.
    pub is_in_both: bool,
    /// What it does.
    pub judge: Judge,
}

impl Together {
    /// Indices in `args` of the keys that are judged, in order; see [`Spec::key_indices`].
    pub fn key_indices(&self, spec: &Spec, args: &Args<'_>) -> SmallVec<[usize; 4]> {
        let mut indices: SmallVec<_> = spec.key_indices(args).collect();
        if self.is_in_both {
            indices.extend(spec.key_indices(args));
        }
        indices
    }

    /// Decides. An error is written as the reply.
    pub fn decide<'a>(
        &self,
        args: Args<'a>,
        found: &[Option<Found<'a>>],
        reply: &mut Reply<'_>,
    ) -> Effects<'a> {
        (self.judge)(args, found, reply).unwrap_or_else(|error| {
            reply.error(&error.to_string());
            SmallVec::new()
        })
    }
}

const NO_SUCH_KEY: Error = Error::Other("ERR no such key");

fn rename<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let source = found[0].ok_or(NO_SUCH_KEY)?;
    reply.simple("OK");
    Ok(moved(args, source))
}

fn renamenx<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let source = found[0].ok_or(NO_SUCH_KEY)?;
    if found[1].is_some() {
        reply.integer(0);
        return Ok(SmallVec::new());
    }
    reply.integer(1);
    Ok(moved(args, source))
}

/// The second key holds what the first did, deadline included; the first is gone.
fn moved<'a>(args: Args<'a>, source: Found<'a>) -> Effects<'a> {
    if args.get(1) == args.get(2) {
        return SmallVec::new();
    }
    let to = copied(source, Event::RenameTo);
    smallvec![(0, Effect::Delete(Event::RenameFrom)), (1, to)]
}

fn copied(source: Found<'_>, event: Event) -> Effect<'_> {
    let (value, expiry_ms) = (source.value.to_new_value(), source.expiry_ms);
    Effect::Put { value, expiry_ms, event }
}

fn parse_db(bytes: &[u8]) -> Result<u8, Error> {
    let db = u8::try_from(number::parse_i64(bytes)?).ok();
    db.filter(|db| *db < DB_COUNT).ok_or(Error::DbIndex)
}

const SAME_OBJECT: Error = Error::Other("ERR source and destination objects are the same");

fn move_dbs(args: &Args<'_>, db: u8) -> Result<[u8; 2], Error> {
    let to = parse_db(args.get(2))?;
    if to == db { Err(SAME_OBJECT) } else { Ok([db, to]) }
}

/// Deadline included.
fn move_to<'a>(
    _: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let source = found[0].filter(|_| found[1].is_none());
    reply.integer(i64::from(source.is_some()));
    let effects = |source| {
        smallvec![(0, Effect::Delete(Event::MoveFrom)), (1, copied(source, Event::MoveTo))]
    };
    Ok(source.map(effects).unwrap_or_default())
}

struct CopyOptions {
    db: u8,
    replace: bool,
}

fn copy_options(args: &Args<'_>, db: u8) -> Result<CopyOptions, Error> {
    let (mut options, mut at) = (CopyOptions { db, replace: false }, 3);
    while at < args.len() {
        if args.is(at, "REPLACE") {
            options.replace = true;
        } else if args.is(at, "DB") && at + 1 < args.len() {
            options.db = parse_db(args.get(at + 1))?;
            at += 1;
        } else {
            return Err(Error::Syntax);
        }
        at += 1;
    }
    Ok(options)
}

fn copy_dbs(args: &Args<'_>, db: u8) -> Result<[u8; 2], Error> {
    let options = copy_options(args, db)?;
    if options.db == db && args.get(1) == args.get(2) {
        return Err(SAME_OBJECT);
    }
    Ok([db, options.db])
}

fn copy<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    let replace = copy_options(&args, 0)?.replace;
    let source = found[0].filter(|_| replace || found[1].is_none());
    reply.integer(i64::from(source.is_some()));
    Ok(source.map(|source| (1, copied(source, Event::CopyTo))).into_iter().collect())
}

fn msetnx<'a>(
    args: Args<'a>,
    found: &[Option<Found<'a>>],
    reply: &mut Reply<'_>,
) -> Result<Effects<'a>, Error> {
    if found.iter().any(Option::is_some) {
        reply.integer(0);
        return Ok(SmallVec::new());
    }
    reply.integer(1);
    let value = |nth: usize| args.arg(2 + 2 * nth).to_new_value();
    let put = |nth: usize| Effect::Put { value: value(nth), expiry_ms: None, event: Event::Set };
    Ok((0..found.len()).map(|nth| (nth, put(nth))).collect())
}

#[expect(clippy::unnecessary_wraps, reason = "the shape that the table asks for")]
pub(super) fn same_db(_: &Args<'_>, db: u8) -> Result<[u8; 2], Error> {
    Ok([db; 2])
}

const GROW: Flags = Flags::WRITE.and(Flags::DENYOOM);

const fn row(name: &'static str, arity: i16, flags: Flags, keys: Keys, judge: Judge) -> Spec {
    let run = Run::Together(Together { dbs: same_db, is_in_both: false, judge });
    let (access, group) = (Access::Write, Group::Generic);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("rename", 3, Flags::WRITE, Keys::TWO, rename)
        .about("Gives a key another name; both within one partition", "1.0.0"),
    row("renamenx", 3, Flags::WRITE.and(Flags::FAST), Keys::TWO, renamenx)
        .about("Gives a key a name that is free; both within one partition", "1.0.0"),
    Spec {
        run: Run::Together(Together { dbs: copy_dbs, is_in_both: false, judge: copy }),
        ..row("copy", -3, GROW, Keys::TWO, copy)
    }
    .about("Copies a key; both within one partition", "6.2.0"),
    Spec {
        run: Run::Together(Together { dbs: move_dbs, is_in_both: true, judge: move_to }),
        ..row("move", 3, Flags::WRITE.and(Flags::FAST), Keys::FIRST, move_to)
    }
    .about("Moves a key to another database", "1.0.0"),
    Spec { group: Group::String, ..row("msetnx", -3, GROW, Keys::PAIRS, msetnx) }
        .about("Sets several keys of one partition if none of them exists", "1.0.1"),
];
