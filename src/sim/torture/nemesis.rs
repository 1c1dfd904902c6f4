//! What goes wrong in a cluster, and when: drawn from the seed.
//!
//! Quiet times and troubles follow each other; one trouble in three comes on top of another. A
//! trouble's end heals all roads and disks and starts all nodes that are down, or whose disk failed
//! them: what is durable of their logs is known after a start only. A node of some storms loses
//! what it had ([`super::ruin`]).

use std::collections::BTreeSet;
use std::time::Duration;

use super::Done;
use super::cluster::Cluster;
use super::house::{BINARY_PORT, PEER_PORT};
use super::retriers::framed;
use super::ruin::{Blow, Ruin};
use super::script::Script;
use crate::cluster::{Action, Told};
use crate::id::NodeId;
use crate::protocol::binary::{HEADER_LEN, Header, Hello, Reply, Request, VERSION};
use crate::sim::{Client, DiskLatency, Faults, Node, Rng};

/// The longest quiet time, and the longest trouble, of most and of some.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(8);
/// How late what comes over a slow road may be.
const SLOW_NS: u64 = 2_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// How long a write to a slow disk may take, and a sync.
const SLOW_DISK_NS: u64 = 3_000_000_000;
/// Most bytes that a disk has left which is filled up.
const ROOM_MAX: u64 = 2 << 20;
/// Most nodes of a cluster.
const HOUSES_MAX: u64 = 6;

/// What can go wrong.
const TROUBLES: [Trouble; 15] = [
    Trouble::Kill,
    Trouble::PowerCut,
    Trouble::AllPowerCut,
    Trouble::Pause,
    Trouble::Isolate,
    Trouble::OneWay,
    Trouble::Ring,
    Trouble::Slow,
    Trouble::Clock,
    Trouble::SlowDisk,
    Trouble::SickDisk,
    Trouble::FullDisk,
    Trouble::Members,
    Trouble::Members,
    Trouble::Join,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    PowerCut,
    AllPowerCut,
    Pause,
    /// One node from all others.
    Isolate,
    /// What one sends to another.
    OneWay,
    /// Two from each other, and not from the rest.
    Ring,
    Slow,
    /// A wall clock jumps.
    Clock,
    SlowDisk,
    /// Operations fail, and what was to be synced is lost.
    SickDisk,
    FullDisk,
    /// Somebody wishes for other members.
    Members,
    /// A new node wants to be one of them.
    Join,
}

/// See the module's header.
pub(super) struct Nemesis<'a> {
    rng: Rng,
    script: &'a Script,
    /// Disks that were slow, with what they were before.
    slow: Vec<(usize, DiskLatency)>,
    /// Nodes that may have to be started anew.
    sick: BTreeSet<usize>,
    /// What is due next is due then.
    next_at: Duration,
    in_trouble: bool,
    /// Who wished for other members, as long as they may be heard.
    wishes: Vec<Client>,
    /// Who wants to be one.
    joining: Option<Knock>,
    /// Troubles so far, those that the script leaves out too.
    count: u64,
    ruin: Ruin,
    /// What was done to the nodes so far.
    pub done: Done,
}

