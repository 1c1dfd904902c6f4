//! A round of frames: those of many connections, looked up together, run in order.
//!
//! As [`server::round`], and for the same reason: between the first key that is asked for and the
//! first that is read there is time for memory to answer.
//!
//! [`server::round`]: crate::server

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Asker, body_len_max, is_on_keys, once};
use crate::ack::Ack;
use crate::command::DB_COUNT;
use crate::env::{ConnId, Env};
use crate::limits::KEY_LEN_MAX;
use crate::lsm::key;
use crate::protocol::binary::{Breach, Code, Failure, Header, Opcode, Request, flags_of};
use crate::server::{Server, Source, Work};
use crate::shard::Target;

/// Requests of a round: enough to hide memory's latency, few enough to stay in the first cache.
const ROUND_MAX: usize = 48;

/// Where a body is.
enum Body {
    /// In a source of the round.
    In { source: u32, at: u32, len: u32 },
    /// It came in pieces.
    Own(Vec<u8>),
    /// Of a long set, without its value, and that.
    Long(Box<(Vec<u8>, Arc<Vec<u8>>)>),
    /// There is none: the stream can not be read on.
    Broken(Box<Breach>),
}

/// A request. Small, and read where it is: moving one about costs as much as its checksums.
struct Call {
    conn: ConnId,
    header: Header,
    body: Body,
    ahead: Option<Ahead>,
}

/// A key looked up ahead.
#[derive(Clone)]
struct Ahead {
    place: u32,
    hash: u64,
    /// In the round's keys.
    key: Range<u32>,
}

/// The requests of a round and what they are made of; reused.
pub(super) struct Round<C> {
    sources: Vec<Source<C>>,
    calls: Vec<Call>,
    keys: Vec<u8>,
    key: Vec<u8>,
    /// The last source is not used up: its connection, and the bytes used.
    left: Option<(ConnId, usize)>,
}

impl<C> Default for Round<C> {
    fn default() -> Self {
        let (sources, calls) = (Vec::new(), Vec::new());
        Self { sources, calls, keys: Vec::new(), key: Vec::new(), left: None }
    }
}

impl<E: Env> Server<E> {
    /// Runs a round of frames. False: there was nothing to run.
    pub(in crate::server) fn run_typed_round(&mut self) -> bool {
        if self.binary.work.is_empty() {
            return false;
        }
        let mut round = std::mem::take(&mut self.binary.round);
        self.gather_frames(&mut round);
        self.look_ahead_typed(&mut round);
        let ran = !round.calls.is_empty();
        for call in &round.calls {
            if let Body::Broken(breach) = &call.body {
                self.refuse_typed_stream(call.conn, **breach);
                continue;
            }
            let spec = self.binary.counted_as(call.header.opcode);
            spec.into_iter().for_each(|spec| self.ledger.begin(spec));
            self.run_call(&round, call);
            spec.into_iter().for_each(|spec| self.ledger.end(spec));
        }
        round.calls.clear();
        if let Some((conn, used)) = round.left.take()
            && let Some(source) = round.sources.pop()
            && let Some(open) = self.conn(conn)
        {
            open.queued += 1;
            self.binary.work.push_front(Work { conn, source, used });
        }
        round.sources.clear();
        round.keys.clear();
        self.binary.round = round;
        ran
    }

    /// Takes up to [`ROUND_MAX`] frames.
    fn gather_frames(&mut self, round: &mut Round<E::Chunk>) {
        while round.calls.len() < ROUND_MAX && round.left.is_none() {
            let Some(work) = self.binary.work.pop_front() else { return };
            let id = work.conn;
            let Some(conn) = self.conn(id) else { continue };
            conn.queued -= 1;
            if conn.ended {
                // It may be that this was all that it waited for.
                self.mark_dirty(id.index);
            }
            let Some(conn) = self.conn(id) else { continue };
            if conn.is_deaf() {
                continue;
            }
            if !conn.is_served() || !conn.stash.is_empty() {
                conn.stash.push_back(work.source.bytes()[work.used..].to_vec());
                self.pause_if_long(id);
                continue;
            }
            self.parse_frames(round, work);
        }
    }

    fn parse_frames(&mut self, round: &mut Round<E::Chunk>, work: Work<E::Chunk>) {
        let id = work.conn;
        let conn = self.conn(id).expect("the caller found it");
        let session = &conn.session;
        let line = conn.binary.as_deref_mut().expect("its work is of this port");
        // Before the handshake one frame at a time: the next may be read by other rules.
        let settled = line.is_settled(session.authenticated);
        let room = if settled { ROUND_MAX } else { round.calls.len() + 1 };
        let (source, all) = (round.sources.len() as u32, work.source.bytes());
        let mut bytes = &all[work.used..];
        while round.calls.len() < room && !line.is_full() {
            let frame = match line.parser.next(&mut bytes, body_len_max(settled)) {
                Ok(None) => break,
                Ok(Some(frame)) => frame,
                Err(breach) => {
                    let (header, body) = (Header::default(), Body::Broken(Box::new(breach)));
                    round.calls.push(Call { conn: id, header, body, ahead: None });
                    bytes = &[];
                    break;
                }
            };
            line.begun(&frame.header);
            let body = match (frame.body, frame.value) {
                (body, Some(value)) => Body::Long(Box::new((body.into_owned(), Arc::new(value)))),
                (Cow::Owned(body), None) => Body::Own(body),
                (Cow::Borrowed(body), None) => {
                    let (at, len) = (all.len() - bytes.len() - body.len(), body.len() as u32);
                    Body::In { source, at: at as u32, len }
                }
            };
            round.calls.push(Call { conn: id, header: frame.header, body, ahead: None });
        }
        let left = bytes.len();
        if left > 0 && line.is_full() {
            conn.stash.push_back(bytes.to_vec());
            self.pause_if_long(id);
        } else if left > 0 {
            round.left = Some((id, all.len() - left));
        }
        round.sources.push(work.source);
    }

