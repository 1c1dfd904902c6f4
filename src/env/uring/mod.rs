//! The production runtime: one ring, one thread, one core.
//!
//! Why our own: at pipeline 1 glommio costs 15-17 us of CPU per request, redis 8.4-10, a bare ring
//! 7.3-7.9 (charter, D1); what is missing elsewhere is multishot receive, buffer rings,
//! `DEFER_TASKRUN` and `RWF_DSYNC`. What would change it: a kept runtime with all four.
//!
//! A turn: run what is ready, give receive buffers back, submit everything queued and wait (one
//! system call), take all completions, wake their tasks, wake the shard's loop last. The core
//! parks when nothing is ready; it polls up to [`SPIN`] first only when another shard spoke to it
//! a moment ago, since a parked wake-up costs 40 us and a polled one 0.1.
//!
//! Reading order: `ring` (the kernel's face), `executor`, `net`, `file`, then [`run`] below.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use crate::env::plain::{self, Chance};
use crate::env::{Class, ConnId, Counters, Env, Event, ListenerId, Mode, Sent, os};
use executor::Executor;
use file::{Ops, UringFile};
use moderation::{Moderation, Want};
use net::Net;
use ring::{Chunk, Completion, Ring, Wait};
use tag::{Kind, tag, untag};

pub use super::os::Start;
pub use ring::Features;
pub use wake::Waker;

mod executor;
mod file;
mod moderation;
mod net;
mod ring;
mod tag;
mod wake;

/// How long a core polls for another shard's message before it parks.
const SPIN: Duration = Duration::from_micros(20);
/// How long after a message from another shard the next is expected soon.
const SPIN_MEMORY: Duration = Duration::from_micros(200);
/// How long the end of a shard waits for the kernel to let go of its memory.
const TEARDOWN_MAX: Duration = Duration::from_secs(2);
const TEARDOWN_WAIT: Wait = Wait { want: Want::ONE, limit: Some(Duration::from_millis(10)) };

/// How a shard's runtime is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the executor; different for each in a process, not 0.
    pub name: u64,
    /// Where [`Env::now`] counts from; one for all shards.
    pub start: Start,
    /// Seed of [`Env::random`].
    pub seed: u64,
    /// What of the kernel to use.
    pub features: Features,
}

struct Reactor {
    ring: RefCell<Ring>,
    net: RefCell<Net>,
    ops: RefCell<Ops>,
    executor: Executor,
    timers: RefCell<BTreeMap<(Instant, u64), TaskWaker>>,
    timer_count: Cell<u64>,
    events: RefCell<Vec<Event<Chunk>>>,
    notified: Cell<bool>,
    turn_task: RefCell<Option<TaskWaker>>,
    waker: Waker,
    wake_buf: RefCell<Box<u64>>,
    heard_at: Cell<Instant>,
    moderation: RefCell<Moderation>,
    chance: Chance,
    start: Instant,
    turns: Cell<u64>,
    /// The turn whose events the shard's loop was given last.
    turn_given: Cell<u64>,
    parks: Cell<u64>,
}

/// A handle to this thread's runtime.
#[derive(Clone)]
pub struct UringEnv(Rc<Reactor>);

/// Runs `main` on a new ring of this thread until it ends; then drops all tasks, closes all
/// connections and waits until the kernel has let go of every buffer.
///
/// # Errors
/// When the ring can not be set up or breaks.
pub fn run<T, F>(options: Options, main: impl FnOnce(UringEnv) -> F) -> io::Result<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let reactor = Rc::new(Reactor::new(&options)?);
    let result = Rc::new(RefCell::new(None));
    let env = UringEnv(Rc::clone(&reactor));
    let (future, slot) = (main(env), Rc::clone(&result));
    reactor.executor.spawn(Class::Foreground, async move {
        let value = future.await;
        *slot.borrow_mut() = Some(value);
    });
    reactor.arm_wake();
    let mut completions = Vec::with_capacity(1024);
    let panics = reactor.executor.counts().panics;
    loop {
        reactor.executor.run();
        if result.borrow().is_some() {
            break;
        }
        // Looked at before the core may park: nothing would wake it.
        if reactor.executor.counts().panics > panics && Rc::strong_count(&result) == 1 {
            return Err(io::Error::other("the shard's main task panicked"));
        }
        reactor.turn(&mut completions)?;
    }
    reactor.tear_down(&mut completions)?;
    let value = result.borrow_mut().take();
    Ok(value.expect("the loop ended because it is there"))
}

