//! What becomes of a manifest in crashes, and what an opening does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::env::Class;
use crate::id::{NodeId, ShardId};
use crate::lsm::manifest::samples::{LOG, edit};
use crate::sim::{Faults, Node, Sim, SimEnv, check};

const DIR: &str = "shard-03/tree";

fn options() -> Options {
    Options { dir: PathBuf::from(DIR), log: LOG }
}

async fn open(env: &SimEnv) -> Result<Manifest<SimEnv>, Error> {
    let read = Read::of(env, &options()).await?;
    Manifest::open(env, &options(), read).await
}

fn node(sim: &Sim) -> Node {
    let node = sim.node(NodeId(1));
    node.make_dir(".");
    node
}

/// Edits are committed until the power goes, with and without a disk that fails; the next start
/// finds the last one that was durable, or the one that was on its way.
#[test]
fn power_cuts_lose_nothing_that_was_committed() {
    check(60, |seed| {
        let sim = Sim::new(seed);
        let node = node(&sim);
        let mut rng = sim.rng();
        let mut durable = State::default();
        let mut next = 1;
        for life in 0..4 {
            if !node.is_up() {
                node.restart();
            }
            let env = node.env(ShardId(3));
            let found = sim.run_on(&env, async move |env| Read::of(&env, &options()).await);
            let found = found.unwrap_or_else(|error| panic!("life {life}: {error}"));
            let found = found.state().clone();
            let is_next = found.tables().count() == durable.tables().count() + 1;
            let is_right = found == durable || is_next && found.has(next - 1);
            assert!(is_right, "life {life}: {found:?} instead of {durable:?}");
            durable = found;
            if rng.one_in(3) {
                node.set_faults(Faults::errors(20_000));
            }
            let shared = Rc::new(RefCell::new((durable.clone(), next)));
            let inner = Rc::clone(&shared);
            env.spawn(Class::Background, {
                let env = env.clone();
                async move {
                    let Ok(mut manifest) = open(&env).await else { return };
                    for _ in 0..30 {
                        let number = {
                            let mut known = inner.borrow_mut();
                            known.1 += 1;
                            known.1 - 1
                        };
                        // Long, so that files are rolled.
                        let mut edit = edit(number, Vec::new());
                        edit.add[0].meta.largest = vec![b'z'; 100_000];
                        let mut committed = manifest.commit(edit).await;
                        while committed.is_err() {
                            committed = manifest.renew().await;
                        }
                        inner.borrow_mut().0 = manifest.state().clone();
                    }
                }
            });
            sim.run_for(Duration::from_micros(rng.between(10, 60_000)));
            node.power_cut();
            node.set_faults(Faults::none());
            let known = shared.borrow();
            (durable, next) = (known.0.clone(), known.1);
        }
    });
}

#[test]
fn opening_removes_what_nobody_needs_and_minds_what_it_does_not_know() {
    let sim = Sim::new(5);
    let node = node(&sim);
    let env = node.env(ShardId(3));
    let names = sim.run_on(&env, async move |env| {
        let mut manifest = open(&env).await.expect("an empty directory");
        manifest.commit(edit(1, Vec::new())).await.expect("the disk works");
        drop(manifest);
        for name in ["00000000000000000001.sst", "00000000000000000002.sst", "notes.txt"] {
            env.open(&Path::new(DIR).join(name), Mode::Create).await.expect("it is new");
        }
        open(&env).await.expect("nothing is wrong");
        env.list(Path::new(DIR)).await.expect("it is there")
    });

    let manifest = file_name(2);
    assert_eq!(names, ["00000000000000000001.sst", manifest.as_str(), "notes.txt"]);
}

#[test]
fn tables_without_a_manifest_are_refused() {
    let sim = Sim::new(6);
    let node = node(&sim);
    node.make_dir(DIR);
    let env = node.env(ShardId(3));
    let read = sim.run_on(&env, async move |env| {
        let path = Path::new(DIR).join("00000000000000000001.sst");
        env.open(&path, Mode::Create).await.expect("it is new");
        Read::of(&env, &options()).await
    });

    assert!(matches!(read, Err(Error::Lost { .. })), "{read:?}");
}
