//! A large value, chunk by chunk: the next is read while one is used.

use std::pin::Pin;

use super::{Aligned, Error, Handle, Large, PartKind, ReadEnd, Table, read_exact};
use crate::env::Env;
use crate::lsm::block::{Malformed, Part, Run};

/// See the module's header.
pub struct Chunks<E: Env> {
    table: Table<E>,
    run: Run,
    /// The chunk that is handed out next, and the read of it if it has begun.
    number: u64,
    ahead: Option<Pin<Box<dyn Future<Output = ReadEnd>>>>,
    bytes: Option<Aligned>,
}

impl<E: Env> Chunks<E> {
    pub(super) fn new(table: Table<E>, Large { offset, len }: Large) -> Self {
        Self { table, run: Run { offset, len }, number: 0, ahead: None, bytes: None }
    }

    /// Bytes of the value that are not handed out, or what the file can have of them.
    pub fn left_len(&self) -> usize {
        let done = self.number * crate::lsm::block::BODY_LEN_MAX as u64;
        self.run.len.saturating_sub(done).min(self.table.meta().file_len) as usize
    }

    /// The next chunk, at most a MiB; none behind the last.
    ///
    /// # Errors
    /// As the disk's; the chunk is damaged. Nothing more comes of it then.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some(handle) = self.run.part(self.number) else { return Ok(None) };
        let number = self.number;
        let read = match self.ahead.take() {
            Some(read) => read,
            None => self.begin(handle)?,
        };
        let bytes = read_exact(read, self.table.path(), handle.len).await?;
        let seed = self.table.inner.footer.seed();
        let part = Part::open_of_run(PartKind::Chunk, seed, handle, number, self.run, &bytes);
        let part = self.table.wrong(handle, part)?;
        self.number += 1;
        if let Some(next) = self.run.part(self.number) {
            self.ahead = Some(self.begin(next)?);
        }
        let bytes = self.bytes.insert(bytes);
        Ok(Some(&bytes[part.body()]))
    }

    fn begin(&self, handle: Handle) -> Result<Pin<Box<dyn Future<Output = ReadEnd>>>, Error> {
        self.table.check(handle)?;
        let end = self.run.offset.checked_add(self.run.len);
        if end.is_none_or(|end| end > self.table.meta().file_len) {
            return self.table.wrong(handle, Err(Malformed { what: "large value" }));
        }
        Ok(Box::pin(self.table.begin_read(handle.offset, handle.len)))
    }
}
