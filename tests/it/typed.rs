//! A small client of the binary port, the tests' own: a frame out, a frame in, hides nothing.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use stavekv::protocol::binary::{
    Code, FLAG_ERROR, Failure, HEADER_LEN, Header, Hello, Keys, Op, Ops, Outcome, Reply, Request,
    Scan, VERSION, finish, start,
};

use crate::server::Server;

/// A reply as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Answer {
    /// What it says.
    pub fn reply(&self) -> Reply<'_> {
        Reply::decode(&self.header, &self.body)
            .unwrap_or_else(|| panic!("not a reply: {:?} {:?}", self.header, self.body))
    }

    /// Its error.
    pub fn failure(&self) -> Failure<'_> {
        match self.reply() {
            Reply::Error(failure) => failure,
            reply => panic!("not an error: {reply:?}"),
        }
    }

    /// The code of its error.
    pub fn code(&self) -> Code {
        Code::of(self.failure().code).expect("a code of this version")
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.header.flags & FLAG_ERROR != 0
    }

    /// The value of a get.
    pub fn value(&self) -> Option<Vec<u8>> {
        match self.reply() {
            Reply::Get(item) => item.value.map(<[u8]>::to_vec),
            reply => panic!("not of a get: {reply:?}"),
        }
    }

    /// The version of a get.
    pub fn version(&self) -> u64 {
        match self.reply() {
            Reply::Get(item) => item.timestamp,
            reply => panic!("not of a get: {reply:?}"),
        }
    }

    /// The outcome of a write.
    pub fn outcome(&self) -> Outcome {
        match self.reply() {
            Reply::Write(outcome) => outcome,
            reply => panic!("not of a write: {reply:?}"),
        }
    }
}

/// A connection. Nothing on it takes longer than half a minute.
pub struct Typed {
    stream: TcpStream,
    next_id: u64,
    received: Vec<u8>,
    at: usize,
}

impl Typed {
    /// Connects, and says nothing.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("not zero");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("not zero");
        stream.set_nodelay(true).expect("TCP");
        Self { stream, next_id: 1, received: Vec::new(), at: 0 }
    }

    /// Connects and says hello.
    pub fn greeted(server: &Server) -> Self {
        let mut client = Self::connect(server.binary_port);
        let hello = client.run(&Request::Hello(Hello { versions: &[1], ..Hello::default() }));
        assert!(matches!(hello.reply(), Reply::Hello(_)), "{hello:?}");
        client
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends a request; returns its id.
    pub fn send(&mut self, request: &Request<'_>) -> u64 {
        self.send_by(request, 0)
    }

    /// Sends a request with a deadline; returns its id.
    pub fn send_by(&mut self, request: &Request<'_>, deadline_ms: u32) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let mut out = Vec::new();
        encode(&mut out, id, deadline_ms, request);
        self.write(&out);
        id
    }

    /// Sends a request as that one, with these flags, and waits for the reply.
    pub fn ask(&mut self, request_id: u64, flags: u16, request: &Request<'_>) -> Answer {
        let mut out = Vec::new();
        encode_with(&mut out, Header { flags, request_id, ..Header::default() }, request);
        self.write(&out);
        self.answer()
    }

    /// The next reply; `None` when the connection was closed.
    pub fn try_answer(&mut self) -> Option<Answer> {
        loop {
            let left = &self.received[self.at..];
            if let Some((head, rest)) = left.split_first_chunk::<HEADER_LEN>() {
                let header = Header::decode(head).expect("the server makes no broken frames");
                if let Some(body) = rest.get(..header.body_len as usize) {
                    assert!(header.fits(body), "a body that is not what its header says");
                    assert_eq!(header.version, VERSION);
                    let body = body.to_vec();
                    self.at += HEADER_LEN + body.len();
                    return Some(Answer { header, body });
                }
            }
            self.received.drain(..self.at);
            self.at = 0;
            let old = self.received.len();
            self.received.resize(old + (64 << 10), 0);
            let len = self.stream.read(&mut self.received[old..]).unwrap_or(0);
            self.received.truncate(old + len);
            if len == 0 {
                return None;
            }
        }
    }

    /// The next reply.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("the server answers")
    }

    /// Sends and waits for the reply.
    pub fn run(&mut self, request: &Request<'_>) -> Answer {
        let id = self.send(request);
        let answer = self.answer();
        assert_eq!(answer.header.request_id, id, "{answer:?}");
        answer
    }

    /// The next `count` replies by their request.
    pub fn answers(&mut self, count: usize) -> BTreeMap<u64, Answer> {
        let answers = (0..count).map(|_| self.answer());
        let answers: BTreeMap<_, _> = answers.map(|a| (a.header.request_id, a)).collect();
        assert_eq!(answers.len(), count, "a request was answered twice");
        answers
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: &str) -> Outcome {
        self.run(&set(key, value)).outcome()
    }

    /// Gets a key.
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.run(&get(key)).value()
    }

    /// A batch.
    pub fn batch(&mut self, ops: &[Op<'_>]) -> Answer {
        let mut body = Vec::new();
        Ops::encode(ops, &mut body);
        self.run(&Request::decode(0x13, &body).expect("encoded"))
    }

    /// Several keys.
    pub fn multi_get(&mut self, keys: &[&str]) -> Answer {
        let mut body = Vec::new();
        Keys::encode(0, &keys.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(), &mut body);
        self.run(&Request::decode(0x14, &body).expect("encoded"))
    }

    /// All keys of a scan, page by page, with their values if it asks for them.
    pub fn scan_all(&mut self, scan: Scan<'_>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let (mut found, mut cursor) = (BTreeMap::new(), Vec::new());
        loop {
            let page = self.run(&Request::Scan(Scan { cursor: &cursor, ..scan }));
            let Reply::Scan(page) = page.reply() else { panic!("not of a scan") };
            for entry in page.entries.iter() {
                found.insert(entry.key.to_vec(), entry.item.value.map(<[u8]>::to_vec));
            }
            if page.cursor.is_empty() {
                return found;
            }
            cursor = page.cursor.to_vec();
        }
    }
}

/// Appends a request.
pub fn encode(out: &mut Vec<u8>, request_id: u64, deadline_ms: u32, request: &Request<'_>) {
    encode_with(out, Header { request_id, deadline_ms, ..Header::default() }, request);
}

fn encode_with(out: &mut Vec<u8>, header: Header, request: &Request<'_>) {
    let at = start(out);
    request.encode(out);
    finish(out, at, Header { version: VERSION, opcode: request.opcode() as u8, ..header });
}

/// Asks for a key.
pub fn get(key: &str) -> Request<'_> {
    Request::Get { db: 0, key: key.as_bytes() }
}

/// Sets a key.
pub fn set<'a>(key: &'a str, value: &'a str) -> Request<'a> {
    Request::Write(op(key, Some(value)))
}

/// A set, or a delete if there is no value.
pub fn op<'a>(key: &'a str, value: Option<&'a str>) -> Op<'a> {
    Op { key: key.as_bytes(), value: value.map(str::as_bytes), ..Op::default() }
}
