//! The tree of a partition.

pub mod block;
pub mod filter;
pub mod key;
pub mod memtable;
pub mod table;
