//! Mail between the shards of a node: one bounded single-producer ring per ordered pair.
//!
//! What a turn has for another shard is gathered in one [`Parcel`] and handed over at the turn's
//! end: one ring slot, two or three allocations and at most one wake-up, however many requests.
//! A full ring keeps the parcel here, where it goes on growing; what may grow is bounded by the
//! connections, which stop reading while their replies are due. Order per pair is kept, which with
//! one owner per key keeps the order of one connection's requests on one key.
//!
//! What goes to a shard of another node is gathered in a parcel too, and taken from here by whoever
//! has the connection ([`Mailbox::take_far`]).
//!
//! Not here: what a request means; who waits for a reply ([`crate::server`]).

pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Client, Transaction};
use crate::ack::Ack;
use crate::cluster::NOWHERE;
use crate::command::Spec;
use crate::env::{ConnId, Wake};
use crate::id::{SessionId, ShardId};
use crate::protocol::binary::Header;
use crate::protocol::resp::{Args, Span};

/// Parcels that may lie in a ring.
const RING_LEN: usize = 256;

/// One element of an answer that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Which part of the reply it is.
    pub part: u32,
    /// Where it is in the answer's body.
    pub at: u32,
    /// Bytes of it.
    pub len: u32,
}

/// A command for keys that the other shard owns.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who gets the reply.
    pub conn: ConnId,
    /// Which of that connection's open requests it is for.
    pub ticket: u32,
    /// `parcel.parts[first..first + len]`: which parts of the reply its keys are, if it is split.
    pub parts: (u32, u32),
    /// The command.
    pub spec: &'static Spec,
    /// Which database.
    pub db: u8,
    /// The client speaks RESP3.
    pub resp3: bool,
    /// It is to be told when keys change that the command reads.
    pub remembers: bool,
    /// A replica that follows may answer it, if it is not too old.
    pub stale: bool,
    /// What its answer waits for.
    pub ack: Ack,
    /// `parcel.spans[first..first + len]`: the command's arguments, its name included.
    pub args: (u32, u32),
    /// `parcel.transactions[at]`, if it is EXEC.
    pub transaction: Option<u32>,
}

/// The reply to a [`Request`], or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// As asked.
    pub conn: ConnId,
    /// As asked.
    pub ticket: u32,
    /// `parcel.elements[first..first + len]`: the parts of the body, if it is split.
    pub elements: (u32, u32),
    /// A count, for commands whose parts are added up.
    pub count: i64,
    /// Encoded reply.
    pub body: (u32, u32),
    /// `parcel.splices[first..first + len]`: large values within the body.
    pub splices: (u32, u32),
}

/// A request of the binary protocol for keys that the other shard owns.
#[derive(Clone, Copy, Debug)]
pub struct TypedRequest {
    /// Who gets the reply.
    pub conn: ConnId,
    /// Which gathering it is a part of, if it is.
    pub part: Option<Part>,
    /// As the client sent it.
    pub header: Header,
    /// Of the process's time; zero: none.
    pub deadline: Duration,
    /// In which session it is to be done once, if it is.
    pub session: Option<SessionId>,
    /// Its body.
    pub body: (u32, u32),
    /// Of a long set, whose value is not in the body: which of `parcel.shared`.
    pub long: Option<u32>,
}

/// A part of a reply that several shards make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which of the asker's gatherings.
    pub gathering: u32,
    /// Which part of it.
    pub number: u32,
}

/// The reply to a [`TypedRequest`]: a whole frame.
#[derive(Clone, Copy, Debug)]
pub struct TypedAnswer {
    /// As asked.
    pub conn: ConnId,
    /// As asked.
    pub part: Option<Part>,
    /// Bytes of the request's body.
    pub cost: u32,
    /// The frame.
    pub frame: (u32, u32),
    /// `parcel.splices[first..first + len]`: large values within the frame.
    pub splices: (u32, u32),
}

