//! A checkpoint on its way out: a task reads ahead, the loop takes piece by piece.
//!
//! It may begin behind bytes that the other has: of the table that it begins in, those are read
//! for the digest, and not given.

use std::rc::Rc;

use xxhash_rust::xxh3::Xxh3;

use super::Error;
use super::belt::Belt;
use super::checkpoint::Checkpoint;
use crate::env::{Class, Env};
use crate::lsm::pace::Pace;

/// Bytes of a piece, at most: hashing one takes some 20 us.
pub const PIECE_LEN: usize = 256 << 10;

/// A part of a table's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of which table: its place in the head, from 0.
    pub table: u32,
    /// Where in the file it begins: where the one before ended.
    pub offset: u64,
    /// Whole sectors, at most [`PIECE_LEN`] bytes.
    pub bytes: Vec<u8>,
    /// The xxh3-64 of the file, if it ends here.
    pub digest: Option<u64>,
}

/// See the module's header. Dropped, the reading ends.
pub struct Outgoing(Belt<Result<Piece, Error>>);

impl Outgoing {
    /// Begins to read, behind the first `skipped` bytes of all tables together: a number of whole
    /// pieces, no faster than `pace` says. The checkpoint is held until all is read.
    pub fn begin<E: Env>(
        env: &E,
        checkpoint: Rc<Checkpoint<E>>,
        skipped: u64,
        pace: Rc<Pace>,
    ) -> Self {
        let belt = Belt::default();
        let (own, task) = (env.clone(), belt.clone());
        env.spawn(Class::Background, async move {
            if let Err(error) = read(&own, &checkpoint, skipped, (&task, &pace)).await {
                task.put(Err(error));
            }
            task.close();
            own.notify();
        });
        Self(belt)
    }

    /// The next piece, if it is there.
    ///
    /// # Errors
    /// A table can not be read: nothing more comes.
    pub fn take(&self) -> Result<Option<Piece>, Error> {
        self.0.take().transpose()
    }

    /// Whether all was taken. Asked after [`Outgoing::take`].
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn read<E: Env>(
    env: &E,
    checkpoint: &Checkpoint<E>,
    mut skipped: u64,
    (belt, pace): (&Belt<Result<Piece, Error>>, &Pace),
) -> Result<(), Error> {
    for (table, number) in checkpoint.tables().zip(0..) {
        let (file_len, mut offset, mut hash) = (table.meta().file_len, 0, Xxh3::new());
        if skipped >= file_len {
            skipped -= file_len;
            continue;
        }
        while offset < file_len {
            let is_given = offset >= skipped;
            if is_given && !belt.room().await {
                return Ok(());
            }
            let len = (file_len - offset).min(PIECE_LEN as u64) as usize;
            pace.take(env, len as u64).await;
            let read = table.bytes(offset, len).await?;
            hash.update(&read[..len]);
            let digest = (offset + len as u64 == file_len).then(|| hash.digest());
            if is_given {
                let bytes = read[..len].to_vec();
                belt.put(Ok(Piece { table: number, offset, bytes, digest }));
                env.notify();
            }
            offset += len as u64;
            env.yield_now().await;
        }
        skipped = 0;
    }
    Ok(())
}
