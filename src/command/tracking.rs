//! CLIENT TRACKING and its kin: what a connection wants to be told of keys that it caches.
//!
//! Here it is only understood and kept in the session; who read what, and who is told, is known to
//! the server. Errors and their order are those of Redis 7.

use super::connection::settle;
use super::{Args, Error, Facts, Session, Then, number};
use crate::protocol::resp::Reply;

/// The channel on which a connection of RESP2 is told for another (`REDIRECT`).
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// Most prefixes of one connection, and most bytes of them.
const PREFIXES_MAX: usize = 1024;
const PREFIXES_LEN_MAX: usize = 64 << 10;

/// Which keys a connection is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those that it read.
    #[default]
    Reads,
    /// Those that it read with commands that CLIENT CACHING YES announced.
    OptIn,
    /// Those that it read, but with commands that CLIENT CACHING NO announced.
    OptOut,
    /// All that begin with one of its prefixes.
    Broadcast,
}

/// What CLIENT TRACKING ON asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// Which keys.
    pub mode: Mode,
    /// Not of its own changes.
    pub no_loop: bool,
    /// CLIENT CACHING was said: it counts for the next command.
    pub caching: bool,
    /// The connection that is told instead.
    pub redirect: Option<u64>,
    /// That connection is gone.
    pub is_broken: bool,
    /// With [`Mode::Broadcast`]: at least one; the empty one is that of all keys.
    pub prefixes: Vec<Box<[u8]>>,
}

impl Tracking {
    /// Whether the keys that the next command reads are remembered. Forgets what CLIENT CACHING
    /// said, unless it `lasts`: the command is one of a transaction, and others follow.
    pub fn take_remembers(&mut self, lasts: bool) -> bool {
        let caching = self.caching;
        self.caching &= lasts;
        match self.mode {
            Mode::Reads => true,
            Mode::OptIn => caching,
            Mode::OptOut => !caching,
            Mode::Broadcast => false,
        }
    }

    /// Puts back what [`Tracking::take_remembers`] returned: EXEC took it for its commands.
    pub fn give_back(&mut self, remembers: bool) {
        self.caching = match self.mode {
            Mode::OptIn => remembers,
            Mode::OptOut => !remembers,
            Mode::Reads | Mode::Broadcast => false,
        };
    }

    /// As CLIENT LIST shows it: 0 for nobody else.
    pub fn redirect(&self) -> i64 {
        self.redirect.map_or(0, |id| id as i64)
    }
}

/// The options as they are given.
#[derive(Default)]
struct Options<'a> {
    redirect: Option<u64>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
    prefixes: Vec<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(args: &Args<'a>, facts: &dyn Facts) -> Result<Self, Error> {
        let (mut options, mut at) = (Self::default(), 3);
        while at < args.len() {
            let more = at + 1 < args.len();
            if args.is(at, "REDIRECT") && more {
                at += 1;
                if options.redirect.is_some() {
                    let text = "ERR A client can only redirect to a single other client";
                    return Err(Error::Other(text));
                }
                let id = number::parse_i64(args.get(at))?;
                let id = u64::try_from(id).ok().filter(|id| facts.has_client(*id));
                let missing = "ERR The client ID you want redirect to does not exist";
                options.redirect = Some(id.ok_or(Error::Other(missing))?);
            } else if args.is(at, "PREFIX") && more {
                at += 1;
                options.prefixes.push(args.get(at));
            } else if args.is(at, "BCAST") {
                options.broadcast = true;
            } else if args.is(at, "OPTIN") {
                options.opt_in = true;
            } else if args.is(at, "OPTOUT") {
                options.opt_out = true;
            } else if args.is(at, "NOLOOP") {
                options.no_loop = true;
            } else {
                return Err(Error::Syntax);
            }
            at += 1;
        }
        Ok(options)
    }

    /// Whether they go together, and with what is on already.
    fn check(&self, now: Option<&Tracking>) -> Result<(), Error> {
        let error = |text| Err(Error::Other(text));
        if !self.broadcast && !self.prefixes.is_empty() {
            return error("ERR PREFIX option requires BCAST mode to be enabled");
        }
        let mode = now.map(|now| now.mode);
        if mode.is_some_and(|mode| (mode == Mode::Broadcast) != self.broadcast) {
            return error(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this \
                 client, and then re-enabling it with a different mode.",
            );
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return error("ERR OPTIN and OPTOUT are not compatible with BCAST");
        }
        if self.opt_in && self.opt_out {
            return error("ERR You can't specify both OPTIN mode and OPTOUT mode");
        }
        let switches = (self.opt_in && mode == Some(Mode::OptOut))
            || (self.opt_out && mode == Some(Mode::OptIn));
        if switches {
            return error(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this \
                 client, and then re-enabling it with a different mode.",
            );
        }
        Ok(())
    }

    /// What is on from now on. Prefixes add to those that were given before.
    fn merge(self, now: Option<&Tracking>) -> Result<Tracking, String> {
        let mode = match (self.broadcast, self.opt_in, self.opt_out) {
            (true, ..) => Mode::Broadcast,
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::Reads,
        };
        let mut prefixes = now.map_or_else(Vec::new, |now| now.prefixes.clone());
        for (nth, prefix) in self.prefixes.iter().enumerate() {
            let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let rule = "Prefixes for a single client must not overlap.";
            let overlaps = |other: &[u8]| other.starts_with(prefix) || prefix.starts_with(other);
            if let Some(other) = prefixes[..prefixes.len() - nth].iter().find(|p| overlaps(p)) {
                let (ours, theirs) = (lossy(prefix), lossy(other));
                let text = format!("'{ours}' overlaps with an existing prefix '{theirs}'");
                return Err(format!("ERR Prefix {text}. {rule}"));
            }
            if let Some(other) = self.prefixes[nth + 1..].iter().find(|p| overlaps(p)) {
                let (ours, theirs) = (lossy(prefix), lossy(other));
                let text = format!("'{ours}' overlaps with another provided prefix '{theirs}'");
                return Err(format!("ERR Prefix {text}. {rule}"));
            }
            prefixes.push((*prefix).into());
        }
        let all = self.prefixes.is_empty() && prefixes.iter().all(|prefix| !prefix.is_empty());
        if mode == Mode::Broadcast && all {
            prefixes.push(Box::default());
        }
        prefixes.sort();
        let prefixes_len: usize = prefixes.iter().map(|prefix| prefix.len()).sum();
        if prefixes.len() > PREFIXES_MAX || prefixes_len > PREFIXES_LEN_MAX {
            return Err(format!(
                "ERR at most {PREFIXES_MAX} prefixes, and {PREFIXES_LEN_MAX} bytes of them"
            ));
        }
        let (redirect, no_loop) = (self.redirect, self.no_loop);
        Ok(Tracking { mode, no_loop, redirect, prefixes, ..Tracking::default() })
    }
}

