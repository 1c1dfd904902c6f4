//! Reading a log back: the files, and what the walk says of them.

use std::path::PathBuf;

use super::format::{BLOCK_HEADER_LEN, RECORD_HEADER_LEN, Record};
use super::segments::{self, Reader, io};
use super::walk::{self, End, Fed, Found, Met, Walker};
use super::{Error, Options, Planted};
use crate::env::{Aligned, Env, File as _, Mode};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

/// Bytes of log read between two yields: at most about 100 us of hashing.
const YIELD_LEN: usize = 256 << 10;

/// Where a log ended: what its writer goes on from.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The LSN behind the last block. Durable.
    pub end: Lsn,
    /// The checksum of the last block.
    pub chain: u64,
    /// The newest run seen.
    pub epoch: u64,
    /// The number of the segment to go on in.
    pub seq: u64,
    /// Records read; those that were not given out too.
    pub record_count: u64,
    /// Blocks read.
    pub block_count: u64,
    /// Segments that hold part of the log, oldest first.
    pub segments: Vec<PathBuf>,
    /// The numbers of these segments, and where each begins.
    pub(super) held: Vec<(u64, Lsn)>,
    /// Segments that hold nothing of it, or nothing that is needed, by number, rising: the writer
    /// takes their names away.
    pub(super) void: Vec<u64>,
    /// Segments that are longer than their part of the log, and that part's bytes: the writer
    /// gives back the rest.
    pub(super) left: Vec<(PathBuf, u64)>,
}

/// How far a replay is, bytes of segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Read.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

