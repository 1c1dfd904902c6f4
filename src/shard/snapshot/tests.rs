//! From one shard to another: nothing is lost and nothing is mixed, whatever the disk does.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::tree::Loaded;
use super::super::{Options, Piece, Planted, Shard, Target, TreeError, TreeOptions, Wait, open};
use super::*;
use crate::ack::Ack;
use crate::cluster::SlotMap;
use crate::env::{Class, Env};
use crate::id::{NodeId, PartitionId, ShardId, Slot};
use crate::limits::LARGE_LEN_MIN;
use crate::lsm::key::encode_data_key;
use crate::lsm::memtable::{Kind, Memtable, Payload, Version};
use crate::lsm::table::Compression;
use crate::lsm::view::Found;
use crate::partition::{Blobs, Recovery};
use crate::sim::{Failure, Node, Plan, Rng, Sim, SimEnv, check};
use crate::wal::{self, LogId, RecordKind};

const KEYS: usize = 24;
const TREE: &str = "data/tree";
const ID: PartitionId = PartitionId(0);

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn options(node: u64, rows_len_max: Option<u64>) -> Options {
    let (directory, shard) = (u128::from(node), ShardId(0));
    let segment_len = wal::format::BLOCK_LEN_MAX as u64 * 2;
    Options {
        node: NodeId(node),
        shard,
        map: SlotMap::new(1, 2),
        ack: Ack::Quorum,
        memory_max: 1 << 30,
        log: wal::Options {
            segment_len,
            ..wal::Options::new(PathBuf::from("data/log"), directory, shard)
        },
        tree: TreeOptions {
            dir: PathBuf::from(TREE),
            log: LogId { directory, shard },
            log_len_max: 1 << 30,
            compression: Compression::None,
            rows_len_max,
        },
        members: None,
        planted: None,
    }
}

fn key(n: usize) -> Vec<u8> {
    let mut key = Vec::new();
    encode_data_key(Slot(n as u16), 0, format!("key{n}").as_bytes(), &mut key);
    key
}

fn bytes_of(version: &Version<'_>) -> Option<Vec<u8>> {
    let bytes = match version.payload {
        Payload::Bytes(bytes) => bytes,
        Payload::Shared(bytes) => bytes.as_slice(),
    };
    (version.kind == Kind::Put).then(|| bytes.to_vec())
}

/// A shard from its opening to its end, and what the first of its partitions has to hold.
struct Life {
    env: SimEnv,
    shard: Shard<SimEnv>,
    rows: Rows,
}

impl Life {
    async fn open(env: SimEnv, options: Options) -> Self {
        let shard = open(env.clone(), options, Arc::default(), |_| {}).await;
        Self { env, shard: shard.expect("what is on the disk is sound"), rows: Rows::new() }
    }

    fn put(&mut self, n: usize, value: Vec<u8>) {
        let key = key(n);
        let hash = self.shard.partition(0).memtable().hash(&key);
        if value.len() >= LARGE_LEN_MIN {
            let target = Target { place: 0, hash, key: &key };
            self.shard.put_large(target, &Arc::new(value.clone()), None, None);
        } else {
            let now_ms = self.shard.now_ms();
            self.shard.partitions[0].put((hash, &key), &value, None, now_ms);
        }
        self.shard.touch(0);
        self.rows.insert(key, value);
    }

    fn delete(&mut self, n: usize) {
        if self.rows.remove(&key(n)).is_some() {
            self.shard.bury(0, &key(n));
        }
    }

    async fn turn(&mut self) {
        self.shard.end_turn();
        self.shard.tend(None);
        self.shard.take_fetched();
        self.env.sleep(Duration::from_micros(50)).await;
        self.shard.begin_turn();
    }

    /// Until all is committed.
    async fn settle(&mut self) {
        loop {
            self.turn().await;
            let mut is_settled = true;
            self.shard.uncommitted(|_, _| is_settled = false);
            if is_settled {
                return;
            }
        }
    }

    /// A checkpoint of the first partition, which takes some turns.
    async fn checkpoint(&mut self, mut meanwhile: impl FnMut(&mut Self)) -> Checkpoint<SimEnv> {
        let awaited = self.shard.checkpoint(0);
        loop {
            if let Some(end) = awaited.take() {
                return end.expect("the disk works");
            }
            meanwhile(self);
            self.turn().await;
        }
    }

