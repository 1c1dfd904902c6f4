//! A parcel as bytes, for a shard of another node.
//!
//! ```text
//! parcel  := request_count:u32 request* answer_count:u32 answer* typed_count:u32 typed*
//!            typed_answer_count:u32 typed_answer* invalidation_count:u32 invalidation*
//! request := conn ticket:u32 name db:u8 flags:u8 parts args transaction
//!            flags                  1 RESP3, 2 remembers what it reads, 4 with a transaction, 8 a
//!                                   replica that follows may answer it
//! parts   := count:u32 part:u32*
//! args    := count:u32 bytes*
//! transaction := watched_count:u32 watched* step_count:u32 step*          if flags & 4
//! watched := slot:u16 key:bytes present:u8 since:u64 half:u64
//! step    := name db:u8 resp3:u8 args
//! answer  := conn ticket:u32 count:i64 body:bytes element_count:u32 element* splices
//! element := part:u32 at:u32 len:u32
//! splices := count:u32 (at:u64 bytes)*
//! typed   := conn part header:bytes left_ns:u64 session body:bytes long:bytes  long if flags & 1
//! session := id:u8[16] born:u64                   if the header's flags say that it is done once
//! typed_answer := conn part cost:u32 frame:bytes splices
//! invalidation := to:u8 conn key:bytes by                                  as in Listener
//! part    := has:u8 gathering:u32 number:u32      by := has:u8 shard:u16 conn
//! conn    := index:u32 generation:u32             name, bytes := len:u32 | bytes
//! ```
//!
//! Little-endian. Commands go by their names, since two versions may number them differently. A
//! deadline goes as the time that is left, 0: none. All of it comes from a peer that is one of the
//! cluster's; still every length is held against what is there.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Answer, Element, Invalidation, Listener, Parcel, Part, Request, TypedAnswer, TypedRequest,
};
use crate::ack::Ack;
use crate::command::{DB_COUNT, Run, Spec, lookup_full};
use crate::env::ConnId;
use crate::id::{SessionId, ShardId, Slot, Timestamp};
use crate::limits::{LARGE_LEN_MIN, SLOT_COUNT};
use crate::partition::Seen;
use crate::protocol::binary::{FLAG_ONCE, HEADER_LEN, Header};
use crate::protocol::resp::{Args, ArgsBuf, Proto, Span};
use crate::shard::tracked::Client;
use crate::shard::transaction::{Step, Transaction, Watched};

/// Above these bits of a request's flags is what its answer waits for.
const ACK_SHIFT: u8 = 4;

fn number_of(ack: Ack) -> u8 {
    match ack {
        Ack::Quorum => 0,
        Ack::Leader => 1,
        Ack::Relaxed => 2,
    }
}

/// Why bytes are no parcel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They end too early, or something in them is out of range.
    #[error("a parcel is malformed at its {what}")]
    Malformed {
        /// Where.
        what: &'static str,
    },
    /// A command that this node does not have: the other has a newer version.
    #[error("a parcel has command '{name}', which this node does not know: use the same version")]
    Unknown {
        /// Its name.
        name: String,
    },
}

/// Appends a parcel; `now` is the process's time.
pub fn encode(parcel: &Parcel, now: Duration, out: &mut Vec<u8>) {
    let mut out = Out { out };
    out.list(&parcel.requests, |out, request| out.request(request, parcel));
    out.list(&parcel.answers, |out, answer| out.answer(answer, parcel));
    out.list(&parcel.typed, |out, request| out.typed(request, parcel, now));
    out.list(&parcel.typed_answers, |out, answer| {
        out.conn(answer.conn);
        out.part(answer.part);
        out.u32(answer.cost);
        out.bytes(parcel.slice(answer.frame));
        out.splices(parcel, answer.splices);
    });
    out.list(&parcel.invalidations, |out, change| out.invalidation(change, parcel));
}

/// Reads a parcel.
///
/// # Errors
/// As [`Error`].
pub fn decode(bytes: &[u8], now: Duration) -> Result<Parcel, Error> {
    let mut rest = Rest { bytes };
    let mut parcel = Parcel::default();
    for _ in 0..rest.u32("requests")? {
        rest.request(&mut parcel)?;
    }
    for _ in 0..rest.u32("answers")? {
        rest.answer(&mut parcel)?;
    }
    for _ in 0..rest.u32("typed requests")? {
        rest.typed(&mut parcel, now)?;
    }
    for _ in 0..rest.u32("typed answers")? {
        let (conn, part, cost) = (rest.conn()?, rest.part()?, rest.u32("cost")?);
        let frame = parcel.push_bytes(rest.bytes("frame")?);
        if frame.1 < HEADER_LEN as u32 {
            return Err(Error::Malformed { what: "frame" });
        }
        let splices = rest.splices(&mut parcel, frame.1)?;
        parcel.typed_answers.push(TypedAnswer { conn, part, cost, frame, splices });
    }
    for _ in 0..rest.u32("invalidations")? {
        rest.invalidation(&mut parcel)?;
    }
    match rest.bytes.is_empty() {
        true => Ok(parcel),
        false => Err(Error::Malformed { what: "end" }),
    }
}

