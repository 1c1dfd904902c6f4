//! The disk fills up, again and again, and is emptied: nothing acknowledged is lost, reads and
//! deletes go on, starts too, and writes resume by themselves.

use std::time::Duration;

use super::calls::resume;
use super::house::Shape;
use super::trace::{End, Trace};
use super::{Done, Kind, Violation};
use crate::wal::RESERVE_NAME;

/// Where the log of the only shard is.
const LOG_DIR: &str = "/data/shard-00/wal";
/// How long a node with room may take to keep some for a start.
const RESERVE_MAX: Duration = Duration::from_secs(5);

/// Commands after which others take the room that there is.
const TAKEN_EVERY: u64 = 5_000;

/// Commands until a full disk must have refused one.
const STEPS_MAX: u64 = 20_000;

/// Plays `cycles` of it. In some the node is killed, or loses power, while the disk is full.
///
/// # Errors
/// The first thing that must not be.
///
/// # Panics
/// Where the node does, or when it hangs.
pub fn run(seed: u64, shape: &Shape, cycles: u64) -> Result<Done, Violation> {
    let mut trace = Trace::new(seed, shape.clone());
    let mut rng = trace.house.sim.rng();
    boot(&mut trace)?;
    for _ in 0..cycles {
        for _ in 0..rng.between(0, 200) {
            trace.step()?;
        }
        reserved(&mut trace)?;
        let room = rng.between(0, 2 << 20);
        trace.house.node.set_capacity(trace.house.node.disk_used() + room);
        trace.is_faulty = true;
        fill(&mut trace)?;
        trace.read_all()?;
        if rng.one_in(2) {
            delete_some(&mut trace)?;
        }
        if rng.one_in(4) {
            // It starts, and goes on where it was, again and again.
            for _ in 0..rng.between(1, 3) {
                trace.crash(rng.one_in(2));
                boot(&mut trace)?;
                delete_some(&mut trace)?;
                trace.read_all()?;
            }
        }
        trace.house.node.set_capacity(u64::MAX);
        resume(&mut trace)?;
        trace.is_faulty = false;
        trace.done.cycles += 1;
        trace.read_all()?;
    }
    trace.crash(true);
    trace.prove()?;
    Ok(trace.done)
}

/// Waits until the room for a start on a full disk is kept.
fn reserved(trace: &mut Trace) -> Result<(), Violation> {
    let begin = trace.house.sim.now();
    while !trace.house.node.names(LOG_DIR).iter().any(|name| name == RESERVE_NAME) {
        if trace.house.sim.now() - begin > RESERVE_MAX {
            return Err(trace.violation(Kind::Wrong, "there is room, and none is kept for a start"));
        }
        trace.house.run_ms(10);
    }
    Ok(())
}

/// Deletes some keys, which a full disk takes.
fn delete_some(trace: &mut Trace) -> Result<(), Violation> {
    for _ in 0..5 {
        if trace.delete()? != End::Done {
            return Err(trace.violation(Kind::Wrong, "a full disk refused a delete"));
        }
    }
    Ok(())
}

fn boot(trace: &mut Trace) -> Result<(), Violation> {
    trace.boot().map_err(|error| trace.violation(Kind::RefusedStart, error))?;
    trace.settle()
}

/// Writes until the disk has refused some. What is written may fit for ever, since it replaces
/// what was there: others take what room there is, now and then.
fn fill(trace: &mut Trace) -> Result<(), Violation> {
    let (mut refused, mut steps) = (0, 0);
    while refused < 3 {
        refused += u64::from(trace.step()? == End::Refused);
        steps += 1;
        if steps % TAKEN_EVERY == 0 {
            trace.house.node.set_capacity(trace.house.node.disk_used());
        }
        if steps > STEPS_MAX {
            return Err(trace.violation(Kind::Wrong, "the disk is full and takes all"));
        }
    }
    Ok(())
}
