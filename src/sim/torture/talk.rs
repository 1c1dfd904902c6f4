//! A client of the simulated node that speaks RESP2, and what it needs of RESP3.

use std::cell::RefCell;

use crate::sim::Client;

/// A reply.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Such as OK.
    Simple(String),
    /// With its prefix.
    Error(String),
    /// A number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Nil,
    /// Of a map, keys and values in turn.
    Array(Vec<Value>),
    /// What answers nothing.
    Push(Vec<Value>),
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bulk(bytes) => {
                let head = &bytes[..bytes.len().min(40)];
                write!(f, "${}:{}", bytes.len(), String::from_utf8_lossy(head))
            }
            Self::Nil => write!(f, "nil"),
            Self::Array(values) | Self::Push(values) => {
                f.debug_list().entries(values.iter().take(20)).finish()
            }
        }
    }
}

impl Value {
    /// `+OK`.
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// A bulk string.
    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// What GET answers.
    pub fn from_option(bytes: Option<&Vec<u8>>) -> Self {
        bytes.map_or(Self::Nil, Self::bulk)
    }

    /// Whether it is an error that begins with `prefix`.
    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Self::Error(text) if text.starts_with(prefix))
    }
}

/// See the module's header.
pub struct Talk {
    /// The connection.
    pub client: Client,
    got: RefCell<Got>,
}

/// What has arrived.
#[derive(Default)]
struct Got {
    bytes: Vec<u8>,
    /// Bytes of it that were parsed.
    at: usize,
    /// Bytes there were when no whole reply was.
    tried_len: usize,
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Talk({:?})", self.client)
    }
}

impl Talk {
    /// Over a connection just made.
    pub fn new(client: Client) -> Self {
        Self { client, got: RefCell::default() }
    }

    /// Sends a command.
    pub fn send(&self, args: &[&str]) {
        self.client.send(&encode(args));
    }

    fn fill(&self) {
        self.got.borrow_mut().bytes.extend(self.client.received());
    }

    /// The next reply, if it has arrived whole.
    ///
    /// # Panics
    /// If what has arrived is no reply.
    pub fn next(&self) -> Option<Value> {
        self.fill();
        let mut got = self.got.borrow_mut();
        if got.bytes.len() == got.tried_len {
            return None;
        }
        let mut end = got.at;
        let Some(value) = parse(&got.bytes, &mut end) else {
            got.tried_len = got.bytes.len();
            return None;
        };
        (got.at, got.tried_len) = (end, 0);
        if got.at > 1 << 16 || got.at == got.bytes.len() {
            got.bytes.drain(..end);
            got.at = 0;
        }
        Some(value)
    }

    /// Whether the server has closed and all it sent was taken.
    pub fn is_ended(&self) -> bool {
        self.fill();
        self.client.is_ended()
    }
}

/// A command as RESP.
pub fn encode<T: AsRef<[u8]>>(args: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend(format!("${}\r\n", arg.len()).into_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn parse(bytes: &[u8], at: &mut usize) -> Option<Value> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&rest[1..end]).expect("a line of a reply is text");
    let number = || line.parse::<i64>().unwrap_or_else(|_| panic!("{line:?} is not a number"));
    *at += end + 2;
    Some(match rest[0] {
        b'+' => Value::Simple(line.to_owned()),
        b'-' => Value::Error(line.to_owned()),
        b':' => Value::Int(number()),
        b'$' | b'*' if number() < 0 => Value::Nil,
        b'$' => {
            let len = number() as usize;
            let body = bytes.get(*at..*at + len + 2)?;
            assert!(body.ends_with(b"\r\n"), "a bulk string ends with its line");
            *at += len + 2;
            Value::Bulk(body[..len].to_vec())
        }
        b'_' => Value::Nil,
        b'%' => {
            let parts = (0..2 * number()).map(|_| parse(bytes, at)).collect::<Option<_>>()?;
            Value::Array(parts)
        }
        b'>' => {
            let parts = (0..number()).map(|_| parse(bytes, at)).collect::<Option<_>>()?;
            Value::Push(parts)
        }
        b'*' => {
            let parts = (0..number()).map(|_| parse(bytes, at)).collect::<Option<_>>()?;
            Value::Array(parts)
        }
        other => panic!("{:?} is no reply", char::from(other)),
    })
}
