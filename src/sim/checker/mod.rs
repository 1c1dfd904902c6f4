//! Whether what clients saw of a store is linearizable: explained by one order of the operations in
//! which each takes effect at once, somewhere between its call and its return.
//!
//! Keys are independent, so each is checked alone, as a register that may be empty. An operation
//! whose outcome is unknown (a timeout, a broken connection, an error after the proposal) stays
//! open for ever: it may take effect at any later time, or never. The recorder's part matters most:
//! a call begins before its first byte is sent and returns after the last byte of its reply was
//! read, all by one clock; only what certainly had no effect is [`History::never`]; a retry is
//! another call.
//!
//! Not here: the search ([`search`]), which is pure and counts steps in place of time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use search::Search;

mod search;
#[cfg(test)]
mod tests;

/// Steps after which a key is given up, which is a failure: about ten seconds.
const STEPS_MAX: u64 = 20_000_000;
/// Calls that an explanation lists.
const LISTED_MAX: usize = 40;

/// What a key holds; tests write numbers, no two writes of a key the same.
pub type Value = Option<i64>;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Get,
    /// Write.
    Put(i64),
    /// Remove.
    Delete,
    /// Write if it holds `from`.
    Cas {
        /// What it must hold.
        from: Value,
        /// What it is to hold.
        to: i64,
    },
    /// Add one; nothing counts as 0.
    Incr,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// Of a get.
    Value(Value),
    /// Of a put.
    Done,
    /// Of a delete: whether there was something.
    Deleted(bool),
    /// Of a cas: whether it wrote.
    Swapped(bool),
    /// Of an increment: what it made.
    Count(i64),
}

impl Op {
    /// What it answers at `state`, and the state after it.
    fn apply(self, state: Value) -> (Answer, Value) {
        match self {
            Self::Get => (Answer::Value(state), state),
            Self::Put(value) => (Answer::Done, Some(value)),
            Self::Delete => (Answer::Deleted(state.is_some()), None),
            Self::Cas { from, to } if from == state => (Answer::Swapped(true), Some(to)),
            Self::Cas { .. } => (Answer::Swapped(false), state),
            Self::Incr => {
                let count = state.unwrap_or(0) + 1;
                (Answer::Count(count), Some(count))
            }
        }
    }
}

impl Answer {
    /// Whether it tells that the operation changed nothing.
    fn is_read(self) -> bool {
        matches!(self, Self::Value(_) | Self::Deleted(false) | Self::Swapped(false))
    }
}

/// One operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    client: u32,
    op: Op,
    /// Nanoseconds.
    called: u64,
    /// When, and what; `None`: unknown.
    returned: Option<(u64, Answer)>,
}

/// Names a call of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(usize);

/// What the clients of a store did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// With the key of each; `None`: it never took effect.
    calls: Vec<(String, Option<Call>)>,
}

impl History {
    /// A client is about to send `op` on `key` at `now`, nanoseconds.
    pub fn called(&mut self, client: u32, key: &str, op: Op, now: u64) -> CallId {
        let call = Call { client, op, called: now, returned: None };
        self.calls.push((key.to_owned(), Some(call)));
        CallId(self.calls.len() - 1)
    }

    /// It was answered. A call that never is may still take effect, at any time.
    ///
    /// # Panics
    /// If it was answered before.
    pub fn returned(&mut self, id: CallId, answer: Answer, now: u64) {
        let (key, call) = &mut self.calls[id.0];
        let call = call.as_mut().expect("a call that never was is not answered");
        assert!(call.returned.is_none(), "answered twice: {key} {call:?}");
        call.returned = Some((now, answer));
    }

    /// It certainly had no effect and will have none: refused before it was proposed.
    pub fn never(&mut self, id: CallId) {
        self.calls[id.0].1 = None;
    }

    /// Whether a get was answered with this.
    #[cfg(test)]
    pub fn was_read(&self, value: i64) -> bool {
        let told = Some(Answer::Value(Some(value)));
        let answers = self.calls.iter().filter_map(|(_, call)| call.as_ref());
        answers.map(|call| call.returned.map(|(_, answer)| answer)).any(|answer| answer == told)
    }

    /// Calls that were recorded, and how many of them were answered.
    pub fn counts(&self) -> (usize, usize) {
        let answered = |(_, call): &&(_, Option<Call>)| call.is_some_and(|c| c.returned.is_some());
        (self.calls.len(), self.calls.iter().filter(answered).count())
    }

