//! The parser's promises on memory and time.

use std::sync::Arc;

use super::super::{Batch, Error, Limits, Parser};
use super::{encode, parse_cut};
use crate::limits::LARGE_LEN_MIN;

const LIMITS: Limits = Limits::authenticated();

#[test]
fn idle_parser_holds_nothing() {
    let (mut parser, mut batch) = (Parser::default(), Batch::default());

    let used = parser.parse(b"PING\r\n*1\r\n$4\r\nPI", &LIMITS, 9, &mut batch);
    assert_eq!(used, Ok(16));
    assert!(parser.buffered_len() > 0, "half a frame is held");

    let used = parser.parse(b"NG\r\nPING\r\n", &LIMITS, 9, &mut batch);
    assert_eq!(used, Ok(10));
    assert_eq!((batch.frames().len(), parser.buffered_len()), (3, 0));
    assert!(size_of::<Parser>() <= 16, "an idle parser of {} bytes", size_of::<Parser>());
}

#[test]
fn whole_frames_are_borrowed_from_the_chunk() {
    let chunk = [encode(&["SET", "key", "value"]), b"GET key\r\n".to_vec()].concat();
    let mut batch = Batch::default();

    let used = Parser::default().parse(&chunk, &LIMITS, 9, &mut batch);

    assert_eq!(used, Ok(chunk.len()));
    for &frame in batch.frames() {
        for arg in batch.args(frame, &chunk).iter() {
            assert!(chunk.as_ptr_range().contains(&arg.as_ptr()), "copied {arg:?}");
        }
    }
}

#[test]
fn stops_after_as_many_frames_as_asked_for() {
    let chunk = b"PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n";
    let (mut parser, mut batch) = (Parser::default(), Batch::default());

    assert_eq!(parser.parse(chunk, &LIMITS, 1, &mut batch), Ok(6));
    assert_eq!(parser.parse(&chunk[6..], &LIMITS, 1, &mut batch), Ok(14));
    assert_eq!(batch.frames().len(), 2);
}

#[test]
fn broken_stream_stays_broken() {
    let (mut parser, mut batch) = (Parser::default(), Batch::default());

    for chunk in [b"PING\r\n*x\r\n".as_slice(), b"PING\r\n"] {
        let result = parser.parse(chunk, &LIMITS, 9, &mut batch);
        assert_eq!(result, Err(Error::InvalidArgsCount));
    }
    assert_eq!((batch.frames().len(), parser.buffered_len()), (1, 0));
}

#[test]
fn frames_of_several_chunks_wait_in_one_batch() {
    let streams: Vec<Vec<u8>> = (0..20).map(|n| encode(&["GET", &format!("key{n}")])).collect();
    let (mut parser, mut batch) = (Parser::default(), Batch::default());

    for stream in &streams {
        let (first, second) = stream.split_at(9);
        parser.parse(first, &LIMITS, 9, &mut batch).expect("half a frame");
        parser.parse(second, &LIMITS, 9, &mut batch).expect("the other half");
    }

    for (n, &frame) in batch.frames().iter().enumerate() {
        assert_eq!(batch.args(frame, b"").get(1), format!("key{n}").as_bytes());
    }
    assert_eq!(batch.frames().len(), 20);
}

#[test]
fn large_arguments_are_shared_and_reserved_lazily() {
    let len = 8 << 20;
    let stream = encode(&[b"MSET".as_slice(), b"k", &vec![b'x'; len], &[b'y'; LARGE_LEN_MIN]]);
    let (mut parser, mut batch) = (Parser::default(), Batch::default());
    parser.parse(b"*1\r\n$65536\r\n", &LIMITS, 9, &mut batch).expect("a header");
    parser.parse(&[b'z'; LARGE_LEN_MIN + 2], &LIMITS, 9, &mut batch).expect("a value");

    let mut arrived = 0;
    for chunk in stream.chunks(16 << 10) {
        arrived += chunk.len();
        parser.parse(chunk, &LIMITS, 9, &mut batch).expect("a piece of a frame");
        let held = parser.buffered_len();
        assert!(held <= (2 * arrived).max(1 << 20) + 1024, "{held} held for {arrived}");
    }

    let args = batch.args(batch.frames()[1], b"");
    let shared: Vec<usize> =
        (0..args.len()).map(|arg| args.shared(arg).map_or(0, |value| value.capacity())).collect();
    assert_eq!(shared, [0, 0, len, LARGE_LEN_MIN], "no more held than the values");
    assert!(args.get(2).iter().all(|&b| b == b'x') && args.get(3)[0] == b'y');
    let kept = Arc::clone(args.shared(2).expect("it is large"));
    batch.clear();
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[test]
fn announced_arguments_cost_nothing_before_they_come() {
    let (mut parser, mut batch) = (Parser::default(), Batch::default());

    parser.parse(b"*1048576\r\n$4\r\nMGET\r\n", &LIMITS, 9, &mut batch).expect("a start");

    assert!(parser.buffered_len() < 1024, "{} bytes held", parser.buffered_len());
}

#[test]
fn frame_over_its_limit_is_refused_when_announced() {
    let limits = Limits { frame_len_max: 100_000, ..LIMITS };
    let mut head = encode(&["SET".to_owned(), "x".repeat(70_000)]);
    head[1] = b'3';
    let left = limits.frame_len_max - head.len() - "$29969\r\n".len();
    let announce = |len: usize| [head.clone(), format!("${len}\r\n").into_bytes()].concat();

    let within = parse_cut(&announce(left), &[9], &limits, 9);
    let over = parse_cut(&announce(left + 1), &[9], &limits, 9);

    assert_eq!((within.error, over.error), (None, Some(Error::FrameTooLong)));
}

#[test]
fn args_are_shown_shortened() {
    let args: super::super::ArgsBuf = ["SET", "\r\n", &"x".repeat(100)].into_iter().collect();

    assert_eq!(format!("{args:?}"), format!("[\"SET\", \"\\r\\n\", \"{}\"...]", "x".repeat(64)));
}
