//! Laying out: records gather in blocks, and each gets its place before the disk hears of it.
//!
//! Places are given as records come, so that an append can say at once which LSN makes it safe.
//! What a block says besides (its chain, its checksum, the newest `durable`) it gets when it is
//! submitted ([`super::tail`]). Pure, but for the buffers that it keeps.

use std::collections::VecDeque;

use crate::env::Aligned;
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;
use crate::wal::format::{
    BLOCK_HEADER_LEN, BLOCK_LEN_MAX, RECORD_HEADER_LEN, Record, block_len, encode_record,
};
use crate::wal::{Options, Planted};

const SECTOR: u64 = SECTOR_LEN as u64;

/// A block that takes records, or took them.
pub struct Block {
    /// As long as the longest block; its header is not written yet.
    pub buf: Aligned,
    /// Bytes used, header included.
    pub len: usize,
    /// How many records there are.
    pub record_count: u32,
    /// What it may grow to.
    limit: usize,
}

/// Laid out, not submitted.
pub enum Laid {
    /// The header of the next segment, and its place.
    Header(Lsn),
    /// A block that is full, that closed the segment or that is wanted, and its place.
    Block(Block, Lsn),
}

/// See the module's header.
pub struct Layout {
    segment_len: u64,
    block_len_max: usize,
    buffers_max: usize,
    /// Where the open block begins, or the next one will.
    place: Lsn,
    /// Bytes of the segment from `place` on.
    room: u64,
    open: Option<Block>,
    queue: VecDeque<Laid>,
    buffers: Vec<Aligned>,
    planted: Option<Planted>,
    closed_count: u64,
}

impl Layout {
    /// Begins behind the header of a segment of `first_len` bytes, at `place`.
    ///
    /// # Panics
    /// If `options` have lengths that are not whole sectors, or segments without room for a block.
    pub fn new(options: &Options, place: Lsn, first_len: u64) -> Self {
        let Options { segment_len, block_len_max, in_flight_max, planted, .. } = *options;
        let longest = block_len_max as u64;
        assert!(
            segment_len.is_multiple_of(SECTOR)
                && longest.is_multiple_of(SECTOR)
                && (SECTOR..=BLOCK_LEN_MAX as u64).contains(&longest)
                && segment_len >= SECTOR + longest,
            "segments of {segment_len} bytes for blocks of {block_len_max}"
        );
        Self {
            segment_len,
            block_len_max,
            buffers_max: in_flight_max + 2,
            place,
            room: first_len - SECTOR,
            open: None,
            queue: VecDeque::new(),
            buffers: Vec::new(),
            planted,
            closed_count: 0,
        }
    }

    /// The end of what was appended.
    pub fn appended(&self) -> Lsn {
        Lsn(self.place.0 + self.open_len() as u64)
    }

    /// Bytes that the present segment has room for; 0: a new one is waited for.
    pub fn room_left(&self) -> u64 {
        match self.queue.iter().any(|laid| matches!(laid, Laid::Header(_))) {
            true => 0,
            false => self.room - self.open_len() as u64,
        }
    }

    /// Bytes of the open block, header included; 0: none is open.
    pub fn open_len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.len)
    }

    /// Whether a block is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether all was submitted.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.queue.is_empty()
    }

    /// Whether `record` must go into another block than the open one.
    pub fn is_full_for(&self, record: &Record<'_>) -> bool {
        let len = RECORD_HEADER_LEN + record.payload.len();
        self.open.as_ref().is_some_and(|open| open.len + len > open.limit)
    }

    /// Adds a record to the open block, which has room for it, or to a new one.
    ///
    /// # Panics
    /// If the record fits into no block.
    pub fn append(&mut self, record: &Record<'_>) {
        if self.open.is_none() {
            self.open = Some(self.fresh(RECORD_HEADER_LEN + record.payload.len()));
        }
        let open = self.open.as_mut().expect("made above");
        open.len += encode_record(record, &mut open.buf[open.len..]);
        open.record_count += 1;
    }

    /// Opens a block without records, unless that needed a new segment. None must be open.
    pub fn append_nothing(&mut self) {
        assert!(self.open.is_none(), "a block is open: its records prove nothing");
        if self.room >= SECTOR {
            self.open = Some(self.fresh(0));
        }
    }

    /// A new block at `place`, in the next segment if this one has no room for it.
    fn fresh(&mut self, len: usize) -> Block {
        let least = block_len(len);
        assert!(least <= self.block_len_max, "a record of {len} bytes fits in no block");
        if (least as u64) > self.room {
            self.queue.push_back(Laid::Header(self.place));
            self.place = Lsn(self.place.0 + SECTOR);
            self.room = self.segment_len - SECTOR;
        }
        let limit = self.room.min(self.block_len_max as u64) as usize;
        let buf = self.buffers.pop().unwrap_or_else(|| Aligned::zeroed(self.block_len_max));
        Block { buf, len: BLOCK_HEADER_LEN, record_count: 0, limit }
    }

    /// Closes the open block, if any: its length is known, and so is the place of the next. Whether
    /// there was one.
    pub fn close_block(&mut self) -> bool {
        let Some(mut open) = self.open.take() else { return false };
        self.closed_count += 1;
        let is_dropped = self.planted == Some(Planted::DropLastBatch);
        if is_dropped && self.closed_count.is_multiple_of(7) {
            (open.len, open.record_count) = (BLOCK_HEADER_LEN, 0);
        }
        let (lsn, len) = (self.place, open.len.next_multiple_of(SECTOR_LEN) as u64);
        assert!(len <= self.room, "a block of {len} bytes in the {} that are left", self.room);
        self.place = Lsn(lsn.0 + len);
        self.room -= len;
        self.queue.push_back(Laid::Block(open, lsn));
        true
    }

    /// What is to be submitted next.
    pub fn front(&self) -> Option<&Laid> {
        self.queue.front()
    }

    /// Takes it.
    pub fn pop(&mut self) -> Option<Laid> {
        self.queue.pop_front()
    }

    /// Drops what was not submitted: nothing of it will be.
    pub fn clear(&mut self) {
        self.open = None;
        self.queue.clear();
    }

    /// A buffer of a sector at least.
    pub fn buffer(&mut self) -> Aligned {
        self.buffers.pop().unwrap_or_else(|| Aligned::zeroed(SECTOR_LEN))
    }

    /// Takes a buffer back, for the blocks to come.
    pub fn reuse(&mut self, buf: Aligned) {
        if buf.len() == self.block_len_max && self.buffers.len() < self.buffers_max {
            self.buffers.push(buf);
        }
    }
}
