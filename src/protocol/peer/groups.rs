//! Messages of many groups in one frame.

use super::{BODY_LEN_MAX, Error, HEADER_LEN, Kind, finish, start};
use crate::codec::{Fields, put_u32};
use crate::consensus::{Entry, EntryKind, Handle, Membership, Message, MessageKind, Snapshot};
use crate::id::{NodeId, PartitionId};

/// A frame that has grown beyond this takes no further message, bytes: the receiver should begin.
const FRAME_LEN_MAX: usize = 1 << 20;

/// Bytes of a message before its entries.
const MESSAGE_LEN: usize = 96;

/// Bytes of an entry without its payload.
const ENTRY_LEN: usize = 16;

const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// The messages of a turn on their way into a buffer, in as few frames as is good.
///
/// While a batch is open nothing else may be appended to the buffer: [`Batch::end`] it before.
#[derive(Debug, Default)]
pub struct Batch {
    /// Where the open frame begins.
    open: Option<usize>,
}

impl Batch {
    /// Appends a message to `out`; `payload` appends that of each entry that has one.
    ///
    /// # Errors
    /// [`Error::TooLong`]: the message alone is more than a frame takes. It was taken out again.
    ///
    /// # Panics
    /// When the entries are not those behind `message.index`, in order.
    pub fn push(
        &mut self,
        out: &mut Vec<u8>,
        partition: PartitionId,
        message: &Message,
        mut payload: impl FnMut(&Entry, &mut Vec<u8>),
    ) -> Result<(), Error> {
        if self.open.is_some_and(|at| out.len() - at > FRAME_LEN_MAX) {
            self.end(out);
        }
        loop {
            let body_at = HEADER_LEN + *self.open.get_or_insert_with(|| start(out));
            let message_at = out.len();
            encode(partition, message, &mut payload, out);
            let len = out.len() - body_at;
            if len <= BODY_LEN_MAX {
                return Ok(());
            }
            out.truncate(message_at);
            if message_at == body_at {
                self.open = None;
                out.truncate(body_at - HEADER_LEN);
                return Err(Error::TooLong { kind: Kind::Raft, len, max: BODY_LEN_MAX });
            }
            self.end(out);
        }
    }

    /// Ends the open frame, if there is one.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let Some(at) = self.open.take() {
            finish(out, at, Kind::Raft).expect("no message was taken in that is too long");
        }
    }
}

fn encode(
    partition: PartitionId,
    message: &Message,
    payload: &mut impl FnMut(&Entry, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    encode_head(partition, message, out);
    let entries_at = out.len();
    for (number, entry) in (1..).zip(&message.entries) {
        assert_eq!(entry.index, message.index + number, "entries without a gap");
        out.extend_from_slice(&entry.term.to_le_bytes());
        out.extend_from_slice(&[entry_number(entry.kind), 0, 0, 0, 0, 0, 0, 0]);
    }
    out.extend_from_slice(&message.context);
    if let Some(snapshot) = &message.snapshot {
        encode_snapshot(snapshot, out);
    }
    for (number, entry) in message.entries.iter().enumerate() {
        if entry.kind != EntryKind::Empty {
            let at = out.len();
            payload(entry, out);
            // One that does not fit here does not fit into the frame either.
            let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
            let end = entries_at + (number + 1) * ENTRY_LEN;
            out[end - 4..end].copy_from_slice(&len.to_le_bytes());
        }
    }
}

fn encode_head(partition: PartitionId, message: &Message, out: &mut Vec<u8>) {
    let at = out.len();
    let mut flags = if message.reject { FLAG_REJECT } else { 0 };
    if message.snapshot.is_some() {
        flags |= FLAG_SNAPSHOT;
    }
    out.extend_from_slice(&partition.0.to_le_bytes());
    out.extend_from_slice(&[message.kind as u8, flags, 0, 0]);
    put_u32(out, message.entries.len());
    put_u32(out, message.context.len());
    let numbers = [
        message.from.0,
        message.to.0,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ];
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(&message.priority.to_le_bytes());
    assert_eq!(out.len() - at, MESSAGE_LEN, "as the format says");
}

fn encode_snapshot(snapshot: &Snapshot, out: &mut Vec<u8>) {
    out.extend_from_slice(&snapshot.index.to_le_bytes());
    out.extend_from_slice(&snapshot.term.to_le_bytes());
    encode_membership(&snapshot.membership, out);
}

pub(super) fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    let Membership { voters, learners, outgoing, learners_next } = membership;
    let lists = [voters, learners, outgoing, learners_next];
    lists.iter().for_each(|ids| put_u32(out, ids.len()));
    let ids = lists.into_iter().flatten();
    ids.for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
}

fn entry_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Empty => 0,
        EntryKind::Payload => 1,
        EntryKind::Membership => 2,
    }
}

fn entry_kind(number: u8) -> Option<EntryKind> {
    match number {
        0 => Some(EntryKind::Empty),
        1 => Some(EntryKind::Payload),
        2 => Some(EntryKind::Membership),
        _ => None,
    }
}

