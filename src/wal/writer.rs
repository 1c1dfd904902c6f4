//! Appending: records gather in a block, a block is one write, several writes are in flight.
//!
//! The writer and the tasks that wait for its writes share one [`State`], on one core. It knows the
//! log's end twice. *Laid out* is what was appended: places are given as records come, so that an
//! append can say at once which LSN makes it safe. *Submitted* is what the disk has been given:
//! only then does a block get its chain, its checksum and the newest `durable`.
//!
//! A turn of the loop that finds a free slot writes its block at once; one that does not, or whose
//! clients do better to wait for others ([`super::pace`]), leaves it open, and the next turn adds
//! to it: so blocks grow as the disk slows down, and as the crowd grows. The next segment is made
//! ready by a background task while the present one fills; when it comes late, or the disk is full,
//! what is appended gathers in memory, and [`Writer::backlog_len`] tells how much.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::format::{
    BLOCK_HEADER_LEN, BLOCK_LEN_MAX, BlockHeader, RECORD_HEADER_LEN, Record, SegmentHeader,
    block_len, encode_record,
};
use super::pace::{Company, Pace, Start};
use super::segments::{self, io};
use super::supply::{self, Segment};
use super::{Ended, Error, Options, Planted};
use crate::env::{Aligned, Class, Env, File as _};
use crate::id::Lsn;
use crate::limits::SECTOR_LEN;

/// A lazily flushed block is written when it has this many bytes.
const LAZY_LEN: usize = 256 << 10;
/// Or when it is this old.
const LAZY_DELAY: Duration = Duration::from_millis(10);
/// How long a full disk is left alone before a segment is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Between two looks whether a segment's header is durable: about a write.
const BEGUN_DELAY: Duration = Duration::from_micros(200);

const SECTOR: u64 = SECTOR_LEN as u64;

/// When what was appended is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Now, if a write may start; else as soon as one has ended.
    Now,
    /// With company, if it comes soon enough ([`super::pace`]).
    Shared(Company),
    /// When 256 KiB have gathered, or in 10 ms.
    Lazy,
}

/// The log of a shard, open for appending. Dropped without [`Writer::close`], it is as after a
/// crash: what was in flight may be written or not.
pub struct Writer<E: Env> {
    env: E,
    state: Rc<RefCell<State<E>>>,
}

/// The block that takes appends.
struct Open {
    buf: Aligned,
    /// Bytes used, header included.
    len: usize,
    /// What it may grow to.
    limit: usize,
    record_count: u32,
}

/// Laid out, not submitted.
enum Laid {
    /// The header of the next segment.
    Header { base: Lsn },
    /// A block that is full, or that closed the segment.
    Block { open: Open, lsn: Lsn },
}

/// A write in flight.
struct Slot {
    /// Where the log is durable when this and all before are.
    end: Lsn,
    began: Duration,
    done: bool,
}

struct State<E: Env> {
    options: Options,
    key: u64,
    epoch: u64,

    /// Laid out: where the open block begins, or the next one will.
    place: Lsn,
    /// Bytes of the segment from `place` on.
    room: u64,
    open: Option<Open>,
    queue: VecDeque<Laid>,

    /// Submitted.
    segment: Segment<E>,
    offset: u64,
    /// Where its header ends.
    begun: Lsn,
    chain: u64,
    /// The last thing submitted was a block with records: nothing written proves it durable.
    unproven: bool,

    slots: VecDeque<Slot>,
    /// The number of the first slot.
    slot_first: u64,
    durable: Lsn,

    /// The next segment, durably named.
    next: Option<Segment<E>>,
    is_arming: bool,
    is_disk_full: bool,
    spares: Vec<u64>,
    name_next: u64,

