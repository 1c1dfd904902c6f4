//! Tables in the simulator.

use std::path::Path;

use super::*;
use crate::id::{NodeId, ShardId};
use crate::sim::{Node, Rng, Sim, SimEnv};

mod damage;
mod faults;
mod golden;
mod merge;
mod model;

const NODE: NodeId = NodeId(1);
const PATH: &str = "00000000000000000007.sst";
const SECTOR: u64 = SECTOR_LEN as u64;

fn options() -> Options {
    let log = LogId { directory: 0xfeed_beef, shard: ShardId(3) };
    Options { log, number: 7, compression: Compression::None }
}

/// A row that owns its bytes, large values too.
#[derive(Clone, PartialEq, Eq)]
struct Owned {
    key: Vec<u8>,
    timestamp: u64,
    kind: Kind,
    expiry_ms: Option<u64>,
    value: Vec<u8>,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, timestamp, kind, expiry_ms, value } = self;
        let key = key.escape_ascii();
        write!(f, "{key}@{timestamp} {kind:?} {expiry_ms:?} {} bytes", value.len())
    }
}

impl Owned {
    fn put(key: &[u8], timestamp: u64, value: &[u8]) -> Self {
        let (key, value) = (key.to_vec(), value.to_vec());
        Self { key, timestamp, kind: Kind::Put, expiry_ms: None, value }
    }

    fn delete(key: &[u8], timestamp: u64) -> Self {
        Self { kind: Kind::Delete, ..Self::put(key, timestamp, b"") }
    }

    fn row(&self) -> Row<'_> {
        Row {
            key: &self.key,
            timestamp: Timestamp(self.timestamp),
            kind: self.kind,
            expiry_ms: self.expiry_ms,
            value: Value::Bytes(&self.value),
        }
    }
}

/// In the order of a table, without twins.
fn sorted(mut rows: Vec<Owned>) -> Vec<Owned> {
    rows.sort_by(|a, b| a.key.cmp(&b.key).then(b.timestamp.cmp(&a.timestamp)));
    rows.dedup_by(|a, b| a.key == b.key && a.timestamp == b.timestamp);
    rows
}

/// `count` rows of `value_len` bytes, each of another key.
fn many(count: u64, value_len: usize) -> Vec<Owned> {
    let row = |n: u64| {
        let mut rng = Rng::new(n);
        let value: Vec<u8> = (0..value_len).map(|_| rng.next_u64() as u8).collect();
        Owned::put(format!("key:{n:08}").as_bytes(), n + 1, &value)
    };
    (0..count).map(row).collect()
}

async fn write(env: &SimEnv, path: &Path, options: Options, rows: &[Owned]) -> Result<Meta, Error> {
    let mut writer = Writer::create(env, path, options).await?;
    for row in rows {
        writer.add(&row.row()).await?;
    }
    assert_eq!(writer.row_count(), rows.len() as u64);
    writer.finish().await
}

/// All rows from `from` on.
async fn read_from(table: &Table<SimEnv>, from: &[u8]) -> Result<Vec<Owned>, Error> {
    let (mut rows, mut iter) = (Vec::new(), table.iter(from));
    while let Some(row) = iter.next().await? {
        let Row { key, timestamp, kind, expiry_ms, value } = row;
        let (key, timestamp) = (key.to_vec(), timestamp.0);
        let value = match value {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Large(large) => table.read_value(large).await?.to_vec(),
        };
        rows.push(Owned { key, timestamp, kind, expiry_ms, value });
    }
    Ok(rows)
}

async fn get(table: &Table<SimEnv>, key: &[u8], at: u64) -> Result<Option<Owned>, Error> {
    let Some(row) = table.get(key, Timestamp(at)).await? else { return Ok(None) };
    let OwnedRow { timestamp, kind, expiry_ms, value } = row;
    let value = match value {
        OwnedValue::Bytes(bytes) => bytes,
        OwnedValue::Large(large) => table.read_value(large).await?.to_vec(),
    };
    Ok(Some(Owned { key: key.to_vec(), timestamp: timestamp.0, kind, expiry_ms, value }))
}

/// A node with a table of these rows.
fn scene(seed: u64, options: Options, rows: &[Owned]) -> (Sim, Node, SimEnv, Meta) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let env = node.env(ShardId(0));
    let rows = rows.to_vec();
    let meta = sim.run_on(&env, async move |env| {
        write(&env, Path::new(PATH), options, &rows).await.expect("no faults are on")
    });
    (sim, node, env, meta)
}

/// What all questions to the table at `PATH` answer: every row, and every key asked for.
fn read_all(sim: &Sim, env: &SimEnv, meta: &Meta) -> Result<Vec<Owned>, Error> {
    let meta = meta.clone();
    sim.run_on(env, async move |env| {
        let table = Table::open(&env, Path::new(PATH), &meta).await?;
        read_from(&table, b"").await
    })
}

#[test]
fn names_are_told_apart() {
    assert_eq!(number_of(&file_name(42)), Some(42));
    for foreign in ["+0000000000000000001.sst", "1.sst", "00000000000000000001.wal", "x"] {
        assert_eq!(number_of(foreign), None, "{foreign}");
    }
}
