//! Values of more than [`LONG_LEN_MIN`]: they go to the log, and into a checksum, in pieces, and
//! others are served between the pieces.
//!
//! A long set is evaluated when all of its value is in the log; its connection is not read until it
//! is answered, so nothing overtakes it. A reply with a long value is summed when all that it waits
//! for is committed, and leaves when that is done.
//!
//! [`LONG_LEN_MIN`]: crate::protocol::binary::LONG_LEN_MIN

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Asker, round};
use crate::env::Env;
use crate::id::ShardId;
use crate::mvcc::BlobRef;
use crate::protocol::binary::{
    Checksum, Code, FLAG_REPLY, Failure, HEADER_LEN, Header, Op, VERSION, finish_summed,
};
use crate::server::job::BLOB_BACKLOG_MAX;
use crate::server::remote::LEADS_NO_MORE;
use crate::server::{Server, round::find};
use crate::shard::Wait;
use crate::shard::mailbox::TypedRequest;

/// Bytes that are summed in a turn: some 100 us.
const SUMMED_LEN_MAX: usize = 1 << 20;

/// A set whose value goes to the log.
struct Set {
    asker: Asker,
    /// Without the value.
    body: Vec<u8>,
    value: Arc<Vec<u8>>,
    /// Its name in the log, and how much of it is there.
    logged: Option<(BlobRef, usize)>,
    /// Until what its key holds is in memory.
    wait: Wait,
    /// Until there is room for the value.
    room: Wait,
}

/// A reply whose checksum is being made.
struct Summing {
    asker: Asker,
    /// Without the value; its header is not finished.
    frame: Vec<u8>,
    value: Arc<Vec<u8>>,
    at: usize,
    sum: Checksum,
}

/// What is being worked on. Lives on one core.
#[derive(Default)]
pub(super) struct Longs {
    sets: VecDeque<Set>,
    summings: VecDeque<Summing>,
}

impl Longs {
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.summings.is_empty()
    }

    fn blob_oldest(&self) -> Option<u64> {
        self.sets.iter().filter_map(|set| set.logged).map(|(blob, _)| blob.id).min()
    }
}

impl<E: Env> Server<E> {
    /// Serves a set whose value came apart from its `body`.
    pub(super) fn serve_long(&mut self, asker: &Asker, body: Vec<u8>, value: Arc<Vec<u8>>) {
        let op = match Op::decode_long(&body, &value) {
            Ok(op) => op,
            Err(code) => return self.fail(asker, Failure::new(code, round::text_of(code))),
        };
        let shard = self.shard_of_key(op.key);
        if shard != self.shard.id() {
            return self.forward_long(shard, asker, &body, value);
        }
        let wait = Wait::default();
        self.seek_name(op.db, op.key, &wait);
        let (asker, logged, room) = (*asker, None, Wait::default());
        self.shard.seek_room(self.binary.set, value.len(), &room);
        self.binary.longs.sets.push_back(Set { asker, body, value, logged, wait, room });
    }

    fn forward_long(&mut self, shard: ShardId, asker: &Asker, body: &[u8], value: Arc<Vec<u8>>) {
        self.shard.stats().forwarded_requests.add(1);
        self.ledger.wait();
        let Asker { conn, part, header, deadline, session, .. } = *asker;
        let parcel = self.mailbox.to(shard);
        let (body, long) = (parcel.push_bytes(body), Some(parcel.shared.len() as u32));
        parcel.shared.push(value);
        parcel.typed.push(TypedRequest { conn, part, header, deadline, session, body, long });
    }

    /// The oldest long value on its way to the log.
    pub(in crate::server) fn long_blob_oldest(&self) -> Option<u64> {
        self.binary.longs.blob_oldest()
    }

    /// A piece of each long value. True: some got further; the others wait for the log.
    pub(in crate::server) fn run_longs(&mut self) -> bool {
        let mut progressed = self.sum_some();
        for _ in 0..self.binary.longs.sets.len() {
            let Some(mut set) = self.binary.longs.sets.pop_front() else { break };
            if self.refuses(&set.asker, self.binary.set) {
                progressed = true;
                continue;
            }
            if !self.has_room_for(&mut set) {
                self.binary.longs.sets.push_back(set);
                continue;
            }
            let before = set.logged;
            match self.log_piece(&mut set) {
                Some(_) if !self.knows_key(&mut set) => self.binary.longs.sets.push_back(set),
                Some(blob) => {
                    self.run_long(&set, blob);
                    progressed = true;
                }
                None => {
                    progressed |= set.logged != before;
                    self.binary.longs.sets.push_back(set);
                }
            }
        }
        progressed
    }

