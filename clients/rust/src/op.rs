//! Writes, and what becomes of them; what keys hold.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A set or a delete of one key, and when it may be done.
///
/// ```
/// use std::time::Duration;
/// use stavekv_client::Op;
///
/// let lock = Op::set("lock:42", "me").ttl(Duration::from_secs(30)).if_absent();
/// let unlock = Op::delete("lock:42").if_equals("me");
/// # let _ = (lock, unlock);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an op is done by Client::write or Client::batch"]
pub struct Op<'a> {
    pub(crate) key: &'a [u8],
    /// None: a delete.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) ttl: Ttl,
    pub(crate) condition: Condition<'a>,
}

/// What an answer waits for ([`crate::blocking::Client::with_ack`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Until what it tells is on the disks of a majority; on a single node: on its disk.
    Quorum,
    /// Until it is on the disk of the node that leads the key's partition. It is lost with that
    /// node, or when another one leads before a majority has it.
    Leader,
    /// For nothing: it is applied, and on its way to the disk. A crash may lose it.
    Relaxed,
}

impl std::str::FromStr for Ack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quorum" => Ok(Self::Quorum),
            "leader" => Ok(Self::Leader),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err("it is quorum, leader or relaxed".to_owned()),
        }
    }
}

/// How long what is set stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ttl {
    #[default]
    None,
    InMs(u64),
    AtMs(u64),
    Keep,
}

/// When an op may be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition<'a> {
    #[default]
    None,
    Absent,
    Present,
    Equals(&'a [u8]),
    Version(u64),
}

impl<'a> Op<'a> {
    /// Gives a key a value, for good unless a `ttl` method says otherwise.
    pub fn set(
        key: &'a (impl AsRef<[u8]> + ?Sized),
        value: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        let (key, value) = (key.as_ref(), Some(value.as_ref()));
        Self { key, value, ttl: Ttl::None, condition: Condition::None }
    }

    /// Removes a key.
    pub fn delete(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { key: key.as_ref(), value: None, ttl: Ttl::None, condition: Condition::None }
    }

    /// The key goes by itself after `ttl`; at least a millisecond. Nothing for a delete.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with_ttl(Ttl::InMs(millis(ttl).max(1)))
    }

    /// The key goes by itself at `when`; a time that is past: at once. Nothing for a delete.
    pub fn expires_at(self, when: SystemTime) -> Self {
        let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.with_ttl(Ttl::AtMs(millis(since)))
    }

    /// The key goes when what it held would have gone. Nothing for a delete.
    pub fn keep_ttl(self) -> Self {
        self.with_ttl(Ttl::Keep)
    }

    fn with_ttl(mut self, ttl: Ttl) -> Self {
        if self.value.is_some() {
            self.ttl = ttl;
        }
        self
    }

    /// Only if the key is absent.
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::Absent;
        self
    }

    /// Only if the key is present.
    pub fn if_present(mut self) -> Self {
        self.condition = Condition::Present;
        self
    }

    /// Only if the key holds `value`.
    pub fn if_equals(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.condition = Condition::Equals(value.as_ref());
        self
    }

    /// Only if nobody wrote the key since it had `version`; 0: if it is absent.
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::Version(version);
        self
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its value.
    pub value: Vec<u8>,
    /// Its version: the timestamp of the write, higher with every write of the key.
    pub version: u64,
    /// When it goes by itself; none: it stays.
    pub expires: Option<SystemTime>,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was nothing to delete.
    Nothing,
    /// It was absent and is there.
    Created,
    /// It was there and holds something else.
    Replaced,
    /// It was there and is gone.
    Deleted,
}

/// What became of a write. It is as durable as the server was told to make it; by default, on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The version written; 0 if there was nothing to do.
    pub version: u64,
    /// What became of the key.
    pub change: Change,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutcome {
    /// The version of its last write.
    pub version: u64,
    /// What became of each op, in their order.
    pub outcomes: Vec<Outcome>,
}

/// A key that a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Vec<u8>,
    /// Its value, if values were asked for.
    pub value: Option<Vec<u8>>,
    /// Bytes of its value.
    pub value_len: u32,
    /// Its version.
    pub version: u64,
    /// When it goes by itself; none: it stays.
    pub expires: Option<SystemTime>,
}

impl Entry {
    /// Takes the value that did not fit into the page.
    pub(crate) fn fill(&mut self, item: Item) {
        self.value_len = u32::try_from(item.value.len()).unwrap_or(u32::MAX);
        (self.version, self.expires) = (item.version, item.expires);
        self.value = Some(item.value);
    }
}

/// What a server says of itself when a connection begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The version of the protocol.
    pub protocol: u8,
    /// The server's own version.
    pub version: String,
    /// Identity of the node, kept over restarts.
    pub node_id: String,
    /// A password is set.
    pub password_set: bool,
    /// The connection may do more than say who it is.
    pub(crate) authenticated: bool,
    /// Which shard serves the connection.
    pub shard: u16,
    /// How many there are.
    pub shard_count: u16,
    /// How many partitions share the slots.
    pub partition_count: u32,
    /// Longest key, bytes.
    pub key_len_max: u32,
    /// Longest value, bytes.
    pub value_len_max: u32,
    /// Longest body of a request, bytes.
    pub body_len_max: u32,
    /// Most ops of a batch.
    pub batch_count_max: u32,
    /// Longest body of a batch, bytes.
    pub batch_len_max: u32,
    /// Most keys of one request for several; [`multi_get`](crate::blocking::Client::multi_get)
    /// splits longer ones.
    pub multi_get_count_max: u32,
    /// Most entries of a page.
    pub scan_count_max: u32,
    /// From so many unanswered requests of a connection on the server reads no more.
    pub in_flight_max: u32,
}
