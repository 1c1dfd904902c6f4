//! `stave scan`: walks over keys.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use stavekv_client::Scan as Which;

use super::EXIT_OK;
use super::ask::{Ask, Session};
use super::failure::Failure;
use super::get::{Record, unix_ms};
use super::text::{Bytes, word};

const EXAMPLES: &str = "\
Examples:
  stave scan                                     all keys, one on a line
  stave scan 'user:[0-9]*'                       those that a glob fits
  stave scan --prefix user: --values             those that begin so; value behind a tab
  stave scan --limit 10 --json                   ten of them, with versions

Keys and values that are no plain words are in double quotes, with \\n and \\x00 for what can not be
seen, as the repl takes them. The order is the server's. It can go on for as long as you like: the
server keeps nothing. A key that comes or goes meanwhile may or may not be among them.";

/// Walk over keys
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Scan {
    /// Which keys, as a glob: *, ?, [a-z], [^a], and \ before what is meant as it is
    #[arg(conflicts_with = "prefix")]
    pattern: Option<OsString>,

    /// Which keys: those that begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<OsString>,

    /// With their values
    #[arg(long)]
    values: bool,

    /// Most keys to print
    #[arg(long, value_name = "COUNT", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
}

impl Scan {
    fn which(&self) -> Which {
        let which = match (&self.pattern, &self.prefix) {
            (Some(pattern), _) => Which::glob(pattern.as_bytes()),
            (None, Some(prefix)) => Which::prefix(prefix.as_bytes()),
            (None, None) => Which::all(),
        };
        let which = if self.values { which.values() } else { which };
        // A page is a server's work without a pause: some thousand keys a second are enough.
        which.page_len(u32::try_from(self.limit.clamp(1, 500)).unwrap_or(500))
    }
}

impl Ask for Scan {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        for entry in session.client.scan(self.which()).take(self.limit) {
            let entry = entry?;
            let value = entry.value.as_deref();
            let expires_ms = entry.expires.map(unix_ms);
            let (key, value_json) = (Bytes(&entry.key), value.map(Bytes));
            let record = Record { key, value: value_json, version: entry.version, expires_ms };
            let text = match value {
                Some(value) => format!("{}\t{}", word(&entry.key), word(value)),
                None => word(&entry.key).into_owned(),
            };
            session.print(&record, &text)?;
        }
        Ok(EXIT_OK)
    }
}