    /// The open block should be written as soon as a slot is free.
    wanted: bool,
    pace: Pace,
    /// The open block gathers until then.
    gathers_until: Option<Duration>,
    /// A task sleeps until some block has gathered long enough.
    is_timed: bool,
    is_lazy_armed: bool,
    is_closing: bool,
    buffers: Vec<Aligned>,
    failure: Option<Arc<Error>>,
    closer: Option<Waker>,
    sealed_count: u64,
}

type Shared<E> = Rc<RefCell<State<E>>>;

/// Opening.
impl<E: Env> Writer<E> {
    /// Goes on where replay ended, in a fresh segment of a new epoch. The names of void segments
    /// are taken away first, durably; the segment's header is durable when this ends, and what no
    /// replay will read of the segments before is given back.
    ///
    /// # Errors
    /// As the disk's. A full disk too, unless a spare is there.
    ///
    /// # Panics
    /// If `options` have lengths that are not whole sectors, or segments without room for a block.
    pub async fn open(env: &E, options: &Options, ended: Ended) -> Result<Self, Error> {
        check(options);
        let (spares, mut name_next) = supply::tidy(env, options, &ended.void).await?;
        let spares = supply::usable(env, options, spares).await?;
        let mut left = spares;
        let spare = left.pop();
        let segment = supply::prepare(env, options, ended.seq, spare, name_next, || false).await?;
        let segment = segment.expect("nobody stops an opening");
        name_next += 1;
        let (epoch, end) = (ended.epoch + 1, ended.end);
        let header = header(options, env.random(), ended.seq, epoch, end, end, ended.chain);
        if options.has(Planted::GiveBackEarly) {
            supply::give_back(env, &ended.left).await;
        }
        let chain = write_header(&segment, &header).await?;
        supply::give_back(env, &ended.left).await;
        let durable = Lsn(end.0 + SECTOR);
        let state = State {
            options: options.clone(),
            key: options.log().key(),
            epoch,
            place: durable,
            room: options.segment_len - SECTOR,
            open: None,
            queue: VecDeque::new(),
            segment,
            offset: SECTOR,
            begun: durable,
            chain,
            unproven: false,
            slots: VecDeque::with_capacity(options.in_flight_max),
            slot_first: 0,
            pace: Pace::default(),
            gathers_until: None,
            is_timed: false,
            durable,
            next: None,
            is_arming: false,
            is_disk_full: false,
            spares: left,
            name_next,
            wanted: false,
            is_lazy_armed: false,
            is_closing: false,
            buffers: Vec::new(),
            failure: None,
            closer: None,
            sealed_count: 0,
        };
        let writer = Self { env: env.clone(), state: Rc::new(RefCell::new(state)) };
        pump(&writer.env, &writer.state);
        Ok(writer)
    }
}

fn check(options: &Options) {
    let (segment_len, block_len_max) = (options.segment_len, options.block_len_max as u64);
    assert!(
        segment_len.is_multiple_of(SECTOR)
            && block_len_max.is_multiple_of(SECTOR)
            && (SECTOR..=BLOCK_LEN_MAX as u64).contains(&block_len_max)
            && segment_len >= SECTOR + block_len_max,
        "segments of {segment_len} bytes for blocks of {block_len_max}"
    );
    assert!(options.in_flight_max > 0, "a log without writes");
}

fn header(
    options: &Options,
    nonce: u64,
    seq: u64,
    epoch: u64,
    base: Lsn,
    durable: Lsn,
    chain: u64,
) -> SegmentHeader {
    let (log, segment_len) = (options.log(), options.segment_len);
    SegmentHeader {
        log,
        seq,
        epoch,
        nonce,
        base,
        durable,
        segment_len,
        chain,
        block_len_max: options.block_len_max as u32,
        in_flight_max: options.in_flight_max as u32,
    }
}

async fn write_header<E: Env>(segment: &Segment<E>, header: &SegmentHeader) -> Result<u64, Error> {
    let mut sector = Aligned::zeroed(SECTOR_LEN);
    let chain = header.encode(&mut sector);
    let (result, _) = segment.file.write_at(sector, SECTOR_LEN, 0, true).await;
    written(&segment.path, 0, SECTOR_LEN, result).map(|()| chain)
}

