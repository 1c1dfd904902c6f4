//! Sockets: a task per listener and per connection that turns readiness into events.
//!
//! Sockets are made with `socket2` and watched with glommio's `PollableFd`, not with its
//! `TcpListener`: that one has a fixed backlog, always shares its port and hides its descriptor.
//! Reads, writes and accepts are plain non-blocking calls of ours.
//!
//! A reader runs at most [`READ_AHEAD_MAX`] chunks ahead of the shard's loop, and not at all while
//! its connection is paused. A connection is freed at once when it is closed: its tasks hold it by
//! reference, see that it is closed, and end.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::timer::Timer;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Chunk, Core, io_error};
use crate::env::{Class, ConnId, Event, ListenerId, Sent, os};
use crate::limits::CONNECT_MAX;

/// Connections that the kernel may queue before we accept them.
const BACKLOG: i32 = 4096;
/// Most bytes of one chunk.
const CHUNK_LEN_MAX: usize = 32 << 10;
/// Most chunks of one connection that wait for one turn of the loop.
const READ_AHEAD_MAX: u32 = 2;
/// Connections accepted before others may run.
const ACCEPTS_MAX: usize = 64;
/// How long a listener rests after an error: out of descriptors, which only time can mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

struct Conn {
    id: ConnId,
    socket: PollableFd<TcpStream>,
    connecting: Cell<bool>,
    paused: Cell<bool>,
    /// The shard was told that no more comes.
    ended: Cell<bool>,
    closed: Cell<bool>,
    sending: Cell<bool>,
    /// Chunks given to the turn with this number.
    read_ahead: Cell<(u64, u32)>,
    reader: RefCell<Option<Waker>>,
}

struct Listener {
    socket: PollableFd<TcpListener>,
    open: Cell<bool>,
}

enum Place {
    Used(Rc<Conn>),
    /// The generation the next connection here gets.
    Free(u32),
}

/// All sockets of a shard.
#[derive(Default)]
pub struct Net {
    listeners: RefCell<Vec<Rc<Listener>>>,
    conns: RefCell<Vec<Place>>,
    free: RefCell<Vec<u32>>,
    /// Readers that wait for the loop to take what they read.
    ahead: RefCell<Vec<Waker>>,
    /// The number of the loop's turn.
    turn: Cell<u64>,
    buffer: RefCell<Vec<u8>>,
}

