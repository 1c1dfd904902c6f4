//! From frames to results: shared by both clients.

use std::time::Duration;

use crate::error::{Code, Error, Reason, Refusal, Result, Retry};
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

/// The frame of the hello.
pub(crate) fn hello(options: &Options) -> Result<Vec<u8>> {
    let hello = Request::Hello(Hello {
        versions: &[wire::VERSION],
        name: options.name.as_bytes(),
        user: options.user.as_bytes(),
        password: options.password.as_deref().unwrap_or_default(),
    });
    check_len(&hello, HELLO_LEN_MAX)?;
    let mut out = Vec::with_capacity(HEADER_LEN);
    hello.put(0, 0, &mut out);
    Ok(out)
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