/// A message that has come. Its entries' handles have no place yet, only a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Whose.
    pub partition: PartitionId,
    /// The message.
    pub message: Message,
    /// The payloads of all entries, one after the other.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The payload of each entry, in their order.
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> + use<'a, '_> {
        let mut rest = self.payload;
        self.message.entries.iter().map(move |entry| {
            let (payload, after) = rest.split_at(entry.handle.len as usize);
            rest = after;
            payload
        })
    }
}

/// The messages of a frame, in order; the first that is malformed is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    rest: Fields<'a>,
    len: usize,
}

impl<'a> Messages<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: Fields(body), len: body.len() }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Received<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let at = self.len - self.rest.0.len();
        let decoded = decode(&mut self.rest);
        if decoded.is_err() {
            self.rest = Fields(&[]);
        }
        Some(decoded.map_err(|what| Error::Malformed { kind: Kind::Raft, at, what }))
    }
}

/// What the head of a message says of what follows it.
struct Head {
    partition: PartitionId,
    entry_count: usize,
    context_len: usize,
    has_snapshot: bool,
}

fn decode<'a>(rest: &mut Fields<'a>) -> Result<Received<'a>, &'static str> {
    let fields = Fields(rest.take(MESSAGE_LEN).ok_or("a message cut short")?);
    let (head, mut message) = decode_head(fields).ok_or("an unknown kind or flag")?;
    let payload_len = decode_entries(rest, head.entry_count, &mut message)?;
    let context = rest.take(head.context_len).ok_or("a context cut short")?;
    message.context = context.to_vec();
    if head.has_snapshot {
        message.snapshot = Some(decode_snapshot(rest).ok_or("a snapshot cut short")?);
    }
    let payload = rest.take(payload_len).ok_or("payloads cut short")?;
    Ok(Received { partition: head.partition, message, payload })
}

fn decode_head(mut fields: Fields<'_>) -> Option<(Head, Message)> {
    let partition = PartitionId(fields.u32()?);
    let (kind, flags) = (MessageKind::of(fields.u8()?)?, fields.u8()?);
    fields.zero(2)?;
    let head = Head {
        partition,
        entry_count: fields.u32()? as usize,
        context_len: fields.u32()? as usize,
        has_snapshot: flags & FLAG_SNAPSHOT != 0,
    };
    let message = Message {
        kind,
        from: NodeId(fields.u64()?),
        to: NodeId(fields.u64()?),
        term: fields.u64()?,
        log_term: fields.u64()?,
        index: fields.u64()?,
        commit: fields.u64()?,
        commit_term: fields.u64()?,
        reject: flags & FLAG_REJECT != 0,
        reject_hint: fields.u64()?,
        request_snapshot: fields.u64()?,
        priority: fields.u64()? as i64,
        ..Message::default()
    };
    (flags & !(FLAG_REJECT | FLAG_SNAPSHOT) == 0).then_some((head, message))
}

/// Reads the entries; returns the length of their payloads.
fn decode_entries(
    rest: &mut Fields<'_>,
    count: usize,
    message: &mut Message,
) -> Result<usize, &'static str> {
    // Room is made only for what is really there.
    let len = count.checked_mul(ENTRY_LEN).ok_or("too many entries")?;
    let mut fields = Fields(rest.take(len).ok_or("entries cut short")?);
    message.index.checked_add(count as u64).ok_or("an index beyond all")?;
    let mut payload_len = 0_usize;
    message.entries.reserve_exact(count);
    for number in 1..=count as u64 {
        let entry =
            decode_entry(&mut fields, message.index + number).ok_or("an entry that is none")?;
        payload_len += entry.handle.len as usize;
        message.entries.push(entry);
    }
    Ok(payload_len)
}

fn decode_entry(fields: &mut Fields<'_>, index: u64) -> Option<Entry> {
    let (term, kind) = (fields.u64()?, entry_kind(fields.u8()?)?);
    fields.zero(3)?;
    let handle = Handle { len: fields.u32()?, ..Handle::default() };
    let is_right = kind != EntryKind::Empty || handle.len == 0;
    is_right.then_some(Entry { index, term, kind, handle })
}

fn decode_snapshot(rest: &mut Fields<'_>) -> Option<Snapshot> {
    let (index, term) = (rest.u64()?, rest.u64()?);
    Some(Snapshot { index, term, membership: decode_membership(rest)? })
}

pub(super) fn decode_membership(rest: &mut Fields<'_>) -> Option<Membership> {
    let counts = [rest.u32()?, rest.u32()?, rest.u32()?, rest.u32()?];
    let [voters, learners, outgoing, learners_next] = counts.map(|count| decode_ids(rest, count));
    let (voters, learners) = (voters?, learners?);
    Some(Membership { voters, learners, outgoing: outgoing?, learners_next: learners_next? })
}

pub(super) fn decode_ids(rest: &mut Fields<'_>, count: u32) -> Option<Vec<NodeId>> {
    let mut ids = Fields(rest.take((count as usize).checked_mul(size_of::<u64>())?)?);
    (0..count).map(|_| ids.u64().map(NodeId)).collect()
}
