//! Requests whose keys are not in memory: they wait until what the tables have of them is there.
//! And writes, when memory is short: they wait until there is room.
//!
//! What a connection sends behind such a one waits too, so that its requests are evaluated in the
//! order in which they were sent; but all that wait have their keys fetched at the same time.

use std::collections::{HashSet, VecDeque};

use super::{Asker, BATCH_COUNT_MAX, MULTI_GET_COUNT_MAX};
use crate::env::Env;
use crate::protocol::binary::{Code, Failure, Request, Scan};
use crate::server::remote::LEADS_NO_MORE;
use crate::server::stride::{Stride, Strode};
use crate::server::tally::{HASHER, Tally, Whose};
use crate::server::{Server, round};
use crate::shard::{Target, Wait};

struct Parked {
    asker: Asker,
    body: Vec<u8>,
    wait: Wait,
    walk: Option<Walk>,
}

/// A page of a scan that takes the disk.
enum Walk {
    Striding(Box<Stride>),
    /// The keys, whose values are being fetched, and the next cursor.
    Found(Vec<Vec<u8>>, u64),
}

/// See the module's header. Lives on one core.
#[derive(Default)]
pub(super) struct ParkedQueue {
    requests: VecDeque<Parked>,
    tally: Tally,
}

impl ParkedQueue {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn push(&mut self, parked: Parked) {
        self.tally.add(whose(&parked.asker));
        self.requests.push_back(parked);
    }
}

fn whose(asker: &Asker) -> Whose {
    (asker.shard, asker.conn)
}

impl<E: Env> Server<E> {
    /// Whether a request has to wait for its keys, or for one before it; then it is kept. `ahead`:
    /// its key, if it was looked up.
    pub(super) fn parks_typed(
        &mut self,
        asker: &Asker,
        request: &Request<'_>,
        body: &[u8],
        ahead: Option<Target<'_>>,
    ) -> bool {
        let strides = self.shard.members().is_some() && matches!(request, Request::Scan(_));
        if !self.shard.may_wait() && !strides && self.binary.parked.is_empty() {
            return false;
        }
        let wait = Wait::default();
        let is_known = match ahead {
            Some(target) => self.shard.seek(target, &wait),
            None => self.seek_typed(request, &wait),
        } & self.seek_room_typed(request, body.len(), &wait);
        let walk = match request {
            Request::Scan(scan) => self.begin_walk(scan),
            _ => None,
        };
        let is_behind = self.binary.parked.tally.has(whose(asker));
        if is_known && walk.is_none() && !is_behind {
            return false;
        }
        let body = body.to_vec();
        self.binary.parked.push(Parked { asker: *asker, body, wait, walk });
        true
    }

    /// Has the keys of a request fetched that are here. True: all are known.
    fn seek_typed(&mut self, request: &Request<'_>, wait: &Wait) -> bool {
        match request {
            Request::Get { db, key } => self.seek_name(*db, key, wait),
            Request::Write(op) => self.seek_name(op.db, op.key, wait),
            Request::Batch(ops) if ops.len() <= BATCH_COUNT_MAX => {
                self.seek_names(ops.iter().map(|op| (op.db, op.key)), wait)
            }
            Request::MultiGet(keys) if keys.len() <= MULTI_GET_COUNT_MAX => {
                self.seek_names(keys.iter().map(|name| (keys.db, name)), wait)
            }
            _ => true,
        }
    }

    /// Whether a request has the room that it needs, or needs none here.
    fn seek_room_typed(&mut self, request: &Request<'_>, len: usize, wait: &Wait) -> bool {
        if !self.shard.may_wait() {
            return true;
        }
        let op = match request {
            Request::Write(op) => Some(*op),
            Request::Batch(ops) => {
                ops.iter().find(|op| op.value.is_some()).or_else(|| ops.iter().next())
            }
            _ => None,
        };
        let Some(op) = op.filter(|op| self.shard_of_key(op.key) == self.shard.id()) else {
            return true;
        };
        let spec = if op.value.is_some() { self.binary.set } else { self.binary.delete };
        self.shard.seek_room(spec, len, wait)
    }

