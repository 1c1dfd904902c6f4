//! Tasks, and whose turn it is. One thread runs the tasks of all shards of all nodes; the seed
//! says in which order.
//!
//! A task runs until it waits; then another ready one is picked. Which one depends on the policy
//! drawn for the seed: any, mostly the oldest, or mostly the newest. Orders that an even draw would
//! hardly ever make thus come up in one seed of three.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use super::rng::Rng;
use crate::id::{NodeId, ShardId};

/// Which life of which shard something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub node: NodeId,
    pub shard: ShardId,
    /// Rises each time the node goes down.
    pub life: u64,
}

/// How the next task is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Any,
    MostlyOldest,
    MostlyNewest,
}

impl Policy {
    pub fn drawn(rng: &mut Rng) -> Self {
        [Self::Any, Self::MostlyOldest, Self::MostlyNewest][rng.index(3)]
    }

    fn pick(self, len: usize, rng: &mut Rng) -> usize {
        match self {
            Self::MostlyOldest if !rng.one_in(8) => 0,
            Self::MostlyNewest if !rng.one_in(8) => len - 1,
            _ => rng.index(len),
        }
    }
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    owner: Owner,
    /// Taken out while it runs.
    future: Option<TaskFuture>,
    wake: Arc<TaskWake>,
    waker: Waker,
}

#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

impl Ready {
    fn queue(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWake {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.queue().push(self.id);
        }
    }
}

/// All tasks of a simulation.
#[derive(Default)]
pub(super) struct Executor {
    tasks: RefCell<BTreeMap<u64, Task>>,
    spawned: Cell<u64>,
    ready: Arc<Ready>,
    /// Ready tasks of paused nodes.
    parked: RefCell<Vec<u64>>,
}

impl Executor {
    pub fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        let id = self.spawned.get();
        self.spawned.set(id + 1);
        let ready = self.ready.clone();
        let wake = Arc::new(TaskWake { id, queued: AtomicBool::new(false), ready });
        let waker = Waker::from(wake.clone());
        waker.wake_by_ref();
        let task = Task { owner, future: Some(Box::pin(future)), wake, waker };
        self.tasks.borrow_mut().insert(id, task);
    }

    /// A ready task, taken from the queue. Those of paused nodes wait for [`Executor::unpark`].
    pub fn pick(
        &self,
        policy: Policy,
        rng: &mut Rng,
        paused: impl Fn(NodeId) -> bool,
    ) -> Option<(u64, Owner)> {
        loop {
            let id = {
                let mut queue = self.ready.queue();
                if queue.is_empty() {
                    return None;
                }
                let index = policy.pick(queue.len(), rng);
                queue.remove(index)
            };
            match self.tasks.borrow().get(&id).map(|task| task.owner) {
                Some(owner) if paused(owner.node) => self.parked.borrow_mut().push(id),
                Some(owner) => return Some((id, owner)),
                None => {}
            }
        }
    }

    /// Makes what was found ready on a paused node ready again.
    pub fn unpark(&self) {
        self.ready.queue().append(&mut self.parked.borrow_mut());
    }

    /// Runs a task until it waits or ends. Nothing may be borrowed: it is foreign code.
    pub fn run(&self, id: u64) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|task| {
            task.wake.queued.store(false, Ordering::Relaxed);
            task.future.take().map(|future| (future, task.waker.clone()))
        });
        let Some((mut future, waker)) = taken else { return };
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            let task = self.tasks.borrow_mut().remove(&id);
            drop(task);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
            return;
        }
        // Here the task has ended, or the node went down in mid-run.
        drop(future);
    }

    /// Drops the tasks that `goes` names. Nothing may be borrowed: their drop is foreign code.
    pub fn end(&self, goes: impl Fn(Owner) -> bool) {
        let mut tasks = self.tasks.borrow_mut();
        let ids: Vec<u64> =
            tasks.iter().filter(|(_, task)| goes(task.owner)).map(|(id, _)| *id).collect();
        let ended: Vec<Task> = ids.iter().filter_map(|id| tasks.remove(id)).collect();
        drop(tasks);
        drop(ended);
    }
}
