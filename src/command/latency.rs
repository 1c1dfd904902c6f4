//! LATENCY: how long commands take.
//!
//! HISTOGRAM is of all commands. The other subcommands tell of those that held a core for
//! `latency-monitor-threshold` milliseconds or longer, by what SLOWLOG measures: event `command`,
//! and `fast-command` for those of constant time, as in Redis, whose other events are not there.
//! Each shard keeps for each event [`SAMPLES_MAX`] samples, the longest of a second; a question
//! gathers them and puts them together as if they were one core's.

use std::collections::VecDeque;

use super::question::{Latency, NodeWide, Question, Told};
use super::slowlog::take_u64;
use super::table::{self, Access, Connection, Flags, Group, Keys, Run, Spec};
use super::{Args, Calls, Facts, Session, Then, help};
use crate::protocol::resp::Reply;

/// The parameter that says from how many milliseconds on a command is a sample; 0: none is.
pub const THRESHOLD_PARAMETER: &str = "latency-monitor-threshold";

/// Samples of an event.
pub const SAMPLES_MAX: usize = 160;

/// The events by their numbers.
pub const EVENTS: [&str; 2] = ["command", "fast-command"];

/// The number of the event of a command.
pub fn event_of(spec: &Spec) -> usize {
    usize::from(spec.flags.has(Flags::FAST))
}

/// The longest of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When, unix seconds.
    pub unix_s: u64,
    /// How long it took, milliseconds.
    pub ms: u64,
}

/// The samples of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// The oldest first, one a second.
    samples: VecDeque<Sample>,
    /// The longest of all, those included that are forgotten.
    ms_max: u64,
}

