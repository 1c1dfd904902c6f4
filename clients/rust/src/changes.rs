//! What was done in a partition of a cluster, and its rows: what a copy somewhere else is made of.

use std::time::SystemTime;

/// A place in the log of a partition; the default: its end.
///
/// It is good on every node of the cluster, over restarts, for as long as the log reaches back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Behind this entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// And behind so many effects of the next one.
    pub part: u32,
}

/// What was done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It holds this.
    Set {
        /// What.
        value: Vec<u8>,
        /// When it goes by itself; none: it stays.
        expires: Option<SystemTime>,
    },
    /// It is gone.
    Deleted,
    /// All keys of the partition are gone, of all databases.
    Cleared,
}

/// A change, of any database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its version.
    pub version: u64,
    /// Which database.
    pub db: u8,
    /// Which key; empty if all are gone.
    pub key: Vec<u8>,
    /// What was done.
    pub done: Done,
}

/// What was done behind a place of the log, as far as it went into one reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order; none: there is nothing new.
    pub changes: Vec<Changed>,
    /// Where to go on from.
    pub position: Position,
    /// The newest entry of the log that a majority has.
    pub newest: u64,
    /// The newest version that a majority has.
    pub version: u64,
}

/// A page of a partition's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Each as it was set; expired ones that were not deleted yet may be among them.
    pub rows: Vec<Changed>,
    /// Where the next page begins; empty: that was all.
    pub next: Vec<u8>,
    /// All that the page tells of is in the log by this entry.
    pub newest: u64,
}
