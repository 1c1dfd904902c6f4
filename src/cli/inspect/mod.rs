//! `stave inspect`: what is in the files of a data directory, without a server.
//!
//! It reads and changes nothing. [`wal`] says which log is meant, [`walk`] drives the walker that a
//! replay uses over its files, [`sstable`] reads a table, [`manifest`]
//! what says which tables count, [`line`](mod@line) is what is printed.

use std::io::{self, BufWriter, Write};

use line::Printer;

use super::directory;
use super::{EXIT_DATA_DIR, EXIT_FAILURE, EXIT_OK};

pub(in crate::cli) mod line;
pub(in crate::cli) mod manifest;
mod sstable;
#[cfg(test)]
pub(in crate::cli) mod tests;
mod wal;
pub(in crate::cli) mod walk;

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

/// Has `inspect` print to `out`; returns the exit code. It says whether all is sound.
fn print(
    out: &mut impl Write,
    json: bool,
    inspect: impl FnOnce(&mut Printer<'_>) -> anyhow::Result<bool>,
) -> u8 {
    let mut out = BufWriter::new(out);
    let result = inspect(&mut Printer::new(&mut out, json));
    let result = result.and_then(|sound| out.flush().map(|()| sound).map_err(Into::into));
    match result {
        Ok(true) => EXIT_OK,
        Ok(false) => EXIT_DATA_DIR,
        Err(error) => complain(&error),
    }
}

fn complain(error: &anyhow::Error) -> u8 {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if kind == Some(io::ErrorKind::BrokenPipe) {
        // Whoever closed the pipe has seen enough.
        return EXIT_OK;
    }
    eprintln!("stave: {error:#}");
    if error.is::<directory::Error>() { EXIT_DATA_DIR } else { EXIT_FAILURE }
}
