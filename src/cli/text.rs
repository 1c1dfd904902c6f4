//! Bytes as people and programs read them: a word that can be typed again, and JSON.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// `bytes` as a word: as they are if they read as one, else in double quotes with escapes, as the
/// repl and inline commands take them back.
pub(super) fn word(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_plain(text) => Cow::Borrowed(text),
        _ => Cow::Owned(quote(bytes)),
    }
}

fn is_plain(text: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "\"'\\".contains(c);
    !text.is_empty() && !text.contains(is_odd)
}

fn quote(bytes: &[u8]) -> String {
    let mut out = String::from('"');
    let hex = |out: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(out, "\\x{byte:02x}").expect("a string takes all");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        hex(&mut out, chunk.invalid());
    }
    out.push('"');
    out
}

/// Bytes in JSON: a string, or `{"base64": "..."}` if they are no UTF-8.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &base64(self.0))?;
        map.end()
    }
}

/// A version in JSON: a string, since many readers of JSON take numbers for floats.
pub(super) fn version<S: Serializer>(version: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// RFC 4648, section 4, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::repl::words;

    #[test]
    fn plain_words_stay_plain() {
        assert_eq!(word(b"user:1"), "user:1");
        assert_eq!(word("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(word(b""), "\"\"");
        assert_eq!(word(b"a b\0\xff\"\n"), "\"a b\\x00\\xff\\\"\\n\"");
    }

    proptest! {
        #[test]
        fn a_shown_word_can_be_typed_again(bytes: Vec<u8>) {
            let line = format!("get {}", word(&bytes));

            let words = words(&line).expect("the quotes are balanced");

            prop_assert_eq!(words, [b"get".to_vec(), bytes]);
        }
    }

    #[test]
    fn bytes_in_json_lose_nothing() {
        let json =
            |bytes: &[u8]| serde_json::to_string(&Bytes(bytes)).expect("no map with odd keys");

        assert_eq!(json(b"a\"\n\0"), r#""a\"\n\u0000""#);
        assert_eq!(json(b"\xff\0"), r#"{"base64":"/wA="}"#);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(str::as_bytes);

        let encoded = vectors.map(base64);

        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(encoded, expected);
    }
}
