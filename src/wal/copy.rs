//! A copy of the log's end, as a power cut would leave it now.
//!
//! Segments are written in place and used again, so that a second name would not do: bytes are
//! copied, from the segment that the log is needed from to where it is durable. The writer goes on
//! meanwhile, behind that place.

use std::path::{Path, PathBuf};

use super::Error;
use super::segments::{self, PIECE_LEN, Reader, io};
use crate::env::{Aligned, Env, File as _, Mode};
use crate::limits::SECTOR_LEN;

/// The beginning of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub path: PathBuf,
    /// Bytes of it, whole sectors, all of them durable.
    pub len: u64,
}

/// Copies these segments, of which none goes meanwhile, to `dir`, which is made; durable when it
/// ends.
///
/// # Errors
/// As the disk's. What there is of the copy stays.
pub async fn copy<E: Env>(env: &E, extents: &[Extent], dir: &Path) -> Result<(), Error> {
    segments::make_dir(env, dir).await?;
    for Extent { path, len } in extents {
        let Some(name) = path.file_name() else { continue };
        copy_one(env, path, *len, &dir.join(name)).await?;
    }
    io("sync", dir, env.sync_dir(dir).await)
}

async fn copy_one<E: Env>(env: &E, from: &Path, len: u64, to: &Path) -> Result<(), Error> {
    let file = io("create", to, env.open(to, Mode::Create).await)?;
    let mut reader = Reader::open(env, from.to_owned(), 0, len).await?;
    let (mut window, mut spare, mut offset) = (Vec::new(), Vec::new(), 0);
    let mut buf = Aligned::zeroed(PIECE_LEN);
    while !reader.is_done() {
        window.clear();
        reader.next(&mut window, &mut spare).await?;
        buf[..window.len()].copy_from_slice(&window);
        let (result, back) = file.write_at(buf, window.len(), offset, false).await;
        buf = back;
        if io("write", to, result)? < window.len() {
            return io("write", to, Err(std::io::ErrorKind::StorageFull.into()));
        }
        offset += window.len() as u64;
        env.yield_now().await;
    }
    pad(env, from, &file, offset, to).await?;
    io("sync", to, file.sync().await)
}

/// Makes a copy as long as the segment, with a hole: a segment that is shorter has lost its end.
async fn pad<E: Env>(
    env: &E,
    from: &Path,
    file: &E::File,
    len: u64,
    to: &Path,
) -> Result<(), Error> {
    let size = io("stat", from, io("open", from, env.open(from, Mode::Read).await)?.size())?;
    if size < len + SECTOR_LEN as u64 {
        return Ok(());
    }
    let last =
        file.write_at(Aligned::zeroed(SECTOR_LEN), SECTOR_LEN, size - SECTOR_LEN as u64, false);
    match io("write", to, last.await.0)? {
        SECTOR_LEN => Ok(()),
        _ => io("write", to, Err(std::io::ErrorKind::StorageFull.into())),
    }
}
