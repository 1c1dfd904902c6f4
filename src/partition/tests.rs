//! A partition against a log in the simulator: what is seen, who is let go when, and what is left
//! when the log fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::ack::Ack;
use crate::command::notify::Event;
use crate::command::{Effect as Made, NewValue};
use crate::consensus::{Change, Message, MessageKind};
use crate::id::{NodeId, ShardId, Slot};
use crate::lsm::key::{db_of, encode_data_key};
use crate::lsm::rows::Rows;
use crate::sim::{Rng, Sim, SimEnv, check};
use crate::wal::{Flush, Options, Record};

const NODE: NodeId = NodeId(1);
const NOW_MS: u64 = 1_000_000;
const FAR_MS: u64 = NOW_MS + 1_000_000;

fn options() -> Options {
    let segment_len = (wal::format::BLOCK_LEN_MAX as u64) * 2;
    Options { segment_len, ..Options::new(PathBuf::from("wal"), 5, ShardId(0)) }
}

fn key(db: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    encode_data_key(Slot(1), db, name.as_bytes(), &mut key);
    key
}

/// A partition that leads, its log, and what it has in there.
struct Scene {
    env: SimEnv,
    partition: Partition,
    log: Writer<SimEnv>,
    in_log: VecDeque<Logging>,
    blob_next: u64,
    released: Vec<Waiter>,
    /// Entries in the log, and what is shown up to each.
    sealed: VecDeque<(u64, Seen)>,
    /// What is shown up to the newest committed entry.
    committed: Seen,
}

impl Scene {
    async fn new(env: SimEnv) -> Self {
        Self::of(env, Recovery::new(PartitionId(0), Memtable::new(7), Stored::default())).await
    }

    /// One that may have others.
    async fn replicated(env: SimEnv) -> Self {
        Self::of(env, founded_by(&[NODE])).await
    }

    async fn of(env: SimEnv, recovery: Recovery) -> Self {
        let mut scene = Self::begin(env, recovery).await;
        let logging = scene.around(|partition, around| partition.campaign(around));
        scene.in_log.extend(logging);
        while !scene.in_log.is_empty() {
            assert_eq!(scene.commit_one().await, []);
        }
        assert!(scene.partition.is_leader());
        scene
    }

    async fn begin(env: SimEnv, recovery: Recovery) -> Self {
        let ended = wal::replay(&env, &options(), |_, _| {}, |_| {}).await.expect("it is empty");
        let log = Writer::open(&env, &options(), ended).await.expect("the disk works");
        let partition = recovery.finish(NODE, 9);
        let (in_log, sealed, committed, released) = Default::default();
        let blob_next = 0;
        Self { env, partition, log, in_log, blob_next, released, sealed, committed }
    }

