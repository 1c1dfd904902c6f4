//! The tree of a partition.
