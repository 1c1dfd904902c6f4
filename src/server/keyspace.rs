//! Commands in which every shard has a part: each does its own, and the parts become one reply.
//!
//! What may take long (KEYS, the keys of a slot) is a [`Sweep`]: a job that walks a piece per
//! slice, others in between, and holds what it found until it is through. A node of a cluster
//! answers for the keys of the shard that was asked: clients put the shards together themselves.
//!
//! Bounds: a sweep that found more than [`KEYS_LEN_MAX`] bytes says so instead of going on; one
//! step of SCAN is bounded by the shard ([`crate::shard::Shard::walk`]).

use super::output::Combine;
use super::remote::{Address, Answered, Origin};
use super::{Server, job};
use crate::command::{Keyspace, Run, Scan, Spec, glob};
use crate::env::Env;
use crate::id::ShardId;
use crate::protocol::resp::{Args, Proto, Reply};
use crate::shard::Cursor;

/// Bytes of keys of one shard that one command may gather.
const KEYS_LEN_MAX: usize = 64 << 20;

/// Keys of a slice of a sweep: some 200 us of work.
const SLICE_KEYS: usize = 1024;

/// How far a walk over a shard's keys is, and what it found.
#[derive(Default)]
pub(super) struct Sweep {
    cursor: Option<Cursor>,
    /// The next key, encoded, of a walk in order.
    from: Vec<u8>,
    body: Vec<u8>,
    count: i64,
}

/// Whether it is worked on in slices.
pub(super) fn is_long(spec: &Spec, args: &Args<'_>) -> bool {
    let Run::Keyspace(parse) = spec.run else { return false };
    parse(args).is_ok_and(Keyspace::is_long)
}

fn bulk(body: &mut Vec<u8>, bytes: &[u8]) {
    Reply::new(Proto::Resp2, body, &mut Vec::new()).bulk(bytes);
}

impl<E: Env> Server<E> {
    /// Asks every shard that has a part for it.
    pub(super) fn run_keyspace(
        &mut self,
        index: u32,
        spec: &'static Spec,
        what: Keyspace,
        args: Args<'_>,
    ) {
        let (combine, asked) = self.parts_of(what);
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (id, db, proto) = (conn.id, conn.session.db, conn.session.proto);
        let ticket = self.expect(index, combine, asked.len() as u32);
        let conn = self.conns[index as usize].as_deref_mut().expect("found above");
        if what.is_long() {
            // What it sends next must not be seen by the walk.
            conn.busy = true;
            conn.answers_first = true;
        }
        let address = Address { conn: id, ticket };
        for shard in asked {
            if shard != self.shard.id() {
                self.forward(shard, address, spec, args, (db, proto));
            } else if what.is_long() {
                let origin = Origin::Remote(shard, address);
                let job = job::Job::new(origin, spec, args, Vec::new(), (db, proto));
                self.jobs.push_back(job);
            } else {
                self.serve_keyspace((shard, address), spec, what, &args, (db, proto));
            }
        }
    }

    /// How the parts become the reply, and which shards have one.
    fn parts_of(&self, what: Keyspace) -> (Combine, Vec<ShardId>) {
        let here = self.shard.id();
        let every = || (0..self.shard.map().shard_count()).map(ShardId).collect();
        let own = |all| if self.node.is_cluster_mode() { vec![here] } else { all };
        match what {
            Keyspace::FlushAll | Keyspace::FlushDb => (Combine::AllOk, every()),
            Keyspace::Count => (Combine::Sum, own(every())),
            Keyspace::Keys => (Combine::Join, own(every())),
            Keyspace::Random => (Combine::Least, own(every())),
            Keyspace::Scan(scan) => (Combine::Whole, own(vec![self.shard_of(scan)])),
            Keyspace::CountInSlot(slot) | Keyspace::KeysInSlot(slot, _) => {
                let combine = match what {
                    Keyspace::CountInSlot(_) => Combine::Sum,
                    _ => Combine::Join,
                };
                (combine, own(vec![self.shard.locate(slot).err().unwrap_or(here)]))
            }
        }
    }

    /// The shard where a scan goes on; any will say so when it is at its end.
    fn shard_of(&self, scan: Scan) -> ShardId {
        let map = self.shard.map();
        let last = map.partition_count() - 1;
        map.shard_of(crate::id::PartitionId(Cursor::decode(scan.cursor).partition.min(last)))
    }

