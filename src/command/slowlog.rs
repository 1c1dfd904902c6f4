//! SLOWLOG: the latest commands that held a core for long.
//!
//! Each shard keeps its own (`server/slowlog.rs`); a question gathers them, and the ids, which rise
//! across the node, put them in order. An entry is cut as Redis cuts it: at most [`ARGS_MAX`]
//! arguments of [`ARG_LEN_MAX`] bytes.

use super::question::{NodeWide, Question, Slowlog, Told};
use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Error, Facts, Session, Then, help, number, redact};
use crate::protocol::resp::Reply;

/// Arguments of an entry; the last one tells of those that are left out.
pub const ARGS_MAX: usize = 32;

/// Bytes of an argument of an entry.
pub const ARG_LEN_MAX: usize = 128;

/// The parameter that says how many entries there are.
pub const LEN_PARAMETER: &str = "slowlog-max-len";

/// The parameter that says from where on a command is slow.
pub const THRESHOLD_PARAMETER: &str = "slowlog-log-slower-than";

/// The most that `slowlog-max-len` may be: a shard's entries are also bounded in bytes.
pub const LEN_MAX: i64 = 65_536;

/// Entries that `SLOWLOG GET` tells of by itself.
const GET_DEFAULT: usize = 10;

/// A command that was slow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Rises across the node.
    pub id: u64,
    /// When it was run, unix seconds.
    pub unix_s: u64,
    /// How long it held its core, microseconds.
    pub us: u64,
    /// Cut, and without secrets.
    pub args: Vec<Vec<u8>>,
    /// Where it came from, `host:port`.
    pub peer: String,
    /// What the connection is called.
    pub name: String,
}

impl Entry {
    /// About the bytes it takes.
    pub fn held_len(&self) -> usize {
        let args = self.args.iter().map(|arg| arg.capacity() + size_of::<Vec<u8>>());
        size_of::<Self>() + args.sum::<usize>() + self.peer.capacity() + self.name.capacity()
    }

    /// Appends it in the form in which it travels.
    pub fn write_to(&self, body: &mut Vec<u8>) {
        for number in [self.id, self.unix_s, self.us, self.args.len() as u64] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        let texts = [self.peer.as_bytes(), self.name.as_bytes()];
        for bytes in self.args.iter().map(Vec::as_slice).chain(texts) {
            body.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            body.extend_from_slice(bytes);
        }
    }

    /// Takes the first off; none at the end.
    fn take(body: &mut &[u8]) -> Option<Self> {
        let [id, unix_s, us, count] =
            [take_u64(body)?, take_u64(body)?, take_u64(body)?, take_u64(body)?];
        let args = (0..count).map(|_| take_bytes(body)).collect::<Option<Vec<_>>>()?;
        let mut text =
            || take_bytes(body).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Some(Self { id, unix_s, us, args, peer: text()?, name: text()? })
    }

    fn write_reply(&self, reply: &mut Reply<'_>) {
        reply.array(6);
        reply.integer(self.id as i64);
        reply.integer(self.unix_s as i64);
        reply.integer(self.us as i64);
        reply.array(self.args.len());
        self.args.iter().for_each(|arg| reply.bulk(arg));
        reply.bulk(self.peer.as_bytes());
        reply.bulk(self.name.as_bytes());
    }
}

