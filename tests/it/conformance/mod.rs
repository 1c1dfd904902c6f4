//! The same bytes to Stave and to Debian's redis-server 7: the same bytes have to come back.
//!
//! What is sent is written down: the transcripts of the handlers' goldens (`src/command/testdata`),
//! and those of what takes a whole server (`tests/it/exchanges`): pipelines, inline commands, what
//! is not the protocol, several connections. A difference that is meant is marked with its reason
//! where it stands, and a mark that is not needed fails as well. The blocks that say `fresh` are
//! sent in RESP2 and once more in RESP3. `UPDATE_GOLDEN=1` rewrites the replies of
//! `tests/it/exchanges`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

mod peer;
#[path = "../../../src/command/tests/transcript.rs"]
mod transcript;

use crate::client::encode;
use crate::server::has;
use peer::{Answer, Peer, Wait, replies_count};
use transcript::{Line, Remark, escape, words};

/// Where a block of a transcript is played.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Open,
    Single,
    Debug,
    Password(String),
}

#[derive(Debug)]
struct Block {
    place: Place,
    /// In which versions of the protocol, 2 or 3.
    protos: &'static [u8],
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Exchange(Exchange),
    Clock(u64),
    On(String),
}

/// A request as it is written down.
#[derive(Debug)]
struct Exchange {
    /// Number of its line, from 0.
    line: usize,
    remark: Remark,
    request: Vec<u8>,
    reply: Option<Vec<u8>>,
    closes: bool,
}

fn parse(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut remark = Remark::Same;
    for (number, line) in text.lines().enumerate() {
        let request = match Line::parse(line) {
            Line::Prose => continue,
            Line::Directive("clock", ms) => {
                last(&mut blocks).push(Step::Clock(ms.parse().expect("milliseconds")));
                continue;
            }
            Line::Directive("on", name) => {
                last(&mut blocks).push(Step::On(name.to_owned()));
                continue;
            }
            Line::Directive(word, rest) => {
                blocks.push(block(word, rest));
                continue;
            }
            Line::Remark(of_next, reason) => {
                assert!(!reason.is_empty(), "line {}: no reason", number + 1);
                remark = of_next;
                continue;
            }
            Line::Effects(effects) => {
                exchange(&mut blocks).closes = effects == "Close";
                continue;
            }
            Line::Reply(reply) => {
                exchange(&mut blocks).reply = Some(unescape(reply));
                continue;
            }
            Line::Request(request) => encode(&words(request)),
            Line::Raw(bytes) => unescape(bytes),
        };
        let remark = std::mem::take(&mut remark);
        let (reply, closes) = (None, false);
        let exchange = Exchange { line: number, remark, request, reply, closes };
        last(&mut blocks).push(Step::Exchange(exchange));
    }
    blocks
}

fn block(word: &str, rest: &str) -> Block {
    let (place, protos): (_, &[u8]) = match word {
        "fresh" => (Place::Open, &[2, 3]),
        "alone" => (Place::Open, &[]),
        "single" => (Place::Single, &[2, 3]),
        "resp2" => (Place::Open, &[2]),
        "resp3" => (Place::Open, &[3]),
        "debug" => (Place::Debug, &[2, 3]),
        "password" => (Place::Password(rest.to_owned()), &[2]),
        _ => panic!("what is {word:?}?"),
    };
    Block { place, protos, steps: Vec::new() }
}

fn last(blocks: &mut [Block]) -> &mut Vec<Step> {
    &mut blocks.last_mut().expect("a transcript begins with a fresh server").steps
}

fn exchange(blocks: &mut [Block]) -> &mut Exchange {
    match last(blocks).last_mut() {
        Some(Step::Exchange(exchange)) => exchange,
        _ => panic!("a reply comes after its request"),
    }
}

/// The bytes that [`escape`] shows.
fn unescape(line: &str) -> Vec<u8> {
    let quoted = format!("\"{}\"", line.replace('"', "\\\""));
    words(&quoted).pop().expect("one word")
}

/// The two servers of a place.
struct Pair {
    stave: Peer,
    redis: Peer,
}

impl Pair {
    fn start(nodes: usize, place: &Place) -> Self {
        // On two cores half of the keys are another's.
        let cores = if *place == Place::Single || nodes > 1 { "1" } else { "2" };
        let password = match place {
            Place::Password(word) => Some(word.as_str()),
            _ => None,
        };
        let mut flags = Vec::new();
        flags.extend(password.into_iter().flat_map(|password| ["--requirepass", password]));
        if *place == Place::Debug {
            flags.extend(["--enable-debug-command", "yes"]);
        }
        let stave = Peer::stave(nodes, cores, &flags, password);
        Self { stave, redis: Peer::redis(&flags, password) }
    }
}

/// What both said to the exchange of a line, in each version of the protocol.
type Heard = BTreeMap<usize, Vec<[Answer; 2]>>;

/// Plays a block. `rewrite`: the replies that are written down do not count.
fn play(pair: &mut Pair, block: &Block, proto: u8, rewrite: bool, heard: &mut Heard) {
    pair.stave.clear();
    pair.redis.clear();
    let mut on = "first";
    for step in &block.steps {
        let exchange = match step {
            Step::Clock(ms) => {
                // Redis looks at its clock once per turn of its loop.
                sleep(Duration::from_millis(ms + 5));
                continue;
            }
            Step::On(name) => {
                on = name;
                continue;
            }
            Step::Exchange(Exchange { remark: Remark::Apart, .. }) => continue,
            Step::Exchange(exchange) => exchange,
        };
        let wait = match &exchange.reply {
            Some(_) if exchange.closes && !rewrite => Wait::End,
            Some(reply) if !rewrite => Wait::Replies(replies_count(reply)),
            Some(_) | None => Wait::Quiet,
        };
        // How much Redis says where it says something else is not written down.
        let other = if exchange.remark == Remark::Differs { Wait::Quiet } else { wait };
        let answers = [(&mut pair.stave, wait), (&mut pair.redis, other)]
            .map(|(peer, wait)| peer.ask(on, proto == 3, &exchange.request, wait));
        heard.entry(exchange.line).or_default().push(answers);
    }
    for peer in [&mut pair.stave, &mut pair.redis] {
        let left = peer.left_over();
        assert!(left.is_empty(), "nobody asked for {}: {block:?}", escape(&left));
    }
}

