//! Against `tests/vectors/*.txt`, which the server's own codec is tested with too: every frame from
//! its fields and back, byte for byte.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use crate::changes::{Changed, Done, Position};
use crate::error::Retry;
use crate::op::{Ack, Change, Entry, Item, Op, Outcome, ServerInfo};
use crate::scan::Scan;

/// A block of a file: its name, its frame, its fields in order.
struct Block {
    name: String,
    frame: Vec<u8>,
    fields: Vec<(String, String)>,
}

impl Block {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).and_then(|value| value.parse().ok()).expect("a number")
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        unquoted(self.field(name).expect("bytes"))
    }

    fn partition(&self) -> u32 {
        u32::try_from(self.number("partition")).expect("32 bits")
    }

    fn cluster(&self) -> u128 {
        u128::from_str_radix(self.field("cluster").expect("an id"), 16).expect("hex")
    }

    fn db(&self) -> u8 {
        u8::try_from(self.number("db")).expect("a db")
    }
}

fn blocks(file: &str) -> Vec<Block> {
    let path = format!("{}/../../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    let blocks = text.split("\n# ").skip(1).map(|block| {
        let (name, lines) = block.split_once('\n').expect("a name, then lines");
        let fields = lines.lines().filter(|line| !line.is_empty()).map(|line| {
            let (key, value) = line.split_once(" =").expect("a field");
            (key.to_owned(), value.trim_start().to_owned())
        });
        let mut block =
            Block { name: name.to_owned(), frame: Vec::new(), fields: fields.collect() };
        for part in ["header.hex", "body.hex"] {
            block.frame.extend(hex(block.field(part).expect("bytes")));
        }
        block.fields.retain(|(key, _)| !key.ends_with(".hex"));
        block
    });
    blocks.collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn unquoted(text: &str) -> Vec<u8> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("quotes");
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let (byte, len) = match (first, tail) {
            (b'\\', [b'x', a, b, ..]) => (hex(str::from_utf8(&[*a, *b]).expect("hex"))[0], 4),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [other, ..]) => (*other, 2),
            (byte, _) => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[len..];
    }
    out
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[test]
fn requests_are_what_the_vectors_say() {
    let blocks = blocks("requests.txt");
    assert!(blocks.len() > 15, "only {} blocks", blocks.len());
    for block in blocks {
        // The password goes with the hello: this client never sends an auth of its own.
        if block.name == "auth" {
            continue;
        }
        assert_eq!(encoded(&block), block.frame, "{}", block.name);
    }
}

