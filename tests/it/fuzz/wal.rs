//! Fuzzes the replay of a log: no input makes it panic or run on, records come from sound blocks
//! alone, and a refusal names a place that is there.

use std::ops::Range;
use std::thread;

use stavekv::id::{Lsn, PartitionId, ShardId};
use stavekv::wal::format::{
    BLOCK_HEADER_LEN, BlockHeader, FIRST_CHAIN, SegmentHeader, encode_record, seal_header,
};
use stavekv::wal::walk::{Defect, walk_bytes};
use stavekv::wal::{LogId, Record, RecordKind};

use super::{Rng, few_input_numbers, offspring};

const SECTOR_LEN: usize = 4096;
const LOG: LogId = LogId { directory: 7, shard: ShardId(1) };

/// A log of two segments, in one piece: each is `SEGMENT_LEN` long.
const SEGMENT_LEN: usize = 5 * SECTOR_LEN;

/// Sound logs: whole, with a hole, with a hole that a later block proves, ended early by the second
/// segment.
fn corpus() -> Vec<Vec<u8>> {
    let (whole, _) = log(4, true);
    let mut hole = log(4, false).0;
    let mut proven = whole.clone();
    hole[2 * SECTOR_LEN..][..SECTOR_LEN].fill(0);
    proven[2 * SECTOR_LEN..][..SECTOR_LEN].fill(0);
    vec![whole, hole, proven, log(2, true).0]
}

/// A log whose first segment has `block_count` blocks, and where it ends.
fn log(block_count: u64, in_order: bool) -> (Vec<u8>, Lsn) {
    let (mut bytes, mut lsn, mut chain) = (Vec::new(), 0, FIRST_CHAIN);
    for seq in 1..=2 {
        let durable = if in_order { lsn } else { 0 };
        let header = SegmentHeader {
            log: LOG,
            seq,
            epoch: seq,
            nonce: 11 * seq,
            base: Lsn(lsn),
            durable: Lsn(durable),
            segment_len: SEGMENT_LEN as u64,
            chain,
            block_len_max: SECTOR_LEN as u32,
            in_flight_max: 2,
        };
        let mut segment = vec![0; SEGMENT_LEN];
        chain = header.encode(&mut segment);
        lsn += SECTOR_LEN as u64;
        for n in 0..if seq == 1 { block_count } else { 3 } {
            let block = &mut segment[(n as usize + 1) * SECTOR_LEN..];
            let payload = [n as u8; 700];
            let (partition, term, index) = (PartitionId(n as u32), seq, n);
            let kind = RecordKind::Entry;
            let record = Record { kind, partition, term, index, payload: &payload };
            let len = encode_record(&record, &mut block[BLOCK_HEADER_LEN..]);
            let header = BlockHeader {
                epoch: seq,
                lsn: Lsn(lsn),
                durable: Lsn(if in_order { lsn } else { 0 }),
                chain,
                payload_len: len,
                record_count: 1,
            };
            chain = header.seal(LOG.key(), block);
            lsn += SECTOR_LEN as u64;
        }
        bytes.extend_from_slice(&segment);
    }
    (bytes, Lsn(lsn))
}

/// Makes some of what the changes broke sound again, or nothing would get past a checksum.
fn reseal(rng: &mut Rng, input: &mut [u8]) {
    for start in (0..input.len().saturating_sub(SECTOR_LEN - 1)).step_by(SECTOR_LEN) {
        if rng.below(2) == 0 {
            continue;
        }
        if input[start + 8..].starts_with(b"STAVEWAL") {
            seal_header(&mut input[start..start + SECTOR_LEN]);
            continue;
        }
        let block = &mut input[start..];
        let field = |at: Range<usize>| {
            u64::from_le_bytes(block[at].try_into().expect("a field of eight bytes"))
        };
        let (payload_len, record_count) = (field(8..16) >> 32, field(16..24) as u32);
        let (epoch, lsn, durable, chain) =
            (field(24..32), field(32..40), field(40..48), field(48..56));
        if block[8..12] != *b"SBLK" || payload_len as usize > block.len() - BLOCK_HEADER_LEN {
            continue;
        }
        let header = BlockHeader {
            epoch,
            lsn: Lsn(lsn),
            durable: Lsn(durable),
            chain,
            payload_len: payload_len as usize,
            record_count,
        };
        if header.block_len() <= block.len() {
            header.seal(LOG.key(), block);
        }
    }
}

