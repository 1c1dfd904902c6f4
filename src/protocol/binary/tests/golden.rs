//! The vectors of `tests/vectors/`: what clients in other languages are checked against.

use std::fmt::Write;

use super::super::*;
use super::{reply_frame, request_frame};
use crate::ack::Ack;

const REQUESTS: &str = "\
Requests of the binary protocol: what src/protocol/binary/mod.rs says, in bytes.

A block is one frame: its name, its bytes as hex (32 of header, then the body), its fields. Bytes
in quotes are ASCII with \\xNN for the rest. A decoder reads the fields from the bytes, an encoder
makes the bytes from the fields.
";

const REPLIES: &str = "\
Replies of the binary protocol: what src/protocol/binary/mod.rs says, in bytes.

As requests.txt. Errors are here too: every code once, then what only some of them carry.
";

const BROKEN: &str = "\
Frames that a server refuses and the code that it answers with. Where the header can not be
trusted the answer's request id is 0.
";

#[test]
fn requests_are_as_the_vectors_say() {
    let mut text = REQUESTS.to_owned();
    let mut ops = Vec::new();
    let batch = [
        Op { key: b"{user}name", value: Some(b"ada"), ..Op::default() },
        Op {
            key: b"{user}count",
            value: Some(b"2"),
            condition: Condition::Equals(b"1"),
            ttl: Ttl::Keep,
            ..Op::default()
        },
        Op { key: b"{user}old", condition: Condition::Present, ..Op::default() },
    ];
    Ops::encode(&batch, &mut ops);
    let mut keys = Vec::new();
    Keys::encode(2, &[b"a", b"", b"a\x00\xff"], &mut keys);
    let decoded = |opcode: Opcode, body| Request::decode(opcode as u8, body).expect("valid");
    let set = Op { key: b"k", value: Some(b"v"), ..Op::default() };
    let until = Op { db: 15, ttl: Ttl::AtMs(1_767_225_600_000), ..set };
    let hello = Hello { versions: &[1], ..Hello::default() };
    let full = Hello { versions: &[1, 2], name: b"app-7", user: b"default", password: b"secret" };
    let page = Scan { values: true, count: 100, pattern: b"user:", ..Scan::default() };
    let next = Scan { db: 1, glob: true, cursor: b"\x01\x02", pattern: b"u*[0-9]", ..page };
    for (name, id, deadline_ms, request) in [
        ("hello", 1, 0, Request::Hello(hello)),
        ("hello with a name and a password", 1, 0, Request::Hello(full)),
        ("auth", 2, 0, Request::Auth { user: b"", password: b"secret" }),
        ("ping without bytes", 3, 0, Request::Ping(b"")),
        ("ping", u64::MAX, 0, Request::Ping(b"hello")),
        ("info", 4, 0, Request::Info("")),
        ("info of a section", 4, 0, Request::Info("memory")),
        ("cluster", 5, 0, Request::Cluster(r#"{"action":"status"}"#)),
        ("session, the first time", 6, 0, Request::Session { id: SESSION, born: 0 }),
        ("session", 7, 0, Request::Session { id: SESSION, born: VERSION_SEEN }),
        ("get", 5, 0, Request::Get { db: 0, key: b"k" }),
        ("get with a deadline", 6, 250, Request::Get { db: 3, key: b"a longer key" }),
        ("set", 7, 0, Request::Write(set)),
        ("set for a minute", 8, 0, Request::Write(Op { ttl: Ttl::InMs(60_000), ..set })),
        ("set until a moment", 9, 0, Request::Write(until)),
        ("set and keep the ttl", 10, 0, Request::Write(Op { ttl: Ttl::Keep, ..set })),
        ("set if absent", 11, 0, conditioned(set, Condition::Absent)),
        ("set if present", 12, 0, conditioned(set, Condition::Present)),
        ("set if equal", 13, 0, conditioned(set, Condition::Equals(b"old"))),
        ("set if of a version", 14, 0, conditioned(set, Condition::Version(0x0199_AABB_CCDD_0001))),
        ("set to nothing", 15, 0, Request::Write(Op { value: Some(b""), ..set })),
        ("delete", 16, 0, Request::Write(Op { key: b"k", ..Op::default() })),
        ("delete if equal", 17, 0, conditioned(Op { value: None, ..set }, Condition::Equals(b"v"))),
        ("batch", 18, 0, decoded(Opcode::Batch, &ops)),
        ("multi-get", 19, 0, decoded(Opcode::MultiGet, &keys)),
        ("scan, first page", 20, 0, Request::Scan(page)),
        ("scan, next page", 21, 1000, Request::Scan(next)),
        ("changes, from the end on", 22, 0, Request::Changes(Behind::default())),
        ("changes", 23, 0, Request::Changes(Behind { subject: SUBJECT, position: POSITION })),
        ("copy, first page", 24, 0, Request::Copy(RowsFrom { subject: SUBJECT, from: b"" })),
        ("copy, next page", 25, 0, Request::Copy(RowsFrom { subject: SUBJECT, from: b"\x10k" })),
    ] {
        let frame = request_frame(id, deadline_ms, &request);
        block(&mut text, name, &frame);
        request_fields(&mut text, &request);
        let header = Header::decode(frame.first_chunk().expect("a header")).expect("ours");
        let again = Request::decode(header.opcode, &frame[HEADER_LEN..]);
        assert_eq!(again, Ok(request), "{name}");
    }
    let header = Header { version: VERSION, flags: FLAG_ONCE, request_id: 22, ..Header::default() };
    let header = Header { opcode: Opcode::Set as u8, ..header };
    let frame = super::framed(header, |out| Request::Write(set).encode(out));
    block(&mut text, "set, once", &frame);
    request_fields(&mut text, &Request::Write(set));
    for (name, request) in [
        ("get of what may be old", Request::Get { db: 0, key: b"k" }),
        ("multi-get of what may be old", decoded(Opcode::MultiGet, &keys)),
    ] {
        let header = Header { flags: FLAG_STALE, opcode: request.opcode() as u8, ..header };
        block(&mut text, name, &super::framed(header, |out| request.encode(out)));
        request_fields(&mut text, &request);
    }
    let delete = Request::Write(Op { key: b"k", ..Op::default() });
    for (name, flags, request) in [
        ("get of what the majority has", flags_of(Ack::Quorum), Request::Get { db: 0, key: b"k" }),
        ("delete on the leader's disk", flags_of(Ack::Leader), delete),
        ("delete once on the leader's disk", FLAG_ONCE | flags_of(Ack::Leader), delete),
        ("delete on no disk", flags_of(Ack::Relaxed), delete),
    ] {
        let header = Header { flags, opcode: request.opcode() as u8, ..header };
        block(&mut text, name, &super::framed(header, |out| request.encode(out)));
        request_fields(&mut text, &request);
    }
    compare("requests.txt", &text);
}

fn conditioned<'a>(op: Op<'a>, condition: Condition<'a>) -> Request<'a> {
    Request::Write(Op { condition, ..op })
}

const SESSION: [u8; 16] = *b"0123456789abcdef";

const WELCOME: Welcome<'static> = Welcome {
    version: 1,
    authenticated: true,
    password_set: false,
    shard: 1,
    shard_count: 2,
    partition_count: 32,
    key_len_max: 65_536,
    value_len_max: 536_870_912,
    body_len_max: 537_001_984,
    batch_count_max: 1024,
    batch_len_max: 262_144,
    multi_get_count_max: 4096,
    scan_count_max: 4096,
    in_flight_max: 16_384,
    node_id: "0123456789abcdef0123456789abcdef01234567",
    server_version: "0.1.0",
};

const VERSION_SEEN: u64 = 0x0199_AABB_CCDD_0001;

#[test]
fn replies_are_as_the_vectors_say() {
    let mut text = REPLIES.to_owned();
    let done = |state| Outcome { timestamp: VERSION_SEEN, state };
    let nothing = Outcome::default();
    let item = Item::present(VERSION_SEEN, None, b"v");
    let left_out = Item { value_len: 70_000, value: None, ..item };
    let (mut outcomes, mut items, mut page, mut entries) = Default::default();
    let states = [OutcomeState::Created, OutcomeState::Replaced, OutcomeState::Deleted];
    Outcomes::encode(VERSION_SEEN, &states.map(done), &mut outcomes);
    let three = [item, Item::default(), Item::present(7 << 16, Some(1_767_225_600_000), b"")];
    Items::encode(VERSION_SEEN, &three, &mut items);
    Entry { key: b"user:1", item }.encode(&mut entries);
    Entry { key: b"user:2", item: left_out }.encode(&mut entries);
    Scanned::encode(VERSION_SEEN, b"\x01\x02", 2, &entries, &mut page);
    let (hello, write) = (Opcode::Hello, Reply::Write);
    let shut = Welcome { authenticated: false, password_set: true, ..WELCOME };
    let list = |opcode: Opcode, body| {
        let header = Header { opcode: opcode as u8, ..Header::default() };
        Reply::decode(&header, body).expect("encoded above")
    };
    for (name, id, opcode, reply) in [
        ("hello", 1, hello, Reply::Hello(WELCOME)),
        ("hello where a password is due", 1, hello, Reply::Hello(shut)),
        ("auth", 2, Opcode::Auth, Reply::Auth),
        ("ping", u64::MAX, Opcode::Ping, Reply::Ping(b"hello")),
        ("info", 4, Opcode::Info, Reply::Info("# Server\r\nredis_version:7.2.4\r\n")),
        ("session", 6, Opcode::Session, Reply::Session(VERSION_SEEN)),
        ("get of what is there", 5, Opcode::Get, Reply::Get(item)),
        ("get of what expires", 6, Opcode::Get, Reply::Get(three[2])),
        ("get of what is absent", 6, Opcode::Get, Reply::Get(Item::default())),
        ("set, created", 7, Opcode::Set, write(done(OutcomeState::Created))),
        ("set, replaced", 8, Opcode::Set, write(done(OutcomeState::Replaced))),
        ("set until a moment that has passed", 9, Opcode::Set, write(done(OutcomeState::Deleted))),
        ("delete", 16, Opcode::Delete, write(done(OutcomeState::Deleted))),
        ("delete of what is absent", 17, Opcode::Delete, write(nothing)),
        ("batch", 18, Opcode::Batch, list(Opcode::Batch, &outcomes)),
        ("multi-get", 19, Opcode::MultiGet, list(Opcode::MultiGet, &items)),
        ("scan", 20, Opcode::Scan, list(Opcode::Scan, &page)),
        ("changes", 23, Opcode::Changes, list(Opcode::Changes, &changed())),
        ("copy", 24, Opcode::Copy, list(Opcode::Copy, &rows())),
    ] {
        reply_block(&mut text, name, (id, opcode, FLAG_REPLY), &reply);
    }
    error_blocks(&mut text);
    compare("replies.txt", &text);
}

const SUBJECT: Subject =
    Subject { partition: 17, cluster: 0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10 };
const POSITION: Position = Position { index: 1234, term: 5, part: 2 };

fn changed() -> Vec<u8> {
    let of = |timestamp, key, done| Change { timestamp, db: 1, key, done };
    let expiry_ms = 1_767_225_600_000;
    let mut out = Vec::new();
    let changed =
        Changed { timestamp: VERSION_SEEN, newest: 1236, now_ms: 9, ..Changed::default() };
    Changed { position: POSITION, ..changed }.begin(3, &mut out);
    of(7 << 16, b"k", Done::Set { value: b"v", expiry_ms }).encode(&mut out);
    of(8 << 16, b"k", Done::Deleted).encode(&mut out);
    Change { db: 0, ..of(VERSION_SEEN, b"", Done::Cleared) }.encode(&mut out);
    out
}

fn rows() -> Vec<u8> {
    let mut out = Vec::new();
    let page = Rows { timestamp: VERSION_SEEN, newest: 1236, next: b"\x10k", ..Rows::default() };
    page.begin(1, &mut out);
    let done = Done::Set { value: b"v", expiry_ms: 0 };
    Change { timestamp: VERSION_SEEN, db: 0, key: b"j", done }.encode(&mut out);
    out
}

fn error_blocks(text: &mut String) {
    let of = |text: &mut String, name: &str, failure: Failure<'_>| {
        let how = (9, Opcode::Set, FLAG_REPLY | FLAG_ERROR);
        reply_block(text, name, how, &Reply::Error(failure));
    };
    for code in Code::ALL {
        of(text, &format!("error {}", code.name()), Failure::new(*code, "a line for people"));
    }
    let failed = Failure::new(Code::ConditionFailed, "op 2: the key has another version");
    of(text, "condition of a batch", Failure { timestamp: VERSION_SEEN, index: 2, ..failed });
    let moved = Failure::new(Code::Moved, "slot 866 is elsewhere");
    of(text, "moved, with its address", Failure { address: "10.0.0.2:7400", ..moved });
    let late = Failure::new(Code::DeadlineExceeded, "the write may still become durable");
    of(text, "deadline of a held write", Failure { class: Class::Unknown, ..late });
}

