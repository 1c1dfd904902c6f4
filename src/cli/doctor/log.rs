//! A shard's log: walked as `stave inspect wal` walks it, from where the manifest needs it, with an
//! ear for what a replay would not take.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::{Finding, PUT_BACK, RESTORE, Report};
use super::shard::{NO_START, Place};
use crate::cli::inspect::line::{Line, Printer};
use crate::cli::inspect::walk::{self, Log};
use crate::id::PartitionId;
use crate::lsm::manifest::State;
use crate::wal::Error;
use crate::wal::format::RECORD_HEADER_LEN;

/// Where what is heard is.
struct Ear<'a> {
    place: &'a Place<'a>,
    dir: &'a Path,
    state: &'a State,
    /// The segment, and the LSN at which it begins.
    file: String,
    base: u64,
    /// The entry that is being read.
    entry_offset: u64,
    /// By partition, the last entry that a replay has.
    last: BTreeMap<u32, u64>,
    found: Vec<Finding>,
    sum: String,
}

/// Examines the log in `dir`; without a `state` it is not known how much of it is needed.
///
/// # Errors
/// It can not be listed.
pub(super) fn examine(
    place: &Place<'_>,
    dir: &Path,
    state: Option<&State>,
    report: &mut Report<'_>,
) -> anyhow::Result<()> {
    let needed_from = state.map(|state| state.shard().log_from);
    let log = Log { dir: dir.to_owned(), id: place.log, only: None, needed_from };
    let unknown = State::default();
    let mut ear = Ear {
        place,
        dir,
        state: state.unwrap_or(&unknown),
        file: String::new(),
        base: 0,
        entry_offset: 0,
        last: BTreeMap::new(),
        found: Vec::new(),
        sum: String::new(),
    };
    let judged = walk::judge(&log, &mut Printer::listener(&mut |line| ear.hear(line, report)));
    let Ear { found, sum, .. } = ear;
    // Without the manifest any entry may be the first that counts.
    let found = found.into_iter().filter(|_| state.is_some());
    found.for_each(|finding| report.finding(finding));
    match judged {
        Ok(Ok(())) => report.progress(place.log.shard.0, &sum),
        Ok(Err(defect)) => report.finding(told(Error::of(dir, defect))),
        Err(error) => report.finding(Finding::of(dir, format!("{error:#}"), NO_START)),
    }
    Ok(())
}

impl Ear<'_> {
    fn hear(&mut self, line: &Line<'_>, report: &mut Report<'_>) {
        match line {
            Line::Segment { file, lsn, .. } => {
                self.file = (*file).to_owned();
                self.base = *lsn;
                report.count_file(&self.dir.join(file));
            }
            Line::Entry { offset, bytes, partition, index, .. } => {
                self.entry_offset = *offset;
                let end = self.base + offset + (RECORD_HEADER_LEN + bytes) as u64;
                self.entry(*partition, *index, end);
            }
            Line::Malformed { at } => {
                let what = format!("malformed at byte {at} of the entry: sound, and of no meaning");
                self.find(None, what);
            }
            Line::Sound { lsn, segments, blocks, records, .. } => {
                self.sum = format!(
                    "log read to its end at LSN {lsn}: {segments} segments, {blocks} blocks, \
                     {records} records"
                );
            }
            _ => {}
        }
    }

    /// An entry of the log that ends at LSN `end`.
    fn entry(&mut self, partition: u32, index: u64, end: u64) {
        if !self.place.map.partitions_of(self.place.log.shard).contains(&partition) {
            return self.find(Some(partition), "an entry of another shard's partition".to_owned());
        }
        let stored = self.state.partition(PartitionId(partition));
        let is_needed = end > self.state.shard().log_from.0 && end > stored.log_from.0;
        if !is_needed || index <= stored.index {
            return;
        }
        let last = self.last.get(&partition).copied().unwrap_or(stored.index);
        // A leader that comes later takes the place of entries that were not committed.
        if index > last + 1 {
            let what = format!("entry {index} comes behind entry {last}");
            self.find(Some(partition), what);
        }
        self.last.insert(partition, index);
    }

    fn find(&mut self, partition: Option<u32>, what: String) {
        let finding = Finding::of(&self.dir.join(&self.file), what, NO_START);
        self.found.push(Finding { offset: Some(self.entry_offset), partition, ..finding });
    }
}

/// Why the log is refused.
fn told(error: Error) -> Finding {
    let lost = |end: u64| {
        format!("{NO_START}; what the shard acknowledged behind LSN {end} is in no other file")
    };
    let foreign = "it is of another directory or shard";
    let (file, offset, what, meaning, cure) = match error {
        Error::Corrupt { what, path, offset, end, durable } => {
            let what = format!("no valid {what}, and the log was durable up to LSN {durable}");
            (path, Some(offset), what, lost(end), RESTORE)
        }
        Error::Flipped { what, path, offset } => {
            let what = format!("one bit of the {what} is not as it was written");
            (path, Some(offset), what, NO_START.to_owned(), RESTORE)
        }
        Error::Truncated { path, len, expected } => {
            let what = format!("it has {len} bytes and had {expected}");
            (path, Some(len), what, NO_START.to_owned(), RESTORE)
        }
        Error::Missing { path } => {
            let what = "it is missing, and the log went on in it".to_owned();
            (path, None, what, NO_START.to_owned(), RESTORE)
        }
        Error::Gone { path, needed_from } => {
            let what = format!("no segment, and the log is needed from LSN {needed_from} on");
            (path, None, what, lost(needed_from), RESTORE)
        }
        Error::Misfit { path, base, end } => {
            let what = format!("it begins at LSN {base} and the log before it ends at {end}");
            (path, None, what, lost(end), PUT_BACK)
        }
        Error::Malformed { path, offset } => {
            let what = "a sound block with a malformed record".to_owned();
            (path, Some(offset), what, NO_START.to_owned(), RESTORE)
        }
        Error::Foreign { path } => (path, None, foreign.to_owned(), NO_START.to_owned(), PUT_BACK),
        Error::Version { path, version, known } => {
            let what = format!("log format {version}, this program knows {known}");
            (path, None, what, NO_START.to_owned(), "use the version of stave that wrote it")
        }
        Error::Io { ref path, .. } | Error::Short { ref path, .. } => {
            (path.clone(), None, error.to_string(), NO_START.to_owned(), RESTORE)
        }
    };
    Finding { offset, cure, ..Finding::of(&file, what, meaning) }
}
