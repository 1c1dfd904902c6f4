//! What a connection still has to send, in order, and what each part of it waits for.
//!
//! Replies are encoded at once, one after the other, into one buffer. A *gate* is a place in that
//! stream which bytes pass only when something happened: an entry was committed, or is on the disk
//! here (the reply tells of a write, or of a version not yet committed), another shard answered
//! (its bytes come in here), or the bytes of a large value were sent from where they are. So
//! replies leave in order, a held one costs a few bytes, and a connection without gates is sent
//! from its buffer without a copy.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ledger::Call;
use super::remote::Answered;
use crate::command::pubsub::Merge;
use crate::protocol::resp::{Proto, Reply};
use crate::shard::Hold;
use crate::shard::mailbox::Element;

/// Most bytes handed out at once; a larger reply goes in pieces, others in between.
pub const PIECE_LEN_MAX: usize = 256 << 10;

/// Tickets are numbers below this, so that those above have a meaning of their own.
const TICKET_MASK: u32 = u32::MAX >> 1;

/// How the answers to the parts of one command become its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// There is one part and it is the reply.
    Whole,
    /// The counts of the parts, added up.
    Sum,
    /// `OK` once all parts are done.
    AllOk,
    /// An array of the parts.
    Array,
    /// An array of all that the parts have: each is so many elements as it counts.
    Join,
    /// The part with the least count.
    Least,
    /// What this makes of the parts' bodies, one after the other.
    Merged(Merge),
}

enum Gate {
    Commit(Hold),
    Answer,
    Large(Arc<Vec<u8>>),
}

/// A command whose parts are elsewhere.
struct Awaited {
    call: Call,
    combine: Combine,
    remaining: u32,
    count: i64,
    /// The first error among the parts; it becomes the reply.
    error: Option<Vec<u8>>,
    body: Vec<u8>,
    parts: Vec<(u32, u32)>,
    splices: Vec<(usize, Arc<Vec<u8>>)>,
}

enum Piece {
    Bytes(Vec<u8>, usize),
    Large(Arc<Vec<u8>>, usize),
}

/// The answer for one part, or for several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'a> {
    /// The parts, if the command is split.
    pub elements: &'a [Element],
    /// For [`Combine::Sum`].
    pub count: i64,
    /// Encoded; an error begins with `-`.
    pub body: &'a [u8],
    /// Large values within `body`.
    pub splices: &'a [(usize, Arc<Vec<u8>>)],
}

/// A reply whose parts are all there.
#[derive(Debug)]
pub struct Whole {
    /// Whose it is.
    pub call: Call,
    /// The error that it is, if it is one.
    pub error: Option<Vec<u8>>,
}

/// A message that answers no command, encoded once for all connections that get it.
#[derive(Debug, Default)]
pub struct Encoded {
    bytes: Vec<u8>,
    splices: Vec<(usize, Arc<Vec<u8>>)>,
}

impl Encoded {
    /// Encodes a message. Large values in it are shared by all who get it.
    pub fn new(proto: Proto, encode: impl FnOnce(&mut Reply<'_>)) -> Self {
        let (mut bytes, mut splices) = (Vec::new(), Vec::new());
        encode(&mut Reply::new(proto, &mut bytes, &mut splices));
        Self { bytes, splices }
    }

    /// What is encoded already.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, splices: Vec::new() }
    }
}

impl<'a> Part<'a> {
    /// What was answered on this shard.
    pub fn of(answered: &'a Answered) -> Self {
        let Answered { body, splices, count, elements, .. } = answered;
        Self { elements, count: *count, body, splices }
    }
}

/// See the module's header.
#[derive(Default)]
pub struct Output {
    out: Vec<u8>,
    /// Bytes of `out` that were handed out.
    head: usize,
    /// Place in the stream of `out[0]`.
    start: u64,
    gates: VecDeque<(u64, Gate)>,
    awaited: VecDeque<Awaited>,
    /// The ticket of `awaited[0]`.
    ticket_first: u32,
    /// Ahead of everything in `out[head..]`.
    lane: VecDeque<Piece>,
    spliced: Vec<(usize, Arc<Vec<u8>>)>,
    /// Bytes of large values that are due.
    large_len: usize,
    /// A planted bug: answers take their place when they come.
    #[doc(hidden)]
    pub misplaces_answers: bool,
}

