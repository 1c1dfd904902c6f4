//! Transactions where their keys are: what is watched is compared and what was queued is run in
//! one step, so that nobody comes in between, on this shard or from another.

use super::{Holds, Planted, Refused, Shard};
use crate::command::{Run, Spec};
use crate::env::Env;
use crate::id::Slot;
use crate::lsm::key;
use crate::partition::Seen;
use crate::protocol::resp::{ArgsBuf, Proto};

/// A key, and what it was when it was watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its slot.
    pub slot: Slot,
    /// Encoded, database included.
    pub key: Box<[u8]>,
    /// What it was.
    pub seen: Seen,
}

/// A queued command.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which.
    pub spec: &'static Spec,
    /// Its arguments, its name included.
    pub args: ArgsBuf,
    /// The database it is about; known when the transaction is run.
    pub db: u8,
    /// How its reply is encoded.
    pub proto: Proto,
}

/// What a shard needs for the part of a transaction that is about keys: all of them are its own.
#[derive(Debug, Default)]
pub struct Transaction {
    /// What must not have been touched.
    pub watched: Vec<Watched>,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

impl Transaction {
    /// The slots of all keys that it is about.
    pub fn slots(&self) -> Vec<Slot> {
        let of_step = |step: &Step| {
            let args = step.args.args();
            let keys = step.spec.key_indices(&args).map(|at| key::slot_of(args.get(at)));
            keys.collect::<Vec<_>>()
        };
        let on_keys = |step: &&Step| matches!(step.spec.run, Run::Keyed(_) | Run::Together(_));
        let watched = self.watched.iter().map(|watched| watched.slot);
        watched.chain(self.steps.iter().filter(on_keys).flat_map(of_step)).collect()
    }
}

impl<E: Env> Shard<E> {
    /// Watches a key of this shard.
    pub fn watch(&mut self, db: u8, name: &[u8]) -> Watched {
        let slot = key::slot_of(name);
        let place = self.replica_of(slot).expect("the key lives here");
        let mut encoded = Vec::new();
        key::encode_data_key(slot, db, name, &mut encoded);
        let now_ms = self.now_ms;
        let partition = &mut self.partitions[place as usize];
        let hash = partition.memtable().hash(&encoded);
        let seen = partition.watch(hash, &encoded, now_ms);
        Watched { slot, key: encoded.into(), seen }
    }

    /// Whether nobody touched these keys of this shard since they were watched. If somebody did:
    /// `holds` says what a reply that tells of it has to wait for.
    pub fn are_untouched(&self, watched: &[Watched], holds: &mut Holds) -> bool {
        if self.planted == Some(Planted::SkipWatch) {
            return true;
        }
        let touched = watched.iter().find_map(|watched| {
            let place = self.replica_of(watched.slot)?;
            let partition = self.partition(place);
            let hash = partition.memtable().hash(&watched.key);
            let untouched = partition.is_untouched(hash, &watched.key, watched.seen, self.now_ms);
            (!untouched).then_some(place)
        });
        let Some(place) = touched else { return true };
        let newest = self.partition(place).newest_uncommitted();
        newest.into_iter().for_each(|entry| holds.add(place, entry));
        false
    }

    /// Ends the step of a transaction; `holds`: what its reply has to wait for.
    pub fn end_transaction(&mut self, holds: &mut Holds) {
        self.end_together();
        if self.planted == Some(Planted::ExecBeforeCommit) {
            *holds = Holds::default();
        }
    }

    /// Whether all of these would be taken.
    ///
    /// # Errors
    /// As [`Shard::admit`].
    pub fn admit_all<'a>(&self, specs: impl IntoIterator<Item = &'a Spec>) -> Result<(), Refused> {
        specs.into_iter().try_for_each(|spec| self.admit(spec))
    }
}