    /// Has a key fetched, if it is of this shard and not in memory. True: it need not be.
    pub(super) fn seek_name(&mut self, db: u8, name: &[u8], wait: &Wait) -> bool {
        let mut scratch = Vec::new();
        match round::find(&self.shard, db, name, &mut scratch) {
            Ok(target) => self.shard.seek(target, wait),
            Err(_) => true,
        }
    }

    /// As [`Server::seek_name`], all of them, whatever comes of the first.
    fn seek_names<'n>(&mut self, names: impl Iterator<Item = (u8, &'n [u8])>, wait: &Wait) -> bool {
        let away = names.filter(|(db, name)| !self.seek_name(*db, name, wait)).count();
        away == 0
    }

    fn begin_walk(&self, scan: &Scan<'_>) -> Option<Walk> {
        let cursor = Self::cursor_of(scan)?;
        let is_here = self.shard_of_partition(cursor.partition) == self.shard.id();
        let last = self.shard.map().partition_count() - 1;
        let strides = is_here && cursor.partition <= last && self.strides(cursor);
        strides.then(|| {
            let stride = self.begin_stride(cursor, scan.db, Self::count_of(scan));
            Walk::Striding(Box::new(stride))
        })
    }

    /// Serves what waited, as far as it is there.
    pub(in crate::server) fn serve_parked(&mut self) {
        let mut blocked: HashSet<Whose, _> = HashSet::with_hasher(HASHER);
        for _ in 0..self.binary.parked.requests.len() {
            let Some(mut parked) = self.binary.parked.requests.pop_front() else { break };
            let whose = whose(&parked.asker);
            if blocked.contains(&whose) || !self.serve_one_parked(&mut parked) {
                blocked.insert(whose);
                self.binary.parked.requests.push_back(parked);
            } else {
                self.binary.parked.tally.remove(whose);
            }
        }
    }

    /// False: it still waits.
    fn serve_one_parked(&mut self, parked: &mut Parked) -> bool {
        let Parked { asker, body, wait, walk } = parked;
        if !wait.is_over() {
            return false;
        }
        if self.is_late(asker) {
            return true;
        }
        if let Some(error) = wait.error() {
            self.fail(asker, Failure::new(Code::Internal, &error));
            return true;
        }
        *wait = Wait::with(wait.given());
        let request = match Request::decode(asker.header.opcode, body) {
            Ok(request) => request,
            Err(code) => {
                self.fail(asker, Failure::new(code, "it was parked wrongly"));
                return true;
            }
        };
        if let (Request::Scan(scan), Some(going)) = (&request, walk.take()) {
            let (goes_on, next) = self.walk_on(asker, scan, going, wait);
            *walk = next;
            return !goes_on;
        }
        self.lending(&asker.header, |server| {
            let is_known = server.seek_typed(&request, wait)
                & server.seek_room_typed(&request, body.len(), wait);
            if is_known {
                server.serve_known(asker, &request, body, None);
            }
            is_known
        })
    }

    /// Goes on with a page. True: it still waits.
    fn walk_on(
        &mut self,
        asker: &Asker,
        scan: &Scan<'_>,
        walk: Walk,
        wait: &Wait,
    ) -> (bool, Option<Walk>) {
        let at = Self::cursor_of(scan).map_or(0, |cursor| cursor.partition);
        if self.shard_of_partition(at) != self.shard.id() {
            self.fail(asker, Failure::new(Code::NoLeader, LEADS_NO_MORE));
            return (false, None);
        }
        let (names, next) = match walk {
            Walk::Found(names, next) => (names, next),
            Walk::Striding(mut stride) => match self.go_on(&mut stride) {
                Strode::Not => return (true, Some(Walk::Striding(stride))),
                Strode::Failed(error) => {
                    self.fail(asker, Failure::new(Code::Internal, &error));
                    return (false, None);
                }
                Strode::To(next) => {
                    let mut names = stride.found;
                    names.retain(|name| Self::fits(scan, name));
                    (names, self.encode_next_typed(next))
                }
            },
        };
        let mut scratch = Vec::new();
        let away = names.iter().filter(|name| {
            let found = round::find_replica(&self.shard, scan.db, name, &mut scratch);
            found.is_some_and(|target| !self.shard.seek(target, wait))
        });
        if away.count() > 0 {
            return (true, Some(Walk::Found(names, next)));
        }
        self.answer_page(asker, scan, &names, next);
        (false, None)
    }
}
