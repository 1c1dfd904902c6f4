//! `stave repl`: commands typed one after the other, on one connection.
//!
//! A line is split as an inline command is, and its words are parsed by the types that parse the
//! command line, so that both take the same options and print the same.
//!
//! Why rustyline: editing, history and completion are not our trade. Without its default features
//! it brings nix, log, memchr and tables of Unicode; reedline brings crossterm, chrono and more; a
//! page of our own would have to know every terminal.

mod complete;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Parser as _;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use self::complete::Commands;
use super::ask::{Ask, Connection, Session};
use super::failure::Failure;
use super::{EXIT_FAILURE, EXIT_OK, EXIT_USAGE};
use super::{del, get, info, ping, scan, set};
use crate::env::process;
use crate::protocol::resp::{Batch, Limits, Parser};

/// Lines that are remembered.
const HISTORY_LINES_MAX: usize = 1_000;

const EXAMPLES: &str = "\
Examples:
  stave repl                                     tab completes, the arrows go through old lines
  stave repl --server db1:7400 --db 2
  printf 'set a 1\\nget a\\n' | stave repl         a script: what failed first is the exit code

Lines are split at spaces; \"a b\\x00\" is one word with a zero byte, 'a b' is taken as it is.
Ctrl-C gives up a line, or the request that is under way.
`help` lists the commands, `help set` tells all of one. A line that begins with a space is not
remembered.";

/// Type commands one after the other
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Repl {
    #[command(flatten)]
    connection: Connection,

    /// File of old lines; ~/.local/state/stave/history unless said
    #[arg(long, value_name = "FILE", env = "STAVE_HISTORY")]
    history: Option<PathBuf>,
}

/// What a line says.
#[derive(clap::Parser)]
#[command(multicall = true, help_template = "{all-args}")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Get(get::Get),
    Set(set::Set),
    Del(del::Del),
    Scan(scan::Scan),
    Info(info::Info),
    Ping(ping::Ping),
    /// Leave; Ctrl-D does too
    #[command(visible_alias = "quit")]
    Exit,
}

impl Command {
    /// What it asks the server; none: it asks to leave.
    fn ask(&self) -> Option<&dyn Ask> {
        Some(match self {
            Self::Get(get) => get,
            Self::Set(set) => set,
            Self::Del(del) => del,
            Self::Scan(scan) => scan,
            Self::Info(info) => info,
            Self::Ping(ping) => ping,
            Self::Exit => return None,
        })
    }
}

impl Repl {
    /// Runs lines until there are no more; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        let is_typed = io::stdin().is_terminal();
        let mut session = Session::new(&self.connection, out, false);
        // Of a script Ctrl-C ends all.
        let interrupted = if is_typed { process::note_interrupts().ok() } else { None };
        if let Some(flag) = interrupted {
            session.end_requests_by(&self.connection, flag);
        }
        // Better now than at the first line.
        if let Err(error) = session.client.server() {
            return Failure::Request(error).tell(self.connection.json);
        }
        let mut lines = match Lines::open(self, is_typed) {
            Ok(lines) => lines,
            Err(error) => {
                eprintln!("stave: {error}");
                return EXIT_FAILURE;
            }
        };
        let mut first_failure = EXIT_OK;
        while let Some(line) = lines.next() {
            // What was pressed while nothing was under way ends nothing.
            interrupted.inspect(|flag| flag.store(false, Ordering::Relaxed));
            match run_line(&line, &mut session) {
                Some(EXIT_OK) => {}
                Some(code) if first_failure == EXIT_OK => first_failure = code,
                Some(_) => {}
                None => break,
            }
        }
        // A person has seen what failed.
        if is_typed { EXIT_OK } else { first_failure }
    }
}

