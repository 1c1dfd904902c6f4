//! What a run says, as a JSON line, and what many of them say together, as a table of medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::workload::{ROW_LEN, Run, WORKLOADS, Workload};

/// What is compared, ours first.
const ENGINES: [&str; 3] = ["stave", "rocksdb", "fjall"];

/// What an engine did in one run, and what that cost.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Operations that were measured.
    pub ops: u64,
    /// In this time.
    pub seconds: f64,
    /// CPU time, all threads.
    pub cpu_s: f64,
    /// Median, 99 % and 99.9 %.
    pub latency_us: Option<[f64; 3]>,
    /// Bytes to the disk.
    pub written: u64,
    /// Bytes from the disk.
    pub read: u64,
    /// Keys and values that were written.
    pub user_bytes: u64,
    /// The directory afterwards.
    pub disk_bytes: u64,
    /// How long opening took.
    pub open_ms: Option<f64>,
    /// Resident afterwards.
    pub rss: u64,
    /// Cores that others kept busy.
    pub others: f64,
}

/// A run, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    engine: String,
    workload: String,
    round: u64,
    keys: u64,
    memory_mib: u64,
    clients: u32,
    ops: u64,
    seconds: f64,
    ops_per_s: f64,
    cpu_s: f64,
    cpu_us_per_op: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    p999_us: Option<f64>,
    written_bytes: u64,
    read_bytes: u64,
    user_bytes: u64,
    disk_bytes: u64,
    space_amplification: f64,
    open_ms: Option<f64>,
    rss_mib: f64,
    others_cores: f64,
}

impl Line {
    /// Of one run.
    pub fn new(engine: &str, round: u64, run: &Run, figures: &Figures) -> Self {
        let per_op = |sum: f64| if figures.ops == 0 { 0.0 } else { sum / figures.ops as f64 };
        let quantile = |at: usize| figures.latency_us.map(|all| all[at]);
        Self {
            engine: engine.into(),
            workload: run.workload.name.into(),
            round,
            keys: run.keys,
            memory_mib: run.memory >> 20,
            clients: run.workload.clients,
            ops: figures.ops,
            seconds: figures.seconds,
            ops_per_s: figures.ops as f64 / figures.seconds.max(1e-9),
            cpu_s: figures.cpu_s,
            cpu_us_per_op: per_op(figures.cpu_s * 1e6),
            p50_us: quantile(0),
            p99_us: quantile(1),
            p999_us: quantile(2),
            written_bytes: figures.written,
            read_bytes: figures.read,
            user_bytes: figures.user_bytes,
            disk_bytes: figures.disk_bytes,
            space_amplification: figures.disk_bytes as f64 / (run.keys * ROW_LEN) as f64,
            open_ms: figures.open_ms,
            rss_mib: figures.rss as f64 / f64::from(1 << 20),
            others_cores: figures.others,
        }
    }

    /// Of all lines of a file.
    ///
    /// # Errors
    /// One of them is none.
    pub fn all(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(at, line)| {
                serde_json::from_str(line).with_context(|| format!("line {}", at + 1))
            })
            .collect()
    }
}

type Rounds<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Line>>;

/// Medians over the rounds, and our ratio to each rival; of those runs during which others left at
/// least all but `others_max` cores alone.
pub fn table(lines: &[Line], others_max: f64) -> String {
    let mut rounds = Rounds::new();
    for line in lines.iter().filter(|line| line.others_cores <= others_max) {
        rounds.entry((&line.workload, &line.engine)).or_default().push(line);
    }
    let mut out = String::new();
    let present = WORKLOADS.iter().filter(|w| rounds.keys().any(|(name, _)| *name == w.name));
    let (rest, timed): (Vec<&Workload>, Vec<_>) = present.partition(|w| is_still(w.name));
    row(
        &mut out,
        &[
            "workload",
            "engine",
            "ops/s",
            "stave x",
            "CPU us/op",
            "stave x",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "written/user",
            "runs",
        ],
    );
    row(&mut out, &["---"; 11]);
    for workload in timed {
        ENGINES.iter().for_each(|engine| speed(&mut out, &rounds, workload.name, engine));
    }
    out.push('\n');
    row(&mut out, &["state", "engine", "disk/live", "written MiB", "CPU s", "open ms", "RSS MiB"]);
    row(&mut out, &["---"; 7]);
    for workload in rest {
        ENGINES.iter().for_each(|engine| state(&mut out, &rounds, workload.name, engine));
    }
    out
}

/// Whether a workload has no operations of its own.
fn is_still(name: &str) -> bool {
    name.starts_with("settle") || name.ends_with("open")
}

fn row(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn speed(out: &mut String, rounds: &Rounds<'_>, workload: &str, engine: &str) {
    let Some(lines) = rounds.get(&(workload, engine)) else { return };
    let median = |of: fn(&Line) -> f64| median(lines.iter().map(|line| of(line)));
    let ours = |of: fn(&Line) -> f64| match rounds.get(&(workload, ENGINES[0])) {
        Some(ours) if engine != ENGINES[0] => {
            format!("{:.2}", self::median(ours.iter().map(|line| of(line))) / median(of))
        }
        _ => String::new(),
    };
    let settled = settled_written(rounds, workload, engine);
    let amplification = match median(|line| line.user_bytes as f64) {
        0.0 => String::new(),
        user => format!("{:.2}", (median(|line| line.written_bytes as f64) + settled) / user),
    };
    row(
        out,
        &[
            workload,
            engine,
            &format!("{:.0}", median(|line| line.ops_per_s)),
            &ours(|line| line.ops_per_s),
            &format!("{:.2}", median(|line| line.cpu_us_per_op)),
            &ours(|line| line.cpu_us_per_op),
            &format!("{:.1}", median(|line| line.p50_us.unwrap_or(0.0))),
            &format!("{:.1}", median(|line| line.p99_us.unwrap_or(0.0))),
            &format!("{:.1}", median(|line| line.p999_us.unwrap_or(0.0))),
            &amplification,
            &lines.len().to_string(),
        ],
    );
}

/// What was written after a workload, until the engine was done with it.
fn settled_written(rounds: &Rounds<'_>, workload: &str, engine: &str) -> f64 {
    let name = format!("settle-{workload}");
    let lines = rounds.iter().find(|((workload, of), _)| *workload == name && *of == engine);
    lines.map_or(0.0, |(_, lines)| median(lines.iter().map(|line| line.written_bytes as f64)))
}

fn state(out: &mut String, rounds: &Rounds<'_>, workload: &str, engine: &str) {
    let Some(lines) = rounds.get(&(workload, engine)) else { return };
    let median = |of: fn(&Line) -> f64| median(lines.iter().map(|line| of(line)));
    row(
        out,
        &[
            workload,
            engine,
            &format!("{:.2}", median(|line| line.space_amplification)),
            &format!("{:.0}", median(|line| line.written_bytes as f64 / f64::from(1 << 20))),
            &format!("{:.2}", median(|line| line.cpu_s)),
            &format!("{:.0}", median(|line| line.open_ms.unwrap_or(0.0))),
            &format!("{:.0}", median(|line| line.rss_mib)),
        ],
    );
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => 0.0,
        n if n % 2 == 1 => all[n / 2],
        n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
    }
}
