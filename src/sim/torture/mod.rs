//! The torture: a whole node of one to three shards, played by clients and killed again and again.
//!
//! What must hold, whatever comes: nothing acknowledged is lost, nothing read is taken back, and
//! every start succeeds. [`house`] starts, kills and restarts a node, [`talk`] speaks RESP, `model`
//! knows what may be read, `run` is the random crash test and `groups` its keys that belong
//! together. A `trace` is one client's commands in turn; of it are made the campaigns that break
//! one thing at a time: each operation of the disk ([`calls`]), bits of files ([`flips`]), the room
//! on the disk ([`full`]). Several nodes that are one cluster ([`cluster`]) are played with in a
//! [`storms`], in some of which one of them loses its data (`ruin`); what a failing one takes is
//! found by leaving things out ([`minimized`]). `stave torture` runs them all from the shipped
//! binary.
//!
//! Not here: scenes of single behaviours, which are the server's tests and use the same house.

use std::fmt;

pub mod house;
pub mod talk;

mod agreement;
#[cfg(test)]
mod away;
pub mod calls;
mod campaign;
mod clients;
pub mod cluster;
#[cfg(test)]
mod early;
pub mod flips;
#[cfg(test)]
mod forgotten;
pub mod full;
mod groups;
mod model;
#[cfg(test)]
mod moved;
mod nemesis;
#[cfg(test)]
mod ousted;
#[cfg(test)]
mod planted;
mod retriers;
mod ruin;
mod run;
mod script;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod standby;
mod storms;
#[cfg(test)]
mod tests;
mod trace;
#[cfg(test)]
mod wide;

use house::House;

pub use campaign::{Campaign, storm};
pub use run::{run, shape};
pub use script::{Script, Strike, minimized};

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
    /// Operations of the disk at which something was broken.
    pub calls: u64,
    /// Times the disk was full and had room again.
    pub cycles: u64,
    /// Nodes of a cluster that lost all they had.
    pub wiped: u64,
    /// Of these, those that were started for a while as who they were.
    pub impostors: u64,
    /// Bits that were flipped.
    pub flips: u64,
    /// Of these: a start, or a key, was refused.
    pub detected: u64,
    /// Nothing was different.
    pub harmless: u64,
    /// The last block of a log was taken for torn.
    pub torn: u64,
    /// Commands that were refused as not begun.
    pub refused: u64,
    /// Commands of which nobody knows whether they were done.
    pub unknown: u64,
    /// Things that the nemesis of a cluster did.
    pub troubles: u64,
    /// Operations that were asked for until they were answered.
    pub once: u64,
    /// How often they were sent again.
    pub again: u64,
    /// How often replicas of two nodes were found to have the same rows.
    pub compared: u64,
}

impl Done {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.trace_hash ^= other.trace_hash;
        for (sum, (_, count)) in self.counts_mut().into_iter().zip(other.counts()) {
            *sum += count;
        }
    }

    /// Everything that is counted, with its name.
    pub fn counts(&self) -> [(&'static str, u64); 23] {
        const NAMES: [&str; 23] = [
            "lives",
            "power_cuts",
            "kills",
            "stops",
            "ops",
            "answers",
            "acked",
            "flushes",
            "compactions",
            "calls",
            "cycles",
            "wiped",
            "impostors",
            "flips",
            "detected",
            "harmless",
            "torn",
            "refused",
            "unknown",
            "troubles",
            "once",
            "again",
            "compared",
        ];
        let mut copy = self.clone();
        let counts = copy.counts_mut();
        std::array::from_fn(|at| (NAMES[at], *counts[at]))
    }

    fn counts_mut(&mut self) -> [&mut u64; 23] {
        [
            &mut self.lives,
            &mut self.power_cuts,
            &mut self.kills,
            &mut self.stops,
            &mut self.ops,
            &mut self.answers,
            &mut self.acked,
            &mut self.flushes,
            &mut self.compactions,
            &mut self.calls,
            &mut self.cycles,
            &mut self.wiped,
            &mut self.impostors,
            &mut self.flips,
            &mut self.detected,
            &mut self.harmless,
            &mut self.torn,
            &mut self.refused,
            &mut self.unknown,
            &mut self.troubles,
            &mut self.once,
            &mut self.again,
            &mut self.compared,
        ]
    }

    /// A life of the node is about to end.
    fn count_life(&mut self, house: &House) {
        self.lives += 1;
        for stats in &house.stats {
            self.flushes += stats.flushes.get();
            self.compactions += stats.compactions.get();
        }
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
