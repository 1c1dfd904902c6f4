//! Keys of any type: DEL, EXISTS, TYPE and their kin.

use super::table::{Access, Flags, Group, Keyed, Keys, Run, Spec};
use super::{Args, Effect, Error, Event, Facts, Input, Session, Then, help};
use crate::protocol::resp::Reply;

fn del<'a>(input: &Input<'a>) -> (Effect<'a>, u64) {
    if input.found.is_some() { (Effect::Delete(Event::Delete), 1) } else { (Effect::None, 0) }
}

fn exists<'a>(input: &Input<'a>) -> (Effect<'a>, u64) {
    (Effect::None, u64::from(input.found.is_some()))
}

fn type_of<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    reply.simple(if input.found.is_some() { "string" } else { "none" });
    Ok(Effect::None)
}

/// Redis names the encoding of its memory; ours tells the same facts of the value.
fn object_encoding<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    const EMBSTR_LEN_MAX: usize = 44;
    match input.found.map(|found| found.value.as_slice()) {
        None => reply.null(),
        Some(value) if super::number::parse_i64(value).is_ok() => reply.bulk(b"int"),
        Some(value) if value.len() <= EMBSTR_LEN_MAX => reply.bulk(b"embstr"),
        Some(_) => reply.bulk(b"raw"),
    }
    Ok(Effect::None)
}

/// Values are not shared between keys.
fn object_refcount<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    match input.found {
        Some(_) => reply.integer(1),
        None => reply.null(),
    }
    Ok(Effect::None)
}

/// Nothing is evicted, so nobody counts how often a key is read.
fn object_freq<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    let untracked = Error::Other(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
         that when switching between policies at runtime LRU and LFU data will take some time to \
         adjust.",
    );
    input.found.is_none().then(|| reply.null()).ok_or(untracked).map(|()| Effect::None)
}

/// As [`object_freq`]: nor when it was read. Redis refuses so where it keeps no such time.
fn object_idletime<'a>(input: &Input<'a>, reply: &mut Reply<'_>) -> Result<Effect<'a>, Error> {
    let untracked = Error::Other(
        "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when \
         switching between policies at runtime LRU and LFU data will take some time to adjust.",
    );
    input.found.is_none().then(|| reply.null()).ok_or(untracked).map(|()| Effect::None)
}

const READ: Flags = Flags::READONLY;
const REMOVE: Flags = Flags::WRITE.and(Flags::FREES);
const FAST: Flags = Flags::FAST;

const fn row(name: &'static str, arity: i16, flags: Flags, keys: Keys, run: Keyed) -> Spec {
    let access = if flags.has(Flags::WRITE) { Access::Write } else { Access::Read };
    let (group, run) = (Group::Generic, Run::Keyed(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

pub(super) static SPECS: &[Spec] = &[
    row("del", -2, REMOVE, Keys::ALL, Keyed::Sum(del))
        .about("Deletes keys and counts those that existed", "1.0.0"),
    row("unlink", -2, REMOVE.and(FAST), Keys::ALL, Keyed::Sum(del))
        .about("Deletes keys, as DEL", "4.0.0"),
    row("exists", -2, READ.and(FAST), Keys::ALL, Keyed::Sum(exists))
        .about("Counts the keys that exist", "1.0.0"),
    row("touch", -2, READ.and(FAST), Keys::ALL, Keyed::Sum(exists))
        .about("Counts the keys that exist, and notes them as used", "3.2.1"),
    row("type", 2, READ.and(FAST), Keys::FIRST, Keyed::One(type_of))
        .about("The type of a key's value", "1.0.0"),
    Spec {
        run: Run::Container(OBJECT),
        ..row("object", -2, Flags::NONE, Keys::NONE, Keyed::Sum(exists))
    }
    .about("How a value is held", "2.2.3"),
];

static OBJECT: &[Spec] = &[
    row("object|encoding", 3, READ, Keys::SECOND, Keyed::One(object_encoding))
        .about("How a value is held", "2.2.3"),
    row("object|freq", 3, READ, Keys::SECOND, Keyed::One(object_freq))
        .about("How often a key is read: not tracked", "4.0.0"),
    row("object|idletime", 3, READ, Keys::SECOND, Keyed::One(object_idletime))
        .about("How long ago a key was used: not tracked", "2.2.3"),
    row("object|refcount", 3, READ, Keys::SECOND, Keyed::One(object_refcount))
        .about("How many hold the value: always 1", "2.2.3"),
    Spec {
        run: Run::Connection(object_help),
        access: Access::Connection,
        ..row("object|help", 2, Flags::LOADING.and(Flags::STALE), Keys::NONE, Keyed::Sum(exists))
    }
    .about("This text", "6.2.0"),
];

fn object_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "OBJECT", OBJECT)
}
