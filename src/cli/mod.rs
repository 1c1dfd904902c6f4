//! What a person types and sees: one file per subcommand, and the process around the server.
//!
//! [`run`] is the whole program: parse, dispatch, exit code. Doc comments of the argument types are
//! the help texts. Like `env`, this layer may touch files, threads and clocks directly: it runs
//! before there is a shard and after the last one has ended.
//!
//! Reading order: `serve` (the life of a server), `directory` (lock and identity), `start` (where
//! the server begins), then `log`, `ready`, `stop`; `ask` (commands that ask a server), `failure`
//! (what went wrong there), `repl`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the process around the shards: files, threads and clocks before and after them"
)]

use std::process::ExitCode;

use ask::Remote;
use clap::Parser;

mod ask;
mod cluster;
mod completion;
mod condition;
mod del;
mod directory;
mod doctor;
mod duration;
mod failure;
mod get;
mod history;
mod info;
mod inspect;
mod log;
mod nodes;
mod parts;
mod ping;
mod ready;
mod repl;
mod scan;
mod seeds;
mod serve;
mod set;
mod settings;
mod standby;
mod start;
mod stop;
mod text;
mod torture;

pub use directory::{DataDir, Identity};
pub use log::set_level;

/// Everything went well.
pub const EXIT_OK: u8 = 0;
/// It failed, was refused, or did not drain in time.
pub const EXIT_FAILURE: u8 = 1;
/// The command line or the configuration is wrong; clap's own code too.
pub const EXIT_USAGE: u8 = 2;
/// The data directory is in use, damaged, or not one of this configuration's.
pub const EXIT_DATA_DIR: u8 = 3;
/// An address or port can not be had, or no server is there.
pub const EXIT_ADDRESS: u8 = 4;
/// The key is absent, or the condition does not hold.
pub const EXIT_ABSENT: u8 = 5;
/// Nobody knows whether the write was done.
pub const EXIT_UNKNOWN: u8 = 6;

const EXIT_CODES: &str = "\
Exit codes:
  0  ended as asked
  1  failed, was refused, or did not drain within 10 s
  2  the command line or the configuration is wrong
  3  the data directory is in use, damaged, or of another shape
  4  an address or port can not be had, or no server is there
  5  the key is absent, or the condition does not hold
  6  it is unknown whether the write was done";

/// A durable, replicated key-value store that is as fast as a cache and speaks the Redis protocol.
#[derive(Parser)]
#[command(name = "stave", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Serve(serve::Serve),
    Get(Remote<get::Get>),
    Set(Remote<set::Set>),
    Del(Remote<del::Del>),
    Scan(Remote<scan::Scan>),
    Info(Remote<info::Info>),
    Ping(Remote<ping::Ping>),
    Cluster(nodes::Nodes),
    Repl(repl::Repl),
    Inspect(inspect::Inspect),
    Doctor(doctor::Doctor),
    Torture(torture::Torture),
    Completion(completion::Completion),
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn run() -> ExitCode {
    let out = &mut std::io::stdout().lock();
    let code = match Cli::parse().command {
        Command::Serve(serve) => serve.run(out),
        Command::Get(get) => get.run(out),
        Command::Set(set) => set.run(out),
        Command::Del(del) => del.run(out),
        Command::Scan(scan) => scan.run(out),
        Command::Info(info) => info.run(out),
        Command::Ping(ping) => ping.run(out),
        Command::Cluster(nodes) => nodes.run(out),
        Command::Repl(repl) => repl.run(out),
        Command::Inspect(inspect) => inspect.run(out),
        Command::Doctor(doctor) => doctor.run(out),
        Command::Torture(torture) => torture.run(out),
        Command::Completion(completion) => completion.run(out),
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        let mut said = std::collections::BTreeMap::new();
        let mut commands: Vec<_> = Cli::command().get_subcommands().cloned().collect();
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let about = command.get_about().expect("it says something").to_string();
            let twin = said.insert(about, command.get_name().to_owned());
            assert_eq!(twin, None, "{} says the same", command.get_name());
        }
        assert_eq!(said["Print what a key holds"], "get");
    }

    #[test]
    fn every_setting_is_a_flag_and_teaches() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").expect("there is one");

        let help = serve.render_long_help().to_string();

        for key in &KEYS {
            assert!(help.contains(&format!("--{}", key.name)), "{}", key.name);
        }
        for taught in ["redis-cli -p 6379", "STAVE_RESP_PORT", "Exit codes:"] {
            assert!(help.contains(taught), "{taught}: {help}");
        }
    }
}
