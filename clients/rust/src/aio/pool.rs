//! A bounded number of connections, made when needed and made again when lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::conn::{self, Conn};
use super::in_time;
use crate::error::{Error, Reason, Result};
use crate::once::Names;
use crate::options::Options;
use crate::retry::random;

#[derive(Debug)]
pub(super) struct Pool {
    options: Options,
    names: Arc<Names>,
    slots: Vec<Slot>,
    /// Which slot is next.
    turn: AtomicUsize,
}

/// A place for a connection.
#[derive(Debug, Default)]
struct Slot {
    /// Whoever finds no connection makes one, holding this; others wait for the same.
    state: Mutex<State>,
    /// How many attempts to connect have failed.
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    conn: Option<Arc<Conn>>,
    /// Attempts that failed in a row.
    failures: u32,
    /// No attempt before this time, and why.
    pause: Option<(Instant, Error)>,
}

impl Pool {
    pub fn new(options: Options) -> Self {
        let slots = (0..options.connections_max).map(|_| Slot::default()).collect();
        Self { options, names: Arc::default(), slots, turn: AtomicUsize::new(0) }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// A connection that was good a moment ago.
    ///
    /// # Errors
    /// None can be made now, or not in time.
    pub async fn get(&self, deadline: Instant) -> Result<Arc<Conn>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let slot = &self.slots[turn % self.slots.len()];
        let failed = slot.failed.load(Ordering::Relaxed);
        let mut state = in_time(deadline, "a connection", slot.state.lock()).await?;
        let has_failed = slot.failed.load(Ordering::Relaxed) != failed;
        match state.conn.take_if(|conn| conn.is_closed()) {
            // It answered to the hello and to nothing else: that is no better than no connection.
            Some(conn) if !conn.has_answered() => {
                let error = Reason::ConnectionLost("closed without an answer".to_owned());
                self.note(slot, &mut state, Error::NotDone(error));
            }
            Some(_) => state.failures = 0,
            None => {}
        }
        let number = self.names.session().number;
        // What is under way on one that is in an older session ends there.
        state.conn.take_if(|conn| ![0, number].contains(&conn.session_number()));
        if let Some(conn) = &state.conn {
            return Ok(conn.clone());
        }
        if let Some((until, error)) = state.pause.clone() {
            // An attempt that failed while we waited was ours too; a pause that is longer than we
            // may wait leaves nothing to wait for.
            if has_failed || until >= deadline {
                return Err(error);
            }
            sleep_until(until).await;
        }
        state.pause = None;
        let made = self.connect(deadline).await.map(Arc::new);
        match &made {
            Ok(conn) => state.conn = Some(conn.clone()),
            Err(error) => self.note(slot, &mut state, error.clone()),
        }
        made
    }

    /// An attempt has failed: the next one comes after a pause.
    fn note(&self, slot: &Slot, state: &mut State, error: Error) {
        self.names.pass_on();
        state.failures += 1;
        let pause = self.options.backoff.delay(state.failures, random());
        state.pause = Some((Instant::now() + pause, error));
        slot.failed.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(&self, deadline: Instant) -> Result<Conn> {
        let deadline = deadline.min(Instant::now() + self.options.connect_deadline);
        in_time(deadline, "the connection to be made", conn::connect(&self.options, &self.names))
            .await?
    }
}
