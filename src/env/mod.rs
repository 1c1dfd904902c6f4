//! The one seam: everything a shard gets from outside itself. Clock, chance, tasks, files, sockets
//! and the wake-up from another core.
//!
//! All code above this layer is generic over one `E: Env` and runs unchanged on the production
//! reactor and on the simulator's seeded one. An `Env` is a cheap handle to the runtime of *one*
//! shard; it never leaves its thread. Only [`Env::Waker`] does.
//!
//! Two styles meet here on purpose. Sockets are *events*: the shard's loop takes all that arrived
//! since its last turn in one batch ([`Env::turn`]), so that one turn's writes become one log
//! entry, keys of many connections are prefetched together, and no task is woken per request. A
//! task per connection cost 10-15 % of the CPU per request at pipeline 1. Files are *futures*:
//! what awaits them (the log, replay, flushes) has a program counter worth keeping.
//!
//! Invariants every implementation keeps:
//! * A buffer given to an operation belongs to the runtime until the operation ends, also when the
//!   future is dropped. A dropped write may or may not reach the disk.
//! * After [`Env::close`] no event names that connection again; a [`ConnId`] is never reused.
//! * A connection has at most one send in flight.
//!
//! Not here: framing, commands, replies ([`crate::protocol`]); what a file means.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the seam itself: what is behind it is the operating system"
)]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

mod aligned;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod machine;
pub mod os;
mod plain;
pub mod process;
pub mod uring;

pub use aligned::Aligned;

/// A connection of this shard, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Dense and reused: fit for indexing a table.
    pub index: u32,
    /// Rises each time the index is reused.
    pub generation: u32,
}

/// A listening socket of this shard, numbered from 0 in the order of [`Env::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// What happened on a socket since the last turn.
#[derive(Debug)]
pub enum Event<C> {
    /// A client connected; it is being read from.
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// Where it came in.
        listener: ListenerId,
    },
    /// What [`Env::connect`] began is done: it is being read from and may be sent to.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// Bytes arrived. Give the chunk back soon (drop it): receive buffers are shared and few.
    Received {
        /// From whom.
        conn: ConnId,
        /// At least one byte.
        chunk: C,
    },
    /// A send that [`Env::send`] left in flight has ended, all of it sent.
    Sent {
        /// To whom.
        conn: ConnId,
        /// The buffer, cleared, for reuse.
        buf: Vec<u8>,
    },
    /// What [`Env::connect`] began came to nothing at once: nobody listens there, or a firewall
    /// says so. Then [`Env::close`].
    Refused {
        /// The connection that is none.
        conn: ConnId,
    },
    /// The peer sends no more (end of stream or an error), or [`Env::connect`] was not answered.
    /// What is still to be sent may be tried; then [`Env::close`]. Comes a second time when a send
    /// in flight was given up: its [`Event::Sent`] will not come.
    Ended {
        /// Who.
        conn: ConnId,
    },
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it is with the kernel; the buffer is empty again.
    Done,
    /// The socket is full: the runtime took the buffer and [`Event::Sent`] gives it back.
    InFlight,
    /// The connection is broken; [`Event::Ended`] has come or will come.
    Broken,
}

/// How urgent a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Requests wait for it: run in the turn in which it wakes.
    Foreground,
    /// Runs in a time slice per turn, and must yield at least every 100 us or so.
    Background,
}

/// How a file is opened. All I/O is direct: offsets and lengths are multiples of
/// [`crate::limits::SECTOR_LEN`], buffers are [`Aligned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Must exist; reading only.
    Read,
    /// Must exist; reading and writing.
    Write,
    /// Must not exist; created empty, reading and writing. Durable after [`Env::sync_dir`].
    Create,
}

/// What the runtime of a shard counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Times the core went to sleep.
    pub parks: u64,
    /// Times a task held the core for more than [`crate::limits::STALL_MIN`].
    pub stalls: u64,
    /// Tasks that panicked; each was contained.
    pub panics: u64,
}

/// Wakes one shard from any thread.
pub trait Wake: Clone + Send + Sync + 'static {
    /// Makes the shard's next or current [`Env::turn`] return. Cheap when it is awake.
    fn wake(&self);
}

