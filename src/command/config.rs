//! CONFIG: what the node was started with. Hardly anything can be set while it runs.

use super::connection::{refuse, settle};
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then, glob, help};
use crate::protocol::resp::Reply;

/// Values of `loglevel`, the parameter that can be set.
const LOG_LEVELS: [&str; 4] = ["debug", "verbose", "notice", "warning"];

fn get(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let mut wanted = facts.config();
    wanted.retain(|(name, _)| args.from(2).any(|p| glob::matches(p, name.as_bytes(), true)));
    reply.map(wanted.len());
    for (name, value) in wanted {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Then::Continue
}

fn set(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    if !args.len().is_multiple_of(2) {
        refuse(reply, &Error::Syntax);
        return Then::Continue;
    }
    match check_set(facts, args) {
        Ok(level) => {
            reply.simple("OK");
            Then::Configure("loglevel", level)
        }
        Err(text) => {
            reply.error(&text);
            Then::Continue
        }
    }
}

/// The level to set, if that is all that is asked for.
fn check_set(facts: &dyn Facts, args: &Args<'_>) -> Result<String, String> {
    let known = facts.config();
    let names: Vec<String> = (2..args.len())
        .step_by(2)
        .map(|at| String::from_utf8_lossy(args.get(at)).to_ascii_lowercase())
        .collect();
    let mut level = String::new();
    for (nth, name) in names.iter().enumerate() {
        let failed =
            |why| format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}");
        let is_known = |name: &str| {
            ["loglevel", "requirepass"].contains(&name) || known.iter().any(|(n, _)| *n == name)
        };
        if !is_known(name) {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        }
        if names[..nth].contains(name) {
            return Err(failed("duplicate parameter"));
        }
        if name == "requirepass" {
            return Err(failed("the password is set where the server is started"));
        }
        if name != "loglevel" {
            return Err(failed("can't set immutable config"));
        }
        level = String::from_utf8_lossy(args.get(3 + 2 * nth)).to_ascii_lowercase();
        if !LOG_LEVELS.contains(&level.as_str()) {
            let levels = LOG_LEVELS.join(", ");
            return Err(failed(&format!("argument(s) must be one of the following: {levels}")));
        }
    }
    Ok(level)
}

fn reset_stats(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    settle(reply, Ok(()));
    Then::ResetStats
}

fn config_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "CONFIG", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Admin, Group::Server, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.0.0", run }
}

const HELP: Flags = Flags::LOADING.and(Flags::STALE);
const ADMIN: Flags = HELP.and(Flags::NOSCRIPT).and(Flags::ADMIN);

pub(super) static SPECS: &[Spec] = &[
    row("config|get", -3, ADMIN, get).about("Parameters whose names match patterns", "2.0.0"),
    row("config|set", -4, ADMIN, set).about("Sets parameters: loglevel", "2.0.0"),
    row("config|resetstat", 2, ADMIN, reset_stats).about("Sets the counts of INFO to 0", "2.0.0"),
    row("config|help", 2, HELP, config_help).about("This text", "5.0.0"),
];