impl Series {
    /// Takes one that is not older than the latest.
    pub fn add(&mut self, sample: Sample) {
        self.ms_max = self.ms_max.max(sample.ms);
        match self.samples.back_mut() {
            Some(latest) if latest.unix_s == sample.unix_s => {
                latest.ms = latest.ms.max(sample.ms);
            }
            _ => self.samples.push_back(sample),
        }
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Appends it in the form in which it travels: all numbers of 8 bytes.
    pub fn write_to(&self, event: usize, body: &mut Vec<u8>) {
        let samples = self.samples.iter().flat_map(|sample| [sample.unix_s, sample.ms]);
        let head = [event as u64, self.ms_max, self.samples.len() as u64];
        head.into_iter()
            .chain(samples)
            .for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
    }

    /// Of several shards, as if all were of one.
    fn merge(parts: &[Series]) -> Self {
        let mut samples: Vec<Sample> =
            parts.iter().flat_map(|part| part.samples.iter().copied()).collect();
        samples.sort_by_key(|sample| sample.unix_s);
        let ms_max = parts.iter().map(|part| part.ms_max).max().unwrap_or_default();
        let mut merged = Self { ms_max, ..Self::default() };
        samples.into_iter().for_each(|sample| merged.add(sample));
        merged
    }
}

/// The series of all events, from what the shards have said.
fn gather(mut body: &[u8]) -> [Series; EVENTS.len()] {
    let mut parts: [Vec<Series>; EVENTS.len()] = Default::default();
    while let Some((event, series)) = take_series(&mut body) {
        if let Some(parts) = parts.get_mut(event) {
            parts.push(series);
        }
    }
    parts.map(|parts| Series::merge(&parts))
}

/// Takes the first off; none at the end.
fn take_series(body: &mut &[u8]) -> Option<(usize, Series)> {
    let [event, ms_max, count] = [take_u64(body)?, take_u64(body)?, take_u64(body)?];
    let mut sample = || Some(Sample { unix_s: take_u64(body)?, ms: take_u64(body)? });
    let samples = (0..count).map(|_| sample()).collect::<Option<_>>()?;
    Some((event as usize, Series { samples, ms_max }))
}

const fn gathered(
    tell: fn(&mut Session, &dyn Facts, &Args<'_>, &Told, &mut Reply<'_>) -> Then,
) -> NodeWide {
    NodeWide { ask: |_| Ok(Question::Latency(Latency::Get)), tell }
}

fn latest(
    _: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let all = gather(&told.body);
    let some =
        || EVENTS.iter().zip(&all).filter_map(|(name, of)| Some((name, of.samples.back()?, of)));
    reply.array(some().count());
    for (name, latest, of) in some() {
        reply.array(4);
        reply.bulk(name.as_bytes());
        reply.integer(latest.unix_s as i64);
        reply.integer(latest.ms as i64);
        reply.integer(of.ms_max as i64);
    }
    Then::Continue
}

fn history(
    _: &mut Session,
    _: &dyn Facts,
    args: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let all = gather(&told.body);
    let event = EVENTS.iter().position(|name| args.get(2) == name.as_bytes());
    let none = Series::default();
    let series = event.map_or(&none, |event| &all[event]);
    reply.array(series.samples.len());
    for sample in &series.samples {
        reply.array(2);
        reply.integer(sample.unix_s as i64);
        reply.integer(sample.ms as i64);
    }
    Then::Continue
}

const RESET: NodeWide = NodeWide {
    ask: |args| {
        let named = |name: &str| args.from(2).any(|arg| arg == name.as_bytes());
        Ok(Question::Latency(Latency::Reset(EVENTS.map(|name| args.len() == 2 || named(name)))))
    },
    tell: tell_reset,
};

/// How many events there were to forget. The shards name theirs.
fn tell_reset(
    _: &mut Session,
    _: &dyn Facts,
    _: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let was_there = |event: &usize| told.body.contains(&(*event as u8));
    reply.integer((0..EVENTS.len()).filter(was_there).count() as i64);
    Then::Continue
}

fn doctor(
    _: &mut Session,
    facts: &dyn Facts,
    _: &Args<'_>,
    told: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let config = facts.config();
    let threshold = config.iter().find(|(name, _)| *name == THRESHOLD_PARAMETER);
    let threshold = threshold.map_or("0", |(_, ms)| ms.as_str());
    reply.verbatim(&diagnosis(&gather(&told.body), threshold));
    Then::Continue
}

fn diagnosis(all: &[Series; EVENTS.len()], threshold_ms: &str) -> String {
    let mut text = String::new();
    for (name, series) in EVENTS.iter().zip(all).filter(|(_, series)| !series.is_empty()) {
        let (count, ms_max) = (series.samples.len(), series.ms_max);
        let mean = series.samples.iter().map(|sample| sample.ms).sum::<u64>() / count as u64;
        text.push_str(&format!(
            "{name}: in {count} seconds; the longest of each took {mean} ms on average, \
             the longest of all {ms_max} ms. SLOWLOG GET may tell which.\n"
        ));
    }
    if !text.is_empty() {
        return text;
    }
    match threshold_ms {
        "0" => format!("Nothing is noted: {THRESHOLD_PARAMETER} is 0.\n"),
        ms => format!("No command held its core for {ms} ms or longer.\n"),
    }
}

/// For each command how many calls were ready within so many microseconds, by powers of two.
fn histogram(_: &mut Session, facts: &dyn Facts, args: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    let names: Vec<&str> = args.from(2).filter_map(table::lookup_full).flat_map(names_of).collect();
    let wanted = |of: &Calls| args.len() == 2 || names.contains(&of.name);
    let mut calls = facts.calls();
    calls.retain(|of| of.latency.count > 0 && wanted(of));
    reply.map(calls.len());
    for of in &calls {
        reply.bulk(of.name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(of.latency.count as i64);
        reply.bulk(b"histogram_usec");
        let counts = of.latency.by_microseconds();
        reply.map(counts.len());
        for (us, count) in counts {
            reply.integer(us as i64);
            reply.integer(count as i64);
        }
    }
    Then::Continue
}

/// A command's, or those of its subcommands.
fn names_of(spec: &'static Spec) -> impl Iterator<Item = &'static str> {
    std::iter::once(spec).chain(spec.subcommands()).map(|spec| spec.name)
}

fn latency_help(_: &mut Session, _: &dyn Facts, _: &Args<'_>, reply: &mut Reply<'_>) -> Then {
    help(reply, "LATENCY", SPECS)
}

const fn row(name: &'static str, arity: i16, flags: Flags, run: Run) -> Spec {
    let (access, group, keys) = (Access::Admin, Group::Server, Keys::NONE);
    Spec { name, arity, flags, keys, access, group, summary: "", since: "2.8.13", run }
}

const HELP: Flags = Flags::LOADING.and(Flags::STALE);
const ADMIN: Flags = HELP.and(Flags::NOSCRIPT).and(Flags::ADMIN);
const HISTOGRAM: Connection = histogram;
const TEXT: Connection = latency_help;

pub(super) static SPECS: &[Spec] = &[
    row("latency|histogram", -2, ADMIN, Run::Connection(HISTOGRAM))
        .about("How many calls of commands took how long", "7.0.0"),
    row("latency|latest", 2, ADMIN, Run::Node(gathered(latest)))
        .about("For each event its latest second, and the longest of all", "2.8.13"),
    row("latency|history", 3, ADMIN, Run::Node(gathered(history)))
        .about("The seconds of an event, and the longest of each", "2.8.13"),
    row("latency|reset", -2, ADMIN, Run::Node(RESET)).about("Forgets events, or all", "2.8.13"),
    row("latency|doctor", 2, ADMIN, Run::Node(gathered(doctor)))
        .about("The events in words", "2.8.13"),
    row("latency|help", 2, HELP, Run::Connection(TEXT)).about("This text", "2.8.13"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn series(samples: &[(u64, u64)]) -> Series {
        let mut series = Series::default();
        samples.iter().for_each(|&(unix_s, ms)| series.add(Sample { unix_s, ms }));
        series
    }

    fn pairs(series: &Series) -> Vec<(u64, u64)> {
        series.samples.iter().map(|sample| (sample.unix_s, sample.ms)).collect()
    }

    #[test]
    fn a_second_keeps_its_longest_and_an_event_its_latest() {
        let few = series(&[(5, 3), (5, 9), (5, 4), (6, 2)]);
        assert_eq!((few.ms_max, pairs(&few)), (9, vec![(5, 9), (6, 2)]));

        let many: Vec<_> = (0..500).map(|n| (n, 1_000 - n)).collect();
        let many = series(&many);
        assert_eq!((many.ms_max, many.samples.len()), (1_000, SAMPLES_MAX));
        assert_eq!(pairs(&many)[SAMPLES_MAX - 1], (499, 501));
    }

    #[test]
    fn shards_series_become_one() {
        let mut body = Vec::new();
        series(&[(1, 50), (3, 5)]).write_to(0, &mut body);
        series(&[(7, 7)]).write_to(1, &mut body);
        series(&[(2, 4), (3, 8)]).write_to(0, &mut body);

        let [command, fast] = gather(&body);
        assert_eq!(pairs(&command), [(1, 50), (2, 4), (3, 8)]);
        assert_eq!((command.ms_max, fast), (50, series(&[(7, 7)])));

        // A torn one ends the list.
        let [command, fast] = gather(&body[..body.len() - 1]);
        assert_eq!(pairs(&command), [(1, 50), (3, 5)]);
        assert_eq!(fast, series(&[(7, 7)]));
    }

    #[test]
    fn the_doctor_says_what_there_is() {
        let none = Series::default;
        let off = diagnosis(&[none(), none()], "0");
        assert_eq!(off, "Nothing is noted: latency-monitor-threshold is 0.\n");
        let quiet = diagnosis(&[none(), none()], "50");
        assert_eq!(quiet, "No command held its core for 50 ms or longer.\n");
        let some = diagnosis(&[series(&[(1, 60), (2, 100)]), none()], "50");
        assert!(some.starts_with("command: in 2 seconds;"), "{some}");
        assert!(some.contains("took 80 ms on average, the longest of all 100 ms."), "{some}");
    }
}
