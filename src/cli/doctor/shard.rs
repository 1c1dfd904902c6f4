//! One shard's files: the manifest says which count, then each of them is looked at, then what is
//! there besides.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::report::{Finding, MOVE_AWAY, PUT_BACK, Report};
use super::{log, table};
use crate::cli::cluster::TOPOLOGY;
use crate::cli::directory::BEGUN;
use crate::cli::inspect::manifest::newest;
use crate::cluster::SlotMap;
use crate::lsm::manifest::file::seq_of;
use crate::lsm::manifest::format::{VERSION, decode};
use crate::lsm::manifest::replay::{Damage, replay};
use crate::lsm::manifest::{State, TableEntry};
use crate::lsm::table::number_of;
use crate::server::{IDENTITY, log_dir, tree_dir};
use crate::wal::{LogId, RESERVE_NAME, segment_seq};

/// What is wrong keeps a server from starting.
pub(super) const NO_START: &str = "no server starts on this directory";

/// Tables after which it is said how far the reading is.
const PROGRESS_TABLES: usize = 64;

/// Which shard of which directory.
pub(super) struct Place<'a> {
    /// The data directory.
    pub(super) data_dir: &'a Path,
    /// Whose files they must be.
    pub(super) log: LogId,
    /// Who has which slots.
    pub(super) map: SlotMap,
    /// Some shard of the directory has files.
    pub(super) was_served: bool,
}

impl Place<'_> {
    /// Examines all files of the shard.
    ///
    /// # Errors
    /// A directory can not be listed.
    pub(super) fn examine(&self, report: &mut Report<'_>) -> anyhow::Result<()> {
        let shard = self.log.shard;
        let (tree, log) = (tree_dir(self.data_dir, shard), log_dir(self.data_dir, shard));
        if !log.is_dir() {
            if self.was_served {
                let meaning = "a start would make an empty one: what the shard had is lost";
                report.finding(Finding::of(&log, "there is no log", meaning));
            }
            return Ok(());
        }
        let state = if tree.is_dir() { self.tree(&tree, report)? } else { Some(State::default()) };
        log::examine(self, &log, state.as_ref(), report)?;
        strays(&log, report, |name| match segment_seq(name) {
            Some(_) => Named::Ours,
            None if name == RESERVE_NAME => Named::Ours,
            None if ["new-", "spare-"].iter().any(|prefix| name.starts_with(prefix)) => Named::Ours,
            None => Named::Stranger,
        })?;
        let above = tree.parent().unwrap_or(self.data_dir);
        strays(above, report, |name| match name {
            "wal" | "tree" => Named::Ours,
            _ => Named::Stranger,
        })
    }

    /// Examines manifest and tables; what the manifest says, if that is known.
    fn tree(&self, dir: &Path, report: &mut Report<'_>) -> anyhow::Result<Option<State>> {
        let Some((path, state)) = self.manifest(dir, report)? else { return Ok(None) };
        self.levels(&path, &state, report);
        let (count, shard) = (state.tables().count(), self.log.shard.0);
        for (at, entry) in state.tables().enumerate() {
            if at > 0 && at.is_multiple_of(PROGRESS_TABLES) {
                report.progress(shard, &format!("{at} of {count} tables read"));
            }
            table::examine(self, dir, entry, report);
        }
        let bytes: u64 = state.tables().map(|entry| entry.meta.file_len).sum();
        report.progress(shard, &format!("{count} tables of {bytes} bytes read"));
        let named = |name: &str| match (number_of(name), seq_of(name)) {
            (Some(number), _) if state.has(number) => Named::Ours,
            (Some(_), _) => Named::Left("no edit of the manifest names it"),
            (_, Some(_)) if path.ends_with(name) => Named::Ours,
            (_, Some(_)) => Named::Left("an older manifest"),
            _ if name.starts_with("new-") => Named::Left("a manifest that was not finished"),
            _ => Named::Stranger,
        };
        strays(dir, report, named)?;
        Ok(Some(state))
    }

    /// The manifest that counts and what it says; none if it is damaged, which was said.
    fn manifest(
        &self,
        dir: &Path,
        report: &mut Report<'_>,
    ) -> anyhow::Result<Option<(std::path::PathBuf, State)>> {
        let Some(path) = newest(dir)? else {
            let meaning = format!("{NO_START} if tables are there: which of them count is unknown");
            report.finding(Finding::of(dir, "there is no manifest", meaning));
            return Ok(None);
        };
        report.count_file(&path);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let name = path.file_name().and_then(|name| name.to_str());
        let seq = name.and_then(seq_of).unwrap_or_default();
        let (offset, what, cure) = match replay(&bytes, self.log, seq) {
            Ok(state) => {
                note_torn(&path, &bytes, report);
                return Ok(Some((path, state)));
            }
            Err(Damage::Corrupt { offset }) => {
                (Some(offset), "no valid record".to_owned(), super::report::RESTORE)
            }
            Err(Damage::Foreign) => {
                (None, "it is of another directory, shard or number".to_owned(), PUT_BACK)
            }
            Err(Damage::Version(version)) => {
                let what = format!("manifest format {version}, this program knows {VERSION}");
                (None, what, "use the version of stave that wrote it")
            }
        };
        let meaning = format!("{NO_START}; the tables of the shard were not looked at");
        report.finding(Finding { offset, cure, ..Finding::of(&path, what, meaning) });
        Ok(None)
    }

    /// That tables are of partitions of the shard, and do not overlap where they must not.
    fn levels(&self, manifest: &Path, state: &State, report: &mut Report<'_>) {
        let own = self.map.partitions_of(self.log.shard);
        let mut tables: Vec<&TableEntry> = state.tables().collect();
        tables.sort_by_key(|entry| (entry.partition, entry.level, &entry.meta.smallest));
        for entry in tables.iter().filter(|entry| !own.contains(&entry.partition.0)) {
            let what = format!("table {} is of a partition of another shard", entry.meta.number);
            report.finding(Finding {
                partition: Some(entry.partition.0),
                ..Finding::of(manifest, what, "its keys are not found")
            });
        }
        for pair in tables.windows(2) {
            let [one, other] = pair else { continue };
            let is_one_level = (one.partition, one.level) == (other.partition, other.level);
            if !is_one_level || one.level == 0 || one.meta.largest < other.meta.smallest {
                continue;
            }
            let (first, second) = (one.meta.number, other.meta.number);
            let what = format!("tables {first} and {second} of level {} overlap", one.level);
            let meaning = "keys in both may be answered with an older version";
            let finding = Finding::of(manifest, what, meaning);
            let to = (&one.meta.largest).min(&other.meta.largest);
            report.finding(finding.keys(one.partition.0, &other.meta.smallest, to));
        }
    }
}

