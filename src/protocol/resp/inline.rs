//! Inline commands: a line of words, as typed into `nc`. Quoting is that of Redis `sdssplitargs`.

use super::{Error, Span};

/// Splits a line without quotes: appends the words' places in it, `bias` added. False, and nothing
/// appended, if the line has a quote.
pub(super) fn split_plain(line: &[u8], bias: usize, spans: &mut Vec<Span>) -> bool {
    if line.iter().any(|&b| b == b'"' || b == b'\'') {
        return false;
    }
    let mut at = 0;
    while let Some(start) = word_start(line, at) {
        let len = line[start..].iter().position(|&b| ends_word(b)).unwrap_or(line.len() - start);
        spans.push(Span::new(bias + start, len));
        at = start + len;
    }
    true
}

/// Splits a line that may have quotes: returns the words' bytes, one after the other, and appends
/// their places in these.
pub(super) fn split_quoted(line: &[u8], spans: &mut Vec<Span>) -> Result<Vec<u8>, Error> {
    let mut words = Vec::with_capacity(line.len());
    let mut at = 0;
    while let Some(start) = word_start(line, at) {
        let word_start = words.len();
        at = take_word(line, start, &mut words)?;
        spans.push(Span::new(word_start, words.len() - word_start));
    }
    Ok(words)
}

/// Appends the word that starts at `at` to `words`; returns where it ends in the line.
fn take_word(line: &[u8], mut at: usize, words: &mut Vec<u8>) -> Result<usize, Error> {
    while at < line.len() && !ends_word(line[at]) {
        let byte = line[at];
        at += 1;
        let end = match byte {
            b'"' => take_double_quoted(line, at, words)?,
            b'\'' => take_single_quoted(line, at, words)?,
            _ => {
                words.push(byte);
                continue;
            }
        };
        // As Redis: what follows a closing quote is white space or the line's end.
        return match line.get(end) {
            Some(&b) if !is_space(b) => Err(Error::UnbalancedQuotes),
            _ => Ok(end),
        };
    }
    Ok(at)
}

/// From after the opening `"`; returns the place after the closing one.
fn take_double_quoted(line: &[u8], mut at: usize, words: &mut Vec<u8>) -> Result<usize, Error> {
    loop {
        let (byte, len) = match &line[at..] {
            [b'"', ..] => return Ok(at + 1),
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), 4)
            }
            [b'\\', escaped, ..] => (unescape(*escaped), 2),
            [byte, ..] => (*byte, 1),
            [] => return Err(Error::UnbalancedQuotes),
        };
        words.push(byte);
        at += len;
    }
}

/// From after the opening `'`; returns the place after the closing one.
fn take_single_quoted(line: &[u8], mut at: usize, words: &mut Vec<u8>) -> Result<usize, Error> {
    loop {
        let (byte, len) = match &line[at..] {
            [b'\'', ..] => return Ok(at + 1),
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (*byte, 1),
            [] => return Err(Error::UnbalancedQuotes),
        };
        words.push(byte);
        at += len;
    }
}

fn word_start(line: &[u8], at: usize) -> Option<usize> {
    line[at..].iter().position(|&b| !is_space(b)).map(|skipped| at + skipped)
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Fewer than `is_space`: in Redis a vertical tab or a form feed within a word belongs to it.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