/// Reads the log in `options.dir`, oldest record first. What it read is durable when it ends.
/// Nothing is changed but that the directory is made if it is missing; to go on writing, see
/// [`super::Writer::open`].
///
/// `on_record` gets each record with the LSN that [`super::Writer::append`] gave it, and none whose
/// LSN is not above [`Options::needed_from`], whether its segment is still there or not. The bytes
/// of a record begin no earlier than the LSN of the record before.
///
/// # Errors
/// As [`Error`]. Records may have been given out before.
pub async fn replay<E: Env>(
    env: &E,
    options: &Options,
    mut on_record: impl FnMut(Lsn, Record<'_>),
    mut on_progress: impl FnMut(Progress),
) -> Result<Ended, Error> {
    segments::make_dir(env, &options.dir).await?;
    let mut found = find(env, options).await?;
    let unneeded = found.drain(..walk::unneeded(&found, options.needed_from));
    let unneeded: Vec<u64> = unneeded.map(|found| found.seq).collect();
    let seqs: Vec<u64> = found.iter().map(|found| found.seq).collect();
    let walker = Walker::new(options.log(), found, options.needed_from, options.planted);
    let mut walker = walker.map_err(|defect| Error::of(&options.dir, defect))?;
    walk(env, options, &mut walker, &seqs, &mut on_record, &mut on_progress).await?;
    let end = walker.end();
    let (used, void) = seqs.split_at(end.segment_count);
    if !options.has(Planted::SkipReplaySync) {
        make_durable(env, options, &end, &walker, used).await?;
    }
    let left = walker.left().into_iter();
    Ok(Ended {
        end: end.lsn,
        chain: end.chain,
        epoch: end.epoch,
        seq: used.last().map_or(1, |seq| seq + 1),
        record_count: end.record_count,
        block_count: end.block_count,
        segments: used.iter().map(|seq| path_of(options, *seq)).collect(),
        held: used.iter().copied().zip(walker.bases()).collect(),
        void: [&unneeded, void].concat(),
        left: left.map(|(index, len)| (path_of(options, seqs[index]), len)).collect(),
    })
}

fn path_of(options: &Options, seq: u64) -> PathBuf {
    segments::path(&options.dir, seq)
}

/// The segments, by number.
async fn find<E: Env>(env: &E, options: &Options) -> Result<Vec<Found>, Error> {
    let names = io("list", &options.dir, env.list(&options.dir).await)?;
    let mut all = Vec::new();
    for seq in names.iter().filter_map(|name| segments::seq_of(name)) {
        let (head, len) = segments::read_head(env, &path_of(options, seq)).await?;
        let found = Found::new(options.log(), seq, len, &head);
        all.push(found.map_err(|defect| Error::of(&options.dir, defect))?);
    }
    all.sort_by_key(|found| found.seq);
    Ok(all)
}

async fn walk<E: Env>(
    env: &E,
    options: &Options,
    walker: &mut Walker,
    seqs: &[u64],
    on_record: &mut impl FnMut(Lsn, Record<'_>),
    on_progress: &mut impl FnMut(Progress),
) -> Result<(), Error> {
    let lens: Vec<u64> = (0..seqs.len()).map(|index| walker.read_len(index)).collect();
    let total_bytes = lens.iter().sum();
    let mut buffers = Vec::new();
    while let Some((index, offset)) = walker.wants() {
        let (path, len) = (path_of(options, seqs[index]), walker.read_len(index));
        let reader = Reader::open(env, path, offset.min(len), len).await?;
        let done_before: u64 = lens[..index].iter().sum();
        let done = |offset: u64| {
            let done_bytes = (done_before + offset).min(total_bytes);
            on_progress(Progress { done_bytes, total_bytes });
        };
        let feeding = Feeding { env, options, index, len, reader, walker: &mut *walker };
        feeding.run(&mut buffers, on_record, done).await?;
    }
    on_progress(Progress { done_bytes: total_bytes, total_bytes });
    Ok(())
}

/// One segment on its way through the walker.
struct Feeding<'a, E: Env> {
    env: &'a E,
    options: &'a Options,
    index: usize,
    /// How far `reader` goes.
    len: u64,
    reader: Reader<E::File>,
    walker: &'a mut Walker,
}

impl<E: Env> Feeding<'_, E> {
    /// Until the walker has had enough of the segment, or wants more of it than was thought.
    async fn run(
        mut self,
        buffers: &mut Vec<Aligned>,
        on_record: &mut impl FnMut(Lsn, Record<'_>),
        mut on_done: impl FnMut(u64),
    ) -> Result<(), Error> {
        let (mut window, mut used, mut since_yield) = (Vec::new(), 0, 0);
        let needed_from = self.options.needed_from;
        let mut place = Lsn(0);
        while let Some((index, offset)) = self.walker.wants()
            && (index, self.walker.read_len(index)) == (self.index, self.len)
        {
            let last = self.reader.is_done();
            let fed = self.walker.feed(&window[used..], last, &mut |met| match met {
                Met::Block(block) => place = Lsn(block.lsn.0 + BLOCK_HEADER_LEN as u64),
                Met::Record(record) => {
                    place.0 += (RECORD_HEADER_LEN + record.payload.len()) as u64;
                    if place > needed_from {
                        on_record(place, record);
                    }
                }
            });
            match fed.map_err(|defect| Error::of(&self.options.dir, defect))? {
                Fed::Used(count) => {
                    used += count;
                    since_yield += count;
                }
                Fed::Needs(_) => {
                    on_done(offset);
                    window.drain(..used);
                    used = 0;
                    self.reader.next(&mut window, buffers).await?;
                }
            }
            if since_yield >= YIELD_LEN {
                since_yield = 0;
                self.env.yield_now().await;
            }
        }
        Ok(())
    }
}

/// What was read may still be on its way to the disk: the process that wrote it was killed, and the
/// machine was not. Segments behind which the log itself proves that they were durable are.
async fn make_durable<E: Env>(
    env: &E,
    options: &Options,
    end: &End,
    walker: &Walker,
    used: &[u64],
) -> Result<(), Error> {
    for (index, seq) in used.iter().enumerate() {
        if walker.is_proven_durable(index, end.durable) {
            continue;
        }
        let path = path_of(options, *seq);
        let file = io("open", &path, env.open(&path, Mode::Write).await)?;
        io("sync", &path, file.sync().await)?;
    }
    io("sync", &options.dir, env.sync_dir(&options.dir).await)
}

const _: () = assert!(segments::PIECE_LEN.is_multiple_of(SECTOR_LEN));