#[test]
fn broken_frames_are_refused_as_the_vectors_say() {
    let mut text = BROKEN.to_owned();
    let get = request_frame(5, 0, &Request::Get { db: 0, key: b"k" });
    let with = |at: usize, byte: u8| {
        let mut frame = get.clone();
        frame[at] = byte;
        frame
    };
    let remade = |change: &dyn Fn(&mut Header)| {
        let mut frame = get.clone();
        let mut header = Header::decode(frame.first_chunk().expect("a header")).expect("ours");
        change(&mut header);
        header.encode(frame.first_chunk_mut().expect("a header"));
        frame
    };
    for (name, frame) in [
        ("another magic", with(0, b'*')),
        ("a bit of the header flipped", with(8, 4)),
        ("a bit of the body flipped", with(HEADER_LEN + 8, b'j')),
        ("a version that nobody speaks", remade(&|header| header.version = 9)),
        ("a body that is too long", remade(&|header| header.body_len = u32::MAX)),
    ] {
        let mut parser = Parser::default();
        let breach = parser.next(&mut frame.as_slice(), super::BODY_LEN_MAX);
        let breach = breach.expect_err("it is broken");
        block(&mut text, name, &frame);
        line(&mut text, "answer", breach.code.name());
        line(&mut text, "answer.request_id", breach.header.map_or(0, |header| header.request_id));
    }
    compare("broken.txt", &text);
}

