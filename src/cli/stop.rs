//! Why a server ends: a signal, a `SHUTDOWN`, or a failure, in one queue.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::env::os::{self, Signal};

/// A reason to end, or the news that the end is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The operator or a supervisor asks.
    Signal(Signal),
    /// A client asked (`SHUTDOWN`).
    Requested,
    /// A shard can not go on; the sentence says why.
    Failed(String),
    /// All threads have ended; the sentence says what went wrong meanwhile.
    Ended(Result<(), String>),
}

/// Asks the server to end, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Stop>);

impl Stopper {
    /// Asks. The first one counts; one that comes too late is dropped.
    pub fn stop(&self, stop: Stop) {
        // The receiver is gone only when the process is about to be.
        let _ = self.0.send(stop);
    }
}

/// Where the main thread waits.
pub(super) struct Stops(Receiver<Stop>, Sender<Stop>);

impl Stops {
    /// An empty queue.
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel();
        Self(receiver, sender)
    }

    /// A handle for others.
    pub(super) fn stopper(&self) -> Stopper {
        Stopper(self.1.clone())
    }

    /// Lets signals in; [`os::block_signals`] must have been called.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn listen_for_signals(&self) -> io::Result<()> {
        let stopper = self.stopper();
        let wait = move || {
            while let Ok(signal) = os::wait_signal() {
                stopper.stop(Stop::Signal(signal));
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
    }

    /// The next reason; none when `limit` has passed first.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<Stop> {
        match limit {
            None => self.0.recv().ok(),
            Some(limit) => self.0.recv_timeout(limit).ok(),
        }
    }
}