struct Out<'a> {
    out: &'a mut Vec<u8>,
}

impl Out<'_> {
    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.out.extend_from_slice(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.u32(items.len() as u32);
        items.iter().for_each(|item| each(self, item));
    }

    fn conn(&mut self, conn: ConnId) {
        self.u32(conn.index);
        self.u32(conn.generation);
    }

    fn part(&mut self, part: Option<Part>) {
        self.u8(part.is_some().into());
        let Part { gathering, number } = part.unwrap_or(Part { gathering: 0, number: 0 });
        self.u32(gathering);
        self.u32(number);
    }

    fn args(&mut self, args: &Args<'_>) {
        self.u32(args.len() as u32);
        (0..args.len()).for_each(|at| self.bytes(args.get(at)));
    }

    fn request(&mut self, request: &Request, parcel: &Parcel) {
        self.conn(request.conn);
        self.u32(request.ticket);
        self.bytes(request.spec.name.as_bytes());
        self.u8(request.db);
        let Request { resp3, remembers, stale, transaction, .. } = *request;
        let flags = [resp3, remembers, transaction.is_some(), stale];
        let flags = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
        self.u8(flags | number_of(request.ack) << ACK_SHIFT);
        let (first, len) = request.parts;
        let parts = &parcel.parts[first as usize..][..len as usize];
        self.list(parts, |out, part| out.u32(*part));
        self.args(&parcel.args(request));
        if let Some(at) = request.transaction {
            self.transaction(&parcel.transactions[at as usize]);
        }
    }

    fn transaction(&mut self, transaction: &Transaction) {
        self.list(&transaction.watched, |out, watched| {
            out.out.extend_from_slice(&watched.slot.0.to_le_bytes());
            out.bytes(&watched.key);
            let (present, since, half) = match watched.seen {
                Seen::Present(at) => (1, at, 0),
                Seen::Absent { since, half } => (0, since, half),
            };
            out.u8(present);
            out.u64(since.0);
            out.u64(half);
        });
        self.list(&transaction.steps, |out, step| {
            out.bytes(step.spec.name.as_bytes());
            out.u8(step.db);
            out.u8((step.proto == Proto::Resp3).into());
            out.args(&step.args.args());
        });
    }

    fn answer(&mut self, answer: &Answer, parcel: &Parcel) {
        self.conn(answer.conn);
        self.u32(answer.ticket);
        self.u64(answer.count as u64);
        self.bytes(parcel.slice(answer.body));
        let (first, len) = answer.elements;
        let elements = &parcel.elements[first as usize..][..len as usize];
        self.list(elements, |out, element| {
            [element.part, element.at, element.len].into_iter().for_each(|field| out.u32(field));
        });
        self.splices(parcel, answer.splices);
    }

    fn splices(&mut self, parcel: &Parcel, (first, len): (u32, u32)) {
        let splices = &parcel.splices[first as usize..][..len as usize];
        self.list(splices, |out, (at, value)| {
            out.u64(*at as u64);
            out.bytes(value);
        });
    }

    fn typed(&mut self, request: &TypedRequest, parcel: &Parcel, now: Duration) {
        self.conn(request.conn);
        self.part(request.part);
        let mut header = [0; HEADER_LEN];
        request.header.encode(&mut header);
        self.bytes(&header);
        let left = match request.deadline.is_zero() {
            true => 0,
            // One that is over is not none.
            false => request.deadline.saturating_sub(now).as_nanos().max(1) as u64,
        };
        self.u64(left);
        if let Some(SessionId { id, born }) = &request.session {
            self.out.extend_from_slice(id);
            self.u64(born.get());
        }
        self.bytes(parcel.slice(request.body));
        self.u8(request.long.is_some().into());
        if let Some(at) = request.long {
            self.bytes(&parcel.shared[at as usize]);
        }
    }

    fn invalidation(&mut self, change: &Invalidation, parcel: &Parcel) {
        let none = ConnId { index: 0, generation: 0 };
        let (to, conn) = match change.to {
            Listener::Reader(conn) => (0, conn),
            Listener::Broadcast => (1, none),
            Listener::Everybody => (2, none),
            Listener::Instead(conn) => (3, conn),
            Listener::Nobody => (4, none),
            Listener::Sender(all) => (5 + u8::from(all), none),
        };
        self.u8(to);
        self.conn(conn);
        self.u8(change.key.is_some().into());
        self.bytes(change.key.map_or(&[], |key| parcel.slice(key)));
        self.u8(change.by.is_some().into());
        let by = change.by.unwrap_or(Client { shard: ShardId(0), conn: none });
        self.out.extend_from_slice(&by.shard.0.to_le_bytes());
        self.conn(by.conn);
    }
}

