//! File operations as futures over the ring.
//!
//! The op table owns the buffer and the file of every operation in flight. A future that is
//! dropped marks its operation orphaned; buffer and file are let go when the completion comes.
#![expect(unsafe_code, reason = "the kernel works on buffers that the op table keeps")]

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue, types};

use super::Reactor;
use super::ring::fd;
use super::tag::{Kind, tag};
use crate::env::plain::check_direct;
use crate::env::{Aligned, File};

/// An open file, direct I/O.
#[derive(Clone)]
pub struct UringFile {
    file: Rc<std::fs::File>,
    reactor: Rc<Reactor>,
}

struct Op {
    generation: u32,
    state: State,
    buf: Option<Aligned>,
    /// Keeps the descriptor open while the kernel uses it.
    file: Option<Rc<std::fs::File>>,
}

enum State {
    Free,
    Pending(Option<Waker>),
    Orphaned,
    Done(i32),
}

/// Operations in flight.
#[derive(Default)]
pub struct Ops {
    table: Vec<Op>,
    free: Vec<u32>,
    in_flight: usize,
}

impl Ops {
    fn start(&mut self, buf: Option<Aligned>, file: Rc<std::fs::File>) -> (u32, u32) {
        self.in_flight += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            let op = Op { generation: 0, state: State::Free, buf: None, file: None };
            self.table.push(op);
            self.table.len() as u32 - 1
        });
        let op = &mut self.table[index as usize];
        assert!(matches!(op.state, State::Free), "an op slot was given twice");
        *op = Op {
            generation: op.generation.wrapping_add(1),
            state: State::Pending(None),
            buf,
            file: Some(file),
        };
        (index, op.generation)
    }

    /// Takes in a completion.
    pub fn complete(&mut self, index: u32, generation: u32, result: i32) {
        let op = &mut self.table[index as usize];
        let expected = op.generation & super::tag::GENERATION_MASK;
        assert_eq!(expected, generation, "a completion of another operation");
        self.in_flight -= 1;
        op.file = None;
        match std::mem::replace(&mut op.state, State::Done(result)) {
            State::Pending(Some(waker)) => waker.wake(),
            State::Pending(None) => {}
            State::Orphaned => self.release(index),
            State::Free | State::Done(_) => panic!("operation {index} completed twice"),
        }
    }

    /// Operations the kernel still works on.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn release(&mut self, index: u32) {
        let op = &mut self.table[index as usize];
        op.state = State::Free;
        op.buf = None;
        self.free.push(index);
    }
}

/// Ends with the operation's result and its buffer.
struct Operation {
    reactor: Rc<Reactor>,
    index: u32,
    ended: bool,
}

impl Future for Operation {
    type Output = (io::Result<usize>, Option<Aligned>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reactor = Rc::clone(&self.reactor);
        let mut ops = reactor.ops.borrow_mut();
        let op = &mut ops.table[self.index as usize];
        match &mut op.state {
            State::Done(result) => {
                let result = *result;
                let buf = op.buf.take();
                ops.release(self.index);
                self.ended = true;
                let result = match result {
                    0.. => Ok(result as usize),
                    _ => Err(io::Error::from_raw_os_error(-result)),
                };
                Poll::Ready((result, buf))
            }
            State::Pending(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Free | State::Orphaned => panic!("a future polled after its end"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut ops = self.reactor.ops.borrow_mut();
        match ops.table[self.index as usize].state {
            State::Done(_) => ops.release(self.index),
            _ => ops.table[self.index as usize].state = State::Orphaned,
        }
    }
}

impl UringFile {
    /// Wraps an opened file.
    pub(super) fn new(file: std::fs::File, reactor: Rc<Reactor>) -> Self {
        Self { file: Rc::new(file), reactor }
    }

    fn submit(
        &self,
        buf: Option<Aligned>,
        entry: impl FnOnce(types::Fd, *mut u8) -> squeue::Entry,
    ) -> Operation {
        let mut ops = self.reactor.ops.borrow_mut();
        let (index, generation) = ops.start(buf, Rc::clone(&self.file));
        let op = &mut ops.table[index as usize];
        let address = op.buf.as_mut().map_or(std::ptr::null_mut(), |buf| buf.as_mut_ptr());
        let entry =
            entry(fd(self.file.as_raw_fd()), address).user_data(tag(Kind::Op, index, generation));
        // SAFETY: the op table owns buffer and file until `complete` saw this operation's end.
        unsafe { self.reactor.ring.borrow_mut().push(&entry) };
        Operation { reactor: Rc::clone(&self.reactor), index, ended: false }
    }

    /// fsync of a directory or fdatasync of a file.
    pub fn fsync(
        &self,
        flags: types::FsyncFlags,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let operation = self.submit(None, |fd, _| opcode::Fsync::new(fd).flags(flags).build());
        async move { operation.await.0.map(|_| ()) }
    }
}

impl File for UringFile {
    fn read_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_direct(&buf, len, offset);
        let operation = self.submit(Some(buf), |fd, address| {
            opcode::Read::new(fd, address, len as u32).offset(offset).build()
        });
        self.reactor.ring.borrow_mut().note_read();
        async move {
            let (result, buf) = operation.await;
            (result, buf.expect("a read keeps its buffer"))
        }
    }

    fn write_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
        durable: bool,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_direct(&buf, len, offset);
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let operation = self.submit(Some(buf), |fd, address| {
            opcode::Write::new(fd, address, len as u32).offset(offset).rw_flags(flags).build()
        });
        async move {
            let (result, buf) = operation.await;
            (result, buf.expect("a write keeps its buffer"))
        }
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        self.fsync(types::FsyncFlags::DATASYNC)
    }

    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>> + 'static {
        // A plain call, as those on names: the ring has it from Linux 6.9 on only.
        let file = Rc::clone(&self.file);
        async move { file.set_len(len) }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
