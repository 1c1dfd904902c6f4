//! MULTI, EXEC and their kin: names, arity and keys. What they do is the connection's
//! ([`crate::server`]), since it holds what is queued; what is queued runs as it would alone.

use super::table::{Access, Flags, Group, Keys, Run, Spec};

/// A command that begins, ends or guards a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Queue what comes next.
    Multi,
    /// Run what was queued, unless a watched key was touched.
    Exec,
    /// Forget what was queued.
    Discard,
    /// Have EXEC look whether these keys were touched.
    Watch,
    /// Forget what is watched.
    Unwatch,
}

const fn row(name: &'static str, arity: i16, flags: Flags, op: Op) -> Spec {
    let (access, group, keys) = (Access::Connection, Group::Transactions, Keys::NONE);
    let run = Run::Transaction(op);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "1.2.0", run }
}

const SLOW: Flags = Flags::LOADING.and(Flags::STALE).and(Flags::NOSCRIPT);
const FAST: Flags = SLOW.and(Flags::FAST).and(Flags::ALLOW_BUSY);

pub(super) static SPECS: &[Spec] = &[
    row("multi", 1, FAST, Op::Multi)
        .about("Begins a transaction on keys of one partition", "1.2.0"),
    row("exec", 1, SLOW, Op::Exec).about("Runs the transaction, as one entry of the log", "1.2.0"),
    row("discard", 1, FAST, Op::Discard).about("Ends the transaction and runs nothing", "2.0.0"),
    Spec { keys: Keys::ALL, ..row("watch", -2, FAST, Op::Watch) }
        .about("Has EXEC run nothing if one of these keys was touched", "2.2.0"),
    row("unwatch", 1, FAST, Op::Unwatch).about("Forgets all watched keys", "2.2.0"),
];