/// The runtime of one shard. See the module's header.
pub trait Env: Clone + 'static {
    /// An open file.
    type File: File;
    /// Received bytes, in a buffer of the runtime's.
    type Chunk: Deref<Target = [u8]> + 'static;
    /// Wakes this shard from elsewhere.
    type Waker: Wake;

    /// Monotonic time since some start; one start for all shards of a process.
    fn now(&self) -> Duration;

    /// Wall time, unix milliseconds. May jump.
    fn unix_ms(&self) -> u64;

    /// A random number; in the simulator from the seed.
    fn random(&self) -> u64;

    /// Runs `task` on this shard. A panic in it ends that task alone and is counted.
    fn spawn(&self, class: Class, task: impl Future<Output = ()> + 'static);

    /// Ends after `duration`; the class of the task that awaits decides how punctually.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// Lets others run first.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;

    /// Waits until something happened, then appends all socket events since the last turn to
    /// `events`; none if it was [`Env::notify`] or [`Wake::wake`] that ended the wait. For the one
    /// task that is the shard's loop.
    fn turn(&self, events: &mut Vec<Event<Self::Chunk>>) -> impl Future<Output = ()>;

    /// Makes the next [`Env::turn`] return at once: for tasks of this shard that have news for the
    /// loop.
    fn notify(&self);

    /// Wakes this shard from another.
    fn waker(&self) -> Self::Waker;

    /// What the runtime counted.
    fn counters(&self) -> Counters;

    /// Listens on `addr` (port 0: any free one) and accepts from now on. With `shared`, every
    /// shard may listen on the same port and the kernel spreads the connections.
    ///
    /// # Errors
    /// As `bind` and `listen`.
    fn listen(&self, addr: SocketAddr, shared: bool) -> io::Result<(ListenerId, SocketAddr)>;

    /// Stops accepting everywhere on this shard.
    fn close_listeners(&self);

    /// Begins to connect to `addr`. [`Event::Connected`] tells that it is done, after which this is
    /// a connection as those accepted are; [`Event::Refused`] that nobody listens there;
    /// [`Event::Ended`] without either that no answer came, after [`crate::limits::CONNECT_MAX`] at
    /// the latest. Nothing may be sent before; what was begun is given up by [`Env::close`].
    ///
    /// # Errors
    /// As `socket`: out of descriptors.
    fn connect(&self, addr: SocketAddr) -> io::Result<ConnId>;

    /// Sends all of `buf`. [`Sent::Done`]: sent, `buf` is cleared and keeps its capacity.
    /// [`Sent::InFlight`]: `buf` was taken (is now an empty one); send no more on `conn` until
    /// [`Event::Sent`].
    fn send(&self, conn: ConnId, buf: &mut Vec<u8>) -> Sent;

    /// Stops reading from `conn` until [`Env::resume`]; a few chunks may still come.
    fn pause(&self, conn: ConnId);

    /// Reads on.
    fn resume(&self, conn: ConnId);

    /// Closes `conn`. Unsent bytes in flight are given up.
    fn close(&self, conn: ConnId);

    /// The other end's address, if the connection is still there to ask.
    fn peer_addr(&self, conn: ConnId) -> Option<SocketAddr>;

    /// Opens a file.
    ///
    /// # Errors
    /// As `open`.
    fn open(&self, path: &Path, mode: Mode) -> impl Future<Output = io::Result<Self::File>>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As `readdir`.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>>;

    /// Bytes that are free for us on the file system of a directory, as it says. A quota may leave
    /// less, and others may take them before we do.
    ///
    /// # Errors
    /// As `statvfs`.
    fn free_len(&self, dir: &Path) -> io::Result<u64>;

    /// Creates a directory and its parents; fine if it is there.
    ///
    /// # Errors
    /// As `mkdir`.
    fn create_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;

    /// Renames over whatever is at `to`. Durable after [`Env::sync_dir`].
    ///
    /// # Errors
    /// As `rename`.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;

    /// Gives a file another name, which must be free, besides the one it has. Durable after
    /// [`Env::sync_dir`].
    ///
    /// # Errors
    /// As `link`.
    fn link(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;

    /// Removes a file. Durable after [`Env::sync_dir`].
    ///
    /// # Errors
    /// As `unlink`.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;

    /// Makes names created, renamed or removed in `dir` durable.
    ///
    /// # Errors
    /// As `fsync`.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
}

/// An open file; a handle that clones cheaply and closes with its last clone.
pub trait File: Clone + 'static {
    /// Reads `len` bytes at `offset` into the start of `buf`; fewer only at the end of the file.
    /// `len` and `offset` are multiples of a sector, `len` is at most the buffer's capacity.
    fn read_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static;

    /// Writes the first `len` bytes of `buf` at `offset`. With `durable` they are on stable
    /// storage when the future ends (RWF_DSYNC). A short count is possible and means a full disk
    /// or a broken one.
    fn write_at(
        &self,
        buf: Aligned,
        len: usize,
        offset: u64,
        durable: bool,
    ) -> impl Future<Output = (io::Result<usize>, Aligned)> + 'static;

    /// Makes all ended writes and the length durable (fdatasync). After an error what is on disk
    /// is unknown; never retry.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static;

    /// Cuts the file to `len` bytes, whole sectors and no more than it has, and gives the room
    /// back. Before [`File::sync`] a power cut leaves either length, or one between; what is
    /// before `len` is untouched whatever happens.
    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>> + 'static;

    /// The length in bytes.
    ///
    /// # Errors
    /// As `fstat`.
    fn size(&self) -> io::Result<u64>;
}

#[cfg(test)]
pub(crate) mod tests;