fn reply_block(text: &mut String, name: &str, how: (u64, Opcode, u16), reply: &Reply<'_>) {
    let (request_id, opcode, flags) = how;
    let header = Header { opcode: opcode as u8, flags, request_id, ..Header::default() };
    let frame = reply_frame(header, reply);
    block(text, name, &frame);
    reply_fields(text, reply);
    assert_eq!(Reply::decode(&header, &frame[HEADER_LEN..]), Some(*reply), "{name}");
}

fn block(text: &mut String, name: &str, frame: &[u8]) {
    let hex = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<Vec<_>>().chunks(4).map(<[_]>::concat).collect::<Vec<_>>().join(" ")
    };
    let (head, body) = frame.split_at(HEADER_LEN);
    writeln!(text, "\n# {name}").expect("a string");
    line(text, "header.hex", hex(head));
    line(text, "body.hex", hex(body));
    if let Ok(header) = Header::decode(head.try_into().expect("32 bytes")) {
        line(text, "header.version", header.version);
        line(text, "header.opcode", header.opcode);
        line(text, "header.flags", header.flags);
        line(text, "header.request_id", header.request_id);
        line(text, "header.deadline_ms", header.deadline_ms);
        line(text, "header.body_len", header.body_len);
        line(text, "header.body_check", header.body_check);
    }
}

