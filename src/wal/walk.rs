//! Reading a log back, as a pure state machine: segments' first sectors and bytes in, records and a
//! verdict out. Where the bytes come from is [`super::replay()`]'s affair.
//!
//! First the log: each segment's blocks in order, as long as each is sound, of its header's epoch,
//! at its place and chained to what stands before. A segment may end at any block: when the next
//! one's header continues exactly here (its base and its chain say so), the log goes on there, and
//! what is left of this segment is void. Then everything behind the stop is searched, by [`Rest`]:
//! for proof that more was durable, which makes what is missing corruption. Without one the log
//! ends there, and nothing behind the stop was ever acknowledged: unless what stands there was
//! written as a whole, and a single bit of it is another. A crash leaves out whole pieces, so that
//! is damage.

use super::Planted;
use super::format::{
    BLOCK_HEADER_LEN, BadHeader, BlockHeader, FIRST_CHAIN, LogId, Mended, Record, SegmentHeader,
    decode_record, mended_header,
};
use super::rest::Rest;
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

/// A segment file as its name, length and first sector show it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Of its name.
    pub seq: u64,
    /// Bytes.
    pub len: u64,
    /// Its header and the header's checksum; none if it has none of its own: it was never begun,
    /// or what it holds is from before it was recycled.
    pub header: Option<(SegmentHeader, u64)>,
    /// The header that it has but for one bit.
    mended: Option<SegmentHeader>,
}

impl Found {
    /// Looks at a first sector.
    ///
    /// # Errors
    /// [`Defect::Version`], [`Defect::Foreign`].
    pub fn new(log: LogId, seq: u64, len: u64, sector: &[u8]) -> Result<Self, Defect> {
        let (header, mended) = match SegmentHeader::decode(sector) {
            Ok((header, _)) if header.log != log => return Err(Defect::Foreign { seq }),
            Err(BadHeader::Version(version)) => return Err(Defect::Version { seq, version }),
            Ok((header, checksum)) if header.seq == seq => (Some((header, checksum)), None),
            Ok(_) => (None, None),
            Err(BadHeader::Absent) => (None, mended_header(sector)),
        };
        Ok(Self { seq, len, header, mended })
    }

    /// Bytes that count: whole sectors.
    fn whole_len(&self) -> u64 {
        let len = self.header.map_or(self.len, |(header, _)| header.segment_len.min(self.len));
        len - len % SECTOR_LEN as u64
    }

    fn base(&self) -> Option<Lsn> {
        self.header.map(|(header, _)| header.base)
    }
}

/// Why a log is refused; [`super::Error`] without paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the error with the same name")]
pub enum Defect {
    /// Something later proves that what stood here was durable.
    Corrupt { what: &'static str, seq: u64, offset: u64, end: Lsn, durable: Lsn },
    /// What stood here was whole, but for one bit.
    Flipped { what: &'static str, seq: u64, offset: u64 },
    /// The file is shorter than its header says.
    Truncated { seq: u64, len: u64, expected: u64 },
    /// No such segment, though the log went on in it.
    Missing { seq: u64 },
    /// No segment at all, though the log is needed from here on.
    Gone { needed_from: Lsn },
    /// A sound block with broken records.
    Malformed { seq: u64, offset: u64 },
    /// Of another version.
    Version { seq: u64, version: u32 },
    /// Of another log.
    Foreign { seq: u64 },
    /// A later segment, which does not go on where the log ends.
    Misfit { seq: u64, base: Lsn, end: Lsn },
}

/// Where a log ends and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The LSN behind the last block.
    pub lsn: Lsn,
    /// The checksum of the last block or header.
    pub chain: u64,
    /// The highest epoch seen anywhere.
    pub epoch: u64,
    /// How many segments, from the first, belong to the log; the others are void.
    pub segment_count: usize,
    /// How far it is proved to have been durable: by the log itself, and by what is needed of it.
    pub durable: Lsn,
    /// Records read.
    pub record_count: u64,
    /// Blocks read.
    pub block_count: u64,
}

/// What became of bytes given to [`Walker::feed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// So many were used; ask [`Walker::wants`] how to go on.
    Used(usize),
    /// Nothing was used: this many bytes are needed in one piece, at most
    /// [`super::format::BLOCK_LEN_MAX`].
    Needs(usize),
}

