//! Appending: records gather in a block, a block is one write, several writes are in flight.
//!
//! The writer and the tasks that wait for its writes share one [`State`]. Appending is a copy into
//! the open block; sealing gives it its place and checksum; submitting needs a free slot and room
//! in a segment. Zeroed spares are made by a background task, one ahead of need.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::format::{
    BLOCK_HEADER_LEN, BLOCK_LEN_MAX, BlockHeader, RECORD_HEADER_LEN, SegmentHeader, encode_record,
};
use super::{Ended, Error, Options, Planted, Record, segment};
use crate::env::{Aligned, Class, Env, File, Mode};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

/// A lazily flushed block is written when it has this many bytes.
const LAZY_LEN: usize = 256 << 10;
/// Or when it is this old.
const LAZY_DELAY: Duration = Duration::from_millis(10);
/// How long a full disk is left alone before a spare is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Block buffers kept for reuse.
const BUFFERS_MAX: usize = 8;

/// When what was appended is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Now, if a write may start; else as soon as one has ended.
    Now,
    /// When enough has gathered, or soon.
    Lazy,
}

/// The log of a shard, open for appending.
pub struct Writer<E: Env> {
    env: E,
    state: Rc<RefCell<State<E>>>,
}

/// The block that takes appends.
struct Open {
    buf: Aligned,
    /// Bytes used, header included.
    len: usize,
    records: u32,
}

/// A block with its place in the log, waiting for a slot and a segment.
struct Sealed {
    buf: Aligned,
    len: usize,
    start: Lsn,
    chain_before: u64,
}

/// A write in flight, in log order.
struct Write {
    id: u64,
    end: Lsn,
    done: bool,
}

struct Segment<F> {
    file: F,
    path: PathBuf,
    offset: u64,
    len: u64,
}

struct State<E: Env> {
    options: Options,
    open: Option<Open>,
    sealed: VecDeque<Sealed>,
    writes: VecDeque<Write>,
    write_next: u64,
    /// Block writes in flight.
    in_flight: usize,
    /// Place of the open block.
    place: Lsn,
    chain: u64,
    durable: Lsn,
    epoch: u64,
    seq: u64,
    segment: Option<Segment<E::File>>,
    spares: VecDeque<(E::File, PathBuf)>,
    spare_next: u64,
    making_spare: bool,
    disk_full: bool,
    lazy_armed: bool,
    /// The open block should be written as soon as a slot is free.
    wanted: bool,
    buffers: Vec<Aligned>,
    failure: Option<Arc<Error>>,
}

impl<E: Env> Writer<E> {
    /// Goes on where replay ended, in a fresh segment of a new epoch.
    ///
    /// # Errors
    /// When no spare segment could be had.
    pub async fn open(env: &E, options: &Options, ended: Ended) -> Result<Self, Error> {
        assert!(
            options.segment_len >= (SECTOR_LEN + BLOCK_LEN_MAX) as u64
                && options.segment_len.is_multiple_of(SECTOR_LEN as u64),
            "segments of {} bytes have no room for a block",
            options.segment_len
        );
        let state = State {
            options: options.clone(),
            open: None,
            sealed: VecDeque::new(),
            writes: VecDeque::new(),
            write_next: 0,
            in_flight: 0,
            place: ended.end,
            chain: ended.chain,
            durable: ended.end,
            epoch: ended.epoch + 1,
            seq: ended.seq,
            segment: None,
            spares: VecDeque::new(),
            spare_next: 0,
            making_spare: false,
            disk_full: false,
            lazy_armed: false,
            wanted: false,
            buffers: Vec::new(),
            failure: None,
        };
        let writer = Self { env: env.clone(), state: Rc::new(RefCell::new(state)) };
        writer.adopt_spares(&ended.spares).await?;
        if writer.state.borrow().spares.is_empty() {
            writer.make_spare().await?;
        }
        pump(&writer.env, &writer.state);
        Ok(writer)
    }

