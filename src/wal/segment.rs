//! Segment files: their names, reading one whole, making a zeroed one.

use std::future::Future;
use std::path::{Path, PathBuf};

use super::Error;
use crate::env::{Aligned, Env, File, Mode};

/// Bytes of one read or of one write of zeroes.
const PIECE_LEN: usize = 1 << 20;

/// Reads in flight.
const READ_AHEAD: u64 = 4;

/// The name of segment `seq`.
pub fn name(seq: u64) -> String {
    format!("{seq:020}.wal")
}

/// The number of a segment's name; none for anything else.
pub fn seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The name of a zeroed file that waits to become a segment.
pub fn spare_name(n: u64) -> String {
    format!("spare-{n}.wal")
}

/// Whether a name is a spare's.
pub fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

/// Whether a name is of a spare that was never finished.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with("zeroing-")
}

/// Adds what was tried, and on what, to an error of the disk's.
pub fn io<T>(op: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { op, path: path.to_owned(), source })
}

/// Reads a whole file of whole sectors, several reads in flight.
pub async fn read_all<E: Env>(env: &E, path: &Path) -> Result<Aligned, Error> {
    let file = io("open", path, env.open(path, Mode::Read).await)?;
    let len = io("stat", path, file.size())? as usize;
    let len = len - len % crate::limits::SECTOR_LEN;
    let mut whole = Aligned::zeroed(len);
    let mut reads = std::collections::VecDeque::new();
    let (mut asked, mut got) = (0, 0);
    while got < len {
        while asked < len && reads.len() < READ_AHEAD as usize {
            let piece = PIECE_LEN.min(len - asked);
            let read = file.read_at(Aligned::zeroed(piece), piece, asked as u64);
            reads.push_back(Started::new(read));
            asked += piece;
        }
        // Started all together: a read begins when it is asked for, not when it is awaited.
        let Some(read) = reads.pop_front() else { break };
        let (result, buf) = read.0.await;
        let count = io("read", path, result)?;
        whole[got..got + count].copy_from_slice(&buf[..count]);
        if count < PIECE_LEN.min(len - got) {
            // The file is shorter than it said a moment ago: the rest is as good as zeroes.
            break;
        }
        got += count;
    }
    Ok(whole)
}

/// A future that was made, and with it its operation begun.
struct Started<F: Future>(std::pin::Pin<Box<F>>);

impl<F: Future> Started<F> {
    fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

/// The first sector of a file, and the file's length.
pub async fn read_head<E: Env>(env: &E, path: &Path) -> Result<(Aligned, u64), Error> {
    let file = io("open", path, env.open(path, Mode::Read).await)?;
    let len = crate::limits::SECTOR_LEN;
    let (result, mut buf) = file.read_at(Aligned::zeroed(len), len, 0).await;
    let count = io("read", path, result)?;
    buf[count..].fill(0);
    Ok((buf, io("stat", path, file.size())?))
}

/// Makes a spare: a file of zeroes under its final name, durable with its length.
pub async fn make_spare<E: Env>(env: &E, dir: &Path, n: u64, len: u64) -> Result<PathBuf, Error> {
    let unfinished = dir.join(format!("zeroing-{n}.wal"));
    let path = dir.join(spare_name(n));
    let file = io("create", &unfinished, env.open(&unfinished, Mode::Create).await)?;
    let filled = fill(env, &unfinished, &file, len).await;
    if let Err(error) = filled {
        // Only tidying: what is left of it is removed at the next start.
        let _ = env.remove(&unfinished).await;
        return Err(error);
    }
    io("rename", &unfinished, env.rename(&unfinished, &path).await)?;
    io("sync", dir, env.sync_dir(dir).await)?;
    Ok(path)
}

async fn fill<E: Env>(_env: &E, path: &Path, file: &E::File, len: u64) -> Result<(), Error> {
    let mut zeroes = Aligned::zeroed(PIECE_LEN);
    let mut offset = 0;
    while offset < len {
        let piece = PIECE_LEN.min((len - offset) as usize);
        let (result, buf) = file.write_at(zeroes, piece, offset, false).await;
        zeroes = buf;
        let written = io("write", path, result)?;
        if written < piece {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return io("write", path, Err(full));
        }
        offset += piece as u64;
    }
    io("sync", path, file.sync().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_have_segment_names() {
        assert_eq!(seq_of(&name(42)), Some(42));
        assert_eq!(seq_of("spare-1.wal"), None);
        assert_eq!(seq_of("+0000000000000000001.wal"), None);
        assert!(is_spare(&spare_name(3)) && !is_spare(&name(3)));
    }
}
