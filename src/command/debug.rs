//! DEBUG, for test suites; SHUTDOWN, for operators.

use super::{Args, Error, Facts, Session, Then, number};
use crate::protocol::resp::Reply;

/// Longest `DEBUG SLEEP`, milliseconds: an hour.
const SLEEP_MAX_MS: u64 = 3_600_000;

/// The answer where DEBUG is not enabled.
pub const REFUSED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is \
                           set to \"local\", you can run it from a local connection, otherwise you \
                           need to set this option in the configuration file, and then restart the \
                           server.";

/// `DEBUG SLEEP` holds this connection alone: a core that sleeps would hold strangers. So it can
/// not be one command of several, unlike the others.
/// `DEBUG ERROR` shows a client an error that is hard to come by.
pub(super) fn debug(
    _: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    if !facts.identity().debug_enabled {
        reply.error(REFUSED);
    } else if args.is(1, "SLEEP") && args.len() == 3 {
        match number::parse_seconds(args.get(2)) {
            Ok(ms) => return Then::Sleep(ms.min(SLEEP_MAX_MS)),
            Err(error) => reply.error(&error.to_string()),
        }
    } else if args.is(1, "ERROR") && args.len() == 3 {
        reply.error(&String::from_utf8_lossy(args.get(2)));
    } else if args.is(1, "HELP") && args.len() == 2 {
        reply.array(5);
        reply.simple("DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
        reply.simple("ERROR <string>");
        reply.simple("    Answers with an error of this text.");
        reply.simple("SLEEP <seconds>");
        reply.simple("    Answers this connection after so long; others are served meanwhile.");
    } else {
        let name = String::from_utf8_lossy(args.get(1));
        reply.error(&format!(
            "ERR unknown subcommand or wrong number of arguments for '{name}'. Try DEBUG HELP."
        ));
    }
    Then::Continue
}

/// What was acknowledged is on disk, so SAVE and NOSAVE are the same, and there is nothing that
/// NOW and FORCE would have to skip.
pub(super) fn shutdown(
    _: &mut Session,
    _: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    let given = |word: &str| (1..args.len()).any(|at| args.is(at, word));
    let known = |at: usize| {
        ["SAVE", "NOSAVE", "NOW", "FORCE", "ABORT"].into_iter().any(|word| args.is(at, word))
    };
    let excluded = (given("SAVE") && given("NOSAVE")) || (given("ABORT") && args.len() > 2);
    if !(1..args.len()).all(known) || excluded {
        reply.error(&Error::Syntax.to_string());
    } else if given("ABORT") {
        reply.error("ERR No shutdown in progress.");
    } else {
        return Then::Stop;
    }
    Then::Continue
}
