//! What is under way on one connection: bytes to send, requests without an answer, bytes that came.
//!
//! No sockets: both clients drive it. It knows at every moment how much of its output has left, so
//! that when the connection breaks it tells requests that the server can not have had whole from
//! those that it may have had.

use std::collections::HashMap;

use super::{Frame, frame, refusal};

/// Output from this size on is sent before more is added. Bytes.
pub(crate) const OUTPUT_LEN: usize = 64 << 10;

/// A connection's state. `T` is who waits for a reply.
pub(crate) struct Session<T> {
    output: Vec<u8>,
    /// Bytes of `output` that have left.
    sent: usize,
    /// Bytes that had left before those of `output`.
    sent_before: u64,
    input: Vec<u8>,
    /// Bytes of `input` that were read.
    taken: usize,
    waiting: HashMap<u64, Waiting<T>>,
    /// Bytes of the requests in `waiting`.
    waiting_len: usize,
}

struct Waiting<T> {
    who: T,
    opcode: u8,
    /// Where in all output its frame ends.
    end: u64,
    /// Bytes of its frame.
    len: usize,
}

impl<T> Default for Session<T> {
    fn default() -> Self {
        Self {
            output: Vec::new(),
            sent: 0,
            sent_before: 0,
            input: Vec::new(),
            taken: 0,
            waiting: HashMap::new(),
            waiting_len: 0,
        }
    }
}

impl<T> Session<T> {
    /// Adds a request: its frame is appended by `write`.
    pub fn push(&mut self, id: u64, opcode: u8, who: T, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.output.len();
        write(&mut self.output);
        let len = self.output.len() - before;
        let end = self.sent_before + self.output.len() as u64;
        self.waiting_len += len;
        let displaced = self.waiting.insert(id, Waiting { who, opcode, end, len });
        assert!(displaced.is_none(), "request id {id} is used twice");
    }

    /// Bytes to send.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// So many of them have left.
    pub fn sent(&mut self, len: usize) {
        self.sent += len;
        if self.sent == self.output.len() {
            self.sent_before += self.sent as u64;
            self.sent = 0;
            self.output.clear();
            self.output.shrink_to(OUTPUT_LEN);
        }
    }

    /// Bytes that came.
    pub fn received(&mut self, bytes: &[u8]) {
        if self.taken == self.input.len() {
            self.input.clear();
            self.input.shrink_to(OUTPUT_LEN);
            self.taken = 0;
        } else if self.taken > OUTPUT_LEN {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next reply that came whole, and who waits for it.
    ///
    /// # Errors
    /// The stream can not be trusted any more; all that is under way is lost.
    pub fn reply(&mut self) -> Result<Option<(T, Frame)>, String> {
        let Some((frame, len)) = frame(&self.input[self.taken..])? else { return Ok(None) };
        self.taken += len;
        let waiting = self.waiting.remove(&frame.id);
        self.waiting_len -= waiting.as_ref().map_or(0, |waiting| waiting.len);
        match waiting {
            Some(waiting) if frame.is_error || waiting.opcode == frame.opcode => {
                Ok(Some((waiting.who, frame)))
            }
            // The server tells why it closes.
            None if frame.is_error => Err(match refusal(&frame.body) {
                Some((refusal, _)) => refusal.to_string(),
                None => "an error that can not be read".to_owned(),
            }),
            _ => Err("a reply to what was not asked".to_owned()),
        }
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the requests without an answer.
    #[cfg(feature = "blocking")]
    pub fn in_flight_len(&self) -> usize {
        self.waiting_len
    }

    /// The connection broke: who waits, and whether all of the request had left. A server does
    /// nothing with a part of one.
    pub fn lose(&mut self) -> impl Iterator<Item = (T, bool)> + use<T> {
        self.waiting_len = 0;
        let left = self.sent_before + self.sent as u64;
        std::mem::take(&mut self.waiting)
            .into_values()
            .map(move |waiting| (waiting.who, waiting.end <= left))
    }
}

#[cfg(test)]
mod tests {
    use super::super::put_frame;
    use super::*;

    fn session() -> Session<&'static str> {
        let mut session = Session::default();
        for (id, who) in [(1, "one"), (2, "two"), (3, "three")] {
            session.push(id, 0x10, who, |out| put_frame(out, (0x10, 0), id, 0, |_| {}));
        }
        session
    }

    fn reply(id: u64, opcode: u8, flags: u8) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, (opcode, 0), id, 0, |out| out.extend_from_slice(&[7; 100]));
        out[6] = flags;
        let check = super::super::check(&out[..28]).to_le_bytes();
        out[28..32].copy_from_slice(&check);
        out
    }

    #[test]
    fn only_whole_requests_may_have_been_done() {
        let mut session = session();
        assert_eq!(session.output().len(), 96);
        session.sent(32);
        session.sent(63);

        let mut lost: Vec<_> = session.lose().collect();

        lost.sort_unstable();
        assert_eq!(lost, [("one", true), ("three", false), ("two", true)]);
        assert_eq!(session.in_flight(), 0);
    }

    #[test]
    fn offsets_go_on_after_all_was_sent() {
        let mut session = session();
        session.sent(96);
        session.push(4, 0x10, "four", |out| put_frame(out, (0x10, 0), 4, 0, |_| {}));
        session.sent(31);

        let unsent: Vec<_> = session.lose().filter(|(_, sent)| !sent).collect();

        assert_eq!(unsent, [("four", false)]);
    }

    #[test]
    fn replies_come_in_any_order_and_in_any_pieces() {
        let mut session = session();
        let bytes = [reply(3, 0x10, 1), reply(1, 0x10, 1)].concat();
        let mut came = Vec::new();

        for byte in bytes {
            session.received(&[byte]);
            while let Some((who, frame)) = session.reply().expect("it is the protocol") {
                assert_eq!(frame.body, [7; 100]);
                came.push(who);
            }
        }

        assert_eq!(came, ["three", "one"]);
        assert_eq!(session.in_flight(), 1);
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        for (id, opcode, flags) in [(9, 0x10, 1), (1, 0x11, 1), (1, 0x10, 0), (9, 0x10, 3)] {
            let mut session = session();

            session.received(&reply(id, opcode, flags));

            assert!(session.reply().is_err(), "{id} {opcode} {flags}");
        }
    }
}
