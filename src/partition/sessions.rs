//! What clients were told of writes that are done once: a window of replies for each session.
//!
//! A client that lost an answer asks again with the same name ([`Once`]), here or at another node,
//! and gets the first answer: the write is not done a second time. What is kept is a part of the
//! partition's state, as its rows are. A reply is an effect ([`crate::mvcc`]) in the entry of its
//! write, so that replicas and replays have both or neither, and it is kept from when the entry is
//! applied. While it is only proposed, whoever asks again waits for the same entry; when leadership
//! is lost, that is forgotten, and the next leader has what its log has.
//!
//! **Bounds**, and what is forgotten. All depends on the applied effects alone, so that it is the
//! same on all replicas. A session keeps its [`WINDOW`] highest sequences: one at or under the
//! highest that was dropped (its *floor*) is too old, done or not. [`SESSIONS_MAX`] sessions are
//! kept: the one least recently used goes, and from then on no session that was born up to when
//! that one was (*forgotten*) may begin here, as it may be that one. And all together take
//! [`LEN_MAX`]: beyond it the longest window loses its lower half. Whoever is too old is told so; a
//! client that knows that nothing was done yet goes on with a new session.
//!
//! Chosen over a window for all sessions, in which one busy client pushes out what a quiet one
//! still needs; and over sessions that end by the clock, which replicas do not share.
//!
//! With the tables, in the manifest and at the head of a checkpoint:
//!
//! ```text
//! sessions := forgotten:u64 count:u64 session*                   nothing: none ever was
//! session  := id:u8[16] born:u64 floor:u64 used:u64 count:u64 told*
//! told     := sequence:u64 len:u32 | reply[len]                  sequences rise
//! ```
//!
//! Little-endian. Not here: what a reply says ([`crate::shard`]).

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;

use smallvec::SmallVec;

use super::{Partition, Planted};
use crate::codec::Fields;
use crate::id::{Once, SessionId, Timestamp};
use crate::mvcc::Effect;

/// Replies that are kept of a session.
pub const WINDOW: usize = 1024;
/// Sessions that are kept.
const SESSIONS_MAX: usize = 1024;
/// Bytes that all of it may take.
const LEN_MAX: usize = 2 << 20;

/// What a session and a reply count beside the reply's bytes, encoded and in memory, about.
const SESSION_LEN: usize = 160;
const TOLD_LEN: usize = 48;

/// What a client was told; the short ones need no memory of their own.
pub type Reply = SmallVec<[u8; 24]>;

/// What is known of a write that is to be done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It was not done.
    New,
    /// It was: what is to be told, and the entry that has to be committed before.
    Told(Reply, Option<u64>),
    /// It may have been: what is kept does not reach back so far.
    TooOld,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    born: NonZeroU64,
    /// Sequences up to this were dropped, or will never be taken.
    floor: u64,
    /// When it was used last, by the leader's clock.
    used: Timestamp,
    /// By sequence, rising.
    told: VecDeque<(u64, Reply)>,
    byte_len: usize,
}

/// A reply whose entry is not committed.
#[derive(Debug)]
struct Proposed {
    index: u64,
    timestamp: Timestamp,
    reply: Reply,
}

/// See the module's header.
#[derive(Debug, Default)]
pub struct Sessions {
    known: BTreeMap<[u8; 16], Session>,
    /// The latest birth of a session that was dropped.
    forgotten: u64,
    byte_len: usize,
    proposed: BTreeMap<Once, Proposed>,
}

impl Session {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        // Nearly always it is a new one.
        match self.told.back() {
            Some((last, _)) if *last >= sequence => {
                self.told.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
            }
            _ => Err(self.told.len()),
        }
    }

    fn drop_lowest(&mut self) -> usize {
        let Some((sequence, reply)) = self.told.pop_front() else { return 0 };
        self.floor = sequence;
        let len = TOLD_LEN + reply.len();
        self.byte_len -= len;
        len
    }
}

impl Sessions {
    /// A session that was born later may begin.
    pub fn forgotten(&self) -> Timestamp {
        Timestamp(self.forgotten)
    }

    /// Bytes held, about.
    pub fn memory_len(&self) -> usize {
        self.byte_len
    }

    fn recall(&self, once: &Once) -> Recalled {
        if let Some(Proposed { index, reply, .. }) = self.proposed.get(once) {
            return Recalled::Told(reply.clone(), Some(*index));
        }
        match self.known.get(&once.session.id) {
            None if once.session.born.get() <= self.forgotten => Recalled::TooOld,
            None => Recalled::New,
            Some(session) => match session.find(once.sequence) {
                Ok(at) => Recalled::Told(session.told[at].1.clone(), None),
                Err(_) if once.sequence <= session.floor => Recalled::TooOld,
                Err(_) => Recalled::New,
            },
        }
    }

    /// The entry of a reply that was proposed here is committed.
    pub(super) fn commit(&mut self, once: &Once) {
        if let Some(Proposed { timestamp, reply, .. }) = self.proposed.remove(once) {
            self.apply(once, timestamp, reply);
        }
    }

