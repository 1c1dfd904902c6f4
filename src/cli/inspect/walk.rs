//! One log, printed as it is walked: the walker of a replay ([`crate::wal::walk`]) on plain files.
//!
//! Memory is bounded by a window of two blocks at most, however long the log is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::line::{Line, Printer};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;
use crate::mvcc;
use crate::wal::format::{BLOCK_HEADER_LEN, RECORD_HEADER_LEN, Record, RecordKind};
use crate::wal::walk::{Defect, Fed, Found, Met, Walker, unneeded};
use crate::wal::{Error, LogId, segment_path, segment_seq};

/// Bytes that are read at a time, at least.
const PIECE_LEN: usize = 1 << 20;

/// Which log.
pub(in crate::cli) struct Log {
    /// Its directory.
    pub(in crate::cli) dir: PathBuf,
    /// Whose it must be.
    pub(in crate::cli) id: LogId,
    /// The only segment to be printed.
    pub(in crate::cli) only: Option<u64>,
    /// From where on it is needed, if that is known: what was before may be released.
    pub(in crate::cli) needed_from: Option<Lsn>,
}

/// Prints a log. False: it is refused, which was said.
pub(in crate::cli) fn walk(log: &Log, printer: &mut Printer<'_>) -> anyhow::Result<bool> {
    let verdict = judge(log, printer)?;
    if let Err(defect) = verdict {
        printer.line(&Line::Refused { error: Error::of(&log.dir, defect).to_string() });
    }
    printer.check()?;
    Ok(verdict.is_ok())
}

/// Prints a log as far as it is sound.
pub(in crate::cli) fn judge(
    log: &Log,
    printer: &mut Printer<'_>,
) -> anyhow::Result<Result<(), Defect>> {
    let walk = find(log)?.and_then(|mut found| {
        if let Some(needed_from) = log.needed_from {
            found.drain(..unneeded(&found, needed_from));
        }
        let first = found.first().and_then(|found| found.header);
        let begin = first.map_or(Lsn(0), |(header, _)| header.base);
        let names = found.iter().map(|found| name_of(&log.dir, found.seq)).collect();
        let needed_from = log.needed_from.unwrap_or(begin);
        let walker = Walker::new(log.id, found.clone(), needed_from, None)?;
        Ok(Walk { log, found, names, walker, printer, shown: None, void: None })
    });
    match walk {
        Ok(walk) => walk.run(),
        Err(defect) => Ok(Err(defect)),
    }
}

