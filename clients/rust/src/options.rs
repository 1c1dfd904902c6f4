//! What a client is told before it begins.

use std::fmt;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "blocking")]
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::retry::Backoff;

/// Where the server is and how to deal with it. Every value has a default that serves most.
///
/// ```
/// use std::time::Duration;
/// use stavekv_client::Options;
///
/// let options = Options::new("127.0.0.1:7400")
///     .password("secret")
///     .connections_max(4)
///     .deadline(Duration::from_millis(500));
/// # let _ = options;
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "options make a client with connect() or blocking()"]
pub struct Options {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) name: String,
    pub(crate) db: u8,
    pub(crate) deadline: Duration,
    pub(crate) connect_deadline: Duration,
    pub(crate) connections_max: usize,
    pub(crate) in_flight_max: usize,
    pub(crate) retries_max: u32,
    pub(crate) exactly_once: bool,
    pub(crate) backoff: Backoff,
    pub(crate) interrupted: Interrupted,
}

/// Whether what is waited for is to be given up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interrupted(Option<&'static AtomicBool>);

impl Interrupted {
    #[cfg(feature = "blocking")]
    pub fn is_set(self) -> bool {
        self.0.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// They are the same flag.
impl PartialEq for Interrupted {
    fn eq(&self, other: &Self) -> bool {
        let place = |flag: &Self| flag.0.map(std::ptr::from_ref);
        place(self) == place(other)
    }
}

impl Eq for Interrupted {}

impl Options {
    /// The server at `host:port`; its binary port, 7400 unless it was told otherwise. Several nodes
    /// of a cluster: with commas between them; another is tried when one can not be reached.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            user: String::new(),
            password: None,
            name: String::new(),
            db: 0,
            deadline: Duration::from_secs(5),
            connect_deadline: Duration::from_secs(2),
            connections_max: 4,
            in_flight_max: 1024,
            retries_max: 3,
            exactly_once: true,
            backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_secs(1) },
            interrupted: Interrupted::default(),
        }
    }

    /// The password; needed where one is set.
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Whose password it is; "default" unless said.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// What the server shows as the name of these connections.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which database; 0 unless said.
    pub fn db(mut self, db: u8) -> Self {
        self.db = db;
        self
    }

    /// How long a request may take, connecting and retries included; 5 s unless said. The server is
    /// told, so that it does not do what nobody waits for.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt to connect may take; 2 s unless said.
    pub fn connect_deadline(mut self, deadline: Duration) -> Self {
        self.connect_deadline = deadline;
        self
    }

    /// Most connections; 4 unless said. They are made when needed. When all are taken, requests of
    /// the async client share them and those of the blocking one wait for one.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections.max(1);
        self
    }

    /// Most unanswered requests on a connection; 1024 unless said, and never more than the server
    /// takes. Further ones wait.
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.in_flight_max = requests.max(1);
        self
    }

    /// How often a request is tried again after its first attempt; 3 unless said. Reads are, and
    /// writes that were certainly not done. One whose fate is unknown is tried again until its
    /// deadline, if the server sees to it that it is done once, and else never.
    pub fn retries_max(mut self, retries: u32) -> Self {
        self.retries_max = retries;
        self
    }

    /// Whether the server is to do each write once, however often it is asked for; yes unless said.
    /// It costs the server some 90 bytes of its log and 70 of its memory for each write.
    pub fn exactly_once(mut self, yes: bool) -> Self {
        self.exactly_once = yes;
        self
    }

    /// While `flag` is true requests of a blocking client end: at once, or when a signal comes to
    /// the thread that waits, as its handler sets the flag. The error tells whether the request may
    /// have been done. (Drop the future of an async one.)
    #[cfg(feature = "blocking")]
    pub fn interrupted_by(mut self, flag: &'static AtomicBool) -> Self {
        self.interrupted = Interrupted(Some(flag));
        self
    }

    /// How long to wait before an attempt: `first`, then twice as long after each failure, at most
    /// `max`, and of that a random part of at least half, so that clients do not come all at once.
    /// 10 ms and 1 s unless said.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.backoff = Backoff { first, max };
        self
    }
}

/// The password is shown to nobody.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("db", &self.db)
            .field("deadline", &self.deadline)
            .field("connections_max", &self.connections_max)
            .field("retries_max", &self.retries_max)
            .finish_non_exhaustive()
    }
}
