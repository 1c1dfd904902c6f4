//! The format: what it says byte by byte, kept for ever.
#![expect(clippy::disallowed_methods, reason = "rewrites the golden files when told to")]

use super::*;
use crate::id::Slot;
use crate::lsm::block::LARGE_LEN_MIN;
use crate::lsm::key::encode_data_key;

/// The data key of `user_key` in slot 7 of database 0.
fn data_key(user_key: &str) -> Vec<u8> {
    let mut key = Vec::new();
    encode_data_key(Slot(7), 0, user_key.as_bytes(), &mut key);
    key
}

fn golden_rows() -> Vec<Owned> {
    let put = |name: &str, timestamp, value: &[u8]| Owned::put(&data_key(name), timestamp, value);
    let mut rows: Vec<_> = (0..5u8).map(|n| put(&format!("key:{n}"), 1, &[n; 10])).collect();
    rows.push(Owned { expiry_ms: Some(0x0102_0304), ..put("key:2", 9, b"newer") });
    rows.push(Owned::delete(&data_key("key:3"), 0x1122_3344_5566_7788));
    rows.push(put("large", 5, &vec![0xAB; LARGE_LEN_MIN]));
    rows.extend((0..90).map(|n| put(&format!("more:{n:03}"), 7, &[n; 60])));
    sorted(rows)
}

/// Lines of 16 bytes; of those that are alike the first, and how many follow it.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut lines = bytes.chunks(16).enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{:06x}: {}", number * 16, hex.join(" "));
        let mut again = 0;
        while lines.next_if(|(_, next)| *next == line).is_some() {
            again += 1;
        }
        text += &if again > 0 { format!(" *{again}\n") } else { "\n".to_owned() };
    }
    text
}

fn undump(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, line) = line.split_once(": ").expect("an offset");
        let (hex, again) = line.split_once(" *").unwrap_or((line, "0"));
        let line: Vec<u8> =
            hex.split(' ').map(|hex| u8::from_str_radix(hex, 16).expect("two digits")).collect();
        let again: usize = again.parse().expect("a number");
        bytes.extend(line.repeat(1 + again));
    }
    bytes
}

fn without_comments(golden: &str) -> String {
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

const GOLDEN: [(Compression, &str, &str); 3] = [
    (Compression::None, "table_v1", include_str!("../../testdata/table_v1.txt")),
    (Compression::Lz4, "table_v1_lz4", include_str!("../../testdata/table_v1_lz4.txt")),
    (Compression::Zstd, "table_v1_zstd", include_str!("../../testdata/table_v1_zstd.txt")),
];

/// Kept for ever: what a version wrote must be read by every later program.
#[test]
fn every_version_is_read() {
    for (_, _, golden) in GOLDEN {
        let bytes = undump(golden);
        let sim = Sim::new(1);
        let node = sim.node(NODE);
        node.write_file(PATH, &bytes);
        let (footer, checksum) = Footer::decode(&bytes[bytes.len() - SECTOR_LEN..]).expect("one");
        let bounds = [data_key("key:0"), data_key("more:089")].concat();
        let meta = footer.meta(checksum, &bounds).expect("these are its bounds");

        let read = read_all(&sim, &node.env(ShardId(0)), &meta);

        assert_eq!(read.expect("it is sound"), golden_rows());
    }
}

/// Packed bytes are their crates' to choose, so only those of the table that is not packed are
/// compared. `UPDATE_GOLDEN=1` rewrites all files: for a new version alone.
#[test]
fn version_1_is_as_it_was() {
    for (compression, name, golden) in GOLDEN {
        let (_, node, _, _) = scene(1, Options { compression, ..options() }, &golden_rows());

        let text = dump(&node.read_file(PATH).expect("it is there"));

        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lsm/testdata");
            let text = format!("{COMMENT}{text}");
            std::fs::write(dir.join(format!("{name}.txt")), text).expect("it is ours");
            continue;
        }
        let is_same = compression != Compression::None || text == without_comments(golden);
        assert!(is_same, "{name} is now\n{text}");
    }
}

const COMMENT: &str = "\
# A table of version 1: a large value, two parts of rows, a leaf, top, filter, bounds, footer.
# Offset and 16 bytes; *n: n more such lines. Never changed: a program that writes other bytes
# writes another version.
";