fn line(text: &mut String, field: &str, value: impl std::fmt::Display) {
    writeln!(text, "{}", format!("{field} = {value}").trim_end()).expect("a string");
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii().to_string().replace("\\'", "'"))
}

fn request_fields(text: &mut String, request: &Request<'_>) {
    match request {
        Request::Hello(hello) => {
            line(text, "versions", format!("{:?}", hello.versions));
            line(text, "name", quoted(hello.name));
            line(text, "user", quoted(hello.user));
            line(text, "password", quoted(hello.password));
        }
        Request::Session { id, born } => {
            line(text, "id", quoted(id));
            line(text, "born", born);
        }
        Request::Auth { user, password } => {
            line(text, "user", quoted(user));
            line(text, "password", quoted(password));
        }
        Request::Ping(bytes) => line(text, "bytes", quoted(bytes)),
        Request::Cluster(action) => line(text, "action", quoted(action.as_bytes())),
        Request::Info(section) => line(text, "section", quoted(section.as_bytes())),
        Request::Get { db, key } => {
            line(text, "db", db);
            line(text, "key", quoted(key));
        }
        Request::Write(op) => op_fields(text, "", op),
        Request::Batch(ops) => {
            line(text, "count", ops.len());
            ops.iter().enumerate().for_each(|(at, op)| op_fields(text, &format!("op{at}."), &op));
        }
        Request::MultiGet(keys) => {
            line(text, "db", keys.db);
            line(text, "count", keys.len());
            keys.iter()
                .enumerate()
                .for_each(|(at, key)| line(text, &format!("key{at}"), quoted(key)));
        }
        Request::Scan(scan) => {
            line(text, "db", scan.db);
            line(text, "values", scan.values);
            line(text, "glob", scan.glob);
            line(text, "count", scan.count);
            line(text, "cursor", quoted(scan.cursor));
            line(text, "pattern", quoted(scan.pattern));
        }
        Request::Changes(Behind { subject, position }) => {
            subject_fields(text, subject);
            position_fields(text, position);
        }
        Request::Copy(RowsFrom { subject, from }) => {
            subject_fields(text, subject);
            line(text, "from", quoted(from));
        }
    }
}

