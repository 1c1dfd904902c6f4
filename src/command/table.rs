//! The command table: what is known of each command, and how to find it.
//!
//! Each family's file ends with its rows. A name is looked up in a table of open addressing, built
//! at compile time and keyed by the name's letters packed into a `u128`: one multiplication, one
//! cache line, no string comparison.

use std::fmt;

use super::{
    Args, Effect, Error, Facts, Input, Scan, Session, Then, bitfield, bits, cluster, connection,
    counter, dump, expire, key, keyspace, lcs, monitor, pubsub, question, server, string, together,
    transaction,
};
use crate::id::Slot;
use crate::limits::KEY_LEN_MAX;
use crate::metrics::COMMANDS_MAX;
use crate::protocol::resp::Reply;

/// What a command touches, and so who may run it and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads keys.
    Read,
    /// Changes keys.
    Write,
    /// Works on the connection, or tells what everybody may know.
    Connection,
    /// Works on the node.
    Admin,
}

/// Family of a command, as Redis groups them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Values.
    String,
    /// Bits of values.
    Bitmap,
    /// Keys of any type.
    Generic,
    /// The connection.
    Connection,
    /// The node.
    Server,
    /// Slots and endpoints.
    Cluster,
    /// Channels.
    PubSub,
    /// MULTI and its kin.
    Transactions,
}

impl Group {
    /// As `COMMAND DOCS` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::Generic => "generic",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::PubSub => "pubsub",
            Group::Transactions => "transactions",
        }
    }
}

/// What `COMMAND INFO` says of a command, beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Changes keys.
    pub const WRITE: Self = Self(1 << 0);
    /// Reads keys.
    pub const READONLY: Self = Self(1 << 1);
    /// May need memory: refused when there is none.
    pub const DENYOOM: Self = Self(1 << 2);
    /// Works on the node.
    pub const ADMIN: Self = Self(1 << 3);
    /// Of channels.
    pub const PUBSUB: Self = Self(1 << 4);
    /// Not from a script.
    pub const NOSCRIPT: Self = Self(1 << 5);
    /// Answered while the log is read.
    pub const LOADING: Self = Self(1 << 6);
    /// Answered by a follower that has lost its leader.
    pub const STALE: Self = Self(1 << 7);
    /// Takes the same time for any key.
    pub const FAST: Self = Self(1 << 8);
    /// Answered before authentication.
    pub const NO_AUTH: Self = Self(1 << 9);
    /// Not within MULTI.
    pub const NO_MULTI: Self = Self(1 << 10);
    /// Answered while a script runs.
    pub const ALLOW_BUSY: Self = Self(1 << 11);

    /// Has to know what its key takes of memory. For ourselves: `COMMAND INFO` does not tell.
    pub const WEIGHS: Self = Self(1 << 12);
    /// Makes nothing but room: taken on a full disk. For ourselves, too.
    pub const FREES: Self = Self(1 << 13);

    /// As `COMMAND INFO` words them, in the order of the bits.
    pub const NAMES: [&'static str; 12] = [
        "write",
        "readonly",
        "denyoom",
        "admin",
        "pubsub",
        "noscript",
        "loading",
        "stale",
        "fast",
        "no_auth",
        "no_multi",
        "allow_busy",
    ];

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
        Self::NAMES.into_iter().enumerate().filter(move |(i, _)| self.0 >> i & 1 == 1).map(|x| x.1)
    }
}

/// Where the keys stand among the arguments, as in `COMMAND INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Index of the first; 0: there are none.
    pub first: u8,
    /// Index of the last; negative: counted from the end, -1 being the last argument.
    pub last: i8,
    /// Distance from one to the next: 2 when each is followed by a value.
    pub step: u8,
}

impl Keys {
    /// No keys.
    pub const NONE: Self = Self { first: 0, last: 0, step: 0 };
    /// The first argument.
    pub const FIRST: Self = Self { first: 1, last: 1, step: 1 };
    /// The argument after the subcommand.
    pub const SECOND: Self = Self { first: 2, last: 2, step: 1 };
    /// The first two arguments.
    pub const TWO: Self = Self { first: 1, last: 2, step: 1 };
    /// All arguments but the first.
    pub const FROM_SECOND: Self = Self { first: 2, last: -1, step: 1 };
    /// All arguments.
    pub const ALL: Self = Self { first: 1, last: -1, step: 1 };
    /// Every second argument.
    pub const PAIRS: Self = Self { first: 1, last: -1, step: 2 };
}

