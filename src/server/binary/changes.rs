//! `changes` and `copy`: what was done in a partition, and its rows, for who keeps them somewhere
//! else. Both are answered by the partition's leader, of whichever node they were asked.
//!
//! A reply ends behind a large value, which leaves from where it lies. A page of rows that are not
//! all in memory is listed from the tables first, and the rows are fetched.

use std::sync::Arc;

use super::{Asker, Large, serve::Waits};
use crate::env::Env;
use crate::id::{PartitionId, ShardId};
use crate::lsm::key;
use crate::lsm::memtable::{Payload, Version};
use crate::mvcc::{Effect, Logged};
use crate::partition::Went;
use crate::protocol::binary::{
    Behind, Change, Changed, Class, Code, Done, Failure, LONG_LEN_MIN, Rows, RowsFrom, Subject,
};
use crate::server::Server;
use crate::server::remote::LEADS_NO_MORE;
use crate::shard::{Listed, Listing, Target, Wait, user_key};

/// A reply ends with the change that makes it longer than this, bytes.
const REPLY_LEN_MAX: usize = 256 << 10;

/// Keys that are listed for a page.
const LISTED_MAX: usize = 256;

/// A page of rows that takes the disk.
pub(super) struct Copying {
    asker: Asker,
    place: u32,
    stage: Stage,
}

enum Stage {
    Listing(Listing),
    /// The keys, whose rows are being fetched, and where the next page begins.
    Fetching(Vec<Vec<u8>>, Option<Vec<u8>>, Wait),
}

/// Changes, encoded, of a reply.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    count: usize,
    newest: u64,
    large: Large,
}

impl Gathered {
    /// False: that is enough.
    fn add(&mut self, change: &Change<'_>, large: Large) -> bool {
        self.newest = self.newest.max(change.timestamp);
        self.count += 1;
        match large {
            Some(_) => {
                change.encode_head(&mut self.bytes);
                self.large = large;
            }
            None => change.encode(&mut self.bytes),
        }
        self.large.is_none() && self.bytes.len() < REPLY_LEN_MAX
    }

    /// What an effect did.
    fn add_effect(&mut self, (effect, large): Went<'_>) -> bool {
        let timestamp = effect.timestamp().0;
        let encoded = effect.key().unwrap_or_default();
        let (db, key) = match encoded {
            [] => (0, Default::default()),
            encoded => (key::db_of(encoded), user_key(encoded)),
        };
        let value: &[u8] = match (&effect, &large) {
            (_, Some(large)) => large,
            (Effect::Put { value: Logged::Inline(value), .. }, None) => value,
            _ => &[],
        };
        let done = match effect {
            Effect::Put { expiry_ms, .. } => Done::Set { value, expiry_ms: expiry_ms.unwrap_or(0) },
            Effect::Delete { .. } => Done::Deleted,
            _ => Done::Cleared,
        };
        self.add(&Change { timestamp, db, key: &key, done }, large.clone())
    }

    fn add_row(&mut self, encoded: &[u8], version: Version<'_>) -> bool {
        let (timestamp, db) = (version.timestamp.0, key::db_of(encoded));
        let (value, large) = match version.payload {
            Payload::Bytes(value) => (value, None),
            Payload::Shared(value) => (value.as_slice(), Some(Arc::clone(value))),
        };
        let done = Done::Set { value, expiry_ms: version.expiry_ms.unwrap_or(0) };
        self.add(&Change { timestamp, db, key: &user_key(encoded), done }, large)
    }
}

impl<E: Env> Server<E> {
    /// The place of the partition that a request is about, if it is led here; else it is answered,
    /// or on its way to who leads it.
    fn place_of_subject(&mut self, asker: &Asker, subject: &Subject, body: &[u8]) -> Option<u32> {
        let cluster = self.shard.members().map(|members| members.cluster());
        let Some(cluster) = cluster else {
            let text = "this node is alone and keeps no log for others: start it with --peer-port \
                        PORT";
            self.fail(asker, Failure::new(Code::ClusterRefused, text));
            return None;
        };
        if subject.cluster != 0 && subject.cluster != cluster {
            let text = format!("this is cluster {cluster:032x} and not {:032x}", subject.cluster);
            self.fail(asker, Failure::new(Code::ClusterRefused, &text));
            return None;
        }
        if let Some(primary) = self.shard.primary() {
            let text = format!("this cluster is a standby itself, of {primary}: follow that one");
            self.fail(asker, Failure::new(Code::ClusterRefused, &text));
            return None;
        }
        let count = self.shard.map().partition_count();
        if subject.partition >= count {
            let text = format!("there are {count} partitions, from 0 on");
            self.fail(asker, Failure::new(Code::BadRequest, &text));
            return None;
        }
        let partition = PartitionId(subject.partition);
        let owner: ShardId = self.shard.owner(partition);
        if owner != self.shard.id() {
            self.forward_typed(owner, asker, body);
            return None;
        }
        self.shard.place_of(partition)
    }

