//! The next segment, made ready by a background task while the present one fills.
//!
//! It is made only where that leaves room for what flushes and compactions may need to let the log
//! end: until then the disk counts as full, and something is left of it to get out of that.
//!
//! When it comes late, or the disk is full, what is appended gathers in memory, and
//! [`super::Writer::backlog_len`] tells how much.

use std::rc::Rc;
use std::time::Duration;

use super::{Shared, State, pump};
use crate::env::{Class, Env};
use crate::wal::supply::{self, Segment};
use crate::wal::{Error, reserve};

/// How long a full disk is left alone before a segment is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
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
    /// Bytes of the reserve.
    reserve_len: u64,
    /// A task is at work on it.
    is_keeping: bool,
}

impl<E: Env> Next<E> {
    /// None is ready; it is made of one of `spares`, or of a file with a name from `name_next` on.
    /// Whether the disk is full is known from the opening.
    pub fn new(spares: Vec<u64>, name_next: u64, reserve_len: u64, is_disk_full: bool) -> Self {
        let (is_arming, is_keeping) = (false, false);
        Self { ready: None, is_arming, is_disk_full, spares, name_next, reserve_len, is_keeping }
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Takes it.
    pub fn take(&mut self) -> Option<Segment<E>> {
        self.ready.take()
    }

    /// Whether a task is at work on it, or on the reserve.
    pub fn is_at_work(&self) -> bool {
        self.is_arming || self.is_keeping
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

/// Makes the next segment ready; while the disk is full, tries again and again. Then the reserve,
/// or before where both may be too much.
async fn arm<E: Env>(env: E, shared: Shared<E>) {
    if !until_begun(&env, &shared).await {
        return give_up(&shared);
    }
    loop {
        if !has_plenty(&env, &shared.borrow()) {
            keep(&env, &shared).await;
        }
        let again = armed(&shared, make(&env, &shared).await);
        env.notify();
        if !again {
            pump(&env, &shared);
            return keep(&env, &shared).await;
        }
        env.sleep(RETRY_DELAY).await;
        if shared.borrow().is_closing {
            return give_up(&shared);
        }
    }
}

/// Makes the reserve, if it is missing or was made while there was less room.
async fn keep<E: Env>(env: &E, shared: &Shared<E>) {
    let (options, len, new) = {
        let state = &mut *shared.borrow_mut();
        if state.is_over() || std::mem::replace(&mut state.next.is_keeping, true) {
            return;
        }
        (state.options.clone(), state.next.reserve_len, state.next.name())
    };
    let made = reserve::make(env, &options, len, new, || shared.borrow().is_closing).await;
    let mut state = shared.borrow_mut();
    state.next.is_keeping = false;
    match made {
        Ok(len) => state.next.reserve_len = len,
        // Others took the room meanwhile: there is none for a segment either.
        Err(error) if error.is_disk_full() => {}
        Err(error) => {
            tracing::warn!(shard = options.shard.0, %error, "no room is kept for a full disk");
        }
    }
    state.wake_closer();
}

/// Makes the segment, if that leaves room enough. None: the log is closing.
async fn make<E: Env>(env: &E, shared: &Shared<E>) -> Result<Option<Segment<E>>, Error> {
    let stopped = || shared.borrow().is_closing;
    let (options, seq, (spare, new)) = {
        let mut state = shared.borrow_mut();
        check_room(env, &state)?;
        (state.options.clone(), state.tail.seq() + 1, state.next.material())
    };
    supply::prepare(env, &options, seq, spare, new, stopped).await
}

/// Whether there is room for the segment and the reserve, whatever flushes may need.
fn has_plenty<E: Env>(env: &E, state: &State<E>) -> bool {
    let free = env.free_len(&state.options.dir).unwrap_or(u64::MAX);
    free >= needed_len(state) + 2 * state.options.reserve_len
}

/// Bytes that are to be free before the segment is made.
fn needed_len<E: Env>(state: &State<E>) -> u64 {
    let State { options, next, held, layout, .. } = state;
    let own_len = if next.spares.is_empty() { options.segment_len } else { 0 };
    own_len + held.len(layout.appended()) + options.room_len
}

/// That there is room for the segment and, besides, for what flushes may make of the log and
/// compactions of that. So a disk that the log itself has filled has room for what empties it.
fn check_room<E: Env>(env: &E, state: &State<E>) -> Result<(), Error> {
    let options = &state.options;
    if options.room_len == 0 {
        return Ok(());
    }
    let needed = needed_len(state);
    // Where it is not told, trying tells.
    match env.free_len(&options.dir) {
        Ok(free) if free < needed => {
            let source = std::io::ErrorKind::StorageFull.into();
            Err(Error::Io { op: "find room in", path: options.dir.clone(), source })
        }
        _ => Ok(()),
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
        Ok(ready) => {
            if was_full {
                tracing::info!(shard = state.options.shard.0, "there is room for the log again");
            }
            state.next.ready = ready;
        }
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
