//! What a completion belongs to, in the 64 bits that the kernel hands back:
//! `kind:4 | generation:28 | index:32`.

/// Bits of a generation that fit.
pub const GENERATION_MASK: u32 = (1 << 28) - 1;

/// Whose completion it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listener's multishot accept; index = listener.
    Accept = 1,
    /// A connection's receive.
    Recv = 2,
    /// A connection's send.
    Send = 3,
    /// A file operation.
    Op = 4,
    /// The eventfd.
    Wake = 5,
    /// Cancellations and the like: nobody waits.
    Nobody = 6,
    /// A connection that is being made.
    Connect = 7,
}

/// Packs.
pub fn tag(kind: Kind, index: u32, generation: u32) -> u64 {
    (kind as u64) << 60 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(index)
}

/// Unpacks `(kind, index, generation)`.
pub fn untag(tag: u64) -> (Kind, u32, u32) {
    let kind = match tag >> 60 {
        1 => Kind::Accept,
        2 => Kind::Recv,
        3 => Kind::Send,
        4 => Kind::Op,
        5 => Kind::Wake,
        6 => Kind::Nobody,
        7 => Kind::Connect,
        other => panic!("a completion with the unknown tag {other}"),
    };
    (kind, tag as u32, (tag >> 32) as u32 & GENERATION_MASK)
}
