//! Properties: the cut of the stream does not matter, and a model that sees it whole agrees.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{ArgsBuf, Error, Limits, inline};
use super::{Parsed, encode, parse_cut, parse_whole};
use crate::limits::{ARGS_MAX, INLINE_LEN_MAX, LARGE_LEN_MIN, VALUE_LEN_MAX};

/// The simplest parser that could be right: sees the whole stream, has no state, copies all.
fn model(stream: &[u8], limits: &Limits) -> Parsed {
    let mut parsed = Parsed::default();
    let mut rest = stream;
    while !rest.is_empty() {
        match model_frame(&mut rest, limits) {
            Ok(Some(args)) if args.is_empty() => {}
            Ok(Some(args)) => parsed.commands.push(args),
            Ok(None) => break,
            Err(error) => {
                parsed.error = Some(error);
                break;
            }
        }
    }
    parsed
}

fn model_frame(rest: &mut &[u8], limits: &Limits) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let frame_start = rest.len();
    if rest[0] != b'*' {
        let Some(line) = model_line(rest, b'\n', 1, Error::InlineTooLong)? else { return Ok(None) };
        let mut spans = Vec::new();
        let words = inline::split_quoted(line, &mut spans)?;
        let args = super::super::Args::new(&words, &spans, &[]);
        return Ok(Some(args.iter().map(<[u8]>::to_vec).collect()));
    }
    let Some(line) = model_line(rest, b'\r', 2, Error::ArgsCountTooLong)? else { return Ok(None) };
    let count = model_number(&line[1..]).ok_or(Error::InvalidArgsCount)?;
    if count > ARGS_MAX as i64 {
        return Err(Error::InvalidArgsCount);
    }
    let mut args = Vec::new();
    for _ in 0..count.max(0) {
        let Some(line) = model_line(rest, b'\r', 2, Error::BulkLenTooLong)? else {
            return Ok(None);
        };
        let got = line.first().copied().unwrap_or(b'\r');
        if got != b'$' {
            return Err(Error::ExpectedBulk { got });
        }
        let len = model_number(&line[1..]).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| *len <= VALUE_LEN_MAX).ok_or(Error::InvalidBulkLen)?;
        if frame_start - rest.len() + len > limits.frame_len_max {
            return Err(Error::FrameTooLong);
        }
        if rest.len() < len + 2 {
            return Ok(None);
        }
        args.push(rest[..len].to_vec());
        *rest = &rest[len + 2..];
    }
    Ok(Some(args))
}

fn model_line<'a>(
    rest: &mut &'a [u8],
    last: u8,
    last_len: usize,
    too_long: Error,
) -> Result<Option<&'a [u8]>, Error> {
    let end = rest.iter().position(|&b| b == last);
    if end.unwrap_or(rest.len()) > INLINE_LEN_MAX {
        return Err(too_long);
    }
    let Some(end) = end.filter(|end| end + last_len <= rest.len()) else { return Ok(None) };
    let line = &rest[..end];
    *rest = &rest[end + last_len..];
    Ok(Some(line))
}

/// A number is what prints as it was written.
fn model_number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

fn arg() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..12),
        4 => vec(any::<u8>(), 90..130),
        1 => (0..LARGE_LEN_MIN + 3000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (LARGE_LEN_MIN - 2..LARGE_LEN_MIN + 2).prop_map(|len| vec![b'\r'; len]),
    ]
}

/// Frames and near-frames, glued.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => vec(arg(), 1..6).prop_map(|args| encode(&args)),
        2 => "[A-Za-z \"'\\\\]{0,20}\r?\n".prop_map(String::into_bytes),
        1 => "[*$][-0-9]{0,3}\r?\n?".prop_map(String::into_bytes),
        1 => "(\\*1\r\n|\\*2\r\n\\$1\r\na\r\n)[$+a-z][-0-9]{0,7}\r\n".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// A stream, and where to cut it: places near the start and near each other matter most.
fn stream_and_cuts() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    stream().prop_flat_map(|stream| {
        let len = stream.len();
        let near = vec(0..=len.min(200), 0..12);
        let far = vec(0..=len, 0..6);
        (Just(stream), near, far).prop_map(|(stream, near, far)| {
            let mut cuts = [near, far].concat();
            cuts.sort_unstable();
            (stream, cuts)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn cut_stream_gives_what_the_model_says(
        (stream, cuts) in stream_and_cuts(),
        frames_max in 1usize..5,
        frame_len_max in prop_oneof![3 => Just(1usize << 30), 1 => 1usize..300],
    ) {
        let limits = Limits { frame_len_max, ..Limits::authenticated() };
        let expected = model(&stream, &limits);

        prop_assert!(parse_whole(&stream, &limits) == expected);
        prop_assert!(parse_cut(&stream, &cuts, &limits, frames_max) == expected);
    }

    #[test]
    fn stream_of_single_bytes_gives_what_the_model_says(pieces in vec(vec(arg(), 1..4), 0..3)) {
        let mut stream: Vec<u8> = pieces.iter().flat_map(|args| encode(args)).collect();
        stream.truncate(20_000);
        let cuts: Vec<usize> = (1..stream.len()).collect();
        let limits = Limits::authenticated();

        prop_assert!(parse_cut(&stream, &cuts, &limits, 9) == model(&stream, &limits));
    }

    #[test]
    fn encoded_arguments_are_read_back(commands in vec(vec(arg(), 1..8), 0..8)) {
        let stream: Vec<u8> = commands.iter().flat_map(|args| encode(args)).collect();

        let parsed = parse_whole(&stream, &Limits::authenticated());

        let expected = Parsed { commands, error: None };
        prop_assert!(parsed == expected);
    }

    #[test]
    fn copied_arguments_are_the_same(args in vec(arg(), 0..8)) {
        let buf: ArgsBuf = args.iter().collect();

        prop_assert!(buf.args().to_buf().args().iter().eq(args.iter().map(Vec::as_slice)));
    }

    #[test]
    fn words_without_quotes_are_split_alike(line in "[a-c \t\r\x0b\x0c]{0,24}") {
        let (mut plain, mut quoted) = (Vec::new(), Vec::new());

        prop_assert!(inline::split_plain(line.as_bytes(), 0, &mut plain));
        let words = inline::split_quoted(line.as_bytes(), &mut quoted).expect("no quotes");

        let plain = super::super::Args::new(line.as_bytes(), &plain, &[]);
        let quoted = super::super::Args::new(&words, &quoted, &[]);
        prop_assert!(plain.iter().eq(quoted.iter()));
    }
}
