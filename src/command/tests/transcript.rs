//! The grammar of transcripts: requests, replies, and what a judge has to know about them.
//!
//! The transcripts of `src/command/testdata` are played to the handlers alone, and to the whole
//! program beside a real Redis; those of `tests/it/exchanges` only the latter. Both judges read
//! them by this one grammar.
//!
//! ```text
//! # prose
//! ! fresh            no keys, a new connection; in RESP2, and live once more in RESP3
//! ! resp2, ! resp3   the same, in this version of the protocol only
//! ! single           as fresh, at a node of one core (live)
//! ! debug            as fresh, where DEBUG is enabled (live)
//! ! alone REASON     as fresh, in RESP2 and never beside Redis
//! ! password WORD    the same, RESP2, at a server with a password
//! ! clock +MS        time passes
//! ! on NAME          another connection from here on (live)
//! ~ REASON           the next reply differs from Redis's, and this is why
//! % REASON           the next reply has other numbers than Redis's
//! - REASON           the next request can not be judged beside Redis
//! > REQUEST          words, see [`words`]
//! >> BYTES           bytes as they are, escaped; none: only listen (live)
//! = EFFECT; EFFECT   absent when there is none; `Close`: the server closes
//! < REPLY            escaped; live all replies to the bytes
//! ```

/// One line of a transcript.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// For people.
    Prose,
    /// `!`: its word, and what follows it.
    Directive(&'a str, &'a str),
    /// A remark on the next exchange.
    Remark(Remark, &'a str),
    /// `>`
    Request(&'a str),
    /// `>>`
    Raw(&'a str),
    /// `=`
    Effects(&'a str),
    /// `<`
    Reply(&'a str),
}

/// How the next reply stands to Redis's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remark {
    /// It is the same.
    #[default]
    Same,
    /// It differs.
    Differs,
    /// It is the same but for its numbers.
    Numbers,
    /// It is not comparable.
    Apart,
}

impl<'a> Line<'a> {
    /// Reads a line.
    pub fn parse(line: &'a str) -> Self {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "" | "#" => Line::Prose,
            "!" => {
                let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                Line::Directive(word, rest)
            }
            "~" => Line::Remark(Remark::Differs, rest),
            "%" => Line::Remark(Remark::Numbers, rest),
            "-" => Line::Remark(Remark::Apart, rest),
            ">" => Line::Request(rest),
            ">>" => Line::Raw(rest),
            "=" => Line::Effects(rest),
            "<" => Line::Reply(rest),
            _ => panic!("what is {line:?}?"),
        }
    }
}

/// Words of a request line: blanks part them, quotes keep them together and take escapes.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut quoted, mut open) = (Vec::new(), Vec::new(), false, false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => (quoted, open) = (!quoted, true),
            b' ' if !quoted => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            b'\\' if quoted => word.push(escaped(&mut bytes)),
            other => {
                word.push(other);
                open = true;
            }
        }
    }
    if open {
        words.push(word);
    }
    words
}

/// The byte of an escape whose backslash is taken.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    match bytes.next().expect("an escape is whole") {
        b'r' => b'\r',
        b'n' => b'\n',
        b't' => b'\t',
        b'x' => {
            let digits: Vec<u8> = bytes.by_ref().take(2).collect();
            let digits = String::from_utf8(digits).expect("hex is ASCII");
            u8::from_str_radix(&digits, 16).expect("two hex digits")
        }
        other => other,
    }
}

/// Bytes as a line shows them.
pub fn escape(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'")
}
