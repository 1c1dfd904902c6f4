//! The typed write: what an [`Op`] of the binary protocol does to the key that it names.

use super::{Effect, Event, Found, NewValue};
use crate::protocol::binary::{Condition, Op, Outcome, OutcomeState, Ttl};

/// What has to be done, and what the client is told once it is durable. The timestamp of the
/// outcome is filled in by whoever gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided<'a> {
    /// What has to be done.
    pub effect: Effect<'a>,
    /// What is told.
    pub outcome: Outcome,
}

/// Whether the condition of `op` holds for what its key holds and `version`, that of it.
pub fn holds(op: &Op<'_>, found: Option<&Found<'_>>, version: u64) -> bool {
    match op.condition {
        Condition::None => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::Equals(wanted) => found.is_some_and(|found| found.value.as_slice() == wanted),
        Condition::Version(wanted) => wanted == found.map_or(0, |_| version),
    }
}

/// What an op whose condition holds does.
pub fn decide<'a>(op: &Op<'a>, found: Option<Found<'_>>, now_ms: u64) -> Decided<'a> {
    let (effect, state) = match (op.value, expiry_of(op, found.as_ref(), now_ms)) {
        (Some(value), Ok(expiry_ms)) => {
            let value = NewValue::Borrowed(value);
            let existed = found.is_some();
            let state = if existed { OutcomeState::Replaced } else { OutcomeState::Created };
            let until = matches!(op.ttl, Ttl::InMs(_) | Ttl::AtMs(_));
            let event = if until { Event::SetUntil } else { Event::Set };
            (Effect::Put { value, expiry_ms, event }, state)
        }
        _ if found.is_some() => (Effect::Delete(Event::Delete), OutcomeState::Deleted),
        _ => (Effect::None, OutcomeState::Nothing),
    };
    Decided { effect, outcome: Outcome { timestamp: 0, state } }
}

/// The deadline of what is set. Error: it has passed.
fn expiry_of(op: &Op<'_>, found: Option<&Found<'_>>, now_ms: u64) -> Result<Option<u64>, ()> {
    match op.ttl {
        Ttl::None => Ok(None),
        // At the very millisecond the key still lives: one that is kept is not a new one.
        Ttl::Keep => Ok(found.and_then(|found| found.expiry_ms)),
        Ttl::InMs(ms) => Ok(Some(now_ms + ms)),
        Ttl::AtMs(ms) if ms <= now_ms => Err(()),
        Ttl::AtMs(ms) => Ok(Some(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Value;

    const NOW_MS: u64 = 1000;

    fn found(expiry_ms: Option<u64>) -> Option<Found<'static>> {
        Some(Found { value: Value::Bytes(b"old"), expiry_ms })
    }

    #[test]
    fn conditions_hold_for_what_they_name() {
        let there = found(None);
        for (condition, absent, present) in [
            (Condition::None, true, true),
            (Condition::Absent, true, false),
            (Condition::Present, false, true),
            (Condition::Equals(b"old"), false, true),
            (Condition::Equals(b"new"), false, false),
            (Condition::Equals(b""), false, false),
            (Condition::Version(7), false, true),
            (Condition::Version(8), false, false),
            (Condition::Version(0), true, false),
        ] {
            let op = Op { condition, ..Op::default() };
            assert_eq!(holds(&op, None, 0), absent, "{condition:?} of an absent key");
            assert_eq!(holds(&op, there.as_ref(), 7), present, "{condition:?} of a key");
        }
    }

    #[test]
    fn a_set_puts_and_a_delete_or_a_deadline_that_has_passed_deletes() {
        let set = Op { key: b"k", value: Some(b"v"), ..Op::default() };
        let value = || NewValue::Borrowed(b"v");
        let put = |expiry_ms| Effect::Put { value: value(), expiry_ms, event: Event::Set };
        let until =
            |at_ms| Effect::Put { value: value(), expiry_ms: Some(at_ms), event: Event::SetUntil };
        let (created, replaced) = (OutcomeState::Created, OutcomeState::Replaced);
        let gone = (Effect::Delete(Event::Delete), OutcomeState::Deleted);
        for (op, was, wanted) in [
            (set, None, (put(None), created)),
            (set, found(Some(2000)), (put(None), replaced)),
            (Op { ttl: Ttl::Keep, ..set }, found(Some(2000)), (put(Some(2000)), replaced)),
            (Op { ttl: Ttl::Keep, ..set }, None, (put(None), created)),
            (Op { ttl: Ttl::InMs(5), ..set }, None, (until(1005), created)),
            (Op { ttl: Ttl::AtMs(1001), ..set }, None, (until(1001), created)),
            (Op { ttl: Ttl::AtMs(1000), ..set }, found(None), gone.clone()),
            (Op { ttl: Ttl::AtMs(1), ..set }, None, (Effect::None, OutcomeState::Nothing)),
            (Op { value: None, ..set }, found(None), gone.clone()),
            (Op { value: None, ..set }, None, (Effect::None, OutcomeState::Nothing)),
        ] {
            let Decided { effect, outcome } = decide(&op, was, NOW_MS);
            assert_eq!((effect, outcome.state), wanted, "{op:?} on {was:?}");
        }
    }
}
