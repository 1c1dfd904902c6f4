//! Every operation of the disk in a trace, one after the other: the power goes at it, or it fails.
//!
//! The trace is played once to count its operations, with a stop and a start in the middle; then
//! once for each of them and each trouble. So no place in the code where a file is written, synced,
//! renamed or removed is left to chance.

use std::time::Duration;

use super::house::Shape;
use super::trace::{End, Trace};
use super::{Done, Kind, Violation};
use crate::sim::{Failure, Plan};

/// What comes at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A power cut.
    PowerCut,
    /// `kill -9`.
    Kill,
    /// It fails with EIO, and nothing else does.
    Eio,
    /// It fails with ENOSPC, if it may, and nothing else does.
    NoSpace,
}

/// All of them.
pub const TROUBLES: [Trouble; 4] =
    [Trouble::PowerCut, Trouble::Kill, Trouble::Eio, Trouble::NoSpace];

/// How long a node may take to go on when there is room again.
const RESUME_MAX: Duration = Duration::from_secs(10);

/// Counts the operations of the disk in a trace of `ops` commands.
///
/// # Errors
/// What is wrong though nothing failed.
pub fn count(seed: u64, shape: &Shape, ops: u64) -> Result<u64, Violation> {
    let mut trace = Trace::new(seed, shape.clone());
    play(&mut trace, ops)?;
    Ok(trace.house.node.calls())
}

/// Plays the trace with `trouble` at operation `call`, the first of which is 1.
///
/// # Errors
/// The first thing that must not be.
///
/// # Panics
/// Where the node does, or when it hangs.
pub fn run(
    seed: u64,
    shape: &Shape,
    ops: u64,
    call: u64,
    trouble: Trouble,
) -> Result<Done, Violation> {
    let mut trace = Trace::new(seed, shape.clone());
    let tried = match trouble {
        Trouble::PowerCut | Trouble::Kill => crash_at(&mut trace, ops, call, trouble),
        Trouble::Eio => fail_at(&mut trace, ops, Plan::Call(call, Failure::Eio)),
        Trouble::NoSpace => fail_at(&mut trace, ops, Plan::Call(call, Failure::NoSpace)),
    };
    let proved = tried.and_then(|()| trace.prove());
    proved.map_err(|violation| {
        let what = trace.house.node.failed().unwrap_or_default();
        let text = &violation.text;
        let text = format!("{trouble:?} at operation {call} of the disk ({what}): {text}");
        Violation { text, ..violation }
    })?;
    trace.done.calls = 1;
    Ok(trace.done)
}

/// The trace itself: half of it, a stop, a start, the other half.
fn play(trace: &mut Trace, ops: u64) -> Result<End, Violation> {
    for half in 0..2 {
        // The second time what is there has to be what was acknowledged.
        match trace.boot() {
            Ok(End::Done) => {}
            Ok(end) => return Ok(end),
            Err(_) if trace.is_faulty => {
                let again = trace.boot();
                again.map_err(|error| trace.violation(Kind::RefusedStart, error))?;
            }
            Err(error) => return Err(trace.violation(Kind::RefusedStart, error)),
        }
        for _ in 0..ops / 2 {
            if trace.step()? == End::Reached {
                return Ok(End::Reached);
            }
        }
        if half == 0 && trace.stop() == End::Reached {
            return Ok(End::Reached);
        }
    }
    Ok(End::Done)
}

fn crash_at(trace: &mut Trace, ops: u64, call: u64, trouble: Trouble) -> Result<(), Violation> {
    trace.until = call;
    play(trace, ops)?;
    trace.crash(trouble == Trouble::PowerCut);
    Ok(())
}

fn fail_at(trace: &mut Trace, ops: u64, plan: Plan) -> Result<(), Violation> {
    let is_full = matches!(plan, Plan::Call(_, Failure::NoSpace));
    trace.house.node.set_plan(Some(plan));
    trace.is_faulty = true;
    play(trace, ops)?;
    trace.house.node.set_plan(None);
    trace.read_all()?;
    if is_full {
        resume(trace)?;
    }
    trace.crash(true);
    Ok(())
}

/// Waits until writes are taken again, without a restart.
pub(super) fn resume(trace: &mut Trace) -> Result<(), Violation> {
    let (was_faulty, begin) = (trace.is_faulty, trace.house.sim.now());
    trace.is_faulty = true;
    let mut done = 0;
    while done < 5 {
        if trace.house.sim.now() - begin > RESUME_MAX {
            return Err(trace.violation(Kind::Wrong, "there is room again and writes are refused"));
        }
        match trace.set()? {
            End::Done => done += 1,
            _ => {
                done = 0;
                trace.house.run_ms(250);
            }
        }
    }
    trace.is_faulty = was_faulty;
    Ok(())
}
