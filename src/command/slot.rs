//! Which shard has a slot, as clients are told.

use crate::id::Slot;

pub use crate::lsm::key::slot_of;

/// `MOVED slot host:port`: sends a cluster client to the shard that owns `slot`.
pub fn moved(slot: Slot, host: &str, port: u16) -> String {
    format!("MOVED {slot} {host}:{port}")
}
