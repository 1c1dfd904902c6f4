//! Fuzzes the request parser: no input makes it panic, stall or hoard memory, and how the stream is
//! cut into chunks changes nothing.

use std::ops::Range;
use std::thread;

use stavekv::protocol::resp::{Batch, Error, Limits, Parser};

use super::{Rng, corpus, input_numbers, offspring};

/// More than this beyond twice of what was sent is hoarding.
const HELD_LEN_MAX: usize = 2 << 20;

/// As the length of chunks: all in one.
const WHOLE: usize = usize::MAX;

/// What one run over an input gave, in memory that is reused.
#[derive(Default)]
struct Run {
    batch: Batch,
    /// The arguments of all commands, each with its length before it.
    transcript: Vec<u8>,
    commands: usize,
}

impl Run {
    /// Parses `stream` in chunks of 1 to `chunk_len_max` bytes, up to `frames_max` commands a
    /// call.
    fn parse(
        &mut self,
        stream: &[u8],
        limits: &Limits,
        rng: &mut Rng,
        chunk_len_max: usize,
        frames_max: usize,
    ) -> Option<Error> {
        self.transcript.clear();
        self.commands = 0;
        let mut parser = Parser::default();
        let mut start = 0;
        while start < stream.len() {
            let left = stream.len() - start;
            let len =
                if chunk_len_max == WHOLE { left } else { 1 + rng.below(chunk_len_max.min(left)) };
            let mut chunk = &stream[start..start + len];
            start += len;
            while !chunk.is_empty() {
                let result = parser.parse(chunk, limits, frames_max, &mut self.batch);
                let parsed = self.batch.frames().len();
                self.note(chunk);
                let held = parser.buffered_len();
                assert!(held <= 2 * start + HELD_LEN_MAX, "{held} held after {start} bytes");
                let used = match result {
                    Ok(used) => used,
                    Err(error) => return Some(error),
                };
                assert!(used > 0, "no progress at {:?}", chunk.first());
                assert!(parsed <= frames_max, "{parsed} of at most {frames_max} frames");
                assert!(used == chunk.len() || parsed == frames_max, "left bytes without reason");
                chunk = &chunk[used..];
            }
        }
        None
    }

    fn note(&mut self, chunk: &[u8]) {
        for &frame in self.batch.frames() {
            let args = self.batch.args(frame, chunk);
            assert!(!args.is_empty(), "a command without a name");
            self.commands += 1;
            self.transcript.extend_from_slice(&args.len().to_le_bytes());
            for arg in args.iter() {
                self.transcript.extend_from_slice(&arg.len().to_le_bytes());
                self.transcript.extend_from_slice(arg);
            }
        }
        self.batch.clear();
    }
}

/// The limits of an input: mostly a client's, sometimes so small that the corpus meets them.
fn limits(rng: &mut Rng) -> Limits {
    match rng.below(4) {
        0 => Limits::unauthenticated(),
        1 => Limits { frame_len_max: 1 + rng.below(500), ..Limits::authenticated() },
        _ => Limits::authenticated(),
    }
}

/// Tries the inputs with these numbers; returns how many commands they had.
fn fuzz(seeds: &[Vec<u8>], numbers: Range<u64>) -> (usize, usize) {
    let (mut once, mut again, mut input) = (Run::default(), Run::default(), Vec::new());
    let (mut commands, mut errors) = (0, 0);
    for number in numbers {
        let mut rng = Rng::new(number);
        offspring(seeds, &mut rng, &mut input);
        let limits = limits(&mut rng);
        let chunk_len_max = [1, 3, 17, 200, 16 << 10][rng.below(5)];
        // Long inputs byte by byte would take all the time.
        let chunk_len_max = chunk_len_max.max(input.len() / 64);
        let frames_max = 1 + rng.below(4);

        let whole = once.parse(&input, &limits, &mut rng, WHOLE, usize::MAX);
        let cut = again.parse(&input, &limits, &mut rng, chunk_len_max, frames_max);

        let replay = || format!("replay with STAVE_FUZZ_INPUTS=1 STAVE_FUZZ_FIRST={number}");
        assert_eq!(whole, cut, "{}", replay());
        assert!(once.transcript == again.transcript, "other commands: {}", replay());
        commands += once.commands;
        errors += usize::from(whole.is_some());
    }
    (commands, errors)
}

#[test]
fn no_input_harms_the_parser() {
    let seeds = corpus("resp");
    let numbers = input_numbers();
    assert!(seeds.len() >= 30, "only {} seeds", seeds.len());
    let middle = numbers.start + (numbers.end - numbers.start) / 2;

    // Two cores are everywhere; a failure names its input, whichever thread met it.
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| fuzz(&seeds, numbers.start..middle));
        let second = fuzz(&seeds, middle..numbers.end);
        (first.join().expect("its panic names the input"), second)
    });

    let (commands, errors) = (first.0 + second.0, first.1 + second.1);
    println!("{} inputs, {commands} commands, {errors} broken", numbers.end - numbers.start);
}