/// The exit code that the line would have as a command; none: it asks to leave.
fn run_line(line: &str, session: &mut Session<'_>) -> Option<u8> {
    let Some(words) = words(line) else {
        eprintln!("stave: a quote is not closed, or not followed by a space");
        return Some(EXIT_USAGE);
    };
    if words.is_empty() {
        return Some(EXIT_OK);
    }
    let words = words.into_iter().map(OsString::from_vec);
    match Line::try_parse_from(words) {
        Ok(line) => line.command.ask().map(|ask| session.run(ask)),
        Err(error) => {
            // Help is such an error too; it goes to standard output.
            let _ = error.print();
            Some(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
        }
    }
}

/// The words of a line, split as an inline command is; none: its quotes are unbalanced.
pub(super) fn words(line: &str) -> Option<Vec<Vec<u8>>> {
    // The space keeps a line that begins with `*` an inline command.
    let line = format!(" {line}\r\n");
    let mut batch = Batch::default();
    Parser::default().parse(line.as_bytes(), &Limits::authenticated(), 1, &mut batch).ok()?;
    let args = batch.frames().first().map(|frame| batch.args(*frame, line.as_bytes()));
    Some(args.map_or_else(Vec::new, |args| args.iter().map(<[u8]>::to_vec).collect()))
}

/// Where lines come from.
struct Lines {
    editor: Editor<Commands, FileHistory>,
    prompt: String,
    /// Where typed lines are remembered, if they can be.
    history: Option<PathBuf>,
}

impl Lines {
    fn open(repl: &Repl, is_typed: bool) -> rustyline::Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .max_history_size(HISTORY_LINES_MAX)?
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Commands::new(&<Line as clap::CommandFactory>::command())));
        let history = repl.history.clone().or_else(default_history).filter(|_| is_typed);
        if let Some(path) = &history {
            if let Some(folder) = path.parent() {
                // If that fails, so does the first line, and it says so.
                let _ = std::fs::create_dir_all(folder);
            }
            // There is none yet.
            let _ = editor.load_history(path);
            println!("help lists the commands, Ctrl-D leaves");
        }
        Ok(Self { editor, prompt: repl.connection.prompt(), history })
    }

    /// The next line; none: that was all.
    fn next(&mut self) -> Option<String> {
        loop {
            match self.editor.readline(&self.prompt) {
                Ok(line) => {
                    self.remember(&line);
                    return Some(line);
                }
                // Ctrl-C gives up a line, not the repl.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return None,
                Err(error) => {
                    eprintln!("stave: {error}");
                    return None;
                }
            }
        }
    }

    fn remember(&mut self, line: &str) {
        let Some(path) = &self.history else { return };
        // Line by line, so that a killed terminal loses none.
        let added = self.editor.add_history_entry(line);
        if let Err(error) = added.and_then(|_| self.editor.append_history(path)) {
            eprintln!("stave: no line is remembered in {}: {error}", path.display());
            self.history = None;
        }
    }
}

fn default_history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty());
    let state = state.map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"))
    })?;
    Some(state.join("stave/history"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_lines_are_well_formed() {
        Line::command().debug_assert();
    }

    #[test]
    fn a_line_is_split_as_an_inline_command() {
        let split = |line| words(line).map(|words| words.join(&b'|'));

        assert_eq!(split("set a 'b c' \"\\x00\\n\""), Some(b"set|a|b c|\0\n".to_vec()));
        assert_eq!(split("*1 $2"), Some(b"*1|$2".to_vec()));
        assert_eq!(split("   "), Some(Vec::new()));
        assert_eq!(split("get \"a"), None);
        assert_eq!(split("get 'a'b"), None);
    }

    #[test]
    fn what_is_typed_has_the_options_of_the_command_line() {
        let words = ["set", "k", "v", "--ttl", "5s", "--if", "absent"];

        assert!(Line::try_parse_from(words).is_ok());
        for wrong in [&["set", "k"][..], &["frobnicate"], &["get", "k", "--json", "x"]] {
            assert!(Line::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
