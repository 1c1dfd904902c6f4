//! `stave inspect sstable`: one table, part by part, each verified; with `--rows` its rows.
//!
//! The file is read as any reader does ([`crate::cli::parts`]), on plain files. Only what it
//! says of itself is known: which file should be here is the manifest's to say.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::line::{Key, Line, Printer};
use crate::cli::parts::{Parts, Piece};
use crate::lsm::block::{
    Cursor, Footer, Handle, Head, Kind, Malformed, PartKind, Run, VERSION, Value,
};
use crate::lsm::filter::Filter;
use crate::lsm::table::Error;

const HELP: &str = "\
Examples:
  stave inspect sstable 00000000000000000007.sst          its footer, statistics and parts
  stave inspect sstable 00000000000000000007.sst --rows   its rows too
  stave inspect sstable FILE --json | jq 'select(.type == \"table\")'

What is printed:
  table    the footer: whose file it is, its number, its lengths
  rows     what rows it has: counts, versions, deadlines, bytes
  part     a piece of the file, with its place; its checksum is right
    put, delete   a row of it (--rows); keys are escaped and cut at 64 bytes, values only measured
  sound    every byte of the file is under a checksum, and all of them are right
  refused  what is wrong first, and at which byte

Whether it is the file that belongs here can not be told from the file alone. Exit code 3: it is
refused.";

/// Print what is in a table, and whether it is sound
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Sstable {
    /// A file whose name ends in .sst
    #[arg(value_name = "FILE")]
    pub(super) path: PathBuf,

    /// Print the rows too
    #[arg(long)]
    pub(super) rows: bool,

    /// Print JSON, an object per line; "type" says what it is
    #[arg(long)]
    pub(super) json: bool,
}

impl Sstable {
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        super::print(out, self.json, |printer| inspect(&self.path, self.rows, printer))
    }
}

/// Prints the table at `path`. False: it is refused.
fn inspect(path: &Path, rows: bool, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let verdict = Reader { rows, printer }.read(path);
    let is_sound = verdict.is_ok();
    match verdict {
        Err(error @ Error::Io { .. }) => return Err(error.into()),
        Err(error) => printer.line(&Line::Refused { error: error.to_string() }),
        Ok(()) => {}
    }
    printer.check()?;
    Ok(is_sound)
}

struct Reader<'a, 'p> {
    rows: bool,
    printer: &'a mut Printer<'p>,
}

impl Reader<'_, '_> {
    fn read(mut self, path: &Path) -> Result<(), Error> {
        let mut parts = Parts::open(path)?;
        self.print_footer(parts.footer());
        let mut filter = Vec::new();
        while let Some(Piece { part, handle, raw, .. }) = parts.next()? {
            let Handle { offset, len } = handle;
            self.printer.line(&Line::Part {
                kind: part.kind.name(),
                offset,
                bytes: len,
                raw_bytes: part.raw_len,
                count: part.count,
            });
            let wrong = |malformed| Error::corrupt(path, offset, malformed);
            match part.kind {
                PartKind::Rows => self.print_rows(&raw).map_err(wrong)?,
                PartKind::Filter => filter.extend_from_slice(&raw),
                _ => {}
            }
        }
        let Run { offset, len } = parts.footer().filter;
        if filter.len() as u64 != len || Filter::of(&filter).is_none() {
            return Err(Error::corrupt(path, offset, Malformed { what: "filter" }));
        }
        parts.check()?;
        let bytes = parts.footer().file_len;
        self.printer.line(&Line::SoundTable { bytes, parts: parts.count() });
        Ok(())
    }

    fn print_footer(&mut self, footer: &Footer) {
        let of = &footer.statistics;
        self.printer.line(&Line::Table {
            number: footer.number,
            shard: footer.log.shard.0,
            log_id: format!("{:032x}", footer.log.directory),
            bytes: footer.file_len,
            compression: footer.compression.name().to_owned(),
            format: VERSION,
        });
        self.printer.line(&Line::Rows {
            rows: of.row_count,
            puts: of.put_count,
            deletes: of.delete_count,
            expiring: of.expiring_count,
            timestamp_min: of.timestamp_min.0,
            timestamp_max: of.timestamp_max.0,
            expiry_min_ms: of.expiry_min_ms,
            expiry_max_ms: of.expiry_max_ms,
            key_bytes: of.key_len,
            value_bytes: of.value_len,
            large_bytes: of.large_len,
        });
    }

    /// Reads the rows of a part, and prints them if they were asked for.
    fn print_rows(&mut self, rows: &[u8]) -> Result<(), Malformed> {
        let mut cursor = Cursor::default();
        cursor.start(rows)?;
        while cursor.next(rows)? {
            let head = Head::decode(rows, cursor.body())?;
            if !self.rows {
                continue;
            }
            let (at, timestamp) = (cursor.body().start, head.timestamp.0);
            let Some(key) = Key::of(cursor.key()) else {
                self.printer.line(&Line::Malformed { at });
                continue;
            };
            let value = head.value(rows);
            let blob = if let Value::Large(large) = value { Some(large.offset) } else { None };
            self.printer.line(&match head.kind {
                Kind::Delete => Line::Delete { key, timestamp },
                Kind::Put => Line::Put {
                    key,
                    value_len: value.len(),
                    blob,
                    expiry_ms: head.expiry_ms,
                    timestamp,
                },
            });
        }
        Ok(())
    }
}
