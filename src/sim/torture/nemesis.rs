//! What goes wrong in a cluster, and when: drawn from the seed.
//!
//! Quiet times and troubles follow each other; one trouble in three comes on top of another. A
//! trouble's end heals all roads and starts all nodes that are down.

use std::time::Duration;

use super::Done;
use super::cluster::Cluster;
use super::house::{BINARY_PORT, PEER_PORT};
use super::retriers::framed;
use crate::cluster::{Action, Told};
use crate::id::NodeId;
use crate::protocol::binary::{HEADER_LEN, Header, Hello, Reply, Request, VERSION};
use crate::sim::{Client, Node, Rng};

/// The longest quiet time, and the longest trouble, of most and of some.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(8);
/// How late what comes over a slow road may be.
const SLOW_NS: u64 = 2_000_000_000;
const HOUR_MS: u64 = 3_600_000;
/// Most nodes of a cluster.
const HOUSES_MAX: u64 = 6;

/// What can go wrong.
const TROUBLES: [Trouble; 12] = [
    Trouble::Kill,
    Trouble::PowerCut,
    Trouble::AllPowerCut,
    Trouble::Pause,
    Trouble::Isolate,
    Trouble::OneWay,
    Trouble::Ring,
    Trouble::Slow,
    Trouble::Clock,
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
    /// Somebody wishes for other members.
    Members,
    /// A new node wants to be one of them.
    Join,
}

/// See the module's header.
pub(super) struct Nemesis {
    rng: Rng,
    /// What is due next is due then.
    next_at: Duration,
    in_trouble: bool,
    /// Who wished for other members, as long as they may be heard.
    wishes: Vec<Client>,
    /// Who wants to be one, and what it was answered so far.
    joining: Option<(Client, Vec<u8>)>,
    /// What was done to the nodes so far.
    pub done: Done,
}

impl Nemesis {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            next_at: Duration::ZERO,
            in_trouble: false,
            wishes: Vec::new(),
            joining: None,
            done: Done::default(),
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// A node that does not start.
    pub fn turn(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        self.let_in(cluster)?;
        let now = cluster.sim.now();
        if now < self.next_at {
            return Ok(());
        }
        if self.in_trouble && !self.rng.one_in(3) {
            self.end(cluster)?;
        } else {
            self.in_trouble = true;
            self.done.troubles += 1;
            self.strike(cluster);
        }
        let most = if self.rng.one_in(2) { SHORT } else { LONG };
        self.next_at = cluster.sim.now() + self.up_to(most);
        Ok(())
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.rng.between(1_000, most.as_micros() as u64))
    }

    fn strike(&mut self, cluster: &Cluster) {
        let (count, sim) = (cluster.houses.len(), &cluster.sim);
        let one = self.rng.index(count);
        let other = (one + 1 + self.rng.index(count.max(2) - 1)) % count;
        let node = &cluster.houses[one].node;
        let ids: [NodeId; 2] = [node.id(), cluster.houses[other].node.id()];
        match TROUBLES[self.rng.index(TROUBLES.len())] {
            Trouble::Kill => {
                self.done.kills += 1;
                node.kill();
            }
            Trouble::PowerCut => self.power_cut(node),
            Trouble::AllPowerCut => {
                cluster.houses.iter().for_each(|house| self.power_cut(&house.node));
            }
            Trouble::Pause => node.pause_for(self.up_to(LONG)),
            Trouble::Isolate => sim.isolate(ids[0]),
            Trouble::OneWay => sim.cut(ids[0], ids[1]),
            Trouble::Ring => {
                sim.cut(ids[0], ids[1]);
                sim.cut(ids[1], ids[0]);
            }
            Trouble::Slow => sim.slow_down(ids[0], ids[1], 0..=self.rng.between(1, SLOW_NS)),
            Trouble::Clock => {
                let jump = self.rng.between(0, 2 * HOUR_MS) as i64 - HOUR_MS as i64;
                node.set_wall_offset_ms(jump);
            }
            Trouble::Members => self.wish(cluster, ids),
            Trouble::Join => self.join(cluster, ids[0]),
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
        let client = wish(cluster, at, &Action::Join { peer, zone, cores });
        self.joining = Some((client, Vec::new()));
    }

    /// Who was let in comes. Who does not hear of it does not, as if it had died on the way.
    fn let_in(&mut self, cluster: &mut Cluster) -> Result<(), String> {
        let Some((client, got)) = &mut self.joining else { return Ok(()) };
        got.extend(client.received());
        let is_over = client.is_ended();
        let answer = answer(got);
        let next = cluster.houses.len() as u64 + 1;
        if is_over || answer.is_some() {
            self.joining = None;
        }
        let told = answer.and_then(|text| Told::decode(&text).ok());
        match told.filter(|told| told.node == next) {
            Some(told) => cluster.add(&told),
            None => Ok(()),
        }
    }

    /// Asks one node that another have replicas, have none, or lead. Whether it hears is open.
    fn wish(&mut self, cluster: &Cluster, [at, about]: [NodeId; 2]) {
        let node = about.0;
        let action = match self.rng.index(6) {
            0 | 1 => Action::Drain { node },
            2 | 3 => Action::Restore { node },
            4 => Action::Replicas { count: [1, 3, 5][self.rng.index(3)] },
            _ => Action::Transfer { node: self.rng.one_in(2).then_some(node) },
        };
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
        for house in &mut cluster.houses {
            house.node.unpause();
            if !house.node.is_up() {
                house.boot()?;
                self.done.lives += 1;
            }
        }
        Ok(())
    }
}

/// Says to a node what is wished for.
fn wish(cluster: &Cluster, at: NodeId, action: &Action) -> Client {
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
