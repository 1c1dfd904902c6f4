//! `stave inspect manifest`: what a shard's manifest says, record by record, and whether the tables
//! that it names are there.
//!
//! Records are read as a start reads them ([`crate::lsm::manifest::replay`]), on plain files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::line::{Key, Line, Printer};
use crate::cli::directory::{Identity, Visit};
use crate::id::ShardId;
use crate::lsm::block::Origin;
use crate::lsm::manifest::file::seq_of;
use crate::lsm::manifest::format::{Kind, Record, VERSION, decode};
use crate::lsm::manifest::replay::{Damage, replay};
use crate::lsm::manifest::{Edit, Keys, State};
use crate::lsm::table;
use crate::server::tree_dir;

const HELP: &str = "\
Examples:
  stave inspect manifest /srv/stave                     all shards: the manifest that counts
  stave inspect manifest /srv/stave/shard-00/tree       of one shard
  stave inspect manifest FILE --json | jq 'select(.type == \"add\")'

What is printed:
  manifest  a file; its first record's checksum is right
    record  a snapshot or an edit, with its place; it follows the one before
      shard, partition   what holds from then on
      remove, add        tables; keys are escaped and cut at 64 bytes
  torn      bytes behind the last record, of an edit that nobody was told of
  sound     all records are right; given a directory: all tables are there, of the right length
  refused   what is wrong first, and where

Only tables' names and lengths are looked at: see `stave inspect sstable`. Exit code 3: it is
refused, or the directory is in use.";

/// Print what a manifest says, and whether it is sound
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Manifest {
    /// A data directory, the directory of a tree in it, or a file whose name ends in .manifest
    #[arg(value_name = "PATH")]
    pub(super) path: PathBuf,

    /// Print JSON, an object per line; "type" says what it is
    #[arg(long)]
    pub(super) json: bool,
}

impl Manifest {
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        super::print(out, self.json, |printer| inspect(&self.path, printer))
    }
}

/// Prints the manifests at `path`. False: some are refused.
fn inspect(path: &Path, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let mut above = path.ancestors().take(4).filter(|above| above.is_dir());
    let data_dir = above.find_map(|dir| Some((dir, Identity::read(dir).transpose()?)));
    let _visit = data_dir.as_ref().map(|(dir, _)| Visit::begin(dir)).transpose()?;
    if let Some((dir, identity)) = data_dir
        && dir == path
    {
        let mut all_sound = true;
        for shard in 0..identity?.cores {
            let dir = tree_dir(&path, ShardId(shard));
            // A shard that has flushed nothing has no tree.
            if let Some(file) = newest(&dir)? {
                all_sound &= of_file(&file, Some(&dir), printer)?;
            }
        }
        return Ok(all_sound);
    }
    if path.is_file() {
        return of_file(&path, None, printer);
    }
    let file = newest(&path)?.with_context(|| format!("{}: no manifest", path.display()))?;
    of_file(&file, Some(&path), printer)
}

/// The manifest that counts in a directory.
pub(in crate::cli) fn newest(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut found = None;
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let name = entry.with_context(|| dir.display().to_string())?.file_name();
        let seq = name.to_str().and_then(seq_of).map(|seq| (seq, dir.join(&name)));
        found = found.max(seq);
    }
    Ok(found.map(|(_, path)| path))
}

