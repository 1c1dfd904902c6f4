//! File operations in flight: submitted, then completed after their latency with whatever faults
//! are on, or cut short when the node goes down.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Change, Inode};
use super::env::SimEnv;
use super::executor::Owner;
use super::faults::{Failure, Faults};
use super::rng::Rng;
use super::world::{Action, Machine, What, World, nanos};
use crate::env::{Aligned, File, Mode};
use crate::id::NodeId;
use crate::limits::SECTOR_LEN;

/// As Linux numbers it: an I/O error of the device.
const EIO: i32 = 5;

/// Where the result of an operation is put, and who waits for it.
pub(super) struct Slot<T>(RefCell<(Option<T>, Option<Waker>)>);

pub(super) type Done<T> = Rc<Slot<T>>;

impl<T> Slot<T> {
    fn put(&self, result: T) {
        let mut slot = self.0.borrow_mut();
        slot.0 = Some(result);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut std::task::Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A read or write in flight.
pub(super) struct Transfer {
    pub inode: Inode,
    /// Keeps the file.
    pub open: Rc<()>,
    pub buf: Aligned,
    pub len: usize,
    pub offset: u64,
    pub done: Done<(io::Result<usize>, Aligned)>,
}

/// An operation in flight.
pub(super) enum Op {
    Read(Transfer),
    Write { transfer: Transfer, durable: bool },
    Sync { inode: Inode, open: Rc<()>, upto: Change, done: Done<io::Result<()>> },
    Truncate { inode: Inode, open: Rc<()>, len: u64, done: Done<io::Result<()>> },
    Open { path: PathBuf, mode: Mode, done: Done<io::Result<(Inode, Rc<()>)>> },
    List { dir: PathBuf, done: Done<io::Result<Vec<String>>> },
    CreateDir { dir: PathBuf, done: Done<io::Result<()>> },
    Rename { from: PathBuf, to: PathBuf, done: Done<io::Result<()>> },
    Link { from: PathBuf, to: PathBuf, done: Done<io::Result<()>> },
    Remove { path: PathBuf, done: Done<io::Result<()>> },
    SyncDir { dir: PathBuf, upto: Change, done: Done<io::Result<()>> },
}

/// Submits when first polled; ends when the operation does.
pub(super) fn submit<T: 'static, M: FnOnce(&Machine, Done<T>) -> Op + 'static>(
    env: SimEnv,
    path: &Path,
    make: M,
) -> impl Future<Output = T> + use<T, M> {
    let path: Rc<Path> = path.into();
    async move {
        let done = Rc::new(Slot(RefCell::new((None, None))));
        env.core.world.borrow_mut().submit(env.owner, &path, |machine| make(machine, done.clone()));
        poll_fn(|cx| done.poll(cx)).await
    }
}

impl World {
    fn submit(&mut self, owner: Owner, path: &Path, make: impl FnOnce(&Machine) -> Op) {
        let alive = self.shard(owner).is_some();
        assert!(alive, "an env or a file of an earlier life of node {} is in use", owner.node);
        let number = self.number();
        let World { machines, rng, .. } = self;
        let machine = machines.get_mut(&owner.node).expect("its shard is alive");
        let op = make(machine);
        let range = match &op {
            Op::Read(_) => &machine.latency.read_ns,
            Op::Write { .. } => &machine.latency.write_ns,
            _ => &machine.latency.sync_ns,
        };
        let mut latency = rng.between(*range.start(), *range.end());
        if matches!(op, Op::Write { durable: true, .. }) {
            latency += machine.latency.held_up_ns;
        }
        if rng.chance(machine.faults.spike) {
            latency += rng.between(0, nanos(machine.faults.spike_max));
        }
        let print = op.print();
        machine.calls += 1;
        let plan = machine.plan.as_ref().and_then(|plan| plan.failure(machine.calls, path));
        let failure = plan.filter(|failure| *failure == Failure::Eio || machine.needs_room(&op));
        if failure.is_some() {
            machine.failed = Some(format!("{} {}", op.name(), path.display()));
        }
        machine.ops.insert(number, (op, failure));
        let at = self.now + latency;
        self.note(What::Submitted, number, print);
        self.schedule(at, Action::Io { node: owner.node, op: number });
    }

    /// An operation's time has come.
    pub fn complete(&mut self, node: NodeId, number: u64) {
        let World { machines, rng, .. } = self;
        let Some(machine) = machines.get_mut(&node) else { return };
        // None: the node went down meanwhile.
        let Some((op, failure)) = machine.ops.remove(&number) else { return };
        let print = match failure {
            Some(failure) => machine.fail(op, failure, rng),
            None => machine.perform(op, rng),
        };
        self.note(What::Completed, number, print);
    }

    /// The process is gone. What was in flight may have reached the disk or not; with `power`
    /// gone too, any part of it may.
    pub fn give_up_ops(&mut self, node: NodeId, power: bool) {
        let World { machines, rng, .. } = self;
        let machine = machines.get_mut(&node).expect("the caller looked it up");
        let mut ops: Vec<_> = std::mem::take(&mut machine.ops).into_values().collect();
        while !ops.is_empty() {
            let (op, _) = ops.swap_remove(rng.index(ops.len()));
            machine.give_up(op, power, rng);
        }
    }
}

impl Op {
    fn print(&self) -> u64 {
        match self {
            Self::Read(transfer) => transfer.offset ^ 1,
            Self::Write { transfer, .. } => {
                xxh3_64(&transfer.buf[..transfer.len]) ^ transfer.offset
            }
            Self::Sync { .. } => 2,
            Self::Open { path, .. } => xxh3_64(path.as_os_str().as_encoded_bytes()),
            Self::List { .. } => 3,
            Self::CreateDir { .. } => 4,
            Self::Rename { .. } => 5,
            Self::Remove { .. } => 6,
            Self::SyncDir { .. } => 7,
            Self::Truncate { len, .. } => len ^ 8,
            Self::Link { .. } => 9,
        }
    }
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write { durable: true, .. } => "durable write",
            Self::Write { .. } => "write",
            Self::Sync { .. } => "sync",
            Self::Truncate { .. } => "truncate",
            Self::Open { mode: Mode::Create, .. } => "create",
            Self::Open { .. } => "open",
            Self::List { .. } => "list",
            Self::CreateDir { .. } => "create directory",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Remove { .. } => "remove",
            Self::SyncDir { .. } => "sync directory",
        }
    }
}