/// Who is told that a key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// This connection, which read it.
    Reader(ConnId),
    /// Connections that are told of all keys with a prefix.
    Broadcast,
    /// All connections that track.
    Everybody,
    /// This connection, which another named.
    Instead(ConnId),
    /// Whose command it was is gone, and is to be forgotten.
    Nobody,
    /// The sender, a shard of another node: from now on of all keys; no more, if not.
    Sender(bool),
}

/// A key has changed.
#[derive(Clone, Copy, Debug)]
pub struct Invalidation {
    /// Who is told.
    pub to: Listener,
    /// Which key; none: any may have.
    pub key: Option<(u32, u32)>,
    /// Whose command it was, if anybody's.
    pub by: Option<Client>,
}

/// Everything one shard has for another at the end of a turn.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Commands for keys of the receiver.
    pub requests: Vec<Request>,
    /// Replies to its own requests.
    pub answers: Vec<Answer>,
    /// Requests of the binary protocol.
    pub typed: Vec<TypedRequest>,
    /// Replies to its own ones.
    pub typed_answers: Vec<TypedAnswer>,
    /// Changes of keys.
    pub invalidations: Vec<Invalidation>,
    /// What spans and bodies name.
    pub bytes: Vec<u8>,
    /// Arguments of the requests.
    pub spans: Vec<Span>,
    /// Parts of the requests.
    pub parts: Vec<u32>,
    /// Elements of the answers.
    pub elements: Vec<Element>,
    /// Transactions to run.
    pub transactions: Vec<Arc<Transaction>>,
    /// Large arguments.
    pub shared: Vec<Arc<Vec<u8>>>,
    /// Large values of the answers: offset in the body, value.
    pub splices: Vec<(usize, Arc<Vec<u8>>)>,
}

