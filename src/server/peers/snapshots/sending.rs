//! The leader's side.

use std::rc::Rc;
use std::time::Duration;

use super::super::Peers;
use super::super::link::Link;
use super::{ASK_EVERY, PATIENCE, WINDOW_LEN};
use crate::env::Env;
use crate::id::{NodeId, PartitionId};
use crate::protocol::peer::{SnapshotStep, Step};
use crate::server::Server;
use crate::shard::{Awaited, Checkpoint, Made, Outgoing, TreeError};

/// Pieces are not sent while this much waits to be: what Raft has to say is queued behind it, some
/// 5 ms on a link of 1 Gbit/s.
const QUEUE_LEN_MAX: usize = 512 << 10;
/// Snapshots that are on their way to a node at a time.
const SENDING_MAX: usize = 4;
/// One that was given up for want of memory is not begun again before.
const REST: Duration = Duration::from_secs(10);

enum Stage<E: Env> {
    /// The checkpoint is being made.
    Making(Awaited<Made<E>>),
    /// The other is to say what it has of it.
    Offered,
    /// Its tables are being sent.
    Sending(Outgoing),
    /// The other is to say that it has them.
    Sent,
    /// And then to take it up.
    Staged,
    /// It has, and now takes up the log behind it.
    Following,
}

pub(super) struct Sending<E: Env> {
    stage: Stage<E>,
    /// The entry up to which the checkpoint goes, once it is made; then the last one that the other
    /// has. The log behind it is kept.
    index: u64,
    /// Which is held open until the other has it.
    checkpoint: Option<Rc<Checkpoint<E>>>,
    /// How often its head was sent; when, and over a connection since when.
    attempt: u64,
    asked: Duration,
    over: Option<Duration>,
    /// Bytes of its tables that were sent, and those that the other has.
    sent: u64,
    taken: u64,
    /// When it went on.
    stirred: Duration,
}

impl<E: Env> Sending<E> {
    fn new(made: Awaited<Made<E>>, index: u64, now: Duration) -> Self {
        Self {
            stage: Stage::Making(made),
            index,
            checkpoint: None,
            attempt: 0,
            asked: now,
            over: None,
            sent: 0,
            taken: 0,
            stirred: now,
        }
    }

    /// Whether the other has to be asked what it has, over a connection that is there since then.
    fn is_to_ask(&self, since: Duration, now: Duration) -> bool {
        let is_silent = now.saturating_sub(self.asked.max(self.stirred)) >= ASK_EVERY;
        self.over != Some(since) || (is_silent && !matches!(self.stage, Stage::Staged))
    }

    /// The other has all entries up to `index`, and its tables those of the checkpoint.
    fn follow(&mut self, index: u64, now: Duration) {
        if index > self.index || self.checkpoint.is_some() {
            (self.index, self.stirred) = (index, now);
        }
        (self.stage, self.checkpoint) = (Stage::Following, None);
    }

    /// Sends the head.
    fn ask(&mut self, partition: PartitionId, link: &mut Link, now: Duration) {
        let Some(checkpoint) = &self.checkpoint else { return };
        (self.attempt, self.asked, self.over) = (self.attempt + 1, now, Some(link.since()));
        self.stage = Stage::Offered;
        let (a, b, c) = (checkpoint.index(), checkpoint.index_term(), self.attempt);
        let (step, bytes) = (Step::Head, &checkpoint.head()[..]);
        link.push_step(&SnapshotStep { step, partition, a, b, c, bytes });
    }

    /// Sends what may be on its way.
    fn send_pieces(&mut self, partition: PartitionId, link: &mut Link) -> Result<(), TreeError> {
        let Stage::Sending(outgoing) = &self.stage else { return Ok(()) };
        while link.queued_len() < QUEUE_LEN_MAX && self.sent < self.taken + WINDOW_LEN {
            let Some(piece) = outgoing.take()? else {
                if outgoing.is_over() {
                    let (step, a, b, bytes) = (Step::End, 0, 0, &[][..]);
                    link.push_step(&SnapshotStep { step, partition, a, b, c: 0, bytes });
                    self.stage = Stage::Sent;
                }
                return Ok(());
            };
            self.sent += piece.bytes.len() as u64;
            let (a, b, c) = (u64::from(piece.table), piece.offset, piece.digest.unwrap_or(0));
            let step = if piece.digest.is_some() { Step::LastPiece } else { Step::Piece };
            link.push_step(&SnapshotStep { step, partition, a, b, c, bytes: &piece.bytes });
        }
        Ok(())
    }
}

impl<E: Env> Server<E> {
    /// Begins what Raft asks for, and goes on with what has begun.
    pub(in super::super) fn send_snapshots(&mut self, peers: &mut Peers) {
        let mut wanted = std::mem::take(&mut self.snapshots.wanted);
        self.shard.take_snapshots_wanted(&mut wanted);
        for (place, node) in wanted.drain(..) {
            self.begin_snapshot(place, node);
        }
        self.snapshots.wanted = wanted;
        let now = self.env.now();
        for ((node, place), mut sending) in std::mem::take(&mut self.snapshots.sending) {
            let number = peers.members.number(node, self.shard.id());
            let goes_on = match peers.links.get_mut(&number) {
                Some(_) if now.saturating_sub(sending.stirred) >= PATIENCE => false,
                Some(link) if link.is_up() => self.go_on_with((node, place), &mut sending, link),
                Some(_) => self.shard.partition(place).is_leader(),
                None => false,
            };
            match goes_on {
                true => drop(self.snapshots.sending.insert((node, place), sending)),
                false => self.snapshots.ended.push((node, place)),
            }
        }
        self.give_up_longest();
        for (node, place) in std::mem::take(&mut self.snapshots.ended) {
            self.shard.end_snapshot(place, node);
            self.pin_log(place);
        }
        for place in std::mem::take(&mut self.snapshots.moved) {
            self.pin_log(place);
        }
    }

