//! What commands cost: calls, time and latency by command, charged a round at a time.
//!
//! A clock that is read per command costs more than a GET may lose. So a command is only counted
//! when it runs, and at the end of its round, where the clock is read anyway, the round's time is
//! shared out evenly over its commands. A command that may take longer than the others (several
//! keys, all keys, the node) is timed alone, and its time is not shared out.
//!
//! Two times are told of a command:
//! * *busy*, the `usec` of commandstats: the time of cores in it, that of other shards which did
//!   parts of it included.
//! * *latency*, that of latencystats: from the start of the turn that took it up until its reply
//!   could leave. For a write that is until it is durable; for a key of another shard until the
//!   answer was here. Not in it: what lay in the kernel, or in our queue while others were served.
//!
//! The writes of a turn are durable together, at one time: they are kept by turn ([`Turn`]) until
//! the last of them is committed.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use crate::command::{Flags, Keyed, Run, Spec};
use crate::metrics::{COMMANDS_MAX, ShardStats};
use crate::protocol::resp::Args;
use crate::shard::Hold;

/// Arguments of a command from which on it is timed alone.
const ARGS_MAX: usize = 16;

/// A call whose end is not now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    number: u16,
    /// When its turn began.
    since: Duration,
}

/// What the reply of the command at hand waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Nothing,
    /// A commit.
    Commit,
    /// Something that will say so ([`Ledger::finish`]).
    Answer,
}

/// Calls of one command since the last charge.
#[derive(Clone, Copy, Default)]
struct Count {
    calls: u32,
    /// Of them: those that wait for a commit.
    held: u32,
    /// Of them: those that wait for something else.
    later: u32,
    /// Parts of other shards' calls.
    served: u32,
}

/// The writes of one turn, by command.
struct Turn {
    began: Duration,
    last: Hold,
    held: SmallVec<[(u16, u32); 4]>,
}

/// See the module's header. Lives on one shard.
pub struct Ledger {
    counts: Box<[Count]>,
    /// Commands whose count is not 0.
    touched: Vec<u16>,
    turn_began: Duration,
    /// Up to when time is charged.
    charged: Duration,
    /// Time since then that was charged alone.
    alone: Duration,
    /// The command that runs.
    number: u16,
    fate: Fate,
    last_hold: Hold,
    /// This turn's writes.
    held: SmallVec<[(u16, u32); 4]>,
    /// Earlier turns whose writes are not committed.
    turns: VecDeque<Turn>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            counts: vec![Count::default(); COMMANDS_MAX].into(),
            touched: Vec::new(),
            turn_began: Duration::ZERO,
            charged: Duration::ZERO,
            alone: Duration::ZERO,
            number: 0,
            fate: Fate::Nothing,
            last_hold: Hold::default(),
            held: SmallVec::new(),
            turns: VecDeque::new(),
        }
    }
}

