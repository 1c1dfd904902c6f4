//! ACL: there is one user, `default`, who may do everything.

use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Facts, Session, Then, help};
use crate::protocol::resp::Reply;

const USER: &[u8] = b"default";

fn whoami(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.bulk(USER);
    Then::Continue
}

fn users(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    reply.array(1);
    reply.bulk(USER);
    Then::Continue
}

fn acl_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "ACL", SPECS)
}

const fn row(name: &'static str, flags: Flags, run: Connection) -> Spec {
    let access = if flags.has(Flags::ADMIN) { Access::Admin } else { Access::Connection };
    let (arity, group, keys, run) = (2, Group::Server, Keys::NONE, Run::Connection(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "6.0.0", run }
}

const EARLY: Flags = Flags::LOADING.and(Flags::STALE);
const OWN: Flags = EARLY.and(Flags::NOSCRIPT);

pub(super) static SPECS: &[Spec] = &[
    row("acl|whoami", OWN, whoami).about("The user of this connection", "6.0.0"),
    row("acl|users", OWN.and(Flags::ADMIN), users).about("The names of all users", "6.0.0"),
    row("acl|help", EARLY, acl_help).about("This text", "6.0.0"),
];
