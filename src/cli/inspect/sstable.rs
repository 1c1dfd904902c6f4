//! `stave inspect sstable`: one table, part by part, each verified; with `--rows` its rows.
//!
//! The file is read as a table's reader does ([`crate::lsm::block`]), on plain files. Only what it
//! says of itself is known: which file should be here is the manifest's to say.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::line::{Key, Line, Printer};
use crate::limits::SECTOR_LEN;
use crate::lsm::block::{
    BadFooter, Cursor, Footer, HEADER_LEN, Handle, Head, Kind, Malformed, PART_LEN_MAX, Part,
    PartKind, Run, VERSION, Value, fold, part_len,
};
use crate::lsm::filter::Filter;

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

/// Why a table is refused.
enum Refused {
    /// It can not be read.
    Io(io::Error),
    /// At this byte.
    Malformed(u64, &'static str),
    /// Of another version.
    Version(u32),
    /// Longer or shorter than it says.
    Length { len: u64, expected: u64 },
}

/// Prints the table at `path`. False: it is refused.
fn inspect(path: &Path, rows: bool, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let at = || path.display().to_string();
    let file = File::open(path).with_context(at)?;
    let len = file.metadata().with_context(at)?.len();
    let verdict = Reader { file, len, rows, printer }.read();
    let is_sound = verdict.is_ok();
    if let Err(refused) = verdict {
        let path = path.display();
        let error = match refused {
            Refused::Io(error) => return Err(error).with_context(at),
            Refused::Malformed(offset, what) => {
                format!("corrupt table: no valid {what} at byte {offset} of {path}")
            }
            Refused::Version(version) => format!(
                "{path} has table format {version} and this program knows {VERSION}: use the \
                 version of stave that wrote it"
            ),
            Refused::Length { len, expected } => {
                format!("corrupt table: {path} has {len} bytes and its footer says {expected}")
            }
        };
        printer.line(&Line::Refused { error });
    }
    printer.check()?;
    Ok(is_sound)
}

struct Reader<'a, 'p> {
    file: File,
    len: u64,
    rows: bool,
    printer: &'a mut Printer<'p>,
}

impl Reader<'_, '_> {
    fn read(mut self) -> Result<(), Refused> {
        let footer = self.footer()?;
        self.print_footer(&footer);
        let (mut offset, mut digest, mut found) = (0, 0, Found::default());
        let end = self.len - SECTOR_LEN as u64;
        while offset < end {
            let (handle, checksum) = self.part(&footer, offset, &mut found)?;
            digest = fold(digest, checksum);
            offset = handle.end();
        }
        found.check(&footer, digest)?;
        self.printer.line(&Line::SoundTable { bytes: self.len, parts: found.parts });
        Ok(())
    }

    fn footer(&self) -> Result<Footer, Refused> {
        let sector_len = SECTOR_LEN as u64;
        if self.len < 2 * sector_len || !self.len.is_multiple_of(sector_len) {
            return Err(Refused::Malformed(self.len / sector_len * sector_len, "footer"));
        }
        let (mut sector, at) = ([0; SECTOR_LEN], self.len - sector_len);
        self.file.read_exact_at(&mut sector, at).map_err(Refused::Io)?;
        match Footer::decode(&sector) {
            Ok((footer, _)) if footer.file_len != self.len => {
                Err(Refused::Length { len: self.len, expected: footer.file_len })
            }
            Ok((footer, _)) => Ok(footer),
            Err(BadFooter::Absent) => Err(Refused::Malformed(at, "footer")),
            Err(BadFooter::Version(version)) => Err(Refused::Version(version)),
        }
    }

    /// Verifies and prints the part at `offset`; its place and its checksum.
    fn part(
        &mut self,
        footer: &Footer,
        offset: u64,
        found: &mut Found,
    ) -> Result<(Handle, u64), Refused> {
        let mut header = [0; HEADER_LEN];
        self.file.read_exact_at(&mut header, offset).map_err(Refused::Io)?;
        let Some((claimed, _)) = Part::peek(&header) else {
            return Err(Refused::Malformed(offset, "part"));
        };
        let len = part_len(claimed.body_len).min(PART_LEN_MAX);
        if offset + len as u64 > self.len - SECTOR_LEN as u64 {
            return Err(Refused::Malformed(offset, claimed.kind.name()));
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(Refused::Io)?;
        let wrong = |malformed: Malformed| Refused::Malformed(offset, malformed.what);
        let (part, checksum) =
            Part::open(claimed.kind, footer.seed(), offset, &bytes).map_err(wrong)?;
        self.printer.line(&Line::Part {
            kind: part.kind.name(),
            offset,
            bytes: len,
            raw_bytes: part.raw_len,
            count: part.count,
        });
        let mut raw = Vec::new();
        part.decompress(&bytes, &mut raw).map_err(wrong)?;
        found.take(&part, &raw);
        if part.kind == PartKind::Rows {
            self.print_rows(&raw).map_err(wrong)?;
        }
        Ok((Handle { offset, len }, checksum))
    }

    fn print_footer(&mut self, footer: &Footer) {
        let of = &footer.statistics;
        self.printer.line(&Line::Table {
            number: footer.number,
            shard: footer.log.shard.0,
            log_id: format!("{:032x}", footer.log.directory),
            bytes: footer.file_len,
            compression: format!("{:?}", footer.compression).to_lowercase(),
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

/// What was met, to be held against the footer.
#[derive(Default)]
struct Found {
    parts: u64,
    rows: u64,
    row_parts: u64,
    filter: Vec<u8>,
}

impl Found {
    fn take(&mut self, part: &Part, raw: &[u8]) {
        self.parts += 1;
        match part.kind {
            PartKind::Rows => {
                self.rows += u64::from(part.count);
                self.row_parts += 1;
            }
            PartKind::Filter => self.filter.extend_from_slice(raw),
            _ => {}
        }
    }

    /// That all parts are there, in their order, and no other.
    fn check(&self, footer: &Footer, digest: u64) -> Result<(), Refused> {
        let Run { offset, len } = footer.filter;
        if self.filter.len() as u64 != len || Filter::of(&self.filter).is_none() {
            return Err(Refused::Malformed(offset, "filter"));
        }
        let is_all = self.rows == footer.statistics.row_count
            && self.row_parts == footer.row_parts
            && digest == footer.digest;
        let footer_at = footer.file_len - SECTOR_LEN as u64;
        if is_all { Ok(()) } else { Err(Refused::Malformed(footer_at, "digest of all parts")) }
    }
}