fn written(
    path: &std::path::Path,
    offset: u64,
    len: usize,
    result: std::io::Result<usize>,
) -> Result<(), Error> {
    match io("write", path, result)? {
        count if count == len => Ok(()),
        count => Err(Error::Short { path: path.to_owned(), offset, len, written: count }),
    }
}

/// Use.
impl<E: Env> Writer<E> {
    /// Appends a record. It is safe once [`Writer::durable`] has reached the LSN that this returns;
    /// after a failure, an LSN that nothing reaches. No system call, no wait; a copy.
    ///
    /// # Panics
    /// If the record does not fit into a block.
    pub fn append(&mut self, record: Record<'_>) -> Lsn {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.failure.is_some() {
            return Lsn(u64::MAX);
        }
        let len = RECORD_HEADER_LEN + record.payload.len();
        let open = state.open_for(len);
        open.len += encode_record(&record, &mut open.buf[open.len..]);
        open.record_count += 1;
        Lsn(state.appended())
    }

    /// Sees to it that what was appended gets written. For the end of a loop's turn.
    pub fn flush(&mut self, when: Flush) {
        let mut state = self.state.borrow_mut();
        let Some(open) = &state.open else { return };
        let later = when == Flush::Lazy && open.len < LAZY_LEN;
        let arm = later && !std::mem::replace(&mut state.is_lazy_armed, true);
        state.wanted |= !later;
        if let Flush::Shared(company) = when {
            state.pace.join(company, self.env.now());
        }
        drop(state);
        if arm {
            self.arm_lazy();
        }
        pump(&self.env, &self.state);
    }

    fn arm_lazy(&self) {
        let (env, shared) = (self.env.clone(), Rc::clone(&self.state));
        self.env.spawn(Class::Background, async move {
            env.sleep(LAZY_DELAY).await;
            let mut state = shared.borrow_mut();
            state.is_lazy_armed = false;
            state.wanted = state.open.is_some();
            drop(state);
            pump(&env, &shared);
        });
    }

    /// The contiguous durable prefix: everything before this place survives a power cut.
    pub fn durable(&self) -> Lsn {
        self.state.borrow().durable
    }

    /// The end of what was appended.
    pub fn appended(&self) -> Lsn {
        Lsn(self.state.borrow().appended())
    }

    /// Why nothing is written any more, if so.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.state.borrow().failure.clone()
    }

    /// Whether no segment can be made because the disk is full. The log goes on to the end of the
    /// present segment, and by itself when there is room again.
    pub fn is_disk_full(&self) -> bool {
        self.state.borrow().is_disk_full
    }

    /// Bytes appended and not yet durable, all of them in memory.
    pub fn backlog_len(&self) -> usize {
        let state = self.state.borrow();
        (state.appended() - state.durable.0) as usize
    }

    /// Writes what was appended and waits until all is durable; then adds an empty block, which
    /// proves it to the next replay.
    ///
    /// # Errors
    /// What the log failed with. A full disk, if it keeps something from being written.
    pub async fn close(self) -> Result<(), Arc<Error>> {
        {
            let mut state = self.state.borrow_mut();
            state.pace = Pace::default();
            state.wanted = state.open.is_some();
        }
        pump(&self.env, &self.state);
        self.drain().await?;
        {
            let mut state = self.state.borrow_mut();
            // Only where it costs no new segment.
            if state.unproven && state.room >= SECTOR {
                state.open_for(0);
                state.wanted = true;
            }
        }
        pump(&self.env, &self.state);
        self.drain().await?;
        self.state.borrow_mut().is_closing = true;
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            state.closer = Some(cx.waker().clone());
            if state.is_arming { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        Ok(())
    }

    /// Until nothing is in memory only.
    async fn drain(&self) -> Result<(), Arc<Error>> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            state.closer = Some(cx.waker().clone());
            if let Some(failure) = &state.failure {
                return Poll::Ready(Err(Arc::clone(failure)));
            }
            if state.slots.is_empty() && state.queue.is_empty() && state.open.is_none() {
                return Poll::Ready(Ok(()));
            }
            if state.is_disk_full && state.slots.is_empty() && state.next.is_none() {
                let source = std::io::ErrorKind::StorageFull.into();
                let path = state.options.dir.clone();
                return Poll::Ready(Err(Arc::new(Error::Io { op: "close", path, source })));
            }
            Poll::Pending
        })
        .await
    }
}

