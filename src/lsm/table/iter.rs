//! Rows in order, read ahead.
//!
//! Parts of rows that stand side by side are read in one piece. The first piece is small, each next
//! one twice as long up to [`PIECE_LEN_MAX`], several in flight: so a short scan reads little and a
//! long one keeps the disk busy. Leaves, which have no gap, are read several at a time likewise.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::{Aligned, Error, Handle, PartKind, ReadEnd, Table, handle_and_end, read_exact, unpack};
use crate::env::Env;
use crate::limits::SECTOR_LEN;
use crate::lsm::block::{Compression, Cursor, Head, PART_LEN_MAX, Row, entry_at};

/// Bytes of the first piece, if its parts are not longer.
const PIECE_LEN_MIN: usize = 4 * SECTOR_LEN;
/// Bytes of a piece, if its parts are not longer.
const PIECE_LEN_MAX: usize = 256 << 10;
/// Pieces in flight.
const IN_FLIGHT_MAX: usize = 3;
/// Bytes of leaves that are read at a time.
const LEAVES_LEN_MAX: usize = 64 << 10;

/// A read of parts of rows.
struct Piece {
    offset: u64,
    parts: VecDeque<Handle>,
    running: Pin<Box<dyn Future<Output = ReadEnd>>>,
    ended: Option<ReadEnd>,
}

/// Rows from some key on. Lends each until the next is asked for. Lives on one core.
pub struct Iter<E: Env> {
    table: Table<E>,
    /// Where to begin; none once that is found.
    from: Option<Vec<u8>>,
    /// The leaf whose parts are planned next, and where its entry in the top ends.
    leaf: Option<(Handle, usize)>,
    leaves_len: usize,
    /// Parts of rows that are not asked for.
    planned: VecDeque<Handle>,
    pieces: VecDeque<Piece>,
    piece_len: usize,

    /// The piece in use, its place, and its parts that were not used.
    bytes: Aligned,
    offset: u64,
    parts: VecDeque<Handle>,
    /// The rows in use: in the piece, or decompressed.
    is_raw: bool,
    body: std::ops::Range<usize>,
    raw: Vec<u8>,
    cursor: Cursor,
    head: Option<Head>,
}

impl<E: Env> Iter<E> {
    pub(super) fn new(table: Table<E>, from: &[u8]) -> Self {
        Self {
            table,
            from: Some(from.to_vec()),
            leaf: None,
            leaves_len: 0,
            planned: VecDeque::new(),
            pieces: VecDeque::new(),
            piece_len: PIECE_LEN_MIN,
            bytes: Aligned::zeroed(0),
            offset: 0,
            parts: VecDeque::new(),
            is_raw: true,
            body: 0..0,
            raw: Vec::new(),
            cursor: Cursor::default(),
            head: None,
        }
    }

    /// Reads ahead as much as it ever does from the start on: for who reads all.
    pub fn eager(mut self) -> Self {
        (self.piece_len, self.leaves_len) = (PIECE_LEN_MAX, LEAVES_LEN_MAX);
        self
    }

    /// The table.
    pub fn table(&self) -> &Table<E> {
        &self.table
    }

