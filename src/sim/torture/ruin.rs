//! A node that loses what it had, all of it or single bits, and what its operator does then.
//!
//! Who is wiped can not come back as who it was, having forgotten whom it voted for and what it
//! acknowledged: if its operator tries, nobody speaks with it. The operator removes it, and has its
//! machine join anew, under a number of its own. So it is done, too, with a node that refuses its
//! start because bits of its files were flipped: it may serve as if nothing was, if nothing is
//! missing, or has to name a file.
//!
//! What one node has lost is with the others as long as a partition has three replicas or more,
//! whichever of them agreed on it. So one machine is struck in a storm at most, and whoever wishes
//! for members in such a storm wishes for nothing that leaves fewer ([`Ruin::careful`]).

use std::path::PathBuf;
use std::time::Duration;

use super::Done;
use super::cluster::Cluster;
use super::house::{House, PEER_PORT};
use super::nemesis::{Knock, drawn, wish};
use crate::cluster::{Action, State};
use crate::limits::SECTOR_LEN;
use crate::sim::{Client, Faults, Rng};

/// Replicas without which nobody is struck.
const REPLICAS_MIN: u8 = 3;
/// A storm has more troubles than this, mostly: before one of so many it strikes.
const TROUBLES_BEFORE: u64 = 4;
/// The longest time until the operator does the next thing.
const TENDED_MAX: Duration = Duration::from_secs(1);
/// Most files that are hit at once.
const FILES_MAX: u64 = 3;

/// How a node is ruined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// It is killed, and its disk is empty.
    Wipe,
    /// One bit is another in some of its files, while it runs or after it was killed.
    Flip,
}

/// See the module's header.
pub(super) struct Ruin {
    rng: Rng,
    /// Before which of the storm's troubles each comes.
    due: [Option<u64>; 2],
    /// The machine that was struck.
    victim: Option<usize>,
    is_flipped: bool,
    /// Its disk is empty, and it is no node yet.
    is_wiped: bool,
    /// It may be started as who it was.
    may_err: bool,
    /// It runs as who it was.
    is_astray: bool,
    /// The operator does nothing before.
    rests_until: Duration,
    joining: Option<Knock>,
    wishes: Vec<Client>,
    /// Who was drained, and may still be.
    drained: Option<u64>,
}

impl Ruin {
    /// What a storm over `cluster` has of it.
    pub fn drawn(mut rng: Rng, cluster: &Cluster) -> Self {
        let house = &cluster.houses[0];
        let is_many = house.members.is_some() && cluster.houses.len() >= REPLICAS_MIN.into();
        let can_be = is_many && house.shape.replicas >= REPLICAS_MIN;
        let fates = [rng.below(5) < 2, rng.one_in(2)];
        let due = fates.map(|is_due| {
            let before = rng.below(TROUBLES_BEFORE);
            (is_due && can_be).then_some(before)
        });
        Self {
            rng,
            due,
            victim: None,
            is_flipped: false,
            is_wiped: false,
            may_err: false,
            is_astray: false,
            rests_until: Duration::ZERO,
            joining: None,
            wishes: Vec::new(),
            drained: None,
        }
    }

    /// What comes before a trouble, and which machine it strikes; `one`: if none was before.
    pub fn next(&self, trouble: u64, one: usize) -> Option<(Blow, usize)> {
        let at = self.victim.unwrap_or(one);
        match self.due {
            [Some(wipe), _] if wipe == trouble => Some((Blow::Wipe, at)),
            [_, Some(flip)] if flip == trouble => Some((Blow::Flip, at)),
            _ => None,
        }
    }

    /// Strikes. Of no effect on who has lost all it had already, or is new.
    pub fn strike(&mut self, cluster: &Cluster, blow: Blow, at: usize, done: &mut Done) {
        let house = &cluster.houses[at];
        let is_new = house.id() != house.node.id();
        if self.is_wiped || is_new {
            return;
        }
        self.victim = Some(at);
        match blow {
            Blow::Wipe => self.wipe(house, done),
            Blow::Flip => {
                if house.node.is_up() && self.rng.one_in(2) {
                    done.kills += 1;
                    house.node.kill();
                }
                self.flip(house, done);
            }
        }
    }

    fn wipe(&mut self, house: &House, done: &mut Done) {
        if house.node.is_up() {
            done.kills += 1;
        }
        house.node.kill();
        house.node.wipe();
        done.wiped += 1;
        (self.is_wiped, self.is_flipped) = (true, false);
        (self.is_astray, self.may_err) = (false, self.rng.one_in(2));
    }

    /// One bit each of some files, in sectors that have something in them.
    fn flip(&mut self, house: &House, done: &mut Done) {
        let mut kinds = files(house);
        for _ in 0..self.rng.between(1, FILES_MAX) {
            // Each once: two bits of one block are not told from a torn one.
            let files = &mut kinds[self.rng.index(3)];
            if files.is_empty() {
                continue;
            }
            let path = files.swap_remove(self.rng.index(files.len()));
            let bytes = house.node.read_file(&path).unwrap_or_default();
            let sectors = bytes.chunks(SECTOR_LEN).enumerate();
            let sectors = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
            let sectors: Vec<_> = sectors.collect();
            // Behind the last one there is nothing that knows of it.
            let place = if self.rng.one_in(3) { 0 } else { self.rng.index(sectors.len().max(1)) };
            let Some((number, sector)) = sectors.iter().rev().nth(place) else { continue };
            // Most are not as full as they are long.
            let end = sector.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let len = if self.rng.one_in(8) { sector.len() } else { end };
            let at = self.rng.index(len);
            let (offset, bit) = ((number * SECTOR_LEN + at) as u64, self.rng.below(8) as u8);
            if house.node.flip_bit(&path, offset, bit) {
                done.flips += 1;
                self.is_flipped = true;
            }
        }
    }

