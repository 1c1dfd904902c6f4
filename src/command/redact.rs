//! What of a command may be shown to others: in SLOWLOG and to MONITOR.

use super::{Args, Spec};

/// Stands for a secret.
pub const REDACTED: &[u8] = b"(redacted)";

/// Parameters whose values are secrets.
const SECRETS: [&str; 2] = ["requirepass", "masterauth"];

/// The argument as it may be shown: itself, or that there was a secret.
pub fn shown<'a>(spec: &Spec, args: &Args<'a>, at: usize) -> &'a [u8] {
    if is_secret(spec, args, at) { REDACTED } else { args.get(at) }
}

fn is_secret(spec: &Spec, args: &Args<'_>, at: usize) -> bool {
    match spec.name {
        "auth" => at > 0,
        "hello" => (at > 2 && args.is(at - 1, "AUTH")) || (at > 3 && args.is(at - 2, "AUTH")),
        "config|set" => at > 2 && at % 2 == 1 && SECRETS.iter().any(|name| args.is(at - 1, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup_full;
    use crate::protocol::resp::ArgsBuf;

    fn all_shown(name: &str, line: &str) -> String {
        let words = ArgsBuf::from_iter(line.split(' '));
        let spec = lookup_full(name.as_bytes()).expect("a command");
        let args = words.args();
        let shown = (0..args.len()).map(|at| String::from_utf8_lossy(shown(spec, &args, at)));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn secrets_are_not_shown_and_all_else_is() {
        for (name, line, expected) in [
            ("auth", "AUTH s", "AUTH (redacted)"),
            ("auth", "auth u s", "auth (redacted) (redacted)"),
            ("hello", "HELLO 3 auth u s SETNAME n", "HELLO 3 auth (redacted) (redacted) SETNAME n"),
            ("config|set", "CONFIG SET RequirePass s", "CONFIG SET RequirePass (redacted)"),
            ("config|set", "CONFIG SET loglevel requirepass", "CONFIG SET loglevel requirepass"),
            ("set", "SET auth s", "SET auth s"),
        ] {
            assert_eq!(all_shown(name, line), expected);
        }
    }
}
