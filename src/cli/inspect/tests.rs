//! What is printed of a log, byte for byte, and of a broken one.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;

use super::sstable::Sstable;
use super::wal::Wal;
use crate::cli::directory::tests::{SHAPE, TempDir};
use crate::cli::directory::{DataDir, Identity};
use crate::cli::{EXIT_DATA_DIR, EXIT_OK};
use crate::id::{Lsn, PartitionId, ShardId, Slot, Timestamp};
use crate::limits::SECTOR_LEN;
use crate::lsm::key::encode_data_key;
use crate::mvcc::{BlobRef, Effect, Logged};
use crate::wal::format::{
    BLOCK_HEADER_LEN, BlockHeader, FIRST_CHAIN, Record, RecordKind, SegmentHeader, encode_record,
};
use crate::wal::{LogId, segment_path};

const SECTOR: u64 = SECTOR_LEN as u64;

/// Writes a log block by block; each block says that all before it is durable.
struct Author {
    log: LogId,
    dir: PathBuf,
    seq: u64,
    lsn: u64,
    chain: u64,
    bytes: Vec<u8>,
}

impl Author {
    fn new(data_dir: &Path) -> Self {
        let identity = Identity::read(data_dir).expect("it is whole").expect("it is there");
        let log = LogId { directory: identity.log_id(), shard: ShardId(0) };
        let dir = crate::server::log_dir(data_dir, log.shard);
        fs::create_dir_all(&dir).expect("it is ours");
        Self { log, dir, seq: 0, lsn: 0, chain: FIRST_CHAIN, bytes: Vec::new() }
    }

    /// Begins the next segment, behind what was written.
    fn segment(&mut self) {
        self.seq += 1;
        let header = SegmentHeader {
            log: self.log,
            seq: self.seq,
            epoch: self.seq,
            nonce: 7 + self.seq,
            base: Lsn(self.lsn),
            durable: Lsn(self.lsn),
            segment_len: 8 * SECTOR,
            chain: self.chain,
            block_len_max: 2 * SECTOR_LEN as u32,
            in_flight_max: 2,
        };
        self.bytes = vec![0; SECTOR_LEN];
        self.chain = header.encode(&mut self.bytes);
        self.lsn += SECTOR;
    }

    fn block(&mut self, records: &[Record<'_>]) {
        let mut block = vec![0; 2 * SECTOR_LEN];
        let mut len = BLOCK_HEADER_LEN;
        for record in records {
            len += encode_record(record, &mut block[len..]);
        }
        let header = BlockHeader {
            epoch: self.seq,
            lsn: Lsn(self.lsn),
            durable: Lsn(self.lsn),
            chain: self.chain,
            payload_len: len - BLOCK_HEADER_LEN,
            record_count: records.len() as u32,
        };
        self.chain = header.seal(self.log.key(), &mut block);
        self.lsn += header.block_len() as u64;
        self.bytes.extend_from_slice(&block[..header.block_len()]);
    }

    /// Puts the segment on the disk, `rest` behind what was written.
    fn finish(&mut self, rest: u8) -> PathBuf {
        self.bytes.resize(8 * SECTOR_LEN, rest);
        let path = segment_path(&self.dir, self.seq);
        fs::write(&path, &self.bytes).expect("it is ours");
        path
    }
}

fn record(kind: RecordKind, term: u64, index: u64, payload: &[u8]) -> Record<'_> {
    Record { kind, partition: PartitionId(3), term, index, payload }
}

/// An entry with an effect of every kind.
fn entry() -> Vec<u8> {
    let (mut entry, mut key) = (Vec::new(), Vec::new());
    let timestamp = Timestamp(Timestamp::from_ms(1_760_000_000_000).0 + 2);
    encode_data_key(Slot(12_182), 0, b"foo", &mut key);
    let value = Logged::Inline(b"hello");
    let expiry_ms = Some(1_760_000_060_000);
    Effect::Put { key: &key, timestamp, expiry_ms, value }.encode(&mut entry);
    encode_data_key(Slot(7), 9, &[b"nul \0 quote \" ", &[b'x'; 100][..]].concat(), &mut key);
    let value = Logged::Blob(BlobRef { id: 5, len: 70_000 });
    Effect::Put { key: &key, timestamp, expiry_ms: None, value }.encode(&mut entry);
    Effect::Delete { key: &key, timestamp }.encode(&mut entry);
    Effect::Clear { timestamp }.encode(&mut entry);
    Effect::Elsewhere { timestamp, blob: BlobRef { id: 6, len: 300 } }.encode(&mut entry);
    entry
}

