//! Snapshots on their way: a partition's tables go to a replica that lacks more of the log than is
//! left of it.
//!
//! The leader makes a checkpoint, sends its head and its tables piece by piece as the link takes
//! them, and offers it to Raft once the other says that it has staged them; until then, and a while
//! longer, it keeps its log behind the checkpoint. A few at a time to each node: each waits for
//! several round trips and syncs, and all share what the disk and the link have to give.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Peers;
use super::link::Link;
use crate::env::Env;
use crate::id::{NodeId, PartitionId, ShardId};
use crate::protocol::peer::{SnapshotStep, Step};
use crate::server::Server;
use crate::shard::{Awaited, Incoming, Made, Outgoing, Piece};

/// Pieces are not read while this much waits to be sent.
const QUEUE_LEN_MAX: usize = 2 << 20;
/// Pieces that may wait for the disk; more, and the snapshot is given up, to be sent anew.
const WAITING_MAX: usize = 256;
/// Snapshots that are on their way to a node at a time.
const SENDING_MAX: usize = 4;
/// How long the log is kept for whom nothing is heard of.
const PATIENCE: Duration = Duration::from_secs(60);

enum Stage<E: Env> {
    /// The checkpoint is being made.
    Making(Awaited<Made<E>>),
    /// Its tables are being sent.
    Sending(Outgoing),
    /// The other is to say that it has them, and then to take up the log.
    Sent,
}

struct Sending<E: Env> {
    stage: Stage<E>,
    /// The entry up to which the checkpoint goes, once it is made.
    index: u64,
    /// It is given up then.
    until: Duration,
}

struct Receiving {
    /// Of whom.
    from: ShardId,
    index: u64,
    term: u64,
    incoming: Incoming,
    /// Pieces for which there was no room yet.
    waiting: VecDeque<Piece>,
    is_whole: bool,
}

/// See the module's header. Lives on one core.
pub(in crate::server) struct Snapshots<E: Env> {
    /// By node, and place of the partition.
    sending: BTreeMap<(NodeId, u32), Sending<E>>,
    receiving: BTreeMap<u32, Receiving>,
    wanted: Vec<(u32, NodeId)>,
}

impl<E: Env> Default for Snapshots<E> {
    fn default() -> Self {
        Self { sending: BTreeMap::new(), receiving: BTreeMap::new(), wanted: Vec::new() }
    }
}

/// Sending.
impl<E: Env> Server<E> {
    /// Begins what Raft asks for, and goes on with what has begun.
    pub(super) fn send_snapshots(&mut self, peers: &mut Peers) {
        let mut wanted = std::mem::take(&mut self.snapshots.wanted);
        self.shard.take_snapshots_wanted(&mut wanted);
        for (place, node) in wanted.drain(..) {
            self.begin_snapshot(place, node);
        }
        self.snapshots.wanted = wanted;
        for ((node, place), mut sending) in std::mem::take(&mut self.snapshots.sending) {
            let number = peers.members.number(node, self.shard.id());
            let link = peers.links.get_mut(&number).filter(|link| link.is_up());
            let goes_on = match link {
                Some(link) if self.env.now() < sending.until => {
                    self.go_on_with((node, place), &mut sending, link)
                }
                _ => false,
            };
            match goes_on {
                true => drop(self.snapshots.sending.insert((node, place), sending)),
                false => {
                    self.unpin_log(place);
                    self.shard.end_snapshot(place, node);
                }
            }
        }
    }

    fn begin_snapshot(&mut self, place: u32, node: NodeId) {
        let (first, last) = ((node, 0), (node, u32::MAX));
        let under_way = self.snapshots.sending.range(first..=last).count();
        if under_way >= SENDING_MAX || self.snapshots.sending.contains_key(&(node, place)) {
            return;
        }
        // Nothing behind what is committed now is let go until the checkpoint says how far it goes.
        let index = self.shard.partition(place).committed().index;
        let others = self.snapshots.sending.iter().filter(|((_, of), _)| *of == place);
        let kept_from = others.map(|(_, sending)| sending.index).min().unwrap_or(index);
        self.shard.pin_log(place, Some(kept_from.min(index)));
        tracing::info!(%node, partition = %self.shard.partition(place).id(), "sending a snapshot");
        let stage = Stage::Making(self.shard.checkpoint(place));
        let until = self.env.now() + PATIENCE;
        self.snapshots.sending.insert((node, place), Sending { stage, index, until });
    }

    /// A snapshot of a partition is over; the log is kept for those that are not.
    fn unpin_log(&mut self, place: u32) {
        let others = self.snapshots.sending.iter().filter(|((_, of), _)| *of == place);
        let kept_from = others.map(|(_, sending)| sending.index).min();
        self.shard.pin_log(place, kept_from);
    }

