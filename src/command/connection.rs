//! The connection itself: PING, HELLO, AUTH, SELECT and their kin.

use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then};
use crate::protocol::resp::Reply;

fn ping(_: &mut Session, _: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    match args.len() {
        1 => reply.simple("PONG"),
        2 => args.arg(1).write_to(reply),
        _ => reply.error(&Error::Arity { command: "ping" }.to_string()),
    }
    Then::Continue
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Connection) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Connection, Keys::NONE);
    let run = Run::Connection(run);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.0.0", run }
}

pub(super) static SPECS: &[Spec] =
    &[row("ping", -1, Flags::FAST, ping).about("Answers PONG, or what it was given", "1.0.0")];
