//! Why bytes are not those of a peer.

use super::Kind;

/// Why a stream can not be read on, or a message can not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else talks here.
    #[error("not the peer protocol: a frame begins with {found:02x?}")]
    Magic {
        /// Its first bytes, those that there are.
        found: [u8; 4],
    },

    /// The header was damaged on the way.
    #[error("a frame's header does not have its checksum")]
    HeaderChecksum,

    /// Another version of the protocol.
    #[error("a frame is in version {found} of the peer protocol")]
    Version {
        /// Which.
        found: u8,
    },

    /// The header is whole, but nobody makes such frames in this version.
    #[error("a frame of kind {found}, which there is not")]
    Kind {
        /// The kind.
        found: u8,
    },

    /// Bytes that are zero in this version.
    #[error("a frame's header has something where zeroes belong")]
    Reserved,

    /// The body is longer than allowed.
    #[error("a {kind:?} frame of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Of what.
        kind: Kind,
        /// Bytes.
        len: usize,
        /// The limit.
        max: usize,
    },

    /// The body was damaged on the way.
    #[error("a {kind:?} frame's body does not have its checksum")]
    BodyChecksum {
        /// Of what.
        kind: Kind,
    },

    /// The body is whole, but not as the header of this module says.
    #[error("a {kind:?} frame is malformed at byte {at}: {what}")]
    Malformed {
        /// Of what.
        kind: Kind,
        /// Where the part begins that is wrong, in the body.
        at: usize,
        /// How.
        what: &'static str,
    },
}
