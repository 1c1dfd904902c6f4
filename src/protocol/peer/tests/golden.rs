//! The frames of `testdata/frames.txt`: what the module's header says, in bytes.
#![expect(clippy::disallowed_methods, reason = "reads a golden file")]

use std::fmt::Write;
use std::path::Path;

use super::super::*;
use super::{framed, raft_frame};
use crate::consensus::{Entry, EntryKind, Handle, Membership, Message, MessageKind, Snapshot};
use crate::id::{NodeId, PartitionId, ShardId};

const GOAL: &str = "\
Frames of the peer protocol: what src/protocol/peer/mod.rs says, in bytes and in fields.

Never changed: a program that writes other bytes writes another version.
";

fn messages() -> Vec<(PartitionId, Message)> {
    let (from, to) = (NodeId(1), NodeId(2));
    let entry = |index, kind, len| Entry {
        index,
        term: 7,
        kind,
        handle: Handle { len, ..Handle::default() },
    };
    let append = Message {
        kind: MessageKind::Append,
        from,
        to,
        term: 7,
        log_term: 6,
        index: 40,
        entries: vec![
            entry(41, EntryKind::Empty, 0),
            entry(42, EntryKind::Payload, 5),
            entry(43, EntryKind::Membership, 3),
        ],
        commit: 39,
        ..Message::default()
    };
    let no = Message {
        kind: MessageKind::AppendResponse,
        from: to,
        to: from,
        term: 7,
        log_term: 5,
        index: 40,
        reject: true,
        reject_hint: 38,
        request_snapshot: 90,
        ..Message::default()
    };
    let vote = Message {
        kind: MessageKind::Vote,
        commit_term: 6,
        context: b"CampaignTransfer".to_vec(),
        priority: -1,
        entries: Vec::new(),
        ..append.clone()
    };
    let membership = Membership {
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(4)],
        outgoing: vec![NodeId(1), NodeId(3)],
        learners_next: vec![NodeId(3)],
    };
    let snapshot = Message {
        kind: MessageKind::Snapshot,
        index: 0,
        entries: Vec::new(),
        snapshot: Some(Snapshot { index: 30, term: 6, membership }),
        ..append.clone()
    };
    [append, no, vote, snapshot].into_iter().zip(3..).map(|(m, p)| (PartitionId(p), m)).collect()
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let (node, shard) = (NodeId(1), ShardId(1));
    let cluster = 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF;
    let place = Place {
        cluster,
        node,
        shard,
        shard_count: 2,
        partition_count: 32,
        incarnation: 9,
        life: 10,
    };
    let hello = Hello::new(place, NodeId(2), ShardId(0));
    let welcome = Welcome { version: SPOKEN, node, shard, incarnation: 9 };
    let refusal = Refusal { code: Reason::Node as u16, text: "this is node 1".to_owned() };
    let blob = Blob { blob: 5, whole_len: 70_000, offset: 65_536, bytes: b"a piece" };
    let messages = messages();
    vec![
        ("hello", framed(Kind::Hello, |out| hello.encode(out))),
        ("welcome", framed(Kind::Welcome, |out| welcome.encode(out))),
        ("refused", framed(Kind::Refused, |out| refusal.encode(out))),
        ("an append", raft_frame(&messages[..1])),
        ("a rejection, a vote, a snapshot", raft_frame(&messages[1..])),
        ("blob", framed(Kind::Blob, |out| blob.encode(out))),
        ("mail", framed(Kind::Mail, |out| out.extend_from_slice(b"a parcel"))),
        ("mail piece", framed(Kind::MailPiece, |out| out.extend_from_slice(b"a long par"))),
        (
            "snapshot",
            framed(Kind::Snapshot, |out| {
                let (step, partition) = (Step::LastPiece, PartitionId(5));
                let (a, b, c, bytes) = (1, 65536, 77, b"table");
                SnapshotStep { step, partition, a, b, c, bytes }.encode(out);
            }),
        ),
        (
            "endpoint",
            framed(Kind::Endpoint, |out| {
                Endpoint { host: "10.0.0.7", port: 7500 }.encode(out);
            }),
        ),
        (
            "leads",
            framed(Kind::Leads, |out| {
                let members = Membership::new([1, 2, 3].map(NodeId).into(), vec![NodeId(5)]);
                for (partition, behind) in [(3, vec![]), (17, vec![NodeId(5)])] {
                    let (partition, members) = (PartitionId(partition), members.clone());
                    Led { partition, term: 6, applied: 90, members, behind }.encode(out);
                }
            }),
        ),
        ("topology", framed(Kind::Topology, |out| out.extend_from_slice(b"{\"version\":2}"))),
        ("slow", framed(Kind::Slow, |_| {})),
        ("ask", framed(Kind::Ask, |out| Body::encode_ask(0x0102_0304_0506_0708, out))),
        (
            "closed",
            framed(Kind::Closed, |out| {
                let indices = [(3, 41), (17, 0)].map(|(of, index)| (PartitionId(of), index));
                let (round, wall_ms) = (0x0102_0304_0506_0708, 1_700_000_000_000);
                Closed { round, wall_ms, indices: indices.into() }.encode(out);
            }),
        ),
        ("beat", framed(Kind::Beat, |out| Body::encode_beat(1_000_000_007, out))),
    ]
}