impl Reactor {
    fn new(options: &Options) -> io::Result<Self> {
        let waker = Waker::new()?;
        Ok(Self {
            ring: RefCell::new(Ring::new(options.features)?),
            net: RefCell::default(),
            ops: RefCell::default(),
            executor: Executor::new(options.name, waker.clone()),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            events: RefCell::default(),
            notified: Cell::new(false),
            turn_task: RefCell::new(None),
            waker,
            wake_buf: RefCell::default(),
            heard_at: Cell::new(options.start.0),
            moderation: RefCell::new(Moderation::new(options.start.0)),
            chance: Chance::new(options.seed),
            start: options.start.0,
            turns: Cell::new(0),
            turn_given: Cell::new(0),
            parks: Cell::new(0),
        })
    }

    /// The rest of a turn, after the tasks ran.
    fn turn(&self, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.turns.set(self.turns.get() + 1);
        if self.ring.borrow_mut().provide_buffers() || self.net.borrow().is_starved() {
            self.net.borrow_mut().rearm(&mut self.ring.borrow_mut());
        }
        let parks = self.parks.get();
        self.submit_and_wait()?;
        let parked = self.parks.get() > parks;
        completions.clear();
        self.ring.borrow_mut().reap(completions);
        if parked {
            self.moderation.borrow_mut().came(completions.len());
        }
        for completion in completions.iter() {
            self.complete(*completion);
        }
        self.fire_timers();
        self.wake_loop();
        Ok(())
    }

    fn submit_and_wait(&self) -> io::Result<()> {
        // A loop that notified itself gets its turn after the rings were looked at.
        let asked = self.notified.get() && self.turn_task.borrow().is_some();
        let idle = !asked && !self.executor.is_ready() && !self.waker.is_notified();
        if !idle || self.spin() {
            return self.ring.borrow_mut().enter(None);
        }
        let now = Instant::now();
        let next = self.timers.borrow().first_key_value().map(|((at, _), _)| *at);
        let limit = next.map(|at| at.saturating_duration_since(now));
        let want = self.want(now);
        if !self.waker.fall_asleep() {
            return self.ring.borrow_mut().enter(None);
        }
        self.parks.set(self.parks.get() + 1);
        let result = self.ring.borrow_mut().enter(Some(Wait { want, limit }));
        self.waker.wake_up();
        result
    }

    /// What to park for; another shard that was heard from lately is not to wait.
    fn want(&self, now: Instant) -> Want {
        let is_heard = now.duration_since(self.heard_at.get()) <= SPIN_MEMORY;
        let want = self.moderation.borrow_mut().want(now);
        if is_heard || !self.ring.borrow().features().min_wait { Want::ONE } else { want }
    }

    /// Polls for news while another shard was heard from lately; true if some came.
    fn spin(&self) -> bool {
        let begin = Instant::now();
        if begin.duration_since(self.heard_at.get()) > SPIN_MEMORY {
            return false;
        }
        // What is queued must be on its way while we poll.
        if self.ring.borrow_mut().enter(None).is_err() {
            return false;
        }
        loop {
            for _ in 0..16 {
                if self.waker.is_notified() || self.ring.borrow_mut().has_completions() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() > SPIN {
                return false;
            }
        }
    }

    fn complete(&self, done: Completion) {
        let (kind, index, generation) = untag(done.user_data);
        let mut net = self.net.borrow_mut();
        let mut ring = self.ring.borrow_mut();
        let mut events = self.events.borrow_mut();
        match kind {
            Kind::Recv => {
                let mut moderation = self.moderation.borrow_mut();
                net.on_recv(&mut ring, index, done, &mut events, &mut moderation);
            }
            Kind::Connect => net.on_connect(&mut ring, index, done, &mut events),
            Kind::Send => net.on_send(&mut ring, index, done, &mut events),
            Kind::Accept => net.on_accept(&mut ring, index, done, &mut events),
            Kind::Op => self.ops.borrow_mut().complete(index, generation, done.result),
            Kind::Wake => {
                drop((net, ring, events));
                self.arm_wake();
            }
            Kind::Nobody => {}
        }
    }

    fn fire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        let mut timers = self.timers.borrow_mut();
        while let Some(first) = timers.first_entry() {
            if first.key().0 > now {
                break;
            }
            first.remove().wake();
        }
    }

    /// Last of a turn, so that the loop sees all that this turn's completions brought.
    fn wake_loop(&self) {
        if self.waker.take() {
            self.heard_at.set(Instant::now());
            self.notified.set(true);
            self.executor.take_remote();
        }
        if (self.notified.get() || !self.events.borrow().is_empty())
            && let Some(task) = self.turn_task.borrow_mut().take()
        {
            task.wake();
        }
    }

    #[expect(unsafe_code, reason = "the kernel reads the eventfd into a buffer of ours")]
    fn arm_wake(&self) {
        let mut buf = self.wake_buf.borrow_mut();
        let address = std::ptr::from_mut(&mut **buf).cast::<u8>();
        let entry = opcode::Read::new(ring::fd(self.waker.fd()), address, 8)
            .build()
            .user_data(tag(Kind::Wake, 0, 0));
        // SAFETY: the box lives as long as the reactor, which outlives its ring's requests.
        unsafe { self.ring.borrow_mut().push(&entry) };
    }

