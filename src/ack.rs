//! What an answer waits for.
//!
//! A client is told what it wrote, or read, when that is as safe as it asked for. What is told
//! before a majority has it may be lost when its leader is: then the write is gone, and so is what
//! was read of it. Nobody who waits for the majority ever sees it.
//!
//! Not here: how it is waited for ([`crate::partition`]).

/// What an answer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ack {
    /// Until what it tells is on the disks of a majority of the partition's voters; on a single
    /// node: on its disk. A crash takes nothing of it back.
    #[default]
    Quorum,
    /// Until it is on the disk of the partition's leader. It is lost with the leader, or when
    /// another leads before a majority has it.
    Leader,
    /// For nothing: it is applied at the leader and written behind. A crash may lose it.
    Relaxed,
}

impl Ack {
    /// From the strongest to the weakest.
    pub const ALL: [Self; 3] = [Self::Quorum, Self::Leader, Self::Relaxed];

    /// Of its name, in any case.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|ack| ack.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Leader => "leader",
            Self::Relaxed => "relaxed",
        }
    }
}
