//! Commands, pure: one file per family and the table of all.
