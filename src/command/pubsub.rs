//! Pub/sub: the rows of its commands, and the wire shapes of what subscribers get.
//!
//! Who has subscribed to what is not known here: a command of this family is run by the server,
//! which keeps the subscriptions of its connections.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Arg, Args, Facts, Session, Then, help};
use crate::protocol::resp::{Proto, Reply};

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A channel of the node.
    Channel,
    /// All channels whose names match.
    Pattern,
    /// A channel that belongs to a slot.
    Shard,
}

impl Kind {
    /// The first word of what confirms a subscription, or its end.
    fn word(self, subscribes: bool) -> &'static str {
        match (self, subscribes) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }
}

/// A command of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubSub {
    /// From now on this connection gets messages.
    Subscribe(Kind),
    /// No longer.
    Unsubscribe(Kind),
    /// To all subscribers, on all shards; the reply is how many.
    Publish(Kind),
    /// The names that have subscribers.
    Channels(Kind),
    /// How many subscribers each name has.
    CountSubscribers(Kind),
    /// How many patterns are subscribed to.
    CountPatterns,
}

/// Subscriptions of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribed {
    /// To channels.
    pub channels: u32,
    /// To patterns.
    pub patterns: u32,
    /// To channels of slots.
    pub shard_channels: u32,
}

impl Subscribed {
    /// Whether there is one.
    pub fn is_any(&self) -> bool {
        (self.channels | self.patterns | self.shard_channels) != 0
    }

    /// Notes a subscription more, or less.
    pub fn note(&mut self, kind: Kind, subscribes: bool) {
        let count = match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shard_channels,
        };
        *count = if subscribes { *count + 1 } else { *count - 1 };
    }

    /// As told when one of `kind` changes: those of slots are counted alone.
    fn told(&self, kind: Kind) -> i64 {
        match kind {
            Kind::Shard => i64::from(self.shard_channels),
            Kind::Channel | Kind::Pattern => i64::from(self.channels) + i64::from(self.patterns),
        }
    }
}

/// Whether a connection that speaks RESP2 may send this command while it is subscribed: its replies
/// could not be told from messages.
pub(super) fn is_allowed(spec: &Spec) -> bool {
    matches!(spec.run, Run::PubSub(PubSub::Subscribe(_) | PubSub::Unsubscribe(_)))
        || ["ping", "quit", "reset"].contains(&spec.name)
}

/// Confirms a subscription or its end; no name: there was none to end.
pub fn write_confirmation(
    reply: &mut Reply<'_>,
    (kind, subscribes): (Kind, bool),
    name: Option<&[u8]>,
    now: &Subscribed,
) {
    reply.push(3);
    reply.bulk(kind.word(subscribes).as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.integer(now.told(kind));
}

/// A message for whoever subscribed to the channel itself.
pub fn write_message(reply: &mut Reply<'_>, kind: Kind, channel: Arg<'_>, payload: Arg<'_>) {
    reply.push(3);
    reply.bulk(if kind == Kind::Shard { b"smessage" } else { b"message" });
    channel.write_to(reply);
    payload.write_to(reply);
}

/// A message for whoever subscribed to `pattern`.
pub fn write_pattern_message(
    reply: &mut Reply<'_>,
    pattern: &[u8],
    channel: Arg<'_>,
    payload: Arg<'_>,
) {
    reply.push(4);
    reply.bulk(b"pmessage");
    reply.bulk(pattern);
    channel.write_to(reply);
    payload.write_to(reply);
}

/// One name and its number, in what a shard answers to PUBSUB; `at` is its place among those asked.
pub fn push_record(body: &mut Vec<u8>, at: usize, name: &[u8], count: u64) {
    // Never what an error begins with.
    body.push(b'=');
    body.extend_from_slice(&(at as u32).to_le_bytes());
    body.extend_from_slice(&(name.len() as u32).to_le_bytes());
    body.extend_from_slice(name);
    body.extend_from_slice(&count.to_le_bytes());
}

/// Takes the first record off; none at the end.
fn take_record<'a>(body: &mut &'a [u8]) -> Option<(u32, &'a [u8], u64)> {
    let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let (at, len) = (u32_of(body.get(1..5)?), u32_of(body.get(5..9)?) as usize);
    let (name, count) = (&body[9..9 + len], &body[9 + len..17 + len]);
    *body = &body[17 + len..];
    Some((at, name, u64::from_le_bytes(count.try_into().expect("eight bytes"))))
}

fn records(mut body: &[u8]) -> impl Iterator<Item = (u32, &[u8], u64)> {
    std::iter::from_fn(move || take_record(&mut body))
}

fn encode(encode: impl FnOnce(&mut Reply<'_>)) -> Vec<u8> {
    let mut body = Vec::new();
    encode(&mut Reply::new(Proto::Resp2, &mut body, &mut Vec::new()));
    body
}

/// What becomes of the records of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// An array of the names, each once.
    Names,
    /// How many names there are.
    NameCount,
    /// An array of each name asked for and the sum of the shards' numbers.
    Counts,
}

impl Merge {
    /// The reply; `body` is the shards' records, one after the other.
    pub fn reply(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Names => merge_names(body),
            Self::NameCount => merge_name_count(body),
            Self::Counts => merge_counts(body),
        }
    }
}

