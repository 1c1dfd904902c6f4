//! One request on keys: evaluated where the key is, answered when it may be.

use std::sync::Arc;

use smallvec::SmallVec;

use super::holds::WAITER;
use super::{
    Asker, BATCH_COUNT_MAX, BATCH_LEN_MAX, Large, MULTI_GET_COUNT_MAX, MULTI_GET_LEN_MAX,
    SCAN_COUNT, SCAN_COUNT_MAX, SCAN_VALUES_LEN_MAX, encode,
};
use crate::command::{Spec, glob};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::lsm::memtable::{Payload, Version};
use crate::protocol::binary::{
    Code, Condition, Entry, FLAG_ERROR, FLAG_STALE, Failure, Header, Item, Items, Keys,
    LONG_LEN_MIN, NO_INDEX, Op, Opcode, Ops, Outcomes, Request, Retry, Scan, Scanned,
};
use crate::server::{Server, ledger, remote, round};
use crate::shard::mailbox::{Parcel, TypedAnswer, TypedRequest};
use crate::shard::{ConditionFailed, Cursor, Refused, Scope, Target};

/// Commits to wait for: place of the partition, entry.
pub(super) type Waits = SmallVec<[(u32, u64); 2]>;

impl<E: Env> Server<E> {
    /// Serves a request whose keys are here, or hands it to the shard that has them. `body`: what
    /// it was decoded from; `ahead`: its key, if it was looked up.
    pub(super) fn serve_typed(
        &mut self,
        asker: &Asker,
        request: &Request<'_>,
        body: &[u8],
        ahead: Option<Target<'_>>,
    ) {
        if self.is_late(asker) {
            return;
        }
        self.lending(&asker.header, |server| {
            if !server.parks_typed(asker, request, body, ahead) {
                server.serve_known(asker, request, body, ahead);
            }
        });
    }

    /// Does something for a request, which replicas that follow may answer if it says so.
    pub(in crate::server) fn lending<R>(
        &mut self,
        header: &Header,
        run: impl FnOnce(&mut Self) -> R,
    ) -> R {
        if header.flags & FLAG_STALE == 0 {
            return run(self);
        }
        // A part of a multi-get is served within the whole.
        let before = self.shard.stale_max();
        self.shard.set_stale_max(self.stale_max_of_typed(header));
        let done = run(self);
        self.shard.set_stale_max(before);
        done
    }

    /// Whether a request's deadline has passed before anything of it was done; said so then.
    pub(super) fn is_late(&mut self, asker: &Asker) -> bool {
        let is_late = !asker.deadline.is_zero() && asker.deadline < self.env.now();
        if is_late {
            let text = "the deadline passed before the request was looked at";
            self.fail(asker, Failure::new(Code::DeadlineExceeded, text));
        }
        is_late
    }

    /// As [`Server::serve_typed`], once all that the request looks at is in memory.
    pub(super) fn serve_known(
        &mut self,
        asker: &Asker,
        request: &Request<'_>,
        body: &[u8],
        ahead: Option<Target<'_>>,
    ) {
        let scratch = &mut Vec::new();
        match request {
            Request::Get { db, key } => match self.target(ahead, *db, key, scratch) {
                Ok(target) => self.serve_get(asker, target),
                Err(shard) => self.forward_typed(shard, asker, body),
            },
            Request::Write(op) => match self.target(ahead, op.db, op.key, scratch) {
                Ok(target) => self.serve_write(asker, target, op),
                Err(shard) => self.forward_typed(shard, asker, body),
            },
            Request::Batch(ops) => self.serve_batch(asker, ops, body),
            Request::MultiGet(keys) => self.serve_multi_get(asker, keys, body),
            Request::Scan(scan) => self.serve_scan(asker, scan, body),
            Request::Cluster(action) => self.serve_cluster(asker, action),
            Request::Changes(behind) => self.serve_changes(asker, behind, body),
            Request::Copy(page) => self.serve_copy(asker, page, body),
            _ => unreachable!("the session serves what is not on keys"),
        }
    }

