//! The log in the simulator, and its bytes.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use super::*;
use crate::env::Env;
use crate::id::{NodeId, PartitionId};
use crate::limits::SECTOR_LEN;
use crate::sim::{Node, Rng, Sim, SimEnv, check};

mod bytes;
mod crash;
mod damage;
mod faults;
mod release;
mod reserve;
mod restart;

const NODE: NodeId = NodeId(1);
const DIR: &str = "shard-00/wal";
const SECTOR: u64 = SECTOR_LEN as u64;

/// Small blocks and segments, so that a short run sees many.
fn options() -> Options {
    Options {
        segment_len: 20 * SECTOR,
        block_len_max: 4 * SECTOR_LEN,
        in_flight_max: 3,
        ..Options::new(PathBuf::from(DIR), 0xfeed, ShardId(0))
    }
}

/// A record that owns its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    kind: RecordKind,
    partition: PartitionId,
    term: u64,
    index: u64,
    payload: Vec<u8>,
}

impl Owned {
    /// The record with number `index`; no two are alike.
    fn numbered(index: u64, len: usize) -> Self {
        let kind = [RecordKind::Entry, RecordKind::HardState, RecordKind::Blob][index as usize % 3];
        let mut rng = Rng::new(index);
        let payload = (0..len).map(|_| rng.next_u64() as u8).collect();
        Self { kind, partition: PartitionId(index as u32 % 5), term: index / 7, index, payload }
    }

    fn of(record: Record<'_>) -> Self {
        let Record { kind, partition, term, index, payload } = record;
        Self { kind, partition, term, index, payload: payload.to_vec() }
    }

    fn record(&self) -> Record<'_> {
        let Self { kind, partition, term, index, ref payload } = *self;
        Record { kind, partition, term, index, payload }
    }
}

async fn read(env: &SimEnv, options: &Options) -> Result<(Vec<Owned>, Ended), Error> {
    let (placed, ended) = read_placed(env, options).await?;
    Ok((placed.into_iter().map(|(_, record)| record).collect(), ended))
}

/// Each record with its LSN.
async fn read_placed(env: &SimEnv, options: &Options) -> Result<(Vec<(Lsn, Owned)>, Ended), Error> {
    let mut placed = Vec::new();
    let on_record = |lsn, record: Record<'_>| placed.push((lsn, Owned::of(record)));
    let ended = replay(env, options, on_record, |_| {}).await?;
    Ok((placed, ended))
}

async fn open(env: &SimEnv, options: &Options) -> (Vec<Owned>, Writer<SimEnv>) {
    let (records, ended) = read(env, options).await.expect("nothing is wrong with the log");
    let writer = Writer::open(env, options, ended).await.expect("the disk works");
    (records, writer)
}

async fn until_durable(env: &SimEnv, writer: &Writer<SimEnv>, lsn: Lsn) {
    while writer.durable() < lsn {
        assert!(writer.failure().is_none(), "the log failed: {:?}", writer.failure());
        env.sleep(std::time::Duration::from_micros(20)).await;
    }
}

/// What the log of `options` says, on a node that was just started.
fn replay_on(sim: &Sim, node: &Node, options: &Options) -> Result<Vec<Owned>, Error> {
    let options = options.clone();
    let env = node.env(options.shard);
    sim.run_on(&env, async move |env| read(&env, &options).await.map(|(records, _)| records))
}

/// Writes `count` records of up to 6,000 bytes, each durable before the next, and leaves the writer
/// open and forgotten.
fn write_some(sim: &Sim, node: &Node, options: &Options, count: u64) -> Vec<Owned> {
    let options = options.clone();
    let mut rng = sim.rng();
    let env = node.env(options.shard);
    sim.run_on(&env, async move |env| {
        let (mut records, mut writer) = open(&env, &options).await;
        for index in records.len() as u64..records.len() as u64 + count {
            let record = Owned::numbered(index, rng.index(6_000));
            let lsn = writer.append(record.record());
            writer.flush(Flush::Now);
            until_durable(&env, &writer, lsn).await;
            records.push(record);
        }
        records
    })
}

/// The paths of all segments, in order.
fn segment_paths(node: &Node) -> Vec<PathBuf> {
    let names = node.names(DIR);
    let segments = names.iter().filter(|name| segments::seq_of(name).is_some());
    segments.map(|name| PathBuf::from(DIR).join(name)).collect()
}

/// The bytes of a file of the log.
fn bytes_of(node: &Node, path: &PathBuf) -> Vec<u8> {
    node.read_file(path).unwrap_or_else(|| panic!("{} is not there", path.display()))
}

/// Where the blocks of a segment are: byte, bytes that count, bytes with padding.
fn blocks_of(bytes: &[u8]) -> Vec<(u64, usize, usize)> {
    let key = options().log().key();
    let Ok((header, _)) = format::SegmentHeader::decode(bytes) else { return Vec::new() };
    let (mut blocks, mut offset) = (Vec::new(), SECTOR_LEN);
    while let Some((block, _)) = format::BlockHeader::decode(key, &bytes[offset..])
        && block.lsn.0 == header.base.0 + offset as u64
    {
        let len = format::BLOCK_HEADER_LEN + block.payload_len;
        blocks.push((offset as u64, len, block.block_len()));
        offset += block.block_len();
    }
    blocks
}

/// Shared between a task and its test.
type Shared<T> = Rc<RefCell<T>>;
