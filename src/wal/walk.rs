//! Finding a segment's valid blocks, and the proof that there were more; pure.

use std::ops::ControlFlow;

use super::Planted;
use super::format::{BLOCK_HEADER_LEN, BlockHeader, SegmentHeader};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

/// How far a reader has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The next block's place.
    pub lsn: Lsn,
    /// The checksum of the last block.
    pub chain: u64,
    /// The most that any block read so far knew to be durable.
    pub durable: Lsn,
}

/// Goes through the valid blocks of a segment from its first, up to `limit`; returns where it
/// stopped: the position, and the byte of the segment. `on_block` gets each block's byte in the
/// segment, its header and its payload, and may end the walk.
///
/// `bytes` is the whole segment, header included. `at` is where the log has come before it.
pub fn walk(
    bytes: &[u8],
    header: &SegmentHeader,
    mut at: Position,
    limit: Lsn,
    planted: Option<Planted>,
    mut on_block: impl FnMut(usize, &BlockHeader, &[u8]) -> ControlFlow<()>,
) -> (Position, usize) {
    let mut offset = SECTOR_LEN;
    while at.lsn < limit && offset < bytes.len() {
        let Some(block) = BlockHeader::decode(&bytes[offset..]) else { break };
        let chained = block.chain == at.chain || planted == Some(Planted::SkipChainCheck);
        let of_epoch = block.epoch == header.epoch || planted == Some(Planted::TrustRecycledBytes);
        let in_place = block.lsn == at.lsn || planted == Some(Planted::TrustRecycledBytes);
        if !chained || !of_epoch || !in_place {
            break;
        }
        let payload = &bytes[offset + BLOCK_HEADER_LEN..][..block.payload_len];
        if on_block(offset, &block, payload).is_break() {
            break;
        }
        offset += block.block_len();
        at.lsn = Lsn(at.lsn.0 + block.block_len() as u64);
        at.chain = block.checksum;
        at.durable = at.durable.max(block.durable);
    }
    (at, offset)
}

/// The most that any block of the segment from byte `from` on knows to have been durable: blocks
/// of the segment's own run, at their own places, sound by themselves.
pub fn proof(bytes: &[u8], header: &SegmentHeader, from: usize) -> Lsn {
    let mut durable = header.durable;
    let mut offset = from.max(SECTOR_LEN).next_multiple_of(SECTOR_LEN);
    while offset + SECTOR_LEN <= bytes.len() {
        let place = Lsn(header.base.0 + (offset - SECTOR_LEN) as u64);
        match BlockHeader::decode(&bytes[offset..]) {
            Some(block) if block.epoch == header.epoch && block.lsn == place => {
                durable = durable.max(block.durable);
                offset += block.block_len();
            }
            _ => offset += SECTOR_LEN,
        }
    }
    durable
}