    /// Checks every key. The steps it took.
    ///
    /// # Errors
    /// The first key that no order explains, or for which none was found in [`STEPS_MAX`] steps.
    pub fn check(&self) -> Result<u64, Violation> {
        let mut keys: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
        for (key, call) in &self.calls {
            keys.entry(key).or_default().extend(call);
        }
        let mut steps = 0;
        for (key, calls) in keys {
            let (verdict, took) = decide(&calls);
            steps += took;
            let text = match verdict {
                Some(true) => continue,
                Some(false) => explain(&calls),
                None => format!("undecided after {took} steps: too many at once, or unknown\n"),
            };
            return Err(Violation { key: key.to_owned(), text });
        }
        Ok(steps)
    }
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// The first answer that can not be, what could be, and the calls that lead to it.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: {}", self.key, self.text)
    }
}

/// Whether an order explains `calls`, and the steps it took; `None`: too many.
fn decide(calls: &[Call]) -> (Option<bool>, u64) {
    decide_within(STEPS_MAX, calls)
}

fn decide_within(steps_max: u64, calls: &[Call]) -> (Option<bool>, u64) {
    let mut search = Search::new(calls);
    let verdict = search.run(steps_max, |search| search.explains_all());
    (verdict, search.steps())
}

/// What clients knew of `calls` at `now`.
fn until(calls: &[Call], now: u64) -> Vec<Call> {
    let known =
        |call: &Call| Call { returned: call.returned.filter(|(at, _)| *at <= now), ..*call };
    calls.iter().filter(|call| call.called <= now).map(known).collect()
}

fn explain(calls: &[Call]) -> String {
    let mut ends: Vec<u64> = calls.iter().filter_map(|call| Some(call.returned?.0)).collect();
    ends.sort_unstable();
    // What no order explains, no order explains with more that comes after it.
    let first = ends.partition_point(|now| decide(&until(calls, *now)).0 == Some(true));
    let mut calls = until(calls, ends[first.min(ends.len() - 1)]);
    calls.sort_by_key(|call| call.returned.map_or(u64::MAX, |(at, _)| at));
    let last = calls.iter().rposition(|call| call.returned.is_some());
    let wrong = calls.remove(last.expect("what is not explained was answered"));
    // What only looked on may go, if nothing is explained without it either; each is harder to
    // decide than the one before.
    let mut steps_left = STEPS_MAX / 10;
    for at in (0..calls.len()).rev() {
        if steps_left > 0 && calls[at].returned.is_some_and(|(_, answer)| answer.is_read()) {
            let call = calls.remove(at);
            let (verdict, took) = decide_within(steps_left, &[&calls[..], &[wrong]].concat());
            steps_left -= took.min(steps_left);
            if verdict != Some(false) {
                calls.insert(at, call);
            }
        }
    }
    tell(&calls, &wrong)
}

fn tell(calls: &[Call], wrong: &Call) -> String {
    let mut text = format!("no order explains this answer:\n  {wrong}\n");
    text += &match possible(calls, wrong) {
        Some(answers) => format!("it could be {answers:?}, after these calls:\n"),
        None => "after these calls:\n".to_owned(),
    };
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.called);
    let skipped = calls.len().saturating_sub(LISTED_MAX);
    if skipped > 0 {
        text += &format!("  ({skipped} earlier ones)\n");
    }
    calls[skipped..].iter().for_each(|call| text += &format!("  {call}\n"));
    text
}

/// What `wrong` could be answered in some order of `calls`.
fn possible(calls: &[Call], wrong: &Call) -> Option<BTreeSet<Answer>> {
    let mut answers = BTreeSet::new();
    let is_before = |call: &Call| call.returned.is_some_and(|(at, _)| at < wrong.called);
    let before: Vec<usize> = (0..calls.len()).filter(|at| is_before(&calls[*at])).collect();
    let all = Search::new(calls).run(STEPS_MAX / 10, |search| {
        if before.iter().all(|at| search.has(*at)) {
            answers.insert(wrong.op.apply(search.state()).0);
        }
        false
    });
    all.map(|_| answers)
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1_000.0;
        write!(f, "{:>12.3} us ", us(self.called))?;
        match self.returned {
            Some((at, _)) => write!(f, "to {:>12.3} us", us(at))?,
            None => write!(f, "{:>18}", "and on")?,
        }
        write!(f, ", client {}: {:?}", self.client, self.op)?;
        match self.returned {
            Some((_, answer)) => write!(f, " -> {answer:?}"),
            None => write!(f, " -> unknown"),
        }
    }
}
