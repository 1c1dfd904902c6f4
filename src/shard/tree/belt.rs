//! A short queue between the loop of a shard and a task of it: one side waits, the other asks.
//!
//! The loop never waits: it puts only when there is room, and takes what is there. The task waits
//! for either, and tells the loop itself ([`crate::env::Env::notify`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Things on a belt: what is put on it before one is taken, at most.
const LEN_MAX: usize = 4;

struct Inside<T> {
    things: VecDeque<T>,
    /// One side has gone: nothing more comes, or nobody takes it.
    is_closed: bool,
    /// The task's.
    waker: Option<Waker>,
}

/// See the module's header. A handle.
pub struct Belt<T>(Rc<RefCell<Inside<T>>>);

impl<T> Clone for Belt<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Belt<T> {
    fn default() -> Self {
        let inside = Inside { things: VecDeque::new(), is_closed: false, waker: None };
        Self(Rc::new(RefCell::new(inside)))
    }
}

/// The loop's side.
impl<T> Belt<T> {
    /// Whether another thing may be put on it.
    pub fn has_room(&self) -> bool {
        self.0.borrow().things.len() < LEN_MAX
    }

    /// Puts a thing on it, for the task.
    pub fn put(&self, thing: T) {
        self.tell(|inside| inside.things.push_back(thing));
    }

    /// The next thing of the task's, if it is there.
    pub fn take(&self) -> Option<T> {
        self.tell(|inside| inside.things.pop_front())
    }

    /// This side goes, or nothing more comes of it: the task finds what is on the belt, then none.
    pub fn close(&self) {
        self.tell(|inside| inside.is_closed = true);
    }

    /// Whether nothing is on it and nothing more comes.
    pub fn is_over(&self) -> bool {
        let inside = self.0.borrow();
        inside.is_closed && inside.things.is_empty()
    }

    fn tell<R>(&self, what: impl FnOnce(&mut Inside<T>) -> R) -> R {
        let mut inside = self.0.borrow_mut();
        let found = what(&mut inside);
        if let Some(waker) = inside.waker.take() {
            waker.wake();
        }
        found
    }
}

/// The task's side.
impl<T> Belt<T> {
    /// Waits for room. False: the loop has gone.
    pub async fn room(&self) -> bool {
        let room = |inside: &mut Inside<T>| match inside.is_closed {
            true => Some(false),
            false => (inside.things.len() < LEN_MAX).then_some(true),
        };
        self.until(room).await
    }

    /// Waits for the next thing; none: nothing more comes.
    pub async fn next(&self) -> Option<T> {
        let next = |inside: &mut Inside<T>| match inside.things.pop_front() {
            None => inside.is_closed.then_some(None),
            found => Some(found),
        };
        self.until(next).await
    }

    async fn until<R>(&self, mut what: impl FnMut(&mut Inside<T>) -> Option<R>) -> R {
        poll_fn(|cx| {
            let mut inside = self.0.borrow_mut();
            match what(&mut inside) {
                Some(found) => Poll::Ready(found),
                None => {
                    inside.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
