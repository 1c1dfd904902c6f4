//! The side of the replica that lacks it.

use std::collections::VecDeque;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::super::Peers;
use super::super::link::Link;
use super::{PATIENCE, Staged, WINDOW_LEN};
use crate::env::Env;
use crate::id::{NodeId, PartitionId, ShardId};
use crate::protocol::peer::{SnapshotStep, Step};
use crate::server::Server;
use crate::shard::{Incoming, Piece};

/// Where a piece begins, or is to.
type Spot = (u32, u64);

pub(super) struct Receiving {
    /// Of whom.
    from: ShardId,
    index: u64,
    term: u64,
    /// A hash of the head.
    head: u64,
    /// How often the head has come.
    attempt: u64,
    /// None: it could not be taken in. It is not tried again before it is forgotten.
    incoming: Option<Incoming>,
    /// Pieces for which there was no room yet.
    waiting: VecDeque<Piece>,
    waiting_len: u64,
    /// Where the next piece begins that comes, and that is handed on.
    next: Spot,
    next_handed: Spot,
    /// Bytes that were handed on, and what the sender was told last in this attempt.
    taken: u64,
    told: Option<u64>,
    is_whole: bool,
    /// When something of it came.
    heard: Duration,
}

impl Receiving {
    fn begin(step: &SnapshotStep<'_>, from: ShardId, incoming: Incoming, now: Duration) -> Self {
        Self {
            from,
            index: step.a,
            term: step.b,
            head: xxh3_64(step.bytes),
            attempt: step.c,
            incoming: Some(incoming),
            waiting: VecDeque::new(),
            waiting_len: 0,
            next: (0, 0),
            next_handed: (0, 0),
            taken: 0,
            told: None,
            is_whole: false,
            heard: now,
        }
    }

    /// The head has come again: goes on behind what was handed on. False: it is another's.
    fn go_on(&mut self, step: &SnapshotStep<'_>, from: ShardId, now: Duration) -> bool {
        let is_same = (self.from, self.index, self.term) == (from, step.a, step.b)
            && self.head == xxh3_64(step.bytes);
        if !is_same {
            return false;
        }
        if self.incoming.is_some() {
            (self.attempt, self.told, self.heard) = (step.c, None, now);
            (self.waiting_len, self.next, self.is_whole) = (0, self.next_handed, false);
            self.waiting.clear();
        }
        true
    }

    /// A piece has come.
    fn take(&mut self, piece: Piece) -> Result<(), &'static str> {
        let len = piece.bytes.len() as u64;
        if (piece.table, piece.offset) != self.next {
            // Of an attempt that is over.
            return Ok(());
        }
        if self.waiting_len + len > 2 * WINDOW_LEN {
            return Err("more has come than may be on its way");
        }
        self.next = behind(&piece);
        self.waiting_len += len;
        self.waiting.push_back(piece);
        Ok(())
    }

    /// Puts as much on the belt as there is room for. True: it has ended.
    fn hand_on(&mut self) -> bool {
        let Some(incoming) = &self.incoming else { return false };
        while incoming.has_room()
            && let Some(piece) = self.waiting.pop_front()
        {
            let len = piece.bytes.len() as u64;
            (self.waiting_len, self.taken) = (self.waiting_len - len, self.taken + len);
            self.next_handed = behind(&piece);
            incoming.put(piece);
        }
        if self.is_whole && self.waiting.is_empty() {
            incoming.finish();
        }
        incoming.has_ended()
    }

    /// Tells the sender how far it has come.
    fn tell(&mut self, partition: PartitionId, link: &mut Link) {
        if self.incoming.is_some() && self.told != Some(self.taken) && link.is_up() {
            self.told = Some(self.taken);
            let (step, a, b, c) = (Step::Took, self.index, self.taken, self.attempt);
            link.push_step(&SnapshotStep { step, partition, a, b, c, bytes: &[] });
        }
    }
}

/// Where the piece behind one begins.
fn behind(piece: &Piece) -> Spot {
    match piece.digest {
        Some(_) => (piece.table + 1, 0),
        None => (piece.table, piece.offset + piece.bytes.len() as u64),
    }
}

