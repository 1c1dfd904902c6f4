//! One table: the file that the manifest names, all of its parts, and its rows in their order.
//!
//! Damage is told with the keys that it hides: those between the last sound row before it and the
//! first one behind, and those whose large values it hits.

use std::ops::Range;
use std::path::Path;

use super::report::{Finding, PUT_BACK, RESTORE, Report};
use super::shard::{NO_START, Place};
use crate::cli::parts::{Parts, Piece};
use crate::lsm::block::{Cursor, Footer, Head, Malformed, PartKind, Run, Statistics, Value};
use crate::lsm::key::slot_in;
use crate::lsm::manifest::TableEntry;
use crate::lsm::table::{Error, check_identity, file_name};

/// Bytes that are no sound part.
struct Damage {
    place: Range<u64>,
    what: String,
    /// The last sound key before, and the first one behind, if they are known.
    after: Vec<u8>,
    before: Vec<u8>,
    /// A key whose large value it hits.
    value_of: Option<Vec<u8>>,
}

/// What the rows came to.
#[derive(Default)]
struct Rows {
    first: Vec<u8>,
    last: Vec<u8>,
    last_timestamp: u64,
    statistics: Statistics,
    /// What is wrong with them though all checksums are right.
    wrong: Option<(u64, &'static str)>,
}

/// Examines a table that the manifest names.
pub(super) fn examine(place: &Place<'_>, dir: &Path, entry: &TableEntry, report: &mut Report<'_>) {
    let path = dir.join(file_name(entry.meta.number));
    report.count_file(&path);
    let slots = place.map.slots_of(entry.partition);
    let of_all = |finding: Finding| {
        finding.keys(entry.partition.0, &entry.meta.smallest, &entry.meta.largest)
    };
    let opened = Parts::open(&path).and_then(|parts| {
        check_identity(parts.footer(), parts.checksum(), &entry.meta, &path)?;
        Ok(parts)
    });
    let mut parts = match opened {
        Ok(parts) => parts,
        Err(error) => return report.finding(of_all(whole(&path, &error))),
    };
    let (mut rows, mut damages) = (Rows::default(), Vec::new());
    walk(&mut parts, &slots, &mut rows, &mut damages);
    let is_whole = damages.is_empty();
    for damage in damages {
        report.finding(told(&path, entry, parts.footer(), damage));
    }
    if is_whole {
        let wrong = rows.wrong.or_else(|| rows.held_against(entry, &parts));
        if let Some((offset, what)) = wrong {
            let meaning = "its checksums are right: it was written so, by a broken program";
            let finding = Finding { offset: Some(offset), ..Finding::of(&path, what, meaning) };
            report.finding(of_all(finding));
        }
    }
}

/// The table can not be read at all.
fn whole(path: &Path, error: &Error) -> Finding {
    let (offset, what, cure) = match error {
        Error::Io { op, source, .. } => (None, format!("{op}: {source}"), RESTORE),
        Error::Corrupt { what, offset, .. } => (Some(*offset), format!("no valid {what}"), RESTORE),
        Error::Length { len, expected, .. } => {
            (Some(*len), format!("it has {len} bytes and had {expected}"), RESTORE)
        }
        Error::Foreign { what, .. } => {
            (None, format!("another table: its {what} is not the one written here"), PUT_BACK)
        }
        other => (None, other.to_string(), "use the version of stave that wrote it"),
    };
    Finding { offset, cure, ..Finding::of(path, what, NO_START) }
}

/// Reads all parts, and all rows of the sound ones.
fn walk(parts: &mut Parts, slots: &Range<u16>, rows: &mut Rows, damages: &mut Vec<Damage>) {
    loop {
        let offset = parts.offset();
        match parts.next() {
            Ok(None) => return,
            Ok(Some(piece)) if piece.part.kind == PartKind::Rows => {
                let is_first_behind = damages.last().is_some_and(|last| last.before.is_empty());
                let first = rows.take(&piece, slots, damages);
                if let Some(last) = damages.last_mut().filter(|_| is_first_behind) {
                    last.before = first;
                }
            }
            Ok(Some(_)) => {}
            Err(error) => {
                parts.skip();
                let what = match &error {
                    Error::Corrupt { what, .. } => format!("no valid {what}"),
                    other => other.to_string(),
                };
                let place = offset..parts.offset();
                let (after, before) = (rows.last.clone(), Vec::new());
                damages.push(Damage { place, what, after, before, value_of: None });
            }
        }
    }
}

impl Rows {
    /// Takes in the rows of a part; the first key of it.
    fn take(&mut self, piece: &Piece, slots: &Range<u16>, damages: &mut [Damage]) -> Vec<u8> {
        let mut first = Vec::new();
        if let Err(Malformed { what }) = self.read(piece, slots, damages, &mut first) {
            self.wrong = self.wrong.or(Some((piece.handle.offset, what)));
        }
        first
    }