    fn target<'k>(
        &self,
        ahead: Option<Target<'k>>,
        db: u8,
        name: &[u8],
        scratch: &'k mut Vec<u8>,
    ) -> Result<Target<'k>, ShardId> {
        match ahead {
            Some(target) => Ok(target),
            None => round::find(&self.shard, db, name, scratch).map_err(|(shard, _)| shard),
        }
    }

    fn serve_get(&mut self, asker: &Asker, target: Target<'_>) {
        self.shard.note_use(target);
        let (version, hold) = self.shard.read(target);
        self.shard.stats().note_read(version.is_some());
        let is_long = version.as_ref().is_some_and(is_long);
        if hold.is_none()
            && !is_long
            && asker.shard == self.shard.id()
            && let Some(Some(conn)) = self.conns.get_mut(asker.conn.index as usize)
            && conn.id == asker.conn
            && let Some(line) = conn.binary.as_deref_mut()
        {
            line.answered(asker.cost());
            let large = encode(conn.output.end(), &asker.header, 0, |out| item(version, out));
            if let Some(large) = large {
                conn.output.append(&[], std::iter::once((0, &large)));
            }
            return self.mark_dirty(asker.conn.index);
        }
        // What waits is copied: the version may move before it leaves.
        let mut copy = Vec::new();
        let large = item(version, &mut copy);
        let waits: Waits = hold.map(|entry| (target.place, entry)).into_iter().collect();
        if is_long {
            let mut frame = Vec::new();
            let large = encode(&mut frame, &asker.header, 0, |out| {
                out.extend_from_slice(&copy);
                large
            });
            return self.settle_held(asker, &frame, large, waits.into_vec());
        }
        self.respond(asker, &waits, 0, |out| {
            out.extend_from_slice(&copy);
            large
        });
    }

    fn serve_write(&mut self, asker: &Asker, target: Target<'_>, op: &Op<'_>) {
        let once = asker.once();
        if let Some(once) = &once
            && self.answers_again(asker, target.place, once, |_| op.condition)
        {
            return;
        }
        let spec = if op.value.is_some() { self.binary.set } else { self.binary.delete };
        if self.refuses(asker, spec) {
            return;
        }
        let (written, hold) = self.shard.write(target, op, once);
        let waits: Waits = hold.map(|entry| (target.place, entry)).into_iter().collect();
        match written {
            Ok(outcome) => self.respond(asker, &waits, 0, |out| {
                outcome.encode(out);
                None
            }),
            Err(failed) => self.fail_condition(asker, &waits, failed, op.condition),
        }
    }

    pub(super) fn fail_condition(
        &mut self,
        asker: &Asker,
        waits: &[(u32, u64)],
        failed: ConditionFailed,
        condition: Condition<'_>,
    ) {
        let text = match condition {
            Condition::None | Condition::Present => "the key is absent",
            Condition::Absent => "the key is present",
            Condition::Equals(_) => "the key holds something else",
            Condition::Version(_) => "the key has another version",
        };
        let is_of_batch = asker.header.opcode == Opcode::Batch as u8;
        let index = if is_of_batch { failed.index as u32 } else { NO_INDEX };
        let failure = Failure::new(Code::ConditionFailed, text);
        let failure = Failure { timestamp: failed.version, index, ..failure };
        self.note_failure(asker, failure.code);
        self.respond(asker, waits, FLAG_ERROR, |out| {
            failure.encode(out);
            None
        });
    }

    /// Whether a write is not taken; said so then.
    pub(super) fn refuses(&mut self, asker: &Asker, spec: &'static Spec) -> bool {
        let Err(refused) = self.shard.admit(spec) else { return false };
        let code = match refused {
            Refused::OutOfMemory => Code::OutOfMemory,
            Refused::DiskFull | Refused::LogFull => Code::DiskFull,
            Refused::LogFailed { .. } | Refused::Standby { .. } => Code::ReadOnly,
        };
        let text = refused.to_string();
        let failure = Failure::new(code, &text);
        let retry = match refused {
            // None of its nodes takes it.
            Refused::Standby { .. } => Retry::Never,
            _ => failure.retry,
        };
        self.fail(asker, Failure { retry, ..failure });
        true
    }

    fn serve_batch(&mut self, asker: &Asker, ops: &Ops<'_>, body: &[u8]) {
        if ops.len() > BATCH_COUNT_MAX || body.len() > BATCH_LEN_MAX {
            let text =
                format!("a batch has at most {BATCH_COUNT_MAX} ops in {BATCH_LEN_MAX} bytes");
            return self.fail(asker, Failure::new(Code::TooLarge, &text));
        }
        let map = *self.shard.map();
        let partition_of = |op: &Op<'_>| map.partition_of(crate::lsm::key::slot_of(op.key));
        let Some(first) = ops.iter().next().map(|op| partition_of(&op)) else {
            return self.respond(asker, &[], 0, |out| {
                Outcomes::begin(0, 0, out);
                None
            });
        };
        if let Some(index) = ops.iter().position(|op| partition_of(&op) != first) {
            let text = "the keys of a batch are of one partition: give them one {hash tag}";
            let failure = Failure::new(Code::CrossPartition, text);
            return self.fail(asker, Failure { index: index as u32, ..failure });
        }
        let shard = self.shard.owner(first);
        if shard != self.shard.id() {
            return self.forward_typed(shard, asker, body);
        }
        let place = self.shard.place_of(first).expect("it is the owner");
        let (once, condition_of) = (asker.once(), |index| condition_of(ops, index));
        if let Some(once) = &once
            && self.answers_again(asker, place, once, condition_of)
        {
            return;
        }
        let grows = ops.iter().any(|op| op.value.is_some());
        let spec = if grows { self.binary.set } else { self.binary.delete };
        if self.refuses(asker, spec) {
            return;
        }
        let (written, hold) = self.shard.write_all(place, ops.iter(), once);
        let waits: Waits = hold.map(|entry| (place, entry)).into_iter().collect();
        match written {
            Ok(outcomes) => self.respond(asker, &waits, 0, |out| {
                let timestamp = outcomes.iter().map(|outcome| outcome.timestamp).max();
                Outcomes::encode(timestamp.unwrap_or(0), &outcomes, out);
                None
            }),
            Err(failed) => {
                self.fail_condition(asker, &waits, failed, condition_of(failed.index));
            }
        }
    }

    fn serve_multi_get(&mut self, asker: &Asker, keys: &Keys<'_>, body: &[u8]) {
        if keys.len() > MULTI_GET_COUNT_MAX {
            let text = format!("a multi-get has at most {MULTI_GET_COUNT_MAX} keys");
            return self.fail(asker, Failure::new(Code::TooLarge, &text));
        }
        let here = self.shard.id();
        let mut shards = keys.iter().map(|name| self.shard_of_key(name));
        let first = shards.next().unwrap_or(here);
        let others = shards.any(|shard| shard != first);
        drop(shards);
        if others {
            return self.begin_gathering(asker, keys);
        }
        if first != here {
            return self.forward_typed(first, asker, body);
        }
        let (mut items, mut waits, mut newest) = (Vec::new(), Waits::new(), 0);
        let mut scratch = Vec::new();
        for name in keys.iter() {
            let found = round::find(&self.shard, keys.db, name, &mut scratch);
            let target = found.expect("all keys are here");
            self.shard.note_use(target);
            let (version, hold) = self.shard.read(target);
            self.shard.stats().note_read(version.is_some());
            waits.extend(hold.map(|entry| (target.place, entry)));
            newest = newest.max(version.map_or(0, |version| version.timestamp.0));
            let large = item(version, &mut items);
            let len = items.len() + large.as_ref().map_or(0, |large| large.len());
            // Before it is copied: it may be hundreds of MiB.
            if let Some(large) = large.filter(|_| len <= MULTI_GET_LEN_MAX) {
                items.extend_from_slice(&large);
            }
            if len > MULTI_GET_LEN_MAX {
                let text = format!("the values are over {MULTI_GET_LEN_MAX} bytes: ask for fewer");
                return self.fail(asker, Failure::new(Code::TooLarge, &text));
            }
        }
        waits.sort_unstable();
        waits.dedup();
        self.respond(asker, &waits, 0, |out| {
            Items::begin(newest, keys.len(), out);
            out.extend_from_slice(&items);
            None
        });
    }

    fn serve_scan(&mut self, asker: &Asker, scan: &Scan<'_>, body: &[u8]) {
        let Some(cursor) = Self::cursor_of(scan) else {
            let text = "this cursor is none of this server's";
            return self.fail(asker, Failure::new(Code::BadRequest, text));
        };
        let shard = self.shard_of_partition(cursor.partition);
        if shard != self.shard.id() {
            return self.forward_typed(shard, asker, body);
        }
        let (names, next) = self.page(scan, cursor, Self::count_of(scan));
        self.answer_page(asker, scan, &names, next);
    }

    /// Where a scan begins.
    pub(in crate::server) fn cursor_of(scan: &Scan<'_>) -> Option<Cursor> {
        match scan.cursor {
            [] => Some(Cursor::at(0)),
            cursor => {
                let bytes = cursor.try_into().ok()?;
                Some(Cursor::decode(u64::from_le_bytes(bytes)))
            }
        }
    }

    /// How many keys a page has.
    pub(super) fn count_of(scan: &Scan<'_>) -> usize {
        let count = if scan.count == 0 { SCAN_COUNT } else { scan.count as usize };
        count.min(SCAN_COUNT_MAX)
    }

    /// Answers with the keys of a page, and their values if wanted; all are in memory.
    pub(super) fn answer_page(
        &mut self,
        asker: &Asker,
        scan: &Scan<'_>,
        names: &[Vec<u8>],
        next: u64,
    ) {
        let (mut entries, mut newest, mut shown) = (Vec::new(), 0, 0);
        let mut scratch = Vec::new();
        for name in names {
            let found = round::find_replica(&self.shard, scan.db, name, &mut scratch);
            let target = found.expect("the walk is over this shard");
            let Some(version) = self.shard.read(target).0 else { continue };
            newest = newest.max(version.timestamp.0);
            let room = SCAN_VALUES_LEN_MAX.saturating_sub(entries.len());
            entry(name, version, if scan.values { room } else { 0 }, &mut entries);
            shown += 1;
        }
        // What was seen to be gone may not be committed either.
        let mut waits = Waits::new();
        self.shard.uncommitted(|place, entry| waits.push((place, entry)));
        let next = if next == 0 { Vec::new() } else { next.to_le_bytes().to_vec() };
        self.respond(asker, &waits, 0, |out| {
            Scanned::encode(newest, &next, shown, &entries, out);
            None
        });
    }

    /// The keys of a page and the next cursor; 0: that was all.
    fn page(&self, scan: &Scan<'_>, cursor: Cursor, count: usize) -> (Vec<Vec<u8>>, u64) {
        let mut names = Vec::new();
        let next = self.shard.walk((&Scope::ALL, scan.db), cursor, count, |name| {
            if Self::fits(scan, name) {
                names.push(name.to_vec());
            }
        });
        (names, next.map_or_else(|| self.next_shard_typed(), Cursor::encode))
    }

    /// Whether a scan wants a key.
    pub(super) fn fits(scan: &Scan<'_>, name: &[u8]) -> bool {
        match scan.glob && !scan.pattern.is_empty() {
            true => glob::matches(scan.pattern, name, false),
            false => name.starts_with(scan.pattern),
        }
    }

    /// A cursor as clients see it.
    pub(super) fn encode_next_typed(&self, next: Cursor) -> u64 {
        let end = self.shard.map().partitions_of(self.shard.id()).end;
        if next.partition < end { next.encode() } else { self.next_shard_typed() }
    }

    /// The cursor behind this shard's last partition.
    fn next_shard_typed(&self) -> u64 {
        let map = self.shard.map();
        let next = map.partitions_of(self.shard.id()).end;
        if next == map.partition_count() { 0 } else { Cursor::at(next).encode() }
    }

    /// Counts an answer that is an error, by the name of its code.
    pub(super) fn note_failure(&self, asker: &Asker, code: u16) {
        let stats = self.shard.stats();
        if let Some(spec) = self.binary.counted_as(asker.header.opcode) {
            stats.calls.of(spec.number()).failed.add(1);
        }
        let name = Code::of(code).map_or("", Code::name).to_ascii_uppercase();
        ledger::note_error(name.as_bytes(), stats);
    }

    /// Answers with an error.
    pub(in crate::server) fn fail(&mut self, asker: &Asker, failure: Failure<'_>) {
        self.note_failure(asker, failure.code);
        self.respond(asker, &[], FLAG_ERROR, |out| {
            failure.encode(out);
            None
        });
    }

    /// Answers when all of `waits` are as safe as was asked for; `body` appends the body.
    pub(super) fn respond(
        &mut self,
        asker: &Asker,
        waits: &[(u32, u64)],
        flags: u16,
        body: impl FnOnce(&mut Vec<u8>) -> Large,
    ) {
        let mut waits = waits.iter();
        while let Some((place, entry)) = waits.next() {
            if let Some(hold) = self.shard.wait((*place, *entry), asker.ack(), WAITER) {
                self.ledger.hold(hold);
                let more = waits.copied().collect();
                return self.binary.holds.hold(asker, (hold, more), flags, body);
            }
        }
        if asker.shard != self.shard.id() {
            let parcel = self.mailbox.to(asker.shard);
            let at = parcel.bytes.len();
            let large = encode(&mut parcel.bytes, &asker.header, flags, body);
            let to = (asker.conn, asker.part, asker.cost());
            return parcel.answer_typed(to, at, large);
        }
        if let Some(part) = asker.part {
            let mut frame = Vec::new();
            encode(&mut frame, &asker.header, flags, body);
            return self.take_typed_part(part, &frame);
        }
        let Some(conn) = self.conn(asker.conn) else { return };
        let large = encode(conn.output.end(), &asker.header, flags, body);
        self.give_typed(asker.conn, asker.cost(), &[], large.as_ref());
    }

    /// Appends a reply to a connection's output: one request less is under way.
    pub(super) fn give_typed(
        &mut self,
        id: ConnId,
        cost: u32,
        frame: &[u8],
        large: Option<&Arc<Vec<u8>>>,
    ) {
        let Some(conn) = self.conn(id) else { return };
        let Some(line) = conn.binary.as_deref_mut() else { return };
        line.answered(cost);
        match large {
            None => conn.output.end().extend_from_slice(frame),
            Some(large) => conn.output.append(frame, std::iter::once((frame.len(), large))),
        }
        self.mark_dirty(id.index);
    }

    /// Hands a request to the shard that has its keys.
    pub(super) fn forward_typed(&mut self, shard: ShardId, asker: &Asker, body: &[u8]) {
        if asker.shard != self.shard.id() {
            // Who forwarded it here has old news: it goes no further.
            return self.fail(asker, Failure::new(Code::NoLeader, remote::LEADS_NO_MORE));
        }
        self.note_too_old(shard);
        self.shard.stats().forwarded_requests.add(1);
        // Counted, not timed: nothing of it is kept here.
        self.ledger.wait();
        let Asker { conn, part, header, deadline, session, .. } = *asker;
        let parcel = self.mailbox.to(shard);
        let body = parcel.push_bytes(body);
        let long = None;
        parcel.typed.push(TypedRequest { conn, part, header, deadline, session, body, long });
    }

    /// Serves what another shard asks, and takes what it answers.
    pub(in crate::server) fn receive_typed(&mut self, from: ShardId, parcel: &Parcel) {
        for request in &parcel.typed {
            let TypedRequest { header, body, long, .. } = *request;
            let asker = Asker::of(from, request);
            let body = parcel.slice(body);
            if let Some(at) = long {
                let value = Arc::clone(&parcel.shared[at as usize]);
                self.serve_long(&asker, body.to_vec(), value);
                continue;
            }
            match Request::decode(header.opcode, body) {
                Ok(request) => self.serve_typed(&asker, &request, body, None),
                Err(code) => self.fail(&asker, Failure::new(code, "it was forwarded wrongly")),
            }
        }
        for answer in &parcel.typed_answers {
            let TypedAnswer { conn, part, cost, frame, splices: (first, len) } = *answer;
            let frame = parcel.slice(frame);
            let large = parcel.splices[first as usize..][..len as usize].first();
            match part {
                Some(part) => self.take_typed_part(part, frame),
                None => self.give_typed(conn, cost, frame, large.map(|(_, large)| large)),
            }
        }
    }
}

