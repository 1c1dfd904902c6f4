//! `stave del`: removes keys.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use stavekv_client::blocking::Answer;
use stavekv_client::{Ack, Op};

use super::EXIT_OK;
use super::ask::{Ask, Session};
use super::condition::Condition;
use super::failure::Failure;
use super::set::{Record, answered_at, change_of};
use super::text::{Bytes, word};

const EXAMPLES: &str = "\
Examples:
  stave del greeting
  stave del user:1 user:2 user:3                 one after the other, not all or none
  stave del lock --if equals=me                  only whoever set it
  stave del greeting --if present                exit code 5 if it is absent; else 0";

/// Remove keys
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Del {
    /// Which
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,

    /// Only if this holds: present, equals=VALUE or version=NUMBER
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

impl Ask for Del {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let client = answered_at(session, self.ack);
        let mut pipeline = client.pipeline();
        for key in &self.keys {
            let op = Op::delete(key.as_bytes());
            pipeline.write(Condition::hold(self.condition.as_ref(), op));
        }
        let mut failed = None;
        for (key, answer) in self.keys.iter().zip(pipeline.run()) {
            let key = key.as_bytes();
            match answer {
                Ok(Answer::Outcome(outcome)) => {
                    let (change, version) = (change_of(outcome.change), outcome.version);
                    let record = Record { key: Bytes(key), change, version };
                    session.print(&record, &format!("{change} {}", word(key)))?;
                }
                Ok(Answer::Item(_)) => unreachable!("writes have outcomes"),
                // The first is told; if one is unknown, that one.
                Err(error) => {
                    if failed.is_none() || error.is_unknown() {
                        failed = Some(error);
                    }
                }
            }
        }
        failed.map_or(Ok(EXIT_OK), |error| Err(error.into()))
    }
}
