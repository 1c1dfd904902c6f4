//! What a correct server may answer, whatever crashes there were.
//!
//! A *register* is a key with one writer, which sends its commands over one connection at a time:
//! so its states form one sequence, and a crash keeps a prefix of it. The prefix is at least as
//! long as what anybody was told of (`floor`), by an acknowledgement or by a read. A *counter* is
//! incremented by everybody: its replies are distinct, rise from what was known when the command
//! was sent, and never exceed what was sent.

use std::collections::BTreeSet;
use std::rc::Rc;

/// What a register holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub value: Option<Rc<Vec<u8>>>,
    pub expiry_ms: Option<u64>,
}

impl State {
    /// A value for ever.
    pub fn of(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(Rc::new(value.into())), expiry_ms: None }
    }

    fn shows(&self, value: Option<&[u8]>) -> bool {
        self.value.as_deref().map(Vec::as_slice) == value
    }
}

/// A key with one writer.
pub struct Register {
    states: Vec<State>,
    floor: usize,
}

impl Default for Register {
    fn default() -> Self {
        Self { states: vec![State::default()], floor: 0 }
    }
}

impl Register {
    /// What it holds when all that was sent is done.
    pub fn last(&self) -> &State {
        self.states.last().expect("there is a first state")
    }

    /// A write was sent; its number.
    pub fn sent(&mut self, state: State) -> usize {
        self.states.push(state);
        self.states.len() - 1
    }

    /// Number of the last write sent.
    pub fn newest(&self) -> usize {
        self.states.len() - 1
    }

    /// Number of the last write that somebody was told of.
    pub fn floor(&self) -> usize {
        self.floor
    }

    /// Somebody was told of write number `at`: it is there for ever.
    pub fn told(&mut self, at: usize) {
        self.floor = self.floor.max(at);
    }

    /// A read that was sent when `from` was the floor returned `value`. Of several states that show
    /// it the oldest counts: what a reader might have seen later proves nothing.
    pub fn read(&mut self, from: usize, value: Option<&[u8]>) -> Result<(), String> {
        match (from..self.states.len()).find(|at| self.states[*at].shows(value)) {
            Some(at) => {
                self.told(at);
                Ok(())
            }
            None => Err(format!(
                "read {}, but it may be one of {:?}",
                shown(value),
                self.states[from..]
                    .iter()
                    .map(|s| shown(s.value.as_deref().map(Vec::as_slice)))
                    .collect::<Vec<_>>()
            )),
        }
    }

    /// After a restart it holds `found`; what was sent before is done or gone.
    pub fn settle(&mut self, found: State) -> Result<(), String> {
        if !self.states[self.floor..].contains(&found) {
            let may: Vec<_> = self.states[self.floor..].iter().map(print).collect();
            let was: Vec<_> = self.states[..self.floor].iter().map(print).collect();
            return Err(format!(
                "the crash left {}; it may be one of {may:?}; before that it was {was:?}",
                print(&found)
            ));
        }
        *self = Self { states: vec![found], floor: 0 };
        Ok(())
    }
}

fn shown(value: Option<&[u8]>) -> String {
    match value {
        Some(bytes) => {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]);
            format!("{head}({})", bytes.len())
        }
        None => "nil".to_owned(),
    }
}

fn print(state: &State) -> String {
    let value = shown(state.value.as_deref().map(Vec::as_slice));
    state.expiry_ms.map_or(value.clone(), |at| format!("{value} until {at}"))
}

/// A key that everybody increments.
#[derive(Default)]
pub struct Counter {
    /// What it was when this life of the node began, or when it was cleared.
    base: i64,
    sent: i64,
    replies: BTreeSet<i64>,
    floor: i64,
    /// A clear was sent, and nobody was told of it.
    may_be_cleared: bool,
    /// Clears that somebody was told of.
    clears: u32,
}

/// What was known of a counter when a command was sent.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    floor: i64,
    clears: u32,
}

impl Counter {
    /// An increment was sent.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// What a command sent now has to answer for.
    pub fn known(&self) -> Known {
        Known { floor: self.floor, clears: self.clears }
    }

    /// An increment was answered.
    pub fn incremented(&mut self, known: Known, reply: i64) -> Result<(), String> {
        self.check(known.floor + 1, reply)?;
        if !self.replies.insert(reply) {
            return Err(format!("{reply} was answered twice"));
        }
        self.floor = self.floor.max(reply);
        Ok(())
    }

    /// A read was answered.
    pub fn read(&mut self, known: Known, reply: i64) -> Result<(), String> {
        if self.may_be_cleared && reply == 0 || known.clears != self.clears {
            return Ok(());
        }
        self.check(known.floor, reply)?;
        self.floor = self.floor.max(reply);
        Ok(())
    }

    fn check(&self, min: i64, reply: i64) -> Result<(), String> {
        let max = self.base + self.sent;
        if reply < min || reply > max {
            return Err(format!("counted {reply}, but it is within {min}..={max}"));
        }
        Ok(())
    }

    /// A clear was sent; no increments are on their way.
    pub fn clear_sent(&mut self) {
        self.may_be_cleared = true;
    }

    /// The clear was acknowledged.
    pub fn cleared(&mut self) {
        *self = Self { clears: self.clears + 1, ..Self::default() };
    }

    /// After a restart it is `found`.
    pub fn settle(&mut self, found: i64) -> Result<(), String> {
        let acked = self.base + self.replies.len() as i64;
        if !(self.may_be_cleared && found == 0) {
            self.check(self.floor.max(acked), found)?;
        }
        *self = Self { base: found, floor: found, ..Self::default() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_keeps_what_was_read_and_forgets_only_what_nobody_saw() {
        let mut register = Register::default();
        let first = register.sent(State::of("a"));
        register.sent(State::of("b"));
        register.sent(State::of("c"));
        register.told(first);

        assert!(register.read(0, Some(b"b")).is_ok());
        assert!(register.read(register.floor(), Some(b"a")).is_err(), "b was seen before");
        assert!(register.settle(State::of("a")).is_err(), "b was read");
        assert!(register.settle(State::of("c")).is_ok(), "c may have made it");
        assert!(register.read(0, Some(b"b")).is_err());
    }

    #[test]
    fn a_counter_counts_each_acknowledgement_once() {
        let mut counter = Counter::default();
        (0..3).for_each(|_| counter.sent());

        let known = counter.known();
        assert!(counter.incremented(known, 2).is_ok());
        assert!(counter.incremented(known, 2).is_err());
        assert!(counter.incremented(known, 4).is_err());
        assert!(counter.settle(1).is_err(), "2 was answered");
        assert!(counter.settle(3).is_ok());
    }
}
