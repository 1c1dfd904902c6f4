//! One simulated node in the hands of the test: its life, its clock and its disk.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::disk::{Disk, PowerCut};
use super::env::SimEnv;
use super::faults::{DiskLatency, Faults, Plan};
use super::link::addr_of;
use super::world::{Core, Machine, What};
use crate::env::Mode;
use crate::id::{NodeId, ShardId};
use crate::limits::SECTOR_LEN;

/// A handle to one node; made by [`Sim::node`](super::Sim::node).
#[derive(Clone)]
pub struct Node {
    pub(super) core: Rc<Core>,
    pub(super) id: NodeId,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.id)
    }
}

/// Its life.
impl Node {
    fn with<T>(&self, f: impl FnOnce(&mut Machine) -> T) -> T {
        f(self.core.world.borrow_mut().machine(self.id))
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where others reach a port of it.
    pub fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::new(addr_of(self.id), port)
    }

    /// The runtime of one of its shards, in its present life.
    ///
    /// # Panics
    /// If the node is down.
    pub fn env(&self, shard: ShardId) -> SimEnv {
        let mut world = self.core.world.borrow_mut();
        let owner = world.boot(self.id, shard);
        let started = world.machine(self.id).started;
        SimEnv { core: self.core.clone(), owner, started }
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.with(|machine| machine.up)
    }

    /// Ends the process as `kill -9` does: tasks, sockets and memory are gone, what was written is
    /// there. Writes in flight may have happened or not. The node stays down.
    pub fn kill(&self) {
        self.go_down(false);
    }

    /// Cuts the power: as [`Node::kill`], and what was not synced is lost or torn as chance has
    /// it. The node stays down.
    pub fn power_cut(&self) -> PowerCut {
        self.go_down(true)
    }

    /// Starts the process anew, on the same disk: fresh envs from [`Node::env`]. Kills it first if
    /// it runs.
    pub fn restart(&self) {
        if self.is_up() {
            self.kill();
        }
        let mut world = self.core.world.borrow_mut();
        let now = world.now;
        let machine = world.machine(self.id);
        (machine.up, machine.powered) = (true, true);
        machine.started = now;
        world.note(What::Up, self.id.0, 0);
    }

    fn go_down(&self, power: bool) -> PowerCut {
        let report = self.stop(power);
        let gone = self.id;
        self.core.executor.unpark();
        self.core.executor.end(|owner| owner.node == gone);
        report
    }

    fn stop(&self, power: bool) -> PowerCut {
        let mut world = self.core.world.borrow_mut();
        let world = &mut *world;
        let machine = world.machine(self.id);
        machine.life += 1;
        (machine.up, machine.powered) = (false, !power);
        machine.paused = false;
        machine.shards.clear();
        world.give_up_ops(self.id, power);
        world.break_links(self.id, power);
        let machine = world.machines.get_mut(&self.id).expect("made above");
        let mut report = PowerCut::default();
        if power {
            report = machine.disk.power_cut(&mut world.rng);
        } else {
            machine.disk.close_all();
        }
        world.note(What::Down, self.id.0, report.lost << 32 | report.torn);
        report
    }

    /// Stops the process as SIGSTOP does: its tasks do not run, its I/O goes on.
    pub fn pause(&self) {
        self.with(|machine| machine.paused = true);
    }

    /// Lets a paused process go on.
    pub fn unpause(&self) {
        self.with(|machine| machine.paused = false);
        self.core.executor.unpark();
    }

    /// Sets its wall clock forward, or back, by `ms` against the true time. Its monotonic clock
    /// does not notice.
    pub fn set_wall_offset_ms(&self, ms: i64) {
        self.with(|machine| machine.wall_offset_ms = ms);
    }

    /// How fast its monotonic clock is: `ppm` parts per million against the true time, from its
    /// next start on.
    ///
    /// # Panics
    /// If it runs tasks: their time would jump.
    pub fn set_drift_ppm(&self, ppm: i64) {
        self.with(|machine| {
            assert!(machine.shards.is_empty(), "the node runs");
            machine.drift_ppm = ppm;
        });
    }
}

