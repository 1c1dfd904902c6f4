//! FUNCTION: there are no functions, so there is nothing to list and nothing to delete. Whoever
//! clears a server before using it (test suites do) asks for both.

use super::connection::refuse;
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then, help};
use crate::protocol::resp::Reply;

fn list(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match check_list(args) {
        Ok(()) => reply.array(0),
        Err(text) => reply.error(&text),
    }
    Then::Continue
}

/// `[LIBRARYNAME pattern] [WITHCODE]`, each once.
fn check_list(args: &Args<'_>) -> Result<(), String> {
    let (mut has_code, mut has_name, mut at) = (false, false, 2);
    while at < args.len() {
        if !has_code && args.is(at, "WITHCODE") {
            has_code = true;
        } else if !has_name && args.is(at, "LIBRARYNAME") {
            has_name = true;
            at += 1;
            if at == args.len() {
                return Err("ERR library name argument was not given".to_owned());
            }
        } else {
            return Err(format!("ERR Unknown argument {}", String::from_utf8_lossy(args.get(at))));
        }
        at += 1;
    }
    Ok(())
}

fn flush(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match args.len() {
        2 => reply.simple("OK"),
        3 if args.is(2, "SYNC") || args.is(2, "ASYNC") => reply.simple("OK"),
        3 => reply.error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
        _ => refuse(reply, &Error::subcommand_arity(args, "FUNCTION")),
    }
    Then::Continue
}

fn function_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "FUNCTION", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Server, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "7.0.0", run }
}

const CLEAR: Flags = Flags::WRITE.and(Flags::NOSCRIPT);

pub(super) static SPECS: &[Spec] = &[
    row("function|list", -2, Flags::NOSCRIPT, list).about("Functions: there are none", "7.0.0"),
    row("function|flush", -2, CLEAR, flush).about("Deletes all functions", "7.0.0"),
    row("function|help", 2, Flags::LOADING.and(Flags::STALE), function_help)
        .about("This text", "7.0.0"),
];
