//! [`SimEnv`]: the runtime of one simulated shard, as [`Env`] demands it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::executor::Owner;
use super::io::{Op, SimFile, submit};
use super::net::SimChunk;
use super::world::{Core, SimWaker, Timer, nanos};
use crate::env::{Class, ConnId, Counters, Env, Event, ListenerId, Mode, Sent};

/// The wall clock at the start of each simulation, unix milliseconds.
pub const WALL_START_MS: u64 = 1_750_000_000_000;

/// The runtime of one shard for one life of its node. After the node went down, what does not wait
/// does nothing, and what does must not be used: a task of a later life that holds an earlier
/// life's env is a mistake of the test, and panics.
#[derive(Clone)]
pub struct SimEnv {
    pub(super) core: Rc<Core>,
    pub(super) owner: Owner,
    pub(super) started: u64,
}

impl std::fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimEnv({:?})", self.owner)
    }
}

/// What a clock that is `ppm` parts per million fast makes of a time.
fn drifted(ns: u64, ppm: i64) -> u64 {
    let drifted = i128::from(ns) * i128::from(1_000_000 + ppm) / 1_000_000;
    // What does not fit is for ever.
    u64::try_from(drifted).unwrap_or(u64::MAX)
}

impl Env for SimEnv {
    type File = SimFile;
    type Chunk = SimChunk;
    type Waker = SimWaker;

    fn now(&self) -> Duration {
        let world = self.core.world.borrow();
        let drift = world.machines[&self.owner.node].drift_ppm;
        Duration::from_nanos(drifted(world.now - self.started, drift))
    }

    fn unix_ms(&self) -> u64 {
        let world = self.core.world.borrow();
        let offset = world.machines[&self.owner.node].wall_offset_ms;
        (WALL_START_MS + world.now / 1_000_000).saturating_add_signed(offset)
    }

    fn random(&self) -> u64 {
        let mut world = self.core.world.borrow_mut();
        world.shard(self.owner).map_or(0, |shard| shard.rng.next_u64())
    }

    fn spawn(&self, _class: Class, task: impl Future<Output = ()> + 'static) {
        if self.core.world.borrow_mut().shard(self.owner).is_some() {
            self.core.executor.spawn(self.owner, task);
        }
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let core = self.core.clone();
        let deadline = {
            let world = core.world.borrow();
            // A clock that is fast is not waited for as long; near enough for the drift of clocks.
            let drift = -world.machines[&self.owner.node].drift_ppm;
            world.now.saturating_add(drifted(nanos(duration), drift))
        };
        async move {
            let timer = {
                let mut world = core.world.borrow_mut();
                if world.now >= deadline {
                    return;
                }
                Timer::set(&mut world, deadline)
            };
            poll_fn(|cx| timer.poll(cx)).await;
        }
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

    fn turn(&self, events: &mut Vec<Event<SimChunk>>) -> impl Future<Output = ()> {
        let mut parked = false;
        poll_fn(move |cx| {
            let mut world = self.core.world.borrow_mut();
            let Some(shard) = world.shard(self.owner) else { return Poll::Pending };
            let signal = shard.signal.clone();
            if !signal.poll(cx) {
                shard.counters.parks += u64::from(!std::mem::replace(&mut parked, true));
                return Poll::Pending;
            }
            shard.counters.turns += 1;
            world.hand_over(self.owner, events);
            Poll::Ready(())
        })
    }

    fn notify(&self) {
        if let Some(shard) = self.core.world.borrow_mut().shard(self.owner) {
            shard.signal.wake();
        }
    }

    fn waker(&self) -> SimWaker {
        let mut world = self.core.world.borrow_mut();
        SimWaker(world.shard(self.owner).map(|shard| shard.signal.clone()).unwrap_or_default())
    }

    fn counters(&self) -> Counters {
        let mut world = self.core.world.borrow_mut();
        world.shard(self.owner).map(|shard| shard.counters).unwrap_or_default()
    }

    fn listen(&self, addr: SocketAddr, shared: bool) -> io::Result<(ListenerId, SocketAddr)> {
        self.core.world.borrow_mut().listen(self.owner, addr, shared)
    }

    fn close_listeners(&self) {
        if let Some(shard) = self.core.world.borrow_mut().shard(self.owner) {
            shard.conns.close_listeners();
        }
    }

    fn connect(&self, addr: SocketAddr) -> io::Result<ConnId> {
        Ok(self.core.world.borrow_mut().open(self.owner, addr))
    }

    fn send(&self, conn: ConnId, buf: &mut Vec<u8>) -> Sent {
        self.core.world.borrow_mut().send(self.owner, conn, buf)
    }

    fn pause(&self, conn: ConnId) {
        self.core.world.borrow_mut().pause(self.owner, conn);
    }

    fn resume(&self, conn: ConnId) {
        self.core.world.borrow_mut().resume(self.owner, conn);
    }

    fn close(&self, conn: ConnId) {
        self.core.world.borrow_mut().close(self.owner, conn);
    }

    fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr> {
        self.core.world.borrow_mut().peer_addr(self.owner, conn)
    }

    async fn open(&self, path: &Path, mode: Mode) -> io::Result<SimFile> {
        let path = path.to_owned();
        let on = path.clone();
        let opening = submit(self.clone(), &on, move |_, done| Op::Open { path, mode, done });
        let (inode, open) = pin!(opening).await?;
        Ok(SimFile { env: self.clone(), path: on.into(), inode, open, mode })
    }

    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>> {
        let own = dir.to_owned();
        submit(self.clone(), dir, move |_, done| Op::List { dir: own, done })
    }

    fn free_len(&self, _: &Path) -> io::Result<u64> {
        Ok(self.core.world.borrow_mut().machine(self.owner.node).disk.free())
    }

    fn create_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> {
        let own = dir.to_owned();
        submit(self.clone(), dir, move |_, done| Op::CreateDir { dir: own, done })
    }

    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> {
        let (old, new) = (from.to_owned(), to.to_owned());
        submit(self.clone(), from, move |_, done| Op::Rename { from: old, to: new, done })
    }

    fn link(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> {
        let (old, new) = (from.to_owned(), to.to_owned());
        submit(self.clone(), from, move |_, done| Op::Link { from: old, to: new, done })
    }

    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>> {
        let own = path.to_owned();
        submit(self.clone(), path, move |_, done| Op::Remove { path: own, done })
    }

    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> {
        let own = dir.to_owned();
        submit(self.clone(), dir, move |machine, done| Op::SyncDir {
            dir: own,
            upto: machine.disk.changed(),
            done,
        })
    }
}
