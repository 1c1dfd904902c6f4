//! A bounded number of connections: taken for a request, given back, made again when lost.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Instant;

use super::conn::Conn;
use crate::answer::late;
use crate::error::{Error, Reason, Result};
use crate::once::Names;
use crate::options::Options;
use crate::retry::random;

#[derive(Debug)]
pub(super) struct Pool {
    options: Options,
    names: Arc<Names>,
    state: Mutex<State>,
    /// A connection was given back, or a place for one.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Conn>,
    /// Connections that are taken or being made.
    taken: usize,
    /// Attempts to connect that failed in a row.
    failures: u32,
    /// No attempt before this time, and why.
    pause: Option<(Instant, Error)>,
}

/// A connection that goes back to its pool.
pub(super) struct Taken<'a> {
    pool: &'a Pool,
    /// None only while it is made or given back.
    conn: Option<Conn>,
}

impl Pool {
    pub fn new(options: Options) -> Self {
        Self { options, names: Arc::default(), state: Mutex::default(), freed: Condvar::new() }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was good a moment ago.
    ///
    /// # Errors
    /// None can be made, or none is free in time.
    pub fn get(&self, deadline: Instant) -> Result<Taken<'_>> {
        let mut state = self.lock();
        let pause = loop {
            while let Some(conn) = state.idle.pop() {
                let is_of_now = [0, self.names.session().number].contains(&conn.session_number());
                if is_of_now && conn.is_alive() {
                    state.taken += 1;
                    return Ok(Taken { pool: self, conn: Some(conn) });
                }
            }
            if state.taken < self.options.connections_max {
                state.taken += 1;
                break state.pause.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late("a free connection"));
            }
            let waited = self.freed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        // From here on, dropping it frees its place.
        let mut taken = Taken { pool: self, conn: None };
        if let Some((until, error)) = pause {
            // A pause longer than we may wait leaves nothing to wait for.
            if until >= deadline {
                return Err(error);
            }
            sleep(until.saturating_duration_since(Instant::now()));
        }
        let made = Conn::connect(&self.options, &self.names, deadline);
        if let Err(error) = &made {
            self.names.pass_on();
            self.lock().note(&self.options, error.clone());
        }
        taken.conn = Some(made?);
        Ok(taken)
    }
}

impl State {
    /// An attempt has failed: the next one comes after a pause.
    fn note(&mut self, options: &Options, error: Error) {
        self.failures += 1;
        let pause = options.backoff.delay(self.failures, random());
        self.pause = Some((Instant::now() + pause, error));
    }
}

impl Deref for Taken<'_> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("it is there while it is taken")
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("it is there while it is taken")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.taken -= 1;
        match self.conn.take() {
            // It answered to the hello and to nothing else: that is no better than no connection.
            Some(conn) if !conn.is_good() && !conn.has_answered() => {
                let reason = Reason::ConnectionLost("closed without an answer".to_owned());
                state.note(&self.pool.options, Error::NotDone(reason));
            }
            Some(conn) => {
                (state.failures, state.pause) = (0, None);
                state.idle.extend(Some(conn).filter(Conn::is_good));
            }
            None => {}
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
