//! Stave's engine beside RocksDB and fjall: the same workloads, one process per run, one JSON line
//! per run; and the table of what many runs say. `tools/engines` runs it all.
//!
//! Reading order: [`workload`], [`stage`], an engine ([`stave`], [`rocksdb`], [`fjall`]),
//! [`report`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use report::Line;
use workload::{Run, WORKLOADS, Workload};

mod fjall;
mod meter;
mod report;
mod rocksdb;
mod stage;
mod stave;
mod workload;

// As in the server, and so for both engines that are in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about)]
enum Command {
    /// Run one workload on one engine
    Run(RunArgs),
    /// Print the names of the workloads, in the order in which they are run
    Workloads,
    /// Print medians and ratios of the lines in FILE
    Table {
        /// Lines that `run` printed
        file: PathBuf,
        /// Leave out runs during which others kept more cores busy
        #[arg(long, default_value_t = 100.0)]
        others_max: f64,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Which engine
    engine: Engine,
    /// Which workload
    #[arg(value_parser = named)]
    workload: Workload,
    /// Where its files are
    #[arg(long)]
    dir: PathBuf,
    /// Keys
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// MiB of memory that the engine may use
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Seconds that are measured, after as many to warm up
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Number of the round: also the seed
    #[arg(long, default_value_t = 1)]
    round: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Stave,
    Rocksdb,
    Fjall,
}

fn named(name: &str) -> Result<Workload, String> {
    Workload::named(name).ok_or_else(|| "see `rivals workloads`".to_owned())
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Run(args) => run(args),
        Command::Workloads => {
            WORKLOADS.iter().for_each(|workload| println!("{}", workload.name));
            Ok(())
        }
        Command::Table { file, others_max } => {
            let text = std::fs::read_to_string(&file).context(file.display().to_string())?;
            print!("{}", report::table(&Line::all(&text)?, others_max));
            Ok(())
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    let run = Run {
        dir: args.dir,
        workload: args.workload,
        keys: args.keys,
        memory: args.memory << 20,
        span: Duration::from_secs(args.seconds),
        seed: args.round.wrapping_mul(0x9E37_79B9),
    };
    let (engine, figures) = match args.engine {
        Engine::Stave => ("stave", stave::run(&run)?),
        Engine::Rocksdb => ("rocksdb", rocksdb::run(&run)?),
        Engine::Fjall => ("fjall", fjall::run(&run)?),
    };
    println!("{}", serde_json::to_string(&Line::new(engine, args.round, &run, &figures))?);
    Ok(())
}