struct Rest<'a> {
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Error::Malformed { what })?;
        self.bytes = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        self.take(1, what).map(|bytes| bytes[0])
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_le_bytes(bytes.try_into().expect("two bytes")))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let len = self.u32(what)?;
        self.take(len as usize, what)
    }

    fn conn(&mut self) -> Result<ConnId, Error> {
        Ok(ConnId { index: self.u32("connection")?, generation: self.u32("connection")? })
    }

    fn part(&mut self) -> Result<Option<Part>, Error> {
        let has = self.u8("part")? != 0;
        let part = Part { gathering: self.u32("part")?, number: self.u32("part")? };
        Ok(has.then_some(part))
    }

    fn spec(&mut self) -> Result<&'static Spec, Error> {
        let name = self.bytes("command")?;
        let unknown = || Error::Unknown { name: String::from_utf8_lossy(name).into_owned() };
        lookup_full(name).ok_or_else(unknown)
    }

    fn db(&mut self) -> Result<u8, Error> {
        let db = self.u8("database")?;
        if db < DB_COUNT { Ok(db) } else { Err(Error::Malformed { what: "database" }) }
    }

    fn slot(&mut self) -> Result<Slot, Error> {
        let slot = self.u16("slot")?;
        if slot < SLOT_COUNT { Ok(Slot(slot)) } else { Err(Error::Malformed { what: "slot" }) }
    }

    fn request(&mut self, parcel: &mut Parcel) -> Result<(), Error> {
        let (conn, ticket, spec) = (self.conn()?, self.u32("ticket")?, self.spec()?);
        let (db, flags) = (self.db()?, self.u8("flags")?);
        let parts = (parcel.parts.len() as u32, self.u32("parts")?);
        for _ in 0..parts.1 {
            parcel.parts.push(self.u32("part")?);
        }
        let args = (parcel.spans.len() as u32, self.u32("arguments")?);
        for _ in 0..args.1 {
            let arg = self.bytes("argument")?;
            let span = match arg.len() < LARGE_LEN_MIN {
                true => {
                    let (at, len) = parcel.push_bytes(arg);
                    Span::new(at as usize, len as usize)
                }
                false => {
                    parcel.shared.push(Arc::new(arg.to_vec()));
                    Span::large(parcel.shared.len() - 1)
                }
            };
            parcel.spans.push(span);
        }
        let mut transaction = None;
        if flags & 4 != 0 {
            let taken = self.transaction()?;
            transaction = Some(parcel.transactions.len() as u32);
            parcel.transactions.push(Arc::new(taken));
        }
        let [resp3, remembers, stale] = [1, 2, 8].map(|flag| flags & flag != 0);
        let ack = Ack::ALL.into_iter().find(|ack| number_of(*ack) == flags >> ACK_SHIFT);
        let ack = ack.ok_or(Error::Malformed { what: "flags" })?;
        let request = Request {
            conn,
            ticket,
            parts,
            spec,
            db,
            resp3,
            remembers,
            stale,
            ack,
            args,
            transaction,
        };
        if !request.is_sound(parcel) {
            return Err(Error::Malformed { what: "number of arguments" });
        }
        parcel.requests.push(request);
        Ok(())
    }

    fn transaction(&mut self) -> Result<Transaction, Error> {
        let mut transaction = Transaction::default();
        for _ in 0..self.u32("watched keys")? {
            let slot = self.slot()?;
            let key = self.bytes("watched key")?.into();
            let present = self.u8("watched key")? != 0;
            let (since, half) = (Timestamp(self.u64("version")?), self.u64("half")?);
            let seen = match present {
                true => Seen::Present(since),
                false => Seen::Absent { since, half },
            };
            transaction.watched.push(Watched { slot, key, seen });
        }
        for _ in 0..self.u32("steps")? {
            let spec = self.spec()?;
            let (db, resp3) = (self.db()?, self.u8("protocol")? != 0);
            let mut args = ArgsBuf::default();
            for _ in 0..self.u32("arguments")? {
                args.push(self.bytes("argument")?);
            }
            if !spec.takes(&args.args()) {
                return Err(Error::Malformed { what: "number of arguments" });
            }
            let proto = if resp3 { Proto::Resp3 } else { Proto::Resp2 };
            transaction.steps.push(Step { spec, args, db, proto });
        }
        Ok(transaction)
    }

    fn answer(&mut self, parcel: &mut Parcel) -> Result<(), Error> {
        let (conn, ticket) = (self.conn()?, self.u32("ticket")?);
        let count = self.u64("count")? as i64;
        let body = parcel.push_bytes(self.bytes("body")?);
        let elements = (parcel.elements.len() as u32, self.u32("elements")?);
        for _ in 0..elements.1 {
            let what = "element";
            let (part, at, len) = (self.u32(what)?, self.u32(what)?, self.u32(what)?);
            if at.checked_add(len).is_none_or(|end| end > body.1) {
                return Err(Error::Malformed { what });
            }
            parcel.elements.push(Element { part, at, len });
        }
        let splices = self.splices(parcel, body.1)?;
        parcel.answers.push(Answer { conn, ticket, elements, count, body, splices });
        Ok(())
    }

    /// The large values in a body of so many bytes, in its order.
    fn splices(&mut self, parcel: &mut Parcel, body_len: u32) -> Result<(u32, u32), Error> {
        let splices = (parcel.splices.len() as u32, self.u32("large values")?);
        let mut from = 0;
        for _ in 0..splices.1 {
            let at = self.u64("large value")?;
            if at < from || at > u64::from(body_len) {
                return Err(Error::Malformed { what: "place of a large value" });
            }
            from = at;
            let value = self.bytes("large value")?.to_vec();
            parcel.splices.push((at as usize, Arc::new(value)));
        }
        Ok(splices)
    }

    fn typed(&mut self, parcel: &mut Parcel, now: Duration) -> Result<(), Error> {
        let (conn, part) = (self.conn()?, self.part()?);
        let header = self.bytes("header")?.try_into().ok().map(Header::decode);
        let Some(Ok(header)) = header else { return Err(Error::Malformed { what: "header" }) };
        let left = self.u64("deadline")?;
        let deadline = match left {
            0 => Duration::ZERO,
            left => now + Duration::from_nanos(left),
        };
        let session = match header.flags & FLAG_ONCE {
            0 => None,
            _ => Some(self.session()?),
        };
        let body = parcel.push_bytes(self.bytes("body")?);
        let mut long = None;
        if self.u8("long value")? != 0 {
            long = Some(parcel.shared.len() as u32);
            parcel.shared.push(Arc::new(self.bytes("long value")?.to_vec()));
        }
        parcel.typed.push(TypedRequest { conn, part, header, deadline, session, body, long });
        Ok(())
    }

    fn session(&mut self) -> Result<SessionId, Error> {
        let id = self.take(16, "session")?.try_into().expect("as many bytes");
        let born = NonZeroU64::new(self.u64("session")?);
        Ok(SessionId { id, born: born.ok_or(Error::Malformed { what: "session" })? })
    }

    fn invalidation(&mut self, parcel: &mut Parcel) -> Result<(), Error> {
        let (to, conn) = (self.u8("listener")?, self.conn()?);
        let to = match to {
            0 => Listener::Reader(conn),
            1 => Listener::Broadcast,
            2 => Listener::Everybody,
            3 => Listener::Instead(conn),
            4 => Listener::Nobody,
            5 | 6 => Listener::Sender(to == 6),
            _ => return Err(Error::Malformed { what: "listener" }),
        };
        let has_key = self.u8("key")? != 0;
        let key = self.bytes("key")?;
        let key = has_key.then(|| parcel.push_bytes(key));
        let has_by = self.u8("client")? != 0;
        let by = Client { shard: ShardId(self.u16("client")?), conn: self.conn()? };
        parcel.invalidations.push(Invalidation { to, key, by: has_by.then_some(by) });
        Ok(())
    }
}

impl Request {
    /// Whether the command takes so many arguments.
    fn is_sound(&self, parcel: &Parcel) -> bool {
        match self.transaction {
            // EXEC's are in it.
            Some(_) => matches!(self.spec.run, Run::Transaction(_)),
            None => self.spec.takes(&parcel.args(self)),
        }
    }
}

#[cfg(test)]
mod tests;
