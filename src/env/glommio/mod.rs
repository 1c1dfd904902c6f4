//! A second real runtime behind the seam: glommio's executor, three rings and one thread.
//!
//! It is here to show that the seam is one, and to have something to measure the production runtime
//! ([`crate::env::uring`]) against. It is glommio-ng 0.12, the kept fork; glommio 0.9 fails direct
//! reads on devices without poll queues. It costs about twice the CPU per request at pipeline 1,
//! since its sockets are readiness sockets: a poll on the ring, then a system call.
//!
//! Differences in behaviour, all within the contract of [`Env`]:
//! * A task per listener and per connection turns readiness into events; see [`net`].
//! * [`Class::Background`] is a task queue with a tenth of the shares. While it has work, the rings
//!   are looked at and requests run each [`PREEMPT_BACKGROUND`], if it yields that often.
//! * The core wakes twenty times a second even when idle: see [`beat`].
//! * No polling before the core parks: glommio spins only on executors that it placed itself, and
//!   one of its polling turns costs 13 us.
//! * [`Counters::parks`] counts the waits of the shard's loop: glommio does not tell when it
//! sleeps.
//!
//! Reading order: `tasks`, `net`, `file`, `beat`, then [`run`] below.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

use glommio::io::PollableFd;
use glommio::timer::Timer;
use glommio::{GlommioError, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use crate::env::plain::{self, Chance};
use crate::env::uring::Waker;
use crate::env::{Class, ConnId, Counters, Env, Event, ListenerId, Mode, Sent, os};
use beat::Beats;
use file::GlommioFile;
use net::Net;
use tasks::Tasks;

mod beat;
mod file;
mod net;
mod tasks;

/// How long foreground tasks run before the rings are looked at; news of a socket shortens it.
const PREEMPT_FOREGROUND: Duration = Duration::from_millis(2);
/// The same while background tasks have work. glommio's default of 100 ms delayed a timer by
/// 98-198 ms beside a busy background queue; this, 0.6-0.9.
const PREEMPT_BACKGROUND: Duration = Duration::from_micros(500);
/// The same before the shard's tasks run.
const PREEMPT_START: Duration = Duration::from_secs(1);
/// Memory for direct I/O, bytes. Registered with each of the three rings, so pinned three times;
/// what does not fit comes from the heap and is pinned per operation.
const IO_MEMORY_BYTES: usize = 2 << 20;
/// Entries of each ring's submission queue.
const RING_DEPTH: usize = 256;
/// What glommio demands of `RLIMIT_MEMLOCK`, bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// CPU shares of the foreground.
const FOREGROUND_SHARES: usize = 1000;
/// CPU shares of the background.
const BACKGROUND_SHARES: usize = 100;
/// How long the end of a shard waits for file operations in flight.
const TEARDOWN_MAX: Duration = Duration::from_secs(2);

/// Received bytes, copied out of the reader's buffer.
type Chunk = Box<[u8]>;

/// How a shard's runtime is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the executor; different for each in a process.
    pub name: u64,
    /// Where [`Env::now`] counts from; one for all shards.
    pub start: super::os::Start,
    /// Seed of [`Env::random`].
    pub seed: u64,
}

struct Core {
    net: Net,
    tasks: Rc<Tasks>,
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
    events: RefCell<Vec<Event<Chunk>>>,
    notified: Cell<bool>,
    turn_task: RefCell<Option<TaskWaker>>,
    waker: Waker,
    chance: Chance,
    start: Instant,
    turns: Cell<u64>,
    parks: Cell<u64>,
}

/// A handle to this thread's runtime.
#[derive(Clone)]
pub struct GlommioEnv(Rc<Core>);

/// Runs `main` on a new executor of this thread until it ends; then drops all tasks, closes all
/// connections and waits for the file operations in flight. The caller pins the thread.
///
/// # Errors
/// When the rings can not be set up, or `main` panics.
pub fn run<T, F>(options: Options, main: impl FnOnce(GlommioEnv) -> F) -> io::Result<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    os::raise_memlock(MEMLOCK_BYTES_MIN)?;
    let waker = Waker::new()?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name(&format!("shard-{}", options.name))
        .preempt_timer(PREEMPT_START)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .make()
        .map_err(io_error)?;
    executor.run(async move {
        let _beats = Beats::start();
        let core = Rc::new(Core::new(&options, waker));
        core.watch_waker()?;
        let future = core.tasks.contain(main(GlommioEnv(Rc::clone(&core))));
        let later = async move {
            // In a round of its own: the preempt timer of this one is still the first.
            Timer::new(Duration::from_micros(1)).await;
            future.await
        };
        let result = glommio::spawn_local_into(later, core.foreground).map_err(io_error)?.await;
        core.tear_down().await?;
        result.ok_or_else(|| io::Error::other("the shard's main task panicked"))
    })
}

/// The error of the operating system in an error of glommio's.
fn io_error(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        error => error.into(),
    }
}

impl Core {
    fn new(options: &Options, waker: Waker) -> Self {
        // What "latency" means to glommio: the preempt timer while the queue has work.
        let queue = |shares, preempt, name: &str| {
            let (shares, latency) = (Shares::Static(shares), Latency::Matters(preempt));
            glommio::executor().create_task_queue(shares, latency, name)
        };
        Self {
            net: Net::default(),
            tasks: Rc::default(),
            foreground: queue(FOREGROUND_SHARES, PREEMPT_FOREGROUND, "foreground"),
            background: queue(BACKGROUND_SHARES, PREEMPT_BACKGROUND, "background"),
            events: RefCell::default(),
            notified: Cell::new(false),
            turn_task: RefCell::new(None),
            waker,
            chance: Chance::new(options.seed),
            start: options.start.0,
            turns: Cell::new(0),
            parks: Cell::new(0),
        }
    }