/// Evaluates the one key of a command and writes its reply, or one element of it.
pub type Answer = for<'a> fn(&Input<'a>, &mut Reply<'_>) -> Result<Effect<'a>, Error>;

/// How a command on keys is evaluated, and how the parts of a split one are put together.
#[derive(Clone, Copy)]
pub enum Keyed {
    /// Exactly one key, and its reply.
    One(Answer),
    /// `MGET`: an array with one element per key, in the order of the keys.
    Each(Answer),
    /// `DEL`: the sum of the keys' counts.
    Sum(for<'a> fn(&Input<'a>) -> (Effect<'a>, u64)),
    /// `MSET`: `+OK` once all are done.
    AllOk(for<'a> fn(&Input<'a>) -> Effect<'a>),
}

impl Keyed {
    /// What the reply of a command of `keys` keys starts with, before any part.
    pub fn begin(&self, keys: usize, reply: &mut Reply<'_>) {
        if let Keyed::Each(_) = self {
            reply.array(keys);
        }
    }

    /// Evaluates one key: writes its part of the reply, and tells its effect and its count. An
    /// error is written as the part.
    pub fn evaluate<'a>(&self, input: &Input<'a>, reply: &mut Reply<'_>) -> (Effect<'a>, u64) {
        match self {
            Keyed::One(run) | Keyed::Each(run) => match run(input, reply) {
                // Apart: moving an effect on waits for what was just written of it.
                Ok(Effect::None) => (Effect::None, 0),
                Ok(effect) => (effect, 0),
                Err(error) => {
                    reply.error(&error.to_string());
                    (Effect::None, 0)
                }
            },
            Keyed::Sum(run) => run(input),
            Keyed::AllOk(run) => (run(input), 0),
        }
    }

    /// What the reply ends with, after all parts. `count` is the sum of the parts' counts.
    pub fn finish(&self, count: u64, reply: &mut Reply<'_>) {
        match self {
            Keyed::One(_) | Keyed::Each(_) => {}
            Keyed::Sum(_) => reply.integer(count as i64),
            Keyed::AllOk(_) => reply.simple("OK"),
        }
    }
}

/// A command that every shard of the node has a part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyspace {
    /// Count the keys of the session's database; the reply is the sum, an integer.
    Count,
    /// Delete all keys of the session's database; `+OK`.
    FlushDb,
    /// Delete all keys of all databases; `+OK`.
    FlushAll,
    /// Some keys from a cursor on; an array of the next cursor and the keys.
    Scan(Scan),
    /// All keys that match the pattern, which is argument 1; an array.
    Keys,
    /// A key at random, or nothing.
    Random,
    /// Count the keys of a slot; an integer.
    CountInSlot(Slot),
    /// Some keys of a slot, at most so many; an array.
    KeysInSlot(Slot, usize),
}

impl Keyspace {
    /// Whether it may take long, and so is worked on in slices.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Keys | Self::CountInSlot(_) | Self::KeysInSlot(..))
    }
}

/// A command on the connection or the node.
pub type Connection = fn(&mut Session, &dyn Facts, &Args<'_>, &mut Reply<'_>) -> Then;