fn encoded(block: &Block) -> Vec<u8> {
    let id = block.number("header.request_id");
    let deadline_ms = u32::try_from(block.number("header.deadline_ms")).expect("32 bits");
    let mut out = Vec::new();
    let mut put = |request: Request<'_>| {
        assert_eq!(u64::from(request.opcode()), block.number("header.opcode"), "{}", block.name);
        assert_eq!(request.body_len(), block.number("header.body_len"), "{}", block.name);
        let flags = block.number("header.flags");
        let once = (flags & 4 != 0).then_some(id);
        let acks = [Ack::Quorum, Ack::Leader, Ack::Relaxed].map(Some);
        let ack = [None].iter().chain(&acks).nth(flags as usize >> 4 & 3).copied().flatten();
        let wishes = Wishes { stale: flags & 8 != 0, ack };
        Asked { request, once, wishes }.put(id, deadline_ms, &mut out);
    };
    match block.number("header.opcode") {
        0x01 => {
            let versions = block.field("versions").expect("a list").trim_matches(['[', ']']);
            let versions: Vec<u8> = versions.split(", ").filter_map(|n| n.parse().ok()).collect();
            let (name, user) = (block.bytes("name"), block.bytes("user"));
            let password = block.bytes("password");
            put(Request::Hello(Hello {
                versions: &versions,
                name: &name,
                user: &user,
                password: &password,
            }));
        }
        0x03 => put(Request::Ping(&block.bytes("bytes"))),
        0x04 => {
            let section = block.bytes("section");
            put(Request::Info(str::from_utf8(&section).expect("text")));
        }
        0x05 => {
            let action = block.bytes("action");
            put(Request::Cluster(str::from_utf8(&action).expect("text")));
        }
        0x06 => {
            let id = block.bytes("id").try_into().expect("16 bytes");
            put(Request::Session { id, born: block.number("born") });
        }
        0x10 => put(Request::Get { db: block.db(), key: &block.bytes("key") }),
        0x11 | 0x12 => with_op(block, "", |op| put(Request::Write { db: block.db(), op: &op })),
        0x13 => with_ops(block, 0, &mut Vec::new(), &mut |ops| put(Request::Batch { db: 0, ops })),
        0x14 => {
            let keys: Vec<_> =
                (0..block.number("count")).map(|at| block.bytes(&format!("key{at}"))).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            put(Request::MultiGet { db: block.db(), keys: &keys });
        }
        0x15 => {
            let scan = Scan {
                pattern: block.bytes("pattern"),
                glob: block.field("glob") == Some("true"),
                values: block.field("values") == Some("true"),
                page_len: u32::try_from(block.number("count")).expect("32 bits"),
            };
            put(Request::Scan { db: block.db(), scan: &scan, cursor: &block.bytes("cursor") });
        }
        0x16 => put(Request::Changes {
            partition: block.partition(),
            cluster: block.cluster(),
            position: Position {
                index: block.number("index"),
                term: block.number("term"),
                part: u32::try_from(block.number("part")).expect("32 bits"),
            },
        }),
        0x17 => put(Request::Copy {
            partition: block.partition(),
            cluster: block.cluster(),
            from: &block.bytes("from"),
        }),
        other => panic!("{}: opcode {other}", block.name),
    }
    out
}

fn with_ops(block: &Block, at: u64, ops: &mut Vec<Op<'_>>, then: &mut dyn FnMut(&[Op<'_>])) {
    if at == block.number("count") {
        return then(ops);
    }
    with_op(block, &format!("op{at}."), |op| {
        let mut ops = ops.clone();
        ops.push(op);
        with_ops(block, at + 1, &mut ops, then);
    });
}