fn subject_fields(text: &mut String, subject: &Subject) {
    line(text, "partition", subject.partition);
    line(text, "cluster", format!("{:032x}", subject.cluster));
}

fn position_fields(text: &mut String, position: &Position) {
    line(text, "index", position.index);
    line(text, "term", position.term);
    line(text, "part", position.part);
}

fn changes_fields(text: &mut String, changes: &Changes<'_>) {
    line(text, "count", changes.len());
    for (at, Change { timestamp, db, key, done }) in changes.iter().enumerate() {
        let mut field =
            |name: &str, value: String| line(text, &format!("change{at}.{name}"), value);
        field("timestamp", timestamp.to_string());
        field("db", db.to_string());
        field("key", quoted(key));
        match done {
            Done::Set { value, expiry_ms } => {
                field("value", quoted(value));
                field("expiry_ms", expiry_ms.to_string());
            }
            Done::Deleted => field("done", "deleted".to_owned()),
            Done::Cleared => field("done", "cleared".to_owned()),
        }
    }
}

fn op_fields(text: &mut String, of: &str, op: &Op<'_>) {
    let mut field = |name: &str, value: String| line(text, &format!("{of}{name}"), value);
    field("kind", if op.value.is_some() { "set" } else { "delete" }.to_owned());
    field("db", op.db.to_string());
    field("key", quoted(op.key));
    if let Some(value) = op.value {
        field("value", quoted(value));
    }
    match op.ttl {
        Ttl::None => {}
        Ttl::InMs(ms) => field("ttl.in_ms", ms.to_string()),
        Ttl::AtMs(ms) => field("ttl.at_ms", ms.to_string()),
        Ttl::Keep => field("ttl", "keep".to_owned()),
    }
    match op.condition {
        Condition::None => {}
        Condition::Absent => field("condition", "absent".to_owned()),
        Condition::Present => field("condition", "present".to_owned()),
        Condition::Equals(operand) => field("condition.equals", quoted(operand)),
        Condition::Version(version) => field("condition.version", version.to_string()),
    }
}