    /// Opens the spares that earlier runs left.
    async fn adopt_spares(&self, paths: &[PathBuf]) -> Result<(), Error> {
        for path in paths {
            let file = segment::io("open", path, self.env.open(path, Mode::Write).await)?;
            let len = segment::io("stat", path, file.size())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.trim_start_matches("spare-").trim_end_matches(".wal").parse();
            let mut state = self.state.borrow_mut();
            state.spare_next = state.spare_next.max(number.unwrap_or(0u64) + 1);
            if len >= (SECTOR_LEN + BLOCK_LEN_MAX) as u64 {
                state.spares.push_back((file, path.clone()));
            }
        }
        Ok(())
    }

    async fn make_spare(&self) -> Result<(), Error> {
        let spare = new_spare(&self.env, &self.state).await?;
        self.state.borrow_mut().spares.push_back(spare);
        Ok(())
    }

    /// Appends a record to the open block. It is safe once [`Writer::durable`] has reached the LSN
    /// that this returns. No system call, no wait.
    ///
    /// # Panics
    /// With a payload over [`super::format::RECORD_LEN_MAX`].
    pub fn append(&mut self, record: Record<'_>) -> Lsn {
        let mut state = self.state.borrow_mut();
        let len = RECORD_HEADER_LEN + record.payload.len();
        assert!(BLOCK_HEADER_LEN + len <= BLOCK_LEN_MAX, "a record of {len} bytes");
        if state.open.as_ref().is_some_and(|open| open.len + len > BLOCK_LEN_MAX) {
            state.seal();
        }
        let place = state.place;
        if state.open.is_none() {
            let buf = state.buffers.pop().unwrap_or_else(|| Aligned::zeroed(BLOCK_LEN_MAX));
            state.open = Some(Open { buf, len: BLOCK_HEADER_LEN, records: 0 });
        }
        let open = state.open.as_mut().expect("made above");
        open.len += encode_record(&record, &mut open.buf[open.len..]);
        open.records += 1;
        Lsn(place.0 + open.len as u64)
    }

    /// Sees to it that what was appended gets written.
    pub fn flush(&mut self, when: Flush) {
        let mut state = self.state.borrow_mut();
        let Some(open) = &state.open else { return };
        let len = open.len;
        if when == Flush::Lazy && len < LAZY_LEN && state.sealed.is_empty() {
            if !std::mem::replace(&mut state.lazy_armed, true) {
                self.arm_lazy();
            }
            return;
        }
        if state.options.has(Planted::DropLastBatch) && state.write_next % 7 == 3 {
            state.open = None;
            let place = state.place;
            state.durable = place;
            return;
        }
        if state.in_flight < state.options.in_flight_max && state.sealed.is_empty() {
            state.seal();
        } else {
            // It goes on gathering until a write ends.
            state.wanted = true;
        }
        drop(state);
        pump(&self.env, &self.state);
    }

    fn arm_lazy(&self) {
        let (env, state) = (self.env.clone(), Rc::clone(&self.state));
        self.env.spawn(Class::Foreground, async move {
            env.sleep(LAZY_DELAY).await;
            state.borrow_mut().lazy_armed = false;
            state.borrow_mut().seal();
            pump(&env, &state);
        });
    }

    /// The contiguous durable prefix: everything before this place survives a power cut.
    pub fn durable(&self) -> Lsn {
        self.state.borrow().durable
    }

    /// The end of what was appended.
    pub fn appended(&self) -> Lsn {
        let state = self.state.borrow();
        let open = state.open.as_ref().map_or(0, |open| open.len as u64);
        Lsn(state.place.0 + open)
    }