/// How a command runs.
#[derive(Clone, Copy)]
pub enum Run {
    /// On keys: key by key, at the partition of each.
    Keyed(Keyed),
    /// On keys of one partition, all at once.
    Together(together::Together),
    /// Begins, ends or guards a transaction of the connection.
    Transaction(transaction::Op),
    /// At the connection, at once.
    Connection(Connection),
    /// By the server, which knows who listens.
    PubSub(pubsub::PubSub),
    /// On every shard.
    Keyspace(fn(&Args<'_>) -> Result<Keyspace, Error>),
    /// Of all shards: each is asked.
    Node(question::NodeWide),
    /// Only by its subcommands; [`resolve`] never returns such a row.
    Container(&'static [Spec]),
    /// By its subcommands, or alone (`COMMAND`).
    Both(Connection, &'static [Spec]),
}

/// What is known of a command.
#[derive(Clone, Copy)]
pub struct Spec {
    /// Full name, lower case; a subcommand's is `container|name`.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i16,
    /// For `COMMAND INFO`.
    pub flags: Flags,
    /// Where its keys stand.
    pub keys: Keys,
    /// What it touches.
    pub access: Access,
    /// Its family.
    pub group: Group,
    /// One line for people.
    pub summary: &'static str,
    /// The version of Redis that brought it.
    pub since: &'static str,
    /// How it runs.
    pub run: Run,
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Spec {
    /// With a line for people, and the version of Redis that brought it.
    pub(super) const fn about(self, summary: &'static str, since: &'static str) -> Self {
        Self { summary, since, ..self }
    }

    /// Indices in `args` of the keys, in order. `args` must have passed [`resolve`].
    pub fn key_indices(&self, args: &Args<'_>) -> impl ExactSizeIterator<Item = usize> + use<> {
        let Keys { first, last, step } = self.keys;
        let end = match (first, last) {
            (0, _) => 0,
            (_, last @ 0..) => last as usize + 1,
            (_, last) => args.len() - (last.unsigned_abs() as usize - 1),
        };
        (first as usize..end).step_by(step.max(1) as usize)
    }

    /// Subcommands; empty for most.
    pub fn subcommands(&self) -> &'static [Spec] {
        match self.run {
            Run::Container(_) | Run::Both(..) => {
                let (first, end) = SUBCOMMANDS[self.number()];
                &ROWS[first..end]
            }
            _ => &[],
        }
    }

    /// The row's place in the table of all: below [`COMMANDS_MAX`], fit for indexing.
    ///
    /// # Panics
    /// On a copy of a row.
    #[inline]
    pub fn number(&self) -> usize {
        let offset = std::ptr::from_ref(self).addr().wrapping_sub(ROWS.as_ptr().addr());
        let number = offset / size_of::<Self>();
        assert!(number < ROWS.len(), "{self:?} is not of the table");
        number
    }

    /// The name of a subcommand without its container's; the name of any other.
    pub fn short_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, name)| name)
    }

    /// Whether it can have these arguments.
    pub fn takes(&self, args: &Args<'_>) -> bool {
        let len = args.len();
        let fits = match self.arity {
            least @ ..0 => len >= usize::from(least.unsigned_abs()),
            exact => len == usize::from(exact.unsigned_abs()),
        };
        // Pairs have to be whole.
        fits && (self.keys.step < 2
            || (len - usize::from(self.keys.first)).is_multiple_of(usize::from(self.keys.step)))
    }
}

/// The command that `args` call: its row, or its subcommand's.
///
/// # Errors
/// * [`Error::UnknownCommand`], [`Error::UnknownSubcommand`], [`Error::Arity`].
pub fn resolve(args: &Args<'_>) -> Result<&'static Spec, Error> {
    let Some(mut spec) = lookup(args.get(0)) else { return Err(unknown_command(args)) };
    if args.len() > 1 && !spec.subcommands().is_empty() {
        let name = args.get(1);
        spec = subcommand(spec, name).ok_or_else(|| Error::UnknownSubcommand {
            name: text(&name[..name.len().min(128)]).into(),
            command: spec.name.to_ascii_uppercase().into(),
        })?;
    }
    if spec.takes(args) { Ok(spec) } else { Err(Error::Arity { command: spec.name }) }
}

fn subcommand(spec: &'static Spec, name: &[u8]) -> Option<&'static Spec> {
    spec.subcommands().iter().find(|s| s.short_name().as_bytes().eq_ignore_ascii_case(name))
}

/// The row of a full name, such as `client|list`.
pub fn lookup_full(name: &[u8]) -> Option<&'static Spec> {
    match name.iter().position(|&b| b == b'|') {
        None => lookup(name),
        Some(bar) => subcommand(lookup(&name[..bar])?, &name[bar + 1..]),
    }
}

/// Whether this connection may run this command, and whether its keys are ones we can hold.
///
/// # Errors
/// * [`Error::NoAuth`]: a password is needed first.
/// * [`Error::Subscribed`]: it listens, in RESP2.
/// * [`Error::KeyTooLong`].
pub fn admit(session: &Session, spec: &Spec, args: &Args<'_>) -> Result<(), Error> {
    if !session.authenticated && !spec.flags.has(Flags::NO_AUTH) {
        return Err(Error::NoAuth);
    }
    if session.is_confined() && !pubsub::is_allowed(spec) {
        return Err(Error::Subscribed { command: spec.name });
    }
    if spec.key_indices(args).any(|at| args.get(at).len() > KEY_LEN_MAX) {
        return Err(Error::KeyTooLong);
    }
    Ok(())
}

/// As Redis words it: up to 128 bytes of the name, and of the arguments until 128 are full.
fn unknown_command(args: &Args<'_>) -> Error {
    const LEN_MAX: usize = 128;
    let mut list = String::new();
    for arg in args.from(1) {
        if list.len() >= LEN_MAX {
            break;
        }
        let len = arg.len().min(LEN_MAX - list.len());
        list.push_str(&format!("'{}' ", text(&arg[..len])));
    }
    let name = args.get(0);
    Error::UnknownCommand { name: text(&name[..name.len().min(LEN_MAX)]).into(), args: list.into() }
}

/// As C prints it: up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The row of a name, in any case of letters; none for an unknown one.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > NAME_LEN_MAX {
        return None;
    }
    let packed = pack(name);
    let mut at = place(packed);
    loop {
        let (key, spec) = &TABLE[at];
        match spec {
            Some(spec) if *key == packed => return Some(spec),
            Some(_) => at = (at + 1) % TABLE_LEN,
            None => return None,
        }
    }
}

