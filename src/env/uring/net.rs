//! Sockets: multishot accept, connects with a time limit, receives into provided buffers, direct
//! sends.
//!
//! A send is tried at once with `MSG_DONTWAIT`: at pipeline 1 that is cheaper than a request on the
//! ring (6.8 against 7.5 us of CPU per operation), and only what the socket does not take becomes
//! one. A slot is freed when its receive has posted its last completion *and* no send or connect
//! is in flight: a slot freed earlier hung clients.
#![expect(unsafe_code, reason = "descriptors, addresses and send buffers are passed to the kernel")]

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use io_uring::{opcode, squeue, types};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::moderation::Moderation;
use super::ring::{BUFFER_GROUP, Chunk, Completion, Ring, fd};
use super::tag::{Kind, tag};
use crate::env::{ConnId, Event, ListenerId, Sent, os};
use crate::limits::CONNECT_MAX;

/// Connections that the kernel may queue before we accept them.
const BACKLOG: i32 = 4096;
/// The kernel reads it when the request is submitted.
static CONNECT_LIMIT: types::Timespec =
    types::Timespec::new().sec(CONNECT_MAX.as_secs()).nsec(CONNECT_MAX.subsec_nanos());

struct Conn {
    stream: TcpStream,
    generation: u32,
    /// See [`Moderation::note`].
    seen: u32,
    /// The kernel is connecting to it.
    connecting: Option<Box<SockAddr>>,
    /// A receive is with the kernel.
    receiving: bool,
    paused: bool,
    /// The peer sends no more, and the shard was told.
    ended: bool,
    /// The shard closed it; only completions are awaited.
    closing: bool,
    /// Being sent by the kernel: buffer and how much of it went.
    sending: Option<(Vec<u8>, usize)>,
}

enum Place {
    Used(Conn),
    /// The generation the next connection here gets.
    Free(u32),
}

/// All sockets of a shard.
#[derive(Default)]
pub struct Net {
    listeners: Vec<Option<TcpListener>>,
    conns: Vec<Place>,
    free: Vec<u32>,
    /// Receives to be asked for again: out of buffers, or single-shot.
    unarmed: Vec<u32>,
    /// Listeners that met an error (out of descriptors); tried again when a connection is freed.
    deaf: Vec<u32>,
}

impl Net {
    /// Binds and asks for connections.
    pub fn listen(
        &mut self,
        ring: &mut Ring,
        addr: SocketAddr,
        shared: bool,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(OwnedFd::from(socket));
        let bound = listener.local_addr()?;
        self.listeners.push(Some(listener));
        let id = ListenerId(self.listeners.len() as u32 - 1);
        self.accept(ring, id.0);
        Ok((id, bound))
    }