impl Machine {
    /// Does `op`; a print of its outcome.
    fn perform(&mut self, op: Op, rng: &mut Rng) -> u64 {
        match op {
            Op::Read(transfer) => return self.read(transfer, rng),
            Op::Write { transfer, durable } => return self.write(transfer, durable, rng),
            Op::Sync { inode, upto, done, open: _open } => {
                done.put(self.sync(inode, upto, rng));
            }
            Op::Truncate { inode, len, done, open: _open } => {
                done.put(self.on_names(rng).map(|()| self.disk.truncate(inode, len)));
            }
            Op::Open { path, mode, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.open(&path, mode));
                done.put(result);
            }
            Op::List { dir, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.list(&dir));
                done.put(result);
            }
            Op::CreateDir { dir, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.create_dir(&dir));
                done.put(result);
            }
            Op::Rename { from, to, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.rename(&from, &to));
                done.put(result);
            }
            Op::Link { from, to, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.link(&from, &to));
                done.put(result);
            }
            Op::Remove { path, done } => {
                let result = self.on_names(rng).and_then(|()| self.disk.remove(&path));
                done.put(result);
            }
            Op::SyncDir { dir, upto, done } => {
                done.put(match rng.chance(self.faults.sync_eio) {
                    true => Err(eio()),
                    false if rng.chance(self.faults.sync_lie) => Ok(()),
                    false => self.disk.sync_dir(&dir, upto),
                });
            }
        }
        0
    }

    /// Has `op` fail as planned; a print of that.
    fn fail(&mut self, op: Op, failure: Failure, rng: &mut Rng) -> u64 {
        let error = || match failure {
            Failure::Eio => eio(),
            Failure::NoSpace => io::ErrorKind::StorageFull.into(),
        };
        match op {
            Op::Read(Transfer { buf, done, .. }) => done.put((Err(error()), buf)),
            Op::Write { transfer: Transfer { inode, buf, len, offset, done, .. }, .. } => {
                let some = |_| failure == Failure::Eio && rng.one_in(2);
                self.disk.write(inode, offset, &buf[..len], false, some);
                done.put((Err(error()), buf));
            }
            Op::Sync { inode, upto, done, .. } => {
                self.disk.file_mut(inode).sync_failed(upto, rng);
                done.put(Err(error()));
            }
            Op::Open { done, .. } => done.put(Err(error())),
            Op::List { done, .. } => done.put(Err(error())),
            Op::Truncate { done, .. }
            | Op::CreateDir { done, .. }
            | Op::Rename { done, .. }
            | Op::Link { done, .. }
            | Op::Remove { done, .. }
            | Op::SyncDir { done, .. } => done.put(Err(error())),
        }
        1
    }

    /// Whether a full disk may refuse it: not what overwrites what a file has.
    fn needs_room(&self, op: &Op) -> bool {
        match op {
            Op::Write { transfer: Transfer { inode, len, offset, .. }, .. } => {
                offset + *len as u64 > self.disk.file(*inode).len()
            }
            Op::Open { mode, .. } => *mode == Mode::Create,
            Op::Sync { .. } | Op::CreateDir { .. } | Op::SyncDir { .. } => true,
            Op::Rename { .. } | Op::Link { .. } => true,
            Op::Read(_) | Op::Truncate { .. } | Op::List { .. } | Op::Remove { .. } => false,
        }
    }

    fn on_names(&self, rng: &mut Rng) -> io::Result<()> {
        if rng.chance(self.faults.name_eio) { Err(eio()) } else { Ok(()) }
    }

    fn read(&mut self, mut transfer: Transfer, rng: &mut Rng) -> u64 {
        let faults = &self.faults;
        if rng.chance(faults.read_eio) {
            transfer.done.put((Err(eio()), transfer.buf));
            return 1;
        }
        let mut len = transfer.len;
        if rng.chance(faults.short_read) && len > SECTOR_LEN {
            len = rng.between(1, (len / SECTOR_LEN) as u64 - 1) as usize * SECTOR_LEN;
        }
        let file = self.disk.file_mut(transfer.inode);
        if rng.chance(faults.bit_flip) {
            let at = transfer.offset + rng.below(len as u64);
            file.flip_bit(at, rng.below(8) as u8);
        }
        let count = file.read(transfer.offset, &mut transfer.buf[..len]);
        let print = xxh3_64(&transfer.buf[..count]);
        transfer.done.put((Ok(count), transfer.buf));
        print
    }

    fn write(&mut self, transfer: Transfer, durable: bool, rng: &mut Rng) -> u64 {
        let Transfer { inode, buf, len, offset, done, open: _open } = transfer;
        let faults = self.faults.clone();
        if rng.chance(faults.write_eio) {
            self.disk.write(inode, offset, &buf[..len], false, |_| rng.one_in(2));
            done.put((Err(eio()), buf));
            return 1;
        }
        let result = self.room(inode, offset, len).map(|room| cut_short(room, &faults, rng));
        if let Ok(count) = result {
            let durable = durable && !rng.chance(faults.sync_lie);
            let to = if rng.chance(faults.misdirected_write) {
                let sectors = (self.disk.file(inode).len() / SECTOR_LEN as u64).max(1);
                rng.below(sectors) * SECTOR_LEN as u64
            } else {
                offset
            };
            self.disk.write(inode, to, &buf[..count], durable, |_| true);
        }
        let print = result.as_ref().map_or(1, |count| *count as u64);
        done.put((result, buf));
        print
    }

    /// How many bytes of a write find room on the disk.
    fn room(&self, inode: Inode, offset: u64, len: usize) -> io::Result<usize> {
        let there = self.disk.file(inode).len();
        let end = offset + len as u64;
        if self.disk.capacity == u64::MAX || end <= there {
            return Ok(len);
        }
        let free = self.disk.capacity.saturating_sub(self.disk.used());
        let room = (there + free).min(end).saturating_sub(offset);
        match room as usize / SECTOR_LEN * SECTOR_LEN {
            0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
            room => Ok(room),
        }
    }

    fn sync(&mut self, inode: Inode, upto: Change, rng: &mut Rng) -> io::Result<()> {
        let file = self.disk.file_mut(inode);
        if rng.chance(self.faults.sync_eio) {
            file.sync_failed(upto, rng);
            return Err(eio());
        }
        if !rng.chance(self.faults.sync_lie) {
            file.sync(upto);
        }
        Ok(())
    }

    fn give_up(&mut self, op: Op, power: bool, rng: &mut Rng) {
        let happens = rng.one_in(2);
        match op {
            Op::Write { transfer, .. } => {
                // A disk writes a request's sectors in any order: any of them may be there.
                let partly = power || rng.one_in(4);
                let Transfer { inode, buf, len, offset, .. } = transfer;
                if let Ok(room) = self.room(inode, offset, len) {
                    self.disk.write(inode, offset, &buf[..room], false, |_| {
                        if partly { rng.one_in(2) } else { happens }
                    });
                }
            }
            Op::Read(_) | Op::List { .. } => {}
            op if happens => {
                let faults = std::mem::take(&mut self.faults);
                self.perform(op, rng);
                self.faults = faults;
            }
            _ => {}
        }
    }
}

