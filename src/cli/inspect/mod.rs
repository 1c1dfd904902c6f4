//! `stave inspect`: what is in the files of a data directory, without a server.
//!
//! It reads and changes nothing. [`wal`] says which log is meant, [`walk`] drives the walker that a
//! replay uses over its files, [`sstable`] reads a table, [`manifest`]
//! what says which tables count, [`line`](mod@line) is what is printed.

use std::io::Write;

mod line;
mod manifest;
mod sstable;
#[cfg(test)]
mod tests;
mod wal;
mod walk;

/// Look into the files of a data directory; nothing is changed
#[derive(clap::Args)]
pub(super) struct Inspect {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Wal(wal::Wal),
    Sstable(sstable::Sstable),
    Manifest(manifest::Manifest),
}

impl Inspect {
    /// Prints to `out`; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        match &self.what {
            What::Wal(wal) => wal.run(out),
            What::Sstable(sstable) => sstable.run(out),
            What::Manifest(manifest) => manifest.run(out),
        }
    }
}
