//! What a doctor says: a line per finding, for people or as JSON; and the sum of it.
//!
//! The fields of the JSON objects are those of [`Line`], and `type` is its variant. Fields are
//! added, never removed.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::inspect::line::Key;

/// How a damaged file is healed.
pub(super) const RESTORE: &str = "restore this file from a copy of the same time, or the directory \
                                  from a backup (BGSAVE makes one)";
/// How a file is healed that is of something else.
pub(super) const PUT_BACK: &str =
    "put back the file that was here, or restore the directory from a backup";
/// What to do with a file that is nobody's.
pub(super) const MOVE_AWAY: &str = "move it away, if it is not needed";

/// What is wrong.
#[derive(Debug, Default, Serialize)]
pub(super) struct Finding {
    /// Where: the file,
    pub(super) file: PathBuf,
    /// and the byte of it, if it is one.
    pub(super) offset: Option<u64>,
    /// Whose keys it touches, if it is one partition.
    pub(super) partition: Option<u32>,
    /// What is there.
    pub(super) what: String,
    /// The keys that it touches: none below this,
    pub(super) from: Option<Key>,
    /// none above this.
    pub(super) to: Option<Key>,
    /// What comes of it.
    pub(super) meaning: String,
    /// What to do.
    pub(super) cure: &'static str,
}

impl Finding {
    /// Of a file as a whole.
    pub(super) fn of(file: &Path, what: impl Into<String>, meaning: impl Into<String>) -> Self {
        let (what, meaning) = (what.into(), meaning.into());
        Self { file: file.to_owned(), what, meaning, cure: RESTORE, ..Self::default() }
    }

    /// Of keys of a partition, encoded; empty: unknown.
    pub(super) fn keys(self, partition: u32, from: &[u8], to: &[u8]) -> Self {
        Self { partition: Some(partition), from: Key::of(from), to: Key::of(to), ..self }
    }
}

/// See the module's header.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line<'a> {
    Finding(&'a Finding),
    Note { file: &'a Path, what: &'a str },
    Progress { shard: u16, what: &'a str },
    Verdict { findings: u64, notes: u64, files: u64, bytes: u64 },
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finding(finding) => finding.fmt(f),
            Self::Note { file, what } => write!(f, "note: {}: {what}", file.display()),
            Self::Progress { shard, what } => write!(f, "shard {shard}: {what}"),
            Self::Verdict { findings: 0, notes, files, bytes } => {
                write!(f, "sound: {files} files of {bytes} bytes, {notes} notes")
            }
            Self::Verdict { findings, notes, files, bytes } => {
                write!(f, "NOT sound: {findings} findings, {notes} notes, ")?;
                write!(f, "{files} files of {bytes} bytes")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, partition, what, from, to, meaning, cure } = self;
        write!(f, "finding: {}", file.display())?;
        offset.iter().try_for_each(|offset| write!(f, " at byte {offset}"))?;
        write!(f, ": {what}")?;
        partition.iter().try_for_each(|partition| write!(f, "; partition {partition}"))?;
        from.iter().try_for_each(|from| write!(f, ", keys from {from}"))?;
        to.iter().try_for_each(|to| write!(f, " to {to}"))?;
        write!(f, "; {meaning}; cure: {cure}")
    }
}

/// See the module's header.
pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    json: bool,
    findings: u64,
    notes: u64,
    files: u64,
    bytes: u64,
    /// What the first line that could not be printed met; no other is tried.
    failure: Option<io::Error>,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut dyn Write, json: bool) -> Self {
        let (findings, notes, files, bytes) = (0, 0, 0, 0);
        Self { out, json, findings, notes, files, bytes, failure: None }
    }

    /// Something is wrong.
    pub(super) fn finding(&mut self, finding: Finding) {
        self.findings += 1;
        self.line(&Line::Finding(&finding));
    }

    /// Something is left from a crash.
    pub(super) fn note(&mut self, file: &Path, what: &str) {
        self.notes += 1;
        self.line(&Line::Note { file, what });
    }

    /// So far it is.
    pub(super) fn progress(&mut self, shard: u16, what: &str) {
        self.line(&Line::Progress { shard, what });
        // It is for who waits.
        self.failure = self.failure.take().or(self.out.flush().err());
    }

    /// A file that was read.
    pub(super) fn count_file(&mut self, path: &Path) {
        self.files += 1;
        self.bytes += fs::metadata(path).map_or(0, |found| found.len());
    }

    /// Prints the sum. Whether all is sound.
    ///
    /// # Errors
    /// A line could not be printed, and whoever reads has not just gone.
    pub(super) fn end(&mut self) -> io::Result<bool> {
        let Self { findings, notes, files, bytes, .. } = *self;
        self.line(&Line::Verdict { findings, notes, files, bytes });
        match self.failure.take().or(self.out.flush().err()) {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(findings == 0),
        }
    }

    fn line(&mut self, line: &Line<'_>) {
        if self.failure.is_some() {
            return;
        }
        let printed = match self.json {
            false => writeln!(self.out, "{line}"),
            true => serde_json::to_writer(&mut *self.out, line)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(self.out)),
        };
        self.failure = printed.err();
    }
}
