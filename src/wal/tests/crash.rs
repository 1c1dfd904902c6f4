//! Lives of a log, each ended by a power cut, a kill or a close at some point, in a replay too:
//! what was acked is found, in order, and what once was lost never comes back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::env::Class;
use crate::sim::Faults;

/// What must be so, whatever happens.
#[derive(Default)]
struct Model {
    /// What the last replay that ended gave out, and what was appended since, and is needed.
    records: Vec<(Lsn, Owned)>,
    /// So many of them must be found.
    safe: usize,
    /// What a manifest would say, durably.
    needed_from: Lsn,
    released: u64,
    numbers: u64,
    replays: u64,
    opened: u64,
    power_cuts: u64,
}

impl Model {
    fn replayed(&mut self, found: Vec<(Lsn, Owned)>) {
        let (count, safe) = (found.len(), self.safe);
        assert!(count >= safe, "lost: {count} found of {safe} that were acked");
        let expected = self.records.get(..count).unwrap_or_default();
        assert!(found == expected, "{count} found, and not as they were appended");
        self.records = found;
        self.safe = count;
        self.replays += 1;
    }

    fn appended(&mut self, record: Owned, place: Lsn) {
        assert!(self.records.last().is_none_or(|last| last.0 < place), "places do not rise");
        self.records.push((place, record));
    }

    /// `durable` was shown.
    fn acked(&mut self, durable: Lsn) {
        let acked = self.records.partition_point(|(place, _)| *place <= durable);
        self.safe = self.safe.max(acked);
    }

    /// A tree holds some of what is `durable`; from where on the log is needed.
    fn flushed(&mut self, durable: Lsn, rng: &mut Rng) -> Lsn {
        let acked = self.records.partition_point(|(place, _)| *place <= durable);
        let flushed = rng.index(acked + 1);
        if let Some((place, _)) = self.records[..flushed].last() {
            self.needed_from = *place;
        }
        self.records.drain(..flushed);
        self.safe = self.safe.saturating_sub(flushed);
        self.released += 1;
        self.needed_from
    }
}

async fn live(env: SimEnv, options: Options, model: Shared<Model>, mut rng: Rng, turns: u64) {
    let needed_from = model.borrow().needed_from;
    let options = Options { needed_from, ..options };
    let (records, ended) = match read_placed(&env, &options).await {
        Ok(read) => read,
        Err(error) => panic!("refused after a mere crash: {error}"),
    };
    model.borrow_mut().replayed(records);
    let Ok(mut writer) = Writer::open(&env, &options, ended).await else { return };
    model.borrow_mut().opened += 1;
    let lazy = rng.one_in(4);
    for _ in 0..turns {
        for _ in 0..rng.below(4) {
            let len = if rng.one_in(8) { rng.index(16_000) } else { rng.index(600) };
            let index = model.borrow().numbers;
            model.borrow_mut().numbers += 1;
            let record = Owned::numbered(index, len);
            let place = writer.append(record.record());
            model.borrow_mut().appended(record, place);
        }
        writer.flush(if lazy { Flush::Lazy } else { Flush::Now });
        model.borrow_mut().acked(writer.durable());
        if rng.one_in(16) {
            let needed_from = model.borrow_mut().flushed(writer.durable(), &mut rng);
            writer.release(needed_from);
        }
        match rng.below(3) {
            0 => env.yield_now().await,
            1 => env.sleep(Duration::from_micros(rng.below(100))).await,
            _ => {}
        }
        model.borrow_mut().acked(writer.durable());
        if writer.failure().is_some() {
            return;
        }
    }
    if writer.close().await.is_err() {
        return;
    }
    let mut model = model.borrow_mut();
    model.safe = model.records.len();
}

/// One log through `lives`.
fn lives(seed: u64, lives: u64, planted: Option<Planted>, faults: &Faults) -> Model {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let mut rng = sim.rng();
    let model = Shared::<Model>::default();
    let segment_len = [20, 20, 60, 200][rng.index(4)] * SECTOR;
    let options = Options { planted, in_flight_max: 1 + rng.index(6), segment_len, ..options() };
    for life in 0..lives {
        node.restart();
        // Faults are on in every second life, so that replay is not what they hit.
        node.set_faults(if life % 2 == 0 { faults.clone() } else { Faults::none() });
        let env = node.env(ShardId(0));
        let turns = if rng.one_in(4) { rng.below(100) } else { 2_000 };
        env.spawn(
            Class::Foreground,
            live(env.clone(), options.clone(), model.clone(), rng.fork(), turns),
        );
        let longest = [1_000, 4_000, 16_000][rng.index(3)];
        sim.run_for(Duration::from_micros(rng.below(longest)));
        if rng.one_in(3) {
            node.kill();
        } else {
            node.power_cut();
            model.borrow_mut().power_cuts += 1;
        }
    }
    node.restart();
    node.set_faults(Faults::none());
    let options = Options { needed_from: model.borrow().needed_from, ..options };
    let env = node.env(ShardId(0));
    let found = sim.run_on(&env, async move |env| read_placed(&env, &options).await);
    let (found, _) = found.unwrap_or_else(|error| panic!("refused after a mere crash: {error}"));
    model.borrow_mut().replayed(found);
    model.take()
}

#[test]
fn acked_records_survive_and_lost_ones_stay_lost() {
    let total = RefCell::new((0, 0, 0, 0, 0));
    check(120, |seed| {
        let model = lives(seed, 12, None, &Faults::none());
        let mut total = total.borrow_mut();
        total.0 += model.replays;
        total.1 += model.opened;
        total.2 += model.numbers;
        total.3 += model.released;
        total.4 += model.power_cuts;
    });
    let (replays, opened, records, released, cuts) = *total.borrow();
    eprintln!(
        "{cuts} power cuts, {replays} replays, {opened} openings, {records} records, {released} \
         releases"
    );
    let alone = crate::sim::seeds(2).count() < 2;
    let enough = opened > 300 && records > 30_000 && released > 2_000;
    assert!(alone || enough, "too little happened");
}

/// The property above, with a bug: the first seed of `n` that sees it.
fn seed_that_sees(n: u64, bug: Planted, faults: &Faults) -> Option<u64> {
    let seed = (0..n).find(|seed| {
        catch_unwind(AssertUnwindSafe(|| lives(*seed, 12, Some(bug), faults))).is_err()
    });
    eprintln!("{bug:?}: seen by seed {seed:?}");
    seed
}

#[test]
fn planted_bugs_are_seen() {
    use Planted::*;
    for bug in [
        AckBeforeDurable,
        AckOutOfOrder,
        DropLastBatch,
        ForgetSync,
        SkipReplaySync,
        GiveBackEarly,
        ReleaseEarly,
    ] {
        let seed = seed_that_sees(400, bug, &Faults::none());
        assert!(seed.is_some(), "{bug:?} goes unnoticed");
    }
}

#[test]
fn planted_ignoring_of_failed_writes_is_seen() {
    let faults = Faults { write_eio: 50_000, ..Faults::none() };

    let seed = seed_that_sees(100, Planted::IgnoreFailedSync, &faults);

    assert!(seed.is_some(), "ignoring failed writes goes unnoticed");
}

#[test]
fn failed_writes_lose_nothing_that_was_acked() {
    let faults = Faults { write_eio: 50_000, ..Faults::none() };
    check(100, |seed| drop(lives(seed, 12, None, &faults)));
}
