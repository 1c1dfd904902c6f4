//! Fuzzes what reads a table's bytes: parts, entries, rows, places, the footer, the filter. No
//! input makes it panic, run on, or take more memory than a part may have.

use std::ops::Range;

use stavekv::id::{ShardId, Timestamp};
use stavekv::lsm::block::{
    BODY_LEN_MAX, Builder, Compression, Cursor, Footer, HEADER_LEN, Handle, Head, Kind, Part,
    PartKind, Row, Run, Sought, Statistics, Unpacker, Value, entry_at, find, find_row, part_len,
    seal, seal_footer,
};
use stavekv::lsm::filter::Filter;
use stavekv::wal::format::LogId;

use super::{Rng, input_numbers, offspring};

const SEED: u64 = 77;
const KINDS: [PartKind; 6] = [
    PartKind::Rows,
    PartKind::Leaf,
    PartKind::Top,
    PartKind::Filter,
    PartKind::Chunk,
    PartKind::Bounds,
];

/// A part of rows, compressed and not, a leaf, a filter, a footer; each sealed.
fn corpus() -> Vec<Vec<u8>> {
    let mut rows = Builder::new(4);
    let mut head = Vec::new();
    for n in 0..40u8 {
        let key = [b"some key ", &[n / 4, 0, 1][..]].concat();
        let (kind, value) = match n % 4 {
            3 => (Kind::Delete, &[][..]),
            _ => (Kind::Put, &[7; 30][..]),
        };
        let row = Row {
            key: &key,
            timestamp: Timestamp(100 - u64::from(n)),
            kind,
            expiry_ms: (n % 4 == 1).then_some(5),
            value: Value::Bytes(value),
        };
        row.encode_head(&mut head);
        rows.add(&key, &head, value);
    }
    let rows = rows.finish();
    let mut leaf = Builder::new(4);
    for n in 0..20 {
        Handle { offset: n << 12, len: 4096 }.encode(&mut head);
        leaf.add(format!("key {n:03}").as_bytes(), &head, &[]);
    }
    let leaf = leaf.finish();
    let mut filter = Filter::with_room(60);
    (0..60).for_each(|n| filter.insert(n << 32 | n));
    let mut filter_bytes = vec![0; filter.byte_len()];
    filter.read(0, &mut filter_bytes);
    let packed = lz4_of(rows);
    let mut frame = vec![0; zstd_safe::compress_bound(rows.len())];
    let len = zstd_safe::compress(&mut frame[..], rows, 1).expect("there is room");
    frame.truncate(len);
    vec![
        part(PartKind::Rows, Compression::None, rows, rows.len()),
        part(PartKind::Rows, Compression::Lz4, &packed, rows.len()),
        part(PartKind::Rows, Compression::Zstd, &frame, rows.len()),
        part(PartKind::Leaf, Compression::None, leaf, leaf.len()),
        part(PartKind::Filter, Compression::None, &filter_bytes, filter_bytes.len()),
        footer(),
    ]
}

/// Literals alone: what any LZ4 block may be.
fn lz4_of(raw: &[u8]) -> Vec<u8> {
    let mut packed = vec![0xF0];
    let mut left = raw.len() - 15;
    while left >= 255 {
        packed.push(255);
        left -= 255;
    }
    packed.push(left as u8);
    packed.extend_from_slice(raw);
    packed
}

fn part(kind: PartKind, compression: Compression, body: &[u8], raw_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; part_len(body.len())];
    bytes[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(body);
    let part = Part { kind, compression, body_len: body.len(), raw_len, count: 40 };
    seal(&part, SEED, 0, &mut bytes);
    bytes
}

fn footer() -> Vec<u8> {
    let run = |offset, len| Run { offset, len };
    let footer = Footer {
        log: LogId { directory: 7, shard: ShardId(1) },
        number: 3,
        nonce: 4,
        file_len: 6 << 12,
        digest: 5,
        compression: Compression::None,
        statistics: Statistics { row_count: 9, ..Statistics::default() },
        row_parts: 1,
        leaves: (1 << 12, 1 << 12),
        top: run(2 << 12, 100),
        filter: run(3 << 12, 128),
        bounds: run(4 << 12, 20),
        smallest_len: 10,
    };
    let mut sector = vec![0; 4096];
    footer.encode(&mut sector);
    sector
}

