//! The async client, on tokio.

mod conn;
mod pool;
mod scanner;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use self::pool::Pool;
pub use self::scanner::Scanner;
use crate::answer::{self, FAR};
use crate::changes::{Changes, Position, Rows};
use crate::error::{Code, Result};
use crate::op::{Ack, BatchOutcome, Item, Op, Outcome, ServerInfo};
use crate::options::Options;
use crate::retry::Attempts;
use crate::scan::Scan;
use crate::wire::{self, Asked, Request, Wishes};

/// The async client: cheap to clone, and to be shared.
///
/// Requests of all clones share a few connections; each is sent at once and answered as soon as the
/// server knows the answer, also out of order. A future that is dropped gives up waiting; what was
/// sent may still be done.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    deadline: Duration,
    db: u8,
    wishes: Wishes,
}

impl Client {
    /// A client of the server at `host:port`, with the defaults of [`Options`].
    ///
    /// # Errors
    /// No connection can be made, or the server refuses it.
    pub async fn connect(address: impl Into<String>) -> Result<Self> {
        Options::new(address).connect().await
    }

    pub(crate) fn new(options: Options) -> Self {
        let (deadline, db) = (options.deadline.min(FAR), options.db);
        Self { pool: Arc::new(Pool::new(options)), deadline, db, wishes: Wishes::default() }
    }