    fn around<R>(&mut self, run: impl FnOnce(&mut Partition, &mut Around<'_, SimEnv>) -> R) -> R {
        let Self { partition, log, blob_next, released, .. } = self;
        run(partition, &mut Around { log, blob_next, may_have: &|_| false, released })
    }

    fn evaluate(&mut self, key: &[u8], made: Made<'_>) -> Evaluated {
        let hash = self.partition.memtable().hash(key);
        self.partition.evaluate(hash, key, NOW_MS, |_, proposal| proposal.take((made, 1)))
    }

    /// Proposes a value; the entry to wait for.
    fn put(&mut self, key: &[u8], value: &str, expiry_ms: Option<u64>) -> u64 {
        let value = NewValue::Borrowed(value.as_bytes());
        let put = self.evaluate(key, Made::Put { value, expiry_ms, event: Event::Set });
        put.hold.expect("a write waits for its entry")
    }

    /// A read: the value, and the entry that its reply has to wait for.
    fn get(&mut self, key: &[u8]) -> (Option<String>, Option<u64>) {
        let hash = self.partition.memtable().hash(key);
        let mut value = None;
        let read = self.partition.evaluate(hash, key, NOW_MS, |found, _| {
            let text =
                |found: Found<'_>| String::from_utf8_lossy(found.value.as_slice()).into_owned();
            value = found.map(text);
        });
        (value, read.hold)
    }

    fn seal(&mut self) {
        if self.partition.is_open() {
            let index = self.partition.newest_uncommitted().expect("it is open");
            self.sealed.push_back((index, Seen::of(&mut self.partition)));
        }
        let logging = self.around(|partition, around| partition.seal(around));
        self.in_log.extend(logging);
    }

    /// Waits until the oldest write is durable, and reports it; who is let go.
    async fn commit_one(&mut self) -> Vec<Waiter> {
        self.log.flush(Flush::Now);
        let Logging { lsn, write } = self.in_log.pop_front().expect("something is in the log");
        while self.log.durable() < lsn {
            self.env.sleep(Duration::from_micros(20)).await;
        }
        let more = self.around(|partition, around| partition.persisted(write, around));
        let released = std::mem::take(&mut self.released);
        self.in_log.extend(more);
        let committed = self.partition.committed().index;
        while let Some((_, seen)) = self.sealed.pop_front_if(|(index, _)| *index <= committed) {
            self.committed = seen;
        }
        released
    }

    fn abandon(&mut self) -> Vec<Waiter> {
        self.in_log.clear();
        let mut abandoned = Vec::new();
        self.partition.abandon(&mut abandoned);
        abandoned
    }

    /// The partition shows what is committed, and nothing else.
    fn assert_only_committed(&mut self) {
        assert_eq!(Seen::of(&mut self.partition), self.committed);
    }
}

/// A new partition of these voters.
fn founded_by(voters: &[NodeId]) -> Recovery {
    let mut recovery = Recovery::new(PartitionId(0), Memtable::new(7), Stored::default());
    recovery.keep_log(1 << 20, NODE, voters);
    recovery
}

/// All that a partition shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
}

impl Seen {
    /// What a scan finds, which the counts of each database have to agree with.
    fn of(partition: &mut Partition) -> Self {
        let found = partition.scan(&[]).filter(|(_, version)| version.kind == Kind::Put);
        let keys = found.map(|(key, version)| {
            let Payload::Bytes(value) = version.payload else { panic!("no value here is large") };
            (key.to_vec(), (value.to_vec(), version.expiry_ms))
        });
        let seen = Self { keys: keys.collect() };
        for db in 0..16 {
            let of_db = || seen.keys.iter().filter(|(key, _)| db_of(key) == db);
            let expiring = of_db().filter(|(_, (_, expiry_ms))| expiry_ms.is_some()).count();
            let counts = (of_db().count() as u64, expiring as u64);
            assert_eq!(partition.db_sizes(db), counts, "keys of database {db}");
        }
        assert_eq!(partition.memtable().live_len(), seen.keys.len());
        seen
    }
}

fn run(test: impl AsyncFnOnce(SimEnv) + 'static) {
    let sim = Sim::new(1);
    let env = sim.node(NODE).env(ShardId(0));
    sim.run_on(&env, test);
}

#[test]
fn a_write_is_seen_at_once_and_its_readers_wait_for_its_entry() {
    run(async |env| {
        let mut scene = Scene::new(env).await;
        let (a, b) = (key(0, "a"), key(0, "b"));

        let first = scene.put(&a, "1", None);
        scene.seal();
        let second = scene.put(&b, "2", None);

        assert_eq!(second, first + 1, "a sealed entry takes no more");
        assert_eq!(scene.get(&a), (Some("1".to_owned()), Some(first)));
        assert_eq!(scene.get(&b), (Some("2".to_owned()), Some(second)));
        assert_eq!(scene.get(&key(0, "c")), (None, None));
        assert!(!scene.partition.has_met(first, Ack::Quorum));
        scene.partition.wait(first, Ack::Quorum, Waiter(1));
        scene.commit_one().await;
        assert_eq!(scene.get(&a), (Some("1".to_owned()), None));
        assert_eq!(scene.get(&b), (Some("2".to_owned()), Some(second)));
        assert!(scene.partition.has_met(first, Ack::Quorum));
    });
}