impl Output {
    /// Encodes a reply at the end of the stream.
    pub fn reply<T>(&mut self, proto: Proto, encode: impl FnOnce(&mut Reply<'_>) -> T) -> T {
        let value = encode(&mut Reply::new(proto, &mut self.out, &mut self.spliced));
        if !self.spliced.is_empty() {
            let start = self.start;
            self.large_len += self.spliced.iter().map(|(_, value)| value.len()).sum::<usize>();
            let gates = self.spliced.drain(..);
            self.gates.extend(gates.map(|(at, value)| (start + at as u64, Gate::Large(value))));
        }
        value
    }

    /// Appends a message, after all replies that are due. Not between the parts of one reply.
    pub fn push(&mut self, message: &Encoded) {
        let splices = message.splices.iter().map(|(at, value)| (*at, value));
        self.append(&message.bytes, splices);
    }

    /// Appends bytes that are encoded already, and the large values that belong among them.
    pub fn append<'a>(
        &mut self,
        bytes: &[u8],
        splices: impl Iterator<Item = (usize, &'a Arc<Vec<u8>>)>,
    ) {
        let start = self.mark();
        self.out.extend_from_slice(bytes);
        for (at, value) in splices {
            self.large_len += value.len();
            self.gates.push_back((start + at as u64, Gate::Large(Arc::clone(value))));
        }
    }

    /// The stream's end, for frames that are encoded in place and wait for nothing.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Where the next reply will begin.
    pub fn mark(&self) -> u64 {
        self.start + self.out.len() as u64
    }

    /// Takes back what was encoded since `mark`.
    pub fn undo(&mut self, mark: u64) {
        self.out.truncate((mark - self.start) as usize);
        while let Some((at, Gate::Large(value))) = self.gates.back()
            && *at > mark
        {
            self.large_len -= value.len();
            self.gates.pop_back();
        }
    }

    /// Bytes from `mark` on leave only when `hold` has happened. `mark` must not be before the last
    /// gate, save for gates of the same reply.
    pub fn hold(&mut self, mark: u64, hold: Hold) {
        let last = self.gates.iter().rposition(|(_, gate)| !is_large(gate));
        if let Some((_, Gate::Commit(last))) = last.map(|at| &self.gates[at])
            && *last == hold
        {
            return;
        }
        let at = self.gates.partition_point(|(at, _)| *at <= mark);
        self.gates.insert(at, (mark, Gate::Commit(hold)));
    }

    /// The reply comes from elsewhere, in `parts` parts; returns the ticket to answer under.
    pub fn expect(&mut self, call: Call, combine: Combine, parts: u32) -> u32 {
        if !self.misplaces_answers {
            self.gates.push_back((self.mark(), Gate::Answer));
        }
        self.awaited.push_back(Awaited {
            call,
            combine,
            remaining: parts,
            count: 0,
            error: None,
            body: Vec::new(),
            parts: if combine == Combine::Array { vec![(0, 0); parts as usize] } else { vec![] },
            splices: Vec::new(),
        });
        self.ticket_first.wrapping_add(self.awaited.len() as u32 - 1) & TICKET_MASK
    }

    /// The reply under `ticket` leaves only when `hold` has happened too: a part of it was answered
    /// here and tells of what is not committed. Of each place the last entry is enough.
    pub fn hold_answer(&mut self, ticket: u32, hold: Hold) {
        let nth = (ticket.wrapping_sub(self.ticket_first) & TICKET_MASK) as usize;
        let after = self.awaited.len() - 1 - nth;
        let answers = self.gates.iter().enumerate().rev();
        let mut answers = answers.filter(|(_, (_, gate))| matches!(gate, Gate::Answer));
        let Some((at, (mark, _))) = answers.nth(after) else { return };
        let mark = *mark;
        for (_, gate) in self.gates.range_mut(..at).rev() {
            match gate {
                Gate::Commit(held) if held.place == hold.place && held.ack == hold.ack => {
                    held.index = held.index.max(hold.index);
                    return;
                }
                Gate::Commit(_) => {}
                Gate::Answer | Gate::Large(_) => break,
            }
        }
        self.gates.insert(at, (mark, Gate::Commit(hold)));
    }

    /// The answer for some parts has come; the whole, if they were the last.
    pub fn answer(&mut self, ticket: u32, part: Part<'_>) -> Option<Whole> {
        let place = (ticket.wrapping_sub(self.ticket_first) & TICKET_MASK) as usize;
        let awaited = &mut self.awaited[place];
        awaited.remaining -= part.elements.len().max(1) as u32;
        let is_least = awaited.body.is_empty() || part.count < awaited.count;
        awaited.count = match awaited.combine {
            Combine::Least if is_least => part.count,
            Combine::Least => awaited.count,
            _ => awaited.count + part.count,
        };
        // Of an array too: no element of one is an error. Keys are refused together, or one by one
        // where the leadership was lost between slices.
        if let Some(error) = error_of(&part) {
            awaited.error.get_or_insert_with(|| error.to_vec());
        }
        let at = awaited.body.len();
        match awaited.combine {
            Combine::Whole | Combine::Join | Combine::Merged(_) => {
                awaited.body.extend_from_slice(part.body);
            }
            Combine::Least if is_least => awaited.body = part.body.to_vec(),
            Combine::Least => {}
            Combine::Array => {
                awaited.body.extend_from_slice(part.body);
                for element in part.elements {
                    awaited.parts[element.part as usize] = (at as u32 + element.at, element.len);
                }
            }
            Combine::Sum | Combine::AllOk => {}
        }
        self.large_len += part.splices.iter().map(|(_, value)| value.len()).sum::<usize>();
        let splices = part.splices.iter().map(|(offset, value)| (at + offset, Arc::clone(value)));
        awaited.splices.extend(splices);
        let complete = awaited.remaining == 0;
        if complete && self.misplaces_answers {
            self.gates.push_back((self.mark(), Gate::Answer));
        }
        let awaited = &self.awaited[place];
        complete.then(|| Whole { call: awaited.call, error: awaited.error.clone() })
    }

    /// The error that the reply at `mark` is, without its `-`, if it is one.
    #[inline]
    pub fn error_at(&self, mark: u64) -> Option<&[u8]> {
        self.out.get((mark - self.start) as usize..)?.strip_prefix(b"-")
    }

    /// Bytes that are due, sent or not; large values not counted, since they are held elsewhere.
    pub fn held_len(&self) -> usize {
        let awaited: usize = self.awaited.iter().map(|awaited| awaited.body.len()).sum();
        self.out.len() - self.head + awaited
    }

    /// Bytes that are due, large values too: what a client that does not read keeps alive.
    pub fn due_len(&self) -> usize {
        self.held_len() + self.large_len
    }

    /// Whether a reply waits for a commit.
    pub fn is_held(&self) -> bool {
        self.waits_for(|_| true)
    }

    /// Whether a reply waits for a commit that is one of these.
    pub fn waits_for(&self, is_it: impl Fn(Hold) -> bool) -> bool {
        self.gates.iter().any(|(_, gate)| matches!(gate, Gate::Commit(hold) if is_it(*hold)))
    }

    /// Nothing is due.
    pub fn is_empty(&self) -> bool {
        self.head == self.out.len() && self.gates.is_empty() && self.lane.is_empty()
    }

    /// Requests that other shards have not answered.
    pub fn awaited_count(&self) -> usize {
        self.awaited.len()
    }

    /// Takes back the buffer of a piece that was sent, for the next replies; or returns it, if it
    /// was a copy.
    pub fn recycle(&mut self, piece: Vec<u8>) -> Vec<u8> {
        if self.out.capacity() > 0 || piece.capacity() > PIECE_LEN_MAX {
            return piece;
        }
        std::mem::replace(&mut self.out, piece)
    }

    /// Memory kept while nothing is due is given back.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.out.capacity() > 4096 {
            self.out = Vec::new();
        }
    }

    /// Moves into the empty `piece` what may leave, up to about [`PIECE_LEN_MAX`] bytes.
    pub fn take(&mut self, piece: &mut Vec<u8>, has_met: impl Fn(Hold) -> bool) {
        debug_assert!(piece.is_empty(), "the last piece was not sent");
        while self.take_lane(piece) {
            while let Some((_, Gate::Commit(hold))) = self.gates.front()
                && has_met(*hold)
            {
                self.gates.pop_front();
            }
            let Some((at, gate)) = self.gates.front() else {
                return self.take_out(piece, self.out.len());
            };
            let until = (*at - self.start) as usize;
            let open = match gate {
                Gate::Commit(_) => false,
                Gate::Answer => self.awaited[0].remaining == 0,
                Gate::Large(_) => true,
            };
            self.take_out(piece, until);
            if !open {
                return;
            }
            match self.gates.pop_front().expect("looked at").1 {
                Gate::Commit(_) => {}
                Gate::Answer => self.take_answer(),
                Gate::Large(value) => self.lane.push_back(Piece::Large(value, 0)),
            }
        }
    }

    /// Moves `out[head..until]`.
    fn take_out(&mut self, piece: &mut Vec<u8>, until: usize) {
        if piece.is_empty() && self.head == 0 && until == self.out.len() {
            self.start += until as u64;
            std::mem::swap(piece, &mut self.out);
            return;
        }
        piece.extend_from_slice(&self.out[self.head..until]);
        self.head = until;
        if self.head == self.out.len() || self.head > PIECE_LEN_MAX {
            self.start += self.head as u64;
            self.out.drain(..self.head);
            self.head = 0;
        }
    }

    /// Moves the lane; false when the piece is full.
    fn take_lane(&mut self, piece: &mut Vec<u8>) -> bool {
        while let Some(front) = self.lane.front_mut() {
            let (bytes, sent, is_large) = match front {
                Piece::Bytes(bytes, sent) => (bytes.as_slice(), sent, false),
                Piece::Large(bytes, sent) => (bytes.as_slice(), sent, true),
            };
            let room = PIECE_LEN_MAX.saturating_sub(piece.len());
            let len = room.min(bytes.len() - *sent);
            self.large_len -= if is_large { len } else { 0 };
            piece.extend_from_slice(&bytes[*sent..*sent + len]);
            *sent += len;
            if *sent < bytes.len() {
                return false;
            }
            self.lane.pop_front();
        }
        piece.len() < PIECE_LEN_MAX
    }

    /// The first awaited command is complete: its reply goes to the lane.
    fn take_answer(&mut self) {
        let mut done = self.awaited.pop_front().expect("one per gate");
        self.ticket_first = self.ticket_first.wrapping_add(1) & TICKET_MASK;
        if let Some(error) = done.error {
            self.large_len -= done.splices.iter().map(|(_, value)| value.len()).sum::<usize>();
            return self.lane.push_back(Piece::Bytes(error, 0));
        }
        match done.combine {
            Combine::Whole | Combine::Least => {}
            Combine::Join => {
                let head = format!("*{}\r\n", done.count).into_bytes();
                self.lane.push_back(Piece::Bytes(head, 0));
            }
            Combine::Merged(merge) => done.body = merge.reply(&done.body),
            Combine::Sum => done.body = format!(":{}\r\n", done.count).into_bytes(),
            Combine::AllOk => done.body = b"+OK\r\n".to_vec(),
            Combine::Array => {
                let head = format!("*{}\r\n", done.parts.len()).into_bytes();
                self.lane.push_back(Piece::Bytes(head, 0));
            }
        }
        match done.combine {
            Combine::Array => self.take_array(&done),
            _ => self.lane_run(&done, 0, done.body.len()),
        }
    }

    fn take_array(&mut self, done: &Awaited) {
        if done.splices.is_empty() {
            let mut body = Vec::with_capacity(done.body.len());
            for (at, len) in &done.parts {
                body.extend_from_slice(&done.body[*at as usize..(at + len) as usize]);
            }
            return self.lane.push_back(Piece::Bytes(body, 0));
        }
        for (at, len) in &done.parts {
            self.lane_run(done, *at as usize, (at + len) as usize);
        }
    }

    /// `done.body[from..until]` with the large values that belong in between.
    fn lane_run(&mut self, done: &Awaited, from: usize, until: usize) {
        let mut at = from;
        let within = done.splices.iter().filter(|(place, _)| (from..=until).contains(place));
        for (place, value) in within {
            self.lane.push_back(Piece::Bytes(done.body[at..*place].to_vec(), 0));
            self.lane.push_back(Piece::Large(Arc::clone(value), 0));
            at = *place;
        }
        self.lane.push_back(Piece::Bytes(done.body[at..until].to_vec(), 0));
    }
}