    /// What was proposed here may come about or not.
    pub(super) fn forget_proposed(&mut self) {
        self.proposed.clear();
    }

    /// Takes in a reply of a committed entry.
    pub(super) fn apply(&mut self, once: &Once, timestamp: Timestamp, reply: Reply) {
        let Some(session) = self.session(&once.session) else { return };
        session.used = timestamp;
        let Err(at) = session.find(once.sequence) else { return };
        if once.sequence <= session.floor {
            return;
        }
        let len = TOLD_LEN + reply.len();
        session.told.insert(at, (once.sequence, reply));
        session.byte_len += len;
        let dropped = if session.told.len() > WINDOW { session.drop_lowest() } else { 0 };
        self.byte_len = self.byte_len + len - dropped;
        while self.byte_len > LEN_MAX {
            self.halve_longest();
        }
    }

    /// That session, known from here on; `None`: it may be one that was dropped.
    fn session(&mut self, of: &SessionId) -> Option<&mut Session> {
        if !self.known.contains_key(&of.id) {
            if of.born.get() <= self.forgotten {
                return None;
            }
            if self.known.len() >= SESSIONS_MAX {
                self.drop_unused();
            }
            self.byte_len += SESSION_LEN;
        }
        let session = self.known.entry(of.id).or_insert_with(|| Session {
            born: of.born,
            floor: 0,
            used: Timestamp(0),
            told: VecDeque::new(),
            byte_len: 0,
        });
        Some(session)
    }

    fn drop_unused(&mut self) {
        let unused = self.known.iter().min_by_key(|(_, session)| session.used);
        let Some((id, _)) = unused else { return };
        let id = *id;
        if let Some(session) = self.known.remove(&id) {
            self.forgotten = self.forgotten.max(session.born.get());
            self.byte_len -= SESSION_LEN + session.byte_len;
        }
    }

    fn halve_longest(&mut self) {
        let longest = self.known.values_mut().max_by_key(|session| session.byte_len);
        let session = longest.expect("something takes the bytes");
        for _ in 0..session.told.len().div_ceil(2) {
            self.byte_len -= session.drop_lowest();
        }
    }

    /// What is applied, as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.known.is_empty() && self.forgotten == 0 {
            return out;
        }
        out.reserve(self.byte_len);
        out.extend_from_slice(&self.forgotten.to_le_bytes());
        out.extend_from_slice(&(self.known.len() as u64).to_le_bytes());
        for (id, session) in &self.known {
            out.extend_from_slice(id);
            let (born, count) = (session.born.get(), session.told.len() as u64);
            for number in [born, session.floor, session.used.0, count] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for (sequence, reply) in &session.told {
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(&(reply.len() as u32).to_le_bytes());
                out.extend_from_slice(reply);
            }
        }
        out
    }

    /// Back from bytes; `None`: they are none of these.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut sessions = Self::default();
        if bytes.is_empty() {
            return Some(sessions);
        }
        let mut rest = Fields(bytes);
        sessions.forgotten = rest.u64()?;
        for _ in 0..rest.u64()? {
            let id = *rest.take(16)?.first_chunk()?;
            let born = NonZeroU64::new(rest.u64()?)?;
            let (floor, used, count) = (rest.u64()?, Timestamp(rest.u64()?), rest.u64()?);
            let mut session = Session { born, floor, used, told: VecDeque::new(), byte_len: 0 };
            for _ in 0..count {
                let sequence = rest.u64()?;
                let len = rest.u32()? as usize;
                let reply = Reply::from_slice(rest.take(len)?);
                let rises = session.told.back().map_or(floor, |(last, _)| *last) < sequence;
                session.byte_len += TOLD_LEN + len;
                session.told.push_back((rises.then_some(sequence)?, reply));
            }
            sessions.byte_len += SESSION_LEN + session.byte_len;
            sessions.known.insert(id, session);
        }
        rest.end().map(|()| sessions)
    }
}

impl Partition {
    /// What is known of a write that is to be done once. For leaders.
    pub fn recall(&self, once: &Once) -> Recalled {
        match self.sessions.recall(once) {
            Recalled::Told(_, Some(_)) if self.has(Planted::RepeatProposed) => Recalled::New,
            recalled => recalled,
        }
    }

    /// Proposes that `reply` be what is told of a write, whose effects the open entry has; returns
    /// the entry to wait for.
    pub fn remember(&mut self, once: Once, reply: Reply, now_ms: u64) -> u64 {
        let timestamp = self.clock.next(now_ms);
        (self.clock, self.open.timestamp) = (timestamp, timestamp);
        Effect::Reply { timestamp, once, reply: &reply }.encode(&mut self.payload);
        self.open.told.push(once);
        let index = self.open.index;
        self.sessions.proposed.insert(once, Proposed { index, timestamp, reply });
        index
    }

    /// What clients were told, as far as entries are applied here.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

#[cfg(test)]
mod tests;
