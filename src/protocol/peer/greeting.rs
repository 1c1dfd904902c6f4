//! Who dials whom, and whether that is right.

use crate::codec::{Fields, put_u16};
use crate::id::{NodeId, ShardId};

/// What this program speaks behind the greeting.
pub const SPOKEN: u16 = 5;

/// Longest text of a refusal, bytes.
const TEXT_LEN_MAX: usize = 512;

/// Where in which cluster a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's id.
    pub cluster: u128,
    /// The node.
    pub node: NodeId,
    /// Which of its shards; below `shard_count`.
    pub shard: ShardId,
    /// How many it has.
    pub shard_count: u16,
    /// Partitions of the cluster.
    pub partition_count: u32,
    /// Of the node's data directory, random: a new one of the same node has another; 0: it is from
    /// before there was one.
    pub incarnation: u32,
    /// Of the node's process, random.
    pub life: u64,
}

/// The dialler's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it speaks behind the greeting.
    pub version: u16,
    /// Who it is.
    pub from: Place,
    /// Which node it takes the receiver for.
    pub to_node: NodeId,
    /// Which of its shards is meant.
    pub to_shard: ShardId,
}

impl Hello {
    /// The greeting of `from`.
    pub fn new(from: Place, to_node: NodeId, to_shard: ShardId) -> Self {
        Self { version: SPOKEN, from, to_node, to_shard }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let hello = Self::read(Fields(body)).ok_or("not 56 bytes")?;
        let Place { node, shard, shard_count, .. } = hello.from;
        if node.0 == 0 || hello.to_node.0 == 0 {
            return Err("a node without a number");
        }
        if shard.0 >= shard_count || hello.to_shard.0 >= shard_count {
            return Err("a shard that the sender does not count");
        }
        Ok(hello)
    }

    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let version = fields.u16()?;
        let (shard, to_shard) = (ShardId(fields.u16()?), ShardId(fields.u16()?));
        let (shard_count, partition_count) = (fields.u16()?, fields.u32()?);
        let (incarnation, cluster) = (fields.u32()?, fields.u128()?);
        let (node, to_node) = (NodeId(fields.u64()?), NodeId(fields.u64()?));
        let life = fields.u64()?;
        fields.end()?;
        let from = Place { cluster, node, shard, shard_count, partition_count, incarnation, life };
        Some(Self { version, from, to_node, to_shard })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Place { cluster, node, shard, shard_count, .. } = self.from;
        for short in [self.version, shard.0, self.to_shard.0, shard_count] {
            out.extend_from_slice(&short.to_le_bytes());
        }
        for long in [self.from.partition_count, self.from.incarnation] {
            out.extend_from_slice(&long.to_le_bytes());
        }
        out.extend_from_slice(&cluster.to_le_bytes());
        for longest in [node.0, self.to_node.0, self.from.life] {
            out.extend_from_slice(&longest.to_le_bytes());
        }
    }
}

/// The answer to a hello that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// What is spoken from here on.
    pub version: u16,
    /// Who answers.
    pub node: NodeId,
    /// Which of its shards.
    pub shard: ShardId,
    /// See [`Place::incarnation`].
    pub incarnation: u32,
}

impl Welcome {
    pub(super) fn decode(body: &[u8]) -> Result<Self, &'static str> {
        Self::read(Fields(body)).ok_or("not 16 bytes")
    }

    fn read(mut fields: Fields<'_>) -> Option<Self> {
        let (version, shard) = (fields.u16()?, ShardId(fields.u16()?));
        let (incarnation, node) = (fields.u32()?, NodeId(fields.u64()?));
        fields.end()?;
        Some(Self { version, node, shard, incarnation })
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.node.0.to_le_bytes());
    }
}

/// Why a hello is refused. Numbers are the wire's, never given twice and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Reason {
    /// It speaks another version.
    Version = 1,
    /// It belongs to another cluster.
    Cluster = 2,
    /// It means another node.
    Node = 3,
    /// It says that it is who it speaks to, or somebody else who is heard of.
    Twin = 4,
    /// It is not one of the cluster's nodes.
    Stranger = 5,
    /// It has another number of shards.
    ShardCount = 6,
    /// It has another number of partitions.
    PartitionCount = 7,
    /// Its data directory is another than it was.
    Incarnation = 8,
}

/// What is known of a node: its number, and the incarnation of its data directory; 0: unknown.
pub type Known = (NodeId, u32);

/// Refuses a node of which another process is heard of right now.
pub fn cloned(node: NodeId) -> Refusal {
    let text = format!(
        "two processes say that they are node {node}: one of them runs on a copy of the other's \
         data directory; stop it, and let it join anew with an empty one (--join)"
    );
    Refusal::new(Reason::Twin, text)
}