/// Every command, without the subcommands, by family.
pub fn all() -> impl Iterator<Item = &'static Spec> + Clone {
    ROWS[..COMMAND_COUNT].iter()
}

/// Every command and subcommand, by number.
pub fn numbered() -> impl ExactSizeIterator<Item = &'static Spec> {
    ROWS.iter()
}

static FAMILIES: [&[Spec]; 16] = [
    string::SPECS,
    counter::SPECS,
    bits::SPECS,
    bitfield::SPECS,
    lcs::SPECS,
    key::SPECS,
    dump::SPECS,
    expire::SPECS,
    keyspace::SPECS,
    together::SPECS,
    transaction::SPECS,
    connection::SPECS,
    pubsub::SPECS,
    server::SPECS,
    monitor::SPECS,
    cluster::SPECS,
];

const NAME_LEN_MAX: usize = 16;
const TABLE_LEN: usize = 256;

/// How many commands there are, without their subcommands and with them.
const COMMAND_COUNT: usize = count(false);
const ROW_COUNT: usize = count(true);

const fn count(with_subcommands: bool) -> usize {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            count += 1;
            if with_subcommands {
                count += own_subcommands(&FAMILIES[family][row]).len();
            }
            row += 1;
        }
        family += 1;
    }
    count
}

/// Those of its family's file.
const fn own_subcommands(spec: &Spec) -> &'static [Spec] {
    match spec.run {
        Run::Container(subcommands) | Run::Both(_, subcommands) => subcommands,
        _ => &[],
    }
}

/// All rows: the commands by family, then the subcommands by command.
static ROWS: [Spec; ROW_COUNT] = {
    assert!(ROW_COUNT <= COMMANDS_MAX, "a number fits where calls are counted");
    let mut rows = [FAMILIES[0][0]; ROW_COUNT];
    let (mut at, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            rows[at] = FAMILIES[family][row];
            at += 1;
            row += 1;
        }
        family += 1;
    }
    let mut command = 0;
    while command < COMMAND_COUNT {
        let subcommands = own_subcommands(&rows[command]);
        let mut nth = 0;
        while nth < subcommands.len() {
            rows[at] = subcommands[nth];
            at += 1;
            nth += 1;
        }
        command += 1;
    }
    rows
};

/// Where the subcommands of each command are among the rows: from, until.
static SUBCOMMANDS: [(usize, usize); COMMAND_COUNT] = {
    let mut places = [(0, 0); COMMAND_COUNT];
    let (mut at, mut command) = (COMMAND_COUNT, 0);
    while command < COMMAND_COUNT {
        let end = at + own_subcommands(&ROWS[command]).len();
        places[command] = (at, end);
        at = end;
        command += 1;
    }
    places
};

static TABLE: [(u128, Option<&Spec>); TABLE_LEN] = {
    let mut table = [(0, None); TABLE_LEN];
    let mut row = 0;
    while row < COMMAND_COUNT {
        let spec = &ROWS[row];
        assert!(spec.name.len() <= NAME_LEN_MAX, "the name fits the packed form");
        let packed = pack(spec.name.as_bytes());
        let mut at = place(packed);
        while table[at].1.is_some() {
            assert!(table[at].0 != packed, "no name twice");
            at = (at + 1) % TABLE_LEN;
        }
        table[at] = (packed, Some(spec));
        row += 1;
    }
    table
};

/// The letters of a name, lower case, in a number. Names hold letters, of which no other byte
/// becomes one by the case bit, and `_`, which one would become: it counts as a blank. So equal
/// numbers mean equal names.
const fn pack(name: &[u8]) -> u128 {
    let (mut packed, mut i) = (0, 0);
    while i < name.len() {
        let byte = if name[i] == 0x7f { b' ' } else { name[i] | 0x20 };
        packed = packed << 8 | byte as u128;
        i += 1;
    }
    packed
}

const fn place(packed: u128) -> usize {
    let folded = packed as u64 ^ ((packed >> 64) as u64).rotate_left(7);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_LEN.trailing_zeros())) as usize
}
