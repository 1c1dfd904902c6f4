//! Room that is kept for a start on a full disk: a file of zeroes, `reserve.wal`.
//!
//! A start goes on in a segment of its own, and only when that has its header is the one before cut
//! to its part, which gives room back. So a node that was killed on a full disk could not start.
//! The reserve is what it starts from:
//!
//! ```text
//! reserve.wal   the segment to come ........ | cut off: room for the start's manifest
//! ```
//!
//! The writer makes it in the background, behind the next segment, and before that where the disk
//! may be too small for both; anew after a start that took it. On a full disk it becomes as long as
//! there is room for; so one start after the other on a full disk costs no more room than the bytes
//! which they write.
//!
//! Why a file that is renamed, and not one that is removed: between a removal and what is made of
//! the room, another process may take it. And why zeroes: see [`segments::zeroed`].
//!
//! Invariant: it has its name only when all of it is durable, so that no write of a process that
//! was killed is on its way to it.

use std::path::PathBuf;

use super::segments::{self, io};
use super::supply::Segment;
use super::{Error, Options};
use crate::env::{Env, File as _, Mode};
use crate::limits::SECTOR_LEN;

/// Bytes of a whole one: a quarter of it is room for the manifest, the rest is a segment.
pub const LEN: u64 = 4 << 20;
/// Its name, in the log's directory.
pub const NAME: &str = "reserve.wal";

const SECTOR: u64 = SECTOR_LEN as u64;

fn path(options: &Options) -> PathBuf {
    options.dir.join(NAME)
}

/// Bytes that are cut off at a start, and left free when the reserve is made.
fn room_len(options: &Options) -> u64 {
    options.reserve_len / 4 / SECTOR * SECTOR
}

/// Whether a start may take `len` bytes of the disk and leave room for its manifest.
pub fn has_room<E: Env>(env: &E, options: &Options, len: u64) -> bool {
    // Where it is not told, trying tells.
    let free = env.free_len(&options.dir).unwrap_or(u64::MAX);
    free >= len + room_len(options)
}

/// Bytes of the shortest segment.
pub fn segment_len_min(options: &Options) -> u64 {
    SECTOR + options.block_len_max as u64
}

/// Bytes of the reserve that is there; 0: none is, or none is wanted.
///
/// # Errors
/// As the disk's.
pub async fn find<E: Env>(env: &E, options: &Options) -> Result<u64, Error> {
    let path = path(options);
    if options.reserve_len == 0 {
        return Ok(0);
    }
    match env.open(&path, Mode::Read).await {
        Ok(file) => io("stat", &path, file.size()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => io("open", &path, Err(error)),
    }
}

/// Makes it, under the passing name with number `new`, as long as it should be or as there is room
/// for, unless the one that is there is as good; its length. Has `len` bytes when it begins.
///
/// # Errors
/// As the disk's. A full one, if others take the room meanwhile.
pub async fn make<E: Env>(
    env: &E,
    options: &Options,
    len: u64,
    new: u64,
    stopped: impl Fn() -> bool,
) -> Result<u64, Error> {
    let free = env.free_len(&options.dir).unwrap_or(u64::MAX);
    let room = free.saturating_sub(room_len(options)) / SECTOR * SECTOR;
    let wanted = options.reserve_len.min(room);
    if wanted <= len || wanted < room_len(options) + segment_len_min(options) {
        return Ok(len);
    }
    let new = options.dir.join(segments::new_name(new));
    match segments::zeroed(env, &new, &path(options), wanted, stopped).await? {
        Some(_) => io("sync", &options.dir, env.sync_dir(&options.dir).await).map(|()| wanted),
        None => Ok(len),
    }
}

/// Makes segment `seq` of it, durably named, and cuts off the room for the manifest. `None`: there
/// is no reserve, or it is too short.
///
/// # Errors
/// As the disk's.
pub async fn take<E: Env>(
    env: &E,
    options: &Options,
    seq: u64,
) -> Result<Option<Segment<E>>, Error> {
    let len = find(env, options).await?.saturating_sub(room_len(options)) / SECTOR * SECTOR;
    let len = len.min(options.segment_len);
    if len < segment_len_min(options) {
        return Ok(None);
    }
    let (from, to) = (path(options), segments::path(&options.dir, seq));
    let file = io("open", &from, env.open(&from, Mode::Write).await)?;
    io("truncate", &from, file.truncate(len).await)?;
    io("sync", &from, file.sync().await)?;
    io("rename", &from, env.rename(&from, &to).await)?;
    io("sync", &options.dir, env.sync_dir(&options.dir).await)?;
    Ok(Some(Segment { file, path: to, seq, len }))
}