impl<E: Env> Server<E> {
    /// A step of a snapshot's way has come from a shard of another node.
    pub(in super::super) fn take_snapshot_step(
        &mut self,
        from: (ShardId, NodeId),
        step: &SnapshotStep<'_>,
    ) -> Result<(), String> {
        let place = self.shard.place_of(step.partition).ok_or("a snapshot of another shard's")?;
        match step.step {
            Step::Staged => self.on_staged(from.1, step),
            Step::Took => self.on_took(from.1, step),
            Step::Head => return self.take_head(from.0, place, step),
            Step::Piece | Step::LastPiece | Step::End => {
                return self.take_piece(from.0, place, step);
            }
        }
        Ok(())
    }

    fn take_head(
        &mut self,
        from: ShardId,
        place: u32,
        step: &SnapshotStep<'_>,
    ) -> Result<(), String> {
        let (index, term, now) = (step.a, step.b, self.env.now());
        let partition = self.shard.partition(place);
        let has_it = !partition.is_vacant() && partition.committed().index >= index;
        if has_it || partition.is_installing() {
            // Raft tells.
            return Ok(());
        }
        if self.shard.has_staged(place, index, term) {
            self.snapshots.staged.push((from, Staged { place, index, term }));
            return Ok(());
        }
        let receiving = self.snapshots.receiving.get_mut(&place);
        if receiving.is_some_and(|receiving| receiving.go_on(step, from, now)) {
            return Ok(());
        }
        let incoming = self.shard.receive_checkpoint(place, step.bytes);
        let incoming = incoming.map_err(|error| error.to_string())?;
        let new = Receiving::begin(step, from, incoming, now);
        self.snapshots.receiving.insert(place, new);
        Ok(())
    }

    fn take_piece(
        &mut self,
        from: ShardId,
        place: u32,
        step: &SnapshotStep<'_>,
    ) -> Result<(), String> {
        let receiving = self.snapshots.receiving.get_mut(&place);
        let is_meant = |of: &&mut Receiving| of.from == from && of.incoming.is_some();
        let Some(receiving) = receiving.filter(is_meant) else { return Ok(()) };
        receiving.heard = self.env.now();
        if step.step == Step::End {
            receiving.is_whole = true;
            return Ok(());
        }
        let piece = Piece {
            table: u32::try_from(step.a).map_err(|_| "a table without a number")?,
            offset: step.b,
            bytes: step.bytes.to_vec(),
            digest: (step.step == Step::LastPiece).then_some(step.c),
        };
        Ok(receiving.take(piece)?)
    }

    /// Hands on what has come, and tells who sent it how much that is, and when all of it is on the
    /// disk.
    pub(in super::super) fn receive_snapshots(&mut self, peers: &mut Peers) {
        let now = self.env.now();
        let receiving = &mut self.snapshots.receiving;
        receiving.retain(|_, of| now.saturating_sub(of.heard) < PATIENCE);
        let mut ended = Vec::new();
        for (place, receiving) in receiving {
            if receiving.hand_on() {
                ended.push(*place);
            } else if let Some(link) = peers.links.get_mut(&receiving.from) {
                receiving.tell(self.shard.partition(*place).id(), link);
            }
        }
        for place in ended {
            self.end_receiving(place);
        }
        for (to, Staged { place, index, term }) in std::mem::take(&mut self.snapshots.staged) {
            let partition = self.shard.partition(place).id();
            if let Some(link) = peers.links.get_mut(&to) {
                let (step, a, b, bytes) = (Step::Staged, index, term, &[][..]);
                link.push_step(&SnapshotStep { step, partition, a, b, c: 0, bytes });
            }
        }
    }

    fn end_receiving(&mut self, place: u32) {
        let Some(receiving) = self.snapshots.receiving.get_mut(&place) else { return };
        let Receiving { from, index, term, .. } = *receiving;
        let Some(incoming) = receiving.incoming.take() else { return };
        match incoming.take_staged() {
            Some(Ok(staged)) => {
                self.snapshots.receiving.remove(&place);
                self.shard.stage(place, staged);
                self.snapshots.staged.push((from, Staged { place, index, term }));
            }
            Some(Err(error)) => {
                let partition = self.shard.partition(place).id();
                tracing::warn!(%partition, %error, "a snapshot can not be taken in");
            }
            None => {}
        }
    }
}