    /// All that has to be sent of it.
    async fn sent(
        &mut self,
        checkpoint: Checkpoint<SimEnv>,
        meanwhile: impl FnMut(&mut Self),
    ) -> Sent {
        let (head, index) = (checkpoint.head(), checkpoint.index());
        let pieces = self.pieces(&Rc::new(checkpoint), 0, meanwhile).await;
        Sent { head, index, pieces, rows: self.rows.clone() }
    }

    async fn pieces(
        &mut self,
        checkpoint: &Rc<Checkpoint<SimEnv>>,
        skipped: u64,
        mut meanwhile: impl FnMut(&mut Self),
    ) -> Vec<Piece> {
        let outgoing = self.shard.send_out(Rc::clone(checkpoint), skipped);
        let mut pieces = Vec::new();
        loop {
            while let Some(piece) = outgoing.take().expect("the disk works") {
                pieces.push(piece);
            }
            if outgoing.is_over() {
                return pieces;
            }
            meanwhile(self);
            self.turn().await;
        }
    }

    /// The value of a key, if it is known now.
    fn look(&mut self, n: usize) -> Option<Option<Vec<u8>>> {
        let key = key(n);
        let hash = self.shard.partition(0).memtable().hash(&key);
        if !self.shard.seek(Target { place: 0, hash, key: &key }, &Wait::default()) {
            return None;
        }
        let (found, _) = self.shard.partition(0).find(hash, &key);
        Some(found.as_ref().and_then(bytes_of))
    }

    /// A key that is known now, now and then, is of these rows. Seldom, so that rows leave memory.
    fn assert_shows(&mut self, rows: &Rows) {
        let n = self.env.random() as usize % (4 * KEYS);
        if n < KEYS
            && let Some(found) = self.look(n)
        {
            assert_eq!(found.as_ref(), rows.get(&key(n)), "key {n}");
        }
    }

    /// All rows.
    async fn all(&mut self) -> Rows {
        let mut rows = Rows::new();
        for n in 0..KEYS {
            let found = loop {
                match self.look(n) {
                    Some(found) => break found,
                    None => self.turn().await,
                }
            };
            rows.extend(found.map(|value| (key(n), value)));
        }
        rows
    }

    /// Takes a checkpoint in; meanwhile the old rows are shown, then the new ones.
    async fn take_in(&mut self, sent: Sent) -> Result<(), TreeError> {
        let old = self.rows.clone();
        let incoming = self.shard.receive_checkpoint(0, &sent.head)?;
        let mut pieces = VecDeque::from(sent.pieces);
        let staged = loop {
            while incoming.has_room()
                && let Some(piece) = pieces.pop_front()
            {
                incoming.put(piece);
            }
            if pieces.is_empty() {
                incoming.finish();
            }
            if let Some(end) = incoming.take_staged() {
                break end?;
            }
            self.assert_shows(&old);
            self.turn().await;
        };
        assert_eq!(staged.index(), sent.index);
        self.shard.install(0, staged);
        loop {
            if let Some(installed) = self.shard.take_installed() {
                installed.end?;
                break;
            }
            self.assert_shows(&old);
            self.turn().await;
        }
        assert_eq!(self.shard.partition(0).committed().index, sent.index);
        self.rows = sent.rows;
        Ok(())
    }
}

/// A checkpoint on the wire, and what rows it has if nobody wrote meanwhile.
#[derive(Clone)]
struct Sent {
    head: Vec<u8>,
    index: u64,
    pieces: Vec<Piece>,
    rows: Rows,
}

/// Some tables of a quiet shard, one of them longer than a piece.
fn sent() -> Sent {
    let sim = Sim::new(3);
    let node = sim.node(NodeId(1));
    node.make_dir("data");
    sim.run_on(&node.env(ShardId(0)), async |env| {
        let mut life = Life::open(env, options(1, None)).await;
        for round in 0..2 {
            for n in 8 + round..KEYS {
                life.put(n, format!("new {round}").into_bytes());
            }
            [9, 10, 11, 13, 14].into_iter().for_each(|n| life.delete(n));
            life.put(12, vec![b'n'; 400_000]);
            life.settle().await;
            life.checkpoint(|_| {}).await;
        }
        let checkpoint = life.checkpoint(|_| {}).await;
        life.sent(checkpoint, |_| {}).await
    })
}