fn with_op(block: &Block, prefix: &str, then: impl FnOnce(Op<'_>)) {
    let field = |name: &str| block.field(&format!("{prefix}{name}"));
    let number = |name: &str| field(name).and_then(|value| value.parse::<u64>().ok());
    let key = unquoted(field("key").expect("a key"));
    let value = field("value").map(unquoted);
    let equals = field("condition.equals").map(unquoted);
    let mut op = match &value {
        Some(value) => Op::set(&key, value),
        None => Op::delete(&key),
    };
    if let Some(ms) = number("ttl.in_ms") {
        op = op.ttl(Duration::from_millis(ms));
    }
    if let Some(ms) = number("ttl.at_ms") {
        op = op.expires_at(UNIX_EPOCH + Duration::from_millis(ms));
    }
    if field("ttl") == Some("keep") {
        op = op.keep_ttl();
    }
    op = match (field("condition"), &equals, number("condition.version")) {
        (Some("absent"), ..) => op.if_absent(),
        (Some("present"), ..) => op.if_present(),
        (_, Some(value), _) => op.if_equals(value),
        (_, _, Some(version)) => op.if_version(version),
        _ => op,
    };
    then(op);
}

#[test]
fn replies_are_what_the_vectors_say() {
    let blocks = blocks("replies.txt");
    assert!(blocks.len() > 30, "only {} blocks", blocks.len());
    for block in blocks {
        let (frame, len) = frame(&block.frame).expect("it is well").expect("it is whole");

        assert_eq!(len, block.frame.len(), "{}", block.name);
        assert_eq!(frame.id, block.number("header.request_id"), "{}", block.name);
        let lists = [0x14, 0x15, 0x17].contains(&frame.opcode) && !frame.is_error;
        // What this client has no use for.
        let skipped = |key: &str| {
            key.starts_with("header.") || (lists && key == "timestamp") || key == "now_ms"
        };
        let expected: Vec<_> = block.fields.iter().filter(|(key, _)| !skipped(key)).collect();
        let shown = decoded(frame).unwrap_or_else(|| panic!("{} is not read", block.name));
        assert_eq!(shown.iter().collect::<Vec<_>>(), expected, "{}", block.name);
    }
}

type Fields = Vec<(String, String)>;

fn decoded(frame: Frame) -> Option<Fields> {
    let mut out = Fields::new();
    let mut put = |key: &str, value: String| out.push((key.to_owned(), value));
    if frame.is_error {
        let (refusal, unknown) = refusal(&frame.body)?;
        put("timestamp", refusal.version.to_string());
        put("code", refusal.code.number().to_string());
        put("class", if unknown { "unknown" } else { "not_done" }.to_owned());
        let retry = match refusal.retry {
            Retry::Never => "never".to_owned(),
            Retry::Now => "now".to_owned(),
            Retry::After(after) => format!("after {} ms", after.as_millis()),
            Retry::Elsewhere => "elsewhere".to_owned(),
        };
        put("retry", retry);
        put("index", refusal.index.map_or("none".to_owned(), |index| index.to_string()));
        put("text", quoted(refusal.text.as_bytes()));
        put("address", quoted(refusal.address.as_bytes()));
        return Some(out);
    }
    match frame.opcode {
        0x01 => put_hello(&hello(frame.body)?, &mut put),
        0x02 => assert_eq!(frame.body, [0; 8]),
        0x03 => {
            put("bytes", quoted(&frame.body[8..]));
            ping(frame.body)?;
        }
        0x04 => put("text", quoted(info(frame.body)?.as_bytes())),
        0x06 => put("timestamp", session(frame.body)?.to_string()),
        0x10 => put_item("", item(frame.body)?.as_ref(), &mut put),
        0x11 | 0x12 => put_outcome("", outcome(frame.body)?, &mut put),
        0x13 => {
            let batch = batch_outcome(frame.body)?;
            put("timestamp", batch.version.to_string());
            put("count", batch.outcomes.len().to_string());
            for (at, outcome) in batch.outcomes.into_iter().enumerate() {
                put_outcome(&format!("outcome{at}."), outcome, &mut put);
            }
        }
        0x14 => {
            let items = items(frame.body)?;
            put("count", items.len().to_string());
            for (at, item) in items.iter().enumerate() {
                put_item(&format!("item{at}."), item.as_ref(), &mut put);
            }
        }
        0x15 => {
            let page = page(frame.body)?;
            put("count", page.entries.len().to_string());
            put("cursor", quoted(&page.cursor));
            for (at, entry) in page.entries.iter().enumerate() {
                put_entry(&format!("entry{at}."), entry, &mut put);
            }
        }
        0x16 => {
            let told = changes(frame.body)?;
            let Position { index, term, part } = told.position;
            put("timestamp", told.version.to_string());
            put("newest", told.newest.to_string());
            put("index", index.to_string());
            put("term", term.to_string());
            put("part", part.to_string());
            put_changes(&told.changes, &mut put);
        }
        0x17 => {
            let page = rows(frame.body)?;
            put("newest", page.newest.to_string());
            put("next", quoted(&page.next));
            put_changes(&page.rows, &mut put);
        }
        _ => return None,
    }
    Some(out)
}

fn put_changes(changes: &[Changed], put: &mut impl FnMut(&str, String)) {
    put("count", changes.len().to_string());
    for (at, change) in changes.iter().enumerate() {
        let mut field = |name: &str, value: String| put(&format!("change{at}.{name}"), value);
        field("timestamp", change.version.to_string());
        field("db", change.db.to_string());
        field("key", quoted(&change.key));
        match &change.done {
            Done::Set { value, expires } => {
                let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).expect("later");
                let since = expires.map_or(Duration::ZERO, since);
                field("value", quoted(value));
                field("expiry_ms", since.as_millis().to_string());
            }
            Done::Deleted => field("done", "deleted".to_owned()),
            Done::Cleared => field("done", "cleared".to_owned()),
        }
    }
}