fn cut_short(len: usize, faults: &Faults, rng: &mut Rng) -> usize {
    if len > SECTOR_LEN && rng.chance(faults.short_write) {
        return rng.between(1, (len / SECTOR_LEN) as u64 - 1) as usize * SECTOR_LEN;
    }
    len
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

/// An open file of a simulated disk.
#[derive(Clone)]
pub struct SimFile {
    pub(super) env: SimEnv,
    /// It was opened as this.
    pub(super) path: Rc<Path>,
    pub(super) inode: Inode,
    pub(super) open: Rc<()>,
    pub(super) mode: Mode,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({:?}, {:?})", self.inode, self.mode)
    }
}

impl SimFile {
    fn transfer(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
        done: Done<(io::Result<usize>, Aligned)>,
    ) -> Transfer {
        Transfer { inode: self.inode, open: self.open.clone(), buf, len, offset, done }
    }
}

fn check_aligned(buf: &Aligned, len: usize, offset: u64) {
    assert!(len > 0 && len.is_multiple_of(SECTOR_LEN), "{len} bytes are not whole sectors");
    assert!(offset.is_multiple_of(SECTOR_LEN as u64), "offset {offset} is not a sector's");
    assert!(len <= buf.len(), "{len} bytes of a buffer of {}", buf.len());
}

