//! A table's file, part by part from its beginning to its footer, on plain files.
//!
//! For those who read a table offline and want all of it, however much of it is damaged: a part
//! that is wrong is told with its place, and the reading goes on behind it ([`Parts::skip`]).
//! Formats and verdicts are those of [`crate::lsm::block`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::limits::SECTOR_LEN;
use crate::lsm::block::{
    Footer, HEADER_LEN, Handle, Malformed, PART_LEN_MAX, Part, PartKind, Unpacker, fold, part_len,
};
use crate::lsm::table::Error;

const SECTOR: u64 = SECTOR_LEN as u64;

/// A sound part.
pub(super) struct Piece {
    /// What it says of itself.
    pub(super) part: Part,
    /// Where it is.
    pub(super) handle: Handle,
    /// What it holds, decompressed.
    pub(super) raw: Vec<u8>,
    checksum: u64,
}

/// See the module's header.
pub(super) struct Parts {
    file: File,
    path: PathBuf,
    footer: Footer,
    checksum: u64,
    offset: u64,
    tally: Tally,
}

/// What was met, to be held against the footer.
#[derive(Default)]
struct Tally {
    parts: u64,
    rows: u64,
    row_parts: u64,
    digest: u64,
}

impl Parts {
    /// Opens the table at `path` and reads its footer.
    ///
    /// # Errors
    /// As the disk's; there is no footer, or it is of another version or length.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = io("open", path, File::open(path))?;
        let len = io("stat", path, file.metadata())?.len();
        if len < 2 * SECTOR || !len.is_multiple_of(SECTOR) {
            return Err(Error::corrupt(path, len / SECTOR * SECTOR, Malformed { what: "footer" }));
        }
        let (mut sector, at) = ([0; SECTOR_LEN], len - SECTOR);
        io("read", path, file.read_exact_at(&mut sector, at))?;
        let decoded = Footer::decode(&sector);
        let (footer, checksum) = decoded.map_err(|bad| Error::footer(path, at, bad))?;
        let path = path.to_owned();
        if footer.file_len != len {
            return Err(Error::Length { path, len, expected: footer.file_len });
        }
        Ok(Self { file, path, footer, checksum, offset: 0, tally: Tally::default() })
    }

    /// What the last sector says.
    pub(super) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The footer's checksum.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Where the next part begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many parts were read.
    pub(super) fn count(&self) -> u64 {
        self.tally.parts
    }

    /// The next part; none behind the last.
    ///
    /// # Errors
    /// As the disk's; it is damaged. The next one is asked for in the same place.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Error> {
        if self.offset >= self.end() {
            return Ok(None);
        }
        let piece = self.look()?;
        self.offset = piece.handle.end();
        self.tally.parts += 1;
        self.tally.digest = fold(self.tally.digest, piece.checksum);
        if piece.part.kind == PartKind::Rows {
            self.tally.rows += u64::from(piece.part.count);
            self.tally.row_parts += 1;
        }
        Ok(Some(piece))
    }

    /// Passes over a damaged part to the next sound one, or to the end. A part is sound at its own
    /// place in its own file alone, so that no other bytes can be taken for one.
    pub(super) fn skip(&mut self) {
        self.offset += SECTOR;
        while self.offset < self.end() && self.look().is_err() {
            self.offset += SECTOR;
        }
    }

    /// That all parts are there, in their order, and no other.
    ///
    /// # Errors
    /// They are not.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Tally { rows, row_parts, digest, .. } = self.tally;
        let found = (rows, row_parts, digest);
        let footer = &self.footer;
        if found == (footer.statistics.row_count, footer.row_parts, footer.digest) {
            return Ok(());
        }
        Err(Error::corrupt(&self.path, self.end(), Malformed { what: "digest of all parts" }))
    }

    /// Where the footer is.
    fn end(&self) -> u64 {
        self.footer.file_len - SECTOR
    }

    fn look(&self) -> Result<Piece, Error> {
        let (path, offset) = (&self.path, self.offset);
        let wrong = |malformed: Malformed| Error::corrupt(path, offset, malformed);
        let mut header = [0; HEADER_LEN];
        io("read", path, self.file.read_exact_at(&mut header, offset))?;
        let (claimed, _) = Part::peek(&header).ok_or(wrong(Malformed { what: "part" }))?;
        let len = part_len(claimed.body_len).min(PART_LEN_MAX);
        if offset + len as u64 > self.end() {
            return Err(wrong(Malformed { what: claimed.kind.name() }));
        }
        let mut bytes = vec![0; len];
        io("read", path, self.file.read_exact_at(&mut bytes, offset))?;
        let opened = Part::open(claimed.kind, self.footer.seed(), offset, &bytes);
        let (part, checksum) = opened.map_err(wrong)?;
        let mut raw = Vec::new();
        part.decompress(&bytes, &mut raw, &mut Unpacker::default()).map_err(wrong)?;
        Ok(Piece { part, handle: Handle { offset, len }, raw, checksum })
    }
}

fn io<T>(op: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.to_owned(), source })
}
