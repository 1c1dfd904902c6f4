//! A flush, half by half: the loop, which may look into the memtable, hands rows over; a task,
//! which may wait for the disk, writes them.
//!
//! ```text
//! loop:  mark --(all before it commits)--> slices ...... last --(the log is durable)--> edit
//! task:                                    table, row by row ... synced                manifest
//! ```
//!
//! The edit waits for the log, since a table may have versions that were committed after the mark:
//! were the table to survive without them in the log, half a transaction could be in it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::store::Store;
use super::{Change, Error};
use crate::env::Env;
use crate::lsm::block::{Row, Value};
use crate::lsm::manifest::State;
use crate::lsm::memtable::{Payload, Version};
use crate::lsm::rows::Rows;
use crate::lsm::table::{self, Table};

/// What both halves share. Neither waits for the other while it holds this.
#[derive(Default)]
pub struct Desk {
    /// From the loop, to be written.
    full: Option<Rows>,
    /// Back to the loop, to be filled again.
    spare: Rows,
    /// No more rows come.
    is_last: bool,
    is_void: bool,
    /// The table is durable, or there was no row.
    is_written: bool,
    change: Option<Change>,
    end: Option<Result<(), Error>>,
    waker: Option<Waker>,
}

/// The loop's side of a desk.
#[derive(Clone, Default)]
pub struct Shared(Rc<RefCell<Desk>>);

/// The loop's side.
impl Shared {
    /// Room for the next slice, if the task has taken the last one.
    pub fn room(&self) -> Option<Rows> {
        let mut desk = self.0.borrow_mut();
        let wanted = desk.full.is_none() && !desk.is_last;
        wanted.then(|| std::mem::take(&mut desk.spare))
    }

    /// Hands a slice over.
    pub fn hand_over(&self, rows: Rows, is_last: bool) {
        self.tell(|desk| {
            desk.full = Some(rows);
            desk.is_last = is_last;
        });
    }

    /// Gives the flush up; the task removes what it wrote.
    pub fn give_up(&self) {
        self.tell(|desk| desk.is_void = true);
    }

    /// Whether the table is durable, or there was no row.
    pub fn is_written(&self) -> bool {
        self.0.borrow().is_written
    }

    /// What the manifest is to say.
    pub fn install(&self, change: Change) {
        self.tell(|desk| desk.change = Some(change));
    }

    /// How it ended, once it has.
    pub fn take_end(&self) -> Option<Result<(), Error>> {
        self.0.borrow_mut().end.take()
    }

    fn tell(&self, what: impl FnOnce(&mut Desk)) {
        let mut desk = self.0.borrow_mut();
        what(&mut desk);
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
    }

    /// The task's part is durable: waits for what the manifest is to say. None: it was given up.
    async fn written<E: Env>(&self, env: &E) -> Option<Change> {
        self.0.borrow_mut().is_written = true;
        env.notify();
        let change = |desk: &mut Desk| match desk.is_void {
            true => Some(None),
            false => desk.change.take().map(Some),
        };
        self.until(change).await
    }

    /// That is all.
    fn end<E: Env>(&self, env: &E, end: Result<(), Error>) {
        self.0.borrow_mut().end = Some(end);
        env.notify();
    }

    /// Waits until `what` finds something.
    async fn until<T>(&self, mut what: impl FnMut(&mut Desk) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut desk = self.0.borrow_mut();
            match what(&mut desk) {
                Some(found) => Poll::Ready(found),
                None => {
                    desk.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// The task's side: writes the table, waits for the edit, has it written.
pub async fn run<E: Env>(env: E, shared: Shared, store: Store<E>, options: table::Options) {
    let path = store.path_of(options.number);
    let is_named = match write(&env, &shared, options, &path, &store).await {
        Ok(Some(table)) => {
            let tables = table.map(|table| (0, table)).into_iter().collect();
            finish(&env, &store, &shared, tables).await
        }
        Ok(None) => false,
        Err(error) => {
            shared.end(&env, Err(error));
            false
        }
    };
    if !is_named {
        // Only tidying: what is left goes at the next start.
        let _ = env.remove(&path).await;
    }
}

/// The tables, each with its level, are durable: waits for what the manifest is to say, and has it
/// say so. False: it does not name them.
pub async fn finish<E: Env>(
    env: &E,
    store: &Store<E>,
    shared: &Shared,
    tables: Vec<(u8, Table<E>)>,
) -> bool {
    let Some(change) = shared.written(env).await else { return false };
    let end = install(store, tables, change).await;
    let is_named = end.is_ok();
    shared.end(env, end);
    is_named
}

/// Writes the table, if there is a row. None: it was given up.
async fn write<E: Env>(
    env: &E,
    shared: &Shared,
    options: table::Options,
    path: &Path,
    store: &Store<E>,
) -> Result<Option<Option<Table<E>>>, Error> {
    let mut writer = None;
    while let Some(mut rows) = next_rows(shared).await {
        for at in 0..rows.count() {
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(table::Writer::create(env, path, options).await?),
            };
            let (key, version) = rows.get(at);
            writer.add(&row(key, &version)).await?;
        }
        rows.clear();
        shared.0.borrow_mut().spare = rows;
        env.notify();
    }
    if shared.0.borrow().is_void {
        return Ok(None);
    }
    let Some(writer) = writer else { return Ok(Some(None)) };
    let meta = writer.finish().await?;
    store.sync_dir().await?;
    Ok(Some(Some(Table::open(env, path, &meta).await?)))
}

/// Has the edit written, and removes what it makes void.
async fn install<E: Env>(
    store: &Store<E>,
    tables: Vec<(u8, Table<E>)>,
    change: Change,
) -> Result<(), Error> {
    let metas = tables.iter().map(|(level, table)| (*level, table.meta().clone())).collect();
    tables.into_iter().for_each(|(_, table)| store.keep(table));
    let mut void = Vec::new();
    let decide = |state: &State| {
        let edit = change.edit(state, metas);
        void.clone_from(&edit.remove);
        Some(edit)
    };
    store.commit(decide).await?;
    store.remove(&void).await;
    Ok(())
}

/// None: that was all, or it is void.
async fn next_rows(shared: &Shared) -> Option<Rows> {
    shared
        .until(|desk| match desk.full.take() {
            _ if desk.is_void => Some(None),
            Some(rows) => Some(Some(rows)),
            None => desk.is_last.then_some(None),
        })
        .await
}

/// A memtable's row as a table's.
fn row<'a>(key: &'a [u8], version: &Version<'a>) -> Row<'a> {
    let Version { timestamp, kind, expiry_ms, payload } = *version;
    let value = Value::Bytes(match payload {
        Payload::Bytes(bytes) => bytes,
        Payload::Shared(bytes) => bytes.as_slice(),
    });
    Row { key, timestamp, kind, expiry_ms, value }
}
