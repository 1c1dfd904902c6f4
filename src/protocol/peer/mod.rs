//! The peer protocol, version 4: what the shards of the nodes of a cluster say to each other.
//!
//! A shard that has something for a shard of another node dials it; the connection carries frames
//! in that one direction, apart from the answer to the first. What several partitions have for the
//! same shard in a turn is one frame, so that many groups cost as little as one. All integers are
//! little-endian; nothing here knows sockets or what a frame is about.
//!
//! # Frames
//!
//! ```text
//! frame  := header[32] body[body_len]
//! header := 0..4    magic          D5 53 54 50 (D5 "STP")
//!           4       version        1
//!           5       kind           1 hello, 2 welcome, 3 refused, 4 raft, 5 blob, 6 mail, 7 beat,
//!                           8 endpoint, 9 snapshot, 10 leads, 11 topology, 12 slow, 13 ask,
//!                           14 closed, 15 mail piece
//!           6..8    zero
//!           8..12   body_len:u32   at most 64 MiB
//!           12..16  zero
//!           16..24  body_check     xxh3-64 (seed 0) of the body
//!           24..32  header_check   xxh3-64 (seed 0) of bytes 0..24
//! ```
//!
//! A stream with a bad magic, checksum, version, kind or length is not read on: the connection is
//! closed, dialled anew, and what it carried is sent again by whoever misses it. So is one with a
//! body that is not as below. Magic, the places of version and header check, and the bodies of
//! `hello` and `refused` are the same in all versions, so that a node of any version can say no.
//!
//! # Greeting
//!
//! The dialler says `hello` and waits; the other says `welcome`, or `refused` and closes. Both
//! bodies, and that of the hello, are at most [`GREETING_LEN_MAX`] bytes long: nobody is trusted
//! with more before.
//!
//! ```text
//! hello   := version:u16 shard:u16 to_shard:u16 shard_count:u16 partition_count:u32
//!            incarnation:u32 cluster:u128 node:u64 to_node:u64 life:u64
//! welcome := version:u16 shard:u16 incarnation:u32 node:u64
//! refused := code:u16 text_len:u16 | text (UTF-8, one line: the cause, and what to do)
//! ```
//!
//! `version` is what is spoken behind the greeting, 5: in 1 `leads` named no members, and there was
//! no `topology`, no `slow`, no `ask` and no `closed`; in 2 nobody waited for a snapshot to be
//! taken; in 3 a parcel was one frame; in 4 nobody said an incarnation or a life. A hello names the
//! sender and whom it takes the receiver for; a connection may be taken by another shard of the
//! right node, which hands it on. Both sides judge the other's incarnation, which tells the data
//! directory that a node had from a new one; its life tells its process from one on a copy of the
//! directory. The codes of a refusal: [`Reason`].
//!
//! # After it
//!
//! ```text
//! raft     := message*
//! message  := 0..4    partition:u32
//!             4       kind:u8               as crate::consensus::MessageKind
//!             5       flags:u8              1 reject, 2 with a snapshot
//!             6..8    zero
//!             8..12   entry_count:u32
//!             12..16  context_len:u32
//!             16..24  from:u64
//!             24..32  to:u64
//!             32..40  term:u64
//!             40..48  log_term:u64
//!             48..56  index:u64             the entries are index + 1, index + 2, ...
//!             56..64  commit:u64
//!             64..72  commit_term:u64
//!             72..80  reject_hint:u64
//!             80..88  request_snapshot:u64
//!             88..96  priority:i64
//!             | entry[entry_count] context[context_len] snapshot? payloads
//! entry    := term:u64 kind:u8 zero[3] payload_len:u32
//!             kind                          0 empty (no payload), 1 payload, 2 membership
//! snapshot := index:u64 term:u64 members
//! payloads := the payload of each entry, one after the other
//! blob     := blob:u64 whole_len:u64 offset:u64 | bytes
//! mail     := a parcel: crate::shard::mailbox; or the end of one, behind mail pieces
//! mail piece := bytes: the parcel goes on in the next mail piece, or mail
//! beat     := sent_ns:u64
//! snapshot := step:u32 partition:u32 a:u64 b:u64 c:u64 | bytes
//!             step 1 head: a the index, b its term, c which attempt it is, bytes the
//!                    checkpoint's head; sent again when the connection is another, or all is
//!                    silent
//!                  2 piece: a the table's place in the head, b the offset, bytes
//!                  5 the last piece of a table: also c, the xxh3-64 of the table
//!                  3 end
//!                  4 staged, receiver to sender: a the index, b its term
//!                  6 took, receiver to sender: a the index, b bytes of all tables together that
//!                    were written, or soon are, c the attempt; pieces go on behind them
//! leads    := (partition:u32 term:u64 applied:u64 members behind_count:u32
//!             node:u64[behind_count])*
//! members  := voter_count:u32 learner_count:u32 outgoing_count:u32 learner_next_count:u32
//!             | each a node:u64
//! topology := JSON: crate::cluster
//! endpoint := port:u16 | host (UTF-8, 1 to 255 bytes)
//! slow     := nothing
//! ask      := round:u64
//! closed   := round:u64 wall_ms:u64 (partition:u32 zero:u32 index:u64)*
//! ```
//!
//! A `blob` is a piece of a large value of the sender's log, which entries name by its number; the
//! pieces come in order and before the entry. A long parcel comes in pieces, of at most
//! [`MAIL_LEN_MAX`] bytes together. A `beat` has the sender's monotonic clock: it fills a silence,
//! so that a dead connection is noticed. An `endpoint` is where clients reach the sender's shard,
//! for who redirects them there. `leads` names the partitions that the sender leads and of which
//! the receiver has no replica, which would hear of no leader else, and says who has one as of the
//! newest entry that it has applied: what the receiver has of it from before may go. Nor would it
//! hear of changes of the `topology`, which everybody tells everybody, once per version. `slow`,
//! said again every 100 ms as long as it holds, asks for no leadership: the disk of the sender's
//! shard is slow. `ask` is answered with `closed`: for each partition that the sender of the answer
//! leads under a lease, up to which index it had committed everything when it was asked, and its
//! wall clock then. The round is a number that the asker has given to nobody else; what follows
//! from it: [`crate::shard`].
//!
//! **Why plain fields and not rkyv.** A message is 96 bytes that are read once, in order; what it
//! is made of (an entry's payload, a parcel) is copied to its place anyway. Chosen: the same forty
//! lines of code that the binary protocol has. Would change it: a profile in which decoding shows.
//!
//! Not here: connections and whom they are to (the server), what a parcel is
//! ([`crate::shard::mailbox`]), what a message means ([`crate::consensus`]). Reading order:
//! `frame`, `parser`, `greeting`, `groups`, `body`.

mod body;
mod error;
mod frame;
mod greeting;
mod groups;
mod parser;
#[cfg(test)]
mod tests;

pub use body::{Blob, Body, Closed, Endpoint, Led, SnapshotStep, Step};
pub use error::Error;
pub use frame::{
    BODY_LEN_MAX, GREETING_LEN_MAX, HEADER_LEN, Header, Kind, MAGIC, MAIL_LEN_MAX, VERSION, finish,
    start,
};
pub use greeting::{
    Hello, Known, Place, Reason, Refusal, SPOKEN, Welcome, cloned, is_same, reborn,
};
pub use groups::{Batch, Messages, Received};
pub use parser::{Frame, Parser};
