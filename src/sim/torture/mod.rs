//! The torture: a whole node of one to three shards, played by clients and killed again and again.
//!
//! What must hold, whatever comes: nothing acknowledged is lost, nothing read is taken back, and
//! every start succeeds. [`house`] starts, kills and restarts a node, [`talk`] speaks RESP, `model`
//! knows what may be read, `run` is the random crash test and `groups` its keys that belong
//! together. `stave torture` runs it from the shipped binary, with the seeds of the user's choice.
//!
//! Not here: scenes of single behaviours, which are the server's tests and use the same house.

use std::fmt;

pub mod house;
pub mod talk;

mod groups;
mod model;
#[cfg(test)]
mod planted;
mod run;
#[cfg(test)]
mod tests;

pub use run::{run, shape};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many lives of the node.
    Lives(u64),
    /// Lives until so many commands were sent.
    Ops(u64),
}

impl Length {
    fn is_reached(self, done: &Done) -> bool {
        match self {
            Self::Lives(lives) => done.lives >= lives,
            Self::Ops(ops) => done.ops >= ops,
        }
    }
}

/// What a run did, and found to be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Of the simulation: the same seed gives the same.
    pub trace_hash: u64,
    /// Of the node.
    pub lives: u64,
    /// Lives that a power cut ended.
    pub power_cuts: u64,
    /// Lives that `kill -9` ended.
    pub kills: u64,
    /// Lives that ended in good order.
    pub stops: u64,
    /// Commands that were sent.
    pub ops: u64,
    /// Replies that came.
    pub answers: u64,
    /// Of these, those that say that it was done.
    pub acked: u64,
    /// Tables that were flushed.
    pub flushes: u64,
    /// Compactions that ended.
    pub compactions: u64,
}

impl Done {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.trace_hash ^= other.trace_hash;
        self.lives += other.lives;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.stops += other.stops;
        self.ops += other.ops;
        self.answers += other.answers;
        self.acked += other.acked;
        self.flushes += other.flushes;
        self.compactions += other.compactions;
    }
}

/// What kind of thing must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// After a start something is not what was acknowledged or read before.
    Lost,
    /// A reply says what can not be, or does not come.
    Wrong,
    /// The node does not start.
    RefusedStart,
}

/// What a run found that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its kind.
    pub kind: Kind,
    /// In which life of the node, from 0.
    pub life: u64,
    /// What it was.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Lost => "lost",
            Kind::Wrong => "wrong",
            Kind::RefusedStart => "a start was refused",
        };
        write!(f, "{kind} in life {}: {}", self.life, self.text)
    }
}
