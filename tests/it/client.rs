//! A small client of the tests' own: writes what it is told, reads replies, hides nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A reply as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Simple(String),
    /// `-ERR ...`.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// `$3`.
    Bulk(Vec<u8>),
    /// `$-1`, `_`.
    Null,
    /// `*2`, a set or a map: all in a row.
    Array(Vec<Reply>),
    /// `>2`: what answers nothing.
    Push(Vec<Reply>),
}

impl Reply {
    /// `+OK`.
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// A bulk string.
    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// The text of an error.
    pub fn error(&self) -> &str {
        match self {
            Self::Error(text) => text,
            other => panic!("{other:?} is not an error"),
        }
    }
}

/// A connection. Nothing on it takes longer than half a minute.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("not zero");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("not zero");
        stream.set_nodelay(true).expect("TCP");
        let reader = BufReader::new(stream.try_clone().expect("a descriptor is left"));
        Self { stream, reader }
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Whether bytes of a reply are here that nobody has taken.
    pub fn has_more(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let there = !self.reader.buffer().is_empty() || self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).expect("a socket");
        there
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends a command.
    pub fn send(&mut self, args: &[&str]) {
        self.write(&encode(args));
    }

    /// Sends a command and takes its reply.
    pub fn run(&mut self, args: &[&str]) -> Reply {
        self.send(args);
        self.reply()
    }

    /// The next reply.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply was due")
    }

    /// Sends a command and waits for its reply, or `None` if the connection ends before it.
    pub fn try_ask(&mut self, args: &[&str]) -> Option<Reply> {
        self.stream.write_all(&encode(args)).ok()?;
        self.try_reply()
    }

    /// The next reply, or `None` at the end of the stream, however it came.
    pub fn try_reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        let text = line.strip_suffix("\r\n")?;
        let rest = text[1..].to_owned();
        let number = || rest.parse::<i64>().expect("a number");
        Some(match text.as_bytes()[0] {
            b'+' => Reply::Simple(rest),
            b'-' => Reply::Error(rest),
            b':' => Reply::Integer(number()),
            b'_' => Reply::Null,
            b'$' if number() < 0 => Reply::Null,
            b'$' => {
                let mut bulk = vec![0; number() as usize + 2];
                self.reader.read_exact(&mut bulk).ok()?;
                bulk.truncate(bulk.len() - 2);
                Reply::Bulk(bulk)
            }
            kind @ (b'*' | b'~' | b'%' | b'>') => {
                let count = if kind == b'%' { 2 * number() } else { number() };
                let items = (0..count).map(|_| self.try_reply()).collect::<Option<_>>()?;
                if kind == b'>' { Reply::Push(items) } else { Reply::Array(items) }
            }
            _ => panic!("not a reply: {text}"),
        })
    }
}

/// A command as RESP.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args.iter().map(AsRef::as_ref) {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}