impl<'a> Nemesis<'a> {
    pub fn new(rng: Rng, script: &'a Script, cluster: &Cluster) -> Self {
        Self {
            // Storms that have none of it are what they would be without.
            ruin: Ruin::drawn(rng.clone().fork(), cluster),
            rng,
            script,
            slow: Vec::new(),
            sick: BTreeSet::new(),
            next_at: Duration::ZERO,
            in_trouble: false,
            wishes: Vec::new(),
            joining: None,
            count: 0,
            done: Done::default(),
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// A node that does not start.
    pub fn turn(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        self.let_in(cluster)?;
        self.ruin.tend(cluster, &mut self.done)?;
        let now = cluster.sim.now();
        if now < self.next_at {
            return Ok(());
        }
        if self.in_trouble && !self.rng.one_in(3) {
            self.end(cluster)?;
        } else {
            self.in_trouble = true;
            self.strike(cluster);
        }
        let most = if self.rng.one_in(2) { SHORT } else { LONG };
        self.next_at = cluster.sim.now() + self.up_to(most);
        Ok(())
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        drawn(&mut self.rng, most)
    }

    /// Draws a trouble, and makes it unless the script leaves it out: what comes later is the same.
    fn strike(&mut self, cluster: &Cluster) {
        let count = cluster.houses.len();
        let one = self.rng.index(count);
        let other = (one + 1 + self.rng.index(count.max(2) - 1)) % count;
        let trouble = TROUBLES[self.rng.index(TROUBLES.len())];
        let mut rng = self.rng.fork();
        let ids = [one, other].map(|at| cluster.houses[at].node.id());
        if let Some((blow, at)) = self.ruin.next(self.count, one) {
            self.ruin(cluster, blow, at);
        }
        self.count += 1;
        if self.script.strikes(|| {
            let [one, other] = ids.map(|id| id.0);
            (cluster.sim.now(), format!("{trouble:?}, node {one} (and {other})"))
        }) {
            self.done.troubles += 1;
            match trouble {
                Trouble::SlowDisk | Trouble::SickDisk | Trouble::FullDisk => {
                    self.strike_disk(cluster, one, trouble, &mut rng);
                }
                Trouble::Members => self.wish(cluster, [one, other], &mut rng),
                Trouble::Join => self.join(cluster, ids[0]),
                _ => self.strike_node(cluster, ids, trouble, &mut rng),
            }
        }
    }

    /// A node loses what it had, unless the script leaves it out.
    fn ruin(&mut self, cluster: &Cluster, blow: Blow, at: usize) {
        let id = cluster.houses[at].node.id();
        if self.script.strikes(|| (cluster.sim.now(), format!("{blow:?}, node {id}"))) {
            self.done.troubles += 1;
            self.ruin.strike(cluster, blow, at, &mut self.done);
        }
    }

    fn strike_node(
        &mut self,
        cluster: &Cluster,
        ids: [NodeId; 2],
        trouble: Trouble,
        rng: &mut Rng,
    ) {
        let (sim, node) = (&cluster.sim, cluster.sim.node(ids[0]));
        match trouble {
            Trouble::Kill => {
                self.done.kills += 1;
                node.kill();
            }
            Trouble::PowerCut => self.power_cut(&node),
            Trouble::AllPowerCut => {
                cluster.houses.iter().for_each(|house| self.power_cut(&house.node));
            }
            Trouble::Pause => node.pause_for(drawn(rng, LONG)),
            Trouble::Isolate => sim.isolate(ids[0]),
            Trouble::OneWay => sim.cut(ids[0], ids[1]),
            Trouble::Ring => {
                sim.cut(ids[0], ids[1]);
                sim.cut(ids[1], ids[0]);
            }
            Trouble::Slow => sim.slow_down(ids[0], ids[1], 0..=rng.between(1, SLOW_NS)),
            _ => {
                let jump = rng.between(0, 2 * HOUR_MS) as i64 - HOUR_MS as i64;
                node.set_wall_offset_ms(jump);
            }
        }
    }

    fn strike_disk(&mut self, cluster: &Cluster, at: usize, trouble: Trouble, rng: &mut Rng) {
        let node = &cluster.houses[at].node;
        match trouble {
            Trouble::SlowDisk => {
                self.slow.push((at, node.latency()));
                let ns = 1_000..=rng.between(10_000, SLOW_DISK_NS);
                let (read_ns, write_ns, sync_ns) = (ns.clone(), ns.clone(), ns);
                node.set_latency(DiskLatency { read_ns, write_ns, sync_ns, held_up_ns: 0 });
            }
            Trouble::SickDisk => {
                self.sick.insert(at);
                node.set_faults(Faults::errors([1_000, 20_000, 1_000_000][rng.index(3)]));
            }
            _ => {
                self.sick.insert(at);
                node.set_capacity(node.disk_used() + rng.between(0, ROOM_MAX));
            }
        }
    }

    /// A node knocks at another; whether it is heard is open, and whether it hears.
    fn join(&mut self, cluster: &Cluster, at: NodeId) {
        let next = NodeId(cluster.houses.len() as u64 + 1);
        let is_one = cluster.houses[0].members.is_some();
        if !is_one || next.0 > HOUSES_MAX || self.joining.is_some() {
            return;
        }
        let (peer, zone) = (cluster.sim.node(next).addr(PEER_PORT), String::new());
        let cores = cluster.houses[0].shape.shards;
        self.joining = Some(Knock::new(wish(cluster, at, &Action::Join { peer, zone, cores })));
    }

    /// Who was let in comes. Who does not hear of it does not, as if it had died on the way.
    fn let_in(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        let Some(answer) = self.joining.as_mut().and_then(Knock::answer) else { return Ok(()) };
        self.joining = None;
        answer.map_or(Ok(()), |told| cluster.add(&told))
    }

    /// Asks one node that another have replicas, have none, or lead. Whether it hears is open.
    fn wish(&mut self, cluster: &Cluster, [at, about]: [usize; 2], rng: &mut Rng) {
        let (at, node) = (cluster.houses[at].node.id(), cluster.houses[about].id().0);
        let action = match rng.index(6) {
            0 | 1 => Action::Drain { node },
            2 | 3 => Action::Restore { node },
            4 => Action::Replicas { count: [1, 3, 5][rng.index(3)] },
            _ => Action::Transfer { node: rng.one_in(2).then_some(node) },
        };
        let action = self.ruin.careful(cluster, action);
        self.wishes.truncate(8);
        self.wishes.insert(0, wish(cluster, at, &action));
    }

    fn power_cut(&mut self, node: &Node) {
        self.done.power_cuts += 1;
        node.power_cut();
    }

    /// Ends all troubles.
    ///
    /// # Errors
    /// A node that does not start.
    pub fn end(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        self.in_trouble = false;
        cluster.sim.heal();
        for (at, latency) in self.slow.drain(..).rev() {
            cluster.houses[at].node.set_latency(latency);
        }
        for (at, house) in cluster.houses.iter_mut().enumerate() {
            house.node.unpause();
            if self.sick.contains(&at) || self.ruin.has_flipped(at) {
                house.node.set_faults(Faults::none());
                house.node.set_capacity(u64::MAX);
                if house.node.is_up() {
                    self.done.kills += 1;
                    house.node.kill();
                }
            }
            if house.node.is_up() || self.ruin.has_wiped(at) {
                continue;
            }
            match house.boot() {
                Ok(()) => self.done.lives += 1,
                Err(error) => self.ruin.cure(house, at, &error, &mut self.done)?,
            }
        }
        self.sick.clear();
        Ok(())
    }

    /// Waits until whoever has lost all it had is a node again.
    ///
    /// # Errors
    /// A node that does not start, or is not let in.
    pub fn finish(&mut self, cluster: &mut Cluster, patience: Duration) -> Result<(), String> {
        let end = cluster.sim.now() + patience;
        while !self.ruin.is_over() {
            if cluster.sim.now() > end {
                return Err(format!("{patience:?} after all was healed a node is not let in"));
            }
            self.ruin.tend(cluster, &mut self.done)?;
            cluster.sim.run_for(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Who wants to be a node, and what it was answered so far.
pub(super) struct Knock {
    client: Client,
    got: Vec<u8>,
}

impl Knock {
    pub fn new(client: Client) -> Self {
        Self { client, got: Vec::new() }
    }

    /// Once it is answered, or will not be, whether it is let in.
    pub fn answer(&mut self) -> Option<Option<Told>> {
        let is_over = self.client.is_ended();
        self.got.extend(self.client.received());
        let told = answer(&self.got);
        let told = told.map(|text| Told::decode(&text).ok().filter(|told| told.node > 0));
        told.or_else(|| is_over.then_some(None))
    }
}

pub(super) fn drawn(rng: &mut Rng, most: Duration) -> Duration {
    Duration::from_micros(rng.between(1_000, most.as_micros() as u64))
}

/// Says to a node what is wished for.
pub(super) fn wish(cluster: &Cluster, at: NodeId, action: &Action) -> Client {
    let action = action.encode();
    let hello = Hello { versions: &[VERSION], ..Hello::default() };
    let frames = [framed(1, 0, &Request::Hello(hello)), framed(2, 0, &Request::Cluster(&action))];
    let client = cluster.sim.connect(at, BINARY_PORT);
    client.send(&frames.concat());
    client
}

/// The answer to the second request, if all of it is there.
fn answer(mut bytes: &[u8]) -> Option<String> {
    for _ in 0..2 {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let header = Header::decode(head).ok()?;
        let (body, rest) = rest.split_at_checked(header.body_len as usize)?;
        match Reply::decode(&header, body) {
            Some(Reply::Info(text)) if header.request_id == 2 => return Some(text.to_owned()),
            _ if header.request_id == 2 => return Some(String::new()),
            _ => bytes = rest,
        }
    }
    None
}