    /// Whether there is room for its value; if not, it is asked for.
    fn has_room_for(&mut self, set: &mut Set) -> bool {
        if !set.room.is_over() {
            return false;
        }
        if set.room.given().memory || set.logged.is_some() {
            return true;
        }
        set.room = Wait::with(set.room.given());
        self.shard.seek_room(self.binary.set, set.value.len(), &set.room)
    }

    /// Appends a piece to the log, if that is not behind; its name there once all of it is.
    fn log_piece(&mut self, set: &mut Set) -> Option<BlobRef> {
        let len = set.value.len();
        let (blob, logged) = set.logged.unwrap_or_else(|| (self.shard.new_blob(len), 0));
        if logged == len {
            return Some(blob);
        }
        let behind = self.shard.backlog_len() > BLOB_BACKLOG_MAX;
        let logged = if behind { logged } else { self.shard.log_blob(blob, &set.value, logged) };
        set.logged = Some((blob, logged));
        (logged == len).then_some(blob)
    }

    /// Whether what its key holds is in memory; if not, it is fetched.
    fn knows_key(&mut self, set: &mut Set) -> bool {
        if !set.wait.is_over() {
            return false;
        }
        if set.wait.error().is_some() {
            return true;
        }
        let op = Op::decode_long(&set.body, &set.value).expect("it was decoded before");
        set.wait = Wait::default();
        self.seek_name(op.db, op.key, &set.wait)
    }

    fn run_long(&mut self, set: &Set, blob: BlobRef) {
        let Set { asker, body, value, wait, .. } = set;
        if let Some(error) = wait.error() {
            return self.fail(asker, Failure::new(Code::Internal, &error));
        }
        if !asker.deadline.is_zero() && asker.deadline < self.env.now() {
            let text = "the deadline passed before all of the value was in the log";
            return self.fail(asker, Failure::new(Code::DeadlineExceeded, text));
        }
        let op = Op::decode_long(body, value).expect("it was decoded before");
        let mut scratch = Vec::new();
        let Ok(target) = find(&self.shard, op.db, op.key, &mut scratch) else {
            return self.fail(asker, Failure::new(Code::NoLeader, LEADS_NO_MORE));
        };
        let once = asker.once();
        if let Some(once) = &once
            && self.answers_again(asker, target.place, once, |_| op.condition)
        {
            return;
        }
        let (written, hold) = self.shard.write_long(target, &op, (value, blob), once);
        let waits: SmallVec<[_; 1]> = hold.map(|entry| (target.place, entry)).into_iter().collect();
        match written {
            Ok(outcome) => self.respond(asker, &waits, 0, |out| {
                outcome.encode(out);
                None
            }),
            Err(failed) => self.fail_condition(asker, &waits, failed, op.condition),
        }
    }

    /// A reply may leave once its checksum is made.
    pub(super) fn begin_summing(&mut self, asker: &Asker, frame: &[u8], value: &Arc<Vec<u8>>) {
        let mut sum = Checksum::default();
        sum.update(&frame[HEADER_LEN..]);
        let (frame, value) = (frame.to_vec(), Arc::clone(value));
        let summing = Summing { asker: *asker, frame, value, at: 0, sum };
        self.binary.longs.summings.push_back(summing);
        self.env.notify();
    }

    fn sum_some(&mut self) -> bool {
        let Some(mut summing) = self.binary.longs.summings.pop_front() else { return false };
        let Summing { asker, frame, value, at, sum } = &mut summing;
        let end = value.len().min(*at + SUMMED_LEN_MAX);
        sum.update(&value[*at..end]);
        *at = end;
        if end < value.len() {
            self.binary.longs.summings.push_back(summing);
            return true;
        }
        let header = Header { version: VERSION, flags: FLAG_REPLY, deadline_ms: 0, ..asker.header };
        finish_summed(frame, header, value.len(), sum.digest());
        self.hand_over(asker, frame, Some(value));
        true
    }
}