pub(super) fn take_u64(body: &mut &[u8]) -> Option<u64> {
    let (number, rest) = body.split_first_chunk::<8>()?;
    *body = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_bytes(body: &mut &[u8]) -> Option<Vec<u8>> {
    let len = take_u64(body)? as usize;
    let (bytes, rest) = body.split_at_checked(len)?;
    *body = rest;
    Some(bytes.to_vec())
}

/// The arguments of an entry.
pub fn shorten(spec: &Spec, args: &Args<'_>) -> Vec<Vec<u8>> {
    let kept = if args.len() > ARGS_MAX { ARGS_MAX - 1 } else { args.len() };
    let mut short: Vec<Vec<u8>> = (0..kept).map(|at| cut(redact::shown(spec, args, at))).collect();
    if kept < args.len() {
        short.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
    }
    short
}

fn cut(arg: &[u8]) -> Vec<u8> {
    if arg.len() <= ARG_LEN_MAX {
        return arg.to_vec();
    }
    let more = format!("... ({} more bytes)", arg.len() - ARG_LEN_MAX);
    [&arg[..ARG_LEN_MAX], more.as_bytes()].concat()
}

/// How many entries are asked for.
fn parse_get(args: &Args<'_>) -> Result<usize, Error> {
    match args.len() {
        2 => Ok(GET_DEFAULT),
        3 => match number::parse_i64(args.get(2)) {
            Ok(-1) => Ok(usize::MAX),
            Ok(count @ 0..) => Ok(count as usize),
            _ => Err(Error::Other("ERR count should be greater than or equal to -1")),
        },
        _ => Err(Error::subcommand_arity(args, "SLOWLOG")),
    }
}

/// How many there are at most, on the whole node.
fn len_max(facts: &dyn Facts) -> usize {
    let config = facts.config();
    let shown = config.iter().find(|(name, _)| *name == LEN_PARAMETER);
    shown.and_then(|(_, len)| len.parse().ok()).unwrap_or(usize::MAX)
}

const GET: NodeWide = NodeWide {
    ask: |args| parse_get(args).map(|count| Question::Slow(Slowlog::Get(count))),
    tell: tell_get,
};

fn tell_get(
    _: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let mut body = told.body.as_slice();
    let mut entries: Vec<Entry> = std::iter::from_fn(|| Entry::take(&mut body)).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
    entries.truncate(parse_get(args).unwrap_or(0).min(len_max(facts)));
    reply.array(entries.len());
    entries.iter().for_each(|entry| entry.write_reply(reply));
    Then::Continue
}

const LEN: NodeWide = NodeWide { ask: |_| Ok(Question::Slow(Slowlog::Len)), tell: tell_len };

fn tell_len(
    _: &mut Session,
    facts: &dyn Facts,
    _: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    reply.integer(told.count.min(i64::try_from(len_max(facts)).unwrap_or(i64::MAX)));
    Then::Continue
}

const RESET: NodeWide =
    NodeWide { ask: |_| Ok(Question::Slow(Slowlog::Reset)), tell: super::client::tell_ok };

fn slowlog_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "SLOWLOG", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Run) -> Spec {
    let (access, group, keys) = (Access::Admin, Group::Server, Keys::NONE);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.2.12", run }
}

const HELP: Flags = Flags::LOADING.and(Flags::STALE);
const ADMIN: Flags = HELP.and(Flags::ADMIN);
const TEXT: Connection = slowlog_help;

pub(super) static SPECS: &[Spec] = &[
    row("slowlog|get", -2, ADMIN, Run::Node(GET))
        .about("The latest slow commands, ten or so many; -1: all", "2.2.12"),
    row("slowlog|len", 2, ADMIN, Run::Node(LEN)).about("How many there are", "2.2.12"),
    row("slowlog|reset", 2, ADMIN, Run::Node(RESET)).about("Forgets them", "2.2.12"),
    row("slowlog|help", 2, HELP, Run::Connection(TEXT)).about("This text", "6.2.0"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::protocol::resp::ArgsBuf;

    #[test]
    fn an_entry_is_cut_as_in_redis() {
        let spec = lookup(b"mget").expect("a command");
        let exact = ArgsBuf::from_iter((0..32).map(|n| n.to_string()));
        assert_eq!(shorten(spec, &exact.args()).len(), 32);
        assert_eq!(shorten(spec, &exact.args())[31], b"31");

        let long = ArgsBuf::from_iter((0..40).map(|_| "x".repeat(200)));
        let short = shorten(spec, &long.args());

        assert_eq!(short.len(), 32);
        assert_eq!(short[31], b"... (9 more arguments)");
        let more = format!("{}... (72 more bytes)", "x".repeat(128));
        assert_eq!(short[30], more.as_bytes());
    }

    #[test]
    fn entries_travel_whole_and_a_torn_one_ends_the_list() {
        let entry = |id| Entry {
            id,
            unix_s: 5,
            us: 7,
            args: vec![b"get".to_vec(), Vec::new()],
            peer: "1.2.3.4:5".to_owned(),
            name: "me".to_owned(),
        };
        let mut body = Vec::new();
        [entry(1), entry(2)].iter().for_each(|entry| entry.write_to(&mut body));

        let (mut whole, mut torn) = (body.as_slice(), &body[..body.len() - 1]);
        assert_eq!(Entry::take(&mut whole), Some(entry(1)));
        assert_eq!(Entry::take(&mut whole), Some(entry(2)));
        assert_eq!(Entry::take(&mut whole), None);
        assert_eq!(Entry::take(&mut torn), Some(entry(1)));
        assert_eq!(Entry::take(&mut torn), None);
    }
}