fn put_hello(info: &ServerInfo, put: &mut impl FnMut(&str, String)) {
    put("version", info.protocol.to_string());
    put("authenticated", info.authenticated.to_string());
    put("password_set", info.password_set.to_string());
    put("shard", info.shard.to_string());
    put("shard_count", info.shard_count.to_string());
    for (key, number) in [
        ("partition_count", info.partition_count),
        ("key_len_max", info.key_len_max),
        ("value_len_max", info.value_len_max),
        ("body_len_max", info.body_len_max),
        ("batch_count_max", info.batch_count_max),
        ("batch_len_max", info.batch_len_max),
        ("multi_get_count_max", info.multi_get_count_max),
        ("scan_count_max", info.scan_count_max),
        ("in_flight_max", info.in_flight_max),
    ] {
        put(key, number.to_string());
    }
    put("node_id", quoted(info.node_id.as_bytes()));
    put("server_version", quoted(info.version.as_bytes()));
}

fn put_outcome(prefix: &str, outcome: Outcome, put: &mut impl FnMut(&str, String)) {
    let state = match outcome.change {
        Change::Nothing => "nothing",
        Change::Created => "created",
        Change::Replaced => "replaced",
        Change::Deleted => "deleted",
    };
    put(&format!("{prefix}timestamp"), outcome.version.to_string());
    put(&format!("{prefix}state"), state.to_owned());
}

fn put_item(prefix: &str, item: Option<&Item>, put: &mut impl FnMut(&str, String)) {
    let (version, expires) = item.map_or((0, None), |item| (item.version, item.expires));
    put_head(prefix, version, expires, item.map_or(0, |item| item.value.len()), put);
    let value = item.map_or("absent".to_owned(), |item| quoted(&item.value));
    put(&format!("{prefix}value"), value);
}

fn put_entry(prefix: &str, entry: &Entry, put: &mut impl FnMut(&str, String)) {
    put(&format!("{prefix}key"), quoted(&entry.key));
    put_head(prefix, entry.version, entry.expires, entry.value_len as usize, put);
    let value = entry.value.as_deref().map_or("left out".to_owned(), quoted);
    put(&format!("{prefix}value"), value);
}

fn put_head(
    prefix: &str,
    version: u64,
    expires: Option<SystemTime>,
    value_len: usize,
    put: &mut impl FnMut(&str, String),
) {
    let since = expires.map_or(Duration::ZERO, |at| at.duration_since(UNIX_EPOCH).expect("later"));
    put(&format!("{prefix}timestamp"), version.to_string());
    put(&format!("{prefix}expiry_ms"), since.as_millis().to_string());
    put(&format!("{prefix}value_len"), value_len.to_string());
}

#[test]
fn damaged_replies_are_refused_and_cut_ones_are_waited_for() {
    for block in blocks("replies.txt") {
        for cut in 0..block.frame.len() {
            assert_eq!(frame(&block.frame[..cut]), Ok(None), "{} cut at {cut}", block.name);
        }
        for at in 0..block.frame.len() {
            let mut damaged = block.frame.clone();
            damaged[at] ^= 0x10;
            assert!(frame(&damaged).is_err(), "{} damaged at {at}", block.name);
        }
    }
}

/// Whatever a server sends, nothing here panics.
#[test]
fn bodies_of_any_bytes_are_read_or_refused() {
    let decoders: [fn(Vec<u8>) -> bool; 12] = [
        |body| hello(body).is_some(),
        |body| ping(body).is_some(),
        |body| session(body).is_some(),
        |body| info(body).is_some(),
        |body| item(body).is_some(),
        |body| items(body).is_some(),
        |body| outcome(body).is_some(),
        |body| batch_outcome(body).is_some(),
        |body| page(body).is_some(),
        |body| changes(body).is_some(),
        |body| rows(body).is_some(),
        |body| refusal(&body).is_some(),
    ];
    let mut seed = 1u64;
    for block in blocks("replies.txt") {
        let body = &block.frame[HEADER_LEN..];
        for _ in 0..200 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut mutant = body.to_owned();
            mutant.truncate((seed >> 40) as usize % (body.len() + 1));
            if let Some(last) = mutant.len().checked_sub(1) {
                mutant[(seed >> 20) as usize % (last + 1)] = (seed >> 33) as u8;
            }
            for decode in decoders {
                decode(mutant.clone());
            }
        }
    }
}
