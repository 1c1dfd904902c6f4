//! Requests that nobody can answer at this moment: a partition has no leader, or the one that was
//! asked leads no more. They wait a while, and go where they belong as soon as that is known.
//!
//! What waits was not begun, so that whoever gives up may say that nothing was done.

use std::time::Duration;

use super::Server;
use super::followers::TOO_OLD;
use super::peers::Peers;
use super::remote::{Address, Answered, LEADS_NO_MORE, parts_of, scope_of};
use crate::cluster::NOWHERE;
use crate::command::Run;
use crate::env::Env;
use crate::id::{PartitionId, ShardId, Slot};
use crate::lsm::key;
use crate::protocol::binary::{Code, Failure, Op, Request as Typed};
use crate::shard::mailbox::{Parcel, Request, TypedRequest};

/// How long a request waits for a leader.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a request is answered that waited in vain.
const NO_LEADER: &str = "CLUSTERDOWN no majority of the nodes that have this partition can be \
                         reached, nothing was done: try again when they are back";

/// One that waits, in a parcel of its own.
struct Waiting {
    until: Duration,
    from: ShardId,
    parcel: Parcel,
}

/// See the module's header.
#[derive(Default)]
pub struct Limbo {
    waiting: Vec<Waiting>,
}

impl Limbo {
    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Where a request belongs.
enum Whither {
    Here,
    To(ShardId),
    Nowhere,
    /// To several.
    Apart,
}

impl<E: Env> Server<E> {
    /// Whether all keys, or partitions, of a request are of partitions that this shard leads.
    pub(super) fn is_owner_of(&self, request: &Request, parcel: &Parcel) -> bool {
        self.shard.members().is_none()
            || self.slots_of(request, parcel).iter().all(|slot| self.shard.locate(*slot).is_ok())
    }

    fn slots_of(&self, request: &Request, parcel: &Parcel) -> Vec<Slot> {
        if let Run::Keyspace(_) = request.spec.run {
            // A partition goes by its first slot.
            let (scope, map) = (scope_of(request, parcel), self.shard.map());
            let known = scope.named().iter().filter(|id| id.0 < map.partition_count());
            return known.map(|id| Slot(map.slots_of(*id).start)).collect();
        }
        if !matches!(request.spec.run, Run::Keyed(_) | Run::Together(_) | Run::Transaction(_)) {
            return Vec::new();
        }
        if let Some(at) = request.transaction {
            return parcel.transactions[at as usize].slots();
        }
        let args = parcel.args(request);
        request.spec.key_indices(&args).map(|at| key::slot_of(args.get(at))).collect()
    }

    /// Requests that could not be sent wait; messages to subscribers do not: they were for that
    /// node.
    pub(super) fn postpone_all(&mut self, parcel: &Parcel) {
        let own = self.shard.id();
        let requests = parcel.requests.iter();
        let requests = requests.filter(|request| !matches!(request.spec.run, Run::PubSub(_)));
        requests.for_each(|request| self.postpone_request(own, request, parcel));
        parcel.typed.iter().for_each(|request| self.postpone_typed(own, request, parcel));
    }

    fn postpone_typed(&mut self, from: ShardId, request: &TypedRequest, of: &Parcel) {
        let mut parcel = Parcel::default();
        parcel.copy_typed(request, of);
        self.limbo.waiting.push(Waiting { until: self.env.now() + WAIT_MAX, from, parcel });
    }

    /// A request that came to the wrong place waits.
    pub(super) fn postpone_request(&mut self, from: ShardId, request: &Request, of: &Parcel) {
        let mut parcel = Parcel::default();
        parcel.copy_request(request, of);
        self.limbo.waiting.push(Waiting { until: self.env.now() + WAIT_MAX, from, parcel });
    }

    /// Whether what is sent to a shard leaves this one.
    fn reaches(&self, shard: ShardId) -> bool {
        let is_far = |peers: &Peers| {
            shard >= ShardId(self.shard.map().shard_count()) && !peers.reaches(shard)
        };
        !self.peers.as_deref().is_some_and(is_far)
    }

