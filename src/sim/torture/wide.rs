//! Commands of many keys, and of all, while leaders change: parts of them wait for a leader, go to
//! the same node twice, and are lost with a link. Each is answered, rightly or by an error.

use std::time::Duration;

use super::cluster::Cluster;
use super::house::{PATIENCE, Shape};
use super::talk::{Talk, Value};
use crate::sim::{Rng, check};

/// More than are worked on in one slice.
const KEYS: usize = 300;

/// Who asks one command after the other.
#[derive(Default)]
struct Asker {
    talk: Option<Talk>,
    asked: usize,
    /// The command that it waits for, and since when.
    sent: Option<(usize, Duration)>,
    /// Commands that were done.
    done: usize,
}

/// The commands in turn: what is sent, and whether a reply is right.
struct Commands {
    all: Vec<Vec<String>>,
    keys: Vec<String>,
    value_len: usize,
}

/// The only one that a key ever has, of at least so many bytes.
fn value(key: &str, len: usize) -> String {
    format!("{key:>len$}")
}

impl Commands {
    fn new(value_len: usize) -> Self {
        let keys: Vec<_> = (0..KEYS).map(|n| format!("key{n:03}")).collect();
        let pairs = keys.iter().flat_map(|key| [key.clone(), value(key, value_len)]);
        let of = |name: &str| [name.to_owned()].into_iter().chain(keys.iter().cloned()).collect();
        let all = vec![
            ["MSET".to_owned()].into_iter().chain(pairs).collect(),
            of("MGET"),
            vec!["KEYS".to_owned(), "*".to_owned()],
            of("EXISTS"),
            vec!["DBSIZE".to_owned()],
            vec!["RANDOMKEY".to_owned()],
            vec!["GET".to_owned(), keys[0].clone()],
            of("WATCH"),
            vec!["UNWATCH".to_owned()],
        ];
        Self { all, keys, value_len }
    }

    fn get(&self, nth: usize) -> Vec<&str> {
        self.all[nth % self.all.len()].iter().map(String::as_str).collect()
    }

    fn is_right(&self, nth: usize, reply: &Value) -> bool {
        let bulks = |of: &Value| match of {
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        };
        match (nth % self.all.len(), reply) {
            (0 | 7 | 8, reply) => *reply == Value::ok(),
            (1, Value::Array(values)) => {
                let is_right = |(key, of): (&String, _)| bulks(of) == value(key, self.value_len);
                values.len() == KEYS && self.keys.iter().zip(values).all(is_right)
            }
            (2, Value::Array(names)) => {
                let mut names: Vec<_> = names.iter().map(bulks).collect();
                names.sort_unstable();
                names == self.keys
            }
            (3, reply) => *reply == Value::Int(KEYS as i64),
            // Of rows that a snapshot brought it is known about.
            (4, Value::Int(count)) => count.abs_diff(KEYS as i64) <= 3,
            (5, name) => self.keys.contains(&bulks(name)),
            (6, of) => bulks(of) == value(&self.keys[0], self.value_len),
            _ => false,
        }
    }
}

fn is_passing(reply: &Value) -> bool {
    ["TRYAGAIN", "UNKNOWN", "CLUSTERDOWN"].iter().any(|prefix| reply.is_error(prefix))
}

/// What has happened to a node, or to the road between two.
enum Trouble {
    Killed(usize),
    Cut,
    Paused,
}

fn disturb(cluster: &Cluster, rng: &mut Rng) -> Trouble {
    let node = rng.index(3);
    let house = &cluster.houses[node].node;
    let (id, next) = (house.id(), cluster.houses[(node + 1) % 3].node.id());
    match rng.below(4) {
        0 => {
            house.kill();
            return Trouble::Killed(node);
        }
        1 => {
            house.pause_for(Duration::from_millis(rng.between(200, 3_000)));
            return Trouble::Paused;
        }
        2 => cluster.sim.cut(next, id),
        _ => {}
    }
    cluster.sim.cut(id, next);
    Trouble::Cut
}

fn heal(cluster: &mut Cluster, trouble: &Trouble) {
    match trouble {
        Trouble::Killed(node) => cluster.houses[*node].boot().expect("it starts"),
        Trouble::Cut => cluster.sim.heal(),
        Trouble::Paused => {}
    }
}

impl Asker {
    /// Takes what has come and asks the next. False: so many commands were done.
    fn go_on(&mut self, cluster: &Cluster, node: usize, commands: &Commands, count: usize) -> bool {
        let Some(talk) = &self.talk else {
            let is_up = cluster.houses[node].node.is_up();
            self.talk = is_up.then(|| cluster.connect(node));
            return true;
        };
        let now = cluster.sim.now();
        match (self.sent, talk.next()) {
            (Some((nth, _)), Some(reply)) => {
                let is_right = commands.is_right(nth, &reply);
                let (seed, args) = (cluster.sim.seed(), commands.get(nth)[0]);
                assert!(is_right || is_passing(&reply), "seed {seed}, {args} at {node}: {reply:?}");
                (self.sent, self.done) = (None, self.done + usize::from(is_right));
            }
            _ if talk.is_ended() => (self.talk, self.sent) = (None, None),
            (Some((nth, since)), None) => {
                let (seed, args) = (cluster.sim.seed(), commands.get(nth)[0]);
                assert!(now < since + PATIENCE, "seed {seed}: hang of {args} at {node}");
            }
            (None, _) if self.done == count => return false,
            (None, _) => {
                self.sent = Some((self.asked, now));
                talk.send(&commands.get(self.asked));
                self.asked += 1;
            }
        }
        true
    }
}

fn scene(seed: u64) {
    let shape = Shape { shards: 1, partitions: 8, ..Shape::default() };
    // Of some, what one command asks of another node does not fit in a frame.
    let (value_len, count) = if seed.is_multiple_of(16) { (12_000, 7) } else { (0, 60) };
    let commands = Commands::new(value_len);
    let mut cluster = Cluster::new(seed, 3, &shape);
    let (mut rng, talk) = (cluster.sim.rng(), cluster.connect(0));
    while cluster.ask(&talk, &commands.get(0)) != Some(Value::ok()) {}
    let mut askers: Vec<_> = (0..3).map(|_| Asker::default()).collect();
    let (mut trouble, mut next_at) = (None, Duration::ZERO);
    loop {
        cluster.run_ms(1);
        let mut goes_on = false;
        for (node, asker) in askers.iter_mut().enumerate() {
            goes_on |= asker.go_on(&cluster, node, &commands, count);
        }
        if !goes_on {
            return;
        }
        if cluster.sim.now() >= next_at {
            next_at = cluster.sim.now() + Duration::from_millis(rng.between(50, 3_000));
            trouble = match trouble.take() {
                Some(trouble) => {
                    heal(&mut cluster, &trouble);
                    None
                }
                None => Some(disturb(&cluster, &mut rng)),
            };
        }
    }
}

#[test]
fn commands_of_many_keys_are_answered_while_leaders_change() {
    check(16, scene);
}