    /// Why nothing is written any more, if so.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.state.borrow().failure.clone()
    }

    /// Whether no segment can be made because the disk is full. Passes by itself when there is
    /// room again.
    pub fn is_disk_full(&self) -> bool {
        self.state.borrow().disk_full
    }

    /// Bytes appended and not yet durable.
    pub fn backlog_len(&self) -> usize {
        let state = self.state.borrow();
        let open = state.open.as_ref().map_or(0, |open| open.len as u64);
        (state.place.0 + open - state.durable.0) as usize
    }

    /// Writes what was appended and waits until all is durable.
    ///
    /// # Errors
    /// What the log failed with.
    pub async fn close(self) -> Result<(), Arc<Error>> {
        self.state.borrow_mut().seal();
        pump(&self.env, &self.state);
        loop {
            if let Some(failure) = &self.state.borrow().failure {
                return Err(Arc::clone(failure));
            }
            let state = self.state.borrow();
            if state.writes.is_empty() && state.sealed.is_empty() {
                return Ok(());
            }
            drop(state);
            self.env.sleep(Duration::from_micros(200)).await;
        }
    }
}

impl<E: Env> State<E> {
    /// Gives the open block its place, its checksum, and the next block its chain.
    fn seal(&mut self) {
        self.wanted = false;
        let Some(mut open) = self.open.take() else { return };
        let header = BlockHeader {
            epoch: self.epoch,
            lsn: self.place,
            durable: self.durable,
            chain: self.chain,
            checksum: 0,
            payload_len: open.len - BLOCK_HEADER_LEN,
            record_count: open.records,
        };
        let (start, chain_before, len) = (self.place, self.chain, header.block_len());
        self.chain = header.seal(&mut open.buf);
        self.place = Lsn(self.place.0 + len as u64);
        self.sealed.push_back(Sealed { buf: open.buf, len, start, chain_before });
    }

    fn begin(&mut self, end: Lsn) -> u64 {
        self.write_next += 1;
        self.writes.push_back(Write { id: self.write_next, end, done: false });
        self.write_next
    }

    /// A write ended; the durable prefix grows by what is done from its start on.
    fn end(&mut self, id: u64, result: Result<(), Error>) {
        if let Err(error) = result
            && !self.options.has(Planted::IgnoreFailedSync)
        {
            self.fail(error);
            return;
        }
        if self.failure.is_some() {
            return;
        }
        let write = self.writes.iter_mut().find(|write| write.id == id);
        let write = write.expect("a write ends once");
        write.done = true;
        if self.options.has(Planted::AckOutOfOrder) {
            self.durable = self.durable.max(write.end);
        }
        while let Some(write) = self.writes.front().filter(|write| write.done) {
            assert!(
                write.end >= self.durable || self.options.planted.is_some(),
                "durable moved back: {} < {}",
                write.end,
                self.durable
            );
            self.durable = self.durable.max(write.end);
            self.writes.pop_front();
        }
    }

    fn fail(&mut self, error: Error) {
        if self.failure.is_none() {
            self.failure = Some(Arc::new(error));
        }
    }

    fn reuse(&mut self, buf: Aligned) {
        if self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(buf);
        }
    }
}

/// Submits what may be submitted, and sees to spares.
fn pump<E: Env>(env: &E, state: &Rc<RefCell<State<E>>>) {
    while submit_one(env, state) {}
    let mut locked = state.borrow_mut();
    let enough = !locked.spares.is_empty() || locked.failure.is_some();
    if !enough && !std::mem::replace(&mut locked.making_spare, true) {
        let (env, state) = (env.clone(), Rc::clone(state));
        let spawner = env.clone();
        spawner.spawn(Class::Background, keep_spare(env, state));
    }
}

