//! Appending: records gather in a block, a block is one write, several writes are in flight.
//!
//! The writer and the tasks that wait for its writes share one [`State`], on one core. It knows the
//! log's end three times: what was appended ([`layout`]), what the disk has been given ([`tail`]),
//! and what is durable ([`in_flight`]).
//!
//! A turn of the loop that finds a free slot writes its block at once; one that does not, or whose
//! clients do better to wait for others ([`super::pace`]), leaves it open, and the next turn adds
//! to it: so blocks grow as the disk slows down, and as the crowd grows. The next segment is made
//! ready while the present one fills ([`next`]); the oldest are given up when nothing in them is
//! needed ([`held`]).

mod held;
mod in_flight;
mod layout;
mod next;
mod tail;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::format::Record;
use super::pace::{Company, Pace, Start};
use super::sync_method::{Choice, SyncMethod};
use super::{Ended, Error, Extent, Options, Planted, reserve, segments, supply};
use crate::env::{Aligned, Class, Env, File as _};
use crate::id::Lsn;
use held::Held;
use in_flight::InFlight;
use layout::{Laid, Layout};
use next::Next;
use tail::{Submission, Tail};

/// A lazily flushed block is written when it has this many bytes.
const LAZY_LEN: usize = 256 << 10;
/// Or when it is this old.
const LAZY_DELAY: Duration = Duration::from_millis(10);

/// Bytes at the end of the last segment of a full disk that no delete is taken for: a start cuts
/// them off, and has a new reserve of them.
const LAST_LEN: u64 = super::reserve::LEN;

/// When what was appended is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Now, if a write may start; else as soon as one has ended.
    Now,
    /// With company, if it comes soon enough ([`super::pace`]).
    Shared(Company),
    /// When 256 KiB have gathered, or in 10 ms.
    Lazy,
}

/// The log of a shard, open for appending. Dropped without [`Writer::close`], it is as after a
/// crash: what was in flight may be written or not.
pub struct Writer<E: Env> {
    env: E,
    state: Shared<E>,
}

struct State<E: Env> {
    options: Options,
    layout: Layout,
    tail: Tail<E>,
    in_flight: InFlight,
    next: Next<E>,
    held: Held,

    pace: Pace,
    sync_method: Choice,
    /// The open block should be written as soon as a slot is free.
    wanted: bool,
    /// The open block gathers until then.
    gathers_until: Option<Duration>,
    /// A task sleeps until some block has gathered long enough.
    is_timed: bool,
    is_lazy_armed: bool,

    is_closing: bool,
    failure: Option<Arc<Error>>,
    closer: Option<Waker>,
}

type Shared<E> = Rc<RefCell<State<E>>>;

/// Opening.
impl<E: Env> Writer<E> {
    /// Goes on where replay ended, in a fresh segment of a new epoch. The names of void segments
    /// are taken away first, durably; the segment's header is durable when this ends, and what no
    /// replay will read of the segments before is given back.
    ///
    /// # Errors
    /// As the disk's. A full disk too, unless a spare or the reserve is there.
    ///
    /// # Panics
    /// If `options` have lengths that are not whole sectors, or segments without room for a block.
    pub async fn open(env: &E, options: &Options, ended: Ended) -> Result<Self, Error> {
        let mut held = Held::new(&ended.held);
        let (spares, name_next) = supply::tidy(env, options, &ended.void).await?;
        let mut spares = supply::usable(env, options, spares).await?;
        let segment = supply::first(env, options, ended.seq, &mut spares, name_next).await?;
        let (len, is_whole) = (segment.len, segment.len == options.segment_len);
        let reserve_len = reserve::find(env, options).await?;
        if options.has(Planted::GiveBackEarly) {
            supply::give_back(env, &ended.left).await;
        }
        let tail = Tail::begin(env, options, segment, &ended).await?;
        supply::give_back(env, &ended.left).await;
        let durable = tail.begun();
        held.begin(tail.seq(), ended.end, is_whole);
        let state = State {
            options: options.clone(),
            layout: Layout::new(options, durable, len),
            tail,
            in_flight: InFlight::new(options, durable),
            next: Next::new(spares, name_next + 1, reserve_len, !is_whole),
            held,
            pace: Pace::default(),
            sync_method: Choice::default(),
            wanted: false,
            gathers_until: None,
            is_timed: false,
            is_lazy_armed: false,
            is_closing: false,
            failure: None,
            closer: None,
        };
        let writer = Self { env: env.clone(), state: Rc::new(RefCell::new(state)) };
        pump(&writer.env, &writer.state);
        Ok(writer)
    }
}

