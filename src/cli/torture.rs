//! `stave torture`: the simulated crash test, from the shipped binary.
//!
//! Nodes run in the simulator ([`crate::sim::torture`]), in this process: no file is written, no
//! port opened. A seed says everything that happens, so what is found on one machine is found on
//! every other by the same build.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{EXIT_FAILURE, EXIT_OK, history};
use crate::env::os;
use crate::sim::torture::house::Shape;
use crate::sim::torture::{self, Done, Kind, Script, Strike, minimized};

/// Seeds of a run that names none.
const SEEDS: u64 = 10;
/// Random seeds are below: a person may have to type one.
const SEED_MAX: u64 = 1_000_000_000;
/// Runs that it may take to find which troubles a violation takes.
const TRIES: usize = 120;

const EXAMPLES: &str = "\
What it does: three or five nodes run on simulated disks, clocks and a network. Clients send them
commands; meanwhile nodes are killed, lose power, pause, join and leave, roads are cut and slow,
clocks jump and drift, disks fail, fill up and are slow. In some storms one node loses all it had,
or bits of its files are flipped: it is removed, and its machine joins anew. What clients see has to
be linearizable, with nothing acknowledged lost; replicas have to have the same rows after the same
entries, and a term one leader; and once nothing is wrong any more, all has to be answered again.

With --engine it is one node of one to three shards, whose disk tears and loses writes or fails.
After each start all keys are read and compared with a model:
  lost            what was acknowledged, or read by anybody, is not there any more
  wrong           a reply that no correct server gives, or none at all
  refused start   the node does not come up on what the crash left

Each of them has to be 0. The first that is not ends the run with exit code 1, with the troubles
that it takes and the command that repeats it. Nothing is written to this machine's disk, no port is
opened.

Examples:
  stave torture                                          ten clusters, from a random seed on
  stave torture --seed 7 --nodes 5                       one, the same each time
  stave torture --seed 0 --minutes 30                    as many as half an hour is enough for
  stave torture --engine --seed 0 --seeds 1000           a thousand runs of one node
  stave torture --engine --seed 7 --ops 50000 --json     a long one, told as JSON
  stave torture --engine --campaign calls --seed 1       minutes: thousands of crashes and errors
  stave torture --engine --campaign flips --seed 1 --ops 1000";

/// Break a simulated cluster, or node, again and again and check that nothing acknowledged is lost
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Torture {
    /// One node: log, tables and manifest, with the server above them
    #[arg(long)]
    engine: bool,

    /// Check what clients of a real cluster wrote down (tools/cluster-crash), a line for each call
    #[arg(long, value_name = "FILE", hide = true, conflicts_with_all = ["engine", "seed", "seeds"])]
    check_history: Option<PathBuf>,

    /// What is done to it [default: cluster; with --engine crashes]
    #[arg(long, value_enum)]
    campaign: Option<Campaign>,

    /// How many nodes a cluster has [default: 3, or of one seed in five 5]
    #[arg(long, value_name = "N", conflicts_with = "engine")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=5))]
    nodes: Option<u64>,

    /// The first seed; random otherwise
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How many seeds, each a run of its own: N, N+1, ... [default: 1 with --seed, else 10]
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,

    /// Seeds one after another until so many minutes are over
    #[arg(long, value_name = "M", conflicts_with = "seeds")]
    minutes: Option<u64>,

    /// No other troubles of a cluster than these, as a violation lists them
    #[arg(long, value_name = "N,N...", value_delimiter = ',', requires = "seed")]
    only: Option<Vec<u32>>,

    /// How much each run is: commands (1000; for calls and cluster 500), bits (10000), or times
    /// that the disk is full (50)
    #[arg(long, value_name = "N")]
    ops: Option<u64>,

    /// One JSON object a line: each run, then their sum, or the violation
    #[arg(long)]
    json: bool,
}

/// What is done to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Campaign {
    /// Random commands of several clients, and crashes at random
    Crashes,
    /// A power cut, a kill, EIO and ENOSPC at each operation of the disk in turn
    Calls,
    /// Single bits of log, tables and manifest flipped
    Flips,
    /// The disk fills up and is emptied
    DiskFull,
    /// Three or five nodes that are one store: kills, power cuts, pauses, cut and slow roads, lost
    /// disks, flipped bits
    Cluster,
}