    /// Ends everything, so that no buffer is freed while the kernel has it.
    fn tear_down(&self, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.executor.clear();
        self.net.borrow_mut().close_all(&mut self.ring.borrow_mut());
        let end = Instant::now() + TEARDOWN_MAX;
        while !(self.net.borrow().is_quiet() && self.ops.borrow().in_flight() == 0) {
            if Instant::now() > end {
                return Err(io::Error::other("the kernel kept operations past the shard's end"));
            }
            self.ring.borrow_mut().enter(Some(TEARDOWN_WAIT))?;
            completions.clear();
            self.ring.borrow_mut().reap(completions);
            for done in completions.iter().filter(|done| untag(done.user_data).0 != Kind::Wake) {
                self.complete(*done);
            }
            self.events.borrow_mut().clear();
        }
        Ok(())
    }
}

/// Ends at its deadline.
struct Sleep {
    reactor: Rc<Reactor>,
    at: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        let reactor = Rc::clone(&self.reactor);
        let at = self.at;
        let key = *self.key.get_or_insert_with(|| {
            reactor.timer_count.set(reactor.timer_count.get() + 1);
            (at, reactor.timer_count.get())
        });
        reactor.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.reactor.timers.borrow_mut().remove(&key);
        }
    }
}

impl Env for UringEnv {
    type File = UringFile;
    type Chunk = Chunk;
    type Waker = Waker;

    fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        os::unix_ms()
    }

    fn random(&self) -> u64 {
        self.0.chance.draw()
    }

    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        self.0.executor.spawn(class, task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        Sleep { reactor: Rc::clone(&self.0), at: Instant::now() + duration, key: None }
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let mut yielded = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn turn(&self, events: &mut Vec<Event<Chunk>>) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            let mut arrived = self.0.events.borrow_mut();
            // Never twice without a look at the rings in between: a loop that always has work
            // would keep the core from the very completions that it waits for.
            let given = self.0.turn_given.get() == self.0.turns.get();
            if given || arrived.is_empty() && !self.0.notified.get() {
                *self.0.turn_task.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            self.0.turn_given.set(self.0.turns.get());
            self.0.notified.set(false);
            events.append(&mut arrived);
            Poll::Ready(())
        })
    }

    fn notify(&self) {
        self.0.notified.set(true);
        if let Some(task) = self.0.turn_task.borrow_mut().take() {
            task.wake();
        }
    }

    fn waker(&self) -> Waker {
        self.0.waker.clone()
    }

    fn counters(&self) -> Counters {
        let counts = self.0.executor.counts();
        Counters {
            turns: self.0.turns.get(),
            parks: self.0.parks.get(),
            stalls: counts.stalls,
            panics: counts.panics,
        }
    }

    fn listen(&self, addr: SocketAddr, shared: bool) -> io::Result<(ListenerId, SocketAddr)> {
        self.0.net.borrow_mut().listen(&mut self.0.ring.borrow_mut(), addr, shared)
    }

    fn close_listeners(&self) {
        self.0.net.borrow_mut().close_listeners(&mut self.0.ring.borrow_mut());
    }

    fn connect(&self, addr: SocketAddr) -> io::Result<ConnId> {
        self.0.net.borrow_mut().connect(&mut self.0.ring.borrow_mut(), addr)
    }

    fn send(&self, conn: ConnId, buf: &mut Vec<u8>) -> Sent {
        self.0.net.borrow_mut().send(&mut self.0.ring.borrow_mut(), conn, buf)
    }

    fn pause(&self, conn: ConnId) {
        self.0.net.borrow_mut().pause(&mut self.0.ring.borrow_mut(), conn);
    }

    fn resume(&self, conn: ConnId) {
        self.0.net.borrow_mut().resume(&mut self.0.ring.borrow_mut(), conn);
    }

    fn close(&self, conn: ConnId) {
        self.0.net.borrow_mut().close(&mut self.0.ring.borrow_mut(), conn);
    }

    fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.0.net.borrow_mut().peer_addr(conn)
    }

    async fn open(&self, path: &Path, mode: Mode) -> io::Result<UringFile> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC);
        match mode {
            Mode::Read => {}
            Mode::Write => {
                options.write(true);
            }
            Mode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(UringFile::new(options.open(path)?, Rc::clone(&self.0)))
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        plain::list(dir)
    }

    fn free_len(&self, dir: &Path) -> io::Result<u64> {
        os::free_len(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    async fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = std::fs::File::open(dir)?;
        UringFile::new(dir, Rc::clone(&self.0)).fsync(types::FsyncFlags::empty()).await
    }
}

#[cfg(test)]
mod tests;
