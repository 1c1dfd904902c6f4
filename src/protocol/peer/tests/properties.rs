//! Round trips however the stream is cut, and bytes that mean nothing.

use proptest::prelude::*;

use super::super::*;
use super::{framed, payload, raft_frame};
use crate::consensus::{Entry, EntryKind, Handle, Membership, Message, MessageKind, Snapshot};
use crate::id::{NodeId, PartitionId};

fn ids() -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec(any::<u64>().prop_map(NodeId), 0..4)
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let membership = (ids(), ids(), ids(), ids()).prop_map(|lists| {
        let (voters, learners, outgoing, learners_next) = lists;
        Membership { voters, learners, outgoing, learners_next }
    });
    (any::<u64>(), any::<u64>(), membership).prop_map(|(index, term, membership)| Snapshot {
        index,
        term,
        membership,
    })
}

/// Entries behind `index`.
fn entries(index: u64, made: Vec<(u64, u8, u32)>) -> Vec<Entry> {
    let entry = |(number, (term, kind, len)): (u64, (u64, u8, u32))| {
        let kind = match kind {
            0 => EntryKind::Empty,
            1 => EntryKind::Membership,
            _ => EntryKind::Payload,
        };
        let len = if kind == EntryKind::Empty { 0 } else { len };
        Entry { index: index + number, term, kind, handle: Handle { len, ..Handle::default() } }
    };
    (1..).zip(made).map(entry).collect()
}

fn message() -> impl Strategy<Value = (PartitionId, Message)> {
    let numbers = prop::array::uniform8(any::<u64>());
    let made = prop::collection::vec((any::<u64>(), 0..8u8, 0..300u32), 0..6);
    let context = prop::collection::vec(any::<u8>(), 0..20);
    let rest = (any::<u32>(), any::<bool>(), any::<i64>(), prop::option::of(snapshot()));
    (prop::sample::select(&MessageKind::ALL[..]), numbers, 0..u64::MAX - 9, made, context, rest)
        .prop_map(
            |(kind, numbers, index, made, context, (partition, reject, priority, snapshot))| {
                let [from, to, term, log_term, commit, commit_term, hint, request] = numbers;
                let message = Message {
                    kind,
                    from: NodeId(from),
                    to: NodeId(to),
                    term,
                    log_term,
                    index,
                    entries: entries(index, made),
                    commit,
                    commit_term,
                    reject,
                    reject_hint: hint,
                    request_snapshot: request,
                    context,
                    priority,
                    snapshot,
                };
                (PartitionId(partition), message)
            },
        )
}

