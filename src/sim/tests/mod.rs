//! The simulator's own tests: it is the same each time, its disk loses what it may and nothing
//! else, and its connections keep their order.
#![expect(clippy::disallowed_types, reason = "virtual time is held against real time")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::env::{Aligned, ConnId, Event, File, Mode, Sent};
use crate::limits::SECTOR_LEN;

mod disk;
mod net;
mod roads;

const NODE: NodeId = NodeId(1);
const PORT: u16 = 6379;
const SECTOR: u64 = SECTOR_LEN as u64;

fn filled(byte: u8, sectors: usize) -> Aligned {
    let mut buf = Aligned::zeroed(sectors * SECTOR_LEN);
    buf.fill(byte);
    buf
}

async fn create(env: &SimEnv, path: &str) -> SimFile {
    let file = env.open(path.as_ref(), Mode::Create).await.expect("the name is free");
    env.sync_dir("/".as_ref()).await.expect("no faults are on");
    file
}

/// Echoes what comes in, until the end of each connection.
async fn echo(env: SimEnv) {
    env.listen(([0, 0, 0, 0], PORT).into(), true).expect("the port is free");
    let (mut events, mut waiting) = (Vec::new(), BTreeMap::<u32, Waiting>::new());
    loop {
        env.turn(&mut events).await;
        for event in events.drain(..) {
            echo_one(&env, event, &mut waiting);
        }
    }
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    busy: bool,
    ended: bool,
}

fn echo_one(env: &SimEnv, event: Event<SimChunk>, waiting: &mut BTreeMap<u32, Waiting>) {
    let conn = match event {
        Event::Accepted { conn, .. } => {
            assert!(env.peer_addr(conn).is_some(), "{conn:?} was just accepted");
            waiting.insert(conn.index, Waiting::default());
            return;
        }
        Event::Connected { conn } => panic!("{conn:?} was not asked for"),
        Event::Received { conn, chunk } => {
            of(waiting, conn).bytes.extend_from_slice(&chunk);
            conn
        }
        Event::Sent { conn, buf } => {
            assert!(buf.is_empty() && of(waiting, conn).busy, "nothing was in flight");
            of(waiting, conn).busy = false;
            env.resume(conn);
            conn
        }
        Event::Refused { conn } => panic!("{conn:?} was not asked for"),
        Event::Ended { conn } => {
            of(waiting, conn).ended = true;
            conn
        }
    };
    let state = of(waiting, conn);
    if !state.busy && !state.bytes.is_empty() {
        match env.send(conn, &mut state.bytes) {
            Sent::InFlight => {
                state.busy = true;
                env.pause(conn);
            }
            Sent::Done => assert!(state.bytes.is_empty()),
            Sent::Broken => state.bytes.clear(),
        }
    }
    if state.ended && !state.busy && state.bytes.is_empty() {
        env.close(conn);
        assert_eq!(env.peer_addr(conn), None);
        waiting.remove(&conn.index);
    }
}

fn of(waiting: &mut BTreeMap<u32, Waiting>, conn: ConnId) -> &mut Waiting {
    waiting.get_mut(&conn.index).expect("no event comes before the first or after close")
}

fn workload(seed: u64) -> (u64, Duration) {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    for shard in 0..2 {
        let env = node.env(ShardId(shard));
        env.spawn(Class::Foreground, echo(env.clone()));
        env.spawn(Class::Background, write_some(env.clone(), format!("log-{shard}")));
        let waker = node.env(ShardId(1 - shard)).waker();
        env.clone().spawn(Class::Background, async move {
            for _ in 0..10 {
                env.sleep(Duration::from_micros(env.random() % 500)).await;
                crate::env::Wake::wake(&waker);
            }
        });
    }
    sim.run_for(Duration::from_micros(50));
    let clients: Vec<Client> = (0..3).map(|_| sim.connect(NODE, PORT)).collect();
    clients.iter().for_each(|client| client.send(b"a few bytes, there and back"));
    sim.run_for(Duration::from_millis(20));
    node.power_cut();
    node.restart();
    let env = node.env(ShardId(0));
    env.spawn(Class::Foreground, echo(env.clone()));
    sim.run_for(Duration::from_millis(5));
    (sim.trace_hash(), sim.now())
}

