//! Where segments come from: spares, zeroed files, the reserve, and the names that a replay found
//! void.

use std::path::PathBuf;

use super::segments::{self, io};
use super::{Error, Options, reserve};
use crate::env::{Env, File as _, Mode};

/// Most spares that are kept; more are removed.
pub const SPARES_MAX: usize = 2;

/// A segment that can be written to.
pub struct Segment<E: Env> {
    /// Open for writing.
    pub file: E::File,
    /// Where it is.
    pub path: PathBuf,
    /// Its number.
    pub seq: u64,
    /// Bytes of it.
    pub len: u64,
}

/// Removes void segments, the last first, so that no gap shows at any moment, then those before the
/// log, where a gap means nothing, and unfinished files.
/// Returns the numbers of all spares and one that no name has.
///
/// A void segment is not kept as a spare: a write of the process that was killed may still be on
/// its way to it, and must not land on what the next run has acked.
pub async fn tidy<E: Env>(
    env: &E,
    options: &Options,
    void: &[u64],
) -> Result<(Vec<u64>, u64), Error> {
    let dir = &options.dir;
    let names = io("list", dir, env.list(dir).await)?;
    let spares: Vec<u64> =
        names.iter().filter_map(|name| segments::spare_number_of(name)).collect();
    let unfinished = names.iter().filter(|name| segments::new_number_of(name).is_some());
    let numbers = names.iter().filter_map(|name| {
        segments::spare_number_of(name).or_else(|| segments::new_number_of(name))
    });
    let name_next = numbers.max().map_or(0, |number| number.saturating_add(1));
    for seq in void.iter().rev() {
        let path = segments::path(dir, *seq);
        io("remove", &path, env.remove(&path).await)?;
    }
    for name in unfinished {
        let path = dir.join(name);
        io("remove", &path, env.remove(&path).await)?;
    }
    io("sync", dir, env.sync_dir(dir).await)?;
    Ok((spares, name_next))
}

/// Those of the spares that have the right length, up to [`SPARES_MAX`]; the others are removed.
pub async fn usable<E: Env>(
    env: &E,
    options: &Options,
    spares: Vec<u64>,
) -> Result<Vec<u64>, Error> {
    let mut kept = Vec::new();
    for number in spares {
        let path = options.dir.join(segments::spare_name(number));
        let file = io("open", &path, env.open(&path, Mode::Read).await)?;
        if kept.len() < SPARES_MAX && io("stat", &path, file.size())? == options.segment_len {
            kept.push(number);
        } else {
            io("remove", &path, env.remove(&path).await)?;
        }
    }
    Ok(kept)
}

/// Cuts segments to their parts of the log: so a restart costs the bytes that it wrote, on the
/// disk too. For after the header is durable that goes on from the last of them: it proves to
/// every later replay where each part ends, and none looks behind.
///
/// Only tidying: what can not be cut is at the next start. A write of the process that was killed,
/// still on its way, may make a file longer again; it lands behind the part, as it would have.
pub async fn give_back<E: Env>(env: &E, left: &[(PathBuf, u64)]) {
    for (path, len) in left {
        let cut = async {
            let file = env.open(path, Mode::Write).await?;
            file.truncate(*len).await?;
            // A full disk that takes the room back at a power cut has none for the next start.
            file.sync().await
        };
        if let Err(error) = cut.await {
            tracing::warn!(path = %path.display(), %error, "the end of a segment stays");
        }
    }
}

/// The segment in which a start goes on: out of one of `spares` if it can be, else of zeroes. On a
/// full disk it is short, and then out of the reserve; so that room is left for the manifest's
/// beginning, spares are removed.
///
/// # Errors
/// As the disk's. A full one, if the reserve is not there either.
pub async fn first<E: Env>(
    env: &E,
    options: &Options,
    seq: u64,
    spares: &mut Vec<u64>,
    new: u64,
) -> Result<Segment<E>, Error> {
    let has_room = |len| reserve::has_room(env, options, len);
    if !has_room(0) {
        for number in spares.drain(..) {
            let path = options.dir.join(segments::spare_name(number));
            io("remove", &path, env.remove(&path).await)?;
        }
    }
    let spare = spares.pop();
    if spare.is_some() || has_room(options.segment_len) {
        match prepare(env, options, seq, spare, new, || false).await {
            Err(error) if error.is_disk_full() => {}
            made => return made.map(|made| made.expect("nobody stops an opening")),
        }
    }
    if let Some(segment) = reserve::take(env, options, seq).await? {
        return Ok(segment);
    }
    let short = Options { segment_len: reserve::segment_len_min(options), ..options.clone() };
    let made = prepare(env, &short, seq, None, new, || false).await?;
    Ok(made.expect("nobody stops an opening"))
}

/// Makes segment `seq` ready, durably named: out of a spare if there is one, else of zeroes under
/// the name with number `new`.
pub async fn prepare<E: Env>(
    env: &E,
    options: &Options,
    seq: u64,
    spare: Option<u64>,
    new: u64,
    stopped: impl Fn() -> bool,
) -> Result<Option<Segment<E>>, Error> {
    let dir = &options.dir;
    let path = segments::path(dir, seq);
    let file = match spare {
        Some(number) => {
            let from = dir.join(segments::spare_name(number));
            let file = io("open", &from, env.open(&from, Mode::Write).await)?;
            io("rename", &from, env.rename(&from, &path).await)?;
            Some(file)
        }
        None => {
            let new = dir.join(segments::new_name(new));
            segments::zeroed(env, &new, &path, options.segment_len, stopped).await?
        }
    };
    let Some(file) = file else { return Ok(None) };
    io("sync", dir, env.sync_dir(dir).await)?;
    Ok(Some(Segment { file, path, seq, len: options.segment_len }))
}