impl File for SimFile {
    fn read_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_aligned(&buf, len, offset);
        let file = self.clone();
        submit(self.env.clone(), &self.path, move |_, done| {
            Op::Read(file.transfer(buf, len, offset, done))
        })
    }

    fn write_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
        durable: bool,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_aligned(&buf, len, offset);
        assert!(self.mode != Mode::Read, "a write to a file opened for reading");
        let file = self.clone();
        submit(self.env.clone(), &self.path, move |_, done| Op::Write {
            transfer: file.transfer(buf, len, offset, done),
            durable,
        })
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let (inode, open) = (self.inode, self.open.clone());
        submit(self.env.clone(), &self.path, move |machine, done| Op::Sync {
            inode,
            open,
            upto: machine.disk.changed(),
            done,
        })
    }

    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>> + 'static {
        assert!(self.mode != Mode::Read, "a file opened for reading is cut");
        assert!(len.is_multiple_of(SECTOR_LEN as u64), "{len} bytes are not whole sectors");
        let (inode, open) = (self.inode, self.open.clone());
        submit(self.env.clone(), &self.path, move |_, done| Op::Truncate { inode, open, len, done })
    }

    fn size(&self) -> io::Result<u64> {
        let world = self.env.core.world.borrow();
        let machine = &world.machines[&self.env.owner.node];
        if machine.life != self.env.owner.life {
            return Err(eio());
        }
        Ok(machine.disk.file(self.inode).len())
    }
}
