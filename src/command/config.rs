//! CONFIG: what the node was started with, and what of it can be set while it runs.
//!
//! What is set is this node's alone, and forgotten when it ends: CONFIG REWRITE writes nothing, so
//! the file, the flags and the variables hold at the next start. A password is never shown. It can
//! not be taken away where the network reaches the node, as it could not be started without.

use super::connection::refuse;
use super::question::{NodeWide, Question};
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then, glob, help, latency, notify, number, slowlog};
use crate::eviction::Eviction;
use crate::protocol::resp::Reply;

/// Values of `loglevel`.
const LOG_LEVELS: [&str; 4] = ["debug", "verbose", "notice", "warning"];

/// The parameter with the password; empty: there is none.
pub const PASSWORD_PARAMETER: &str = "requirepass";
/// The parameter with the seconds after which an idle connection is closed; 0: none is.
pub const TIMEOUT_PARAMETER: &str = "timeout";
/// The parameter that says which keys leave when memory is full.
pub const EVICTION_PARAMETER: &str = "maxmemory-policy";
/// Longest password, bytes; as Redis.
const PASSWORD_LEN_MAX: usize = 512;

/// Checks a value; in the form in which it is shown, or what is wrong with it.
type Check = fn(&[u8]) -> Result<String, String>;

/// The parameters that can be set.
const SETTABLE: [(&str, Check); 8] = [
    (PASSWORD_PARAMETER, check_password),
    (TIMEOUT_PARAMETER, |value| check_number(value, 0, i64::from(i32::MAX))),
    (EVICTION_PARAMETER, check_eviction),
    ("loglevel", check_log_level),
    ("notify-keyspace-events", notify::check),
    (slowlog::THRESHOLD_PARAMETER, |value| check_number(value, -1, i64::MAX)),
    (latency::THRESHOLD_PARAMETER, |value| check_number(value, 0, i64::MAX)),
    (slowlog::LEN_PARAMETER, |value| check_number(value, 0, slowlog::LEN_MAX)),
];

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
        Ok(settings) => {
            reply.simple("OK");
            Then::Configure(settings)
        }
        Err(text) => {
            reply.error(&text);
            Then::Continue
        }
    }
}

/// What to set, if all of it can be.
fn check_set(facts: &dyn Facts, args: &Args<'_>) -> Result<Vec<(&'static str, String)>, String> {
    let known = facts.config();
    let names: Vec<String> = (2..args.len())
        .step_by(2)
        .map(|at| String::from_utf8_lossy(args.get(at)).to_ascii_lowercase())
        .collect();
    let mut settings = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        let failed = |why: &str| {
            format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
        };
        let settable = SETTABLE.iter().find(|(settable, _)| settable == name);
        if settable.is_none() && !known.iter().any(|(known, _)| known == name) {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        }
        if names[..nth].contains(name) {
            return Err(failed("duplicate parameter"));
        }
        let Some((name, check)) = settable else {
            return Err(failed("can't set immutable config"));
        };
        let value = check(args.get(3 + 2 * nth)).map_err(|why| failed(&why))?;
        if *name == PASSWORD_PARAMETER && value.is_empty() && !facts.identity().may_be_open {
            return Err(failed(
                "the network reaches this node: set another password, or start it with insecure \
                 if it is to have none",
            ));
        }
        if *name == EVICTION_PARAMETER
            && value != Eviction::None.name()
            && !facts.identity().may_evict
        {
            return Err(failed(
                "with engine lsm rows leave memory for the disk and none is lost: start the node \
                 with engine memory if keys are to be evicted",
            ));
        }
        settings.push((*name, value));
    }
    Ok(settings)
}

fn check_password(value: &[u8]) -> Result<String, String> {
    let text = String::from_utf8(value.to_vec()).map_err(|_| "a password is UTF-8".to_owned())?;
    if text.len() >= PASSWORD_LEN_MAX {
        return Err(format!("a password is shorter than {PASSWORD_LEN_MAX} bytes"));
    }
    Ok(text)
}

fn check_eviction(value: &[u8]) -> Result<String, String> {
    let known = || Eviction::ALL.map(Eviction::name).join(", ");
    let named = Eviction::named(value).map(|eviction| eviction.name().to_owned());
    named.ok_or_else(|| format!("argument(s) must be one of the following: {}", known()))
}

fn check_log_level(value: &[u8]) -> Result<String, String> {
    let level = String::from_utf8_lossy(value).to_ascii_lowercase();
    if LOG_LEVELS.contains(&level.as_str()) {
        return Ok(level);
    }
    Err(format!("argument(s) must be one of the following: {}", LOG_LEVELS.join(", ")))
}

fn check_number(value: &[u8], least: i64, most: i64) -> Result<String, String> {
    let number = number::parse_i64(value)
        .map_err(|_| "argument couldn't be parsed into an integer".to_owned())?;
    if (least..=most).contains(&number) {
        return Ok(number.to_string());
    }
    Err(format!("argument must be between {least} and {most} inclusive"))
}

const RESET_STATS: NodeWide =
    NodeWide { ask: |_| Ok(Question::ResetStats), tell: super::client::tell_ok };

/// A file that people wrote stays theirs.
fn rewrite(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.error(
        "ERR Rewriting config file: not supported, what CONFIG SET sets holds until the node ends",
    );
    Then::Continue
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
    row("config|set", -4, ADMIN, set).about(
        "Sets parameters until the node ends: requirepass, timeout, loglevel, \
             notify-keyspace-events, latency-monitor-threshold, slowlog-log-slower-than, \
             slowlog-max-len",
        "2.0.0",
    ),
    Spec { run: Run::Node(RESET_STATS), ..row("config|resetstat", 2, ADMIN, get) }
        .about("Sets the counts of INFO to 0", "2.0.0"),
    row("config|rewrite", 2, ADMIN, rewrite)
        .about("Always refused: the file is never written to", "2.8.0"),
    row("config|help", 2, HELP, config_help).about("This text", "5.0.0"),
];
