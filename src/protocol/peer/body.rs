//! What a frame says, and the bodies that are a few fields.

use super::groups::{Messages, decode_ids, decode_membership, encode_membership};
use super::{Error, Hello, Kind, Refusal, Welcome};
use crate::codec::Fields;
use crate::consensus::Membership;
use crate::id::{NodeId, PartitionId};

/// A body, decoded as far as it is plain fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Who dials whom.
    Hello(Hello),
    /// Go on.
    Welcome(Welcome),
    /// No.
    Refused(Refusal),
    /// Messages of groups, each decoded as it is asked for.
    Raft(Messages<'a>),
    /// A piece of a large value.
    Blob(Blob<'a>),
    /// A parcel, encoded; of one that came in pieces the end.
    Mail(&'a [u8]),
    /// A piece of a parcel; more follows.
    MailPiece(&'a [u8]),
    /// The sender's monotonic clock, nanoseconds.
    Beat(u64),
    /// Where clients reach the sender.
    Endpoint(Endpoint<'a>),
    /// A step of a snapshot's way.
    Snapshot(SnapshotStep<'a>),
    /// Partitions that the sender leads and of which the receiver has no replica.
    Leads(Vec<Led>),
    /// Which nodes there are, as crate::cluster has it.
    Topology(&'a [u8]),
    /// The sender's disk is too slow to lead.
    Slow,
    /// How far is what the receiver leads committed? The round's number.
    Ask(u64),
    /// The answer to that.
    Closed(Closed),
}

/// How far the partitions that the sender leads were committed when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// As asked.
    pub round: u64,
    /// The sender's wall clock then, unix milliseconds.
    pub wall_ms: u64,
    /// Each that it leads under a lease, and the index up to which all was committed.
    pub indices: Vec<(PartitionId, u64)>,
}

impl Closed {
    fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        let head = fields.u64().zip(fields.u64());
        let (round, wall_ms) = head.ok_or("cut short")?;
        let mut indices = Vec::new();
        while !fields.0.is_empty() {
            indices.push(Self::index(&mut fields).ok_or("an index cut short")?);
        }
        Ok(Self { round, wall_ms, indices })
    }

    fn index(fields: &mut Fields<'_>) -> Option<(PartitionId, u64)> {
        let partition = PartitionId(fields.u32()?);
        fields.zero(4)?;
        Some((partition, fields.u64()?))
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.round.to_le_bytes());
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        for (partition, index) in &self.indices {
            out.extend_from_slice(&partition.0.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&index.to_le_bytes());
        }
    }
}

/// What a step of a snapshot's way is. Numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// It begins: what the tables are.
    Head = 1,
    /// The next bytes of a table.
    Piece = 2,
    /// All has been sent.
    End = 3,
    /// The receiver has it, durably.
    Staged = 4,
    /// The last bytes of a table.
    LastPiece = 5,
    /// So far the receiver has come: more may be sent.
    Took = 6,
}

/// A step of a snapshot's way from one replica of a partition to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStep<'a> {
    /// Which.
    pub step: Step,
    /// Whose.
    pub partition: PartitionId,
    /// The index, or the table's place in the head.
    pub a: u64,
    /// The index's term, the offset in the table, or bytes that were taken.
    pub b: u64,
    /// The digest of the table, with its last piece; which attempt it is.
    pub c: u64,
    /// The head, or bytes of a table.
    pub bytes: &'a [u8],
}

impl<'a> SnapshotStep<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        let mut numbers = || Some([fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?]);
        let [head, a, b, c] = numbers().ok_or("cut short")?;
        let (step, partition) = (head as u32, (head >> 32) as u32);
        let steps = [Step::Head, Step::Piece, Step::End, Step::Staged, Step::LastPiece, Step::Took];
        let step = steps.into_iter().find(|known| *known as u32 == step).ok_or("no such step")?;
        Ok(Self { step, partition: PartitionId(partition), a, b, c, bytes: fields.0 })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.step as u32).to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.a.to_le_bytes());
        out.extend_from_slice(&self.b.to_le_bytes());
        out.extend_from_slice(&self.c.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }
}

