//! Whatever is encoded is decoded, wherever the stream is cut; whatever else comes does no harm.

use proptest::prelude::*;

use super::super::*;
use super::{BODY_LEN_MAX, framed, reply_frame, request_frame};

/// A request that owns its bytes.
#[derive(Clone, Debug)]
struct Made {
    opcode: Opcode,
    body: Vec<u8>,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn encoded(request: &Request<'_>) -> Made {
    let mut body = Vec::new();
    request.encode(&mut body);
    Made { opcode: request.opcode(), body }
}

/// The parts of an op.
type Parts = (u8, Vec<u8>, Option<Vec<u8>>, u8, u8, u64, Vec<u8>);

fn parts() -> impl Strategy<Value = Parts> {
    let value = prop::option::of(bytes());
    (0..16u8, bytes(), value, 0..4u8, 0..5u8, 1..1u64 << 53, bytes())
}

fn op((db, key, value, ttl, condition, number, operand): &Parts) -> Op<'_> {
    let ttl = match ttl {
        1 if value.is_some() => Ttl::InMs(*number),
        2 if value.is_some() => Ttl::AtMs(*number),
        3 if value.is_some() => Ttl::Keep,
        _ => Ttl::None,
    };
    let condition = match condition {
        1 => Condition::Absent,
        2 => Condition::Present,
        3 => Condition::Equals(operand),
        4 => Condition::Version(*number),
        _ => Condition::None,
    };
    Op { db: *db, key, value: value.as_deref(), ttl, condition }
}

fn made() -> impl Strategy<Value = Made> {
    let batch = prop::collection::vec(parts(), 0..6).prop_map(|parts| {
        let mut body = Vec::new();
        Ops::encode(&parts.iter().map(op).collect::<Vec<_>>(), &mut body);
        Made { opcode: Opcode::Batch, body }
    });
    let keys = (0..16u8, prop::collection::vec(bytes(), 0..6)).prop_map(|(db, keys)| {
        let mut body = Vec::new();
        Keys::encode(db, &keys.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut body);
        Made { opcode: Opcode::MultiGet, body }
    });
    let scan = (0..16u8, any::<(bool, bool, u32)>(), bytes(), bytes()).prop_map(
        |(db, (values, glob, count), cursor, pattern)| {
            let (cursor, pattern) = (cursor.as_slice(), pattern.as_slice());
            encoded(&Request::Scan(Scan { db, values, glob, count, cursor, pattern }))
        },
    );
    prop_oneof![
        (0..16u8, bytes()).prop_map(|(db, key)| encoded(&Request::Get { db, key: &key })),
        parts().prop_map(|parts| encoded(&Request::Write(op(&parts)))),
        batch,
        keys,
        scan,
        any::<(u32, u128, u64, u64, u32)>().prop_map(|(partition, cluster, index, term, part)| {
            let subject = Subject { partition, cluster };
            let position = Position { index, term, part };
            encoded(&Request::Changes(Behind { subject, position }))
        }),
        (any::<(u32, u128)>(), bytes()).prop_map(|((partition, cluster), from)| {
            let subject = Subject { partition, cluster };
            encoded(&Request::Copy(RowsFrom { subject, from: &from }))
        }),
        bytes().prop_map(|bytes| encoded(&Request::Ping(&bytes))),
        any::<([u8; 16], u64)>().prop_map(|(id, born)| encoded(&Request::Session { id, born })),
        (bytes(), bytes()).prop_map(|(user, password)| encoded(&Request::Auth {
            user: &user,
            password: &password
        })),
        (bytes(), bytes(), bytes(), bytes()).prop_map(|(versions, name, user, password)| {
            let (versions, name) = (versions.as_slice(), name.as_slice());
            encoded(&Request::Hello(Hello { versions, name, user: &user, password: &password }))
        }),
    ]
}

