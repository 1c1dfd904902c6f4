//! One connection: a task that owns the socket, and the handle that requests come through.
//!
//! A request is in one of three places: in the queue (it can be taken back), in the session (some
//! of it may have left), or answered. So at a deadline we know whether it may have been done.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::in_time;
use crate::answer::{Greeting, Next, check_len, hello, late, server_deadline};
use crate::error::{Error, Reason, Result};
use crate::once::Names;
use crate::op::ServerInfo;
use crate::options::Options;
use crate::wire::session::{OUTPUT_LEN, Session};
use crate::wire::{self, Asked, Frame};

/// A request in the queue.
const QUEUED: u8 = 0;
/// Given to the session: it may leave, or has.
const TAKEN: u8 = 1;
/// Given up before that.
const WITHDRAWN: u8 = 2;

/// After so long without a byte while requests are under way a connection is given up, once one of
/// them is past its deadline. Milliseconds.
const SILENCE_MS_MAX: u64 = 1000;

/// The handle of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    queue: mpsc::UnboundedSender<Message>,
    /// One for each request that may be under way; so the queue is bounded too.
    places: Arc<Semaphore>,
    server: ServerInfo,
    /// Which of the client's sessions it is in; 0: none.
    session_number: u64,
    names: Arc<Names>,
    pulse: Arc<Pulse>,
}

/// Since when nothing moved although something is under way: a server that is silent for long is
/// gone, even if the network does not tell.
#[derive(Debug)]
struct Pulse {
    begin: Instant,
    /// Milliseconds since `begin`, plus one; 0: nothing is under way.
    since_ms: AtomicU64,
    /// It has answered a request.
    answered: AtomicBool,
}

impl Pulse {
    fn new() -> Self {
        let (since_ms, answered) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { begin: Instant::now(), since_ms, answered }
    }

    fn now_ms(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64 + 1
    }

    fn beat(&self, under_way: bool) {
        let since_ms = if under_way { self.now_ms() } else { 0 };
        self.since_ms.store(since_ms, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        since_ms != 0 && self.now_ms() - since_ms >= SILENCE_MS_MAX
    }
}

#[derive(Debug)]
enum Message {
    Request(Outgoing),
    /// Nothing comes any more: close it.
    Retire,
}

#[derive(Debug)]
struct Outgoing {
    id: u64,
    opcode: u8,
    frame: Vec<u8>,
    state: Arc<AtomicU8>,
    waiter: Waiter,
}

/// Who waits for a reply.
#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<Frame>>,
    /// Held until the server has answered, even if nobody waits any more.
    _place: OwnedSemaphorePermit,
}

/// Connects and says hello.
pub(super) async fn connect(options: &Options, names: &Arc<Names>) -> Result<Conn> {
    let session = options.exactly_once.then(|| names.session());
    let hello = hello(options, session)?;
    let address = names.address(options);
    let failed = |error: io::Error| Error::connect(address, &error);
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.write_all(&hello).await.map_err(failed)?;
    let greeting = Greeting::new(names, session);
    let greeted = greet(&mut stream, greeting, address).await.map_err(Error::of_read);
    let (server, session_number) = greeted?;
    let (queue, requests) = mpsc::unbounded_channel();
    let in_flight_max = options.in_flight_max.min(server.in_flight_max.max(1) as usize);
    let conn = Conn {
        queue,
        places: Arc::new(Semaphore::new(in_flight_max)),
        server,
        session_number,
        names: Arc::clone(names),
        pulse: Arc::new(Pulse::new()),
    };
    let (session, pulse) = (Session::default(), conn.pulse.clone());
    let buffer = vec![0; OUTPUT_LEN].into();
    let drive = Drive { stream, requests, session, pulse, buffer, closing: false };
    tokio::spawn(drive.run());
    Ok(conn)
}

/// Reads the replies to the hello and what came with it.
async fn greet(
    stream: &mut TcpStream,
    mut greeting: Greeting<'_>,
    address: &str,
) -> Result<(ServerInfo, u64)> {
    loop {
        match greeting.next()? {
            Next::Done(server, session) => return Ok((server, session)),
            Next::Send(bytes) => {
                let sent = stream.write_all(&bytes).await;
                sent.map_err(|error| Error::connect(address, &error))?;
            }
            Next::Read => {}
        }
        let read = stream.read_buf(greeting.input()).await;
        match read {
            Ok(0) => {
                let error = io::Error::new(io::ErrorKind::ConnectionReset, "closed by the server");
                return Err(Error::connect(address, &error));
            }
            Ok(_) => {}
            Err(error) => return Err(Error::connect(address, &error)),
        }
    }
}

