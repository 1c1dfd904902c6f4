//! The tasks of a shard: each fenced against panics, timed for the stall counter, and known, so
//! that it can be ended with the shard.
//!
//! glommio itself lets a panic unwind the whole executor, and leaks tasks that wait for something
//! when the executor ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use glommio::TaskQueueHandle;
use glommio::task::JoinHandle;

use crate::limits::STALL_MIN;

/// What was counted over all tasks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub stalls: u64,
    pub panics: u64,
}

/// The tasks of one shard.
#[derive(Default)]
pub struct Tasks {
    running: RefCell<Vec<Option<JoinHandle<()>>>>,
    free: RefCell<Vec<usize>>,
    operations: Cell<usize>,
    counts: Cell<Counts>,
}

impl Tasks {
    /// Adds a task to `queue`; it first runs after the caller.
    pub fn spawn(
        self: &Rc<Self>,
        queue: TaskQueueHandle,
        future: impl Future<Output = ()> + 'static,
    ) {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.running.borrow_mut().push(None);
            self.running.borrow().len() - 1
        });
        let (contained, tasks) = (self.contain(future), Rc::clone(self));
        let whole = async move {
            contained.await;
            let ended = tasks.running.borrow_mut()[index].take();
            drop(ended);
            tasks.free.borrow_mut().push(index);
        };
        let task = glommio::spawn_local_into(whole, queue).expect("a shard's queues live with it");
        self.running.borrow_mut()[index] = Some(task.detach());
    }

    /// Runs `operation` from now on, whether or not the result is awaited; the end of the shard
    /// waits for it.
    pub fn operate<T: 'static>(
        self: &Rc<Self>,
        operation: impl Future<Output = T> + 'static,
    ) -> impl Future<Output = T> + 'static {
        self.operations.set(self.operations.get() + 1);
        let (contained, tasks) = (self.contain(operation), Rc::clone(self));
        let whole = async move {
            let result = contained.await;
            tasks.operations.set(tasks.operations.get() - 1);
            result
        };
        let handle = glommio::spawn_local(whole).detach();
        async move { handle.await.flatten().expect("file operations do not panic") }
    }

    /// Operations that have not ended.
    pub fn operations(&self) -> usize {
        self.operations.get()
    }

    /// Counts stalls and panics of `future`; ends with nothing when it panicked.
    pub fn contain<F: Future>(self: &Rc<Self>, future: F) -> Contained<F> {
        Contained { future: Box::pin(future), tasks: Rc::clone(self) }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Drops all tasks, also those that a task's drop may spawn.
    pub async fn cancel_all(&self) {
        loop {
            self.free.borrow_mut().clear();
            let running: Vec<_> = self.running.take().into_iter().flatten().collect();
            if running.is_empty() {
                return;
            }
            running.iter().for_each(JoinHandle::cancel);
            for task in running {
                task.await;
            }
        }
    }
}

/// See [`Tasks::contain`].
pub struct Contained<F> {
    future: Pin<Box<F>>,
    tasks: Rc<Tasks>,
}

impl<F: Future> Future for Contained<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let begin = Instant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx)));
        let mut counts = self.tasks.counts.get();
        counts.stalls += u64::from(begin.elapsed() > STALL_MIN);
        counts.panics += u64::from(polled.is_err());
        self.tasks.counts.set(counts);
        match polled {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}