/// Use.
impl<E: Env> Writer<E> {
    /// Appends a record. It is safe once [`Writer::durable`] has reached the LSN that this returns;
    /// after a failure, an LSN that nothing reaches. No system call, no wait; a copy.
    ///
    /// # Panics
    /// If the record does not fit into a block.
    pub fn append(&mut self, record: Record<'_>) -> Lsn {
        let mut state = self.state.borrow_mut();
        if state.failure.is_some() {
            return Lsn(u64::MAX);
        }
        if state.layout.is_full_for(&record) {
            state.close_block();
        }
        state.layout.append(&record);
        state.layout.appended()
    }

    /// Sees to it that what was appended gets written. For the end of a loop's turn.
    pub fn flush(&mut self, when: Flush) {
        let mut state = self.state.borrow_mut();
        if !state.layout.is_open() {
            return;
        }
        let later = when == Flush::Lazy && state.layout.open_len() < LAZY_LEN;
        let arm = later && !std::mem::replace(&mut state.is_lazy_armed, true);
        state.wanted |= !later;
        if let Flush::Shared(company) = when {
            state.pace.join(company, self.env.now());
        }
        drop(state);
        if arm {
            self.arm_lazy();
        }
        pump(&self.env, &self.state);
    }

    fn arm_lazy(&self) {
        let (env, shared) = (self.env.clone(), Rc::clone(&self.state));
        self.env.spawn(Class::Background, async move {
            env.sleep(LAZY_DELAY).await;
            let mut state = shared.borrow_mut();
            state.is_lazy_armed = false;
            state.wanted = state.layout.is_open();
            drop(state);
            pump(&env, &shared);
        });
    }

    /// The contiguous durable prefix: everything before this place survives a power cut.
    pub fn durable(&self) -> Lsn {
        self.state.borrow().in_flight.durable()
    }

    /// The end of what was appended.
    pub fn appended(&self) -> Lsn {
        self.state.borrow().layout.appended()
    }