    pub(super) fn serve_changes(&mut self, asker: &Asker, behind: &Behind, body: &[u8]) {
        let Some(place) = self.place_of_subject(asker, &behind.subject, body) else { return };
        let mut gathered = Gathered::default();
        let position =
            self.shard.changes_behind(place, behind.position, |went| gathered.add_effect(went));
        let Ok(position) = position else {
            let text = "the log does not reach back to that position: copy the partition anew";
            let failure = Failure::new(Code::TooOld, text);
            return self.fail(asker, Failure { class: Class::NotDone, ..failure });
        };
        let committed = self.shard.partition(place).committed();
        let (timestamp, newest) = (committed.timestamp.0, committed.index);
        let now_ms = self.shard.now_ms();
        let head = Changed { timestamp, newest, now_ms, position, ..Changed::default() };
        let count = gathered.count;
        self.answer_gathered(asker, Waits::new(), gathered, |out| head.begin(count, out));
    }

    pub(super) fn serve_copy(&mut self, asker: &Asker, page: &RowsFrom<'_>, body: &[u8]) {
        let Some(place) = self.place_of_subject(asker, &page.subject, body) else { return };
        if self.shard.is_partial_at(place) {
            let stage = Stage::Listing(self.shard.list(place, page.from, LISTED_MAX));
            return self.binary.copying.push_back(Copying { asker: *asker, place, stage });
        }
        let mut gathered = Gathered::default();
        let next =
            self.shard.rows_from(place, page.from, |key, version| gathered.add_row(key, version));
        self.answer_rows(asker, place, gathered, next.as_deref());
    }

    fn answer_rows(&mut self, asker: &Asker, place: u32, of: Gathered, next: Option<&[u8]>) {
        let partition = self.shard.partition(place);
        let uncommitted = partition.newest_uncommitted();
        let newest = uncommitted.unwrap_or(partition.committed().index);
        let (timestamp, next) = (of.newest, next.unwrap_or_default());
        let head = Rows { timestamp, newest, next, ..Rows::default() };
        let (count, waits) = (of.count, uncommitted.map(|entry| (place, entry)));
        self.answer_gathered(asker, waits.into_iter().collect(), of, |out| head.begin(count, out));
    }

    fn answer_gathered(
        &mut self,
        asker: &Asker,
        waits: Waits,
        of: Gathered,
        begin: impl FnOnce(&mut Vec<u8>),
    ) {
        let Gathered { bytes, large, .. } = of;
        let body = |out: &mut Vec<u8>| {
            begin(out);
            out.extend_from_slice(&bytes);
            large.clone()
        };
        match &large {
            // It is summed in pieces.
            Some(large) if large.len() > LONG_LEN_MIN => {
                let mut frame = Vec::new();
                let large = super::encode(&mut frame, &asker.header, 0, body);
                self.settle_held(asker, &frame, large, waits.into_vec());
            }
            _ => self.respond(asker, &waits, 0, body),
        }
    }

    /// Goes on with pages that take the disk.
    pub(in crate::server) fn serve_copying(&mut self) {
        for _ in 0..self.binary.copying.len() {
            let Some(mut copying) = self.binary.copying.pop_front() else { break };
            if !self.go_on_copying(&mut copying) {
                self.binary.copying.push_back(copying);
            }
        }
    }

    /// False: it still waits.
    fn go_on_copying(&mut self, copying: &mut Copying) -> bool {
        let Copying { asker, place, stage } = copying;
        if self.is_late(asker) {
            return true;
        }
        let owner = self.shard.owner(self.shard.partition(*place).id());
        if owner != self.shard.id() {
            self.fail(asker, Failure::new(Code::NoLeader, LEADS_NO_MORE));
            return true;
        }
        match stage {
            Stage::Listing(listing) => {
                let mut keys = Vec::new();
                let next = match self.shard.take_listed(listing, |key, _| keys.push(key.to_vec())) {
                    Listed::Not => return false,
                    Listed::To(next) => next,
                    Listed::Failed(error) => {
                        self.fail(asker, Failure::new(Code::Internal, &error));
                        return true;
                    }
                };
                let wait = Wait::default();
                self.fetch(*place, &keys, &wait);
                *stage = Stage::Fetching(keys, next, wait);
                false
            }
            Stage::Fetching(_, _, wait) if !wait.is_over() => false,
            Stage::Fetching(keys, next, wait) => {
                if let Some(error) = wait.error() {
                    self.fail(asker, Failure::new(Code::Internal, &error));
                    return true;
                }
                let again = Wait::default();
                if !self.fetch(*place, keys, &again) {
                    *wait = again;
                    return false;
                }
                self.answer_fetched(asker, *place, keys, next.take());
                true
            }
        }
    }

    /// True: all are in memory.
    fn fetch(&mut self, place: u32, keys: &[Vec<u8>], wait: &Wait) -> bool {
        let mut is_known = true;
        for key in keys {
            let hash = self.shard.partition(place).memtable().hash(key);
            is_known &= self.shard.seek(Target { place, hash, key }, wait);
        }
        is_known
    }

    fn answer_fetched(
        &mut self,
        asker: &Asker,
        place: u32,
        keys: &[Vec<u8>],
        mut next: Option<Vec<u8>>,
    ) {
        let mut gathered = Gathered::default();
        for key in keys {
            let hash = self.shard.partition(place).memtable().hash(key);
            let Some(version) = self.shard.read(Target { place, hash, key }).0 else { continue };
            if !gathered.add_row(key, version) {
                next = Some(crate::lsm::view::successor(key));
                break;
            }
        }
        self.answer_rows(asker, place, gathered, next.as_deref());
    }
}
