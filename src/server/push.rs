//! Messages that answer no command, on their way to connections of this shard.
//!
//! A message is appended to what is due to the connection, so it leaves after the replies before
//! it and never within one. Nobody waits for a reader: who does not read is slowed (from
//! [`super::conn::OUTPUT_LEN_MAX`] on none of its own commands is served) and then closed, when
//! [`UNREAD_LEN_MAX`] is due, or more than [`SLOW_LEN_MIN`] for [`SLOW_MAX`]. These are the limits
//! of Redis for its class `pubsub` (`client-output-buffer-limit pubsub 32mb 8mb 60`). Both are
//! counted. When the memory budget is used up, the slowest of these last is closed at once.

use std::time::Duration;

use super::Server;
use super::conn::OUTPUT_LEN_MAX;
use super::output::Encoded;
use crate::env::Env;

/// The limits as `CONFIG GET client-output-buffer-limit` shows them.
pub const OUTPUT_LIMITS: &str = "normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60";

/// Unread bytes at which a connection is closed at once.
pub const UNREAD_LEN_MAX: usize = 32 << 20;

/// Unread bytes that are allowed for [`SLOW_MAX`] only.
pub const SLOW_LEN_MIN: usize = 8 << 20;

/// How long a connection may leave [`SLOW_LEN_MIN`] unread.
pub const SLOW_MAX: Duration = Duration::from_secs(60);

impl<E: Env> Server<E> {
    /// Appends a message to what is due to a connection of ours. One that reads too little is
    /// closed before the turn's end instead, and gets nothing more.
    pub(super) fn push(&mut self, index: u32, message: &Encoded) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        if conn.closing {
            return;
        }
        let before = conn.unread_len();
        if before > UNREAD_LEN_MAX {
            return;
        }
        conn.output.push(message);
        let unread = conn.unread_len();
        if unread > UNREAD_LEN_MAX {
            self.overrun.push(conn.id);
        }
        if unread > SLOW_LEN_MIN && conn.slow_since.is_none() {
            conn.slow_since = Some(self.env.now());
        }
        if unread > OUTPUT_LEN_MAX && before <= OUTPUT_LEN_MAX {
            self.shard.stats().subscribers_slowed.add(1);
        }
        self.mark_dirty(index);
    }

    /// Closes those who left too much unread.
    pub(super) fn close_overrun(&mut self) {
        while let Some(id) = self.overrun.pop() {
            if self.conn(id).is_some() {
                self.shard.stats().subscribers_closed.add(1);
                self.close(id.index);
            }
        }
    }

    /// Looks for those who have been slow for too long, and when memory is short for the slowest.
    pub(super) fn look_for_slow(&mut self) {
        let now = self.env.now();
        let mut slowest = None;
        for conn in self.conns.iter_mut().flatten() {
            let Some(since) = conn.slow_since else { continue };
            let unread = conn.unread_len();
            if unread <= SLOW_LEN_MIN {
                conn.slow_since = None;
            } else if now > since + SLOW_MAX {
                self.overrun.push(conn.id);
            } else if slowest.is_none_or(|(most, _)| unread > most) {
                slowest = Some((unread, conn.id));
            }
        }
        if let Some((_, id)) = slowest.filter(|_| self.shard.is_short_of_memory()) {
            self.overrun.push(id);
        }
    }
}
