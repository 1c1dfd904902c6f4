//! Parcels go over and come back; what is damaged is refused.

use proptest::prelude::*;

use super::*;
use crate::ack::Ack;
use crate::command::lookup;

const CONN: ConnId = ConnId { index: 3, generation: 9 };
const NOW: Duration = Duration::from_secs(100);

fn spec(name: &str) -> &'static Spec {
    lookup(name.as_bytes()).expect("it is a command")
}

fn request(parcel: &mut Parcel, name: &str, args: &[&[u8]], transaction: Option<u32>) {
    let (first, part) = (parcel.spans.len() as u32, parcel.parts.len() as u32);
    for arg in args {
        let span = match arg.len() < LARGE_LEN_MIN {
            true => {
                let (at, len) = parcel.push_bytes(arg);
                Span::new(at as usize, len as usize)
            }
            false => {
                parcel.shared.push(Arc::new(arg.to_vec()));
                Span::large(parcel.shared.len() - 1)
            }
        };
        parcel.spans.push(span);
    }
    parcel.parts.extend([7, 8]);
    let (parts, args) = ((part, 2), (first, args.len() as u32));
    let (spec, ticket, db) = (spec(name), 5, 2);
    let (resp3, remembers) = (true, true);
    let conn = CONN;
    parcel.requests.push(Request {
        conn,
        ticket,
        parts,
        spec,
        db,
        resp3,
        remembers,
        stale: true,
        ack: Ack::Leader,
        args,
        transaction,
    });
}

/// One of everything.
fn whole() -> Parcel {
    let mut parcel = Parcel::default();
    let large = vec![b'x'; LARGE_LEN_MIN + 1];
    request(&mut parcel, "set", &[b"SET", b"key", &large], None);
    request(&mut parcel, "get", &[b"get", b"\0\xff"], None);
    let mut args = ArgsBuf::default();
    [b"INCR".as_slice(), b"n"].iter().for_each(|arg| args.push(arg));
    let step = Step { spec: spec("incr"), args, db: 1, proto: Proto::Resp3 };
    let watched = [Seen::Present(Timestamp(4)), Seen::Absent { since: Timestamp(5), half: 6 }];
    let watched = watched.map(|seen| Watched { slot: Slot(9), key: b"k".as_slice().into(), seen });
    let transaction = Transaction { watched: watched.into(), steps: vec![step] };
    parcel.transactions.push(Arc::new(transaction));
    request(&mut parcel, "exec", &[], Some(0));
    let body = parcel.push_bytes(b"$1\r\nx\r\n");
    parcel.elements.push(Element { part: 1, at: 0, len: 7 });
    parcel.splices.push((2, Arc::new(large)));
    let (elements, splices) = ((0, 1), (0, 1));
    parcel.answers.push(Answer { conn: CONN, ticket: 1, elements, count: -1, body, splices });
    let header = Header { version: 1, request_id: 77, flags: FLAG_ONCE, ..Header::default() };
    let born = NonZeroU64::new(9).expect("it is not zero");
    let session = Some(SessionId { id: [6; 16], born });
    let body = parcel.push_bytes(b"body");
    let (part, deadline) = (Some(Part { gathering: 1, number: 2 }), NOW + Duration::from_millis(5));
    let (conn, long) = (CONN, Some(0));
    parcel.typed.push(TypedRequest { conn, part, header, deadline, session, body, long });
    let frame = parcel.push_bytes(&[7; HEADER_LEN]);
    parcel.typed_answers.push(TypedAnswer { conn: CONN, part: None, cost: 9, frame, splices });
    let key = Some(parcel.push_bytes(b"key"));
    let by = Some(Client { shard: ShardId(3), conn: CONN });
    parcel.invalidations.push(Invalidation { to: Listener::Reader(CONN), key, by });
    parcel
}

