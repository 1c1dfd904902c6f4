//! The disk fills up, again and again, and is emptied: nothing acknowledged is lost, reads go on,
//! and writes resume by themselves.

use super::calls::resume;
use super::house::Shape;
use super::trace::{End, Trace};
use super::{Done, Kind, Violation};

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
        let room = rng.between(0, 2 << 20);
        trace.house.node.set_capacity(trace.house.node.disk_used() + room);
        trace.is_faulty = true;
        fill(&mut trace)?;
        trace.read_all()?;
        if rng.one_in(4) {
            trace.crash(rng.one_in(2));
            // A start needs a little room, and may be refused for want of it.
            if trace.boot().is_ok() {
                trace.settle()?;
                trace.crash(true);
            } else {
                trace.done.refused_full += 1;
            }
            trace.house.node.set_capacity(u64::MAX);
            boot(&mut trace)?;
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

fn boot(trace: &mut Trace) -> Result<(), Violation> {
    trace.boot().map_err(|error| trace.violation(Kind::RefusedStart, error))?;
    trace.settle()
}

/// Writes until the disk has refused some.
fn fill(trace: &mut Trace) -> Result<(), Violation> {
    let (mut refused, mut steps) = (0, 0);
    while refused < 3 {
        refused += u64::from(trace.step()? == End::Refused);
        steps += 1;
        if steps > STEPS_MAX {
            return Err(trace.violation(Kind::Wrong, "the disk is full and takes all"));
        }
    }
    Ok(())
}
