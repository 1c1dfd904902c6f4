//! A recorded history of a real cluster's clients, read from a file and checked: what
//! `tools/cluster-crash` writes.
//!
//! Each line is a JSON object: `key`, `client`, `called` (nanoseconds of one clock), and `put` with
//! the number that was written, or nothing of it: a read. What was answered has `returned`, and a
//! read `value`: the number that was found, null for none. A call without `returned` may have had
//! an effect at any later time.

use std::io::{self, BufRead};

use serde::Deserialize;

use crate::sim::checker::{Answer, History, Op};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    client: u32,
    called: u64,
    put: Option<i64>,
    returned: Option<u64>,
    value: Option<i64>,
}

/// Reads a history and checks every key: how many calls there were, and how many were answered.
///
/// # Errors
/// What can not be read, as [`io::ErrorKind::InvalidData`] with the line's number; or, inside, the
/// first key that no order explains.
pub(super) fn check(lines: impl BufRead) -> io::Result<Result<(usize, usize), String>> {
    let mut history = History::default();
    for (number, line) in (1..).zip(lines.lines()) {
        let Line { key, client, called, put, returned, value } = serde_json::from_str(&line?)
            .map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {number}: {error}"))
            })?;
        let op = put.map_or(Op::Get, Op::Put);
        let answer = put.map_or(Answer::Value(value), |_| Answer::Done);
        let id = history.called(client, &key, op, called);
        if let Some(at) = returned {
            history.returned(id, answer, at);
        }
    }
    let verdict = history.check();
    Ok(verdict.map(|_| history.counts()).map_err(|violation| violation.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = r#"{"key":"a","client":1,"called":1,"put":7,"returned":2}"#;

    #[test]
    fn a_stale_read_is_found_and_an_open_write_may_be_seen_or_not() {
        let open = r#"{"key":"a","client":2,"called":3,"put":8}"#;
        let read = |value: &str| {
            format!(r#"{{"key":"a","client":1,"called":5,"returned":6,"value":{value}}}"#)
        };
        for value in ["7", "8"] {
            let text = [WRITTEN, open, &read(value)].join("\n");
            assert_eq!(check(text.as_bytes()).expect("it can be read"), Ok((3, 2)));
        }
        let stale = check([WRITTEN, open, &read("null")].join("\n").as_bytes());
        assert!(stale.expect("it can be read").is_err_and(|text| text.contains("no order")));
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number() {
        let error = check([WRITTEN, "{}"].join("\n").as_bytes()).expect_err("there is no key");
        assert!(error.to_string().starts_with("line 2"), "{error}");
    }
}
