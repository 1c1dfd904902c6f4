//! The `stave` command: everything is in [`stavekv::cli`].

use std::process::ExitCode;

/// Freed memory goes back to the thread that allocates next, without a lock: each core keeps its
/// own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    stavekv::cli::run()
}
