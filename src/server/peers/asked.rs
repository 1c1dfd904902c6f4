//! Requests that were sent over a link and are not answered: who has to be told when it breaks.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::Access;
use crate::env::{ConnId, Env};
use crate::protocol::binary::{Code, Failure, Header};
use crate::server::Server;
use crate::server::binary::Asker;
use crate::server::remote::{Address, Answered, NO_TICKET, parts_of};
use crate::shard::mailbox::{Answer, Parcel, Part, TypedRequest};

/// What a request ends as that was asked over a link that broke.
const UNKNOWN: &str = "UNKNOWN the node that leads the key's partition went away while it was \
                       asked: whether a write is kept is unknown";
/// As above, of one that changes nothing.
const NOT_READ: &str = "TRYAGAIN the node that leads the key's partition went away while it was \
                        asked: send the command again";

/// The connection that asked, and the place of the request among its own.
type Name = (u32, u32, u64);

/// What one command asks over the link: perhaps several requests, each of which may be answered in
/// pieces and in any order.
struct Plain {
    to: Address,
    /// Parts of the reply that are to come.
    parts: BTreeSet<u32>,
    /// Requests that have no parts and are not answered.
    whole: u32,
    /// It may have changed something.
    writes: bool,
}

impl Plain {
    fn new(to: Address) -> Self {
        Self { to, parts: BTreeSet::new(), whole: 0, writes: false }
    }
}

/// See the module's header.
#[derive(Default)]
pub(super) struct Asked {
    plain: BTreeMap<Name, Plain>,
    typed: BTreeMap<(Name, Option<u32>), TypedRequest>,
}

fn name(conn: ConnId, number: u64) -> Name {
    (conn.index, conn.generation, number)
}

fn number_of(part: Option<Part>) -> Option<u32> {
    part.map(|part| part.number)
}

impl Asked {
    /// The requests of a parcel were sent.
    pub fn note(&mut self, parcel: &Parcel) {
        for request in parcel.requests.iter().filter(|request| request.ticket != NO_TICKET) {
            let (to, parts) = (Address::of_request(request), parts_of(request, parcel));
            let plain = self.plain.entry(name(request.conn, request.ticket.into()));
            let plain = plain.or_insert(Plain::new(to));
            plain.parts.extend(parts);
            plain.whole += u32::from(parts.is_empty());
            plain.writes |= request.spec.access != Access::Read;
        }
        for request in &parcel.typed {
            let name = name(request.conn, request.header.request_id);
            self.typed.insert((name, number_of(request.part)), *request);
        }
    }

    /// What these answer is over. Those that answer nothing are taken out: whoever asked has been
    /// told that no answer would come.
    pub fn note_answers(&mut self, parcel: &mut Parcel) {
        let mut answers = std::mem::take(&mut parcel.answers);
        answers.retain(|answer| self.is_due(answer, parcel));
        parcel.answers = answers;
        let mut answers = std::mem::take(&mut parcel.typed_answers);
        answers.retain(|answer| {
            let header = parcel.slice(answer.frame).first_chunk().map(Header::decode);
            header.and_then(Result::ok).is_some_and(|header| {
                let name = name(answer.conn, header.request_id);
                self.typed.remove(&(name, number_of(answer.part))).is_some()
            })
        });
        parcel.typed_answers = answers;
    }

    /// Whether it answers something, which it ends.
    fn is_due(&mut self, answer: &Answer, parcel: &Parcel) -> bool {
        let name = name(answer.conn, answer.ticket.into());
        let Some(plain) = self.plain.get_mut(&name) else { return false };
        let (first, len) = answer.elements;
        let elements = &parcel.elements[first as usize..][..len as usize];
        let is_due = match plain.whole.checked_sub(1) {
            Some(left) => {
                plain.whole = left;
                true
            }
            None => {
                !elements.is_empty()
                    && elements.iter().all(|element| plain.parts.remove(&element.part))
            }
        };
        if plain.whole == 0 && plain.parts.is_empty() {
            self.plain.remove(&name);
        }
        is_due
    }

    /// Tells who asked that no answer will come.
    pub fn end<E: Env>(self, server: &mut Server<E>) {
        let own = server.shard.id();
        for Plain { to, parts, whole, writes } in self.plain.into_values() {
            let text = if writes { UNKNOWN } else { NOT_READ };
            for _ in 0..whole {
                server.answer(own, to, Answered::error(text, std::iter::empty()));
            }
            if !parts.is_empty() {
                server.answer(own, to, Answered::error(text, parts.into_iter()));
            }
        }
        for request in self.typed.into_values() {
            let failure = Failure::new(Code::LeaderChanged, UNKNOWN);
            server.fail(&Asker::of(own, &request), failure);
        }
    }
}