    /// False: it is over, one way or the other.
    fn go_on_with(
        &mut self,
        (node, place): (NodeId, u32),
        sending: &mut Sending<E>,
        link: &mut Link,
    ) -> bool {
        let partition = self.shard.partition(place).id();
        match &sending.stage {
            Stage::Making(made) => match made.take() {
                None => true,
                Some(Err(error)) => {
                    tracing::warn!(%partition, %error, "no snapshot can be made");
                    false
                }
                Some(Ok(checkpoint)) => {
                    let (a, b) = (checkpoint.index(), checkpoint.index_term());
                    let (step, bytes) = (Step::Head, &checkpoint.head()[..]);
                    link.push_step(&SnapshotStep { step, partition, a, b, c: 0, bytes });
                    sending.index = a;
                    sending.stage = Stage::Sending(self.shard.send_out(checkpoint));
                    true
                }
            },
            Stage::Sending(outgoing) => match send_pieces(outgoing, partition, link) {
                Ok(false) => true,
                Ok(true) => {
                    let (step, a, b, bytes) = (Step::End, 0, 0, &[][..]);
                    link.push_step(&SnapshotStep { step, partition, a, b, c: 0, bytes });
                    sending.stage = Stage::Sent;
                    sending.until = self.env.now() + PATIENCE;
                    true
                }
                Err(error) => {
                    tracing::warn!(%partition, %error, "a snapshot can not be read");
                    false
                }
            },
            // Until it has taken it up, and with it the log behind.
            Stage::Sent => !self.shard.partition(place).has_sent(node, sending.index),
        }
    }

    /// The other has staged what was sent.
    fn on_staged(&mut self, node: NodeId, partition: PartitionId, index: u64) {
        let Some(place) = self.shard.place_of(partition) else { return };
        let sending = self.snapshots.sending.get(&(node, place));
        if sending.is_none_or(|sending| sending.index != index) {
            return;
        }
        if !self.shard.offer_snapshot(place, node, index) {
            tracing::warn!(%partition, "a snapshot came too late: the log has gone on");
            self.snapshots.sending.remove(&(node, place));
            self.unpin_log(place);
        }
    }
}

/// True: that was all.
fn send_pieces(
    outgoing: &Outgoing,
    partition: PartitionId,
    link: &mut Link,
) -> Result<bool, crate::shard::TreeError> {
    while link.queued_len() < QUEUE_LEN_MAX {
        let Some(piece) = outgoing.take()? else { return Ok(outgoing.is_over()) };
        let (a, b, c) = (u64::from(piece.table), piece.offset, piece.digest.unwrap_or(0));
        let step = if piece.digest.is_some() { Step::LastPiece } else { Step::Piece };
        link.push_step(&SnapshotStep { step, partition, a, b, c, bytes: &piece.bytes });
    }
    Ok(false)
}

/// Receiving.
impl<E: Env> Server<E> {
    /// A step of a snapshot's way has come from a shard of another node.
    pub(super) fn take_snapshot_step(
        &mut self,
        from: (ShardId, NodeId),
        step: &SnapshotStep<'_>,
    ) -> Result<(), String> {
        let place = self.shard.place_of(step.partition).ok_or("a snapshot of another shard's")?;
        if step.step == Step::Staged {
            self.on_staged(from.1, step.partition, step.a);
            return Ok(());
        }
        if step.step == Step::Head {
            let incoming = self.shard.receive_checkpoint(place, step.bytes);
            let incoming = incoming.map_err(|error| error.to_string())?;
            let (from, index, term, waiting) = (from.0, step.a, step.b, VecDeque::new());
            let is_whole = false;
            let new = Receiving { from, index, term, incoming, waiting, is_whole };
            self.snapshots.receiving.insert(place, new);
            return Ok(());
        }
        let receiving = self.snapshots.receiving.get_mut(&place);
        let Some(receiving) = receiving.filter(|of| of.from == from.0) else { return Ok(()) };
        if receiving.waiting.len() > WAITING_MAX {
            tracing::warn!(partition = %step.partition, "a snapshot comes faster than the disk is");
            self.snapshots.receiving.remove(&place);
            return Ok(());
        }
        match step.step {
            Step::Piece | Step::LastPiece => receiving.waiting.push_back(Piece {
                table: u32::try_from(step.a).map_err(|_| "a table without a number")?,
                offset: step.b,
                bytes: step.bytes.to_vec(),
                digest: (step.step == Step::LastPiece).then_some(step.c),
            }),
            _ => receiving.is_whole = true,
        }
        Ok(())
    }

    /// Hands on what has come, and tells who sent it when all of it is on the disk.
    pub(super) fn receive_snapshots(&mut self, peers: &mut Peers) {
        let mut ended = Vec::new();
        for (place, receiving) in &mut self.snapshots.receiving {
            if receiving.hand_on() {
                ended.push(*place);
            }
        }
        for place in ended {
            let Some(receiving) = self.snapshots.receiving.remove(&place) else { continue };
            let Receiving { from, index, term, incoming, .. } = receiving;
            let partition = self.shard.partition(place).id();
            match incoming.take_staged() {
                Some(Ok(staged)) => {
                    self.shard.stage(place, staged);
                    if let Some(link) = peers.links.get_mut(&from) {
                        let (step, a, b, bytes) = (Step::Staged, index, term, &[][..]);
                        link.push_step(&SnapshotStep { step, partition, a, b, c: 0, bytes });
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%partition, %error, "a snapshot can not be taken in");
                }
                None => {}
            }
        }
    }
}

impl Receiving {
    /// Puts as much on the belt as there is room for. True: it has ended.
    fn hand_on(&mut self) -> bool {
        while self.incoming.has_room()
            && let Some(piece) = self.waiting.pop_front()
        {
            self.incoming.put(piece);
        }
        if self.is_whole && self.waiting.is_empty() {
            self.incoming.finish();
        }
        self.incoming.has_ended()
    }
}