/// What came of the inputs, so that a run shows that it goes everywhere.
#[derive(Default, Debug)]
struct Tally {
    ended: u64,
    with_records: u64,
    corrupt: u64,
    malformed: u64,
    others: u64,
}

fn try_input(input: &[u8], seqs: [u64; 2], tally: &mut Tally) {
    let (first, second) = input.split_at(SEGMENT_LEN.min(input.len()));
    let mut delivered = 0;
    let result = walk_bytes(LOG, &[(seqs[0], first), (seqs[1], second)], None, |record| {
        delivered += record.payload.len() + 1;
        assert!(delivered <= input.len(), "more records than bytes");
    });
    match result {
        Ok(end) => {
            assert!(end.segment_count <= 2 && end.block_count as usize * SECTOR_LEN <= input.len());
            tally.ended += 1;
            tally.with_records += u64::from(end.record_count > 0);
        }
        Err(Defect::Corrupt { offset, end, durable, seq, .. }) => {
            assert!(offset as usize <= input.len() && seqs.contains(&seq) && end < durable);
            tally.corrupt += 1;
        }
        Err(Defect::Malformed { .. }) => tally.malformed += 1,
        Err(_) => tally.others += 1,
    }
}

fn run(numbers: Range<u64>) -> Tally {
    let (corpus, mut input, mut tally) = (corpus(), Vec::new(), Tally::default());
    for number in numbers {
        let mut rng = Rng::new(number);
        offspring(&corpus, &mut rng, &mut input);
        reseal(&mut rng, &mut input);
        let seqs = if rng.below(16) == 0 { [1, 1 + rng.below(3) as u64] } else { [1, 2] };
        try_input(&input, seqs, &mut tally);
    }
    tally
}

#[test]
fn sound_logs_are_read_and_proven_holes_refused() {
    let [whole, hole, proven, early] = corpus().try_into().expect("four logs");
    let read = |log: &[u8]| {
        let (first, second) = log.split_at(SEGMENT_LEN);
        walk_bytes(LOG, &[(1, first), (2, second)], None, |_| {}).map(|end| end.record_count)
    };

    assert_eq!((read(&whole), read(&hole), read(&early)), (Ok(7), Ok(1), Ok(5)));
    assert!(matches!(read(&proven), Err(Defect::Corrupt { seq: 1, offset: 8192, .. })));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the fuzzer itself uses all cores")]
fn no_input_breaks_the_replay() {
    let numbers = few_input_numbers();
    let cores = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = (numbers.end - numbers.start).div_ceil(cores);
    let total = thread::scope(|scope| {
        let runs: Vec<_> = (0..cores)
            .map(|core| {
                let first = (numbers.start + core * share).min(numbers.end);
                let numbers = first..(first + share).min(numbers.end);
                scope.spawn(move || run(numbers))
            })
            .collect();
        runs.into_iter().fold(Tally::default(), |total, run| {
            let tally = run.join().expect("no input breaks it");
            Tally {
                ended: total.ended + tally.ended,
                with_records: total.with_records + tally.with_records,
                corrupt: total.corrupt + tally.corrupt,
                malformed: total.malformed + tally.malformed,
                others: total.others + tally.others,
            }
        })
    });

    eprintln!("{total:?}");
    let is_short = numbers.end - numbers.start < 1_000;
    assert!(is_short || (total.with_records > 0 && total.corrupt > 0 && total.malformed > 0));
}
