//! Files: glommio's `DmaFile`, direct I/O.
//!
//! glommio has no `RWF_DSYNC`, so a file that is written has two descriptors: durable writes go
//! through one opened with `O_DSYNC`, the others through a plain one, so that zero-filling a
//! segment does not flush per write. The price is a second `open` and descriptor per written file;
//! the other way, a write and then fdatasync, cost 1.2-1.6x the time per commit and an io-wq worker
//! each (76-122 against 16-50 us of CPU for 4 KiB).
//!
//! glommio's buffers are its own and are not given back, so every operation copies: a write from
//! our [`Aligned`] into a fresh `DmaBuffer`, a read out of one. That is about 0.1 us per 4 KiB.
//!
//! An operation is a task that starts at once: writes overlap also when their futures are awaited
//! one after the other, and a dropped future does not stop its operation.

use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{DmaFile, OpenOptions};

use super::io_error;
use super::tasks::Tasks;
use crate::env::plain::check_direct;
use crate::env::{Aligned, File, Mode};

/// An open file, direct I/O.
#[derive(Clone)]
pub struct GlommioFile {
    plain: Rc<DmaFile>,
    /// Opened with `O_DSYNC`; of a file that is only read, the same as `plain`.
    durable: Rc<DmaFile>,
    tasks: Rc<Tasks>,
}

impl GlommioFile {
    /// See [`crate::env::Env::open`].
    pub(super) async fn open(path: &Path, mode: Mode, tasks: Rc<Tasks>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != Mode::Read).create_new(mode == Mode::Create);
        let plain = Rc::new(options.dma_open(path).await.map_err(io_error)?);
        if mode == Mode::Read {
            return Ok(Self { durable: Rc::clone(&plain), plain, tasks });
        }
        options.create_new(false).custom_flags(libc::O_DSYNC);
        let durable = Rc::new(options.dma_open(path).await.map_err(io_error)?);
        Ok(Self { plain, durable, tasks })
    }
}

impl File for GlommioFile {
    fn read_at(
        &self,
        mut buf: Aligned,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_direct(&buf, len, offset);
        let file = Rc::clone(&self.plain);
        self.tasks.operate(async move {
            let result = file.read_at_aligned(offset, len).await.map_err(io_error);
            let result = result.map(|read| {
                buf[..read.len()].copy_from_slice(&read);
                read.len()
            });
            (result, buf)
        })
    }

    fn write_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
        durable: bool,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static {
        check_direct(&buf, len, offset);
        let file = Rc::clone(if durable { &self.durable } else { &self.plain });
        self.tasks.operate(async move {
            let mut copy = file.alloc_dma_buffer(len);
            copy.as_bytes_mut().copy_from_slice(&buf[..len]);
            (file.write_at(copy, offset).await.map_err(io_error), buf)
        })
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.plain);
        self.tasks.operate(async move { file.fdatasync().await.map_err(io_error) })
    }

    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>> + 'static {
        let file = Rc::clone(&self.plain);
        self.tasks.operate(async move { file.truncate(len).await.map_err(io_error) })
    }

    fn size(&self) -> io::Result<u64> {
        let same = std::fs::File::from(self.plain.as_fd().try_clone_to_owned()?);
        Ok(same.metadata()?.len())
    }
}