    /// The same client with another deadline for each request.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline: deadline.min(FAR), ..self.clone() }
    }

    /// The same client on another database.
    pub fn with_db(&self, db: u8) -> Self {
        Self { db, ..self.clone() }
    }

    /// The same client, whose reads of keys (not scans) may be old: the node that is asked answers
    /// them itself if what it has was current at most so long ago as it is configured to allow
    /// (`read-staleness-max`), and asks the keys' leaders otherwise.
    pub fn with_stale_reads(&self) -> Self {
        Self { wishes: Wishes { stale: true, ..self.wishes }, ..self.clone() }
    }

    /// The same client, whose answers on keys, of reads and writes, wait for this, whatever the
    /// server is set to. What is told before a majority has it may be lost, and the version that it
    /// names may then be another write's. A retry is as safe as ever: a write that was lost is done
    /// then, one that was not is not done again.
    pub fn with_ack(&self, ack: Ack) -> Self {
        Self { wishes: Wishes { ack: Some(ack), ..self.wishes }, ..self.clone() }
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// As any request.
    pub async fn server(&self) -> Result<ServerInfo> {
        let deadline = Instant::now() + self.deadline;
        let mut attempts = self.attempts(false, None);
        loop {
            match self.pool.get(deadline).await {
                Ok(conn) => return Ok(conn.server().clone()),
                Err(error) => wait(&mut attempts, error, deadline).await?,
            }
        }
    }

    /// Asks whether the server is there.
    ///
    /// # Errors
    /// It is not, or not for us.
    pub async fn ping(&self) -> Result<()> {
        self.call(&Request::Ping(&[]), wire::ping).await
    }

    /// Figures of the node, as `INFO` tells them; an empty section: the default ones.
    ///
    /// # Errors
    /// As any request.
    pub async fn info(&self, section: &str) -> Result<String> {
        self.call(&Request::Info(section), wire::info).await
    }

    /// Asks which nodes the cluster has, or changes it: an action and an answer in JSON, as the
    /// protocol says.
    ///
    /// # Errors
    /// As any request; a change that can not be is refused as `cluster_refused`.
    pub async fn cluster(&self, action: &str) -> Result<String> {
        self.call(&Request::Cluster(action), wire::info).await
    }

    /// What was done in a partition of a cluster behind a place of its log: of all databases, what
    /// a majority has, in order. The default position is the log's end: no changes, and where to
    /// go on from. Meant to be asked again and again; `changes` of the protocol says what it keeps.
    /// `cluster`: its id, 0: whichever it is.
    ///
    /// # Errors
    /// As any request; `too_old`: the log does not reach back to that place, or never had it;
    /// `cluster_refused`: it is another cluster, or none.
    pub async fn changes(
        &self,
        cluster: u128,
        partition: u32,
        position: Position,
    ) -> Result<Changes> {
        self.call(&Request::Changes { partition, cluster, position }, wire::changes).await
    }

    /// A page of the rows of a partition of a cluster, of all databases, in an order that is the
    /// same on all nodes; `from`: as the page before said, empty: the first.
    ///
    /// # Errors
    /// As [`Client::changes`].
    pub async fn copy(&self, cluster: u128, partition: u32, from: &[u8]) -> Result<Rows> {
        self.call(&Request::Copy { partition, cluster, from }, wire::rows).await
    }

    /// What a key holds; none: it is absent.
    ///
    /// # Errors
    /// As any request.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>> {
        let key = key.as_ref();
        self.call(&Request::Get { db: self.db, key }, wire::item).await
    }

    /// What several keys hold, each as of its own moment, in their order.
    ///
    /// # Errors
    /// As any request.
    pub async fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Item>>> {
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let count_max = match keys.is_empty() {
            true => return Ok(Vec::new()),
            false => self.server().await?.multi_get_count_max.max(1) as usize,
        };
        let mut items = Vec::with_capacity(keys.len());
        let mut parts: Vec<_> = keys.chunks(count_max).rev().collect();
        while let Some(keys) = parts.pop() {
            match self.call(&Request::MultiGet { db: self.db, keys }, wire::items).await {
                Ok(some) => items.extend(some),
                // The values are too long for one reply.
                Err(error) if keys.len() > 1 && error.code() == Some(Code::TooLarge) => {
                    let (head, tail) = keys.split_at(keys.len() / 2);
                    parts.extend([tail, head]);
                }
                // One alone is too long for that, but not for a get.
                Err(error) if error.code() == Some(Code::TooLarge) => {
                    items.push(self.get(keys[0]).await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    /// Gives a key a value, for good. [`Client::write`] knows more: time to live, conditions.
    ///
    /// # Errors
    /// As any write: look whether it is [`Error::Unknown`](crate::Error::Unknown).
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Outcome> {
        self.write(&Op::set(key.as_ref(), value.as_ref())).await
    }

    /// Removes a key.
    ///
    /// # Errors
    /// As any write: look whether it is [`Error::Unknown`](crate::Error::Unknown).
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Outcome> {
        self.write(&Op::delete(key.as_ref())).await
    }

    /// Does an op. A condition that does not hold is an error of which
    /// [`Error::unmet`](crate::Error::unmet) tells the key's version.
    ///
    /// # Errors
    /// As any write: look whether it is [`Error::Unknown`](crate::Error::Unknown).
    pub async fn write(&self, op: &Op<'_>) -> Result<Outcome> {
        self.call(&Request::Write { db: self.db, op }, wire::outcome).await
    }

    /// Does several ops of one partition, all or none, in order. Keys with the same `{hash tag}`
    /// are of one partition.
    ///
    /// # Errors
    /// As any write; [`Refusal::index`](crate::Refusal::index) says which op it is about.
    pub async fn batch(&self, ops: &[Op<'_>]) -> Result<BatchOutcome> {
        self.call(&Request::Batch { db: self.db, ops }, wire::batch_outcome).await
    }

    /// Walks over keys.
    pub fn scan(&self, scan: Scan) -> Scanner {
        Scanner::new(self.clone(), scan)
    }

    async fn call<T>(&self, request: &Request<'_>, decode: fn(Vec<u8>) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + self.deadline;
        let is_once = self.pool.options().exactly_once && request.may_be_once();
        let once = is_once.then(|| self.pool.names().next());
        let mut attempts = self.attempts(request.writes(), once);
        loop {
            let frame = self.attempt(request, &mut attempts, deadline).await;
            match frame.and_then(|frame| answer::decode(frame, decode)) {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    let error = if request.writes() { error } else { error.of_read() };
                    wait(&mut attempts, error, deadline).await?;
                }
            }
            attempts.renew(self.pool.names());
        }
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
        deadline: Instant,
    ) -> Result<wire::Frame> {
        let conn = self.pool.get(deadline).await?;
        let once = attempts.begin(conn.session_number())?;
        conn.exchange(&Asked { request: *request, once, wishes: self.wishes }, deadline).await
    }

    fn attempts(&self, writes: bool, once: Option<u64>) -> Attempts {
        let options = self.pool.options();
        Attempts::new(options.retries_max, options.backoff, writes, once)
    }
}

/// Waits until the next attempt.
///
/// # Errors
/// `error`, when there is none, or none in time.
async fn wait(attempts: &mut Attempts, error: crate::Error, deadline: Instant) -> Result<()> {
    match attempts.after(&error) {
        Some(delay) if Instant::now() + delay < deadline => {
            sleep(delay).await;
            Ok(())
        }
        _ => Err(attempts.last(error)),
    }
}

impl Options {
    /// An async client, once a connection is made.
    ///
    /// # Errors
    /// None can be made, or the server refuses it.
    pub async fn connect(self) -> Result<Client> {
        let client = Client::new(self);
        client.server().await?;
        Ok(client)
    }

    /// An async client that connects when it is first used.
    pub fn connect_lazily(self) -> Client {
        Client::new(self)
    }
}

/// The result of `future`, or an error when the deadline passes first.
async fn in_time<T>(
    deadline: Instant,
    awaited: &'static str,
    future: impl Future<Output = T>,
) -> Result<T> {
    timeout_at(deadline, future).await.map_err(|_| answer::late(awaited))
}
