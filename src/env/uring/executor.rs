//! The local executor: tasks of one shard, two run queues, wakers that are a task's number.
//!
//! Foreground tasks run until none is ready; background tasks get a time slice per turn. Each poll
//! is timed for the stall detector and fenced against panics.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker as TaskWaker};
use std::time::{Duration, Instant};

use super::wake::Waker;
use crate::env::Class;
use crate::limits::STALL_MIN;

/// How long background tasks may run in one turn before the rings are looked at.
const BACKGROUND_SLICE: Duration = Duration::from_micros(200);

thread_local! {
    /// The queue of the executor that runs on this thread, for wakers.
    static READY: RefCell<VecDeque<u32>> = const { RefCell::new(VecDeque::new()) };
    /// Which executor that is; 0: none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    class: Class,
    waker: TaskWaker,
}

/// A waker that knows its task by number and its executor by name: on its own thread a wake is a
/// push to a queue, from any other it goes through the lock in [`Waker`].
struct Handle {
    executor: u64,
    task: u32,
    remote: Waker,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if CURRENT.get() == self.executor {
            READY.with_borrow_mut(|ready| ready.push_back(self.task));
        } else {
            self.remote.wake_task(self.task);
        }
    }
}

/// What the executor counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub stalls: u64,
    pub panics: u64,
}

/// The tasks of one shard.
pub struct Executor {
    name: u64,
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<u32>>,
    background: RefCell<VecDeque<u32>>,
    remote: Waker,
    counts: Cell<Counts>,
}

impl Executor {
    /// The executor of this thread; `remote` carries wakes from others.
    pub fn new(name: u64, remote: Waker) -> Self {
        assert!(CURRENT.get() == 0, "a thread runs one executor");
        CURRENT.set(name);
        READY.with_borrow_mut(VecDeque::clear);
        Self {
            name,
            tasks: RefCell::default(),
            free: RefCell::default(),
            background: RefCell::default(),
            remote,
            counts: Cell::default(),
        }
    }

    /// Adds a task, ready to run.
    pub fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(tasks.len() as u32);
        let handle = Handle { executor: self.name, task: index, remote: self.remote.clone() };
        let task = Task {
            future: Some(Box::pin(future)),
            class,
            waker: TaskWaker::from(Arc::new(handle)),
        };
        match tasks.get_mut(index as usize) {
            Some(place) => *place = Some(task),
            None => tasks.push(Some(task)),
        }
        READY.with_borrow_mut(|ready| ready.push_back(index));
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Whether a task is ready.
    pub fn is_ready(&self) -> bool {
        READY.with_borrow(|ready| !ready.is_empty()) || !self.background.borrow().is_empty()
    }

    /// Runs foreground tasks until none is ready, then background ones for a slice.
    pub fn run(&self) {
        let mut clock = Instant::now();
        self.run_foreground(&mut clock);
        let slice = clock;
        while clock.duration_since(slice) < BACKGROUND_SLICE {
            let Some(index) = self.background.borrow_mut().pop_front() else { break };
            self.poll(index, &mut clock);
            self.run_foreground(&mut clock);
        }
    }

    /// Makes tasks ready that other threads woke.
    pub fn take_remote(&self) {
        let tasks = self.remote.take_tasks();
        READY.with_borrow_mut(|ready| ready.extend(tasks));
    }

    /// Drops all tasks: the shard ends.
    pub fn clear(&self) {
        // One at a time and not borrowed: a task's drop may spawn or wake.
        loop {
            let Some(task) = self.tasks.borrow_mut().pop() else { break };
            drop(task);
        }
    }

    fn run_foreground(&self, clock: &mut Instant) {
        while let Some(index) = READY.with_borrow_mut(VecDeque::pop_front) {
            match self.class_of(index) {
                Some(Class::Foreground) => self.poll(index, clock),
                Some(Class::Background) => self.background.borrow_mut().push_back(index),
                None => {}
            }
        }
    }

    fn class_of(&self, index: u32) -> Option<Class> {
        self.tasks.borrow().get(index as usize)?.as_ref().map(|task| task.class)
    }

    /// Polls one task outside of any borrow. A wake of a task that has ended, or that was queued
    /// twice, finds nothing to do.
    fn poll(&self, index: u32, clock: &mut Instant) {
        let (future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(Some(task)) = tasks.get_mut(index as usize) else { return };
            (task.future.take(), task.waker.clone())
        };
        let Some(mut future) = future else { return };
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        let mut counts = self.counts.get();
        match polled {
            Ok(Poll::Pending) => {
                if let Some(Some(task)) = self.tasks.borrow_mut().get_mut(index as usize) {
                    task.future = Some(future);
                }
            }
            Ok(Poll::Ready(())) => self.end(index),
            Err(_) => {
                counts.panics += 1;
                self.end(index);
            }
        }
        let now = Instant::now();
        counts.stalls += u64::from(now.duration_since(*clock) > STALL_MIN);
        *clock = now;
        self.counts.set(counts);
    }

    fn end(&self, index: u32) {
        self.tasks.borrow_mut()[index as usize] = None;
        self.free.borrow_mut().push(index);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        CURRENT.set(0);
    }
}