fn ns(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

/// Whether a command may take much longer than a plain one.
pub fn is_timed_alone(spec: &Spec, args: &Args<'_>) -> bool {
    let plain = matches!(spec.run, Run::Keyed(Keyed::One(_))) || spec.flags.has(Flags::FAST);
    !plain || args.len() > ARGS_MAX
}

impl Ledger {
    /// A turn begins.
    pub fn begin_turn(&mut self, now: Duration) {
        (self.turn_began, self.charged, self.alone) = (now, now, Duration::ZERO);
    }

    /// A command begins to run.
    #[inline]
    pub fn begin(&mut self, spec: &Spec) {
        (self.number, self.fate) = (spec.number() as u16, Fate::Nothing);
    }

    /// The reply of the command at hand waits for a commit.
    #[inline]
    pub fn hold(&mut self, hold: Hold) {
        (self.fate, self.last_hold) = (Fate::Commit, hold);
    }

    /// The reply of the command at hand waits for something that tells when it is there.
    pub fn wait(&mut self) -> Call {
        self.fate = Fate::Answer;
        Call { number: self.number, since: self.turn_began }
    }

    /// Whether the reply of the command at hand is not made yet.
    pub fn is_waiting(&self) -> bool {
        self.fate == Fate::Answer
    }

    #[inline]
    fn count(&mut self, number: u16) -> &mut Count {
        let count = &mut self.counts[usize::from(number)];
        if count.calls | count.served == 0 {
            self.touched.push(number);
        }
        count
    }

    /// A command ran: its time is a share of its round's.
    #[inline]
    pub fn end(&mut self, spec: &Spec) {
        let fate = self.fate;
        let count = self.count(spec.number() as u16);
        count.calls += 1;
        count.held += u32::from(fate == Fate::Commit);
        count.later += u32::from(fate == Fate::Answer);
    }

    /// A command ran, and took so long.
    pub fn end_alone(&mut self, spec: &Spec, took: Duration, stats: &ShardStats) {
        let number = spec.number();
        let of = stats.calls.of(number);
        of.calls.add(1);
        stats.commands.add(1);
        self.charge_alone(spec, took, stats);
        match self.fate {
            Fate::Nothing => {
                of.latency
                    .record(ns((self.charged + self.alone).saturating_sub(self.turn_began)), 1);
            }
            Fate::Commit => self.keep(number as u16, 1),
            Fate::Answer => {}
        }
    }

    /// Time in a command that is counted elsewhere.
    pub fn charge_alone(&mut self, spec: &Spec, took: Duration, stats: &ShardStats) {
        stats.calls.of(spec.number()).busy_ns.add(ns(took));
        self.alone += took;
    }

    /// A part of another shard's command ran.
    pub fn serve(&mut self, spec: &Spec) {
        self.count(spec.number() as u16).served += 1;
    }

    fn keep(&mut self, number: u16, n: u32) {
        match self.held.iter_mut().find(|(of, _)| *of == number) {
            Some((_, held)) => *held += n,
            None => self.held.push((number, n)),
        }
    }

    /// A round ended: its time is shared out.
    pub fn end_round(&mut self, now: Duration, stats: &ShardStats) {
        let spent = ns(now.saturating_sub(self.charged).saturating_sub(self.alone));
        (self.charged, self.alone) = (now, Duration::ZERO);
        if self.touched.is_empty() {
            return;
        }
        let of = |number: &u16| self.counts[usize::from(*number)];
        let weights =
            self.touched.iter().map(of).map(|count| u64::from(count.calls + count.served));
        let share = spent / weights.sum::<u64>().max(1);
        let latency = ns(now.saturating_sub(self.turn_began));
        while let Some(number) = self.touched.pop() {
            let Count { calls, held, later, served } =
                std::mem::take(&mut self.counts[usize::from(number)]);
            let of = stats.calls.of(usize::from(number));
            of.busy_ns.add(share * u64::from(calls + served));
            if calls == 0 {
                continue;
            }
            of.calls.add(calls.into());
            stats.commands.add(calls.into());
            let done = calls - held - later;
            if done > 0 {
                of.latency.record(latency, done.into());
            }
            if held > 0 {
                self.keep(number, held);
            }
        }
    }

    /// The turn's writes are on their way to the disk.
    pub fn end_turn(&mut self) {
        if !self.held.is_empty() {
            let (began, last) = (self.turn_began, self.last_hold);
            self.turns.push_back(Turn { began, last, held: std::mem::take(&mut self.held) });
        }
    }

    /// Charges the turns whose writes are committed by now.
    pub fn commit(
        &mut self,
        now: Duration,
        stats: &ShardStats,
        is_committed: impl Fn(Hold) -> bool,
    ) {
        while let Some(turn) = self.turns.front()
            && is_committed(turn.last)
        {
            let latency = ns(now.saturating_sub(turn.began));
            for (number, n) in &turn.held {
                stats.calls.of(usize::from(*number)).latency.record(latency, (*n).into());
            }
            self.turns.pop_front();
        }
    }

    /// What a call waited for is there, in this turn.
    pub fn finish(&self, call: Call, stats: &ShardStats) {
        let latency = ns(self.charged.saturating_sub(call.since));
        stats.calls.of(usize::from(call.number)).latency.record(latency, 1);
    }

    /// A command that was put off ran: `call` is when it was taken up.
    pub fn end_later(&mut self, call: Call, stats: &ShardStats) {
        match self.fate {
            Fate::Nothing => self.finish(call, stats),
            Fate::Commit => self.keep(call.number, 1),
            Fate::Answer => {}
        }
        self.fate = Fate::Answer;
    }

    /// A call was answered with an error.
    pub fn fail(call: Call, text: &[u8], stats: &ShardStats) {
        stats.calls.of(usize::from(call.number)).failed.add(1);
        note_error(text, stats);
    }

    /// The log failed: what was held is never committed.
    pub fn abandon(&mut self) {
        self.turns.clear();
    }
}

/// Counts an error reply; `text` is without its `-`.
pub fn note_error(text: &[u8], stats: &ShardStats) {
    stats.errors.add(1);
    stats.calls.note_error(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::metrics::Distribution;

    fn spec(name: &str) -> &'static Spec {
        lookup(name.as_bytes()).expect("a command")
    }

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Calls, busy time in us, and the median of the latency in us.
    fn told(stats: &ShardStats, name: &str) -> (u64, u64, u64) {
        let of = stats.calls.of(spec(name).number());
        let mut latency = Distribution::default();
        latency.add(&of.latency);
        (of.calls.get(), of.busy_ns.get() / 1000, (latency.percentile(50.0) + 500) / 1000)
    }

    fn run(ledger: &mut Ledger, name: &str, hold: Option<u64>) {
        ledger.begin(spec(name));
        hold.into_iter().for_each(|index| ledger.hold(Hold { index, ..Hold::default() }));
        ledger.end(spec(name));
    }

    #[test]
    fn a_round_is_shared_out_and_who_is_timed_alone_takes_no_share() {
        let (mut ledger, stats) = (Ledger::default(), ShardStats::default());
        ledger.begin_turn(us(1000));
        run(&mut ledger, "get", None);
        run(&mut ledger, "get", None);
        run(&mut ledger, "incr", None);
        ledger.begin(spec("keys"));
        ledger.end_alone(spec("keys"), us(70), &stats);
        ledger.end_round(us(1100), &stats);

        assert_eq!(told(&stats, "get"), (2, 20, 100));
        assert_eq!(told(&stats, "incr"), (1, 10, 100));
        assert_eq!(told(&stats, "keys"), (1, 70, 70));
        assert_eq!(stats.commands.get(), 4);
    }

    #[test]
    fn a_write_lasts_until_it_is_committed() {
        let (mut ledger, stats) = (Ledger::default(), ShardStats::default());
        for (turn, now) in [(1, 0), (2, 100)] {
            ledger.begin_turn(us(now));
            run(&mut ledger, "set", Some(turn));
            run(&mut ledger, "get", None);
            ledger.end_round(us(now + 10), &stats);
            ledger.end_turn();
        }
        assert_eq!(told(&stats, "set"), (2, 10, 0));

        ledger.commit(us(300), &stats, |hold| hold.index <= 1);
        assert_eq!(told(&stats, "set").2, 301);
        ledger.commit(us(1100), &stats, |hold| hold.index <= 2);

        let mut latency = Distribution::default();
        latency.add(&stats.calls.of(spec("set").number()).latency);
        assert_eq!((latency.count, latency.percentile(99.0) / 10_000), (2, 100));
        assert_eq!(told(&stats, "get").2, 10);
    }

    #[test]
    fn a_call_that_waits_for_another_shard_lasts_until_its_answer() {
        let (mut ledger, stats) = (Ledger::default(), ShardStats::default());
        ledger.begin_turn(us(0));
        ledger.begin(spec("get"));
        let call = ledger.wait();
        ledger.end(spec("get"));
        ledger.serve(spec("set"));
        ledger.end_round(us(10), &stats);
        assert_eq!((told(&stats, "get"), told(&stats, "set")), ((1, 5, 0), (0, 5, 0)));

        ledger.begin_turn(us(90));
        ledger.finish(call, &stats);
        assert_eq!(told(&stats, "get"), (1, 5, 90));
    }
}