/// A parcel as its reader sees it.
fn seen(parcel: &Parcel) -> Vec<String> {
    let args = |args: &Args<'_>| -> Vec<Vec<u8>> {
        (0..args.len()).map(|at| args.get(at).to_vec()).collect()
    };
    let splices =
        |(first, len): (u32, u32)| parcel.splices[first as usize..][..len as usize].to_vec();
    let mut seen = Vec::new();
    for request in &parcel.requests {
        let (first, len) = request.parts;
        let parts = &parcel.parts[first as usize..][..len as usize];
        let of = request.transaction.map(|at| &parcel.transactions[at as usize]);
        let of = of.map(|of| {
            let steps: Vec<_> = of.steps.iter().map(|step| args(&step.args.args())).collect();
            let specs: Vec<_> = of.steps.iter().map(|s| (s.spec.name, s.db, s.proto)).collect();
            format!("{:?} {steps:?} {specs:?}", of.watched)
        });
        let Request { conn, ticket, spec, db, resp3, remembers, stale, ack, .. } = request;
        let args = args(&parcel.args(request));
        seen.push(format!(
            "{conn:?} {ticket} {} {db} {resp3} {remembers} {stale} {ack:?} {parts:?} {args:?}",
            spec.name
        ));
        seen.push(format!("{of:?}"));
    }
    for answer in &parcel.answers {
        let (first, len) = answer.elements;
        let elements = &parcel.elements[first as usize..][..len as usize];
        let (body, large) = (parcel.slice(answer.body), splices(answer.splices));
        let Answer { conn, ticket, count, .. } = answer;
        seen.push(format!("{conn:?} {ticket} {count} {body:?} {elements:?} {large:?}"));
    }
    for request in &parcel.typed {
        let TypedRequest { conn, part, header, deadline, session, .. } = request;
        let long = request.long.map(|at| &parcel.shared[at as usize]);
        let body = parcel.slice(request.body);
        seen.push(format!("{conn:?} {part:?} {header:?} {deadline:?} {body:?} {long:?}"));
        seen.push(format!("{session:?}"));
    }
    for answer in &parcel.typed_answers {
        let TypedAnswer { conn, part, cost, .. } = answer;
        let (frame, large) = (parcel.slice(answer.frame), splices(answer.splices));
        seen.push(format!("{conn:?} {part:?} {cost} {frame:?} {large:?}"));
    }
    for change in &parcel.invalidations {
        let key = change.key.map(|key| parcel.slice(key));
        seen.push(format!("{:?} {key:?} {:?}", change.to, change.by));
    }
    seen
}

fn encoded() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&whole(), NOW, &mut bytes);
    bytes
}

#[test]
fn a_parcel_comes_back_as_it_was() {
    assert_eq!(seen(&decode(&encoded(), NOW).expect("it was encoded")), seen(&whole()));
}

#[test]
fn a_deadline_goes_as_the_time_that_is_left() {
    let elsewhere = Duration::from_secs(7);
    let parcel = decode(&encoded(), elsewhere).expect("it was encoded");
    assert_eq!(parcel.typed[0].deadline, elsewhere + Duration::from_millis(5));
}

#[test]
fn a_command_that_is_not_known_is_named() {
    let mut bytes = encoded();
    let at = bytes.windows(3).position(|name| name == b"set").expect("it is there");
    bytes[at..at + 3].copy_from_slice(b"zet");
    assert_eq!(decode(&bytes, NOW).err(), Some(Error::Unknown { name: "zet".to_owned() }));
}

#[test]
fn no_cut_and_no_flipped_bit_panics() {
    let bytes = encoded();
    // The large values are many bytes of the same.
    let telling = |at: &usize| bytes[*at] != b'x';
    for cut in (0..bytes.len()).filter(telling) {
        assert!(decode(&bytes[..cut], NOW).is_err(), "cut at {cut}");
    }
    for (at, bit) in (0..bytes.len()).filter(telling).flat_map(|at| [(at, 0), (at, 6)]) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << bit;
        if let Ok(parcel) = decode(&wrong, NOW) {
            // What was taken can be looked at.
            seen(&parcel);
        }
    }
}

/// A part of a parcel.
#[derive(Clone, Debug)]
enum Item {
    Request(bool, Vec<Vec<u8>>),
    Exec(Vec<(u16, Vec<u8>, Option<u64>)>, Vec<Vec<u8>>),
    Answer(i64, Vec<u8>, Vec<(u32, usize)>),
    Typed(Option<u32>, u64, Vec<u8>, bool),
    TypedAnswer(u32, Vec<u8>),
    Change(u8, Option<Vec<u8>>, bool),
}

fn item() -> impl Strategy<Value = Item> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let args = || prop::collection::vec(bytes(), 1..5);
    let watched = (0..SLOT_COUNT, bytes(), prop::option::of(any::<u64>()));
    let elements = prop::collection::vec((any::<u32>(), 0..40usize), 0..4);
    let part = prop::option::of(any::<u32>());
    prop_oneof![
        (any::<bool>(), args()).prop_map(|(large, args)| Item::Request(large, args)),
        (prop::collection::vec(watched, 0..4), args()).prop_map(|(w, a)| Item::Exec(w, a)),
        (any::<i64>(), bytes(), elements).prop_map(|(count, b, e)| Item::Answer(count, b, e)),
        (part, 0..1_u64 << 40, bytes(), any::<bool>())
            .prop_map(|(part, left, body, long)| Item::Typed(part, left, body, long)),
        (any::<u32>(), bytes()).prop_map(|(cost, bytes)| Item::TypedAnswer(cost, bytes)),
        (0..5u8, prop::option::of(bytes()), any::<bool>())
            .prop_map(|(to, key, by)| Item::Change(to, key, by)),
    ]
}