    /// Takes what this turn found nobody for, and sends on what waited.
    pub(super) fn look_into_limbo(&mut self) {
        self.take_in();
        if self.limbo.is_empty() {
            return;
        }
        let now = self.env.now();
        for waiting in std::mem::take(&mut self.limbo.waiting) {
            self.shard.set_stale_max(self.stale_max_of_parcel(&waiting.parcel));
            let whither = self.whither(&waiting.parcel);
            match whither {
                Whither::To(shard) if now < waiting.until && !self.reaches(shard) => {
                    self.limbo.waiting.push(waiting);
                }
                Whither::To(shard) if !self.reaches(shard) => {
                    self.refuse_waiting(&waiting, NO_LEADER);
                }
                Whither::Nowhere if now < waiting.until => self.limbo.waiting.push(waiting),
                Whither::Nowhere => self.refuse_waiting(&waiting, NO_LEADER),
                Whither::Here => self.serve_waiting(&waiting),
                Whither::To(shard) if waiting.from == self.shard.id() => {
                    let to = self.mailbox.to(shard);
                    let of = &waiting.parcel;
                    of.requests.iter().for_each(|request| to.copy_request(request, of));
                    of.typed.iter().for_each(|request| to.copy_typed(request, of));
                }
                Whither::To(_) | Whither::Apart => {
                    self.refuse_waiting(&waiting, &format!("TRYAGAIN {LEADS_NO_MORE}"));
                }
            }
        }
        self.shard.set_stale_max(None);
    }

    fn take_in(&mut self) {
        if let Some(new) = self.mailbox.take_far(NOWHERE) {
            self.postpone_all(&new);
        }
    }

    fn whither(&self, parcel: &Parcel) -> Whither {
        let slots = match (parcel.requests.first(), parcel.typed.first()) {
            (Some(request), _) => self.slots_of(request, parcel),
            (_, Some(request)) => self.typed_slots(request, parcel),
            _ => Vec::new(),
        };
        let mut owners = slots.iter().map(|slot| self.shard.locate(*slot).err());
        let Some(first) = owners.next() else { return Whither::Here };
        match (first, owners.all(|owner| owner == first)) {
            (Some(NOWHERE), true) => Whither::Nowhere,
            (None, true) => Whither::Here,
            (Some(shard), true) => Whither::To(shard),
            // Its keys went together when it was sent, and are led by several now.
            (_, false) if slots.iter().any(|slot| self.shard.locate(*slot) == Err(NOWHERE)) => {
                Whither::Nowhere
            }
            (_, false) => Whither::Apart,
        }
    }

    fn serve_waiting(&mut self, waiting: &Waiting) {
        let Waiting { from, parcel, .. } = waiting;
        parcel.requests.iter().for_each(|request| self.serve(*from, request, parcel));
        self.receive_typed(*from, parcel);
    }

    fn refuse_waiting(&mut self, waiting: &Waiting, text: &str) {
        let Waiting { from, parcel, .. } = waiting;
        for request in &parcel.requests {
            let parts = parts_of(request, parcel).iter().copied();
            let to = Address::of_request(request);
            let text = if request.stale && text == NO_LEADER { TOO_OLD } else { text };
            self.answer(*from, to, Answered::error(text, parts));
        }
        for request in &parcel.typed {
            let asker = super::binary::Asker::of(*from, request);
            let failure = match text {
                NO_LEADER if super::binary::may_be_stale(&request.header) => {
                    Failure::new(Code::TooStale, TOO_OLD)
                }
                text => Failure::new(Code::NoLeader, text),
            };
            self.fail(&asker, failure);
        }
    }

    fn typed_slots(&self, request: &TypedRequest, parcel: &Parcel) -> Vec<Slot> {
        let body = parcel.slice(request.body);
        if let Some(at) = request.long {
            let op = Op::decode_long(body, &parcel.shared[at as usize]);
            return op.map_or(Vec::new(), |op| vec![key::slot_of(op.key)]);
        }
        match Typed::decode(request.header.opcode, body) {
            Ok(Typed::Get { key, .. }) => vec![key::slot_of(key)],
            Ok(Typed::Write(op)) => vec![key::slot_of(op.key)],
            Ok(Typed::Batch(ops)) => ops.iter().map(|op| key::slot_of(op.key)).collect(),
            Ok(Typed::Cluster(_)) => vec![Slot(0)],
            Ok(Typed::MultiGet(keys)) => keys.iter().map(key::slot_of).collect(),
            Ok(Typed::Scan(scan)) => {
                let at = Self::cursor_of(&scan).map_or(0, |cursor| cursor.partition);
                let map = self.shard.map();
                vec![Slot(map.slots_of(PartitionId(at.min(map.partition_count() - 1))).start)]
            }
            _ => Vec::new(),
        }
    }
}