/// A shard with other rows: some in tables, some in the log, and more entries than the checkpoint
/// has. Nothing but the log has the rows of the second partition.
async fn filled(env: SimEnv, options: Options) -> Life {
    let mut life = Life::open(env, options).await;
    for n in 0..16 {
        life.put(n, b"old".to_vec());
    }
    life.settle().await;
    life.checkpoint(|_| {}).await;
    // No more than what the log may have before it is flushed, so that it keeps them.
    for round in 0..8 {
        life.put(round, format!("older {round}").into_bytes());
        life.settle().await;
    }
    life
}

/// What ends the life of a shard that takes a checkpoint in.
#[derive(Clone, Copy, Debug)]
enum End {
    PowerCut,
    Kill,
    /// The disk refuses one operation; then a power cut.
    Fault(Failure),
}

/// Ends the life at the disk operation of that number since the taking in began. True: it never
/// came to that.
fn end_at((seed, call): (u64, u64), end: End, sent: &Sent, options: &Options) -> bool {
    let sim = Sim::new(seed);
    let node = sim.node(options.node);
    node.make_dir("data");
    let (env, opening) = (node.env(ShardId(0)), options.clone());
    let mut life = sim.run_on(&env, async move |env| filled(env, opening).await);
    let (old, new) = (life.rows.clone(), sent.rows.clone());
    assert!(life.shard.partition(0).committed().index > sent.index + 2, "entries that are void");
    let at = node.calls() + call;
    if let End::Fault(failure) = end {
        node.set_plan(Some(Plan::Call(at, failure)));
    }
    let (ended, own, sent) = (Rc::new(Cell::new(None)), Rc::default(), sent.clone());
    let is_installed: Rc<Cell<Option<bool>>> = Rc::clone(&own);
    env.spawn(Class::Foreground, async move {
        let taken = life.take_in(sent).await;
        own.set(Some(taken.is_ok()));
        // Old reads may still come.
        for _ in 0..40 {
            let rows = life.rows.clone();
            life.assert_shows(&rows);
            life.turn().await;
        }
        ended.set(Some(()));
        std::future::pending::<()>().await;
    });
    let is_fault = matches!(end, End::Fault(_));
    sim.run_until(|| (!is_fault && node.calls() >= at) || is_installed.get().is_some());
    sim.run_for(Duration::from_millis(if is_fault { 50 } else { 0 }));
    let is_past = node.calls() < at;
    match end {
        End::Kill => node.kill(),
        _ => drop(node.power_cut()),
    }
    node.set_plan(None);
    node.restart();

    let found = reopened(&sim, &node, options.clone());

    let is_new = found == new;
    assert!(is_new || found == old, "a mix of both");
    assert!(is_new || is_installed.get() != Some(true), "what was installed is gone");
    assert!(!is_new || is_installed.get() != Some(false), "what was refused is there");
    is_past
}

/// All rows after a restart, which leaves no file that is not needed.
fn reopened(sim: &Sim, node: &Node, options: Options) -> Rows {
    let dir = options.tree.dir.clone();
    sim.run_on(&node.env(ShardId(0)), async move |env| {
        let mut life = Life::open(env, options).await;
        let names = life.env.list(&dir).await.expect("the disk works");
        let tables = names.iter().filter(|name| name.ends_with(".sst")).count() as u64;
        assert_eq!(tables, life.shard.stats().tables.get(), "{names:?}");
        life.all().await
    })
}

