//! What becomes of an edit that the disk refuses.

use std::cell::Cell;

use super::*;
use crate::env::Class;
use crate::id::{NodeId, ShardId};
use crate::lsm::manifest::ShardState;
use crate::lsm::manifest::samples::LOG;
use crate::sim::{Failure, Node, Plan, Sim, SimEnv};

const DIR: &str = "shard-03/tree";

fn options() -> file::Options {
    file::Options { dir: PathBuf::from(DIR), log: LOG }
}

async fn read(env: SimEnv) -> State {
    let read = file::Read::of(&env, &options()).await.expect("it is whole");
    read.state().clone()
}

async fn open(env: SimEnv) -> Store<SimEnv> {
    let read = file::Read::of(&env, &options()).await.expect("it is whole");
    let manifest = Manifest::open(&env, &options(), read).await.expect("the disk works");
    Store::new(&env, Path::new(DIR), manifest, BTreeMap::new(), &[])
}

/// Says nothing but a number.
fn edit(number_next: u64) -> Edit {
    Edit { shard: Some(ShardState { number_next, ..ShardState::default() }), ..Edit::default() }
}

/// A store, and whether its first edit is written.
struct Scene {
    node: Node,
    env: SimEnv,
    store: Store<SimEnv>,
    is_done: Rc<Cell<bool>>,
}

/// Begins an edit on a disk that fails it as `plan` says.
fn committing(sim: &Sim, plan: impl FnOnce(&Node) -> Plan) -> Scene {
    let node = sim.node(NodeId(1));
    node.make_dir(".");
    let env = node.env(ShardId(3));
    let store = sim.run_on(&env, open);
    node.set_plan(Some(plan(&node)));
    let is_done = Rc::new(Cell::new(false));
    let (done, own) = (Rc::clone(&is_done), store.clone());
    env.spawn(Class::Background, async move {
        let committed = own.commit(|_| Some(edit(1))).await;
        assert!(committed.expect("the disk's errors are not the caller's"));
        done.set(true);
    });
    Scene { node, env, store, is_done }
}

#[test]
fn an_edit_whose_write_or_sync_failed_once_is_in_a_new_file() {
    for (seed, failure) in (0..20).zip([Failure::NoSpace, Failure::Eio].into_iter().cycle()) {
        for call in 1..=2 {
            let sim = Sim::new(seed);
            let Scene { node, is_done, .. } =
                committing(&sim, |node| Plan::Call(node.calls() + call, failure));
            sim.run_until(|| is_done.get());

            node.power_cut();
            node.restart();

            let state = sim.run_on(&node.env(ShardId(3)), read);
            assert_eq!(state.shard().number_next, 1, "seed {seed}, call {call}, {failure:?}");
            let manifests = node.names(DIR);
            let old = file::file_name(1);
            assert!(!manifests.contains(&old) || manifests.len() == 2, "{manifests:?}");
        }
    }
}

#[test]
fn a_disk_that_takes_no_manifest_is_tried_until_it_does_and_nothing_piles_up() {
    for failure in [Failure::NoSpace, Failure::Eio] {
        let sim = Sim::new(7);
        let Scene { node, env, is_done, .. } =
            committing(&sim, |_| Plan::Files(".manifest", failure));
        let table = Path::new(DIR).join(table::file_name(9));
        sim.run_on(&env, async move |env| {
            env.open(&table, crate::env::Mode::Create).await.expect("another one's work");
        });
        sim.run_for(10 * RETRY_DELAY);
        assert!(!is_done.get());
        assert!(node.names(DIR).len() <= 3, "{:?}", node.names(DIR));

        node.set_plan(None);
        sim.run_for(2 * RETRY_DELAY);

        assert!(is_done.get());
        let names = node.names(DIR);
        assert_eq!(names, [file::file_name(2), table::file_name(9)], "{failure:?}");
    }
}

#[test]
fn where_there_is_room_again_a_refused_edit_is_tried_soon() {
    for (failure, is_tried) in [(Failure::NoSpace, true), (Failure::Eio, false)] {
        let sim = Sim::new(9);
        let Scene { node, store, is_done, .. } =
            committing(&sim, |_| Plan::Files(".manifest", failure));
        sim.run_for(RETRY_DELAY / 2);
        assert!(store.is_refused());
        node.set_plan(None);

        store.look_again();
        assert_eq!(store.is_refused(), !is_tried, "{failure:?}");
        sim.run_for(RETRY_DELAY / 4);

        assert_eq!(is_done.get(), is_tried, "{failure:?}: room says nothing of a broken disk");
    }
}

#[test]
fn edits_that_wait_for_one_that_is_refused_follow_it() {
    let sim = Sim::new(8);
    let Scene { node, env, store, is_done } =
        committing(&sim, |_| Plan::Files(".manifest", Failure::Eio));
    sim.run_for(RETRY_DELAY);
    assert!(store.is_refused());
    let waiting = Rc::clone(&is_done);
    node.set_plan(None);

    sim.run_on(&env, async move |_| {
        for number in 2..5 {
            let committed = store.commit(|_| Some(edit(number))).await;
            assert!(committed.expect("it fits") && waiting.get());
        }
        assert!(!store.is_refused());
        let unfit = Edit { remove: vec![1], ..edit(9) };
        let unfit = store.commit(|_| Some(unfit)).await;
        assert!(matches!(unfit, Err(Error::Manifest(file::Error::Unfit(_)))), "{unfit:?}");
        let last = store.look(|state| state.shard().number_next);
        assert_eq!(last, Some(4), "what does not fit has changed nothing");
    });
}
