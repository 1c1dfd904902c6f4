//! MONITOR on one shard, and between the shards of a node.
//!
//! While any connection of the node monitors, each shard writes a line for each command of its
//! own connections, and at the end of the turn gives the lines to its own monitors and mails them
//! to the shards that have some. Lines of one shard come in order; those of several as the mail
//! does. The commands of a transaction come before its EXEC. The binary port's requests are not
//! shown. While nobody monitors, a command pays two branches.
//!
//! Bounds: [`LINES_MAX`] lines a shard and second, [`LINES_LEN_MAX`] bytes a turn, and what is due
//! to a monitor [`OUTPUT_LEN_MAX`]. What is left out is counted in the metric, and told of by a
//! line in its place: `[0 stave:SHARD] "LEFT-OUT" "COUNT"`.

use std::sync::atomic::Ordering;

use super::Server;
use super::conn::OUTPUT_LEN_MAX;
use super::output::Encoded;
use super::remote::{Address, NO_TICKET};
use crate::command::{self, Spec, monitor};
use crate::env::{ConnId, Env};
use crate::id::ShardId;
use crate::protocol::resp::{Args, ArgsBuf, Proto};

/// Lines of a shard in one second.
const LINES_MAX: u64 = 20_000;

/// Bytes of the lines of one turn.
const LINES_LEN_MAX: usize = 256 << 10;

/// No connection of ours: nobody waits for an answer.
const NOBODY: ConnId = ConnId { index: u32::MAX, generation: 0 };

/// See the module's header.
#[derive(Default)]
pub struct Monitors {
    /// Whether any connection of the node monitors.
    is_on: bool,
    /// This shard's, and how many lines each has not got.
    here: Vec<(ConnId, u64)>,
    /// This turn's.
    lines: Vec<u8>,
    /// The second that is counted, and lines in it.
    second: (u64, u64),
    /// Left out since the last line.
    left_out: u64,
}

impl Monitors {
    /// Whether commands have to be shown.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Makes room for a line, after one for what was left out. False: it is left out as well.
    fn admit(&mut self, now_ms: u64, shard: u16) -> bool {
        let second = now_ms / 1000;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        if self.second.1 >= LINES_MAX || self.lines.len() >= LINES_LEN_MAX {
            self.left_out += 1;
            return false;
        }
        self.second.1 += 1;
        self.tell_left_out(now_ms, shard);
        true
    }

    fn tell_left_out(&mut self, now_ms: u64, shard: u16) {
        let count = std::mem::take(&mut self.left_out);
        if count > 0 {
            monitor::write_left_out(&mut self.lines, now_ms, shard, count);
        }
    }
}

impl<E: Env> Server<E> {
    /// Learns whether anybody monitors.
    pub(super) fn look_for_monitors(&mut self) {
        let counts = &self.node.common.monitors;
        self.monitors.is_on = counts.iter().any(|count| count.load(Ordering::Acquire) > 0);
    }

    /// A connection of ours monitors from here on.
    pub(super) fn add_monitor(&mut self, index: u32) {
        let Some(Some(conn)) = self.conns.get(index as usize) else { return };
        self.monitors.here.push((conn.id, 0));
        self.count_monitors();
    }

    /// A connection of ours monitors no more, if it did.
    pub(super) fn remove_monitor(&mut self, id: ConnId) {
        self.monitors.here.retain(|(monitor, _)| *monitor != id);
        self.count_monitors();
    }

    fn count_monitors(&mut self) {
        let count = self.monitors.here.len() as u32;
        let here = usize::from(self.shard.id().0);
        self.node.common.monitors[here].store(count, Ordering::Release);
        self.look_for_monitors();
    }

    /// Shows a command of a connection of ours to whoever monitors.
    pub(super) fn show(&mut self, index: u32, spec: &Spec, args: &Args<'_>) {
        let Some(Some(conn)) = self.conns.get(index as usize) else { return };
        if !monitor::is_shown(spec) {
            return;
        }
        let (now_ms, shard) = (self.env.unix_ms(), self.shard.id().0);
        if !self.monitors.admit(now_ms, shard) {
            return self.shard.stats().monitor_left_out.add(1);
        }
        let of = (conn.session.db, conn.session.peer.as_str());
        monitor::write_line(&mut self.monitors.lines, now_ms, of, spec, args);
    }

    /// Sends this turn's lines on their way.
    pub(super) fn tell_monitors(&mut self) {
        if self.monitors.left_out > 0 && self.monitors.lines.is_empty() {
            let now_ms = self.env.unix_ms();
            if self.monitors.second.0 != now_ms / 1000 {
                self.monitors.tell_left_out(now_ms, self.shard.id().0);
            }
        }
        if self.monitors.lines.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.monitors.lines);
        let here = self.shard.id();
        let counts = &self.node.common.monitors;
        let others = (0..self.shard.map().shard_count()).map(ShardId);
        let others: Vec<ShardId> = others
            .filter(|shard| *shard != here)
            .filter(|shard| counts[usize::from(shard.0)].load(Ordering::Acquire) > 0)
            .collect();
        for shard in others {
            let spec = command::lookup(b"monitor").expect("it is in the table");
            let mail = ArgsBuf::from_iter([&b"monitor"[..], &lines]);
            let to = Address::plain(NOBODY, NO_TICKET);
            self.forward(shard, to, spec, mail.args(), (0, Proto::Resp2));
        }
        self.give_to_monitors(&lines);
        lines.clear();
        self.monitors.lines = lines;
    }

    /// Gives lines, ours or another shard's, to our monitors.
    pub(super) fn give_to_monitors(&mut self, lines: &[u8]) {
        let count = || lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut here = std::mem::take(&mut self.monitors.here);
        for (id, left_out) in &mut here {
            let Some(conn) = self.conn(*id) else { continue };
            if conn.unread_len() + lines.len() > OUTPUT_LEN_MAX {
                *left_out += count();
                self.shard.stats().monitor_left_out.add(count());
                continue;
            }
            let mut bytes = Vec::new();
            if *left_out > 0 {
                let (now_ms, shard) = (self.env.unix_ms(), self.shard.id().0);
                monitor::write_left_out(&mut bytes, now_ms, shard, std::mem::take(left_out));
            }
            bytes.extend_from_slice(lines);
            self.push(id.index, &Encoded::from_bytes(bytes));
        }
        self.monitors.here = here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_by_second_and_what_is_left_out_is_told() {
        let mut monitors = Monitors::default();
        let admitted = (0..LINES_MAX + 7).filter(|_| monitors.admit(5_000, 1)).count() as u64;
        assert_eq!((admitted, monitors.left_out), (LINES_MAX, 7));
        assert!(monitors.lines.is_empty());

        assert!(monitors.admit(6_000, 1));
        assert_eq!(monitors.lines, b"+6.000000 [0 stave:1] \"LEFT-OUT\" \"7\"\r\n");
        monitors.lines.resize(LINES_LEN_MAX, b'x');
        assert!(!monitors.admit(6_000, 1));
    }
}
