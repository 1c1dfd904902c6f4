//! A file that is written from start to end: parts gather in a buffer of a MiB, a full buffer is
//! one write, several writes are in flight.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;

use super::error::{Error, io};
use crate::env::{Aligned, Env, File, Mode};
use crate::lsm::block::PART_LEN_MAX;

/// Bytes of a buffer: no part is longer.
const BUFFER_LEN: usize = PART_LEN_MAX;
/// Writes in flight: enough for a disk to have the next when one ends.
const IN_FLIGHT_MAX: usize = 3;

type Ended = (io::Result<usize>, Aligned);

struct Write {
    offset: u64,
    len: usize,
    running: Pin<Box<dyn Future<Output = Ended>>>,
    ended: Option<Ended>,
}

/// See the module's header. After an error nothing more can be done with it. Dropped before its
/// end, it leaves a file that is the caller's to remove.
pub struct Output<E: Env> {
    file: E::File,
    path: PathBuf,
    /// The buffer's place in the file, and how much of it is filled.
    start: u64,
    filled: usize,
    buf: Aligned,
    writes: VecDeque<Write>,
    spare: Vec<Aligned>,
}

impl<E: Env> Output<E> {
    /// Creates the file.
    ///
    /// # Errors
    /// As the disk's, here and below.
    pub async fn create(env: &E, path: &Path) -> Result<Self, Error> {
        let file = io("create", path, env.open(path, Mode::Create).await)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            start: 0,
            filled: 0,
            buf: Aligned::zeroed(BUFFER_LEN),
            writes: VecDeque::with_capacity(IN_FLIGHT_MAX),
            spare: Vec::new(),
        })
    }

    /// Where the next part goes.
    pub fn offset(&self) -> u64 {
        self.start + self.filled as u64
    }

    /// Room for a part of `len` bytes, whole sectors, at [`Output::offset`]: fill it, then
    /// [`Output::took`] it.
    pub async fn room(&mut self, len: usize) -> Result<&mut [u8], Error> {
        if self.filled + len > BUFFER_LEN {
            self.dispatch().await?;
        }
        Ok(&mut self.buf[self.filled..self.filled + len])
    }

    /// `len` bytes of the room were filled.
    pub fn took(&mut self, len: usize) {
        self.filled += len;
    }

    /// Gives what is in the buffer to the disk.
    async fn dispatch(&mut self) -> Result<(), Error> {
        if self.filled == 0 {
            return Ok(());
        }
        if self.writes.len() == IN_FLIGHT_MAX {
            self.await_first().await?;
        }
        let fresh = self.spare.pop().unwrap_or_else(|| Aligned::zeroed(BUFFER_LEN));
        let buf = std::mem::replace(&mut self.buf, fresh);
        let running = self.file.write_at(buf, self.filled, self.start, false);
        self.writes.push_back(Write {
            offset: self.start,
            len: self.filled,
            running: Box::pin(running),
            ended: None,
        });
        self.start += self.filled as u64;
        self.filled = 0;
        // A write may begin no earlier than it is first polled.
        poll_fn(|cx| {
            self.poll(cx);
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        for write in self.writes.iter_mut().filter(|write| write.ended.is_none()) {
            if let Poll::Ready(ended) = write.running.as_mut().poll(cx) {
                write.ended = Some(ended);
            }
        }
    }

    async fn await_first(&mut self) -> Result<(), Error> {
        let (Write { offset, len, .. }, (result, buf)) = poll_fn(|cx| {
            self.poll(cx);
            match self.writes.front_mut().map(|write| write.ended.take()) {
                Some(Some(ended)) => {
                    Poll::Ready((self.writes.pop_front().expect("just looked at"), ended))
                }
                Some(None) => Poll::Pending,
                None => unreachable!("no write is awaited without one in flight"),
            }
        })
        .await;
        let written = io("write", &self.path, result)?;
        if written < len {
            return Err(Error::Short { path: self.path.clone(), offset, len, written });
        }
        self.spare.push(buf);
        Ok(())
    }

    /// Writes what is left and makes the file durable; its name is the caller's to sync.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.dispatch().await?;
        while !self.writes.is_empty() {
            self.await_first().await?;
        }
        io("sync", &self.path, self.file.sync().await)
    }
}