/// What a walk meets in the log, in order.
#[derive(Clone, Copy, Debug)]
pub enum Met<'a> {
    /// A sound block at its place. Its records are next.
    Block(&'a BlockHeader),
    /// A record.
    Record(Record<'a>),
}

/// See the module's header.
#[derive(Debug)]
pub struct Walker {
    key: u64,
    segments: Vec<Found>,
    /// The search behind the end of the log; none while the log is read.
    rest: Option<Rest>,
    /// The segment and the byte of it that is wanted next.
    index: usize,
    offset: u64,
    end: End,
    /// What is wrong where the log ends, if nothing behind proves more.
    flipped: Option<Defect>,
    planted: Option<Planted>,
}

impl Walker {
    /// A walk through `segments`, in order of `seq`, that must reach back to `needed_from`, which
    /// was durable. Those that are [`unneeded`] must not be among them.
    ///
    /// # Errors
    /// A segment is missing or too short, or the first one has no header though it must.
    pub fn new(
        log: LogId,
        segments: Vec<Found>,
        needed_from: Lsn,
        planted: Option<Planted>,
    ) -> Result<Self, Defect> {
        let follows = |pair: &[Found]| pair[0].seq.checked_add(1) == Some(pair[1].seq);
        if let Some(gap) = segments.windows(2).find(|pair| !follows(pair)) {
            return Err(Defect::Missing { seq: gap[0].seq.saturating_add(1) });
        }
        let end = End {
            lsn: Lsn(0),
            chain: FIRST_CHAIN,
            epoch: segments.iter().filter_map(epoch_of).max().unwrap_or(0),
            segment_count: 0,
            durable: needed_from,
            record_count: 0,
            block_count: 0,
        };
        let key = log.key();
        let (rest, flipped) = (None, None);
        let mut walker = Self { key, segments, rest, index: 0, offset: 0, end, flipped, planted };
        walker.enter_first(needed_from)?;
        Ok(walker)
    }

    fn enter_first(&mut self, needed_from: Lsn) -> Result<(), Defect> {
        let Some(first) = self.segments.first().copied() else {
            let is_needed = needed_from > Lsn(0);
            return if is_needed { Err(Defect::Gone { needed_from }) } else { Ok(()) };
        };
        match first.header {
            Some((header, _)) if header.base > needed_from => {
                Err(Defect::Missing { seq: first.seq.saturating_sub(1) })
            }
            Some((header, _)) => {
                self.end.lsn = header.base;
                self.enter(0)
            }
            // The first segment of all: a crash may have come before its header.
            None if first.seq == 1 => self.stop(),
            None => Err(Defect::Corrupt {
                what: HEADER,
                seq: first.seq,
                offset: 0,
                end: Lsn(0),
                durable: needed_from,
            }),
        }
    }

    /// Goes on in segment `index`, whose header is the next piece of the log.
    fn enter(&mut self, index: usize) -> Result<(), Defect> {
        let found = self.segments[index];
        let (header, checksum) = found.header.expect("the caller looked at it");
        // What is behind a segment's part of the log may have been given back, see `stop`.
        if let Some(expected) = self.part_len(index).filter(|part| found.len < *part) {
            let (seq, len) = (found.seq, found.len);
            return Err(Defect::Truncated { seq, len, expected });
        }
        self.index = index;
        self.offset = SECTOR_LEN as u64;
        self.end.segment_count = index + 1;
        self.end.lsn = Lsn(header.base.0.saturating_add(SECTOR_LEN as u64));
        self.end.chain = checksum;
        self.end.durable = self.end.durable.max(header.durable);
        Ok(())
    }

    /// Where the next bytes are wanted: index of the segment, and byte of it. None: all is read.
    pub fn wants(&self) -> Option<(usize, u64)> {
        (self.index < self.segments.len()).then_some((self.index, self.offset))
    }

    /// Where the log ended: index of the segment, and byte of it; none as long as it is read. What
    /// is wanted from then on is behind the end.
    pub fn ended_at(&self) -> Option<(usize, u64)> {
        self.rest.as_ref().map(Rest::stop)
    }

    /// How far segment `index` is to be read: to its end, or to where the next one's header says
    /// that the log went on there.
    pub fn read_len(&self, index: usize) -> u64 {
        let len = self.segments[index].whole_len();
        let part = self.part_len(index).filter(|_| self.rest.is_none());
        part.map_or(len, |part| part.min(len))
    }

    /// The bytes of segment `index` that are its part of the log, as the next one's header has it.
    fn part_len(&self, index: usize) -> Option<u64> {
        let [base, next] = [index, index + 1].map(|index| self.segments.get(index)?.base());
        let len = next?.0.checked_sub(base?.0)?;
        let header = self.segments[index].header.map(|(header, _)| header);
        (SECTOR_LEN as u64..=header?.segment_len).contains(&len).then_some(len)
    }

    /// Where each segment of the log begins, in order.
    ///
    /// # Panics
    /// If the walk [`Walker::wants`] more.
    pub fn bases(&self) -> impl Iterator<Item = Lsn> {
        self.segments[..self.end().segment_count].iter().filter_map(Found::base)
    }

    /// The segments that a replay ended, by index, and the bytes of each that are its part of the
    /// log: what is behind is void for ever, once there is a header that goes on from here.
    ///
    /// # Panics
    /// If the walk [`Walker::wants`] more.
    pub fn left(&self) -> Vec<(usize, u64)> {
        let end = self.end();
        let epoch = |index: usize| self.segments.get(index).and_then(epoch_of);
        let part = |index: usize| {
            let is_last = index + 1 == end.segment_count;
            if !is_last && epoch(index) == epoch(index + 1) {
                return None;
            }
            let base = self.segments[index].base()?;
            let len = if is_last { Some(end.lsn.0 - base.0) } else { self.part_len(index) };
            len.filter(|len| *len < self.segments[index].len).map(|len| (index, len))
        };
        (0..end.segment_count).filter_map(part).collect()
    }

    /// Whether the log itself proves, by `durable`, that its part in segment `index` was durable.
    pub fn is_proven_durable(&self, index: usize, durable: Lsn) -> bool {
        let next = self.segments[..self.end.segment_count].get(index + 1);
        let end = next.and_then(|found| found.header).map_or(self.end.lsn, |(next, _)| next.base);
        end <= durable
    }

    /// The verdict.
    ///
    /// # Panics
    /// If the walk [`Walker::wants`] more.
    pub fn end(&self) -> End {
        assert!(self.wants().is_none(), "the walk is not over: {self:?}");
        self.end
    }

    /// Takes bytes from where they are wanted, whole sectors; `last` if they are the segment's
    /// last. Reads one block, or searches what there is.
    ///
    /// # Errors
    /// The log is refused.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        last: bool,
        on_met: &mut impl FnMut(Met<'_>),
    ) -> Result<Fed, Defect> {
        if self.rest.is_none() && self.next_continues() {
            return self.enter(self.index + 1).map(|()| Fed::Used(0));
        }
        match &self.rest {
            _ if bytes.is_empty() && !last => Ok(Fed::Needs(SECTOR_LEN)),
            None => self.feed_log(bytes, last, on_met),
            Some(_) => self.feed_rest(bytes, last),
        }
    }

    fn feed_log(
        &mut self,
        bytes: &[u8],
        last: bool,
        on_met: &mut impl FnMut(Met<'_>),
    ) -> Result<Fed, Defect> {
        let Some(head) = BlockHeader::peek(self.key, bytes) else {
            return self.feed_end(bytes, last);
        };
        let len = head.header.block_len();
        if len > bytes.len() && !last {
            return Ok(Fed::Needs(len));
        }
        let block = BlockHeader::decode(self.key, bytes);
        let Some((block, checksum)) = block.filter(|(block, _)| self.is_next(block)) else {
            return self.feed_end(bytes, last);
        };
        on_met(Met::Block(&block));
        self.deliver(&block, &bytes[BLOCK_HEADER_LEN..][..block.payload_len], on_met)?;
        self.offset += len as u64;
        self.end.lsn = Lsn(self.end.lsn.0.saturating_add(len as u64));
        self.end.chain = checksum;
        self.end.durable = self.end.durable.max(block.durable);
        self.end.epoch = self.end.epoch.max(block.epoch);
        self.end.block_count += 1;
        Ok(Fed::Used(len))
    }

    /// There is no sound block that would go on with the log: it ends here, unless one was there.
    fn feed_end(&mut self, bytes: &[u8], last: bool) -> Result<Fed, Defect> {
        match Mended::find(self.key, bytes, |block| self.is_next(block)) {
            Some(Mended::Needs(len)) if !last => return Ok(Fed::Needs(len)),
            Some(Mended::Block) if !self.has(Planted::FlippedIsTorn) => {
                let (seq, offset) = (self.segments[self.index].seq, self.offset);
                self.flipped = Some(Defect::Flipped { what: BLOCK, seq, offset });
            }
            _ => {}
        }
        self.stop().map(|()| Fed::Used(0))
    }

    /// Whether the next segment begins exactly where the log has come.
    fn next_continues(&self) -> bool {
        let next = self.segments.get(self.index + 1).and_then(|found| found.header);
        next.is_some_and(|(header, _)| self.continues(&header))
    }

    fn continues(&self, header: &SegmentHeader) -> bool {
        header.base == self.end.lsn
            && (header.chain == self.end.chain || self.has(Planted::SkipChainCheck))
    }

    fn is_next(&self, block: &BlockHeader) -> bool {
        let epoch = self.segments[self.index].header.map(|(header, _)| header.epoch);
        let in_place = Some(block.epoch) == epoch && block.lsn == self.end.lsn;
        let chained = block.chain == self.end.chain || self.has(Planted::SkipChainCheck);
        (in_place && chained) || self.has(Planted::TrustRecycledBytes)
    }

    fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    fn deliver(
        &mut self,
        block: &BlockHeader,
        payload: &[u8],
        on_met: &mut impl FnMut(Met<'_>),
    ) -> Result<(), Defect> {
        let (mut rest, mut count) = (payload, 0);
        while let Some((record, after)) = decode_record(rest) {
            on_met(Met::Record(record));
            count += 1;
            rest = after;
        }
        if !rest.is_empty() || count != block.record_count {
            let (seq, offset) = (self.segments[self.index].seq, self.offset);
            return Err(Defect::Malformed { seq, offset });
        }
        self.end.record_count += u64::from(count);
        Ok(())
    }

    /// The log ends here.
    fn stop(&mut self) -> Result<(), Defect> {
        self.check_whole()?;
        let next = self.segments.get(self.end.segment_count);
        if let Some(next) = next.filter(|next| next.mended.is_some_and(|of| self.continues(&of))) {
            self.flipped = Some(Defect::Flipped { what: HEADER, seq: next.seq, offset: 0 });
        }
        let stop = (self.index, self.offset);
        self.rest = Some(Rest::new(&self.segments, stop, &self.end)?);
        self.offset = self.offset.max(SECTOR_LEN as u64);
        self.skip_ended()
    }

    /// Whether the segment in which the log ends is as long as it was made. If it is shorter, then
    /// either it lost its end, or its rest was given back: after the next segment had a header.
    fn check_whole(&self) -> Result<(), Defect> {
        let found = self.segments[self.index];
        let (seq, len, end) = (found.seq, found.len, self.end.lsn);
        let Some((header, _)) = found.header.filter(|(header, _)| len < header.segment_len) else {
            return Ok(());
        };
        match self.segments.get(self.index + 1) {
            _ if self.offset < len => {
                Err(Defect::Truncated { seq, len, expected: header.segment_len })
            }
            None => Err(Defect::Missing { seq: seq.saturating_add(1) }),
            Some(next) => {
                let durable = Lsn(end.0.saturating_add(SECTOR_LEN as u64));
                Err(Defect::Corrupt { what: HEADER, seq: next.seq, offset: 0, end, durable })
            }
        }
    }

    fn feed_rest(&mut self, bytes: &[u8], last: bool) -> Result<Fed, Defect> {
        let rest = self.rest.as_mut().expect("the log has ended");
        let place = (self.index, self.offset);
        let fed = rest.search(self.key, &self.segments, place, bytes, last)?;
        self.end.epoch = rest.epoch();
        if let Fed::Used(count) = fed {
            self.offset += count as u64;
            self.skip_ended()?;
        }
        Ok(fed)
    }

    /// Goes to the next segment that has bytes to search.
    fn skip_ended(&mut self) -> Result<(), Defect> {
        while self.segments.get(self.index).is_some_and(|found| self.offset >= found.whole_len()) {
            self.index += 1;
            self.offset = SECTOR_LEN as u64;
            let is_over = self.index >= self.segments.len();
            if let Some(rest) = &mut self.rest {
                rest.enter(&self.segments, self.index, is_over)?;
            }
        }
        let is_over = self.index >= self.segments.len();
        self.flipped.filter(|_| is_over).map_or(Ok(()), Err)
    }
}

/// How many of `segments`, in order of `seq`, lie before the one that `needed_from` is in. They are
/// of no account: a release may have taken any of them.
///
/// A header at or before a place that was durable is of the log: what a crash leaves void begins
/// behind the log's end, and loses its name before the log goes on.
pub fn unneeded(segments: &[Found], needed_from: Lsn) -> usize {
    let reaches_back = |found: &Found| found.base().is_some_and(|base| base <= needed_from);
    segments.iter().rposition(reaches_back).unwrap_or(0)
}

/// What is wrong, for [`Defect::Corrupt`].
pub const HEADER: &str = "segment header";
/// See [`HEADER`].
pub const BLOCK: &str = "block";

fn epoch_of(found: &Found) -> Option<u64> {
    found.header.map(|(header, _)| header.epoch)
}

/// Replays a log that is in memory: its segments' numbers and bytes, in order. The same decisions
/// as [`super::replay()`], for tests, tools and fuzzing.
///
/// # Errors
/// The log is refused.
pub fn walk_bytes(
    log: LogId,
    segments: &[(u64, &[u8])],
    planted: Option<Planted>,
    mut on_record: impl FnMut(Record<'_>),
) -> Result<End, Defect> {
    let found = segments
        .iter()
        .map(|(seq, bytes)| Found::new(log, *seq, bytes.len() as u64, bytes))
        .collect::<Result<_, _>>()?;
    let mut walker = Walker::new(log, found, Lsn(0), planted)?;
    while let Some((index, offset)) = walker.wants() {
        let whole = walker.read_len(index) as usize;
        let bytes = &segments[index].1[(offset as usize).min(whole)..whole];
        let fed = walker.feed(bytes, true, &mut |met| {
            if let Met::Record(record) = met {
                on_record(record);
            }
        })?;
        assert!(!matches!(fed, Fed::Needs(_)), "all there is was given: {fed:?}");
    }
    Ok(walker.end())
}