/// A partition that the sender leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// Which.
    pub partition: PartitionId,
    /// In which term.
    pub term: u64,
    /// The newest entry that it has applied.
    pub applied: u64,
    /// Who has replicas, as of that entry.
    pub members: Membership,
    /// Whose lack something.
    pub behind: Vec<NodeId>,
}

impl Led {
    fn decode_all(body: &[u8]) -> Result<Vec<Self>, &'static str> {
        let mut fields = Fields(body);
        let mut all = Vec::new();
        while !fields.0.is_empty() {
            all.push(Self::decode(&mut fields).ok_or("cut short")?);
        }
        Ok(all)
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let partition = PartitionId(fields.u32()?);
        let [term, applied] = fields.numbers()?;
        let members = decode_membership(fields)?;
        let count = fields.u32()?;
        let behind = decode_ids(fields, count)?;
        Some(Self { partition, term, applied, members, behind })
    }

    /// Appends it to the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.applied.to_le_bytes());
        encode_membership(&self.members, out);
        out.extend_from_slice(&(self.behind.len() as u32).to_le_bytes());
        self.behind.iter().for_each(|node| out.extend_from_slice(&node.0.to_le_bytes()));
    }
}

/// Where clients reach a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// An address or a name.
    pub host: &'a str,
    /// Its own RESP port.
    pub port: u16,
}

impl<'a> Endpoint<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, &'static str> {
        let (port, host) = body.split_first_chunk().ok_or("cut short")?;
        let host = str::from_utf8(host).map_err(|_| "a host that is not text")?;
        if host.is_empty() || host.len() > 255 || host.contains(char::is_whitespace) {
            return Err("a host that is none");
        }
        Ok(Self { host, port: u16::from_le_bytes(*port) })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.port.to_le_bytes());
        out.extend_from_slice(self.host.as_bytes());
    }
}

impl<'a> Body<'a> {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, Error> {
        let malformed = |what| Error::Malformed { kind, at: 0, what };
        let body = match kind {
            Kind::Hello => Hello::decode(body).map(Body::Hello),
            Kind::Welcome => Welcome::decode(body).map(Body::Welcome),
            Kind::Refused => Refusal::decode(body).map(Body::Refused),
            Kind::Raft => Ok(Body::Raft(Messages::new(body))),
            Kind::Blob => Blob::decode(body).map(Body::Blob),
            Kind::Mail => Ok(Body::Mail(body)),
            Kind::MailPiece => Ok(Body::MailPiece(body)),
            Kind::Endpoint => Endpoint::decode(body).map(Body::Endpoint),
            Kind::Snapshot => SnapshotStep::decode(body).map(Body::Snapshot),
            Kind::Leads => Led::decode_all(body).map(Body::Leads),
            Kind::Topology => Ok(Body::Topology(body)),
            Kind::Slow if body.is_empty() => Ok(Body::Slow),
            Kind::Slow => Err("not empty"),
            Kind::Beat => number(body).map(Body::Beat).ok_or("not eight bytes"),
            Kind::Ask => number(body).map(Body::Ask).ok_or("not eight bytes"),
            Kind::Closed => Closed::decode(body).map(Body::Closed),
        };
        body.map_err(malformed)
    }

    /// Appends the body of a beat.
    pub fn encode_beat(sent_ns: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&sent_ns.to_le_bytes());
    }

    /// Appends the body of an ask.
    pub fn encode_ask(round: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&round.to_le_bytes());
    }
}

fn number(body: &[u8]) -> Option<u64> {
    let mut fields = Fields(body);
    let number = fields.u64()?;
    fields.end()?;
    Some(number)
}

/// A piece of a large value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    /// The sender's number of the value.
    pub blob: u64,
    /// Bytes of the whole value.
    pub whole_len: u64,
    /// Where in it this piece begins.
    pub offset: u64,
    /// The piece.
    pub bytes: &'a [u8],
}

impl<'a> Blob<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        let mut read = || Some((fields.u64()?, fields.u64()?, fields.u64()?));
        let (blob, whole_len, offset) = read().ok_or("cut short")?;
        let bytes = fields.0;
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > whole_len) {
            return Err("a piece beyond the value's end");
        }
        Ok(Self { blob, whole_len, offset, bytes })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.blob.to_le_bytes());
        out.extend_from_slice(&self.whole_len.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }
}