#[test]
fn a_change_of_members_commits_nothing_that_was_written_after_it() {
    run(async |env| {
        let mut scene = Scene::replicated(env).await;
        let a = key(0, "a");
        let change = Change { voters: vec![NODE], learners: vec![NodeId(2)] };

        let proposed = scene.around(|partition, around| partition.propose_members(&change, around));
        scene.in_log.extend(proposed.expect("a leader may"));
        let index = scene.put(&a, "1", None);
        scene.seal();
        scene.commit_one().await;

        assert_eq!(scene.partition.roster().members.learners, [NodeId(2)]);
        assert_eq!(scene.get(&a), (Some("1".to_owned()), Some(index)), "whoever reads it waits");
        assert_eq!(scene.abandon(), []);
        assert_eq!(scene.get(&a), (None, None), "and if it is lost it was never there");
    });
}

#[test]
fn whom_a_replica_voted_for_is_known_after_a_restart() {
    for (planted, known) in [(None, (1, 2)), (Some(Planted::ForgetVote), (0, 0))] {
        run(async move |env| {
            let voters = [NODE, NodeId(2), NodeId(3)];
            let mut scene = Scene::begin(env, founded_by(&voters)).await;
            scene.partition.plant(planted);
            let (kind, from) = (MessageKind::Vote, NodeId(2));
            let plea = Message { kind, from, to: NODE, term: 1, ..Message::default() };

            scene.partition.receive(plea, Vec::new()).expect("it is well-formed");
            let logging = scene.around(|partition, around| partition.settle(around));
            scene.in_log.extend(logging);
            while !scene.in_log.is_empty() {
                scene.commit_one().await;
            }
            let mut sent = Vec::new();
            scene.partition.take_messages(&mut sent);
            assert!(sent.iter().any(|(_, answer)| answer.to == from && !answer.reject));

            assert_eq!(restarted(scene, founded_by(&voters)).await.hard_state(), known);
        });
    }
}

#[test]
fn waiters_are_let_go_with_their_entries_in_order_and_once() {
    run(async |env| {
        let mut scene = Scene::new(env).await;
        for n in 1..=3 {
            let entry = scene.put(&key(0, "k"), &n.to_string(), None);
            // The second of two in a row is the same: a connection that pipelines.
            for waiter in [n, n, n + 10] {
                scene.partition.wait(entry, Ack::Quorum, Waiter(waiter));
            }
            scene.seal();
        }

        for n in 1..=3 {
            assert_eq!(scene.commit_one().await, [Waiter(n), Waiter(n + 10)], "entry {n}");
        }
        assert_eq!(scene.get(&key(0, "k")), (Some("3".to_owned()), None));
    });
}

/// A read of the tables that began before a row was overwritten, flushed and let go.
#[test]
fn what_was_read_in_another_epoch_does_not_come_in() {
    run(async |env| {
        let mut scene = Scene::new(env).await;
        let (k, mut rows) = (key(0, "k"), Rows::default());
        let stale = Version {
            timestamp: Timestamp(1),
            kind: Kind::Put,
            expiry_ms: None,
            payload: Payload::Bytes(b"stale"),
        };
        let begun_in = scene.partition.epoch();
        scene.put(&k, "new", None);
        scene.seal();
        scene.commit_one().await;
        let mut flush = scene.partition.begin_flush().expect("no clear is on its way");
        assert_eq!(scene.partition.take_slice(&mut flush, &mut rows, 1), Ok(true));
        assert_eq!(scene.partition.let_go(100).0, 0, "no table has it yet");
        scene.partition.end_flush(&flush);
        while scene.partition.let_go(100).0 == 0 {}
        let hash = scene.partition.memtable().hash(&k);
        assert!(scene.partition.is_partial() && !scene.partition.knows(hash, &k));

        assert!(!scene.partition.admit(&k, Some(&stale), begun_in, false));
        assert_eq!(scene.get(&k).0, None);
        let (key, version) = rows.get(0);
        assert!(scene.partition.admit(key, Some(&version), scene.partition.epoch(), false));
        assert_eq!(scene.get(&k).0, Some("new".to_owned()));
        assert!(scene.partition.admit(&key_of_none(), None, scene.partition.epoch(), false));
        assert_eq!(scene.get(&key_of_none()).0, None);
    });
}