    /// Wakes the loop when another thread rang.
    fn watch_waker(self: &Rc<Self>) -> io::Result<()> {
        let bell = PollableFd::new(Bell(self.waker.clone())).map_err(io_error)?;
        let core = Rc::clone(self);
        self.spawn(Class::Foreground, async move {
            loop {
                bell.readable().await.expect("an eventfd can be polled");
                bell.get_ref().silence();
                core.wake_loop();
            }
        });
        Ok(())
    }

    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static) {
        let queue = match class {
            Class::Foreground => self.foreground,
            Class::Background => self.background,
        };
        self.tasks.spawn(queue, task);
    }

    fn emit(&self, event: Event<Chunk>) {
        self.events.borrow_mut().push(event);
        self.wake_loop();
    }

    fn wake_loop(&self) {
        if let Some(task) = self.turn_task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Whether the loop has something to do; if not, other threads are told that it sleeps.
    fn has_news(&self) -> bool {
        let mut rung = self.waker.take();
        rung |= self.notified.replace(false);
        if rung || !self.events.borrow().is_empty() {
            return true;
        }
        !self.waker.fall_asleep() && self.waker.take()
    }

    /// Ends everything while the executor still runs: what is left when it ends would leak.
    async fn tear_down(self: &Rc<Self>) -> io::Result<()> {
        self.tasks.cancel_all().await;
        self.net.close_all();
        drop(self.turn_task.take());
        self.events.take();
        let end = Instant::now() + TEARDOWN_MAX;
        loop {
            // At least once: cancelled polls and closed files are on their way to the kernel.
            Timer::new(Duration::from_millis(1)).await;
            if self.tasks.operations() == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other("the kernel kept operations past the shard's end"));
            }
        }
    }
}

/// The eventfd of a [`Waker`], for polling.
struct Bell(Waker);

impl Bell {
    fn silence(&self) {
        // It was readable and nobody else reads it, so this neither fails nor blocks.
        let _ = self.0.eventfd().read(&mut [0; 8]);
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd()
    }
}

/// Ends at its deadline. Holds at most one timer: glommio's own adds one to the wheel per poll.
struct Sleep {
    at: Instant,
    armed: Option<(Timer, TaskWaker)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(());
        }
        if self.armed.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            let mut timer = Timer::new(left);
            if Pin::new(&mut timer).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.armed = Some((timer, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Env for GlommioEnv {
    type File = GlommioFile;
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
        self.0.spawn(class, task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        Sleep { at: Instant::now() + duration, armed: None }
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let background = self.0.background;
        async move {
            let executor = glommio::executor();
            if executor.current_task_queue() == background {
                executor.yield_task_queue_now().await;
            } else {
                executor.yield_now().await;
            }
        }
    }

    fn turn(&self, events: &mut Vec<Event<Chunk>>) -> impl Future<Output = ()> {
        let core = &self.0;
        let mut waited = false;
        poll_fn(move |cx| {
            if !core.has_news() {
                *core.turn_task.borrow_mut() = Some(cx.waker().clone());
                core.parks.set(core.parks.get() + u64::from(!waited));
                waited = true;
                return Poll::Pending;
            }
            core.waker.wake_up();
            core.turns.set(core.turns.get() + 1);
            let mut arrived = core.events.borrow_mut();
            events.extend(arrived.drain(..).filter(|event| core.net.is_current(event)));
            core.net.read_on(core.turns.get());
            Poll::Ready(())
        })
    }

    fn notify(&self) {
        self.0.notified.set(true);
        self.0.wake_loop();
    }

    fn waker(&self) -> Waker {
        self.0.waker.clone()
    }

    fn counters(&self) -> Counters {
        let counts = self.0.tasks.counts();
        Counters {
            turns: self.0.turns.get(),
            parks: self.0.parks.get(),
            stalls: counts.stalls,
            panics: counts.panics,
        }
    }

    fn listen(&self, addr: SocketAddr, shared: bool) -> io::Result<(ListenerId, SocketAddr)> {
        net::listen(&self.0, addr, shared)
    }

    fn close_listeners(&self) {
        self.0.net.close_listeners();
    }

    fn connect(&self, addr: SocketAddr) -> io::Result<ConnId> {
        net::connect(&self.0, addr)
    }

    fn send(&self, conn: ConnId, buf: &mut Vec<u8>) -> Sent {
        net::send(&self.0, conn, buf)
    }

    fn pause(&self, conn: ConnId) {
        self.0.net.pause(conn);
    }

    fn resume(&self, conn: ConnId) {
        self.0.net.resume(conn);
    }

    fn close(&self, conn: ConnId) {
        self.0.net.close(conn);
    }

    fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.0.net.peer_addr(conn)
    }

    async fn open(&self, path: &Path, mode: Mode) -> io::Result<GlommioFile> {
        GlommioFile::open(path, mode, Rc::clone(&self.0.tasks)).await
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

    /// On glommio's blocking thread: its own call is fdatasync, and that need not write the names.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = std::fs::File::open(dir)?;
        glommio::executor().spawn_blocking(move || dir.sync_all()).await
    }
}

#[cfg(test)]
mod tests;
