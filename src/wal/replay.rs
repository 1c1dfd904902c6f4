//! Reading a log back: which segments count, in which order, and where the log ends.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::format::{BadHeader, FIRST_CHAIN, SegmentHeader, VERSION, records};
use super::walk::{self, Position};
use super::{Error, Options, Record, segment};
use crate::env::{Env, File as _, Mode};
use crate::id::Lsn;

/// Where a log ended: what its writer goes on from.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The next block's place.
    pub end: Lsn,
    /// The checksum of the last block.
    pub chain: u64,
    /// The newest run seen.
    pub epoch: u64,
    /// The highest segment number seen.
    pub seq: u64,
    /// Records read.
    pub record_count: u64,
    /// Zeroed files that wait to become segments.
    pub spares: Vec<PathBuf>,
    /// Segments that hold part of the log, oldest first.
    pub segments: Vec<PathBuf>,
}

/// How far a replay is, bytes of segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Read.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

struct Segment {
    path: PathBuf,
    header: SegmentHeader,
}

/// Reads the log in `options.dir`, oldest record first, and makes the directory fit for a writer:
/// what was read is durable, what is void is removed.
///
/// # Errors
/// As [`Error`]; then the directory is as it was.
pub async fn replay<E: Env>(
    env: &E,
    options: &Options,
    mut on_record: impl FnMut(Record<'_>),
    mut on_progress: impl FnMut(Progress),
) -> Result<Ended, Error> {
    segment::io("create", &options.dir, env.create_dir(&options.dir).await)?;
    let names = segment::io("list", &options.dir, env.list(&options.dir).await)?;
    let mut reader = Reader {
        options,
        segments: list_segments(env, options, &names).await?,
        at: Position { lsn: Lsn(0), chain: FIRST_CHAIN, durable: Lsn(0) },
        used: Vec::new(),
        record_count: 0,
    };
    reader.read(env, &mut on_record, &mut on_progress).await?;
    reader.make_durable(env).await?;
    reader.remove_void(env, &names).await?;
    let Reader { segments, at, used, record_count, .. } = reader;
    let spares = names.iter().filter(|name| segment::is_spare(name));
    Ok(Ended {
        end: at.lsn,
        chain: at.chain,
        epoch: segments.iter().map(|segment| segment.header.epoch).max().unwrap_or(0),
        seq: names.iter().filter_map(|name| segment::seq_of(name)).max().unwrap_or(0),
        record_count,
        spares: spares.map(|name| options.dir.join(name)).collect(),
        segments: used.iter().map(|(n, ..)| segments[*n].path.clone()).collect(),
    })
}

/// The files that are segments, by number. One whose header is still zero was never begun.
async fn list_segments<E: Env>(
    env: &E,
    options: &Options,
    names: &[String],
) -> Result<Vec<Segment>, Error> {
    let mut segments = Vec::new();
    for name in names {
        let Some(seq) = segment::seq_of(name) else { continue };
        let path = options.dir.join(name);
        let (head, len) = segment::read_head(env, &path).await?;
        match SegmentHeader::decode(&head) {
            Ok(header) if header.log_id != options.log_id || header.shard != options.shard => {
                return Err(Error::Foreign { path });
            }
            // A spare that was recycled and renamed, and whose own header was never written.
            Ok(header) if header.seq != seq => {}
            Ok(header) if len < header.segment_len => {
                return Err(Error::Truncated { path, len, expected: header.segment_len });
            }
            Ok(header) => segments.push(Segment { path, header }),
            // Renamed from a spare, and its header was still on its way.
            Err(BadHeader::Absent) if len > 0 && head.iter().all(|byte| *byte == 0) => {}
            Err(BadHeader::Absent) => return Err(Error::Header { path }),
            Err(BadHeader::Version(version)) => {
                return Err(Error::Version { path, version, known: VERSION });
            }
        }
    }
    Ok(segments)
}

struct Reader<'a> {
    options: &'a Options,
    segments: Vec<Segment>,
    at: Position,
    /// Segments that hold part of the log, and where each stops being read: byte and LSN.
    used: Vec<(usize, usize, Lsn)>,
    record_count: u64,
}

