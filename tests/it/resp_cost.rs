//! What parsing a request costs.

use std::time::{Duration, Instant};

use stavekv::protocol::resp::{Batch, Limits, Parser};

const CHUNK_LEN: usize = 16 << 10;

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Parses the stream in chunks; returns how many commands it has and how long that took.
fn parse(stream: &[u8], chunk_len: usize, batch: &mut Batch) -> (usize, Duration) {
    let (mut parser, mut commands) = (Parser::default(), 0);
    let start = Instant::now();
    for chunk in stream.chunks(chunk_len) {
        parser.parse(chunk, &Limits::authenticated(), usize::MAX, batch).expect("plain commands");
        commands += batch.frames().len();
        batch.clear();
    }
    (commands, start.elapsed())
}

#[test]
fn many_keys_in_small_chunks_take_linear_time() {
    let time = |keys: usize, chunk_len| {
        let args: Vec<String> = (0..keys).map(|n| format!("key:{n:08}")).collect();
        let (commands, took) = parse(&encode(&args), chunk_len, &mut Batch::default());
        assert_eq!(commands, 1);
        took
    };

    for chunk_len in [1, 16] {
        time(1_000, chunk_len);
        let (few, many) = (time(10_000, chunk_len), time(100_000, chunk_len));
        // Quadratic would be a hundred times; ten is linear.
        assert!(many < few * 50, "10,000 keys took {few:?}, 100,000 took {many:?}");
    }
}

/// `cargo test --release --test it -- --ignored --nocapture cost_per_command`
#[test]
#[ignore = "a measurement; wants a release build and a quiet core"]
fn cost_per_command() {
    let value = "v".repeat(512);
    for (name, command) in [
        ("SET, key of 16, value of 32", encode(&["SET", "key:000000000001", &value[..32]])),
        ("SET, key of 16, value of 512", encode(&["SET", "key:000000000001", &value])),
        ("GET, key of 16", encode(&["GET", "key:000000000001"])),
        ("PING", encode(&["PING"])),
        ("PING inline", b"PING\r\n".to_vec()),
        ("PING inline, quoted", b"\"PING\"\r\n".to_vec()),
    ] {
        let stream = command.repeat((1 << 20) / command.len());
        let mut batch = Batch::default();
        for (cut, chunk_len) in [
            ("64 per chunk", command.len() * 64),
            ("16 KiB chunks", CHUNK_LEN),
            ("cut in two", command.len() / 2 + 1),
        ] {
            let best = (0..100)
                .map(|_| parse(&stream, chunk_len, &mut batch))
                .map(|(commands, took)| took.as_nanos() as f64 / commands as f64)
                .fold(f64::MAX, f64::min);
            println!("{name}, {cut}: {best:.1} ns per command");
        }
    }
}
