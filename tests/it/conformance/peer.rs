//! The two that are compared: Stave and Debian's Redis, each with connections by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::encode;
use crate::cluster;
use crate::server::{Server, dies_with_us};

/// How long a reply may take.
const REPLY_MAX: Duration = Duration::from_secs(5);
/// A reply that nobody counted has ended when nothing more comes for so long.
const QUIET: Duration = Duration::from_millis(30);
/// There is none when nothing comes for so long.
const SILENT: Duration = Duration::from_millis(200);

/// What came back for some bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The server closed the connection.
    pub closed: bool,
}

/// How much to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// So many replies.
    Replies(usize),
    /// Until the server closes.
    End,
    /// Until nothing comes any more.
    Quiet,
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

struct Connection {
    stream: Box<dyn Stream>,
    /// What has come and is not yet taken.
    received: Vec<u8>,
    ended: bool,
}

impl Connection {
    /// Takes what is waited for, or what came instead.
    fn take(&mut self, wait: Wait) -> Answer {
        let begin = Instant::now();
        let mut heard = Instant::now();
        loop {
            let quiet = if self.received.is_empty() { SILENT } else { QUIET };
            let whole = match wait {
                Wait::Replies(count) => replies_len(&self.received, count),
                Wait::Quiet if heard.elapsed() > quiet => Some(self.received.len()),
                Wait::Quiet | Wait::End => None,
            };
            if let Some(len) = whole {
                let bytes = self.received.drain(..len).collect();
                return Answer { bytes, closed: self.ended };
            }
            if self.ended || begin.elapsed() > REPLY_MAX {
                let bytes = std::mem::take(&mut self.received);
                return Answer { bytes, closed: self.ended };
            }
            let mut bytes = vec![0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(len) => {
                    self.received.extend_from_slice(&bytes[..len]);
                    heard = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
        }
    }
}

/// A server and the connections to it.
pub struct Peer {
    guard: Guard,
    password: Option<String>,
    conns: BTreeMap<String, Connection>,
}

enum Guard {
    /// The first of them is asked.
    Stave(Vec<Server>),
    Redis(Redis),
}

impl Peer {
    /// Ours: a lone node, or one of several, with so many cores each.
    pub fn stave(nodes: usize, cores: &str, flags: &[&str], password: Option<&str>) -> Self {
        let flags = flags.iter().map(|flag| if *flag == "yes" { "true" } else { *flag });
        let flags: Vec<_> = flags.collect();
        let flags = [["--cores", cores].as_slice(), &flags].concat();
        let servers = match nodes {
            1 => vec![Server::start(&flags)],
            _ => cluster::start(nodes, &flags),
        };
        Self::new(Guard::Stave(servers), password)
    }

    /// Theirs.
    pub fn redis(flags: &[&str], password: Option<&str>) -> Self {
        Self::new(Guard::Redis(Redis::start(flags)), password)
    }

    fn new(guard: Guard, password: Option<&str>) -> Self {
        Self { guard, password: password.map(str::to_owned), conns: BTreeMap::new() }
    }

    fn connect(&self) -> Connection {
        // Short: a quiet stream is noticed by it.
        let patience = Some(Duration::from_millis(10));
        let stream: Box<dyn Stream> = match &self.guard {
            Guard::Stave(servers) => {
                let port = servers[0].port;
                let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                stream.set_read_timeout(patience).expect("not zero");
                stream.set_nodelay(true).expect("TCP");
                Box::new(stream)
            }
            Guard::Redis(redis) => {
                let stream = UnixStream::connect(&redis.socket).expect("it listens");
                stream.set_read_timeout(patience).expect("not zero");
                Box::new(stream)
            }
        };
        Connection { stream, received: Vec::new(), ended: false }
    }

    /// No keys and no connections.
    pub fn clear(&mut self) {
        self.conns.clear();
        let mut conn = self.connect();
        if let Some(password) = &self.password {
            conn.stream.write_all(&encode(&["AUTH", password])).expect("it reads");
            assert_eq!(conn.take(Wait::Replies(1)).bytes, b"+OK\r\n");
        }
        let begin = Instant::now();
        loop {
            conn.stream.write_all(&encode(&["FLUSHALL"])).expect("it reads");
            let reply = conn.take(Wait::Replies(1)).bytes;
            if reply == b"+OK\r\n" {
                return;
            }
            // Of a cluster that has just begun.
            let is_passing = reply.starts_with(b"-TRYAGAIN") && begin.elapsed() < REPLY_MAX;
            assert!(is_passing, "FLUSHALL: {}", reply.escape_ascii());
        }
    }

    /// Sends bytes over a connection, which is made if need be, and takes what comes back.
    pub fn ask(&mut self, conn: &str, resp3: bool, bytes: &[u8], wait: Wait) -> Answer {
        if !self.conns.contains_key(conn) {
            let mut made = self.connect();
            if resp3 {
                made.stream.write_all(&encode(&["HELLO", "3"])).expect("it reads");
                made.take(Wait::Replies(1));
            }
            self.conns.insert(conn.to_owned(), made);
        }
        let made = self.conns.get_mut(conn).expect("just made");
        // It may have closed before it had read all.
        let _ = made.stream.write_all(bytes);
        let answer = made.take(wait);
        if answer.closed {
            self.conns.remove(conn);
        }
        answer
    }

    /// What came on a connection and nobody asked for.
    pub fn left_over(&mut self) -> Vec<u8> {
        self.conns.values().flat_map(|conn| conn.received.clone()).collect()
    }
}

/// A redis-server that keeps nothing, on a socket of its own: no port that another might take.
struct Redis {
    dir: PathBuf,
    child: Child,
    socket: PathBuf,
}

impl Redis {
    fn start(flags: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.join(format!("redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed)));
        fs::create_dir_all(&dir).expect("the target directory takes files");
        let socket = dir.join("s");
        let mut command = dies_with_us("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(&dir).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("redis-server runs");
        let begin = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "redis-server did not start");
            sleep(Duration::from_millis(5));
        }
        Self { dir, child, socket }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Bytes of the first `count` replies, if they are all there.
fn replies_len(bytes: &[u8], count: usize) -> Option<usize> {
    (0..count).try_fold(0, |at, _| Some(at + reply_len(&bytes[at..])?))
}

/// How many whole replies these bytes are.
pub fn replies_count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some(len) = reply_len(bytes) {
        bytes = &bytes[len..];
        count += 1;
    }
    assert!(bytes.is_empty(), "half a reply: {}", bytes.escape_ascii());
    count
}

fn reply_len(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || {
        let text = std::str::from_utf8(&bytes[1..end - 2]).ok();
        text.and_then(|text| text.parse::<i64>().ok()).expect("a length is a number")
    };
    let parts = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => 0,
        b'$' | b'=' | b'!' => {
            let len = end + usize::try_from(number()).map_or(0, |len| len + 2);
            return (bytes.len() >= len).then_some(len);
        }
        b'*' | b'~' | b'>' => usize::try_from(number()).unwrap_or(0),
        b'%' => 2 * usize::try_from(number()).unwrap_or(0),
        _ => panic!("not a reply: {}", bytes.escape_ascii()),
    };
    Some(end + replies_len(&bytes[end..], parts)?)
}