impl Reader<'_> {
    async fn read<E: Env>(
        &mut self,
        env: &E,
        on_record: &mut impl FnMut(Record<'_>),
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<(), Error> {
        let total_bytes = self.segments.iter().map(|segment| segment.header.segment_len).sum();
        let mut done_bytes = 0;
        let mut next = self.successor(None);
        while let Some(n) = next {
            let bytes = segment::read_all(env, &self.segments[n].path).await?;
            self.walk(n, &bytes, on_record)?;
            done_bytes += bytes.len() as u64;
            on_progress(Progress { done_bytes, total_bytes });
            drop(bytes);
            env.yield_now().await;
            next = self.successor(Some(n));
        }
        self.check_end(env).await
    }

    /// The segment that goes on where the log has come: after `n`, of the newest run that does.
    fn successor(&self, n: Option<usize>) -> Option<usize> {
        let after = n.map_or(0, |n| n + 1);
        let fits = (after..self.segments.len()).filter(|k| {
            let header = &self.segments[*k].header;
            header.base == self.at.lsn && header.chain == self.at.chain
        });
        fits.max_by_key(|k| self.segments[*k].header.epoch)
    }

    /// Where segment `n` ends at the latest: a later one begins there.
    fn limit(&self, n: usize) -> Lsn {
        let base = self.segments[n].header.base;
        let later = self.segments[n + 1..].iter().map(|segment| segment.header.base);
        later.filter(|later| *later >= base).min().unwrap_or(Lsn(u64::MAX))
    }

    fn walk(
        &mut self,
        n: usize,
        bytes: &[u8],
        on_record: &mut impl FnMut(Record<'_>),
    ) -> Result<(), Error> {
        let Segment { header, path } = &self.segments[n];
        let (mut malformed, mut count) = (None, 0);
        let planted = self.options.planted;
        let on_block = |offset: usize, _: &_, payload: &[u8]| {
            for record in records(payload) {
                let Some(record) = record else {
                    malformed = Some(offset as u64);
                    return ControlFlow::Break(());
                };
                count += 1;
                on_record(record);
            }
            ControlFlow::Continue(())
        };
        let limit = self.limit(n);
        let (at, offset) = walk::walk(bytes, header, self.at, limit, planted, on_block);
        if let Some(offset) = malformed {
            return Err(Error::Malformed { path: path.clone(), offset });
        }
        self.at = at;
        self.at.durable = self.at.durable.max(header.durable);
        self.record_count += count;
        self.used.push((n, offset, at.lsn));
        Ok(())
    }

    /// Torn tail or corruption? The log ends at `at`. Whatever lies behind and is sound tells how
    /// far the log once was durable.
    async fn check_end<E: Env>(&self, env: &E) -> Result<(), Error> {
        let (last, stop) = self.used.last().map_or((None, 0), |(n, stop, _)| (Some(*n), *stop));
        let mut durable = self.at.durable;
        for (n, segment) in self.segments.iter().enumerate() {
            let from = match last {
                Some(last) if n < last => continue,
                Some(last) if n == last => stop,
                _ => 0,
            };
            let bytes = segment::read_all(env, &segment.path).await?;
            durable = durable.max(walk::proof(&bytes, &segment.header, from));
            env.yield_now().await;
        }
        if durable <= self.at.lsn {
            return Ok(());
        }
        let path = match last {
            Some(last) => self.segments[last].path.clone(),
            None => self.options.dir.join(segment::name(1)),
        };
        let (end, durable) = (self.at.lsn.0, durable.0);
        Err(Error::Corrupt { path, offset: stop as u64, end, durable })
    }

    /// What was read may still be on its way to the disk: the process that wrote it was killed, the
    /// machine was not. It is made durable before anyone is told of it.
    async fn make_durable<E: Env>(&self, env: &E) -> Result<(), Error> {
        for (n, _, end) in &self.used {
            if *end <= self.at.durable {
                continue;
            }
            let path = &self.segments[*n].path;
            let file = segment::io("open", path, env.open(path, Mode::Write).await)?;
            segment::io("sync", path, file.sync().await)?;
        }
        segment::io("sync", &self.options.dir, env.sync_dir(&self.options.dir).await)
    }

    /// Removes segments that hold nothing of the log, the last first, and unfinished spares.
    async fn remove_void<E: Env>(&self, env: &E, names: &[String]) -> Result<(), Error> {
        let dir = &self.options.dir;
        let used: Vec<_> = self.used.iter().map(|(n, ..)| &self.segments[*n].path).collect();
        for name in names.iter().rev() {
            let path = dir.join(name);
            let void = segment::seq_of(name).is_some() && !used.contains(&&path);
            if void || segment::is_unfinished(name) {
                segment::io("remove", &path, env.remove(&path).await)?;
            }
        }
        segment::io("sync", dir, env.sync_dir(dir).await)
    }
}
