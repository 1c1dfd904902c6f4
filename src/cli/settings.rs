//! The flags of a server: one for each entry of the table of settings.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::KEYS;

/// What was said on the command line: keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(pub(super) Vec<(&'static str, String)>);

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        let flags = KEYS.iter().map(|key| {
            let arg = Arg::new(key.name).long(key.name).help(key.help).overrides_with(key.name);
            if key.value_name.is_empty() {
                // `--insecure` alone is true; `--insecure false` undoes a variable.
                arg.value_name("BOOL").num_args(0..=1).default_missing_value("true")
            } else {
                arg.value_name(key.value_name).allow_negative_numbers(true)
            }
        });
        command.args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Settings, clap::Error> {
        let command = Settings::augment_args(Command::new("serve").no_binary_name(true));
        Settings::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    #[test]
    fn the_last_flag_of_a_name_wins() {
        let settings = parse(&["--resp-port", "1", "--resp-port=2"]).expect("repeats are fine");

        assert_eq!(settings.0, [("resp-port", "2".to_owned())]);
    }

    #[test]
    fn a_switch_needs_no_value() {
        let on = parse(&["--insecure"]).expect("a switch");
        let off = parse(&["--insecure=false"]).expect("a switch");

        assert_eq!(on.0, [("insecure", "true".to_owned())]);
        assert_eq!(off.0, [("insecure", "false".to_owned())]);
    }

    #[test]
    fn a_value_may_stand_apart_from_its_flag_and_be_negative() {
        let line = ["--cluster-mode", "true", "--slowlog-log-slower-than", "-1", "--insecure"];
        let given = ["true", "-1", "true"].map(str::to_owned);

        let mut settings = parse(&line).expect("the shape of `--help`").0;
        settings.sort_by_key(|(name, _)| line.iter().position(|word| word.ends_with(name)));

        assert!(settings.iter().map(|(_, value)| value).eq(&given), "{settings:?}");
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        let error = parse(&["--resp-prot", "1"]).expect_err("there is no such flag");

        assert!(error.to_string().contains("--resp-port"), "{error}");
    }
}
