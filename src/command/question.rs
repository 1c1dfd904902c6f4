//! Commands that every shard of the node is asked about: what the question is, and what came back.
//!
//! A shard knows its own connections, its own log of slow commands and its own gauges, and nobody
//! else looks at them. So a command like CLIENT LIST is a *question*: each shard answers with a
//! count and some bytes of its own form, and when all have, the reply is made of the sum of the
//! counts and of all bytes, one shard's after the other's.
//!
//! Not here: how the question travels and who answers ([`crate::server`]).

use super::{Args, Client, Error, Facts, Session, Then, latency, number};
use crate::protocol::resp::Reply;

/// A command whose reply takes all shards.
#[derive(Clone, Copy)]
pub struct NodeWide {
    /// What they are asked. Every shard reads it from the same arguments.
    pub ask: for<'a> fn(&Args<'a>) -> Result<Question<'a>, Error>,
    /// Makes the reply, when all have answered.
    pub tell: fn(&mut Session, &dyn Facts, &Args<'_>, &Told, &mut Reply<'_>) -> Then,
}

/// What a shard is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// To bring its gauges up to date.
    Gauges,
    /// For the lines of these connections, as `CLIENT LIST` shows them.
    Clients(Filter<'a>),
    /// To close these connections; it counts them.
    Kill(Filter<'a>),
    /// To let commands wait.
    Pause(Pause),
    /// To let them go on.
    Unpause,
    /// To set what only rises back to 0.
    ResetStats,
    /// About its slow commands.
    Slow(Slowlog),
    /// About the samples of LATENCY.
    Latency(Latency),
}

/// What a shard is asked of the samples of LATENCY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// For all.
    Get,
    /// To forget those of these events; it names the events that had some.
    Reset([bool; latency::EVENTS.len()]),
}

/// What a shard is asked of its slow commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowlog {
    /// For the newest, so many.
    Get(usize),
    /// How many there are.
    Len,
    /// To forget them.
    Reset,
}

/// All answers to a question.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The sum of their counts.
    pub count: i64,
    /// Their bytes, one after the other, in no order.
    pub body: Vec<u8>,
}

/// For how long which commands wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Milliseconds from now on.
    pub ms: u64,
    /// All commands; otherwise those that write.
    pub all: bool,
}

/// What a connection is used for, as far as `TYPE` can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    /// Commands.
    Normal,
    /// Messages.
    PubSub,
    /// Another node follows by it. There are none: nodes follow each other by a port of their own.
    Node,
}

impl ClientType {
    fn of(session: &Session) -> Self {
        if session.subscribed.is_any() { Self::PubSub } else { Self::Normal }
    }

    /// # Errors
    /// A word that Redis does not know either.
    pub(super) fn parse(name: &[u8]) -> Result<Self, Error> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::PubSub),
            b"master" | b"slave" | b"replica" => Ok(Self::Node),
            _ => Err(Error::ClientType { name: String::from_utf8_lossy(name).into() }),
        }
    }
}

/// Which connections; what is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// One of these, if there are any.
    pub ids: Vec<u64>,
    /// From there.
    pub addr: Option<&'a [u8]>,
    /// To there.
    pub laddr: Option<&'a [u8]>,
    /// Used for this.
    pub of_type: Option<ClientType>,
    /// Open for longer, seconds.
    pub age_min_s: Option<u64>,
    /// Not the one that asks.
    pub skip_me: bool,
}

impl Filter<'_> {
    /// Whether it means this connection. `asks`: it is the one that asks.
    pub fn hits(&self, session: &Session, asks: bool, now_ms: u64) -> bool {
        let age_s = now_ms.saturating_sub(session.created_ms) / 1000;
        (self.ids.is_empty() || self.ids.contains(&session.id))
            && self.addr.is_none_or(|addr| addr == session.peer.as_bytes())
            && self.laddr.is_none_or(|addr| addr == session.local.as_bytes())
            && self.of_type.is_none_or(|of| of == ClientType::of(session))
            && self.age_min_s.is_none_or(|min| age_s >= min)
            && !(self.skip_me && asks)
    }

    /// `CLIENT LIST`'s.
    ///
    /// # Errors
    /// Those of Redis.
    pub(super) fn parse_list<'a>(args: &Args<'a>) -> Result<Filter<'a>, Error> {
        let mut filter = Filter::default();
        if args.len() == 4 && args.is(2, "TYPE") {
            filter.of_type = Some(ClientType::parse(args.get(3))?);
        } else if args.len() > 3 && args.is(2, "ID") {
            for id in args.from(3) {
                let id = number::parse_i64(id).map_err(|_| Error::ClientId)?;
                filter.ids.push(id as u64);
            }
        } else if args.len() != 2 {
            return Err(Error::Syntax);
        }
        Ok(filter)
    }

    /// `CLIENT KILL`'s, in its old form and in its new one.
    ///
    /// # Errors
    /// Those of Redis.
    pub(super) fn parse_kill<'a>(args: &Args<'a>) -> Result<Filter<'a>, Error> {
        if args.len() == 3 {
            return Ok(Filter { addr: Some(args.get(2)), ..Filter::default() });
        }
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        for at in (2..args.len()).step_by(2) {
            if at + 1 == args.len() {
                return Err(Error::Syntax);
            }
            filter.add(args.get(at), args.get(at + 1))?;
        }
        Ok(filter)
    }
}

impl<'a> Filter<'a> {
    fn add(&mut self, option: &[u8], value: &'a [u8]) -> Result<(), Error> {
        match option.to_ascii_uppercase().as_slice() {
            b"ID" => match number::parse_i64(value) {
                Ok(id @ 1..) => self.ids = vec![id as u64],
                _ => return Err(Error::Other("ERR client-id should be greater than 0")),
            },
            b"ADDR" => self.addr = Some(value),
            b"LADDR" => self.laddr = Some(value),
            b"TYPE" => self.of_type = Some(ClientType::parse(value)?),
            b"MAXAGE" => match number::parse_i64(value) {
                Ok(age @ 1..) => self.age_min_s = Some(age as u64),
                Ok(_) => return Err(Error::Other("ERR maxage should be greater than 0")),
                Err(_) => {
                    return Err(Error::Other("ERR maxage is not an integer or out of range"));
                }
            },
            b"USER" if value == b"default" => {}
            b"USER" => {
                return Err(Error::NoSuchUser { name: String::from_utf8_lossy(value).into() });
            }
            b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => self.skip_me = true,
            b"SKIPME" if value.eq_ignore_ascii_case(b"no") => self.skip_me = false,
            _ => return Err(Error::Syntax),
        }
        Ok(())
    }
}

/// A shard's answer to [`Question::Clients`]: a line for each.
pub fn write_clients<'a>(clients: impl Iterator<Item = &'a Client>, now_ms: u64) -> Vec<u8> {
    let mut text = String::new();
    clients.for_each(|client| super::client::write_line(&mut text, client, now_ms));
    text.into_bytes()
}
