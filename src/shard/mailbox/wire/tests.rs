//! Parcels go over and come back; what is damaged is refused.

use super::*;
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
    let header = Header { version: 1, request_id: 77, ..Header::default() };
    let body = parcel.push_bytes(b"body");
    let (part, deadline) = (Some(Part { gathering: 1, number: 2 }), NOW + Duration::from_millis(5));
    parcel.typed.push(TypedRequest { conn: CONN, part, header, deadline, body, long: Some(0) });
    let frame = parcel.push_bytes(b"frame");
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
        let Request { conn, ticket, spec, db, resp3, remembers, .. } = request;
        let args = args(&parcel.args(request));
        seen.push(format!(
            "{conn:?} {ticket} {} {db} {resp3} {remembers} {parts:?} {args:?} {of:?}",
            spec.name
        ));
    }
    for answer in &parcel.answers {
        let (first, len) = answer.elements;
        let elements = &parcel.elements[first as usize..][..len as usize];
        let (body, large) = (parcel.slice(answer.body), splices(answer.splices));
        let Answer { conn, ticket, count, .. } = answer;
        seen.push(format!("{conn:?} {ticket} {count} {body:?} {elements:?} {large:?}"));
    }
    for request in &parcel.typed {
        let TypedRequest { conn, part, header, deadline, .. } = request;
        let long = request.long.map(|at| &parcel.shared[at as usize]);
        let body = parcel.slice(request.body);
        seen.push(format!("{conn:?} {part:?} {header:?} {deadline:?} {body:?} {long:?}"));
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