/// Says that a manifest has bytes behind its last record.
fn note_torn(path: &Path, bytes: &[u8], report: &mut Report<'_>) {
    let mut end = 0;
    while let Ok(record) = decode(&bytes[end..]) {
        end += record.len;
    }
    if end < bytes.len() {
        let what = format!("bytes {end} to {} are of no record: of an edit cut short", bytes.len());
        report.note(path, &what);
    }
}

/// What a name in a directory stands for.
pub(super) enum Named {
    /// A file that counts, or that was looked at.
    Ours,
    /// What a crash leaves.
    Left(&'static str),
    /// Nothing of ours.
    Stranger,
}

/// Says what is in `dir` that does not count.
///
/// # Errors
/// It can not be listed.
pub(super) fn strays(
    dir: &Path,
    report: &mut Report<'_>,
    named: impl Fn(&str) -> Named,
) -> anyhow::Result<()> {
    let at = || dir.display().to_string();
    let entries = fs::read_dir(dir).with_context(at)?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<Result<Vec<_>, _>>().with_context(at)?;
    names.sort();
    for name in names {
        let path = dir.join(&name);
        match named(&name.to_string_lossy()) {
            Named::Ours => {}
            Named::Left(what) => {
                report.note(&path, &format!("{what}: the next start removes it"));
            }
            Named::Stranger => report.finding(Finding {
                cure: MOVE_AWAY,
                ..Finding::of(&path, "not a file of this directory", "no server looks at it")
            }),
        }
    }
    Ok(())
}

/// What a name in a data directory stands for.
pub(super) fn is_of_directory(name: &str, cores: u16) -> Named {
    let shard = name.strip_prefix("shard-").and_then(|number| number.parse::<u16>().ok());
    match name {
        "LOCK" | IDENTITY | BEGUN | TOPOLOGY | "checkpoints" | "lost+found" => Named::Ours,
        "identity.toml.tmp" | "cluster.json.tmp" => Named::Left("a file that was not finished"),
        _ if shard.is_some_and(|shard| shard < cores) => Named::Ours,
        _ => Named::Stranger,
    }
}
