//! From frames to results: shared by both clients.

use std::time::Duration;

use crate::error::{Code, Error, Reason, Refusal, Result, Retry};
use crate::once::{Identity, Names};
use crate::op::ServerInfo;
use crate::options::Options;
use crate::wire::{self, Frame, HEADER_LEN, Hello, Request};

/// Longest body that a server reads before it knows the client.
const HELLO_LEN_MAX: u32 = 4096;

/// What the caller gets for `frame`. An answer that can not be read leaves it open what was done.
pub(crate) fn decode<T>(frame: Frame, of: fn(Vec<u8>) -> Option<T>) -> Result<T> {
    if !frame.is_error {
        let unreadable = || Error::Unknown(Reason::Protocol("an unreadable reply".to_owned()));
        return of(frame.body).ok_or_else(unreadable);
    }
    match wire::refusal(&frame.body) {
        Some((refusal, true)) => Err(Error::Unknown(Reason::Refused(refusal))),
        Some((refusal, false)) => Err(Error::NotDone(Reason::Refused(refusal))),
        None => Err(Error::Unknown(Reason::Protocol("an unreadable error".to_owned()))),
    }
}

/// The time that the server is told: a bit less than the caller waits, so that its word on what
/// became of the request still comes in time. Milliseconds.
pub(crate) fn server_deadline(left: Duration) -> u32 {
    let margin = (left / 4).min(Duration::from_millis(150));
    u32::try_from((left - margin).as_millis()).unwrap_or(u32::MAX).max(1)
}

/// Refuses what a server would close the connection for: others have requests on it.
pub(crate) fn check_len(request: &Request<'_>, body_len_max: u32) -> Result<()> {
    let is_set = request.opcode() == wire::SET;
    let max = if is_set { body_len_max } else { body_len_max.min(wire::OTHER_BODY_LEN_MAX) };
    let (len, max) = (request.body_len(), u64::from(max));
    if len > max { Err(Error::NotDone(Reason::TooLarge { len, max })) } else { Ok(()) }
}

/// The frames with which a connection begins: the hello, and the session if there is one.
pub(crate) fn hello(options: &Options, session: Option<Identity>) -> Result<Vec<u8>> {
    let hello = Request::Hello(Hello {
        versions: &[wire::VERSION],
        name: options.name.as_bytes(),
        user: options.user.as_bytes(),
        password: options.password.as_deref().unwrap_or_default(),
    });
    check_len(&hello, HELLO_LEN_MAX)?;
    let mut out = Vec::with_capacity(HEADER_LEN);
    hello.put(0, 0, &mut out);
    session.iter().for_each(|session| put_session(session, &mut out));
    Ok(out)
}

fn put_session(session: &Identity, out: &mut Vec<u8>) {
    Request::Session { id: session.id, born: session.born }.put(0, 0, out);
}

/// The beginning of a connection: what has to come before it is used. No sockets here.
pub(crate) struct Greeting<'n> {
    names: &'n Names,
    /// What was said of a session and not answered yet.
    session: Option<Identity>,
    server: Option<ServerInfo>,
    input: Vec<u8>,
}

/// What a [`Greeting`] needs next.
pub(crate) enum Next {
    /// More bytes of the server.
    Read,
    /// That these be sent, and then more bytes.
    Send(Vec<u8>),
    /// Nothing: the server, and which session the connection is in, 0: none.
    Done(ServerInfo, u64),
}

impl<'n> Greeting<'n> {
    /// Of a connection that has sent [`hello`] with this session.
    pub fn new(names: &'n Names, session: Option<Identity>) -> Self {
        Self { names, session, server: None, input: Vec::new() }
    }

    /// Where bytes that came are appended.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Takes what has come.
    pub fn next(&mut self) -> Result<Next> {
        loop {
            let came =
                wire::frame(&self.input).map_err(|text| Error::NotDone(Reason::Protocol(text)))?;
            let Some((frame, len)) = came else { return Ok(Next::Read) };
            self.input.drain(..len);
            let Some(server) = self.server.take() else {
                let server = welcome(frame)?;
                if self.session.is_none() {
                    return Ok(Next::Done(server, 0));
                }
                self.server = Some(server);
                continue;
            };
            let Some(said) = self.session else { return Ok(Next::Done(server, 0)) };
            let born = decode(frame, wire::session)?;
            // Another connection may have been told before when it began.
            let agreed = match self.names.born(said, born) {
                0 => self.names.session(),
                agreed => Identity { born: agreed, ..said },
            };
            if (agreed.number, agreed.born) == (said.number, born) {
                return Ok(Next::Done(server, said.number));
            }
            (self.server, self.session) = (Some(server), Some(agreed));
            let mut out = Vec::new();
            put_session(&agreed, &mut out);
            return Ok(Next::Send(out));
        }
    }
}

/// What the server says of itself in its reply to the hello, if it lets us in.
pub(crate) fn welcome(frame: Frame) -> Result<ServerInfo> {
    let server = decode(frame, wire::hello)?;
    if server.authenticated {
        return Ok(server);
    }
    Err(Error::NotDone(Reason::Refused(Refusal {
        code: Code::AuthRequired,
        retry: Retry::Never,
        index: None,
        version: 0,
        text: "the server has a password and none was given".to_owned(),
        address: String::new(),
    })))
}

/// The deadline passed; `awaited` says what for.
pub(crate) fn late(awaited: &'static str) -> Error {
    Error::NotDone(Reason::Deadline { awaited })
}

/// A deadline far away: whoever waits for ever waits as long as this.
pub(crate) const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