    /// Why nothing is written any more, if so.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.state.borrow().failure.clone()
    }

    /// Whether no segment can be made because the disk is full, or has no room but what flushes may
    /// need. The log goes on to the end of the present segment, and by itself when there is room
    /// again.
    pub fn is_disk_full(&self) -> bool {
        self.state.borrow().next.is_disk_full()
    }

    /// Whether the log has room for what gives room back, deletes, though the disk is full. Some is
    /// left then for what nobody asks for: terms and votes.
    pub fn has_room_to_free(&self) -> bool {
        let state = self.state.borrow();
        let least = LAST_LEN.min(state.tail.segment_len() / 4);
        state.next.is_ready() || state.layout.room_left() > least
    }

    /// Gives up all segments of which nothing is needed: no record that [`Writer::append`] gave an
    /// LSN above `needed_from`. The caller has made that place durable, and hands it to the next
    /// replay ([`Options::needed_from`]); it never falls.
    ///
    /// A background task takes the names away; when the disk refuses, the next release tries again.
    /// No more is given up than is known to be durable in what follows.
    pub fn release(&mut self, needed_from: Lsn) {
        self.state.borrow_mut().held.release(needed_from);
        held::see_to(&self.env, &self.state);
    }

    /// The files that have the log from `from` on, as far as it is durable: for [`super::copy()`].
    pub fn extents(&self, from: Lsn) -> Vec<Extent> {
        let state = self.state.borrow();
        let between = state.held.between(from, state.in_flight.durable());
        let extent = |(seq, len)| Extent { path: segments::path(&state.options.dir, seq), len };
        between.map(extent).collect()
    }

    /// Bytes of log from its oldest segment on: what a replay would have to read, and, within a
    /// segment, what [`Writer::release`] would give back if nothing were needed. On the disk there
    /// are besides the rest of the present segment, the next one, and a few spares.
    pub fn log_len(&self) -> u64 {
        let state = self.state.borrow();
        state.held.len(state.layout.appended())
    }

    /// Whether writes are followed by a sync, because those that sync themselves are held up
    /// ([`super::sync_method`]).
    pub fn is_held_up(&self) -> bool {
        self.state.borrow().sync_method.kept() == SyncMethod::Fdatasync
    }

    /// Bytes of a segment.
    pub fn segment_len(&self) -> u64 {
        self.state.borrow().options.segment_len
    }

    /// Bytes appended and not yet durable, all of them in memory.
    pub fn backlog_len(&self) -> usize {
        let state = self.state.borrow();
        (state.layout.appended().0 - state.in_flight.durable().0) as usize
    }
}