impl Campaign {
    fn simulated(self) -> torture::Campaign {
        match self {
            Self::Crashes => torture::Campaign::Crashes,
            Self::Calls => torture::Campaign::Calls,
            Self::Flips => torture::Campaign::Flips,
            Self::DiskFull => torture::Campaign::DiskFull,
            Self::Cluster => torture::Campaign::Cluster,
        }
    }
}

/// What ended the runs.
struct Found {
    seed: u64,
    kind: &'static str,
    text: String,
    /// What was done to a cluster before.
    strikes: Vec<Strike>,
    /// Of how many.
    of: usize,
}

impl Torture {
    /// Runs and prints to `out`; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        match &self.check_history {
            Some(path) => check_history(out, path),
            None => self.run_with(out, |_| {}),
        }
    }

    /// With nodes that `alter` changes.
    fn run_with(&self, out: &mut impl Write, alter: impl Fn(&mut Shape)) -> u8 {
        let first = self.seed.unwrap_or_else(|| os::random_seed() % SEED_MAX);
        let end = self.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let one_or_some = if self.seed.is_some() { 1 } else { SEEDS };
        let count = self.seeds.unwrap_or(if end.is_some() { u64::MAX } else { one_or_some });
        let mut total = Done::default();
        for seed in first..first.saturating_add(count) {
            if end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            let mut shape = self.campaign().simulated().shape(seed);
            alter(&mut shape);
            let told = match self.one(seed, &shape, &self.script()) {
                Ok(done) => {
                    total.add(&done);
                    self.tell(out, Some(seed), &done)
                }
                Err(found) => {
                    let told = self.complain(out, &self.shortened(found, &shape));
                    return told.map_or_else(|error| gone(&error), |()| EXIT_FAILURE);
                }
            };
            if let Err(error) = told {
                return gone(&error);
            }
        }
        let told = if count == 1 { Ok(()) } else { self.tell(out, None, &total) };
        told.map_or_else(|error| gone(&error), |()| EXIT_OK)
    }

    fn campaign(&self) -> Campaign {
        let usual = if self.engine { Campaign::Crashes } else { Campaign::Cluster };
        self.campaign.unwrap_or(usual)
    }

    fn script(&self) -> Script {
        self.only.as_ref().map_or_else(Script::default, |only| Script::only(only.iter().copied()))
    }

    fn size(&self) -> u64 {
        self.ops.unwrap_or(self.campaign().simulated().size())
    }

    /// One run to its end.
    fn one(&self, seed: u64, shape: &Shape, script: &Script) -> Result<Done, Found> {
        let on_part = |part: u64, of: u64| {
            // On standard error: what is printed is the same each time, and may be piped.
            if !self.json && part * 10 / of != (part - 1) * 10 / of {
                eprintln!("seed {seed}: {part} of {of}");
            }
        };
        let play = || match self.campaign() {
            Campaign::Cluster => torture::storm(seed, shape, self.nodes, self.size(), script),
            campaign => campaign.simulated().play(seed, shape, self.size(), on_part),
        };
        let (kind, text) = match catch_unwind(AssertUnwindSafe(play)) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(violation)) => {
                let kind = match violation.kind {
                    Kind::Lost => "lost",
                    Kind::Wrong => "wrong",
                    Kind::RefusedStart => "refused start",
                };
                (kind, format!("in life {}: {}", violation.life, violation.text))
            }
            // An assertion that did not hold, or a hang; standard error has it.
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                ("panic", text.unwrap_or_default())
            }
        };
        let strikes = script.struck();
        Err(Found { seed, kind, text, of: strikes.len(), strikes })
    }

    /// What was found, with as few troubles before it as are found to be enough.
    fn shortened(&self, found: Found, shape: &Shape) -> Found {
        let numbers: Vec<_> = found.strikes.iter().map(|strike| strike.number).collect();
        if numbers.is_empty() {
            return found;
        }
        if !self.json {
            eprintln!(
                "seed {}: {}; looking for the troubles that it takes",
                found.seed, found.kind
            );
        }
        let again = |numbers: &[u32]| {
            let script = Script::only(numbers.iter().copied());
            self.one(found.seed, shape, &script).err().filter(|other| other.kind == found.kind)
        };
        let fewest = minimized(numbers, TRIES, |numbers| again(numbers).is_some());
        let shortest = again(&fewest);
        let of = found.of;
        shortest.map_or(found, |shortest| Found { of, ..shortest })
    }

    /// A run in which all was right, or the sum of them.
    fn tell(&self, out: &mut impl Write, seed: Option<u64>, done: &Done) -> io::Result<()> {
        let kinds = ["lost", "wrong", "refused_starts"].map(|kind| (kind, 0));
        if self.json {
            let counts = done.counts().into_iter().chain(kinds);
            let mut line: serde_json::Map<_, _> =
                counts.map(|(name, count)| (name.to_owned(), json!(count))).collect();
            line.insert("seed".to_owned(), json!(seed));
            // The same for the same seed, whatever else the machine does.
            line.insert("trace".to_owned(), json!(format!("{:016x}", done.trace_hash)));
            writeln!(out, "{}", serde_json::Value::from(line))?;
            return out.flush();
        }
        match seed {
            Some(seed) => write!(out, "seed {seed}: ")?,
            None => write!(out, "all: ")?,
        }
        let counts = done.counts().into_iter().filter(|(_, count)| *count > 0);
        let shown = |(name, count): (&str, u64)| format!("{count} {}", name.replace('_', " "));
        let counts = counts.chain(kinds).map(shown).collect::<Vec<_>>();
        writeln!(out, "{}", counts.join(", "))?;
        out.flush()
    }

    fn complain(&self, out: &mut impl Write, found: &Found) -> io::Result<()> {
        let Found { seed, kind, text, strikes, of } = found;
        let repeat = self.repeat(found);
        if self.json {
            let troubles: Vec<_> = strikes.iter().map(shown).collect();
            let line = json!({
                "seed": seed, "violation": kind, "text": text, "troubles": troubles,
                "repeat": repeat,
            });
            writeln!(out, "{line}")?;
            return out.flush();
        }
        writeln!(out, "seed {seed}: {kind} {text}")?;
        if *of > 0 {
            writeln!(out, "  troubles that it takes, {} of {of}:", strikes.len())?;
        }
        strikes.iter().try_for_each(|strike| writeln!(out, "    {}", shown(strike)))?;
        writeln!(out, "  repeat: {repeat}")?;
        out.flush()
    }

    /// The command that finds it again.
    fn repeat(&self, found: &Found) -> String {
        let campaign = match self.campaign() {
            Campaign::Cluster => "",
            Campaign::Crashes => "--engine ",
            Campaign::Calls => "--engine --campaign calls ",
            Campaign::Flips => "--engine --campaign flips ",
            Campaign::DiskFull => "--engine --campaign disk-full ",
        };
        let mut line =
            format!("stave torture {campaign}--seed {} --ops {}", found.seed, self.size());
        if let Some(nodes) = self.nodes {
            line += &format!(" --nodes {nodes}");
        }
        // Without any it fails as well.
        if !found.strikes.is_empty() {
            let numbers: Vec<_> = found.strikes.iter().map(|of| of.number.to_string()).collect();
            line += &format!(" --only {}", numbers.join(","));
        }
        line
    }
}