    fn read(
        &mut self,
        piece: &Piece,
        slots: &Range<u16>,
        damages: &mut [Damage],
        first: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let (raw, mut cursor) = (&piece.raw, Cursor::default());
        cursor.start(raw)?;
        while cursor.next(raw)? {
            let (key, head) = (cursor.key(), Head::decode(raw, cursor.body())?);
            if first.is_empty() {
                first.extend_from_slice(key);
            }
            let row = head.row(key, raw);
            let is_behind = match key.cmp(&self.last) {
                std::cmp::Ordering::Equal => row.timestamp.0 < self.last_timestamp,
                order => order.is_gt(),
            };
            let is_ours = key.len() > 3 && slots.contains(&slot_in(key).0);
            let wrong = match (is_behind, is_ours) {
                (false, _) => Some("order of rows"),
                (_, false) => Some("slot of a row: it is of another partition"),
                _ => None,
            };
            let at = piece.handle.offset;
            self.wrong = self.wrong.or(wrong.map(|what| (at, what)));
            if let Value::Large(large) = row.value {
                let run = Run { offset: large.offset, len: large.len };
                note_value(key, run, damages);
            }
            self.statistics.count(&row);
            self.last.clear();
            self.last.extend_from_slice(key);
            self.last_timestamp = row.timestamp.0;
            if self.first.is_empty() {
                self.first.extend_from_slice(key);
            }
        }
        Ok(())
    }

    /// What of a table without damage is not as the footer and the manifest say.
    fn held_against(&self, entry: &TableEntry, parts: &Parts) -> Option<(u64, &'static str)> {
        let footer = parts.footer();
        let bounds = (&self.first, &self.last) == (&entry.meta.smallest, &entry.meta.largest);
        if parts.check().is_err() {
            return Some((footer.bounds.offset, "digest of all parts"));
        }
        if self.statistics != footer.statistics || footer.statistics != entry.meta.statistics {
            return Some((footer.bounds.offset, "statistics of the rows"));
        }
        (!bounds).then_some((footer.bounds.offset, "bounds"))
    }
}

/// Large values stand before their rows: if a damage hits this one, its key is known.
fn note_value(key: &[u8], run: Run, damages: &mut [Damage]) {
    let end = run.offset.saturating_add(run.disk_len());
    for damage in damages {
        if damage.place.start < end && run.offset < damage.place.end {
            damage.value_of = Some(key.to_vec());
        }
    }
}

/// A damage, with what it means where it is.
fn told(path: &Path, entry: &TableEntry, footer: &Footer, damage: Damage) -> Finding {
    let Damage { place, what, after, before, value_of } = damage;
    let meta = &entry.meta;
    let or = |key: Vec<u8>, bound: &Vec<u8>| if key.is_empty() { bound.clone() } else { key };
    let what = format!("{what}, {} bytes", place.end - place.start);
    let (from, to, meaning) = match value_of {
        Some(key) => (key.clone(), key, "this key is refused with IOERR; all others are served"),
        None if place.end <= footer.leaves.0 => {
            let keys = (or(after, &meta.smallest), or(before, &meta.largest));
            (keys.0, keys.1, "keys between these are refused with IOERR; all others are served")
        }
        None if place.end <= footer.top.offset => {
            let meaning = "keys between these that this part leads to are refused with IOERR";
            (meta.smallest.clone(), meta.largest.clone(), meaning)
        }
        None => (meta.smallest.clone(), meta.largest.clone(), NO_START),
    };
    let finding = Finding { offset: Some(place.start), ..Finding::of(path, what, meaning) };
    finding.keys(entry.partition.0, &from, &to)
}
