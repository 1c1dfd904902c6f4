//! The tree of a partition.

pub mod block;
pub mod compact;
pub mod filter;
pub mod key;
pub mod manifest;
pub mod memtable;
pub mod merge;
pub mod pace;
pub mod pick;
pub mod rows;
pub mod table;
pub mod view;