impl Parcel {
    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        let resp = self.requests.is_empty() && self.answers.is_empty();
        let typed = self.typed.is_empty() && self.typed_answers.is_empty();
        resp && typed && self.invalidations.is_empty()
    }

    /// Copies an argument in; shares it if it is large.
    pub fn push_arg(&mut self, args: &Args<'_>, index: usize) {
        let span = match args.shared(index) {
            Some(value) => {
                self.shared.push(Arc::clone(value));
                Span::large(self.shared.len() - 1)
            }
            None => {
                let (at, bytes) = (self.bytes.len(), args.get(index));
                self.bytes.extend_from_slice(bytes);
                Span::new(at, bytes.len())
            }
        };
        self.spans.push(span);
    }

    /// Makes errors of all answers.
    fn void_answers(&mut self, text: &str) {
        let body = self.push_bytes(format!("-{text}\r\n").as_bytes());
        for answer in &mut self.answers {
            (answer.body, answer.splices) = (body, (0, 0));
            let (first, len) = answer.elements;
            for element in &mut self.elements[first as usize..][..len as usize] {
                (element.at, element.len) = (0, body.1);
            }
        }
        // Whoever asked has a deadline, or the connection's end.
        self.typed_answers.clear();
    }

    /// Copies a request of another parcel in.
    pub fn copy_request(&mut self, request: &Request, from: &Parcel) {
        let args = from.args(request);
        let (first, part) = (self.spans.len() as u32, self.parts.len() as u32);
        (0..args.len()).for_each(|arg| self.push_arg(&args, arg));
        let (at, len) = request.parts;
        self.parts.extend_from_slice(&from.parts[at as usize..][..len as usize]);
        let transaction = request.transaction.map(|at| {
            self.transactions.push(Arc::clone(&from.transactions[at as usize]));
            self.transactions.len() as u32 - 1
        });
        let args = (first, args.len() as u32);
        self.requests.push(Request { parts: (part, len), args, transaction, ..*request });
    }

    /// Copies a request of the binary protocol of another parcel in.
    pub fn copy_typed(&mut self, request: &TypedRequest, from: &Parcel) {
        let body = self.push_bytes(from.slice(request.body));
        let long = request.long.map(|at| {
            self.shared.push(Arc::clone(&from.shared[at as usize]));
            self.shared.len() as u32 - 1
        });
        self.typed.push(TypedRequest { body, long, ..*request });
    }

    /// The arguments of a request.
    pub fn args(&self, request: &Request) -> Args<'_> {
        let (first, len) = request.args;
        Args::new(&self.bytes, &self.spans[first as usize..][..len as usize], &self.shared)
    }

    /// Adds an answer with its encoded body, and the elements and the large values in it.
    pub fn push_answer(
        &mut self,
        mut answer: Answer,
        body: &[u8],
        elements: &[Element],
        splices: &mut Vec<(usize, Arc<Vec<u8>>)>,
    ) {
        answer.elements = (self.elements.len() as u32, elements.len() as u32);
        self.elements.extend_from_slice(elements);
        answer.body = (self.bytes.len() as u32, body.len() as u32);
        answer.splices = (self.splices.len() as u32, splices.len() as u32);
        self.bytes.extend_from_slice(body);
        self.splices.append(splices);
        self.answers.push(answer);
    }

    /// Copies bytes in; returns where they are.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> (u32, u32) {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        (at, bytes.len() as u32)
    }

    /// Adds the answer whose frame is what was appended to `bytes` since `at`, and the large value
    /// that comes after it.
    pub fn answer_typed(
        &mut self,
        (conn, part, cost): (ConnId, Option<Part>, u32),
        at: usize,
        large: Option<Arc<Vec<u8>>>,
    ) {
        let frame = (at as u32, (self.bytes.len() - at) as u32);
        let splices = (self.splices.len() as u32, large.iter().len() as u32);
        self.splices.extend(large.map(|large| (frame.1 as usize, large)));
        self.typed_answers.push(TypedAnswer { conn, part, cost, frame, splices });
    }

    /// The bytes of a run.
    pub fn slice(&self, (at, len): (u32, u32)) -> &[u8] {
        &self.bytes[at as usize..(at + len) as usize]
    }
}

struct Peer<W> {
    to: Producer<Parcel>,
    from: Consumer<Parcel>,
    waker: Option<W>,
    open: Parcel,
}

/// One shard's ends of all its rings.
pub struct Mailbox<W> {
    peers: Vec<Option<Peer<W>>>,
    /// What goes to shards of other nodes, by their numbers; the numbers behind this node's own.
    far: Vec<Parcel>,
    /// What nobody can be asked for now.
    nowhere: Parcel,
}

/// The mailboxes of `count` shards, connected. Wakers are told later, when the runtimes exist.
pub fn mesh<W: Wake>(count: u16) -> Vec<Mailbox<W>> {
    let count = count as usize;
    let mut boxes: Vec<Mailbox<W>> =
        (0..count).map(|_| Mailbox::alone((0..count).map(|_| None).collect())).collect();
    for a in 0..count {
        for b in a + 1..count {
            let (a_to_b, b_from_a) = RingBuffer::new(RING_LEN);
            let (b_to_a, a_from_b) = RingBuffer::new(RING_LEN);
            let peer = |to, from| Some(Peer { to, from, waker: None, open: Parcel::default() });
            boxes[a].peers[b] = peer(a_to_b, a_from_b);
            boxes[b].peers[a] = peer(b_to_a, b_from_a);
        }
    }
    boxes
}

impl<W: Wake> Mailbox<W> {
    fn alone(peers: Vec<Option<Peer<W>>>) -> Self {
        Self { peers, far: Vec::new(), nowhere: Parcel::default() }
    }

    /// How many numbers of shards of other nodes have had a parcel.
    pub fn far_count(&self) -> usize {
        self.far.len()
    }

