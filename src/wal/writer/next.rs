//! The next segment, made ready by a background task while the present one fills.
//!
//! When it comes late, or the disk is full, what is appended gathers in memory, and
//! [`super::Writer::backlog_len`] tells how much.

use std::rc::Rc;
use std::time::Duration;

use super::{Shared, State, pump};
use crate::env::{Class, Env};
use crate::wal::Error;
use crate::wal::supply::{self, Segment};

/// How long a full disk is left alone before a segment is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Between two looks whether a segment's header is durable: about a write.
const BEGUN_DELAY: Duration = Duration::from_micros(200);

/// See the module's header.
pub struct Next<E: Env> {
    /// Durably named.
    ready: Option<Segment<E>>,
    /// A task is at work on it.
    is_arming: bool,
    is_disk_full: bool,
    /// Files to make it of, by number.
    spares: Vec<u64>,
    /// A number that no file's name has.
    name_next: u64,
}

impl<E: Env> Next<E> {
    /// None is ready; it is made of one of `spares`, or of a file with a name from `name_next` on.
    pub fn new(spares: Vec<u64>, name_next: u64) -> Self {
        Self { ready: None, is_arming: false, is_disk_full: false, spares, name_next }
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Takes it.
    pub fn take(&mut self) -> Option<Segment<E>> {
        self.ready.take()
    }

    /// Whether a task is at work on it.
    pub fn is_arming(&self) -> bool {
        self.is_arming
    }

    /// Whether it can not be made because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.is_disk_full
    }

    /// Whether another spare is welcome besides `more` that are being made.
    pub fn has_room(&self, more: usize) -> bool {
        self.spares.len() + more < supply::SPARES_MAX
    }

    /// A number that no file's name has had.
    pub fn name(&mut self) -> u64 {
        self.name_next += 1;
        self.name_next - 1
    }

    /// Takes a file to make a segment of: the spare with that number, durably named and of the
    /// length of new segments, on its way to which is no write.
    pub fn add_spare(&mut self, number: u64) {
        self.spares.push(number);
    }

    /// What it can be made of: a spare, if there is one, and a number for a new file's name.
    fn material(&mut self) -> (Option<u64>, u64) {
        (self.spares.pop(), self.name())
    }
}

/// Sees to it that the next segment is made ready, unless the log is at its end.
pub fn see_to<E: Env>(env: &E, shared: &Shared<E>) {
    let mut state = shared.borrow_mut();
    let is_needed = !state.next.is_ready() && !state.is_over();
    if is_needed && !std::mem::replace(&mut state.next.is_arming, true) {
        env.spawn(Class::Background, arm(env.clone(), Rc::clone(shared)));
    }
}

/// Makes the next segment ready; while the disk is full, tries again and again.
async fn arm<E: Env>(env: E, shared: Shared<E>) {
    if !until_begun(&env, &shared).await {
        return give_up(&shared);
    }
    loop {
        let (options, seq, (spare, new)) = {
            let mut state = shared.borrow_mut();
            (state.options.clone(), state.tail.seq() + 1, state.next.material())
        };
        let stopped = || shared.borrow().is_closing;
        let result = supply::prepare(&env, &options, seq, spare, new, stopped).await;
        let again = armed(&shared, result);
        env.notify();
        if !again {
            return pump(&env, &shared);
        }
        env.sleep(RETRY_DELAY).await;
        if shared.borrow().is_closing {
            return give_up(&shared);
        }
    }
}

fn give_up<E: Env>(shared: &Shared<E>) {
    let mut state = shared.borrow_mut();
    state.next.is_arming = false;
    state.wake_closer();
}

/// Until the header of the present segment is durable; false if that is not to be waited for. So a
/// segment's name proves to a replay that the one before was begun.
async fn until_begun<E: Env>(env: &E, shared: &Shared<E>) -> bool {
    let waits =
        |state: &State<E>| !state.is_over() && state.in_flight.durable() < state.tail.begun();
    while waits(&shared.borrow()) {
        env.sleep(BEGUN_DELAY).await;
    }
    !shared.borrow().is_over()
}

/// Takes what became of an attempt at the next segment; whether to try again.
fn armed<E: Env>(shared: &Shared<E>, result: Result<Option<Segment<E>>, Error>) -> bool {
    let mut state = shared.borrow_mut();
    let was_full = std::mem::replace(&mut state.next.is_disk_full, false);
    match result {
        Ok(ready) => state.next.ready = ready,
        Err(error) if error.is_disk_full() => {
            if !was_full {
                tracing::warn!(shard = state.options.shard.0, %error, "no room for a log segment");
            }
            state.next.is_disk_full = true;
        }
        Err(error) => state.fail(error),
    }
    state.next.is_arming = state.next.is_disk_full && !state.is_closing;
    state.wake_closer();
    state.next.is_arming
}