/// A data directory of one log: two files of it, and one that was made ready.
fn scene(name: &str) -> (TempDir, Vec<PathBuf>) {
    let temp = TempDir::new(name);
    fs::create_dir_all(temp.path().join("shard-01/wal")).expect("it is ours");
    let identity = include_bytes!("../testdata/identity-1.toml");
    fs::write(temp.path().join("identity.toml"), identity).expect("it is ours");
    let mut author = Author::new(temp.path());
    author.segment();
    author.block(&[record(RecordKind::HardState, 2, 1, &1u64.to_le_bytes())]);
    author.block(&[
        record(RecordKind::Blob, 5, 0, &[9; 40]),
        record(RecordKind::Entry, 2, 2, &entry()),
        record(RecordKind::Entry, 2, 3, b"what is this"),
    ]);
    let first = author.finish(0);
    author.segment();
    author.block(&[record(RecordKind::Entry, 3, 4, &[])]);
    author.block(&[]);
    let second = author.finish(0xEE);
    let third = segment_path(&author.dir, 3);
    fs::write(&third, vec![0; 8 * SECTOR_LEN]).expect("it is ours");
    (temp, vec![first, second, third])
}

/// Inspects; what is printed, with the directory as `DIR`, and the exit code.
fn inspect(dir: &Path, path: &Path, json: bool) -> (String, u8) {
    let mut out = Vec::new();
    let code = Wal { path: path.to_owned(), json }.run(&mut out);
    shown(dir, out, code)
}

/// Inspects a table likewise.
fn inspect_table(dir: &Path, path: &Path, rows: bool, json: bool) -> (String, u8) {
    let mut out = Vec::new();
    let code = Sstable { path: path.to_owned(), rows, json }.run(&mut out);
    shown(dir, out, code)
}

fn shown(dir: &Path, out: Vec<u8>, code: u8) -> (String, u8) {
    let text = String::from_utf8(out).expect("it is text");
    let dir = dir.canonicalize().expect("it is there");
    (text.replace(&dir.display().to_string(), "DIR"), code)
}

/// Compares with `testdata/name`; `UPDATE_GOLDEN=1` rewrites it.
fn assert_golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/testdata").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).expect("the source tree takes files");
    }
    let golden = fs::read_to_string(&path).expect("UPDATE_GOLDEN=1 writes it");
    assert!(golden == actual, "{name} differs; UPDATE_GOLDEN=1 rewrites it. Actual:\n{actual}");
}

#[test]
fn a_log_is_printed_as_it_was() {
    let (temp, _) = scene("inspect");

    for (json, golden) in [(false, "inspect-wal.txt"), (true, "inspect-wal.jsonl")] {
        let (text, code) = inspect(temp.path(), temp.path(), json);

        assert_eq!(code, EXIT_OK, "{text}");
        assert_golden(golden, &text);
    }
}

#[test]
fn a_broken_block_is_named_and_what_stands_before_it_printed() {
    let (temp, paths) = scene("inspect-broken");
    let mut bytes = fs::read(&paths[0]).expect("it is there");
    bytes[2 * SECTOR_LEN + 100] ^= 1;
    fs::write(&paths[0], bytes).expect("it is ours");

    let (text, code) = inspect(temp.path(), temp.path(), false);

    assert_eq!(code, EXIT_DATA_DIR);
    let refused = "refused: corrupt log: no valid block at byte 8192 of \
                   DIR/shard-00/wal/00000000000000000001.wal; the log was durable up to LSN";
    for expected in ["hard state at 4152", "end of the log at 8192 of 0000", refused] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
    assert!(!text.contains("foo"), "what is behind the damage is no data:\n{text}");
    assert!(text.contains("log of shard 1"), "the other shard was forgotten:\n{text}");
}

#[test]
fn a_missing_file_is_named_as_json_too() {
    let (temp, paths) = scene("inspect-missing");
    fs::remove_file(&paths[1]).expect("it is ours");

    let (text, code) = inspect(temp.path(), temp.path(), true);

    assert_eq!(code, EXIT_DATA_DIR);
    let refused = "{\"type\":\"refused\",\"error\":\"corrupt log: \
                   DIR/shard-00/wal/00000000000000000002.wal is missing";
    assert!(text.contains(refused), "{text}");
}

