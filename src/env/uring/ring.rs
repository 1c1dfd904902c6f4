//! The ring itself: set-up with what the kernel offers, the provided receive buffers, submission.
//!
//! Buffers are given to the kernel in a ring of 16 KiB pieces and come back with each receive, so
//! that an idle connection holds none. The pool is small on purpose: the kernel uses buffers in
//! the order in which they were given, and a pool of 4 MiB stays in the cache.
#![expect(unsafe_code, reason = "the kernel reads and writes memory that we name by address")]

use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue, types};

use super::moderation::Want;
use crate::env::Aligned;

/// Bytes of one receive buffer.
const BUFFER_LEN: usize = 16 << 10;
/// Receive buffers of a shard; a power of two.
const BUFFER_COUNT: u16 = 256;
/// The one buffer group.
pub const BUFFER_GROUP: u16 = 0;
const SUBMISSIONS_MAX: u32 = 1024;
/// Reads of files that do not wait for the turn's end: with 16 in flight all of them came back at
/// once, and the disk had nothing to do while a turn served them. Reads a second beside those of
/// turns alone, medians of three: 1.18x with 1, 1.25x with 2, 1.20x with 4, 1.12x with 8; CPU per
/// read 1.3x, 1.15x, 1.03x, 1.02x (bench-results/engines.md).
const READS_TOGETHER: u32 = 4;
const COMPLETIONS_MAX: u32 = 8192;

/// What this kernel can do beyond 5.19; each has a fallback within io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// 6.0: one receive request serves a connection for life. Else: one per receive.
    pub multishot_recv: bool,
    /// 6.0 and 6.1: completions are posted only when the loop asks (`SINGLE_ISSUER`,
    /// `DEFER_TASKRUN`). Else: `COOP_TASKRUN` alone.
    pub defer_taskrun: bool,
    /// 6.12: a wait for several completions settles for one after a while.
    pub min_wait: bool,
}

impl Features {
    /// What a kernel of 5.19 has: the floor.
    pub const OLDEST: Self = Self { multishot_recv: false, defer_taskrun: false, min_wait: false };

