//! Fuzzes what reads a manifest's bytes: no input makes it panic, run on, or take more memory than
//! a few times the input; and what it takes for a record is one.

use stavekv::id::{Lsn, PartitionId, ShardId, Timestamp};
use stavekv::limits::SECTOR_LEN;
use stavekv::lsm::block::{Meta, Statistics};
use stavekv::lsm::manifest::format::{Header, Kind, decode, encode, record_len};
use stavekv::lsm::manifest::replay::replay;
use stavekv::lsm::manifest::{Edit, Keys, PartitionState, ShardState, TableEntry};
use stavekv::wal::format::LogId;
use xxhash_rust::xxh3::xxh3_64;

use super::{Rng, few_input_numbers, offspring};

const SEED: u64 = 91;
const LOG: LogId = LogId { directory: 3, shard: ShardId(2) };
const SEQ: u64 = 5;

fn edit(number: u64) -> Edit {
    let statistics = Statistics { row_count: number, ..Statistics::default() };
    let key = vec![b'k'; 1 + number as usize % 40];
    let meta = Meta {
        log: LOG,
        number,
        origin: None,
        file_len: 4096 * number,
        checksum: !number,
        statistics,
        smallest: key.clone(),
        largest: key,
    };
    let state = PartitionState { index: number, clock: Timestamp(number), ..Default::default() };
    Edit {
        add: vec![TableEntry { partition: PartitionId(1), level: number as u8 % 7, meta }],
        remove: if number > 3 { vec![number - 1] } else { Vec::new() },
        partitions: vec![(PartitionId(1), state)],
        shard: Some(ShardState { number_next: number + 1, blob_last: 0, log_from: Lsn(number) }),
        keys: vec![Keys { partition: PartitionId(1), db: 3, keys: number, expiring: 1 }],
    }
}

/// A file of a snapshot and some edits, and each record alone.
fn corpus() -> Vec<Vec<u8>> {
    let (mut file, mut all, mut chain) = (Vec::new(), Vec::new(), 0);
    for number in 0..5 {
        let kind = if number == 0 { Kind::Snapshot } else { Kind::Edit };
        let start = file.len();
        let header = Header { kind, log: LOG, seq: SEQ, number, chain };
        chain = encode(&header, &edit(number + 3), &mut file);
        all.push(file[start..].to_vec());
    }
    assert!(replay(&file, LOG, SEQ).is_ok(), "the corpus is not sound");
    all.push(file);
    all
}

/// Makes the checksum of the record at the start right, so that its fields are met.
fn seal(bytes: &mut [u8]) {
    if let Some(len) = record_len(bytes).filter(|len| *len <= bytes.len() && *len >= SECTOR_LEN) {
        let checksum = xxh3_64(&bytes[8..len]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

#[test]
fn no_bytes_of_a_manifest_do_harm() {
    let corpus = corpus();
    let mut input = Vec::new();
    let (mut taken, mut refused) = (0_u64, 0_u64);
    for number in few_input_numbers() {
        let mut rng = Rng::new(SEED << 56 ^ number);
        offspring(&corpus, &mut rng, &mut input);
        if rng.below(2) == 0 {
            seal(&mut input);
        }
        match decode(&input) {
            Ok(record) => {
                taken += 1;
                let mut again = Vec::new();
                let checksum = encode(&record.header, &record.edit, &mut again);
                let again = decode(&again).expect("what was written is read");
                assert_eq!((again.header, again.checksum), (record.header, checksum));
                assert_eq!(again.edit, record.edit, "input {number}");
            }
            Err(_) => refused += 1,
        }
        let _ = replay(&input, LOG, SEQ);
    }
    assert!(taken > 0 && refused > 0 || few_input_numbers().count() < 100, "{taken} and {refused}");
}
