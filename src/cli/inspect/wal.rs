//! `stave inspect wal`: which logs are meant, and whether they may be looked at.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::line::{Line, Printer};
use super::walk::{self, Log};
use crate::cli::directory::{self, Identity, Visit};
use crate::id::ShardId;
use crate::limits::SECTOR_LEN;
use crate::server::log_dir;
use crate::wal::format::SegmentHeader;
use crate::wal::{LogId, segment_seq};

const HELP: &str = "\
Examples:
  stave inspect wal /srv/stave                                        all shards
  stave inspect wal /srv/stave/shard-00/wal/00000000000000000007.wal  one file of one
  stave inspect wal /srv/stave --json | jq -r 'select(.type == \"put\") | .key'
  stave inspect wal /srv/stave | grep -A2 '^end'                      where the logs end

What is printed, each with its place in its file:
  segment  a file of the log; its header's checksum is right
    block  what one write put there: checksum and chain to the block before are right
      entry, hard state, blob   its records; an entry's effects are below it:
        put, delete, clear      keys are escaped and cut at 64 bytes, values only measured
  end      where the log ends; what is behind it is void: never acknowledged, never read
  sound    a server starts on this log, and has everything that is printed
  refused  it does not: which file is broken at which byte, and what proves that more was there

A server must not run on the directory, and can not be started there meanwhile. Exit code 3: a log
is refused, or the directory is in use.";

/// Print the records of a write-ahead log, and whether it is sound
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Wal {
    /// A data directory, the directory of a log in it, or a file of that
    #[arg(value_name = "PATH")]
    pub(super) path: PathBuf,

    /// Print JSON, an object per line; "type" says what it is
    #[arg(long)]
    pub(super) json: bool,
}

impl Wal {
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        super::print(out, self.json, |printer| inspect(&self.path, printer))
    }
}

/// Prints the logs at `path`. False: some are refused.
fn inspect(path: &Path, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let mut above = path.ancestors().take(4).filter(|above| above.is_dir());
    let data_dir = above.find_map(|dir| Some((dir, Identity::read(dir).transpose()?)));
    let _visit = data_dir.as_ref().map(|(dir, _)| Visit::begin(dir)).transpose()?;
    let mut all_sound = true;
    for log in logs(&path, data_dir)? {
        printer.line(&Line::Log { shard: log.id.shard.0, dir: &log.dir });
        all_sound &= walk::walk(&log, printer)?;
    }
    Ok(all_sound)
}

/// The logs that are meant by `path`, which is or is in the data directory, if that is known.
fn logs(
    path: &Path,
    data_dir: Option<(&Path, Result<Identity, directory::Error>)>,
) -> anyhow::Result<Vec<Log>> {
    if let Some((dir, identity)) = data_dir
        && dir == path
    {
        let identity = identity?;
        let log = |shard| {
            let id = LogId { directory: identity.log_id(), shard: ShardId(shard) };
            Log { dir: log_dir(dir, id.shard), id, only: None, needed_from: None }
        };
        return Ok((0..identity.cores).map(log).collect());
    }
    let only = path.is_file().then(|| path.file_name().and_then(|name| name.to_str()));
    let only = only.map(|name| {
        name.and_then(segment_seq)
            .with_context(|| format!("{}: not the name of a log's file", path.display()))
    });
    let only = only.transpose()?;
    let dir = if only.is_some() { path.parent().unwrap_or(path) } else { path };
    Ok(vec![Log { id: id_of(dir)?, dir: dir.to_owned(), only, needed_from: None }])
}

/// Whose log a directory holds, as the first header there says that can be read.
fn id_of(dir: &Path) -> anyhow::Result<LogId> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        if entry.file_name().to_str().and_then(segment_seq).is_none() {
            continue;
        }
        let mut sector = [0; SECTOR_LEN];
        let file = File::open(entry.path()).with_context(|| entry.path().display().to_string())?;
        if file.read_exact_at(&mut sector, 0).is_ok()
            && let Ok((header, _)) = SegmentHeader::decode(&sector)
        {
            return Ok(header.log);
        }
    }
    anyhow::bail!(
        "{}: no file of a log with a sound header is here; give the data directory",
        dir.display()
    )
}