fn name_of(dir: &Path, seq: u64) -> String {
    let path = segment_path(dir, seq);
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The segments, by number; from the one that is meant on, if only one is.
fn find(log: &Log) -> anyhow::Result<Result<Vec<Found>, Defect>> {
    let at = || log.dir.display().to_string();
    let mut seqs = Vec::new();
    for entry in std::fs::read_dir(&log.dir).with_context(at)? {
        let name = entry.with_context(at)?.file_name();
        seqs.extend(name.to_str().and_then(segment_seq));
    }
    seqs.retain(|seq| log.only.is_none_or(|only| *seq >= only));
    seqs.sort_unstable();
    let mut all = Vec::new();
    for seq in seqs {
        let path = segment_path(&log.dir, seq);
        let at = || path.display().to_string();
        let file = File::open(&path).with_context(at)?;
        let len = file.metadata().with_context(at)?.len();
        let mut sector = [0; SECTOR_LEN];
        let whole = len.min(SECTOR_LEN as u64) as usize;
        file.read_exact_at(&mut sector[..whole], 0).with_context(at)?;
        match Found::new(log.id, seq, len, &sector) {
            Ok(found) => all.push(found),
            Err(defect) => return Ok(Err(defect)),
        }
    }
    Ok(Ok(all))
}

/// Bytes behind the end of the log, as far as they were looked at.
struct Void {
    index: usize,
    from: u64,
    to: u64,
    is_zero: bool,
}

struct Walk<'a, 'p> {
    log: &'a Log,
    found: Vec<Found>,
    names: Vec<String>,
    walker: Walker,
    printer: &'a mut Printer<'p>,
    /// The last segment that was printed.
    shown: Option<usize>,
    void: Option<Void>,
}

impl Walk<'_, '_> {
    fn run(mut self) -> anyhow::Result<Result<(), Defect>> {
        let (mut window, mut need) = (Window::default(), SECTOR_LEN);
        while let Some((index, offset)) = self.walker.wants() {
            if self.log.only.is_some() && index > 0 && self.walker.ended_at().is_none() {
                self.printer.line(&Line::Next { file: &self.names[index] });
                return Ok(Ok(()));
            }
            self.announce(index);
            let whole = self.walker.read_len(index);
            let path = segment_path(&self.log.dir, self.found[index].seq);
            let bytes = window.get(&path, offset.min(whole)..whole, need);
            let bytes = bytes.with_context(|| path.display().to_string())?;
            let last = offset + bytes.len() as u64 >= whole;
            let is_behind = self.walker.ended_at().is_some();
            let (printer, mut at) = (&mut *self.printer, offset);
            let fed = self.walker.feed(bytes, last, &mut |met| print(printer, &mut at, met));
            match fed {
                Err(defect) => return Ok(Err(defect)),
                Ok(Fed::Needs(len)) => need = len,
                Ok(Fed::Used(used)) => {
                    need = SECTOR_LEN;
                    if is_behind {
                        let is_zero = bytes[..used].iter().all(|byte| *byte == 0);
                        self.note_void(index, offset, used as u64, is_zero);
                    }
                }
            }
            self.printer.check()?;
        }
        self.announce(usize::MAX);
        let end = self.walker.end();
        self.printer.line(&Line::Sound {
            lsn: end.lsn.0,
            durable: end.durable.0,
            epoch: end.epoch,
            segments: end.segment_count,
            blocks: end.block_count,
            records: end.record_count,
        });
        Ok(Ok(()))
    }

    /// The walk is in segment `index`: says what that means.
    fn announce(&mut self, index: usize) {
        let stop = self.walker.ended_at();
        if stop.is_none() && self.shown != Some(index) {
            self.shown = Some(index);
            self.print_segment(index);
        }
        if let Some((last, offset)) = stop
            && self.shown != Some(usize::MAX)
        {
            self.shown = Some(usize::MAX);
            self.printer.line(&Line::End { file: &self.names[last], offset });
        }
        if let Some(void) = self.void.take_if(|void| void.index != index)
            && (self.log.only.is_none() || void.index == 0)
        {
            let Void { index, from, to, is_zero } = void;
            self.printer.line(&Line::Void { file: &self.names[index], from, to, is_zero });
        }
    }

    fn print_segment(&mut self, index: usize) {
        let Some((Found { header: Some((header, _)), len, .. }, file)) =
            self.found.get(index).zip(self.names.get(index))
        else {
            return;
        };
        self.printer.line(&Line::Segment {
            file,
            bytes: *len,
            lsn: header.base.0,
            durable: header.durable.0,
            epoch: header.epoch,
        });
    }

    fn note_void(&mut self, index: usize, offset: u64, len: u64, is_zero: bool) {
        let from = if self.found[index].header.is_none() && offset == SECTOR_LEN as u64 {
            0 // Its first sector is no header.
        } else {
            offset
        };
        let void = self.void.get_or_insert(Void { index, from, to: from, is_zero: true });
        void.to = offset + len;
        void.is_zero &= is_zero;
    }
}

/// Prints what was met; `at` is the place of a block, then of its records.
fn print(printer: &mut Printer<'_>, at: &mut u64, met: Met<'_>) {
    match met {
        Met::Block(block) => {
            printer.line(&Line::Block {
                offset: *at,
                bytes: block.block_len(),
                lsn: block.lsn.0,
                durable: block.durable.0,
                records: block.record_count,
            });
            *at += BLOCK_HEADER_LEN as u64;
        }
        Met::Record(record) => {
            print_record(printer, *at, &record);
            *at += (RECORD_HEADER_LEN + record.payload.len()) as u64;
        }
    }
}

fn print_record(printer: &mut Printer<'_>, offset: u64, record: &Record<'_>) {
    let Record { kind, partition, term, index, payload } = *record;
    let (partition, bytes) = (partition.0, payload.len());
    match kind {
        RecordKind::HardState => {
            let vote = payload.try_into().map_or(0, u64::from_le_bytes);
            printer.line(&Line::HardState { offset, partition, term, vote, commit: index });
        }
        RecordKind::Blob => printer.line(&Line::Blob { offset, bytes, blob: term, at: index }),
        RecordKind::Entry => {
            printer.line(&Line::Entry { offset, bytes, partition, term, index });
            let mut effects = mvcc::decode(payload);
            loop {
                let at = effects.offset();
                match effects.next() {
                    Some(Ok(effect)) => printer.line(&Line::of_effect(&effect, at)),
                    Some(Err(error)) => printer.line(&Line::Malformed { at: error.offset }),
                    None => break,
                }
            }
        }
    }
}

/// A piece of a file in memory.
#[derive(Default)]
struct Window {
    path: PathBuf,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Bytes of a file from the start of `range` on: all, or `need` at least.
    fn get(&mut self, path: &Path, range: std::ops::Range<u64>, need: usize) -> io::Result<&[u8]> {
        let left = range.end - range.start;
        let least = left.min(need as u64);
        let end = self.start + self.bytes.len() as u64;
        let has_all = self.path == path && self.start <= range.start && range.start + least <= end;
        if !has_all {
            self.bytes.resize(left.min(need.max(PIECE_LEN) as u64) as usize, 0);
            File::open(path)?.read_exact_at(&mut self.bytes, range.start)?;
            (self.path, self.start) = (path.to_owned(), range.start);
        }
        let from = (range.start - self.start) as usize;
        let until = (range.end - self.start).min(self.bytes.len() as u64) as usize;
        Ok(&self.bytes[from..until])
    }
}
