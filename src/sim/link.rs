//! A simulated connection: two ends, and to each a lane of what is on its way there.
//!
//! An end is in the hands of a test ([`Client`](super::Client)), or a shard has it, or the kernel
//! of its node has it and nobody knows it yet or any more. Chunks of a lane keep their order, each
//! with its own latency. What happens to a link is in [`super::net`] and [`super::cuts`].

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::executor::Owner;
use crate::env::ConnId;
use crate::id::NodeId;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who connected.
    Opener,
    /// Who was connected to.
    Acceptor,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Opener, Self::Acceptor];

    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

/// What a lane carries.
pub(super) enum Item {
    /// To the opener: somebody accepted.
    Connected,
    /// To the opener: nobody listens.
    Refused,
    Chunk(Vec<u8>),
    /// The other end sends no more; [`End::end_queued`] there says how it left.
    End,
}

/// One direction of a link.
#[derive(Default)]
pub(super) struct Lane {
    pub queue: VecDeque<Item>,
    /// When the last of the queue arrives.
    pub last: u64,
    /// On their way, or there and not read.
    pub bytes: usize,
    /// Read, but a cut keeps the sender from knowing: part of `bytes`.
    pub unacked: usize,
    /// Arrivals that a cut holds up.
    pub stalled: u32,
}

/// Who has an end.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// A test.
    Test,
    /// Nobody yet.
    Waiting,
    Open(Owner, ConnId),
    Gone,
}

/// How far an end has gone in leaving.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaving {
    No,
    /// Sends no more.
    Half,
    /// Sends and reads no more.
    Closed,
}

/// A send of a shard's.
pub(super) struct Sending {
    pub buf: Vec<u8>,
    /// How much of it went.
    pub sent: usize,
    /// The shard is to be told when all of it has.
    pub tells: bool,
}

/// One end: what it sends, and what arrives at it.
pub(super) struct End {
    /// Where it is; `None`: a test's, or an address that is no node's.
    pub node: Option<NodeId>,
    pub addr: SocketAddr,
    pub place: Place,
    /// What a test wants sent and found no room yet.
    pub outbox: VecDeque<u8>,
    pub sending: Option<Sending>,
    pub leaving: Leaving,
    /// What the end on its way will tell the other side.
    pub end_queued: Leaving,
    pub lane: Lane,
    /// What arrived while it was paused.
    pub held: VecDeque<Item>,
    pub paused: bool,
    /// How many more chunks it gets although it is paused.
    pub grace: u64,
    /// A shard opened it and does not know yet whether that came to something.
    pub connecting: bool,
    /// What the shard knows of the other side's leaving.
    pub peer_left: Leaving,
    /// Its sends say so.
    pub broken: bool,
    pub inbox: Vec<u8>,
    /// Nothing more will arrive at a test's end.
    pub is_over: bool,
    /// The test dropped it: with the other end gone too, the link may go.
    pub dropped: bool,
}

impl End {
    fn new(node: Option<NodeId>, addr: SocketAddr, place: Place) -> Self {
        Self {
            node,
            addr,
            place,
            outbox: VecDeque::new(),
            sending: None,
            leaving: Leaving::No,
            end_queued: Leaving::No,
            lane: Lane::default(),
            held: VecDeque::new(),
            paused: false,
            grace: 0,
            connecting: false,
            peer_left: Leaving::No,
            broken: false,
            inbox: Vec::new(),
            is_over: false,
            dropped: false,
        }
    }

    /// Bytes that found no room yet.
    pub fn unsent(&self) -> usize {
        let rest = self.sending.as_ref().map_or(0, |sending| sending.buf.len() - sending.sent);
        self.outbox.len() + rest
    }

    /// Takes the next `len` of what is to be sent: a test's, or a shard's.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let Some(sending) = &mut self.sending else { return self.outbox.drain(..len).collect() };
        sending.sent += len;
        sending.buf[sending.sent - len..sending.sent].to_vec()
    }

    /// Whether somebody is there to take what arrives.
    pub fn is_there(&self) -> bool {
        matches!(self.place, Place::Test | Place::Open(..))
    }
}

/// A connection, both ends of it.
pub(super) struct Link {
    ends: [End; 2],
}

impl Link {
    /// From `opener` at `from`, which has it, to whoever will accept at `to`.
    pub fn new(opener: (Option<NodeId>, Place), from: SocketAddr, to: SocketAddr) -> Self {
        let (node, place) = opener;
        let acceptor = End::new(node_at(to, node), to, Place::Waiting);
        Self { ends: [End::new(node, from, place), acceptor] }
    }

    pub fn end(&self, side: Side) -> &End {
        &self.ends[side as usize]
    }

    pub fn end_mut(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// The nodes that the lane to `to` leads from and to.
    pub fn road(&self, to: Side) -> (Option<NodeId>, Option<NodeId>) {
        (self.end(to.other()).node, self.end(to).node)
    }

    /// What `from` sent and has not arrived is lost.
    pub fn lose_sent(&mut self, from: Side) {
        self.end_mut(from).outbox.clear();
        let to = self.end_mut(from.other());
        to.lane.queue.clear();
        to.held.clear();
    }

    /// The link goes on without this end.
    pub fn lose(&mut self, side: Side) {
        self.lose_sent(side.other());
        let end = self.end_mut(side);
        end.place = Place::Gone;
        end.sending = None;
        end.end_queued = Leaving::Closed;
    }
}

/// The address of the clients that tests are.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The address of a node.
///
/// # Panics
/// If it is not one of the first 65,535.
pub(super) fn addr_of(node: NodeId) -> IpAddr {
    let id = u16::try_from(node.0).expect("a simulation has fewer than 65,536 nodes");
    let [high, low] = id.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low).into()
}

/// The node at `addr`, as seen from `from`; `None` if there can not be one.
fn node_at(addr: SocketAddr, from: Option<NodeId>) -> Option<NodeId> {
    match addr.ip() {
        ip if ip.is_loopback() => from,
        IpAddr::V4(ip) => match ip.octets() {
            [10, 1, high, low] => Some(NodeId(u16::from_be_bytes([high, low]).into())),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}