    /// Gives the snapshots of a partition up for which so much of the log is kept that others go
    /// short of memory.
    fn give_up_longest(&mut self) {
        if self.snapshots.sending.is_empty() {
            return;
        }
        let Some(place) = self.shard.overlong_pin() else { return };
        let until = self.env.now() + REST;
        let of_it = self.snapshots.sending.extract_if(.., |(_, of), _| *of == place);
        let given_up: Vec<_> = of_it.map(|(of, _)| of).collect();
        for (node, place) in given_up {
            let partition = self.shard.partition(place).id();
            tracing::warn!(%node, %partition, "a snapshot is given up: its log is too long");
            self.snapshots.rests.insert((node, place), until);
            self.snapshots.ended.push((node, place));
        }
    }

    fn begin_snapshot(&mut self, place: u32, node: NodeId) {
        let (first, last, now) = ((node, 0), (node, u32::MAX), self.env.now());
        self.snapshots.rests.retain(|_, until| now < *until);
        let under_way = self.snapshots.sending.range(first..=last);
        let under_way = under_way.filter(|(_, of)| !matches!(of.stage, Stage::Following)).count();
        let of_it = (node, place);
        if under_way >= SENDING_MAX
            || self.snapshots.sending.contains_key(&of_it)
            || self.snapshots.rests.contains_key(&of_it)
        {
            return;
        }
        // Nothing behind what is committed now is let go until the checkpoint says how far it goes.
        let index = self.shard.partition(place).committed().index;
        tracing::info!(%node, partition = %self.shard.partition(place).id(), "sending a snapshot");
        self.shard.stats().snapshots_begun.add(1);
        let sending = Sending::new(self.shard.checkpoint(place), index, now);
        self.snapshots.sending.insert(of_it, sending);
        self.pin_log(place);
    }

    /// Keeps a partition's log for the snapshots that are on their way.
    fn pin_log(&mut self, place: u32) {
        let of_it = self.snapshots.sending.iter().filter(|((_, of), _)| *of == place);
        let kept_from = of_it.map(|(_, sending)| sending.index).min();
        self.shard.pin_log(place, kept_from);
    }

    /// False: it is over, one way or the other.
    fn go_on_with(
        &mut self,
        (node, place): (NodeId, u32),
        sending: &mut Sending<E>,
        link: &mut Link,
    ) -> bool {
        let (partition, now) = (self.shard.partition(place).id(), self.env.now());
        if let Stage::Making(made) = &sending.stage {
            match made.take() {
                None => return true,
                Some(Err(error)) => {
                    tracing::warn!(%partition, %error, "no snapshot can be made");
                    return false;
                }
                Some(Ok(checkpoint)) => {
                    (sending.index, sending.stirred) = (checkpoint.index(), now);
                    self.snapshots.moved.push(place);
                    sending.checkpoint = Some(Rc::new(checkpoint));
                }
            }
        }
        let Some(known) = self.shard.partition(place).acknowledged(node) else { return false };
        if known >= sending.index {
            sending.follow(known, now);
            self.snapshots.moved.push(place);
            return self.shard.lags(place, node);
        }
        if sending.is_to_ask(link.since(), now) {
            sending.ask(partition, link, now);
        }
        let before = sending.sent;
        let sent = sending.send_pieces(partition, link);
        self.shard.stats().snapshot_bytes.add(sending.sent - before);
        match sent {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%partition, %error, "a snapshot can not be read");
                false
            }
        }
    }

    /// The other has taken so many bytes of what was offered in an attempt.
    pub(super) fn on_took(&mut self, node: NodeId, step: &SnapshotStep<'_>) {
        let Some(place) = self.shard.place_of(step.partition) else { return };
        let Some(sending) = self.snapshots.sending.get_mut(&(node, place)) else { return };
        let Some(checkpoint) = &sending.checkpoint else { return };
        let (taken, whole) = (step.b, checkpoint.byte_len());
        if (sending.index, sending.attempt) != (step.a, step.c) || taken > whole {
            return;
        }
        if taken > sending.taken || taken == whole {
            sending.stirred = self.env.now();
        }
        if matches!(sending.stage, Stage::Offered) {
            let outgoing = self.shard.send_out(Rc::clone(checkpoint), taken);
            (sending.stage, sending.sent) = (Stage::Sending(outgoing), taken);
        }
        sending.taken = taken;
    }

    /// The other has staged what was sent.
    pub(super) fn on_staged(&mut self, node: NodeId, step: &SnapshotStep<'_>) {
        let (partition, index) = (step.partition, step.a);
        let Some(place) = self.shard.place_of(partition) else { return };
        let Some(sending) = self.snapshots.sending.get_mut(&(node, place)) else { return };
        if sending.index != index || sending.checkpoint.is_none() {
            return;
        }
        (sending.stage, sending.stirred) = (Stage::Staged, self.env.now());
        if !self.shard.offer_snapshot(place, node, index) {
            tracing::warn!(%partition, "a snapshot came too late: the log has gone on");
            self.snapshots.sending.remove(&(node, place));
            self.pin_log(place);
        }
    }
}