/// Its disk.
impl Node {
    /// Says how the disk misbehaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.with(|machine| machine.faults = faults);
        self.core.world.borrow_mut().note(What::Faulted, self.id.0, 0);
    }

    /// Says which operations fail from now on, whatever the faults say; `None`: none do.
    pub fn set_plan(&self, plan: Option<Plan>) {
        self.with(|machine| machine.plan = plan);
    }

    /// The last operation that was planned to fail and did, with its path.
    pub fn failed(&self) -> Option<String> {
        self.with(|machine| machine.failed.clone())
    }

    /// Operations that were asked of the disk so far.
    pub fn calls(&self) -> u64 {
        self.with(|machine| machine.calls)
    }

    /// How long its operations take.
    pub fn latency(&self) -> DiskLatency {
        self.with(|machine| machine.latency.clone())
    }

    /// Says how long its operations take; drawn from the seed otherwise.
    pub fn set_latency(&self, latency: DiskLatency) {
        self.with(|machine| machine.latency = latency);
    }

    /// Says how many bytes it holds; more than any file otherwise.
    pub fn set_capacity(&self, bytes: u64) {
        self.with(|machine| machine.disk.capacity = bytes);
    }

    /// Bytes in its files.
    pub fn disk_used(&self) -> u64 {
        self.with(|machine| machine.disk.used())
    }

    /// Creates a directory and its parents durably, as an operator did long ago.
    ///
    /// # Panics
    /// If a part of it is a file.
    pub fn make_dir(&self, dir: impl AsRef<Path>) {
        self.with(|machine| {
            machine.disk.create_dir(dir.as_ref()).expect("the path has no file in it");
            machine.disk.sync_parents(dir.as_ref());
        });
    }

    /// Takes all that is on its disk, as if it had another one.
    ///
    /// # Panics
    /// If its process runs.
    pub fn wipe(&self) {
        self.with(|machine| {
            assert!(!machine.up, "its files are open");
            let capacity = machine.disk.capacity;
            machine.disk = Disk::new();
            machine.disk.capacity = capacity;
        });
        self.core.world.borrow_mut().note(What::Faulted, self.id.0, 1);
    }

    /// What reads would see of a file; `None` if it is not there.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.with(|machine| {
            let file = machine.disk.file(machine.disk.find(path.as_ref())?);
            let mut bytes = vec![0; file.len() as usize];
            file.read(0, &mut bytes);
            Some(bytes)
        })
    }

    /// Puts a durable file there, in place of what was: `bytes` and zeroes to the end of the
    /// sector. Its directory must be there.
    ///
    /// # Panics
    /// If the directory is not there, or the path is one.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        self.with(|machine| {
            let disk = &mut machine.disk;
            if disk.find(path).is_some() {
                disk.remove(path).expect("just found");
            }
            let (inode, _) = disk.open(path, Mode::Create).expect("its directory is there");
            let mut whole = bytes.to_vec();
            whole.resize(bytes.len().next_multiple_of(SECTOR_LEN), 0);
            disk.write(inode, 0, &whole, true, |_| true);
            disk.sync_parents(path);
        });
    }

    /// Cuts a file to `len` bytes, whole sectors, durably. False if it is not there.
    pub fn truncate_file(&self, path: impl AsRef<Path>, len: u64) -> bool {
        self.with(|machine| match machine.disk.find(path.as_ref()) {
            Some(inode) => {
                machine.disk.file_mut(inode).truncate(len);
                true
            }
            None => false,
        })
    }

    /// Flips bit `bit` (0..8) of byte `offset` of a file, for good. False if there is no such byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: u64, bit: u8) -> bool {
        self.with(|machine| match machine.disk.find(path.as_ref()) {
            Some(inode) => machine.disk.file_mut(inode).flip_bit(offset, bit),
            None => false,
        })
    }

    /// The names in a directory, sorted; none if it is not there.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        self.with(|machine| machine.disk.list(dir.as_ref()).unwrap_or_default())
    }

    /// Pauses the node for `duration` of virtual time from now.
    pub fn pause_for(&self, duration: Duration) {
        self.pause();
        let until = self.core.world.borrow().now.saturating_add(super::world::nanos(duration));
        self.core
            .world
            .borrow_mut()
            .schedule(until, super::world::Action::Unpause { node: self.id });
    }
}
