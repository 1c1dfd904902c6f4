//! Segment files: their names, reading them piece by piece, making them ready ahead of need.
//!
//! ```text
//! {seq:020}.wal      a segment, or the file that will be it: named before its header is written
//! spare-{n:020}.wal  a whole file without a use; its bytes are old blocks or zeroes
//! new-{n:020}.wal    a file on its way to become one of these; worth nothing after a crash
//! ```

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Error;
use crate::env::{Aligned, Env, File, Mode};
use crate::limits::SECTOR_LEN;

/// Bytes of one read or of one write of zeroes.
pub const PIECE_LEN: usize = 1 << 20;

/// Reads in flight.
const READ_AHEAD: usize = 4;

/// The name of segment `seq`.
pub fn name(seq: u64) -> String {
    format!("{seq:020}.wal")
}

/// Where segment `seq` of the log in `dir` is.
pub fn path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(name(seq))
}

/// The name of spare `n`.
pub fn spare_name(n: u64) -> String {
    format!("spare-{n:020}.wal")
}

/// The name of file `n` while it is being made.
pub fn new_name(n: u64) -> String {
    format!("new-{n:020}.wal")
}

/// The number of a segment's name; none for anything else.
pub fn seq_of(name: &str) -> Option<u64> {
    number_of(name, "")
}

/// The number of a spare's name; none for anything else.
pub fn spare_number_of(name: &str) -> Option<u64> {
    number_of(name, "spare-")
}

/// The number of an unfinished file's name; none for anything else.
pub fn new_number_of(name: &str) -> Option<u64> {
    number_of(name, "new-")
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".wal")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// Adds what was tried, and on what, to an error of the disk's.
pub fn io<T>(op: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.to_owned(), source })
}

/// Creates `dir` and its parents if they are missing, durably: so that names made in it can be.
/// Their own names are synced also if they are there: whoever made them may have been killed
/// before that.
pub async fn make_dir<E: Env>(env: &E, dir: &Path) -> Result<(), Error> {
    io("create", dir, env.create_dir(dir).await)?;
    for parent in dir.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match env.sync_dir(parent).await {
            // Not ours to read, so not ours to have been made either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            result => io("sync", parent, result)?,
        }
    }
    Ok(())
}

/// The first sector of a file, zeroes behind its end, and the file's length.
pub async fn read_head<E: Env>(env: &E, path: &Path) -> Result<(Aligned, u64), Error> {
    let file = io("open", path, env.open(path, Mode::Read).await)?;
    let (result, mut buf) = file.read_at(Aligned::zeroed(SECTOR_LEN), SECTOR_LEN, 0).await;
    let count = io("read", path, result)?;
    buf[count..].fill(0);
    Ok((buf, io("stat", path, file.size())?))
}

type Read = Pin<Box<dyn Future<Output = (io::Result<usize>, Aligned)>>>;

enum Piece {
    Reading(Read),
    Read(io::Result<usize>, Aligned),
}

/// Reads a file from some byte to another, several pieces in flight.
pub struct Reader<F: File> {
    file: F,
    path: PathBuf,
    /// The next piece to hand out, and the next to ask for.
    offset: u64,
    asked: u64,
    end: u64,
    pieces: VecDeque<Piece>,
}

impl<F: File> Reader<F> {
    /// Opens `path` to read bytes `start..end`, which are whole sectors of it.
    pub async fn open<E: Env<File = F>>(
        env: &E,
        path: PathBuf,
        start: u64,
        end: u64,
    ) -> Result<Self, Error> {
        let file = io("open", &path, env.open(&path, Mode::Read).await)?;
        Ok(Self { file, path, offset: start, asked: start, end, pieces: VecDeque::new() })
    }

    /// Whether all is handed out.
    pub fn is_done(&self) -> bool {
        self.offset == self.end
    }

