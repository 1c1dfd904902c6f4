//! The log's end as the disk was given it: where the next write goes, and what it is chained to.
//!
//! Only here does a block get its chain, its checksum and the newest `durable`.

use std::path::Path;

use super::layout::Block;
use crate::env::{Aligned, Env, File as _};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;
use crate::wal::format::{BLOCK_HEADER_LEN, BlockHeader, SegmentHeader};
use crate::wal::segments::io;
use crate::wal::supply::Segment;
use crate::wal::{Ended, Error, Options};

/// A write to be given to the disk.
pub struct Submission<E: Env> {
    /// The segment's file, and its number.
    pub file: E::File,
    /// See `file`.
    pub seq: u64,
    /// What to write: the first `len` bytes.
    pub buf: Aligned,
    /// See `buf`.
    pub len: usize,
    /// To where in the file.
    pub offset: u64,
    /// Where the log ends with it.
    pub end: Lsn,
}

/// See the module's header.
pub struct Tail<E: Env> {
    key: u64,
    epoch: u64,
    segment: Segment<E>,
    /// Where in the segment the next block goes.
    offset: u64,
    /// Where the segment's header ends, in the log.
    begun: Lsn,
    chain: u64,
    /// The last thing submitted was a block with records: nothing written proves it durable.
    is_unproven: bool,
}

impl<E: Env> Tail<E> {
    /// Begins `segment` behind the log that `ended`, in a new epoch; its header is durable when
    /// this ends.
    ///
    /// # Errors
    /// As the disk's.
    pub async fn begin(
        env: &E,
        options: &Options,
        segment: Segment<E>,
        ended: &Ended,
    ) -> Result<Self, Error> {
        let mut tail = Self {
            key: options.log().key(),
            epoch: ended.epoch + 1,
            segment,
            offset: 0,
            begun: ended.end,
            chain: ended.chain,
            is_unproven: false,
        };
        let places = (ended.end, ended.end);
        let sector = Aligned::zeroed(SECTOR_LEN);
        let Submission { file, buf, len, offset, .. } =
            tail.enter(options, places, env.random(), sector);
        let (result, _) = file.write_at(buf, len, offset, true).await;
        written(&tail.segment.path, offset, len, result).map(|()| tail)
    }

    /// The number of the present segment.
    pub fn seq(&self) -> u64 {
        self.segment.seq
    }

    /// Bytes of the present segment.
    pub fn segment_len(&self) -> u64 {
        self.segment.len
    }

    /// Where the header of the present segment ends.
    pub fn begun(&self) -> Lsn {
        self.begun
    }

    /// Whether the next replay could not tell that the last block was durable.
    pub fn is_unproven(&self) -> bool {
        self.is_unproven
    }

    /// Completes a block at `lsn`, the end of what was submitted.
    pub fn block(&mut self, block: Block, lsn: Lsn, durable: Lsn) -> Submission<E> {
        let Block { mut buf, len, record_count, .. } = block;
        let header = BlockHeader {
            epoch: self.epoch,
            lsn,
            durable,
            chain: self.chain,
            payload_len: len - BLOCK_HEADER_LEN,
            record_count,
        };
        self.chain = header.seal(self.key, &mut buf);
        self.is_unproven = record_count > 0;
        self.submission(buf, header.block_len(), lsn)
    }

    /// Goes on in segment `next`, whose header has the place `base`; `nonce` is random.
    pub fn header(
        &mut self,
        options: &Options,
        next: Segment<E>,
        (base, durable): (Lsn, Lsn),
        nonce: u64,
        buf: Aligned,
    ) -> Submission<E> {
        (self.segment, self.offset) = (next, 0);
        self.enter(options, (base, durable), nonce, buf)
    }

    /// Completes the header of the present segment.
    fn enter(
        &mut self,
        options: &Options,
        (base, durable): (Lsn, Lsn),
        nonce: u64,
        mut buf: Aligned,
    ) -> Submission<E> {
        let header = SegmentHeader {
            log: options.log(),
            seq: self.segment.seq,
            epoch: self.epoch,
            nonce,
            base,
            durable,
            segment_len: self.segment.len,
            chain: self.chain,
            block_len_max: options.block_len_max as u32,
            in_flight_max: options.in_flight_max as u32,
        };
        self.chain = header.encode(&mut buf);
        self.begun = Lsn(base.0 + SECTOR_LEN as u64);
        self.submission(buf, SECTOR_LEN, base)
    }

    fn submission(&mut self, buf: Aligned, len: usize, lsn: Lsn) -> Submission<E> {
        let (file, seq, offset) = (self.segment.file.clone(), self.segment.seq, self.offset);
        self.offset += len as u64;
        Submission { file, seq, buf, len, offset, end: Lsn(lsn.0 + len as u64) }
    }
}

/// The error of a write to a segment that failed or was cut short.
///
/// # Errors
/// As the disk's; [`Error::Short`].
pub fn written(
    path: &Path,
    offset: u64,
    len: usize,
    result: std::io::Result<usize>,
) -> Result<(), Error> {
    match io("write", path, result)? {
        count if count == len => Ok(()),
        count => Err(Error::Short { path: path.to_owned(), offset, len, written: count }),
    }
}