/// Prints one file; with `dir` the tables that it names must be there. False: it is refused.
fn of_file(path: &Path, dir: Option<&Path>, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let shown = || path.display().to_string();
    let name = path.file_name().and_then(|name| name.to_str());
    let seq =
        name.and_then(seq_of).with_context(|| format!("{}: not a manifest's name", shown()))?;
    let bytes = fs::read(path).with_context(shown)?;
    let first = decode(&bytes).map(|record| record.header.log);
    let log = match first {
        Ok(log) => {
            printer.line(&Line::Manifest {
                file: &shown(),
                shard: log.shard.0,
                log_id: format!("{:032x}", log.directory),
                bytes: bytes.len() as u64,
            });
            Ok(log)
        }
        Err(bad) => Err(bad),
    };
    // What the first record says of itself is all that is known of whose it is.
    let end = print_records(&bytes, printer);
    let verdict = match log {
        Ok(log) => replay(&bytes, log, seq),
        Err(crate::lsm::manifest::format::Bad::Version(version)) => Err(Damage::Version(version)),
        Err(_) => Err(Damage::Corrupt { offset: 0 }),
    };
    let refused = match verdict {
        Ok(state) => {
            if end < bytes.len() {
                printer.line(&Line::Torn { from: end as u64, to: bytes.len() as u64 });
            }
            let missing = dir.and_then(|dir| missing(&state, dir));
            if missing.is_none() {
                print_sound(&state, seq, printer);
            }
            missing
        }
        Err(Damage::Corrupt { offset }) => {
            Some(format!("corrupt manifest: no valid record at byte {offset} of {}", shown()))
        }
        Err(Damage::Foreign) => Some(format!("{} has another file's name", shown())),
        Err(Damage::Version(version)) => Some(format!(
            "{} has manifest format {version} and this program knows {VERSION}: use the version \
             of stave that wrote it",
            shown()
        )),
    };
    let is_sound = refused.is_none();
    if let Some(error) = refused {
        printer.line(&Line::Refused { error });
    }
    printer.check()?;
    Ok(is_sound)
}

fn print_sound(state: &State, seq: u64, printer: &mut Printer<'_>) {
    printer.line(&Line::SoundManifest {
        seq,
        tables: state.tables().count(),
        bytes: state.tables().map(|entry| entry.meta.file_len).sum(),
        number_next: state.shard().number_next,
        log_from: state.shard().log_from.0,
    });
}

/// A table that the state names and that is not there as it should be.
fn missing(state: &State, dir: &Path) -> Option<String> {
    state.tables().find_map(|entry| {
        let path = dir.join(table::file_name(entry.meta.number));
        match fs::metadata(&path) {
            Err(error) => Some(format!("table {}: {error}", path.display())),
            Ok(found) if found.len() != entry.meta.file_len => Some(format!(
                "corrupt table: {} has {} bytes and had {}",
                path.display(),
                found.len(),
                entry.meta.file_len
            )),
            Ok(_) => None,
        }
    })
}

/// Prints records as long as they are sound; where the first begins that is not.
fn print_records(bytes: &[u8], printer: &mut Printer<'_>) -> usize {
    let mut offset = 0;
    while let Ok(Record { header, edit, len, .. }) = decode(&bytes[offset..]) {
        printer.line(&Line::Record {
            kind: if header.kind == Kind::Snapshot { "snapshot" } else { "edit" },
            number: header.number,
            offset: offset as u64,
            bytes: len,
        });
        print_edit(&edit, printer);
        offset += len;
    }
    offset
}

fn print_edit(edit: &Edit, printer: &mut Printer<'_>) {
    if let Some(shard) = edit.shard {
        printer.line(&Line::Shard {
            number_next: shard.number_next,
            blob_last: shard.blob_last,
            log_from: shard.log_from.0,
        });
    }
    for (id, state) in &edit.partitions {
        printer.line(&Line::Partition {
            partition: id.0,
            index: state.index,
            index_term: state.index_term,
            term: state.term,
            vote: state.vote,
            flushed: state.flushed.0,
            clock: state.clock.0,
            log_from: state.log_from.0,
        });
    }
    for Keys { partition, db, keys, expiring } in &edit.keys {
        let (partition, db, keys, expiring) = (partition.0, *db, *keys, *expiring);
        printer.line(&Line::Keys { partition, db, keys, expiring });
    }
    for number in &edit.remove {
        printer.line(&Line::Remove { number: *number });
    }
    for entry in &edit.add {
        printer.line(&Line::Add {
            number: entry.meta.number,
            partition: entry.partition.0,
            level: entry.level,
            bytes: entry.meta.file_len,
            rows: entry.meta.statistics.row_count,
            checksum: format!("{:016x}", entry.meta.checksum),
            origin: entry.meta.origin.map(|Origin { log, number }| {
                format!("table {number} of log {:032x} shard {}", log.directory, log.shard.0)
            }),
            smallest: Key::of(&entry.meta.smallest),
            largest: Key::of(&entry.meta.largest),
        });
    }
}