fn key_of_none() -> Vec<u8> {
    key(0, "none")
}

#[test]
fn a_failed_log_takes_back_what_was_not_committed_and_lets_all_go() {
    run(async |env| {
        let mut scene = Scene::new(env).await;
        let [kept, gone, other] = [key(0, "kept"), key(0, "gone"), key(5, "other")];
        scene.put(&kept, "1", Some(FAR_MS));
        scene.put(&gone, "1", None);
        scene.put(&other, "1", None);
        scene.seal();
        scene.commit_one().await;
        scene.assert_only_committed();

        let entry = scene.put(&kept, "2", None);
        scene.partition.wait(entry, Ack::Quorum, Waiter(1));
        scene.evaluate(&gone, Made::Delete(Event::None));
        scene.seal();
        let index = scene.partition.clear(NOW_MS);
        scene.partition.wait(index, Ack::Quorum, Waiter(2));
        scene.put(&key(7, "new"), "1", Some(FAR_MS));
        scene.seal();
        let entry = scene.put(&other, "3", Some(FAR_MS));
        scene.partition.wait(entry, Ack::Quorum, Waiter(3));
        assert_eq!(scene.get(&gone).0, None);
        let mut abandoned = scene.abandon();

        abandoned.sort_by_key(|waiter| waiter.0);
        assert_eq!(abandoned, [1, 2, 3].map(Waiter));
        scene.assert_only_committed();
        for held in [kept, gone, other].map(|key| scene.get(&key).1) {
            assert_eq!(held, None, "a read of what is committed waits for nobody");
        }
    });
}

/// A random write.
fn write(scene: &mut Scene, rng: &mut Rng) {
    let key = key(rng.below(3) as u8, ["a", "b", "c", "d"][rng.index(4)]);
    match rng.below(20) {
        0 => {
            scene.seal();
            scene.partition.clear(NOW_MS);
        }
        1..6 => {
            scene.evaluate(&key, Made::Delete(Event::None));
        }
        _ => {
            let expiry_ms = rng.one_in(3).then(|| FAR_MS + rng.below(9));
            let value = "v".repeat(rng.index(300));
            scene.put(&key, &value, expiry_ms);
        }
    }
}

#[test]
fn a_failed_log_leaves_what_was_committed_and_a_restart_finds_it() {
    check(150, |seed| {
        let sim = Sim::new(seed);
        let (mut rng, env) = (sim.rng(), sim.node(NODE).env(ShardId(0)));
        sim.run_on(&env, async move |env| {
            let mut scene = Scene::new(env).await;
            for _ in 0..rng.between(1, 120) {
                write(&mut scene, &mut rng);
                if rng.one_in(3) {
                    scene.seal();
                }
                if rng.one_in(4) && !scene.in_log.is_empty() {
                    scene.commit_one().await;
                }
            }
            if rng.one_in(2) {
                scene.abandon();
                return scene.assert_only_committed();
            }
            scene.seal();
            while !scene.in_log.is_empty() {
                scene.commit_one().await;
            }
            scene.assert_only_committed();
            let whole = scene.committed.clone();
            let recovery = Recovery::new(PartitionId(0), Memtable::new(8), Stored::default());
            assert_eq!(Seen::of(&mut restarted(scene, recovery).await), whole);
        });
    });
}

/// What a restart makes of the scene's log.
async fn restarted(scene: Scene, mut recovery: Recovery) -> Partition {
    let env = scene.env.clone();
    scene.log.close().await.expect("the disk works");
    let take = |_, record: Record<'_>| match record.kind {
        RecordKind::Entry => {
            let blobs = &mut Blobs::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
            let (term, index) = (record.term, record.index);
            recovery
                .entry(term, index, record.payload, blobs, &|_| false)
                .expect("it was written so");
        }
        RecordKind::HardState => recovery
            .hard_state((record.term, record.index), record.payload, &|_| false)
            .expect("it was written so"),
        RecordKind::Blob => panic!("no value here is large"),
    };
    wal::replay(&env, &options(), take, |_| {}).await.expect("nothing is wrong with the log");
    recovery.finish(NODE, 9)
}