/// Makes what the changes broke sound again: the kind and the lengths as they are, as far as they
/// can be, and the checksum; or nothing would get past it.
fn reseal(rng: &mut Rng, input: &mut Vec<u8>) {
    if rng.below(8) == 0 {
        return;
    }
    if input.get(8..16).is_some_and(|magic| magic == b"STAVESST") {
        input.resize(4096, 0);
        seal_footer(input);
        return;
    }
    input.resize(input.len().max(HEADER_LEN), 0);
    let body_len = u32::from_le_bytes(input[12..16].try_into().expect("four bytes")) as usize;
    let body_len = body_len.min(input.len() - HEADER_LEN);
    let raw_len = u32::from_le_bytes(input[16..20].try_into().expect("four bytes")) as usize;
    let compression = match input[9] {
        1 => Compression::Lz4,
        2 => Compression::Zstd,
        _ => Compression::None,
    };
    let kind = KINDS.into_iter().find(|kind| *kind as u8 == input[8]).unwrap_or(PartKind::Rows);
    input.resize(part_len(body_len), 0);
    let raw_len = if compression == Compression::None { body_len } else { raw_len };
    seal(&Part { kind, compression, body_len, raw_len, count: 40 }, SEED, 0, input);
}

/// What came of the inputs, so that a run shows that it goes everywhere.
#[derive(Default, Debug)]
struct Tally {
    refused: u64,
    opened: u64,
    decompressed: u64,
    rows: u64,
    places: u64,
    malformed: u64,
    footers: u64,
    filters: u64,
}

fn try_input(input: &[u8], raw: &mut Vec<u8>, tally: &mut Tally) {
    if let Ok((footer, _)) = Footer::decode(input) {
        let end = footer.bounds.offset + footer.bounds.disk_len();
        assert!(end < footer.file_len && footer.filter.len < footer.file_len);
        tally.footers += 1;
    }
    let Some((claimed, _)) = Part::peek(input) else {
        tally.refused += 1;
        return;
    };
    assert!(claimed.body_len <= BODY_LEN_MAX && claimed.raw_len <= BODY_LEN_MAX);
    let Ok((part, _)) = Part::open(claimed.kind, SEED, 0, input) else {
        tally.refused += 1;
        return;
    };
    tally.opened += 1;
    if part.decompress(input, raw, &mut Unpacker::default()).is_err() {
        tally.malformed += 1;
        return;
    }
    tally.decompressed += u64::from(part.compression != Compression::None);
    match part.kind {
        PartKind::Rows | PartKind::Leaf | PartKind::Top => try_entries(raw, tally),
        _ => {
            tally.filters += u64::from(Filter::of(raw).is_some_and(|filter| filter.may_contain(1)))
        }
    }
}

fn try_entries(raw: &[u8], tally: &mut Tally) {
    let is_within = |range: &Range<usize>| range.start <= range.end && range.end <= raw.len();
    let wanted = b"some key \x05\x00\x01";
    if let Ok(Some(found)) = find(raw, wanted) {
        assert!(is_within(&found.body));
    }
    if let Ok(Sought::Found(head)) = find_row(raw, wanted, Timestamp(90)) {
        assert!(head.timestamp <= Timestamp(90));
    }
    let _ = entry_at(raw, raw.len() / 2);
    let mut cursor = Cursor::default();
    if cursor.seek(raw, wanted).is_err() || cursor.start(raw).is_err() {
        tally.malformed += 1;
        return;
    }
    let mut entries = 0;
    while let Ok(true) = cursor.next(raw) {
        entries += 1;
        assert!(entries <= raw.len() && cursor.key().len() <= raw.len());
        assert!(is_within(&cursor.body()));
        tally.places += u64::from(Handle::decode(raw, cursor.body()).is_ok());
        if let Ok(head) = Head::decode(raw, cursor.body()) {
            tally.rows += 1;
            if let Value::Bytes(bytes) = head.value(raw) {
                assert!(bytes.len() <= raw.len());
            }
        }
    }
}

#[test]
fn the_corpus_is_sound() {
    let (mut raw, mut tally) = (Vec::new(), Tally::default());

    corpus().iter().for_each(|input| try_input(input, &mut raw, &mut tally));

    assert_eq!((tally.opened, tally.footers, tally.decompressed), (5, 1, 2), "{tally:?}");
    assert_eq!((tally.rows, tally.malformed), (120, 0), "{tally:?}");
}

#[test]
fn no_input_breaks_the_reader_of_tables() {
    let (corpus, mut input, mut raw) = (corpus(), Vec::new(), Vec::new());
    let (numbers, mut tally) = (input_numbers(), Tally::default());
    let is_short = numbers.end - numbers.start < 10_000;
    for number in numbers {
        let mut rng = Rng::new(number);
        offspring(&corpus, &mut rng, &mut input);
        reseal(&mut rng, &mut input);
        try_input(&input, &mut raw, &mut tally);
    }

    eprintln!("{tally:?}");
    let everywhere = [
        tally.refused,
        tally.opened,
        tally.decompressed,
        tally.rows,
        tally.places,
        tally.malformed,
        tally.footers,
        tally.filters,
    ];
    assert!(is_short || everywhere.iter().all(|count| *count > 0), "{tally:?}");
}
