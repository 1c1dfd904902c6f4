//! One connection, used by one request or pipeline at a time.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answer::{Greeting, Next, check_len, hello, late, server_deadline};
use crate::error::{Error, Reason, Result};
use crate::once::Names;
use crate::op::ServerInfo;
use crate::options::{Interrupted, Options};
use crate::wire::session::{OUTPUT_LEN, Session};
use crate::wire::{self, Asked, Frame, Request};

/// Most bytes of requests that are sent before their replies are read. They fit into the buffers of
/// the two systems, so a server that waits for us to read its replies never makes us wait too; one
/// longer request is sent alone. Bytes.
const WINDOW_LEN: usize = 64 << 10;

pub(super) struct Conn {
    stream: TcpStream,
    /// Who waits is the index of the request.
    session: Session<usize>,
    server: ServerInfo,
    in_flight_max: usize,
    /// Which of the client's sessions it is in; 0: none.
    session_number: u64,
    names: Arc<Names>,
    /// Why nothing more can be sent.
    broken: bool,
    /// It has answered a request.
    answered: bool,
    interrupted: Interrupted,
    buffer: Box<[u8]>,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Conn {
    /// Connects and says hello.
    pub fn connect(options: &Options, names: &Arc<Names>, deadline: Instant) -> Result<Self> {
        let session = options.exactly_once.then(|| names.session());
        let hello = hello(options, session)?;
        let deadline = deadline.min(Instant::now() + options.connect_deadline);
        let address = names.address(options);
        let failed = |error: io::Error| Error::connect(address, &error);
        let mut stream = dial(address, deadline).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_write_timeout(Some(left(deadline)?)).map_err(failed)?;
        stream.write_all(&hello).map_err(failed)?;
        let mut conn = Self {
            stream,
            session: Session::default(),
            server: ServerInfo::default(),
            in_flight_max: options.in_flight_max,
            session_number: 0,
            names: Arc::clone(names),
            broken: false,
            answered: false,
            interrupted: options.interrupted,
            buffer: vec![0; OUTPUT_LEN].into(),
        };
        let greeting = Greeting::new(names, session);
        let greeted = conn.greet(greeting, address, deadline).map_err(Error::of_read);
        (conn.server, conn.session_number) = greeted?;
        conn.in_flight_max = conn.in_flight_max.min(conn.server.in_flight_max.max(1) as usize);
        Ok(conn)
    }

    fn greet(
        &mut self,
        mut greeting: Greeting<'_>,
        address: &str,
        deadline: Instant,
    ) -> Result<(ServerInfo, u64)> {
        let failed = |error: io::Error| Error::connect(address, &error);
        loop {
            match greeting.next()? {
                Next::Done(server, session) => return Ok((server, session)),
                Next::Send(bytes) => self.stream.write_all(&bytes).map_err(failed)?,
                Next::Read => {}
            }
            self.stream.set_read_timeout(Some(left(deadline)?)).map_err(failed)?;
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(failed(closed())),
                Ok(len) => greeting.input().extend_from_slice(&self.buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let text = "no hello came in time";
                    return Err(failed(io::Error::new(io::ErrorKind::TimedOut, text)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Which of the client's sessions it is in; 0: none.
    pub fn session_number(&self) -> u64 {
        self.session_number
    }

    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Whether it can serve further requests, as far as we know.
    pub fn is_good(&self) -> bool {
        !self.broken
    }

    /// Whether it was good for anything yet.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Looks whether the server has closed it.
    pub fn is_alive(&self) -> bool {
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        };
        // Nothing is under way, so nothing may come, not even an end.
        peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends the requests, as many at a time as may be, and reads their answers: as many, in the
    /// order of the requests.
    pub fn exchange(&mut self, requests: &[Asked<'_>], deadline: Instant) -> Vec<Result<Frame>> {
        let mut answers: Vec<Option<Result<Frame>>> = requests.iter().map(|_| None).collect();
        let end = self.drive(requests, deadline, &mut answers);
        let reason = end.err();
        self.broken |= reason.is_some();
        let reason = reason.unwrap_or(Reason::Deadline { awaited: "the reply" });
        for (at, sent) in self.session.lose() {
            answers[at] = Some(Err(Error::lost(sent, reason.clone())));
        }
        let unsent = || Err(Error::NotDone(reason.clone()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unsent)).collect()
    }

    fn drive(
        &mut self,
        requests: &[Asked<'_>],
        deadline: Instant,
        answers: &mut [Option<Result<Frame>>],
    ) -> std::result::Result<(), Reason> {
        if self.interrupted.is_set() {
            return Err(Reason::Interrupted);
        }
        let mut next = 0;
        loop {
            while next < requests.len() && self.has_room(&requests[next].request) {
                match check_len(&requests[next].request, self.server.body_len_max) {
                    Ok(()) => self.push(next, &requests[next], deadline)?,
                    Err(error) => answers[next] = Some(Err(error)),
                }
                next += 1;
            }
            self.flush(deadline)?;
            if self.session.in_flight() == 0 {
                return Ok(());
            }
            self.read(deadline)?;
            while let Some((at, frame)) = self.session.reply().map_err(Reason::ConnectionLost)? {
                self.answered = true;
                answers[at] = Some(Ok(frame));
            }
        }
    }

    fn has_room(&self, request: &Request<'_>) -> bool {
        let (count, len) = (self.session.in_flight(), self.session.in_flight_len() as u64);
        count == 0
            || (count < self.in_flight_max
                && len + request.body_len() + wire::HEADER_LEN as u64 <= WINDOW_LEN as u64)
    }

    fn push(
        &mut self,
        at: usize,
        asked: &Asked<'_>,
        deadline: Instant,
    ) -> std::result::Result<(), Reason> {
        let left = reason_left(deadline, "the request to be sent")?;
        let id = asked.once.unwrap_or_else(|| self.names.next());
        let put = |out: &mut Vec<u8>| asked.put(id, server_deadline(left), out);
        self.session.push(id, asked.request.opcode(), at, put);
        Ok(())
    }

    fn flush(&mut self, deadline: Instant) -> std::result::Result<(), Reason> {
        while !self.session.output().is_empty() {
            let left = reason_left(deadline, "the request to be sent")?;
            let set = self.stream.set_write_timeout(Some(left));
            match set.and_then(|()| self.stream.write(self.session.output())) {
                Ok(len) => self.session.sent(len),
                Err(error) => self.retry(&error, "the request to be sent")?,
            }
        }
        Ok(())
    }

    fn read(&mut self, deadline: Instant) -> std::result::Result<(), Reason> {
        let left = reason_left(deadline, "the reply")?;
        let set = self.stream.set_read_timeout(Some(left));
        match set.and_then(|()| self.stream.read(&mut self.buffer)) {
            Ok(0) => return Err(Reason::ConnectionLost(closed().to_string())),
            Ok(len) => self.session.received(&self.buffer[..len]),
            Err(error) => self.retry(&error, "the reply")?,
        }
        Ok(())
    }

    /// Goes on after a signal that is not to end the request.
    fn retry(&self, error: &io::Error, awaited: &'static str) -> std::result::Result<(), Reason> {
        match error.kind() {
            io::ErrorKind::Interrupted if self.interrupted.is_set() => Err(Reason::Interrupted),
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Err(Reason::Deadline { awaited })
            }
            _ => Err(Reason::ConnectionLost(error.to_string())),
        }
    }
}

fn dial(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for resolved in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&resolved, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is left; zero would mean for ever.
fn left(deadline: Instant) -> Result<Duration> {
    reason_left(deadline, "the connection to be made").map_err(Error::NotDone)
}

fn reason_left(deadline: Instant, awaited: &'static str) -> std::result::Result<Duration, Reason> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late(awaited).reason().clone()) } else { Ok(left) }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "closed by the server")
}
