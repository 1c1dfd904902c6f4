//! `stave get`: what a key holds, to the byte.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stavekv_client::Item;

use super::ask::{Ask, Session};
use super::failure::Failure;
use super::text::{Bytes, word};
use super::{EXIT_ABSENT, EXIT_OK};

const EXAMPLES: &str = "\
Examples:
  stave get greeting                     the value alone, without an end of line in a file or pipe
  stave get picture > picture.png        to the byte
  stave get greeting --json              with its version, and when it goes by itself
  stave get greeting || echo none        the exit code is 5 if the key is absent
  stave get greeting --stale             also from a node that does not lead the key's partition";

/// Print what a key holds
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Get {
    /// Which
    key: OsString,

    /// The answer may be old, as old as the node that is asked allows (its read-staleness-max): it
    /// need not ask the leader then
    #[arg(long)]
    stale: bool,
}

/// A key and what it holds, in JSON.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    pub key: Bytes<'a>,
    /// Null: the key is absent, or values were not asked for.
    pub value: Option<Bytes<'a>>,
    /// 0: the key is absent.
    #[serde(serialize_with = "super::text::version")]
    pub version: u64,
    /// Unix milliseconds; null: it stays.
    pub expires_ms: Option<u64>,
}

/// Unix milliseconds.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Ask for Get {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let key = self.key.as_bytes();
        let item = match self.stale {
            true => session.client.with_stale_reads().get(key)?,
            false => session.client.get(key)?,
        };
        let (version, expires) = match &item {
            Some(Item { version, expires, .. }) => (*version, *expires),
            None => (0, None),
        };
        let value = item.as_ref().map(|item| Bytes(&item.value));
        let expires_ms = expires.map(unix_ms);
        let record = Record { key: Bytes(key), value, version, expires_ms };
        match &item {
            Some(item) => session.print_value(&record, &item.value)?,
            None => session.print_absence(&record, &format!("{} is absent", word(key)))?,
        }
        Ok(if item.is_some() { EXIT_OK } else { EXIT_ABSENT })
    }
}