    /// Stops accepting.
    pub fn close_listeners(&mut self, ring: &mut Ring) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.take().is_some() {
                cancel(ring, tag(Kind::Accept, index as u32, 0));
            }
        }
    }

    fn accept(&self, ring: &mut Ring, index: u32) {
        let Some(listener) = &self.listeners[index as usize] else { return };
        let entry = opcode::AcceptMulti::new(fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(tag(Kind::Accept, index, 0));
        // SAFETY: names no memory.
        unsafe { ring.push(&entry) };
    }

    /// A connection was accepted, or accepting failed (out of descriptors, cancelled).
    pub fn on_accept(
        &mut self,
        ring: &mut Ring,
        listener: u32,
        done: Completion,
        events: &mut Vec<Event<Chunk>>,
    ) {
        if done.result >= 0 {
            // SAFETY: the kernel just gave us this descriptor; nobody else has it.
            let stream = unsafe { TcpStream::from_raw_fd(done.result) };
            if self.listeners[listener as usize].is_some() {
                // Fails only on a connection that is already gone, which its receive will tell.
                let _ = stream.set_nodelay(true);
                let conn = self.insert(stream);
                self.receive(ring, conn.index);
                events.push(Event::Accepted { conn, listener: ListenerId(listener) });
            }
        }
        if !done.more() && done.result >= 0 {
            self.accept(ring, listener);
        } else if !done.more() {
            self.deaf.push(listener);
        }
    }

    /// See [`crate::env::Env::connect`].
    pub fn connect(&mut self, ring: &mut Ring, addr: SocketAddr) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let socket = fd(stream.as_raw_fd());
        let id = self.insert(stream);
        let conn = self.used(id.index).expect("just inserted");
        let target = conn.connecting.insert(Box::new(addr.into()));
        let connect = opcode::Connect::new(socket, target.as_ptr().cast(), target.len())
            .build()
            .flags(squeue::Flags::IO_LINK)
            .user_data(tag(Kind::Connect, id.index, id.generation));
        let limit =
            opcode::LinkTimeout::new(&CONNECT_LIMIT).build().user_data(tag(Kind::Nobody, 0, 0));
        // SAFETY: the slot owns the address until `on_connect` saw the completion; slots are not
        // freed before. The limit is a static.
        unsafe { ring.push_all(&[connect, limit]) };
        Ok(id)
    }

    /// A connection was made, or was not.
    pub fn on_connect(
        &mut self,
        ring: &mut Ring,
        index: u32,
        done: Completion,
        events: &mut Vec<Event<Chunk>>,
    ) {
        let conn = self.used(index).expect("a slot lives until its connect ends");
        conn.connecting = None;
        if conn.closing {
            return self.free_if_done(index);
        }
        let id = ConnId { index, generation: conn.generation };
        // Who is connected to itself got its own port for a peer's on which nobody listens.
        let is_refused =
            done.result == -libc::ECONNREFUSED || os::is_connected_to_itself(&conn.stream);
        if is_refused || done.result < 0 {
            conn.ended = true;
            return events.push(match is_refused {
                true => Event::Refused { conn: id },
                false => Event::Ended { conn: id },
            });
        }
        events.push(Event::Connected { conn: id });
        self.receive(ring, index);
    }

    fn insert(&mut self, stream: TcpStream) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(Place::Free(0));
            self.conns.len() as u32 - 1
        });
        let place = &mut self.conns[index as usize];
        let Place::Free(generation) = *place else { panic!("slot {index} is in use") };
        *place = Place::Used(Conn {
            stream,
            generation,
            seen: 0,
            connecting: None,
            receiving: false,
            paused: false,
            ended: false,
            closing: false,
            sending: None,
        });
        ConnId { index, generation }
    }

    fn used(&mut self, index: u32) -> Option<&mut Conn> {
        match self.conns.get_mut(index as usize)? {
            Place::Used(conn) => Some(conn),
            Place::Free(_) => None,
        }
    }

    fn open(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.used(id.index).filter(|conn| conn.generation == id.generation && !conn.closing)
    }

    fn receive(&mut self, ring: &mut Ring, index: u32) {
        let multishot = ring.features().multishot_recv;
        let Some(conn) = self.used(index) else { return };
        let waits = conn.connecting.is_some() || conn.paused;
        if conn.receiving || waits || conn.ended || conn.closing {
            return;
        }
        conn.receiving = true;
        let socket = fd(conn.stream.as_raw_fd());
        let entry = if multishot {
            opcode::RecvMulti::new(socket, BUFFER_GROUP).build()
        } else {
            opcode::Recv::new(socket, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        // SAFETY: the buffers it will pick belong to the ring's pool, which lives with the ring.
        unsafe { ring.push(&entry.user_data(tag(Kind::Recv, index, conn.generation))) };
    }

    /// Bytes, the end, or an error came.
    pub fn on_recv(
        &mut self,
        ring: &mut Ring,
        index: u32,
        done: Completion,
        events: &mut Vec<Event<Chunk>>,
        moderation: &mut Moderation,
    ) {
        let chunk = ring.chunk(done.flags, done.result.max(0) as u32);
        let conn = self.used(index).expect("a slot lives until its receive ends");
        let id = ConnId { index, generation: conn.generation };
        if !conn.closing
            && let Some(chunk) = chunk
            && done.result > 0
        {
            moderation.note(&mut conn.seen);
            events.push(Event::Received { conn: id, chunk });
        }
        if done.more() {
            return;
        }
        conn.receiving = false;
        if conn.closing {
            return self.free_if_done(index);
        }
        match done.result {
            1.. => self.receive(ring, index),
            result if result == -libc::ENOBUFS => self.unarmed.push(index),
            result if result == -libc::ECANCELED && !conn.paused => self.unarmed.push(index),
            result if result == -libc::ECANCELED => {}
            _ => {
                conn.ended = true;
                events.push(Event::Ended { conn: id });
            }
        }
    }

    /// Asks again for receives that ran out of buffers; after buffers were given back.
    pub fn rearm(&mut self, ring: &mut Ring) {
        if !self.free.is_empty() {
            for listener in std::mem::take(&mut self.deaf) {
                self.accept(ring, listener);
            }
        }
        for index in std::mem::take(&mut self.unarmed) {
            self.receive(ring, index);
        }
    }

    /// Whether some receive waits for buffers.
    pub fn is_starved(&self) -> bool {
        !self.unarmed.is_empty()
    }

    /// See [`crate::env::Env::send`].
    pub fn send(&mut self, ring: &mut Ring, id: ConnId, buf: &mut Vec<u8>) -> Sent {
        let Some(conn) = self.open(id) else { return Sent::Broken };
        assert!(conn.connecting.is_none(), "a send before {id:?} is connected");
        assert!(conn.sending.is_none(), "two sends at once on {id:?}");
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = match SockRef::from(&conn.stream).send_with_flags(buf, flags) {
            Ok(sent) if sent == buf.len() => {
                buf.clear();
                return Sent::Done;
            }
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                shut(conn);
                return Sent::Broken;
            }
        };
        conn.sending = Some((std::mem::take(buf), sent));
        Self::send_rest(conn, ring, id.index);
        Sent::InFlight
    }

    fn send_rest(conn: &mut Conn, ring: &mut Ring, index: u32) {
        let (buf, sent) = conn.sending.as_ref().expect("called with a send in flight");
        let rest = &buf[*sent..];
        let entry =
            opcode::Send::new(fd(conn.stream.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                .build()
                .user_data(tag(Kind::Send, index, conn.generation));
        // SAFETY: the slot owns the buffer, unchanged, until `on_send` saw the completion; slots
        // are not freed before.
        unsafe { ring.push(&entry) };
    }

    /// A send ended, in part or whole or in error.
    pub fn on_send(
        &mut self,
        ring: &mut Ring,
        index: u32,
        done: Completion,
        events: &mut Vec<Event<Chunk>>,
    ) {
        let conn = self.used(index).expect("a slot lives until its send ends");
        let (buf, sent) = conn.sending.as_mut().expect("a send was in flight");
        *sent += done.result.max(0) as usize;
        if done.result > 0 && *sent < buf.len() && !conn.closing {
            return Self::send_rest(conn, ring, index);
        }
        let (mut buf, sent) = conn.sending.take().expect("looked at above");
        if conn.closing {
            return self.free_if_done(index);
        }
        if sent < buf.len() {
            // The receive will report the end, or has: this is the word that nothing is sent.
            shut(conn);
            let id = ConnId { index, generation: conn.generation };
            events.push(Event::Ended { conn: id });
            if !conn.receiving && !std::mem::replace(&mut conn.ended, true) {
                // Paused: no receive will report anything.
                events.push(Event::Ended { conn: id });
            }
            return;
        }
        buf.clear();
        let conn = ConnId { index, generation: conn.generation };
        events.push(Event::Sent { conn, buf });
    }

    /// See [`crate::env::Env::pause`].
    pub fn pause(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        conn.paused = true;
        if conn.receiving {
            cancel(ring, tag(Kind::Recv, id.index, id.generation));
        }
    }

    /// See [`crate::env::Env::resume`].
    pub fn resume(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        conn.paused = false;
        self.receive(ring, id.index);
    }

    /// See [`crate::env::Env::close`].
    pub fn close(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        conn.closing = true;
        shut(conn);
        if conn.connecting.is_some() {
            cancel(ring, tag(Kind::Connect, id.index, id.generation));
        }
        self.free_if_done(id.index);
    }

    /// Closes whatever is open: the shard ends.
    pub fn close_all(&mut self, ring: &mut Ring) {
        self.close_listeners(ring);
        for index in 0..self.conns.len() as u32 {
            if let Place::Used(conn) = &self.conns[index as usize] {
                let generation = conn.generation;
                self.close(ring, ConnId { index, generation });
            }
        }
    }

    /// Whether the kernel is done with all connections.
    pub fn is_quiet(&self) -> bool {
        self.free.len() == self.conns.len()
    }

    /// The peer of an open connection.
    pub fn peer_addr(&mut self, id: ConnId) -> Option<SocketAddr> {
        self.open(id)?.stream.peer_addr().ok()
    }

    fn free_if_done(&mut self, index: u32) {
        let place = &mut self.conns[index as usize];
        let Place::Used(conn) = place else { return };
        if conn.receiving || conn.sending.is_some() || conn.connecting.is_some() {
            return;
        }
        *place = Place::Free(conn.generation.wrapping_add(1));
        self.free.push(index);
    }
}

/// Makes every request on the socket end. It may be gone already; then they end anyway.
fn shut(conn: &Conn) {
    let _ = conn.stream.shutdown(Shutdown::Both);
}

fn cancel(ring: &mut Ring, target: u64) {
    let entry = opcode::AsyncCancel::new(target).build().user_data(tag(Kind::Nobody, 0, 0));
    // SAFETY: names no memory.
    unsafe { ring.push(&entry) };
}
