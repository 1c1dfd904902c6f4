//! Rows that only tables have: fetched before a command on them is evaluated.
//!
//! Evaluating never waits. So whoever is about to evaluate asks for each key first
//! ([`Shard::seek`]): either all that there is to know of it is in memory, or it is being fetched,
//! and the command waits, and asks again when that is over. Who asks for a key that is being
//! fetched waits for the same read.
//!
//! A write that does not look at what was there ([`Shard::is_blind`]) need not wait.
//!
//! Not here: how rows leave memory ([`super::room`]).
//!
//! Bounds: [`RUNNING_MAX`] reads at a time, others queue; what queues is bounded by the commands
//! that wait.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::{Planted, Shard, Target};
use crate::command::{Args, Spec};
use crate::env::{Class, Env};
use crate::lsm::table;
use crate::lsm::view::Found;
use crate::partition::Epoch;

/// Reads of tables in flight: as many as keep a fast disk busy.
const RUNNING_MAX: usize = 256;

/// What a command waits for.
#[derive(Clone, Debug, Default)]
pub struct Wait(Rc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    left: Cell<usize>,
    asked: Cell<Rooms>,
    given: Cell<Rooms>,
    failed: RefCell<Option<String>>,
}

/// What a write needs room in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rooms {
    /// For the rows.
    pub memory: bool,
    /// For the entry.
    pub log: bool,
}

impl Wait {
    /// Whether all that was asked for is there, or will never be.
    pub fn is_over(&self) -> bool {
        self.0.left.get() == 0
    }

    /// Why something will never be there: the text of an error reply.
    pub fn error(&self) -> Option<String> {
        self.0.failed.borrow().clone()
    }

    /// The room that it was given: it need not ask for that again.
    pub fn given(&self) -> Rooms {
        self.0.given.get()
    }

    /// One that was given so much already.
    pub fn with(given: Rooms) -> Self {
        let wait = Self::default();
        wait.0.given.set(given);
        wait
    }

    /// Whether anybody waits.
    pub(super) fn is_wanted(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Asks for room. False: it has done so.
    pub(super) fn begin_for(&self, which: fn(&mut Rooms) -> &mut bool) -> bool {
        let mut asked = self.0.asked.get();
        let is_new = !std::mem::replace(which(&mut asked), true);
        self.0.asked.set(asked);
        if is_new {
            self.begin();
        }
        is_new
    }

    /// It has this room from now on.
    pub(super) fn give(&self, which: fn(&mut Rooms) -> &mut bool) {
        let mut given = self.0.given.get();
        *which(&mut given) = true;
        self.0.given.set(given);
    }

    pub(super) fn begin(&self) {
        self.0.left.set(self.0.left.get() + 1);
    }

    pub(super) fn end(&self, error: Option<&str>) {
        self.0.left.set(self.0.left.get() - 1);
        if let Some(error) = error {
            *self.0.failed.borrow_mut() = Some(error.to_owned());
        }
    }
}

/// The text of an error reply: what the tables say of a key can not be read.
pub(super) fn unreadable(error: &table::Error) -> String {
    let text = error.to_string().replace(['\r', '\n'], " ");
    format!("IOERR the key can not be read, see the server's log: {text}")
}

struct Pending {
    place: u32,
    waits: Vec<Wait>,
}

/// A read that has ended.
struct Ended {
    took: Duration,
    key: Rc<[u8]>,
    epoch: Epoch,
    found: Result<Option<Found>, table::Error>,
}

/// Reads on their way.
pub(super) struct Seeker {
    pending: HashMap<Rc<[u8]>, Pending, ahash::RandomState>,
    queue: VecDeque<Rc<[u8]>>,
    running: usize,
    /// Of the reads that have ended since it was asked.
    slowest: Duration,
    ended: Rc<RefCell<Vec<Ended>>>,
    /// Scratch.
    taken: Vec<Ended>,
}

impl Seeker {
    /// None; `seed` should be unknown to clients.
    pub fn new(seed: u64) -> Self {
        let hasher = ahash::RandomState::with_seeds(seed, 1, 2, 3);
        let (queue, ended, taken) = Default::default();
        let (running, slowest) = (0, Duration::ZERO);
        Self { pending: HashMap::with_hasher(hasher), queue, running, slowest, ended, taken }
    }