/// Feeds a stream in pieces; what came of it, and how it ended.
fn parsed(stream: &[u8], piece_len: usize) -> (Vec<(Header, Vec<u8>)>, Option<Breach>) {
    let mut parser = Parser::default();
    let mut frames = Vec::new();
    for mut piece in stream.chunks(piece_len) {
        loop {
            match parser.next(&mut piece, BODY_LEN_MAX) {
                Ok(Some(frame)) => frames.push((frame.header, frame.body.into_owned())),
                Ok(None) => break,
                Err(breach) => return (frames, Some(breach)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #[test]
    fn a_headers_checksum_is_that_of_its_bytes(
        (version, opcode, flags) in any::<(u8, u8, u16)>(),
        (request_id, deadline_ms, body_len, body_check) in any::<(u64, u32, u32, u32)>(),
    ) {
        let header =
            Header { version, opcode, flags, request_id, deadline_ms, body_len, body_check };
        let mut bytes = [0; HEADER_LEN];
        header.encode(&mut bytes);
        let check = xxhash_rust::xxh3::xxh3_64(&bytes[..28]) as u32;
        prop_assert_eq!(&bytes[28..], &check.to_le_bytes());
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn requests_survive_the_round_trip_however_cut(
        made in prop::collection::vec((made(), any::<(u64, u32)>()), 1..8),
        piece_len in 1..200usize,
    ) {
        let mut stream = Vec::new();
        for (made, (request_id, deadline_ms)) in &made {
            let request = Request::decode(made.opcode as u8, &made.body).expect("encoded");
            stream.extend(request_frame(*request_id, *deadline_ms, &request));
        }

        let (frames, breach) = parsed(&stream, piece_len);

        prop_assert_eq!(breach, None);
        prop_assert_eq!(frames.len(), made.len());
        for ((header, body), (made, (request_id, deadline_ms))) in frames.iter().zip(&made) {
            prop_assert_eq!((header.request_id, header.deadline_ms), (*request_id, *deadline_ms));
            prop_assert_eq!((header.opcode, body), (made.opcode as u8, &made.body));
        }
    }

    #[test]
    fn ops_and_keys_are_read_as_they_were_written(
        parts in prop::collection::vec(parts(), 0..6),
        keys in prop::collection::vec(bytes(), 0..6),
    ) {
        let (mut batch, mut multi_get) = (Vec::new(), Vec::new());
        let ops: Vec<_> = parts.iter().map(op).collect();
        Ops::encode(&ops, &mut batch);
        Keys::encode(3, &keys.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut multi_get);

        let Ok(Request::Batch(read)) = Request::decode(Opcode::Batch as u8, &batch) else {
            return Err(TestCaseError::fail("not a batch"));
        };
        let Ok(Request::MultiGet(found)) = Request::decode(Opcode::MultiGet as u8, &multi_get)
        else {
            return Err(TestCaseError::fail("not a multi-get"));
        };

        prop_assert_eq!(read.iter().collect::<Vec<_>>(), ops);
        prop_assert!(found.iter().eq(keys.iter().map(Vec::as_slice)));
    }

    #[test]
    fn a_flipped_bit_is_always_seen(made in made(), at: prop::sample::Index, bit in 0..8u8) {
        let mut stream = framed(
            Header { version: VERSION, opcode: made.opcode as u8, ..Header::default() },
            |out| out.extend_from_slice(&made.body),
        );
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;

        let (frames, breach) = parsed(&stream, stream.len());

        prop_assert!(frames.is_empty() && breach.is_some());
    }

    #[test]
    fn a_body_cut_short_is_never_a_request(made in made(), at: prop::sample::Index) {
        let text = [Opcode::Ping, Opcode::Info].contains(&made.opcode);
        prop_assume!(!text && !made.body.is_empty());
        let cut = at.index(made.body.len());

        let decoded = Request::decode(made.opcode as u8, &made.body[..cut]);

        prop_assert_eq!(decoded, Err(Code::BadRequest));
    }

    #[test]
    fn any_body_decodes_or_is_refused(opcode: u8, body in prop::collection::vec(0..5u8, 0..120)) {
        let header = Header { opcode, ..Header::default() };
        if let Ok(request) = Request::decode(opcode, &body) {
            let mut again = Vec::new();
            request.encode(&mut again);
            prop_assert_eq!(&again, &body);
        }
        if let Some(reply) = Reply::decode(&header, &body) {
            let mut again = Vec::new();
            reply.encode(&mut again);
            prop_assert!(again == body || opcode == Opcode::Hello as u8);
        }
        if let Some(failure) = Failure::decode(&body) {
            let mut again = Vec::new();
            failure.encode(&mut again);
            prop_assert_eq!(again, body);
        }
    }

    #[test]
    fn replies_survive_the_round_trip(timestamp in 1..u64::MAX, expiry_ms: u64, value in bytes()) {
        let item = Item::present(timestamp, Some(expiry_ms), &value);
        let header = Header {
            opcode: Opcode::Get as u8,
            flags: FLAG_REPLY,
            request_id: timestamp,
            ..Header::default()
        };
        let frame = reply_frame(header, &Reply::Get(item));

        let (frames, breach) = parsed(&frame, 7);

        prop_assert_eq!(breach, None);
        prop_assert_eq!(Reply::decode(&frames[0].0, &frames[0].1), Some(Reply::Get(item)));
    }
}

#[test]
fn nothing_is_allocated_on_the_word_of_a_header() {
    for (opcode, body_len) in [(Opcode::Set, 512 << 20), (Opcode::Batch, 4 << 20)] {
        let opcode = opcode as u8;
        let header = Header { version: VERSION, opcode, body_len, ..Header::default() };
        let mut head = [0; HEADER_LEN];
        header.encode(&mut head);
        let mut parser = Parser::default();

        let parsed = parser.next(&mut head.as_slice(), 1 << 30);

        assert_eq!(parsed, Ok(None));
        assert!(parser.is_amid() && parser.buffered_len() <= 64 << 10);
    }
}

#[test]
fn a_long_set_is_gathered_apart_from_its_value_wherever_it_is_cut() {
    let value: Vec<u8> = (0..LONG_LEN_MIN + 1).map(|n| (n * 7 + n / 256) as u8).collect();
    let condition = Condition::Equals(b"an operand");
    let op = Op { db: 3, key: b"a key", value: Some(&value), ttl: Ttl::Keep, condition };
    let frame = request_frame(9, 0, &Request::Write(op));
    let value_at = HEADER_LEN + 32 + op.key.len();

    for cut in [1, 31, 32, 33, 63, 64, 66, value_at, value_at + 1, value_at + value.len(), 70_000]
        .into_iter()
        .chain([frame.len() - 11, frame.len() - 10, frame.len() - 1, frame.len()])
    {
        let mut parser = Parser::default();
        let (mut head, mut tail) = frame.split_at(cut);
        let first = parser.next(&mut head, 1 << 30).expect("it is right");
        assert!(head.is_empty() && first.is_some() == tail.is_empty(), "cut at {cut}");
        let second = parser.next(&mut tail, 1 << 30).expect("it is right");

        let got = first.or(second).expect("all of it came");
        let apart = got.value.expect("it is long");
        assert_eq!(got.body.len() + apart.len(), frame.len() - HEADER_LEN);
        assert!(Op::decode_long(&got.body, &apart) == Ok(op), "cut at {cut}");
        assert!(!parser.is_amid() && parser.buffered_len() <= 64 << 10);
    }

    for (at, code) in [(value_at, Code::BadChecksum), (HEADER_LEN + 8, Code::BadRequest)] {
        let mut damaged = frame.clone();
        damaged[at] ^= 1;
        let breach = Parser::default().next(&mut damaged.as_slice(), 1 << 30).expect_err("damage");
        assert_eq!(breach.code, code);
    }
}

#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    for stream in [&b"*1\r\n$4\r\nPING\r\n"[..], b"G", b"\xD5ST\x00"] {
        let (frames, breach) = parsed(stream, 1);

        assert!(frames.is_empty());
        assert_eq!(breach, Some(Breach { code: Code::BadMagic, header: None }));
    }
}

#[test]
fn numbers_of_codes_and_opcodes_lead_back() {
    for code in Code::ALL {
        assert_eq!(Code::of(*code as u16), Some(*code));
    }
    for opcode in Opcode::ALL {
        assert_eq!(Opcode::of(opcode as u8), Some(opcode));
    }
}
