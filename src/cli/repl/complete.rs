//! Completion in the repl: commands, and the options of each, from the definitions that parse them.

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// The commands and their options.
pub(super) struct Commands(Vec<(String, Vec<String>)>);

impl Commands {
    /// Those of `line`.
    pub fn new(line: &clap::Command) -> Self {
        let mut line = line.clone();
        line.build();
        let commands = line.get_subcommands().map(|command| {
            let options = command.get_arguments().filter_map(clap::Arg::get_long);
            let options = options.map(|option| format!("--{option}"));
            (command.get_name().to_owned(), options.collect())
        });
        Self(commands.collect())
    }

    /// Where the last word of `head` begins, and what it may become.
    fn candidates<'a>(&'a self, head: &'a str) -> (usize, Vec<&'a str>) {
        let start = head.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, word) = head.split_at(start);
        let names = || self.0.iter().map(|(name, _)| name.as_str());
        let known: Vec<&str> = match before.split_whitespace().collect::<Vec<_>>()[..] {
            [] | ["help"] => names().collect(),
            [command, ..] if word.starts_with('-') => {
                let found = self.0.iter().filter(|(name, _)| name == command);
                found.flat_map(|(_, options)| options.iter().map(String::as_str)).collect()
            }
            _ => Vec::new(),
        };
        (start, known.into_iter().filter(|known| known.starts_with(word)).collect())
    }
}

impl Completer for Commands {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, candidates) = self.candidates(&line[..pos]);
        let pair = |word: &str| Pair { display: word.to_owned(), replacement: format!("{word} ") };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}

impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Line;
    use super::*;

    #[test]
    fn commands_and_their_options_are_completed() {
        let commands = Commands::new(&Line::command());
        let candidates = |head| commands.candidates(head);

        assert_eq!(candidates("s"), (0, vec!["set", "scan"]));
        assert_eq!(candidates("  ge"), (2, vec!["get"]));
        assert_eq!(candidates("help pi"), (5, vec!["ping"]));
        assert_eq!(candidates("set k v --t"), (8, vec!["--ttl"]));
        assert_eq!(candidates("scan --"), (5, vec!["--prefix", "--values", "--limit", "--help"]));
        assert_eq!(candidates("get k"), (4, vec![]));
    }
}