fn block(text: &mut String, name: &str, frame: &[u8]) {
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    line(format!("\n# {name}"));
    for row in frame.chunks(16) {
        let words = row
            .chunks(4)
            .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        line(words.collect::<Vec<_>>().join(" "));
    }
    let mut parser = Parser::default();
    let parsed = parser.next(&mut &*frame, BODY_LEN_MAX).expect("ours").expect("whole");
    match parsed.decode().expect("ours") {
        Body::Raft(messages) => messages.for_each(|message| {
            line(format!("{:?}", message.expect("ours")));
        }),
        body => line(format!("{body:?}")),
    }
}

#[test]
fn frames_are_as_the_golden_file_says() {
    let mut text = GOAL.to_owned();
    for (name, frame) in frames() {
        block(&mut text, name, &frame);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol/peer/testdata/frames.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the sources can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("UPDATE_GOLDEN=1 writes it");
    assert!(golden == text, "it differs; UPDATE_GOLDEN=1 rewrites it. Actual:\n{text}");
}

#[test]
fn what_can_not_be_a_frame_is_refused() {
    let mut beat = framed(Kind::Beat, |out| Body::encode_beat(7, out));
    let remade = |at: usize, byte: u8| {
        let mut frame = beat.clone();
        frame[at] = byte;
        let check = xxhash_rust::xxh3::xxh3_64(&frame[..24]);
        frame[24..32].copy_from_slice(&check.to_le_bytes());
        frame
    };
    let (kind, max) = (Kind::Beat, BODY_LEN_MAX);
    let broken = [
        (remade(0, b'*'), Error::Magic { found: *b"*STP" }),
        (remade(4, 9), Error::Version { found: 9 }),
        (remade(5, 0), Error::Kind { found: 0 }),
        (remade(5, 16), Error::Kind { found: 16 }),
        (remade(6, 1), Error::Reserved),
        (remade(15, 1), Error::Reserved),
        (remade(11, 4), Error::TooLong { kind, len: max + 8, max }),
        (remade(16, !beat[16]), Error::BodyChecksum { kind }),
    ];

    for (frame, error) in broken {
        let parsed = Parser::default().next(&mut frame.as_slice(), max).map(|_| ());
        assert_eq!(parsed, Err(error));
    }

    beat[8] ^= 1;
    let parsed = Parser::default().next(&mut beat.as_slice(), max).map(|_| ());
    assert_eq!(parsed, Err(Error::HeaderChecksum));
}
