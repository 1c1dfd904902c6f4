//! RESP2 and RESP3, the Redis serialization protocol (redis.io/docs/reference/protocol-spec).
//!
//! Reading order: `reply` (encoder), `parser`.

mod reply;

pub use reply::{Proto, Reply};
