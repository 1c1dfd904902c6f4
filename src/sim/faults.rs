//! What may go wrong, and how often: the switches of one node's disk and of the network.
//!
//! Rates are in parts per million of operations; 0 is never, 1,000,000 always. Everything is off
//! until switched on, but for what is ordinary life: latency and its order.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::rng::Rng;

/// How the disk of one node misbehaves. What a power cut does is not here: it always loses what
/// was not synced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read fails with EIO, ppm.
    pub read_eio: u32,
    /// A write fails with EIO, any of its sectors written, none of them durable, ppm.
    pub write_eio: u32,
    /// A sync of a file or a directory fails with EIO, ppm. What was to be synced is lost for any
    /// part of it: a later sync succeeds and does not bring it back.
    pub sync_eio: u32,
    /// A write of several sectors ends early, ppm.
    pub short_write: u32,
    /// A read of several sectors ends early, ppm. The [`File`](crate::env::File) contract rules
    /// it out: for tests of what stands above a broken runtime.
    pub short_read: u32,
    /// A read finds one bit of what it reads flipped on the disk, for good, ppm.
    pub bit_flip: u32,
    /// A sync, or a durable write, says that it is done and has made nothing durable, ppm.
    pub sync_lie: u32,
    /// A write goes to another sector of the same file, ppm.
    pub misdirected_write: u32,
    /// An operation takes up to `spike_max`, ppm.
    pub spike: u32,
    /// How long a spike may last.
    pub spike_max: Duration,
    /// Opening, listing, creating, renaming, removing or cutting fails with EIO, ppm.
    pub name_eio: u32,
}

impl Faults {
    /// A disk that keeps its word.
    pub fn none() -> Self {
        Self::default()
    }

    /// Errors that an honest disk reports: EIO, and spikes of latency.
    pub fn errors(ppm: u32) -> Self {
        Self {
            read_eio: ppm,
            write_eio: ppm,
            sync_eio: ppm,
            spike: ppm,
            spike_max: Duration::from_millis(50),
            ..Self::default()
        }
    }
}

/// What an operation says that is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO. A write leaves any of its sectors, none durable; of what was to be synced any part is
    /// lost, and no later sync brings it back.
    Eio,
    /// ENOSPC, of whatever may need room: a write behind the end of a file, a sync, a name. Nothing
    /// is written.
    NoSpace,
}

/// Which operations of a disk fail, by the test's choice and not by chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The one of this number, as [`Node::calls`](super::Node::calls) counts them, once.
    Call(u64, Failure),
    /// All on files whose path has this text in it.
    Files(&'static str, Failure),
}

impl Plan {
    /// What becomes of operation `call` on `path`.
    pub(super) fn failure(&self, call: u64, path: &Path) -> Option<Failure> {
        match self {
            Self::Call(number, failure) => (*number == call).then_some(*failure),
            Self::Files(text, failure) => path.to_string_lossy().contains(text).then_some(*failure),
        }
    }
}

/// How long disk operations take. Each draws from its range on its own, so several in flight end
/// in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskLatency {
    /// A read, nanoseconds.
    pub read_ns: RangeInclusive<u64>,
    /// A write, nanoseconds.
    pub write_ns: RangeInclusive<u64>,
    /// A sync or an operation on names, nanoseconds.
    pub sync_ns: RangeInclusive<u64>,
    /// How much longer a write takes that is to be durable when it ends, nanoseconds: the kernel's
    /// worker that sees to it may have to wait for its core.
    pub held_up_ns: u64,
}

impl DiskLatency {
    /// One of several machines, by chance: a steady disk, a fast one, one where anything goes.
    pub(super) fn drawn(rng: &mut Rng) -> Self {
        match rng.below(3) {
            0 => Self {
                read_ns: 60_000..=120_000,
                write_ns: 80_000..=160_000,
                sync_ns: 100_000..=300_000,
                held_up_ns: 0,
            },
            1 => Self {
                read_ns: 1_000..=9_000,
                write_ns: 1_000..=20_000,
                sync_ns: 1_000..=20_000,
                held_up_ns: 0,
            },
            _ => Self {
                read_ns: 1_000..=2_000_000,
                write_ns: 1_000..=5_000_000,
                sync_ns: 1_000..=9_000_000,
                held_up_ns: 20_000_000,
            },
        }
    }
}

/// How the network between the clients and the nodes behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConditions {
    /// One way, each chunk on its own but never overtaking another of its direction; nanoseconds.
    pub latency_ns: RangeInclusive<u64>,
    /// Bytes are cut into chunks of at most this.
    pub chunk_len_max: usize,
    /// Most bytes on their way in one direction, or there and not read. Then the sender waits.
    pub window: usize,
    /// A send leaves its buffer in flight although there is room, ppm.
    pub send_in_flight: u32,
}

impl NetConditions {
    /// One of several networks, by chance.
    pub(super) fn drawn(rng: &mut Rng) -> Self {
        Self {
            latency_ns: match rng.below(3) {
                0 => 5_000..=30_000,
                1 => 1_000..=500_000,
                _ => 100_000..=20_000_000,
            },
            chunk_len_max: [16, 1_000, 16 << 10][rng.index(3)],
            window: 256 << 10,
            send_in_flight: [20_000, 250_000, 900_000][rng.index(3)],
        }
    }
}