/// The error that is in a part, if one is.
fn error_of<'p>(part: &Part<'p>) -> Option<&'p [u8]> {
    let whole = part.elements.is_empty().then_some(0);
    let mut starts = part.elements.iter().map(|element| element.at as usize).chain(whole);
    let at = starts.find(|at| part.body.get(*at) == Some(&b'-'))?;
    let rest = &part.body[at..];
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Some(&rest[..end])
}

fn is_large(gate: &Gate) -> bool {
    matches!(gate, Gate::Large(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold_at(place: u32, index: u64) -> Hold {
        Hold { place, index, ..Hold::default() }
    }

    fn text(output: &mut Output, committed: u64) -> String {
        let mut all = Vec::new();
        loop {
            let mut piece = Vec::new();
            output.take(&mut piece, |hold| hold.index <= committed);
            if piece.is_empty() {
                return String::from_utf8(all).expect("ASCII");
            }
            all.append(&mut piece);
        }
    }

    fn status(output: &mut Output, name: &str) -> u64 {
        let mark = output.mark();
        output.reply(Proto::Resp2, |reply| reply.simple(name));
        mark
    }

    #[test]
    fn replies_leave_in_order_and_no_held_one_early() {
        let mut output = Output::default();
        status(&mut output, "a");
        let held = status(&mut output, "b");
        output.hold(held, hold_at(0, 2));
        let ticket = output.expect(Call::default(), Combine::Sum, 2);
        status(&mut output, "c");

        assert_eq!(text(&mut output, 1), "+a\r\n");
        assert_eq!(text(&mut output, 2), "+b\r\n");
        output.answer(ticket, Part { count: 3, ..Part::default() });
        assert_eq!(text(&mut output, 2), "");
        output.answer(ticket, Part { count: 4, ..Part::default() });
        assert_eq!(text(&mut output, 2), ":7\r\n+c\r\n");
        assert!(output.is_empty());
    }

    #[test]
    fn an_answer_waits_for_the_commit_of_a_part_that_was_answered_here() {
        let mut output = Output::default();
        let first = output.expect(Call::default(), Combine::AllOk, 2);
        let second = output.expect(Call::default(), Combine::Sum, 1);
        status(&mut output, "after");
        output.hold_answer(first, hold_at(0, 1));
        output.hold_answer(first, hold_at(0, 2));
        output.answer(second, Part { count: 1, ..Part::default() });
        output.answer(first, Part::default());
        output.answer(first, Part::default());

        assert_eq!(text(&mut output, 1), "");
        assert_eq!(text(&mut output, 2), "+OK\r\n:1\r\n+after\r\n");
    }

    #[test]
    fn parts_of_an_array_take_their_places_whatever_order_they_come_in() {
        let mut output = Output::default();
        let first = output.expect(Call::default(), Combine::Array, 3);
        let second = output.expect(Call::default(), Combine::Whole, 1);
        for (part, body) in [(2, ":2\r\n"), (0, ":0\r\n"), (1, ":1\r\n")] {
            let (body, elements) = (body.as_bytes(), [Element { part, at: 0, len: 4 }]);
            output.answer(first, Part { elements: &elements, body, ..Part::default() });
        }
        output.answer(second, Part { body: b"-ERR no\r\n", ..Part::default() });

        assert_eq!(text(&mut output, 0), "*3\r\n:0\r\n:1\r\n:2\r\n-ERR no\r\n");
    }

    #[test]
    fn parts_are_joined_and_the_least_of_several_is_taken() {
        let mut output = Output::default();
        let joined = output.expect(Call::default(), Combine::Join, 2);
        let least = output.expect(Call::default(), Combine::Least, 3);
        for (count, body) in [(2, ":1\r\n:2\r\n"), (1, ":3\r\n")] {
            output.answer(joined, Part { count, body: body.as_bytes(), ..Part::default() });
        }
        for (count, body) in [(i64::MAX, "$-1\r\n"), (-5, "+least\r\n"), (3, "+other\r\n")] {
            output.answer(least, Part { count, body: body.as_bytes(), ..Part::default() });
        }

        assert_eq!(text(&mut output, 0), "*3\r\n:1\r\n:2\r\n:3\r\n+least\r\n");
    }

    #[test]
    fn a_reply_in_parts_waits_for_the_commits_of_parts_that_were_at_hand() {
        let mut output = Output::default();
        let mark = status(&mut output, "a");
        output.hold(mark, hold_at(1, 1));
        let ticket = output.expect(Call::default(), Combine::AllOk, 3);
        for (place, index) in [(0, 2), (1, 1), (0, 3)] {
            output.answer(ticket, Part::default());
            output.hold_answer(ticket, hold_at(place, index));
        }
        status(&mut output, "b");

        assert_eq!(text(&mut output, 0), "");
        assert_eq!(text(&mut output, 1), "+a\r\n");
        assert_eq!(text(&mut output, 2), "");
        assert_eq!(text(&mut output, 3), "+OK\r\n+b\r\n");
    }

    #[test]
    fn large_values_are_spliced_in_pieces() {
        let value = Arc::new(vec![b'x'; 3 * PIECE_LEN_MAX + 5]);
        let mut output = Output::default();
        let mark = output.mark();
        output.reply(Proto::Resp2, |reply| reply.bulk_shared(&value));
        output.hold(mark, hold_at(0, 1));
        status(&mut output, "after");

        assert_eq!(text(&mut output, 0), "");
        let all = text(&mut output, 1);
        assert_eq!(all.len(), format!("${}\r\n", value.len()).len() + value.len() + 2 + 8);
        assert!(all.ends_with("x\r\n+after\r\n"));
    }

    #[test]
    fn a_message_leaves_after_the_replies_before_it_and_shares_its_value() {
        let value = Arc::new(vec![b'x'; 1 << 17]);
        let message = Encoded::new(Proto::Resp3, |reply| {
            reply.push(1);
            reply.bulk_shared(&value);
        });
        let mut outputs = [Output::default(), Output::default()];
        let ticket = outputs[0].expect(Call::default(), Combine::Sum, 1);
        outputs.iter_mut().for_each(|output| output.push(&message));
        status(&mut outputs[0], "after");

        assert_eq!(Arc::strong_count(&value), 4);
        assert!(text(&mut outputs[1], 0).ends_with("xx\r\n"));
        assert_eq!(text(&mut outputs[0], 0), "");
        outputs[0].answer(ticket, Part { count: 2, ..Part::default() });
        let all = text(&mut outputs[0], 0);
        assert!(all.starts_with(":2\r\n>1\r\n$131072\r\nxx") && all.ends_with("xx\r\n+after\r\n"));
    }

    #[test]
    fn a_connection_without_gates_is_sent_from_its_own_buffer() {
        let mut output = Output::default();
        status(&mut output, "a");
        let address = output.out.as_ptr();

        let mut piece = Vec::new();
        output.take(&mut piece, |_| false);

        assert_eq!((piece.as_ptr(), piece.as_slice()), (address, b"+a\r\n".as_slice()));
    }
}