/// Whether a node that says to be of an incarnation may be the one that is known.
pub fn is_same(said: u32, known: u32) -> bool {
    known == 0 || said == known
}

/// What is said of a node that is another than it was, and to it.
pub fn reborn(node: NodeId) -> String {
    format!(
        "node {node} has another data directory than it had: it has forgotten what it acknowledged \
         and whom it voted for; give it back the one that it had, or remove the node (stave \
         cluster remove {node}) and let its machine join anew with an empty one (--join)"
    )
}

/// The answer to a hello that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused (code {code}): {text}")]
pub struct Refusal {
    /// A [`Reason`], or one of a later version.
    pub code: u16,
    /// One line for people: the cause, and what to do. At most 512 bytes.
    pub text: String,
}

impl Refusal {
    fn new(reason: Reason, text: String) -> Self {
        Self { code: reason as u16, text }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(body);
        let mut read = || Some((fields.u16()?, fields.u16()?));
        let (code, text_len) = read().ok_or("cut short")?;
        let text = fields.0;
        if text.len() != usize::from(text_len) || text.len() > TEXT_LEN_MAX {
            return Err("a text of another length");
        }
        let text = str::from_utf8(text).map_err(|_| "a text that is not UTF-8")?;
        Ok(Self { code, text: text.to_owned() })
    }

    /// Appends the body.
    ///
    /// # Panics
    /// When the text is too long.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.text.len() <= TEXT_LEN_MAX, "a text of {} bytes", self.text.len());
        out.extend_from_slice(&self.code.to_le_bytes());
        put_u16(out, self.text.len());
        out.extend_from_slice(self.text.as_bytes());
    }
}

impl Place {
    /// Answers a hello as a shard at this place, in a cluster of `nodes`.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn judge(&self, hello: &Hello, nodes: &[Known]) -> Result<Welcome, Refusal> {
        if let Some((reason, text)) = self.objection(hello, nodes) {
            return Err(Refusal::new(reason, text));
        }
        let (node, shard, incarnation) = (self.node, hello.to_shard, self.incarnation);
        Ok(Welcome { version: SPOKEN, node, shard, incarnation })
    }

    fn objection(&self, hello: &Hello, nodes: &[Known]) -> Option<(Reason, String)> {
        let (own, Hello { version, from, to_node, .. }) = (self, hello);
        let (me, you) = (own.node, from.node);
        let objection = if *version != SPOKEN {
            let text = format!(
                "node {you} speaks version {version} of the peer protocol, node {me} version \
                 {SPOKEN}: run the same release of stave on both"
            );
            (Reason::Version, text)
        } else if from.cluster != own.cluster {
            let text = format!(
                "node {you} is of cluster {:032x}, node {me} of {:032x}: correct the addresses of \
                 the one that is wrong, or start it with an empty data directory",
                from.cluster, own.cluster
            );
            (Reason::Cluster, text)
        } else if *to_node != me {
            let text = format!(
                "this is node {me}, not node {to_node}: give all nodes the same addresses in the \
                 same order, and each its own data directory"
            );
            (Reason::Node, text)
        } else {
            return self.objection_to_sender(from, nodes);
        };
        Some(objection)
    }

    fn objection_to_sender(&self, from: &Self, nodes: &[Known]) -> Option<(Reason, String)> {
        let (own, me, you) = (self, self.node, from.node);
        let count = |what: &str, yours: u32, ours: u32| {
            format!(
                "node {you} has {yours} {what}, node {me} has {ours}: all nodes of a cluster have \
                 the same number; start the one that is wrong with an empty data directory and \
                 the number of the others"
            )
        };
        let known = nodes.iter().find(|(node, _)| *node == you);
        if you == me {
            let text = format!(
                "there are two nodes {me}: one of them runs on a copy of the other's data \
                 directory; stop it and start it with an empty one"
            );
            Some((Reason::Twin, text))
        } else if known.is_none() {
            let text = format!("node {you} is none of this cluster's: add it, or stop it");
            Some((Reason::Stranger, text))
        } else if known.is_some_and(|(_, known)| !is_same(from.incarnation, *known)) {
            Some((Reason::Incarnation, reborn(you)))
        } else if from.shard_count != own.shard_count {
            let text = count("shards", from.shard_count.into(), own.shard_count.into());
            Some((Reason::ShardCount, text))
        } else if from.partition_count != own.partition_count {
            let text = count("partitions", from.partition_count, own.partition_count);
            Some((Reason::PartitionCount, text))
        } else {
            None
        }
    }
}
