//! Commands in which every shard has a part: each does its own, and the parts become one reply.
//!
//! What may take long (KEYS, the keys of a slot, whatever walks over keys that only tables have) is
//! a [`super::sweep`]. In a cluster the parts are those of the partitions' leaders, on whichever
//! nodes they are; each is asked about the partitions that it leads as far as is known here, and
//! says so if that is old news. In cluster mode a shard answers for what it leads itself: clients
//! put the shards together.
//!
//! One step of SCAN is bounded by the shard ([`crate::shard::Shard::walk`]).

use std::collections::BTreeMap;

use super::output::Combine;
use super::remote::{Address, Answered, Origin};
use super::{Server, job};
use crate::cluster::NOWHERE;
use crate::command::{Keyspace, Run, Scan, Spec, glob};
use crate::env::Env;
use crate::id::{PartitionId, ShardId};
use crate::protocol::resp::{Args, Proto, Reply};
use crate::shard::{Cursor, Scope};

pub(super) fn bulk(body: &mut Vec<u8>, bytes: &[u8]) {
    Reply::new(Proto::Resp2, body, &mut Vec::new()).bulk(bytes);
}

/// The reply of SCAN: `keys` are `count` bulk strings.
pub(super) fn write_scanned(body: &mut Vec<u8>, next: u64, count: usize, keys: &mut Vec<u8>) {
    let mut spliced = Vec::new();
    let mut reply = Reply::new(Proto::Resp2, body, &mut spliced);
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(count);
    body.append(keys);
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
        if asked.contains_key(&NOWHERE) {
            let text = "TRYAGAIN a partition has no leader at this moment, nothing was done";
            return self.refuse(index, text);
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (id, db, proto) = (conn.id, conn.session.db, conn.session.proto);
        let ack = conn.session.answers_at();
        let ticket = self.expect(index, combine, asked.len() as u32);
        if self.takes_long(what, db) {
            let conn = self.conns[index as usize].as_deref_mut().expect("found above");
            // What it sends next must not be seen by the walk.
            conn.busy = true;
            conn.answers_first = true;
        }
        let address = Address { conn: id, ticket, ack };
        for (shard, scope) in asked {
            if shard != self.shard.id() {
                self.forward_walk(shard, address, spec, args, (db, proto), &scope);
            } else if self.takes_long(what, db) {
                let origin = Origin::Remote(shard, address);
                let mut job = job::Job::new(origin, spec, args, Vec::new(), (db, proto));
                job.scope = scope;
                self.jobs.push(job);
            } else {
                self.serve_keyspace((shard, address), spec, what, &args, (db, proto), &scope);
            }
        }
    }

    /// Whether a command is worked on in slices.
    pub(super) fn is_long_walk(&self, spec: &Spec, args: &Args<'_>, db: u8) -> bool {
        let Run::Keyspace(parse) = spec.run else { return false };
        parse(args).is_ok_and(|what| self.takes_long(what, db))
    }

    /// Whether it is worked on in slices: over many keys, or over some that only tables have.
    pub(super) fn takes_long(&self, what: Keyspace, db: u8) -> bool {
        match what {
            Keyspace::Scan(scan) => self.strides(Cursor::decode(scan.cursor)),
            Keyspace::Random => self.shard.is_partial(),
            Keyspace::FlushDb => !self.shard.clears_at_once(db),
            _ => what.is_long(),
        }
    }

    /// How the parts become the reply, and which shards have one, of which partitions.
    fn parts_of(&self, what: Keyspace) -> (Combine, BTreeMap<ShardId, Scope>) {
        let combine = match what {
            Keyspace::FlushAll | Keyspace::FlushDb => Combine::AllOk,
            Keyspace::Count | Keyspace::CountInSlot(_) => Combine::Sum,
            Keyspace::Keys | Keyspace::KeysInSlot(..) => Combine::Join,
            Keyspace::Random => Combine::Least,
            Keyspace::Scan(_) => Combine::Whole,
        };
        let asked = match self.shard.members() {
            Some(_) => self.leaders_of(what),
            None => self.shards_of(what),
        };
        (combine, asked)
    }

    /// Of a node that is alone.
    fn shards_of(&self, what: Keyspace) -> BTreeMap<ShardId, Scope> {
        let (here, map) = (self.shard.id(), self.shard.map());
        let flushes = matches!(what, Keyspace::FlushAll | Keyspace::FlushDb);
        let shards = match what {
            _ if self.node.is_cluster_mode() && !flushes => here.0..here.0 + 1,
            Keyspace::Scan(scan) => {
                // Any will say so when it is at its end.
                let last = map.partition_count() - 1;
                let at = Cursor::decode(scan.cursor).partition.min(last);
                let shard = map.shard_of(PartitionId(at));
                shard.0..shard.0 + 1
            }
            Keyspace::CountInSlot(slot) | Keyspace::KeysInSlot(slot, _) => {
                let shard = map.shard_of(map.partition_of(slot));
                shard.0..shard.0 + 1
            }
            _ => 0..map.shard_count(),
        };
        shards.map(|shard| (ShardId(shard), Scope::ALL)).collect()
    }

    /// Of one of several; this shard at least, if only to say that there is nothing.
    fn leaders_of(&self, what: Keyspace) -> BTreeMap<ShardId, Scope> {
        let (here, map) = (self.shard.id(), self.shard.map());
        let flushes = matches!(what, Keyspace::FlushAll | Keyspace::FlushDb);
        let counts = |owner| flushes || !self.node.is_cluster_mode() || owner == here;
        let owner = |id: u32| self.shard.owner(PartitionId(id));
        let wanted = match what {
            Keyspace::Scan(scan) => Cursor::decode(scan.cursor).partition..map.partition_count(),
            Keyspace::CountInSlot(slot) | Keyspace::KeysInSlot(slot, _) => {
                let id = map.partition_of(slot).0;
                id..id + 1
            }
            _ => 0..map.partition_count(),
        };
        let most = if matches!(what, Keyspace::Scan(_)) { 1 } else { usize::MAX };
        let mut asked: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
        for id in wanted.filter(|id| counts(owner(*id))).take(most) {
            asked.entry(owner(id)).or_default().push(PartitionId(id));
        }
        if asked.is_empty() {
            asked.insert(here, Vec::new());
        }
        asked.into_iter().map(|(shard, partitions)| (shard, Scope::of(partitions))).collect()
    }

    /// Whether this shard leads all partitions that are named.
    pub(super) fn leads_scope(&self, scope: &Scope) -> bool {
        scope.named().iter().all(|id| self.shard.owner(*id) == self.shard.id())
    }

    /// This shard's part of it, unless it is long; answered when all that it tells of is committed.
    pub(super) fn serve_keyspace(
        &mut self,
        (from, address): (ShardId, Address),
        spec: &Spec,
        what: Keyspace,
        args: &Args<'_>,
        (db, proto): (u8, Proto),
        scope: &Scope,
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
            Keyspace::Count => answered.count = self.shard.keys_of(scope, db) as i64,
            Keyspace::Scan(scan) => self.scan(scan, args, db, &mut answered.body),
            Keyspace::Random => {
                let found = self.shard.random_key(scope, db);
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
        let next =
            self.shard.walk((&Scope::ALL, db), Cursor::decode(scan.cursor), scan.count, |key| {
                if scan.strings && pattern.is_none_or(|pattern| glob::matches(pattern, key, false))
                {
                    bulk(&mut keys, key);
                    count += 1;
                }
            });
        let next = next.map_or_else(|| self.next_shard(), Cursor::encode);
        write_scanned(body, next, count, &mut keys);
    }

    /// The cursor behind this shard's last partition.
    pub(super) fn next_shard(&self) -> u64 {
        let map = self.shard.map();
        let next = map.partitions_of(self.shard.id()).end;
        let is_last = self.node.is_cluster_mode() || next == map.partition_count();
        if is_last { 0 } else { Cursor::at(next).encode() }
    }
}
