//! The format: what it says byte by byte, and that it comes back.

use proptest::prelude::*;

use super::super::walk::{Defect, End, Found, Met, Walker, walk_bytes};
use super::*;
use crate::wal::format::*;

const LOG: LogId =
    LogId { directory: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100, shard: ShardId(3) };

/// A segment in memory.
struct Image {
    bytes: Vec<u8>,
    header: SegmentHeader,
    chain: u64,
}

impl Image {
    fn new(seq: u64, base: Lsn, chain: u64, durable: Lsn) -> Self {
        let header = SegmentHeader {
            log: LOG,
            seq,
            epoch: 2,
            nonce: 0x1122_3344_5566_7788 + seq,
            base,
            durable,
            segment_len: 32 * SECTOR,
            chain,
            block_len_max: 4 << 12,
            in_flight_max: 3,
        };
        let mut bytes = vec![0; SECTOR_LEN];
        let chain = header.encode(&mut bytes);
        Self { bytes, header, chain }
    }

    fn end(&self) -> Lsn {
        Lsn(self.header.base.0 + self.bytes.len() as u64)
    }

    fn push(&mut self, records: &[Owned], durable: Lsn) {
        let mut block = vec![0; BLOCK_LEN_MAX];
        let mut len = BLOCK_HEADER_LEN;
        for record in records {
            len += encode_record(&record.record(), &mut block[len..]);
        }
        let header = BlockHeader {
            epoch: self.header.epoch,
            lsn: self.end(),
            durable,
            chain: self.chain,
            payload_len: len - BLOCK_HEADER_LEN,
            record_count: records.len() as u32,
        };
        self.chain = header.seal(LOG.key(), &mut block);
        self.bytes.extend_from_slice(&block[..header.block_len()]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.header.segment_len as usize, 0);
        self.bytes
    }
}

fn walk(segments: &[(u64, &[u8])]) -> (Vec<Owned>, Result<End, Defect>) {
    let mut records = Vec::new();
    let result = walk_bytes(LOG, segments, None, |record| records.push(Owned::of(record)));
    (records, result)
}

/// Lines of 16 bytes, those of zeroes left out.
fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|b| *b != 0));
    let line = |(n, line): (usize, &[u8])| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:06x}: {}\n", n * 16, hex.join(" "))
    };
    lines.map(line).collect()
}

/// The bytes of a dump.
fn undump(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; 32 * SECTOR_LEN];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (at, hex) = line.split_once(": ").expect("an offset");
        let at = usize::from_str_radix(at, 16).expect("a number");
        for (byte, hex) in bytes[at..].iter_mut().zip(hex.split(' ')) {
            *byte = u8::from_str_radix(hex, 16).expect("a number");
        }
    }
    bytes
}

fn golden_records() -> [Owned; 3] {
    let record = |kind, payload: &[u8]| Owned {
        kind,
        partition: PartitionId(0xa1a2_a3a4),
        term: 0xb1b2_b3b4_b5b6_b7b8,
        index: 0xc1c2_c3c4_c5c6_c7c8,
        payload: payload.to_vec(),
    };
    [
        record(RecordKind::Entry, b"entry"),
        record(RecordKind::HardState, b""),
        record(RecordKind::Blob, b"piece"),
    ]
}

/// Kept for ever: what a version wrote must be read by every later program.
#[test]
fn every_version_is_read() {
    for (golden, in_flight_max) in [
        (include_str!("../testdata/segment_v1.txt"), 8),
        (include_str!("../testdata/segment_v2.txt"), 3),
    ] {
        let bytes = undump(golden);
        let (header, _) = SegmentHeader::decode(&bytes).expect("a header");
        let mut records = Vec::new();
        let found = Found::new(LOG, 7, bytes.len() as u64, &bytes).expect("of this log");

        let mut walker = Walker::new(LOG, vec![found], header.base, None).expect("its first");
        while let Some((_, offset)) = walker.wants() {
            let on_met = &mut |met: Met<'_>| {
                if let Met::Record(record) = met {
                    records.push(Owned::of(record));
                }
            };
            walker.feed(&bytes[offset as usize..], true, on_met).expect("nothing is wrong");
        }

        assert_eq!(records, golden_records());
        assert_eq!((walker.end().block_count, header.in_flight_max), (2, in_flight_max));
    }
}