/// Adds a part to a parcel.
fn add(parcel: &mut Parcel, item: Item) {
    match item {
        Item::Request(large, mut args) => {
            if large {
                args.push(vec![b'y'; LARGE_LEN_MIN]);
            }
            let mut all = vec![b"del".as_slice()];
            all.extend(args.iter().map(Vec::as_slice));
            request(parcel, "del", &all, None);
        }
        Item::Exec(watched, keys) => add_transaction(parcel, watched, keys),
        Item::Answer(count, body, elements) => {
            let at = |at: usize| at.min(body.len()) as u32;
            let elements: Vec<_> = elements
                .iter()
                .map(|(part, from)| Element { part: *part, at: 0, len: at(*from) })
                .collect();
            let mut splices = vec![(0, Arc::new(body.clone())), (body.len(), Arc::default())];
            let (none, conn, ticket) = ((0, 0), CONN, 4);
            let (elements_at, splices_at) = (none, none);
            let answer = Answer {
                conn,
                ticket,
                elements: elements_at,
                count,
                body: none,
                splices: splices_at,
            };
            parcel.push_answer(answer, &body, &elements, &mut splices);
        }
        Item::Typed(part, left, body, long) => {
            let deadline =
                if left == 0 { Duration::ZERO } else { NOW + Duration::from_nanos(left) };
            let long = long.then(|| {
                parcel.shared.push(Arc::new(body.clone()));
                parcel.shared.len() as u32 - 1
            });
            let part = part.map(|number| Part { gathering: 3, number });
            let header = Header { version: 1, request_id: left, ..Header::default() };
            let body = parcel.push_bytes(&body);
            let (conn, session) = (CONN, None);
            parcel.typed.push(TypedRequest { conn, part, header, deadline, session, body, long });
        }
        Item::TypedAnswer(cost, bytes) => {
            let at = parcel.bytes.len();
            parcel.bytes.extend_from_slice(&[8; HEADER_LEN]);
            parcel.bytes.extend_from_slice(&bytes);
            let large = (cost % 2 == 0).then(|| Arc::new(bytes));
            parcel.answer_typed((CONN, None, cost), at, large);
        }
        Item::Change(to, key, by) => {
            let to = match to {
                0 => Listener::Reader(CONN),
                1 => Listener::Broadcast,
                2 => Listener::Everybody,
                3 => Listener::Instead(CONN),
                _ => Listener::Nobody,
            };
            let key = key.map(|key| parcel.push_bytes(&key));
            let by = by.then_some(Client { shard: ShardId(1), conn: CONN });
            parcel.invalidations.push(Invalidation { to, key, by });
        }
    }
}

fn add_transaction(
    parcel: &mut Parcel,
    watched: Vec<(u16, Vec<u8>, Option<u64>)>,
    keys: Vec<Vec<u8>>,
) {
    let watched = watched.into_iter().map(|(slot, key, at)| {
        let absent = Seen::Absent { since: Timestamp(1), half: 2 };
        let seen = at.map_or(absent, |at| Seen::Present(Timestamp(at)));
        Watched { slot: Slot(slot), key: key.into(), seen }
    });
    let steps = keys.into_iter().map(|key| {
        let args = [b"GET".to_vec(), key].iter().collect();
        Step { spec: spec("get"), args, db: 15, proto: Proto::Resp2 }
    });
    let transaction = Transaction { watched: watched.collect(), steps: steps.collect() };
    let at = parcel.transactions.len() as u32;
    parcel.transactions.push(Arc::new(transaction));
    request(parcel, "exec", &[], Some(at));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_parcel_comes_back_as_it_was(items in prop::collection::vec(item(), 0..12)) {
        let mut parcel = Parcel::default();
        items.into_iter().for_each(|item| add(&mut parcel, item));
        let mut bytes = Vec::new();
        encode(&parcel, NOW, &mut bytes);

        let decoded = decode(&bytes, NOW).expect("it was encoded");

        prop_assert_eq!(seen(&decoded), seen(&parcel));
    }

    #[test]
    fn any_bytes_are_a_parcel_or_are_refused(bytes in prop::collection::vec(0..4u8, 0..400)) {
        if let Ok(parcel) = decode(&bytes, NOW) {
            seen(&parcel);
        }
    }
}

#[test]
fn what_points_out_of_its_bounds_is_refused() {
    let refused = |change: &dyn Fn(&mut Parcel)| {
        let mut parcel = whole();
        change(&mut parcel);
        let mut bytes = Vec::new();
        encode(&parcel, NOW, &mut bytes);
        decode(&bytes, NOW).err()
    };
    let malformed = |what| Some(Error::Malformed { what });

    assert_eq!(refused(&|parcel| parcel.requests[0].db = DB_COUNT), malformed("database"));
    assert_eq!(refused(&|parcel| parcel.elements[0].at = 1), malformed("element"));
    assert_eq!(refused(&|parcel| parcel.splices[0].0 = 99), malformed("place of a large value"));
    assert_eq!(refused(&|parcel| parcel.typed_answers[0].frame.1 = 5), malformed("frame"));
    let what = malformed("number of arguments");
    assert_eq!(refused(&|parcel| parcel.requests[0].args.1 = 1), what);
    assert_eq!(refused(&|parcel| parcel.requests[1].transaction = Some(0)), what);
}