impl Conn {
    fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Makes everyone who waits for the socket look again. It may be gone already; then they do.
    fn shut(&self) {
        let _ = self.stream().shutdown(Shutdown::Both);
        self.wake_reader();
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// Ready when the reader may read or has to look why not.
    fn poll_may_read(&self, net: &Net, cx: &Context<'_>) -> Poll<()> {
        if self.ended.get() || self.closed.get() {
            return Poll::Ready(());
        }
        let (turn, chunks) = self.read_ahead.get();
        if turn == net.turn.get() && chunks >= READ_AHEAD_MAX {
            net.ahead.borrow_mut().push(cx.waker().clone());
            return Poll::Pending;
        }
        if self.paused.get() {
            *self.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// Binds and accepts from now on.
pub fn listen(
    core: &Rc<Core>,
    addr: SocketAddr,
    shared: bool,
) -> io::Result<(ListenerId, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(OwnedFd::from(socket));
    let bound = socket.local_addr()?;
    let socket = PollableFd::new(socket).map_err(io_error)?;
    let listener = Rc::new(Listener { socket, open: Cell::new(true) });
    let mut listeners = core.net.listeners.borrow_mut();
    let id = ListenerId(listeners.len() as u32);
    listeners.push(Rc::clone(&listener));
    core.spawn(Class::Foreground, accept(Rc::clone(core), listener, id));
    Ok((id, bound))
}

async fn accept(core: Rc<Core>, listener: Rc<Listener>, id: ListenerId) {
    while listener.open.get() {
        for _ in 0..ACCEPTS_MAX {
            let accepted = listener.socket.get_ref().accept();
            match accepted.and_then(|(stream, _)| core.net.insert(stream)) {
                Ok(conn) => {
                    core.emit(Event::Accepted { conn: conn.id, listener: id });
                    core.spawn(Class::Foreground, read(Rc::clone(&core), conn));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    Timer::new(ACCEPT_PAUSE).await;
                    break;
                }
            }
        }
        if listener.socket.readable().await.is_err() {
            return;
        }
    }
}

/// See [`crate::env::Env::connect`].
pub fn connect(core: &Rc<Core>, addr: SocketAddr) -> io::Result<ConnId> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let begun = match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        begun => begun,
    };
    let conn = core.net.insert(TcpStream::from(socket))?;
    conn.connecting.set(true);
    core.spawn(Class::Foreground, finish_connect(Rc::clone(core), Rc::clone(&conn), begun));
    Ok(conn.id)
}

async fn finish_connect(core: Rc<Core>, conn: Rc<Conn>, begun: io::Result<()>) {
    let made = match begun {
        Ok(()) => is_made(&conn).await,
        Err(error) => Err(error),
    };
    conn.connecting.set(false);
    match made {
        Ok(()) if !conn.closed.get() => {
            core.emit(Event::Connected { conn: conn.id });
            core.spawn(Class::Foreground, read(Rc::clone(&core), conn));
        }
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            if !conn.closed.get() && !conn.ended.replace(true) {
                core.emit(Event::Refused { conn: conn.id });
            }
        }
        Err(_) => end(&core, &conn),
    }
}

/// Waits until the kernel has connected `conn` or not, or the time is over.
async fn is_made(conn: &Conn) -> io::Result<()> {
    let mut writable = pin!(conn.socket.writable());
    let mut limit = Timer::new(CONNECT_MAX);
    let polled = poll_fn(|cx| match writable.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.is_ok()),
        Poll::Pending => Pin::new(&mut limit).poll(cx).map(|_| false),
    });
    let (is_in_time, stream) = (polled.await, conn.stream());
    match stream.take_error()? {
        Some(error) => Err(error),
        None if !is_in_time => Err(ErrorKind::TimedOut.into()),
        // It got its own port for a peer's on which nobody listens.
        None if os::is_connected_to_itself(stream) => Err(ErrorKind::ConnectionRefused.into()),
        None => Ok(()),
    }
}