#[test]
fn one_file_is_printed_alone() {
    let (temp, paths) = scene("inspect-file");

    let (first, code) = inspect(temp.path(), &paths[0], false);
    let (second, other_code) = inspect(temp.path(), &paths[1], false);

    assert_eq!((code, other_code), (EXIT_OK, EXIT_OK), "{first}{second}");
    assert!(first.ends_with("the log goes on in 00000000000000000002.wal\n"), "{first}");
    assert!(
        first.contains("\"foo\"") && !first.contains("segment 00000000000000000002"),
        "{first}"
    );
    assert!(second.contains("index 4") && !second.contains("\"foo\""), "{second}");
    assert!(second.contains("void from 12288 to 32768 of 00000000000000000002.wal"), "{second}");
    assert!(!second.contains("00000000000000000003"), "{second}");
}

#[test]
fn nothing_is_changed_and_a_served_directory_is_refused() {
    let (temp, paths) = scene("inspect-locked");
    let before: Vec<_> = paths.iter().map(|path| fs::read(path).expect("it is there")).collect();
    inspect(temp.path(), temp.path(), false);
    let after: Vec<_> = paths.iter().map(|path| fs::read(path).expect("it is there")).collect();
    assert!(before == after && !temp.path().join("LOCK").exists(), "an inspection left traces");

    let served = DataDir::open(temp.path(), SHAPE, None).expect("nobody has it");
    for path in [temp.path(), &paths[0]] {
        assert_eq!(inspect(temp.path(), path, false), (String::new(), EXIT_DATA_DIR));
    }
    drop(served);

    assert_eq!(inspect(temp.path(), temp.path(), false).1, EXIT_OK);
}

/// A file with the golden table of version 1.
pub(in crate::cli) fn table_scene(name: &str) -> (TempDir, PathBuf, Vec<u8>) {
    let mut bytes = Vec::new();
    let golden = include_str!("../../lsm/testdata/table_v1.txt");
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let (_, line) = line.split_once(": ").expect("an offset");
        let (hex, again) = line.split_once(" *").unwrap_or((line, "0"));
        let byte = |hex| u8::from_str_radix(hex, 16).expect("two digits");
        let again: usize = again.parse().expect("a number");
        bytes.extend(hex.split(' ').map(byte).collect::<Vec<_>>().repeat(1 + again));
    }
    let temp = TempDir::new(name);
    fs::create_dir_all(temp.path()).expect("it is ours");
    let path = temp.path().join("00000000000000000007.sst");
    fs::write(&path, &bytes).expect("it is ours");
    (temp, path, bytes)
}

#[test]
fn a_table_is_printed_as_it_was() {
    let (temp, path, _) = table_scene("inspect-table");

    for (rows, json, golden) in
        [(false, false, "inspect-sstable.txt"), (true, true, "inspect-sstable.jsonl")]
    {
        let (text, code) = inspect_table(temp.path(), &path, rows, json);

        assert_eq!(code, EXIT_OK, "{text}");
        assert_golden(golden, &text);
    }
    let (text, _) = inspect_table(temp.path(), &path, true, false);
    assert_eq!(text.lines().filter(|line| line.contains("  put ")).count(), 97, "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("  delete ")).count(), 1, "{text}");
}

#[test]
fn a_table_that_is_not_as_it_was_is_refused_and_the_place_named() {
    let (temp, path, sound) = table_scene("inspect-broken-table");
    let inspect_bytes = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("it is ours");
        inspect_table(temp.path(), &path, true, false)
    };

    for offset in (0..sound.len()).step_by(509) {
        let mut wrong = sound.clone();
        wrong[offset] ^= 4;
        let (text, code) = inspect_bytes(&wrong);
        assert!(code == EXIT_DATA_DIR && text.contains("refused: corrupt table"), "{text}");
    }
    for len in (0..sound.len()).step_by(SECTOR_LEN) {
        let (text, code) = inspect_bytes(&sound[..len]);
        assert!(code == EXIT_DATA_DIR && text.contains("no valid footer"), "{len}: {text}");
    }
    let longer = [&sound[..SECTOR_LEN], &sound].concat();
    let (text, code) = inspect_bytes(&longer);
    let length = format!("has {} bytes and had {}", longer.len(), sound.len());
    assert!(code == EXIT_DATA_DIR && text.contains(&length), "{text}");
}

#[test]
fn the_command_line_teaches() {
    for what in ["wal", "sstable", "manifest"] {
        let help = crate::cli::Cli::try_parse_from(["stave", "inspect", what, "--help"]);

        let help = help.err().expect("help ends the parse").to_string();
        let example = format!("stave inspect {what} ");
        for taught in [&example, "refused", "--json", "Exit code 3"] {
            assert!(help.contains(taught), "{taught}: {help}");
        }
    }
}

