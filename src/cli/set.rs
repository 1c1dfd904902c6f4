//! `stave set`: gives a key a value.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use serde::Serialize;
use stavekv_client::blocking::Client;
use stavekv_client::{Ack, Change, Op};

use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::EXIT_OK;
use super::ask::{Ask, Session};
use super::condition::Condition;
use super::duration;
use super::failure::Failure;
use super::text::Bytes;

const EXAMPLES: &str = "\
Examples:
  stave set greeting hello
  stave set picture - < picture.png              the value is standard input, to the byte
  stave set lock me --ttl 30s --if absent        whoever comes second gets exit code 5
  stave set greeting hi --if equals=hello
  stave set greeting hi --if version=0           0: the key is absent; get --json shows versions
  stave set visits 7 --ack leader                sooner; it may be lost with the node that leads
  stave set -- -key --value                      after --, nothing is an option

When it has printed the version, the value is on the disks of a majority; with --ack leader, on the
disk of one node; with --ack relaxed, it is on its way there. Exit code 6: it is not known
whether it is; look before you do it again.";

/// Give a key a value
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Set {
    /// Which
    key: OsString,

    /// Its value; - is standard input
    #[arg(allow_negative_numbers = true)]
    value: OsString,

    /// How long it stays, for good unless said: 500ms, 30s, 5m, 2h, 7d, or "keep" for as long as
    /// what the key holds
    #[arg(long, value_name = "TIME", value_parser = Ttl::parse)]
    ttl: Option<Ttl>,

    /// Only if this holds: absent, present, equals=VALUE or version=NUMBER
    #[arg(
        long = "if",
        value_name = "CONDITION",
        value_parser = OsStringValueParser::new().try_map(Condition::parse)
    )]
    condition: Option<Condition>,

    /// What the answer waits for: quorum (a majority has it on disk), leader (the partition's
    /// leader has) or relaxed (nobody has yet); as the server is set unless said
    #[arg(long, value_name = "WHEN")]
    ack: Option<Ack>,
}

/// How long a value stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    In(Duration),
    Keep,
}

impl Ttl {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "keep" { Ok(Self::Keep) } else { duration::parse(text).map(Self::In) }
    }
}

/// The client, whose answers wait for this.
pub(super) fn answered_at(session: &Session<'_>, ack: Option<Ack>) -> Client {
    ack.map_or_else(|| session.client.clone(), |ack| session.client.with_ack(ack))
}

/// What became of a key, in JSON.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    pub key: Bytes<'a>,
    /// "created", "replaced", "deleted", or "absent": there was nothing to delete.
    pub change: &'a str,
    /// 0: nothing was written.
    #[serde(serialize_with = "super::text::version")]
    pub version: u64,
}

/// A word for it.
pub(super) fn change_of(change: Change) -> &'static str {
    match change {
        Change::Nothing => "absent",
        Change::Created => "created",
        Change::Replaced => "replaced",
        Change::Deleted => "deleted",
    }
}

impl Ask for Set {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let input = if self.value == "-" { Some(session.read_value()?) } else { None };
        let value = input.as_deref().unwrap_or(self.value.as_bytes());
        let key = self.key.as_bytes();
        let op = match self.ttl {
            None => Op::set(key, value),
            Some(Ttl::In(ttl)) => Op::set(key, value).ttl(ttl),
            Some(Ttl::Keep) => Op::set(key, value).keep_ttl(),
        };
        let outcome =
            answered_at(session, self.ack).write(&Condition::hold(self.condition.as_ref(), op))?;
        let (change, version) = (change_of(outcome.change), outcome.version);
        let record = Record { key: Bytes(key), change, version };
        session.print(&record, &format!("{change}, version {version}"))?;
        Ok(EXIT_OK)
    }
}
