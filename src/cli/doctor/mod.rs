//! `stave doctor`: whether a data directory is whole, every byte of it that counts.
//!
//! It trusts what a start trusts and reads what a start leaves to later: besides identity, manifest
//! and log each part of each table, in the order of its keys. It has no reader of its own: tables
//! are [`super::parts`]', the log is what [`super::inspect`] walks, verdicts are the formats'.
//! Nothing is changed, and no server can start on the directory meanwhile.
//!
//! Reading order: `report` (what is said), `shard` (the order of the examination), `table`, `log`.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::directory::{self, Identity, Visit};
use super::{EXIT_FAILURE, EXIT_OK, EXIT_USAGE};
use crate::cluster::SlotMap;
use crate::id::ShardId;
use crate::server::{IDENTITY, tree_dir};
use crate::wal::LogId;
use report::{Finding, Report};
use shard::Place;

mod log;
mod report;
mod shard;
mod table;
#[cfg(test)]
mod tests;

const HELP: &str = "\
Examples:
  stave doctor --data-dir /srv/stave
  stave doctor --data-dir /srv/stave --json | jq 'select(.type == \"finding\")'

What is printed, a line each:
  finding   what is wrong: the file and the byte, what it means (which keys, which partition,
            whether a server starts), and the cure
  note      what a crash may leave and the next start tidies; nothing is lost by it
  progress  how far it is
  verdict   the sum

What stands behind the end of the log can not be told from what a crash left there: a write that
nobody was told of. Copies in checkpoints/ are directories of their own: give their path.

Exit code 0: all is sound. 1: there are findings. 2: it can not be looked at, or is in use.";

/// Verify every file of a data directory whose server does not run; nothing is changed
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Doctor {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: PathBuf,

    /// Print JSON, an object per line; "type" says what it is
    #[arg(long)]
    pub(super) json: bool,
}

impl Doctor {
    /// Prints to `out`; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        let mut out = BufWriter::new(out);
        let mut report = Report::new(&mut out, self.json);
        let ended = examine(&self.data_dir, &mut report).and_then(|()| Ok(report.end()?));
        match ended {
            Ok(true) => EXIT_OK,
            Ok(false) => EXIT_FAILURE,
            Err(error) => {
                eprintln!("stave: {error:#}");
                EXIT_USAGE
            }
        }
    }
}

/// Examines a data directory.
///
/// # Errors
/// It can not be looked at.
fn examine(dir: &Path, report: &mut Report<'_>) -> anyhow::Result<()> {
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let _visit = Visit::begin(&dir)?;
    let Some(identity) = identity(&dir, report)? else { return Ok(()) };
    let map = SlotMap::new(identity.cores, identity.partitions_per_core().into());
    report.count_file(&dir.join(IDENTITY));
    let shards = || (0..identity.cores).map(ShardId);
    let was_served = shards().any(|shard| tree_dir(&dir, shard).parent().is_some_and(Path::is_dir));
    for shard in shards() {
        let log = LogId { directory: identity.log_id(), shard };
        Place { data_dir: &dir, log, map, was_served }.examine(report)?;
    }
    shard::strays(&dir, report, |name| shard::is_of_directory(name, identity.cores))
}

/// What the directory is; none if that is damaged, which was said.
fn identity(dir: &Path, report: &mut Report<'_>) -> anyhow::Result<Option<Identity>> {
    let what = match Identity::read(dir) {
        Ok(Some(identity)) => {
            // A shard has a whole number of partitions, and none has more than the slots.
            let fits = identity.partitions.is_multiple_of(u32::from(identity.cores))
                && identity.partitions <= u32::from(crate::limits::SLOT_COUNT);
            if fits {
                return Ok(Some(identity));
            }
            "its partitions do not fit its cores".to_owned()
        }
        Ok(None) if fs::exists(dir.join("shard-00"))? => "it is missing".to_owned(),
        Ok(None) => anyhow::bail!("{} has no {IDENTITY}: no data directory", dir.display()),
        Err(directory::Error::Damaged { what, .. }) => what.to_owned(),
        Err(error) => return Err(error.into()),
    };
    let meaning = "no server starts, and whose the other files are is not known: nothing else was \
                   looked at";
    report.finding(Finding {
        cure: report::RESTORE,
        ..Finding::of(&dir.join(IDENTITY), what, meaning)
    });
    Ok(None)
}