/// All numbers as `#`.
fn without_numbers(bytes: &[u8]) -> Vec<u8> {
    let digits = bytes.chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit());
    digits.flat_map(|run| if run[0].is_ascii_digit() { b"#" } else { run }).copied().collect()
}

/// What is wrong with the exchange, if anything is. `golden`: its reply stands for the whole
/// program's.
fn judge(exchange: &Exchange, heard: &[[Answer; 2]], golden: bool) -> Option<String> {
    let masked = |answer: &Answer| Answer { bytes: without_numbers(&answer.bytes), ..*answer };
    let show = |of: &str, answer: &Answer| {
        let end = if answer.closed { " and closes" } else { "" };
        format!("  {of}: {}{end}\n", escape(&answer.bytes))
    };
    let same = heard.iter().all(|[stave, redis]| match exchange.remark {
        Remark::Numbers => masked(stave) == masked(redis),
        Remark::Same | Remark::Differs => stave == redis,
        Remark::Apart => unreachable!("it is not played"),
    });
    let mut said = String::new();
    if same != (exchange.remark != Remark::Differs) {
        said.push_str(if same { "  the mark ~ is not needed\n" } else { "  they differ\n" });
    }
    if golden && let Some([stave, _]) = heard.first() {
        let reply = exchange.reply.clone().unwrap_or_default();
        let written = Answer { bytes: reply, closed: exchange.closes };
        let agrees = match exchange.remark {
            Remark::Numbers => masked(&written) == masked(stave),
            _ => written == *stave,
        };
        if !agrees {
            said.push_str(&show("written", &written));
        }
    }
    if said.is_empty() {
        return None;
    }
    for [stave, redis] in heard {
        said.push_str(&show("stave", stave));
        said.push_str(&show("redis", redis));
    }
    Some(said)
}

fn updates() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// The transcript with the replies that came, in its first version of the protocol.
fn rewritten(text: &str, heard: &Heard) -> String {
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if matches!(Line::parse(line), Line::Effects(_) | Line::Reply(_)) {
            continue;
        }
        writeln!(out, "{line}").expect("a String takes all");
        if let Some(heard) = heard.get(&number) {
            let [stave, _] = &heard[0];
            out.push_str(if stave.closed { "= Close\n" } else { "" });
            writeln!(out, "< {}", escape(&stave.bytes)).expect("a String takes all");
        }
    }
    out
}

fn transcripts() -> Vec<(PathBuf, bool)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [("src/command/testdata", false), ("tests/it/exchanges", true)];
    let mut files = Vec::new();
    for (folder, golden) in folders {
        let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
        files.extend(entries.map(|entry| (entry.expect("a readable entry").path(), golden)));
    }
    files.sort();
    files
}

#[test]
fn replies_are_those_of_redis() {
    compare(1);
}

#[test]
fn replies_of_one_of_three_nodes_are_those_of_redis() {
    compare(3);
}

/// A node of several has replicas, and a step of its SCAN ends where another's keys begin.
fn tells_of_nodes(request: &[u8]) -> bool {
    let request = request.to_ascii_uppercase();
    let has = |name: &str| request.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    ["\r\nSCAN\r\n", "\r\nROLE\r\n", "\r\nWAIT\r\n"].into_iter().any(has)
}

fn compare(nodes: usize) {
    if !has("redis-server") {
        return;
    }
    let mut pairs: BTreeMap<Place, Pair> = BTreeMap::new();
    let (mut wrong, mut exchanges, mut differences, mut sent) = (String::new(), 0, 0, 0);
    for (path, golden) in transcripts() {
        let text = fs::read_to_string(&path).expect("a readable file");
        let blocks = parse(&text);
        let mut heard = Heard::new();
        let rewrite = golden && updates();
        for block in &blocks {
            let pair = pairs
                .entry(block.place.clone())
                .or_insert_with_key(|place| Pair::start(nodes, place));
            block.protos.iter().for_each(|proto| play(pair, block, *proto, rewrite, &mut heard));
        }
        if rewrite {
            fs::write(&path, rewritten(&text, &heard)).expect("a writable file");
        }
        for step in blocks.iter().flat_map(|block| &block.steps) {
            let Step::Exchange(exchange) = step else { continue };
            let Some(heard) = heard.get(&exchange.line) else { continue };
            if nodes > 1 && tells_of_nodes(&exchange.request) {
                continue;
            }
            exchanges += 1;
            sent += heard.len();
            differences += usize::from(exchange.remark == Remark::Differs);
            if let Some(what) = judge(exchange, heard, golden && !rewrite) {
                let line = text.lines().nth(exchange.line).expect("it is from there");
                write!(wrong, "{}:{}: {line}\n{what}", path.display(), exchange.line + 1)
                    .expect("a String takes all");
            }
        }
    }
    println!("{exchanges} exchanges, {sent} sent, {differences} meant to differ");
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(exchanges >= 500, "only {exchanges} exchanges");
}