fn reply_fields(text: &mut String, reply: &Reply<'_>) {
    match reply {
        Reply::Hello(welcome) => welcome_fields(text, welcome),
        Reply::Auth => {}
        Reply::Session(born) => line(text, "timestamp", born),
        Reply::Ping(bytes) => line(text, "bytes", quoted(bytes)),
        Reply::Info(info) => line(text, "text", quoted(info.as_bytes())),
        Reply::Get(item) => item_fields(text, "", item),
        Reply::Write(outcome) => outcome_fields(text, "", outcome),
        Reply::Batch(outcomes) => {
            line(text, "timestamp", outcomes.timestamp);
            line(text, "count", outcomes.len());
            for (at, outcome) in outcomes.iter().enumerate() {
                outcome_fields(text, &format!("outcome{at}."), &outcome);
            }
        }
        Reply::MultiGet(items) => {
            line(text, "timestamp", items.timestamp);
            line(text, "count", items.len());
            for (at, item) in items.iter().enumerate() {
                item_fields(text, &format!("item{at}."), &item);
            }
        }
        Reply::Scan(page) => {
            line(text, "timestamp", page.timestamp);
            line(text, "count", page.entries.len());
            line(text, "cursor", quoted(page.cursor));
            for (at, entry) in page.entries.iter().enumerate() {
                line(text, &format!("entry{at}.key"), quoted(entry.key));
                item_fields(text, &format!("entry{at}."), &entry.item);
            }
        }
        Reply::Changes(changed) => {
            line(text, "timestamp", changed.timestamp);
            line(text, "newest", changed.newest);
            line(text, "now_ms", changed.now_ms);
            position_fields(text, &changed.position);
            changes_fields(text, &changed.changes);
        }
        Reply::Copy(page) => {
            line(text, "timestamp", page.timestamp);
            line(text, "newest", page.newest);
            line(text, "next", quoted(page.next));
            changes_fields(text, &page.rows);
        }
        Reply::Error(failure) => failure_fields(text, failure),
    }
}

fn welcome_fields(text: &mut String, welcome: &Welcome<'_>) {
    line(text, "version", welcome.version);
    line(text, "authenticated", welcome.authenticated);
    line(text, "password_set", welcome.password_set);
    line(text, "shard", welcome.shard);
    line(text, "shard_count", welcome.shard_count);
    line(text, "partition_count", welcome.partition_count);
    line(text, "key_len_max", welcome.key_len_max);
    line(text, "value_len_max", welcome.value_len_max);
    line(text, "body_len_max", welcome.body_len_max);
    line(text, "batch_count_max", welcome.batch_count_max);
    line(text, "batch_len_max", welcome.batch_len_max);
    line(text, "multi_get_count_max", welcome.multi_get_count_max);
    line(text, "scan_count_max", welcome.scan_count_max);
    line(text, "in_flight_max", welcome.in_flight_max);
    line(text, "node_id", quoted(welcome.node_id.as_bytes()));
    line(text, "server_version", quoted(welcome.server_version.as_bytes()));
}

fn item_fields(text: &mut String, of: &str, item: &Item<'_>) {
    line(text, &format!("{of}timestamp"), item.timestamp);
    line(text, &format!("{of}expiry_ms"), item.expiry_ms);
    line(text, &format!("{of}value_len"), item.value_len);
    let value = match item.value {
        Some(value) => quoted(value),
        None if item.is_present() => "left out".to_owned(),
        None => "absent".to_owned(),
    };
    line(text, &format!("{of}value"), value);
}

fn outcome_fields(text: &mut String, of: &str, outcome: &Outcome) {
    line(text, &format!("{of}timestamp"), outcome.timestamp);
    let state = match outcome.state {
        OutcomeState::Nothing => "nothing",
        OutcomeState::Created => "created",
        OutcomeState::Replaced => "replaced",
        OutcomeState::Deleted => "deleted",
    };
    line(text, &format!("{of}state"), state);
}

fn failure_fields(text: &mut String, failure: &Failure<'_>) {
    line(text, "timestamp", failure.timestamp);
    line(text, "code", failure.code);
    line(text, "class", if failure.class == Class::Unknown { "unknown" } else { "not_done" });
    let retry = match failure.retry {
        Retry::Never => "never".to_owned(),
        Retry::Now => "now".to_owned(),
        Retry::AfterMs(ms) => format!("after {ms} ms"),
        Retry::Elsewhere => "elsewhere".to_owned(),
    };
    line(text, "retry", retry);
    let index = failure.index;
    line(text, "index", if index == NO_INDEX { "none".to_owned() } else { index.to_string() });
    line(text, "text", quoted(failure.text.as_bytes()));
    line(text, "address", quoted(failure.address.as_bytes()));
}

/// Compares with a file of `tests/vectors`; `UPDATE_GOLDEN=1` rewrites it.
#[expect(clippy::disallowed_methods, reason = "vectors are files, for others to read")]
fn compare(name: &str, actual: &str) {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("the sources can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("UPDATE_GOLDEN=1 writes it");
    assert!(golden == actual, "{name} differs; UPDATE_GOLDEN=1 rewrites it. Actual:\n{actual}");
}
