//! Calls by command, and error replies by their first word.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::Stat;
use super::histogram::Histogram;

/// More commands and subcommands than there are.
pub const COMMANDS_MAX: usize = 256;

/// First words of errors that are told apart; our own are a dozen.
const PREFIXES_MAX: usize = 64;

/// Calls of one command on one shard.
#[derive(Debug, Default)]
pub struct CommandStats {
    /// Calls that ran.
    pub calls: Stat,
    /// Time of this core in them, nanoseconds.
    pub busy_ns: Stat,
    /// Calls refused before they ran.
    pub rejected: Stat,
    /// Calls that ran and were answered with an error.
    pub failed: Stat,
    /// From the turn that took a call up until its reply could leave.
    pub latency: Histogram,
}

/// What one shard counts of its calls, by the number of the command.
#[derive(Debug)]
pub struct CallStats {
    commands: Box<[CommandStats]>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Default for CallStats {
    fn default() -> Self {
        let commands = (0..COMMANDS_MAX).map(|_| CommandStats::default()).collect();
        Self { commands, errors: Mutex::default() }
    }
}

impl CallStats {
    /// Those of a command.
    #[inline]
    pub fn of(&self, number: usize) -> &CommandStats {
        &self.commands[number]
    }

    /// Counts an error reply, by its first word; for the owner.
    pub fn note_error(&self, text: &[u8]) {
        let prefix = text.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        let prefix = String::from_utf8_lossy(prefix);
        let mut errors = self.errors.lock().expect("no one panics holding it");
        if let Some(count) = errors.get_mut(prefix.as_ref()) {
            *count += 1;
        } else if errors.len() < PREFIXES_MAX {
            errors.insert(prefix.into(), 1);
        }
    }

    /// Adds the error replies by their first words.
    pub fn add_errors_to(&self, sums: &mut BTreeMap<String, u64>) {
        let errors = self.errors.lock().expect("no one panics holding it");
        errors.iter().for_each(|(prefix, count)| *sums.entry(prefix.clone()).or_default() += count);
    }

    /// Forgets all; for the owner.
    pub fn reset(&self) {
        for command in &self.commands {
            let CommandStats { calls, busy_ns, rejected, failed, latency } = command;
            [calls, busy_ns, rejected, failed].iter().for_each(|stat| stat.set(0));
            latency.reset();
        }
        self.errors.lock().expect("no one panics holding it").clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_their_first_word_and_bounded() {
        let stats = CallStats::default();
        for text in ["ERR syntax error", "ERR other", "WRONGTYPE Operation"] {
            stats.note_error(text.as_bytes());
        }
        for n in 0..1000 {
            stats.note_error(format!("X{n} made up").as_bytes());
        }

        let mut sums = BTreeMap::new();
        stats.add_errors_to(&mut sums);
        assert_eq!((sums["ERR"], sums["WRONGTYPE"], sums.len()), (2, 1, PREFIXES_MAX));
    }
}