/// Submits the first sealed block; false if there is none, no slot, or no room.
fn submit_one<E: Env>(env: &E, shared: &Rc<RefCell<State<E>>>) -> bool {
    let mut guard = shared.borrow_mut();
    let state = &mut *guard;
    if state.failure.is_some() || state.in_flight >= state.options.in_flight_max {
        return false;
    }
    let Some(first) = state.sealed.front() else { return false };
    let len = first.len as u64;
    if state.segment.as_ref().is_none_or(|segment| segment.offset + len > segment.len)
        && !begin_segment(env, shared, state)
    {
        return false;
    }
    let block = state.sealed.pop_front().expect("looked at");
    let segment = state.segment.as_mut().expect("begun above");
    let (offset, file, path) = (segment.offset, segment.file.clone(), segment.path.clone());
    segment.offset += len;
    let end = Lsn(block.start.0 + len);
    let id = state.begin(end);
    state.in_flight += 1;
    if state.options.has(Planted::AckBeforeDurable) {
        state.durable = end;
    }
    let write = file.write_at(block.buf, block.len, offset, true);
    let (task_env, task_state) = (env.clone(), Rc::clone(shared));
    env.spawn(Class::Foreground, async move {
        let (result, buf) = write.await;
        let result = match result {
            Ok(written) if written == block.len => Ok(()),
            Ok(written) => Err(Error::Short { path, offset, len: block.len, written }),
            Err(source) => Err(Error::Io { op: "write", path, source }),
        };
        let mut state = task_state.borrow_mut();
        state.in_flight -= 1;
        state.reuse(buf);
        state.end(id, result);
        if state.sealed.is_empty() && state.wanted {
            state.seal();
        }
        drop(state);
        pump(&task_env, &task_state);
        task_env.notify();
    });
    true
}

/// Makes the first spare the segment that is written to; false if there is none. Its name and its
/// header are part of the durable prefix.
fn begin_segment<E: Env>(env: &E, shared: &Rc<RefCell<State<E>>>, state: &mut State<E>) -> bool {
    let Some((file, spare)) = state.spares.pop_front() else { return false };
    let first = state.sealed.front().expect("a segment is begun for a block");
    let (base, chain) = (first.start, first.chain_before);
    state.seq += 1;
    let path = state.options.dir.join(segment::name(state.seq));
    let len = file.size().unwrap_or(state.options.segment_len);
    let header = SegmentHeader {
        log_id: state.options.log_id,
        shard: state.options.shard,
        seq: state.seq,
        epoch: state.epoch,
        base,
        durable: state.durable,
        segment_len: len,
        chain,
    };
    let mut sector = Aligned::zeroed(SECTOR_LEN);
    header.encode(&mut sector);
    let id = state.begin(base);
    state.segment =
        Some(Segment { file: file.clone(), path: path.clone(), offset: SECTOR_LEN as u64, len });
    let (env, shared, dir) = (env.clone(), Rc::clone(shared), state.options.dir.clone());
    let spawner = env.clone();
    spawner.spawn(Class::Foreground, async move {
        let begun = async {
            segment::io("rename", &spare, env.rename(&spare, &path).await)?;
            segment::io("sync", &dir, env.sync_dir(&dir).await)?;
            let (result, _) = file.write_at(sector, SECTOR_LEN, 0, true).await;
            match segment::io("write", &path, result)? {
                SECTOR_LEN => Ok(()),
                written => Err(Error::Short { path, offset: 0, len: SECTOR_LEN, written }),
            }
        };
        let result = begun.await;
        shared.borrow_mut().end(id, result);
        pump(&env, &shared);
        env.notify();
    });
    true
}

/// Makes a spare; while the disk is full, tries again and again.
async fn keep_spare<E: Env>(env: E, state: Rc<RefCell<State<E>>>) {
    loop {
        match new_spare(&env, &state).await {
            Ok(spare) => {
                let mut state = state.borrow_mut();
                state.spares.push_back(spare);
                state.disk_full = false;
                state.making_spare = false;
                break;
            }
            Err(error) if error.is_disk_full() => {
                state.borrow_mut().disk_full = true;
                env.notify();
                env.sleep(RETRY_DELAY).await;
            }
            Err(error) => {
                state.borrow_mut().fail(error);
                break;
            }
        }
    }
    pump(&env, &state);
    env.notify();
}

async fn new_spare<E: Env>(
    env: &E,
    state: &Rc<RefCell<State<E>>>,
) -> Result<(E::File, PathBuf), Error> {
    let (dir, number, len) = {
        let mut state = state.borrow_mut();
        state.spare_next += 1;
        (state.options.dir.clone(), state.spare_next, state.options.segment_len)
    };
    let path = segment::make_spare(env, &dir, number, len).await?;
    let file = segment::io("open", &path, env.open(&path, Mode::Write).await)?;
    Ok((file, path))
}