fn condition_of<'a>(ops: &Ops<'a>, index: usize) -> Condition<'a> {
    ops.iter().nth(index).map_or(Condition::None, |op| op.condition)
}

/// Appends the item of a version; a large value is handed back instead.
fn item(version: Option<Version<'_>>, out: &mut Vec<u8>) -> Large {
    let Some(version) = version else {
        Item::default().encode(out);
        return None;
    };
    let (timestamp, expiry_ms) = (version.timestamp.0, version.expiry_ms);
    match version.payload {
        Payload::Bytes(value) => {
            Item::present(timestamp, expiry_ms, value).encode(out);
            None
        }
        Payload::Shared(value) => {
            Item::present(timestamp, expiry_ms, value).encode_head(out);
            Some(Arc::clone(value))
        }
    }
}

/// Whether a reply that tells of it is summed in pieces.
fn is_long(version: &Version<'_>) -> bool {
    matches!(version.payload, Payload::Shared(value) if value.len() > LONG_LEN_MIN)
}

/// Appends an entry of a scan; with its value, if that has room.
fn entry(key: &[u8], version: Version<'_>, room: usize, out: &mut Vec<u8>) {
    let value = match version.payload {
        Payload::Bytes(value) => value,
        Payload::Shared(value) => value,
    };
    let item = Item::present(version.timestamp.0, version.expiry_ms, value);
    let value = item.value.filter(|value| room > 0 && value.len() <= room);
    Entry { key, item: Item { value, ..item } }.encode(out);
}
