//! GET over the binary protocol beside GET over RESP: throughput, and the server's CPU per request.
//!
//! ```text
//! cargo build --release --bin stave
//! cargo bench --bench protocols -- [--runs 5] [--scale 1.0] [--case c50-p64] [--out FILE]
//! ```
//!
//! Server on core 0, this on core 1. Both protocols take the same road through this program:
//! batches of `depth` requests made ahead, one write for a batch, one wait for its replies, which
//! all are of the same length; then the next connection. So what differs is what the server does.
//! Runs alternate; the table has their medians, the file every run.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a client's side")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use stavekv::protocol::binary::{
    HEADER_LEN, Header, Hello, MAGIC, Op, Request, VERSION, finish, start,
};

/// Keys that are asked for, each of 16 bytes.
const KEYS: u64 = 100_000;
const VALUE_LEN: usize = 100;
/// Batches made ahead: more requests than a cache holds keys.
const BATCHES: usize = 1_024;

/// Connections, requests under way on each, requests of a run.
const SHAPES: [(usize, usize, usize); 6] = [
    (1, 1, 40_000),
    (1, 16, 400_000),
    (1, 64, 1_000_000),
    (50, 1, 150_000),
    (50, 16, 1_000_000),
    (50, 64, 2_000_000),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

/// What differs between the two.
struct Protocol {
    name: &'static str,
    port: u16,
    /// What a connection begins with, and the bytes of the answer.
    greeting: (Vec<u8>, usize),
    get: fn(&[u8], u64, &mut Vec<u8>),
    /// Bytes of a reply, and how it begins.
    reply: (usize, &'static [u8]),
}

fn frame(request: &Request<'_>, request_id: u64, out: &mut Vec<u8>) {
    let at = start(out);
    request.encode(out);
    let opcode = request.opcode() as u8;
    finish(out, at, Header { version: VERSION, opcode, request_id, ..Header::default() });
}

fn get_typed(key: &[u8], id: u64, out: &mut Vec<u8>) {
    frame(&Request::Get { db: 0, key }, id, out);
}

fn get_resp(key: &[u8], _: u64, out: &mut Vec<u8>) {
    write!(out, "*2\r\n$3\r\nGET\r\n${}\r\n", key.len()).expect("a vector takes all");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

fn protocols(server: &Server) -> [Protocol; 2] {
    let mut hello = Vec::new();
    let versions = &[VERSION];
    frame(&Request::Hello(Hello { versions, ..Hello::default() }), 0, &mut hello);
    let item_len = 24 + VALUE_LEN;
    let binary = Protocol {
        name: "binary",
        port: server.binary_port,
        greeting: (hello, 0),
        get: get_typed,
        reply: (HEADER_LEN + item_len, &MAGIC),
    };
    let resp = Protocol {
        name: "resp",
        port: server.resp_port,
        greeting: (b"PING\r\n".to_vec(), 7),
        get: get_resp,
        reply: (6 + VALUE_LEN + 2, b"$100\r\n"),
    };
    [binary, resp]
}

struct Conn {
    stream: TcpStream,
    /// Of the batch under way.
    expected: usize,
}

impl Protocol {
    fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        let (greeting, answer_len) = &self.greeting;
        stream.write_all(greeting).expect("it reads");
        let mut head = vec![0; (*answer_len).max(HEADER_LEN * usize::from(*answer_len == 0))];
        stream.read_exact(&mut head).expect("it answers");
        if let Some(head) = head.first_chunk::<HEADER_LEN>() {
            let header = Header::decode(head).expect("a frame");
            stream.read_exact(&mut vec![0; header.body_len as usize]).expect("whole");
        }
        stream
    }

    /// One run: seconds it took.
    fn run(&self, connections: usize, depth: usize, requests: usize) -> f64 {
        let mut random = Random(1);
        let batches: Vec<Vec<u8>> = (0..BATCHES)
            .map(|_| {
                let mut batch = Vec::new();
                for id in 0..depth {
                    (self.get)(&key(random.next() % KEYS), id as u64, &mut batch);
                }
                batch
            })
            .collect();
        let mut conns: Vec<Conn> =
            (0..connections).map(|_| Conn { stream: self.connect(), expected: 0 }).collect();
        let mut replies = vec![0; depth * self.reply.0];
        let begin = Instant::now();
        // One more turn than batches: the last one only reads.
        let turns = requests / (connections * depth);
        for turn in 0..=turns {
            for (at, conn) in conns.iter_mut().enumerate() {
                if conn.expected > 0 {
                    let replies = &mut replies[..conn.expected];
                    conn.stream.read_exact(replies).expect("all are answered");
                    assert!(replies.starts_with(self.reply.1), "{:?}", &replies[..16]);
                    conn.expected = 0;
                }
                if turn < turns {
                    let batch = &batches[(turn * connections + at) % BATCHES];
                    conn.stream.write_all(batch).expect("it reads");
                    conn.expected = depth * self.reply.0;
                }
            }
        }
        begin.elapsed().as_secs_f64()
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("key:{n:012}").into_bytes()
}

struct Server {
    child: Child,
    dir: PathBuf,
    resp_port: u16,
    binary_port: u16,
}

impl Server {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
        let binary = std::env::var_os("STAVE_BIN").map_or(target.join("release/stave"), Into::into);
        let dir = target.join(format!("tmp/protocols-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the target directory takes files");
        let ready = dir.join("ready");
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(binary).args(["serve", "--cores", "1"]);
        command.args(["--resp-port", "0", "--binary-port", "0", "--shard-port-base", "0"]);
        command.args(["--log-level", "warn", "--memory", "1GiB", "--data-dir"]);
        command.arg(dir.join("data")).arg("--ready-file").arg(&ready).env_remove("STAVE_BIN");
        let child = command.stdin(Stdio::null()).spawn().expect("taskset and the server run");
        let begin = Instant::now();
        let line = loop {
            let line = fs::read_to_string(&ready).unwrap_or_default();
            if line.ends_with('\n') {
                break line;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "the server did not start");
            sleep(Duration::from_millis(5));
        };
        let port = |name: &str| {
            let (_, rest) = line.split_once(name).expect("the ready line has it");
            rest.split(',').next().and_then(|port| port.parse().ok()).expect("a port")
        };
        let (resp_port, binary_port) = (port("\"resp_port\":"), port("\"binary_port\":"));
        Self { child, dir, resp_port, binary_port }
    }

    /// Sets every key.
    fn fill(&self, binary: &Protocol) {
        let (mut stream, value) = (binary.connect(), [b'v'; VALUE_LEN]);
        for first in (0..KEYS).step_by(1_000) {
            let mut batch = Vec::new();
            for n in first..first + 1_000 {
                let key = key(n);
                let op = Op { key: &key, value: Some(&value), ..Op::default() };
                frame(&Request::Write(op), n, &mut batch);
            }
            stream.write_all(&batch).expect("it reads");
            let mut replies = vec![0; 1_000 * (HEADER_LEN + 16)];
            stream.read_exact(&mut replies).expect("all are answered");
        }
    }

    /// Time on a core of all its threads, seconds.
    fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it lives");
        let ns = tasks.map(|task| {
            let path = task.expect("it can be listed").path().join("schedstat");
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0)
        });
        ns.sum::<f64>() / 1e9
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The first line of a program's output.
fn said(line: &[&str]) -> String {
    let output = Command::new(line[0]).args(&line[1..]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// This program again, on core 1, unless it is there; its exit code.
fn on_core_1(args: &[String]) -> Option<i32> {
    const MARK: &str = "STAVE_BENCH_PINNED";
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let own = std::env::current_exe().expect("it runs");
    let mut command = Command::new("taskset");
    let status = command.args(["-c", "1"]).arg(own).args(args).env(MARK, "1").status();
    status.expect("there is taskset (util-linux)").code()
}

fn setting<T: std::str::FromStr>(args: &[String], name: &str, default: T) -> T {
    let given = args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} {text}?")))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = on_core_1(&args) {
        std::process::exit(code);
    }
    let (runs, scale): (usize, f64) = (setting(&args, "--runs", 5), setting(&args, "--scale", 1.0));
    let out: String = setting(&args, "--out", "bench-results/protocols.jsonl".to_owned());
    let only: String = setting(&args, "--case", String::new());
    let mut raw = fs::File::create(&out).expect("--out can be written");
    let commit = said(&["git", "rev-parse", "--short", "HEAD"]);
    let cpu = said(&["sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs"]);
    let kernel = said(&["uname", "-r"]);
    writeln!(raw, r#"{{"commit":"{commit}","cpu":"{cpu}","kernel":"{kernel}","runs":{runs}}}"#)
        .expect("--out can be written");

    let server = Server::start();
    let protocols = protocols(&server);
    server.fill(&protocols[0]);
    println!("{:12} {:>26} {:>26}  binary/resp", "GET", "binary: K/s, CPU us", "resp");
    for (connections, depth, requests) in SHAPES {
        let requests = (requests as f64 * scale) as usize / (connections * depth);
        let requests = requests.max(1) * connections * depth;
        let case = format!("c{connections}-p{depth}");
        if !only.is_empty() && only != case {
            continue;
        }
        let mut figures = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for run in 0..runs {
            for (protocol, (throughput, cpu_us)) in protocols.iter().zip(&mut figures) {
                let before = server.cpu();
                let took = protocol.run(connections, depth, requests);
                let cpu = (server.cpu() - before) * 1e6 / requests as f64;
                let (name, per_second) = (protocol.name, requests as f64 / took);
                let case = format!(r#""case":"{case}","protocol":"{name}","run":{run}"#);
                writeln!(raw, r#"{{{case},"ops":{per_second:.0},"cpu_us":{cpu:.3}}}"#)
                    .expect("--out can be written");
                throughput.push(per_second);
                cpu_us.push(cpu);
            }
        }
        let [b, r] = figures.map(|(mut ops, mut cpu)| (median(&mut ops) / 1e3, median(&mut cpu)));
        let ratios = (b.0 / r.0, r.1 / b.1);
        println!(
            "{case:12} {:>17.1} {:>8.3} {:>17.1} {:>8.3}  throughput x{:.2}, per CPU x{:.2}",
            b.0, b.1, r.0, r.1, ratios.0, ratios.1
        );
    }
}