/// At every disk operation.
fn end_everywhere(end: End, options: &Options) {
    let sent = sent();
    for call in 0.. {
        let run = AssertUnwindSafe(|| end_at((call, call), end, &sent, options));
        match catch_unwind(run) {
            Ok(true) => return assert!(call > 20, "there are more operations than {call}"),
            Ok(false) => {}
            Err(panic) => {
                println!("{end:?} at operation {call}, {:?}", options.planted);
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_crash_leaves_the_old_partition_or_the_new_one() {
    for rows_len_max in [None, Some(1 << 10)] {
        for end in [End::PowerCut, End::Kill] {
            end_everywhere(end, &options(2, rows_len_max));
        }
    }
}

#[test]
fn a_disk_that_fails_leaves_the_old_partition_or_the_new_one() {
    for failure in [Failure::Eio, Failure::NoSpace] {
        end_everywhere(End::Fault(failure), &options(2, Some(1 << 10)));
    }
}

/// Whether a bug is seen in one of these runs: each has a seed, and the disk operation that it ends
/// at.
fn is_seen(bug: Planted, mut runs: impl Iterator<Item = (u64, u64)>) -> bool {
    let (sent, options) = (sent(), Options { planted: Some(bug), ..options(2, Some(1 << 10)) });
    runs.any(|run| {
        let run = AssertUnwindSafe(|| end_at(run, End::PowerCut, &sent, &options));
        catch_unwind(run).is_err()
    })
}

#[test]
fn a_log_that_still_counts_after_an_install_is_seen() {
    assert!(is_seen(Planted::InstallKeepsLog, (0..100).map(|call| (call, call))));
}

#[test]
fn tables_that_are_read_before_the_partition_is_theirs_are_seen() {
    assert!(is_seen(Planted::InstallShowsEarly, (0..300).map(|seed| (seed, 1 << 40))));
}

/// Some random writes.
fn write(life: &mut Life, rng: &mut Rng) {
    let committed = life.shard.partition(0).committed().index;
    let newest = life.shard.partition(0).newest_uncommitted().unwrap_or(committed);
    let count = if newest - committed < 100 { rng.below(4) } else { 0 };
    for _ in 0..count {
        let n = rng.index(KEYS);
        match rng.below(60) {
            0 => {
                life.shard.clear(|_, _| {});
                life.rows.clear();
            }
            1 | 2 => life.put(n, vec![b'l'; LARGE_LEN_MIN + rng.index(300_000)]),
            3..20 => life.delete(n),
            _ => life.put(n, format!("value {}", rng.below(1 << 40)).into_bytes()),
        }
    }
}

/// An entry of the log: term, index and effects.
type Logged = (u64, u64, Vec<u8>);

/// What the log has of the partition behind `index`, and the large values of those entries.
async fn entries_behind(env: &SimEnv, options: &Options, index: u64) -> (Vec<Logged>, Blobs) {
    let needed_from = Loaded::read(env, &options.tree).await.expect("it is sound").log_from();
    let mut blobs = Blobs::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
    let mut entries = Vec::new();
    let take = |_, record: wal::Record<'_>| match record.kind {
        RecordKind::Blob => {
            let blob = Arc::make_mut(blobs.entry(record.term).or_default());
            blob.extend_from_slice(record.payload);
        }
        RecordKind::Entry if record.partition == ID && record.index > index => {
            entries.push((record.term, record.index, record.payload.to_vec()));
        }
        _ => {}
    };
    let log = wal::Options { needed_from, ..options.log.clone() };
    wal::replay(env, &log, take, |_| {}).await.expect("it is sound");
    (entries, blobs)
}

/// What a start from the tables comes to when it applies these entries.
async fn replayed(
    env: SimEnv,
    options: Options,
    (entries, mut blobs): (Vec<Logged>, Blobs),
) -> Rows {
    let loaded = Loaded::read(&env, &options.tree).await.expect("it is sound");
    let view = loaded.view(ID);
    let mut recovery = Recovery::new(ID, Memtable::new(7), loaded.stored(ID));
    match options.tree.rows_len_max {
        None => loaded.rows(&env, ID, &mut recovery, |_| {}).await.expect("it is sound"),
        Some(_) => recovery.lean_on_tables(loaded.sizes(ID)),
    }
    for (term, index, payload) in entries {
        let may_have = |key: &[u8]| view.may_contain(key);
        let applied = recovery.entry(term, index, &payload, &mut blobs, &may_have);
        applied.expect("the entries follow on the checkpoint");
    }
    let partition = recovery.finish(options.node, 9);
    let mut rows = Rows::new();
    for n in 0..KEYS {
        let key = key(n);
        let here = partition.memtable().get(partition.memtable().hash(&key), &key);
        let away = match here {
            None if partition.is_partial() => view.get(&key).await.expect("it is sound"),
            _ => None,
        };
        let version = here.or(away.as_ref().map(Found::version));
        rows.extend(version.as_ref().and_then(bytes_of).map(|value| (key, value)));
    }
    if !partition.is_partial() {
        assert_eq!(partition.db_sizes(0).0, rows.len() as u64, "keys are counted");
    }
    rows
}

#[test]
fn a_checkpoint_taken_under_writes_and_the_entries_behind_it_are_the_partition() {
    check(40, |seed| {
        let sim = Sim::new(seed);
        let mut rng = sim.rng();
        let nodes = [1, 2].map(|id| sim.node(NodeId(id)));
        nodes.iter().for_each(|node| node.make_dir("data"));
        let rows_len_max = rng.one_in(2).then_some(1 << 10);
        let [from, to] = [options(1, None), options(2, rows_len_max)];

        let opening = from.clone();
        let (sent, rows, behind) = sim.run_on(&nodes[0].env(ShardId(0)), async move |env| {
            let mut life = Life::open(env.clone(), opening.clone()).await;
            let mut busy = |life: &mut Life| write(life, &mut rng);
            // Enough for some compactions.
            for _ in 0..8 {
                for _ in 0..6 {
                    busy(&mut life);
                    life.turn().await;
                }
                life.checkpoint(&mut busy).await;
            }
            let checkpoint = life.checkpoint(&mut busy).await;
            let index = checkpoint.index();
            let sent = life.sent(checkpoint, &mut busy).await;
            life.settle().await;
            let Life { shard, rows, .. } = life;
            shard.close().await.expect("the disk works");
            (sent, rows, entries_behind(&env, &opening, index).await)
        });
        let opening = to.clone();
        sim.run_on(&nodes[1].env(ShardId(0)), async move |env| {
            let mut life = filled(env, opening).await;
            // What it has at the checkpoint nobody knows: it may have versions that come later.
            life.rows = sent.rows.clone();
            let incoming = life.shard.receive_checkpoint(0, &sent.head).expect("it is one");
            for piece in sent.pieces {
                while !incoming.has_room() {
                    life.turn().await;
                }
                incoming.put(piece);
            }
            incoming.finish();
            let staged = loop {
                match incoming.take_staged() {
                    Some(staged) => break staged.expect("the disk works"),
                    None => life.turn().await,
                }
            };
            life.shard.install(0, staged);
            while life.shard.take_installed().is_none() {
                life.turn().await;
            }
        });
        nodes[1].power_cut();
        nodes[1].restart();
        let env = nodes[1].env(ShardId(0));
        let found = sim.run_on(&env, async move |env| replayed(env, to, behind).await);

        let differs = |n: &usize| found.get(&key(*n)) != rows.get(&key(*n));
        assert!(found == rows, "keys {:?} differ", (0..KEYS).filter(differs).collect::<Vec<_>>());
    });
}

#[test]
fn a_checkpoint_goes_on_behind_the_pieces_that_were_taken() {
    let sim = Sim::new(4);
    let node = sim.node(NodeId(1));
    node.make_dir("data");
    let count = sim.run_on(&node.env(ShardId(0)), async |env| {
        let mut life = Life::open(env, options(1, None)).await;
        for n in 0..3 {
            life.put(n, vec![b'n'; 400_000]);
            life.settle().await;
            life.checkpoint(|_| {}).await;
        }
        let checkpoint = Rc::new(life.checkpoint(|_| {}).await);
        let all = life.pieces(&checkpoint, 0, |_| {}).await;
        let mut skipped = 0;
        for (nth, piece) in all.iter().enumerate() {
            assert_eq!(life.pieces(&checkpoint, skipped, |_| {}).await, all[nth..], "{skipped}");
            skipped += piece.bytes.len() as u64;
        }
        assert_eq!(
            (life.pieces(&checkpoint, skipped, |_| {}).await, skipped),
            (vec![], checkpoint.byte_len())
        );
        all.len()
    });

    assert!(count >= 4, "{count} pieces: of no table are there several");
}

/// Whoever sends something else than a checkpoint is told so, and nothing is left of it.
#[test]
fn what_is_no_checkpoint_is_refused() {
    let sent = sent();
    let sim = Sim::new(5);
    let node = sim.node(NodeId(2));
    node.make_dir("data");
    let env = node.env(ShardId(0));
    let mut life = sim.run_on(&env, async |env| filled(env, options(2, None)).await);
    let before = node.names(TREE);
    let mut torn = sent.head.clone();
    torn[100] ^= 1;
    assert!(matches!(life.shard.receive_checkpoint(0, &torn), Err(TreeError::Refused { .. })));
    assert!(matches!(life.shard.receive_checkpoint(1, &sent.head), Err(TreeError::Refused { .. })));
    let whole = || sent.clone();
    let mut flipped = whole();
    flipped.pieces[0].bytes[5000] ^= 1;
    let mut lost = whole();
    lost.pieces.remove(1);
    let mut shuffled = whole();
    shuffled.pieces.swap(0, 1);
    let mut mended = whole();
    mended.pieces.iter_mut().for_each(|piece| piece.digest = piece.digest.map(|digest| !digest));

    sim.run_on(&env, async move |_| {
        for wrong in [flipped, lost, shuffled, mended] {
            let taken = life.take_in(wrong).await;
            assert!(matches!(taken, Err(TreeError::Refused { .. })), "{taken:?}");
        }
        // Half of one, and then nothing more; one that is whole and that nobody wants.
        for count in [1, sent.pieces.len()] {
            let incoming = life.shard.receive_checkpoint(0, &sent.head).expect("it is one");
            for piece in sent.pieces.iter().take(count) {
                while !incoming.has_room() {
                    life.turn().await;
                }
                incoming.put(piece.clone());
            }
            if count > 1 {
                incoming.finish();
                while incoming.take_staged().is_none() {
                    life.turn().await;
                }
            }
            drop(incoming);
        }
        for _ in 0..2_000 {
            life.turn().await;
        }
        assert_eq!(life.all().await, life.rows);
    });

    assert_eq!(node.names(TREE), before);
}

/// Every turn one entry writes all keys alike.
#[test]
fn a_copy_is_of_one_moment_and_has_what_was_committed_before() {
    check(20, |seed| {
        let sim = Sim::new(seed);
        let mut rng = sim.rng();
        let node = sim.node(NodeId(2));
        node.make_dir("data");
        node.make_dir("copy");
        let own = options(2, rng.one_in(2).then_some(1 << 10));
        let opening = own.clone();
        let dirs = CopyTo { tree: "copy/tree".into(), log: "copy/log".into() };
        let to = dirs.clone();
        let before = sim.run_on(&node.env(ShardId(0)), async move |env| {
            let mut life = Life::open(env, opening).await;
            let mut round: u64 = 0;
            for _ in 0..rng.between(1, 60) {
                round = write_all(&mut life, round);
                life.turn().await;
            }
            life.settle().await;
            let before = round;
            let copied = life.shard.copy_to(to);
            loop {
                if let Some(end) = copied.take() {
                    end.expect("the disk works");
                    break;
                }
                round = write_all(&mut life, round);
                life.turn().await;
            }
            for _ in 0..20 {
                round = write_all(&mut life, round);
                life.turn().await;
            }
            before
        });
        node.power_cut();
        node.restart();
        let log = wal::Options { dir: dirs.log, ..own.log.clone() };
        let tree = TreeOptions { dir: dirs.tree, ..own.tree.clone() };

        let rows = reopened(&sim, &node, Options { log, tree, ..own });

        let rounds: Vec<u64> = rows.values().map(|value| round_of(value)).collect();
        assert_eq!(rounds.len(), KEYS);
        assert!(rounds.iter().all(|round| *round == rounds[0]), "{rounds:?}");
        assert!(rounds[0] >= before, "{} of {before}", rounds[0]);
    });
}

/// Writes all keys, unless much waits to be committed; the newest round.
fn write_all(life: &mut Life, round: u64) -> u64 {
    let committed = life.shard.partition(0).committed().index;
    if life.shard.partition(0).newest_uncommitted().is_some_and(|newest| newest > committed + 100) {
        return round;
    }
    for n in 0..KEYS {
        life.put(n, format!("{}", round + 1).into_bytes());
    }
    round + 1
}

fn round_of(value: &[u8]) -> u64 {
    String::from_utf8_lossy(value).parse().expect("a number")
}
