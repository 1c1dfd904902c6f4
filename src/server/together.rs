//! Commands with several keys: what is ours in one step, what is others' in one request per shard.
//!
//! The keys of a command that live on one shard are evaluated together there: of each partition
//! they are one entry, so MSET is atomic per partition. Commands whose keys are judged together
//! ([`Run::Together`]) need all of them in one partition, and run where that is.

use smallvec::SmallVec;

use super::output::{Combine, Part};
use super::remote::{self, Answered};
use super::{Server, round};
use crate::command::{self, Keyed, Run, Spec};
use crate::env::Env;
use crate::id::ShardId;
use crate::lsm::key;
use crate::mvcc::BlobRef;
use crate::protocol::resp::{Args, Proto, Reply};
use crate::shard::mailbox::Element;
use crate::shard::{Holds, Spread};

/// A key of a command: its index among the arguments, its number among the keys.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index in the arguments.
    pub at: u32,
    /// Which part of the reply it is.
    pub part: u32,
}

impl Place {
    /// The keys of a command, in order.
    pub fn all(spec: &Spec, args: &Args<'_>) -> Vec<Self> {
        let indices = spec.key_indices(args).enumerate();
        indices.map(|(part, at)| Self { at: at as u32, part: part as u32 }).collect()
    }
}

/// Some keys of a command, which live on one shard.
pub struct Group<'a> {
    /// The command.
    pub spec: &'static Spec,
    /// All its arguments.
    pub args: Args<'a>,
    /// The keys.
    pub keys: &'a [Place],
    /// Their database.
    pub db: u8,
    /// How the reply is encoded.
    pub proto: Proto,
    /// Values that are in the log already, by the index of their key.
    pub blobs: &'a [(u32, BlobRef)],
}

impl<E: Env> Server<E> {
    /// A command with a handful of keys.
    pub(super) fn run_many(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        if self.node.is_cluster_mode()
            && let Some(error) = self.check_slots(spec, &args)
        {
            return self.refuse(index, &error);
        }
        if self.parks(index, spec, args) {
            return;
        }
        let shard = &self.shard;
        let local =
            spec.key_indices(&args).all(|at| shard.locate(key::slot_of(args.get(at))).is_ok());
        if local {
            return self.run_here(index, spec, args);
        }
        let Run::Keyed(keyed) = &spec.run else { return };
        let keys = Place::all(spec, &args);
        let ticket = self.expect(index, combine(keyed), keys.len() as u32);
        self.run_groups(index, ticket, spec, args, &keys, &[]);
    }