async fn write_some(env: SimEnv, path: String) {
    let file = create(&env, &path).await;
    for round in 0..20u64 {
        let (result, _) =
            file.write_at(filled(round as u8 + 1, 2), 2 * SECTOR_LEN, round * SECTOR, false).await;
        assert_eq!(result.expect("no faults are on"), 2 * SECTOR_LEN);
        if round % 5 == 4 {
            file.sync().await.expect("no faults are on");
        }
    }
}

#[test]
fn same_seed_gives_same_trace() {
    let hashes: Vec<u64> = (0..1_000)
        .map(|seed| {
            let (first, second) = (workload(seed), workload(seed));
            assert_eq!(first, second, "seed {seed}");
            first.0
        })
        .collect();

    let distinct: BTreeSet<u64> = hashes.into_iter().collect();
    assert_eq!(distinct.len(), 1_000);
}

#[test]
fn echoes_arrive_whole_and_in_order() {
    check(300, |seed| {
        let sim = Sim::new(seed);
        let env = sim.env(NODE, ShardId(0));
        env.spawn(Class::Foreground, echo(env.clone()));
        sim.run_for(Duration::from_millis(1));
        let sent: Vec<u8> = (0..5_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let client = sim.connect(NODE, PORT);

        for piece in sent.chunks(1_234) {
            client.send(piece);
        }
        client.half_close();
        let got = RefCell::new(Vec::new());
        sim.run_until(|| {
            got.borrow_mut().extend(client.received());
            client.is_ended()
        });
        got.borrow_mut().extend(client.received());

        assert!(*got.borrow() == sent, "{} of {} bytes", got.borrow().len(), sent.len());
    });
}

/// Runs four writers into a kill or a power cut; how many acknowledged writes it lost.
fn lost_acks(seed: u64, durable: bool) -> usize {
    let sim = Sim::new(seed);
    let node = sim.node(NODE);
    let env = node.env(ShardId(0));
    let acked = Rc::new(RefCell::new(Vec::new()));
    for lane in 0..4u64 {
        let (env, acked) = (env.clone(), acked.clone());
        env.clone().spawn(Class::Foreground, async move {
            let file = create(&env, &format!("log-{lane}")).await;
            for number in 0..200u64 {
                let buf = filled(number as u8 + 1, 1);
                let (result, _) = file.write_at(buf, SECTOR_LEN, number * SECTOR, durable).await;
                result.expect("no faults are on");
                acked.borrow_mut().push((lane, number));
            }
        });
    }
    let mut rng = sim.rng();
    sim.run_for(Duration::from_micros(rng.between(1, 20_000)));
    if rng.one_in(2) {
        node.kill();
    } else {
        node.power_cut();
    }

    let is_lost = |lane: u64, number: u64| {
        let file = node.read_file(format!("log-{lane}")).expect("its name was synced");
        let sector = file.get((number * SECTOR) as usize..).and_then(|rest| rest.get(..SECTOR_LEN));
        sector != Some(&[number as u8 + 1; SECTOR_LEN])
    };
    acked.borrow().iter().filter(|(lane, number)| is_lost(*lane, *number)).count()
}

#[test]
fn durable_writes_survive_power_cuts() {
    check(200, |seed| assert_eq!(lost_acks(seed, true), 0));
}

/// The planted bug: an ack before the write is durable.
#[test]
fn acks_before_durable_writes_are_caught() {
    let caught = (0..50).filter(|seed| lost_acks(*seed, false) > 0).count();
    assert!(caught > 10, "in {caught} of 50 seeds");
}

#[test]
fn time_and_clocks_are_the_nodes_own() {
    let sim = Sim::new(1);
    let node = sim.node(NODE);
    sim.run_for(Duration::from_secs(100));
    node.restart();
    let env = node.env(ShardId(0));
    assert_eq!((env.now(), env.unix_ms()), (Duration::ZERO, WALL_START_MS + 100_000));

    node.set_wall_offset_ms(-30_000);
    sim.run_on(&env, async |env| env.sleep(Duration::from_secs(1)).await);

    assert!((1_000..1_010).contains(&env.now().as_millis()), "{:?}", env.now());
    assert_eq!(env.unix_ms() / 100, (WALL_START_MS + 71_000) / 100);
}

#[test]
fn paused_nodes_do_nothing_until_they_go_on() {
    let sim = Sim::new(1);
    let node = sim.node(NODE);
    let env = node.env(ShardId(0));
    let ticks = Rc::new(RefCell::new(0));
    let (inner, counted) = (env.clone(), ticks.clone());
    env.spawn(Class::Background, async move {
        loop {
            inner.sleep(Duration::from_millis(10)).await;
            *counted.borrow_mut() += 1;
        }
    });
    sim.run_for(Duration::from_secs(1));
    let before = *ticks.borrow();
    node.pause_for(Duration::from_secs(1));
    sim.run_for(Duration::from_millis(999));
    assert_eq!(*ticks.borrow(), before);
    sim.run_for(Duration::from_secs(1));
    assert!(*ticks.borrow() > before + 50 && before > 50, "{before} {ticks:?}");
}

#[test]
fn wakes_end_turns_of_this_shard_and_others() {
    check(50, |seed| {
        let sim = Sim::new(seed);
        let (one, two) = (sim.env(NODE, ShardId(0)), sim.env(NODE, ShardId(1)));
        let (waker, inner) = (two.waker(), one.clone());
        one.spawn(Class::Foreground, async move {
            inner.sleep(Duration::from_millis(5)).await;
            inner.notify();
            crate::env::Wake::wake(&waker);
        });
        for env in [one, two] {
            sim.run_on(&env, async |env| {
                let mut events = Vec::new();
                env.turn(&mut events).await;
                assert!(events.is_empty() && env.counters().turns == 1);
            });
        }
    });
}

#[test]
#[should_panic(expected = "of its own making")]
fn panics_of_tasks_are_the_tests() {
    let sim = Sim::new(1);
    let env = sim.env(NODE, ShardId(0));
    env.spawn(Class::Foreground, async { panic!("of its own making") });
    sim.run_for(Duration::from_secs(1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn waiting_for_nothing_is_a_deadlock() {
    Sim::new(1).run_until(|| false);
}

#[test]
fn dropped_sims_drop_their_tasks() {
    let held = Rc::new(());
    let sim = Sim::new(1);
    let env = sim.env(NODE, ShardId(0));
    let (inner, held_too) = (env.clone(), held.clone());
    env.spawn(Class::Foreground, async move {
        let _held = held_too;
        inner.turn(&mut Vec::new()).await;
    });
    sim.run_for(Duration::from_secs(1));
    drop(sim);
    assert_eq!(Rc::strong_count(&held), 1);
}

/// Prints virtual seconds per real second: `cargo test --release --lib sim_speed -- --ignored
/// --nocapture`. The load: 3 nodes of 2 shards, each ticking every 10 ms, writing 4 KiB durably
/// every 10 ms, and echoing for a client.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the figure is what it is for")]
fn sim_speed() {
    let sim = Sim::new(1);
    for (node, shard) in (1..4).flat_map(|node| (0..2).map(move |shard| (node, shard))) {
        let env = sim.env(NodeId(node), ShardId(shard));
        env.spawn(Class::Foreground, echo(env.clone()));
        let inner = env.clone();
        env.spawn(Class::Foreground, async move {
            let file = create(&inner, &format!("log-{shard}")).await;
            for number in 0u64.. {
                let buf = filled(number as u8, 1);
                let offset = number % 1_000 * SECTOR;
                file.write_at(buf, SECTOR_LEN, offset, true).await.0.expect("no faults are on");
                inner.sleep(Duration::from_millis(10)).await;
            }
        });
    }
    sim.run_for(Duration::from_millis(1));
    let clients: Vec<Client> = (1..4).map(|node| sim.connect(NodeId(node), PORT)).collect();
    let start = std::time::Instant::now();
    for _ in 0..10_000 {
        clients.iter().for_each(|client| client.send(b"*1\r\n$4\r\nPING\r\n"));
        sim.run_for(Duration::from_millis(10));
        clients.iter().for_each(|client| drop(client.received()));
    }
    let real = start.elapsed();
    let per_second = sim.now().as_secs_f64() / real.as_secs_f64();
    let steps = sim.steps() as f64 / real.as_secs_f64() / 1e6;
    println!("{per_second:.0} virtual s per s, {steps:.2} M steps per s");
}