impl<E: Env> Drop for Writer<E> {
    fn drop(&mut self) {
        self.state.borrow_mut().is_closing = true;
    }
}

/// Laying out.
impl<E: Env> State<E> {
    fn has(&self, bug: Planted) -> bool {
        self.options.has(bug)
    }

    fn appended(&self) -> u64 {
        self.place.0 + self.open.as_ref().map_or(0, |open| open.len as u64)
    }

    /// The open block, with room for `len` more bytes.
    fn open_for(&mut self, len: usize) -> &mut Open {
        if self.open.as_ref().is_some_and(|open| open.len + len > open.limit) {
            self.lay();
        }
        if self.open.is_none() {
            self.open = Some(self.fresh(len));
        }
        self.open.as_mut().expect("made above")
    }

    /// A new block at `place`, in the next segment if this one has no room for it.
    fn fresh(&mut self, len: usize) -> Open {
        let least = block_len(len);
        assert!(least <= self.options.block_len_max, "a record of {len} bytes fits in no block");
        if (least as u64) > self.room {
            self.queue.push_back(Laid::Header { base: self.place });
            self.place = Lsn(self.place.0 + SECTOR);
            self.room = self.options.segment_len - SECTOR;
        }
        let limit = self.room.min(self.options.block_len_max as u64) as usize;
        let whole = self.options.block_len_max;
        let buf = self.buffers.pop().unwrap_or_else(|| Aligned::zeroed(whole));
        Open { buf, len: BLOCK_HEADER_LEN, limit, record_count: 0 }
    }

    /// Closes the open block, if any: its length is known, and so is the place of the next.
    fn lay(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        self.sealed_count += 1;
        self.pace.closed();
        if self.has(Planted::DropLastBatch) && self.sealed_count.is_multiple_of(7) {
            (open.len, open.record_count) = (BLOCK_HEADER_LEN, 0);
        }
        let (lsn, len) = (self.place, open.len.next_multiple_of(SECTOR_LEN) as u64);
        assert!(len <= self.room, "a block of {len} bytes in the {} that are left", self.room);
        self.place = Lsn(lsn.0 + len);
        self.room -= len;
        self.queue.push_back(Laid::Block { open, lsn });
    }
}

/// Submitting.
impl<E: Env> State<E> {
    /// What may be written now, and to where; it is in flight from here on.
    fn submit(&mut self, env: &E) -> Option<Submission<E>> {
        if self.failure.is_some() || self.slots.len() >= self.options.in_flight_max {
            return None;
        }
        let now = env.now();
        if self.queue.is_empty() && self.wanted {
            match self.pace.start(now, self.slots.len()) {
                Start::Now => {
                    self.wanted = false;
                    self.lay();
                }
                Start::Until(at) => self.gathers_until = Some(at),
                Start::AfterOne => {}
            }
        }
        match self.queue.pop_front()? {
            Laid::Block { open, lsn } => Some(self.submit_block(open, lsn, now)),
            Laid::Header { base } => {
                let Some(next) = self.next.take() else {
                    self.queue.push_front(Laid::Header { base });
                    return None;
                };
                Some(self.submit_header(next, base, env.random(), now))
            }
        }
    }