    /// Whether a machine's disk is empty and waits for its operator.
    pub fn has_wiped(&self, at: usize) -> bool {
        self.is_wiped && self.victim == Some(at)
    }

    /// Whether a machine's files are damaged, as far as is known.
    pub fn has_flipped(&self, at: usize) -> bool {
        self.is_flipped && self.victim == Some(at)
    }

    /// A node does not start: its operator wipes it, if that is as it has to be.
    ///
    /// # Errors
    /// It is not.
    pub fn cure(
        &mut self,
        house: &House,
        at: usize,
        error: &str,
        done: &mut Done,
    ) -> Result<(), String> {
        if !self.has_flipped(at) {
            return Err(error.to_owned());
        }
        if !error.contains("/data/shard-") {
            return Err(format!("bits were flipped, and no file is named: {error}"));
        }
        done.detected += 1;
        self.wipe(house, done);
        Ok(())
    }

    /// The operator does what is due for a machine that was wiped: whoever is reached there has to
    /// be removed before it is let in. It starts on a sound disk.
    ///
    /// # Errors
    /// It does not start.
    pub fn tend(&mut self, cluster: &mut Cluster, done: &mut Done) -> Result<(), String> {
        let Some(at) = self.victim.filter(|_| self.is_wiped) else { return Ok(()) };
        if let Some(knock) = &mut self.joining {
            let Some(answer) = knock.answer() else { return Ok(()) };
            self.joining = None;
            if let Some(told) = answer {
                let node = &cluster.houses[at].node;
                node.set_faults(Faults::none());
                node.set_capacity(u64::MAX);
                self.is_wiped = false;
                done.lives += 1;
                return cluster.replace(at, &told);
            }
        }
        if cluster.sim.now() < self.rests_until {
            return Ok(());
        }
        if cluster.houses[at].shape.careless {
            self.is_wiped = false;
            cluster.houses[at].node.make_dir("/data");
            return cluster.houses[at].boot();
        }
        self.rests_until = cluster.sim.now() + drawn(&mut self.rng, TENDED_MAX);
        if std::mem::take(&mut self.is_astray) {
            let node = &cluster.houses[at].node;
            node.kill();
            node.wipe();
        } else if std::mem::take(&mut self.may_err) && is_known(cluster, at) {
            let house = &mut cluster.houses[at];
            house.node.set_faults(Faults::none());
            house.node.set_capacity(u64::MAX);
            house.node.make_dir("/data");
            self.is_astray = true;
            done.impostors += 1;
            return house.boot();
        }
        let count = cluster.houses.len();
        let other = &cluster.houses[(at + 1 + self.rng.index(count - 1)) % count];
        let peer = cluster.houses[at].node.addr(PEER_PORT);
        let known = other.members.as_ref().map(|members| members.topology());
        let known = known.as_ref().and_then(|known| {
            known.nodes.iter().find(|of| of.peer == peer && of.state != State::Removed)
        });
        match known {
            Some(member) if !self.rng.one_in(8) => {
                self.wishes.truncate(8);
                let action = Action::Remove { node: member.id };
                self.wishes.insert(0, wish(cluster, other.node.id(), &action));
            }
            _ => {
                let cores = other.shape.shards;
                let action = Action::Join { peer, zone: String::new(), cores };
                self.joining = Some(Knock::new(wish(cluster, other.node.id(), &action)));
            }
        }
        Ok(())
    }

    /// Whether there is nothing to tend.
    pub fn is_over(&self) -> bool {
        !self.is_wiped
    }

    /// A wish as whoever wishes has to have it who knows that a node may be lost.
    pub fn careful(&mut self, cluster: &Cluster, action: Action) -> Action {
        if self.due == [None; 2] {
            return action;
        }
        match action {
            Action::Replicas { count } => Action::Replicas { count: count.max(REPLICAS_MIN) },
            // One that is drained, and one that is lost.
            Action::Drain { node } => {
                let can_go = cluster.houses.len() >= usize::from(REPLICAS_MIN) + 2;
                match can_go && *self.drained.get_or_insert(node) == node {
                    true => Action::Drain { node },
                    false => Action::Restore { node },
                }
            }
            action => action,
        }
    }
}

/// Whether all others would tell a machine's node from another: it was heard of for a while.
fn is_known(cluster: &Cluster, at: usize) -> bool {
    let id = cluster.houses[at].id();
    let others = cluster.houses.iter().filter(|house| house.id() != id);
    let mut members = others.filter_map(|house| house.members.as_ref());
    members.all(|members| members.incarnation_of(id) != 0)
}

/// A node's files that may be hit: log, tables, manifest.
fn files(house: &House) -> [Vec<PathBuf>; 3] {
    let mut kinds = [const { Vec::new() }; 3];
    for shard in 0..house.shape.shards {
        for part in ["wal", "tree"] {
            let dir = format!("/data/shard-{shard:02}/{part}");
            for name in house.node.names(&dir) {
                let kind = match name.rsplit_once('.') {
                    // Others are spare.
                    Some((name, "wal")) if name.parse::<u64>().is_ok() => 0,
                    Some((_, "sst")) => 1,
                    Some((_, "manifest")) => 2,
                    _ => continue,
                };
                kinds[kind].push(PathBuf::from(format!("{dir}/{name}")));
            }
        }
    }
    kinds
}
