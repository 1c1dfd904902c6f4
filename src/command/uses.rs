//! What commands do with their keys, in the words of `COMMAND INFO` and `GETKEYSANDFLAGS`: clients
//! and proxies read them to learn which commands may go to a replica.

use super::table::{Flags, Spec};
use super::{Args, Error, bitfield};

/// What is done with a key: how it is accessed, then what for.
pub(super) type Use = &'static [&'static str];

const LOOK: Use = &["RO"];
const READ: Use = &["RO", "access"];
const CHANGE: Use = &["RW", "access", "update"];
const TAKE: Use = &["RW", "access", "delete"];
const UPDATE: Use = &["RW", "update"];
const EXTEND: Use = &["RW", "insert"];
const SET: Use = &["OW", "update"];
const CREATE: Use = &["OW", "insert"];
const REMOVE: Use = &["RM", "delete"];
const CHANNEL: Use = &["not_key"];

/// The uses of a command's keys: one for each, the last for all that come after it.
pub(super) fn uses(spec: &Spec) -> &'static [Use] {
    match spec.name {
        "set" | "bitfield" => &[&["RW", "access", "update", "variable_flags"]],
        "bitop" => &[SET, READ],
        "rename" => &[TAKE, SET],
        "renamenx" => &[TAKE, CREATE],
        "copy" => &[READ, SET],
        "del" | "unlink" => &[REMOVE],
        "getdel" | "delifeq" => &[TAKE],
        "setnx" | "msetnx" => &[CREATE],
        "setex" | "psetex" | "mset" | "restore" => &[SET],
        "append" => &[EXTEND],
        "setrange" | "persist" | "expire" | "pexpire" | "expireat" | "pexpireat" => &[UPDATE],
        "ssubscribe" | "sunsubscribe" | "spublish" => &[CHANNEL],
        "strlen" | "exists" | "touch" | "type" | "watch" => &[LOOK],
        name if name.starts_with("object|") || name.starts_with("memory|") => &[LOOK],
        _ if spec.flags.has(Flags::WRITE) => &[CHANGE],
        _ => &[READ],
    }
}

const UNKNOWN: &str = "ERR Invalid command specified";

/// The keys of a whole command by their places, each with its use.
///
/// # Errors
/// No such command, the wrong number of arguments, or no keys; in the words of Redis.
pub(super) fn keys_of(args: &Args<'_>) -> Result<Vec<(usize, Use)>, &'static str> {
    let resolved = super::resolve(args);
    let spec = match &resolved {
        Ok(spec) => spec,
        Err(Error::Arity { command }) => super::lookup_full(command.as_bytes()).ok_or(UNKNOWN)?,
        Err(_) => return Err(UNKNOWN),
    };
    if spec.keys.first == 0 {
        return Err("ERR The command has no key arguments");
    }
    if resolved.is_err() {
        return Err("ERR Invalid number of arguments specified for command");
    }
    let uses = match spec.name {
        "set" if (3..args.len()).any(|at| args.is(at, "GET")) => &[CHANGE],
        "set" => &[SET],
        "bitfield" if bitfield::only_reads(args) => &[READ],
        "bitfield" => &[CHANGE],
        _ => uses(spec),
    };
    let of = |nth: usize| uses[nth.min(uses.len() - 1)];
    Ok(spec.key_indices(args).enumerate().map(|(nth, at)| (at, of(nth))).collect())
}