    fn submit_block(&mut self, open: Open, lsn: Lsn, now: Duration) -> Submission<E> {
        let Open { mut buf, len, record_count, .. } = open;
        let header = BlockHeader {
            epoch: self.epoch,
            lsn,
            durable: self.durable,
            chain: self.chain,
            payload_len: len - BLOCK_HEADER_LEN,
            record_count,
        };
        self.chain = header.seal(self.key, &mut buf);
        self.unproven = record_count > 0;
        self.begin(buf, header.block_len(), lsn, now)
    }

    fn submit_header(
        &mut self,
        next: Segment<E>,
        base: Lsn,
        nonce: u64,
        now: Duration,
    ) -> Submission<E> {
        let (epoch, durable, chain) = (self.epoch, self.durable, self.chain);
        let header = header(&self.options, nonce, next.seq, epoch, base, durable, chain);
        let mut buf = self.buffers.pop().unwrap_or_else(|| Aligned::zeroed(SECTOR_LEN));
        self.chain = header.encode(&mut buf);
        (self.segment, self.offset) = (next, 0);
        self.begun = Lsn(base.0 + SECTOR);
        self.begin(buf, SECTOR_LEN, base, now)
    }

    fn begin(&mut self, buf: Aligned, len: usize, lsn: Lsn, began: Duration) -> Submission<E> {
        let end = Lsn(lsn.0 + len as u64);
        let number = self.slot_first + self.slots.len() as u64;
        self.slots.push_back(Slot { end, began, done: false });
        if self.has(Planted::AckBeforeDurable) {
            self.durable = self.durable.max(end);
        }
        let offset = self.offset;
        self.offset += len as u64;
        Submission { file: self.segment.file.clone(), buf, len, offset, number }
    }

    /// A write ended: the durable prefix grows by what is done from its end on. Whether there is
    /// news for the loop.
    fn end(&mut self, number: u64, result: Result<(), Error>, now: Duration) -> bool {
        if let Err(error) = result
            && !self.has(Planted::IgnoreFailedSync)
        {
            self.fail(error);
        }
        let slot = (number - self.slot_first) as usize;
        self.slots[slot].done = true;
        self.pace.ended(now.saturating_sub(self.slots[slot].began));
        let before = self.durable;
        if self.has(Planted::AckOutOfOrder) {
            self.durable = self.durable.max(self.slots[slot].end);
        }
        while self.slots.front().is_some_and(|slot| slot.done) {
            let slot = self.slots.pop_front().expect("just looked at");
            self.slot_first += 1;
            if self.failure.is_none() {
                self.durable = self.durable.max(slot.end);
            }
        }
        self.durable > before || self.failure.is_some()
    }

    fn fail(&mut self, error: Error) {
        if self.failure.is_none() {
            tracing::error!(shard = self.options.shard.0, %error, "the log failed");
            self.failure = Some(Arc::new(error));
        }
        self.open = None;
        self.queue.clear();
    }

    fn reuse(&mut self, buf: Aligned) {
        let is_whole = buf.len() == self.options.block_len_max;
        if is_whole && self.buffers.len() < self.options.in_flight_max + 2 {
            self.buffers.push(buf);
        }
    }

    fn wake_closer(&mut self) {
        if let Some(waker) = self.closer.take() {
            waker.wake();
        }
    }
}

/// A write to be given to the disk.
struct Submission<E: Env> {
    file: E::File,
    buf: Aligned,
    len: usize,
    offset: u64,
    number: u64,
}