    /// The next row; none behind the last.
    ///
    /// # Errors
    /// As [`Iter::advance`].
    pub async fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        self.advance().await?;
        Ok(self.row())
    }

    /// The row that it is at; none before the first and behind the last.
    #[inline]
    pub fn row(&self) -> Option<Row<'_>> {
        self.head.as_ref().map(|head| head.row(self.cursor.key(), self.rows()))
    }

    /// Goes to the next row; false: there is none.
    ///
    /// # Errors
    /// As the disk's; a part is damaged. The iterator can not go on then.
    #[inline]
    pub async fn advance(&mut self) -> Result<bool, Error> {
        loop {
            if self.advance_here()? {
                return Ok(true);
            }
            if !self.next_part().await? {
                return Ok(false);
            }
        }
    }

    /// Goes to the next row if it is in memory; false: it is not.
    ///
    /// # Errors
    /// As [`Iter::advance`].
    #[inline]
    pub fn advance_here(&mut self) -> Result<bool, Error> {
        let rows = if self.is_raw { &self.raw[..] } else { &self.bytes[self.body.clone()] };
        let next = match self.cursor.next(rows) {
            Ok(true) => Head::decode(rows, self.cursor.body()).map(Some),
            Ok(false) => Ok(None),
            Err(malformed) => Err(malformed),
        };
        self.head = self.table.wrong(Handle { offset: self.offset, len: 0 }, next)?;
        Ok(self.head.is_some())
    }

    fn rows(&self) -> &[u8] {
        if self.is_raw { &self.raw } else { &self.bytes[self.body.clone()] }
    }

    /// Goes before the first row of the next part; false: there is none.
    async fn next_part(&mut self) -> Result<bool, Error> {
        loop {
            if let Some(handle) = self.parts.pop_front() {
                self.open(handle)?;
                return Ok(true);
            }
            self.ask().await?;
            let Some(piece) = self.first_piece().await? else { return Ok(false) };
            // A disk that is faster than we are would never make this task wait.
            self.table.inner.env.yield_now().await;
            (self.offset, self.parts, self.bytes) = piece;
        }
    }

    /// Makes the rows of a part of the piece the ones in use.
    fn open(&mut self, handle: Handle) -> Result<(), Error> {
        let at = (handle.offset - self.offset) as usize;
        let bytes = &self.bytes[at..at + handle.len];
        let (part, _) = self.table.verify(PartKind::Rows, handle, bytes)?;
        self.is_raw = part.compression != Compression::None;
        if self.is_raw {
            self.table.wrong(handle, unpack(&part, bytes, &mut self.raw))?;
        } else {
            let body = part.body();
            self.body = at + body.start..at + body.end;
        }
        let rows = if self.is_raw { &self.raw[..] } else { &self.bytes[self.body.clone()] };
        let begun = match self.from.take() {
            Some(from) => self.cursor.seek(rows, &from),
            None => self.cursor.start(rows),
        };
        self.table.wrong(handle, begun)
    }

    /// Plans parts and begins reads until enough are in flight.
    async fn ask(&mut self) -> Result<(), Error> {
        while self.pieces.len() < IN_FLIGHT_MAX {
            if self.planned.is_empty() && !self.plan().await? {
                return Ok(());
            }
            self.begin_piece()?;
        }
        Ok(())
    }

    /// Plans the parts of the next leaves; false: there are no more.
    async fn plan(&mut self) -> Result<bool, Error> {
        let is_first = self.leaf.is_none();
        let first = match (&self.leaf, &self.from) {
            (Some((_, end)), _) => self.table.next_leaf(*end)?,
            (None, Some(from)) => self.table.leaf_of(from)?,
            (None, None) => None,
        };
        let Some(first) = first else { return Ok(false) };
        let (mut leaves, mut last) = (vec![first.0], first);
        let mut len = first.0.len;
        while len < self.leaves_len
            && let Some(next) = self.table.next_leaf(last.1)?
            && next.0.offset == last.0.end()
            && len + next.0.len <= PART_LEN_MAX
        {
            leaves.push(next.0);
            len += next.0.len;
            last = next;
        }
        self.leaves_len = LEAVES_LEN_MAX;
        self.leaf = Some(last);
        self.table.check(last.0)?;
        let read = self.table.begin_read(first.0.offset, len);
        let bytes = read_exact(read, self.table.path(), len).await?;
        let mut at = 0;
        for (number, leaf) in leaves.into_iter().enumerate() {
            let skips = is_first && number == 0;
            self.plan_leaf(leaf, &bytes[at..at + leaf.len], skips)?;
            at += leaf.len;
        }
        Ok(true)
    }

    /// Plans the parts of one leaf; with `skips` without those before the first key.
    fn plan_leaf(&mut self, leaf: Handle, bytes: &[u8], skips: bool) -> Result<(), Error> {
        let (part, _) = self.table.verify(PartKind::Leaf, leaf, bytes)?;
        let entries = &bytes[part.body()];
        let mut at = 0;
        if let Some(from) = self.from.as_ref().filter(|_| skips) {
            let found = self.table.wrong(leaf, super::find(entries, from))?;
            let Some(found) = found else { return Ok(()) };
            let (handle, end) = self.table.wrong(leaf, handle_and_end(entries, found.body))?;
            self.planned.push_back(handle);
            at = end;
        }
        while let Some(entry) = self.table.wrong(leaf, entry_at(entries, at))? {
            let (handle, end) = self.table.wrong(leaf, handle_and_end(entries, entry.body))?;
            self.table.check(handle)?;
            self.planned.push_back(handle);
            at = end;
        }
        Ok(())
    }

    /// Begins to read planned parts that stand side by side.
    fn begin_piece(&mut self) -> Result<(), Error> {
        let Some(first) = self.planned.pop_front() else { return Ok(()) };
        self.table.check(first)?;
        let (mut parts, mut end) = (VecDeque::from([first]), first.end());
        while let Some(next) = self.planned.front()
            && next.offset == end
            && next.end() - first.offset <= self.piece_len as u64
        {
            self.table.check(*next)?;
            end = next.end();
            parts.extend(self.planned.pop_front());
        }
        self.piece_len = (self.piece_len * 2).min(PIECE_LEN_MAX);
        let (offset, len) = (first.offset, (end - first.offset) as usize);
        let running = Box::pin(self.table.begin_read(offset, len));
        self.pieces.push_back(Piece { offset, parts, running, ended: None });
        Ok(())
    }

    /// The first piece in flight, when it is there; none if there is none.
    async fn first_piece(&mut self) -> Result<Option<(u64, VecDeque<Handle>, Aligned)>, Error> {
        if self.pieces.is_empty() {
            return Ok(None);
        }
        let ended = poll_fn(|cx| {
            // All of them: a read may begin no earlier than it is first polled.
            for piece in self.pieces.iter_mut().filter(|piece| piece.ended.is_none()) {
                if let Poll::Ready(ended) = piece.running.as_mut().poll(cx) {
                    piece.ended = Some(ended);
                }
            }
            match self.pieces[0].ended.take() {
                Some(ended) => Poll::Ready(ended),
                None => Poll::Pending,
            }
        })
        .await;
        let Piece { offset, parts, .. } = self.pieces.pop_front().expect("just looked at");
        let len = parts.iter().map(|part| part.len).sum();
        let bytes = read_exact(std::future::ready(ended), self.table.path(), len).await?;
        Ok(Some((offset, parts, bytes)))
    }
}
