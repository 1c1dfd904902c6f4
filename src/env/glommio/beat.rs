//! A slow heartbeat, because glommio 0.12 can park with work to do.
//!
//! When the preempt timer fires before the first task of a round (the thread lost its core for
//! that long), its loop takes "ran nothing" for "has nothing to run" and parks; if nothing else
//! happens it sleeps for ever (glommio/glommio#53, mended after 0.12.0). With a timer of 500 us on
//! a busy machine that hung one run of the file test in a few hundred.
//!
//! So two things: the long [`super::PREEMPT_START`] until the beats are armed, and then several
//! timers that take turns: whatever a park left behind runs at the next beat. There are several
//! since the task of a beat can be left behind as well. When glommio is mended this file can go.

use std::time::{Duration, Instant};

use glommio::TaskQueueHandle;
use glommio::task::JoinHandle;
use glommio::timer::Timer;

/// From beat to beat on a busy core: longest that runnable tasks are left alone.
const BUSY: Duration = Duration::from_millis(10);
/// The same on an idle core, which pays about 100 us of CPU per beat: 0.24 % in all.
const IDLE: Duration = Duration::from_millis(50);
/// Beats under way at once: all of these in a row would have to be left behind.
const COUNT: u32 = 4;
/// A core that ran fewer tasks than this from one beat to the next is idle.
const BUSY_TASKS_MIN: u64 = 16;

/// The beats of an executor; they end with this value.
pub struct Beats(Vec<JoinHandle<()>>);

impl Beats {
    /// Starts them.
    pub fn start() -> Self {
        let (queue, begin) = (TaskQueueHandle::default(), Instant::now());
        let start = |nth| glommio::spawn_local_into(beat(begin, nth), queue);
        let beats = (0..COUNT).map(|nth| start(nth).expect("the default queue is there"));
        Self(beats.map(glommio::Task::detach).collect())
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        // Not awaited: from here on a park might be for ever.
        self.0.iter().for_each(JoinHandle::cancel);
    }
}

async fn beat(begin: Instant, nth: u32) {
    loop {
        // Since it was last asked, by any beat: asking resets it.
        let executed = glommio::executor().executor_stats().tasks_executed();
        let spacing = if executed < BUSY_TASKS_MIN { IDLE } else { BUSY };
        Timer::new(until_next(begin.elapsed(), spacing, nth)).await;
    }
}

/// From `now` to the next beat of the `nth` of those that take turns at `spacing`.
fn until_next(now: Duration, spacing: Duration, nth: u32) -> Duration {
    let (lap, now) = ((spacing * COUNT).as_nanos() as u64, now.as_nanos() as u64);
    let phase = (spacing * nth).as_nanos() as u64;
    Duration::from_nanos(lap - (now + lap - phase) % lap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_take_turns() {
        let now = Duration::from_millis(1234);

        let mut next: Vec<_> = (0..COUNT).map(|nth| now + until_next(now, BUSY, nth)).collect();
        next.sort_unstable();

        assert_eq!(next, [1240, 1250, 1260, 1270].map(Duration::from_millis));
        assert_eq!(until_next(BUSY, BUSY, 1), BUSY * COUNT);
    }
}