/// Feeds a stream in pieces; what came of it, and how it ended.
fn parsed(stream: &[u8], piece_len: usize) -> (Vec<(Kind, Vec<u8>)>, Option<Error>) {
    let (mut parser, mut frames) = (Parser::default(), Vec::new());
    for mut piece in stream.chunks(piece_len) {
        loop {
            match parser.next(&mut piece, BODY_LEN_MAX) {
                Ok(Some(frame)) => frames.push((frame.kind, frame.body.to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(piece.is_empty(), "{} bytes were left without reason", piece.len());
    }
    (frames, None)
}

/// The messages of a raft frame's body, and the error that ended them.
fn received(body: &[u8]) -> (Vec<Received<'_>>, Option<Error>) {
    let Ok(Body::Raft(messages)) = Body::decode(Kind::Raft, body) else {
        panic!("a raft frame decodes message by message")
    };
    let mut received = Vec::new();
    for message in messages {
        match message {
            Ok(message) => received.push(message),
            Err(error) => return (received, Some(error)),
        }
    }
    (received, None)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_the_round_trip_however_cut(
        batches in prop::collection::vec(prop::collection::vec(message(), 1..5), 1..4),
        piece_len in 1..400usize,
    ) {
        let stream: Vec<u8> = batches.iter().flat_map(raft_frame).collect();

        let (frames, error) = parsed(&stream, piece_len);

        prop_assert_eq!(error, None);
        prop_assert_eq!(frames.len(), batches.len());
        for ((kind, body), batch) in frames.iter().zip(&batches) {
            prop_assert_eq!(*kind, Kind::Raft);
            let (messages, error) = received(body);
            prop_assert_eq!(error, None);
            prop_assert_eq!(messages.len(), batch.len());
            for (received, (partition, message)) in messages.iter().zip(batch) {
                prop_assert_eq!((received.partition, &received.message), (*partition, message));
                let payloads = message.entries.iter().map(payload);
                prop_assert!(received.payloads().map(<[u8]>::to_vec).eq(payloads));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_always_seen(
        batch in prop::collection::vec(message(), 1..3),
        at: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let mut stream = raft_frame(&batch);
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;

        let (frames, error) = parsed(&stream, stream.len());

        prop_assert!(frames.is_empty() && error.is_some());
    }

    #[test]
    fn a_body_cut_short_is_malformed(message in message(), at: prop::sample::Index) {
        let frame = raft_frame([&message]);
        let body = &frame[HEADER_LEN..];
        let cut = 1 + at.index(body.len() - 1);

        let (messages, error) = received(&body[..cut]);

        prop_assert!(messages.is_empty());
        let is_malformed = matches!(error, Some(Error::Malformed { kind: Kind::Raft, at: 0, .. }));
        prop_assert!(is_malformed, "{:?}", error);
    }

    #[test]
    fn any_body_decodes_to_what_encodes_to_it_or_is_malformed(
        kind in prop::sample::select(&Kind::ALL[..]),
        body in prop::collection::vec(0..4u8, 0..300),
    ) {
        let again = match Body::decode(kind, &body) {
            Err(Error::Malformed { .. }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
            Ok(Body::Raft(_)) => {
                received(&body);
                return Ok(());
            }
            Ok(Body::Hello(hello)) => framed(kind, |out| hello.encode(out)),
            Ok(Body::Welcome(welcome)) => framed(kind, |out| welcome.encode(out)),
            Ok(Body::Refused(refusal)) => framed(kind, |out| refusal.encode(out)),
            Ok(Body::Blob(blob)) => framed(kind, |out| blob.encode(out)),
            Ok(Body::Mail(parcel) | Body::MailPiece(parcel)) => {
                framed(kind, |out| out.extend_from_slice(parcel))
            }
            Ok(Body::Snapshot(step)) => framed(kind, |out| step.encode(out)),
            Ok(Body::Leads(led)) => framed(kind, |out| led.iter().for_each(|led| led.encode(out))),
            Ok(Body::Topology(text)) => framed(kind, |out| out.extend_from_slice(text)),
            Ok(Body::Endpoint(endpoint)) => framed(kind, |out| endpoint.encode(out)),
            Ok(Body::Slow) => framed(kind, |_| {}),
            Ok(Body::Ask(round)) => framed(kind, |out| Body::encode_ask(round, out)),
            Ok(Body::Closed(closed)) => framed(kind, |out| closed.encode(out)),
            Ok(Body::Beat(sent_ns)) => framed(kind, |out| Body::encode_beat(sent_ns, out)),
        };
        prop_assert_eq!(&again[HEADER_LEN..], &body[..]);
    }
}

#[test]
fn nothing_is_allocated_on_the_word_of_a_count() {
    let mut frame = raft_frame([&(PartitionId(1), Message::default())]);
    for at in [8, 12] {
        frame[HEADER_LEN + at..][..4].copy_from_slice(&u32::MAX.to_le_bytes());

        let (messages, error) = received(&frame[HEADER_LEN..]);

        assert!(messages.is_empty() && error.is_some());
        frame[HEADER_LEN + at..][..4].fill(0);
    }
}

#[test]
fn nothing_is_allocated_on_the_word_of_a_header() {
    let mut head = [0; HEADER_LEN];
    let body_len = BODY_LEN_MAX as u32;
    Header { kind: Kind::Mail, body_len, body_check: 0 }.encode(&mut head);
    let mut parser = Parser::default();

    let parsed = parser.next(&mut head.as_slice(), BODY_LEN_MAX).map(|frame| frame.is_some());

    assert_eq!(parsed, Ok(false));
    assert!(parser.is_amid() && parser.buffered_len() <= 65 << 10);
}

#[test]
fn a_long_frame_leaves_no_long_buffer() {
    let long = framed(Kind::Mail, |out| out.resize(HEADER_LEN + (4 << 20), 7));
    let beat = framed(Kind::Beat, |out| Body::encode_beat(7, out));
    let mut parser = Parser::default();

    let (first, mut second) = long.split_at(1000);
    assert_eq!(parser.next(&mut &*first, BODY_LEN_MAX), Ok(None));
    let kind = parser.next(&mut second, BODY_LEN_MAX).expect("ours").map(|frame| frame.kind);
    assert_eq!(kind, Some(Kind::Mail));
    assert!(!parser.is_amid());
    let kind = parser.next(&mut &*beat, BODY_LEN_MAX).expect("ours").map(|frame| frame.kind);

    assert_eq!(kind, Some(Kind::Beat));
    assert_eq!(parser.buffered_len(), 0);
}

#[test]
fn a_batch_that_grows_long_is_several_frames_and_a_message_too_long_is_none() {
    let entry = |len| Entry {
        index: 1,
        term: 1,
        kind: EntryKind::Payload,
        handle: Handle { len, ..Handle::default() },
    };
    let of = |len| Message { entries: vec![entry(len)], ..Message::default() };
    let fill = |entry: &Entry, out: &mut Vec<u8>| {
        out.resize(out.len() + entry.handle.len as usize, 7);
    };
    let (mut batch, mut out) = (Batch::default(), Vec::new());

    for len in [700_000, 700_000, 700_000] {
        assert_eq!(batch.push(&mut out, PartitionId(0), &of(len), fill), Ok(()));
    }
    let refused = batch.push(&mut out, PartitionId(0), &of(BODY_LEN_MAX as u32), fill);
    batch.end(&mut out);
    let len = out.len();
    batch.end(&mut out);

    assert!(matches!(refused, Err(Error::TooLong { kind: Kind::Raft, .. })));
    assert_eq!(out.len(), len, "nothing was open");
    assert_eq!(counts(&out), [2, 1]);
}

/// How many messages each of these frames has.
fn counts(stream: &[u8]) -> Vec<usize> {
    let (frames, error) = parsed(stream, stream.len());
    assert_eq!(error, None);
    frames.iter().map(|(_, body)| received(body).0.len()).collect()
}

#[test]
fn a_message_that_fills_a_frame_gets_one_of_its_own() {
    let long =
        |entry: &Entry, out: &mut Vec<u8>| out.resize(out.len() + entry.handle.len as usize, 7);
    let (mut batch, mut out) = (Batch::default(), Vec::new());

    for len in [1000, BODY_LEN_MAX as u32 - 112] {
        let handle = Handle { len, ..Handle::default() };
        let entry = Entry { index: 1, term: 1, kind: EntryKind::Payload, handle };
        let message = Message { entries: vec![entry], ..Message::default() };
        assert_eq!(batch.push(&mut out, PartitionId(0), &message, long), Ok(()));
    }
    batch.end(&mut out);

    assert_eq!(counts(&out), [1, 1]);
}