fn merge_names(body: &[u8]) -> Vec<u8> {
    let names: BTreeSet<&[u8]> = records(body).map(|(_, name, _)| name).collect();
    encode(|reply| {
        reply.array(names.len());
        names.iter().for_each(|name| reply.bulk(name));
    })
}

fn merge_name_count(body: &[u8]) -> Vec<u8> {
    let names: BTreeSet<&[u8]> = records(body).map(|(_, name, _)| name).collect();
    encode(|reply| reply.integer(names.len() as i64))
}

fn merge_counts(body: &[u8]) -> Vec<u8> {
    let mut sums: BTreeMap<u32, (&[u8], u64)> = BTreeMap::new();
    for (at, name, count) in records(body) {
        sums.entry(at).or_insert((name, 0)).1 += count;
    }
    encode(|reply| {
        reply.array(2 * sums.len());
        for (name, sum) in sums.values() {
            reply.bulk(name);
            reply.integer(*sum as i64);
        }
    })
}

fn pubsub_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "PUBSUB", PUBSUB)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: PubSub) -> Spec {
    let (access, group, keys, run) =
        (Access::Connection, Group::PubSub, Keys::NONE, Run::PubSub(run));
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.0.0", run }
}

/// A channel of a slot is routed like a key.
const fn of_slot(spec: Spec, keys: Keys) -> Spec {
    Spec { keys, since: "7.0.0", ..spec }
}

const ANY: Flags = Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE);
const QUICK: Flags = ANY.and(Flags::FAST);
const OWN: Flags = ANY.and(Flags::NOSCRIPT);

use PubSub::{Channels, CountPatterns, CountSubscribers, Publish, Subscribe, Unsubscribe};

pub(super) static SPECS: &[Spec] = &[
    row("subscribe", -2, OWN, Subscribe(Kind::Channel)).about("Listens to channels", "2.0.0"),
    row("unsubscribe", -1, OWN, Unsubscribe(Kind::Channel))
        .about("Stops listening to channels, or to all", "2.0.0"),
    row("psubscribe", -2, OWN, Subscribe(Kind::Pattern))
        .about("Listens to channels that match patterns", "2.0.0"),
    row("punsubscribe", -1, OWN, Unsubscribe(Kind::Pattern))
        .about("Stops listening to patterns, or to all", "2.0.0"),
    of_slot(row("ssubscribe", -2, OWN, Subscribe(Kind::Shard)), Keys::ALL)
        .about("Listens to channels of a slot", "7.0.0"),
    of_slot(row("sunsubscribe", -1, OWN, Unsubscribe(Kind::Shard)), Keys::ALL)
        .about("Stops listening to channels of slots, or to all", "7.0.0"),
    row("publish", 3, QUICK, Publish(Kind::Channel))
        .about("Sends a message to all who listen to a channel", "2.0.0"),
    of_slot(row("spublish", 3, QUICK, Publish(Kind::Shard)), Keys::FIRST)
        .about("Sends a message to all who listen to a channel of a slot", "7.0.0"),
    Spec { run: Run::Container(PUBSUB), ..row("pubsub", -2, Flags::NONE, CountPatterns) }
        .about("Who listens to what", "2.8.0"),
];

static PUBSUB: &[Spec] = &[
    row("pubsub|channels", -2, ANY, Channels(Kind::Channel))
        .about("Channels that have subscribers, all or those that match a pattern", "2.8.0"),
    row("pubsub|numpat", 2, ANY, CountPatterns).about("Counts the patterns subscribed to", "2.8.0"),
    row("pubsub|numsub", -2, ANY, CountSubscribers(Kind::Channel))
        .about("Counts the subscribers of channels, those by pattern excepted", "2.8.0"),
    row("pubsub|shardchannels", -2, ANY, Channels(Kind::Shard))
        .about("Channels of slots that have subscribers, all or by pattern", "7.0.0"),
    row("pubsub|shardnumsub", -2, ANY, CountSubscribers(Kind::Shard))
        .about("Counts the subscribers of channels of slots", "7.0.0"),
    Spec {
        run: Run::Connection(pubsub_help as Connection),
        ..row("pubsub|help", 2, ANY, CountPatterns)
    }
    .about("This text", "6.2.0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).expect("ASCII")
    }

    #[test]
    fn shards_records_become_one_reply() {
        let mut body = Vec::new();
        // Place 45 is `-`: no record looks like an error.
        for (at, name, count) in [(45, "b", 1), (0, "a", 2), (45, "b", 3), (0, "a", 0)] {
            push_record(&mut body, at, name.as_bytes(), count);
        }

        assert_eq!(body[0], b'=');
        assert_eq!(text(merge_names(&body)), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        assert_eq!(text(merge_name_count(&body)), ":2\r\n");
        assert_eq!(text(merge_counts(&body)), "*4\r\n$1\r\na\r\n:2\r\n$1\r\nb\r\n:4\r\n");
        assert_eq!(text(merge_names(&[])), "*0\r\n");
    }

    #[test]
    fn channels_and_patterns_are_counted_together_those_of_slots_alone() {
        let mut subscribed = Subscribed::default();
        assert!(!subscribed.is_any());
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            subscribed.note(kind, true);
        }

        assert_eq!((subscribed.told(Kind::Pattern), subscribed.told(Kind::Shard)), (2, 1));
        subscribed.note(Kind::Channel, false);
        assert_eq!((subscribed.told(Kind::Channel), subscribed.is_any()), (1, true));
    }
}
