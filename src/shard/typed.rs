//! Typed reads and writes: those of the binary protocol, on the same partitions and through the
//! same [`Partition::evaluate`] as commands.
//!
//! [`Partition::evaluate`]: crate::partition::Partition::evaluate

use std::sync::Arc;

use super::{Shard, Target};
use crate::command::{Effect, Found, NewValue, Value, is_expired, typed};
use crate::env::Env;
use crate::id::Once;
use crate::lsm::key;
use crate::lsm::memtable::{Payload, Version};
use crate::mvcc::BlobRef;
use crate::protocol::binary::{Condition, Op, Outcome};

/// The condition of an op does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionFailed {
    /// Which op of a batch.
    pub index: usize,
    /// The version of its key; 0: it is absent.
    pub version: u64,
}

/// What came of a write, and the entry that has to commit before anyone is told.
pub type Written<T> = (Result<T, ConditionFailed>, Option<u64>);

impl<E: Env> Shard<E> {
    /// What a key holds, and the entry that has to commit before anyone is told.
    #[inline(always)] // As `Memtable::get`.
    pub fn read(&self, target: Target<'_>) -> (Option<Version<'_>>, Option<u64>) {
        let now_ms = self.wall_ms(target.place);
        let mut found = self.partition(target.place).find(target.hash, target.key);
        if found.0.as_ref().is_some_and(|version| is_expired(version.expiry_ms, now_ms)) {
            found.0 = None;
        }
        found
    }

    /// A key is read.
    pub fn note_use(&mut self, target: Target<'_>) {
        self.partitions[target.place as usize].note_use(target.hash, target.key);
    }

    /// Does `op`, if its condition holds; what came of it is remembered as `once`.
    pub fn write(
        &mut self,
        target: Target<'_>,
        op: &Op<'_>,
        once: Option<Once>,
    ) -> Written<Outcome> {
        self.write_value(target, op, None, once)
    }

    /// Does a set whose value, all of `op`'s, is in the log already ([`Shard::log_blob`]).
    pub fn write_long(
        &mut self,
        target: Target<'_>,
        op: &Op<'_>,
        long: (&Arc<Vec<u8>>, BlobRef),
        once: Option<Once>,
    ) -> Written<Outcome> {
        self.write_value(target, op, Some(long), once)
    }

    fn write_value(
        &mut self,
        target: Target<'_>,
        op: &Op<'_>,
        long: Option<(&Arc<Vec<u8>>, BlobRef)>,
        once: Option<Once>,
    ) -> Written<Outcome> {
        let (written, hold) = self.propose(target, op, long);
        let hold = match once {
            // Before the entry may be sealed.
            Some(once) => Some(self.remember(target.place, once, &written)),
            None => hold,
        };
        if self.partitions[target.place as usize].is_open() {
            self.touch(target.place);
        }
        (written, hold)
    }

    /// Does all of `ops`, whose keys are of the partition at `place`, as one entry, if all their
    /// conditions hold before; what came of it is remembered as `once`.
    pub fn write_all<'a>(
        &mut self,
        place: u32,
        ops: impl Iterator<Item = Op<'a>> + Clone,
        once: Option<Once>,
    ) -> Written<Vec<Outcome>> {
        self.begin_together();
        let (written, mut hold) = self.propose_all(place, ops);
        if let Some(once) = once {
            hold = Some(self.remember_all(place, once, &written));
            self.touch(place);
        }
        self.end_together();
        (written, hold)
    }

    fn propose_all<'a>(
        &mut self,
        place: u32,
        ops: impl Iterator<Item = Op<'a>> + Clone,
    ) -> Written<Vec<Outcome>> {
        let mut encoded = Vec::new();
        let mut hold = None;
        for (index, op) in ops.clone().enumerate() {
            let (version, entry) = self.read(self.find_at(place, &op, &mut encoded));
            hold = hold.max(entry);
            let found = version.map(found_of);
            let version = version.map_or(0, |version| version.timestamp.0);
            if !typed::holds(&op, found.as_ref(), version) {
                return (Err(ConditionFailed { index, version }), hold);
            }
        }
        let mut outcomes = Vec::new();
        for op in ops {
            let target = self.find_at(place, &op, &mut encoded);
            let op = Op { condition: Condition::None, ..op };
            let (written, entry) = self.write(target, &op, None);
            outcomes.push(written.expect("there is no condition"));
            hold = hold.max(entry);
        }
        (Ok(outcomes), hold)
    }

    fn find_at<'k>(&self, place: u32, op: &Op<'_>, encoded: &'k mut Vec<u8>) -> Target<'k> {
        key::encode_data_key(key::slot_of(op.key), op.db, op.key, encoded);
        let hash = self.partition(place).memtable().hash(encoded);
        Target { place, hash, key: encoded }
    }

    fn propose(
        &mut self,
        target: Target<'_>,
        op: &Op<'_>,
        long: Option<(&Arc<Vec<u8>>, BlobRef)>,
    ) -> Written<Outcome> {
        let now_ms = self.now_ms;
        let Target { place, hash, key } = target;
        let partition = &mut self.partitions[place as usize];
        let before = partition.clock();
        let mut written = Err(ConditionFailed { index: 0, version: 0 });
        let mut evaluated = partition.evaluate(hash, key, now_ms, |found, proposal| {
            let version = if found.is_some() { proposal.seen().0 } else { 0 };
            if !typed::holds(op, found.as_ref(), version) {
                written = Err(ConditionFailed { index: 0, version });
                return;
            }
            let typed::Decided { mut effect, outcome } = typed::decide(op, found, now_ms);
            if let (Effect::Put { value, .. }, Some((shared, _))) = (&mut effect, long) {
                *value = NewValue::Shared(shared);
            }
            proposal.take((effect, 0));
            written = Ok(outcome);
        });
        if let Some((value, expiry_ms)) = evaluated.large.take() {
            let logged = long.map(|(_, blob)| blob);
            let blob = logged.unwrap_or_else(|| self.log_whole_blob(&value));
            let partition = &mut self.partitions[place as usize];
            let entry = partition.put_large(hash, key, (&value, blob), expiry_ms, now_ms);
            evaluated.hold = Some(entry);
        }
        if self.changes.are_observed() {
            self.set_caller(None);
            self.note_evaluated(target, &evaluated);
        }
        let after = self.partitions[place as usize].clock();
        if let Ok(outcome) = &mut written
            && after != before
        {
            outcome.timestamp = after.0;
        }
        (written, evaluated.hold)
    }
}

fn found_of(version: Version<'_>) -> Found<'_> {
    let value = match version.payload {
        Payload::Bytes(bytes) => Value::Bytes(bytes),
        Payload::Shared(bytes) => Value::Shared(bytes),
    };
    Found { value, expiry_ms: version.expiry_ms }
}