/// Ending.
impl<E: Env> Writer<E> {
    /// Writes what was appended and waits until all is durable; then adds an empty block, which
    /// proves it to the next replay.
    ///
    /// # Errors
    /// What the log failed with. A full disk, if it keeps something from being written.
    pub async fn close(self) -> Result<(), Arc<Error>> {
        self.state.borrow_mut().pace = Pace::default();
        self.drain().await?;
        let is_unproven = self.state.borrow().tail.is_unproven();
        if is_unproven {
            self.state.borrow_mut().layout.append_nothing();
            self.drain().await?;
        }
        self.state.borrow_mut().is_closing = true;
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            state.closer = Some(cx.waker().clone());
            let is_busy = state.next.is_at_work() || state.held.is_releasing();
            if is_busy { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        Ok(())
    }

    /// Writes what is in memory only, and waits until it is durable.
    async fn drain(&self) -> Result<(), Arc<Error>> {
        {
            let mut state = self.state.borrow_mut();
            state.wanted = state.layout.is_open();
        }
        pump(&self.env, &self.state);
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            state.closer = Some(cx.waker().clone());
            match state.drained() {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl<E: Env> Drop for Writer<E> {
    fn drop(&mut self) {
        self.state.borrow_mut().is_closing = true;
    }
}

impl<E: Env> State<E> {
    fn close_block(&mut self) {
        if self.layout.close_block() {
            self.pace.closed();
        }
    }

    /// What may be written now, and to where; it is in flight from here on, with that number.
    fn submit(&mut self, env: &E) -> Option<(u64, Submission<E>)> {
        if self.failure.is_some() || !self.in_flight.has_room() {
            return None;
        }
        let now = env.now();
        if self.layout.front().is_none() && self.wanted {
            match self.pace.start(now, self.in_flight.count()) {
                Start::Now => {
                    self.wanted = false;
                    self.close_block();
                }
                Start::Until(at) => self.gathers_until = Some(at),
                Start::AfterOne => {}
            }
        }
        if matches!(self.layout.front()?, Laid::Header(_)) && !self.next.is_ready() {
            return None;
        }
        let durable = self.in_flight.durable();
        let submission = match self.layout.pop()? {
            Laid::Block(block, lsn) => self.tail.block(block, lsn, durable),
            Laid::Header(base) => {
                let next = self.next.take().expect("it is ready");
                self.held.begin(next.seq, base, true);
                let buf = self.layout.buffer();
                self.tail.header(&self.options, next, (base, durable), env.random(), buf)
            }
        };
        Some((self.in_flight.begin(submission.end, now), submission))
    }

    /// A write ended. Whether there is news for the loop.
    fn end(
        &mut self,
        (number, method): (u64, SyncMethod),
        result: Result<(), Error>,
        now: Duration,
    ) -> bool {
        if let Err(error) = result
            && !self.options.has(Planted::IgnoreFailedSync)
        {
            self.fail(error);
        }
        let before = self.in_flight.durable();
        let took = self.in_flight.end(number, now);
        self.pace.ended(took);
        self.sync_method.ended(method, took, now);
        self.in_flight.durable() > before || self.failure.is_some()
    }

    fn fail(&mut self, error: Error) {
        if self.failure.is_none() {
            tracing::error!(shard = self.options.shard.0, %error, "the log failed");
            self.failure = Some(Arc::new(error));
        }
        self.in_flight.fail();
        self.layout.clear();
    }

    /// Whether no segment will be begun any more.
    fn is_over(&self) -> bool {
        self.failure.is_some() || self.is_closing
    }

    /// How a drain ended; none: it goes on.
    fn drained(&self) -> Option<Result<(), Arc<Error>>> {
        if let Some(failure) = &self.failure {
            return Some(Err(Arc::clone(failure)));
        }
        if self.in_flight.count() > 0 {
            return None;
        }
        if self.layout.is_empty() {
            return Some(Ok(()));
        }
        let is_stuck = self.next.is_disk_full() && !self.next.is_ready();
        is_stuck.then(|| {
            let source = std::io::ErrorKind::StorageFull.into();
            let path = self.options.dir.clone();
            Err(Arc::new(Error::Io { op: "close", path, source }))
        })
    }

    fn wake_closer(&mut self) {
        if let Some(waker) = self.closer.take() {
            waker.wake();
        }
    }
}

/// Submits what may be submitted, and sees to the next segment.
fn pump<E: Env>(env: &E, shared: &Shared<E>) {
    let mut state = shared.borrow_mut();
    while let Some((number, submission)) = state.submit(env) {
        let Submission { file, seq, buf, len, offset, .. } = submission;
        let method = state.sync_method.method(env.now());
        let write = file.write_at(buf, len, offset, method == SyncMethod::Dsync);
        let is_synced_after =
            method == SyncMethod::Fdatasync && !state.options.has(Planted::ForgetSync);
        let (task_env, task_shared) = (env.clone(), Rc::clone(shared));
        env.spawn(Class::Foreground, async move {
            let (mut result, buf) = write.await;
            if is_synced_after && result.is_ok() {
                result = file.sync().await.and(result);
            }
            let place = (seq, offset, len);
            on_written(&task_env, &task_shared, place, (number, method), result, buf);
        });
    }
    if let Some(until) = state.gathers_until.take()
        && !std::mem::replace(&mut state.is_timed, true)
    {
        env.spawn(Class::Foreground, gather(env.clone(), Rc::clone(shared), until));
    }
    drop(state);
    next::see_to(env, shared);
}

/// Sees to the open block when it has gathered long enough.
async fn gather<E: Env>(env: E, shared: Shared<E>, until: Duration) {
    env.sleep(until.saturating_sub(env.now())).await;
    shared.borrow_mut().is_timed = false;
    pump(&env, &shared);
}

fn on_written<E: Env>(
    env: &E,
    shared: &Shared<E>,
    (seq, offset, len): (u64, u64, usize),
    write: (u64, SyncMethod),
    result: std::io::Result<usize>,
    buf: Aligned,
) {
    let mut state = shared.borrow_mut();
    state.layout.reuse(buf);
    let result = match result {
        Ok(count) if count == len => Ok(()),
        result => {
            let path = segments::path(&state.options.dir, seq);
            tail::written(&path, offset, len, result)
        }
    };
    let news = state.end(write, result, env.now());
    state.wake_closer();
    drop(state);
    pump(env, shared);
    if news {
        env.notify();
    }
}