    /// What goes to a shard of another node, or nowhere; it is taken.
    pub fn take_far(&mut self, shard: ShardId) -> Option<Parcel> {
        let parcel = self.to(shard);
        (!parcel.is_empty()).then(|| std::mem::take(parcel))
    }

    /// How the other shards are woken, in order; one's own place is ignored.
    pub fn connect(&mut self, wakers: &[W]) {
        for (peer, waker) in self.peers.iter_mut().zip(wakers) {
            if let Some(peer) = peer {
                peer.waker = Some(waker.clone());
            }
        }
    }

    /// The parcel that goes to `shard` at the end of this turn.
    pub fn to(&mut self, shard: ShardId) -> &mut Parcel {
        if shard == NOWHERE {
            return &mut self.nowhere;
        }
        let count = self.peers.len();
        match self.peers.get_mut(shard.0 as usize) {
            Some(peer) => &mut peer.as_mut().expect("no shard writes to itself").open,
            None => {
                let at = shard.0 as usize - count;
                if at >= self.far.len() {
                    self.far.resize_with(at + 1, Parcel::default);
                }
                &mut self.far[at]
            }
        }
    }

    /// Makes errors of all answers that were not handed over yet.
    pub fn void_answers(&mut self, text: &str) {
        let near = self.peers.iter_mut().flatten().map(|peer| &mut peer.open);
        near.chain(&mut self.far).for_each(|parcel| parcel.void_answers(text));
    }

    /// Hands all open parcels over and wakes who gets one. True: some ring was full, try again.
    pub fn deliver(&mut self) -> bool {
        let mut left = false;
        for peer in self.peers.iter_mut().flatten() {
            if peer.open.is_empty() {
                continue;
            }
            match peer.to.push(std::mem::take(&mut peer.open)) {
                Ok(()) => peer.waker.as_ref().expect("connected before the first turn").wake(),
                Err(rtrb::PushError::Full(parcel)) => {
                    peer.open = parcel;
                    left = true;
                }
            }
        }
        left
    }

    /// Wakes all other shards: something that they look at has changed.
    pub fn wake_all(&self) {
        let wakers = self.peers.iter().flatten().filter_map(|peer| peer.waker.as_ref());
        wakers.for_each(Wake::wake);
    }

    /// The next parcel from anyone, and who sent it.
    pub fn receive(&mut self) -> Option<(ShardId, Parcel)> {
        self.peers.iter_mut().enumerate().find_map(|(shard, peer)| {
            let parcel = peer.as_mut()?.from.pop().ok()?;
            Some((ShardId(shard as u16), parcel))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Count(Arc<std::sync::atomic::AtomicU64>);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn answer(ticket: u32) -> Answer {
        let conn = ConnId { index: 0, generation: 0 };
        Answer { conn, ticket, elements: (0, 0), count: 0, body: (0, 0), splices: (0, 0) }
    }

    #[test]
    fn a_turns_mail_is_one_parcel_and_one_wake_and_a_full_ring_loses_nothing() {
        let wakes = Count(Arc::default());
        let mut boxes = mesh::<Count>(2);
        boxes.iter_mut().for_each(|mailbox| mailbox.connect(&[wakes.clone(), wakes.clone()]));
        let total = 2 * (RING_LEN as u32 + 10);

        for ticket in 0..total {
            boxes[0].to(ShardId(1)).answers.push(answer(ticket));
            if ticket % 2 == 1 {
                boxes[0].deliver();
            }
        }
        let mut got = Vec::new();
        loop {
            while let Some((from, parcel)) = boxes[1].receive() {
                assert_eq!(from, ShardId(0));
                got.extend(parcel.answers.iter().map(|answer| answer.ticket));
            }
            if got.len() == total as usize {
                break;
            }
            boxes[0].deliver();
        }

        assert!(got.iter().copied().eq(0..total));
        assert_eq!(wakes.0.load(std::sync::atomic::Ordering::Relaxed), RING_LEN as u64 + 1);
    }
}