impl Conn {
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Which of the client's sessions it is in; 0: none.
    pub fn session_number(&self) -> u64 {
        self.session_number
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Whether it was good for anything yet.
    pub fn has_answered(&self) -> bool {
        self.pulse.answered.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for its answer.
    pub async fn exchange(&self, asked: &Asked<'_>, deadline: Instant) -> Result<Frame> {
        let request = &asked.request;
        check_len(request, self.server.body_len_max)?;
        let closed = || Error::NotDone(Reason::ConnectionLost("it was closed".to_owned()));
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let place = self.places.clone().acquire_owned();
                in_time(deadline, "a place on a connection", place).await?.map_err(|_| closed())?
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let id = asked.once.unwrap_or_else(|| self.names.next());
        let mut frame = Vec::with_capacity(wire::HEADER_LEN + request.body_len() as usize);
        asked.put(id, server_deadline(left), &mut frame);
        let state = Arc::new(AtomicU8::new(QUEUED));
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { reply, _place: place };
        let opcode = request.opcode();
        let outgoing = Outgoing { id, opcode, frame, state: state.clone(), waiter };
        self.queue.send(Message::Request(outgoing)).map_err(|_| closed())?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // The task ended without a word, as when the runtime does.
            Ok(Err(_)) => {
                let reason = Reason::ConnectionLost("its task is gone".to_owned());
                Err(Error::lost(!withdraw(&state), reason))
            }
            Err(_) if withdraw(&state) => Err(late("the request to be sent")),
            Err(_) => {
                if self.pulse.is_gone() {
                    // If it ended meanwhile, all the better.
                    let _ = self.queue.send(Message::Retire);
                }
                Err(Error::Unknown(Reason::Deadline { awaited: "the reply" }))
            }
        }
    }
}

/// Takes a request out of the queue; false: it is too late for that.
fn withdraw(state: &AtomicU8) -> bool {
    state.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// The task: queue to socket, socket to waiters.
struct Drive {
    stream: TcpStream,
    requests: mpsc::UnboundedReceiver<Message>,
    session: Session<Waiter>,
    pulse: Arc<Pulse>,
    buffer: Box<[u8]>,
    /// All handles are gone; what is under way is finished.
    closing: bool,
}

impl Drive {
    async fn run(mut self) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        // From here on nothing is sent, so what has not left will not.
        self.requests.close();
        let text = end.err().unwrap_or_default();
        for (waiter, sent) in self.session.lose() {
            let lost = Error::lost(sent, Reason::ConnectionLost(text.clone()));
            // Nobody may wait any more.
            let _ = waiter.reply.send(Err(lost));
        }
        while let Some(message) = self.requests.recv().await {
            if let Message::Request(outgoing) = message {
                let lost = Error::NotDone(Reason::ConnectionLost(text.clone()));
                let _ = outgoing.waiter.reply.send(Err(lost));
            }
        }
    }

    /// Ready when the connection has ended; the error says why.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), String>> {
        loop {
            let idle = self.session.in_flight() == 0;
            let taken = self.poll_queue(cx)?;
            let wrote = self.poll_write(cx)?;
            let read = self.poll_read(cx)?;
            let under_way = self.session.in_flight() > 0;
            // That the system took a whole small request says nothing of the server.
            let uploads = wrote && !self.session.output().is_empty();
            if read || uploads || (idle && under_way) {
                self.pulse.beat(under_way);
            }
            if self.closing && self.session.in_flight() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !taken && !wrote && !read {
                return Poll::Pending;
            }
        }
    }

    /// Takes requests while there is room; true if any came. Without room, the socket wakes us.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> std::result::Result<bool, String> {
        let mut any = false;
        while !self.closing && self.session.output().len() < OUTPUT_LEN {
            match self.requests.poll_recv(cx) {
                Poll::Ready(Some(Message::Request(outgoing))) => {
                    any = true;
                    let Outgoing { id, opcode, frame, state, waiter } = outgoing;
                    let taken =
                        state.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire);
                    if taken.is_ok() {
                        let put = |out: &mut Vec<u8>| match out.is_empty() {
                            true => *out = frame,
                            false => out.extend_from_slice(&frame),
                        };
                        self.session.push(id, opcode, waiter, put);
                    }
                }
                Poll::Ready(Some(Message::Retire)) => return Err("no answer in time".to_owned()),
                Poll::Ready(None) => self.closing = true,
                Poll::Pending => break,
            }
        }
        Ok(any)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> std::result::Result<bool, String> {
        if self.session.output().is_empty() {
            return Ok(false);
        }
        match Pin::new(&mut self.stream).poll_write(cx, self.session.output()) {
            Poll::Ready(Ok(len)) => {
                self.session.sent(len);
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> std::result::Result<bool, String> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                return Err("closed by the server".to_owned());
            }
            Poll::Ready(Ok(())) => self.session.received(buffer.filled()),
            Poll::Ready(Err(error)) => return Err(error.to_string()),
            Poll::Pending => return Ok(false),
        }
        while let Some((waiter, frame)) = self.session.reply()? {
            self.pulse.answered.store(true, Ordering::Relaxed);
            // Nobody may wait any more.
            let _ = waiter.reply.send(Ok(frame));
        }
        Ok(true)
    }
}
