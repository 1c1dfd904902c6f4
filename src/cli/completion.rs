//! `stave completion`: the script that teaches a shell our commands and options.
//!
//! It is made from the same definitions that parse the command line, so it can not fall behind.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, EXIT_OK};

const EXAMPLES: &str = "\
Examples:
  source <(stave completion bash)                      this shell, until it ends
  stave completion bash > ~/.local/share/bash-completion/completions/stave
  stave completion zsh > ~/.zfunc/_stave               with ~/.zfunc in fpath, before compinit
  stave completion fish > ~/.config/fish/completions/stave.fish";

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completion {
    /// Whose script
    #[arg(value_name = "SHELL")]
    shell: Script,
}

/// The scripts that are promised; the generator knows more.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Script {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    /// Writes the script to `out`; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        let mut script = Vec::new();
        let shell = match self.shell {
            Script::Bash => Shell::Bash,
            Script::Zsh => Shell::Zsh,
            Script::Fish => Shell::Fish,
        };
        clap_complete::generate(shell, &mut Cli::command(), "stave", &mut script);
        // Whoever closed the pipe has seen enough.
        let _ = out.write_all(&script);
        EXIT_OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_knows_every_command_and_the_settings() {
        for shell in [Script::Bash, Script::Zsh, Script::Fish] {
            let mut script = Vec::new();

            let code = Completion { shell }.run(&mut script);

            let script = String::from_utf8(script).expect("scripts are text");
            assert_eq!(code, EXIT_OK);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?}: {command}");
            }
            assert!(script.contains("data-dir"), "{shell:?} knows no settings");
        }
    }
}