#[test]
fn version_2_is_as_it_was() {
    let mut image = Image::new(7, Lsn(0x1234_5000), 0xd1d2_d3d4_d5d6_d7d8, Lsn(0x1234_3000));
    let records = golden_records();
    image.push(&records[..2], Lsn(0x1234_4000));
    image.push(&records[2..], Lsn(0x1234_5000));

    let text = dump(&image.finish());

    let golden = include_str!("../testdata/segment_v2.txt");
    let golden: String = golden
        .lines()
        .filter(|l| !l.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(text == golden, "a segment of version 2 is now\n{text}");
}

#[test]
fn later_proof_makes_a_hole_corruption_and_none_makes_it_the_end() {
    let record = |n| [Owned::numbered(n, 50)];
    for (proof, is_corrupt) in [(1, false), (2, false), (3, true)] {
        let mut image = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
        image.push(&record(0), Lsn(SECTOR));
        image.push(&record(1), Lsn(SECTOR));
        image.push(&record(2), Lsn(proof * SECTOR));
        let mut bytes = image.finish();
        bytes[2 * SECTOR_LEN + 60] ^= 3;

        let (records, result) = walk(&[(1, &bytes)]);

        assert_eq!(records, record(0));
        match result {
            Ok(end) => assert!(!is_corrupt && end.lsn == Lsn(2 * SECTOR), "{end:?}"),
            Err(defect) => {
                assert!(is_corrupt, "{defect:?}");
                assert_eq!(
                    defect,
                    Defect::Corrupt {
                        what: "block",
                        seq: 1,
                        offset: 2 * SECTOR,
                        end: Lsn(2 * SECTOR),
                        durable: Lsn(3 * SECTOR),
                    }
                );
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_the_last_block_is_told_from_a_torn_one() {
    for payload_len in [0, 1, 700, 3_000, 7_000] {
        let mut image = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
        image.push(&[Owned::numbered(0, 50)], Lsn(SECTOR));
        image.push(&[Owned::numbered(1, payload_len)], Lsn(SECTOR));
        let end = image.bytes.len() as u64;
        let sound = image.finish();
        let covered = BLOCK_HEADER_LEN + RECORD_HEADER_LEN + payload_len;

        for at in (0..covered).step_by(1 + covered / 97) {
            let mut bytes = sound.clone();
            bytes[2 * SECTOR_LEN + at] ^= 1 << (at % 8);
            let (_, result) = walk(&[(1, &bytes)]);
            let flipped = Defect::Flipped { what: "block", seq: 1, offset: 2 * SECTOR };
            assert_eq!(result, Err(flipped), "byte {at} of {covered}");
        }
        for torn in (2 * SECTOR_LEN..end as usize).step_by(512) {
            let mut bytes = sound.clone();
            bytes[torn..torn + 512].fill(0);
            let (records, result) = walk(&[(1, &bytes)]);
            let is_padding = torn >= 2 * SECTOR_LEN + covered;
            assert_eq!(records.len(), 1 + usize::from(is_padding), "{torn}: {result:?}");
            assert!(result.is_ok(), "{torn}: {result:?}");
        }
    }
}

#[test]
fn a_flipped_bit_of_the_last_header_is_told_from_none() {
    let mut first = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
    first.push(&[Owned::numbered(0, 10)], Lsn(0));
    let (end, chain) = (first.end(), first.chain);
    let mut second = Image::new(2, end, chain, Lsn(0));
    second.push(&[Owned::numbered(1, 10)], Lsn(0));
    let (first, second) = (first.finish(), second.finish());

    for at in [0, 9, 17, 30, 60, 100, 103, 104, 4_000] {
        let mut second = second.clone();
        second[at] ^= 4;
        let (_, result) = walk(&[(1, &first), (2, &second)]);
        let flipped = Defect::Flipped { what: "segment header", seq: 2, offset: 0 };
        assert_eq!(result, Err(flipped), "byte {at}");
    }
    let (_, result) = walk(&[(1, &first), (2, &vec![0; second.len()])]);
    assert_eq!(result.map(|end| end.lsn), Ok(end));
}

/// A recovery ended within the first segment: what stands behind that point is void, sound or not.
#[test]
fn next_segment_begins_where_it_says() {
    let mut first = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
    first.push(&[Owned::numbered(0, 10)], Lsn(0));
    let (end, chain) = (first.end(), first.chain);
    first.push(&[Owned::numbered(1, 10)], Lsn(0));
    let mut second = Image::new(2, end, chain, end);
    second.push(&[Owned::numbered(2, 10)], end);

    let (records, result) = walk(&[(1, &first.finish()), (2, &second.finish())]);

    assert_eq!(records, [Owned::numbered(0, 10), Owned::numbered(2, 10)]);
    assert_eq!(result.map(|end| (end.lsn, end.segment_count)), Ok((Lsn(4 * SECTOR), 2)));
}

#[test]
fn malformed_records_in_a_sound_block_are_refused() {
    let mut image = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
    let mut block = vec![0; SECTOR_LEN];
    block[BLOCK_HEADER_LEN] = 77;
    let header = BlockHeader {
        epoch: 2,
        lsn: Lsn(SECTOR),
        durable: Lsn(0),
        chain: image.chain,
        payload_len: 40,
        record_count: 1,
    };
    header.seal(LOG.key(), &mut block);
    image.bytes.extend_from_slice(&block);

    let (_, result) = walk(&[(1, &image.finish())]);

    assert_eq!(result, Err(Defect::Malformed { seq: 1, offset: SECTOR }));
}

fn records() -> impl Strategy<Value = Vec<Owned>> {
    let kind =
        prop_oneof![Just(RecordKind::Entry), Just(RecordKind::HardState), Just(RecordKind::Blob)];
    let payload = prop::collection::vec(any::<u8>(), 0..600);
    let record = (kind, any::<u32>(), any::<u64>(), any::<u64>(), payload).prop_map(
        |(kind, partition, term, index, payload)| Owned {
            kind,
            partition: PartitionId(partition),
            term,
            index,
            payload,
        },
    );
    prop::collection::vec(record, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_come_back(blocks in prop::collection::vec(records(), 0..12)) {
        let mut image = Image::new(1, Lsn(0), FIRST_CHAIN, Lsn(0));
        for block in &blocks {
            image.push(block, Lsn(0));
        }
        let end = image.end();

        let (found, result) = walk(&[(1, &image.finish())]);

        let came = result.map(|end| (end.lsn, end.block_count));
        prop_assert_eq!(came, Ok((end, blocks.len() as u64)));
        prop_assert_eq!(found, blocks.concat());
    }
}