    /// A command whose keys are all on this shard.
    fn run_here(&mut self, index: u32, spec: &'static Spec, args: Args<'_>) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let (db, sent) = (conn.session.db, conn.session.replies());
        let (mark, mut holds) = (conn.output.mark(), Holds::default());
        self.shard.begin_together();
        conn.output.reply(conn.session.proto, |reply| {
            self.shard.evaluate_whole(spec, args, db, reply, &mut holds);
        });
        self.shard.end_together();
        if !sent {
            return conn.output.undo(mark);
        }
        self.hold_all(index, mark, &holds);
    }

    /// Keeps a reply back until all its entries commit.
    pub(super) fn hold_all(&mut self, index: u32, mark: u64, holds: &Holds) {
        holds.iter().for_each(|(place, entry)| self.hold(index, mark, place, entry));
    }

    /// A command whose keys are judged together: here, or where its partition is.
    pub(super) fn run_together(
        &mut self,
        index: u32,
        spec: &'static Spec,
        together: &command::Together,
        args: Args<'_>,
    ) {
        let conn = self.conns[index as usize].as_deref().expect("the caller found it");
        let (ack, db, proto) = (conn.session.answers_at(), conn.session.db, conn.session.proto);
        let id = conn.id;
        if let Err(error) = self.check_together(spec, together, &args, db) {
            return self.refuse(index, &error);
        }
        let slots = spec.key_indices(&args).map(|at| key::slot_of(args.get(at)));
        match self.shard.place_of_all(slots) {
            Spread::Here(_) if self.parks_together(index, spec, args) => {}
            Spread::Here(_) => self.run_here(index, spec, args),
            Spread::Elsewhere(shard) => {
                let ticket = self.expect(index, Combine::Whole, 1);
                let to = remote::Address { conn: id, ticket, ack };
                self.forward(shard, to, spec, args, (db, proto));
            }
            Spread::Several | Spread::Nowhere => {
                self.refuse(index, &command::Error::CrossSlot.to_string());
            }
        }
    }

    /// What can be said before the keys are looked up.
    pub(super) fn check_together(
        &self,
        spec: &Spec,
        together: &command::Together,
        args: &Args<'_>,
        db: u8,
    ) -> Result<(), String> {
        let cluster_mode = self.node.is_cluster_mode();
        if cluster_mode && let Some(error) = self.check_slots(spec, args) {
            return Err(error);
        }
        match (together.dbs)(args, db) {
            _ if cluster_mode && together.is_in_both => {
                Err("ERR MOVE is not allowed in cluster mode".to_owned())
            }
            Err(error) => Err(error.to_string()),
            Ok(dbs) if cluster_mode && dbs[1] > 0 => {
                Err("ERR Copying to another database is not allowed in cluster mode".to_owned())
            }
            Ok(_) => Ok(()),
        }
    }

    /// Makes room for a reply that comes in parts.
    pub(super) fn expect(&mut self, index: u32, combine: Combine, parts: u32) -> u32 {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        if conn.session.replies() {
            return conn.output.expect(self.ledger.wait(), combine, parts);
        }
        remote::NO_TICKET
    }

    /// Has these keys of a command evaluated, each where it lives.
    pub(super) fn run_groups(
        &mut self,
        index: u32,
        ticket: u32,
        spec: &'static Spec,
        args: Args<'_>,
        keys: &[Place],
        blobs: &[(u32, BlobRef)],
    ) {
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        let to = remote::Address::of(conn, ticket);
        let (db, proto) = (conn.session.db, conn.session.proto);
        let mut groups: SmallVec<[(ShardId, Vec<Place>); 4]> = SmallVec::new();
        for place in keys {
            let slot = key::slot_of(args.get(place.at as usize));
            let shard = self.shard.owner(self.shard.map().partition_of(slot));
            match groups.iter_mut().find(|(owner, _)| *owner == shard) {
                Some((_, keys)) => keys.push(*place),
                None => groups.push((shard, vec![*place])),
            }
        }
        for (shard, keys) in &groups {
            let group = Group { spec, args, keys, db, proto, blobs };
            if *shard == self.shard.id() {
                let answered = self.evaluate_group(&group);
                self.take_group(index, ticket, &answered);
            } else {
                self.forward_group(*shard, to, &group);
            }
        }
    }

    /// Evaluates keys of this shard in one step.
    pub(super) fn evaluate_group(&mut self, group: &Group<'_>) -> Answered {
        let Group { spec, args, keys, db, proto, blobs } = *group;
        // A long command may have begun before the log failed or the disk was full.
        if let Err(refused) = self.shard.admit(spec) {
            return Answered::error(&refused.to_string(), keys.iter().map(|key| key.part));
        }
        let (mut answered, mut scratch) = (Answered::default(), Vec::new());
        self.shard.begin_together();
        for Place { at, part } in keys {
            let from = answered.body.len();
            let Answered { body, splices, count, holds, elements } = &mut answered;
            let mut reply = Reply::new(proto, body, splices);
            let index = *at as usize;
            match round::find(&self.shard, db, args.get(index), &mut scratch) {
                Ok(target) => {
                    let place = target.place;
                    let blob = blobs.iter().find(|(key, _)| key == at).map(|(_, blob)| *blob);
                    let evaluated =
                        self.shard.evaluate(target, spec, args, index, blob, &mut reply);
                    *count += evaluated.count as i64;
                    evaluated.hold.into_iter().for_each(|entry| holds.add(place, entry));
                }
                Err(_) => reply.error("TRYAGAIN the slot has moved: send the command again"),
            }
            let (at, len) = (from as u32, (body.len() - from) as u32);
            elements.push(Element { part: *part, at, len });
        }
        self.shard.end_together();
        answered
    }

    /// Takes the answer for keys of our own.
    pub(super) fn take_group(&mut self, index: u32, ticket: u32, answered: &Answered) {
        if ticket == remote::NO_TICKET {
            return;
        }
        let conn = self.conns[index as usize].as_deref_mut().expect("the caller found it");
        for (place, entry) in answered.holds.iter() {
            let (of, ack) = ((place, entry), conn.session.answers_at());
            if let Some(hold) = self.shard.wait(of, ack, remote::conn_waiter(index)) {
                conn.output.hold_answer(ticket, hold);
            }
        }
        let whole = conn.output.answer(ticket, Part::of(answered));
        self.note_whole(whole);
    }
}

/// How the parts of a command on keys become its reply.
pub fn combine(keyed: &Keyed) -> Combine {
    match keyed {
        Keyed::One(_) => Combine::Whole,
        Keyed::Each(_) => Combine::Array,
        Keyed::Sum(_) => Combine::Sum,
        Keyed::AllOk(_) => Combine::AllOk,
    }
}
