//! From a manifest's bytes to the state; pure.
//!
//! Records are written one after the other, each durable before the next, and no sector is written
//! twice. So a crash leaves at most one record incomplete, the last one, which nobody was told of:
//! that is the end. Bytes that are no record with one of the same file behind them are damage; so
//! are those that would be the next record if one bit were another: a crash leaves out whole
//! pieces.

use super::State;
use super::format::{Bad, Kind, Record, decode, mended};
use crate::limits::SECTOR_LEN;
use crate::wal::format::LogId;

/// What is wrong with a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There is no sound record where one must be.
    Corrupt {
        /// Where.
        offset: u64,
    },
    /// It is of another directory, shard, or file.
    Foreign,
    /// It is of another version.
    Version(u16),
}

/// The state after the last whole record of file `seq`.
///
/// # Errors
/// As [`Damage`].
pub fn replay(bytes: &[u8], log: LogId, seq: u64) -> Result<State, Damage> {
    let mut state = State::default();
    let (mut offset, mut number, mut chain) = (0, 0, 0);
    while offset < bytes.len() {
        let corrupt = Err(Damage::Corrupt { offset: offset as u64 });
        let record = match decode(&bytes[offset..]) {
            Ok(record) => record,
            Err(Bad::Version(version)) => return Err(Damage::Version(version)),
            Err(Bad::Malformed) => return corrupt,
            Err(Bad::Invalid) if offset == 0 => return corrupt,
            Err(Bad::Invalid) => {
                let behind = bytes.get(offset + SECTOR_LEN..).unwrap_or_default();
                let was_next = |record: &Record| {
                    is_of(record, log, seq)
                        && (record.header.number, record.header.chain) == (number, chain)
                };
                let is_damaged = has_record(behind, log, seq)
                    || mended(&bytes[offset..]).is_some_and(|record| was_next(&record));
                return if is_damaged { corrupt } else { Ok(state) };
            }
        };
        if !is_of(&record, log, seq) {
            return if offset == 0 { Err(Damage::Foreign) } else { corrupt };
        }
        let header = record.header;
        let kind = if number == 0 { Kind::Snapshot } else { Kind::Edit };
        let follows = (header.kind, header.number, header.chain) == (kind, number, chain);
        if !follows || state.apply(record.edit).is_err() {
            return corrupt;
        }
        (offset, number, chain) = (offset + record.len, number + 1, record.checksum);
    }
    if number == 0 { Err(Damage::Corrupt { offset: 0 }) } else { Ok(state) }
}

fn is_of(record: &Record, log: LogId, seq: u64) -> bool {
    (record.header.log, record.header.seq) == (log, seq)
}

/// Whether a sector begins a record of the file.
fn has_record(bytes: &[u8], log: LogId, seq: u64) -> bool {
    let mut sectors = (0..bytes.len()).step_by(SECTOR_LEN);
    sectors.any(|at| decode(&bytes[at..]).is_ok_and(|record| is_of(&record, log, seq)))
}
