//! RESP2 and RESP3, the Redis serialization protocol (redis.io/docs/reference/protocol-spec).
//!
//! Requests: a [`Parser`] per connection turns received chunks into [`Frame`]s of a [`Batch`];
//! [`Args`] is the view of one command's arguments that the rest of the server reads. Replies: a
//! [`Reply`] appends to a connection's send buffer.
//!
//! Reading order: `args`, `batch`, `parser` (the fast path), `partial` (a frame that is not whole
//! in one chunk), `inline`, `reply` (encoder).
//!
//! Not here: what a command means ([`crate::command`]); sockets and their buffers.

mod args;
mod batch;
mod error;
mod inline;
mod parser;
mod partial;
mod reply;
#[cfg(test)]
mod tests;

pub use args::{Arg, Args, ArgsBuf, Span};
pub use batch::{Batch, Frame};
pub use error::Error;
pub use parser::{Limits, Parser};
pub use reply::{Proto, Reply};
