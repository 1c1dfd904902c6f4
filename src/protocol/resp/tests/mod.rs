//! Tests of the protocol: golden transcripts, properties, and the bounds that the parser promises.

mod bounds;
mod golden;
mod properties;

use super::{Batch, Error, Limits, Parser};

/// Commands with their arguments, and how the stream broke, if it did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    commands: Vec<Vec<Vec<u8>>>,
    error: Option<Error>,
}

/// Parses `stream`, cut at `cuts` (rising), as a server would: several chunks into one batch.
fn parse_cut(stream: &[u8], cuts: &[usize], limits: &Limits, frames_max: usize) -> Parsed {
    let (mut parser, mut batch, mut parsed) =
        (Parser::default(), Batch::default(), Parsed::default());
    let bounds: Vec<usize> =
        [0].into_iter().chain(cuts.iter().copied()).chain([stream.len()]).collect();
    let mut places = Vec::new();
    'stream: for bound in bounds.windows(2) {
        let mut chunk = &stream[bound[0]..bound[1]];
        while !chunk.is_empty() {
            let first = batch.frames().len();
            let result = parser.parse(chunk, limits, frames_max, &mut batch);
            places.extend((first..batch.frames().len()).map(|frame| (frame, chunk)));
            match result {
                Ok(used) => chunk = &chunk[used..],
                Err(error) => {
                    parsed.error = Some(error);
                    break 'stream;
                }
            }
        }
    }
    for (frame, chunk) in places {
        let args = batch.args(batch.frames()[frame], chunk);
        parsed.commands.push(args.iter().map(<[u8]>::to_vec).collect());
    }
    parsed
}

fn parse_whole(stream: &[u8], limits: &Limits) -> Parsed {
    parse_cut(stream, &[], limits, usize::MAX)
}

/// `args` as a client sends them.
fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}