/// A tree's directory with a manifest of one table, which is there.
fn with_manifest(dir: &Path) -> PathBuf {
    use crate::lsm::block::{Meta, Statistics};
    use crate::lsm::manifest::format::{Header, Kind, encode};
    use crate::lsm::manifest::{Edit, Keys, PartitionState, ShardState, TableEntry, file};

    let log = LogId { directory: 0xfeed, shard: ShardId(3) };
    let mut key = Vec::new();
    encode_data_key(Slot(7), 0, b"some key", &mut key);
    let meta = Meta {
        log,
        number: 4,
        origin: None,
        file_len: SECTOR,
        checksum: 0xabcd,
        statistics: Statistics { row_count: 9, ..Statistics::default() },
        smallest: key.clone(),
        largest: key,
    };
    let state = PartitionState { index: 8, index_term: 1, term: 2, ..PartitionState::default() };
    let edits = [
        Edit {
            shard: Some(ShardState { number_next: 4, ..ShardState::default() }),
            ..Edit::default()
        },
        Edit {
            add: vec![TableEntry { partition: PartitionId(1), level: 0, meta }],
            remove: Vec::new(),
            partitions: vec![(PartitionId(1), state)],
            shard: Some(ShardState { number_next: 5, blob_last: 6, log_from: Lsn(4096) }),
            keys: vec![Keys { partition: PartitionId(1), db: 0, keys: 9, expiring: 2 }],
        },
    ];
    let (mut bytes, mut chain) = (Vec::new(), 0);
    for (number, edit) in edits.iter().enumerate() {
        let kind = if number == 0 { Kind::Snapshot } else { Kind::Edit };
        chain =
            encode(&Header { kind, log, seq: 2, number: number as u64, chain }, edit, &mut bytes);
    }
    let path = dir.join(file::file_name(2));
    fs::write(&path, bytes).expect("it is ours");
    fs::write(dir.join(crate::lsm::table::file_name(4)), vec![0; SECTOR_LEN]).expect("it is ours");
    path
}

fn manifest_of(path: &Path, json: bool) -> (u8, String) {
    let mut out = Vec::new();
    let code = super::manifest::Manifest { path: path.to_owned(), json }.run(&mut out);
    (code, String::from_utf8(out).expect("it is text"))
}

#[test]
fn a_manifest_is_printed_and_its_tables_are_looked_for() {
    let dir = TempDir::new("inspect-manifest");
    let path = with_manifest(dir.path());

    let (code, text) = manifest_of(dir.path(), false);
    assert_eq!(code, EXIT_OK, "{text}");
    for part in ["  edit 1 at 4096  4096 bytes  sound", "    add table 4  partition 1  level 0"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(
        text.ends_with(
            "sound: manifest 2  1 tables of 4096 bytes  next file 5  log needed from LSN 4096\n"
        ),
        "{text}"
    );
    let (code, json) = manifest_of(&path, true);
    assert_eq!(code, EXIT_OK, "{json}");
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(
        (&lines[7]["type"], &lines[7]["smallest"]["key"]),
        (&"add".into(), &"some key".into())
    );

    fs::remove_file(dir.path().join(crate::lsm::table::file_name(4))).expect("it is there");
    assert_eq!(manifest_of(&path, false).0, EXIT_OK, "a file alone names no table's place");
    let (code, text) = manifest_of(dir.path(), false);
    assert!(code == EXIT_DATA_DIR && text.contains("refused: table "), "{text}");
}

#[test]
fn a_broken_manifest_is_named_and_a_torn_record_is_not_one() {
    let dir = TempDir::new("inspect-broken-manifest");
    let path = with_manifest(dir.path());
    let whole = fs::read(&path).expect("it is there");
    let flipped = |at: usize, bits: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        fs::write(&path, bytes).expect("it is ours");
        manifest_of(dir.path(), false)
    };

    let (code, text) = flipped(100, 1);
    assert!(code == EXIT_DATA_DIR && text.contains("no valid record at byte 0 of"), "{text}");

    // One bit of the last is told from what a crash leaves, and two are not.
    let (code, text) = flipped(SECTOR_LEN + 100, 1);
    assert!(code == EXIT_DATA_DIR && text.contains("no valid record at byte 4096 of"), "{text}");
    let (code, text) = flipped(SECTOR_LEN + 100, 3);
    assert!(code == EXIT_OK && text.contains("torn: bytes 4096 to 8192"), "{text}");
}
