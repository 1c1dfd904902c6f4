//! What is asked of every engine: the workloads, their keys and their values.
//!
//! A key is sixteen decimal digits, a value a hundred random bytes, cut from a pool as `db_bench`
//! does it. Draws are its own, too: uniform, or skewed so that the key of rank r comes with a
//! probability in proportion to 1/r, which is the zipfian that it can draw (exponent 1, not 0.99).

use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a key.
pub const KEY_LEN: usize = 16;
/// Bytes of a value.
pub const VALUE_LEN: usize = 100;
/// Bytes that a write brings.
pub const ROW_LEN: u64 = (KEY_LEN + VALUE_LEN) as u64;
/// Writes per second beside the reads of [`Kind::Mixed`].
pub const MIXED_RATE: u64 = 20_000;

/// What of the memory each of the rivals' two write buffers may have.
pub fn write_buffer_len(memory: u64) -> u64 {
    memory / 8
}

/// What is left for their caches.
pub fn cache_len(memory: u64) -> u64 {
    memory - 2 * write_buffer_len(memory)
}

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// All alike.
    Uniform,
    /// By 1/rank.
    Zipf,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each key once, in random order, not synced. The directory is new.
    Fill,
    /// Nothing: the engine tidies up until it is done.
    Settle,
    /// Open, and read one key.
    Open,
    /// Keys that are there, drawn uniformly. Synced ones are measured for a time, others are half
    /// as many as there are keys, so that all engines have the same work to do.
    Overwrite {
        /// Durable before it is acknowledged.
        sync: bool,
    },
    /// Point reads.
    Read(Skew),
    /// Uniform reads beside [`MIXED_RATE`] writes that are not synced.
    Mixed,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub kind: Kind,
    /// Operations under way: threads, or for an engine on one thread what it has taken on.
    pub clients: u32,
}

const fn of(name: &'static str, kind: Kind, clients: u32) -> Workload {
    Workload { name, kind, clients }
}

/// In the order in which they are run.
pub const WORKLOADS: [Workload; 14] = [
    of("fill", Kind::Fill, 1),
    of("settle-fill", Kind::Settle, 1),
    of("open", Kind::Open, 1),
    of("read-random", Kind::Read(Skew::Uniform), 1),
    of("read-random-16", Kind::Read(Skew::Uniform), 16),
    of("read-zipf", Kind::Read(Skew::Zipf), 1),
    of("read-zipf-16", Kind::Read(Skew::Zipf), 16),
    of("read-while-writing", Kind::Mixed, 16),
    of("overwrite-sync-1", Kind::Overwrite { sync: true }, 1),
    of("overwrite-sync-8", Kind::Overwrite { sync: true }, 8),
    of("overwrite-sync-64", Kind::Overwrite { sync: true }, 64),
    of("overwrite", Kind::Overwrite { sync: false }, 1),
    of("settle-overwrite", Kind::Settle, 1),
    of("reopen", Kind::Open, 1),
];

impl Workload {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        WORKLOADS.into_iter().find(|workload| workload.name == name)
    }

    /// Whether writes are durable before they are acknowledged.
    pub fn is_synced(&self) -> bool {
        self.kind == Kind::Overwrite { sync: true }
    }

    /// How its keys are drawn.
    pub fn skew(&self) -> Skew {
        if let Kind::Read(skew) = self.kind { skew } else { Skew::Uniform }
    }
}

/// One run of one engine.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where its files are.
    pub dir: PathBuf,
    /// What to do.
    pub workload: Workload,
    /// Keys there are, or are to be.
    pub keys: u64,
    /// Memory that the engine may use, bytes.
    pub memory: u64,
    /// How long is measured; as long it is warmed up.
    pub span: Duration,
    /// Of all draws.
    pub seed: u64,
}

impl Run {
    /// How many operations it is to have; none: as many as can be done in the time.
    pub fn count(&self) -> Option<u64> {
        match self.workload.kind {
            Kind::Fill => Some(self.keys),
            Kind::Overwrite { sync: false } => Some(self.keys / 2),
            _ => None,
        }
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

/// The range of `-read_random_exp_range` in which the skewed draw is by 1/rank over all keys.
pub fn zipf_range(keys: u64) -> f64 {
    (keys as f64).ln()
}

/// Draws keys and values for one client.
pub struct Draw {
    random: Random,
    keys: u64,
    skew: Skew,
    pool: Vec<u8>,
}

impl Draw {
    /// For client `client` of a run.
    pub fn new(run: &Run, client: u32) -> Self {
        let mut random = Random(run.seed ^ (u64::from(client) + 1) << 40);
        let pool = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { random, keys: run.keys, skew: run.workload.skew(), pool }
    }

    /// The number of a key.
    pub fn key(&mut self) -> u64 {
        let draw = self.random.next();
        match self.skew {
            Skew::Uniform => draw % self.keys,
            Skew::Zipf => {
                let unit = (draw >> 11) as f64 / (1u64 << 53) as f64;
                let rank = (self.keys as f64 * (-unit * zipf_range(self.keys)).exp()) as u64;
                // As db_bench scatters them: neighbours in rank are none in the order of keys.
                rank.wrapping_mul(0x5BD1_E995) % self.keys
            }
        }
    }

    /// A value.
    pub fn value(&mut self) -> &[u8] {
        let at = self.random.next() as usize % (self.pool.len() - VALUE_LEN);
        &self.pool[at..at + VALUE_LEN]
    }

    /// All keys of a run that has a count.
    pub fn all(&mut self, run: &Run) -> Vec<u32> {
        match run.workload.kind {
            Kind::Fill => self.shuffled(),
            _ => (0..run.count().unwrap_or(0)).map(|_| self.key() as u32).collect(),
        }
    }

    /// Each key once, in random order.
    fn shuffled(&mut self) -> Vec<u32> {
        let mut keys: Vec<u32> = (0..self.keys as u32).collect();
        for at in (1..keys.len()).rev() {
            keys.swap(at, (self.random.next() % (at as u64 + 1)) as usize);
        }
        keys
    }
}

/// The name of a key.
pub fn name_of(mut number: u64) -> [u8; KEY_LEN] {
    let mut name = [b'0'; KEY_LEN];
    for digit in name.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    name
}