    /// Appends the next piece to `window`. `spare` is a buffer to read into, given back.
    pub async fn next(
        &mut self,
        window: &mut Vec<u8>,
        spare: &mut Vec<Aligned>,
    ) -> Result<(), Error> {
        while self.asked < self.end && self.pieces.len() < READ_AHEAD {
            let len = self.piece_len(self.asked);
            let buf = spare.pop().unwrap_or_else(|| Aligned::zeroed(PIECE_LEN));
            let read = self.file.read_at(buf, len, self.asked);
            self.pieces.push_back(Piece::Reading(Box::pin(read)));
            self.asked += len as u64;
        }
        let len = self.piece_len(self.offset);
        let (mut result, mut buf) = poll_fn(|cx| self.poll_front(cx)).await;
        let mut done = 0;
        loop {
            let count = io("read", &self.path, result)?;
            window.extend_from_slice(&buf[..count]);
            done += count;
            if done == len {
                break;
            }
            // A short read: the rest of it, which is whole sectors again.
            if count == 0 || count % SECTOR_LEN != 0 {
                return io("read", &self.path, Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let rest = self.file.read_at(buf, len - done, self.offset + done as u64);
            (result, buf) = rest.await;
        }
        self.offset += len as u64;
        spare.push(buf);
        Ok(())
    }

    fn piece_len(&self, offset: u64) -> usize {
        (self.end - offset).min(PIECE_LEN as u64) as usize
    }

    /// Polls all reads, so that all are in flight; ready with the first.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<(io::Result<usize>, Aligned)> {
        for piece in &mut self.pieces {
            if let Piece::Reading(read) = piece
                && let Poll::Ready((result, buf)) = read.as_mut().poll(cx)
            {
                *piece = Piece::Read(result, buf);
            }
        }
        match self.pieces.pop_front() {
            Some(Piece::Read(result, buf)) => Poll::Ready((result, buf)),
            Some(reading) => {
                self.pieces.push_front(reading);
                Poll::Pending
            }
            None => unreachable!("read past the end, {}", self.end),
        }
    }
}

/// Makes `path` a file of `len` zero bytes under the name `new`, then renames it. Gives up, with
/// none, when `stopped` says so.
///
/// The length is what costs: an append to a growing file, or to one that is allocated and not
/// written, waits for the file system's journal (charter, D3).
pub async fn zeroed<E: Env>(
    env: &E,
    new: &Path,
    path: &Path,
    len: u64,
    stopped: impl Fn() -> bool,
) -> Result<Option<E::File>, Error> {
    let file = io("create", new, env.open(new, Mode::Create).await)?;
    let filled = fill(env, &file, new, len, stopped).await;
    if !matches!(filled, Ok(true)) {
        drop(file);
        // Only tidying, to give the room back; what is left goes at the next start.
        let _ = env.remove(new).await;
        return filled.map(|_| None);
    }
    io("rename", new, env.rename(new, path).await)?;
    Ok(Some(file))
}

async fn fill<E: Env>(
    env: &E,
    file: &E::File,
    path: &Path,
    len: u64,
    stopped: impl Fn() -> bool,
) -> Result<bool, Error> {
    let mut zeroes = Aligned::zeroed(PIECE_LEN);
    let mut offset = 0;
    while offset < len {
        if stopped() {
            return Ok(false);
        }
        let piece = (len - offset).min(PIECE_LEN as u64) as usize;
        let (result, buf) = file.write_at(zeroes, piece, offset, false).await;
        zeroes = buf;
        if io("write", path, result)? < piece {
            // The write after a short one would say why; what cuts zeroes short is a full disk.
            return io("write", path, Err(io::ErrorKind::StorageFull.into()));
        }
        offset += piece as u64;
        env.yield_now().await;
    }
    io("sync", path, file.sync().await)?;
    Ok(true)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(seq_of(&name(42)), Some(42));
        assert_eq!(spare_number_of(&spare_name(7)), Some(7));
        assert_eq!(new_number_of(&new_name(7)), Some(7));
        for foreign in [&spare_name(1), &new_name(1), "+0000000000000000001.wal", "1.wal", "x"] {
            assert_eq!(seq_of(foreign), None, "{foreign}");
        }
    }
}