fn shown(strike: &Strike) -> String {
    format!("{} at {:?}: {}", strike.number, strike.at, strike.what)
}

fn check_history(out: &mut impl Write, path: &Path) -> u8 {
    let verdict = std::fs::read(path).and_then(|text| history::check(text.as_slice()));
    let (told, code) = match verdict {
        Ok(Ok((calls, answered))) => {
            (writeln!(out, "{calls} calls, {answered} answered: linearizable"), EXIT_OK)
        }
        Ok(Err(violation)) => (writeln!(out, "{violation}"), EXIT_FAILURE),
        Err(error) => {
            eprintln!("stave: {}: {error}", path.display());
            return EXIT_FAILURE;
        }
    };
    told.map_or_else(|error| gone(&error), |()| code)
}

/// Nobody reads what is printed any more, or it can not be.
fn gone(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return EXIT_OK;
    }
    eprintln!("stave: {error}");
    EXIT_FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Planted;

    fn torture(seed: u64, seeds: u64) -> Torture {
        Torture {
            engine: true,
            check_history: None,
            campaign: None,
            nodes: None,
            seed: Some(seed),
            seeds: Some(seeds),
            minutes: None,
            only: None,
            ops: Some(200),
            json: false,
        }
    }

    fn printed(torture: &Torture, alter: impl Fn(&mut Shape)) -> (u8, String) {
        let mut out = Vec::new();
        let code = torture.run_with(&mut out, alter);
        (code, String::from_utf8(out).expect("it prints text"))
    }

    #[test]
    fn a_sound_engine_passes_and_the_same_seed_prints_the_same() {
        let (code, text) = printed(&torture(3, 2), |_| {});

        assert_eq!(code, EXIT_OK, "{text}");
        assert_eq!(text.matches("0 lost, 0 wrong, 0 refused starts").count(), 3, "{text}");
        assert_eq!(printed(&torture(3, 2), |_| {}).1, text);
        let json = |seed| printed(&Torture { json: true, ..torture(seed, 1) }, |_| {}).1;
        assert_eq!(json(3), json(3));
        let trace = |text: &str| text.split_once("trace").map(|(_, trace)| trace.to_owned());
        assert_ne!(trace(&json(3)), trace(&json(4)));
        let json = json(3);
        let told: serde_json::Value = serde_json::from_str(&json).expect("one object");
        assert_eq!((&told["seed"], &told["lost"]), (&json!(3), &json!(0)), "{json}");
        assert!(told["acked"].as_u64() >= Some(100), "{json}");
    }

    #[test]
    fn a_planted_bug_is_found_and_the_command_that_repeats_it_is_told() {
        let planted = |shape: &mut Shape| {
            (shape.planted, shape.log_len_max) = (Some(Planted::ReplyBeforeCommit), 8 << 10);
        };

        let (code, text) = printed(&torture(0, 50), planted);

        assert_eq!(code, EXIT_FAILURE, "{text}");
        let (_, repeat) = text.split_once("repeat: stave torture --engine --seed ").expect("told");
        let (seed, ops) = repeat.trim().split_once(" --ops ").expect("both");
        assert_eq!(ops, "200");
        let seed = seed.parse().expect("a number");
        let last = text.lines().rev().nth(1).expect("the violation");
        let (code, again) = printed(&torture(seed, 1), planted);
        assert_eq!(code, EXIT_FAILURE);
        assert!(again.starts_with(last), "{again}");
    }

    #[test]
    fn the_troubles_that_a_violation_takes_are_found_and_are_enough() {
        let planted = |shape: &mut Shape| {
            shape.planted = Some(Planted::KeepProposed);
        };
        let storms =
            |seed, only| Torture { engine: false, ops: Some(400), only, ..torture(seed, 20) };

        let (code, text) = printed(&storms(55, None), planted);

        assert_eq!(code, EXIT_FAILURE, "{text}");
        let (_, told) = text.split_once("troubles that it takes, ").expect("told");
        let (fewest, of) = told.split_once(':').expect("told").0.split_once(" of ").expect("both");
        let [fewest, of] = [fewest, of].map(|count| count.parse::<usize>().expect("a number"));
        assert!(fewest > 0 && fewest < of, "{text}");
        let (_, repeat) = text.split_once("repeat: stave torture --seed ").expect("told");
        let (seed, rest) = repeat.trim().split_once(" --ops 400 --only ").expect("both");
        let only = rest.split(',').map(|number| number.parse().expect("a number")).collect();
        let repeat =
            Torture { seeds: Some(1), ..storms(seed.parse().expect("a number"), Some(only)) };
        let (code, again) = printed(&repeat, planted);
        assert_eq!(code, EXIT_FAILURE, "{again}");
        assert!(again.contains(&format!("takes, {fewest} of {fewest}")), "{again}");
    }
}