    /// Asks the running kernel.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] before 5.19; the text says so.
    pub fn probe() -> io::Result<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let version = parse_release(&release);
        if version < (5, 19) {
            let text = format!(
                "Linux {} is too old: the io_uring reactor needs 5.19 or later (buffer rings)",
                release.trim()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Self {
            multishot_recv: version >= (6, 0),
            defer_taskrun: version >= (6, 1),
            min_wait: version >= (6, 12),
        })
    }
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The receive buffers: memory, and the list of those to be given back.
pub struct Pool {
    memory: Aligned,
    returned: RefCell<Vec<u16>>,
}

/// Received bytes in a provided buffer; dropping it gives the buffer back.
pub struct Chunk {
    pool: Rc<Pool>,
    buffer: u16,
    len: u32,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.buffer as usize * BUFFER_LEN;
        &self.pool.memory[start..start + self.len as usize]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.returned.borrow_mut().push(self.buffer);
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

/// How a core parks.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// For what.
    pub want: Want,
    /// How long at most.
    pub limit: Option<Duration>,
}

/// One shard's ring with its receive buffers.
pub struct Ring {
    uring: IoUring,
    pool: Rc<Pool>,
    /// The buffer ring shared with the kernel: `BUFFER_COUNT` entries.
    entries: Aligned,
    tail: u16,
    features: Features,
    /// Reads of files that are queued and not submitted.
    reads_queued: u32,
}

impl Ring {
    /// Sets up the ring on the thread that will use it.
    ///
    /// # Errors
    /// As `io_uring_setup`; the text of a refusal names the usual cures.
    pub fn new(features: Features) -> io::Result<Self> {
        let uring = build(features).map_err(explain)?;
        let entries = Aligned::zeroed(BUFFER_COUNT as usize * size_of::<types::BufRingEntry>());
        // SAFETY: `entries` is page-aligned, of the length named, and lives as long as the ring:
        // `drop` unregisters it before it is freed.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                BUFFER_COUNT,
                BUFFER_GROUP,
                0,
            )?;
        }
        let memory = Aligned::zeroed(BUFFER_COUNT as usize * BUFFER_LEN);
        let returned = RefCell::new((0..BUFFER_COUNT).collect());
        let pool = Rc::new(Pool { memory, returned });
        let mut ring = Self { uring, pool, entries, tail: 0, features, reads_queued: 0 };
        ring.provide_buffers();
        Ok(ring)
    }

    /// What was found at set-up.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Gives buffers that were dropped back to the kernel; true if there were any.
    pub fn provide_buffers(&mut self) -> bool {
        let mut returned = self.pool.returned.borrow_mut();
        if returned.is_empty() {
            return false;
        }
        let base = self.entries.as_mut_ptr().cast::<types::BufRingEntry>();
        for buffer in returned.drain(..) {
            let place = (self.tail & (BUFFER_COUNT - 1)) as usize;
            let address = self.pool.memory[buffer as usize * BUFFER_LEN..].as_ptr();
            // SAFETY: `place` is below BUFFER_COUNT, the number of entries allocated; the kernel
            // reads an entry only after the tail passed it.
            let entry = unsafe { &mut *base.add(place) };
            entry.set_addr(address as u64);
            entry.set_len(BUFFER_LEN as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: `base` is the start of the registered ring; its tail is a u16 in the first
        // entry that only we write, atomically, as the kernel's contract demands.
        unsafe {
            let tail = types::BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
        true
    }

    /// The chunk of a receive completion, if it used a buffer.
    pub fn chunk(&self, flags: u32, len: u32) -> Option<Chunk> {
        let buffer = cqueue::buffer_select(flags)?;
        Some(Chunk { pool: Rc::clone(&self.pool), buffer, len })
    }

    /// Queues `entry`; submits first when the queue is full.
    ///
    /// # Safety
    /// All memory that `entry` names stays valid and unmoved until its completion was seen.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to our caller.
        unsafe { self.push_all(std::slice::from_ref(entry)) };
    }

    /// A read of a file was queued. A few of them are submitted at once, so that the disk has them
    /// while the next are made ready.
    pub fn note_read(&mut self) {
        self.reads_queued += 1;
        if self.reads_queued == READS_TOGETHER {
            self.reads_queued = 0;
            // What is refused stays queued until the turn ends.
            let _ = self.uring.submit();
        }
    }

    /// Queues `entries` to be submitted together, as linked ones must be.
    ///
    /// # Safety
    /// As [`Ring::push`].
    pub unsafe fn push_all(&mut self, entries: &[squeue::Entry]) {
        loop {
            // SAFETY: passed on to our caller.
            if unsafe { self.uring.submission().push_multiple(entries) }.is_ok() {
                return;
            }
            // EBUSY and EINTR: the kernel takes them once completions are reaped; try on.
            let _ = self.uring.submit();
        }
    }

    /// Submits what is queued and, if `wait` says so, sleeps until completions come or the time is
    /// over. Interrupted waits just end.
    ///
    /// # Errors
    /// Only what a broken ring gives.
    pub fn enter(&mut self, wait: Option<Wait>) -> io::Result<()> {
        self.reads_queued = 0;
        let result = match wait {
            None => {
                if self.uring.submission().is_empty() && !self.uring.submission().taskrun() {
                    return Ok(());
                }
                self.uring.submit_and_wait(0)
            }
            Some(Wait { want, limit }) => {
                let time = limit.map(types::Timespec::from);
                let mut args = types::SubmitArgs::new().min_wait_usec(want.time.as_micros() as u32);
                if let Some(time) = &time {
                    args = args.timespec(time);
                }
                self.uring.submitter().submit_with_args(want.count as usize, &args)
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::ETIME | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether completions wait, in our memory or ready to be posted.
    pub fn has_completions(&mut self) -> bool {
        self.uring.submission().taskrun() || !self.uring.completion().is_empty()
    }

    /// Takes all completions that are there.
    pub fn reap(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.uring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Fails only if the ring is already gone, and then there is nothing to unregister.
        let _ = self.uring.submitter().unregister_buf_ring(BUFFER_GROUP);
    }
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// As submitted.
    pub user_data: u64,
    /// Count or negative errno.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
}

impl Completion {
    /// Whether a multishot request goes on.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

fn build(features: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS_MAX).setup_clamp().setup_coop_taskrun().setup_taskrun_flag();
    if features.defer_taskrun {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    builder.build(SUBMISSIONS_MAX)
}

fn explain(error: io::Error) -> io::Error {
    let cure = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is denied: check `sysctl kernel.io_uring_disabled` (0 allows it) or run the \
             container with --security-opt seccomp=unconfined"
        }
        Some(libc::ENOSYS) => "this kernel was built without io_uring",
        Some(libc::ENOMEM) => "locked memory is too small: raise `ulimit -l` to 512 or more",
        _ => "io_uring could not be set up",
    };
    io::Error::new(error.kind(), format!("{cure} ({error})"))
}

/// The raw descriptor as the ring's type.
pub fn fd(raw: RawFd) -> types::Fd {
    types::Fd(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_order_by_number() {
        assert_eq!(parse_release("6.18.44-fc-v669\n"), (6, 18));
        assert!(parse_release("5.9.1") < (5, 19));
        assert_eq!(parse_release(""), (0, 0));
    }
}
