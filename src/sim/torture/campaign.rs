//! The campaigns: what a seed is tortured with, and how much of it.

use std::time::Duration;

use super::calls::{self, TROUBLES};
use super::cluster::Cluster;
use super::flips::Image;
use super::house::Shape;
use super::{Done, Length, Script, Violation, full, run, shape, storms};
use crate::sim::Rng;

/// Commands that make the directory in which bits are flipped.
const IMAGE_OPS: u64 = 400;

/// How much clocks may drift: a lease leaves a good tenth for two that drift apart.
const DRIFT_PPM_MAX: i64 = 40_000;

/// A kind of torture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Campaign {
    /// Random commands of several clients, and random crashes: so many commands.
    Crashes,
    /// A trace of so many commands: a crash, and an error, at each operation of the disk.
    Calls,
    /// So many bits of files flipped, one at a time.
    Flips,
    /// The disk fills up and is emptied so many times.
    DiskFull,
    /// Three nodes, or five, that break and lose each other: so many commands.
    Cluster,
}

impl Campaign {
    /// What node it is played with.
    pub fn shape(self, seed: u64) -> Shape {
        let mut rng = Rng::new(seed);
        let small = Shape {
            partitions: rng.between(1, 3) as u32,
            log_len_max: [8 << 10, 64 << 10][rng.index(2)],
            rows_len_max: [None, Some(1 << 10)][rng.index(2)],
            compression: run::compression(seed),
            ..Shape::default()
        };
        match self {
            Self::Crashes => shape(seed),
            Self::Calls | Self::Flips => small,
            Self::Cluster => {
                let shards = rng.between(1, 2) as u16;
                let replicas = [3, 3, 3, 5, 1][rng.index(5)];
                let replace_after = Duration::from_secs([2, 4, 600][rng.index(3)]);
                let drift_ppm = [0, 1_000, DRIFT_PPM_MAX][rng.index(3)];
                let small = Shape { rows_len_max: None, drift_ppm, watched: true, ..small };
                Shape { shards, replicas, replace_after, ..small }
            }
            Self::DiskFull => Shape { log_len_max: [64 << 10, 1 << 20][rng.index(2)], ..small },
        }
    }

    /// How much of it one seed is, if nobody says.
    pub fn size(self) -> u64 {
        match self {
            Self::Crashes => 1_000,
            Self::Calls => 500,
            Self::Flips => 10_000,
            Self::DiskFull => 50,
            Self::Cluster => 500,
        }
    }

    /// Plays it; `on_part` is told how much is done, and of how much.
    ///
    /// # Errors
    /// The first thing that must not be.
    ///
    /// # Panics
    /// Where the node does, or when it hangs.
    pub fn play(
        self,
        seed: u64,
        shape: &Shape,
        size: u64,
        mut on_part: impl FnMut(u64, u64),
    ) -> Result<Done, Violation> {
        let mut done = Done::default();
        match self {
            Self::Crashes => done = run(seed, shape.clone(), Length::Ops(size))?,
            Self::DiskFull => done = full::run(seed, shape, size)?,
            Self::Cluster => done = storm(seed, shape, None, size, &Script::default())?,
            Self::Calls => {
                let calls = calls::count(seed, shape, size)?;
                for call in 1..=calls {
                    for trouble in TROUBLES {
                        done.add(&calls::run(seed, shape, size, call, trouble)?);
                    }
                    on_part(call, calls);
                }
            }
            Self::Flips => {
                let (image, mut rng) = (Image::new(seed, shape, IMAGE_OPS)?, Rng::new(seed));
                for flip in 1..=size {
                    image.flip(&mut rng, &mut done)?;
                    on_part(flip, size);
                }
            }
        }
        Ok(done)
    }
}

/// Plays [`Campaign::Cluster`] with so many nodes, or as many as the seed has it, and the troubles
/// of `script`.
///
/// # Errors
/// The first thing that must not be.
///
/// # Panics
/// Where a node does, or when it hangs.
pub fn storm(
    seed: u64,
    shape: &Shape,
    nodes: Option<u64>,
    size: u64,
    script: &Script,
) -> Result<Done, Violation> {
    let nodes = nodes.unwrap_or(if Rng::new(seed).one_in(5) { 5 } else { 3 });
    storms::run(Cluster::new(seed, nodes, shape), size, script)
}
