//! Waking a shard from another thread: a flag that a busy shard polls and an eventfd that a
//! sleeping one reads through its ring.
//!
//! The sleeper says so, fences, and looks at the flag once more; the waker raises the flag, fences,
//! and looks whether the other sleeps. One of the two sees the other (Dekker's pattern), so no
//! wake-up is lost and a wake of an awake shard is two memory accesses.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::env::{Wake, os};

/// The part of a shard's runtime that other threads touch.
pub struct Shared {
    notified: AtomicBool,
    sleeping: AtomicBool,
    eventfd: File,
    /// Tasks woken by other threads: rare, so a lock is fine.
    tasks: Mutex<Vec<u32>>,
}

/// Wakes the shard it was made by.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// With a fresh eventfd.
    ///
    /// # Errors
    /// As `eventfd`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            notified: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            eventfd: os::eventfd()?,
            tasks: Mutex::new(Vec::new()),
        })))
    }

    /// What the sleeping shard reads.
    pub fn fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }

    /// The same, for a runtime that polls it.
    pub fn eventfd(&self) -> &File {
        &self.0.eventfd
    }

    /// Whether [`Wake::wake`] was called since the last [`Waker::take`].
    pub fn is_notified(&self) -> bool {
        self.0.notified.load(Ordering::Acquire)
    }

    /// Takes the notice.
    pub fn take(&self) -> bool {
        self.is_notified() && self.0.notified.swap(false, Ordering::AcqRel)
    }

    /// Announces sleep. False: a notice came in between, so do not.
    pub fn fall_asleep(&self) -> bool {
        self.0.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.is_notified() {
            self.wake_up();
            return false;
        }
        true
    }

    /// Ends sleep.
    pub fn wake_up(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
    }

    /// Makes the shard run `task`, from a thread that is not its own.
    pub fn wake_task(&self, task: u32) {
        self.0.tasks.lock().expect("no one panics holding it").push(task);
        self.wake();
    }

    /// Takes the tasks woken by other threads.
    pub fn take_tasks(&self) -> Vec<u32> {
        std::mem::take(&mut self.0.tasks.lock().expect("no one panics holding it"))
    }
}

impl Wake for Waker {
    fn wake(&self) {
        self.0.notified.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed) && self.0.sleeping.swap(false, Ordering::AcqRel)
        {
            // An eventfd write fails only when its counter is full, and then the reader is awake.
            let _ = (&self.0.eventfd).write(&1u64.to_ne_bytes());
        }
    }
}