pub(super) fn tracking(
    session: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    match understand(session.tracking.as_deref(), facts, args) {
        Ok(tracking) => {
            session.tracking = tracking.map(Box::new);
            reply.simple("OK");
            Then::Track
        }
        Err(text) => {
            reply.error(&text);
            Then::Continue
        }
    }
}

fn understand(
    now: Option<&Tracking>,
    facts: &dyn Facts,
    args: &Args<'_>,
) -> Result<Option<Tracking>, String> {
    let options = Options::parse(args, facts).map_err(|error| error.to_string())?;
    match (args.is(2, "ON"), args.is(2, "OFF")) {
        (true, _) => {
            options.check(now).map_err(|error| error.to_string())?;
            options.merge(now).map(Some)
        }
        (_, true) => Ok(None),
        _ => Err(Error::Syntax.to_string()),
    }
}

pub(super) fn caching(
    session: &mut Session,
    _: &dyn Facts,
    args: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    settle(reply, note_caching(session, args))
}

fn note_caching(session: &mut Session, args: &Args<'_>) -> Result<(), Error> {
    let Some(tracking) = session.tracking.as_deref_mut() else {
        return Err(Error::Other(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN \
             or OPTOUT mode enabled",
        ));
    };
    let wrong = match (args.is(2, "YES"), args.is(2, "NO"), tracking.mode) {
        (true, _, Mode::OptIn) | (_, true, Mode::OptOut) => {
            tracking.caching = true;
            return Ok(());
        }
        (true, ..) => {
            "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
        }
        (_, true, _) => {
            "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
        }
        _ => return Err(Error::Syntax),
    };
    Err(Error::Other(wrong))
}

pub(super) fn getredir(
    session: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    reply.integer(session.tracking.as_ref().map_or(-1, |tracking| tracking.redirect()));
    Then::Continue
}

pub(super) fn trackinginfo(
    session: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    reply: &mut Reply<'_>,
) -> Then {
    let tracking = session.tracking.as_deref();
    let is = |mode| tracking.is_some_and(|tracking| tracking.mode == mode);
    let caching = tracking.is_some_and(|tracking| tracking.caching);
    let flags = [
        (tracking.is_none(), "off"),
        (tracking.is_some(), "on"),
        (is(Mode::Broadcast), "bcast"),
        (is(Mode::OptIn), "optin"),
        (is(Mode::OptIn) && caching, "caching-yes"),
        (is(Mode::OptOut), "optout"),
        (is(Mode::OptOut) && caching, "caching-no"),
        (tracking.is_some_and(|tracking| tracking.no_loop), "noloop"),
        (tracking.is_some_and(|tracking| tracking.is_broken), "broken_redirect"),
    ];
    let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(tracking.map_or(-1, Tracking::redirect));
    reply.bulk(b"prefixes");
    let prefixes = tracking.map_or(&[][..], |tracking| &tracking.prefixes);
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Then::Continue
}

/// Tells a connection of RESP3 that these keys have changed; none: any may have.
pub fn write_invalidation(reply: &mut Reply<'_>, keys: Option<&[&[u8]]>) {
    reply.push(2);
    reply.bulk(b"invalidate");
    write_keys(reply, keys);
}

/// The same for a subscribed connection of RESP2.
pub fn write_invalidation_message(reply: &mut Reply<'_>, keys: Option<&[&[u8]]>) {
    reply.push(3);
    reply.bulk(b"message");
    reply.bulk(CHANNEL);
    write_keys(reply, keys);
}

fn write_keys(reply: &mut Reply<'_>, keys: Option<&[&[u8]]>) {
    let Some(keys) = keys else { return reply.null() };
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
}

/// Tells a connection of RESP3 that the one which is told instead of it is gone.
pub fn write_broken_redirect(reply: &mut Reply<'_>, id: u64) {
    reply.push(2);
    reply.bulk(b"tracking-redir-broken");
    reply.integer(id as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_next_command_reads_is_remembered_as_the_mode_and_caching_say() {
        for (mode, plain, said) in [
            (Mode::Reads, true, true),
            (Mode::OptIn, false, true),
            (Mode::OptOut, true, false),
            (Mode::Broadcast, false, false),
        ] {
            let mut tracking = Tracking { mode, ..Tracking::default() };
            assert_eq!(tracking.take_remembers(false), plain, "{mode:?}");
            tracking.caching = true;
            assert_eq!(tracking.take_remembers(false), said, "{mode:?}");
            assert_eq!(tracking.take_remembers(false), plain, "{mode:?}: it is forgotten");
        }
    }
}