/// Submits what may be submitted, and sees to the next segment.
fn pump<E: Env>(env: &E, shared: &Shared<E>) {
    let mut state = shared.borrow_mut();
    while let Some(submission) = state.submit(env) {
        let seq = state.segment.seq;
        let Submission { file, buf, len, offset, number } = submission;
        let write = file.write_at(buf, len, offset, true);
        let (task_env, task_shared) = (env.clone(), Rc::clone(shared));
        env.spawn(Class::Foreground, async move {
            let (result, buf) = write.await;
            on_written(&task_env, &task_shared, (seq, offset, len, number), result, buf);
        });
    }
    if let Some(until) = state.gathers_until.take()
        && !std::mem::replace(&mut state.is_timed, true)
    {
        env.spawn(Class::Foreground, gather(env.clone(), Rc::clone(shared), until));
    }
    let is_needed = state.next.is_none() && state.failure.is_none() && !state.is_closing;
    if is_needed && !std::mem::replace(&mut state.is_arming, true) {
        env.spawn(Class::Background, arm(env.clone(), Rc::clone(shared)));
    }
}

/// Sees to the open block when it has gathered long enough.
async fn gather<E: Env>(env: E, shared: Shared<E>, until: Duration) {
    env.sleep(until.saturating_sub(env.now())).await;
    shared.borrow_mut().is_timed = false;
    pump(&env, &shared);
}

fn on_written<E: Env>(
    env: &E,
    shared: &Shared<E>,
    (seq, offset, len, number): (u64, u64, usize, u64),
    result: std::io::Result<usize>,
    buf: Aligned,
) {
    let mut state = shared.borrow_mut();
    state.reuse(buf);
    let result = match result {
        Ok(count) if count == len => Ok(()),
        result => {
            let path = state.options.dir.join(segments::name(seq));
            written(&path, offset, len, result)
        }
    };
    let news = state.end(number, result, env.now());
    state.wake_closer();
    drop(state);
    pump(env, shared);
    if news {
        env.notify();
    }
}

/// Makes the next segment ready; while the disk is full, tries again and again.
async fn arm<E: Env>(env: E, shared: Shared<E>) {
    if !until_begun(&env, &shared).await {
        shared.borrow_mut().is_arming = false;
        return shared.borrow_mut().wake_closer();
    }
    loop {
        let (options, seq, spare, new) = {
            let mut state = shared.borrow_mut();
            state.name_next += 1;
            let (seq, new) = (state.segment.seq + 1, state.name_next - 1);
            (state.options.clone(), seq, state.spares.pop(), new)
        };
        let stopped = || shared.borrow().is_closing;
        let result = supply::prepare(&env, &options, seq, spare, new, stopped).await;
        let again = armed(&shared, result);
        env.notify();
        if !again {
            return pump(&env, &shared);
        }
        env.sleep(RETRY_DELAY).await;
        if shared.borrow().is_closing {
            shared.borrow_mut().is_arming = false;
            return shared.borrow_mut().wake_closer();
        }
    }
}

/// Until the header of the present segment is durable; false if that is not to be waited for. So a
/// segment's name proves to a replay that the one before was begun.
async fn until_begun<E: Env>(env: &E, shared: &Shared<E>) -> bool {
    let is_over = |state: &State<E>| state.failure.is_some() || state.is_closing;
    let waits = |state: &State<E>| !is_over(state) && state.durable < state.begun;
    while waits(&shared.borrow()) {
        env.sleep(BEGUN_DELAY).await;
    }
    !is_over(&shared.borrow())
}

/// Takes what became of an attempt at the next segment; whether to try again.
fn armed<E: Env>(shared: &Shared<E>, result: Result<Option<Segment<E>>, Error>) -> bool {
    let mut state = shared.borrow_mut();
    let was_full = std::mem::replace(&mut state.is_disk_full, false);
    match result {
        Ok(next) => state.next = next,
        Err(error) if error.is_disk_full() => {
            if !was_full {
                tracing::warn!(shard = state.options.shard.0, %error, "no room for a log segment");
            }
            state.is_disk_full = true;
        }
        Err(error) => state.fail(error),
    }
    state.is_arming = state.is_disk_full && !state.is_closing;
    state.wake_closer();
    state.is_arming
}
