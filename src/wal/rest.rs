//! What stands behind the end of a log: the remains of a crash, or the proof of damage. Pure; a
//! part of [`super::walk`].
//!
//! One crash leaves what was in flight, in any part: at most `in_flight_max` writes of at most
//! `block_len_max` bytes each, in one piece of the log, of which replay read some beginning. Behind
//! that there are zeroes, or what recycled files held before. So the log was damaged if
//! * a block says that more was durable than could be read. Its header is enough, which has a
//!   checksum of its own: a flipped bit in every payload leaves the proofs whole;
//! * a later segment's header says so, or does not go on where the log ends and yet begins no later
//!   than that: it is of another copy of this log;
//! * there is a segment behind the one that should go on here: it gets its name after the header
//!   before it is durable;
//! * there is more behind the end, neither zeroes nor sound blocks, than one crash can leave.
//!
//! Nothing here asks for a sound block's epoch or place: `durable` never exceeds what was truly
//! durable, and replay never ends below that, so what recycled files and void tails hold proves
//! nothing new. Of a recycled file, whose blocks followed each other to its last, the new writes
//! leave one block without its beginning, and behind the last one there is less than a block: as
//! much is allowed for in each file.
//!
//! Not seen is the loss of acknowledged blocks that left no trace behind them: zeroes to the end of
//! the log, the newest files gone, garbage over less than a crash can leave; and of the very last
//! block, behind which nothing was written that knows of it: unless a single bit is wrong, which
//! the walk looks for. Therefore [`super::Writer::close`] adds an empty one.

use super::format::{BLOCK_LEN_MAX, BlockHeader};
use super::walk::{BLOCK, Defect, End, Fed, Found, HEADER};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

const SECTOR: u64 = SECTOR_LEN as u64;

/// The search behind a log's end. See the module's header.
#[derive(Debug)]
pub struct Rest {
    /// Where the log ended: the segment, by index, and the byte of it.
    stop: (usize, u64),
    end: Lsn,
    /// The segment that should have gone on with the log, by index.
    next: usize,
    /// Bytes of log that one crash leaves behind its end.
    reach: u64,
    /// Bytes that a recycled file may hold besides sound blocks.
    slack: u64,
    /// The most that is proved to have been durable by names and headers behind the end, and by
    /// what the log is needed for.
    durable_later: Lsn,
    /// There is nothing in the place where the log ended.
    is_blank: bool,
    /// In the segment searched: bytes out of reach that nothing explains.
    strange: u64,
    /// The highest epoch seen.
    epoch: u64,
}

impl Rest {
    /// The log of `segments` ended at `stop`, which `end` has as an LSN.
    ///
    /// # Errors
    /// [`Defect::Misfit`].
    pub fn new(segments: &[Found], stop: (usize, u64), end: &End) -> Result<Self, Defect> {
        let next = end.segment_count;
        let headers = || segments.iter().filter_map(|found| found.header.map(|(h, _)| h));
        let later = || segments.iter().skip(next).filter_map(|found| found.header.map(|(h, _)| h));
        if let Some(misfit) = later().find(|header| header.base <= end.lsn) {
            let (seq, base, end) = (misfit.seq, misfit.base, end.lsn);
            return Err(Defect::Misfit { seq, base, end });
        }
        let durable_later = later().map(|header| header.durable).max().unwrap_or_default();
        let is_named_later = segments.len() > next + 1;
        let named = if is_named_later { end.lsn.0.saturating_add(SECTOR) } else { 0 };
        let block_len_max = headers().map(|header| u64::from(header.block_len_max)).max();
        Ok(Self {
            stop,
            end: end.lsn,
            next,
            reach: headers().map(|header| header.reach()).max().unwrap_or(0),
            slack: 2 * block_len_max.unwrap_or(BLOCK_LEN_MAX as u64),
            // What is needed of the log was durable.
            durable_later: durable_later.max(Lsn(named)).max(end.durable),
            is_blank: true,
            strange: 0,
            epoch: end.epoch,
        })
    }

