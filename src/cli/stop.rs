//! Why a server ends: a signal, or by itself. Both come to the main thread in one queue.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::env::process::{self, Signal};

/// What the main thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The operator or a supervisor asks.
    Signal(Signal),
    /// The server has ended; the sentence says what went wrong.
    Ended(Result<(), String>),
}

/// The queue.
pub(super) struct Stops {
    sender: Sender<Stop>,
    receiver: Receiver<Stop>,
}

impl Stops {
    /// An empty queue.
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }

    /// Lets signals in; [`process::block_signals`] must have been called.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn add_signals(&self) -> io::Result<()> {
        let sender = self.sender.clone();
        let forward = move || {
            while let Ok(signal) = process::wait_signal() {
                if sender.send(Stop::Signal(signal)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(forward).map(drop)
    }

    /// Lets the end of the server in: `wait` returns when it has ended.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn add_end(
        &self,
        wait: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<()> {
        let sender = self.sender.clone();
        let forward = move || {
            // Without a receiver the process is about to end.
            let _ = sender.send(Stop::Ended(wait()));
        };
        thread::Builder::new().name("end".to_owned()).spawn(forward).map(drop)
    }

    /// The next that comes; none when `limit` has passed first.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<Stop> {
        match limit {
            None => self.receiver.recv().ok(),
            Some(limit) => self.receiver.recv_timeout(limit).ok(),
        }
    }
}