    /// Finds keys and asks memory for them.
    fn look_ahead_typed(&mut self, round: &mut Round<E::Chunk>) {
        let Round { sources, calls, keys, key: scratch, .. } = round;
        for call in calls.iter_mut() {
            let bytes = bytes_of(sources, &call.body);
            let Some((db, name)) = key_of(call.header.opcode, bytes) else { continue };
            let slot = key::slot_of(name);
            let Ok(place) = self.shard.locate(slot) else { continue };
            key::encode_data_key(slot, db, name, scratch);
            let memtable = self.shard.partition(place).memtable();
            let hash = memtable.hash(scratch);
            memtable.prefetch(hash);
            let at = keys.len() as u32;
            keys.extend_from_slice(scratch);
            call.ahead = Some(Ahead { place, hash, key: at..keys.len() as u32 });
        }
        for Ahead { place, hash, .. } in calls.iter().filter_map(|call| call.ahead.as_ref()) {
            self.shard.partition(*place).memtable().prefetch_entry(*hash);
        }
    }

    fn run_call(&mut self, round: &Round<E::Chunk>, call: &Call) {
        let Call { conn, header, .. } = *call;
        let body = bytes_of(&round.sources, &call.body);
        let deadline = match header.deadline_ms {
            0 => Duration::ZERO,
            ms => self.env.now() + Duration::from_millis(ms.into()),
        };
        let shard = self.shard.id();
        let asker = Asker { shard, conn, part: None, header, deadline, session: None };
        let now_ms = self.shard.now_ms();
        let Some(open) = self.conn(conn) else { return };
        open.session.note(Opcode::of(header.opcode).map_or("", Opcode::name), now_ms);
        let (known, authenticated) = (open.binary.as_deref(), open.session.authenticated);
        let settled = known.is_some_and(|line| line.is_settled(authenticated));
        let session = known.and_then(|line| line.session);
        if !settled || is_of_session(header.opcode) {
            return self.serve_session(&asker, body);
        }
        let session = match once::session_of(&header, session) {
            Ok(session) => session,
            Err(text) => return self.fail(&asker, Failure::new(Code::BadRequest, text)),
        };
        let header = answered_at(header, self.node.identity.ack);
        let asker = Asker { session, header, ..asker };
        if self.is_paused_for(writes(header.opcode)) {
            let text = "paused (CLIENT PAUSE): try again later";
            return self.fail(&asker, Failure::new(Code::Overloaded, text));
        }
        if let Body::Long(long) = &call.body {
            return self.serve_long(&asker, body.to_vec(), Arc::clone(&long.1));
        }
        let target = call.ahead.as_ref().map(|Ahead { place, hash, key }| {
            let key = &round.keys[key.start as usize..key.end as usize];
            Target { place: *place, hash: *hash, key }
        });
        match &Request::decode(header.opcode, body) {
            Ok(request) => self.serve_typed(&asker, request, body, target),
            Err(code) => self.fail(&asker, Failure::new(*code, text_of(*code))),
        }
    }
}

/// A request that does not say what its answer waits for says what the node is set to, wherever it
/// is served.
fn answered_at(header: Header, ack: Ack) -> Header {
    let is_told = ack == Ack::Quorum || header.ack().is_some() || !is_on_keys(header.opcode);
    let flags = if is_told { 0 } else { flags_of(ack) };
    Header { flags: header.flags | flags, ..header }
}

fn bytes_of<'a, C>(sources: &'a [Source<C>], body: &'a Body) -> &'a [u8]
where
    C: std::ops::Deref<Target = [u8]>,
{
    match body {
        Body::In { source, at, len } => {
            &sources[*source as usize].bytes()[*at as usize..][..*len as usize]
        }
        Body::Own(bytes) => bytes,
        Body::Long(long) => &long.0,
        Body::Broken(_) => &[],
    }
}

fn is_of_session(opcode: u8) -> bool {
    let own = [Opcode::Hello, Opcode::Auth, Opcode::Session, Opcode::Ping, Opcode::Info];
    own.iter().any(|own| *own as u8 == opcode)
}

fn writes(opcode: u8) -> bool {
    use Opcode::{Changes, Cluster, Copy, Get, MultiGet, Scan};
    let reads = [Get, MultiGet, Scan, Cluster, Changes, Copy];
    !reads.iter().any(|reads| *reads as u8 == opcode)
}

/// Why a body does not decode.
pub(super) fn text_of(code: Code) -> &'static str {
    match code {
        Code::UnknownOp => "there is no such opcode",
        Code::TooLarge => "a key, value or text is over its limit; hello tells them",
        _ => "the body is not that of its opcode",
    }
}

/// Database and key of a request with one key, without judging the rest of it.
fn key_of(opcode: u8, body: &[u8]) -> Option<(u8, &[u8])> {
    let (db_at, key_at) = match Opcode::of(opcode)? {
        Opcode::Get => (0, 8),
        Opcode::Set | Opcode::Delete => (1, 32),
        _ => return None,
    };
    let db = *body.get(db_at)?;
    let len = u32::from_le_bytes(*body.get(4..)?.first_chunk::<4>()?) as usize;
    let name = body.get(key_at..)?.get(..len)?;
    (db < DB_COUNT && len <= KEY_LEN_MAX).then_some((db, name))
}