    /// Where the log ended: index of the segment, and byte of it.
    pub fn stop(&self) -> (usize, u64) {
        self.stop
    }

    /// The highest epoch seen, the log's included.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes bytes of `segments[index]` from `offset` on; `last` if they are its last.
    ///
    /// # Errors
    /// [`Defect::Corrupt`].
    pub fn search(
        &mut self,
        key: u64,
        segments: &[Found],
        (index, offset): (usize, u64),
        bytes: &[u8],
        last: bool,
    ) -> Result<Fed, Defect> {
        let mut used = 0;
        while used < bytes.len() {
            let (here, place) = (&bytes[used..], (index, offset + used as u64));
            let head = BlockHeader::peek(key, here);
            if let Some(head) = head.filter(|head| head.is_sealed) {
                self.judge(segments, place, &head.header)?;
            }
            let len = head.map_or(SECTOR_LEN, |head| head.header.block_len());
            if len > here.len() && !last {
                if used == 0 {
                    return Ok(Fed::Needs(len));
                }
                break;
            }
            match BlockHeader::decode(key, here) {
                Some((block, _)) => {
                    self.judge(segments, place, &block)?;
                    self.is_blank &= place != self.stop;
                    used += block.block_len();
                }
                None => {
                    let sector = &here[..SECTOR_LEN.min(here.len())];
                    self.look_at(segments, place, sector)?;
                    used += sector.len();
                }
            }
        }
        Ok(Fed::Used(used))
    }

    /// A block behind the end of the log, or its header: is it a proof?
    fn judge(
        &mut self,
        segments: &[Found],
        (index, offset): (usize, u64),
        block: &BlockHeader,
    ) -> Result<(), Defect> {
        self.epoch = self.epoch.max(block.epoch);
        if block.durable <= self.end {
            return Ok(());
        }
        // The segment before ended properly, and this block belongs to the next one.
        let base = block.lsn.0.wrapping_sub(offset);
        self.is_blank |= index == self.next && base == self.end.0;
        Err(self.corrupt(segments, index, block.durable))
    }

    /// A sector that begins no sound block.
    fn look_at(
        &mut self,
        segments: &[Found],
        (index, offset): (usize, u64),
        sector: &[u8],
    ) -> Result<(), Defect> {
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.is_blank &= (index, offset) != self.stop;
        // The least that its LSN can be: a segment without a header begins behind the log's end.
        let base = segments[index].header.map_or(self.end, |(header, _)| header.base);
        let behind = base.0.saturating_add(offset + SECTOR).saturating_sub(self.end.0);
        if behind <= self.reach {
            return Ok(());
        }
        self.strange += SECTOR;
        if self.strange <= self.slack {
            return Ok(());
        }
        let durable = Lsn(self.end.0.saturating_add(behind - self.reach));
        Err(self.corrupt(segments, index, durable))
    }

    /// The search goes on in segment `index`, or `is_over`. Behind the segment that should have
    /// gone on with the log, which may say best what is wrong, headers and names are proof enough.
    ///
    /// # Errors
    /// [`Defect::Corrupt`].
    pub fn enter(&mut self, segments: &[Found], index: usize, is_over: bool) -> Result<(), Defect> {
        self.strange = 0;
        if (index > self.next || is_over) && self.durable_later > self.end {
            return Err(self.corrupt(segments, index, self.durable_later));
        }
        Ok(())
    }

    /// The damage that something in segment `proof` proves.
    fn corrupt(&self, segments: &[Found], proof: usize, durable: Lsn) -> Defect {
        let end = self.end;
        let next = segments.get(self.next).filter(|found| found.header.is_none());
        if let Some(found) = next.filter(|_| self.is_blank && proof >= self.next) {
            return Defect::Corrupt { what: HEADER, seq: found.seq, offset: 0, end, durable };
        }
        let (index, offset) = self.stop;
        let what = if offset == 0 { HEADER } else { BLOCK };
        Defect::Corrupt { what, seq: segments[index].seq, offset, end, durable }
    }
}
