//! The tree of a partition.

pub mod key;
pub mod memtable;