async fn read(core: Rc<Core>, conn: Rc<Conn>) {
    loop {
        poll_fn(|cx| conn.poll_may_read(&core.net, cx)).await;
        if conn.ended.get() || conn.closed.get() {
            return;
        }
        match core.net.receive(&conn) {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => {
                let more = chunk.len() == CHUNK_LEN_MAX;
                core.emit(Event::Received { conn: conn.id, chunk });
                if more {
                    continue;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        if conn.socket.readable().await.is_err() {
            break;
        }
    }
    end(&core, &conn);
}

/// Tells the shard, once, that no more comes.
fn end(core: &Core, conn: &Conn) {
    if !conn.closed.get() && !conn.ended.replace(true) {
        core.emit(Event::Ended { conn: conn.id });
    }
}

/// The connection broke while sending: its reader may be paused and would not find out.
fn end_broken(core: &Core, conn: &Conn) {
    conn.shut();
    end(core, conn);
}

/// See [`crate::env::Env::send`].
pub fn send(core: &Rc<Core>, id: ConnId, buf: &mut Vec<u8>) -> Sent {
    let Some(conn) = core.net.open(id) else { return Sent::Broken };
    assert!(!conn.connecting.get(), "a send before {id:?} is connected");
    assert!(!conn.sending.get(), "two sends at once on {id:?}");
    let sent = match conn.stream().write(buf) {
        Ok(sent) if sent == buf.len() => {
            buf.clear();
            return Sent::Done;
        }
        Ok(sent) => sent,
        Err(error) if is_transient(&error) => 0,
        Err(_) => {
            end_broken(core, &conn);
            return Sent::Broken;
        }
    };
    conn.sending.set(true);
    let rest = send_rest(Rc::clone(core), conn, std::mem::take(buf), sent);
    core.spawn(Class::Foreground, rest);
    Sent::InFlight
}

async fn send_rest(core: Rc<Core>, conn: Rc<Conn>, mut buf: Vec<u8>, mut sent: usize) {
    while sent < buf.len() {
        let writable = conn.socket.writable().await;
        if conn.closed.get() {
            return;
        }
        match writable.map_err(io_error).and_then(|()| conn.stream().write(&buf[sent..])) {
            Ok(more) => sent += more,
            Err(error) if is_transient(&error) => {}
            Err(_) => {
                conn.sending.set(false);
                return end_broken(&core, &conn);
            }
        }
    }
    conn.sending.set(false);
    if !conn.closed.get() {
        buf.clear();
        core.emit(Event::Sent { conn: conn.id, buf });
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Net {
    fn insert(&self, stream: TcpStream) -> io::Result<Rc<Conn>> {
        stream.set_nonblocking(true)?;
        // Fails only on a connection that is already gone, which its reader will tell.
        let _ = stream.set_nodelay(true);
        let socket = PollableFd::new(stream).map_err(io_error)?;
        let mut conns = self.conns.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            conns.push(Place::Free(0));
            conns.len() as u32 - 1
        });
        let place = &mut conns[index as usize];
        let Place::Free(generation) = *place else { panic!("slot {index} is in use") };
        let conn = Rc::new(Conn {
            id: ConnId { index, generation },
            socket,
            connecting: Cell::new(false),
            paused: Cell::new(false),
            ended: Cell::new(false),
            closed: Cell::new(false),
            sending: Cell::new(false),
            read_ahead: Cell::default(),
            reader: RefCell::default(),
        });
        *place = Place::Used(Rc::clone(&conn));
        Ok(conn)
    }

    fn open(&self, id: ConnId) -> Option<Rc<Conn>> {
        match self.conns.borrow().get(id.index as usize)? {
            Place::Used(conn) if conn.id == id => Some(Rc::clone(conn)),
            _ => None,
        }
    }

    /// Reads what is there, at most a chunk; an empty one is the end.
    fn receive(&self, conn: &Conn) -> io::Result<Chunk> {
        let mut buffer = self.buffer.borrow_mut();
        buffer.resize(CHUNK_LEN_MAX, 0);
        let len = conn.stream().read(&mut buffer)?;
        let turn = self.turn.get();
        let (of_turn, chunks) = conn.read_ahead.get();
        conn.read_ahead.set((turn, if of_turn == turn { chunks + 1 } else { 1 }));
        Ok(buffer[..len].into())
    }

    /// The loop took all events: readers may go on.
    pub fn read_on(&self, turn: u64) {
        self.turn.set(turn);
        self.ahead.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Whether the connection that `event` is about is still open.
    pub fn is_current(&self, event: &Event<Chunk>) -> bool {
        let (Event::Accepted { conn, .. }
        | Event::Connected { conn }
        | Event::Received { conn, .. }
        | Event::Sent { conn, .. }
        | Event::Refused { conn }
        | Event::Ended { conn }) = event;
        self.open(*conn).is_some()
    }

    /// Stops accepting.
    pub fn close_listeners(&self) {
        for listener in self.listeners.borrow().iter() {
            if listener.open.replace(false) {
                // Makes the kernel refuse clients from here on, and the accepting task look.
                let _ = SockRef::from(listener.socket.get_ref()).shutdown(Shutdown::Both);
            }
        }
    }

    /// See [`crate::env::Env::pause`].
    pub fn pause(&self, id: ConnId) {
        if let Some(conn) = self.open(id) {
            conn.paused.set(true);
        }
    }

    /// See [`crate::env::Env::resume`].
    pub fn resume(&self, id: ConnId) {
        if let Some(conn) = self.open(id) {
            conn.paused.set(false);
            conn.wake_reader();
        }
    }

    /// See [`crate::env::Env::close`].
    pub fn close(&self, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        conn.closed.set(true);
        conn.shut();
        self.conns.borrow_mut()[id.index as usize] = Place::Free(id.generation.wrapping_add(1));
        self.free.borrow_mut().push(id.index);
    }

    /// Closes whatever is open: the shard ends, its tasks have.
    pub fn close_all(&self) {
        self.close_listeners();
        self.listeners.borrow_mut().clear();
        self.conns.borrow_mut().clear();
        self.free.borrow_mut().clear();
        self.ahead.borrow_mut().clear();
    }

    /// The peer of an open connection.
    pub fn peer_addr(&self, id: ConnId) -> Option<SocketAddr> {
        self.open(id)?.stream().peer_addr().ok()
    }
}
