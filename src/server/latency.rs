//! The samples of LATENCY of one shard: commands that held this core for long.
//!
//! They come from where SLOWLOG's come from ([`super::slowlog`]), and are those of at least
//! `latency-monitor-threshold` milliseconds. Bounded: two events of 160 samples.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::node::Node;
use super::remote::Answered;
use crate::command::Spec;
use crate::command::latency::{EVENTS, Sample, Series, event_of};
use crate::command::question::Latency;

/// See the module's header.
#[derive(Default)]
pub struct LatencyLog {
    /// From where on a command is a sample; none: none is.
    threshold: Option<Duration>,
    events: [Series; EVENTS.len()],
}

impl LatencyLog {
    /// Takes over what `CONFIG SET` said; returns from where on a command is a sample.
    pub fn configure(&mut self, node: &Node) -> Option<Duration> {
        let ms = node.common.latency_ms.load(Ordering::Relaxed);
        self.threshold = (ms > 0).then(|| Duration::from_millis(ms));
        self.threshold
    }

    /// Notes that a command held the core for so long, if that is long.
    pub fn note(&mut self, spec: &Spec, took: Duration, unix_s: u64) {
        if self.threshold.is_some_and(|threshold| took >= threshold) {
            self.events[event_of(spec)].add(Sample { unix_s, ms: took.as_millis() as u64 });
        }
    }

    /// Answers a question.
    pub fn answer(&mut self, question: Latency) -> Answered {
        let mut answered = Answered::default();
        let events = self.events.iter_mut().enumerate().filter(|(_, series)| !series.is_empty());
        for (event, series) in events {
            match question {
                Latency::Get => series.write_to(event, &mut answered.body),
                Latency::Reset(named) if named[event] => {
                    *series = Series::default();
                    answered.body.push(event as u8);
                }
                Latency::Reset(_) => {}
            }
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    #[test]
    fn what_takes_the_threshold_is_a_sample_of_its_event_until_it_is_reset() {
        let threshold = Some(Duration::from_millis(5));
        let mut log = LatencyLog { threshold, ..LatencyLog::default() };
        let [keys, get] = ["keys", "get"].map(|name| lookup(name.as_bytes()).expect("a command"));
        log.note(keys, Duration::from_micros(4_999), 1);
        log.note(get, Duration::from_millis(5), 2);
        assert!(log.events[0].is_empty() && !log.events[1].is_empty());
        log.note(keys, Duration::from_millis(7), 3);

        assert!(log.answer(Latency::Reset([false, false])).body.is_empty());
        assert_eq!(log.answer(Latency::Reset([false, true])).body, [1]);
        assert_eq!(log.answer(Latency::Reset([true, true])).body, [0]);
        assert!(log.answer(Latency::Get).body.is_empty());

        log.threshold = None;
        log.note(keys, Duration::from_secs(9), 4);
        assert!(log.events[0].is_empty());
    }
}
