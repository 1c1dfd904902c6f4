//! How settings are written: sizes, times, log levels, TOML, and names that are nearly right.

use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::Error;

/// Bytes of a size such as `512MiB`, `100mb`, `1g` or `4096`. Letters mean powers of 1024 in any
/// case, with or without `B` or `iB`: memory is never meant otherwise.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Units of time, in milliseconds.
const TIMES: [(u64, &str); 5] =
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];

/// A length of time: `500ms`, `30s`, `5m`, `2h`, `7d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = if unit.is_empty() { "s" } else { unit };
    let (unit_ms, _) = TIMES.iter().find(|(_, name)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*unit_ms).map(Duration::from_millis)
}

/// The shortest exact way to write one; [`parse_duration`] reads it.
pub(super) fn show_duration(time: Duration) -> String {
    let ms = time.as_millis() as u64;
    match TIMES.iter().find(|(unit_ms, _)| ms != 0 && ms.is_multiple_of(*unit_ms)) {
        Some((unit_ms, unit)) => format!("{}{unit}", ms / unit_ms),
        None => "0s".to_owned(),
    }
}

/// The shortest exact way to write `bytes`; [`parse_size`] reads it.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Whether `text` is a level, or directives `level,module=level,...`.
pub fn is_log_level(text: &str) -> bool {
    let is_level =
        |level: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
    text.split(',').all(|directive| match directive.split_once('=') {
        Some((module, level)) => !module.is_empty() && is_level(level),
        None => is_level(directive),
    })
}

/// `text` as a TOML string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Strings without their quotes, all else as in the file.
    pub(super) value: String,
    /// From 1.
    pub(super) line: usize,
}

/// Reads a flat TOML file, in its own order.
///
/// # Errors
/// [`Error::Syntax`]: not TOML, or a value that is neither string, integer nor boolean. The text of
/// the line is not quoted: it may hold a password.
pub(super) fn read_toml(path: &Path, text: &str) -> Result<Vec<Entry>, Error> {
    let line_of = |at: usize| 1 + text[..at].bytes().filter(|byte| *byte == b'\n').count();
    let syntax = |at: usize, message: &str| Error::Syntax {
        path: path.to_owned(),
        line: line_of(at),
        message: message.to_owned(),
    };
    let table = DeTable::parse(text)
        .map_err(|error| syntax(error.span().map_or(0, |span| span.start), error.message()))?;
    let entries = table.get_ref().iter().map(|(name, value)| {
        let at = name.span().start;
        let shown = match value.get_ref() {
            DeValue::String(string) => string.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            DeValue::Boolean(boolean) => boolean.to_string(),
            _ => {
                let message = format!("{}: expected a string, number or boolean", name.get_ref());
                return Err(syntax(at, &message));
            }
        };
        Ok(Entry { name: name.get_ref().to_string(), value: shown, line: line_of(at) })
    });
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// The place in `known` of the name most like `name`, if one is like it at all: a third of the
/// letters may differ, or the dashes.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<usize> {
    let letters = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], "");
    let name = letters(name);
    known
        .map(|known| distance(name.as_bytes(), letters(known).as_bytes()))
        .enumerate()
        .min_by_key(|(_, distance)| *distance)
        .filter(|(_, distance)| *distance <= name.len() / 3)
        .map(|(at, _)| at)
}

/// Levenshtein's: insertions, deletions and replacements that make `a` out of `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let sizes = ["4096", "512MiB", "100mb", "1g", "2 KB", "3T"].map(parse_size);

        let expected = [4096, 512 << 20, 100 << 20, 1 << 30, 2048, 3 << 40];
        assert_eq!(sizes, expected.map(Some));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "12q", "-1", "1.5g", "99999999999999t", "0x10"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn shown_sizes_are_exact() {
        for bytes in [0, 1, 1023, 1024, 1536, 64 << 20, (64 << 20) + 1, 5 << 30, 7 << 40] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!(show_size(1536 << 20), "1536MiB");
    }

    #[test]
    fn levels_are_known_words() {
        for good in ["info", "off", "warn,stavekv::wal=trace"] {
            assert!(is_log_level(good), "{good}");
        }
        for bad in ["", "inof", "INFO", "info,", "=info", "stavekv=loud"] {
            assert!(!is_log_level(bad), "{bad}");
        }
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let known = || ["data-dir", "memory", "bind"].into_iter();

        assert_eq!(nearest("datadir", known()), Some(0));
        assert_eq!(nearest("data_dirs", known()), Some(0));
        assert_eq!(nearest("mempry", known()), Some(1));
        assert_eq!(nearest("colour", known()), None);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"same", b"same"), 0);
    }
}