    /// How long the slowest read took since this was asked last.
    pub fn take_slowest(&mut self) -> Duration {
        std::mem::take(&mut self.slowest)
    }
}

impl<E: Env> Shard<E> {
    /// Whether any key may have to be asked for ([`Shard::seek`]).
    #[inline]
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Whether a command on this key may be evaluated now. If not, `wait` ends when it may be asked
    /// again.
    pub fn seek(&mut self, target: Target<'_>, wait: &Wait) -> bool {
        let Target { place, hash, key } = target;
        let is_known = self.partitions[place as usize].knows(hash, key);
        let is_planted = self.planted == Some(Planted::SkipSeek);
        if is_known || is_planted || !self.tree.may_contain(place, key) {
            return true;
        }
        wait.begin();
        if let Some(pending) = self.seeker.pending.get_mut(key) {
            pending.waits.push(wait.clone());
            return false;
        }
        let key: Rc<[u8]> = key.into();
        let pending = Pending { place, waits: vec![wait.clone()] };
        self.seeker.pending.insert(Rc::clone(&key), pending);
        self.seeker.queue.push_back(key);
        self.begin_reads();
        false
    }

    /// Whether a command puts its keys whatever they hold, so that they need not be asked for.
    pub fn is_blind(&self, spec: &Spec, args: &Args<'_>) -> bool {
        let is_put = match spec.name {
            "set" => args.len() == 3 || args.len() == 5 && (args.is(3, "EX") || args.is(3, "PX")),
            "mset" | "setex" | "psetex" => true,
            _ => false,
        };
        // Who is told of new keys has to know which are.
        is_put && !self.is_observed()
    }

    /// Whether a put of this key, unasked for, takes the place of a row that a table may have.
    pub(super) fn replaces_unread(&self, target: Target<'_>) -> bool {
        let Target { place, hash, key } = target;
        let partition = self.partition(place);
        partition.is_partial()
            && partition.memtable().get(hash, key).is_none()
            && self.tree.may_contain(place, key)
    }

    fn begin_reads(&mut self) {
        while self.seeker.running < RUNNING_MAX
            && let Some(key) = self.seeker.queue.pop_front()
        {
            let Some(Pending { place, .. }) = self.seeker.pending.get(&key) else { continue };
            let epoch = self.partitions[*place as usize].epoch();
            let (view, env) = (self.tree.view(*place), self.env.clone());
            let ended = Rc::clone(&self.seeker.ended);
            self.seeker.running += 1;
            self.stats.rows_fetched.add(1);
            let began = env.now();
            self.env.spawn(Class::Foreground, async move {
                let found = view.get(&key).await;
                let took = env.now().saturating_sub(began);
                ended.borrow_mut().push(Ended { took, key, epoch, found });
                env.notify();
            });
        }
    }

    /// Takes in what was fetched.
    pub fn take_fetched(&mut self) {
        let mut taken = std::mem::take(&mut self.seeker.taken);
        std::mem::swap(&mut taken, &mut self.seeker.ended.borrow_mut());
        for ended in taken.drain(..) {
            self.seeker.running -= 1;
            self.seeker.slowest = self.seeker.slowest.max(ended.took);
            self.take_ended(ended);
        }
        self.seeker.taken = taken;
        self.begin_reads();
    }

    fn take_ended(&mut self, ended: Ended) {
        let Ended { key, epoch, found, .. } = ended;
        let Some(pending) = self.seeker.pending.get(&key) else { return };
        let partition = &mut self.partitions[pending.place as usize];
        let error = match &found {
            Ok(found) => {
                let version = found.as_ref().map(Found::version);
                // Of several keys that are waited for the first must not go before the last comes.
                let has_more = pending.waits.iter().any(|wait| wait.0.left.get() > 1);
                if !partition.admit(&key, version.as_ref(), epoch, has_more) {
                    self.seeker.queue.push_back(key);
                    return;
                }
                None
            }
            Err(error) => {
                tracing::error!(shard = self.id.0, %error, "a row can not be read");
                Some(unreadable(error))
            }
        };
        let pending = self.seeker.pending.remove(&key).expect("found above");
        pending.waits.iter().for_each(|wait| wait.end(error.as_deref()));
    }
}