    /// This shard's part of it, unless it is long; answered when all that it tells of is committed.
    pub(super) fn serve_keyspace(
        &mut self,
        (from, address): (ShardId, Address),
        spec: &Spec,
        what: Keyspace,
        args: &Args<'_>,
        (db, proto): (u8, Proto),
    ) {
        let mut answered = Answered::default();
        if let Err(refused) = self.shard.admit(spec) {
            answered.body = format!("-{refused}\r\n").into_bytes();
            return self.answer(from, address, answered);
        }
        let holds = &mut answered.holds;
        match what {
            Keyspace::FlushAll => self.shard.clear(|place, entry| holds.add(place, entry)),
            Keyspace::FlushDb => self.shard.clear_db(db, |place, entry| holds.add(place, entry)),
            Keyspace::Count => answered.count = self.shard.keys_of(db) as i64,
            Keyspace::Scan(scan) => self.scan(scan, args, db, &mut answered.body),
            Keyspace::Random => {
                let found = self.shard.random_key(db);
                answered.count = found.as_ref().map_or(i64::MAX, |(_, score)| *score);
                match found {
                    Some((key, _)) => bulk(&mut answered.body, &key),
                    None => Reply::new(proto, &mut answered.body, &mut Vec::new()).null(),
                }
            }
            Keyspace::Keys | Keyspace::CountInSlot(_) | Keyspace::KeysInSlot(..) => {
                unreachable!("long ones are jobs")
            }
        }
        if spec.access == crate::command::Access::Read {
            self.shard.uncommitted(|place, entry| answered.holds.add(place, entry));
        }
        self.answer(from, address, answered);
    }

    /// A step of SCAN: the next cursor and some keys.
    fn scan(&self, scan: Scan, args: &Args<'_>, db: u8, body: &mut Vec<u8>) {
        let pattern = scan.pattern.map(|at| args.get(at));
        let (mut keys, mut count) = (Vec::new(), 0);
        let next = self.shard.walk(db, Cursor::decode(scan.cursor), scan.count, |key| {
            if scan.strings && pattern.is_none_or(|pattern| glob::matches(pattern, key, false)) {
                bulk(&mut keys, key);
                count += 1;
            }
        });
        let next = next.map_or_else(|| self.next_shard(), Cursor::encode);
        let mut spliced = Vec::new();
        let mut reply = Reply::new(Proto::Resp2, body, &mut spliced);
        reply.array(2);
        reply.bulk(next.to_string().as_bytes());
        reply.array(count);
        body.append(&mut keys);
    }

    /// The cursor behind this shard's last partition.
    fn next_shard(&self) -> u64 {
        let map = self.shard.map();
        let next = map.partitions_of(self.shard.id()).end;
        let is_last = self.node.is_cluster_mode() || next == map.partition_count();
        if is_last { 0 } else { Cursor::at(next).encode() }
    }

    /// A slice of a walk. True: it is through, and answered.
    pub(super) fn sweep_slice(
        &mut self,
        sweep: &mut Sweep,
        (from, address): (ShardId, Address),
        what: Keyspace,
        args: &Args<'_>,
        db: u8,
    ) -> bool {
        let done = match what {
            Keyspace::CountInSlot(slot) => {
                let count = &mut sweep.count;
                let from = std::mem::take(&mut sweep.from);
                let next = self.shard.walk_slot((slot, db), &from, SLICE_KEYS, |_| *count += 1);
                sweep.from = next.unwrap_or_default();
                sweep.from.is_empty()
            }
            Keyspace::KeysInSlot(_, 0) => true,
            Keyspace::KeysInSlot(slot, count) => {
                let left = count - sweep.count as usize;
                let from = std::mem::take(&mut sweep.from);
                let next = self.shard.walk_slot((slot, db), &from, left.min(SLICE_KEYS), |key| {
                    bulk(&mut sweep.body, key);
                    sweep.count += 1;
                });
                sweep.from = next.unwrap_or_default();
                sweep.from.is_empty() || sweep.count as usize >= count
            }
            _ => {
                let pattern = args.get(1);
                let cursor = sweep.cursor.unwrap_or_else(|| Cursor::at(0));
                sweep.cursor = self.shard.walk(db, cursor, SLICE_KEYS, |key| {
                    if glob::matches(pattern, key, false) {
                        bulk(&mut sweep.body, key);
                        sweep.count += 1;
                    }
                });
                sweep.cursor.is_none()
            }
        };
        let is_full = sweep.body.len() > KEYS_LEN_MAX;
        if !done && !is_full {
            return false;
        }
        let mut answered = Answered { count: sweep.count, ..Answered::default() };
        answered.body = std::mem::take(&mut sweep.body);
        if is_full {
            answered.body = b"-ERR the reply would be longer than 64 MiB: use SCAN\r\n".to_vec();
        }
        self.shard.uncommitted(|place, entry| answered.holds.add(place, entry));
        self.answer(from, address, answered);
        true
    }
}
