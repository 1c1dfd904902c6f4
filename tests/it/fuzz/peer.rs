//! Fuzzes the decoder of the peer protocol.
//!
//! Nearly every change breaks a checksum and is refused there, so most inputs are mended: cut into
//! frames again, with lengths and checksums that hold and bodies as strange as before.

use std::ops::Range;

use stavekv::protocol::peer::{Body, Error, HEADER_LEN, Header, Kind, Parser, finish, start};

use super::{Rng, corpus, edit_field, input_numbers, offspring};

/// Longest body that the decoder takes here, bytes.
const BODY_LEN_MAX: usize = 64 << 10;

/// More than this beyond twice of what was sent is hoarding.
const HELD_LEN_MAX: usize = 1 << 20;

/// Appends `input` as frames whose lengths and checksums hold.
fn mend(mut input: &[u8], out: &mut Vec<u8>) {
    while let Some((head, rest)) = input.split_first_chunk::<HEADER_LEN>() {
        let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let (body, next) = rest.split_at(len.min(rest.len()));
        let at = start(out);
        out.extend_from_slice(body);
        let kind = Kind::of(head[5]).unwrap_or(Kind::Raft);
        finish(out, at, kind).expect("inputs are short");
        input = next;
    }
}

/// What the decoder makes of `stream`, cut into chunks of 1 to `chunk_len_max` bytes: the frames
/// and how it ended.
fn parse(
    stream: &[u8],
    rng: &mut Rng,
    chunk_len_max: usize,
) -> (Vec<(Kind, Vec<u8>)>, Option<Error>) {
    let (mut parser, mut frames, mut start) = (Parser::default(), Vec::new(), 0);
    while start < stream.len() {
        let left = stream.len() - start;
        let mut chunk = &stream[start..start + 1 + rng.below(chunk_len_max.min(left))];
        start += chunk.len();
        loop {
            match parser.next(&mut chunk, BODY_LEN_MAX) {
                Ok(Some(frame)) => frames.push((frame.kind, frame.body.to_vec())),
                Ok(None) => {
                    assert!(chunk.is_empty(), "{} bytes were left without reason", chunk.len());
                    break;
                }
                Err(error) => return (frames, Some(error)),
            }
        }
        let held = parser.buffered_len();
        assert!(held <= 2 * start + HELD_LEN_MAX, "{held} held after {start} bytes");
    }
    (frames, None)
}

/// Decodes all of a body; whether all of it makes sense.
fn decode(kind: Kind, body: &[u8]) -> bool {
    match Body::decode(kind, body) {
        Ok(Body::Raft(messages)) => {
            let mut sound = true;
            for message in messages {
                let Ok(received) = message else {
                    sound = false;
                    continue;
                };
                let len: usize = received.payloads().map(<[u8]>::len).sum();
                assert!(len == received.payload.len() && len <= body.len());
                let held = received.message.entries.len() + received.message.context.len();
                assert!(held <= body.len(), "{held} made of {} bytes", body.len());
            }
            sound
        }
        decoded => decoded.is_ok(),
    }
}

/// Tries the inputs with these numbers; how many frames, and how many of them decode.
fn fuzz(seeds: &[Vec<u8>], numbers: Range<u64>) -> (usize, usize) {
    let (mut input, mut mended) = (Vec::new(), Vec::new());
    let (mut count, mut decoded) = (0, 0);
    for number in numbers {
        let mut rng = Rng::new(number);
        offspring(seeds, &mut rng, &mut input);
        for _ in 0..rng.below(4) {
            edit_field(&mut rng, &mut input);
        }
        if rng.below(4) > 0 {
            mended.clear();
            mend(&input, &mut mended);
            std::mem::swap(&mut input, &mut mended);
        }
        let chunk_len_max = [1, 7, 33, 200][rng.below(4)].max(input.len() / 64);

        let whole = parse(&input, &mut rng, usize::MAX);
        let cut = parse(&input, &mut rng, chunk_len_max);

        let same = whole.0 == cut.0 && whole.1.is_some() == cut.1.is_some();
        assert!(same, "STAVE_FUZZ_INPUTS=1 STAVE_FUZZ_FIRST={number}: cut otherwise");
        count += whole.0.len();
        decoded += whole.0.iter().filter(|(kind, body)| decode(*kind, body)).count();
    }
    (count, decoded)
}

#[test]
fn no_input_harms_the_decoder() {
    let seeds = corpus("peer");
    assert!(seeds.len() >= 9 && seeds.iter().all(|seed| seed.len() >= HEADER_LEN));
    let head = seeds[0].first_chunk().expect("a header");
    assert!(Header::decode(head).is_ok(), "the corpus is of this version");
    let numbers = input_numbers();

    let (frames, decoded) = fuzz(&seeds, numbers.clone());

    println!("{} inputs, {frames} frames, {decoded} understood", numbers.end - numbers.start);
    assert!(decoded > 0 && decoded < frames, "{decoded} of {frames}: this tests one side alone");
}
