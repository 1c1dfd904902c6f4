//! A cluster that follows another: whom, and how far it is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Refusal;

/// Most addresses of a cluster that is followed.
const ADDRESSES_MAX: usize = 16;

/// The cluster that is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its id, 32 hexadecimal digits.
    pub cluster: String,
    /// Binary ports of nodes of it; any of them is asked.
    pub at: Vec<SocketAddr>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at: Vec<_> = self.at.iter().map(SocketAddr::to_string).collect();
        f.write_str(&at.join(","))
    }
}

impl Source {
    /// Its id; 0: it is none.
    pub fn id(&self) -> u128 {
        u128::from_str_radix(&self.cluster, 16).unwrap_or(0)
    }

    /// Refuses what is none.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.id() == 0 || self.cluster.len() != 32 {
            return Err("the id of a cluster is 32 hexadecimal digits".to_owned());
        }
        match self.at.len() {
            1..=ADDRESSES_MAX => Ok(()),
            count => Err(format!("{count} addresses: give 1 to {ADDRESSES_MAX}")),
        }
    }
}

/// How far a shard's, or a node's, partitions are that it leads and that follow another cluster's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fed {
    /// Partitions that follow, or are being copied.
    pub led: u32,
    /// Of these, those that are being copied, or wait for it.
    pub copying: u32,
    /// Copies that were begun since the node started: the first one, and each time that the other's
    /// log did not reach back far enough.
    pub copies: u64,
    /// Entries of the other's log that are not here yet, as far as is known.
    pub lag_entries: u64,
    /// How old what is here is at most, milliseconds, but for those that are being copied.
    pub lag_ms: u64,
    /// Whether the other is reached.
    pub up: bool,
    /// Why it does not go on, if it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Fed {
    /// Both together.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        let copies = self.copies + other.copies;
        if other.led == 0 {
            return Self { copies, ..self };
        }
        Self {
            up: (self.led == 0 || self.up) && other.up,
            led: self.led + other.led,
            copying: self.copying + other.copying,
            copies,
            lag_entries: self.lag_entries + other.lag_entries,
            lag_ms: self.lag_ms.max(other.lag_ms),
            error: if self.error.is_empty() { other.error.clone() } else { self.error },
        }
    }
}
